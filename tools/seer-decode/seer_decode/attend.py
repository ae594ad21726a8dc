"""One query a sequence against its cache: all of it, or the blocks that were chosen (arXiv 2506.08889, section 3).

Caches here hold a sequence's token p at slot p, so that a block is a contiguous piece of memory and a group's query heads are
the rows of one small product. Slots after a sequence's last token hold finite numbers. Sums of a softmax are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seer_decode import fast
from seer_decode.select import Selection

GATHERED = 8 << 20  # bytes of blocks that are gathered at once: few enough to be in a processor's cache when multiplied


class Workspace:
    """Memory for gathered blocks that steps and layers take in turn: on a CPU the pages of a fresh allocation cost more than
    reading the blocks. For one thread at a time, without gradients."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def rows(self, count: int, like: Tensor) -> Tensor:
        """(count, n), unset, for a `like` of (…, n)."""
        need, held = count * like.shape[-1], self._held
        if held is None or held.numel() < need or (held.dtype, held.device) != (like.dtype, like.device):
            with torch.inference_mode(False):  # a tensor born in it could not be written to outside
                held = self._held = torch.empty(need, dtype=like.dtype, device=like.device)
        return held[:need].view(count, like.shape[-1])


def dense(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """(B, Hq, D) of queries (B, Hq, D) over the first lengths (B,) of keys and values (B, Hkv, S, D)."""
    if fast.usable(query, keys, values):
        return fast.attend(query, keys, values, lengths, None, fast.DENSE, scale)
    return products(query, keys, values, lengths, scale)


def products(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """`dense` by PyTorch's own products."""
    batch, stored, held, dim = keys.shape
    each = lengths.tolist()
    longest = max(each)
    # The CPU's batched product of half floats copies matrices that do not lie end to end: more than unused slots cost.
    seen = longest if keys.is_cuda or keys.dtype == torch.float32 else held
    grouped = query.reshape(batch * stored, -1, dim)
    keys, values = (x.flatten(0, 1)[:, :seen] for x in (keys, values))  # (B Hkv, S, D)
    logits = torch.bmm(grouped, keys.transpose(1, 2)).float().mul_(scale)
    if min(each) == longest:
        logits[..., longest:] = -torch.inf
    else:
        absent = torch.arange(seen, device=keys.device) >= lengths.repeat_interleave(stored)[:, None]
        logits.masked_fill_(absent[:, None], -torch.inf)
    return torch.bmm(logits.softmax(-1).to(query.dtype), values).view(batch, -1, dim)


def blocks(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    selection: Selection,
    block: int,
    scale: float,
    workspace: Workspace | None = None,
) -> Tensor:
    """(B, Hq, D) of queries (B, Hq, D) over chosen blocks alone; S is a multiple of `block`.

    Equals the softmax over the union of the chosen tokens; a head without any gives zeros. workspace: of the caller's steps.
    """
    if fast.usable(query, keys, values):
        return fast.attend(query, keys, values, lengths, selection, block, scale)
    batch, stored, tokens, dim = keys.shape
    width, lists, each = selection.indices.shape[-1], batch * stored, tokens // block
    if not width:
        return torch.zeros_like(query)
    chosen = selection.indices.view(lists, width)
    hidden = _hidden(chosen, lengths, stored, block)
    rows = chosen if isinstance(hidden, int) else chosen.clamp_min(0)
    rows = rows + torch.arange(0, lists * each, each, dtype=rows.dtype, device=keys.device)[:, None]
    grouped = query.reshape(lists, -1, dim)
    # A block is one row of contiguous memory.
    stores = keys.view(lists * each, block * dim), values.view(lists * each, block * dim)
    fresh = torch.is_grad_enabled() or workspace is None  # gradients want what was gathered as it was
    step = max(1, GATHERED // (width * block * dim * keys.element_size()))  # lists at a time

    def gathered(x: Tensor, at: Tensor) -> Tensor:
        """(lists, K block, D)"""
        flat = at.flatten()
        out = None if fresh or workspace is None else workspace.rows(len(flat), x)
        return torch.index_select(x, 0, flat, out=out).view(len(at), width * block, dim)

    parts = []
    for first in range(0, lists, step):
        mine = slice(first, first + step)
        logits = torch.bmm(grouped[mine], gathered(stores[0], rows[mine]).transpose(1, 2)).float().mul_(scale)
        if not isinstance(hidden, int):
            logits.masked_fill_(hidden[mine, None], -torch.inf)
        elif hidden < logits.shape[-1]:
            logits[..., hidden:] = -torch.inf
        shares = logits.softmax(-1)
        if not isinstance(hidden, int):
            shares = shares.nan_to_num(0.0)  # of a list without blocks
        parts.append(torch.bmm(shares.to(query.dtype), gathered(stores[1], rows[mine])))
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).view(batch, -1, dim)


def _hidden(chosen: Tensor, lengths: Tensor, stored: int, block: int) -> Tensor | int:
    """Which slots of lists (B Hkv, K) of blocks are no tokens, (B Hkv, K block); the first of them where all lists are full
    and end with the tail of sequences of one length, as a policy's do in a batch without padding."""
    if not chosen.is_cuda:  # a GPU is not waited for
        first, *others = lengths.tolist()
        tail = (first - 1) // block
        if tail >= 0 and set(others) <= {first} and set(chosen[:, -1].tolist()) == {tail}:
            return int((chosen.shape[1] - tail - 1) * block + first)
    at = chosen[..., None] * block + torch.arange(block, device=chosen.device)  # (B Hkv, K, block)
    absent = (at >= lengths.repeat_interleave(stored)[:, None, None]) | (chosen < 0)[..., None]
    return absent.flatten(1)
