#!/usr/bin/env bash
# Who: someone who continues the pre-training of a model on new domains, with little of the old text at hand.
# What: a small model that was taught English (longexp-peft make-model), Python's library as the new domain and two old ones
#       (datamix corpora), an agent that learns from small runs and plans a schedule (swarm, train-agent, plan); the model is trained
#       along that schedule (datamix apply), and its held-out losses are measured before and after (longexp-peft eval).
# Out:  $1 (out/pipelines/mixture): schedule.jsonl, run/ with the model and what it read, losses.json. Eight runs teach an agent
#       little, and a model of seconds still learns from every text: here both losses fall.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/pipelines/mixture}
mkdir -p "$out"
budget=(--steps 6 --run-tokens 49152 --source-budget 0.25)

longexp-peft make-model tiny-relu --small -o "$out/tiny" -q
datamix corpora --from-installed --target python_code --domain topics --domain bible --max-bytes 100000 --tokenizer "$out/tiny" -o "$out/corpus" -q > /dev/null
datamix swarm "$out/corpus" --trajectories 8 --tasks 0 "${budget[@]}" -o "$out/swarm" -q > /dev/null
datamix train-agent "$out/swarm" --members 2 --train-steps 60 -o "$out/agent" -q > /dev/null
datamix plan "$out/agent" "$out/corpus" --model "$out/tiny" "${budget[@]}" -o "$out/schedule.jsonl" -q > /dev/null
datamix apply "$out/schedule.jsonl" "$out/corpus" --model "$out/tiny" --context 64 --lr 1e-3 "${budget[@]}" -o "$out/run" -q > /dev/null

for name in tiny run/model; do
  for domain in python_code bible; do
    longexp-peft eval "$out"/corpus/valid/"$domain"-*.jsonl --model "$out/$name" --max-length 64 --limit 200 --json -q > "$out/$domain-${name%/*}.json"
  done
done
python -c "
import json, sys
from pathlib import Path
out = Path(sys.argv[1])
loss = {domain: [json.loads((out / f'{domain}-{name}.json').read_text())['loss'] for name in ('tiny', 'run')] for domain in ('python_code', 'bible')}
(out / 'losses.json').write_text(json.dumps(loss) + chr(10))
print('held-out loss, base and trained: ' + ', '.join(f'{domain} {a:.3f} {b:.3f}' for domain, (a, b) in loss.items()))
" "$out"
