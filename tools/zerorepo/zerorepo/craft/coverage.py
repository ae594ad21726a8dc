"""Which of a real project's features a repository has, and which it has beyond them (arXiv 2509.16198 §4.1, app. D).

Under scoring.py. A taxonomy is the real project's: leaves, each with texts that say what is in it. Each feature of the
repository goes to the leaf whose centroid is nearest, or, where even that is far, to the class of what is out of the
taxonomy. Coverage is the share of leaves that got one, novelty the share of features that went to none.

The centroids are fixed: they are of the reference texts alone, and no feature moves them. (The paper's released code
lets k-means move them, and clusters draw lots where there are fewer features than leaves; its figures then depend on
the run.) Nothing here depends on the order of anything, and a feature that stands twice counts twice in novelty and
changes no leaf.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput
from zerorepo.embeddings import Encoder, TfIdf
from zerorepo.features import phrases, words_of
from zerorepo.graph import Graph, one_line, read_bytes

if TYPE_CHECKING:
    from zerorepo.craft.package import Package
    from zerorepo.craft.tasks import Task
    from zerorepo.generation.asking import Asker

Floats = NDArray[np.float64]
GRAPH = "rpg.json"
BLOCK = 64  # texts that are encoded at once: a TF-IDF vector is a megabyte
DIGITS = 6  # of a cosine; what is beyond them is an encoder's rounding, and no tie hangs on it
QUANTILE = 0.05  # share of the reference texts that the default threshold may call novel
BATCH = 50  # features in one question
NOVEL = "none"  # what a model calls the class of what is out of the taxonomy
ROLE = "taxonomy"


class Taxonomy:
    """leaves: names, sorted. texts: for each leaf, sorted and each once; a leaf without one has its name. Raises
    ValueError where there is no leaf, or one twice."""

    def __init__(self, leaves: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
        pairs = sorted(zip(leaves, texts, strict=True), key=lambda pair: pair[0])
        if not pairs:
            raise ValueError("a taxonomy has one leaf or more")
        self.leaves = [leaf for leaf, _ in pairs]
        self.texts = [sorted({text for text in own if text.strip()}) or [leaf] for leaf, own in pairs]
        if len(set(self.leaves)) < len(self.leaves):
            raise ValueError("a leaf stands twice")


class Assignment(NamedTuple):
    """coverage, novelty: shares of 0..1; without features both are 0. leaves: how many there are; hit: those with a
    feature, sorted; features: how many; novel: how many went to no leaf; of: the leaf of each feature, or None, in
    their order; threshold: cosine that an assignment takes at least."""

    coverage: float
    novelty: float
    leaves: int
    hit: list[str]
    features: int
    novel: int
    of: list[str | None]
    threshold: float


# ------------------------------------------------------------ taxonomies


def of_tasks(tasks: Sequence[Task]) -> Taxonomy:
    """One leaf for each `category/test file` of the tasks.

    Its texts are of the kind that features are: `told` of each interface that a test is about, and what each task
    tests, after the test file's name. A task's description is much longer than a feature, and made of the same
    docstrings: it is taken only where no interface is known to be tested. Raises ValueError without a task.
    """
    texts: dict[str, list[str]] = {}
    for task in tasks:
        own = texts.setdefault(task.leaf, [])
        own.append(" ".join(words_of(f"{task.leaf.rpartition('/')[2]} {task.cap}")))
        own += [told(one.name, one.kind, one.features or phrases(one.last, one.doc)[0]) for one in task.tested]
        if not task.tested:
            own.append(task.alg_description)
    return Taxonomy(list(texts), list(texts.values()))


def told(name: str, kind: str, features: Sequence[str]) -> str:
    """What a unit does in one line, after where it stands: of `toolz.itertoolz.groupby`, "itertoolz groupby: group a
    collection by a key function".

    name: dotted. The module's and the class's words belong to it: `add` alone, or "return the number of items", may be
    of any leaf. They are all that is taken of the place: a repository has its own folders and package name.
    """
    last = name.rpartition(".")[2]
    place = " ".join(word for part in name.split(".")[-3 if kind == "method" else -2 :] for word in words_of(part))
    own = " ".join(words_of(last))
    return ": ".join([place, *(one for one in ["; ".join(one for one in features if one != own)] if one)])


def of_json(path: str | Path) -> Taxonomy:
    """A taxonomy in the form that the paper's are released in: objects in objects; an empty object or list makes its
    key a leaf, a list's strings are leaves. A leaf is its whole path, and that is its text. (By last names alone, as
    the released code has it, two leaves of one name would be one: the taxonomy of sympy has such.) Raises BadInput."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) < len(found):
            raise ValueError("a key stands twice in one object")
        return made

    try:
        tree = json.loads(read_bytes(path), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: expected a taxonomy as JSON: {error}") from None
    if not isinstance(tree, dict):
        raise BadInput(f"{path}: expected an object of groups and leaves, got {type(tree).__name__}")
    leaves: dict[str, None] = {}
    stack: list[tuple[str, Any]] = [("", tree)]
    while stack:
        place, value = stack.pop()
        inside = f"{place}/" if place else ""
        if isinstance(value, str) and value.strip():
            leaves[f"{inside}{value}"] = None
        elif isinstance(value, dict) and value:
            stack += [(f"{inside}{key}", one) for key, one in value.items()]
        elif isinstance(value, list) and value:
            stack += [(place, one) for one in value]
        elif value in ({}, [], None) and place:
            leaves[place] = None
        else:
            raise BadInput(
                f"{path}: {one_line(place) or 'the whole'}: expected groups and names of leaves, got {value!r}"
            )
    return Taxonomy(list(leaves), [[leaf] for leaf in leaves])


# ------------------------------------------------------------ features


def features_of(package: Package) -> list[str]:
    """What a repository can do: a line of text for each feature, in the order of the graph's ids.

    Where `rpg.json` at its root is the graph that it was built from, the features are that graph's, as in the paper,
    each after its group's name, but only those whose function, class or method is there: a plan alone covers nothing.
    Else each public unit of the code is one, as `told`; not what begins with an underscore or stands inside a function.
    """
    planned = _planned(package)
    if planned:
        return planned
    found: list[str] = []
    for node in package.units:
        inside = package.graph.parent(node.id)
        hidden = any(part.startswith("_") for part in node.qualname.split("."))
        if not hidden and not (inside is not None and inside.kind in ("function", "method")):
            found.append(told(package.dotted(node), node.kind, node.features))
    return found


def _planned(package: Package) -> list[str]:
    data = package.files.get(GRAPH)
    if data is None:
        return []
    try:
        graph = Graph.loads(data, GRAPH)
    except BadInput:
        return []  # another's file of that name, or a broken one: the code speaks for itself
    there = {(node.path, node.qualname) for node in package.units}
    found = []
    for node in sorted(graph.nodes, key=lambda node: node.id):
        if node.kind == "feature" and node.name.strip() and (node.path, node.qualname) in there:
            group = graph.by_id.get(node.id.rpartition("/")[0])
            found.append(f"{group.name}: {node.name}" if group is not None and group.name else node.name)
    return found


# ------------------------------------------------------------ assignment


class _Space:
    """Vectors of length 1, cut down to the columns that reference texts use: the others meet no centroid.

    sums: (leaves, columns), of a leaf's vectors; centroids: those, to length 1, or 0 where the texts say nothing.
    """

    def __init__(self, taxonomy: Taxonomy, encoder: Encoder) -> None:
        self.encoder = encoder
        self.texts = [text for own in taxonomy.texts for text in own]
        self.leaf = np.repeat(np.arange(len(taxonomy.leaves)), [len(own) for own in taxonomy.texts])
        kept = []
        for block in self._blocks(self.texts):
            columns = np.flatnonzero(block.any(axis=0))
            kept.append((columns, block[:, columns]))
        self.columns = np.unique(np.concatenate([columns for columns, _ in kept]))
        places = [np.searchsorted(self.columns, columns) for columns, _ in kept]
        # TF-IDF says of a text alone how often each word is in it; how rare words are is for who holds the texts to say
        # (embeddings.TfIdfIndex, whose weights these are).
        self.weights, self.unseen = np.ones(len(self.columns)), 1.0
        if isinstance(encoder, TfIdf):
            holders = np.zeros(len(self.columns))
            for place, (_, values) in zip(places, kept, strict=True):
                holders[place] += np.count_nonzero(values, axis=0)
            self.weights = 1 + np.log((1 + len(self.texts)) / (1 + holders))
            self.unseen = 1 + float(np.log(1 + len(self.texts)))
        self._rows = [
            (place, _unit(values.astype(np.float64) * self.weights[place]))
            for place, (_, values) in zip(places, kept, strict=True)
        ]
        self.sums = np.zeros((len(taxonomy.leaves), len(self.columns)))
        for rows, leaf in self._reference():
            np.add.at(self.sums, leaf, rows)
        self.centroids = _unit(self.sums)

    def _blocks(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(texts), BLOCK):
            yield self.encoder.encode(texts[start : start + BLOCK])

    def _reference(self) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
        """The reference texts' vectors (block, columns) with their leaves (block,)."""
        start = 0
        for place, values in self._rows:
            rows = np.zeros((len(values), len(self.columns)))
            rows[:, place] = values
            yield rows, self.leaf[start : start + len(rows)]
            start += len(rows)

    def cosines(self, texts: Sequence[str]) -> Iterator[Floats]:
        """Cosines (leaves,) of each text with the centroids."""
        for block in self._blocks(texts):
            rows = block[:, self.columns].astype(np.float64)
            if isinstance(self.encoder, TfIdf):
                whole = np.einsum("ij,ij->i", block, block, dtype=np.float64)
                outside = np.maximum(whole - (rows**2).sum(1), 0.0) * self.unseen**2
                rows *= self.weights
                length = np.sqrt((rows**2).sum(1) + outside)
                rows /= np.where(length > 0, length, 1)[:, None]
            yield from (rows @ self.centroids.T).round(DIGITS)

    def threshold(self) -> float:
        """The cosine that all but QUANTILE of the reference texts reach, each held against what the taxonomy would be
        without it.

        That is its own leaf's centroid made of the leaf's other texts. A leaf with one text has none, and what is left
        of the taxonomy is the other leaves: the text is held against the nearest of those. (Its own path would be no
        measure: in a taxonomy of paths it is the text itself, and any feature that is not that path would be novel.)
        Texts that say nothing are left out. The threshold is above 0, so that what has nothing in common with any leaf
        is novel.
        """
        many = np.bincount(self.leaf) > 1
        found: list[float] = []
        for rows, leaf in self._reference():
            others = self.sums[leaf] - rows
            length = np.sqrt((others**2).sum(1))
            own = (rows * others).sum(1) / np.where(length > 1e-9, length, np.inf)
            across = rows @ self.centroids.T
            across[np.arange(len(leaf)), leaf] = -np.inf
            held = np.where(many[leaf], own, across.max(1))
            found += held[np.isfinite(held) & rows.any(1)].tolist()
        least = 10.0**-DIGITS
        return max(least, round(float(np.quantile(found, QUANTILE, method="lower")), DIGITS)) if found else least


def _unit(rows: Floats) -> Floats:
    length = np.sqrt((rows**2).sum(1))
    return rows / np.where(length > 1e-9, length, 1)[:, None]


def assigned(
    taxonomy: Taxonomy, features: Sequence[str], encoder: Encoder, threshold: float | None = None
) -> Assignment:
    """Each feature to the leaf with the nearest centroid (the mean of the unit vectors of a leaf's texts, to length 1),
    the first by name of equally near ones; to none where that cosine is below `threshold`. None takes the threshold
    from the taxonomy itself (see _Space.threshold). Cosines count to DIGITS digits."""
    space = _Space(taxonomy, encoder)
    least = space.threshold() if threshold is None else threshold
    distinct = sorted(set(features))
    leaf_of: dict[str, str | None] = {}
    for feature, cosines in zip(distinct, space.cosines(distinct), strict=True):
        best = int(cosines.argmax())
        leaf_of[feature] = taxonomy.leaves[best] if cosines[best] >= least else None
    return _counted(taxonomy, [leaf_of[feature] for feature in features], least)


def _counted(taxonomy: Taxonomy, of: list[str | None], threshold: float) -> Assignment:
    hit = sorted({leaf for leaf in of if leaf is not None})
    novel = of.count(None)
    return Assignment(
        coverage=len(hit) / len(taxonomy.leaves), novelty=novel / len(of) if of else 0.0, leaves=len(taxonomy.leaves),
        hit=hit, features=len(of), novel=novel, of=of, threshold=threshold,
    )  # fmt: skip


# ------------------------------------------------------------ a model's refinement

_RULES = """Features of one repository were sorted into the classes of another project's features, by likeness of words.
You correct what is sorted wrongly. A class stands on a line of its own after "- ", and you give it back exactly as it
stands there. A feature that belongs to no class is "{novel}", the class of what the other project does not have. What
is sorted rightly, or as well as it can be, you leave out. Answer with one JSON object and nothing else.

# The repository
{overview}

# The classes
{leaves}- {novel}
"""
_QUESTION = """Each feature with the class it was put in. Name those that belong elsewhere, and where.
Answer: {{"moves": {{"feature": "class"}}}}, or {{"moves": {{}}}} where all stand well.

{features}
"""


def refined(
    asker: Asker, taxonomy: Taxonomy, features: Sequence[str], assignment: Assignment, overview: str
) -> Assignment:
    """The assignment after a model looked through it, as the paper has it: only what it moves changes.

    features: those of the assignment, in its order. An answer with a feature that was not shown or a class that is none
    is asked for again, with what was wrong; a batch that stays without a usable answer stays as it was, and is in
    `asker.refused`. Raises what Asker.checked_all does.
    """
    from zerorepo.generation.asking import Ask

    now = dict(zip(features, assignment.of, strict=True))
    offered = {one_line(leaf): leaf for leaf in taxonomy.leaves}
    system = _RULES.format(novel=NOVEL, overview=overview.strip(), leaves="".join(f"- {name}\n" for name in offered))

    def question(batch: Sequence[str]) -> str:
        told = {feature: NOVEL if now[feature] is None else one_line(str(now[feature])) for feature in batch}
        return _QUESTION.format(features=json.dumps(told, ensure_ascii=False, indent=0))

    def checked(batch: Sequence[str]) -> Callable[[dict[str, Any]], dict[str, str | None]]:
        shown = set(batch)

        def check(value: dict[str, Any]) -> dict[str, str | None]:
            moves = value.get("moves")
            if not isinstance(moves, dict):
                raise ValueError("moves: expected an object of features and classes, {} where nothing moves")
            unknown = [feature for feature in moves if feature not in shown]
            if unknown:
                raise ValueError(f"moves: no such feature was shown: {json.dumps(unknown[:5], ensure_ascii=False)}")
            astray = [name for name in moves.values() if not isinstance(name, str) or name not in (NOVEL, *offered)]
            if astray:
                raise ValueError(f"moves: no such class: {json.dumps(astray[:5], ensure_ascii=False)}")
            return {feature: offered.get(name) for feature, name in moves.items()}

        return check

    distinct = sorted(now)
    batches = [distinct[start : start + BATCH] for start in range(0, len(distinct), BATCH)]
    asks = [
        (Ask(ROLE, f"batch-{at}", system, question(batch)), checked(batch), ("moves",))
        for at, batch in enumerate(batches, 1)
    ]
    for moves in asker.checked_all(asks):
        now.update(moves or {})
    return _counted(taxonomy, [now[feature] for feature in features], assignment.threshold)
