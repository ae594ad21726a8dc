"""`sparstencil bench`: one stencil on this machine beside the copy roof and other ways to do it.

Everything is timed on the same array in one run: copying it on the host, single sweeps, the same number of steps with several
to a pass, and, where it is installed and has such a rule, scipy.ndimage. A row has seconds a step and how many times as long
the other way takes. A GPU's steps are timed with what it takes to bring the grid there and back.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sparstencil.boundary import Boundary
from sparstencil.stencil import Stencil
from sparstencil.stepping import How, choose, stepper, working
from sparstencil.tune import machine

Record = dict[str, Any]
SCIPY = ("constant", "nearest", "reflect", "mirror", "wrap")


def least(work: Callable[[], Any], rounds: int) -> float:
    """The least of so many times, after one that does not count."""
    work()
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return min(took)


def copy_seconds(grid: np.ndarray, threads: int | None, rounds: int) -> float:
    """Reading and writing the array once, a thread a part as the back end has them."""
    from concurrent.futures import ThreadPoolExecutor
    from os import cpu_count

    out = np.empty_like(grid)
    flat, into = grid.reshape(-1), out.reshape(-1)
    count = min(threads or cpu_count() or 1, max(1, len(flat) // 4096))
    cuts = [len(flat) * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:

        def once() -> None:
            parts = [pool.submit(np.copyto, into[a:b], flat[a:b]) for a, b in itertools.pairwise(cuts)]
            for part in parts:
                part.result()

        return least(once, rounds)


def bench(stencil: Stencil, shape: tuple[int, ...], dtype: str, how: How, rounds: int, peers: bool) -> Record:
    """The rows of one stencil."""
    grid = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    chosen = choose(stencil, grid, how)
    state = working(grid, chosen.mode)
    single = stepper(stencil, replace(how, fuse=1), chosen)
    fused = stepper(stencil, how, chosen, shape)
    steps = how.steps
    copied = copy_seconds(state, how.threads, rounds)
    rows: list[Record] = [{"way": "copy", "seconds_a_step": copied}]
    for way, step in (("single sweeps", single), ("several steps a pass", fused)):
        rows.append({"way": way, "seconds_a_step": least(lambda: step(state, steps, how.boundary), rounds) / steps})  # noqa: B023
    if peers:
        rows += _peers(state, stencil, how.boundary)
    mine = min(row["seconds_a_step"] for row in rows[1:3])
    for row in rows:
        row["ratio"] = row["seconds_a_step"] / mine
        row["gstencil_s"] = math.prod(shape) / row["seconds_a_step"] / 1e9
    return {
        "stencil": stencil.name, "points": stencil.points, "shape": list(shape), "dtype": dtype, "boundary": str(how.boundary),
        "backend": chosen.backend, "mode": chosen.mode, "machine": machine(chosen.backend, how.threads), "rows": rows,
        "bandwidth_gb_s": 2 * state.nbytes / copied / 1e9, "flops_a_point": 2 * stencil.points,
    }  # fmt: skip


def _peers(state: np.ndarray, stencil: Stencil, boundary: Boundary) -> list[Record]:
    rows: list[Record] = []
    rule = boundary.rules[0]
    if len(set(boundary.rules)) == 1 and rule in SCIPY:
        try:
            from scipy.ndimage import correlate
        except ImportError:
            return rows
        weights = stencil.array().astype(state.dtype)
        origin = [-low - n // 2 for low, n in zip(stencil.lo, weights.shape, strict=True)]
        out = np.empty_like(state)
        seconds = least(lambda: correlate(state, weights, out, rule, boundary.value, origin), 1)
        rows.append({"way": "scipy.ndimage.correlate", "seconds_a_step": seconds})
    return rows


def draw(found: Record, path: str) -> None:
    """The roofline of this machine: points a second by flops a byte, the copy roof, and where the ways stand. PATH is .png
    or .svg."""
    from tenfold_shared import BadInput, Missing

    if not path.endswith((".png", ".svg")):
        raise BadInput(f"--plot {path}: expected a name ending in .png or .svg")
    try:
        import matplotlib
    except ImportError:
        raise Missing("matplotlib is not installed: pip install 'sparstencil[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = np.dtype(found["dtype"]).itemsize
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    width = np.logspace(-1.5, 2.5, 50)
    axes.plot(
        width, width * found["bandwidth_gb_s"], c="k", lw=1, label=f"copy roof, {found['bandwidth_gb_s']:.1f} GB/s"
    )
    for row in found["rows"][1:]:
        intensity = found["flops_a_point"] / (2 * size)
        axes.plot(
            intensity,
            row["gstencil_s"] * found["flops_a_point"],
            "o",
            label=f"{row['way']}: {row['gstencil_s']:.2f} GStencil/s",
        )
    axes.set(xscale="log", yscale="log", xlabel="flops a byte of one read and one write", ylabel="Gflop/s",
             title=f"{found['stencil']}, {' x '.join(map(str, found['shape']))} {found['dtype']}")  # fmt: skip
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
