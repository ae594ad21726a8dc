"""Products with the rows of a frozen weight that a list names: the neurons that are active, and no others.

Equations (Long Exposure, arXiv 2510.15964, section 4: both matrices of an MLP stored neuron by neuron), with
A = index[:count], u and b a low-rank term, f an epilogue:
  neuron_up    out = f(x w[A]^T + bias[A] + scale u b[A]^T)     f(z): z, relu(z), relu(z)^2, z 1[h>0], z 2 sqrt(h)
  neuron_down  y   = h w[A] + bias + scale u b^T
The second is fc2's forward and, with h = dz, fc1's backward; the first is fc1's forward and, with x = dy and the
last two of f, fc2's backward: h is what the forward gave, so that relu(z)^2 has the derivative 2 relu(z) = 2 sqrt(h).

Layouts: x (M, D), h and out (M, S), y (M, D), u (M, R), w (F, D), b (F, R) or (D, R): any row stride, contiguous
last axis; index int32 (S,), count int32 (1,) on the device. Slots at or past count are not read, neither their
index nor their column of h; out is 0 there. Without an index, slot n is row n.
Grid (ceil(M/BM) ceil(S/BN)), or of D in place of S: a program owns a tile of the result and walks over the other
axis. Either way a gather reads pieces of whole rows: BK of each of BN rows up, BN of each of BK rows down.

Bytes: e (M D + S D + M S), with R > 0 also e R (M + S), or (M + D); each once, if L2 holds what GROUP rows of tiles
share. Flops: 2 M S (D + R). The floor is the matmul ceiling: at M 4096, D 2048, S 2048, bfloat16, 34 GFLOP for 42 MB.
"""

import triton
import triton.language as tl

GROUP = tl.constexpr(8)  # tiles of rows that walk together over the columns


@triton.jit
def _place(m, n, BM: tl.constexpr, BN: tl.constexpr):
    """First row and column of this program's tile."""
    tall, wide = tl.cdiv(m, BM), tl.cdiv(n, BN)
    at = tl.program_id(0)
    first = at // (GROUP * wide) * GROUP
    height = tl.minimum(tall - first, GROUP)
    within = at % (GROUP * wide)
    return (first + within % height) * BM, within // height * BN


@triton.jit
def _low(
    u_rows, b_rows, scale, BM: tl.constexpr, BN: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, EXACT: tl.constexpr
):
    """scale u b^T of a tile, or 0. It comes first: what follows adds to it, and no second tile is kept."""
    acc = tl.full([BM, BN], 0.0, tl.float32)
    if R > 0:
        for at in tl.static_range(0, R, RP):
            r = at + tl.arange(0, RP)
            u_tile = tl.load(u_rows[:, None] + r[None, :], mask=(r < R)[None, :], other=0.0)
            b_tile = tl.load(b_rows[None, :] + r[:, None], mask=(r < R)[:, None], other=0.0)
            acc = tl.dot(u_tile, b_tile, acc, input_precision=EXACT)
        acc = acc * scale
    return acc


@triton.jit(do_not_specialize=["m"])  # it changes from call to call; that s is a multiple of 16 makes wide stores
def neuron_up(
    x,
    w,
    index,
    count,
    bias,
    u,
    b,
    h,
    out,
    scale,
    m,
    s,
    x_m,
    w_f,
    u_m,
    b_f,
    h_m,
    out_m,
    GATHER: tl.constexpr,
    COUNT: tl.constexpr,
    BIAS: tl.constexpr,
    EPILOGUE: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,  # 0 without a low-rank term
    RP: tl.constexpr,  # R filled up to a power of two, or a piece of it
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EXACT: tl.constexpr,
):
    row, column = _place(m, s, BM, BN)
    rows = row + tl.arange(0, BM)
    n = column + tl.arange(0, BN)
    filled = s
    if COUNT:
        filled = tl.minimum(tl.load(count), s)
    used = n < filled
    neuron = tl.where(used, n, 0)
    if GATHER:
        neuron = tl.load(index + n, mask=used, other=0)
    neuron = neuron.to(tl.int64)
    # Rows past the end read the last one, and are not stored: so the loop has no mask.
    read = tl.minimum(rows, m - 1).to(tl.int64)

    acc = _low(u + read * u_m, b + neuron * b_f, scale, BM, BN, R, RP, EXACT)
    if BIAS:
        acc += tl.load(bias + neuron, mask=used, other=0.0).to(tl.float32)[None, :]
    k = tl.arange(0, BK)
    x_place = x + read[:, None] * x_m + k[None, :]
    w_place = w + neuron[None, :] * w_f + k[:, None]
    steps = tl.where(column < filled, D // BK, 0)  # a tile of padding alone has nothing to add
    for at in range(steps):
        acc = tl.dot(tl.load(x_place + at * BK), tl.load(w_place + at * BK), acc, input_precision=EXACT)
    if D % BK:
        done: tl.constexpr = D // BK * BK
        inside = k < D - done
        x_tile = tl.load(x_place + done, mask=inside[None, :], other=0.0)
        w_tile = tl.load(w_place + done, mask=inside[:, None], other=0.0)
        acc = tl.dot(x_tile, w_tile, acc, input_precision=EXACT)

    stored = (rows < m)[:, None] & (n < s)[None, :]
    if EPILOGUE == "relu":
        acc = tl.where(acc < 0.0, 0.0, acc)  # NaN stays NaN, for whoever watches the loss
    elif EPILOGUE == "relu2":
        acc = tl.where(acc < 0.0, 0.0, acc)
        acc = acc * acc
    elif EPILOGUE == "relu_mask":
        acc = tl.where(tl.load(h + read[:, None] * h_m + n[None, :], mask=stored, other=0.0) > 0.0, acc, 0.0)
    elif EPILOGUE == "relu2_mask":
        seen = tl.load(h + read[:, None] * h_m + n[None, :], mask=stored, other=0.0)
        acc = acc * (2.0 * tl.sqrt(seen.to(tl.float32)))
    acc = tl.where(used[None, :], acc, 0.0)
    tl.store(out + rows.to(tl.int64)[:, None] * out_m + n[None, :], acc, mask=stored)


@triton.jit(do_not_specialize=["m", "s"])  # they change from call to call
def neuron_down(
    h,
    w,
    index,
    count,
    bias,
    u,
    b,
    y,
    scale,
    m,
    s,
    h_m,
    w_f,
    u_m,
    b_d,
    y_m,
    GATHER: tl.constexpr,
    COUNT: tl.constexpr,
    BIAS: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
    RP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EXACT: tl.constexpr,
):
    row, column = _place(m, D, BM, BN)
    rows = row + tl.arange(0, BM)
    n = column + tl.arange(0, BN)
    inside = n < D
    filled = s
    if COUNT:
        filled = tl.minimum(tl.load(count), s)
    read = tl.minimum(rows, m - 1).to(tl.int64)

    acc = _low(u + read * u_m, b + tl.where(inside, n, 0).to(tl.int64) * b_d, scale, BM, BN, R, RP, EXACT)
    if BIAS:
        acc += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    k = tl.arange(0, BK)
    h_place = h + read[:, None] * h_m + k[None, :]
    whole = filled // BK
    for at in range(whole):
        neuron = at * BK + k
        if GATHER:
            neuron = tl.load(index + neuron)
        w_place = w + neuron.to(tl.int64)[:, None] * w_f + n[None, :]
        w_tile = tl.load(w_place, mask=inside[None, :], other=0.0) if D % BN else tl.load(w_place)
        acc = tl.dot(tl.load(h_place + at * BK), w_tile, acc, input_precision=EXACT)
    if whole * BK < filled:  # padding is read neither of h nor of w: it may hold anything
        neuron = whole * BK + k
        used = neuron < filled
        if GATHER:
            neuron = tl.load(index + neuron, mask=used, other=0)
        w_place = w + neuron.to(tl.int64)[:, None] * w_f + n[None, :]
        w_tile = tl.load(w_place, mask=used[:, None] & inside[None, :], other=0.0)
        h_tile = tl.load(h_place + whole * BK, mask=used[None, :], other=0.0)
        acc = tl.dot(h_tile, w_tile, acc, input_precision=EXACT)
    tl.store(y + rows.to(tl.int64)[:, None] * y_m + n[None, :], acc, mask=(rows < m)[:, None] & inside[None, :])
