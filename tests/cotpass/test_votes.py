"""Vote rules against a table written by hand, and against the closed forms for independent judges."""

from itertools import product

import pytest

from cotpass.votes import RULES, aggregate, tally
from tenfold_shared import BadInput

# Three votes (y, n, - for abstain) and what any, majority, all make of them: T, F, or ? (unjudged).
ROWS = """
yyy T T T    nyy T T F    -yy T T F
yyn T T F    nyn T F F    -yn T ? F
yy- T T F    ny- T ? F    -y- T T F
yny T T F    nny T F F    -ny T ? F
ynn T F F    nnn F F F    -nn F F F
yn- T ? F    nn- F F F    -n- F F F
y-y T T F    n-y T ? F    --y T T F
y-n T ? F    n-n F F F    --n F F F
y-- T T F    n-- F F F    --- F ? F
"""
WORDS = {"y": "yes", "n": "no", "-": "abstain"}
VERDICTS = {"T": True, "F": False, "?": None}
CELLS = ROWS.split()
TABLE = {CELLS[i]: CELLS[i + 1 : i + 4] for i in range(0, len(CELLS), 4)}


def test_the_table_has_every_row():
    assert set(TABLE) == {"".join(row) for row in product("yn-", repeat=3)}


@pytest.mark.parametrize("row", TABLE)
def test_three_votes(row):
    counts = tally([WORDS[vote] for vote in row])
    assert [aggregate(*counts, rule) for rule in RULES] == [VERDICTS[cell] for cell in TABLE[row]]


def test_one_vote_and_none():
    assert [aggregate(1, 0, 0, rule) for rule in RULES] == [True, True, True]
    assert [aggregate(0, 1, 0, rule) for rule in RULES] == [False, False, False]
    assert [aggregate(0, 0, 1, rule) for rule in RULES] == [False, None, False]
    assert [aggregate(0, 0, 0, rule) for rule in RULES] == [None, None, None]


@pytest.mark.parametrize(
    ("rule", "accepts_wrong", "rejects_right"),
    [("all", 0.008, 0.271), ("any", 0.488, 0.001), ("majority", 0.104, 0.028)],
)
def test_error_rates_of_three_independent_votes(rule, accepts_wrong, rejects_right):
    """f = 0.2 false positives and m = 0.1 false negatives a vote, summed over all eight outcomes."""

    def accepted(p_yes: float) -> float:
        return sum(
            p_yes ** outcome.count("yes") * (1 - p_yes) ** outcome.count("no")
            for outcome in product(("yes", "no"), repeat=3)
            if aggregate(*tally(outcome), rule)
        )

    assert accepted(0.2) == pytest.approx(accepts_wrong, abs=1e-12)
    assert 1 - accepted(1 - 0.1) == pytest.approx(rejects_right, abs=1e-12)


@pytest.mark.parametrize("counts", list(product(range(5), repeat=3)))
def test_all_implies_majority_implies_any(counts):
    any_, majority, all_ = (aggregate(*counts, rule) is True for rule in RULES)
    assert all_ <= majority <= any_


def test_unknown_votes_and_rules_are_refused():
    with pytest.raises(BadInput, match="'maybe'"):
        tally(["yes", "maybe"])
    with pytest.raises(BadInput, match="rule"):
        aggregate(1, 0, 0, "most")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="at least 0"):
        aggregate(-1, 0, 0, "any")
