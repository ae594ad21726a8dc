#!/usr/bin/env bash
# Heat on a drawn plate, the plan of its stencil explained, this machine's roofline, and all 79 stencils converted. Leaves its
# outputs in out/demo/sparstencil.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/demo/sparstencil
mkdir -p "$out"
started=$SECONDS
: > "$out/commands.txt"
say() { printf '%s\n' "$*" | tee -a "$out/commands.txt" >&2; "$@"; }

python tools/sparstencil/examples/field.py "$out/field.npy"
say sparstencil run "$out/field.npy" --stencil heat-2d --steps 400 --boundary mirror -o "$out/after.npy" --overwrite
python tools/sparstencil/examples/picture.py "$out/field.npy" "$out/after.npy" "$out/heat.png"
say sparstencil run "$out/field.npy" --stencil heat-2d --steps 3 --boundary mirror --backend emulate --mode mixed --json -o "$out/emulated.npy" --overwrite > "$out/emulated.json"
say sparstencil plan --stencil heat-2d --tile 2x2 --explain > "$out/plan.txt"
say sparstencil bench --stencil box-2d9p --shape 2048x2048 --plot "$out/roofline.png" > "$out/figure.txt"
say sparstencil suite --json > "$out/suite.json"
python tools/sparstencil/examples/table.py "$out/suite.json" >> "$out/figure.txt"
cat "$out/figure.txt"
echo $((SECONDS - started)) > "$out/seconds.txt"
echo "sparstencil demo: $(cat "$out/seconds.txt") s; outputs in $out" >&2
