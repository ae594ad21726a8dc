"""Stage C over a whole plan: many leaves at once, one journal, one writer.

The leaves (leaf.py) say what they need; here their questions go to one model, so that a server sees all of them at
once, and their tests to a pool of sandboxes. A leaf is built on the skeleton with the code of its prerequisites in it
and nothing else, so that its result does not depend on which others happened to be finished: any number of workers,
killed and started again, comes to the same tree. The last word has a run of all tests on the whole tree.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import msgspec

from tenfold_shared.progress import Progress
from zerorepo.generation import prompts
from zerorepo.generation.asking import Answer, Ask, Asker, OverBudget
from zerorepo.generation.folder import digest_of
from zerorepo.generation.leaf import TRIES, Context, Making, NoAnswer, Result, Run, make_integration, make_leaf
from zerorepo.generation.order import Plan, Task, plan, ready
from zerorepo.generation.runner import Runner
from zerorepo.generation.states import State, States
from zerorepo.generation.verdict import Verdict
from zerorepo.graph import Graph


class Built(NamedTuple):
    """results: task to its result, of those settled, in the order of the plan; status: done, budget, time, or error where
    the model did not answer. unanswered: task to why; what needs it is pending as well. together: what
    goes wrong where all tests run in one process, though each holds alone."""

    plan: Plan
    results: dict[str, Result]
    status: str
    unanswered: Mapping[str, str] = {}
    together: str = ""

    @property
    def failed(self) -> list[str]:
        return [key for key, one in self.results.items() if one.status == "failed"]


class Builder:
    """One run over one skeleton. files: path to bytes; graph: its rpg.json. tries: codes written for a leaf at most;
    concurrency: leaves under way at once."""

    def __init__(
        self, files: Mapping[str, bytes], graph: Graph, asker: Asker, runner: Runner, *, tries: int = TRIES,
        concurrency: int = 8, max_time: float | None = None, quiet: bool = True,
    ) -> None:  # fmt: skip
        self.files, self.graph, self.asker, self.runner = files, graph, asker, runner
        self.tries, self.concurrency, self.quiet = tries, concurrency, quiet
        self.end = None if max_time is None else time.monotonic() + max_time
        self.plan = plan(graph)
        self.results: dict[str, Result] = {}
        self.states = States(files, self.plan, self.results)
        self._task = {task.id: task for task in self.plan.tasks}
        self._features = features_of(graph)
        self._system = prompts.overview(graph, self.states.texts)
        self._making: dict[str, Making] = {}
        self._bases: dict[str, State] = {}
        self._asks: deque[tuple[_Tag, Ask]] = deque()  # to be sent
        self._waiting: dict[str, dict[int, Answer | None]] = {}  # task to the answers of what it asked
        self._asked = 0
        self._runs: queue.SimpleQueue[tuple[str, str, Future[Verdict]]] = queue.SimpleQueue()
        self._running = 0
        self._unanswered: dict[str, str] = {}
        self._together = ""

    def run(self) -> Built:
        """Settle every task, or as many as budget and time allow. Raises Missing where model or sandbox fail."""
        status = "done"
        with Progress("build", len(self.plan.tasks), "leaves", self.quiet) as self._progress:
            try:
                self._loop()
                if self._unanswered:
                    status = "error"
                else:
                    self._whole()
            except OverBudget:
                status = "budget"
            except _OutOfTime:
                status = "time"
        order = [task.id for task in self.plan.tasks if task.id in self.results]
        return Built(self.plan, {key: self.results[key] for key in order}, status, self._unanswered, self._together)

    # ------------------------------------------------------------ the loop

    def _loop(self) -> None:
        self._start()
        while self._making:
            if self._asks:
                for tag, answer in self.asker.stream(self._feed()):  # tags are those of _feed
                    self._asked -= 1
                    self._answered(tag, answer)
                continue
            if not self._running:
                raise RuntimeError(f"{next(iter(self._making))}: waits for nothing")
            self._ran(*self._runs.get())

    def _feed(self) -> Iterator[tuple[Any, Ask] | None]:
        """Questions as they come up; None while only an answer can bring the next one."""
        while True:
            self._drain()
            if self._asks:
                self._in_time()
                self._asked += 1
                yield self._asks.popleft()
            elif self._asked:
                yield None
            else:
                return

    def _drain(self) -> None:
        while True:
            try:
                self._ran(*self._runs.get_nowait())
            except queue.Empty:
                return

    def _in_time(self) -> None:
        """Before what costs time: what the journal has is free."""
        if self.end is not None and time.monotonic() > self.end:
            raise _OutOfTime

    def _start(self) -> None:
        """Begin what is ready. What a killed run had settled goes its way again by the journal, so that its cost is told."""
        again = True
        while again:
            again = False
            for task in ready(self.plan.tasks, self.results, self._making.keys() | self._unanswered.keys()):
                if len(self._making) >= self.concurrency:
                    return
                self._bases[task.id] = base = self.states.before(task)
                self._making[task.id] = self._made(task, base)
                if self._step(task.id, None):
                    again = True

    def _made(self, task: Task, base: State) -> Making:
        context = Context(
            self.graph, self._system, self.states.at(base), self._features, self._regressions(task, base), self.tries,
            self.states.encodings, self.states.texts,
        )  # fmt: skip
        if task.is_leaf:
            return make_leaf(task, context)
        needs = set(task.needs)
        members = [one for one in self.plan.tasks if one.id in needs and one.is_leaf and self.results[one.id].status == "done"]  # fmt: skip
        return make_integration(task, context, members)

    def _regressions(self, task: Task, base: State) -> list[str]:
        """Tests that hold on the tree a task is built on: of its file, or of its area."""
        within = [one for one in self.plan.tasks if one.id in self.results and self.results[one.id].status == "done"]
        if task.is_leaf:
            chosen = [one for one in within if one.is_leaf and one.path == task.path and self.states.holds(base, one)]
        else:
            chosen = [one for one in within if one.id in task.needs and one.is_leaf]
        return [path for one in chosen for path in self.results[one.id].tests]

    def _step(self, key: str, reply: Any) -> bool:
        """Hand a reply to a task and see what it needs next; True where it is settled. Replies that are known already are
        handed on at once."""
        while True:
            try:
                effect = self._making[key].send(reply)
            except NoAnswer as error:
                del self._making[key]
                self._unanswered[key] = str(error)
                return True
            except StopIteration as ended:
                del self._making[key]
                result: Result = ended.value
                if self.asker.journal is not None and f"result|{key}" not in self.asker.journal:
                    self.asker.journal.put(f"result|{key}", result)  # for `status`
                self._settle(self._task[key], result)
                return True
            if isinstance(effect, Run):
                files = self._tree_of(key, effect)
                name = _name_of(digest_of(files), effect)
                if self.asker.journal is not None and name in self.asker.journal:
                    reply = msgspec.convert(self.asker.journal.get(name), Verdict)
                    continue
                self._in_time()
                self._running += 1
                future = self.runner.submit(files, list(effect.tests))
                future.add_done_callback(partial(self._finished, key, name))
                return False
            many = effect if isinstance(effect, list) else [effect]
            replies = {at: self.asker.known(ask) for at, ask in enumerate(many)}
            missing = [at for at, answer in replies.items() if answer is None]
            if missing:
                self._waiting[key] = replies
                self._asks += [(_Tag(key, at, isinstance(effect, list)), many[at]) for at in missing]
                return False
            reply = [replies[at] for at in range(len(many))] if isinstance(effect, list) else replies[0]

    def _answered(self, tag: _Tag, answer: Answer) -> None:
        replies = self._waiting[tag.task]
        replies[tag.at] = answer
        if any(one is None for one in replies.values()):
            return
        del self._waiting[tag.task]
        if self._step(tag.task, [replies[at] for at in range(len(replies))] if tag.many else replies[0]):
            self._start()

    def _ran(self, key: str, name: str, done: Future[Verdict]) -> None:
        self._running -= 1
        verdict = done.result()
        if self.asker.journal is not None:
            self.asker.journal.put(name, verdict)
        if self._step(key, verdict):
            self._start()

    def _finished(self, key: str, name: str, done: Future[Verdict]) -> None:
        """Called in a thread of the pool."""
        self._runs.put((key, name, done))

    def _settle(self, task: Task, result: Result) -> None:
        self.results[task.id] = result
        self._progress.update()

    def _tree_of(self, key: str, run: Run) -> dict[str, bytes]:
        files = self.states.bytes_at(self._bases[key])
        for path in run.tests:
            if path not in run.changed:
                files[path] = self._test_text(path).encode()
        files.update({path: self.states.encoded(path, text) for path, text in run.changed.items()})
        return files

    def _test_text(self, path: str) -> str:
        return next(one.tests[path] for one in self.results.values() if path in one.tests)

    # ------------------------------------------------------------ the whole tree

    def _whole(self) -> None:
        """All tests on the tree with everything in it. A leaf whose test held on its prerequisites alone and does not hold
        here goes back to its stub and is failed."""
        while True:
            files, owners = self.whole()
            tests = sorted(owners)
            together = self._verdicts(files, [tests])[0] if tests else None
            if together is None or together.result == "passed":
                return
            alone = self._verdicts(files, [[path] for path in tests])
            guilty = [owners[path] for path, one in zip(tests, alone, strict=True) if one.result != "passed"]
            if not guilty:  # what one leaves behind for another is the tests' affair, but not passed over
                self._together = together.detail
                return
            for key in guilty:
                failed = msgspec.structs.replace(self.results[key], status="failed", why="its test fails on the whole tree", patches=[])  # fmt: skip
                self.results[key] = failed
            self.states = States(self.files, self.plan, self.results)

    def whole(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """The finished tree with the tests of what is done in it, and whose each test is."""
        files = self.states.bytes_at(self.states.last)
        owners = {}
        for key, result in self.results.items():
            if result.status == "done":
                for path, text in result.tests.items():
                    files[path] = text.encode()
                    owners[path] = key
        return files, owners

    def _verdicts(self, files: Mapping[str, bytes], runs: list[list[str]]) -> list[Verdict]:
        """Of many runs on one tree, as many at once as the runner has room for."""
        journal, tree = self.asker.journal, digest_of(files)
        names = [_name_of(tree, Run({}, tests, -1)) for tests in runs]
        fresh = {}
        for name, tests in zip(names, runs, strict=True):
            if journal is None or name not in journal:
                fresh[name] = self.runner.submit(files, tests)
        if journal is not None:
            for name, done in fresh.items():
                journal.put(name, done.result())
        return [
            fresh[name].result() if name in fresh or journal is None else msgspec.convert(journal.get(name), Verdict)
            for name in names
        ]


class _OutOfTime(Exception):
    pass


class _Tag(NamedTuple):
    """Which question of which task an answer is to; many: the task waits for a list."""

    task: str
    at: int
    many: bool


def features_of(graph: Graph) -> dict[str, list[str]]:
    """Unit to the features a plan gave it; of a method also those of its class."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.kind == "feature" and node.qualname:
            found.setdefault(f"{node.path}:{node.qualname}", []).append(node.name)
    for node in graph.nodes:
        if node.kind == "method":
            outer = found.get(node.id.rpartition(".")[0], [])
            found[node.id] = [*found.get(node.id, []), *outer]
    return {key: names for key, names in found.items() if names}


def _name_of(tree: str, run: Run) -> str:
    """Of a run in the journal: the same files and tests are the same run."""
    return f"run|{hashlib.sha256(msgspec.json.encode([tree, sorted(run.tests), run.turn])).hexdigest()[:24]}"
