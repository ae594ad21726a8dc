"""The command `sparstencil`: options and help. Each verb's work is in the module of its name."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from typing import Any

import click

from sparstencil.modes import MODES
from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import Share, add_doctor, check, options, print_table, tool

BACKENDS = ["auto", "cpu", "cuda-sp", "cuda-tc", "cuda-core", "emulate"]
CARDS = ["a100", "h100", "h200"]


class Sizes(click.ParamType):
    """Whole numbers, with x or commas between them."""

    name = "N[xN[xN]]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        parts = str(value).replace(",", "x").split("x")
        if not all(re.fullmatch(r"\s*-?[0-9]{1,18}\s*", part) for part in parts):
            self.fail(f"{value!r}: expected whole numbers such as 8x2", param, ctx)
        return tuple(int(part) for part in parts)


class Fuse(click.ParamType):
    """auto, or how many steps a pass makes."""

    name = "auto|N"

    def get_metavar(self, param: Any, ctx: Any = None) -> str:
        return self.name  # the word as it is written

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        if value in (None, "auto"):
            return None
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r}: expected auto or a whole number of at least 1", param, ctx)
        return int(value)


@tool("sparstencil", "sparstencil", "Stencils on sparse tensor cores, right first, and fast on a plain CPU too.")
def main() -> None:
    pass


def _stencil(function: Any) -> Any:
    for option in (
        click.option("--convolve", is_flag=True, help="Flip the stencil: convolution, not correlation."),
        click.option("--origin", type=Sizes(), help="Which entry of a weights file is the point itself, counted from 0."),
        click.option("--stencil", "spec", metavar="S", required=True, help="A name of the suite, weights.npy, stencil.json or .toml, or a formula in u[...]."),
    ):  # fmt: skip
        function = option(function)
    return function


_TILE = click.option("--tile", type=Sizes(), help="Outputs of one matrix along each axis.  [the one predicted fastest]")
_SOLVER = click.option("--solver", type=click.Choice(["staircase", "blossom", "quad"]), help="How columns are grouped.  [the best of all]")  # fmt: skip
_MODE = click.option("--mode", type=click.Choice([*MODES, "f64", "s8"]), help="Precision.  [the grid's own, or what --rtol needs]")  # fmt: skip
_CARD = click.option("--card", type=click.Choice(CARDS), default="h100", show_default=True, help="Whose nominal rates predictions use.")  # fmt: skip


@main.command(short_help="A grid after T steps.")
@click.argument("grid", metavar="GRID")
@_stencil
@click.option("--steps", type=click.IntRange(min=0), default=1, show_default=True, help="Time steps.")
@click.option("--boundary", default="wrap", show_default=True, metavar="RULE", help="fixed, constant:C, nearest, reflect, mirror, wrap or valid; with commas one an axis.")  # fmt: skip
@_MODE
@click.option("--rtol", type=Share(min=0, min_open=True), help="Relative error allowed; chooses the mode.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="Where it runs.")
@click.option("--fuse", type=Fuse(), default="auto", show_default=True, help="Steps that one pass over the grid makes.")
@_TILE
@_SOLVER
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU back end.  [all cores]")
@click.option("--shape", type=Sizes(), help="Of a raw file.")
@click.option("--dtype", "number", type=click.Choice(["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32"]), help="Of a raw file.")  # fmt: skip
@click.option("--decomp", type=Sizes(), help="Ranks along each axis, under torchrun.")
@click.option("--save-every", type=click.IntRange(min=1), metavar="N", help="Keep the state every N steps beside the output; the same command goes on from it.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Refuse a grid with NaN or infinity.")
@options("output", "json", "common")
def run(grid: str, decomp: tuple[int, ...] | None, number: str | None, **given: Any) -> int:
    """Apply a stencil to GRID (.npy, FILE.npz:KEY, FILE.h5:/DATASET, a raw file with --shape and --dtype, - for .npy on
    stdin) for a number of steps.

    \b
    Example:
      sparstencil run field.npy --stencil heat-2d --steps 100 --boundary fixed -o after.npy
    """
    if decomp is not None:
        from sparstencil.distribute import run as distributed

        return distributed(decomp, grid=grid, dtype=number, **given)
    from sparstencil.runs import run as work

    return work(grid=grid, dtype=number, **given)


@main.command(short_help="How a stencil becomes a sparse matrix, and what that costs.")
@_stencil
@_TILE
@_SOLVER
@click.option("--mode", type=click.Choice([*MODES, "s8"]), default="fast", show_default=True, help="Precision.")
@click.option("--fuse", type=Fuse(), default="1", show_default=True, help="Steps a pass; auto lists them.")
@_CARD
@click.option("--explain", is_flag=True, help="Draw A, the groups and the metadata.")
@options("json", "common")
def plan(
    spec: str, origin: Any, convolve: bool, tile: Any, solver: Any, mode: Any, fuse: int | None, card: str, explain: bool, as_json: bool, quiet: bool
) -> int:  # fmt: skip
    """The conversion of a stencil to 2:4 sparsity: tile, zero columns, groups, metadata, and predicted times.

    \b
    Example:
      sparstencil plan --stencil box-2d49p --explain
    """
    from sparstencil import plan as work
    from sparstencil.stencil import read

    stencil = read(spec, origin)
    if convolve:
        stencil = stencil.flipped()
    rates = work.CARDS[card]
    table = work.fusion(stencil, mode, rates) if fuse is None else None
    _shallow(stencil, fuse or 1)
    steps = fuse or (max(table, key=lambda row: row["cuda-sp"])["steps"] if table else 1)
    setup = work.best(stencil, mode, rates, tile, solver, steps)
    told = work.told(setup, rates, steps)
    if as_json:
        print(json.dumps(told | ({"fusion": table} if table else {})))
        return 0
    if explain:
        drawing = work.explained(setup)
        try:
            drawing.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            drawing = drawing.replace("·", ".")
        print(drawing)
        print()
    work.show(told, table, card)
    return 0


@main.command(short_help="A standalone CUDA source with its tables.")
@_stencil
@_TILE
@_SOLVER
@click.option("--mode", type=click.Choice([*MODES, "s8"]), default="fast", show_default=True, help="Precision.")
@click.option("--backend", type=click.Choice(["cuda-sp", "cuda-tc", "cuda-core"]), default="cuda-sp", show_default=True, help="Which unit multiplies.")  # fmt: skip
@click.option("--boundary", default="wrap", show_default=True, metavar="RULE", help="As for run.")
@click.option(
    "--fuse",
    type=Fuse(),
    default="1",
    show_default=True,
    help="Steps a pass; auto is what the back end is predicted fastest with.",
)
@click.option("--arch", type=click.Choice(["sm_80", "sm_90a"]), default="sm_80", show_default=True, help="What it is compiled for.")  # fmt: skip
@options("output", "json", "common")
def emit(spec: str, origin: Any, convolve: bool, output: str | None, quiet: bool, as_json: bool, **given: Any) -> int:
    """Write the kernel of a stencil as a folder: the .cu with its launcher and tables, its plan, and, where a CUDA compiler is
    found, the machine code of --arch. (A kernel of several steps is exact for wrap and valid alone.)

    \b
    Example:
      sparstencil emit --stencil heat-2d --arch sm_90a -o heat
    """
    from sparstencil.emit import run as work
    from sparstencil.stencil import read

    stencil = read(spec, origin)
    return work(stencil.flipped() if convolve else stencil, output, as_json, quiet, **given)


@main.command(short_help="Tables and metadata against float64.")
@click.argument("plan", required=False, metavar="[PLAN.json]")
@_stencil
@_TILE
@_SOLVER
@click.option("--mode", type=click.Choice(["fast", "mixed", "tf32", "f32", "s8"]), help="Precision.  [the plan's own, or fast]")  # fmt: skip
@click.option("--backend", type=click.Choice(["emulate", "cuda-sp", "cuda-tc", "cuda-core"]), default="emulate", show_default=True, help="Where the numbers are made.")  # fmt: skip
@options("json", "common")
def verify(
    plan: str | None,
    spec: str,
    origin: Any,
    convolve: bool,
    mode: Any,
    tile: Any,
    solver: Any,
    backend: Any,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run a plan's instructions, metadata words and places through the emulated instruction, at every boundary rule, and compare
    with float64; exit 1 where a number or a field is wrong. PLAN.json is what `plan --json` printed or `emit` wrote. With
    --backend cuda-sp the kernel that is emitted for the plan runs on the GPU instead.

    \b
    Example:
      sparstencil verify --stencil box-2d49p
    """
    from sparstencil.stencil import read
    from sparstencil.verify import verify as work

    stencil = read(spec, origin)
    found = work(stencil.flipped() if convolve else stencil, mode, tile, solver, plan, backend)
    if as_json:
        print(json.dumps(found))
    else:
        for row in found["rows"]:
            told = row.get("error") or f"{row['wrong']} of {row['points']} points differ"
            print(f"{'ok ' if row['ok'] else 'NOT'}  {row['boundary']:12} {told}")
        for line in found["tables"][:20]:
            print(f"NOT  {line}")
        if len(found["tables"]) > 20:
            print(f"NOT  and {len(found['tables']) - 20} more (--json has them)")
    return 0 if found["ok"] else 1


@main.command(short_help="The 79 stencils, listed or converted and emulated.")
@click.option("--list", "listed", is_flag=True, help="Names and fields only.")
@click.option("--only", metavar="NAME,...", help="Some of them.")
@options("json", "common")
def suite(listed: bool, only: str | None, as_json: bool, quiet: bool) -> int:
    """Convert every stencil of the suite to 2:4 sparsity and emulate a step at an odd size; exit 1 where one is wrong.

    \b
    Example:
      sparstencil suite --list
    """
    from sparstencil.suite import SUITE, named

    try:
        names = [named(name.strip()).name for name in only.split(",")] if only is not None else list(SUITE)
    except BadInput as error:
        raise BadInput(str(error).replace("--stencil", "--only", 1)) from None
    if listed:
        rows: list[Any] = [
            {"id": k.id, "name": k.name, "ndim": k.ndim, "radius": k.radius, "points": k.points, "field": k.field}
            for k in SUITE.values()
            if k.name in names
        ]
    else:
        from sparstencil.verify import suite as work
        from tenfold_shared.progress import Progress

        with Progress("suite", len(names), "stencils", quiet) as progress:
            rows = list(progress.over(work(names)))
    if as_json:
        print(json.dumps(rows))
    else:
        from rich.table import Table

        shown = [name for name in rows[0] if name not in ("ndim", "field", "ok", "redundancy") or listed]
        table = Table(*shown)
        for row in rows:
            table.add_row(*(str(row[name]) for name in shown))
        print_table(table)
    if not listed:
        from sparstencil.verify import summary

        print(f"sparstencil: {summary(rows)}", file=sys.stderr)
        return 0 if all(row["ok"] for row in rows) else 1
    return 0


@main.command(short_help="One stencil on this machine, beside the copy roof and scipy.")
@_stencil
@click.option("--shape", type=Sizes(), help="Of the grid.  [4096x4096, or as many points in 1 or 3 axes]")
@click.option("--dtype", "number", type=click.Choice(["float32", "float64"]), default="float32", show_default=True, help="Of the grid.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), default=16, show_default=True, help="Time steps.")
@click.option("--boundary", default="wrap", show_default=True, metavar="RULE", help="As for run.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="Where it runs.")
@click.option("--fuse", type=Fuse(), default="auto", show_default=True, help="Steps a pass.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU back end.  [all cores]")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="The least time of so many counts.")  # fmt: skip
@click.option("--no-peers", is_flag=True, help="Leave scipy out.")
@options("plot", "json", "common")
def bench(
    spec: str, origin: Any, convolve: bool, no_peers: bool, plot: str | None, as_json: bool, quiet: bool, **given: Any
) -> int:
    """Time a stencil: copying the grid, single sweeps, several steps a pass, and scipy.ndimage, in one run.

    \b
    Example:
      sparstencil bench --stencil box-2d9p --shape 2048x2048 --json
    """
    from sparstencil import bench as work

    stencil, shape, how = _timed(spec, origin, convolve, given)
    found = work.bench(stencil, shape, given["number"], how, given["rounds"], not no_peers)
    if plot:
        work.draw(found, plot)
    if as_json:
        print(json.dumps(found))
        return 0
    from rich.table import Table

    table = Table(
        "way",
        "ms a step",
        "GStencil/s",
        "times ours",
        title=f"{stencil.name}, {shape} {given['number']}, {found['backend']}",
    )
    for row in found["rows"]:
        table.add_row(
            row["way"], f"{1e3 * row['seconds_a_step']:.2f}", f"{row['gstencil_s']:.3f}", f"{row['ratio']:.2f}"
        )
    print_table(table)
    return 0


@main.command(short_help="The fastest plan by the clock, kept for later runs.")
@_stencil
@click.option("--shape", type=Sizes(), help="Of the grid.  [4096x4096, or as many points in 1 or 3 axes]")
@click.option("--dtype", "number", type=click.Choice(["float32", "float64"]), default="float32", show_default=True, help="Of the grid.")  # fmt: skip
@_MODE
@click.option("--steps", type=click.IntRange(min=1), default=16, show_default=True, help="Time steps of a trial.")
@click.option("--boundary", default="wrap", show_default=True, metavar="RULE", help="As for run.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="Where it runs.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU back end.  [all cores]")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="The least time of so many counts.")  # fmt: skip
@options("json", "common")
def tune(spec: str, origin: Any, convolve: bool, as_json: bool, quiet: bool, **given: Any) -> int:
    """Time a few plans of a stencil at a size and keep the winner; `run --fuse auto` takes it.

    \b
    Example:
      sparstencil tune --stencil heat-2d --shape 2048x2048
    """
    from sparstencil.tune import tune as work

    stencil, shape, how = _timed(spec, origin, convolve, given)
    found = work(stencil, shape, given["number"], how, given["steps"], given["rounds"])
    if as_json:
        print(json.dumps(found))
    else:
        for row in found["rows"]:
            kept = "  kept" if row is found["winner"] else ""
            print(
                f"{row['fuse']:3} steps a pass: {1e3 * row['seconds_a_step']:.2f} ms a step, {row['gstencil_s']:.3f} GStencil/s{kept}"
            )
    return 0


def _shallow(stencil: Any, steps: int) -> None:
    """Raises BadInput for more steps a pass than any tile serves; it would take minutes to find that out."""
    most = math.prod(steps * (high - low) + 1 for low, high in zip(stencil.lo, stencil.hi, strict=True))
    if steps > 1 and most > 4096:
        raise BadInput(f"--fuse {steps}: as one stencil so many steps have up to {most} points; expected 4096 at most")


def _timed(spec: str, origin: Any, convolve: bool, given: dict[str, Any]) -> tuple[Any, tuple[int, ...], Any]:
    """Stencil, shape and settings of a verb that makes its own grid."""
    from sparstencil.boundary import Boundary
    from sparstencil.stencil import read
    from sparstencil.stepping import How

    stencil = read(spec, origin)
    stencil = stencil.flipped() if convolve else stencil
    shape = given["shape"] or {1: (2**24,), 2: (4096, 4096), 3: (256, 256, 256)}[stencil.ndim]
    if min(shape) < 1:
        raise BadInput(f"--shape {'x'.join(map(str, shape))}: expected numbers of at least 1")
    # Drawn in float64, turned, and three of the type that steps are made in.
    needed = math.prod(shape) * (8 + 4 * (8 if given["number"] == "float64" else 4))
    if needed > (there := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise Missing(
            f"--shape {'x'.join(map(str, shape))}: needs {needed / 2**30:.0f} GiB, and this machine has {there / 2**30:.0f}"
        )
    rule = Boundary.parse(given["boundary"], stencil.ndim)
    rule.check(shape, stencil, given["steps"])
    how = How(
        rule,
        given["steps"],
        given.get("mode"),
        backend=given["backend"],
        fuse=given.get("fuse"),
        threads=given["threads"],
    )
    return stencil, shape, how


def _cuda() -> dict[str, Any]:
    """Whether a GPU with sparse tensor cores is there, and cupy to reach it."""
    try:
        import cupy
    except ImportError:
        return check(False, "cupy is not installed", "pip install 'sparstencil[gpu]'")
    fix = "an NVIDIA GPU of compute capability 8.0 or more and its driver; cpu and emulate work without"
    try:
        found = [str(cupy.cuda.Device(at).compute_capability) for at in range(cupy.cuda.runtime.getDeviceCount())]
    except Exception as error:  # cupy's own runtime error, which cannot be named before it is imported
        return check(False, f"CUDA cannot be used ({(str(error) or type(error).__name__).splitlines()[0]})", fix)
    told = ", ".join(f"{one[:-1]}.{one[-1]}" for one in found)
    if not any(int(one) >= 80 for one in found):  # "80", "90", "120": whole numbers, not digits
        return check(False, f"compute capability {told}: below 8.0" if found else "no CUDA device", fix)
    return check(True, f"cupy, compute capability {told}")


def _backends() -> dict[str, dict[str, Any]]:
    """What doctor says of the back ends."""
    import importlib.util
    import shlex
    import shutil

    from sparstencil import cpu

    try:
        found = cpu.compiler()  # as `run` has it
    except BadInput:
        found = None
    compiler = shlex.join(found) if found else None
    numba = importlib.util.find_spec("numba") is not None
    return {
        "cpu": check(bool(compiler) or numba, f"compiled by {compiler}" if compiler else "by numba, slower", "install gcc, or pip install 'sparstencil[fast]'"),
        "compiler": check(bool(compiler), compiler or "no C compiler", "install gcc or clang"),
        "emulate": check(True, "mma.sp in numpy, for verify"),
        "cuda": _cuda(),
        "nvcc": check(bool(shutil.which("nvcc")), shutil.which("nvcc") or "no nvcc: emitted sources are not compiled here", "install the CUDA toolkit"),
    }  # fmt: skip


OWN_EXTRAS = {"fast": ["numba"], "io": ["h5py"], "verify": ["scipy"]}
add_doctor(main, extras=[*OWN_EXTRAS, "gpu", "plot"], only_here=OWN_EXTRAS, own=_backends)
