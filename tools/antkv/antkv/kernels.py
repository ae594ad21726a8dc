"""The cache's work by device code (tenfold_shared.launch), on a GPU or in Triton's interpreter; elsewhere PyTorch's.

Each function does what its namesake does without device code: `factors` that of score.py, `encode` that of cache.py, `step`
that of lut.py. `refused` says why a shape has to do without.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tenfold_shared.launch.anchor_score import anchor_score
from tenfold_shared.launch.vq_decode import Coded, Dense, vq_decode
from tenfold_shared.launch.vq_encode import SUB, vq_encode

if TYPE_CHECKING:
    from antkv.cache import AntLayer

WIDTHS = (64, 128)
TYPES = (torch.float16, torch.bfloat16, torch.float32)


def usable(x: Tensor) -> bool:
    """Whether device code runs on tensors like x (…, D)."""
    here = x.is_cuda or (x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    return here and x.shape[-1] in WIDTHS and x.dtype in TYPES


def factors(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, squared: bool, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """FK, FV or FK2, FV2, (B, Hkv, n) float32, in one pass beside flash attention."""
    first = None if start is None else start.to(torch.int32)
    found = anchor_score(q, k, v, out, lse, scale=scale, start=first, mode="bound2" if squared else "bound")
    return found[0], found[1]


def encode(x: Tensor, book: Tensor) -> Tensor:
    """(B, H, M, n) indices of x (B, H, n, D) in books (H, M, C, d), in 16 bits with sums in 32."""
    batch, heads, n, _ = x.shape
    rows = x.half().permute(0, 2, 1, 3).reshape(batch * n, heads, book.shape[1], book.shape[3])
    index, _ = vq_encode(rows, book.half())
    return index.reshape(batch, n, heads, -1).permute(0, 2, 3, 1).long()


def encodes(x: Tensor, book: Tensor) -> bool:
    return usable(x) and book.shape[3] in SUB


def refused(layer: AntLayer) -> str:
    """Why a layer's decode step cannot be the kernel's; empty where it can."""
    if layer.at_v is not layer.at_k:
        return "keys and values have anchors of their own"
    if layer.book_k.shape[1] & (layer.book_k.shape[1] - 1):
        return "the sub-vectors are no power of two"
    if layer.settings.block not in (16, 32) and layer.settings.block % 64:
        return "the block is not 16, 32 or a multiple of 64"
    if layer.rope is not None and 2 * len(layer.rope.frequencies) != layer.width:
        return "only a part of the channels is rotated"
    return ""


def step(layer: AntLayer, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(out (B, Hq, 1, D), lse (B, Hq, 1)) of one query a row over codes, anchors and exact tokens, merged by log-sum-exp."""
    batch, stored, exact, _ = keys.shape
    dtype = query.dtype
    slots = torch.arange(layer.closed + exact, dtype=torch.int32, device=query.device)
    seen = torch.where(slots >= (0 if layer.start is None else layer.start[:, None]), slots, -1).to(torch.int32)
    seen = seen.expand(batch, -1)
    parts = [Dense(keys.contiguous(), values.contiguous(), seen[:, None, layer.closed :].contiguous())]
    coded = None
    if layer.closed:
        valid = (seen[:, None, : layer.closed] >= 0).expand(-1, stored, -1).clone()
        if layer.at_k.shape[2]:
            padded = torch.nn.functional.pad(valid, (0, 1))  # a last slot takes what is no anchor
            valid = padded.scatter(2, torch.where(layer.at_k < 0, layer.closed, layer.at_k).long(), False)[
                ..., :-1
            ].contiguous()
            parts.append(Dense(layer.anchors_k.to(dtype), layer.anchors_v.to(dtype), layer.at_k))
        rope = factor = None
        if layer.rope is not None:
            rope, factor = layer.rope.launched(query.device, layer.start), layer.rope.factor
        book_k = layer.book_k if factor is None else layer.book_k * factor  # the model's rotations have length `factor`
        kind = torch.bfloat16 if dtype == torch.bfloat16 else torch.float16
        coded = Coded(
            layer.codes_k, layer.codes_v, book_k.to(kind), layer.book_v.to(kind), layer.bits, layer.bits, layer.closed, valid,
            rope,
        )  # fmt: skip
    out, lse = vq_decode(query[:, :, 0].contiguous(), coded, parts, scale=scale)
    return out[:, :, None], lse[:, :, None]
