"""A causal language model of the transformers library in this process, in static batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tenfold_shared import Missing
from tenfold_shared.generate import NO_MORE, Completion, Request, Sampling, failed
from tenfold_shared.generate.prompts import Refused, admit, tokens_of
from tenfold_shared.generate.sampler import Sampler

if TYPE_CHECKING:
    import torch


def _cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """TEXT before the first stop string, and whether there was one."""
    found = [at for at in (text.find(word) for word in stop) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


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
        return tokens_of(self._tokenizer, request, self.model)

    def close(self) -> None:
        self._lm = None

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        source, more = iter(requests), True
        while more:
            batch: list[Request] = []
            while len(batch) < (self.batch_size or 1):
                request = next(source, NO_MORE)
                if not isinstance(request, Request):
                    more = request is None
                    break
                batch.append(request)
            rows, done = [], []
            for request in batch:
                try:
                    ids = admit(self._tokenizer, request, sampling, self.model, self._vocab, self.context)
                    rows.append((request, ids))
                except Refused as error:
                    done.append(failed(request.key, self.model, str(error)))
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
        sampler = Sampler(sampling, [row.request.seed for row in drawn], ids.device)
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
            return failed(row.request.key, self.model, "the model's scores are not numbers; try --dtype float32")
        text, stopped = _cut(_text_of(self._tokenizer, row.tokens), sampling.stop)
        reason = "stop" if stopped or row.ended else "length"
        done = Completion(row.request.key, text, reason, len(row.prompt), len(row.tokens), self.model)
        if sampling.logprobs:
            done.token_ids, done.logprobs = row.tokens, row.logprobs
        return done
