"""Steps of a stencil on a CPU: C made for the stencil, compiled once, several steps a pass.

The source is written by cpu_source.py around cpu_runtime.c, compiled by $CC, cc, gcc or clang for the processor it runs on,
and kept in the cache folder under the hash of all that it depends on. Where no compiler is found numba runs the stencil
(cpu_numba.py).

What is promised: an output is one sum in the order of the offsets, of fused multiply-adds where the processor has them. So
the bits of the result are the same whatever `threads` and `fuse` are and however the grid is cut, and the same on every
processor with FMA. They differ from numba's and from the reference's by rounding.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparstencil import cpu_source
from sparstencil.boundary import Boundary, sources_of
from sparstencil.stencil import Stencil
from tenfold_shared import BadInput, Missing
from tenfold_shared.cache import cache_dir, expect_ours

COMPILERS = ("cc", "gcc", "clang")
FLAGS = [
    "-std=gnu11",
    "-O2",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-pthread",
    "-w",
]
LINE = 64  # bytes
MOST_STEPS = 128  # of a pass: cpu_runtime.c
MOST_THREADS = 1024
FAR_REACH = 20_000  # rows a group of rows can read at most: their pointers are on the stack of a thread
TURN_S = 0.2  # between two looks at stop and progress


def run(
    grid: np.ndarray,
    stencil: Stencil,
    steps: int,
    boundary: Boundary,
    *,
    threads: int | None = None,
    fuse: int | Literal["auto"] = "auto",
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The grid after `steps` steps, a new array in its own type, float32 or float64; with `valid` it is smaller.

    threads: those of the process's cores by default. fuse: steps a pass, `auto` as plan() says; it changes no bit. stop: is
    asked several times a second; when it says so the state reached is returned. progress: is told then how many steps are
    done, and so of the last one. Raises BadInput for another type or a grid too small, Missing where nothing can run it."""
    if steps < 0:
        raise BadInput(f"{steps} steps: expected none or more")
    if fuse != "auto" and fuse < 1:
        raise BadInput(f"{fuse} steps a pass: expected at least 1")
    if threads is not None and threads < 1:
        raise BadInput(f"{threads} threads: expected at least 1")
    dtype = np.dtype(grid.dtype.newbyteorder("="))
    if dtype not in (np.float32, np.float64):
        raise BadInput(f"a grid of {grid.dtype}: the cpu back end takes float32 and float64")
    boundary.check(grid.shape, stencil, steps)
    here = np.ascontiguousarray(grid, dtype=dtype)
    if not steps:
        return here.copy() if here is grid or np.shares_memory(here, grid) else here
    if kernel := _kernel(stencil, dtype):
        states = _compiled(
            kernel, here, stencil, steps, boundary, plan(here.shape, dtype, stencil, boundary, steps, threads, fuse)
        )
    else:
        from sparstencil import cpu_numba

        states = cpu_numba.states(here, stencil, steps, boundary, threads)
    done, state = 0, here
    for done, state in states:  # noqa: B007 - the last one is the result
        if progress is not None:
            progress(done)
        if done < steps and stop is not None and stop():
            break
    if "valid" in boundary.rules:
        cut = zip(stencil.lo, stencil.hi, grid.shape, strict=True)
        return state[tuple(slice(-low * done, n - high * done) for low, high, n in cut)].copy()
    return state


# ---------------------------------------------------------------- how a run is cut up


@dataclass(frozen=True)
class Plan:
    """fuse: steps a pass. tile: outputs a thread makes at once, which stream down their first axis. far: the grids do not
    fit the last cache. held: bytes of a thread's private rows."""

    fuse: int
    tile: tuple[int, ...]
    threads: int
    far: bool
    held: int


@dataclass(frozen=True)
class Caches:
    """Bytes: of a core's first and second cache, and of the last one."""

    first: int = 32 << 10
    second: int = 512 << 10
    last: int = 16 << 20


@functools.cache
def caches() -> Caches:
    """As Linux tells them; the second cache's share of one core."""
    found: dict[int, int] = {}
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level = (entry / "type").read_text().strip(), int((entry / "level").read_text())
            text, sharing = (entry / "size").read_text().strip(), (entry / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind == "Instruction" or text[-1:] not in ("K", "M"):
            continue
        size = int(text[:-1]) << (10 if text[-1] == "K" else 20)
        found[level] = size // _members(sharing) if level <= 2 else size
    first, second = found.get(1, Caches.first), found.get(2, Caches.second)
    return Caches(first, second, max(found.get(max(found, default=0), Caches.last), second))


def _members(text: str) -> int:
    """CPUs of a list like 0-3,8."""
    count = 0
    for part in text.split(","):
        low, _, high = part.partition("-")
        count += int(high or low) - int(low) + 1
    return max(1, count)


def cores() -> int:
    """Those this process may use."""
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


def plan(
    shape: tuple[int, ...],
    dtype: np.dtype,
    stencil: Stencil,
    boundary: Boundary,
    steps: int,
    threads: int | None = None,
    fuse: int | Literal["auto"] = "auto",
) -> Plan:
    """How a run is made. `auto` is the number of steps a pass that a model finds fastest: what a pass reads and writes once,
    against what overlapping tiles compute twice."""
    most = min(steps, MOST_STEPS)
    depths = [t for t in (1, 2, 3, 4, 6, 8, 12, 16) if t <= most] if fuse == "auto" else [min(fuse, most)]
    plans = [_cut(shape, dtype.itemsize, stencil, boundary, t, threads) for t in depths]
    return min(plans, key=lambda p: _seconds(p, shape, dtype.itemsize, stencil))


def _cut(shape: tuple[int, ...], size: int, stencil: Stencil, boundary: Boundary, t: int, threads: int | None) -> Plan:
    """Tiles for passes of t steps."""
    memory, points = caches(), math.prod(shape)
    work = points * t * (stencil.points + 4)
    count = min(threads or cores(), MOST_THREADS, max(1, work // 400_000) if threads is None else MOST_THREADS)
    reach = [high - low for low, high in zip(stencil.lo, stencil.hi, strict=True)]
    line, rule = LINE // size, boundary.rules
    budget = int(0.6 * memory.second)
    far = 2 * points * size > memory.last // 2
    ends = t * reach[-1] + 4 * line  # of a private row: what overlaps, and whole lines
    tile = list(shape)
    if len(shape) == 1:
        wide = 65536 if t == 1 else max(memory.first // (3 * size), 4 * t * reach[0])
        tile[0] = _even(shape[0], max(512, min(wide, -(-shape[0] // (4 * count)))), line)
        held = 2 * (tile[0] + ends) * size
    elif len(shape) == 2:
        rows = 10 + 2 * reach[0]  # kept of a step: cpu_runtime.c
        most = budget // (rows * size * (t + 1)) - ends
        wide = shape[1] if t == 1 and most >= shape[1] else min(most, 3072 // size if t > 1 else most)
        tile[1] = _even(shape[1], max(128, wide), line)
        pieces = -(-8 * count // -(-shape[1] // tile[1])) if count > 1 else 1
        tile[0] = _even(shape[0], max(64, 8 * t * reach[0], -(-shape[0] // pieces)), 1)
        held = (t - 1) * rows * (tile[1] + ends) * size
    else:
        planes = 1 + 2 * reach[0] if t > 1 else 1 + reach[0]
        tile[2] = _even(shape[2], max(128, 4096 // size), line)
        room = budget // (planes * size * t * (tile[2] + ends)) - t * reach[1]
        tile[1] = _even(shape[1], max(16, room), 1)
        across = -(-shape[1] // tile[1]) * -(-shape[2] // tile[2])
        pieces = -(-8 * count // across) if count > 1 else 1
        tile[0] = _even(shape[0], max(16, 4 * t * reach[0], -(-shape[0] // pieces)), 1)
        held = (t - 1) * planes * (tile[1] + t * reach[1]) * (tile[2] + ends) * size
    # What wraps round within a tile cannot stream: it is kept whole.
    first = 0
    if t > 1 and len(shape) > 1 and rule[first] == "wrap" and tile[first] == shape[first]:
        whole = 2 * math.prod(tile) * size
        if whole > budget and shape[first] > 1:
            tile[first] = -(-shape[first] // 2)
        else:
            held = min(held, whole)
    tiles = math.prod(-(-n // k) for n, k in zip(shape, tile, strict=True))
    return Plan(t, tuple(tile), max(1, min(count, tiles)), far, held)


def _even(n: int, most: int, unit: int) -> int:
    """Parts of about `most` that n falls into evenly, whole units each."""
    if n <= most:
        return n
    part = -(-n // max(1, round(n / most)))
    return min(n, -(-part // unit) * unit)


def _seconds(plan: Plan, shape: tuple[int, ...], size: int, stencil: Stencil) -> float:
    """A model's nanoseconds a step: memory at 30 bytes/ns, or 40 where it is a cache; arithmetic at six vectors of 64 bytes
    a nanosecond; 5 µs a pass. Only their proportions matter."""
    points, t = math.prod(shape), plan.fuse
    redundant, reach = 1.0, [high - low for low, high in zip(stencil.lo, stencil.hi, strict=True)]
    for n, k, span in zip(shape, plan.tile, reach, strict=True):
        redundant *= 1 + (t - 1) * span / (2 * k) if k < n else 1.0
    if t > 1:
        redundant *= 1 + 4 * LINE // size / plan.tile[-1]
    if plan.held > 0.7 * caches().second:
        redundant *= 1.5
    moved = points * 2 * size / (30.0 if plan.far else 40.0)
    computed = points * (stencil.points + 4) * size / 64 / 6.0 * redundant
    return (moved / t + computed) / plan.threads + 5000.0 / t


# ---------------------------------------------------------------- running it

_RULES = {"fixed": 0, "valid": 1, "constant": 2, "nearest": 3, "reflect": 3, "mirror": 3, "wrap": 4}


class _Job(ctypes.Structure):
    """Job of cpu_runtime.c. Axes that the grid lacks come first, of one point, and wrap."""

    _fields_ = (
        ("n", ctypes.c_int64 * 3),
        ("rule", ctypes.c_int64 * 3),
        ("tile", ctypes.c_int64 * 3),
        ("depth", ctypes.c_int64 * 6),
        ("below", ctypes.c_void_p * 3),
        ("above", ctypes.c_void_p * 3),
        ("value", ctypes.c_double),
        ("along", ctypes.c_int64),
        ("far", ctypes.c_int64),
    )


def _job(shape: tuple[int, ...], stencil: Stencil, boundary: Boundary, cut: Plan) -> tuple[_Job, list[np.ndarray]]:
    """The job, and the tables it points to."""
    missing = 3 - len(shape)
    job, tables = _Job(), []
    job.n[:] = [1] * missing + list(shape)
    job.rule[:] = [_RULES["wrap"]] * missing + [_RULES[rule] for rule in boundary.rules]
    job.tile[:] = [1] * missing + list(cut.tile)
    job.value, job.along, job.far = boundary.value, 0 if len(shape) == 3 else 1, cut.far
    for axis, (rule, n, low, high) in enumerate(
        zip(boundary.rules, shape, stencil.lo, stencil.hi, strict=True), missing
    ):
        deep = cut.fuse if rule == "wrap" else 1
        for side, places in enumerate((np.arange(low * deep, 0), np.arange(n, n + high * deep))):
            table = np.ascontiguousarray(sources_of(rule, places, n), dtype=np.int64)
            job.depth[2 * axis + side] = len(table)
            (job.above if side else job.below)[axis] = table.ctypes.data
            tables.append(table)
    return job, tables


def _compiled(
    kernel: Any, grid: np.ndarray, stencil: Stencil, steps: int, boundary: Boundary, cut: Plan
) -> Iterator[tuple[int, np.ndarray]]:
    """(steps done, state) now and then, and in the end. The grid is not written to; with `valid`, what is dropped is still
    there."""
    passes, left = divmod(steps, cut.fuse)
    spare = [_aligned(grid) for _ in range(min(2, passes + (left > 0)))]
    for axis, rule in enumerate(boundary.rules):
        if rule == "fixed":  # what never changes
            for part in (slice(0, -stencil.lo[axis]), slice(grid.shape[axis] - stencil.hi[axis], None)):
                where = (slice(None),) * axis + (part,)
                for out in spare:
                    out[where] = grid[where]
    state, done = grid, 0
    cuts = [(cut, passes)]
    if left:
        last = plan(grid.shape, grid.dtype, stencil, boundary, left, cut.threads, left)
        cuts.append((last, 1))
    for this, count in cuts:
        job, tables = _job(grid.shape, stencil, boundary, this)
        turn = 1
        while count:
            turn = min(turn, count)
            begun = time.perf_counter()
            one, two = spare[0], spare[-1]
            failed = kernel(
                ctypes.addressof(job), state.ctypes.data, one.ctypes.data, two.ctypes.data, turn, this.fuse, done, this.threads
            )  # fmt: skip
            if failed:
                raise Missing(f"no memory for {this.threads} times {this.held} bytes of private rows")
            took = time.perf_counter() - begun
            state, other = (one, two) if turn % 2 else (two, one)
            spare = [other, state]
            count -= turn
            done += turn * this.fuse
            yield done, state
            turn = max(1, min(2 * turn + 1, int(TURN_S / max(took / turn, 1e-9))))
        del tables


def _aligned(like: np.ndarray) -> np.ndarray:
    """An array of the same shape and type, not filled, that begins with a line of the cache."""
    raw = np.empty(like.nbytes + LINE, dtype=np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + like.nbytes].view(like.dtype).reshape(like.shape)


# ---------------------------------------------------------------- compiling it


def compiler() -> list[str] | None:
    """The command of $CC, or of the first compiler found."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise BadInput(f"CC={os.environ['CC']}: {error}; expected a command") from None
    if given:
        return given if shutil.which(given[0]) else None
    return next(([path] for name in COMPILERS if (path := shutil.which(name))), None)


def arithmetic() -> str:
    """What decides the last bits of a result: runs that go on from each other must agree in it."""
    if compiler() is None:
        return "numba"
    return "fused multiply-add" if {"fma", "asimd"} & set(processor().split()) else "products and sums"


@functools.cache
def processor() -> str:
    """What the processor can do, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")


def _kernel(stencil: Stencil, dtype: np.dtype) -> Any:
    """`sweep` of cpu_runtime.c for a stencil and a type; None where numba is to do it, which is said."""
    spans = [high - low + 1 for low, high in zip(stencil.lo[:-1], stencil.hi[:-1], strict=True)]
    if math.prod(spans[:-1]) * (sum(spans[-1:]) + 31) > FAR_REACH:
        return None
    command = compiler()
    if command is None:
        wanted = os.environ.get("CC") or ", ".join(COMPILERS)
        warnings.warn(f"no C compiler ({wanted}): numba runs the stencil, slower", stacklevel=3)
        return None
    return _loaded(stencil, dtype, tuple(command), cache_dir())


@functools.lru_cache(maxsize=256)
def _loaded(stencil: Stencil, dtype: np.dtype, command: tuple[str, ...], folder: Path) -> Any:
    with np.errstate(over="ignore"):
        for offset, weight in zip(stencil.offsets, stencil.weights, strict=True):
            if not np.isfinite(dtype.type(weight)):
                raise BadInput(f"the weight at offset {list(offset)}, {weight:g}, does not fit {dtype}")
    source = cpu_source.source(stencil, dtype, "avx512f" in processor().split())
    library = build(source, [*command, *FLAGS], folder)
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError:  # cut short, or of another machine
        library.unlink(missing_ok=True)
        library = build(source, [*command, *FLAGS], folder)
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise Missing(f"{error}; set TENFOLD_CACHE to a folder that may hold programs") from None
    sweep = loaded.sweep
    sweep.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 4
    sweep.restype = ctypes.c_int
    return sweep


def build(source: str, command: list[str], folder: Path) -> Path:
    """The compiled source, from the folder where it is there. Two processes may do so at once: it appears complete. Raises
    Missing with the command and what it said."""
    name = hashlib.sha256("\0".join([source, *command, _identity(command[0]), processor()]).encode()).hexdigest()[:32]
    kept = folder / "sparstencil" / f"{name}.so"
    if kept.exists():
        expect_ours(kept)  # it will be loaded, and run
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as aside:
            written, made = Path(aside) / f"{name}.c", Path(aside) / f"{name}.so"
            written.write_text(source, encoding="utf-8")
            call = [*command, "-o", str(made), str(written)]
            done = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode or not made.exists():
                said = "\n".join((done.stderr or done.stdout).strip().splitlines()[:12])
                raise Missing(f"the C compiler failed (exit status {done.returncode}): {shlex.join(call)}\n{said}")
            for part in (written, made):
                os.replace(part, kept.parent / part.name)
    except OSError as error:
        raise Missing(
            f"{kept.parent}: cannot be used ({error.strerror}); set TENFOLD_CACHE to another folder"
        ) from None
    return kept


def _identity(program: str) -> str:
    """Which version of a program, without running it."""
    path = os.path.realpath(shutil.which(program) or program)
    found = os.stat(path)
    return f"{path} {found.st_size} {found.st_mtime_ns}"
