"""A scripted agent that looks for the function an issue is about by search, fetch and explore. Used by ../claims.py.

No model acts here: the policy is the paper's (arXiv 2602.02084 §2: discover by search, verify by fetching, expand along
dependencies, pinpoint), and what stands for the model's reading is one fixed number, `promise`: how much of the issue's
words, weighted by rarity, the card of a node has (its name, place, features: what search and explore show of it), and the
cosine between issue and features. The agent knows a node only once a call has shown it, and it knows that a function is
one of those that changed only when it has fetched it. Every search, fetch and explore is one call.

Arms: `explore` (all three), `search` (search and fetch), `text` (search by text alone and fetch, which is grep and read).
What fetch tells of dependencies is used in the first arm only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from zerorepo.graph import UNITS, Graph, Node
from zerorepo.lexical import STOP, query_of, tokens
from zerorepo.navigate import Texts, explore, search

MOST_CALLS = 20  # the paper's budget of localisation attempts (P1 §4.3)
PAGE = 5
# (fetches, expanded) of (2, 3), (1, 3) and (3, 5) were tried on click, httpx, jedi and requests; each arm has its best.
FETCHES = {"explore": 3, "search": 2, "text": 3}  # a round
EXPANDED = 5
ARMS = ("explore", "search", "text")


class Outcome(NamedTuple):
    calls: int  # MOST_CALLS + 1 where nothing was found
    trace: list[str]


class Agent:
    """Walks one graph. recognise: whether a fetched unit is one of those that changed, and of no other use."""

    def __init__(self, graph: Graph, texts: Texts, encoder: Any) -> None:
        self.graph, self.texts, self.encoder = graph, texts, encoder
        self.units = [node for node in graph.nodes if node.kind in UNITS]
        self._cards = {node.id: frozenset(_card(node)) for node in self.units}
        self._asked: dict[tuple[str, str, int], list[Node]] = {}
        held: dict[str, int] = {}
        for card in self._cards.values():
            for word in card:
                held[word] = held.get(word, 0) + 1
        self._rare = {word: float(np.log(1 + len(self.units) / count)) for word, count in held.items()}

    def look(self, issue: str, recognise: Callable[[str], bool], arm: str) -> Outcome:
        """Rounds of: search, fetch the FETCHES most promising of what is known; with `explore`, then expand around the
        EXPANDED most promising that were not expanded before, and fetch again."""
        promise = self._promise(issue)
        known: dict[str, float] = {}  # units shown so far, to their promise
        fetched: set[str] = set()
        expanded: set[str] = set()
        trace: list[str] = []

        def show(nodes: Iterable[Node]) -> None:
            known.update((node.id, promise(node)) for node in nodes if node.id in self._cards and node.id not in known)

        def best(but: set[str], count: int) -> list[str]:
            return sorted((one for one in known if one not in but), key=lambda one: (-known[one], one))[:count]

        def fetch(count: int) -> bool:
            for one in best(fetched, count):
                if len(trace) == MOST_CALLS:
                    return False
                trace.append(f"fetch {one}")
                fetched.add(one)
                if recognise(one):
                    return True
            return False

        for mode, text, top in self._searches(issue, arm):
            if len(trace) == MOST_CALLS:
                break
            trace.append(f"search {mode} {top}")
            show(self._search(mode, text, top))
            if fetch(FETCHES[arm]):
                return Outcome(len(trace), trace)
            around = best(expanded, EXPANDED)
            if arm != "explore" or not around or len(trace) == MOST_CALLS:
                continue
            trace.append("explore " + " ".join(around))
            expanded.update(around)
            steps = explore(self.graph, around, direction="both", depth=1, kinds=UNITS)
            show(step.node for step in steps if step.edge is None or step.edge.confidence != "name_only")
            if fetch(FETCHES[arm]):
                return Outcome(len(trace), trace)
        return Outcome(MOST_CALLS + 1, trace)

    def _search(self, mode: str, text: str, top: int) -> list[Node]:
        """What `search` gives; arms that ask the same are given the same, so it is asked once."""
        key = (mode, text, top)
        if key not in self._asked:
            hits = search(self.graph, text, mode=mode, kinds=UNITS, top=top, encoder=self.encoder, texts=self.texts)
            self._asked[key] = [hit.node for hit in hits]
        return self._asked[key]

    def _promise(self, issue: str) -> Callable[[Node], float]:
        query = query_of(issue, 0.3)
        total = sum(weight * self._rare.get(word, 0.0) for word, weight in query.items()) or 1.0
        asked = _unit(np.asarray(self.encoder.encode([issue]), np.float32))[0]

        def promise(node: Node) -> float:
            card = self._cards[node.id]
            words = sum(weight * self._rare[word] for word, weight in query.items() if word in card) / total
            near = 0.0
            if node.features:
                near = float((_unit(np.asarray(self.encoder.encode(list(node.features)), np.float32)) @ asked).max())
            return words + max(near, 0.0) - 0.2 * (node.kind == "class")

        return promise

    def _searches(self, issue: str, arm: str) -> Iterator[tuple[str, str, int]]:
        """(mode, text, top): by meaning, then by the issue's rarest words in source, further pages in turn."""
        words = [word for word in dict.fromkeys(issue.replace("(", " ").replace(")", " ").split()) if word.lower() not in STOP]  # fmt: skip
        words = [word.strip(".,;:!?\"'") for word in words]
        rare = sorted(
            (word for word in words if word.isidentifier() or "." in word),
            key=lambda word: (-max((self._rare.get(t, 0.0) for t in tokens(word)), default=0.0), word),
        )
        few = " ".join(part for word in rare[:3] for part in word.split(".")[-1:]) or issue
        for page in range(1, 9):
            if arm != "text":
                yield "auto", issue, PAGE * page
            yield "snippets", few, PAGE * page


def _card(node: Node) -> list[str]:
    return tokens(f"{node.qualname} {node.path.removesuffix('.py').replace('/', ' ')} {' '.join(node.features)} {node.signature}")  # fmt: skip


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
