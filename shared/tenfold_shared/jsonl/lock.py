"""The lock on an output: one run holds it, a second start ends at once with exit status 75."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tenfold_shared import Busy


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
