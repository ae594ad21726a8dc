#!/usr/bin/env bash
# One trained seed of the study (bench/carry): hard sums solved by chains and by self-consistency, and reported.
# Leaves its outputs in out/demo/dser.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/dser
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

say dser solve tools/dser/examples/sums.jsonl --config tools/dser/examples/carry.toml --chains 16 --iterations 20 -o "$out/run" --overwrite > "$out/samples.jsonl"
say dser solve tools/dser/examples/sums.jsonl --config tools/dser/examples/carry.toml --preset self-consistency --chains 700 -o "$out/single" --overwrite > "$out/single.jsonl"
say dser report "$out/run" --self-consistency "$out/single" --plot "$out/report.png" > "$out/figure.txt"
dser report "$out/run" --self-consistency "$out/single" --json > "$out/report.json"
say dser plan "$out/run" --budget-tokens 60000 >> "$out/figure.txt"
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "dser demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
