"""One warm interpreter and the children that it makes, from outside: a program handed to a child, its streams read, its clock kept, its end learnt.

Where it sits: above zygote.py, which it starts; below environment.py, whose threads call it. What a program may take, in time and in output, is watched from here, outside of anything that the program can
reach: it is killed through a descriptor of its process, and its process namespace ends with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from grpo_roc.env import zygote
from tenfold_shared import Missing

if TYPE_CHECKING:
    from grpo_roc.env.environment import Program, Settings

STRINGS = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
ALONE = 5  # milliseconds in which a program's end alone is waited for: most have ended then, and what a pipe holds can be read at once
PATIENCE = struct.pack("ll", 30, 0)  # for a child to take its program, as struct timeval
LINGER = 1.0  # seconds for streams that what a program left behind holds open
LINGER_CELL = 0.2
UNKILLABLE = 60.0  # seconds beyond its time in which a killed child must have ended


class Lost(Exception):
    """A warm interpreter, or a child before it had its program, is gone: the environment's fault."""


class Ended(msgspec.Struct):
    status: int
    cpu: float
    rss: int


class Played(msgspec.Struct):
    """What became of one program, as seen from outside. reason: what it was killed for; ended: None where a session goes on; code, memory: what the child said."""

    stdout: bytes
    stderr: bytes
    wall: float
    reason: str | None
    ended: Ended | None
    code: int
    memory: bool


class Child:
    """A process that waits for programs."""

    def __init__(
        self, pid: int, pidfd: int, channel: socket.socket, ends: list[int], worker: Worker, generation: int
    ) -> None:
        """ends: of its stdout and stderr, for its first program."""
        self.pid, self.pidfd, self.channel, self.ends = pid, pidfd, channel, ends
        self.worker, self.generation = worker, generation
        self.ended: Ended | None = None
        self.confined = False

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def gone(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        if self.pidfd >= 0:
            self.channel.close()
            for one in (self.pidfd, *self.ends):
                os.close(one)
            self.pidfd, self.ends = -1, []

    def hear(self) -> tuple[int, bool] | None:
        """What it has said: (exit code, out of memory) of a cell, if that. Raises Lost where it never was ready."""
        try:
            data = self.channel.recv(1 << 12, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            data = b""
        if not self.confined:
            if data[:1] != b"R":
                raise Lost(data[1:].decode("utf-8", "replace") or "a child ended before it was ready")
            self.confined, data = True, data[1:]
        if data[:1] == b"D" and len(data) > zygote.DONE.size:
            code, memory = zygote.DONE.unpack_from(data, 1)
            return code & 0xFF, memory
        return None


class Worker:
    """One zygote with its modules, and its children that wait. From any thread."""

    def __init__(self, settings: Settings, scratch: Path, preload: tuple[str, ...]) -> None:
        self.settings, self.scratch, self.preload = settings, scratch, preload
        self.folder = scratch
        self.lock = threading.RLock()
        self.children: dict[int, Child] = {}
        self.parked: deque[Child] = deque()
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.asked = 0
        self.generation = 0
        self.ended: dict[int, Ended] = {}

    # ------------------------------------------------------------ its life

    def launch(self) -> None:
        if self.generation:  # what its predecessor's programs left
            shutil.rmtree(self.folder, ignore_errors=True)
        self.generation += 1
        self.folder = self.scratch / str(self.generation)
        self.folder.mkdir(mode=0o755)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = str(Path(__file__).parents[2])
        code = "import sys; sys.path.insert(0, sys.argv[2]); from grpo_roc.env.zygote import main; main()"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, str(theirs.fileno()), package], pass_fds=[theirs.fileno()], env=STRINGS | {"LD_BIND_NOW": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
            )  # fmt: skip
        self.channel = mine
        self.asked = 0
        settings = self.settings
        mine.send(repr({
            "level": settings.level, "scratch": str(self.folder), "scratch_bytes": settings.scratch, "preload": list(self.preload), "readable": readable(), "usable": DEVICES, "package": package,
            "memory": settings.memory, "file_size": settings.file_size, "descriptors": settings.descriptors,
        }).encode())  # fmt: skip

    def ready(self) -> None:
        """Raises Missing where a layer of the level is refused, with what refused it."""
        assert self.channel is not None
        data = self.channel.recv(zygote.PACKET)
        if data != zygote.READY:
            self.lost()
            why = data[1:].decode("utf-8", "replace") if data else "its interpreter ended before it was ready"
            raise Missing(f"the code environment at level {self.settings.level}: {why}")
        self.ask(self.settings.parked)
        while self.asked:  # descriptors on their way are counted by the kernel, for all workers together
            self.hear()

    def alive(self) -> None:
        """Start it again where it has gone. Raises Missing."""
        with self.lock:
            if self.channel is None:
                if self.process is not None:
                    self.process.wait()
                self.launch()
                self.ready()

    def lost(self) -> None:
        """It has gone, and with it, by the kernel, every child."""
        with self.lock:
            if self.channel is not None:
                self.channel.close()
                self.channel = None
            for child in self.children.values():
                child.kill()
            for child in self.parked:
                child.close()
            self.children.clear()
            self.parked.clear()
            self.ended.clear()

    def stop(self) -> None:
        channel, process = self.channel, self.process
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(
                    socket.SHUT_RDWR
                )  # at which it ends its children and itself, and whoever waits for it here is woken
        if process is not None:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.lost()

    # ------------------------------------------------------------ its children

    def ask(self, wanted: int, ended: int = -1) -> None:
        assert self.channel is not None
        try:
            self.channel.send(zygote.OPS.pack(ended, wanted))
        except OSError:
            self.lost()
            raise Lost("the warm interpreter has gone") from None
        self.asked += wanted

    def hear(self) -> None:
        """One packet: a child, or a child's end. Raises Lost."""
        assert self.channel is not None
        try:
            data, descriptors = zygote.unpack(self.channel, zygote.PACKET, 4)
        except OSError:
            data, descriptors = b"", []
        if data[:1] == zygote.CHILD:
            (pid,) = zygote.BORN.unpack_from(data, 1)
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptors[1])
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, PATIENCE)
            child = self.children[pid] = Child(pid, descriptors[0], channel, descriptors[2:], self, self.generation)
            self.parked.append(child)
            self.asked -= 1
        elif data[:1] == zygote.ENDED:
            pid, status, cpu, rss = zygote.GONE.unpack_from(data, 1)
            self.ended[pid] = Ended(status, cpu, rss)
        else:
            self.lost()
            raise Lost(data[1:].decode("utf-8", "replace") or "the warm interpreter has gone")

    def take(self, *, keep: bool) -> Child:
        """A child that waits. keep: it will be held for long, so that another is made in its place at once, and not when it ends. Raises Lost and Missing."""
        with self.lock:
            self.alive()
            while True:
                while not self.parked:
                    if not self.asked:
                        self.ask(1)
                    self.hear()
                child = self.parked.popleft()
                if not child.gone():
                    break
                self.reap(child)  # killed while it waited
            if keep:
                self.fill()
            return child

    def fill(self, ended: int = -1) -> None:
        """Ask for children until enough wait or are on their way."""
        wanted = max(self.settings.parked - self.asked - len(self.parked), 0)
        if wanted or ended >= 0:
            self.ask(wanted, ended)

    def reap(self, child: Child) -> Ended:
        """A child that has ended, or has been killed. Raises Lost."""
        with self.lock:
            if child.ended is None:
                if child.generation != self.generation or self.channel is None:
                    raise Lost("the warm interpreter has gone")
                self.fill(child.pid)
                while child.pid not in self.ended:
                    self.hear()
                child.ended = self.ended.pop(child.pid)
                del self.children[child.pid]
            child.close()
            return child.ended

    def discard(self, child: Child) -> None:
        """Kill a child and be rid of it."""
        child.kill()
        with contextlib.suppress(Lost):
            self.reap(child)
        child.close()


# ---------------------------------------------------------------- a program in a child


class Capture:
    """A stream of a program, up to a limit, from the end of a pipe."""

    def __init__(self, read: int, most: int) -> None:
        self.read = read
        os.set_blocking(read, False)
        self.most, self.size, self.over = most, 0, False
        self.parts: list[bytes] = []

    def drain(self) -> bool:
        """What is there now; whether there can be more."""
        while True:
            try:
                data = os.read(self.read, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            room = self.most - self.size
            self.parts.append(data[:room])
            self.size += min(len(data), room)
            if len(data) > room:
                self.over = True
                return False


def play(child: Child, program: Program, settings: Settings, *, session: bool) -> Played:
    """One program in one child, to its end. Raises Lost."""
    timeout = settings.timeout if program.timeout is None else program.timeout
    if child.confined:
        child.hear()  # what it said out of turn
    given: list[int] = []  # what the child is to have, and we are not
    reads: list[int] = []
    try:
        if child.ends:
            reads, child.ends = child.ends, []
            if program.input:
                given.append(_text(program.input))
        else:
            given.append(_text(program.input) if program.input else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            for _ in range(2):
                read, write = os.pipe2(os.O_CLOEXEC)
                reads.append(read)
                given.append(write)
        captures = [Capture(read, settings.output) for read in reads]
        code = program.code.encode("utf-8", "surrogatepass")
        header = zygote.HEADER.pack(len(code), 1e6 if session else timeout + 1, session, program.echo)
        began = time.monotonic()
        _hand(child, header + code, given)
        while given:
            os.close(given.pop())
        return _watch(child, captures, began, timeout, session=session)
    finally:
        for one in (*given, *reads):
            os.close(one)


def _text(text: str) -> int:
    """A file in memory, at its beginning."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(text.encode("utf-8", "surrogatepass"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _hand(child: Child, data: bytes, descriptors: list[int]) -> None:
    """Raises Lost. A child that does not take what it is given (it is stopped, say) is no program's fault either."""
    try:
        sent = child.channel.sendmsg(*zygote.packet(data, descriptors)) if descriptors else child.channel.send(data)
        if sent < len(data):
            child.channel.sendall(memoryview(data)[sent:])
    except OSError as problem:
        raise Lost(f"a child did not take its program: {problem}") from None


def _watch(child: Child, captures: list[Capture], began: float, timeout: float, *, session: bool) -> Played:
    reason: str | None = None
    said: tuple[int, bool] | None = None
    open_ = {one.read: one for one in captures}
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    poll.register(child.channel, select.POLLIN)
    deadline, watched, dead = began + timeout, False, False
    while True:
        left = max(deadline + (UNKILLABLE if reason else 0) - time.monotonic(), 0) * 1000
        found = dict(poll.poll(left + 1 if watched else min(ALONE, left + 1)))
        if not watched and not found:
            watched = True
            for number in open_:
                poll.register(number, select.POLLIN)
        for number in open_.keys() & found.keys():
            if not open_[number].drain():
                poll.unregister(number)
                if open_.pop(number).over:
                    reason = reason or "output_limit"
                    child.kill()
        if child.pidfd in found:
            dead = True
            break
        if child.channel.fileno() in found:
            said = child.hear() or said
            if said is not None and session:
                break
            if found[child.channel.fileno()] & select.POLLHUP:
                poll.unregister(child.channel)  # a program has closed it; its end is learnt from its process
        if reason is None and time.monotonic() >= deadline:
            reason = "timeout"
            child.kill()
        elif reason is not None and time.monotonic() >= deadline + UNKILLABLE:
            raise Lost("a child did not end when it was killed")
    wall = time.monotonic() - began
    _rest(open_, LINGER if dead else LINGER_CELL)
    if reason is None and any(one.over for one in captures):
        reason = "output_limit"
    if dead:
        said = child.hear() or said
    code, memory = said or (1, False)
    ended = child.worker.reap(child) if dead else None
    stdout, stderr = (b"".join(one.parts) for one in captures)
    return Played(stdout, stderr, wall, reason, ended, code, memory)


def _rest(open_: dict[int, Capture], seconds: float) -> None:
    """Read streams to their ends; what holds one open after its program's end is not waited for long."""
    end = time.monotonic() + seconds
    while open_:
        for number in list(open_):
            if not open_[number].drain():
                del open_[number]
        if open_:
            poll = select.poll()
            for number in open_:
                poll.register(number, select.POLLIN)
            if not poll.poll(max(end - time.monotonic(), 0) * 1000):
                return


def readable() -> list[str]:
    """What a program may read: the interpreter, its base, libraries of the system."""
    paths = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    ]
    paths += ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"]
    return list(dict.fromkeys(os.path.realpath(path) for path in paths))
