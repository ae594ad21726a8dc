"""The tree of a graph, read from the root down: what show, export and reference walk."""

from __future__ import annotations

from tenfold_shared import BadInput
from zerorepo.graph import IMPORTS, ROOT, SEMANTIC, UNITS, Graph, Node


def expect_tree(graph: Graph, name: str) -> None:
    """Raises BadInput where containment is no tree below the root: what follows walks it."""
    above: dict[str, str] = {}
    wrong = "" if ROOT in graph.by_id else "no node `.`"
    if len(graph.by_id) < len(graph.nodes):
        wrong = "two nodes have one id"
    for edge in graph.edges:
        if edge.src not in graph.by_id or edge.dst not in graph.by_id:
            wrong = f"{edge.src} -{edge.type}-> {edge.dst}: an end is no node"
        elif edge.type == "contains" and above.setdefault(edge.dst, edge.src) != edge.src:
            wrong = f"{edge.dst}: two nodes contain it"
    if not wrong and len(preorder(graph)) < len(graph.nodes):
        wrong = "not every node hangs below the root"
    if wrong:
        raise BadInput(f"{name}: {wrong}; `zerorepo validate {name}` names everything that is")


def preorder(graph: Graph) -> list[Node]:
    """The nodes below the root and itself, each before what it contains; folders before files, then by place."""
    found: list[Node] = []
    stack = [graph.by_id[ROOT]]
    seen = {ROOT}
    while stack:
        node = stack.pop()
        found.append(node)
        inside = sorted(graph.children(node.id), key=lambda one: (one.kind != "folder", one.kind in SEMANTIC, one.span if one.kind in UNITS else [], one.id))  # fmt: skip
        fresh = [one for one in inside if one.id not in seen]
        seen.update(one.id for one in fresh)
        stack += reversed(fresh)
    return found


def above_of(node_id: str) -> str:
    path, colon, qualname = node_id.partition(":")
    if colon:
        outer = qualname.rpartition(".")[0]
        return f"{path}:{outer}" if outer else path
    return path.rpartition("/")[0] or ROOT


def family(kind: str) -> str:
    return "imports" if kind in IMPORTS else kind
