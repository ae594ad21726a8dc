"""Olmix's ratios.csv (allenai/olmix): `run,name,index,<domain>...`, one run a row; a mixture is one row. Its swarms' metrics.csv joins on
`run` (tables.py reads the pair).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from datamix.forms.common import Form, How, Read, as_number, name_of, one, path_of, refuse, unique
from datamix.schedule import Stage
from tenfold_shared import BadInput

IDS = ("run", "run_id", "name", "index")  # columns that are no domains


def write(stages: Sequence[Stage], how: How) -> str:
    template = how.paths or "{domain}"
    columns = {path_of(name, template): w for name, w in one(stages).weights.items()}
    for name in columns:
        if name in IDS:
            refuse(name, f"is the name of a column of its own in ratios.csv ({', '.join(IDS)})")
        if "\r" in name:
            refuse(repr(name), "a carriage return does not survive in a CSV file")
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["run", "name", "index", *columns])
    table.writerow([how.method, how.method, 0, *(repr(w) for w in columns.values())])
    return out.getvalue()


def read(text: str, where: str, how: How) -> list[Read]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise BadInput(f"{where}: not CSV: {error}") from None
    if not rows or not any(name in rows[0] for name in ("run", "run_id", "index")):
        raise BadInput(f"{where}: expected a table with a column run and one for each domain")
    if len(rows) != 2:
        raise BadInput(f"{where}: {len(rows) - 1} runs; a mixture is one (datamix import olmix --ratios --metrics makes a swarm)")  # fmt: skip
    if len(rows[0]) != len(rows[1]):
        raise BadInput(f"{where}: {len(rows[1])} fields; expected {len(rows[0])}")
    found: dict[str, float] = {}
    for name, value in zip(*rows, strict=True):
        if name not in IDS:
            domain = unique(name_of(name, how.paths or "{domain}", where), found, where)
            found[domain] = as_number(value, f"{where}: {name}")
    return [Read(found)]


FORM = Form("olmix", ".csv", write, read)
