# longexp-peft without torch, run by tests/pipelines/test_install_alone.py in an environment that holds the base install only:
# every verb names what is missing with the line that installs it, and exits 3.
set -euo pipefail
missing() { code=0; longexp-peft "$@" 2> missing.txt || code=$?; test "$code" = 3; grep -q "pip install 'longexp-peft\[$extra\]'" missing.txt; }
extra=hf
missing profile data.jsonl
missing calibrate data.jsonl -o bundle
missing predictor train bundle data.jsonl
missing predictor eval bundle data.jsonl
missing train data.jsonl -o adapter
missing eval data.jsonl --adapter adapter
missing bench
missing merge adapter -o merged
missing make-model planted -o planted
missing make-model tiny-relu -o tiny
extra=plot
missing plot adapter -o losses.png
longexp-peft doctor --json > doctor.json
grep -q '"extras"' doctor.json
