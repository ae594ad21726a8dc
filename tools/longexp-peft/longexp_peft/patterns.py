"""The pool of block patterns that heads choose from, and their lists (arXiv 2510.15964, Dynamic-aware Operator).

A pattern says for every row block i of a document which key blocks j <= i it reads: a window of the last w, the first c (sinks),
every t-th (strides), or all. Block 0 and the diagonal are in each. A row's list does not depend on how long the document is, so one
table serves all lengths: by rows for the forward and dQ, by columns for dK and dV, where a shorter document stops earlier. Online, a
head's choice is a number; no mask is made anew.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold_shared import BadInput

DENSE = "dense"


class Pattern(NamedTuple):
    """Last `window` blocks, first `sinks`, every `stride`-th (0: none), and `random` others a row, the same in every document."""

    window: int
    sinks: int = 1
    stride: int = 0
    random: int = 0

    @property
    def name(self) -> str:
        parts = (
            [f"w{self.window}"]
            + ([f"s{self.sinks}"] if self.sinks > 1 else [])
            + ([f"t{self.stride}"] if self.stride else [])
        )
        parts += [f"r{self.random}"] if self.random else []
        return "+".join(parts)

    def mask(self, n: int) -> Tensor:
        i, j = torch.arange(n)[:, None], torch.arange(n)
        kept = (i - j < self.window) | (j < self.sinks)
        if self.stride:
            kept |= (j + 1) % self.stride == 0
        for row in range(n) if self.random else ():
            others = [x for x in range(row) if not kept[row, x]]
            draw = random.Random(row)
            kept[row, draw.sample(others, min(self.random, len(others)))] = True
        return kept & (j <= i)


POOL: tuple[Pattern | None, ...] = (
    None,  # dense
    *(Pattern(w) for w in (1, 2, 3, 4, 6, 8, 12, 16)),
    *(Pattern(w, c) for c in (2, 4) for w in (1, 2, 4, 8)),
    *(Pattern(w, 1, t) for t in (4, 8) for w in (1, 2, 4)),
    Pattern(3, 1, 0, 5),
)
# What others read whatever the head: at 32 blocks .246 and .330 of all, where the measurements beside the paper have .257 and .330.
FIELD = {"bigbird": "w3+r5", "longformer": "w12"}
NAMES = tuple(DENSE if one is None else one.name for one in POOL)


@functools.lru_cache(maxsize=128)
def masks(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Bool (P, n, n): all patterns over n blocks, row by key."""
    if str(device) != "cpu":
        return masks(n).to(device)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    return torch.stack([causal if one is None else one.mask(n) for one in POOL])


@functools.lru_cache(maxsize=128)
def densities(n: int, device: torch.device | str = "cpu") -> Tensor:
    """(P,) blocks read of n²; causal is (n + 1) / 2n."""
    return masks(n, device).sum((1, 2)).double() / n**2


class Lists(NamedTuple):
    """CSR by rows and CSC by columns of every pattern over R blocks: ptr int32 (P, R + 1) into idx int32; ascending."""

    row_ptr: Tensor
    row_idx: Tensor
    col_ptr: Tensor
    col_idx: Tensor


@functools.lru_cache(maxsize=16)
def lists(n: int) -> Lists:
    """The pool's tables for documents of up to n blocks."""
    whole = masks(n)

    def table(m: Tensor) -> tuple[Tensor, Tensor]:
        counts = m.sum(2).flatten()
        ends = counts.cumsum(0)
        begins = torch.cat([torch.zeros(1, dtype=ends.dtype), ends])
        at = torch.arange(len(m))[:, None] * n + torch.arange(n + 1)
        return begins[at].to(torch.int32), m.nonzero()[:, 2].to(torch.int32)

    return Lists(*table(whole), *table(whole.transpose(1, 2)))


def choose(mass: Tensor, least: float) -> Tensor:
    """For each head the cheapest pattern that covers at least `least` of the attention, int64 (H,): mass (H, n, n) by row and key
    block, each row summing to 1. Dense where none does."""
    n = mass.shape[-1]
    whole = masks(n, mass.device)
    covered = torch.einsum("pij,hij->hp", whole.to(mass.dtype), mass) / n
    cost = whole.sum((1, 2)).expand(len(mass), -1)
    enough = covered >= least * mass.sum((1, 2))[:, None] / n - 1e-6
    enough[:, 0] = True
    return torch.where(enough, cost, n * n + 1).argmin(1)


def covered(mass: Tensor, chosen: Sequence[int] | Tensor) -> Tensor:
    """(H,): the share of each head's attention that its pattern reads, a mean over rows."""
    n = mass.shape[-1]
    picked = masks(n, mass.device)[torch.as_tensor(chosen, device=mass.device)]
    return (mass * picked).sum((1, 2)) / n


def exposed(mass: Tensor, least: float) -> Tensor:
    """Bool (H, n, n): for every head and row the fewest blocks with at least `least` of its mass, the diagonal and block 0 among
    them: what no pool can undercut."""
    h, n, _ = mass.shape
    forced = torch.eye(n, dtype=torch.bool)
    forced[:, 0] = True
    ranked = torch.where(forced.to(mass.device), mass + 2, mass)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    sorted_mass = mass.gather(-1, order)
    before = sorted_mass.cumsum(-1) - sorted_mass
    kept = torch.zeros(h, n, n, dtype=torch.bool, device=mass.device).scatter(-1, order, before < least - 1e-9)
    return (kept | forced.to(mass.device)) & torch.ones(n, n, dtype=torch.bool, device=mass.device).tril()


def numbers(names: Sequence[str]) -> list[int]:
    """Patterns by name. Raises BadInput."""
    for name in names:
        if name not in NAMES:
            raise BadInput(f"pattern {name!r}: expected one of {', '.join(NAMES)}")
    return [NAMES.index(name) for name in names]
