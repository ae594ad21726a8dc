"""Packages laid out, and harvest run on them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerorepo.craft.tasks import Task, task_of

COMMAND = Path(sys.executable).parent / "zerorepo"


def laid(folder: Path, *trees: Mapping[str, str | bytes]) -> Path:
    for tree in trees:
        for path, content in tree.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def harvest(folder: Path, *words: str, tests: str = "tests", code: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:  # fmt: skip
    done = subprocess.run(
        [COMMAND, "craft", "harvest", folder, "--tests", folder / tests, *words], capture_output=True, text=True, **more
    )
    assert done.returncode == code, done.stderr
    return done


def tasks_of(text: str) -> dict[str, Task]:
    found = [task_of("here", json.loads(line)) for line in text.splitlines()]
    assert [task.id for task in found] == sorted(task.id for task in found)
    return {task.id.partition("/")[2]: task for task in found}


def harvested(folder: Path, *words: str, code: int = 0) -> tuple[dict[str, Task], dict[str, Any], str]:
    """(tasks, counts of the manifest, stderr)"""
    output = folder.parent / "tasks.jsonl"
    done = harvest(folder, *words, "-o", str(output), code=code)
    assert done.stdout == ""
    counts = json.loads((folder.parent / "tasks.jsonl.manifest.json").read_text())["counts"]
    said = [
        line for line in done.stderr.splitlines() if not line.startswith(("group: ", "harvest: "))
    ]  # of progress, where it is slow
    return tasks_of(output.read_text()), counts, "\n".join(said)


# ---------------------------------------------------------------- what a suite can be like

ONE = {"one/__init__.py": "", "one/core.py": "def double(x):\n    '''Twice it.'''\n    return 2 * x\n"}
