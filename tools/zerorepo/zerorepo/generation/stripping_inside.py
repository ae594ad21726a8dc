"""Runs in a sandbox: imports the modules that job.json names and reports what ran and what failed.

stripping.py gives this text to the sandbox's interpreter, so it uses the standard library alone. The report is written a
JSON line at a time, before anything can be raised or swallowed: `begin PATH`, `failed PATH WHY FILES`, `ran PATH NAME
LINE` of code in the package, `hit NUMBER` of a stub, `end`.
"""

import atexit
import importlib
import json
import os
import sys
import threading
import types
from typing import Any

OURS = "_zerorepo_import"


def main() -> None:
    here = os.getcwd() + "/"
    with open(here + OURS + "/job.json") as stream:
        job = json.load(stream)
    top = here + job["top"]
    report = os.open(os.environ["TMPDIR"] + "/report", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(*words: Any, dumps: Any = json.dumps, write: Any = os.write) -> None:
        write(report, dumps(words).encode() + b"\n")

    def hit(number: int) -> Exception:
        say("hit", number)
        return NotImplementedError(number)

    known = {}  # code objects by id, held so that no id is used again

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and id(frame.f_code) not in known:
            code = frame.f_code
            known[id(code)] = code
            if code.co_filename.startswith(top):
                say("ran", code.co_filename[len(top) :], code.co_qualname, code.co_firstlineno)

    ours: Any = types.ModuleType(OURS)
    ours.hit = hit
    sys.modules[OURS] = ours
    sys.path[:0] = [here + root for root in job["roots"]]
    sys.argv = [""]
    if job["profiled"]:
        threading.setprofile(profile)
        sys.setprofile(profile)
    for path, name in job["modules"]:
        say("begin", path)
        try:
            module = importlib.import_module(name)
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and not os.path.realpath(file).startswith(os.path.realpath(top) + "/"):
                raise ImportError(f"another module of that name is found first: {file}")
        except BaseException as error:  # of a module that exits, too
            way, at = [], error.__traceback__
            while at is not None:
                file = at.tb_frame.f_code.co_filename
                if file.startswith(top):
                    way.append(file[len(top) :])
                at = at.tb_next
            say("failed", path, f"{type(error).__name__}: {error}"[:300], way)
    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        say("exit", f"{type(error).__name__}: {error}"[:300])
    say("end")
    os._exit(0)  # threads that the package left waiting would hold the interpreter


main()
