"""craft harvest: tasks from a real package's own tests, each tried on the package itself (arXiv 2509.16198 §4.1, app. D).

The verb over grouping.py (what a test is about), suite.py (a test file cut down), running.py (a run in the sandbox) and
listing.py (the draw). What the paper has a language model decide is decided by rule here. A task's gold, what the real
package scores on it, comes of the same steps as a score: located, voted on, adapted, run.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tenfold_shared import BadInput, Missing, sandbox
from tenfold_shared.jsonl import Output
from tenfold_shared.progress import Progress
from zerorepo.craft.beside import support_of
from zerorepo.craft.grouping import Group, Grouping, capability, described, grouped, ids_of, project_name
from zerorepo.craft.listing import drawn, passed_over
from zerorepo.craft.locate import Locator
from zerorepo.craft.package import Package, in_tests
from zerorepo.craft.references import interfaces, with_absolute
from zerorepo.craft.running import run_case, without_bodies
from zerorepo.craft.scoring import Bench, Result, Where, found_by_rule, names_of, rewritten
from zerorepo.craft.suite import TestFile
from zerorepo.craft.syntax import is_code, parsed
from zerorepo.craft.tasks import Gold, Interface, Support, Task, dumps
from zerorepo.generation.folder import digest_of
from zerorepo.generation.skeleton import decoded
from zerorepo.generation.stripping import is_part
from zerorepo.graph import one_line
from zerorepo.modules import dotted_prefix
from zerorepo.sources import WorkTree, is_python

DATA_FILE, DATA_TASK = 1 << 20, 4 << 20  # most bytes of one data file of a task, and of all of them
SHOWN = 10  # categories, and names of a kind, in the summary
PLUGIN = "zerorepo_opened"
_PLUGIN = Path(__file__).with_name("opened_inside.py").read_bytes()
REPORT = ".zerorepo-opened"
_COOKIE = re.compile(r"^([ \t\f]*#.*?coding[:=][ \t]*)([-\w.]+)", re.MULTILINE)
# What a test that reads data has in it, whatever the data is called.
_READS = re.compile(
    r"__file__|\bglob\b|listdir|scandir|iterdir|os\.walk|\bfspath\b|\bresources\b|get_data|getfile|rootdir"
)


def run_harvest(
    package: str, *, tests: Sequence[str], files: int, classes: int, caps: int, everything: bool, unchecked: bool,
    workers: int, test_time: float, test_memory: int, python: str | None, unsafe_no_sandbox: bool, seed: int,
    output: str | None, overwrite: bool, as_json: bool, quiet: bool, **_: Any,
) -> int:  # fmt: skip
    """The verb. Exit 1 where a test file could not be read or parsed. Raises BadInput, and Missing where tests are to be run
    and there is no sandbox or pytest."""
    from zerorepo import __version__

    loaded = Package.load(package, tests)
    if not loaded.top:
        raise BadInput(f"{package}: no module of a package in it; expected the folder of a Python package or of its repository")  # fmt: skip
    places, unreadable = _found(loaded, package, tests)
    tried = None if unchecked else {"test_time": test_time, "test_memory": test_memory, "python": python, "unsafe_no_sandbox": unsafe_no_sandbox}  # fmt: skip
    decides = {
        "project": project_name(loaded.name), "tests": list(tests), "all": everything, "unchecked": unchecked, "seed": seed, "tried": tried,
        **({} if everything else {"files": files, "classes": classes, "caps": caps}),
        "inputs": [digest_of(loaded.files)],
    }  # fmt: skip
    with Output(
        output, tool="zerorepo", version=__version__, verb="craft harvest", options=decides, overwrite=overwrite
    ) as out:
        if out.finished:
            counts = msgspec.json.decode(out.manifest_path.read_bytes())["counts"]
            if not quiet:
                print(f"zerorepo: {output}: complete already; nothing to do", file=sys.stderr)
            _summary(counts, output, as_json, quiet=True)
            return int(bool(counts["unparsed"]))
        with Progress("group", len(places), "test files", quiet) as progress:
            suite = Suite(loaded, places, progress.update)
        for path, line, why in suite.unparsed:
            unreadable.append({"file": path, "line": line, "why": why})
        for one in unreadable:
            where = f"{one['file']}:{one['line']}" if one["line"] else one["file"]
            print(f"zerorepo: {one_line(where)}: {one_line(one['why'])}; left out", file=sys.stderr)
        bare = suite.bare()
        taken = bare if everything else drawn(bare, files=files, classes=classes, caps=caps, seed=seed)
        if not taken:
            raise BadInput(f"{package}: no task in {', '.join(tests)}: {_why_none(suite, bare)}")
        with Progress("harvest", len(taken), "tasks", quiet) as progress:
            if unchecked:
                tasks = list(progress.over(suite.whole(one.id) for one in taken))
                told = Told([], [], [], [])
            else:
                if not unsafe_no_sandbox:
                    sandbox.check()
                limits = sandbox.Limits(wall_s=test_time, memory_mb=test_memory)
                trial = Trial(suite, Where(limits, python or sys.executable, unsafe_no_sandbox, workers))
                tasks, told = _all_tried(trial, [one.id for one in taken], out, progress)
        if not tasks:
            raise BadInput(f"{package}: no task in {', '.join(tests)}: all {len(taken)} passed on stubs, so they test nothing of it")  # fmt: skip
        tasks.sort(key=lambda one: one.id)
        for task in tasks:
            out.write_line(dumps(task))
        counts = _counts(suite, unreadable, bare, tasks, told, unchecked)
        out.finish(counts, seed=seed)
    _summary(counts, output, as_json, quiet)
    return int(bool(unreadable))


def _why_none(suite: Suite, bare: Sequence[Task]) -> str:
    if bare:
        return f"all {len(bare)} have base or issue in the name of their file or class, which a sample passes over; --all keeps them"
    if not suite.grouping.tests:
        return "no test in its test files"
    reasons = Counter(one.reason for one in suite.grouping.dropped)
    return f"of {suite.grouping.tests} tests none is left: {', '.join(f'{count} {reason}' for reason, count in reasons.most_common())}"  # fmt: skip


# ---------------------------------------------------------------- the suite


def _found(package: Package, folder: str, tests: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Paths of the test files below the folders of --tests, and those that could not be read. Raises BadInput where there is
    none."""
    top = Path(folder).resolve()
    prefix = dotted_prefix(folder)
    for _ in range(prefix.count(".") + 1 if prefix else 0):
        top = top.parent
    paths: set[str] = set()
    unreadable = []
    for one in tests:
        here = Path(one).resolve()
        place = here.relative_to(top).as_posix() if here.is_relative_to(top) else here.name
        tree = WorkTree(here, everything=True)
        for inside in tree.paths():
            path = inside if place == "." else f"{place}/{inside}"
            if not is_test_file(path):
                continue
            if path in package.files:
                paths.add(path)
            else:
                why = next((data for _, data in tree.read([inside]) if isinstance(data, str)), "too large")
                unreadable.append({"file": path, "line": 0, "why": why})
        for note in tree.notes:
            print(f"zerorepo: {one}: {one_line(note)}", file=sys.stderr)
    if not paths:
        more = f"; {unreadable[0]['file']}: {unreadable[0]['why']}" if unreadable else ""
        raise BadInput(
            f"--tests {', '.join(tests)}: no test file in it; expected test_*.py, *_test.py or tests.py{more}"
        )
    return sorted(paths), sorted(unreadable, key=lambda one: str(one["file"]))


def is_test_file(path: str) -> bool:
    """By the names that pytest looks for, and Django's `tests.py`."""
    name = path.rpartition("/")[2]
    return (name.startswith("test_") and name.endswith(".py")) or name.endswith("_test.py") or name == "tests.py"


def source_of(data: bytes) -> str:
    """A Python file's text; what it says of its own encoding is made true of UTF-8. Raises ValueError."""
    text, encoding = decoded(data)
    text = text.removeprefix("\ufeff")
    if encoding.lower() in ("utf-8", "utf-8-sig"):
        return text
    head = text.split("\n", 2)
    return "\n".join([*(_COOKIE.sub(r"\g<1>utf-8", line) for line in head[:2]), *head[2:]])


class Suite:
    """The tests of a package, grouped. paths: of its test files; step: called once for each that is grouped. unparsed:
    (path, line or 0, why) of those left out."""

    def __init__(self, package: Package, paths: Sequence[str], step: Callable[[], object] = lambda: None) -> None:
        self.package = package
        self.project = project_name(package.name)
        self.files: dict[str, TestFile] = {}
        self.unparsed: list[tuple[str, int, str]] = []
        self._leaving: dict[str, dict[str, set[str]]] = {}
        for path in paths:
            try:
                self.files[path] = TestFile(path, source_of(package.files[path]))
            except ValueError as error:
                line = re.match(r"line (\d+): ", str(error))
                self.unparsed.append((path, int(line[1]) if line else 0, str(error)[line.end() if line else 0 :]))
        self.grouping: Grouping = grouped(list(self.files.values()), package, self.project, step)
        ids = ids_of(self.grouping.groups, package, self.project)
        self.groups: dict[str, Group] = dict(sorted(zip(ids, self.grouping.groups, strict=True)))

    @cached_property
    def data(self) -> dict[str, bytes]:
        """The files beside the tests that are no Python."""
        return {path: data for path, data in self.package.files.items() if in_tests(path) and not is_python(path)}

    def cases(self, name: str) -> list[str]:
        """The tests that are run for a task: its own, and before them those that leave in their class or module what it
        reads."""
        group = self.groups[name]
        file = self.files[group.file]
        own = [case.id for case in group.cases]
        if group.file not in self._leaving:
            self._leaving[group.file] = leaving(file)
        before = {one: names for one, names in self._leaving[group.file].items() if one not in own}
        read = self._read(group) if before else set()
        return [*(one for one, names in before.items() if names & read), *own]

    def _read(self, group: Group) -> set[str]:
        """Attributes and names that the tests of a group read, and what comes with them."""
        tree = parsed(self.files[group.file].pruned([case.id for case in group.cases]))
        read = (node for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Load))  # fmt: skip
        return {node.attr if isinstance(node, ast.Attribute) else node.id for node in read}

    def bare(self) -> list[Task]:
        """The tasks with what a draw goes by, but no code yet, by id."""
        return [self._task(name, group, "", [], [], ("", "")) for name, group in self.groups.items()]

    def whole(self, name: str, uncut: bool = False) -> Task:
        """The task of an id with its test. uncut: with the whole file in place of what it was cut down to."""
        group = self.groups[name]
        file = self.files[group.file]
        source = file.source if uncut else file.pruned(self.cases(name))
        support = [self._absolute(one) for one in support_of(group.file, source, self.package)]
        source = with_absolute(source, group.file, self.package)
        texts = {group.file: source}
        texts |= {one.path: one.text for one in support if one.text is not None and is_code(one.path, one.text)}
        found = interfaces(texts, self.package, {group.about})
        about = next(one for one in found if one.name == group.about)
        return self._task(name, group, source, found, support, described(group, about, self.package))

    def _absolute(self, one: Support) -> Support:
        if one.text is None or not is_code(one.path, one.text):
            return one
        return Support(path=one.path, text=with_absolute(one.text, one.path, self.package))

    def _task(
        self,
        name: str,
        group: Group,
        source: str,
        found: list[Interface],
        support: list[Support],
        told: tuple[str, str],
    ) -> Task:
        return Task(
            id=name,
            category=group.category,
            file=group.file,
            module=group.module,
            cap=capability(group.about, self.package),
            functions=[case.name for case in group.cases],
            query_code=source,
            alg_description=told[0],
            task_query=told[1],
            project=self.project,
            cases=self.cases(name),
            top=self.package.top,
            interfaces=found,
            support=support,
        )


def leaving(file: TestFile) -> dict[str, set[str]]:
    """Tests that set an attribute of their class (`Class.x`, `type(self).x`, `self.__class__.x`) or a name of the module, to
    what they set: tests after them may rest on it."""
    level = {target.id for one in file.tree.body if isinstance(one, ast.Assign) for target in one.targets if isinstance(target, ast.Name)}  # fmt: skip
    found: dict[str, set[str]] = {}
    for case in file.cases:
        body = file.classes[case.owner].body if case.owner else file.tree.body
        for one in body:
            if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)) and one.name == case.name:
                told = {name for node in ast.walk(one) for name in _set_by(node, case.owner, level)}
                if told:
                    found[case.id] = told
    return found


def _set_by(node: ast.AST, owner: str, level: Collection[str]) -> set[str]:
    if isinstance(node, ast.Global):
        return set(node.names) & set(level)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    classes = {owner, "type(self)", "self.__class__", "cls"} - {""} if owner else set()
    return {one.attr for one in targets if isinstance(one, ast.Attribute) and ast.unparse(one.value) in classes}


# ---------------------------------------------------------------- on the package itself


class Trialled(msgspec.Struct):
    """What trying a task on its package found, as the journal keeps it. data: files beside the test that it reads; left: those
    of them that are too large. uncut: it passes only as the whole file. vacuous: it passes on stubs, too."""

    gold: Gold
    uncut: bool
    data: list[str]
    left: list[str]
    vacuous: bool = False


class Told(NamedTuple):
    """Ids of tasks that pass on stubs, and are left out; of those that need their whole file; (id, path) of data left out;
    (id, result, reason) of tasks that the package does not pass."""

    vacuous: list[str]
    uncut: list[str]
    left: list[tuple[str, str]]
    failed: list[tuple[str, str, str]]


class Trial:
    """Tasks on the package they come from."""

    def __init__(self, suite: Suite, where: Where) -> None:
        self.suite = suite
        self._bench = Bench(suite.package, where)
        self._locator = Locator(suite.package, None, {})  # names stay what they are, so that no meaning is compared
        self._judging = threading.Lock()
        self.workers = where.workers

    def of(self, name: str) -> Trialled:
        """Try the task of an id: cut down; where that does not pass, as its whole file."""
        task = self.suite.whole(name)
        first = self._tried(task)
        if first.gold.passed or not first.gold.voted:
            return first
        whole = self.suite.whole(name, uncut=True)
        if whole.query_code != task.query_code or whole.support != task.support:
            second = self._tried(whole)
            if second.gold.passed:
                return msgspec.structs.replace(second, uncut=True)
        amid = self._bench.run(task, self.suite.files[task.file].source, [], self.suite.package.files)
        told = "passes only amid its whole suite" if amid.result == "passed" else "no better amid its whole suite"
        gold = msgspec.structs.replace(first.gold, reason=f"{first.gold.reason} ({told})".strip())
        return msgspec.structs.replace(first, gold=gold)

    def _tried(self, task: Task) -> Trialled:
        with self._judging:
            found = found_by_rule(task, self._locator, self.suite.package, 1)
            if not found.voted or found.located is None:
                return Trialled(_gold(found.result(None)), False, [], [])
            source, support = rewritten(task, names_of(task, found.located, self.suite.package))
        data: list[str] = []
        traced = bool(self.suite.data) and self._may_read(task)
        if traced:
            data = self._read_by(task, source, support)
        kept, left = self._fitting(data)
        verdict = self._bench.run(task, source, self.with_data(support, kept))
        if verdict.result != "passed" and self.suite.data and not traced:
            kept, left = self._fitting(self._read_by(task, source, support))
            if kept:
                verdict = self._bench.run(task, source, self.with_data(support, kept))
        vacuous = verdict.result == "passed" and self._holds_on_stubs(task, source, self.with_data(support, kept))
        return Trialled(_gold(found.result(verdict)), False, kept, left, vacuous)

    def _holds_on_stubs(self, task: Task, source: str, support: Sequence[Support]) -> bool:
        """Whether the tests pass with stubs for the bodies of what they are about: then they test nothing of it."""
        stubs = without_bodies(self.suite.package, [one.name for one in task.tested])
        return self._bench.run(task, source, support, stubs).result == "passed"

    def with_data(self, support: Sequence[Support], data: Sequence[str]) -> list[Support]:
        held = {one.path for one in support}
        return [*support, *(Support.of(path, self.suite.data[path]) for path in data if path not in held)]

    # ------------------------------------------------------------ data

    @cached_property
    def _names(self) -> frozenset[str]:
        """Names of data files and of the folders they lie in, which a test that reads one may have in it."""
        return frozenset(
            part
            for path in self.suite.data
            for part in path.split("/")
            if len(part) > 2 and part not in ("test", "tests")
        )

    def _may_read(self, task: Task) -> bool:
        texts = [task.query_code, *(one.text for one in task.support if one.text is not None)]
        return any(_READS.search(text) or any(name in text for name in self._names) for text in texts)

    def _read_by(self, task: Task, source: str, support: Sequence[Support]) -> list[str]:
        """The data files that a run of the task's tests reads, or lists the folder of, by path."""
        bench = self._bench
        beside = {**bench.beside_tests, **self.suite.data, f"{PLUGIN}.py": _PLUGIN}
        _, files = run_case(
            beside, task, source, support, limits=bench.where.limits, python=bench.where.python, unsafe=bench.where.unsafe,
            roots=bench.roots, words=["-p", PLUGIN], collect=[REPORT],
        )  # fmt: skip
        found = set()
        for line in os.fsdecode(files.get(REPORT, b"")).split("\n"):
            kind, _, path = line.partition(" ")
            if kind == "file" and path in self.suite.data:
                found.add(path)
            elif kind == "folder":
                found |= {one for one in self.suite.data if one.rpartition("/")[0] == path.rstrip("/")}
        return sorted(found)

    def _fitting(self, data: Sequence[str]) -> tuple[list[str], list[str]]:
        """(those that a task has room for, the others)."""
        kept, left, room = [], [], DATA_TASK
        for path in data:
            size = len(self.suite.data[path])
            if size <= min(DATA_FILE, room):
                kept.append(path)
                room -= size
            else:
                left.append(path)
        return kept, left


def _gold(result: Result) -> Gold:
    return Gold(
        passed=result.passed, voted=result.voted, result=result.result, reason=result.reason,
        skipped=result.skipped if result.passed else None,
    )  # fmt: skip


def _all_tried(trial: Trial, names: Sequence[str], out: Output, progress: Progress) -> tuple[list[Task], Told]:
    """The tasks with their gold. What is in the journal is not run again."""
    done: dict[str, Trialled] = {}
    keys = {name: _key(trial.suite.groups[name], name) for name in names}
    for name in names:
        if out.journal is not None and keys[name] in out.journal:
            done[name] = msgspec.convert(out.journal.get(keys[name]), Trialled)
            progress.update()
    pool = ThreadPoolExecutor(trial.workers, "harvest")
    try:
        waiting = {pool.submit(trial.of, name): name for name in names if name not in done}
        for future in as_completed(waiting):
            name = waiting[future]
            done[name] = future.result()
            if out.journal is not None:
                out.journal.put(keys[name], msgspec.to_builtins(done[name]))
            progress.update()
    finally:
        pool.shutdown(cancel_futures=True)
    tasks, told = [], Told([], [], [], [])
    for name in sorted(names):
        found = done[name]
        if found.vacuous:
            told.vacuous.append(name)
            continue
        task = trial.suite.whole(name, uncut=found.uncut)
        task.gold = found.gold
        task.support = trial.with_data(task.support, found.data)
        tasks.append(task)
        if found.uncut:
            told.uncut.append(name)
        told.left.extend((name, path) for path in found.left)
        if not found.gold.passed:
            told.failed.append((name, found.gold.result, found.gold.reason))
    return tasks, told


def _key(group: Group, name: str) -> str:
    """Of a task in the journal; what else decides a result, the package's files among it, is in the journal's head."""
    asked = [name, group.file, group.about, [case.id for case in group.cases]]
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:24]


# ---------------------------------------------------------------- what is told


def _counts(
    suite: Suite, unreadable: list[dict[str, Any]], bare: Sequence[Task], tasks: Sequence[Task], told: Told, unchecked: bool
) -> dict[str, Any]:  # fmt: skip
    dropped = Counter(one.reason for one in suite.grouping.dropped)
    categories = Counter(task.category for task in tasks)
    found: dict[str, Any] = {
        "project": suite.project,
        "test_files": len(suite.files) + len(unreadable),
        "unparsed": unreadable,
        "tests": suite.grouping.tests,
        "dropped": dict(sorted(dropped.items(), key=lambda one: (-one[1], one[0]))),
        "capabilities": len(bare),
        "passed_over": sum(map(passed_over, bare)),
        "tasks": len(tasks),
        "tests_in_tasks": sum(len(task.functions) for task in tasks),
        "categories": dict(sorted(categories.items(), key=lambda one: (-one[1], one[0]))),
        "on_stubs": told.vacuous,
        "uncut": told.uncut,
        "data_left_out": [{"id": name, "file": path} for name, path in told.left],
        "gold": None,
        "paper": _beside_paper(suite, tasks),
    }
    if not unchecked:
        golds = [task.gold for task in tasks if task.gold is not None]
        passed, voted = sum(one.passed for one in golds), sum(one.voted for one in golds)
        found["gold"] = {
            "tasks": len(golds), "passed": passed, "voted": voted,
            "pass_rate": passed / len(golds), "voting_rate": voted / len(golds),
            "failed": [{"id": name, "result": result, "reason": reason} for name, result, reason in told.failed],
        }  # fmt: skip
    return found


def _beside_paper(suite: Suite, tasks: Sequence[Task]) -> dict[str, Any] | None:
    """For one of the paper's six projects its row and ours, else None. The package's size is of its own code alone."""
    from zerorepo.craft.paper import project_of
    from zerorepo.craft.size import size_of

    row = project_of(suite.package.top)
    if row is None:
        return None
    own = {path: data for path, data in suite.package.files.items() if is_python(path) and is_part(path, suite.package.files)}  # fmt: skip
    ours: dict[str, Any] = {"categories": len({task.category for task in tasks}), "tasks": len(tasks)}
    try:
        size = size_of(own)
        ours |= {"files": size.files, "loc": size.loc, "tokens": size.tokens}
    except Missing as error:
        print(f"zerorepo: sizes left out: {error}", file=sys.stderr)
        ours |= {"files": None, "loc": None, "tokens": None}
    theirs = {name: getattr(row, name) for name in ("files", "loc", "tokens", "categories", "tasks")}
    return {"project": row.name, "ours": {name: ours[name] for name in theirs}, "theirs": theirs}


def _summary(counts: Mapping[str, Any], output: str | None, as_json: bool, quiet: bool) -> None:
    if as_json:
        to_file = output not in (None, "-")
        print(msgspec.json.encode(counts).decode(), file=sys.stdout if to_file else sys.stderr)
    elif not quiet:
        print("\n".join(_lines(counts)), file=sys.stderr)


def _lines(counts: Mapping[str, Any]) -> Iterator[str]:
    rows: list[tuple[str, str]] = [("test files", f"{counts['test_files']:,}"), ("tests", f"{counts['tests']:,}")]
    rows += [(f"  dropped: {reason}", f"{count:,}") for reason, count in counts["dropped"].items()]
    rows.append(("capabilities", f"{counts['capabilities']:,}"))
    if counts["passed_over"]:
        rows.append(("  passed over for base or issue in a name", f"{counts['passed_over']:,}"))
    if counts["on_stubs"]:
        rows.append(("  dropped: passed on stubs, so test nothing", f"{len(counts['on_stubs']):,}"))
    rows.append(("tasks", f"{counts['tasks']:,} of {counts['tests_in_tasks']:,} tests in {len(counts['categories']):,} categories"))  # fmt: skip
    shown = list(counts["categories"].items())
    rows += [(f"  {one_line(name)}", f"{count:,}") for name, count in shown[:SHOWN]]
    if len(shown) > SHOWN:
        rows.append((f"  and {len(shown) - SHOWN:,} more categories", f"{sum(count for _, count in shown[SHOWN:]):,}"))
    if counts["uncut"]:
        rows.append(("kept as whole files", f"{len(counts['uncut']):,}"))
    if counts["data_left_out"]:
        rows.append(("data files too large for a task", f"{len(counts['data_left_out']):,}"))
    if gold := counts["gold"]:
        rows.append(("passed by the package itself", f"{gold['passed']:,} ({100 * gold['pass_rate']:.1f} %)"))
        rows.append(("voted for", f"{gold['voted']:,} ({100 * gold['voting_rate']:.1f} %)"))
    wide = max(len(name) for name, _ in rows)
    yield f"zerorepo: harvest of {counts['project']}"
    for name, value in rows:
        yield f"  {name:<{wide}}  {value}"
    for kind, entries in (("not passed", [f"{one['id']}: {one['result']}: {one['reason']}" for one in (gold or {}).get("failed", ())]),
                          ("passed on stubs", counts["on_stubs"]), ("whole file", counts["uncut"]),
                          ("too large", [f"{one['file']}, for {one['id']}" for one in counts["data_left_out"]])):  # fmt: skip
        yield from (f"  {kind}: {one_line(entry)}" for entry in entries[:SHOWN])
        if len(entries) > SHOWN:
            yield f"  {kind}: and {len(entries) - SHOWN:,} more"
    if paper := counts["paper"]:
        names = list(paper["theirs"])
        yield f"  {'':<24}" + "".join(f"{name:>12}" for name in names)
        for title, row in ((f"{paper['project']}, here", paper["ours"]), ("in the paper", paper["theirs"])):
            cells = ("" if row[name] is None else f"{row[name]:,}" for name in names)
            yield f"  {title:<24}" + "".join(f"{cell:>12}" for cell in cells)
