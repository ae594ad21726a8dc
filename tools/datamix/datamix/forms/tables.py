"""Public swarms, which are pairs of tables: what was mixed and what was measured, a run a row.

RegMix: `index,train_<ds>_<domain>...` and `index,metric/<ds>_<domain>_val_loss...`. Olmix: ratios.csv `run,name,index,<domain>...` and
metrics.csv `run,name,index,<metric>...` (`run_id` in place of `run` too). Both become a swarm folder (swarms.py) of runs of one step.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from datamix import swarms
from datamix.corpus import check_domains
from datamix.folder import Folder
from datamix.history import Budget, Floats, Step, Trajectory
from datamix.schedule import ROUNDED
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import read_text

OFF_BY = 0.02  # the public tables were rounded to three digits, so that 17 of them can be off by .0085
KEYS = {"regmix": ("index", ""), "olmix": ("run", "run_id", "index")}  # pandas writes a nameless index as ""
NOT_DATA = {"regmix": ("index", ""), "olmix": ("run", "run_id", "name", "index")}
TASK = "imported"


class Table(NamedTuple):
    """ids and their lines [n], columns [C], values [n, C]; NaN where a cell is empty or says nan."""

    path: str
    key: str
    ids: list[str]
    lines: list[int]
    columns: list[str]
    values: Floats


def read_table(path: str, form: str) -> Table:
    """Raises BadInput naming file, line and column: no id column, an id or a column twice, a row of another length, no number."""
    name = "<stdin>" if path == "-" else path
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    head: list[str] = []
    lines: list[int] = []
    ids: dict[str, int] = {}
    rows: list[list[float]] = []
    key, at, wanted = "", 0, list[int]()
    try:
        for row in reader:
            where = f"{name}:{reader.line_num}"
            if not row:
                continue
            if not head:
                head = [column.strip() for column in row]
                key, at, wanted = _columns(head, form, where)
                continue
            if len(row) != len(head):
                raise BadInput(f"{where}: {len(row)} fields; expected the {len(head)} of the first line")
            run = row[at].strip()
            if not run or run in ids:
                told = f"comes twice, first in line {ids[run]}" if run else "empty"
                raise BadInput(f"{where}: {key or 'index'}: {run}: {told}; expected an id of its own for each run")
            ids[run] = reader.line_num
            lines.append(reader.line_num)
            rows.append([_number(row[i], f"{where}: {head[i]}") for i in wanted])
    except csv.Error as error:
        raise BadInput(f"{name}:{reader.line_num}: not CSV: {error}") from None
    if not rows:
        raise BadInput(f"{name}: no runs in it; expected a table with a line of names and a line for each run")
    return Table(name, key, list(ids), lines, [head[i] for i in wanted], np.array(rows))


def _columns(head: list[str], form: str, where: str) -> tuple[str, int, list[int]]:
    for i, column in enumerate(head):
        if column in head[:i]:
            raise BadInput(f"{where}: {column}: a column that comes twice")
    key = next((k for k in KEYS[form] if k in head), None)
    if key is None:
        raise BadInput(f"{where}: no column {' or '.join(k for k in KEYS[form] if k)}; expected one that names the run")
    wanted = [i for i, column in enumerate(head) if column not in NOT_DATA[form]]
    if not wanted:
        raise BadInput(f"{where}: no columns besides {key or 'index'}")
    return key, head.index(key), wanted


def _number(text: str, where: str) -> float:
    if not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{where}: expected a number, got {text!r}") from None


def _mixtures(table: Table) -> Floats:
    """Weights [n, D] that sum to 1: rows off by up to 0.02 are divided by their sum, with one line for the file."""
    for number, row in zip(table.lines, table.values, strict=True):
        for column, weight in zip(table.columns, row, strict=True):
            if not math.isfinite(weight) or weight < 0:
                raise BadInput(f"{table.path}:{number}: {column}: expected a weight of 0 or more, got {weight:g}")
    sums = table.values.sum(axis=1)
    off = np.abs(sums - 1)
    worst = int(off.argmax())
    if off[worst] > OFF_BY:
        number, total = table.lines[worst], sums[worst]
        raise BadInput(f"{table.path}:{number}: weights sum to {total:.6g}; expected 1 (up to {OFF_BY} of rounding)")
    rounded = int((off > ROUNDED * len(table.columns)).sum())
    if rounded:
        print(f"datamix: {table.path}: the weights of {rounded} runs sum to up to {off[worst]:.4f} from 1; divided by their sums", file=sys.stderr)  # fmt: skip
    return table.values / sums[:, None]


def join(mixtures: Table, losses: Table) -> Floats:
    """The losses [n, M] in the order of the mixtures. Raises BadInput for ids that stand in only one of the two, both directions."""
    at = {run: i for i, run in enumerate(losses.ids)}
    told = []
    for one, other in ((mixtures, losses), (losses, mixtures)):
        known = set(other.ids)
        if alone := [run for run in one.ids if run not in known]:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            told.append(f"{', '.join(alone[:3])}{more} not in {other.path}")
    if told:
        raise BadInput(f"{mixtures.path}: runs do not join: {'; '.join(told)}; expected the same ids in both tables")
    return losses.values[[at[run] for run in mixtures.ids]]


def short_names(columns: Sequence[str], metrics: Sequence[str]) -> tuple[list[str], list[str]]:
    """RegMix's columns as domains and metrics: without `train_<ds>_` and without `metric/`. The data set <ds> is what all names of both
    tables begin with, up to an underscore; the metrics keep it."""
    named = [metric.removeprefix("metric/") for metric in metrics]
    if not all(column.startswith("train_") for column in columns):
        return list(columns), named
    bare = [column.removeprefix("train_") for column in columns]
    first, last = min([*bare, *named]), max([*bare, *named])  # what these two share, all between them do
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    shared = first[: first.rfind("_", 0, same) + 1]
    return [name.removeprefix(shared) for name in bare], named


def import_tables(
    form: str, mixture: str, loss: str, output: str, *, targets: Sequence[str] = (), overwrite: bool = False
) -> int:
    """`datamix import regmix --mixture CSV --loss CSV -o SWARM`, `import olmix --ratios CSV --metrics CSV -o SWARM`. Returns the exit
    code: 0, and a run whose losses are no numbers is kept as failed and told. Raises BadInput."""
    inputs = [{"path": path, "sha256": sha256_of(path)} for path in (mixture, loss)]
    with Folder(
        output, "import", {"form": form, "targets": list(targets)}, inputs, seed=None, overwrite=overwrite
    ) as out:
        if out.finished is None:
            runs, described = read_runs(form, mixture, loss, targets)
            failed = sum(one.status == "failed" for one in runs)
            if failed:
                print(f"datamix: {loss}: {failed} runs have a loss that is no number; kept as failed", file=sys.stderr)
            swarms.write(out.path, runs, described)
            out.publish({"runs": len(runs), "failed": failed})
    return 0


def read_runs(form: str, mixture: str, loss: str, targets: Sequence[str]) -> tuple[list[Trajectory], dict[str, Any]]:
    """The runs of two tables, and what swarm.json says of them. Raises BadInput."""
    mixtures, losses = read_table(mixture, form), read_table(loss, form)
    if mixtures.key != losses.key and "index" in (mixtures.key, losses.key):
        raise BadInput(f"{losses.path}: runs are named by {losses.key}, in {mixtures.path} by {mixtures.key}; expected the same column")  # fmt: skip
    weights, measured = _mixtures(mixtures), join(mixtures, losses)
    names, metrics = (
        short_names(mixtures.columns, losses.columns)
        if form == "regmix"
        else (list(mixtures.columns), list(losses.columns))
    )
    for name in targets:
        if name not in names:
            raise BadInput(f"{mixtures.path}: {name}: no such domain; there are {', '.join(names)}")
    roles = {name: "target" if name in targets else "source" for name in names}
    if targets:
        check_domains(list(roles.items()), mixtures.path)
    good = np.array([bool(np.isfinite(row).all()) for row in measured])
    if not good.any():
        raise BadInput(f"{losses.path}: no run whose losses are all numbers")
    base = dict(zip(metrics, (float(x) for x in measured[good].mean(axis=0)), strict=True))
    runs = []
    for run, w, y, ok in zip(mixtures.ids, weights, measured, good.tolist(), strict=True):
        lost = [metric for metric, value in zip(metrics, y, strict=True) if not math.isfinite(value)]
        step = Step(
            step=0,
            tokens_seen=0,
            weights=dict(zip(names, (float(x) for x in w), strict=True)),
            feedback={m: float(v) for m, v in zip(metrics, y, strict=True) if math.isfinite(v)},
            missing=lost,
        )
        runs.append(
            Trajectory(
                id=run, task=TASK, sampler=TASK, seed=0, roles=roles, available=dict.fromkeys(names, 0), base=base,
                budget=Budget(tokens=0, steps=1), steps=[step], status="done" if ok else "failed",
                error=None if ok else f"no number: {', '.join(lost)}",
            )
        )  # fmt: skip
    return runs, {"kind": "imported", "form": form, "metrics": metrics, "domains": names}
