"""`sparstencil run`: a grid from a file, T steps (stepping.py), checkpoints on the way, a result and what is said of it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import sparstencil
from sparstencil import cpu, modes
from sparstencil import grid as grids
from sparstencil.boundary import Boundary
from sparstencil.stencil import Stencil, read
from sparstencil.stepping import Chosen, How, advance, choose, finished, measured_error, warn_about
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import Lock, difference, write_atomic

log = logging.getLogger("tenfold_shared.sparstencil")
Record = dict[str, Any]


def _beside(output: str, before: str, after: str) -> Path:
    """A file of ours beside a result, by the result's own name in its file."""
    path, key = Path(grids.file_of(output)), grids.key_of(output)
    name = f"{path.name}.{key.strip('/').replace('/', '~')}" if key else path.name
    return path.with_name(f"{before}{name}{after}")


def _sha256(data: bytes, steps: int) -> str:
    return hashlib.sha256(data + str(steps).encode()).hexdigest()


class Checkpoint:
    """The state after some steps, in one file beside the output: a line that says what run it is of, then a .npy."""

    def __init__(self, output: str, identity: Record) -> None:
        self.path, self.identity = _beside(output, ".", ".checkpoint"), identity

    def save(self, state: np.ndarray, steps: int) -> None:
        memory = io.BytesIO()
        np.save(memory, state, allow_pickle=False)
        data = memory.getvalue()
        told = {**self.identity, "steps_done": steps, "sha256": _sha256(data, steps)}
        write_atomic(self.path, json.dumps(told).encode() + b"\n" + data)

    def load(self) -> tuple[np.ndarray, int] | None:
        """State and steps. Raises BadInput where it is of another run."""
        if not self.path.exists():
            return None
        try:
            with open(self.path, "rb") as file:
                head = json.loads(file.readline())
                steps, sha256, data = int(head.pop("steps_done")), head.pop("sha256"), file.read()
            if sha256 != _sha256(data, steps):
                raise ValueError("its numbers are not those that were written")
            state = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise BadInput(f"{self.path}: a damaged checkpoint ({error}); remove it or add --overwrite") from error
        if found := difference(head, self.identity):
            raise BadInput(f"{self.path}: a checkpoint of a run with {found}; remove it or add --overwrite")
        return state, steps

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Job:
    """A run that is read and checked, before anything is computed or written."""

    values: np.ndarray
    stencil: Stencil
    how: How
    chosen: Chosen
    identity: Record
    output: str | None
    every: int | None
    overwrite: bool
    as_json: bool
    quiet: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    strict: bool

    @property
    def target(self) -> Path | None:
        """The file that is written, None for stdout."""
        return Path(grids.file_of(self.output)) if self.output and self.output != "-" else None

    @property
    def manifest(self) -> Path | None:
        return _beside(str(self.output), "", ".manifest.json") if self.target else None

    @property
    def batch(self) -> bool:
        return self.values.ndim == self.stencil.ndim + 1

    @property
    def checkpoint(self) -> Checkpoint | None:
        return Checkpoint(str(self.output), self.identity) if self.every else None

    @functools.cached_property
    def error(self) -> Record | None:
        return self.chosen.error or measured_error(self.values, self.stencil, self.how, self.chosen)

    def say(self, line: str) -> None:
        """How it goes: not with -q."""
        log.info(line)
        if not self.quiet:
            print(f"sparstencil: {line}", file=sys.stderr)

    def warn(self, line: str) -> None:
        log.warning(line)
        print(f"sparstencil: {line}", file=sys.stderr)


def prepared(
    *,
    grid: str,
    spec: str,
    origin: tuple[int, ...] | None,
    convolve: bool,
    boundary: str,
    shape: tuple[int, ...] | None,
    dtype: str | None,
    save_every: int | None,
    strict: bool,
    overwrite: bool,
    output: str | None,
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> Job:
    """Raises BadInput and Missing for all that can be told before the first step."""
    if told := grids.writable(output):
        raise BadInput(told)
    if save_every and (output is None or output == "-"):
        raise BadInput("--save-every: needs -o FILE, beside which the checkpoints are kept")
    notes: list[str] = []
    warned: list[str] = []
    with spoken(warned.append):
        stencil = read(spec, origin)
    if convolve:
        stencil = stencil.flipped()
    found = grids.read(grid, shape, dtype)
    settings = How(boundary=Boundary.parse(boundary, stencil.ndim), **how)
    values = found.values
    batch = values.ndim == stencil.ndim + 1
    try:
        settings.boundary.check(values.shape[1:] if batch else values.shape, stencil, settings.steps)
    except BadInput as error:
        raise BadInput(f"{grid}: {error}") from None
    if output and grid != "-" and _same(output, grid):
        raise BadInput(f"-o {output}: is the grid itself; choose another output")
    if batch and save_every:
        raise BadInput(f"--save-every: {grid} is a batch of {len(values)} grids; run them one by one")
    chosen = choose(stencil, values, settings)
    if settings.backend == "auto" and chosen.backend == "cpu":
        notes.append(f"runs on the CPU: {chosen.why}")
    warned += warn_about(values, stencil, settings, chosen, strict)
    identity = {
        "schema": "manifest/1", "tool": "sparstencil", "verb": "run", "version": sparstencil.__version__,
        "options": {
            "stencil": stencil.key, "steps": settings.steps, "boundary": str(settings.boundary), "mode": chosen.mode,
            "backend": chosen.backend, "fuse": settings.fuse, "tile": list(settings.tile) if settings.tile else None,
            "solver": settings.solver, "save_every": save_every, "convolve": convolve,
            "result": grids.key_of(output) if output else None,
            "arithmetic": cpu.arithmetic() if chosen.backend == "cpu" else None,
        },
        "inputs": [{"path": grid, "sha256": found.sha256}],
    }  # fmt: skip
    return Job(
        values,
        stencil,
        settings,
        chosen,
        identity,
        output,
        save_every,
        overwrite,
        as_json,
        quiet,
        tuple(notes),
        tuple(warned),
        strict,
    )


def _same(output: str, grid: str) -> bool:
    """Whether a result would take the place of its own grid."""
    file, key = grids.file_of(grid), grids.key_of(grid)
    target = grids.file_of(output)
    if not os.path.exists(target) or not os.path.samefile(file, target):
        return False
    return key == grids.key_of(output) or grid == file


def _manifest(path: Path, output: str) -> Record:
    """Raises BadInput where a result has none that can be read: it may be anybody's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{output}: exists, and no manifest says what made it; --overwrite replaces it") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: damaged; choose another output or add --overwrite")
    return found


def _whole_result(before: Record, manifest: Path, output: str) -> None:
    """Raises BadInput where the file is not what its manifest says."""
    told = before.get("result", {})
    try:
        raw = (
            {"shape": tuple(told["shape"]), "dtype": told["dtype"]} if output.endswith((".bin", ".raw", ".dat")) else {}
        )
        sound = grids.read(output, **raw).sha256 == told["sha256"]
    except (BadInput, KeyError, TypeError):
        sound = False
    if not sound:
        raise BadInput(f"{output}: is not what {manifest} says; choose another output or add --overwrite")


@contextmanager
def claimed(job: Job) -> Iterator[bool]:
    """Holds the output; false where it is made already. Raises Busy where another run holds it, BadInput where it is another
    run's result."""
    target, manifest = job.target, job.manifest
    if target is None or manifest is None:
        yield True
        return
    lock = Lock(target.with_name(f".{target.name}.lock"), target)
    try:
        made = not job.overwrite and grids.exists(str(job.output))
        if made:
            before = _manifest(manifest, str(job.output))
            if changed := difference(before, job.identity):
                raise BadInput(f"{job.output}: was made with {changed}; choose another output or add --overwrite")
            _whole_result(before, manifest, str(job.output))
            job.say(f"{job.output}: complete already; nothing to do")
            if job.as_json:
                print(json.dumps(before.get("result", {})))
        yield not made
    finally:
        lock.release()


def begun(job: Job) -> tuple[np.ndarray, int]:
    """The state to go on from, in the working type or the grid's own, and how many steps it has made. Under --overwrite a
    checkpoint of another run is no hindrance."""
    checkpoint = job.checkpoint
    try:
        held = checkpoint.load() if checkpoint is not None else None
    except BadInput:
        if not job.overwrite:
            raise
        held = None
    if held is None:
        return job.values, 0
    job.say(f"goes on after step {held[1]} of {job.how.steps}")
    return held


def finish(job: Job, out: np.ndarray, record: Record) -> None:
    """Writes the result, then its manifest, and says so. Raises BadInput under --strict for a result that is not finite."""
    bad = int(out.size - np.isfinite(out).sum()) if out.dtype.kind == "f" else 0
    if bad and np.isfinite(job.values).all():
        told = f"{bad} of {out.size} points of the result are NaN or infinite, and none of the grid was"
        if job.strict:
            raise BadInput(f"{told} (--strict)")
        job.warn(told)
    _warn_of_error(job)
    result = {"stencil": job.stencil.name, "key": job.stencil.key, **record, "sha256": grids.digest(out)}
    grids.write(job.output, out)
    if job.manifest is not None:
        counts = {"points": int(job.values.size), "steps": job.how.steps}
        whole = {**job.identity, "argv": sys.argv, "counts": counts, "result": result}
        write_atomic(job.manifest, json.dumps(whole, indent=2, default=float).encode() + b"\n")
    if (checkpoint := job.checkpoint) is not None:
        checkpoint.remove()
    if job.as_json:
        print(json.dumps(result, default=float), file=sys.stdout if job.target is not None else sys.stderr)
    else:
        shape = " x ".join(map(str, job.values.shape))
        ranks = f", {record['ranks']} ranks" if record["ranks"] else ""
        job.say(
            f"{job.how.steps} steps of {shape} on {record['backend']} ({record['mode']}{ranks}): "
            f"{record['seconds']:.3f} s, {record['gstencil_s']:.3f} GStencil/s"
        )


def _warn_of_error(job: Job) -> None:
    """Where the sample's error is above --rtol, or far above what the mode promises."""
    how, chosen, error = job.how, job.chosen, job.error
    if error is None:
        return
    told = f"--mode {chosen.mode} on {chosen.backend}: an error of {error['predicted']:.2g} after {how.steps} steps is predicted from a sample of the grid"
    if how.rtol is not None and error["predicted"] > how.rtol:
        job.warn(f"{told}, above --rtol {how.rtol:g}")
    elif (
        how.rtol is None
        and not chosen.plain
        and chosen.mode != "f64"
        and error["predicted"] > 10 * modes.error_after(chosen.mode, how.steps)
    ):
        job.warn(
            f"{told}, far above the mode's own {modes.error_after(chosen.mode, how.steps):.2g}; --mode f32 or f64 is nearer"
        )


def recorded(
    job: Job, out: np.ndarray, started: float, seconds: float, before: int, ranks: tuple[int, ...] | None
) -> Record:
    """How a result came about."""
    how, chosen = job.how, job.chosen
    work = (how.steps - before) * math.prod(job.values.shape)
    return {
        "backend": chosen.backend, "why": chosen.why, "mode": chosen.mode, "steps": how.steps, "resumed_at": before,
        "fuse": how.fuse, "ranks": "x".join(map(str, ranks)) if ranks else None, "shape": list(out.shape),
        "dtype": str(out.dtype), "started": started, "seconds": seconds, "gstencil_s": work / max(seconds, 1e-9) / 1e9,
        "error": job.error,
        "threads": how.threads or os.cpu_count() if chosen.backend == "cpu" else None,
    }  # fmt: skip


@contextmanager
def spoken(say: Callable[[str], None]) -> Iterator[None]:
    """Python's warnings as lines of ours, each once."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if str(message) not in said and issubclass(
            category, UserWarning
        ):  # what numpy says of infinities is told elsewhere
            said.add(str(message))
            say(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


def tell(job: Job) -> None:
    """What is known before the first step."""
    for line in job.notes:
        job.say(line)
    for line in job.warnings:
        job.warn(line)


def run(**given: Any) -> int:
    """The verb; returns the exit code."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise BadInput("started under torchrun, and no --decomp says how the grid is cut")
    job = prepared(**given)
    tell(job)
    with claimed(job) as wanted, spoken(job.warn):
        if wanted:
            finish(job, *_made(job))
    return 0


def _made(job: Job) -> tuple[np.ndarray, Record]:
    """The result and the record of how it came about."""
    from tenfold_shared.progress import Progress

    state, before = begun(job)
    checkpoint, every, how = job.checkpoint, job.every, job.how
    started, clock = time.time(), time.perf_counter()
    with Progress("run", how.steps, "steps", job.quiet) as progress:
        progress.update(before)

        def tell(taken: int) -> None:
            progress.update(before + taken - progress.done)

        def done(now: np.ndarray, taken: int) -> None:
            if checkpoint is not None and before + taken < how.steps:
                checkpoint.save(now, before + taken)
            tell(taken)

        rest = replace(how, steps=how.steps - before)
        try:
            out = advance(
                state, job.stencil, rest, job.chosen, done if every else None, every, None if job.batch else tell
            )
        except OverflowError as beyond:
            wider = "--mode f64" if job.chosen.mode in ("f32", "s8") else "--mode f32 or f64"
            raise BadInput(f"--mode {job.chosen.mode}: {beyond}; use {wider}") from beyond
        except MemoryError as error:
            needed = 3 * state.size * (8 if job.chosen.mode == "f64" else 4) / 2**30
            raise Missing(
                f"out of memory: a run of {state.size} points holds about {needed:.1f} GiB beside the grid; "
                "cut it over processes with --decomp under torchrun"
            ) from error
    seconds = time.perf_counter() - clock
    out = finished(out, job.values.dtype, job.chosen.mode) if job.values.dtype.kind == "f" else out
    return out, recorded(job, out, started, seconds, before, None)
