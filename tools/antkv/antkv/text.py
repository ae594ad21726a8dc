"""Text in: plain files, JSON Lines with `text`, parquet with a `text` column; `-` is stdin. Token ids out.

The documents of all files, empty ones too, are joined by an empty line and tokenised without special tokens, as papers'
perplexity tables are. Of a long text only what is asked for is read and tokenised, whatever lies behind it.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import BOM, is_pipe, open_read, read_lines, unreadable

PIECE = 1 << 16  # bytes of a plain file that are read at a time
CHARACTERS = 6  # of a token, for a first try; where they are fewer tokens than that, twice as many are read
SETTLED = 64  # tokens before a cut that it may have changed

# ------------------------------------------------------------ files


def documents(path: str) -> Iterator[str]:
    """The documents of a file, by its suffix, as they are read; a plain file is one. Raises BadInput."""
    name = path.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        yield from _parquet(path)
    elif name.endswith((".jsonl", ".json")):
        for where, record in _values(path, name.endswith(".json")):
            for one in record if isinstance(record, list) else [record]:
                yield _text_of(where, one)
    else:
        yield "".join(_plain(path))


def pieces(path: str) -> Iterator[str]:
    """What `documents` of a file are when joined by empty lines, in pieces."""
    if path.removesuffix(".gz").removesuffix(".zst").endswith((".parquet", ".jsonl", ".json")):
        for number, text in enumerate(documents(path)):
            yield text if number == 0 else f"\n\n{text}"
    else:
        yield from _plain(path)


def _plain(path: str) -> Iterator[str]:
    name, decode, done = _named(path), codecs.getincrementaldecoder("utf-8")(), 0
    with closing(open_read(path)) as stream:
        while True:
            try:
                block = stream.read(PIECE)
            except Exception as error:
                if (told := unreadable(error, name)) is None:
                    raise
                raise told from None
            held = len(decode.getstate()[0])  # bytes of a character that the last piece ended in
            body = block if done else block.removeprefix(BOM)
            try:
                text = decode.decode(body, final=not block)
            except UnicodeDecodeError as error:
                at = done + len(block) - len(body) - held + error.start
                raise BadInput(f"{name}: expected UTF-8: {error.reason} at byte {at}") from None
            done += len(block)
            yield text
            if not block:
                return


def _values(path: str, whole: bool) -> Iterator[tuple[str, Any]]:
    """(file:line, JSON value), a line each, which only \\n ends: other separators may stand in a string as they are.
    whole: the file may be one value over all its lines, which is read at once; those of C4 are lines after all."""
    lines = read_lines(path)
    if whole and (first := next(lines, None)) is not None:
        try:
            _value(path, *first)
        except BadInput:
            yield f"{path}:1", _value(path, 1, _joined(itertools.chain([first], lines)))
            return
        lines = itertools.chain([first], lines)
    for number, line in lines:
        yield f"{path}:{number}", _value(path, number, line)


def _joined(lines: Iterator[tuple[int, bytes]]) -> bytes:
    """Lines as they stood in their file, where blank ones were between them."""
    parts, last = [], 0
    for number, line in lines:
        parts += [b"\n" * (number - last - 1), line]
        last = number
    return b"".join(parts)


def _value(path: str, number: int, line: bytes) -> Any:
    """The JSON value of bytes that begin at a line of a file."""
    try:
        return json.loads(line.decode().rstrip())
    except json.JSONDecodeError as error:
        told = f"{error.msg} at character {error.colno}"
        raise BadInput(f"{path}:{number + error.lineno - 1}: not JSON: {told}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}:{number}: expected UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadInput(f"{path}:{number}: JSON nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadInput(f"{path}:{number}: not JSON: {error}") from None


def _text_of(where: str, record: Any) -> str:
    found = record.get("text") if isinstance(record, dict) else record
    if not isinstance(found, str):
        raise BadInput(f"{where}: expected an object with a string `text`")
    try:
        found.encode()
    except UnicodeEncodeError as error:
        half = ascii(found[error.start])[1:-1]
        raise BadInput(f"{where}: `text` holds {half}, one half of a surrogate pair, which is no character") from None
    return found


def _parquet(path: str) -> Iterator[str]:
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException
    except ImportError:
        raise Missing(f"{path}: pyarrow is not installed: pip install pyarrow") from None

    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    rows = itertools.count(1)
    try:
        file = pq.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise BadInput(f"{path}: expected a column `text`, has {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=1024, columns=["text"]):
            for found, row in zip(batch.column(0).to_pylist(), rows, strict=False):
                if not isinstance(found, str):
                    raise BadInput(f"{path}: row {row}: expected a string `text`")
                yield found
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None


def _named(path: str) -> str:
    return "<stdin>" if path == "-" else path


# ------------------------------------------------------------ tokens


class Text:
    """The text of files, read as far as it is asked for.

    tokens: how many will be wanted, None for all; what they may take is read at once, so that a file that is not there or
    not readable is told before a model is loaded. Raises BadInput, also where there is no text at all.
    """

    def __init__(self, paths: Sequence[str], tokens: int | None = None) -> None:
        self.paths = list(paths) or ["-"]
        if self.paths.count("-") > 1:
            raise BadInput("-: stdin can be read once; name it a single time")
        # stdin and pipes, which are read once: their text's sha256 as it goes by
        self._once = {path: hashlib.sha256() for path in self.paths if path == "-" or is_pipe(path)}
        for path in self.paths:
            if path not in self._once:
                open_read(path).close()
        self._files = [(path, self._read(path)) for path in self.paths]
        self._rest = self._joined()
        self._parts: list[str] = []
        self.whole = False  # whether all is read
        blank = not self.upto(None if tokens is None else CHARACTERS * (tokens + SETTLED)).strip()
        while blank and not self.whole:
            self._more()
            blank = not self._parts[-1].strip()
        if blank:
            raise BadInput(f"{', '.join(map(_named, self.paths))}: no text in it")

    def _read(self, path: str) -> Iterator[str]:
        seen = self._once.get(path)
        for piece in pieces(path):
            if seen is not None:
                seen.update(piece.encode())
            yield piece

    def _joined(self) -> Iterator[str]:
        for number, (_, found) in enumerate(self._files):
            if number:
                yield "\n\n"
            yield from found

    def _more(self) -> int:
        """Read another piece; how many characters it has."""
        piece = next(self._rest, None)
        self.whole = piece is None
        self._parts.append(piece or "")
        return len(self._parts[-1])

    def upto(self, characters: int | None = None) -> str:
        """At least so many first characters, fewer where there are no more; None for all."""
        held = sum(map(len, self._parts))
        while not self.whole and (characters is None or held < characters):
            held += self._more()
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def ids(self, tokenizer: Any, count: int | None = None) -> list[int]:
        """The first `count` ids of the text, fewer where it has no more; None for all.

        A beginning of the text is tokenised, and what stands less than SETTLED tokens before its cut is not used: the ids
        are those of the whole text for every tokenizer that looks no further ahead, as all do that split at white space,
        line ends or between words. Only inside a word of hundreds of tokens a cut can be felt further back.
        """
        characters = None if count is None else CHARACTERS * (count + SETTLED)
        while True:
            text = self.upto(characters)
            all_of_it = self.whole and (characters is None or characters >= len(text))
            found = list(tokenizer(text[:characters], add_special_tokens=False, verbose=False)["input_ids"])
            if count is None or characters is None or all_of_it or len(found) >= count + SETTLED:
                return found[:count]
            characters *= 2

    def digests(self) -> list[str]:
        """sha256 of each file; of stdin and pipes, which are read to their end for it, of their text. No more of the text
        can be asked for afterwards."""
        for path, rest in self._files:
            if path in self._once:
                for _ in rest:
                    pass
        return [self._once[path].hexdigest() if path in self._once else sha256_of(path) for path in self.paths]


def check_length(config: Any, length: int, allow_extrapolation: bool) -> None:
    """Raises BadInput where a sequence has more tokens than the model has positions, unless that is allowed."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest and length > longest and not allow_extrapolation:
        raise BadInput(
            f"--length {length}: the model has {longest} positions; --allow-extrapolation goes on beyond them"
        )
