#!/usr/bin/env bash
# Who: someone who has fine-tuned an adapter and asks whether the model really solves more with it.
# What: a LoRA for the small model of tools/dser/examples/carry, trained on ten-digit sums with long carries (longexp-peft); the
#       adapter's folder is dser's --model, as the base is; 8 solutions of each problem, graded and compared (cotpass), and dser's
#       advice on verify-refine chains of either: the adapter was taught to solve, and has forgotten how to refine.
# Out:  $1 (out/pipelines/adapter): adapter/, base/ and tuned/ (single solutions), chains-*/ (runs with reports), compare.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/pipelines/adapter}
mkdir -p "$out"
model=tools/dser/examples/carry
sums=tools/dser/examples/sums.jsonl

# Sums of the kind that the model has never seen, from another seed than those of the examples.
python - "$out" <<'PY'
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, "tools/dser/bench/carry")
import addition
for name, number, seed in (("train", 2000, 101), ("valid", 100, 102)):
    addition.write_problems(Path(sys.argv[1], f"{name}.jsonl"), name, addition.hard(number, np.random.default_rng(seed)))
PY
printf '$prompt=' > "$out/prompt.txt"
longexp-peft train "$out/train.jsonl" --model "$model" --template "$out/prompt.txt" --rank 16 --target-modules c_attn,c_proj,c_fc --lr 5e-3 --epochs 4 \
  --batch-tokens 2048 --eval "$out/valid.jsonl" -o "$out/adapter" -q

for name in base tuned; do
  from=$model; test "$name" = base || from=$out/adapter
  ask=(dser solve "$sums" --config tools/dser/examples/carry.toml --model "$from" -q)
  "${ask[@]}" --preset self-consistency --chains 8 -o "$out/$name" > /dev/null
  "${ask[@]}" --chains 8 --iterations 4 --window 4 -o "$out/chains-$name" > /dev/null
  dser report "$out/chains-$name" --json -q > "$out/chains-$name.json"
  dser export "$out/$name" --to samples -q | cotpass grade - --no-require-box -o "$out/$name.jsonl" -q
done
cotpass compare "$out/base.jsonl" "$out/tuned.jsonl" --json -q > "$out/compare.json"
python -c "
import json, sys
told = json.load(open(f'{sys.argv[1]}/compare.json'))
gain = told['pass']['1']
advice = [json.load(open(f'{sys.argv[1]}/chains-{name}.json'))['advice']['verdict'] for name in ('base', 'tuned')]
right = [told[side]['pass']['1'] for side in 'ab']
print(f'single solutions right: base {right[0]:.3f}, adapter {right[1]:.3f} ({gain[\"diff\"]:+.3f} [{gain[\"low\"]:+.3f}, {gain[\"high\"]:+.3f}]); verify-refine: base {advice[0]}, adapter {advice[1]}')
" "$out"
