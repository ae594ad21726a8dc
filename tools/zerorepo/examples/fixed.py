"""Localise issues of this repository in the commit before each fix, and say which of the five are what the fix changed.

    python tools/zerorepo/examples/fixed.py ISSUES.jsonl FOLDER

ISSUES holds SWE-bench fields and `fix_commit`, oldest first: the first graph is encoded, each next one is the last
brought up to date by a commit range. What a fix changed is `zerorepo diff` of the graphs before and after it.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path


def run(line: str) -> str:
    with open(OUT / "commands.txt", "a") as commands:
        commands.write(line + "\n")
    print(line, file=sys.stderr)
    return subprocess.run(shlex.split(line), check=True, stdout=subprocess.PIPE, text=True).stdout


def changed(old: Path, new: Path) -> set[str]:
    """Functions and methods that a fix changed or removed."""
    units = [
        {
            node["id"]: node.get("sha256")
            for node in json.loads(path.read_text())["nodes"]
            if node["kind"] in ("function", "method")
        }
        for path in (old, new)
    ]
    return {unit for unit, digest in units[0].items() if units[1].get(unit) != digest}


OUT = Path(sys.argv[2])
GRAPH, AFTER = OUT / "before.json", OUT / "after.json"
at = None
for line in Path(sys.argv[1]).read_text().splitlines():
    issue = json.loads(line)
    base, fix = issue["base_commit"], issue["fix_commit"]
    if at is None:
        run(f"zerorepo encode . --rev {base} -o {GRAPH} --allow-unparsed -q")
    else:
        run(f"zerorepo update {GRAPH} --root . --range {at}..{base} --allow-unparsed -q")
    at = base
    run(f"zerorepo update {GRAPH} --root . --range {base}..{fix} -o {AFTER} --overwrite --allow-unparsed -q")
    (OUT / "issue.jsonl").write_text(line + "\n")
    # TF-IDF: MiniLM takes some seconds to load, five times over.
    told = json.loads(
        run(f"zerorepo localize {OUT}/issue.jsonl --graph {GRAPH} --root . --rev {base} --embeddings tfidf --json")
    )
    truth = changed(GRAPH, AFTER)
    print(f"\n{issue['instance_id']}: {issue['problem_statement'][:100]}...")
    for row in told["ranking"]:
        unit = f"{row['file']}:{row['qualname']}"
        print(f"  {row['rank']} {'*' if unit in truth else ' '} {unit}:{row['start']}-{row['end']}")
    print(f"  * changed by the fix; functions it changed: {len(truth)}")
