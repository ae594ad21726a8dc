"""Which neurons, and which attention patterns, a row will need, from a layer's input alone (arXiv 2510.15964, Sequence-oriented
Predictor).

`LowRank`: for every token σ(x A B + c) estimates, block by block, the share of the block's typical energy that the token calls up;
summed over the group and times that energy it is the group's, and the fewest blocks that leave at most `lost` of the sum outside are
the set. `Svd` needs no training: pre-activations through the r largest singular directions of the matrix, as SparseLoRA has it.

Drift: a LoRA on the first matrix moves pre-activations by Δz = s u B1ᵀ, known exactly. Svd adds it. LowRank, with ReLU, adds what it
calls up in neurons that were just below zero, Σ_t Σ_{j in block} Δz_tj² ‖W2[:, j]‖², as ⟨uᵀu, G_b⟩ with G_b = s² Σ_j ‖W2_j‖² B1_j B1_jᵀ,
at the cost of r² a token: more than quiet neurons can get, less than busy ones may, which are in the set anyway. Drift
that comes from below is met by noise on the inputs in training, and by audits (audit.py), which lower `lost`.

`AttentionLowRank`: block means of the input, q̂ and k̂ of rank r a head with bias, and a term for the blocks' distance; its softmax is
the estimate of the head's attention by blocks, for which the cheapest pattern is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from longexp_peft import patterns, select
from longexp_peft.mlp import Rows, Weights

DISTANCES = 64  # blocks of distance that have a term of their own


class Scorer(ABC):
    """What the two predictors share: energies of blocks to a set of neurons. width: F; lost: the share of the estimated energy that
    may stay outside; fixed: blocks that are taken on a GPU, where their number may not depend on the data, 0 for the rule above."""

    block: int
    width: int
    lost: float
    fixed: int = 0
    floor: float = 0.0

    @abstractmethod
    def scores(self, x: Tensor, w: Weights, u: Tensor | None) -> Tensor:
        """Estimated energy (⌈F/block⌉,) of a group's tokens x (M, d); u (M, r) of the first matrix's LoRA."""

    @torch.no_grad()
    def choose(self, x: Tensor, w: Weights, u: Tensor | None) -> Rows | None:
        """The neurons to compute; None for all."""
        found = self.scores(x, w, u)
        if x.is_cuda and self.fixed:
            if self.fixed >= len(found):
                return None
            blocks = found.topk(self.fixed).indices.sort().values
            return self._neurons(blocks)
        kept = select.smallest(found, self.lost)
        blocks = kept.nonzero()[:, 0]
        if len(blocks) == len(kept):
            return None
        if len(blocks) and int(blocks[-1]) == len(blocks) - 1:
            return slice(0, min(self.width, len(blocks) * self.block))
        return self._neurons(blocks)

    def _neurons(self, blocks: Tensor) -> Tensor:
        found = (blocks[:, None] * self.block + torch.arange(self.block, device=blocks.device)).flatten()
        return found if self.width % self.block == 0 else found[found < self.width]


class LowRank(Scorer):
    """a (r, d), b (⌈F/block⌉, r), c, energy (⌈F/block⌉,), norms² (F,). floor: what a token says of a block below it counts for nothing:
    a little doubt about every token and block would add up to blocks that no token wants."""

    def __init__(
        self, tensors: dict[str, Tensor], block: int, width: int, lost: float, fixed: int = 0, floor: float = 0.0
    ) -> None:
        self.block, self.width, self.lost, self.fixed, self.floor = block, width, lost, fixed, floor
        self.a, self.b, self.c, self.energy, self.norms2 = (tensors[k] for k in ("a", "b", "c", "energy", "norms2"))

    def shares(self, x: Tensor) -> Tensor:
        """(M, ⌈F/block⌉): the share of each block's typical energy that a token calls up."""
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        return linear(linear(x, a), b, self.c.to(x.dtype)).sigmoid_()

    def summed(self, shares: Tensor) -> Tensor:
        if self.floor:
            shares = (shares - self.floor).clamp_min_(0)
        return shares.sum(0, dtype=torch.float32) * self.energy

    def scores(self, x: Tensor, w: Weights, u: Tensor | None) -> Tensor:
        found = self.summed(self.shares(x))
        low = (w.gate or w.up).low
        if low is None or u is None or w.act != "relu":
            return found
        lb, scale = low[1].float(), low[2]
        moved = u.float().t() @ u.float()
        each = (lb @ moved * lb).sum(1) * self.norms2 * scale**2
        return found + select.by_block(each, self.block)

    def parts(self) -> dict[str, Tensor]:
        return {"a": self.a, "b": self.b, "c": self.c, "energy": self.energy, "norms2": self.norms2}


class Svd(Scorer):
    """v (r, d), u (F, r), mean input (d,), mean pre-activation (F,), norms² (F,); with a gate the same of the second matrix."""

    def __init__(
        self, tensors: dict[str, Tensor], block: int, width: int, lost: float, fixed: int = 0, floor: float = 0.0
    ) -> None:
        self.block, self.width, self.lost, self.fixed = block, width, lost, fixed
        self.tensors = tensors

    @classmethod
    def of(cls, w: Weights, mean: Tensor, rank: int, block: int, lost: float) -> Svd:
        """Of a layer's matrices and its mean input (d,)."""
        found = {"mean": mean.float(), "norms2": w.down.weight.float().square().sum(1)}
        for name, side in (("first", w.gate or w.up), ("second", w.up if w.gate is not None else None)):
            if side is None:
                continue
            weight = side.weight.detach().float()
            u, s, v = torch.svd_lowrank(weight, q=min(rank + 8, *weight.shape), niter=4)
            found[f"{name}.u"], found[f"{name}.v"] = (u[:, :rank] * s[:rank]).contiguous(), v[:, :rank].t().contiguous()
            found[f"{name}.z"] = linear(mean.float(), weight, None if side.bias is None else side.bias.detach().float())
        return cls(found, block, len(w.up.weight), lost)

    def _z(self, name: str, x: Tensor) -> Tensor:
        t = self.tensors
        return linear(
            linear(x - t["mean"].to(x.dtype), t[f"{name}.v"].to(x.dtype)),
            t[f"{name}.u"].to(x.dtype),
            t[f"{name}.z"].to(x.dtype),
        )

    def scores(self, x: Tensor, w: Weights, u: Tensor | None) -> Tensor:
        z = self._z("first", x)
        low = (w.gate or w.up).low
        if low is not None and u is not None:
            z = torch.addmm(z, u.to(z.dtype), low[1].to(z.dtype).t(), alpha=low[2])
        h = z.relu().square() if w.act == "relu2" else z.relu() if w.act == "relu" else w.function(z)
        if w.gate is not None:
            h = h * self._z("second", x)
        return select.by_block(h.square().sum(0, dtype=torch.float32) * self.tensors["norms2"], self.block)

    def parts(self) -> dict[str, Tensor]:
        return self.tensors


def token_energy(h: Tensor, norms: Tensor, block: int) -> Tensor:
    """(M, ⌈F/block⌉) float32: what every token calls up in a block, Σ_{j in block} h_tj² ‖W2[:, j]‖²."""
    each = h.float().square() * norms.float().square()
    short = -each.shape[1] % block
    return torch.nn.functional.pad(each, (0, short)).unflatten(1, (-1, block)).sum(2)


def train_low_rank(
    x: Tensor, energy: Tensor, norms: Tensor, *, rank: int, block: int, width: int, noise: float, positive: float, steps: int,
    lr: float, batch: int, seed: int,
) -> tuple[LowRank, list[float]]:  # fmt: skip
    """A predictor of inputs x (N, d) and block energies (N, nb), and its losses. noise: a share of the inputs' root mean square;
    positive: the weight of what is called up against what is not, which leans towards recall."""
    draw = torch.Generator().manual_seed(seed)
    d, blocks = x.shape[1], energy.shape[1]
    # The energy a block has when it is called up: above 9 in 10 of its tokens with any.
    cap = torch.stack([_high(column) for column in energy.unbind(1)])
    y = (energy / cap.clamp_min(1e-30)).clamp_(max=1)
    a = nn.Parameter(torch.randn(rank, d, generator=draw) / d**0.5)
    b = nn.Parameter(torch.randn(blocks, rank, generator=draw) / rank**0.5)
    share = y.mean(0).clamp(1e-4, 1 - 1e-4)
    c = nn.Parameter((share / (1 - share)).log())
    spread = float(x.float().square().mean().sqrt()) * noise
    adam = torch.optim.Adam([a, b, c], lr=lr)
    losses, weight = [], torch.tensor(positive)
    # Drawn once: to draw anew for every step would take longer than the step.
    pool = spread * torch.randn(4096, d, generator=draw) if spread else None
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, 2 * (steps - step) / steps)  # constant, then linear to 0
        at = torch.randint(len(x), (min(batch, len(x)),), generator=draw)
        seen = x[at].float()
        if pool is not None:
            seen = seen + pool[torch.randint(len(pool), (len(seen),), generator=draw)]
        loss = binary_cross_entropy_with_logits(linear(linear(seen, a), b, c), y[at], pos_weight=weight)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    tensors = {"a": a.detach(), "b": b.detach(), "c": c.detach(), "energy": cap, "norms2": norms.float().square()}
    return LowRank(tensors, block, width, 0.0), losses


def _high(column: Tensor) -> Tensor:
    some = column[column > 0]
    return some.kthvalue(max(1, int(0.9 * len(some)))).values if len(some) else torch.zeros(())


Groups = tuple[list[Tensor], list[Tensor]]  # scores and energies (nb,), one a group


def settle(
    scores: list[Tensor], energies: list[Tensor], least: float, tiles: Groups | None = None
) -> tuple[float, int]:
    """(lost, fixed): the largest share of estimated energy that may stay outside so that in 9 of 10 groups the set has at least `least`
    of the true energy, and the blocks that 95 in 100 groups need then. scores and energies (nb,), one a group.

    Two and four groups taken together, whose scores and energies are sums, must keep it as well: a row may hold more kinds of text
    than any of these, and where few blocks are needed a share that is too large would seem harmless. tiles: groups of fewer tokens
    that must keep it too, as `--group sequence` has them.
    """
    kinds = [(scores, energies), *([tiles] if tiles is not None else [])]
    for size in (2, 4):
        many = range(0, len(scores) - size + 1, max(1, size // 2))
        kinds.append(([_sum(scores[at : at + size]) for at in many], [_sum(energies[at : at + size]) for at in many]))
    chosen, counts = 0.0, [0] * len(scores)
    for lost in (*(x * 10.0**-n for n in range(1, 7) for x in (5, 3, 2, 1)), 0.0):
        chosen, counts = lost, [int(select.smallest(s, lost).sum()) for s in scores]
        for some, truths in kinds:
            found = sorted(select.recall(e, select.smallest(s, lost)) for s, e in zip(some, truths, strict=True))
            if found and found[int(0.1 * len(found))] < least:
                break
        else:
            break
    counts.sort()
    return chosen, counts[min(len(counts) - 1, int(0.95 * len(counts)))]


FLOORS = (0.2, 0.1, 0.05, 0.02, 0.0)


def settle_floor(
    predictor: LowRank, shares: list[Tensor], energies: list[Tensor], least: float, tile: int
) -> tuple[float, float, int]:
    """(floor, lost, fixed): of some floors the one with which `settle` needs the fewest blocks, of equal ones the highest: fine-tuning
    moves every token a little, and doubt that is small now would grow into blocks. shares and energies
    (M, nb), one pair a row, which is looked at whole and in tiles of so many tokens."""
    best: tuple[float, float, float, int] | None = None
    for floor in FLOORS:
        predictor.floor = floor
        scores = [predictor.summed(one) for one in shares]
        small = [predictor.summed(part) for one in shares for part in one.split(tile)], [part.double().sum(0) for one in energies for part in one.split(tile)]  # fmt: skip
        lost, fixed = settle(scores, [one.double().sum(0) for one in energies], least, small)
        needed = sum(float(select.smallest(s, lost).float().mean()) for s in scores)
        if best is None or needed < best[0]:
            best = (needed, floor, lost, fixed)
    assert best is not None
    predictor.floor = best[1]
    return best[1:]


def _sum(some: list[Tensor]) -> Tensor:
    return torch.stack(some).sum(0)


class AttentionLowRank:
    """q, k (H, r, d), biases (H, r), distance (H, DISTANCES), sink (H,); mass: the share of attention a pattern must cover."""

    def __init__(self, tensors: dict[str, Tensor], mass: float) -> None:
        self.tensors, self.mass = tensors, mass

    def estimate(self, x: Tensor, block: int) -> Tensor:
        """(H, b, b) of one document's inputs x (n, d): attention by blocks, rows summing to 1."""
        return _attention_scores(self.tensors, block_means(x, block)).softmax(-1)

    @torch.no_grad()
    def choose(self, x: Tensor, block: int) -> Tensor:
        """A pattern for each head, int64 (H,)."""
        return patterns.choose(self.estimate(x, block), self.mass)


def block_means(x: Tensor, block: int) -> Tensor:
    """(⌈n/block⌉, d) means over blocks of tokens; of the last over what it has."""
    n = len(x)
    short = -n % block
    sums = torch.nn.functional.pad(x.float(), (0, 0, 0, short)).unflatten(0, (-1, block)).sum(1)
    sizes = torch.full((len(sums), 1), float(block), device=x.device)
    sizes[-1] = block - short
    return sums / sizes


def _attention_scores(t: dict[str, Any], means: Tensor) -> Tensor:
    n = len(means)
    q = torch.einsum("nd,hrd->hnr", means, t["q"]) + t["q_bias"][:, None]
    k = torch.einsum("nd,hrd->hnr", means, t["k"]) + t["k_bias"][:, None]
    apart = torch.arange(n, device=means.device)[:, None] - torch.arange(n, device=means.device)
    s = q @ k.transpose(1, 2) + t["distance"][:, apart.clamp(0, DISTANCES - 1)]
    s = s + t["sink"][:, None, None] * (torch.arange(n, device=means.device) == 0)
    return s.masked_fill(apart < 0, -torch.inf)


def train_attention(
    means: list[Tensor], masses: list[Tensor], *, rank: int, steps: int, lr: float, seed: int, noise: float
) -> tuple[dict[str, Tensor], list[float]]:
    """Tensors of an `AttentionLowRank` from documents' block means (n, d) and true masses (H, n, n): cross entropy of each row."""
    draw = torch.Generator().manual_seed(seed)
    heads, d = len(masses[0]), means[0].shape[1]
    t = {
        "q": torch.randn(heads, rank, d, generator=draw) / d**0.5, "k": torch.randn(heads, rank, d, generator=draw) / d**0.5,
        "q_bias": torch.zeros(heads, rank), "k_bias": torch.zeros(heads, rank), "distance": torch.zeros(heads, DISTANCES),
        "sink": torch.zeros(heads),
    }  # fmt: skip
    for x in t.values():
        x.requires_grad_()
    spread = float(torch.cat(means).square().mean().sqrt()) * noise
    adam = torch.optim.Adam(t.values(), lr=lr)
    losses = []
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, 2 * (steps - step) / steps)
        at = int(torch.randint(len(means), (1,), generator=draw))
        x = means[at] + spread * torch.randn(means[at].shape, generator=draw)
        logp = _attention_scores(t, x).log_softmax(-1)
        loss = -(masses[at] * logp.masked_fill(logp.isinf(), 0.0)).sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    return {name: x.detach() for name, x in t.items()}, losses
