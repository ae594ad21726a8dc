"""Programs and processes of the tests of the environment."""

import contextlib
import os
import time
from pathlib import Path

from grpo_roc.env import isolation
from grpo_roc.env.environment import Program
from grpo_roc.env.zygote import descendants

MISSING = isolation.probe()
BOUNDED = [level for level in ("strict", "standard") if level not in MISSING]


def processes(pid=None):
    """Warm interpreters and what came from them, below a process (this one): what a program leaves is handed to its interpreter, and stays below."""
    found = set()
    for one in descendants(pid or os.getpid()):
        with contextlib.suppress(OSError):
            if b"grpo_roc.env.zygote" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.add(one)
    return found


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.02)


def known(env):
    """Its interpreters and their children, once those asked for have come."""
    found = set()
    for one in env.workers:
        with one.lock:
            while one.asked:
                one.hear()
            found |= {one.process.pid, *one.children}
    return found


def run(env, code, given="", **more):
    return env.run(Program(code, given, **more))
