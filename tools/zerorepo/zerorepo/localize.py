"""Where in the code is an issue? A ranking of units by words, features and the graph's edges; no model is asked.

Three kinds of evidence make a first score of every unit (the paper's §2.3 finds candidates by a model that calls
search, fetch and explore; this is the part of it that needs none):

- words: BM25 over name, place, features, docstring, source and the names of neighbours, and again over the file as a
  whole;
- names: identifiers, dotted names, paths and traceback frames that the issue spells out;
- meaning: the cosine between the issue's sentences and the unit's features (embeddings.py).

It then spreads over the graph, x ← α·S·x + (1 − α)·x₀ for STEPS steps with S = D^-½ W D^-½ (Zhou et al., Learning
with local and global consistency, NIPS 2003): W holds the dependency edges, by type, direction and confidence, and
containment; the symmetric scaling keeps what everything calls from collecting every score. The greatest single flow
into a unit, traced back to where it began, is its evidence path.

Long because evidence, walk and path are steps of one computation over the same arrays. What an issue is
stands in issues.py, words and BM25 in lexical.py.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tenfold_shared import BadInput
from zerorepo.graph import UNITS, Graph, Node, read_bytes
from zerorepo.issues import FRAME, read_issues, sentences
from zerorepo.lexical import Bm25, query_of, tokens
from zerorepo.modules import is_test, module_name

STEPS = 3
NARROW = 90  # columns of a terminal below which a table of hits cannot be read
_CONFIDENCE = {"exact": 1.0, "inferred": 0.8, "name_only": 0.3}
MOST_CLOSE = 2000  # phrases that are compared with a sentence of an issue, the closest
# What names count, one that prose does not have (`read_all`) being 1: a word of prose that is also a unit's name, a
# dotted name, and at most, as a traceback's frame does.
PLAIN, DOTTED, MOST_NAMED = 0.1, 2.0, 3.0


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """What each kind of evidence counts. The values rest on the packages that bench/claims.py names for tuning, whose
    issues are lines of changelogs; bench/claim_parts/tune.py says which of them were set by hand."""

    # fields of a unit's words
    name: float = 0.2
    place: float = 0.9
    features: float = 0.3
    doc: float = 0.1
    body: float = 0.95
    around: float = 0.5
    talk: float = 0.05  # of words that any issue has
    k1: float = 0.8
    b: float = 0.5
    # kinds of evidence; all but names are scaled to a greatest value of 1
    words: float = 1.0
    in_file: float = 0.6
    mentions: float = 0.2
    named_class: float = 0.1
    meaning: float = 0.27
    size: float = 0.05
    # the walk: the score that an edge carries, from the end named first
    alpha: float = 0.15
    caller_to_callee: float = 0.2
    callee_to_caller: float = 0.8
    inherits: float = 0.2
    imports: float = 1.0
    tests: float = 0.5
    contains: float = 1.0
    # what the final score of a unit of a test file, and of a class as a whole, is multiplied by: rarely it has to change
    test: float = 0.3
    whole_class: float = 0.7

    def fields(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in FIELDS}


WEIGHTS = Weights()


class Found(NamedTuple):
    node: Node
    score: float
    path: list[dict[str, Any]]  # the evidence: first where the score began and why, then one edge a step


class _Mention(NamedTuple):
    text: str  # as the issue has it
    ids: tuple[str, ...]  # what it may name
    weight: float


class Localizer:
    """Ranks the units of one graph for any number of issues.

    texts: the repository's source (navigate.Texts); without it only what the graph itself holds is searched.
    encoder: of embeddings.py; None leaves meaning out. The switches are for ablations: `edges` off leaves out every
    dependency edge (containment stays), `features` off the features, their embeddings included.
    """

    with_source: bool
    lines: np.ndarray  # [units] of code
    _docs: list[list[str]]  # words of each unit's docstring
    _bodies: list[list[str]]  # and of the rest of its source

    def __init__(
        self,
        graph: Graph,
        texts: Any = None,
        encoder: Any = None,
        cache: Path | None = None,
        *,
        weights: Weights = WEIGHTS,
        edges: bool = True,
        features: bool = True,
        like: Localizer | None = None,
    ) -> None:
        """like: one of the same graph and source, whose reading of them is taken over."""
        self.graph, self.weights, self.edges, self.features = graph, weights, edges, features
        self.units = sorted((node for node in graph.nodes if node.kind in UNITS), key=lambda node: node.id)
        self.place = {node.id: at for at, node in enumerate(self.units)}
        self.encoder = encoder if features else None
        self._cache = cache
        if like is not None:
            self.with_source, self.lines, self._docs, self._bodies = (
                like.with_source,
                like.lines,
                like._docs,
                like._bodies,
            )
        else:
            self._read(texts)
        self._index()

    # ------------------------------------------------------------ what units say

    def _read(self, texts: Any) -> None:
        children: dict[str, list[Node]] = {}
        for node in self.units:
            children.setdefault(node.id.rpartition(".")[0], []).append(node)
        docs: dict[str, list[str]] = {}
        bodies: dict[str, list[str]] = {}
        self.with_source = False
        self.lines = np.ones(len(self.units))
        by_file: dict[str, list[Node]] = {}
        for node in self.units:
            by_file.setdefault(node.path, []).append(node)
        for path, nodes in by_file.items():
            lines = texts.lines(path) if texts is not None else []
            self.with_source |= bool(lines)
            spans = docstrings("\n".join(lines)) if lines else {}
            for node in nodes:
                first, last = node.span if node.span else (1, 0)
                self.lines[self.place[node.id]] = max(1, last - first + 1)
                if not lines:
                    docs[node.id] = tokens(node.doc)
                    # What the graph has in the place of source; the docstring's beginning is the larger part of it.
                    bodies[node.id] = tokens(" ".join([node.signature, node.doc, *node.uses, *node.bases, *node.names]))
                    continue
                begin, end = spans.get((first, last), (0, -1))
                docs[node.id] = tokens("\n".join(lines[begin - 1 : end])) if begin else []
                left_out = {*range(begin, end + 1)} if begin else set()
                if node.kind == "class":  # its methods are units of their own
                    for child in children.get(node.id, ()):
                        left_out.update(range(child.span[0], child.span[1] + 1))
                    self.lines[self.place[node.id]] = max(1, last - first + 1 - len(left_out))
                bodies[node.id] = tokens("\n".join(lines[at - 1] for at in range(first, min(last, len(lines)) + 1) if at not in left_out))  # fmt: skip
        self._docs, self._bodies = [docs[node.id] for node in self.units], [bodies[node.id] for node in self.units]

    def _index(self) -> None:
        names = [tokens(node.name) for node in self.units]
        places = [tokens(f"{node.qualname.rpartition('.')[0]} {module_name(node.path)}") for node in self.units]
        told = [tokens(" ".join(node.features)) if self.features else [] for node in self.units]
        own = {"name": names, "place": places, "features": told, "doc": self._docs, "body": self._bodies}
        fields = {**own, "around": self._around(names)}
        self.words = Bm25(len(self.units), fields)
        self._class_place = np.array([self.place[_class_of(node, self.graph)] for node in self.units], int)
        self.file_of, in_file = _grouped([node.path for node in self.units])
        texts = [[word for at in group for field in own.values() for word in field[at]] for group in in_file]
        self.in_file = Bm25(len(texts), {"all": texts})

    def _around(self, names: Sequence[Sequence[str]]) -> list[list[str]]:
        """Of each unit the words in the names of those it calls, inherits from or is called by, each unit once."""
        near: list[set[int]] = [set() for _ in self.units]
        for edge in self.graph.edges if self.edges else ():
            source, target = self.place.get(edge.src), self.place.get(edge.dst)
            if source is None or target is None or edge.type not in ("invokes", "inherits", "tests"):
                continue
            if edge.confidence != "name_only":
                near[source].add(target)
                near[target].add(source)
        return [[word for at in sorted(found) for word in names[at]] for found in near]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Last part of a name to the ids of the nodes that have it, lower case; files by their module's name."""
        found: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            if node.kind in UNITS:
                found.setdefault(node.name.lower(), []).append(node.id)
            elif node.kind == "file" and node.id.endswith(".py"):
                found.setdefault(module_name(node.path).rpartition(".")[2].lower(), []).append(node.id)
        return found

    @cached_property
    def _features(self) -> tuple[Any, list[np.ndarray]] | None:
        """(search among the features of all units, each text once; the places of the units that have it)."""
        from zerorepo.embeddings import index_of

        owners: dict[str, list[int]] = {}
        for at, node in enumerate(self.units):
            for phrase in node.features:
                owners.setdefault(phrase, []).append(at)
        phrases = sorted(owners)
        if not phrases:
            return None
        assert self.encoder is not None
        return index_of(phrases, self.encoder, self._cache), [np.array(owners[phrase]) for phrase in phrases]

    # ------------------------------------------------------------ evidence

    def evidence(self, issue: str) -> dict[str, np.ndarray]:
        """What each kind of evidence gives every unit, before weights: [units] each, in the order of `units`."""
        w = self.weights
        query = query_of(issue, w.talk)
        found = {
            "words": self.words.scores(query, w.fields(), w.k1, w.b),
            "in_file": self.in_file.scores(query, {"all": 1.0}, w.k1, w.b)[self.file_of],
            "size": np.log(self.lines),
        }
        found["mentions"] = np.zeros(len(self.units))
        for mention in self.mentions(issue):
            share = mention.weight / len(mention.ids)
            for one in mention.ids:
                found["mentions"][self.place[one]] += share
        # Of a class that is named, each method is meant a little.
        found["mentions"] = np.minimum(found["mentions"], MOST_NAMED)
        found["named_class"] = found["mentions"][self._class_place]
        if self.encoder is not None:
            found["meaning"] = np.zeros(len(self.units))
            asked = sentences(issue)
            if self._features is not None and asked:
                index, owners = self._features
                for scores, rows in zip(*index.top_k(asked, min(len(owners), MOST_CLOSE)), strict=True):
                    for score, row in zip(scores.tolist(), rows.tolist(), strict=True):
                        at = owners[row]
                        found["meaning"][at] = np.maximum(found["meaning"][at], score)
        return found

    def mentions(self, issue: str) -> list[_Mention]:
        """Names that the issue spells out and the units each may mean; those that may mean the same count once."""
        found: dict[str, _Mention] = {}
        for frame in FRAME.finditer(issue):
            ids = self._in_frame(frame["path"], int(frame["line"]), frame["name"])
            if ids:
                found[frame[0]] = _Mention(frame[0].strip(), ids, MOST_NAMED)
        for place in _PATH.finditer(issue):
            path = place["path"].replace("\\", "/")
            units = [node.id for node in self.units if _same_file(node.path, path)]
            if units:
                found[path] = _Mention(path, tuple(units), 1.0)
        for word in _NAME.findall(issue):
            parts = word.strip("._").split(".")
            if not parts[0]:
                continue
            ids, whole = self._named(parts)
            if ids:
                # A dotted name, or one that prose does not have, is meant; a plain word may be meant.
                sure = len(parts) > 1 or "_" in word or any(letter.isupper() for letter in word[1:])
                found[word] = _Mention(word, ids, DOTTED if whole > 1 else 1.0 if sure else PLAIN)
        return [found[word] for word in sorted(found)]

    def _named(self, parts: list[str]) -> tuple[tuple[str, ...], int]:
        """(units, n): those whose dotted name ends in these parts, or else in the n last of them, or in the first."""
        wanted = [part.lower() for part in parts]
        for length in range(min(len(wanted), 20), 0, -1):  # no dotted name of code is longer
            tails = [wanted[-length:]] if length > 1 or len(wanted) == 1 else [wanted[-1:], wanted[:1]]
            if length == 1 and len(wanted) > 1:
                tails = [tail for tail in tails if len(tail[0]) > 3]
            for tail in tails:
                ids = [one for one in self._names.get(tail[-1], ()) if _dotted(self.graph.by_id[one])[-length:] == tail]
                units = [one for one in ids if one in self.place]
                if units:
                    return tuple(units), length
        return (), 0

    def _in_frame(self, path: str, line: int, name: str | None) -> tuple[str, ...]:
        path = path.replace("\\", "/")
        files = sorted({node.path for node in self.units if _same_file(path, node.path) or _same_file(node.path, path)})
        inside = [node for node in self.units if node.path in files]
        if name is not None and name != "<module>":
            named = [node for node in inside if node.name == name]
            if named:
                here = [node for node in named if node.span and node.span[0] <= line <= node.span[1]]
                return tuple(node.id for node in here or named)
        around = [node for node in inside if node.span and node.span[0] <= line <= node.span[1]]
        return tuple(node.id for node in around[-1:])

    # ------------------------------------------------------------ the walk

    @cached_property
    def _links(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(from, to, confidence) of every way a score can take, by kind; files stand behind the units."""
        files = {path: len(self.units) + at for at, path in enumerate(sorted({node.path for node in self.units}))}
        at_of = {**self.place, **files}
        found: dict[str, list[tuple[int, int, float]]] = {kind: [] for kind in WAYS}
        for edge in self.graph.edges:
            source, target = at_of.get(edge.src), at_of.get(edge.dst)
            if source is None or target is None or source == target:
                continue
            sure = _CONFIDENCE[edge.confidence]
            if edge.type == "contains":
                found["contains"] += [(source, target, 1.0), (target, source, 1.0)]
            elif not self.edges:
                continue
            elif edge.type == "invokes":
                found["caller_to_callee"].append((source, target, sure))
                found["callee_to_caller"].append((target, source, sure))
            elif edge.type in ("inherits", "tests"):
                found[edge.type] += [(source, target, sure), (target, source, sure)]
            elif edge.type.startswith("imports"):
                found["imports"] += [(source, target, sure), (target, source, sure)]
        made = {}
        for kind, links in found.items():
            best: dict[tuple[int, int], float] = {}
            for source, target, sure in links:
                best[source, target] = max(sure, best.get((source, target), 0.0))
            ends = np.array(sorted(best), int).reshape(-1, 2)
            made[kind] = (ends[:, 0], ends[:, 1], np.array([best[a, b] for a, b in ends.tolist()]))
        return made

    @property
    def _nodes(self) -> int:
        return len(self.units) + len({node.path for node in self.units})

    def _matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """S as (from, to, weight), and the kind of each entry."""
        parts = [(*self._links[kind], kind) for kind in WAYS if getattr(self.weights, kind) > 0]
        source = np.concatenate([part[0] for part in parts] or [np.zeros(0, int)])
        target = np.concatenate([part[1] for part in parts] or [np.zeros(0, int)])
        weight = np.concatenate([part[2] * getattr(self.weights, part[3]) for part in parts] or [np.zeros(0)])
        kinds = [part[3] for part in parts for _ in range(len(part[0]))]
        out = np.bincount(source, weight, self._nodes)
        into = np.bincount(target, weight, self._nodes)
        scale = np.sqrt(out[source] * into[target])
        return source, target, weight / np.where(scale > 0, scale, 1), kinds

    @cached_property
    def matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        return self._matrix()

    def first(self, evidence: Mapping[str, np.ndarray]) -> np.ndarray:
        """x₀: the weighted sum of the evidence, all but names scaled to a greatest value of 1; nothing where no word,
        name or meaning speaks for a unit."""
        total = np.zeros(len(self.units))
        for kind in EVIDENCE:
            values = evidence.get(kind)
            weight = getattr(self.weights, kind)
            if values is None or not len(values) or not weight:
                continue
            top = 1.0 if kind in ("mentions", "named_class") else values.max()
            if top > 0:
                total += weight * np.maximum(values, 0) / top
        spoken = sum((np.maximum(values, 0) for kind, values in evidence.items() if kind != "size"), np.zeros(len(self.units)))  # fmt: skip
        total[spoken <= 0] = 0
        return total

    def spread(self, first: np.ndarray) -> list[np.ndarray]:
        """x after each step of the walk, x₀ first; [units + files] each."""
        source, target, weight, _ = self.matrix
        start = np.concatenate([first, np.zeros(self._nodes - len(first))])
        found = [start]
        for _step in range(STEPS if self.weights.alpha else 0):
            moved = np.bincount(target, weight * found[-1][source], self._nodes)
            found.append(self.weights.alpha * moved + (1 - self.weights.alpha) * start)
        return found

    def scores(self, issue: str) -> np.ndarray:
        """[units] final scores."""
        return self._final(self.spread(self.first(self.evidence(issue))))

    def _final(self, steps: list[np.ndarray]) -> np.ndarray:
        return steps[-1][: len(self.units)] * self._standing

    @cached_property
    def _standing(self) -> np.ndarray:
        w = self.weights
        tests = np.where([is_test(node.path) for node in self.units], w.test, 1.0)
        return tests * np.where([node.kind == "class" for node in self.units], w.whole_class, 1.0)

    def rank(self, issue: str, top: int = 5) -> list[Found]:
        """The units an issue is about, best first, at most `top`; ties by id. Empty where nothing speaks for any."""
        evidence = self.evidence(issue)
        steps = self.spread(self.first(evidence))
        final = np.round(self._final(steps), 9)  # equal sums in another order stay equal
        order = sorted(np.flatnonzero(final > 0).tolist(), key=lambda at: (-final[at], self.units[at].id))[:top]
        why = _Reasons(self, issue, evidence)
        return [Found(self.units[at], float(final[at]), self._path(at, steps, why)) for at in order]

    # ------------------------------------------------------------ where a score came from

    def _path(self, at: int, steps: list[np.ndarray], why: _Reasons) -> list[dict[str, Any]]:
        """The chain of edges along which the greatest single part of a score flowed, from where it began."""
        source, target, weight, kinds = self.matrix
        alpha = self.weights.alpha
        # best[t][v]: the greatest flow that ends in v after t steps; back[t][v]: the entry of S it came by, -1 for x₀.
        if not hasattr(why, "best"):
            start = steps[0]
            best, back = [start], [np.full(self._nodes, -1)]
            for _ in range(len(steps) - 1):
                flow = alpha * weight * best[-1][source]
                now, came = (1 - alpha) * start, np.full(self._nodes, -1)
                order = np.lexsort((-source, flow))  # ascending: the last write wins, so the greatest flow does
                for entry in order[flow[order] > now[target[order]]].tolist():
                    now[target[entry]] = flow[entry]
                    came[target[entry]] = entry
                best.append(now)
                back.append(came)
            why.best, why.back = best, back
        chain: list[int] = []
        node = at
        for step in range(len(steps) - 1, 0, -1):
            entry = int(why.back[step][node])
            if entry < 0:
                break
            chain.append(entry)
            node = int(source[entry])
        path: list[dict[str, Any]] = [{"id": self._id(node), "why": why.of(node)}]
        for entry in reversed(chain):
            path.append({"id": self._id(int(target[entry])), **self._edge(int(source[entry]), int(target[entry]), kinds[entry])})  # fmt: skip
        return path

    def _id(self, at: int) -> str:
        return self.units[at].id if at < len(self.units) else self._files[at - len(self.units)]

    @cached_property
    def _files(self) -> list[str]:
        return sorted({node.path for node in self.units})

    def _edge(self, source: int, target: int, kind: str) -> dict[str, Any]:
        """The edge of the graph that a step took: `forward` from src to dst, or `backward`."""
        here, there = self._id(source), self._id(target)
        rows = [(edge, "forward") for edge in self.graph.outgoing.get(here, ()) if edge.dst == there]
        rows += [(edge, "backward") for edge in self.graph.incoming.get(here, ()) if edge.src == there]
        name, ways = _TYPES[kind]
        rows = [(edge, way) for edge, way in rows if edge.type.startswith(name) and way in ways]
        edge, way = min(rows, key=lambda row: (-_CONFIDENCE[row[0].confidence], row[0].type, row[1]))
        return {"edge": edge.type, "direction": way, "confidence": edge.confidence}


FIELDS = ("name", "place", "features", "doc", "body", "around")
EVIDENCE = ("words", "in_file", "mentions", "named_class", "meaning", "size")
WAYS = ("caller_to_callee", "callee_to_caller", "inherits", "imports", "tests", "contains")
_TYPES = {
    "caller_to_callee": ("invokes", ("forward",)),
    "callee_to_caller": ("invokes", ("backward",)),
    **{kind: (kind, ("forward", "backward")) for kind in ("inherits", "imports", "tests", "contains")},
}


class _Reasons:
    """Says in words what of an issue spoke for a unit."""

    best: list[np.ndarray]
    back: list[np.ndarray]

    def __init__(self, localizer: Localizer, issue: str, evidence: Mapping[str, np.ndarray]) -> None:
        self.localizer, self.evidence = localizer, evidence
        self.query = sorted(set(tokens(issue)))
        self.named = localizer.mentions(issue)

    def of(self, at: int) -> list[str]:
        one = self.localizer
        if at >= len(one.units):
            return ["file"]
        told = [f"names {mention.text}" for mention in self.named if one.units[at].id in mention.ids]
        w = one.weights
        shared = []
        for word in self.query:
            frequency = float(one.words.frequency(word, w.fields(), w.b)[at])
            if frequency > 0:
                shared.append((-one.words.idf(word) * frequency / (w.k1 + frequency), word))
        if shared:
            told.append("words " + ", ".join(word for _, word in sorted(shared)[:5]))
        if "meaning" in self.evidence and self.evidence["meaning"][at] > 0:
            told.append(f"meaning {self.evidence['meaning'][at]:.2f}")
        if not told:
            told.append("its class or file shares the issue's words")
        return told


# ------------------------------------------------------------ names in issues, units in source

# Bounded, so that a long rule of dashes or a chain of slashes costs no more than its length.
_PATH = re.compile(r"(?<![\w.])(?P<path>(?:[\w.-]{1,100}[/\\]){0,20}[\w-]{1,100}\.pyw?)\b")
_NAME = re.compile(r"(?<![\w./\\-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def docstrings(source: str) -> dict[tuple[int, int], tuple[int, int]]:
    """(first, last line) of every class and function, decorators included, to those of its docstring."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}  # the file has changed since the graph was made; its lines are searched as they are
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node, False) is not None:  # fmt: skip
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            text = node.body[0]
            found[first, node.end_lineno or first] = (text.lineno, text.end_lineno or text.lineno)
    return found


def _grouped(keys: Sequence[str]) -> tuple[np.ndarray, list[list[int]]]:
    """The group of each place, and the places of each group, groups by key."""
    order = {key: at for at, key in enumerate(sorted(set(keys)))}
    groups: list[list[int]] = [[] for _ in order]
    for at, key in enumerate(keys):
        groups[order[key]].append(at)
    return np.array([order[key] for key in keys], int), groups


def _class_of(node: Node, graph: Graph) -> str:
    """The id of the nearest class around a unit, itself for a class; of the unit where there is none."""
    one = node.id
    while one in graph.by_id and graph.by_id[one].kind in UNITS:
        if graph.by_id[one].kind == "class":
            return one
        one = one.rpartition(".")[0] if "." in one.partition(":")[2] else ""
    return node.id


def _dotted(node: Node) -> list[str]:
    module = module_name(node.path)
    return [part.lower() for part in (f"{module}.{node.qualname}" if node.qualname else module).split(".") if part]


def _same_file(path: str, tail: str) -> bool:
    return path == tail or path.endswith("/" + tail)


# ------------------------------------------------------------ the verb


def run(
    issue: str,
    *,
    graph: str,
    root: str | None,
    rev: str | None,
    embeddings: str,
    top: int,
    output: str | None,
    overwrite: bool,
    limit: int | None,
    as_json: bool,
    **_: Any,
) -> int:
    """The verb `localize`. Exit 1 where some issue says nothing of the repository."""
    from zerorepo.embeddings import encoder
    from zerorepo.navigate import vectors_beside
    from zerorepo.publish import publish

    if issue == "-" and graph == "-":
        raise BadInput("-: stdin can be read once; name the graph or the issue as a file")
    data = read_bytes(graph)
    whole = Graph.loads(data, graph)
    if not any(node.kind in UNITS for node in whole.nodes):
        raise BadInput(f"{graph}: holds no class or function to rank; was it made by `zerorepo encode`?")
    records, issues = read_issues(issue)
    issues = issues if limit is None else issues[:limit]
    chosen = encoder(embeddings)
    localizer = Localizer(whole, source_of(whole, graph, root, rev), chosen, vectors_beside(graph))
    source = "repository" if localizer.with_source else "graph only"
    if not localizer.with_source:
        print("zerorepo: no source at hand: ranked by the graph alone; --root names the repository", file=sys.stderr)
    told = []
    for name, text in issues:
        row: dict[str, Any] = {"embeddings": chosen.name, "source": source, "ranking": _rows(localizer.rank(text, top))}
        told.append({"instance_id": name, **row})
    empty = sum(not row["ranking"] for row in told)
    if records or as_json or output not in (None, "-"):
        # of records a line each, of one issue a line a unit
        rows = told if records else [{**one, "embeddings": chosen.name, "source": source} for one in told[0]["ranking"]]
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        if lines or output not in (None, "-"):
            asked = msgspec.json.encode(issues)
            publish(
                "localize",
                lines,
                output,
                inputs=[data, asked],
                options={"top": top, "embeddings": chosen.name},
                overwrite=overwrite,
            )
    else:
        for row in told:
            _print(row["ranking"], chosen.name, source)
    if empty and records:
        print(f"zerorepo: {empty} of {len(told)} issues say nothing of this repository", file=sys.stderr)
    return int(empty > 0)


def source_of(whole: Graph, graph: str, root: str | None, rev: str | None) -> Any:
    """navigate.Texts of the repository; None where there is none at hand, unless --root or --rev asked for it."""
    from zerorepo.navigate import texts_of

    try:
        texts = texts_of(whole, graph, root, rev)
    except BadInput:
        if root is not None or rev is not None:
            raise
        return None
    texts.load(node.path for node in whole.nodes if node.kind == "file" and not node.language)
    texts.tell_stale()
    return texts


def _rows(found: Sequence[Found]) -> list[dict[str, Any]]:
    rows = []
    for rank, one in enumerate(found, 1):
        start, end = one.node.span or (0, 0)
        rows.append(
            {"rank": rank, "file": one.node.path, "qualname": one.node.qualname, "start": start, "end": end,
             "score": round(one.score, 6), "path": one.path}
        )  # fmt: skip
    return rows


def _print(rows: Sequence[Mapping[str, Any]], encoder: str, source: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tenfold_shared.cli import print_table

    count = len(rows)
    if rows and sys.stdout.isatty() and shutil.get_terminal_size().columns < NARROW:
        for row in rows:
            print(f"{row['rank']}. {row['file']}:{row['qualname']}:{row['start']}-{row['end']}  {row['score']:.3f}")
            print(f"   {_told(row['path'])}")
        rows = []
    table = Table("rank", "unit", "lines", "score", "evidence")
    for row in rows:
        table.add_row(
            str(row["rank"]), escape(f"{row['file']}:{row['qualname']}"), f"{row['start']}-{row['end']}",
            f"{row['score']:.3f}", escape(_told(row["path"])),
        )  # fmt: skip
    if rows:
        print_table(table)
    print(f"zerorepo: {count} units; meaning by {encoder}; {source}", file=sys.stderr)


def _told(path: Sequence[Mapping[str, Any]]) -> str:
    words = "; ".join(path[0]["why"])
    if len(path) > 1:
        words = f"{path[0]['id']} ({words})"
    for step in path[1:]:
        words += f" {'→' if step['direction'] == 'forward' else '←'} {step['edge']} {step['id'].rpartition('/')[2]}"
    return words
