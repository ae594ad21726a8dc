"""What a gate over KV blocks should have said: block maxima of causal attention, inside a flash forward.

Equation (SeerAttention-R, arXiv 2506.08889, section 2.3): for query t, kv-head h, block j of BLOCK keys,
  u[t, j] = max over the G query heads a of h, max over i in block j, of softmax_{i <= t}(scale q_a,t . k_i),
for blocks strictly before the query's own (j < t // BLOCK), 0 for the others; gt[t, j] = u / (sum_j u + 1e-9).
Rows of the first block are 0, and so are rows at or past the row's length.

Layouts: q (B, Hq, N, D), k (B, Hkv, N, D), any strides with a contiguous last axis; lengths int32 (B,);
gt float32 (B, Hkv, N - first_row, NB) contiguous, zero beforehand: row r is query first_row + r.
Grid (ceil(rows/BM), B*Hkv): a program owns BM queries of all GP query heads, GP*BM rows of one product, so a
key tile is read once for the group. Pass 1 finds each row's m and l (online softmax over the tiles of T keys);
pass 2 makes the scores of the whole blocks again, takes their maxima over block and heads, and sums the row;
then it divides. No map over query heads is ever written: gt is 1/(G BLOCK) of one.

Bytes: q once, k rows/BM times (from L2), gt written, and read and written again. Flops: 2 D a pair (i <= t) and
query head, done twice. The floor is the matmul ceiling.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _scores(
    q_tile, k_head, k_n, at, limit, D: tl.constexpr, DP: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr
):
    i = at * T + tl.arange(0, T)
    d = tl.arange(0, DP)
    inside = (i < limit)[None, :] & (d < D)[:, None]
    k_tile = tl.load(k_head + i.to(tl.int64)[None, :] * k_n + d[:, None], mask=inside, other=0.0)
    return tl.dot(q_tile, k_tile, input_precision=PRECISION), i


@triton.jit(do_not_specialize=["n", "first_row", "blocks"])  # they change from call to call
def block_truth(
    q,
    k,
    lengths,
    gt,
    scale,
    n,
    first_row,
    blocks,  # NB
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    HKV: tl.constexpr,
    G: tl.constexpr,
    GP: tl.constexpr,  # G filled up to a power of two
    BM: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,  # a multiple of BLOCK, or a part of it
    PRECISION: tl.constexpr,
):
    b = (tl.program_id(1) // HKV).to(tl.int64)
    h = (tl.program_id(1) % HKV).to(tl.int64)
    ROWS: tl.constexpr = GP * BM
    TB: tl.constexpr = T // BLOCK if T > BLOCK else 1  # blocks of a step
    SUB: tl.constexpr = BLOCK // T if BLOCK > T else 1  # tiles of a block
    length = tl.minimum(tl.load(lengths + b), n)
    start = first_row + tl.program_id(0) * BM
    row = tl.arange(0, ROWS)
    head = row // BM
    t = start + row % BM
    d = tl.arange(0, DP)
    live = (head < G) & (t < length)
    q_place = q + b * q_b + (h * G + head).to(tl.int64)[:, None] * q_h + t.to(tl.int64)[:, None] * q_n + d[None, :]
    q_tile = tl.load(q_place, mask=live[:, None] & (d < D)[None, :], other=0.0)
    k_head = k + b * k_b + h * k_h
    factor = scale * LOG2E

    # Pass 1. Every row sees key 0, so m is finite after the first tile.
    end = tl.minimum(start + BM, length)  # keys below it are seen by some row
    end = tl.where(start < length, end, 0)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    whole = tl.where(start < length, (start + 1) // T, 0)  # tiles that all rows see
    for at in range(whole):
        s, i = _scores(q_tile, k_head, k_n, at, n, D, DP, T, PRECISION)
        m_new = tl.maximum(m, tl.max(s, 1) * factor)
        total = total * tl.exp2(m - m_new) + tl.sum(tl.exp2(s * factor - m_new[:, None]), 1)
        m = m_new
    for at in range(whole, (end + T - 1) // T):
        s, i = _scores(q_tile, k_head, k_n, at, length, D, DP, T, PRECISION)
        s = tl.where(i[None, :] <= t[:, None], s * factor, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        total = total * tl.exp2(m - m_new) + tl.sum(tl.exp2(s - m_new[:, None]), 1)
        m = m_new

    # Pass 2, over blocks strictly before the last row's own; all their keys are seen by the rows that count.
    r = tl.arange(0, BM)
    own = (start + r) // BLOCK
    base = gt + ((b * HKV + h) * (n - first_row) + start - first_row) * blocks
    out = base + r.to(tl.int64)[:, None] * blocks
    inverse = tl.where(live, 1.0 / tl.where(live, total, 1.0), 0.0)
    sums = tl.full([BM], 0.0, tl.float32)
    last = tl.where(end > 0, (end - 1) // BLOCK, 0)
    for at in range((last + TB - 1) // TB):
        if SUB == 1:
            s, i = _scores(q_tile, k_head, k_n, at, n, D, DP, T, PRECISION)
            top = tl.max(tl.reshape(s, [ROWS, TB, BLOCK]), 2) * factor
        else:
            part_top = tl.full([ROWS], float("-inf"), tl.float32)
            for part in range(SUB):
                s, i = _scores(q_tile, k_head, k_n, at * SUB + part, n, D, DP, T, PRECISION)
                part_top = tl.maximum(part_top, tl.max(s, 1))
            top = part_top[:, None] * factor
        # Blocks not before a row's own may hold scores above m: they are left out below, and must not overflow.
        p = tl.exp2(tl.minimum(top - m[:, None], 0.0)) * inverse[:, None]
        u = tl.max(tl.reshape(p, [GP, BM, TB]), 0)
        j = at * TB + tl.arange(0, TB)
        counts = (j[None, :] < own[:, None]) & ((start + r) < length)[:, None]
        u = tl.where(counts, u, 0.0)
        sums += tl.sum(u, 1)
        tl.store(out + j[None, :], u, mask=counts)
    tl.debug_barrier()  # other threads read what these have written
    share = 1.0 / (sums + 1e-9)
    W: tl.constexpr = 32
    for at in range(0, last, W):
        j = at + tl.arange(0, W)
        counts = (j[None, :] < own[:, None]) & ((start + r) < length)[:, None]
        u = tl.load(out + j[None, :], mask=counts, other=0.0)
        tl.store(out + j[None, :], u * share[:, None], mask=counts)
