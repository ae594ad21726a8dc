"""A step of the grid as the kernel makes it, on the CPU, bit by bit: from the packed metadata words, the registers of A and the
generated tables of places, and from nothing else. For tests, and for `verify` where there is no GPU.
"""

from __future__ import annotations

import numpy as np

from sparstencil.boundary import Boundary
from sparstencil.geometry import Geometry
from sparstencil.mma import execute, packed


def product(geometry: Geometry, planes: list[np.ndarray], boundary: Boundary, constants: list[float]) -> np.ndarray:
    """Σ over products of A · B on every point of the grid, float32, of planes of B (each of the grid's shape, of numbers that
    the kind holds). constants: what `constant` is in each plane."""
    program, shape = geometry.program, planes[0].shape
    ndim = len(shape)
    tiles = [_shared(geometry, plane, boundary, value) for plane, value in zip(planes, constants, strict=True)]
    offsets, origins = geometry.offsets(), geometry.n_origins()
    count = len(tiles[0])
    out = np.zeros((count, len(origins), program.m_tiles, 32, 4), dtype=np.float32)
    for at, step in enumerate(program.steps):
        row, column = step.form.b_places()
        place = offsets[step.first + row] + column * program.layout.tile[-1]  # (32, registers, entries)
        where = origins[:, None, None, None] + place
        for a_plane, b_plane in program.products:
            b = packed(tiles[b_plane][:, where], program.kind)  # (blocks, n_tiles, 32, registers)
            for tile in range(program.m_tiles):
                words = program.meta[tile, step.register]
                out[:, :, tile] = execute(
                    program.a(a_plane, tile, at), b, out[:, :, tile], words, step.selector, step.form
                )
    return _gathered(geometry, out, shape, ndim)


def _shared(geometry: Geometry, plane: np.ndarray, boundary: Boundary, constant: float) -> np.ndarray:
    """(blocks, places) what each block's tile in shared memory holds, through the tables of sources."""
    shape = plane.shape
    tables = geometry.sources(boundary, shape)
    grid, outside = plane, np.zeros((), dtype=bool)
    for axis, table in enumerate(tables):
        grid = grid.take(table.clip(0), axis=axis)
        outside = outside | (table < 0).reshape([-1 if a == axis else 1 for a in range(plane.ndim)])
    grid = np.where(outside, np.float32(constant), grid)
    for axis, (count, block, extent) in enumerate(
        zip(geometry.blocks(shape), geometry.block, geometry.extents, strict=True)
    ):
        at = np.arange(count)[:, None] * block + np.arange(extent)
        grid = np.take(grid, at, axis=2 * axis)  # (…, blocks, extent, …)
    order = [*range(0, 2 * plane.ndim, 2), *range(1, 2 * plane.ndim, 2)]
    return np.ascontiguousarray(grid.transpose(order)).reshape(-1, geometry.places)


def _gathered(geometry: Geometry, out: np.ndarray, shape: tuple[int, ...], ndim: int) -> np.ndarray:
    """The grid of accumulators (blocks, n_tiles, m_tiles, 32, 4): every lane writes its four outputs."""
    program, tile = geometry.program, geometry.program.layout.tile
    blocks = geometry.blocks(shape)
    grid = np.zeros([b * e for b, e in zip(blocks, geometry.block, strict=True)], dtype=np.float32)
    lane = np.arange(32)
    row = np.stack([lane // 4, lane // 4, lane // 4 + 8, lane // 4 + 8], 1)
    patch = np.stack([2 * (lane % 4), 2 * (lane % 4) + 1] * 2, 1)
    first = np.stack(np.unravel_index(np.arange(len(out)), blocks), -1) * np.array(geometry.block)
    widths = [*geometry.patches[:-1], geometry.patches[-1] // 8]
    eight = np.stack(np.unravel_index(np.arange(geometry.n_tiles), widths), -1)
    eight = eight * np.array([*tile[:-1], 8 * tile[-1]])
    outputs = np.array(program.layout.outputs)
    for m_tile in range(program.m_tiles):
        m = 16 * m_tile + row
        real = m < len(outputs)
        inside = outputs[np.minimum(m, len(outputs) - 1)]  # (32, 4, ndim)
        inside = inside + np.eye(ndim, dtype=int)[-1] * tile[-1] * patch[..., None]
        at = first[:, None, None, None] + eight[:, None, None] + inside  # (blocks, n_tiles, 32, 4, ndim)
        grid[tuple(at[:, :, real].reshape(-1, ndim).T)] = out[:, :, m_tile][:, :, real].reshape(-1)
    return grid[tuple(slice(0, n) for n in shape)]
