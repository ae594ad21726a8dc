"""Numba's loops for lut.py, over the stored heads in parallel. Shapes: codes (H, blocks, M, bytes) uint8, packed;
books (H, M, C, d) float32; scores and weights (H, G, n) float32."""

import numpy as np
from numba import njit, prange

_HOW = {"parallel": True, "fastmath": True, "cache": True, "nogil": True}


@njit(inline="always")
def _index(packed, at, bits):
    """The index at place `at` of a packed row, little-endian."""
    place = at * bits
    first = place >> 3
    word = np.uint32(packed[first])
    if (place & 7) + bits > 8:
        word |= np.uint32(packed[first + 1]) << 8
    return (word >> (place & 7)) & ((1 << bits) - 1)


@njit(**_HOW)
def look_up(tables, codes, bits, block, scores):
    """scores[h, g, j] = Σ_m tables[h, g, m, index]; tables (H, G, M, C)."""
    heads, groups, parts, _ = tables.shape
    blocks = codes.shape[1]
    for work in prange(heads * blocks):
        h, b = work // blocks, work % blocks
        total = np.zeros((groups, block), dtype=np.float32)
        where = np.empty(block, dtype=np.int32)
        for m in range(parts):
            if bits == 8:
                for t in range(block):
                    where[t] = codes[h, b, m, t]
            else:
                for t in range(block):
                    where[t] = _index(codes[h, b, m], t, bits)
            for g in range(groups):
                table = tables[h, g, m]
                row = total[g]
                for t in range(block):
                    row[t] += table[where[t]]
        for g in range(groups):
            for t in range(block):
                scores[h, g, b * block + t] = total[g, t]


@njit(**_HOW)
def turned(queries, book, codes, cos, sin, bits, block, scores):
    """scores[h, g, j] = queries[block of j, h, g] · R(j within it) k_j; queries (blocks, H, G, D), cos and sin (block, r)."""
    heads, parts, _, dim = book.shape
    blocks, groups = codes.shape[1], queries.shape[2]
    width = cos.shape[1]
    half = width // 2
    for work in prange(heads * blocks):
        h, b = work // blocks, work % blocks
        tile = np.empty((block, parts * dim), dtype=np.float32)
        for m in range(parts):
            for t in range(block):
                at = np.int64(codes[h, b, m, t]) if bits == 8 else np.int64(_index(codes[h, b, m], t, bits))
                for i in range(dim):
                    tile[t, m * dim + i] = book[h, m, at, i]
        for t in range(block):
            x = tile[t]
            for i in range(half):
                left, right = x[i], x[i + half]
                x[i] = left * cos[t, i] - right * sin[t, i]
                x[i + half] = right * cos[t, i + half] + left * sin[t, i + half]
            for g in range(groups):
                q = queries[b, h, g]
                total = np.float32(0.0)
                for i in range(parts * dim):
                    total += q[i] * x[i]
                scores[h, g, b * block + t] = total


@njit(**_HOW)
def mix(weights, book, codes, bits, block, out):
    """out[h, g] = Σ_j weights[h, j, g] · centroid of j: bins of each index, four query heads side by side, times the book.

    weights (H, n, G filled up to a multiple of 4) float32. Tokens are added in order."""
    heads, parts, size, dim = book.shape
    blocks, groups, width = codes.shape[1], out.shape[1], weights.shape[2]
    for work in prange(heads * parts):
        h, m = work // parts, work % parts
        w = weights[h].reshape(-1)
        where = np.empty(block, dtype=np.int64)
        for first in range(0, width, 4):
            bins = np.zeros((size, 4), dtype=np.float32)
            flat = bins.reshape(-1)
            for b in range(blocks):
                row = codes[h, b, m]
                if bits == 8:
                    for t in range(block):
                        where[t] = row[t]
                else:
                    for t in range(block):
                        where[t] = _index(row, t, bits)
                for t in range(block):
                    at, j = 4 * where[t], (b * block + t) * width + first
                    for g in range(4):
                        flat[at + g] += w[j + g]
            for g in range(first, min(first + 4, groups)):
                for i in range(dim):
                    total = np.float32(0.0)
                    for c in range(size):
                        total += bins[c, g - first] * book[h, m, c, i]
                    out[h, g, m * dim + i] = total
