"""Where a task's names are in a repository: each rule by hand, combinations against brute force, and packages under other names."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_renaming import SCHEMES, new_name, renamed
from zerorepo_skeletons import TALLYBOOK, suite

from tenfold_shared import BadInput
from zerorepo.craft.locate import Located, Locator, _Choice, best_first, read_rename
from zerorepo.craft.package import Package
from zerorepo.craft.references import interfaces
from zerorepo.craft.resemblance import Resemblance, parameters_of, same_signature
from zerorepo.craft.tasks import Interface, Task
from zerorepo.embeddings import TfIdf
from zerorepo.features import own_phrases

GOLD = {
    "store/__init__.py": "from store.boxes import Box\n",
    "store/boxes.py": '''"""Boxes."""

LIMIT = 12


class Base:
    """What holds."""

    def clear(self):
        """Take everything out."""


class Box(Base):
    """Keeps things up to a limit."""

    def put(self, thing, times=1):
        """Put a thing in, several times."""

    def is_full(self):
        """Whether nothing more fits."""


def weigh(things, unit="kg"):
    """Sum the weights of all things."""


def ship(box, address):
    """Send a box to an address by post."""
''',
}
TEST = """
import store
from store import boxes
from store.boxes import ship, weigh


def test_box():
    box = store.Box()
    box.put(1)
    box.clear()
    assert box.is_full() and boxes.LIMIT
    assert weigh([1]) and ship(box, "here")
"""


def package(files):
    return Package({path: text.encode() for path, text in files.items()})


def task_of(tested=("store.boxes.Box", "store.boxes.weigh"), gold=GOLD, test=TEST):
    told = interfaces({"tests/test_boxes.py": test}, package(gold), tested)
    return Task(
        id="t", category="boxes", file="tests/test_boxes.py", module="functions", cap="boxes", functions=["test_box"],
        query_code=test, alg_description="", task_query="", project="store", cases=["test_box"], top=["store"], interfaces=told,
    )  # fmt: skip


def located(files, task=None, attempt=0, rename=None):
    return Locator(package(files), None, rename).located(task or task_of(), attempt)


def moved(changes=(), path="depot/crates.py", **more):
    """The real package in another place, some of its text changed."""
    text = GOLD["store/boxes.py"]
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return {"depot/__init__.py": "", path: text, **more}


# ------------------------------------------------------------ by name


def test_a_package_is_found_in_itself():
    task, repo = task_of(), package(GOLD)
    found = Locator(repo, None).located(task)
    assert set(found.how.values()) == {"same"} and found.missing == []
    assert found.names == {one.name: one.name for one in task.interfaces}
    assert found.places(task, repo) == ({}, {})
    assert Locator(repo, None).located(task, 1) is None


def test_the_same_name_in_another_module_is_named_and_the_module_follows():
    task, files = task_of(), moved()
    found = located(files)
    assert set(found.how.values()) == {"named", "ranked"}
    assert found.names["store.boxes.Box"] == "depot.crates.Box"
    assert found.names["store.boxes.Base.clear"] == "depot.crates.Base.clear"
    assert found.names["store.boxes.LIMIT"] == "depot.crates.LIMIT"
    assert found.names["store.boxes"] == "depot.crates" and found.how["store.boxes"] == "ranked"
    places, members = found.places(task, package(files))
    assert places["store.Box"] == "depot.crates.Box" and places["store.boxes.weigh"] == "depot.crates.weigh"
    assert members == {}


def test_a_written_name_that_has_no_meaning_changes_even_where_the_canonical_one_stays():
    files = {**GOLD, "store/__init__.py": ""}
    task = task_of()
    found = located(files)
    assert found.names["store.boxes.Box"] == "store.boxes.Box" and found.how["store.boxes.Box"] == "same"
    assert found.places(task, package(files)) == ({"store.Box": "store.boxes.Box"}, {})


def test_of_several_namesakes_the_nearest_is_first_and_the_others_follow():
    files = {
        "depot/__init__.py": "",
        "depot/boxes.py": 'def weigh(things, unit="kg"):\n    """Sum the weights of all things."""\n    return 1\n',
        "depot/fish.py": 'def weigh(fish):\n    """Guess how heavy a fish is."""\n    return 2\n',
    }
    task = task_of(
        ["store.boxes.weigh"], test="from store.boxes import weigh\n\n\ndef test_box():\n    assert weigh([1])\n"
    )
    assert [located(files, task, at).names.get("store.boxes.weigh") for at in range(2)] == ["depot.boxes.weigh", "depot.fish.weigh"]  # fmt: skip
    assert located(files, task, 2) is None


def test_a_private_name_stands_for_no_public_one_and_a_method_for_no_function():
    files = {
        "depot/a.py": "def _weigh(things): return 1\n\n\nclass Scale:\n    def weigh(self, things):\n        return 1\n"
    }
    task = task_of(
        ["store.boxes.weigh"], test="from store.boxes import weigh\n\n\ndef test_box():\n    assert weigh([1])\n"
    )
    assert located(files, task).missing == ["store.boxes.weigh"]


def test_a_class_may_stand_for_a_function_of_the_same_name_but_no_module_does():
    boxes = GOLD["store/boxes.py"].replace('def weigh(things, unit="kg"):', "class weigh:")
    found = located({**GOLD, "store/boxes.py": boxes})
    assert found.names["store.boxes.weigh"] == "store.boxes.weigh"
    files = {"store/__init__.py": "", "store/boxes/__init__.py": "", "store/boxes/weigh.py": "X = 1\n"}
    assert "store.boxes.weigh" in located(files).missing


# ------------------------------------------------------------ the user's map


def test_the_longest_name_of_the_map_decides_and_carries_the_rest_over():
    files = moved([("def ship", "def send"), ("class Box", "class Crate")])
    rename = {
        "store.boxes": "depot.crates",
        "store.boxes.Box": "depot.crates.Crate",
        "store.boxes.ship": "depot.crates.send",
    }
    found = located(files, rename=rename)
    above = (
        found.names.pop("store", "depot"),
        found.how.pop("store", "ranked"),
    )  # the package that its members stand below
    assert above == ("depot", "ranked") and set(found.how.values()) == {"renamed"}
    assert found.names["store.boxes.ship"] == "depot.crates.send"
    assert found.names["store.boxes.Box.put"] == "depot.crates.Crate.put"
    assert found.names["store.boxes.weigh"] == "depot.crates.weigh"
    assert located(files, attempt=1, rename=rename) is None


def test_a_map_decides_by_written_names_too():
    found = located(moved([("class Box", "class Crate")]), rename={"store.Box": "depot.crates.Crate"})
    assert found.names["store.boxes.Box"] == "depot.crates.Crate" and found.how["store.boxes.Box"] == "renamed"
    assert found.names["store.boxes.Box.put"] == "depot.crates.Crate.put"


def test_a_whole_name_of_the_map_outweighs_the_module_above_it():
    files = moved([("class Box", "class Crate")], **{"depot/other.py": "class Chest:\n    pass\n"})
    found = located(files, rename={"store.boxes": "depot.crates", "store.Box": "depot.other.Chest"})
    assert found.names["store.boxes.Box"] == "depot.other.Chest" and found.names["store.boxes"] == "depot.crates"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected a JSON object"),
        ("{", "not JSON"),
        ('{"a.b": 3}', "expected a dotted name as a string"),
        ('{"a b": "store"}', "expected a dotted name"),
        ('{"a": "store", "a": "store.boxes"}', "'a' stands twice"),
        ('{"a.Box": "store.boxes.Bax"}', "no store.boxes.Bax; nearest: store.boxes.Bo"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_map_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_rename(str(path), package(GOLD))
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_map_is_read(tmp_path):
    path = tmp_path / "map.json"
    told = {"shop": "store", "shop.Crate": "store.Box", "shop.Crate.put": "store.boxes.Box.put"}
    path.write_text(json.dumps(told))
    assert read_rename(str(path), package(GOLD)) == told


# ------------------------------------------------------------ by likeness

RENAMED = [("class Box", "class Crate"), ("def weigh", "def total_mass"), ("def ship", "def dispatch"), ("def put", "def insert_thing"), ("def is_full", "def has_no_room")]  # fmt: skip


def test_what_no_name_finds_is_found_by_what_is_said_of_it():
    task, files = task_of(), moved(RENAMED)
    found = located(files)
    wanted = {
        "store.boxes.Box": "depot.crates.Crate", "store.boxes.weigh": "depot.crates.total_mass",
        "store.boxes.ship": "depot.crates.dispatch", "store.boxes.Box.put": "depot.crates.Crate.insert_thing",
        "store.boxes.Box.is_full": "depot.crates.Crate.has_no_room",
    }  # fmt: skip
    assert {old: found.names[old] for old in wanted} == wanted and {found.how[old] for old in wanted} == {"ranked"}
    _, members = found.places(task, package(files))
    assert members == {"put": "insert_thing", "is_full": "has_no_room"}


def test_what_says_nothing_alike_is_missing():
    code = 'class Socket:\n    """Listens on a port."""\n\n\ndef frobnicate(a, b, c, d, *e, **f):\n    """Render HTML from a template."""\n'
    found = located({"net/__init__.py": "", "net/a.py": code})
    assert {"store.boxes.Box", "store.boxes.weigh", "store.boxes.ship"} <= set(found.missing) and not found.names


def test_attempts_are_all_different_and_never_give_a_unit_twice():
    twin = 'def mass(things, unit="kg"):\n    """Sum the weights of many things."""\n\n\ndef load(things, unit="t"):\n    """Add the weights of all things."""\n'
    files = moved(RENAMED, **{"depot/more.py": twin})
    task, locator = task_of(), Locator(package(files), None)
    tries = list(itertools.takewhile(lambda one: one is not None, (locator.located(task, at) for at in range(50))))
    assert 2 < len(tries) < 50
    for one in tries:
        units = [new for old, new in one.names.items() if old != "store.boxes"]
        assert len(set(units)) == len(units)
    told = [tuple(sorted(one.names.items())) for one in tries]
    assert len(set(told)) == len(told)
    weighed = [one.names["store.boxes.weigh"] for one in tries]
    assert weighed[0] == "depot.crates.total_mass" and {"depot.more.mass", "depot.more.load"} <= set(weighed)


def test_two_that_want_the_same_unit_share_it_not():
    gold = {
        "store/__init__.py": "",
        "store/a.py": 'def open_box(box):\n    """Open a box."""\n',
        "store/b.py": 'def open_crate(box):\n    """Open a box."""\n',
    }
    test = "from store.a import open_box\nfrom store.b import open_crate\n\n\ndef test_box():\n    assert open_box(1) and open_crate(1)\n"
    task = task_of(["store.a.open_box", "store.b.open_crate"], gold, test)
    found = located({"depot/__init__.py": "", "depot/x.py": 'def unseal(box):\n    """Open a box."""\n'}, task)
    assert list(found.names.values()) == ["depot.x.unseal"] and len(found.missing) == 1


def test_candidates_are_namesakes_then_the_likest():
    task, locator = task_of(), Locator(package(moved(RENAMED[1:])), None)
    of = {one.name: one for one in task.interfaces}
    assert locator.candidates(of["store.boxes.Box"], task)[0].name == "depot.crates.Box"
    weighed = locator.candidates(of["store.boxes.weigh"], task, top=2)
    assert [one.name for one in weighed] == ["depot.crates.total_mass", "depot.crates.dispatch"]
    assert weighed[0].score > weighed[1].score


def test_members_with_two_new_names_are_ambiguous():
    one = Interface(name="a.A.run", kind="method")
    other = Interface(name="a.B.run", kind="method")
    task = task_of()
    task.interfaces = [one, other]
    told = Located({"a.A.run": "b.A.go", "a.B.run": "b.B.run"}, {}, [])
    assert told.places(task, package(GOLD)) == ({}, {})
    told = Located({"a.A.run": "b.A.go", "a.B.run": "b.B.go"}, {}, [])
    assert told.places(task, package(GOLD)) == ({}, {"run": "go"})


def test_a_method_of_a_class_that_the_test_never_names_is_found_in_it():
    gold = {
        "store/__init__.py": "",
        "store/a.py": 'class Box:\n    """Keeps things."""\n\n    def put(self, thing):\n        """Put a thing in."""\n\n\ndef make():\n    """Give a new box."""\n    return Box()\n',
    }
    test = "from store.a import make\n\n\ndef test_box():\n    box = make()\n    assert box.put(1)\n"
    task = task_of(["store.a.Box.put"], gold, test)
    assert {one.name for one in task.interfaces} >= {"store.a.Box.put", "store.a.make"}
    files = {"depot/__init__.py": "", "depot/b.py": gold["store/a.py"]}
    assert located(files, task).names["store.a.Box.put"] == "depot.b.Box.put"


def test_a_method_is_looked_for_by_name_before_anything_else():
    """And a value's attribute may stand for it, as a variable may for a property."""
    put = 'def put(self, thing, times=1):\n        """Put a thing in, several times."""'
    others = 'def put(self, socket):\n        """Listen."""\n\n    def fill(self, thing, times=1):\n        """Put a thing in, several times."""'
    full = 'def is_full(self):\n        """Whether nothing more fits."""'
    found = located(moved([("class Box", "class Crate"), (put, others), (full, "is_full = LIMIT")]))
    assert found.names["store.boxes.Box"] == "depot.crates.Crate"
    assert found.names["store.boxes.Box.put"] == "depot.crates.Crate.put"
    assert found.names["store.boxes.Box.is_full"] == "depot.crates.Crate.is_full"


scores = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 9)), max_size=4, unique_by=lambda one: one[0])


@given(st.lists(scores, max_size=4))
@settings(max_examples=300, deadline=None)
def test_combinations_come_best_first_as_brute_force_has_them(lists):
    choices = [sorted((_Choice(name, float(score), "ranked") for name, score in one), key=lambda one: (-one.score, one.name)) for one in lists]  # fmt: skip
    valid = []
    for picks in itertools.product(*[[*one, None] for one in choices]):
        names = [pick.name for pick in picks if pick is not None]
        full = all(pick is not None or all(choice.name in names for choice in one) for pick, one in zip(picks, choices, strict=True))  # fmt: skip
        if len(set(names)) == len(names) and full:
            valid.append(sum(pick.score for pick in picks if pick is not None))
    found = list(best_first(choices, 10_000))
    assert [total for total, _ in found] == sorted(valid, reverse=True)
    assert len({tuple(pick and pick.name for pick in picks) for _, picks in found}) == len(found)


def test_signatures_are_alike_as_far_as_their_parameters_are():
    def alike(one, other):
        return same_signature(parameters_of(one), parameters_of(other))

    assert alike("def f(a, b=1)", "def g(a, b=2) -> int") == pytest.approx(1)
    assert alike("async def f(self, a)", "f(a)") == pytest.approx(1)
    assert alike("def f()", "def g()") == pytest.approx(1)
    assert 0 < alike("def f(a, b)", "def f(a)") < 1
    assert alike("def f(a, *b)", "def f(a)") < 1
    assert alike("def f(x, y)", "def f(a, b)") < alike("def f(a, y)", "def f(a, b)")
    assert parameters_of("class A(B)") is None and parameters_of("def (") is None


# ------------------------------------------------------------ packages under other names


def tallybook():
    return {path.relative_to(TALLYBOOK).as_posix(): path.read_bytes() for path in sorted(TALLYBOOK.glob("**/*.py"))}


def public(repo):
    return [
        node for node in repo.units
        if node.kind in ("class", "function") and "." not in node.qualname and not node.name.startswith("_")
    ]  # fmt: skip


def about(repo, node):
    """A task about one unit."""
    one = Interface(name=repo.dotted(node), kind=node.kind, written=[repo.dotted(node)], tested=True,
                    signature=node.signature, doc=node.doc, features=own_phrases(node)[0])  # fmt: skip
    task = task_of()
    task.interfaces = [one]
    return task


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_renamed_copy_works_and_says_what_is_called_what(tmp_path, scheme):
    files, names = renamed(tallybook(), scheme)
    assert len(names) > 20 and len(set(names.values())) == len(names)
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    repo = Package(files)
    assert all(repo.meaning(new) is not None for new in names.values())
    assert {path.split("/")[0] for path in files} == {names["tallybook"], "tests"}
    ran = [_suite(folder) for folder in (tmp_path, TALLYBOOK)]
    assert ran[0] == ran[1] and ran[1] > 30


def _suite(folder):
    """How many tests of a folder pass, all of them."""
    done = suite(folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return int(done.stdout.strip().splitlines()[-1].split()[0])


def test_renaming_follows_scopes_reexports_and_leaves_what_others_own():
    files = {
        "shop/__init__.py": "from .price import total, Cart\n__all__ = ['total', 'Cart']\n",
        "shop/price.py": 'import os\n\n\ndef total(items):\n    """Use `total` or shop.total(1)."""\n    return sum(items)\n\n\nclass Cart:\n    def charge(self):\n        return total([1])\n\n    def get(self):\n        return os.sep\n',
        "tests/test_price.py": "import shop\nfrom shop import price as p\n\n\ndef test_a():\n    total = shop.total\n    assert total([1]) == p.total([1])\n    assert shop.Cart().charge() == 1 and {}.get(1) is None and shop.Cart().get()\n",
    }
    made, names = renamed({path: text.encode() for path, text in files.items()}, "opaque")
    text = {path: data.decode() for path, data in made.items()}
    top, module = names["shop"], names["shop.price"].rpartition(".")[2]
    total, cart, charge = (names[f"shop.price.{one}"].rpartition(".")[2] for one in ("total", "Cart", "Cart.charge"))
    assert text[f"{top}/__init__.py"] == f"from .{module} import {total}, {cart}\n__all__ = ['{total}', '{cart}']\n"
    test = text["tests/test_price.py"]
    assert (
        f"    total = {top}.{total}\n    assert total([1]) == p.{total}([1])\n" in test
    )  # its own variable keeps its name
    assert f"{top}.{cart}().{charge}() == 1 and {{}}.get(1) is None and {top}.{cart}().get()" in test
    assert f"Use `{total}` or {top}.{total}(1)" in text[f"{top}/{module}.py"]
    space = {}
    exec(compile(text[f"{top}/{module}.py"], "x", "exec"), space)
    assert space[cart]().get() and getattr(space[cart](), charge)() == 1


def test_renaming_follows_names_that_an_import_gives_again_and_keeps_those_that_are_looked_up():
    files = {
        "shop/__init__.py": b"",
        "shop/price.py": b"import shop.goods as goods\n\n\nclass Visitor:\n    def _visit_box(self):\n        return goods.weight(2)\n\n    def visit(self, it):\n        return getattr(self, f'_visit_{type(it).__name__.lower()}')()\n",
        "shop/goods.py": b"class Box:\n    pass\n\n\ndef weight(n):\n    return n\n",
    }
    made, names = renamed(files, "synonyms")
    goods = names["shop.goods"].rpartition(".")[2]
    text = made[f"{names['shop']}/{names['shop.price'].rpartition('.')[2]}.py"].decode()
    assert text.startswith(f"import {names['shop.goods']} as {goods}\n") and f"return {goods}.run_weight(2)" in text
    assert names["shop.goods.Box"].endswith(".Box")


def test_schemes_make_names():
    assert new_name("parse_file", "synonyms", 1) == "read_document" and new_name("LRUCache", "synonyms", 1) == "LruMemo"
    assert new_name("foo_bar", "synonyms", 1) == "bar_foo" and new_name("zig", "synonyms", 1) == "run_zig"
    assert new_name("parse_file", "opaque", 17) == "f17" and new_name("Cache", "opaque", 3) == "C3"


@pytest.mark.parametrize("encoder", [None, TfIdf()], ids=["words", "tfidf"])
def test_a_documented_package_is_found_under_other_names(encoder):
    gold = Package(tallybook())
    for scheme, least in (("synonyms", 1.0), ("opaque", 0.9)):
        files, names = renamed(tallybook(), scheme)
        locator = Locator(Package(files), encoder)
        right = 0
        for node in public(gold):
            task = about(gold, node)
            name = task.interfaces[0].name
            right += locator.located(task).names.get(name) == names.get(name, name)
        assert right >= least * len(public(gold)), (scheme, right, len(public(gold)))


def test_scores_are_between_0_and_1_and_highest_for_the_thing_itself():
    gold = Package(tallybook())
    alike = Resemblance(gold, None)
    for node in public(gold):
        task = about(gold, node)
        first = alike.scored(task.interfaces[0], task, lambda _: True)
        assert first[0].name == task.interfaces[0].name and all(0 <= one.score <= 1 + 1e-9 for one in first)
