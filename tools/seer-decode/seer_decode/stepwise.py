"""A piece of text decoded as if token by token, in one forward, and what each method would have read (section 5 of the paper).

A token's keys and values at a layer depend on earlier tokens alone, so that every token of a piece can choose its own blocks at
once: the same numbers as a step for each. Dense attention is at hand beside the sparse one, so that the share of it that the
chosen blocks hold comes for nothing. One sequence at a time; prefills stay dense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from seer_decode.select import (
    Bounds,
    Policy,
    Selection,
    blocks_of,
    quest_scores,
    random_scores,
    recent_scores,
    select,
)

if TYPE_CHECKING:
    from seer_decode.cache import SeerLayer

CHUNK_BYTES = 16 << 20  # of the logits of some rows, float32: what is made anew time and again stays small

LEAST = 1e-20  # of the largest token's weight


class Seen(NamedTuple):
    """Of each token, means over a layer's stored heads, (n,): tokens that were read, the share of dense attention's mass in
    them, and the share of the summed block maxima (what gates are trained on)."""

    read: Tensor
    mass: Tensor
    peak: Tensor


def attend(layer: SeerLayer, query: Tensor, scale: float) -> Tensor:
    """(1, Hq, n, D) of the last n tokens of a cache of one sequence, each over the blocks that are chosen for it."""
    count, tokens = query.shape[2], int(layer.lengths[0])
    stored = layer.keys.shape[1]
    step = max(1, CHUNK_BYTES // (4 * query.shape[1] * tokens))
    out, seen = [], []
    for rows in torch.arange(tokens - count, tokens, device=query.device).split(step):
        part = query[0][:, rows - (tokens - count)]
        found, told = _rows(layer, part.unflatten(0, (stored, -1)), rows, scale)
        out.append(found)
        seen.append(told)
    layer.how.seen.append(Seen(*(torch.cat(parts) for parts in zip(*seen, strict=True))))
    return torch.cat(out, 2).flatten(0, 1)[None]


def _rows(layer: SeerLayer, query: Tensor, at: Tensor, scale: float) -> tuple[Tensor, Seen]:
    """query (Hkv, g, r, D) at positions (r,): output of the same shape, and what was seen."""
    how, block = layer.how, layer.block
    _, group, rows, _ = query.shape
    longest = int(at[-1]) + 1
    keys, values = layer.keys[0, :, :longest], layer.values[0, :, :longest]
    ahead = torch.arange(longest, device=at.device) > at[:, None]

    def scaled() -> Tensor:
        """(Hkv, g, r, S) logits, tokens ahead at −infinity."""
        found = (query.flatten(1, 2) @ keys.transpose(1, 2)).float().mul_(scale).unflatten(1, (group, rows))
        return found.masked_fill_(ahead, -torch.inf)

    logits, lengths = scaled(), at + 1
    most = int(blocks_of(lengths, block).max())
    logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    parts = pad(logits, (0, most * block - longest)).unflatten(-1, (most, block))
    total = parts.sum((-1, -2))[..., None]  # (Hkv, g, r, 1)
    mass = (parts.sum(-1) / total).mean(1).transpose(0, 1)  # (r, Hkv, NB), a head's mean
    peak = (parts.amax(-1) / total).amax(1).transpose(0, 1)
    dense = how.method == "dense" or layer.index < how.dense_layers
    policy = Policy("dense", block=block) if dense else how.policy
    scores = torch.zeros_like(mass) if dense else _scores(layer, query, at, peak, most, scale)
    chosen: Selection = select(scores, lengths, policy)
    mask = chosen.mask(most)  # (r, Hkv, NB)
    read = (mask * _tokens(lengths, most, block)[:, None]).sum(-1).float().mean(-1)
    if not dense:
        parts.mul_(mask.transpose(0, 1)[:, None, :, :, None])
        total = parts.sum((-1, -2))[..., None]
    shares = parts.flatten(-2)[..., :longest].div_(total)
    if not dense and bool(
        (total < LEAST).any()
    ):  # what is read is so little of the whole that its shares have no digits left
        hidden = ~mask.transpose(0, 1).repeat_interleave(block, -1)[:, None, :, :longest]
        shares = scaled().masked_fill_(hidden, -torch.inf).softmax(-1)
    shares = shares.to(values.dtype).flatten(1, 2)
    out = (shares @ values).unflatten(1, (group, rows))
    past = torch.arange(most, device=at.device) < (at // block)[:, None]  # what gates are trained on: strictly before
    target = peak * past[:, None]
    sums = target.sum(-1)
    share = torch.where(sums > 0, (target * mask).sum(-1) / sums.clamp_min(1e-30), 1.0)
    return out, Seen(read, (mass * mask).sum(-1).mean(-1), share.mean(-1))


def _tokens(lengths: Tensor, most: int, block: int) -> Tensor:
    """(r, NB) tokens of each block of sequences of these lengths."""
    begin = torch.arange(most, device=lengths.device) * block
    return (lengths[:, None] - begin).clamp(0, block)


def _scores(layer: SeerLayer, query: Tensor, at: Tensor, peak: Tensor, most: int, scale: float) -> Tensor:
    """(r, Hkv, NB) of the method, on the blocks before each row's own."""
    how, heads, lengths = layer.how, layer.keys.shape[1], at + 1
    if how.method == "oracle":
        return peak.log()
    if how.method == "recent":
        return recent_scores(lengths, heads, layer.block)
    if how.method == "random":
        return random_scores(lengths, heads, layer.block, how.seed, layer.index)
    flat = query.flatten(0, 1)  # (Hq, r, D)
    if how.method == "quest":
        bounds = Bounds(layer.high[:, :, :most], layer.low[:, :, :most])
        return quest_scores(flat.transpose(0, 1), bounds, how.quest_share, scale)
    assert layer.gate is not None
    before = how.unrotated(flat[None], at[None])
    features = layer.gate.query_features(before, at)
    return layer.gate.scores(features, layer.compressed[:, :, :most])[0].transpose(0, 1)
