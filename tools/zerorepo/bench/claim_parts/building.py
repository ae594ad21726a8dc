"""Real packages, their bodies out, built again: by the oracle whole, and by faults as often as the closed form says.

    python tools/zerorepo/bench/claim_parts/building.py oracle|fault PACKAGE [--folder DIR]

For a package of rebuild.py: encode, bodies out, `build` with `oracle:` must bring every leaf to done, and the package's own
suite must pass on what was built with the original's counts. `fault:` with q = Q and TRIES tries: a leaf is done with
probability 1 − (1 − Q)^TRIES = .9424 whatever it is, so of all leaves together a binomial share is. The oracle's unit test
compares syntax trees; the package's suite knows nothing of it. Used by ../claims.py, an object a package.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from claim_parts.rebuild import COMMAND, PACKAGES, fetched, rebuilt, suite

Q, TRIES = 0.3, 8
EXPECTED = 1 - (1 - Q) ** TRIES
ORACLE = PACKAGES  # all are built by the oracle
FAULTS = tuple(one for one in PACKAGES if one.name in ("semver", "toolz", "pathspec", "sqlparse"))  # > 400 leaves


def measured(name: str, how: str, folder: Path) -> dict[str, Any]:
    """One package built by the oracle or by faults."""
    project = next(one for one in PACKAGES if one.name == name)
    tree = fetched(project, folder)
    stubs, counts, _ = rebuilt(tree, "stubs")
    output = tree.with_name(f"{tree.name}.{how}")
    model = f"oracle:{tree}" if how == "oracle" else f"fault:{tree}?q={Q}"
    begin = time.monotonic()
    words = ["build", stubs, "--model", model, "-o", output, "--json", "-q", "--workers", "1", "--tries", str(TRIES)]
    done = subprocess.run([str(COMMAND), *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{name}: build ended with {done.returncode}")
    told = json.loads(done.stdout)
    lost = [key for key in told["failed"] if not key.startswith("integration:")]
    found: dict[str, Any] = {
        "package": f"{project.name} {project.version}", "how": how, "files": counts["files"], "units": counts["units"],
        "kept_at_import": counts["kept"].get("import", 0), "leaves": told["leaves"], "done": told["done"], "failed": lost,
        "tries": told["tries"], "commits": told["commits"], "answered_by": told["answered_by"],
        "seconds": round(time.monotonic() - begin, 1),
    }  # fmt: skip
    if how == "oracle":
        original, built = suite(tree, project), suite(output, project)
        found |= {"suite": original, "suite_of_built": built}
        found["suite_alike"] = all(original[key] == built[key] for key in original if key != "seconds")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=["oracle", "fault"])
    parser.add_argument("package", choices=[one.name for one in PACKAGES])
    parser.add_argument("--folder", type=Path, default=Path("out/claims/zerorepo/building"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measured(given.package, given.how, given.folder.resolve())))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    raise SystemExit(main())
