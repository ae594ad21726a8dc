"""Precision policies: what is stored, what is multiplied, and what that costs in accuracy.

| mode | stored | multiplied | a step |
| --- | --- | --- | --- |
| fast | float16, scaled by a power of two | float16 weights, one product | u' = w u, rounded to float16 |
| mixed | float32 | float16 weights of the increment, one product | u' = u + L u, L = w − 1 at the point itself |
| tf32 | float32 | the same in tf32 | |
| f32 | float32 | three bfloat16 parts of each, six products | u' = w u |
| s8 | whole numbers | 8-bit, exact | out in 32 bits |

On CUDA cores `fast` stores float16 too, but its weights and sums are float32.

Float16-rounded weights no longer sum to what they did, and `fast` leaks with every step. In the increment form the rounded
weights keep their sum exactly, and u itself is added in float32. Where |L| is no smaller than |w|, mixed and tf32 multiply w.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparstencil import emulate, program
from sparstencil.boundary import Boundary
from sparstencil.convert import Grouping, Solver, convert
from sparstencil.geometry import Geometry, fit
from sparstencil.layout import Layout
from sparstencil.mma import Kind, rounded
from sparstencil.program import Program
from sparstencil.stencil import Offset, Stencil
from tenfold_shared import BadInput

Mode = Literal["fast", "mixed", "tf32", "f32", "s8"]
MODES: tuple[Mode, ...] = ("fast", "mixed", "tf32", "f32")
KINDS: dict[Mode, Kind] = {"fast": "f16", "mixed": "f16", "tf32": "tf32", "f32": "bf16", "s8": "s8"}
PLANE_BYTES: dict[Mode, int] = {"fast": 2, "mixed": 2, "tf32": 4, "f32": 6, "s8": 1}
STORED_BYTES: dict[Mode, int] = {"fast": 2, "mixed": 4, "tf32": 4, "f32": 4, "s8": 1}
HIGH = 65504.0  # of float16
# Relative errors (L2) of Heat-2D against float64, first step and a step more, measured on the emulator (bench/claims.py, part accuracy).
ERRORS: dict[Mode, tuple[float, float]] = {
    "fast": (3e-4, 2.7e-4), "mixed": (1.4e-4, 1e-8), "tf32": (1.4e-4, 1e-8), "f32": (1e-7, 3e-8), "s8": (0.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """One step of one stencil in one mode: the program with its weights, how a block covers the grid, and the form."""

    stencil: Stencil
    mode: Mode
    program: Program
    geometry: Geometry
    increment: bool

    @property
    def kind(self) -> Kind:
        return KINDS[self.mode]


def prepare(stencil: Stencil, mode: Mode, tile: Offset, solver: Solver, effort: int = 6) -> Setup:
    """The setup of a mode. Raises BadInput for s8 weights that are no whole numbers of 8 bits, and for tf32 by `quad`."""
    if mode == "tf32" and solver == "quad":
        raise BadInput(
            "--solver quad with --mode tf32: tf32 keeps one of two columns, and quad's groups are no pairs; expected staircase or blossom"
        )
    return set_up(stencil, mode, grouped(stencil, tile, solver, effort))


def set_up(stencil: Stencil, mode: Mode, grouping: Grouping) -> Setup:
    """The setup of a mode on a conversion of the stencil. Raises BadInput for weights that the mode does not hold."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            made, increment = _programmed(stencil, mode, grouping)
    except OverflowError as error:
        raise BadInput(f"--mode {mode}: a weight of the stencil is too large for it ({error})") from error
    return Setup(stencil, mode, made, fit(made, PLANE_BYTES[mode]), increment)


def _programmed(stencil: Stencil, mode: Mode, grouping: Grouping) -> tuple[Program, bool]:
    """The program, and whether it is that of the increment."""
    if any(abs(w) > np.finfo(np.float32).max for w in stencil.weights):
        raise OverflowError("beyond float32")
    if mode == "f32":
        return program.split(grouping), False
    if mode == "s8":
        if any(w != round(w) or abs(w) > 127 for w in stencil.weights):
            raise BadInput("--mode s8: the weights are no whole numbers from −127 to 127")
        return program.plain(grouping, "s8"), False
    if mode == "fast":
        return program.plain(grouping, "f16"), False
    return _increment(stencil, grouping, KINDS[mode])


@functools.lru_cache(maxsize=256)
def grouped(stencil: Stencil, tile: Offset, solver: Solver, effort: int = 6) -> Grouping:
    """A conversion, kept: the same one serves all modes."""
    return convert(Layout(stencil, tile), solver, effort=effort)


def _increment(stencil: Stencil, grouping: Grouping, kind: Kind) -> tuple[Program, bool]:
    """Of L where that is smaller. L may have the point itself where w has not: then w is kept."""
    change = stencil.increment()
    if change is None or change.gain >= stencil.gain or not set(change.offsets) <= set(stencil.offsets):
        return program.plain(grouping, kind), False
    weights = program.balanced(dict(zip(change.offsets, change.weights, strict=True)))
    layout = grouping.layout
    at = {c: j for j, c in enumerate(layout.columns)}
    matrix = np.zeros_like(layout.matrix)
    for i, o in enumerate(layout.outputs):
        for s, w in weights.items():
            matrix[i, at[tuple(a + b for a, b in zip(o, s, strict=True))]] = w
    return program.plain(grouping, kind, matrix), True


def scale_of(largest: float, gain: float) -> float:
    """The power of two that brings a step's largest possible value to some 2¹², far from both ends of float16."""
    reach = largest * max(1.0, gain)
    return 1.0 if reach == 0 or not math.isfinite(reach) else 2.0 ** (12 - math.ceil(math.log2(reach)))


def error_after(mode: Mode, steps: int) -> float:
    """Predicted relative error after so many steps."""
    first, more = ERRORS[mode]
    return first + more * (steps - 1)


def chosen(rtol: float, steps: int) -> Mode | None:
    """The cheapest mode whose predicted error is below rtol; None where float64 is needed."""
    return next((mode for mode in MODES if error_after(mode, steps) <= rtol), None)


# ---------------------------------------------------------------- emulated steps


def run(setup: Setup, grid: np.ndarray, steps: int, boundary: Boundary) -> np.ndarray:
    """`steps` steps on the emulator, float32 (int32 for s8). Raises OverflowError where float16 overflows."""
    finite = np.abs(grid[np.isfinite(grid)])
    largest = max(float(finite.max(initial=0.0)), abs(boundary.value))
    scale = scale_of(largest, setup.stencil.gain) if setup.kind == "f16" else 1.0
    state = grid.astype(np.float32)
    if setup.mode == "fast":
        state = rounded(state * np.float32(scale), "f16")
        boundary = Boundary(boundary.rules, boundary.value * scale)
    for _ in range(steps):
        boundary.check(state.shape, setup.stencil)
        state = _step(setup, state, boundary, scale)
    if setup.mode == "s8":
        return state.astype(np.int32)
    return state / np.float32(scale) if setup.mode == "fast" else state


def _step(setup: Setup, state: np.ndarray, boundary: Boundary, scale: float) -> np.ndarray:
    if setup.mode == "f32":
        planes = list(program.parts(state))
        constants = [float(part.item()) for part in program.parts(np.asarray(boundary.value))]
    else:
        inside = scale if setup.mode == "mixed" else 1.0
        planes = [rounded(state * np.float32(inside), setup.kind)]
        constants = [float(rounded(np.asarray(boundary.value * inside, dtype=np.float32), setup.kind).item())]
    found = emulate.product(setup.geometry, planes, boundary, constants)
    if setup.mode == "mixed":
        found = found / np.float32(scale)
    if setup.increment:
        found = state + found
    if setup.mode == "fast":
        found = rounded(found, "f16")
    inner = tuple(slice(*boundary.ring(state.shape, setup.stencil, axis)) for axis in range(state.ndim))
    if boundary.rules[0] == "valid":
        return found[inner].copy()
    out = state.copy()
    out[inner] = found[inner]
    return out
