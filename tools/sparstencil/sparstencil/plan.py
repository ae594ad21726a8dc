"""Which tile, which conversion, which back end, how many steps a pass: predicted from counts.

A pass takes as long as the busiest of four: global memory, shared memory, the unit that multiplies, issuing instructions. The
counts are those of the program as generated, not of a formula; the rates are a card's nominal ones, or measured ones where
`tune` left them. Sparse instructions halve the multiplications, not the traffic of B.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparstencil.convert import NONE, Solver, fewest
from sparstencil.layout import Layout
from sparstencil.modes import PLANE_BYTES, STORED_BYTES, Mode, Setup, grouped, prepare
from sparstencil.program import Program
from sparstencil.stencil import Offset, Stencil

Record = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """Nominal rates: bytes/s of memory and of all shared memories, multiply–adds/s that sparse float16 instructions store and
    dense ones do, float32 and float64 multiply–adds/s, instructions/s of all warps."""

    memory: float
    shared: float
    sparse: float
    dense: float
    fma32: float
    fma64: float
    issue: float


# NVIDIA's data sheets; shared memory is 128 bytes a clock and multiprocessor, issue four warps' instructions a clock.
CARDS: dict[str, Card] = {
    "a100": Card(2.0e12, 108 * 128 * 1.41e9, 156e12, 156e12, 9.75e12, 4.85e12, 108 * 4 * 1.41e9),
    "h100": Card(3.35e12, 132 * 128 * 1.75e9, 495e12, 495e12, 33.5e12, 17e12, 132 * 4 * 1.75e9),
    "h200": Card(4.8e12, 132 * 128 * 1.75e9, 495e12, 495e12, 33.5e12, 17e12, 132 * 4 * 1.75e9),
}
CPU_MEMORY, CPU_FMA = 20e9, 2 * 16 * 2 * 2.5e9  # two cores with 16 lanes; `bench` measures this machine's own
SPEED: dict[Mode, float] = {"fast": 1.0, "mixed": 1.0, "tf32": 0.5, "f32": 1.0, "s8": 2.0}  # of float16's rate
SAME = 1.02  # rates closer than this are the same, and then plain arithmetic, exact to its type, is preferred
MAX_STEPS = 8
MATCHED = 320  # columns up to which a matching is looked for without being asked


@dataclass(frozen=True)
class Prediction:
    """Seconds a point and real step, and which of the four it is."""

    seconds: float
    bound: str
    parts: dict[str, float]

    @property
    def rate(self) -> float:
        """10⁹ points and steps a second."""
        return 1e-9 / self.seconds


def _most(parts: dict[str, float], steps: int) -> Prediction:
    bound = max(parts, key=lambda name: parts[name])
    return Prediction(parts[bound] / steps, bound, {name: value / steps for name, value in parts.items()})


@dataclass(frozen=True)
class Block:
    """What a step's time depends on of a thread block: its outputs along all axes, the places its tile in shared memory has for
    them, and a lane's shared-memory loads for one instruction's width of patches, of all planes: of whole registers, and of
    parts that lie apart and are packed."""

    outputs: int
    filled: int
    whole: int
    apart: int

    @classmethod
    def estimated(cls, setup: Setup) -> Block:
        """From the setup's own geometry: quick, to rank tiles by."""
        program, geometry = setup.program, setup.geometry
        stencil = program.layout.stencil
        offsets, whole, apart = geometry.offsets() + geometry.origin, 0, 0
        for step in program.steps:
            row, column = step.form.b_places()
            places = offsets[step.first + row] + column * program.layout.tile[-1]  # (32, registers, entries)
            run = (np.diff(places, axis=-1) == 1).all(-1) & (places[..., 0] * step.form.size % 4 == 0)
            one = run.all(0)  # all lanes alike, or the register is packed
            whole += int(one.sum())
            apart += int((~one).sum()) * step.form.each
        planes = 1 + max(b for _, b in program.products)
        filled = math.prod(b + h - low for b, low, h in zip(geometry.block, stencil.lo, stencil.hi, strict=True))
        return cls(math.prod(geometry.block), filled, whole * planes, apart * planes)

    @classmethod
    def emitted(cls, setup: Setup) -> Block | None:
        """As the emitted kernel has it; None where the stencil reaches too far for one."""
        from sparstencil.cuda_plan import Target
        from tenfold_shared import BadInput

        target = Target(setup, "cuda-sp")
        try:
            geometry = target.geometry
        except BadInput:
            return None
        registers = [register for issue in target.loads for register in issue]
        planes = max(1, target.types.planes)
        whole = sum(len(register) == 1 for register in registers)
        apart = sum(len(register) for register in registers if len(register) > 1)
        filled = math.prod(geometry.extents[:-1]) * target.chunks * target.types.unit
        return cls(math.prod(geometry.block), filled, whole * planes, apart * planes)


def predict(setup: Setup, card: Card, steps: int = 1, block: Block | None = None) -> dict[str, Prediction]:
    """Of a pass that makes `steps` real steps: cuda-sp, cuda-tc (the same plan, dense instructions) and cuda-core. block: as
    emitted; estimated without."""
    return {
        **predict_tensor(setup, card, steps, block),
        "cuda-core": predict_core(setup.program.layout.stencil, setup.mode, card, steps),
    }


def predict_tensor(setup: Setup, card: Card, steps: int = 1, block: Block | None = None) -> dict[str, Prediction]:
    """cuda-sp and cuda-tc of `predict`."""
    program, mode = setup.program, setup.mode
    block = block or Block.estimated(setup)
    halo = block.filled / block.outputs
    stored = STORED_BYTES[mode]
    memory = (halo * stored + (4 if mode == "s8" else stored)) / card.memory  # whole numbers leave in 32 bits
    each = 8 * program.layout.rows  # outputs of one instruction's width
    whole, apart = block.whole, block.apart
    read = 32 * 4 * (whole + apart) / each
    filled = halo * (stored + 2 * PLANE_BYTES[mode])
    products = len(program.products)
    macs = products * program.m_tiles * 16 * program.k / program.layout.rows
    speed = SPEED[mode]
    instructions = products * program.m_tiles * len(program.steps)
    packing = apart // 2
    issued = (whole + apart + packing + instructions + 8 * program.m_tiles) / each
    fill = 3 * halo / 32
    found = {
        "cuda-sp": {"memory": memory, "shared": (read + filled + _reread(program, 1)) / card.shared, "multiply": macs / 2 / (card.sparse * speed), "issue": (issued + fill) / card.issue},
        "cuda-tc": {"memory": memory, "shared": (read + filled + _reread(program, 2)) / card.shared, "multiply": macs / (card.dense * speed), "issue": (issued + products * program.m_tiles * len(program.steps) / each + fill) / card.issue},
    }  # fmt: skip
    return {name: _most(parts, steps) for name, parts in found.items()}


def _reread(program: Program, times: int) -> float:
    """Bytes a point of A and its metadata where they do not stay in registers: read once for the eights of patches that a warp
    works on at once, four or fewer as sums leave room. times: 2 for dense instructions, which have all of A."""
    from sparstencil.cuda_plan import HELD

    words = sum(16 * step.form.stored * step.form.size // 128 for step in program.steps) * len(program.planes) * times
    registers = program.m_tiles * (words + (1 + program.steps[-1].register if times == 1 else 0))
    together = max(1, min(4, 32 // (4 * program.m_tiles)))
    return 128 * registers / (together * 8 * program.layout.rows) if registers > HELD else 0.0


@dataclass(frozen=True)
class Core:
    """What a step's time on CUDA cores depends on: halo's share of the tile (1 for none), and of a thread, its outputs, loads
    from shared memory, different numbers among them, bytes of a number and of a vector of outputs' worth of them."""

    halo: float
    outputs: int
    loads: int
    numbers: int
    stored: int
    written: int
    vector: int

    @classmethod
    @functools.lru_cache(maxsize=256)
    def emitted(cls, stencil: Stencil, mode: Mode) -> Core:
        """As the emitted source has it; where the stencil reaches too far for one, of a thread a point."""
        from sparstencil.cuda import target_of
        from tenfold_shared import BadInput

        target = target_of(stencil, mode, "cuda-core")
        types = target.types
        try:
            geometry = target.geometry
        except BadInput:
            return cls(1.0, 1, stencil.points, stencil.points, types.stored_bytes, types.out_bytes, 1)
        halo = math.prod(geometry.extents[:-1]) * target.chunks * types.unit / math.prod(geometry.block)
        loads = [used for row in target.core_rows.values() for _, used in row]
        return cls(
            halo, math.prod(target.core_tile), len(loads), sum(map(len, loads)), types.stored_bytes, types.out_bytes, types.vector
        )  # fmt: skip


def predict_core(stencil: Stencil, mode: Mode, card: Card, steps: int = 1) -> Prediction:
    """cuda-core, of a pass that makes `steps` real steps. A load takes a vector's time also where it is of one number: lanes
    stand a vector apart. Where numbers are stored narrower than they are added each is converted; whole numbers are multiplied
    at half the rate."""
    core = Core.emitted(stencil, mode)
    loads, numbers = core.loads / core.outputs, core.numbers / core.outputs
    converted = numbers if core.stored < 4 else 0.0
    parts = {
        "memory": (core.halo * core.stored + core.written) / card.memory,
        "shared": (loads * core.vector * core.stored + core.halo * core.stored) / card.shared,
        "multiply": stencil.points / card.fma32 * (2 if mode == "s8" else 1),
        "issue": (stencil.points + loads + converted + 4) / 32 / card.issue,
    }
    return _most(parts, steps)


def predict_cpu(stencil: Stencil, size: int) -> Prediction:
    """A single sweep on two cores."""
    return _most({"memory": 2 * size / CPU_MEMORY, "multiply": stencil.points * size / 4 / CPU_FMA}, 1)


# ---------------------------------------------------------------- the search


def tiles(stencil: Stencil, rows: tuple[int, ...] = (16, 32)) -> list[Offset]:
    """Tiles of powers of two with so many outputs. Axes that the stencil does not reach along stay 1 wide."""
    # Tiles of 48 and 64 rows, widths of 3, 6 and 12 among them, are left out: on an H100 within the registers for
    # A they are predicted at most 0.8 % faster on 77 of the suite's 79 kernels, and on the other two, which reach along z alone,
    # by 3 and 6 %, through a taller block that the emitted kernel has in any case.
    sizes = [
        (1,) if low == high == 0 and stencil.ndim > 1 else (1, 2, 4, 8, 16, 32)
        for low, high in zip(stencil.lo, stencil.hi, strict=True)
    ]
    found = [tile for tile in itertools.product(*sizes) if math.prod(tile) in rows]
    return found or [(1,) * (stencil.ndim - 1) + (16,)]


def solvers(layout: Layout, mode: Mode, asked: Solver | None) -> list[Solver]:
    """Which conversions to try on a layout: the cheap one, and others where it is not at the bound already."""
    if asked is not None:
        return [asked]
    if grouped(layout.stencil, layout.tile, "staircase").optimal or layout.n > MATCHED:
        return ["staircase"]
    if mode == "tf32" or grouped(layout.stencil, layout.tile, "blossom").spares:
        return ["staircase", "blossom"]
    return ["staircase", "blossom", "quad"]


def best(
    stencil: Stencil, mode: Mode, card: Card, tile: Offset | None = None, solver: Solver | None = None, steps: int = 1
) -> Setup:
    """The setup that is predicted fastest on cuda-sp, among conversions that are as good as their tile allows if there is one;
    of such as are within 3 % of each other the one with fewer rows of A (they stay in registers), then loads, K and groups.
    Tiles are ranked by their bounds first, and the most promising are converted in every way."""
    whole = stencil.power(steps)
    if tile is not None:
        shapes = [tile]
    else:
        shapes = [shape for rows, many in ((16, 4), (32, 2)) for shape in _promising(whole, rows, many, card)]

    def cost(setup: Setup) -> tuple[bool, int, int, int, int, int]:
        block = Block.estimated(setup)
        seconds = predict_tensor(setup, card, steps, block)["cuda-sp"].seconds
        program = setup.program
        return (
            not program.grouping.spares, round(math.log(seconds) / 0.03), program.m_tiles, block.whole + block.apart, program.k, program.grouping.count
        )  # fmt: skip

    effort = 6 if solver == "quad" else 1
    found = [
        prepare(whole, mode, shape, way, effort)
        for shape in shapes
        for way in solvers(Layout(whole, shape), mode, solver)
    ]
    return min(found, key=cost)


def _promising(stencil: Stencil, rows: int, many: int, card: Card) -> list[Offset]:
    """Tiles with the lowest bounds; where matchings are not looked for, as the columns are many, also the first whose closed
    form is as good as the tile allows."""
    ranked = sorted(tiles(stencil, (rows,)), key=lambda shape: _floor(Layout(stencil, shape), card))
    found = ranked[:many]
    if all(Layout(stencil, shape).n > MATCHED for shape in found):
        found += [next((s for s in ranked if grouped(stencil, s, "staircase").spares), found[0])]
    return found


def _floor(layout: Layout, card: Card) -> float:
    """Seconds a point that no conversion of the tile can beat: B's traffic at the bound of groups."""
    k = 16 * math.ceil(layout.bound / 4)
    rows = 16 * math.ceil(layout.rows / 16)
    return max(2 * k / layout.rows / card.shared * 2, rows * k / 2 / layout.rows / card.sparse)


def fusion(stencil: Stencil, mode: Mode, card: Card, most: int = MAX_STEPS) -> list[Record]:
    """Predicted 10⁹ points and steps a second of each GPU back end for 1, 2, … steps a pass, never empty; stops where cuda-sp has
    fallen twice, or the stencil has become wide."""
    rows: list[Record] = []
    for steps in range(1, most + 1):
        whole = stencil.power(steps)
        # One step a pass always has a row; more only where the pass stays narrow and, for s8, its weights fit 8 bits.
        wide = whole.points > 400 or whole.radius > 12
        if steps > 1 and (wide or (mode == "s8" and max(map(abs, whole.weights)) > 127)):
            break
        setup = best(stencil, mode, card, steps=steps)
        found = predict(setup, card, steps)
        rows.append(
            {
                "steps": steps, "points": whole.points, "tile": list(setup.program.layout.tile), "K": setup.program.k,
                **{name: round(found[name].rate, 1) for name in ("cuda-sp", "cuda-tc", "cuda-core")},
                "bound": found["cuda-sp"].bound,
            }
        )  # fmt: skip
        if len(rows) > 2 and rows[-1]["cuda-sp"] < rows[-2]["cuda-sp"] < rows[-3]["cuda-sp"]:
            break
    return rows


# ---------------------------------------------------------------- what `plan` prints


def tables(setup: Setup, steps: int) -> Record:
    """What of a plan follows from its stencil, mode and order of columns alone, and so is what `verify` makes again.

    permutation: column of each of K places in the order that instructions read them, for tf32 pair by pair, −1 for a zero column;
    groups: of four places, those that only fill the last instruction up left out."""
    program, grouping = setup.program, setup.program.grouping
    layout = program.layout
    return {
        "stencil": layout.stencil.name, "key": layout.stencil.key, "points": layout.stencil.points, "mode": setup.mode,
        "increment": setup.increment, "steps_a_pass": steps, "tile": list(layout.tile), "M": layout.rows, "n": layout.n,
        "z": grouping.z, "groups": grouping.count, "lower_bound": layout.bound, "optimal": grouping.optimal,
        "solver": grouping.solver, "K": program.k, "density": round(2 * layout.stencil.points / program.k, 4),
        "redundancy": round(program.k / 2 / layout.stencil.points, 4),
        "instructions": [f"{step.form.shape} {step.form.kind}" for step in program.steps],
        "permutation": list(program.slots), "metadata": program.table(),
        "offsets": [list(layout.columns[c]) if c != NONE else None for c in program.slots],
    }  # fmt: skip


def told(setup: Setup, card: Card, steps: int) -> Record:
    """The plan as an object: its tables, the fewest groups that any conversion found at its tile has (None where the tile has
    too many columns to look), and what is predicted of it."""
    layout = setup.program.layout
    block = Block.emitted(setup)
    predicted: Record = {
        name: {"gstencil_s": round(p.rate, 2), "bound": p.bound, "ns_a_point": {k: v * 1e9 for k, v in p.parts.items()}}
        for name, p in predict(setup, card, steps, block).items()
    }
    cpu = predict_cpu(layout.stencil, 4)
    predicted["cpu"] = {
        "gstencil_s": round(cpu.rate, 3),
        "bound": cpu.bound,
        "ns_a_point": {k: v * 1e9 for k, v in cpu.parts.items()},
    }
    gpu = {name: value["gstencil_s"] for name, value in predicted.items() if name != "cpu"}
    wins = "cuda-core" if gpu["cuda-core"] * SAME >= gpu["cuda-sp"] else max(gpu, key=lambda name: gpu[name])
    return tables(setup, steps) | {
        "fewest": min(setup.program.grouping.count, fewest(layout, setup.mode == "tf32")) if layout.n <= MATCHED else None,
        "block": asdict(block) if block else None,
        "predicted": predicted, "wins": wins,
        "ties": [name for name, rate in gpu.items() if name != wins and rate > gpu[wins] / SAME],
    }  # fmt: skip


def explained(setup: Setup) -> str:
    """A, its staircase, the groups and the metadata, as text."""
    program, grouping = setup.program, setup.program.grouping
    layout = program.layout
    stencil = layout.stencil
    lines = [
        f"{stencil.name or 'stencil'}: {stencil.points} points, tile {'x'.join(map(str, layout.tile))}: A is {layout.rows} x {layout.n}",
        "",
        "A, a row an output, a column a place of the patch (# a weight):",
        *_picture(layout.support.T, [layout.columns[j] for j in range(layout.n)]),
        "",
        f"{grouping.solver}: z = {grouping.z} zero columns, {grouping.count} groups of four"
        f" ({'the fewest there can be' if grouping.optimal else f'no fewer than {layout.bound} are possible'}), K = {program.k}",
        "groups, places of the patch (- a zero column):",
    ]
    for at, group in enumerate(grouping.groups):
        lines.append(f"  {at:3}  " + "  ".join(_place(layout, c) for c in group))
    order = list(program.slots)
    support = np.zeros((layout.rows, len(order)), dtype=bool)
    for j, c in enumerate(order):
        if c != NONE:
            support[:, j] = layout.support[c]
    lines += ["", "A in that order: in each group of four no row has more than two:", *_picture(support, None, 4)]
    lines += ["", f"metadata, {len(program.table())} instructions (lane: word):"]
    for entry in program.table():
        held = [f"{lane}:{word}" for lane, word in enumerate(entry["lanes"]) if word != "00000000"]
        lines.append(f"  {entry['shape']} selector {entry['selector']}: {' '.join(held)}")
    return "\n".join(lines)


def _place(layout: Layout, c: int) -> str:
    return "-" if c == NONE else "(" + ",".join(map(str, layout.columns[c])) + ")"


def _picture(support: np.ndarray, places: list[Offset] | None, group: int | None = None) -> list[str]:
    """Rows of # and ·, with a gap where the places go on to another line of the grid, or after each group."""
    width = support.shape[1]
    if group:
        gaps = set(range(group, width, group))
    else:
        gaps = {j for j in range(1, width) if places and places[j][:-1] != places[j - 1][:-1]}
    return [
        "  " + "".join((" " if j in gaps else "") + ("#" if used else "·") for j, used in enumerate(row))
        for row in support
    ]


def show(told: Record, table: list[Record] | None, card: str) -> None:
    """The plan for people."""
    from rich.table import Table

    from tenfold_shared.cli import print_table

    facts = Table("", "", show_header=False)
    for name in ("stencil", "points", "mode", "steps_a_pass", "tile", "M", "n", "z", "groups", "fewest", "lower_bound", "solver", "K", "density", "redundancy"):  # fmt: skip
        facts.add_row(name, str(told[name]))
    facts.add_row("instructions", ", ".join(told["instructions"]))
    if told["block"]:
        facts.add_row("loads of B", f"{told['block']['whole']} whole, {told['block']['apart']} to be packed")
    else:
        facts.add_row("emitted", "cannot be: the stencil reaches too far for a block in shared memory")
    print_table(facts)
    times = Table("back end", "GStencil/s", "bound by", title=f"predicted, {card}'s nominal rates; cpu: two cores")
    for name, value in told["predicted"].items():
        times.add_row(name, f"{value['gstencil_s']:g}", value["bound"])
    print_table(times)
    if told["wins"] != "cuda-sp":
        print(f"sparse tensor cores do not win here: {told['wins']} is predicted as fast or faster")
    elif told["ties"]:
        print(
            f"bound by {told['predicted']['cuda-sp']['bound']}: {' and '.join(told['ties'])} predicted as fast as cuda-sp"
        )
    if table:
        rows = Table(
            "steps a pass", "points", "tile", "K", "cuda-sp", "cuda-core", "bound by", title="GStencil/s of real steps"
        )
        for row in table:
            rows.add_row(
                *(str(row[name]) for name in ("steps", "points", "tile", "K", "cuda-sp", "cuda-core", "bound"))
            )
        print_table(rows)
