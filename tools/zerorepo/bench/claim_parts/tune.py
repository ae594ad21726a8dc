"""Where the weights in zerorepo/localize.py come from: hill climbing over the issues of the packages named for tuning.

What it found (two seeds of 2,500 steps) was then rounded, and some thirty variants were tried by hand on the same issues,
so that a run does not give the very values in localize.py. BM25 has three parameters, by a grid of 168. The weights of
tests, of inherits, of whole classes and of names by kind were set by hand: these issues say nothing of them.

`claims.py --tune` calls `tune` with them: it prints the best weights, and the best k1, b and talk of both BM25 baselines
over the same issues by grid. No issue of the packages that are reported is read.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from claim_parts.rankings import KS, Repository, measures

from zerorepo.lexical import query_of
from zerorepo.localize import EVIDENCE, FIELDS, WAYS, Localizer, Weights

B = (0.2, 0.35, 0.5, 0.65, 0.8)  # b is chosen from these, so that frequencies are made once
CLIMBED = (*FIELDS, "k1", "b", "talk", *(e for e in EVIDENCE if e != "words"), "alpha", *WAYS)


class Case:
    """One issue, with all that does not depend on weights."""

    def __init__(self, repository: Repository, localizer: Localizer, text: str, answer: Iterable[str]) -> None:
        self.localizer = localizer
        query = query_of(text, 1.0)
        low = query_of(text, 0.0)
        self.words = [word for word in sorted(query) if localizer.words.idf(word) > 0]
        self.times = np.array([query[word] * localizer.words.idf(word) for word in self.words])
        self.talk = np.array([low[word] == 0 for word in self.words], bool)
        self.frequencies = {
            b: np.array([[localizer.words.frequency(word, {field: 1.0}, b) for field in FIELDS] for word in self.words]).reshape(len(self.words), len(FIELDS), -1)
            for b in B
        }  # fmt: skip
        self.evidence = localizer.evidence(text)
        known = {name: at for at, name in enumerate(repository.candidates)}
        self.owner = np.array([known.get(repository.function_of(node.id) or "", -1) for node in localizer.units])
        self.answer = np.array([known[one] for one in answer if one in known], int)
        self.count = len(repository.candidates)

    def scores(self, weights: Weights) -> np.ndarray:
        mix = np.array([getattr(weights, field) for field in FIELDS])
        frequency = np.einsum("tfd,f->td", self.frequencies[weights.b], mix)
        times = self.times * np.where(self.talk, weights.talk, 1.0)
        words = (times[:, None] * frequency / (weights.k1 + frequency)).sum(axis=0)
        localizer = self.localizer
        localizer.weights = weights
        localizer.__dict__["matrix"] = localizer._matrix()
        final = localizer._final(localizer.spread(localizer.first({**self.evidence, "words": words})))
        found = np.zeros(self.count)
        kept = self.owner >= 0
        np.maximum.at(found, self.owner[kept], final[kept])
        return found

    def value(self, weights: Weights) -> list[float]:
        scores = self.scores(weights)
        ranks = np.sort([(scores > scores[at]).sum() + ((scores == scores[at]).sum() + 1) / 2 for at in self.answer])
        found = [1 / ranks[0]]
        for k in KS:
            found.append(float(ranks[0] <= k))
            found.append(float((ranks <= k).mean()))
        found.append(float((1 / np.log2(1 + ranks)).mean()))  # smooth, so that small steps are felt
        found.append(float((1 / np.log2(1 + ranks)).mean()))
        return found


def climb(cases: list[Case], start: Weights, steps: int, seed: int) -> tuple[Weights, float]:
    """Weights changed one to three at a time, kept where the mean value grows, less a little for each in use."""
    rng = np.random.default_rng(seed)
    values = {name: float(getattr(start, name)) for name in CLIMBED}

    def value(found: dict[str, float]) -> float:
        weights = Weights(**found)
        used = sum(found[name] > 0 for name in CLIMBED)
        return float(np.mean([case.value(weights) for case in cases])) - 0.0003 * used

    best = value(values)
    for step in range(steps):
        tried = dict(values)
        for name in rng.choice(CLIMBED, rng.integers(1, 4), replace=False):
            if name == "b":
                tried[name] = float(rng.choice(B))
            elif name == "alpha":
                tried[name] = round(float(np.clip(tried[name] + rng.normal(0, 0.15), 0, 0.9)), 2)
            elif rng.random() < 0.12 and name != "k1":
                tried[name] = 0.0
            else:
                tried[name] = round(max(tried[name], 0.05) * float(np.exp(rng.normal(0, 0.5))), 2)
        if tried != values and (now := value(tried)) > best:
            values, best = tried, now
            print(f"{step} {best:.4f}", file=sys.stderr)
    return Weights(**values), best


def baseline(cases: list[tuple[Any, Repository]], *, whole: bool) -> dict[str, Any]:
    """The k1, b and talk that are best by the mean of all measures."""
    made: dict[int, Any] = {}
    for _, repository in cases:
        made.setdefault(id(repository), repository.bm25(whole=whole))
    best: dict[str, Any] = {"value": -1.0}
    for k1, b, talk in itertools.product(
        (0.6, 0.9, 1.2, 1.6, 2, 3, 5, 8), (0.1, 0.2, 0.35, 0.5, 0.65, 0.75, 0.9), (0, 0.3, 1)
    ):
        found = [
            measures(repository.by_bm25(made[id(repository)], issue["text"], k1, b, talk), issue["answer"])
            for issue, repository in cases
        ]
        value = float(np.mean([list(one.values()) for one in found]))
        if value > best["value"]:
            best = {"value": value, "k1": k1, "b": b, "talk": talk}
    return best


def tune(found: Sequence[tuple[Repository, Sequence[Any]]], encoder: Any, steps: int = 2500) -> None:
    pairs = [(issue, repository) for repository, issues in found for issue in issues]
    for whole in (False, True):
        print(json.dumps({"bm25": "whole" if whole else "bodies", **baseline(pairs, whole=whole)}))
    localizers = {id(repository): repository.localizer(encoder) for repository, _ in found}
    cases = [
        Case(repository, localizers[id(repository)], issue["text"], issue["answer"]) for issue, repository in pairs
    ]
    for seed in (1, 2):
        weights, value = climb(cases, Weights(), steps, seed)
        print(value, weights)
