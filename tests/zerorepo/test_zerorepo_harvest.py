"""craft harvest on small packages written here: which tasks come of their suites, by hand; each on the package and on stubs of
it; data files, order of tests, odd encodings, a kill in the middle, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from zerorepo_harvests import COMMAND, ONE, harvest, harvested, laid, tasks_of

from tenfold_shared.sandbox import Limits
from zerorepo.craft.grouping import (
    Dropped,
    grouped,
)
from zerorepo.craft.harvest import is_test_file
from zerorepo.craft.package import Package
from zerorepo.craft.suite import TestFile
from zerorepo.craft.tasks import Task
from zerorepo.generation.verdict import Verdict, judge, outcome_of

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
