"""`seer-decode bench` on this machine: an object a line (make bench-seer-decode)."""

import subprocess


def bench(*args: str) -> None:
    subprocess.run(["seer-decode", "bench", *args, "--json"], check=True)


SMOLLM2 = ["--heads", "9", "--kv-heads", "3", "--head-dim", "64", "--context", "8192"]
for dtype in ("bfloat16", "float32"):
    for keep in ("0.1", "0.5"):
        bench("kernel", "--dtype", dtype, "--keep", keep)  # 32/8 heads of 128, 32,768 tokens
    bench("kernel", *SMOLLM2, "--dtype", dtype)
for dtype in ("bfloat16", "float32"):
    for context, budget in (
        ("8192", "819"),
        ("32768", "3276"),
    ):  # the model's own, and where attention is most of a step
        bench("step", "--dtype", dtype, "--context", context, "--budget", budget)
