"""A small file written whole or not at all. A stream of records goes through output.py."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tenfold_shared.jsonl.streams import create


def write_atomic(path: str | Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write DATA, whole or in parts, beside PATH, fsync, rename: readers see the old file or the whole new one. What could
    not be written leaves nothing, and the OSError names PATH."""
    target = Path(path)
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with create(aside) as stream:
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
