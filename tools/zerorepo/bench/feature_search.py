"""Exact search among 784,524 vectors of 384 numbers, the size of the paper's feature tree: an object a line (make bench-zerorepo).

Ours with each engine beside numpy, torch and, where it is installed, faiss (pip install faiss-cpu), in turn within one run, on one
thread unless `--threads` says more. The floor is the time in which this machine reads what the scan reads, or multiplies that much,
measured in the same turns: float32 rows by numpy, their bfloat16 copy by torch. `--quick` takes 50,000 vectors and says little.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TOOL = "zerorepo"
COMMAND = f"python tools/{TOOL}/bench/feature_search.py"
TREE, DIMENSIONS = 784_524, 384
Number = float | None


def machine(threads: int) -> str:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    import numpy as np
    import torch

    return f"{model}, {threads} of {os.cpu_count()} CPUs, numpy {np.__version__}, torch {torch.__version__}"


def rounded(value: Number) -> Number:
    return None if value is None else float(f"{value:.4g}")


def unit_rows(n: int) -> Any:
    import numpy as np

    draw = np.random.default_rng(0)
    rows = np.empty((n, DIMENSIONS), np.float32)
    for start in range(0, n, 65536):
        block = draw.standard_normal((min(65536, n - start), DIMENSIONS), dtype=np.float32)
        rows[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def reader(rows: Any, threads: int) -> Callable[[], Any]:
    """Reads every byte of ROWS once, each thread its share."""
    import numpy as np

    words = rows.reshape(-1).view(np.float32)
    parts = np.array_split(words, threads)
    if threads == 1:
        return words.max
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.max, parts))


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, a round of all of them after the other; a first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:
                found[name].append(time.perf_counter() - began)
    return found


def multiplier(dtype: Any) -> Callable[[], Any]:
    """One product of 2048 x 2048 matrices of DTYPE."""
    import torch

    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    return lambda: torch.mm(a, b)


def peers_of(rows: Any, queries: Any, k: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Name to a search that gives row numbers (B, k)."""
    import numpy as np
    import torch

    tensor, asked = torch.from_numpy(rows), torch.from_numpy(queries)

    def partition() -> Any:
        scores = (rows @ queries[0])[None] if len(queries) == 1 else queries @ rows.T
        first = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, first, 1), axis=1)
        return np.take_along_axis(first, order, 1)

    found: dict[str, Callable[[], Any]] = {
        "numpy argpartition(E @ q)": partition,
        "torch.topk(q @ E.T)": lambda: torch.topk(asked @ tensor.T, k).indices.numpy(),
    }
    if find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(threads)
        if len(queries) > 1:  # by BLAS: many times faster here than what this build does below 128,000 queries
            faiss.cvar.distance_compute_blas_threshold = 20
        index = faiss.IndexFlatIP(DIMENSIONS)
        index.add(rows)
        found[f"faiss {faiss.__version__} IndexFlatIP"] = lambda: index.search(queries, k)[1]
    else:
        print("faiss is not installed and left out: pip install faiss-cpu", file=sys.stderr)
    return found


def search(n: int, rounds: int, threads: int, k: int) -> None:
    import numpy as np
    import torch

    from zerorepo.vectors import VectorIndex

    torch.set_num_threads(threads)
    rows = unit_rows(n)
    asked = np.random.default_rng(1).standard_normal((64, DIMENSIONS)).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    indexes = {"numpy": VectorIndex(rows, engine="numpy"), "torch": VectorIndex(rows, engine="torch")}
    indexes["torch"].top_k(asked[:1], 1)  # makes its copy
    copy = indexes["torch"]._shadow.view(torch.int16).numpy()
    scanned = {"numpy": ("float32", rows), "torch": ("bfloat16", copy)}
    for count in (1, 64):
        queries = asked[:count].copy()
        peers = peers_of(rows, queries, k, threads)
        runs: dict[str, Callable[[], Any]] = {f"read {name}": reader(data, threads) for name, data in scanned.values()}
        runs |= {f"multiply {name}": multiplier(getattr(torch, name)) for name, _ in scanned.values()}
        runs |= {name: partial(index.top_k, queries, k) for name, index in indexes.items()}
        runs |= peers
        truth = indexes["numpy"].top_k(queries, k)
        for one, other in zip(truth, indexes["torch"].top_k(queries, k), strict=True):
            np.testing.assert_array_equal(one, other)
        for name, run in peers.items():
            if (share := float((run() == truth[1]).mean())) < 0.99:
                raise SystemExit(f"{name}: {share:.3f} of the rows are ours; that is more than rounding")
        seconds = in_turn(runs, rounds)
        for engine, (dtype, data) in scanned.items():
            ours = statistics.median(seconds[engine])
            products = 2 * n * DIMENSIONS * count / (2 * 2048**3) * statistics.median(seconds[f"multiply {dtype}"])
            floor = max(statistics.median(seconds[f"read {dtype}"]), products)
            if indexes[engine].engine != engine:
                raise SystemExit(f"the engine {engine} was given up for {indexes[engine].engine}")
            for peer in peers:
                ratio = statistics.median(b / a for a, b in zip(seconds[engine], seconds[peer], strict=True))
                told = {
                    "tool": TOOL,
                    "case": f"{count} {'query' if count == 1 else 'queries'}, {n:,} x {DIMENSIONS}, k {k}, {indexes[engine].how}",
                    "ours": rounded(ours * 1e3),
                    "peer": rounded(statistics.median(seconds[peer]) * 1e3),
                    "peer_name": peer,
                    "unit": "ms",
                    "ratio": rounded(ratio),
                    "floor": rounded(floor * 1e3),
                    "floor_ratio": rounded(ours / floor),
                    "n": rounds,
                    "bytes": data.nbytes,
                    "machine": machine(threads),
                    "command": COMMAND,
                }
                print(json.dumps(told), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-k", type=int, default=10)
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(given.threads):  # read once, when the libraries are loaded
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        os.environ.update(dict.fromkeys(names, str(given.threads)))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    search(50_000 if given.quick else TREE, 3 if given.quick else 9, given.threads, given.k)
    return 0


if __name__ == "__main__":
    sys.exit(main())
