"""Files of examples in, token ids with a mark on what is to be predicted out: what adapters are trained on.

Sits between the verbs that read data and the packing of examples into rows (pack.py); knows no model, only its
tokenizer and the size of its vocabulary. The forms, of which `auto` picks one a file:

    prompt   {"prompt", "completion"}, or a task record's {"prompt", "answer"}
    chat     {"messages": [{"role", "content"}, ...]} by the chat template; every assistant turn is predicted
    alpaca   {"instruction", "input" (may be absent), "output"}, or a finished {"text"}, split after `### Response:`
    e2e      CSV with columns mr,ref or meaning_representation,human_reference
    glue     TSV without quoting: label (or gold_label) beside one of SENTENCES
    ids      {"context": [ids], "completion": [ids]}, already tokens
    text     plain text, a document a file; or {"text"}, a document a record

Records with braces are JSON Lines, or one JSON array where the file begins with `[`. `.gz` and `.zst` are unpacked, `-`
is stdin: records where it begins with a brace, or `[`, else text; CSV and TSV there need the form named.

encoder.py makes token ids of a record.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain, pairwise
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from longexp_peft.encoder import (
    LABELS,
    REFERENCES,
    RESPONSE,
    SENTENCES,
    Encoder,
    Tokens,
    Unusable,
    object_of,
    told_value,
)
from tenfold_shared import BadInput
from tenfold_shared.jsonl import BOM, Record, Source, decode_line, is_pipe, open_read, read_lines, unreadable
from tenfold_shared.jsonl.streams import closing_items
from tenfold_shared.redaction import one_line

FORMS = ("auto", "prompt", "chat", "alpaca", "e2e", "glue", "ids", "text")
TRUNCATE = ("prompt", "end", "drop")

BY_SUFFIX = {".csv": "e2e", ".tsv": "glue", ".txt": "text", ".md": "text"}
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
BY_FIELD = {"messages": "chat", "instruction": "alpaca", "context": "ids", "prompt": "prompt"}
SPACE = re.compile(r"[ \t\r\n]*")
T = TypeVar("T")

Found = Iterator[tuple[str, Record | BadInput]]  # "file:line", and a record or what is wrong with it


class Example(NamedTuple):
    """One sequence. ids (n,) int32 with n ≥ 2; target (n,) bool, True for a token whose loss counts, never for the
    first; where it stands (file:line)."""

    ids: NDArray[np.int32]
    target: NDArray[np.bool_]
    where: str


class Counts(msgspec.Struct):
    """What was read. truncated: examples that were cut, or left out by `drop`; no_target: examples left out because
    nothing to predict was left of them; skipped_bad: bad records passed over."""

    examples: int = 0
    tokens: int = 0
    target_tokens: int = 0
    truncated: int = 0
    no_target: int = 0
    skipped_bad: int = 0


class Data(msgspec.Struct):
    """The examples in input order, their counts, and path and sha256 of each input."""

    examples: list[Example]
    counts: Counts
    inputs: list[dict[str, str]]


def read(
    paths: Sequence[str],
    tokenizer: Any,
    vocab: int,
    *,
    form: str = "auto",
    max_length: int,
    truncate: str = "prompt",
    template: str | None = None,
    skip_bad: int = 0,
    limit: int | None = None,
    eos: bool = True,
) -> Data:
    """The examples of files in order; none, or `-`, is stdin.

    tokenizer: the model's; None will do for `ids`. For `chat` its chat_template is used. It needs no pad token.
    vocab: ids stand below it.
    truncate: what becomes of an example longer than max_length. `prompt` cuts the prompt's beginning and keeps a BOS
        there, then the end of a completion that is too long by itself; in a chat the last assistant turn counts as the
        completion. `end` cuts the end. `drop` leaves the example out. Documents of `text` are cut into pieces instead,
        which is not counted.
    template: a file with another prompt (string.Template) for `prompt` ($prompt), `alpaca` ($instruction, $input),
        `e2e` ($mr) or `glue` (the names of the columns); a line end at its end does not count.
    skip_bad: so many bad records are passed over, each with a line on stderr.
    limit: records to take; a document of `text` is one.
    eos: end completions and documents with the EOS token, where the tokenizer has one and it is not there already.

    Raises BadInput: an option out of range; a file that is missing, a folder, cut off or no UTF-8; a form that cannot
    be told, or needs a tokenizer or chat template that is not there; a header without the columns; more bad records
    than skip_bad (`file:line: field: expected ..., got ...`); no example at all.
    """
    if form not in FORMS:
        raise BadInput(f"--form {form}: expected one of {', '.join(FORMS)}")
    if truncate not in TRUNCATE:
        raise BadInput(f"--truncate {truncate}: expected one of {', '.join(TRUNCATE)}")
    if max_length < 2:
        raise BadInput(f"--max-length: expected 2 or more, got {max_length}")
    files = _Files(paths, limit, skip_bad)
    inputs = files.identity()
    encoder = Encoder(tokenizer, vocab, template, eos)
    counts = Counts()
    examples: list[Example] = []
    taken = 0
    for kind, where, record in files.records(form, encoder):
        try:
            if isinstance(record, BadInput):
                raise record
            found = encoder(kind, where, record)
        except Unusable:
            raise
        except BadInput as error:
            files.tolerate(error)
            continue
        taken += 1
        kept, lost = _pieces(found, max_length) if kind == "text" else _fit(found, max_length, truncate, counts)
        counts.no_target += lost
        examples += [Example(one.ids, one.target, where) for one in kept]
        if limit is not None and taken >= limit:
            break
    counts.examples = len(examples)
    counts.tokens = sum(len(one.ids) for one in examples)
    counts.target_tokens = sum(int(one.target.sum()) for one in examples)
    counts.skipped_bad = files.bad
    if not examples:
        raise BadInput(
            f"{', '.join(files.paths)}: no example in it: {taken} records read, {files.bad} bad ones passed over, "
            f"{counts.truncated} longer than {max_length} tokens, {counts.no_target} with nothing left to predict"
        )
    return Data(examples, counts, inputs)


class _Files(Source):
    """The inputs as a Source has them (what is read once is copied and hashed), but opened by their form."""

    def __init__(self, paths: Sequence[str], limit: int | None, skip_bad: int) -> None:
        try:
            super().__init__(paths, None, limit=limit, skip_bad=skip_bad, keep=True)
        except (EOFError, OSError) as error:  # a pipe that is named .gz and cut off
            raise unreadable(error, ", ".join(paths)) or error from None

    def tolerate(self, error: BadInput) -> None:
        """Count a bad record. Raises it where there are too many."""
        self._tolerate(error)

    def records(self, form: str, encoder: Encoder) -> Iterator[tuple[str, str, Record | BadInput]]:
        """Every record of every file behind its form. Raises BadInput for what no skipping helps against."""
        if self.limit == 0:
            return
        for path in self.paths:
            file = _File(path, self._spools[path].name if path in self._spools else path)
            for kind, found in file.open(form):
                encoder.ready(kind, file.name)
                yield from ((kind, where, record) for where, record in found)


class _File:
    """One input: the name a user knows it by, and where its bytes are."""

    def __init__(self, path: str, real: str) -> None:
        self.name, self.real = "<stdin>" if path == "-" else path, real
        self.once = path == "-" or is_pipe(path)
        self.suffix = "" if self.once else PurePath(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower()

    def open(self, form: str) -> Iterator[tuple[str, Found]]:
        """Its form and its records; nothing where it is empty. Raises BadInput where `auto` cannot tell the form."""
        kind = BY_SUFFIX.get(self.suffix, form) if form == "auto" else form
        if kind == "e2e":
            yield kind, self._csv()
        elif kind == "glue":
            yield kind, self._tsv()
        else:
            first, named = self._first(), self.suffix in JSON_SUFFIXES
            if kind == "text":
                braces = named or (first == "{" and not self.suffix)
            else:
                braces = named or kind != "auto" or first in ("{", "[")
            if braces:
                yield from self._json(kind, first)
            elif kind == "text" or (self.once and first):
                yield "text", iter([(f"{self.name}:1", {"text": self._whole()})])
            elif first:
                raise BadInput(f"{self.name}: its name and its beginning tell no form; --form: {', '.join(FORMS[1:])}")

    def _first(self) -> str:
        """The first character that is no white space, "" without one."""
        with closing_items(read_lines(self.real)) as lines:
            return next((line.lstrip()[:1].decode("latin-1") for _, line in lines), "")

    def _json(self, form: str, first: str) -> Iterator[tuple[str, Found]]:
        """The records of JSON Lines or of an array; `auto` is settled by the first that is an object."""
        found = self._array() if first == "[" else self._lines()
        if form != "auto":
            yield form, found
            return
        before = []
        for where, record in found:
            before.append((where, record))
            if not isinstance(record, BadInput):
                kind = _form_of(where, record)
                everything = chain(before, found)
                yield kind, self._plain(everything) if kind == "text" else everything
                return
        yield form, iter(before)  # bad ones only

    @staticmethod
    def _plain(found: Found) -> Found:
        """Documents by a guess: a record that speaks against it is no document."""
        for where, record in found:
            if not isinstance(record, BadInput) and RESPONSE in str(record.get("text")):
                record = BadInput(
                    f"{where}: text: expected plain text as in the first record, got one with `{RESPONSE}`; "
                    "--form text or --form alpaca says what it is"
                )
            yield where, record

    def _lines(self) -> Found:
        for number, line in read_lines(self.real):
            where = f"{self.name}:{number}"
            try:
                yield where, object_of(where, decode_line(where, line))
            except BadInput as error:
                yield where, error

    def _array(self) -> Found:
        """The elements of a JSON array. Raises BadInput where it is no JSON, since what follows cannot be found."""
        text, at, line, counted = self._whole(), 0, 1, 0
        decoder = json.JSONDecoder()

        def skip() -> str:
            nonlocal at, line, counted
            at = _end_of_space(text, at)
            line, counted = line + text.count("\n", counted, at), at
            return text[at : at + 1]

        skip()
        at += 1  # the bracket
        more = skip() != "]"
        while more:
            where = f"{self.name}:{line}"
            try:
                record, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                told = f"{self.name}:{error.lineno}: expected a JSON array: {error.msg} at column {error.colno}"
                raise BadInput(told) from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested too deeply
                raise BadInput(f"{where}: expected a JSON array: {error}") from None
            try:
                yield where, object_of(where, record)
            except BadInput as error:
                yield where, error
            mark = skip()
            if mark not in (",", "]"):
                got = told_value(mark) if mark else "the end"
                raise BadInput(f"{self.name}:{line}: expected `,` or `]` after a record, got {got}")
            more = mark == ","
            at += more
            skip()
        at += 1
        if rest := skip():
            raise BadInput(f"{self.name}:{line}: expected nothing after the array, got {told_value(rest)}")

    def _csv(self) -> Found:
        rows = csv.reader(self._tolerant(), strict=True)

        def located() -> Iterator[tuple[int, list[str] | BadInput]]:
            while True:
                line = rows.line_num + 1  # where the record begins, which may hold line ends
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    yield line, BadInput(f"{self.name}:{line}: expected CSV: {error}; is a quote left open?")
                    continue
                if row is None:
                    return
                if row:
                    yield line, row

        def columns(where: str, header: list[str]) -> None:
            if not any(set(pair) <= set(header) for pair in REFERENCES):
                wanted = " or ".join(",".join(pair) for pair in REFERENCES)
                raise BadInput(f"{where}: header: expected the columns {wanted}, got {told_value(','.join(header))}")

        return self._table(located(), columns)

    def _tsv(self) -> Found:
        def columns(where: str, header: list[str]) -> None:
            if not any(set(names) <= set(header) for names in SENTENCES):
                wanted = "; ".join(",".join(names) for names in SENTENCES)
                raise BadInput(f"{where}: header: expected the columns {wanted}, got {told_value(','.join(header))}")
            if not set(LABELS) & set(header):
                got = told_value(",".join(header))
                raise BadInput(
                    f"{where}: label: expected such a column, got {got}; a file without labels trains nothing"
                )

        # GLUE's files have quotes as they stand in the sentence, opened and never closed.
        rows = ((number, line.split("\t")) for number, line in enumerate(self._tolerant(line_ends=False), 1) if line)
        return self._table(rows, columns)

    def _table(self, rows: Iterator[tuple[int, T]], columns: Callable[[str, list[str]], None]) -> Found:
        """Rows as records by the names in the first, which COLUMNS checks."""
        header: list[str] | None = None
        for line, row in rows:
            where = f"{self.name}:{line}"
            if isinstance(row, BadInput):
                if header is None:
                    raise row
                yield where, row
            elif isinstance(row, list):
                if header is None:
                    header = [name.strip() for name in row]
                    columns(where, header)
                elif len(row) != len(header):
                    yield where, BadInput(f"{where}: expected {len(header)} columns, got {len(row)}")
                else:
                    yield where, dict(zip(header, row, strict=True))

    def _tolerant(self, *, line_ends: bool = True) -> Iterator[str]:
        """Lines; a byte that is no UTF-8 becomes a surrogate, for which the one record it is in will be refused."""
        number = 0
        with closing(open_read(self.real)) as stream:
            try:
                for number, raw in enumerate(stream, 1):
                    line = (raw.removeprefix(BOM) if number == 1 else raw).decode("utf-8", "surrogateescape")
                    yield line if line_ends else line.rstrip("\r\n")
            except Exception as error:
                raise unreadable(error, f"{self.name}:{number + 1}") or error from None

    def _whole(self) -> str:
        """All of it. Raises BadInput for what is no text."""
        try:
            with closing(open_read(self.real)) as stream:
                raw = stream.read().removeprefix(BOM)
        except Exception as error:
            raise unreadable(error, self.name) or error from None
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise BadInput(f"{self.name}:{line}: expected UTF-8: {error.reason} at byte {error.start}") from None
        if (at := text.find("\0")) >= 0:
            raise BadInput(f"{self.name}:{text.count(chr(10), 0, at) + 1}: expected text, got a NUL byte")
        return text


def _end_of_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def _form_of(where: str, record: Record) -> str:
    """The form of a file whose first record this is. Raises BadInput."""
    for field, form in BY_FIELD.items():
        if field in record:
            return form
    if "text" in record:
        return "alpaca" if RESPONSE in str(record["text"]) else "text"
    fields, forms = one_line(", ".join(map(told_value, record)) or "none", 100), ", ".join(FORMS[1:])
    raise BadInput(f"{where}: expected the fields of a form that is known, got {fields}; --form: {forms}")


def _fit(one: Tokens, width: int, truncate: str, counts: Counts) -> tuple[list[Tokens], int]:
    """The sequence in at most `width` tokens; none, and how many were lost, where no target is left of it."""
    if len(one.ids) > width:
        counts.truncated += 1
        if truncate == "drop":
            return [], 0
        keep = np.arange(len(one.ids))
        if truncate == "prompt":
            # Of the prompt, as much of its end as there is room for; where there is none, the completion is cut below.
            room = max(width - one.front - (len(one.ids) - one.start), 0)
            keep = np.delete(keep, slice(one.front, one.start - min(room, one.start - one.front)))
        keep = keep[:width]
        one = Tokens(one.ids[keep], one.target[keep], one.front, one.start)
        one.target[0] = False
    return ([one], 0) if one.target.any() else ([], 1)


def _pieces(one: Tokens, width: int) -> tuple[list[Tokens], int]:
    """A document cut into pieces of at most `width` tokens, in each of which all but the first are predicted."""
    cuts = list(range(0, len(one.ids), width))
    if len(one.ids) - cuts[-1] == 1 and width > 2:
        cuts[-1] -= 1  # a token by itself predicts nothing; the piece before lends it one
    found = []
    for begin, end in pairwise([*cuts, len(one.ids)]):
        target = one.target[begin:end].copy()
        target[0] = False
        found.append(Tokens(one.ids[begin:end], target, 0, 0))
    kept = [piece for piece in found if piece.target.any()]
    return kept, len(found) - len(kept)
