"""Causal attention over listed blocks of packed documents, forward and backward: scores are never stored.

Equation (Long Exposure, arXiv 2510.15964, section 4: a pool of block patterns, one chosen a head), for query t of
head a and U(a, t) = the keys of the prefix and those keys i <= t of t's document whose block the pattern lists:
  o_t = sum_{i in U} p_ti v_i,  p_ti = exp(scale q_t.k_i - lse_t),  lse_t = log sum_{i in U} exp(scale q_t.k_i)
  delta_t = do_t.o_t,  ds_ti = p_ti (do_t.v_i - delta_t),
  dq_t = scale sum_i ds_ti k_i,  dk_i = scale sum_t ds_ti q_t,  dv_i = sum_t p_ti do_t
with dk and dv also over the G = Hq/Hkv query heads of a kv-head. An empty U gives o 0, lse -inf, dq 0.

Layouts: q, o, do, dq (Hq, Tq, E), k, v, dk, dv (Hkv, Tk, E), any strides with a contiguous last axis; lse, delta
float32 (Hq, Tq). The first Tk - Tq keys are the prefix; query t stands at key position Tk - Tq + t.
blocks int32 (N, 6), a row a block of BLOCK key positions: start, length, the table's row of its document's first
block, its number within the document, the document's number of blocks, the document; all but a document's last
are full. pattern int32 (Hq,) or (documents, Hq). For pattern p and the document's block i, row_idx[row_ptr[p, i]
: row_ptr[p, i + 1]] are the key blocks that the queries of i see, ascending and <= i, and col_idx, by col_ptr, is
the transpose: the blocks whose queries see block j, ascending.
Since all blocks before a document's last are full, block j starts (i - j) BLOCK before block i: a list entry
is a position, and entries other than i itself need no mask.

Grids: block_forward and block_dq, a program for ROWS queries of a block and a head, walk over its row list;
block_dkdv, a program for ROWS keys of a block and a kv-head, walks over the column lists of the group's heads, and
for keys of the prefix over all queries (these programs are started first: they do the most). Fixed orders and no
atomics: the same bytes each time. block_dq writes the delta that block_dkdv reads.

Bytes: forward e E (2 Hq Tq + 2 Hkv Tk) + 4 Hq Tq, backward e E (4 Hq Tq + 4 Hkv Tk) + 4 Hq Tq; the rest comes from
L2. Flops: forward 4 E a visible pair and head, backward 10 E (14 E done, as scores and do.v are made twice). The
floor is the matmul ceiling for long lists, memory for short ones.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
COLUMNS = tl.constexpr(6)  # of the table of blocks


@triton.jit
def _tile(base, stride, at, limit, N: tl.constexpr, E: tl.constexpr, EP: tl.constexpr):
    """Positions AT to AT + N of an (n, E) matrix, as (N, EP); those at or past LIMIT are 0."""
    n = tl.arange(0, N)
    e = tl.arange(0, EP)
    place = base + tl.cast(at, tl.int64) * stride + n[:, None] * stride + e[None, :]
    here = (n < limit - at)[:, None]
    if E != EP:
        here = here & (e < E)[None, :]
    return tl.load(place, mask=here, other=0.0)


@triton.jit
def _store(base, stride, at, limit, value, N: tl.constexpr, E: tl.constexpr, EP: tl.constexpr):
    n = tl.arange(0, N)
    e = tl.arange(0, EP)
    place = base + tl.cast(at, tl.int64) * stride + n[:, None] * stride + e[None, :]
    # Not written as in _tile: of one expression the compiler would keep the value in registers through the loop.
    tl.store(place, value, mask=(at + n < limit)[:, None] & (e < E)[None, :])


@triton.jit
def _walk(
    blocks, pattern, row_ptr, row_idx, offset, prefix_blocks, pattern_d, row_p,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, T: tl.constexpr, PREFIX: tl.constexpr,
):  # fmt: skip
    """What the rows of this program are and see: head, their first key position and their block's end; where block
    0 would start were all before this one full; the list; the steps of T keys over the prefix, and all steps. Late
    blocks, of long lists, come first."""
    PARTS: tl.constexpr = BLOCK // ROWS
    SUB: tl.constexpr = BLOCK // T
    turn = tl.num_programs(0) - 1 - tl.program_id(0)
    entry = blocks + (prefix_blocks + turn // PARTS) * COLUMNS
    head = tl.program_id(1)
    start = tl.load(entry)
    end = start + tl.load(entry + 1)
    number = tl.load(entry + 3)
    chosen = tl.load(pattern + tl.load(entry + 5) * pattern_d + head)
    begin = tl.load(row_ptr + chosen * row_p + number)
    entries = tl.load(row_ptr + chosen * row_p + number + 1) - begin
    own = tl.load(row_idx + begin + entries - 1, mask=entries > 0, other=-1) == number
    first = start + turn % PARTS * ROWS
    ahead = 0
    if PREFIX:
        ahead = (offset + T - 1) // T
    # Of the block itself only keys up to the program's last row are seen.
    steps = ahead + tl.where(
        own, (entries - 1) * SUB + tl.cdiv(tl.minimum(first + ROWS, end) - start, T), entries * SUB
    )
    some = first < end  # of a short block some programs have no row
    return head, first, end, start - number * BLOCK, row_idx + begin, ahead, tl.where(some, steps, 0)


@triton.jit
def _keys(at, listed, base, ahead, offset, end, BLOCK: tl.constexpr, T: tl.constexpr, PREFIX: tl.constexpr):
    """First key of step AT, and the end of what may be read."""
    SUB: tl.constexpr = BLOCK // T
    if PREFIX:
        slot = at - ahead
        number = tl.load(listed + slot // SUB, mask=slot >= 0, other=0)
        key = tl.where(slot >= 0, base + number * BLOCK + slot % SUB * T, at * T)
        limit = tl.where(slot >= 0, end, offset)
    else:
        key = base + tl.load(listed + at // SUB) * BLOCK + at % SUB * T
        limit = end
    return key, limit


@triton.jit(
    do_not_specialize=["offset", "prefix_blocks", "queries", "pattern_d", "row_p"]
)  # they change from call to call
def block_forward(
    q,
    k,
    v,
    o,
    lse,
    blocks,
    pattern,
    row_ptr,
    row_idx,
    scale,
    offset,  # Tk - Tq, keys of the prefix
    prefix_blocks,
    queries,  # Tq
    pattern_d,
    row_p,
    q_h,
    q_n,
    k_h,
    k_n,
    v_h,
    v_n,
    o_h,
    o_n,
    G: tl.constexpr,
    E: tl.constexpr,
    EP: tl.constexpr,  # E filled up to a power of two
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,  # queries of a program, a part of BLOCK
    T: tl.constexpr,  # keys of a step, a part of BLOCK
    PREFIX: tl.constexpr,  # whether there is one
    EXACT: tl.constexpr,
):
    head, first, end, base, listed, ahead, steps = _walk(
        blocks, pattern, row_ptr, row_idx, offset, prefix_blocks, pattern_d, row_p, BLOCK, ROWS, T, PREFIX
    )
    k_head = k + (head // G).to(tl.int64) * k_h
    v_head = v + (head // G).to(tl.int64) * v_h
    factor = scale * LOG2E
    position = first + tl.arange(0, ROWS)
    q_tile = _tile(q + head.to(tl.int64) * q_h, q_n, first - offset, end - offset, ROWS, E, EP)
    m = tl.full([ROWS], float("-inf"), tl.float32)  # in units of log 2
    total = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, EP], 0.0, tl.float32)
    for at in range(steps):
        key, limit = _keys(at, listed, base, ahead, offset, end, BLOCK, T, PREFIX)
        k_tile = _tile(k_head, k_n, key, limit, T, E, EP)
        v_tile = _tile(v_head, v_n, key, limit, T, E, EP)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision=EXACT) * factor
        # Keys of the prefix come before all rows, so that one comparison is enough.
        n = key + tl.arange(0, T)
        n = tl.where(n < limit, n, 2147483647)
        s = tl.where(n[None, :] <= position[:, None], s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1))  # finite: the first step of each walk has a key for every row
        shrink = tl.exp2(m - m_new)
        p = tl.exp2(s - m_new[:, None])
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision=EXACT)
        m = m_new
    some = total > 0.0
    weight = tl.where(some, total, 1.0)
    _store(o + head.to(tl.int64) * o_h, o_n, first - offset, end - offset, acc / weight[:, None], ROWS, E, EP)
    logsum = tl.where(some, m * LN2 + tl.log(weight), float("-inf"))
    tl.store(lse + head.to(tl.int64) * queries + position - offset, logsum, mask=position < end)


@triton.jit(
    do_not_specialize=["offset", "prefix_blocks", "queries", "pattern_d", "row_p"]
)  # they change from call to call
def block_dq(
    q,
    k,
    v,
    o,
    do,
    lse,
    delta_out,
    dq_out,
    blocks,
    pattern,
    row_ptr,
    row_idx,
    scale,
    offset,
    prefix_blocks,
    queries,
    pattern_d,
    row_p,
    q_h,
    q_n,
    k_h,
    k_n,
    v_h,
    v_n,
    o_h,
    o_n,
    do_h,
    do_n,
    dq_h,
    dq_n,
    G: tl.constexpr,
    E: tl.constexpr,
    EP: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    T: tl.constexpr,
    PREFIX: tl.constexpr,
    EXACT: tl.constexpr,
):
    head, first, end, base, listed, ahead, steps = _walk(
        blocks, pattern, row_ptr, row_idx, offset, prefix_blocks, pattern_d, row_p, BLOCK, ROWS, T, PREFIX
    )
    k_head = k + (head // G).to(tl.int64) * k_h
    v_head = v + (head // G).to(tl.int64) * v_h
    factor = scale * LOG2E
    position = first + tl.arange(0, ROWS)
    o_tile = _tile(o + head.to(tl.int64) * o_h, o_n, first - offset, end - offset, ROWS, E, EP)
    do_tile = _tile(do + head.to(tl.int64) * do_h, do_n, first - offset, end - offset, ROWS, E, EP)
    delta = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    place = head.to(tl.int64) * queries + position - offset
    tl.store(delta_out + place, delta, mask=position < end)
    q_tile = _tile(q + head.to(tl.int64) * q_h, q_n, first - offset, end - offset, ROWS, E, EP)
    # Rows that there are not weigh nothing: exp of -inf. Where lse is -inf there is no step.
    log2sum = tl.load(lse + place, mask=position < end, other=float("inf")) * LOG2E
    dq = tl.full([ROWS, EP], 0.0, tl.float32)
    for at in range(steps):
        key, limit = _keys(at, listed, base, ahead, offset, end, BLOCK, T, PREFIX)
        k_tile = _tile(k_head, k_n, key, limit, T, E, EP)
        v_tile = _tile(v_head, v_n, key, limit, T, E, EP)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision=EXACT) * factor
        n = key + tl.arange(0, T)
        n = tl.where(n < limit, n, 2147483647)
        s = tl.where(n[None, :] <= position[:, None], s, float("-inf"))
        p = tl.exp2(s - log2sum[:, None])
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=EXACT)
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k_tile.dtype), k_tile, dq, input_precision=EXACT)
    _store(dq_out + head.to(tl.int64) * dq_h, dq_n, first - offset, end - offset, dq * scale, ROWS, E, EP)


@triton.jit(do_not_specialize=["offset", "prefix_blocks", "prefix_tiles", "queries", "covered", "pattern_d", "col_p"])
def block_dkdv(
    q,
    k,
    v,
    do,
    lse,
    delta,
    dk_out,
    dv_out,
    blocks,
    pattern,
    col_ptr,
    col_idx,
    scale,
    offset,
    prefix_blocks,
    prefix_tiles,  # programs for keys of the prefix
    queries,  # Tq
    covered,  # queries of some document
    pattern_d,
    col_p,
    q_h,
    q_n,
    k_h,
    k_n,
    v_h,
    v_n,
    do_h,
    do_n,
    dk_h,
    dk_n,
    dv_h,
    dv_n,
    G: tl.constexpr,
    E: tl.constexpr,
    EP: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,  # keys of a program, a part of BLOCK
    T: tl.constexpr,  # queries of a step, a part of ROWS
    PREFIX: tl.constexpr,
    EXACT: tl.constexpr,
):
    SUB: tl.constexpr = BLOCK // T
    PARTS: tl.constexpr = BLOCK // ROWS
    turn = tl.program_id(0)
    h = tl.program_id(1)
    listing = True  # whether this program's keys are a document's
    if PREFIX:
        listing = turn >= prefix_tiles
        turn = tl.maximum(turn - prefix_tiles, 0)
    entry = blocks + (prefix_blocks + turn // PARTS) * COLUMNS
    start = tl.load(entry, mask=listing, other=0)
    end = start + tl.load(entry + 1, mask=listing, other=0)
    number = tl.load(entry + 3, mask=listing, other=0)
    many = tl.load(entry + 4, mask=listing, other=0)
    document = tl.load(entry + 5, mask=listing, other=0)
    closing = blocks + (tl.load(entry + 2, mask=listing, other=0) + many - 1) * COLUMNS  # the document's last block
    limit = tl.load(closing, mask=many > 0, other=0) + tl.load(closing + 1, mask=many > 0, other=0) - offset
    base = start - number * BLOCK - offset  # the document's first query
    first = start + turn % PARTS * ROWS
    if PREFIX:
        first = tl.where(listing, first, tl.program_id(0) * ROWS)
        end = tl.where(listing, end, offset)
        limit = tl.where(listing, limit, covered)

    key = first - offset + tl.arange(0, ROWS)  # as query positions, to compare with these
    k_tile = _tile(k + h.to(tl.int64) * k_h, k_n, first, end, ROWS, E, EP)
    v_tile = _tile(v + h.to(tl.int64) * v_h, v_n, first, end, ROWS, E, EP)
    dk = tl.full([ROWS, EP], 0.0, tl.float32)
    dv = tl.full([ROWS, EP], 0.0, tl.float32)
    factor = scale * LOG2E
    for g in range(G):
        head = (h * G + g).to(tl.int64)
        q_head = q + head * q_h
        do_head = do + head * do_h
        lse_head = lse + head * queries
        delta_head = delta + head * queries
        chosen = tl.load(pattern + document * pattern_d + head)
        begin = tl.load(col_ptr + chosen * col_p + number)
        stop = tl.load(col_ptr + chosen * col_p + number + 1)
        # The list is of the pool's longest document: what is past this one's end is left out.
        entries = 0
        for at in range(begin, stop, 32):
            slot = at + tl.arange(0, 32)
            below = tl.load(col_idx + slot, mask=slot < stop, other=2147483647) < many
            entries += tl.sum(below.to(tl.int32), 0)
        own = tl.load(col_idx + begin, mask=entries > 0, other=-1) == number
        # Of the block itself only the queries from this program's first key on see any.
        skip = tl.where(own, turn % PARTS * (ROWS // T), 0)
        steps = tl.where(first < end, entries * SUB, 0)  # of a short block some programs have no key
        if PREFIX:
            skip = tl.where(listing, skip, 0)
            steps = tl.where(listing, steps, (covered + T - 1) // T)
        for at in range(skip, steps):
            row = tl.load(col_idx + begin + at // SUB, mask=listing, other=0)
            start_of = base + row * BLOCK + at % SUB * T
            if PREFIX:
                start_of = tl.where(listing, start_of, at * T)
            query = start_of + tl.arange(0, T)
            q_tile = _tile(q_head, q_n, start_of, limit, T, E, EP)
            do_tile = _tile(do_head, do_n, start_of, limit, T, E, EP)
            log2sum = tl.load(lse_head + query, mask=query < limit, other=float("inf")) * LOG2E
            share = tl.load(delta_head + query, mask=query < limit, other=0.0)
            # Keys are the rows of the tile, so that no product needs the transpose of p or ds.
            s = tl.dot(k_tile, tl.trans(q_tile), input_precision=EXACT) * factor
            s = tl.where(key[:, None] <= query[None, :], s, float("-inf"))
            p = tl.exp2(s - log2sum[None, :])
            dv = tl.dot(p.to(do_tile.dtype), do_tile, dv, input_precision=EXACT)
            dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=EXACT)
            ds = p * (dp - share[None, :])
            dk = tl.dot(ds.to(q_tile.dtype), q_tile, dk, input_precision=EXACT)
    _store(dk_out + h.to(tl.int64) * dk_h, dk_n, first, end, dk * scale, ROWS, E, EP)
    _store(dv_out + h.to(tl.int64) * dv_h, dv_n, first, end, dv, ROWS, E, EP)
