"""The global feature tree that a proposal is drawn from: on disk, in memory, and the verbs of `ontology`.

The paper's tree has seven levels with 17 / 1,527 / 21,739 / 113,348 / 613,311 / 33,801 / 781 nodes (arXiv 2509.16198
§2.2, app. A): EpiCoder's meta-features, which `import` reads. `build` makes one from Python packages instead. sampling.py
draws from it, proposal.py offers what was drawn to a model.

On disk it is JSON Lines: a header `{"schema": "ontology/1", "origin": {...}, "levels": [nodes of level 1, 2, ...]}`,
then a node a line, `{"path": ["data processing", "cleaning"], "frequency": 12}`, sorted by path, parents before their
children. What was read is counted against the header, so that a file cut off is not taken for a small tree.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output, Source, read_lines, read_text
from tenfold_shared.progress import Progress
from zerorepo.encode import file_nodes
from zerorepo.features import own_phrases, words_of
from zerorepo.generation.sampling import CONDITIONS, OVERLAP, TEMPERATURE, TRIES, Drawn, Nodes, Sampler
from zerorepo.graph import UNITS, Node, one_line
from zerorepo.sources import WorkTree, is_python

SCHEMA = "ontology/1"
SLASH = "∕"  # U+2215, which stands in a path on one line where a name has a slash
JOINT = "---"  # between the names of a path in EpiCoder's table of frequencies
DEEPEST = 64
MANY = 20_000  # names from which encoding them takes minutes
# The categories of level 1 that the paper samples from, of EpiCoder's 17. A tree that has none of them: all it has.
CATEGORIES = (
    "workflow", "implementation style", "functionality", "resource usage", "computation operation", "user interaction",
    "data processing", "file operation", "dependency relations", "algorithm", "data structures",
)  # fmt: skip
FUNCTIONS = "functions"  # the group of a module's functions that stand in no class
_LEFT_OUT = re.compile(r"(?:^|/)(?:tests?|testing|docs?|examples?|benchmarks?|_vendor|vendor(?:ed)?|extern|conftest\.py|test_[^/]*|[^/]*_test\.py)(?:/|$)")  # fmt: skip

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
            raise BadInput(f"{path}:{at}: expected the header of {SCHEMA}: {error}") from None
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
            raise BadInput(f"{path}:{at}: expected a path and a frequency: {error}") from None
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


# ------------------------------------------------------------ search


class Hit(NamedTuple):
    score: float
    name: str
    nodes: list[int]  # the leaves of that name, ascending


class LeafIndex:
    """Exact search among the names of leaves; all the paths of a name are its document (the reference's index is
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


# ------------------------------------------------------------ writing


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


def _output(path: str | None, verb: str, options: dict[str, Any], inputs: Sequence[str], overwrite: bool) -> Output:
    from zerorepo import __version__

    source = Source(list(inputs), None) if inputs else None
    return Output(path, tool="zerorepo", version=__version__, verb=verb, options=options, source=source, overwrite=overwrite)  # fmt: skip


def _complete(out: Output, quiet: bool) -> bool:
    if out.finished and not quiet:
        print(f"{out.path}: complete already; nothing to do", file=sys.stderr)
    return out.finished


# ------------------------------------------------------------ import


def run_import(
    tree: str, frequencies: str | None, *, output: str | None, overwrite: bool, as_json: bool, quiet: bool, **_: Any
) -> int:
    """The verb `ontology import`."""
    inputs = [tree, frequencies] if frequencies else [tree]
    with _output(output, "ontology import", {}, inputs, overwrite) as out:
        if _complete(out, quiet):
            return 0
        counts, found = imported(tree, frequencies)
        origin = {"form": "EpiCoder", "inputs": [{"name": PurePosixPath(one).name, "sha256": _sha256(one)} for one in inputs]}  # fmt: skip
        write(counts, origin, out, quiet, as_json, **found)
    if not quiet:
        for told, count in (
            ("nodes have no frequency and count as 1", found["without_frequency"]),
            ("frequencies are of paths that are not in the tree: left out", found["unused_frequencies"]),
            ("names stand twice below one node, or differ in blanks alone: merged", found["merged"]),
        ):
            if count:
                print(f"zerorepo: {count:,} {told}", file=sys.stderr)
    return 0


def imported(tree: str, frequencies: str | None) -> tuple[dict[Path_, int], dict[str, int]]:
    """(path to frequency, what was amiss) of EpiCoder's two files: a nested object whose leaves are lists of strings or
    empty objects, and an object from the whole path, joined by `---`, to `{"frequency": n, ...}`.

    Raises BadInput for a key that holds `---` (the other file could not tell it from two), a leaf that is no text, a
    tree more than DEEPEST levels deep, and a table that has nothing to do with the tree.
    """
    known = _frequencies(frequencies) if frequencies else {}
    used: set[str] = set()
    counts: dict[Path_, int] = {}
    without = merged = 0

    def add(path: Path_, raw: str) -> None:
        nonlocal without, merged
        frequency = known.get(raw)
        if frequency is None:
            without += 1
            frequency = 1
        else:
            used.add(raw)
        if path in counts:
            merged += 1
            counts[path] += frequency
        else:
            counts[path] = frequency

    whole = _nested(tree)
    stack: list[tuple[Path_, str, Any]] = [((), "", whole)]
    while stack:
        above, raw_above, value = stack.pop()
        if len(above) >= DEEPEST:
            raise BadInput(f"{tree}: {told_path(above)[:200]}: more than {DEEPEST} levels deep")
        told = told_path(above) or "the whole"
        if not isinstance(value, (dict, list)):
            raise BadInput(f"{tree}: {told}: expected an object or a list of names, got {_short(value)}")
        for name in value:
            if not isinstance(name, str):
                raise BadInput(f"{tree}: {told}: expected names in the list, got {_short(name)}")
            if JOINT in name:
                raise BadInput(f"{tree}: {told}: {name!r}: a name with {JOINT!r} in it, which parts names in the frequencies; rename it in both files")  # fmt: skip
            plain = " ".join(name.split())
            if not plain or not plain.isprintable():
                raise BadInput(f"{tree}: {told}: {name!r}: expected a name that can be printed")
            raw = f"{raw_above}{JOINT}{name}" if raw_above else name
            add((*above, plain), raw)
            if isinstance(value, dict):
                stack.append(((*above, plain), raw, value[name]))
    if known and not used:
        some = next(iter(known))
        raise BadInput(f"{frequencies}: none of its paths, such as {some!r}, is in {tree}; are the two of one tree?")
    return counts, {"without_frequency": without, "unused_frequencies": len(known) - len(used), "merged": merged}


def _nested(path: str) -> dict[str, Any]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) < len(found):
            twice = Counter(key for key, _ in found).most_common(1)[0][0]
            raise BadInput(f"{path}: the key {twice!r} stands twice in one object")
        return made

    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise BadInput(f"{path}: nested too deeply; a feature tree has at most {DEEPEST} levels") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise BadInput(f"{path}: not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}:1:1: expected an object from names to what is below them")
    return value


class _Counted(msgspec.Struct):
    frequency: int


def _frequencies(path: str) -> dict[str, int]:
    data = read_text(path).encode()
    try:
        return {key: one.frequency for key, one in msgspec.json.decode(data, type=dict[str, _Counted]).items() if _count(path, key, one.frequency)}  # fmt: skip
    except msgspec.ValidationError as error:
        try:
            whole = msgspec.json.decode(data)
        except msgspec.ValidationError:  # a number beyond 64 bits
            raise BadInput(f"{path}: {error}") from None
        if not isinstance(whole, dict):
            raise BadInput(f"{path}:1:1: expected an object from paths to frequencies") from None
        for key, value in whole.items():
            if not isinstance(value, dict) or type(value.get("frequency")) is not int:
                raise BadInput(f"{path}: {key!r}: expected an object with a frequency, a whole number; got {_short(value)}") from None  # fmt: skip
        raise BadInput(f"{path}: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        found = re.search(r"\(byte (\d+)\)", str(error))
        at = int(found[1]) if found else len(data)
        before = data[:at]
        line, column = before.count(b"\n") + 1, at - before.rfind(b"\n")
        raise BadInput(f"{path}:{line}:{column}: not JSON: {error}") from None


def _count(path: str, key: str, frequency: int) -> bool:
    if not 0 <= frequency < 1 << 62:
        raise BadInput(f"{path}: {key!r}: frequency {frequency}: expected a whole number from 0")
    return True


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ------------------------------------------------------------ build


class Package(NamedTuple):
    """name: as told; files: path below `root` of its Python files."""

    name: str
    version: str
    root: Path
    files: list[str]


def run_build(
    packages: Sequence[str], *, output: str | None, overwrite: bool, as_json: bool, quiet: bool, **_: Any
) -> int:
    """The verb `ontology build`."""
    found = [located(word) for word in packages] if packages else installed()
    origin = {"form": "packages", "packages": [{"name": one.name, "version": one.version, "files": len(one.files)} for one in found]}  # fmt: skip
    with _output(output, "ontology build", {"packages": origin["packages"]}, (), overwrite) as out:
        if _complete(out, quiet):
            return 0
        with Progress("ontology build", sum(len(one.files) for one in found), "files", quiet) as progress:
            counts, unparsed = built(found, progress.update)
        write(counts, origin, out, quiet, as_json, packages=len(found), unparsed=unparsed)
    if unparsed and not quiet:
        print(f"zerorepo: {unparsed} files could not be parsed: left out", file=sys.stderr)
    return 0


def installed() -> list[Package]:
    """Every distribution of this Python that lists Python files, by name."""
    names = {dist.metadata["Name"] for dist in importlib.metadata.distributions() if dist.metadata["Name"]}
    found = [_installed(name) for name in sorted(names, key=str.lower)]
    return [one for one in found if one is not None and one.files]


def located(word: str) -> Package:
    """A folder, where the word has a slash or names no distribution; else an installed distribution, or the one that
    an importable package of that name is of. Raises BadInput."""
    if not ("/" in word or os.sep in word or word in (".", "..")):
        names = [word, *importlib.metadata.packages_distributions().get(word, ())]
        for name in names:
            package = _installed(name)
            if package is not None and package.files:
                return package
    if not os.path.isdir(word):
        raise BadInput(f"{word}: no folder, and no installed distribution that lists Python files")
    root = Path(word)
    files = [path for path in WorkTree(root).paths() if is_python(path) and not _LEFT_OUT.search(path)]
    if not files:
        raise BadInput(f"{word}: no Python file in it; expected the folder of a package or a repository")
    return Package(root.resolve().name, "", root, files)


def _installed(name: str) -> Package | None:
    try:
        dist = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [str(PurePosixPath(file)) for file in dist.files or ()]
    kept = sorted(
        path
        for path in files
        if path.endswith(".py") and not path.startswith(("..", "/")) and not _LEFT_OUT.search(path)
    )
    return Package(dist.metadata["Name"], dist.version, Path(str(dist.locate_file("."))), kept)


def built(packages: Iterable[Package], step: Any = lambda: None) -> tuple[dict[Path_, int], int]:
    """(path to frequency, files left out unparsed) of the public units of packages, as encode's parser finds them.

    The rule of names. A path is distribution / package / module / class, or `functions` / what it does. The first four
    are the words of the identifiers, in lower case (`HTTPServer` is `http server`); of a package in a package, all its
    names, joined by blanks; a package's own `__init__` is a module of the package's name. What a unit does is the first
    sentence of its docstring, else its name's words (features.py). Units whose names begin with an underscore are left
    out, and so are tests, documentation, examples and vendored copies; a module may have such a name, as many keep what
    they export in `_core.py`. A leaf's frequency is how often its path was found;
    above, the sum of what is below.
    """
    counts: Counter[Path_] = Counter()
    unparsed = 0
    for package in packages:
        top = _words(package.name)
        for path in package.files:
            parts = PurePosixPath(path).with_suffix("").parts
            try:
                nodes = file_nodes(path, (package.root / path).read_bytes())
            except OSError:
                nodes = []
            unparsed += not nodes or any(node.kind == "file" and node.status == "unparsed" for node in nodes)
            folders = parts[:-1] or parts[-1:]
            inside = " ".join(_words(part) for part in folders) or top
            module = inside.rpartition(" ")[2] if parts[-1] == "__init__" else _words(parts[-1])
            for owner, phrase in _public(nodes):
                counts[(top, inside, module, owner, phrase)] += 1
            step()
    return completed(counts), unparsed


def _public(nodes: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """(class in words or FUNCTIONS, what it does) of the public functions and methods."""
    for node in nodes:
        if node.kind not in UNITS or node.kind == "class":
            continue
        steps = node.qualname.partition("#")[0].split(".")
        if any(step.startswith("_") or not step.isidentifier() for step in steps):
            continue
        if node.kind == "function" and len(steps) > 1:
            continue  # inside another function
        features, _ = own_phrases(node)
        if features:
            yield (_words(steps[-2]) if len(steps) > 1 else FUNCTIONS), features[-1]


def _words(name: str) -> str:
    return " ".join(words_of(name)) or name.lower()


# ------------------------------------------------------------ search and sample


def run_search(text: str, *, ontology: str, top: int, embeddings: str, as_json: bool, quiet: bool, **_: Any) -> int:
    """The verb `ontology search`. Exit 1 where nothing is found."""
    if not text.strip():
        raise BadInput("TEXT: empty; say what to look for")
    tree = Ontology.load(ontology)
    index = open_index(tree, ontology, embeddings)
    hits = index.search([text], top)[0]
    if as_json:
        rows = [
            {"rank": rank, "score": round(hit.score, 6), "name": hit.name, "paths": [tree.path(node) for node in hit.nodes]}
            for rank, hit in enumerate(hits, 1)
        ]  # fmt: skip
        print(msgspec.json.encode({"query": text, "embeddings": index.how, **tree.counts(), "hits": rows}).decode())
        return 0 if hits else 1
    for hit in hits:
        print(f"{hit.score:.3f}  {one_line(hit.name)}")
        for node in hit.nodes:
            print(f"       {one_line(tree.label(node))}")
    if not quiet:
        print(f"{ontology}: {tree.told()}; {len(index.names):,} names of leaves compared by {index.how}", file=sys.stderr)  # fmt: skip
    return 0 if hits else 1


def run_sample(
    *,
    ontology: str,
    conditions: Sequence[int] = CONDITIONS,
    smoothing: float = TEMPERATURE,
    overlap: float = OVERLAP,
    tries: int = TRIES,
    seen: str | None = None,
    seed: int,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> int:
    """The verb `ontology sample`: a subtree by RejectSample. seen: a file of leaves' paths, one a line, as it is
    printed with --json or as the lines of another sample."""
    inputs = [ontology, seen] if seen else [ontology]
    options = {"conditions": list(conditions), "smoothing": smoothing, "overlap": overlap, "tries": tries, "seed": seed, "json": as_json}  # fmt: skip
    with _output(output, "ontology sample", options, inputs, overwrite) as out:
        if _complete(out, quiet):
            return 0
        tree = Ontology.load(ontology)
        marked = np.zeros(len(tree) + 1, bool)
        known = seen_leaves(tree, seen) if seen else []
        marked[known] = True
        sampler = Sampler(tree, smoothing, conditions, tree.sampled_roots())
        drawn = sampler.reject_sample(np.random.default_rng(seed), marked, overlap, tries)
        told = {**tree.counts(), "drawn": len(drawn.leaves), "overlap": round(drawn.overlap, 6), "tries": drawn.tries, "seen": len(known)}  # fmt: skip
        if as_json:
            out.write({**told, "seed": seed, "leaves": [tree.path(node) for node in drawn.leaves]})
        else:
            for line in subtree(tree, drawn):
                out.write_line(line.encode())
        out.finish(told, seed=seed)
    if not quiet:
        share = f"{drawn.overlap:.3f} of them seen, after {drawn.tries} draws"
        print(f"{ontology}: {tree.told()}; {len(drawn.leaves):,} leaves drawn, {share}", file=sys.stderr)
    return 0


def subtree(tree: Ontology, drawn: Drawn) -> Iterator[str]:
    """A draw as an indented outline, a name a line."""
    for node in drawn.nodes:
        yield "  " * (int(tree.depth[node]) - 1) + one_line(tree.names[tree.name[node]])


def seen_leaves(tree: Ontology, file: str) -> list[int]:
    """The nodes of the paths in a file: `a/b/c` a line, or what `sample --json` printed. Raises BadInput for a path
    that is not in the tree."""
    wanted: dict[str, str] = {}
    for number, line in read_lines(file):
        where = f"{file}:{number}"
        if line.lstrip().startswith(b"{"):
            try:
                paths = msgspec.json.decode(line, type=dict[str, Any]).get("leaves")
                wanted |= {told_path(msgspec.convert(one, list[str])): where for one in paths or ()}
            except (msgspec.DecodeError, TypeError) as error:
                raise BadInput(f"{where}: expected what `ontology sample --json` printed: {error}") from None
        else:
            try:
                wanted[line.decode().strip()] = where
            except UnicodeDecodeError as error:
                raise BadInput(f"{where}: expected UTF-8: {error.reason}") from None
    found = []
    for path, where in wanted.items():
        node = find(tree, path)
        if node is None:
            raise BadInput(f"{where}: {path}: not in the tree")
        found.append(node)
    return found


def find(tree: Ontology, told: str) -> int | None:
    """The node of a path on one line."""
    node = 0
    for name in told.split("/"):
        node = next((child for child in tree.children(node).tolist() if tree.names[tree.name[child]].replace("/", SLASH) == name), -1)  # fmt: skip
        if node < 0:
            return None
    return node
