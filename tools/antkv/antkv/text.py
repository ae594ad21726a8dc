"""Text in: plain files, JSON Lines with `text`, parquet with a `text` column; `-` is stdin. Token ids out.

The documents of all files are joined by an empty line and tokenised once, without special tokens, as papers' perplexity
tables are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput
from tenfold_shared.jsonl import open_read


def documents(path: str) -> Iterator[str]:
    """The documents of a file, by its suffix. Raises BadInput."""
    name = path.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        yield from _parquet(path)
        return
    if path == "-":
        data = sys.stdin.buffer.read()
    else:
        with open_read(path) as stream:
            data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 at byte {error.start}") from None
    if not name.endswith((".jsonl", ".json")):
        yield text
        return
    lines = enumerate(text.splitlines(), 1) if name.endswith(".jsonl") else [(1, text)]
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}:{number}: not JSON: {error}") from None
        for one in record if isinstance(record, list) else [record]:
            found = one.get("text") if isinstance(one, dict) else one
            if not isinstance(found, str):
                raise BadInput(f"{path}:{number}: expected an object with a string `text`")
            yield found


def _parquet(path: str) -> Iterator[str]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    try:
        file = pq.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise BadInput(f"{path}: expected a column `text`, has {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(columns=["text"]):
            yield from (str(text) for text in batch.column(0).to_pylist() if text)
    except (ArrowException, OSError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None


def read_texts(paths: Sequence[str], tokenizer: Any) -> tuple[list[int], list[str]]:
    """(token ids of all files' text, sha256 of each file's text). Raises BadInput for no text."""
    parts, digests = [], []
    for path in paths or ["-"]:
        text = "\n\n".join(documents(path))
        digests.append(hashlib.sha256(text.encode()).hexdigest())
        parts.append(text)
    whole = "\n\n".join(parts)
    if not whole.strip():
        raise BadInput(f"{', '.join(paths) or '-'}: no text in it")
    return list(tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]), digests
