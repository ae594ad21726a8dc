"""95 % intervals for dataset scores: `metric --ci problem|nested|closed|bayes|normal`.

A score is the mean over M problems of a statistic of the problem's counts. Two things may be meant by its
interval. For `problem`, `nested`, `bayes` and `normal` the M problems are a sample from a population of
problems, and the target is the population's mean (of 1 − (1 − p)^K for Pass@K). For `closed` the problems are
the benchmark, only the responses are random, and the target is the mean over these very problems.

The two ends 0 and 1. Where most problems score the same, as Pass@n of a strong model does, resampling the
observed values alone gives intervals of width near 0 that hardly ever hold the target (simulated coverage of
the percentile, BCa and studentised bootstrap at M = 30, n = K = 64, difficulties Beta(1, 1): all 37 %). So
all three resampling methods add half a problem at each end of the statistic's range, which for values of 0
and 1 is Jeffreys' interval for a proportion. Resampling is in the weights (Rubin 1981, the Bayesian
bootstrap): problem i gets Gamma(1) weight, normalised; equal problems share one weight, Gamma(their number).

- problem: the weights above on the problems' values.
- nested: within each problem the samples are redrawn as well. The values' spread over problems already holds
  the sampling noise, so redrawing counts from c/n would add it twice. Therefore difficulties are first
  deconvolved (the distribution of p that makes the counts likeliest, by EM on a grid: Laird 1978), and the
  weight of problem i is split, as a Dirichlet, over the counts that n fresh samples from it would give under
  its posterior: noise is taken out before it is put in. Against `problem` this smooths discrete values.
- bayes: p_i ~ Beta(a, b), (a, b) itself drawn from its posterior; prior uniform in a/(a+b) and ∝ (a+b)^-3/2,
  on a grid. A replicate draws (a, b), then each p_i from Beta(a + c_i, b + n_i − c_i), as scorio's pass_at_k_ci
  does with a = b = 1, then weights as above. A fixed a = b = 1 would not do: at K = n = 64 it credits a problem
  that was never solved with one half. Rests on difficulties being roughly Beta-distributed.
- closed: value ± 1.96 √(Σ Var_i)/M, Var_i the variance of the statistic over the samples of problem i. Where
  n ≥ 8K and E[value]² has an unbiased estimator, Var_i is the unbiased one: value² − that (for Pass@K
  r_K² − r_2K, r_K = C(n−c, K)/C(n, K)). It exists from n ≥ 2K on, but is so noisy there that coverage falls
  (84 % at n = 64, K = 16, Beta(2, 2)); then Var_i is the exact Var_p averaged over the posterior of p as in `bayes`.
- normal: mean ± 1.96 s/√M, as most harnesses print it.

Every interval is widened to hold its value. Measured coverage: bench/coverage.py, printed in the README. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cotpass import estimators as est
from cotpass.estimators import Floats, Ints
from tenfold_shared import BadInput

Interval = dict[str, float | None]
"""{value, low, high}; null where there is none."""

Z95 = 1.959964
REPLICATES = 10_000
UNBIASED_FROM = 8
"""`closed` trusts the unbiased variance from n ≥ this many K on."""

_END = 0.5  # problems added at each end of a statistic's range
_DRAWN = 1 << 26  # weights drawn for one set of problems: 256 MB
_TABLE = 1 << 25  # entries of a likelihood table over difficulties: 256 MB
_EM_STEPS = 200
_NEGLIGIBLE = 1e-7  # of a problem: redrawn counts rarer than this are left out
_CURVE = 4096  # points of an interpolated curve over the difficulty


@dataclass(frozen=True)
class Statistic:
    """What is averaged over problems, and what an interval may need to know about it.

    value: (n, count), each (M,), to one value a problem, (M,), in [0, top].
    degree: K, the samples one term of the U-statistic looks at. 0: not a function of the counts alone (Cons@K
    depends on the answers); then only `normal` and `problem` have an interval for it.
    curve: its expectation as a function of the chance p that a sample counts, (G,) to (G,); None: worked out
    from the values at n = degree, which determine it.
    square: (n, count) to an unbiased estimate of curve(p)², for n ≥ 2 · degree; None: there is none at hand.
    """

    value: Callable[[Ints, Ints], Floats]
    degree: int = 0
    curve: Callable[[Floats], Floats] | None = None
    square: Callable[[Ints, Ints], Floats] | None = None
    top: float = 1.0

    def __call__(self, n: Ints, count: Ints) -> Floats:
        return self.value(n, count)

    def expected(self, p: Floats) -> Floats:
        """curve(p) for any shape of p; interpolated in arcsin √p where no formula was given."""
        if self.curve is not None:
            return self.curve(p)
        grid = np.linspace(0.0, np.pi / 2, _CURVE)
        rows = max(1, (1 << 22) // (self.degree + 1))
        terms = self.value(np.full(self.degree + 1, self.degree), np.arange(self.degree + 1))
        parts = [terms @ _binomials(self.degree, np.sin(grid[at : at + rows]) ** 2) for at in range(0, len(grid), rows)]
        return np.interp(np.arcsin(np.sqrt(p)), grid, np.concatenate(parts))


def pass_statistic(k: int) -> Statistic:
    """Pass@K; its square: 1 − 2 r_K + r_2K, r_K = C(n−c, K)/C(n, K) the unbiased estimate of (1 − p)^K."""

    def square(n: Ints, c: Ints) -> Floats:
        once, twice = est.pass_at_k(n, c, [k, 2 * k]).T
        return 2.0 * once - twice

    def curve(p: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return -np.expm1(k * np.log1p(-p))

    return Statistic(lambda n, c: est.pass_at_k(n, c, [k])[:, 0], k, curve, square)


def pass_hat_statistic(k: int) -> Statistic:
    """pass^K: C(c, K)/C(n, K) for p^K; its square is that of 2K."""
    return Statistic(
        lambda n, c: est.pass_hat_k(n, c, [k])[:, 0],
        k,
        lambda p: p**k,
        lambda n, c: est.pass_hat_k(n, c, [2 * k])[:, 0],
    )


def g_pass_statistic(k: int, tau: float) -> Statistic:
    return Statistic(lambda n, c: est.g_pass_at_k(n, c, [k], [tau])[0, :, 0], k)


def mg_pass_statistic(k: int) -> Statistic:
    return Statistic(lambda n, c: est.mg_pass_at_k(n, c, [k])[:, 0], k, top=2 * (k // 2) / k)


def share_statistic() -> Statistic:
    """count/n: P(CA), and P(CC|CA) with c in the place of n and d in that of c."""
    return Statistic(lambda n, c: c / n, 1, lambda p: p, pass_hat_statistic(1).square)


class Draws:
    """Seed and number of replicates of the resampling intervals, and the weights drawn last.

    Quantities and K share the weights drawn for the same counts: an interval does not depend on what was
    asked before it, and curves over K are smooth.
    """

    def __init__(self, seed: int = 0, replicates: int = REPLICATES) -> None:
        if replicates < 100:
            raise BadInput(f"replicates: expected at least 100, got {replicates}")
        if seed < 0:
            raise BadInput(f"seed: expected an integer of at least 0, got {seed}")
        self.seed, self.replicates = seed, replicates
        self._kept: dict[Hashable, Any] = {}

    def shared(self, name: str, n: Ints, count: Ints, make: Callable[[np.random.Generator], Any]) -> Any:
        """make(generator), or what it gave the last time for this name and these counts."""
        key = (name, n.tobytes(), count.tobytes())
        if key not in self._kept:
            self._kept = {key: make(np.random.default_rng(self.seed))}
        return self._kept[key]


def interval(ci: str, statistic: Statistic, n: Ints, count: Ints, draws: Draws) -> Interval:
    """The interval `ci` of the mean of `statistic` over the problems (n, count), each shape (M,).

    low and high are None for one problem (but not with `closed`), and where the method has none for this
    statistic (`Statistic.degree` 0); all three are None without problems. Raises BadInput for more problems
    than a method can hold in memory.
    """
    if not len(n):
        return {"value": None, "low": None, "high": None}
    value = float(statistic(n, count).mean())
    single = len(n) == 1 and ci != "closed"
    if single or (statistic.degree == 0 and ci not in ("normal", "problem")):
        return {"value": value, "low": None, "high": None}
    low, high = INTERVALS[ci](statistic, n, count, draws)
    return {"value": value, "low": max(0.0, min(low, value)), "high": min(statistic.top, max(high, value))}


# ---- the methods: (statistic, n, count, draws) to (low, high), not yet clipped


def normal(statistic: Statistic, n: Ints, count: Ints, draws: Draws) -> tuple[float, float]:
    """Mean ± 1.959964 s/√M. Too narrow for few problems and near 0 or 1; equal values give width 0."""
    values = statistic(n, count)
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def problem(statistic: Statistic, n: Ints, count: Ints, draws: Draws) -> tuple[float, float]:
    """Bayesian bootstrap over problems with half a problem at each end of the range."""
    if statistic.degree == 0:  # the counts do not tell the values apart: one weight a problem
        values, masses, name = statistic(n, count), np.ones(len(n)), "each problem"
    else:
        n_, count_, masses = _distinct(n, count)
        values, name = statistic(n_, count_), "problem"
    return _weighted(statistic, values, masses, lambda make: draws.shared(name, n, count, make), draws)


def nested(statistic: Statistic, n: Ints, count: Ints, draws: Draws) -> tuple[float, float]:
    """Bayesian bootstrap over problems, each one's weight split over freshly sampled counts."""
    n_, count_, masses = _redrawn(n.tobytes(), count.tobytes())
    values = statistic(n_, count_)
    return _weighted(statistic, values, masses, lambda make: draws.shared("nested", n, count, make), draws)


def bayes(statistic: Statistic, n: Ints, count: Ints, draws: Draws) -> tuple[float, float]:
    """Beta posterior of each problem under a Beta prior that is itself drawn; then weights over problems."""
    size = draws.replicates * len(n)
    if size > _DRAWN:
        raise BadInput(
            f"--ci bayes: {len(n)} problems x {draws.replicates} replicates are more than the {_DRAWN} draws that "
            f"fit; lower --replicates, or take --ci problem"
        )

    def make(rng: np.random.Generator) -> tuple[Floats, Any, Any]:
        a, b, chance = _beta_prior(n.tobytes(), count.tobytes())
        drawn = rng.choice(len(a), size=draws.replicates, p=chance)
        p = rng.beta(count + a[drawn][:, None], n - count + b[drawn][:, None])
        return p, *_weights(rng, np.ones(len(n)), draws.replicates)

    p, weights, at_top = draws.shared("bayes", n, count, make)
    means = np.einsum("rm,rm->r", weights, statistic.expected(p)) + statistic.top * at_top
    return _quantiles(means)


def closed(statistic: Statistic, n: Ints, count: Ints, draws: Draws) -> tuple[float, float]:
    """Value ± 1.959964 standard errors of the sampling alone, for these very problems."""
    n_, count_, number = _distinct(n, count)
    variance = np.empty(len(n_))
    exact = (n_ >= UNBIASED_FROM * statistic.degree) & (n_ >= 2 * statistic.degree) & (statistic.square is not None)
    if exact.any():
        assert statistic.square is not None
        variance[exact] = statistic(n_[exact], count_[exact]) ** 2 - statistic.square(n_[exact], count_[exact])
    if not exact.all():
        p, posterior = _beta_posterior(n.tobytes(), count.tobytes())
        curve = statistic.expected(p)
        for size in np.unique(n_[~exact]):
            outcomes = np.arange(size + 1)
            second = _expectation(int(size), p, statistic(np.full(size + 1, size), outcomes) ** 2)
            rows = ~exact & (n_ == size)
            variance[rows] = posterior[rows] @ np.maximum(second - curve**2, 0.0)
    # Single unbiased estimates may be negative; their sum hardly is.
    half = Z95 * math.sqrt(max(float(number @ variance), 0.0)) / len(n)
    value = float(statistic(n, count).mean())
    return value - half, value + half


INTERVALS: dict[str, Callable[[Statistic, Ints, Ints, Draws], tuple[float, float]]] = {
    "normal": normal,
    "problem": problem,
    "nested": nested,
    "closed": closed,
    "bayes": bayes,
}


# ---- weights


def _weighted(
    statistic: Statistic, values: Floats, masses: Floats, shared: Callable[[Callable[..., Any]], Any], draws: Draws
) -> tuple[float, float]:
    """Quantiles of the weighted mean of values (S,) that have prior masses (S,), and of the two ends.

    More than _DRAWN weights belong to thousands of problems: there the mean's first two moments, which are
    known exactly, stand for its distribution, as a Beta (which it is for values of 0 and 1).
    """
    if len(values) * draws.replicates > _DRAWN:
        total = float(masses.sum()) + 2 * _END
        top = statistic.top or 1.0
        mean = (float(masses @ values) / top + _END) / total
        second = (float(masses @ values**2) / top**2 + _END) / total
        size = max(mean * (1 - mean) / max((second - mean**2) / (total + 1), 1e-300) - 1, 1e-300)
        drawn = np.random.default_rng(draws.seed).beta(mean * size, (1 - mean) * size, draws.replicates)
        return _quantiles(drawn * statistic.top)
    weights, at_top = shared(lambda rng: _weights(rng, masses, draws.replicates))
    return _quantiles(weights @ values.astype(weights.dtype) + statistic.top * at_top)


def _weights(rng: np.random.Generator, masses: Floats, replicates: int) -> tuple[Any, Any]:
    """Dirichlet weights float32 (R, S) of the masses, and of the upper end (R,); the lower end has the rest."""
    weights = rng.standard_gamma(masses.astype(np.float32), (replicates, len(masses)), dtype=np.float32)
    ends = rng.standard_gamma(np.float32(_END), (replicates, 2), dtype=np.float32)
    total = weights.sum(axis=1, dtype=np.float64) + ends.sum(axis=1, dtype=np.float64)
    weights /= total[:, None].astype(np.float32)
    return weights, ends[:, 1] / total


def _quantiles(means: npt.NDArray[Any]) -> tuple[float, float]:
    low, high = np.quantile(means.astype(np.float64), [0.025, 0.975])
    return float(low), float(high)


def _distinct(n: Ints, count: Ints) -> tuple[Ints, Ints, Floats]:
    """The distinct (n, count), sorted, each (S,), and how many problems have each, float (S,)."""
    pairs, number = np.unique(np.stack([n, count]), axis=1, return_counts=True)
    return pairs[0], pairs[1], number.astype(float)


# ---- difficulties


def _grid(largest: int) -> Floats:
    """Difficulties, even in arcsin √p, where a binomial share has the sd 1/(2√n) whatever p is: (G,)."""
    points = int(min(max(13 * math.sqrt(largest), 200), 1024))
    return np.sin((np.arange(points) + 0.5) / points * np.pi / 2) ** 2


def _likelihood(n: Ints, count: Ints, p: Floats) -> Floats:
    """p^count (1−p)^(n−count) over its maximum on the grid, (S, G)."""
    if len(n) * len(p) > _TABLE:
        raise BadInput(
            f"{len(n)} different pairs (n, c) are more than the {_TABLE // len(p)} that this interval can hold; "
            f"take --ci problem"
        )
    logs = np.outer(count, np.log(p)) + np.outer(n - count, np.log1p(-p))
    logs -= logs.max(axis=1, keepdims=True)
    return np.exp(logs, out=logs)


def _normalised(rows: Floats) -> Floats:
    rows /= rows.sum(axis=1, keepdims=True)
    return rows


@lru_cache(maxsize=2)
def _redrawn(n_bytes: bytes, count_bytes: bytes) -> tuple[Ints, Ints, Floats]:
    """Counts that fresh samples would give, (n, count, mass), each (S,): Σ mass = M, each problem's is 1."""
    n, count, number = _distinct(np.frombuffer(n_bytes, np.int64), np.frombuffer(count_bytes, np.int64))
    p = _grid(int(n.max()))
    likelihood = _likelihood(n, count, p)
    prior = np.full(len(p), 1.0 / len(p))
    for _ in range(_EM_STEPS):
        # Posterior shares averaged over problems: Σ_i number_i L_i prior / (L_i · prior) / M.
        prior = prior * ((number / (likelihood @ prior)) @ likelihood) / number.sum()
    posterior = _normalised(likelihood * prior)
    parts = []
    for size in np.unique(n):
        rows = n == size
        masses = _predicted(int(size), p, number[rows] @ posterior[rows])
        kept = np.flatnonzero(masses > _NEGLIGIBLE)
        parts.append((np.full(len(kept), size), kept, masses[kept] * number[rows].sum() / masses[kept].sum()))
    sizes, counts, mass = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sizes, counts, mass


@lru_cache(maxsize=2)
def _beta_prior(n_bytes: bytes, count_bytes: bytes) -> tuple[Floats, Floats, Floats]:
    """A grid of Beta(a, b) priors and the posterior chance of each: a, b, chance, each (H,).

    chance ∝ prior · Π_i B(a + c_i, b + n_i − c_i) / B(a, b); prior: see the module.
    """
    n, count, number = _distinct(np.frombuffer(n_bytes, np.int64), np.frombuffer(count_bytes, np.int64))
    mean, total = np.meshgrid(_grid(1)[2::5], np.exp(np.linspace(math.log(0.1), math.log(300.0), 40)))
    mean, total = mean.ravel(), total.ravel()
    a, b = mean * total, (1 - mean) * total
    # The grid is even in arcsin √mean and in log total: dmean = 2 √(mean(1−mean)) d·, dtotal = total d·.
    logs = 0.5 * np.log(mean * (1 - mean)) - 0.5 * np.log(total)
    for at in range(0, len(n), 1024):
        part = slice(at, at + 1024)
        c, rest = count[part, None], (n - count)[part, None]
        logs += number[part] @ (_log_beta(a + c, b + rest) - _log_beta(a, b))
    chance = np.exp(logs - logs.max())
    return a, b, chance / chance.sum()


@lru_cache(maxsize=2)
def _beta_posterior(n_bytes: bytes, count_bytes: bytes) -> tuple[Floats, Floats]:
    """Difficulties p, (G,), and of each distinct (n, count) the posterior over them, (S, G)."""
    n, count, _ = _distinct(np.frombuffer(n_bytes, np.int64), np.frombuffer(count_bytes, np.int64))
    a, b, chance = _beta_prior(n_bytes, count_bytes)
    likely = chance > 1e-4
    a, b, chance = a[likely], b[likely], chance[likely]
    p = _grid(int(n.max()))
    # Density in arcsin √p: p^(a−1/2) (1−p)^(b−1/2).
    logs = np.outer(a - 0.5, np.log(p)) + np.outer(b - 0.5, np.log1p(-p))
    densities = _normalised(np.exp(logs - logs.max(axis=1, keepdims=True)))
    return p, _normalised(_likelihood(n, count, p) * (chance @ densities))


# ---- binomials and gamma functions


def _binomials(n: int, p: Floats, counts: Ints | None = None) -> Floats:
    """C(n, c) p^c (1−p)^(n−c) for c = 0..n (or these counts): (n+1, G). p may be 0 or 1."""
    c = np.arange(n + 1) if counts is None else counts
    ways: Floats = _log_gamma(np.array([n + 1.0])) - _log_gamma(c + 1.0) - _log_gamma(n - c + 1.0)
    inner = np.clip(p, 1e-300, 1 - 1e-16)
    table = np.exp(ways[:, None] + np.outer(c, np.log(inner)) + np.outer(n - c, np.log1p(-inner)))
    table[:, p <= 0] = (c == 0)[:, None]
    table[:, p >= 1] = (c == n)[:, None]
    return table


def _chunks(n: int, p: Floats) -> list[Ints]:
    """0..n in runs whose table over p stays small."""
    rows = max(1, (1 << 22) // len(p))
    return [np.arange(at, min(at + rows, n + 1)) for at in range(0, n + 1, rows)]


def _expectation(n: int, p: Floats, values: Floats) -> Floats:
    """E[values[C]] for C ~ Binomial(n, p): (n+1,) and (G,) to (G,)."""
    return np.sum([values[part] @ _binomials(n, p, part) for part in _chunks(n, p)], axis=0)


def _predicted(n: int, p: Floats, weight: Floats) -> Floats:
    """Σ_g weight_g P(C = c | n, p_g) for c = 0..n: (n+1,)."""
    return np.concatenate([_binomials(n, p, part) @ weight for part in _chunks(n, p)])


def _log_beta(a: Floats, b: Floats) -> Floats:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def _log_gamma(x: npt.NDArray[Any]) -> Floats:
    """ln Γ(x), x > 0: Stirling's series at x + 8, walked back. Absolute error below 1e-12 · max(1, |ln Γ|)."""
    shift = np.ones_like(x)
    for i in range(8):
        shift = shift * (x + i)
    z = x + 8.0
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * z**2)) / z**2) / z**2) / z
    return (z - 0.5) * np.log(z) - z + 0.5 * math.log(2 * math.pi) + series - np.log(shift)
