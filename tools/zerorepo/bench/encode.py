"""Benchmark of `zerorepo encode` and `update`: against parsing alone, against grimp, and in the number of files.

    python tools/zerorepo/bench/encode.py [--quick]

Prints one JSON object a line: {tool, case, ours, peer, peer_name, unit, ratio, floor, floor_ratio, n, machine,
command}. ratio = peer / ours, so above 1 we are the faster; floor_ratio says how many times our time is of the
floor's. All times are medians of runs in turn, in this process (`command` excepted), on networkx without its tests.

- encode: source to graph. Floor: `ast.parse` of the same files, read beforehand (bar: at most 3 times). Peer:
  grimp.build_graph without its cache, which finds imports alone.
- update: one file of the package edited: inside a body, a method of the central class renamed, and a public
  function added to a file behind stars. Peer and floor: the full encode (bar: at most 0.2 times).
- files: 100 to 3,000 files, real packages under other names; R² of a line through the times, and the slope.
- command: the installed `zerorepo encode` and `update` as processes, beside a process that only parses.
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zerorepo.encode import encode, update
from zerorepo.graph import Graph
from zerorepo.sources import WorkTree

COMMAND = "python tools/zerorepo/bench/encode.py"
PARSE = "import ast, sys\nfrom pathlib import Path\nfor path in Path(sys.argv[1]).rglob('*.py'): ast.parse(path.read_bytes())"


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores"


def row(
    case: str, ours: float, peer: float | None, peer_name: str | None, floor: float | None, n: int, *, command: str = COMMAND,
    **more: Any,
) -> None:  # fmt: skip
    found: dict[str, Any] = {
        "tool": "zerorepo", "case": case, "ours": ours, "peer": peer, "peer_name": peer_name, "unit": "s",
        "ratio": None if peer is None else peer / ours, "floor": floor, "floor_ratio": None if floor is None else ours / floor, "n": n, **more,
    }  # fmt: skip
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
    print(json.dumps({**rounded, "machine": machine(), "command": command}), flush=True)


def medians(works: Mapping[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Median seconds of each, run in turn so that a slower minute falls on all alike; one run of each before."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    gc.collect()
    gc.freeze()  # what is kept from before is not to be walked by the collector in any of the timed runs
    for turn in range(times + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                taken[name].append(time.perf_counter() - start)
    gc.unfreeze()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def parsed(texts: list[bytes]) -> None:
    """Each tree goes before the next is made: kept, they would cost the garbage collector as much again."""
    for text in texts:
        ast.parse(text)


def package(name: str, folder: Path) -> Path:
    """A copy of an installed package without its tests."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name}: not installed; run make")
    return shutil.copytree(
        Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tests")
    )


def bench_encode(root: Path, times: int) -> float:
    import grimp

    texts = [path.read_bytes() for path in root.rglob("*.py")]
    sys.path.insert(0, str(root.parent))  # so that grimp reads the copy
    works = {
        "ours": lambda: encode(WorkTree(root), root.name),
        "floor": lambda: parsed(texts),
        "peer": lambda: grimp.build_graph(root.name, cache_dir=None),
    }
    found = medians(works, times)
    sys.path.remove(str(root.parent))
    row(
        f"encode {root.name} {version(root.name)}",
        found["ours"],
        found["peer"],
        "grimp.build_graph, imports only",
        found["floor"],
        len(texts),
    )
    return found["ours"]


# name -> (file, text there, what takes its place, what is added at the end)
EDITS = {
    "a body": ("algorithms/dag.py", "return G.is_directed() and not has_cycle(G)", "return not has_cycle(G) and G.is_directed()", ""),
    "a body of the central class": ("classes/graph.py", "self._node = self.node_dict_factory()", "self._node = (self.node_dict_factory())", ""),
    "a method of the central class renamed": ("classes/graph.py", "    def is_multigraph(", "    def is_multi_graph(", ""),
    "a public function behind two stars": ("algorithms/dag.py", "__all__ = [\n", '__all__ = [\n    "added",\n', "\n\ndef added():\n    return 1\n"),
}  # fmt: skip


class Switch:
    """One file between two states; each call writes the other and updates the graph of the first."""

    def __init__(self, root: Path, path: str, states: tuple[str, str]) -> None:
        self.root, self.file, self.states, self.at, self.resolved = root, root / path, states, 0, 0
        self.graphs: list[Graph] = []
        for text in states:
            self.file.write_text(text)
            self.graphs.append(encode(WorkTree(root), root.name))
        self.file.write_text(states[0])

    def __call__(self) -> None:
        there = 1 - self.at
        self.file.write_text(self.states[there])
        self.last, change = update(self.graphs[self.at], WorkTree(self.root), self.root.name)
        self.at, self.resolved = there, len(change.resolved)


def bench_update(root: Path, times: int) -> None:
    for name, (path, old, new, end) in EDITS.items():
        text = (root / path).read_text()
        if old not in text:
            raise SystemExit(f"{root.name}/{path}: no {old!r} in it; this benchmark was written for networkx 3.6.1")
        switch = Switch(root, path, (text, text.replace(old, new, 1) + end))
        found = medians({"ours": switch, "full": lambda: encode(WorkTree(root), root.name)}, times)
        if switch.last.dumps() != switch.graphs[switch.at].dumps():
            raise SystemExit(f"update, {name}: differs from a fresh encode")
        (root / path).write_text(text)
        row(
            f"update: {name}",
            found["ours"],
            found["full"],
            "our own full encode",
            found["full"],
            1,
            files_resolved=switch.resolved,
        )


def bench_files(sizes: list[int], times: int) -> None:
    """Real packages of the environment, each under several names; a line fitted through time over files."""
    names = ["networkx", "click", "hypothesis", "rich", "pytest", "msgspec", "grimp", "jinja2"]
    with tempfile.TemporaryDirectory(prefix="zerorepo-bench-") as folder:
        root, files, copies, points = Path(folder), 0, 0, []
        for size in sizes:
            while files < size:
                name = names[copies % len(names)]
                spec = find_spec(name)
                copies += 1
                if spec is None or spec.origin is None:
                    continue
                here = Path(spec.origin).parent
                target = root / f"part{copies}" / f"{name}_{copies}"
                for path in sorted(here.rglob("*.py"))[: size - files]:
                    inside = target / path.relative_to(here)
                    inside.parent.mkdir(parents=True, exist_ok=True)
                    text = path.read_text(encoding="utf-8", errors="surrogateescape").replace(
                        f"{name}.", f"{name}_{copies}."
                    )
                    inside.write_text(text, encoding="utf-8", errors="surrogateescape")
                    files += 1
            texts = [path.read_bytes() for path in root.rglob("*.py")]
            found = medians({"ours": lambda: encode(WorkTree(root)), "floor": partial(parsed, texts)}, times)
            points.append((sum(map(len, texts)), len(texts), found["ours"], found["floor"]))
            row(
                f"files {len(texts)}",
                found["ours"],
                None,
                None,
                found["floor"],
                len(texts),
                megabytes=points[-1][0] / 1e6,
            )
    slope, at_zero = statistics.linear_regression([p[1] for p in points], [p[2] for p in points])
    fit = statistics.correlation([p[1] for p in points], [p[2] for p in points]) ** 2
    per_byte = statistics.correlation([p[0] for p in points], [p[2] for p in points]) ** 2
    row(
        "files: seconds a file, fitted",
        slope,
        None,
        None,
        None,
        len(points),
        r_squared=fit,
        r_squared_bytes=per_byte,
        at_zero=at_zero,
    )


def bench_command(root: Path, times: int) -> None:
    binary = str(Path(sys.executable).with_name("zerorepo"))
    graph = root.parent / "rpg.json"

    def run(*words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr}")

    run(binary, "encode", str(root), "-q", "-o", str(graph))
    touched, turn = root / "classes" / "digraph.py", [0]
    text = touched.read_text()

    def edited() -> None:
        turn[0] += 1
        touched.write_text(text + f"# {turn[0]}\n")
        run(binary, "update", str(graph), "-q")

    works = {
        "ours": lambda: run(binary, "encode", str(root), "-q", "--overwrite", "-o", str(graph)),
        "update": edited,
        "floor": lambda: run(sys.executable, "-c", PARSE, str(root)),
        "start": lambda: run(binary, "--version"),
    }
    found = medians(works, times)
    touched.write_text(text)
    files = sum(1 for _ in root.rglob("*.py"))
    row("command: encode", found["ours"], None, None, found["floor"], files, start_s=found["start"])
    row(
        "command: update of one file",
        found["update"],
        found["ours"],
        "the command's own full encode",
        found["ours"],
        1,
        start_s=found["start"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and files")
    given = parser.parse_args()
    times = 3 if given.quick else 7
    with tempfile.TemporaryDirectory(prefix="zerorepo-bench-") as folder:
        root = package("networkx", Path(folder))
        bench_encode(root, times)
        bench_update(root, times)
        bench_command(root, 2 if given.quick else 5)
    bench_files([100, 300] if given.quick else [100, 300, 1000, 2000, 3000], 1 if given.quick else 3)


if __name__ == "__main__":
    main()
