"""`antkv generate`: completions of task records on a packed cache; a killed run continues by id."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

import antkv
from antkv.codebook import load, weights_sha256
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection, sha256_of
from tenfold_shared.jsonl import Output, flow
from tenfold_shared.progress import Progress

Record = dict[str, Any]


class Decoder:
    """One prompt at a time on a packed cache."""

    def __init__(
        self, model: Any, tokenizer: Any, book: Any, settings: Any, sampling: Any, seed: int, beyond: bool
    ) -> None:
        self.model, self.tokenizer, self.book = model, tokenizer, book
        self.settings, self.sampling, self.seed, self.beyond = settings, sampling, seed, beyond
        ends = model.generation_config.eos_token_id
        self.ends = {ends} if isinstance(ends, int) else set(ends or ())
        self.unquantised = 0  # answers whose cache was the window alone

    def ids(self, task: Record) -> list[int]:
        if task.get("prompt") is not None:
            return list(self.tokenizer(task["prompt"])["input_ids"])
        if not self.tokenizer.chat_template:
            raise BadInput("the model has no chat template; give records with `prompt` instead of `messages`")
        return list(
            self.tokenizer.apply_chat_template(shapes.messages_of(task), add_generation_prompt=True, return_dict=False)
        )

    def __call__(self, requests: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
        import torch

        from antkv.cache import AntCache, attached

        how = self.sampling
        sampled: Record = {"do_sample": how.temperature > 0, "logits_processor": [_finite]}

        if how.temperature > 0:
            sampled |= {"temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k}
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for key, task in requests:
            ids = self.ids(task)
            long = limit is not None and not self.beyond and len(ids) + how.max_tokens > limit
            if not ids or long:
                told = (
                    "the prompt is empty"
                    if not ids
                    else f"{len(ids)} tokens and --max-tokens {how.max_tokens} exceed the model's {limit} positions; --allow-extrapolation goes on"
                )
                yield (
                    key,
                    {
                        "text": "",
                        "finish": "error",
                        "prompt": len(ids),
                        "made": 0,
                        "bits": None,
                        "closed": 0,
                        "error": told,
                    },
                )
                continue
            cache = AntCache(self.model, self.book, self.settings)
            digest = hashlib.blake2b(f"{self.seed}\x1f{key}".encode(), digest_size=7).digest()
            torch.manual_seed(int.from_bytes(digest, "little"))
            prompt = torch.tensor([ids], device=self.model.device)

            def said(seen: Any, _: Any, begin: int = len(ids), **more: Any) -> Any:
                """Whether a stop word stands in the answer so far."""
                text = self.tokenizer.decode(seen[0, begin:].tolist(), skip_special_tokens=True)
                return torch.full((1,), any(word in text for word in how.stop), device=seen.device)

            with attached(self.model), torch.inference_mode():
                out = self.model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    past_key_values=cache,
                    max_new_tokens=how.max_tokens,
                    stopping_criteria=[said] if how.stop else None,
                    **sampled,
                )[0, len(ids) :].tolist()
            text = self.tokenizer.decode(out, skip_special_tokens=True)
            cut = min((at for word in how.stop if (at := text.find(word)) >= 0), default=None)
            ended = cut is not None or len(out) < how.max_tokens or out[-1] in self.ends
            closed = max((layer.closed for layer in cache.packed), default=0)
            self.unquantised += closed == 0
            yield key, {
                "text": text if cut is None else text[:cut], "finish": "stop" if ended else "length", "prompt": len(ids),
                "made": len(out), "bits": round(cache.effective_bits(), 4), "closed": closed,
                "error": None,
            }  # fmt: skip


def _finite(ids: Any, logits: Any) -> Any:
    """A logits processor that changes nothing. Raises BadInput where the model is broken."""
    import torch

    if not torch.isfinite(logits).any(-1).all() or torch.isnan(logits).any():
        raise BadInput(f"the model's logits hold NaN or infinity after {ids.shape[1]} tokens")
    return logits


def run(
    files: Sequence[str],
    selection: Selection,
    sampling: Any,
    *,
    uri: str,
    codebook: str,
    anchors: float,
    score: Any,
    window: int,
    block: int,
    allow_extrapolation: bool,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    seed: int,
    max_time: float | None,
    output: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    source = selection.source(files, "task", keep=output is not None)
    options = {
        "model": uri, "codebook": sha256_of(codebook), "anchors": anchors, "score": score, "window": window, "block": block,
        "dtype": dtype, "seed": seed, **msgspec.to_builtins(sampling), **selection.identity(),
    }  # fmt: skip
    with Output(
        output,
        tool="antkv",
        version=antkv.__version__,
        verb="generate",
        options=options,
        source=source,
        overwrite=overwrite,
    ) as out:
        if out.finished:
            print(f"antkv: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        import torch

        from antkv.cache import Settings
        from tenfold_shared.models import load_causal_lm

        model, tokenizer = load_causal_lm(uri, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        book = load(codebook)
        book.check(model.config, weights_sha256=weights_sha256(model))
        kept = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float16
        settings = Settings(anchors, score, window=window, block=block, dtype=kept, seed=seed)

        def assemble(task: Record, results: list[Record]) -> list[Record]:
            (found,) = results
            sample = {
                **task, "schema": shapes.schema("sample"), "sample": 0, "response": found["text"],
                "finish_reason": found["finish"],
                "usage": {"prompt_tokens": found["prompt"], "completion_tokens": found["made"]}, "model": uri,
                "meta": {**(task.get("meta") or {}), "antkv": {"effective_bits": found["bits"], "quantised_tokens": found["closed"]}},
            }  # fmt: skip
            return [sample | ({"error": found["error"]} if found["error"] else {})]

        decoder = Decoder(model, tokenizer, book, settings, sampling, seed, allow_extrapolation)
        with Progress("generate", source.count(), "prompts", quiet) as progress:
            done = flow(
                source,
                identify=lambda task: task["id"],
                plan=lambda where, task: [("", task)],
                execute=decoder,
                assemble=assemble,
                out=out,
                max_time=max_time,
                progress=progress,
            )
        if decoder.unquantised and not quiet:
            print(
                f"antkv: {decoder.unquantised} answers stayed within the window of {window} tokens and a block of {block}: nothing of them was quantised",
                file=sys.stderr,
            )
        return out.complete(done, source, seed=seed)
