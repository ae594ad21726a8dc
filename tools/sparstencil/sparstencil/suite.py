"""79 stencils of 26 fields (our own list: the paper's is not published): id, name, field, weights.

Weights are the standard coefficients of each scheme. `star-*` and `box-*` are drawn at random from a fixed seed, so that
nothing about them is symmetric, with Σ |w| = 1. The last axis is x, the one before it y, the first of three z.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sparstencil.stencil import Offset, Stencil
from tenfold_shared import BadInput

Terms = dict[Offset, float]


class Kernel(NamedTuple):
    """A row of the suite. points and radius are what the list says; the stencil has them (a test)."""

    id: int
    name: str
    ndim: int
    radius: int
    points: int
    field: str
    terms: Callable[[], Terms]
    integer: bool = False

    @property
    def stencil(self) -> Stencil:
        return _stencil(self.name)


# ---------------------------------------------------------------- pieces

D1 = {2: [0.5], 4: [2 / 3, -1 / 12], 6: [3 / 4, -3 / 20, 1 / 60], 8: [4 / 5, -1 / 5, 4 / 105, -1 / 280]}
D2 = {
    2: [-2.0, 1.0],
    4: [-5 / 2, 4 / 3, -1 / 12],
    6: [-49 / 18, 3 / 2, -3 / 20, 1 / 90],
    8: [-205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560],
    10: [-5269 / 1800, 5 / 3, -5 / 21, 5 / 126, -5 / 1008, 1 / 3150],
}  # fmt: skip


def _line(values: list[float], first: int = 0, axis: int = 0, ndim: int = 1) -> Terms:
    """Weights along one axis from offset `first` on; zeros are left out."""
    out = {}
    for at, value in enumerate(values, first):
        place = [0] * ndim
        place[axis] = at
        if value:
            out[tuple(place)] = value
    return out


def _first(order: int, axis: int = 0, ndim: int = 1) -> Terms:
    half = D1[order]
    return _line([-w for w in reversed(half)] + [0.0, *half], -len(half), axis, ndim)


def _second(order: int, axis: int = 0, ndim: int = 1) -> Terms:
    half = D2[order]
    return _line([*reversed(half[1:]), *half], 1 - len(half), axis, ndim)


def _laplacian(order: int, ndim: int) -> Terms:
    return _sum(*(_second(order, axis, ndim) for axis in range(ndim)))


def _sum(*parts: Terms) -> Terms:
    out: Terms = {}
    for part in parts:
        for offset, weight in part.items():
            out[offset] = out.get(offset, 0.0) + weight
    return out


def _scaled(factor: float, terms: Terms) -> Terms:
    return {offset: factor * weight for offset, weight in terms.items()}


def _step(rate: float, terms: Terms) -> Terms:
    """u + rate · L u."""
    ndim = len(next(iter(terms)))
    return _sum({(0,) * ndim: 1.0}, _scaled(rate, terms))


def _outer(*lines: list[float]) -> Terms:
    """The product of lines about their middles."""
    out = {}
    for place in itertools.product(*(range(len(line)) for line in lines)):
        weight = math.prod(line[i] for line, i in zip(lines, place, strict=True))
        if weight:
            out[tuple(i - len(line) // 2 for line, i in zip(lines, place, strict=True))] = weight
    return out


def _matrix(rows: list[list[float]]) -> Terms:
    array = np.array(rows, dtype=float)
    middle = [n // 2 for n in array.shape]
    return {
        tuple(int(i) - m for i, m in zip(at, middle, strict=True)): float(array[tuple(at)]) for at in np.argwhere(array)
    }


def _by_kind(ndim: int, weights: list[float]) -> Terms:
    """A 3^ndim box by how many offsets differ from 0: weights[0] the point itself, [1] faces, [2] edges, [3] corners."""
    box = itertools.product((-1, 0, 1), repeat=ndim)
    return {o: weights[sum(map(abs, o))] for o in box if sum(map(abs, o)) < len(weights) and weights[sum(map(abs, o))]}


def _power(terms: Terms, steps: int) -> Terms:
    made = Stencil.of(terms).power(steps)
    return dict(zip(made.offsets, made.weights, strict=True))


def _random(places: list[Offset], seed: int) -> Terms:
    """Of magnitude .25 to 1 and either sign, then Σ |w| = 1."""
    draw = np.random.default_rng(seed)
    values = draw.uniform(0.25, 1.0, len(places)) * draw.choice([-1.0, 1.0], len(places))
    values /= np.abs(values).sum()
    return dict(zip(places, map(float, values), strict=True))


def _star(ndim: int, radius: int, seed: int) -> Terms:
    arms = [
        tuple(d if a == axis else 0 for a in range(ndim))
        for axis in range(ndim)
        for d in range(-radius, radius + 1)
        if d
    ]
    return _random([(0,) * ndim, *arms], seed)


def _box(ndim: int, radius: int, seed: int) -> Terms:
    return _random(list(itertools.product(range(-radius, radius + 1), repeat=ndim)), seed)


def _gauss(radius: int, sigma: float, ndim: int) -> Terms:
    line = [math.exp(-(i * i) / (2 * sigma * sigma)) for i in range(-radius, radius + 1)]
    return _outer(*[[w / sum(line) for w in line]] * ndim)


# ---------------------------------------------------------------- schemes with a body


def _savgol() -> Terms:
    """Quadratic smoothing over 11 points."""
    half = [89, 84, 69, 44, 9, -36]
    return _line([w / 429 for w in [*reversed(half[1:]), *half]], -5)


def _fir() -> Terms:
    """A low pass of 15 taps, cut at .31 of the sampling rate, Hamming window."""
    taps = [2 * 0.31 * np.sinc(2 * 0.31 * n) * (0.54 + 0.46 * math.cos(math.pi * n / 7)) for n in range(-7, 8)]
    return _line([float(t / sum(taps)) for t in taps], -7)


def _cross(radius: int) -> Terms:
    arms = [(s * d, t * d) for d in range(1, radius + 1) for s in (-1, 1) for t in (-1, 1)]
    return {(0, 0): 0.5, **{o: 0.5 / len(arms) for o in arms}}


def _aniso_2d() -> Terms:
    """Diffusion by the tensor [[.2, .07], [.07, .1]] with a drift, so that it is not symmetric."""
    xy: Terms = {(a, b): 0.25 * a * b for a in (-1, 1) for b in (-1, 1)}
    terms = _step(1.0, _sum(_scaled(0.2, _second(2, 0, 2)), _scaled(0.1, _second(2, 1, 2)), _scaled(0.14, xy)))
    return _sum(terms, _scaled(0.03, _first(2, 0, 2)), _scaled(-0.02, _first(2, 1, 2)))


def _aniso_3d() -> Terms:
    """The same with faces and edges of a cube."""
    parts = [_scaled(rate, _second(2, axis, 3)) for axis, rate in enumerate((0.1, 0.08, 0.06))]
    for (a, b), rate in zip(((0, 1), (0, 2), (1, 2)), (0.03, -0.02, 0.04), strict=True):
        mixed = {}
        for s, t in itertools.product((-1, 1), repeat=2):
            place = [0, 0, 0]
            place[a], place[b] = s, t
            mixed[tuple(place)] = 0.25 * s * t * rate
        parts.append(mixed)
    drift = [_scaled(rate, _first(2, axis, 3)) for axis, rate in enumerate((0.02, -0.01, 0.015))]
    return _sum(_step(1.0, _sum(*parts)), *drift)


def _arakawa() -> Terms:
    """Arakawa's Jacobian with a stream function that is linear: antisymmetric, the point itself absent."""
    across = {0: 1 / 3, 1: 1 / 12, -1: 1 / 12}
    flow = (0.6, 1.0)
    box = [o for o in itertools.product((-1, 0, 1), repeat=2) if o != (0, 0)]
    return {(a, b): flow[0] * a * across[b] + flow[1] * b * across[a] for a, b in box}


def _log5() -> Terms:
    """Laplacian of a Gaussian with 2 σ² = 5, whose zero runs through the eight knight's moves: 17 of 25 points are left."""
    box = itertools.product(range(-2, 3), repeat=2)
    near = {o: o[0] ** 2 + o[1] ** 2 for o in box}
    return {o: (r - 5) / 25 * math.exp(-r / 5) for o, r in near.items() if r != 5}


def _unsharp() -> Terms:
    blur = _scaled(-1 / 256, _outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]))
    return _sum({(0, 0): 2.0}, blur)


def _gabor() -> Terms:
    """Wave of length 5 at 30 degrees under a Gaussian, σ 2."""
    box = itertools.product(range(-3, 4), repeat=2)
    turn = math.radians(30)
    return {
        (y, x): math.exp(-(x * x + y * y) / 8)
        * math.cos(2 * math.pi * (x * math.cos(turn) + y * math.sin(turn)) / 5 + 0.3)
        for y, x in box
    }


def _biharmonic(ndim: int) -> Terms:
    plain = Stencil.of(_laplacian(2, ndim))
    twice = plain.then(plain)
    return dict(zip(twice.offsets, twice.weights, strict=True))


def _hdiff(ndim: int) -> Terms:
    """u − c ∇⁴ u in the horizontal plane."""
    plane = _step(-0.02, _biharmonic(2))
    return plane if ndim == 2 else {(0, *o): w for o, w in plane.items()}


def _himeno() -> Terms:
    """The pressure solver's 19 points: faces, edges with mixed derivatives, and the point itself."""
    faces = {o: 1 / 8 + 0.01 * sum(o) for o in _by_kind(3, [0, 1]) if sum(map(abs, o)) == 1}
    edges = {o: 0.02 * math.prod(x for x in o if x) for o in _by_kind(3, [0, 0, 1])}
    return {(0, 0, 0): 0.2, **faces, **edges}


HEAT_2D: Terms = _step(0.125, _laplacian(2, 2))

_ROWS: list[tuple[str, int, int, int, str, Callable[[], Terms]]] = [
    ("heat-1d", 1, 1, 3, "thermal", lambda: _step(0.25, _second(2))),
    ("1d5p", 1, 2, 5, "finite differences", lambda: _step(0.2, _second(4))),
    ("1d7p", 1, 3, 7, "finite differences", lambda: _step(0.2, _second(6))),
    ("1d9p", 1, 4, 9, "finite differences", lambda: _step(0.2, _second(8))),
    ("1d11p", 1, 5, 11, "finite differences", lambda: _step(0.2, _second(10))),
    ("upwind-1d", 1, 1, 2, "advection", lambda: _line([0.4, 0.6], -1)),
    ("lax-wendroff-1d", 1, 1, 3, "advection", lambda: _line([0.28, 0.84, -0.12], -1)),
    ("quick-1d", 1, 2, 4, "advection", lambda: _sum({(0,): 1.0}, _scaled(-0.3, _line([1 / 8, -7 / 8, 3 / 8, 3 / 8], -2)))),
    ("d1-o6-1d", 1, 3, 6, "fluid dynamics", lambda: _first(6)),
    ("d2-o4-1d", 1, 2, 5, "acoustics", lambda: _second(4)),
    ("d2-o8-1d", 1, 4, 9, "acoustics", lambda: _second(8)),
    ("kdv-d3-1d", 1, 2, 4, "dispersive waves", lambda: _line([-0.5, 1.0, 0.0, -1.0, 0.5], -2)),
    ("savgol-11-1d", 1, 5, 11, "signals", _savgol),
    ("fir-15-1d", 1, 7, 15, "signals", _fir),
    ("heat-2d", 2, 1, 5, "thermal", lambda: HEAT_2D),
    ("star-2d9p", 2, 2, 9, "finite differences", lambda: _star(2, 2, 16)),
    ("star-2d13p", 2, 3, 13, "finite differences", lambda: _star(2, 3, 17)),
    ("star-2d17p", 2, 4, 17, "finite differences", lambda: _star(2, 4, 18)),
    ("star-2d21p", 2, 5, 21, "finite differences", lambda: _star(2, 5, 19)),
    ("box-2d9p", 2, 1, 9, "boxes", lambda: _box(2, 1, 20)),
    ("box-2d25p", 2, 2, 25, "boxes", lambda: _box(2, 2, 21)),
    ("box-2d49p", 2, 3, 49, "boxes", lambda: _box(2, 3, 22)),
    ("box-2d81p", 2, 4, 81, "boxes", lambda: _box(2, 4, 23)),
    ("box-2d121p", 2, 5, 121, "boxes", lambda: _box(2, 5, 24)),
    ("jacobi-2d5pt", 2, 1, 4, "Poisson", lambda: _by_kind(2, [0, 0.25])),
    ("jacobi-2d9pt", 2, 2, 8, "Poisson", lambda: {o: w / 5 for o, w in _laplacian(4, 2).items() if o != (0, 0)}),
    ("mehrstellen-2d", 2, 1, 9, "Poisson", lambda: _by_kind(2, [-20 / 6, 4 / 6, 1 / 6])),
    ("oono-puri-2d", 2, 1, 9, "phase fields", lambda: _by_kind(2, [-1, 1 / 6, 1 / 12])),
    ("biharmonic-2d", 2, 2, 13, "plates", lambda: _biharmonic(2)),
    ("hdiff-2d", 2, 2, 13, "weather", lambda: _hdiff(2)),
    ("diamond-2d25p", 2, 3, 25, "thermal, 3 steps", lambda: _power(HEAT_2D, 3)),
    ("diamond-2d41p", 2, 4, 41, "thermal, 4 steps", lambda: _power(HEAT_2D, 4)),
    ("cross-x-2d5p", 2, 1, 5, "lattices", lambda: _cross(1)),
    ("cross-x-2d9p", 2, 2, 9, "lattices", lambda: _cross(2)),
    ("upwind-2d", 2, 1, 3, "advection", lambda: {(0, 0): 0.5, (-1, 0): 0.3, (0, -1): 0.2}),
    ("ctu-2d", 2, 1, 4, "advection", lambda: {(a, b): (0.3 if a else 0.7) * (0.2 if b else 0.8) for a in (-1, 0) for b in (-1, 0)}),
    ("aniso-diff-2d", 2, 1, 9, "magnetic resonance", _aniso_2d),
    ("shapiro-2d", 2, 1, 9, "ocean filters", lambda: _outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])),
    ("arakawa-2d", 2, 1, 8, "geophysics", _arakawa),
    ("gauss3-2d", 2, 1, 9, "images", lambda: _gauss(1, 0.85, 2)),
    ("gauss5-2d", 2, 2, 25, "images", lambda: _gauss(2, 1.0, 2)),
    ("gauss7-2d", 2, 3, 49, "images", lambda: _gauss(3, 1.5, 2)),
    ("gauss9-2d", 2, 4, 81, "images", lambda: _gauss(4, 2.0, 2)),
    ("sobel-x", 2, 1, 6, "images", lambda: _outer([1, 2, 1], [-1, 0, 1])),
    ("scharr-y", 2, 1, 6, "images", lambda: _outer([-1, 0, 1], [3, 10, 3])),
    ("log5-2d", 2, 2, 17, "images", _log5),
    ("emboss-2d", 2, 1, 7, "images", lambda: _matrix([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])),
    ("unsharp5-2d", 2, 2, 25, "images", _unsharp),
    ("motion-diag9-2d", 2, 4, 9, "images", lambda: {(d, d): 1 / 9 for d in range(-4, 5)}),
    ("gabor7-2d", 2, 3, 49, "images", _gabor),
    ("life-count-2d", 2, 1, 8, "cellular automata", lambda: _by_kind(2, [0, 1, 1])),
    ("ltl-r5-2d", 2, 5, 120, "cellular automata", lambda: {o: 1.0 for o in itertools.product(range(-5, 6), repeat=2) if o != (0, 0)}),
    ("acoustic-2d-o8", 2, 4, 17, "seismics", lambda: _step(0.1, _laplacian(8, 2))),
    ("heat-3d", 3, 1, 7, "thermal", lambda: _step(0.1, _laplacian(2, 3))),
    ("star-3d13p", 3, 2, 13, "acoustics", lambda: _star(3, 2, 55)),
    ("star-3d19p", 3, 3, 19, "finite differences", lambda: _star(3, 3, 56)),
    ("rtm-3d25p", 3, 4, 25, "seismics", lambda: _step(0.05, _laplacian(8, 3))),
    ("star-3d31p", 3, 5, 31, "finite differences", lambda: _star(3, 5, 58)),
    ("box-3d27p", 3, 1, 27, "boxes", lambda: _box(3, 1, 59)),
    ("box-3d125p", 3, 2, 125, "boxes", lambda: _box(3, 2, 60)),
    ("box-3d343p", 3, 3, 343, "boxes", lambda: _box(3, 3, 61)),
    ("jacobi-3d7pt", 3, 1, 6, "Poisson", lambda: _by_kind(3, [0, 1 / 6])),
    ("poisson-3d19p", 3, 1, 19, "Poisson", lambda: _by_kind(3, [-4, 1 / 3, 1 / 6])),
    ("iso-lap-3d27p", 3, 1, 27, "Poisson", lambda: _by_kind(3, [-128 / 30, 14 / 30, 3 / 30, 1 / 30])),
    ("d3q15", 3, 1, 15, "lattices", lambda: _by_kind(3, [2 / 9, 1 / 9, 0, 1 / 72])),
    ("d3q19", 3, 1, 19, "lattices", lambda: _by_kind(3, [1 / 3, 1 / 18, 1 / 36])),
    ("mg-resid-3d", 3, 1, 21, "multigrid", lambda: _by_kind(3, [-8 / 3, 0, 1 / 6, 1 / 12])),
    ("mg-psinv-3d", 3, 1, 19, "multigrid", lambda: _by_kind(3, [-3 / 8, 1 / 32, -1 / 64])),
    ("himeno-3d", 3, 1, 19, "fluid dynamics", _himeno),
    ("biharmonic-3d25p", 3, 2, 25, "elasticity", lambda: _biharmonic(3)),
    ("upwind-3d", 3, 1, 4, "advection", lambda: {(0, 0, 0): 0.4, (-1, 0, 0): 0.3, (0, -1, 0): 0.2, (0, 0, -1): 0.1}),
    ("d1-o8-x-3d", 3, 4, 8, "fluid dynamics", lambda: _first(8, 2, 3)),
    ("d1-o8-z-3d", 3, 4, 8, "fluid dynamics", lambda: _first(8, 0, 3)),
    ("gauss5-3d", 3, 2, 125, "volumes", lambda: _gauss(2, 1.0, 3)),
    ("bcc-3d9p", 3, 1, 9, "lattices", lambda: _by_kind(3, [0.2, 0, 0, 0.1])),
    ("fcc-3d13p", 3, 1, 13, "lattices", lambda: _by_kind(3, [0.4, 0, 0.05])),
    ("aniso-diff-3d", 3, 1, 19, "magnetic resonance", _aniso_3d),
    ("hdiff-3d", 3, 2, 13, "weather, plane", lambda: _hdiff(3)),
    ("vadv-3d", 3, 2, 5, "weather, column", lambda: _step(-0.2, _sum(_first(4, 0, 3), _scaled(-0.1, _second(4, 0, 3))))),
]  # fmt: skip

SUITE: dict[str, Kernel] = {
    row[0]: Kernel(number, *row, integer=row[0] in ("life-count-2d", "ltl-r5-2d"))
    for number, row in enumerate(_ROWS, 1)
}

# Other codebases' names: ConvStencil's shapes, FlashFFTStencil's benchmarks.
ALIASES = {
    "1d1r": "heat-1d", "1d2r": "1d5p", "star2d1r": "heat-2d", "box2d1r": "box-2d9p", "star2d3r": "star-2d13p",
    "box2d3r": "box-2d49p", "star3d1r": "heat-3d", "box3d1r": "box-3d27p", "heat1d": "heat-1d", "heat2d": "heat-2d",
    "heat3d": "heat-3d", "box2d9p": "box-2d9p", "star2d9p": "star-2d9p", "box2d25p": "box-2d25p", "box2d49p": "box-2d49p",
    "star2d13p": "star-2d13p", "box3d27p": "box-3d27p",
}  # fmt: skip

LITERATURE = ["heat-1d", "1d5p", "heat-2d", "box-2d9p", "star-2d13p", "box-2d49p", "heat-3d", "box-3d27p"]


def named(name: str) -> Stencil:
    """A stencil of the suite, by any of its names. Raises BadInput with the nearest one."""
    plain = name.lower()
    plain = ALIASES.get(plain.replace("-", ""), plain)
    if plain not in SUITE:
        near = difflib.get_close_matches(plain, SUITE, 1)
        raise BadInput(
            f"--stencil {name}: no stencil of the suite, no .npy, .json or .toml file and no formula in u[…]"
            + (f"; the nearest name is {near[0]}" if near else "; `sparstencil suite --list` names them")
        )
    return _stencil(plain)


@functools.cache
def _stencil(name: str) -> Stencil:
    return Stencil.of(SUITE[name].terms(), name)
