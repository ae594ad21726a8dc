"""What a tool prints while a terminal shows it: text of records, models, repositories and servers must not drive the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Control characters, and marks that turn the order of writing around. Allowed are line ends, tabs, the return of a progress bar,
# colours, and the step up by which tqdm has bars below each other.
_DRIVES = re.compile(
    r"\x1b(?!\[(?:[0-9;]*m|A))|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


class Shown:
    """A text stream whose reader is a terminal. Bytes written to its `buffer` are data, and go through as they are."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_DRIVES.sub(lambda found: ascii(found[0])[1:-1], text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def harmless() -> Iterator[None]:
    """stdout and stderr, where they are terminals, as `Shown` meanwhile."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        Shown(stream) if stream is not None and not stream.closed and stream.isatty() else stream for stream in kept
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept
