"""An engine behind HTTP: an OpenAI-compatible server that takes token ids and gives token ids and log-probabilities back, as vLLM's does.

A turn is one request to /v1/completions with all of the trajectory's tokens as its prompt: what the server has in its prefix cache it does not compute again. Everything that a server adds of its own (a model's default
top-p, penalties, further end tokens) is switched off by name, and what comes back is checked: ids for what was sent and sampled, a log-probability of each, an end that is one of ours.

The policy's weights go to a server through a folder of safetensors that both see, which vLLM's own `reload_weights` reads; a server offers it where it was started with VLLM_SERVER_DEV_MODE=1.

Where it sits: opened by engine_open.py. Requests run in a thread of the engine's own, on an asyncio loop; all else is called from one other thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec
import numpy as np

from grpo_roc.engine_protocol import Lost, Turn, silent
from grpo_roc.engine_weights import written
from tenfold_shared import BadInput, Missing
from tenfold_shared.redaction import redact

if TYPE_CHECKING:
    from torch import Tensor

Found = TypeVar("Found")
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before further attempts, each by half to all
REFUSED = 3  # further attempts where nobody listens: what has begun again has none of its weights or cache
WATCH_S, WATCHES = 20.0, 3  # how often a server with turns under way is asked whether it is well, and how often in vain
ANY = 1 << 40  # blocks, where a server does not say
SEEDS = 2**53
TOP = 5  # alternatives of a token that any server gives


class _Scores(msgspec.Struct):
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _Scores | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class _Served(msgspec.Struct):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Served]


class _Result(msgspec.Struct):
    success: bool = True


class _Again(Exception):
    """Worth another attempt; the text says what happened."""


class Settings(msgspec.Struct, frozen=True):
    """ends: tokens that end a turn. capacity: tokens of a trajectory at most. places: trajectories at a time where the server does not tell its cache. share: one in so many of the server's blocks is ours. exact: whether
    log-probabilities must be those of the distribution that was drawn from. folder: where weights for servers are written, None where none will be. probe: tokens that are sent to see what comes back."""

    ends: frozenset[int]
    capacity: int
    probe: tuple[int, ...]
    temperature: float = 1.0
    places: int = 32
    share: int = 1
    exact: bool = True
    folder: str | None = None
    key: str = ""
    key_env: str = "OPENAI_API_KEY"


class ServerEngine:
    """url: a base address, ending in /v1; model: the name that it serves, "" where it serves one only. Raises Missing for a server that cannot be reached or asks for a key, BadInput for one that gives no ids or
    log-probabilities back, or those of another distribution, or whose context is shorter than a trajectory."""

    paged = True

    def __init__(self, url: str, model: str, how: Settings) -> None:
        self.url, self.model, self.how = url.rstrip("/"), model, how
        self.root = self.url.removesuffix("/v1")
        self.name = redact(self.url)
        self.lost = ""
        self.bell: Callable[[], object] = silent
        self.block, self.blocks, self.places = 16, ANY, how.places
        self.context: dict[str, list[int]] = {}
        self.running: dict[str, tuple[int, Future[None]]] = {}
        self.news: queue.SimpleQueue[tuple[int, str, Turn | Exception]] = queue.SimpleQueue()
        self.tickets = 0
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {how.key}"} if how.key else {}, limits=limits, timeout=httpx.Timeout(None, connect=10.0)
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpo-roc-server", daemon=True)
        self._thread.start()
        try:
            self._do(self._open())
            self._watch = self._submit(self._watched())
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ the protocol

    @property
    def idle(self) -> bool:
        return self.news.empty()

    def start(self, key: str, ids: Sequence[int], most: int, draw: np.random.Generator) -> None:
        if self.lost:
            raise Lost(self.lost)
        context = self.context.get(key, [])
        if len(context) + len(ids) + most > self.how.capacity:
            raise BadInput(f"{key}: {len(context) + len(ids)} tokens and {most} more are beyond {self.how.capacity}")
        self.context[key] = [*context, *ids]
        self.tickets += 1
        turn = self._turn(self.tickets, key, self.context[key], most, int(draw.integers(SEEDS)))
        self.running[key] = self.tickets, self._submit(turn)

    def poll(self) -> list[Turn]:
        found = []
        while not self.news.empty():
            ticket, key, news = self.news.get()
            if ticket and self.running.get(key, (0,))[0] != ticket:
                continue  # it was released meanwhile
            if isinstance(news, Lost):
                self._gone(str(news))
                raise news
            if isinstance(news, Exception):
                raise news
            del self.running[key]
            self.context[key] += news.ids
            found.append(news)
        return found

    def release(self, key: str) -> None:
        self.context.pop(key, None)
        under_way = self.running.pop(key, None)
        if under_way is not None:
            under_way[1].cancel()  # which closes its connection, whereupon the server stops too

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for _, why in load_servers([self], weights):
            raise Lost(why)

    def sleep(self) -> None:
        """A server's memory is its own."""

    def wake(self) -> None:
        """It never slept."""

    def close(self) -> None:
        if self._loop.is_closed():
            return
        for key in list(self.running):
            self.release(key)
        self._do(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------ weights

    def reload(self, folder: str) -> None:
        """Weights from a folder that the server sees too. One that was lost is tried again: what it had is replaced."""
        if self.lost:
            try:
                self._do(self._open())
            except Missing:
                raise Lost(self.lost) from None
        self._do(self._reloaded(folder))
        self._back()

    def follow(self, lost: str) -> None:
        """Lost or not as the process says that gives this server its weights: "" where it has them."""
        if lost:
            self._gone(self.lost or lost)
        elif self.lost:
            try:
                self._do(self._open())
            except Missing:
                return
            self._back()

    def _back(self) -> None:
        """It takes part, and is watched as before."""
        self.lost = ""
        if self._watch.done():
            self._watch = self._submit(self._watched())

    async def _reloaded(self, folder: str) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        try:
            await self._call("POST", f"{self.root}/collective_rpc", body, bytes)
            for attempt in range(len(DELAYS)):
                # refused while a turn that was cut off still holds some of it
                path = f"{self.root}/reset_prefix_cache"
                if (await self._call("POST", path, None, lambda raw: msgspec.json.decode(raw, type=_Result))).success:
                    return
                await asyncio.sleep(DELAYS[attempt])
        except Lost as why:
            self._gone(str(why))
            raise
        raise Missing(f"{self.name}: it keeps what older weights computed: /reset_prefix_cache has no success")

    # ------------------------------------------------------------ what the server is

    async def _open(self) -> None:
        how = self.how
        try:
            models = await self._call("GET", f"{self.url}/models", None, lambda raw: msgspec.json.decode(raw, type=_Models))  # fmt: skip
        except Lost as why:
            raise Missing(f"{self.name}: {why}; is the server running, and the address right?") from None
        names = [one.id for one in models.data]
        if not self.model and len(names) == 1:
            self.model = names[0]
        if self.model not in names:
            raise BadInput(f"{self.name}: add #NAME to say which model; it serves: {', '.join(names) or 'none'}")
        served = next(one for one in models.data if one.id == self.model)
        if served.max_model_len is not None and served.max_model_len < how.capacity - 1:
            raise BadInput(
                f"{self.name}: its context has {served.max_model_len} tokens (--max-model-len), a trajectory up to {how.capacity - 1}: lower --max-tokens or --max-prompt"
            )
        self._cache((await self._asked("GET", "/metrics")).text)
        await self._probed()
        # without a method it does nothing but say so, where it is there
        if how.folder is not None and (await self._asked("POST", "/collective_rpc")).status_code in (404, 405):
            raise BadInput(
                f"{self.name}: takes no weights, which training needs: start vLLM's server with VLLM_SERVER_DEV_MODE=1 in its environment, where only your own can reach it"
            )

    async def _asked(self, method: str, path: str) -> httpx.Response:
        """What a server says that has answered before. Raises Missing."""
        try:
            return await self._client.request(method, self.root + path, json={} if method == "POST" else None)
        except httpx.HTTPError as error:
            raise Missing(f"{self.name}: {path}: the connection broke ({type(error).__name__})") from None

    def _cache(self, metrics: str) -> None:
        """Blocks, from vLLM's metrics. A server that tells none takes as many trajectories as were asked for."""
        told = re.search(r"^vllm:cache_config_info\{(.*)\}", metrics, re.MULTILINE)
        sizes = dict(re.findall(r'(\w+)="(\d+)"', told[1])) if told else {}
        if "block_size" in sizes and int(sizes.get("num_gpu_blocks", "0")) > 0:
            self.block, self.blocks = int(sizes["block_size"]), int(sizes["num_gpu_blocks"]) // self.how.share
            self.places = max(self.blocks, 1)

    async def _probed(self) -> None:
        """Sends a few tokens, and looks at what comes back. Raises BadInput."""
        temperature = self.how.temperature
        warm = await self._sampled(self.how.probe, 1, 0, temperature, TOP)
        if not self.how.exact or temperature in (0.0, 1.0):
            return
        plain = await self._sampled(self.how.probe, 1, 0, 1.0, TOP)
        first, second = _alternatives(plain), _alternatives(warm)
        both = sorted(first.keys() & second.keys(), key=first.__getitem__)
        if len(both) < 2:
            raise BadInput(
                f"{self.name}: gives no alternatives of a token, by which it could be seen whether its log-probabilities heed the temperature: sample at 1"
            )
        apart = first[both[-1]] - first[both[0]]
        warmer = second[both[-1]] - second[both[0]]
        # apart / temperature where it is heeded, apart where it is not
        if abs(warmer - apart / temperature) > abs(warmer - apart):
            raise BadInput(
                f"{self.name}: its log-probabilities are not those of what it draws from at temperature {temperature:g}: start vLLM's server with --logprobs-mode processed_logprobs, or sample at 1"
            )

    # ------------------------------------------------------------ a turn

    async def _turn(self, ticket: int, key: str, context: Sequence[int], most: int, seed: int) -> None:
        news: Turn | Exception
        try:
            ids, logp, ended = _checked(
                await self._sampled(context, most, seed, self.how.temperature, 0), self.name, most, self.how.ends
            )
            news = Turn(key, ids, [0.0] * len(ids) if self.how.temperature == 0 else logp, ended)
        except (Lost, BadInput, Missing) as problem:
            news = problem
        self.news.put((ticket, key, news))
        self.bell()

    async def _sampled(self, context: Sequence[int], most: int, seed: int, temperature: float, top: int) -> _Choice:
        """What the server samples after these tokens. Raises BadInput where it gives back less than is needed."""
        body = {
            "model": self.model, "prompt": list(context), "max_tokens": most, "temperature": temperature, "seed": seed, "n": 1, "logprobs": top, "return_token_ids": True,
            "return_tokens_as_token_ids": True, "ignore_eos": True, "stop_token_ids": sorted(self.how.ends), "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0, "skip_special_tokens": False, "add_special_tokens": False,
        }  # fmt: skip

        def read(raw: bytes) -> _Choice:
            (choice,) = msgspec.json.decode(raw, type=_Answer).choices
            if choice.finish_reason not in ("stop", "length"):
                raise _Again(f"it ended a turn with `{choice.finish_reason}`")
            return choice

        found = await self._call("POST", f"{self.url}/completions", body, read)
        if found.token_ids is None or found.prompt_token_ids is None:
            raise BadInput(
                f"{self.name}: gives no token ids back (return_token_ids), without which what it sampled is not known; vLLM's server does"
            )
        if found.prompt_token_ids != body["prompt"]:
            raise BadInput(f"{self.name}: changes the tokens that it is sent (it adds some of its own?)")
        given = found.logprobs.token_logprobs if found.logprobs is not None else []
        if len(given) != len(found.token_ids) or any(one is None or not one <= 1e-3 for one in given):
            raise BadInput(f"{self.name}: gives no log-probability of each sampled token (logprobs)")
        return found

    # ------------------------------------------------------------ requests

    def _submit(self, work: Coroutine[Any, Any, Found]) -> Future[Found]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _do(self, work: Coroutine[Any, Any, Found]) -> Found:
        return self._submit(work).result()

    async def _call(self, method: str, url: str, body: Any, read: Callable[[bytes], Found]) -> Found:
        """One request with its further attempts. Raises Lost where none succeeds, BadInput and Missing where none could."""
        problem, refused = "", 0
        for attempt in range(len(DELAYS) + 1):
            wait = 0.0
            try:
                answer = await self._client.request(method, url, json=body)
                if answer.status_code == 200:
                    return read(answer.content)
                problem = self._refusal(answer)
                with contextlib.suppress(ValueError):
                    wait = min(float(answer.headers.get("retry-after", "0")), DELAYS[-1])
            except httpx.ConnectError:
                refused += 1
                problem = "cannot be reached"
                if refused > REFUSED:
                    break
            except httpx.HTTPError as error:
                problem = f"the connection broke ({type(error).__name__})"
            except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
                problem = f"answers otherwise than such a server does ({_short(error)})"
            except _Again as said:
                problem = str(said)
            if attempt < len(DELAYS):
                jitter = 0.5 + random.random() / 2
                await asyncio.sleep(max(wait, DELAYS[attempt] * jitter))
        raise Lost(f"{problem} after {refused or len(DELAYS) + 1} attempts")

    def _refusal(self, answer: httpx.Response) -> str:
        """What an answer other than 200 says, where another attempt may help. Raises BadInput or Missing where not."""
        text = _short(answer.text.replace(self.how.key, "[key]") if self.how.key else answer.text)
        told = f"HTTP {answer.status_code}: {text}"
        if answer.status_code in (401, 403):
            raise Missing(f"{self.name}: refuses the key in {self.how.key_env}, or asks for one ({told})")
        if answer.status_code == 404:
            raise Missing(f"{self.name}: {told}; expected a base address, ending in /v1, and a model that it serves")
        if answer.status_code < 500 and answer.status_code not in (408, 409, 425, 429):
            raise BadInput(f"{self.name}: {told}")
        return told

    async def _watched(self) -> None:
        """Asks a server with turns under way whether it is well: one that hangs would never end them."""
        ill = 0
        while not self.lost:
            await asyncio.sleep(WATCH_S)
            if not self.running:
                continue
            try:
                answer = await self._client.get(f"{self.root}/health", timeout=WATCH_S)
                ill = ill + 1 if answer.status_code >= 500 else 0
            except httpx.HTTPError:
                ill += 1
            if ill >= WATCHES:
                self.news.put((0, "", Lost(f"does not answer /health, {ill} times in a row")))
                self.bell()
                return

    def _gone(self, why: str) -> None:
        self.lost = why
        for key in list(self.running):
            self.release(key)
        self.context.clear()

    async def _ended(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()


def _short(said: object) -> str:
    return " ".join(str(said).split())[:300]


def _alternatives(found: _Choice) -> dict[str, float]:
    """Log-probabilities of what else the first token could have been."""
    tops = found.logprobs.top_logprobs if found.logprobs is not None else None
    return (tops[0] or {}) if tops else {}


def _checked(found: _Choice, name: str, most: int, ends: frozenset[int]) -> tuple[list[int], list[float], bool]:
    """(ids, log-probabilities, whether the turn ended by itself). Raises BadInput where it ended for a reason of the server's own."""
    assert found.token_ids is not None and found.logprobs is not None
    ids, logp = found.token_ids, [float(one or 0.0) for one in found.logprobs.token_logprobs]
    ended = bool(ids) and ids[-1] in ends
    if not ended and len(ids) < most:
        why = "at its own limit" if found.finish_reason == "length" else "at a token that ends no turn here"
        raise BadInput(f"{name}: stopped after {len(ids)} of {most} tokens {why}: is it the same model and tokenizer?")
    return ids, logp, ended


# ---------------------------------------------------------------- weights for several servers


def load_servers(servers: Sequence[ServerEngine], weights: Iterable[tuple[str, Tensor]]) -> list[tuple[ServerEngine, str]]:  # fmt: skip
    """Written once, read by all at the same time. Returns those that were lost by it, and why."""
    folder = servers[0].how.folder
    if folder is None:
        raise BadInput(f"{servers[0].name}: was opened without a folder for weights")
    lost: list[tuple[ServerEngine, str]] = []
    with written(weights, folder) as path, ThreadPoolExecutor(len(servers)) as threads:
        for server, done in [(server, threads.submit(server.reload, path)) for server in servers]:
            try:
                done.result()
            except Lost as why:
                lost.append((server, str(why)))
    return lost
