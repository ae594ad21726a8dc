"""What a CUDA kernel needs beyond a setup: the tile in shared memory as 16-byte copies want it, which loads make a register of B,
how warps share a block, and who writes which outputs. All of it is tables; cuda_source.py prints them.

Back ends: `cuda-sp` issues the program's sparse instructions; `cuda-tc` dense ones on the same slots (the ablation, and the only
tensor-core way for float64); `cuda-core` needs no program but its stencil and block.

Long because one target is all of its tables, and each is read off the others.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sparstencil.boundary import Boundary
from sparstencil.convert import NONE
from sparstencil.geometry import Geometry
from sparstencil.mma import Form, a_fragment
from sparstencil.modes import KINDS, Mode, Setup
from sparstencil.program import Program
from sparstencil.stencil import Offset
from tenfold_shared import BadInput

Backend = Literal["cuda-sp", "cuda-tc", "cuda-core"]
BACKENDS: tuple[Backend, ...] = ("cuda-sp", "cuda-tc", "cuda-core")
LANES = 32
G, T = np.arange(LANES) // 4, np.arange(LANES) % 4
FRONT = 16  # entries of the table of x before its first place: tiles begin up to 15 points before the grid
# Outputs of a block, about: enough work between two barriers, little halo, and two blocks or more on a multiprocessor.
GOALS = {1: (8192,), 2: (64, 128), 3: (8, 16, 64)}
SHARED = (80 * 1024, 160 * 1024)  # bytes a block: two of the first on an A100's multiprocessor, one of the second
ENOUGH = 4096  # outputs of a block below which the larger size is taken
HELD = 132  # registers that A and its metadata may take for the whole kernel
ADDED = 150  # registers of A, sums and addresses from which addresses are added up at each load
UNROLLED = 400  # loads and products of two rounds of a warp's loop up to which it is unrolled
THREADS_CORE = 256
FMAS = 1024  # of a thread's straight-line code on CUDA cores


@dataclass(frozen=True)
class Kind64:
    """The dense float64 instruction m8n8k4, in the terms of mma.Form."""

    kind: str = "f64"
    k: int = 4
    size: int = 8
    each: int = 1
    a_registers: int = 1
    b_registers: int = 1
    ptx: str = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64"

    def b_places(self) -> tuple[np.ndarray, np.ndarray]:
        return T[:, None, None].copy(), G[:, None, None].copy()


DENSE: dict[str, Form] = {
    "f16": Form("f16", 16, 1, 1, 4),
    "bf16": Form("bf16", 16, 1, 1, 4),
    "tf32": Form("tf32", 8, 1, 1, 4),
    "s8": Form("s8", 32, 1, 1, 4),
}


@dataclass(frozen=True)
class Types:
    """C names and sizes. stored: of the grid as a step reads it; out: as it leaves it; sum: accumulators; planes: entries of
    the tile that instructions read, 0 where they read what is stored; given, taken: of the caller's own grids."""

    stored: str
    stored_bytes: int
    out: str
    out_bytes: int
    sum: str
    planes: int
    plane_bytes: int
    given: str
    taken: str

    @property
    def sum_bytes(self) -> int:
        return 8 if self.sum == "double" else 4

    @property
    def unit(self) -> int:
        """Entries of a 16-byte copy."""
        return 16 // self.stored_bytes

    @property
    def vector(self) -> int:
        """Outputs that a lane writes at once."""
        return 2 if self.out == "double" else 4


def types_of(mode: Mode, backend: Backend, wide: bool) -> Types:
    """On CUDA cores `fast` is a matter of storage alone: float16 grids, halving what memory moves, and float32 weights, products
    and sums."""
    if wide:
        return Types("double", 8, "double", 8, "double", 0, 8, "double", "double")
    if mode == "s8":
        return Types("i8", 1, "int", 4, "int", 0, 1, "i8", "int")
    if mode == "fast":
        return Types("u16", 2, "u16", 2, "float", 0, 2, "float", "float")
    planes, size = {"mixed": (1, 2), "tf32": (1, 4), "f32": (3, 2)}[mode] if backend != "cuda-core" else (0, 4)
    return Types("float", 4, "float", 4, "float", planes, size, "float", "float")


@dataclass(frozen=True)
class Placed(Geometry):
    """A block whose rows begin at a 16-byte boundary. lead: entries of a row before the first place that is used; a zero
    column reads beside its neighbour where that makes one load of two."""

    lead: int = 0

    @property
    def origin(self) -> int:
        return self.lead + super().origin

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        regular = super().offsets()
        if self.program.steps[0].form.each == 1 or self.tile[-1] % 2:  # patches at odd places have other neighbours
            return regular
        none = np.array(self.program.slots).reshape(-1, 2) == NONE
        places = regular.reshape(-1, 2) + self.origin
        both, first, second = none.all(1), none[:, 0] & ~none[:, 1], ~none[:, 0] & none[:, 1]
        places[first, 0] = places[first, 1] ^ 1
        places[second, 1] = places[second, 0] ^ 1
        places[both] = np.stack([places[both, 0] & ~1, places[both, 0] | 1], 1)
        return (places - self.origin).reshape(-1).astype(np.int32)

    def offsets(self) -> np.ndarray:
        return self._offsets

    def sources(self, boundary: Boundary, shape: tuple[int, ...]) -> list[np.ndarray]:
        """The last axis begins `lead` entries before the first place: entry i is place i + lo − lead."""
        found = super().sources(boundary, shape)
        last = found[-1]
        found[-1] = np.concatenate([np.full(self.lead, -1, dtype=np.int32), last[: len(last) - self.lead]])
        return found

    def tables(self, boundary: Boundary, shape: tuple[int, ...]) -> list[np.ndarray]:
        """`sources` as the kernel reads it: along x with FRONT entries before and a block more behind, because its blocks may
        begin before the grid."""
        *others, last = self.sources(boundary, shape)
        none = np.full(FRONT, -1, dtype=np.int32)
        return [*others, np.concatenate([none, last, np.full(self.block[-1] + FRONT, -1, dtype=np.int32)])]


@dataclass(frozen=True)
class Part:
    """One shared-memory load of a register of B. at: (32,) bytes from the tile's first; shift: where its bits go."""

    size: int
    at: np.ndarray
    shift: int = 0

    @property
    def pattern(self) -> tuple[int, ...]:
        """How lanes differ; loads of one pattern share an address register."""
        return tuple((self.at - self.at[0]).tolist())

    @property
    def passes(self) -> int:
        """Passes through the banks: 1 where no two lanes want different words of one bank."""
        lanes = self.at.reshape(2, -1) if self.size == 8 else self.at[None]  # 8 bytes: half a warp a pass
        return sum(int(np.bincount(np.unique(part // 4) % 32).max()) for part in lanes)


@dataclass(frozen=True, eq=False)
class Issue:
    """One matrix instruction: K slots from `first` on; selector and register of the metadata where it is sparse. a: registers
    of A, (planes, tiles of rows, 32, registers)."""

    form: Form | Kind64
    first: int
    a: np.ndarray
    selector: int | None = None
    meta: int | None = None

    @property
    def name(self) -> str:
        return f"product_{self.form.k}"


@dataclass(frozen=True)
class Share:
    """How warps share a block's eights of patches: counts along z, y, x of all of them and of those a round of warps does.
    Warp w does those whose place in the round is w."""

    eights: Offset
    round: Offset

    @property
    def warps(self) -> int:
        return math.prod(self.round)

    @property
    def each(self) -> int:
        """Eights of a warp."""
        return math.prod(self.eights) // self.warps

    @property
    def turns(self) -> Offset:
        return tuple(a // b for a, b in zip(self.eights, self.round, strict=True))


@dataclass(frozen=True)
class Vectors:
    """Who writes which outputs of an eight of patches. quads: (count, 32, 4) int32, for each vector of a lane z, y, x of its
    first output beside the eight's, and its place in the warp's scratch; z is −1 where a lane has none. direct: accumulators
    (tile of rows, index) of each vector where no exchange is needed. cells: (tiles of rows, accumulators, 32) places in the
    scratch; entries of a warp's scratch."""

    quads: np.ndarray
    direct: tuple[tuple[tuple[int, int], ...], ...] | None
    cells: np.ndarray
    scratch: int


@dataclass(frozen=True)
class Target:
    """A setup for one back end. wide: float64, which sparse tensor cores have not."""

    setup: Setup
    backend: Backend
    wide: bool = False
    twice: bool = False  # float64 tensor cores with K split as ConvStencil's two matrices

    def __post_init__(self) -> None:
        if self.wide and self.backend == "cuda-sp":
            raise ValueError("sparse tensor cores have no float64")

    @property
    def program(self) -> Program:
        return self.setup.program

    @property
    def mode(self) -> Mode:
        return self.setup.mode

    @property
    def on_tensor_cores(self) -> bool:
        return self.backend != "cuda-core"

    @functools.cached_property
    def types(self) -> Types:
        return types_of(self.mode, self.backend, self.wide)

    @property
    def increment(self) -> bool:
        """Whether L u is made and u added; plain float32 needs no such help."""
        return self.setup.increment and self.on_tensor_cores and not self.wide

    @property
    def scaled(self) -> bool:
        """Whether numbers go through float16, scaled by a power of two."""
        return not self.wide and (self.mode == "fast" or (self.mode == "mixed" and self.on_tensor_cores))

    # ------------------------------------------------------------ the block

    @functools.cached_property
    def _fitted(self) -> tuple[Placed, int]:
        best: tuple[Placed, int] | None = None
        for limit, stages in itertools.product(SHARED, (2, 1)):
            found = self._fit(limit, stages)
            if found is None:
                continue
            if best is None or math.prod(found.block) > math.prod(best[0].block):
                best = found, stages
            if math.prod(found.block) >= ENOUGH:
                return found, stages
        if best is None:
            raise BadInput(
                f"the stencil reaches too far for a GPU's shared memory: its smallest block with halo is over {SHARED[-1]} bytes; "
                "--backend cpu has no such limit"
            )
        return best

    @property
    def geometry(self) -> Placed:
        return self._fitted[0]

    @property
    def stages(self) -> int:
        return self._fitted[1]

    def _fit(self, limit: int, stages: int) -> Placed | None:
        """The largest block near the goal that fits; halved along the axis that is most tiles wide until it does."""
        stencil, tile = self.setup.stencil, self.program.layout.tile
        goal = list(GOALS[stencil.ndim])
        if stencil.ndim == 3 and stencil.lo[0] == stencil.hi[0] == 0:  # a plane needs no halo along z
            goal = [2, 64, 64]
        elif stencil.ndim == 3 and stencil.lo[1:] == stencil.hi[1:] == (0, 0):  # a column needs one there alone
            goal = [64, 2, 64]
        patches = [max(1, round(g / r)) for g, r in zip(goal, tile, strict=True)]
        patches[-1] = max(1, round(goal[-1] / tile[-1] / 8))  # eights of them
        while True:
            count = (*patches[:-1], 8 * patches[-1])
            if self._bytes(self._place(count, search=False), stages) <= limit:
                found = self._place(count)
                if self._bytes(found, stages) <= limit:
                    return found
            widest = max(range(stencil.ndim), key=lambda a: patches[a])
            if patches[widest] == 1:
                return None
            patches[widest] //= 2

    def _bytes(self, geometry: Placed, stages: int) -> int:
        types = self.types
        tiles = geometry.places * (stages * types.stored_bytes + types.planes * types.plane_bytes)
        return tiles + (8 * self.vectors.scratch * types.sum_bytes if self.on_tensor_cores else 0) + self.weight_bytes

    def _place(self, patches: Offset, search: bool = True) -> Placed:
        """Lead and, where asked for, pitch: the parity that makes most registers of B one load each, then the row length with the
        fewest passes through the banks. Where the parity allows, the lead keeps blocks of every step at the same points."""
        program, types, unit = self.program, self.types, self.types.unit
        stencil, tile = program.layout.stencil, program.layout.tile
        low = stencil.lo[-1]
        span = [p * r + h - lo for p, r, lo, h in zip(patches, tile, stencil.lo, stencil.hi, strict=True)]

        def made(lead: int, pitch: int) -> Placed:
            return Placed(program, patches, (*span[:-1], pitch), lead)

        lead = low % unit
        least = -(-(span[-1] + unit) // unit) * unit
        if not self.on_tensor_cores:
            return made(lead, -(-(span[-1] + lead) // unit) * unit)
        if types.plane_bytes < 4 and search:
            counts = [sum(1 for _ in _parts(self, made(parity, least))) for parity in (0, 1)]
            parity = lead % 2 if counts[0] == counts[1] else int(counts[1] < counts[0])
            if lead % 2 != parity:
                lead = parity
        first = -(-(span[-1] + lead) // unit) * unit
        if stencil.ndim == 1 or not search:
            return made(lead, first)
        choices = range(first, first + 64 * 4 // types.plane_bytes + 1, unit)
        best = min(choices, key=lambda pitch: (sum(p.passes for p in _parts(self, made(lead, pitch))), pitch))
        return made(lead, best)

    # ------------------------------------------------------------ instructions and loads

    @functools.cached_property
    def slots(self) -> list[int]:
        """Column of each of K places: the program's; for float64 the columns in their order, or, `twice`, those that a first
        and a second tile of the stencil's width have, each filled up to a whole instruction."""
        if not self.wide:
            return self.program.slots
        layout = self.program.layout
        columns = range(layout.n)
        if not self.twice:
            return [*columns, *[NONE] * (-layout.n % 4)]
        edge = layout.stencil.lo[-1] + layout.stencil.extents[-1]
        halves = [[c for c in columns if (layout.columns[c][-1] < edge) == first] for first in (True, False)]
        return [c for half in halves for c in [*half, *[NONE] * (-len(half) % 4)]]

    def offsets(self, geometry: Placed) -> np.ndarray:
        """(K,) places of the slots beside a patch's first output."""
        if not self.wide:
            return geometry.offsets()
        columns, last, out = self.program.layout.columns, 0, []
        for column in self.slots:
            if column != NONE:
                last = sum(c * s for c, s in zip(columns[column], geometry.strides, strict=True))
            out.append(last)
        return np.array(out, dtype=np.int32)

    @property
    def rows_a_tile(self) -> int:
        """Rows of one instruction, and accumulators of a lane: 16 and 4, for float64 8 and 2."""
        return 8 if self.wide else 16

    @property
    def sums(self) -> int:
        return self.rows_a_tile // 4

    @property
    def m_tiles(self) -> int:
        return -(-self.program.layout.rows // self.rows_a_tile)

    @functools.cached_property
    def forms(self) -> list[tuple[Form | Kind64, int]]:
        """(form, first slot) of each instruction."""
        if self.wide:
            return [(Kind64(), first) for first in range(0, len(self.slots), 4)]
        if self.backend == "cuda-sp":
            return [(step.form, step.first) for step in self.program.steps]
        form = DENSE[KINDS[self.mode]]
        return [(form, first) for first in range(0, self.program.k, form.k)]

    @functools.cached_property
    def issues(self) -> list[Issue]:
        program = self.program
        if self.backend == "cuda-sp":
            planes, tiles = range(len(program.planes)), range(program.m_tiles)
            return [
                Issue(
                    step.form,
                    step.first,
                    np.stack([[program.a(plane, tile, at) for tile in tiles] for plane in planes]),
                    step.selector,
                    step.register,
                )
                for at, step in enumerate(program.steps)
            ]
        if self.wide:
            matrix = np.zeros((8 * self.m_tiles, len(self.slots)))
            for place, column in enumerate(self.slots):
                if column != NONE:
                    matrix[: program.layout.rows, place] = program.layout.matrix[:, column]
            tiled = matrix.reshape(self.m_tiles, 8, -1)
            return [Issue(form, first, tiled[None, :, G, first + T, None]) for form, first in self.forms]
        found = []
        for form, first in self.forms:
            assert isinstance(form, Form)
            part = program.ordered[:, :, first : first + form.k].reshape(len(program.planes), self.m_tiles, 16, form.k)
            found.append(Issue(form, first, np.stack([[a_fragment(a, form) for a in plane] for plane in part])))
        return found

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        return ((0, 0),) if self.wide else self.program.products

    @functools.cached_property
    def loads(self) -> list[list[list[Part]]]:
        """Of plane 0, for each instruction and register of B its loads."""
        return [list(registers) for registers in _registers(self, self.geometry)]

    @functools.cached_property
    def patterns(self) -> list[tuple[int, ...]]:
        """Patterns of lanes, each an address register."""
        found = dict.fromkeys(p.pattern for issue in self.loads for register in issue for p in register)
        return list(found)

    @property
    def weights_in(self) -> Literal["registers", "shared", "global"]:
        """Where A stays: in registers for the whole kernel; else it is read once for several eights of patches, from shared memory
        where that leaves room, or through the first-level cache."""
        if self.a_registers <= HELD:
            return "registers"
        return "shared" if self._weights + self.meta_bytes <= SHARED[0] // 2 else "global"

    @property
    def held(self) -> bool:
        return self.weights_in == "registers"

    @property
    def _weights(self) -> int:
        """Bytes of A as its table has it."""
        return sum(issue.a.nbytes for issue in self.issues)

    @property
    def meta_bytes(self) -> int:
        """Bytes of the metadata words."""
        return self.program.meta.nbytes if self.backend == "cuda-sp" else 0

    @property
    def adds(self) -> bool:
        """Whether a lane's places are added to the tile's at each load. Sums that are kept for a tile take a register more a
        pattern: with many patterns more than there are."""
        sums = self.together * self.m_tiles * self.sums * (2 if self.wide else 1)
        return (self.a_registers if self.held else 0) + sums + 2 * len(self.patterns) > ADDED

    @property
    def a_registers(self) -> int:
        words = 2 if self.wide else 1
        count = sum(words * issue.a.shape[0] * issue.a.shape[1] * issue.a.shape[3] for issue in self.issues)
        return count + (self.program.meta.shape[0] * self.program.meta.shape[1] if self.backend == "cuda-sp" else 0)

    # ------------------------------------------------------------ work and outputs

    @functools.cached_property
    def share(self) -> Share:
        """Eight warps where they divide the block, else fewer."""
        patches = three(self.geometry.patches, 1)
        eights = (*patches[:-1], patches[-1] // 8)
        for warps in (8, 4, 2, 1):
            left, counts = warps, [1, 1, 1]
            for axis in (2, 1, 0):
                counts[axis] = math.gcd(left, eights[axis])
                left //= counts[axis]
            if left == 1:
                return Share(eights, tuple(counts))
        raise AssertionError("one warp divides any block")

    @property
    def threads(self) -> int:
        return LANES * self.share.warps if self.on_tensor_cores else THREADS_CORE

    @property
    def together(self) -> int:
        """Eights of patches that a warp works on at once: two for their latencies, four where A is read for each."""
        wanted = 4 if not self.held else 2
        if self.m_tiles * self.sums * wanted > 32:
            wanted = max(1, 32 // (self.m_tiles * self.sums))
        return math.gcd(wanted, self.share.each)

    @property
    def unrolled(self) -> int:
        """Rounds of the loop over a warp's eights that are unrolled: more would hold more addresses than they save."""
        loads = sum(len(register) for issue in self.loads for register in issue)
        work = loads * max(1, self.types.planes) + len(self.products) * self.m_tiles * len(self.issues)
        rounds = self.share.each // self.together
        return 2 if rounds % 2 == 0 and 2 * self.together * work <= UNROLLED and not self.adds else 1

    @functools.cached_property
    def vectors(self) -> Vectors:
        return _vectors(self)

    @functools.cached_property
    def core_tile(self) -> Offset:
        """Outputs of a thread along z, y, x on CUDA cores: rows that share most of their inputs, in straight-line code."""
        stencil, block = self.setup.stencil, three(self.geometry.block, 1)
        width = self.types.vector
        lines = {three(o, 0)[:2] for o in stencil.offsets}
        best, least = (1, 1, width), math.inf
        for z, y in itertools.product((1, 2, 4), (1, 2, 4, 8)):
            outputs = z * y * width
            if block[0] % z or block[1] % y or outputs > 32 or (outputs * stencil.points > FMAS and z * y > 1):
                continue
            if math.prod(block) // outputs < THREADS_CORE and z * y > 1:
                continue
            rows = {(a + i, b + j) for a, b in lines for i in range(z) for j in range(y)}
            if len(rows) / (z * y) < least:
                best, least = (z, y, width), len(rows) / (z * y)
        return best

    @functools.cached_property
    def core_rows(self) -> dict[tuple[int, int], list[tuple[int, list[int]]]]:
        """Inputs of a thread on CUDA cores: of each row (z, y) beside its first output its loads, (first x, those x that are
        used): a vector, or one number where a vector has no other that is used."""
        tz, ty, tx = self.core_tile
        wanted: dict[tuple[int, int], set[int]] = {}
        for offset in self.setup.stencil.offsets:
            oz, oy, ox = three(offset, 0)
            for z, y in itertools.product(range(tz), range(ty)):
                wanted.setdefault((z + oz, y + oy), set()).update(range(ox, ox + tx))
        return {
            line: [(first, list(some)) for first, some in itertools.groupby(sorted(row), key=lambda x: x // tx * tx)]
            for line, row in sorted(wanted.items())
        }

    # ------------------------------------------------------------ sizes

    @property
    def plane_size(self) -> int:
        """Bytes of one plane of the tile, filled up to where 16-byte loads may begin."""
        return -(-self.geometry.places * self.types.plane_bytes // 16) * 16

    @property
    def tile_bytes(self) -> int:
        return self.geometry.places * self.types.stored_bytes

    @property
    def scratch_bytes(self) -> int:
        if not self.on_tensor_cores or self.vectors.direct is not None:
            return 0
        return self.share.warps * self.vectors.scratch * self.types.sum_bytes

    @property
    def weight_bytes(self) -> int:
        """Of A and its metadata in shared memory."""
        return self._weights + self.meta_bytes if self.on_tensor_cores and self.weights_in == "shared" else 0

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory of a block."""
        types = self.types
        return self.stages * self.tile_bytes + types.planes * self.plane_size + self.scratch_bytes + self.weight_bytes

    @property
    def chunks(self) -> int:
        """16-byte copies that fill a row."""
        stencil = self.setup.stencil
        return -(-(self.geometry.lead + self.geometry.block[-1] + stencil.hi[-1] - stencil.lo[-1]) // self.types.unit)

    @property
    def placed(self) -> Setup:
        """The setup on this block: what the emulator runs to run the kernel's own tables."""
        return replace(self.setup, geometry=self.geometry)


def three(values: Offset, fill: int) -> Offset:
    """z, y, x of one to three axes."""
    return (*[fill] * (3 - len(values)), *values)


# ---------------------------------------------------------------- loads of B


def _registers(target: Target, geometry: Placed) -> Iterator[Iterator[list[Part]]]:
    offsets, origin, step = target.offsets(geometry), geometry.origin, target.program.layout.tile[-1]
    size = target.types.plane_bytes
    for form, first in target.forms:
        row, column = form.b_places()
        places = origin + offsets[first + row] + column * step  # (32, registers, entries)
        yield (_parts_of(places[:, register], size) for register in range(places.shape[1]))


def _parts(target: Target, geometry: Placed) -> Iterator[Part]:
    return (part for issue in _registers(target, geometry) for register in issue for part in register)


def _parts_of(places: np.ndarray, size: int) -> list[Part]:
    """Loads of the entries (32, count) of one register: as few as their neighbourhood and alignment allow for all lanes."""
    count = places.shape[1]
    at = places * size
    if count == 1 or ((np.diff(places, axis=1) == 1).all() and (at[:, 0] % (size * count) == 0).all()):
        return [Part(size * count, at[:, 0])]
    half = count // 2
    low, high = _parts_of(places[:, :half], size), _parts_of(places[:, half:], size)
    return low + [replace(part, shift=part.shift + 8 * size * half) for part in high]


# ---------------------------------------------------------------- outputs


def _vectors(target: Target) -> Vectors:
    """Neighbours in x of one lane where the numbering of rows has them so; else through a scratch of the warp."""
    layout, width = target.program.layout, target.types.vector
    tile = three(layout.tile, 1)
    outputs = np.array([three(o, 0) for o in layout.outputs])
    real = np.zeros((target.m_tiles, target.sums, LANES), dtype=bool)
    where = np.zeros((target.m_tiles, target.sums, LANES, 3), dtype=np.int64)
    for m_tile, index in itertools.product(range(target.m_tiles), range(target.sums)):
        m = target.rows_a_tile * m_tile + G + 8 * (index >> 1)
        real[m_tile, index] = m < len(outputs)
        where[m_tile, index] = outputs[np.minimum(m, len(outputs) - 1)]
        where[m_tile, index, :, 2] += (2 * T + (index & 1)) * tile[2]
    direct = _direct(where, width) if real.all() else None
    lines, line = tile[0] * tile[1], 8 * tile[2]
    pitch = _scratch_pitch(where, real, tile, line, width)
    cells = (where[..., 0] * tile[1] + where[..., 1]) * pitch + where[..., 2]
    scratch = -(-lines * pitch // 4) * 4 + LANES  # rows that only fill A up leave their sums behind the others
    cells = np.where(real, cells, scratch - LANES + np.arange(LANES))
    if direct is not None:
        quads = np.stack([np.concatenate([where[vector[0]], np.zeros((LANES, 1), int)], 1) for vector in direct])
        return Vectors(quads.astype(np.int32), direct, cells, 0)
    found = [(row // tile[1], row % tile[1], x, row * pitch + x) for row in range(lines) for x in range(0, line, width)]
    count = -(-len(found) // LANES)
    quads = np.full((count * LANES, 4), -1, dtype=np.int32)
    quads[:, 3] = 0
    quads[: len(found)] = found
    return Vectors(quads.reshape(count, LANES, 4), None, cells, scratch)


def _direct(where: np.ndarray, width: int) -> tuple[tuple[tuple[int, int], ...], ...] | None:
    """Accumulators of each vector, the same for every lane; None where a lane's outputs are no neighbours."""
    tiles, sums = where.shape[:2]
    order = sorted(itertools.product(range(tiles), range(sums)), key=lambda at: tuple(where[at][0]))
    found = [tuple(order[i : i + width]) for i in range(0, len(order), width)]
    for vector in found:
        if len(vector) < width:
            return None
        first = where[vector[0]]
        if (first[:, 2] % width).any():
            return None
        for step, at in enumerate(vector):
            if (where[at] != first + np.array([0, 0, step])).any():
                return None
    return tuple(found)


def _scratch_pitch(where: np.ndarray, real: np.ndarray, tile: Offset, line: int, width: int) -> int:
    """Entries from a row of the scratch to the next: the one with the fewest passes of its writes and reads."""

    def passes(pitch: int) -> int:
        cells = ((where[..., 0] * tile[1] + where[..., 1]) * pitch + where[..., 2]).reshape(-1, LANES)
        used = real.reshape(-1, LANES)
        return sum(int(np.bincount(row[on] % 32).max()) for row, on in zip(cells, used, strict=True) if on.any())

    return min(range(line, line + 33, width), key=lambda pitch: (passes(pitch), pitch))
