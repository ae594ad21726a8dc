"""The intervals of `metric --ci`, against closed forms, enumeration and simulated coverage."""

import json
import math

import numpy as np
import pytest
from commandline import cotpass
from scipy import stats

from cotpass import intervals
from cotpass.intervals import INTERVALS, Draws, interval, pass_hat_statistic, pass_statistic, share_statistic
from tenfold_shared import BadInput

METHODS = sorted(INTERVALS)


def ints(*values):
    return np.array(values, dtype=np.int64)


def test_normal_is_the_mean_and_its_standard_error():
    c = ints(0, 3, 4, 4, 1)
    found = interval("normal", share_statistic(), np.full(5, 4), c, Draws())
    half = 1.959964 * np.std(c / 4, ddof=1) / math.sqrt(5)
    assert found["value"] == pytest.approx(0.6) and found["low"] == pytest.approx(0.6 - half)
    assert found["high"] == pytest.approx(min(1.0, 0.6 + half))


@pytest.mark.parametrize("right", [0, 1, 13, 30])
def test_problem_is_jeffreys_interval_where_values_are_zero_or_one(right):
    """At K = n a problem's value is 1 if it was solved at all: a proportion, with its known posterior."""
    c = ints(*[1] * right, *[0] * (30 - right))
    found = interval("problem", pass_statistic(1), np.full(30, 1), c, Draws(3, 100_000))
    low, high = stats.beta.ppf([0.025, 0.975], right + 0.5, 30 - right + 0.5)
    assert found["value"] == right / 30
    assert found["low"] == pytest.approx(min(low, right / 30), abs=0.003)
    assert found["high"] == pytest.approx(max(high, right / 30), abs=0.003)


@pytest.mark.parametrize("statistic", [pass_statistic(2), pass_hat_statistic(2), share_statistic()])
def test_closed_forms_of_curves_and_squares_are_unbiased(statistic):
    """E over Binomial(n, p) of the value is curve(p), of the square curve(p)²; enumerated."""
    n, p = 9, np.array([0.0, 0.1, 0.35, 0.8, 1.0])
    counts = np.arange(n + 1)
    chance = stats.binom.pmf(counts[:, None], n, p)
    assert statistic(np.full(n + 1, n), counts) @ chance == pytest.approx(statistic.expected(p), abs=1e-12)
    assert statistic.square(np.full(n + 1, n), counts) @ chance == pytest.approx(statistic.expected(p) ** 2, abs=1e-12)


def test_a_statistic_without_a_formula_gets_its_curve_from_its_values():
    statistic = intervals.g_pass_statistic(4, 0.5)
    p = np.linspace(0, 1, 41)
    assert statistic.expected(p) == pytest.approx(stats.binom.sf(1, 4, p), abs=2e-6)


def test_closed_takes_the_true_sampling_variance_on_average():
    """Mean of the estimated variance over all outcomes of two problems equals the variance of the score."""
    n, k, ps = 16, 2, (0.15, 0.6)
    counts = np.arange(n + 1)
    chance = [stats.binom.pmf(counts, n, p) for p in ps]
    values = pass_statistic(k)(np.full(n + 1, n), counts)
    true = sum(chance[i] @ values**2 - (chance[i] @ values) ** 2 for i in range(2)) / 4
    mean = 0.0
    for a in counts:
        for b in counts:
            low, high = intervals.closed(pass_statistic(k), ints(n, n), ints(a, b), Draws())
            mean += chance[0][a] * chance[1][b] * ((high - low) / (2 * intervals.Z95)) ** 2
    assert mean == pytest.approx(true, rel=0.02)  # clipping a negative sum to 0 is the only bias


def test_log_gamma_is_the_logarithm_of_gamma():
    x = np.concatenate([np.linspace(0.01, 30, 500), np.geomspace(30, 1e6, 200)])
    assert intervals._log_gamma(x) == pytest.approx([math.lgamma(value) for value in x], rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("ci", METHODS)
def test_intervals_hold_their_value_stay_in_range_and_repeat(ci):
    rng = np.random.default_rng(1)
    n = rng.integers(8, 20, 12)
    c = rng.binomial(n, rng.beta(0.5, 0.5, 12))
    for statistic in (pass_statistic(4), pass_hat_statistic(4), intervals.mg_pass_statistic(4), share_statistic()):
        one = interval(ci, statistic, n, c, Draws(5, 500))
        two = interval(ci, statistic, n, c, Draws(5, 500))
        assert one == two and 0 <= one["low"] <= one["value"] <= one["high"] <= 1
        order = rng.permutation(12)
        if ci != "bayes":  # draws one posterior a problem, in their order
            shuffled = interval(ci, statistic, n[order], c[order], Draws(5, 500))
            assert shuffled["low"] == pytest.approx(one["low"], abs=1e-6)


@pytest.mark.parametrize("ci", METHODS)
def test_one_problem_and_none(ci):
    assert interval(ci, pass_statistic(1), ints(), ints(), Draws()) == {"value": None, "low": None, "high": None}
    one = interval(ci, pass_statistic(1), ints(16), ints(4), Draws())
    assert one["value"] == 0.25 and (one["low"] is None) == (ci != "closed")


@pytest.mark.parametrize(("seed", "replicates"), [(-1, 1000), (0, 99)])
def test_bad_draws_are_refused(seed, replicates):
    with pytest.raises(BadInput, match="expected"):
        Draws(seed, replicates)


@pytest.mark.parametrize("ci", METHODS)
def test_the_command_gives_every_quantity_an_interval(ci, tmp_path):
    rng = np.random.default_rng(2)
    rows = [f"p{i},16,{c},{rng.integers(0, c + 1)}" for i, c in enumerate(rng.integers(0, 17, 20))]
    (tmp_path / "c.csv").write_text("problem,n,c,d\n" + "\n".join(rows) + "\n")
    args = ("metric", "--from-counts", tmp_path / "c.csv", "--ci", ci, "--replicates", "500", "--seed", "3", "--json")
    done = cotpass(*args)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ci"] == ci and done.stdout == cotpass(*args).stdout
    scores = [report["p_ca"], report["p_cc_given_ca"]]
    for name in ("pass", "mg_pass", "pass_hat"):
        scores += report[name].values()
    scores += report["cot_pass"]["counts"].values()
    scores += [score for by_k in report["g_pass"].values() for score in by_k.values()]
    assert len(scores) == 2 + 4 * 5 + 4 * 5
    for score in scores:
        assert score["low"] <= score["value"] <= score["high"]


# ------------------------------------------------------------------ coverage


def coverage(ci, n, k, replicates, a=1.0, b=2.0, problems=30):
    """Share of simulated data sets whose interval holds its target (see the module for which that is)."""
    rng = np.random.default_rng([n, k, METHODS.index(ci)])
    grid = (np.arange(20_000) + 0.5) / 20_000
    population = float(np.mean(1 - (1 - stats.beta.ppf(grid, a, b)) ** k))
    fixed = rng.beta(a, b, problems)
    held = 0
    for _ in range(replicates):
        p = fixed if ci == "closed" else rng.beta(a, b, problems)
        target = float(np.mean(1 - (1 - p) ** k)) if ci == "closed" else population
        found = interval(ci, pass_statistic(k), np.full(problems, n), rng.binomial(n, p), Draws(0, 1000))
        held += found["low"] <= target <= found["high"]
    return held / replicates


@pytest.mark.deep
@pytest.mark.parametrize("ci", ["problem", "nested", "closed", "bayes"])
@pytest.mark.parametrize(("n", "k"), [(16, 1), (16, 4), (16, 16), (64, 8), (64, 32)])
def test_coverage_of_500_simulated_data_sets(ci, n, k):
    assert 0.91 <= coverage(ci, n, k, 500) <= 0.98
