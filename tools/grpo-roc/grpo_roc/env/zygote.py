"""A warm interpreter: it has imported what programs commonly import, and forks an isolated child for each program.

Run by environment.py as a process of its own, with an empty environment and one socket. It asks nothing of anyone and holds no secret: a child that got out of every layer would find nothing in it.
Children are made before they are needed and wait, confined, for a program, so that a call does not wait for a fork.

    supervisor -> zygote    {"op": "spawn"}
    zygote -> supervisor    {"op": "ready"} once; {"op": "child", "pid"} with (pidfd, socket) for each spawn; {"op": "ended", "pid", "status", "cpu", "rss"} as children end
    supervisor -> child     {"code", ...limits} with (stdin, stdout, stderr)
    child -> supervisor     {"done", "memory"} after each cell of a session, or just before a program ends for want of memory

What a child says is a program's word, and trusted for nothing but itself: whether it ended well is read from its exit status.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import gc
import io
import json
import os
import resource
import select
import signal
import socket
import sys
import types
from typing import Any

from grpo_roc.env import isolation

Record = dict[str, Any]
# What sympy imports and remembers at its first use is had once, before programs come.
WARM = """
import sympy
x, y = sympy.symbols("x y")
sympy.expand((x + 1) ** 3), sympy.factor(x**2 - 1), sympy.simplify(x / x), sympy.integrate(x * sympy.exp(x), x), sympy.diff(sympy.sin(x), x)
sympy.solve(x**2 - 2, x), sympy.solve([x + y - 3, x - y], [x, y]), sympy.factorint(360), sympy.nsimplify(0.5), sympy.Matrix([[1, 2], [3, 4]]).det(), sympy.limit(sympy.sin(x) / x, x, 0)
str(sympy.Rational(1, 3) + sympy.sqrt(2)), sympy.N(sympy.pi, 20), sympy.isprime(97), sympy.summation(x, (x, 1, 10))
"""
MESSAGE = 1 << 24  # bytes of one message at most
_exit, _suppress, _dup2, _open, _close = (
    os._exit,
    contextlib.suppress,
    os.dup2,
    os.open,
    os.close,
)  # a program may replace what the modules hold


def send(channel: socket.socket, message: Record, descriptors: list[int] | None = None) -> None:
    data = json.dumps(message).encode("utf-8", "surrogatepass")
    socket.send_fds(channel, [data], descriptors or [])


def receive(channel: socket.socket, most: int = 0) -> tuple[Record | None, list[int]]:
    """The next message; None when the other end has gone."""
    data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE, most)
    return (json.loads(data.decode("utf-8", "surrogatepass")) if data else None), list(descriptors)


# ---------------------------------------------------------------- the child


def speak(stdin: int, stdout: int, stderr: int) -> None:
    """These three become the program's standard streams."""
    for number, one in enumerate((stdin, stdout, stderr)):
        _dup2(one, number)
        _close(one)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8", errors="replace")
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with _suppress(BaseException):
            stream.flush()


def execute(code: str, space: Record, echo: bool) -> tuple[int, bool]:
    """Run a program in a namespace, printing the value of a bare last expression as a notebook would: its exit code, and whether it ran out of memory."""
    try:
        tree = ast.parse(code, "<program>")
        final = tree.body[-1] if tree.body else None
        last = None
        if echo and isinstance(final, ast.Expr):
            tree.body.pop()
            last = ast.Expression(final.value)
        exec(compile(tree, "<program>", "exec"), space)
        if last is not None:
            value = eval(compile(last, "<program>", "eval"), space)
            if value is not None:
                print(repr(value))
        return 0, False
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return int(end.code or 0) & 0xFF, False
        print(end.code, file=sys.stderr)
        return 1, False
    except MemoryError:
        tell(code)
        return 1, True
    except BaseException:
        tell(code)
        return 1, False


def tell(code: str) -> None:
    """The exception under way, as the interpreter tells it, without frames of ours."""
    import linecache
    import traceback

    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename != "<program>":
        trace = trace.tb_next
    linecache.cache["<program>"] = (len(code), None, code.splitlines(True), "<program>")
    with contextlib.suppress(BaseException):
        traceback.print_exception(kind, error, trace)


def serve_child(channel: socket.socket) -> None:
    """Wait for programs, run them, end. Never returns."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    limited = False
    send(channel, {"ready": True})  # from here on nothing that is said can make its failure the environment's
    while True:
        message, descriptors = receive(channel, 3)
        if message is None:
            _exit(0)
        if not limited:
            isolation.Limits(message["cpu"], message["memory"], message["file_size"], message["descriptors"]).apply()
            limited = True
        speak(*descriptors)
        code, memory = 1, False
        with _suppress(BaseException):
            code, memory = execute(message["code"], main.__dict__, message["echo"])
        if not message["session"]:
            with _suppress(BaseException):
                finish(channel, code, memory)
            _exit(code or 1)
        flush()
        nothing = _open(os.devnull, os.O_RDWR)
        for number in range(3):
            _dup2(nothing, number)
        _close(nothing)
        send(channel, {"done": code, "memory": memory})


def finish(channel: socket.socket, code: int, memory: bool) -> None:
    """End as an interpreter does: threads are waited for, exit handlers run, streams flushed."""
    import atexit
    import threading

    with _suppress(BaseException):
        vars(threading)["_shutdown"]()  # what the interpreter itself calls at its end
    with _suppress(BaseException):
        atexit._run_exitfuncs()
    flush()
    if memory:
        with _suppress(BaseException):
            send(channel, {"done": code, "memory": True})
    _exit(code)


# ---------------------------------------------------------------- the zygote


class Zygote:
    def __init__(self, channel: socket.socket, told: Record) -> None:
        self.channel, self.told = channel, told
        self.level: isolation.Level = told["level"]
        self.abi = isolation.landlock_abi()
        self.readable = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in told["readable"] if os.path.exists(path)]
        self.usable = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in told["usable"] if os.path.exists(path)]
        self.own_user = (
            os.geteuid() == 0 and self.level != "rlimit-only" and all(map(isolation.open_to_all, told["readable"]))
        )
        self.children: set[int] = set()

    def run(self) -> None:
        for name in self.told["preload"]:
            with contextlib.suppress(ImportError):
                __import__(name)
        if "sympy" in sys.modules:
            with contextlib.suppress(Exception):
                exec(WARM, {})
        isolation._call("prctl", isolation.PR_SET_PDEATHSIG, 9, 0, 0, 0)
        isolation._call("prctl", isolation.PR_SET_SUBREAPER, 1, 0, 0, 0)
        if self.level == "strict":
            isolation.enclose(self.told["scratch"], self.told["scratch_bytes"])
        gc.collect()
        gc.freeze()
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        send(self.channel, {"op": "ready", "pid": os.getpid()})
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                if number == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                    self.reap()
                    continue
                message, _ = receive(self.channel)
                if message is None:
                    self.end()
                elif message["op"] == "spawn":
                    self.spawn(wake, woken)

    def spawn(self, *close: int) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self.level == "strict":
            pid, pidfd = isolation.fork_isolated()
        else:
            pid = os.fork()
            pidfd = os.pidfd_open(pid) if pid else -1
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            mine.close()
            self.channel.close()
            for one in close:
                os.close(one)
            self.child(theirs)
        theirs.close()
        self.children.add(pid)
        send(self.channel, {"op": "child", "pid": pid}, [pidfd, mine.fileno()])
        os.close(pidfd)
        mine.close()

    def child(self, channel: socket.socket) -> None:
        try:
            os.setsid()
            scratch = self.told["scratch"]
            if self.level != "strict":
                scratch = os.path.join(scratch, str(os.getpid()))
                os.mkdir(scratch)
                if self.own_user:
                    os.chown(scratch, isolation.NOBODY, isolation.NOBODY)
                os.chdir(scratch)
            isolation.confine(
                self.level,
                scratch=scratch,
                size=self.told["scratch_bytes"],
                readable=self.readable,
                usable=self.usable,
                abi=self.abi,
                own_user=self.own_user,
            )
            for one in (*self.readable, *self.usable):
                os.close(one)
            os.environ.update(self.told["environment"], HOME=scratch, TMPDIR=scratch, PWD=scratch)
            sys.argv, sys.path[:] = ["<program>"], [path for path in sys.path if path != self.told["package"]]
            serve_child(channel)
        except BaseException as problem:
            with contextlib.suppress(BaseException):
                send(channel, {"broken": f"{type(problem).__name__}: {problem}"})
        os._exit(70)

    def reap(self) -> None:
        """Tell of children that ended; of others, which they left to us where nothing better bounds them, rid the machine."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.children:
                self.children.discard(pid)
                if self.level != "strict":
                    self.sweep(pid)
                cpu, rss = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
                with contextlib.suppress(OSError):
                    send(self.channel, {"op": "ended", "pid": pid, "status": status, "cpu": cpu, "rss": rss})

    def sweep(self, pid: int) -> None:
        """What a program at a lower level leaves: its folder, and processes that were handed to us."""
        import shutil

        shutil.rmtree(os.path.join(self.told["scratch"], str(pid)), ignore_errors=True)
        if self.level != "rlimit-only":
            return
        for _ in range(100):
            left = [
                one
                for one in descendants(os.getpid())
                if one not in self.children and os.getsid(one) not in self.children
            ]
            if not left:
                return
            for one in left:
                with contextlib.suppress(OSError):
                    os.kill(one, signal.SIGKILL)
            for one in left:
                with contextlib.suppress(OSError):
                    os.waitpid(one, os.WNOHANG)

    def end(self) -> None:
        for pid in self.children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)


def descendants(pid: int) -> list[int]:
    """Processes below one, by /proc: children are listed by the thread that made them."""
    found, look = [], [pid]
    while look:
        one = look.pop()
        below: list[int] = []
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children") as stream:
                    below += [int(word) for word in stream.read().split()]
        found += below
        look += below
    return found


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    told, _ = receive(channel)
    if told is None:
        os._exit(0)
    try:
        Zygote(channel, told).run()
    except BaseException as problem:
        with contextlib.suppress(BaseException):
            send(channel, {"op": "failed", "why": f"{type(problem).__name__}: {problem}"})
        os._exit(70)
