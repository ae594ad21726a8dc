"""Text in: plain files, JSON Lines with `text`, parquet with a `text` column; `-` is stdin. Token ids out.

The documents of all files, empty ones too, are joined by an empty line and tokenised once, without special tokens, as
papers' perplexity tables are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import is_pipe, read_text


def documents(path: str) -> Iterator[str]:
    """The documents of a file, by its suffix. Raises BadInput."""
    name = path.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        yield from _parquet(path)
        return
    text = read_text(path)
    if not name.endswith((".jsonl", ".json")):
        yield text
        return
    for where, record in _values(path, text, name.endswith(".json")):
        for one in record if isinstance(record, list) else [record]:
            found = one.get("text") if isinstance(one, dict) else one
            if not isinstance(found, str):
                raise BadInput(f"{where}: expected an object with a string `text`")
            yield found


def _values(path: str, text: str, whole: bool) -> Iterator[tuple[str, Any]]:
    """(file:line, JSON value), a line each, which only \\n ends: other separators may stand in a string as they are.
    whole: the file is one value over all its lines; or lines after all, as those of C4 are."""
    if whole:
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise BadInput(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
        else:
            yield f"{path}:1", found
            return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}:{number}: not JSON: {error}") from None


def _parquet(path: str) -> Iterator[str]:
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException
    except ImportError:
        raise Missing(f"{path}: needs pyarrow: pip install pyarrow") from None

    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    rows = itertools.count(1)
    try:
        file = pq.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise BadInput(f"{path}: expected a column `text`, has {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(columns=["text"]):
            for found, row in zip(batch.column(0).to_pylist(), rows, strict=False):
                if not isinstance(found, str):
                    raise BadInput(f"{path}: row {row}: expected a string `text`")
                yield found
    except (ArrowException, OSError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None


def read(paths: Sequence[str]) -> tuple[str, list[str]]:
    """(all files' text, sha256 of each file; of stdin and pipes, which are read once, of their text). Raises BadInput."""
    parts, digests = [], []
    for path in paths or ["-"]:
        text = "\n\n".join(documents(path))
        once = path == "-" or is_pipe(path)
        digests.append(hashlib.sha256(text.encode()).hexdigest() if once else sha256_of(path))
        parts.append(text)
    whole = "\n\n".join(parts)
    if not whole.strip():
        raise BadInput(f"{', '.join(paths) or '-'}: no text in it")
    return whole, digests


def tokens(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def read_texts(paths: Sequence[str], tokenizer: Any) -> tuple[list[int], list[str]]:
    """(token ids of all files' text, sha256 of each file). Raises BadInput for no text."""
    whole, digests = read(paths)
    return tokens(whole, tokenizer), digests


def check_length(config: Any, length: int, allow_extrapolation: bool) -> None:
    """Raises BadInput where a sequence has more tokens than the model has positions, unless that is allowed."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest and length > longest and not allow_extrapolation:
        raise BadInput(
            f"--length {length}: the model has {longest} positions; --allow-extrapolation goes on beyond them"
        )
