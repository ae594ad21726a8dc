"""One decode step over a vector-quantised KV cache, by dequantising tiles on chip; and softmax parts.

Equation, for a query head of a group of G = Hq/Hkv: out = sum_j p_j v_j / sum_j p_j, p_j = exp(scale q.k_j),
where k_j and v_j are sums of centroids picked by packed indices, or 16-bit vectors (anchors, window).
Each kernel but the last makes partial results of some keys (natural logarithms):
  m = max_j s_j (-inf for none), total = sum_j exp(s_j - m), acc = sum_j exp(s_j - m) v_j,
and `merge_parts` joins any partition of the keys exactly: M = max m, w = exp(m - M),
  out = sum w acc / sum w total, lse = M + log(sum w total); no key at all gives out 0 and lse -inf.

Layouts: q (B, Hq, D); codes uint8 (B, Hkv, blocks, M, BLOCK*bits/8), see packing.py; codebooks
(Hkv, M, C, d), contiguous within a head (stride 0 where heads share one); valid uint8 (B, Hkv, slots), 0 where a slot is an anchor's or padding;
m, total (B, Hq, parts) and acc (B, Hq, parts, D) float32; a kernel writes parts `part` and on.
Grid (splits, B*Hkv): the G heads of a group share the dequantised tile, rows of one product.

Keys stored before RoPE (ROPE): q.R(p0+t)k = (R(-p0)q).R(t)k for a tile whose first slot is p0, so the
query is rotated back once a tile (tile_cos, tile_sin: (tiles, D/2)), and the tile's keys by one table
for all tiles (near_cos, near_sin: (T, D/2)); no cosine is read per cached token. Channels pair as
(i, i + D/2). Slots count as positions; an offset of a row (left padding) is rotated into q beforehand.

Bytes: 2 M bits/8 + 1 a token and kv-head; codebooks C D 4 a kv-head, gathered through L1 (L2 where they
do not fit). dense_part: 4 D + 4 a token and kv-head. Flops: 4 D a token and query head. Traffic of the
gathers on chip is that of the 16-bit cache, 4 D bytes a token and kv-head, whatever the bit width.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _indices(codes, within, columns, BITS: tl.constexpr, BYTES: tl.constexpr):
    """Indices [T, columns] of the tokens at WITHIN a block, for the sub-vectors COLUMNS."""
    if BITS == 8:
        return tl.load(codes + columns[None, :] * BYTES + within[:, None]).to(tl.int32)
    bit = within * BITS
    place = codes + columns[None, :] * BYTES + (bit >> 3)[:, None]
    shift = (bit & 7)[:, None]
    word = tl.load(place).to(tl.int32)
    if BITS == 6 or BITS == 12:
        further = tl.broadcast_to(shift + BITS > 8, place.shape)  # an index that ends in the next byte
        word = word | (tl.load(place + 1, mask=further, other=0).to(tl.int32) << 8)
    return (word >> shift) & ((1 << BITS) - 1)


@triton.jit
def _dequantise(
    codes,
    book,
    within,
    FIRST: tl.constexpr,
    COLUMNS: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    SUB: tl.constexpr,
    BITS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """The channels of sub-vectors FIRST to FIRST+COLUMNS-1, [T, COLUMNS*SUB]."""
    columns = FIRST + tl.arange(0, COLUMNS)
    index = _indices(codes, within, columns, BITS, BYTES)
    # Three axes, so that the compiler sees SUB contiguous channels and loads them at once.
    place = (index + (columns * C)[None, :]) * SUB
    return tl.reshape(tl.load(book + place[:, :, None] + tl.arange(0, SUB)[None, None, :]), [T, COLUMNS * SUB])


@triton.jit
def _update(s, v_tile, m, total, acc, PRECISION: tl.constexpr):
    """Online softmax, scores s [G, T] and m in units of log 2; a tile of -inf alone changes nothing."""
    m_new = tl.maximum(m, tl.max(s, 1))
    base = tl.where(m_new == float("-inf"), 0.0, m_new)
    shrink = tl.exp2(m - base)
    p = tl.exp2(s - base[:, None])
    l_new = total * shrink + tl.sum(p, 1)
    acc_new = acc * shrink[:, None] + tl.dot(p.to(v_tile.dtype), v_tile, input_precision=PRECISION)
    return m_new, l_new, acc_new


@triton.jit
def _store(m_out, l_out, acc_out, m, total, acc, heads, used, d, parts, part, D: tl.constexpr):
    place = heads * parts + part
    tl.store(m_out + place, m * LN2, mask=used)
    tl.store(l_out + place, total, mask=used)
    tl.store(acc_out + place[:, None] * D + d[None, :], acc, mask=used[:, None])


@triton.jit(do_not_specialize=["n", "per_split", "parts", "part"])  # they change from call to call
def vq_part(
    q,
    k_codes,
    v_codes,
    k_book,
    v_book,
    valid,
    tile_cos,
    tile_sin,
    near_cos,
    near_sin,
    m_out,
    l_out,
    acc_out,
    scale,
    n,
    per_split,  # tiles of a split
    parts,
    part,
    k_b,
    k_h,
    v_b,
    v_h,
    valid_b,
    valid_h,
    k_book_h,
    v_book_h,
    HKV: tl.constexpr,
    G: tl.constexpr,
    GP: tl.constexpr,  # rows of the query tile: G filled up to tl.dot's least height
    D: tl.constexpr,
    K_M: tl.constexpr,
    K_C: tl.constexpr,
    K_BITS: tl.constexpr,
    V_M: tl.constexpr,
    V_C: tl.constexpr,
    V_BITS: tl.constexpr,
    BLOCK: tl.constexpr,  # tokens of a storage block, a multiple of T
    T: tl.constexpr,
    ROPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    split = tl.program_id(0)
    b = (tl.program_id(1) // HKV).to(tl.int64)
    h = (tl.program_id(1) % HKV).to(tl.int64)
    K_SUB: tl.constexpr = D // K_M
    V_SUB: tl.constexpr = D // V_M
    K_BYTES: tl.constexpr = BLOCK * K_BITS // 8
    V_BYTES: tl.constexpr = BLOCK * V_BITS // 8
    HALF: tl.constexpr = D // 2

    rows = tl.arange(0, GP)
    used = rows < G
    heads = (b * HKV + h) * G + rows
    d = tl.arange(0, D)
    t = tl.arange(0, T)
    e = tl.arange(0, HALF)
    q_place = q + heads[:, None] * D
    if ROPE:
        q_low = tl.load(q_place + e[None, :], mask=used[:, None], other=0.0).to(tl.float32)
        q_high = tl.load(q_place + HALF + e[None, :], mask=used[:, None], other=0.0).to(tl.float32)
        cos = tl.load(near_cos + t[:, None] * HALF + e[None, :])
        sin = tl.load(near_sin + t[:, None] * HALF + e[None, :])
    else:
        q_tile = tl.load(q_place + d[None, :], mask=used[:, None], other=0.0).to(k_book.dtype.element_ty)

    k_book_head = k_book + h * k_book_h
    v_book_head = v_book + h * v_book_h
    m = tl.full([GP], float("-inf"), tl.float32)
    total = tl.full([GP], 0.0, tl.float32)
    acc = tl.full([GP, D], 0.0, tl.float32)
    last = tl.minimum((split + 1) * per_split, tl.cdiv(n, T))
    for tile in range(split * per_split, last):
        block = tile * T // BLOCK  # its bytes within a head stay below 2**31: 33 million tokens at 4 bits
        within = tile * T % BLOCK + t
        k_block = k_codes + b * k_b + h * k_h + block * K_M * K_BYTES
        v_block = v_codes + b * v_b + h * v_h + block * V_M * V_BYTES
        if ROPE:
            low = _dequantise(k_block, k_book_head, within, 0, K_M // 2, T, K_C, K_SUB, K_BITS, K_BYTES)
            high = _dequantise(k_block, k_book_head, within, K_M // 2, K_M // 2, T, K_C, K_SUB, K_BITS, K_BYTES)
            kind = low.dtype
            low = low.to(tl.float32)
            high = high.to(tl.float32)
            turned_low = (low * cos - high * sin).to(kind)
            turned_high = (high * cos + low * sin).to(kind)
            base_cos = tl.load(tile_cos + tile * HALF + e)[None, :]
            base_sin = tl.load(tile_sin + tile * HALF + e)[None, :]
            back_low = (q_low * base_cos + q_high * base_sin).to(kind)
            back_high = (q_high * base_cos - q_low * base_sin).to(kind)
            s = tl.dot(back_low, tl.trans(turned_low), input_precision=PRECISION)
            s = tl.dot(back_high, tl.trans(turned_high), s, input_precision=PRECISION)
        else:
            k_tile = _dequantise(k_block, k_book_head, within, 0, K_M, T, K_C, K_SUB, K_BITS, K_BYTES)
            s = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        slot = tile * T + t
        open_ = tl.load(valid + b * valid_b + h * valid_h + slot, mask=slot < n, other=0) != 0
        s = tl.where(open_[None, :], s * (scale * LOG2E), float("-inf"))
        v_tile = _dequantise(v_block, v_book_head, within, 0, V_M, T, V_C, V_SUB, V_BITS, V_BYTES)
        m, total, acc = _update(s, v_tile, m, total, acc, PRECISION)
    _store(m_out, l_out, acc_out, m, total, acc, heads, used, d, parts, part + split, D)


@triton.jit(do_not_specialize=["n", "per_split", "parts", "part"])  # they change from call to call
def dense_part(
    q,
    k,
    v,
    positions,  # int32 (B, Hkv, n), negative where the entry is empty or not to be seen
    m_out,
    l_out,
    acc_out,
    scale,
    n,
    per_split,
    parts,
    part,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    position_b,
    position_h,
    HKV: tl.constexpr,
    G: tl.constexpr,
    GP: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
    PRECISION: tl.constexpr,
):
    split = tl.program_id(0)
    b = (tl.program_id(1) // HKV).to(tl.int64)
    h = (tl.program_id(1) % HKV).to(tl.int64)
    rows = tl.arange(0, GP)
    used = rows < G
    heads = (b * HKV + h) * G + rows
    d = tl.arange(0, D)
    q_tile = tl.load(q + heads[:, None] * D + d[None, :], mask=used[:, None], other=0.0).to(k.dtype.element_ty)
    m = tl.full([GP], float("-inf"), tl.float32)
    total = tl.full([GP], 0.0, tl.float32)
    acc = tl.full([GP, D], 0.0, tl.float32)
    last = tl.minimum((split + 1) * per_split, tl.cdiv(n, T))
    for tile in range(split * per_split, last):
        slot = tile * T + tl.arange(0, T)
        far = slot.to(tl.int64)
        k_place = k + b * k_b + h * k_h + far[None, :] * k_n + d[:, None]
        s = tl.dot(q_tile, tl.load(k_place, mask=slot[None, :] < n, other=0.0), input_precision=PRECISION)
        position = tl.load(positions + b * position_b + h * position_h + slot, mask=slot < n, other=-1)
        s = tl.where((position >= 0)[None, :], s * (scale * LOG2E), float("-inf"))
        v_place = v + b * v_b + h * v_h + far[:, None] * v_n + d[None, :]
        # An empty entry's value may be anything that was never written: 0 times NaN would be NaN.
        v_tile = tl.load(v_place, mask=(position >= 0)[:, None], other=0.0)
        m, total, acc = _update(s, v_tile, m, total, acc, PRECISION)
    _store(m_out, l_out, acc_out, m, total, acc, heads, used, d, parts, part + split, D)


@triton.jit(do_not_specialize=["parts"])  # they change from call to call
def merge_parts(m_in, l_in, acc_in, out, lse, parts, D: tl.constexpr, S: tl.constexpr):
    """One program a (row, query head): S parts at a time; see the module's equation."""
    head = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, S)
    d = tl.arange(0, D)
    largest = tl.full([S], float("-inf"), tl.float32)
    for at in range(0, parts, S):
        largest = tl.maximum(largest, tl.load(m_in + head * parts + at + s, mask=at + s < parts, other=float("-inf")))
    top = tl.max(largest, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.full([S], 0.0, tl.float32)
    acc = tl.full([D], 0.0, tl.float32)
    for at in range(0, parts, S):
        inside = at + s < parts
        place = head * parts + at + s
        weight = tl.exp2((tl.load(m_in + place, mask=inside, other=float("-inf")) - base) * LOG2E)
        # The sums of an empty part are not read: weight 0 times whatever stands there must be 0.
        inside = inside & (weight > 0.0)
        total += weight * tl.load(l_in + place, mask=inside, other=0.0)
        rows = tl.load(acc_in + place[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
        acc += tl.sum(weight[:, None] * rows, 0)
    sum_ = tl.sum(total, 0)
    tl.store(out + head * D + d, acc / tl.where(sum_ > 0.0, sum_, 1.0))
    tl.store(lse + head, tl.where(sum_ > 0.0, base + tl.log(tl.where(sum_ > 0.0, sum_, 1.0)), float("-inf")))
