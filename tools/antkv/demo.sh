#!/usr/bin/env bash
# SmolLM2's cache at 1 bit on 512-token texts: calibrated, compared, planned for an 80 GB card. Leaves its outputs in
# out/demo/antkv.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/antkv
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

# English at hand everywhere: the language reference that comes with Python.
python -c "from pydoc_data import topics; print('\n\n'.join(topics.topics[t] for t in sorted(topics.topics)))" > "$out/text.txt"
head -c 60000 "$out/text.txt" > "$out/calibrate.txt"
tail -c 60000 "$out/text.txt" > "$out/report.txt"
say antkv calibrate "$out/calibrate.txt" --model smollm2 --bits 1 --tokens 4096 --length 512 -o "$out/codebook.safetensors" --overwrite
say antkv compare "$out/report.txt" --codebook "$out/codebook.safetensors" --length 512 --windows 3 --window 64 --methods antkv,kivi,evict --plot "$out/compare.png" > "$out/figure.txt"
say antkv plan --model smollm2 --gpu-mem 80G >> "$out/figure.txt"
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "antkv demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
