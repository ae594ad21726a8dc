"""What `sparstencil suite --json` found, a line a field of use."""

import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    rows = json.load(file)
print(f"{'stencils':<44}{'points':>8}{'K':>8}{'density':>9}{'wrong':>7}")
for dimensions in (1, 2, 3):
    some = [row for row in rows if row["ndim"] == dimensions]
    label = f"{len(some)} in {dimensions}D"
    dense = sum(2 * row["points"] for row in some) / sum(row["K"] for row in some)
    print(
        f"{label:<44}{sum(r['points'] for r in some):>8}{sum(r['K'] for r in some):>8}{dense:>9.3f}{sum(r['wrong'] for r in some):>7}"
    )
plans, best = (sum(row[name] == row["lower_bound"] for row in rows) for name in ("groups", "fewest"))
print(
    f"{len(rows)} converted to 2:4, {sum(r['ok'] for r in rows)} exact when emulated; {plans} plans have the fewest groups there can "
    f"be, and for {best} tiles some conversion reaches that"
)
