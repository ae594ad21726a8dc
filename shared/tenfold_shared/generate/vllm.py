"""vLLM's offline engine in this process, fed request by request. models.py starts the engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from tenfold_shared import Missing
from tenfold_shared.generate import NO_MORE, Completion, Request, Sampling, failed
from tenfold_shared.generate.prompts import Refused, admit, tokens_of
from tenfold_shared.redaction import one_line


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
        return tokens_of(self._tokenizer, request, self.model)

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
                    request = next(source, NO_MORE)
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
                        ids = admit(self._tokenizer, request, sampling, self.model, self._vocab, self.context)
                        self._engine.add_request(name, {"prompt_token_ids": ids}, params, lora_request=self._lora)
                    except (Refused, ValueError) as error:
                        yield failed(request.key, self.model, one_line(error))
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
            return failed(key, self.model, f"vLLM ended the request with `{best.finish_reason}`")
        done = Completion(key, best.text, best.finish_reason, prompt, len(tokens), self.model)
        if best.logprobs is not None:
            done.token_ids = tokens
            done.logprobs = [step[token].logprob for token, step in zip(tokens, best.logprobs, strict=True)]
        return done
