"""Which blocks of the cache a decoding step reads (arXiv 2506.08889, section 3), and what methods rank them by.

A sequence of S cached tokens, the newest of them the query's own, has NB = ceil(S / B) blocks. The tail, the query's own
block, is always read: no gate was trained on it, and while it fills it has no pooled key. Of the blocks before it a policy
chooses by score. A budget is a hard ceiling on everything read, sink and tail among it. `paper_compat` is the published code's
rule in its place: k blocks by score, the unfilled one competing at logit 0, and the first and last in addition.

Scores are logits: budget and ratio need their order alone, threshold and mass their softmax over the blocks before the tail.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from seer_decode.shape import check_block
from tenfold_shared import BadInput

Kind = Literal["budget", "threshold", "mass", "ratio", "dense"]
KINDS: tuple[Kind, ...] = ("budget", "threshold", "mass", "ratio", "dense")
METHODS = ("seer", "oracle", "quest", "recent", "random", "dense")
_DOMAIN = {
    "budget": "tokens, at least one block of {block} tokens", "threshold": "0 to 1", "mass": "more than 0, to 1", "ratio": "more than 0, to 1",
}  # fmt: skip


class Policy(msgspec.Struct, frozen=True):
    """How many blocks are read, beside the order that scores give.

    kind and value: budget T tokens (T // block blocks in all), threshold τ on the softmax (S > τ; 0 reads all), mass p (the
    smallest prefix whose softmax sums to p or more; 1 reads all), ratio r (ceil(r NB) blocks), or dense. sink: first blocks
    and local: last blocks, the tail among them, that are always read, within the budget.
    """

    kind: Kind
    value: float = 0.0
    block: int = 64
    sink: int = 0
    local: int = 1
    paper_compat: bool = False

    def checked(self) -> Policy:
        """Itself. Raises BadInput for what no step can follow."""
        check_block(self.block)
        if self.kind not in KINDS:
            raise BadInput(f"policy: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        value = self.value
        fits = {
            "budget": value >= self.block and value == int(value) if math.isfinite(value) else False,
            "threshold": 0 <= value <= 1,
            "mass": 0 < value <= 1,
            "ratio": 0 < value <= 1,
            "dense": True,
        }[self.kind]
        if not fits:
            wanted = _DOMAIN[self.kind].format(block=self.block)
            raise BadInput(f"{self.kind} {value:g}: expected {wanted}")
        if self.sink < 0 or self.local < 1:
            raise BadInput(f"sink {self.sink}, local {self.local}: expected 0 or more, and 1 or more (the tail)")
        if self.kind == "budget" and not self.paper_compat and self.sink + self.local > value // self.block:
            raise BadInput(
                f"budget {value:g}: is {value // self.block:g} blocks of {self.block}, and sink {self.sink} with local "
                f"{self.local} are {self.sink + self.local}"
            )
        if self.paper_compat and (self.sink or self.local != 1 or self.kind in ("mass", "ratio")):
            raise BadInput("paper_compat: knows a budget or a threshold, and no sink or local blocks of its own")
        return self

    @property
    def notes(self) -> list[str]:
        """Lines a user should read: a budget that is no whole number of blocks is rounded down."""
        whole = int(self.value // self.block) * self.block
        if self.kind == "budget" and whole != self.value:
            return [
                f"budget {self.value:g}: rounded down to {whole} tokens, {whole // self.block} blocks of {self.block}"
            ]
        return []

    def ceiling(self, blocks: int) -> int | None:
        """Blocks read at most of so many; None where scores decide."""
        if self.kind == "budget":
            most = int(self.value // self.block)
        elif self.kind == "ratio":
            # 0.07 · 100 is a little more than 7 in floats; such a hair is no block.
            most = max(math.ceil(blocks * self.value - 1e-9), self.sink + self.local)
        elif self.kind == "dense":
            most = blocks
        else:
            return None
        return min(most, blocks)

    def ceilings(self, blocks: Tensor) -> Tensor | None:
        """The same of (B,) numbers of blocks."""
        each = [self.ceiling(count) for count in blocks.tolist()]
        return None if None in each else torch.tensor(each, device=blocks.device)


@functools.lru_cache(64)
def _check(policy: Policy) -> None:
    """A layer and step asks."""
    policy.checked()


class Selection(NamedTuple):
    """indices (B, H, K) int32: each row's blocks in ascending order, then −1; counts (B, H) int32."""

    indices: Tensor
    counts: Tensor

    def mask(self, blocks: int) -> Tensor:
        """(B, H, blocks) whether a block is read."""
        found = torch.zeros(*self.counts.shape, blocks + 1, dtype=torch.bool, device=self.indices.device)
        return found.scatter_(-1, self.indices.long().where(self.indices >= 0, blocks), True)[..., :blocks]

    @classmethod
    def of_mask(cls, mask: Tensor, width: int | None = None) -> Selection:
        """From (B, H, NB); width: of the lists, else the longest one's length. Raises ValueError where one is longer."""
        counts = mask.sum(-1, dtype=torch.int32)
        longest = int(counts.max()) if counts.numel() else 0
        width = longest if width is None else width
        if longest > width:
            raise ValueError(f"width {width}: a list has {longest} blocks")
        blocks = mask.shape[-1]
        at = torch.arange(blocks, dtype=torch.int32, device=mask.device)
        ascending = at.expand_as(mask).where(mask, blocks).sort(-1).values
        ascending = pad(ascending, (0, max(0, width - blocks)), value=blocks)[..., :width]
        return cls(ascending.where(ascending < blocks, -1).to(torch.int32), counts)


def blocks_of(lengths: Tensor, block: int) -> Tensor:
    """NB = ceil(S / B), the tail's among them."""
    return (lengths + block - 1) // block


def select(scores: Tensor, lengths: Tensor, policy: Policy) -> Selection:
    """Blocks to read.

    scores: (B, H, N) float, logits of the blocks of each sequence in order, H stored heads (query heads for an unshared
    method); at least those before the tail, what comes after is not looked at. lengths: (B,) integers, S >= 1. Of equal
    scores the lower block wins. Raises BadInput for lengths without tokens, missing scores, NaN or infinity (−infinity is a score).
    """
    _check(policy)
    lengths = lengths.to(scores.device, torch.int64)
    if scores.dim() != 3 or lengths.shape != scores.shape[:1]:
        raise BadInput(f"scores: expected (B, H, N) with (B,) lengths, got {tuple(scores.shape)} and {tuple(lengths.shape)}")  # fmt: skip
    if not lengths.numel():
        return Selection(scores.new_zeros(*scores.shape[:2], 0, dtype=torch.int32), scores.new_zeros(scores.shape[:2], dtype=torch.int32))  # fmt: skip
    each = lengths.tolist()
    shortest, longest = min(each), max(each)
    if shortest < 1:
        raise BadInput(f"lengths: expected 1 token or more, got {shortest}")
    most = -(-longest // policy.block)
    if scores.shape[2] < most - 1:
        raise BadInput(f"scores: expected {most - 1} blocks before the tail, got {scores.shape[2]}")
    if shortest == longest and _counted(scores, policy):
        return _alike(scores, most, policy)
    blocks = blocks_of(lengths, policy.block)  # (B,)
    z = pad(scores.double(), (0, max(0, most - scores.shape[2])))[..., :most]
    at = torch.arange(most, device=z.device)
    exists, own = at < blocks[:, None], (blocks - 1)[:, None]  # (B, NB), (B, 1)
    before = at < own
    if ((z.isnan() | z.isposinf()) & before[:, None]).any():
        raise BadInput("scores: hold NaN or infinity")
    if policy.paper_compat:
        return Selection.of_mask(_as_published(z, lengths, blocks, policy))
    forced = (exists & ((at < policy.sink) | (at > own - policy.local)))[:, None]
    before, exists = before[:, None], exists[:, None]
    ceiling = policy.ceilings(blocks)
    if ceiling is not None:
        ranks = z.clamp(-1e300, 1e300).masked_fill(forced, torch.inf).masked_fill(~exists, -torch.inf)
        return Selection.of_mask(_top(ranks, ceiling) & exists)
    return Selection.of_mask(_by_share(z, before, policy) | forced)


def _counted(scores: Tensor, policy: Policy) -> bool:
    """Whether `_alike` can choose."""
    by_count = policy.kind in ("budget", "ratio", "dense") and not policy.paper_compat
    return by_count and scores.device.type == "cpu" and scores.dtype == torch.float32


def _alike(scores: Tensor, blocks: int, policy: Policy) -> Selection:
    """What `select` finds by a ceiling where every sequence has so many blocks. A step asks once a layer for a few hundred
    scores between two sweeps over memory: what counts is how few calls it takes."""
    batch, heads, _ = scores.shape
    z = scores.detach().numpy()[..., : blocks - 1]
    if z.size and not z.max() < math.inf:
        raise BadInput("scores: hold NaN or infinity")
    most = policy.ceiling(blocks)
    assert most is not None
    counts = torch.full((batch, heads), most, dtype=torch.int32)
    if most == blocks:
        return Selection(torch.arange(blocks, dtype=torch.int32).expand(batch, heads, blocks).contiguous(), counts)
    ranks = np.empty((batch, heads, blocks), dtype=np.float32)
    ranks[..., : blocks - 1] = z
    ranks[..., blocks - policy.local :] = math.inf
    if policy.sink:
        ranks[..., : policy.sink] = math.inf
    least = np.partition(ranks, -most, axis=-1)[..., -most, None]
    taken = (ranks >= least).nonzero()[2]
    if taken.size > batch * heads * most:  # equals of the least: the lower blocks of them
        above, equal = ranks > least, ranks == least
        taken = (above | (equal & (equal.cumsum(-1) <= most - above.sum(-1, keepdims=True)))).nonzero()[2]
    return Selection(torch.from_numpy(taken.astype(np.int32).reshape(batch, heads, most)), counts)


def _top(ranks: Tensor, most: Tensor) -> Tensor:
    """(B, H, NB) whether a block is among the `most` (B,) of largest rank; ties go to the lower block."""
    order = ranks.sort(stable=True, dim=-1, descending=True).indices
    taken = torch.arange(ranks.shape[-1], device=ranks.device) < most[:, None, None]
    return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, taken.expand_as(order))


def _softmax(z: Tensor, valid: Tensor) -> Tensor:
    """Over valid blocks, 0 elsewhere and in rows without any."""
    return z.masked_fill(~valid, -torch.inf).softmax(-1).nan_to_num(0.0).masked_fill(~valid, 0.0)


def _by_share(z: Tensor, valid: Tensor, policy: Policy) -> Tensor:
    # At 0 and 1 a share that underflowed, or a sum a hair under 1, must not leave a block out.
    if policy.value == (0.0 if policy.kind == "threshold" else 1.0):
        return valid.expand_as(z)
    share = _softmax(z, valid)
    if policy.kind == "threshold":
        return share > policy.value
    order = share.masked_fill(~valid, -1.0).sort(stable=True, dim=-1, descending=True)
    sums = order.values.clamp_min(0.0).cumsum(-1)
    reached = pad(sums, (1, 0))[..., :-1] >= policy.value  # the blocks before it have the mass already
    return torch.zeros_like(valid.expand_as(z)).scatter(-1, order.indices, ~reached) & valid


def _as_published(z: Tensor, lengths: Tensor, blocks: Tensor, policy: Policy) -> Tensor:
    """k ∪ {last} ∪ {first}, up to k + 2 blocks; an unfilled last block competes at logit 0."""
    at = torch.arange(z.shape[-1], device=z.device)
    own = (blocks - 1)[:, None]
    unfilled = (lengths % policy.block != 0)[:, None] & (at == own)
    exists = (at < blocks[:, None])[:, None]
    z = z.masked_fill(unfilled[:, None], 0.0)
    if policy.kind == "threshold":
        chosen = _softmax(z, exists) > policy.value
    else:
        ceiling = policy.ceilings(blocks)
        assert ceiling is not None
        chosen = _top(z.masked_fill(~exists, -torch.inf), ceiling)
    return (chosen | (at == own)[:, None] | (at == 0)) & exists


# ---------------------------------------------------------------- what methods rank by


class Attention(NamedTuple):
    """One query's dense attention by blocks, (B, Hkv, NB) float32 each, 0 after a sequence's end.

    peak: the largest probability in a block, maximum over the group's heads; mass: a block's summed probability, mean over
    the group's heads.
    """

    peak: Tensor
    mass: Tensor


def attention(queries: Tensor, keys: Tensor, lengths: Tensor, block: int, scale: float | None = None) -> Attention:
    """queries (B, Hq, D), keys (B, Hkv, S, D), both after RoPE, the first lengths (B,) keys of each sequence."""
    _, heads, dim = queries.shape
    stored, tokens = keys.shape[1:3]
    logits = queries.float().unflatten(1, (stored, heads // stored)) @ keys.float().transpose(2, 3)
    logits = logits * (dim**-0.5 if scale is None else scale)  # (B, Hkv, g, S)
    absent = torch.arange(tokens, device=keys.device) >= lengths.to(keys.device)[:, None]
    shares = logits.masked_fill(absent[:, None, None], -torch.inf).softmax(-1)
    shares = pad(shares, (0, -tokens % block)).unflatten(-1, (-1, block))
    return Attention(shares.amax(-1).amax(2), shares.sum(-1).mean(2))


def oracle_scores(queries: Tensor, keys: Tensor, lengths: Tensor, block: int, scale: float | None = None) -> Tensor:
    """The training target for the query at hand, as logits (B, Hkv, NB): their softmax over past blocks is the target."""
    return attention(queries, keys, lengths, block, scale).peak.log()


class Bounds(NamedTuple):
    """Largest and least value of each channel over a block's keys after RoPE, (B, Hkv, NB, D) each."""

    high: Tensor
    low: Tensor


def key_bounds(keys: Tensor, block: int) -> Bounds:
    """Of keys (B, Hkv, S, D) after RoPE; a last block that is not full has those of the keys it has."""
    short = -keys.shape[2] % block
    high = pad(keys, (0, 0, 0, short), value=-torch.inf).unflatten(2, (-1, block)).amax(3)
    low = pad(keys, (0, 0, 0, short), value=torch.inf).unflatten(2, (-1, block)).amin(3)
    return Bounds(high, low)


def quest_scores(
    queries: Tensor, bounds: Bounds, share: Literal["max", "mean"] | None = "max", scale: float | None = None
) -> Tensor:
    """Quest (arXiv 2406.10774): Σ_d max(q_d high_d, q_d low_d), which no logit of the block exceeds; times scale, 1 / sqrt(D)
    unless given. queries (B, Hq, D) to (B, Hkv, NB), shared in a group by its heads' max or mean, or (B, Hq, NB) for None."""
    dim, stored = queries.shape[-1], bounds.high.shape[1]
    grouped = queries.float().unflatten(1, (stored, -1))  # (B, Hkv, g, D)
    up, down = grouped.clamp_min(0), grouped.clamp_max(0)
    # A channel's larger product is that with `high` where q_d > 0 and with `low` where it is not.
    found = up @ bounds.high.float().transpose(2, 3) + down @ bounds.low.float().transpose(2, 3)
    found = found * (dim**-0.5 if scale is None else scale)
    if share is None:
        return found.flatten(1, 2)
    return found.amax(2) if share == "max" else found.mean(2)


def recent_scores(lengths: Tensor, heads: int, block: int) -> Tensor:
    """(B, H, NB) that rank later blocks first."""
    most = int(blocks_of(lengths, block).max())
    return torch.arange(most, dtype=torch.float32, device=lengths.device).expand(len(lengths), heads, most)


def random_scores(lengths: Tensor, heads: int, block: int, seed: int = 0, layer: int = 0) -> Tensor:
    """(B, H, NB) uniform in [0, 1). A number depends on the seed, the layer, the length, the head and the block alone, so that
    no batch mate changes a sequence's draw."""
    most = int(blocks_of(lengths, block).max())
    device = lengths.device
    where = _mixed(torch.tensor(seed, dtype=torch.int64, device=device) * 1_000_003 + layer)
    rows = _mixed(where + lengths.to(torch.int64))[:, None, None]
    columns = _mixed(rows + torch.arange(heads, device=device)[:, None]) + torch.arange(most, device=device)
    return ((_mixed(columns) >> 11) & ((1 << 52) - 1)).double() / (1 << 52)


def _mixed(x: Tensor) -> Tensor:
    """splitmix64's step on int64, whose products wrap as the unsigned ones do; shifts are made logical by a mask."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def coverage(selection: Selection, measure: Tensor) -> Tensor:
    """(B, H) share of a measure (B, H, NB), such as Attention.peak or .mass, that lies in the blocks read."""
    inside = (measure.double() * selection.mask(measure.shape[-1])).sum(-1)
    return inside / measure.double().sum(-1)
