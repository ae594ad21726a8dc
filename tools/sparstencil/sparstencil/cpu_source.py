"""C of one stencil for the CPU: its rows of outputs, between a head and the fixed part, cpu_runtime.c.

The rule at the edges, the shape, tiles and threads are arguments: a stencil and a type are one source. A register tile is
ROWS rows of VECTORS vectors; a vector of inputs is loaded once and multiplied into every row that wants it. Each output is

    a = 0;  a = fma(w_s, u(x + s), a)  for s in the order of the offsets

and nothing else, so that tiles, threads and vectors cannot change a bit. Up to UNROLLED points all this is written out, the
weights as constants. More are a loop: over planes z of the same pattern, one pattern written out, or else over a table.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from sparstencil.stencil import Stencil

UNROLLED = 130  # points: 11 × 11 and 5 × 5 × 5 are written out, 7 × 7 × 7 is not
NEAR = 7  # columns: less than the lanes of the shortest of the long vectors, which is as far as two can be joined
RUNTIME = Path(__file__).with_name("cpu_runtime.c")

Plane = tuple[tuple[int, int], ...]  # (dy, dx), in order


def literal(value: float, dtype: np.dtype) -> str:
    """A C constant of exactly the value, as the grid's type rounds it."""
    return float(dtype.type(value)).hex() + ("f" if dtype.itemsize == 4 else "")


def tile_of(stencil: Stencil, wide: bool) -> tuple[int, int]:
    """Rows and vectors of a register tile; wide: 32 vector registers, not 16."""
    if stencil.ndim == 1:
        return 1, 8 if wide else 4
    return 4, 3 if wide and stencil.ndim == 2 and stencil.points > 16 else 2


def source(stencil: Stencil, dtype: np.dtype, wide: bool = True) -> str:
    """The whole source of a stencil on float32 or float64."""
    rows, vectors = tile_of(stencil, wide)
    missing = (0,) * (3 - stencil.ndim)
    lo, hi = missing + stencil.lo, missing + stencil.hi
    planes = _planes([missing + offset for offset in stencil.offsets])
    head = [
        f"/* {stencil.points} points, {stencil.ndim}D. Written by sparstencil. */",  # no name: it is another's text
        f"#define REAL {'float' if dtype.itemsize == 4 else 'double'}",
        f"#define F64 {int(dtype.itemsize == 8)}",
        f"#define ROWS {rows}",
        f"#define VECTORS {vectors}",
        f"#define PLANES {hi[0] - lo[0] + 1}",
        f"#define LINES {hi[1] - lo[1] + 1}",
        f"static const long LOW[3] = {{{_list(lo)}}}, HIGH[3] = {{{_list(hi)}}};",
        RUNTIME.read_text(encoding="utf-8"),
        "/* ---------------------------------------------------------------- this stencil */",
    ]
    writer = _Writer(stencil, dtype, planes, lo)
    writer.many(rows, vectors)
    writer.some("rows_some", rows)
    writer.some("row_some", 1)
    return "\n".join([*head, *writer.arrays, *writer.out]) + "\n"


class _Writer:
    """The functions of one stencil, and the arrays they read."""

    def __init__(self, stencil: Stencil, dtype: np.dtype, planes: list[tuple[int, Plane]], lo: tuple[int, ...]) -> None:
        self.dtype, self.planes, self.lo = dtype, planes, lo
        self.weights = [literal(weight, dtype) for weight in stencil.weights]
        self.out: list[str] = []
        self.arrays: list[str] = []
        if stencil.points <= UNROLLED:
            self.form = "written"
        elif sum(len(plane) for plane, _ in _runs(planes)) <= UNROLLED:
            self.form = "planes"
        else:
            self.form = "table"
        if self.form != "written":
            self.arrays.append(_array("WEIGHTS", "REAL", self.weights))
        if self.form == "table":
            places = [f"{dz - lo[0]} * STRIDE + {dy - lo[1]}, {dx}" for dz, plane in planes for dy, dx in plane]
            self.arrays.append(_array("PLACES", "int", places, of=2 * len(places)))

    def many(self, rows: int, vectors: int) -> None:
        """`rows` rows of outputs, `vectors` vectors at once."""
        self.out += [
            "\nAPART void rows_many(ROWS_ARGUMENTS)\n{",
            *(
                f"const REAL *const {self._line(dz, line)} = {_row(dz - self.lo[0], line)};"
                for dz, line in self._lines(rows)
            ),
            *(f"REAL *const out{r} = outs[{r}];" for r in range(rows)),
            "idx at = x - head, stop = end, row = end - x;",
            "if (!loose) {",
            "at = head ? min(at + LINE_OF, end) : x;",
            "stop = at + (end - at) / WIDE * WIDE;",
            "rows_some(rows, outs, x, at);",
            "}",
            "for (; at < stop; at += WIDE) {",
            "for (idx i = 0; i < ask; i++) ASK(ahead + asked + i * LINE_OF);",
            "asked += ask * LINE_OF;",
            "if (asked >= end) asked -= row, ahead += ay;",
        ]
        self._sums(rows, vectors, False)
        places = [(r, v, f"out{r} + at + {v} * W") for r in range(rows) for v in range(vectors)]
        for condition, put in (
            ("if (at < x || at + WIDE > end)", ""),
            ("else if (how & STREAMED)", "STREAM"),
            ("else", "STORE"),
        ):
            self.out.append(condition + " {")
            for r, v, where in places:
                some = f"put_some(out{r}, {_row(-self.lo[0], r - self.lo[1])}, at + {v} * W, x, end, how, a{r}_{v});"
                self.out.append(f"{put}({where}, a{r}_{v});" if put else some)
            self.out.append("}")
        self.out += ["}", "if (!loose && at < end) rows_some(rows, outs, at, end);", "}"]

    def _lines(self, rows: int) -> list[tuple[int, int]]:
        """(dz, line) of the rows that written-out sums read, each once."""
        if self.form != "written":
            return []
        return sorted({(dz, r + dy - self.lo[1]) for dz, plane in self.planes for dy, _ in plane for r in range(rows)})

    def _line(self, dz: int, line: int) -> str:
        return f"in{dz - self.lo[0]}_{line}"

    def some(self, name: str, rows: int) -> None:
        """`rows` rows of outputs, a vector at once, and of the last one what there is."""
        self.out += [
            f"\nAPART void {name}(const REAL *const *rows, REAL *const *outs, idx at, idx end)\n{{",
            "for (; at < end; at += W) {",
            "lanes some = FIRST(min(end - at, W));",
        ]
        self._sums(rows, 1, True)
        self.out += [f"STORE_SOME(outs[{r}] + at, some, a{r}_0);" for r in range(rows)] + ["}", "}"]

    def _sums(self, rows: int, vectors: int, some: bool) -> None:
        """a{row}_{vector}: the sums at place `at`."""
        out = self.out
        out += [f"vec a{r}_{v} = ZERO;" for r in range(rows) for v in range(vectors)]
        if self.form == "written":
            weights = iter(self.weights)
            for dz, plane in self.planes:
                taken = [f"SPREAD({next(weights)})" for _ in plane]
                row = functools.partial(_row, dz - self.lo[0]) if some else functools.partial(self._line, dz)
                self._plane(row, plane, taken, rows, vectors, some)
        elif self.form == "planes":
            first = 0
            for plane, run in _runs(self.planes):
                step = run[1] - run[0] if len(run) > 1 else 0
                out.append(f"for (int z = 0; z < {len(run)}; z++) {{")
                out.append(f"const REAL *weight = WEIGHTS + {first} + z * {len(plane)};")
                taken = [f"SPREAD(weight[{i}])" for i in range(len(plane))]
                row = functools.partial(_row, f"({run[0] - self.lo[0]} + z * {step})")
                self._plane(row, plane, taken, rows, vectors, some)
                out.append("}")
                first += len(plane) * len(run)
        else:
            out.append(f"for (int p = 0; p < {len(self.weights)}; p++) {{")
            out.append("const REAL *const *line = rows + PLACES[2 * p]; idx in = at + PLACES[2 * p + 1];")
            out.append("vec w = SPREAD(WEIGHTS[p]);")
            for r, v in itertools.product(range(rows), range(vectors)):
                out.append(f"a{r}_{v} = FMA(w, {_load(f'line[{r}] + in', v, some)}, a{r}_{v});")
            out.append("}")

    def _plane(
        self, row: Callable[[int], str], plane: Plane, weights: list[str], rows: int, vectors: int, some: bool
    ) -> None:
        """Adds one plane to all accumulators: lines of inputs from the first to the last, each input into the rows of
        outputs that want it. For one output these are its offsets in their order."""
        wanted: dict[int, dict[int, list[tuple[int, str]]]] = {}
        for (dy, dx), weight in zip(plane, weights, strict=True):
            for r in range(rows):
                wanted.setdefault(r + dy, {}).setdefault(dx, []).append((r, weight))
        out = self.out
        for line in sorted(wanted):
            out.append(f"{{ const REAL *row = {row(line - self.lo[1])} + at;")
            columns = sorted(wanted[line])
            near = not some and len(columns) > 1 and max(map(abs, columns)) <= NEAR
            if near:
                if columns[0] < 0:
                    out.append(f"vec before = BEFORE(row, {-columns[0]}); HOLD(before);")
                for v in range(vectors):
                    out.append(f"vec c{v} = LOAD(row + {v} * W); HOLD(c{v});")
                if columns[-1] > 0:
                    out.append(f"vec c{vectors} = BEHIND(row + {vectors} * W, {columns[-1]}); HOLD(c{vectors});")
            for dx in columns:
                users = wanted[line][dx]
                out.append("{ " + " ".join(f"vec u{v} = {_input(dx, v, near, some)};" for v in range(vectors)))
                if len(users) > 1:
                    out.append(" ".join(f"KEEP(u{v});" for v in range(vectors)))
                for r, weight in users:
                    sums = " ".join(f"a{r}_{v} = FMA(w, u{v}, a{r}_{v});" for v in range(vectors))
                    out.append(f"{{ vec w = {weight}; {sums} }}")
                out.append("}")
            out.append("}")


def _row(plane: object, line: int) -> str:
    return f"rows[{plane} * STRIDE + {line}]"


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _array(name: str, kind: str, values: list[str], of: int = 0) -> str:
    lines = [", ".join(values[i : i + 8]) for i in range(0, len(values), 8)]
    return f"static const {kind} {name}[{of or len(values)}] = {{\n    " + ",\n    ".join(lines) + "};\n"


def _planes(offsets: list[tuple[int, ...]]) -> list[tuple[int, Plane]]:
    """Offsets, in their order, as (dz, its (dy, dx))."""
    return [(dz, tuple((o[1], o[2]) for o in group)) for dz, group in itertools.groupby(offsets, key=lambda o: o[0])]


def _runs(planes: list[tuple[int, Plane]]) -> Iterator[tuple[Plane, list[int]]]:
    """Planes beside each other of one pattern, evenly spaced, together: pattern and all dz."""
    run: list[int] = []
    pattern: Plane = ()
    for dz, plane in planes:
        if run and plane == pattern and (len(run) == 1 or dz - run[-1] == run[1] - run[0]):
            run.append(dz)
            continue
        if run:
            yield pattern, run
        pattern, run = plane, [dz]
    yield pattern, run


def _load(where: str, vector: int, some: bool) -> str:
    return f"LOAD_SOME({where}, some)" if some else f"LOAD({where} + {vector} * W)"


def _input(dx: int, vector: int, near: bool, some: bool) -> str:
    """Inputs dx beside vector `vector` of a row."""
    if not near:
        return _load(f"row + ({dx})", vector, some)
    if dx == 0:
        return f"c{vector}"
    first = f"c{vector}" if dx > 0 else f"c{vector - 1}" if vector else "before"
    second = f"c{vector + 1}" if dx > 0 else f"c{vector}"
    return f"NEAR({first}, {second}, {dx if dx > 0 else f'W - {-dx}'}, row + ({dx}) + {vector} * W)"
