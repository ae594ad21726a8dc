"""Items by group, in memory that does not grow with their number: what `dser report` reads a log of any length through.

A log holds its problems' steps as they came, a problem's own far apart. Beyond `held` items they go to a temporary
file, sorted by group, and are merged from there; the file has no name, so that nothing of it outlives the process.
"""

from __future__ import annotations

import heapq
import operator
import os
import struct
import tempfile
import types
from collections.abc import Iterator
from typing import IO, Generic, TypeVar

import msgspec

from tenfold_shared import Missing

Item = TypeVar("Item", bound=msgspec.Struct)
HELD = 1 << 15
_HEAD = struct.Struct("<QQQ")  # the group's place, bytes that follow


class Groups(Generic[Item]):
    """`add` items, then iterate once: (group, its items in the order of adding), groups by place and then by which came
    first.

    kind: a msgspec Struct that msgpack can carry. In memory: `held` items, the names of the groups, and one group's
    items at a time. Raises Missing where the temporary folder is full.
    """

    def __init__(self, kind: type[Item], held: int = HELD) -> None:
        self._most = held
        self._places: dict[str, tuple[int, int]] = {}  # and by order of coming
        self._held: dict[str, list[Item]] = {}
        self._count = 0
        self._file: IO[bytes] | None = None
        self._runs: list[tuple[int, int]] = []  # where each begins and ends
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(types.GenericAlias(list, (kind,))).decode

    def add(self, name: str, item: Item, place: int = 0) -> bool:
        """True for the first of its group, whose `place` is the group's."""
        first = False
        held = self._held.get(name)
        if held is None:
            first = name not in self._places
            if first:
                self._places[name] = (place, len(self._places))
            self._held[name] = [item]
        else:
            held.append(item)
        self._count += 1
        if self._count >= self._most:
            self._spill()
        return first

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=1 << 18)
        start = self._file.tell()
        try:
            for name in sorted(self._held, key=self._places.__getitem__):
                block = self._encode(self._held.pop(name))
                self._file.write(_HEAD.pack(*self._places[name], len(block)))
                self._file.write(block)
            self._file.flush()
        except OSError as error:
            raise Missing(
                f"{tempfile.gettempdir()}: cannot be written ({error.strerror}); free some space there, or set TMPDIR"
            ) from error
        self._runs.append((start, self._file.tell()))
        self._count = 0

    def __iter__(self) -> Iterator[tuple[str, list[Item]]]:
        try:
            heads = [(place, at) for at in range(len(self._runs)) if (place := self._next(at)) is not None]
            heapq.heapify(heads)
            for name, place in sorted(self._places.items(), key=operator.itemgetter(1)):
                items: list[Item] = []
                while heads and heads[0][0] == place:
                    at = heads[0][1]  # of one group, the earliest run first
                    items += self._take(at)
                    following = self._next(at)
                    if following is None:
                        heapq.heappop(heads)
                    else:
                        heapq.heapreplace(heads, (following, at))
                yield name, items + self._held.pop(name, [])
        finally:
            if self._file is not None:
                self._file.close()

    def _next(self, at: int) -> tuple[int, int] | None:
        """The place of the next block's group in run `at`."""
        start, end = self._runs[at]
        return _HEAD.unpack(self._read(start, _HEAD.size))[:2] if start < end else None

    def _take(self, at: int) -> list[Item]:
        start, end = self._runs[at]
        *_, size = _HEAD.unpack(self._read(start, _HEAD.size))
        self._runs[at] = (start + _HEAD.size + size, end)
        return self._decode(self._read(start + _HEAD.size, size))

    def _read(self, start: int, size: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file.fileno(), size, start)
