"""show: the tree in its two readings, and counts against what networkx and plain loops count."""

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_trees import Author, graph_of

from zerorepo import Graph, WorkTree, dotted_prefix, encode
from zerorepo.graph import IMPORTS, SEMANTIC
from zerorepo.lift import Overlay, attach
from zerorepo.show import import_cycles, rows, stats, tree

COMMAND = Path(sys.executable).parent / "zerorepo"
FILES = {
    "pkg/__init__.py": '"""Serves pages."""\n', "pkg/a.py": "class C:\n    def m(self): pass\n\ndef f(): pass\n", "pkg/sub/b.py": "x = 1\n",
    "bad.py": "def (:\n", "native.c": "int x;\n", "pkg/[odd]\x1b.py": "",
}  # fmt: skip
GRAPH = graph_of(FILES)
LIFTED = attach(GRAPH, Overlay({"pkg/a.py": (["hold a class", "give a function"], "model k")}, {"pkg/a.py": ("reading", "files", "text")}))  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    GRAPH.save(tmp_path / "rpg.json")
    LIFTED.save(tmp_path / "lifted.json")
    return tmp_path


def run(*words: object, cwd: Path, code: int = 0) -> str:
    done = subprocess.run([COMMAND, "show", *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_the_tree_by_files_is_indented_and_names_what_is_unparsed(folder):
    assert run("tree", cwd=folder).splitlines() == [
        ".",
        "  pkg/",
        "    sub/",
        "      b.py",
        "    [odd]\\x1b.py",
        "    __init__.py",
        "    a.py",
        "      class C",
        "        def m(self)",
        "      def f()",
        f"  bad.py [unparsed: {GRAPH.by_id['bad.py'].reason}]",
        "  native.c [unparsed: not Python]",
    ]
    assert run("tree", "rpg.json", "--depth", 1, cwd=folder).splitlines()[1] == "  pkg/"
    assert len(run("tree", "rpg.json", "--depth", 1, cwd=folder).splitlines()) == 4
    assert run("tree", "rpg.json", "--depth", 0, cwd=folder) == ".\n"


def test_the_tree_by_features_reads_what_the_parts_do(folder):
    text = run("tree", "lifted.json", "--by", "features", cwd=folder)
    assert text.splitlines()[1:5] == [
        "  reading",
        "    files",
        "      text",
        "        hold a class; give a function  (pkg/a.py)",
    ]
    assert "pkg/sub" not in text
    plain = run("tree", "rpg.json", "--by", "features", cwd=folder)  # no areas: the files, by their features
    assert "    a  (pkg/a.py)" in plain.splitlines() and "      f  (pkg/a.py:f)" in plain.splitlines()


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_rows_are_the_depths_of_the_containment_tree(rng, depth):
    graph = graph_of(Author(rng).tree())
    hierarchy = nx.DiGraph([(edge.src, edge.dst) for edge in graph.edges if edge.type == "contains"])
    hierarchy.add_node(".")
    expected = nx.single_source_shortest_path_length(hierarchy, ".", cutoff=depth)
    found = rows(graph, "files", depth)
    assert {node.id: level for level, node in found} == dict(expected)
    last: list[str] = []
    for level, node in found:  # each stands below its parent
        last = [*last[:level], node.id]
        assert level == 0 or hierarchy.has_edge(last[level - 1], node.id)


def test_the_tree_as_json_is_nested_and_whole(folder):
    made = json.loads(run("tree", "lifted.json", "--json", cwd=folder))
    assert made == tree(LIFTED)
    ids = []
    stack = [made]
    while stack:
        one = stack.pop()
        ids.append(one["id"])
        stack += one.get("children", [])
    assert sorted(ids) == sorted(node.id for node in LIFTED.nodes if node.kind not in SEMANTIC)


def test_on_a_terminal_the_tree_is_drawn(folder):
    """Brackets in names are no markup, and escapes reach no terminal."""
    main, side = pty.openpty()
    done = subprocess.Popen([COMMAND, "show", "tree"], cwd=folder, stdout=side, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"})  # fmt: skip
    os.close(side)
    text = b""
    while True:
        try:
            block = os.read(main, 4096)
        except OSError:
            break
        if not block:
            break
        text += block
    assert done.wait() == 0
    told = re.sub(r"\x1b\[[\d;]*m", "", text.decode())
    assert "\x1b" not in told
    assert "├── pkg/" in told and "[odd]\\x1b.py" in told and "unparsed" in told


# ------------------------------------------------------------ counts


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_circles_of_imports_are_the_components_of_networkx(rng):
    graph = graph_of(Author(rng).tree())
    digraph = nx.DiGraph([(edge.src, edge.dst) for edge in graph.edges if edge.type == "imports"])
    expected = [sorted(c) for c in nx.strongly_connected_components(digraph) if len(c) > 1]
    assert sorted(import_cycles(graph)) == sorted(expected)


def test_counts_of_a_real_package():
    root = Path(nx.__file__).parent / "algorithms" / "flow"
    graph = encode(WorkTree(root), dotted_prefix(root))
    found = stats(graph)
    assert found["kinds"]["file"] == len(list(root.rglob("*.py"))) == found["languages"]["Python"]
    assert sum(sum(told.values()) for told in found["types"].values()) == found["edges"] == len(graph.edges)
    assert sum(found["kinds"].values()) == found["nodes"] == len(graph.nodes)
    # an empty file has a first line
    lines = {path.relative_to(root).as_posix(): path.read_text().count("\n") or 1 for path in root.rglob("*.py")}
    assert found["lines"] == sum(lines.values())
    assert [one["lines"] for one in found["largest"]] == sorted(lines.values(), reverse=True)[:10]
    assert all(lines[one["path"]] == one["lines"] for one in found["largest"])
    pairs = {(edge.src, edge.dst) for edge in graph.edges if edge.type in IMPORTS}
    importers = Counter(dst for _, dst in pairs)
    assert [one["importers"] for one in found["most_imported"]] == sorted(importers.values(), reverse=True)[:10]


def test_stats_as_json_and_as_tables(folder):
    told = json.loads(run("stats", "--json", cwd=folder))
    assert told == json.loads(json.dumps(stats(GRAPH)))
    assert [one["path"] for one in told["unparsed"]] == ["bad.py", "native.c"]
    assert told["status"] == {"done": len(GRAPH.nodes) - 2, "unparsed": 2} and told["languages"] == {
        "Python": 5,
        "C": 1,
    }
    text = run("stats", cwd=folder)
    assert "bad.py" in text and "[odd]" in text and "native.c" not in text  # a file of C is a count, no fault


def test_no_tree_and_no_graph_are_refused(folder):
    Graph(GRAPH.nodes, [edge for edge in GRAPH.edges if edge.dst != "pkg"]).save(folder / "torn.json")
    assert run("tree", "torn.json", cwd=folder, code=2) == ""
    assert run("stats", "none.json", cwd=folder, code=2) == ""
