"""Estimates from logged chains: proportions, transition chances, π_C and model checks, each with what it is worth.

Counts of transitions are 2 × 2 tables (…, from, to) with C = 1 and I = 0. Everything here is a pure function of
arrays; problems are the unit that is resampled (chains of one problem share its difficulty).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
Z95 = 1.959963984540054
MOST_RESAMPLED = 4096  # problems; of more, blocks are
_AT_ONCE = 64  # replicates
PRIOR = 0.5  # Jeffreys' pseudo-count of each outcome


def wilson(k: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of k successes in n; (0, 1) without any trial."""
    if n <= 0:
        return 0.0, 1.0
    p, z2 = k / n, z * z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return (0.0 if k <= 0 else max(0.0, middle - half)), (1.0 if k >= n else min(1.0, middle + half))


def jeffreys(k: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Equal-tailed interval of Beta(k + ½, n − k + ½), reaching 0 or 1 where k is 0 or n."""
    tail = (1 - level) / 2
    low = 0.0 if k <= 0 else float(stats.beta.ppf(tail, k + 0.5, n - k + 0.5))
    high = 1.0 if k >= n else float(stats.beta.ppf(1 - tail, k + 0.5, n - k + 0.5))
    return low, high


class Stationary(NamedTuple):
    value: float
    stderr: float


def stationary_delta(k_ic: float, n_i: float, k_ci: float, n_c: float) -> Stationary | None:
    """π̂_C and its standard error by the delta method; None where p_IC and p_CI are both estimated 0 or unknown.

    ∂π/∂p_IC = p_CI/s², ∂π/∂p_CI = −p_IC/s² with s = p_IC + p_CI.
    """
    if n_i <= 0 or n_c <= 0 or k_ic + k_ci == 0:
        return None
    a, b = k_ic / n_i, k_ci / n_c
    s = a + b
    variance = (b / s**2) ** 2 * a * (1 - a) / n_i + (a / s**2) ** 2 * b * (1 - b) / n_c
    return Stationary(a / s, math.sqrt(variance))


def transitions(states: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(..., 2, 2) counts from chains of states (..., K, T) in {0, 1}; -1 is no state, and no transition."""
    s = np.asarray(states)
    before, after = s[..., :-1], s[..., 1:]
    out = np.zeros((*s.shape[:-2], 2, 2), dtype=np.int64)
    for i in (0, 1):
        for j in (0, 1):
            out[..., i, j] = ((before == i) & (after == j)).sum((-1, -2))
    return out


def rates(counts: npt.NDArray[Any]) -> tuple[Array, Array]:
    """(p_IC, p_CI) of counts (..., 2, 2); NaN where the state was never left from."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts[..., 0, 1] / counts[..., 0, :].sum(-1), counts[..., 1, 0] / counts[..., 1, :].sum(-1)


# ---------------------------------------------------------------- resampling problems


class Interval(NamedTuple):
    value: float
    low: float
    high: float


@functools.lru_cache(maxsize=4)
def problem_weights(problems: int, replicates: int, seed: int) -> npt.NDArray[np.uint8]:
    """(replicates, P) counts of a bootstrap over problems; not to be written to, as it is kept."""
    rng = np.random.default_rng(seed)
    chances = np.full(problems, 1 / problems)
    out = np.empty((replicates, problems), dtype=np.uint8)
    for at in range(0, replicates, _AT_ONCE):
        some = out[at : at + _AT_ONCE]
        some[:] = rng.multinomial(problems, chances, size=len(some))
    return out


def resampled_sums(values: npt.ArrayLike, replicates: int, seed: int) -> Array:
    """(replicates, M) sums of values (P, M) over resampled problems."""
    x = np.asarray(values, dtype=np.float64)
    weights = problem_weights(len(x), replicates, seed)
    return np.concatenate([weights[at : at + _AT_ONCE] @ x for at in range(0, replicates, _AT_ONCE)])


def blocks(values: npt.ArrayLike, seed: int) -> Array:
    """Sums of values (P, ...) over at most MOST_RESAMPLED random blocks of problems, of even sizes.

    Problems are independent, and so are their blocks: intervals from resampling blocks are as wide, at a bounded cost.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) <= MOST_RESAMPLED:
        return x
    block = np.random.default_rng([seed, len(x)]).permutation(len(x)) % MOST_RESAMPLED
    out = np.zeros((MOST_RESAMPLED, *x.shape[1:]))
    np.add.at(out, block, x)
    return out


def mean_interval(values: npt.ArrayLike, seed: int = 0, replicates: int = 4000) -> Interval | None:
    """Mean over problems (of values in [−1, 1], NaN left out) with its 95 % bootstrap interval. None without any; of a
    single problem (value, NaN, NaN): nothing to resample.

    Two problems at each end of what was seen are added to what is resampled (of outcomes right or wrong that is Agresti
    and Coull's interval), and the quantiles are widened as Student's are for few problems. Where all problems agree,
    the interval is that of a share n of n, Wilson's, over what the values could have been.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    if not len(x):
        return None
    value, n, least = float(x.mean()), len(x), 0.0 if x.min() >= 0 else -1.0
    if n == 1:
        return Interval(value, math.nan, math.nan)
    ends = x.min(), x.max()
    if ends[1] - ends[0] < 1e-9:
        return _agreed(value, n, least)
    sums = resampled_sums(blocks(np.array([[v, 1.0] for v in (*x, *ends, *ends)]), seed), replicates, seed)
    return _around(x, *np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.5, 0.975]))


def _wider(problems: int) -> float:
    return float(stats.t.ppf(0.975, problems - 1)) / Z95 * math.sqrt(problems / (problems - 1))


def ratio_interval(k: npt.ArrayLike, n: npt.ArrayLike, seed: int = 0, replicates: int = 4000) -> Interval | None:
    """Σk/Σn with its 95 % bootstrap interval over problems; one problem falls back on Wilson's interval.

    Also Wilson's where every trial went one way: no resampling can leave the edge then.
    """
    ks, ns = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    seen = ns > 0
    ks, ns = ks[seen], ns[seen]
    if not len(ns):
        return None
    value = ks.sum() / ns.sum()
    if len(ns) == 1 or value in (0, 1):
        return Interval(float(value), *wilson(ks.sum(), ns.sum()))
    sums = resampled_sums(blocks(np.stack([ks, ns], 1), seed), replicates, seed)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


# ---------------------------------------------------------------- chances of each problem


_GRID: Array = 1 / (1 + np.exp(-np.linspace(-9, 9, 81)))  # chances from .0001 to .9999, evenly in their logit
_JEFFREYS: Array = np.gradient(2 * np.arcsin(np.sqrt(_GRID)))
_JEFFREYS /= _JEFFREYS.sum()
_EM, _EM_AGAIN = 80, 60  # steps from nothing, and from the prior of all problems; with fewer, intervals come out short
REFITTED = 400  # resamples in which the priors are fitted anew


class Shrunk:
    """Chances of each problem from k of n, each drawn to those of the other problems as far as its n is small.

    Empirical Bayes with a prior of any form: weights on a grid of chances, by EM, with Jeffreys' prior as one more
    problem. (A Beta prior, the usual choice, misses problems of two kinds: drawn towards a middle where no
    problem is, a hard problem's p_CI of .005 doubles.) `drawn` fits it again to each resample of the problems, without
    which intervals would take the prior for known.
    """

    def __init__(self, k: npt.ArrayLike, n: npt.ArrayLike) -> None:
        pairs = np.stack([np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)], 1)
        distinct, where = np.unique(pairs, axis=0, return_inverse=True)
        self._where = where.reshape(-1)
        likely = np.outer(distinct[:, 0], np.log(_GRID)) + np.outer(distinct[:, 1] - distinct[:, 0], np.log1p(-_GRID))
        self._likely = np.exp(likely - likely.max(1, keepdims=True))
        self._prior = self._fit(np.ones((1, len(pairs))), _JEFFREYS[None], _EM)
        self.values: Array = self._means(self._prior)[0]
        self.pooled = float((pairs[:, 0].sum() + PRIOR) / (pairs[:, 1].sum() + 2 * PRIOR))

    def _fit(self, weights: Array, prior: Array, steps: int) -> Array:
        """(replicates, grid) priors of problems that count `weights` (replicates, P) times."""
        counted = np.zeros((len(weights), len(self._likely)))
        np.add.at(counted.T, self._where, weights.T)
        total = counted.sum(1, keepdims=True) + 1
        for _ in range(steps):
            prior = (prior * ((counted / (prior @ self._likely.T)) @ self._likely) + _JEFFREYS) / total
        return prior

    def _means(self, prior: Array) -> Array:
        return (((prior * _GRID) @ self._likely.T) / (prior @ self._likely.T))[:, self._where]

    def drawn(self, weights: Array) -> Array:
        """(replicates, P) chances of the problems by priors fitted with `weights` (replicates, P)."""
        return self._means(self._fit(weights, np.repeat(self._prior, len(weights), 0), _EM_AGAIN))


def shrunk(counts: npt.NDArray[Any]) -> tuple[Shrunk, Shrunk]:
    """Each problem's p_IC and p_CI from counts (P, 2, 2)."""
    return Shrunk(counts[:, 0, 1], counts[:, 0].sum(1)), Shrunk(counts[:, 1, 0], counts[:, 1].sum(1))


def stationary(p_ic: Array, p_ci: Array) -> Array:
    """π_C of chances between 0 and 1, the ends left out."""
    return p_ic / (p_ic + p_ci)


def shrunk_intervals(
    chances: Sequence[Shrunk], statistic: Callable[..., Array], seed: int = 0, replicates: int = REFITTED
) -> list[Interval]:
    """Means over problems of statistic(chances…) with 95 % intervals by resampling problems.

    statistic: chances of shape (…, P) to values of shape (M, …, P), in [−1, 1]; an Interval for each of the M. Of a
    single problem the ends are NaN.
    """
    values = statistic(*(one.values for one in chances))  # (M, P)
    problems = values.shape[-1]
    if problems == 1:
        return [Interval(float(value), math.nan, math.nan) for value in values[:, 0]]
    weights = problem_weights(problems + 4, replicates, seed)
    ends = np.stack([values.min(-1), values.max(-1)] * 2, 1)  # (M, 4)
    many = int(np.clip(200_000 // (problems * len(values)), 1, _AT_ONCE))
    parts = []
    for at in range(0, replicates, many):
        some = weights[at : at + many].astype(np.float64)
        own, added = some[:, :problems], some[:, problems:]
        drawn = statistic(*(one.drawn(own) for one in chances))  # (M, replicates, P)
        parts.append(((drawn * own).sum(-1) + ends @ added.T) / (problems + 4))
    spread = np.quantile(np.concatenate(parts, 1), [0.025, 0.5, 0.975], axis=1)
    return [_around(row, *three) for row, *three in zip(values, *spread, strict=True)]


def _around(values: Array, low: float, middle: float, high: float) -> Interval:
    """The mean of values (P,) with the quantiles of its resamples, widened; where problems agree, as `_agreed`."""
    value, least = float(values.mean()), 0.0 if values.min() >= 0 else -1.0
    wider = _wider(len(values))
    low, high = middle - (middle - low) * wider, middle + (high - middle) * wider
    if values.max() - values.min() < 1e-9:
        agreed = _agreed(value, len(values), least)
        low, high = min(low, agreed.low), max(high, agreed.high)
    return Interval(value, float(max(least, min(low, value))), float(min(1.0, max(high, value))))


def _agreed(value: float, problems: int, least: float) -> Interval:
    """All problems have the same value: others may have any, as far as a share of n in n can still be less than 1."""
    away = 1 - wilson(problems, problems)[0]
    return Interval(value, value - (value - least) * away, value + (1 - value) * away)


# ---------------------------------------------------------------- is it such a chain?


class Test(NamedTuple):
    """A likelihood-ratio test: statistic, degrees of freedom, chance of one as large under the null."""

    statistic: float
    df: int
    p: float


def log_likelihood(counts: npt.NDArray[Any], p_ic: float, p_ci: float) -> float:
    """Σ n_ij log p_ij of a 2 × 2 table; −∞ where a seen transition has chance 0."""
    chances = np.array([[1 - p_ic, p_ic], [p_ci, 1 - p_ci]])
    seen = counts > 0
    if (chances[seen] <= 0).any():
        return -math.inf
    return float((counts[seen] * np.log(chances[seen])).sum())


def _maximum(table: npt.NDArray[Any]) -> Array:
    """Largest log-likelihood of multinomial rows (..., from, to)."""
    t = table.astype(np.float64)
    n = t.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(t > 0, t * np.log(t / n), 0.0)
    return terms.sum((-1, -2))


def order_table(states: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(2, 2, 2) counts of (two before, one before, now) from chains (K, T)."""
    s = np.asarray(states)
    a, b, c = s[..., :-2], s[..., 1:-1], s[..., 2:]
    out = np.zeros((2, 2, 2), dtype=np.int64)
    for index in np.ndindex(2, 2, 2):
        out[index] = ((a == index[0]) & (b == index[1]) & (c == index[2])).sum()
    return out


def _test(statistic: float, tables: npt.NDArray[Any]) -> Test:
    """df: one a state of which both strata were left (2, at most): an empty row has no parameter to test."""
    df = sum(bool((tables[:, state].sum(-1) > 0).all()) for state in (0, 1))
    statistic = max(0.0, statistic)
    return Test(statistic, df, float(stats.chi2.sf(statistic, df)) if df else 1.0)


def order_test(states: npt.ArrayLike) -> Test:
    """First against second order: does the state before last matter once the last is known? (2 d.f.)"""
    table = order_table(states)  # (earlier, from, to)
    return _test(2 * float(_maximum(table).sum() - _maximum(table.sum(0))), table)


def homogeneity_test(states: npt.ArrayLike) -> Test:
    """Are the transition chances of the first half of the iterations those of the second? (2 d.f.)"""
    s = np.asarray(states)
    half = s.shape[-1] // 2
    halves = np.stack([transitions(s[..., : half + 1]), transitions(s[..., half:])])
    if halves.ndim > 3:
        halves = halves.sum(tuple(range(1, halves.ndim - 2)))
    return _test(2 * float(_maximum(halves).sum() - _maximum(halves.sum(0))), halves)


def autocorrelation(states: npt.ArrayLike) -> float | None:
    """Lag-1 correlation of the states within chains (K, T), about the mean of all; None where nothing varies."""
    s = np.asarray(states, dtype=np.float64)
    known = (s[..., :-1] >= 0) & (s[..., 1:] >= 0)
    x, y = s[..., :-1][known], s[..., 1:][known]
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def simulate(p_ic: Any, p_ci: Any, p_0: Any, chains: int, steps: int, rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """(..., chains, steps + 1) states of two-state chains; the chances broadcast (one set a problem)."""
    a, b, start = np.broadcast_arrays(*(np.asarray(p, dtype=np.float64) for p in (p_ic, p_ci, p_0)))
    out = np.empty((*a.shape, chains, steps + 1), dtype=np.int8)
    a, b = a[..., None], b[..., None]
    now = rng.random((*start.shape, chains)) < start[..., None]
    out[..., 0] = now
    for step in range(1, steps + 1):
        u = rng.random(now.shape)
        now = np.where(now, u >= b, u < a)
        out[..., step] = now
    return out
