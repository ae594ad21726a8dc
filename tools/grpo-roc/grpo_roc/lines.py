"""Lines of a run's files, which a kill may have cut off: read by train.py, sft.py and report.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file of ours; a last one that a kill cut off is none."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
