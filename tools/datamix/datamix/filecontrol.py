"""Steering a trainer that is not ours by two files: it appends what it measured to one and polls the other for its next mixture.

    feedback.jsonl   {"step": 0, "feedback": {"web": 2.31, "math": 1.97}}        before the first step: the base
                     {"step": 1, "feedback": {"web": 2.29, "math": 1.80}}        after one step, and so on
    weights.json     {"schema": "mixture/1", "step": 0, "weights": {"web": 0.4, "math": 0.6}}, replaced as a whole

`step` t of the feedback counts finished steps; the weights of step t answer it. Optional fields: `unit`, `bits_per_byte` (what is assumed)
or `nats_per_token`, which the corpus's bytes a token turn into it; `weights`, the shares that were really drawn in the step just finished;
`tokens_seen`. A domain that is not there or no number is carried forward and named on stderr and in the schedule's `missing`, a step that was left
out likewise. A step
that comes again (the trainer went back to a checkpoint) replaces itself and forgets all after it. A last line without its end is not read
before it is complete. All state is in the files: the loop may be killed at any time and started again. numpy alone.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamix import schedule
from datamix.corpus import Corpus
from datamix.history import Budget, Decision, Floats, History, Policy
from datamix.mixture import Weights, from_names, to_names
from tenfold_shared import BadInput, OutOfTime
from tenfold_shared.jsonl import Lock, write_atomic

UNITS = ("bits_per_byte", "nats_per_token")


def bytes_per_token(corpus: Corpus) -> Floats:
    """[D], of the held-out text."""
    return np.array([one.valid.bytes / one.valid.tokens for one in corpus.domains])


def in_bits_per_byte(losses: Floats, unit: str, per_token: Floats | None, where: str) -> Floats:
    """Losses [D] of a unit as bits per byte: nats a token / (ln 2 · bytes a token). Raises BadInput for a unit that cannot be."""
    if unit == "bits_per_byte":
        return losses
    if unit != "nats_per_token":
        raise BadInput(f"{where}: unit: {unit!r}; expected one of {', '.join(UNITS)}")
    if per_token is None:
        raise BadInput(
            f"{where}: unit: nats_per_token: how many bytes a token has is not known; name the corpus, or write bits_per_byte"
        )
    return losses / (math.log(2) * per_token)


class MixtureFile:
    """One run steered by files. names, source, available [D] as in `History`; per_token [D], bytes a token, for losses in nats a token;
    `schedule_file` gets a line of mixture-schedule/1 for each finished step; one that is there already has to be this run's, unless
    `overwrite`. `of` takes the first from a corpus. Raises BadInput where two of the files are one."""

    def __init__(
        self,
        policy: Policy,
        names: Sequence[str],
        source: Any,
        budget: Budget,
        *,
        feedback_file: str | Path,
        weights_file: str | Path,
        schedule_file: str | Path | None = None,
        available: Any = None,
        per_token: Floats | None = None,
        overwrite: bool = False,
    ) -> None:
        self.policy, self.names, self.budget = policy, list(names), budget
        self.source = np.asarray(source, dtype=bool)
        self.available = np.ones(len(self.names)) if available is None else np.asarray(available, dtype=np.float64)
        self.per_token = per_token
        self.feedback_file, self.weights_file = Path(feedback_file), Path(weights_file)
        self.schedule_file = None if schedule_file is None else Path(schedule_file)
        self.overwrite = overwrite
        places = [path.resolve() for path in (self.feedback_file, self.weights_file, self.schedule_file) if path]
        if len(set(places)) < len(places):
            raise BadInput(f"{weights_file}: the files of feedback, weights and schedule: expected a name for each")
        self._restart()

    @classmethod
    def of(cls, corpus: Corpus, policy: Policy, budget: Budget, **files: Any) -> MixtureFile:
        return cls(
            policy, corpus.names, corpus.source, budget, available=corpus.sizes, per_token=bytes_per_token(corpus), **files
        )  # fmt: skip

    def _restart(self) -> None:
        self.history: History | None = None
        self._decided: list[Decision] = []  # one for each step that was begun
        self._told: list[schedule.Line] = []
        self._went_back, self._agreed, self._looked = False, False, False
        self._lasting = self.budget.steps  # steps from here on were measured again, if any were
        self._read, self._line = 0, 0  # bytes and lines of the feedback file that were taken in

    @property
    def finished(self) -> bool:
        return self.history is not None and len(self.history) >= self.budget.steps

    # ------------------------------------------------------------ reading

    def poll(self) -> bool:
        """Take in what was appended and, where that calls for it, write the next mixture (and the schedule). True if it did. Raises
        BadInput `file:line: field: what was expected` for a line that is no feedback, and for a file that became shorter."""
        news = self._take_in()
        if not self._looked:
            self._look()
        if news == 0 and self._decided:
            return False
        if self.history is None:
            return False
        if not self._agreed:
            self._agree()
        if self.schedule_file is not None:
            write_atomic(self.schedule_file, schedule.schedule_file(self._told))
        if not self.finished:
            told = {
                "schema": schedule.STATIC,
                "step": len(self.history),
                "weights": self._named(self._decided[-1].weights),
            }
            write_atomic(self.weights_file, json.dumps(told).encode() + b"\n")
        return True

    def _look(self) -> None:
        """A schedule that is there already has to be as far as an earlier call of this run came, or it is somebody's and stays."""
        self._looked = True
        path = self.schedule_file
        if path is None or self.overwrite or not path.exists() or path.stat().st_size == 0:
            return
        try:
            found = schedule.read(str(path))
        except BadInput:
            found = []
        lasting = min(len(found), self._lasting)
        fits = len(found) <= len(self._told) or self._went_back
        if not found or not fits or not all(map(self._same, found[:lasting], self._told)):
            raise BadInput(f"{path}: exists and is no schedule of this run; choose another output or add --overwrite")

    def _same(self, one: schedule.Line, other: schedule.Line) -> bool:
        if one.tokens_seen != other.tokens_seen or list(one.weights) != list(other.weights):
            return False
        if one.feedback is None or other.feedback is None or list(one.feedback) != list(other.feedback):
            return False
        measured, again = (np.array(list(told.values())) for told in (one.feedback, other.feedback))
        return bool(np.allclose(measured, again, rtol=1e-9) and np.abs(one.vector - other.vector).max() <= 1e-5)

    def _agree(self) -> None:
        """What an earlier call left has to be what this policy decides, or the past it is told of would not be the run's."""
        self._agreed = True
        try:
            found = json.loads(self.weights_file.read_bytes())
            step, weights = int(found["step"]), found["weights"]
            before = np.array([float(weights.get(name, 0.0)) for name in self.names])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadInput(
                f"{self.weights_file}: exists and is no mixture of this run; choose another --weights-file"
            ) from None
        if self._went_back or step >= len(self._decided):
            return
        if np.abs(before - self._decided[step].weights).max() > 1e-5:
            raise BadInput(
                f"{self.weights_file}: holds another mixture for step {step} than this agent decides; give the agent and options that "
                "the run was begun with, or remove the file"
            )

    def _take_in(self) -> int:
        """How many complete new lines there were."""
        try:
            with open(self.feedback_file, "rb") as stream:
                size = stream.seek(0, 2)
                if size < self._read:
                    raise BadInput(
                        f"{self.feedback_file}: became shorter; start anew with another --weights-file file, or put back what was there"
                    )
                stream.seek(self._read)
                new = stream.read()
        except FileNotFoundError:
            return 0
        whole = new[: new.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        for raw in lines:
            if raw.strip():
                self._accept(raw, f"{self.feedback_file}:{self._line + 1}")
            self._read += len(raw) + 1
            self._line += 1
        return len(lines)

    def _accept(self, raw: bytes, where: str) -> None:
        record = _object(raw, where)
        step = record.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise BadInput(f"{where}: step: expected how many steps are finished, a whole number from 0, got {step!r}")
        losses = self._losses(record, where)
        if self.history is None or step == 0:
            self._begin(step, losses, where)
            return
        if step > self.budget.steps:
            raise BadInput(f"{where}: step: {step}; the run has {self.budget.steps}")
        if step <= len(self.history):
            self._forget(step)
        if step > len(self.history) + 1:
            print(
                f"datamix: {where}: feedback of {step - len(self.history) - 1} steps is missing; carried forward",
                file=sys.stderr,
            )
        used = record.get("weights")
        while step > len(self.history):
            known = step == len(self.history) + 1
            weights = self._decided[-1].weights
            if known and used is not None:
                weights = from_names(_mapping(used, f"{where}: weights"), self.names, f"{where}: weights")
            self._add(weights, losses if known else np.full(len(self.names), np.nan), record if known else {}, where)

    def _begin(self, step: int, losses: Floats, where: str) -> None:
        if step != 0:
            raise BadInput(
                f"{where}: step: {step}; expected 0 first: the losses before the run, which all others are compared with"
            )
        if np.isnan(losses).any():
            name = self.names[int(np.flatnonzero(np.isnan(losses))[0])]
            raise BadInput(f"{where}: feedback: {name}: missing; step 0 has to have every domain")
        self.history = History(self.names, self.source, self.available, losses, self.budget)
        self._told, self._decided = [], [self.policy.decide(self.history)]

    def _add(self, weights: Weights, losses: Floats, record: Mapping[str, Any], where: str) -> None:
        assert self.history is not None
        missing = [name for name, loss in zip(self.names, losses, strict=True) if np.isnan(loss)]
        if missing and record:
            print(f"datamix: {where}: feedback: {', '.join(missing)}: missing; carried forward", file=sys.stderr)
        decided = self._decided[-1]
        self.history.add(weights, losses)
        t = len(self.history)
        told = {name: float(x) for name, x in zip(self.names, self.history.losses[-1], strict=True)}
        seen = record.get("tokens_seen", t * self.budget.tokens)
        before = self._told[-1].tokens_seen if self._told else 0
        if isinstance(seen, bool) or not isinstance(seen, int) or seen <= before:
            raise BadInput(f"{where}: tokens_seen: expected a whole number above {before}, got {seen!r}")
        self._told.append(schedule.line(t - 1, seen, self._named(decided.weights), told, decided.q, missing))
        if t < self.budget.steps:
            self._decided.append(self.policy.decide(self.history))

    def _forget(self, step: int) -> None:
        """The trainer measures `step` again: as if it had not come further."""
        assert self.history is not None
        self._went_back = True
        self._lasting = min(self._lasting, step - 1)
        self.history = self.history.upto(step - 1)
        self._told, self._decided = self._told[: step - 1], self._decided[:step]

    def _losses(self, record: Mapping[str, Any], where: str) -> Floats:
        given = _mapping(record.get("feedback"), f"{where}: feedback")
        found = np.full(len(self.names), np.nan)
        for name, value in given.items():
            if name not in self.names:
                raise BadInput(f"{where}: feedback: {name}: no such domain; there are {', '.join(self.names)}")
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadInput(f"{where}: feedback: {name}: expected a number, got {value!r}")
            if math.isinf(value) or value <= 0:
                raise BadInput(f"{where}: feedback: {name}: expected a loss above 0, got {value:g}")
            found[self.names.index(name)] = value
        unit = record.get("unit", "bits_per_byte")
        return in_bits_per_byte(found, unit if isinstance(unit, str) else repr(unit), self.per_token, where)

    def _named(self, weights: Weights) -> dict[str, float]:
        return to_names(weights, self.names)

    # ------------------------------------------------------------ the loop

    def watch(self, *, every: float = 1.0, max_time: float | None = None) -> int:
        """Until the feedback of the last step is there: poll every so many seconds. Returns the exit status 0. Raises BadInput, Busy where
        another process writes the same weights, and OutOfTime after max_time seconds, the files being what the next call goes on from."""
        lock = Lock(self.weights_file.with_name(f".{self.weights_file.name}.lock"), self.weights_file)
        started = time.monotonic()
        try:
            while True:
                self.poll()
                if self.finished:
                    return 0
                if max_time is not None and time.monotonic() - started >= max_time:
                    raise OutOfTime(f"--max-time: {max_time:g} s are over; run the same command again to go on")
                time.sleep(every)
        finally:
            lock.release()


def watch(policy: Policy, corpus: Corpus, budget: Budget, feedback_file: str | Path, weights_file: str | Path, *, schedule_file: str | Path | None = None, every: float = 1.0, max_time: float | None = None, overwrite: bool = False) -> int:  # fmt: skip
    """`datamix apply AGENT --feedback FILE --weights-file FILE`: see MixtureFile.watch."""
    run = MixtureFile.of(
        corpus, policy, budget, feedback_file=feedback_file, weights_file=weights_file, schedule_file=schedule_file, overwrite=overwrite,
    )  # fmt: skip
    return run.watch(every=every, max_time=max_time)


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(raw)  # reads NaN too, which trainers in Python write for a loss they could not measure
    except (ValueError, RecursionError):
        raise BadInput(f"{where}: expected a JSON object {{step, feedback}}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{where}: expected a JSON object {{step, feedback}}, got {type(found).__name__}")
    return found


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{where}: expected an object of domains and numbers, got {value!r}")
    return value
