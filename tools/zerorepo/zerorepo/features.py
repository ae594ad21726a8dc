"""Feature phrases without a model: what a unit's name and the first line of its docstring say it does.

A feature is a short verb-object phrase in lower case (arXiv 2602.02084 §2, semantic lifting). Where a model
is given, lift.py puts its phrases in the place of these.
"""

from __future__ import annotations

import re

WORDS = 8  # the longest phrase; P2 asks for three to eight words
_SPLIT = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_SENTENCE = re.compile(r"[.;:!?](?:\s|$)")
_TOKEN = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")


def words_of(name: str) -> list[str]:
    """The words of an identifier in lower case: `HTTPServer_v2` is http, server, v, 2."""
    return [word.lower() for word in _SPLIT.findall(name)]


def phrases(name: str, doc: str) -> tuple[list[str], str]:
    """(features, what they rest on) of a unit: its name as words, and its docstring's first sentence.

    `doc` is the docstring's first paragraph on one line. A sentence is cut after WORDS words.
    """
    told = " ".join(words_of(name))
    found = [told] if told else []
    if doc:
        sentence = _SENTENCE.split(doc[:240], 1)[0]
        words = _TOKEN.findall(sentence.lower())[:WORDS]
        if words and (text := " ".join(words)) != told:
            return [*found, text], "doc"
    return found, "name" if found else ""
