"""Several steps as one: a pass with the t-fold self-convolution, and the ring that feels the boundary.

The convolution is exact where no step has looked beyond an edge: everywhere for `wrap`, and for `valid`, which drops the rest.
Elsewhere the points within t · r of an edge are made step by step, on a slab along each face. Here slabs are copies of a grid in
the host's memory; on a GPU they are parts of the grid where it lies (cuda_launch.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sparstencil.boundary import Boundary
from sparstencil.stencil import Stencil

Step = Callable[[np.ndarray, int, Boundary], np.ndarray]  # a grid, how many steps, the rule


@dataclass(frozen=True)
class Slab:
    """Points along a face, which are made step by step. first, depth: of the points along `axis` that are stepped; kept, width:
    of those among them that are right after it, which the slab's inner cut, where the rule is not the grid's, has not reached."""

    axis: int
    first: int
    depth: int
    kept: int
    width: int

    def stepped(self, ndim: int) -> tuple[slice, ...]:
        """In the grid."""
        return self._along(ndim, self.first, self.depth)

    def right(self, ndim: int) -> tuple[slice, ...]:
        """In the grid."""
        return self._along(ndim, self.kept, self.width)

    def right_inside(self, ndim: int) -> tuple[slice, ...]:
        """In the slab."""
        return self._along(ndim, self.kept - self.first, self.width)

    def _along(self, ndim: int, first: int, count: int) -> tuple[slice, ...]:
        return tuple(slice(first, first + count) if axis == self.axis else slice(None) for axis in range(ndim))


def slabs(shape: tuple[int, ...], stencil: Stencil, steps: int, boundary: Boundary) -> Iterator[Slab]:
    """Those that a pass of `steps` steps leaves to be made: none for `wrap` and `valid`. They may overlap, and then agree."""
    if boundary.rules[0] == "valid":
        return
    for axis, (n, rule) in enumerate(zip(shape, boundary.rules, strict=True)):
        low, high = -steps * stencil.lo[axis], steps * stencil.hi[axis]
        depth = min(n, low + high)
        if rule == "wrap":
            continue
        if low:
            yield Slab(axis, 0, depth, 0, depth if depth == n else low)
        if high:
            width = depth if depth == n else high
            yield Slab(axis, n - depth, depth, n - width, width)


def fused(
    grid: np.ndarray, stencil: Stencil, steps: int, boundary: Boundary, together: Step, singly: Step
) -> np.ndarray:
    """`steps` steps of the grid: `together` makes them in one pass, `singly` one after the other."""
    if steps == 1:
        return singly(grid, 1, boundary)
    out = together(grid, steps, boundary)
    for slab in slabs(grid.shape, stencil, steps, boundary):
        done = singly(np.ascontiguousarray(grid[slab.stepped(grid.ndim)]), steps, boundary)
        out[slab.right(grid.ndim)] = done[slab.right_inside(grid.ndim)]
    return out


def worthwhile(shape: tuple[int, ...], stencil: Stencil, steps: int, boundary: Boundary) -> bool:
    """Whether some points are left that no edge reaches in so many steps."""
    return all(
        rule == "wrap" or n > 2 * steps * (hi - low)
        for n, low, hi, rule in zip(shape, stencil.lo, stencil.hi, boundary.rules, strict=True)
    )
