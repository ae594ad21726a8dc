"""One query a sequence against its cache: all of it, or the blocks that were chosen (arXiv 2506.08889, section 3).

Caches here hold a sequence's token p at slot p, so that a block is a contiguous piece of memory and a group's query heads are
the rows of one small product. Sums of a softmax are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seer_decode.select import Selection


def dense(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """(B, Hq, D) of queries (B, Hq, D) over the first lengths (B,) of keys and values (B, Hkv, S, D)."""
    stored, longest = keys.shape[1], int(lengths.max())
    grouped = query.unflatten(1, (stored, -1))  # (B, Hkv, g, D)
    logits = (grouped @ keys[:, :, :longest].transpose(2, 3)).float() * scale
    if int(lengths.min()) < longest:
        absent = torch.arange(longest, device=keys.device) >= lengths[:, None]
        logits = logits.masked_fill(absent[:, None, None], -torch.inf)
    return (logits.softmax(-1).to(query.dtype) @ values[:, :, :longest]).flatten(1, 2)


def blocks(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, selection: Selection, block: int, scale: float
) -> Tensor:
    """(B, Hq, D) of queries (B, Hq, D) over chosen blocks alone; S is a multiple of `block`.

    Equals the softmax over the union of the chosen tokens; a head without any gives zeros.
    """
    batch, stored, tokens, dim = keys.shape
    width = selection.indices.shape[-1]
    each = tokens // block
    chosen = selection.indices.long()  # (B, Hkv, K)
    owner = torch.arange(batch * stored, device=keys.device).view(batch, stored, 1)
    rows = (owner * each + chosen.clamp_min(0)).flatten()

    def gathered(x: Tensor) -> Tensor:
        """(B Hkv, K block, D): a block is one row of contiguous memory."""
        return x.view(batch * stored * each, block * dim).index_select(0, rows).view(batch * stored, width * block, dim)

    logits = torch.bmm(query.reshape(batch * stored, -1, dim), gathered(keys).transpose(1, 2)).float() * scale
    at = (chosen * block)[..., None] + torch.arange(block, device=keys.device)
    hidden = (at >= lengths[:, None, None, None]) | (chosen < 0)[..., None]
    logits = logits.masked_fill(hidden.view(batch * stored, 1, -1), -torch.inf)
    shares = logits.softmax(-1)
    if int(selection.counts.min()) == 0:
        shares = shares.nan_to_num(0.0)
    return torch.bmm(shares.to(query.dtype), gathered(values)).view(batch, -1, dim)
