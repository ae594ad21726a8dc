"""Scores of a learned gate over the blocks of a KV cache, and the list of blocks a decode step attends.

Equation (SeerAttention-R, arXiv 2506.08889, eq. 1): for kv-head h with its G query heads, before RoPE,
  x[h] = sum_{j,d} q[hG+j, d] Wq[h, j, d, :],   y = x / sqrt(mean x^2 + eps) * weight (or y = x),
  z[h, j] = rope(y[h]) . kc[j, h] / sqrt(dg)
for the compressed keys kc of the blocks j before the tail, the block of the row's last token: block
(length-1)//BLOCK, which is always attended and has no score. RoPE pairs channels (i, i + dg/2).
Selection, by what is attended in all (budget K): the tail, the first block where FIRST, then the best scores
up to K, of equals the lower block; with THRESHOLD only blocks of softmax(z) > tau (softmax over the blocks
before the tail). The list ascends; entries past the count are -1. A NaN score counts as -inf.

Layouts: q (B, Hq, D) contiguous; wq (Hkv, G, D, dg) contiguous; part float32 (G, B, Hkv, dg); weight (dg,);
cos, sin float32 (B, dg/2); kc (B, NB, Hkv, dg), any strides with a contiguous last axis; lengths int32 (B,);
scores float32 (B, Hkv, NB), -inf past the blocks scored; tickets int32 (B, Hkv); indices int32 (B, Hkv, K);
counts int32 (B, Hkv).
Two launches of fixed shapes. `gate_query`, grid (Hkv*G, ceil(dg/BN), ceil(B/BM)): the product of one query
head, so that Wq is read once for BM rows by many programs; it also clears the tickets. `gate_select`, grid
(ceil(NB/BN), B*Hkv): each program adds the G products, scores BN blocks and takes a ticket; the last of a
(row, kv-head) selects. The K-th best is found by two bits of the scores' order at a time, over counts.

Bytes: Wq once a BM rows, 2 to 4 dg a complete block and kv-head, G dg 4 a row and kv-head and tile (from L2).
Flops: 2 D dg a query head, 2 dg a block and kv-head. The floor is memory.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])  # it changes from call to call
def gate_query(
    q,
    wq,
    part,
    tickets,
    rows,  # B
    HKV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    DG: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    head = tl.program_id(0)
    r = tl.program_id(2) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    e = tl.arange(0, BD)
    row = r.to(tl.int64)[:, None]
    acc = tl.full([BM, BN], 0.0, tl.float32)
    for at in range(0, D, BD):
        d = at + e
        q_tile = tl.load(
            q + row * (HKV * G * D) + head * D + d[None, :], mask=(r < rows)[:, None] & (d < D)[None, :], other=0.0
        )
        w_place = wq + (head.to(tl.int64) * D + d[:, None]) * DG + n[None, :]
        w_tile = tl.load(w_place, mask=(d < D)[:, None] & (n < DG)[None, :], other=0.0)
        acc = tl.dot(q_tile, w_tile, acc, input_precision=PRECISION)
    h = head // G
    place = (((head % G).to(tl.int64) * rows + row) * HKV + h) * DG + n[None, :]
    tl.store(part + place, acc, mask=(r < rows)[:, None] & (n < DG)[None, :])
    if (head % G == 0) & (tl.program_id(1) == 0):
        tl.store(tickets + r * HKV + h, tl.full([BM], 0, tl.int32), mask=r < rows)


@triton.jit
def _selected(z, scored, wanted, FIRST: tl.constexpr, N: tl.constexpr):
    """Which of z [N], 0 or 1: the first block, then the largest of those `scored`, WANTED in all or fewer.

    Scores become integers of the same order. The largest integer that at least so many scores reach is
    found from its top bits down, two at a time: three counts in one sum.
    """
    n = tl.arange(0, N)
    z = tl.where(z == 0.0, 0.0, z)  # of -0 as of 0
    bits = z.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    lowest = -2147483648
    key = tl.where(scored, key, lowest)
    if FIRST:
        key = tl.where(scored & (n == 0), 2147483647, key)
    wanted = tl.minimum(wanted, tl.sum(scored.to(tl.int32), 0)).to(tl.int64)
    edge = tl.full([], lowest, tl.int64)
    for step in tl.static_range(16):
        size = 1 << (30 - 2 * step)
        second = edge + size + size  # not 2 * size: as a constant it would be 32 bits and overflow
        over = (key >= edge + size).to(tl.int64)
        over += (key >= second).to(tl.int64) << 16
        over += (key >= second + size).to(tl.int64) << 32
        count = tl.sum(over, 0)
        one = ((count & 0xFFFF) >= wanted).to(tl.int64)
        two = (((count >> 16) & 0xFFFF) >= wanted).to(tl.int64)
        three = ((count >> 32) >= wanted).to(tl.int64)
        edge += (one + two + three) * size
    above = (key > edge).to(tl.int32)
    equal = ((key == edge) & scored).to(tl.int32)
    left = wanted.to(tl.int32) - tl.sum(above, 0)
    return tl.where((equal != 0) & (tl.cumsum(equal, 0) <= left), 1, above)


@triton.jit(do_not_specialize=["rows", "blocks", "tiles", "capacity"])  # they change from call to call
def gate_select(
    part,
    weight,
    cos,
    sin,
    kc,
    lengths,
    scores,
    tickets,
    indices,
    counts,
    scale,
    eps,
    tau,
    rows,
    blocks,  # NB
    tiles,  # programs of a (row, kv-head)
    capacity,  # K
    k_b,
    k_n,
    k_h,
    HKV: tl.constexpr,
    G: tl.constexpr,
    DG: tl.constexpr,
    NORM: tl.constexpr,
    FIRST: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK: tl.constexpr,
    BN: tl.constexpr,
    N: tl.constexpr,  # NB filled up to a power of two
):
    group = tl.program_id(1).to(tl.int64)
    b = group // HKV
    h = group % HKV
    HALF: tl.constexpr = DG // 2
    e = tl.arange(0, HALF)
    length = tl.load(lengths + b)
    before = tl.minimum((tl.maximum(length, 1) - 1) // BLOCK, blocks)  # blocks that have a score

    low = tl.full([HALF], 0.0, tl.float32)
    high = tl.full([HALF], 0.0, tl.float32)
    for j in range(G):
        place = part + ((j * rows + b) * HKV + h) * DG
        low += tl.load(place + e)
        high += tl.load(place + HALF + e)
    if NORM:
        shrink = 1.0 / tl.sqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / DG + eps)
        low = low * shrink * tl.load(weight + e).to(tl.float32)
        high = high * shrink * tl.load(weight + HALF + e).to(tl.float32)
    c = tl.load(cos + b * HALF + e)
    s = tl.load(sin + b * HALF + e)
    turned_low = low * c - high * s
    turned_high = high * c + low * s

    n = tl.program_id(0) * BN + tl.arange(0, BN)
    key = kc + b * k_b + n.to(tl.int64)[:, None] * k_n + h * k_h + e[None, :]
    inside = (n < before)[:, None]
    k_low = tl.load(key, mask=inside, other=0.0).to(tl.float32)
    k_high = tl.load(key + HALF, mask=inside, other=0.0).to(tl.float32)
    z = tl.sum(k_low * turned_low[None, :] + k_high * turned_high[None, :], 1) * scale
    z = tl.where(z == z, z, float("-inf"))
    tl.store(scores + group * blocks + n, tl.where(n < before, z, float("-inf")), mask=n < blocks)

    # All of this program's scores are written before its ticket is taken, and seen by whoever takes the last.
    tl.debug_barrier()
    ticket = tl.atomic_add(tickets + group, 1, sem="acq_rel", scope="gpu")
    if ticket == tiles - 1:
        number = tl.arange(0, N)
        all_z = tl.load(scores + group * blocks + number, mask=number < before, other=float("-inf"))
        scored = number < before
        if THRESHOLD:
            top = tl.max(all_z, 0)
            p = tl.where(scored, tl.exp(all_z - tl.where(top == float("-inf"), 0.0, top)), 0.0)
            kept = p > tau * tl.sum(p, 0)
            if FIRST:
                kept = kept | (number == 0)
            scored = scored & kept
        chosen = _selected(all_z, scored, capacity - 1, FIRST, N)
        found = tl.sum(chosen, 0)
        listed = indices + group * capacity
        tl.store(listed + tl.cumsum(chosen, 0) - 1, number, mask=chosen != 0)
        total = found + (length > 0).to(tl.int32)
        tl.store(listed + found, (length - 1) // BLOCK, mask=length > 0)
        tl.store(counts + group, total)
        for at in range(0, capacity, N):
            tl.store(listed + at + number, -1, mask=(at + number >= total) & (at + number < capacity))
