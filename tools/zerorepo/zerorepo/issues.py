"""Issues as users hold them: a text, Markdown, or SWE-bench JSON Lines. Read here for localize.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from tenfold_shared import BadInput

MOST_TEXT = 200_000  # characters of an issue that are read: logs pasted whole say nothing new after that
MOST_SENTENCES = 16  # of an issue that are compared by meaning
FRAME = re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d{1,9})(?:, in (?P<name>[\w<>]+))?')
_INLINE_DATA = re.compile(r"\bdata:[\w.+/-]{1,80};base64,[\w+/=]+")  # a picture pasted into an issue says nothing


def read_issues(name: str) -> tuple[bool, list[tuple[str, str]]]:
    """(whether these are records, (instance_id, text) of each) of a file, `-` being stdin.

    JSON Lines of SWE-bench where the first line that is not blank is an object with `problem_statement` or
    `instance_id`, or the file's name ends in .jsonl; else the whole is one issue. Raises BadInput: an empty text, a
    malformed line (file:line: what was expected).
    """
    from tenfold_shared.jsonl import read_text

    text = read_text(name)
    shown = "<stdin>" if name == "-" else name
    if not text.strip():
        raise BadInput(f"{shown}: empty; expected an issue's text, or SWE-bench JSON Lines")
    first = next(line for line in text.splitlines() if line.strip()).strip()
    suffix = name.removesuffix(".gz").removesuffix(".zst").endswith((".jsonl", ".ndjson"))
    looks = first.startswith("{") and ('"problem_statement"' in first or '"instance_id"' in first)
    if not suffix and not looks:
        _expect_text(shown, text)
        return False, [("", _shortened(text))]
    lines = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
    return True, list(_records(shown, lines))


def _records(shown: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, str]]:
    from tenfold_shared.jsonl import decode_line

    seen: dict[str, int] = {}
    for at, line in lines:
        where = f"{shown}:{at}"
        record = decode_line(where, line.encode())
        if not isinstance(record, dict):
            raise BadInput(f"{where}: expected a JSON object with instance_id and problem_statement")
        for field in ("instance_id", "problem_statement"):
            if not isinstance(record.get(field), str) or not record[field].strip():
                raise BadInput(f"{where}: {field}: expected a string that is not empty")
        name = record["instance_id"]
        if name in seen:
            raise BadInput(f"{where}: instance_id: {name!r} stands in line {seen[name]} already")
        seen[name] = at
        yield name, _shortened(record["problem_statement"])


def _shortened(text: str) -> str:
    return _INLINE_DATA.sub(" ", text)[:MOST_TEXT]


def _expect_text(shown: str, text: str) -> None:
    """Records in another form than JSON Lines would be ranked as if the whole were one issue: they are refused."""
    if text.lstrip()[:1] not in ("{", "[") or '"problem_statement"' not in text:
        return
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    raise BadInput(
        f"{shown}: one JSON value; expected JSON Lines, a record a line (`jq -c '.[]'` makes it of an array)"
    )


_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*[-*#])")
_CODE_BLOCK = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.M | re.S)


def sentences(issue: str) -> list[str]:
    """The prose of an issue in sentences, code blocks and tracebacks left out; the first MOST_SENTENCES."""
    prose = FRAME.sub(" ", _CODE_BLOCK.sub("\n\n", issue))
    found = [" ".join(part.split()).strip("#*- ") for part in _SENTENCE.split(prose)]
    kept = [part for part in found if len(part.split()) >= 2]
    return kept[:MOST_SENTENCES] or ([" ".join(issue.split())[:300]] if issue.strip() else [])
