"""Run a task's test over a repository, in the sandbox.

Under harvest.py and scoring.py, over generation/verdict.py. The repository's own tests, conftest files and settings of pytest
have no say: what is run is the task's test with the task's support, without plugins. In the same process, last, a test runs
that must fail: code under test that makes every test pass is found by it. What passes is run again with a contrary test
(contrary.py), which finds the code that knows better than that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from tenfold_shared.sandbox import Limits, Outcome
from zerorepo.craft.contrary import contrary
from zerorepo.craft.locate import plain
from zerorepo.craft.package import Package
from zerorepo.craft.tasks import Support, Task
from zerorepo.generation.skeleton import decoded, stubs_of, units_of
from zerorepo.generation.verdict import JUNIT, Verdict, judge, outcome_of, read_junit

SENTINEL = "zerorepo_sentinel"  # module; its one test is test_sentinel
_MUST_FAIL = b'def test_sentinel():\n    raise AssertionError("this test must fail")\n'
# What pytest itself imports: a package of such a name cannot be hidden from it.
_OF_PYTEST = frozenset("pytest _pytest pluggy iniconfig packaging pygments exceptiongroup colorama".split())
_PATIENCE = 10.0  # seconds
_FOREIGN = "The report has other tests than those that were run: something changes how tests are judged."
_CONTRARY = "The tests pass as well where they ask for something else: something changes how tests are judged."
_RARE = frozenset(("exceptiongroup", "colorama"))  # on some systems alone
# What Python imports by itself when it starts, before there is a test that could fail.
_AT_START = frozenset(("sitecustomize", "usercustomize"))
# A folder without __init__.py gives way to a package that is installed under its name. With this one it does not; its parts in
# other places still belong to it.
_OF_PARTS = b"""import os, sys

_here = os.path.dirname(os.path.abspath(__file__))
_parts = [os.path.join(os.path.abspath(one), __name__) for one in sys.path]
__path__ = [_here, *(one for one in _parts if os.path.isdir(one) and not os.path.isfile(os.path.join(one, "__init__.py")))]
"""
_WORDS = ("-c", "/dev/null", "-p", "no:cacheprovider")


def laid_out(
    beside_tests: Mapping[str, bytes], task: Task, source: str, support: Sequence[Support], roots: Sequence[str] = ("",)
) -> dict[str, bytes]:
    """The files of a run: the repository's without its tests, the task's test and what it needs. The real package, should it
    be installed, must not answer in the repository's place: where the repository has nothing of its name, neither has anyone.
    Nor does the repository answer in pytest's place: modules of its names, and those that run as Python starts, are left out."""
    kept_out = (_OF_PYTEST - _RARE - {*task.top}) | _AT_START
    files = {
        path: data for path, data in beside_tests.items() if kept_out.isdisjoint(top for top, _ in _tops(path, roots))
    }
    tops: dict[str, list[str]] = {}  # what an import may begin with, to the folders and modules that are it
    for path in files:
        if path.endswith(".py"):
            for top, place in _tops(path, roots):
                tops.setdefault(top, []).append(place)
    for name in task.top:
        if name in _OF_PYTEST or not name.isidentifier():
            continue
        if name not in tops:
            files[f"{name}.py"] = f"raise ImportError('{name} is not in the repository')\n".encode()
        elif not any(place.endswith(".py") or f"{place}/__init__.py" in files for place in tops[name]):
            files[f"{min(tops[name])}/__init__.py"] = _OF_PARTS
    own = {one.path: one.data for one in support}
    own[task.file] = source.encode("utf-8", "surrogateescape")
    own[f"{SENTINEL}.py"] = _MUST_FAIL
    return {path: data for path, data in files.items() if not _in_the_way(path, own)} | own


def _in_the_way(path: str, own: Collection[str]) -> bool:
    """Whether a file of the repository lies where the task needs a folder, or in a folder where it needs a file."""
    parts = path.split("/")
    above = {"/".join(parts[:end]) for end in range(1, len(parts))}
    return not above.isdisjoint(own) or any(one.startswith(f"{path}/") for one in own)


def _tops(path: str, roots: Sequence[str]) -> list[tuple[str, str]]:
    """(first name of an import that would find a file, the folder or module that has it) from each root."""
    found = []
    for root in roots:
        before = f"{root}/" if root else ""
        if path.startswith(before):
            first = path.removeprefix(before).partition("/")[0]
            found.append((first.removesuffix(".py"), before + first))
    return found


def run_case(
    beside_tests: Mapping[str, bytes], task: Task, source: str, support: Sequence[Support], *,
    limits: Limits, python: str, unsafe: bool, roots: Sequence[str], words: Sequence[str] = (), collect: Sequence[str] = (),
) -> tuple[Verdict, Mapping[str, bytes]]:  # fmt: skip
    """(verdict, collected files). beside_tests: Package.beside_tests of what is scored; source, support: the task's, adapted.
    words: more of pytest's command line. Raises Missing where there is no sandbox or pytest, BadInput where the files do not
    fit in one."""
    outcome = _outcome(beside_tests, task, source, support, limits, python, unsafe, roots, words, collect)
    return judge(outcome, limits, sentinel=f"{SENTINEL}::test_sentinel"), outcome.files


def run_checked(
    beside_tests: Mapping[str, bytes], task: Task, source: str, support: Sequence[Support], *,
    limits: Limits, python: str, unsafe: bool, roots: Sequence[str],
) -> Verdict:  # fmt: skip
    """As run_case; what passes, and passes too where the test asks for something else or in the name of others, is `error`."""
    outcome = _outcome(beside_tests, task, source, support, limits, python, unsafe, roots)
    verdict = judge(outcome, limits, sentinel=f"{SENTINEL}::test_sentinel")
    if verdict.result != "passed":
        return verdict
    try:
        text, changed = contrary(source, task.cases)
    except ValueError as error:
        return msgspec.structs.replace(verdict, result="error", detail=f"{task.file}: {error}")
    held, asked = _holding(outcome), set(_dotted(task, task.cases))
    if not held <= asked:
        return msgspec.structs.replace(verdict, result="error", detail=_FOREIGN)
    held &= set(_dotted(task, changed))
    if not held:
        return verdict
    # A test that stops half-way may leave threads that never end; nothing is to be learnt from waiting for those.
    patience = msgspec.structs.replace(limits, wall_s=min(limits.wall_s, _PATIENCE + 4 * outcome.seconds))
    again = _outcome(beside_tests, task, text, support, patience, python, unsafe, roots)
    if again.killed or not held & _holding(again):
        return verdict
    return Verdict("error", verdict.counts, outcome.code, _CONTRARY, verdict.seconds + again.seconds)


def _outcome(
    beside_tests: Mapping[str, bytes], task: Task, source: str, support: Sequence[Support], limits: Limits, python: str,
    unsafe: bool, roots: Sequence[str], words: Sequence[str] = (), collect: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    tests = [*(f"{task.file}::{case}" for case in task.cases), f"{SENTINEL}.py::test_sentinel"]
    return outcome_of(
        laid_out(beside_tests, task, source, support, roots), tests, [*_WORDS, *words], limits=limits, python=python, roots=roots,
        unsafe=unsafe, plugins=False, collect=collect,
    )  # fmt: skip


def _holding(outcome: Outcome) -> set[str]:
    """Tests that held by the report, dotted and without parameters, which code under test could choose anew each time."""
    report = read_junit(outcome.files.get(JUNIT, b""))
    return {name.partition("[")[0] for name in (report.held_names if report is not None else ())}


def _dotted(task: Task, cases: Sequence[str]) -> list[str]:
    """Names of cases as the report has them."""
    file = task.file.removesuffix(".py").replace("/", ".")
    return [".".join([file, *case.split("::")]) for case in cases]


def without_bodies(package: Package, names: Collection[str]) -> dict[str, bytes]:
    """The files beside the tests with stubs for the bodies of these functions, methods, and all methods of these classes and
    of their bases in the package (canonical dotted names), each definition of a name that has several: over which a test that
    tests anything fails. Where there is no body among them (a variable, a class without methods), every body is a stub."""
    wanted: dict[str, set[str]] = {}
    for name in names:
        found = package.meaning(name)
        if found is not None and found.node is not None and found.kind != "module":
            units = package.program.order(found.node.id) if found.kind == "class" else [found.node.id]
            for one in units:
                node = package.program.nodes[one]
                wanted.setdefault(node.path, set()).add(plain(node.qualname))
    files = _stubbed(package, wanted)
    return files if files != package.beside_tests() else _stubbed(package, None)


def _stubbed(package: Package, wanted: Mapping[str, set[str]] | None) -> dict[str, bytes]:
    """wanted: path to the qualnames whose bodies, and those below them, go; None: all do."""
    files = package.beside_tests()
    for path in files if wanted is None else wanted:
        if path not in files or not path.endswith(".py"):
            continue
        try:
            text, encoding = decoded(files[path])
            keep = set() if wanted is None else {
                unit for unit in units_of(text)
                if not any(plain(unit) == one or plain(unit).startswith(one + ".") for one in wanted[path])
            }  # fmt: skip
        except ValueError:  # no Python, so no bodies
            continue
        files[path] = stubs_of(text, keep).encode(encoding)
    return files
