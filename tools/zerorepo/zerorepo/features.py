"""Feature phrases without a model: what a unit's name and the first line of its docstring say it does.

A feature is a short verb-object phrase in lower case (arXiv 2602.02084 §2, semantic lifting). Where a model
is given, lift.py puts its phrases in the place of these.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zerorepo.graph import Node

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


def own_phrases(node: Node) -> tuple[list[str], str]:
    """What `phrases` gives for a node: a package's `__init__.py` goes by the name of its folder."""
    if node.kind != "file":
        return phrases(node.name, node.doc)
    folder = node.path.rpartition("/")[0].rpartition("/")[2]
    return phrases(folder if node.name == "__init__.py" else node.name.removesuffix(".py"), node.doc)
