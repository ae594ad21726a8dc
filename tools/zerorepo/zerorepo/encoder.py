"""The verbs `encode` and `update`: where the files are, where the graph goes, what is said on the way.

The work is in encode.py and, where a model is given, lift.py.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.cli import Backend
from tenfold_shared.jsonl import Output
from tenfold_shared.progress import Progress
from zerorepo.encode import Change, encode, uncollected, update
from zerorepo.graph import SEMANTIC, Graph, Node, read_bytes
from zerorepo.modules import dotted_prefix
from zerorepo.sources import (
    Commit,
    Source,
    WorkTree,
    changed_between,
    is_python,
    is_script,
    language_of,
    resolve_commit,
)

if TYPE_CHECKING:
    from tenfold_shared.generate import Sampling

_EMPTY = hashlib.sha256(b"").hexdigest()
MOST_NAMED = 5  # files of another language named in one line


def run_encode(
    folder: str,
    *,
    rev: str | None,
    allow_unparsed: bool,
    batch_tokens: int,
    backend: Backend,
    sampling: Sampling | None,
    seed: int,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> int:
    """The verb `encode`. Exit 1 where a Python file could not be read, unless allowed."""
    source: Source = Commit(folder, rev) if rev else WorkTree(folder)
    options = {"root": _beside(folder, output), "rev": rev, **_asked(backend, sampling, seed, batch_tokens)}
    _refuse_other(output, overwrite)
    with _writer(output, "encode", options) as out:
        with Progress("encode", unit="files", quiet=quiet) as progress:
            graph = encode(source, dotted_prefix(folder), progress.update)
        if not any(node.kind == "file" and not node.language for node in graph.nodes):
            raise BadInput(f"{folder}: no Python file in it; expected a repository of Python code")
        if backend.model:
            from zerorepo.lift import lifted

            graph = lifted(graph, source, backend, sampling, seed, batch_tokens, out.journal, quiet=quiet)
        out.write_line(graph.dumps()[:-1])
        out.finish(_counts(graph), seed=seed if backend.model else None)
    _tell(graph, source.notes)
    if as_json:
        print(
            msgspec.json.encode(_counts(graph)).decode(), file=sys.stdout if output not in (None, "-") else sys.stderr
        )
    elif output not in (None, "-") and not quiet:
        count = _counts(graph)
        print(
            f"{output}: {count['files']:,} files, {count['units']:,} units, {count['edges']:,} edges", file=sys.stderr
        )
    return _status(graph, allow_unparsed)


def run_update(
    graph: str,
    *,
    root: str | None,
    commits: str | None,
    check: bool,
    allow_unparsed: bool,
    batch_tokens: int,
    drift: float,
    backend: Backend,
    sampling: Sampling | None,
    seed: int,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> int:
    """The verb `update`. Exit 1 with `--check` where the graph is out of step."""
    if graph == "-":
        raise BadInput("-: update replaces a file; give the graph's path")
    target = output or graph
    place = root_of(graph, root)
    if output and os.path.exists(output) and not overwrite and not os.path.samefile(output, graph):
        raise BadInput(f"{output}: exists; --overwrite replaces it")
    options = {"root": _beside(str(place), target), "range": commits, **_asked(backend, sampling, seed, batch_tokens)}
    if check:
        old, graph_now, source, change = _updated(graph, place, commits)
        return _checked(graph, old, graph_now, change, as_json)
    with _writer(target, "update", options) as out:  # holds the lock while the old graph is read
        old, graph_now, source, change = _updated(graph, place, commits)
        if backend.model or any(node.kind == "area" for node in old.nodes):
            from zerorepo.lift import evolved

            graph_now = evolved(
                old,
                graph_now, source, backend, sampling, seed, batch_tokens, drift,
                out.journal, quiet=quiet,
            )  # fmt: skip
        out.write_line(graph_now.dumps()[:-1])
        out.finish({**_counts(graph_now), **_changed(change)}, seed=seed if backend.model else None)
    touched = {*change.added, *change.modified}
    _tell(graph_now, source.notes, touched)
    if as_json:
        print(msgspec.json.encode({**_counts(graph_now), **_changed(change)}).decode())
    elif not quiet:
        print(f"{target}: {_said(change)}", file=sys.stderr)
    return _status(graph_now, allow_unparsed, touched)


def root_of(graph: str, root: str | None = None) -> Path:
    """The repository a graph is of: `root`, else what the manifest beside it says, else its own folder.

    A graph that is a link lies where the link leads, as its manifest does. Raises BadInput where that is no folder.
    """
    real = os.path.realpath(graph) if os.path.islink(graph) else graph
    place = Path(real).parent
    if root is None:
        try:
            manifest = msgspec.json.decode(Path(real + ".manifest.json").read_bytes())
            told = manifest["options"]["root"]
            place = place / told if isinstance(told, str) else place
        except (OSError, msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError, RecursionError):
            pass  # no manifest to go by: the graph lies in its repository
    else:
        place = Path(root)
    if not place.is_dir():
        raise BadInput(f"{place}: no such folder; --root names the repository that {graph} is of")
    return place


@uncollected()
def _updated(graph: str, root: Path, commits: str | None) -> tuple[Graph, Graph, Source, Change]:
    """(the graph as it was, the structural one as it is now, where that was read, what changed)"""
    old_graph = Graph.load(graph)
    before = _unlifted(old_graph)
    _expect_encoded(before, graph)
    prefix = dotted_prefix(root)
    if commits is None:
        source: Source = WorkTree(root)
        new, change = update(before, source, prefix)
        _expect_same(before, new, root, graph)
        return old_graph, new, source, change
    start, dots, end = commits.partition("..")
    if not dots or not start or not end or end.startswith("."):
        raise BadInput(f"--range {commits}: expected A..B, two commits")
    start, end = resolve_commit(root, start), resolve_commit(root, end)
    paths = changed_between(root, start, end)
    _expect_at(before, Commit(root, start), graph, commits)
    source = Commit(root, end)
    new, change = update(before, source, prefix, only=paths)
    _expect_same(before, new, root, graph)
    return old_graph, new, source, change


def _expect_encoded(graph: Graph, name: str) -> None:
    planned = next((node for node in graph.nodes if node.status not in ("done", "unparsed")), None)
    if planned is not None:
        raise BadInput(f"{name}: {planned.id}: status {planned.status}: a plan, not a graph of existing code; update needs what encode wrote")  # fmt: skip


def _expect_same(old: Graph, new: Graph, root: Path, name: str) -> None:
    """An update to a folder that is not the graph's repository would empty the graph: it is refused."""
    before, after = ([node for node in one.nodes if node.kind == "file"] for one in (old, new))
    if not any(not node.language for node in after):
        raise BadInput(f"{root}: no Python file in it; --root names the repository that {name} is of")
    known = {node.path for node in before}
    if os.path.exists(
        os.path.realpath(name) + ".manifest.json"
    ):  # the root is told, not guessed: all files may have moved
        known |= {node.sha256 for node in before} - {_EMPTY}
    if before and not any(node.path in known or node.sha256 in known for node in after):
        raise BadInput(f"{root}: holds none of the graph's files; --root names the repository that {name} is of, `zerorepo encode` maps another")  # fmt: skip


def _expect_at(graph: Graph, old: Commit, name: str, commits: str) -> None:
    """The graph must be of the range's first commit, in files that do not differ as well: else the result would be of
    neither."""
    start = commits.partition("..")[0]
    known = {node.path: node for node in graph.nodes if node.kind == "file"}
    there = old.paths()
    for path, data in old.read(there):
        node = known.get(path)
        if node is None and not is_python(path) and not language_of(path) and (isinstance(data, str) or not is_script(data)):  # fmt: skip
            continue  # a file without suffix that is no script
        if node is None or isinstance(data, str) or node.sha256 != hashlib.sha256(data).hexdigest():
            raise BadInput(f"{name}: {path}: not as in {start}; the graph is of another commit than --range begins at")
    for path in known.keys() - set(there):
        raise BadInput(f"{name}: {path}: is not in {start}; the graph is of another commit than --range begins at")


def _unlifted(graph: Graph) -> Graph:
    """What of a graph was parsed: the whole, and lift.py not loaded, where no model added to it."""
    if all(node.provenance in ("", "name", "doc") and node.kind not in SEMANTIC for node in graph.nodes):
        return graph
    from zerorepo.lift import structural

    return structural(graph)


def _checked(name: str, old: Graph, new: Graph, change: Change, as_json: bool) -> int:
    same = _unlifted(old).dumps() == new.dumps() and old.dumps() == read_bytes(name)
    if as_json:
        print(msgspec.json.encode({"in_step": same, **_changed(change)}).decode())
    elif not same:
        print(f"{name}: out of step: {_said(change)}; `zerorepo update {name}` mends it", file=sys.stderr)
    return 0 if same else 1


def _beside(folder: str, output: str | None) -> str:
    """The repository as seen from the graph's folder, so that both can be moved together."""
    here = Path(output).resolve().parent if output not in (None, "-") else Path.cwd()
    return os.path.relpath(Path(folder).resolve(), here)


def _refuse_other(output: str | None, overwrite: bool) -> None:
    if output in (None, "-") or overwrite or not os.path.exists(str(output)):
        return
    raise BadInput(f"{output}: exists; `zerorepo update {output}` brings it in step, --overwrite replaces it")


def _writer(output: str | None, verb: str, options: dict[str, Any]) -> Output:
    from zerorepo import __version__

    return Output(output, tool="zerorepo", version=__version__, verb=verb, options=options, overwrite=True)


def _asked(backend: Backend, sampling: Sampling | None, seed: int, batch_tokens: int) -> dict[str, Any]:
    """What decides a model's answers; nothing where no model is asked."""
    if not backend.model:
        return {}
    return {"model": list(backend.model), **msgspec.to_builtins(sampling), "seed": seed, "request_tokens": batch_tokens}


def _counts(graph: Graph) -> dict[str, Any]:
    files = [node for node in graph.nodes if node.kind == "file"]
    return {
        "files": len(files),
        "units": sum(node.kind in ("class", "function", "method") for node in graph.nodes),
        "edges": len(graph.edges),
        "unparsed": [node.path for node in files if node.status == "unparsed" and not node.language],
    }


def _changed(change: Change) -> dict[str, Any]:
    return {
        "added": change.added,
        "modified": change.modified,
        "removed": change.removed,
        "resolved": len(change.resolved),
    }


def _said(change: Change) -> str:
    parts = [f"{len(paths)} {word}" for word, paths in zip(("added", "modified", "removed"), change[:3], strict=True)]
    return f"files {', '.join(parts)}; dependencies of {len(change.resolved)} looked up again"


def _tell(graph: Graph, notes: Iterable[str], only: set[str] | None = None) -> None:
    """Name on stderr what is in the graph unread, and what was left out. only: the files an update read."""
    for note in notes:
        print(f"zerorepo: {note}", file=sys.stderr)
    foreign: dict[str, list[str]] = {}
    for node in sorted(graph.nodes, key=lambda node: node.id):
        if node.status != "unparsed" or (only is not None and node.path not in only):
            continue
        if node.language and node.reason == "not Python":
            foreign.setdefault(node.language, []).append(node.path)
        else:
            print(f"zerorepo: {node.path}: {node.reason}; kept as an unparsed node", file=sys.stderr)
    for language, paths in sorted(foreign.items()):
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        print(f"zerorepo: {language}, kept as unparsed nodes: {', '.join(paths[:MOST_NAMED])}{more}", file=sys.stderr)


def _status(graph: Graph, allowed: bool, only: set[str] | None = None) -> int:
    def failed(node: Node) -> bool:
        return node.status == "unparsed" and not node.language and (only is None or node.path in only)

    return 0 if allowed else int(any(failed(node) for node in graph.nodes))
