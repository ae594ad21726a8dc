"""A host that holds canaries: after each hostile program they are hashed again, and no process may carry the marker."""

import hashlib
import os
import sys
import textwrap
import uuid
from collections.abc import Sequence
from pathlib import Path

from tenfold_shared.sandbox import Limits, Outcome, run

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = Limits(wall_s=20, memory_mb=512, disk_mb=16)
# What programs may use of us: an attempt, as the name of the error it met.
PRELUDE = """
import ctypes, errno, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, *args, **more):
    try:
        what(*args, **more)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done"
def spread():
    # A fork; but where a limit is broken, the machine's other users are to keep their process numbers.
    return attempt(os.fork) if len(os.listdir("/proc")) < 2000 else time.sleep(60)
def call(number, *args):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(one) for one in args])
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
"""


def tree_hash(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)} {path.lstat().st_mode} {path.lstat().st_size}".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def carriers(marker: str) -> list[str]:
    """Processes that have the marker in their environment or arguments, ourselves aside."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                told = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in told:
                found.append(told.replace(b"\0", b" ").decode(errors="replace"))
    return found


class Host:
    """The machine outside, of which we know what it must stay."""

    def __init__(self, folder: Path):
        self.canary = folder / "canary"
        self.canary.mkdir()
        (self.canary / "secret.txt").write_text("CANARY-CONTENT")
        (self.canary / "sub").mkdir()
        (self.canary / "sub" / "tool.py").write_text("x = 1\n")
        self.marker = f"mark-{uuid.uuid4().hex}"
        self.before = tree_hash(self.canary)

    def run(
        self,
        code: str,
        *,
        files: dict[str, bytes] | None = None,
        collect: Sequence[str] = (),
        limits: Limits = QUICK,
        unsafe: bool = False,
    ) -> Outcome:
        argv = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), self.marker, str(self.canary), str(REPOSITORY)]
        return run(argv, files=files, collect=collect, limits=limits, env={"MARK": self.marker}, unsafe=unsafe)

    def check(self) -> None:
        assert tree_hash(self.canary) == self.before
        assert carriers(self.marker) == []
