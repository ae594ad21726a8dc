"""Unbiased estimators over draws without replacement: Pass@K, pass^K, G-Pass@K, mG-Pass@K, Cons@K.

Pure numpy, under `metric.py`; knows counts, never records. Every function takes per-problem
counts and returns one row a problem: averaging over problems, and intervals, belong to the caller.

All binomial ratios come from one table of factorials held as (mantissa, exponent) pairs, each
mantissa correctly rounded, so a ratio of nine factorials is wrong by at most ten roundings
whatever n is: no sums of lgamma, whose error grows with n log n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tenfold_shared import BadInput

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_SAMPLES = 1 << 20
"""Largest n a problem may have: the factorial table is linear in it (0.2 s and 16 MB at this size)."""

CONS_EXACT_UP_TO = 512
"""Cons@K is exact for problems of up to this many samples, Monte Carlo above."""
CONS_DRAWS = 4096

_TINY = 1e-2  # below this, 1 − r has lost digits and is recomputed as a sum of positive terms
_CHUNK = 1 << 21  # hypergeometric terms held at once (16 MB an array)


def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, ks: npt.ArrayLike) -> Floats:
    """Pass@K = 1 − binom(n−c, K) / binom(n, K): the chance that K of the n samples hold a right one.

    Unbiased for 1 − (1 − p)^K (Chen et al. 2021, eq. 1; arXiv 2506.14245 §3). With D, the samples
    that are right for the right reason, in the place of c it is CoT-Pass@K.

    n, c: integers, shape (M,) or broadcastable to it; ks: integers, shape (J,).
    Returns float64 (M, J); absolute error below 1e-15, relative error below 1e-13.
    Raises BadInput for K > n (never a made-up 1.0), c < 0, c > n, NaN, anything not an integer.
    """
    n, c, ks = _checked(n, c, ks)
    (n, c), back = _distinct(n, c)
    out = np.empty((len(n), len(ks)))
    for j, k in enumerate(ks):
        value = 1.0 - _avoid(n, c, k)
        tiny = np.flatnonzero((value < _TINY) & (c > 0))
        value[tiny] = _hit_by_recurrence(n[tiny], c[tiny], int(k))
        out[:, j] = value
    return out[back]


def pass_hat_k(n: npt.ArrayLike, c: npt.ArrayLike, ks: npt.ArrayLike) -> Floats:
    """pass^K = binom(c, K) / binom(n, K): the chance that all K drawn samples are right.

    Shapes and errors as `pass_at_k`.
    """
    n, c, ks = _checked(n, c, ks)
    return np.stack([_avoid(n, n - c, k) for k in ks], axis=1) if len(ks) else np.empty((len(n), 0))


def g_pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, ks: npt.ArrayLike, taus: Sequence[float]) -> Floats:
    """G-Pass@K_τ = Σ_{j ≥ max(1, ⌈τK⌉)} binom(c, j) binom(n−c, K−j) / binom(n, K) (arXiv 2412.13147).

    The chance that at least a share τ of K drawn samples is right; τ = 1 is pass^K, τ → 0 Pass@K.
    Returns float64 (T, M, J) for T thresholds in [0, 1]. Errors as `pass_at_k`.
    """
    bad = [tau for tau in taus if not 0.0 <= tau <= 1.0]
    if bad:
        raise BadInput(f"tau: expected shares in [0, 1], got {bad[0]}")

    def credit(k: int) -> Floats:
        j = np.arange(k + 1)
        return np.stack([(j >= _at_least(tau, k)).astype(float) for tau in taus], axis=1)

    return _expected_credit(n, c, ks, len(taus), credit)


def mg_pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, ks: npt.ArrayLike) -> Floats:
    """mG-Pass@K = (2/K) Σ_{i=⌈K/2⌉+1..K} G-Pass@K_{i/K} (arXiv 2412.13147): stability above one half.

    Returns float64 (M, J). At K = 1 the sum is empty and the value 0 for every problem, as in the
    published implementations; a perfect model reaches 2⌊K/2⌋/K, which is 1 for even K only.
    """

    def credit(k: int) -> Floats:
        # Σ_i 1{j ≥ i} over the i above the half counts how far j is past it.
        return (2.0 / k) * np.maximum(np.arange(k + 1) - (k + 1) // 2, 0)[:, None]

    return _expected_credit(n, c, ks, 1, credit)[0]


def cons_at_k(
    counts: Sequence[int],
    credit: Sequence[float],
    n: int,
    ks: Sequence[int],
    seed: int = 0,
    exact_up_to: int = CONS_EXACT_UP_TO,
) -> tuple[Floats, Floats]:
    """Cons@K (maj@K) of one problem: the chance that the plurality answer of K drawn samples is right.

    counts: samples per distinct answer, shape (G,); credit: 1 for a right answer, 0 for a wrong one
    (or the share of its samples graded right). The other n − Σ counts samples gave no answer: they
    can be drawn but vote for nothing. A tie is broken by a fair draw among the tied answers, and
    a subset without any answer is wrong.

    Returns (value, stderr), each (J,). Exact (stderr 0) for n ≤ exact_up_to; above that a mean over
    CONS_DRAWS seeded draws and its standard error.
    """
    n_, _, ks_ = _checked([n], [0], ks)
    votes, right = np.asarray(counts, dtype=np.int64), np.asarray(credit, dtype=float)
    if votes.shape != right.shape or votes.ndim != 1:
        raise BadInput("credit: expected one value for each answer count")
    if (votes < 1).any() or votes.sum() > n or not ((right >= 0) & (right <= 1)).all():
        raise BadInput("counts: expected positive counts that add up to at most n, with credits in [0, 1]")
    if n_[0] <= exact_up_to:
        return _cons_exact(votes, right, n, ks_), np.zeros(len(ks_))
    return _cons_sampled(votes, right, n, ks_, seed)


# ---- checks and sharing


def integers(values: npt.ArrayLike, name: str) -> Ints:
    """`values` as int64, at least one-dimensional; BadInput unless every one is an integer."""
    array = np.atleast_1d(np.asarray(values))
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.rint(array)).any() or (abs(array) > 2**53).any():
            raise BadInput(f"{name}: expected integers, got {array[_first(array != np.rint(array))]}")
    elif array.dtype.kind not in "iu" or (array > np.iinfo(np.int64).max).any():
        raise BadInput(f"{name}: expected integers, got {array.dtype} values such as {array.flat[0]!r}")
    return array.astype(np.int64)


def _first(mask: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(mask))


def _checked(n: npt.ArrayLike, c: npt.ArrayLike, ks: npt.ArrayLike) -> tuple[Ints, Ints, Ints]:
    """The three arguments as int64 arrays of shapes (M,), (M,), (J,), or BadInput."""
    ks = integers(ks, "k")
    try:
        n, c = np.broadcast_arrays(integers(n, "n"), integers(c, "c"))
    except ValueError:
        raise BadInput(f"c: expected as many counts as n has, got {np.size(c)} and {np.size(n)}") from None
    if n.ndim != 1 or ks.ndim != 1:
        raise BadInput("n, c, k: expected one-dimensional arrays")
    if len(ks) and ks.min() < 1:
        raise BadInput(f"k: expected K of at least 1, got {ks.min()}")
    if not len(n):
        return n, c, ks
    if ((c < 0) | (c > n)).any():
        at = _first((c < 0) | (c > n))
        raise BadInput(f"c: expected 0 <= c <= n, got c = {c[at]} of n = {n[at]} (problem {at})")
    if n.max() > MAX_SAMPLES:
        raise BadInput(f"n: expected at most {MAX_SAMPLES} samples a problem, got {n.max()}")
    if len(ks) and ks.max() > n.min():
        at = int(np.argmin(n))
        raise BadInput(f"k: K = {ks.max()} is more than the n = {n[at]} samples of problem {at}; lower K")
    return n, c, ks


def _distinct(n: Ints, c: Ints) -> tuple[tuple[Ints, Ints], Ints | slice]:
    """The distinct (n, c) pairs and where each problem finds its own (benchmarks share one n)."""
    if not len(n):
        return (n, c), slice(None)
    low, width = int(n.min()), int(n.max()) + 1
    cells = (width - low) * width
    if cells > 32 * len(n):
        return (n, c), slice(None)
    key = (n - low) * width + c
    used = np.zeros(cells, dtype=bool)
    used[key] = True
    pairs = np.flatnonzero(used)
    return (pairs // width + low, pairs % width), (np.cumsum(used) - 1)[key]


# ---- binomial ratios


def _factorials(limit: int) -> tuple[Floats, Ints]:
    """The table up to at least `limit`!; sizes are powers of two, so that growing n shares it."""
    return _factorial_table(1 << max(int(limit), 1).bit_length())


@lru_cache(maxsize=4)
def _factorial_table(size: int) -> tuple[Floats, Ints]:
    """(mantissa, exponent) with i! = mantissa[i] · 2^exponent[i], mantissa in [0.5, 1), for i < size.

    The product is carried in 128 bits: after a million steps it is still right to 107.
    """
    leading, shifts = [1.0] * size, [0] * size
    product, shift = 1, 0
    for i in range(1, size):
        product *= i
        excess = product.bit_length() - 128
        if excess > 0:
            product >>= excess
            shift += excess
        leading[i], shifts[i] = float(product), shift
    mantissa, exponent = np.frexp(np.array(leading))
    return mantissa, np.array(shifts, dtype=np.int64) + exponent


def _avoid(n: Ints, marked: Ints, k: int) -> Floats:
    """binom(n−marked, k) / binom(n, k): the chance that k draws miss all marked samples, shape (M,)."""
    if not len(n):
        return np.empty(0)
    m, e = _factorials(int(n.max()))
    left = n - marked - k
    possible = left >= 0
    left = np.maximum(left, 0)
    # (n−marked)! (n−k)! / (n! (n−marked−k)!)
    ratio = (m[n - marked] / m[n]) * (m[n - k] / m[left])
    power = e[n - marked] - e[n] + e[n - k] - e[left]
    # A ratio of 1 (nothing marked) may round to just above it.
    return np.where(possible, np.minimum(np.ldexp(ratio, power), 1.0), 0.0)


def _hit_by_recurrence(n: Ints, c: Ints, k: int) -> Floats:
    """1 − binom(n−c, k)/binom(n, k) for small values, as a sum of positive terms: no cancellation.

    p_{i+1} = p_i + (1 − p_i) q / (n − i) over i < min(c, k), q = max(c, k): the ratio is symmetric
    in c and k, so the shorter of the two is walked (at most √(n/100) steps for values below 1 %).
    """
    q, steps = np.maximum(c, k), np.minimum(c, k)
    p = np.zeros(len(n))
    for i in range(int(steps.max(initial=0))):
        p += np.where(i < steps, (1.0 - p) * q / (n - i), 0.0)
    return p


def _at_least(tau: float, k: int) -> int:
    """max(1, ⌈τk⌉), with τ = i/k meaning exactly i although i/k · k may round above i."""
    need = math.floor(tau * k)
    return max(1, need + 1 if need / k < tau else need)


def _expected_credit(
    n: npt.ArrayLike, c: npt.ArrayLike, ks: npt.ArrayLike, width: int, credit: Callable[[int], Floats]
) -> Floats:
    """Σ_j P(j of K drawn are right) · credit(K)[j, t] for each problem and K; float64 (width, M, J).

    Clipped to 1: a tail of many terms may round to just above it.
    """
    n, c, ks = _checked(n, c, ks)
    (n, c), back = _distinct(n, c)
    out = np.empty((width, len(n), len(ks)))
    for at, k in enumerate(map(int, ks)):
        weights = credit(k)
        rows = max(1, _CHUNK // (k + 1))
        for start in range(0, len(n), rows):
            part = slice(start, start + rows)
            out[:, part, at] = (_hypergeometric(n[part], c[part], k) @ weights).T
    return np.minimum(out, 1.0)[:, back]


def _hypergeometric(n: Ints, c: Ints, k: int) -> Floats:
    """binom(c, j) binom(n−c, k−j) / binom(n, k) for j = 0..k: float64 (M, k+1), rows adding up to 1."""
    m, e = _factorials(int(n.max()))
    j = np.arange(k + 1)
    hits, misses = c[:, None] - j, (n - c - k)[:, None] + j  # right and wrong samples left undrawn
    possible = (hits >= 0) & (misses >= 0)
    hits, misses = np.maximum(hits, 0), np.maximum(misses, 0)
    # c! (n−c)! (n−k)! k! / n!, then over j! (k−j)! hits! misses!
    above = (m[c] * m[n - c] * m[n - k] * m[k] / m[n])[:, None]
    above_power = (e[c] + e[n - c] + e[n - k] + e[k] - e[n])[:, None]
    below, below_power = (m[j] * m[k - j]) * m[hits] * m[misses], e[j] + e[k - j] + e[hits] + e[misses]
    return np.where(possible, np.ldexp(above / below, above_power - below_power), 0.0)


# ---- majority votes


def _cons_exact(votes: Ints, credit: Floats, n: int, ks: Ints) -> Floats:
    """Sum over the winner's votes m and the number t of others tied with it.

    For a winner with g samples the favourable K-subsets number
        Σ_m binom(g, m) Σ_t 1/(t+1) [z^{K−m} y^t] Π_h (Σ_{x<m} binom(h, x) z^x + y binom(h, m) z^m) (1+z)^rest
    over rivals of h ≥ m samples; smaller groups and samples without an answer can never reach m and
    share the factor (1+z)^rest. 1/(t+1) is ∫_0^1 y^t dy, which Gauss-Legendre nodes give exactly.
    All terms are positive, so nothing cancels. One pass serves every K.
    """
    top = int(ks.max(initial=0))
    favourable = np.zeros(top + 1)
    for g in np.unique(votes[credit > 0]):
        weight = credit[votes == g].sum()  # winners of one size have the same rivals
        rivals = np.sort(np.delete(votes, np.flatnonzero(votes == g)[0]))
        for m in range(1, min(int(g), top) + 1):
            strong = rivals[rivals >= m]
            polynomial = _rivals_below(strong, n - int(g) - int(strong.sum()), m, top - m)
            favourable[m:] += weight * math.comb(int(g), m) * polynomial
    return np.array([min(1.0, favourable[k] / math.comb(n, int(k))) for k in ks])


def _rivals_below(strong: Ints, rest: int, m: int, degree: int) -> Floats:
    """Coefficients z^0..z^degree of the product in `_cons_exact`, with y integrated out."""
    y, weights = _quadrature(min(len(strong), degree // m))
    product = np.zeros((len(y), degree + 1))
    product[:] = [math.comb(rest, x) for x in range(degree + 1)]
    for h in strong:
        ways = [math.comb(int(h), x) for x in range(m + 1)]
        grown = np.zeros_like(product)
        for x, way in enumerate(ways[: degree + 1]):
            grown[:, x:] += (way * y[:, None] if x == m else way) * product[:, : degree + 1 - x]
        product = grown
    return weights @ product


@lru_cache(maxsize=CONS_EXACT_UP_TO)
def _quadrature(degree: int) -> tuple[Floats, Floats]:
    """Nodes and weights on [0, 1] that integrate polynomials of this degree exactly."""
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    return (nodes + 1) / 2, weights / 2


def _cons_sampled(votes: Ints, credit: Floats, n: int, ks: Ints, seed: int) -> tuple[Floats, Floats]:
    """CONS_DRAWS subsets for each K, drawn as answer counts (multivariate hypergeometric)."""
    rng = np.random.default_rng(seed)
    boxes = np.append(votes, n - votes.sum())
    value, stderr = np.empty(len(ks)), np.empty(len(ks))
    for at, k in enumerate(ks):
        drawn = rng.multivariate_hypergeometric(boxes, int(k), size=CONS_DRAWS, method="marginals")[:, :-1]
        best = drawn.max(axis=1, keepdims=True, initial=0)
        winners = (drawn == best) & (best > 0)
        share = (winners @ credit) / np.maximum(winners.sum(axis=1), 1)
        value[at], stderr[at] = share.mean(), share.std(ddof=1) / math.sqrt(CONS_DRAWS)
    return value, stderr
