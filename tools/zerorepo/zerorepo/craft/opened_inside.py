"""A plugin of pytest that harvest.py lays beside a test, in the sandbox: which files and folders of the work folder are read.

Runs inside and imports nothing of ours. An audit hook sees what Python opens, `os.open` and C-level `open` of the io module
included. A folder counts where code of the work folder lists it, not where an import looks through it. Each path is written
at once, so that a test which ends the process has told before what it read.
"""

import os
import sys

REPORT = ".zerorepo-opened"
_WORK = os.path.dirname(os.path.abspath(__file__)) + os.sep
_HERE = os.path.abspath(__file__)
_REPORT = os.open(_WORK + REPORT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_seen: set[str] = set()


def _hook(event, args):
    if event == "open":
        path, mode, flags = args
        reads = not (flags or 0) & os.O_WRONLY if mode is None else "r" in mode or "+" in mode
        if not reads:
            return
    elif event in ("os.listdir", "os.scandir"):
        path = args[0]
        if path is None:
            path = "."
        if not _by_the_tests(sys._getframe(1)):
            return
    else:
        return
    if isinstance(path, int):
        return
    try:
        whole = os.path.abspath(os.fsdecode(path))
    except (TypeError, ValueError, OSError):  # the open itself will say what is wrong
        return
    if (whole + os.sep).startswith(_WORK) and whole not in _seen and "\n" not in whole:
        _seen.add(whole)
        kind = "file" if event == "open" else "folder"
        os.write(_REPORT, os.fsencode(f"{kind} {whole[len(_WORK) :]}\n"))


def _by_the_tests(frame):
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return False
        if name.startswith(_WORK) and name != _HERE:
            return True
        frame = frame.f_back
    return False


sys.addaudithook(_hook)
