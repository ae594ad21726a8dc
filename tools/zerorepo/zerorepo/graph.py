"""The Repository Planning Graph `rpg/1`: its nodes, its edges, and the one file form it has.

Everything else in the package reads or writes a `Graph`. This module knows the schema and how equal
graphs come to be equal bytes; it knows nothing of Python source (parse.py), of how names resolve
(resolve.py) or of what makes a graph valid (validate.py).

Structure and meaning are one tree read twice (arXiv 2509.16198 §2.1): below the root `.` hang folders,
files, classes, functions and methods, and beside them, where a model or a plan named them, areas,
categories, groups and features; a feature node names its unit by `path` and `qualname`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any

import msgspec

from tenfold_shared import BadInput, unread
from tenfold_shared.jsonl import write_atomic
from tenfold_shared.records import readable

SCHEMA = "rpg/1"
ROOT = "."
KINDS = ("repo", "area", "category", "group", "feature", "folder", "file", "class", "function", "method")
UNITS = ("class", "function", "method")
SEMANTIC = ("area", "category", "group", "feature")
STATUSES = ("proposed", "designed", "stubbed", "tested", "done", "failed", "unparsed")
IMPORTS = ("imports", "imports_lazy", "imports_typing")
EDGES = ("contains", "data_flow", "order", *IMPORTS, "invokes", "inherits", "tests")
CONFIDENCES = ("exact", "inferred", "name_only")


class Import(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """One bound name of an import statement, as written. Fields stand in the order of the file form."""

    module: str  # with its leading dots
    alias: str = ""
    name: str = ""  # of `from module import name`; "*" for a star; "" for `import module`
    scope: str = ""  # qualname of the function or class whose body holds the statement
    when: str = ""  # "", "lazy" (inside a function) or "typing" (under TYPE_CHECKING)


class Node(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A node. Fields stand in alphabetical order, which is the order of keys in the file.

    `uses`, `bases`, `returns`, `names`, `imports` and `exports` are what the file says of itself before any
    name is looked up; the dependency edges are a function of them alone, which is what lets `update` read
    only the files that changed.
    """

    bases: list[str] = []  # of a class, as written
    decorators: list[str] = []
    doc: str = ""  # first paragraph of the docstring
    exports: list[str] | None = None  # of a file: its `__all__`, where that is literal
    features: list[str] = []  # short phrases: what it does
    id: str
    imports: list[Import] = []  # of a file, in source order
    kind: str
    language: str = ""  # of a file that is not Python
    name: str = ""
    names: dict[str, str] = {}  # variables of a module, attributes of a class: the expression they hold, or ""
    path: str = ""  # of its file or folder
    provenance: str = ""  # what the features rest on: name, doc, or the model and its request key
    qualname: str = ""
    reason: str = ""  # why a file is unparsed
    returns: str = ""  # expression of the value a function gives, where it is known
    scopes: list[str] = []  # of an area, category or group: the folders its files lie in
    sha256: str = ""  # of a unit's normalised source; of a file's bytes
    signature: str = ""
    span: list[int] = []  # first and last line, 1-based, decorators included
    status: str = "done"
    uses: list[str] = []  # what it calls, as written: `nx.Graph`, `self.add`, `?.close`

    def __post_init__(self) -> None:
        self.status = intern(self.status)  # msgspec leaves a default out where it is the very object


class Edge(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A directed edge; `src` depends on, contains or precedes `dst`."""

    confidence: str = "exact"
    dst: str
    payload: dict[str, Any] = {}
    src: str
    type: str

    def __post_init__(self) -> None:
        self.confidence = intern(self.confidence)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    edges: list[Edge]
    nodes: list[Node]
    schema: str


_encode = msgspec.json.Encoder(order="deterministic").encode
_decoder = msgspec.json.Decoder(_File)


def file_of(node_id: str) -> str:
    """`pkg/a.py` of `pkg/a.py:Class.method`; a folder's or a file's id is its path."""
    return node_id.partition(":")[0]


def mark_of(decorator: str) -> str:
    """The last name of a decorator, its arguments left out: `setter` of `x.setter`, `lru_cache` of `functools.lru_cache(1)`."""
    return decorator.partition("(")[0].rpartition(".")[2].strip()


class Graph:
    """Nodes and edges. Treat one as a value: the look-up tables are made once, on first use."""

    def __init__(self, nodes: Iterable[Node] = (), edges: Iterable[Edge] = ()) -> None:
        self.nodes = list(nodes)
        self.edges = list(edges)

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def outgoing(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            found[edge.src].append(edge)
        return found

    @cached_property
    def incoming(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            found[edge.dst].append(edge)
        return found

    def children(self, node_id: str) -> list[Node]:
        """Contained nodes, in order of place: files by path, units by line."""
        inside = [self.by_id[edge.dst] for edge in self.outgoing.get(node_id, ()) if edge.type == "contains"]
        return sorted(inside, key=lambda node: (node.span if node.kind in UNITS else [], node.id))

    def parent(self, node_id: str) -> Node | None:
        return next((self.by_id[e.src] for e in self.incoming.get(node_id, ()) if e.type == "contains"), None)

    def dumps(self) -> bytes:
        """The canonical file: sorted, one node or edge a line, LF, no time in it."""
        edges = sorted([(edge.src, edge.dst, edge.type, _encode(edge)) for edge in self.edges])
        nodes = sorted(((node.id, node) for node in self.nodes), key=lambda pair: pair[0])
        lines = [b'{"edges":[', b",\n".join([line for *_, line in edges]), b'],"nodes":[']
        lines += [b",\n".join([_encode(node) for _, node in nodes]), b'],"schema":' + _encode(SCHEMA) + b"}", b""]
        return b"\n".join(lines)

    def save(self, path: str | Path) -> None:
        write_atomic(path, self.dumps())

    @classmethod
    def loads(cls, data: bytes, name: str = "graph") -> Graph:
        """Raises BadInput where the bytes are no `rpg/1` graph, words outside the schema included; what a graph means is
        validate's to judge."""
        try:
            found = _decoder.decode(data)
        except msgspec.ValidationError as error:
            declared = _declared_schema(data)
            if declared is not None and declared != SCHEMA:
                raise BadInput(
                    f"{name}: schema: expected {SCHEMA}, got {declared!r}; another version made it"
                ) from None
            raise BadInput(f"{name}: not an {SCHEMA} graph: {readable(error)}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{name}: {readable(error)}") from None
        if found.schema != SCHEMA:
            raise BadInput(f"{name}: schema: expected {SCHEMA}, got {found.schema!r}")
        for node in found.nodes:
            if node.kind not in KINDS or node.status not in STATUSES or len(node.span) not in (0, 2) or not node.id:
                raise BadInput(f"{name}: node {node.id!r}: a kind, status, span or id outside {SCHEMA}; `zerorepo validate` names all that is wrong")  # fmt: skip
        for edge in found.edges:
            if edge.type not in EDGES or edge.confidence not in CONFIDENCES:
                raise BadInput(f"{name}: {edge.src} -{edge.type}-> {edge.dst}: a type or confidence outside {SCHEMA}; `zerorepo validate` names all that is wrong")  # fmt: skip
        return cls(found.nodes, found.edges)

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        return cls.loads(read_bytes(path), str(path))


def one_line(text: str) -> str:
    """Text of a repository as it may go to a terminal: nothing that moves a cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes, `-` being stdin. Raises BadInput in one line where it cannot be read."""
    import sys

    if str(path) == "-":
        if sys.stdin is None:
            raise BadInput("-: stdin is closed")
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unread(path, error) from None


def _declared_schema(data: bytes) -> Any:
    try:
        whole = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return whole.get("schema") if isinstance(whole, dict) else None
