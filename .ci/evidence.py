"""`make evidence`, and the end of `make bench` and `make claims`: EVIDENCE.md from every tool's files of results.

Read: tools/*/bench/claims.json, tools/*/bench/results.json, tools/*/demo.json (what is not measured) and
kernels/results/*.json (rows of a GPU). tests/pipelines/test_evidence.py fails where the page is behind them.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = {"yes": "yes", "no": "**no**", "not_shown": "not shown", "measured": "measured"}
HEAD = """# Evidence

What the ten tools claim and how fast they are, gathered from their files of results by `make evidence`
(`make claims` and `make bench` end with it). Nothing here is typed by hand.

A **claim** is an experiment with its seeds, its control and a 95 % interval; *yes*: the interval lies where the claim
says, *no*: it lies on the other side, *not shown*: it does not settle the claim by the rule of the tool's README
(most often it holds both sides, over seeds or over tasks), *measured*: a figure of which nothing is claimed. All were made at the size two CPU cores allow; what larger models and a GPU would say is in the
[last section](#not-yet-measured-and-why).

A **case** of a benchmark stands beside the best tool that already
does the job (*peer*; above 1 is better than it) and beside what the machine allows at all (*of the floor*: ours over
the floor in a time, above 1 by as much as it is slower).
"""


def number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value:.3e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.3e}"


def cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def code(command: str) -> str:
    return f"`{' '.join(command.split())}`".replace("|", "\\|")


def table(columns: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def figure(claim: dict[str, Any]) -> str:
    if claim["value"] is None:
        return "not run" if claim["supported"] == "not_shown" else "never"
    interval = f" [{number(claim['low'])}, {number(claim['high'])}]" if claim["low"] is not None else ""
    control = claim["control"]
    beside = control.get("value") if isinstance(control, dict) else None
    return (
        number(claim["value"]) + interval + (f"; control {number(beside)}" if isinstance(beside, int | float) else "")
    )


def page(root: Path) -> str:
    """The whole text. Raises KeyError where a file of results lacks a column, ValueError at an unknown verdict."""
    folders = sorted(path.parent for path in root.glob("tools/*/pyproject.toml"))
    claims = {folder.name: json.loads((folder / "bench" / "claims.json").read_text()) for folder in folders}
    cases = {folder.name: json.loads((folder / "bench" / "results.json").read_text()) for folder in folders}
    for tool, rows in claims.items():
        for row in rows:
            if row["supported"] not in VERDICTS:
                raise ValueError(f"{tool}: claim {row['claim']!r}: supported is {row['supported']!r}")
    summary, machines = [], set()
    for tool in claims:
        said = Counter(row["supported"] for row in claims[tool])
        beside = [row["ratio"] for row in cases[tool] if row["peer"] is not None and row["ratio"] is not None]
        machines |= {row["machine"] for row in [*claims[tool], *cases[tool]]}
        better = f"{sum(ratio >= 1 for ratio in beside)} of {len(beside)}" if beside else "no peer"
        summary.append(
            [
                f"[{tool}](tools/{tool}/README.md)",
                *(str(said[verdict]) for verdict in VERDICTS),
                str(len(cases[tool])),
                better,
                f"`make claims-{tool}`, `make bench-{tool}`",
            ]
        )
    parts = [
        HEAD,
        table(
            ["tool", *(VERDICTS[v].strip("*") for v in VERDICTS), "cases", "at or above the peer", "made by"], summary
        ),
        "\nMachines: " + "; ".join(sorted(machines)) + ".\n",
        "## What did not hold, or was not shown\n",
        table(
            ["tool", "claim", "figure", "supported"],
            (
                [tool, cell(row["claim"]), figure(row), VERDICTS[row["supported"]]]
                for verdict in ("no", "not_shown")
                for tool in claims
                for row in claims[tool]
                if row["supported"] == verdict
            ),
        ),
        "\n## Claims\n",
        table(
            ["tool", "claim", "source", "figure", "supported", "command"],
            (
                [
                    tool,
                    cell(row["claim"]),
                    cell(row["source"]),
                    figure(row),
                    VERDICTS[row["supported"]],
                    code(row["command"]),
                ]
                for tool in claims
                for row in claims[tool]
            ),
        ),
        "\n## Benchmarks\n",
        table(
            ["tool", "case", "ours", "unit", "peer", "ratio", "of the floor", "command"],
            (
                [
                    tool,
                    cell(row["case"]),
                    number(row["ours"]),
                    cell(row["unit"]),
                    cell(row["peer_name"] or "") + (f": {number(row['peer'])}" if row["peer"] is not None else ""),
                    number(row["ratio"]),
                    number(row["floor_ratio"]),
                    code(row["command"]),
                ]
                for tool in cases
                for row in cases[tool]
            ),
        ),
        "\n## On a GPU\n",
        gpu(root),
        "\n## Not yet measured, and why\n",
        table(
            ["tool", "not yet measured"],
            ([f.name, cell(json.loads((f / "demo.json").read_text())["not_measured"])] for f in folders),
        ),
        "\nWhy: every figure above is of a machine with two CPU cores, no GPU and no network. Kernels are held to float64"
        "\noracles in Triton's interpreter or under emulation, and compiled offline for sm_80 and sm_90; `make gpu-check` and"
        "\n`make gpu-capacity` are the commands that measure them where a card is. Models of billions of weights, and strong"
        "\njudges and generators, are reached by `--model` (a folder, vLLM, a server) and were at hand nowhere.\n",
    ]
    return "\n".join(parts)


def gpu(root: Path) -> str:
    files = sorted((root / "kernels" / "results").glob("*.json"))
    if not files:
        return "No row: no card has been at hand. `make gpu-check` writes `kernels/results/<gpu>.json`.\n"
    rows = [(file.stem, row) for file in files for row in json.loads(file.read_text())["rows"]]
    return table(
        ["card", "kernel", "case", "ms", "of the floor", "baseline", "against it", "error", "right"],
        (
            [
                card,
                row["kernel"],
                cell(row["case"]),
                number(row["ms"]),
                number(row["floor_ratio"]),
                cell(row["baseline"] or ""),
                number(row["baseline_ratio"]),
                number(row["max_rel_err"]),
                "yes" if row["ok"] else "**no**",
            ]
            for card, row in rows
        ),
    )


if __name__ == "__main__":
    (ROOT / "EVIDENCE.md").write_text(page(ROOT))
    print("EVIDENCE.md: written", file=sys.stderr)
