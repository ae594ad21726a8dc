"""The records a verb reads: decoded, checked, and selected by --ids, --limit and --shard."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.jsonl.streams import Located, decode_line, open_read, read_lines, read_text
from tenfold_shared.redaction import printable


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
            print(printable(f"--ids: {len(missing)} ids are in no record: {shown}"), file=sys.stderr)

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
        print(printable(f"skipped: {error}"), file=sys.stderr)


def is_pipe(path: str) -> bool:
    """Whether PATH exists and is no regular file, so that it may be readable only once."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def read_ids(path: str) -> set[str]:
    """The ids of an --ids file, one a line."""
    return {line.strip() for line in read_text(path, f"--ids {path}").splitlines() if line.strip()}
