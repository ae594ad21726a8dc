"""Estimates from chains against known truth: recovery, coverage, likelihoods, and known figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dser import estimates as est

P_IC, P_CI = 0.12, 0.05


def drawn(replicas, seed, p_ic=P_IC, p_ci=P_CI, p_0=0.0):
    rng = np.random.default_rng(seed)
    return est.simulate(p_ic, p_ci, np.full(replicas, p_0), 16, 80, rng)


def test_delta_and_wilson_of_the_reference():
    found = est.stationary_delta(48, 400, 30, 600)
    assert (found.value, found.stderr) == pytest.approx((0.70588, 0.04642), abs=5e-6)
    for (k, n), interval in {(48, 400): (0.0917, 0.1555), (30, 600): (0.0352, 0.0705), (0, 16): (0, 0.1936)}.items():
        assert est.wilson(k, n) == pytest.approx(interval, abs=5e-5)
    assert est.stationary_delta(0, 10, 0, 10) is None and est.stationary_delta(0, 0, 1, 2) is None
    assert est.wilson(0, 0) == (0, 1)


def test_delta_against_numerical_derivatives():
    a, b, n_i, n_c = 0.12, 0.05, 400, 600

    def pi(x, y):
        return x / (x + y)

    h = 1e-6
    slopes = (pi(a + h, b) - pi(a - h, b)) / (2 * h), (pi(a, b + h) - pi(a, b - h)) / (2 * h)
    variance = slopes[0] ** 2 * a * (1 - a) / n_i + slopes[1] ** 2 * b * (1 - b) / n_c
    assert est.stationary_delta(48, 400, 30, 600).stderr == pytest.approx(variance**0.5, rel=1e-6)


@given(st.integers(0, 40), st.integers(1, 40))
def test_intervals_hold_the_estimate(k, n):
    k = min(k, n)
    for low, high in (est.wilson(k, n), est.jeffreys(k, n)):
        assert 0 <= low <= k / n <= high <= 1


def test_recovery_of_the_reference():
    counts = est.transitions(drawn(2000, 1))
    a, b = est.rates(counts)
    pi = a / (a + b)
    assert (a.mean(), b.mean()) == pytest.approx((0.121, 0.050), abs=0.002)
    assert (a.std(), b.std(), pi.std()) == pytest.approx((0.016, 0.0076, 0.041), rel=0.1)


@pytest.mark.deep
def test_coverage_of_a_single_problem_intervals():
    """1000 replicas of 16 chains x 80 steps: the 95 % intervals of p_IC, p_CI and π_C hold the truth 93–97 % of the time."""
    counts = est.transitions(drawn(1000, 2))
    held = np.zeros(5)
    for table in counts:
        held[0] += _in(P_IC, est.wilson(table[0, 1], table[0].sum()))
        held[1] += _in(P_CI, est.wilson(table[1, 0], table[1].sum()))
        held[2] += _in(P_IC, est.jeffreys(table[0, 1], table[0].sum()))
        held[3] += _in(P_CI, est.jeffreys(table[1, 0], table[1].sum()))
        value, stderr = est.stationary_delta(table[0, 1], table[0].sum(), table[1, 0], table[1].sum())
        held[4] += _in(P_IC / (P_IC + P_CI), (value - est.Z95 * stderr, value + est.Z95 * stderr))
    assert (held >= 930).all() and (held <= 970).all(), held


def _two_kinds(rng, n):
    easy = rng.random(n) < 0.5
    return np.where(easy, 0.6, 0.02), np.where(easy, 0.3, 0.005)


# Chances of a problem, problems, chains, iterations, start, and the least coverage. Problems of two kinds fall short of 95 %:
# a dozen lapses in all decide where the hard ones end. (With a Beta prior it was 1 %.)
PROBLEMS = {
    "alike": (lambda rng, n: (rng.beta(4, 12, n), rng.beta(4, 20, n)), 40, 16, 40, 0.3, 0.92),
    "two kinds": (_two_kinds, 20, 16, 40, 0.0, 0.86),
    "short": (lambda rng, n: (rng.beta(4, 12, n), rng.beta(4, 20, n)), 40, 4, 3, 0.3, 0.92),
    "wild": (lambda rng, n: (rng.beta(0.5, 2, n), rng.beta(0.5, 2, n)), 60, 16, 20, 0.2, 0.92),
}


@pytest.mark.deep
@pytest.mark.parametrize("kind", PROBLEMS)
def test_coverage_of_problem_intervals(kind):
    """The interval of the mean π_C holds the population's, for problems of many kinds and logs short and long."""
    draw, count, chains, steps, start, least = PROBLEMS[kind]
    rng = np.random.default_rng(3)
    held, runs = 0, 400
    big = draw(rng, 200_000)
    truth = float((big[0] / (big[0] + big[1])).mean())
    for run in range(runs):
        a, b = draw(rng, count)
        counts = est.transitions(est.simulate(a, b, start, chains, steps, rng))
        (interval,) = est.shrunk_intervals(est.shrunk(counts), lambda a, b: est.stationary(a, b)[None], run)
        held += _in(truth, interval[1:])
    assert least * runs <= held <= 0.99 * runs, held


@pytest.mark.deep
@pytest.mark.parametrize(("n", "p"), [(10, 0.9), (20, 0.9), (20, 0.95), (50, 0.95), (20, 0.5), (100, 0.7)])
def test_coverage_of_right_or_wrong(n, p):
    """Votes are right or wrong: where few problems are wrong, or none, the interval must know that some could be."""
    rng = np.random.default_rng(4)
    held = sum(_in(p, est.mean_interval(rng.random(n) < p, run, 400)[1:]) for run in range(1000))
    assert held >= 900, held


@pytest.mark.deep
def test_a_change_of_none_is_seldom_called_one():
    """Chains that begin where they stay: the interval of π_C − P_0 leaves out 0 in about 5 % of the runs."""
    rng = np.random.default_rng(9)
    called, runs = 0, 400
    for run in range(runs):
        a = rng.beta(4, 12, 12)
        states = est.simulate(a, a, 0.5, 8, 15, rng)
        start = states[:, :, 0].mean(1)
        chances = est.shrunk(est.transitions(states))
        (interval,) = est.shrunk_intervals(chances, lambda a, b, start=start: (est.stationary(a, b) - start)[None], run)
        called += not _in(0, interval[1:])
    assert called <= 0.09 * runs, called


def _in(value, interval):
    return interval[0] <= value <= interval[1]


def test_transitions_skip_what_is_not_there():
    states = np.array([[0, 1, -1, 1, 1], [1, 0, 0, -1, -1]])
    assert est.transitions(states).tolist() == [[1, 1], [1, 1]]


@given(st.integers(0, 2**32 - 1))
def test_likelihood_is_largest_at_the_estimate(seed):
    counts = est.transitions(drawn(1, seed % 1000, 0.2, 0.1, 0.5))[0]
    a, b = est.rates(counts)
    best = est.log_likelihood(counts, a, b)
    rng = np.random.default_rng(seed)
    for p_ic, p_ci in rng.random((20, 2)):
        assert est.log_likelihood(counts, p_ic, p_ci) <= best + 1e-9


def test_tests_are_uniform_under_the_null():
    p_values = {"order": [], "halves": []}
    for states in drawn(400, 4, 0.3, 0.2, 0.6):
        p_values["order"].append(est.order_test(states).p)
        p_values["halves"].append(est.homogeneity_test(states).p)
    for found in p_values.values():
        assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_tests_see_what_breaks_the_chain():
    rng = np.random.default_rng(5)
    early, late = est.simulate(0.4, 0.05, 0.5, 32, 40, rng), est.simulate(0.05, 0.4, 0.5, 32, 40, rng)
    assert est.homogeneity_test(np.concatenate([early, late], -1)).p < 1e-6
    held = np.repeat(est.simulate(0.3, 0.3, 0.5, 32, 40, rng), 2, -1)  # moves at every second step only
    assert est.order_test(held).p < 1e-6
    assert est.order_test(np.zeros((4, 10), dtype=int)).df <= 1


def test_order_test_is_the_likelihood_ratio():
    states = drawn(1, 6, 0.3, 0.2, 0.5)[0]
    table = est.order_table(states)

    def fitted(t):
        n = t.sum(-1, keepdims=True)
        return (t * np.log(np.where(t > 0, t / n, 1))).sum()

    assert est.order_test(states).statistic == pytest.approx(2 * (fitted(table) - fitted(table.sum(0))))
    brute = np.zeros((2, 2, 2))
    for chain in states:
        for x, y, z in zip(chain, chain[1:], chain[2:], strict=False):
            brute[x, y, z] += 1
    assert (brute == table).all()


def test_shrinkage_draws_thin_problems_to_the_rest():
    counts = np.array([[[90, 10], [5, 95]]] * 10 + [[[1, 1], [0, 1]]])
    a, b = (one.values for one in est.shrunk(counts))
    assert abs(a[0] - 0.1) < 0.01 and a[-1] < 0.3 and 0 < b[-1] < 0.2


def test_shrinkage_keeps_two_kinds_of_problems_apart():
    """The case a Beta prior misses: half of the problems leave C once in 200 times, half in 3 of 10."""
    k, n = np.array([1.0] * 10 + [60.0] * 10), np.full(20, 200.0)
    values = est.Shrunk(k, n).values
    assert values[:10] == pytest.approx(np.full(10, 0.005), abs=0.002) and values[10:] == pytest.approx(
        np.full(10, 0.3), abs=0.03
    )


def test_a_grid_of_chances_against_brute_force():
    """The posterior mean under the fitted prior, written out; and its likelihood is that of no worse prior at hand."""
    rng = np.random.default_rng(0)
    n = rng.integers(1, 30, 40)
    k = rng.binomial(n, rng.beta(2, 5, 40))
    found = est.Shrunk(k, n)
    prior = found._prior[0]
    likely = stats.binom.pmf(k[:, None], n[:, None], est._GRID)
    assert found.values == pytest.approx((likely * est._GRID) @ prior / (likely @ prior))

    def penalised(weights):
        return np.log(likely @ weights).sum() + (est._JEFFREYS * np.log(weights)).sum()

    for other in (est._JEFFREYS, np.full(81, 1 / 81), *rng.dirichlet(np.ones(81), 50)):
        assert penalised(prior) > penalised(other)
    again = found.drawn(np.ones((1, 40)))[0]
    assert again == pytest.approx(found.values, abs=0.01)


def test_problem_intervals():
    assert est.mean_interval([]) is None
    alone = est.mean_interval([0.4])
    assert alone.value == 0.4 and np.isnan(alone.low)
    assert est.ratio_interval([0, 0], [8, 8]) == (0.0, *est.wilson(0, 16))
    value, low, high = est.ratio_interval([1, 9] * 20, [10, 10] * 20)
    assert value == 0.5 and 0.3 < low < 0.45 < 0.55 < high < 0.7  # problems differ: wider than 200 of 400 would say
    assert low < est.wilson(200, 400)[0]


def test_autocorrelation_is_lambda():
    states = drawn(1, 7, 0.12, 0.05, 0.7)
    long = est.simulate(0.12, 0.05, 0.7, 400, 400, np.random.default_rng(8))
    assert est.autocorrelation(long) == pytest.approx(0.83, abs=0.01)
    assert est.autocorrelation(np.ones((3, 5))) is None
    assert est.autocorrelation(states[0]) is not None
