"""The size counters against figures measured with the paper's own: requests 2.28.2, whose bytes are pinned.

    python tools/zerorepo/bench/claim_parts/size.py [--folder DIR]

The paper (arXiv 2509.16198) says 17 files, 2,793 lines, 22,297 tokens of a version of requests that it does not name;
its released counter gives 17 / 2,783 / 22,206 of this one without __init__.py, and 18 / 2,848 / 22,765 with it. Both
must come out exactly.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where it is run by itself, and not by ../claims.py

from claim_parts.rebuild import Project, fetched

from zerorepo.craft.paper import project_of
from zerorepo.craft.size import size_of

REQUESTS = Project("requests", "2.28.2", "98b1b2782e3c6c4904938b84c0eb932721069dfdb9134313beff7c83c2df24bf")
EXPECTED = {"without_init": (17, 2_783, 22_206), "with_init": (18, 2_848, 22_765)}  # files, lines, tokens


def check(folder: Path) -> dict[str, Any]:
    """The figures of the sdist unpacked below `folder`, fetched where it is not there; `ok` where they are EXPECTED."""
    tree = fetched(REQUESTS, folder)
    files = {
        path.relative_to(tree).as_posix(): path.read_bytes()
        for path in sorted((tree / "requests").rglob("*"))
        if path.is_file()
    }
    found = {
        name: tuple(size_of(files, inits=inits)[:3]) for name, inits in (("without_init", False), ("with_init", True))
    }
    published = project_of(["requests"])
    assert published is not None
    return {
        "package": f"{REQUESTS.name} {REQUESTS.version}", **found, "expected": EXPECTED,
        "paper": (published.files, published.loc, published.tokens), "ok": found == EXPECTED,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/claims/zerorepo/size"), help="where the sdist is kept")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    found = check(given.folder.resolve())
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
