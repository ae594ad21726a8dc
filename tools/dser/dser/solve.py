"""`dser solve`: the verb. Settings and presets in, chains run by runner.py, one record a problem out."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import msgspec

from dser import prompts as asked
from dser.chain import Procedure, policy_of
from dser.log import RunFolder, Settings
from dser.problems import Files, as_tasks
from dser.prompts import Prompts, Reading
from dser.runner import Outcome, Runner, drive
from tenfold_shared import BadInput, OutOfTime
from tenfold_shared import records as shapes
from tenfold_shared.cli import Backend, Selection, sha256_of
from tenfold_shared.generate import Sampling
from tenfold_shared.jsonl import Located, own_stdout
from tenfold_shared.progress import Progress

Record = dict[str, Any]
MOST_TOLD = 3  # kinds of failure on stderr

PRESETS: dict[str, Record] = {
    "dser": {"chains": 16, "iterations": 10, "window": 10, "policy": "always", "rule": "plurality"},
    "self-consistency": {"chains": 16, "iterations": 0, "window": 1, "policy": "always", "rule": "plurality"},
    "self-refine": {"chains": 1, "iterations": 4, "window": 1, "policy": "stop-on-pass:1", "rule": "plurality"},
    "imo25": {"chains": 10, "iterations": 30, "window": 1, "policy": "stop-on-pass:5", "rule": "accepted"},
}


def run(
    files: Sequence[str],
    backend: Backend,
    selection: Selection,
    sampling: Sampling,
    *,
    preset: str,
    chains: int | None,
    iterations: int | None,
    window: int | None,
    policy: str | None,
    rule: str | None,
    early_stop: float | None,
    templates: Sequence[str],
    system: str | None,
    box: Literal["last", "first", "all"],
    require_box: bool,
    answer: str | None,
    verdict_pass: str | None,
    verdict_fail: str | None,
    unknown: str,
    thinking: str,
    no_answer: str,
    force_answer: bool,
    context: int | None,
    seed: int,
    output: str | None,
    overwrite: bool,
    budget_tokens: int | None,
    max_time: float | None,
    dry_run: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    base = PRESETS[preset]
    given = {"chains": chains, "iterations": iterations, "window": window, "policy": policy, "rule": rule}
    chosen: dict[str, Any] = {name: base[name] if value is None else value for name, value in given.items()}
    name, needed = policy_of(chosen["policy"])
    procedure = Procedure(
        iterations=chosen["iterations"],
        policy=name,
        needed=needed,
        improve=preset == "imo25",
        check=preset == "imo25",
        give_up=10 if preset == "imo25" else 0,
        keep_without_answer=no_answer == "keep",
        force_answer=force_answer,
        unknown_passes=unknown == "pass",
    )
    if chosen["rule"] == "accepted" and name != "stop-on-pass":
        raise BadInput("--vote accepted: only chains of --policy stop-on-pass:M are ever accepted")
    settings = Settings(procedure, chosen["chains"], chosen["window"], chosen["rule"], early_stop or 0.0)
    for option, rule_text in (
        ("--answer-pattern", answer),
        ("--verdict-pass", verdict_pass),
        ("--verdict-fail", verdict_fail),
    ):
        try:
            re.compile(rule_text or "")
        except re.error as error:
            raise BadInput(f"{option} {rule_text}: not a regular expression: {error}") from None
    reading = Reading(box, require_box, answer, verdict_pass or asked.PASS, verdict_fail or asked.FAIL, thinking)
    prompts = Prompts(templates, system, imo25=preset == "imo25")
    if not backend.model:
        backend = msgspec.structs.replace(backend, model=("smollm2",))
    tables = Files(files)
    source = selection.source(tables.paths, "task", expand=as_tasks, keep=output is not None)
    if dry_run:
        print(described(source, settings, prompts, sampling))
        return 0
    if settings.chains > 1 and sampling.temperature == 0:
        print(
            "dser: --temperature 0: all chains of a problem will be the same; --chains 1 says as much", file=sys.stderr
        )
    decides = {
        **backend.identity(),
        **selection.identity(),
        **msgspec.to_builtins(sampling),
        "iterations": procedure.iterations,
        "policy": chosen["policy"],
        "no_answer": no_answer,
        "force_answer": force_answer,
        "unknown": unknown,
        "chains": settings.chains,
        "window": settings.window,
        "vote": settings.rule,
        "early_stop": early_stop,
        "preset": preset,
        "box": box,
        "require_box": require_box,
        "answer_pattern": answer,
        "verdict_pass": reading.passes,
        "verdict_fail": reading.fails,
        "thinking": thinking,
        "template": prompts.hashes,
        "system": system,
        "context": context,
        "seed": seed,
    }
    simulated = backend.model[0].startswith("sim:")
    if simulated:
        decides["model_sha256"] = sha256_of(backend.model[0].removeprefix("sim:"))
    static = None
    if not backend.model[0].startswith(("http:", "https:", "replay:", "vllm:", "sim:")):
        static = backend.batch_size
    folder = RunFolder(output, decides, source, seed, overwrite) if output else nullcontext()
    with folder as log:
        total = source.count()
        calls = None if total is None else total * settings.chains * (1 + 2 * procedure.iterations)
        opened: list[Any] = []
        with Progress("solve", calls, "calls", quiet) as progress:
            runner = Runner(
                source,
                settings,
                prompts,
                reading,
                sampling,
                seed=seed,
                log=log,
                static=static,
                concurrency=1024 if backend.model[0].startswith("vllm:") else 1 if simulated else backend.concurrency,
                budget=budget_tokens,
                deadline=None if max_time is None else time.monotonic() + max_time,
                context=context,
                progress=progress,
                first=(source.bounds() or (0, 0))[0],
            )

            def open_model() -> Any:
                if simulated:
                    from dser.simulate import SimGenerator

                    if len(backend.model) > 1 or backend.record:
                        raise BadInput("--model sim:FILE: stands alone, and is not recorded: its file says it all")
                    found: Any = SimGenerator(backend.model[0].removeprefix("sim:"))
                    for work in runner._order:
                        found.tell(work.task)
                    runner.tell = found.tell
                else:
                    found = backend.open(seed)
                opened.append(found)
                return found

            try:
                done = _write(drive(runner, open_model), runner, log)
            finally:
                for model in opened:
                    model.close()
        if log is not None:
            counts = {"problems": done.problems, "failed": done.failed, "calls": runner.calls, "tokens": runner.tokens}
            log.finish(done.answers, done.right_and_wrong() | counts, runner.status)
    for why, which in itertools.islice(sorted(runner.errors.items(), key=lambda pair: -len(pair[1])), MOST_TOLD):
        print(f"dser: {len(which)} chains failed ({which[0]}): {why}", file=sys.stderr)
    if len(runner.errors) > MOST_TOLD:
        print(f"dser: {len(runner.errors) - MOST_TOLD} more kinds of failure, see answers.jsonl", file=sys.stderr)
    if runner.identical:
        print(
            f"dser: {runner.identical} problems: all chains began with the same solution; does the server heed seeds?",
            file=sys.stderr,
        )
    if not quiet:
        graded = done.right_and_wrong()
        told = f", {graded['correct']} of {graded['graded']} right" if graded["graded"] else ""
        status = "" if runner.status == "done" else f", status: {runner.status}"
        print(
            f"dser: {done.problems} problems, {runner.calls} calls, {runner.tokens} tokens{told}, {done.failed} failed{status}"
            + (" (simulated, no model)" if simulated else ""),
            file=sys.stderr,
        )
    return 1 if done.failed else 0


class _Done:
    """What was written."""

    def __init__(self) -> None:
        self.problems = self.failed = 0
        self.answers: list[Record] = []

    def right_and_wrong(self) -> Record:
        graded = [one["correct"] for one in self.answers if one.get("correct") is not None]
        return {"graded": len(graded), "correct": sum(graded)}


def _write(outcomes: Iterator[Outcome], runner: Runner, log: RunFolder | None) -> _Done:
    done = _Done()
    encode = msgspec.json.Encoder().encode
    with own_stdout() as out:

        def put(one: Outcome) -> None:
            out.write(encode(one.sample) + b"\n")
            out.flush()
            if log is not None:
                log.put_cells(one.chains)
            done.answers.append(one.answer)
            done.problems += 1
            done.failed += one.failed

        for one in outcomes:
            put(one)
        if runner.status == "time":
            saved = (
                "the finished calls are saved; run the same command again to continue" if log else "nothing is saved"
            )
            raise OutOfTime(f"--max-time is over; {saved}")
        for one in runner.finished(final=True):
            put(one)
    return done


def described(source: Iterable[Located], settings: Settings, prompts: Prompts, sampling: Sampling) -> str:
    """The text of --dry-run: calls, tokens, and the prompts of the first problem's first iteration."""
    from dser.chain import Chain

    problems = 0
    first: Record | None = None
    characters = 0
    for _, task in source:
        problems += 1
        first = first or task
        characters += len(shapes.question_of(task))
    calls = problems * settings.chains * (1 + 2 * settings.procedure.iterations)
    lines = [
        f"problems: {problems}",
        f"calls: at most {calls} ({settings.chains} chains of 1 + 2 x {settings.procedure.iterations})",
        f"completion tokens: at most {calls * sampling.max_tokens}",
        f"prompt tokens: about {characters // 4 * settings.chains * (1 + 2 * settings.procedure.iterations)} for the "
        "problems, and the solutions and reviews again in each call (4 characters a token)",
    ]
    if first is not None:
        for role in ("solve", "verify", "refine"):
            lines.append(f"--- {role}")
            turns = prompts.messages(role, first, Chain(settings.procedure), "<SOLUTION>", "<REVIEW>")
            lines += [f"[{turn['role']}] {turn['content']}" for turn in turns]
    return "\n".join(lines)
