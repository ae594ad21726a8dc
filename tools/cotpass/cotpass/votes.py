"""Joining the votes on one reasoning: any, majority or all of them say yes, with abstentions explicit.

Used by `metric.py`; the judges that cast the votes are `judge.py` and `steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tenfold_shared import BadInput

Rule = Literal["any", "majority", "all"]
RULES: tuple[Rule, ...] = ("any", "majority", "all")
VOTES = ("yes", "no", "abstain")


def aggregate(yes: int, no: int, abstain: int, rule: Rule) -> bool | None:
    """Whether a reasoning counts as correct under `rule`; None where the votes do not say (unjudged).

    yes, no, abstain: how many of the requested votes were each (arXiv 2506.14245 §3.1, A.3).
    any: at least one yes. all: every requested vote valid and yes. majority: yes > no among the valid
    votes; a tie, or no valid vote, is unjudged. Without a single requested vote every rule is unjudged.
    So all implies majority implies any.
    """
    if min(yes, no, abstain) < 0:
        raise BadInput(f"votes: expected counts of at least 0, got {yes} yes, {no} no, {abstain} abstain")
    if rule not in RULES:
        raise BadInput(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    if yes + no + abstain == 0:
        return None
    if rule == "any":
        return yes > 0
    if rule == "all":
        return no == 0 and abstain == 0
    return None if yes == no else yes > no


def tally(votes: Sequence[str]) -> tuple[int, int, int]:
    """(yes, no, abstain) of a record's `votes`. Raises BadInput on any other word."""
    counted = (votes.count("yes"), votes.count("no"), votes.count("abstain"))
    if sum(counted) != len(votes):
        bad = next(vote for vote in votes if vote not in VOTES)
        raise BadInput(f"votes: expected yes, no or abstain, got {bad!r}")
    return counted
