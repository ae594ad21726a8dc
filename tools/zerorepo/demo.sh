#!/usr/bin/env bash
# A specification becomes a tested repository, its answers replayed from a recording through the real checks and the sandbox; that
# repository, and the same as it was half built, are scored by the tests of the project it was made after.
# This repository and an installed package as graphs, kept in step along real commits; real issues of this repository localised in
# the graph of the commit before their fix, and compared with what the fix changed. Leaves its outputs in out/demo/zerorepo.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/zerorepo
rm -rf "$out"
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

: > "$out/figure.txt"
here=tools/zerorepo/examples
say zerorepo run "$here/tallybook/repo_data.json" --model "replay:$here/tallybook.jsonl" --rounds 1 -o "$out/tallybook" -q
{
  echo "tallybook, from its specification by answers of an oracle, recorded (no model): commits, first to last"
  git -C "$out/tallybook" log --reverse --format='  %h %s'
  zerorepo status "$out/tallybook"
  echo "its tests, run again outside: $(cd "$out/tallybook" && PYTHONPATH=. python -B -m pytest -q -p no:cacheprovider tests | tail -1)"
} >> "$out/figure.txt"
say zerorepo export "$out/tallybook/rpg.json" --to html -o "$out/tallybook.html" -q

say zerorepo craft harvest "$here/tallybook" --tests "$here/tallybook/tests" -o "$out/tasks.jsonl" -q
mkdir "$out/half-built"
git -C "$out/tallybook" archive HEAD~11 | tar -x -C "$out/half-built"
for one in tallybook half-built; do
  say zerorepo craft score "$out/$one" --task-file "$out/tasks.jsonl" --embeddings tfidf -o "$out/$one.score.json" -q
done
echo "the two scored by the tests of the project it was made after" >> "$out/figure.txt"
say zerorepo craft report "$out/tallybook.score.json" "$out/half-built.score.json" --plot "$out/scores.png" >> "$out/figure.txt"

say zerorepo encode . -o "$out/tenfold.json" --allow-unparsed -q
say zerorepo validate "$out/tenfold.json"
networkx=$(python -c 'import networkx; print(networkx.__path__[0])')
printf 'zerorepo encode networkx -o %s/networkx.json\n' "$out" >> "$out/commands.txt"
zerorepo encode "$networkx" -o "$out/networkx.json" --allow-unparsed -q
say zerorepo export "$out/tenfold.json" --to html -o "$out/tenfold.html" -q
say zerorepo export "$out/networkx.json" --to html -o "$out/networkx.html" -q
echo "\"shortest path between two nodes\", looked for in networkx" >> "$out/figure.txt"
say zerorepo search "shortest path between two nodes" --graph "$out/networkx.json" --kind function --embeddings tfidf --glob 'algorithms/shortest_paths/*' --top 3 >> "$out/figure.txt"

# A graph of each commit before a fix, by updates from one to the next.
issues=tools/zerorepo/examples/issues.jsonl
if git cat-file -e "$(python -c "import json; print(json.loads(open('$issues').readline())['base_commit'])")" 2> /dev/null; then
  python tools/zerorepo/examples/fixed.py "$issues" "$out" | tee -a "$out/figure.txt"
else
  echo "issues: this copy has no history; localised in today's files" >> "$out/figure.txt"
  say zerorepo localize "$issues" --graph "$out/tenfold.json" --top 5 --embeddings tfidf --json > "$out/rankings.jsonl"
fi
echo "networkx" >> "$out/figure.txt"
say zerorepo show stats "$out/networkx.json" >> "$out/figure.txt"
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "zerorepo demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
