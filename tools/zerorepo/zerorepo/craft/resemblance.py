"""How like what a task tells of an interface is a unit of a repository? One score between 0 and 1, of several kinds of evidence.

Under locate.py. Words and source are compared by localize.Localizer (BM25 and a walk over the graph), docstrings and names by
the encoder, parameters and members by themselves. The weights and FLOOR rest on packages under other names
(tests/zerorepo/zerorepo_renaming.py); tests/zerorepo/test_zerorepo_locate.py has the measure.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from zerorepo.craft.package import Package
from zerorepo.craft.tasks import Interface, Task
from zerorepo.embeddings import Encoder, TextSearch, index_of
from zerorepo.features import words_of
from zerorepo.generation.skeleton import decoded
from zerorepo.generation.stripping import is_part
from zerorepo.graph import Node
from zerorepo.lexical import stem, tokens
from zerorepo.localize import Localizer

# A score below this is not taken for the thing itself. Of six packages under other names, docstrings kept, 1 in 75 units that
# reach it is another than the one meant (synonyms) or 1 in 25 (names that say nothing); docstrings gone as well, 1 in 13.
FLOOR = 0.5
MOST_TEXT = 2000  # characters of a description that a query has
# What each kind of evidence counts, where there is any; the score is their weighted mean. "docs" is the likeness of both
# docstrings, "words" the rank by words and source, "names" the likeness of the names, "signature" of the parameters,
# "members" of a class's methods, "place" of the modules' names.
WEIGHTS = {"docs": 3.0, "words": 1.0, "names": 1.5, "signature": 1.5, "members": 1.5, "place": 0.3}


class Candidate(NamedTuple):
    """Something of the repository that may stand for an interface. name: canonical, dotted."""

    name: str
    kind: str
    node: Node
    score: float

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


class Parameters(NamedTuple):
    """Of a function, self and cls left out. names in order, keyword-only ones at the end."""

    names: tuple[str, ...]
    required: int
    starred: bool
    keywords: bool


def is_public(name: str) -> bool:
    return not name.startswith("_")


def stems(text: str) -> set[str]:
    """The words of names and texts, their endings cut."""
    return set(tokens(text))


def name_stems(name: str) -> list[str]:
    """The words of one identifier, stop words kept: in a name each counts."""
    return [stem(word) for word in words_of(name)] or [name]


def shared(one: set[str], other: set[str]) -> float:
    """Dice's coefficient."""
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 0.0


@lru_cache(maxsize=1 << 16)
def parameters_of(signature: str) -> Parameters | None:
    """Of a header as a graph has it; None where it is none of a function."""
    text = signature.strip()
    if text.startswith("class "):
        return None
    if not text.startswith(("def ", "async def ")):
        text = f"def {text}"
    try:
        made = ast.parse(f"{text.rstrip(':')}: pass").body[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return parameters(made.args, False) if isinstance(made, ast.FunctionDef | ast.AsyncFunctionDef) else None


def parameters(arguments: ast.arguments, bound: bool) -> Parameters:
    """bound: the first positional parameter is given already; self and cls are left out anyway."""
    first = [*arguments.posonlyargs, *arguments.args]
    required = len(first) - len(arguments.defaults)
    if first and (bound or first[0].arg in ("self", "cls")):
        first, required = first[1:], max(0, required - 1)
    required += sum(default is None for default in arguments.kw_defaults)
    names = tuple(one.arg for one in (*first, *arguments.kwonlyargs))
    return Parameters(names, required, arguments.vararg is not None, arguments.kwarg is not None)


def same_signature(one: Parameters, other: Parameters) -> float:
    """0 to 1: names of parameters, how many there are, how many of them must be given, whether any number may be."""
    names = shared({part for name in one.names for part in name_stems(name)}, {part for name in other.names for part in name_stems(name)})  # fmt: skip
    if not one.names and not other.names:
        names = 1.0
    count = 1 - abs(len(one.names) - len(other.names)) / max(len(one.names), len(other.names), 1)
    required = 1 - abs(one.required - other.required) / max(one.required, other.required, 1)
    stars = ((one.starred == other.starred) + (one.keywords == other.keywords)) / 2
    return 0.4 * names + 0.3 * count + 0.2 * required + 0.1 * stars


class _Lines:
    """The source of a package, as Localizer reads it."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files

    def lines(self, path: str) -> list[str]:
        try:
            text, _ = decoded(self.files.get(path, b""))
        except ValueError:
            return []
        return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


class _Texts:
    """Cosines of a text with the texts of some nodes; 0 with one that has none."""

    def __init__(self, texts: Sequence[str], encoder: Encoder) -> None:
        self.unique = sorted({text for text in texts if text})
        place = {text: at for at, text in enumerate(self.unique)}
        self.rows = np.array([place.get(text, -1) for text in texts], int)
        self.index: TextSearch | None = index_of(self.unique, encoder) if self.unique else None
        self.known: dict[str, np.ndarray] = {}

    def with_text(self, text: str) -> np.ndarray:
        """[nodes]"""
        if self.index is None or not text:
            return np.zeros(len(self.rows))
        if text not in self.known:
            (scores,), (rows,) = self.index.top_k([text], len(self.unique))
            found = np.zeros(len(self.unique) + 1)  # the last one is of no text
            found[rows] = np.maximum(scores, 0)
            self.known[text] = found[self.rows]
        return self.known[text]


class _Pool:
    """Units of one sort that are compared with each other."""

    def __init__(self, nodes: Sequence[Node], names: Sequence[str]) -> None:
        self.nodes, self.names = nodes, names
        self.texts = [node.doc or "; ".join(node.features) for node in nodes]
        self.stems: list[set[str]] = []
        self.docs: _Texts | None = None
        self.words: _Texts | None = None


class Resemblance:
    """Scores of the units of one repository. Nothing is read or encoded before it is asked for. encoder: None compares
    docstrings and names by the words they share."""

    def __init__(self, package: Package, encoder: Encoder | None) -> None:
        self.package, self.encoder = package, encoder
        self._pools: dict[str, _Pool] = {}
        self._query: dict[str, np.ndarray] = {}

    # ------------------------------------------------------------ what there is

    @cached_property
    def _units(self) -> dict[str, list[tuple[str, Node]]]:
        """Kind to (dotted name, node) of the code's units that can be imported, or are a class's."""
        found: dict[str, dict[str, Node]] = {"class": {}, "function": {}, "method": {}}
        program = self.package.program
        for node in self.package.units:
            above = node.qualname.rpartition(".")[0]
            owners = []
            while above:
                owners.append(program.nodes[f"{node.path}:{above}"].kind)
                above = above.rpartition(".")[0]
            if all(kind == "class" for kind in owners):
                name = (
                    self.package.dotted(node).partition("#")[0] if "#" in node.qualname else self.package.dotted(node)
                )
                found[node.kind].setdefault(name, node)
        # Of a name that is defined several times the definition that counts.
        return {kind: [(name, self._meant(name, node)) for name, node in sorted(units.items())] for kind, units in found.items()}  # fmt: skip

    def _meant(self, name: str, node: Node) -> Node:
        found = self.package.meaning(name)
        return found.node if found is not None and found.node is not None and found.kind == node.kind else node

    @cached_property
    def variables(self) -> dict[str, list[str]]:
        """Last name of a module's variable to the dotted names that have it, in the code."""
        found: dict[str, list[str]] = {}
        for module, path in sorted(self.package.module_paths.items()):
            node = self.package.program.nodes.get(path)
            if node is not None and is_part(path, self.package.files):
                for name in node.names:
                    found.setdefault(name, []).append(f"{module}.{name}")
        return found

    def module_of(self, name: str) -> str:
        """The module that a dotted name begins with."""
        above = name
        while above and above not in self.package.module_paths:
            above = above.rpartition(".")[0]
        return above

    @cached_property
    def _localizer(self) -> Localizer:
        return Localizer(self.package.graph, _Lines(self.package.files))

    def _pool(self, key: str, units: Callable[[], Sequence[tuple[str, Node]]]) -> _Pool:
        if key not in self._pools:
            found = units()
            self._pools[key] = _Pool([node for _, node in found], [name for name, _ in found])
        return self._pools[key]

    # ------------------------------------------------------------ scores

    def scored(self, one: Interface, task: Task, wanted: Callable[[Node], bool]) -> list[Candidate]:
        """Units of an interface's kind, best first, ties by name."""
        kind = one.kind
        if kind not in ("class", "function", "method"):
            return []
        pool = self._pool(kind, lambda: self._units[kind])
        at = [place for place, node in enumerate(pool.nodes) if wanted(node)]
        return self._ordered(pool, self.scores(one, task, pool), at) if at else []

    def methods(self, one: Interface, task: Task, owner: Node) -> list[Candidate]:
        """Public methods of a class and its bases, best first."""
        pool = self._pool(owner.id, lambda: self._methods_of(owner))
        return self._ordered(pool, self.scores(one, task, pool), range(len(pool.nodes))) if pool.nodes else []

    def _methods_of(self, owner: Node) -> list[tuple[str, Node]]:
        found: dict[str, tuple[str, Node]] = {}
        program = self.package.program
        for one in program.order(owner.id):
            for name, unit in program.scopes.get(one, {}).items():
                node = program.nodes[unit]
                if node.kind == "method" and is_public(name):
                    found.setdefault(name, (self.package.dotted(node).partition("#")[0], node))
        return sorted(found.values())

    def _ordered(self, pool: _Pool, scores: np.ndarray, at: Sequence[int]) -> list[Candidate]:
        told = np.round(scores, 9)
        order = sorted(at, key=lambda place: (-told[place], pool.names[place]))
        return [Candidate(pool.names[one], pool.nodes[one].kind, pool.nodes[one], float(told[one])) for one in order]

    def scores(self, one: Interface, task: Task, pool: _Pool, weights: Mapping[str, float] = WEIGHTS) -> np.ndarray:
        """[units of the pool]"""
        total, most = np.zeros(len(pool.nodes)), np.zeros(len(pool.nodes))
        for kind, (values, there) in self.evidence(one, task, pool).items():
            total += weights[kind] * np.where(there, values, 0)
            most += weights[kind] * there
        return total / np.maximum(most, 1e-9)

    def evidence(self, one: Interface, task: Task, pool: _Pool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Kind of evidence to its values and where there is any, [units] each."""
        every = np.ones(len(pool.nodes), bool)
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {
            "words": (self._words(one, task, pool), every),
            "names": (self._names(one, pool), every),
            "place": (np.array([self._place(one, name) for name in pool.names]), every),
        }
        # What has no docstring is compared by its features, which are its name then: where both sides have none and the names
        # say nothing, nothing speaks for any unit, and no score reaches the floor.
        if told := one.doc or "; ".join(one.features) or " ".join(words_of(one.last)):
            found["docs"] = (self._docs(told, pool), every)
        if (mine := parameters_of(one.signature)) is not None and one.signature and one.kind != "class":
            theirs = [parameters_of(node.signature) for node in pool.nodes]
            values = [same_signature(mine, other) if other is not None else 0.0 for other in theirs]
            found["signature"] = (np.array(values), np.array([other is not None for other in theirs]))
        methods = [each for each in task.interfaces if each.kind == "method" and each.owner == one.name]
        if one.kind == "class" and methods:
            found["members"] = (np.array([self._members(methods, node) for node in pool.nodes]), every)
        return found

    def _words(self, one: Interface, task: Task, pool: _Pool) -> np.ndarray:
        """The rank by localize.py, to a greatest value of 1 in the pool."""
        told = [" ".join(words_of(one.last)), one.doc, *one.features]
        if one.tested:
            told.append(task.alg_description[:MOST_TEXT])
        query = "\n".join(filter(None, told))
        if query not in self._query:
            self._query[query] = self._localizer.scores(query)
        everything = self._query[query]
        values = np.array([everything[self._localizer.place[node.id]] for node in pool.nodes])
        top = values.max() if len(values) else 0.0
        return np.maximum(values, 0) / top if top > 0 else np.zeros(len(values))

    def _names(self, one: Interface, pool: _Pool) -> np.ndarray:
        mine = set(name_stems(one.last))
        alike = np.array([shared(mine, set(name_stems(node.name))) for node in pool.nodes])
        if self.encoder is None:
            return alike
        if pool.words is None:
            pool.words = _Texts([" ".join(words_of(node.name)) for node in pool.nodes], self.encoder)
        return np.maximum(alike, pool.words.with_text(" ".join(words_of(one.last))))

    def _docs(self, doc: str, pool: _Pool) -> np.ndarray:
        """The mean of the cosine and of the words shared: the one knows synonyms, the other names and numbers."""
        if not pool.stems:
            pool.stems = [stems(text) for text in pool.texts]
        mine = stems(doc)
        alike = np.array([shared(mine, theirs) for theirs in pool.stems])
        if self.encoder is None:
            return alike
        if pool.docs is None:
            pool.docs = _Texts(pool.texts, self.encoder)
        return (alike + pool.docs.with_text(doc)) / 2

    def _place(self, one: Interface, name: str) -> float:
        mine = {part for word in one.owner.split(".")[1:] for part in name_stems(word)}
        return shared(mine, {part for word in name.split(".")[1:-1] for part in name_stems(word)})

    def _members(self, methods: Sequence[Interface], node: Node) -> float:
        """How much of the methods that a test uses a class has, by their names."""
        theirs: list[set[str]] = [set(name_stems(name)) for name, _ in self._member_names(node)]
        found = [max((shared(set(name_stems(one.last)), other) for other in theirs), default=0.0) for one in methods]
        return sum(found) / len(found)

    def _member_names(self, node: Node) -> list[tuple[str, Any]]:
        program = self.package.program
        found: dict[str, Any] = {}
        for one in program.order(node.id):
            found |= dict.fromkeys(program.nodes[one].names) | program.scopes.get(one, {})
        return sorted(found.items(), key=lambda item: item[0])
