"""Work in processes of one thread each, for swarms, comparisons and explanations: models this small gain nothing from a second thread.

A job is (key, function, arguments), importable in a fresh process. Nothing heavy is imported here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self

from tenfold_shared import Missing
from tenfold_shared.jsonl import Journal

Job = tuple[str, Callable[..., Any], tuple[Any, ...]]


class Processes:
    """`with Processes(2) as them: them.each(jobs, done)`, as often as one likes: they are started once, with the first jobs that are worth it.
    One worker, or one job, is done in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def each(self, jobs: Sequence[Job], done: Callable[[str, Any], None]) -> None:
        """done(key, result) of every job, as they come; they are begun in order. Raises what a job raises, and Missing where a process was
        killed."""
        if self.workers == 1 or len(jobs) < 2:
            for key, function, arguments in jobs:
                done(key, function(*arguments))
            return
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=spawn, initializer=_begin)
        waiting = {self._pool.submit(function, *arguments): key for key, function, arguments in jobs}
        try:
            for one in as_completed(waiting):
                done(waiting[one], one.result())
        except BrokenProcessPool:
            raise Missing(
                "a process was killed, for want of memory perhaps: use fewer --workers; what is done is kept: the same command goes on"
            ) from None

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """After an error the others are ended where they are: their work is as far as they saved it."""
        if self._pool is None:
            return
        if kind is not None:
            running = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
        self._pool.shutdown()


def finish(
    folder: str, jobs: Sequence[Job], journal: Journal | None, workers: Processes | int, tick: Callable[[], None]
) -> None:
    """Do what the journal does not have yet: each function of a job is given the folder first. A number of workers: for these jobs alone."""
    if isinstance(workers, int):
        with Processes(workers) as them:
            return finish(folder, jobs, journal, them, tick)
    left = [one for one in jobs if journal is None or one[0] not in journal]
    for _ in range(len(jobs) - len(left)):
        tick()

    def keep(key: str, result: Any) -> None:
        if journal is not None:
            journal.put(key, result)
        tick()

    workers.each([(key, work, (folder, *args)) for key, work, args in left], keep)


def _begin() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C goes to all; the parent ends us
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the parent: one that is killed cannot end us, and nothing else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
