"""The global feature tree that a proposal is drawn from: on disk, in memory, and its index of leaves.

The paper's tree has seven levels with 17 / 1,527 / 21,739 / 113,348 / 613,311 / 33,801 / 781 nodes (arXiv 2509.16198
§2.2, app. A): EpiCoder's meta-features. ontology_verbs.py reads that, makes one from Python packages instead, and shows it;
sampling.py draws from it, proposal.py offers what was drawn to a model.

On disk it is JSON Lines: a header `{"schema": "ontology/1", "origin": {...}, "levels": [nodes of level 1, 2, ...]}`,
then a node a line, `{"path": ["data processing", "cleaning"], "frequency": 12}`, sorted by path, parents before their
children. What was read is counted against the header, so that a file cut off is not taken for a small tree.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output, read_lines
from tenfold_shared.records import readable
from zerorepo.generation.sampling import Nodes

SCHEMA = "ontology/1"
SLASH = "∕"  # U+2215, which stands in a path on one line where a name has a slash
DEEPEST = 64
MANY = 20_000  # names from which encoding them takes minutes
# The categories of level 1 that the paper samples from, of EpiCoder's 17. A tree that has none of them: all it has.
CATEGORIES = (
    "workflow", "implementation style", "functionality", "resource usage", "computation operation", "user interaction",
    "data processing", "file operation", "dependency relations", "algorithm", "data structures",
)  # fmt: skip

Path_ = tuple[str, ...]


class _Header(msgspec.Struct):
    schema: str
    levels: list[int]
    origin: dict[str, Any] = {}


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    path: list[str]
    frequency: int


class Ontology:
    """A tree of names with frequencies. Node 0 is the root, which has no name; the others are numbered from 1 in order of
    their paths, so that a parent's number is below its children's.

    name (n + 1,): place in `names`; parent (n + 1,), of the root 0; frequency (n + 1,); depth (n + 1,), of the root 0;
    the children of node i are below[first[i] : first[i] + fanout[i]], ascending. 45 bytes a node and the distinct names.
    """

    def __init__(self, rows: Iterable[tuple[Sequence[str], int]], origin: Mapping[str, Any] | None = None) -> None:
        """rows: (path, frequency), sorted by path, parents first. Raises BadInput beginning with `node N:`."""
        self.origin = dict(origin or {})
        places: dict[str, int] = {}
        names, parents, frequencies, depths = array("q", [0]), array("q", [0]), array("q", [0]), array("B", [0])
        stack: list[int] = [0]
        last: list[str] = []
        for number, (path, frequency) in enumerate(rows, 1):
            depth = len(path)
            same = depth - 1 <= len(last) and all(one == other for one, other in zip(path[:-1], last, strict=False))
            if not depth or not same or (depth <= len(last) and path[-1] <= last[depth - 1]):
                raise BadInput(f"node {number}: {'/'.join(path)}: expected nodes sorted by path, each once, below their parents")  # fmt: skip
            if depth > DEEPEST:
                raise BadInput(f"node {number}: more than {DEEPEST} levels deep")
            if not 0 <= frequency < 1 << 62:
                raise BadInput(
                    f"node {number}: {'/'.join(path)}: frequency {frequency}: expected a whole number from 0"
                )
            leaf = path[-1]
            place = places.get(leaf)
            if place is None:
                if not leaf or not leaf.isprintable() or leaf != leaf.strip():
                    raise BadInput(f"node {number}: name {leaf!r}: expected printable text without blanks around it")
                place = places[leaf] = len(places) + 1
            del stack[depth:]
            names.append(place)
            parents.append(stack[-1])
            frequencies.append(frequency)
            depths.append(depth)
            stack.append(number)
            last = list(path)
        self.names = ["", *places]
        self.name = np.array(names, np.int64)
        self.parent = np.array(parents, np.int64)
        self.frequency = np.array(frequencies, np.int64)
        self.depth = np.array(depths, np.uint8)
        self.below = np.argsort(self.parent[1:], kind="stable") + 1
        self.fanout = np.bincount(self.parent[1:], minlength=len(names)).astype(np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.fanout)[:-1]]).astype(np.int64)

    @classmethod
    def of(cls, counts: Mapping[Path_, int], origin: Mapping[str, Any] | None = None) -> Ontology:
        """The tree of these nodes; one above them that is not named has the frequency of what is below it."""
        return cls(sorted(completed(counts).items()), origin)

    @classmethod
    def load(cls, path: str | Path) -> Ontology:
        """Raises BadInput with file and line. `.gz` and `.zst` are unpacked."""
        lines = read_lines(str(path))
        at, first = next(lines, (1, b""))
        try:
            header = msgspec.json.decode(first, type=_Header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{path}:{at}: {readable(error)}; expected the header of {SCHEMA}") from None
        if header.schema != SCHEMA:
            raise BadInput(f"{path}:{at}: schema: expected {SCHEMA}, got {header.schema!r}")
        decode = msgspec.json.Decoder(_Row).decode

        def rows() -> Iterator[tuple[Sequence[str], int]]:
            nonlocal at
            for number, line in lines:
                at = number
                row = decode(line)
                yield row.path, row.frequency

        try:
            found = cls(rows(), header.origin)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{path}:{at}: {readable(error)}; expected a path and a frequency") from None
        except BadInput as error:
            if str(error).startswith("node "):
                raise BadInput(f"{path}:{at}: {str(error).partition(': ')[2]}") from None
            raise
        if found.levels != header.levels:
            raise BadInput(f"{path}: levels: the header counts {header.levels}, the file has {found.levels}; is it complete?")  # fmt: skip
        if not len(found):
            raise BadInput(f"{path}: holds no feature")
        return found

    def __len__(self) -> int:
        """Nodes, the root not counted."""
        return len(self.name) - 1

    @cached_property
    def levels(self) -> list[int]:
        """Nodes of level 1, 2, ..."""
        return np.bincount(self.depth[1:])[1:].tolist() if len(self) else []

    @cached_property
    def leaves(self) -> Nodes:
        """Nodes without children, ascending."""
        return np.flatnonzero(self.fanout[1:] == 0) + 1

    def children(self, node: int) -> Nodes:
        """Ascending."""
        return self.below[self.first[node] : self.first[node] + self.fanout[node]]

    def path(self, node: int) -> Path_:
        found: list[str] = []
        while node:
            found.append(self.names[self.name[node]])
            node = int(self.parent[node])
        return tuple(reversed(found))

    def label(self, node: int) -> str:
        """Its path on one line."""
        return told_path(self.path(node))

    def sampled_roots(self) -> Nodes:
        """The nodes of level 1 that are drawn from: those of CATEGORIES where there are any, else all."""
        top = self.children(0)
        known = [node for node in top if self.names[self.name[node]].lower() in CATEGORIES]
        return np.array(known, np.int64) if known else top

    def counts(self) -> dict[str, Any]:
        """For outputs: the count there is, and of each level."""
        return {"nodes": len(self), "leaves": len(self.leaves), "levels": self.levels}

    def told(self) -> str:
        levels = " / ".join(f"{count:,}" for count in self.levels)
        return f"{len(self):,} nodes on {len(self.levels)} levels ({levels}), {len(self.leaves):,} leaves"


def told_path(path: Sequence[str]) -> str:
    """A path on one line."""
    return "/".join(name.replace("/", SLASH) for name in path)


def completed(counts: Mapping[Path_, int]) -> dict[Path_, int]:
    """With the nodes above, where they are missing: the frequency of such a one is the sum of its children's."""
    found = dict(counts)
    missing: Counter[Path_] = Counter()
    by_depth: dict[int, list[Path_]] = {}
    for path in counts:
        by_depth.setdefault(len(path), []).append(path)
    for depth in range(max(by_depth, default=0), 1, -1):
        for path in by_depth.get(depth, ()):
            above = path[:-1]
            if above not in counts:
                if above not in missing:
                    by_depth.setdefault(depth - 1, []).append(above)
                missing[above] += found.get(path, 0) or missing[path]
    return {**found, **missing}


class Hit(NamedTuple):
    score: float
    name: str
    nodes: list[int]  # the leaves of that name, ascending


class LeafIndex:
    """Exact search among the names of leaves; all the paths of a name are its document (the paper's own index is
    keyed the same way). cache: where the encoder's vectors are kept."""

    def __init__(self, ontology: Ontology, encoder: Any, cache: Path | None = None) -> None:
        from zerorepo.embeddings import index_of

        self.ontology = ontology
        leaves = ontology.leaves
        kinds = ontology.name[leaves]
        order = np.lexsort((leaves, kinds))
        self._nodes = leaves[order]
        distinct, self._begins = np.unique(kinds[order], return_index=True)
        self.names = [ontology.names[place] for place in distinct]
        self._search = index_of(self.names, encoder, cache)
        self.how = self._search.how

    def search(self, queries: Sequence[str], top: int) -> list[list[Hit]]:
        """The `top` names most like each query, best first; those that have nothing in common with it left out."""
        if not queries:
            return []
        scores, rows = self._search.top_k(queries, min(top, len(self.names)))
        return [
            [
                Hit(float(score), self.names[row], self._of(row))
                for score, row in zip(mine, at, strict=True)
                if score > 0
            ]
            for mine, at in zip(scores, rows, strict=True)
        ]

    def _of(self, row: int) -> list[int]:
        end = self._begins[row + 1] if row + 1 < len(self._begins) else len(self._nodes)
        return self._nodes[self._begins[row] : end].tolist()


def open_index(tree: Ontology, path: str, embeddings: str) -> LeafIndex:
    """The index of a tree that is in a file, with the encoder called `embeddings` (see embeddings.encoder); its vectors
    are kept beside the file. Says so where that will take long. Raises BadInput and Missing."""
    from zerorepo.embeddings import encoder

    chosen = encoder(embeddings)
    place = Path(path)
    cache = None if path == "-" else place.with_name(f".{place.name}.vectors")
    if chosen.name != "tfidf" and len(tree.leaves) > MANY and (cache is None or not cache.exists()):
        print(f"zerorepo: {path}: up to {len(tree.leaves):,} names go through {chosen.name}, once, a few hundred a second on a CPU; --embeddings tfidf needs none of that", file=sys.stderr)  # fmt: skip
    return LeafIndex(tree, chosen, cache)


def write(
    counts: Mapping[Path_, int], origin: Mapping[str, Any], out: Output, quiet: bool, as_json: bool, **more: Any
) -> Ontology:
    """The tree to `out`, which is finished, with what is said of it."""
    rows = sorted(counts.items())
    tree = Ontology(rows, origin)
    if not len(tree):
        raise BadInput(f"{out.path or 'ontology'}: no feature was found, so there is nothing to write")
    out.write({"schema": SCHEMA, "levels": tree.levels, "origin": dict(origin)})
    for path, frequency in rows:
        out.write({"path": path, "frequency": frequency})
    told = {**tree.counts(), **more}
    out.finish(told)
    if as_json:
        print(msgspec.json.encode(told).decode(), file=sys.stderr if out.path is None else sys.stdout)
    elif not quiet:
        print(f"{out.path or 'ontology'}: {tree.told()}", file=sys.stderr)
    return tree


def find(tree: Ontology, told: str) -> int | None:
    """The node of a path on one line."""
    node = 0
    for name in told.split("/"):
        node = next((child for child in tree.children(node).tolist() if tree.names[tree.name[child]].replace("/", SLASH) == name), -1)  # fmt: skip
        if node < 0:
            return None
    return node
