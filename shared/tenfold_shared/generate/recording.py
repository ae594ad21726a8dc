"""Completions on disk: --record writes them, replay:FILE answers with them and with nothing else."""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from tenfold_shared import BadInput, Busy, Missing, unread
from tenfold_shared.generate import Completion, Generator, Request, Sampling
from tenfold_shared.jsonl.streams import UNDECODABLE, closing_items
from tenfold_shared.redaction import one_line


class _Recorded(msgspec.Struct):
    """One line of a recording."""

    key_hash: str
    request: dict[str, Any]
    completion: Completion


class _Asked(msgspec.Struct, omit_defaults=True):
    """What is read of a recorded request, which may come from anywhere; as `_asked` has it."""

    sampling: dict[str, Any]
    seed: Any
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    prompt_ids: list[int] | None = None


class _Line(msgspec.Struct):
    key_hash: str
    request: _Asked
    completion: Completion


def _asked(request: Request, sampling: Sampling) -> dict[str, Any]:
    """What decides a completion, the model aside: prompt, seed and sampling."""
    fields = msgspec.to_builtins(request)
    prompt = {name: fields[name] for name in ("messages", "prompt", "prompt_ids") if fields[name] is not None}
    # 1 and 1.0 are the same temperature.
    how = {
        **msgspec.to_builtins(sampling),
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "stop": list(sampling.stop),
    }
    return {**prompt, "seed": request.seed, "sampling": how}


def _key_hash(asked: dict[str, Any]) -> str:
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Recorder:
    """Any backend, with every completion that is no error appended to FILE for `replay:FILE`.

    One line a completion, flushed as it comes; a torn last line of an earlier run is cut off first.
    Raises Busy where another run records to FILE, BadInput where it cannot be written.
    """

    def __init__(self, inner: Generator, path: str) -> None:
        self._inner, self.model, self.batch_size, self.context = inner, inner.model, inner.batch_size, inner.context
        self._path = path
        try:
            self._file = open(path, "a+b")
        except OSError as error:
            raise BadInput(f"--record {path}: cannot be written: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.close()
            raise BadInput(f"--record {path}: expected a file that can be read back")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Busy(f"--record {path}: another run is recording to it") from None
        self._file.truncate(_whole_lines(self._file))

    def count_tokens(self, request: Request) -> int | None:
        return self._inner.count_tokens(request)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what could not be written was reported by generate
        self._inner.close()

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        pulled: dict[str, Request] = {}

        def noted() -> Iterator[Request | None]:
            for request in requests:
                if request is not None:
                    pulled[request.key] = request
                yield request

        with closing_items(self._inner.generate(noted(), sampling)) as completions:
            for completion in completions:
                asked = _asked(pulled.pop(completion.key), sampling)
                if completion.finish_reason != "error":
                    line = msgspec.json.encode(_Recorded(_key_hash(asked), asked, completion)) + b"\n"
                    try:
                        self._file.write(line)
                        self._file.flush()
                    except OSError as error:
                        raise Missing(f"--record {self._path}: cannot be written: {error.strerror}") from None
                yield completion


def _whole_lines(stream: Any) -> int:
    """Bytes of STREAM up to and including its last newline."""
    end = stream.seek(0, 2)
    while end > 0:
        start = max(0, end - 65536)
        stream.seek(start)
        at = stream.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


class ReplayGenerator:
    """Recorded completions, found by prompt, seed and sampling; what was not recorded is Missing.

    Of several recordings of one request the last holds. The request's key need not be the recorded
    one. A torn last line is passed over. Raises BadInput for a file that is no recording.
    """

    batch_size: int | None = None
    context: int | None = None
    COMPARED, COMPARED_CHARS = 2000, 400  # bounds of the search for the nearest prompt

    def __init__(self, path: str) -> None:
        self._path, self.model = path, f"replay:{path}"
        try:
            self._file = open(path, "rb")
        except OSError as error:
            raise unread(f"replay:{path}", error) from None
        self._at: dict[str, int] = {}
        for offset, entry in self._entries():
            self._at[entry.key_hash] = offset

    def _entries(self) -> Iterator[tuple[int, _Line]]:
        offset = self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            try:
                yield offset, msgspec.json.decode(line, type=_Line)
            except UNDECODABLE as error:
                if line.endswith(b"\n"):
                    raise BadInput(
                        f"{self._path}:{number}: expected a completion written by --record: {error}"
                    ) from None
            offset += len(line)

    def count_tokens(self, request: Request) -> int | None:
        return None

    def close(self) -> None:
        self._file.close()

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            if request is None:
                continue
            asked = _asked(request, sampling)
            offset = self._at.get(_key_hash(asked))
            if offset is None:
                raise Missing(f"{self.model}: {request.key}: not recorded; {self._nearest(asked)}")
            self._file.seek(offset)
            entry = msgspec.json.decode(self._file.readline(), type=_Line)
            yield msgspec.structs.replace(entry.completion, key=request.key)

    def _nearest(self, asked: dict[str, Any]) -> str:
        """Words on the recorded request most like ASKED: same prompt first, then the most similar text."""
        best: tuple[float, str] = (-1e9, "the recording is empty")
        wanted = _prompt_text(asked)[: self.COMPARED_CHARS]
        matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
        for number, (_, entry) in enumerate(self._entries()):
            recorded_as = msgspec.to_builtins(entry.request)
            text, key = _prompt_text(recorded_as), entry.completion.key
            if text == _prompt_text(asked):
                flat, recorded = ({**side["sampling"], "seed": side["seed"]} for side in (asked, recorded_as))
                other = [
                    f"{name} {recorded.get(name)} (asked {value})"
                    for name, value in flat.items()
                    if recorded.get(name) != value
                ]
                likeness, words = (
                    2.0 - len(other) / 100,
                    f"the same prompt is recorded as {key} with {', '.join(other) or 'its prompt in other fields'}",
                )
            elif number < self.COMPARED and best[0] < 1:
                matcher.set_seq1(text[: self.COMPARED_CHARS])
                likeness, words = matcher.quick_ratio(), f"the nearest prompt is {key}: {one_line(text, 80)}"
            else:
                continue
            best = max(best, (likeness, words), key=lambda pair: pair[0])
        return best[1]


def _prompt_text(asked: dict[str, Any]) -> str:
    """The words of a request's prompt; roles and kinds of prompt tell otherwise equal ones apart."""
    if asked.get("messages") is not None:
        return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in asked["messages"])
    return str(asked.get("prompt", asked.get("prompt_ids")))
