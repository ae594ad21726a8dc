"""craft harvest on stubs: what passes on them is no task, and what is stubbed for that."""

from pathlib import Path

from zerorepo_harvests import ONE, harvest, harvested, laid, tasks_of

from zerorepo.craft.harvest import DATA_FILE


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
