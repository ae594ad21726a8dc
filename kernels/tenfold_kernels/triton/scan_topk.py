"""The k rows of a matrix with the largest products with each query, exactly: a scan that keeps a maximum of each group.

Equation: for queries q_b and rows e_n, z[b, n] = q_b . e_n; of each query the k rows of the largest z, of equal z the
lower row first. A z that is not finite counts as -inf.

What is kept of the scan: best[b, g], the largest z of the R rows g*R .. g*R + R - 1. Order groups by their best, of
equals the lower first: whatever row is among the k first has its group among the k first groups, since each group
before its own holds a row that goes before it. So k groups are picked, their k*R rows scored again, and those sorted.
The scan does one comparison a score whatever k is, and no score is written.

Layouts: e (N, D), any row stride with a contiguous last axis; q (B, D) contiguous; terms (T, B, D) contiguous, of e's
dtype: q itself, or parts whose sum is a power of two times q, which orders a query's rows alike; best float32 (B, G),
G = ceil(N/R), rows best_b apart. Keys are int64: z's bits as an integer of the same order in the upper half, a group's
or a row's number in the lower; where there is none, the lowest int64 but one. Keys of a query always lie in ascending
order of those numbers, so that of equal z the earlier key goes first, and no sort is needed before the last step.

Launches: `split_queries`, grid (B,), where q is of another dtype than a 16-bit e. `scan_groups`, a program for BN rows
and BM queries, those of one BN side by side so that e comes from memory once: products by tensor cores, rows as the
longer side. `top_groups`, grid (B, chunks): the k best groups of CH. `merge_keys`, grid (B, chunks): the same of keys,
until one chunk has held all. `score_groups`, grid (B, ceil(k/GS)): scores the rows of GS groups, in float32 from q
itself. `write_top`, grid (B,): picks k of those rows and ranks them. The k-th largest of a chunk is found by a bit of
the order at a time, over counts.

Bytes: N D of e (0.60 GB for 784,524 x 384 in 16 bits), and beside it 8 B N/R for the maxima and B k R D e for the rows
scored again (at B 64, k 10: 4 % and 1 %); T BM/BN of e's bytes from L2 for the queries. Flops: 2 T N D a query. The
floor is memory up to about a hundred queries.
"""

import triton
import triton.language as tl

NONE = tl.constexpr(-0x7FFFFFFFFFFFFFFF)  # below every key of a group or row


@triton.jit
def _key(z, number):
    """int64 of z's order and NUMBER. A z is a sum that began with 0, and so never -0."""
    z = tl.where(tl.abs(z) < float("inf"), z, float("-inf"))
    bits = z.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (order.to(tl.int64) << 32) | number.to(tl.int64)


@triton.jit
def _chosen(key, wanted):
    """1 for the WANTED keys of the largest order, of equal order the earlier ones, else 0."""
    order = (key >> 32).to(tl.int32).to(tl.uint32, bitcast=True) ^ 0x80000000  # from 0
    edge = tl.full([], 0, tl.uint32)
    for step in tl.static_range(32):
        higher = edge | (1 << (31 - step))
        enough = tl.sum((order >= higher).to(tl.int32), 0) >= wanted
        edge = tl.where(enough, higher, edge)
    above = (order > edge).to(tl.int32)
    equal = (order == edge).to(tl.int32)
    return tl.where((equal != 0) & (tl.cumsum(equal, 0) <= wanted - tl.sum(above, 0)), 1, above)


@triton.jit
def _write_chosen(key, kept, found, k, N: tl.constexpr):
    """The FOUND chosen of N keys, in their order, and none after them up to k."""
    chosen = _chosen(key, found)
    tl.store(kept + tl.cumsum(chosen, 0) - 1, key, mask=chosen != 0)
    at = tl.arange(0, N)
    tl.store(kept + at, tl.full([N], NONE, tl.int64), mask=(at >= found) & (at < k))


@triton.jit(do_not_specialize=["queries"])  # it changes from call to call
def split_queries(q, terms, queries, D: tl.constexpr, DP: tl.constexpr, TERMS: tl.constexpr, HALF: tl.constexpr):
    b = tl.program_id(0)
    d = tl.arange(0, DP)
    rest = tl.load(q + b.to(tl.int64) * D + d, mask=d < D, other=0.0).to(tl.float32)
    # The largest number to 2^13 .. 2^14, or 2 .. 4, so that the last part is not subnormal where it counts.
    exponent = (tl.max(tl.abs(rest), 0).to(tl.int32, bitcast=True) >> 23) - 127
    up = tl.minimum((13 if HALF else 1) - exponent, 127)
    rest = rest * ((up + 127) << 23).to(tl.float32, bitcast=True)
    for term in tl.static_range(TERMS):
        part = rest.to(tl.float16 if HALF else tl.bfloat16)
        tl.store(terms + (term * queries + b).to(tl.int64) * D + d, part, mask=d < D)
        rest = rest - part.to(tl.float32)  # exactly


@triton.jit(do_not_specialize=["queries", "rows", "groups", "query_tiles"])  # they change from call to call
def scan_groups(
    terms,
    e,
    best,
    queries,  # B
    rows,  # N
    groups,  # G
    query_tiles,
    e_n,
    best_b,
    D: tl.constexpr,
    TERMS: tl.constexpr,
    R: tl.constexpr,
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    tile = tl.program_id(0) // query_tiles
    b = (tl.program_id(0) % query_tiles) * BM + tl.arange(0, BM)
    n = tile * BN + tl.arange(0, BN)
    e_rows = e + n.to(tl.int64)[:, None] * e_n
    acc = tl.full([BN, BM], 0.0, tl.float32)
    for at in range(0, D, BD):
        d = at + tl.arange(0, BD)
        e_mask = (n < rows)[:, None]
        q_mask = (b < queries)[None, :]
        if D % BD:
            e_mask = e_mask & (d < D)[None, :]
            q_mask = q_mask & (d < D)[:, None]
        e_tile = tl.load(e_rows + d[None, :], mask=e_mask, other=0.0)
        for term in tl.static_range(TERMS):
            q_place = terms + (term * queries + b).to(tl.int64)[None, :] * D + d[:, None]
            acc = tl.dot(e_tile, tl.load(q_place, mask=q_mask, other=0.0), acc, input_precision=PRECISION)
    seen = (tl.abs(acc) < float("inf")) & (n < rows)[:, None]
    z = tl.reshape(tl.where(seen, acc, float("-inf")), [BN // R, R, BM])
    g = tile * (BN // R) + tl.arange(0, BN // R)
    place = best + b.to(tl.int64)[None, :] * best_b + g[:, None]
    tl.store(place, tl.max(z, 1), mask=(b < queries)[None, :] & (g < groups)[:, None])


@triton.jit(do_not_specialize=["groups", "chunks", "k"])  # they change from call to call
def top_groups(best, kept, groups, chunks, k, best_b, CH: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    g = chunk * CH + tl.arange(0, CH)
    z = tl.load(
        best + b * best_b + g, mask=g < best_b, other=0.0
    )  # up to best_b, so that it is read 16 bytes at a time
    key = tl.where(g < groups, _key(z, g), NONE)
    _write_chosen(key, kept + (b * chunks + chunk) * k, tl.minimum(k, groups - chunk * CH), k, CH)


@triton.jit(do_not_specialize=["entries", "chunks", "k"])  # they change from call to call
def merge_keys(keys, kept, entries, chunks, k, CH: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    at = chunk * CH + tl.arange(0, CH)
    key = tl.load(keys + b * entries + at, mask=at < entries, other=NONE)
    found = tl.minimum(k, tl.sum((key != NONE).to(tl.int32), 0))
    _write_chosen(key, kept + (b * chunks + chunk) * k, found, k, CH)


@triton.jit(do_not_specialize=["rows", "k", "wanted", "slots"])  # they change from call to call
def score_groups(
    kept,
    q,
    e,
    scored,
    rows,  # N
    k,
    wanted,  # groups to score, k or all there are
    slots,  # keys written a query
    e_n,
    D: tl.constexpr,
    R: tl.constexpr,
    GS: tl.constexpr,
    BD: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * GS + tl.arange(0, GS)
    group = (tl.load(kept + b * k + slot, mask=slot < wanted, other=0) & 0x7FFFFFFF).to(tl.int32)
    n = tl.where((slot < wanted)[:, None], group[:, None] * R + tl.arange(0, R)[None, :], rows)
    n = tl.reshape(n, [GS * R])
    total = tl.full([GS * R], 0.0, tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        q_part = tl.load(q + b * D + d, mask=d < D, other=0.0).to(tl.float32)
        e_place = e + n.to(tl.int64)[:, None] * e_n + d[None, :]
        e_part = tl.load(e_place, mask=(n < rows)[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
        total += tl.sum(e_part * q_part[None, :], 1)
    place = scored + b * slots + tl.program_id(1) * (GS * R) + tl.arange(0, GS * R)
    tl.store(place, tl.where(n < rows, _key(total, n), NONE))


@triton.jit(do_not_specialize=["slots", "k"])  # they change from call to call
def write_top(scored, picked, scores, indices, slots, k, CH: tl.constexpr, K2: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, CH)
    key = tl.load(scored + b * slots + at, mask=at < slots, other=NONE)
    _write_chosen(key, picked + b * k, k, k, CH)
    tl.debug_barrier()  # what other threads have written is read next
    place = tl.arange(0, K2)
    key = tl.load(picked + b * k + place, mask=place < k, other=NONE)
    order = (key >> 32).to(tl.int32)
    first = order[None, :] > order[:, None]
    first = first | ((order[None, :] == order[:, None]) & (place[None, :] < place[:, None]))
    rank = tl.sum(first.to(tl.int32), 1)
    z = tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True)
    tl.store(scores + b * k + rank, z, mask=place < k)
    tl.store(indices + b * k + rank, key & 0x7FFFFFFF, mask=place < k)
