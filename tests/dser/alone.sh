# dser's model-free verbs, run by tests/pipelines/test_install_alone.py in an environment that holds the base install
# only. The working folder is empty; $EXAMPLES is tools/dser/examples.
set -euo pipefail
echo '{"p_ic": 0.3, "p_ci": 0.05, "p_0": 0.1, "tpr": 0.7, "fpr": 0.4, "wrong": 3}' > world.json
dser solve "$EXAMPLES/sums.jsonl" --model sim:world.json --chains 8 -o run > samples.jsonl
test "$(wc -l < samples.jsonl)" = 20
dser report run --json > report.json
grep -q '"verdict": "iterate"' report.json
dser vote run | cmp - run/answers.jsonl
dser plan run --budget-tokens 100000 --json > plan.json
dser export run --to triples > triples.jsonl
dser simulate --p-ic .12 --p-ci .05 --json > theory.json
grep -q '"pi_c": 0.70588' theory.json
# What is not installed is named with the line that installs it, and exit 3.
code=0; dser solve "$EXAMPLES/sums.jsonl" --limit 1 2> missing.txt || code=$?
test "$code" = 3 && grep -q 'pip install' missing.txt
code=0; dser report run --plot p.png 2> missing.txt || code=$?
test "$code" = 3 && grep -q "pip install 'dser\[plot\]'" missing.txt
