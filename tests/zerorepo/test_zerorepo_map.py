"""`zerorepo map`: PageRank against networkx, the budget as a law, and the verb."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_trees import Author, encode, graph_of, write

from zerorepo.graph import Edge, Graph, Node
from zerorepo.outline import LONGEST, central, counter, estimate, least, outline
from zerorepo.sources import WorkTree

BIN = Path(sys.executable).parent / "zerorepo"
HERE = Path(__file__).resolve().parents[2] / "tools" / "zerorepo" / "zerorepo"


def zerorepo(*args, stdin=None):
    return subprocess.run([str(BIN), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def own():
    """The graph of this tool's own source."""
    return encode(WorkTree(HERE))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a small byte-level tokenizer, taught on this tool's own source."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([file.read_text() for file in sorted(HERE.glob("*.py"))], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def unit_lines(text):
    """(file, line) of every unit of a map."""
    found, file = set(), ""
    for line in text.splitlines():
        if line.startswith(" "):
            found.add((file, line))
        else:
            file = line
    return found


# ------------------------------------------------------------ what is central


def ring(rng, size):
    """Public functions of one file, calls among them at random."""
    nodes = [
        Node(id=f"m.py:f{at}", kind="function", path="m.py", qualname=f"f{at}", name=f"f{at}") for at in range(size)
    ]
    weights = {"exact": 1.0, "inferred": 0.8, "name_only": 0.1}
    edges, links = [], {}
    for one in range(size):
        for two in range(size):
            if one != two and rng.random() < 0.3:
                sure = rng.choice(list(weights))
                edges.append(Edge(src=f"m.py:f{one}", dst=f"m.py:f{two}", type="invokes", confidence=sure))
                links[f"m.py:f{one}", f"m.py:f{two}"] = weights[sure]
    return Graph(nodes, edges), links


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_rank_is_networkx_pagerank(seed, focused):
    rng = random.Random(seed)
    graph, links = ring(rng, 7)
    focus = {node.id: rng.random() for node in graph.nodes} if focused else None
    peer = networkx.DiGraph()
    peer.add_nodes_from(node.id for node in graph.nodes)
    for (one, two), weight in links.items():
        peer.add_edge(one, two, weight=weight)
    start = {node.id: 1.0 for node in graph.nodes}
    if focus is not None:
        start = {one: (share / max(focus.values())) ** 4 + 1e-6 for one, share in focus.items()}
    wanted = networkx.pagerank(
        peer, alpha=0.5 if focused else 0.85, personalization=start, dangling=start, tol=1e-10, max_iter=500
    )
    found = [node.id for node in central(graph, focus)]
    for better, worse in itertools.pairwise(found):
        assert wanted[better] >= wanted[worse] - 1e-4
    assert sorted(found) == sorted(wanted)


def test_what_is_used_comes_before_what_uses_it():
    graph = graph_of({"m.py": "def a():\n    c()\n\ndef b():\n    c()\n\ndef c():\n    pass\n\ndef d():\n    pass\n"})
    assert [node.name for node in central(graph)] == ["c", "a", "b", "d"]


def test_private_and_tests_stand_behind():
    graph = graph_of(
        {"m.py": "def _a():\n    pass\n\ndef b():\n    _a()\n", "tests/test_m.py": "def test_b():\n    pass\n"},
    )
    assert [node.name for node in central(graph)] == ["b", "_a", "test_b"]


def test_focus_brings_its_subject_forward(own):
    plain = [node.id for node in central(own)]
    told = [node.id for node in central(own, {"lexical.py:stem": 1.0})]
    assert told.index("lexical.py:stem") < min(3, plain.index("lexical.py:stem"))


def test_order_of_nodes_and_edges_does_not_matter(own):
    nodes, edges = list(own.nodes), list(own.edges)
    random.Random(0).shuffle(nodes)
    random.Random(1).shuffle(edges)
    assert outline(Graph(nodes, edges), 700) == outline(own, 700)


# ------------------------------------------------------------ the budget


@given(st.integers(0, 10_000), st.integers(1, 400), st.integers(0, 200), st.booleans())
@settings(max_examples=60, deadline=None)
def test_never_over_budget_and_never_less_for_more(tokenizer, seed, budget, more, real):
    rng = random.Random(seed)
    graph = graph_of(Author(rng).tree() if rng.random() < 0.3 else _some(rng))
    count, _ = counter(str(tokenizer) if real else None)
    small, large = outline(graph, budget, count), outline(graph, budget + more, count)
    assert count(small) <= budget and count(large) <= budget + more
    assert unit_lines(small) <= unit_lines(large)
    if not small:
        assert least(graph, count) == 0 or least(graph, count) > budget


def _some(rng):
    names = [f"{a}_{b}" for a in "read write parse".split() for b in "file graph line".split()]
    files = {}
    for at in range(rng.randint(1, 4)):
        text = ""
        for name in rng.sample(names, rng.randint(0, 5)):
            other = rng.choice(names)
            text += f"class {name.title()}:\n    def {name}(self, {'x' * rng.randint(1, 200)}):\n        return {other}()\n\n"
            text += f"def {name}(a, b=1):\n    return {other}(a)\n\n"
        files[f"pkg{at}/mod.py"] = text
    return files


@pytest.mark.parametrize("budget", [200, 500, 2000])
def test_a_tokenizer_to_which_the_whole_is_more_than_its_lines(own, budget):
    def count(text):
        return estimate(text) + text.count("\n") ** 2 // 8

    text = outline(own, budget, count)
    assert text and count(text) <= budget


@pytest.mark.parametrize("budget", [60, 300, 1000, 3000])
def test_the_budget_is_used(own, budget):
    """What is left is less than the next unit takes; that is at most a signature and the lines that place it."""
    used = estimate(outline(own, budget))
    assert budget - 3 * (LONGEST // 2) < used <= budget


def test_all_is_shown_where_there_is_room(own):
    units = [node for node in own.nodes if node.kind in ("class", "function", "method")]
    assert len(unit_lines(outline(own, 10**7))) == len(units)


def test_a_map_is_in_the_order_of_the_tree(own):
    text = outline(own, 1500)
    files = [line for line in text.splitlines() if not line.startswith(" ")]
    assert files == sorted(files) and len(set(files)) == len(files)
    numbers: list[int] = []
    for line in text.splitlines():
        if not line.startswith(" "):
            numbers = []
            continue
        numbers.append(int(line.rpartition("# ")[2]))
        assert numbers == sorted(numbers)
    for line in text.splitlines():
        if line.startswith("    "):  # a method stands below the class that holds it
            assert "class " in text[: text.index(line)]


@pytest.mark.deep
def test_the_estimate_is_from_above(own, tokenizer):
    """For tokenizers of real models on a real map; and bytes are the bound of any byte-level one."""
    import tokenizers

    from tenfold_shared.models import resolve

    text = outline(own, 6000)
    real = tokenizers.Tokenizer.from_file(str(Path(resolve("smollm2").path) / "tokenizer.json"))
    assert len(real.encode(text).ids) <= estimate(text) <= len(text.encode())
    for line in text.splitlines(keepends=True):
        assert len(real.encode(line).ids) <= estimate(line), line
    assert estimate("naïve_Größe = 1") >= len(real.encode("naïve_Größe = 1").ids)


# ------------------------------------------------------------ the verb


@pytest.fixture
def shop(tmp_path):
    root = write(
        tmp_path / "shop",
        {
            "cart.py": "class Cart:\n    def total(self):\n        return rounded(1)\n\n\ndef rounded(value):\n    return value\n",
            "mail.py": "def send_invoice(customer):\n    return customer\n",
        },
    )
    encode(WorkTree(root)).save(root / "rpg.json")
    return root


def test_the_verb_prints_a_map(shop, tmp_path, tokenizer):
    done = zerorepo("map", shop / "rpg.json", "--tokens", 200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "cart.py:\n  class Cart  # 1\n    def total(self)  # 2\n  def rounded(value)  # 6\nmail.py:\n  def send_invoice(customer)  # 1\n"
    )
    assert "of 200 tokens" in done.stderr and "estimate" in done.stderr and "4 of 4 units" in done.stderr
    out = tmp_path / "map.txt"
    written = zerorepo("map", shop / "rpg.json", "--tokens", 200, "--tokenizer", tokenizer, "-o", out)
    assert written.returncode == 0 and out.read_text() == done.stdout and str(tokenizer) in written.stderr


def test_focus_decides_what_fits(shop, tmp_path):
    issue = tmp_path / "issue.md"
    issue.write_text("send_invoice fails for some customers\n")
    budget = least(Graph.load(shop / "rpg.json"), estimate) + 4
    plain = zerorepo("map", shop / "rpg.json", "--tokens", budget)
    told = zerorepo("map", shop / "rpg.json", "--tokens", budget + 4, "--focus", issue)
    assert "rounded" in plain.stdout and "send_invoice" not in plain.stdout
    assert "send_invoice" in told.stdout and "rounded" not in told.stdout
    piped = zerorepo("map", shop / "rpg.json", "--tokens", budget + 4, "--focus", "-", stdin=issue.read_text())
    assert piped.stdout == told.stdout


@pytest.mark.parametrize(
    "more, told",
    [
        (["--tokens", 3], "--tokens 3: too small for one line of the map, which takes"),
        (["--tokenizer", "/nonexistent"], "no such folder"),
        (["--focus", "/nonexistent"], "/nonexistent"),
    ],
)
def test_what_cannot_be_done_is_said(shop, more, told):
    done = zerorepo("map", shop / "rpg.json", *more)
    assert done.returncode == 2 and told in done.stderr and not done.stdout and "Traceback" not in done.stderr


def test_a_graph_without_units(tmp_path):
    Graph([Node(id=".", kind="repo", path=".")], []).save(tmp_path / "rpg.json")
    done = zerorepo("map", tmp_path / "rpg.json")
    assert done.returncode == 2 and "no class or function" in done.stderr
