#!/usr/bin/env bash
# The main line on a real model: sample, grade, judge, metric. Leaves its outputs in out/demo/cotpass.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/cotpass
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

say cotpass sample tools/cotpass/examples/problems.jsonl --model smollm2 -n 16 --max-tokens 128 --batch-size 64 --seed 0 -o "$out/samples.jsonl" --overwrite
say cotpass grade "$out/samples.jsonl" -o "$out/graded.jsonl" --overwrite
say cotpass judge "$out/graded.jsonl" --judge steps -o "$out/judged.jsonl" --overwrite
# More than one right answer in a hundred may hold no checkable step; the demo shows the table all the same.
say cotpass metric "$out/judged.jsonl" --max-unjudged 1 --plot "$out/curves.png" > "$out/figure.txt"
cotpass metric "$out/judged.jsonl" --max-unjudged 1 --json > "$out/report.json" 2> "$out/report.log" || { cat "$out/report.log" >&2; exit 1; } # it warned above already
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "cotpass demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
