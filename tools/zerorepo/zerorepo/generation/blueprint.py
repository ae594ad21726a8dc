"""Of a design the files and the graph: what `zerorepo design` writes.

Below implementation.py. The code's own graph comes from encode, as that of any repository; the semantic tree, its features
bound to units by path and qualname, data flow and order of files are laid over it. What is not designed yet stays proposed.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from zerorepo.encode import encode
from zerorepo.generation.auxiliary import pyproject, readme
from zerorepo.generation.designing import ROLES, Design, Refused, Report
from zerorepo.generation.importable import Project
from zerorepo.generation.layout import packages_of
from zerorepo.graph import ROOT, UNITS, Edge, Graph, Node, one_line
from zerorepo.lift import MARK, grounded
from zerorepo.sources import Held
from zerorepo.validate import problems

_NOT_WRITTEN = ("abstractmethod", "overload")


class Skeleton(NamedTuple):
    """files: path to bytes, the graph's own file left out."""

    files: dict[str, bytes]
    graph: Graph
    report: Report


def skeleton_of(design: Design) -> Skeleton:
    """The files and the graph of what is designed so far. Raises Refused where they are not sound."""
    files = {
        path: source.render().encode()
        for path, source in design.sources.items()
        if source.pieces or _given_up(design, path)
    }
    for path in packages_of([*files, *(f"{folder}/_" for folder in design.folders.of.values() if folder)]):
        files.setdefault(path, b"")
    for path, data in files.items():
        _expect_compiles(path, data)
    graph = _graph(design, files)
    found = problems(graph.dumps())
    if found:
        raise Refused(f"the design is not sound: {'; '.join(one_line(one.message) for one in found[:3])}")
    _tell(design, graph)
    project = Project(files, design.sources, {})
    about = design.proposal
    listed = {
        area: (
            design.folders.of.get(area, ""),
            [path for path in design.order.get(area, ()) if path in files],
            len(leaves),
        )
        for area, leaves in about.leaves.items()
    }
    flows = [f"{edge.source} → {edge.target}: {edge.data_id} ({edge.data_type})" for edge in design.edges]
    more = {
        "pyproject.toml": pyproject(about.name, about.purpose, files, project.third_party()),
        "README.md": readme(about.name, about.purpose, listed, flows),
    }
    return Skeleton({**files, **more}, graph, design.report)


def _given_up(design: Design, path: str) -> bool:
    return any(design.files.of.get(leaf) == path for leaf in design.failed)


def _graph(design: Design, files: Mapping[str, bytes]) -> Graph:
    code = encode(Held(files))
    nodes = [_with_status(node, code) for node in code.nodes if node.id != ROOT]
    about = design.proposal
    nodes.append(Node(id=ROOT, kind="repo", name=about.name, doc=about.purpose, path=ROOT))
    bound = {leaf: (path, unit) for path, source in design.sources.items() for leaf, unit in source.units.items()}
    above = {edge.dst: edge.src for edge in about.contains}
    placed: dict[str, set[str]] = {}  # area, category or group to the folders of its files
    open_: set[str] = set()
    area_of = {MARK + leaf: area for area, leaves in about.leaves.items() for leaf in leaves}
    for node in about.nodes:
        if node.id not in area_of:
            continue
        leaf = node.id[len(MARK) :]
        path, qualname = bound.get(leaf, ("", ""))
        status = "designed" if qualname else "proposed"
        if not qualname and leaf in design.failed:
            path = design.files.of.get(leaf) or _home(design, area_of[node.id], files)
            status = "failed" if path else "proposed"  # validate wants a place of whatever is more than a wish
        nodes.append(msgspec.structs.replace(node, path=path, qualname=qualname, status=status))
        here = node.id
        while here in above:
            here = above[here]
            if path:
                placed.setdefault(here, set()).add(path.rpartition("/")[0])
            if status == "proposed":
                open_.add(here)
    for node in about.nodes:
        if node.id not in area_of:
            scopes = grounded(placed[node.id]) if node.id in placed and node.kind != "feature" else []
            status = "proposed" if node.id in open_ else "designed"
            nodes.append(msgspec.structs.replace(node, scopes=scopes, status=status))
    edges = [*code.edges, *about.contains]
    for one in design.edges:
        payload = {"data_id": one.data_id, "data_type": one.data_type, "transformation": one.transformation}
        edges.append(Edge(src=MARK + one.source, dst=MARK + one.target, type="data_flow", payload=payload))
    for order in design.order.values():
        there = [path for path in order if path in files]
        edges += [Edge(src=one, dst=other, type="order") for one, other in itertools.pairwise(there)]
    return Graph(nodes, edges)


def _home(design: Design, area: str, files: Mapping[str, bytes]) -> str:
    """A file that stands for the area of a feature that has none of its own."""
    folder = design.folders.of.get(area, "")
    own = f"{folder}/__init__.py" if folder else ""
    return own if own in files else next((path for path in design.order.get(area, ()) if path in files), "")


def _tell(design: Design, graph: Graph) -> None:
    report = design.report
    leaves = {MARK + leaf for own in design.proposal.leaves.values() for leaf in own}
    states = {node.id: node.status for node in graph.nodes if node.id in leaves}
    report.covered = sum(status == "designed" for status in states.values())
    report.uncovered = sorted(key for key, status in states.items() if status != "designed")
    roles = tuple(f"{role} " for role in ROLES)  # of an asker that has served other stages too
    report.refused = {key: why for key, why in sorted(design.asker.refused.items()) if key.startswith(roles)}
    report.fabricated = dict(sorted(design.fabricated.items()))
    report.crowded = design.files.crowded()
    area_of = design.files.owner
    for source in design.bases:
        users = {
            area_of[edge.src]
            for edge in graph.edges
            if edge.type.startswith("imports") and edge.dst == source.path and edge.src in area_of
        }
        report.bases[source.path] = sorted(users)


def _with_status(node: Node, code: Graph) -> Node:
    """Stubs are to be written; what holds some is so too; the rest is done."""
    if node.kind not in ("file", *UNITS):
        return node
    inside = [one for one in _below(node, code) if one.kind in ("function", "method") and not _abstract(one, code)]
    return msgspec.structs.replace(node, status="stubbed") if inside else node


def _below(node: Node, code: Graph) -> list[Node]:
    found, stack = [], [node]
    while stack:
        one = stack.pop()
        found.append(one)
        stack += code.children(one.id)
    return found


def _abstract(node: Node, code: Graph) -> bool:
    """A function with nothing to write: it is there to be overridden, or for the type checker."""
    above = code.parent(node.id)
    protocol = (
        above is not None
        and above.kind == "class"
        and any(base.rpartition(".")[2] == "Protocol" for base in above.bases)
    )
    return protocol or any(mark.rpartition(".")[2] in _NOT_WRITTEN for mark in node.decorators)


def _expect_compiles(path: str, data: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"{path}: the interfaces together are not Python: {error}") from None
