"""The graph for people: its tree, and what it counts.

The tree has two readings (arXiv 2509.16198 §2.1): by files, folders down to methods; by features, what each part
does, through areas, categories and groups where a model or a plan named them, else along the files.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from typing import Any

import msgspec

from zerorepo.graph import CONFIDENCES, EDGES, KINDS, ROOT, SEMANTIC, UNITS, Graph, Node, one_line
from zerorepo.tree import expect_tree, family, preorder
from zerorepo.validate import components

LARGEST = 10
CYCLES_TOLD = 10


def run(what: str, graph: str, *, depth: int | None, by: str, as_json: bool, quiet: bool, **_: Any) -> int:
    """The verb."""
    loaded = Graph.load(graph)
    expect_tree(loaded, graph)
    if what == "stats":
        found = stats(loaded)
        if as_json:
            print(msgspec.json.encode(found).decode())
        else:
            _print_stats(found)
    elif as_json:
        print(msgspec.json.encode(tree(loaded, by, depth)).decode())
    else:
        _print_tree(loaded, by, depth)
    return 0


# ------------------------------------------------------------ the tree


def rows(graph: Graph, by: str = "files", depth: int | None = None) -> list[tuple[int, Node]]:
    """(depth, node) in preorder, the root at depth 0. by features: the semantic tree where there is one."""
    semantic = by == "features" and any(node.kind in SEMANTIC for node in graph.nodes)
    level = {ROOT: 0}
    above = {edge.dst: edge.src for edge in graph.edges if edge.type == "contains"}
    found = []
    for node in preorder(graph):
        if node.id != ROOT:
            level[node.id] = level[above[node.id]] + 1
            if (node.kind in SEMANTIC) != semantic:
                continue
        if depth is None or level[node.id] <= depth:
            found.append((level[node.id], node))
    return found


def tree(graph: Graph, by: str = "files", depth: int | None = None) -> dict[str, Any]:
    """The same, nested: id, kind, name, features, and what of status, span and reason there is; `children` where any."""
    made: dict[int, dict[str, Any]] = {}
    for level, node in rows(graph, by, depth):
        told: dict[str, Any] = {"id": node.id, "kind": node.kind, "name": node.name}
        told |= {
            key: value for key in ("features", "path", "span", "status", "reason") if (value := getattr(node, key))
        }
        if level:
            made[level - 1].setdefault("children", []).append(told)
        made[level] = told
    return made[0]


def label(node: Node, by: str) -> str:
    """What stands in a line of the tree: the name and what tells it apart, or the features."""
    unparsed = f" [unparsed: {node.reason}]" if node.status == "unparsed" else ""
    status = f" [{node.status}]" if node.status not in ("done", "unparsed") else ""
    if node.id == ROOT:
        return node.name or ROOT
    if by == "features":
        place = f"  ({node.path}{':' + node.qualname if node.qualname else ''})" if node.path else ""
        told = "; ".join(node.features) or node.name
        text = told if node.kind == "feature" or node.kind not in SEMANTIC else node.name
        return one_line(text + place) + status + unparsed
    if node.kind == "folder":
        return f"{one_line(node.name)}/"
    if node.kind in UNITS:
        return one_line(node.signature or f"{node.kind} {node.name}") + status
    return f"{one_line(node.name)}{status}{unparsed}"


def _print_tree(graph: Graph, by: str, depth: int | None) -> None:
    found = rows(graph, by, depth)
    if not sys.stdout.isatty():
        for level, node in found:
            print("  " * level + label(node, by))
        return
    from rich.text import Text
    from rich.tree import Tree

    from tenfold_shared.cli import print_table

    styles = {"folder": "bold", "repo": "bold", "area": "bold", "category": "bold", "file": "cyan", "class": "magenta", "feature": "green"}  # fmt: skip
    made: dict[int, Tree] = {}
    for level, node in found:
        style = "yellow" if node.status == "unparsed" else styles.get(node.kind, "")
        text = Text(label(node, by), style=style)
        made[level] = Tree(text) if not level else made[level - 1].add(text)
    print_table(made[0])


# ------------------------------------------------------------ counts


def stats(graph: Graph) -> dict[str, Any]:
    """Counts by kind, status and language, edges by type and confidence, unparsed files, largest files (lines), files
    most imported, and circles of imports (files, without lazy and typing imports)."""
    files = [node for node in graph.nodes if node.kind == "file"]
    edges: dict[str, Counter[str]] = defaultdict(Counter)
    for edge in graph.edges:
        edges[edge.type][edge.confidence] += 1
    kinds, status = Counter(node.kind for node in graph.nodes), Counter(node.status for node in graph.nodes)
    units = Counter(node.path for node in graph.nodes if node.kind in UNITS)
    largest = sorted((node for node in files if node.span), key=lambda node: (-node.span[1], node.path))[:LARGEST]
    importers: dict[str, set[str]] = defaultdict(set)
    for edge in graph.edges:
        if family(edge.type) == "imports":
            importers[edge.dst].add(edge.src)
    central = sorted(importers, key=lambda path: (-len(importers[path]), path))[:LARGEST]
    return {
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "kinds": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        "status": dict(sorted(status.items())),
        "types": {
            kind: {one: edges[kind][one] for one in CONFIDENCES if edges[kind][one]} for kind in EDGES if kind in edges
        },
        "languages": dict(_by_count(Counter(node.language or "Python" for node in files))),
        "lines": sum(node.span[1] for node in files if node.span),
        "with_doc": {
            kind: sum(bool(node.doc) for node in graph.nodes if node.kind == kind)
            for kind in ("file", *UNITS)
            if kinds[kind]
        },
        "unparsed": [
            {"path": node.path, "reason": node.reason, "language": node.language}
            for node in sorted(files, key=lambda n: n.path)
            if node.status == "unparsed"
        ],
        "largest": [{"path": node.path, "lines": node.span[1], "units": units[node.path]} for node in largest],
        "most_imported": [{"path": path, "importers": len(importers[path])} for path in central],
        "import_cycles": import_cycles(graph),
    }


def import_cycles(graph: Graph) -> list[list[str]]:
    """Files that import each other in a circle when they are imported, largest circle first."""
    paths = sorted(node.id for node in graph.nodes if node.kind == "file")
    number = {path: n for n, path in enumerate(paths)}
    after: list[list[int]] = [[] for _ in paths]
    for edge in graph.edges:
        if edge.type == "imports":
            after[number[edge.src]].append(number[edge.dst])
    found = [[paths[n] for n in members] for members in components(len(paths), after)]
    return sorted(found, key=lambda members: (-len(members), members))


def _by_count(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))


def _print_stats(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tenfold_shared.cli import print_table

    def shown(title: str, columns: list[str], lines: list[list[Any]]) -> None:
        if not lines:
            return
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="right" if column in _NUMBERS else "left")
        for line in lines:
            table.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(one_line(str(cell))) for cell in line))
        print_table(table)

    documented, types = found["with_doc"], found["types"]
    shown("nodes", ["kind", "count", "with a docstring"], [[kind, count, documented.get(kind, "")] for kind, count in found["kinds"].items()])  # fmt: skip
    shown("edges", ["type", *CONFIDENCES], [[kind, *(types[kind].get(one, 0) for one in CONFIDENCES)] for kind in types])  # fmt: skip
    shown("files", ["language", "count"], [[language, count] for language, count in found["languages"].items()])
    python = [one for one in found["unparsed"] if not one["language"] or one["reason"] != "not Python"]
    shown("unparsed", ["file", "reason"], [[one["path"], one["reason"]] for one in python])
    shown("largest", ["file", "lines", "units"], [[one["path"], one["lines"], one["units"]] for one in found["largest"]])  # fmt: skip
    shown("most imported", ["file", "importers"], [[one["path"], one["importers"]] for one in found["most_imported"]])
    cycles = found["import_cycles"]
    shown(f"circles of imports: {len(cycles)}", ["files", "which"], [[len(one), ", ".join(one[:8]) + (" …" if len(one) > 8 else "")] for one in cycles[:CYCLES_TOLD]])  # fmt: skip


_NUMBERS = frozenset(("count", "with a docstring", "lines", "units", "importers", "files", *CONFIDENCES))
