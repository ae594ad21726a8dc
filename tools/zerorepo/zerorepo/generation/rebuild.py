"""The verb `rebuild`: a graph back to code, whole or as stubs.

Above stripping.py (stubs of a repository at hand), rendering.py (stubs from the graph alone) and skeleton.py (text
surgery). Here is what is read, checked and written. Full code is composed of each file's frame and each unit's own
source, and must be what the graph was made of, unit by unit (arXiv 2602.02084 §2: rebuild, round-trip fidelity).
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tenfold_shared import BadInput
from zerorepo.encode import encode
from zerorepo.encoder import root_of
from zerorepo.generation.folder import MANIFEST, RPG, Folder, digest_of
from zerorepo.generation.skeleton import bodies_of, decoded, stubs_of, units_of, with_units
from zerorepo.graph import ROOT, UNITS, Graph, Node, one_line, read_bytes
from zerorepo.parse import parse_file
from zerorepo.sources import Commit, Held, Source, WorkTree, is_python
from zerorepo.validate import judged_path, problems

Record = dict[str, Any]
MOST_NAMED = 10
MOST_BYTES = 1 << 30  # of files beside the code


def run_rebuild(
    graph: str,
    *,
    code: str,
    root: str | None,
    rev: str | None,
    alone: bool,
    unsafe_no_sandbox: bool,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> int:
    """The verb. Exit 2 where a file or unit is not as the graph has it, 0 otherwise."""
    data = read_bytes(graph)
    loaded = Graph.loads(data, graph)
    judge(loaded, graph)
    if wrong := [one for one in problems(data, name=graph) if one.code != "not-canonical"]:
        raise BadInput(f"{graph}: {wrong[0].code}: {one_line(wrong[0].message)}; `zerorepo validate {graph}` names all that is wrong")  # fmt: skip
    if alone and (code == "full" or root or rev):
        raise BadInput("--alone: stubs from the graph alone; it goes with neither --code full, --root nor --rev")
    place = None if alone or (graph == "-" and not root) else root_of(graph, root)
    if place is not None and not root and not rev and code == "stubs" and not _is_of(loaded, place):
        if not quiet:
            print(f"zerorepo: {place} holds no file of {graph}; stubs are made from the graph alone", file=sys.stderr)
        place = None
    if place is None and code == "full":
        raise BadInput(f"{graph}: --code full needs the repository; name it with --root")
    source: Source | None = None
    if place is not None:
        source = Commit(place, rev) if rev else WorkTree(place)
    options = {
        "code": code, "root": str(place) if root else None, "rev": rev, "alone": alone,
        "unsafe_no_sandbox": unsafe_no_sandbox,
    }  # fmt: skip
    files: dict[str, bytes] = {}
    if source is not None:
        files = _read(loaded, source, graph)
    inputs = [{"path": str(graph), "sha256": hashlib.sha256(data).hexdigest()}]
    if files:
        inputs.append({"path": "files of the repository", "sha256": digest_of(files)})
    with Folder(output, verb="rebuild", options=options, inputs=inputs, overwrite=overwrite) as out:
        if out.finished is not None:
            if not quiet:
                print(f"zerorepo: {out.path}: complete already; nothing to do", file=sys.stderr)
            return 0
        if source is None:
            files, made, counts = _alone(loaded)
        elif code == "full":
            files, made, counts = composed(loaded, files), loaded, _counted(loaded)
        else:
            files, made, counts = _stripped(loaded, source, files, unsafe_no_sandbox)
        out.publish({**files, RPG: made.dumps()}, counts)
    if as_json:
        print(msgspec.json.encode(counts).decode())
    elif not quiet:
        _tell(str(output), counts)
    return 0


def judge(graph: Graph, name: str) -> None:
    """Raises BadInput where a path of the graph must not be written, before anything is."""
    alike: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for node in graph.nodes:
        if node.kind not in ("file", "folder", *UNITS):
            continue
        wrong = judged_path(node.path, True)
        if wrong is not None:
            raise BadInput(f"{name}: {node.id}: {wrong[1]}; nothing is written")
        if node.kind in UNITS:
            continue
        if node.path.casefold() in (RPG, MANIFEST):
            raise BadInput(f"{name}: {node.id}: stands where rebuild writes its own {node.path}")
        folded = unicodedata.normalize("NFC", node.path).casefold()
        other = alike.setdefault(folded, node.path)
        if other != node.path:
            raise BadInput(f"{name}: {node.id}: differs from {other} in case alone; not every file system holds both")
        kinds[node.path] = node.kind
    for path in kinds:
        above = path.rpartition("/")[0]
        while above:
            if kinds.get(above) == "file":
                raise BadInput(f"{name}: {path}: lies in {above}, which is a file")
            above = above.rpartition("/")[0]


def composed(graph: Graph, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Every file of a repository, put together from its frame and its units' own source.

    Raises BadInput where what comes out is not what went in.
    """
    found = dict(files)
    for node in graph.nodes:
        if node.kind != "file" or not is_python(node.path) or node.status == "unparsed":
            continue
        try:
            text, encoding = decoded(files[node.path])
            leaves = [unit.qualname for unit in units_of(text).values() if unit.is_leaf]
            bodies = bodies_of(text)
            whole = with_units(stubs_of(text), {name: bodies[name] for name in leaves}).encode(encoding)
        except ValueError as error:
            raise BadInput(f"{node.path}: {error}") from None
        if whole != files[node.path]:
            raise BadInput(f"{node.path}: cannot be put together from its units")
        found[node.path] = whole
    return found


# ------------------------------------------------------------ the repository at hand


def _is_of(graph: Graph, place: Path) -> bool:
    return any(node.kind == "file" and (place / node.path).is_file() for node in graph.nodes)


def _read(graph: Graph, source: Source, name: str) -> dict[str, bytes]:
    """All files, code and other. Raises BadInput naming those that are not as the graph has them."""
    known = {node.path: node for node in graph.nodes if node.kind == "file"}
    units: dict[str, list[Node]] = {path: [] for path in known}
    for node in graph.nodes:
        if node.kind in UNITS:
            units.setdefault(node.path, []).append(node)
    paths = source.paths()
    files: dict[str, bytes] = {}
    wrong: list[str] = []
    for path, data in source.read(paths):
        if isinstance(data, str):
            wrong.append(f"{path}: {data}")
        elif path not in known:
            if is_python(path):
                wrong.append(f"{path}: not in the graph")
            files[path] = data
        elif known[path].sha256 != hashlib.sha256(data).hexdigest():
            wrong += _differing(path, data, units[path]) or [f"{path}: differs outside its classes and functions"]
        else:
            wrong += _differing(path, data, units[path])
            files[path] = data
    wrong += [f"{path}: not there" for path in known if path not in paths]
    if wrong:
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise BadInput(f"{name}: not as the graph has it: {'; '.join(wrong[:MOST_NAMED])}{more}; `zerorepo update {name}` brings it in step, --rev reads a commit")  # fmt: skip
    for path, data in _others(source, set(paths)):
        if path in (RPG, MANIFEST, f"{RPG}.{MANIFEST}"):
            continue  # a graph that lies in its repository
        trouble = judged_path(path, True)
        if trouble is not None:
            raise BadInput(f"{path}: {trouble[1]}")
        files[path] = data
    return files


def _differing(path: str, data: bytes, nodes: Iterable[Node]) -> list[str]:
    """The units of a file that are not as the graph has them."""
    if not is_python(path):
        return []
    there = {node.qualname: node.sha256 for node in parse_file(path, data) if node.kind in UNITS}
    told = {node.qualname: node.sha256 for node in nodes}
    return [f"{path}:{name}" for name in sorted(there.keys() | told.keys()) if there.get(name) != told.get(name)]


def _others(source: Source, known: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The files that hold no code. Raises BadInput where one cannot be read, or they are too many to hold."""
    every: Source = (
        Commit(source.root, source.name, True) if isinstance(source, Commit) else WorkTree(source.root, True)
    )
    size = 0
    for path, data in every.read([path for path in every.paths() if path not in known]):
        if isinstance(data, str):
            raise BadInput(f"{path}: {data}")
        size += len(data)
        if size > MOST_BYTES:
            raise BadInput(f"{source.root}: files beside the code have more than {MOST_BYTES >> 20} MiB; rebuild holds all of them")  # fmt: skip
        yield path, data


def _stripped(
    graph: Graph, source: Source, files: dict[str, bytes], unsafe: bool
) -> tuple[dict[str, bytes], Graph, Record]:
    from tenfold_shared.sandbox import run
    from zerorepo.generation.stripping import strip

    code = {node.path for node in graph.nodes if node.kind == "file"}
    packages = {path.rpartition("/")[0] for path in code if path.endswith("__init__.py")}
    data = {
        path: content
        for path, content in files.items()
        if path not in code and any(path.startswith(f"{folder}/") for folder in packages if folder)
    }
    try:
        found = strip(graph, Held({**files}), run=run, unsafe=unsafe, others=data)
    except ValueError as error:
        raise BadInput(f"{source.root}: {error}") from None
    counts = {
        **_counted(found.graph),
        "stubbed": len(found.stubbed),
        "kept": dict(sorted(Counter(found.kept.values()).items())),
        "kept_at_import": sorted(one for one, why in found.kept.items() if why == "import"),
        "whole": found.whole,
    }
    return {**files, **found.files}, found.graph, counts


# ------------------------------------------------------------ the graph alone


def _alone(graph: Graph) -> tuple[dict[str, bytes], Graph, Record]:
    from zerorepo.generation.rendering import rendered
    from zerorepo.generation.stripping import joined

    found = rendered(graph)
    prefix = graph.by_id[ROOT].name if ROOT in graph.by_id else ""
    new = encode(Held(found.files), prefix)
    units = {node.id for node in new.nodes if node.kind in ("function", "method")}
    inner = {}
    for node in graph.nodes:
        if node.kind in UNITS and node.id not in units:
            parts = node.qualname.split(".")
            above = (f"{node.path}:{'.'.join(parts[:n])}" for n in range(1, len(parts)))
            if (leaf := next((one for one in above if one in units), None)) is not None:
                inner[node.id] = leaf
    made = joined(graph, new, units, inner)
    return found.files, made, {**_counted(made), "stubbed": len(units), "left_out": found.left}


# ------------------------------------------------------------ telling


def _counted(graph: Graph) -> Record:
    return {
        "files": sum(node.kind == "file" for node in graph.nodes),
        "units": sum(node.kind in UNITS for node in graph.nodes),
    }


def _tell(output: str, counts: Record) -> None:
    for path, why in {**counts.get("whole", {}), **counts.get("left_out", {})}.items():
        print(f"zerorepo: {path}: {why}; {'left as it is' if 'whole' in counts else 'left out'}", file=sys.stderr)
    told = f"{output}: {counts['files']:,} files, {counts['units']:,} units"
    if "stubbed" in counts:
        told += f", {counts['stubbed']:,} to be written"
    for why, count in counts.get("kept", {}).items():
        told += f", {count:,} {_WHY[why]}"
    print(told, file=sys.stderr)


_WHY = {
    "import": "kept as an import runs them",
    "empty": "with nothing to write in them",
    "file": "in files left as they are",
    "outside": "outside the package",
}
