"""Chains over a model, scheduled call by call.

Under `dser solve` (solve.py) and the Python API's `run_chains`; over chain.py, which is one chain. Any chain that has a
call to make may make it: the least advanced first, so that a slow one holds nobody up and the last ones end together. A
backend in static batches gets blocks of chains that go in step, and a block that a kill cut is run again batch by batch,
so that it computes the same numbers.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import msgspec

from dser import prompts as asked
from dser.chain import Call, Step
from dser.log import Problem, RunFolder, Settings, key_of
from dser.prompts import Prompts, Reading
from dser.vote import Ballot, Grader, outcome, stop_iteration
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.generate import Completion, Generator, Request, Sampling
from tenfold_shared.jsonl import Located
from tenfold_shared.progress import Progress

Record = dict[str, Any]
AHEAD = 2  # chains under way for each request in flight
SHRINKS = 2  # times a prompt that overflows the context is cut and sent again
IDENTICAL_CHARS = 200  # identical first solutions of this length are no chance


def call_seed(seed: int, name: str, chain: int, iteration: int, role: str) -> int:
    """63 bits of hash(run seed, problem, chain, iteration, role): a call's own random stream."""
    digest = hashlib.blake2b(key_of(f"{seed}\x1f{name}", chain, iteration, role).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class _Line:
    """A chain under way. texts: without a log, its solutions by iteration, the kept ones left out. first: of solution 0,
    where it is long enough to be no chance."""

    __slots__ = ("calls", "chain", "first", "index", "running", "shrink", "texts", "work")

    def __init__(self, work: _Work, index: int) -> None:
        self.work, self.index = work, index
        self.chain = work.problem.chain(index)
        self.calls = self.shrink = 0
        self.running = False
        self.texts: dict[int, str] = {}
        self.first: str | None = None

    @property
    def failed(self) -> str | None:
        return self.work.problem.failed.get(self.index)

    @property
    def call(self) -> Call | None:
        return None if self.failed is not None or self.work.stopped is not None else self.chain.next


class _Work:
    """A problem under way. stopped: the iteration at which --early-stop ended it. level: next iteration to look at."""

    def __init__(self, problem: Problem, task: Record, serial: int) -> None:
        self.problem, self.task, self.serial = problem, task, serial
        self.lines = [_Line(self, index) for index in range(problem.settings.chains)]
        self.stopped: int | None = None
        self.level = problem.settings.window

    @property
    def over(self) -> bool:
        return all(line.call is None and not line.running for line in self.lines)


class Outcome(msgspec.Struct):
    """What became of a problem: its chains (what `report_of` takes), the sample for stdout, the line of answers.jsonl,
    those of chains.jsonl."""

    problem: Problem
    sample: Record
    answer: Record
    chains: list[Record]
    failed: bool


class Runner:
    """Chains for a stream of tasks. static: the batch size of a backend in static batches, None for any other.

    first: the first task's place among those of all shards. budget: tokens, prompt and generated, after which no call is begun; calls read from the log count. Deterministic
    results: each call's prompt and seed come from its own chain alone.
    """

    def __init__(
        self,
        tasks: Iterable[Located],
        settings: Settings,
        prompts: Prompts,
        reading: Reading,
        sampling: Sampling,
        *,
        seed: int = 0,
        log: RunFolder | None = None,
        static: int | None = None,
        concurrency: int = 1,
        budget: int | None = None,
        deadline: float | None = None,
        context: int | None = None,
        progress: Progress | None = None,
        first: int = 0,
    ) -> None:
        self._tasks, self.settings, self.prompts, self.reading = iter(tasks), settings, prompts, reading
        self.sampling, self.seed, self.log, self.static = sampling, seed, log, static
        self._ahead = AHEAD * concurrency
        self.budget, self.deadline, self.context, self._progress = budget, deadline, context, progress
        self._order: deque[_Work] = deque()
        self._ready: list[tuple[int, int, int, _Line]] = []
        self._flying: dict[str, _Line] = {}
        self._trimmed: dict[str, dict[str, int]] = {}
        self._sent: dict[str, int] = {}  # characters of solution and review as first sent
        self._open = 0  # chains that have calls left
        self._serial = itertools.count(first)
        self._more = True
        self._grader = Grader()
        self.tokens = self.calls = 0
        self.status = "done"
        self.identical = 0
        self.errors: dict[str, list[str]] = {}  # what chains ended with: which
        self.generator: Any = None
        self.tell: Callable[[Record], None] | None = None

    # ------------------------------------------------------------ calls out

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def stopping(self) -> bool:
        if self._late():
            self.status = "time"
        elif self.budget is not None and self.tokens >= self.budget:
            self.status = "budget"
        return self.status != "done"

    def requests(self) -> Iterator[Request | None]:
        """The calls as the backend asks for them; None where all that is left hangs on calls in flight."""
        return self._blocks() if self.static else self._free()

    def _free(self) -> Iterator[Request | None]:
        while True:
            if self._more and self.budget is not None and not self._late():
                self._admit()  # all of them: they share the budget, and what the log has of each counts
            elif self.stopping():
                return
            elif self._more and (self._open < self._ahead or not self._ready):
                self._admit()
            elif self._ready:
                line = heapq.heappop(self._ready)[3]
                if line.call is not None:
                    yield self._request(line)
            elif self._flying:
                yield None
            else:
                return

    def _admit(self) -> None:
        found = next(self._tasks, None)
        if found is None:
            self._more = False
            return
        work = self._begin(found[1])
        for line in work.lines:
            self._open += 1
            self._forward(line)

    def _begin(self, task: Record) -> _Work:
        work = _Work(Problem(task["id"], self.settings, task), task, next(self._serial))
        self._order.append(work)
        if self.tell is not None:
            self.tell(task)
        return work

    def _forward(self, line: _Line) -> None:
        """Take what the log has of this chain, then put its next call up."""
        # Also past an early stop, so that a rerun counts the tokens of the run.
        while (call := line.chain.next) is not None and self.log is not None:
            key = key_of(line.work.task["id"], line.index, call.iteration, call.role)
            if key not in self.log:
                break
            self._count(step := self.log.read(key))
            self._advance(line, step)
        if line.call is not None:
            heapq.heappush(self._ready, (line.calls, line.work.serial, line.index, line))
        else:
            self._open -= 1

    def _blocks(self) -> Iterator[Request | None]:
        """Blocks of `static` chains in step: a round is one call of each chain that has one left."""
        assert self.static
        lines = self._lines()
        while not self.stopping() and (block := list(itertools.islice(lines, self.static))):
            while due := [line for line in block if line.call is not None]:
                if self.stopping():
                    break
                keys = [self._key(line) for line in due]
                if self.log is not None and all(key in self.log for key in keys):
                    for line, key in zip(due, keys, strict=True):
                        self._count(step := self.log.read(key))
                        self._advance(line, step)
                    continue
                for line in due:
                    yield self._request(line)
                yield None
        if self.status == "budget":
            for _ in lines:  # the problems that nothing was left for are told of, too
                pass

    def _lines(self) -> Iterator[_Line]:
        for _, task in self._tasks:
            yield from self._begin(task).lines

    def _key(self, line: _Line) -> str:
        call = line.call
        assert call is not None
        return key_of(line.work.task["id"], line.index, call.iteration, call.role)

    def _request(self, line: _Line) -> Request:
        call = line.call
        assert call is not None
        name, chain, task = line.work.task["id"], line.chain, line.work.task
        key = self._key(line)

        def build(solution: str, review: str) -> list[Record]:
            return self.prompts.messages(call.role, task, chain, solution, review)

        solution, review = chain.solution or "", chain.review if call.role in ("refine", "check") else ""
        seed = call_seed(self.seed, name, line.index, call.iteration, call.role)
        messages, trimmed = asked.fitted(build, solution, review, self._room(key, seed, line), self.reading)
        if trimmed is not None:
            self._trimmed[key] = trimmed
        line.running = True
        self._flying[key] = line
        return Request(key=key, messages=messages, seed=seed)

    def _room(self, key: str, seed: int, line: _Line) -> Callable[[list[Record]], bool]:
        """Whether messages leave room for max_tokens in the context; by the model's tokenizer where it is here.

        A server's context is what --context says, at 3 characters a token; after a refusal, half of what was sent.
        """
        known = self.context or getattr(self.generator, "context", None)
        scale = 0.5**line.shrink
        start = sum(len(str(m["content"])) for m in self.prompts.messages("solve", line.work.task, line.chain, "", ""))

        def fits(messages: list[Record]) -> bool:
            text = sum(len(str(message["content"]).encode()) for message in messages)
            if scale < 1 and text - start > scale * self._sent.get(key, 0):
                return False
            if line.shrink == 0:
                self._sent[key] = max(self._sent.get(key, 0), text - start)
            if known is None:
                return True
            room = known - self.sampling.max_tokens
            if text + 64 * len(messages) <= room:
                return True  # a token is at least a byte
            count = (
                self.generator.count_tokens(Request(key=key, messages=messages, seed=seed)) if self.generator else None
            )
            return (count if count is not None else text // 3) <= room

        return fits

    # ------------------------------------------------------------ replies in

    def take(self, done: Completion) -> None:
        """The reply to one call."""
        line = self._flying.pop(done.key)
        line.running = False
        trimmed = self._trimmed.pop(done.key, None)
        if done.finish_reason == "error":
            if asked.OVERFLOW.search(done.error or "") and line.shrink < SHRINKS and line.chain.solution:
                line.shrink += 1
            else:
                self._fail(line, done)
            if not self.static:
                self._again(line)
            return
        self._sent.pop(done.key, None)
        line.shrink = 0
        call = line.chain.next
        if call is None:
            return
        step = self._step(line, call, done, trimmed)
        if self.log is not None:
            self.log.append(done.key, step)
        self._count(step)
        self.calls += 1
        if self._progress is not None:
            self._progress.update()
        self._advance(line, step)
        if not self.static:
            self._again(line)

    def _fail(self, line: _Line, done: Completion) -> None:
        call = line.chain.next
        assert call is not None
        error = done.error or "no reply"
        line.work.problem.failed[line.index] = error
        self.errors.setdefault(error, []).append(f"{line.work.task['id']}, chain {line.index}")
        if self.log is not None:
            step = self._blank(line, call)
            step.finish_reason, step.error = "error", error
            self.log.append(done.key, step)

    def _again(self, line: _Line) -> None:
        if line.call is not None:
            heapq.heappush(self._ready, (line.calls, line.work.serial, line.index, line))
        else:
            self._open -= 1

    def _count(self, step: Step) -> None:
        if self.budget is not None and step.text and not step.completion_tokens:
            raise BadInput("--budget-tokens: the model tells no token counts (`usage`), so that no budget can be kept")
        self.tokens += step.prompt_tokens + step.completion_tokens

    def _step(self, line: _Line, call: Call, done: Completion, trimmed: dict[str, int] | None) -> Step:
        step = self._blank(line, call)
        step.finish_reason, step.model, step.trimmed = done.finish_reason, done.model, trimmed
        step.prompt_tokens, step.completion_tokens = done.prompt_tokens, done.completion_tokens
        text, step.truncated = asked.solution_text(done, self.reading.thinking)
        step.looped = asked.loops(done.text)
        if call.role in ("verify", "check"):
            step.text, step.verdict = text or "", asked.verdict_of(text, self.reading)
        else:
            answer = asked.answer_of(text, self.reading) if text is not None else None
            lost = text is None or (answer is None and (step.truncated or call.role == "force"))
            step.kept = lost or (answer is None and self.settings.procedure.keep_without_answer)
            if not step.kept:
                step.text, step.answer = text or "", answer
            elif self.settings.procedure.force_answer and step.truncated:
                step.trace = done.text.removeprefix("<think>") or done.reasoning or ""
        return step

    def _blank(self, line: _Line, call: Call) -> Step:
        step = Step(
            schema="step/1", id=line.work.task["id"], chain=line.index, iteration=call.iteration, role=call.role
        )
        if call == ("solve", 0):
            step.task, step.run, step.position = line.work.task, msgspec.to_builtins(self.settings), line.work.serial
        return step

    def _advance(self, line: _Line, step: Step) -> None:
        line.calls += 1
        line.work.problem.note(step)
        line.work.problem.model = step.model
        before = len(line.chain.cells)
        line.chain.take(step)
        if step.role not in ("verify", "check") and not step.kept:
            if self.log is None:
                line.texts[step.iteration] = step.text
            if step.role == "solve" and step.iteration == 0 and len(step.text) >= IDENTICAL_CHARS:
                line.first = hashlib.sha256(step.text.encode()).hexdigest()
        if len(line.chain.cells) > before and self.settings.early_stop > 0:
            self._look(line.work)

    def _look(self, work: _Work) -> None:
        """Whether --early-stop ends the problem, iteration by iteration, once all its chains are that far."""
        last = self.settings.procedure.iterations
        while work.stopped is None and work.level < last:
            for line in work.lines:
                if len(line.chain.cells) <= work.level and not line.chain.ended and line.failed is None:
                    return
            if stop_iteration(work.problem, self.settings.early_stop, work.level):
                work.stopped = work.level
            work.level += 1

    # ------------------------------------------------------------ problems out

    def finished(self, final: bool = False) -> Iterator[Outcome]:
        """Problems that are over, in input order; `final`: whatever there is of all that were begun."""
        while self._order and (final or self._order[0].over):
            yield self._outcome(self._order.popleft())

    def _outcome(self, work: _Work) -> Outcome:
        problem = work.problem
        ballot, record, cut = outcome(problem, self._grader, work.stopped)
        first = {line.first for line in work.lines}
        if len(work.lines) > 1 and len(first) == 1 and None not in first:
            self.identical += 1
        return Outcome(
            problem,
            self._sample(work, ballot, record),
            record,
            list(self._cells(problem, work.stopped)),
            bool(problem.failed) or (ballot.answer is None and not cut),
        )

    def _text(self, work: _Work, chain: int, iteration: int) -> str:
        """The solution that chain has at iteration: the last one made by then, from the log where there is one."""
        if self.log is None:
            texts = work.lines[chain].texts
            return texts[max(n for n in texts if n <= iteration)]
        name = work.task["id"]
        for n in range(iteration, -1, -1):
            for role in ("improve", "force", "refine", "solve"):  # of one iteration, the last that gave a solution
                if (key := key_of(name, chain, n, role)) in self.log and not (step := self.log.read(key)).kept:
                    return step.text
        raise AssertionError(f"{name}: chain {chain} has an answer at iteration {iteration} and no solution")

    def _sample(self, work: _Work, ballot: Ballot, record: Record) -> Record:
        text = ""
        if ballot.chain is not None and ballot.iteration is not None:
            text = self._text(work, ballot.chain, ballot.iteration)
        problem, task = work.problem, work.task
        told = {
            "answer": ballot.answer,
            "votes": [{"answer": one["answer"], "votes": one["votes"]} for one in ballot.counts],
            "effective_votes": ballot.effective_votes,
            "status": record["status"],
        }
        sample = {
            **task,
            "schema": shapes.schema("sample"),
            "sample": 0,
            "response": text,
            "finish_reason": "stop" if ballot.answer is not None else "error",
            "usage": {
                "prompt_tokens": sum(problem.prompted.values()),
                "completion_tokens": sum(problem.generated.values()),
            },
            "model": problem.model,
            "meta": {**(task.get("meta") or {}), "dser": told},
        }
        if ballot.answer is None:
            sample["error"] = record.get("error", "no chain has an answer")
        return sample

    def _cells(self, problem: Problem, stopped: int | None) -> Iterator[Record]:
        """Lines of chains.jsonl: one an iteration of each chain, as far as it counts."""
        last = self.settings.procedure.iterations if stopped is None else stopped
        for index, chain in sorted(problem.chains.items()):
            rows = zip(chain.cells, chain.verdicts, chain.carried, strict=True)
            for n, (answer, verdict, carried) in enumerate(itertools.islice(rows, last + 1)):
                # A verdict at an early stop may or may not be there yet, and counts for nothing.
                shown = None if n == stopped else verdict
                record = {"id": problem.name, "chain": index, "iteration": n, "answer": answer, "verdict": shown}
                if problem.gold is not None:
                    record["correct"] = self._grader.correct(problem.task, answer)
                yield {**record, "kept": carried}


def run_chains(
    generator: Generator,
    tasks: Iterable[Record],
    settings: Settings | None = None,
    sampling: Sampling | None = None,
    *,
    prompts: Prompts | None = None,
    reading: Reading | None = None,
    seed: int = 0,
    concurrency: int = 32,
) -> Iterator[Outcome]:
    """Chains for `tasks` on an open generator, without files: an Outcome a task, in order. Raises what it raises."""
    located = ((f"task {number}", task) for number, task in enumerate(tasks, 1))
    runner = Runner(
        located,
        settings or Settings(),
        prompts or Prompts(),
        reading or Reading(),
        sampling or Sampling(temperature=0.6, top_p=0.95, max_tokens=4096),
        seed=seed,
        static=generator.batch_size,
        concurrency=concurrency,
    )
    yield from drive(runner, lambda: generator)


def drive(runner: Runner, open_model: Callable[[], Any]) -> Iterator[Outcome]:
    """Run a runner's calls on the model, which is opened only if there is one to make."""
    calls = runner.requests()
    first = next(calls, None)
    yield from runner.finished()
    if first is None:
        return
    runner.generator = open_model()
    source = itertools.chain([first], calls)
    with closing(runner.generator.generate(source, runner.sampling)) as completions:
        for done in completions:
            runner.take(done)
            yield from runner.finished()
            if runner.deadline is not None and runner.stopping() and runner.status == "time":
                break
    yield from runner.finished()
