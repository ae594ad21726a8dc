"""Rows of `make gpu-check` that are more than one kernel: a whole decoding step, and how much fits.

Both are of a model of LLaMA-3-8B's shape with random weights, and of a cache of random codes at 1 bit with 1 % anchors: what is
measured is time and memory, not text.

- decode step: all matrix products and norms of all layers and the logits, attention over a cache that fills the card in 16
  bits, once from the codes (the kernel) and once in 16 bits (PyTorch's SDPA). Rotations of the new token are left out of
  both. Bar: 3 times the tokens a second.
- capacity: 840,000 cached tokens of all layers as antkv's own layers hold them, then a prefill of 4,096 more and 32 decoding
  steps through them. Bar: a peak under 80 GB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

Record = dict[str, Any]
Timer = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True)
class Size:
    """A model and a cache. memory: bytes that a cache of 16 bits and the weights may fill."""

    layers: int = 32
    hidden: int = 4096
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    inner: int = 14336
    vocabulary: int = 128256
    sub: int = 8
    centroids: int = 256
    block: int = 64
    window: int = 128
    batch: int = 8
    memory: float = 75e9
    held: int = 839_680  # tokens of the capacity row, whole blocks
    prefill: int = 4096
    steps: int = 32
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"


class Weights:
    """Random weights; `run(x, attend)` is a decoding step of x (batch, hidden), attend(layer, q) its attention."""

    def __init__(self, size: Size) -> None:
        self.size = size
        how: Record = {"dtype": size.dtype, "device": size.device}
        query, stored = size.heads * size.dim, size.kv_heads * size.dim

        def matrix(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, **how) / columns**0.5

        self.layers = [
            (
                matrix(query + 2 * stored, size.hidden), matrix(size.hidden, query), matrix(2 * size.inner, size.hidden),
                matrix(size.hidden, size.inner),
            )
            for _ in range(size.layers)
        ]  # fmt: skip
        self.head = matrix(size.vocabulary, size.hidden)
        self.nbytes = sum(w.nbytes for layer in self.layers for w in layer) + 2 * self.head.nbytes

    def run(self, x: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """x (batch, n, hidden) to logits of the last token; attend(layer, q, k, v), (batch, heads, n, dim) each."""
        size = self.size
        batch, n, _ = x.shape
        stored = size.kv_heads * size.dim
        for at, (qkv, out, up, down) in enumerate(self.layers):
            y = F.rms_norm(x, (size.hidden,)) @ qkv.T
            q, k, v = y.split([size.heads * size.dim, stored, stored], -1)
            q, k, v = (part.unflatten(-1, (-1, size.dim)).transpose(1, 2) for part in (q, k, v))
            mixed = attend(at, q, k, v)
            x = x + mixed.transpose(1, 2).reshape(batch, n, -1) @ out.T
            gate, wide = (F.rms_norm(x, (size.hidden,)) @ up.T).chunk(2, -1)
            x = x + (F.silu(gate) * wide) @ down.T
        return F.rms_norm(x[:, -1], (size.hidden,)) @ self.head.T


def coded(size: Size, tokens: int) -> Record:
    """Codes, books and anchors of one layer for `tokens` tokens a row."""
    how: Record = {"device": size.device}
    shape = (size.batch, size.kv_heads, tokens // size.block, size.dim // size.sub, size.block)
    book = (size.kv_heads, size.dim // size.sub, size.centroids, size.sub)
    few = tokens // 100
    at = torch.arange(few, dtype=torch.int32, **how) * 100
    return {
        "codes": [torch.randint(0, size.centroids, shape, dtype=torch.uint8, **how) for _ in range(2)],
        "books": [torch.randn(book, dtype=size.dtype, **how) for _ in range(2)],
        "at": at.expand(size.batch, size.kv_heads, -1).contiguous(),
        "anchors": [torch.randn(size.batch, size.kv_heads, few, size.dim, dtype=size.dtype, **how) for _ in range(2)],
    }


def decode_step(size: Size, timer: Timer, copy: float) -> Record:
    """Milliseconds of a step from the codes, beside the same step over a cache of 16 bits."""
    from tenfold_shared.launch.vq_decode import Coded, Dense, vq_decode

    weights = Weights(size)
    token = 2 * size.layers * size.kv_heads * size.dim * 2
    context = int((size.memory - weights.nbytes) / token / size.batch) // size.block * size.block
    x = torch.randn(size.batch, 1, size.hidden, dtype=size.dtype, device=size.device)
    scale = size.dim**-0.5
    window = [
        torch.randn(size.batch, size.kv_heads, size.window, size.dim, dtype=size.dtype, device=size.device)
        for _ in range(2)
    ]
    slots = torch.arange(context, context + size.window, dtype=torch.int32, device=size.device)
    late = slots.expand(size.batch, 1, -1).contiguous()
    held = [coded(size, context) for _ in range(size.layers)]
    valid = torch.ones(size.batch, 1, context, dtype=torch.bool, device=size.device)
    valid[:, :, ::100] = False
    bits = max(1, (size.centroids - 1).bit_length())

    def from_codes(at: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        one = held[at]
        parts = [Dense(*one["anchors"], one["at"]), Dense(*window, late)]
        book_k, book_v = one["books"]
        packed = Coded(one["codes"][0], one["codes"][1], book_k, book_v, bits, bits, context, valid)
        return vq_decode(q[:, :, 0].contiguous(), packed, parts, scale=scale)[0][:, :, None]

    ours = timer(lambda: weights.run(x, from_codes))
    finite = bool(torch.isfinite(weights.run(x, from_codes)).all())
    index = sum(t.nbytes for one in held for t in (*one["codes"], *one["anchors"], one["at"]))
    held.clear()  # the closure above holds the list
    if size.device == "cuda":
        torch.cuda.empty_cache()
    full = [
        [
            torch.zeros(
                size.batch, size.kv_heads, context + size.window, size.dim, dtype=size.dtype, device=size.device
            )
            for _ in range(2)
        ]
        for _ in range(size.layers)
    ]

    def in_full(at: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, *full[at], scale=scale, enable_gqa=True)

    theirs = timer(lambda: weights.run(x, in_full))
    moved = weights.nbytes - weights.head.nbytes + index
    ratio = theirs / ours
    return {
        "kernel": "antkv decode step", "case": f"LLaMA-3-8B shape, batch {size.batch} of {context} tokens, 1 bit, 1 % anchors",
        "max_rel_err": None, "ms": ours * 1e3, "bytes_s": moved / ours, "flop_s": None, "floor_ratio": ours / (2 * moved / copy),
        "baseline": "the same step with SDPA over 16 bits", "baseline_ratio": ratio, "tokens_s": size.batch / ours,
        "bar": 3.0, "bar_met": ratio >= 3.0, "ok": finite,
    }  # fmt: skip


def capacity(size: Size) -> Record:
    """Peak memory of 840,000 cached tokens, a prefill and some steps through antkv's own layers."""
    from antkv.cache import AntLayer, Settings

    if size.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    alone = Size(**{**size.__dict__, "batch": 1})
    weights = Weights(alone)
    kept = Settings(window=size.window, block=size.block, dtype=size.dtype)
    layers = []
    for at in range(size.layers):
        one = coded(alone, size.held)
        layer = AntLayer(at, (one["books"][0].float(), one["books"][1].float()), None, kept)
        first = torch.zeros(1, size.kv_heads, 1, size.dim, dtype=size.dtype, device=size.device)
        layer.lazy_initialization(first, first)
        layer.codes_k, layer.codes_v = one["codes"]
        layer.anchors_k, layer.anchors_v = one["anchors"]
        layer.at_k = layer.at_v = one["at"]
        layer.closed = layer.length = size.held
        layers.append(layer)

    def attend(at: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pending, _ = layers[at].update(k, v)
        return layers[at].attend(q, pending, None, size.dim**-0.5)

    finite = True
    for n in (size.prefill, *[1] * size.steps):
        x = torch.randn(1, n, size.hidden, dtype=size.dtype, device=size.device)
        finite &= bool(torch.isfinite(weights.run(x, attend)).all())
    peak = torch.cuda.max_memory_allocated() if size.device == "cuda" else None
    cached = sum(sum(layer.parts().values()) for layer in layers)
    length = layers[0].length
    return {
        "kernel": "antkv capacity", "case": f"LLaMA-3-8B shape, {size.held} tokens at 1 bit, prefill of {size.prefill}, {size.steps} steps",
        "max_rel_err": None, "ms": None, "bytes_s": None, "flop_s": None, "floor_ratio": None, "baseline": None,
        "baseline_ratio": None, "cache_bytes": cached, "peak_bytes": peak, "bar": 80e9, "bar_met": peak is not None and peak < 80e9,
        "tokens": length, "ok": finite and length == size.held + size.prefill + size.steps,
    }  # fmt: skip


def rows(timer: Timer, copy: float, size: Size | None = None) -> Iterator[Callable[[], Record]]:
    """The rows, each to be called for: one that fails is to leave the other alone."""
    chosen = size or Size()
    yield lambda: decode_step(chosen, timer, copy)
    yield lambda: capacity(chosen)
