"""Copies and near copies of texts: what makes two documents the same, and what has been kept of a corpus so far.

Used by corpora.py over all domains and both splits, as licences repeat each other and generated code repeats itself.
"""

from __future__ import annotations

import hashlib
import re
import zlib

import numpy as np
from numpy.typing import NDArray

WORDS = (
    13  # a shingle; the length with which training and test texts are told apart in the literature (GPT-3, appendix C)
)
SAMPLED = 4  # one shingle in so many is kept: chosen by its hash, so that a copy keeps the same ones
OVERLAP = 0.5


def digest(text: str) -> bytes:
    """16 bytes that two texts share when they differ in white space alone."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()[:16]


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers whose every bit depends on every bit of those given: the end of splitmix64, and one to one."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def shingles(text: str) -> NDArray[np.uint64]:
    """The sampled hashes of a text's runs of 13 words, each once. Case and punctuation do not count."""
    words = np.array([zlib.crc32(word.encode()) for word in re.findall(r"\w+", text.lower())], dtype=np.uint64)
    if len(words) < WORDS:
        return np.empty(0, dtype=np.uint64)
    n = len(words) - WORDS + 1
    hashed = np.zeros(n, dtype=np.uint64)
    for i in range(WORDS):  # a polynomial modulo 2^64
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + words[i : i + n] + np.uint64(1)
    hashed = mixed(hashed)
    return np.unique(hashed[hashed % np.uint64(SAMPLED) == 0])


class Kept:
    """What has been kept so far, of all domains and both splits."""

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._shingles: set[int] = set()
        self.dropped = {"exact": 0, "near": 0}

    def new(self, key: bytes) -> bool:
        """Whether no text of this digest has been seen; a near copy that was dropped counts as seen."""
        if key in self._exact:
            self.dropped["exact"] += 1
            return False
        self._exact.add(key)
        return True

    def admits(self, text: str) -> bool:
        """Whether a text is new: no copy, and at most half of its shingles known. If so, it counts as kept."""
        key = digest(text)
        if not self.new(key):
            return False
        found: list[int] = shingles(text).tolist()
        if found and sum(one in self._shingles for one in found) > OVERLAP * len(found):
            self.dropped["near"] += 1
            return False
        self._shingles.update(found)
        return True


def cut(text: str, most: int) -> str:
    """At most so many bytes of UTF-8, up to a line end where there is one in the second half."""
    data = text.encode()
    if len(data) <= most:
        return text
    end = data.rfind(b"\n", most // 2, most) + 1
    return data[: end or most].decode("utf-8", "ignore")


def clean(text: str) -> str:
    """Without NUL bytes, as byte 0 stands between documents."""
    return text.replace("\0", "")
