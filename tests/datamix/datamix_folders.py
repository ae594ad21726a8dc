"""Folders of text that the tests make corpora of."""

import json
from pathlib import Path
from typing import Any

from datamix import corpora


def folder(source: Path, output: Path, *targets: str, **options: Any) -> int:
    return corpora.from_folder(str(source), str(output), targets=targets or ("code",), quiet=True, **options)


def written(output: Path, name: str, split: str) -> list[str]:
    lines = (output / split / f"{name}-0.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]
