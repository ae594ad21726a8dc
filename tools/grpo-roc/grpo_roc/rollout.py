"""Trajectories of a model that runs Python while it thinks (arXiv 2508.20722, sections 2.1 and 3.2).

A trajectory asks its engine for a turn; the calls of the turn go to the code environment the moment it ends; what they print is appended, and the next turn begins. No trajectory waits for another. It ends with a
turn without a call, at the cap of turns, or where its budget of tokens, tool text included, has no room: the last token is always the model's.

`lockstep` gives up speed for the same bytes in every run: turns begin together, and no later than all calls of the turn before have come back, so that an engine's batches do not hang on the clock.

Where it sits: above engine_fleet.py, dialogue.py and env/; below train.py, evaluate.py and the verbs that write trajectories.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from grpo_roc import engine_fleet, verify
from grpo_roc.dialogue import CELLS, SHOWN, Call, Dialogue, calls_in, response, wrapped
from grpo_roc.engine_protocol import Engine, Turn
from grpo_roc.env.environment import Program, Result
from tenfold_shared import answers
from tenfold_shared.records import schema

Record = dict[str, Any]
QUIET = 60.0  # seconds without the end of a turn after which it is said


class Task(msgspec.Struct, frozen=True):
    """meta: of the record it is from, which may say how its answer is compared."""

    id: str
    prompt: str
    answer: Any
    meta: Any = None


class Settings(msgspec.Struct, frozen=True):
    """turns: cap T; max_tokens: budget L of a response, tool text included; shown: characters of a call's output; deadline: seconds for a whole batch, after which what still runs is cut off (0: none);
    noise_timeout, noise_error: shares of calls that are failed on purpose, drawn by (group, rollout, call), for experiments."""

    turns: int = 10
    max_tokens: int = 8192
    shown: int = SHOWN
    call_timeout: float = 4.0
    deadline: float = 0.0
    lockstep: bool = False
    noise_timeout: float = 0.0
    noise_error: float = 0.0
    scope: verify.Scope = "answer"
    form: verify.Form = "number"
    seed: int = 0
    admission: engine_fleet.Policy = "auto"


class Trajectory(msgspec.Struct):
    """ids: prompt and response; mask and logp: of the response, True and a log-probability where the model sampled. finish: `stop`, `length` (its budget), `turns`, `deadline`."""

    group: str
    rollout: int
    task: Task
    prompt: int
    ids: list[int]
    mask: list[bool] = []
    logp: list[float] = []
    turns: list[Record] = []
    finish: str = ""
    reward: float = 0.0
    grade: str = ""
    grade_reason: str = ""

    @property
    def key(self) -> str:
        return f"{self.group}/{self.rollout}"

    @property
    def response(self) -> list[int]:
        return self.ids[self.prompt :]

    @property
    def sampled(self) -> int:
        return sum(self.mask)

    @property
    def text(self) -> str:
        """As a judge or a person reads it: the model's words, and what it was shown."""
        parts = []
        for turn in self.turns:
            parts.append(turn["text"])
            if turn["calls"]:
                parts.append(wrapped([response(call) for call in turn["calls"]]))
        return "\n".join(parts)

    def record(self, *, tokens: bool = False) -> Record:
        """As a line of a file, of kind trajectory. Nothing that the clock decides is in it, so that equal runs give equal bytes."""
        found: Record = {
            "schema": schema("trajectory"),
            "id": self.task.id,
            "prompt": self.task.prompt,
            "answer": self.task.answer,
            **({} if self.task.meta is None else {"meta": self.task.meta}),
            "sample": self.rollout,
            "group": self.group,
            "rollout": self.rollout,
            "response": self.text,
            "finish_reason": "stop" if self.finish == "stop" else "length",
            "finish": self.finish,
            "usage": {"prompt_tokens": self.prompt, "completion_tokens": len(self.response)},
            "sampled_tokens": self.sampled,
            "correct": self.reward > 0,
            "grade": self.grade,
            "grade_reason": self.grade_reason,
            "reward": self.reward,
            "turns": self.turns,
        }
        if tokens:
            found |= {
                "prompt_ids": self.ids[: self.prompt],
                "token_ids": self.response,
                "loss_mask": [int(one) for one in self.mask],
                "logprobs": [round(one, 6) for one in self.logp],
            }
        return found


def stream(seed: int, *names: object) -> np.random.Generator:
    """A stream of random numbers of its own for whatever these name."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little") ^ (seed % 2**63)))


class Rollouts:
    """One batch of trajectories after another through one or more engines. tell: called with a line that a person should see. seen: lengths of the batch before, which admission may begin with; here they are those
    of the last batch."""

    def __init__(
        self,
        engines: Sequence[Engine],
        dialogue: Dialogue,
        submit: Callable[[Program], Future[Result]],
        settings: Settings,
        tell: Callable[[str], None] = lambda _: None,
        end_session: Callable[[str], Any] = lambda _: None,
        seen: Sequence[int] = (),
    ) -> None:
        self.engines, self.dialogue, self.submit, self.settings, self.tell = engines, dialogue, submit, settings, tell
        self.end_session, self.seen = end_session, list(seen)
        self.waiting: dict[str, Trajectory] = {}  # known to the fleet, and not begun
        self.live: dict[str, Trajectory] = {}
        self.streams: dict[str, np.random.Generator] = {}
        self.calls: dict[str, list[tuple[Record, Future[Result] | None]]] = {}
        self.bell = threading.Event()  # something may have happened elsewhere

    def run(self, tasks: Sequence[Task], size: int, name: str = "") -> Iterator[Trajectory]:
        """`size` trajectories of each task, graded, as they end. name: of the batch (a step, say); the same name and seed draw the same numbers. Admission knows them all from the start."""
        return self._batch(((task, rollout) for task in tasks for rollout in range(size)), name, True)

    def each(self, wanted: Iterable[tuple[Task, int]], name: str = "") -> Iterator[Trajectory]:
        """A trajectory for each (task, number of the rollout), asked for as there is room."""
        return self._batch(wanted, name, False)

    def _batch(self, wanted: Iterable[tuple[Task, int]], name: str, known: bool) -> Iterator[Trajectory]:
        settings = self.settings
        policy = engine_fleet.chosen(settings.admission, self.engines, settings.lockstep)
        seen = () if settings.lockstep else self.seen
        self.fleet = engine_fleet.Fleet(self.engines, policy, settings.max_tokens, seen=seen, tell=self.tell)
        for engine in self.fleet.engines:
            engine.bell = self.bell.set
        # in the order given, one that waits is as good as all
        all_at_once = policy == "static" or (known and policy not in ("kv", "least"))
        self.line: Iterator[tuple[Task, int]] | None = iter(wanted)
        self.name, self.over = name, False
        self.prompt: tuple[str | None, list[int]] = (None, [])
        began = heard = time.monotonic()
        graders = ThreadPoolExecutor(2)
        grading: dict[Future[answers.Grade | Record], Trajectory] = {}
        try:
            while self.line or self.waiting or self.live or grading:
                self.bell.clear()
                self._admit(all_at_once)
                ended: list[Trajectory] = []
                turns = self.fleet.poll()
                for turn in turns:
                    heard = time.monotonic()
                    ended += self._turn(turn)
                ended += self._answered()
                left = settings.deadline - (time.monotonic() - began) if settings.deadline else 1.0
                if left < 0 and not self.over:
                    ended += self._cut()
                for one in ended:
                    self._release(one)
                    grade = graders.submit(self._grade, one)
                    grade.add_done_callback(self._ring)
                    grading[grade] = one
                done = [one for one in grading if one.done()]
                for each in done:
                    one = grading.pop(each)
                    self._reward(one, each.result())
                    yield one
                if time.monotonic() - heard > QUIET:
                    self.tell(
                        f"no turn has ended for {time.monotonic() - heard:.0f} s: {len(self.fleet.asked)} under way, {len(self.calls)} wait for calls"
                    )
                    heard = time.monotonic()
                if self.fleet.idle and not (turns or ended or done):
                    self.bell.wait(1.0 if self.over else min(1.0, max(left, 0.0)))
        finally:
            graders.shutdown()
            self.waiting.clear()
            for one in list(self.live.values()):
                self._release(one)
            self.seen = self.fleet.lengths

    def _ring(self, _: object) -> None:
        self.bell.set()

    # ------------------------------------------------------------ beginning

    def _admit(self, all_at_once: bool) -> None:
        """As many as have room; in lockstep, only while nothing is under way, so that what shares a batch is always the same."""
        if self.over:
            return
        fleet = self.fleet
        again = fleet.waiting - len(self.waiting)  # those whose engine is gone
        fresh = not (self.settings.lockstep and self.live)
        while fresh or again:
            while fresh and self.line is not None and (all_at_once or not fleet.waiting):
                self._submit()
            sent = fleet.next()
            for key in sent:
                if key in self.waiting:
                    one = self.live[key] = self.waiting.pop(key)
                    self.streams[key] = stream(self.settings.seed, "sample", self.name, one.group, one.rollout)
                    self._ask(one)
            if not sent:
                return

    def _submit(self) -> None:
        assert self.line is not None
        task, rollout = next(self.line, (None, 0))
        if task is None:
            self.line = None
            return
        if self.prompt[0] != task.prompt:
            self.prompt = (task.prompt, self.dialogue.prompt(task.prompt))
        prompt = list(self.prompt[1])
        one = Trajectory(task.id, rollout, task, len(prompt), prompt, [], [], [])
        self.fleet.submit(one.key, one.prompt, one.group)
        self.waiting[one.key] = one

    def _ask(self, one: Trajectory) -> None:
        room = self.settings.max_tokens - len(one.response)
        self.fleet.ask(one.key, one.ids, room, self.streams[one.key])

    # ------------------------------------------------------------ turns

    def _turn(self, turn: Turn) -> list[Trajectory]:
        """A turn that ended: its calls go out, or the trajectory ends."""
        one = self.live[turn.key]
        one.ids += turn.ids
        self.fleet.grew(one.key, len(one.response))
        one.mask += [True] * len(turn.ids)
        one.logp += turn.logp
        text = (self.dialogue.opened if not one.turns else "") + self.dialogue.spoken(turn.ids)
        record: Record = {"text": text, "tokens": len(turn.ids), "calls": []}
        one.turns.append(record)
        if not turn.ended:
            one.finish = "length"
            return [one]
        calls = calls_in(text, self.dialogue.tools)
        if not calls:
            one.finish = "stop"
            return [one]
        if len(one.turns) >= self.settings.turns:
            one.finish = "turns"
            return [one]
        made: list[tuple[Record, Future[Result] | None]] = []
        number = sum(len(each["calls"]) for each in one.turns)
        for k, call in enumerate(calls):
            told: Record = {"name": call.name, "arguments": call.arguments}
            if call.problem:
                made.append(({**told, "status": "invalid_call", "problem": call.problem}, None))
                continue
            noise = self._noise(one, number + k)
            if noise:
                made.append(({**told, "status": noise, "noise": True}, None))
                continue
            future = self.submit(program_of(call, one.key, self.settings))
            future.add_done_callback(self._ring)
            made.append((told, future))
        self.calls[one.key] = made
        return []

    def _noise(self, one: Trajectory, number: int) -> str:
        settings = self.settings
        if not settings.noise_timeout and not settings.noise_error:
            return ""
        point = stream(settings.seed, "noise", one.group, one.rollout, number).random()
        if point < settings.noise_timeout:
            return "timeout"
        return "error" if point < settings.noise_timeout + settings.noise_error else ""

    def _answered(self) -> list[Trajectory]:
        """Trajectories whose calls have all come back go on, or end where what they are shown has no room."""
        back = [key for key, made in self.calls.items() if all(call is None or call.done() for _, call in made)]
        if self.settings.lockstep and (self.fleet.asked or len(back) < len(self.calls)):
            return []
        ended = []
        for key in sorted(back) if self.settings.lockstep else back:
            one = self.live[key]
            calls = [told if call is None else {**told, **outcome(call.result())} for told, call in self.calls.pop(key)]
            one.turns[-1]["calls"] = calls
            suffix = self.dialogue.suffix(
                [response(call, self.settings.shown) for call in calls], ended=one.ids[-1] in self.dialogue.closing
            )
            if len(one.response) + len(suffix) >= self.settings.max_tokens:
                one.finish = "length"
                ended.append(one)
                continue
            one.ids += suffix
            one.mask += [False] * len(suffix)
            one.logp += [0.0] * len(suffix)
            self._ask(one)
        return ended

    # ------------------------------------------------------------ ends

    def _cut(self) -> list[Trajectory]:
        """Stragglers at the deadline; what has not begun by then does not."""
        self.line, self.over = None, True
        self.waiting.clear()
        cut = [one for one in self.live.values() if not one.finish]
        for one in cut:
            one.finish = "deadline"
        return cut

    def _release(self, one: Trajectory) -> None:
        self.fleet.ended(one.key, len(one.response))
        del self.live[one.key]
        del self.streams[one.key]
        self.calls.pop(one.key, None)
        if "notebook" in self.dialogue.tools:
            self.end_session(one.key)

    def _grade(self, one: Trajectory) -> answers.Grade | Record:
        told = {
            "answer": one.task.answer,
            "meta": one.task.meta,
            "turns": one.turns,
            "finish_reason": "stop" if one.finish == "stop" else "length",
        }
        found = verify.settled(told, self.settings.scope, self.settings.form)
        if isinstance(found, answers.Comparison):
            return answers.grade(found.gold, found.text, match=found.match)
        return found

    @staticmethod
    def _reward(one: Trajectory, found: answers.Grade | Record) -> None:
        one.grade, one.grade_reason = (
            (found.grade, found.reason) if isinstance(found, answers.Grade) else (found["grade"], found["grade_reason"])
        )
        one.reward = float(one.grade == "correct")


def program_of(call: Call, key: str, settings: Settings) -> Program:
    """A sound call of the trajectory `key`: a cell goes to its notebook."""
    session = key if call.name == CELLS else None
    return Program(call.code, call.input, session, settings.call_timeout, owner=key)


def outcome(result: Result) -> Record:
    """What a trajectory keeps of a call."""
    found = {
        name: value for name, value in msgspec.to_builtins(result).items() if name in ("status", "stdout", "stderr")
    }
    if result.detail:
        found["problem"] = result.detail
    return found
