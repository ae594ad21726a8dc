"""Run tests in the sandbox and say how they ended, from pytest's exit code and its JUnit report together, never from text.

Under leaf.py and building.py, by way of runner.py; over tenfold_shared/sandbox.py. "passed" needs exit code 0 and a whole
report in which at least one test ran, none failed and none erred; whatever does not fit together is "error". So a crash, an
early exit, a skip, an empty collection or a line that reads "5 passed" is never taken for a pass.

What a verdict does not guarantee: tests and the code under test share one process, which also writes the report. Code that
means to deceive can write a report of its own and leave with 0, or replace what the tests call. That a test means something
is for the red check on the stub and for other tests; that such code harms nothing is the sandbox's part.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal
from xml.etree import ElementTree

import msgspec

from tenfold_shared import Missing
from tenfold_shared.sandbox import WORK, Limits, Outcome, run

Result = Literal["passed", "failed", "error", "none", "skipped", "killed", "timeout", "usage"]
DETAIL = 2000  # characters of a failure that go into a prompt, about
JUNIT = ".zerorepo-junit.xml"
DEFAULT = Limits()
_PER_CASE = 900  # of DETAIL
_KINDS = ("failure", "error")
_COUNTS = ("tests", "failures", "errors", "skipped")
TAMPERED = "A test that always fails did not: something changes how tests are judged."
# With the plugins of the environment a run takes 0.8 s instead of 0.2, and they may change what happens.
_PLAIN = ("-c", "/dev/null", "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider")
_ENV = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100"}


class Verdict(msgspec.Struct):
    """How a run of tests ended.

    result: `passed`; `failed` (a test did not hold); `error` (not a test but a fixture, an import, pytest itself, or what
    does not fit together); `none` (nothing collected); `skipped` (nothing ran: skipped, or expected to fail); `killed` (a
    signal or a limit, or an exit code above 128); `timeout`; `usage` (such as a test file that is not there).
    counts: tests, failures, errors, skipped of the report; zeros without one. code: the exit code, None after a signal.
    detail: what went wrong, for a prompt, at most about 2,000 characters; "" for `passed`. seconds: how long it took.
    """

    result: Result
    counts: dict[str, int]
    code: int | None
    detail: str
    seconds: float


class Report(msgspec.Struct):
    """A JUnit report that is whole. held: tests that ran and neither failed, erred nor were skipped. problems: kind, name and
    text of each failure and error. holding: names of the files and classes, dotted, that have a test which held;
    held_names: those tests, dotted too."""

    tests: int
    failures: int
    errors: int
    skipped: int
    held: int
    problems: list[tuple[str, str, str]]
    holding: set[str] = msgspec.field(default_factory=set)
    held_names: set[str] = msgspec.field(default_factory=set)


def run_tests(
    files: Mapping[str, bytes],
    tests: Sequence[str],
    *,
    limits: Limits = DEFAULT,
    python: str = sys.executable,
    roots: Sequence[str] = ("",),
    unsafe: bool = False,
    conftest: bool = False,
    extra_args: Sequence[str] = (),
    each: bool = False,
) -> Verdict:
    """One run of pytest over `tests` (paths or node ids in `files`; none: all that it finds) in a fresh sandbox.

    roots: folders of `files` that imports start from ("": the top). conftest: with conftest files, configuration and plugins
    as an original suite has them; without it none of these count. each: in every file of `tests` a test must have held, so
    that one that skips itself does not pass by the others. Raises Missing where `python` has no pytest or there is
    no sandbox, BadInput where `files` does not fit in one.
    """
    words = [*(() if conftest else _PLAIN), *extra_args]
    outcome = outcome_of(
        files, tests, words, limits=limits, python=python, roots=roots, unsafe=unsafe, plugins=conftest
    )
    return judge(outcome, limits, tests if each else ())


def outcome_of(
    files: Mapping[str, bytes], tests: Sequence[str], words: Sequence[str], *, limits: Limits, python: str,
    roots: Sequence[str], unsafe: bool, plugins: bool, collect: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    """A run of pytest with a JUnit report, not yet judged. words: more of its command line; plugins: the environment's are
    loaded; collect: more files to bring back."""
    check(python)
    work = "." if unsafe else WORK
    command = [python, "-m", "pytest", f"--rootdir={work}", f"--junitxml={JUNIT}", "-q", "--no-header", "--tb=short"]
    command += ["-o", "junit_family=xunit2", "-o", "junit_logging=no"]
    command += ["-o", f"faulthandler_timeout={0.8 * limits.wall_s:.3f}"]  # shows where it hangs
    env = {**_ENV, "PYTHONPATH": ":".join(f"{work}/{root}".rstrip("/") for root in roots)}
    if not plugins:
        env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command += [*words, *(f"./{name}" if name.startswith("-") else name for name in tests)]
    return run(
        command,
        files={name: content for name, content in files.items() if name != JUNIT},
        collect=[JUNIT, *collect],
        limits=limits,
        python=python,
        env=env,
        unsafe=unsafe,
    )


def judge(outcome: Outcome, limits: Limits = DEFAULT, each: Sequence[str] = (), sentinel: str = "") -> Verdict:
    """The verdict on a finished run of pytest. each: files in which a test must have held. sentinel: `module::test` of a test
    that fails wherever tests are judged as they should; where it did not, the result is `error`, else it is left out."""
    report = read_junit(outcome.files.get(JUNIT, b""))
    if sentinel and report is not None and outcome.code in (0, 1) and not outcome.killed:
        if not any(kind == "failure" and where == sentinel for kind, where, _ in report.problems):
            counts = {name: getattr(report, name) for name in _COUNTS}
            return Verdict("error", counts, outcome.code, TAMPERED, outcome.seconds)
        report, outcome = _apart(report, outcome, sentinel)
    result = _result(outcome, report)
    if result == "passed" and report is not None and not all(_held_in(name, report) for name in each):
        result = "skipped"
    counts = {name: getattr(report, name) if report else 0 for name in _COUNTS}
    detail = "" if result == "passed" else _detail(result, outcome, report, limits)
    return Verdict(result, counts, outcome.code, detail, outcome.seconds)


def _result(outcome: Outcome, report: Report | None) -> Result:
    code = outcome.code
    if outcome.killed == "timeout":
        return "timeout"
    if outcome.killed or code is None or code > 128:  # above: how a shell says that a signal ended what it ran
        return "killed"
    if code == 4 and not (report is not None and report.errors):  # else a file could not be imported
        return "usage"
    if report is None:
        return "error"
    if code == 5 and report.tests == 0:
        return "none"
    if code == 1 and report.failures:
        return "failed"
    if code == 0 and report.tests and not report.failures and not report.errors:
        return "passed" if report.held else "skipped"
    return "error"


def _apart(report: Report, outcome: Outcome, sentinel: str) -> tuple[Report, Outcome]:
    """The same run as it would have been without the sentinel."""
    others = [one for one in report.problems if one[1] != sentinel]
    own = len(report.problems) - len(others)
    report = msgspec.structs.replace(report, tests=report.tests - own, failures=report.failures - own, problems=others)
    clean = outcome.code == 1 and not report.failures and not report.errors
    if not clean:
        return report, outcome
    return report, msgspec.structs.replace(outcome, code=0 if report.tests else 5)


def _held_in(name: str, report: Report) -> bool:
    dotted = name.removesuffix(".py").replace("/", ".")  # as pytest makes a class name of a path
    return any(one == dotted or one.startswith(dotted + ".") for one in report.holding)


def read_junit(data: bytes) -> Report | None:
    """The report, or None where it is missing, not whole, or no such report. It is hostile input: any DOCTYPE is refused, so
    no entity is ever defined, and text is decoded here, so that no declared encoding can hide one."""
    try:
        text = data.decode("utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            return None
        root = ElementTree.fromstring(text)
        suites = [root] if root.tag == "testsuite" else root.findall("testsuite")
        if root.tag not in ("testsuite", "testsuites") or not suites:
            return None
        said = {
            name: sum(int(suite.attrib[name]) for suite in suites)
            for name in ("tests", "failures", "errors", "skipped")
        }
    except (ElementTree.ParseError, ValueError, KeyError):
        return None
    seen, held, problems, holding = {"failure": 0, "error": 0, "skipped": 0}, 0, [], set()
    names: set[str] = set()
    subtests = (
        False  # a test with subtests has one entry, which bears the marks of all; what held is in the total alone
    )
    for case in root.iter("testcase"):
        marks = [child for child in case if child.tag in seen]
        held += not marks
        subtests |= len(marks) > 1 and all(mark.tag == "skipped" for mark in marks)
        if not marks:
            holding.add(case.get("classname") or "")
            names.add(f"{case.get('classname')}.{case.get('name')}")
        for mark in marks:
            seen[mark.tag] += 1
            if mark.tag in _KINDS:
                where = "::".join(filter(None, (case.get("classname"), case.get("name"))))
                problems.append((mark.tag, where, mark.text or mark.get("message") or ""))
    # Where its totals and its entries differ, the worse counts.
    return Report(
        tests=said["tests"] if held or any(seen.values()) else 0,
        failures=max(said["failures"], seen["failure"]),
        errors=max(said["errors"], seen["error"]),
        skipped=max(said["skipped"], seen["skipped"]),
        held=max(held, said["tests"] - said["failures"] - said["errors"] - said["skipped"]) if subtests else held,
        problems=problems,
        holding=holding,
        held_names=names,
    )


# ---------------------------------------------------------------- what a prompt is told


def _detail(result: Result, outcome: Outcome, report: Report | None, limits: Limits) -> str:
    parts = [_headline(result, outcome, report, limits)]
    problems = report.problems if report is not None and result in ("failed", "error") else []
    room = DETAIL - len(parts[0])
    for index, (kind, where, text) in enumerate(problems):
        entry = f"{kind} in {where}:\n{_tail(_plain(text), min(_PER_CASE, room))}"
        if index and len(entry) > room:
            parts.append(f"... and {len(problems) - index} more")
            break
        parts.append(entry)
        room -= len(entry)
    if not problems:
        parts.append(_tail(_plain(outcome.stdout), room // 2))
        # What faulthandler writes begins with where it happened, other traces end with it.
        trace = _plain(outcome.stderr)
        parts.append(trace[: room // 2] if result in ("killed", "timeout") else _tail(trace, room // 2))
    return "\n".join(filter(None, parts))


def _plain(text: str) -> str:
    """What a run says, without what is not about the project (frames of pytest and the library) or differs from run to run."""
    text = re.sub(rf"({WORK}|/(?:[\w.-]+/){{0,9}}tenfold-\w+/work)/", "", text[-20_000:])
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    text = re.sub(r"\bin \d+\.\d+s\b", "in a while", text)
    text = re.sub(r"^/\S+:\d+: in .*\n( {4}.*\n)*", "", text, flags=re.MULTILINE)  # a frame of --tb=short
    text = re.sub(r'^  File "[/<].*", line \d+ in .*\n?', "", text, flags=re.MULTILINE)  # of faulthandler
    return text.strip()


def _headline(result: Result, outcome: Outcome, report: Report | None, limits: Limits) -> str:
    if result == "timeout":
        return f"The tests did not end within {limits.wall_s:g} s."
    if result == "killed" and outcome.killed:
        limit = {"processes": limits.processes, "memory": f"{limits.memory_mb} MiB", "output": f"{limits.output_bytes} bytes"}  # fmt: skip
        return f"The tests used more {outcome.killed} than allowed ({limit[outcome.killed]})."
    if result == "killed" and outcome.signal:
        name = signal.Signals(outcome.signal).name if outcome.signal in set(signal.Signals) else str(outcome.signal)
        return f"The tests were ended by {name}."
    if result in ("killed", "usage"):
        return f"pytest ended with exit code {outcome.code}."
    if result == "none":
        return "No tests were collected."
    if result == "skipped":
        return "No test of some file ran: all in it were skipped or expected to fail."
    if report is None:
        return (
            f"The process ended with exit code {outcome.code} and left no whole report: pytest did not come to its end."
        )
    if not report.problems:
        return (
            f"The process ended with exit code {outcome.code}, which does not fit its report of {report.tests} tests."
        )
    return ""


def _tail(text: str, most: int) -> str:
    """The last whole lines of a text, which in a traceback say what happened."""
    if len(text) <= most:
        return text
    lines = list(_last_lines(text, most - 4))
    return "...\n" + ("\n".join(reversed(lines)) if lines else text[len(text) - max(0, most - 4) :])


def _last_lines(text: str, room: int) -> Iterator[str]:
    for line in reversed(text.split("\n")):
        room -= len(line) + 1
        if room < 0:
            return
        yield line


def check(python: str) -> None:
    """Raises Missing where `python` has no pytest."""
    if not _has_pytest(python):
        raise Missing(f"{python}: pytest is not installed there; pip install 'zerorepo[sandbox]'")


@functools.cache
def _has_pytest(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("pytest") is not None
    try:
        return subprocess.run([python, "-Ic", "import pytest"], capture_output=True).returncode == 0
    except OSError:
        return True  # what is wrong with it the sandbox says
