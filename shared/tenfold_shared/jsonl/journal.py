"""What a run has finished so far, on disk, from which the same command goes on after a kill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.jsonl.streams import UNDECODABLE, Record, create, decode, encode

_decode_entry = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode


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
            with create(fresh) as stream:
                stream.write(encode(header) + b"\n")
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
            found = decode(line) if line.endswith(b"\n") else None
        except (FileNotFoundError, *UNDECODABLE):
            return None
        return found if isinstance(found, dict) else None

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
                except UNDECODABLE:
                    raise BadInput(f"{self.path}:{number}: damaged journal; --overwrite starts anew") from None
                self.where[key] = (position, len(line))
                position += len(line)
        self._end = position
        return True

    def __contains__(self, key: str) -> bool:
        return key in self.where

    def get(self, key: str) -> Any:
        offset, length = self.where[key]
        try:
            return decode(os.pread(self._file.fileno(), length, offset))[1]
        except UNDECODABLE:
            raise BadInput(f"{self.path}: {key}: damaged journal; --overwrite starts anew") from None

    def put(self, key: str, result: Any) -> None:
        line = encode((key, result)) + b"\n"
        self._file.write(line)
        self._file.flush()  # to the kernel: survives our own death, which is what a kill is
        self.where[key] = (self._end, len(line))
        self._end += len(line)

    def close(self, *, remove: bool) -> None:
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)
