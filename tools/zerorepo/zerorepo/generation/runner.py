"""Where the tests of a build run: in sandboxes of this machine, or as Ray tasks on many.

A run is (files, tests) -> verdict and knows of nothing else, so it can be anywhere. Each is a process of its own, ended
with all it started; the threads here only wait for them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from tenfold_shared import Missing
from tenfold_shared.sandbox import Limits
from zerorepo.generation.verdict import Verdict, run_tests


class Where(msgspec.Struct, frozen=True):
    """How tests run. python: the interpreter, whose installed packages the tests see. roots: folders of the tree that
    imports start from. unsafe: without a sandbox, which the user has chosen."""

    limits: Limits
    python: str
    roots: tuple[str, ...] = ("",)
    unsafe: bool = False

    def run(self, files: Mapping[str, bytes], tests: list[str]) -> Verdict:
        return run_tests(
            files, tests, limits=self.limits, python=self.python, roots=self.roots, unsafe=self.unsafe, each=True
        )


class Runner(Protocol):
    def submit(self, files: Mapping[str, bytes], tests: list[str]) -> Future[Verdict]: ...

    def close(self) -> None: ...


class LocalRunner:
    """So many sandboxes at once on this machine."""

    def __init__(self, where: Where, workers: int) -> None:
        self._where = where
        self._pool = ThreadPoolExecutor(workers, "sandbox")

    def submit(self, files: Mapping[str, bytes], tests: list[str]) -> Future[Verdict]:
        return self._pool.submit(self._where.run, files, tests)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class RayRunner:
    """The same as tasks of a Ray cluster: `address` is its head, or `local` for one on this machine. Every node needs
    zerorepo and bubblewrap. Raises Missing where Ray is not installed or does not answer."""

    def __init__(self, where: Where, address: str, workers: int) -> None:
        try:
            import ray
        except ImportError:
            raise Missing("--ray: ray is not installed: pip install 'zerorepo[ray]'") from None
        try:
            if address == "local":
                ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
            else:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Missing(f"--ray {address}: {' '.join(str(error).split())[:200]}") from None
        self._ray: Any = ray
        self._run = ray.remote(num_cpus=1)(_run)
        self._where = ray.put(where)

    def submit(self, files: Mapping[str, bytes], tests: list[str]) -> Future[Verdict]:
        future: Future[Verdict] = self._run.remote(self._where, dict(files), tests).future()
        return future

    def close(self) -> None:
        self._ray.shutdown()


def _run(where: Where, files: Mapping[str, bytes], tests: list[str]) -> Verdict:
    return where.run(files, tests)
