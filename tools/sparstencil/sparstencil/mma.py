"""The sparse matrix instructions as the hardware has them: fragments, metadata words, and what one does, bit by bit.

D (16, 8) = A (16, K, two of every four columns kept) · B (K, 8) + C. A warp's lane l = 4 g + t holds parts of each (PTX ISA,
mma.sp). Forms:

| form | K | kept | a lane's metadata | selectors |
| f16 and bf16 k16 | 16 | 2 of 4 | rows g, g + 8, four groups each, in lane 4 g + selector | 4 |
| f16 and bf16 k32 | 32 | 2 of 4 | the same for K 16 h … 16 h + 15 in lane 4 g + 2 selector + h | 2 |
| tf32 k8, k16 | 8, 16 | 1 of 2 | as k16, k32, a nibble a pair: 4 for its first, E for its second | 4, 2 |
| s8 k64 | 64 | 2 of 4 | lane 4 g + r + 2 h: row g + 8 r, K 32 h … 32 h + 31 | 1 |

The words of s8 follow CUTLASS's public order of 8-bit metadata; PTX's own figure could not be read, and no GPU has run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["f16", "bf16", "tf32", "s8"]
LANES = 32
G, T = np.arange(LANES) // 4, np.arange(LANES) % 4
UNDEFINED = (0x0, 0x5, 0xA, 0xF)


@dataclass(frozen=True)
class Form:
    """One instruction. group: logical columns a nibble speaks of; kept: how many of them are stored; spots: lanes of a quad
    that hold one instruction's metadata."""

    kind: Kind
    k: int
    group: int
    kept: int
    spots: int

    @property
    def shape(self) -> str:
        return f"m16n8k{self.k}"

    @property
    def stored(self) -> int:
        """Columns of A that are kept."""
        return self.k * self.kept // self.group

    @property
    def selectors(self) -> int:
        return 4 // self.spots

    @property
    def size(self) -> int:
        """Bytes of an entry."""
        return {"f16": 2, "bf16": 2, "tf32": 4, "s8": 1}[self.kind]

    @property
    def each(self) -> int:
        """Entries of a 32-bit register."""
        return 4 // self.size

    @property
    def ptx(self) -> str:
        out, ab = ("s32", "s8") if self.kind == "s8" else ("f32", self.kind)
        return f"mma.sp::ordered_metadata.sync.aligned.{self.shape}.row.col.{out}.{ab}.{ab}.{out}"

    # ------------------------------------------------------------ who holds what

    def a_places(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, stored column) of a lane's entries of A, each (32, registers, entries a register)."""
        registers, inside = np.meshgrid(np.arange(self.a_registers), np.arange(self.each), indexing="ij")
        row = G[:, None, None] + 8 * (registers % 2)
        column = self.each * T[:, None, None] + 4 * self.each * (registers // 2) + inside
        return np.broadcast_to(row, column.shape).copy(), column

    def b_places(self) -> tuple[np.ndarray, np.ndarray]:
        """(logical row, column) of a lane's entries of B, each (32, registers, entries a register)."""
        registers, inside = np.meshgrid(np.arange(self.b_registers), np.arange(self.each), indexing="ij")
        row = self.each * T[:, None, None] + 4 * self.each * registers + inside
        return row, np.broadcast_to(G[:, None, None], row.shape).copy()

    @property
    def a_registers(self) -> int:
        return 16 * self.stored // LANES // self.each

    @property
    def b_registers(self) -> int:
        return self.k * 8 // LANES // self.each

    def meta_places(self, selector: int) -> tuple[np.ndarray, np.ndarray]:
        """(lane, first bit) of the nibble of each row and group, both (16, k / group)."""
        groups = self.k // self.group
        row, at = np.meshgrid(np.arange(16), np.arange(groups), indexing="ij")
        if self.kind == "s8":
            return 4 * (row % 8) + row // 8 + 2 * (at // 8), 4 * (at % 8)
        lane = 4 * (row % 8) + self.spots * selector + at // 4
        return lane, 16 * (row // 8) + 4 * (at % 4)


_FORMS: tuple[tuple[Kind, int, int, int, int], ...] = (
        ("f16", 16, 4, 2, 1), ("f16", 32, 4, 2, 2), ("bf16", 16, 4, 2, 1), ("bf16", 32, 4, 2, 2),
        ("tf32", 8, 2, 1, 1), ("tf32", 16, 2, 1, 2), ("s8", 64, 4, 2, 4),
)  # fmt: skip
FORMS: dict[tuple[Kind, int], Form] = {(of[0], of[1]): Form(*of) for of in _FORMS}


# ---------------------------------------------------------------- numbers as registers have them


def rounded(x: np.ndarray, kind: Kind) -> np.ndarray:
    """x as float32 values that the kind can hold, to nearest even. s8: whole numbers. Raises OverflowError for a number out
    of the kind's range."""
    if kind == "f16":
        with np.errstate(over="ignore"):
            out = x.astype(np.float16).astype(np.float32)
    elif kind == "s8":
        out = np.rint(x).astype(np.float32)
        if np.abs(out).max(initial=0) > 127:
            raise OverflowError("a number beyond 127 does not fit 8 bits")
        return out
    else:
        out = _cut(x.astype(np.float32), 16 if kind == "bf16" else 13)
    if (np.isinf(out) & np.isfinite(x)).any():
        raise OverflowError(f"{np.abs(x[np.isfinite(x)]).max():.4g} does not fit {kind}")
    return out


def _cut(x: np.ndarray, bits: int) -> np.ndarray:
    """float32 with its last `bits` bits rounded off to nearest even."""
    raw = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    half = np.uint32((1 << (bits - 1)) - 1)
    up = raw + half + ((raw >> np.uint32(bits)) & np.uint32(1))
    out = (up & ~np.uint32((1 << bits) - 1)).view(np.float32)
    return np.where(np.isfinite(x), out, x).astype(np.float32)


def bits_of(x: np.ndarray, kind: Kind) -> np.ndarray:
    """Entries as unsigned integers of the kind's width, in uint32."""
    if kind == "f16":
        return x.astype(np.float16).view(np.uint16).astype(np.uint32)
    if kind == "s8":
        return x.astype(np.int8).view(np.uint8).astype(np.uint32)
    raw = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return raw >> np.uint32(16) if kind == "bf16" else raw


def numbers_of(raw: np.ndarray, kind: Kind) -> np.ndarray:
    """The float32 values of entries; tf32 ignores its last 13 bits."""
    if kind == "f16":
        return raw.astype(np.uint16).view(np.float16).astype(np.float32)
    if kind == "s8":
        return raw.astype(np.uint8).view(np.int8).astype(np.float32)
    if kind == "bf16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return (raw.astype(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32)


def packed(entries: np.ndarray, kind: Kind) -> np.ndarray:
    """Registers (…) of entries (…, each), the first in the lowest bits."""
    size = {"f16": 16, "bf16": 16, "tf32": 32, "s8": 8}[kind]
    raw = bits_of(entries, kind)
    shifts = np.arange(raw.shape[-1], dtype=np.uint32) * np.uint32(size)
    return np.bitwise_or.reduce(raw << shifts, axis=-1)


def unpacked(registers: np.ndarray, kind: Kind) -> np.ndarray:
    """Entries (…, each) of registers (…)."""
    size = {"f16": 16, "bf16": 16, "tf32": 32, "s8": 8}[kind]
    each = 32 // size
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(size)
    mask = np.uint32(0xFFFFFFFF if size == 32 else (1 << size) - 1)
    return numbers_of((registers[..., None].astype(np.uint32) >> shifts) & mask, kind)


# ---------------------------------------------------------------- compression


def compress(a: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Stored entries (16, K kept) and nibbles (16, K / group) of A (16, K). Raises ValueError where a group has too many.

    Two entries at their places. One at 0: (0, 1), or at j: (0, j) with a zero before it. None: (0, 1)."""
    groups = a.reshape(16, -1, form.group)
    stored = np.zeros((16, groups.shape[1], form.kept))
    nibbles = np.full((16, groups.shape[1]), 0x4, dtype=np.uint32)
    for row, at in np.argwhere((groups != 0).any(-1)):
        places = np.flatnonzero(groups[row, at])
        if len(places) > form.kept:
            raise ValueError(
                f"row {row} has {len(places)} entries in group {at}; {form.shape} {form.kind} keeps {form.kept}"
            )
        if form.group == 2:
            stored[row, at, 0] = groups[row, at, places[0]]
            nibbles[row, at] = 0xE if places[0] else 0x4
            continue
        low, high = (0, max(1, places[0])) if len(places) == 1 else places
        stored[row, at] = groups[row, at, [low, high]]
        nibbles[row, at] = low | high << 2
    return stored.reshape(16, -1), nibbles


def words(nibbles: np.ndarray, form: Form, selector: int) -> np.ndarray:
    """Metadata (32,) uint32 of an instruction; lanes that hold none of it are 0."""
    out = np.zeros(LANES, dtype=np.uint32)
    lane, bit = form.meta_places(selector)
    np.bitwise_or.at(out, lane, nibbles.astype(np.uint32) << bit.astype(np.uint32))
    return out


def a_fragment(stored: np.ndarray, form: Form) -> np.ndarray:
    """Registers (32, a_registers) of stored entries (16, K kept)."""
    row, column = form.a_places()
    return packed(stored[row, column], form.kind)


# ---------------------------------------------------------------- what an instruction does


def decoded(a: np.ndarray, meta: np.ndarray, selector: int, form: Form) -> np.ndarray:
    """A (16, K) float32 from registers and metadata words alone. Raises ValueError for a nibble that is undefined."""
    row, column = form.a_places()
    stored = np.zeros((16, form.stored), dtype=np.float32)
    stored[row, column] = unpacked(a, form.kind)
    lane, bit = form.meta_places(selector)
    nibbles = (meta[lane] >> bit.astype(np.uint32)) & np.uint32(0xF)
    legal = (0x4, 0xE) if form.group == 2 else tuple(set(range(16)) - set(UNDEFINED))
    if not np.isin(nibbles, legal).all():
        bad = np.argwhere(~np.isin(nibbles, legal))[0]
        raise ValueError(
            f"row {bad[0]}, group {bad[1]}: metadata {int(nibbles[tuple(bad)]):#x} is undefined for {form.shape} {form.kind}"
        )
    full = np.zeros((16, nibbles.shape[1], form.group), dtype=np.float32)
    kept = stored.reshape(16, -1, form.kept)
    rows, groups = np.indices(nibbles.shape)
    if form.group == 2:
        full[rows, groups, (nibbles >> 3).astype(int)] = kept[..., 0]
    else:
        full[rows, groups, (nibbles & 3).astype(int)] = kept[..., 0]
        full[rows, groups, (nibbles >> 2).astype(int)] = kept[..., 1]
    return full.reshape(16, form.k)


def execute(a: np.ndarray, b: np.ndarray, c: np.ndarray, meta: np.ndarray, selector: int, form: Form) -> np.ndarray:
    """D's fragments (…, 32, 4) float32 of A (32, registers), B (…, 32, registers), C (…, 32, 4), metadata (32,).

    Products are exact; sums are made in float64 and rounded to float32 once, where hardware rounds in its own order: equal
    where every sum is exact, and by a few units in the last place elsewhere."""
    matrix = decoded(a, meta, selector, form).astype(np.float64)
    row, column = form.b_places()
    dense = np.zeros((*b.shape[:-2], form.k, 8), dtype=np.float64)
    dense[..., row, column] = unpacked(b, form.kind)
    product = matrix @ dense  # (…, 16, 8)
    rows = np.stack([G, G, G + 8, G + 8], 1)
    columns = np.stack([2 * T, 2 * T + 1, 2 * T, 2 * T + 1], 1)
    return (product[..., rows, columns] + c).astype(np.float32)
