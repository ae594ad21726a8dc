#!/usr/bin/env bash
# Who: someone who wants to know every night whether a model still finds what stands in a long text.
# What: needles and two-hop questions (keychain-synth), each solved by two verify-refine chains that vote (dser), and every chain's
#       last solution graded, its arithmetic judged, and scored (cotpass).
# Out:  $1 (out/pipelines/needle-answers): rows, run/ (every call), judged.jsonl, metric.json. SmolLM2-135M finds needles in short
#       texts and answers next to no question, so that the score says which rows are needles.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/pipelines/needle-answers}
mkdir -p "$out"

keychain-synth needle --tokenizer smollm2 --length 256,512 --reserve 32 --depths 0,100 -o "$out/needles.jsonl" -q
keychain-synth synth tools/keychain-synth/examples/musique.jsonl --tokenizer smollm2 --plain --length 768 --limit 2 -o "$out/questions.jsonl" -q

# Exit 1: some problem has no answer from any chain. It stays in the records and counts as wrong; all else ends the script.
cat "$out/needles.jsonl" "$out/questions.jsonl" \
  | dser solve - --model smollm2 --thinking none --no-require-box --chains 2 --iterations 1 --max-tokens 32 --temperature 0.3 -o "$out/run" -q > "$out/voted.jsonl" \
  || { code=$?; [ "$code" -eq 1 ] || exit "$code"; }

dser export "$out/run" --to samples -q > "$out/chains.jsonl"
cotpass grade "$out/chains.jsonl" --no-require-box -o "$out/graded.jsonl" -q
cotpass judge "$out/graded.jsonl" --judge steps -o "$out/judged.jsonl" -q
cotpass metric "$out/judged.jsonl" --max-unjudged 1 --json -q > "$out/metric.json"
keychain-synth eval "$out/chains.jsonl" --reward ruler --json -q -o "$out/scored.jsonl" > "$out/ruler.json"
python -c "
import json, sys
metric, ruler = (json.load(open(f'{sys.argv[1]}/{name}.json')) for name in ('metric', 'ruler'))
voted = [one['meta']['dser']['answer'] in one['answer'] for one in map(json.loads, open(f'{sys.argv[1]}/voted.jsonl'))]
print(f'right: {metric[\"pass\"][\"1\"][\"value\"]:.3f} of the chains, the vote on {sum(voted)} of {len(voted)} problems; the answer stands in {ruler[\"mean\"]:.3f} of the responses')
" "$out"
