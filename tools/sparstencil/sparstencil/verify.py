"""`verify` and `suite`: a plan's tables against the definition in float64, and all 79 stencils that way.

A plan file is taken as it stands, what `plan --json` printed or `emit` wrote: its order of columns, instructions, selectors,
metadata words and places drive the emulator, on the block that the emitted kernel has. A grid of small whole numbers and whole
weights makes every sum exact, so that one wrong bit of a table is one wrong number. Beside that every field that follows from
the order of columns is made again and compared.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from sparstencil import cuda, emulate, modes, reference
from sparstencil.boundary import Boundary, Name
from sparstencil.convert import NONE, SOLVERS, Grouping, Solver, fewest
from sparstencil.cuda_launch import Device, Gpu, Runner
from sparstencil.cuda_plan import Backend, Placed, Target
from sparstencil.geometry import Geometry
from sparstencil.layout import Layout
from sparstencil.mma import FORMS, LANES
from sparstencil.modes import KINDS, Mode, Setup
from sparstencil.plan import CARDS, MAX_STEPS, best, tables
from sparstencil.program import Program, Step, plain
from sparstencil.stencil import Offset, Stencil
from sparstencil.suite import SUITE, Kernel
from tenfold_shared import BadInput, unread

Record = dict[str, Any]
Where = Literal["emulate", "cuda-sp", "cuda-tc", "cuda-core"]
BACKENDS: tuple[Where, ...] = get_args(Where)
SHAPES: dict[int, tuple[int, ...]] = {1: (101,), 2: (37, 53), 3: (17, 19, 23)}
RULES: tuple[Name, ...] = ("wrap", "reflect", "mirror", "nearest", "constant", "fixed", "valid")
LARGEST = 2047  # whole number up to which float16 has every one
WIDEST, LONGEST = (
    4096,
    1000,
)  # outputs of a tile and points of a pass, and its steps, up to which a plan file is believed


def whole_numbers(stencil: Stencil, seed: int = 0) -> Stencil:
    """The same support with weights drawn from 1 to 8."""
    draw = np.random.default_rng(seed)
    return Stencil.of({o: float(draw.integers(1, 9)) for o in stencil.offsets}, stencil.name)


def exact_grid(shape: tuple[int, ...], seed: int = 0, most: int = 8) -> np.ndarray:
    """Whole numbers from −most to most, float32."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


def exact(setup: Setup, seed: int = 0) -> tuple[Program, Stencil]:
    """The setup's program with whole weights at every place where its own are not 0 as its kind rounds them, one product; and
    the stencil of those weights."""
    layout = setup.program.layout
    held: np.ndarray = np.any(setup.program.planes != 0, axis=0)
    draw = whole_numbers(layout.stencil, seed)
    used = {o: w for o, w in zip(draw.offsets, draw.weights, strict=True) if held[0, layout.columns.index(o)]}
    matrix = np.where(held, Layout(draw, layout.tile).matrix, 0.0)
    return plain(setup.program.grouping, setup.kind, matrix), Stencil.of(used, layout.stencil.name)


def block_of(setup: Setup) -> Geometry:
    """The emitted kernel's block; the setup's own where the stencil reaches too far for one."""
    try:
        return Target(setup, "cuda-sp").placed.geometry
    except BadInput:
        return setup.geometry


def compare(program: Program, geometry: Geometry, truth: Stencil, boundary: Boundary, shape: tuple[int, ...]) -> int:
    """Points that the emulator gets wrong, of a grid of whole numbers. program: holds truth's weights, which may lack places of
    its layout's stencil. Raises ValueError or IndexError for a table that is none."""
    grid, whole = exact_grid(shape), program.layout.stencil
    inner = tuple(slice(*boundary.ring(shape, whole, axis)) for axis in range(len(shape)))
    beyond = Boundary(
        tuple("constant" if rule in ("fixed", "valid") else rule for rule in boundary.rules), boundary.value
    )
    right = reference.step(grid.astype(np.float64), truth, beyond)[inner]
    found = emulate.product(replace(geometry, program=program), [grid], boundary, [boundary.value])[inner]
    return int((found != right).sum())


def on_gpu(setup: Setup, backend: Backend, device: Device, boundary: Boundary, shape: tuple[int, ...]) -> int:
    """Points that the emitted kernel gets wrong on a GPU: the setup's conversion and mode with whole weights of either sign,
    small enough for every sum to be exact in float16."""
    stencil, grouping = setup.program.layout.stencil, setup.program.grouping
    draw = np.random.default_rng(0)
    top = max(1, min(7, LARGEST // (4 * stencil.points)))
    weights = draw.integers(1, top + 1, stencil.points) * draw.choice([-1, 1], stencil.points)
    whole = Stencil(stencil.offsets, tuple(map(float, weights)), stencil.name)
    most = max(1, min(4, LARGEST // int(np.abs(weights).sum())))
    boundary = Boundary(boundary.rules, min(boundary.value, most))
    exact = modes.set_up(whole, setup.mode, replace(grouping, layout=Layout(whole, grouping.layout.tile)))
    grid = exact_grid(shape, most=most).astype(np.float64)
    ran = Runner(Target(exact, backend), device).run(grid, 1, boundary)
    return int((ran.grid != reference.run(grid, whole, 1, boundary)).sum())


# ---------------------------------------------------------------- verify


def verify(
    stencil: Stencil,
    mode: Mode | None,
    tile: Offset | None,
    solver: Solver | None,
    plan: str | None,
    backend: Where = "emulate",
    device: Device | int = 0,
) -> Record:
    """A row a boundary rule with the points that differ; `tables`: the fields of the plan that are not what they should be.

    mode: the plan file's own where it is None, `fast` without a file. backend: where the numbers are made; on a GPU the
    kernel that `emit` prints for the plan, and only where no table is wrong. Raises BadInput for a file that is no plan, or one of
    another stencil, mode, tile or solver; Missing without the GPU."""
    gpu = None if backend == "emulate" else Gpu(device) if isinstance(device, int) else device
    if plan is None:
        setup = best(stencil, mode or "fast", CARDS["h100"], tile, solver)
        held = Held.of("the plan", json.loads(json.dumps(tables(setup, 1))), stencil)
    else:
        held = Held.of(plan, _loaded(plan), stencil)
        for name, asked, own in (("mode", mode, held.mode), ("tile", tile, held.tile), ("solver", solver, held.told["solver"])):  # fmt: skip
            if asked is not None and asked != own:
                raise BadInput(f"{plan}: {name} {_text(own)}; --{name} says {_text(asked)}")
    wrong = held.wrong
    geometry = block_of(held.setup) if held.setup else None
    rows = []
    for rule in RULES:
        boundary = Boundary((rule,) * stencil.ndim, 3.0 if rule == "constant" else 0.0)
        shape = _shape(held.stencil, geometry)
        row: Record = {"boundary": str(boundary), "points": math.prod(shape), "backend": backend}
        try:
            if held.setup is None or geometry is None:
                raise ValueError("not run: the order of columns is wrong")
            if gpu is None:
                bad = compare(held.program, held.place(geometry), held.truth, boundary, shape)
            elif wrong:
                raise ValueError("not run: a GPU takes no wrong tables")
            else:
                bad = on_gpu(held.setup, cast(Backend, backend), gpu, boundary, shape)
            rows.append(row | {"wrong": bad, "ok": bad == 0})
        except (ValueError, IndexError, OverflowError) as error:
            rows.append(row | {"wrong": None, "ok": False, "error": str(error)})
    return {
        "stencil": stencil.name,
        "mode": held.mode,
        "steps_a_pass": held.steps,
        "backend": backend,
        "rows": rows,
        "tables": wrong,
        "ok": not wrong and all(row["ok"] for row in rows),
    }


def _shape(stencil: Stencil, geometry: Geometry | None) -> tuple[int, ...]:
    """An odd size, large enough for every rule, and more than one block along the first axis."""
    found = [max(n, 2 * (h - low) + 3) for n, low, h in zip(SHAPES[stencil.ndim], stencil.lo, stencil.hi, strict=True)]
    if geometry is not None:
        found[0] = max(found[0], geometry.block[0] + 5)
    return tuple(found)


# ---------------------------------------------------------------- a plan file


@dataclass(frozen=True)
class Given(Program):
    """A program whose instructions, selectors, metadata words and places are those of a plan file.

    entries: (instructions of a tile of rows) of (form's K, selector); lanes: (tiles of rows, instructions, 32) uint32."""

    entries: tuple[tuple[int, int], ...] = ()
    lanes: np.ndarray | None = None
    told: tuple[Offset | None, ...] | None = None

    @functools.cached_property
    def steps(self) -> list[Step]:
        """One register an instruction, so that no word hides another."""
        out, first = [], 0
        for at, (k, selector) in enumerate(self.entries):
            out.append(Step(FORMS[self.kind, k], first, selector, at))
            first += k
        return out

    @property
    def meta(self) -> np.ndarray:
        assert self.lanes is not None
        return self.lanes

    @functools.cached_property
    def places(self) -> list[Offset | None]:
        return super().places if self.told is None else list(self.told)


@dataclass(frozen=True)
class Told(Placed):
    """A block whose places of the K slots are those of a file that `emit` wrote."""

    told: tuple[int, ...] = ()

    def offsets(self) -> np.ndarray:
        return np.array(self.told, dtype=np.int32)


@dataclass(frozen=True)
class Held:
    """A plan file that can be read. emitted: by `emit`, else by `plan --json`; stencil: of all steps of a pass; order: column of
    each place; setup: made again from that order, None where it is no order of the tile's columns in legal groups."""

    path: str
    told: Record
    emitted: bool
    stencil: Stencil
    steps: int
    mode: Mode
    layout: Layout
    order: tuple[int, ...]
    setup: Setup | None
    disorder: tuple[str, ...]

    @property
    def tile(self) -> Offset:
        return self.layout.tile

    @classmethod
    def of(cls, path: str, told: Any, stencil: Stencil) -> Held:
        """Raises BadInput for what is no plan, or one of another stencil."""
        emitted = isinstance(told, dict) and isinstance(told.get("stencil"), dict)
        _check(path, told, EMITTED if emitted else PLANNED)
        if emitted and told["backend"] != "cuda-sp":
            raise BadInput(f"{path}: a kernel of {told['backend']}, without metadata words; expected one of cuda-sp")
        if told["mode"] not in KINDS:
            raise BadInput(f"{path}: mode {told['mode']!r}; expected one of {', '.join(KINDS)}")
        mode: Mode = told["mode"]
        order = told["slots" if emitted else "permutation"]
        tile = tuple(told["tile"])
        most = max(WIDEST, len(order))
        if len(tile) != stencil.ndim or min(tile) < 1 or math.prod(tile) > most:
            raise BadInput(
                f"{path}: tile {'x'.join(map(str, tile))}: expected {stencil.ndim} sizes of at least 1, of {most} outputs at most"
            )
        key = told["stencil"]["key"] if emitted else told["key"]
        whole, steps = _powered(path, told, stencil, key, most)
        layout = Layout(whole, tile)
        at = {place: column for column, place in enumerate(layout.columns)}
        if emitted:
            columns = [NONE if place is None else at.get(tuple(place), layout.n) for place in order]
        else:
            columns = list(order)
        grouping, disorder = _grouped(layout, columns, told, mode, "slots" if emitted else "permutation")
        if not emitted and (grouping is None or disorder):
            disorder += _misplaced(layout, columns, told["offsets"], at)
        setup = modes.set_up(whole, mode, grouping) if grouping else None
        return cls(path, told, emitted, whole, steps, mode, layout, tuple(columns), setup, tuple(disorder))

    @functools.cached_property
    def wrong(self) -> list[str]:
        """What differs from the same fields made again from the order of columns: field, entry, lane, and both values."""
        out = list(self.disorder)
        if self.setup is None:
            expected: Record = {"M": self.layout.rows, "n": self.layout.n, "lower_bound": self.layout.bound}
            return out + [line for name, value in expected.items() if name in self.told for line in _differences(name, value, self.told[name])]  # fmt: skip
        if self.emitted:
            try:
                boundary = Boundary.parse(self.told["boundary"], self.stencil.ndim)
            except BadInput as error:
                raise BadInput(f"{self.path}: boundary: {error}") from error
            made = cuda.plan_of(Target(self.setup, "cuda-sp"), boundary, self.told["arch"])
            made["stencil"] = {name: value for name, value in made["stencil"].items() if name != "name"}
        else:
            made = {name: value for name, value in tables(self.setup, self.steps).items() if name != "stencil"}
        if self.told["solver"] not in SOLVERS:
            out.append(f"solver: {_text(self.told['solver'])}, expected {', '.join(SOLVERS)}")
        made.pop("solver")
        for name, value in json.loads(json.dumps(made)).items():
            out += _differences(name, value, self.told[name]) if name in self.told else [f"{name}: missing"]
        return out

    @functools.cached_property
    def _exact(self) -> tuple[Program, Stencil]:
        assert self.setup is not None
        return exact(self.setup)

    @property
    def truth(self) -> Stencil:
        return self._exact[1]

    @functools.cached_property
    def program(self) -> Given:
        """What the emulator runs. Raises ValueError for tables that make no instructions."""
        regular = self._exact[0]
        tiles: dict[int, list[Record]] = {}
        for entry in self.told["metadata"]:
            tiles.setdefault(entry["m_tile"], []).append(entry)
        if sorted(tiles) != list(range(regular.m_tiles)):
            raise ValueError(f"not run: tiles of rows {sorted(tiles)}, expected {list(range(regular.m_tiles))}")
        if len(self.order) != regular.k:
            raise ValueError(f"not run: {len(self.order)} places, expected {regular.k}")
        listed = [[self._instruction(entry) for entry in tiles[tile]] for tile in range(regular.m_tiles)]
        if any(other != listed[0] for other in listed) or sum(k for k, _ in listed[0]) != regular.k:
            raise ValueError(f"not run: the instructions are not {regular.k} places of every tile of rows")
        if len(self.told["offsets"]) != regular.k:
            raise ValueError(f"not run: {len(self.told['offsets'])} offsets, expected {regular.k}")
        words = [[[int(word, 16) for word in entry["lanes"]] for entry in tiles[tile]] for tile in sorted(tiles)]
        places = None if self.emitted else tuple(None if p is None else tuple(p) for p in self.told["offsets"])
        return Given(
            regular.grouping,
            regular.kind,
            regular.planes,
            entries=tuple(listed[0]),
            lanes=np.array(words, dtype=np.uint32),
            told=places,
        )

    def _instruction(self, entry: Record) -> tuple[int, int]:
        """(K, selector). Raises ValueError where there is no such instruction."""
        forms = {form.shape: form for (kind, _), form in FORMS.items() if kind == KINDS[self.mode]}
        form = forms.get(entry["shape"])
        if form is None or entry["mma"] != form.ptx or not 0 <= entry["selector"] < form.selectors:
            raise ValueError(
                f"not run: no instruction {entry['mma']} ({entry['shape']}) with selector {entry['selector']}"
            )
        if len(entry["lanes"]) != LANES:
            raise ValueError(f"not run: {len(entry['lanes'])} lanes, expected {LANES}")
        return form.k, entry["selector"]

    def place(self, geometry: Geometry) -> Geometry:
        """The block with the file's own places, where it has them for one block."""
        if not self.emitted:
            return geometry
        if not isinstance(geometry, Placed):
            raise ValueError("not run: the stencil reaches too far for an emitted block")
        program = self.program  # its checks come first
        return Told(program, geometry.patches, geometry.extents, geometry.lead, tuple(self.told["offsets"]))


def _loaded(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise unread(path, error) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not a plan ({str(error) or type(error).__name__})") from error


# Kinds of values: a plan file's fields are of these, or it is none. A number that is merely wrong is `verify`'s to tell.
_LANES = "words of eight hexadecimal digits"
_ENTRY: Record = {"mma": "text", "shape": "text", "m_tile": "count", "selector": "count", "lanes": _LANES}
PLANNED: Record = {
    "key": "text", "mode": "text", "steps_a_pass": "count", "tile": "counts", "solver": "text", "permutation": "counts",
    "metadata": _ENTRY, "offsets": "places", **dict.fromkeys(("points", "increment", "M", "n", "z", "groups", "lower_bound", "optimal", "K", "density", "redundancy", "instructions"), ""),
}  # fmt: skip
EMITTED: Record = {
    "stencil": "object", "backend": "text", "mode": "text", "arch": "text", "boundary": "text", "tile": "counts",
}  # fmt: skip
_TABLES: Record = {"solver": "text", "slots": "places", "offsets": "counts", "metadata": _ENTRY}


def _check(path: str, told: Any, fields: Record) -> None:
    """Raises BadInput where a field is missing or holds what it never can."""
    if not isinstance(told, dict):
        raise BadInput(f"{path}: not a plan: expected an object with {', '.join(list(fields)[:4])}, …")
    if fields is EMITTED and told.get("backend") == "cuda-sp":
        fields = fields | _TABLES
    missing = [name for name in fields if name not in told]
    if missing:
        raise BadInput(f"{path}: not a plan: no {', '.join(missing)}")
    for name, kind in fields.items():
        if isinstance(kind, dict):
            if not isinstance(told[name], list):
                raise BadInput(f"{path}: {name}: expected a list of instructions")
            for at, entry in enumerate(told[name]):
                lacking = [part for part in kind if not isinstance(entry, dict) or part not in entry]
                if lacking:
                    raise BadInput(f"{path}: {name}[{at}]: no {', '.join(lacking)}")
                for part, inner in kind.items():
                    _check_kind(f"{path}: {name}[{at}].{part}", entry[part], inner)
        elif kind:
            _check_kind(f"{path}: {name}", told[name], kind)


def _check_kind(where: str, value: Any, kind: str) -> None:
    def count(x: Any) -> bool:
        return isinstance(x, int) and not isinstance(x, bool) and abs(x) < 2**31

    def place(x: Any) -> bool:
        return x is None or (isinstance(x, list) and all(map(count, x)))

    good = {
        "text": isinstance(value, str),
        "object": isinstance(value, dict) and isinstance(value.get("key"), str),
        "count": count(value),
        "counts": isinstance(value, list) and all(map(count, value)),
        "places": isinstance(value, list) and all(map(place, value)),
        _LANES: isinstance(value, list)
        and all(isinstance(word, str) and re.fullmatch("[0-9a-f]{8}", word) for word in value),
    }[kind]
    if not good:
        told = {"count": "a whole number", "counts": "whole numbers", "places": "places, or null for none", "object": "an object with its key"}  # fmt: skip
        raise BadInput(f"{where}: {_text(value)[:60]}: expected {told.get(kind, kind)}")


def _powered(path: str, told: Record, stencil: Stencil, key: str, most: int) -> tuple[Stencil, int]:
    """The stencil of a pass and its steps, found by the plan's key; most: points that it may have."""
    own, whole = told.get("steps_a_pass", 1), stencil
    for steps in range(1, min(max(own, MAX_STEPS), LONGEST) + 1):
        if whole.key == key:
            return stencil.power(steps), steps
        whole = whole.then(stencil)
        if whole.points > most:
            break
    name = told["stencil"].get("name") if isinstance(told.get("stencil"), dict) else told.get("stencil")
    raise BadInput(f"{path}: a plan of {name or key}; expected {stencil.name or stencil.key}, or some steps of it")


def _grouped(
    layout: Layout, columns: list[int], told: Record, mode: Mode, name: str
) -> tuple[Grouping | None, list[str]]:
    """The grouping that an order of columns is, and what keeps it from being one."""
    wrong = []
    seen: dict[int, int] = {}
    for at, c in enumerate(columns):
        if c == NONE:
            continue
        if not 0 <= c < layout.n:
            wrong.append(f"{name}[{at}]: {_text(told[name][at])}, expected one of the tile's {layout.n} columns")
        elif c in seen:
            wrong.append(f"{name}[{at}]: {_text(told[name][at])}, which stands at {seen[c]} already")
        seen.setdefault(c, at)
    absent = sorted(set(range(layout.n)) - set(seen))
    if absent:
        wrong.append(f"{name}: column {absent[0]}, place {list(layout.columns[absent[0]])}, stands nowhere")
    if wrong:
        return None, wrong
    padded = [*columns, *[NONE] * (-len(columns) % 4)]
    quads = [tuple(padded[at : at + 4]) for at in range(0, len(padded), 4)]
    while quads and set(quads[-1]) == {NONE}:
        quads.pop()
    paired = mode == "tf32"
    groups = tuple((a, c, b, d) if paired else (a, b, c, d) for a, b, c, d in quads)
    pairs = [pair for a, b, c, d in groups for pair in ((a, c), (b, d))]
    clash = paired and _clash(layout, pairs)
    if clash:
        return None, [
            f"{name}[{2 * clash[0]}], [{2 * clash[0] + 1}]: row {clash[1]} has entries in both; tf32 keeps one"
        ]
    solver: Solver = told["solver"] if told["solver"] in SOLVERS else "quad"
    z = 4 * len(groups) - layout.n if solver == "quad" else sum((a == NONE) != (b == NONE) for a, b in pairs)
    grouping = Grouping(layout, solver, groups, z, solver != "quad" or paired)
    try:
        grouping.check()
    except ValueError as error:
        return None, [f"{name}: {str(error).partition(': ')[2]}"]
    return grouping, []


def _clash(layout: Layout, pairs: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first pair of columns that a row has entries in both of, and the row."""
    for at, (a, b) in enumerate(pairs):
        both = layout.support[a] & layout.support[b] if NONE not in (a, b) else np.zeros(1, dtype=bool)
        if both.any():
            return at, int(both.argmax())
    return None


def _misplaced(layout: Layout, columns: list[int], places: list[Any], at: dict[Offset, int]) -> list[str]:
    """Where an order that is wrong is not that of the places beside it."""
    out = []
    for slot, (column, place) in enumerate(zip(columns, places, strict=False)):
        other = NONE if place is None else at.get(tuple(place))
        if other is not None and other != column:
            out.append(f"permutation[{slot}]: {column}, expected {other}, the column of offsets[{slot}]")
    return out


def _differences(name: str, expected: Any, found: Any) -> Iterator[str]:
    """Lines of `name: found, expected that`, down to the entry that differs."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            yield from _differences(f"{name}.{key}", value, found[key]) if key in found else [f"{name}.{key}: missing"]
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{name}: {len(found)} entries, expected {len(expected)}"
        for at, (a, b) in enumerate(zip(expected, found, strict=False)):
            yield from _differences(f"{name}[{at}]", a, b)
    elif expected != found or isinstance(expected, bool) != isinstance(found, bool):
        yield f"{name}: {_text(found)}, expected {_text(expected)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ---------------------------------------------------------------- the suite


def lines_of(kernel: Kernel) -> int:
    """Lines that a user writes for a stencil: one for a name or formula, one a row of a weights file in more dimensions."""
    stencil = kernel.stencil
    return 1 if stencil.points <= 31 else math.prod(stencil.extents[:-1])


def suite_row(kernel: Kernel) -> Record:
    """Conversion of one stencil of the suite, and one step at an odd size, emulated on the emitted block, a boundary rule in turn.

    groups: of the chosen plan; fewest: of any conversion found of its tile."""
    stencil = kernel.stencil
    mode: Mode = "s8" if kernel.integer else "fast"
    setup = best(stencil, mode, CARDS["h100"])
    grouping = setup.program.grouping
    rule = RULES[kernel.id % len(RULES)]
    boundary = Boundary((rule,) * stencil.ndim, 3.0 if rule == "constant" else 0.0)
    program, truth = exact(setup, kernel.id)
    wrong = compare(program, block_of(setup), truth, boundary, SHAPES[stencil.ndim])
    row: Record = {
        "id": kernel.id, "name": kernel.name, "ndim": kernel.ndim, "points": kernel.points, "field": kernel.field,
        "tile": list(grouping.layout.tile), "n": grouping.layout.n, "z": grouping.z, "groups": grouping.count,
        "fewest": min(grouping.count, fewest(grouping.layout)), "lower_bound": grouping.layout.bound, "solver": grouping.solver, "K": setup.program.k,
        "density": round(2 * stencil.points / setup.program.k, 4), "redundancy": round(setup.program.k / 2 / stencil.points, 3),
        "boundary": str(boundary), "wrong": wrong, "ok": wrong == 0, "user_lines": lines_of(kernel),
        "emitted_lines": len(cuda.source(setup, boundary.rules).splitlines()),
    }  # fmt: skip
    return row


def suite(names: list[str] | None = None) -> Iterator[Record]:
    """Rows of the suite, one by one."""
    for name, kernel in SUITE.items():
        if names is None or name in names:
            yield suite_row(kernel)


def summary(rows: list[Record]) -> str:
    """One line: how many are right, how many of the chosen plans have the fewest groups there can be, and of how many tiles some
    conversion has."""
    right = sum(row["ok"] for row in rows)
    plans = sum(row["groups"] == row["lower_bound"] for row in rows)
    found = sum(row["fewest"] == row["lower_bound"] for row in rows)
    return (
        f"{right} of {len(rows)} right; {plans} plans have the fewest groups there can be; "
        f"for {found} tiles some conversion reaches that"
    )
