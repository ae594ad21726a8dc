#!/usr/bin/env bash
# Rollouts verified and resampled; sixteen programs, eleven of which mean harm, run confined; a toy trained with Resample-on-Correct
# and without. Leaves its outputs in out/demo/grpo-roc.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/grpo-roc
rm -rf "$out"
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

examples=tools/grpo-roc/examples
say grpo-roc verify "$examples/rollouts.jsonl" -o "$out/verified.jsonl"
say grpo-roc resample "$out/verified.jsonl" --group-size 8 --show digits -o "$out/kept.jsonl" 2> >(tee "$out/explained.txt" >&2)
sleep 0.2
grep '^grpo-roc:' "$out/explained.txt" > "$out/figure.txt"
say grpo-roc exec "$examples/calls.jsonl" --jsonl -o "$out/calls.jsonl" 2> >(tee "$out/calls.txt" >&2)
sleep 0.2
grep '^grpo-roc:' "$out/calls.txt" >> "$out/figure.txt"
say grpo-roc toy --arms roc,grpo-2g --seeds 1 --steps 40 -o "$out/toy" > "$out/toy.txt"
cp "$out/toy/error_share.png" "$out/picture.png"
cat "$out/toy.txt" >&2
cat "$out/toy.txt" >> "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "grpo-roc demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
