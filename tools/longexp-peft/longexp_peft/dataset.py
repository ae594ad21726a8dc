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

A prompt gets the special tokens that the tokenizer puts in front (a BOS), never those it puts behind. Prompt and
completion are tokenised apart, so that no token spans the two: generation too begins from the prompt's own tokens. A
completion or a document ends with the EOS token; a chat ends as its template ends it, `ids` as they are. Except for
`prompt`, whose text is taken as it is, a prompt ends without white space and the completion begins with it, since BPE
vocabularies have the space at the beginning of a word.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain, pairwise
from pathlib import PurePath
from string import Template
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput
from tenfold_shared.cli import read_template
from tenfold_shared.generate import one_line
from tenfold_shared.jsonl import BOM, Record, Source, decode_line, is_pipe, open_read, read_lines, unreadable

FORMS = ("auto", "prompt", "chat", "alpaca", "e2e", "glue", "ids", "text")
TRUNCATE = ("prompt", "end", "drop")
RESPONSE = "### Response:"
REFERENCES = (("mr", "ref"), ("meaning_representation", "human_reference"))
SENTENCES = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("sentence",),
)  # pairs first: a question goes with a `sentence`
LABELS = ("label", "gold_label")

BY_SUFFIX = {".csv": "e2e", ".tsv": "glue", ".txt": "text", ".md": "text"}
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
BY_FIELD = {"messages": "chat", "instruction": "alpaca", "context": "ids", "prompt": "prompt"}
ABSENT: Any = object()
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # a surrogate is half a character, or a byte that was no UTF-8 (`_tolerant`)
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
    encoder = _Encoder(tokenizer, vocab, template, eos)
    counts = Counts()
    examples: list[Example] = []
    taken = 0
    for kind, where, record in files.records(form, encoder):
        try:
            if isinstance(record, BadInput):
                raise record
            found = encoder(kind, where, record)
        except _Unusable:
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


# ---------------------------------------------------------------- files to records


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

    def records(self, form: str, encoder: _Encoder) -> Iterator[tuple[str, str, Record | BadInput]]:
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
        with closing(read_lines(self.real)) as lines:  # type: ignore[type-var]
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
                yield where, _object(where, decode_line(where, line))
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
                yield where, _object(where, record)
            except BadInput as error:
                yield where, error
            mark = skip()
            if mark not in (",", "]"):
                got = _got(mark) if mark else "the end"
                raise BadInput(f"{self.name}:{line}: expected `,` or `]` after a record, got {got}")
            more = mark == ","
            at += more
            skip()
        at += 1
        if rest := skip():
            raise BadInput(f"{self.name}:{line}: expected nothing after the array, got {_got(rest)}")

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
                raise BadInput(f"{where}: header: expected the columns {wanted}, got {_got(','.join(header))}")

        return self._table(located(), columns)

    def _tsv(self) -> Found:
        def columns(where: str, header: list[str]) -> None:
            if not any(set(names) <= set(header) for names in SENTENCES):
                wanted = "; ".join(",".join(names) for names in SENTENCES)
                raise BadInput(f"{where}: header: expected the columns {wanted}, got {_got(','.join(header))}")
            if not set(LABELS) & set(header):
                got = _got(",".join(header))
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
    fields, forms = one_line(", ".join(map(_got, record)) or "none", 100), ", ".join(FORMS[1:])
    raise BadInput(f"{where}: expected the fields of a form that is known, got {fields}; --form: {forms}")


# ---------------------------------------------------------------- records to tokens


class _Sequence(NamedTuple):
    """ids and target as in an Example, of any length; `front` special tokens begin it, and at `start` the completion
    (of a chat the last)."""

    ids: NDArray[np.int32]
    target: NDArray[np.bool_]
    front: int
    start: int


class _Unusable(BadInput):
    """An option that no record can be read with, met only while reading them."""


class _Encoder:
    """Records as token ids: a method a form, all of which raise BadInput that begins with WHERE."""

    def __init__(self, tokenizer: Any, vocab: int, template: str | None, eos: bool) -> None:
        self.tokenizer, self.vocab, self.template = tokenizer, vocab, template
        self.bos_id = getattr(tokenizer, "bos_token_id", None)
        self.eos_id = getattr(tokenizer, "eos_token_id", None) if eos else None
        self._front: list[int] | None = None
        self._templates: dict[tuple[str, ...], Template] = {}

    def ready(self, form: str, name: str) -> None:
        """Raises BadInput where no record of this form could be encoded."""
        if form == "auto":  # a file without a good record
            return
        if form != "ids" and self.tokenizer is None:
            raise BadInput(f"{name}: form {form}: needs a tokenizer; without one only `ids` can be read")
        if form == "chat" and not getattr(self.tokenizer, "chat_template", None):
            raise BadInput(f"{name}: the model's tokenizer has no chat template; --chat-template FILE gives one")
        if self.template is not None and form in ("chat", "ids", "text"):
            raise BadInput(
                f"--template {self.template}: {name} is of the form {form}, whose records have no prompt to fill in"
            )

    def __call__(self, form: str, where: str, record: Record) -> _Sequence:
        found: _Sequence = getattr(self, form)(where, record)
        if form != "ids" and (top := int(found.ids.max())) >= self.vocab:
            told = (
                f"expected token ids below the model's {self.vocab}, got {top} from the tokenizer; is it this model's?"
            )
            raise BadInput(f"{where}: {told}")
        return found

    # The forms.

    def prompt(self, where: str, record: Record) -> _Sequence:
        field = "answer" if "answer" in record and "completion" not in record else "completion"
        prompt, completion = _string(where, record, "prompt"), _string(where, record, field)
        return self._pair(where, self._filled(prompt, "prompt", prompt=prompt), field, completion)

    def alpaca(self, where: str, record: Record) -> _Sequence:
        if "instruction" not in record and "text" in record and self.template is None:
            prompt, mark, completion = _string(where, record, "text").partition(RESPONSE)
            if not mark:
                raise BadInput(f"{where}: text: expected `{RESPONSE}` in it, got {_got(prompt)}")
            return self._pair(where, prompt + mark, "text", completion, what=f"some text after `{RESPONSE}`")
        instruction, output = _string(where, record, "instruction"), _string(where, record, "output")
        given = _string(where, record, "input") if record.get("input") is not None else ""
        parts = [("Instruction", instruction), *([("Input", given)] if given else [])]
        prompt = "".join(f"### {heading}:\n{text}\n\n" for heading, text in parts) + RESPONSE
        prompt = self._filled(prompt, "instruction", instruction=instruction, input=given)
        return self._pair(where, prompt, "output", output, lead="\n")

    def e2e(self, where: str, record: Record) -> _Sequence:
        names = next(pair for pair in REFERENCES if set(pair) <= set(record))
        meaning, reference = (_string(where, record, name) for name in names)
        return self._pair(where, self._filled(f"{meaning} ||", "mr", mr=meaning), names[1], reference, lead=" ")

    def glue(self, where: str, record: Record) -> _Sequence:
        names = next(names for names in SENTENCES if set(names) <= set(record))
        label = next(name for name in LABELS if name in record)
        said = {name: _string(where, record, name) for name in names}
        answer = _string(where, record, label)
        if answer.strip() == "-1":  # how test sets without labels are given away
            raise BadInput(f'{where}: {label}: expected a label, got "-1", which stands for none')
        prompt = "".join(f"{name}: {text}\n" for name, text in said.items()) + "label:"
        return self._pair(where, self._filled(prompt, names[0], **said), label, answer, lead=" ")

    def text(self, where: str, record: Record) -> _Sequence:
        text = _string(where, record, "text")
        if not text.strip():
            raise BadInput(f"{where}: text: expected some text, got none")
        front = self._specials(text)
        ids = self._ended(front + self._tokens(text))
        if len(ids) < 2:
            raise BadInput(f"{where}: text: expected two tokens or more, got {len(ids)}")
        return _sequence([ids[:1], ids[1:]], len(front), 1)

    def ids(self, where: str, record: Record) -> _Sequence:
        context, completion = (self._given(where, record, field) for field in ("context", "completion"))
        if not completion:
            raise BadInput(f"{where}: completion: expected some token ids, got none")
        if not context and len(completion) < 2:
            raise BadInput(f"{where}: completion: expected two ids or more after an empty context, got 1")
        return _sequence([context, completion], self._begins(context), len(context))

    def chat(self, where: str, record: Record) -> _Sequence:
        """To be predicted is what the template adds for an assistant turn from the end of its generation prompt on."""
        messages = _turns(where, record)
        whole = self._render(where, messages)
        edges: list[int] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            begun = self._render(where, messages[:number], add_generation_prompt=True)
            ended = self._render(where, messages[: number + 1])
            if not whole.startswith(ended):
                raise BadInput(
                    f"{where}: messages[{number}]: the chat template rewrites earlier turns once others follow, this "
                    "one too; --chat-template FILE with one that keeps every turn, or a record for each answer"
                )
            if not ended.startswith(begun) or ended == begun:
                raise BadInput(
                    f"{where}: messages[{number}]: the chat template rewrites earlier turns: what stands before this "
                    "answer is not what it gives to be continued; --chat-template FILE with one that keeps it"
                )
            edges += [len(begun), len(ended)]
        parts = self._parts(whole, edges)
        found = _sequence(parts, self._begins(parts[0]), sum(map(len, parts[: len(edges) - 1])))
        if not found.target.any():
            raise BadInput(f"{where}: messages: expected tokens to predict, got none")
        return found

    # What they share.

    def _pair(
        self, where: str, prompt: str, field: str, completion: str, *, lead: str = "", what: str = "some text"
    ) -> _Sequence:
        if not completion.strip():
            raise BadInput(f"{where}: {field}: expected {what}, got none")
        completion = lead + completion
        front = self._specials(completion)
        before, after = front + self._tokens(prompt), self._ended(self._tokens(completion))
        if len(before) + len(after) < 2 or not after:
            after_what = "two tokens or more after an empty prompt" if after else "some tokens"
            raise BadInput(f"{where}: {field}: expected {after_what}, got {len(after) or 'none'}")
        return _sequence([before, after], len(front), len(before))

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _specials(self, text: str) -> list[int]:
        """What the tokenizer puts in front of every text, seen once on one that has tokens."""
        if self._front is None:
            for probe in ("a", text):
                if bare := self._tokens(probe):
                    full = list(self.tokenizer(probe, verbose=False)["input_ids"])
                    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
                    self._front = full[:at]
                    break
        return self._front or []

    def _begins(self, ids: list[int]) -> int:
        """1 where a BOS that nobody but the data put there begins it."""
        return int(self.bos_id is not None and ids[:1] == [self.bos_id])

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if self.eos_id is None or ids[-1:] in ([], [self.eos_id]) else [*ids, self.eos_id]

    def _filled(self, built_in: str, needs: str, **fields: str) -> str:
        """The prompt by --template, or the built-in one."""
        if self.template is None:
            return built_in
        names = tuple(fields)
        if names not in self._templates:
            try:
                text = read_template(self.template, "", set(names), needs)
            except BadInput as error:
                raise _Unusable(str(error)) from None
            self._templates[names] = Template(text.removesuffix("\n"))
        return self._templates[names].substitute(fields)

    def _given(self, where: str, record: Record, field: str) -> list[int]:
        given = record.get(field, ABSENT)
        if not isinstance(given, list):
            raise BadInput(f"{where}: {field}: expected a list of token ids, got {_got(given)}")
        for at, one in enumerate(given):
            if type(one) is not int or not 0 <= one < self.vocab:  # True is an int to isinstance
                raise BadInput(f"{where}: {field}[{at}]: expected a token id of 0 to {self.vocab - 1}, got {_got(one)}")
        return given

    def _render(self, where: str, messages: list[Record], **more: bool) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **more))
        except Exception as error:  # whatever a template raises of itself
            told = one_line(error, 160)
            raise BadInput(
                f"{where}: messages: the chat template does not take the first {len(messages)}: {told}"
            ) from None

    def _parts(self, text: str, edges: list[int]) -> list[list[int]]:
        """TEXT, cut at EDGES, as tokens part by part: those of the whole text, unless one of them spans an edge."""
        apart = [self._tokens(text[a:b]) for a, b in pairwise([0, *edges, len(text)])]
        whole = self._tokens(text)
        if list(chain.from_iterable(apart)) == whole:
            return apart
        # SentencePiece puts a space before any text, and so before every part; only the first one should have it.
        heads = [self._tokens(text[:edge]) for edge in edges]
        if all(whole[: len(head)] == head for head in heads):
            return [whole[a:b] for a, b in pairwise([0, *map(len, heads), len(whole)])]
        return apart


def _sequence(parts: Sequence[list[int]], front: int, start: int) -> _Sequence:
    """Parts of which every second one is to be predicted."""
    ids = np.fromiter(chain.from_iterable(parts), np.int32)
    target = np.repeat(np.arange(len(parts)) % 2 == 1, [len(part) for part in parts])
    target[:1] = False  # nothing stands before it
    return _Sequence(ids, target, front, start)


# ---------------------------------------------------------------- lengths


def _fit(one: _Sequence, width: int, truncate: str, counts: Counts) -> tuple[list[_Sequence], int]:
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
        one = _Sequence(one.ids[keep], one.target[keep], one.front, one.start)
        one.target[0] = False
    return ([one], 0) if one.target.any() else ([], 1)


def _pieces(one: _Sequence, width: int) -> tuple[list[_Sequence], int]:
    """A document cut into pieces of at most `width` tokens, in each of which all but the first are predicted."""
    cuts = list(range(0, len(one.ids), width))
    if len(one.ids) - cuts[-1] == 1 and width > 2:
        cuts[-1] -= 1  # a token by itself predicts nothing; the piece before lends it one
    found = []
    for begin, end in pairwise([*cuts, len(one.ids)]):
        target = one.target[begin:end].copy()
        target[0] = False
        found.append(_Sequence(one.ids[begin:end], target, 0, 0))
    kept = [piece for piece in found if piece.target.any()]
    return kept, len(found) - len(kept)


# ---------------------------------------------------------------- fields


def _object(where: str, record: Any) -> Record:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, got {_got(record)}")
    return record


def _got(value: Any) -> str:
    """A value as an error message shows it: as JSON, on one line."""
    return "nothing" if value is ABSENT else one_line(json.dumps(value, default=str), 60)


def _string(where: str, record: Record, field: str, name: str | None = None) -> str:
    """A field that is text, called NAME in what is raised."""
    value = record.get(field, ABSENT)
    if not isinstance(value, str):
        raise BadInput(f"{where}: {name or field}: expected a string, got {_got(value)}")
    if found := NO_TEXT.search(value):
        what = "a NUL character" if found[0] == "\0" else f"{_got(found[0])}, which is no UTF-8"
        raise BadInput(f"{where}: {name or field}: expected text, got {what}")
    return value


def _turns(where: str, record: Record) -> list[Record]:
    messages = record.get("messages", ABSENT)
    if not isinstance(messages, list) or not messages:
        raise BadInput(f"{where}: messages: expected a list of turns, got {_got(messages)}")
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if not isinstance(message, dict):
            raise BadInput(f"{where}: {at}: expected an object with `role` and `content`, got {_got(message)}")
        role = _string(where, message, "role", f"{at}.role")
        if not _string(where, message, "content", f"{at}.content").strip() and role == "assistant":
            raise BadInput(f"{where}: {at}.content: expected some text, got none")
    if all(message["role"] != "assistant" for message in messages):
        raise BadInput(f"{where}: messages: expected an assistant turn, got none")
    return messages
