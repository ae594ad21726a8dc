"""Is a graph sound? Every invariant of the schema, each with a code and a pointer into the file.

Works on the JSON as it stands, before anything is looked up in it, so that what a loader would merge, drop
or refuse (a second node of the same id, an edge to nowhere, an unknown field) is named where it is. Two
sorts of graph pass through here. One of existing code is judged as a map: that its packages import each
other in a circle, or that a file is called `types.py`, is how the code is. Nodes of a plan (status proposed,
designed, stubbed, tested or failed) are also judged as what is going to be written.

Invariants after the notes on arXiv 2509.16198 §2 (hierarchy, data flow, file order, dependencies must admit a
topological order); the codes are in CODES. Long because the list of
invariants is.
"""

from __future__ import annotations

import ast
import io
import keyword
import os
import re
import stat
import sys
import tokenize
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.records import readable
from zerorepo.graph import (
    CONFIDENCES,
    EDGES,
    KINDS,
    ROOT,
    SCHEMA,
    SEMANTIC,
    STATUSES,
    UNITS,
    Edge,
    Graph,
    Node,
    read_bytes,
)

CODES = {
    "bad-field": "A field has the wrong type, or one that is required is missing.",
    "unknown-field": "A field that the schema does not have.",
    "bad-value": "A kind, status, edge type, confidence or span outside what the schema allows.",
    "duplicate-id": "Two nodes have one id.",
    "duplicate-edge": "Two edges have the same ends, type and name.",
    "dangling-edge": "An edge's end names no node.",
    "no-root": "The node `.` of kind repo is missing, or a second node is of that kind.",
    "no-parent": "A node that no `contains` edge leads to.",
    "many-parents": "A node that more than one `contains` edge leads to.",
    "contains-cycle": "Nodes that contain each other, out of reach of the root.",
    "level": "A node stands above or beside what its kind belongs to: levels may only go down, to any depth.",
    "misplaced": "The id, path, qualname and parent of a folder, file or unit contradict each other.",
    "unit-file": "A class, function or method whose file is no node.",
    "feature-unit": "A feature without finer ones below it does not name one file or unit that is in the graph.",
    "signature": "A signature that does not parse, or is of another name.",
    "flow-cycle": "Data flow runs in a circle.",
    "area-unused": "There is data flow, and an area has no part in it.",
    "order-chain": "The order edges of an area (else a folder) are no single chain over the files it plans.",
    "dependency-cycle": "Data flow, order and imports together admit no order; imports alone only where planned.",
    "path-escape": "A path that is absolute, leaves the root, or enters `.git`.",
    "path-name": "A name that no file can have everywhere: over 255 bytes; in a plan also reserved names, characters.",
    "path-case": "A planned path differs from another only in case.",
    "module-name": "A planned module that no import statement can name: a keyword, or no identifier.",
    "stdlib-name": "A planned module at an import root that hides one of the standard library.",
    "missing-file": "With --root: the file or folder is not there.",
    "not-regular": "With --root: it is a link, a device, or a folder where a file should be.",
    "link-escapes": "With --root: a link in the path leads out of the repository.",
    "not-canonical": "The bytes differ from those the tool would save: order, duplicate keys, defaults or spacing.",
}  # fmt: skip

PLANNED = frozenset(STATUSES) - {"done", "unparsed"}
MOST_NAME_BYTES = 255
_NAMED = 20  # members of a cycle named in its message
_LEVEL = {"repo": 0, "area": 1, "category": 2, "group": 3, "feature": 4, "folder": 1, "file": 2, "class": 3, "function": 3, "method": 3}  # fmt: skip
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(1, 10))])
_DRIVE = re.compile(r"[A-Za-z]:")
_HOSTILE = re.compile(r'[<>:"|?*\x00-\x1f\x7f]|[. ]$')
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]")
_BYTE = re.compile(r"\(byte (\d+)\)")
_NODE_FIELDS, _EDGE_FIELDS = frozenset(Node.__struct_fields__), frozenset(Edge.__struct_fields__)


class Problem(NamedTuple):
    """pointer: RFC 6901, into the file; message: one line that names the node or edge."""

    code: str
    pointer: str
    message: str


def run(graph: str, *, root: str | None, as_json: bool, quiet: bool, **_: Any) -> int:
    """The verb. Exit 1 exactly where there is a problem."""
    place = None if root is None else Path(root)
    if place is not None and not place.is_dir():
        raise BadInput(f"--root {root}: expected the folder of a repository")
    found = problems(read_bytes(graph), place, name=graph)
    if as_json:
        print(msgspec.json.encode([one._asdict() for one in found]).decode())
    else:
        for one in found:
            print(f"{one.code} {one.pointer or '/'} {_line(one.message)}")
        if not found and not quiet:
            print(f"{graph}: sound", file=sys.stderr)
    return 1 if found else 0


def problems(data: bytes, root: Path | None = None, name: str = "graph") -> list[Problem]:
    """Every invariant that does not hold, in the order of the file.

    root: the repository on disk, to look the paths up in. Raises BadInput where the bytes are no JSON (with
    line and column) or of another schema. Linear in nodes and edges.
    """
    whole = _decoded(data, name)
    check = _Check(whole)
    check.structure()
    check.tree()
    check.places()
    check.features()
    check.signatures()
    check.flow()
    check.paths()
    if root is not None:
        check.on_disk(root)
    if check.typed:
        check.canonical(data)
    return sorted(dict.fromkeys(check.found), key=lambda one: (_place(one.pointer), one.code, one.message))


def edge_name(edge: Edge) -> str:
    """What tells two edges of one type between the same ends apart: the imported name, the datum that flows."""
    for key in ("name", "data_id"):
        value = edge.payload.get(key)
        if isinstance(value, str):
            return value
    return ""


def components(count: int, after: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strongly connected components with more than one member or a loop, of the graph 0..count-1 (Tarjan, without
    recursion); each sorted, by first member."""
    index, low = [-1] * count, [0] * count
    on_stack = bytearray(count)
    stack: list[int] = []
    found: list[list[int]] = []
    clock = 0
    for start in range(count):
        if index[start] != -1:
            continue
        work = [(start, 0)]
        while work:
            node, at = work.pop()
            if at == 0:
                index[node] = low[node] = clock
                clock += 1
                stack.append(node)
                on_stack[node] = 1
            deeper = False
            following = after[node]
            while at < len(following):
                other = following[at]
                at += 1
                if index[other] == -1:
                    work += [(node, at), (other, 0)]
                    deeper = True
                    break
                if on_stack[other]:
                    low[node] = min(low[node], index[other])
            if deeper:
                continue
            if low[node] == index[node]:
                members = []
                while True:
                    other = stack.pop()
                    on_stack[other] = 0
                    members.append(other)
                    if other == node:
                        break
                if len(members) > 1 or node in following:
                    found.append(sorted(members))
            if work:
                above = work[-1][0]
                low[above] = min(low[above], low[node])
    return sorted(found)


# ------------------------------------------------------------ reading


def _decoded(data: bytes, name: str) -> dict[str, Any]:
    try:
        whole = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        at = _BYTE.search(str(error))
        where = int(at[1]) if at else getattr(error, "start", len(data))
        before = data[:where]
        line, column = before.count(b"\n") + 1, where - (before.rfind(b"\n") + 1) + 1
        reason = "it begins with a byte order mark" if data.startswith(b"\xef\xbb\xbf") else str(error)
        told = readable(error) if isinstance(error, UnicodeDecodeError) else f"not JSON: {reason}"
        raise BadInput(f"{name}:{line}:{column}: {told}") from None
    if not isinstance(whole, dict):
        raise BadInput(f"{name}:1:1: expected an object with schema, nodes and edges")
    if whole.get("schema") != SCHEMA:
        raise BadInput(f"{name}: schema: expected {SCHEMA}, got {_short(whole.get('schema'))}")
    return whole


class _Check:
    """One pass over one file. nodes, edges: (place in the file, value) of those that are of the right types."""

    def __init__(self, whole: dict[str, Any]) -> None:
        self.whole = whole
        self.found: list[Problem] = []
        self.nodes: list[tuple[int, Node]] = []
        self.edges: list[tuple[int, Edge]] = []
        self.at: dict[str, int] = {}  # id to the place of its first node
        self.by_id: dict[str, Node] = {}
        self.claimed: set[str] = set()  # ids of all nodes, ill-typed ones too
        self.typed = True
        self.parents: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.children: dict[str, list[str]] = defaultdict(list)
        self.areas: dict[str, set[str]] = defaultdict(set)  # file to the areas its features are of

    def say(self, code: str, pointer: str, message: str) -> None:
        """A field that is missing, or left out as a default, has no place: the pointer then leads to what lacks it."""
        here: Any = self.whole
        for n, part in enumerate(steps := pointer.split("/")[1:]):
            try:
                here = here[int(part)] if isinstance(here, list) else here[part.replace("~1", "/").replace("~0", "~")]
            except (KeyError, IndexError, ValueError, TypeError):
                pointer = "".join("/" + step for step in steps[:n])
                break
        self.found.append(Problem(code, pointer, message))

    def structure(self) -> None:
        for key in sorted(self.whole.keys() - {"schema", "nodes", "edges"}):
            self.typed = False
            self.say("unknown-field", "/" + _escaped(key), f"{_short(key)}: a graph has schema, nodes and edges alone")
        for at, raw in self._items("nodes"):
            node = self._typed(at, raw, "nodes", Node, _NODE_FIELDS)
            if isinstance(raw, dict) and isinstance(raw.get("id"), str):
                self.claimed.add(raw["id"])
            if node is None:
                continue
            pointer = f"/nodes/{at}"
            if node.id in self.at:
                self.say("duplicate-id", f"{pointer}/id", f"{node.id}: also the id of /nodes/{self.at[node.id]}")
                continue
            self.at[node.id] = at
            self.by_id[node.id] = node
            self.nodes.append((at, node))
            if node.kind not in KINDS:
                self.say("bad-value", f"{pointer}/kind", f"{node.id}: kind {_short(node.kind)}: expected one of {', '.join(KINDS)}")  # fmt: skip
            if node.status not in STATUSES:
                self.say("bad-value", f"{pointer}/status", f"{node.id}: status {_short(node.status)}: expected one of {', '.join(STATUSES)}")  # fmt: skip
            if node.span and (len(node.span) != 2 or not 1 <= node.span[0] <= node.span[1]):
                self.say("bad-value", f"{pointer}/span", f"{node.id}: span {node.span}: expected first and last line, from 1")  # fmt: skip
        seen: dict[tuple[str, str, str, str], int] = {}
        for at, raw in self._items("edges"):
            edge = self._typed(at, raw, "edges", Edge, _EDGE_FIELDS)
            if edge is None:
                continue
            pointer = f"/edges/{at}"
            told = f"{edge.src} -{edge.type}-> {edge.dst}"
            if edge.type not in EDGES:
                self.say("bad-value", f"{pointer}/type", f"{told}: expected one of {', '.join(EDGES)}")
            if edge.confidence not in CONFIDENCES:
                self.say("bad-value", f"{pointer}/confidence", f"{told}: {_short(edge.confidence)}: expected one of {', '.join(CONFIDENCES)}")  # fmt: skip
            same = (edge.src, edge.dst, edge.type, edge_name(edge))
            if same in seen:
                self.say("duplicate-edge", pointer, f"{told}: also /edges/{seen[same]}")
                if edge.type == "contains":
                    continue
            seen.setdefault(same, at)
            whole = True
            for end in ("src", "dst"):
                value = getattr(edge, end)
                if value not in self.claimed:
                    self.say("dangling-edge", f"{pointer}/{end}", f"{told}: {value} is no node")
                whole &= value in self.by_id
            if whole:
                self.edges.append((at, edge))

    def _items(self, key: str) -> Iterable[tuple[int, Any]]:
        value = self.whole.get(key)
        if isinstance(value, list):
            return enumerate(value)
        self.typed = False
        self.say("bad-field", f"/{key}", f"{key}: expected an array, got {_short(value)}")
        return ()

    def _typed(self, at: int, raw: Any, array: str, kind: Any, fields: frozenset[str]) -> Any:
        """The value as its type; None where a required field is wrong. Each field that is wrong is named."""
        pointer = f"/{array}/{at}"
        if not isinstance(raw, dict):
            self.typed = False
            self.say("bad-field", pointer, f"expected an object, got {_short(raw)}")
            return None
        unknown = raw.keys() - fields
        who = str(raw.get("id") or f"{raw.get('src')} -{raw.get('type')}-> {raw.get('dst')}")
        for key in sorted(unknown):
            self.typed = False
            self.say("unknown-field", f"{pointer}/{_escaped(key)}", f"{who}: {_short(key)} is no field of the schema")
        if unknown:
            raw = {key: value for key, value in raw.items() if key not in unknown}
        while True:
            try:
                return msgspec.convert(raw, kind, strict=True)
            except msgspec.ValidationError as error:
                self.typed = False
                reason, _, place = str(error).rpartition(" - at ")
                steps = _STEP.findall(place)
                first = steps[0][0] if steps else ""
                inside = "".join("/" + (name or number) for name, number in steps if number != "...")
                told = f"{inside[1:]}: " if inside else ""
                self.say("bad-field", pointer + inside, f"{who}: {told}{(reason or str(error)).replace('`', '')}")
                if first not in raw:
                    return None
                raw = {key: value for key, value in raw.items() if key != first}

    # ------------------------------------------------------------ the tree

    def tree(self) -> None:
        top = self.by_id.get(ROOT)
        if top is None and ROOT not in self.claimed:
            self.say("no-root", "/nodes", "no node `.`: the tree has no root")
        elif top is not None and top.kind != "repo":
            self.say("no-root", f"/nodes/{self.at[ROOT]}/kind", f"`.` is the root and of kind repo, not {_short(top.kind)}")  # fmt: skip
        for at, edge in self.edges:
            if edge.type == "contains":
                self.parents[edge.dst].append((at, edge.src))
                self.children[edge.src].append(edge.dst)
        for at, node in self.nodes:
            above = self.parents.get(node.id, [])
            if node.id == ROOT:
                for edge_at, src in above:
                    self.say("many-parents", f"/edges/{edge_at}", f"the root is contained in {src}")
                continue
            if node.kind == "repo":
                self.say("no-root", f"/nodes/{at}/kind", f"{node.id}: only `.` is of kind repo")
            if not above:
                self.say("no-parent", f"/nodes/{at}", f"{node.id}: no contains edge leads to it")
            for edge_at, src in above[1:]:
                self.say("many-parents", f"/edges/{edge_at}", f"{node.id}: contained in {above[0][1]} and in {src}")
        for edge_at, edge in self.edges:
            if edge.type == "contains":
                self._level(edge_at, self.by_id[edge.src], self.by_id[edge.dst])
        reached = {ROOT}
        stack = [ROOT]
        roots = [node.id for _, node in self.nodes if not self.parents.get(node.id)]
        reached.update(roots)  # what hangs below a node without a parent is told once, for that node
        stack += roots
        while stack:
            for child in self.children.get(stack.pop(), ()):
                if child not in reached:
                    reached.add(child)
                    stack.append(child)
        lost = [(at, node.id) for at, node in self.nodes if node.id not in reached]
        if lost:
            number = {node_id: n for n, (_, node_id) in enumerate(lost)}
            after = [[number[c] for c in self.children.get(node_id, ()) if c in number] for _, node_id in lost]
            for members in components(len(lost), after):
                names = [lost[n][1] for n in members]
                self.say("contains-cycle", f"/nodes/{lost[members[0]][0]}", f"{_listed(names)}: contain each other")

    def _level(self, at: int, above: Node, below: Node) -> None:
        upper, lower = _LEVEL.get(above.kind), _LEVEL.get(below.kind)
        if upper is None or lower is None or below.kind == "repo":
            return  # told already, by its kind
        told = f"{below.id}, of kind {below.kind}, inside {above.id}, of kind {above.kind}"
        one_tree = above.kind == "repo" or (above.kind in SEMANTIC) == (below.kind in SEMANTIC)
        if not one_tree:
            self.say("level", f"/edges/{at}", f"{told}: meaning and files are two trees below the root")
        elif lower < upper:
            self.say("level", f"/edges/{at}", f"{told}: levels may only go down")
        elif below.kind in UNITS and above.kind in ("repo", "folder"):
            self.say("level", f"/edges/{at}", f"{told}: a unit stands in a file")
        elif below.kind in ("file", "area") and above.kind == below.kind:
            self.say("level", f"/edges/{at}", f"{told}: it stands in none of its own kind")

    def places(self) -> None:
        """Ids, paths and parents of folders, files and units tell the same."""
        for at, node in self.nodes:
            pointer = f"/nodes/{at}"
            if node.kind in ("folder", "file"):
                if node.id != node.path:
                    self.say("misplaced", f"{pointer}/path", f"{node.id}: its path is {node.path or 'missing'}; the id of a {node.kind} is its path")  # fmt: skip
                    continue
                expected = node.path.rpartition("/")[0] or ROOT
            elif node.kind in UNITS:
                holder = self.by_id.get(node.path)
                if node.path not in self.claimed or (holder is not None and holder.kind != "file"):
                    self.say("unit-file", f"{pointer}/path", f"{node.id}: its file {node.path or '(none)'} is not in the graph")  # fmt: skip
                if not node.qualname or node.id != f"{node.path}:{node.qualname}":
                    self.say("misplaced", pointer, f"{node.id}: the id of a {node.kind} is path:qualname, here {node.path}:{node.qualname}")  # fmt: skip
                    continue
                outer = node.qualname.rpartition(".")[0]
                expected = f"{node.path}:{outer}" if outer else node.path
            else:
                continue
            above = self.parents.get(node.id, ())
            if len(above) == 1 and above[0][1] != expected:
                self.say("misplaced", f"/edges/{above[0][0]}", f"{node.id}: contained in {above[0][1]}, and by its id in {expected}")  # fmt: skip

    def features(self) -> None:
        top: dict[str, str] = {}  # feature to the area it is of
        stack = [(node.id, node.id) for _, node in self.nodes if node.kind == "area"]
        while stack:
            area, here = stack.pop()
            for child in self.children.get(here, ()):
                if child not in top:
                    top[child] = area
                    stack.append((area, child))
        for at, node in self.nodes:
            if node.kind != "feature":
                continue
            if any(self.by_id[child].kind == "feature" for child in self.children.get(node.id, ())):
                continue
            if not node.path and not node.qualname and node.status == "proposed":
                continue  # a wish that nothing has been designed for yet
            pointer = f"/nodes/{at}/{'qualname' if node.qualname else 'path'}"
            named = f"{node.path}:{node.qualname}" if node.qualname else node.path
            held = self.by_id.get(named)
            if not node.path:
                self.say("feature-unit", f"/nodes/{at}", f"{node.id}: names no file or unit")
            elif named not in self.claimed:
                self.say("feature-unit", pointer, f"{node.id}: names {named}, which is not in the graph")
            elif held is not None and held.kind not in ("file", *UNITS):
                self.say("feature-unit", pointer, f"{node.id}: names {named}, a {held.kind}; expected a file or a unit")
            if node.id in top and node.path:
                self.areas[node.path].add(top[node.id])

    # ------------------------------------------------------------ signatures

    def signatures(self) -> None:
        told = [(at, node) for at, node in self.nodes if node.signature]
        for start in range(0, len(told), 500):
            some = told[start : start + 500]
            if not _parse_all([node for _, node in some]):
                for at, node in some:
                    if not _parse_all([node]):
                        self.say("signature", f"/nodes/{at}/signature", f"{node.id}: {_short(node.signature)}: not the header of {node.name} in Python {sys.version_info[0]}.{sys.version_info[1]}")  # fmt: skip

    # ------------------------------------------------------------ what comes before what

    def flow(self) -> None:
        flows = [(at, edge) for at, edge in self.edges if edge.type == "data_flow"]
        orders = [(at, edge) for at, edge in self.edges if edge.type == "order"]
        imports = [(at, edge) for at, edge in self.edges if edge.type == "imports"]
        if flows:
            used = {end for _, edge in flows for end in (edge.src, edge.dst)}
            for at, node in self.nodes:
                if node.kind == "area" and node.id not in used:
                    self.say("area-unused", f"/nodes/{at}", f"{node.id}: no data flows from or to it")
            for members, first in _circles(flows):
                self.say("flow-cycle", f"/edges/{first}", f"data flows in a circle: {_listed(members)}")
                told = set(members)
                flows = [(at, edge) for at, edge in flows if edge.src not in told or edge.dst not in told]
        if orders:
            self._chains(orders)
        self._together(flows, orders, imports)

    def _group(self, path: str) -> str:
        """Where a file has its place in an order: its area where it has one, else its folder."""
        areas = self.areas.get(path, set())
        return next(iter(areas)) if len(areas) == 1 else path.rpartition("/")[0] or ROOT

    def _chains(self, orders: list[tuple[int, Edge]]) -> None:
        groups: dict[str, list[tuple[int, Edge]]] = defaultdict(list)
        for at, edge in orders:
            one, other = self._group(edge.src), self._group(edge.dst)
            if one != other:
                self.say("order-chain", f"/edges/{at}", f"{edge.src} -order-> {edge.dst}: the one is of {one}, the other of {other}")  # fmt: skip
                continue
            groups[one].append((at, edge))
        planned: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for at, node in self.nodes:
            if node.kind == "file" and node.status in PLANNED and node.name != "__init__.py":
                planned[self._group(node.id)].append((at, node.id))
        for group, edges in groups.items():
            following, leading = Counter(edge.src for _, edge in edges), Counter(edge.dst for _, edge in edges)
            twice = next((at for at, edge in edges if following[edge.src] > 1 or leading[edge.dst] > 1), None)
            members = following.keys() | leading.keys()
            if twice is not None:
                self.say("order-chain", f"/edges/{twice}", f"{group}: a file comes before or after two; an order has one chain")  # fmt: skip
            elif len(edges) != len(members) - 1:
                self.say("order-chain", f"/edges/{edges[0][0]}", f"{group}: {len(members)} files and {len(edges)} order edges; a chain has one less edge than files")  # fmt: skip
            for at, name in planned.get(group, ()):
                if name not in members:
                    self.say("order-chain", f"/nodes/{at}", f"{name}: has no place in the order of {group}")

    def _together(self, flows: list[tuple[int, Edge]], orders: list[tuple[int, Edge]], imports: list[tuple[int, Edge]]) -> None:  # fmt: skip
        """One relation `comes before` over files and areas: where data flows from one area to another, every file of
        the first before every file of the second (through a begin and an end of each area, so that this stays
        linear); order as it runs; what is imported before what imports it."""
        number: dict[str, int] = {}
        after: list[list[int]] = []

        def at(key: str) -> int:
            if key not in number:
                number[key] = len(after)
                after.append([])
            return number[key]

        told: list[tuple[int, int, int, str]] = []
        for place, edge in flows:
            if edge.src != edge.dst:
                told.append((at(edge.src + "\0end"), at(edge.dst + "\0begin"), place, "data_flow"))
        flowing = {end for _, edge in flows for end in (edge.src, edge.dst)}
        for path, areas in self.areas.items():
            if len(areas) == 1 and path in self.by_id and (area := next(iter(areas))) in flowing:
                after[at(area + "\0begin")].append(at(path))
                after[at(path)].append(at(area + "\0end"))
        for area in flowing:
            after[at(area + "\0begin")].append(at(area + "\0end"))
        told += [(at(edge.src), at(edge.dst), place, "order") for place, edge in orders]
        told += [(at(edge.dst), at(edge.src), place, "imports") for place, edge in imports]
        for src, dst, *_ in told:
            after[src].append(dst)
        found = components(len(after), after)
        if not found:
            return
        names = {n: key.partition("\0")[0] for key, n in number.items()}
        home = {n: c for c, members in enumerate(found) for n in members}
        inside: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for src, dst, place, kind in told:
            if src in home and home[src] == home.get(dst):
                inside[home[src]].append((place, kind))
        for c, members in enumerate(found):
            kinds = {kind for _, kind in inside[c]}
            ids = list(dict.fromkeys(names[n] for n in members))
            if len(kinds) > 1 or (
                kinds == {"imports"} and any(self.by_id[one].status in PLANNED for one in ids if one in self.by_id)
            ):
                self.say("dependency-cycle", f"/edges/{min(inside[c])[0]}", f"{' and '.join(sorted(kinds))} admit no order of {_listed(sorted(ids))}")  # fmt: skip

    # ------------------------------------------------------------ paths

    def paths(self) -> None:
        folders: dict[str, list[tuple[int, Node]]] = defaultdict(list)
        packages = {node.path.rpartition("/")[0] for _, node in self.nodes if node.path.endswith("/__init__.py")}
        holding = {node.path.rpartition("/")[0] for _, node in self.nodes if node.kind == "file" and node.path.endswith(".py")}  # fmt: skip
        if any(node.id == "__init__.py" for _, node in self.nodes):
            packages.add("")
        judged: dict[tuple[str, bool], tuple[str, str] | None] = {}
        for at, node in self.nodes:
            planned = node.status in PLANNED
            for key, path in (("path", node.path), *((f"scopes/{n}", scope) for n, scope in enumerate(node.scopes))):
                if not path or path == ROOT:
                    continue
                if (path, planned) not in judged:
                    judged[path, planned] = judged_path(path, planned)
                wrong = judged[path, planned]
                if wrong is not None and (node.kind not in UNITS or node.path not in self.claimed):
                    self.say(wrong[0], f"/nodes/{at}/{key}", f"{node.id}: {wrong[1]}")
            if node.kind not in ("file", "folder"):
                continue
            folders[unicodedata.normalize("NFC", node.path).casefold()].append((at, node))
            module = _module(node, holding)
            if planned and module is not None:
                if keyword.iskeyword(module) or not module.isidentifier():
                    self.say("module-name", f"/nodes/{at}/path", f"{node.id}: no import statement can name a module {_short(module)}")  # fmt: skip
                elif module in sys.stdlib_module_names and node.path.rpartition("/")[0] not in packages:
                    self.say("stdlib-name", f"/nodes/{at}/path", f"{node.id}: hides the standard library's {module} from whatever is imported beside it")  # fmt: skip
        for alike in folders.values():
            if len(alike) > 1:
                for at, node in alike:
                    if node.status in PLANNED:
                        other = next(one.path for _, one in alike if one is not node)
                        self.say("path-case", f"/nodes/{at}/path", f"{node.id}: differs from {other} in case alone")

    def on_disk(self, root: Path) -> None:
        """Folders and files as they are on disk; of a plan only what is said to be written."""
        links: dict[str, str | None] = {}  # folder to what is wrong on the way to it
        real = os.path.realpath(root)
        for at, node in self.nodes:
            if node.kind not in ("file", "folder") or node.status in ("proposed", "designed", "failed"):
                continue
            if judged_path(node.path, False) is not None:
                continue  # told already; nothing outside is looked at
            pointer = f"/nodes/{at}/path"
            way = self._way(node.path.rpartition("/")[0], root, real, links)
            if way is not None:
                self.say("link-escapes", pointer, f"{node.id}: {way}")
                continue
            full = os.path.join(root, node.path)
            try:
                mode = os.lstat(full).st_mode
            except (OSError, ValueError):
                self.say("missing-file", pointer, f"{node.id}: not in {root}")
                continue
            if stat.S_ISLNK(mode) and not _inside(full, real):
                self.say("link-escapes", pointer, f"{node.id}: a link that leads out of {root}")
            elif node.kind == "file" and not stat.S_ISREG(mode):
                self.say("not-regular", pointer, f"{node.id}: no regular file")
            elif node.kind == "folder" and not stat.S_ISDIR(mode):
                self.say("not-regular", pointer, f"{node.id}: no folder")

    def _way(self, folder: str, root: Path, real: str, known: dict[str, str | None]) -> str | None:
        steps = []
        while folder and folder not in known:
            steps.append(folder)
            folder = folder.rpartition("/")[0]
        wrong = known.get(folder) if folder else None
        for step in reversed(steps):
            if wrong is None and os.path.islink(os.path.join(root, step)) and not _inside(os.path.join(root, step), real):  # fmt: skip
                wrong = f"its folder {step} is a link that leads out of {root}"
            known[step] = wrong
        return wrong

    def canonical(self, data: bytes) -> None:
        saved = Graph([msgspec.convert(raw, Node) for raw in self.whole["nodes"]],
                      [msgspec.convert(raw, Edge) for raw in self.whole["edges"]]).dumps()  # fmt: skip
        if saved == data:
            return
        pairs = zip(data.split(b"\n"), saved.split(b"\n"), strict=False)
        at = next((n for n, (one, other) in enumerate(pairs, 1) if one != other), "last")
        self.say("not-canonical", "", f"line {at}: not as the tool saves it; the same graph may then have two files")


# ------------------------------------------------------------ single judgements


def judged_path(path: str, planned: bool) -> tuple[str, str] | None:
    """(code, why) where a path must not be read or written. A backslash parts names on Windows, so `..` between
    two of them counts; by itself it may stand in a name that exists, and in none that is planned."""
    told = _short(path)
    if "\0" in path:
        return "path-escape", f"path {told}: holds a NUL"
    if path.startswith(("/", "\\")) or _DRIVE.match(path):
        return "path-escape", f"path {told}: absolute; expected one below the root"
    for part in re.split(r"[/\\]", path):
        if part == "..":
            return "path-escape", f"path {told}: leaves the root"
        if part.rstrip(". ").casefold() in (".git", "git~1"):
            return "path-escape", f"path {told}: enters git's own folder"
    for part in path.split("/"):
        if part in ("", "."):
            return "path-name", f"path {told}: an empty name in it"
        if len(part.encode("utf-8", "surrogatepass")) > MOST_NAME_BYTES:
            return "path-name", f"path {told}: a name of more than {MOST_NAME_BYTES} bytes"
        if planned:
            if "\\" in part:
                return "path-escape", f"path {told}: a backslash parts names elsewhere"
            if part.partition(".")[0].rstrip(" ").casefold() in _RESERVED:
                return "path-name", f"path {told}: {_short(part)} is a device on Windows"
            if _HOSTILE.search(part):
                return "path-name", f"path {told}: {_short(part)} is no name on every system"
    return None


def _module(node: Node, holding: set[str]) -> str | None:
    """The module a file or folder is; None for what cannot be imported, and for `__init__.py`, told by its folder."""
    name = node.path.rpartition("/")[2]
    if node.kind == "folder":
        return name if node.path in holding else None
    return name[:-3] if name.endswith(".py") and name not in ("__init__.py", "__main__.py") else None


def _parse_all(nodes: list[Node]) -> bool:
    """Whether each signature is the header of one definition of its node's name; parsed together, as parsing costs."""
    if any("\n" in node.signature or "\r" in node.signature or _commented(node.signature) for node in nodes):
        return False
    try:  # the body on a line of its own: a signature that brings one does not parse
        body = ast.parse("".join(f"{node.signature}:\n pass\n" for node in nodes)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if len(body) != len(nodes):
        return False
    for one, node in zip(body, nodes, strict=True):
        wanted: Any = ast.ClassDef if node.kind == "class" else (ast.FunctionDef, ast.AsyncFunctionDef)
        if not isinstance(one, wanted) or one.name != unicodedata.normalize("NFKC", node.name):
            return False
    return True


def _commented(signature: str) -> bool:
    if "#" not in signature:
        return False
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(signature + ":\n pass\n").readline))
    except (tokenize.TokenError, SyntaxError):
        return True
    return any(token.type == tokenize.COMMENT for token in tokens)


def _circles(edges: list[tuple[int, Edge]]) -> list[tuple[list[str], int]]:
    """(members, place of the first edge among them) of every circle."""
    number: dict[str, int] = {}
    for _, edge in edges:
        number.setdefault(edge.src, len(number))
        number.setdefault(edge.dst, len(number))
    after: list[list[int]] = [[] for _ in number]
    for _, edge in edges:
        after[number[edge.src]].append(number[edge.dst])
    names = list(number)
    found = []
    for members in components(len(names), after):
        ids = {names[n] for n in members}
        found.append((sorted(ids), min(at for at, edge in edges if edge.src in ids and edge.dst in ids)))
    return found


def _inside(path: str, real: str) -> bool:
    target = os.path.realpath(path)
    return target == real or target.startswith(real + os.sep)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return ascii(text[:57] + "..." if len(text) > 60 else text)


def _line(text: str) -> str:
    """One line, whatever an id holds."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _place(pointer: str) -> tuple[int, str, int, str]:
    array, _, rest = pointer[1:].partition("/")
    number, _, field = rest.partition("/")
    return (0 if not pointer else 1, array, int(number) if number.isdigit() else -1, field)


__all__ = ["CODES", "Problem", "components", "edge_name", "judged_path", "problems", "run"]
