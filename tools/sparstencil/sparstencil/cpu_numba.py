"""The same steps by numba, where no C compiler is found: one at a time, rows in parallel, edges by a padded
copy. Every sum is in the order of the offsets, each product and each sum rounded: the reference's own bits, whatever the
number of threads."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from sparstencil.boundary import INSIDE, Boundary, padded
from sparstencil.stencil import Stencil
from tenfold_shared import Missing

CHUNK = 1024  # outputs of a row whose sums stay in the first cache


def states(
    grid: np.ndarray, stencil: Stencil, steps: int, boundary: Boundary, threads: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    """(steps done, state) after each step; with `valid`, what is dropped is still there. Raises Missing without numba."""
    step = _step()
    missing = 3 - stencil.ndim
    beyond = [rule not in INSIDE for rule in boundary.rules]
    low = tuple(a if out else 0 for a, out in zip(stencil.lo, beyond, strict=True))
    high = tuple(b if out else 0 for b, out in zip(stencil.hi, beyond, strict=True))
    offsets = np.array([(0,) * missing + offset for offset in stencil.offsets], dtype=np.int64)
    offsets -= np.array((0,) * missing + low, dtype=np.int64)
    weights = np.array(stencil.weights).astype(grid.dtype)
    state = grid
    for done in range(1, steps + 1):
        times = done if boundary.rules[0] == "valid" else 1
        ranges = [
            (0, n) if out else (-a * times, n - b * times)
            for n, a, b, out in zip(grid.shape, stencil.lo, stencil.hi, beyond, strict=True)
        ]
        wide = padded(state, boundary, low, high) if any(beyond) else state
        after = state.copy()
        step(
            np.ascontiguousarray(wide).reshape((1,) * missing + wide.shape),
            after.reshape((1,) * missing + after.shape),
            offsets, weights, np.array([(0, 1)] * missing + ranges, dtype=np.int64), threads or 0,
        )  # fmt: skip
        state = after
        yield done, state


@functools.cache
def _step() -> Any:
    """step(wide, out, offsets, weights, ranges, threads): the outputs within ranges, of wide, which begins `offsets` − lo
    before them."""
    try:
        import numba
    except ImportError:
        raise Missing("no C compiler and no numba: install gcc or clang, or pip install 'sparstencil[fast]'") from None

    @numba.njit(parallel=True, nogil=True, cache=True)
    def rows(wide, out, offsets, weights, ranges):
        lines = ranges[1, 1] - ranges[1, 0]
        for at in numba.prange((ranges[0, 1] - ranges[0, 0]) * lines):
            z, y = ranges[0, 0] + at // lines, ranges[1, 0] + at % lines
            sums = np.empty(CHUNK, dtype=out.dtype)
            for x in range(ranges[2, 0], ranges[2, 1], CHUNK):
                count = min(CHUNK, ranges[2, 1] - x)
                sums[:count] = 0
                for p in range(len(weights)):
                    weight = weights[p]
                    row = wide[z + offsets[p, 0], y + offsets[p, 1], x + offsets[p, 2] : x + offsets[p, 2] + count]
                    for i in range(count):
                        sums[i] += weight * row[i]
                out[z, y, x : x + count] = sums[:count]

    def step(
        wide: np.ndarray, out: np.ndarray, offsets: np.ndarray, weights: np.ndarray, ranges: np.ndarray, threads: int
    ) -> None:
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads or before, numba.config.NUMBA_NUM_THREADS))
        try:
            rows(wide, out, offsets, weights, ranges)
        finally:
            numba.set_num_threads(before)

    return step
