"""`grpo-roc toy`: does Resample-on-Correct do what is claimed for it, and would something simpler do as well? Minutes on two cores.

Five arms train one policy from the same start on the same prompts, with the same objective (token-mean over what is kept) and advantages; they differ in which trajectories are kept:

    grpo        G sampled, all kept
    grpo-2g     2G sampled, all kept            what sampling more would do alone
    random-2g   2G sampled, G kept evenly       what choosing would do alone
    roc         2G sampled, G kept by Resample-on-Correct, right ones by inverse probability (the paper's words)
    roc-top     the same, the least penalised of the right ones (its code)

Whether anything can be seen hangs on the task. With a reward for the outcome alone, what moves the share of errors under plain GRPO is their covariance with the reward. Where
errors cost reward, every arm clears them; where a group's rewards are all equal, none learns. So a right answer must be about as likely after errors as without, and never sure: `precondition` measures both at the
start, and nothing is trained where they do not hold.

Where it sits: below cli.py; toy_tabular.py and toy_text.py have the tasks, toy_table.py what is said of the runs. Runs are spread over processes; nothing heavy is imported here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np

import grpo_roc
from grpo_roc import roc, selection
from grpo_roc.env.environment import Level
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import Journal, Lock, difference, write_atomic
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import redact

Record = dict[str, Any]
ARMS: tuple[selection.Algo, ...] = ("grpo", "grpo-2g", "random-2g", "roc", "roc-top")
FLAT = 0.65  # P(right | errors) is at least so much of P(right | none), and at most its inverse
MIXED = (0.2, 0.8)  # P(right)
JOURNAL, STEPS, TABLE, PICTURE, MANIFEST = "journal", "steps.jsonl", "table.json", "error_share.png", "manifest.json"
drawn = roc.generator


class Settings(msgspec.Struct, frozen=True):
    """turns: of a trajectory at most (tabular: calls). prompts of a step, group: G. spoilt, doubled: how often the text task's expert spoils a call and answers twice. evaluated: prompts of an
    evaluation, of each kind."""

    task: Literal["text", "tabular"] = "text"
    steps: int = 100
    turns: int = 9
    prompts: int = 16
    group: int = 8
    spoilt: float = 0.55
    doubled: float = 0.3
    sft_steps: int = 700
    sft_batch: int = 96
    evaluated: int = 512
    level: Level = "strict"

    def sampled(self, arm: selection.Algo) -> int:
        return selection.samples(arm, self.group, 2)


DEFAULTS = {"text": Settings(), "tabular": Settings("tabular", 200, 10, 32, 16, evaluated=4096)}


def measure(correct: Any, calls: Any, failed: Any, blocks: Any, tokens: Any) -> Record:
    """Arrays of one shape, of trajectories. error_share: of the calls of right trajectories, all together (None where they made none); doubled: with two answer blocks or more; tokens: the model's own."""
    right = np.asarray(correct, dtype=bool)
    made = int(np.asarray(calls)[right].sum())
    return {
        "correct": float(right.mean()),
        "error_share": int(np.asarray(failed)[right].sum()) / made if made else None,
        "doubled": float((np.asarray(blocks) > 1).mean()),
        "no_call": float((np.asarray(calls) == 0).mean()),
        "tokens": float(np.mean(tokens)),
    }


def precondition(pairs: Sequence[Sequence[Any]]) -> Record:
    """pairs: (errors, right) of trajectories at the start. {p: P(right | 0, 1, 2 or more errors), n: of how many, right, holds, why not}."""
    errors = np.minimum([one[0] for one in pairs], 2)
    right = np.array([one[1] for one in pairs], dtype=bool)
    count = [int((errors == k).sum()) for k in range(3)]
    p = [float(right[errors == k].mean()) if count[k] else None for k in range(3)]
    overall = float(right.mean())
    why = ""
    if not MIXED[0] <= overall <= MIXED[1]:
        why = (
            f"a right answer has probability {overall:.2f}: expected {MIXED[0]} to {MIXED[1]}, so that groups are mixed"
        )
    elif min(count) < 50:
        why = "too few trajectories with no, one or more errors to tell"
    elif not all(FLAT <= one / p[0] <= 1 / FLAT for one in p[1:] if one is not None and p[0]):
        why = f"errors change the reward: expected P(right | errors) within {FLAT} to {1 / FLAT:.2f} of P(right | no error), or every arm clears them"
    return {"p": p, "n": count, "right": overall, "holds": not why, "why": why}


# ---------------------------------------------------------------- processes

_counter: Any = None  # in a process of a crew: steps done by all


def _begin(counter: Any) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C goes to all; the parent ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what is to be closed
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the parent, which cannot end us where it is killed: the tool is closed first, if that takes no time."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)


def _tick() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _work(job: tuple[str, str, int, Settings, str], tick: Callable[[], None] = _tick) -> Record:
    function, name, seed, settings, folder = job
    task = import_module(f"grpo_roc.toy_{settings.task}")
    if function == "start":
        found: Record = task.start(seed, settings, folder, tick)
    else:
        found = task.arm(name, seed, settings, folder, tick)
    return found


class Crew:
    """Processes of one thread each: models so small gain nothing from a second. One worker is this process."""

    def __init__(self, workers: int, bar: Progress) -> None:
        self.workers, self.bar = workers, bar
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.workers > 1:
            spawn = multiprocessing.get_context("spawn")
            self._counter = spawn.Value("q", 0)
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=spawn, initializer=_begin, initargs=(self._counter,)
            )
        return self

    def each(self, jobs: dict[str, Any], done: Callable[[str, Record], None]) -> None:
        """done(key, result) as they come. Raises what a job raises, and Missing where a process was killed."""
        if self._pool is None:
            for key, job in jobs.items():
                done(key, _work(job, self.bar.update))
            return
        waiting = {self._pool.submit(_work, job): key for key, job in jobs.items()}
        seen = self._counter.value
        try:
            while waiting:
                ended, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                now = self._counter.value
                self.bar.update(now - seen)
                seen = now
                for one in ended:
                    done(waiting.pop(one), one.result())
        except BrokenProcessPool:
            raise Missing("a process was killed, for want of memory perhaps: use fewer --workers") from None

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._pool is None:
            return
        if kind is not None:
            running = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
        self._pool.shutdown()


# ---------------------------------------------------------------- the verb


class Folder:
    """Where finished runs are kept: of -o, or for this command alone."""

    def __init__(self, output: str | None, identity: Record, overwrite: bool) -> None:
        self.output, self.identity, self.overwrite = output, identity, overwrite
        self.started, self.clock = datetime.now(UTC), time.monotonic()

    def __enter__(self) -> Self:
        self._lock: Lock | None = None
        if self.output is None:
            self.path = Path(tempfile.mkdtemp(prefix="grpo-roc-toy-"))
        else:
            self.path = Path(self.output)
            if not self.path.absolute().parent.is_dir():
                raise BadInput(f"{self.path}: the folder {self.path.absolute().parent} does not exist; create it first")
            if self.path.exists() and not self.path.is_dir():
                raise BadInput(f"{self.path}: is a file; expected a folder to write")
            self._lock = Lock(self.path.absolute().parent / f".{self.path.name}.lock", self.path)
        try:
            self._settle()
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise
        return self

    def _settle(self) -> None:
        self.path.mkdir(exist_ok=True)
        path = self.path / JOURNAL
        if any(one.name != f"{JOURNAL}.new" for one in self.path.iterdir()):
            before = Journal.header(path)
            if before is None or (before.get("tool"), before.get("verb")) != ("grpo-roc", "toy"):
                raise BadInput(f"{self.path}: holds things that `grpo-roc toy` did not make; choose another output")
            found = difference(before, self.identity)
            if found and not self.overwrite:
                raise BadInput(f"{self.path}: was begun with {found}; choose another output or add --overwrite")
            if self.overwrite:
                for name in (JOURNAL, STEPS, TABLE, PICTURE, MANIFEST):
                    (self.path / name).unlink(missing_ok=True)
                shutil.rmtree(self.path / "start", ignore_errors=True)
        self.journal = Journal(path, self.identity)
        (self.path / "start").mkdir(exist_ok=True)

    def __exit__(self, *_: object) -> None:
        self.journal.close(remove=False)
        if self._lock is None:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self._lock.release()

    def publish(self, steps: Sequence[Record], table: Record, seed: int) -> None:
        """The files of a run that is complete, the manifest last."""
        write_atomic(self.path / STEPS, b"".join(msgspec.json.encode(one) + b"\n" for one in steps))
        write_atomic(self.path / TABLE, json.dumps(table, indent=1).encode() + b"\n")
        manifest = {
            "schema": "manifest/1", **self.identity, "version": grpo_roc.__version__, "argv": [redact(word) for word in sys.argv], "seed": seed,
            "counts": {"runs": len(table["seeds"]) * len(table["arms"]), "steps": len(steps)}, "status": "done",
            "started": self.started.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - self.clock, 3),
        }  # fmt: skip
        write_atomic(self.path / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")


def run(
    settings: Settings, arms: Sequence[selection.Algo], *, seeds: int, seed: int, output: str | None, overwrite: bool, workers: int, as_json: bool, quiet: bool
) -> int:  # fmt: skip
    """The verb: 1 where the precondition does not hold. Raises BadInput, and Missing without torch or at a level that is not to be had."""
    _check(settings, arms)
    numbers = list(range(seed, seed + seeds))
    options = {name: x for name, x in msgspec.to_builtins(settings).items() if name != "level"}
    identity: Record = {"tool": "grpo-roc", "verb": "toy", "options": {**options, "arms": list(arms), "seeds": seeds, "seed": seed}, "inputs": []}  # fmt: skip
    with Folder(output, identity, overwrite) as folder:
        try:
            starts, runs = _runs(folder, settings, arms, numbers, workers, quiet)
        except Unfit as problem:
            return _refuse(problem.table, as_json)
        steps = [{"arm": arm, "seed": number, **one} for number in numbers for arm in arms for one in runs[f"{arm}/{number}"]["steps"]]  # fmt: skip
        from grpo_roc import toy_table

        table = toy_table.table_of(settings, arms, numbers, starts, runs)
        if output is not None and not (folder.path / MANIFEST).exists():
            toy_table.picture(steps, arms, numbers, folder.path / PICTURE)
            folder.publish(steps, table, seed)
    if as_json:
        print(json.dumps(table))
    else:
        toy_table.show(table)
    return 0


class Unfit(Exception):
    """The precondition does not hold: what was found, by seed."""

    def __init__(self, table: dict[int, Record]) -> None:
        super().__init__()
        self.table = table


def _check(settings: Settings, arms: Sequence[selection.Algo]) -> None:
    for arm in arms:
        if arm not in ARMS:
            raise BadInput(f"--arms {arm}: expected some of {', '.join(ARMS)}")
    if len(set(arms)) < len(arms) or not arms:
        raise BadInput("--arms: expected each name once, at least one")
    if settings.task == "text":
        from importlib.util import find_spec

        from grpo_roc.env.isolation import probe

        if find_spec("torch") is None:
            raise Missing(
                "--task text: torch is not installed: pip install 'grpo-roc[hf]'; --task tabular goes without"
            )
        lacks = probe().get(settings.level)
        if lacks is not None:
            raise Missing(f"--level {settings.level}: not to be had here: {lacks}")


def _runs(
    folder: Folder, settings: Settings, arms: Sequence[selection.Algo], seeds: Sequence[int], workers: int, quiet: bool
) -> tuple[dict[int, Record], dict[str, Record]]:
    """({seed: start}, {arm/seed: run}) from the journal or anew. Raises Unfit between the two."""
    journal, place = folder.journal, str(folder.path / "start")
    sft = settings.sft_steps if settings.task == "text" else 0
    first: dict[str, Any] = {f"start/{seed}": ("start", "", seed, settings, place) for seed in seeds}
    then: dict[str, Any] = {f"{arm}/{seed}": ("arm", arm, seed, settings, place) for seed in seeds for arm in arms}
    waiting = [{key: job for key, job in some.items() if key not in journal} for some in (first, then)]
    total = len(waiting[0]) * sft + len(waiting[1]) * settings.steps
    with Progress("toy", total, "steps", quiet) as bar, Crew(min(workers, max(map(len, waiting)) or 1), bar) as crew:
        crew.each(waiting[0], journal.put)
        starts = {}
        for seed in seeds:
            told = journal.get(f"start/{seed}")
            starts[seed] = {"before": told["before"], "precondition": precondition(told["precondition"])}
        conditions = {seed: one["precondition"] for seed, one in starts.items()}
        if not all(one["holds"] for one in conditions.values()):
            raise Unfit(conditions)
        if not quiet:
            for seed, one in conditions.items():
                bar.note(f"grpo-roc: seed {seed}: {told_of(one)}")
        crew.each(waiting[1], journal.put)
    return starts, {key: journal.get(key) for key in then}


def told_of(condition: Record) -> str:
    of = ", ".join(
        f"{name} {'-' if p is None else f'{p:.2f}'} ({n})"
        for name, p, n in zip(("none", "one", "two or more"), condition["p"], condition["n"], strict=True)
    )
    return f"P(right | errors): {of}; P(right) {condition['right']:.2f}"


def _refuse(table: dict[int, Record], as_json: bool) -> int:
    if as_json:
        print(json.dumps({"precondition": table, "holds": False}))
    for seed, one in table.items():
        why = "" if one["holds"] else f": the precondition does not hold: {one['why']}"
        print(f"grpo-roc: seed {seed}: {told_of(one)}{why}", file=sys.stderr)
    return 1
