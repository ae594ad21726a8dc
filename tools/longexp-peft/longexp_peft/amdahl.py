"""Floating-point operations of a training step by part, and what skipping can win at most (Amdahl's law).

Per token and layer forward: projections 2 · 4d² (fewer with grouped heads), feed-forward 2 · 2dF (3 with a gate), attention 2 products
over half of n²; backward the products with the frozen matrices once more (dX, no dW) and 5 products of attention. The head counts
label positions alone, forward and backward. Adapters' own products are left out. Nothing below the first layer that trains has a
backward, and its own q, k, v need no dX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from longexp_peft import shape


class Parts(NamedTuple):
    """Operations of a step."""

    mlp: float
    proj: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return sum(self)

    def shares(self) -> dict[str, float]:
        return {name: round(value / self.total, 4) for name, value in zip(self._fields, self, strict=True)}


def parts(
    model: Any, lengths: Sequence[int], labels: int, *, first: int = 0, prefix: int = 0, mlp: Mapping[int, float] | None = None,
    attention: Mapping[int, float] | None = None,
) -> Parts:  # fmt: skip
    """A step over documents of these lengths. first: the lowest layer with something to train. mlp: {layer: share of the dense
    layer's operations}; attention: {layer: blocks read of n², causal being about a half}; 1 and causal where missing."""
    config = shape.plain(model).config.get_text_config()
    d, tokens = config.hidden_size, sum(lengths)
    heads = config.num_attention_heads
    e = shape.head_dim(model)
    kv = getattr(config, "num_key_value_heads", None) or heads
    qkv, out = 2 * d * e * (heads + 2 * kv), 2 * heads * e * d
    pairs = sum(n * n / 2 + n * prefix for n in lengths)
    whole = [0.0] * 3
    for ffn in shape.feed_forwards(model):
        back = ffn.layer >= first
        matrices = 3 if ffn.gate is not None else 2
        whole[0] += (mlp or {}).get(ffn.layer, 1.0) * tokens * matrices * 2 * d * ffn.width * (1 + back)
        whole[1] += tokens * (qkv + out + (out if back else 0) + (qkv if ffn.layer > first else 0))
        share = (attention or {}).get(ffn.layer)
        whole[2] += (
            (pairs if share is None else share * sum(n * n for n in lengths) + prefix * tokens)
            * 2
            * heads
            * e
            * (7 if back else 2)
        )
    vocabulary = shape.plain(model).get_output_embeddings().weight.shape[0]
    return Parts(whole[0], whole[1], whole[2], 2 * 2 * vocabulary * d * labels)


def left(mode: str, density: float, gated: bool) -> float:
    """The share of a feed-forward layer's products that a mode computes at a density: `exact` makes the first one whole."""
    if mode != "exact" or density >= 1:
        return density
    return (1 + 5 * density) / 6 if gated else (1 + 3 * density) / 4


def bound(dense: Parts, ours: Parts) -> float:
    """What a step can be faster at most."""
    return dense.total / ours.total
