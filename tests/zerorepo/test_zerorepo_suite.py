"""Test files cut down to some of their tests: pytest itself says that each still does what it did; and what of a package
a test names, against lists made by hand."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerorepo.craft import suite
from zerorepo.craft.beside import support_of
from zerorepo.craft.package import Package
from zerorepo.craft.references import References, interfaces, with_absolute
from zerorepo.craft.suite import TestFile
from zerorepo.craft.syntax import parsed

SUITE = '''"""A suite with everything in it."""
from __future__ import annotations

import json, math
import os.path
from collections import Counter, OrderedDict as Ordered
from unittest import TestCase, mock

import pytest

if math.pi > 3:
    BIG = 100
else:
    BIG = 1

try:
    from nowhere_at_all import thing
except ImportError:
    thing = None

TABLE = {}
TABLE["a"] = 1
for _name in "bc":
    TABLE[_name] = len(TABLE) + 1
UNUSED = object()
A, (B, *C) = 1, (2, 3, 4)
CASES = [(1, 2), (2, 4)]
SEEN = []


def double(x):
    return helper(x) * 2


def helper(x):
    return x


@pytest.fixture
def number():
    return 21


@pytest.fixture(name="letters")
def _letters():
    return "xyz"


@pytest.fixture(autouse=True)
def watched():
    SEEN.append(1)
    yield


@pytest.fixture
def test_looks_like_one():
    return 3


def setup_module():
    TABLE["set"] = 9


@pytest.mark.parametrize(("one", "two"), CASES)
def test_table(one, two):
    assert double(one) == two and TABLE["b"] == 2 and TABLE["set"] == 9


def test_fixture(number, test_looks_like_one):
    assert number == 21 and SEEN and test_looks_like_one == 3


@pytest.mark.usefixtures("letters")
def test_by_name(request):
    assert request.getfixturevalue("letters") == "xyz"


def test_modules():
    assert os.path.join("a", "b") and json.loads("1") == 1 and thing is None and BIG == 100


class Base:
    """Not collected."""

    factor = 2

    def times(self, x):
        return x * self.factor


class TestTimes(Base):
    factor = 3

    def setup_method(self):
        self.counter = Counter("aab")

    def test_times(self):
        assert self.times(2) == 6

    def test_counter(self):
        assert self.counter["a"] == 2

    def test_calls_another(self):
        self.test_times()
        assert Ordered(a=1)["a"] == A


class Plain(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kept = B

    def test_kept(self):
        self.assertEqual(self.kept, 2)

    def test_patched(self):
        with mock.patch("json.loads", return_value=5):
            self.assertEqual(json.loads("1"), 5)

    def test_wrong(self):
        self.assertEqual(C, [1])


class Deeper(Plain):
    def test_more(self):
        assert self.kept == 2


class TestNotOne:
    def __init__(self):
        pass

    def test_never(self):
        assert False


def test_twice():
    assert False


def test_twice():
    assert True


if __name__ == "__main__":
    raise SystemExit(pytest.main())
'''
IDS = [
    "test_table", "test_fixture", "test_by_name", "test_modules", "TestTimes::test_times", "TestTimes::test_counter",
    "TestTimes::test_calls_another", "Plain::test_kept", "Plain::test_patched", "Plain::test_wrong", "Deeper::test_more",
    "test_twice",
]  # fmt: skip


def outcomes(folder: Path, files: Mapping[str, str], asked: list[str]) -> dict[str, list[str]]:
    """What pytest says of tests: `file::case` to the sorted outcomes of its entries."""
    for name, text in files.items():
        (folder / name).write_text(text)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={folder}"]
    done = subprocess.run(
        [*words, "--junitxml=report.xml", *asked], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-1000:]
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(folder / "report.xml").getroot().iter("testcase"):
        file, _, owner = str(case.get("classname")).partition(".")
        name = str(case.get("name")).partition("[")[0]
        marks = sorted(child.tag for child in case if child.tag in ("failure", "error", "skipped"))
        found.setdefault(f"{file}.py::{owner}::{name}" if owner else f"{file}.py::{name}", []).append(
            " ".join(marks) or "held"
        )
    return {name: sorted(entries) for name, entries in found.items()}


def test_the_tests_of_a_file_are_those_that_pytest_collects(tmp_path: Path) -> None:
    (tmp_path / "test_all.py").write_text(SUITE)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "test_all.py",
    ]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout
    listed = [line.partition("::")[2].partition("[")[0] for line in told.splitlines() if "::" in line]
    inherited = {"Deeper::test_kept", "Deeper::test_patched", "Deeper::test_wrong"}
    assert [case.id for case in TestFile("test_all.py", SUITE).cases] == IDS
    assert sorted(dict.fromkeys(listed)) == sorted({*IDS, *inherited})


def test_each_test_alone_does_what_it_did(tmp_path: Path) -> None:
    file = TestFile("test_all.py", SUITE)
    files = {"test_all.py": SUITE} | {f"test_{at}.py": file.pruned([one]) for at, one in enumerate(IDS)}
    before = outcomes(tmp_path, files, [f"test_all.py::{one}" for one in IDS])
    after = outcomes(tmp_path, files, [f"test_{at}.py::{one}" for at, one in enumerate(IDS)])
    assert before["test_all.py::Plain::test_wrong"] == ["failure"] and before["test_all.py::test_table"] == ["held"] * 2
    for at, one in enumerate(IDS):
        assert after[f"test_{at}.py::{one}"] == before[f"test_all.py::{one}"], files[f"test_{at}.py"]


def test_what_is_not_needed_is_left_out() -> None:
    text = TestFile("test_all.py", SUITE).pruned(["test_fixture"])
    for gone in ("UNUSED", "TestTimes", "Plain", "letters", "double", "json", "__main__", "test_table", "parametrize"):
        assert gone not in text, text
    assert "from __future__ import annotations" in text and "SEEN.append(1)" in text
    other = TestFile("test_all.py", SUITE).pruned(["TestTimes::test_counter"])
    assert "def test_times" not in other and "def times" in other and "from collections import Counter\n" in other


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(IDS), min_size=1))
def test_a_cut_down_file_holds_what_was_asked_for_and_cuts_to_itself(ids: set[str]) -> None:
    text = TestFile("test_all.py", SUITE).pruned(ids)
    again = TestFile("test_all.py", text)
    assert {case.id for case in again.cases} >= ids
    assert {case.id for case in again.cases} <= ids | {"TestTimes::test_times", "Plain::test_kept"}
    assert again.pruned(ids) == text


def test_settings_of_other_modules_are_kept() -> None:
    """`random.seed(0)` holds for what a test calls, whether or not it names random."""
    source = "import random\nimport warnings\nimport sys\nfrom oak import f\n\nwarnings.simplefilter('error')\nrandom.seed(3)\n\ndef test_f():\n    assert f()\n\ndef test_g():\n    sys.exit()\n"
    text = TestFile("test_all.py", source).pruned(["test_f"])
    assert "warnings.simplefilter('error')" in text and "random.seed(3)" in text and "sys" not in text
    compile(text, "test_all.py", "exec")


def test_a_helper_that_is_no_python_comes_as_it_is() -> None:
    files = {"oak/__init__.py": "def f():\n    return 1\n", "tests/__init__.py": "", "tests/old.py": "print 'x'\n"}
    source = "from oak import f\ntry:\n    from . import old\nexcept SyntaxError:\n    old = None\n\ndef test_f():\n    assert f() and old is None\n"
    package = Package({path: text.encode() for path, text in files.items()})
    told = {one.path: one.text for one in support_of("tests/test_f.py", source, package)}
    assert told["tests/old.py"] == "print 'x'\n"


def test_two_relative_imports_on_a_line(oak: Package) -> None:
    told = with_absolute("from .. import core as c; from ..core import Leaf; x = 1\n", "oak/tests/test_core.py", oak)
    assert told == "from oak import core as c; from oak.core import Leaf; x = 1\n"


def test_coroutines_that_pytest_does_not_run_by_itself() -> None:
    text = "import unittest\nasync def test_a(): pass\ndef test_b(): pass\nclass TestC:\n    async def test_c(self): pass\n"
    text += "class D(unittest.IsolatedAsyncioTestCase):\n    async def test_d(self): pass\n"
    file = TestFile("test_all.py", text)
    assert [case.id for case in file.cases if file.needs_plugin(case)] == ["test_a", "TestC::test_c"]


def test_statements_that_share_a_line_come_apart() -> None:
    file = TestFile(
        "test_all.py", "import json; X = 1; Y = 2\nZ = 3\ndef test_a():\n    assert X\ndef test_b():\n    assert Z\n"
    )
    assert file.pruned(["test_a"]) == "X = 1\n\n\ndef test_a():\n    assert X\n"
    assert file.pruned(["test_b"]) == "Z = 3\n\n\ndef test_b():\n    assert Z\n"


def test_a_large_file_is_cut_in_time_that_grows_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work, not seconds: how often a line's number is looked up for one cut."""

    def looked(count: int) -> int:
        file = TestFile("test_all.py", "".join(f"def test_{at}():\n    assert {at} == {at}\n" for at in range(count)))
        seen: list[int] = []
        original = suite.first_line

        def counted(one: ast.stmt) -> int:
            seen.append(1)
            return original(one)

        monkeypatch.setattr(suite, "first_line", counted)
        file.pruned([case.id for case in file.cases])
        monkeypatch.setattr(suite, "first_line", original)
        return len(seen)

    assert looked(400) < 2.5 * looked(200)


def test_a_test_that_is_not_there_and_a_file_that_is_no_python() -> None:
    with pytest.raises(KeyError):
        TestFile("test_all.py", SUITE).pruned(["test_nothing"])
    with pytest.raises(ValueError, match="line 1"):
        TestFile("test_bad.py", "def test_(:\n")


# ------------------------------------------------------------ a package and its tests

FILES = {
    "oak/__init__.py": "from oak.core import grow\nfrom .deep.util import *\n",
    "oak/core.py": 'import json\nfrom typing import Generic, TypeVar\nT = TypeVar("T")\nLIMIT = 5\n\ndef grow(x: int, by=1) -> int:\n    """Grow X."""\n    return x + by\n\nclass Leaf(Generic[T]):\n    """A leaf."""\n    def turn(self):\n        return 1\n    def fall(self):\n        return 2\n\nclass Twig(Leaf[int]):\n    pass\n',
    "oak/deep/__init__.py": "",
    "oak/deep/util.py": "__all__ = ['trim']\n\ndef trim(x):\n    return x\n\ndef hidden(x):\n    return x\n",
    "oak/tests/__init__.py": "",
    "oak/tests/helping.py": "from ..core import Leaf\n\ndef made():\n    return Leaf()\n\ndef other():\n    return 1\n",
    "oak/tests/conftest.py": "import pytest\nfrom oak.core import Leaf\n\n@pytest.fixture\ndef leaf():\n    return Leaf()\n\n@pytest.fixture\ndef unused(leaf):\n    return leaf\n",
    "oak/tests/test_core.py": (
        "from unittest import mock\nimport oak\nfrom .. import core as c\nfrom ..core import LIMIT, Leaf as L\nfrom oak import *\nfrom .helping import made\n\n"
        "def test_grow():\n    assert oak.grow(1) == c.grow(1) == 2 and LIMIT == 5\n\n"
        "def test_leaf(leaf):\n    assert leaf.turn() == made().turn() == L().turn() and trim(1) == 1\n\n"
        "def test_patched():\n    with mock.patch('oak.core.grow'):\n        oak.deep.util.hidden(1)\n\n"
        "def test_nothing():\n    assert 1\n"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def oak() -> Package:
    return Package({path: text.encode() for path, text in FILES.items()}, "oak")


def test_what_names_stand_for(oak: Package) -> None:
    for written, name, kind in (
        ("oak.grow", "oak.core.grow", "function"),
        ("oak.trim", "oak.deep.util.trim", "function"),
        ("oak.core.Leaf.turn", "oak.core.Leaf.turn", "method"),
        ("oak.core.LIMIT", "oak.core.LIMIT", "variable"),
        ("oak.deep.util", "oak.deep.util", "module"),
        ("oak", "oak", "module"),
        ("oak.core.json", "oak.core.json", "variable"),  # imported there from elsewhere
        ("oak.core.Twig.turn", "oak.core.Leaf.turn", "method"),  # of a base with a parameter
    ):
        found = oak.meaning(written)
        assert found is not None and (found.name, found.kind) == (name, kind)
    for nothing in (
        "oak.hidden",
        "oak.core.nothing",
        "oak.core.Leaf.nothing",
        "oak.core.grow.x",
        "elsewhere",
        "json.loads",
    ):
        assert oak.meaning(nothing) is None
    assert oak.top == ["oak"] and oak.roots == ("",) and oak.public("oak") == ["grow", "trim"]
    assert set(oak.beside_tests()) == {path for path in FILES if "/tests/" not in path}


def test_what_a_test_names_itself_and_through_others(oak: Package) -> None:
    file = TestFile("oak/tests/test_core.py", FILES["oak/tests/test_core.py"])
    assert set(file.reached("test_grow", oak)) >= {"oak.core.grow", "oak.core.LIMIT"}
    assert file.reached("test_grow", oak)["oak.core.grow"] == 2
    assert set(file.reached("test_leaf", oak)) == {"oak.core.Leaf", "oak.core.Leaf.turn", "oak.deep.util.trim"}
    assert {"oak.core.grow", "oak.deep.util.hidden"} <= set(file.reached("test_patched", oak))
    assert not file.reached("test_nothing", oak)


def test_interfaces_have_every_way_they_are_written(oak: Package) -> None:
    found = {
        one.name: one
        for one in interfaces({"oak/tests/test_core.py": FILES["oak/tests/test_core.py"]}, oak, {"oak.core.grow"})
    }
    assert found["oak.core.grow"].written == ["oak.core.grow", "oak.grow"] and found["oak.core.grow"].tested
    assert found["oak.core.grow"].signature == "def grow(x: int, by=1) -> int"
    assert found["oak.core.grow"].doc == "Grow X." and not found["oak.core.Leaf"].tested
    assert found["oak.core.Leaf.turn"].kind == "method" and found["oak.core.Leaf.turn"].written == []
    assert "oak.core.Leaf.fall" not in found and found["oak"].kind == "module"


def test_methods_of_values_whose_class_is_not_named_are_interfaces_where_few_have_the_name(oak: Package) -> None:
    text = "import oak\n\ndef test_it():\n    oak.grow(1).turn().nothing()\n    [].append(1)\n"
    found = {one.name: one for one in interfaces({"oak/tests/test_x.py": text}, oak, {"oak.core.grow"})}
    assert set(found) == {"oak", "oak.core.grow", "oak.core.Leaf.turn"}
    assert found["oak.core.Leaf.turn"].kind == "method" and not found["oak.core.Leaf.turn"].written


def test_support_is_cut_down_to_what_is_needed(oak: Package) -> None:
    path = "oak/tests/test_core.py"
    told = {
        one.path: one.data.decode() for one in support_of(path, TestFile(path, FILES[path]).pruned(["test_leaf"]), oak)
    }
    assert set(told) == {"oak/tests/__init__.py", "oak/tests/helping.py", "oak/tests/conftest.py"}
    assert "def made" in told["oak/tests/helping.py"] and "other" not in told["oak/tests/helping.py"]
    assert "def leaf" in told["oak/tests/conftest.py"] and "unused" not in told["oak/tests/conftest.py"]
    alone = {one.path for one in support_of(path, TestFile(path, FILES[path]).pruned(["test_grow"]), oak)}
    assert alone == {"oak/tests/__init__.py"}


def test_relative_imports_of_the_package_become_absolute_and_the_suites_own_stay(oak: Package) -> None:
    path = "oak/tests/test_core.py"
    text = with_absolute(FILES[path], path, oak)
    assert "from oak import core as c\n" in text and "from oak.core import LIMIT, Leaf as L\n" in text
    assert "from .helping import made\n" in text
    names = {use.meaning.name for use in References(parsed(text), path, oak).uses}
    assert names == {use.meaning.name for use in References(parsed(FILES[path]), path, oak).uses}
