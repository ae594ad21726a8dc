"""`grpo-roc bench-env`: how fast the environment is on this machine, and what a fresh interpreter would take.

print, sympy    calls a second with many waiting, and how long one takes from its start to its result
open            latency where calls come at a given rate, whether or not those before have ended
queued          so many at once: seconds until all have their own result, none lost and none another's
fresh           a new interpreter for each program, unconfined: what is saved
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from grpo_roc.env.environment import Environment, Program, Result, Settings
from tenfold_shared.progress import Progress

Record = dict[str, Any]
PROGRAMS = {"print": "print(1)", "sympy": "import sympy\nx = sympy.Symbol('x')\nprint(sympy.expand((x + 1) ** 5))"}


class Wrong(Exception):
    """A call had another's result, or none."""


def closed(env: Environment, code: str, calls: int, tick: Callable[[], None]) -> Record:
    """calls at a time as many as keep every worker busy. Raises Wrong."""
    room = threading.Semaphore(8 * env.settings.workers)

    def end(_: Future[Result]) -> None:
        room.release()
        tick()

    began, waiting = time.perf_counter(), []
    for _ in range(calls):
        room.acquire()
        one = env.submit(Program(code))
        one.add_done_callback(end)
        waiting.append(one)
    results = [one.result() for one in waiting]
    seconds = time.perf_counter() - began
    _sound(results)
    return {"calls": calls, "calls_s": calls / seconds, **_times([one.wall_s for one in results])}


def opened(env: Environment, rate: float, seconds: float, tick: Callable[[], None]) -> Record:
    """Calls at a steady rate; latency from issue to result. Raises Wrong."""
    latencies: list[float] = []
    lock, waiting = threading.Lock(), []
    began = time.perf_counter()
    for k in range(int(rate * seconds)):
        due = began + k / rate
        time.sleep(max(due - time.perf_counter(), 0))

        def end(_: Future[Result], issued: float = time.perf_counter()) -> None:
            with lock:
                latencies.append(time.perf_counter() - issued)
            tick()

        one = env.submit(Program(PROGRAMS["print"]))
        one.add_done_callback(end)
        waiting.append(one)
    _sound([one.result() for one in waiting])
    return {"calls": len(waiting), "rate": rate, "mean_s": statistics.fmean(latencies), **_times(latencies)}


def queued(env: Environment, calls: int, tick: Callable[[], None]) -> Record:
    """All at once, each with a result of its own. Raises Wrong."""
    began = time.perf_counter()
    waiting = [env.submit(Program(f"print({k})")) for k in range(calls)]
    for one in waiting:
        one.add_done_callback(lambda _: tick())
    results = [one.result() for one in waiting]
    seconds = time.perf_counter() - began
    wrong = sum(one.stdout != f"{k}\n" for k, one in enumerate(results))
    if wrong:
        raise Wrong(f"{wrong} of {calls} calls have no result or another's")
    return {"calls": calls, "seconds": seconds, "calls_s": calls / seconds}


def fresh(code: str, calls: int, at_once: int = 1) -> Record:
    """A new interpreter for each call, so many at a time."""

    def start(_: int) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(start, range(calls)))
    seconds = time.perf_counter() - began
    return {"calls": calls, "calls_s": calls / seconds}


def _sound(results: list[Result]) -> None:
    bad = [one for one in results if one.status != "ok"]
    if bad:
        raise Wrong(f"{len(bad)} of {len(results)} calls came to {bad[0].status}: {bad[0].stderr[-200:]}")


def _times(values: list[float]) -> Record:
    ranked = sorted(values)
    return {f"p{p}_s": ranked[min(int(p / 100 * len(ranked)), len(ranked) - 1)] for p in (50, 95, 99)}


def run(settings: Settings, *, calls: int, rate: float, burst: int, as_json: bool, quiet: bool) -> int:
    """The verb; returns 1 where a call had no result, or another's. Raises Missing."""
    found: Record = {"level": settings.level, "workers": settings.workers}
    few = max(calls // 10, 5)
    seconds = 5.0
    total = calls + few + int(rate * seconds) + burst
    try:
        with Progress("bench-env", total, "calls", quiet) as bar, Environment(settings) as env:
            for _ in range(20):
                env.run(Program(PROGRAMS["print"]))
            found["print"] = closed(env, PROGRAMS["print"], calls, bar.update)
            found["sympy"] = closed(env, PROGRAMS["sympy"], few, bar.update)
            found["open"] = opened(env, rate, seconds, bar.update)
            if burst:
                found["queued"] = queued(env, burst, bar.update)
    except Wrong as problem:
        print(f"grpo-roc: {problem}", file=sys.stderr)
        return 1
    bare = fresh(PROGRAMS["print"], 20 * settings.workers, settings.workers)
    found["fresh"] = {"print": {**bare, "ratio": found["print"]["calls_s"] / bare["calls_s"]}}
    if as_json:
        print(json.dumps(msgspec.to_builtins(found)))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(title=f"{settings.workers} workers at level {settings.level}")
    for column in ("case", "calls", "calls/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "case" else "right")
    rows: dict[str, Record] = {
        **{name: found[name] for name in ("print", "sympy", "open", "queued") if name in found},
        f"fresh interpreters, print, {settings.workers} at once": found["fresh"]["print"],
    }
    for name, one in rows.items():
        rate_ = one.get("calls_s") or one.get("rate")
        table.add_row(
            name,
            str(one["calls"]),
            f"{rate_:.0f}",
            *(f"{1000 * one[p]:.1f}" if p in one else "" for p in ("p50_s", "p95_s", "p99_s")),
        )
    print_table(table)
    return 0
