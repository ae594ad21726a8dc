"""One decoding step on a CPU straight from the codes: no dequantised cache, a few bytes a token.

Keys after RoPE: a table T[m][c] = q_m · c for every sub-vector, then a score is M look-ups. Keys before RoPE: a block of
tokens is decoded into the cache of a core, turned by rotations that all blocks share (the query is turned back by the
block's first position instead), and multiplied. Values: p_j is added to the bin of its index, and the bins are multiplied by
the book at the end; sub-vectors of 2 or 4 channels, whose bins cost more than they spare, are decoded. Stretches of tokens
are merged by log-sum-exp; how they are cut does not depend on the cores. Numba compiles this at the first call; antkv works
without it, slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from antkv.cache import AntLayer

STRETCH = 2048  # tokens of one part of the work: what a part adds of its own is small beside them


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
    stored, block = keys.shape[1], layer.settings.block
    groups = heads // stored
    scaled = (query[:, :, 0].float() * scale).reshape(batch, stored, groups, dim)
    fours = torch.nn.functional.pad(scaled, (0, 0, 0, -groups % 4)).reshape(batch, stored, -1, 4, dim)
    books = tuple(_one(book) for book in (layer.book_k, layer.book_v))
    size = books[0].shape[2]
    tables = torch.empty(0, 0, 0, 0, 0, 0)
    if layer.rope is not None:
        near, far = layer.rope.stepped(block, layer.closed, layer.start)
    else:
        near, far = (torch.empty(block, 0),) * 2, (torch.empty(batch, layer.closed // block, 0),) * 2
        if layer.dim > 4:
            split = fours.unflatten(-1, (-1, layer.dim)).permute(0, 1, 2, 4, 5, 3)  # (B, H, Q, M, d, 4)
            tables = (books[0][None, :, None] @ split).contiguous()
    start = torch.zeros(batch, dtype=torch.int64) if layer.start is None else layer.start
    found = _lut.step(
        fours.numpy(),
        (_plain(keys), _plain(values)),
        (layer.codes_k.numpy(), layer.codes_v.numpy()),
        tuple(book.numpy() for book in books),
        tables.numpy(),
        tuple(x.numpy() for x in near),
        tuple(x.numpy() for x in far),
        (_plain(layer.anchors_k), _plain(layer.anchors_v)),
        (layer.at_k.numpy(), layer.at_v.numpy()),
        start.numpy(),
        layer.bits,
        block,
        max(STRETCH, 2 * size) // block,
    )
    out, peak, total = (torch.from_numpy(x).reshape(batch, stored, -1, *x.shape[3:])[:, :, :groups] for x in found)
    lse = peak + total.log()
    return out.reshape(batch, heads, 1, dim).to(query.dtype), lse.reshape(batch, heads, 1)


def _one(book: Tensor) -> Tensor:
    """A book that all heads share, once."""
    return book[:1] if book.stride(0) == 0 else book


def _plain(x: Tensor) -> np.ndarray:
    return x.float().contiguous().numpy()
