"""Problems as tasks: our task records, and the public sets' own forms.

JSON Lines, and by suffix .json (a list or one object), .csv, .parquet and .txt (one problem a file). Fields are taken
whatever their case: `problem`, `question` or `prompt`; `answer` (GSM8K's after ####); `id`, `unique_id` or `task_id`,
else FILE:NUMBER. Two problems of one id are refused.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import Located, read_text

Record = dict[str, Any]
TEXTS, NAMES = ("problem", "question", "prompt"), ("id", "unique_id", "task_id")
TABLES = (".json", ".csv", ".parquet", ".txt")


class Files:
    """The input files, tables among them rewritten as JSON Lines in a folder of their own that goes with this object."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._folder: Any = None
        self.paths = [self._lines(path) if path.lower().endswith(TABLES) else path for path in paths]

    def _lines(self, path: str) -> str:
        rows = _rows(path)
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="dser-")
        name = Path(path).name.replace("/", "_")
        out = Path(self._folder.name) / f"{name}.jsonl"
        while out.exists():
            out = out.with_name("_" + out.name)
        out.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        return str(out)


def _rows(path: str) -> list[Record]:
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise Missing(f"{path}: pyarrow is not installed: pip install pyarrow") from None
        try:
            return parquet.read_table(path).to_pylist()
        except Exception as error:  # pyarrow has many of its own
            raise BadInput(f"{path}: cannot be read as parquet: {error}") from None
    text = read_text(path)
    if suffix == ".txt":
        if not text.strip():
            raise BadInput(f"{path}: expected the text of a problem, got none")
        return [{"id": Path(path).stem, "problem": text.strip()}]
    if suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        for number, row in enumerate(rows, 2):
            if None in row or None in row.values():
                raise BadInput(f"{path}:{number}: expected as many fields as the header has")
        return [dict(row) for row in rows]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    found = value if isinstance(value, list) else [value]
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise BadInput(f"{path}: entry {number}: expected an object")
    return found


def as_tasks(located: Iterable[Located]) -> Iterator[Located]:
    """Records of any known form as task records. Raises BadInput, naming the line, for one that is none."""
    seen: dict[str, str] = {}
    for where, record in located:
        task = _task(where, record)
        name = task["id"]
        if isinstance(name, str):
            if name in seen:
                raise BadInput(f"{where}: id: {name} appears twice, first at {seen[name]}; ids must be unique")
            seen[name] = where
        yield where, task


def _task(where: str, record: Record) -> Record:
    if "messages" in record and "id" in record:
        if not _said(record):
            raise BadInput(f"{where}: messages: expected a problem, found nothing in the user's turn")
        return record
    lower = {name.lower(): value for name, value in record.items()}
    field = next((name for name in TEXTS if name in lower), None)
    if field is None:
        raise BadInput(f"{where}: expected `messages`, `prompt`, `problem` or `question`; found none of them")
    text = lower[field]
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{where}: {field}: expected the text of a problem, got {text!r}")
    name = next((lower[one] for one in NAMES if lower.get(one) not in (None, "")), None)
    if field == "prompt" and isinstance(record.get("id"), str):
        return record
    if name is None:
        name = _place(where)
    task: Record = {"schema": "task/1", "id": str(name), "prompt": text}
    answer = lower.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | list | None):
        raise BadInput(f"{where}: answer: expected a string, a number or a list, got {answer!r}")
    if answer is not None:
        if isinstance(answer, str) and "####" in answer:
            answer = answer.rpartition("####")[2].strip()
        task["answer"] = [str(one) for one in answer] if isinstance(answer, list) else str(answer)
    if isinstance(lower.get("meta"), dict):
        task["meta"] = lower["meta"]
    return task


def _said(record: Record) -> bool:
    turns = record["messages"]
    return not isinstance(turns, list) or any(
        isinstance(turn, dict) and turn.get("role") == "user" and turn.get("content") for turn in turns
    )


def _place(where: str) -> str:
    path, _, number = where.rpartition(":")
    return f"{Path(path).name.removesuffix('.jsonl')}:{number}"
