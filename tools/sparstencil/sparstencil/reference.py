"""The definition itself, in float64 or whole numbers, a shifted array a weight: what every back end is checked against."""

from __future__ import annotations

import numpy as np

from sparstencil.boundary import Boundary, padded
from sparstencil.stencil import Stencil


def step(grid: np.ndarray, stencil: Stencil, boundary: Boundary) -> np.ndarray:
    """u'(x) = Σ_s w_s u(x + s), in the grid's own type."""
    lo, hi = stencil.lo, stencil.hi
    wide = padded(grid, boundary, lo, hi)
    out = np.zeros_like(grid)
    for offset, weight in zip(stencil.offsets, stencil.weights, strict=True):
        part = tuple(slice(o - low, o - low + n) for o, low, n in zip(offset, lo, grid.shape, strict=True))
        out += grid.dtype.type(weight) * wide[part]
    inner = tuple(slice(*boundary.ring(grid.shape, stencil, axis)) for axis in range(grid.ndim))
    if boundary.rules[0] == "valid":
        return out[inner].copy()
    kept = grid.copy()
    kept[inner] = out[inner]
    return kept


def run(grid: np.ndarray, stencil: Stencil, steps: int, boundary: Boundary) -> np.ndarray:
    """`steps` steps, one by one. Raises BadInput where the grid is too small."""
    out = np.array(grid, copy=True)
    for _ in range(steps):
        boundary.check(out.shape, stencil)
        out = step(out, stencil, boundary)
    return out
