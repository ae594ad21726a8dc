"""Closed forms against known figures, brute force, and matrix powers."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dser import markov
from tenfold_shared import BadInput

chance = st.floats(0.01, 0.99)
FOUR = [[0.88, 0.04, 0.04, 0.04], [0.1, 0.9, 0, 0], [0.1, 0, 0.9, 0], [0.1, 0, 0, 0.9]]


def test_transient_of_the_reference():
    found = markov.accuracy(0.12, 0.05, 0, [1, 2, 5, 10, 20, 40, 80])
    assert found == pytest.approx([0.12, 0.2196, 0.42783, 0.59636, 0.68889, 0.70547, 0.70588], abs=5e-6)


@pytest.mark.parametrize(
    ("p", "votes", "value"),
    [
        (0.55, 16, 0.6535), (0.55, 32, 0.7132), (0.55, 64, 0.7878), (0.6, 16, 0.7869), (0.6, 32, 0.8716),
        (0.6, 64, 0.9463), (0.7, 16, 0.95), (0.5, 16, 0.5), (0.5, 64, 0.5), (0.45, 64, 0.2122),
    ],
)  # fmt: skip
def test_majority_of_the_reference(p, votes, value):
    assert markov.majority(p, votes) == pytest.approx(value, abs=5e-5)


@given(chance, chance, chance, st.integers(0, 30))
def test_transient_is_the_matrix_power(p_ic, p_ci, p_0, n):
    matrix = np.array([[1 - p_ci, p_ci], [p_ic, 1 - p_ic]])
    expected = (np.array([p_0, 1 - p_0]) @ np.linalg.matrix_power(matrix, n))[0]
    assert float(markov.accuracy(p_ic, p_ci, p_0, n)) == pytest.approx(expected, abs=1e-9)
    pi = markov.stationary(p_ic, p_ci)
    assert markov.stationary_of(matrix)[0] == pytest.approx(pi, abs=1e-9)


@given(chance, chance, chance, st.sampled_from([0.1, 0.01, 1e-4]))
def test_iterations_to_is_the_first_that_is_near(p_ic, p_ci, p_0, epsilon):
    n = markov.iterations_to(epsilon, p_ic, p_ci, p_0)
    pi = p_ic / (p_ic + p_ci)
    if n is None:
        assert abs(1 - p_ic - p_ci) == 1
        return
    assert abs(float(markov.accuracy(p_ic, p_ci, p_0, n)) - pi) <= epsilon * (1 + 1e-6)
    if n > 0:
        assert abs(float(markov.accuracy(p_ic, p_ci, p_0, n - 1)) - pi) > epsilon * (1 - 1e-6)


def test_edges_of_two_states():
    assert markov.stationary(0, 0) is None and markov.iterations_to(0.1, 0, 0, 0.5) is None
    assert list(markov.accuracy(0, 0, 0.3, [0, 5])) == [0.3, 0.3]
    assert list(markov.accuracy(1, 1, 0.3, [0, 1, 2])) == pytest.approx([0.3, 0.7, 0.3])  # period two
    assert markov.iterations_to(0.1, 1, 1, 0.3) is None


def test_four_states_of_the_reference():
    pi = markov.stationary_of(FOUR)
    assert pi == pytest.approx([0.4545, 0.1818, 0.1818, 0.1818], abs=5e-5)
    # Known figures, rounded from simulations; K=4 is .5706 with ties shared, as brute force has it below.
    assert [markov.plurality(pi, k) for k in (1, 16, 64)] == pytest.approx([0.4545, 0.83, 0.994], abs=5e-3)
    assert markov.plurality(pi, 4) == pytest.approx(brute_plurality(pi, 4), abs=1e-12)


def brute_plurality(shares, votes):
    total = 0.0
    for draw in itertools.product(range(len(shares)), repeat=votes):
        counts = Counter(draw)
        best = max(counts.values())
        leaders = [c for c in counts if counts[c] == best]
        if 0 in leaders:
            total += math.prod(shares[c] for c in draw) / len(leaders)
    return total


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4), st.integers(1, 6))
def test_plurality_is_brute_force(weights, votes):
    shares = np.array(weights) / sum(weights)
    assert markov.plurality(shares, votes) == pytest.approx(brute_plurality(shares, votes), abs=1e-9)


@given(chance, st.integers(1, 40))
def test_plurality_of_two_is_the_majority(p, votes):
    assert markov.plurality([p, 1 - p], votes) == pytest.approx(markov.majority(p, votes), abs=1e-9)


def test_gate_of_the_reference():
    skill = markov.Skill(0.9, 0.6, 0.2, 0.2, 0.3, 0.3)
    assert markov.stop_on_pass(skill) == pytest.approx((0.1143, 0.9714), abs=5e-5)
    assert markov.stationary(*markov.keep_on_pass(skill)) == pytest.approx(0.7273, abs=5e-5)
    assert markov.always(skill) == pytest.approx((0.2, 0.3))
    assert np.isnan(markov.stop_on_pass(markov.Skill(0, 0, 0.2, 0.2, 0.3, 0.3))).all()  # never accepts


@given(chance, chance, chance, chance, st.integers(1, 4))
def test_gate_by_simulation_of_its_chain(tpr, fpr, ic, ci, passes):
    """The absorbing chain over (state, passes in a row), step by step."""
    found = markov.stop_on_pass(markov.Skill(tpr, fpr, ic, ic, ci, ci), passes)
    # states: (correct, run) ; absorbing right/wrong
    index = {(c, r): i for i, (c, r) in enumerate(itertools.product((0, 1), range(passes)))}
    size = len(index)
    move, right = np.zeros((size, size)), np.zeros(size)
    for (c, r), i in index.items():
        p = tpr if c else fpr
        if r + 1 == passes:
            right[i] = p * c
        else:
            move[i, index[c, r + 1]] += p
        change = ci if c else ic
        move[i, index[1 - c, 0]] += (1 - p) * change
        move[i, index[c, 0]] += (1 - p) * (1 - change)
    solved = np.linalg.solve(np.eye(size) - move, right)
    assert found == pytest.approx((solved[index[0, 0]], solved[index[1, 0]]), abs=1e-6)
    # step by step from a start of .3, ended chains counted with what they hold
    now = np.zeros(size)
    now[index[1, 0]], now[index[0, 0]], ended = 0.3, 0.7, 0.0
    path = markov.stop_path(markov.Skill(tpr, fpr, ic, ic, ci, ci), 0.3, passes, 5)
    for n in range(6):
        if n:
            ended += now @ right
            now = now @ move
        assert path[n] == pytest.approx(ended + sum(now[i] for (c, _), i in index.items() if c), abs=1e-9)


def test_effective_votes_of_the_reference():
    assert [markov.effective_votes(10, lam) for lam in (0.5, 0.83, 0.95)] == pytest.approx([3.85, 1.69, 1.18], abs=5e-3)
    assert markov.effective_votes(10, 0) == 10 and markov.effective_votes(1, 0.9) == 1


@given(st.floats(0, 0.99), st.integers(1, 12))
def test_inflation_is_the_variance_of_a_window(lam, window):
    correlation = lam ** abs(np.subtract.outer(np.arange(window), np.arange(window)))
    assert markov.inflation(window, lam) == pytest.approx(correlation.mean() * window, abs=1e-9)


def test_pass_at_k_of_the_reference():
    assert [markov.pass_at_k(16, 3, k) for k in (1, 4, 8)] == pytest.approx([0.1875, 0.60714, 0.9], abs=5e-6)
    with pytest.raises(BadInput, match="pass@k"):
        markov.pass_at_k(4, 5, 1)


@pytest.mark.parametrize(
    ("matrix", "word"),
    [([[1, 0]], "as many rows"), ([[0.5, 0.6], [0, 1]], "row 1"), ([["x"]], "rows of numbers"), ([[0.5, 0.5], [1]], "rows of numbers")],
)  # fmt: skip
def test_bad_matrices_are_named(matrix, word):
    with pytest.raises(BadInput, match=word):
        markov.checked(matrix)


def test_two_closed_sets_have_no_one_limit():
    with pytest.raises(BadInput, match="closed sets"):
        markov.stationary_of([[1, 0], [0, 1]])
