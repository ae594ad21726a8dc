#!/usr/bin/env bash
# Who: someone who has to choose how the cache of a long context is made smaller: fewer bits a number, or fewer blocks read.
# What: the same needles (keychain-synth needle) answered on a cache of 1-bit codes (antkv), reading a part of the blocks, and reading
#       everything (seer-decode); all scored by depth and length by keychain-synth.
# Out:  $1 (out/pipelines/long-context): needles.jsonl, a file of samples and one of scores for each way. Codebook and gates are
#       fitted for seconds; minutes, and text like that which is read, make them what their READMEs report.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/pipelines/long-context}
mkdir -p "$out"

keychain-synth needle --tokenizer smollm2 --length 384,640 --reserve 32 --depths 0,100 -o "$out/needles.jsonl" -q
python -c "from pydoc_data import topics; print('\n\n'.join(topics.topics[t] for t in sorted(topics.topics)))" > "$out/text.txt"

antkv calibrate "$out/text.txt" --model smollm2 --dim 8 --centroids 64 --tokens 1024 --length 512 -o "$out/codebook.safetensors" -q
antkv generate "$out/needles.jsonl" --codebook "$out/codebook.safetensors" --window 64 --max-tokens 24 -o "$out/antkv.jsonl" -q
seer-decode distill "$out/text.txt" --model smollm2 --block 16 --steps 3 --length 512 --rows 128 -o "$out/gates" -q
for method in seer dense; do
  seer-decode generate "$out/needles.jsonl" --model smollm2 --gate "$out/gates" --method "$method" --budget 128 --batch-size 4 --max-tokens 24 -o "$out/$method.jsonl" -q
done
for way in antkv seer dense; do
  keychain-synth eval "$out/$way.jsonl" --json -o "$out/$way-scored.jsonl" -q > "$out/$way.json"
done
python -c "
import json, sys
told = []
for way in ('antkv', 'seer', 'dense'):
    grid = json.load(open(f'{sys.argv[1]}/{way}.json'))['grids'][0]
    lengths = ', '.join(f'{length}: {sum(row) / len(row):.2f}' for length, row in zip(grid['lengths'], zip(*grid['mean'])))
    cost = [one['meta'].get('antkv') or one['meta']['sparsity'] for one in map(json.loads, open(f'{sys.argv[1]}/{way}.jsonl'))]
    read = f'{sum(one[\"effective_bits\"] for one in cost) / len(cost):.2f} bits a number' if way == 'antkv' else f'{100 * sum(one[\"density\"] for one in cost) / len(cost):.0f} % of the blocks'
    told.append(f'{way} {lengths} ({read})')
print('needles found by length: ' + '; '.join(told))
" "$out"
