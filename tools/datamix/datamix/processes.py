"""Work in processes of one thread each, for swarms, comparisons and what they share: models this small gain nothing from a second thread.

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
from typing import Any

from tenfold_shared import Missing

Job = tuple[str, Callable[..., Any], tuple[Any, ...]]


def each(jobs: Sequence[Job], workers: int, done: Callable[[str, Any], None]) -> None:
    """done(key, result) of every job, as they come. What a job raises ends the others, whose work is as far as they saved it. Raises Missing
    where a process was killed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(len(jobs), 1)), mp_context=context, initializer=_begin) as pool:
        try:
            waiting = {pool.submit(function, *arguments): key for key, function, arguments in jobs}
            for one in as_completed(waiting):
                done(waiting[one], one.result())
        except BaseException as problem:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
            if isinstance(problem, BrokenProcessPool):
                raise Missing(
                    "a process was killed, for want of memory perhaps: use fewer --workers; what is done is kept: the same command goes on"
                ) from None
            raise


def _begin() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C goes to all; the parent ends us
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the parent: a killed one cannot end us, and nothing else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
