"""How each method ranks the functions of one release for one issue. Used by ../claims.py and tune.py.

Every method ranks the same candidates: the functions that mining.functions finds, that is, each `def` that lies in no
other, outside tests, docs and vendored copies. What a method says of a nested function counts for the one around it,
and what it says of classes and files is passed over.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claim_parts.mining import functions

from zerorepo.encode import encode
from zerorepo.graph import Graph
from zerorepo.lexical import Bm25, query_of, tokens
from zerorepo.localize import WEIGHTS, Localizer, Weights, docstrings
from zerorepo.navigate import Texts
from zerorepo.sources import WorkTree


class Remembered:
    """An encoder that keeps the vectors of what it has seen: releases of one package say much the same. In a file, so
    that a later part need not make them again."""

    def __init__(self, path: Path) -> None:
        from zerorepo.embeddings import encoder

        self._encoder, self._path = encoder("minilm"), path
        self.name, self.dimensions = self._encoder.name, self._encoder.dimensions
        self._known: dict[str, np.ndarray] = {}
        if path.exists():
            with np.load(path) as kept:
                if str(kept["name"]) == self.name:
                    self._known = dict(zip(kept["texts"].tolist(), kept["vectors"], strict=True))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, d]"""
        if new := sorted(set(texts) - self._known.keys(), key=lambda text: (len(text), text)):
            self._known.update(zip(new, np.asarray(self._encoder.encode(new), np.float32), strict=True))
        return (
            np.stack([self._known[text] for text in texts])
            if len(texts)
            else np.zeros((0, self.dimensions), np.float32)
        )

    def save(self) -> None:
        texts = sorted(self._known)
        beside = self._path.with_suffix(f".{os.getpid()}")  # another part may be reading
        with open(beside, "wb") as file:
            np.savez(file, name=self.name, texts=np.array(texts, str), vectors=np.array([self._known[text] for text in texts]))  # fmt: skip
        os.replace(beside, self._path)


class Repository:
    """One release, unpacked, with what the methods need of it."""

    def __init__(self, tree: Path, graph_file: Path) -> None:
        self.tree = tree
        if graph_file.exists():
            self.graph = Graph.load(graph_file)
        else:
            self.graph = encode(WorkTree(tree))
            graph_file.parent.mkdir(parents=True, exist_ok=True)
            self.graph.save(graph_file)
        self.candidates = functions(tree)
        self._known = set(self.candidates)
        self.texts = Texts(self.graph, WorkTree(tree))

    def function_of(self, node_id: str) -> str | None:
        """The candidate a unit is, or lies in."""
        path, _, qualname = node_id.partition(":")
        parts = [part.partition("#")[0] for part in qualname.split(".")]
        for length in range(1, len(parts) + 1):  # the outermost function first
            name = f"{path}:{'.'.join(parts[:length])}"
            if name in self._known:
                return name
        return None

    def ranking(self, ids: Iterable[str]) -> list[str]:
        """Units, best first, as candidates, each once."""
        return list(dict.fromkeys(name for one in ids if (name := self.function_of(one)) is not None))

    def localizer(self, encoder: Any, weights: Weights = WEIGHTS, **switches: Any) -> Localizer:
        return Localizer(self.graph, self.texts, encoder, weights=weights, **switches)

    def ours(self, localizer: Localizer, issue: str) -> list[str]:
        scores = np.round(localizer.scores(issue), 9)
        order = sorted(np.flatnonzero(scores > 0).tolist(), key=lambda at: (-scores[at], localizer.units[at].id))
        return self.ranking(localizer.units[at].id for at in order)

    # ------------------------------------------------------------ BM25

    def bm25(self, *, whole: bool) -> Bm25:
        """Over the functions' source without docstrings; `whole`: with them, and with the words of path and class."""
        places: dict[str, list[Any]] = {}
        for node in self.graph.nodes:
            if node.kind in ("function", "method") and self.function_of(node.id) == node.id.partition("#")[0]:
                places.setdefault(node.id.partition("#")[0], []).append(node)
        texts = []
        spans: dict[str, dict[tuple[int, int], tuple[int, int]]] = {}
        for name in self.candidates:
            words: list[str] = tokens(name.removesuffix(".py").replace("/", " ").replace(":", " ")) if whole else []
            for node in places.get(name, ()):
                lines = self.texts.lines(node.path)
                if node.path not in spans:
                    spans[node.path] = docstrings("\n".join(lines))
                first, last = node.span
                begin, end = (0, -1) if whole else spans[node.path].get((first, last), (0, -1))
                words += tokens("\n".join(lines[at - 1] for at in range(first, last + 1) if not begin <= at <= end))
            texts.append(words)
        return Bm25(len(self.candidates), {"all": texts})

    def by_bm25(self, index: Bm25, issue: str, k1: float, b: float, talk: float) -> list[str]:
        scores = index.scores(query_of(issue, talk), {"all": 1.0}, k1, b)
        order = sorted(np.flatnonzero(scores > 0).tolist(), key=lambda at: (-scores[at], self.candidates[at]))
        return [self.candidates[at] for at in order]

    # ------------------------------------------------------------ aider

    def by_lines(self, places: Sequence[tuple[str, int]]) -> list[str]:
        """(file, line of a definition, 1-based) in order, as candidates."""
        at: dict[tuple[str, int], str] = {}
        for node in self.graph.nodes:
            if node.kind in ("function", "method"):
                for line in range(node.span[0], node.span[0] + 1 + len(node.decorators) * 4):
                    at.setdefault((node.path, line), node.id)
        return self.ranking(at[place] for place in places if place in at)


def aider_rankings(
    python: Path, jobs: Sequence[tuple[Repository, Mapping[str, str]]]
) -> dict[str, list[tuple[str, int]]]:
    """What aider's own repository map says, per issue: (file, line) of the definitions, best first (aider_map.py).
    jobs: a repository, and the texts of its issues by id."""
    asked = [
        {"root": str(repository.tree), "files": sorted({name.partition(":")[0] for name in repository.candidates}), "issues": dict(issues)}
        for repository, issues in jobs
    ]  # fmt: skip
    script = Path(__file__).with_name("aider_map.py")
    done = subprocess.run(
        [str(python), str(script)], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"aider_map.py: {done.stderr.strip().splitlines()[-1]}")
    return {name: [(file, line) for file, line in places] for name, places in json.loads(done.stdout).items()}


# ------------------------------------------------------------ measures

KS = (1, 5, 10)


def measures(ranking: Sequence[str], answer: Sequence[str]) -> dict[str, float]:
    """hit@k: one of the changed functions is among the first k; recall@k: the share of them that is; mrr."""
    wanted = set(answer)
    found: dict[str, float] = {}
    for k in KS:
        hits = len(wanted.intersection(ranking[:k]))
        found[f"hit@{k}"] = float(hits > 0)
        found[f"recall@{k}"] = hits / len(wanted)
    found["mrr"] = next((1 / rank for rank, name in enumerate(ranking, 1) if name in wanted), 0.0)
    return found
