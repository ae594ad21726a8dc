"""`zerorepo localize`: BM25 and the walk against other computations, what an issue names, the verb's input and output."""

import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_trees import graph_of, write

from tenfold_shared import BadInput
from zerorepo.encode import encode
from zerorepo.graph import UNITS, Edge, Graph, Node
from zerorepo.issues import read_issues, sentences
from zerorepo.lexical import Bm25, query_of, stem, tokens
from zerorepo.localize import STEPS, WAYS, Localizer, Weights
from zerorepo.navigate import Texts
from zerorepo.sources import WorkTree

BIN = Path(sys.executable).parent / "zerorepo"
SHOP = {
    "shop/__init__.py": "",
    "shop/cart.py": '''"""A basket of goods."""
from shop.money import rounded


class Cart:
    """Goods a customer wants."""

    def __init__(self):
        self.lines = []

    def add(self, item, count=1):
        """Put an item into the basket."""
        self.lines.append((item, count))

    def total(self):
        """Sum of the prices, with the coupon taken off."""
        return rounded(sum(item.price * count for item, count in self.lines))
''',
    "shop/money.py": '''"""Amounts."""


def rounded(value):
    return half_even(value * 100) / 100


def half_even(value):
    return int(value + 0.5)


def unrelated(value):
    return value
''',
    "shop/mail.py": '''"""Letters to customers."""


def send_invoice(customer):
    """Mail the invoice as a PDF."""
    return customer
''',
    "tests/test_cart.py": """from shop.cart import Cart


def test_total_of_basket():
    cart = Cart()
    assert cart.total() == 0
""",
}


class Fake:
    """Vectors of words by hash: like texts are close, nothing is learned, nothing is read."""

    name = "fake"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts):
        self.asked += list(texts)
        made = np.zeros((len(texts), 64), np.float32)
        for row, text in enumerate(texts):
            for word in tokens(text):
                made[row, sum(map(ord, word)) % 64] += 1
        return made


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The repository's folder and its graph."""
    root = write(tmp_path_factory.mktemp("shop"), SHOP)
    graph = encode(WorkTree(root))
    graph.save(root / "rpg.json")
    return root, graph


def zerorepo(*args, stdin=None):
    return subprocess.run([str(BIN), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=120)


def ids(found):
    return [one.node.id for one in found]


# ------------------------------------------------------------ words


def test_identifiers_meet_prose():
    assert tokens("CookieJar.read_all") == [stem("cookie"), stem("jar"), "cookiejar", "read", "read_all"]
    assert set(tokens("parsing parsers parsed parse")) == {stem("parse")}
    assert tokens("the self of None") == []
    assert "http" in tokens("HTTPServer") and "httpserver" in tokens("HTTPServer")


@given(st.text(max_size=200))
def test_tokens_take_any_text(text):
    for word in tokens(text):
        assert word and word == word.lower()


@pytest.mark.parametrize(
    "one, two",
    [("errors", "error"), ("classes", "class"), ("queries", "query"), ("stripped", "strip"), ("caching", "cache")],
)
def test_stem_joins(one, two):
    assert stem(one) == stem(two)


@pytest.mark.parametrize("one, two", [("status", "state"), ("class", "clas"), ("id", "ids_"), ("bus", "bu")])
def test_stem_keeps_apart(one, two):
    assert stem(one) != stem(two)


def brute(documents, query, k1, b):
    """BM25 written down again, one document at a time."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        total = 0.0
        for word, weight in query.items():
            holding = sum(word in other for other in documents)
            times = words.count(word)
            if times:
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                total += weight * idf * times / (times + k1 * (1 - b + b * len(words) / mean))
        scores.append(total)
    return scores


words = st.lists(st.sampled_from("a b c d e f g".split()), max_size=12)


@given(st.lists(words, min_size=1, max_size=8).filter(any), words, st.floats(0.1, 5), st.floats(0, 1))
def test_bm25_is_the_formula(documents, asked, k1, b):
    query = {word: float(count) for word, count in Counter(asked).items()}
    found = Bm25(len(documents), {"all": documents}).scores(query, {"all": 1.0}, k1, b)
    assert found == pytest.approx(brute(documents, query, k1, b), abs=1e-9)


def test_bm25_by_hand():
    # N = 2, n = 1: idf = ln(1 + 1.5/1.5) = ln 2; lengths 1 and 3, mean 2; b = 1: norm of the first is 1/2, f = 2.
    found = Bm25(2, {"all": [["x"], ["y", "y", "z"]]}).scores({"x": 1.0}, {"all": 1.0}, 1.0, 1.0)
    assert found.tolist() == pytest.approx([math.log(2) * 2 / 3, 0])


@given(st.lists(words, min_size=2, max_size=6).filter(any), words)
def test_a_field_of_weight_two_is_the_field_twice(documents, asked):
    query = dict.fromkeys(asked, 1.0)
    two = Bm25(len(documents), {"one": documents}).scores(query, {"one": 2.0}, 1.2, 0.5)
    both = Bm25(len(documents), {"one": documents, "two": documents}).scores(query, {"one": 1.0, "two": 1.0}, 1.2, 0.5)
    assert two == pytest.approx(both)


def test_talk_weighs_less():
    query = query_of("Fixed a bug in the coupon", 0.25)
    assert query[stem("coupon")] == 1
    assert query[stem("bug")] == query[stem("fixed")] == 0.25


# ------------------------------------------------------------ the walk


def random_graph(rng, size=6):
    nodes = [Node(id="a.py", kind="file", path="a.py", name="a.py")]
    nodes += [
        Node(id=f"a.py:f{at}", kind="function", path="a.py", qualname=f"f{at}", name=f"f{at}", span=[at + 1, at + 1])
        for at in range(size)
    ]
    edges = [Edge(src="a.py", dst=node.id, type="contains") for node in nodes[1:]]
    for one, two in itertools.permutations(nodes[1:], 2):
        if rng.random() < 0.35:
            sure = rng.choice(["exact", "inferred", "name_only"])
            edges.append(
                Edge(src=one.id, dst=two.id, type=rng.choice(["invokes", "inherits", "tests"]), confidence=sure)
            )
    rng.shuffle(nodes)
    rng.shuffle(edges)
    return Graph(nodes, edges)


WALK = Weights(
    alpha=0.6, caller_to_callee=1.3, callee_to_caller=0.4, inherits=0.7, imports=0.2, tests=0.9, contains=0.5
)


def dense(localizer):
    """W by the definition, and S = D^-1/2 W D^-1/2 with out- and in-degrees."""
    graph, weights = localizer.graph, localizer.weights
    order = [node.id for node in localizer.units] + sorted({node.path for node in localizer.units})
    sure = {"exact": 1.0, "inferred": 0.8, "name_only": 0.3}
    kinds = {name: np.zeros((len(order), len(order))) for name in WAYS}
    for edge in graph.edges:
        if edge.src == edge.dst or edge.src not in order or edge.dst not in order:
            continue
        one, two = order.index(edge.src), order.index(edge.dst)
        weight = 1.0 if edge.type == "contains" else sure[edge.confidence]
        if edge.type == "invokes":
            kinds["caller_to_callee"][one, two] = max(kinds["caller_to_callee"][one, two], weight)
            kinds["callee_to_caller"][two, one] = max(kinds["callee_to_caller"][two, one], weight)
        else:
            for a, b in ((one, two), (two, one)):
                kinds[edge.type][a, b] = max(kinds[edge.type][a, b], weight)
    scaled = np.zeros((len(order), len(order)))
    out = sum(getattr(weights, name) * kinds[name].sum(1) for name in WAYS)
    into = sum(getattr(weights, name) * kinds[name].sum(0) for name in WAYS)
    for name in WAYS:
        for a, b in np.argwhere(kinds[name]):
            scaled[a, b] += getattr(weights, name) * kinds[name][a, b] / math.sqrt(out[a] * into[b])
    return scaled, order


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_walk_is_the_dense_one(seed):
    rng = random.Random(seed)
    localizer = Localizer(random_graph(rng), weights=WALK)
    first = np.array([rng.random() for _ in localizer.units])
    scaled, order = dense(localizer)
    wanted = start = np.concatenate([first, np.zeros(len(order) - len(first))])
    for _ in range(STEPS):
        wanted = WALK.alpha * wanted @ scaled + (1 - WALK.alpha) * start
    assert localizer.spread(first)[-1] == pytest.approx(wanted)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_path_is_the_greatest_flow(seed):
    """Every walk of at most STEPS edges is tried; the path found must be of one whose flow none exceeds."""
    rng = random.Random(seed)
    graph = random_graph(rng, 4)
    localizer = Localizer(graph, weights=WALK)
    issue = " ".join(rng.sample(["f0", "f1", "f2", "f3"], 2))
    found = localizer.rank(issue, 10)
    start = localizer.spread(localizer.first(localizer.evidence(issue)))[0]
    source, target, weight, _ = localizer.matrix
    order = [node.id for node in localizer.units] + ["a.py"]
    # a walk that begins at u with s steps to go has (1 − α)·x₀(u), or x₀(u) where it uses all the steps
    best = {}
    walks = [((at,), float(start[at])) for at in range(len(order))]
    for length in range(STEPS + 1):
        for walk, flow in walks:
            whole = flow * (1 if length == STEPS else 1 - WALK.alpha)
            best[walk[-1]] = max(best.get(walk[-1], 0.0), whole)
        walks = [
            ((*walk, int(b)), flow * WALK.alpha * float(w))
            for walk, flow in walks
            for a, b, w in zip(source, target, weight, strict=True)
            if a == walk[-1]
        ]
    for one in found:
        path = [order.index(step["id"]) for step in one.path]
        assert path[-1] == order.index(one.node.id)
        flow = float(start[path[0]]) * (1 if len(path) == STEPS + 1 else 1 - WALK.alpha)
        for a, b in itertools.pairwise(path):
            flow *= WALK.alpha * max(
                float(w) for x, y, w in zip(source, target, weight, strict=True) if (x, y) == (a, b)
            )
        assert flow == pytest.approx(best[path[-1]])


def test_every_step_of_a_path_is_an_edge_of_the_graph(shop):
    root, graph = shop
    edges = {(edge.src, edge.dst, edge.type, edge.confidence) for edge in graph.edges}
    for one in Localizer(graph, Texts(graph, WorkTree(root)), Fake()).rank(
        "the total of the basket is rounded wrongly", 20
    ):
        assert one.path[0]["why"] and one.path[-1]["id"] == one.node.id
        for before, step in itertools.pairwise(one.path):
            ends = (before["id"], step["id"]) if step["direction"] == "forward" else (step["id"], before["id"])
            assert (*ends, step["edge"], step["confidence"]) in edges


def test_a_callee_rises_with_edges_and_not_without(shop):
    root, graph = shop
    texts = Texts(graph, WorkTree(root))
    issue = "Cart.total is off by a cent"
    scores = {}
    for edges in (True, False):
        localizer = Localizer(
            graph, texts, edges=edges, weights=Weights(contains=0, alpha=0.6, caller_to_callee=1.0, around=0, in_file=0)
        )
        found = dict(zip((node.id for node in localizer.units), localizer.scores(issue), strict=True))
        scores[edges] = found["shop/money.py:rounded"] / found["shop/cart.py:Cart.total"]
    assert scores[True] > 2 * scores[False]
    path = next(
        one.path
        for one in Localizer(graph, None, weights=Weights(contains=0, alpha=0.6, size=0, in_file=0, around=0)).rank(
            issue, 20
        )
        if one.node.id == "shop/money.py:rounded"
    )
    assert [step["id"] for step in path] == ["shop/cart.py:Cart.total", "shop/money.py:rounded"]
    assert path[1]["edge"] == "invokes" and path[1]["direction"] == "forward"


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_order_of_the_file_does_not_matter(seed):
    rng = random.Random(seed)
    graph = graph_of(SHOP)
    issue = rng.choice(["Cart.total rounds wrongly", "invoice", "coupon not taken off", "half_even"])
    wanted = Localizer(graph).rank(issue, 20)
    nodes, edges = list(graph.nodes), list(graph.edges)
    rng.shuffle(nodes)
    rng.shuffle(edges)
    assert Localizer(Graph(nodes, edges)).rank(issue, 20) == wanted


def test_ties_go_by_id():
    files = {f"{name}.py": "def same():\n    return 1\n" for name in "cab"}
    assert ids(Localizer(graph_of(files)).rank("same", 3)) == ["a.py:same", "b.py:same", "c.py:same"]


# ------------------------------------------------------------ what an issue names


@pytest.mark.parametrize(
    "issue, wanted",
    [
        ("`Cart.total` gives 0.1", "shop/cart.py:Cart.total"),
        ("shop.cart.Cart.total gives 0.1", "shop/cart.py:Cart.total"),
        ("see cart.total()", "shop/cart.py:Cart.total"),
        ("half_even is wrong", "shop/money.py:half_even"),
        (
            '  File "/x/site-packages/shop/money.py", line 9, in half_even\n    return\nValueError',
            "shop/money.py:half_even",
        ),
        ('  File "C:\\x\\shop\\money.py", line 9, in half_even', "shop/money.py:half_even"),
        ("it is in shop/mail.py somewhere", "shop/mail.py:send_invoice"),
        ("it is in shop\\mail.py somewhere", "shop/mail.py:send_invoice"),
        ("mail the invoice", "shop/mail.py:send_invoice"),
    ],
)
@pytest.mark.parametrize("with_source", [True, False])
def test_what_is_named_comes_first(shop, issue, wanted, with_source):
    root, graph = shop
    texts = Texts(graph, WorkTree(root)) if with_source else None
    assert ids(Localizer(graph, texts).rank(issue, 3))[0] == wanted


def test_a_frame_names_the_definition_that_holds_its_line():
    text = (
        "def f():\n    return 1\n\n\nif True:\n    def g():\n        return 1\nelse:\n    def g():\n        return 2\n"
    )
    localizer = Localizer(graph_of({"m.py": text}))
    named = localizer.mentions('File "m.py", line 10, in g')
    assert [one.ids for one in named if one.text.startswith("File")] == [("m.py:g#2",)]


def test_nothing_named_nothing_ranked(shop):
    assert Localizer(shop[1]).rank("zyzzyva qwertz", 5) == []


def test_tests_stand_behind_what_they_test(shop):
    found = ids(Localizer(shop[1]).rank("test total of basket", 10))
    assert found.index("shop/cart.py:Cart.total") < found.index("tests/test_cart.py:test_total_of_basket")


def test_docstrings_and_bodies_are_told_apart(shop):
    root, graph = shop
    localizer = Localizer(graph, Texts(graph, WorkTree(root)))
    at = localizer.place["shop/cart.py:Cart.total"]
    assert localizer.words.frequency(stem("coupon"), {"doc": 1.0})[at] > 0
    assert localizer.words.frequency(stem("coupon"), {"body": 1.0})[at] == 0
    assert localizer.words.frequency(stem("count"), {"body": 1.0})[at] > 0
    # what lies in a class's methods is theirs
    outer = localizer.place["shop/cart.py:Cart"]
    assert localizer.words.frequency(stem("price"), {"body": 1.0})[outer] == 0


def test_features_off_asks_for_no_vector(shop):
    fake = Fake()
    localizer = Localizer(shop[1], None, fake, features=False)
    localizer.rank("the invoice", 3)
    assert fake.asked == []
    assert localizer.words.frequency("invoice", {"features": 1.0}).sum() == 0
    Localizer(shop[1], None, fake).rank("the invoice", 3)
    assert "the invoice" in fake.asked and "send invoice" in fake.asked


@pytest.mark.parametrize("switches", [{}, {"edges": False}, {"features": False}])
def test_a_reading_taken_over_changes_nothing(shop, switches):
    root, graph = shop
    texts = Texts(graph, WorkTree(root))
    issue = "the coupon is not taken off Cart.total"
    wanted = Localizer(graph, texts, Fake(), **switches).rank(issue, 20)
    assert Localizer(graph, None, Fake(), like=Localizer(graph, texts), **switches).rank(issue, 20) == wanted


def test_prose_of_an_issue():
    issue = "Title here.\n\n```python\nx = secret_code()\n```\n- first thing happens\n- second thing\n"
    assert sentences(issue) == ["Title here.", "first thing happens", "second thing"]
    assert sentences("word") == ["word"]


# ------------------------------------------------------------ the verb


def test_a_text_gives_one_ranking(shop, tmp_path):
    root, _ = shop
    issue = tmp_path / "issue.md"
    issue.write_text("# Wrong total\n\nCart.total is off by a cent.\n")
    done = zerorepo("localize", issue, "--graph", root / "rpg.json", "--top", 3, "--json", "--embeddings", "tfidf")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(row["embeddings"], row["source"]) for row in told} == {("tfidf", "repository")}
    assert [row["rank"] for row in told] == [1, 2, 3]
    first = told[0]
    assert first.keys() == {"rank", "file", "qualname", "start", "end", "score", "path", "embeddings", "source"}
    assert (first["file"], first["qualname"]) == ("shop/cart.py", "Cart.total")
    lines = SHOP["shop/cart.py"].split("\n")
    assert lines[first["start"] - 1].strip() == "def total(self):" and "rounded" in lines[first["end"] - 1]
    again = zerorepo("localize", issue, "--graph", root / "rpg.json", "--top", 3, "--json", "--embeddings", "tfidf")
    assert again.stdout == done.stdout
    people = zerorepo("localize", "-", "--graph", root / "rpg.json", "--embeddings", "tfidf", stdin=issue.read_text())
    assert people.returncode == 0 and "Cart.total" in people.stdout and "tfidf" in people.stderr


def test_swe_bench_lines_give_a_ranking_each(shop, tmp_path):
    root, _ = shop
    rows = [
        {"instance_id": "shop-1", "repo": "x/shop", "problem_statement": "half_even rounds up", "patch": ""},
        {"instance_id": "shop-2", "problem_statement": "zyzzyva"},
        {"instance_id": "shop-3", "problem_statement": "send_invoice fails"},
    ]
    file, out = tmp_path / "issues.jsonl", tmp_path / "ranked.jsonl"
    file.write_text("\ufeff" + "\r\n".join(map(json.dumps, rows)) + "\r\n\r\n")
    common = ("--graph", root / "rpg.json", "--embeddings", "tfidf")
    done = zerorepo("localize", file, *common, "-o", out)
    assert done.returncode == 1, done.stderr  # the second says nothing of this repository
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["instance_id"] for row in told] == ["shop-1", "shop-2", "shop-3"]
    assert [row["ranking"][0]["qualname"] if row["ranking"] else None for row in told] == [
        "half_even",
        None,
        "send_invoice",
    ]
    assert all("embeddings" in row for row in told)
    assert (tmp_path / "ranked.jsonl.manifest.json").exists()
    piped = zerorepo("localize", "-", *common, "--limit", 1, stdin=file.read_text())
    assert piped.returncode == 0 and json.loads(piped.stdout) == told[0]


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"instance_id": "a", "problem_statement": "x"}\n{"instance_id": \n', "issues.jsonl:2: expected one JSON object"),
        ('{"instance_id": "a", "problem_statement": "x"}\n[1]\n', "issues.jsonl:2: expected a JSON object"),
        ('{"instance_id": "a"}\n', "issues.jsonl:1: problem_statement: expected"),
        ('\n{"instance_id": 7, "problem_statement": "x"}\n', "issues.jsonl:2: instance_id: expected"),
        ('{"instance_id": "a", "problem_statement": " "}\n', "issues.jsonl:1: problem_statement: expected"),
        ('{"instance_id": "a", "problem_statement": "x"}\n{"instance_id": "a", "problem_statement": "y"}\n',
         "issues.jsonl:2: instance_id: 'a' stands in line 1"),
        (" \n", "issues.jsonl: empty"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path, text, told):
    file = tmp_path / "issues.jsonl"
    file.write_text(text)
    with pytest.raises(BadInput, match="issues") as error:
        read_issues(str(file))
    assert told in str(error.value)


def test_a_malformed_line_writes_nothing(shop, tmp_path):
    file, out = tmp_path / "issues.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"instance_id": "a", "problem_statement": "total"}\n{nonsense\n')
    done = zerorepo("localize", file, "--graph", shop[0] / "rpg.json", "--embeddings", "tfidf", "-o", out)
    assert done.returncode == 2 and "issues.jsonl:2:" in done.stderr and not out.exists()


def test_bytes_that_are_no_text(shop, tmp_path):
    file = tmp_path / "issue.md"
    file.write_bytes(b"caf\xe9")
    done = zerorepo("localize", file, "--graph", shop[0] / "rpg.json", "--embeddings", "tfidf")
    assert done.returncode == 2 and "UTF-8" in done.stderr


def test_without_the_repository_the_graph_alone_is_searched(shop, tmp_path):
    graph = tmp_path / "elsewhere.json"
    shop[1].save(graph)
    common = ("--graph", graph, "--embeddings", "tfidf")
    done = zerorepo("localize", "-", *common, "--json", stdin="mail the invoice as a PDF")
    assert done.returncode == 0 and "graph alone" in done.stderr
    told = json.loads(done.stdout.splitlines()[0])
    assert told["source"] == "graph only" and told["qualname"] == "send_invoice"
    (tmp_path / "empty").mkdir()
    refused = zerorepo("localize", "-", *common, "--root", tmp_path / "empty", stdin="mail")
    assert refused.returncode == 2 and "none of the graph's files" in refused.stderr


def test_a_plan_without_units_is_refused(tmp_path):
    Graph([Node(id=".", kind="repo", path=".")], []).save(tmp_path / "rpg.json")
    done = zerorepo("localize", "-", "--graph", tmp_path / "rpg.json", "--embeddings", "tfidf", stdin="x")
    assert done.returncode == 2 and "no class or function" in done.stderr


def test_units_are_what_is_ranked(shop):
    assert {one.node.kind for one in Localizer(shop[1]).rank("cart money mail total", 50)} <= set(UNITS)
