"""What differs between two graphs, and the three-way merge of two that come from one.

A delta (`rpg-delta/1`) takes one graph to another byte for byte; it can be turned round. `merge` joins two
changed graphs node by node and field by field, edges as a set. Both know nothing of source code. The verb
`merge` adds what source code decides: dependency edges are a function of the facts on nodes (resolve.py), so
where both sides held exactly those edges they are looked up again over the merged nodes; else a call that one
branch wrote of a function that the other branch added would be missing from both sides.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.jsonl import write_atomic
from zerorepo.graph import IMPORTS, ROOT, UNITS, Edge, Graph, Node, file_of, read_bytes
from zerorepo.publish import publish
from zerorepo.validate import edge_name

SCHEMA = "rpg-delta/1"
_DEPENDENCIES = frozenset((*IMPORTS, "invokes", "inherits", "tests"))  # what resolve.py makes
_FIELDS = tuple(name for name in Node.__struct_fields__ if name != "id")
_DEFAULTS: dict[str, Any] = msgspec.to_builtins(Node(id="", kind=""))

Key = tuple[str, str, str, str]  # of an edge: src, dst, type, name


class Changed(msgspec.Struct, forbid_unknown_fields=True):
    """A node in both graphs. fields: name to (value before, value after); null is the schema's default."""

    fields: dict[str, tuple[Any, Any]]
    id: str


class Nodes(msgspec.Struct, forbid_unknown_fields=True):
    added: list[Node]
    changed: list[Changed]
    removed: list[Node]


class Edges(msgspec.Struct, forbid_unknown_fields=True):
    """An edge whose confidence or payload changed is removed and added."""

    added: list[Edge]
    removed: list[Edge]


class Delta(msgspec.Struct, forbid_unknown_fields=True):
    """All lists sorted, as in the file of a graph."""

    edges: Edges
    nodes: Nodes
    schema: str = SCHEMA

    def __bool__(self) -> bool:
        return bool(
            self.edges.added or self.edges.removed or self.nodes.added or self.nodes.changed or self.nodes.removed
        )

    def reversed(self) -> Delta:
        """The delta of the way back."""
        changed = [Changed({f: (new, old) for f, (old, new) in c.fields.items()}, c.id) for c in self.nodes.changed]
        return Delta(Edges(self.edges.removed, self.edges.added), Nodes(self.nodes.removed, changed, self.nodes.added))

    def dumps(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def loads(cls, data: bytes, name: str = "delta") -> Delta:
        """Raises BadInput where the bytes are no delta."""
        try:
            found = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{name}: not an {SCHEMA}: {error}") from None
        if found.schema != SCHEMA:
            raise BadInput(f"{name}: schema: expected {SCHEMA}, got {found.schema!r}")
        return found


class Conflict(NamedTuple):
    """What both sides changed, differently. id: of a node, or `src -type-> dst` of an edge."""

    id: str
    field: str
    message: str


# ------------------------------------------------------------ two graphs


def diff(a: Graph, b: Graph) -> Delta:
    """The delta from A to B. Raises BadInput where an id or an edge stands twice in one of them."""
    nodes_a, nodes_b = _nodes(a, "A"), _nodes(b, "B")
    changed = []
    for node_id in sorted(nodes_a.keys() & nodes_b.keys()):
        if nodes_a[node_id] == nodes_b[node_id]:
            continue
        old, new = msgspec.to_builtins(nodes_a[node_id]), msgspec.to_builtins(nodes_b[node_id])
        fields = {f: (old.get(f), new.get(f)) for f in _FIELDS if old.get(f) != new.get(f)}
        changed.append(Changed(fields, node_id))
    edges_a, edges_b = _edges(a, "A"), _edges(b, "B")
    return Delta(
        Edges(
            [edges_b[key] for key in sorted(edges_b) if edges_a.get(key) != edges_b[key]],
            [edges_a[key] for key in sorted(edges_a) if edges_b.get(key) != edges_a[key]],
        ),
        Nodes(
            [nodes_b[node_id] for node_id in sorted(nodes_b.keys() - nodes_a.keys())],
            changed,
            [nodes_a[node_id] for node_id in sorted(nodes_a.keys() - nodes_b.keys())],
        ),
    )


def apply(delta: Delta, a: Graph) -> Graph:
    """The graph the delta leads to. Raises BadInput where it was not made for A, naming the first thing that differs."""
    nodes, edges = _nodes(a, "A"), _edges(a, "A")
    for edge in delta.edges.removed:
        if edges.pop(_key(edge), None) != edge:
            raise BadInput(f"delta: {_told(_key(edge))}: not in the graph as the delta expects it")
    for node in delta.nodes.removed:
        if nodes.pop(node.id, None) != node:
            raise BadInput(f"delta: {node.id}: not in the graph as the delta expects it")
    for change in delta.nodes.changed:
        if change.id not in nodes:
            raise BadInput(f"delta: {change.id}: not in the graph")
        raw = msgspec.to_builtins(nodes[change.id])
        for field, (old, new) in change.fields.items():
            if field not in _FIELDS:
                raise BadInput(f"delta: {change.id}: {field} is no field of a node")
            if raw.get(field) != old:
                raise BadInput(f"delta: {change.id}: {field}: not as the delta expects it")
            raw.pop(field, None)
            if new is not None:
                raw[field] = new
        nodes[change.id] = _node(raw, change.id)
    for node in delta.nodes.added:
        if node.id in nodes:
            raise BadInput(f"delta: {node.id}: in the graph already")
        nodes[node.id] = node
    for edge in delta.edges.added:
        if _key(edge) in edges:
            raise BadInput(f"delta: {_told(_key(edge))}: in the graph already")
        edges[_key(edge)] = edge
    return Graph(nodes.values(), edges.values())


# ------------------------------------------------------------ three graphs


def merge(base: Graph, a: Graph, b: Graph) -> tuple[Graph, list[Conflict]]:
    """(graph, conflicts) of what A and B made of BASE; where they conflict the graph has A's version.

    A node deleted on one side and changed on the other is a conflict. An edge to a node that one side deleted
    goes with it. A folder lives as long as something is in it. Raises BadInput as `diff` does.
    """
    merging = _Merge(base, a, b)
    merging.merge_nodes()
    merging.merge_edges()
    told = -1
    while told != len(merging.conflicts):  # each conflict settled brings a place nearer to A's, so this ends
        told = len(merging.conflicts)
        merging.one_parent()
        merging.no_orphans()
    merging.no_empty_folders()
    return Graph(merging.nodes.values(), merging.live_edges()), sorted(dict.fromkeys(merging.conflicts))


class _Merge:
    def __init__(self, base: Graph, a: Graph, b: Graph) -> None:
        self.old, self.a, self.b = (_nodes(g, n) for g, n in ((base, "BASE"), (a, "A"), (b, "B")))
        self.old_edges, self.a_edges, self.b_edges = (_edges(g, n) for g, n in ((base, "BASE"), (a, "A"), (b, "B")))
        self.nodes: dict[str, Node] = {}
        self.edges: dict[Key, Edge] = {}
        self.conflicts: list[Conflict] = []

    def merge_nodes(self) -> None:
        for node_id in self.old.keys() | self.a.keys() | self.b.keys():
            old, one, other = self.old.get(node_id), self.a.get(node_id), self.b.get(node_id)
            if one == other or other == old:
                kept = one
            elif one == old:
                kept = other
            elif one is None or other is None:
                gone, changed = ("A", "B") if one is None else ("B", "A")
                self.conflicts.append(Conflict(node_id, "", f"deleted in {gone}, changed in {changed}"))
                kept = one
            else:
                kept = self._fields(node_id, old, one, other)
            if kept is not None:
                self.nodes[node_id] = kept

    def _fields(self, node_id: str, old: Node | None, one: Node, other: Node) -> Node:
        before = msgspec.to_builtins(old) if old is not None else None
        ours, theirs = msgspec.to_builtins(one), msgspec.to_builtins(other)
        for field in _FIELDS:
            mine, yours = ours.get(field), theirs.get(field)
            if mine == yours or (before is not None and yours == before.get(field)):
                continue
            if before is not None and mine == before.get(field):
                ours.pop(field, None)
                if yours is not None:
                    ours[field] = yours
            else:
                told = "changed in A and in B" if before is not None else "added in A and in B, differently"
                self.conflicts.append(Conflict(node_id, field, told))
        return _node(ours, node_id)

    def merge_edges(self) -> None:
        for key in self.old_edges.keys() | self.a_edges.keys() | self.b_edges.keys():
            old, one, other = self.old_edges.get(key), self.a_edges.get(key), self.b_edges.get(key)
            # Where B deleted an end and A kept it, B says nothing of the edge. (What A deleted stays deleted.)
            if one == other or other == old or (other is None and any(end not in self.b for end in key[:2])):
                kept = one
            elif one == old:
                kept = other
            else:
                kept = one
                if self._lives(key):
                    fields = [f for f in ("confidence", "payload") if getattr(one, f, None) != getattr(other, f, None)]
                    told = (
                        "changed in A and in B" if one is not None and other is not None
                        else f"deleted in {'A' if one is None else 'B'}, changed in {'B' if one is None else 'A'}"
                    )  # fmt: skip
                    self.conflicts += [Conflict(_told(key), field, told) for field in fields]
            if kept is not None:
                self.edges[key] = kept

    def _lives(self, key: Key) -> bool:
        """Whether an edge has both its ends, or lacked one on the side it comes from as well."""
        return all(
            end in self.nodes
            or not all(end in nodes for nodes, edges in ((self.a, self.a_edges), (self.b, self.b_edges)) if key in edges)
            for end in key[:2]
        )  # fmt: skip

    def live_edges(self) -> Iterable[Edge]:
        return [edge for key, edge in self.edges.items() if self._lives(key)]

    # ------------------------------------------------------------ the tree

    def one_parent(self) -> None:
        """A node moved to two places is a conflict; so are two nodes moved into each other. A's place is kept."""
        self._tables = None
        for child, keys in self._parents().items():
            if len(keys) > 1 and all(len(self._of(side, child)) < 2 for side in (self.a_edges, self.b_edges)):
                mine = self._of(self.a_edges, child)
                self._place(child, mine or keys[:1], "moved to one place in A and to another in B")
        while circle := self._circle():
            before = {child: self._of(self.a_edges, child) for child in sorted(circle)}
            moved = [child for child, keys in before.items() if keys and self._of(self.edges, child) != keys]
            if not moved or all(self._of(self.edges, child) == self._of(self.b_edges, child) for child in circle):
                return  # one side holds the whole circle
            for child in moved:
                self._place(child, self._of(self.a_edges, child), "moved in A and in B, so that they contain each other")  # fmt: skip

    def _place(self, child: str, keys: list[Key], why: str) -> None:
        self._move(child, keys)
        self.conflicts.append(Conflict(child, "contains", why))

    def _move(self, child: str, keys: list[Key]) -> None:
        for key in self._of(self.edges, child):
            del self.edges[key]
        for key in keys:
            self.edges[key] = self.a_edges.get(key) or self.b_edges[key]
        self._tables = None

    _tables: dict[int, dict[str, list[Key]]] | None = None

    def _of(self, edges: dict[Key, Edge], child: str) -> list[Key]:
        """Keys of the contains edges that lead to a node."""
        if self._tables is None:
            self._tables = {}
        if id(edges) not in self._tables:
            table: dict[str, list[Key]] = defaultdict(list)
            for key in sorted(edges):
                if key[2] == "contains":
                    table[key[1]].append(key)
            self._tables[id(edges)] = table
        return self._tables[id(edges)].get(child, [])

    def _parents(self) -> dict[str, list[Key]]:
        found: dict[str, list[Key]] = defaultdict(list)
        for key in sorted(self.edges):
            if key[2] == "contains" and self._lives(key):
                found[key[1]].append(key)
        return found

    def _circle(self) -> set[str]:
        above = {child: keys[0][0] for child, keys in self._parents().items()}
        clear: set[str] = set()
        for start in sorted(above):
            way: dict[str, None] = {}
            here = start
            while here in above and here not in clear and here not in way:
                way[here] = None
                here = above[here]
            if here in way:
                names = list(way)
                return set(names[names.index(here) :])
            clear |= way.keys()
        return set()

    def no_orphans(self) -> None:
        """Where one side deleted what the other put something into: a folder comes back, anything else conflicts."""
        self._tables = None
        while True:
            lost = sorted(
                key for key in self.edges if key[2] == "contains" and key[1] in self.nodes and not self._lives(key)
            )
            lost = [key for key in lost if not any(self._lives(other) for other in self._of(self.edges, key[1]))]
            if not lost:
                return
            for key in lost:
                above, child = key[:2]
                if child not in self.nodes or above in self.nodes:
                    continue
                holder = self.a.get(above) or self.b[above]
                in_a = above in self.a
                if holder.kind != "folder":
                    gone = "B" if in_a else "A"
                    self.conflicts.append(Conflict(child, "contains", f"{above} deleted in {gone}, what it contains changed in {'A' if in_a else 'B'}"))  # fmt: skip
                    if not in_a:
                        if mine := self._of(self.a_edges, child):
                            self._move(child, mine)
                        else:
                            del self.nodes[child]
                        continue
                self.nodes[above] = holder
                for back in self._of(self.a_edges if in_a else self.b_edges, above):
                    self.edges[back] = (self.a_edges if in_a else self.b_edges)[back]
            self._tables = None

    def no_empty_folders(self) -> None:
        """A folder out of which each side took what the other left is no folder any more."""
        inside: dict[str, set[str]] = defaultdict(set)
        above: dict[str, list[str]] = defaultdict(list)
        for key in self.edges:
            if key[2] == "contains" and key[0] in self.nodes and key[1] in self.nodes:
                inside[key[0]].add(key[1])
                above[key[1]].append(key[0])
        held = {key[0] for key in self.a_edges if key[2] == "contains"}
        held &= {key[0] for key in self.b_edges if key[2] == "contains"}
        empty = [n for n in held if n in self.nodes and self.nodes[n].kind == "folder" and not inside[n]]
        while empty:
            folder = empty.pop()
            del self.nodes[folder]
            for parent in above[folder]:
                inside[parent].discard(folder)
                if not inside[parent] and parent in held and self.nodes[parent].kind == "folder":
                    empty.append(parent)


def settled(base: Graph, a: Graph, b: Graph, merged: Graph) -> Graph:
    """The merged graph with its dependency edges looked up again, where A's and B's are exactly what that gives."""
    if merged.dumps() in (a.dumps(), b.dumps()):
        return merged
    if any(_resolved(side) != _dependencies(side) for side in (a, b)):
        return merged
    kept = [edge for edge in merged.edges if edge.type not in _DEPENDENCIES]
    return Graph(merged.nodes, [*kept, *_resolved(merged).values()])


def _dependencies(graph: Graph) -> dict[Key, Edge]:
    return {_key(edge): edge for edge in graph.edges if edge.type in _DEPENDENCIES}


def _resolved(graph: Graph) -> dict[Key, Edge]:
    from zerorepo.resolve import Program

    root = graph.by_id.get(ROOT)
    nodes = [node for node in graph.nodes if node.kind in ("file", *UNITS)]
    nodes.sort(key=lambda node: (node.path, node.kind != "file", node.span, node.id))  # as encode meets them
    files = {node.id for node in nodes if node.kind == "file"}
    program = Program((node for node in nodes if node.path in files), root.name if root is not None else "")
    return {_key(edge): edge for path in program.units for edge in program.edges_of(path)}


# ------------------------------------------------------------ the two verbs


def run_diff(
    old: str, new: str, *, exit_code: bool, output: str | None, overwrite: bool, as_json: bool, quiet: bool, **_: Any
) -> int:
    """The verb `diff`. Exit 1 with --exit-code where the graphs differ."""
    if old == "-" and new == "-":
        raise BadInput("-: A and B cannot both be stdin")
    data = read_bytes(old), read_bytes(new)
    delta = diff(_named(data[0], old), _named(data[1], new))
    text = delta.dumps() if as_json else "\n".join(told(delta)).encode()
    if text or output is not None:
        publish("diff", text, output, inputs=data, options={"json": as_json}, overwrite=overwrite)
    if not delta and not quiet and not as_json:
        print(f"{old} and {new} hold the same graph", file=sys.stderr)
    return 1 if delta and exit_code else 0


def run_merge(
    base: str, ours: str, theirs: str, *, driver: bool, output: str | None, overwrite: bool, quiet: bool, **_: Any
) -> int:
    """The verb `merge`. Exit 1 where there are conflicts; the result is written all the same."""
    if driver and output is not None:
        raise BadInput("--driver: the result replaces A; leave out -o")
    if (base, ours, theirs).count("-") > (0 if driver else 1):
        raise BadInput("-: stdin holds one graph, and --driver works on files")
    data = tuple(read_bytes(path) for path in (base, ours, theirs))
    # git gives an empty file for BASE where both sides added the graph
    graphs = [Graph() if path == base and not part.strip() else _named(part, path) for path, part in zip((base, ours, theirs), data, strict=True)]  # fmt: skip
    merged, conflicts = merge(graphs[0], graphs[1], graphs[2])
    result = settled(graphs[0], graphs[1], graphs[2], merged)
    if result is not merged:  # looked up again: no edge of these types is anyone's version any more
        conflicts = [one for one in conflicts if not any(f" -{kind}-> " in one.id for kind in _DEPENDENCIES)]
    if driver:
        write_atomic(ours, result.dumps())
    else:
        options = {"root": _root(ours, output)} if output not in (None, "-") else {}
        publish("merge", result.dumps(), output, inputs=data, options=options, overwrite=overwrite)
    for one in conflicts:
        print(
            f"zerorepo: {one.id}: {one.field + ': ' if one.field else ''}{one.message}; kept as in A", file=sys.stderr
        )
    if conflicts:
        name = "rpg.json" if driver or output in (None, "-") else output
        print(f"zerorepo: {len(conflicts)} conflicts; once the sources are merged, `zerorepo update {name}` settles those of existing code", file=sys.stderr)  # fmt: skip
    return 1 if conflicts else 0


def told(delta: Delta) -> list[str]:
    """A delta in lines for people: counts, then what changed, file by file."""
    if not delta:
        return []
    nodes, edges = delta.nodes, delta.edges
    retyped = {_key(edge) for edge in edges.added} & {_key(edge) for edge in edges.removed}
    added = [edge for edge in edges.added if _key(edge) not in retyped]
    removed = [edge for edge in edges.removed if _key(edge) not in retyped]
    lines = [
        f"nodes: {len(nodes.added)} added, {len(nodes.removed)} removed, {len(nodes.changed)} changed; "
        f"edges: {len(added)} added, {len(removed)} removed, {len(retyped)} changed"
    ]
    moved = _moved(nodes)
    by_file: dict[str, list[str]] = defaultdict(list)
    for mark, some in (("+", nodes.added), ("-", nodes.removed)):
        for node in some:
            by_file[file_of(node.id)].append(f"  {mark} {_called(node)}")
    for change in nodes.changed:
        fields = ", ".join(change.fields)
        by_file[file_of(change.id)].append(f"  ~ {change.id.partition(':')[2] or change.id} ({fields})")
    counts: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for mark, of in (("+", added), ("-", removed), ("~", [edge for edge in edges.added if _key(edge) in retyped])):
        for edge in of:
            if edge.type != "contains":
                counts[file_of(edge.src)][edge.type, mark] += 1
    for path in sorted(by_file.keys() | counts.keys()):
        lines.append(path + (f" (as {moved[path]})" if path in moved else ""))
        lines += by_file.get(path, [])
        kinds = sorted({kind for kind, _ in counts.get(path, {})})
        if kinds:
            said = (" ".join(f"{mark}{counts[path][kind, mark]}" for mark in "+-~" if (kind, mark) in counts[path]) for kind in kinds)  # fmt: skip
            lines.append("  edges from here: " + "; ".join(f"{kind} {n}" for kind, n in zip(kinds, said, strict=True)))
    return lines


def _moved(nodes: Nodes) -> dict[str, str]:
    """Files that went and came with the same bytes: old path to `now NEW`, new path to `was OLD`."""
    gone = {node.sha256: node.path for node in nodes.removed if node.kind == "file" and node.sha256}
    found: dict[str, str] = {}
    for node in nodes.added:
        if node.kind == "file" and node.sha256 in gone:
            found[gone[node.sha256]] = f"{node.path} now"
            found[node.path] = f"{gone[node.sha256]} before"
    return found


def _called(node: Node) -> str:
    if node.kind in UNITS:
        return f"{node.kind} {node.qualname}"
    return f"{node.kind} {node.id}" + (f" ({node.reason})" if node.status == "unparsed" else "")


def _root(ours: str, output: str | None) -> str:
    """The repository that A's manifest names, as seen from the output: `update` finds it there."""
    from zerorepo.encoder import root_of

    here = Path(str(output)).resolve().parent
    return os.path.relpath(root_of(ours).resolve() if ours != "-" else here, here)


def _named(data: bytes, path: str) -> Graph:
    return Graph.loads(data, path)


def _node(raw: dict[str, Any], node_id: str) -> Node:
    try:
        return msgspec.convert(raw, Node)
    except msgspec.ValidationError as error:
        raise BadInput(f"delta: {node_id}: {error}") from None


def _key(edge: Edge) -> Key:
    return edge.src, edge.dst, edge.type, edge_name(edge)


def _told(key: Key) -> str:
    return f"{key[0]} -{key[2]}-> {key[1]}" + (f" ({key[3]})" if key[3] else "")


def _nodes(graph: Graph, name: str) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if node.id in found:
            raise BadInput(f"{name}: {node.id}: two nodes have this id; `zerorepo validate` names what is wrong")
        found[node.id] = node
    return found


def _edges(graph: Graph, name: str) -> dict[Key, Edge]:
    found: dict[Key, Edge] = {}
    for edge in graph.edges:
        if _key(edge) in found:
            raise BadInput(f"{name}: {_told(_key(edge))}: stands twice; `zerorepo validate` names what is wrong")
        found[_key(edge)] = edge
    return found
