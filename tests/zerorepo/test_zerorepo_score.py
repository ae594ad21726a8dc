"""`zerorepo craft score` through its command: repositories whose score is known, hostile ones, kills, bad input, a model.

Long because it is one verb on repositories that are built once and spoiled in many ways.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Reply, ScriptedServer, chat

from tenfold_shared.sandbox import Limits
from zerorepo.craft.package import Package
from zerorepo.craft.running import laid_out, run_case, run_checked, without_bodies
from zerorepo.craft.tasks import Task
from zerorepo.generation.skeleton import stubs_of

COMMAND = Path(sys.executable).parent / "zerorepo"
CODE = {
    "oak/__init__.py": '"""Trees."""\nfrom oak.rings import count_rings\n',
    "oak/rings.py": '''"""Rings of a trunk."""


def count_rings(widths, least=1):
    """Count the rings of a trunk that are at least so wide."""
    found = 0
    for width in widths:
        if width >= least:
            found = found + 1
    return found


def age_of(widths, planted=0):
    """The year in which a trunk was felled, from its rings and the year it was planted."""
    return planted + count_rings(widths)
''',
    "oak/leaves.py": '''"""Leaves and where they fall."""


class Pile:
    """A pile of leaves that is raked together."""

    def __init__(self, leaves=()):
        self.leaves = list(leaves)

    def rake(self, more):
        """Add leaves to the pile."""
        self.leaves = self.leaves + list(more)
        return len(self.leaves)

    def heaviest(self):
        """The leaf that weighs most; None of an empty pile."""
        best = None
        for leaf in self.leaves:
            if best is None or leaf > best:
                best = leaf
        return best
''',
}  # fmt: skip
TESTS = {
    "tests/test_rings.py": '''import pytest
from unittest import mock

import oak
from oak.rings import age_of


@pytest.mark.parametrize(("widths", "expected"), [([], 0), ([1, 2], 2), ([0, 3], 1)])
def test_count_rings(widths, expected):
    assert oak.count_rings(widths) == expected


def test_count_rings_least():
    assert oak.count_rings([1, 2, 3], least=2) == 2


def test_age_of():
    assert age_of([1, 1, 1], planted=1900) == 1903
    with mock.patch("oak.rings.count_rings", return_value=5):
        assert age_of([]) == 5
''',
    "tests/test_leaves.py": '''from oak import leaves


class TestPile:
    def setup_method(self):
        self.pile = leaves.Pile([1, 5])

    def test_rake(self):
        assert self.pile.rake([7, 2]) == 4

    def test_heaviest(self):
        assert self.pile.heaviest() == 5
        assert leaves.Pile().heaviest() is None
''',
}  # fmt: skip


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def zerorepo(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120, **more)


def scored(repository: Path, tasks: Path, *words: object) -> dict[str, Any]:
    done = zerorepo("craft", "score", repository, "--task-file", tasks, "--embeddings", "tfidf", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="session")
def harvest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the real package, its tasks)."""
    folder = tmp_path_factory.mktemp("oak")
    write(folder / "real", {**CODE, **TESTS})
    done = zerorepo(
        "craft", "harvest", folder / "real", "--tests", folder / "real" / "tests", "-o", folder / "tasks.jsonl", "-q"
    )
    assert done.returncode == 0, done.stderr
    return folder / "real", folder / "tasks.jsonl"


# ------------------------------------------------------------ known worth


def test_the_real_package_passes_its_own_tasks(harvest: tuple[Path, Path]) -> None:
    real, tasks = harvest
    found = scored(real, tasks, "--gold", real)
    assert found["tasks"] == 4 == len(tasks.read_text().splitlines())
    assert (
        found["pass_rate"] == found["voting_rate"] == 1.0 == found["gold"]["pass_rate"] == found["gold"]["voting_rate"]
    )
    assert found["gold"]["measured"] == "now" and found["gold"]["coverage"] == found["coverage"] == 1.0
    assert found["files"] == 2 and found["loc"] == 20 and found["tokens"] > 100 and 0 <= found["novelty"] < 0.5
    assert {one["result"] for one in found["results"]} == {"passed"} and all(one["gold"] for one in found["results"])
    assert scored(real, tasks)["gold"]["measured"] == "harvest"


def test_stubs_pass_nothing_and_win_no_vote(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    found = scored(write(tmp_path / "stubs", {name: stubs_of(text) for name, text in CODE.items()}), harvest[1])
    assert found["pass_rate"] == found["voting_rate"] == 0.0 and found["gold"]["pass_rate"] == 1.0


MUTANTS = {
    ">= to >": ("oak/rings.py", "width >= least", "width > least", {"count_rings"}),
    "+ to -": ("oak/rings.py", "planted + count", "planted - count", {"age_of"}),
    "> to <": ("oak/leaves.py", "leaf > best", "leaf < best", {"Pile.heaviest", "Pile"}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_one_operator_changed_lies_strictly_between(name: str, harvest: tuple[Path, Path], tmp_path: Path) -> None:
    path, old, new, broken = MUTANTS[name]
    assert CODE[path].count(old) == 1
    found = scored(write(tmp_path / "mutant", {**CODE, path: CODE[path].replace(old, new)}), harvest[1])
    assert 0 < found["pass_rate"] < 1 and found["voting_rate"] == 1.0
    failed = {one["id"].rpartition("/")[2] for one in found["results"] if not one["passed"]}
    assert failed and failed & broken, failed


RENAMED = {
    "elm/__init__.py": '"""Trees."""\n',
    "elm/trunk.py": CODE["oak/rings.py"].replace("count_rings", "tally_circles").replace("age_of", "felled_in"),
    "elm/foliage.py": CODE["oak/leaves.py"].replace("class Pile", "class Heap").replace("def rake", "def gather").replace("def heaviest", "def weightiest"),
}  # fmt: skip
NAMES = {
    "oak.rings": "elm.trunk", "oak.rings.count_rings": "elm.trunk.tally_circles", "oak.rings.age_of": "elm.trunk.felled_in",
    "oak.leaves": "elm.foliage", "oak.leaves.Pile": "elm.foliage.Heap", "oak.leaves.Pile.rake": "elm.foliage.Heap.gather",
    "oak.leaves.Pile.heaviest": "elm.foliage.Heap.weightiest", "oak": "elm",
}  # fmt: skip


def test_other_names_are_found_by_map_and_without(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    elm = write(tmp_path / "elm", RENAMED)
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    with_map = scored(elm, harvest[1], "--rename", tmp_path / "names.json")
    assert with_map["pass_rate"] == 1.0, with_map["results"]
    assert {how for one in with_map["results"] for how in one["how"].values()} == {"renamed"}
    alone = scored(elm, harvest[1])
    assert alone["pass_rate"] >= 0.75, alone["results"]  # found by what docstrings and signatures say
    assert all(
        NAMES[old] == new
        for one in alone["results"]
        for old, new in one["located"].items()
        if one["passed"] and old in NAMES
    )


def test_a_repository_without_any_of_it(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(
        tmp_path / "other",
        {"pay/rolls.py": 'def net_salary(gross):\n    """Wage after tax."""\n    return gross * 0.6\n'},
    )
    found = scored(other, harvest[1])
    assert found["pass_rate"] == 0.0 and {one["result"] for one in found["results"]} <= {"not located", "not voted"}


def test_the_real_package_does_not_answer_in_the_repositorys_place() -> None:
    """msgspec is installed where tests run; a repository that has none of it must not pass by it."""
    task = Task(
        id="x", category="c", file="tests/test_x.py", module="functions", cap="x", functions=["test_x"], alg_description="",
        query_code="import msgspec\n\n\ndef test_x():\n    assert msgspec.json.decode(b'1') == 1\n", task_query="", project="msgspec",
        cases=["test_x"], top=["msgspec"], interfaces=[],
    )  # fmt: skip
    told: dict[str, Any] = {"limits": Limits(wall_s=20), "python": sys.executable, "unsafe": False, "roots": [""]}
    verdict, _ = run_case({"pay.py": b"x = 1\n"}, task, task.query_code, [], **told)
    assert verdict.result == "error" and "msgspec is not in the repository" in verdict.detail
    own = Package({"msgspec/__init__.py": b"class json:\n    decode = int\n"})
    assert run_case(own.beside_tests(), task, task.query_code, [], **told)[0].result == "passed"
    # A folder without __init__.py gives way to an installed package: it must not.
    for place, roots in (("msgspec", [""]), ("src/msgspec", ["", "src"])):
        beside = {f"{place}/json.py": b"def decode(text):\n    return 7\n"}
        source = task.query_code.replace("import msgspec", "import msgspec.json")
        verdict, _ = run_case(beside, task, source, [], **{**told, "roots": roots})
        assert verdict.result == "failed" and "assert 7 == 1" in verdict.detail
        source = source.replace("== 1", "== 7")
        assert run_case(beside, task, source, [], **{**told, "roots": roots})[0].result == "passed"


FORGED = b"""import os
open(".zerorepo-junit.xml", "w").write('''<testsuites><testsuite name="p" errors="0" failures="1" skipped="0" tests="2">
<testcase classname="tests.test_x" name="test_x"/><testcase classname="zerorepo_sentinel" name="test_sentinel"><failure/>
</testcase></testsuite></testsuites>''')
os._exit(1)
"""


@pytest.mark.parametrize(
    "name", ["pytest.py", "pytest/__main__.py", "sitecustomize.py", "_pytest/__init__.py", "pluggy.py"]
)
def test_a_repository_is_not_in_pytests_place(name: str) -> None:
    task = Task(
        id="x", category="c", file="tests/test_x.py", module="functions", cap="x", functions=["test_x"], alg_description="",
        query_code="import oak\n\n\ndef test_x():\n    assert oak.f() == 1\n", task_query="", project="oak", cases=["test_x"],
        top=["oak"], interfaces=[],
    )  # fmt: skip
    files = {"oak.py": b"def f():\n    return 2\n", name: FORGED, f"src/{name}": FORGED}
    told: dict[str, Any] = {
        "limits": Limits(wall_s=20),
        "python": sys.executable,
        "unsafe": False,
        "roots": ["", "src"],
    }
    verdict, _ = run_case(files, task, task.query_code, [], **told)
    assert verdict.result == "failed" and "assert 2 == 1" in verdict.detail
    with_own = Task(**{**{field: getattr(task, field) for field in task.__struct_fields__}, "top": ["pluggy"]})
    assert "pluggy.py" in laid_out({"pluggy.py": b""}, with_own, "", [])  # a package of that name may be what is tested


@pytest.mark.parametrize("word", ["import unittest\n    raise unittest.SkipTest", "import pytest\n    pytest.xfail()"])
def test_what_skips_instead_of_working_is_not_passed(word: str, harvest: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside a test that passes, one that does not run would be passed with it."""
    text = CODE["oak/rings.py"].replace("    found = 0\n", "    if least != 1:\n        _todo()\n    found = 0\n")
    text += f"\n\ndef _todo():\n    {word}\n"
    found = scored(write(tmp_path / "lazy", {**CODE, "oak/rings.py": text}), harvest[1])
    by_cap = {one["id"].rpartition("/")[2]: one for one in found["results"]}
    assert by_cap["count_rings"]["result"] == "skipped" and not by_cap["count_rings"]["passed"]
    assert "1 of its tests were skipped, of the real package 0" in by_cap["count_rings"]["reason"]
    assert sum(one["passed"] for one in found["results"]) == 3


def test_stubs_of_what_has_no_body_of_its_own() -> None:
    """Of a class also its bases' methods, of a name every definition; a variable's value may be made by any function."""
    package = Package({"elm/__init__.py": b"""from functools import partial

def _add(a, b):
    return a + b

inc = partial(_add, 1)

class Plant:
    def grow(self):
        return 1

class Tree(Plant):
    pass

if inc:
    def trim(x):
        return 1
else:
    def trim(x):
        return 2
"""})  # fmt: skip

    def bodies(*names: str) -> set[str]:
        text = without_bodies(package, names)["elm/__init__.py"].decode()
        return {line.strip() for line in text.splitlines() if line.strip().startswith("return")}

    everything = {"return a + b", "return 1", "return 2"}
    assert bodies("elm.inc") == set() == bodies("elm.nothing")
    assert bodies("elm.Tree") == everything  # trim's stays
    assert "return a + b" in bodies("elm.trim") and "return 2" not in bodies("elm.trim")
    assert without_bodies(package, ["elm.Tree"])["elm/__init__.py"].count(b"NotImplementedError") == 1
    assert without_bodies(package, ["elm.trim"])["elm/__init__.py"].count(b"NotImplementedError") == 2


# ------------------------------------------------------------ hostile repositories

# A report in which all that pytest was asked for held, and the last test, whatever it is called, did not.
REPORTS = """names = [name[:-3].replace('/', '.') + '::' + case for name, _, case in (one.partition('::') for one in sys.argv if '::' in one)]
names = [name.replace('::', '.').rpartition('.') for name in names]
cases = ['<testcase classname="%s" name="%s"' % (name[0], name[2]) for name in names]
text = '/>'.join(cases) + '><failure message="x">x</failure></testcase>'
open('.zerorepo-junit.xml', 'w').write('<testsuites><testsuite tests="%d" failures="1" errors="0" skipped="0">%s</testsuite></testsuites>' % (len(cases), text))
"""

HOSTILE = {
    "writes": "import pathlib\nfor place in ({canary!r}, '/usr', '/etc'):\n    try:\n        pathlib.Path(place, 'new').write_text('x')\n    except OSError:\n        pass\n",
    "deletes": "import shutil\nshutil.rmtree({canary!r}, ignore_errors=True)\n",
    "reads": "SECRET = open({canary!r} + '/secret').read()\n",
    "connects": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).send(b'x')\n",
    "leaves early": "import os\nos._exit(0)\n",
    "hangs": "while True:\n    pass\n",
    "makes all pass": "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n",
    "never fails": "import _pytest.reports as r\nold = r.TestReport.from_item_and_call.__func__\ndef told(c, i, call):\n    found = old(c, i, call)\n    found.outcome, found.longrepr = 'passed', None\n    return found\nr.TestReport.from_item_and_call = classmethod(told)\n",
    "spares the last": "import _pytest.python as p\nold = p.Function.runtest\np.Function.runtest = lambda self: old(self) if 'sentinel' in self.nodeid else None\n",
    "swallows": "import _pytest.runner as r\nold = r.CallInfo.from_call.__func__\ndef told(c, *words, **more):\n    found = old(c, *words, **more)\n    if 'sentinel' not in str(found.excinfo and found.excinfo.getrepr()):\n        found.excinfo = None\n    return found\nr.CallInfo.from_call = classmethod(told)\n",
    "reports itself": "import os, sys\n" + REPORTS + "os._exit(1)\n",
    "reports at the end": "import atexit, sys\ndef end():\n    "
    + REPORTS.replace("\n", "\n    ")
    + "pass\natexit.register(end)\n",
    "reports others": "import os, sys\n"
    + REPORTS.replace("name[2])", "'test_other' if name is not names[-1] else name[2])")
    + "os._exit(1)\n",
    "is pytest": "",
    "brings a conftest": "",
}
BENDING = (
    "makes all pass",
    "never fails",
    "spares the last",
    "swallows",
    "reports itself",
    "reports at the end",
    "reports others",
)
CONFTEST = "import pytest\n\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n"


@pytest.mark.parametrize("harm", sorted(HOSTILE))
def test_a_hostile_repository_stays_in_the_sandbox_and_passes_nothing(
    harm: str, harvest: tuple[Path, Path], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("42")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        text = HOSTILE[harm].format(canary=str(canary), port=listening.getsockname()[1])
        wrong = {
            name: code.replace("return ", "return 0 and ") for name, code in CODE.items()
        }  # its answers are wrong, too
        files = {**wrong, "oak/__init__.py": text + CODE["oak/__init__.py"]}
        if harm == "is pytest":
            files["pytest.py"] = files["_pytest.py"] = files["sitecustomize.py"] = HOSTILE["reports itself"]
        if harm == "brings a conftest":
            files |= dict.fromkeys(("conftest.py", "oak/conftest.py", "tests/conftest.py"), CONFTEST)
            files["pytest.ini"] = "[pytest]\naddopts = -p no:python\n"
        found = scored(write(tmp_path / "hostile", files), harvest[1], "--test-time", "4s")
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert found["pass_rate"] == 0.0, found["results"]
    assert [path.name for path in canary.iterdir()] == ["secret"] and (canary / "secret").read_text() == "42"
    if harm in BENDING:
        assert all("how tests are judged" in one["reason"] for one in found["results"])


def small(source: str, cases: list[str], top: str = "pay", file: str = "tests/test_x.py") -> Task:
    return Task(
        id="x", category="c", file=file, module="functions", cap="x", functions=cases, alg_description="", query_code=source,
        task_query="", project=top, cases=cases, top=[top], interfaces=[],
    )  # fmt: skip


CHECKED: dict[str, Any] = {"limits": Limits(wall_s=20), "python": sys.executable, "unsafe": False, "roots": [""]}
ALWAYS = b"class Same:\n    __eq__ = lambda self, other: True\n    __ne__ = lambda self, other: False\n\n\ndef twice(x):\n    return Same()\n"


@pytest.mark.parametrize(
    ("source", "case"),
    [
        ("from pay import twice\n\n\ndef test_x():\n    assert twice(2) == 4\n", "test_x"),
        ("from pay import twice\n\n\ndef test_x():\n    assert 4 == twice(2)\n", "test_x"),
        ("import pytest\nfrom pay import twice\n\n\n@pytest.mark.parametrize('x', ['a::b[c]', 'é'])\ndef test_x(x):\n    assert twice(x) == x + x\n", "test_x"),
        ("import unittest\nfrom pay import twice\n\n\nclass A(unittest.TestCase):\n    def test_x(self):\n        self.assertEqual(twice(2), 4)\n", "A::test_x"),
    ],
)  # fmt: skip
def test_what_equals_everything_passes_nothing(source: str, case: str) -> None:
    task = small(source, [case])
    assert run_checked({"pay.py": b"def twice(x):\n    return x * 2\n"}, task, source, [], **CHECKED).result == "passed"
    verdict = run_checked({"pay.py": ALWAYS}, task, source, [], **CHECKED)
    assert verdict.result == "error" and "ask for something else" in verdict.detail


def test_files_in_the_tests_way_give_way() -> None:
    """A repository with a file where the task has a folder, or the other way round, is scored all the same."""
    source = "from pay import twice\n\n\ndef test_x():\n    assert twice(2) == 4\n"
    code = {"pay.py": b"def twice(x):\n    return x * 2\n"}
    for more in ({"checks": b"x"}, {"checks/test_x.py/a.txt": b"x"}, {"zerorepo_sentinel.py/a": b"x"}):
        task = small(source, ["test_x"], file="checks/test_x.py")
        assert run_checked({**code, **more}, task, source, [], **CHECKED).result == "passed", more


@pytest.mark.parametrize("name", ["score.json", "score.json.gz", "score.json.zst"])
def test_a_finished_score_is_read_again_as_it_was_packed(name: str, harvest: tuple[Path, Path], tmp_path: Path) -> None:
    words = (
        "craft",
        "score",
        harvest[0],
        "--task-file",
        harvest[1],
        "--embeddings",
        "tfidf",
        "-o",
        tmp_path / name,
        "--json",
    )
    first, again = zerorepo(*words), zerorepo(*words)
    assert first.returncode == again.returncode == 0, again.stderr
    assert json.loads(first.stdout) == json.loads(again.stdout) and f"zerorepo: {tmp_path / name}: complete already" in again.stderr  # fmt: skip
    (tmp_path / name).write_bytes(b"{")
    spoilt = zerorepo(*words)
    assert spoilt.returncode == 2 and "Traceback" not in spoilt.stderr, spoilt.stderr


@pytest.mark.parametrize("code", ["def (", "x = '\0'", "x = " + "1+" * 20_000 + "1"])
def test_a_task_whose_test_is_no_python_is_bad_input(code: str, harvest: tuple[Path, Path], tmp_path: Path) -> None:
    task = {**json.loads(harvest[1].read_text().splitlines()[0]), "query_code": code}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task))
    done = zerorepo("craft", "score", harvest[0], "--task-file", tmp_path / "tasks.jsonl", "--embeddings", "tfidf")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "tasks.jsonl:1: query_code: no Python: " in done.stderr


def test_a_name_of_a_map_that_is_far_too_deep(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"oak": ".".join(["a"] * 5000)}))
    done = zerorepo("craft", "score", harvest[0], "--task-file", harvest[1], "--rename", tmp_path / "names.json")
    assert done.returncode == 2 and "the repository has no a.a" in done.stderr


def test_no_escape_of_a_tasks_file_reaches_the_terminal(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    task = {**json.loads(harvest[1].read_text().splitlines()[0]), "project": "\x1b[31mred\nline"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task))
    done = zerorepo("craft", "score", harvest[0], "--task-file", tmp_path / "tasks.jsonl", "--embeddings", "tfidf")
    assert done.returncode == 0 and "\x1b" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_tasks_from_elsewhere_are_laid_out_inside_alone(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    task = json.loads(harvest[1].read_text().splitlines()[0])
    for number, change in enumerate(
        ({"file": "../out.py"}, {"file": "/etc/x.py"}, {"support": [{"path": "a/../../x", "text": ""}]}, {"support": [{"path": "x", "base64": "?"}]})
    ):  # fmt: skip
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(task | change) + "\n")
        done = zerorepo("craft", "score", harvest[0], "--task-file", path)
        assert done.returncode == 2 and f"{number}.jsonl:1" in done.stderr, done.stderr


# ------------------------------------------------------------ outputs, kills, bad input


def test_the_output_is_the_same_bytes_after_kills_and_with_any_workers(
    harvest: tuple[Path, Path], tmp_path: Path
) -> None:
    real, tasks = harvest
    words = ["craft", "score", real, "--task-file", tasks, "--embeddings", "tfidf", "-q"]
    assert zerorepo(*words, "-o", tmp_path / "whole.json", "--workers", 1).returncode == 0
    call = [COMMAND, *map(str, words), "-o", str(tmp_path / "killed.json"), "--workers", "2"]
    journal = tmp_path / ".killed.json.journal"
    kills = 0
    for entries in (2, 4):
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            if journal.exists() and len(journal.read_bytes().splitlines()) >= entries:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
    assert kills
    assert subprocess.run(call, capture_output=True, timeout=120).returncode == 0
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    again = subprocess.run([*call[:-1], "1"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and not journal.exists()
    manifest = json.loads((tmp_path / "killed.json.manifest.json").read_text())
    assert manifest["counts"]["pass_rate"] == 1.0 and "results" not in manifest["counts"]
    other = zerorepo(*words, "-o", tmp_path / "whole.json", "--tries", 7)
    assert other.returncode == 2 and "tries" in other.stderr


def test_bad_input_is_one_clear_line(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    real, tasks = harvest
    first = tasks.read_text().splitlines()[0]
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "twice.jsonl").write_text(first + "\n" + first + "\n")
    (tmp_path / "schema.jsonl").write_text(json.dumps(json.loads(first) | {"schema": "craft/9"}) + "\n")
    (tmp_path / "unchecked.jsonl").write_text(
        json.dumps({k: v for k, v in json.loads(first).items() if k != "gold"}) + "\n"
    )
    (tmp_path / "torn.jsonl").write_text(first + "\n" + first[:40])
    (tmp_path / "names.json").write_text('{"oak": "birch"}')
    (tmp_path / "broken.jsonl").write_text(json.dumps(json.loads(first) | {"query_code": "def (:\n"}) + "\n")
    mixed = json.loads(first) | {"id": "other", "project": "ash"}
    (tmp_path / "mixed.jsonl").write_text(first + "\n" + json.dumps(mixed) + "\n")
    write(tmp_path / "bare", {"README.md": "nothing"})
    for told, words in (
        ("no such folder", [tmp_path / "nowhere", "--task-file", tasks]),
        ("no Python code to score", [tmp_path / "bare", "--task-file", tasks]),
        ("no task", [real, "--task-file", tmp_path / "empty.jsonl"]),
        ("twice.jsonl:2: id", [real, "--task-file", tmp_path / "twice.jsonl"]),
        ("query_code: no Python: line 1", [real, "--task-file", tmp_path / "broken.jsonl"]),
        ("tasks of 2 projects: ash, ", [real, "--task-file", tmp_path / "mixed.jsonl"]),
        ("craft/9", [real, "--task-file", tmp_path / "schema.jsonl"]),
        ("have no ceiling", [real, "--task-file", tmp_path / "unchecked.jsonl"]),
        ("torn.jsonl:2", [real, "--task-file", tmp_path / "torn.jsonl"]),
        ("birch", [real, "--task-file", tasks, "--rename", tmp_path / "names.json"]),
    ):
        done = zerorepo("craft", "score", *words)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2 and told in done.stderr and len(lines) == 1 and not done.stdout, (told, done.stderr)


def test_what_is_laid_out(harvest: tuple[Path, Path]) -> None:
    task = Task(**{**json.loads(harvest[1].read_text().splitlines()[0]), "interfaces": [], "gold": None, "support": []})
    files = laid_out({"oak/a.py": b"", "lib/b.py": b""}, task, "x = 1\n", [])
    parts = {"oak/a.py", "oak/__init__.py", "lib/b.py", task.file, "zerorepo_sentinel.py"}
    assert set(files) == parts and files[task.file] == b"x = 1\n"
    assert laid_out({"oak/a.py": b"", "oak/__init__.py": b"x"}, task, "", [])["oak/__init__.py"] == b"x"
    assert b"not in the repository" in laid_out({"lib/b.py": b""}, task, "", [])["oak.py"]


# ------------------------------------------------------------ with a model

SWAPPED = {
    "elm/__init__.py": "",
    "elm/trunk.py": '''def tally(least, widths):
    """Count the rings of a trunk that are at least so wide."""
    return sum(width >= least for width in widths)
''',
}  # fmt: skip
GOOD = """import pytest
from elm.trunk import tally


@pytest.mark.parametrize(("widths", "expected"), [([], 0), ([1, 2], 2), ([0, 3], 1)])
def test_count_rings(widths, expected):
    assert tally(1, widths) == expected


def test_count_rings_least():
    assert tally(2, [1, 2, 3]) == 2
"""
VACUOUS = """def test_count_rings():
    assert sum([1]) == 1


def test_count_rings_least():
    assert sum([2]) == 2
"""


def test_a_model_finds_votes_and_adapts_what_rules_cannot(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    only = tmp_path / "one.jsonl"
    only.write_text(
        next(line for line in harvest[1].read_text().splitlines() if "count_rings" in json.loads(line)["id"]) + "\n"
    )
    elm = write(tmp_path / "elm", SWAPPED)
    assert scored(elm, only)["pass_rate"] == 0.0  # the arguments stand the other way round
    asked: list[str] = []

    def reply(request: Mapping[str, Any]) -> Any:
        user = request["messages"][-1]["content"]
        if user.startswith("A test uses the interfaces"):
            asked.append("locate")
            offered = [line[2:] for line in user.splitlines() if line.startswith("- ")]
            return chat(
                json.dumps(
                    {"located": {"oak.rings.count_rings": next(one for one in offered if one.endswith("tally"))}}
                )
            )
        if user.startswith("Say whether the code"):
            asked.append("vote")
            return chat(json.dumps({"implements": len(asked) % 5 != 2, "reason": "as told"}))
        if user.startswith("Which of") or "moves" in user:
            return chat('{"moves": {}}')
        asked.append("adapt")
        return chat(json.dumps({"code": VACUOUS if asked.count("adapt") == 1 else GOOD}))

    words = [
        "craft",
        "score",
        elm,
        "--task-file",
        only,
        "--embeddings",
        "tfidf",
        "--json",
        "-o",
        tmp_path / "score.json",
    ]
    with ScriptedServer() as server:
        server.script = (reply,)
        done = zerorepo(*words, "--model", f"{server.url}#m", "--record", tmp_path / "said.jsonl")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "score.json").read_text())
    assert found["pass_rate"] == 1.0 and found["answered_by"] != "rules", found
    assert asked.count("vote") == 5 and asked.count("adapt") == 2  # the first passes on a stub as well
    assert (
        found["results"][0]["votes"].count("yes") == 4
        and found["results"][0]["located"]["oak.rings.count_rings"] == "elm.trunk.tally"
    )
    again = zerorepo(*words[:-1], tmp_path / "replayed.json", "--model", f"replay:{tmp_path / 'said.jsonl'}")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "replayed.json").read_text())["results"] == found["results"]
    assert str(tmp_path) not in (tmp_path / "score.json").read_text()


def test_a_server_that_is_away_casts_no_votes_and_loses_none(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    """What was answered is kept, and the same command goes on when it is back."""
    only = tmp_path / "one.jsonl"
    only.write_text(
        next(line for line in harvest[1].read_text().splitlines() if "age_of" in json.loads(line)["id"]) + "\n"
    )
    away = True
    heard = 0

    def reply(request: Mapping[str, Any]) -> Any:
        nonlocal heard
        if request["messages"][-1]["content"].startswith("Say whether the code"):
            heard += 1
            return Reply(503) if away and heard > 2 else chat('{"implements": true, "reason": "so"}')
        return chat('{"moves": {}}')

    words = ["craft", "score", harvest[0], "--task-file", only, "--embeddings", "tfidf", "--max-retries", 0]
    words += ["--concurrency", 1, "-o", tmp_path / "score.json"]
    with ScriptedServer() as server:
        server.script = (reply,)
        words += ["--model", f"{server.url}#m"]
        done = zerorepo(*words)
        assert done.returncode == 3 and "no answer" in done.stderr and not (tmp_path / "score.json").exists()
        away, heard = False, 0
        done = zerorepo(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "score.json").read_text())
    assert found["pass_rate"] == found["voting_rate"] == 1.0 and heard == 3  # two were in the journal


def test_a_tie_and_unreadable_votes_do_not_pass(harvest: tuple[Path, Path], tmp_path: Path) -> None:
    only = tmp_path / "one.jsonl"
    only.write_text(
        next(line for line in harvest[1].read_text().splitlines() if "age_of" in json.loads(line)["id"]) + "\n"
    )
    said = ["yes", "no", "?", "yes", "no"]

    def reply(request: Mapping[str, Any]) -> Any:
        user = request["messages"][-1]["content"]
        if user.startswith("Say whether the code"):
            word = said[len(seen) % 5]
            seen.append(word)
            return chat("no idea" if word == "?" else json.dumps({"implements": word == "yes", "reason": "so"}))
        return chat('{"moves": {}}')

    seen: list[str] = []
    with ScriptedServer() as server:
        server.script = (reply,)
        found = scored(harvest[0], only, "--model", f"{server.url}#m", "--concurrency", 1)
    assert found["voting_rate"] == 0.0 and found["results"][0]["votes"] == ["yes", "no", None, "yes", "no"]
