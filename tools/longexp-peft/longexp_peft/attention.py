"""Causal attention inside each document of a packed row, dense or by blocks (arXiv 2510.15964, Dynamic-aware Operator).

A row (1, H, T, e) holds documents one after another, after a prefix of P keys that every document sees (prefix tuning's keys and
values, or virtual tokens at the row's beginning). Dense documents of like lengths go through SDPA together: padding lies behind the
queries that count, where the causal mask hides it. A document with a pattern reads for each block of queries the listed blocks of
keys alone; softmax is over what is read, which is the function, and its gradient is exact for it.

    forward   S_ij = scale · Q_i K_jᵀ        P = softmax over the listed j        O_i = Σ_j P_ij V_j
    backward  dS_ij = P_ij ∘ (dO_i V_jᵀ − rowsum(dO_i ∘ O_i)) · scale   dQ_i += dS_ij K_j   dK_j += dS_ijᵀ Q_i   dV_j += P_ijᵀ dO_i

On a CPU the listed blocks are gathered and given to SDPA, which keeps no scores; on a GPU the kernel walks the lists
(shared/tenfold_shared/launch/block_attention.py).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from longexp_peft import kernels, patterns

PAD = 16  # lengths are rounded up to it for one SDPA call, which wastes little and makes few shapes


class Past(NamedTuple):
    """Keys and values (1, Hkv, P, e) that all documents see."""

    keys: Tensor
    values: Tensor


class Chosen(NamedTuple):
    """Patterns of the documents that have them: {number of the document: int64 (H,)}, and the size of a block."""

    by_document: dict[int, Tensor]
    block: int


def attend(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], *, scale: float, past: Past | None = None, prefix: int = 0,
    chosen: Chosen | None = None, window: int | None = None, dropout: float = 0.0,
) -> Tensor:  # fmt: skip
    """o (1, T, H, e) of q (1, H, T, e), k, v (1, Hkv, T, e); T = prefix + Σ lengths.

    prefix: so many first tokens of the row are no document: they see each other causally, and documents see them. window: a
    sliding window of a layer, in tokens. Documents in `chosen` read by blocks, the others densely.
    """
    group = q.shape[1] // k.shape[1]
    out = q.new_empty(1, q.shape[2], q.shape[1], v.shape[-1])
    parts: list[tuple[Tensor, Tensor]] = []  # (tokens, outputs) in the order made
    if prefix:
        parts.append((torch.arange(prefix, device=q.device), _dense(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], group, scale, None, window, dropout)[0]))  # fmt: skip
        past = Past(k[:, :, :prefix], v[:, :, :prefix])
    if chosen is not None and window is None and not dropout and kernels.attends(q, chosen.block):
        own, ks, vs = (x[0, :, prefix:] for x in (q, k, v))
        if past is not None:
            ks, vs = (torch.cat([x[0], y], 1) for x, y in zip(past, (ks, vs), strict=True))
        of = kernels.layout(lengths, chosen.by_document, q.shape[1], chosen.block, ks.shape[1] - own.shape[1], q.device)
        found = kernels.attend_blocks(own, ks, vs, of, chosen.block, scale)
        return torch.cat([*(one for _, one in parts), found])[None]
    begins = [prefix]
    for length in lengths:
        begins.append(begins[-1] + length)
    by_size: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        if chosen is not None and number in chosen.by_document:
            qs, ks, vs = (_part(x, begins[number], begins[number + 1]) for x in (q, k, v))
            found = by_blocks(qs, ks, vs, chosen.by_document[number], chosen.block, scale, past)
            parts.append((torch.arange(begins[number], begins[number + 1], device=q.device), found.transpose(0, 1)))
        else:
            by_size.setdefault(-(-length // PAD) * PAD, []).append(number)
    for size, members in by_size.items():
        first, last = members[0], members[-1]
        alike = {lengths[n] for n in members}
        if len(alike) == 1 and last - first + 1 == len(members):  # one after another, of one length: views
            parted = (_part(x, begins[first], begins[last + 1]) for x in (q, k, v))
            qs, ks, vs = (x.unflatten(1, (len(members), -1)).transpose(0, 1) for x in parted)
            found = _dense(qs, ks, vs, group, scale, past, window, dropout).flatten(0, 1)
            parts.append((torch.arange(begins[first], begins[last + 1], device=q.device), found))
            continue
        at, real = _spread(tuple((begins[n], lengths[n]) for n in members), size, q.device)
        qs, ks, vs = (x[0].index_select(1, at.flatten()).unflatten(1, at.shape).transpose(0, 1) for x in (q, k, v))
        found = _dense(qs, ks, vs, group, scale, past, window, dropout)
        parts.append((at.flatten()[real], found.flatten(0, 1).index_select(0, real)))
    if len(parts) == 1 and len(parts[0][0]) == out.shape[1]:
        return parts[0][1][None]
    order = torch.cat([tokens for tokens, _ in parts])
    joined = torch.cat([found for _, found in parts])
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return joined.index_select(0, back)[None]


def _part(x: Tensor, begin: int, end: int) -> Tensor:
    """x[0, :, begin:end] of x (1, H, T, e); the whole of it without indexing, whose backward would fill and copy."""
    x = x.squeeze(0)
    return x if begin == 0 and end == x.shape[1] else x[:, begin:end]


@functools.lru_cache(maxsize=256)
def _spread(documents: tuple[tuple[int, int], ...], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(tokens of documents (begin, length) padded to `size`, (D, size); places of the real ones in it), once for all layers."""
    begin, length = torch.tensor(documents).unbind(1)
    along = torch.arange(size)
    at = begin[:, None] + along.minimum(length[:, None] - 1)
    real = (along < length[:, None]).flatten().nonzero()[:, 0]
    return at.to(device), real.to(device)


def _dense(
    q: Tensor, k: Tensor, v: Tensor, group: int, scale: float, past: Past | None, window: int | None, dropout: float
) -> Tensor:
    """(B, n, H, e) of q (B, H, n, e): causal within each, after the keys of `past`."""
    n, mask = q.shape[2], None
    before = 0 if past is None else past.keys.shape[2]
    if past is not None:
        k, v = (torch.cat([x.expand(len(k), -1, -1, -1), y], 2) for x, y in zip(past, (k, v), strict=True))
    if window is not None and n + before > window:
        at = torch.arange(n + before, device=q.device)
        apart = at[before:, None] - at
        mask = (apart >= 0) & (apart < window)
    elif before:
        mask = torch.ones(n, n + before, dtype=torch.bool, device=q.device).tril(before)
    if group > 1:  # not enable_gqa, whose CPU path takes several times as long
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    found = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, dropout_p=dropout
    )
    return found.transpose(1, 2)


def by_blocks(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int, scale: float, past: Past | None = None
) -> Tensor:
    """o (H, n, e) of one document, q (H, n, e), k, v (Hkv, n, e): head h reads by pattern chosen[h], int64 (H,)."""
    heads = len(q)
    group = heads // len(k)
    if group > 1:
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    parts, where = [], []
    for pattern in chosen.unique().tolist():
        own = (chosen == pattern).nonzero()[:, 0]
        whole = len(own) == heads
        qs, ks, vs = (x if whole else x.index_select(0, own) for x in (q, k, v))
        before = None
        if past is not None:
            before = Past(*(x[0].repeat_interleave(group, 0).index_select(0, own) for x in past))
        if patterns.POOL[pattern] is None:
            outer = None if before is None else Past(*(x[None] for x in before))
            found = _dense(qs[None], ks[None], vs[None], 1, scale, outer, None, 0.0)[0].transpose(0, 1)
        else:
            found = _listed(qs, ks, vs, pattern, block, scale, before)
        if whole:
            return found
        parts.append(found)
        where.append(own)
    order = torch.cat(where)
    return torch.cat(parts).index_select(0, order.argsort())


def _listed(q: Tensor, k: Tensor, v: Tensor, pattern: int, block: int, scale: float, past: Past | None) -> Tensor:
    """(h, n, e): heads of one pattern; each block of queries a sequence of its own, with its listed blocks as keys."""
    n = q.shape[1]
    blocks = -(-n // block)
    short = blocks * block - n
    # Keys that fill up the last block lie behind every query that counts, so the causal mask hides them.
    qb, kb, vb = (pad(x, (0, 0, 0, short)).unflatten(1, (blocks, block)) for x in (q, k, v))
    at, mask = _slots(pattern, blocks, block, q.device)
    kg, vg = (x.index_select(1, at.flatten()).unflatten(1, at.shape).flatten(2, 3) for x in (kb, vb))
    if past is not None:
        kg, vg = (torch.cat([x[:, None].expand(-1, blocks, -1, -1), y], 2) for x, y in zip(past, (kg, vg), strict=True))
        mask = pad(mask, (past.keys.shape[1], 0), value=True)
    found = scaled_dot_product_attention(
        qb.transpose(0, 1), kg.transpose(0, 1), vg.transpose(0, 1), attn_mask=mask[:, None], scale=scale
    )
    return found.transpose(0, 1).flatten(1, 2)[:, :n]


_slot_cache: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}


def _slots(pattern: int, blocks: int, block: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(key blocks int64 (blocks, c), mask bool (blocks, block, c·block)) of a pattern, rows filled up with block 0 and masked."""
    key = (pattern, blocks, block, device)
    if key not in _slot_cache:
        if len(_slot_cache) > 256:
            _slot_cache.clear()
        kept = patterns.masks(blocks)[pattern]
        most = int(kept.sum(1).max())
        order = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        real = kept.gather(1, order)
        at = torch.where(real, order, 0)
        tokens = at[:, :, None] * block + torch.arange(block)
        rows = torch.arange(blocks)[:, None] * block + torch.arange(block)
        mask = (tokens.flatten(1)[:, None] <= rows[:, :, None]) & real.repeat_interleave(block, 1)[:, None]
        _slot_cache[key] = at.to(device), mask.to(device)
    return _slot_cache[key]


@torch.no_grad()
def block_mass(q: Tensor, k: Tensor, block: int, scale: float) -> Tensor:
    """Dense attention of one document by blocks, float32 (H, b, b): the mean over a block's queries of what they give to each block of
    keys; rows sum to 1. q (H, n, e), k (Hkv, n, e). One block of queries at a time."""
    heads, n, _ = q.shape
    group = heads // k.shape[0]
    blocks = -(-n // block)
    out = torch.zeros(heads, blocks, blocks, device=q.device)
    later = torch.ones(block, block, dtype=torch.bool, device=q.device).triu(1)
    for i in range(blocks):
        rows = q[:, i * block : (i + 1) * block]
        seen = min((i + 1) * block, n)
        keys = k[:, :seen] if group == 1 else k[:, :seen].repeat_interleave(group, 0)
        s = (rows @ keys.transpose(1, 2)).float().mul_(scale)
        s[:, :, i * block :].masked_fill_(
            later[: len(rows[0]), : seen - i * block], -torch.inf
        )  # only the diagonal block is cut
        p = s.softmax(-1).mean(1)
        out[:, i, : i + 1] = pad(p, (0, (i + 1) * block - seen)).unflatten(1, (i + 1, block)).sum(-1)
    return out
