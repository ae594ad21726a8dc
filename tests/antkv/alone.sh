# antkv without torch, run by tests/pipelines/test_install_alone.py in an environment that holds the base install only:
# every verb names what is missing with the line that installs it, and exits 3.
set -euo pipefail
echo "some text" > text.txt
missing() { code=0; antkv "$@" 2> missing.txt || code=$?; test "$code" = 3; grep -q "pip install 'antkv\[hf\]'" missing.txt; }
missing calibrate text.txt --bits 1 -o book.safetensors
missing eval text.txt --codebook book.safetensors
missing compare text.txt --codebook book.safetensors
missing generate tasks.jsonl --codebook book.safetensors
missing inspect text.txt
missing plan --gpu-mem 80G
missing bench
antkv doctor --json > doctor.json
grep -q '"kernels": {"ok": true' doctor.json
