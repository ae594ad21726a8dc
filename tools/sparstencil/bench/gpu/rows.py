"""Rows of `make gpu-check` for sparstencil, 80 seconds in all; what no longer fits is a row that says so.

- 79 stencils: one step of each against float64, at an odd size, rules in turn (float16; whole numbers exactly in 8 bits).
- modes: mixed, tf32, f32 and f64 on every back end that has them.
- literature: the eight benchmark stencils on their full grids, one step a launch, `fast`: cuda-sp beside cuda-tc (the same plan,
  dense), cuda-core (float16 stored, float32 arithmetic), torch's convolution and cupyx.scipy.ndimage.correlate. A band of the
  grid is compared with float64.
- fused: passes of several steps as one stencil.
- ConvStencil's way: its layout (a first and a second matrix of 52 rows for a 7 × 7 stencil, dense float64 m8n8k4 instructions)
  put again into this tool's tiles and copies, not its own code; by its own rule float64 counts four times.
- summary: geometric mean, least and largest ratio to each of them.

floor_ratio is the time over the largest of three bounds: memory at the measured copy rate, instructions and shared memory at the
card's nominal rates. `bounds` has them in 10⁹ points and real steps a second. floor_ratio 1 is the bound itself.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sparstencil import cuda, modes, reference
from sparstencil.boundary import Boundary
from sparstencil.cuda_launch import TYPES, Buffer, Gpu, Runner, Session
from sparstencil.cuda_plan import Target
from sparstencil.cuda_source import print_source
from sparstencil.plan import CARDS
from sparstencil.stencil import Stencil
from sparstencil.suite import LITERATURE, SUITE

Record = dict[str, Any]
Timer = Callable[[Callable[[], Any]], float]
RULES = ("wrap", "reflect", "mirror", "nearest", "constant:0.5", "fixed", "valid")
TOLERANCE = {
    "fast": 2e-3,
    "mixed": 3e-3,
    "tf32": 3e-3,
    "f32": 2e-6,
    "s8": 0.0,
    "f64": 1e-13,
}  # of the largest magnitude
FUSED = {"heat-1d": 7, "1d5p": 3, "heat-2d": 4, "box-2d9p": 3, "heat-3d": 2}  # steps a pass


@dataclass(frozen=True)
class Size:
    """What is run; the test makes it small and gives a device that is a CPU."""

    kernels: tuple[str, ...] = tuple(SUITE)
    literature: tuple[str, ...] = tuple(LITERATURE)
    fused: tuple[str, ...] = tuple(FUSED)
    modes: tuple[str, ...] = ("heat-1d", "hdiff-2d", "box-2d49p", "d3q19")
    twice: tuple[str, ...] = ("box-2d9p", "box-2d49p")
    odd: dict[int, tuple[int, ...]] = field(default_factory=lambda: {1: (100_003,), 2: (301, 517), 3: (37, 53, 131)})
    full: dict[int, tuple[int, ...]] = field(
        default_factory=lambda: {1: (10_240_000,), 2: (10240, 10240), 3: (1024, 1024, 1024)}
    )
    device: Callable[[], Any] = Gpu
    card: str = ""
    others: bool = True  # torch and cupyx
    on: str = "cuda"
    workers: int = 16
    seconds: float = 80.0


class Bench:
    """What rows share: the device, machine code, the time left, ratios for the summary."""

    def __init__(self, size: Size, timer: Timer, copy: float) -> None:
        self.size, self.timer, self.copy = size, timer, copy
        self.device = size.device()
        self.until = time.monotonic() + size.seconds
        self.runners: dict[int, Runner] = {}
        self.ratios: dict[str, list[float]] = {}
        if not size.card:
            import torch

            name = torch.cuda.get_device_name().lower()
            size = Size(**{**size.__dict__, "card": next((c for c in CARDS if c in name), "h100")})
        self.card = CARDS[size.card]

    def runner(self, target: Target) -> Runner:
        return self.runners.setdefault(id(target), Runner(target, self.device))

    def compile(self, jobs: list[tuple[Target, Boundary]]) -> None:
        """Machine code of all at once: the compiler is what takes long."""
        with ThreadPoolExecutor(self.size.workers) as pool:
            list(pool.map(lambda job: self.device.compile(print_source(job[0], job[1].rules, self.device.arch)), jobs))

    def left(self, needed: float) -> bool:
        return time.monotonic() + needed < self.until

    def close(self) -> None:
        """Memory back to the card: torch wants it too."""
        self.device.close()
        if self.size.on == "cuda":
            import cupy

            cupy.get_default_memory_pool().free_all_blocks()


def row(kernel: str, case: str, **more: Any) -> Record:
    empty = dict.fromkeys(("max_rel_err", "ms", "bytes_s", "flop_s", "floor_ratio", "baseline", "baseline_ratio"))
    return {"kernel": f"sparstencil {kernel}", "case": case, **empty, "ok": True, **more}


def late(kernel: str, case: str) -> Record:
    return row(kernel, case, ok=False, error="not run: the 80 seconds were over")


def error_of(result: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(result - truth).max() / max(1e-300, np.abs(truth).max()))


# ---------------------------------------------------------------- right


def suite(bench: Bench) -> Record:
    """One step of every stencil."""
    size = bench.size
    jobs = []
    for at, name in enumerate(size.kernels):
        kernel = SUITE[name]
        mode: Any = "s8" if kernel.integer else "fast"
        setup = modes.prepare(kernel.stencil, mode, cuda.TILES[kernel.ndim], "staircase")
        jobs.append((name, Target(setup, "cuda-sp"), Boundary.parse(RULES[at % len(RULES)], kernel.ndim)))
    bench.compile([(target, rules) for _, target, rules in jobs])
    worst, wrong = 0.0, []
    for name, target, rules in jobs:
        error = one_step(bench, target, rules, size.odd[target.setup.stencil.ndim])
        worst = max(worst, error)
        if not error <= TOLERANCE[target.mode]:
            wrong.append(f"{name} {rules}: {error:.2g}")
    return row(f"{len(jobs)} stencils", "one step, float16 and 8 bits", max_rel_err=worst, ok=not wrong, wrong=wrong)


def one_step(bench: Bench, target: Target, rules: Boundary, shape: tuple[int, ...]) -> float:
    draw = np.random.default_rng(0)
    exact = target.mode == "s8"
    grid = draw.integers(0, 2, shape).astype(np.float64) if exact else draw.standard_normal(shape)
    given = grid if exact or target.wide else grid.astype(np.float32).astype(np.float64)
    ran = bench.runner(target).run(given, 1, rules)
    return error_of(ran.grid, reference.run(given, target.setup.stencil, 1, rules))


def precision(bench: Bench) -> Record:
    """Every mode and back end on a few stencils."""
    jobs = []
    for name in bench.size.modes:
        kernel = SUITE[name]
        rules = Boundary.parse("mirror", kernel.ndim)
        for mode in ("fast", "mixed", "tf32", "f32"):
            setup = modes.prepare(kernel.stencil, mode, cuda.TILES[kernel.ndim], "staircase")
            jobs += [(mode, Target(setup, backend), rules) for backend in cuda.BACKENDS]
        for backend, tiles in (("cuda-core", cuda.TILES), ("cuda-tc", cuda.TILES_64)):
            setup = modes.prepare(kernel.stencil, "f32", tiles[kernel.ndim], "staircase")
            jobs.append(("f64", Target(setup, backend, wide=True), rules))
    bench.compile([(target, rules) for _, target, rules in jobs])
    wrong, errors = [], {}
    for mode, target, rules in jobs:
        error = one_step(bench, target, rules, bench.size.odd[target.setup.stencil.ndim])
        errors[f"{target.setup.stencil.name} {mode} {target.backend}"] = error
        if not error <= TOLERANCE[mode]:
            wrong.append(f"{target.setup.stencil.name} {mode} {target.backend}: {error:.2g}")
    return row(
        "modes", f"{len(jobs)} of mode and back end", max_rel_err=max(errors.values()), ok=not wrong, wrong=wrong,
        errors=errors,
    )  # fmt: skip


# ---------------------------------------------------------------- fast


def started(bench: Bench, target: Target) -> Session:
    """Random numbers on the full grid, periodic."""
    ndim = target.setup.stencil.ndim
    session = Session(bench.runner(target), bench.size.full[ndim], Boundary.parse("wrap", ndim))
    state, dtype = session.state, TYPES[target.types.stored]
    total = Buffer.bytes_for(state.shape, state.size) // state.size
    some = np.random.default_rng(0).standard_normal(min(total, 1 << 22)).astype(np.float32)
    raw = some.astype(np.float16).view(np.uint16) if dtype is np.uint16 else some.astype(dtype)
    for first in range(0, total, len(raw)):
        bench.device.put(state.address + first * state.size, raw[: total - first])
    return session


def band(bench: Bench, buffer: Buffer, ndim: int, first: int, last: int) -> np.ndarray:
    """Lines first … last − 1 of the slowest axis, float64."""
    dtype = {2: np.float16, 4: np.float32, 8: np.float64}[buffer.size]
    shape = buffer.shape[3 - ndim :]
    if ndim == 1:
        return bench.device.get(buffer.point(0, 0, first), dtype, (last - first,)).astype(np.float64)
    each = buffer.plane if ndim == 3 else buffer.row
    at = buffer.point(first, 0, 0) if ndim == 3 else buffer.point(0, first, 0)
    raw = bench.device.get(at, dtype, (last - first, each))
    rows = raw.reshape(last - first, *([shape[1], buffer.row] if ndim == 3 else [buffer.row]))
    return rows[..., : shape[-1]].astype(np.float64)


def checked(bench: Bench, session: Session) -> float:
    """A step's error on a band in the middle of the grid."""
    stencil = session.target.setup.stencil
    n, low, high = bench.size.full[stencil.ndim][0], stencil.lo[0], stencil.hi[0]
    depth = {1: 10_000, 2: 64, 3: 8}[stencil.ndim]
    middle = n // 2
    last = min(n - high - 1, middle + depth)
    before = band(bench, session.state, stencil.ndim, middle + low, last + high)
    session.step()
    after = band(bench, session.state, stencil.ndim, middle, last)
    truth = reference.step(before, stencil, Boundary.parse("wrap", stencil.ndim))[-low : -low + last - middle]
    return error_of(after, truth)


def measured(bench: Bench, target: Target) -> tuple[float, float]:
    """Seconds of a step on the full grid, and its error."""
    session = started(bench, target)
    try:
        error = checked(bench, session)
        return bench.timer(session.step), error
    finally:
        bench.close()


def bounds(bench: Bench, target: Target, points: int) -> dict[str, float]:
    """Seconds that memory, instructions and shared memory need at least."""
    types, geometry, card = target.types, target.geometry, bench.card
    found = {"memory": points * (types.stored_bytes + types.out_bytes) / bench.copy}
    halo = math.prod(geometry.extents[:-1]) * target.chunks * types.unit / math.prod(geometry.block)
    filled = halo * (
        types.stored_bytes + (types.stored_bytes + types.planes * types.plane_bytes if types.planes else 0)
    )
    if target.on_tensor_cores:
        eight = 8 * target.program.layout.rows
        passes = sum(part.passes for issue in target.loads for register in issue for part in register)
        stored = sum(issue.form.k for issue in target.issues) * target.rows_a_tile * target.m_tiles * 8
        macs = stored * len(target.products) / eight
        rate = card.fma64 if target.wide else card.sparse if target.backend == "cuda-sp" else card.dense
        found["multiply"] = points * macs / (2 if target.backend == "cuda-sp" else 1) / rate
        found["shared"] = points * (128 * passes * max(1, types.planes) / eight + filled) / card.shared
    else:
        rate = card.fma64 if target.wide else card.fma32
        found["multiply"] = points * target.setup.stencil.points / rate
        found["shared"] = points * filled / card.shared
    return found


def timed(bench: Bench, name: str, steps: int) -> Record:
    """A stencil, or several steps of it as one, on its full grid by every back end and by others' libraries."""
    stencil = SUITE[name].stencil.power(steps)
    points = math.prod(bench.size.full[stencil.ndim])
    case = f"{'x'.join(map(str, bench.size.full[stencil.ndim]))}, fast, {steps} steps a pass"
    if not bench.left(4):
        return late(name, case)
    plan = cuda.target_of(stencil, "fast", "cuda-sp")
    targets = [plan, Target(plan.setup, "cuda-tc"), cuda.target_of(stencil, "fast", "cuda-core")]
    if steps > 1:
        targets = [targets[0], targets[2]]
    bench.compile([(target, Boundary.parse("wrap", stencil.ndim)) for target in targets])
    seconds, error = measured(bench, plan)
    others: dict[str, float] = {}
    errors = [error]
    for target in targets[1:]:
        others[target.backend], error = measured(bench, target)
        errors.append(error)
    if bench.size.others and steps == 1:
        for other, run in ((f"torch conv{stencil.ndim}d", torch_seconds), ("cupyx correlate, float32", cupyx_seconds)):
            try:
                if bench.left(4):
                    others[other] = run(bench, stencil)
            except Exception as problem:  # of whatever library: it says nothing of ours
                others[f"{other} (failed: {type(problem).__name__}: {str(problem)[:80]})"] = math.nan
            finally:
                bench.close()
    if name in bench.size.twice and (steps == 3 or name == "box-2d49p"):
        setup = modes.prepare(stencil, "f32", (1, 8), "staircase")
        dense = Target(setup, "cuda-tc", wide=True, twice=True)
        others["ConvStencil's way restated, float64"], error = measured(bench, dense)
        if not error <= TOLERANCE["f64"]:
            others.popitem()
    least = bounds(bench, plan, points)
    ratios = {other: value / seconds for other, value in others.items() if not math.isnan(value)}
    for other, ratio in ratios.items():
        bench.ratios.setdefault(other, []).append(ratio)
    baseline = next((other for other in others if other.startswith("torch")), "cuda-core")
    rate = 1e-9 * points * steps / seconds
    return row(
        name, case, max_rel_err=max(errors), ms=seconds * 1e3, bytes_s=4 * points / seconds,
        flop_s=2 * stencil.points * points / seconds, floor_ratio=seconds / max(least.values()), baseline=baseline,
        baseline_ratio=ratios.get(baseline), ok=max(errors) <= TOLERANCE["fast"], gstencil_s=rate, ratios=ratios,
        bounds={part: 1e-9 * points * steps / value for part, value in least.items()},
        bound=max(least, key=lambda part: least[part]), plan={"tile": plan.program.layout.tile, "k": plan.program.k},
        convstencil_by_four=ratios.get("ConvStencil's way restated, float64", math.nan) / 4,
    )  # fmt: skip


def torch_seconds(bench: Bench, stencil: Stencil) -> float:
    import torch

    kind = torch.float16 if bench.size.on == "cuda" else torch.float32
    shape = bench.size.full[stencil.ndim]
    grid = torch.randn(1, 1, *shape, dtype=kind, device=bench.size.on)
    weights = torch.tensor(stencil.array(), dtype=kind, device=bench.size.on)[None, None]
    work = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[stencil.ndim - 1]
    return bench.timer(lambda: work(grid, weights))


def cupyx_seconds(bench: Bench, stencil: Stencil) -> float:
    import cupy
    from cupyx.scipy.ndimage import correlate

    grid = cupy.random.random(bench.size.full[stencil.ndim], dtype=cupy.float32)
    out, weights = cupy.empty_like(grid), cupy.asarray(stencil.array(), dtype=cupy.float32)
    return bench.timer(lambda: correlate(grid, weights, output=out, mode="wrap"))


def summary(bench: Bench) -> Record:
    told = {
        other: {
            "geomean": math.exp(sum(map(math.log, ratios)) / len(ratios)), "min": min(ratios), "max": max(ratios), "n": len(ratios),
        }
        for other, ratios in bench.ratios.items()
    }  # fmt: skip
    return row("summary", "cuda-sp's time under each other's, as ratios", ok=bool(told), ratios=told)


def rows(timer: Timer, copy: float, size: Size | None = None) -> Iterator[Callable[[], Record]]:
    """The rows, each to be called for: one that fails is to leave the others alone."""
    bench = Bench(size or Size(), timer, copy)
    yield lambda: suite(bench)
    if bench.size.modes:
        yield lambda: precision(bench) if bench.left(8) else late("modes", "")
    for name in bench.size.literature:
        yield partial(timed, bench, name, 1)
    for name in bench.size.fused:
        yield partial(timed, bench, name, FUSED[name])
    yield lambda: summary(bench)
