"""Transcripts that were made, as a file (`grpo-roc sft --write-data`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from grpo_roc.env.environment import Environment, Settings
from grpo_roc.transcripts import made
from tenfold_shared import BadInput
from tenfold_shared.jsonl import write_atomic


def write_transcripts(count: int | None, seed: int, kinds: tuple[str, ...], path: str, level: Any, workers: int, overwrite: bool, quiet: bool) -> int:  # fmt: skip
    """Returns the exit code. Raises BadInput and Missing."""
    if count is None:
        raise BadInput("--write-data goes with --make-data N")
    if Path(path).exists() and not overwrite:
        raise BadInput(f"{path}: exists; choose another file, or --overwrite")
    with Environment(Settings(level=level, workers=workers)) as env:
        lines = [json.dumps(one).encode() + b"\n" for one in made(count, seed, env.submit, kinds)]
    write_atomic(path, b"".join(lines))
    if not quiet:
        print(f"grpo-roc: {count} transcripts", file=sys.stderr)
    return 0
