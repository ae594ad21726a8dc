"""`seer-decode bench` on this machine: an object a line (make bench-seer-decode)."""

import subprocess

LARGE = []  # the verb's own defaults: 32/8 heads of 128, 32,768 tokens
SMALL = ["--heads", "9", "--kv-heads", "3", "--head-dim", "64", "--context", "8192"]  # SmolLM2-135M
for shape in (LARGE, SMALL):
    for dtype in ("bfloat16", "float32"):
        for keep in ("0.1", "0.5"):
            subprocess.run(
                ["seer-decode", "bench", "kernel", *shape, "--dtype", dtype, "--keep", keep, "--json"], check=True
            )
for dtype in ("bfloat16", "float32"):
    for context in ("8192", "32768"):
        budget = str(int(context) // 10)
        subprocess.run(["seer-decode", "bench", "step", "--context", context, "--budget", budget, "--dtype", dtype, "--json"], check=True)  # fmt: skip
