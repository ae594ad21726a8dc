"""What a method answers, and how it is written: a static mixture (mixture/1), a schedule (schedule.jsonl), and a manifest beside either.

Where it sits: used by the methods of this package for their answers and by its verb for files and tables.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from datamix import __version__
from datamix import schedule as schedules
from datamix.baselines.static import SchedulePolicy, StaticPolicy
from datamix.history import Floats, Policy
from datamix.mixture import Weights, to_names
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import Lock, difference, write_atomic

Record = dict[str, Any]


@dataclass
class Found:
    """weights [D] of a static answer; schedule [T, D] of a dynamic one; neither where only figures were asked for. feedback [T, D]: losses
    measured along the schedule. live: the policy that decides in the run itself. proxy_tokens: what was trained on to find it."""

    method: str
    names: list[str]
    weights: Weights | None = None
    schedule: Floats | None = None
    feedback: Floats | None = None
    proxy_tokens: int = 0
    more: Record = field(default_factory=dict)
    live: Policy | None = None

    @property
    def policy(self) -> Policy:
        if self.live is not None:
            return self.live
        if self.schedule is not None:
            return SchedulePolicy(self.method, self.schedule)
        if self.weights is None:
            raise BadInput(f"{self.method}: no mixture was asked for")
        return StaticPolicy(self.method, self.weights)

    def lines(self, tokens: int) -> list[schedules.Line]:
        """The schedule's lines, steps of `tokens` tokens."""
        rows = np.empty((0, len(self.names))) if self.schedule is None else self.schedule
        found = []
        for t, row in enumerate(rows):
            told = None if self.feedback is None else dict(zip(self.names, map(float, self.feedback[t]), strict=True))
            found.append(schedules.line(t, (t + 1) * tokens, to_names(row, self.names), told))
        return found

    def summary(self) -> Record:
        found: Record = {"method": self.method}
        if self.weights is not None:
            found["weights"] = to_names(self.weights, self.names)
        if self.schedule is not None:
            found["schedule"] = [to_names(row, self.names) for row in self.schedule]
        return {**found, "proxy_tokens": self.proxy_tokens, **self.more}

    def file(self, tokens: int) -> bytes:
        """The bytes of -o. Raises BadInput where there is neither mixture nor schedule."""
        if self.schedule is not None:
            return schedules.schedule_file(self.lines(tokens))
        if self.weights is None:
            raise BadInput(f"{self.method}: no mixture was asked for; leave out --test to get one")
        return schedules.static_file(
            to_names(self.weights, self.names), self.method, proxy_tokens=self.proxy_tokens, **self.more
        )


def deliver(
    work: Callable[[], Found], tokens: int, output: str | None, *, options: Record, inputs: list[Path], seed: int, overwrite: bool, as_json: bool
) -> int:  # fmt: skip
    """Do the work and write it: to -o with its manifest, a summary on stdout. A finished output of the same command is left alone; one of
    another command is BadInput. Raises Busy where another run writes it."""
    if output is None or output == "-":
        show(work(), as_json, file_only=tokens if output == "-" else None)
        return 0
    path = Path(output)
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path}: the folder {path.absolute().parent} does not exist; create it first")
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; -o wants a file here")
    identity = {
        "tool": "datamix",
        "verb": "baseline",
        "options": options,
        "inputs": [{"path": str(p), "sha256": sha256_of(str(p))} for p in inputs],
    }
    beside = path.with_name(path.name + ".manifest.json")
    lock = Lock(path.with_name(f".{path.name}.lock"), path)
    try:
        if path.exists() and not overwrite:
            try:
                manifest = msgspec.json.decode(beside.read_bytes(), type=Record)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise BadInput(f"{path}: exists, and no manifest says what made it; --overwrite replaces it") from None
            if told := difference(manifest, identity):
                raise BadInput(f"{path}: was made with {told}; choose another output or add --overwrite")
            print(f"datamix: {path}: made before by the same command; left as it is", file=sys.stderr)
            if as_json:
                print(json.dumps(manifest["result"]))
            return 0
        started, clock = datetime.now(UTC), time.monotonic()
        found = work()
        told_file = found.file(tokens)
        manifest = {
            "schema": "manifest/1", **identity, "version": __version__, "argv": sys.argv, "seed": seed,
            "counts": {"proxy_tokens": found.proxy_tokens}, "status": "done", "result": found.summary(),
            "started": started.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - clock, 3),
        }  # fmt: skip
        path.unlink(missing_ok=True)  # never an output beside the manifest of another
        write_atomic(beside, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        write_atomic(path, told_file)
        show(found, as_json)
        return 0
    finally:
        lock.release()


def show(found: Found, as_json: bool, file_only: int | None = None) -> None:
    """A JSON object or a table on stdout; with file_only (tokens of a step) what -o would hold, the JSON on stderr."""
    if file_only is not None:
        sys.stdout.write(found.file(file_only).decode())
        if as_json:
            print(json.dumps(found.summary()), file=sys.stderr)
        return
    if as_json:
        print(json.dumps(found.summary()))
        return
    from rich.table import Table

    from tenfold_shared.cli import print_table

    if found.weights is not None:
        table = Table("domain", "weight", title=f"{found.method}, {found.proxy_tokens:,} tokens of proxies")
        table.columns[1].justify = "right"
        for name, w in sorted(to_names(found.weights, found.names).items(), key=lambda one: -one[1]):
            table.add_row(name, f"{w:.4f}")
        print_table(table)
    if found.schedule is not None:
        table = Table("step", *found.names, title=f"{found.method}, {found.proxy_tokens:,} tokens of proxies")
        for t, row in enumerate(found.schedule):
            table.add_row(str(t), *(f"{w:.3f}" for w in row))
        print_table(table)
    if "spearman" in found.more:
        kinds = [kind for kind in ("spearman", "linear", "ridge") if kind in found.more]
        table = Table(
            "metric",
            *kinds,
            title=f"rank correlation (x100) over {found.more['tested']} runs that were not learned from",
        )
        for metric in found.more["spearman"]:
            table.add_row(metric, *(f"{100 * found.more[kind][metric]:.2f}" for kind in kinds))
        print_table(table)
