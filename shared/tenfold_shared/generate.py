"""Text from a model behind one protocol: transformers, vLLM, OpenAI-compatible servers, recordings.

Sits between the verbs of the tools, which know only `Request`, `Sampling` and `Completion`, and
`models.open_generator`, which picks one of the backends below by URI. It loads no weights itself.

Every `generate` is lazy: it pulls requests as it has room and yields completions as they finish.
Closing the iterator cancels what is in flight; `generate` may be called again afterwards. Keys of
the requests in flight must differ. Where a request hangs on an earlier completion, its source yields
None for "nothing ready before another completion": the backend then goes on with what it has.
"""

from __future__ import annotations

import asyncio
import difflib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import queue
import random
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import msgspec

from tenfold_shared import BadInput, Busy, Missing
from tenfold_shared.jsonl import redact

if TYPE_CHECKING:
    import httpx
    import torch

logger = logging.getLogger(__name__)


class Request(msgspec.Struct):
    """One completion to make, from exactly one of three prompts.

    messages: chat list, sent through the model's chat template. prompt: text sent as it is (with the
    special tokens the tokenizer adds). prompt_ids: token ids sent as they are.
    seed: this request's own random stream, whatever batch or order it runs in.
    """

    key: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.messages is not None) + (self.prompt is not None) + (self.prompt_ids is not None) != 1:
            raise ValueError(f"{self.key}: expected exactly one of messages, prompt and prompt_ids")


_NO_MORE = object()  # what a source gives when it is over; None is "not yet"


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are drawn. temperature 0 is greedy; top_p 1 and top_k 0 are off; top_k cuts first.

    logprobs: also give the drawn tokens' ids and their natural-log probabilities under the model's
    own distribution (temperature 1, nothing cut away).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: bool = False

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise BadInput("--stop: an empty text would end every completion before it begins")


class Completion(msgspec.Struct):
    """What came back for the request `key`. finish_reason: stop, length or error (then `error` says why).

    text ends before the first stop string. completion_tokens counts the end-of-text token too.
    reasoning: only where a server separates it. token_ids, logprobs: only with Sampling.logprobs.
    """

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str
    reasoning: str | None = None
    error: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None


class Generator(Protocol):
    """A backend. batch_size: static batches of so many consecutive requests, or None where order does not matter."""

    model: str
    batch_size: int | None
    context: int | None  # longest prompt and completion together, where it is known here

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]: ...

    def count_tokens(self, request: Request) -> int | None:
        """Prompt tokens the request would use; None where only the server knows."""

    def close(self) -> None: ...


def one_line(text: object, limit: int = 300) -> str:
    """TEXT on one line of at most LIMIT characters, without credentials in URLs."""
    flat = " ".join(redact(str(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def _failed(key: str, model: str, why: str) -> Completion:
    return Completion(key, "", "error", 0, 0, model, error=why)


# ---------------------------------------------------------------- prompts to tokens


class _Refused(Exception):
    """This request cannot be done; the others can."""


def _encode(tokenizer: Any, request: Request, model: str) -> list[int]:
    """Token ids of the prompt. Raises _Refused, or BadInput where the model takes no messages at all."""
    if request.prompt_ids is not None:
        return list(request.prompt_ids)
    if request.prompt is not None:
        try:
            return list(tokenizer(request.prompt)["input_ids"])
        except (TypeError, ValueError) as error:  # half a surrogate pair
            raise _Refused(f"the model's tokenizer refuses the prompt: {one_line(error)}") from None
    if not tokenizer.chat_template:
        raise BadInput(f"{model}: has no chat template; give records with `prompt` instead of `messages`")
    try:
        return list(tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False))
    except Exception as error:  # a template is the model's own code, run on what the record holds
        raise _Refused(f"the model's chat template refuses the messages: {one_line(error)}") from None


def _admit(
    tokenizer: Any, request: Request, sampling: Sampling, model: str, vocab: int, context: int | None
) -> list[int]:
    """Token ids of a prompt the model can take, all of max_tokens included. Raises _Refused."""
    ids = _encode(tokenizer, request, model)
    if not ids:
        raise _Refused("the prompt is empty")
    if not 0 <= min(ids) <= max(ids) < vocab:
        raise _Refused(f"prompt_ids: expected ids from 0 to {vocab - 1}")
    if context is not None and len(ids) + sampling.max_tokens > context:
        raise _Refused(
            f"the prompt's {len(ids)} tokens and max_tokens {sampling.max_tokens} exceed the model's context of {context}"
        )
    return ids


def _cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """TEXT before the first stop string, and whether there was one."""
    found = [at for at in (text.find(word) for word in stop) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


# ---------------------------------------------------------------- transformers

CANDIDATES = 256  # a nucleus almost always lies within so many tokens; where it does not, the row is sorted whole


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row by inverting the cumulative distribution; exact, no approximation.

    logits: (batch, vocab) float32. uniform: (batch,) float64 in [0, 1). temperature > 0.
    Returns the ids (batch,) and log sum exp(logits / temperature) (batch,), not finite where a row has
    no distribution.
    Order of the filters: temperature, top_k, then the smallest set that holds top_p of what is left.
    """
    import torch

    scaled = logits / temperature
    total = scaled.logsumexp(-1, keepdim=True)
    vocab = scaled.shape[1]
    if top_p >= 1 and not 0 < top_k < vocab:
        mass = (scaled - total).double().exp_().cumsum(-1)
        index = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)
        return index[:, 0].clamp_(max=vocab - 1), total[:, 0]
    kept = min(top_k or vocab, vocab)

    def pick(values: torch.Tensor, ids: torch.Tensor, rows: Any, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from the likeliest tokens, in descending order; also which rows they do not suffice for."""
        mass = (values - total[rows]).double().exp_().cumsum(-1)
        reach = mass[:, -1] * top_p if whole else torch.full_like(mass[:, -1], top_p)
        last = (mass < reach[:, None]).sum(-1, keepdim=True).clamp_(max=mass.shape[1] - 1)
        index = (mass <= uniform[rows, None] * mass.gather(1, last)).sum(-1, keepdim=True)
        return ids.gather(1, torch.minimum(index, last))[:, 0], mass[:, -1] < reach

    if kept <= CANDIDATES:
        chosen, _ = pick(*scaled.topk(kept), slice(None), True)
        return chosen, total[:, 0]
    if kept == vocab:
        chosen, short = pick(*scaled.topk(CANDIDATES), slice(None), False)
    else:
        chosen, short = torch.zeros_like(total[:, 0], dtype=torch.long), torch.ones_like(total[:, 0], dtype=torch.bool)
    if short.any():
        values, ids = scaled[short].sort(-1, descending=True)
        chosen[short], _ = pick(values[:, :kept], ids[:, :kept], short, True)
    return chosen, total[:, 0]


class _Sampler:
    """Logits processor that draws the token itself and leaves it the only finite score.

    Faster than transformers' own top_p, which sorts the vocabulary at every step, and each row draws
    from its own stream: one uniform a token.
    """

    BLOCK = 64

    def __init__(self, sampling: Sampling, seeds: list[int], device: Any) -> None:
        import numpy as np
        import torch

        self.sampling, self.device, self.step = sampling, device, 0
        self.streams = [np.random.Generator(np.random.PCG64(seed % 2**64)) for seed in seeds]
        self.uniform = torch.empty(0)
        self.logprobs: list[torch.Tensor] = []  # (rows,) a step since the last `take`
        self.broken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import numpy as np
        import torch

        how = self.sampling
        if how.temperature < 1e-5:
            top, chosen = scores.max(-1)
        else:
            if self.step % self.BLOCK == 0:
                block = np.stack([stream.random(self.BLOCK) for stream in self.streams])
                self.uniform = torch.from_numpy(block).to(self.device)
            chosen, top = draw(scores, self.uniform[:, self.step % self.BLOCK], how.temperature, how.top_p, how.top_k)
        self.step += 1
        self.broken.append(~top.isfinite())
        if how.logprobs:
            self.logprobs.append(scores.gather(1, chosen[:, None])[:, 0] - scores.logsumexp(-1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def take(self) -> tuple[list[list[bool]], list[list[float]]]:
        """A list a row of what the steps since the last call saw: scores that are no numbers, log-probabilities."""
        import torch

        broken = torch.stack(self.broken, 1).tolist()
        logprobs = torch.stack(self.logprobs, 1).tolist() if self.logprobs else [[] for _ in broken]
        self.broken, self.logprobs = [], []
        return broken, logprobs

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        self.streams = [self.streams[row] for row in rows]
        if self.uniform.numel():
            self.uniform = self.uniform[rows]


def _text_of(tokenizer: Any, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory; on a CPU it has no exception of its own for that."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


class _StopTexts:
    """Stopping criterion: a row is done once its text holds a stop string; `done_at` counts its tokens."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int, rows: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        self.done_at: list[int | None] = [None] * rows
        # A character is at most four tokens (bytes), and a token adds at least one; some slack for
        # tokens that print nothing.
        self.window = 4 * max((len(word) for word in stop), default=0) + 8

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        import torch

        length = input_ids.shape[1] - self.start
        tails = input_ids[:, max(self.start, input_ids.shape[1] - self.window) :].tolist()
        for row, tail in enumerate(tails):
            if self.done_at[row] is None:
                text = _text_of(self.tokenizer, tail)
                if any(word in text for word in self.stop):
                    self.done_at[row] = length
        return torch.tensor([at is not None for at in self.done_at], device=input_ids.device)


class _Row:
    """A request of the batch under way, and what has been drawn for it."""

    def __init__(self, request: Request, prompt: list[int]) -> None:
        self.request, self.prompt = request, prompt
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.broken = self.ended = self.done = False

    def grow(
        self, tokens: list[int], broken: list[bool], logprobs: list[float], stopped_at: int | None, ends: set[int]
    ) -> None:
        """Add the tokens of one round up to the row's end; what the batch drew for it after that is dropped.

        stopped_at: the row's count of tokens, earlier rounds included, at which a stop string was whole.
        """
        size = len(tokens) if stopped_at is None else stopped_at - len(self.tokens)
        end = next((at for at, token in enumerate(tokens[:size]) if token in ends), None)
        size = size if end is None else end + 1
        self.tokens += tokens[:size]
        self.logprobs += logprobs[:size]
        self.broken = any(broken[:size])
        self.ended = end is not None
        self.done = self.broken or self.ended or stopped_at is not None


class TransformersGenerator:
    """A causal language model in this process, in static batches of exactly `batch_size` requests.

    The same requests in the same batches give the same bytes. Equal prompts of a batch are read once.
    """

    ROUND = 32

    def __init__(self, lm: Any, tokenizer: Any, model: str, batch_size: int) -> None:
        from transformers import GenerationConfig

        self._lm, self._tokenizer, self.model = lm, tokenizer, model
        self.batch_size: int | None = batch_size
        text = lm.config.get_text_config()
        self._vocab: int = lm.get_input_embeddings().num_embeddings
        self.context: int | None = getattr(text, "max_position_embeddings", None)
        named = lm.generation_config.eos_token_id if lm.generation_config is not None else None
        ends = named if isinstance(named, list) else [named]
        self._ends = {int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None}
        pad = tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else min(self._ends, default=0)
        # What the checkpoint suggests (penalties, temperatures) would otherwise mix with Sampling.
        own = GenerationConfig(eos_token_id=sorted(self._ends) or None, pad_token_id=self._pad)
        for part in {id(m): m for m in (lm, getattr(lm, "get_base_model", lambda: lm)())}.values():
            part.generation_config = own

    def count_tokens(self, request: Request) -> int | None:
        try:
            return len(_encode(self._tokenizer, request, self.model))
        except _Refused:
            return 0

    def close(self) -> None:
        self._lm = None

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        source, more = iter(requests), True
        while more:
            batch: list[Request] = []
            while len(batch) < (self.batch_size or 1):
                request = next(source, _NO_MORE)
                if not isinstance(request, Request):
                    more = request is None
                    break
                batch.append(request)
            rows, done = [], []
            for request in batch:
                try:
                    ids = _admit(self._tokenizer, request, sampling, self.model, self._vocab, self.context)
                    rows.append((request, ids))
                except _Refused as error:
                    done.append(_failed(request.key, self.model, str(error)))
            if rows:
                done += self.decode(rows, sampling)
            yield from done

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, longest) ids, padded on the left, and the mask of what is real."""
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(p)) + list(p) for p in prompts], device=self._lm.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._lm.device)
        return ids, mask

    def new_cache(self) -> Any:
        """An empty key-value cache; None where the model wants one of its own kind. For subclasses with another."""
        from transformers import DynamicCache

        return DynamicCache(config=self._lm.config) if self._lm._supports_default_dynamic_cache() else None

    def _cache(self, prompts: list[tuple[int, ...]]) -> Any:
        """A key-value cache for these rows. Where prompts repeat, each distinct one is read here, all but the
        last column; otherwise the cache is empty. None where the model wants a cache of its own kind."""
        import torch
        from transformers import GenerationConfig

        cache = self.new_cache()
        if cache is None:
            return None
        distinct = list(dict.fromkeys(prompts))
        ids, mask = self._padded(distinct)
        if len(distinct) == len(prompts) or ids.shape[1] == 1:
            return cache
        once = GenerationConfig(max_new_tokens=1, do_sample=False)
        self._lm.generate(
            input_ids=ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, generation_config=once
        )
        where = {prompt: row for row, prompt in enumerate(distinct)}
        rows: Any = torch.tensor([where[prompt] for prompt in prompts], device=ids.device)
        cache.reorder_cache(rows)
        return cache

    def decode(self, rows: list[tuple[Request, list[int]]], sampling: Sampling) -> list[Completion]:
        """One static batch of requests with their prompts' ids, in their order. Every ROUND tokens the rows that are done leave it: the rest runs faster."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        drawn = [_Row(request, prompt) for request, prompt in rows]
        ids, mask = self._padded([row.prompt for row in drawn])
        width = ids.shape[1]
        sampler = _Sampler(sampling, [row.request.seed for row in drawn], ids.device)
        running = drawn
        try:
            with torch.inference_mode():
                cache = self._cache([tuple(row.prompt) for row in drawn])
                while running:
                    start, left = ids.shape[1], sampling.max_tokens - (ids.shape[1] - width)
                    stops = _StopTexts(self._tokenizer, sampling.stop, width, len(running))
                    out = self._lm.generate(
                        input_ids=ids,
                        attention_mask=mask,
                        generation_config=GenerationConfig(
                            max_new_tokens=left if cache is None else min(left, self.ROUND), do_sample=False
                        ),
                        logits_processor=LogitsProcessorList([sampler]),
                        stopping_criteria=StoppingCriteriaList([stops] if sampling.stop else []),
                        **({} if cache is None else {"past_key_values": cache}),
                    )
                    fresh, (broken, logprobs) = out[:, start:].tolist(), sampler.take()
                    for at, row in enumerate(running):
                        row.grow(fresh[at], broken[at], logprobs[at], stops.done_at[at], self._ends)
                    going = [at for at, row in enumerate(running) if not row.done]
                    if not going or out.shape[1] - width >= sampling.max_tokens:
                        break
                    ids, mask = out, torch.cat([mask, mask.new_ones(len(running), out.shape[1] - start)], 1)
                    if len(going) < len(running):
                        kept: Any = torch.tensor(going, device=ids.device)
                        ids, mask = ids[kept], mask[kept]
                        cache.batch_select_indices(kept)
                        sampler.keep(going)
                        running = [running[at] for at in going]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise Missing(
                f"{self.model}: out of memory with a batch of {len(rows)}; use a smaller --batch-size"
            ) from None
        return [self._completion(row, sampling) for row in drawn]

    def _completion(self, row: _Row, sampling: Sampling) -> Completion:
        if row.broken:
            return _failed(row.request.key, self.model, "the model's scores are not numbers; try --dtype float32")
        text, stopped = _cut(_text_of(self._tokenizer, row.tokens), sampling.stop)
        reason = "stop" if stopped or row.ended else "length"
        done = Completion(row.request.key, text, reason, len(row.prompt), len(row.tokens), self.model)
        if sampling.logprobs:
            done.token_ids, done.logprobs = row.tokens, row.logprobs
        return done


# ---------------------------------------------------------------- vLLM's offline engine


class VllmGenerator:
    """vLLM's engine in this process, fed request by request, so that completions come as they finish.

    seeds: whether requests keep their own seeds (see models.py for where vLLM cannot).
    lora: the adapter every request uses, or None. tokenizer: for prompts, where the adapter has its own.
    """

    batch_size: int | None = None
    context: int | None = None
    PULL_AT_ONCE = 16  # pulled between two steps, so that a slow source does not hold finished text back

    def __init__(self, engine: Any, model: str, *, seeds: bool, lora: Any = None, tokenizer: Any = None) -> None:
        self._engine, self.model, self._seeds, self._lora = engine, model, seeds, lora
        self._tokenizer = tokenizer if tokenizer is not None else engine.get_tokenizer()
        self.context = engine.vllm_config.model_config.max_model_len
        self._vocab: int = engine.vllm_config.model_config.get_vocab_size()
        self._room: int = 2 * engine.vllm_config.scheduler_config.max_num_seqs
        self._serial = itertools.count()
        self._lost = False

    def count_tokens(self, request: Request) -> int | None:
        try:
            return len(_encode(self._tokenizer, request, self.model))
        except _Refused:
            return 0

    def close(self) -> None:
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine = None

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        from vllm import SamplingParams

        source, more = iter(requests), True
        under_way: dict[str, str] = {}  # the engine's id of a request: our key
        try:
            while more or under_way:
                for _ in range(min(self.PULL_AT_ONCE, self._room - len(under_way)) if more else 0):
                    request = next(source, _NO_MORE)
                    if not isinstance(request, Request):
                        more = request is None
                        break
                    params = SamplingParams(
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        top_k=sampling.top_k,
                        max_tokens=sampling.max_tokens,
                        stop=list(sampling.stop),
                        seed=request.seed % 2**63 if self._seeds else None,
                        logprobs=0 if sampling.logprobs else None,
                    )
                    name = str(next(self._serial))
                    try:
                        ids = _admit(self._tokenizer, request, sampling, self.model, self._vocab, self.context)
                        self._engine.add_request(name, {"prompt_token_ids": ids}, params, lora_request=self._lora)
                    except (_Refused, ValueError) as error:
                        yield _failed(request.key, self.model, one_line(error))
                    else:
                        under_way[name] = request.key
                if under_way:
                    for output in self._step():
                        if output.finished and output.request_id in under_way:
                            yield self._completion(under_way.pop(output.request_id), output)
        finally:
            if under_way and self._engine is not None and not self._lost:
                self._engine.abort_request(list(under_way))

    def _step(self) -> Any:
        try:
            return self._engine.step()
        except Exception as error:
            self._lost = True  # it may have closed its sockets: nothing more is asked of it but to shut down
            raise Missing(f"{self.model}: vLLM's engine failed: {one_line(error)}") from error

    def _completion(self, key: str, output: Any) -> Completion:
        best = output.outputs[0]
        prompt, tokens = len(output.prompt_token_ids), list(best.token_ids)
        if best.finish_reason not in ("stop", "length"):
            return _failed(key, self.model, f"vLLM ended the request with `{best.finish_reason}`")
        done = Completion(key, best.text, best.finish_reason, prompt, len(tokens), self.model)
        if best.logprobs is not None:
            done.token_ids = tokens
            done.logprobs = [step[token].logprob for token, step in zip(tokens, best.logprobs, strict=True)]
        return done


# ---------------------------------------------------------------- OpenAI-compatible servers

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
                    request = next(source, _NO_MORE)
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
            return _failed(request.key, self.model, str(error))

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
                    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
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


# ---------------------------------------------------------------- record and replay


class _Recorded(msgspec.Struct):
    """One line of a recording."""

    key_hash: str
    request: dict[str, Any]
    completion: Completion


def _asked(request: Request, sampling: Sampling) -> dict[str, Any]:
    """What decides a completion, the model aside: prompt, seed and sampling."""
    fields = msgspec.to_builtins(request)
    prompt = {name: fields[name] for name in ("messages", "prompt", "prompt_ids") if fields[name] is not None}
    # 1 and 1.0 are the same temperature.
    how = {
        **msgspec.to_builtins(sampling),
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "stop": list(sampling.stop),
    }
    return {**prompt, "seed": request.seed, "sampling": how}


def _key_hash(asked: dict[str, Any]) -> str:
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Recorder:
    """Any backend, with every completion that is no error appended to FILE for `replay:FILE`.

    One line a completion, flushed as it comes; a torn last line of an earlier run is cut off first.
    Raises Busy where another run records to FILE, BadInput where it cannot be written.
    """

    def __init__(self, inner: Generator, path: str) -> None:
        self._inner, self.model, self.batch_size, self.context = inner, inner.model, inner.batch_size, inner.context
        self._path = path
        try:
            self._file = open(path, "a+b")
        except OSError as error:
            raise BadInput(f"--record {path}: cannot be written: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.close()
            raise BadInput(f"--record {path}: expected a file that can be read back")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Busy(f"--record {path}: another run is recording to it") from None
        self._file.truncate(_whole_lines(self._file))

    def count_tokens(self, request: Request) -> int | None:
        return self._inner.count_tokens(request)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what could not be written was reported by generate
        self._inner.close()

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        pulled: dict[str, Request] = {}

        def noted() -> Iterator[Request | None]:
            for request in requests:
                if request is not None:
                    pulled[request.key] = request
                yield request

        # Every backend's iterator is a generator with close(), which the type Iterator does not say.
        with closing(self._inner.generate(noted(), sampling)) as completions:  # type: ignore[type-var]
            for completion in completions:
                asked = _asked(pulled.pop(completion.key), sampling)
                if completion.finish_reason != "error":
                    line = msgspec.json.encode(_Recorded(_key_hash(asked), asked, completion)) + b"\n"
                    try:
                        self._file.write(line)
                        self._file.flush()
                    except OSError as error:
                        raise Missing(f"--record {self._path}: cannot be written: {error.strerror}") from None
                yield completion


def _whole_lines(stream: Any) -> int:
    """Bytes of STREAM up to and including its last newline."""
    end = stream.seek(0, 2)
    while end > 0:
        start = max(0, end - 65536)
        stream.seek(start)
        at = stream.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


class ReplayGenerator:
    """Recorded completions, found by prompt, seed and sampling; what was not recorded is Missing.

    Of several recordings of one request the last holds. The request's key need not be the recorded
    one. A torn last line is passed over. Raises BadInput for a file that is no recording.
    """

    batch_size: int | None = None
    context: int | None = None
    COMPARED, COMPARED_CHARS = 2000, 400  # bounds of the search for the nearest prompt

    def __init__(self, path: str) -> None:
        self._path, self.model = path, f"replay:{path}"
        try:
            self._file = open(path, "rb")
        except OSError as error:
            raise BadInput(f"replay:{path}: cannot be read: {error.strerror}") from None
        self._at: dict[str, int] = {}
        for offset, entry in self._entries():
            self._at[entry.key_hash] = offset

    def _entries(self) -> Iterator[tuple[int, _Recorded]]:
        offset = self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            try:
                yield offset, msgspec.json.decode(line, type=_Recorded)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if line.endswith(b"\n"):
                    raise BadInput(
                        f"{self._path}:{number}: expected a completion written by --record: {error}"
                    ) from None
            offset += len(line)

    def count_tokens(self, request: Request) -> int | None:
        return None

    def close(self) -> None:
        self._file.close()

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            if request is None:
                continue
            asked = _asked(request, sampling)
            offset = self._at.get(_key_hash(asked))
            if offset is None:
                raise Missing(f"{self.model}: {request.key}: not recorded; {self._nearest(asked)}")
            self._file.seek(offset)
            entry = msgspec.json.decode(self._file.readline(), type=_Recorded)
            yield msgspec.structs.replace(entry.completion, key=request.key)

    def _nearest(self, asked: dict[str, Any]) -> str:
        """Words on the recorded request most like ASKED: same prompt first, then the most similar text."""
        best: tuple[float, str] = (-1e9, "the recording is empty")
        wanted = _prompt_text(asked)[: self.COMPARED_CHARS]
        matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
        for number, (_, entry) in enumerate(self._entries()):
            text, key = _prompt_text(entry.request), entry.completion.key
            if text == _prompt_text(asked):
                flat, recorded = ({**side["sampling"], "seed": side["seed"]} for side in (asked, entry.request))
                other = [
                    f"{name} {recorded.get(name)} (asked {value})"
                    for name, value in flat.items()
                    if recorded.get(name) != value
                ]
                likeness, words = (
                    2.0 - len(other) / 100,
                    f"the same prompt is recorded as {key} with {', '.join(other) or 'its prompt in other fields'}",
                )
            elif number < self.COMPARED and best[0] < 1:
                matcher.set_seq1(text[: self.COMPARED_CHARS])
                likeness, words = matcher.quick_ratio(), f"the nearest prompt is {key}: {one_line(text, 80)}"
            else:
                continue
            best = max(best, (likeness, words), key=lambda pair: pair[0])
        return best[1]


def _prompt_text(asked: dict[str, Any]) -> str:
    """The words of a request's prompt; roles and kinds of prompt tell otherwise equal ones apart."""
    if asked.get("messages") is not None:
        return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in asked["messages"])
    return str(asked.get("prompt", asked.get("prompt_ids")))
