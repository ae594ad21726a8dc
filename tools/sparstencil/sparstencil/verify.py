"""`verify` and `suite`: a plan's tables against the definition in float64, and all 79 stencils that way.

A plan file is taken as it stands: its permutation, its metadata words, its places. A grid of small whole numbers and whole
weights makes every sum exact, so that one wrong bit of a table is one wrong number.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparstencil import cuda, emulate, modes, reference
from sparstencil.boundary import Boundary, Name
from sparstencil.convert import NONE, SOLVERS, Grouping
from sparstencil.geometry import Geometry, fit
from sparstencil.layout import Layout
from sparstencil.mma import Kind
from sparstencil.modes import KINDS, PLANE_BYTES, Mode
from sparstencil.plan import CARDS, MATCHED, best
from sparstencil.program import Program, plain
from sparstencil.stencil import Offset, Stencil
from sparstencil.suite import SUITE, Kernel
from tenfold_shared import BadInput

Record = dict[str, Any]
SHAPES: dict[int, tuple[int, ...]] = {1: (101,), 2: (37, 53), 3: (17, 19, 23)}
RULES: tuple[Name, ...] = ("wrap", "reflect", "mirror", "nearest", "constant", "fixed", "valid")


@dataclass(frozen=True)
class Given(Program):
    """A program whose metadata words and places are those of a plan file."""

    words: tuple[tuple[str, ...], ...] = ()
    places: tuple[Offset | None, ...] = ()

    @property
    def meta(self) -> np.ndarray:
        out = np.zeros_like(Program.meta.fget(self))  # type: ignore[attr-defined]
        for at, lanes in enumerate(self.words):
            tile, step = divmod(at, len(self.steps))
            out[tile, self.steps[step].register] |= np.array([int(word, 16) for word in lanes], dtype=np.uint32)
        return out

    def offsets(self, strides: tuple[int, ...]) -> np.ndarray:
        regular = super().offsets(strides)
        for at, place in enumerate(self.places):
            if place is not None:
                regular[at] = sum(c * s for c, s in zip(place, strides, strict=True))
        return regular


def whole_numbers(stencil: Stencil, seed: int = 0) -> Stencil:
    """The same support with weights from 1 to 8, no two neighbours alike."""
    draw = np.random.default_rng(seed)
    return Stencil.of({o: float(draw.integers(1, 9)) for o in stencil.offsets}, stencil.name)


def exact_grid(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def compare(program: Program, geometry: Geometry, stencil: Stencil, boundary: Boundary, shape: tuple[int, ...]) -> int:
    """Points that the emulator gets wrong, of a grid of whole numbers; what a table that is no table does counts as all.

    program holds the stencil's whole weights."""
    grid = exact_grid(shape)
    inner = tuple(slice(*boundary.ring(shape, stencil, axis)) for axis in range(len(shape)))
    beyond = Boundary(
        tuple("constant" if rule in ("fixed", "valid") else rule for rule in boundary.rules), boundary.value
    )
    truth = reference.step(grid.astype(np.float64), stencil, beyond)[inner]
    found = emulate.product(geometry, [grid], boundary, [boundary.value])[inner]
    return int((found != truth).sum())


# ---------------------------------------------------------------- verify


def verify(stencil: Stencil, mode: Mode, tile: Offset | None, solver: Any, plan: str | None) -> Record:
    """A row a boundary rule with the points that differ; `wrong` says where a plan file's tables are not what they should be.
    Raises BadInput for a plan of another stencil."""
    wrong: list[str] = []
    whole = whole_numbers(stencil)
    kind: Kind = KINDS[mode]
    if plan is None:
        setup = (
            modes.prepare(whole, "s8", best(stencil, mode, CARDS["h100"], tile, solver).program.layout.tile, solver)
            if mode == "s8"
            else best(whole, mode, CARDS["h100"], tile, solver)
        )
        program: Program = plain(setup.program.grouping, kind)
    else:
        program, wrong = given(plan, stencil, whole, kind)
    geometry = fit(program, PLANE_BYTES[mode])
    rows = []
    for rule in RULES:
        boundary = Boundary((rule,) * stencil.ndim, 3.0 if rule == "constant" else 0.0)
        shape = tuple(
            max(n, 2 * (h - low) + 3) for n, low, h in zip(SHAPES[stencil.ndim], stencil.lo, stencil.hi, strict=True)
        )
        try:
            bad = compare(program, geometry, whole, boundary, shape)
            rows.append({"boundary": str(boundary), "points": math.prod(shape), "wrong": bad, "ok": bad == 0})
        except (ValueError, IndexError) as error:
            rows.append(
                {"boundary": str(boundary), "points": math.prod(shape), "wrong": None, "ok": False, "error": str(error)}
            )
    return {
        "stencil": stencil.name,
        "mode": mode,
        "rows": rows,
        "tables": wrong,
        "ok": not wrong and all(row["ok"] for row in rows),
    }


def given(path: str, stencil: Stencil, whole: Stencil, kind: Kind) -> tuple[Given, list[str]]:
    """The program of a plan file, with the stencil's weights replaced by whole ones, and what in it differs from its own
    permutation's tables."""
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise BadInput(f"{path}: not a plan ({error})") from error
    missing = [name for name in ("key", "tile", "permutation", "metadata", "offsets", "mode") if name not in told]
    if missing:
        raise BadInput(f"{path}: not a plan: no {', '.join(missing)}")
    if told["key"] != stencil.key:
        raise BadInput(
            f"{path}: a plan of {told.get('stencil') or told['key']}; expected {stencil.name or stencil.key}"
        )
    layout = Layout(whole, tuple(told["tile"]))
    order = told["permutation"]
    if sorted(c for c in order if c != NONE) != list(range(layout.n)) or len(order) % 4:
        raise BadInput(f"{path}: permutation: not every column of the tile once, in groups of four")
    groups = tuple((a, b, c, d) for a, b, c, d in zip(order[::4], order[1::4], order[2::4], order[3::4], strict=True))
    grouping = Grouping(layout, told.get("solver", "quad"), groups, len(order) - layout.n, kind == "tf32")
    try:
        grouping.check()
    except ValueError as error:
        raise BadInput(f"{path}: permutation: {error}") from error
    plan = plain(grouping, kind)
    wrong = []
    words = tuple(tuple(entry["lanes"]) for entry in told["metadata"])
    for at, (mine, theirs) in enumerate(zip(plan.table(), words, strict=False)):
        wrong += [
            f"metadata[{at}].lanes[{lane}]: {b}, expected {a}"
            for lane, (a, b) in enumerate(zip(mine["lanes"], theirs, strict=False))
            if a != b
        ]
    if len(words) != len(plan.table()):
        wrong.append(f"metadata: {len(words)} instructions, expected {len(plan.table())}")
    expected = [list(layout.columns[c]) if c != NONE else None for c in plan.slots]
    wrong += [
        f"offsets[{at}]: {b}, expected {a}"
        for at, (a, b) in enumerate(zip(expected, told["offsets"], strict=False))
        if a != b
    ]
    places = tuple(tuple(place) if place is not None else None for place in told["offsets"])
    return Given(grouping, kind, plan.planes, words=words, places=places), wrong


# ---------------------------------------------------------------- the suite


def lines_of(kernel: Kernel) -> int:
    """Lines that a user writes for a stencil: one for a name or formula, one a row of a weights file in more dimensions."""
    stencil = kernel.stencil
    return 1 if stencil.points <= 31 else math.prod(stencil.extents[:-1])


def fewest(layout: Layout) -> tuple[int, int]:
    """Groups and zero columns of the best conversion of a tile by any solver. (A plan may take one with more groups, where
    they make no more instructions and its loads are fewer.)"""
    best_one: tuple[int, int] | None = None
    for solver in SOLVERS:
        if solver == "blossom" and layout.n > 4 * MATCHED:
            continue
        found = modes.grouped(layout.stencil, layout.tile, solver)
        best_one = min(best_one or (found.count, found.z), (found.count, found.z))
        if found.optimal:
            break
    assert best_one is not None
    return best_one


def suite_row(kernel: Kernel) -> Record:
    """Conversion of one stencil of the suite, and one emulated step at an odd size, a boundary rule in turn."""
    stencil = kernel.stencil
    mode: Mode = "s8" if kernel.integer else "fast"
    setup = best(stencil, mode, CARDS["h100"])
    grouping = setup.program.grouping
    whole = whole_numbers(stencil, kernel.id)
    rule = RULES[kernel.id % len(RULES)]
    boundary = Boundary((rule,) * stencil.ndim, 3.0 if rule == "constant" else 0.0)
    exact = plain(
        Grouping(Layout(whole, grouping.layout.tile), grouping.solver, grouping.groups, grouping.z, grouping.pairs),
        setup.kind,
    )
    wrong = compare(exact, fit(exact, PLANE_BYTES[mode]), whole, boundary, SHAPES[stencil.ndim])
    row: Record = {
        "id": kernel.id, "name": kernel.name, "ndim": kernel.ndim, "points": kernel.points, "field": kernel.field,
        "tile": list(grouping.layout.tile), "n": grouping.layout.n, "z": grouping.z, "groups": grouping.count,
        "lower_bound": grouping.layout.bound, "fewest": fewest(grouping.layout)[0], "solver": grouping.solver, "K": setup.program.k,
        "density": round(2 * stencil.points / setup.program.k, 4), "redundancy": round(setup.program.k / 2 / stencil.points, 3),
        "boundary": str(boundary), "wrong": wrong, "ok": wrong == 0, "user_lines": lines_of(kernel),
        "emitted_lines": len(cuda.source(setup, boundary.rules).splitlines()),
    }  # fmt: skip
    return row


def suite(names: list[str] | None = None) -> Any:
    """Rows of the suite, one by one."""
    for name, kernel in SUITE.items():
        if names is None or name in names:
            yield suite_row(kernel)
