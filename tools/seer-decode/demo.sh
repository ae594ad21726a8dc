#!/usr/bin/env bash
# Gates for SmolLM2's shape: what they are, what a decoding step would read with them, and random ones through both forms on
# disk. Leaves its outputs in out/demo/seer-decode.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/seer-decode
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

# No gates are trained yet: these are where training would begin.
python tools/seer-decode/examples/random_gates.py smollm2 "$out/random" > /dev/null
say seer-decode info --model smollm2 > "$out/figure.txt"
say seer-decode convert "$out/random" -o "$out/published" --overwrite
say seer-decode convert "$out/published" --model smollm2 -o "$out/again" --overwrite
cmp "$out/random/gate.safetensors" "$out/again/gate.safetensors"
say seer-decode plan --model smollm2 --context 2048,8192 --batch 1,16 --budget 1024 >> "$out/figure.txt"
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "seer-decode demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
