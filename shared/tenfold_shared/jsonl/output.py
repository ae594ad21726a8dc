"""The records a verb writes: to stdout, or to a file that appears whole, with lock, journal and manifest."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import msgspec

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl.atomic import write_atomic
from tenfold_shared.jsonl.journal import Journal
from tenfold_shared.jsonl.lock import Lock
from tenfold_shared.jsonl.source import Source
from tenfold_shared.jsonl.streams import UNDECODABLE, Record, decode, encode, open_write
from tenfold_shared.redaction import redact

if TYPE_CHECKING:
    from tenfold_shared.jsonl.flow import Flow

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def own_stdout() -> BinaryIO:
    """A stream on a copy of stdout's descriptor: data keeps its way when an engine that prints has
    descriptor 1 sent to stderr (models.py)."""
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
        cleaned = decode(redact(encode(options).decode()).encode())
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
                manifest = decode(self.manifest_path.read_bytes())
            except (FileNotFoundError, *UNDECODABLE):
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
        self._stream = open_write(self._beside("tmp"), self.path.name)

    def write(self, record: Record) -> None:
        self.write_line(encode(record))

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
        write_atomic(self.manifest_path, msgspec.json.format(encode(manifest), indent=2) + b"\n")
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


class _Input(msgspec.Struct):
    sha256: str


class _Run(msgspec.Struct):
    """What `difference` reads of a journal's header or a manifest, which may come from anywhere."""

    options: dict[str, Any] = {}
    inputs: list[_Input] = []


def difference(old: Any, new: Record) -> str | None:
    """The first difference between two run identities, in words; None when they are the same run."""
    try:
        msgspec.convert(old, _Run)
    except msgspec.ValidationError:
        return "a damaged record of its options and inputs"
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
    return "unset" if value is None else encode(value).decode()
