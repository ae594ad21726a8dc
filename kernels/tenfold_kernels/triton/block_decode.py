"""One decode step that reads only the listed blocks of the KV cache: split-K, a kv-head's query heads together.

Equation, for a query head a of kv-head h: with U = the tokens i < length of the blocks listed for (b, h),
  o_a = sum_{i in U} p_i v_i,  p_i = exp(scale q_a.k_i - lse_a),  lse_a = log sum_{i in U} exp(scale q_a.k_i);
an empty U gives o 0 and lse -inf.

Layouts: q (B, Hq, D) contiguous; k, v any strides with a contiguous last axis: (B, Hkv, S, D), or pages
(pages, Hkv, P, D) with table int32 (B, pages of a row), P a multiple of BLOCK; lengths int32 (B,); indices
int32 (B, Hkv, K), the first counts[b, h] of a row valid, ascending; m, total float32 (B, Hq, splits), in units
of log 2, and acc float32 (B, Hq, splits, D); o (B, Hq, D), lse float32 (B, Hq).
Grid (splits, B*Hkv, ceil(G/GP)): a program reads its tiles of T tokens once for GP query heads, rows of one
product. The list is cut into `splits` equal parts by its own count, on the device; blocks shorter than T are
read several at once. `list_blocks` makes lists of a boolean mask, `combine` one softmax of the parts.

As the list ascends, the block of the row's last token is its last: what is seen is the first `seen` of
count*BLOCK slots. So all tiles but the one behind those go without a mask, and no entry needs a test.

Bytes: 2 D e a listed token and kv-head, 4 a listed block; flops: 4 D a listed token and query head (GP/G
times that on the tensor cores). The floor is memory: 64/8 heads at D 128 do 8 flops a byte.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _place(listed, table, b, at, seen, MASKED: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr, PAGE: tl.constexpr):
    """Page (the row itself where there are none) and tokens within it of the list's tile AT."""
    slot = at * T + tl.arange(0, T)
    if BLOCK >= T:  # one block: all scalar
        start = tl.load(listed + at * T // BLOCK) * BLOCK + at * T % BLOCK
        token = start + tl.arange(0, T)
        page = b
        if PAGE:
            page = tl.load(table + start // PAGE).to(tl.int64)
            token = start % PAGE + tl.arange(0, T)
    else:
        if MASKED:
            number = tl.load(listed + slot // BLOCK, mask=slot < seen, other=0)
        else:
            number = tl.load(listed + slot // BLOCK)
        token = number * BLOCK + slot % BLOCK
        page = b
        if PAGE:
            if MASKED:
                page = tl.load(table + token // PAGE, mask=slot < seen, other=0).to(tl.int64)
            else:
                page = tl.load(table + token // PAGE).to(tl.int64)
            token = token % PAGE
    return page, token.to(tl.int64), slot


@triton.jit
def _step(
    q_tile,
    k_head,
    v_head,
    listed,
    table,
    b,
    at,
    seen,
    factor,
    m,
    total,
    acc,
    k_b,
    k_n,
    v_b,
    v_n,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    PAGE: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Online softmax over one tile, m in units of log 2. Of every tile at least one token is seen."""
    page, token, slot = _place(listed, table, b, at, seen, MASKED, BLOCK, T, PAGE)
    d = tl.arange(0, DP)
    k_place = k_head + (page * k_b + token * k_n)[None, :] + d[:, None]
    v_place = v_head + (page * v_b + token * v_n)[:, None] + d[None, :]
    if MASKED:  # what was never written may be NaN, and 0 times NaN would be NaN
        k_tile = tl.load(k_place, mask=(slot < seen)[None, :] & (d < D)[:, None], other=0.0)
        v_tile = tl.load(v_place, mask=(slot < seen)[:, None] & (d < D)[None, :], other=0.0)
    elif D == DP:
        k_tile = tl.load(k_place)
        v_tile = tl.load(v_place)
    else:
        k_tile = tl.load(k_place, mask=(d < D)[:, None], other=0.0)
        v_tile = tl.load(v_place, mask=(d < D)[None, :], other=0.0)
    s = tl.dot(q_tile, k_tile, input_precision=PRECISION) * factor
    if MASKED:
        s = tl.where((slot < seen)[None, :], s, float("-inf"))
    m_new = tl.maximum(m, tl.max(s, 1))
    shrink = tl.exp2(m - m_new)
    p = tl.exp2(s - m_new[:, None])
    total = total * shrink + tl.sum(p, 1)
    acc = acc * shrink[:, None] + tl.dot(p.to(v_tile.dtype), v_tile, input_precision=PRECISION)
    return m_new, total, acc


@triton.jit(do_not_specialize=["capacity", "splits", "table_b"])  # they change from call to call
def block_part(
    q,
    k,
    v,
    lengths,
    indices,
    counts,
    table,
    m_out,
    l_out,
    acc_out,
    scale,
    capacity,  # K, entries of a list
    splits,
    table_b,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    HKV: tl.constexpr,
    G: tl.constexpr,
    GP: tl.constexpr,  # query heads of a program, filled up to tl.dot's least height
    D: tl.constexpr,
    DP: tl.constexpr,  # D filled up to a power of two
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    PAGE: tl.constexpr,  # tokens of a page, 0 where the cache has none
    PRECISION: tl.constexpr,
):
    split = tl.program_id(0)
    b = (tl.program_id(1) // HKV).to(tl.int64)
    h = (tl.program_id(1) % HKV).to(tl.int64)
    rows = tl.program_id(2) * GP + tl.arange(0, GP)
    used = rows < G
    heads = (b * HKV + h) * G + rows
    d = tl.arange(0, DP)
    q_tile = tl.load(q + heads[:, None] * D + d[None, :], mask=used[:, None] & (d < D)[None, :], other=0.0)
    listed = indices + (b * HKV + h) * capacity
    table_row = table + b * table_b

    count = tl.load(counts + b * HKV + h)
    last = tl.load(listed + tl.maximum(count - 1, 0), mask=count > 0, other=0)
    hidden = tl.maximum((last + 1) * BLOCK - tl.load(lengths + b), 0)
    seen = tl.maximum(count * BLOCK - hidden, 0)
    tiles = (seen + T - 1) // T
    share = (tiles + splits - 1) // splits
    begin = split * share
    end = tl.minimum(begin + share, tiles)
    whole = tl.minimum(end, seen // T)

    m = tl.full([GP], float("-inf"), tl.float32)
    total = tl.full([GP], 0.0, tl.float32)
    acc = tl.full([GP, DP], 0.0, tl.float32)
    factor = scale * LOG2E
    k_head = k + h * k_h
    v_head = v + h * v_h
    for at in range(begin, whole):
        m, total, acc = _step(
            q_tile, k_head, v_head, listed, table_row, b, at, seen, factor, m, total, acc, k_b, k_n, v_b, v_n,
            False, BLOCK, T, PAGE, D, DP, PRECISION,
        )  # fmt: skip
    if (begin < end) & (whole < end):
        m, total, acc = _step(
            q_tile, k_head, v_head, listed, table_row, b, whole, seen, factor, m, total, acc, k_b, k_n, v_b, v_n,
            True, BLOCK, T, PAGE, D, DP, PRECISION,
        )  # fmt: skip
    place = heads * splits + split
    tl.store(m_out + place, m, mask=used)
    tl.store(l_out + place, total, mask=used)
    tl.store(acc_out + place[:, None] * D + d[None, :], acc, mask=used[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["splits"])  # it changes from call to call
def combine(m_in, l_in, acc_in, out, lse, splits, D: tl.constexpr, DP: tl.constexpr, S: tl.constexpr):
    """One program a (row, query head), S parts at a time; an empty part weighs 0 and its sums are not read."""
    head = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, S)
    d = tl.arange(0, DP)
    top = float("-inf")
    total = 0.0
    acc = tl.full([DP], 0.0, tl.float32)
    for at in range(0, splits, S):
        place = head * splits + at + s
        m = tl.load(m_in + place, mask=at + s < splits, other=float("-inf"))
        filled = m > float("-inf")
        higher = tl.maximum(top, tl.max(m, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(m - base)
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(weight * tl.load(l_in + place, mask=filled, other=0.0), 0)
        parts = tl.load(acc_in + place[:, None] * D + d[None, :], mask=filled[:, None] & (d < D)[None, :], other=0.0)
        acc = acc * shrink + tl.sum(weight[:, None] * parts, 0)
        top = higher
    some = total > 0.0
    tl.store(out + head * D + d, acc / tl.where(some, total, 1.0), mask=d < D)
    tl.store(lse + head, tl.where(some, top * LN2 + tl.log(tl.where(some, total, 1.0)), float("-inf")))


@triton.jit(do_not_specialize=["blocks"])  # it changes from call to call
def list_blocks(mask, lengths, indices, counts, blocks, HKV: tl.constexpr, BLOCK: tl.constexpr, N: tl.constexpr):
    """The ascending list of a mask's blocks that begin before the row's length; one program a (row, kv-head)."""
    group = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, N)
    length = tl.load(lengths + group // HKV)
    found = 0
    for at in range(0, blocks, N):
        number = at + n
        wanted = tl.load(mask + group * blocks + number, mask=number < blocks, other=0) != 0
        chosen = (wanted & (number * BLOCK < length)).to(tl.int32)
        place = found + tl.cumsum(chosen, 0) - 1
        tl.store(indices + group * blocks + place, number, mask=chosen != 0)
        found += tl.sum(chosen, 0)
    tl.store(counts + group, found)
