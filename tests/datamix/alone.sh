# datamix without torch, LightGBM, SciPy, pyarrow, Ray and matplotlib, run by tests/pipelines/test_install_alone.py in an environment that holds
# the base install only: every verb names what is missing with the line that installs it, and exits 3; verbs that need nothing work.
set -euo pipefail
missing() { code=0; datamix "$@" 2> missing.txt || code=$?; test "$code" = 3 || { echo "$*: $code"; cat missing.txt; exit 1; }; grep -q "pip install 'datamix\[$extra\]'" missing.txt || { cat missing.txt; exit 1; }; test "$(wc -l < missing.txt)" = 1; }

# a folder of texts, 40 files a domain
for domain in web books code; do
  mkdir -p "texts/$domain"
  for i in $(seq 40); do echo "$domain $i: $(seq -s " $domain " "$i" $((i + 60)))" > "texts/$domain/$i.txt"; done
done

# what needs nothing
datamix corpora --from texts --target code --tokenizer bytes -o corpus --json -q > corpora.json
grep -q '"corpus/1"' corpus/corpus.json
datamix sample corpus --trajectories 3 --steps 4 --source-budget 0.5 -o sampled.jsonl -q
test "$(wc -l < sampled.jsonl)" = 12
datamix baseline proportional corpus --source-budget 0.5 -o mixture.json -q > table.txt
datamix baseline temperature corpus --mixing-temperature 3 -o tempered.json -q > table.txt
datamix export mixture.json --to doremi -o doremi.json -q
datamix import doremi doremi.json -o back.json -q
grep -q '"train_domain_weights"' doremi.json
grep -q '"code": 0.5' back.json
datamix export mixture.json --to regmix -o regmix.yaml -q
datamix import regmix regmix.yaml -o again.json -q
for form in megatron olmo-core; do datamix export mixture.json --to "$form" --paths "data/{domain}" -o "out.$form" -q; done
{ echo index,train_a_web,train_a_code; for i in $(seq 0 9); do echo "$i,0.$i,$(awk "BEGIN { print 1 - 0.$i }")"; done; } > mixtures.csv
{ echo index,metric/a_web_val_loss,metric/a_code_val_loss; for i in $(seq 0 9); do echo "$i,3.$i,2.$((9 - i))"; done; } > losses.csv
datamix import regmix --mixture mixtures.csv --loss losses.csv --target code -o table -q
datamix baseline regmix table --regression ridge --candidates 100 --best 4 -o ridge.json -q > table.txt
datamix doctor --json > doctor.json
grep -q '"extras"' doctor.json

extra=hf
missing swarm corpus -o swarm
missing swarm run corpus --run 1 -o swarm
missing train-agent swarm -o agent
missing apply mixture.json corpus --proxy 22k -o run
missing apply mixture.json corpus --model smollm2 -o run
missing apply mixture.json corpus --feedback feedback.jsonl --weights-file weights.json -o schedule.jsonl
missing plan mixture.json corpus -o schedule.jsonl
missing compare corpus -o compared
missing explain agent --corpus corpus
for method in best-fixed regmix regmix-d doremi doge aioli odm loss-softmax olmix; do missing baseline "$method" corpus -o rival.json; done
extra=regmix
missing baseline regmix table -o rival.json
missing baseline olmix table -o rival.json
extra=ray
missing swarm corpus --ray local -o swarm
extra=plot
missing compare corpus --plot compared.png -o compared
missing explain agent --corpus corpus --plot explained.png
extra=arrow
mkdir -p parquet/train parquet/valid
touch parquet/train/web-0.parquet parquet/train/code-0.parquet parquet/valid/web-0.parquet parquet/valid/code-0.parquet
missing corpora --from parquet --target code -o fails
for domain in web code; do
  mkdir -p "saved/top_level/$domain"
  echo '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}' > "saved/top_level/$domain/state.json"
  echo '{}' > "saved/top_level/$domain/dataset_info.json"
  touch "saved/top_level/$domain/data-00000-of-00001.arrow"
done
missing corpora --from saved/top_level --target code -o fails
test ! -e fails
for made in swarm agent run schedule.jsonl compared rival.json; do test ! -e "$made"; done
