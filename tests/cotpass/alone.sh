# cotpass's model-free verbs, run by tests/pipelines/test_install_alone.py in an environment that holds
# the base install only. The working folder is empty; $EXAMPLES is tools/cotpass/examples.
set -euo pipefail
cat > samples.jsonl <<'JSON'
{"id": "a", "prompt": "6 * 7?", "answer": "42", "sample": 0, "response": "6 * 7 = 42, so \\boxed{42}"}
{"id": "a", "prompt": "6 * 7?", "answer": "42", "sample": 1, "response": "6 * 7 = 41, but \\boxed{42}"}
{"id": "b", "prompt": "half?", "answer": "\\frac{1}{2}", "sample": 0, "response": "1/4 + 1/4 = 1/2: \\boxed{2^{-1}}"}
{"id": "b", "prompt": "half?", "answer": "\\frac{1}{2}", "sample": 1, "response": "\\boxed{3}"}
JSON
cotpass grade samples.jsonl -o graded.jsonl
cotpass judge graded.jsonl --judge steps -o judged.jsonl
cotpass metric judged.jsonl
cotpass metric judged.jsonl --json | tee report.json
grep -q '"p_ca": *{"value": *0.75' report.json
# Not into `grep -q`, which closes the pipe at its first match and rightly ends us with 141.
cotpass sample "$EXAMPLES/problems.jsonl" --dry-run > dry.txt
grep -q 'calls: 256' dry.txt
# What is not installed is named with the line that installs it, and exit 3.
code=0; cotpass sample "$EXAMPLES/problems.jsonl" --limit 1 2> missing.txt || code=$?
test "$code" = 3 && grep -q 'pip install' missing.txt
code=0; cotpass metric judged.jsonl --plot p.png 2> missing.txt || code=$?
test "$code" = 3 && grep -q "pip install 'cotpass\[plot\]'" missing.txt
