"""Run a task's test over a repository, in the sandbox.

Under harvest.py and scoring.py, over generation/verdict.py. The repository's own tests, conftest files and settings of pytest
have no say: what is run is the task's test with the task's support, without plugins. In the same process, last, a test runs
that must fail: code under test that makes every test pass is found by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tenfold_shared.sandbox import Limits
from zerorepo.craft.package import Package
from zerorepo.craft.tasks import Support, Task
from zerorepo.generation.skeleton import decoded, stubs_of, units_of
from zerorepo.generation.verdict import Verdict, judge, outcome_of

SENTINEL = "zerorepo_sentinel"  # module; its one test is test_sentinel
_MUST_FAIL = b'def test_sentinel():\n    raise AssertionError("this test must fail")\n'
# What pytest itself imports: a package of such a name cannot be hidden from it.
_OF_PYTEST = frozenset("pytest _pytest pluggy iniconfig packaging pygments exceptiongroup colorama".split())
_WORDS = ("-c", "/dev/null", "-p", "no:cacheprovider")


def laid_out(
    beside_tests: Mapping[str, bytes], task: Task, source: str, support: Sequence[Support], roots: Sequence[str] = ("",)
) -> dict[str, bytes]:
    """The files of a run: the repository's without its tests, the task's test and what it needs. The real package, should it
    be installed, must not answer in the repository's place: where the repository has nothing of its name, neither has anyone."""
    files = dict(beside_tests)
    tops = {
        path.removeprefix(f"{root}/" if root else "").partition("/")[0].removesuffix(".py")
        for path in files if path.endswith(".py") for root in roots if not root or path.startswith(f"{root}/")
    }  # fmt: skip
    for name in task.top:
        if name not in tops and name not in _OF_PYTEST and name.isidentifier():
            files[f"{name}.py"] = f"raise ImportError('{name} is not in the repository')\n".encode()
    files |= {one.path: one.data for one in support}
    files[task.file] = source.encode("utf-8", "surrogateescape")
    files[f"{SENTINEL}.py"] = _MUST_FAIL
    return files


def run_case(
    beside_tests: Mapping[str, bytes], task: Task, source: str, support: Sequence[Support], *,
    limits: Limits, python: str, unsafe: bool, roots: Sequence[str], words: Sequence[str] = (), collect: Sequence[str] = (),
) -> tuple[Verdict, Mapping[str, bytes]]:  # fmt: skip
    """(verdict, collected files). beside_tests: Package.beside_tests of what is scored; source, support: the task's, adapted.
    words: more of pytest's command line. Raises Missing where there is no sandbox or pytest, BadInput where the files do not
    fit in one."""
    tests = [*(f"{task.file}::{case}" for case in task.cases), f"{SENTINEL}.py::test_sentinel"]
    outcome = outcome_of(
        laid_out(beside_tests, task, source, support, roots), tests, [*_WORDS, *words], limits=limits, python=python, roots=roots,
        unsafe=unsafe, plugins=False, collect=collect,
    )  # fmt: skip
    return judge(outcome, limits, sentinel=f"{SENTINEL}::test_sentinel"), outcome.files


def without_bodies(package: Package, names: Collection[str]) -> dict[str, bytes]:
    """The files beside the tests with stubs for the bodies of these functions, methods, and all methods of these classes
    (canonical dotted names): over which a test that tests anything fails."""
    files = package.beside_tests()
    wanted: dict[str, set[str]] = {}
    for name in names:
        found = package.meaning(name)
        if found is not None and found.node is not None and found.kind != "module":
            wanted.setdefault(found.node.path, set()).add(found.node.qualname)
    for path, qualnames in wanted.items():
        if path not in files:
            continue
        text, encoding = decoded(files[path])
        keep = {
            unit for unit in units_of(text)
            if not any(unit == one or unit.startswith(one + ".") for one in qualnames)
        }  # fmt: skip
        files[path] = stubs_of(text, keep).encode(encoding)
    return files
