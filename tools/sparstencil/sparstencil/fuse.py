"""Several steps as one (reference 2.7): a pass with the t-fold self-convolution, and the ring that feels the boundary.

The convolution is exact where no step has looked beyond an edge: everywhere for `wrap`, and for `valid`, which drops the rest.
Elsewhere the points within t · r of an edge are made step by step, on a slab along each face.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparstencil.boundary import Boundary
from sparstencil.stencil import Stencil

Step = Callable[[np.ndarray, int, Boundary], np.ndarray]  # a grid, how many steps, the rule


def fused(
    grid: np.ndarray, stencil: Stencil, steps: int, boundary: Boundary, together: Step, singly: Step
) -> np.ndarray:
    """`steps` steps of the grid: `together` makes them in one pass, `singly` one after the other."""
    if steps == 1:
        return singly(grid, 1, boundary)
    out = together(grid, steps, boundary)
    if boundary.rules[0] == "valid":
        return out
    for axis, rule in enumerate(boundary.rules):
        if rule == "wrap":
            continue
        for end, reach in ((0, -steps * stencil.lo[axis]), (1, steps * stencil.hi[axis])):
            if reach:
                _mend(out, grid, stencil, steps, boundary, singly, axis, end, reach)
    return out


def worthwhile(shape: tuple[int, ...], stencil: Stencil, steps: int, boundary: Boundary) -> bool:
    """Whether some points are left that no edge reaches in so many steps."""
    return all(
        rule == "wrap" or n > 2 * steps * (hi - low)
        for n, low, hi, rule in zip(shape, stencil.lo, stencil.hi, boundary.rules, strict=True)
    )


def _mend(
    out: np.ndarray,
    grid: np.ndarray,
    stencil: Stencil,
    steps: int,
    boundary: Boundary,
    singly: Step,
    axis: int,
    end: int,
    reach: int,
) -> None:
    """The `reach` outermost points at one end of an axis, step by step. The slab goes as far again inwards as its inner cut,
    where the rule is not the grid's, can be felt."""
    inward = steps * (stencil.hi[axis] if end == 0 else -stencil.lo[axis])
    depth = min(grid.shape[axis], reach + inward)
    n = grid.shape[axis]
    take = [slice(None)] * grid.ndim
    take[axis] = slice(0, depth) if end == 0 else slice(n - depth, n)
    slab = singly(np.ascontiguousarray(grid[tuple(take)]), steps, boundary)
    here, there = [slice(None)] * grid.ndim, [slice(None)] * grid.ndim
    width = depth if depth == n else reach
    here[axis] = slice(0, width) if end == 0 else slice(n - width, n)
    there[axis] = slice(0, width) if end == 0 else slice(depth - width, depth)
    out[tuple(here)] = slab[tuple(there)]
