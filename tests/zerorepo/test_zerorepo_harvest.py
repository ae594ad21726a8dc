"""craft harvest on small packages written here: which tasks come of their suites, by hand; each on the package and on stubs of
it; data files, order of tests, odd encodings, a kill in the middle, bad input. Names and words by brute force."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold_shared.sandbox import Limits
from zerorepo.craft.grouping import (
    FEWEST,
    Dropped,
    category_of,
    described,
    grouped,
    ids_of,
    in_words,
    no_algorithm,
    project_name,
    run_length,
    told_words,
)
from zerorepo.craft.harvest import DATA_FILE, is_test_file, leaving, source_of
from zerorepo.craft.package import Package
from zerorepo.craft.references import interfaces
from zerorepo.craft.suite import Case, TestFile
from zerorepo.craft.tasks import Task, task_of
from zerorepo.generation.verdict import Verdict, judge, outcome_of

COMMAND = Path(sys.executable).parent / "zerorepo"
LIMITS = Limits(wall_s=30, memory_mb=1024)

PACKAGE = {
    "shop/__init__.py": "from shop.basket import Basket\nfrom .words import *\n",
    "shop/basket.py": '''
"""Baskets."""

class BasketError(ValueError):
    """Something is wrong with a basket."""


class Basket:
    """A basket that holds things by name. See :func:`shop.words.make_slug` for names; CamelCase things too."""

    rate = 2

    def __init__(self, items=()):
        self.items = dict(items)

    def put(self, name, count=1):
        """Put a number of things in."""
        if count < 1:
            raise BasketError(name)
        self.items[name] = self.items.get(name, 0) + count

    def total(self, prices):
        """What all of it costs."""
        return sum(prices[name] * count for name, count in self.items.items())

    def __repr__(self):
        return f"Basket({self.items})"


def merge_baskets(one, other):
    """Make one basket of two."""
    made = Basket(one.items)
    for name, count in other.items.items():
        made.put(name, count)
    return made
''',
    "shop/words.py": '''
__all__ = ["make_slug", "version_of"]

def make_slug(text):
    """Make a slug, as in ``make_slug("A B")``: lower case, with dashes."""
    return "-".join(text.lower().split())

def version_of(text):
    """The number behind a name."""
    return tuple(map(int, text.rpartition(" ")[2].split(".")))

def hidden(text):
    """Text the other way round."""
    return text[::-1]
''',
}
SUITE = {
    "tests/__init__.py": "",
    "tests/conftest.py": """
import pytest
from shop.basket import Basket

@pytest.fixture
def full():
    return Basket({"pear": 3})

@pytest.fixture(autouse=True)
def seeded():
    import random
    from shop.words import version_of
    random.seed(version_of("a 1")[0])

@pytest.fixture
def unused():
    raise AssertionError("nobody asks for this")
""",
    "tests/helpers.py": """
from shop import hidden_away  # never there
""",
    "tests/common.py": """
from shop.words import hidden

def turned(text):
    return hidden(text)

def never(text):
    raise AssertionError(text)
""",
    "tests/test_basket.py": """
import json
import os.path
import pytest

import shop
from shop.basket import Basket, BasketError, merge_baskets
from . import common

HERE = os.path.dirname(__file__)
PRICES = {"pear": 2}
PRICES["fig"] = 5


@pytest.fixture
def empty():
    return Basket()


@pytest.fixture
def prices():
    with open(os.path.join(HERE, "data", "prices.json")) as stream:
        return json.load(stream)


def costly(basket):
    return basket.total(PRICES)


class TestBasket:
    @pytest.fixture(autouse=True)
    def _made(self, empty):
        self.basket = empty

    def test_put(self):
        self.basket.put("pear")
        assert self.basket.items == {"pear": 1}

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_put_many(self, count):
        self.basket.put("pear", count)
        assert self.basket.items["pear"] == count

    def test_put_nothing(self):
        with pytest.raises(BasketError):
            self.basket.put("pear", 0)

    def test_starts_empty(self):
        assert Basket().items == {}

    def test_repr(self):
        assert repr(self.basket) == "Basket({})"


def test_total(full):
    assert costly(full) == 6


def test_total_of_file(full, prices):
    assert full.total(prices) == 12


def test_merge_baskets(full):
    made = merge_baskets(full, Basket({"fig": 1}))
    assert costly(made) == 11


def test_of_fixture(full):
    assert full.items == {"pear": 3}


def test_nothing_of_ours():
    assert json.loads("1") == 1


def test_wrong_count(full):
    with pytest.raises(BasketError):
        merge_baskets(full, merge_baskets(full, Basket({"pear": 0})))


def test_turned():
    assert common.turned("abc") == "cba"
""",
    "tests/text/test_words.py": """
from shop import *


def test_make_slug():
    assert make_slug("A  B") == "a-b"


def test_version_of():
    assert version_of("shop 1.2") == (1, 2)


def test_slug_version():
    assert make_slug("Shop 1.0") == "shop-1.0"
""",
    "tests/text/unit_test.py": """
import unittest
from shop.words import make_slug, version_of


class SlugCase(unittest.TestCase):
    def setUp(self):
        self.text = "One Two"
        self.table = [version_of("a 1"), 7]

    def test_dashes(self):
        self.assertEqual(make_slug(self.text), "one-two")

    def test_sub(self):
        for text in ("A B", "a  b"):
            with self.subTest(text=text):
                self.assertEqual(make_slug(text), "a-b")


class NotOne:
    def test_ignored(self):
        raise AssertionError
""",
    "tests/data/prices.json": '{"pear": 4}',
    "tests/data/other.json": "[]",
}
# id of a task, without its project, to its tests: what the rules of grouping.py say, written down by hand.
EXPECTED = {
    "shop/basket/TestBasket/Basket.put": ["test_put", "test_put_many", "test_put_nothing"],
    "shop/basket/TestBasket/Basket": ["test_starts_empty"],
    "shop/basket/functions/Basket.total": ["test_total", "test_total_of_file"],
    "shop/basket/functions/merge_baskets": ["test_merge_baskets"],
    "shop/basket/functions/Basket": ["test_of_fixture", "test_wrong_count"],  # by the file's name
    "shop/basket/functions/hidden": ["test_turned"],
    "text/words/functions/make_slug": ["test_make_slug"],
    "text/words/functions/version_of": ["test_version_of"],
    "text/unit/SlugCase/make_slug": ["test_dashes", "test_sub"],
}
DROPPED = {
    ("tests/test_basket.py", "TestBasket::test_repr", "repr"),
    ("tests/test_basket.py", "test_nothing_of_ours", "reaches nothing of the package"),
    ("tests/text/test_words.py", "test_slug_version", "version"),
}


def laid(folder: Path, *trees: Mapping[str, str | bytes]) -> Path:
    for tree in trees:
        for path, content in tree.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def harvest(folder: Path, *words: str, tests: str = "tests", code: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:  # fmt: skip
    done = subprocess.run(
        [COMMAND, "craft", "harvest", folder, "--tests", folder / tests, *words], capture_output=True, text=True, **more
    )
    assert done.returncode == code, done.stderr
    return done


def tasks_of(text: str) -> dict[str, Task]:
    found = [task_of("here", json.loads(line)) for line in text.splitlines()]
    assert [task.id for task in found] == sorted(task.id for task in found)
    return {task.id.partition("/")[2]: task for task in found}


def harvested(folder: Path, *words: str, code: int = 0) -> tuple[dict[str, Task], dict[str, Any], str]:
    """(tasks, counts of the manifest, stderr)"""
    output = folder.parent / "tasks.jsonl"
    done = harvest(folder, *words, "-o", str(output), code=code)
    assert done.stdout == ""
    counts = json.loads((folder.parent / "tasks.jsonl.manifest.json").read_text())["counts"]
    said = [
        line for line in done.stderr.splitlines() if not line.startswith(("group: ", "harvest: "))
    ]  # of progress, where it is slow
    return tasks_of(output.read_text()), counts, "\n".join(said)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return laid(tmp_path_factory.mktemp("of") / "shop-1.2", PACKAGE, SUITE)


@pytest.fixture(scope="module")
def made(shop: Path) -> tuple[dict[str, Task], dict[str, Any], str]:
    """Of all of it by the installed command: its tasks, counts and stderr."""
    return harvested(shop, "--all")


# ---------------------------------------------------------------- the whole verb


def test_tasks_by_hand(made: tuple[dict[str, Task], dict[str, Any], str]) -> None:
    tasks, told, _ = made
    assert {name: task.functions for name, task in tasks.items()} == EXPECTED
    assert all(task.project == "shop" and task.top == ["shop"] for task in tasks.values())
    assert told["dropped"] == {"reaches nothing of the package": 1, "repr": 1, "version": 1}
    assert told["tests"] == sum(map(len, EXPECTED.values())) + len(DROPPED)
    assert told["test_files"] == 3 and told["categories"] == {"shop": 6, "text": 3}


def test_who_is_dropped(shop: Path) -> None:
    package = Package.load(shop)
    files = [TestFile(path, package.files[path].decode()) for path in package.files if is_test_file(path)]
    assert set(grouped(files, package, "shop").dropped) == {Dropped(*one) for one in DROPPED}


def test_tested_interfaces(made: tuple[dict[str, Task], dict[str, Any], str]) -> None:
    tasks, _, _ = made
    tested = {name: [one.name for one in task.tested] for name, task in tasks.items()}
    assert tested["shop/basket/TestBasket/Basket.put"] == ["shop.basket.Basket.put"]
    assert tested["text/words/functions/make_slug"] == ["shop.words.make_slug"]
    assert all(len(names) == 1 for names in tested.values())
    slug = tasks["text/words/functions/make_slug"].tested[0]
    assert slug.written == ["shop.make_slug"]  # through two stars


def test_all_pass_on_the_package(made: tuple[dict[str, Task], dict[str, Any], str]) -> None:
    tasks, told, _ = made
    assert all(task.gold is not None and task.gold.passed and task.gold.voted for task in tasks.values())
    gold = told["gold"]
    assert (gold["tasks"], gold["passed"], gold["voted"], gold["pass_rate"]) == (9, 9, 9, 1.0) and not gold["failed"]


def files_of(task: Task, package: dict[str, str]) -> dict[str, bytes]:
    """What a run of a task alone needs, put together without any of the tool's own help."""
    beside = {one.path: one.data for one in task.support}
    return {path: text.encode() for path, text in package.items()} | beside | {task.file: task.query_code.encode()}


def verdict(files: dict[str, bytes], tests: list[str]) -> Verdict:
    words = ["-c", "/dev/null", "-p", "no:cacheprovider"]
    return judge(outcome_of(files, tests, words, limits=LIMITS, python=sys.executable, roots=("",), unsafe=False, plugins=False))  # fmt: skip


def test_each_stands_alone(made: tuple[dict[str, Task], dict[str, Any], str]) -> None:
    """A task needs nothing but what is in it; and it fails on the package without its bodies."""
    stubs = dict(PACKAGE)
    for path, text in PACKAGE.items():
        stubs[path] = re.sub(
            r"(?m)^( *)def (\w+)\((.*)\):\n", r"\1def \2(\3):\n\1    raise NotImplementedError\n", text
        )
    for task in made[0].values():
        tests = [f"{task.file}::{case}" for case in task.cases]
        found = verdict(files_of(task, PACKAGE), tests)
        assert found.result == "passed", (task.id, found.detail)
        assert verdict(files_of(task, stubs), tests).result != "passed", task.id


def test_only_what_is_needed(made: tuple[dict[str, Task], dict[str, Any], str]) -> None:
    tasks, told, _ = made
    put = tasks["shop/basket/TestBasket/Basket.put"]
    assert (
        "PRICES" not in put.query_code and "test_starts_empty" not in put.query_code and "costly" not in put.query_code
    )
    merged = tasks["shop/basket/functions/merge_baskets"]
    assert 'PRICES["fig"] = 5' in merged.query_code
    support = {name: {one.path for one in task.support} for name, task in tasks.items()}
    assert "tests/data/prices.json" in support["shop/basket/functions/Basket.total"]
    assert not any("tests/data/other.json" in paths or "tests/helpers.py" in paths for paths in support.values())
    assert [name for name, paths in support.items() if any(path.startswith("tests/data") for path in paths)] == [
        "shop/basket/functions/Basket.total"
    ]
    turned = tasks["shop/basket/functions/hidden"]
    (common,) = (one for one in turned.support if one.path == "tests/common.py")
    assert "def turned" in common.data.decode()
    (conftest,) = (one for one in turned.support if one.path == "tests/conftest.py")
    assert "seeded" in conftest.data.decode() and "unused" not in conftest.data.decode()
    assert told["uncut"] == [] and told["data_left_out"] == []


def test_described_without_identifiers(made: tuple[dict[str, Task], dict[str, Any], str]) -> None:
    for task in made[0].values():
        text = f"{task.alg_description} {task.task_query}"
        assert not re.search(r"make_slug|version_of|merge_baskets|BasketError|CamelCase|shop\.", text), text
        assert "`" not in text and ":func:" not in text
    total = made[0]["shop/basket/functions/Basket.total"]
    assert total.cap == "basket total"
    assert (
        total.alg_description
        == "An operation of a class for basket total, of basket. What all of it costs. Its tests look at: of file."
    )
    assert (
        total.task_query
        == "Find what does this, and run its 2 tests: what all of it costs. It is to hold for: of file."
    )


def test_summary(made: tuple[dict[str, Task], dict[str, Any], str], shop: Path) -> None:
    lines = made[2].splitlines()
    assert lines[0] == "zerorepo: harvest of shop"
    told = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in lines[1:]}
    assert told["tasks"] == "9 of 14 tests in 2 categories" and told["dropped: repr"] == "1"
    assert told["passed by the package itself"] == "9 (100.0 %)"
    again = harvest(shop, "--all", "--json", "-o", str(shop.parent / "tasks.jsonl"))
    assert "complete already" in again.stderr and json.loads(again.stdout) == made[1]
    piped = harvest(shop, "--all", "--json", "-q")
    assert json.loads(piped.stderr) == made[1] and tasks_of(piped.stdout) == made[0]


def test_a_draw_and_its_bytes(shop: Path) -> None:
    """The same from any number of workers, from a package's own folder too; a draw is among all."""
    one = harvest(shop, "-q", "--caps", "1", "--workers", "1").stdout
    assert harvest(shop, "-q", "--caps", "1", "--workers", "3").stdout == one
    assert len(tasks_of(one)) == 4 and tasks_of(one).keys() <= EXPECTED.keys()  # one of each class or file's functions
    inside = subprocess.run(
        [COMMAND, "craft", "harvest", shop / "shop", "--tests", shop / "tests", "-q", "--unchecked", "--all"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = tasks_of(inside.stdout)
    assert {name: task.functions for name, task in found.items()} == EXPECTED
    assert all(task.gold is None for task in found.values())


# ---------------------------------------------------------------- what a suite can be like

ONE = {"one/__init__.py": "", "one/core.py": "def double(x):\n    '''Twice it.'''\n    return 2 * x\n"}


def test_data_files(tmp_path: Path) -> None:
    """Listed, opened as bytes at import, too large, and in the folder of a subpackage; what an import looks through is none."""
    folder = laid(tmp_path / "one", ONE, {
        "tests/test_core.py": """
import glob, pathlib, sys
from one.core import double
HERE = pathlib.Path(__file__).parent
RAW = (HERE / "raw.bin").read_bytes()
HALF = 1024 * 512 + 1

def test_double_of_listed():
    assert len(list((HERE / "many").glob("*.txt"))) == double(1)

class TestDouble:
    def test_raw(self):
        sys.path.insert(0, str(HERE / "searched"))
        import colorsys
        assert double(RAW) == b"\\xff\\x00\\xff\\x00"

class TestLarge:
    def test_double_large(self):
        assert len((HERE / "large.txt").read_text()) == double(HALF)

class TestNone:
    def test_double_none(self):
        assert double(2) == 4
""",
        "tests/raw.bin": b"\xff\x00", "tests/many/a.txt": "", "tests/many/b.txt": "", "tests/many/deep/c.txt": "",
        "tests/large.txt": "x" * (DATA_FILE + 2), "tests/not_read.txt": "", "tests/searched/not_read.txt": "",
    })  # fmt: skip
    tasks, told, said = harvested(folder, "--all")
    support = {task.module: {one.path for one in task.support} for task in tasks.values()}
    assert support == {
        "functions": {"tests/many/a.txt", "tests/many/b.txt"},
        "TestDouble": {"tests/raw.bin"},
        "TestLarge": set(),
        "TestNone": set(),
    }
    assert told["data_left_out"] == [{"id": "one/one/core/TestLarge/double", "file": "tests/large.txt"}]
    assert {task.module: task.gold.passed for task in tasks.values() if task.gold} == {
        "functions": True, "TestDouble": True, "TestLarge": False, "TestNone": True,
    }  # fmt: skip
    assert "passes only amid its whole suite" in told["gold"]["failed"][0]["reason"]
    assert "too large: tests/large.txt" in said


def test_a_suite_inside_the_package(tmp_path: Path) -> None:
    """Relative imports of the package become absolute, those of the suite stay; the suite itself is nothing to be tested."""
    folder = laid(tmp_path / "one", ONE, {
        "one/tests/__init__.py": "", "one/tests/aid.py": "from ..core import double\ndef four(x):\n    return double(double(x))\n",
        "one/tests/test_in.py": """
from ..core import double
from .aid import four

def test_double():
    assert double(1) == 2

def test_four():
    assert four(1) == 4
""",
    })  # fmt: skip
    (task,) = tasks_of(harvest(folder, "-q", "--all", tests="one/tests").stdout).values()
    assert task.id == "one/one/in/functions/double" and task.cases == ["test_double", "test_four"]
    assert task.gold is not None and task.gold.passed
    assert task.query_code.startswith("from one.core import double\nfrom .aid import four\n")
    support = {one.path: one.data.decode() for one in task.support}
    assert support["one/tests/aid.py"].startswith("from one.core import double\n")
    assert [one.name for one in task.interfaces if one.kind == "function"] == ["one.core.double"]


def test_tests_that_rest_on_earlier_ones(tmp_path: Path) -> None:
    folder = laid(tmp_path / "one", ONE, {
        "tests/test_order.py": """
import unittest
from one.core import double
STATE = None

class OrderTest(unittest.TestCase):
    def test_0_nothing_reached(self):
        OrderTest.known = 4

    def test_1_double(self):
        assert double(2) == self.known

def test_sets():
    global STATE
    STATE = 6

def test_double():
    assert double(3) == STATE
""",
    })  # fmt: skip
    tasks = tasks_of(harvest(folder, "-q", "--all").stdout)
    assert {task.module: task.cases for task in tasks.values()} == {
        "OrderTest": ["OrderTest::test_0_nothing_reached", "OrderTest::test_1_double"],
        "functions": ["test_sets", "test_double"],
    }
    assert all(task.gold is not None and task.gold.passed for task in tasks.values())
    assert [task.functions for task in tasks.values()] == [["test_1_double"], ["test_double"]]


def test_whole_file_where_the_cut_one_fails(tmp_path: Path) -> None:
    """A test that looks at its own module's text passes only in the whole file."""
    folder = laid(tmp_path / "one", ONE, {
        "tests/test_self.py": """
import inspect, sys
from one.core import double

def unseen():
    return "a mark that nobody names"

def test_double():
    assert double(inspect.getsource(sys.modules[__name__]).count("def un" + "seen")) == 2
""",
    })  # fmt: skip
    tasks, told, said = harvested(folder, "--all")
    (task,) = tasks.values()
    assert "def unseen" in task.query_code and task.gold is not None and task.gold.passed
    assert told["uncut"] == [task.id] and f"whole file: {task.id}" in said


def test_what_the_package_fails_is_told(tmp_path: Path) -> None:
    folder = laid(tmp_path / "one", ONE, {
        "tests/test_core.py": "from one.core import double\ndef test_double():\n    assert double(2) == 5\n",
    })  # fmt: skip
    done = harvest(folder, "--all")
    (task,) = tasks_of(done.stdout).values()
    assert task.gold is not None and not task.gold.passed and task.gold.result == "failed" and task.gold.voted
    assert "assert 4 == 5" in task.gold.reason and "no better amid its whole suite" in task.gold.reason
    assert f"not passed: {task.id}: failed: assert 4 == 5" in done.stderr
    assert "passed by the package itself  0 (0.0 %)" in done.stderr


def test_what_passes_on_stubs_is_no_task(tmp_path: Path) -> None:
    """A test that only looks whether something is there, and one that any error suits."""
    folder = laid(tmp_path / "one", {**ONE, "one/core.py": ONE["one/core.py"] + "\ndef halve(x):\n    return x / 2\n\nclass Odd(Exception):\n    pass\n"}, {
        "tests/test_core.py": """
import pytest
from one import core

def test_double():
    assert core.double(2) == 4

def test_halve():
    with pytest.raises(Exception):
        core.halve("a")

class TestOdd:
    def test_odd(self):
        assert issubclass(core.Odd, Exception)
""",
    })  # fmt: skip
    tasks, told, said = harvested(folder, "--all")
    assert [one.rpartition("/")[2] for one in tasks] == ["double"]
    assert sorted(one.rpartition("/")[2] for one in told["on_stubs"]) == ["Odd", "halve"]
    assert "dropped: passed on stubs, so test nothing" in said and told["gold"]["tasks"] == 1
    kept, _, _ = harvested(folder, "--all", "--unchecked", "--overwrite")
    assert len(kept) == 3  # nothing is run, so nothing is known
    text = "from one import core\n\nclass TestOdd:\n    def test_odd(self):\n        assert issubclass(core.Odd, Exception)\n"
    (folder / "tests/test_core.py").write_text(text)
    done = harvest(folder, "--all", "-o", str(tmp_path / "none.jsonl"), code=2)
    assert "all 1 passed on stubs" in done.stderr and not (tmp_path / "none.jsonl").exists()


def test_a_property_and_a_base_are_stubs_as_well(tmp_path: Path) -> None:
    """What a test is about may have a body that its name alone does not lead to: a setter, a base's method."""
    core = """class Plain:
    def twice(self, x):
        return 2 * x


class Sum(Plain):
    @property
    def total(self):
        return 4

    @total.setter
    def total(self, value):
        raise AttributeError("read-only")


class Other(Plain):
    pass
"""
    tests = """import pytest
from one.core import Other, Sum

def test_total():
    with pytest.raises(AttributeError):
        Sum().total = 5

def test_other():
    assert Other().twice(2) == 4
"""
    folder = laid(tmp_path / "one", {"one/__init__.py": "", "one/core.py": core, "tests/test_core.py": tests})
    tasks, told, _ = harvested(folder, "--all")
    assert told["on_stubs"] == [] and len(tasks) == 2


def test_the_folders_name_is_part_of_what_decides(tmp_path: Path) -> None:
    """The project is named after it, so the same files in another folder are another project's."""
    tests = {"tests/test_core.py": "from one.core import double\n\ndef test_double():\n    assert double(2) == 4\n"}
    done = []
    for name in ("first", "second"):
        words = ["craft", "harvest", ".", "--tests", "tests", "--all", "--unchecked", "-o", str(tmp_path / "t.jsonl")]
        folder = laid(tmp_path / name, ONE, tests)
        done.append(subprocess.run([COMMAND, *words], cwd=folder, capture_output=True, text=True))
    assert done[0].returncode == 0 and done[1].returncode == 2 and "project" in done[1].stderr, done[1].stderr


def test_names_of_the_six_get_the_papers_row(tmp_path: Path) -> None:
    folder = laid(tmp_path / "requests-0.1", {
        "requests/__init__.py": "", "requests/core.py": "def double(x):\n    return 2 * x\n",
        "tests/test_core.py": "from requests.core import double\ndef test_double():\n    assert double(2) == 4\n",
    })  # fmt: skip
    _, told, said = harvested(folder, "--all", "--unchecked")
    paper = told["paper"]
    assert paper["theirs"] == {"files": 17, "loc": 2793, "tokens": 22297, "categories": 22, "tasks": 50}
    assert paper["ours"]["files"] == 1 and paper["ours"]["loc"] == 2 and paper["ours"]["tasks"] == 1
    assert re.search(r"in the paper +17 +2,793 +22,297 +22 +50", said)


def test_encodings(tmp_path: Path) -> None:
    """PEP 263 and a BOM; and a file whose bytes are not what it says, which is left out by name."""
    folder = laid(tmp_path / "one", ONE, {
        "tests/test_latin.py": "# -*- coding: latin-1 -*-\nfrom one.core import double\ndef test_double():\n    assert double('é') == '\\xe9\\xe9'\n".encode("latin-1"),
        "tests/test_bom.py": "\ufefffrom one.core import double\r\ndef test_double():\r\n    assert double('é') == 'éé'\r\n".encode(),
        "tests/test_wrong.py": b"from one.core import double\ndef test_double():\n    assert double('\xff')\n",
        "tests/test_broken.py": "from one.core import double\n\ndef test_double(:\n    pass\n",
    })  # fmt: skip
    tasks, told, said = harvested(folder, "--all", code=1)
    assert [task.file for task in tasks.values()] == ["tests/test_bom.py", "tests/test_latin.py"]
    assert all(task.gold is not None and task.gold.passed for task in tasks.values())
    assert "zerorepo: tests/test_broken.py:3: " in said and "tests/test_wrong.py" in said
    assert [one["line"] for one in told["unparsed"]] == [3, 0]
    assert len(told["unparsed"]) == 2


BAD: dict[str, tuple[dict[str, str], list[str], str]] = {
    "no package": ({}, ["nowhere", "--tests", "tests"], "nowhere: no such folder"),
    "no tests folder": (ONE, [".", "--tests", "spec"], "spec: no such folder"),
    "tests elsewhere": (ONE, [".", "--tests", "/usr"], "expected a folder in . or beside it"),
    "no test files": ({**ONE, "tests/helper.py": ""}, [".", "--tests", "tests"], "no test file in it"),
    "no modules": ({"tests/test_a.py": "def test_a(): pass\n"}, [".", "--tests", "tests"], "no module of a package"),
    "nothing reached": ({**ONE, "tests/test_a.py": "def test_a(): pass\n"}, [".", "--tests", "tests"],
                        "of 1 tests none is left: 1 reaches nothing of the package"),
    "no tests": ({**ONE, "tests/test_a.py": "x = 1\n"}, [".", "--tests", "tests"], "no test in its test files"),
    "all passed over": ({**ONE, "tests/test_issue.py": "from one.core import double\ndef test_double(): assert double(1)\n"},
                        [".", "--tests", "tests"], "--all keeps them"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path) -> None:
    tree, words, said = BAD[name]
    laid(tmp_path, tree)
    done = subprocess.run(
        [COMMAND, "craft", "harvest", *words, "-o", "out.jsonl"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_no_other_interpreter(tmp_path: Path) -> None:
    folder = laid(tmp_path / "one", ONE, {"tests/test_a.py": "from one.core import double\ndef test_double(): assert double(1)\n"})  # fmt: skip
    done = harvest(folder, "--python", "/nowhere/python", code=3)
    assert "/nowhere/python" in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- killed


def test_killed_and_run_again(tmp_path: Path) -> None:
    """SIGKILL in the middle: the same command goes on with what the journal has, and the bytes are those of an unbroken run."""
    body = "import time\nfrom one.core import double\n" + "".join(
        f"class Test{at}:\n    def test_double(self):\n        time.sleep(0.4)\n        assert double({at}) == {2 * at}\n"
        for at in range(8)
    )
    folder = laid(tmp_path / "one", ONE, {"tests/test_core.py": body})
    whole = tmp_path / "whole.jsonl"
    harvest(folder, "-q", "--all", "--workers", "2", "-o", str(whole))
    broken = tmp_path / "broken.jsonl"
    journal = tmp_path / ".broken.jsonl.journal"
    command = [str(COMMAND), "craft", "harvest", str(folder), "--tests", str(folder / "tests"), "-q", "--all"]
    command += ["--workers", "2", "-o", str(broken)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while time.monotonic() < end and first.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 3:  # its head and two results
            break
        time.sleep(0.01)
    assert first.poll() is None, "it ended before it could be killed"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not broken.exists()
    lines = journal.read_bytes().splitlines()
    assert 3 <= len(lines) < 9
    # What is in the journal is taken as it is, which a mark in it shows.
    key, entry = json.loads(lines[1])
    entry["gold"]["reason"] = "from the journal"
    journal.write_bytes(b"\n".join([lines[0], json.dumps([key, entry]).encode(), *lines[2:]]) + b'\n["torn')
    subprocess.run(command, check=True)
    told = broken.read_bytes()
    assert told.count(b"from the journal") == 1
    assert told.replace(b',"reason":"from the journal"', b"") == whole.read_bytes()
    assert not journal.exists()


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("tests/test_a.py", "proj"),
        ("test_a.py", "proj"),
        ("pkg/tests/test_a.py", "pkg"),
        ("pkg/core/tests/test/test_a.py", "core"),
        ("tests/unit/test_a.py", "unit"),
        ("src/pkg/tests/deep/tests/test_a.py", "deep"),
    ],
)
def test_category(path: str, category: str) -> None:
    assert category_of(path, "proj") == category


@pytest.mark.parametrize(
    ("folder", "name"),
    [("boltons-26.2.0", "boltons"), ("scikit_learn-1.9.1", "scikit_learn"), ("x-2", "x-2"), ("a-v1.0rc1", "a"),
     ("requests", "requests"), ("py-2to3", "py-2to3")],
)  # fmt: skip
def test_project_name(folder: str, name: str) -> None:
    assert project_name(folder) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [("test_lru_copy", "lru copy"), ("TestCaseInsensitiveDict", "case insensitive dict"), ("FooTestCase", "foo"),
     ("test", ""), ("testTestServer", "server"), ("test_test_case", ""), ("TTLCacheTest", "ttl cache")],
)  # fmt: skip
def test_told_words(name: str, words: str) -> None:
    assert " ".join(told_words(name)) == words


word = st.text("ab", min_size=1, max_size=4)


@given(st.lists(word, min_size=1, max_size=3), st.lists(word, max_size=6))
def test_run_length_by_brute_force(name: list[str], words: list[str]) -> None:
    sought = "".join(name)
    there = any("".join(words[i:j]) == sought for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    counts = there and (len(sought) >= 3 or "".join(words) == sought)
    assert run_length("_".join(name), words) == (len(sought) if counts else 0)


CASES = [
    ("test_pickle", "", "", [], "pickling"),
    ("test_repr", "", "", ["__repr__"], "repr"),
    ("test_values", "TestPickle", "", [], "pickling"),
    ("test_values", "", "test_deprecated.py", [], "deprecation"),
    ("test_get_version", "", "", ["get_version"], ""),
    ("test_get_version", "", "", ["parse"], "version"),
    ("test_rsa_public_key", "", "", [], ""),
    ("test_public_api", "", "", [], "public api"),
    ("test_xs_doc_example", "", "", [], ""),
    ("test_docs", "", "", [], "documentation"),
    ("test_duck_typing_meta", "", "", [], ""),
    ("test_typing", "", "", [], "typing"),
    ("test_report_is_important", "", "", [], ""),
    ("test_deprecated_alias", "", "", ["warns_deprecated"], "deprecation"),
    ("test_no_warnings", "", "", [], "warning"),
    ("test_importing", "", "", [], "import"),
    ("test_benchmark_sums", "", "", [], "benchmark"),
]


@pytest.mark.parametrize(("name", "owner", "file", "reached", "reason"), CASES)
def test_no_algorithm(name: str, owner: str, file: str, reached: list[str], reason: str) -> None:
    assert no_algorithm(Case(name, owner, 1), f"tests/{file or 'test_it.py'}", reached) == reason


def test_what_most_tests_speak_of_is_no_reason() -> None:
    """A package about versions keeps the tests of them; fewer than FEWEST, or a small share, are not that."""
    package = Package({path: text.encode() for path, text in ONE.items()}, "one")

    def dropped(versions: int, others: int) -> int:
        names = [f"test_version_{at}" for at in range(versions)] + [f"test_other_{at}" for at in range(others)]
        text = "from one.core import double\n" + "".join(f"def {name}(): double(1)\n" for name in names)
        return len(grouped([TestFile("tests/test_it.py", text)], package, "one").dropped)

    assert dropped(FEWEST, 0) == 0
    assert dropped(FEWEST - 1, 0) == FEWEST - 1
    assert dropped(FEWEST, 9 * FEWEST) == FEWEST
    assert dropped(FEWEST, 9 * FEWEST - 1) == 0


def about(text: str, package: dict[str, str], case: str) -> str:
    held = Package({path: source.encode() for path, source in package.items()}, "p")
    found = grouped([TestFile("tests/test_it.py", text)], held, "p")
    return next(one.about for one in found.groups if any(each.id == case for each in one.cases))


KIN = {
    "p/__init__.py": "",
    "p/m.py": """
class Box:
    def update(self): pass
    def fill(self): pass
class Jar:
    def update(self): pass
    def seal(self): pass
class OddError(Exception): pass
def group_by(x): pass
def group(x): pass
def rare(x): pass
def common(x): pass
""",
}
ABOUT = [
    # The longest run; however it is cut into words.
    ("from p.m import *\ndef test_group_by_key(): group(1); group(2); group_by(3)\n", "test_group_by_key", "p.m.group_by"),
    ("from p.m import *\ndef test_groupby(): group(1); group_by(3)\n", "test_groupby", "p.m.group_by"),
    # A method by a value, of the class that the test is named after and not of another.
    ("from p.m import *\nx = Box(), Jar()\nclass TestJar:\n    def test_update(self): y = Jar(); y.update()\n",
     "TestJar::test_update", "p.m.Jar.update"),
    ("from p.m import *\nx = Box(), Jar()\nclass TestBox:\n    def test_update(self): y = Box(); y.update()\n",
     "TestBox::test_update", "p.m.Box.update"),
    # ... and not of another where its own class has it from elsewhere.
    ("from p.m import *\nx = Box(), Jar()\nclass TestJar:\n    def test_fill(self): y = Jar(); y.fill()\n",
     "TestJar::test_fill", "p.m.Jar"),
    # Not named: the class, not its method.
    ("from p.m import *\ndef test_it_all(): x = Box(); x.fill(); x.fill()\n", "test_it_all", "p.m.Box"),
    # By how often and how rare: `common` is in every test.
    ("from p.m import *\ndef test_1(): common(1)\ndef test_2(): common(1); common(2); rare(1)\ndef test_3(): common(1)\n"
     "def test_4(): common(1)\ndef test_5(): common(1)\ndef test_6(): common(1)\n", "test_2", "p.m.rare"),
    # What is expected is not what is tested.
    ("import pytest\nfrom p.m import *\ndef test_1(): rare(2)\ndef test_2():\n    with pytest.raises(OddError): rare(1)\n", "test_2", "p.m.rare"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "case", "name"), ABOUT)
def test_about(text: str, case: str, name: str) -> None:
    assert about(text, KIN, case) == name


def test_ids_differ() -> None:
    """Two files of one stem and category, two interfaces of one name."""
    package = Package({path: text.encode() for path, text in {
        "p/__init__.py": "", "p/a.py": "def run(): pass\n", "p/b.py": "def run(): pass\n",
    }.items()}, "p")  # fmt: skip
    text = "import p.a, p.b\ndef test_run(): p.a.run()\ndef test_other(): p.b.run()\n"
    files = [TestFile(path, text) for path in ("x/unit/test_it.py", "y/unit/test_it.py")]
    found = grouped(files, package, "p").groups
    assert sorted(ids_of(found, package, "p")) == [
        "p/x/unit/test_it/functions/p.a.run", "p/x/unit/test_it/functions/p.b.run",
        "p/y/unit/test_it/functions/p.a.run", "p/y/unit/test_it/functions/p.b.run",
    ]  # fmt: skip
    assert sorted(ids_of([one for one in found if one.file.startswith("x")], package, "p")) == [
        "p/unit/it/functions/p.a.run", "p/unit/it/functions/p.b.run",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("doc", "text"),
    [
        ("Return :class:`~a.b.LruCache` of ``some_name``.", "Return a b lru cache of some name."),
        ("Make it::", "Make it"),
        ("Add two numbers. >>> add(1, 2) 3", "Add two numbers."),
        ("See `the docs <http://x.y/z>`_ on HTTP and e.g. JSON.", "See the docs on HTTP and e.g. JSON."),
        ("Call frob() now", "Call frob now"),
        (" ".join(["word"] * 61), " ".join(["word"] * 60) + " ..."),
    ],
)
def test_in_words(doc: str, text: str) -> None:
    assert re.sub(r"_\b", "", in_words(doc)).replace("  ", " ") == text


def test_described_of_little() -> None:
    """No docstring, and a test that is called like what it tests."""
    package = Package({"p/__init__.py": b"", "p/m.py": b"def go_far(x): pass\n"}, "p")
    file = TestFile("tests/test_m.py", "from p.m import go_far\ndef test_go_far(): go_far(1)\n")
    (group,) = grouped([file], package, "p").groups
    (told,) = (one for one in interfaces({file.path: file.source}, package, {group.about}) if one.tested)
    assert described(group, told, package) == (
        "A function for go far, of m.",
        "Find what does this, and run its test: what goes by go far.",
    )


def test_source_of() -> None:
    assert source_of(b"# coding: cp1252\nx = '\x80'\n") == "# coding: utf-8\nx = '€'\n"
    assert source_of("\ufeffx = 1\n".encode()) == "x = 1\n"
    with pytest.raises(ValueError, match="encoding"):
        source_of(b"x = '\xff'\n")


def test_leaving() -> None:
    text = """
STATE, OTHER = 1, 2
X = 1
class TestA:
    def test_1(self): TestA.a = 1
    def test_2(self): type(self).b += 1
    def test_3(self): self.c = 1
    def test_4(self): TestB.d = 1
def test_5():
    global X, NEW
    X = 1
"""
    assert leaving(TestFile("test_a.py", text)) == {"TestA::test_1": {"a"}, "TestA::test_2": {"b"}, "test_5": {"X"}}
