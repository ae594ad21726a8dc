"""`grpo-roc exec`: one program, or many as records, through the environment.

Where it sits: above env/environment.py. A single program's output is this command's output, and the exit code is 0 for a program that ran to its end well. Records are run as many at a time as there
are workers; those of one session in their order, and, as what a session knew is gone with its process, from their beginning where a run goes on after a kill.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import msgspec

import grpo_roc
from grpo_roc.env.environment import Environment, Program, Result, Settings
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import Located, Output, Source, flow, read_text
from tenfold_shared.progress import Progress

Record = dict[str, Any]
AHEAD = 64  # records in flight, a worker


def one(file: str, settings: Settings, *, stdin: str | None, as_json: bool) -> int:
    """A program from a file or stdin; returns the exit code."""
    if file == "-" and stdin == "-":
        raise BadInput("--input -: stdin is the program; give one of the two as a file")
    code = read_text(file)
    given = "" if stdin is None else read_text(stdin)
    with Environment(settings) as env:
        result = env.run(Program(code, given, echo=False))
    if as_json:
        print(json.dumps(msgspec.to_builtins(result)))
    else:
        for stream, text in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            stream.buffer.write(text.encode("utf-8", "surrogatepass"))
            stream.flush()
        if result.status not in ("ok", "ok_no_output"):
            print(f"grpo-roc: {result.status}{told(result)}", file=sys.stderr)
    return 0 if result.status in ("ok", "ok_no_output") else 1


def told(result: Result) -> str:
    if result.detail:
        return f": {result.detail}"
    if result.signal is not None:
        return f" (signal {result.signal} after {result.wall_s:.2f} s)"
    return f" (exit code {result.exit_code})" if result.exit_code is not None else ""


def program_of(where: str, record: Record, most: float) -> Program:
    """Raises BadInput."""
    if not isinstance(record.get("id"), str) or not record["id"]:
        raise BadInput(f"{where}: id: expected a string of its own for each record, got {record.get('id')!r}")
    for name, kinds, needed in (
        ("code", str, True),
        ("input", str, False),
        ("session", str, False),
        ("timeout", int | float, False),
    ):
        value = record.get(name)
        if (value is None and needed) or (
            value is not None and (not isinstance(value, kinds) or isinstance(value, bool))
        ):
            raise BadInput(f"{where}: {name}: expected {'a number of seconds' if name == 'timeout' else 'a string'}")
    if record.get("session") == "":
        raise BadInput(f"{where}: session: expected a name; leave it out for a process of the call's own")
    timeout = record.get("timeout")
    if timeout is not None and not 0 < timeout <= most:
        raise BadInput(f"{where}: timeout: expected more than 0 and at most {most:g} (--timeout-most)")
    return Program(record["code"], record.get("input") or "", record.get("session"), timeout)


def execute(env: Environment, requests: Iterator[tuple[str, Program]], ahead: int) -> Iterator[tuple[str, Record]]:
    """(key, program) -> (key, result), as they end."""
    running: dict[Future[Result], str] = {}
    for key, program in requests:
        running[env.submit(program)] = key
        if len(running) >= ahead:
            yield from _ended(running, block=True)
        else:
            yield from _ended(running, block=False)
    while running:
        yield from _ended(running, block=True)


def _ended(running: dict[Future[Result], str], *, block: bool) -> Iterator[tuple[str, Record]]:
    done, _ = wait(running, timeout=None if block else 0, return_when=FIRST_COMPLETED)
    for one in done:
        result = msgspec.to_builtins(one.result())
        failed = {"error": result["detail"] or "the environment failed"} if result["status"] == "infra" else {}
        yield running.pop(one), {**result, **failed}


def many(
    files: Sequence[str], selection: Selection, settings: Settings, *, timeout_most: float, output: str | None, overwrite: bool, max_time: float | None, quiet: bool,
) -> int:  # fmt: skip
    """Records {id, code, input?, session?, timeout?}; returns the exit code: 1 where the environment failed some."""

    def sound(located: Iterable[Located]) -> Iterator[Located]:
        for where, record in located:
            try:
                program_of(where, record, timeout_most)
            except BadInput as problem:
                source._tolerate(problem)
                continue
            yield where, record

    source: Source = selection.source(files, None, expand=sound, keep=output is not None)
    decides = {
        **{name: value for name, value in msgspec.to_builtins(settings).items() if name not in ("workers", "parked", "sessions")},
        "timeout_most": timeout_most, **selection.identity(),
    }  # fmt: skip
    statuses: Counter[str] = Counter()
    start = f"@{os.getpid()}-{os.urandom(4).hex()}"

    def plan(where: str, record: Record) -> list[tuple[str, Program]]:
        program = program_of(where, record, timeout_most)
        return [("" if program.session is None else start, program)]

    def assemble(record: Record, results: list[Record]) -> list[Record]:
        statuses[results[0]["status"]] += 1
        return [{**record, **results[0]}]

    with (
        Output(
            output,
            tool="grpo-roc",
            version=grpo_roc.__version__,
            verb="exec",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("exec", None, "calls", quiet) as progress,
    ):
        if out.finished:
            print(f"grpo-roc: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        with Environment(settings) as env:
            done = flow(
                source, identify=lambda record: record["id"], plan=plan, execute=lambda requests: execute(env, requests, AHEAD * settings.workers), assemble=assemble, out=out, max_time=max_time,
                progress=progress,
            )  # fmt: skip
        code = out.complete(done, source, **statuses)
    if not quiet:
        print(
            f"grpo-roc: {done.read} calls: {', '.join(f'{n} {name}' for name, n in statuses.most_common()) or 'none'}",
            file=sys.stderr,
        )
    return code
