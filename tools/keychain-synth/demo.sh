#!/usr/bin/env bash
# Rows of 16K tokens from the shipped questions, audited; a needle grid and short chains answered by SmolLM2.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/keychain-synth
examples=tools/keychain-synth/examples
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

say keychain-synth synth "$examples/hotpot.json" "$examples/musique.jsonl" "$examples/2wiki.json" --pool bible --tokenizer smollm2 --length 16384 --decoys answerable:8 -o "$out/rows.jsonl" --overwrite
say keychain-synth audit "$out/rows.jsonl" --tokenizer smollm2 | tee "$out/figure.txt"
keychain-synth audit "$out/rows.jsonl" --json -q > "$out/report.json"
say keychain-synth needle --tokenizer smollm2 --length 1024,2048 --depths 0,50,100 -o "$out/needles.jsonl" --overwrite
say keychain-synth eval "$out/needles.jsonl" --model smollm2 --temperature 0 --max-tokens 24 --batch-size 3 --plot "$out/needles.png" -o "$out/answers.jsonl" --overwrite | tee -a "$out/figure.txt"
say keychain-synth synth "$examples/musique.jsonl" --tokenizer smollm2 --length 768 --chains 2 --hops 2 --limit 3 -q > "$out/short.jsonl"
cotpass sample "$out/short.jsonl" --model smollm2 -n 1 --temperature 0 --max-tokens 48 -q | keychain-synth score --no-require-think -q --json > "$out/scored.jsonl"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "keychain-synth demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
