"""Anchor scores of the keys and values of one layer, without the n x n attention matrix.

Equation (AnTKV, arXiv 2506.19505, Theorem 3.1 simplified): with A_ij = exp(scale q_i.k_j - lse_i)
  mass    FV_j  = sum_i A_ij
  bound   FK_j  = sum_i A_ij ||v_j - o_i|| scale ||q_i||
  bound2  FV2_j = sum_i A_ij^2,  FK2_j = sum_i (A_ij ||v_j - o_i|| scale ||q_i||)^2
over the queries i that see key j, and over the G = Hq/Hkv query heads of a key's group.
Query i stands at key position Nk - Nq + i; positions before start[b] are padding on both sides.

Layout: q, o (B, Hq, Nq, D), k, v (B, Hkv, Nk, D), any strides with a contiguous last axis;
lse (B, Hq, Nq), start (B,), fk, fv (B, Hkv, Nk) contiguous.
Grid (ceil(Nk/BN), B*Hkv): a program owns BN keys and walks over the query blocks that see them, like
the dK/dV half of FlashAttention's backward. No atomics and a fixed order, so results are the same
bytes each time. Keys are the rows of the score tile, so that the sums over queries stay in a warp.

Bytes: k, v once, q, o, lse (Nk/BN) G times (from L2), O(Nk) written. Flops, full causal range:
2 D Nq (Nk - Nq/2) a query head for mass, twice that for bound. So the floor is the matmul ceiling.

Distances: ||v||^2 - 2 o.v + ||o||^2 in float32, clamped at 0. Where v_j is nearly o_i this cancels: its
error is about 2^-23 (||v||^2 + ||o||^2), 3e-4 of ||v|| in the distance. For 16-bit inputs that is
below the rounding of o itself. For float32 inputs (EXACT) a tile that holds such a pair is computed
again from the differences.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NEAR = tl.constexpr(0.03125)  # distances^2 below this part of ||v||^2 + ||o||^2 are computed again


@triton.jit(do_not_specialize=["nq", "nk"])  # they change from call to call
def anchor_score(
    q,
    k,
    v,
    o,
    lse,
    start,
    fk,
    fv,
    scale,
    nq,
    nk,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    o_b,
    o_h,
    o_n,
    HKV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    KEYS: tl.constexpr,  # whether FK is wanted
    SQUARED: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    b = (tl.program_id(1) // HKV).to(tl.int64)
    h = (tl.program_id(1) % HKV).to(tl.int64)
    first = tl.program_id(0) * BN
    offset = nk - nq  # key position of query 0
    begin = tl.load(start + b).to(tl.int32)

    n = first + tl.arange(0, BN)
    d = tl.arange(0, D)
    k_tile = tl.load(
        k + b * k_b + h * k_h + n[:, None].to(tl.int64) * k_n + d[None, :], mask=n[:, None] < nk, other=0.0
    )
    vv = tl.full([BN], 0.0, tl.float32)
    if KEYS:
        v_head = v + b * v_b + h * v_h
        v_tile = tl.load(v_head + n[:, None].to(tl.int64) * v_n + d[None, :], mask=n[:, None] < nk, other=0.0)
        wide = v_tile.to(tl.float32)
        vv = tl.sum(wide * wide, 1)
    fk_sum = tl.full([BN], 0.0, tl.float32)
    fv_sum = tl.full([BN], 0.0, tl.float32)

    # The first query that sees one of these keys and is no padding; none does where all keys are padding.
    low = tl.maximum(tl.maximum(first, begin) - offset, 0)
    low = tl.where(first + BN <= begin, nq, low)
    for g in range(G):
        head = h * G + g
        q_head = q + b * q_b + head * q_h
        o_head = o + b * o_b + head * o_h
        lse_head = lse + (b * HKV * G + head) * nq
        for at in range(low, nq, BM):
            m = at + tl.arange(0, BM)
            rows = m[None, :].to(tl.int64)
            q_tile = tl.load(q_head + rows * q_n + d[:, None], mask=m[None, :] < nq, other=0.0)  # [D, BM]
            log_sum = tl.load(lse_head + m, mask=m < nq, other=0.0)
            s = tl.dot(k_tile, q_tile, input_precision=PRECISION)  # [BN, BM]
            place = m[None, :] + offset  # of padded queries, before every key that is seen
            seen = (n[:, None] <= place) & (n[:, None] >= begin) & (m[None, :] < nq)
            p = tl.where(seen, tl.exp2((s * scale - log_sum[None, :]) * LOG2E), 0.0)
            if SQUARED:
                fv_sum += tl.sum(p * p, 1)
            else:
                fv_sum += tl.sum(p, 1)
            if KEYS:
                o_tile = tl.load(o_head + rows * o_n + d[:, None], mask=m[None, :] < nq, other=0.0)  # [D, BM]
                wide_q = q_tile.to(tl.float32)
                wide_o = o_tile.to(tl.float32)
                q_norm = tl.sqrt(tl.sum(wide_q * wide_q, 0))
                both = vv[:, None] + tl.sum(wide_o * wide_o, 0)[None, :]
                distance2 = both - 2.0 * tl.dot(v_tile, o_tile, input_precision=PRECISION)
                if EXACT:
                    near = (distance2 < NEAR * both) & (p > 0.0)
                    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
                        distance2 = tl.full([BN, BM], 0.0, tl.float32)
                        for at_d in range(D):
                            v_d = tl.load(v_head + n.to(tl.int64) * v_n + at_d, mask=n < nk, other=0.0)
                            o_d = tl.load(o_head + m.to(tl.int64) * o_n + at_d, mask=m < nq, other=0.0)
                            gap = v_d.to(tl.float32)[:, None] - o_d.to(tl.float32)[None, :]
                            distance2 += gap * gap
                term = p * tl.sqrt(tl.maximum(distance2, 0.0)) * (q_norm * scale)[None, :]
                if SQUARED:
                    fk_sum += tl.sum(term * term, 1)
                else:
                    fk_sum += tl.sum(term, 1)
    out = (b * HKV + h) * nk + n
    tl.store(fv + out, fv_sum, mask=n < nk)
    if KEYS:
        tl.store(fk + out, fk_sum, mask=n < nk)
