"""The graph in forms that other tools read: the JSON of the paper's own code both ways, DOT, GraphML, Mermaid, one HTML page.

DOT, Mermaid and, above units, GraphML show folders or files: what lies below is added up into them
(`condensed`). GraphML of units holds every node and edge. The page (page.html) holds the data and a script and
asks for nothing else, so it opens from a disk without a network.

The reference's JSON is reference.py's.
"""

from __future__ import annotations

import html
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tenfold_shared import BadInput
from zerorepo.graph import ROOT, SEMANTIC, UNITS, Graph, Node, read_bytes
from zerorepo.publish import publish
from zerorepo.tree import above_of, expect_tree, family, preorder
from zerorepo.validate import edge_name

LEVELS = {"ref": "units", "graphml": "units", "html": "files", "dot": "folders", "mermaid": "folders"}  # defaults
FAMILIES = ("imports", "invokes", "inherits", "tests", "data_flow", "order")  # the three kinds of import are one
_CONFIDENCE = ("exact", "inferred", "name_only")
MERMAID_EDGES, MERMAID_CHARACTERS = 500, 50_000  # what its renderers take by default


def run(graph: str, *, form: str, level: str | None, output: str | None, overwrite: bool, quiet: bool, **_: Any) -> int:
    """The verb `export`."""
    data = read_bytes(graph)
    loaded = Graph.loads(data, graph)
    expect_tree(loaded, graph)
    level = level or LEVELS[form]
    name = _name(loaded, graph)
    notes: list[str] = []
    if form == "ref":
        from zerorepo.reference import to_ref

        made, notes = to_ref(loaded, name, level)
        text = msgspec.json.format(msgspec.json.encode(made), indent=2)
    elif form == "graphml":
        text = to_graphml(loaded, level).encode()
    elif form == "html":
        text = to_html(loaded, name, level).encode()
    elif form == "dot":
        text = to_dot(loaded, name, level).encode()
    else:
        drawn, notes = to_mermaid(loaded, level)
        text = drawn.encode()
    publish("export", text, output, inputs=[data], options={"to": form, "level": level}, overwrite=overwrite)
    for note in notes:
        print(f"zerorepo: {note}", file=sys.stderr)
    return 0


def run_import(file: str, *, output: str | None, overwrite: bool, quiet: bool, **_: Any) -> int:
    """The verb `import`. Exit 1 where something in the file could not be taken over; each is named on stderr."""
    data = read_bytes(file)
    from zerorepo.reference import from_ref

    graph, complaints = from_ref(data, file)
    publish("import", graph.dumps(), output, inputs=[data], options={}, overwrite=overwrite)
    for one in complaints:
        print(f"zerorepo: {file}: {one}", file=sys.stderr)
    return 1 if complaints else 0


def _name(graph: Graph, path: str) -> str:
    """A name for the repository: of the package it is, else of the folder it lies in."""
    root = graph.by_id.get(ROOT)
    if root is not None and root.name:
        return root.name
    if path == "-":
        return "repository"
    from zerorepo.encoder import root_of

    try:
        return root_of(path).resolve().name or "repository"
    except BadInput:
        return Path(path).resolve().parent.name or "repository"


# ------------------------------------------------------------ what lies below, added up


class Condensed(NamedTuple):
    """nodes: of the level and above, in preorder; edges: (src, dst) to how many of each family lie below."""

    nodes: list[Node]
    edges: dict[tuple[str, str], Counter[str]]


def condensed(graph: Graph, level: str) -> Condensed:
    """The structural graph at a level (folders, files or units): an edge below it counts for the nodes it lies in."""
    kinds = {"folders": ("repo", "folder"), "files": ("repo", "folder", "file"), "units": ("repo", "folder", "file", *UNITS)}  # fmt: skip
    nodes = [node for node in preorder(graph) if node.kind in kinds[level]]
    shown = {node.id for node in nodes}
    above = {edge.dst: edge.src for edge in graph.edges if edge.type == "contains"}
    home: dict[str, str] = {}
    for node in graph.nodes:
        here = node.id
        way = []
        while here not in shown and here not in home and here in above:
            way.append(here)
            here = above[here]
        for step in way:
            home[step] = home.get(here, here)
    edges: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for edge in graph.edges:
        if edge.type == "contains" or graph.by_id[edge.src].kind in SEMANTIC:
            continue
        src, dst = home.get(edge.src, edge.src), home.get(edge.dst, edge.dst)
        if src != dst:
            edges[src, dst][family(edge.type)] += 1
    return Condensed(nodes, dict(sorted(edges.items())))


def _counted(tally: Counter[str]) -> str:
    words = {"imports": "imports", "invokes": "calls", "inherits": "inherits", "tests": "tests", "data_flow": "data flow", "order": "order"}  # fmt: skip
    return ", ".join(f"{tally[one]} {words[one]}" for one in FAMILIES if tally[one])


def _bare(found: Condensed) -> bool:
    """Whether the root stands for files of its own in a picture of folders, or for all there is."""
    return len(found.nodes) == 1 or any(ROOT in pair for pair in found.edges)


# ------------------------------------------------------------ DOT and Mermaid


def to_dot(graph: Graph, name: str, level: str = "folders") -> str:
    """Graphviz: arrows from what depends to what it depends on, their width and tooltip by how much."""
    found = condensed(graph, level)
    lines = [f"digraph {_quoted(name)} {{", "  rankdir=LR;", '  node [shape=box, style="rounded,filled", fillcolor=white, fontname="Helvetica"];', '  edge [color="#5b7aa6"];']  # fmt: skip
    number = {node.id: n for n, node in enumerate(found.nodes)}
    if level == "folders":
        for node in found.nodes:
            if node.id != ROOT or _bare(found):
                lines.append(f"  n{number[node.id]} [label={_quoted(node.id if node.id != ROOT else name)}];")
    else:
        lines += _dot_boxes(found.nodes, number, name)
    for (src, dst), tally in found.edges.items():
        if src not in number or dst not in number:
            continue
        weight = sum(tally.values())
        width = 1 + min(4.0, weight.bit_length() / 2)
        style = "" if tally["imports"] else ", style=dashed"
        lines.append(f"  n{number[src]} -> n{number[dst]} [penwidth={width:g}, tooltip={_quoted(_counted(tally))}{style}];")  # fmt: skip
    return "\n".join([*lines, "}", ""])


def _dot_boxes(nodes: Sequence[Node], number: dict[str, int], name: str) -> Iterator[str]:
    """Folders, and at level units files and classes, as nested clusters; a cluster's own node has no border."""
    kids: dict[str, list[Node]] = defaultdict(list)
    for one in nodes:
        if one.id != ROOT:
            kids[above_of(one.id)].append(one)
    stack: list[tuple[Node | None, int]] = [(nodes[0], 1)]  # None closes a cluster
    node: Node | None
    while stack:
        node, depth = stack.pop()
        pad = "  " * depth
        if node is None:
            yield f"{pad}}}"
            continue
        label = name if node.id == ROOT else (node.path.rpartition("/")[2] if not node.qualname else node.name)
        inside = kids.get(node.id, [])
        if not inside:
            tip = f", tooltip={_quoted(node.id)}"
            yield f"{pad}n{number[node.id]} [label={_quoted(label)}{tip}];"
            continue
        yield f"{pad}subgraph cluster_{number[node.id]} {{"
        yield f"{pad}  label={_quoted(label)};"
        if node.kind not in ("repo", "folder"):
            yield f"{pad}  n{number[node.id]} [label={_quoted(label)}, shape=plaintext];"
        stack.append((None, depth))
        stack += [(inner, depth + 1) for inner in reversed(inside)]


def _quoted(text: str) -> str:
    """A DOT string: in one, only the quote is escaped, and a backslash begins an escape of labels."""
    return '"' + _controls(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def to_mermaid(graph: Graph, level: str = "folders") -> tuple[str, list[str]]:
    """(flowchart, notes): notes say where it is larger than what renderers take without being told."""
    found = condensed(graph, level)
    number = {node.id: n for n, node in enumerate(found.nodes)}
    lines = ["flowchart LR"]
    if level == "folders":
        lines += [
            f'  n{number[node.id]}["{_mermaid(node.id)}"]' for node in found.nodes if node.id != ROOT or _bare(found)
        ]
    else:
        by_folder: dict[str, list[Node]] = defaultdict(list)
        for node in found.nodes:
            if node.kind == "file" or (node.kind in UNITS and level == "units"):
                by_folder[node.path if node.kind in UNITS else above_of(node.id)].append(node)
        for folder, inside in by_folder.items():
            lines.append(f'  subgraph s{number[folder]}["{_mermaid(folder)}"]')
            for node in inside:
                lines.append(f'    n{number[node.id]}["{_mermaid(node.qualname or node.name)}"]')
            lines.append("  end")
    count = 0
    for (src, dst), tally in found.edges.items():
        if src in number and dst in number:
            arrow = "-->" if tally["imports"] else "-.->"
            lines.append(f"  n{number[src]} {arrow}|{sum(tally.values())}| n{number[dst]}")
            count += 1
    text = "\n".join([*lines, ""])
    notes = []
    if count > MERMAID_EDGES or len(text) > MERMAID_CHARACTERS:
        coarser = "" if level == "folders" else "; --level folders is smaller"
        notes.append(f"mermaid: {count} edges, {len(text):,} characters: renderers stop at {MERMAID_EDGES} and {MERMAID_CHARACTERS:,} unless their maxEdges and maxTextSize are raised{coarser}")  # fmt: skip
    return text, notes


def _mermaid(text: str) -> str:
    """Text inside a quoted label: Mermaid's own character codes, so that neither quotes nor markup end it."""
    return "".join(letter if letter.isalnum() or letter in " _-./,+=" else f"#{ord(letter)};" for letter in _controls(text))  # fmt: skip


def _controls(text: str) -> str:
    """Control characters and line ends as escapes: every form here is one of lines."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


# ------------------------------------------------------------ GraphML

_XML_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NODE_KEYS = {"kind": "string", "name": "string", "path": "string", "qualname": "string", "signature": "string", "doc": "string",
              "features": "string", "language": "string", "status": "string", "reason": "string", "start": "int", "end": "int"}  # fmt: skip
_EDGE_KEYS = {"type": "string", "confidence": "string", "name": "string", "resolved": "string", "weight": "int"}


def to_graphml(graph: Graph, level: str = "units") -> str:
    """GraphML. At level units every node and edge, each edge with a type and an id; above, edges added up, `weight`
    for how many. Features are joined by `; `. Characters that XML cannot hold become U+FFFD."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">']
    lines += [f'  <key id="n_{key}" for="node" attr.name="{key}" attr.type="{kind}"/>' for key, kind in _NODE_KEYS.items()]  # fmt: skip
    lines += [f'  <key id="e_{key}" for="edge" attr.name="{key}" attr.type="{kind}"/>' for key, kind in _EDGE_KEYS.items()]  # fmt: skip
    lines.append('  <graph id="rpg" edgedefault="directed">')
    if level == "units":
        nodes = sorted(graph.nodes, key=lambda node: node.id)
        edges = [
            (edge.src, edge.dst, {"type": edge.type, "confidence": edge.confidence, "name": edge_name(edge), "resolved": str(edge.payload.get("resolved") or "")})
            for edge in sorted(graph.edges, key=lambda one: (one.src, one.dst, one.type, edge_name(one)))
        ]  # fmt: skip
    else:
        found = condensed(graph, level)
        nodes = found.nodes
        shown = {node.id for node in nodes}
        edges = [(above_of(node.id), node.id, {"type": "contains"}) for node in nodes if node.id != ROOT]
        for (src, dst), tally in found.edges.items():
            edges += [(src, dst, {"type": kind, "weight": str(tally[kind])}) for kind in FAMILIES if tally[kind] and src in shown and dst in shown]  # fmt: skip
    for node in nodes:
        told = {"kind": node.kind, "name": node.name, "path": node.path, "qualname": node.qualname, "signature": node.signature, "doc": node.doc,
                "features": "; ".join(node.features), "language": node.language, "status": node.status, "reason": node.reason}  # fmt: skip
        if node.span:
            told |= {"start": str(node.span[0]), "end": str(node.span[1])}
        lines.append(f'    <node id="{_xml(node.id)}">{_xml_data("n", told)}</node>')
    for at, (src, dst, told) in enumerate(edges):
        lines.append(f'    <edge id="e{at}" source="{_xml(src)}" target="{_xml(dst)}">{_xml_data("e", told)}</edge>')
    return "\n".join([*lines, "  </graph>", "</graphml>", ""])


def _xml_data(prefix: str, told: dict[str, str]) -> str:
    return "".join(f'<data key="{prefix}_{key}">{_xml(value)}</data>' for key, value in told.items() if value)


def _xml(text: str) -> str:
    """Text or an attribute; a line end in an attribute would be read as a blank."""
    clean = html.escape(_XML_ILLEGAL.sub("\ufffd", text), quote=True)
    return clean.replace("\n", "&#10;").replace("\r", "&#13;").replace("\t", "&#9;")


# ------------------------------------------------------------ the page


def to_html(graph: Graph, name: str, level: str = "files") -> str:
    """One page with everything in it. level: how far the picture unfolds; details always go down to units."""
    nodes = preorder(graph)
    number = {node.id: n for n, node in enumerate(nodes)}
    above = {edge.dst: number[edge.src] for edge in graph.edges if edge.type == "contains"}
    kinds = list(dict.fromkeys(node.kind for node in nodes))
    rows: list[list[Any]] = []
    for node in nodes:
        unit = f"{node.path}:{node.qualname}" if node.qualname else node.path
        row: list[Any] = [
            kinds.index(node.kind), above.get(node.id, -1), _label(node), node.features or None, node.signature or None, node.doc or None,
            node.span or None, node.reason or None, number.get(unit) if node.kind == "feature" else None,
            node.id if node.kind in SEMANTIC or ":" in node.path else None,
        ]  # fmt: skip
        while row[-1] is None:
            row.pop()
        rows.append(row)
    edges: list[int] = []
    drawn = [edge for edge in graph.edges if edge.type != "contains"]
    for edge in sorted(drawn, key=lambda one: (number[one.src], number[one.dst], one.type, edge_name(one))):
        confidence = _CONFIDENCE.index(edge.confidence) if edge.confidence in _CONFIDENCE else 0
        edges += (number[edge.src], number[edge.dst], FAMILIES.index(family(edge.type)), confidence)
    count = Counter(node.kind for node in nodes)
    units = sum(count[kind] for kind in UNITS)
    unparsed = sum(node.status == "unparsed" for node in nodes)
    counts = [[count["file"], "file"], [units, "unit"], [len(drawn), "dependency edge"], *([[unparsed, "unparsed file"]] if unparsed else [])]  # fmt: skip
    data = {"name": name, "level": level, "kinds": kinds, "types": FAMILIES, "counts": counts, "nodes": rows, "edges": edges}  # fmt: skip
    # In a script element only `<` can end it or begin a comment; JSON reads the escape as the same character.
    text = msgspec.json.encode(data).decode().replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")  # fmt: skip
    page = resources.files("zerorepo").joinpath("page.html").read_text(encoding="utf-8")
    head, _, tail = page.replace("__TITLE__", html.escape(_controls(name))).partition("__DATA__")
    return head + text + tail


def _label(node: Node) -> str:
    if node.kind in SEMANTIC:
        return node.name
    return node.qualname.rpartition(".")[2] if node.qualname else node.id.rpartition("/")[2]
