"""A run's folder: by one process at a time, of one command, and its lines, which a kill may have cut off.

Where it sits: below train.py and sft.py, which write such folders, and report.py, which reads them. No torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock, difference, write_atomic

Record = dict[str, Any]


def recovered(folder: Path) -> None:
    """What is put in another's place goes there by two renames; a kill between them leaves the older one aside, which is taken back."""
    for name in ("checkpoint", "best"):
        old = folder / f".{name}.old"
        if old.exists() and (folder / name).exists():
            shutil.rmtree(old)
        elif old.exists():
            old.rename(folder / name)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The run's folder, by one process at a time. Raises Busy and BadInput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / ".lock", folder)
    except OSError as problem:
        raise BadInput(f"{folder}: {problem.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def settle(folder: Path, identity: Record, overwrite: bool) -> str:
    """`new`, `resume` or `finished`. Raises BadInput where the folder holds another run, or things that are not a run's."""
    known = folder / "run.json"
    others = [path for path in folder.iterdir() if path.name != ".lock"]
    identity = json.loads(json.dumps(identity))  # as it is read again
    if known.exists():
        try:
            before = json.loads(known.read_bytes())
        except (ValueError, RecursionError):
            before = {}
        found = difference(before, identity)
        if found and not overwrite:
            raise BadInput(f"{folder}: was made with {found}; choose another output or add --overwrite")
        if not found and not overwrite:
            if (folder / "manifest.json").exists():
                return "finished"
            recovered(folder)
            return "resume" if (folder / "checkpoint").exists() else "new"
        for path in others:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif others:
        raise BadInput(f"{folder}: holds things that no run wrote ({others[0].name}); choose another folder")
    write_atomic(known, json.dumps(identity, indent=1).encode())
    return "new"


def read_lines(path: Path) -> list[Record]:
    """Whole lines of a file of ours; a last one that a kill cut off is none."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return found
