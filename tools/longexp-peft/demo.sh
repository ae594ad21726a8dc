#!/usr/bin/env bash
# A small ReLU model is pre-trained on English for a while, then fine-tuned on Python source: dense, exact, and with predicted
# neurons. Loss curves and density side by side; the adapter is read by peft. Leaves its outputs in out/demo/longexp-peft.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/longexp-peft
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

python - "$out" <<'PY'
import json, os, sys
from pathlib import Path
files = sorted(Path(os.__file__).parent.glob("[a-z]*.py"))
texts = [one.read_text(encoding="utf-8", errors="replace")[:3000] for one in files if one.stat().st_size > 3000]
for name, some in (("train", texts[8:]), ("valid", texts[:8])):
    Path(sys.argv[1], f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
PY
say longexp-peft make-model tiny-relu --steps 320 -o "$out/tiny" -q
read=(--model "$out/tiny" --max-length 256 --batch-tokens 1024 -q)
say longexp-peft profile "$out/train.jsonl" "${read[@]}" --tokens 8192 --plot "$out/profile.png" > "$out/profile.txt"
say longexp-peft calibrate "$out/train.jsonl" "${read[@]}" --tokens 24576 --neuron-block 16 -o "$out/bundle" --overwrite
say longexp-peft predictor train "$out/bundle" "$out/train.jsonl" "${read[@]}" --tokens 24576 --neuron-block 16 --steps 300
tune=(--rank 16 --target-modules q_proj,v_proj,fc1,fc2 --lr 3e-3 --steps 80 --audit-every 10 --eval "$out/valid.jsonl" --overwrite)
for mode in dense exact predicted; do
  bundle=(); test "$mode" != predicted || bundle=(--bundle "$out/bundle")
  say longexp-peft train "$out/train.jsonl" "${read[@]}" --mode "$mode" "${bundle[@]}" "${tune[@]}" -o "$out/$mode"
done
say longexp-peft plot "$out/dense" "$out/exact" "$out/predicted" -o "$out/losses.png" -q
python - "$out" <<'PY' > "$out/figure.txt"
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
out = Path(sys.argv[1])
print((out / "profile.txt").read_text().splitlines()[-1])
print(f"{'mode':<10} {'held out':>9} {'neurons':>8} {'recall':>7} {'seconds':>8} {'differs':>8}")
logs = {}
for mode in ("dense", "exact", "predicted"):
    told = json.loads((out / mode / "manifest.json").read_text())["counts"]
    logs[mode] = [json.loads(line)["loss"] for line in (out / mode / "log.jsonl").read_text().splitlines()]
    apart = max(abs(a - b) for a, b in zip(logs["dense"], logs[mode], strict=True))
    recall = "-" if told["recall"] is None else f"{told['recall']:.4f}"
    print(f"{mode:<10} {told['held_out']['loss']:>9.4f} {100 * told['density']:>6.1f} % {recall:>7} {told['seconds_training']:>8.2f} {apart:>8.5f}")
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
base = AutoModelForCausalLM.from_pretrained(out / "tiny")
model = PeftModel.from_pretrained(base, out / "predicted")
ids = AutoTokenizer.from_pretrained(out / "tiny")((out / "valid.jsonl").read_text()[12:800], return_tensors="pt", truncation=True, max_length=256).input_ids
with model.disable_adapter():
    before = float(model(input_ids=ids, labels=ids).loss)
print(f"peft reads the adapter of predicted: loss {before:.3f} of the base, {float(model(input_ids=ids, labels=ids).loss):.3f} with it")
PY
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "longexp-peft demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
