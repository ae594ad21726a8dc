"""A grid T steps on, by the back end that was asked for or chosen; `sparstencil.apply` is this. The verb is runs.py.

What a mode means to each back end: the tensor cores and the emulator do as modes.py says; `cpu` and `cuda-core` compute in
float32 for fast, mixed, tf32 and f32, and in float64 for f64. In `fast` cuda-core stores the grid in float16.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from sparstencil import cpu, fuse, modes, reference
from sparstencil.boundary import Boundary
from sparstencil.convert import Solver
from sparstencil.modes import Mode
from sparstencil.plan import CARDS, MAX_STEPS, SAME, Block, best, predict
from sparstencil.stencil import Offset, Stencil, read
from tenfold_shared import BadInput, Missing

Record = dict[str, Any]
Backend = Literal["auto", "cpu", "cuda-sp", "cuda-tc", "cuda-core", "emulate"]
BACKENDS: tuple[Backend, ...] = ("auto", "cpu", "cuda-sp", "cuda-tc", "cuda-core", "emulate")
# Points an axis and steps of the sample that errors are measured on.
SAMPLE, SAMPLE_STEPS = {1: 2048, 2: 48, 3: 16}, 100


@dataclass(frozen=True)
class How:
    """What a run does, and nothing about where its data are. mode: None is the grid's own precision."""

    boundary: Boundary
    steps: int
    mode: Mode | Literal["f64"] | None = None
    rtol: float | None = None
    backend: Backend = "auto"
    fuse: int | None = None
    tile: Offset | None = None
    solver: Solver | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Chosen:
    """The back end and mode of a run, and why. error: measured on a sample, where --rtol asked for it."""

    backend: Backend
    mode: Mode | Literal["f64"]
    why: str
    error: Record | None = None

    @property
    def plain(self) -> bool:
        """Whether steps are made in float32 or float64 throughout."""
        return self.backend == "cpu" or (self.backend == "cuda-core" and self.mode != "fast")


def choose(stencil: Stencil, values: np.ndarray, how: How) -> Chosen:
    """With --rtol and no --mode: the cheapest mode whose error, measured on a sample of this grid and stencil over these
    steps, stays below it. Raises BadInput for a mode that a back end has not, Missing for a GPU that is not there."""
    if how.backend not in BACKENDS:
        raise BadInput(f"--backend {how.backend}: expected {', '.join(BACKENDS)}")
    if how.mode is not None and how.mode not in (*modes.MODES, "s8", "f64"):
        raise BadInput(f"--mode {how.mode}: expected {', '.join((*modes.MODES, 's8', 'f64'))}")
    if how.mode is not None or how.rtol is None or _counts(stencil, values, how.boundary):
        return _placed(stencil, values, how.mode or _own_mode(stencil, values, how.boundary), how)
    for mode in modes.MODES:
        chosen = _placed(stencil, values, mode, how)
        if chosen.plain and mode != "f32":
            continue  # they are all float32 there
        if modes.error_after(mode, how.steps) > how.rtol:  # whatever a sample says that happens to be exact
            continue
        error = measured_error(values, stencil, how, chosen)
        if not how.steps or (error is not None and error["predicted"] <= how.rtol):
            return replace(chosen, error=error)
    return _placed(stencil, values, "f64", how)


def _own_mode(stencil: Stencil, values: np.ndarray, boundary: Boundary) -> Mode | Literal["f64"]:
    """Exact counts where 8 bits hold them, else the precision that the grid comes in."""
    if _counts(stencil, values, boundary):
        return "s8"
    kind, size = values.dtype.kind, values.dtype.itemsize
    return "f64" if size == 8 or (kind in "iu" and size > 2) else "f32"


def _placed(stencil: Stencil, values: np.ndarray, mode: Mode | Literal["f64"], how: How) -> Chosen:
    """The back end of a mode."""
    if mode == "s8" and not _whole(stencil, values.dtype):
        raise BadInput(
            f"--mode s8: needs a grid of 8-bit numbers (this one is {values.dtype}) and weights that are whole numbers from −127 to 127"
        )
    if mode == "s8" and not _byte(how.boundary.value):
        raise BadInput(f"--mode s8: the boundary's constant {how.boundary.value!r} is no whole number from −127 to 127")
    if mode == "f64" and how.backend in ("cuda-sp", "emulate"):
        own = "" if how.mode or how.rtol is not None else f", and the grid is {values.dtype}: say --mode f32"
        raise BadInput(
            f"--mode f64 on {how.backend}: sparse tensor cores have no float64{own}; or use --backend cpu, cuda-core or cuda-tc"
            + (f" (--rtol {how.rtol:g} over {how.steps} steps needs it)" if how.rtol is not None else "")
        )
    if how.backend != "auto":
        if how.backend.startswith("cuda"):
            _gpu(required=True)
        return Chosen(how.backend, mode, "as asked")
    card = _gpu(required=False)
    if card is None:
        return Chosen("cpu", mode, "no GPU of compute capability 8.0 or more, or no cupy")
    if mode == "f64":
        return Chosen("cuda-core", mode, "float64")
    setup = best(stencil, mode, CARDS[card], how.tile, how.solver, how.fuse or 1)
    found = predict(setup, CARDS[card], how.fuse or 1, Block.emitted(setup))
    rates = {name: found[name].rate for name in ("cuda-sp", "cuda-core")}
    name: Backend = "cuda-sp" if rates["cuda-sp"] > SAME * rates["cuda-core"] else "cuda-core"
    return Chosen(name, mode, f"predicted {rates[name]:.0f} GStencil/s, bound by {found[name].bound}")


def _whole(stencil: Stencil, dtype: np.dtype) -> bool:
    """Whether 8 bits hold the weights, and such a grid."""
    return dtype.itemsize == 1 and all(w == round(w) and abs(w) <= 127 for w in stencil.weights)


def _byte(value: float) -> bool:
    return value == round(value) and abs(value) <= 127


def _counts(stencil: Stencil, values: np.ndarray, boundary: Boundary) -> bool:
    """Whether 8-bit products hold grid, constant and weights exactly."""
    if not _whole(stencil, values.dtype) or not _byte(boundary.value):
        return False
    return int(values.max(initial=0)) <= 127 and int(values.min(initial=0)) >= -127


def _gpu(required: bool) -> str | None:
    """The nearest known card, or None. Raises Missing where one is required."""
    told = ""
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() == 0:
            told = "no CUDA device"
        else:
            if int(cupy.cuda.Device().compute_capability) >= 80:  # "80", "90", "120"
                name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode().lower()
                return next((card for card in ("h200", "h100", "a100") if card in name), "h100")
            told = "the GPU has no sparse tensor cores (compute capability below 8.0)"
    except ImportError:
        told = "cupy is not installed: pip install 'sparstencil[gpu]'"
    except Exception as error:  # cupy's own runtime error, which cannot be named before it is imported
        told = f"CUDA cannot be used ({type(error).__name__}: {str(error).splitlines()[0]})"
    if required:
        raise Missing(f"{told}; --backend cpu or emulate work without")
    return None


def apply(
    u: Any,
    stencil: Stencil | str | np.ndarray,
    steps: int = 1,
    boundary: Boundary | str = "wrap",
    *,
    mode: Mode | Literal["f64"] | None = None,
    rtol: float | None = None,
    backend: Backend = "auto",
    fuse: int | None = None,
    threads: int | None = None,
) -> Any:
    """u after `steps` steps, of u's own kind, numpy, torch or cupy; u is not changed. Arrays of a GPU go through host memory.

    stencil: a Stencil, a name, file or formula as --stencil takes it, or an array of weights about its middle. One axis more
    than the stencil's in front is a batch. Raises BadInput as the command does."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise BadInput(f"{steps!r} steps: expected a whole number of at least 0")
    if fuse is not None and (isinstance(fuse, bool) or not isinstance(fuse, int) or fuse < 1):
        raise BadInput(f"{fuse!r} steps a pass: expected a whole number of at least 1, or None")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise BadInput(f"{threads!r} threads: expected a whole number of at least 1")
    if rtol is not None and not (isinstance(rtol, int | float) and rtol > 0):
        raise BadInput(f"an rtol of {rtol!r}: expected a number above 0")
    if not isinstance(boundary, Boundary | str):
        raise BadInput(f"a boundary of {boundary!r}: expected a text as --boundary takes it, or a Boundary")
    if isinstance(u, np.ma.MaskedArray):
        raise BadInput("a masked array: fill it first, a stencil reads every point")
    values, back = _numpy_of(u)
    if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
        raise BadInput(f"an array of {values.dtype}: expected real numbers of at most 8 bytes")
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if values.size == 0:
        raise BadInput(f"an empty array, shape {values.shape}")
    made = (
        stencil
        if isinstance(stencil, Stencil)
        else read(stencil)
        if isinstance(stencil, str)
        else Stencil.dense(stencil)
    )
    rule = boundary if isinstance(boundary, Boundary) else Boundary.parse(boundary, made.ndim)
    how = How(rule, steps, mode, rtol, backend, fuse, threads=threads)
    rule.check(values.shape[1:] if values.ndim == made.ndim + 1 else values.shape, made, steps)
    try:
        return back(advance(values, made, how, choose(made, values, how)))
    except OverflowError as beyond:
        raise BadInput(f"{beyond}; use mode f64") from beyond


def _numpy_of(u: Any) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    if isinstance(u, np.ndarray):
        return u, lambda out: out
    module = type(u).__module__.partition(".")[0]
    if module == "torch":
        import torch

        device, kind = u.device, u.dtype
        if u.layout != torch.strided:
            raise BadInput(f"a torch tensor of layout {u.layout}: expected a dense one")
        held = u.detach().cpu().resolve_conj().resolve_neg()
        if kind != torch.bfloat16:
            return held.numpy(), lambda out: torch.from_numpy(out).to(device)
        return held.float().numpy(), lambda out: torch.from_numpy(out).to(device, kind)  # numpy has no bfloat16
    if module == "cupy":
        import cupy

        return cupy.asnumpy(u), cupy.asarray
    if hasattr(u, "__dlpack__"):
        return np.from_dlpack(u), lambda out: out
    return np.asarray(u), lambda out: out


def advance(
    values: np.ndarray,
    stencil: Stencil,
    how: How,
    chosen: Chosen,
    done: Callable[[np.ndarray, int], None] | None = None,
    every: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The grid after how.steps steps, in the type that came in (int32 for 8-bit counts). A leading axis more is a batch.

    done(state, steps so far) is called every `every` steps, with the state in the working type; progress(steps so far) more
    often, where the back end tells."""
    if values.ndim == stencil.ndim + 1:
        parts = [advance(np.ascontiguousarray(one), stencil, how, chosen) for one in values]
        return np.stack(parts)
    how.boundary.check(values.shape, stencil, how.steps)
    state = working(values, chosen.mode)
    taken = 0
    tell = None if progress is None else lambda count: progress(taken + count)
    step = stepper(stencil, how, chosen, values.shape, tell)
    while taken < how.steps:
        count = min(every or how.steps, how.steps - taken)
        state = step(state, count, how.boundary)
        taken += count
        if done is not None:
            done(state, taken)
    return finished(state, values.dtype, chosen.mode)


def working(values: np.ndarray, mode: str) -> np.ndarray:
    """The grid in the type that steps are made in."""
    if mode == "s8":
        small = int(values.min(initial=0)) >= -127 and int(values.max(initial=0)) <= 127
        return values.astype(np.int8 if small else np.int64)
    return np.ascontiguousarray(values, dtype=np.float64 if mode == "f64" else np.float32)


def finished(state: np.ndarray, dtype: np.dtype, mode: str) -> np.ndarray:
    """The result in the type that came in; whole numbers become int32 where they stayed exact, else floats."""
    if mode == "s8":
        return state.astype(np.int32)
    return state.astype(dtype) if dtype.kind == "f" else state


def stepper(
    stencil: Stencil,
    how: How,
    chosen: Chosen,
    shape: tuple[int, ...] | None = None,
    progress: Callable[[int], None] | None = None,
) -> fuse.Step:
    """A function of a grid, a number of steps and a rule. shape: of the grid, by which a plan that `tune` has kept is found.
    progress: is told now and then how many steps of the call are done, by the CPU back end."""
    if chosen.backend == "cpu":
        if chosen.mode == "s8":
            return lambda state, count, rule: _counted(state, stencil, count, rule)

        def on_cpu(state: np.ndarray, count: int, rule: Boundary) -> np.ndarray:
            depth = how.fuse or _tuned(stencil, state.shape, chosen, how.threads)
            return cpu.run(state, stencil, count, rule, threads=how.threads, fuse=depth or "auto", progress=progress)

        return on_cpu
    how = _planned(stencil, how, chosen, shape)
    depth = min(how.fuse or 1, max(1, how.steps))
    if chosen.backend.startswith("cuda"):
        from sparstencil import cuda

        device = int(os.environ.get("LOCAL_RANK", 0))  # torchrun's: a rank a GPU
        return cuda.stepper(stencil, chosen.mode, chosen.backend, how.tile, how.solver, device, depth=depth)
    assert chosen.mode != "f64"
    mode: Mode = chosen.mode

    def emulated(of: Stencil) -> fuse.Step:
        setup = best(of, mode, CARDS["h100"], how.tile, how.solver)
        return lambda state, count, rule: modes.run(setup, state, count, rule)

    singly = emulated(stencil)
    if depth == 1:
        return singly
    together = emulated(stencil.power(depth))

    def many(state: np.ndarray, count: int, rule: Boundary) -> np.ndarray:
        whole = count // depth if fuse.worthwhile(state.shape, stencil, depth, rule) or rule.rules[0] == "valid" else 0
        for _ in range(whole):
            state = fuse.fused(state, stencil, depth, rule, lambda s, _, r: together(s, 1, r), singly)
        return singly(state, count - whole * depth, rule) if count > whole * depth else state

    return many


def _tuned(stencil: Stencil, shape: tuple[int, ...], chosen: Chosen, threads: int | None) -> int | None:
    """How many steps a pass makes, where `tune` has found that out."""
    from sparstencil.tune import known

    held = known(stencil, shape, chosen, threads)
    return int(held["fuse"]) if held else None


def _planned(stencil: Stencil, how: How, chosen: Chosen, shape: tuple[int, ...] | None) -> How:
    """With `--fuse auto`: as `tune` has found it; else, on a GPU, as many steps a pass as are predicted fastest."""
    from sparstencil.plan import fusion
    from sparstencil.tune import known

    mode = chosen.mode
    if how.fuse is not None or mode == "f64" or mode == "s8" or shape is None:
        return how
    if held := known(stencil, shape, chosen):
        tile, solver = held.get("tile"), held.get("solver")
        return replace(
            how, fuse=int(held["fuse"]), tile=how.tile or (tuple(tile) if tile else None), solver=how.solver or solver
        )
    if not chosen.backend.startswith("cuda") or how.steps < 2:
        return how
    rows = fusion(stencil, mode, CARDS[_gpu(required=True) or "h100"], min(how.steps, MAX_STEPS))
    return replace(how, fuse=max(rows, key=lambda row: row[chosen.backend])["steps"]) if rows else how


def _counted(state: np.ndarray, stencil: Stencil, count: int, rule: Boundary) -> np.ndarray:
    """Whole numbers, exactly, in 64 bits. Raises OverflowError as soon as 32 do not hold a step's."""
    out = state.astype(np.int64)
    for _ in range(count):
        out = reference.step(out, stencil, rule)
        if np.abs(out).max(initial=0) > 2**31 - 1:
            raise OverflowError("the counts do not fit 32 bits")
    return out


def warn_about(values: np.ndarray, stencil: Stencil, how: How, chosen: Chosen, strict: bool) -> list[str]:
    """Lines for stderr. Raises BadInput under `strict` for numbers that are not finite."""
    lines = []
    if values.dtype.kind == "f":
        bad = int(values.size - np.isfinite(values).sum())
        if bad and strict:
            raise BadInput(f"{bad} of {values.size} points of the grid are NaN or infinite (--strict)")
        if bad:
            lines.append(f"{bad} of {values.size} points of the grid are NaN or infinite; they spread with every step")
    growth = stencil.growth()
    if growth > 1 + 1e-9 and how.steps > 1:
        lines.append(
            f"the scheme is unstable: its worst wave grows by {growth:.6g} a step, {_power(growth, how.steps)} in {how.steps}"
        )
    if stencil.points == 1:
        lines.append("the stencil has one point: it moves and scales the grid")
    return lines


def _power(growth: float, steps: int) -> str:
    """growth^steps, however large."""
    digits = steps * math.log10(growth)
    return f"{growth**steps:.3g} times" if digits < 300 else f"10^{digits:.0f} times"


def measured_error(values: np.ndarray, stencil: Stencil, how: How, chosen: Chosen) -> Record | None:
    """Relative L2 error against float64 on a sample of the grid about its largest number, over the run's steps or the first
    hundred; `predicted` goes on from there in a straight line. The sample's edges are reflected, and left out of the norm as
    far as they are felt, but for its inner half. None for whole numbers, and where the sample overflows."""
    if chosen.mode == "s8" or how.steps == 0:
        return None
    sample = values if values.ndim == stencil.ndim else values[0]
    most = SAMPLE[stencil.ndim]
    large = np.unravel_index(int(np.argmax(np.where(np.isfinite(sample), np.abs(sample), -1))), sample.shape)
    first = [min(max(0, int(at) - most // 2), max(0, n - most)) for at, n in zip(large, sample.shape, strict=True)]
    sample = sample[tuple(slice(at, at + most) for at in first)]
    sample = np.where(np.isfinite(sample), sample, 0.0).astype(np.float64)
    reach = [max(high, -low) for low, high in zip(stencil.lo, stencil.hi, strict=True)]
    rule = Boundary.parse(
        "reflect" if all(r <= n for r, n in zip(reach, sample.shape, strict=True)) else "wrap", stencil.ndim
    )
    steps, truth, errors = min(how.steps, SAMPLE_STEPS), sample, []
    marks = sorted({steps // 2, steps} - {0})
    with np.errstate(all="ignore"):  # an unstable scheme
        given = sample.astype(np.float64 if chosen.mode == "f64" else np.float32)
        for mark, last in zip(marks, [0, *marks], strict=False):
            truth = reference.run(truth, stencil, mark - last, rule)
            try:
                # From the start: `fast` scales by what comes in, once.
                out = advance(given, stencil, replace(how, boundary=rule, steps=mark, fuse=None), chosen)
            except OverflowError:
                return None
            felt = [min(mark * r, n // 4) for r, n in zip(reach, sample.shape, strict=True)]
            inner = tuple(slice(f, n - f) for f, n in zip(felt, sample.shape, strict=True))
            peak = (
                float(np.abs(truth[inner]).max(initial=0)) or 1.0
            )  # squares of numbers far from 1 would be 0 or infinite
            size = float(np.linalg.norm(truth[inner] / peak)) or 1.0
            errors.append(float(np.linalg.norm((out.astype(np.float64) - truth)[inner] / peak)) / size)
    if not math.isfinite(errors[-1]):
        return None
    slope = max(0.0, errors[-1] - errors[0]) / (marks[-1] - marks[0]) if len(marks) > 1 else 0.0
    predicted = errors[-1] + slope * (how.steps - steps)
    return {"relative_l2": errors[-1], "steps": steps, "points": int(sample.size), "predicted": predicted}
