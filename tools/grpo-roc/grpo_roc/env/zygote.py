"""A warm interpreter: it has imported what programs commonly import, and forks an isolated child for each program.

Run by worker.py as a process of its own, with an empty environment and one socket. It asks nothing of anyone and holds no secret: a child that got out of every layer would find nothing in it.
Children are made before they are needed and wait, confined, for a program, so that a call does not wait for a fork. What a child needs is made ready here before the fork: each page that a child writes to must be
copied for it, which costs more than all else.

    supervisor -> zygote    told once, as a literal; then packets of OPS: children to reap (pid, -1 for none) and how many to make
    zygote -> supervisor    READY once, or FAILED and why; CHILD pid, with (pidfd, socket, ends of its stdout and stderr), for each made; ENDED pid, status, cpu, rss for each reaped
    supervisor -> child     a header (length of the code, seconds of processor time, whether of a session, whether to echo) and the code, with stdin where there is any (or, from a session's second cell on, stdin, stdout and stderr)
    child -> supervisor     R when it is confined, or B and what went wrong; D, exit code, out of memory: after each cell of a session, or just before a program ends for want of memory

What a child says is a program's word, and trusted for nothing but itself: whether it ended well is read from its exit status.
"""

from __future__ import annotations

import _socket
import _thread
import ast
import atexit
import builtins
import contextlib
import errno
import gc
import io
import itertools
import linecache
import os
import select
import signal
import struct
import sys
import threading
import time
import traceback
import types

from grpo_roc.env import isolation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterator
    from typing import Any

    Record = dict[str, Any]
OPS = struct.Struct("<ii")
READY, FAILED, CHILD, ENDED = b"R", b"F", b"C", b"E"
BORN, GONE = struct.Struct("<i"), struct.Struct("<iidq")
HEADER, DONE = struct.Struct("<Qd??"), struct.Struct("<i?")
PACKET, PIECE = 1 << 16, 1 << 13
CLEANING = 0.05  # seconds at a time
REFUSALS = 200  # tenths of a second in which there may be room for a process again
REHEARSALS = 20  # the interpreter specialises what has run a few times
# What these import and remember at their first use is had once, before programs come.
WARM = {
    "numpy": """
import numpy
numpy.linalg.det(numpy.eye(3)), numpy.arange(6).reshape(2, 3) @ numpy.ones(3), str(numpy.arange(3) / 2)
""",
    "sympy": """
import sympy
x, y = sympy.symbols("x y")
sympy.expand((x + 1) ** 3), sympy.factor(x**2 - 1), sympy.simplify(x / x), sympy.integrate(x * sympy.exp(x), x), sympy.diff(sympy.sin(x), x)
sympy.solve(x**2 - 2, x), sympy.solve([x + y - 3, x - y], [x, y]), sympy.factorint(360), sympy.nsimplify(0.5), sympy.Matrix([[1, 2], [3, 4]]).det(), sympy.limit(sympy.sin(x) / x, x, 0)
str(sympy.Rational(1, 3) + sympy.sqrt(2)), sympy.N(sympy.pi, 20), sympy.isprime(97), sympy.summation(x, (x, 1, 10))
""",
}
# Of the C library, for a warm interpreter alone: what the loader does at the first call of a function is done, and threads have no arenas of their own, each of which takes 64 MiB of the address space.
LOADER = {"LD_BIND_NOW": "1", "MALLOC_ARENA_MAX": "1"}
_exit, _suppress, _dup2, _open, _close = (
    os._exit,
    contextlib.suppress,
    os.dup2,
    os.open,
    os.close,
)  # a program may replace what the modules hold


def rights(descriptors: list[int]) -> list[tuple[int, int, bytes]]:
    """Descriptors, for sendmsg."""
    if not descriptors:
        return []
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]


def unpack(channel: socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """One packet, or the beginning of a stream, with descriptors; b"" when the other end has gone."""
    data, extra, _, _ = channel.recvmsg(size, _socket.CMSG_SPACE(4 * most), _socket.MSG_CMSG_CLOEXEC)
    found: list[int] = []
    if not extra:
        return data, found
    for level, kind, words in extra:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            found += struct.unpack(f"{len(words) // 4}i", words[: len(words) // 4 * 4])
    return data, found


# ---------------------------------------------------------------- the child


def streams() -> None:
    """sys.stdin and the others on descriptors 0, 1 and 2."""
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


def removal(folder: str) -> Iterator[None]:
    """Removes a folder and all below it, whatever its modes and however deep, a little at each step: the folders in it are first moved to beside it. What cannot be removed stays."""
    made, done = 1, 0
    while done < made:
        one = f"{folder}.{done}" if done else folder
        done += 1
        gone = True
        while gone:
            gone = False
            with contextlib.suppress(OSError):
                os.chmod(one, 0o700)
                with os.scandir(one) as listed:
                    entries = list(itertools.islice(listed, 100))
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            os.chmod(entry.path, 0o700)
                            os.rename(entry.path, f"{folder}.{made}")
                            made += 1
                        else:
                            os.unlink(entry.path)
                        gone = True
            yield
        with contextlib.suppress(OSError):
            os.rmdir(one)


def remove(folder: str) -> None:
    for _ in removal(folder):
        pass


def tell(code: str) -> None:
    """The exception under way, as the interpreter tells it, without frames of ours."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename != "<program>":
        trace = trace.tb_next
    linecache.cache["<program>"] = (len(code), None, code.splitlines(True), "<program>")
    with contextlib.suppress(BaseException):
        traceback.print_exception(kind, error, trace)


def serve_child(channel: socket, main: types.ModuleType, limits: isolation.Limits) -> None:
    """Wait for programs, run them, end. Never returns."""
    first = True
    channel.send(b"R")  # from here on nothing that is said can make its failure the environment's
    while True:
        data, descriptors = unpack(channel, PIECE, 3)
        while data and len(data) < HEADER.size:
            data += channel.recv(HEADER.size - len(data))
        if not data:
            _exit(0)
        length, cpu, session, echo = HEADER.unpack_from(data)
        code: bytes | bytearray = data[HEADER.size :]
        if len(code) < length:
            code = rest(channel, code, length)
        if first:
            limits.apply(cpu)
        elif len(descriptors) < 3:
            _exit(70)  # earlier cells hold all that there may be: what this one prints would be lost
        for number, one in enumerate(descriptors):
            _dup2(one, number)
            _close(one)
        if not first:
            streams()  # what a cell did to them is its own
        first = False
        ended, memory = 1, False
        with _suppress(BaseException):
            ended, memory = execute(code.decode("utf-8", "surrogatepass"), main.__dict__, echo)
        if not session:
            with _suppress(BaseException):
                finish(channel, ended, memory)
            _exit(ended or 1)
        flush()
        nothing = _open(os.devnull, os.O_RDWR)
        for number in range(3):
            _dup2(nothing, number)
        if nothing > 2:  # it is one of them where a cell has closed that
            _close(nothing)
        channel.send(b"D" + DONE.pack(ended, memory))


def rest(channel: socket, begun: bytes | bytearray, length: int) -> bytearray:
    """A program of `length` bytes that is longer than a piece."""
    code = bytearray(length)
    code[: len(begun)] = begun
    at, view = len(begun), memoryview(code)
    while at < length:
        got = channel.recv_into(view[at:])
        if not got:
            _exit(0)
        at += got
    return code


def finish(channel: socket, code: int, memory: bool) -> None:
    """End as an interpreter does: threads are waited for, exit handlers run, streams flushed."""
    with _suppress(BaseException):
        if _thread._count() or "concurrent.futures" in sys.modules:
            vars(threading)["_shutdown"]()  # what the interpreter itself calls at its end
    with _suppress(BaseException):
        if atexit._ncallbacks():
            atexit._run_exitfuncs()
    flush()
    if memory:
        with _suppress(BaseException):
            channel.send(b"D" + DONE.pack(code, True))
    _exit(code)


# ---------------------------------------------------------------- the zygote


def rehearse() -> None:
    """Programs of a few kinds run here, their output to nowhere: what the interpreter keeps of code that it has run (specialised instructions, caches of attributes) is then had by every child, which
    would write it to memory of its own."""
    for _ in range(REHEARSALS):
        space: Record = {"__builtins__": builtins}
        execute(
            "import math\nx = [k * k for k in range(3)]\ndef f(a):\n    return a + 1\nprint(f(x[-1]), math.sqrt(2), f'{1.5:.2f}')\n1",
            space,
            True,
        )
        execute("print(1)", space, False)
        execute("1 / 0", space, False)
        flush()


class Zygote:
    def __init__(self, channel: socket, told: Record) -> None:
        self.channel, self.told = channel, told
        self.level: str = told["level"]
        self.folder = ""
        self.folders: dict[int, str] = {}
        self.left = [removal(told["left"])] if told["left"] else []

    def run(self) -> None:
        for name in self.told["preload"]:
            with contextlib.suppress(ImportError):
                __import__(name)
        for name, code in WARM.items():
            if name in sys.modules:
                exec(code, {})
        readable, usable = self.told["readable"], self.told["usable"]
        reached = isolation.read_by_all if self.level == "strict" else isolation.open_to_all
        own_user = os.geteuid() == 0 and self.level != "rlimit-only" and all(map(reached, readable))
        os.umask(0o022)
        maps = open("/proc/self/maps")  # which level strict hides
        self.confinement = isolation.Confinement(
            self.level, self.told["scratch"], self.told["scratch_bytes"], readable, usable, own_user
        )
        self.main = types.ModuleType("__main__")
        self.main.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = self.main
        if self.level == "strict":
            vars(threading.main_thread())["_native_id"] = 1  # as it will be in children
        told = self.told
        self.limits = isolation.Limits(told["memory"], told["file_size"], told["descriptors"], told["threads"])
        sys.argv, sys.path[:] = ["<program>"], [path for path in sys.path if path != self.told["package"]]
        ends = os.pipe()
        for number in (1, 2):  # on pipes, as in children: what can be sought is asked once
            os.dup2(ends[1], number)
        streams()
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):  # at level strict it is of a file system whose modes cannot be changed
            os.dup2(self.null, number)
        for one in ends:
            os.close(one)
        rehearse()
        for name in LOADER:
            os.environ.pop(name, None)
        gc.collect()
        gc.freeze()
        with maps:
            isolation.gather(maps.read())
        self.channel.send(READY)
        while True:
            while self.left and not select.select([self.channel], [], [], 0)[0]:
                self.clean()
            data = self.channel.recv(PACKET)
            if not data:
                self.end()
            for ended, wanted in OPS.iter_unpack(data):
                if ended >= 0:
                    self.reap(ended)
                for _ in range(wanted):
                    self.spawn()

    def reseed(self) -> None:
        """What would differ between fresh interpreters must differ between children."""
        for name, size in (("random", 16), ("numpy.random", 4)):
            if name in sys.modules:
                vars(sys.modules[name])["seed"](int.from_bytes(os.urandom(size)))

    def spawn(self) -> None:
        mine, theirs = _socket.socketpair()
        ends = []
        for number in (1, 2):  # the child finds its streams in place
            read, write = os.pipe()
            os.dup2(write, number)
            os.close(write)
            ends.append(read)
        folder = self.confinement.prepare()
        if folder != self.folder:
            self.folder = folder
            os.environ.update(dict.fromkeys(("HOME", "TMPDIR", "PWD"), folder))
        self.reseed()
        pid, pidfd = self.fork()
        if pid == 0:
            self.child(theirs, [mine.fileno(), self.channel.fileno(), self.null, *ends])
        self.confinement.after()
        self.folders[pid] = folder
        for number in (1, 2):
            os.dup2(self.null, number)
        self.channel.sendmsg([CHILD + BORN.pack(pid)], rights([pidfd, mine.fileno(), *ends]))
        for one in (pidfd, *ends):
            os.close(one)
        mine.close()
        theirs.close()

    def fork(self) -> tuple[int, int]:
        """Where there is no room for another process the ones that take it have their time to end: a program that takes it must not end this interpreter, and with it what others run."""
        for _ in range(REFUSALS):
            try:
                return isolation.fork(self.level)
            except isolation.Refused as problem:
                if problem.errno not in (errno.EAGAIN, errno.ENOMEM):
                    raise
            time.sleep(0.1)
        return isolation.fork(self.level)

    def child(self, channel: socket, others: list[int]) -> None:
        try:
            for one in others:
                os.close(one)
            if self.level != "strict":
                os.setsid()  # by which what it leaves is known
                vars(threading.main_thread())["_native_id"] = os.getpid()
            self.confinement.enter()
            serve_child(channel, self.main, self.limits)
        except BaseException as problem:
            with contextlib.suppress(BaseException):
                channel.send(f"B{type(problem).__name__}: {problem}".encode()[:500])
        os._exit(70)

    def reap(self, pid: int) -> None:
        """A child that has ended, and what it left."""
        _, status, usage = os.wait4(pid, 0)
        folder = self.folders.pop(pid)
        if self.level != "strict":
            self.sweep(folder)
        cpu, rss = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        self.channel.send(ENDED + GONE.pack(pid, status, cpu, rss))

    def sweep(self, folder: str) -> None:
        """What a program at a lower level leaves: its folder, and processes that were handed to us."""
        try:
            os.rmdir(folder)  # most have left nothing
        except OSError:
            self.left.append(removal(folder))
        self.clean()
        if self.level != "rlimit-only":
            return
        for _ in range(100):
            left = [one for one in descendants(os.getpid()) if not {one, session_of(one)} & self.folders.keys()]
            if not left:
                return
            for one in left:
                with contextlib.suppress(OSError):
                    os.kill(one, signal.SIGKILL)
            for one in left:
                with contextlib.suppress(OSError):
                    os.waitpid(one, os.WNOHANG)

    def clean(self) -> None:
        """Remove what programs have left, the last first, but not for long: they may leave more than can be removed while others wait."""
        until = time.monotonic() + CLEANING
        while self.left and time.monotonic() < until:
            if next(self.left[-1], self) is self:
                self.left.pop()

    def end(self) -> None:
        for pid in self.folders:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)


def session_of(pid: int) -> int:
    """Its session, which is a child of ours and all that it began; -1 for one that has gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return -1


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
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, int(sys.argv[1]))
    told = channel.recv(PACKET)
    if not told:
        os._exit(0)
    try:
        Zygote(channel, ast.literal_eval(told.decode())).run()
    except BaseException as problem:
        with contextlib.suppress(BaseException):
            channel.send(FAILED + f"{type(problem).__name__}: {problem}".encode()[:1000])
        os._exit(70)
