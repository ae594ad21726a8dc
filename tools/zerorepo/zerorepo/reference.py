"""The JSON of the paper's own code, both ways.

It is what `RPG.to_dict` of microsoft/RPG-ZeroRepo writes (zerorepo/rpg_gen/base/rpg, as released in 2026), and the
product made from it, which nests children; its field names stand here as facts. A loader there drops duplicate ids
and edges to nowhere, accepts a second parent and cyclic data flow, and takes every level above the sixth for the
first; `from_ref` names each of these instead.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from tenfold_shared import BadInput
from zerorepo.graph import CONFIDENCES, ROOT, SEMANTIC, UNITS, Edge, Graph, Node
from zerorepo.tree import above_of, family
from zerorepo.validate import components, edge_name, judged_path

DEEPEST = 5  # the last of its levels
_TYPES = ("repo", "functional_area", "category", "subcategory", "feature_group", "feature")  # by level
_HIERARCHY = ("composes", "contains", "contains_base_class")
_ENTITIES = ("file", *UNITS)
_FLOW = ("data_id", "data_type", "transformation")
_PAYLOAD = ("name", "resolved")
_WHEN = {"imports": "", "imports_lazy": "lazy", "imports_typing": "typing"}


def to_ref(graph: Graph, name: str, level: str = "units") -> tuple[dict[str, Any], list[str]]:
    """(the object that the reference's `RPG.from_dict` takes, notes on what the form has no place for).

    Where the graph has areas, files stand below their group, as there; else below their folders. A node stands
    for one feature, so an entity with several has several nodes of one path. Dependencies stand twice, as
    there: between nodes in `edges`, one of a relation and a pair, and complete in `dep_graph`, where an edge
    keeps its confidence and a lazy or typing import its `when`.
    """
    kinds = {"folders": (), "files": ("file",), "units": _ENTITIES}[level]
    above = {edge.dst: edge.src for edge in graph.edges if edge.type == "contains"}
    placed: dict[str, str] = {}  # file to the semantic node it stands below
    for node in sorted((n for n in graph.nodes if n.kind == "feature" and not n.qualname), key=lambda n: n.id):
        held = graph.by_id.get(node.path)
        if held is not None and held.kind == "file" and above.get(node.id, ROOT) != ROOT:
            placed.setdefault(node.path, above[node.id])
    kept_folders = {ROOT}
    for node in graph.nodes:
        if node.kind == "folder" or (node.kind == "file" and node.id not in placed):
            here = node.id if node.kind == "folder" and not placed else above_of(node.id)
            while here not in kept_folders:
                kept_folders.add(here)
                here = above_of(here)
    parent: dict[str, str] = {}
    for node in graph.nodes:
        if node.id == ROOT or (node.kind in _ENTITIES and node.kind not in kinds) or (node.kind == "folder" and node.id not in kept_folders):  # fmt: skip
            continue
        if node.kind == "feature" and node.path and (not kinds or _implied(node, above, placed)):
            continue
        parent[node.id] = placed.get(node.id, above.get(node.id, ROOT))
    children: dict[str, list[Node]] = defaultdict(list)
    for child, over in parent.items():
        children[over].append(graph.by_id[child])
    made: list[dict[str, Any]] = []
    composed: list[dict[str, Any]] = []
    ids: dict[str, list[str]] = defaultdict(list)  # entity to its nodes there
    stack = [(graph.by_id[ROOT], 0)]
    while stack:
        node, depth = stack.pop()
        for ref in _ref_nodes(graph, node, depth):
            made.append(ref)
            if node.id != ROOT:
                composed.append({"src": parent[node.id], "dst": ref["id"], "relation": "composes", "meta": None})
            if node.kind in _ENTITIES or (node.kind == "feature" and node.path):
                ids[ref["meta"]["path"]].append(ref["id"])
        inside = sorted(children.get(node.id, ()), key=lambda one: (one.kind not in SEMANTIC, one.kind != "folder", one.span, one.id))  # fmt: skip
        stack += [(one, depth + 1) for one in reversed(inside)]
    shown = {node.id for node in graph.nodes if node.kind in ("repo", "folder") or node.kind in kinds}
    edges, dependencies, left_out = _ref_edges(graph, shown, ids)
    flows = [
        {
            "source": graph.by_id[edge.src].name, "target": graph.by_id[edge.dst].name,
            **{key: str(edge.payload.get(key, "")) for key in _FLOW},
        }
        for edge in graph.edges if edge.type == "data_flow"
    ]  # fmt: skip
    dep_nodes = {node.id: _ref_dep_node(node, ids[node.id]) for node in graph.nodes if node.id in shown}
    hierarchy = [
        {"src": edge.src, "dst": edge.dst, "attrs": {"type": "contains"}}
        for edge in graph.edges if edge.type == "contains" and edge.src in shown and edge.dst in shown
    ]  # fmt: skip
    result = {
        "repo_name": name, "repo_info": graph.by_id[ROOT].doc, "data_flow": flows, "excluded_files": [], "repo_node_id": ROOT,
        "nodes": made, "edges": [*composed, *edges], "_dep_to_rpg_map": {key: value for key, value in ids.items() if value},
        "dep_graph": {"repo_dir": "", "nodes": dep_nodes, "edges": [*hierarchy, *dependencies]},
    }  # fmt: skip
    notes = [f"ref: {count} {kind} edges left out; the form has none" for kind, count in sorted(left_out.items())]
    return result, notes


def _implied(node: Node, above: dict[str, str], placed: dict[str, str]) -> bool:
    """A feature that the placing of its file below a group says already."""
    over = above.get(node.id, "")
    return placed.get(node.path) == over and node.id == f"{over}/{_named(node)}"


def _named(node: Node) -> str:
    return f"{node.path}:{node.qualname}" if node.qualname else node.path


def _ref_nodes(graph: Graph, node: Node, depth: int) -> Iterator[dict[str, Any]]:
    level = min(depth, DEEPEST)
    kind, path, names = node.kind, node.id, [node.name]
    if kind == "feature":
        held = graph.by_id.get(_named(node))
        kind, path = (held.kind, held.id) if held is not None else ("", node.path)
    elif kind in _ENTITIES:
        names = node.features or [""]
    elif kind in SEMANTIC:
        path = node.scopes[0] if len(node.scopes) == 1 else ""
    types = {"repo": "directory", "folder": "directory", "area": "directory", "category": "directory", "group": "directory"}  # fmt: skip
    for n, name in enumerate(names):
        meta = {
            "type_name": types.get(kind, kind) or None,
            "path": node.scopes if len(node.scopes) > 1 else path or None,
            "content": "", "description": node.doc,
        }  # fmt: skip
        yield {"id": node.id if n == 0 else f"{node.id} [{n + 1}]", "name": name, "node_type": _TYPES[level], "level": level, "meta": meta}  # fmt: skip


def _ref_edges(graph: Graph, shown: set[str], ids: dict[str, list[str]]) -> tuple[list[Any], list[Any], Counter[str]]:
    seen: set[tuple[str, str, str]] = set()
    edges, dependencies = [], []
    left_out: Counter[str] = Counter()
    for edge in sorted(graph.edges, key=lambda one: (one.src, one.dst, one.type, edge_name(one))):
        relation = family(edge.type)
        if edge.type in ("contains", "data_flow") or edge.src not in shown or edge.dst not in shown:
            continue
        if relation not in ("imports", "invokes", "inherits"):
            left_out[edge.type] += 1
            continue
        attrs = {"type": relation, "confidence": edge.confidence}
        if _WHEN.get(edge.type):
            attrs["when"] = _WHEN[edge.type]
        dependencies.append(
            {
                "src": edge.src,
                "dst": edge.dst,
                "attrs": {**{key: edge.payload[key] for key in _PAYLOAD if key in edge.payload}, **attrs},
            }
        )
        key = (edge.src, edge.dst, relation)
        if key not in seen and ids[edge.src] and ids[edge.dst] and edge.src != edge.dst:
            seen.add(key)
            edges.append({"src": ids[edge.src][0], "dst": ids[edge.dst][0], "relation": relation, "meta": {"src_dep": edge.src, "dst_dep": edge.dst}})  # fmt: skip
    return edges, dependencies, left_out


def _ref_dep_node(node: Node, ids: list[str]) -> dict[str, Any]:
    kind = "directory" if node.kind in ("repo", "folder") else node.kind
    module = "" if node.id == ROOT else node.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    name = ROOT if node.id == ROOT else node.name.removesuffix(".py") if node.kind == "file" else node.name
    found = {"type": kind, "module": module, "name": name, "rpg_nodes": ids}
    return found | ({"start_line": node.span[0], "end_line": node.span[1]} if node.span else {})


class _Meta(msgspec.Struct):
    type_name: str | None = None
    path: str | list[str] | None = None
    description: str | None = None


class _RefNode(msgspec.Struct):
    id: str
    name: str = ""
    node_type: str | None = None
    level: int | None = None
    meta: _Meta | None = None
    children: list[Any] = []


class _RefEdge(msgspec.Struct):
    src: str
    dst: str
    relation: str | None = "composes"


class _DepEdge(msgspec.Struct):
    src: str
    dst: str
    attrs: dict[str, Any] = {}


class _Dep(msgspec.Struct):
    nodes: dict[str, dict[str, Any]] = {}
    edges: list[_DepEdge] = []


class _Ref(msgspec.Struct):
    repo_name: str = ""
    repo_info: str | None = ""
    data_flow: list[dict[str, Any]] | None = None
    repo_node_id: str | None = None
    nodes: list[_RefNode] | None = None
    root: _RefNode | None = None
    edges: list[_RefEdge] = []
    dep_graph: _Dep | None = None


def from_ref(data: bytes, name: str = "graph") -> tuple[Graph, list[str]]:
    """(graph, complaints) of what the reference saves; its flat form and the nested one of CoderMind.

    Files, classes, functions and methods become nodes by their path; a directory node is a folder where its id
    is its path, else an area, category or group by its depth; whatever of them holds a file or unit gets a
    feature node for it. A leaf without a path is a proposed feature. What cannot be taken over is named in a
    complaint: a second node of an id, an edge to nowhere, a second parent, a circle, a path that leaves the
    root, a relation unknown here. Raises BadInput where the bytes are no such JSON at all.
    """
    try:
        ref = msgspec.json.decode(data, type=_Ref)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{name}: not the JSON of a repository planning graph: {error}") from None
    if ref.nodes is None and ref.root is None:
        raise BadInput(f"{name}: expected nodes, or a root with children, as RPG.to_dict writes them")
    return _Importing(ref, name).graph()


class _Importing:
    def __init__(self, ref: _Ref, name: str) -> None:
        self.ref, self.name = ref, name
        self.complaints: list[str] = []
        self.nodes: dict[str, _RefNode] = {}
        self.parent: dict[str, str] = {}
        self.children: dict[str, list[str]] = defaultdict(list)
        self.made: dict[str, Node] = {}  # files and units
        self.semantic: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.entity: dict[str, str] = {}  # id of a node there to the file or unit it stands for

    def graph(self) -> tuple[Graph, list[str]]:
        self.read()
        root = self.root()
        self.tree(root)
        self.convert(root)
        self.dependencies()
        self.flow()
        return self.assembled(root), self.complaints

    def read(self) -> None:
        found: list[tuple[_RefNode, str | None]] = [(node, None) for node in self.ref.nodes or ()]
        if self.ref.root is not None:
            found.append((self.ref.root, None))
        at = 0
        while at < len(found):  # children are appended, so a nested tree of any depth is walked without recursion
            node, above = found[at]
            at += 1
            if node.id in self.nodes:
                self.complaints.append(f"{node.id}: two nodes have this id; the second is left out")
                continue
            self.nodes[node.id] = node
            if above is not None:
                self.parent[node.id] = above
                self.children[above].append(node.id)
            for raw in node.children:
                try:
                    found.append((msgspec.convert(raw, _RefNode), node.id))
                except msgspec.ValidationError as error:
                    raise BadInput(f"{self.name}: children of {node.id}: {error}") from None

    def root(self) -> str:
        told = self.ref.repo_node_id
        if told is not None and told not in self.nodes:
            self.complaints.append(f"repo_node_id {told}: no such node; the root is made anew")
        candidates = [told, self.ref.root.id if self.ref.root is not None else None, f"{self.ref.repo_name}_L0"]
        found = next((one for one in candidates if one is not None and one in self.nodes), None)
        if found is None:
            found = next((node.id for node in self.nodes.values() if node.node_type == "repo"), None)
        if found is None:
            found = "\0root"
            self.nodes[found] = _RefNode(found, self.ref.repo_name)
        return found

    def tree(self, root: str) -> None:
        for edge in self.ref.edges:
            if (edge.relation or "composes").lower() not in _HIERARCHY:
                continue
            missing = [end for end in (edge.src, edge.dst) if end not in self.nodes]
            if missing:
                self.complaints.append(f"{edge.src} -contains-> {edge.dst}: {missing[0]} is no node; the edge is left out")  # fmt: skip
            elif edge.dst == root:
                self.complaints.append(f"{edge.src} -contains-> {edge.dst}: leads to the root; the edge is left out")
            elif self.parent.setdefault(edge.dst, edge.src) != edge.src:
                self.complaints.append(f"{edge.dst}: a second parent, {edge.src}; it stays with {self.parent[edge.dst]}")  # fmt: skip
            elif edge.dst not in self.children[edge.src]:
                self.children[edge.src].append(edge.dst)
        number = {node_id: n for n, node_id in enumerate(self.nodes)}
        names = list(number)
        for members in components(len(names), [[number[c] for c in self.children.get(n, ())] for n in names]):
            circle = [names[n] for n in members]
            cut = circle[0]
            self.complaints.append(f"{', '.join(circle)}: contain each other; {cut} is put below the root")
            self.children[self.parent.pop(cut)].remove(cut)
            self.parent[cut] = root
            self.children[root].append(cut)
        for node_id in self.nodes:
            if node_id != root and node_id not in self.parent:
                self.complaints.append(f"{node_id}: no parent; it is put below the root")
                self.parent[node_id] = root
                self.children[root].append(node_id)

    # ------------------------------------------------------------ nodes

    def convert(self, root: str) -> None:
        features: list[tuple[str, str]] = []  # (semantic parent, entity)
        stack: list[tuple[str, str, int]] = [(child, ROOT, 0) for child in reversed(self.children[root])]
        while stack:
            node_id, above, depth = stack.pop()
            node = self.nodes[node_id]
            kind, paths = self._kind(node), self._paths(node)
            inner, deeper = above, depth
            if kind in _ENTITIES and paths:
                if len(paths) > 1:
                    self.complaints.append(f"{node_id}: a {kind} of {len(paths)} paths; the first is taken")
                entity = self._entity(node_id, kind, paths[0], node)
                if entity is not None and above != ROOT:
                    features.append((above, entity))
            elif not (paths == [node.id] and node.id != ROOT):  # no folder of ours
                inner = self._semantic(node, above, depth, paths)
                deeper = depth + 1
            stack += [(child, inner, deeper) for child in reversed(self.children.get(node_id, ()))]
        for place, entity in dict.fromkeys(features):
            held = self.made[entity]
            if not held.features:
                continue
            mine = f"{place}/{entity}"
            self.semantic[mine] = Node(id=mine, kind="feature", name=held.features[0], features=held.features, path=held.path,
                                       qualname=held.qualname, provenance="ref")  # fmt: skip
            self.edges.append(Edge(src=place, dst=mine, type="contains"))

    def _kind(self, node: _RefNode) -> str:
        told = (node.meta.type_name or "") if node.meta is not None else ""
        path = self._paths(node)[0] if self._paths(node) else ""
        if told or not path:
            return told
        if ":" in path:
            return "method" if "." in path.partition(":")[2] else "function"
        return "file" if path.endswith(".py") else ""

    def _paths(self, node: _RefNode) -> list[str]:
        told = node.meta.path if node.meta is not None else None
        return [_plain(one) for one in ([told] if isinstance(told, str) else told or [])]

    def _entity(self, node_id: str, kind: str, path: str, node: _RefNode | None) -> str | None:
        """The file or unit of a path, made with what it stands in. None, and a complaint, where the path is none."""
        file, _, qualname = path.partition(":")
        wrong = judged_path(file, False)
        if wrong is not None or bool(qualname) == (kind == "file"):
            why = wrong[1] if wrong is not None else f"path {path!r}: no path of a {kind}"
            self.complaints.append(f"{node_id}: {why}; it is left out")
            return None
        self._add(file, "file", file, "")
        parts = qualname.split(".") if qualname else []
        for n in range(1, len(parts) + 1):
            inner = ".".join(parts[:n])
            outer_kind = kind if n == len(parts) else "class"
            self._add(f"{file}:{inner}", outer_kind, file, inner, sure=n == len(parts))
        made = self.made[path]
        self.entity[node_id] = path
        if node is not None:
            if node.name and node.name not in made.features:
                made.features.append(node.name)
                made.provenance = "ref"
            made.doc = made.doc or ((node.meta.description or "") if node.meta is not None else "")
        return path

    def _add(self, node_id: str, kind: str, path: str, qualname: str, *, sure: bool = True) -> None:
        if node_id not in self.made:
            name = qualname.rpartition(".")[2].partition("#")[0] if qualname else path.rpartition("/")[2]
            self.made[node_id] = Node(id=node_id, kind=kind, name=name, path=path, qualname=qualname)
        elif sure and self.made[node_id].kind != kind:
            self.made[node_id].kind = kind  # it was made for what stands in it, before its own node was met

    def _semantic(self, node: _RefNode, above: str, depth: int, paths: list[str]) -> str:
        kind = ("area", "category", "group")[min(depth, 2)]
        leaf = not self.children.get(node.id)
        if leaf and depth and (node.node_type == "feature" or not self._kind(node)):
            kind = "feature"
        title = node.name.replace("/", " ") or node.id.replace("/", " ")
        base = f"{above}/{title}" if above != ROOT else f"#{title}"
        mine, n = base, 1
        while mine in self.semantic:
            n += 1
            mine = f"{base} {n}"
        doc = (node.meta.description or "") if node.meta is not None else ""
        made = Node(id=mine, kind=kind, name=node.name or node.id, doc=doc, provenance="ref")
        if kind == "feature":
            made.features, made.status = [made.name], "proposed"
        else:
            made.scopes = paths
        self.semantic[mine] = made
        self.edges.append(Edge(src=above, dst=mine, type="contains"))
        return mine

    # ------------------------------------------------------------ edges

    def dependencies(self) -> None:
        found: dict[tuple[str, str, str, str], Edge] = {}
        unknown: Counter[str] = Counter()
        dep = self.ref.dep_graph or _Dep()
        for node_id, attrs in dep.nodes.items():
            path, kind = _plain(node_id), str(attrs.get("type", ""))
            if kind in _ENTITIES and path not in self.made:
                self._entity(node_id, kind, path, None)
            span = [attrs.get("start_line"), attrs.get("end_line")]
            if path in self.made and all(isinstance(line, int) for line in span):
                self.made[path].span = [int(line) for line in span if line is not None]
        for one in dep.edges:
            kind = str(one.attrs.get("type", "")).lower()
            if kind in _HIERARCHY:
                continue
            self._depend(found, unknown, kind, _plain(one.src), _plain(one.dst), one.attrs)
        known = {(src, dst, family(kind)) for src, dst, kind, _ in found}
        for edge in self.ref.edges:
            kind = (edge.relation or "").lower()
            if kind in _HIERARCHY or not kind:
                continue
            missing = [end for end in (edge.src, edge.dst) if end not in self.nodes]
            if missing:
                self.complaints.append(f"{edge.src} -{kind}-> {edge.dst}: {missing[0]} is no node; the edge is left out")  # fmt: skip
                continue
            src, dst = self.entity.get(edge.src, edge.src), self.entity.get(edge.dst, edge.dst)
            if (src, dst, kind) not in known:
                self._depend(found, unknown, kind, src, dst, {})
        self.edges += found.values()
        self.complaints += [f"{n} edges of relation {kind}: no such type here; left out" for kind, n in sorted(unknown.items())]  # fmt: skip

    def _depend(
        self, found: dict[tuple[str, str, str, str], Edge], unknown: Counter[str], kind: str, src: str, dst: str, attrs: dict[str, Any]
    ) -> None:  # fmt: skip
        if kind not in ("imports", "invokes", "inherits"):
            unknown[kind] += 1
            return
        for end in (src, dst):
            if end not in self.made:
                self.complaints.append(f"{src} -{kind}-> {dst}: {end} is no file or unit; the edge is left out")
                return
        if kind == "imports":
            kind = next((one for one, when in _WHEN.items() if when == attrs.get("when", "")), kind)
        confidence = attrs.get("confidence")
        payload = {key: attrs[key] for key in _PAYLOAD if key in attrs}
        edge = Edge(src=src, dst=dst, type=kind, confidence=confidence if confidence in CONFIDENCES else "inferred", payload=payload)  # fmt: skip
        found.setdefault((src, dst, kind, edge_name(edge)), edge)

    def flow(self) -> None:
        areas = {node.name: node.id for node in self.semantic.values() if node.kind == "area"}
        found: dict[tuple[str, str, str], Edge] = {}
        for at, one in enumerate(self.ref.data_flow or ()):
            ends = [one.get(key) for key in ("source", "target")]
            wrong = next((end for end in ends if end not in areas), None) if all(isinstance(end, str) for end in ends) else ends  # fmt: skip
            if wrong is not None:
                self.complaints.append(f"data_flow/{at}: {wrong!r} is no area; left out")
                continue
            payload: dict[str, Any] = {key: one[key] for key in _FLOW if key in one}
            edge = Edge(src=areas[str(ends[0])], dst=areas[str(ends[1])], type="data_flow", payload=payload)
            if found.setdefault((edge.src, edge.dst, edge_name(edge)), edge) is not edge:
                self.complaints.append(f"data_flow/{at}: stands twice; left out")
        names = list(areas.values())
        number = {area: n for n, area in enumerate(names)}
        after = [[number[edge.dst] for edge in found.values() if edge.src == area] for area in names]
        for members in components(len(names), after):
            self.complaints.append(f"data flows in a circle: {', '.join(self.semantic[names[n]].name for n in members)}; it is kept as it is")  # fmt: skip
        self.edges += found.values()

    def assembled(self, root: str) -> Graph:
        from zerorepo.lift import grounded
        from zerorepo.resolve import contains

        made = list(self.made.values())
        hierarchy = contains([node.path for node in made if node.kind == "file"], made)
        # A folder that holds no file is still a node there.
        known = {edge.dst for edge in hierarchy}
        for node_id, node in self.nodes.items():
            paths = self._paths(node)
            if node_id != root and paths == [node.id] and self._kind(node) not in _ENTITIES and node.id not in known:
                if judged_path(node.id, False) is None:
                    hierarchy += [edge for edge in contains([node.id], []) if edge.dst not in known]
                    known |= {edge.dst for edge in hierarchy}
                else:
                    self.complaints.append(f"{node_id}: {node.id!r} is no path below the root; it is left out")
        folders = [
            Node(id=edge.dst, kind="folder", name=edge.dst.rpartition("/")[2], path=edge.dst)
            for edge in hierarchy if edge.dst not in self.made
        ]  # fmt: skip
        below: dict[str, set[str]] = defaultdict(set)
        above = {edge.dst: edge.src for edge in self.edges if edge.type == "contains"}
        for one in self.semantic.values():
            if one.kind == "feature" and one.path:
                here = above[one.id]
                while here != ROOT:
                    below[here].add(one.path.rpartition("/")[0])
                    here = above[here]
        for node_id, inside in below.items():
            if self.semantic[node_id].scopes in ([], [ROOT]):  # its first value there, before files are known
                self.semantic[node_id].scopes = grounded(inside)
        told = self.nodes[root]
        top = Node(id=ROOT, kind="repo", name=told.name if root == ROOT else "", path=ROOT, doc=self.ref.repo_info or "")  # fmt: skip
        return Graph([top, *folders, *made, *self.semantic.values()], [*hierarchy, *self.edges])


def _plain(path: str) -> str:
    """A path as ours: `./` before it and the product's `file.py::class A::method` are other ways to write it."""
    path = path.removeprefix("./")
    if "::" in path:
        file, *parts = path.split("::")
        words = (part.removeprefix("class ").removeprefix("function ").removeprefix("method ") for part in parts)
        return f"{file}:{'.'.join(words)}"
    return path
