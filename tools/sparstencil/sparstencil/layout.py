"""Flatten and crush: a tile of outputs is one matrix of weights times a column of inputs.

Row o of A is an output of the tile, column c a place that some output reads: A[o, c] = w_{c−o}. Outputs of one tile share the
inputs that their patches have in common. A is a staircase in 1D, a staircase of staircases in more dimensions.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from sparstencil.stencil import Offset, Stencil
from tenfold_shared import BadInput


@dataclass(frozen=True)
class Layout:
    """A stencil and a tile r of outputs.

    outputs (M): places o of the tile, the first axis fastest: with a tile (8, 2) rows g and g + 8 of an instruction are
    neighbours along x. columns (n): places c in lexicographic order; what no output reads is left out."""

    stencil: Stencil
    tile: Offset

    def __post_init__(self) -> None:
        if len(self.tile) != self.stencil.ndim or min(self.tile) < 1:
            raise BadInput(
                f"--tile {'x'.join(map(str, self.tile))}: expected {self.stencil.ndim} sizes of at least 1, one an axis of the stencil"
            )

    @functools.cached_property
    def outputs(self) -> list[Offset]:
        return [tuple(reversed(o)) for o in itertools.product(*(range(r) for r in reversed(self.tile)))]

    @functools.cached_property
    def columns(self) -> list[Offset]:
        return sorted({_add(o, s) for o in self.outputs for s in self.stencil.offsets})

    @property
    def rows(self) -> int:
        """M."""
        return math.prod(self.tile)

    @property
    def n(self) -> int:
        return len(self.columns)

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """A (M, n) float64."""
        at = {c: j for j, c in enumerate(self.columns)}
        out = np.zeros((self.rows, self.n))
        for i, o in enumerate(self.outputs):
            for s, w in zip(self.stencil.offsets, self.stencil.weights, strict=True):
                out[i, at[_add(o, s)]] = w
        return out

    @functools.cached_property
    def support(self) -> np.ndarray:
        """(n, M) bool: which outputs read a column."""
        return (self.matrix != 0).T.copy()

    @property
    def bound(self) -> int:
        """The fewest groups of four columns: a row has P entries and two places a group."""
        return max(math.ceil(self.stencil.points / 2), math.ceil(self.n / 4))


def _add(a: Offset, b: Offset) -> Offset:
    return tuple(x + y for x, y in zip(a, b, strict=True))
