"""Marks of planning, retrieving, reasoning and rechecking in responses, by regular expressions.

LoongRL (arXiv 2510.19363, abstract) reads from its models' responses that training on key chains brings forth the
pattern plan, retrieve, reason, recheck. A list of phrases sees words, not thought: a share by itself says little, two shares
of the same list (before and after training, in right and in wrong responses) say more. English only; case is ignored.

A mark counts once a response, wherever it stands, the reasoning that a server separates included. `in_order`: all four
are there, and their first places come in that order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

PHRASES: dict[str, tuple[str, ...]] = {
    # What will be done, before it is done.
    "plan": (
        r"step[- ]by[- ]step",
        r"first,? (?:i|we|let)\b",
        r"(?:i|we)(?: will|'ll| need to| have to| should| must)(?: first)? "
        r"(?:find|look|follow|trace|start|begin|identify|locate)",
        r"let(?:'s| us| me) (?:start|begin|break|plan|outline|first)",
        r"(?:my|the|a) (?:plan|approach|strategy)\b",
        r"to (?:answer|solve|find) (?:this|the|that)\b",
    ),
    # Something is taken out of the text: a place in it is named, or it is quoted.
    "retrieve": (
        r"(?:passage|document|paragraph|section) #?\d+",
        r"according to (?:the|passage|document)\b",
        r"(?:the|this) (?:text|passage|document|article|context) (?:says|states|mentions|gives|tells|notes|describes)",
        r"(?:it|this) (?:is|was) (?:stated|mentioned|said|given) (?:in|that)\b",
        r"in the (?:provided |given )?(?:text|passage|document|context)\b",
        r"(?:i|we) (?:found|find|see|read)\b",
        r"(?:the )?(?:next key|key|value) (?:for |of )?[\"']?[0-9a-f]{8}",
        r"(?:->|→|leads to|maps to|points to)",
    ),
    # One thing follows from another.
    "reason": (
        r"\b(?:therefore|thus|hence|consequently)\b",
        r"\b(?:because|since) (?:the|it|he|she|they|this|that|both)\b",
        r"\b(?:this|that|which) (?:means|implies|suggests|indicates)\b",
        r"\bit follows\b",
        r"\bso,? (?:the|it|he|she|they|this|that|we|i)\b",
        r"\bif .{1,80}? then\b",
    ),
    # What was found is looked at once more.
    "recheck": (
        r"\bwait\b",
        r"\b(?:double|re)-?\s?check",
        r"\bverif(?:y|ied|ying)\b",
        r"\blet(?:'s| us| me) (?:check|confirm|make sure|re-?read|look again|go back|re-?examine)",
        r"\b(?:to|just to) (?:confirm|be sure|make sure)\b",
        r"\b(?:look|read|go(?:ing)?) (?:again|back|over)\b",
        r"\bactually,",
        r"\bon second thought\b",
    ),
}

_COMPILED = {mark: re.compile("|".join(phrases), re.IGNORECASE) for mark, phrases in PHRASES.items()}


def first_places(text: str) -> dict[str, int]:
    """Where each mark that TEXT has stands for the first time."""
    text = text.replace("’", "'")
    found = ((mark, pattern.search(text)) for mark, pattern in _COMPILED.items())
    return {mark: match.start() for mark, match in found if match}


class Patterns:
    """Takes responses one by one; `summary` is the `patterns` of the report."""

    GROUPS = ("all", "right", "wrong")

    def __init__(self) -> None:
        self.counts = {
            group: dict.fromkeys(("responses", *PHRASES, "all_four", "in_order"), 0) for group in self.GROUPS
        }

    def take(self, text: str, right: bool) -> None:
        places = first_places(text)
        order = [places[mark] for mark in PHRASES if mark in places]
        whole = len(order) == len(PHRASES)
        seen: Iterable[str] = ["responses", *places, *(["all_four"] if whole else []),
                               *(["in_order"] if whole and order == sorted(order) else [])]  # fmt: skip
        for group in ("all", "right" if right else "wrong"):
            for name in seen:
                self.counts[group][name] += 1

    def summary(self) -> dict[str, dict[str, Any]]:
        """{all, right, wrong}: how many responses, and which share of them has each mark; None for no responses."""
        return {
            group: {
                "responses": counts["responses"],
                **{
                    name: counts[name] / counts["responses"] if counts["responses"] else None
                    for name in counts
                    if name != "responses"
                },
            }
            for group, counts in self.counts.items()
        }
