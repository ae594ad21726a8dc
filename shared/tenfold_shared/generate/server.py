"""Servers with the HTTP interface of OpenAI: many requests in flight, retries with back-off, the least loaded first."""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tenfold_shared import BadInput, Missing
from tenfold_shared.generate import NO_MORE, Completion, Request, Sampling, failed
from tenfold_shared.redaction import one_line, redact

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

RETRIED = {408, 409, 425, 429}  # and every 5xx
FIRST_DELAY_S, LONGEST_DELAY_S, LONGEST_RETRY_AFTER_S = 0.5, 30.0, 120.0
CONNECT_S = 10.0
ASIDE_S = 30.0  # an endpoint that cannot be reached is passed over so long, where there are others
FINISH = {"stop": "stop", "length": "length", "tool_calls": "stop", "function_call": "stop", "eos": "stop"}

Answer = TypeVar("Answer")


class _GaveUp(Exception):
    """A request failed for good; its text is the completion's error."""


class _Endpoint:
    def __init__(self, url: str) -> None:
        self.url, self.in_flight, self.aside_until = url, 0, 0.0


class _Courier:
    """An HTTP client on an asyncio loop in a thread; leaving it cancels whatever is still under way there.

    connections: how many there will be at once. The library's pool looks at each of its connections for every request,
    so that a few hundred in one pool would cost more than the requests: each client here keeps to a few.
    """

    EACH = 8

    def __init__(self, headers: dict[str, str], connections: int = 1) -> None:
        self._headers, self._count = headers, -(-connections // self.EACH)

    def __enter__(self) -> Self:
        import httpx

        trusted = httpx.create_ssl_context()
        # One time limit a request, set where it is sent; here only for making connections.
        self._clients = [
            httpx.AsyncClient(
                headers=self._headers,
                verify=trusted,
                timeout=httpx.Timeout(None, connect=CONNECT_S),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            )
            for _ in range(self._count)
        ]
        self._turns = itertools.cycle(self._clients)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tenfold-http", daemon=True)
        self._thread.start()
        return self

    @property
    def client(self) -> httpx.AsyncClient:
        """The next one in turn."""
        return next(self._turns)

    def submit(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def __exit__(self, *exc: object) -> None:
        self.submit(self._finish()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients:
            await client.aclose()


class ServerGenerator:
    """One or more servers of the same model behind OpenAI's HTTP interface, `concurrency` requests in flight.

    urls: base addresses, such as http://host:8000/v1; the one with the fewest requests under way is
    asked next. model: the served name; None asks the servers, which must serve exactly one.
    timeout: seconds one attempt may take. max_retries: further attempts after 429, 5xx, time-outs,
    broken connections and torn or invalid bodies, with exponential back-off and jitter from `seed`.
    key: sent as bearer token and never shown; key_env: the variable named to the user instead.
    Raises Missing for servers never reached, a refused key, or an address that is no such interface.
    """

    batch_size: int | None = None
    context: int | None = None

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None,
        *,
        concurrency: int = 8,
        timeout: float = 600.0,
        max_retries: int = 6,
        key: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        seed: int = 0,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._endpoints = [_Endpoint(url.rstrip("/")) for url in urls]
        self._concurrency, self._timeout, self._max_retries = concurrency, timeout, max_retries
        self._key, self._key_env, self._seed, self._sleep = (key or "").strip(), key_env, seed, sleep
        if not (self._key.isascii() and self._key.isprintable()):
            # The HTTP library would quote it in its refusal.
            raise BadInput(f"{key_env}: holds a character that no key has, such as a line break")
        self._answered = False
        self.model = model if model is not None else self._only_model()

    def count_tokens(self, request: Request) -> int | None:
        return None

    def close(self) -> None:
        """Nothing is held between two calls of generate."""

    def _courier(self, connections: int = 1) -> _Courier:
        return _Courier({"Authorization": f"Bearer {self._key}"} if self._key else {}, connections)

    def _only_model(self) -> str:
        served: dict[str, str] = {}
        with self._courier() as courier:
            for endpoint in self._endpoints:
                names = courier.submit(
                    self._call(
                        courier.client,
                        [endpoint],
                        "/models",
                        None,
                        "models",
                        lambda data: [_string(m["id"]) for m in data["data"]],
                    )
                )
                try:
                    found = names.result()
                except _GaveUp as error:
                    raise Missing(f"{redact(endpoint.url)}: {error}") from None
                if len(found) != 1:
                    listed = one_line(", ".join(found)) or "none"
                    raise BadInput(f"{redact(endpoint.url)}: add #NAME to say which model; it serves: {listed}")
                served[found[0]] = endpoint.url
        if len(served) > 1:
            raise BadInput(f"--model: the servers serve different models: {one_line(', '.join(served))}")
        return next(iter(served))

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        source, more = iter(requests), True
        finished: queue.SimpleQueue[Future[Completion]] = queue.SimpleQueue()
        in_flight = 0
        with self._courier(self._concurrency) as courier:
            while True:
                while more and in_flight < self._concurrency:
                    request = next(source, NO_MORE)
                    if not isinstance(request, Request):
                        more = request is None
                        break
                    courier.submit(self._answer(courier.client, request, sampling)).add_done_callback(finished.put)
                    in_flight += 1
                    # A slow source must not hold back what is finished.
                    while not finished.empty():
                        in_flight -= 1
                        yield finished.get().result()
                if in_flight == 0:
                    return
                in_flight -= 1
                yield finished.get().result()

    async def _answer(self, client: httpx.AsyncClient, request: Request, sampling: Sampling) -> Completion:
        body: dict[str, Any] = {
            "model": self.model,
            "n": 1,
            "seed": request.seed % 2**63,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.top_k > 0:
            body["top_k"] = sampling.top_k  # not OpenAI's own; vLLM, SGLang and llama.cpp read it
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        chat = request.messages is not None
        if chat:
            body["messages"] = request.messages
        else:
            body["prompt"] = request.prompt if request.prompt is not None else request.prompt_ids
        if sampling.logprobs:
            body["logprobs"] = True if chat else 1
        path = "/chat/completions" if chat else "/completions"
        token = f"{request.key}\0{request.seed}"
        try:
            return await self._call(
                client, self._endpoints, path, body, token, lambda data: self._completion(request.key, data)
            )
        except _GaveUp as error:
            return failed(request.key, self.model, str(error))

    def _completion(self, key: str, data: Any) -> Completion:
        """The completion in a server's reply. Raises KeyError, IndexError or TypeError where there is none."""
        choice, usage = data["choices"][0], data.get("usage") or {}
        message = choice.get("message") or {}
        text = _string((message.get("content") if "message" in choice else choice["text"]) or "")
        counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        reason = FINISH.get(choice.get("finish_reason"))
        if reason is None:
            why = f"the server ended the reply with finish_reason `{self._clean(choice.get('finish_reason'), 60)}`"
            return Completion(key, text, "error", *counts, self.model, error=why)
        done = Completion(key, text, reason, *counts, self.model)
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        done.reasoning = _string(reasoning) if reasoning else None
        if scores := choice.get("logprobs"):
            listed = [token["logprob"] for token in scores["content"] or ()] if message else scores["token_logprobs"]
            done.logprobs = [float(value) for value in listed]
        return done

    def _pick(self, endpoints: list[_Endpoint]) -> _Endpoint:
        now = time.monotonic()
        reachable = [endpoint for endpoint in endpoints if endpoint.aside_until <= now]
        return min(reachable or endpoints, key=lambda endpoint: endpoint.in_flight)

    def _clean(self, text: object, limit: int = 300) -> str:
        """TEXT for people; the key is taken out before anything is cut, so that no part of it stays."""
        shown = _string(str(text))
        return one_line(shown.replace(self._key, "[key]") if self._key else shown, limit)

    async def _call(
        self,
        client: httpx.AsyncClient,
        endpoints: list[_Endpoint],
        path: str,
        body: dict[str, Any] | None,
        token: str,
        read: Callable[[Any], Answer],
    ) -> Answer:
        """One request with its retries. Raises _GaveUp, or Missing for what no other request could do either."""
        import httpx

        problem, reached = "", True
        for attempt in range(self._max_retries + 1):
            endpoint = self._pick(endpoints)
            asked_to_wait = 0.0
            endpoint.in_flight += 1
            try:
                async with asyncio.timeout(self._timeout):
                    response = await client.request("GET" if body is None else "POST", endpoint.url + path, json=body)
            except TimeoutError:
                problem, reached = f"no reply within {self._timeout:g} s", True
            except (httpx.ConnectError, httpx.ConnectTimeout):
                problem, reached = "cannot be reached", False
                endpoint.aside_until = time.monotonic() + ASIDE_S
            except httpx.RequestError as error:
                problem, reached = f"the connection broke: {self._clean(error) or type(error).__name__}", True
            else:
                self._answered, reached = True, True
                if response.status_code == 200:
                    try:
                        return read(response.json())
                    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
                        problem = f"the reply is not the JSON expected: {self._clean(response.text, 200)}"
                else:
                    problem = self._refusal(endpoint, path, response)
                    asked_to_wait = _retry_after(response.headers.get("retry-after", ""))
            finally:
                endpoint.in_flight -= 1
            if attempt < self._max_retries:
                jitter = random.Random(f"{self._seed}\0{token}\0{attempt}").random()
                delay = min(FIRST_DELAY_S * 2**attempt, LONGEST_DELAY_S) * (0.5 + jitter / 2)
                logger.info("%s%s: %s; attempt %d follows", redact(endpoint.url), path, problem, attempt + 2)
                await self._sleep(max(delay, asked_to_wait))
        if not reached and not self._answered:
            tried = ", ".join(redact(endpoint.url) for endpoint in endpoints)
            raise Missing(f"{tried}: cannot be reached; is the server running, and the address right?")
        raise _GaveUp(f"{problem} (after {self._max_retries + 1} attempts)")

    def _refusal(self, endpoint: _Endpoint, path: str, response: httpx.Response) -> str:
        """What a reply other than 200 says, where trying again may help. Raises _GaveUp or Missing where not."""
        status = response.status_code
        try:
            said = response.json()
            said = said.get("error", said) if isinstance(said, dict) else said
            said = said.get("message", said) if isinstance(said, dict) else said
        except (ValueError, RecursionError):
            said = response.text
        problem = f"HTTP {status}: {self._clean(said)}"
        where = redact(endpoint.url)
        if status in (401, 403):
            what = "refuses the key in" if self._key else "asks for a key; set"
            raise Missing(f"{where}: {what} {self._key_env} (HTTP {status})")
        if status == 404:
            raise Missing(
                f"{where}{path}: {problem}; expected a server's base address, usually ending in /v1, and a model it serves"
            )
        if status not in RETRIED and status < 500:
            raise _GaveUp(problem)
        return problem


def _string(value: Any) -> str:
    """VALUE, which must be text; a lone half of a surrogate pair, which no UTF-8 file can hold, becomes U+FFFD."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _retry_after(header: str) -> float:
    """Seconds the server asks to wait, capped; 0 for none or a date."""
    try:
        return min(max(float(header), 0.0), LONGEST_RETRY_AFTER_S)
    except ValueError:
        return 0.0
