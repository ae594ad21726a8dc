"""Progress on stderr: a tqdm bar on a terminal, one plain line every 30 s elsewhere.

Used by the verbs of every tool; stdout is never touched.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
PLAIN_EVERY_S = 30.0


class Progress:
    """Counts finished items. `total` may be None (unknown); `quiet` prints nothing at all."""

    def __init__(self, label: str, total: int | None = None, unit: str = "it", quiet: bool = False) -> None:
        self.label, self.total, self.unit, self.quiet = label, total, unit, quiet
        self.done = 0
        self._started = self._spoke = time.monotonic()
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, unit=unit, file=sys.stderr, leave=False)

    def update(self, n: int = 1) -> None:
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
            return
        now = time.monotonic()
        if not self.quiet and now - self._spoke >= PLAIN_EVERY_S:
            self._spoke = now
            of = f"/{self.total}" if self.total is not None else ""
            rate = self.done / max(now - self._started, 1e-9)
            print(f"{self.label}: {self.done}{of} {self.unit}, {rate:.1f}/s", file=sys.stderr, flush=True)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, each counted as it is handed on."""
        for item in items:
            yield item
            self.update()

    def note(self, line: str) -> None:
        """One line that must not tear the bar; warnings show even under --quiet."""
        if self._bar is not None:
            self._bar.clear()
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
