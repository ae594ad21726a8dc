"""Votes on what was located: each rule against cases decided by hand, the law of a majority of five, and a model's part."""

import json
import math
import random

import pytest

from tenfold_shared.generate import Completion, Sampling
from zerorepo.craft.asked import Adaptation, ModelLocator, adapt_all, adapted_fault, model_votes, overview
from zerorepo.craft.judging import JUDGES, passed, rules
from zerorepo.craft.locate import Located, Locator
from zerorepo.craft.package import Package
from zerorepo.craft.references import interfaces
from zerorepo.craft.tasks import Task
from zerorepo.generation.asking import Asker

GOLD = '''"""Boxes."""


class Box:
    """Keeps things up to a limit."""

    def __init__(self, limit, *, strict=False):
        self.limit = limit
        self.things = []
        self.strict = strict

    def put(self, thing, times=1):
        """Put a thing in, several times."""
        self.things += [thing] * times

    def is_full(self):
        """Whether nothing more fits."""
        return len(self.things) >= self.limit


def weigh(things, unit="kg", *more):
    """Sum the weights of all things."""
    return sum(things) + sum(more)


async def ship(box, to):
    """Send a box to an address."""
    return to


def plain(value):
    return value + 1
'''
TEST = """
import pytest
from store.boxes import Box, weigh


def test_box():
    box = Box(2, strict=True)
    box.put("a")
    box.put("b", times=1)
    assert box.is_full() and box.limit == 2
    with pytest.raises(TypeError):
        box.put()


def test_weigh():
    assert weigh([1, 2]) == 3
    assert weigh([1, 2], unit="g") == 3
"""


def package(code=GOLD, path="store/boxes.py", **more):
    files = {"store/__init__.py": b"", path: code.encode(), **{name: text.encode() for name, text in more.items()}}
    return Package(files)


def task_of(tested, query=TEST, gold=None, description="keep things in boxes"):
    gold = gold or package()
    return Task(
        id="t", category="boxes", file="tests/test_boxes.py", module="functions", cap="boxes", functions=["test_box"],
        query_code=query, alg_description=description, task_query="", project="store", cases=["test_box"], top=["store"],
        interfaces=interfaces({"tests/test_boxes.py": query}, gold, tested),
    )  # fmt: skip


BOX = ["store.boxes.Box", "store.boxes.Box.put", "store.boxes.Box.is_full"]


def votes(code, tested, query=TEST, located=None, **more):
    repo = package(code)
    task = task_of(tested, query, **more)
    return dict(zip(JUDGES, rules(task, located or Locator(repo, None).located(task), repo), strict=True))


@pytest.mark.parametrize("tested", [BOX, ["store.boxes.weigh"], ["store.boxes.ship"], ["store.boxes.plain"], [*BOX, "store.boxes.weigh"]])  # fmt: skip
def test_the_real_package_passes_its_own_vote(tested):
    told = votes(GOLD, tested)
    assert passed(list(told.values())), told
    assert "no" not in told.values()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return sum(things) + sum(more)", "raise NotImplementedError"),
        ("return sum(things) + sum(more)", "raise NotImplementedError('later')"),
        ("return sum(things) + sum(more)", "..."),
        ("return sum(things) + sum(more)", "pass"),
        ('"""Sum the weights of all things."""\n    return sum(things) + sum(more)', "pass\n    ..."),
    ],
)
def test_a_stub_loses_every_vote(old, new):
    assert old in GOLD
    told = votes(GOLD.replace(old, new), ["store.boxes.weigh"])
    assert set(told.values()) == {"no"}


def test_a_class_of_stubs_loses_and_one_half_written_does_not():
    put, full = "self.things += [thing] * times", "return len(self.things) >= self.limit"
    empty = GOLD.replace(put, "pass").replace(full, "pass")
    assert set(votes(empty, BOX[:1]).values()) == {"no"}
    assert votes(GOLD.replace(put, "pass"), BOX[:1])["there"] == "yes"
    assert votes(GOLD.replace(put, "pass"), BOX[1:2])["there"] == "no"


def test_what_is_missing_loses():
    told = votes(GOLD, ["store.boxes.weigh"], located=Located({}, {}, ["store.boxes.weigh"]))
    assert set(told.values()) == {"no"}


def test_kind_wants_async_alike_and_no_list_for_a_generator():
    assert votes(GOLD.replace("async def ship", "def ship"), ["store.boxes.ship"])["kind"] == "no"
    assert votes(GOLD, ["store.boxes.ship"])["kind"] == "yes"
    lazy = package(GOLD.replace("def plain(value):", "def plain(value) -> Iterator[int]:"))
    whole = GOLD.replace("def plain(value):", "def plain(value) -> list[int]:")
    assert votes(whole, ["store.boxes.plain"], gold=lazy)["kind"] == "no"
    made = Located({"store.boxes.Box": "store.boxes.weigh"}, {"store.boxes.Box": "ranked"}, [])
    assert votes(GOLD, BOX[:1], located=made)["kind"] == "no"  # a function is no class


@pytest.mark.parametrize(
    ("header", "vote"),
    [
        ("weigh(things, unit='kg')", "yes"),
        ("weigh(things, *, unit)", "no"),  # the first call does not give it
        ("weigh(things)", "no"),
        ("weigh(things, /, **options)", "yes"),
        ("weigh(unit='kg', *things)", "no"),  # given twice
        ("weigh(things, unit, other=1)", "no"),
        ("weigh(*things, unit=None)", "yes"),
        ("weigh()", "no"),
    ],
)
def test_calls_bind_as_python_binds_them(header, vote):
    code = GOLD.replace('weigh(things, unit="kg", *more)', header).replace("sum(things) + sum(more)", "1")
    assert header in code
    space: dict = {}
    exec(f"def {header}: return 3", space)
    try:
        space["weigh"]([1, 2])
        space["weigh"]([1, 2], unit="g")
        truth = "yes"
    except TypeError:
        truth = "no"
    assert vote == truth
    assert votes(code, ["store.boxes.weigh"])["calls"] == vote


def test_calls_agree_with_python_on_random_headers_and_calls():
    """Against the interpreter: headers and calls of every form that both sides can have."""
    rng = random.Random(5)
    seen = {"yes": 0, "no": 0}
    for _ in range(1000):
        names = rng.sample("abcd", rng.randint(0, 3))
        cut, defaults = rng.randint(0, len(names)), rng.randint(0, len(names))
        parts = [name + ("=0" if at >= len(names) - defaults else "") for at, name in enumerate(names)]
        if cut and rng.random() < 0.3:
            parts.insert(cut, "/")
        keyword = [name + rng.choice(("", "=0")) for name in rng.sample("efg", rng.randint(0, 2))]
        if rng.random() < 0.3:
            parts += ["*rest", *keyword]
        elif keyword:
            parts += ["*", *keyword]
        parts += ["**words"] if rng.random() < 0.3 else []
        given = [str(at) for at in range(rng.randint(0, 4))]
        given += [f"{name}=1" for name in rng.sample("abcdefg", rng.randint(0, 3))]
        header, call = f"weigh({', '.join(parts)})", f"weigh({', '.join(given)})"
        space: dict = {}
        exec(f"def {header}: return 3", space)
        try:
            exec(call, space)
            truth = "yes"
        except TypeError:
            truth = "no"
        seen[truth] += 1
        query = f"from store.boxes import weigh\n\n\ndef test_box():\n    assert {call} == 3\n"
        code = GOLD.replace('weigh(things, unit="kg", *more)', header).replace("sum(things) + sum(more)", "3")
        assert votes(code, ["store.boxes.weigh"], query)["calls"] == truth, (header, call)
    assert min(seen.values()) > 100


def test_a_call_that_is_meant_to_fail_is_no_evidence_and_stars_tell_nothing():
    query = "import pytest\nfrom store.boxes import weigh\n\n\ndef test_box():\n    with pytest.raises(TypeError):\n        weigh()\n    weigh(*[[1]])\n"  # fmt: skip
    assert votes(GOLD, ["store.boxes.weigh"], query)["calls"] is None
    assert votes(GOLD, ["store.boxes.weigh"], query.replace("weigh(*[[1]])", "weigh()"))["calls"] == "no"


def test_members_must_be_there_unless_they_may_come_from_elsewhere():
    assert votes(GOLD, BOX[:1])["members"] == "yes"
    assert votes(GOLD.replace("self.limit = limit", "self.most = limit"), BOX[:1])["members"] == "no"
    outside = GOLD.replace("self.limit = limit", "self.most = limit").replace("class Box:", "class Box(Other):")
    assert votes("from other import Other\n" + outside, BOX[:1])["members"] is None
    assert votes(GOLD, ["store.boxes.weigh"])["members"] is None


def test_meaning_goes_by_words_and_abstains_where_there_are_none():
    other = GOLD.replace("Sum the weights of all things.", "Open a socket and listen for packets.")
    made = Located({"store.boxes.weigh": "store.boxes.listen"}, {"store.boxes.weigh": "ranked"}, [])
    assert votes(other.replace("def weigh", "def listen"), ["store.boxes.weigh"], located=made)["meaning"] == "no"
    assert votes(GOLD, ["store.boxes.weigh"])["meaning"] == "yes"
    alone = Located({"store.boxes.plain": "store.boxes.successor"}, {"store.boxes.plain": "ranked"}, [])
    code = GOLD.replace("def plain", "def successor")
    assert votes(code, ["store.boxes.plain"], located=alone)["meaning"] is None
    by_map = Located({"store.boxes.plain": "store.boxes.plain"}, {"store.boxes.plain": "renamed"}, [])
    assert (
        votes(GOLD, ["store.boxes.plain"], located=by_map)["meaning"] == "yes"
    )  # the user says so, and nothing says otherwise


# ------------------------------------------------------------ the vote


def test_a_majority_needs_three_cast_and_more_than_half():
    assert passed(["yes", "yes", "yes", None, None])
    assert not passed(["yes", "yes", None, None, None])
    assert not passed(["yes", "yes", "no", "no", None])
    assert not passed([None] * 5) and not passed([])
    assert passed(["yes", "yes", "no", None, None])


@pytest.mark.parametrize(("p", "known"), [(0.6, 0.68256), (0.7, 0.83692), (0.8, 0.94208), (0.9, 0.99144)])
def test_five_judges_are_right_as_often_as_the_binomial_law_says(p, known):
    exact = sum(
        p ** sum(bits) * (1 - p) ** (5 - sum(bits))
        for bits in ([at >> place & 1 for place in range(5)] for at in range(32))
        if passed(["yes" if bit else "no" for bit in bits])
    )
    assert math.isclose(exact, known, abs_tol=1e-9)
    rng = random.Random(11)
    drawn = sum(passed(["yes" if rng.random() < p else "no" for _ in range(5)]) for _ in range(20_000)) / 20_000
    assert abs(drawn - known) < 4 * math.sqrt(known * (1 - known) / 20_000)


# ------------------------------------------------------------ with a model


class Scripted:
    """A Generator: `answer(role, turn, sample, user)` gives a value or a text."""

    model, batch_size, context = "scripted", None, None

    def __init__(self, answer):
        self.answer, self.users, self.systems = answer, [], set()

    def generate(self, requests, sampling):
        for request in requests:
            if request is not None:
                role, _, turn, sample = request.key.split("|")
                user = request.messages[1]["content"]
                self.users.append(user)
                self.systems.add(request.messages[0]["content"])
                value = self.answer(role, int(turn), int(sample), user)
                text = value if isinstance(value, str) else json.dumps(value)
                yield Completion(request.key, text, "stop", 10, 5, self.model)

    def count_tokens(self, request):
        return 10

    def close(self):
        pass


OTHER = GOLD.replace("class Box", "class Crate").replace("def weigh", "def mass_of").replace("is_full", "has_no_room")


def asked(answer):
    model = Scripted(answer)
    return model, Asker(model, Sampling(max_tokens=200), 0, None)


def crates():
    return Package({"depot/__init__.py": b"", "depot/crates.py": OTHER.encode()})


def test_a_model_chooses_among_what_is_offered():
    wanted = {"store.boxes.Box": "depot.crates.Crate", "store.boxes.weigh": "depot.crates.mass_of",
              "store.boxes.Box.put": "depot.crates.Crate.put", "store.boxes.Box.is_full": None}  # fmt: skip
    told = []

    def answer(role, turn, sample, user):
        told.append(turn)
        if len(told) == 1:
            return {"located": {**wanted, "store.boxes.Box": "depot.crates.Sack"}}  # made up
        if len(told) == 2:
            return {"located": {**wanted, "store.boxes.weigh": "depot.crates.ship", "store.boxes.Box.put": None,
                                "store.boxes.Box": None, "store.boxes.nothing": None}}  # fmt: skip
        return {"located": wanted}

    repo, task = crates(), task_of([*BOX, "store.boxes.weigh"])
    model, asker = asked(answer)
    (found,) = ModelLocator(Locator(repo, None), asker, overview(repo)).located_all([task], 0)
    assert found.names == {key: value for key, value in wanted.items() if value is not None}
    assert set(found.how.values()) == {"model"} and found.missing == ["store.boxes.Box.is_full"]
    assert "- depot.crates.Crate" in model.users[0].split("\n")
    assert "was not offered" in model.users[1] and "none of the interfaces" in model.users[2]
    assert len(model.systems) == 1 and "depot/crates.py" in next(iter(model.systems))


def test_a_model_has_to_speak_of_every_interface():
    repo, task = crates(), task_of([*BOX, "store.boxes.weigh"])
    model, asker = asked(lambda *_: {"located": {"store.boxes.Box": "depot.crates.Crate"}})
    assert ModelLocator(Locator(repo, None), asker, "S").located_all([task], 1) == [None]
    assert "no word on" in model.users[1] and "store.boxes.weigh" in model.users[1].rpartition("no word on")[2]


def test_reasons_of_a_lost_vote_are_in_the_next_question_and_two_interfaces_never_share():
    both = {"store.boxes.Box": "depot.crates.Crate", "store.boxes.Box.put": "depot.crates.Crate.put",
            "store.boxes.Box.is_full": "depot.crates.Crate.put", "store.boxes.weigh": None}  # fmt: skip
    repo, task = crates(), task_of([*BOX, "store.boxes.weigh"])
    model, asker = asked(lambda *_: {"located": both})
    locator = ModelLocator(Locator(repo, None), asker, "S")
    (found,) = locator.located_all([task], 1, {"t": ["it counts sheep"]})
    assert found is None  # three unusable answers, and no first attempt to fall back to
    assert "it counts sheep" in model.users[0] and "no two get the same unit" in model.users[1]
    (first,) = locator.located_all([task], 0)
    assert first == locator.locator.located(task, 0)  # the rules' own


def test_what_the_names_decide_is_not_asked():
    repo, task = package(), task_of(BOX)
    model, asker = asked(lambda *_: pytest.fail("asked"))
    assert ModelLocator(Locator(repo, None), asker, "S").located_all([task], 0)[0].names["store.boxes.Box"] == "store.boxes.Box"  # fmt: skip
    assert ModelLocator(Locator(repo, None), asker, "S").located_all([task], 1) == [None]
    assert not model.users


def test_a_models_votes_are_counted_as_they_are_read():
    said = [{"implements": True, "reason": "it does"}, {"implements": False, "reason": "a stub"}, "I think so", {"implements": "yes"}, {"implements": True}]  # fmt: skip
    repo, task = package(), task_of(["store.boxes.weigh"])
    located = Locator(repo, None).located(task)
    model, asker = asked(lambda role, turn, sample, user: said[sample])
    ((votes, reasons),) = model_votes(asker, [task], [located], repo, "S")
    assert votes == ["yes", "no", None, None, "yes"] and reasons == ["a stub"]
    assert passed(votes)
    assert "return sum(things) + sum(more)" in model.users[0] and "keep things in boxes" in model.users[0]
    ((votes, _),) = model_votes(asker, [task], [Located({}, {}, ["store.boxes.weigh"])], repo, "S")
    assert votes == ["no"] * 5 and len(model.users) == 5


def test_long_code_is_cut():
    code = GOLD + "\n\ndef long():\n    return [\n" + "        1,\n" * 3000 + "    ]\n"
    gold = package(code)
    task = task_of(["store.boxes.long"], gold=gold)
    model, asker = asked(lambda *_: {"implements": True})
    model_votes(asker, [task], [Locator(gold, None).located(task)], gold, "S")
    assert len(model.users[0]) < 12_000 and "more characters" in model.users[0]


GOOD = TEST.replace("store.boxes", "depot.crates").replace("Box", "Crate").replace("weigh(", "mass_of(").replace("weigh\n", "mass_of\n").replace("is_full", "has_no_room")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda code: code, ""),
        (lambda code: code + "\n\ndef skip_lines(text):\n    return text.skip_to(1)\n", ""),
        (lambda code: code + "(", "no Python"),
        (lambda code: code.replace("def test_box", "def test_crate"), "test_box is missing"),
        (lambda code: code.replace('    with pytest.raises(TypeError):\n        box.put()\n', ""), "assertions"),
        (lambda code: code.replace("assert box.has_no_room()", "assert True\n    box.has_no_room()").replace(" and box.limit == 2", ""), "assertions"),
        (lambda code: code.replace("from depot.crates", "from store.boxes"), "imports store"),
        (lambda code: code + "\n\ndef test_more():\n    import importlib\n    importlib.import_module('store.boxes')\n", "imports store"),
        (lambda code: code.replace("def test_box", "@pytest.mark.skip\ndef test_box"), "skips"),
        (lambda code: code.replace("def test_box", "@pytest.mark.xfail(strict=False)\ndef test_box"), "skips"),
        (lambda code: code.replace("    box = Crate", "    pytest.skip('no')\n    box = Crate"), "skips"),
        (lambda code: code.replace("    assert box", "    pass\n    # assert box") + "\n\ndef helper(box):\n    assert box.has_no_room() and box.limit == 2\n", "test test_box has"),
    ],
)  # fmt: skip
def test_an_adaptation_asks_what_the_original_asks(change, fault):
    repo, task = crates(), task_of(BOX)
    told = adapted_fault(task, change(GOOD), repo)
    assert (fault in told) if fault else not told


def test_adapting_is_one_step_with_what_went_wrong():
    repo, task = crates(), task_of(BOX)
    located = Locator(repo, None).located(task)
    model, asker = asked(lambda role, turn, sample, user: {"code": TEST if "not usable" not in user else GOOD})
    items = [Adaptation(task, located, TEST, "ImportError: store", 3)]
    assert adapt_all(asker, items, repo, "S") == [GOOD]
    assert "ImportError: store" in model.users[0] and "imports store" in model.users[1]
    _, stubborn = asked(lambda *_: {"code": TEST})
    assert adapt_all(stubborn, items, repo, "S") == [None]
