#!/usr/bin/env bash
# Who: someone who trains a reasoner on long contexts and mixes chain rows, plain questions and sums, as LoongRL does.
# What: rows with and without chains (keychain-synth synth), mixed with sums in the preset's parts (mix); a cold start and steps of
#       GRPO with Resample-on-Correct on the mix (grpo-roc sft, train).
# Out:  $1 (out/pipelines/curriculum): mixed.jsonl with its recipe, cold/, run/ with metrics, checkpoint, rollouts and best/. The
#       model has two layers and can learn the sums; questions and chains are beyond it and have reward 0, as any model's first steps.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/pipelines/curriculum}
mkdir -p "$out"

python tests/pipelines/small_policy.py "$out"
rows=(tools/keychain-synth/examples/musique.jsonl --tokenizer "$out/base" --length 1536 --limit 8 --max-drop-rate 1 -q)
keychain-synth synth "${rows[@]}" --chains 2 --hops 2 -o "$out/chains.jsonl"
keychain-synth synth "${rows[@]}" --plain -o "$out/plain.jsonl"
keychain-synth mix --part keychain-musique="$out/chains.jsonl" --part qa-musique="$out/plain.jsonl" --part math="$out/sums.jsonl" --scale 0.002 --allow-short --stage 1 \
  -o "$out/mixed.jsonl" -q

grpo-roc sft --data "$out/transcripts.jsonl" --model "$out/base" --epochs 8 --lr 3e-3 --pass-tokens 8192 -o "$out/cold" -q
grpo-roc train "$out/mixed.jsonl" --model "$out/cold" --steps 6 --prompts 8 --group-size 4 --lr 2e-4 --warmup 1 --max-turns 3 --max-tokens 192 --max-prompt 2048 \
  --keep-rollouts 1 --save-every 2 --deterministic -o "$out/run" -q
python -c "
import json, sys
from pathlib import Path
parts = {}
for file in sorted(Path(sys.argv[1]).glob('*.jsonl'), key=lambda one: int(one.stem)):
    for one in map(json.loads, file.open()):
        parts.setdefault(one['meta']['part'], []).append(one['reward'])
print('reward of trajectories while training: ' + ', '.join(f'{part} {sum(each) / len(each):.3f} of {len(each)}' for part, each in sorted(parts.items())))
" "$out/run/rollouts"
