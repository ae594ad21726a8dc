#!/usr/bin/env bash
# Who: someone with a GRPO loop of their own who wants to see what Resample-on-Correct keeps before training on it.
# What: trajectories of a model that runs Python (grpo-roc rollout), half of each group kept (resample), and all of them beside the
#       kept ones: pass@k and the judge of arithmetic (cotpass), and the calls that failed.
# Out:  $1 (out/pipelines/rollouts): rollouts.jsonl, resampled.jsonl, before.jsonl and after.jsonl with verdicts, before.json,
#       after.json. The model has two layers and learnt sums of two digits for some seconds, with programs that fail now and then.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/pipelines/rollouts}
mkdir -p "$out"

python tests/pipelines/small_policy.py "$out"
grpo-roc sft --data "$out/transcripts.jsonl" --model "$out/base" --epochs 8 --lr 3e-3 --pass-tokens 8192 -o "$out/cold" -q

grpo-roc rollout "$out/sums.jsonl" --model "$out/cold" --samples 8 --max-turns 4 --max-tokens 256 --limit 16 --deterministic -o "$out/rollouts.jsonl" -q
grpo-roc resample "$out/rollouts.jsonl" --group-size 4 -o "$out/resampled.jsonl" -q
for name in before after; do
  # `kept` is a field of every trajectory: what came before it is all of them.
  python -c "
import sys, json
for line in sys.stdin:
    if sys.argv[1] == 'before' or json.loads(line)['kept']:
        print(line, end='')
" "$name" < "$out/resampled.jsonl" | cotpass grade - -q | cotpass judge - --judge steps -o "$out/$name.jsonl" -q
  cotpass metric "$out/$name.jsonl" --max-unjudged 1 --json -q > "$out/$name.json"
done
python -c "
import json, sys
told = {}
for name in ('before', 'after'):
    right = [one for one in map(json.loads, open(f'{sys.argv[1]}/{name}.jsonl')) if one['correct']]
    calls = [call['status'] for one in right for turn in one['turns'] for call in turn['calls']]
    told[name] = (json.load(open(f'{sys.argv[1]}/{name}.json'))['pass']['1']['value'], sum(status != 'ok' for status in calls) / max(1, len(calls)))
print(f'pass@1 {told[\"before\"][0]:.3f} of all, {told[\"after\"][0]:.3f} of the kept; calls that failed in right ones {told[\"before\"][1]:.3f} of all, {told[\"after\"][1]:.3f} of the kept')
" "$out"
