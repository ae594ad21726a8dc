"""Numba's part of fast.py: a decoding step on a CPU over chosen blocks where they lie, and the choice itself.

Shapes: query (B, Hq, D); keys, values (B Hkv, S, D); numbers are float32, or bfloat16 as uint16, which become float32 in
registers. A group's query heads go in fours, the last of them zeros where there are fewer, so that four products share what
is read.

`attender` and `chooser` make C functions of one table of int64, in the order that they read it: a counter of work that
threads take from until it is done, the work there is, sizes, addresses. They hold no lock of Python's, and whose threads
call them is fast.py's business.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

NOTHING = np.float32(
    -1e30
)  # the largest logit of a stretch without a token: exp of it is 0, and its own difference is a number
LOG2E = np.float32(1.4426950408889634)
_LOOSE = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; NaN and infinity stay what they are
_FAST = {"fastmath": _LOOSE, "nogil": True, "cache": True}


def _wide(x): ...


@overload(_wide, inline="always")
def _wide_of(x):
    if x == types.uint16:  # bfloat16 is the upper half of a float32
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@intrinsic
def _next(typingctx, counter):
    """An int64 in memory, which then grows by one: no two threads are given the same."""

    def code(context, builder, signature, args):
        at = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", at, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(types.voidptr), code


@intrinsic
def _at(typingctx, address):
    def code(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), code


@intrinsic
def _fetch(typingctx, address):
    """Memory that is about to be read comes to a core's second cache, as the first would lose what is read now: blocks lie
    anywhere, and a processor foresees nothing but what comes next."""

    def code(context, builder, signature, args):
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(call, [builder.inttoptr(args[0], byte), *(ir.Constant(flag, n) for n in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), code


@njit(**_FAST)
def _multiply(q, keys, found, ahead):
    """found[g, t] = q[g] · keys[t]; q (4 n, D). As many bytes from `ahead` on are fetched on the way, where it is not 0."""
    row = keys.shape[1] * keys.itemsize
    for g in range(0, q.shape[0], 4):
        q0, q1, q2, q3 = q[g], q[g + 1], q[g + 2], q[g + 3]
        for t in range(keys.shape[0]):
            if ahead and g == 0:
                for at in range(t * row, (t + 1) * row, 64):
                    _fetch(ahead + at)
            x = keys[t]
            s0 = s1 = s2 = s3 = np.float32(0.0)
            for i in range(x.shape[0]):
                k = _wide(x[i])
                s0 += q0[i] * k
                s1 += q1[i] * k
                s2 += q2[i] * k
                s3 += q3[i] * k
            found[g, t], found[g + 1, t], found[g + 2, t], found[g + 3, t] = s0, s1, s2, s3


@njit(fastmath=True, nogil=True, cache=True)  # a maximum in any order needs all of it
def _largest(row):
    top = NOTHING
    for i in range(row.shape[0]):
        top = max(top, row[i])
    return top


@njit(**_FAST)
def _weigh(row, top):
    """exp(logit − top) in place, and their sum. exp as 2^n · 2^f, |f| ≤ ½, 2^f by its series to the sixth power (2e-7): libm's
    would be called number by number."""
    total = np.float32(0.0)
    for i in range(row.shape[0]):
        x = (row[i] - top) * LOG2E
        x = np.float32(-126.0) if x < np.float32(-126.0) else x
        n = np.floor(x + np.float32(0.5))
        f = x - n
        p = np.float32(1.5403530393381610e-4)
        p = p * f + np.float32(1.3333558146428443e-3)
        p = p * f + np.float32(9.6181291076284772e-3)
        p = p * f + np.float32(5.5504108664821580e-2)
        p = p * f + np.float32(2.4022650695910072e-1)
        p = p * f + np.float32(6.9314718055994531e-1)
        p = p * f + np.float32(1.0)
        p *= np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
        row[i] = p
        total += p
    return total


@njit(**_FAST)
def _blend(weights, values, out, ahead):
    """out[g] += Σ_t weights[g, t] · values[t], four heads and four tokens at once; out (4 n, D); `ahead` as above."""
    tokens, width = values.shape
    row = width * values.itemsize
    whole = tokens // 4 * 4
    for g in range(0, out.shape[0], 4):
        wa, wb, wc, wd = weights[g], weights[g + 1], weights[g + 2], weights[g + 3]
        ya, yb, yc, yd = out[g], out[g + 1], out[g + 2], out[g + 3]
        for t in range(0, whole, 4):
            if ahead and g == 0:
                for at in range(t * row, (t + 4) * row, 64):
                    _fetch(ahead + at)
            x0, x1, x2, x3 = values[t], values[t + 1], values[t + 2], values[t + 3]
            a0, a1, a2, a3 = wa[t], wa[t + 1], wa[t + 2], wa[t + 3]
            b0, b1, b2, b3 = wb[t], wb[t + 1], wb[t + 2], wb[t + 3]
            c0, c1, c2, c3 = wc[t], wc[t + 1], wc[t + 2], wc[t + 3]
            d0, d1, d2, d3 = wd[t], wd[t + 1], wd[t + 2], wd[t + 3]
            for i in range(width):
                v0, v1, v2, v3 = _wide(x0[i]), _wide(x1[i]), _wide(x2[i]), _wide(x3[i])
                a, b, c, d = ya[i], yb[i], yc[i], yd[i]
                ya[i] = a + (a0 * v0 + a1 * v1) + (a2 * v2 + a3 * v3)
                yb[i] = b + (b0 * v0 + b1 * v1) + (b2 * v2 + b3 * v3)
                yc[i] = c + (c0 * v0 + c1 * v1) + (c2 * v2 + c3 * v3)
                yd[i] = d + (d0 * v0 + d1 * v1) + (d2 * v2 + d3 * v3)
    for t in range(whole, tokens):
        x = values[t]
        for g in range(out.shape[0]):
            y, w = out[g], weights[g, t]
            for i in range(width):
                y[i] += w * _wide(x[i])


@njit(**_FAST)
def _place(chosen, row, m, block):
    """First token of a list's block m; a `chosen` without columns is every block in order."""
    return (np.int64(chosen[row, m]) if chosen.shape[1] else m) * block


@njit(**_FAST)
def _attend(query, keys, values, lengths, chosen, counts, block, per, scale, row, s, parts, sums):
    """Piece s of a list, `per` of its entries: the sum of values by exp(logit − the largest), that logit and the sum of exp,
    into parts (B Hkv, pieces, G, D) and sums (B Hkv, pieces, G, 2); G = g rounded up to fours.

    chosen (B Hkv, K) with counts (B Hkv,); lengths (B,)."""
    lists, _, fours, width = parts.shape
    stored = lists // query.shape[0]
    group = query.shape[1] // stored
    q = np.zeros((fours, width), dtype=np.float32)
    logits = np.empty((fours, per * block), dtype=np.float32)
    b, h = row // stored, row % stored
    length = lengths[b]
    for g in range(group):
        for i in range(width):
            q[g, i] = _wide(query[b, h * group + g, i]) * scale
    begin, end = s * per, min(np.int64(counts[row]), (s + 1) * per)
    seen = 0
    for m in range(begin, end):
        at, ahead = _place(chosen, row, m, block), np.int64(0)
        if m + 1 < end:
            ahead = keys[row, _place(chosen, row, m + 1, block) :].ctypes.data
        elif begin < end:
            ahead = values[row, _place(chosen, row, begin, block) :].ctypes.data
        here = min(block, length - at)
        if here > 0:
            _multiply(q, keys[row, at : at + here], logits[:, seen : seen + here], ahead)
            seen += here
    out = parts[row, s]
    out[:] = np.float32(0.0)
    for g in range(fours):
        top = _largest(logits[g, :seen])
        sums[row, s, g, 0], sums[row, s, g, 1] = top, _weigh(logits[g, :seen], top)
    seen = 0
    for m in range(begin, end):
        at, ahead = _place(chosen, row, m, block), np.int64(0)
        if m + 1 < end:
            ahead = values[row, _place(chosen, row, m + 1, block) :].ctypes.data
        here = min(block, length - at)
        if here > 0:
            _blend(logits[:, seen : seen + here], values[row, at : at + here], out, ahead)
            seen += here


@njit(**_FAST)
def _merge(parts, sums, out):
    """A list's pieces as one softmax: out (g, D); zeros for a list without tokens."""
    width = out.shape[1]
    for g in range(out.shape[0]):
        y, top, mass = out[g], NOTHING, np.float32(0.0)
        for s in range(parts.shape[0]):
            top = max(top, sums[s, g, 0])
        y[:] = np.float32(0.0)
        for s in range(parts.shape[0]):
            x = parts[s, g]
            share = np.exp(sums[s, g, 0] - top)
            mass += share * sums[s, g, 1]
            for i in range(width):
                y[i] += share * x[i]
        over = np.float32(1.0) / mass if mass > 0 else np.float32(0.0)
        for i in range(width):
            y[i] *= over


@njit(**_FAST)
def _turn(x, cos, sin, back):
    """Channels i and i + half of x turned in place, or turned back."""
    half = cos.shape[0]
    for i in range(half):
        left, right, s = x[i], x[i + half], -sin[i] if back else sin[i]
        x[i], x[i + half] = left * cos[i] - right * s, right * cos[i] + left * s


@njit(**_FAST)
def _project(x, weight, out):
    """out = x · weight (n, dg)."""
    width = out.shape[0]
    whole = x.shape[0] // 4 * 4
    out[:] = np.float32(0.0)
    for n in range(0, whole, 4):
        a, b, c, d = x[n], x[n + 1], x[n + 2], x[n + 3]
        w0, w1, w2, w3 = weight[n], weight[n + 1], weight[n + 2], weight[n + 3]
        for i in range(width):
            out[i] += (a * _wide(w0[i]) + b * _wide(w1[i])) + (c * _wide(w2[i]) + d * _wide(w3[i]))
    for n in range(whole, x.shape[0]):
        a, w = x[n], weight[n]
        for i in range(width):
            out[i] += a * _wide(w[i])


@njit(nogil=True, cache=True)
def _take(scores, blocks, most, sink, local, taken):
    """select.select's `most` of so many blocks, ascending, into `taken`, −1 after them; False where a score before the tail
    is NaN or infinity."""
    ranks = np.empty(blocks, dtype=np.float32)
    for j in range(blocks - 1):
        if not scores[j] < np.inf:
            return False
        ranks[j] = scores[j]
    for j in range(blocks):
        if j < sink or j >= blocks - local:
            ranks[j] = np.inf
    least = np.partition(ranks, blocks - most)[blocks - most]
    spare = most
    for j in range(blocks):
        spare -= ranks[j] > least
    n = 0
    for j in range(blocks):
        if ranks[j] > least or (ranks[j] == least and spare > 0):  # of equals the lower blocks
            spare -= ranks[j] == least
            taken[n] = j
            n += 1
    taken[n:] = -1
    return True


@njit(**_FAST)
def _choose(query, back, weight, norm, eps, on, compressed, length, most, block, sink, local, h, scores, taken):
    """One list, of a stored head h: scores (N,) of the blocks before the tail and `taken` (K,); False where a score is none.

    query (Hq, D); back: cos, sin (r / 2,) of the model's rotation, over its factor; on: those of the gate's; either is empty
    for none. weight (g D, dg); norm (dg,), or empty; compressed (N, dg)."""
    rows, wide = weight.shape
    width = query.shape[1]
    group = rows // width
    x = np.empty(rows, dtype=np.float32)
    features = np.empty(wide, dtype=np.float32)
    for g in range(group):
        for i in range(width):
            x[g * width + i] = _wide(query[h * group + g, i])
        _turn(x[g * width : (g + 1) * width], back[0], back[1], True)
    _project(x, weight, features)
    if norm.shape[0]:
        mean = np.float32(0.0)
        for i in range(wide):
            mean += features[i] * features[i]
        over = np.float32(1.0) / np.sqrt(mean / np.float32(wide) + eps)
        for i in range(wide):
            features[i] *= over * norm[i]
    _turn(features, on[0], on[1], False)
    over = np.float32(1.0) / np.sqrt(np.float32(wide))
    for i in range(wide):
        features[i] *= over
    blocks = (length + block - 1) // block
    for j in range(blocks - 1):
        key, z = compressed[j], np.float32(0.0)
        for i in range(wide):
            z += features[i] * key[i]
        scores[j] = z
    scores[blocks - 1 :] = np.float32(0.0)
    return _take(scores, blocks, most, sink, local, taken)


@functools.cache
def attender(kind):
    """`_attend` over all pieces, for queries, keys and values of float32 or uint16."""

    @cfunc(types.void(types.voidptr), cache=True)
    def body(table):
        t = carray(table, (23,), np.int64)
        batch, heads, lists, tokens, width, most, block, per, pieces, fours = t[2:12]
        query = carray(_at(t[12]), (batch, heads, width), kind)
        keys = carray(_at(t[13]), (lists, tokens, width), kind)
        values = carray(_at(t[14]), (lists, tokens, width), kind)
        lengths = carray(_at(t[15]), (batch,), np.int64)
        chosen = carray(_at(t[16]), (lists, most), np.int32)
        counts = carray(_at(t[17]), (lists,), np.int32)
        scale = carray(_at(t[18]), (1,), np.float32)[0]
        parts = carray(_at(t[19]), (lists, pieces, fours, width), np.float32)
        sums = carray(_at(t[20]), (lists, pieces, fours, 2), np.float32)
        out = carray(_at(t[21]), (lists, heads * batch // lists, width), np.float32)
        while True:
            work = _next(table)
            if work >= t[1]:
                break
            row = work // pieces
            _attend(query, keys, values, lengths, chosen, counts, block, per, scale, row, work % pieces, parts, sums)
            if _next(_at(t[22] + 8 * row)) == pieces - 1:  # who is last with a list
                _merge(parts[row], sums[row], out[row])

    return body


@functools.cache
def chooser(kind, weights):
    """`_choose` over all lists, for queries and weights of float32 or uint16."""

    @cfunc(types.void(types.voidptr), cache=True)
    def body(table):
        t = carray(table, (29,), np.int64)
        batch, heads, stored, held, width, wide, turned, turns, normed, block, sink, local, blocks, most = t[2:16]
        query = carray(_at(t[16]), (batch, heads, width), kind)
        weight = carray(_at(t[17]), (stored, heads // stored * width, wide), weights)
        norm = carray(_at(t[18]), (normed,), np.float32)
        compressed = carray(_at(t[19]), (batch * stored, held, wide), np.float32)
        back = carray(_at(t[20]), (2, batch, turned), np.float32)
        on = carray(_at(t[21]), (2, batch, turns), np.float32)
        eps = carray(_at(t[22]), (1,), np.float32)[0]
        scores = carray(_at(t[23]), (batch * stored, blocks), np.float32)
        taken = carray(_at(t[24]), (batch * stored, most), np.int32)
        counts = carray(_at(t[25]), (batch * stored,), np.int32)
        lengths = carray(_at(t[26]), (batch,), np.int64)
        ceilings = carray(_at(t[27]), (batch,), np.int64)
        wrong = carray(_at(t[28]), (1,), np.int64)
        while True:
            row = _next(table)
            if row >= t[1]:
                break
            b, h = row // stored, row % stored
            counts[row] = ceilings[b]
            if not _choose(
                query[b], (back[0, b], back[1, b]), weight[h], norm, eps, (on[0, b], on[1, b]), compressed[row], lengths[b],
                ceilings[b], block, sink, local, h, scores[row], taken[row],
            ):  # fmt: skip
                wrong[0] = 1

    return body
