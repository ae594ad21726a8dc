"""What a stencil is: offsets and weights, u'(x) = Σ_s w_s u(x + s), and the four ways to write one down.

Nothing here knows how a stencil is applied. A correlation, as scipy.ndimage.correlate: no flip.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import math
import re
import sys
import tomllib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparstencil.grid import UNREADABLE
from tenfold_shared import BadInput

Offset = tuple[int, ...]
FARTHEST = 1 << 16  # of an offset: what is beyond it is a slip of the pen


@dataclass(frozen=True)
class Stencil:
    """offsets, sorted and each once, and their weights, none of them 0. radii: lo ≤ 0 and hi ≥ 0 of each axis, so that a
    one-sided stencil still reads its own point's place."""

    offsets: tuple[Offset, ...]
    weights: tuple[float, ...]
    name: str = field(default="", compare=False)

    @classmethod
    def of(cls, terms: dict[Offset, float], name: str = "") -> Stencil:
        """From weights by offset. Raises BadInput for none, NaN, infinity, or more than three axes; zeros are dropped."""
        if not terms:
            raise BadInput("the stencil has no weights")
        axes = {len(offset) for offset in terms}
        if len(axes) != 1 or not axes <= {1, 2, 3}:
            raise BadInput(
                f"the stencil's offsets have {', '.join(map(str, sorted(axes)))} axes; expected 1, 2 or 3, all alike"
            )
        for offset, weight in terms.items():
            if not math.isfinite(weight):
                raise BadInput(f"the weight at offset {list(offset)} is {weight}; expected a finite number")
        zeros = [offset for offset, weight in terms.items() if weight == 0.0]
        if len(zeros) == len(terms):
            raise BadInput("every weight of the stencil is 0")
        if zeros:
            warnings.warn(f"{len(zeros)} weights are exactly 0: their points count as absent", stacklevel=3)
        kept = sorted((offset, float(weight)) for offset, weight in terms.items() if weight != 0.0)
        return cls(tuple(o for o, _ in kept), tuple(w for _, w in kept), name)

    @classmethod
    def dense(cls, array: Any, origin: tuple[int, ...] | None = None, name: str = "") -> Stencil:
        """From an array of weights whose point itself is at `origin`, the middle by default. Raises BadInput for an extent
        that is even and no origin."""
        weights = np.asarray(array, dtype=np.float64)
        if weights.size == 0 or weights.ndim not in (1, 2, 3):
            raise BadInput(f"weights of shape {weights.shape}: expected 1 to 3 axes, none of them empty")
        if origin is None:
            even = [n for n in weights.shape if n % 2 == 0]
            if even:
                raise BadInput(
                    f"weights of shape {weights.shape} have no middle; say which entry is the point itself with --origin"
                )
            origin = tuple(n // 2 for n in weights.shape)
        if len(origin) != weights.ndim:
            raise BadInput(
                f"--origin {','.join(map(str, origin))}: expected {weights.ndim} numbers, one an axis of the weights"
            )
        if not all(0 <= o < n for o, n in zip(origin, weights.shape, strict=True)):
            raise BadInput(
                f"--origin {','.join(map(str, origin))}: no entry of weights of shape {weights.shape}, counted from 0"
            )
        for at in np.argwhere(~np.isfinite(weights)):
            raise BadInput(f"entry {at.tolist()} of the weights is {weights[tuple(at)]}; expected a finite number")
        terms = {
            tuple(int(i) - o for i, o in zip(at, origin, strict=True)): float(weights[tuple(at)])
            for at in np.argwhere(weights != 0)
        }
        return cls.of(terms, name)

    # ------------------------------------------------------------ measures

    @property
    def ndim(self) -> int:
        return len(self.offsets[0])

    @property
    def points(self) -> int:
        """P = |S|."""
        return len(self.offsets)

    @property
    def lo(self) -> Offset:
        return tuple(min(0, *(o[a] for o in self.offsets)) for a in range(self.ndim))

    @property
    def hi(self) -> Offset:
        return tuple(max(0, *(o[a] for o in self.offsets)) for a in range(self.ndim))

    @property
    def radius(self) -> int:
        return max(max(-a, b) for a, b in zip(self.lo, self.hi, strict=True))

    @property
    def extents(self) -> Offset:
        """k_a: of the bounding box of the offsets themselves."""
        return tuple(max(o[a] for o in self.offsets) - min(o[a] for o in self.offsets) + 1 for a in range(self.ndim))

    @property
    def total(self) -> float:
        """Σ w."""
        return math.fsum(self.weights)

    @property
    def gain(self) -> float:
        """Σ |w|: no value grows by more in one step."""
        return math.fsum(map(abs, self.weights))

    def array(self) -> np.ndarray:
        """Weights over the box lo … hi, float64; the point itself is at −lo."""
        out = np.zeros([h - low + 1 for low, h in zip(self.lo, self.hi, strict=True)])
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            out[tuple(o - low for o, low in zip(offset, self.lo, strict=True))] = weight
        return out

    def symbol(self, *waves: Any) -> np.ndarray:
        """ŵ(k) = Σ w_s e^{i k·s} at angles k a point, one array an axis, broadcast."""
        return sum(
            (w * np.exp(1j * sum(k * o for k, o in zip(waves, offset, strict=True))) for offset, w in zip(self.offsets, self.weights, strict=True)),
            np.zeros(()),
        )  # fmt: skip

    def growth(self) -> float:
        """max |ŵ| over 64 angles an axis (32 in 3D): how much the worst wave grows in a step."""
        count = 64 if self.ndim < 3 else 32
        angles = 2 * np.pi * np.arange(count) / count
        return float(np.abs(self.symbol(*np.meshgrid(*[angles] * self.ndim, indexing="ij"))).max())

    @property
    def key(self) -> str:
        """Names the stencil by what it does."""
        text = json.dumps([self.offsets, [w.hex() for w in self.weights]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # ------------------------------------------------------------ others from it

    def flipped(self) -> Stencil:
        """With s ↦ −s: convolution in place of correlation."""
        terms = {tuple(-x for x in o): w for o, w in zip(self.offsets, self.weights, strict=True)}
        return Stencil.of(terms, self.name)

    def then(self, other: Stencil) -> Stencil:
        """Both, one after the other, away from any boundary; sums in float64, exactly rounded."""
        parts: dict[Offset, list[float]] = {}
        for (a, v), (b, w) in itertools.product(
            zip(self.offsets, self.weights, strict=True), zip(other.offsets, other.weights, strict=True)
        ):
            parts.setdefault(tuple(x + y for x, y in zip(a, b, strict=True)), []).append(v * w)
        terms = {offset: math.fsum(values) for offset, values in parts.items()}
        return Stencil.of({offset: weight for offset, weight in terms.items() if weight != 0.0})

    def power(self, steps: int) -> Stencil:
        """w^{*t}: t steps as one, away from any boundary."""
        if steps < 1:
            raise ValueError(f"a power of {steps}: expected at least 1")
        out = self
        for _ in range(steps - 1):
            out = out.then(self)
        return Stencil(out.offsets, out.weights, f"{self.name}^{steps}" if self.name and steps > 1 else self.name)

    def increment(self) -> Stencil | None:
        """L = w − 1 at the point itself, so that u' = u + L u; None for a stencil that is one of the identity."""
        here = (0,) * self.ndim
        terms = dict(zip(self.offsets, self.weights, strict=True))
        terms[here] = math.fsum([terms.get(here, 0.0), -1.0])
        terms = {offset: weight for offset, weight in terms.items() if weight != 0.0}
        return Stencil.of(terms, self.name) if terms else None


# ---------------------------------------------------------------- reading


def read(text: str, origin: tuple[int, ...] | None = None) -> Stencil:
    """The stencil that `--stencil` names: one of the suite, a file of weights (.npy), of offsets and weights (.json,
    .toml), or a formula in u[…]. Raises BadInput."""
    from sparstencil.suite import named

    suffix = Path(text).suffix.lower()
    if origin is not None and suffix != ".npy":
        raise BadInput(f"--origin: {text} says itself where its point is; --origin is for weights.npy")
    if re.search(r"\bu\s*(\[|[-+*/)]|$)", text):
        return formula(text)
    if suffix in (".npy", ".json", ".toml"):
        if not Path(text).is_file():
            raise BadInput(
                f"{text}: is a directory; expected a file" if Path(text).is_dir() else f"{text}: no such file"
            )
        if suffix == ".npy":
            try:
                weights = np.load(text, allow_pickle=False)
            except UNREADABLE as error:
                raise BadInput(f"{text}: not an array of weights ({error})") from error
            if not isinstance(weights, np.ndarray):
                raise BadInput(f"{text}: an archive of arrays; expected a .npy file of one")
            if weights.dtype.kind not in "fiub":
                raise BadInput(f"{text}: weights of type {weights.dtype}; expected real numbers")
            return _told(text, lambda: Stencil.dense(weights, origin, Path(text).stem))
        return _told(text, lambda: _offsets(text))
    return named(text)


def _told(path: str, make: Any) -> Stencil:
    try:
        return make()
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def _offsets(path: str) -> Stencil:
    """{ndim, offsets, weights, name} as JSON or TOML."""
    try:
        raw = Path(path).read_text(encoding="utf-8")
        given = tomllib.loads(raw) if path.lower().endswith(".toml") else json.loads(raw)
    except UnicodeDecodeError as error:
        raise BadInput(f"expected UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not {'TOML' if path.lower().endswith('.toml') else 'JSON'}: {error}") from error
    if not isinstance(given, dict) or not {"offsets", "weights"} <= set(given):
        raise BadInput("expected an object with offsets and weights")
    offsets, weights = given["offsets"], given["weights"]
    if not isinstance(offsets, list) or not isinstance(weights, list) or len(offsets) != len(weights):
        raise BadInput("offsets and weights: expected two lists of the same length")
    ndim = given.get("ndim")
    if ndim is not None and (isinstance(ndim, bool) or not isinstance(ndim, int)):
        raise BadInput(f"ndim: {ndim!r}; expected a whole number")
    terms: dict[Offset, float] = {}
    twice = 0
    for at, (offset, weight) in enumerate(zip(offsets, weights, strict=True)):
        place = (offset,) if isinstance(offset, int) else offset
        if not isinstance(place, list | tuple) or not all(
            isinstance(x, int) and not isinstance(x, bool) for x in place
        ):
            raise BadInput(f"offsets[{at}]: {offset!r}; expected a list of whole numbers")
        if any(abs(x) > FARTHEST for x in place):
            raise BadInput(f"offsets[{at}]: {offset!r}; expected numbers from −{FARTHEST} to {FARTHEST}")
        if ndim is not None and len(place) != ndim:
            raise BadInput(f"offsets[{at}]: {len(place)} numbers; expected {ndim} (ndim)")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise BadInput(f"weights[{at}]: {weight!r}; expected a number")
        if abs(weight) > sys.float_info.max or weight != weight:  # whole numbers may be larger than any float
            raise BadInput(f"weights[{at}] is {str(weight)[:40]}; expected a finite number")
        twice += tuple(place) in terms
        terms[tuple(place)] = terms.get(tuple(place), 0.0) + float(weight)
    if twice:
        warnings.warn(f"{path}: {twice} offsets stand twice; their weights are added", stacklevel=2)
    name = str(given.get("name", Path(path).stem)).encode("utf-8", "replace").decode()
    return Stencil.of(terms, name)


def formula(text: str) -> Stencil:
    """A sum like 0.25*(u[-1,0] + u[1,0]): numbers, + − * /, and u at whole offsets. Raises BadInput for anything else,
    naming it. Parsed, never evaluated."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        where = f" at character {error.offset}" if isinstance(error, SyntaxError) else ""
        raise BadInput(f"formula: {getattr(error, 'msg', error)}{where}") from error
    except (RecursionError, MemoryError):
        raise BadInput(f"formula: too many terms one in another ({len(text)} characters); {_FILE}") from None
    try:
        constant, terms = _linear(tree.body, text)
    except RecursionError:
        raise BadInput(f"formula: too many terms one in another ({len(text)} characters); {_FILE}") from None
    except OverflowError:
        raise BadInput("formula: a number is larger than any float") from None
    if any(abs(x) > FARTHEST for offset in terms for x in offset):
        raise BadInput(f"formula: an offset beyond {FARTHEST}")
    if any(not math.isfinite(weight) for weight in terms.values()):
        raise BadInput("formula: a weight that is no finite number")
    if constant != 0.0:
        raise BadInput(f"formula: the constant {constant} stands beside u; expected a sum of multiples of u[…] alone")
    return Stencil.of(terms, "formula")


Linear = tuple[float, dict[Offset, float]]
_INSTEAD = "expected a linear sum with constant coefficients (no back end, cuda-core neither, takes another)"
_FILE = "write it as stencil.json, offsets and weights"


def _linear(node: ast.AST, text: str) -> Linear:
    """A part of the formula as a constant and multiples of u."""

    def told(why: str) -> BadInput:
        return BadInput(f"formula: {ast.get_source_segment(text.strip(), node) or '?'}: {why}; {_INSTEAD}")

    match node:
        case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value), {}
        case ast.Subscript(value=ast.Name(id="u"), slice=where):
            places = where.elts if isinstance(where, ast.Tuple) else [where]
            return 0.0, {tuple(_whole(place, told) for place in places): 1.0}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=inner):
            constant, terms = _linear(inner, text)
            return (constant, terms) if isinstance(op, ast.UAdd) else _times(-1.0, (constant, terms))
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            a, b = _linear(left, text), _linear(right, text)
            b = b if isinstance(op, ast.Add) else _times(-1.0, b)
            return a[0] + b[0], {k: a[1].get(k, 0.0) + b[1].get(k, 0.0) for k in a[1] | b[1]}
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            a, b = _linear(left, text), _linear(right, text)
            if a[1] and b[1]:
                raise told("a product of two values of u is not linear")
            return _times(a[0], b) if not a[1] else _times(b[0], a)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            a, b = _linear(left, text), _linear(right, text)
            if b[1]:
                raise told("a division by u is not linear")
            if b[0] == 0.0:
                raise told("a division by 0")
            return a[0] / b[0], {k: w / b[0] for k, w in a[1].items()}
        case ast.Name(id=name):
            raise told(
                f"{name} is no number: a coefficient that varies cannot be a weight"
                if name != "u"
                else "u without its offset"
            )
        case ast.Subscript(value=ast.Name(id=name)):
            raise told(f"{name}[…] is another array than u: coefficients that vary cannot be weights")
    raise told("not one of numbers, + - * / and u[…]")


def _times(factor: float, of: Linear) -> Linear:
    return factor * of[0], {k: factor * w for k, w in of[1].items()}


def _whole(node: ast.AST, told: Any) -> int:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
            return -value
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() as value)):
            return value
    raise told("an offset that is no whole number")
