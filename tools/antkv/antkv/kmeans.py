"""Weighted k-means for many small codebooks at once.

min over c of Σ_j w_j ‖x_j − c_a(j)‖², a book per sub-vector, all books of a head in one batch. The objective never
rises from one step to the next. Same bytes for the same seed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SEEDED = 512  # centroids up to which k-means++ draws them one by one; beyond, weighted points are drawn
CHUNK = 1 << 19  # distances at a time: they stay in a core's cache


class Books(NamedTuple):
    """centroids (M, C, d); objective (M,): Σ w ‖x − c‖² at the end; steps taken; path (steps, M): the objective at each."""

    centroids: Tensor
    objective: Tensor
    path: Tensor


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(M, n) index of the nearest centroid, ties to the lowest, and the squared distance; x (M, n, d), centroids (M, C, d).

    argmin of ‖c‖² − 2 x·c as a product. Distances are those of the winner, computed by difference.
    """
    books, n, _ = x.shape
    half = centroids.square().sum(-1) / 2
    out = torch.empty(books, n, dtype=torch.int64, device=x.device)
    step = max(1, CHUNK // max(1, books * centroids.shape[1]))
    for at in range(0, n, step):
        part = torch.baddbmm(half[:, None], x[:, at : at + step], centroids.transpose(1, 2), alpha=-1)
        out[:, at : at + step] = _argmin(part)
    picked = centroids.gather(1, out[..., None].expand(-1, -1, x.shape[2]))
    return out, (x - picked).square().sum(-1)


def _argmin(x: Tensor) -> Tensor:
    """Along the last axis, the first of equals. On a CPU by numpy, whose loop over contiguous rows is ten times faster."""
    return torch.from_numpy(x.numpy().argmin(-1)) if x.device.type == "cpu" else x.argmin(-1)


def seeds(x: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(M, C, d) first centroids: k-means++ with D² · w, or for many centroids points drawn by weight."""
    books, n, dim = x.shape
    if count > SEEDED:
        drawn = torch.multinomial(weights.clamp_min(0).cpu() + 1e-30, min(count, n), generator=generator).to(x.device)
        some = x.gather(1, drawn[..., None].expand(-1, -1, dim))
        return torch.cat([some, some[:, : count - some.shape[1]]], 1) if count > n else some
    out = torch.empty(books, count, dim, dtype=x.dtype, device=x.device)
    chance, far = weights.clone(), torch.full((books, n), torch.inf, dtype=x.dtype, device=x.device)
    for c in range(count):
        chance = torch.where(chance.sum(1, keepdim=True) > 0, chance, weights.clamp_min(1e-30))
        upto = chance.double().cumsum(1)
        drawn = torch.rand(books, 1, generator=generator, dtype=torch.float64).to(x.device) * upto[:, -1:]
        at = torch.searchsorted(upto, drawn, right=True).clamp_max(n - 1)
        out[:, c] = x.gather(1, at[..., None].expand(-1, -1, dim))[:, 0]
        far = torch.minimum(far, (x - out[:, c : c + 1]).square().sum(-1))
        chance = far * weights
    return out


def fit(
    x: Tensor,
    weights: Tensor,
    count: int,
    *,
    seed: int = 0,
    restarts: int = 1,
    iterations: int = 50,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
) -> Books:
    """Lloyd's iterations from k-means++, the best of `restarts`. x (M, n, d) float32, weights (M, n) of at least 0.

    A cell that empties is set on the point of the largest weighted error, one point each. Stops once no book's objective
    falls by more than `tolerance` of itself. start: first centroids (M, C, d) in place of drawn ones.
    """
    best: Books | None = None
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + restart)
        found = _lloyd(
            x, weights, start if start is not None else seeds(x, weights, count, generator), iterations, tolerance
        )
        if best is None:
            best = found
        else:
            won = found.objective < best.objective
            best = Books(
                torch.where(won[:, None, None], found.centroids, best.centroids),
                torch.where(won, found.objective, best.objective),
                found.path,
            )
    assert best is not None
    return best


def _lloyd(x: Tensor, weights: Tensor, centroids: Tensor, iterations: int, tolerance: float) -> Books:
    books, _, dim = x.shape
    count = centroids.shape[1]
    path = []
    for step in range(iterations + 1):
        where, apart = nearest(x, centroids)
        error = apart * weights
        path.append(error.sum(1, dtype=torch.float64))
        if step == iterations or (step and bool((path[-2] - path[-1] <= tolerance * path[-2]).all())):
            break
        mass = torch.zeros(books, count, dtype=torch.float64, device=x.device).scatter_add_(1, where, weights.double())
        total = torch.zeros(books, count, dim, dtype=torch.float64, device=x.device)
        total.scatter_add_(1, where[..., None].expand(-1, -1, dim), x.double() * weights.double()[..., None])
        moved = (total / mass.clamp_min(1e-300)[..., None]).to(x.dtype)
        centroids = torch.where((mass > 0)[..., None], moved, centroids)
        for book in torch.nonzero((mass == 0).any(1)).flatten().tolist():
            _refill(x[book], error[book], mass[book], centroids[book])
    return Books(centroids, path[-1], torch.stack(path))


def _refill(x: Tensor, error: Tensor, mass: Tensor, centroids: Tensor) -> None:
    """Set empty cells on the points that cost most, as far as they cost anything."""
    empty = torch.nonzero(mass == 0).flatten()
    worst = error.topk(min(len(empty), len(error))).indices
    worst = worst[error[worst] > 0]
    centroids[empty[: len(worst)]] = x[worst]


def effective_size(weights: Tensor) -> Tensor:
    """(Σ w)² / Σ w² along the last axis: how many points the weighted ones are worth."""
    return weights.sum(-1).square() / weights.square().sum(-1).clamp_min(1e-30)
