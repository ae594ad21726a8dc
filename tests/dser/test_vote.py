"""The vote: windows, ties, classes of equal answers, weights, who speaks for it, and when a problem may stop early."""

import random

import numpy as np
import pytest

from dser.chain import Procedure
from dser.log import Problem, Settings
from dser.vote import Classes, leads, stop_iteration, stopped_at, vote


def problem(rows, window=1, policy="always", verdicts=None, iterations=None, rule="plurality", ended=None, early=0.0):
    """A problem whose chain k has the answers rows[k]."""
    last = iterations if iterations is not None else max(map(len, rows)) - 1
    made = Problem(
        "p", Settings(Procedure(iterations=last, policy=policy), len(rows), window, rule, early), {"answer": "1"}
    )
    for index, row in enumerate(rows):
        chain = made.chain(index)
        chain.cells = list(row)
        chain.verdicts = list(verdicts[index]) if verdicts else [None] * len(row)
        chain.carried = [False] * len(row)
        chain.ended = ended[index] if ended else ("done" if len(row) == last + 1 else None)
    return made


def test_only_the_window_votes():
    rows = [["1", "1", "2"], ["1", "1", "2"], ["1", "1", "1"]]
    assert vote(problem(rows, 1)).answer == "2" and vote(problem(rows, 3)).answer == "1"
    assert vote(problem(rows, 1), window=2).counts[0] == {"answer": "1", "votes": 4, "chains": 3, "passes": 0}
    assert vote(problem(rows, 1), upto=1).answer == "1"


def test_ties_go_to_more_chains_then_passes_then_the_first_chain():
    assert (
        vote(problem([["2", "2", "3"], ["1", "4", "5"], ["6", "1", "7"]], 3)).answer == "1"
    )  # two votes each; two chains
    assert vote(problem([["2"], ["1"]])).answer == "2" and vote(problem([["2"], ["1"]])).tie
    passed = [["fail", "fail"], ["pass", "fail"]]
    assert vote(problem([["2", "2"], ["1", "1"]], 2, verdicts=passed)).answer == "1"


def test_no_answer_never_wins():
    found = vote(problem([[None], [None], ["7"]]))
    assert (found.answer, found.votes, found.chain) == ("7", 1, 2)
    empty = vote(problem([[None], [None]]))
    assert empty.answer is None and empty.counts == [] and empty.chain is None
    assert vote(Problem("p", Settings())).answer is None


def test_equal_answers_are_one_class_and_merges_are_told():
    found = vote(problem([["073"], ["73"], ["5"], ["5.0"], ["73"]]))
    assert found.answer == "73" and found.counts[0]["votes"] == 3 and found.counts[1]["votes"] == 2
    found = vote(problem([[r"\frac{1}{2}"], ["0.5"], ["3"]]))
    assert found.counts[0]["votes"] == 2
    surd = vote(problem([[r"\frac{1}{\sqrt{2}}"], [r"\frac{\sqrt{2}}{2}"], ["3"]]))
    assert surd.counts[0]["votes"] == 2 and len(surd.merges) == 1


def test_classes_do_not_depend_on_order():
    from collections import Counter

    given = [r"\frac{1}{2}", "0.5", "1/2", "2", "2.0", r"\sqrt{4}", "x"]
    made = []
    for seed in range(5):
        shuffled = given[:]
        random.Random(seed).shuffle(shuffled)
        classes = Classes(Counter(shuffled))
        made.append({frozenset(a for a in given if classes.of[a] == c) for c in set(classes.of.values())})
    assert all(one == made[0] for one in made) and len(made[0]) == 3


def test_the_vote_speaks_through_the_lowest_chain_that_holds_it_now():
    found = vote(problem([["1", "2"], ["3", "1"], ["1", "1"]], 2))
    assert (found.answer, found.chain, found.iteration) == ("1", 1, 1)
    lost = vote(problem([["1", "2"], ["1", "3"], ["1", "4"]], 2))  # nobody holds it any more
    assert (lost.answer, lost.chain, lost.iteration) == ("1", 0, 0)


def test_a_chain_that_a_policy_ended_keeps_its_answer():
    made = problem([["1"], ["2", "2", "2"], ["2", "2", "3"]], 3, "stop-on-pass", ended=["accepted", "done", "done"])
    assert vote(made).counts[0]["votes"] == 5 and vote(made).counts[1] == {
        "answer": "1",
        "votes": 3,
        "chains": 1,
        "passes": 0,
    }
    assert vote(made, rule="accepted").answer == "1"
    none = problem([["1", "1"]], 1, "stop-on-pass", rule="accepted")
    assert vote(none).answer is None


def test_an_unfinished_chain_votes_with_what_it_has():
    found = vote(problem([["1"], ["2", "2", "2"], ["1", "1"]], 1))
    assert found.answer == "1" and found.votes == 3


def test_passes_weigh_an_answer():
    verdicts = [["fail", None], ["fail", None], ["pass", None]]
    found = vote(problem([["2", "2"], ["2", "2"], ["1", "1"]], 1, verdicts=verdicts), rule="passes")
    assert found.answer == "1"  # 1 * 1.5/2 against 2 * .5/3


def test_effective_votes_lie_between_chains_and_cells():
    still = vote(problem([["1"] * 20] * 8, 10))
    moving = vote(problem([["1", "2"] * 10] * 8, 10))
    assert 8 <= still.effective_votes < 16 < moving.effective_votes <= 80


def test_leads_is_the_dirichlets_chance():
    rng = np.random.default_rng(1)
    for votes in ([6, 2], [10, 9, 3], [3, 1, 1, 1]):
        draws = rng.dirichlet(np.array([*votes, 0]) + 0.5, 200_000)
        truth = (draws.argmax(1) == 0).mean()
        bound = leads(np.array(votes, dtype=float), float(sum(votes)))
        assert bound <= truth + 0.005 and (len(votes) > 2 or bound == pytest.approx(truth, abs=0.06))
    assert leads(np.array([0.0]), 1.0) == 0


def test_early_stop_waits_for_a_window_and_a_steady_leader():
    agreed = problem([["1"] * 12] * 16, 4, early=0.95)
    assert not stop_iteration(agreed, 0.95, 3) and stop_iteration(agreed, 0.95, 4)
    assert stopped_at(agreed) == 4
    turning = problem([["2"] * 3 + ["1"] * 9] * 16, 4, early=0.95)
    assert not stop_iteration(turning, 0.95, 4) and stopped_at(turning) == 6
    split = problem([["1"] * 12] * 8 + [["2"] * 12] * 8, 4, early=0.95)
    assert stopped_at(split) is None
