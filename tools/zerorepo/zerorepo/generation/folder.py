"""A folder as the output of a verb: under its final name whole or not at all, with journal, lock and manifest.

What tenfold_shared.jsonl.Output is for one file. While a run lasts, everything it may not lose is in its journal;
the folder is rendered from that, beside, and renamed when complete:

    .NAME.journal   header line (what this run is), then one `[key, result]` line per result
    .NAME.tmp/      the folder being written
    .NAME.lock      flock of the living owner
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Journal, Lock, difference, write_atomic
from tenfold_shared.redaction import redact

Record = dict[str, Any]
MANIFEST = "manifest.json"
RPG = "rpg.json"  # of a skeleton, and of what is built from it
Render = Callable[[Path], None]


class Folder:
    """`-o DIR` of a verb. options, inputs: everything that decides what is written, as for Output.

    `finished`: the same command has completed; nothing is to be done. Raises Busy where a living run holds it, BadInput
    where something is in the way.
    """

    def __init__(
        self, path: str | None, *, verb: str, options: Record, inputs: list[dict[str, str]], overwrite: bool = False
    ) -> None:
        from zerorepo import __version__

        if path in (None, "-"):
            raise BadInput(f"{verb}: expected -o DIR, a folder to write")
        self.path = Path(str(path))
        if self.path.name in ("", ".."):
            raise BadInput(f"{path or verb}: expected -o DIR, a folder with a name of its own")
        inputs = [{**one, "path": _printable(one["path"])} for one in inputs]
        cleaned = msgspec.json.decode(redact(msgspec.json.encode(options).decode()))
        self._identity: Record = {"tool": "zerorepo", "verb": verb, "options": cleaned, "inputs": inputs}
        self._version, self._overwrite = __version__, overwrite
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self.finished: Record | None = None
        self._journal: Journal | None = None
        self._lock: Lock | None = None

    @property
    def journal(self) -> Journal:
        assert self._journal is not None
        return self._journal

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{suffix}")

    def __enter__(self) -> Self:
        if not self.path.absolute().parent.is_dir():
            raise BadInput(f"{self.path}: the folder {self.path.absolute().parent} does not exist; create it first")
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise BadInput(f"{self.path}: is no folder; choose another output")
        for one in self._identity["inputs"]:
            here = Path(one["path"]).resolve()
            if self.path.resolve() in (here, *here.parents):
                raise BadInput(f"{self.path}: is or holds the input {one['path']}; choose another output")
        self._lock = Lock(self.beside("lock"), self.path)
        try:
            self._resume_or_start()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _resume_or_start(self) -> None:
        journal = self.beside("journal")
        header = Journal.header(journal)
        manifest = manifest_of(self.path)
        if self.path.exists() and manifest is None and any(self.path.iterdir()):
            raise BadInput(f"{self.path}: holds things that zerorepo did not make; choose another output")
        if header is not None and difference(header, self._identity):
            if not self._overwrite:
                raise BadInput(f"{self.path}: an unfinished run has {difference(header, self._identity)}; repeat it or add --overwrite")  # fmt: skip
            header = None
        if header is None and manifest is not None and not self._overwrite:
            if found := difference(manifest, self._identity):
                raise BadInput(f"{self.path}: was made with {found}; choose another output or add --overwrite")
            self.finished = manifest
            return
        if header is None:
            journal.unlink(missing_ok=True)
        self._journal = Journal(journal, {**self._identity, "version": self._version})

    def publish(
        self, render: Render | Mapping[str, bytes], counts: Record, *, seed: int | None = None, status: str = "done",
        keep_journal: bool = False,
    ) -> None:  # fmt: skip
        """Write the folder beside, then put it in the place of what was there. keep_journal: there is more to do."""
        aside, old = self.beside("tmp"), self.beside("old")
        for leaving in (aside, old):
            shutil.rmtree(leaving, ignore_errors=True)
        aside.mkdir()
        if callable(render):
            render(aside)
        else:
            for name, data in render.items():
                target = aside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        manifest = {
            "schema": "manifest/1", **self._identity, "version": self._version, "argv": [redact(_printable(word)) for word in sys.argv],
            "seed": seed, "counts": counts, "status": status, "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
        }  # fmt: skip
        write_atomic(aside / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        os.sync()
        if self.path.exists():
            os.replace(self.path, old)
        os.replace(aside, self.path)
        shutil.rmtree(old, ignore_errors=True)
        self.journal.close(remove=not keep_journal)
        self._journal = None

    def __exit__(self, *error: object) -> None:
        try:
            shutil.rmtree(self.beside("tmp"), ignore_errors=True)
            if self._journal is not None:
                self._journal.close(remove=not self._journal.where)  # an empty one holds no work
        finally:
            if self._lock is not None:
                self._lock.release()


def _printable(text: str) -> str:
    """Without the halves of bytes that are no UTF-8, which no JSON can hold."""
    return os.fsencode(text).decode(errors="replace")


def digest_of(files: Mapping[str, bytes]) -> str:
    """Of a tree of files: the same paths with the same bytes are the same tree."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(os.fsencode(path) + b"\0" + hashlib.sha256(files[path]).digest())
    return digest.hexdigest()


def manifest_of(folder: Path) -> Record | None:
    """What made a folder of ours; None where nothing says so."""
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("tool") == "zerorepo" else None
