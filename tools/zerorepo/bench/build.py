"""Benchmark of what building costs beside the model: the sandbox, a verdict, a leaf, the plan.

    python tools/zerorepo/bench/build.py [--quick]

Prints one JSON object a line, as encode.py does: {tool, case, ours, peer, peer_name, unit, ratio, floor, floor_ratio, n,
machine, command}. Times are medians of runs in turn.

- sandbox: `python -c pass` in tenfold_shared.sandbox; floor: the same bare.
- verdict: one test in the sandbox (run_tests); floor: bare pytest with the same options; peer: bare pytest as it comes,
  with the plugins of the environment.
- leaf: the example built by its oracle with one worker, time a leaf, integration tests included; floor: as many bare
  pytest runs as it took.
- craft: the example scored by tasks of its own tests with one worker, time a task; floor: a bare pytest run of each task's
  test file as it is, in the repository itself.
- plan: leaves to their order, 500 to 8,000 of them, ten files to a hundred; R² of a line through the times. Floor: none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from encode import medians
from encode import row as timed

from tenfold_shared.generate import Sampling
from tenfold_shared.sandbox import Limits
from tenfold_shared.sandbox import run as sandboxed
from zerorepo.encode import encode
from zerorepo.generation.asking import Asker
from zerorepo.generation.building import Builder
from zerorepo.generation.oracle import open_oracle
from zerorepo.generation.order import plan
from zerorepo.generation.runner import LocalRunner, Where
from zerorepo.generation.skeleton import stubs_of
from zerorepo.generation.verdict import run_tests
from zerorepo.graph import Edge, Graph, Node
from zerorepo.sources import Held

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tallybook"
row = partial(timed, command="python tools/zerorepo/bench/build.py")
FILES = {"a.py": b"def f():\n    return 1\n", "test_a.py": b"from a import f\n\n\ndef test_f():\n    assert f() == 1\n"}
PLAIN = ["-p", "no:cacheprovider", "-c", "/dev/null", "--noconftest", "--import-mode=importlib", "--rootdir=."]


def bare(place: str, *more: str, plugins: bool) -> None:
    environment = {
        "PYTHONPATH": place,
        "PATH": "/usr/bin:/bin",
        **({} if plugins else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
    }
    words = [sys.executable, "-B", "-m", "pytest", "-q", *more, "test_a.py"]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True)
    if done.returncode:
        raise SystemExit(done.stdout.decode())


def sandbox(times: int) -> None:
    told = medians(
        {
            "bare": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
            "ours": lambda: sandboxed(["python", "-c", "pass"], files={}),
        },
        times,
    )
    row("sandbox: python -c pass", told["ours"], None, None, told["bare"], times)


def verdict(times: int) -> float:
    with tempfile.TemporaryDirectory() as place:
        for name, data in FILES.items():
            (Path(place) / name).write_bytes(data)
        told = medians(
            {
                "bare": lambda: bare(place, *PLAIN, plugins=False),
                "plugins": lambda: bare(place, plugins=True),
                "ours": lambda: run_tests(FILES, ["test_a.py"]),
            },
            times,
        )
    row(
        "verdict: one test", told["ours"], told["plugins"], "pytest with the environment's plugins", told["bare"], times
    )
    return told["bare"]


def leaf(times: int, pytest_seconds: float) -> None:
    sources = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text() for path in sorted(EXAMPLE.glob("tallybook/**/*.py"))
    }
    graph = encode(Held({path: text.encode() for path, text in sources.items()}))
    for node in graph.nodes:
        if node.kind in ("function", "method"):
            node.status = "stubbed"
    files = {path: stubs_of(text).encode() for path, text in sources.items()}
    spent, runs, leaves = [], 0, 0
    for _ in range(times):
        runner = LocalRunner(Where(Limits(), sys.executable), 1)
        asker = Asker(open_oracle([f"oracle:{EXAMPLE}"], 0), Sampling())
        begin = time.perf_counter()
        built = Builder(files, graph, asker, runner).run()
        spent.append(time.perf_counter() - begin)
        runner.close()
        leaves = len(built.results)
        runs = leaves + sum(one.tries for one in built.results.values()) + 1  # red, each code, the whole tree
    row("leaf: the example, one worker", statistics.median(spent) / leaves, None, None, runs * pytest_seconds / leaves, times, leaves=leaves, runs=runs)  # fmt: skip


def scored(times: int) -> None:
    command = Path(sys.executable).parent / "zerorepo"
    with tempfile.TemporaryDirectory() as place:
        tasks = Path(place) / "tasks.jsonl"
        harvest = [command, "craft", "harvest", EXAMPLE, "--tests", EXAMPLE / "tests", "--all", "-q", "-o", tasks]
        subprocess.run(harvest, check=True)
        found = [json.loads(line) for line in tasks.read_text().splitlines()]

        def each() -> None:
            for one in found:
                environment = {
                    "PYTHONPATH": str(EXAMPLE),
                    "PATH": "/usr/bin:/bin",
                    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                }
                words = [
                    sys.executable,
                    "-B",
                    "-m",
                    "pytest",
                    "-q",
                    "-c",
                    "/dev/null",
                    "-p",
                    "no:cacheprovider",
                    "--rootdir=.",
                ]
                cases = [f"{one['file']}::{case}" for case in one["cases"]]
                subprocess.run([*words, *cases], cwd=EXAMPLE, env=environment, check=True, stdout=subprocess.DEVNULL)

        def ours() -> None:
            words = [
                command,
                "craft",
                "score",
                EXAMPLE,
                "--task-file",
                tasks,
                "--workers",
                "1",
                "--embeddings",
                "tfidf",
                "-q",
            ]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

        told = medians({"bare": each, "ours": ours}, times)
    row(
        "craft: a task of a score",
        told["ours"] / len(found),
        None,
        None,
        told["bare"] / len(found),
        times,
        tasks=len(found),
    )


def planned(leaves: int) -> Graph:
    """So many functions, each calling two others before it, eighty to a file, each file importing the last."""
    nodes, edges = [Node(id=".", kind="repo", path=".")], []
    names = [f"m{at // 80:04}.py:f{at:05}" for at in range(leaves)]
    for path in dict.fromkeys(name.partition(":")[0] for name in names):
        nodes.append(Node(id=path, kind="file", path=path, name=path))
        edges.append(Edge(src=".", dst=path, type="contains"))
    for at, name in enumerate(names):
        path, _, qualname = name.partition(":")
        nodes.append(Node(id=name, kind="function", name=qualname, path=path, qualname=qualname, status="stubbed", span=[at % 80 + 1] * 2))  # fmt: skip
        edges.append(Edge(src=path, dst=name, type="contains"))
        edges += [Edge(src=name, dst=names[other], type="invokes") for other in {at // 2, at // 3} if other < at]
        if at % 80 == 0 and at:
            edges.append(Edge(src=path, dst=names[at - 1].partition(":")[0], type="imports"))
    return Graph(nodes, edges)


def plans(times: int) -> None:
    sizes = (500, 1000, 2000, 4000, 8000)
    graphs = {n: planned(n) for n in sizes}
    told = medians(
        {str(n): (lambda graph=graph: plan(Graph(graph.nodes, graph.edges))) for n, graph in graphs.items()}, times
    )
    seconds = [told[str(n)] for n in sizes]
    mean = statistics.mean(seconds)
    slope, intercept = statistics.linear_regression(sizes, seconds)
    left = sum((y - (slope * x + intercept)) ** 2 for x, y in zip(sizes, seconds, strict=True))
    row(f"plan: {sizes[-1]} leaves", seconds[-1], None, None, None, times, r2=1 - left / sum((y - mean) ** 2 for y in seconds), slope=slope)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    times = 3 if parser.parse_args().quick else 15
    sandbox(times)
    seconds = verdict(times)
    leaf(max(1, times // 5), seconds)
    scored(max(1, times // 5))
    plans(times)


if __name__ == "__main__":
    main()
