"""Unfinished work beside an output: NAME.work with the run's identity, its state after a whole step, and its log.

The state is one file, written beside and renamed; what a kill left half-written is never read. Logged lines past the state's step are
dropped when a run goes on, as it will write them again.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tenfold_shared import BadInput
from tenfold_shared.cli import Terminated
from tenfold_shared.jsonl import difference, write_atomic

Record = dict[str, Any]
STATE, IDENTITY, LOG = "state.safetensors", "run.json", "log.jsonl"
OURS = (STATE, IDENTITY, LOG, f".{STATE}.tmp", f".{IDENTITY}.tmp", f".{LOG}.tmp")  # the last of a kill while writing


class Work:
    def __init__(self, output: Path) -> None:
        self.output = output
        self.begun = False  # whether the folder is this run's
        self.folder = output.with_name(f"{output.name}.work")

    def identity(self) -> Record | None:
        try:
            found = json.loads((self.folder / IDENTITY).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def begin(self, identity: Record) -> None:
        self.folder.mkdir(exist_ok=True)
        self.begun = True
        write_atomic(self.folder / IDENTITY, json.dumps(identity).encode())

    def settle(self, identity: Record, overwrite: bool) -> Record | None:
        """What a finished run's manifest counts, None where there is work to do, begun or to go on with. Raises BadInput for what is
        in the way: another run's work, another run's output, or what is not ours."""
        unfinished = self.identity()
        if unfinished is not None and (found := difference(unfinished, identity)):
            if not overwrite and (self.folder / STATE).exists():
                raise BadInput(
                    f"{self.output}: an unfinished run was made with {found}; finish it with its options, or --overwrite"
                )
            self.clear()
            unfinished = None
        if unfinished is not None:
            self.begun = True
            return None
        if self.folder.exists() and any(path.name not in OURS for path in self.folder.iterdir()):
            raise BadInput(f"{self.folder}: is wanted for unfinished work and holds other things; move it away")
        target = self.output
        if target.exists() and any(target.iterdir() if target.is_dir() else [target]) and not overwrite:
            try:
                manifest = json.loads((target / "manifest.json").read_bytes())
            except (OSError, ValueError, RecursionError):
                raise BadInput(
                    f"{target}: exists, and no manifest says what made it; --overwrite replaces it"
                ) from None
            if found := difference(manifest, identity):
                raise BadInput(f"{target}: was made with {found}; choose another output or add --overwrite")
            return manifest.get("counts", {})
        if target.exists() and not target.is_dir():
            raise BadInput(f"{target}: is a file; expected a folder to write")
        if target.exists() and any(target.iterdir()) and not ours(target):
            raise BadInput(f"{target}: holds things that this tool did not make; choose another output")
        self.begin(identity)
        return None

    def save(self, step: int, told: Record, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        write_atomic(self.folder / STATE, save(tensors, metadata={"step": str(step), "told": json.dumps(told)}))

    def load(self) -> tuple[int, Record, dict[str, Tensor]] | None:
        """Steps done, what was told beside, the tensors; None where nothing whole is there."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.folder / STATE), "pt") as found:
                told = found.metadata()
                tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (it is no dict)
            return int(told["step"]), json.loads(told["told"]), tensors
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
            print(f"longexp-peft: {self.folder / STATE}: not what was written there; starting again", file=sys.stderr)
            return None

    def cut_log(self, step: int) -> list[Record]:
        """The log as far as a step, lines past it or torn removed."""
        path = self.folder / LOG
        kept: list[Record] = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                one = json.loads(line)
            except (ValueError, RecursionError):
                break
            if one.get("step", 0) > step:
                break
            kept.append(one)
        write_atomic(path, b"".join(json.dumps(one).encode() + b"\n" for one in kept))
        return kept

    def log(self, line: Record) -> None:
        with open(self.folder / LOG, "ab") as stream:
            stream.write(json.dumps(line).encode() + b"\n")

    def clear(self) -> None:
        for name in OURS:
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)


def ours(folder: Path, verb: str = "train") -> bool:
    """Whether a folder is what a verb of this tool wrote."""
    try:
        told = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and (told.get("tool"), told.get("verb")) == ("longexp-peft", verb)


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
