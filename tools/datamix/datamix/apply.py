"""`datamix apply`: steer a live run. Each step an agent decides the mixture, the model trains on it and is measured, and so on to the end.

    RUN/schedule.jsonl    a line a step (schedule.py): the mixture decided, the losses measured after it
    RUN/model/            a model folder of transformers, or proxy.safetensors
    RUN/base.safetensors  the base of a proxy, where this run made it: --base for its rivals
    RUN/result.json       the final figures of steer.Run.result, tokens used of every domain, a hash of all rows in order
    RUN/manifest.json     what made it

The model is a proxy (--proxy, from a base) or any causal language model of transformers (--model, foreign.py). The mixture may come from
an agent, or from a schedule or mixture file, a rival's or a plan's. Work lies in RUN.work after each step (work.py), so that the same
command goes on after a kill to the same bytes. Under torchrun all ranks train, rank 0 decides and writes (ranks.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datamix import __version__, needs, schedule
from datamix.corpus import FILE, Corpus
from datamix.history import Budget, Decision, Policy
from datamix.mixture import Weights, checked, to_names
from datamix.steered import Steered, base_file, check_budget, make_base, open_policy, open_steered, told_budget
from datamix.stream import Mixer
from datamix.work import BASE, MANIFEST, Work, after_a_step
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import Lock, write_atomic
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import redact

if TYPE_CHECKING:
    from datamix.foreign import Training
    from datamix.ranks import Ranks
    from datamix.steer import Run

Record = dict[str, Any]
SCHEMA = "mixture-result/1"
RESULT, LINES, MODEL = "result.json", "schedule.jsonl", "model"
# Saving may take one part in so many of a run's time: what takes long to save is not saved after every step.
SAVING = 10


def run(
    agent: str | Policy, corpus: str, *, budget: Budget, output: str | None, model: str | None = None, proxy: str | None = None,
    base: str | None = None, training: Training | None = None, lr: float | None = None, decay: str | None = None, seed: int = 0,
    feedback_tokens: int = 2048, score_tokens: int = 12288, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False,
    schedule_only: bool = False, max_time: float | None = None, overwrite: bool = False, as_json: bool = False, quiet: bool = False,
    plot: str | None = None,
) -> int:  # fmt: skip
    """The verb; returns the exit code: 1 where a loss was no number or time ran out, with the work kept.

    agent: a folder, a schedule or mixture file, or a policy (named in the manifest by its `name`). budget: tokens of a step, steps, and
    the limits. base: None with a proxy trains one first, on the source domains evenly. lr, decay: of this run, in place of those of
    `proxy` or `training`. feedback_tokens, score_tokens: held-out tokens a domain. schedule_only: no model in the output. max_time:
    seconds. plot: a picture of the schedule. Raises BadInput, Missing, Busy.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    _check(budget, output)
    needs.torch() if model is None else needs.models()
    loaded = Corpus.load(corpus)
    policy, files = open_policy(agent, loaded, budget.steps)
    import torch

    from datamix.ranks import Ranks

    ranks = Ranks()
    if ranks.rank == 0:  # once for all of them: they end with it
        loaded.verify()
    quiet = quiet or ranks.rank > 0
    target = Path(str(output))
    lock = Lock(target.absolute().with_name(f".{target.name}.lock"), target) if ranks.rank == 0 else None
    work = Work(target)
    threads = torch.get_num_threads()
    try:
        steered = open_steered(loaded, ranks, model=model, proxy=proxy, base=base, training=training, lr=lr, decay=decay, dtype=dtype,
                               device=device, trust_remote_code=trust_remote_code)  # fmt: skip
        if steered.small:
            torch.set_num_threads(1)  # which is faster, and the same bytes on every machine
        options = {
            "policy": policy.name, **told_budget(budget), **steered.identity,
            "seed": seed, "feedback_tokens": feedback_tokens, "score_tokens": score_tokens, "schedule_only": schedule_only,
            "processes": ranks.size,
        }  # fmt: skip
        inputs = [{"path": str(path), "sha256": sha256_of(str(path))} for path in (*files, loaded.folder / FILE)]
        known = {"tool": "datamix", "verb": "apply", "options": options, "inputs": [*inputs, *steered.inputs]}
        known = json.loads(json.dumps(known))  # as it will be read back
        live = Live(loaded, policy, steered, budget, seed, feedback_tokens, score_tokens, ranks, work, quiet)
        finished = work.settle(known, overwrite) if ranks.rank == 0 else None
        with ranks.joined(str(steered.model.device)):
            if ranks.same(finished is not None):
                if finished is not None:
                    _say(quiet, f"{target}: complete already; nothing to do")
                    _show(json.loads((target / RESULT).read_bytes()), as_json, quiet)
                    _draw(target, plot)
                return 0
            code, result = live.go(clock, max_time)
            if ranks.rank == 0 and code == 0:
                _publish(live, known, result, schedule_only, started, clock)
    finally:
        torch.set_num_threads(threads)
        if lock is not None:
            work.leave()
            lock.release()
    if ranks.rank == 0 and code == 0:
        _show(result, as_json, quiet)
        _draw(target, plot)
    return code


def _check(budget: Budget, output: str | None) -> None:
    if output in (None, "-"):
        raise BadInput("apply: expected -o RUN, a folder for the run")
    if not Path(str(output)).absolute().parent.is_dir():
        raise BadInput(f"{output}: the folder {Path(str(output)).absolute().parent} does not exist; create it first")
    check_budget(budget)


class Drawn(Mixer):
    """The run's mixer, with a hash of every row in order: runs that read the same text end with the same one."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__(mixer.rows, mixer.picker)
        self.digest = ""

    def draw(self, weights: Weights, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows, chosen = super().draw(weights, n)
        data = chosen.astype("<i8").tobytes() + rows.astype("<i8").tobytes()
        self.digest = hashlib.sha256(self.digest.encode() + data).hexdigest()
        return rows, chosen


class Live:
    """A run with what it writes as it goes."""

    def __init__(
        self, corpus: Corpus, policy: Policy, steered: Steered, budget: Budget, seed: int, feedback_tokens: int, score_tokens: int,
        ranks: Ranks, work: Work, quiet: bool,
    ) -> None:  # fmt: skip
        from datamix.steer import Run

        self.corpus, self.policy, self.steered, self.seed, self.ranks, self.work, self.quiet = (
            corpus,
            policy,
            steered,
            seed,
            ranks,
            work,
            quiet,
        )
        self.run: Run = Run(
            corpus, steered.learner, budget, seed, feedback_tokens=feedback_tokens, score_tokens=score_tokens
        )
        self.drawn = Drawn(self.run.mixer)
        self.run.mixer = self.drawn
        self.lines: list[bytes] = []

    @property
    def first(self) -> bool:
        return self.ranks.rank == 0

    def go(self, clock: float, max_time: float | None) -> tuple[int, Record]:
        """From where it stopped to its end: exit code and final figures."""
        from datamix.steer import Diverged

        try:
            self._resume()
            if not self._steps(clock, max_time):
                steps = f"{len(self.run.history)} of {self.run.budget.steps} steps"
                _say(not self.first, f"{self.work.output}: out of time after {steps}; the same command goes on")
                return 1, {}
            return 0, self._result()
        except Diverged as error:
            kept = "what was saved before is kept" if self.lines else "nothing was trained"
            _say(not self.first, f"{self.work.output}: {error}; {kept}. A smaller --lr may help, with --overwrite")
            return 1, {}

    def _resume(self) -> None:
        found = self.work.load() if self.first else None
        told = self.ranks.same(None if found is None else found[0])
        if told is None:
            self._base()
            self.run.begin()
        else:
            self.run.restore(self.ranks.tensors(None if found is None else found[1]))
            self.drawn.digest = told["rows"]
            self.lines = [line.encode() for line in told["lines"]]
        if self.first:
            self.work.lines(self.lines)
            for t in range(len(self.lines)):  # a policy is asked once a step, in order, and may keep what it needs
                self.policy.decide(self.run.history.upto(t))

    def _base(self) -> None:
        """Fill a proxy that came without a base."""
        if self.steered.identity.get("base") is not False:
            return
        from safetensors.torch import load_file

        made: Any = self.steered.model
        state = None
        if self.first:
            path = self.work.folder / BASE
            if not path.exists():
                write_atomic(path, base_file(made, make_base(made, self.corpus, self.seed, self.quiet)))
            state = load_file(path)
        made.restore(self.ranks.tensors(state))
        made.begin()

    def _steps(self, clock: float, max_time: float | None) -> bool:
        """Whether the run came to its end."""
        run, steps = self.run, self.run.budget.steps
        cost, saved = 0.0, time.monotonic()
        with Progress("apply", steps, "steps", self.quiet) as bar, after_a_step() as asked:
            bar.update(len(run.history))
            while len(run.history) < steps:
                late = self.ranks.any(max_time is not None and time.monotonic() - clock > max_time)
                stop = self.ranks.any(bool(asked))
                if (late or stop) and self.first and self.lines:
                    self._save()
                if asked:
                    raise asked[0]
                if stop:
                    raise KeyboardInterrupt  # another process of the run was told to
                if late:
                    return False
                decision = self._decide()
                step = run.step(decision)
                line = schedule.line(
                    step.step, step.tokens_seen, to_names(decision.weights, run.corpus.names), step.feedback, decision.q
                )
                self.lines.append(schedule.write_line(line) + b"\n")
                if self.first:
                    self.work.line(self.lines[-1])
                    now = time.monotonic()
                    if now - saved >= SAVING * cost or len(run.history) == steps:
                        self._save()
                        saved = time.monotonic()
                        cost = saved - now
                bar.update()
        return True

    def _decide(self) -> Decision:
        """Rank 0's."""
        told = None
        if self.first:
            decision = self.policy.decide(self.run.history)
            told = checked(decision.weights, f"{self.policy.name}: step {len(self.run.history)}"), decision.q
        weights, q = self.ranks.same(told) or (np.zeros(0), None)
        return Decision(weights, q)

    def _save(self) -> None:
        self.work.save({"rows": self.drawn.digest, "lines": [line.decode() for line in self.lines]}, self.run.state())

    def _result(self) -> Record:
        run = self.run
        names, history = self.corpus.names, run.history
        taken = run.mixer.picker.taken * run.learner.context
        return {
            "schema": SCHEMA, "policy": self.policy.name, "model": self.steered.name, "seed": self.seed, "steps": len(history),
            **run.result(), "tokens": dict(zip(names, (int(x) for x in taken), strict=True)),
            "base": dict(zip(names, (float(x) for x in history.base), strict=True)),
            "feedback": dict(zip(names, (float(x) for x in history.losses[-1]), strict=True)), "rows_sha256": self.drawn.digest,
        }  # fmt: skip


def _publish(live: Live, known: Record, result: Record, schedule_only: bool, started: datetime, clock: float) -> None:
    counts = {
        "steps": result["steps"],
        "tokens": sum(result["tokens"].values()),
        "source_tokens": result["source_tokens"],
    }
    manifest = {
        "schema": "manifest/1", **known, "version": __version__, "argv": [redact(word) for word in sys.argv], "seed": live.seed,
        "counts": counts, "status": "done", "started": started.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - clock, 3),
    }  # fmt: skip

    def fill(folder: Path) -> None:
        if not schedule_only:
            live.steered.save(folder / MODEL)
        base = live.work.folder / BASE
        if base.exists():
            write_atomic(folder / BASE, base.read_bytes())
        write_atomic(folder / LINES, b"".join(live.lines))
        write_atomic(folder / RESULT, schedule.pretty(result))
        write_atomic(folder / MANIFEST, schedule.pretty(manifest))

    live.work.publish(fill)


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        print(f"datamix: {line}", file=sys.stderr)


def _draw(target: Path, plot: str | None) -> None:
    if plot is not None:
        from datamix import plot as pictures

        pictures.schedule(target / LINES, plot)


def _show(result: Record, as_json: bool, quiet: bool) -> None:
    """The result: JSON on stdout, or a table there for people."""
    if as_json:
        print(json.dumps(result))
    if as_json or quiet:
        return
    from rich.table import Table

    from tenfold_shared.cli import print_table

    title = f"{result['policy']} on {result['model']}: score {result['score']:+.2f} (source {result['source']:+.2f}, target {result['target']:+.2f})"
    table = Table(title=title)
    for column in ("domain", "tokens", "base", "now", "gain, %"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for name, gain in result["domains"].items():
        base, now = result["base"][name], result["feedback"][name]
        table.add_row(name, f"{result['tokens'][name]:,}", f"{base:.3f}", f"{now:.3f}", f"{gain:+.2f}")
    print_table(table)
