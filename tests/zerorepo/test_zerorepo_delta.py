"""diff, apply and merge: their laws over random graphs, merged code against a fresh encode, and git itself."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from zerorepo_trees import Author, git, graph_of, write

from tenfold_shared import BadInput
from zerorepo import Edge, Graph, Node, WorkTree, encode
from zerorepo.delta import Delta, apply, diff, merge, settled, told

COMMAND = Path(sys.executable).parent / "zerorepo"

# ------------------------------------------------------------ random graphs that are trees

UNIT_IDS = ("a.py:f", "a.py:C", "a.py:C.m", "d/b.py:f", "d/b.py:g", "d/e/c.py:f")
FILE_IDS = ("a.py", "d/b.py", "d/c.py", "d/e/c.py")
SEMANTIC_IDS = ("#x", "#y", "#z", "#w")


def above(node_id: str) -> str:
    path, colon, qualname = node_id.partition(":")
    if colon:
        outer = qualname.rpartition(".")[0]
        return f"{path}:{outer}" if outer else path
    return path.rpartition("/")[0] or "."


def kind_of(node_id: str) -> str:
    if node_id == ".":
        return "repo"
    if node_id.startswith("#"):
        return "group"
    if ":" in node_id:
        return "class" if node_id.endswith("C") else "method" if node_id.endswith(".m") else "function"
    return "file" if node_id.endswith(".py") else "folder"


def grown(rng: random.Random) -> Graph:
    """A tree: structural nodes with all that they stand in, semantic ones hung anywhere above."""
    ids = {"."}
    for node_id in (*FILE_IDS, *UNIT_IDS):
        if rng.random() < 0.6:
            while node_id not in ids:
                ids.add(node_id)
                node_id = above(node_id)
    edges = [Edge(src=above(one), dst=one, type="contains") for one in ids if one != "."]
    hung: list[str] = []
    for node_id in rng.sample(SEMANTIC_IDS, rng.randint(0, 4)):
        edges.append(Edge(src=rng.choice([".", *hung]), dst=node_id, type="contains"))
        hung.append(node_id)
    return dressed(rng, [*sorted(ids), *hung], edges)


def dressed(rng: random.Random, ids: list[str], edges: list[Edge]) -> Graph:
    nodes = [
        Node(id=one, kind=kind_of(one), doc=rng.choice(("", "", "one", "two")), features=rng.choice(([], ["f"], ["f", "g"])),
             span=rng.choice(([], [1, 2], [3, 4])))
        for one in ids
    ]  # fmt: skip
    found = {}
    for _ in range(rng.randint(0, 6)):
        src, dst, kind = rng.choice(ids), rng.choice(ids), rng.choice(("invokes", "imports", "data_flow"))
        payload = {"name": rng.choice("pq"), "n": rng.randint(0, 2)} if kind != "invokes" else {}
        found[src, dst, kind, payload.get("name")] = Edge(
            src=src, dst=dst, type=kind, payload=payload, confidence=rng.choice(("exact", "inferred"))
        )
    return Graph(nodes, [*edges, *found.values()])


graphs = st.randoms(use_true_random=False).map(grown)


def same(one: Graph, other: Graph) -> bool:
    return one.dumps() == other.dumps()


# ------------------------------------------------------------ laws


@given(graphs)
def test_nothing_differs_between_a_graph_and_itself(a):
    delta = diff(a, Graph.loads(a.dumps()))
    assert not delta and told(delta) == []
    assert same(apply(delta, a), a)


@given(graphs, graphs)
def test_a_delta_leads_from_one_graph_to_the_other_and_back(a, b):
    delta = Delta.loads(diff(a, b).dumps())
    assert apply(delta, a).dumps() == b.dumps()
    assert apply(delta.reversed(), b).dumps() == a.dumps()
    assert bool(delta) == (a.dumps() != b.dumps())
    assert json.loads(delta.dumps())["schema"] == "rpg-delta/1"


@given(graphs, graphs)
def test_a_delta_holds_no_more_than_what_differs(a, b):
    """Against sets of encoded lines: of the two canonical files those that are not in the other."""
    delta = diff(a, b)
    lines = [set(graph.dumps().rstrip(b"\n").splitlines()) for graph in (a, b)]
    differing = {line.strip(b",") for line in lines[0] ^ lines[1] if line.startswith(b'{"') and b'"schema"' not in line}
    nodes = len(delta.nodes.added) + len(delta.nodes.removed) + 2 * len(delta.nodes.changed)
    count = nodes + len(delta.edges.added) + len(delta.edges.removed)
    # a line may differ by the comma at its end alone
    both = {line.strip(b",") for line in lines[0]} & {line.strip(b",") for line in lines[1]}
    first_and_last = sum(line in both for line in differing)
    assert count == len(differing) - first_and_last


@given(graphs, graphs)
def test_merging_with_what_did_not_change_gives_the_change(base, x):
    for result, conflicts in (merge(base, x, base), merge(base, base, x), merge(base, x, x)):
        assert same(result, x) and conflicts == []


@settings(max_examples=300)
@given(graphs, graphs, graphs)
def test_a_merge_is_a_tree_and_commutes_unless_it_conflicts(base, a, b):
    result, conflicts = merge(base, a, b)
    other, back = merge(base, b, a)
    assert bool(conflicts) == bool(back)
    if not conflicts:
        assert same(result, other)
    for graph in (result, other):
        hierarchy = nx.DiGraph([(edge.src, edge.dst) for edge in graph.edges if edge.type == "contains"])
        hierarchy.add_nodes_from(node.id for node in graph.nodes)
        assert nx.is_arborescence(hierarchy) and hierarchy.in_degree(".") == 0
        ids = {node.id for node in graph.nodes}
        assert all(edge.src in ids and edge.dst in ids for edge in graph.edges)


@settings(max_examples=300)
@given(graphs, graphs, graphs)
def test_every_field_of_a_merge_comes_from_where_it_changed(base, a, b):
    """Against the rule itself, field by field, for nodes that all three hold."""
    result, conflicts = merge(base, a, b)
    named = {(one.id, one.field) for one in conflicts}
    for node_id in base.by_id.keys() & a.by_id.keys() & b.by_id.keys() & result.by_id.keys():
        for field in ("doc", "features", "span"):
            old, mine, yours, got = (getattr(g.by_id[node_id], field) for g in (base, a, b, result))
            clash = mine != yours and mine != old and yours != old
            assert got == (yours if mine == old and not clash else mine)
            assert ((node_id, field) in named) == clash


@given(graphs, st.randoms(use_true_random=False))
def test_disjoint_edits_are_both_in_the_merge(base, rng):
    """The one delta after the other is the same as the merge, where they touch different nodes and edges."""
    ids = [node.id for node in base.nodes if node.id != "."]
    mine = {one for one in ids if rng.random() < 0.5}

    def edited(chosen: set[str], text: str) -> Graph:
        nodes = [
            Node(id=n.id, kind=n.kind, doc=text if n.id in chosen else n.doc, features=n.features, span=n.span)
            for n in base.nodes
        ]
        extra = [Edge(src=one, dst=".", type="inherits") for one in sorted(chosen)[:2]]
        gone = [edge for edge in base.edges if edge.type == "invokes" and edge.src in chosen]
        return Graph(nodes, [*(edge for edge in base.edges if edge not in gone), *extra])

    a, b = edited(mine, "of a"), edited(set(ids) - mine, "of b")
    result, conflicts = merge(base, a, b)
    assert conflicts == []
    assert same(result, apply(diff(base, b), a)) and same(result, apply(diff(base, a), b))


# ------------------------------------------------------------ conflicts and the tree


def small(*nodes: Node, edges: tuple[Edge, ...] = (), hung: dict[str, str] | None = None) -> Graph:
    places = {node.id: above(node.id) if not node.id.startswith("#") else "." for node in nodes} | (hung or {})
    tree = [Edge(src=src, dst=dst, type="contains") for dst, src in places.items() if dst in {n.id for n in nodes}]
    return Graph([Node(id=".", kind="repo"), *nodes], [*tree, *edges])


def node(node_id: str, **fields) -> Node:
    return Node(id=node_id, kind=kind_of(node_id), **fields)


def test_a_field_changed_twice_keeps_the_version_of_a_and_is_named():
    base, a, b = (small(node("a.py", doc=doc, sha256="0")) for doc in ("", "mine", "yours"))
    result, conflicts = merge(base, a, b)
    assert [(one.id, one.field) for one in conflicts] == [("a.py", "doc")]
    assert result.by_id["a.py"].doc == "mine"


def test_deleted_on_one_side_and_changed_on_the_other_is_a_conflict():
    base, changed, gone = small(node("a.py")), small(node("a.py", doc="new")), small()
    result, conflicts = merge(base, gone, changed)
    assert [one.id for one in conflicts] == ["a.py"] and "deleted in A, changed in B" in conflicts[0].message
    assert "a.py" not in result.by_id and result.edges == []
    result, conflicts = merge(base, changed, gone)
    assert "deleted in B, changed in A" in conflicts[0].message and result.by_id["a.py"].doc == "new"
    assert [edge.dst for edge in result.edges] == ["a.py"]


def test_an_edge_goes_with_the_end_that_was_deleted():
    call = Edge(src="a.py", dst="b.py", type="imports", payload={"name": "x"})
    base, a = small(node("a.py"), node("b.py")), small(node("a.py"))
    b = small(node("a.py"), node("b.py"), edges=(call,))
    result, conflicts = merge(base, a, b)
    assert conflicts == [] and same(result, a)


def test_an_edge_changed_on_both_sides_is_named_with_its_fields():
    def of(confidence: str, n: int) -> Graph:
        edge = Edge(src="a.py", dst="b.py", type="imports", confidence=confidence, payload={"name": "x", "n": n})
        return small(node("a.py"), node("b.py"), edges=(edge,))

    result, conflicts = merge(of("exact", 0), of("inferred", 0), of("name_only", 0))
    assert [(one.id, one.field) for one in conflicts] == [("a.py -imports-> b.py (x)", "confidence")]
    assert same(result, of("inferred", 0))


def test_a_folder_that_the_other_side_put_something_into_comes_back():
    base = small(node("d"), node("d/b.py"))
    a, b = small(), small(node("d"), node("d/b.py"), node("d/c.py"))
    result, conflicts = merge(base, a, b)
    assert conflicts == [] and same(result, small(node("d"), node("d/c.py")))
    assert same(merge(base, b, a)[0], result)


def test_a_folder_that_both_sides_emptied_is_gone():
    base = small(node("d"), node("d/b.py"), node("d/c.py"))
    a, b = small(node("d"), node("d/b.py")), small(node("d"), node("d/c.py"))
    result, conflicts = merge(base, a, b)
    assert conflicts == [] and same(result, small())


def test_a_unit_put_into_a_class_that_was_deleted_is_a_conflict():
    base = small(node("a.py"), node("a.py:C"))
    a, b = small(node("a.py")), small(node("a.py"), node("a.py:C"), node("a.py:C.m"))
    result, conflicts = merge(base, a, b)
    assert [(one.id, one.field) for one in conflicts] == [("a.py:C.m", "contains")] and same(result, a)
    result, conflicts = merge(base, b, a)
    assert [(one.id, one.field) for one in conflicts] == [("a.py:C.m", "contains")] and same(result, b)


def test_a_node_moved_to_two_places_stays_where_a_has_it():
    nodes = (node("#x"), node("#y"), node("#z"))
    base, a, b = (small(*nodes, hung={"#z": to}) for to in (".", "#x", "#y"))
    result, conflicts = merge(base, a, b)
    assert [(one.id, one.field) for one in conflicts] == [("#z", "contains")] and same(result, a)


def test_nodes_moved_into_each_other_are_a_conflict():
    nodes = (node("#x"), node("#y"))
    base, a, b = small(*nodes), small(*nodes, hung={"#x": "#y"}), small(*nodes, hung={"#y": "#x"})
    result, conflicts = merge(base, a, b)
    assert conflicts and same(result, a)


def test_a_graph_with_an_id_twice_is_refused():
    twice = Graph([Node(id=".", kind="repo"), Node(id=".", kind="repo", doc="x")])
    with pytest.raises(BadInput, match=r"B: \.: two nodes"):
        diff(small(), twice)
    edge = Edge(src=".", dst=".", type="invokes")
    with pytest.raises(BadInput, match=r"A: .*stands twice"):
        diff(Graph([Node(id=".", kind="repo")], [edge, edge]), small())


@given(graphs, graphs, graphs)
def test_a_delta_is_refused_by_a_graph_it_was_not_made_for(a, b, other):
    """Or it changes only what is alike in both."""
    delta = diff(a, b)
    try:
        result = apply(delta, other)
    except BadInput:
        return
    assert diff(other, result).dumps() == delta.dumps()


# ------------------------------------------------------------ merged code


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_merge_of_edits_to_different_files_is_the_encode_of_the_merged_files(rng):
    author = Author(rng)
    base = author.tree()
    a, b = author.edited(base), author.edited(base)
    touched = [
        {path for path in base.keys() | side.keys() if base.get(path, 0) != side.get(path, 0)} for side in (a, b)
    ]
    assume(not touched[0] & touched[1])
    both = {path: data for path, data in {**a, **{path: b.get(path, 0) for path in touched[1]}}.items() if data != 0}
    graphs = [graph_of(files) for files in (base, a, b)]
    merged, conflicts = merge(*graphs)
    result = settled(*graphs, merged)
    # edges that both sides looked up anew may differ between them; they are looked up again
    assert all(" -" in one.id for one in conflicts)
    assert result.dumps() == graph_of(both).dumps()


def test_a_call_of_one_branch_to_a_function_of_the_other_is_found():
    base = {"a.py": "x = 1\n", "b.py": "import a\n\ndef g():\n    a.f()\n"}
    a = {**base, "a.py": "def f(): pass\n"}
    b = {**base, "b.py": "from a import f\n\ndef g():\n    f()\n"}
    graphs = [graph_of(files) for files in (base, a, b)]
    merged, conflicts = merge(*graphs)
    result = settled(*graphs, merged)
    assert conflicts == [] or all(" -" in one.id for one in conflicts)
    assert ("b.py:g", "a.py:f") in {(edge.src, edge.dst) for edge in result.edges if edge.type == "invokes"}
    assert result.dumps() == graph_of({"a.py": a["a.py"], "b.py": b["b.py"]}).dumps()


# ------------------------------------------------------------ the commands


def run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, (done.stdout[-800:], done.stderr[-2000:])
    return done


@pytest.fixture
def three(tmp_path) -> Iterator[Path]:
    sides = {
        "base": {"pkg/__init__.py": "", "pkg/a.py": "def f(): pass\n", "pkg/b.py": "def g(): pass\n"},
        "a": {"pkg/__init__.py": "", "pkg/a.py": "def f(): return 1\n", "pkg/b.py": "def g(): pass\n"},
        "b": {"pkg/__init__.py": "", "pkg/a.py": "def f(): pass\n", "pkg/c.py": "def g(): pass\n"},
    }
    for name, files in sides.items():
        graph_of(files).save(tmp_path / f"{name}.json")
    graph_of({**sides["b"], "pkg/a.py": sides["a"]["pkg/a.py"]}).save(tmp_path / "both.json")
    yield tmp_path


def test_diff_says_what_changed_file_by_file(three):
    text = run("diff", "base.json", "b.json", cwd=three).stdout
    assert text.splitlines()[0].startswith("nodes: 2 added, 2 removed, 0 changed; edges: 2 added, 2 removed")
    assert "pkg/c.py (as pkg/b.py before)" in text and "  + function g" in text and "  - function g" in text
    changed = run("diff", "base.json", "a.json", cwd=three).stdout
    assert "pkg/a.py\n" in changed and "~ f (sha256)" in changed
    same = run("diff", "a.json", "a.json", "--exit-code", cwd=three)
    assert same.stdout == "" and "same graph" in same.stderr
    run("diff", "a.json", "b.json", "--exit-code", cwd=three, code=1)


def test_diff_as_json_is_a_delta_that_applies(three):
    out = run("diff", "a.json", "b.json", "--json", cwd=three).stdout
    assert apply(Delta.loads(out.encode()), Graph.load(three / "a.json")).dumps() == (three / "b.json").read_bytes()
    run("diff", "a.json", "b.json", "--json", "-o", "delta.json", cwd=three)
    assert (three / "delta.json").read_text() == out and (three / "delta.json.manifest.json").exists()


def test_merge_to_stdout_and_to_a_file(three):
    assert (
        run("merge", "base.json", "a.json", "b.json", cwd=three).stdout.encode() == (three / "both.json").read_bytes()
    )
    run("merge", "base.json", "a.json", "b.json", "-o", "out.json", cwd=three)
    assert (three / "out.json").read_bytes() == (three / "both.json").read_bytes()


def test_conflicts_are_named_and_the_result_is_written_all_the_same(three):
    graph = Graph.load(three / "base.json")
    graph.by_id["pkg/a.py:f"].doc = "something else"
    graph.by_id["pkg/a.py:f"].sha256 = "0" * 64
    graph.save(three / "b.json")
    done = run("merge", "base.json", "a.json", "b.json", "-o", "out.json", cwd=three, code=1)
    assert "zerorepo: pkg/a.py:f: sha256: changed in A and in B; kept as in A" in done.stderr
    result, mine = (Graph.load(three / name).by_id["pkg/a.py:f"] for name in ("out.json", "a.json"))
    assert result.doc == "something else" and result.sha256 == mine.sha256
    assert "1 conflicts" in done.stderr
    again = run("merge", "base.json", "a.json", "b.json", "-o", "out.json", cwd=three, code=1)
    assert again.stderr == done.stderr


def test_the_driver_replaces_a_and_takes_an_empty_base(three):
    before = sorted(path.name for path in three.iterdir())
    run("merge", "--driver", "base.json", "a.json", "b.json", cwd=three)
    assert (three / "a.json").read_bytes() == (three / "both.json").read_bytes()
    assert sorted(path.name for path in three.iterdir()) == before
    (three / "empty").write_bytes(b"")
    run("merge", "--driver", "empty", "b.json", "b.json", cwd=three)
    done = run("merge", "--driver", "empty", "base.json", "b.json", cwd=three)
    assert "conflict" not in done.stderr  # what only one side added is no conflict; the rest is alike
    assert "pkg/b.py" in Graph.load(three / "base.json").by_id and "pkg/c.py" in Graph.load(three / "base.json").by_id
    run("merge", "--driver", "base.json", "a.json", "b.json", "-o", "x.json", cwd=three, code=2)


def test_a_graph_that_is_none_is_named(three):
    (three / "bad.json").write_text("<<<<<<< HEAD\n")
    assert "bad.json: not JSON" in run("merge", "base.json", "bad.json", "b.json", cwd=three, code=2).stderr
    assert "none.json: no such file" in run("diff", "base.json", "none.json", cwd=three, code=2).stderr


def test_git_merges_graphs_of_two_branches(tmp_path):
    """The two lines of configuration, two branches that edit different files, and a graph in step afterwards."""
    repo = write(tmp_path / "repo", {
        "pkg/__init__.py": "from pkg.a import f\n", "pkg/a.py": "def f():\n    return 1\n", "pkg/b.py": "from pkg.a import f\n\n\ndef g():\n    return f()\n",
        "pkg/c.py": "def h(): pass\n", ".gitattributes": "rpg.json merge=rpg\n",
    })  # fmt: skip

    def commit(text: str, *more: str) -> None:
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", text, *more)

    git(repo, "init", "-q", "-b", "main")
    git(repo, "config", "merge.rpg.driver", f"{COMMAND} merge --driver %O %A %B")
    run("encode", ".", "-o", "rpg.json", cwd=repo)
    (repo / ".gitignore").write_text("*.manifest.json\n")
    commit("base")
    git(repo, "checkout", "-qb", "theirs")
    write(
        repo,
        {"pkg/b.py": "from pkg.a import f\n\n\ndef g():\n    return [f(), new()]\n", "pkg/d.py": "from pkg import b\n"},
    )
    run("update", "rpg.json", cwd=repo)
    commit("theirs")
    git(repo, "checkout", "-q", "main")
    write(repo, {"pkg/a.py": '"""Hands out numbers."""\n\n\ndef f(x=1):\n    return x\n\n\ndef k():\n    return f()\n'})
    (repo / "pkg/c.py").unlink()
    run("update", "rpg.json", cwd=repo)
    commit("ours")
    git(repo, "merge", "-q", "--no-edit", "theirs")
    assert git(repo, "status", "--porcelain") == ""
    run("update", "rpg.json", "--check", cwd=repo)
    assert (repo / "rpg.json").read_bytes() == encode(WorkTree(repo)).dumps()


def test_git_says_conflict_where_both_branches_edit_one_file_and_update_settles_it(tmp_path):
    source = "\n\n\n".join(f"def f{n}():\n    return {n}" for n in range(6)) + "\n"
    repo = write(tmp_path / "repo", {"a.py": source, ".gitattributes": "rpg.json merge=rpg\n", ".gitignore": "*.manifest.json\n"})  # fmt: skip
    git(repo, "init", "-q", "-b", "main")
    git(repo, "config", "merge.rpg.driver", f"{COMMAND} merge --driver %O %A %B")
    run("encode", ".", "-o", "rpg.json", cwd=repo)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "base")
    git(repo, "checkout", "-qb", "theirs")
    for branch, old, new in (
        ("theirs", "return 5", "return f0()"),
        ("main", "return 0\n", "return 0\n\n\ndef g(): pass\n"),
    ):
        git(repo, "checkout", "-q", branch)
        (repo / "a.py").write_text(source.replace(old, new))
        run("update", "rpg.json", cwd=repo)
        git(repo, "commit", "-qam", branch)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        git(repo, "merge", "--no-edit", "theirs")
    assert "rpg.json" in failed.value.stdout and "a.py: sha256" in failed.value.stderr + failed.value.stdout
    assert "<<<<" not in (repo / "rpg.json").read_text()
    run("update", "rpg.json", cwd=repo)
    assert (repo / "rpg.json").read_bytes() == encode(WorkTree(repo)).dumps()
    assert os.environ.get("GIT_DIR") is None
