"""`antkv bench` at SmolLM2's shape: an object a line (make bench-antkv)."""

import subprocess

for tokens in ("2048", "8192"):
    for bits, rope in (("1", "post"), ("1", "pre"), ("0.375", "post"), ("0.375", "pre")):
        subprocess.run(["antkv", "bench", "--context", tokens, "--bits", bits, "--rope", rope, "--json"], check=True)
