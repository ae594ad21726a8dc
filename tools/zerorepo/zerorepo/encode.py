"""A repository to its graph, and a graph to the one of a changed repository.

`encode` parses every file and resolves every name. `update` parses the files whose bytes differ and
resolves again only where a changed name is mentioned, yet gives the same bytes: both end in the same
functions over the same nodes (parse.py, resolve.py), and what `update` keeps it keeps because nothing it
depends on has changed. The paper's evolution step (arXiv 2602.02084 §2: delete, modify, insert from a
diff) re-parses affected files alone; this is its counterpart without a model.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

from zerorepo.graph import ROOT, Edge, Graph, Import, Node, file_of, mark_of
from zerorepo.modules import module_name
from zerorepo.parse import foreign_file, parse_file
from zerorepo.resolve import Program, contains
from zerorepo.sources import Source, is_python, is_script, language_of


class Change(NamedTuple):
    """What an update did: files by path."""

    added: list[str]
    modified: list[str]
    removed: list[str]
    resolved: list[str]  # files whose edges were computed again


def encode(source: Source, prefix: str = "", step: Callable[[], object] = lambda: None) -> Graph:
    """The graph of a repository. prefix: dotted name of the root where it is a package itself
    (modules.dotted_prefix); step is called once a file."""
    nodes: list[Node] = []
    with uncollected():
        for path, data in source.read(source.paths()):
            nodes += file_nodes(path, data)
            step()
        program = Program(nodes, prefix)
        edges = [edge for path in program.units for edge in program.edges_of(path)]
        return _assembled(nodes, edges, prefix)


def update(graph: Graph, source: Source, prefix: str = "", only: Sequence[str] | None = None) -> tuple[Graph, Change]:
    """The graph `encode(source)` gives, from one of an earlier state; and what changed.

    only: the paths that may differ, where the caller knows them (a commit range); else every file is
    read and its sha256 compared. `graph` must be a structural one as `encode` made it.
    """
    before = {node.path: node for node in graph.nodes if node.kind == "file"}
    paths = source.paths()
    present = set(paths)
    changed: dict[str, list[Node]] = {}
    wanted = paths if only is None else [path for path in only if path in present]
    for path, data in source.read(wanted):
        old = before.get(path)
        if old is None or isinstance(data, str) or not old.sha256 or hashlib.sha256(data).hexdigest() != old.sha256:
            nodes = file_nodes(path, data)
            if nodes or old is not None:
                changed[path] = nodes
        # `only` may name files that did not change after all; they are read and found alike
    if only is None:
        removed = [path for path in before if path not in present]
    else:
        removed = [path for path in only if path in before and path not in present]
    removed += [path for path, nodes in changed.items() if not nodes]
    gone = set(removed)
    kept = [
        node
        for node in graph.nodes
        if node.kind not in ("repo", "folder") and node.path not in changed and node.path not in gone
    ]
    fresh = [node for nodes in changed.values() for node in nodes]
    nodes = [*kept, *fresh]
    old_prefix = graph.by_id[ROOT].name if ROOT in graph.by_id else ""
    program = Program(nodes, prefix)
    if old_prefix != prefix:
        stale = set(program.units)
    else:
        moved = [*gone, *(path for path, found in changed.items() if found and path not in before)]
        names = _changed_names(graph, kept, changed, gone, moved)
        stale = {path for path, found in changed.items() if found}
        if names is None:
            stale = set(program.units)
        elif names:
            stale |= _mentioning(kept, names) | _below(kept, moved)
    edges = [
        edge
        for edge in graph.edges
        if edge.type != "contains" and (src := file_of(edge.src)) not in stale and src not in gone
    ]
    resolved = sorted(path for path in stale if path in program.units)
    edges += [edge for path in resolved for edge in program.edges_of(path)]
    added = [path for path, found in changed.items() if found and path not in before]
    modified = [path for path, found in changed.items() if found and path in before]
    return _assembled(nodes, edges, prefix), Change(added, modified, sorted(gone), resolved)


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for reference cycles meanwhile: syntax trees and nodes have none, and each search walks all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def file_nodes(path: str, data: bytes | str) -> list[Node]:
    """The nodes of one file; none where it turns out to hold no code."""
    if is_python(path):
        return parse_file(path, data)
    language = language_of(path)
    if language:
        return [foreign_file(path, language, data)]
    if isinstance(data, str) or not is_script(data):
        return []
    return parse_file(path, data)


def _assembled(nodes: list[Node], edges: list[Edge], prefix: str) -> Graph:
    paths = [node.path for node in nodes if node.kind == "file"]
    hierarchy = contains(paths, nodes)
    files = set(paths)
    folders = [
        Node(id=edge.dst, kind="folder", name=edge.dst.rpartition("/")[2], path=edge.dst)
        for edge in hierarchy
        if ":" not in edge.dst and edge.dst not in files
    ]
    root = Node(id=ROOT, kind="repo", name=prefix, path=ROOT)
    return Graph([root, *folders, *nodes], [*hierarchy, *edges])


# ------------------------------------------------------------ what a change touches


def _changed_names(
    graph: Graph, kept: list[Node], changed: dict[str, list[Node]], gone: set[str], moved: list[str]
) -> set[str] | None:
    """Every name whose meaning may differ after the change, wherever it is mentioned; None where it may be any.

    moved: files added or removed.

    A name is touched where what a file says of it (`_interface`) differs; and so is, in turn, a name that
    another definition binds to a touched one: an import under a new name, a subclass and its members, a
    function by what it returns.
    """
    touched: set[str] = set()
    old_nodes = [node for node in graph.nodes if node.path in changed or node.path in gone]
    old, new = _interface(old_nodes), _interface(chain.from_iterable(changed.values()))
    for key in old.keys() | new.keys():
        was, now = old.get(key), new.get(key)
        if was is None or now is None or was.facts != now.facts:
            touched.add(key[1])
            touched |= (was or _NOTHING).also | (now or _NOTHING).also
            if key[1] in _UNNAMED:
                touched.add(_owner(key[0]))
    paths = {part for path in moved for part in (*path.removesuffix(".py").split("/"), module_name(path))}
    touched |= paths
    for folder in _packages(moved):  # it is, or is no longer, where absolute names of what lies in it begin
        inside = folder + "/" if folder else ""
        for node in chain(kept, old_nodes, *changed.values()):
            if node.kind == "file" and node.path.startswith(inside):
                paths.add(node.path[len(inside) :].partition("/")[0].removesuffix(".py"))
        touched |= paths
    # A star names nothing that passes through it. What it lets through is what its target exports.
    files = {node.id: node for node in old_nodes if node.kind == "file"}
    for path, found in changed.items():
        if not found or path not in files:
            continue  # moved: whoever reaches it mentions its path, or has it behind a star, which the next lines see
        before, after = files[path], found[0]
        if _stars(before) != _stars(after):
            return None
        if before.exports != after.exports:
            if before.exports is None or after.exports is None:
                return None
            touched |= set(before.exports) ^ set(after.exports)
    below = _below(kept, moved)
    for node in kept:
        if node.kind == "file" and any(
            node.path in below or not paths.isdisjoint(star.module.split(".")) for star in _stars(node)
        ):
            return None
    # An unparsed file that now parses, or the reverse, is a module either way; its names are in the interfaces.
    if not touched:
        return touched
    every = [*_interface(kept).items(), *new.items()]
    while True:
        more = {
            name
            for (_, key), entry in every
            if not entry.mentions.isdisjoint(touched)
            for name in (key, *entry.also)
            if name not in touched
        }
        if not more:
            return touched
        touched |= more


def _stars(file: Node) -> list[Import]:
    return [one for one in file.imports if one.name == "*"]


def _packages(moved: Iterable[str]) -> list[str]:
    """The folders that became a package or ceased to be one."""
    return [path.rpartition("/")[0] for path in moved if path.rpartition("/")[2] == "__init__.py"]


def _below(nodes: Iterable[Node], moved: Iterable[str]) -> set[str]:
    """The files whose own import roots, or the targets of whose dots, changed: those inside such folders."""
    folders = [folder + "/" if folder else "" for folder in _packages(moved)]
    if not folders:
        return set()
    return {node.path for node in nodes if node.kind == "file" and node.path.startswith(tuple(folders))}


class _Entry(NamedTuple):
    """What a file says of one name. `mentions`: names it rests on; `also`: names that go with it, of a class its members."""

    facts: tuple[object, ...]
    mentions: frozenset[str]
    also: frozenset[str] = frozenset()


_NOTHING = _Entry((), frozenset())


def _interface(nodes: Iterable[Node]) -> dict[tuple[str, str], _Entry]:
    """(id of a scope, name) to what other files can learn of that name."""
    found: dict[tuple[str, str], _Entry] = {}
    members: dict[str, set[str]] = {}
    classes: list[Node] = []
    for node in nodes:
        if node.kind == "file":
            found[node.id, "*"] = _Entry((tuple(node.exports or ()), node.exports is None), frozenset())
            for place, one in enumerate(node.imports):
                name = one.alias or one.name or one.module.partition(".")[0]
                parts = frozenset((*one.module.split("."), one.name)) - {"", "*"}
                key = (f"{node.id}>{one.scope}", name if name != "*" else f"*{place}")
                earlier = found.get(key, _NOTHING)
                found[key] = _Entry((*earlier.facts, one), earlier.mentions | parts)
            for name, held in node.names.items():
                found[node.id + "=", name] = _Entry((held,), _parts(held))
            continue
        above = node.id.rpartition(".")[0]
        members.setdefault(above, set()).add(node.name)
        if node.kind == "class":
            classes.append(node)
            continue
        marks = tuple(mark for mark in node.decorators if mark_of(mark) in _TELLING)
        found[node.id, node.name] = _Entry((node.kind, node.returns, marks), _parts(node.returns))
    for node in classes:
        also = frozenset((*members.get(node.id, ()), *node.names))
        found[node.id, node.name] = _Entry((tuple(node.bases),), frozenset().union(*map(_parts, node.bases)), also)
        for name, held in node.names.items():
            found[node.id + "=", name] = _Entry((held,), _parts(held))
    return found


# Members that run when a class or an instance is called: who calls it mentions the class alone.
_UNNAMED = {"__init__", "__new__", "__post_init__", "__call__"}
_TELLING = {"property", "cached_property", "abstractproperty", "getter", "setter", "deleter", "overload", "register"}


def _owner(scope: str) -> str:
    """Name of the class whose member has this scope in `_interface`: a method's id, or its class's with `=`."""
    qualname = scope.rpartition(":")[2]
    inside = qualname[:-1] if qualname.endswith("=") else qualname.rpartition(".")[0]
    return inside.rpartition(".")[2].partition("#")[0]


def _parts(text: str) -> frozenset[str]:
    return frozenset(text.replace("()", "").split(".")) if text else frozenset()


def _mentioning(nodes: Iterable[Node], names: set[str]) -> set[str]:
    """Files that mention one of the names anywhere."""
    found: set[str] = set()
    seen: dict[str, bool] = {}
    for node in nodes:
        if node.path in found:
            continue
        texts = chain(node.uses, node.bases, (node.returns,), node.names.values())
        if node.kind == "file":
            texts = chain(texts, (one.module for one in node.imports), (one.name for one in node.imports))
        for text in texts:
            hit = seen.get(text)
            if hit is None:
                bare = text.lstrip("@").replace("()", "")
                hit = seen[text] = not names.isdisjoint(bare.split("."))
            if hit:
                found.add(node.path)
                break
    return found
