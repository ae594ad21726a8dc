"""Joining the votes on one reasoning: any, majority or all of them say yes, with abstentions explicit.

And what else can be said of votes alone: the error rates of a joined verdict, and that all votes of a file
are one judge's. The judges that cast them are `judge.py` and `steps.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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


def joined_rates(fpr: float, fnr: float, votes: int, rule: Rule) -> tuple[float, float]:
    """(fpr, fnr) of the joined verdict of `votes` independent votes that have the rates fpr and fnr each.

    all: f^V and 1 − (1−m)^V; any: 1 − (1−f)^V and m^V; majority of three: 3f² − 2f³ and 3m² − 2m³. A tie is
    no yes: it lowers the false positives and adds to the false negatives.
    """
    if votes < 1 or not (0 <= fpr <= 1 and 0 <= fnr <= 1):
        raise BadInput(f"votes: expected at least 1, and rates in [0, 1]; got {votes}, {fpr}, {fnr}")
    least = {"any": 1, "majority": votes // 2 + 1, "all": votes}[rule]

    def accepted(yes: float) -> float:
        return math.fsum(math.comb(votes, k) * yes**k * (1 - yes) ** (votes - k) for k in range(least, votes + 1))

    def rejected(yes: float) -> float:
        return math.fsum(math.comb(votes, k) * yes**k * (1 - yes) ** (votes - k) for k in range(least))

    return accepted(fpr), rejected(1 - fnr)


class OneJudge:
    """What the first judged record says about the judge; every other one must say the same."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.named_at = ""
        self.votes: int | None = None
        self.voted_at = ""

    def check(self, at: str, record: Mapping[str, Any]) -> None:
        """Raises BadInput, naming AT, for another number of votes or a second judge."""
        count = len(record["votes"])
        if self.votes is None:
            self.votes, self.voted_at = count, at
        if count != self.votes:
            raise BadInput(f"{at}: votes: expected {self.votes} votes as in {self.voted_at}, got {count}")
        entries = record.get("judge")
        if entries is None:
            return
        if not isinstance(entries, list) or len(entries) != count:
            raise BadInput(f"{at}: judge: expected a list with one entry a vote ({count})")
        for entry in entries:
            name = _judge_name(entry)
            if name is None:
                continue
            if self.name is None:
                self.name, self.named_at = name, at
            if name != self.name:
                raise BadInput(
                    f"{at}: judge: expected one judge in all records, got {name} here and {self.name} in "
                    f"{self.named_at}; measure them one file at a time"
                )


def _judge_name(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return None
    if "steps" in entry:
        return "the steps rule"
    return f"model {entry['model']}" if entry.get("model") else None
