"""Key chains: ids, the pairs that lead from a head to a question, and where in a text they may stand.

Sits between corpus.py and row.py (LoongRL, arXiv 2510.19363 §3.1 and Fig. 2). A row holds C chains of h pairs. A pair
is a JSON object with one entry, `{"9bbc96f5": "76cd1a85"}.`; the last pair of a chain holds a question. Chain 0 ends
in the row's own question, the others in decoys; all pairs are shuffled into the text.

    structure chain   h pairs; each id leads to the next one
    structure tree    a complete binary tree of h levels: an inner node's pair leads to two ids, `{"k": ["l", "r"]}`;
                      one leaf has a pair, which holds the question, the others lead nowhere. 2^(h−1) pairs

A pair is put after a sentence's end, or at the start of a document's text, never inside a number, an initial, an
abbreviation or an address, and never between a header and its title. Values are JSON whatever the question holds.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

_ABBREVIATIONS = {
    *"mr mrs ms dr prof rev hon st sr jr gen col maj capt lt sgt gov sen rep pres mt ft".split(),
    *"adm messrs ph.d cmdr pvt cpl mass".split(),
    *"vs etc e.g i.e cf al ca c no nos vol vols pp p fig figs ed eds op inc ltd co corp dept univ assn bros".split(),
    *"jan feb mar apr jun jul aug sep sept oct nov dec approx est b d r fl ave blvd rd u.s u.k".split(),
}
# The end of a sentence: its mark and closing quotes, then white space, then what may begin another, or the end.
_END = re.compile(r"""[.?!…]["'”’)\]]*(?=\s+["'“‘(\[]*[A-Z0-9À-ÞΑ-ΩА-Я]|\s*$)""")
_BEFORE = re.compile(r"(\S+)$")


class Pair(msgspec.Struct, frozen=True):
    """key leads to value: an id, two ids (trees), or the question that a chain ends in."""

    key: str
    value: str | list[str]
    chain: int
    last: bool

    @property
    def text(self) -> str:
        return f'{{"{self.key}": {json.dumps(self.value, ensure_ascii=False)}}}.'


def new_id(rng: random.Random, style: str, taken: set[str]) -> str:
    """An id that is not in `taken`, and is now. 32 bits are few at 2,048 ids a row: 1 row in 2,000 would collide."""
    while True:
        if style == "uuid":
            found = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        else:
            found = f"{rng.getrandbits(32):08x}" if style == "hex8" else f"{rng.getrandbits(128):032x}"
        if found not in taken:
            taken.add(found)
            return found


def make(rng: random.Random, questions: Sequence[str], hops: int, style: str, structure: str) -> tuple[str, list[Pair]]:
    """(head, pairs) for one chain a question, the first of them the row's own; pairs are not shuffled yet."""
    taken: set[str] = set()
    heads, pairs = [], []
    build = _chain if structure == "chain" else _tree
    for chain, question in enumerate(questions):
        head, found = build(rng, question, hops, chain, lambda: new_id(rng, style, taken))
        heads.append(head)
        pairs += found
    return heads[0], pairs


def _chain(
    rng: random.Random, question: str, hops: int, chain: int, fresh: Callable[[], str]
) -> tuple[str, list[Pair]]:
    ids = [fresh() for _ in range(hops)]
    pairs = [Pair(key, value, chain, False) for key, value in itertools.pairwise(ids)]
    return ids[0], [*pairs, Pair(ids[-1], question, chain, True)]


def _tree(rng: random.Random, question: str, hops: int, chain: int, fresh: Callable[[], str]) -> tuple[str, list[Pair]]:
    head = fresh()
    level, pairs = [head], []
    for _ in range(hops - 1):
        below = []
        for key in level:
            pair = [fresh(), fresh()]
            pairs.append(Pair(key, list(pair), chain, False))
            below += pair
        level = below
    return head, [*pairs, Pair(rng.choice(level), question, chain, True)]


def points(text: str) -> list[int]:
    """Offsets behind the sentences of TEXT, where a pair may be put after a space; its end among them."""
    found = []
    for match in _END.finditer(text):
        if match[0][0] in ".!" and not _is_stop(text, match.start()):
            continue
        found.append(match.end())
    if text.strip() and (not found or text[found[-1] :].strip()):
        found.append(len(text.rstrip()))
    return found


def _is_stop(text: str, at: int) -> bool:
    """Whether the mark at `at` ends a sentence: not after an initial or an abbreviation, or as part of a name."""
    before = _BEFORE.search(text[max(0, at - 30) : at])
    word = before[1].lstrip("\"'“‘([") if before else ""
    if text[at] == "!":
        return word not in ("Yahoo", "Jeopardy")
    if re.fullmatch(r"[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]", word):
        return False
    return word.casefold() not in _ABBREVIATIONS


def insert(text: str, at: Sequence[tuple[int, bool]], pairs: Sequence[Pair]) -> tuple[str, list[dict[str, Any]]]:
    """TEXT with a pair at each place, and for each, in the order of the text, where it stands.

    at: (offset, leading) in rising order; leading: before what stands there (the start of a document's text) instead of
    behind it. Returns spans {key, value, offset, length, chain}: TEXT is what is left when every
    [offset, offset + length) is cut out. offset counts characters of the new text; the span holds the space beside the pair.
    """
    pieces, spans, done, size = [], [], 0, 0
    for (offset, leading), pair in zip(at, pairs, strict=True):
        pieces.append(text[done:offset])
        size += offset - done
        added = f"{pair.text} " if leading else f" {pair.text}"
        spans.append({"key": pair.key, "value": pair.value, "offset": size, "length": len(added), "chain": pair.chain})
        pieces.append(added)
        size += len(added)
        done = offset
    pieces.append(text[done:])
    return "".join(pieces), spans
