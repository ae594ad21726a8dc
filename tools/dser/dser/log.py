"""The run folder: steps.jsonl (append-only), its replay into chains, chains.jsonl, answers.jsonl and manifest.json.

steps.jsonl alone holds all: each chain's first step carries the task and the settings of the run. Reading it keeps
answers and verdicts, never texts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import msgspec

import dser
from dser.chain import Chain, Procedure, Step
from dser.groups import Groups
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import Lock, Source, difference, open_read, write_atomic
from tenfold_shared.records import readable
from tenfold_shared.redaction import redact

Record = dict[str, Any]
STEPS = "steps.jsonl"
_encode = msgspec.json.Encoder().encode


class Settings(msgspec.Struct, frozen=True):
    """What of a run decides its answers once the calls are made; carried in the first step of each chain.

    early_stop: 0 for none."""

    procedure: Procedure = Procedure()
    chains: int = 16
    window: int = 10
    rule: str = "plurality"
    early_stop: float = 0.0


class Problem:
    """A problem's chains as read or run; chains[k] is chain k's, None where nothing of it is there.

    failed: the error that a chain ended with. generated, prompted: tokens by role. counts: calls, truncated, looped,
    trimmed, kept, unknown by role. lengths: by iteration, (calls, tokens, truncated, prompt tokens) of those that
    make solutions.
    """

    def __init__(self, name: str, settings: Settings, task: Record | None = None) -> None:
        self.name, self.settings, self.task = name, settings, task
        self.chains: dict[int, Chain] = {}
        self.model = ""
        self.failed: dict[int, str] = {}
        self.generated: dict[str, int] = {}
        self.prompted: dict[str, int] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.lengths: list[list[int]] = []

    @property
    def gold(self) -> Any:
        return (self.task or {}).get("answer")

    def chain(self, index: int) -> Chain:
        if index not in self.chains:
            self.chains[index] = Chain(self.settings.procedure)
        return self.chains[index]

    def note(self, step: Step | _Light) -> None:
        """Count a step's tokens and mishaps."""
        role = step.role
        counts = self.counts.get(role)
        if counts is None:
            counts = self.counts[role] = dict.fromkeys(
                ("calls", "truncated", "looped", "trimmed", "kept", "unknown"), 0
            )
            self.generated[role] = self.prompted[role] = 0
        counts["calls"] += 1
        self.generated[role] += step.completion_tokens
        self.prompted[role] += step.prompt_tokens
        if role != "verify" and role != "check":
            while len(self.lengths) <= step.iteration:
                self.lengths.append([0, 0, 0, 0])
            row = self.lengths[step.iteration]
            row[0] += 1
            row[1] += step.completion_tokens
            row[2] += step.truncated
            row[3] += step.prompt_tokens
        elif step.verdict == "unknown":
            counts["unknown"] += 1
        if step.truncated or step.looped or step.kept or step.trimmed:  # seldom, and a million steps pass here
            counts["truncated"] += step.truncated
            counts["looped"] += step.looped
            counts["kept"] += step.kept
            counts["trimmed"] += bool(step.trimmed)


class _Light(msgspec.Struct, gc=False, omit_defaults=True):
    """A step without its texts, which decoding skips: `Chain` needs to know only that there was one."""

    id: str
    chain: int
    iteration: int
    role: str
    answer: str | None = None
    verdict: str | None = None
    kept: bool = False
    truncated: bool = False
    looped: bool = False
    trimmed: dict[str, int] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    error: str | None = None
    task: Record | None = None
    run: Settings | None = None
    position: int = 0
    line: int = 0  # where it was read

    @property
    def text(self) -> str:
        return ""

    @property
    def trace(self) -> None:
        return None


def steps_path(path: str) -> Path:
    """DIR or DIR/steps.jsonl as the path of the steps."""
    found = Path(path)
    return found / STEPS if found.is_dir() else found


def read_log(path: str) -> Iterator[Problem]:
    """The problems of a run folder or a steps.jsonl, in the order of the input, each replayed through `Chain`.

    Memory holds one problem, an answer and a verdict an iteration, whatever the length of the log. A torn last line is
    left out. Raises BadInput.
    """
    file = steps_path(path)
    groups = Groups(_Light)
    for line, step in read_steps(file, _Light):
        step.line = line
        groups.add(step.id, step, step.position)
    for name, steps in groups:
        first = next((step for step in steps if step.run is not None), None)
        if first is None or first.run is None:
            raise no_first_step(f"{file}:{steps[0].line}", name)
        problem = Problem(name, first.run, first.task)
        problem.model = first.model
        for step, index in in_order(steps, problem, str(file)):
            problem.note(step)
            problem.chain(index).take(step)
        yield problem


def in_order(steps: list[_Light], problem: Problem, file: str) -> Iterator[tuple[_Light, int]]:
    """(step, chain) as the chains were run, wherever the lines are; a line said twice counts once. Fills problem.failed.

    Raises BadInput for a chain that the run has not, and for steps that no chain gets to, as one before is missing.
    """
    found: dict[int, dict[tuple[int, str], _Light]] = {}
    for step in steps:
        if not 0 <= step.chain < problem.settings.chains:
            raise BadInput(
                f"{file}:{step.line}: {step.id}: expected a chain from 0 to {problem.settings.chains - 1}, got {step.chain}"
            )
        own = found.setdefault(step.chain, {})
        if step.error is not None:
            problem.failed[step.chain] = step.error
            continue
        problem.failed.pop(step.chain, None)
        own.setdefault((step.iteration, step.role), step)
    for index, own in found.items():
        chain = problem.chain(index)
        while (call := chain.next) is not None and (due := own.pop((call.iteration, call.role), None)) is not None:
            yield due, index
        if own:
            left = min(own.values(), key=lambda step: step.line)
            wanted = f"{call.role} of iteration {call.iteration}" if call else "no call"
            raise BadInput(
                f"{file}:{left.line}: {left.id}: chain {index}: expected {wanted} next, found {left.role} of iteration "
                f"{left.iteration}; the same dser solve command again makes what is missing"
            )


Kind = TypeVar("Kind", Step, _Light)


def read_steps(path: Path, kind: type[Kind]) -> Iterator[tuple[int, Kind]]:
    """(line number, step) of a log; a torn last line is left out. Raises BadInput."""
    decode = msgspec.json.Decoder(kind).decode
    with open_read(str(path)) as stream:
        for number, line in enumerate(stream, 1):
            try:
                step = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    return
                raise BadInput(f"{path}:{number}: {readable(error)}; expected a step of `dser solve`") from None
            yield number, step


def no_first_step(where: str, name: str) -> BadInput:
    return BadInput(f"{where}: {name}: expected the problem's first step here, with `task` and `run`")


class RunFolder:
    """DIR of a run being made: lock, manifest, the steps so far and those to come.

    `key in folder` says whether a step is there; `read` gets it back. options: what decides the outcome; a rerun with
    others is refused with the first difference. Raises Busy, BadInput, Missing (disk full).
    """

    def __init__(self, path: str, options: Record, source: Source, seed: int, overwrite: bool) -> None:
        self.path = Path(path)
        self._identity: Record = {
            "tool": "dser",
            "verb": "solve",
            "options": msgspec.json.decode(redact(_encode(options).decode())),
            "inputs": source.identity(),
        }
        self._seed, self._overwrite = seed, overwrite
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._at: dict[str, tuple[int, int]] = {}
        self._decode = msgspec.json.Decoder(Step).decode
        self._step = msgspec.json.Encoder().encode

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(exist_ok=True)
        except FileNotFoundError:
            raise BadInput(f"{self.path}: the folder {self.path.parent} does not exist; create it first") from None
        except FileExistsError:
            raise BadInput(f"{self.path}: is a file; -o wants a folder here") from None
        self._lock = Lock(self.path / ".lock", self.path)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _open(self) -> None:
        manifest, steps = self.path / "manifest.json", self.path / STEPS
        self._cells = open(self.path / ".chains.jsonl.tmp", "wb")
        self._file: IO[bytes] | None = None
        self._end = 0
        if self._overwrite or not (manifest.exists() and steps.exists() and steps.stat().st_size):
            mine = {".lock", ".chains.jsonl.tmp"}
            if manifest.exists():  # of a run without a step
                mine |= {"manifest.json", STEPS, "chains.jsonl", "answers.jsonl"}
            if not self._overwrite and any(entry.name not in mine for entry in self.path.iterdir()):
                raise BadInput(
                    f"{self.path}: holds files, and no manifest says what made them; --overwrite replaces them"
                )
            return  # what is there stays until the first reply: a bad path or server costs nothing
        try:
            before = msgspec.json.decode(manifest.read_bytes(), type=dict[str, Any])
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
            raise BadInput(f"{manifest}: is damaged; --overwrite starts anew") from None
        if found := difference(before, self._identity):
            raise BadInput(f"{self.path}: was made with {found}; choose another output or add --overwrite")
        self._write_manifest({}, "running")
        self._file = file = open(steps, "a+b")
        file.seek(0)
        end = 0
        head = msgspec.json.Decoder(_Head).decode
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                step = head(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise BadInput(
                    f"{steps}:{number}: damaged ({error}); without that line the same command makes the call again"
                ) from None
            if step.error is None:  # a call that failed is made again
                self._at[key_of(step.id, step.chain, step.iteration, step.role)] = (end, len(line))
            end += len(line)
        file.truncate(end)
        file.seek(0, os.SEEK_END)
        self._end = end

    def _begin(self) -> IO[bytes]:
        """The steps, open to be added to; a run that is made anew gives up what was there."""
        if self._file is None:
            for name in (STEPS, "chains.jsonl", "answers.jsonl"):
                (self.path / name).unlink(missing_ok=True)
            self._write_manifest({}, "running")
            self._file = open(self.path / STEPS, "a+b")
        return self._file

    def __contains__(self, key: str) -> bool:
        return key in self._at

    def read(self, key: str) -> Step:
        offset, length = self._at[key]
        return self._decode(os.pread(self._begin().fileno(), length, offset))

    def append(self, key: str, step: Step) -> None:
        if key in self._at:  # of a block in step, part of which a kill left here
            return
        line = self._step(step) + b"\n"
        try:
            file = self._begin()
            file.write(line)
            file.flush()  # to the kernel: survives our own death
        except OSError as error:
            raise Missing(
                f"{self.path}: cannot be written ({error.strerror}); free some space and run the same command again"
            ) from error
        if step.error is None:
            self._at[key] = (self._end, len(line))
        self._end += len(line)

    def _write_manifest(self, counts: Record, status: str) -> None:
        manifest = {
            "schema": "manifest/1",
            **self._identity,
            "version": dser.__version__,
            "argv": [redact(word) for word in sys.argv],
            "seed": self._seed,
            "counts": counts,
            "status": status,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
        }
        write_atomic(self.path / "manifest.json", msgspec.json.format(_encode(manifest), indent=2) + b"\n")

    def put_cells(self, records: list[Record]) -> None:
        """Lines for chains.jsonl, which appears when the run is over."""
        self._cells.write(b"".join(_encode(record) + b"\n" for record in records))

    def finish(self, answers: list[Record], counts: Record, status: str) -> None:
        os.fsync(self._begin().fileno())
        self._cells.flush()
        os.fsync(self._cells.fileno())
        os.replace(self.path / ".chains.jsonl.tmp", self.path / "chains.jsonl")
        write_lines(self.path / "answers.jsonl", iter(answers))
        self._write_manifest(counts, status)

    def __exit__(self, *exc: object) -> None:
        for file in (self._file, self._cells):
            try:
                if file is not None:
                    file.close()
            except OSError:
                pass  # what could not be written was told by append
        (self.path / ".chains.jsonl.tmp").unlink(missing_ok=True)
        self._lock.release()


class _Head(msgspec.Struct):
    id: str
    chain: int
    iteration: int
    role: str
    error: str | None = None


def key_of(name: str, chain: int, iteration: int, role: str) -> str:
    return f"{name}\x1f{chain}\x1f{iteration}\x1f{role}"


def emit(records: Iterator[Record], output: str | None, overwrite: bool) -> None:
    """Records to stdout, or to a file that must not exist without `overwrite`. Raises BadInput."""
    if output is None or output == "-":
        out = sys.stdout.buffer
        for record in records:
            out.write(_encode(record) + b"\n")
        out.flush()
        return
    path = Path(output)
    if path.exists() and not overwrite:
        raise BadInput(f"{output}: exists; choose another output or add --overwrite")
    if not path.parent.is_dir():
        raise BadInput(f"{output}: the folder {path.parent} does not exist; create it first")
    write_lines(path, records)


def write_lines(path: Path, records: Iterator[Record]) -> None:
    """Whole or not at all."""
    try:
        write_atomic(path, (_encode(record) + b"\n" for record in records))
    except OSError as error:
        raise Missing(f"{path}: cannot be written ({error.strerror}); free some space and run it again") from error
