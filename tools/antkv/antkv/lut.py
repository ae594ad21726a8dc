"""One decoding step on a CPU straight from the codes (reference 2.5): no dequantised cache, a few bytes a token.

Keys after RoPE: a table T[m][c] = q_m · c for every sub-vector, then a score is M look-ups. Keys before RoPE: a tile of 64
tokens is decoded into the cache of a core, turned by a table of rotations that all tiles share (the query is turned back by
the tile's first position instead), and multiplied. Values: p_j is added to the bin of its index, and the bins are
multiplied by the book at the end. The query heads that share a stored head share its codes. Numba compiles this at the first call; antkv works without it, slower.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from antkv.cache import AntLayer

TILE = 64


def available() -> bool:
    """Whether numba is here."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def step(layer: AntLayer, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(out (B, Hq, 1, D), lse (B, Hq, 1)) of one query a row over closed tokens and the exact ones.

    query (B, Hq, 1, D); keys, values (B, H, w, D): window and new token. Closed tokens that are anchors count with their
    exact vectors, padding not at all.
    """
    from antkv import _lut

    batch, heads, _, dim = query.shape
    stored = keys.shape[1]
    groups = heads // stored
    q = query[:, :, 0].float().reshape(batch, stored, groups, dim)
    closed, block = layer.closed, layer.settings.block
    scores = torch.empty(batch, stored, groups, closed + keys.shape[2])
    exact = scores[..., closed:]
    exact.copy_(torch.einsum("bhgd,bhjd->bhgj", q, keys.float()) * scale)
    if closed:
        old = scores.numpy()[..., :closed]
        for row in range(batch):
            codes = layer.codes_k[row].numpy()
            if layer.rope is None:
                split = q[row].unflatten(-1, (-1, layer.dim)) * scale  # (H, G, M, d)
                tables = torch.einsum("hgmd,hmcd->hgmc", split, layer.book_k).numpy()
                _lut.look_up(tables, codes, layer.bits, block, old[row])
            else:
                turned, cos, sin = _rotations(layer, q[row] * scale, row)
                _lut.turned(turned, layer.book_k.numpy(), codes, cos, sin, layer.bits, block, old[row])
        if layer.at_k.shape[2]:
            at = layer.at_k.long().clamp_min(0)[:, :, None].expand(-1, -1, groups, -1)
            found = torch.einsum("bhgd,bhad->bhga", q, layer.anchors_k.float()) * scale
            there = (layer.at_k >= 0)[:, :, None].expand_as(found)
            scores[..., :closed].scatter_(3, at, torch.where(there, found, scores.gather(3, at)))
    if layer.start is not None:
        slots = torch.arange(scores.shape[-1])
        scores.masked_fill_((slots < layer.start[:, None])[:, None, None], -math.inf)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - lse[..., None].nan_to_num(neginf=0.0))  # a row of padding alone sees nothing
    out = torch.einsum("bhgj,bhjd->bhgd", weights[..., closed:], values.float())
    if closed:
        old_weights = weights[..., :closed]
        if layer.at_v.shape[2]:
            there = (layer.at_v >= 0)[:, :, None]
            at = layer.at_v.long().clamp_min(0)[:, :, None].expand(-1, -1, groups, -1)
            share = old_weights.gather(3, at) * there
            out += torch.einsum("bhga,bhad->bhgd", share, layer.anchors_v.float())
            old_weights.scatter_(3, at, torch.where(there, 0.0, old_weights.gather(3, at)))
        kept = torch.nn.functional.pad(old_weights.transpose(2, 3), (0, -groups % 4)).contiguous().numpy()
        for row in range(batch):
            mixed = np.zeros((stored, groups, dim), dtype=np.float32)
            _lut.mix(kept[row], layer.book_v.numpy(), layer.codes_v[row].numpy(), layer.bits, block, mixed)
            out[row] += torch.from_numpy(mixed)
    return out.reshape(batch, heads, 1, dim).to(query.dtype), lse.reshape(batch, heads, 1)


def _rotations(layer: AntLayer, q: Tensor, row: int) -> tuple[Any, Any, Any]:
    """The query turned back by the first position of each block, (blocks, H, G, D), and cos, sin (block, r) of the
    positions within one: q · R(j₀ + t) k = (R(−j₀) q) · R(t) k, whatever the rotations' scale f, of which one is left."""
    assert layer.rope is not None
    block = layer.settings.block
    start = 0 if layer.start is None else int(layer.start[row])
    firsts = torch.arange(0, layer.closed, block) - start
    cos, sin = layer.rope.tables(firsts[None])
    turned = _back(q[None], cos[0, :, None, None], sin[0, :, None, None], layer.rope.factor)
    within, across = layer.rope.tables(torch.arange(block)[None])
    return turned.contiguous().numpy(), within[0].contiguous().numpy(), across[0].contiguous().numpy()


def _back(x: Tensor, cos: Tensor, sin: Tensor, factor: float) -> Tensor:
    """R(−p) x, of length 1."""
    width = cos.shape[-1]
    part = x[..., :width]
    left, right = part.chunk(2, -1)
    turned = (part * cos - torch.cat([-right, left], -1) * sin) / factor
    rest = x[..., width:].expand(*turned.shape[:-1], x.shape[-1] - width)
    return torch.cat([turned, rest], -1)
