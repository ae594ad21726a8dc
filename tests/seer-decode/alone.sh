# seer-decode without torch, run by tests/pipelines/test_install_alone.py in an environment that holds the base install only:
# every verb names what is missing with the line that installs it, and exits 3.
set -euo pipefail
missing() { code=0; seer-decode "$@" 2> missing.txt || code=$?; test "$code" = 3; grep -q "pip install 'seer-decode\[hf\]'" missing.txt; }
missing info
missing info gates
missing convert gates -o out
missing plan
missing distill text.txt -o out
missing generate tasks.jsonl --method dense
missing study text.txt
missing eval questions.jsonl --method dense -o out
missing bench kernel
missing bench step
seer-decode doctor --json > doctor.json
grep -q '"sandbox": {"ok": true' doctor.json
