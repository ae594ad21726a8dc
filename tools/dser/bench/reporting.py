"""`dser report` on a long log: seconds and peak memory for 0.1 and 1 million step lines, beside reading them only.

Prints an object a line (make bench-dser). The floor is a pass that decodes each line's `id` with msgspec and does
nothing with it. Lines hold solutions of a few hundred characters.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COMMAND = "make bench-dser"
FLOOR = """
import sys, time, msgspec
class Head(msgspec.Struct):
    id: str
decode = msgspec.json.Decoder(Head).decode
started = time.perf_counter()
with open(sys.argv[1], "rb") as lines:
    for line in lines:
        decode(line)
print(time.perf_counter() - started)
"""


def write_log(path: Path, problems: int, chains: int = 16, iterations: int = 31) -> int:
    """A log as `dser solve` writes it, problems interleaved; the number of lines."""
    rng = np.random.default_rng(1)
    procedure = {"iterations": iterations, "policy": "always"}
    run = json.dumps({"procedure": procedure, "chains": chains, "window": 10, "rule": "plurality", "early_stop": 0.0})
    filler = "x" * 300
    lines = 0
    answers = np.zeros((problems, chains), dtype=int)
    with open(path, "w", encoding="ascii") as out:
        for step in range(2 * iterations + 1):
            n = (step + 1) // 2
            if step % 2 == 0:
                change = rng.random(answers.shape)
                draws = np.where(rng.random(answers.shape) < 0.5, 0, rng.integers(0, 6, answers.shape))
                answers = np.where(change < (1.0 if step == 0 else 0.2), draws, answers)
            verdicts = rng.random(answers.shape) < 0.5
            for p in range(problems):
                for k in range(chains):
                    head = f'{{"schema":"step/1","id":"p{p}","chain":{k},"iteration":{step // 2 if step % 2 else n},'
                    tail = '"prompt_tokens":100,"completion_tokens":100,"model":"bench"'
                    if step % 2:
                        said = "pass" if verdicts[p, k] else "fail"
                        out.write(f'{head}"role":"verify","text":"{filler}","verdict":"{said}",{tail}}}\n')
                    else:
                        role = "refine" if step else "solve"
                        more = f',"task":{{"id":"p{p}","prompt":"q","answer":"{p}"}},"run":{run}' if not step else ""
                        out.write(
                            f'{head}"role":"{role}","text":"{filler}","answer":"{p + answers[p, k]}",{tail}{more}}}\n'
                        )
                    lines += 1
    return lines


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for problems in (100, 1000):
            log = Path(folder) / f"steps-{problems}.jsonl"
            lines = write_log(log, problems)
            floor = float(
                subprocess.run([sys.executable, "-c", FLOOR, log], capture_output=True, text=True, check=True).stdout
            )
            started = time.perf_counter()
            child = subprocess.Popen(["dser", "report", str(log), "--json"], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
            if status:
                raise SystemExit(f"dser report ended with {status}")
            common = {"tool": "dser", "n": lines, "machine": machine(), "command": COMMAND}
            print(
                json.dumps(
                    {
                        **common, "case": f"report, {lines} step lines", "ours": round(seconds, 2), "peer": None,
                        "peer_name": None, "unit": "s", "ratio": None, "floor": round(floor, 2),
                        "floor_ratio": round(seconds / floor, 2),
                    }
                )
            )  # fmt: skip
            print(
                json.dumps(
                    {
                        **common, "case": f"report, peak memory, {lines} step lines", "ours": round(used.ru_maxrss / 1024, 1),
                        "peer": None, "peer_name": None, "unit": "MiB", "ratio": None,
                        "floor": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1), "floor_ratio": None,
                    }
                )
            )  # fmt: skip


if __name__ == "__main__":
    main()
