"""A plan made into what a kernel holds: instructions, registers of A, metadata words, and the tables of places.

Everything that a kernel reads from a table stands here, once: the CUDA sources are printed from it and the emulator runs it, so
that neither derives anything a second time.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparstencil.convert import NONE, Grouping
from sparstencil.layout import Layout
from sparstencil.mma import FORMS, Form, Kind, a_fragment, compress, rounded, words
from sparstencil.stencil import Offset


@dataclass(frozen=True)
class Step:
    """One instruction: K places from `first` on, its metadata in register `register`, at `selector`."""

    form: Form
    first: int
    selector: int
    register: int


@dataclass(frozen=True)
class Program:
    """One grouping for one kind of entry.

    planes: A's numbers as the kind can hold them, float64 (count, M, n): one, or the parts of a number that is split.
    products: (plane of A, plane of B) of each product that is summed."""

    grouping: Grouping
    kind: Kind
    planes: np.ndarray = field(compare=False)
    products: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def layout(self) -> Layout:
        return self.grouping.layout

    @functools.cached_property
    def slots(self) -> list[int]:
        """Column of each of K places, NONE for a zero column. Groups stand as they are, but for tf32 pair by pair; the end
        is filled up to a whole instruction."""
        if self.kind == "tf32":
            if not self.grouping.pairs:
                raise ValueError("tf32 keeps one of two: it needs a grouping of pairs")
            found = [c for a, b, a2, b2 in self.grouping.groups for c in (a, a2, b, b2)]
        else:
            found = self.grouping.permutation
        unit = {"f16": 16, "bf16": 16, "tf32": 8, "s8": 64}[self.kind]
        return found + [NONE] * (-len(found) % unit)

    @property
    def k(self) -> int:
        """K, filled up."""
        return len(self.slots)

    @functools.cached_property
    def steps(self) -> list[Step]:
        """The longest form as often as it goes, then the shorter one; as many instructions' metadata in a register as fit."""
        forms = sorted((form for (kind, _), form in FORMS.items() if kind == self.kind), key=lambda form: -form.k)
        out: list[Step] = []
        first = register = spot = 0
        while first < self.k:
            form = next(form for form in forms if form.k <= self.k - first)
            spot += -spot % form.spots
            if spot + form.spots > 4:
                register, spot = register + 1, 0
            out.append(Step(form, first, spot // form.spots, register))
            spot, first = spot + form.spots, first + form.k
        return out

    @property
    def m_tiles(self) -> int:
        return math.ceil(self.layout.rows / 16)

    @functools.cached_property
    def ordered(self) -> np.ndarray:
        """A's planes (count, 16 · m_tiles, K) with its columns in the order of `slots`, zero rows and columns added."""
        out = np.zeros((len(self.planes), 16 * self.m_tiles, self.k))
        for place, column in enumerate(self.slots):
            if column != NONE:
                out[:, : self.layout.rows, place] = self.planes[:, :, column]
        return out

    @functools.cached_property
    def _compressed(self) -> tuple[list[list[list[np.ndarray]]], np.ndarray]:
        registers = 1 + max(step.register for step in self.steps)
        meta = np.zeros((self.m_tiles, registers, 32), dtype=np.uint32)
        fragments: list[list[list[np.ndarray]]] = [[[] for _ in range(self.m_tiles)] for _ in self.planes]
        for tile, step in itertools.product(range(self.m_tiles), self.steps):
            part = self.ordered[:, 16 * tile : 16 * tile + 16, step.first : step.first + step.form.k]
            # One set of places serves all planes, or their metadata would differ: where a part rounds to 0 its place stays.
            where = (part != 0).any(0)
            _, nibbles = compress(where.astype(float), step.form)
            meta[tile, step.register] |= words(nibbles, step.form, step.selector)
            for plane in range(len(self.planes)):
                fragments[plane][tile].append(a_fragment(_kept(part[plane], nibbles, step.form), step.form))
        return fragments, meta

    @property
    def meta(self) -> np.ndarray:
        """Metadata words (m_tiles, registers, 32) uint32."""
        return self._compressed[1]

    def a(self, plane: int, tile: int, step: int) -> np.ndarray:
        """A's registers (32, registers of the form) uint32 of one instruction."""
        return self._compressed[0][plane][tile][step]

    @functools.cached_property
    def places(self) -> list[Offset | None]:
        """Place of each of K slots beside a patch's first output; None for a zero column."""
        return [None if column == NONE else self.layout.columns[column] for column in self.slots]

    def offsets(self, strides: tuple[int, ...]) -> np.ndarray:
        """Where each of K places lies beside a patch's origin, in entries, int32 [2.6 b]. The origin is the first output;
        places reach back by −lo. A zero column reads where its neighbour does: its weights are 0."""
        out = np.zeros(self.k, dtype=np.int32)
        real = [at for at, place in enumerate(self.places) if place is not None]
        last = real[0] if real else 0
        for at in range(self.k):
            last = at if self.places[at] is not None else last
            out[at] = sum(c * s for c, s in zip(self.places[last] or (), strides, strict=False))
        return out

    def table(self) -> list[dict[str, Any]]:
        """The metadata as `plan --json` prints it, an instruction an entry; a lane without a part in one is 0."""
        found = []
        for tile, step in itertools.product(range(self.m_tiles), self.steps):
            lanes = np.zeros(32, dtype=np.uint32)
            held = np.unique(step.form.meta_places(step.selector)[0])
            lanes[held] = self.meta[tile, step.register, held]
            found.append(
                {
                    "mma": step.form.ptx,
                    "shape": step.form.shape,
                    "m_tile": tile,
                    "selector": step.selector,
                    "lanes": [f"{int(word):08x}" for word in lanes],
                }
            )
        return found


def _kept(a: np.ndarray, nibbles: np.ndarray, form: Form) -> np.ndarray:
    """Stored entries (16, K kept) of A (16, K) at the places of the nibbles."""
    groups = a.reshape(16, -1, form.group)
    if form.group == 2:
        where = (nibbles >> 3)[..., None].astype(int)
    else:
        where = np.stack([nibbles & 3, nibbles >> 2], -1).astype(int)
    return np.take_along_axis(groups, where, -1).reshape(16, -1)


# ---------------------------------------------------------------- precision: planes of A and B


BF16X3 = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))


def plain(grouping: Grouping, kind: Kind, matrix: np.ndarray | None = None) -> Program:
    """One product; A rounded once. matrix: other weights than the layout's on the same places."""
    a = grouping.layout.matrix if matrix is None else matrix
    return Program(grouping, kind, rounded(a, kind).astype(np.float64)[None])


def split(grouping: Grouping) -> Program:
    """float32 through three bfloat16 parts of each factor and six products."""
    return Program(grouping, "bf16", parts(grouping.layout.matrix).astype(np.float64), BF16X3)


def parts(x: np.ndarray) -> np.ndarray:
    """Three bfloat16 numbers (3, …) whose sum is x to about 2⁻²⁴."""
    left = np.asarray(x, dtype=np.float64)
    found = []
    for _ in range(3):
        found.append(rounded(left.astype(np.float32), "bf16"))
        left = left - found[-1]
    return np.stack(found)


def balanced(weights: dict[Offset, float]) -> dict[Offset, float]:
    """Weights of an increment that float16 holds and whose sum is what it was, 0 as a rule: the point itself takes what the
    others lost, where that is a float16 number; else the others are rounded to coarser steps until it is."""
    here = (0,) * len(next(iter(weights)))
    total = math.fsum(weights.values())
    others = {o: w for o, w in weights.items() if o != here}
    goal = total if abs(total) > 1e-12 * sum(map(abs, weights.values())) else 0.0
    largest = max(map(abs, others.values()), default=1.0)
    # Multiples of one step, few enough that their sum is exact in the 11 bits of a float16.
    for bits in range(11, 3, -1):
        unit = 2.0 ** (math.ceil(math.log2(largest)) - bits)
        found = {o: float(np.float16(w if bits == 11 else round(w / unit) * unit)) for o, w in others.items()}
        centre = goal - math.fsum(found.values())
        if float(np.float16(centre)) == centre:
            return {o: w for o, w in {**found, here: centre}.items() if w}
    return {o: float(np.float16(w)) for o, w in weights.items()}
