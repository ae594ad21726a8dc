#!/usr/bin/env bash
# Who: someone who gives a model a map of a repository in place of its files, and wants to know whether it finds its way.
# What: a graph and a map of 500 tokens (zerorepo), each question asked below the map (cotpass sample --template), graded against the
#       file that is known to be right, and set beside what zerorepo localize says without a model.
# Out:  $1 (out/pipelines/map): map.txt, graded.jsonl, localized.jsonl, compare.json. SmolLM2-135M names a path that is like one
#       of the map and right now and then; localize is the yardstick.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/pipelines/map}
mkdir -p "$out"
questions=tests/pipelines/map_questions.jsonl

# A graph that is there is brought in step.
if [ -e "$out/rpg.json" ]; then zerorepo update "$out/rpg.json" -q; else zerorepo encode tools/zerorepo/examples/tallybook -o "$out/rpg.json" -q; fi
zerorepo map "$out/rpg.json" --tokens 500 -o "$out/map.txt" -q

# The map is a prompt template with the question below it; a $ of the map itself is doubled, as string.Template wants it.
{
  echo "This is the map of a repository."
  sed 's/\$/$$/g' "$out/map.txt"
  printf '%s\n' "Name one file of it, as in" "Where is an amount of money described?" "answer: tallybook/reading/amounts.py" '$question'
} > "$out/prompt.txt"
cotpass sample "$questions" --model smollm2 --template "$out/prompt.txt" -n 2 --max-tokens 24 --temperature 0.5 --stop $'\n' -o "$out/samples.jsonl" -q
cotpass grade "$out/samples.jsonl" --no-require-box --truncated grade -o "$out/graded.jsonl" -q

# The same questions without a model: the file of the unit that localize ranks first, as a sample of each.
zerorepo localize "$questions" --graph "$out/rpg.json" --embeddings tfidf --top 1 --json -o "$out/ranking.jsonl" -q
python - "$questions" "$out" <<'PY' | cotpass grade - -o "$out/localized.jsonl" -q
import json, sys
rankings = {one["instance_id"]: one["ranking"] for one in map(json.loads, open(f"{sys.argv[2]}/ranking.jsonl"))}
for task in map(json.loads, open(sys.argv[1])):
    file = rankings[task["id"]][0]["file"]
    print(json.dumps({**task, "schema": "sample/1", "sample": 0, "response": f"\\boxed{{{file}}}", "finish_reason": "stop", "model": "zerorepo localize"}))
PY
cotpass compare "$out/graded.jsonl" "$out/localized.jsonl" --k 1 --json -q > "$out/compare.json"
python -c "
import json, sys
told = json.load(open(sys.argv[1]))
print(f'{told[\"n_problems\"]} questions: the right file named by the model {told[\"a\"][\"pass\"][\"1\"]:.3f}, by localize {told[\"b\"][\"pass\"][\"1\"]:.3f}')
" "$out/compare.json"
