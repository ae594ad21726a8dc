"""`make bench-<tool>`: run tools/<tool>/bench/*.py, print their table, write bench/results.json."""

import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

COLUMNS = ["case", "ours", "peer", "peer_name", "unit", "ratio", "floor", "floor_ratio", "n"]


def shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main(tool: Path) -> int:
    rows, failed = [], []
    for script in sorted((tool / "bench").glob("*.py")):
        if script.name == "claims.py":
            continue
        print(f"bench: {script}", file=sys.stderr)
        run = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=os.environ)
        rows += [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
        if run.returncode:
            failed.append(script.name)
    table = Table(*COLUMNS, title=f"{tool.name}: {rows[0]['machine'] if rows else 'no rows'}")
    for row in rows:
        table.add_row(*(shown(row[column]) for column in COLUMNS))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    (tool / "bench" / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    for name in failed:
        print(f"bench: {name} failed", file=sys.stderr)
    return 1 if failed else 0


sys.exit(main(Path(sys.argv[1])))
