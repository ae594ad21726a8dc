"""One verify–refine chain as a state machine: which call comes next, given the steps so far.

`Chain` is what runner.py drives with a model and log.py replays from a file, so that a chain read back is the chain that
was run. It calls nothing and writes nothing.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from tenfold_shared import BadInput, answers

Verdict = Literal["pass", "fail", "unknown"]
Role = Literal["solve", "improve", "verify", "check", "refine", "force"]
POLICIES = ("always", "keep-on-pass", "stop-on-pass", "stop-on-stable")


class Step(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One completed model call, or one that failed for good, a line of steps.jsonl.

    text: what is carried on: the solution or the review, never the thinking. answer: of a solution. verdict: of a
    review, pass, fail or unknown. kept: this call gave no usable solution, the previous one stays. truncated: the
    token limit came first. looped: the text ends in a loop. trimmed: characters cut from solution and review to fit
    the context. trace: what a truncated call had written, where --force-answer needs it. error: why there is no reply;
    such a step moves no chain. task, run, position: with a chain's first step, the problem, the settings of the run and
    the problem's place in its input.
    """

    schema: str = msgspec.field(default="")
    id: str
    chain: int
    iteration: int
    role: Role
    text: str = ""
    answer: str | None = None
    verdict: Verdict | None = None
    kept: bool = False
    truncated: bool = False
    looped: bool = False
    trimmed: dict[str, int] | None = None
    trace: str | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    error: str | None = None
    task: dict[str, Any] | None = None
    run: dict[str, Any] | None = None
    position: int = 0


class Taken(Protocol):
    """What a chain reads of a step: a `Step`, or one whose text was left out (log.py)."""

    @property
    def id(self) -> str: ...
    @property
    def chain(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str | None: ...
    @property
    def verdict(self) -> str | None: ...
    @property
    def kept(self) -> bool: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def trace(self) -> str | None: ...


class Procedure(msgspec.Struct, frozen=True):
    """What a chain does. N iterations of `always` are 1 + 2N calls.

    policy: always refines after every verdict; keep-on-pass leaves a passed solution as it is; stop-on-pass does too,
    and ends at `needed` passes in a row; stop-on-stable refines always and ends when the answer has been the same for
    `needed` iterations. improve: one self-improvement after solving. check: a yes-or-no call reads the verdict off
    the review. give_up: fails in a row that end a stop-on-pass chain (0: never). keep_without_answer: a new solution
    without an answer is dropped. force_answer: a truncated solution is asked for its answer in one more call.
    unknown_passes: an unreadable verdict counts as a pass, not as a fail.
    """

    iterations: int = 10
    policy: str = "always"
    needed: int = 1
    improve: bool = False
    check: bool = False
    give_up: int = 0
    keep_without_answer: bool = False
    force_answer: bool = False
    unknown_passes: bool = False


def policy_of(text: str) -> tuple[str, int]:
    """`stop-on-pass:3` as (stop-on-pass, 3). Raises BadInput."""
    name, colon, count = text.partition(":")
    counted = name in ("stop-on-pass", "stop-on-stable")
    if name not in POLICIES or (colon and not (counted and count.isascii() and count.isdigit() and int(count) > 0)):
        raise BadInput(
            f"--policy {text}: expected always, keep-on-pass, stop-on-pass:M or stop-on-stable:M with M of at least 1"
        )
    return name, int(count) if colon else 1


class Call(NamedTuple):
    """The next call of a chain; `iteration` is that of the solution it makes or judges."""

    role: Role
    iteration: int


class Chain:
    """The state of one chain. `cells[n]` is the answer at iteration n (None: no answer), `verdicts[n]` what its
    review said (None: not reviewed), `carried[n]` whether iteration n only kept the solution before.

    ended: None while calls are left; then done, accepted, gave_up or stable.
    """

    __slots__ = (
        "_answer", "_fails", "_improved", "_next", "_passes", "_same", "carried", "cells", "ended", "procedure", "review", "solution",
        "trace", "verdicts",
    )  # fmt: skip

    def __init__(self, procedure: Procedure) -> None:
        self.procedure = procedure
        self.cells: list[str | None] = []
        self.verdicts: list[str | None] = []
        self.carried: list[bool] = []
        self.solution: str | None = None
        self.review = ""
        self.trace: str | None = None
        self.ended: str | None = None
        self._answer: str | None = None
        self._passes = self._fails = self._same = 0
        self._improved = False
        self._next: Call | None = Call("solve", 0)

    @property
    def next(self) -> Call | None:
        """The call to make now; None once the chain has ended."""
        return self._next

    def take(self, step: Taken) -> None:
        """Go on with the result of the call `next` named. Raises BadInput where it is another call's."""
        call = self._next
        if call is None or step.role != call[0] or step.iteration != call[1]:
            due = f"{call.role} of iteration {call.iteration}" if call else "no call"
            raise BadInput(
                f"{step.id}: chain {step.chain}: expected {due} next, found {step.role} of iteration {step.iteration}"
            )
        role, n = call
        if role == "verify":
            self.review = step.text
            if self.procedure.check:
                self.verdicts[n] = "unknown"
                self._next = Call("check", n)
            else:
                self._judged(n, step.verdict or "unknown")
        elif role == "check":
            self._judged(n, step.verdict or "unknown")
        else:
            self._solved(role, n, step)

    def _solved(self, role: Role, n: int, step: Taken) -> None:
        if not step.kept:
            self.solution, self._answer = step.text, step.answer
        elif role not in ("force", "improve") and step.truncated and self.procedure.force_answer:
            self.trace = step.trace
            self._next = Call("force", n)
            return
        self.trace = None
        if self.procedure.improve and not self._improved and role != "improve" and n == 0 and not step.kept:
            self._improved = True
            self._next = Call("improve", 0)
            return
        self._close(n, step.kept and role != "improve")

    def _close(self, n: int, carried: bool) -> None:
        """Iteration n has its solution."""
        self.cells.append(self._answer)
        self.verdicts.append(None)
        self.carried.append(carried)
        if self.procedure.policy == "stop-on-stable" and n > 0 and not carried:  # a lost call says nothing of stability
            same = self._answer is not None and _same(self.cells[n - 1], self._answer)
            self._same = self._same + 1 if same else 0
            if self._same >= self.procedure.needed:
                return self._end("stable")
        if n >= self.procedure.iterations:
            return self._end("done")
        self._next = Call("verify", n) if self.solution is not None else Call("solve", n + 1)

    def _judged(self, n: int, verdict: str) -> None:
        self.verdicts[n] = verdict
        how = self.procedure
        passed = verdict == "pass" or (verdict == "unknown" and how.unknown_passes)
        self._passes, self._fails = (self._passes + 1, 0) if passed else (0, self._fails + 1)
        if how.policy == "stop-on-pass":
            if passed and self._passes >= how.needed:
                return self._end("accepted")
            if how.give_up and self._fails >= how.give_up:
                return self._end("gave_up")
        if passed and how.policy in ("keep-on-pass", "stop-on-pass"):
            self._close(n + 1, True)
        else:
            self._next = Call("refine", n + 1)

    def _end(self, why: str) -> None:
        self.ended, self._next = why, None


def _same(before: str | None, answer: str) -> bool:
    return before is not None and (before == answer or answers.key(before) == answers.key(answer))
