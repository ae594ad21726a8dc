"""How a thread block covers the grid: its patches, its tile in shared memory, and where everything lies in it, for the
emulator and for ranking plans. Emitted kernels refine it: cuda_plan.Placed, a Geometry whose rows begin at 16-byte
boundaries, is where the CUDA sources take their numbers from, and the emulator runs that too.

A block computes patches_a tiles along each axis, a multiple of eight along the last one: a column of an instruction is a
patch, and eight neighbours along the last axis are its N. Its tile in shared memory holds the outputs' places and a halo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparstencil.boundary import Boundary
from sparstencil.program import Program
from sparstencil.stencil import Offset

SHARED = 96 * 1024  # bytes of one block's tile at most: two blocks of them fit an A100's multiprocessor, two an H100's
OUTPUTS = {1: (4096,), 2: (32, 128), 3: (4, 16, 64)}  # of a block, about


@dataclass(frozen=True)
class Geometry:
    """patches of each axis; extents: places of the tile in shared memory along each axis, the last one with its pad."""

    program: Program
    patches: Offset
    extents: Offset

    @property
    def tile(self) -> Offset:
        return self.program.layout.tile

    @property
    def block(self) -> Offset:
        """Outputs of a block along each axis."""
        return tuple(p * r for p, r in zip(self.patches, self.tile, strict=True))

    @property
    def strides(self) -> Offset:
        """Entries from a place to the next along each axis."""
        return tuple(math.prod(self.extents[a + 1 :]) for a in range(len(self.extents)))

    @property
    def places(self) -> int:
        """Entries of the tile in shared memory, of one plane."""
        return math.prod(self.extents)

    @property
    def origin(self) -> int:
        """Where the block's first output lies in the tile."""
        lo = self.program.layout.stencil.lo
        return sum(-low * s for low, s in zip(lo, self.strides, strict=True))

    @property
    def n_tiles(self) -> int:
        """Instructions' widths of eight patches in a block."""
        return math.prod(self.patches) // 8

    def n_origins(self) -> np.ndarray:
        """(n_tiles,) int32: where the first output of each eight patches lies."""
        steps = [*self.patches[:-1], self.patches[-1] // 8]
        widths = [*self.tile[:-1], 8 * self.tile[-1]]
        grids = np.meshgrid(
            *(np.arange(n) * w * s for n, w, s in zip(steps, widths, self.strides, strict=True)), indexing="ij"
        )
        return (self.origin + np.sum(grids, axis=0)).reshape(-1).astype(np.int32)

    def offsets(self) -> np.ndarray:
        """(K,) int32 places of the K slots beside a patch's first output."""
        return self.program.offsets(self.strides)

    def sources(self, boundary: Boundary, shape: tuple[int, ...]) -> list[np.ndarray]:
        """For each axis the source index of every place that some block's tile has, int32; −1 for the constant and beyond
        what is used [2.6 a]. Entry i of an axis is place i + lo."""
        found = []
        for axis, (n, count) in enumerate(zip(shape, self.blocks(shape), strict=True)):
            low, high = self.program.layout.stencil.lo[axis], self.program.layout.stencil.hi[axis]
            table = boundary.sources(axis, n, low, high)
            whole = np.full((count - 1) * self.block[axis] + self.extents[axis], -1, dtype=np.int32)
            whole[: len(table)] = table[: len(whole)]
            found.append(whole)
        return found

    def blocks(self, shape: tuple[int, ...]) -> Offset:
        """Blocks along each axis."""
        return tuple(math.ceil(n / b) for n, b in zip(shape, self.block, strict=True))


def fit(program: Program, bytes_a_place: int, limit: int = SHARED) -> Geometry:
    """A block of about OUTPUTS outputs whose tile fits; smaller where the halo is wide. bytes_a_place: of all planes."""
    stencil, tile = program.layout.stencil, program.layout.tile
    goal = list(OUTPUTS[stencil.ndim])
    while True:
        patches = [max(1, round(g / r)) for g, r in zip(goal, tile, strict=True)]
        patches[-1] = max(8, 8 * round(goal[-1] / tile[-1] / 8))
        extents = [p * r + h - low for p, r, low, h in zip(patches, tile, stencil.lo, stencil.hi, strict=True)]
        extents[-1] = _pitch(extents, program)
        found = Geometry(program, tuple(patches), tuple(extents))
        widest = max(range(stencil.ndim), key=lambda a: goal[a] / tile[a] / (8 if a == stencil.ndim - 1 else 1))
        if found.places * bytes_a_place <= limit or goal[widest] <= tile[widest]:
            return found
        goal[widest] //= 2


def _pitch(extents: list[int], program: Program) -> int:
    """The last axis's extent, filled up so that the loads of a register of B hit the most banks at once: places that a warp
    reads together are those of four slots pairs and eight patches."""
    size = program.steps[0].form.size
    word = 4 // size if size < 4 else 1
    least = extents[-1] + -extents[-1] % max(word, 1)
    if len(extents) == 1:
        return least
    best, fewest = least, None
    for pitch in range(least, least + 33, word):
        strides = [math.prod([*extents[a + 1 : -1], pitch]) for a in range(len(extents) - 1)] + [1]
        ways = _conflicts(program, tuple(strides))
        if fewest is None or ways < fewest:
            best, fewest = pitch, ways
    return best


def _conflicts(program: Program, strides: tuple[int, ...]) -> int:
    """Shared-memory passes of all registers of B, one an instruction's load at best."""
    offsets = program.offsets(strides)
    offsets = offsets - offsets.min()
    total = 0
    for step in program.steps:
        row, column = step.form.b_places()
        at = offsets[step.first + row[:, :, 0]] + column[:, :, 0] * program.layout.tile[-1]
        words = at * step.form.size // 4
        for register in range(words.shape[1]):
            banks = np.unique(words[:, register])
            total += int(np.bincount(banks % 32).max())
    return total
