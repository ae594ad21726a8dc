"""Numba's part of lut.py: one decoding step over packed codes, its stored heads and stretches of tokens in parallel.

Shapes: codes (B, H, blocks, M, bytes) uint8, packed; books (H or 1, M, C, d); query (B, H, Q, 4, D), scaled, its heads in
fours, so that four scores of a token lie side by side: they are one vector for the processor. All numbers are float32.
"""

import numpy as np
from numba import njit, prange

_INSIDE = {"inline": "always"}
NOTHING = np.float32(-1e30)  # the largest score of a stretch without a token: no infinity, as fastmath knows none
LOG2E = np.float32(1.4426950408889634)


@njit(fastmath=True, nogil=True, cache=True)
def _unpack(codes, bits, where):
    """where[m, t] = the index of a block's token t in sub-vector m, of packed rows, little-endian; T is a multiple of 8.
    Unsigned, which spares a test for negative ones at every use."""
    for m in range(where.shape[0]):
        packed, row = codes[m], where[m]
        if bits == 8:
            for t in range(row.shape[0]):
                row[t] = packed[t]
        elif bits == 6:
            for n in range(row.shape[0] // 4):
                a, b, c = packed[3 * n], packed[3 * n + 1], packed[3 * n + 2]
                row[4 * n], row[4 * n + 1] = a & 63, (a >> 6) | ((b & 15) << 2)
                row[4 * n + 2], row[4 * n + 3] = (b >> 4) | ((c & 3) << 4), c >> 2
        elif bits == 12:
            for n in range(row.shape[0] // 2):
                a, b, c = np.uint32(packed[3 * n]), np.uint32(packed[3 * n + 1]), np.uint32(packed[3 * n + 2])
                row[2 * n], row[2 * n + 1] = a | ((b & 15) << 8), (b >> 4) | (c << 4)
        else:
            each = 8 // bits
            for n in range(row.shape[0] // each):
                for i in range(each):
                    row[each * n + i] = (packed[n] >> (bits * i)) & ((1 << bits) - 1)


@njit(**_INSIDE)
def _copy_eight(x, y, at):
    """Read first, then written: for all the compiler knows the two overlap, and it would copy one by one. `at` is a
    number as it stands in the code, since a computed place costs a test for a negative one."""
    a, b, c, d = x[at], x[at + 1], x[at + 2], x[at + 3]
    e, f, g, h = x[at + 4], x[at + 5], x[at + 6], x[at + 7]
    y[at], y[at + 1], y[at + 2], y[at + 3] = a, b, c, d
    y[at + 4], y[at + 5], y[at + 6], y[at + 7] = e, f, g, h


@njit(fastmath=True, nogil=True, cache=True)
def _gather(book, where, tile):
    """tile[t, m] = book[m, index], a block's centroids; tile (T, M, d). A loop for each d, seven times faster than one for
    all of them."""
    parts, block = where.shape
    dim = book.shape[2]
    if dim == 2:
        for t in range(block):
            for m in range(parts):
                x, y = book[m, where[m, t]], tile[t, m]
                a, b = x[0], x[1]
                y[0], y[1] = a, b
    elif dim == 4:
        for t in range(block):
            for m in range(parts):
                x, y = book[m, where[m, t]], tile[t, m]
                a, b, c, d = x[0], x[1], x[2], x[3]
                y[0], y[1], y[2], y[3] = a, b, c, d
    elif dim == 8:
        for t in range(block):
            for m in range(parts):
                x, y = book[m, where[m, t]], tile[t, m]
                _copy_eight(x, y, 0)
    elif dim == 16:
        for t in range(block):
            for m in range(parts):
                x, y = book[m, where[m, t]], tile[t, m]
                _copy_eight(x, y, 0)
                _copy_eight(x, y, 8)
    elif dim == 32:
        for t in range(block):
            for m in range(parts):
                x, y = book[m, where[m, t]], tile[t, m]
                _copy_eight(x, y, 0)
                _copy_eight(x, y, 8)
                _copy_eight(x, y, 16)
                _copy_eight(x, y, 24)
    else:
        for t in range(block):
            for m in range(parts):
                for i in range(dim):
                    tile[t, m, i] = book[m, where[m, t], i]


@njit(fastmath=True, nogil=True, cache=True)
def _multiply(q, x, found):
    """found (4,) = the four queries times one vector."""
    q0, q1, q2, q3 = q[0], q[1], q[2], q[3]
    s0 = s1 = s2 = s3 = np.float32(0.0)
    for i in range(x.shape[0]):
        s0 += q0[i] * x[i]
        s1 += q1[i] * x[i]
        s2 += q2[i] * x[i]
        s3 += q3[i] * x[i]
    found[0], found[1], found[2], found[3] = s0, s1, s2, s3


@njit(fastmath=True, nogil=True, cache=True)
def _look_up(table, where, scores):
    """scores (T, 4) of a block = Σ_m table[m, index]; table (M, C, 4)."""
    for t in range(where.shape[1]):
        s0 = s1 = s2 = s3 = np.float32(0.0)
        for m in range(where.shape[0]):
            x = table[m, where[m, t]]
            s0 += x[0]
            s1 += x[1]
            s2 += x[2]
            s3 += x[3]
        y = scores[t]
        y[0], y[1], y[2], y[3] = s0, s1, s2, s3


@njit(fastmath=True, nogil=True, cache=True)
def _turn_back(q, cos, sin, turned):
    """turned (4, D) = R(−p) q, by the cos and sin (r / 2) of p."""
    half = cos.shape[0]
    for g in range(4):
        x, y = q[g], turned[g]
        x_right, y_right = x[half:], y[half:]
        for i in range(half):
            y[i] = x[i] * cos[i] + x_right[i] * sin[i]
            y_right[i] = x_right[i] * cos[i] - x[i] * sin[i]


@njit(fastmath=True, nogil=True, cache=True)
def _decode(q, book, where, near_cos, near_sin, scores, tile):
    """scores (T, 4) of a block = q · R(t) k_t: its keys decoded into `tile` (T, M, d), turned as they are multiplied."""
    block = where.shape[1]
    width, half = q.shape[1], near_cos.shape[1]
    _gather(book, where, tile)
    flat = tile.reshape(block, width)
    q0, q1, q2, q3 = q[0], q[1], q[2], q[3]
    r0, r1, r2, r3 = q0[half:], q1[half:], q2[half:], q3[half:]
    for t in range(block):
        s0 = s1 = s2 = s3 = np.float32(0.0)
        x, cos, sin = flat[t], near_cos[t], near_sin[t]
        x_right = x[half:]
        for i in range(half):
            a = x[i] * cos[i] - x_right[i] * sin[i]
            b = x_right[i] * cos[i] + x[i] * sin[i]
            s0 += q0[i] * a + r0[i] * b
            s1 += q1[i] * a + r1[i] * b
            s2 += q2[i] * a + r2[i] * b
            s3 += q3[i] * a + r3[i] * b
        for i in range(half, width - half):  # what no position turns
            v = x_right[i]
            s0 += r0[i] * v
            s1 += r1[i] * v
            s2 += r2[i] * v
            s3 += r3[i] * v
        y = scores[t]
        y[0], y[1], y[2], y[3] = s0, s1, s2, s3


@njit(fastmath=True, nogil=True, cache=True)
def _weigh(scores, first, peak, total):
    """exp(score − its largest) in place from token `first` on, 0 before; the largest and the sum of each of the four.

    exp as 2^n · 2^f, |f| ≤ ½, 2^f by its series to the sixth power (2e-7): libm's would be called number by number."""
    count = scores.shape[0]
    scores[:first] = np.float32(0.0)
    peak[:], total[:] = NOTHING, np.float32(0.0)
    if first >= count:
        return
    seen = scores[first:]
    a = b = c = d = NOTHING
    for t in range(count - first):
        x = seen[t]
        a, b, c, d = max(a, x[0]), max(b, x[1]), max(c, x[2]), max(d, x[3])
    peak[0], peak[1], peak[2], peak[3] = a, b, c, d
    power = np.empty(256, dtype=np.int32)
    two = power.view(np.float32)
    sums = np.zeros(256, dtype=np.float32)
    tops = np.empty(256, dtype=np.float32)
    for t in range(64):
        x = tops[4 * t :]
        x[0], x[1], x[2], x[3] = a, b, c, d
    flat = seen.reshape(-1)
    for start in range(0, flat.shape[0], 256):
        row = flat[start:]
        many = min(256, row.shape[0])
        for i in range(many):
            x = max((row[i] - tops[i]) * LOG2E, np.float32(-126.0))
            n = np.floor(x + np.float32(0.5))
            f = x - n
            power[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
            p = np.float32(1.5403530393381610e-4)
            p = p * f + np.float32(1.3333558146428443e-3)
            p = p * f + np.float32(9.6181291076284772e-3)
            p = p * f + np.float32(5.5504108664821580e-2)
            p = p * f + np.float32(2.4022650695910072e-1)
            p = p * f + np.float32(6.9314718055994531e-1)
            row[i] = p * f + np.float32(1.0)
        for i in range(many):
            row[i] *= two[i]
        for i in range(many):
            sums[i] += row[i]
    for t in range(64):
        x = sums[4 * t :]
        total[0] += x[0]
        total[1] += x[1]
        total[2] += x[2]
        total[3] += x[3]


@njit(fastmath=True, nogil=True, cache=True)
def _mix(weights, where, bins):
    """bins[m, index] += weights[t], four at once, over a block; bins (M, C, 4), weights (T, 4)."""
    for m in range(where.shape[0]):
        for t in range(where.shape[1]):
            x, y = bins[m, where[m, t]], weights[t]
            a, b, c, d = x[0], x[1], x[2], x[3]
            e, f, g, h = y[0], y[1], y[2], y[3]
            x[0], x[1], x[2], x[3] = a + e, b + f, c + g, d + h


@njit(fastmath=True, nogil=True, cache=True)
def _blend(weights, tile, out):
    """out[g] += Σ_t weights[t, g] · tile[t], four tokens at once; tile (T, D), out (4, D)."""
    for t in range(0, tile.shape[0], 4):
        x0, x1, x2, x3 = tile[t], tile[t + 1], tile[t + 2], tile[t + 3]
        for g in range(4):
            w0, w1, w2, w3 = weights[t, g], weights[t + 1, g], weights[t + 2, g], weights[t + 3, g]
            row = out[g]
            for i in range(row.shape[0]):
                row[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]


@njit(fastmath=True, nogil=True, cache=True)
def _add(weights, x, out):
    """out[g] += weights[g] · x; out (4, D)."""
    for g in range(4):
        w, row = weights[g], out[g]
        for i in range(x.shape[0]):
            row[i] += w * x[i]


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def step(query, exact, codes, books, tables, near, far, anchors, slots, start, bits, block, per):
    """(out (B, H, Q·4, D), largest score and sum of exp(score − it), both (B, H, Q·4)).

    exact: keys, values (B, H, w, D) of the tokens that are no codes; anchors (B, H, a, D) at slots (B, H, a), ascending, −1
    for none. tables (B, H, Q, M, C, 4) of a query's products with the book; where it has no rows keys are decoded, and turned by near: cos, sin
    (block, r / 2) of the positions within a block and far: cos, sin (B or 1, blocks, r / 2) of their first ones. A stretch is `per`
    blocks; start (B,) the first slot of a row that is a token."""
    batch, heads, quads, _, width = query.shape
    books_k, books_v = books
    _, parts, size, dim = books_v.shape
    blocks = codes[0].shape[2]
    stretches = (blocks + per - 1) // per + 1  # the last is the exact tokens
    turns = far[0].shape[0]
    peak = np.empty((batch * heads, stretches, quads, 4), dtype=np.float32)
    total = np.empty((batch * heads, stretches, quads, 4), dtype=np.float32)
    apart = np.zeros((batch * heads, stretches, quads, 4, width), dtype=np.float32)
    binned = dim > 4  # fewer channels than query heads side by side: their products cost less than bins do
    bins = np.empty((batch * heads, stretches - 1 if binned else 0, quads, parts, size, 4), dtype=np.float32)
    for work in prange(batch * heads * stretches):
        row, s = work // stretches, work % stretches
        b, h = row // heads, row % heads
        coded = s < stretches - 1
        begin = s * per if coded else blocks
        first = begin * block
        count = min(per, blocks - begin) * block if coded else exact[0].shape[2]
        unseen = min(max(np.int64(start[b]) - first, 0), count)
        scores = np.empty((count, 4), dtype=np.float32)
        where = np.empty((parts, block), dtype=np.uint32)
        tile = np.empty((block, parts, dim), dtype=np.float32)
        for quad in range(quads):
            q, out = query[b, h, quad], apart[row, s, quad]
            if not coded:
                for t in range(count):
                    _multiply(q, exact[0][b, h, t], scores[t])
                _weigh(scores, unseen, peak[row, s, quad], total[row, s, quad])
                for t in range(count):
                    _add(scores[t], exact[1][b, h, t], out)
                continue
            turned = q.copy()
            for n in range(count // block):
                _unpack(codes[0][b, h, begin + n], bits, where)
                found = scores[n * block :]
                if tables.shape[0]:
                    _look_up(tables[b, h, quad], where, found)
                else:
                    _turn_back(q, far[0][b % turns, begin + n], far[1][b % turns, begin + n], turned)
                    _decode(turned, books_k[h % books_k.shape[0]], where, near[0], near[1], found, tile)
            for a in range(slots[0].shape[2]):
                t = np.int64(slots[0][b, h, a]) - first
                if 0 <= t < count:
                    _multiply(q, anchors[0][b, h, a], scores[t])
            _weigh(scores, unseen, peak[row, s, quad], total[row, s, quad])
            for a in range(slots[1].shape[2]):
                t = np.int64(slots[1][b, h, a]) - first
                if 0 <= t < count:
                    _add(scores[t], anchors[1][b, h, a], out)
                    scores[t] = np.float32(0.0)
            if binned:
                bins[row, s, quad] = np.float32(0.0)
            for n in range(count // block):
                _unpack(codes[1][b, h, begin + n], bits, where)
                if binned:
                    _mix(scores[n * block :], where, bins[row, s, quad])
                else:
                    _gather(books_v[h % books_v.shape[0]], where, tile)
                    _blend(scores[n * block :], tile.reshape(block, width), out)
    merged = np.empty((batch * heads, quads, 4, width), dtype=np.float32)
    most = np.empty((batch * heads, quads, 4), dtype=np.float32)
    whole = np.empty((batch * heads, quads, 4), dtype=np.float32)
    for work in prange(batch * heads * parts):
        row, m = work // parts, work % parts
        book = books_v[(row % heads) % books_v.shape[0], m]
        share = np.empty((stretches, 4), dtype=np.float32)
        bin = np.empty((size, 4), dtype=np.float32)
        for quad in range(quads):
            for g in range(4):
                top = NOTHING
                for s in range(stretches):
                    top = max(top, peak[row, s, quad, g])
                mass = np.float32(0.0)
                for s in range(stretches):
                    share[s, g] = np.exp(peak[row, s, quad, g] - top)
                    mass += share[s, g] * total[row, s, quad, g]
                if m == 0:
                    most[row, quad, g], whole[row, quad, g] = top, mass
                over = np.float32(1.0) / mass if mass > 0 else np.float32(0.0)
                for s in range(stretches):
                    share[s, g] *= over
            bin[:] = np.float32(0.0)
            for s in range(bins.shape[1]):
                of = bins[row, s, quad, m]
                for c in range(size):
                    for g in range(4):
                        bin[c, g] += share[s, g] * of[c, g]
            for i in range(dim):
                s0 = s1 = s2 = s3 = np.float32(0.0)
                for c in range(size):
                    s0 += bin[c, 0] * book[c, i]
                    s1 += bin[c, 1] * book[c, i]
                    s2 += bin[c, 2] * book[c, i]
                    s3 += bin[c, 3] * book[c, i]
                for s in range(stretches):
                    of = apart[row, s, quad]
                    s0 += share[s, 0] * of[0, m * dim + i]
                    s1 += share[s, 1] * of[1, m * dim + i]
                    s2 += share[s, 2] * of[2, m * dim + i]
                    s3 += share[s, 3] * of[3, m * dim + i]
                to = merged[row, quad]
                to[0, m * dim + i], to[1, m * dim + i], to[2, m * dim + i], to[3, m * dim + i] = s0, s1, s2, s3
    return merged, most, whole
