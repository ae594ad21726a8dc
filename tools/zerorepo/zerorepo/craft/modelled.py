"""Scoring with a model: it finds, votes, adapts and refines, where scoring.py does so by rule (P1 app. D).

Under scoring.py, over asked.py, which words the questions. All tasks take a step together, so that a server has many
questions at once. A version of a test that a model wrote must fail while what it tests is a stub, or it is no test of it; the
paper's code never looks. Answers and verdicts are in the journal, and a run that is killed goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import msgspec

from tenfold_shared.cli import Backend
from tenfold_shared.jsonl import Journal
from zerorepo.craft import coverage, judging
from zerorepo.craft.asked import Adaptation, ModelLocator, adapt_all, model_votes, overview
from zerorepo.craft.locate import Located, Locator
from zerorepo.craft.running import without_bodies
from zerorepo.craft.scoring import Bench, Found, Result, names_of, rewritten
from zerorepo.craft.tasks import Support, Task
from zerorepo.generation.asking import Asker, OverBudget, open_generator
from zerorepo.generation.verdict import Verdict

if TYPE_CHECKING:
    from tenfold_shared.generate import Sampling

VACUOUS = "It passes while the code that it tests is a stub, so it tests nothing of it."


class _Version(msgspec.Struct):
    """A test as it stands, and what its run said."""

    source: str
    support: list[Support]
    verdict: Verdict
    by_model: int = 0  # how often a model was asked for it


class Modelled:
    """One model for all that a score asks. `refused`: questions without a usable answer; `models`: who answered."""

    def __init__(
        self, bench: Bench, locator: Locator, tasks: Sequence[Task], backend: Backend, sampling: Sampling, seed: int,
        journal: Journal | None, budget: int | None,
    ) -> None:  # fmt: skip
        self.bench, self.locator, self.tasks, self.journal = bench, locator, list(tasks), journal
        self.generator = open_generator(backend, seed)
        self.asker = Asker(self.generator, sampling, seed, journal, budget)
        self.overview = overview(bench.package)
        self.found: dict[str, Found] = {}
        self.versions: dict[str, _Version] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.generator.close()

    @property
    def refused(self) -> dict[str, str]:
        return self.asker.refused

    @property
    def models(self) -> set[str]:
        return self.asker.models

    def results(self, tries: int, steps: int, step: Callable[[int], object]) -> tuple[list[Result], str]:
        """(results in the order of the tasks, `done` or `budget`). What a budget left open counts as not found or not passed."""
        status = "done"
        try:
            self._find(tries)
            self._adapt(steps)
        except OverBudget:
            status = "budget"
        results = []
        for task in self.tasks:
            found = self.found.get(task.id) or Found(task, None, [], False, 0)
            version = self.versions.get(task.id)
            results.append(found.result(version.verdict if found.voted and version is not None else None))
            step(1)
        return results, status

    def refined(
        self, taxonomy: coverage.Taxonomy, features: list[str], assignment: coverage.Assignment, status: str
    ) -> tuple[coverage.Assignment, str]:
        """(the assignment of features with what the model moves, status)."""
        if status != "done":
            return assignment, status
        try:
            return coverage.refined(self.asker, taxonomy, features, assignment, self.overview), status
        except OverBudget:
            return assignment, "budget"

    # ------------------------------------------------------------ find and vote

    def _find(self, tries: int) -> None:
        model = ModelLocator(self.locator, self.asker, self.overview)
        open_, reasons = self.tasks, dict[str, list[str]]()
        for attempt in range(tries):
            placed = [
                (task, at)
                for task, at in zip(open_, model.located_all(open_, attempt, reasons), strict=True)
                if at is not None
            ]
            if not placed:
                return
            tasks, located = [task for task, _ in placed], [at for _, at in placed]
            told = model_votes(self.asker, tasks, located, self.bench.package, self.overview, attempt)
            for task, at, (votes, why) in zip(tasks, located, told, strict=True):
                written = (
                    judging.rules(task, at, self.bench.package)[0] == "yes"
                )  # a stub loses, whatever is said of it
                self.found[task.id] = Found(task, at, list(votes), judging.passed(votes) and written, attempt + 1)
                reasons[task.id] = why if written else [*why, "what was located is a stub"]
            open_ = [task for task in tasks if not self.found[task.id].voted]

    # ------------------------------------------------------------ adapt and run

    def _adapt(self, steps: int) -> None:
        open_ = [one for one in self.found.values() if one.voted]
        drafts = {one.task.id: self._by_rule(one) for one in open_}
        self._run([(one, *drafts[one.task.id], 0) for one in open_])
        for step in range(steps - 1):
            open_ = [one for one in open_ if self.versions[one.task.id].verdict.result != "passed"]
            if not open_:
                return
            items = [self._item(one, step) for one in open_]
            made = adapt_all(self.asker, items, self.bench.package, self.overview)
            again = [
                (one, source, drafts[one.task.id][1], step + 1)
                for one, source in zip(open_, made, strict=True)
                if source is not None
            ]
            self._run(again)
            open_ = [one for one, *_ in again]

    def _by_rule(self, found: Found) -> tuple[str, list[Support]]:
        assert found.located is not None
        return rewritten(found.task, names_of(found.task, found.located, self.bench.package))

    def _item(self, found: Found, step: int) -> Adaptation:
        assert found.located is not None
        version = self.versions[found.task.id]
        return Adaptation(found.task, found.located, version.source, version.verdict.detail, step)

    def _run(self, drafts: Iterable[tuple[Found, str, list[Support], int]]) -> None:
        with ThreadPoolExecutor(self.bench.where.workers, "sandbox") as pool:
            waiting = [
                (found, source, support, asked, pool.submit(self._verdict, found, source, support, asked > 0))
                for found, source, support, asked in drafts
            ]
            for found, source, support, asked, future in waiting:
                self.versions[found.task.id] = _Version(source, support, future.result(), asked)

    def _verdict(self, found: Found, source: str, support: list[Support], by_model: bool) -> Verdict:
        assert found.located is not None
        key = self._key(found.task, found.located, source)
        if self.journal is not None and key in self.journal:
            return msgspec.convert(self.journal.get(key), Verdict)
        verdict = self.bench.run(found.task, source, support)
        if verdict.result == "passed" and by_model:
            units = [found.located.names[one.name] for one in found.task.tested if one.name in found.located.names]
            on_stubs = self.bench.run(found.task, source, support, without_bodies(self.bench.package, units))
            if on_stubs.result == "passed":
                verdict = msgspec.structs.replace(verdict, result="failed", detail=VACUOUS)
        if self.journal is not None:
            self.journal.put(key, msgspec.to_builtins(verdict))
        return verdict

    @staticmethod
    def _key(task: Task, located: Located, source: str) -> str:
        told: list[Any] = [task.id, sorted(located.names.items()), source]
        return "run " + hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:24]
