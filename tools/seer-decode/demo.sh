#!/usr/bin/env bash
# Gates of 16-token blocks for SmolLM2, distilled on short texts; six ways to choose blocks compared; a text decoded by a
# threshold on the gate's softmax. Leaves its outputs in out/demo/seer-decode.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/seer-decode
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

# English at hand everywhere: the language reference that comes with Python; gates learn from its first part.
python -c "from pydoc_data import topics; print('\n\n'.join(topics.topics[t] for t in sorted(topics.topics)))" > "$out/text.txt"
head -c 120000 "$out/text.txt" > "$out/train.txt"
tail -c 60000 "$out/text.txt" > "$out/report.txt"
say seer-decode distill "$out/train.txt" --model smollm2 --block 16 --steps 12 --length 768 --rows 192 --parts 4 -o "$out/gates" --overwrite
say seer-decode study "$out/report.txt" --model smollm2 --gate "$out/gates" --budgets 64,96,128 --length 768 --windows 2 --decode 48 --needles 0 --plot "$out/study.png" > "$out/figure.txt"
python - "$out" <<'PY'
import json, sys
from pathlib import Path
out = Path(sys.argv[1])
text = (out / "report.txt").read_text()
(out / "tasks.jsonl").write_text(json.dumps({"id": "reference", "prompt": text[20000:22000]}) + "\n")
PY
say seer-decode generate "$out/tasks.jsonl" --model smollm2 --gate "$out/gates" --threshold 0.01 --max-tokens 128 --plot "$out/trace.png" -o "$out/samples.jsonl" --overwrite
python - "$out" <<'PY' >> "$out/figure.txt"
import json, sys
one = json.loads(open(f"{sys.argv[1]}/samples.jsonl").readline())
told = one["meta"]["sparsity"]
print(f"decoded {one['usage']['completion_tokens']} tokens after {one['usage']['prompt_tokens']}: {100 * told['density']:.1f} % of the blocks read")
PY
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "seer-decode demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
