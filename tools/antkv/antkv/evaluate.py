"""Perplexity, divergence and agreement of a packed cache on a text, window by window.

The text is tokenised once and cut into windows that do not overlap; of each, all tokens but the first are predicted.
Protocols: `decode` feeds a window through the real cache, `step` tokens at a time, so that every query sees of older
tokens what a server would hold by then; `prefill` feeds it whole and lets it attend to what the cache will hold, as
papers' tables do: there the choice of anchors knows the whole window. Differences between methods are paired by token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenfold_shared import BadInput

Record = dict[str, Any]


class Window(NamedTuple):
    """Of the L − 1 predicted tokens of a window: nll, kl and top (whether both predict the same token next), (L − 1,)
    float64 each. KL(exact ‖ packed), in nats."""

    nll: Tensor
    kl: Tensor
    top: Tensor


def windows(ids: Sequence[int], length: int, limit: int | None = None) -> list[list[int]]:
    """Whole windows only; the rest of the text is left out."""
    count = len(ids) // length
    return [list(ids[at * length : (at + 1) * length]) for at in range(count if limit is None else min(limit, count))]


@torch.inference_mode()
def logits(model: Any, ids: Tensor, cache: Any = None, step: int | None = None) -> Tensor:
    """(L, vocabulary) float32 next-token logits of one window (L,), fed `step` tokens at a time where a cache is given."""
    if cache is None:
        return model(input_ids=ids[None], use_cache=False).logits[0].float()
    parts = []
    for at in range(0, len(ids), step or len(ids)):
        chunk = ids[None, at : at + (step or len(ids))]
        parts.append(model(input_ids=chunk, past_key_values=cache, use_cache=True).logits[0].float())
    return torch.cat(parts)


def compared(exact: Tensor, packed: Tensor, ids: Tensor) -> Window:
    """Both (L, vocabulary) logits of a window with ids (L,)."""
    before, after, target = exact[:-1].log_softmax(-1), packed[:-1].log_softmax(-1), ids[1:, None]
    kl = (before.exp() * (before - after)).sum(-1)
    return Window(
        -after.gather(1, target)[:, 0].double(),
        kl.double().clamp_min(0),
        (before.argmax(-1) == after.argmax(-1)).double(),
    )


class Tally:
    """Windows added up: perplexity with its standard error, mean divergence and agreement.

    The error is that of windows as the independent units: ppl · s.e. of the windows' mean NLL."""

    def __init__(self) -> None:
        self.seen: list[Window] = []

    def add(self, window: Window) -> None:
        self.seen.append(window)

    @property
    def tokens(self) -> int:
        return sum(len(window.nll) for window in self.seen)

    def figures(self) -> Record:
        nll = [float(window.nll.mean()) for window in self.seen]
        mean = sum(nll) / len(nll)
        if mean > 700:
            raise BadInput(
                f"a loss of {mean:.0f} a token: these logits are no language model's; no perplexity can be told"
            )
        ppl = math.exp(mean)
        return {
            "ppl": ppl,
            "ppl_stderr": ppl * stderr(nll) if len(nll) > 1 else None,
            "nll": mean,
            "kl": float(torch.cat([window.kl for window in self.seen]).mean()),
            "top1_agreement": float(torch.cat([window.top for window in self.seen]).mean()),
            "tokens": self.tokens,
            "windows": len(nll),
        }

    def against(self, other: Tally) -> Record:
        """The mean difference in NLL a token, self − other, with the standard error over windows, and a 95 % interval by
        Student; of one window neither can be told."""
        parts = [float((a.nll - b.nll).mean()) for a, b in zip(self.seen, other.seen, strict=True)]
        value = sum(parts) / len(parts)
        error = stderr(parts) if len(parts) > 1 else None
        wide = None if error is None else student(len(parts) - 1) * error
        return {
            "nll_difference": value,
            "stderr": error,
            "low": None if wide is None else value - wide,
            "high": None if wide is None else value + wide,
        }


def stderr(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def student(freedom: int) -> float:
    """What 95 % of |t| stay under, with so many degrees of freedom.

    With t = √freedom · tan θ, P(|T| < t) is a finite sum in sin θ and cos θ; θ is found by halving."""
    odd, low, high = freedom % 2, 0.0, math.pi / 2
    for _ in range(50):
        angle = (low + high) / 2
        total, term = 0.0, math.cos(angle) if odd else 1.0
        for k in range(1 + odd, freedom, 2):
            total += term
            term *= k / (k + 1) * math.cos(angle) ** 2
        inside = math.sin(angle) * total
        if odd:
            inside = 2 / math.pi * (angle + inside)
        low, high = (angle, high) if inside < 0.95 else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def run_windows(
    model: Any,
    ids: Iterable[Sequence[int]],
    makers: dict[str, Callable[[], Any]],
    around: dict[str, Callable[[], Any]] | None = None,
    step: int | None = None,
) -> Iterator[tuple[dict[str, Window], dict[str, Any]]]:
    """Of each window: what every method made of it, and the methods' caches as they are at its end.

    makers: a new cache for a window, by method's name; None for the exact model. around: a context to run a method in.
    """
    for window in ids:
        tokens = torch.tensor(list(window), device=model.device)
        exact = logits(model, tokens)
        found, caches = {}, {}
        for name, make in makers.items():
            with (around or {}).get(name, nullcontext)():
                caches[name] = cache = make()
                packed = exact if cache is None else logits(model, tokens, cache, step)
            found[name] = compared(exact, packed, tokens)
        yield found, caches
