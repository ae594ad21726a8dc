"""Nearest centroid of every sub-vector: the encoder of a vector-quantised KV cache.

Equation: index[n, h, m] = argmin_c ||x - c||^2 = argmin_c ||c||^2 - 2 x.c over the C centroids of
codebook (h, m); ties go to the lowest index. error[n, h, m] = ||x - c_index||^2, from differences.

Layout: x (N, H, M, d), any strides with a contiguous last axis; codebook (H, M, C, d), contiguous
within a head; index and error (N, H, M) contiguous. Grid (ceil(N/BN), H*M): a program owns BN sub-vectors and walks over the codebook
in tiles of BC centroids, products by tl.dot (d below 16 is filled up with zeros, tl.dot's least depth).

Bytes: N H M (d x-bytes + 1 or 2 of the index + 4 of the error if wanted), codebook from L2.
Flops: 2 N H M C d, times 16/d where d < 16. The floor is the larger of the two.

A NaN or infinity in x leaves an index that means nothing; its error is NaN or infinite, which is
what a caller checks. Without the error, x itself has to be checked.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n_all"])  # they change from call to call
def vq_encode(
    x,
    codebook,
    index,
    error,
    n_all,
    x_n,
    x_h,
    x_m,
    book_h,
    H: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    SUB: tl.constexpr,  # d, channels of a sub-vector
    DEPTH: tl.constexpr,  # max(d, 16)
    ERROR: tl.constexpr,
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    h = (tl.program_id(1) // M).to(tl.int64)
    m = (tl.program_id(1) % M).to(tl.int64)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    d = tl.arange(0, DEPTH)
    inside = (n[:, None] < n_all) & (d[None, :] < SUB)
    x_place = x + h * x_h + m * x_m + n[:, None].to(tl.int64) * x_n + d[None, :]
    x_tile = tl.load(x_place, mask=inside, other=0.0)
    book = codebook + h * book_h + m * C * SUB

    best = tl.full([BN], float("inf"), tl.float32)
    found = tl.full([BN], 0, tl.int32)
    for at in range(0, C, BC):
        c = at + tl.arange(0, BC)
        wanted = (c[None, :] < C) & (d[:, None] < SUB)
        c_tile = tl.load(book + c[None, :] * SUB + d[:, None], mask=wanted, other=0.0)  # [DEPTH, BC]
        wide = c_tile.to(tl.float32)
        distance = tl.sum(wide * wide, 0)[None, :] - 2.0 * tl.dot(x_tile, c_tile, input_precision=PRECISION)
        distance = tl.where(c[None, :] < C, distance, float("inf"))
        nearest, where = tl.min(distance, 1, return_indices=True, return_indices_tie_break_left=True)
        # Strictly nearer only: of equals in different tiles the first stays.
        found = tl.where(nearest < best, where.to(tl.int32) + at, found)
        best = tl.minimum(best, nearest)
    place = (n.to(tl.int64) * H + h) * M + m
    tl.store(index + place, found.to(index.dtype.element_ty), mask=n < n_all)
    if ERROR:
        chosen = tl.load(book + found[:, None] * SUB + d[None, :], mask=inside, other=0.0)
        gap = x_tile.to(tl.float32) - chosen.to(tl.float32)
        tl.store(error + place, tl.sum(gap * gap, 1), mask=n < n_all)
