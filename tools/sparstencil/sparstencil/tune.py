"""`sparstencil tune`: the fastest of a few plans by the clock, kept for later runs.

What is tried is how many steps a pass makes, on the back end that `run` would take; on a GPU with the tile and solver that are
predicted best for so many. A winner is known by the stencil, the size of the grid to a power of two, its type, the back end,
and the machine with its compiler and number of threads.
"""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparstencil import cpu, modes
from sparstencil.plan import CARDS, predict
from sparstencil.stencil import Stencil
from sparstencil.stepping import Chosen, How, choose, stepper, working
from tenfold_shared.cache import cache_dir
from tenfold_shared.jsonl import write_atomic

Record = dict[str, Any]
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16)


def store() -> Path:
    return cache_dir() / "sparstencil" / "plans.json"


def key_of(stencil: Stencil, shape: tuple[int, ...], chosen: Chosen, machine: str) -> str:
    size = "x".join(str(2 ** math.ceil(math.log2(n))) for n in shape)
    return f"{stencil.key}/{size}/{chosen.mode}/{chosen.backend}/{machine}"


def machine(backend: str, threads: int | None = None) -> str:
    """The processor with its threads and compiler, or the card with its driver."""
    if backend.startswith("cuda"):
        import cupy

        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        return f"{name}, driver {cupy.cuda.runtime.driverGetVersion()}, runtime {cupy.cuda.runtime.runtimeGetVersion()}"
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    command = cpu.compiler()
    return f"{name}, {threads or cpu.cores()} threads, {cpu._identity(command[0]) if command else 'numba'}"


def known(stencil: Stencil, shape: tuple[int, ...], chosen: Chosen, threads: int | None = None) -> Record | None:
    """What `tune` found for such a run, or None."""
    try:
        held = json.loads(store().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    found = (
        held.get(key_of(stencil, shape, chosen, machine(chosen.backend, threads))) if isinstance(held, dict) else None
    )
    if not isinstance(found, dict) or not isinstance(depth := found.get("fuse"), int) or depth < 1:
        return None  # a cache that is broken stops no run
    return found


def candidates(stencil: Stencil, chosen: Chosen, shape: tuple[int, ...], steps: int) -> list[Record]:
    """Plans to time, of at most so many steps a pass: depths on a CPU; on a GPU the eight that are predicted fastest."""
    depths = [
        depth
        for depth in DEPTHS
        if depth <= steps
        and all(2 * depth * (h - low) < n for low, h, n in zip(stencil.lo, stencil.hi, shape, strict=True))
    ]
    if chosen.backend == "cpu" or chosen.mode == "f64":
        return [{"fuse": depth} for depth in depths or [1]]
    from sparstencil.plan import best

    mode: modes.Mode = chosen.mode
    rows = []
    for depth in depths or [1]:
        whole = stencil.power(depth)
        if whole.points > 400 or whole.radius > 12:
            break
        setup = best(stencil, mode, CARDS["h100"], steps=depth)
        rate = predict(setup, CARDS["h100"], depth)["cuda-sp"].rate
        rows.append(
            (rate, {"fuse": depth, "tile": list(setup.program.layout.tile), "solver": setup.program.grouping.solver})
        )
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])[:8]]


def tune(stencil: Stencil, shape: tuple[int, ...], dtype: str, how: How, steps: int, rounds: int) -> Record:
    """Times of all candidates, seconds a step, the least of `rounds`; the winner is kept."""
    grid = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    chosen = choose(stencil, grid, how)
    state = working(grid, chosen.mode)
    rows = []
    for plan in candidates(stencil, chosen, shape, steps):
        tile = tuple(plan["tile"]) if "tile" in plan else None
        step = stepper(stencil, replace(how, fuse=plan["fuse"], tile=tile, solver=plan.get("solver")), chosen)
        step(state, steps, how.boundary)  # compiles
        took = []
        for _ in range(rounds):
            begun = time.perf_counter()
            step(state, steps, how.boundary)
            took.append((time.perf_counter() - begun) / steps)
        rows.append({**plan, "seconds_a_step": min(took), "gstencil_s": math.prod(shape) / min(took) / 1e9})
    winner = min(rows, key=lambda row: row["seconds_a_step"])
    path = store()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        held = {}
    if not isinstance(held, dict):
        held = {}
    key = key_of(stencil, shape, chosen, machine(chosen.backend, how.threads))
    held[key] = winner
    write_atomic(path, json.dumps(held, indent=1).encode() + b"\n")
    return {
        "key": key,
        "backend": chosen.backend,
        "mode": chosen.mode,
        "rows": rows,
        "winner": winner,
        "kept": str(path),
    }
