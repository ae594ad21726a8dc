# grpo-roc without torch, aiohttp, pyarrow, numpy's company and sympy, run by tests/pipelines/test_install_alone.py in an environment that holds the base install only; $EXAMPLES is tools/grpo-roc/examples.
set -euo pipefail
grpo-roc verify "$EXAMPLES/rollouts.jsonl" -o verified.jsonl
grpo-roc score verified.jsonl -o scored.jsonl
grpo-roc resample verified.jsonl --group-size 8 --json -o kept.jsonl 2> told.json
grep -q '"groups": 3' told.json
test "$(grep -c '"kept":true' kept.jsonl)" = 16
grpo-roc prepare "$EXAMPLES/problems.jsonl" --against "$EXAMPLES/benchmark.jsonl" -o problems.jsonl
test "$(wc -l < problems.jsonl)" = 2
# What this machine allows is what is tested; everywhere the limits are.
echo 'print(6 * 7)' > program.py
test "$(grpo-roc exec program.py --level rlimit-only)" = 42
code=0; grpo-roc serve --http 127.0.0.1:1 --level rlimit-only 2> missing.txt || code=$?
test "$code" = 3 && grep -q "pip install 'grpo-roc\[serve\]'" missing.txt
grpo-roc doctor --json > doctor.json
grpo-roc filter-hard verified.jsonl --max-correct 15 -o hard.jsonl
test "$(wc -l < hard.jsonl)" = 2
grpo-roc sft --make-data 20 --write-data transcripts.jsonl --level rlimit-only
grpo-roc analyze transcripts.jsonl --json > rates.json
code=0; grpo-roc train problems.jsonl --group-size 4 -o run 2> missing.txt || code=$?
test "$code" = 3 && grep -q "pip install 'grpo-roc\[hf\]'" missing.txt
grpo-roc toy --task tabular --seeds 2 --steps 2 -q > toy.txt
grpo-roc simulate --generate 32 --engines 2 --cache-tokens 65536 --json > simulated.json && grep -q '"kv-mean"' simulated.json
code=0; grpo-roc plan 2> missing.txt || code=$?
test "$code" = 3 && grep -q "pip install 'grpo-roc\[hf\]'" missing.txt
