"""Other forms: read back by networkx, by parsers and by ours; hostile texts stay texts; the pitfalls of the paper's own form are named."""

import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_trees import Author, graph_of

from tenfold_shared import BadInput
from zerorepo import Edge, Graph, Node, WorkTree, encode
from zerorepo.export import MERMAID_EDGES, condensed, to_dot, to_graphml, to_html, to_mermaid
from zerorepo.graph import IMPORTS, SEMANTIC
from zerorepo.lift import Overlay, attach
from zerorepo.reference import from_ref, to_ref
from zerorepo.tree import preorder
from zerorepo.validate import problems

COMMAND = Path(sys.executable).parent / "zerorepo"
HOSTILE = (
    "</script><img src=x onerror=alert(1)> <!-- ]]> & \"q\" 's' `b` \\N{BEL} \\ end--> {x} $y #z; |p| \x0c\x1b\u2028"
)
FILES = {
    "pkg/__init__.py": "from pkg.a import f\n",
    "pkg/a.py": f'"""{HOSTILE}"""\n\nclass C:\n    """A thing."""\n\n    def m(self, x="</script>"): return f()\n\ndef f(y: "<b>" = 1): return C().m()\n',
    "pkg/deep/er/b.py": "import pkg.a as a\n\ndef g():\n    import top\n    return a.f()\n",
    'we"ird & <file>.py': "from pkg.a import C\n\nclass D(C): pass\n",
    "top.py": "import typing\nif typing.TYPE_CHECKING:\n    from pkg.deep.er import b\n\ndef h(): pass\n",
    "tests/test_a.py": "from pkg.a import f\n\ndef test_f(): f()\n",
    "back\\slash.py": "",
    "native.c": "int main(void) { return 0; }\n",
    "bad.py": "def (:\n",
}  # fmt: skip
GRAPH = graph_of(FILES)
PLACES = {
    "pkg/a.py": ("reading", "files", "text"),
    "pkg/deep/er/b.py": ("reading", "folders", "walk"),
    "top.py": ("serving", "web", "http"),
}
LIFTED = attach(GRAPH, Overlay({"pkg/a.py:f": (["open the file", "read its lines"], "model k")}, PLACES))
SHARED_PACKAGE = Path(__file__).parents[2] / "shared" / "tenfold_shared"


def edges(graph: Graph) -> Counter[tuple[str, str, str]]:
    return Counter((edge.src, edge.dst, edge.type) for edge in graph.edges)


# ------------------------------------------------------------ what lies below, added up


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["folders", "files", "units"]))
def test_edges_are_added_up_into_what_they_lie_in(rng, level):
    """Against the same by string operations on ids alone."""
    graph = graph_of(Author(rng).tree())
    found = condensed(graph, level)
    kinds = {node.id: node.kind for node in graph.nodes}

    def home(node_id: str) -> str:
        path = node_id if level == "units" else node_id.partition(":")[0]
        return path if level != "folders" or kinds[path] in ("folder", "repo") else path.rpartition("/")[0] or "."

    expected: Counter[tuple[str, str, str]] = Counter()
    for edge in graph.edges:
        src, dst = home(edge.src), home(edge.dst)
        if edge.type != "contains" and src != dst:
            expected[src, dst, "imports" if edge.type in IMPORTS else edge.type] += 1
    assert Counter({(*pair, kind): n for pair, tally in found.edges.items() for kind, n in tally.items()}) == expected


def test_preorder_holds_every_node_after_its_parent():
    order = {node.id: n for n, node in enumerate(preorder(LIFTED))}
    assert len(order) == len(LIFTED.nodes) and order["."] == 0
    assert all(order[edge.src] < order[edge.dst] for edge in LIFTED.edges if edge.type == "contains")
    below = [node.id for node in preorder(LIFTED)]
    start = below.index("pkg")
    size = sum(node.id == "pkg" or node.id.startswith(("pkg/", "pkg:")) for node in LIFTED.nodes)
    assert all(one == "pkg" or one.startswith("pkg/") for one in below[start : start + size])


# ------------------------------------------------------------ GraphML


def test_graphml_read_by_networkx_is_the_graph(tmp_path):
    (tmp_path / "g.graphml").write_text(to_graphml(LIFTED), encoding="utf-8")
    read = nx.read_graphml(tmp_path / "g.graphml", force_multigraph=True)
    assert set(read.nodes) == {node.id for node in LIFTED.nodes}
    assert Counter((s, d, told["type"]) for s, d, told in read.edges(data=True)) == edges(LIFTED)
    by_key = Counter((s, d, told["type"], told["confidence"]) for s, d, told in read.edges(data=True))
    assert by_key == Counter((e.src, e.dst, e.type, e.confidence) for e in LIFTED.edges)
    for node in LIFTED.nodes:
        told = read.nodes[node.id]
        assert told["kind"] == node.kind and told.get("signature", "") == node.signature
        assert told.get("doc", "") == re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", node.doc)
        assert told.get("features", "") == "; ".join(node.features)
        assert [told[key] for key in ("start", "end") if key in told] == node.span
    assert "\ufffd" in read.nodes["pkg/a.py"]["doc"] and "</script>" in read.nodes["pkg/a.py"]["doc"]


@pytest.mark.parametrize("level", ["folders", "files"])
def test_graphml_above_units_holds_the_sums(tmp_path, level):
    (tmp_path / "g.graphml").write_text(to_graphml(LIFTED, level), encoding="utf-8")
    read = nx.read_graphml(tmp_path / "g.graphml", force_multigraph=True)
    found = condensed(LIFTED, level)
    assert set(read.nodes) == {node.id for node in found.nodes}
    weights = {(s, d, t["type"]): t["weight"] for s, d, t in read.edges(data=True) if t["type"] != "contains"}
    assert weights == {(*pair, kind): n for pair, tally in found.edges.items() for kind, n in tally.items()}
    tree = nx.DiGraph((s, d) for s, d, t in read.edges(data=True) if t["type"] == "contains")
    assert nx.is_arborescence(tree)


# ------------------------------------------------------------ DOT, by its grammar

_DOT = re.compile(r'\s*("(?:[^"\\]|\\.)*"|->|[{}\[\];=,]|[A-Za-z_][\w]*|-?\d+(?:\.\d+)?)', re.S)


def parse_dot(text: str) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]], int]:
    """(nodes with attributes, edges, clusters) by a small parser of the language; raises where it does not parse."""
    tokens, at = [], 0
    while text[at:].strip():
        found = _DOT.match(text, at)
        assert found, text[at : at + 60]
        tokens.append(found[1])
        at = found.end()
    place = 0

    def take(expected: str | None = None) -> str:
        nonlocal place
        token = tokens[place]
        assert expected is None or token == expected, (expected, tokens[place - 4 : place + 4])
        place += 1
        return token

    nodes: dict[str, dict[str, str]] = {}
    arrows: list[tuple[str, str]] = []
    clusters = 0

    def attributes() -> dict[str, str]:
        told: dict[str, str] = {}
        if tokens[place] == "[":
            take("[")
            while tokens[place] != "]":
                key = take()
                take("=")
                told[key] = take()
                if tokens[place] == ",":
                    take(",")
            take("]")
        return told

    take("digraph")
    take()
    take("{")
    depth = 1
    while depth:
        token = take()
        if token == "}":
            depth -= 1
            continue
        if token == "subgraph":
            assert take().startswith("cluster_")
            take("{")
            depth, clusters = depth + 1, clusters + 1
            continue
        if tokens[place] == "=":
            take("=")
            take()
        elif tokens[place] == "->":
            take("->")
            arrows.append((token, take()))
            attributes()
        else:
            told = attributes()
            if token not in ("node", "edge"):
                nodes[token] = told
        take(";")
    assert place == len(tokens)
    return nodes, arrows, clusters


def unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


@pytest.mark.parametrize("level", ["folders", "files", "units"])
def test_dot_parses_and_holds_every_node_and_arrow(level):
    nodes, arrows, clusters = parse_dot(to_dot(GRAPH, 'a "name"', level))
    found = condensed(GRAPH, level)
    assert len(arrows) == len(set(arrows)) == len(found.edges)
    assert {end for arrow in arrows for end in arrow} <= nodes.keys()
    if level == "folders":
        assert {unquoted(told["label"]) for told in nodes.values()} == {n.id for n in found.nodes} - {"."} | {
            'a "name"'
        }
    else:
        labels = {unquoted(told["label"]) for told in nodes.values()}
        assert {'we"ird & <file>.py', "back\\slash.py"} <= labels
        assert clusters >= sum(node.kind in ("folder", "repo") for node in found.nodes)


def test_dot_and_mermaid_of_a_folder_without_folders_show_it():
    flat = graph_of({"a.py": "import b\n", "b.py": ""})
    assert [unquoted(told["label"]) for told in parse_dot(to_dot(flat, "flat"))[0].values()] == ["flat"]
    assert len(to_mermaid(flat)[0].splitlines()) == 2


# ------------------------------------------------------------ Mermaid

_MERMAID = re.compile(
    r'flowchart LR|  (  )?(n\d+\["[\w\-./,+= #;]*"\])|  subgraph s\d+\["[\w\-./,+= #;]*"\]|  end|  n\d+ (-->|-\.->)\|\d+\| n\d+'
)


@pytest.mark.parametrize("level", ["folders", "files", "units"])
def test_every_line_of_mermaid_is_a_node_a_group_or_an_arrow(level):
    text, notes = to_mermaid(GRAPH, level)
    for line in text.splitlines():
        assert _MERMAID.fullmatch(line), line
    assert notes == []
    assert text.count("|") == 2 * len(condensed(GRAPH, level).edges)
    assert text.count("subgraph") == text.count("  end\n")
    ids = set(re.findall(r"(n\d+)\[", text))
    assert {end for pair in re.findall(r"(n\d+) \S+ (n\d+)", text) for end in pair} <= ids
    labels = {re.sub(r"#(\d+);", lambda m: chr(int(m[1])), label) for label in re.findall(r'\["([^"]*)"\]', text)}
    if level == "files":
        assert {'we"ird & <file>.py', "back\\slash.py"} <= labels


def test_a_chart_larger_than_renderers_take_is_said():
    many = graph_of({f"p{n}/__init__.py": "\n".join(f"import p{m}" for m in range(25) if m != n) for n in range(25)})
    text, notes = to_mermaid(many)
    assert text.count("|") // 2 == 600 > MERMAID_EDGES
    assert len(notes) == 1 and "600 edges" in notes[0]


# ------------------------------------------------------------ the page


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: Counter[str] = Counter()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in ("meta", "input", "br"):
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        else:
            self.texts.append(data)


def data_of(text: str) -> dict[str, Any]:
    return json.loads(Page(text).scripts[0][1])


def test_the_page_asks_for_nothing_and_hostile_texts_stay_data():
    text = to_html(GRAPH, '<x>"&</title><script>')
    page = Page(text)
    assert page.tags["script"] == 2 and page.tags["img"] == 0 and page._open == []
    assert page.scripts[0][0] == {"type": "application/json", "id": "data"} and page.scripts[1][0] == {}
    assert not [one for one in page.attributes if one[1] in ("src", "href", "action", "onerror", "onload")]
    policy = next(value for tag, key, value in page.attributes if key == "content" and "default-src" in value)
    assert "default-src 'none'" in policy and "http" not in policy.replace("'unsafe-inline'", "")
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|\.innerHTML|document\.write|eval\(", page.scripts[1][1])
    assert set(re.findall(r"https?://[^\s\"']+", page.scripts[1][1])) == {"http://www.w3.org/2000/svg"}
    docs = {row[5] for row in data_of(text)["nodes"] if len(row) > 5}
    assert GRAPH.by_id["pkg/a.py"].doc in docs and "</script>" in GRAPH.by_id["pkg/a.py"].doc
    assert '<x>"&</title><script>' in "".join(page.texts)


@pytest.mark.parametrize("graph", [GRAPH, LIFTED], ids=["structural", "lifted"])
def test_the_page_holds_the_whole_graph(graph):
    """Ids are put together by the page's rule; edges by their ends; nothing is left out at any level."""
    data = data_of(to_html(graph, "x"))
    ids: list[str] = []
    for n, row in enumerate(data["nodes"]):
        kind, up, label = data["kinds"][row[0]], row[1], row[2]
        assert up < n
        above = ids[up] if up >= 0 else ""
        told = row[9] if len(row) > 9 else None
        if up < 0:
            ids.append(".")
        elif kind in ("class", "function", "method"):
            ids.append(told or above + ("." if ":" in above else ":") + label)
        else:
            ids.append(told or (label if up == 0 else f"{above}/{label}"))
    assert sorted(ids) == sorted(node.id for node in graph.nodes)
    for node_id, row in zip(ids, data["nodes"], strict=True):
        node = graph.by_id[node_id]
        padded = [*row, *[None] * (10 - len(row))]
        assert (padded[3] or [], padded[4] or "", padded[5] or "", padded[6] or [], padded[7] or "") == (
            node.features, node.signature, node.doc, node.span, node.reason)  # fmt: skip
        if node.kind == "feature":
            assert ids[padded[8]] == (f"{node.path}:{node.qualname}" if node.qualname else node.path)
    flat = data["edges"]
    assert len(flat) % 4 == 0
    got = Counter((ids[flat[k]], ids[flat[k + 1]], data["types"][flat[k + 2]]) for k in range(0, len(flat), 4))
    expected = Counter((e.src, e.dst, "imports" if e.type in IMPORTS else e.type) for e in graph.edges if e.type != "contains")  # fmt: skip
    assert got == expected


def test_a_page_of_three_thousand_files_stays_small_and_is_made_at_once():
    files = {f"p{n // 100:02}/m{n:04}.py": f"from p{(n // 100 + 1) % 30:02}.m{(n + 7) % 3000:04} import f0\n" + "\n".join(f"def f{k}(a): return f0(a)" for k in range(5)) for n in range(3000)}  # fmt: skip
    graph = graph_of(files)
    text = to_html(graph, "big")
    assert len(text) < 8_000_000
    assert sum(data_of(text)["counts"][0][:1]) == 3000


# ------------------------------------------------------------ the JSON of the paper's own code


def shared_node(node: Node) -> tuple[Any, ...]:
    """What the form of the paper's own code has a field for."""
    doc = node.doc if node.kind in ("file", "class", "function", "method") else ""
    return node.id, node.kind, node.name, node.path, node.qualname, tuple(node.features), doc, tuple(node.span), tuple(node.scopes)  # fmt: skip


def shared_edges(graph: Graph) -> Counter[Any]:
    kept = ("contains", "data_flow", "invokes", "inherits", *IMPORTS)
    return Counter((e.src, e.dst, e.type, e.confidence, json.dumps(e.payload, sort_keys=True)) for e in graph.edges if e.type in kept)  # fmt: skip


def there_and_back(graph: Graph) -> Graph:
    made, _ = to_ref(graph, "x")
    back, complaints = from_ref(json.dumps(made).encode())
    assert complaints == []
    return back


@pytest.mark.parametrize("graph", [GRAPH, LIFTED, encode(WorkTree(SHARED_PACKAGE), "tenfold_shared")], ids=["structural", "lifted", "package"])  # fmt: skip
def test_export_to_the_reference_and_import_is_the_same_on_shared_fields(graph):
    back = there_and_back(graph)
    assert sorted(map(shared_node, back.nodes)) == sorted(map(shared_node, graph.nodes))
    assert shared_edges(back) == shared_edges(graph)
    # what the form has no field for is the only thing validate can miss
    assert {one.code for one in problems(back.dumps())} == set()


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_encoded_graph_comes_back(rng):
    graph = graph_of(Author(rng).tree())
    paths = [node.path for node in graph.nodes if node.kind == "file" and node.features]
    places = {path: (rng.choice("ab"), rng.choice("cd"), rng.choice("ef")) for path in paths if rng.random() < 0.7}
    graph = attach(graph, Overlay({}, places))
    back = there_and_back(graph)
    assert sorted(map(shared_node, back.nodes)) == sorted(map(shared_node, graph.nodes))
    assert shared_edges(back) == shared_edges(graph)


def test_data_flow_comes_back():
    flow = Edge(src="#reading", dst="#serving", type="data_flow", payload={"data_id": "lines", "data_type": "list[str]", "transformation": "none"})  # fmt: skip
    graph = Graph(LIFTED.nodes, [*LIFTED.edges, flow])
    made, _ = to_ref(graph, "x")
    assert made["data_flow"] == [{"source": "reading", "target": "serving", **flow.payload}]
    assert shared_edges(there_and_back(graph)) == shared_edges(graph)


def test_what_the_reference_reads_is_there():
    """Field by field what its RPG.from_dict, Node.from_dict, Edge.from_dict and DependencyGraph.from_dict take."""
    made, notes = to_ref(LIFTED, "name")
    assert made["repo_name"] == "name" and made["repo_node_id"] == "."
    ids = [node["id"] for node in made["nodes"]]
    assert len(ids) == len(set(ids))
    kinds = {"directory", "file", "class", "function", "method", None}
    for node in made["nodes"]:
        assert node.keys() == {"id", "name", "node_type", "level", "meta"} and 0 <= node["level"] <= 5
        assert node["meta"].keys() == {"type_name", "path", "description", "content"} and node["meta"]["type_name"] in kinds  # fmt: skip
    tree = nx.DiGraph((edge["src"], edge["dst"]) for edge in made["edges"] if edge["relation"] == "composes")
    assert nx.is_arborescence(tree) and set(tree) == set(ids)
    assert {edge["relation"] for edge in made["edges"]} == {"composes", "imports", "invokes", "inherits"}
    assert all(edge.keys() == {"src", "dst", "relation", "meta"} and edge["src"] in ids and edge["dst"] in ids for edge in made["edges"])  # fmt: skip
    # functional areas are the children of the root that are directories
    types = {node["id"]: node["meta"]["type_name"] for node in made["nodes"]}
    assert {"#reading", "#serving"} <= {n for n in tree.successors(".") if types[n] == "directory"}
    assert tree.has_edge("#reading/files/text", "pkg/a.py")
    dep = made["dep_graph"]
    assert set(dep["nodes"]) == {node.id for node in LIFTED.nodes if node.kind not in SEMANTIC}
    assert all(edge["src"] in dep["nodes"] and edge["dst"] in dep["nodes"] for edge in dep["edges"])
    names = [node["name"] for node in made["nodes"] if node["meta"]["path"] == "pkg/a.py:f"]
    assert names == ["open the file", "read its lines"]
    assert made["_dep_to_rpg_map"]["pkg/a.py:f"] == ["pkg/a.py:f", "pkg/a.py:f [2]"]
    assert notes == ["ref: 1 tests edges left out; the form has none"]


# what the paper's own encoder saves: random suffixes, features as names, units straight below their file
THEIRS: dict[str, Any] = {
    "repo_name": "shop", "repo_info": "sells things", "excluded_files": [], "repo_node_id": "shop_L0",
    "data_flow": [{"source": "Storage", "target": "Checkout", "data_id": "cart", "data_type": "Cart", "transformation": "priced"}],
    "nodes": [
        {"id": "shop_L0", "name": "shop", "node_type": "repo", "level": 0, "meta": {"type_name": "directory", "path": ".", "content": "", "description": ""}},
        {"id": "Storage_1a2b3c4d", "name": "Storage", "node_type": "functional_area", "level": 1, "meta": {"type_name": "directory", "path": "shop/db", "content": "", "description": ""}},
        {"id": "Checkout_9f", "name": "Checkout", "node_type": "functional_area", "level": 1, "meta": {"type_name": "directory", "path": ["shop/pay", "shop/web"]}},
        {"id": "tables_77", "name": "tables", "node_type": "category", "level": 2, "meta": {"type_name": "directory", "path": "."}},
        {"id": "persist orders_01", "name": "persist orders", "node_type": "feature_group", "level": 4, "meta": {"type_name": "file", "path": "shop/db/orders.py"}},
        {"id": "save an order_02", "name": "save an order", "level": 5, "meta": {"type_name": "method", "path": "shop/db/orders.py:Table.save"}},
        {"id": "check an order_03", "name": "check an order", "level": 5, "meta": {"type_name": "method", "path": "shop/db/orders.py:Table.save"}},
        {"id": "charge_04", "name": "charge a card", "level": 4, "meta": {"type_name": "file", "path": "shop/pay/card.py"}},
        {"id": "charge_05", "name": "send the charge", "level": 5, "meta": {"type_name": "function", "path": "shop/pay/card.py:charge"}},
        {"id": "refund_06", "name": "refund a payment", "node_type": "feature", "level": 5, "meta": None},
    ],
    "edges": [
        {"src": "shop_L0", "dst": "Storage_1a2b3c4d", "relation": "composes", "meta": None},
        {"src": "shop_L0", "dst": "Checkout_9f", "relation": "composes", "meta": None},
        {"src": "Storage_1a2b3c4d", "dst": "tables_77", "relation": "composes", "meta": None},
        {"src": "tables_77", "dst": "persist orders_01", "relation": "composes", "meta": None},
        {"src": "persist orders_01", "dst": "save an order_02", "relation": "composes", "meta": None},
        {"src": "persist orders_01", "dst": "check an order_03", "relation": "composes", "meta": None},
        {"src": "Checkout_9f", "dst": "charge_04", "relation": "composes", "meta": None},
        {"src": "charge_04", "dst": "charge_05", "relation": "composes", "meta": None},
        {"src": "Checkout_9f", "dst": "refund_06", "relation": "composes", "meta": None},
        {"src": "charge_05", "dst": "save an order_02", "relation": "invokes", "meta": {"src_dep": "shop/pay/card.py:charge", "dst_dep": "shop/db/orders.py:Table.save"}},
    ],
    "_dep_to_rpg_map": {},
}  # fmt: skip


def theirs(**changes: Any) -> dict[str, Any]:
    made = json.loads(json.dumps(THEIRS))
    for key, value in changes.items():
        made[key] = value if not isinstance(value, tuple) else [*made[key], *value]
    return made


def taken(made: dict[str, Any]) -> tuple[Graph, list[str]]:
    return from_ref(json.dumps(made).encode(), "ref.json")


def test_a_graph_of_the_reference_is_taken_over():
    graph, complaints = taken(THEIRS)
    assert complaints == [] and problems(graph.dumps()) == []
    save = graph.by_id["shop/db/orders.py:Table.save"]
    assert save.kind == "method" and save.features == ["save an order", "check an order"]
    assert graph.by_id["shop/db/orders.py:Table"].kind == "class"  # which it leaves out where methods stand for it
    assert {node.id: node.kind for node in graph.nodes if node.kind in SEMANTIC and node.kind != "feature"} == {
        "#Storage": "area", "#Checkout": "area", "#Storage/tables": "category"}  # fmt: skip
    assert graph.by_id["#Storage/tables"].scopes == ["shop/db"]
    wish = graph.by_id["#Checkout/refund a payment"]
    assert wish.kind == "feature" and wish.status == "proposed" and wish.features == ["refund a payment"]
    assert ("shop/pay/card.py:charge", "shop/db/orders.py:Table.save", "invokes") in edges(graph)
    assert ("#Storage", "#Checkout", "data_flow") in edges(graph)
    assert graph.by_id["."].doc == "sells things"


def test_the_nested_form_is_taken_over_alike():
    made = theirs()
    nodes = {node["id"]: {**node, "children": []} for node in made["nodes"]}
    for edge in made["edges"]:
        if edge["relation"] == "composes":
            nodes[edge["src"]]["children"].append(nodes[edge["dst"]])
    nodes["save an order_02"]["meta"]["path"] = "shop/db/orders.py::class Table::save"
    nested = {key: value for key, value in made.items() if key not in ("nodes", "edges")}
    nested |= {"root": nodes["shop_L0"], "edges": [edge for edge in made["edges"] if edge["relation"] != "composes"]}
    assert taken(nested)[0].dumps() == taken(THEIRS)[0].dumps()


def hangs(src: str, dst: str) -> dict[str, Any]:
    return {"src": src, "dst": dst, "relation": "composes", "meta": None}


@pytest.mark.parametrize(("made", "named"), [
    (theirs(nodes=({**THEIRS["nodes"][3], "name": "other"},)), "tables_77: two nodes have this id"),
    (theirs(edges=(hangs("tables_77", "nowhere_00"),)), "nowhere_00 is no node"),
    (theirs(edges=({"src": "gone_1", "dst": "charge_05", "relation": "invokes"},)), "gone_1 -invokes-> charge_05: gone_1 is no node"),
    (theirs(edges=(hangs("Checkout_9f", "tables_77"),)), "tables_77: a second parent, Checkout_9f; it stays with Storage_1a2b3c4d"),
    (theirs(edges=(hangs("tables_77", "shop_L0"),)), "leads to the root"),
    (theirs(edges=THEIRS["edges"][:2] + THEIRS["edges"][3:] + [hangs("tables_77", "Storage_1a2b3c4d"), hangs("Storage_1a2b3c4d", "tables_77")]), "a second parent"),
    (theirs(edges=[e for e in THEIRS["edges"] if e["dst"] != "tables_77"]), "tables_77: no parent"),
    (theirs(data_flow=({"source": "Checkout", "target": "Storage", "data_id": "receipt"},)), "data flows in a circle: Storage, Checkout"),
    (theirs(data_flow=({"source": "Nowhere", "target": "Storage", "data_id": "x"},)), "'Nowhere' is no area"),
    (theirs(data_flow=(THEIRS["data_flow"][0],)), "data_flow/1: stands twice"),
    (theirs(edges=({"src": "charge_05", "dst": "charge_04", "relation": "references"},)), "1 edges of relation references"),
    (theirs(nodes=({"id": "e", "name": "evil", "meta": {"type_name": "file", "path": "../../etc/passwd"}},), edges=(hangs("tables_77", "e"),)), "leaves the root"),
    (theirs(repo_node_id="other"), "repo_node_id other: no such node"),
], ids=lambda value: value[:30] if isinstance(value, str) else "")  # fmt: skip
def test_what_the_reference_drops_without_a_word_is_named(made, named):
    graph, complaints = taken(made)
    assert any(named in one for one in complaints), complaints
    left = {one.code for one in problems(graph.dumps())}
    expected = {"circle": "flow-cycle", "no parent": "area-unused"}  # put below the root, it is one more area
    assert left == {code for word, code in expected.items() if word in named}


def test_nodes_that_contain_each_other_are_named_and_kept():
    made = theirs(
        data_flow=[],
        nodes=tuple({"id": one, "name": one, "meta": None} for one in ("p", "q")),
        edges=(hangs("p", "q"), hangs("q", "p")),
    )
    graph, complaints = taken(made)
    assert complaints == ["p, q: contain each other; p is put below the root"]
    assert {"#p", "#p/q"} <= graph.by_id.keys() and problems(graph.dumps()) == []


def test_a_chain_deeper_than_its_levels_keeps_every_step():
    """Its own loader lowers every ancestor to level 0, one step at a time, once a chain is longer than six."""
    names = [f"level {n:02}" for n in range(1, 31)]
    made = theirs(
        data_flow=[],
        nodes=tuple({"id": f"{one}_0", "name": one, "level": 5, "meta": {"type_name": "directory", "path": "."}} for one in names),
        edges=tuple(hangs(*pair) for pair in zip(["shop_L0", *(f"{one}_0" for one in names)], (f"{one}_0" for one in names), strict=False)),
    )  # fmt: skip
    graph, complaints = taken(made)
    assert complaints == [] and problems(graph.dumps()) == []
    assert "#" + "/".join(names) in graph.by_id
    back, complaints = from_ref(json.dumps(to_ref(graph, "shop")[0]).encode())
    assert complaints == [] and "#" + "/".join(names) in back.by_id


def test_names_alike_below_one_node_stay_two():
    more = [{"id": f"tables_{n}", "name": "tables", "meta": None} for n in (1, 2)]
    graph, complaints = taken(
        theirs(nodes=tuple(more), edges=tuple(hangs("Storage_1a2b3c4d", one["id"]) for one in more))
    )
    assert complaints == [] and {"#Storage/tables", "#Storage/tables 2", "#Storage/tables 3"} <= graph.by_id.keys()


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b'{"nodes": 3}', b'{"nodes": [{"name": "x"}]}', b"\xff", b'{"root": {"id": "a", "children": [3]}}'])  # fmt: skip
def test_other_json_is_refused(data):
    with pytest.raises(BadInput, match=r"^ref\.json: "):
        from_ref(data, "ref.json")


# ------------------------------------------------------------ the commands


def run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, (done.stdout[-500:], done.stderr[-2000:])
    return done


@pytest.mark.parametrize("form", ["ref", "dot", "graphml", "html", "mermaid"])
def test_every_form_goes_to_stdout_or_to_a_file(tmp_path, form):
    LIFTED.save(tmp_path / "rpg.json")
    first = run("export", "rpg.json", "--to", form, cwd=tmp_path).stdout
    run("export", "--to", form, "-o", "out", cwd=tmp_path)
    assert (tmp_path / "out").read_text() == first and first.endswith("\n")
    assert json.loads((tmp_path / "out.manifest.json").read_text())["verb"] == "export"
    for level in ("folders", "files", "units"):
        run("export", "rpg.json", "--to", form, "--level", level, "-o", f"out-{level}", cwd=tmp_path)
    run("export", "--to", form, "-o", "out", cwd=tmp_path)  # what the same command made is made again
    assert "--overwrite" in run("map", "--tokens", "100", "--root", ".", "-o", "out", cwd=tmp_path, code=2).stderr


def test_import_writes_a_graph_and_names_what_it_left_out(tmp_path):
    (tmp_path / "ref.json").write_text(json.dumps(THEIRS))
    run("import", "ref.json", "-o", "rpg.json", cwd=tmp_path)
    assert (tmp_path / "rpg.json").read_bytes() == taken(THEIRS)[0].dumps()
    run("validate", "rpg.json", cwd=tmp_path)
    (tmp_path / "ref.json").write_text(json.dumps(theirs(edges=(hangs("tables_77", "nowhere_00"),))))
    done = run("import", "ref.json", cwd=tmp_path, code=1)
    assert "nowhere_00 is no node" in done.stderr and done.stdout.encode() == taken(THEIRS)[0].dumps()
    (tmp_path / "ref.json").write_text("not JSON")
    assert run("import", "ref.json", cwd=tmp_path, code=2).stdout == ""


def test_a_graph_that_is_no_tree_is_sent_to_validate(tmp_path):
    broken = Graph(GRAPH.nodes, [edge for edge in GRAPH.edges if edge.dst != "top.py"])
    broken.save(tmp_path / "rpg.json")
    for form in ("ref", "html", "dot"):
        assert "zerorepo validate rpg.json" in run("export", "--to", form, cwd=tmp_path, code=2).stderr
