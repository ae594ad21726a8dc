"""Whose fault is a failing test? A vote, decided by rule (arXiv 2509.16198 §4.3: five rounds)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

ROUNDS = 5
QUORUM = 3
CAUSES = ("code", "test", "environment")


def majority(votes: Sequence[str | None], quorum: int = QUORUM) -> str | None:
    """The cause that more than half of the cast votes name; None where fewer than `quorum` were cast or none has more than
    half. An answer that could not be read is None and is not cast: a tie never decides."""
    cast = Counter(vote for vote in votes if vote is not None)
    total = sum(cast.values())
    if total < quorum:
        return None
    cause, count = cast.most_common(1)[0]
    return cause if 2 * count > total else None
