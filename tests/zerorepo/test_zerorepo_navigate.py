"""search, fetch and explore: against networkx's own walks, against the source, and as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import networkx
import pytest

from tenfold_shared import BadInput
from zerorepo import Graph, WorkTree, encode
from zerorepo.graph import EDGES
from zerorepo.navigate import Texts, explore, fetch, find, search

COMMAND = Path(sys.executable).parent / "zerorepo"
SHARED = Path(__file__).parents[2] / "shared"  # a real package of some thirty files


@pytest.fixture(scope="module")
def graph():
    return encode(WorkTree(SHARED))


@pytest.fixture(scope="module")
def texts(graph):
    return Texts(graph, WorkTree(SHARED))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("navigate")
    run("encode", SHARED, "-o", "rpg.json", cwd=folder)
    return folder


def run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, (done.stdout[-500:], done.stderr[-2000:])
    return done


@pytest.mark.parametrize("direction", ["up", "down", "both"])
@pytest.mark.parametrize("edges", [(), ("invokes",), ("contains", "imports")])
@pytest.mark.parametrize("depth", [0, 1, 2, -1])
def test_explore_gives_what_a_breadth_first_walk_gives(graph, direction, edges, depth):
    start = "tenfold_shared/jsonl/output.py:Output.finish"
    walk = networkx.DiGraph()
    walk.add_nodes_from(node.id for node in graph.nodes)
    for edge in graph.edges:
        if edges and edge.type not in edges:
            continue
        if direction != "up":
            walk.add_edge(edge.src, edge.dst)
        if direction != "down":
            walk.add_edge(edge.dst, edge.src)
    expected = networkx.single_source_shortest_path_length(walk, start, None if depth == -1 else depth)
    found = explore(graph, [start], direction=direction, depth=depth, edges=edges)
    assert {step.node.id: step.depth for step in found} == dict(expected)
    assert [step.depth for step in found] == sorted(step.depth for step in found)
    for step in found[1:]:  # the edge that is shown did lead there
        assert step.edge is not None and step.node.id in (step.edge.src, step.edge.dst)
        assert not edges or step.edge.type in edges


def test_explore_shows_only_the_kinds_asked_for_and_walks_through_the_others(graph):
    found = explore(graph, ["tenfold_shared"], direction="down", depth=-1, kinds=["method"], edges=["contains"])
    methods = {n.id for n in graph.nodes if n.kind == "method" and n.path.startswith("tenfold_shared/")}
    assert {step.node.id for step in found[1:]} == methods and found[0].node.id == "tenfold_shared"


def test_fetch_gives_the_source_as_python_sees_it(graph, texts):
    import inspect

    import tenfold_shared.jsonl as module

    told = fetch(graph, "Journal.put", texts)
    assert told["source"] + "\n" == inspect.getsource(module.Journal.put)
    assert told["parent"] == "tenfold_shared/jsonl/journal.py:Journal" and told["kind"] == "method"
    callers = {row["id"] for row in told["used_by"] if row["type"] == "invokes"}
    assert callers == {e.src for e in graph.edges if e.dst == told["id"] and e.type == "invokes"} and callers


def test_a_name_is_found_by_its_end_and_never_guessed(graph):
    assert find(graph, "Journal.put").id == "tenfold_shared/jsonl/journal.py:Journal.put"
    assert find(graph, "journal.py").id == "tenfold_shared/jsonl/journal.py"
    with pytest.raises(BadInput, match="nodes end so"):
        find(graph, "__init__")
    with pytest.raises(BadInput, match=r"nearest is .*Journal\.put"):
        find(graph, "tenfold_shared/jsonl/journal.py:Journal.putt")


def test_snippets_are_found_where_the_text_stands(graph, texts):
    hits = search(graph, "Append-only", mode="snippets", texts=texts, top=20)
    assert hits[0].node.id == "tenfold_shared/jsonl/journal.py:Journal"
    for hit in hits:
        assert "append" in "\n".join(texts.of(hit.node)).lower() or "only" in "\n".join(texts.of(hit.node)).lower()
    line, _, text = hits[0].evidence.partition(": ")
    assert texts.lines("tenfold_shared/jsonl/journal.py")[int(line) - 1].strip() == text


def test_features_are_found_by_meaning_and_filters_hold(place):
    def hits(*words):
        return json.loads(run("search", *words, "--json", "--embeddings", "tfidf", cwd=place).stdout)

    told = hits("write data beside a path, fsync, rename", "--mode", "features", "--top", "3")
    assert told["hits"][0]["qualname"] == "write_atomic" and "tfidf" in told["embeddings"]
    for hit in hits("read lines", "--glob", "*/streams.py", "--kind", "function", "--top", "20")["hits"]:
        assert hit["file"].endswith("/streams.py") and hit["kind"] == "function"
    inside = hits("read", "--scope", "tenfold_shared/jsonl/source.py:Source", "--top", "30")["hits"]
    assert inside and all(hit["id"].startswith("tenfold_shared/jsonl/source.py:Source") for hit in inside)
    span = hits("read", "--glob", "*/streams.py", "--lines", "1-120", "--top", "30")["hits"]
    assert span and all(hit["end"] <= 120 for hit in span)


def test_the_verbs_print_for_people_and_for_programs(place):
    assert "journal.py:Journal.put:" in run("explore", "Journal.put", "--depth", "0", cwd=place).stdout
    lines = run(
        "explore", "Journal.put", "--direction", "up", "--edge", "invokes", "--json", cwd=place
    ).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0]["depth"] == 0 and all(row["edge"]["type"] == "invokes" for row in rows[1:])
    assert json.loads(run("fetch", "Journal.put", "--json", cwd=place).stdout)["qualname"] == "Journal.put"
    assert "def put(self" in run("fetch", "Journal.put", cwd=place).stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fetch", "nowhere.py:f"], "no such node"),
        (["explore", "Journal.put", "--edge", "calls"], "calls"),
        (["search", " "], "empty"),
        (["search", "x", "--lines", "9-3"], "--lines 9-3"),
        (["search", "x", "--graph", "none.json"], "none.json: no such file"),
        (["fetch", "Journal.put", "--root", "empty"], "none of the graph's files"),
        (["fetch", "Journal.put", "--root", "gone"], "no such folder"),
    ],
)
def test_bad_input_is_one_line(place, words, told):
    (place / "empty").mkdir(exist_ok=True)
    done = run(*words, cwd=place, code=2)
    assert told in done.stderr and done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_a_graph_from_elsewhere_reads_no_file_outside_the_repository(tmp_path):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "a.py").write_text("def f():\n    return 1\n")
    (tmp_path / "secret").write_text("the key\n")
    run("encode", "repo", "-o", "rpg.json", cwd=tmp_path)
    text = (tmp_path / "rpg.json").read_text().replace("a.py", "../secret")
    (tmp_path / "rpg.json").write_text(text)
    graph = Graph.load(tmp_path / "rpg.json")
    assert Texts(graph, WorkTree(tmp_path / "repo")).lines("../secret") == []
    done = run("fetch", "../secret", "--root", "repo", "--json", cwd=tmp_path)
    assert "the key" not in done.stdout


def test_every_edge_type_can_be_followed():
    done = subprocess.run([COMMAND, "explore", "--help"], capture_output=True, text=True, check=True)
    assert all(edge in done.stdout for edge in EDGES)


def test_source_that_is_no_longer_the_graphs_is_said_and_a_commit_gives_the_old(tmp_path):
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "a.py").write_text("def f():\n    return 1\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", repo, *words], check=True)
    run("encode", "repo", "-o", "rpg.json", cwd=tmp_path)
    assert run("fetch", "f", cwd=tmp_path).stderr == ""
    (repo / "a.py").write_text("\n\n\ndef f():\n    return 2\n")
    assert "1 files differ from the graph (a.py)" in run("fetch", "f", cwd=tmp_path).stderr
    done = run("fetch", "f", "--rev", "HEAD", "--json", cwd=tmp_path)
    assert done.stderr == "" and json.loads(done.stdout)["source"] == "def f():\n    return 1"
