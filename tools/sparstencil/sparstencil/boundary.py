"""What a point beyond the edge is worth. Names and meanings are scipy.ndimage's, and two more.

A rule is one for all axes or one an axis. Index rules (nearest, reflect, mirror, wrap) and `constant` are a table of source
indices for each axis, −1 for the constant; a point beyond on any constant axis is the constant. `fixed` freezes the points
within reach of the edge, `valid` drops them: neither reads beyond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparstencil.stencil import Stencil
from tenfold_shared import BadInput

Name = Literal["fixed", "constant", "nearest", "reflect", "mirror", "wrap", "valid"]
NAMES: tuple[Name, ...] = ("fixed", "constant", "nearest", "reflect", "mirror", "wrap", "valid")
INSIDE = ("fixed", "valid")  # no value beyond the edge is ever used


@dataclass(frozen=True)
class Boundary:
    """rules: one name an axis. value: of `constant`."""

    rules: tuple[Name, ...]
    value: float = 0.0

    @classmethod
    def parse(cls, text: str, ndim: int) -> Boundary:
        """`wrap`, `constant:1.5`, or one an axis with commas: `wrap,fixed`. Raises BadInput."""
        parts = [part.strip() for part in text.split(",")]
        if len(parts) not in (1, ndim):
            raise BadInput(f"--boundary {text}: {len(parts)} rules; expected one, or {ndim}, one an axis")
        rules: list[Name] = []
        value: float | None = None
        for part in parts:
            name, _, given = part.partition(":")
            if name not in NAMES or (given and name != "constant"):
                raise BadInput(
                    f"--boundary {text}: {part or 'an empty rule'}; expected {', '.join(NAMES).replace('constant', 'constant:VALUE')}"
                )
            if name == "constant":
                try:
                    mine = float(given or 0)
                except ValueError:
                    raise BadInput(f"--boundary {part}: {given!r} is no number") from None
                if not math.isfinite(mine):
                    raise BadInput(f"--boundary {part}: expected a finite number")
                if value is not None and value != mine:
                    raise BadInput(f"--boundary {text}: constants {value!r} and {mine!r}; one value serves all axes")
                value = mine
            rules.append(name)
        if len(rules) == 1:
            rules *= ndim
        if "valid" in rules and set(rules) != {"valid"}:
            raise BadInput(f"--boundary {text}: valid shrinks the grid, and is a rule of all axes or of none")
        return cls(tuple(rules), value or 0.0)

    def __str__(self) -> str:
        names = [f"constant:{self.value!r}" if rule == "constant" else rule for rule in self.rules]
        return names[0] if len(set(names)) == 1 else ",".join(names)

    def check(self, shape: tuple[int, ...], stencil: Stencil, steps: int = 1) -> None:
        """Raises BadInput where the grid is too small for the rule or has another number of axes."""
        if len(shape) != stencil.ndim:
            raise BadInput(
                f"a grid of {len(shape)} axes {shape} and a stencil of {stencil.ndim}: expected the same number, or one more, of a batch"
            )
        if len(self.rules) != stencil.ndim:
            raise BadInput(f"--boundary {self}: {len(self.rules)} rules for {stencil.ndim} axes")
        for axis, (rule, n, low, high) in enumerate(zip(self.rules, shape, stencil.lo, stencil.hi, strict=True)):
            if n == 0:
                raise BadInput(f"the grid is empty: shape {shape}")
            if rule in INSIDE and n < high - low + 1:
                raise BadInput(
                    f"axis {axis} of the grid has {n} points; the stencil spans {high - low + 1}, more than {rule} allows"
                )
            if rule == "valid" and n < max(1, steps) * (high - low) + 1:
                raise BadInput(
                    f"axis {axis} of the grid has {n} points; {steps} steps with valid take {steps * (high - low)}"
                )
            if rule not in INSIDE and rule != "wrap" and max(high, -low) > n:
                raise BadInput(
                    f"axis {axis} of the grid has {n} points; the stencil reaches {max(high, -low)} beyond an edge"
                )

    def sources(self, axis: int, n: int, low: int, high: int) -> np.ndarray:
        """Source index of places low … n − 1 + high of an axis of n points, int32; −1 for the constant, and for what
        `fixed` and `valid` never use."""
        return sources_of(self.rules[axis], np.arange(low, n + high), n)

    def ring(self, shape: tuple[int, ...], stencil: Stencil, axis: int) -> tuple[int, int]:
        """First and last + 1 of an axis that a step changes (`fixed`), or that its result has (`valid`)."""
        if self.rules[axis] in INSIDE:
            return -stencil.lo[axis], shape[axis] - stencil.hi[axis]
        return 0, shape[axis]


def sources_of(rule: Name, at: np.ndarray, n: int) -> np.ndarray:
    """Of places `at` of an axis of n points: int32, −1 for the constant and for what `fixed` and `valid` never use."""
    if rule == "wrap":
        out = at % n
    elif rule == "nearest":
        out = at.clip(0, n - 1)
    elif rule == "reflect":  # (d c b a | a b c d | d c b a)
        out = at % (2 * n)
        out = np.where(out < n, out, 2 * n - 1 - out)
    elif rule == "mirror":  # (d c b | a b c d | c b a)
        out = at % max(1, 2 * n - 2)
        out = np.where(out < n, out, 2 * n - 2 - out)
    else:
        out = np.where((at >= 0) & (at < n), at, -1)
    return out.astype(np.int32)


def padded(grid: np.ndarray, boundary: Boundary, low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    """The grid with what lies −low before and high after it along each axis."""
    out = grid
    outside = np.zeros((), dtype=bool)
    for axis, n in enumerate(grid.shape):
        table = boundary.sources(axis, n, low[axis], high[axis])
        out = out.take(table.clip(0), axis=axis)
        shape = [1] * grid.ndim
        shape[axis] = len(table)
        outside = outside | (table < 0).reshape(shape)
    return np.where(outside, np.asarray(boundary.value, dtype=grid.dtype), out) if outside.any() else out
