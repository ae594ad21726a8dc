"""Verdicts on tiny projects, each against what it must get; forged and broken reports; what a prompt is told.

The paper's own code judges by a regular expression over the text, which is wrong at times: with "N passed, 1 warning"
in the text and exit code 139, 137, 124 or 2 it says pass; for all skipped it says pass; a clean run under -ra with an xfail,
or with a log line that has "error: " in it, it calls a fail. Each of these is a project here.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tenfold_shared import BadInput, Missing
from tenfold_shared.sandbox import Limits, Outcome
from zerorepo.generation.verdict import DETAIL, JUNIT, Verdict, judge, outcome_of, read_junit, run_tests

LIMITS = Limits(wall_s=10, memory_mb=1024)


def project(text: str, **more: str) -> dict[str, bytes]:
    return {"test_it.py": text.encode(), **{name: content.encode() for name, content in more.items()}}


def leaving(code: int) -> str:
    """A test that holds, in a process that says so and then leaves with another word."""
    return f"""
import atexit, os, sys
def last():
    os.write(1, b"5 passed, 1 warning in 0.01s\\n")
    os._exit({code})
def test_it():
    atexit.register(last)
"""


# name: (test file, result, tests, failures, errors, skipped, further pytest arguments)
PROJECTS: dict[str, tuple[str, str, tuple[int, int, int, int], tuple[str, ...]]] = {
    "pass": ("def test_it():\n    assert 1 + 1 == 2\n", "passed", (1, 0, 0, 0), ()),
    "fail": ("def test_it():\n    assert 1 + 1 == 3\n", "failed", (1, 1, 0, 0), ()),
    "an exception": ("def test_it():\n    raise NotImplementedError\n", "failed", (1, 1, 0, 0), ()),
    "one of two fails": ("def test_a(): pass\ndef test_b(): assert 0\n", "failed", (2, 1, 0, 0), ()),
    "pass beside xfail, -ra": (
        "import pytest\n@pytest.mark.xfail\ndef test_a():\n    assert 0\ndef test_b():\n    pass\n",
        "passed",
        (2, 0, 0, 1),
        ("-ra",),
    ),
    "pass that logs error: ": (
        "import logging\ndef test_it():\n    print('error: none')\n    logging.error('error: FAILED 1 failed')\n",
        "passed",
        (1, 0, 0, 0),
        ("-rA",),
    ),
    "all skipped": (
        "import pytest\n@pytest.mark.skip\ndef test_a(): pass\ndef test_b(): pytest.skip('no')\n",
        "skipped",
        (2, 0, 0, 2),
        (),
    ),
    "nothing but xfail": (
        "import pytest\n@pytest.mark.xfail\ndef test_it(): assert 0\n",
        "skipped",
        (1, 0, 0, 1),
        (),
    ),
    "strict xfail that passes": (
        "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_it(): pass\n",
        "failed",
        (1, 1, 0, 0),
        (),
    ),
    "none collected": ("def helper(): pass\n", "none", (0, 0, 0, 0), ()),
    "all deselected": ("def test_it(): pass\n", "none", (0, 0, 0, 0), ("-k", "other")),
    "collection error": ("import no_such_module\ndef test_it(): pass\n", "error", (1, 0, 1, 0), ()),
    "syntax error": ("def test_it(:\n", "error", (1, 0, 1, 0), ()),
    "no text": ("\0\0", "error", (1, 0, 1, 0), ()),
    "fixture that fails": (
        "import pytest\n@pytest.fixture\ndef x(): raise ValueError\ndef test_it(x): pass\n",
        "error",
        (1, 0, 1, 0),
        (),
    ),
    "teardown that fails after a pass": (
        "import pytest\n@pytest.fixture\ndef x():\n    yield\n    raise ValueError\ndef test_it(x): pass\n",
        "error",
        (1, 0, 1, 0),
        (),
    ),
    "usage": ("def test_it(): pass\n", "usage", (0, 0, 0, 0), ("--no-such-option",)),
    "leaves with 0 in a test": ("import os\ndef test_it(): os._exit(0)\n", "error", (0, 0, 0, 0), ()),
    "leaves with 0 on import": ("import os\nos._exit(0)\n", "error", (0, 0, 0, 0), ()),
    "leaves with 1": ("import os\ndef test_it(): os._exit(1)\n", "error", (0, 0, 0, 0), ()),
    "leaves with 5": ("import os\ndef test_it(): os._exit(5)\n", "error", (0, 0, 0, 0), ()),
    "exit 139 after a pass": (leaving(139), "killed", (1, 0, 0, 0), ()),
    "exit 137 after a pass": (leaving(137), "killed", (1, 0, 0, 0), ()),
    "exit 124 after a pass": (leaving(124), "error", (1, 0, 0, 0), ()),
    "exit 2 after a pass": (leaving(2), "error", (1, 0, 0, 0), ()),
    "exit 0 after a failure": (
        leaving(0).replace("atexit.register(last)", "atexit.register(last)\n    assert 0"),
        "error",
        (1, 1, 0, 0),
        (),
    ),
    "interrupted": ("def test_it(): raise KeyboardInterrupt\n", "error", (0, 0, 0, 0), ()),
    "pytest told to stop with 0": (
        "import pytest\ndef test_it(): pytest.exit('done', 0)\n",
        "error",
        (0, 0, 0, 0),
        (),
    ),
    "segfault": ("import ctypes\ndef test_it(): ctypes.string_at(0)\n", "killed", (0, 0, 0, 0), ()),
    "killed": ("import os\ndef test_it(): os.kill(os.getpid(), 9)\n", "killed", (0, 0, 0, 0), ()),
    "endless output": (
        "import os\ndef test_it():\n    while True: os.write(2, b'x' * 9999)\n",
        "killed",
        (0, 0, 0, 0),
        ("-s",),
    ),
    "fork bomb": (
        "import os\ndef test_it():\n    while len(os.listdir('/proc')) < 2000:\n        try: os.fork()\n        except OSError: pass\n",
        "killed",
        (0, 0, 0, 0),
        (),
    ),
    "report of its own on a full disk": (
        "def test_it():\n    for i in range(999):\n        try: open(f'f{i}', 'wb', 0).write(b'x' * 4096 * 4096)\n        except OSError: pass\n    try:\n        while True: open('rest', 'ab', 0).write(b'x')\n    except OSError: pass\n",
        "error",
        (0, 0, 0, 0),
        (),
    ),
}


@pytest.mark.parametrize("name", PROJECTS)
def test_projects(name: str) -> None:
    text, result, counts, extra = PROJECTS[name]
    found = run_tests(project(text), ["test_it.py"], limits=LIMITS, extra_args=extra)
    assert (found.result, tuple(found.counts.values())) == (result, counts), found
    assert list(found.counts) == ["tests", "failures", "errors", "skipped"]
    assert bool(found.detail) == (result != "passed") and len(found.detail) <= DETAIL + 200


def test_a_hang_is_a_timeout_and_the_prompt_is_told_where() -> None:
    text = "import time\ndef wait():\n    time.sleep(99)\ndef test_it():\n    wait()\n"
    found = run_tests(project(text), ["test_it.py"], limits=Limits(wall_s=8, memory_mb=1024))
    assert (found.result, found.code) == ("timeout", None)
    assert 'File "test_it.py", line 3 in wait' in found.detail and "8 s" in found.detail


def test_a_file_that_is_not_there_is_usage() -> None:
    found = run_tests(project("def test_it(): pass\n"), ["test_other.py"], limits=LIMITS)
    assert found.result == "usage" and "test_other.py" in found.detail


def test_the_same_without_a_sandbox() -> None:
    for name in ("pass", "fail", "segfault", "leaves with 0 in a test", "all skipped"):
        text, result, counts, extra = PROJECTS[name]
        found = run_tests(project(text), ["test_it.py"], limits=LIMITS, extra_args=extra, unsafe=True)
        assert (found.result, tuple(found.counts.values())) == (result, counts), found
        assert "tenfold-" not in found.detail and str(Path(sys.prefix)) not in found.detail


# ---------------------------------------------------------------- what a run sees


def test_code_is_imported_from_the_roots_and_nothing_else_counts() -> None:
    """Without `conftest` an original configuration is not read, with it it is; a path may lead from a folder of tests."""
    files = {
        "src/pack/__init__.py": b"x = 1\n",
        "lib/other.py": b"y = 2\n",
        "conftest.py": b"raise SystemExit('conftest was read')\n",
        "pytest.ini": b"[pytest]\naddopts = --no-such-option\n",
        "tests/test_pack.py": b"import os, random, subprocess, sys\nfrom pack import x\nfrom other import y\n\n"
        b"def test_it():\n    assert x == 1 and y == 2\n    assert subprocess.run([sys.executable, '-c', 'import pack']).returncode == 0\n"
        b"    assert os.environ['PYTHONHASHSEED'] == '0' and hash('a') == int(subprocess.check_output([sys.executable, '-c', 'print(hash(\"a\"))']))\n"
        b"    assert not os.path.exists('/sandbox/src/pack/__pycache__')\n",
    }
    found = run_tests(files, ["tests/test_pack.py"], limits=LIMITS, roots=["src", "lib"])
    assert found.result == "passed", found
    assert run_tests(files, ["tests/test_pack.py"], limits=LIMITS, roots=["src"]).result == "error"
    configured = run_tests(files, ["tests/test_pack.py"], limits=LIMITS, roots=["src", "lib"], conftest=True)
    assert configured.result == "error" and "conftest was read" in configured.detail
    del files["conftest.py"]
    assert run_tests(files, ["tests/test_pack.py"], limits=LIMITS, conftest=True).result == "usage"


def test_an_original_suite_with_its_own_configuration() -> None:
    files = {
        "conftest.py": b"import pytest\n\n@pytest.fixture\ndef seven():\n    return 7\n",
        "pyproject.toml": b"[tool.pytest.ini_options]\npython_functions = ['check_*']\n",
        "test_it.py": b"def check_it(seven):\n    assert seven == 7\n",
    }
    assert run_tests(files, ["test_it.py"], limits=LIMITS, conftest=True).result == "passed"
    assert run_tests(files, ["test_it.py"], limits=LIMITS).result == "none"
    assert run_tests(files, [], limits=LIMITS, conftest=True).counts["tests"] == 1  # no path: all that it finds


def test_a_node_id_and_a_name_that_looks_like_an_option() -> None:
    files = {"-t.py": b"def test_a(): pass\ndef test_b(): assert 0\n", "test_it.py": b"def test_a(): pass\ndef test_b(): assert 0\n"}  # fmt: skip
    assert run_tests(files, ["test_it.py::test_a"], limits=LIMITS).result == "passed"
    assert run_tests(files, ["-t.py"], limits=LIMITS).counts["tests"] == 2


def test_a_report_that_was_there_before_is_not_believed() -> None:
    """A project may bring a file under the report's name: it is not laid out."""
    forged = f"import os\n\ndef test_it():\n    assert not os.path.exists('{JUNIT}')\n    os._exit(0)\n"
    files = project(forged) | {JUNIT: report(tests=5).encode()}
    assert run_tests(files, ["test_it.py"], limits=LIMITS).result == "error"


def test_bad_input_and_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        run_tests({"../x.py": b""}, ["x.py"], limits=LIMITS)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    with pytest.raises(Missing, match=r"zerorepo\[sandbox\]"):
        run_tests(project(""), ["test_it.py"], python=str(tmp_path / "env" / "bin" / "python"))


# ---------------------------------------------------------------- the decision itself


def report(tests: int = 1, failures: int = 0, errors: int = 0, skipped: int = 0, cases: str | None = None) -> str:
    cases = '<testcase classname="t" name="a"/>' * tests if cases is None else cases
    return f'<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}">{cases}</testsuite></testsuites>'


def verdict(code: int | None, junit: str | bytes | None, number: int | None = None, killed: str = "") -> Verdict:
    data = junit.encode() if isinstance(junit, str) else junit
    files = {} if data is None else {JUNIT: data}
    return judge(Outcome(code, number, killed, "5 passed, 1 warning in 0.1s", "", files, 1.0))


def test_passed_needs_all_of_it() -> None:
    """Every exit code with every sort of report: one cell of the table is a pass, and it is the one it must be."""
    reports = {
        "whole": report(2),
        "failing": report(2, failures=1),
        "erring": report(2, errors=1),
        "skipping": report(2, skipped=2, cases='<testcase name="a"><skipped/></testcase>' * 2),
        "empty": report(0),
        "absent": None,
        "cut": report(2)[:-20],
    }
    passes = {(code, name) for code in (*range(256), None) for name, one in reports.items() if verdict(code, one, 9 if code is None else None).result == "passed"}  # fmt: skip
    assert passes == {(0, "whole")}
    for killed in ("timeout", "memory", "processes", "output"):
        assert {verdict(None, one, 9, killed).result for one in reports.values()} == {"timeout" if killed == "timeout" else "killed"}  # fmt: skip
    assert verdict(1, reports["failing"]).result == "failed" and verdict(1, reports["erring"]).result == "error"
    assert verdict(5, reports["empty"]).result == "none" and verdict(5, reports["whole"]).result == "error"
    assert verdict(0, reports["skipping"]).result == "skipped" and verdict(0, reports["empty"]).result == "error"
    assert {verdict(code, reports["whole"]).result for code in range(129, 256)} == {"killed"}


def test_totals_and_entries_that_differ_count_as_the_worse() -> None:
    failing = '<testcase name="a"><failure>x</failure></testcase><testcase name="b"/>'
    assert verdict(0, report(2, failures=0, cases=failing)).result == "error"
    assert verdict(0, report(2, errors=1)).result == "error"
    assert verdict(0, report(2, cases="")).result == "error"  # two tests, of which none is named
    assert verdict(0, report(2, cases='<testcase name="a"><skipped/></testcase>')).result == "skipped"


SUBTESTS = """
import unittest

class SomeSkipped(unittest.TestCase):
    def test_it(self):
        for at in range(4):
            with self.subTest(at):
                if at > 1:
                    self.skipTest("not here")
                self.assertLess(at, 2 - WRONG)
"""


@pytest.mark.parametrize(("wrong", "expected"), [(0, "passed"), (1, "failed")])
def test_of_subtests_some_may_be_skipped(wrong: int, expected: str) -> None:
    found = run_tests({"test_it.py": SUBTESTS.replace("WRONG", str(wrong)).encode()}, ["test_it.py"], limits=LIMITS)
    assert found.result == expected and found.counts["skipped"] == 2


def test_a_test_that_must_fail_is_looked_for_and_left_out() -> None:
    files = {
        "test_it.py": b"def test_it():\n    assert 1 + 1 == 2\n",
        "test_all.py": b"def test_it():\n    assert False\n",
    }
    words, told = (
        ["-c", "/dev/null"],
        {"limits": LIMITS, "python": sys.executable, "roots": [""], "unsafe": False, "plugins": False},
    )
    sound = outcome_of(files, ["test_it.py", "test_all.py"], words, **told)
    assert judge(sound, LIMITS).result == "failed"
    found = judge(sound, LIMITS, sentinel="test_all::test_it")
    assert found.result == "passed" and found.counts == {"tests": 1, "failures": 0, "errors": 0, "skipped": 0}
    alone = outcome_of(files, ["test_all.py"], words, **told)
    assert judge(alone, LIMITS, sentinel="test_all::test_it").result == "none"
    cheat = {
        **files,
        "test_it.py": b"import pytest\npytest.Function.runtest = lambda self: None\ndef test_it():\n    assert False\n",
    }
    forged = outcome_of(cheat, ["test_it.py", "test_all.py"], words, **told)
    assert judge(forged, LIMITS).result == "passed"
    assert judge(forged, LIMITS, sentinel="test_all::test_it").result == "error"


HOSTILE_REPORTS = {
    "entities": '<!DOCTYPE x [<!ENTITY a "' + "a" * 1000 + '"><!ENTITY b "' + "&a;" * 1000 + '">]>' + report(1).split("?>")[1],
    "a file": '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + report(1, cases="<testcase name='a'>&f;</testcase>").split("?>")[1],
    "an outer DTD": '<!DOCTYPE testsuites SYSTEM "http://127.0.0.1:9/x.dtd">' + report(1).split("?>")[1],
    "two documents": report(1) + report(1),
    "no report": "<html/>",
    "no totals": "<testsuites><testsuite><testcase name='a'/></testsuite></testsuites>",
    "words for totals": report(1).replace('tests="1"', 'tests="one"'),
    "no suite": "<testsuites/>",
    "text": "5 passed",
    "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_REPORTS)
def test_hostile_reports_are_no_reports(name: str) -> None:
    assert read_junit(HOSTILE_REPORTS[name].encode()) is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-7", "cp037", "utf-8-sig"])
def test_no_encoding_hides_a_doctype(encoding: str) -> None:
    inner = HOSTILE_REPORTS["entities"]
    for data in (
        inner.encode(encoding),
        f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + inner.encode(encoding),
    ):
        assert read_junit(data) is None


def test_deep_and_wide_reports_end() -> None:
    depth = 100_000
    deep = report(1, cases="<a>" * depth + "</a>" * depth + '<testcase name="x"/>')
    assert read_junit(deep.encode()) is not None
    wide = read_junit(report(1, 200_000, cases="<testcase name='x'><failure>y</failure></testcase>" * 20_000).encode())
    assert wide is not None and wide.failures == 200_000 and len(wide.problems) == 20_000


# ---------------------------------------------------------------- what a prompt is told


def test_detail_has_the_assertion_and_the_project_but_not_the_machine() -> None:
    """The last frames and the assertion, project paths alone, nothing that differs in the next run, and not too much."""
    files = {
        "pack/__init__.py": b"",
        "pack/deep.py": b"import json\n\nclass Thing:\n    pass\n\n\ndef load(text):\n    return json.loads(text)\n",
        "test_it.py": b"import pytest\nfrom pack.deep import Thing, load\n\n\ndef test_json():\n    load('{')\n\n\n"
        b"def test_object():\n    assert Thing() == 'what was expected'\n\n\n"
        b"@pytest.mark.parametrize('n', range(40))\ndef test_many(n):\n    assert n == -1, 'number ' * 50\n",
    }
    first, second = (run_tests(files, ["test_it.py"], limits=LIMITS) for _ in range(2))
    assert first.result == "failed" and first.counts["failures"] == 42
    assert first.detail == second.detail
    assert len(first.detail) <= DETAIL + 100
    for needed in ("test_it::test_json", "pack/deep.py:8: in load", "JSONDecodeError", "what was expected", " more"):
        assert needed in first.detail, first.detail
    for foreign in (sys.prefix, sys.base_prefix, "/sandbox", "decoder.py", "site-packages"):
        assert foreign not in first.detail, first.detail


def test_a_long_failure_keeps_its_end() -> None:
    text = "def test_it():\n    raise ValueError('begin ' + 'x\\n' * 5000 + 'the end of it')\n"
    found = run_tests(project(text), ["test_it.py"], limits=LIMITS)
    assert found.detail.rstrip().endswith("the end of it") and len(found.detail) < DETAIL


def test_hostile_text_costs_no_time() -> None:
    """Patterns run over text that a program chose."""
    for text in (
        "/" * 900_000,
        "/a" * 450_000,
        ("/a:1" * 200_000),
        'File "/' * 100_000,
        "in 1" * 200_000,
        "0x" + "f" * 900_000,
    ):
        found = judge(Outcome(1, None, "", text, text, {}, 1.0))
        assert found.result == "error" and len(found.detail) <= DETAIL + 200
