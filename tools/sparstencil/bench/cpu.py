"""The cpu back end beside the memory of this machine and other ways to do the same: an object a line (make bench-sparstencil).

    python tools/sparstencil/bench/cpu.py [--quick]

Everything runs in one process on the same grid of 4096 x 4096 float32, ours, the other and the copy by turns, so that other
work on the machine is spread over all of them; a figure is the median of its rounds. A step of ours is what one more step
takes, from runs of two lengths, so that the arrays a run allocates do not count; a step of theirs goes from one array they
have to another.

- scipy.ndimage.correlate, the same rule at the edges, one step at a time
- numba: a prange loop with the weights written out, fastmath, the edge left alone
- devito with OpenMP, if it can be imported; it is in no requirements file
- copying the grid, the fastest of several ways: `floor`. bar 0.9 for single sweeps, 1.3 for several steps a pass

ratio: their time over ours. floor_ratio: our time over the copy's. bar: what ratio should be at least. --quick:
1024 x 1024, for the tests.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sparstencil import cpu
from sparstencil.boundary import Boundary
from sparstencil.stencil import Stencil
from sparstencil.suite import named
from tenfold_shared.cache import cache_dir

COMMAND = "make bench-sparstencil"
COPIES = 8
Work = Callable[[], Any]

COPY = """
#include <stddef.h>
typedef float wide __attribute__((vector_size(64)));
void plain(wide *to, const wide *from, size_t n) { for (size_t i = 0; i < n; i++) to[i] = from[i]; }
void past(wide *to, const wide *from, size_t n)
{
#if defined(__clang__)
    for (size_t i = 0; i < n; i++) __builtin_nontemporal_store(from[i], to + i);
#elif defined(__AVX512F__)
    typedef float small __attribute__((vector_size(64)));
    for (size_t i = 0; i < n; i++) __builtin_ia32_movntps512((float *)(to + i), (small)from[i]);
#elif defined(__AVX__)
    typedef float small __attribute__((vector_size(32)));
    for (size_t i = 0; i < 2 * n; i++) __builtin_ia32_movntps256((float *)to + 8 * i, ((const small *)from)[i]);
#else
    plain(to, from, n);
#endif
}
"""


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def rounds_of(count: int, *works: Work) -> list[list[float]]:
    """Seconds of each, `count` times by turns, after one that does not count."""
    for work in works:
        work()
    took: list[list[float]] = [[] for _ in works]
    for _ in range(count):
        for work, times in zip(works, took, strict=True):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
    return took


class Bench:
    """One grid, and how fast it is copied."""

    def __init__(self, size: int, rounds: int) -> None:
        self.size, self.rounds, self.threads = size, rounds, cpu.cores()
        self.grid = cpu._aligned(np.empty((size, size), np.float32))
        self.grid[:] = np.random.default_rng(0).random((size, size), dtype=np.float32)
        self.other = cpu._aligned(self.grid)
        self.other[:] = 0
        self.machine = machine()
        self.copy = self.fastest_copy()

    def fastest_copy(self) -> Work:
        """Copies the grid there and back COPIES times, by the fastest way: numpy's, a loop, and a loop past the caches, each
        with one thread and with all, each thread its part without waiting for the others."""
        ways: list[Work] = []
        command = cpu.compiler()
        flat, into, lines = self.grid.reshape(-1), self.other.reshape(-1), self.grid.size // 16
        pool = ThreadPoolExecutor(self.threads)

        def both(part: Callable[[np.ndarray, np.ndarray, int, int], Any], count: int) -> Work:
            cuts = [lines * i // count for i in range(count + 1)]

            def one(cut: tuple[int, int]) -> None:
                for _ in range(COPIES):
                    part(into, flat, *cut)
                    part(flat, into, *cut)

            return lambda: list(pool.map(one, itertools.pairwise(cuts)))

        counts = sorted({1, self.threads})
        ways += [both(lambda to, of, a, b: np.copyto(to[16 * a : 16 * b], of[16 * a : 16 * b]), n) for n in counts]
        if command is not None:
            library = ctypes.CDLL(str(cpu.build(COPY, [*command, *cpu.FLAGS], cache_dir())))
            for function in (library.plain, library.past):
                function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

                def part(to: np.ndarray, of: np.ndarray, a: int, b: int, function: Any = function) -> None:
                    function(to.ctypes.data + 64 * a, of.ctypes.data + 64 * a, b - a)

                ways += [both(part, n) for n in counts]
        took = [min(times) for times in rounds_of(5, *ways)]
        return ways[took.index(min(took))]

    def steps(self, stencil: Stencil, rule: str, fuse: int | None) -> tuple[Work, Work, int]:
        """A short run, a long one, and by how many steps they differ."""
        boundary = Boundary.parse(rule, 2)
        few, more = (8, 96) if fuse == 1 else (16, 192)

        def of(steps: int) -> Work:
            return lambda: cpu.run(self.grid, stencil, steps, boundary, fuse=fuse or "auto")

        return of(few), of(few + more), more

    def row(
        self, case: str, stencil: Stencil, rule: str, fuse: int | None, bar: float, name: str = "a copy",
        peer: Work | None = None, steps: int = 1, rounds: int | None = None,
    ) -> None:  # fmt: skip
        """A row: ours beside `peer`, which makes `steps` steps, and beside a copy."""
        short, long, more = self.steps(stencil, rule, fuse)
        works = [short, long, self.copy] + ([peer] if peer else [])
        a, b, copies, *theirs = rounds_of(rounds or self.rounds, *works)
        ours = statistics.median(y - x for x, y in zip(a, b, strict=True)) / more
        copied = statistics.median(copies) / (2 * COPIES)
        other = statistics.median(theirs[0]) / steps if theirs else copied
        print(json.dumps({
            "tool": "sparstencil", "case": f"{case}, {self.size}² float32, {self.threads} threads",
            "ours": round(1e3 * ours, 4), "peer": round(1e3 * other, 4), "peer_name": name, "unit": "ms a step",
            "ratio": round(other / ours, 3), "floor": round(1e3 * copied, 4), "floor_ratio": round(ours / copied, 3),
            "n": self.size**2, "machine": self.machine, "command": COMMAND, "bar": bar,
        }, ensure_ascii=False), flush=True)  # fmt: skip


def scipy_step(bench: Bench, stencil: Stencil) -> Work:
    from scipy.ndimage import correlate

    weights, out = stencil.array().astype(np.float32), bench.other
    return lambda: correlate(bench.grid, weights, out, "mirror")


def numba_steps(bench: Bench, stencil: Stencil, steps: int) -> Work:
    """`steps` steps to and fro; the source has the weights in it, as one would write it."""
    import numba

    terms = " + ".join(
        f"W[{at}] * u[y + {dy}, x + {dx}]".replace("+ -", "- ") for at, (dy, dx) in enumerate(stencil.offsets)
    )
    low, high = stencil.lo, stencil.hi
    source = (
        "def sweep(u, v):\n"
        f"    for y in prange({-low[0]}, u.shape[0] - {high[0]}):\n"
        f"        for x in range({-low[1]}, u.shape[1] - {high[1]}):\n"
        f"            v[y, x] = {terms}\n"
    )
    scope: dict[str, Any] = {"prange": numba.prange, "W": tuple(np.float32(w) for w in stencil.weights)}
    exec(source, scope)  # the stencil is one of the suite
    sweep = numba.njit(parallel=True, fastmath=True)(scope["sweep"])
    one, two = bench.grid.copy(), bench.grid.copy()

    def work() -> np.ndarray:
        for _ in range(steps // 2):
            sweep(one, two)
            sweep(two, one)
        return one

    return work


def devito_steps(bench: Bench, stencil: Stencil, steps: int) -> Work:
    os.environ.setdefault("DEVITO_LANGUAGE", "openmp")
    os.environ.setdefault("DEVITO_LOGGING", "ERROR")
    from devito import Eq, Grid, Operator, TimeFunction

    grid = Grid(shape=bench.grid.shape, extent=tuple(n - 1.0 for n in bench.grid.shape), dtype=np.float32)
    u = TimeFunction(name="u", grid=grid, space_order=2 * stencil.radius, time_order=1)
    (y, x), t = grid.dimensions, grid.stepping_dim
    total = sum(w * u[t, y + dy, x + dx] for (dy, dx), w in zip(stencil.offsets, stencil.weights, strict=True))
    operator = Operator([Eq(u[t + 1, y, x], total)])
    u.data[:] = bench.grid
    return lambda: operator.apply(time_M=steps - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    bench = Bench(1024 if quick else 4096, 3 if quick else 7)
    five, nine, large = named("heat-2d"), named("box-2d9p"), named("box-2d49p")
    several = "several steps a pass, fixed"
    try:
        for stencil, what in ((nine, "3 x 3"), (large, "7 x 7")):
            peer, name = scipy_step(bench, stencil), "scipy.ndimage.correlate"
            bench.row(f"{what}, single sweeps, mirror", stencil, "mirror", 1, 10, name, peer, rounds=3)
    except ImportError:
        print("bench: scipy is not installed; its rows are left out", file=sys.stderr)
    try:
        for stencil, what in ((nine, "3 x 3"), (five, "5 points")):
            peer = numba_steps(bench, stencil, 8)
            bench.row(f"{what}, {several}", stencil, "fixed", None, 1.5, "numba prange", peer, 8)
    except ImportError:
        print("bench: numba is not installed; its rows are left out", file=sys.stderr)
    try:
        peer = devito_steps(bench, nine, 8)
        bench.row(f"3 x 3, {several}", nine, "fixed", None, 3, "devito, OpenMP", peer, 8)
    except ImportError:
        print("bench: devito is not installed; its row is left out", file=sys.stderr)
    for stencil, what in ((five, "5 points"), (nine, "3 x 3")):
        for rule in ("fixed", "wrap"):
            bench.row(f"{what}, single sweeps, {rule}", stencil, rule, 1, 0.9)
            bench.row(f"{what}, several steps a pass, {rule}", stencil, rule, None, 1.3)


if __name__ == "__main__":
    main()
