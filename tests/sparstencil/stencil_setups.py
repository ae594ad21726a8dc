"""Setups of the tests of the CUDA back ends."""

import numpy as np

from sparstencil import cuda, modes
from sparstencil.boundary import Boundary
from sparstencil.stencil import Stencil
from sparstencil.suite import SUITE


def rule(name, ndim):
    return Boundary.parse("constant:3" if name == "constant" else name, ndim)


def whole(stencil, top=8):
    """The same support with whole weights from 1 to top − 1 and either sign: every sum is exact."""
    draw = np.random.default_rng(7)
    weights = draw.integers(1, top, stencil.points) * draw.choice([-1, 1], stencil.points)
    return Stencil(stencil.offsets, tuple(map(float, weights)), stencil.name)


def numbers(shape, mode, seed=1):
    """Small whole numbers; 0 and 1 for 8 bits."""
    low, high = (0, 2) if mode == "s8" else (-4, 5)
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float64)


def made(name, mode, tile=None, top=8, solver="staircase"):
    stencil = whole(SUITE[name].stencil, top)
    return modes.prepare(stencil, mode, tile or cuda.TILES[stencil.ndim], solver)
