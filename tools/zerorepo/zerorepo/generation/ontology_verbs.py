"""The verbs of `zerorepo ontology`: import EpiCoder's meta-features, build a tree from Python packages, search and sample one.

The tree itself is ontology.py.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output, Source, read_lines, read_text
from tenfold_shared.progress import Progress
from zerorepo.encode import file_nodes
from zerorepo.features import own_phrases, words_of
from zerorepo.generation.ontology import DEEPEST, Ontology, Path_, completed, find, open_index, told_path, write
from zerorepo.generation.sampling import CONDITIONS, OVERLAP, TEMPERATURE, TRIES, Drawn, Sampler
from zerorepo.graph import UNITS, Node, one_line
from zerorepo.sources import WorkTree, is_python

JOINT = "---"  # between the names of a path in EpiCoder's table of frequencies
FUNCTIONS = "functions"  # the group of a module's functions that stand in no class
_LEFT_OUT = re.compile(r"(?:^|/)(?:tests?|testing|docs?|examples?|benchmarks?|_vendor|vendor(?:ed)?|extern|conftest\.py|test_[^/]*|[^/]*_test\.py)(?:/|$)")  # fmt: skip


def _output(path: str | None, verb: str, options: dict[str, Any], inputs: Sequence[str], overwrite: bool) -> Output:
    from zerorepo import __version__

    source = Source(list(inputs), None) if inputs else None
    return Output(path, tool="zerorepo", version=__version__, verb=verb, options=options, source=source, overwrite=overwrite)  # fmt: skip


def _complete(out: Output, quiet: bool) -> bool:
    if out.finished and not quiet:
        print(f"zerorepo: {out.path}: complete already; nothing to do", file=sys.stderr)
    return out.finished


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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a number beyond 64 bits; broken further on
            raise BadInput(f"{path}: {error}") from None
        if not isinstance(whole, dict):
            raise BadInput(f"{path}:1:1: expected an object from paths to frequencies") from None
        for key, value in whole.items():
            if not isinstance(value, dict) or type(value.get("frequency")) is not int:
                raise BadInput(f"{path}: {key!r}: expected an object with a frequency, a whole number; got {_short(value)}") from None  # fmt: skip
        raise BadInput(f"{path}: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
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
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace").decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
            except (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError) as error:
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
