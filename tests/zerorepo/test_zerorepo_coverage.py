"""Features among the leaves of a taxonomy: known answers, plain loops, laws; what the paper published."""

import importlib.util
import itertools
import json
import math
import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_scripted import Scripted

from tenfold_shared import BadInput
from tenfold_shared.generate import Sampling
from zerorepo.craft import paper
from zerorepo.craft.coverage import Taxonomy, assigned, features_of, of_json, of_tasks, refined, told
from zerorepo.craft.package import Package
from zerorepo.craft.tasks import Interface, Task
from zerorepo.embeddings import TfIdf, TfIdfIndex
from zerorepo.generation.asking import TRIES, Asker
from zerorepo.graph import Edge, Graph, Node


class Toy:
    """Texts to given vectors, to length 1."""

    name = "toy"

    def __init__(self, vectors):
        self.vectors = {text: np.array(vector, float) for text, vector in vectors.items()}
        self.dimensions = len(next(iter(self.vectors.values())))

    def encode(self, texts):
        rows = np.stack([self.vectors[text] for text in texts])
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(length > 0, length, 1)).astype(np.float32)


AXES = Toy({
    "x": [1, 0, 0, 0, 0], "y": [0, 1, 0, 0, 0], "z": [0, 0, 1, 0, 0], "w": [0, 0, 0, 1, 0], "x+y": [1, 1, 0, 0, 0],
    "y+z": [0, 1, 1, 0, 0], "-x": [-1, 0, 0, 0, 0], "4x+3w": [4, 0, 0, 3, 0], "3x+4y": [3, 4, 0, 0, 0], "0": [0, 0, 0, 0, 0],
    "X": [1, 0, 0, 0, 0],
})  # fmt: skip
THREE = Taxonomy(["a", "b", "c"], [["x"], ["y"], ["z"]])

# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize(
    ("features", "threshold", "of", "coverage", "novelty"),
    [
        (["x", "y", "z"], 0.5, ["a", "b", "c"], 1, 0),
        (["x", "X", "x"], 0.5, ["a", "a", "a"], 1 / 3, 0),
        (["w", "x"], 0.5, [None, "a"], 1 / 3, 1 / 2),
        (["4x+3w"], 0.8, ["a"], 1 / 3, 0),
        (["4x+3w"], 0.800001, [None], 0, 1),
        (["3x+4y"], 0.8, ["b"], 1 / 3, 0),
        (["x+y", "y+z"], 0.7, ["a", "b"], 2 / 3, 0),  # equally near: the first by name
        (["-x"], -1, ["b"], 1 / 3, 0),
        (["0"], 0.01, [None], 0, 1),
        (["x"], 1, ["a"], 1 / 3, 0),
        (["x"], 1.5, [None], 0, 1),
        ([], 0.5, [], 0, 0),
    ],
)
def test_known_answers(features, threshold, of, coverage, novelty):
    found = assigned(THREE, features, AXES, threshold)
    assert found.of == of and found.threshold == threshold
    assert found.coverage == pytest.approx(coverage) and found.novelty == pytest.approx(novelty)
    assert found.hit == sorted({leaf for leaf in of if leaf}) and found.novel == of.count(None)
    assert (found.leaves, found.features) == (3, len(features))


def test_a_leaf_is_the_mean_of_its_texts_to_length_one():
    two = Taxonomy(["a", "b"], [["x", "y"], ["z"]])  # (x + y)/√2: x has a cosine of .707107 with it
    assert assigned(two, ["x", "y", "x+y"], AXES, 0.707107).of == ["a"] * 3
    assert assigned(two, ["x", "y", "x+y"], AXES, 0.707108).of == [None, None, "a"]


def test_a_text_that_stands_twice_in_a_leaf_weighs_once_and_a_leaf_without_texts_has_its_name():
    assert Taxonomy(["a"], [["x", "y", "x"]]).texts == [["x", "y"]]
    assert Taxonomy(["y", "x"], [[], [" "]]).texts == [["x"], ["y"]]


@pytest.mark.parametrize("leaves", [[], ["a", "a"]])
def test_a_taxonomy_has_leaves_each_once(leaves):
    with pytest.raises(ValueError, match="leaf"):
        Taxonomy(leaves, [["x"]] * len(leaves))


@pytest.mark.parametrize(
    ("leaves", "threshold"),
    [
        ({"a": ["x", "4x+3w"]}, 0.8),  # each against the other
        ({"a": ["x", "X"], "b": ["y"]}, 1e-6),  # y has nothing in common with what is left without it
        ({"a": ["x", "X"], "b": ["3x+4y"]}, 0.6),  # the lone one is held against a
        ({"a": ["x"], "b": ["3x+4y"]}, 0.6),
        ({"a": ["x", "0"], "b": ["3x+4y"]}, 1e-6),  # x is held against what says nothing
        ({"a": ["0"], "b": ["x", "X"]}, 1.0),  # a text that says nothing is no measure
        ({"a": ["x"]}, 1e-6),  # nothing to hold it against
        ({"a": ["-x"], "b": ["x"]}, 1e-6),  # never below 0
    ],
)
def test_the_threshold_of_a_taxonomy(leaves, threshold):
    assert assigned(Taxonomy(list(leaves), list(leaves.values())), [], AXES).threshold == pytest.approx(threshold)


# ---------------------------------------------------------------- plain loops


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def unit(vector):
    length = math.sqrt(dot(vector, vector))
    return [x / length for x in vector]


def mean(vectors):
    return unit([math.fsum(column) for column in zip(*vectors, strict=True)])


def plain(leaves, features, vectors, threshold=None):
    """(of, threshold), a definition at a time."""
    units = {text: unit(vector) for text, vector in vectors.items()}
    centres = {leaf: mean([units[text] for text in sorted(set(texts))]) for leaf, texts in leaves.items()}
    if threshold is None:
        held = []
        for leaf, texts in leaves.items():
            own = sorted(set(texts))
            for text in own:
                rest = [units[other] for other in own if other != text]
                others = [mean(rest)] if rest else [centres[other] for other in leaves if other != leaf]
                held.append(max(dot(units[text], one) for one in others))
        held.sort()
        threshold = max(round(held[math.floor(0.05 * (len(held) - 1))], 6), 1e-6)
    of = []
    for feature in features:
        best = max(sorted(centres), key=lambda leaf: round(dot(units[feature], centres[leaf]), 6))
        of.append(best if round(dot(units[feature], centres[best]), 6) >= threshold else None)
    return of, threshold


@pytest.mark.parametrize("seed", range(12))
def test_plain_loops_say_the_same(seed):
    draw = random.Random(seed)
    size = draw.choice([3, 8, 40])
    texts = [f"t{n}" for n in range(150)]
    vectors = {text: [draw.gauss(0.3, 1) for _ in range(size)] for text in texts}
    leaves = {f"leaf {n}": draw.sample(texts, draw.randint(1, 9)) for n in range(draw.randint(2, 20))}
    features = draw.choices(texts, k=130)
    for threshold in (None, draw.uniform(-0.5, 0.9)):
        found = assigned(Taxonomy(list(leaves), list(leaves.values())), features, Toy(vectors), threshold)
        of, least = plain(leaves, features, vectors, threshold)
        assert found.of == of and found.threshold == pytest.approx(least, abs=2e-6)


WORDS = "read write parse cookie header session proxy retry stream encode body json redirect auth digest hook".split()


def test_with_tf_idf_a_leaf_of_one_text_is_as_near_as_the_index_says():
    draw = random.Random(0)
    texts = sorted({" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(40)})
    features = [" ".join(draw.choices([*WORDS, "unheard", "of"], k=draw.randint(1, 6))) for _ in range(60)]
    scores, rows = TfIdfIndex(texts).top_k(features, 2)
    taxonomy = Taxonomy(texts, [[text] for text in texts])
    clear = 0
    for feature, score, row in zip(features, scores, rows, strict=True):
        if score[0] - score[1] > 1e-4:
            clear += 1
            assert assigned(taxonomy, [feature], TfIdf(), float(score[0]) - 2e-6).of == [texts[row[0]]]
            assert assigned(taxonomy, [feature], TfIdf(), float(score[0]) + 2e-6).of == [None]
    assert clear > 20


def test_thousands_of_features_take_no_gigabytes():
    draw = random.Random(0)
    words = [f"w{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(1500)]
    texts = [" ".join(draw.choices(words, k=8)) for _ in range(1200)]
    tracemalloc.start()
    found = assigned(Taxonomy(["a", "b", "c"], [texts[:50], texts[50:100], texts[100:200]]), texts, TfIdf())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.features == 1200 and peak < 250 << 20  # dense, the features alone are 1,200 MiB


# ---------------------------------------------------------------- laws

VECTORS = {f"t{n}": np.random.default_rng(n).normal(0.2, 1, 6).tolist() for n in range(30)}
RANDOM = Toy(VECTORS)
BASIS = Toy({f"t{n}": np.eye(6)[n % 6].tolist() for n in range(30)})  # orthonormal: ties everywhere
TEXTS = st.sampled_from(sorted(VECTORS))


@st.composite
def cases(draw):
    leaves = draw(st.dictionaries(st.sampled_from("abcdefgh"), st.lists(TEXTS, min_size=1, max_size=5), min_size=1))
    features = draw(st.lists(TEXTS, max_size=20))
    return list(leaves.items()), features, draw(st.sampled_from([RANDOM, BASIS]))


def over(leaves, features, encoder, threshold):
    return assigned(
        Taxonomy([leaf for leaf, _ in leaves], [texts for _, texts in leaves]), features, encoder, threshold
    )


@given(cases(), st.randoms(use_true_random=False), st.sampled_from([None, 0.0, 0.3, 1.0]))
@settings(max_examples=120, deadline=None)
def test_order_changes_nothing(case, chance, threshold):
    leaves, features, encoder = case
    found = over(leaves, features, encoder, threshold)
    order = list(range(len(features)))
    chance.shuffle(order)
    mixed = [(leaf, chance.sample(texts, len(texts))) for leaf, texts in chance.sample(leaves, len(leaves))]
    again = over(mixed, [features[at] for at in order], encoder, threshold)
    assert again._replace(of=[]) == found._replace(of=[])
    assert again.of == [found.of[at] for at in order]


class Neighbourly(Toy):
    """What it says of a text depends a little on the texts beside it, as where sums are rounded by batch."""

    def encode(self, texts):
        rows = super().encode(texts)
        rows[:, 0] += 0.01 * np.arange(len(rows))
        return rows


def test_order_changes_nothing_where_an_encoder_sees_neighbours():
    encoder, texts = Neighbourly(VECTORS), sorted(VECTORS)
    leaves = [(leaf, texts[at : at + 3]) for at, leaf in enumerate("abcdefgh")]
    found = over(leaves, texts, encoder, None)
    assert len(set(found.of)) > 3
    for mixed in (texts[::-1], texts[10:] + texts[:10]):
        again = over(leaves[::-1], mixed, encoder, None)
        assert again._replace(of=[]) == found._replace(of=[])
        assert dict(zip(mixed, again.of, strict=True)) == dict(zip(texts, found.of, strict=True))


@given(cases(), st.data(), st.sampled_from([None, 0.0, 0.3, 1.0]))
@settings(max_examples=120, deadline=None)
def test_features_that_stand_twice_count_and_cover_nothing_more(case, data, threshold):
    leaves, features, encoder = case
    twice = data.draw(st.lists(st.sampled_from(features), max_size=10)) if features else []
    found, more = (over(leaves, one, encoder, threshold) for one in (features, features + twice))
    assert more.features == found.features + len(twice)
    assert (more.coverage, more.hit, more.threshold) == (found.coverage, found.hit, found.threshold)


@given(cases(), st.lists(st.floats(-1, 1), min_size=2, max_size=5).map(sorted))
@settings(max_examples=120, deadline=None)
def test_a_higher_threshold_makes_more_novel_and_covers_less(case, thresholds):
    leaves, features, encoder = case
    found = [over(leaves, features, encoder, one) for one in thresholds]
    for low, high in itertools.pairwise(found):
        assert high.novelty >= low.novelty and high.coverage <= low.coverage and set(high.hit) <= set(low.hit)


@given(cases())
@settings(max_examples=100, deadline=None)
def test_at_most_a_twentieth_of_the_reference_is_novel_to_itself(case):
    leaves, _, encoder = case
    many = [(leaf, texts) for leaf, texts in leaves if len(set(texts)) > 1]
    if many:
        features = [text for _, texts in many for text in set(texts)]
        found = over(many, features, encoder, None)
        assert found.threshold == 1e-6 or found.novel <= 0.05 * len(features)


# ---------------------------------------------------------------- where taxonomies come from


def test_a_nested_file_gives_paths(tmp_path):
    file = tmp_path / "t.json"
    file.write_text(json.dumps({
        "Physics": {"Transformations": [], "Optics": ["lenses", "Login/Logout"]}, "Geometry": {"Transformations": {}},
        "Core": None, "Lists": [{"deeper": ["x"]}, "y"],
    }), encoding="utf-8-sig")  # fmt: skip
    found = of_json(file)
    assert found.leaves == sorted([
        "Core", "Geometry/Transformations", "Lists/deeper/x", "Lists/y", "Physics/Optics/Login/Logout", "Physics/Optics/lenses",
        "Physics/Transformations",
    ])  # fmt: skip
    assert found.texts == [[leaf] for leaf in found.leaves]


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "as JSON"), ("[1]", "expected an object"), ("{}", "the whole"), ('{"a": 1}', "a: expected"), ('{"a": [""]}', "a: expected"),
     ('{"a": [], "a": []}', "twice"), ("[" * 100_000, "as JSON"), (b"\xff", "as JSON"), ('{"a": [true]}', "a: expected")],
)  # fmt: skip
def test_what_is_no_taxonomy_is_refused_with_its_place(tmp_path, text, why):
    file = tmp_path / "t.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=re.escape(str(file)) + ".*" + why):
        of_json(file)
    with pytest.raises(BadInput, match=r"missing\.json"):
        of_json(tmp_path / "missing.json")


def task(cap, file="tests/core/test_cache.py", category="core", interfaces=(), description="A long description."):
    return Task(
        id=f"{file}/{cap}", category=category, file=file, module="functions", cap=cap, functions=[f"test_{cap}"],
        query_code="", alg_description=description, task_query="", project="shop", cases=[f"test_{cap}"], top=["shop"],
        interfaces=list(interfaces),
    )  # fmt: skip


def test_the_leaves_of_tasks():
    copy = Interface(name="shop.lru.LRU.copy", kind="method", tested=True, doc="Copy the cache. And more.")
    used = Interface(name="shop.lru.LRU.clear", kind="method", doc="Used on the way.")
    lifted = Interface(name="shop.lru.make", kind="function", tested=True, features=["make", "build a cache"])
    found = of_tasks([
        task("copy_all", interfaces=[copy, used]), task("make", interfaces=[lifted]),
        task("parse", file="tests/io/json_test.py", category="io"),
    ])  # fmt: skip
    assert found.leaves == ["core/cache", "io/json"]
    assert found.texts == [
        sorted(["cache copy all", "lru lru copy: copy the cache", "cache make", "lru make: build a cache"]),
        sorted(["json parse", "A long description."]),
    ]


# ---------------------------------------------------------------- what a repository can do

CODE = {
    "shop/__init__.py": b"",
    "shop/price_list.py": b'''def total(items):
    """Add up the prices of items."""
    def inner():
        """Hidden."""
    return sum(items)

def _hidden():
    pass

class Cart:
    """Hold items."""

    def __init__(self):
        pass

    def add(self, item):
        pass

class _Private:
    def public(self):
        pass
''',
    "tests/test_price.py": b"def test_total():\n    pass\n",
}


def test_features_are_of_public_units_after_where_they_stand():
    assert features_of(Package(CODE)) == [
        "price list cart: hold items", "price list cart add", "price list total: add up the prices of items",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "features", "text"),
    [
        ("a.b.C.run_it", "method", ["run it", "run a thing"], "b c run it: run a thing"),
        ("a.b.run", "function", ["opens files", "reads them"], "b run: opens files; reads them"),
        ("run", "function", [], "run"),
    ],
)
def test_where_it_stands_is_a_module_and_a_class(name, kind, features, text):
    assert told(name, kind, features) == text


def planned(*leaves):
    nodes = [Node(id=".", kind="repo", name="shop"), Node(id="#shop", kind="area", name="shop"),
             Node(id="#shop/sums", kind="group", name="sums of prices")]  # fmt: skip
    nodes += [Node(id=f"#shop/sums/{name}", kind="feature", name=name, features=[name], path=path, qualname=qualname)
              for name, path, qualname in leaves]  # fmt: skip
    return Graph(nodes, [Edge(src=".", dst="#shop", type="contains")]).dumps()


def test_a_built_repository_has_its_plans_features_where_their_code_is_there():
    graph = planned(("add up prices", "shop/price_list.py", "total"), ("fly to the moon", "shop/moon.py", "fly"))
    assert features_of(Package({**CODE, "rpg.json": graph})) == ["sums of prices: add up prices"]


@pytest.mark.parametrize(
    "data", [b"{", b"{}", b'{"schema": "other"}', planned(), planned(("fly", "shop/moon.py", "fly")), b"\xff"]
)
def test_another_rpg_json_is_passed_over(data):
    assert features_of(Package({**CODE, "rpg.json": data})) == features_of(Package(CODE))


def installed(name):
    return Package.load(Path(importlib.util.find_spec(name).origin).parent)


def test_a_package_covers_itself_and_another_does_not():
    ours, other = installed("requests"), installed("click")
    leaves = {}
    for node in ours.units:
        leaves.setdefault(node.path, []).append(told(ours.dotted(node), node.kind, node.features))
    taxonomy = Taxonomy(list(leaves), list(leaves.values()))
    itself, foreign = (assigned(taxonomy, features_of(one), TfIdf()) for one in (ours, other))
    assert itself.coverage > 0.85 and itself.novelty < 0.05
    assert foreign.novelty > 0.5 and foreign.coverage < 0.5 and foreign.features > 100


# ---------------------------------------------------------------- a model's refinement


FEATURES = ["x", "w", "y", "x"]


def looked_through(answer, taxonomy=THREE, features=FEATURES, encoder=AXES):
    back = Scripted(answer)
    asker = Asker(back, Sampling(), 0)
    before = assigned(taxonomy, features, encoder, 0.5)
    return back, asker, before, refined(asker, taxonomy, features, before, "It sells things.\n")


def test_only_what_the_model_moves_changes():
    back, asker, before, after = looked_through(lambda request: '{"moves": {"w": "c", "x": "none"}}')
    assert before.of == ["a", None, "b", "a"] and after.of == [None, "c", "b", None]
    assert after.coverage == pytest.approx(2 / 3) and after.novelty == 0.5 and after.hit == ["b", "c"]
    assert after.threshold == before.threshold and asker.refused == {} and len(back.asked) == 1
    system, user = (one["content"] for one in back.asked[0].messages)
    offered = [line for line in (system + user).splitlines() if line.startswith("- ")]
    assert offered == ["- a", "- b", "- c", "- none"] and "It sells things." in system
    assert json.loads(user[user.rindex("{") :]) == {"w": "none", "x": "a", "y": "b"}


def test_no_moves_change_nothing():
    _, _, before, after = looked_through(lambda request: '{"moves": {}}')
    assert after == before


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('{"moves": {"q": "a"}}', 'no such feature was shown: ["q"]'),
        ('{"moves": {"x": "d"}}', 'no such class: ["d"]'),
        ('{"moves": {"x": null}}', "no such class: [null]"),
        ('{"moves": {"x": ["a"]}}', "no such class"),
        ('{"moves": ["x"]}', "expected an object"),
        ("I moved x.", "no JSON object"),
    ],
)
def test_an_unusable_answer_is_asked_for_again_and_else_leaves_the_batch_as_it_was(answer, why):
    answers = iter([answer, '{"moves": {"x": "b"}}'])
    back, asker, before, after = looked_through(lambda request: next(answers))
    assert after.of == ["b", None, "b", "b"] and asker.refused == {}
    assert why in back.asked[1].messages[1]["content"]
    back, asker, before, after = looked_through(lambda request: answer)
    assert after == before and list(asker.refused) == ["taxonomy batch-1"] and len(back.asked) == TRIES


def test_many_features_are_shown_in_batches_each_judged_alone():
    texts = [f"t{n:03}" for n in range(120)]
    encoder = Toy({text: [1, 0] for text in texts} | {"x": [1, 0], "y": [0, 1]})

    def answer(request):
        shown = json.loads(
            request.messages[1]["content"][request.messages[1]["content"].rindex("{") :].split("}")[0] + "}"
        )
        if "t060" in shown:
            return '{"moves": {"t000": "b"}}'  # of another batch
        return json.dumps({"moves": dict.fromkeys(shown, "b")})

    taxonomy = Taxonomy(["a", "b"], [["x"], ["y"]])
    back, asker, before, after = looked_through(answer, taxonomy, texts, encoder)
    assert before.of == ["a"] * 120 and after.of == ["b"] * 50 + ["a"] * 50 + ["b"] * 20
    assert list(asker.refused) == ["taxonomy batch-2"] and len({one.messages[0]["content"] for one in back.asked}) == 1


# ---------------------------------------------------------------- what the paper published


def by_name(name):
    return next(one for one in (*paper.PROJECTS, *paper.HEADLINES) if one.name == name)


def test_the_six_projects():
    assert sum(one.tasks for one in paper.PROJECTS) == 1052
    assert [paper.project_of([one.top]) for one in paper.PROJECTS] == list(paper.PROJECTS)
    assert paper.project_of(["docs", "requests"]).paraphrase == "HttpEasy" and paper.project_of(["networkx"]) is None


def shares(printed, whole):
    """The k for which k/whole is printed so."""
    return [k for k in range(whole + 1) if f"{100 * k / whole:.1f}" == printed]


@pytest.mark.parametrize(("name", "printed", "hit"), [("pandas", "72.4", 55), ("django", "79.2", 38)])
def test_published_coverages_are_of_the_released_leaves_and_not_of_the_tables_categories(name, printed, hit):
    project = by_name(name)
    assert shares(printed, project.leaves) == [hit] and shares(printed, project.categories) == []
    names = [f"t{n}" for n in range(project.leaves)]
    encoder = Toy({text: np.eye(project.leaves)[at] for at, text in enumerate(names)})
    found = assigned(Taxonomy(names, [[one] for one in names]), names[:hit], encoder, 0.5)
    assert f"{100 * found.coverage:.1f}" == printed


def test_a_printed_novelty_is_not_what_its_counts_give():
    encoder = Toy({"in": [1, 0], "out": [0, 1]})
    found = assigned(Taxonomy(["leaf"], [["in"]]), ["out"] * 566 + ["in"] * 1114, encoder, 0.5)
    assert (found.novel, found.features) == (566, 1680) and f"{100 * found.novelty:.1f}" == "33.7"  # printed: 38.2


def test_the_papers_own_arithmetic():
    ours, theirs = by_name("ZeroRepo, Qwen3-Coder-480B"), by_name("Claude Code")
    assert (ours.loc, ours.tokens, theirs.loc, theirs.tokens) == (36_941, 445_512, 10_587, 105_236)
    assert paper.multiple(paper.Amount(36_941, 445_512), [paper.Amount(10_587, 105_236)]) == pytest.approx(
        3.861, abs=5e-4
    )
    assert paper.mean_of_ratios(58.99, 69.00) == pytest.approx(63.995)
    best = by_name("ZeroRepo, o3-mini")
    assert paper.points(best.coverage, theirs.coverage) == pytest.approx(27.3)
    assert paper.points(best.pass_rate, theirs.pass_rate) == pytest.approx(35.8)
    assert (paper.GOLD.pass_rate, paper.GOLD.voting_rate) == (0.81, 0.92)


def test_a_multiple_is_of_the_baselines_mean():
    ours, small, large = paper.Amount(30, 100), paper.Amount(1, 0), paper.Amount(19, 50)
    assert paper.multiple(ours, [small, large]) == pytest.approx((30 / 10 + 100 / 25) / 2)
    assert paper.multiple(ours, [large, small]) == paper.multiple(ours, [small, large])
    assert paper.multiple(ours, [ours] * 3) == 1
    for none in ([], [paper.Amount(0, 5)], [paper.Amount(5, 0)]):
        with pytest.raises(ValueError, match="baselines"):
            paper.multiple(ours, none)
