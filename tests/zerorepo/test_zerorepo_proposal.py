"""Stage A with a scripted model: what is offered, what is taken, what is dropped."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from zerorepo_proposed import GREEDY, SPEC, Scripted, features, offered, right, tree

from tenfold_shared import Missing
from zerorepo.generation.asking import Asker, OverBudget
from zerorepo.generation.ontology import Ontology
from zerorepo.generation.proposal import PER_NAME, PER_QUERY, Proposal, Settings, linear_fit, propose
from zerorepo.validate import problems

ROLES = ("missing", "explore", "exploit", "check", "modules", "place", "tidy")


def made(model: Scripted, ontology: Ontology | None = None, rounds: int = 3, **more) -> Proposal:
    proposal = Proposal(SPEC, ontology, Asker(model, GREEDY, **more), Settings(rounds=rounds, offer=60, conditions=(2, 4, 4, 4)))  # fmt: skip
    proposal.run()
    return proposal


def ladder(count: int) -> dict:
    """`count` features to name as missing."""
    return {"features": {f"group {at // 10}": [f"feature number {n}" for n in range(at, min(at + 10, count))] for at in range(0, count, 10)}}  # fmt: skip


# ------------------------------------------------------------ what comes out


@pytest.mark.parametrize("ontology", [None, tree()], ids=["simple", "ontology"])
def test_the_graph_is_a_proposal_and_sound(ontology):
    proposal = made(Scripted(), ontology)
    graph = proposal.graph()
    assert problems(graph.dumps()) == []
    assert {node.status for node in graph.nodes} == {"proposed"}
    root = graph.by_id["."]
    assert (root.name, root.doc, root.features) == ("table_kit", SPEC.purpose, ["sort rows by key"])
    found = features(graph)
    assert found.keys() == proposal.chosen.keys() == proposal.places.keys()
    for told, id_ in found.items():
        node = graph.by_id[id_]
        kinds = []
        while node.id != ".":
            kinds.append(node.kind)
            node = graph.parent(node.id)
        assert kinds == ["feature", "group", "category", "area"]
        assert graph.by_id[id_].name == told.split("/")[-1] == graph.by_id[id_].features[0]
        assert graph.by_id[id_].provenance == f"scripted place|round-1.batch-{1 + sorted(found).index(told) // 100}"
    assert graph.by_id["#Input"].doc == "for Input" and graph.by_id["#Input"].provenance == "scripted modules|plan"
    assert "#Output" not in graph.by_id and proposal.told()["empty_modules"] == ["Output"]
    assert proposal.told()["mode"].startswith("simple" if ontology is None else "ontology")


def test_equal_names_in_two_branches_stay_two_features():
    """Of the successor's loop: to take off every path whose last name has a place loses one of the two."""
    model = Scripted(place=lambda subject, turn, paths: {"places": dict.fromkeys(paths, "Input/all/one")})
    proposal = made(model, rounds=1)
    found = features(proposal.graph())
    assert found["input/read rows"] == "#Input/all/one/read rows"
    assert found["output/read rows"] == "#Input/all/one/read rows (output)"
    assert len(found) == 4 and problems(proposal.graph().dumps()) == []

    def only_one(subject: str, turn: int, paths: list[str]) -> object:
        return {"places": {"output/read rows": "Input/all/one"}} if subject.startswith("round-1") else None

    later = made(model := Scripted(place=only_one), rounds=1)
    assert later.places.keys() == later.chosen.keys() and len(later.chosen) == 4
    assert "input/read rows" in offered(next(user for role, subject, _, _, user in model.asked if role == "place" and subject.startswith("round-2")))  # fmt: skip


def test_a_slash_in_a_name_does_not_part_a_path():
    model = Scripted(missing=lambda *_: {"features": {"in/out": ["read tcp/ip", "write tcp/ip"]}})
    graph = made(model, rounds=1).graph()
    assert features(graph).keys() == {"in∕out/read tcp∕ip", "in∕out/write tcp∕ip"}
    assert {node.name for node in graph.nodes if node.kind == "feature"} == {"read tcp/ip", "write tcp/ip"}
    assert problems(graph.dumps()) == []


def test_the_same_seed_gives_the_same_bytes_and_another_draws_otherwise():
    def run(seed: int) -> tuple[bytes, list[str]]:
        model = Scripted()
        graph = propose(SPEC, tree(), Asker(model, GREEDY, seed), Settings(rounds=2, offer=40, seed=seed))
        return graph.dumps(), [user for role, *_, user in model.asked if role == "explore"]

    assert run(1) == run(1)
    assert run(1)[1] != run(2)[1]


# ------------------------------------------------------------ what is offered


def test_a_round_offers_what_is_new_and_asks_together_what_is_independent():
    model, whole = Scripted(), tree()
    proposal = made(model, whole, rounds=6)
    labels = {whole.label(node) for node in whole.leaves.tolist()}
    assert len(labels) == len(whole.leaves) == 512
    seen: Counter[str] = Counter()
    by_round = defaultdict(dict)
    for role, subject, _, _, user in model.asked:
        if role in ("explore", "exploit"):
            paths = offered(user)
            assert set(paths) <= labels and len(paths) == len(set(paths)) <= 60
            seen.update(paths)
            by_round[subject][role] = set(paths)
    assert max(seen.values()) == 1  # what was judged once is visited
    assert all(not (one["explore"] & one["exploit"]) for one in by_round.values()) and len(by_round) == 6
    assert proposal.visited.sum() == len(seen)
    first = [role for role, *_ in model.asked[:3]]
    assert first == ["missing", "explore", "exploit"]
    assert [one.offered for one in proposal.growth] == [sum(map(len, one.values())) for one in by_round.values()]


def test_retrieval_takes_the_next_names_of_each_query_and_few_paths_of_a_name():
    model, whole = Scripted(missing=lambda *_: {"features": {}}), tree()
    proposal = Proposal(SPEC, whole, Asker(model, GREEDY), Settings(rounds=1, offer=600, conditions=(1, 1, 1, 1)))
    proposal.choose(1)
    found = offered(next(user for role, *_, user in model.asked if role == "exploit"))
    names = Counter(path.rpartition("/")[2] for path in found)
    assert PER_QUERY <= len(names) <= 2 * PER_QUERY and max(names.values()) <= PER_NAME
    by_key, by_purpose = ([hit.name for hit in ranking] for ranking in proposal.index.search(["sort rows by key", SPEC.purpose], 600))  # fmt: skip
    new = {path.rpartition("/")[2] for one, *_, user in model.asked if one == "explore" for path in offered(user)}
    assert set(by_key[:5]) - new <= names.keys()
    assert names.keys() <= {*by_key[: PER_QUERY * 2 + 9], *by_purpose[: PER_QUERY * 2 + 9]}


def test_questions_have_one_system_message_and_offer_after_dashes_alone():
    model = Scripted()
    made(model, tree())
    assert len({system for _, _, _, system, _ in model.asked}) == 1
    assert SPEC.purpose in model.asked[0][3] and "No servers." in model.asked[0][3] and "* sort rows by key" in model.asked[0][3]  # fmt: skip
    for role, _, _, system, user in model.asked:
        assert not offered(system)
        assert (role == "missing") == (not offered(user))
    assert {role for role, *_ in model.asked} == set(ROLES)


def test_batches_have_at_most_a_hundred_and_hold_everything_once():
    model = Scripted(missing=lambda *_: ladder(730), check=lambda s, t, paths: {"keep": paths})
    proposal = made(model, rounds=1)
    for role in ("check", "place"):
        batches = [offered(user) for one, *_, user in model.asked if one == role]
        assert [len(batch) for batch in batches] == [100] * 7 + [30]
        assert sorted(path for batch in batches for path in batch) == sorted(proposal.chosen)
        assert model.subjects(role) == [f"round-1.batch-{at}" for at in range(1, 9)]


# ------------------------------------------------------------ bad answers

GOOD = '{"note": 1}'  # replaced by the usable answer
TOLERATED = {
    "fenced": "Here you are:\n```json\nGOOD\n```\nAnything else?",
    "prose around": "Of course. GOOD That is all.",
    "two blocks": 'First a thought: {"why": "because"}\n\nGOOD',
    "thinking": '<think>{"paths": ["x/y"], "keep": [], "places": {}, "features": {}, "modules": [], "moves": {}} hm</think>\nGOOD',
    "blanks": "\n\n   GOOD\n\n",
}  # fmt: skip
UNUSABLE = {
    "prose": "I would rather not.",
    "half": "HALF",
    "twice": "TWICE",
    "nan": '{"paths": NaN, "keep": NaN, "features": NaN, "modules": NaN, "places": NaN, "moves": NaN}',
    "too long": "LONG",
    "cut off": "CUT",
    "an array": '[["a"]]',
    "wrong type": '{"paths": "all", "keep": {"a": 1}, "features": ["x"], "modules": {}, "places": [], "moves": null}',
    "other key": '{"answer": ["a/b"]}',
    "wrong items": '{"paths": [1], "keep": [null], "features": {"a": 3}, "modules": [4], "places": {"x": 5}, "moves": {"a": 1}}',
    "not offered": '{"paths": ["a/b"], "keep": ["a/b"], "features": {"": [""]}, "modules": [{"name": "", "purpose": "x"}],'
    ' "places": {"a/b": "Input/x/y"}, "moves": {"a/b/c": "d/e/f"}}',
    "nothing": "",
}  # fmt: skip


def shaped(form: str, role: str, paths: list[str]) -> object:
    good = json.dumps(right(role, paths))
    if form == "HALF":
        return good[:-1]
    if form == "TWICE":
        return good[:-1] + ", " + good[1:]
    if form == "LONG":
        return " " * 200_001 + good
    if form == "CUT":
        return good, "length"
    return form.replace("GOOD", good)


@pytest.fixture(scope="module")
def clean() -> bytes:
    return made(Scripted(), tree()).graph().dumps()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("form", TOLERATED)
def test_an_answer_is_read_out_of_what_stands_around_it(role, form, clean):
    model = Scripted(**{role: lambda subject, turn, paths: shaped(TOLERATED[form], role, paths)})
    assert made(model, tree()).graph().dumps() == clean
    assert {turn for _, _, turn, _, _ in model.asked} == {0}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("form", UNUSABLE)
def test_an_unusable_answer_is_asked_for_again_with_what_was_wrong(role, form, clean):
    model = Scripted(**{role: lambda subject, turn, paths: shaped(UNUSABLE[form], role, paths) if turn == 0 else None})
    proposal = made(model, tree())
    assert proposal.graph().dumps() == clean and not proposal.asker.refused
    turns = Counter(turn for one, _, turn, _, _ in model.asked if one == role)
    assert turns[0] == turns[1] > 0 and not turns[2]
    assert all("An earlier answer was not usable: " in user for one, _, turn, _, user in model.asked if turn == 1)
    if form == "not offered" and role in ("exploit", "explore", "check"):
        assert proposal.counts["fabricated"] == turns[0]
    if form == "not offered" and role == "place":
        assert proposal.counts["imagined"] == turns[0]


@pytest.mark.parametrize("role", ROLES)
def test_three_unusable_answers_cost_that_question_alone(role):
    def stubborn(subject: str, turn: int, paths: list[str]) -> object:
        return "no" if subject.startswith(("round-2", "plan", "tidy")) or (role == "place" and "batch-1" in subject) else None  # fmt: skip

    model = Scripted(**{role: stubborn})
    if role == "modules":
        with pytest.raises(Missing, match="no usable plan of modules: modules plan: it holds no JSON object"):
            made(model, tree())
        return
    proposal = made(model, tree())
    assert problems(proposal.graph().dumps()) == [] and proposal.graph().dumps()
    refused = set(proposal.asker.refused)
    assert refused and all(name.startswith(role) for name in refused)
    turns = Counter((subject, turn) for one, subject, turn, _, _ in model.asked if one == role)
    assert max(turn for _, turn in turns) == 2 and max(turns.values()) == 1
    assert [one.round for one in proposal.growth] == [1, 2, 3] and len(proposal.chosen) > 10
    if role in ("explore", "exploit"):  # what nobody judged is not visited
        places = {(one, subject): set(offered(user)) for one, subject, _, _, user in model.asked}
        elsewhere = {path for (one, subject), paths in places.items() if one in ("explore", "exploit") and (one, subject) != (role, "round-2") for path in paths}  # fmt: skip
        unjudged = places[role, "round-2"] - elsewhere
        assert unjudged or role == "exploit"
        visited = {proposal.ontology.label(node) for node in np.flatnonzero(proposal.visited).tolist()}
        assert not unjudged & visited and elsewhere <= visited
        if role == "exploit":
            assert places[role, "round-2"] & places[role, "round-3"]
    if role == "check":
        assert proposal.counts["unchecked"] > 0
        assert proposal.growth[1].kept == 0 < proposal.growth[2].kept


def test_a_fabricated_path_is_dropped_and_counted_and_one_given_twice_counts_once():
    def more(subject: str, turn: int, paths: list[str]) -> object:
        found = right("explore", paths)["paths"]
        return {"paths": ["functionality/made up", *found, *found[:2], "- " + found[0]]}

    model, plain = Scripted(explore=more), Scripted()
    proposal = made(model, tree(), rounds=2)
    assert proposal.counts["fabricated"] == 4 and proposal.counts["twice"] == 4
    assert proposal.graph().dumps() == made(plain, tree(), rounds=2).graph().dumps()


def test_only_what_the_check_keeps_is_taken():
    model = Scripted(check=lambda subject, turn, paths: {"keep": [path for path in paths if "sort" in path] + ["x/y"]})
    proposal = made(model, tree())
    assert proposal.chosen and all("sort" in path for path in proposal.chosen)
    assert sum(one.kept for one in proposal.growth) == len(proposal.chosen) == proposal.growth[-1].leaves
    with pytest.raises(Missing, match="no feature was chosen in 2 rounds"):
        made(Scripted(check=lambda *_: {"keep": []}), tree(), rounds=2)


# ------------------------------------------------------------ places


def test_what_is_left_over_is_asked_for_again_and_imagined_things_are_counted():
    def half(subject: str, turn: int, paths: list[str]) -> object:
        places = dict.fromkeys(paths[: (len(paths) + 1) // 2], "Input/a/b")
        return {"places": {**places, "group 0/not there": "Input/a/b", paths[-1]: "Input/a/b/feature", paths[-2 % len(paths)]: "Nowhere/a/b"}}  # fmt: skip

    model = Scripted(missing=lambda *_: ladder(40), check=lambda s, t, p: {"keep": p}, place=half)
    proposal = made(model, rounds=1)
    sizes = [len(offered(user)) for role, *_, user in model.asked if role == "place"]
    assert sizes[0] == 40 and sizes == sorted(sizes, reverse=True) and len(sizes) > 3
    rounds = len(sizes)
    assert proposal.counts["imagined"] == rounds
    assert 0 < proposal.counts["wrong_depth"] <= rounds and 0 < proposal.counts["unknown_module"] <= rounds
    assert problems(proposal.graph().dumps()) == []


@pytest.mark.parametrize(("placed", "rounds"), [(198, 1), (197, 2)])
def test_it_ends_at_99_percent(placed, rounds):
    def most(subject: str, turn: int, paths: list[str]) -> object:
        if not subject.startswith("round-1."):
            return None
        quota = placed - 100 if subject.endswith("batch-2") else 100
        return {"places": dict.fromkeys(paths[:quota], "Input/a/b")}

    model = Scripted(missing=lambda *_: ladder(200), check=lambda s, t, p: {"keep": p}, place=most)
    proposal = made(model, rounds=1)
    assert len({subject.partition(".")[0] for subject in model.subjects("place")}) == rounds
    told = proposal.told()
    assert told["unplaced"] == sorted(proposal.chosen)[198:] * (rounds == 1) and told["utilisation"] == (0.99 if rounds == 1 else 1)  # fmt: skip
    assert len(features(proposal.graph())) == len(proposal.places)


def test_at_most_40_rounds_and_none_without_hope():
    one = Scripted(missing=lambda *_: ladder(90), check=lambda s, t, p: {"keep": p}, place=lambda s, t, p: {"places": {p[0]: "Input/a/b"}})  # fmt: skip
    proposal = made(one, rounds=1)
    assert len(one.subjects("place")) == 40 == len(proposal.places) and len(proposal.unplaced) == 50
    never = Scripted(place=lambda *_: {"places": {}})
    proposal = made(never, rounds=1)
    assert len(proposal.unplaced) == 4 and len(never.subjects("place")) == 3 * 3  # three tries of three rounds
    assert proposal.asker.refused.keys() == {f"place round-{n}.batch-1" for n in (1, 2, 3)}


def test_batches_shrink_where_answers_are_cut_off():
    def cut(subject: str, turn: int, paths: list[str]) -> object:
        return None if len(paths) <= 30 else (json.dumps(right("place", paths)), "length")

    model = Scripted(missing=lambda *_: ladder(60), check=lambda s, t, p: {"keep": p}, place=cut)
    proposal = made(model, rounds=1)
    assert not proposal.unplaced
    assert {len(offered(user)) for role, *_, user in model.asked if role == "place"} == {60, 50, 10, 25}  # fmt: skip


def test_names_that_differ_in_case_alone_are_one_place():
    def cased(subject: str, turn: int, paths: list[str]) -> object:
        return {"places": {path: ("INPUT/Data/Rows" if at % 2 else "Input/data/rows") for at, path in enumerate(paths)}}

    graph = made(Scripted(place=cased), rounds=1).graph()
    assert sorted(node.id for node in graph.nodes if node.kind in ("area", "category", "group")) == ["#Input", "#Input/data", "#Input/data/rows"]  # fmt: skip


def test_tidying_merges_moves_and_renames():
    moves = {
        "Input/input/read": "Tables/rows/reading", "Input/output/read": "tables/ROWS/Reading",
        "Tables/output/write": "Output/files/writing", "Input/none/here": "Input/a/b", "Tables/output/read": "Elsewhere/a/b",
    }  # fmt: skip
    model = Scripted(tidy=lambda *_: {"moves": moves})
    proposal = made(model, rounds=1)
    assert offered(model.asked[-1][4]) == ["Input/input/read", "Input/output/read", "Tables/output/write"]
    graph = proposal.graph()
    assert features(graph) == {
        "input/read csv files": "#Tables/rows/reading/read csv files", "input/read rows": "#Tables/rows/reading/read rows",
        "output/read rows": "#Tables/rows/reading/read rows (output)", "output/write csv files": "#Output/files/writing/write csv files",
    }  # fmt: skip
    assert proposal.counts["bad_moves"] == 2 and graph.by_id["#Tables/rows/reading"].provenance == "scripted tidy|tidy"
    assert problems(graph.dumps()) == []


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([], "three to 8"),
        ([{"name": f"m{n}", "purpose": "x", "size": 1} for n in range(9)], "three to 8"),
        ([{"name": "a", "purpose": "x"}, {"name": "A", "purpose": "y"}], "two modules are called 'A'"),
        ([{"name": "a"}], "expected its purpose"),
        (["a", "b", "c"], "an object with name"),
    ],
)
def test_plans_that_are_none(modules, told):
    model = Scripted(modules=lambda subject, turn, paths: {"modules": modules} if turn == 0 else None)
    proposal = made(model, rounds=1)
    assert told in [user for role, *_, user in model.asked if role == "modules"][1]
    assert [one.name for one in proposal.modules] == ["Input", "Tables", "Output"]


# ------------------------------------------------------------ anything at all

words = st.sampled_from(["Input", "Tables", "a", "b/c", "", "x y", "Input/a/b", "tables/A/b", "input/read rows", "output/read rows", "ü", "\u2028", "#", "a" * 200])  # fmt: skip
anything = st.recursive(words | st.none() | st.integers(-5, 5), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=10)  # fmt: skip


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_answered_the_graph_is_sound_and_holds_what_was_chosen(data):
    keys = {"missing": "features", "explore": "paths", "exploit": "paths", "check": "keep", "modules": "modules", "place": "places", "tidy": "moves"}  # fmt: skip

    def say(role: str) -> Callable[[str, int, list[str]], object]:
        def answer(subject: str, turn: int, paths: list[str]) -> object:
            kind = data.draw(st.sampled_from(["right", "right", "mixed", "any"]))
            if kind == "right":
                return None
            if kind == "any" or role == "modules":
                return {keys[role]: data.draw(anything)}
            if role in ("explore", "exploit", "check"):
                return {keys[role]: [*data.draw(st.lists(words, max_size=3)), *paths[: data.draw(st.integers(0, 9))]]}
            names = [*paths, *data.draw(st.lists(words, max_size=3))]
            return {keys[role]: {name: data.draw(words if role != "missing" else anything) for name in names[:12]}}

        return answer

    model = Scripted(**{role: say(role) for role in ROLES})
    proposal = Proposal(SPEC, tree(), Asker(model, GREEDY), Settings(rounds=2, offer=12, conditions=(2, 2, 2, 2)))
    try:
        proposal.run()
    except Missing:
        return
    graph = proposal.graph()
    assert problems(graph.dumps()) == []
    assert features(graph).keys() == proposal.places.keys() <= proposal.chosen.keys()
    told = proposal.told()
    assert len(told["unplaced"]) + told["placed"] == told["features"]
    assert [one.leaves for one in proposal.growth] == sorted(one.leaves for one in proposal.growth)


# ------------------------------------------------------------ growth, budget


def test_growth_is_recorded_and_its_line_is_that_of_least_squares():
    proposal = made(Scripted(), tree(), rounds=5)
    kept = np.cumsum([one.kept for one in proposal.growth]).tolist()
    assert [one.leaves for one in proposal.growth] == kept and kept[-1] == len(proposal.chosen)
    found = linear_fit(range(1, 6), kept)
    wanted = stats.linregress(range(1, 6), kept)
    assert found == pytest.approx((wanted.slope, wanted.intercept, wanted.rvalue**2), abs=1e-5)
    assert proposal.told()["growth_fit"] == found._asdict()
    paper = linear_fit([5, 10, 15, 20, 25, 30], [336.1, 542, 796, 981, 1043, 1258])
    assert paper.slope == pytest.approx(36.0, abs=0.1) and paper.r2 == pytest.approx(0.978, abs=5e-4)
    assert linear_fit([1, 2], [1, 2]) is None and linear_fit([1, 2, 3], [4, 4, 4]) is None


def test_a_budget_ends_it_between_questions():
    model = Scripted()
    proposal = Proposal(SPEC, None, Asker(model, GREEDY, budget=400), Settings(rounds=9))
    with pytest.raises(OverBudget):
        proposal.run()
    assert proposal.asker.tokens >= 400 and model.asked and len(proposal.chosen) > 0
    graph = proposal.graph(unplaced=True)
    assert problems(graph.dumps()) == []
    assert {node.doc for node in graph.nodes if node.kind == "feature"} == set(proposal.chosen)
