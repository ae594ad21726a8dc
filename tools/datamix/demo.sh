#!/usr/bin/env bash
# A corpus of installed text, a swarm of small proxies, an agent, and a comparison with what needs no agent. Leaves its outputs in
# out/demo/datamix.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/datamix
rm -rf "$out"
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

domains=(--domain bible --domain python_code --domain licences --domain readmes --domain stubs --domain tables)
run=(--steps 12 --run-tokens 98304 --source-budget 0.2)
say datamix corpora --from-installed --target sympy_code --target docstrings "${domains[@]}" --max-bytes 400000 -o "$out/corpus" -q > "$out/corpus.txt"
say datamix swarm "$out/corpus" --trajectories 20 --tasks 5 "${run[@]}" -o "$out/swarm" -q > "$out/swarm.txt"
say datamix train-agent "$out/swarm" -o "$out/agent" -q > "$out/agent.txt"
say datamix compare "$out/corpus" --agent "$out/agent" --swarm "$out/swarm" --methods proportional,hand,null --controls none --control-agents 2 \
  --tasks 2 --seeds 3 --seed 1 "${run[@]}" --plot "$out/comparison.png" -o "$out/compared" -q > "$out/figure.txt"
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "datamix demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
