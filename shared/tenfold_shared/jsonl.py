"""JSON Lines in and out: streams, record selection, journal, lock, manifest, atomic files.

Every verb that reads records opens a `Source`, every verb that writes them an `Output`, and
`flow` joins the two: it feeds requests to an executor, remembers each result in the output's
journal and writes records in input order. What a kill leaves behind is beside the output, under
names that start with a dot:

    .NAME.journal   header line (what this run is), then one `[key, result]` line per result
    .NAME.tmp       the output being written; renamed to NAME when complete
    .NAME.lock      flock of the living owner

No model code and no option parsing here.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import os
import re
import sys
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import msgspec

from tenfold_shared import BadInput, Busy, Missing, OutOfTime
from tenfold_shared import records as shapes
from tenfold_shared.progress import Progress

Record = dict[str, Any]
Located = tuple[str, Record]  # ("file:line", record)

BOM = b"\xef\xbb\xbf"  # with which some editors begin UTF-8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_entry = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode


# ---------------------------------------------------------------- streams


def open_read(path: str) -> BinaryIO:
    """A binary stream over PATH (`-` is stdin; .gz and .zst are unpacked). Raises BadInput."""
    if path == "-":
        if sys.stdin is None:
            raise BadInput("-: stdin is closed")
        return sys.stdin.buffer
    try:
        if os.path.isdir(path):
            raise BadInput(f"{path}: is a directory; expected a JSON Lines file")
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
            return stream.read().removeprefix(BOM).decode()
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


def _open_write(path: Path, final_name: str) -> BinaryIO:
    """Create PATH for writing; the compression follows the final name's suffix."""
    if final_name.endswith(".gz"):
        # No name and no time in the header, so that the same records give the same bytes. GzipFile
        # leaves a file it was given open, so it gets one that has no buffer to lose.
        bare = open(path, "wb", buffering=0)
        return cast(BinaryIO, gzip.GzipFile(filename="", mode="wb", fileobj=bare, mtime=0))
    raw = open(path, "wb")
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
        for number, line in enumerate(stream, 1):
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
        return _decode(line)
    except msgspec.DecodeError as error:
        raise BadInput(f"{where}: expected one JSON object a line: {error}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: expected UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadInput(f"{where}: JSON nested too deeply") from None


# ---------------------------------------------------------------- source


class Source:
    """The records a verb reads: one or more files or stdin, decoded, checked, selected.

    kind: record kind every record must be of (None: any JSON object; foreign formats).
    expand: turns located lines of a foreign format into located records, before selection.
    Selection order is ids, limit, shard, so that shard outputs concatenate to the whole.
    keep: stdin is first copied to a temporary file and hashed, so that the run can be named
    and continued; verbs set it when they write a file.
    """

    def __init__(
        self,
        paths: Sequence[str],
        kind: str | None,
        *,
        expand: Callable[[Iterable[Located]], Iterator[Located]] | None = None,
        ids: str | None = None,
        limit: int | None = None,
        shard: tuple[int, int] | None = None,
        skip_bad: int = 0,
        keep: bool = False,
    ) -> None:
        self.paths = list(paths) or ["-"]
        if self.paths.count("-") > 1:
            raise BadInput("-: stdin can be read once; name it a single time")
        if shard and any(path == "-" or is_pipe(path) for path in self.paths):
            raise BadInput("--shard: needs files, because the input is counted first; stdin cannot be")
        self.kind, self.expand, self.limit, self.shard, self.skip_bad = kind, expand, limit, shard, skip_bad
        self.ids = read_ids(ids) if ids else None
        self.bad = 0
        self._told = False
        self._spools: dict[str, Any] = {}
        self._hashes: dict[str, str] = {}
        for path in self.paths if keep else ():
            if path == "-" or is_pipe(path):
                self._spool(path)

    def _spool(self, path: str) -> None:
        """Copy what can be read only once: stdin, or a pipe given by name, as `<(...)` in a shell is."""
        digest = hashlib.sha256()
        spool = self._spools[path] = tempfile.NamedTemporaryFile(prefix="tenfold-stdin-")
        stream = open_read(path)
        while block := stream.read(1 << 20):
            digest.update(block)
            spool.write(block)
        spool.flush()
        self._hashes[path] = digest.hexdigest()

    def identity(self) -> list[dict[str, str]]:
        """`[{path, sha256}]` of the inputs; what makes a rerun the same run."""
        found = []
        for path in self.paths:
            if path not in self._hashes:
                open_read(path).close()  # the readable errors
                with open(path, "rb") as stream:
                    self._hashes[path] = hashlib.file_digest(stream, "sha256").hexdigest()
            found.append({"path": path, "sha256": self._hashes[path]})
        return found

    def bounds(self) -> tuple[int, int] | None:
        """Where this part begins and ends among the records of all parts, which are counted for it; None for the whole."""
        if self.shard is None:
            return None
        index, parts = self.shard
        total = sum(1 for _ in self._limited())
        self.bad = 0
        return ((index - 1) * total // parts, index * total // parts)

    def __iter__(self) -> Iterator[Located]:
        bounds = self.bounds()
        for position, located in enumerate(self._limited()):
            if bounds is None or bounds[0] <= position < bounds[1]:
                yield located
            elif position >= bounds[1]:
                return

    def count(self) -> int | None:
        """How many records there are, read ahead; None where stdin cannot be read twice."""
        if any((path == "-" or is_pipe(path)) and path not in self._spools for path in self.paths):
            return None
        total = sum(1 for _ in self)
        self.bad = 0
        return total

    def _limited(self) -> Iterator[Located]:
        taken = 0
        if self.limit == 0:
            return
        missing = set(self.ids or ())
        for where, record in self._checked():
            name = str(record.get("id"))  # in foreign forms it may be a number
            missing.discard(name)
            if self.ids is not None and name not in self.ids:
                continue
            yield where, record
            taken += 1
            if self.limit is not None and taken >= self.limit:
                return
        if self.ids is not None and (missing or not self.ids) and not self._told:
            self._told = True
            shown = ", ".join(sorted(missing)[:3]) or "it is empty"
            print(f"--ids: {len(missing)} ids are in no record: {shown}", file=sys.stderr)

    def _checked(self) -> Iterator[Located]:
        located = self._decoded()
        for where, record in self.expand(located) if self.expand else located:
            if self.kind is not None:
                try:
                    shapes.validate(record, self.kind)
                except shapes.RecordProblem as problem:
                    self._tolerate(BadInput(f"{where}: {problem}"))
                    continue
            yield where, record

    def _decoded(self) -> Iterator[Located]:
        for path in self.paths:
            name = "<stdin>" if path == "-" else path
            real = self._spools[path].name if path in self._spools else path
            for number, line in read_lines(real):
                where = f"{name}:{number}"
                try:
                    record = decode_line(where, line)
                    if not isinstance(record, dict):
                        raise BadInput(f"{where}: expected a JSON object")
                except BadInput as error:
                    self._tolerate(error)
                    continue
                yield where, record

    def _tolerate(self, error: BadInput) -> None:
        self.bad += 1
        if self.bad > self.skip_bad:
            raise error
        print(f"skipped: {error}", file=sys.stderr)


def is_pipe(path: str) -> bool:
    """Whether PATH exists and is no regular file, so that it may be readable only once."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def read_ids(path: str) -> set[str]:
    """The ids of an --ids file, one a line."""
    return {line.strip() for line in read_text(path, f"--ids {path}").splitlines() if line.strip()}


# ---------------------------------------------------------------- lock, journal, atomic file


class Lock:
    """An flock that a dead owner frees. Raises Busy when a living process holds it."""

    def __init__(self, path: Path, output: Path) -> None:
        self.path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
                raise Busy(f"{output}: another run is writing it; wait for it or choose another output") from None
            # The previous owner may have unlinked the file between our open and our lock.
            try:
                if os.stat(path).st_ino == os.fstat(self._fd).st_ino:
                    return
            except FileNotFoundError:
                pass
            os.close(self._fd)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._fd)


class Journal:
    """Append-only `[key, result]` lines after a header; a torn last line is dropped.

    Results stay on disk; memory holds one offset a key.
    """

    def __init__(self, path: Path, header: Record) -> None:
        self.path = path
        self.where: dict[str, tuple[int, int]] = {}
        self._end = 0
        if path.exists() and self._load():
            self._file = open(path, "r+b")
            self._file.truncate(self._end)
        else:
            # Written aside and renamed: a journal always has a whole header.
            fresh = path.with_name(path.name + ".new")
            fresh.write_bytes(_encode(header) + b"\n")
            os.replace(fresh, path)
            self._file = open(path, "r+b")
            self._end = os.path.getsize(path)
        self._file.seek(0, os.SEEK_END)

    @staticmethod
    def header(path: Path) -> Record | None:
        """The header of the journal at PATH, or None where there is none to trust."""
        try:
            with open(path, "rb") as stream:
                line = stream.readline()
            return _decode(line) if line.endswith(b"\n") else None
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _load(self) -> bool:
        with open(self.path, "rb") as stream:
            header = stream.readline()
            if not header.endswith(b"\n"):
                return False
            position = len(header)
            for number, line in enumerate(stream, 2):
                if not line.endswith(b"\n"):
                    break
                try:
                    key, _ = _decode_entry(line)
                except msgspec.DecodeError:
                    raise BadInput(f"{self.path}:{number}: damaged journal; --overwrite starts anew") from None
                self.where[key] = (position, len(line))
                position += len(line)
        self._end = position
        return True

    def __contains__(self, key: str) -> bool:
        return key in self.where

    def get(self, key: str) -> Any:
        offset, length = self.where[key]
        return _decode(os.pread(self._file.fileno(), length, offset))[1]

    def put(self, key: str, result: Any) -> None:
        line = _encode((key, result)) + b"\n"
        self._file.write(line)
        self._file.flush()  # to the kernel: survives our own death, which is what a kill is
        self.where[key] = (self._end, len(line))
        self._end += len(line)

    def close(self, *, remove: bool) -> None:
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write DATA, whole or in parts, beside PATH, fsync, rename: readers see the old file or the whole new one. What could
    not be written leaves nothing, and the OSError names PATH."""
    target = Path(path)
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with open(aside, "wb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(target)) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------- output

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def redact(text: str) -> str:
    """Take user:password@ out of URLs, so that no credential reaches a file we write."""
    return _USERINFO.sub("", text)


def own_stdout() -> BinaryIO:
    """A stream on a copy of stdout's descriptor: data keeps its way when an engine that prints has
    descriptor 1 sent to stderr (generate.py)."""
    if sys.stdout is None:
        raise BadInput("stdout is closed; give a file, -o FILE")
    sys.stdout.flush()
    try:
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    except (OSError, AttributeError):
        return sys.stdout.buffer  # captured by a test or a host program


class Output:
    """Where records go: stdout, or a file with journal, lock and manifest (see module text).

    options: everything that decides the output's bytes; a rerun with others is refused with the
    first difference. `finished` is True when the same command has already completed: a no-op.
    Raises Busy, BadInput (exists, other options or inputs), Missing (folder absent, disk full).
    """

    def __init__(
        self,
        path: str | None,
        *,
        tool: str,
        version: str,
        verb: str,
        options: Record,
        source: Source | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = None if path in (None, "-") else Path(str(path))
        if self.path is not None and self.path.is_symlink():
            self.path = self.path.resolve()  # replace what the link names, not the link
        self._inputs = source.identity() if source is not None and self.path is not None else []
        cleaned = _decode(redact(_encode(options).decode()).encode())
        self._identity: Record = {"tool": tool, "verb": verb, "options": cleaned, "inputs": self._inputs}
        self._version, self._overwrite = version, overwrite
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        self.finished = False
        self.journal: Journal | None = None
        self._lock: Lock | None = None
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self.path is None:
            self._stream = own_stdout()
            return self
        if not self.path.parent.is_dir():
            raise BadInput(f"{self.path}: the folder {self.path.parent} does not exist; create it first")
        if self.path.is_dir():
            raise BadInput(f"{self.path}: is a directory; -o wants a file here")
        if self.path.exists() and not self.path.is_file():
            raise BadInput(f"{self.path}: is no regular file; leave out -o and redirect stdout to it")
        if self.path.exists() and any(
            os.path.exists(entry["path"]) and os.path.samefile(entry["path"], self.path) for entry in self._inputs
        ):
            raise BadInput(f"{self.path}: is an input as well; choose another output")
        if not os.access(self.path.parent, os.W_OK):
            raise BadInput(f"{self.path}: the folder {self.path.parent} is not writable")
        self._lock = Lock(self._beside("lock"), self.path)
        try:
            self._resume_or_start()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _beside(self, suffix: str) -> Path:
        assert self.path is not None
        return self.path.with_name(f".{self.path.name}.{suffix}")

    @property
    def manifest_path(self) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + ".manifest.json")

    def _resume_or_start(self) -> None:
        assert self.path is not None
        journal = self._beside("journal")
        header = Journal.header(journal)
        # A journal is the newest truth: it exists while a run is unfinished, --overwrite or not.
        if header is not None and self._overwrite and difference(header, self._identity):
            header = None
        if header is not None:
            if found := difference(header, self._identity):
                raise BadInput(f"{self.path}: an unfinished run has {found}; repeat it or add --overwrite")
        elif self.path.exists() and not self._overwrite:
            try:
                manifest = _decode(self.manifest_path.read_bytes())
            except (FileNotFoundError, msgspec.DecodeError):
                raise BadInput(
                    f"{self.path}: exists, and no manifest says what made it; --overwrite replaces it"
                ) from None
            if found := difference(manifest, self._identity):
                raise BadInput(f"{self.path}: was made with {found}; choose another output or add --overwrite")
            self.finished = True
            return
        if header is None:
            journal.unlink(missing_ok=True)
        self.journal = Journal(journal, {**self._identity, "version": self._version})
        self._stream = _open_write(self._beside("tmp"), self.path.name)

    def write(self, record: Record) -> None:
        self.write_line(_encode(record))

    def write_line(self, line: bytes) -> None:
        """One line as it is, for the few foreign forms that are no JSON."""
        assert self._stream is not None
        self._stream.write(line + b"\n")
        if self.path is None:
            self._stream.flush()  # the next tool in the pipe may be waiting for this line

    def complete(self, done: Flow, source: Source, *, seed: int | None = None, **counts: Any) -> int:
        """Publish what `flow` wrote and return the exit code: 1 when some records failed.

        The journal stays while the same command has more to do (failed records, a larger budget).
        """
        more = done.failed > 0 or done.status != "done"
        told = {"read": done.read, "written": done.written, "failed": done.failed, "skipped_bad": source.bad}
        self.finish({**told, **counts}, seed=seed, status=done.status, keep_journal=more)
        return 1 if done.failed else 0

    def finish(
        self, counts: Record, *, seed: int | None = None, status: str = "done", keep_journal: bool = False
    ) -> None:
        """Publish the file: fsync, manifest, rename; the journal goes unless there is more to do."""
        assert self._stream is not None
        if self.path is None:
            self._stream.flush()
            return
        self._stream.close()
        self._stream = None
        temporary = self._beside("tmp")
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        manifest = {
            "schema": "manifest/1",
            **self._identity,
            "version": self._version,
            "argv": [redact(word) for word in sys.argv],
            "seed": seed,
            "counts": counts,
            "status": status,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
        }
        write_atomic(self.manifest_path, msgspec.json.format(_encode(manifest), indent=2) + b"\n")
        os.replace(temporary, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        assert self.journal is not None
        self.journal.close(remove=not keep_journal)
        self.journal = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.path is None:
            return
        try:
            with suppress(OSError):  # what is still held has no room either, where the disk is full; `error` tells
                if self._stream is not None:
                    self._stream.close()
            self._beside("tmp").unlink(missing_ok=True)
            if self.journal is not None:
                # An empty journal holds no work; leaving it would only refuse the corrected command.
                with suppress(OSError):
                    self.journal.close(remove=not self.journal.where)
        finally:
            if self._lock is not None:
                self._lock.release()
        if isinstance(error, OSError) and error.errno in _FULL:
            raise Missing(
                f"{self.path}: no space left on the disk; free some and run the same command again"
            ) from error


def difference(old: Record, new: Record) -> str | None:
    """The first difference between two run identities, in words; None when they are the same run."""
    for field in ("tool", "verb"):
        if old.get(field) != new[field]:
            return f"{field} {old.get(field)}, this one is {new[field]}"
    before, after = old.get("options", {}), new["options"]
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            return f"--{name.replace('_', '-')} {_shown(before.get(name))}, this one has {_shown(after.get(name))}"
    hashes = [entry["sha256"] for entry in old.get("inputs", [])]
    if len(hashes) != len(new["inputs"]):
        return f"{len(hashes)} input files, this one has {len(new['inputs'])}"
    for digest, entry in zip(hashes, new["inputs"], strict=True):
        if digest != entry["sha256"]:
            return f"other content of the input {entry['path']}"
    return None


def _shown(value: Any) -> str:
    return "unset" if value is None else _encode(value).decode()


# ---------------------------------------------------------------- flow


class Flow(msgspec.Struct):
    """What a run of `flow` did; `failed` counts records written with an error."""

    read: int = 0
    written: int = 0
    failed: int = 0
    status: str = "done"
    tokens: int = 0


class _Open(msgspec.Struct):
    """A record whose results are not all in yet."""

    where: str
    record: Record
    keys: list[str]
    missing: set[str]
    results: dict[str, Record]


Request = Any
Executor = Callable[[Iterator[tuple[str, Request]]], Iterator[tuple[str, Record]]]


def flow(
    source: Iterable[Located],
    *,
    identify: Callable[[Record], str],
    plan: Callable[[str, Record], Sequence[tuple[str, Request]]],
    execute: Executor,
    assemble: Callable[[Record, list[Record]], Iterable[Record]],
    out: Output,
    batch: int | None = None,
    max_time: float | None = None,
    budget: int | None = None,
    cost: Callable[[Record], int] | None = None,
    progress: Progress | None = None,
) -> Flow:
    """Run every record of `source` through `execute` and write the outcome in input order.

    identify: the record's unique key; a second one is BadInput.
    plan: (where, record) -> [(suffix, request)]; the request's key is identify(record) + suffix.
    execute: pulls (key, request) lazily, yields (key, result dict) in any order. A result with an
        `error` is not journaled, so that the same command tries it again.
    assemble: (record, results in plan order) -> records to write.
    batch: static batch size of the executor. Batches are cut from the whole sequence of requests,
        and one that is not wholly in the journal is run whole, so that a resumed run computes the
        same numbers as an unbroken one.
    max_time: seconds; then OutOfTime, the journal kept. budget: tokens by `cost`, counting those of
        the journal, so that a resumed run stops where an unbroken one does; then status `budget`.
    """
    started = time.monotonic()
    done = Flow()
    journal = out.journal
    window: deque[_Open] = deque()
    by_key: dict[str, _Open] = {}
    seen: set[int] = set()
    # An executor may pull from a thread of its own while we handle results.
    guard = threading.RLock()

    def out_of_time() -> bool:
        return max_time is not None and time.monotonic() - started >= max_time

    def emit(entry: _Open) -> None:
        results = [
            entry.results[key] if key in entry.results or journal is None else journal.get(key) for key in entry.keys
        ]
        failed = any(result.get("error") for result in results)
        done.failed += failed
        for record in assemble(entry.record, results):
            out.write(record)
            done.written += 1

    def drain() -> None:
        with guard:
            while window and not window[0].missing:
                emit(window.popleft())

    def feed() -> Iterator[tuple[str, Request]]:
        chunk: list[tuple[str, Request]] = []
        chunk_missing = False
        for where, record in source:
            name = identify(record)
            if hash(name) in seen:
                raise BadInput(f"{where}: {name}: appears twice; ids (and samples within an id) must be unique")
            seen.add(hash(name))
            requests = [(name + suffix, request) for suffix, request in plan(where, record)]
            missing = {key for key, _ in requests if journal is None or key not in journal}
            entry = _Open(where, record, [key for key, _ in requests], set(missing), {})
            with guard:
                done.read += 1
                window.append(entry)
                by_key.update((key, entry) for key in missing)
                if journal is not None and cost is not None and budget is not None:
                    done.tokens += sum(cost(journal.get(key)) for key in entry.keys if key not in missing)
            if progress is not None and len(requests) > len(missing):
                progress.update(len(requests) - len(missing))
            drain()
            for key, request in requests:
                chunk.append((key, request))
                chunk_missing |= key in missing
                if batch is None or len(chunk) == batch:
                    if chunk_missing:
                        if stop():
                            return
                        yield from chunk
                    chunk, chunk_missing = [], False
        if chunk_missing and not stop():
            yield from chunk

    def stop() -> bool:
        if out_of_time():
            done.status = "time"
        elif budget is not None and done.tokens >= budget:
            done.status = "budget"
        return done.status != "done"

    with closing(execute(feed())) as results:  # type: ignore[type-var]
        for key, result in results:
            with guard:
                entry = by_key.pop(key, None)
                if entry is None:
                    continue  # a batch that was run whole again; its result is already in the journal
                entry.results[key] = result
                entry.missing.discard(key)
                if cost is not None:
                    done.tokens += cost(result)
                if journal is not None and not result.get("error"):
                    journal.put(key, result)
            if progress is not None:
                progress.update()
            drain()
            if out_of_time():
                done.status = "time"
                break
    if done.status == "time":
        saved = (
            "the finished work is saved; run the same command again to continue"
            if journal
            else "no output file, nothing saved"
        )
        raise OutOfTime(f"--max-time: {max_time:g} s are over; {saved}")
    if done.status == "budget":
        for entry in window:
            if not entry.missing:
                emit(entry)
    elif by_key:
        raise RuntimeError(f"{next(iter(by_key))}: the executor gave no result for it")
    return done
