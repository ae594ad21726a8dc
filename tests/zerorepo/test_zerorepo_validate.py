"""Every invariant is told by its code, at a pointer that leads to it; sound graphs, real ones among them, are not."""

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_trees import Author, graph_of, write

from tenfold_shared import BadInput
from zerorepo import Edge, Graph, Node, WorkTree, dotted_prefix, encode
from zerorepo.lift import Overlay, attach
from zerorepo.validate import CODES, components, problems

COMMAND = Path(sys.executable).parent / "zerorepo"
FILES = {
    "pkg/__init__.py": "from pkg.a import f\n", "pkg/a.py": "class C:\n    def m(self, x=1): pass\n\ndef f(): return C().m()\n",
    "pkg/b.py": "from pkg.a import f\n\ndef g(): return f()\n", "top.py": "import pkg\n",
}  # fmt: skip


def codes(graph: Graph | bytes, root: Path | None = None) -> list[str]:
    return [one.code for one in problems(graph if isinstance(graph, bytes) else graph.dumps(), root)]


def at(document: Any, pointer: str) -> Any:
    """RFC 6901, as it stands there."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def lifted() -> Graph:
    places = {
        "pkg/a.py": ("reading", "files", "text"),
        "pkg/b.py": ("reading", "files", "text"),
        "top.py": ("serving", "web", "http"),
    }
    return attach(graph_of(FILES), Overlay({}, places))


# ------------------------------------------------------------ sound ones


def test_what_encode_makes_is_sound():
    assert problems(graph_of(FILES).dumps()) == [] and problems(lifted().dumps()) == []
    assert problems(graph_of({}).dumps()) == []


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_whatever_encode_makes_is_sound(rng):
    assert problems(graph_of(Author(rng).tree()).dumps()) == []


@pytest.mark.parametrize("folder", [Path(nx.__file__).parent, Path(__file__).parents[2] / "shared"], ids=["networkx", "shared"])  # fmt: skip
def test_real_repositories_are_sound_against_their_files(folder):
    """networkx imports itself in circles and has files named like the standard library: that is how it is."""
    graph = encode(WorkTree(folder), dotted_prefix(folder))
    assert problems(graph.dumps(), folder) == []


def test_a_chain_of_any_depth_is_sound():
    """The levels of the paper's own code end at six; above them every ancestor became the root."""
    nodes, edges, above = [Node(id=".", kind="repo", path=".")], [], "."
    for depth in range(60):
        kind = ("area", "category")[depth] if depth < 2 else "group"
        mine = f"#{depth:02}" if above == "." else f"{above}/{depth:02}"
        nodes.append(Node(id=mine, kind=kind, name=f"{depth:02}"))
        edges.append(Edge(src=above, dst=mine, type="contains"))
        above = mine
    folders = "/".join("d" * 1 for _ in range(80))
    deep = graph_of({f"{folders}/a.py": "def f(): pass\n"})
    assert problems(Graph([*nodes, *deep.nodes[1:]], [*edges, *deep.edges]).dumps()) == []


# ------------------------------------------------------------ each code


def node(graph: Graph, node_id: str, **fields: Any) -> Graph:
    raw = json.loads(graph.dumps())
    for one in raw["nodes"]:
        if one["id"] == node_id:
            one |= fields
    # not through loads, which refuses words outside the schema
    return Graph(msgspec.convert(raw["nodes"], list[Node]), msgspec.convert(raw["edges"], list[Edge]))


def plus(graph: Graph, *more: Node | Edge) -> Graph:
    nodes = [one for one in more if isinstance(one, Node)]
    return Graph([*graph.nodes, *nodes], [*graph.edges, *(one for one in more if isinstance(one, Edge))])


def held(graph: Graph, kind: str, path: str, status: str = "designed", folder: str | None = None) -> Graph:
    """With one more file or folder, planned."""
    above = path.rpartition("/")[0] or "." if folder is None else folder
    return plus(graph, Node(id=path, kind=kind, name=path.rpartition("/")[2], path=path, status=status), Edge(src=above, dst=path, type="contains"))  # fmt: skip


def without(graph: Graph, **told: str) -> Graph:
    return Graph(graph.nodes, [edge for edge in graph.edges if any(getattr(edge, k) != v for k, v in told.items())])


def raw(change: Any) -> bytes:
    """The canonical file after a change to its JSON, saved in the same order."""
    whole = json.loads(graph_of(FILES).dumps())
    change(whole)
    return json.dumps(whole).encode()


def flow(src: str, dst: str, datum: str = "x") -> Edge:
    return Edge(src=src, dst=dst, type="data_flow", payload={"data_id": datum})


def order(src: str, dst: str) -> Edge:
    return Edge(src=src, dst=dst, type="order")


BASE, LIFTED = graph_of(FILES), lifted()
FEATURE = "#reading/files/text/pkg/a.py"
CASES: list[tuple[str, Graph | bytes, str]] = [
    # code, graph, what the message names
    ("bad-field", raw(lambda w: w["nodes"][2].update(span="long")), "span"),
    ("bad-field", raw(lambda w: w["nodes"][2].update(imports=[{"module": 3}])), "imports"),
    ("bad-field", raw(lambda w: w["edges"][1].pop("dst")), "dst"),
    ("bad-field", raw(lambda w: w.update(edges={})), "edges"),
    ("bad-field", raw(lambda w: w["nodes"].append("x")), "expected an object"),
    ("unknown-field", raw(lambda w: w["nodes"][2].update({"a/b~c": 1})), "a/b~c"),
    ("unknown-field", raw(lambda w: w["edges"][2].update(weight=1)), "weight"),
    ("unknown-field", raw(lambda w: w.update(made="today")), "made"),
    ("bad-value", node(BASE, "pkg/b.py", status="finished"), "finished"),
    ("bad-value", plus(BASE, Edge(src="top.py", dst="pkg/a.py", type="uses")), "expected one of contains"),
    ("bad-value", plus(BASE, Edge(src="top.py", dst="pkg/a.py", type="invokes", confidence="sure")), "sure"),
    ("bad-value", node(BASE, "pkg/a.py:f", span=[4, 2]), "pkg/a.py:f"),
    ("duplicate-id", plus(BASE, Node(id="top.py", kind="file", path="top.py", doc="other")), "top.py"),
    ("duplicate-edge", plus(BASE, Edge(src="pkg/b.py:g", dst="pkg/a.py:f", type="invokes")), "pkg/b.py:g"),
    ("dangling-edge", plus(BASE, Edge(src="top.py", dst="gone.py", type="invokes")), "gone.py is no node"),
    ("no-root", Graph([n for n in BASE.nodes if n.id != "."], without(BASE, src=".").edges), "no node `.`"),
    ("no-root", node(BASE, ".", kind="folder"), "of kind repo"),
    ("no-parent", without(BASE, dst="top.py", type="contains"), "top.py"),
    ("many-parents", plus(LIFTED, Edge(src="#serving", dst="#reading/files", type="contains")), "#reading/files"),
    ("contains-cycle", plus(without(LIFTED, dst="#reading"), Edge(src="#reading/files/text", dst="#reading", type="contains")), "#reading/files, #reading/files/text: contain"),
    ("level", plus(without(LIFTED, dst="#serving"), Edge(src="#reading/files", dst="#serving", type="contains")), "of kind area"),
    ("level", plus(without(LIFTED, dst="#serving"), Edge(src="pkg", dst="#serving", type="contains")), "two trees"),
    ("level", plus(without(BASE, dst="pkg/a.py:f", type="contains"), Edge(src="pkg", dst="pkg/a.py:f", type="contains")), "in a file"),
    ("misplaced", plus(without(BASE, dst="top.py", type="contains"), Edge(src="pkg", dst="top.py", type="contains")), "by its id in ."),
    ("misplaced", node(BASE, "top.py", path="other.py"), "its path is other.py"),
    ("misplaced", node(BASE, "pkg/a.py:f", qualname="h"), "pkg/a.py:h"),
    ("unit-file", plus(BASE, Node(id="no.py:f", kind="function", name="f", path="no.py", qualname="f"), Edge(src="top.py", dst="no.py:f", type="contains")), "no.py"),
    ("feature-unit", node(LIFTED, FEATURE, path="pkg/gone.py"), "pkg/gone.py, which is not in the graph"),
    ("feature-unit", node(LIFTED, FEATURE, path="pkg"), "a folder"),
    ("feature-unit", node(LIFTED, FEATURE, path=""), "names no file"),
    ("signature", node(BASE, "pkg/a.py:f", signature="def f(:"), "pkg/a.py:f"),
    ("signature", node(BASE, "pkg/a.py:f", signature="def h()"), "pkg/a.py:f"),
    ("signature", node(BASE, "pkg/a.py:f", signature="def f(): pass\nimport os"), "pkg/a.py:f"),
    ("signature", node(BASE, "pkg/a.py:C", signature="def C()"), "pkg/a.py:C"),
    ("signature", node(BASE, "pkg/a.py:f", signature="def f(): pass #"), "pkg/a.py:f"),
    ("signature", node(BASE, "pkg/a.py:f", signature="def f(): #"), "pkg/a.py:f"),
    ("signature", node(BASE, "pkg/a.py:f", signature="def f(): x = 1"), "pkg/a.py:f"),
    ("flow-cycle", plus(LIFTED, flow("#reading", "#serving"), flow("#serving", "#reading")), "#reading, #serving"),
    ("area-unused", plus(LIFTED, Node(id="#idle", kind="area"), Edge(src=".", dst="#idle", type="contains"), flow("#reading", "#serving")), "#idle"),
    ("order-chain", plus(BASE, order("pkg/a.py", "pkg/b.py"), order("pkg/a.py", "pkg/__init__.py")), "two"),
    ("order-chain", plus(BASE, order("pkg/a.py", "top.py")), "the other of ."),
    ("order-chain", held(plus(BASE, order("pkg/a.py", "pkg/b.py")), "file", "pkg/c.py"), "pkg/c.py: has no place"),
    ("dependency-cycle", plus(BASE, order("pkg/b.py", "pkg/a.py")), "imports and order admit no order of pkg/a.py, pkg/b.py"),
    ("dependency-cycle", plus(LIFTED, Edge(src="pkg/a.py", dst="top.py", type="imports", payload={"name": "t"}), flow("#reading", "#serving")), "data_flow and imports"),
    ("path-escape", held(BASE, "file", "../evil.py", "done", "."), "leaves the root"),
    ("path-escape", held(BASE, "file", "pkg/../../evil.py", "done", "."), "leaves the root"),
    ("path-escape", held(BASE, "file", "a\\..\\..\\evil.py", "done", "."), "leaves the root"),
    ("path-escape", held(BASE, "file", "/etc/passwd", "done", "."), "absolute"),
    ("path-escape", held(BASE, "file", "C:/x.py", "done", "."), "absolute"),
    ("path-escape", held(BASE, "file", ".git/hooks/x", "done", "."), "git's own"),
    ("path-escape", held(BASE, "file", "pkg/.GIT./config", "done", "."), "git's own"),
    ("path-escape", held(BASE, "file", "a\0b.py", "done", "."), "NUL"),
    ("path-escape", node(LIFTED, "#reading", scopes=["../.."]), "leaves the root"),
    ("path-escape", held(BASE, "file", "pkg/x\\y.py"), "backslash"),
    ("path-name", held(BASE, "file", "x" * 300 + ".py", "done"), "255"),
    ("path-name", held(BASE, "file", "pkg//x.py", "done", "pkg"), "empty name"),
    ("path-name", held(BASE, "file", "pkg/aux.py"), "device"),
    ("path-name", held(BASE, "file", "pkg/x?.py"), "every system"),
    ("path-name", held(BASE, "folder", "pkg/x."), "every system"),
    ("path-case", held(BASE, "file", "pkg/A.py"), "pkg/a.py in case"),
    ("module-name", held(BASE, "file", "pkg/class.py"), "class"),
    ("module-name", held(BASE, "file", "pkg/my-tool.py"), "my-tool"),
    ("stdlib-name", held(BASE, "file", "json.py"), "standard library"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "graph", "named"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)])
def test_a_broken_invariant_has_its_code_and_a_pointer_to_it(code, graph, named):
    data = graph if isinstance(graph, bytes) else graph.dumps()
    found = problems(data)
    mine = [one for one in found if one.code == code]
    assert mine and any(named in one.message for one in mine), found
    for one in found:
        if one.pointer:
            at(json.loads(data), one.pointer)  # raises where it leads nowhere


def test_one_fault_is_told_once_and_as_itself():
    """What follows from a fault is not told as well: for most cases above, one code."""
    alone = {"unknown-field", "bad-value", "duplicate-id", "duplicate-edge", "dangling-edge", "no-parent", "signature", "flow-cycle",
             "feature-unit", "area-unused", "dependency-cycle", "path-case", "module-name", "stdlib-name"}  # fmt: skip
    for code, graph, _ in CASES:
        if code in alone and isinstance(graph, Graph):
            assert set(codes(graph)) == {code}, code


def test_every_code_is_tested_and_told_in_the_readme_table():
    elsewhere = {"missing-file", "not-regular", "link-escapes", "not-canonical"}  # below
    assert {code for code, *_ in CASES} | elsewhere == set(CODES)


def test_the_same_things_are_no_problem_where_the_code_exists():
    """Reserved names, case, keywords and the standard library are judged where something is to be written."""
    graph = BASE
    for path in ("pkg/aux.py", "pkg/A.py", "pkg/class.py", "json.py", "pkg/x\\y.py"):
        graph = held(graph, "file", path, "done")
    assert codes(graph) == []
    circle = {"a.py": "import b\n", "b.py": "import a\n"}
    assert codes(graph_of(circle)) == []
    assert codes(node(graph_of(circle), "a.py", status="designed")) == ["dependency-cycle"]
    lazy = {"a.py": "import b\n", "b.py": "def f():\n    import a\n"}
    assert codes(node(graph_of(lazy), "a.py", status="designed")) == []
    assert codes(held(BASE, "file", "pkg/json.py")) == []  # inside a package it hides nothing


def test_a_signature_with_a_hash_in_a_string_is_one():
    assert codes(node(BASE, "pkg/a.py:f", signature="def f(a='#', *, b: 'x' = \"\")")) == []


def test_order_runs_against_imports():
    """What comes first in an order is what the others import; a.py before b.py, which imports it, is sound."""
    assert codes(plus(BASE, order("pkg/a.py", "pkg/b.py"))) == []
    assert codes(plus(LIFTED, flow("#reading", "#serving"))) == []  # top.py of serving imports pkg of reading


def test_not_canonical_names_the_line():
    data = BASE.dumps()
    lines = data.split(b"\n")
    lines[2], lines[3] = lines[3], lines[2]
    (one,) = problems(b"\n".join(lines))
    assert one.code == "not-canonical" and one.pointer == "" and one.message.startswith("line 3:")
    assert codes(data.replace(b"\n", b"\r\n")) == ["not-canonical"]
    assert codes(data.replace(b'"kind":"repo"', b'"kind":"folder","kind":"repo"')) == ["not-canonical"]  # a key twice
    assert codes(data[:-1]) == ["not-canonical"]


# ------------------------------------------------------------ against the disk


def test_files_are_looked_up_below_the_root(tmp_path):
    repo, outside = write(tmp_path / "repo", FILES), tmp_path / "outside"
    graph = encode(WorkTree(repo))
    assert codes(graph, repo) == []
    (repo / "top.py").unlink()
    assert codes(graph, repo) == ["missing-file"]
    (repo / "top.py").mkdir()
    assert codes(graph, repo) == ["not-regular"]
    (repo / "top.py").rmdir()
    os.mkfifo(repo / "top.py")
    assert codes(graph, repo) == ["not-regular"]
    (repo / "top.py").unlink()
    write(outside, {"x.py": "", "a.py": "", "b.py": "", "__init__.py": ""})
    (repo / "top.py").symlink_to(outside / "x.py")
    assert codes(graph, repo) == ["link-escapes"]
    (repo / "top.py").unlink()
    (repo / "top.py").symlink_to(repo / "pkg/a.py")
    assert codes(graph, repo) == ["not-regular"]
    (repo / "top.py").unlink()
    (repo / "top.py").write_text("")
    for path in sorted((repo / "pkg").iterdir()):
        path.unlink()
    (repo / "pkg").rmdir()
    (repo / "pkg").symlink_to(outside)
    assert set(codes(graph, repo)) == {"link-escapes"} and len(codes(graph, repo)) == 4
    planned = held(graph_of({"a.py": ""}), "file", "later.py")
    (tmp_path / "new").mkdir()
    write(tmp_path / "new", {"a.py": ""})
    assert codes(planned, tmp_path / "new") == []  # a plan's file need not be there yet
    assert codes(held(planned, "file", "now.py", "tested"), tmp_path / "new") == ["missing-file"]


# ------------------------------------------------------------ bytes that are no graph


@pytest.mark.parametrize(("data", "place"), [
    (b'{"edges":[],\n"nodes":[],\n  oops}', ":3:3:"), (b"", ":1:1:"), (b'{"a":1', ":1:7:"), (b"[]", ":1:1:"),
    (b"\xef\xbb\xbf{}", "byte order mark"), (b'{"schema":"rpg/2","nodes":[],"edges":[]}', "expected rpg/1, got 'rpg/2'"),
    (b'{"nodes":[],"edges":[]}', "expected rpg/1"), (b'{"schema": NaN}', ":1:1"), (b"[" * 100_000, "not JSON"),
])  # fmt: skip
def test_what_is_no_json_or_another_schema_is_refused_with_its_place(data, place):
    with pytest.raises(BadInput, match=r"^g\.json:") as error:
        problems(data, name="g.json")
    assert place in str(error.value)


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_damage_is_answered(rng):
    """Values replaced, dropped and doubled anywhere: problems with pointers that lead somewhere, or BadInput."""
    whole = json.loads(BASE.dumps())
    for _ in range(rng.randint(1, 4)):
        damage(rng, whole)
    data = json.dumps(whole).encode()
    try:
        found = problems(data)
    except BadInput:
        assert not isinstance(whole, dict) or whole.get("schema") != "rpg/1"
        return
    assert found and {one.code for one in found} <= CODES.keys()
    for one in found:
        if one.pointer:
            at(whole, one.pointer)  # raises where it leads nowhere


def damage(rng: random.Random, whole: Any) -> None:
    here = whole
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(here[key], (dict, list)) and rng.random() < 0.85:
            here = here[key]
            continue
        kind = rng.choice(("drop", "value", "rename"))
        if kind == "drop" or (kind == "rename" and isinstance(here, list)):
            del here[key]
        elif kind == "value":
            here[key] = rng.choice((None, 3, "x", [], {}, ["x"], True, "..", 1e300, {"a": []}))
        else:
            here[key + "/~"] = here.pop(key)
        return


# ------------------------------------------------------------ the oracle, the cost, the command


@given(st.integers(0, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, max(0, n - 1)), st.integers(0, max(0, n - 1))), max_size=30 if n else 0))))  # fmt: skip
def test_components_are_those_of_networkx(given_):
    count, pairs = given_
    after = [sorted({b for a, b in pairs if a == n}) for n in range(count)]
    graph = nx.DiGraph(pairs)
    graph.add_nodes_from(range(count))
    expected = [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1 or graph.has_edge(*[next(iter(c))] * 2)]  # fmt: skip
    assert components(count, after) == sorted(expected)


def wide(files: int) -> bytes:
    nodes, edges = [Node(id=".", kind="repo", path=".")], []
    for n in range(files):
        path = f"m{n:06}.py"
        nodes.append(Node(id=path, kind="file", name=path, path=path))
        edges.append(Edge(src=".", dst=path, type="contains"))
        edges.append(Edge(src=path, dst=f"m{(n * 7 + 1) % files:06}.py", type="imports", payload={"name": "x"}))
        for k in range(9):
            unit = f"{path}:f{k}"
            nodes.append(Node(id=unit, kind="function", name=f"f{k}", path=path, qualname=f"f{k}", signature=f"def f{k}(a, b=1)"))  # fmt: skip
            edges.append(Edge(src=path, dst=unit, type="contains"))
    return Graph(nodes, edges).dumps()


def test_a_hundred_thousand_nodes_cost_in_proportion():
    calls = {}
    for files in (1_000, 10_000):
        data, count = wide(files), itertools.count()
        sys.setprofile(lambda frame, event, argument, count=count: next(count))
        try:
            assert problems(data) == []
        finally:
            sys.setprofile(None)
        calls[files] = next(count)
    assert 9 < calls[10_000] / calls[1_000] < 12, calls  # ten times as many; quadratic would be 100


def test_the_command_says_it_in_lines_or_as_json(tmp_path):
    def run(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run([COMMAND, "validate", *map(str, words)], cwd=tmp_path, capture_output=True, text=True)

    BASE.save(tmp_path / "rpg.json")
    done = run()
    assert done.returncode == 0 and done.stdout == "" and "sound" in done.stderr
    assert run("rpg.json", "--json").stdout == "[]\n" and run("-q").stderr == ""
    plus(BASE, Edge(src="top.py", dst="gone.py", type="invokes")).save(tmp_path / "bad.json")
    done = run("bad.json", "--json")
    (one,) = json.loads(done.stdout)
    assert done.returncode == 1 and one.keys() == {"code", "pointer", "message"} and one["code"] == "dangling-edge"
    assert at(json.loads((tmp_path / "bad.json").read_bytes()), one["pointer"]) == "gone.py"
    done = run("bad.json")
    assert done.returncode == 1 and done.stdout == f"dangling-edge {one['pointer']} {one['message']}\n"
    (tmp_path / "torn.json").write_bytes(BASE.dumps()[:500])
    done = run("torn.json")
    assert done.returncode == 2 and "torn.json:" in done.stderr and done.stdout == ""
    assert run("rpg.json", "--root", "nowhere").returncode == 2
    done = run("rpg.json", "--root", ".")
    assert done.returncode == 1 and "missing-file" in done.stdout
