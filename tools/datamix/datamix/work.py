"""Unfinished work of `datamix apply` beside its output, and the output put in place at once.

    NAME.work/run.json             what this run is: its options and the hashes of its inputs
    NAME.work/state.safetensors    model, optimiser, text and history after a whole step
    NAME.work/base.safetensors     the base, where this run made it
    NAME.work/schedule.jsonl       a line a step, as they happen: for whoever looks on

The state is one file, replaced as a whole; it holds the schedule's lines too, so that the others are never read back. A folder is built
under a name that starts with a dot and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold_shared import BadInput
from tenfold_shared.cli import Terminated
from tenfold_shared.jsonl import difference, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]
STATE, IDENTITY, BASE, LINES = "state.safetensors", "run.json", "base.safetensors", "schedule.jsonl"
OURS = {
    name for file in (STATE, IDENTITY, BASE, LINES) for name in (file, f".{file}.tmp")
}  # the last of a kill while writing
MANIFEST = "manifest.json"


class Work:
    def __init__(self, output: Path, verb: str = "apply") -> None:
        self.output, self.verb = output, verb
        self.begun = False  # whether the folder is this run's
        self.folder = output.with_name(f"{output.name}.work")

    # ------------------------------------------------------------ before

    def settle(self, identity: Record, overwrite: bool) -> Record | None:
        """The manifest of a finished run of the same command; None where there is work to do, to begin or to go on with. Raises BadInput
        for another run's work or output, and for what is not ours."""
        unfinished = _read(self.folder / IDENTITY)
        if unfinished is not None:
            found = difference(unfinished, identity)
            if found is None:
                self.begun = True
                return None
            if not overwrite and (self.folder / STATE).exists():
                raise BadInput(
                    f"{self.output}: an unfinished run was made with {found}; finish it with its options, or --overwrite"
                )
            self.clear()
        elif self.folder.exists() and any(path.name not in OURS for path in self.folder.iterdir()):
            raise BadInput(f"{self.folder}: is wanted for unfinished work and holds other things; move it away")
        target = self.output
        if target.exists() and not target.is_dir():
            raise BadInput(f"{target}: is a file; expected a folder to write")
        if target.exists() and any(target.iterdir()):
            manifest = _read(target / MANIFEST) or {}
            if (manifest.get("tool"), manifest.get("verb")) != ("datamix", self.verb):
                raise BadInput(f"{target}: holds things that `datamix {self.verb}` did not make; choose another output")
            found = difference(manifest, identity)
            if found is None and not overwrite:
                return manifest
            if found is not None and not overwrite:
                raise BadInput(f"{target}: was made with {found}; choose another output or add --overwrite")
        self.folder.mkdir(exist_ok=True)
        self.begun = True
        write_atomic(self.folder / IDENTITY, json.dumps(identity).encode())
        return None

    # ------------------------------------------------------------ while it runs

    def save(self, told: Record, tensors: dict[str, Tensor]) -> None:
        """Everything to go on from. One file, so that it is of one step."""
        from safetensors.torch import save

        whole = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
        write_atomic(self.folder / STATE, save(whole, metadata={"told": json.dumps(told)}))

    def load(self) -> tuple[Record, dict[str, Tensor]] | None:
        """What was saved last; None where nothing whole is there."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            with safe_open(str(path), "pt") as found:
                told = json.loads(found.metadata()["told"])
                return told, {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (it is no dict)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
            print(f"datamix: {path}: is not what was written there; starting again", file=sys.stderr)
            return None

    def lines(self, lines: list[bytes]) -> None:
        """The schedule as far as it is known, for whoever looks on."""
        write_atomic(self.folder / LINES, b"".join(lines))

    def line(self, line: bytes) -> None:
        with open(self.folder / LINES, "ab") as stream:
            stream.write(line)

    # ------------------------------------------------------------ after

    def publish(self, fill: Callable[[Path], None]) -> None:
        """The output: made by `fill` in a folder beside it, put in place of what is there, and the work removed."""
        fresh, old = (self.output.with_name(f".{self.output.name}.{kind}") for kind in ("new", "old"))
        for one in (fresh, old):
            shutil.rmtree(one, ignore_errors=True)  # of a run that was killed here
        fresh.mkdir()
        try:
            fill(fresh)
            for path in [*fresh.rglob("*"), fresh]:
                _sync(path)
            if self.output.exists():
                os.rename(self.output, old)
            os.rename(fresh, self.output)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
        self.clear()

    def leave(self) -> None:
        """At the end: work without a state is nothing to go on from, and only in another command's way."""
        if self.begun and not (self.folder / STATE).exists() and not (self.folder / BASE).exists():
            self.clear()

    def clear(self) -> None:
        for name in OURS:
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _read(path: Path) -> Record | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def after_a_step() -> Iterator[list[BaseException]]:
    """SIGINT and SIGTERM wait for the step under way, so that it is saved: the exception that each stands for comes into the list.
    A second one ends the run at once."""
    asked: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    kinds = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
    before = {number: signal.getsignal(number) for number in kinds}

    def note(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        asked.append(kinds[signal.Signals(number)]())

    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
