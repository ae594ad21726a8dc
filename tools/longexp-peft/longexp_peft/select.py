"""Which neurons matter to a group of tokens, and the smallest sets that keep what is asked for (arXiv 2510.15964; ours where the
published rule drops the largest neuron of a layer: README, "Importance").

A neuron's energy is I_j² = Σ_t h_tj² ‖W2[:, j]‖²: what its part of the output has over the tokens. A set S loses
Σ_{j not in S} I_j² of it, and a token's output moves by at most Σ_{j not in S} |h_tj| ‖W2[:, j]‖.
"""

from __future__ import annotations

import torch
from torch import Tensor


def energies(h: Tensor, norms: Tensor) -> Tensor:
    """I_j² (F,) float64 of activations h (M, F) and column norms ‖W2[:, j]‖ (F,)."""
    exact = h.dtype if h.dtype == torch.float64 else torch.float32  # a 16-bit sum would overflow
    return torch.linalg.vector_norm(h, dim=0, dtype=exact).double().square() * norms.double().square()


def smallest(energy: Tensor, lost: float) -> Tensor:
    """Bool (n,): the fewest entries whose energy leaves at most `lost` of the sum outside; of equal ones the earlier. None where
    all are 0."""
    order = energy.argsort(descending=True, stable=True)
    kept = _count(energy[order], lost)
    found = torch.zeros(len(energy), dtype=torch.bool, device=energy.device)
    found[order[:kept]] = True
    return found


def _count(descending: Tensor, lost: float) -> int:
    """How many of energies in descending order leave at most `lost` of their sum outside."""
    total = descending.double().sum()
    if not total > 0:
        return 0
    # Summed from the small end: what is left out is small beside the whole, and keeps its digits so.
    outside = descending.double().flip(0).cumsum(0).flip(0)
    return int((outside > lost * total).sum())


def density(energy: Tensor, mass: float) -> float:
    """The share of entries that the smallest set with `mass` of the energy has."""
    return _count(energy.sort(descending=True).values, 1 - mass) / max(1, len(energy))


def by_block(energy: Tensor, block: int) -> Tensor:
    """Sums (⌈F/block⌉,) over blocks of consecutive entries."""
    short = -len(energy) % block
    return torch.nn.functional.pad(energy, (0, short)).view(-1, block).sum(1)


def members(blocks: Tensor, block: int, width: int) -> Tensor:
    """Bool (width,) of bool (⌈width/block⌉,): every entry of a block that is in."""
    return blocks.repeat_interleave(block)[:width]


def recall(energy: Tensor, kept: Tensor) -> float:
    """The share of the energy in a set, bool (F,) or indices; 1 where there is none."""
    total = float(energy.sum())
    return float(energy[kept].sum()) / total if total > 0 else 1.0


def published(activation: Tensor, p: float, block: int = 128, share: float = 0.9) -> Tensor:
    """Bool (F/block,): the blocks that the published code keeps, for comparison alone. activation (F,) is summed over a batch; a
    neuron is small below p times its block's maximum (at p 0: if it is 0), and a block is skipped if more than `share` of its
    neurons are small (LongExposure-AE, profile_sparse_pattern.py)."""
    blocks = activation.view(-1, block)
    small = blocks == 0 if p == 0 else blocks < p * blocks.amax(1, keepdim=True)
    return small.sum(1) <= share * block
