"""Benchmark of call edges: how many of the calls that happen the graph has, and how many of its edges happen.

    python tools/zerorepo/bench/calls.py

Runs seven test files of networkx under sys.setprofile and prints one JSON object a line:
{tool, case, ours, peer, peer_name, unit, ratio, floor, floor_ratio, n, machine, command}.

- recall: share of the traced pairs whose callee's name stands in a call of the caller. Floor: 0.60, our bar.
- precision by confidence: share of edges between functions whose caller ran that were traced. A test run exercises a
  part of what can be called, so this is below what a reader would call right; all are measured by the same trace.

Peer: the graph that the paper's own code makes of the same package, measured on the same trace by a rebuild of its
zerorepo/rpg_gen/base/rpg/dep_graph.py (commit 7a6ecad) that is not part of this repository: of 939 traced pairs between units
it knows, 423 with a visible name, it has 151; 326 edges between functions start at one that ran. An
earlier rebuild had 145 of 877, and 144 of 427, in a slightly different run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from zerorepo.encode import encode
from zerorepo.sources import WorkTree

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests" / "zerorepo"))
from zerorepo_calls import TRACER, copied, score

TESTS = ("dag", "core", "mincost", "digraph", "weighted", "matching", "louvain")
REF = {"recall": 151 / 423, "precision": 151 / 326}
EVIDENCE = ("exact", "inferred", "name_only")


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores"


def row(case: str, ours: float, peer: float, floor: float | None, n: int, **more: int) -> None:
    found: dict[str, Any] = {
        "tool": "zerorepo", "case": case, "ours": ours, "peer": peer, "peer_name": "the paper's code, rebuilt", "unit": "share",
        "ratio": ours / peer, "floor": floor, "floor_ratio": None if floor is None else ours / floor, "n": n, **more,
    }  # fmt: skip
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
    print(json.dumps({**rounded, "machine": machine(), "command": "python tools/zerorepo/bench/calls.py"}), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="zerorepo-bench-") as folder:
        root, elsewhere = copied("networkx", Path(folder)), Path(folder) / "run"
        elsewhere.mkdir()
        trace = Path(folder) / "trace.json"
        done = subprocess.run(
            [sys.executable, "-c", TRACER, str(trace), *TESTS],
            capture_output=True,
            text=True,
            cwd=elsewhere,
            env=os.environ,
        )
        if not trace.exists():
            raise SystemExit(f"the traced tests failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        found = score(encode(WorkTree(root), "networkx"), root, json.loads(trace.read_text()))
    row(
        "calls: recall of visible pairs",
        found.recall,
        REF["recall"],
        0.60,
        len(found.visible),
        happened=len(found.happened),
    )
    row("calls: precision, all edges", found.precision(*EVIDENCE), REF["precision"], None, len(found.edges))
    for confidence in EVIDENCE:
        count = sum(one == confidence for one in found.edges.values())
        row(f"calls: precision, {confidence}", found.precision(confidence), REF["precision"], None, count)


if __name__ == "__main__":
    main()
