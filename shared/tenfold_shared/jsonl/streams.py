"""Files, pipes and stdin as lines and as JSON: opening, unpacking, decoding, and the words for what cannot be read."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec

from tenfold_shared import BadInput

Record = dict[str, Any]
Located = tuple[str, Record]  # ("file:line", record)

BOM = b"\xef\xbb\xbf"  # with which some editors begin UTF-8

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what it raises for bytes that are no JSON
LONGEST_LINE = 1 << 30  # bytes of what is read in one piece: a few kB of a packed file can be more than any memory


Item = TypeVar("Item")


def closing_items(items: Iterator[Item]) -> AbstractContextManager[Iterator[Item]]:
    """Closes a generator at the end, so that what it holds open is let go, though its type says no more than Iterator."""
    return closing(cast("Generator[Item, None, None]", items))


def open_read(path: str) -> BinaryIO:
    """A binary stream over PATH (`-` is stdin; .gz and .zst are unpacked). Raises BadInput."""
    if path == "-":
        if sys.stdin is None:
            raise BadInput("-: stdin is closed")
        return sys.stdin.buffer
    try:
        if os.path.isdir(path):
            raise BadInput(f"{path}: is a directory; expected a file")
        raw = open(path, "rb", buffering=1 << 20)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    if path.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)
    if path.endswith(".zst"):
        return io.BufferedReader(_Unzstd(raw), 1 << 20)
    return raw


class _Unzstd(io.RawIOBase):
    """The frames of a .zst file one after the other; EOFError where the last one is cut off, which zstandard's own
    reader takes for the end."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: Any = None  # the one that has begun and not ended
        self._next = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import zstandard

        while not self._ready:
            block, self._next = self._next or self._raw.read(1 << 15), b""
            if not block:
                if self._frame is not None:
                    raise EOFError("the compressed data ends inside a frame")
                return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(frame.decompress(block))
            self._frame, self._next = (None, frame.unused_data) if frame.eof else (frame, b"")
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def read_text(path: str, name: str | None = None) -> str:
    """A small UTF-8 file whole, unpacked by its suffix. Raises BadInput that begins with NAME, by default PATH."""
    name = name or ("<stdin>" if path == "-" else path)
    try:
        with closing(open_read(path)) as stream:
            data = stream.read(LONGEST_LINE)
            if len(data) == LONGEST_LINE:
                raise BadInput(f"{name}: more than {LONGEST_LINE >> 20} MiB, and to be read whole")
            return data.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: expected UTF-8: {error.reason} at byte {error.start}") from None
    except Exception as error:
        if (told := unreadable(error, name)) is None:
            raise
        raise told from None


def unreadable(error: Exception, name: str) -> BadInput | None:
    """What went wrong while NAME was read or unpacked, as BadInput; None for an error of another kind."""
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, (EOFError, OSError, zlib.error)):
        return BadInput(f"{name}: cannot be read: {error}; is the file complete?")
    # zstandard raises an exception class of its own, which needs its import to be named.
    return BadInput(f"{name}: cannot be unpacked: {error}") if type(error).__name__ == "ZstdError" else None


def create(path: Path, buffering: int = -1) -> BinaryIO:
    """A new file. What is there already, left by a killed run or put there by somebody else, goes: in a folder that others
    may write to, a link of that name would have us write over what it leads to."""
    path.unlink(missing_ok=True)
    return open(path, "xb", buffering=buffering)


def open_write(path: Path, final_name: str) -> BinaryIO:
    """Create PATH for writing; the compression follows the final name's suffix."""
    if final_name.endswith(".gz"):
        # No name and no time in the header, so that the same records give the same bytes. GzipFile
        # leaves a file it was given open, so it gets one that has no buffer to lose.
        bare = create(path, buffering=0)
        return cast(BinaryIO, gzip.GzipFile(filename="", mode="wb", fileobj=bare, mtime=0))
    raw = create(path)
    if final_name.endswith(".zst"):
        import zstandard

        return zstandard.ZstdCompressor(write_checksum=True).stream_writer(raw, closefd=True)
    return raw


def read_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Non-blank lines of PATH as (1-based number, bytes). Raises BadInput naming file and line."""
    name = "<stdin>" if path == "-" else path
    number = 0
    stream = open_read(path)
    try:
        packed = path.endswith((".gz", ".zst"))
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE), b"") if packed else stream, 1):
            if packed and len(line) == LONGEST_LINE:
                raise BadInput(f"{name}:{number}: unpacks to a line of more than {LONGEST_LINE >> 20} MiB")
            if number == 1:
                line = line.removeprefix(BOM)
            if line and not line.isspace():
                yield number, line
    except Exception as error:
        if (told := unreadable(error, f"{name}:{number + 1}")) is None:
            raise
        raise told from None
    finally:
        if path != "-":
            stream.close()


def decode_line(where: str, line: bytes) -> Record:
    """One JSON value. Raises BadInput starting with WHERE."""
    try:
        return decode(line)
    except msgspec.DecodeError as error:
        raise BadInput(f"{where}: expected one JSON object a line: {error}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: expected UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadInput(f"{where}: JSON nested too deeply") from None
