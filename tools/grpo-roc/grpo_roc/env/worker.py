"""One warm interpreter and the children that it makes, from outside: a program handed to a child, its streams read, its clock kept, its end learnt.

Where it sits: above zygote.py, which it starts; below environment.py, whose threads call it. What a program may take, in time and in output, is watched from here, outside of anything that the program can
reach: it is killed through a descriptor of its process, and its process namespace ends with it.
"""

from __future__ import annotations

import contextlib
import os
import select
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
PATIENCE = 30.0  # seconds for a child to take its program, for a warm interpreter to answer
LINGER = 1.0  # seconds for streams that what a program left behind holds open
GONE = 50  # children found ended, one after the other, before it is no chance
GRACE = 2.0  # seconds for a warm interpreter to end
# A program's; strict ones are counted by themselves, others with all that the user runs.
THREADS = {"strict": 1 << 12, "standard": 1 << 14, "rlimit-only": 1 << 14}
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
    """A process that waits for programs. Whoever plays a program in it, or discards it, closes it; others may kill it."""

    def __init__(
        self, pid: int, pidfd: int, channel: socket.socket, ends: list[int], worker: Worker, generation: int
    ) -> None:
        """ends: of its stdout and stderr, for its first program."""
        self.pid, self.pidfd, self.channel, self.ends = pid, pidfd, channel, ends
        self.worker, self.generation = worker, generation
        self.ended: Ended | None = None
        self.confined = False
        self.used = False  # whether it has had a program
        self.lock = threading.Lock()  # of pidfd: its number may be another process's once it is closed

    def send(self, number: int) -> None:
        """A signal."""
        with self.lock:
            if self.pidfd >= 0:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def gone(self) -> bool:
        return readable_within(self.pidfd, 0)

    def close(self) -> None:
        with self.lock:
            pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            self.channel.close()
            for one in (pidfd, *self.ends):
                os.close(one)
            self.ends = []

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
        self.stopped = False

    # ------------------------------------------------------------ its life

    def launch(self) -> None:
        """Start it; with the lock held. Raises Missing and OSError."""
        if self.stopped:
            raise Missing("the environment has ended")
        left = str(self.folder) if self.generation else ""  # by its predecessor's programs
        if self.settings.level == "strict" and left:
            zygote.remove(left)  # nothing; a strict interpreter would not find it
            left = ""
        self.generation += 1
        self.folder = self.scratch / str(self.generation)
        folder(self.folder)
        package = str(Path(__file__).parents[2])
        code = "import sys; sys.path.insert(0, sys.argv[2]); from grpo_roc.env.zygote import main; main()"
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-s", "-P", "-c", code, str(theirs.fileno()), package], pass_fds=[theirs.fileno()], env=STRINGS | zygote.LOADER, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
                )  # fmt: skip
        except BaseException:
            mine.close()
            raise
        self.channel = mine
        self.asked = 0
        settings = self.settings
        mine.send(repr({
            "level": settings.level, "scratch": str(self.folder), "scratch_bytes": settings.scratch, "preload": list(self.preload), "readable": readable(), "usable": DEVICES, "package": package,
            "memory": settings.memory, "file_size": settings.file_size, "descriptors": settings.descriptors, "threads": THREADS[settings.level], "left": left,
        }).encode())  # fmt: skip

    def ready(self) -> None:
        """Once it is started, with the lock held. Raises Missing where a layer of the level is refused, with what refused it, and Lost."""
        assert self.channel is not None
        try:
            data = self.channel.recv(zygote.PACKET)
        except ConnectionError:  # it ended before it had read what it was told
            data = b""
        if data != zygote.READY:
            self.lost()
            why = data[1:].decode("utf-8", "replace") if data else "its interpreter ended before it was ready"
            raise Missing(f"the code environment at level {self.settings.level}: {why}")
        self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(PATIENCE), 0))
        self.ask(self.settings.parked)
        while self.asked:  # descriptors on their way are counted by the kernel, for all workers together
            self.hear()

    def alive(self) -> None:
        """Start it again where it has gone. Raises Missing, Lost and OSError."""
        with self.lock:
            if self.channel is None:
                if self.process is not None:
                    self.process.wait()
                self.launch()
                self.ready()

    def lost(self) -> None:
        """It has gone, or no longer answers, and with it, by the kernel, goes every child."""
        with self.lock:
            if self.channel is not None:
                self.channel.close()
                self.channel = None
            if self.process is not None:
                self.process.kill()
            for child in self.children.values():
                child.kill()
            for child in self.parked:
                child.close()
            self.children.clear()
            self.parked.clear()
            self.ended.clear()

    def part(self) -> None:
        """At this it ends its children and itself, and whoever waits for it here is woken. It is not started again."""
        self.stopped = True
        channel = self.channel
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.part()
        while not self.lock.acquire(timeout=0.05):  # whoever has it may just have started another
            self.part()
        try:
            if self.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(GRACE)
            self.lost()
            if self.process is not None:
                self.process.wait()
        finally:
            self.lock.release()

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
            if len(descriptors) < 4:
                for one in descriptors:
                    os.close(one)
                self.lost()
                raise Lost("no descriptors are left (ulimit -n)")
            (pid,) = zygote.BORN.unpack_from(data, 1)
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptors[1])
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
        """A child that waits. keep: it will be held for long, so that another is made in its place at once, and not when it ends. Raises Lost, Missing and OSError."""
        with self.lock:
            self.alive()
            for _ in range(GONE):
                while not self.parked:
                    if not self.asked:
                        self.ask(1)
                    self.hear()
                child = self.parked.popleft()
                try:
                    if not child.gone():
                        if keep:
                            self.fill()
                        return child
                    self.reap(child)  # killed while it waited
                except BaseException:
                    child.close()
                    raise
            raise Lost("children end before they have a program")

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
    """One program in one child, to its end. Raises Lost and OSError."""
    timeout = settings.timeout if program.timeout is None else program.timeout
    if session and not child.confined:
        readable_within(child.channel.fileno(), PATIENCE)
        child.hear()
    elif child.used:
        child.hear()  # what it said out of turn
        child.send(signal.SIGCONT)
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
        refusal = _hand(child, header + code, given, began + (timeout if child.used else PATIENCE))
        if refusal:
            if not child.used:
                raise Lost(f"a child did not take its program: {refusal}")
            child.kill()  # by what earlier cells did to it
        child.used = True
        while given:
            os.close(given.pop())
        return _watch(child, captures, began, timeout, refusal, session=session)
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


def _hand(child: Child, data: bytes, descriptors: list[int], until: float) -> str | None:
    """Give a child its program; what became of it (as a status) where it has gone or, until then, did not take it."""
    left = memoryview(data)
    told = zygote.rights(descriptors)
    while left:
        try:
            left = left[child.channel.sendmsg([left], told, socket.MSG_DONTWAIT) :]
            told = []
        except BlockingIOError:
            poll = select.poll()
            poll.register(child.channel, select.POLLOUT)
            if not poll.poll(max(until - time.monotonic(), 0) * 1000):
                return "timeout"
        except ConnectionError:
            return "killed"
    return None


def _watch(
    child: Child, captures: list[Capture], began: float, timeout: float, reason: str | None, *, session: bool
) -> Played:
    """reason: what it is killed for already."""
    said: tuple[int, bool] | None = None
    open_ = {one.read: one for one in captures}
    pidfd, channel = child.pidfd, child.channel.fileno()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if session:  # one-shot programs have nothing to say that cannot wait for their end
        poll.register(channel, select.POLLIN)
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
        if pidfd in found:
            dead = True
            break
        if channel in found:
            said = child.hear()
            if said is not None:
                break
            poll.unregister(channel)
            child.kill()  # it said what no cell says, or can say no more
        if reason is None and time.monotonic() >= deadline:
            reason = "timeout"
            child.kill()
        elif reason is not None and time.monotonic() >= deadline + UNKILLABLE:
            raise Lost("a child did not end when it was killed")
    wall = time.monotonic() - began
    ended: Ended | None = None
    if dead:
        said = child.hear() or said
        ended = child.worker.reap(child)  # and with it what it left, and what it sent us that holds its streams open
        _rest(open_, LINGER)
    else:
        child.send(signal.SIGSTOP)  # until its next cell: nothing of it runs on
        for one in open_.values():
            one.drain()
    if reason is None and any(one.over for one in captures):
        reason = "output_limit"
    code, memory = said or (1, False)
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


def readable_within(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def folder(path: Path) -> None:
    """Make it, and what it is in, for any user to enter, whatever our own mask."""
    if not path.parent.exists():
        folder(path.parent)
    path.mkdir()
    path.chmod(0o755)


def readable() -> list[str]:
    """What a program may read: the interpreter, its base, libraries of the system; by their names and by what those are links to."""
    paths = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    ]
    paths += ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"]
    return list(dict.fromkeys(one for path in paths for one in (path, os.path.realpath(path))))
