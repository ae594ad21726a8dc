"""The verb `craft score`: a repository scored by tasks (P1 §4.1, app. D), by rule or with a model.

Per task: find what is tested (locate.py), vote on it (judging.py), and again elsewhere where the vote is lost; adapt the test
(adapt.py); run it (running.py). A task is passed where the vote was won and the adapted test passes. Beside that size
(size.py) and coverage and novelty (coverage.py), and always what the real package itself reaches by the same steps.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.cli import Backend
from tenfold_shared.jsonl import Journal, Output, Source, read_text
from tenfold_shared.progress import Progress
from tenfold_shared.sandbox import Limits
from zerorepo.craft import coverage, judging
from zerorepo.craft.adapt import Names, adapted
from zerorepo.craft.locate import Located, Locator, read_rename
from zerorepo.craft.package import Package
from zerorepo.craft.running import run_checked
from zerorepo.craft.size import size_of
from zerorepo.craft.syntax import is_code
from zerorepo.craft.tasks import Gold, Support, Task, dumps, read_tasks
from zerorepo.embeddings import encoder as open_encoder
from zerorepo.embeddings import lacks
from zerorepo.generation.asking import identity, label
from zerorepo.generation.folder import digest_of
from zerorepo.generation.verdict import Verdict
from zerorepo.graph import one_line

if TYPE_CHECKING:
    from tenfold_shared.generate import Sampling

SCHEMA = "craft-score/1"
RULES = "rules"  # what answers where no model is given
SHOWN = 5
_REASON = 200  # characters of why a task failed
_RESULT = "result "  # journal entries of finished tasks
_GOLD = "gold "

Record = dict[str, Any]


class Where(msgspec.Struct, frozen=True):
    """How tests run."""

    limits: Limits
    python: str
    unsafe: bool
    workers: int


class Result(msgspec.Struct, kw_only=True):
    """What became of a task. result: of the verdict, or `not located`, `not voted`, `not run`; located: canonical names of the real
    package to names of the repository, how: by which rule; tries: places that were looked at; skipped: tests of it that did
    not run."""

    id: str
    category: str
    leaf: str
    voted: bool
    votes: list[str | None]
    passed: bool
    result: str
    gold: bool | None = None
    reason: str = ""
    located: dict[str, str] = {}
    how: dict[str, str] = {}
    missing: list[str] = []
    tries: int = 0
    skipped: int = 0

    def beside(self, real: Gold) -> None:
        """Take the real package's result. A test that it passed, and that does not run here, is not passed: code that says
        `skip` where it is not written would else pass by the tests beside it."""
        self.gold = real.passed
        if self.passed and real.passed and real.skipped is not None and self.skipped > real.skipped:
            self.passed, self.result = False, "skipped"
            self.reason = f"{self.skipped} of its tests were skipped, of the real package {real.skipped}"


class Found(msgspec.Struct):
    """A task's place in the repository, voted on; what is wrong where it was not found."""

    task: Task
    located: Located | None
    votes: list[str | None]
    voted: bool
    tries: int

    def result(self, verdict: Verdict | None) -> Result:
        task, at = self.task, self.located
        told: Record = {
            "id": task.id, "category": task.category, "leaf": task.leaf, "votes": self.votes, "voted": self.voted,
            "located": at.names if at else {}, "how": at.how if at else {}, "missing": at.missing if at else [one.name for one in task.tested],
            "tries": self.tries,
        }  # fmt: skip
        if verdict is None:
            there = at is not None and not {one.name for one in task.tested} & set(at.missing)
            result = "not run" if self.voted else "not voted" if there else "not located"
            return Result(passed=False, result=result, **told)
        return Result(
            passed=verdict.result == "passed",
            result=verdict.result,
            reason=_reason(verdict),
            skipped=verdict.counts["skipped"],
            **told,
        )


def _reason(verdict: Verdict) -> str:
    """The line that says most: the first that pytest marks with E in its short traceback, else the first of all."""
    lines = [line.strip() for line in verdict.detail.split("\n") if line.strip()] if verdict.result != "passed" else []
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    said = marked or [line for line in lines if not line.endswith(":")] or lines
    return said[0][:_REASON] if said else ""


# ---------------------------------------------------------------- by rule


def found_by_rule(task: Task, locator: Locator, package: Package, tries: int) -> Found:
    """Look, vote, look elsewhere: the first place that wins the vote, else the last one tried."""
    found = Found(task, None, [], False, 0)
    for attempt in range(tries):
        located = locator.located(task, attempt)
        if located is None:
            break
        votes = judging.rules(task, located, package, locator.encoder)
        found = Found(task, located, list(votes), judging.passed(votes), attempt + 1)
        if found.voted:
            break
    return found


def names_of(task: Task, located: Located, package: Package) -> Names:
    """What `located` means for the words of the task's test."""
    places, members = located.places(task, package)
    written = frozenset(name for one in task.interfaces for name in one.written)
    modules = frozenset(name for one in task.interfaces if one.kind == "module" for name in one.written)
    methods = frozenset(name for one in task.interfaces if one.kind == "method" for name in one.written)
    variables = frozenset(name for one in task.interfaces if one.kind == "variable" for name in one.written)
    return Names(places, members, written, modules, methods, variables)


def rewritten(task: Task, names: Names) -> tuple[str, list[Support]]:
    """The task's test and support with these names. A file beside the test that is no Python stays as it is: the suite has it
    so, as one that must not be imported."""
    support = [
        one
        if one.text is None or not is_code(one.path, one.text)
        else Support.of(one.path, adapted(one.text, names).encode())
        for one in task.support
    ]
    return adapted(task.query_code, names), support


class Bench:
    """A package with what tests of it need: made once for many tasks."""

    def __init__(self, package: Package, where: Where) -> None:
        self.package, self.where = package, where
        self.beside_tests = package.beside_tests()
        self.roots = package.roots

    def run(
        self, task: Task, source: str, support: Sequence[Support], files: Mapping[str, bytes] | None = None
    ) -> Verdict:
        """files: in place of the package's own, such as stubs."""
        beside = self.beside_tests if files is None else files
        return run_checked(beside, task, source, support, limits=self.where.limits, python=self.where.python, unsafe=self.where.unsafe, roots=self.roots)  # fmt: skip

    def judged(self, found: Found) -> Result:
        """Adapt the test to what was found by rule, and run it."""
        if not found.voted or found.located is None:
            return found.result(None)
        source, support = rewritten(found.task, names_of(found.task, found.located, self.package))
        return found.result(self.run(found.task, source, support))


def in_parallel(
    tasks: Sequence[Task], locator: Locator, bench: Bench, tries: int, journal: Journal | None, prefix: str, step: Any
) -> Iterator[Result]:
    """Results in the order of the tasks; each is in the journal as soon as it is known. step: called with 1 for each."""
    open_: dict[Future[Result], Task] = {}
    known: dict[str, Result] = {}

    def settle(everything: bool) -> None:
        while open_ and (everything or len(open_) >= 2 * bench.where.workers):
            done, _ = wait(open_, return_when=FIRST_COMPLETED)
            for future in done:
                task = open_.pop(future)
                known[task.id] = future.result()
                if journal is not None:
                    journal.put(prefix + task.id, msgspec.to_builtins(known[task.id]))
                step(1)

    with ThreadPoolExecutor(bench.where.workers, "sandbox") as pool:
        try:
            for task in tasks:
                if journal is not None and prefix + task.id in journal:
                    known[task.id] = msgspec.convert(journal.get(prefix + task.id), Result)
                    step(1)
                    continue
                found = found_by_rule(task, locator, bench.package, tries)
                open_[pool.submit(bench.judged, found)] = task
                settle(everything=False)
            settle(everything=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    yield from (known[task.id] for task in tasks)


# ---------------------------------------------------------------- the verb


def run_score(
    repository: str,
    *,
    tasks_file: str,
    rename: str | None,
    gold: str | None,
    taxonomy: str | None,
    ood: float | None,
    tries: int,
    steps: int,
    embeddings: str,
    workers: int,
    test_time: float,
    test_memory: int,
    python: str | None,
    unsafe_no_sandbox: bool,
    backend: Backend,
    sampling: Sampling | None,
    seed: int,
    budget_tokens: int | None,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> int:
    """The verb `craft score`. Exit 1 where a task could not be judged."""
    from tenfold_shared import sandbox
    from zerorepo import __version__
    from zerorepo.generation.verdict import check

    source = Source([tasks_file, *([rename] if rename else []), *([taxonomy] if taxonomy else [])], None)
    tasks = read_tasks(Source([tasks_file], None), "<stdin>" if tasks_file == "-" else tasks_file, to_run=True)
    projects = sorted({task.project for task in tasks})
    if len(projects) > 1:
        raise BadInput(f"{tasks_file}: tasks of {len(projects)} projects: {', '.join(projects)[:200]}; a repository is scored by those of one")  # fmt: skip
    unknown = [task.id for task in tasks if task.gold is None]
    if unknown and gold is None:
        raise BadInput(
            f"{tasks_file}: {len(unknown)} tasks have no ceiling (harvested --unchecked), {unknown[0]} among them; "
            "give --gold DIR, the real package, or harvest again"
        )
    check(python or sys.executable)
    if not unsafe_no_sandbox:
        sandbox.check()
    where = Where(Limits(wall_s=test_time, memory_mb=test_memory), python or sys.executable, unsafe_no_sandbox, workers)
    package = _package(repository)
    real = _package(gold) if gold is not None else None
    name = embeddings if embeddings != "auto" else "tfidf" if lacks() else "minilm"
    renamed = read_rename(rename, package) if rename else {}
    options: Record = {
        **identity(backend), "sampling": msgspec.to_builtins(sampling) if backend.model else None, "seed": seed if backend.model else None,
        "repository": package.name, "sha256": digest_of(package.files), "gold": digest_of(real.files) if real else None,
        "ood": ood, "tries": tries, "versions": steps if backend.model else None, "embeddings": name, "test_time": test_time,
        "test_memory": test_memory, "python": python, "unsafe_no_sandbox": unsafe_no_sandbox,
    }  # fmt: skip
    if output in (None, "-"):
        score = _Score(package, real, tasks, where, tries, seed, renamed, taxonomy, ood, name)
        told, status = score.measured(None, quiet, backend, sampling, steps, budget_tokens)
        print(msgspec.json.encode(told).decode())
        if as_json:
            print(msgspec.json.encode(_summary(told)).decode(), file=sys.stderr)
        return _status(told, status, quiet)
    with Output(output, tool="zerorepo", version=__version__, verb="craft score", options=options, source=source,
                overwrite=overwrite) as out:  # fmt: skip
        if out.finished:
            told = _finished(str(output))
            if not quiet:
                print(f"zerorepo: {output}: complete already; nothing to do", file=sys.stderr)
        else:
            score = _Score(package, real, tasks, where, tries, seed, renamed, taxonomy, ood, name)
            told, status = score.measured(out.journal, quiet, backend, sampling, steps, budget_tokens)
            out.write(told)
            out.finish(_summary(told), seed=seed, status=status, keep_journal=status != "done")
    if as_json:
        print(msgspec.json.encode(_summary(told)).decode())
    return _status(told, told["status"], quiet)


def _finished(output: str) -> Record:
    """A score that is there already. Raises BadInput where it is none any more."""
    try:
        told = msgspec.json.decode(read_text(output, output))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadInput(f"{output}: is no longer what was written: {error}; add --overwrite to score again") from None
    if not isinstance(told, dict) or told.get("schema") != SCHEMA or not {"refused", "status", "gold"} <= told.keys():
        raise BadInput(f"{output}: is no longer what was written; add --overwrite to score again")
    return told


def _package(folder: str) -> Package:
    package = Package.load(folder)
    if not package.units:
        raise BadInput(f"{folder}: no Python code to score; expected a repository or package with functions or classes")
    return package


class _Score:
    def __init__(
        self, package: Package, real: Package | None, tasks: list[Task], where: Where, tries: int, seed: int,
        renamed: Mapping[str, str], taxonomy: str | None, ood: float | None, embeddings: str,
    ) -> None:  # fmt: skip
        self.package, self.real, self.tasks, self.where, self.tries, self.seed = (
            package,
            real,
            tasks,
            where,
            tries,
            seed,
        )
        self.taxonomy, self.ood = taxonomy, ood
        self.tasks_sha256 = hashlib.sha256(b"\n".join(map(dumps, tasks))).hexdigest()
        self.encoder = open_encoder(embeddings)
        self.locator = Locator(package, self.encoder, renamed)
        self.bench = Bench(package, where)

    def measured(
        self,
        journal: Journal | None,
        quiet: bool,
        backend: Backend,
        sampling: Sampling | None,
        steps: int,
        budget: int | None,
    ) -> tuple[Record, str]:
        """(the score, `done` or `budget`)."""
        size = size_of(self.package.files)
        total = len(self.tasks) * (1 if self.real is None else 2)
        refused: dict[str, str] = {}
        status, answered_by = "done", RULES
        with Progress("craft score", total, "tasks", quiet) as progress:
            ceiling = self._ceiling(journal, progress.update)
            reference = coverage.of_json(self.taxonomy) if self.taxonomy else coverage.of_tasks(self.tasks)
            features = coverage.features_of(self.package)
            assignment = coverage.assigned(reference, features, self.encoder, self.ood)
            if backend.model:
                from zerorepo.craft.modelled import Modelled

                assert sampling is not None
                with Modelled(
                    self.bench, self.locator, self.tasks, backend, sampling, self.seed, journal, budget
                ) as model:
                    results, status = model.results(self.tries, steps, progress.update)
                    assignment, status = model.refined(reference, features, assignment, status)
                    refused, answered_by = model.refused, label(model.models)
            else:
                results = list(
                    in_parallel(self.tasks, self.locator, self.bench, self.tries, journal, _RESULT, progress.update)
                )
        count = len(self.tasks)
        for one, real in zip(results, ceiling, strict=True):
            one.beside(real)
        told: Record = {
            "schema": SCHEMA,
            "repository": self.package.name,
            "project": self.tasks[0].project,
            "tasks": count,
            "tasks_sha256": self.tasks_sha256,
            "coverage": assignment.coverage,
            "novelty": assignment.novelty,
            "pass_rate": sum(one.passed for one in results) / count,
            "voting_rate": sum(one.voted for one in results) / count,
            "files": size.files,
            "loc": size.loc,
            "tokens": size.tokens,
            "gold": {
                "pass_rate": sum(one.passed for one in ceiling) / count,
                "voting_rate": sum(one.voted for one in ceiling) / count,
                "tasks": count,
                "measured": "harvest" if self.real is None else "now",
                **self._gold_coverage(reference),
            },
            "taxonomy": {
                "leaves": assignment.leaves, "hit": assignment.hit, "features": assignment.features, "novel": assignment.novel,
                "threshold": assignment.threshold, "embeddings": self.encoder.name,
            },
            "answered_by": answered_by,
            "status": status,
            "refused": refused,
            "left_out": [list(one) for one in size.left_out],
            "results": [msgspec.to_builtins(one) for one in results],
        }  # fmt: skip
        return told, status

    def _gold_coverage(self, reference: coverage.Taxonomy) -> Record:
        """Of the real package, where it is at hand: leaves that lie close to each other are not all hit by it either."""
        if self.real is None:
            return {}
        found = coverage.assigned(reference, coverage.features_of(self.real), self.encoder, self.ood)
        return {"coverage": found.coverage, "novelty": found.novelty}

    def _ceiling(self, journal: Journal | None, step: Any) -> list[Gold]:
        if self.real is None:
            return [task.gold for task in self.tasks if task.gold is not None]
        locator, bench = Locator(self.real, self.encoder, {}), Bench(self.real, self.where)
        results = in_parallel(self.tasks, locator, bench, self.tries, journal, _GOLD, step)
        return [Gold(passed=one.passed, voted=one.voted, skipped=one.skipped) for one in results]


def _summary(told: Record) -> Record:
    return {name: value for name, value in told.items() if name not in ("results", "left_out")}


def _status(told: Record, status: str, quiet: bool) -> int:
    if status == "budget":
        print(
            "zerorepo: --budget-tokens is spent; what was not judged counts as failed, and a larger budget goes on",
            file=sys.stderr,
        )
    for name, why in list(told["refused"].items())[:SHOWN]:
        print(f"zerorepo: {one_line(name)}: no usable answer: {one_line(why)[:200]}", file=sys.stderr)
    if not quiet:
        gold = told["gold"]
        print(
            f"{one_line(told['repository'])}: {told['tasks']} tasks of {one_line(told['project'])}: pass {told['pass_rate']:.1%} (the real package {gold['pass_rate']:.1%}),"
            f" vote {told['voting_rate']:.1%} ({gold['voting_rate']:.1%}), coverage {told['coverage']:.1%}, novelty {told['novelty']:.1%},"
            f" {told['files']:,} files, {told['loc']:,} lines, {told['tokens']:,} tokens; judged by {told['answered_by']}",
            file=sys.stderr,
        )  # fmt: skip
    return 1 if told["refused"] and status != "budget" else 0
