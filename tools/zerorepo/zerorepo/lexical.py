"""Words of code and prose, and BM25 over fields of them. Used by localize.py, which knows what the fields are.

Text and code are split alike, so that "read the cookie jar" can meet `CookieJar.read`: an identifier is its parts,
and the whole of it as well where it has several. Endings of English words are cut lightly. Nothing here knows of
graphs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from zerorepo.features import words_of

_WORD = re.compile(r"[^\W\d_]\w*|_\w+|\d+(?:\.\d+)*")
# Words that stand in every issue and every docstring, and Python's own.
STOP = frozenset(
    """a about after all also an and any are as at be been being but by can cannot could did do does doing done for from had
    has have how i if in instead into is it its itself longer made make may me more most my no nor not now of off on only onto
    or other our out over own same should so some such than that the their them then there these they this those through to
    too under until up upon use used uses using very was we were what when where which while who why will with within without
    would you your def self cls return none true false elif else import pass lambda yield raise""".split()
)

# What issues and changelogs say of any change at all. In code these words are rare, so that idf would make much of them.
TALK = """fix fixed fixes fixing bug bugs bugfix issue issues problem problems regression regressed regressions correct correctly
corrected corrects incorrect incorrectly proper properly improper improve improved improves improvement ensure ensures ensured
support supports supported supporting unsupported allow allows allowed allowing add adds added adding addition new change
changes changed changing update updates updated behavior behaviour handle handles handled handling case cases work works
working broken break breaks wrong wrongly unexpected unexpectedly expected prevent prevents prevented avoid avoids avoided
introduce introduced cause causes caused causing make when feature release released version versions accidentally better
possible please thanks would like steps reproduce actual""".split()


def tokens(text: str) -> list[str]:
    """The words of a text or of code: lower case, identifiers in parts and whole, endings cut, stop words left out."""
    found: list[str] = []
    for word in _WORD.findall(text):
        found += _parts(word)
    return found


@lru_cache(maxsize=1 << 18)
def _parts(word: str) -> tuple[str, ...]:
    parts = words_of(word) or [word.lower()]
    kept = [stem(part) for part in parts if part not in STOP and (len(part) > 1 or part.isdigit())]
    if len(parts) > 1:
        kept.append(word.lower().strip("_"))
    return tuple(kept)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A word without the commonest English endings: plural, -ing, -ed, -ly, and a doubled consonant or e before them.

    Light on purpose: two words of one root mostly meet, and few of different roots do.
    """
    if len(word) < 4 or not word.isascii():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed", "ly", "er", "or"):
        base = word[: -len(ending)]
        if word.endswith(ending) and len(base) >= 3 and any(letter in "aeiouy" for letter in base):
            word = base
            if word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


_TALK = frozenset(stem(word) for word in TALK)


def query_of(text: str, talk: float = 1.0) -> dict[str, float]:
    """The words of an issue to their weights: 1 + ln(count), times `talk` for those that any issue has."""
    counts = Counter(tokens(text))
    return {word: (1 + math.log(times)) * (talk if word in _TALK else 1.0) for word, times in counts.items()}


class Bm25:
    """BM25 over documents of several fields (BM25F: the fields' frequencies are joined before they saturate).

    idf(t) = ln(1 + (N − n + ½)/(n + ½)), n the documents that hold t in any field;
    f(t, d) = Σ_field w · tf / (1 − b + b · length/mean length); score = Σ_t idf · f/(k1 + f).
    With one field of weight 1 this is plain BM25 without its constant factor k1 + 1.
    (Robertson, Zaragoza, Taylor: Simple BM25 extension to multiple weighted fields, CIKM 2004.)
    """

    def __init__(self, documents: int, fields: Mapping[str, Iterable[Sequence[str]]]) -> None:
        """fields: field to the words of each document, in the order of documents."""
        self.documents = documents
        self._rows: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        self._length: dict[str, np.ndarray] = {}
        holders: dict[str, set[int]] = {}
        for field, texts in fields.items():
            places: dict[str, list[int]] = {}
            times: dict[str, list[int]] = {}
            lengths = np.zeros(documents)
            for at, words in enumerate(texts):
                lengths[at] = len(words)
                for word, count in Counter(words).items():
                    places.setdefault(word, []).append(at)
                    times.setdefault(word, []).append(count)
            for word, found in places.items():
                holders.setdefault(word, set()).update(found)
            self._rows[field] = {word: (np.array(places[word]), np.array(times[word], float)) for word in places}
            mean = lengths.mean() if documents else 0.0
            self._length[field] = lengths / mean if mean else np.ones(documents)
        self._idf = {
            word: math.log(1 + (documents - len(found) + 0.5) / (len(found) + 0.5)) for word, found in holders.items()
        }

    def idf(self, word: str) -> float:
        """0 of a word that no document holds."""
        return self._idf.get(word, 0.0)

    def scores(
        self, query: Mapping[str, float], weights: Mapping[str, float], k1: float = 1.2, b: float = 0.75
    ) -> np.ndarray:
        """Score of every document. query: word to its weight (its count, in plain BM25); weights: of the fields."""
        total = np.zeros(self.documents)
        for word, times in sorted(query.items()):
            frequency = self.frequency(word, weights, b)
            total += times * self.idf(word) * frequency / (k1 + frequency)
        return total

    def frequency(self, word: str, weights: Mapping[str, float], b: float = 0.75) -> np.ndarray:
        """f(t, d) of every document."""
        found = np.zeros(self.documents)
        for field, weight in weights.items():
            row = self._rows[field].get(word)
            if row is not None and weight:
                at, times = row
                found[at] += weight * times / (1 - b + b * self._length[field][at])
        return found
