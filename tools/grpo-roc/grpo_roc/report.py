"""`grpo-roc report`: what a run's folder shows: curves, what selection did, which errors calls met, and trajectories to read.

A table, one JSON object, or a page (--html) that holds its pictures and needs nothing else. All that models wrote is escaped: it is shown, never run.

Where it sits: beside train.py, whose folder it reads, finished or not.
"""

from __future__ import annotations

import html
import io
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from grpo_roc.runs import read_lines
from tenfold_shared import BadInput
from tenfold_shared.jsonl import write_atomic

Record = dict[str, Any]
SPAN = 10  # steps at either end that are compared
CURVES = {
    "reward/mean": "mean reward",
    "errors/correct": "failed calls in right trajectories, share",
    "response_length/sampled": "sampled tokens of a response",
    "answers/several": "responses with several answers, share",
    "entropy": "entropy of a token",
    "update/grad_norm": "norm of the gradient",
}
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; white-space: pre-wrap; } svg { max-width: 100%; height: auto; }
</style></head><body>
<h1>$title</h1><p>$told</p>$pictures<h2>First and last steps</h2>$table<h2>Calls</h2>$calls$examples</body></html>
""")


def summary(metrics: Sequence[Record], timings: Sequence[Record]) -> Record:
    """First and last steps beside each other, and sums over all. Raises BadInput without a step."""
    if not metrics:
        raise BadInput("metrics.jsonl: no step yet")
    span = min(SPAN, max(1, len(metrics) // 2))

    def mean(name: str, lines: Sequence[Record]) -> float | None:
        values = [line[name] for line in lines if line.get(name) is not None]
        return statistics.fmean(values) if values else None

    # of all lines: a step that taught nothing has no numbers of an update
    numbers = dict.fromkeys(
        name
        for line in metrics
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    )
    numbers |= dict.fromkeys(CURVES)
    seconds = {name: sum(line.get(name, 0.0) for line in timings) for name in ("generate_s", "train_s")}
    return {
        "steps": len(metrics),
        "span": span,
        "metrics": {
            name: {"first": mean(name, metrics[:span]), "last": mean(name, metrics[-span:])} for name in numbers
        },
        "sampled": sum(line["trajectories/all"] for line in metrics),
        "kept": sum(line["trajectories/kept"] for line in metrics),
        "groups": sum(line["groups/all"] for line in metrics),
        "groups_dropped": sum(line["groups/all"] - line["groups/kept"] for line in metrics),
        "calls": dict(sum((Counter(line["calls/statuses"]) for line in metrics), Counter()).most_common()),
        "alarms": [f"step {line['step']}: {sign}" for line in metrics for sign in line.get("alarms", [])],
        "seconds": seconds,
    }


def pictures(metrics: Sequence[Record]) -> str:
    """Curves over the steps, as one SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [name for name in CURVES if any(line.get(name) is not None for line in metrics)]
    figure, axes = plt.subplots(-(-len(shown) // 2), 2, figsize=(10, 3 * -(-len(shown) // 2)), squeeze=False)
    for axis, name in zip(axes.flat, shown, strict=False):
        points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
        axis.plot(*zip(*points, strict=True), color="#2a6f97")
        axis.set_title(CURVES[name], fontsize=10)
        axis.set_xlabel("step")
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    return out.getvalue()[out.getvalue().index("<svg") :]


def examples(folder: Path, count: int) -> list[tuple[str, Record]]:
    """Of the last step whose trajectories were kept: right ones that were trained on, wrong ones, and the right one with most failed calls."""
    files = (
        sorted((folder / "rollouts").glob("*.jsonl"), key=lambda path: int(path.stem))
        if (folder / "rollouts").is_dir()
        else []
    )
    if not files:
        return []
    lines = read_lines(files[-1])
    right = [one for one in lines if one["reward"] > 0]
    wrong = [one for one in lines if one["reward"] <= 0]
    failed = {
        id(one): sum(call["status"] not in ("ok", "ok_no_output") for turn in one["turns"] for call in turn["calls"])
        for one in right
    }
    found = [("right, trained on", one) for one in right if one["kept"]][:count]
    found += [("right, left out", one) for one in right if not one["kept"]][:count]
    found += [("wrong", one) for one in wrong][:count]
    worst = max(right, key=lambda one: failed[id(one)], default=None)
    if worst is not None and failed[id(worst)]:
        found.append((f"right, with {failed[id(worst)]} failed calls", worst))
    return [(f"step {files[-1].stem}: {name}", one) for name, one in found]


def run(folder: str, *, html_: str | None, count: int, as_json: bool, overwrite: bool) -> int:
    """The verb. Raises BadInput and Missing."""
    from grpo_roc import needs

    where = Path(folder)
    if not (where / "metrics.jsonl").exists():
        raise BadInput(f"{folder}: expected a run's folder, with metrics.jsonl (`grpo-roc train -o`)")
    metrics, timings = read_lines(where / "metrics.jsonl"), read_lines(where / "timings.jsonl")
    found = summary(metrics, timings)
    if html_ is not None:
        needs.plots()
        if Path(html_).exists() and not overwrite:
            raise BadInput(f"{html_}: exists; choose another output or add --overwrite")
        write_atomic(html_, page(where, metrics, found, count).encode("utf-8", "replace"))
    if as_json:
        print(json.dumps(found))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(
        title=f"{folder}: {found['steps']} steps; {found['kept']} of {found['sampled']} trajectories trained on, {found['groups_dropped']} of {found['groups']} groups dropped"
    )
    for column in ("", f"first {found['span']}", f"last {found['span']}"):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in found["metrics"].items():
        table.add_row(name, *map(_told, (one["first"], one["last"])))
    print_table(table)
    for sign in found["alarms"]:
        print(sign)
    return 0


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def page(folder: Path, metrics: Sequence[Record], found: Record, count: int) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{_told(one['first'])}</td><td class=n>{_told(one['last'])}</td></tr>"
        for name, one in found["metrics"].items()
    )
    calls = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{count_}</td></tr>" for name, count_ in found["calls"].items()
    )
    shown = "".join(
        f"<h3>{html.escape(title)}</h3><p>{html.escape(str(one['prompt']))} (answer {html.escape(str(one['answer']))})</p><pre>{html.escape(one['response'])}</pre>"
        for title, one in examples(folder, count)
    )
    alarms = "".join(f"<br>{html.escape(sign)}" for sign in found["alarms"])
    return PAGE.substitute(
        title=html.escape(f"grpo-roc: {folder.name}"),
        told=f"{found['steps']} steps; {found['kept']} of {found['sampled']} trajectories trained on, {found['groups_dropped']} of {found['groups']} groups dropped as their rewards were equal. {alarms}",
        pictures=pictures(metrics),
        table=f"<table><tr><th></th><th>first {found['span']}</th><th>last {found['span']}</th></tr>{rows}</table>",
        calls=f"<table>{calls}</table>" if calls else "<p>None.</p>",
        examples=f"<h2>Trajectories</h2>{shown}" if shown else "",
    )
