"""An output folder that appears whole or not at all, with a manifest that says what made it. Used by train-agent and
import.

The folder is built beside its final name and renamed; a second command for the same name is told that the first is at it; the same command
again finds its work done, another one is refused unless it may replace what is there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from datamix import __version__
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock, difference, write_atomic
from tenfold_shared.redaction import redact

Record = dict[str, Any]


class Folder:
    """`with Folder(...) as out`: out.finished holds the counts of a finished run of the same command, else write into out.path and publish."""

    def __init__(
        self, output: str, verb: str, options: Record, inputs: Sequence[Record], *, seed: int | None, overwrite: bool
    ) -> None:
        self.final, self.verb, self.seed, self.overwrite = Path(output), verb, seed, overwrite
        self.identity: Record = {"tool": "datamix", "verb": verb, "options": options, "inputs": list(inputs)}
        self.path = self.final.with_name(f".{self.final.name}.tmp")
        self._old = self.final.with_name(f".{self.final.name}.old")
        self.finished: Record | None = None
        self._started, self._clock = datetime.now(UTC), time.monotonic()

    def __enter__(self) -> Self:
        parent = self.final.absolute().parent
        if not parent.is_dir():
            raise BadInput(f"{self.final}: the folder {parent} does not exist; create it first")
        if self.final.exists() and not self.final.is_dir():
            raise BadInput(f"{self.final}: is a file; expected a folder to write")
        self._lock = Lock(self.final.with_name(f".{self.final.name}.lock"), self.final)
        try:
            if self._old.exists():  # of a run that was killed while it replaced the one by the other
                if self.final.exists():
                    shutil.rmtree(self._old)
                else:
                    os.rename(self._old, self.final)
            self.finished = self._settle()
            if self.finished is None:
                shutil.rmtree(self.path, ignore_errors=True)
                self.path.mkdir()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _settle(self) -> Record | None:
        if not self.final.exists() or not any(self.final.iterdir()):
            return None
        try:
            manifest = json.loads((self.final / "manifest.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            manifest = {}
        if manifest.get("tool") != "datamix" or manifest.get("verb") != self.verb:
            raise BadInput(f"{self.final}: holds things that `datamix {self.verb}` did not make; choose another output")
        if self.overwrite:
            return None
        if found := difference(manifest, self.identity):
            raise BadInput(f"{self.final}: was made with {found}; choose another output or add --overwrite")
        counts: Record = manifest.get("counts", {})
        return counts

    def publish(self, counts: Record) -> None:
        manifest = {
            "schema": "manifest/1", **self.identity, "version": __version__, "argv": [redact(word) for word in sys.argv], "seed": self.seed,
            "counts": counts, "status": "done", "started": self._started.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - self._clock, 3),
        }  # fmt: skip
        write_atomic(self.path / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
        if self.final.exists():
            os.rename(self.final, self._old)  # aside: at every moment one of the two is whole
        os.rename(self.path, self.final)
        shutil.rmtree(self._old, ignore_errors=True)

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()
