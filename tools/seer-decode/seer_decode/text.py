"""Text in, token ids out: what gates are trained on and compared on.

A file is plain text, one document; JSON Lines or parquet, a document a record: `text`, or a conversation as `messages`, with
`response` (and `reasoning`) where that stands apart as in a sample record, or `choices` as a server gave them, or `prompt` with
`response`. `.gz` and `.zst` are read by suffix; `-` is stdin, JSON Lines where it begins with `{`.

A conversation is rendered by the model's chat template. Many templates delete the thinking of earlier turns, and some that of
every turn; gates are trained for that very text, so that a template that loses it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import decode_line, is_pipe, open_read, read_lines, read_text
from tenfold_shared.redaction import one_line

Record = dict[str, Any]
THINKING = re.compile(
    r"(?:<think>)?(.*?)</think>|<think>(.*)", re.DOTALL
)  # a prompt may have opened it, a cut left it open
MARKER = 60  # characters of a piece of thinking that are looked for in what a template made of it


class Document(NamedTuple):
    """Where it stands (file:line), and plain text or a conversation."""

    where: str
    content: str | list[Record]


class Reader:
    """The documents of files. skip_bad: so many malformed lines are passed over; `skipped` counts them."""

    def __init__(self, paths: Sequence[str], skip_bad: int = 0) -> None:
        """Raises BadInput for a file that is not there, stdin named twice, or a pipe that could be read once only."""
        self.paths, self.skip_bad, self.skipped = list(paths) or ["-"], skip_bad, 0
        if self.paths.count("-") > 1:
            raise BadInput("-: stdin can be read once; name it a single time")
        for path in self.paths:
            if path != "-" and not is_pipe(path):
                open_read(path).close()

    def __iter__(self) -> Iterator[Document]:
        for path in self.paths:
            yield from self._file(path)

    def _file(self, path: str) -> Iterator[Document]:
        name = path.removesuffix(".gz").removesuffix(".zst")
        if name.endswith(".parquet"):
            yield from self._records(_parquet(path))
        elif name.endswith((".jsonl", ".ndjson", ".json")):
            yield from self._records((f"{path}:{number}", line) for number, line in read_lines(path))
        elif path == "-":
            text = read_text("-", "<stdin>")
            if text.lstrip().startswith("{"):
                lines = enumerate(text.split("\n"), 1)
                yield from self._records((f"<stdin>:{n}", line.encode()) for n, line in lines if line.strip())
            else:
                yield Document("<stdin>", text)
        else:
            yield Document(path, read_text(path))

    def _records(self, found: Iterator[tuple[str, Any]]) -> Iterator[Document]:
        for where, raw in found:
            try:
                record = decode_line(where, raw) if isinstance(raw, bytes) else raw
                yield Document(where, _content(where, record))
            except BadInput:
                self.skipped += 1
                if self.skipped > self.skip_bad:
                    raise


def _parquet(path: str) -> Iterator[tuple[str, Record]]:
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException
    except ImportError:
        raise Missing(f"{path}: pyarrow is not installed: pip install pyarrow") from None
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    try:
        file = pq.ParquetFile(path)
        known = ("messages", "text", "prompt", "response", "reasoning", "reasoning_content", "choices")
        columns = [name for name in known if name in file.schema_arrow.names]
        if not {"messages", "text", "prompt"} & set(columns):
            raise BadInput(f"{path}: expected a column `messages` or `text`, has {', '.join(file.schema_arrow.names)}")
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for record in batch.to_pylist():
                row += 1
                yield f"{path}: row {row}", {key: value for key, value in record.items() if value is not None}
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise BadInput(f"{path}: cannot be read: {one_line(error)}") from None


def _content(where: str, record: Any) -> str | list[Record]:
    """Text or a conversation. Raises BadInput."""
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected an object with `messages` or `text`")
    if isinstance(text := record.get("text"), str):
        return text
    if text is not None:
        raise BadInput(f"{where}: text: expected a string, got {type(text).__name__}")
    messages = record.get("messages")
    if messages is None and isinstance(record.get("prompt"), str) and _answer(record) is not None:
        messages = [{"role": "user", "content": record["prompt"]}]
    if not isinstance(messages, list) or not messages:
        raise BadInput(f"{where}: expected `messages`, `text`, or `prompt` with `response`")
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str) or not isinstance(message.get("role"), str):
            raise BadInput(f"{where}: messages[{number}]: expected an object with a string `role` and `content`")
    said = [{"role": message["role"], "content": _thought(message)} for message in messages]
    answer = _answer(record)
    return said if answer is None else [*said, {"role": "assistant", "content": answer}]


def _thought(message: Record) -> str:
    """A message's text, with the thinking that a server keeps apart back in its place."""
    thinking = message.get("reasoning") or message.get("reasoning_content")
    return f"<think>\n{thinking}\n</think>\n\n{message['content']}" if thinking else message["content"]


def _answer(record: Record) -> str | None:
    """The answer that stands outside `messages`, None without one."""
    choices = record.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = choices[0].get("message")
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            return _thought(message)
    if isinstance(record.get("response"), str):
        return _thought({**record, "content": record["response"]})
    return None


class Encoder:
    """Documents as token ids. template: a file with a chat template in place of the tokenizer's own."""

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        """Raises BadInput for a template that is no text."""
        self.tokenizer = tokenizer
        if template is not None:
            self.tokenizer.chat_template = read_text(template)
            if not self.tokenizer.chat_template.strip():
                raise BadInput(f"--chat-template {template}: is empty")

    def __call__(self, document: Document) -> list[int]:
        """Raises BadInput: no chat template, one that fails, one that drops what an assistant thought."""
        if isinstance(document.content, str):
            return list(self.tokenizer(document.content, verbose=False)["input_ids"])
        if not self.tokenizer.chat_template:
            raise BadInput(
                f"{document.where}: the model's tokenizer has no chat template; --chat-template FILE gives one"
            )
        try:
            told = self.tokenizer.apply_chat_template(document.content, tokenize=False)
        except Exception as error:  # whatever a template raises of itself
            raise BadInput(f"{document.where}: the chat template does not take it: {one_line(error, 160)}") from None
        for message in document.content:
            for parts in THINKING.findall(message["content"]) if message["role"] == "assistant" else ():
                thinking = "".join(parts)
                # A part without line ends: templates strip, and may turn white space at the ends.
                if (part := thinking.strip()[:MARKER]) and part not in told:
                    raise BadInput(
                        f"{document.where}: the chat template drops what an assistant thinks (<think>{json.dumps(part[:30])[1:-1]}"
                        "…): gates would be trained on other text than is decoded; --chat-template FILE with one that keeps it"
                    )
        # The template writes special tokens itself.
        return list(self.tokenizer(told, add_special_tokens=False, verbose=False)["input_ids"])


def stream(reader: Reader, encode: Encoder, wanted: int | None = None) -> list[int]:
    """The first `wanted` ids of all documents one after another, as many as there are for None."""
    found: list[int] = []
    for document in reader:
        found += encode(document)
        if wanted is not None and len(found) >= wanted:
            break
    return found[:wanted]
