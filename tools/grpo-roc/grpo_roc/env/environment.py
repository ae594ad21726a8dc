"""The environment: programs in, what became of them out.

    with Environment(workers=2) as env:
        env.run(Program("print(6 * 7)")).stdout

Where it sits: above zygote.py, which it starts, one for each worker; below exec.py and serve.py. The clock of a program, the size of its output and its end are watched from here, outside of anything that
the program can reach: it is killed through a descriptor of its process, and its process namespace ends with it. A program that failed by no fault of its own (its warm interpreter was killed, say) is tried
again, and never counted against it. One thread runs the event loop; `run` may be called from any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import msgspec

from grpo_roc.env import zygote
from grpo_roc.env.isolation import Level
from tenfold_shared import Missing

PRELOAD = ("math", "cmath", "fractions", "decimal", "itertools", "functools", "collections", "random", "re", "json", "statistics", "heapq", "bisect", "string", "datetime", "numpy", "sympy", "traceback", "atexit", "threading")  # fmt: skip
GREAT = (
    "numpy",
    "sympy",
    "scipy",
    "mpmath",
    "pandas",
)  # modules whose memory makes a fork dear: had by those programs alone that name them
STRINGS = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
TRIES = 3  # of a program that the environment failed


class Settings(msgspec.Struct, frozen=True):
    """timeout: of the clock, in seconds; cpu: 0 takes the timeout; memory: address space; output: bytes of each stream; parked: children that wait for a program, a worker."""

    level: Level = "strict"
    workers: int = 1
    timeout: float = 10.0
    memory: int = 1 << 30
    output: int = 1 << 20
    file_size: int = 32 << 20
    descriptors: int = 64
    scratch: int = 64 << 20
    parked: int = 2
    sessions: int = 256
    preload: tuple[str, ...] = PRELOAD


class Program(msgspec.Struct, frozen=True):
    """session: programs with one name share a process, one after the other. timeout: None is the environment's. echo: print the value of a bare last expression. owner: the trajectory that a call is of,
    for which it waits its turn (None: its session's)."""

    code: str
    input: str = ""
    session: str | None = None
    timeout: float | None = None
    echo: bool = True
    owner: str | None = None


class Result(msgspec.Struct):
    """status: of transcript.STATUSES. wall_s and cpu_s of the program alone, queue_s before it; rss: most memory held, in bytes (of a session's cell: null); truncated: output beyond
    the limit was dropped."""

    status: str
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    signal: int | None = None
    wall_s: float = 0.0
    cpu_s: float | None = None
    rss: int | None = None
    queue_s: float = 0.0
    detail: str | None = None


class Ended(msgspec.Struct):
    status: int
    cpu: float
    rss: int


class Child:
    """A process that waits for programs: `ended` is set when it has."""

    def __init__(self, pid: int, pidfd: int, channel: socket.socket, worker: Worker) -> None:
        self.pid, self.pidfd, self.channel, self.worker = pid, pidfd, channel, worker
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Worker:
    """One zygote with its modules, and its children that wait."""

    def __init__(self, settings: Settings, scratch: Path, preload: tuple[str, ...]) -> None:
        self.settings, self.scratch, self.preload = settings, scratch, preload
        self.children: dict[int, Child] = {}
        self.parked: deque[Child] = deque()
        self.wanted: deque[asyncio.Future[Child]] = deque()
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.ready: asyncio.Future[None] | None = None
        self.asked = 0
        self.broken = ""

    async def start(self) -> None:
        """Raises Missing where a layer of the level is refused, with what refused it."""
        loop = asyncio.get_running_loop()
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = str(Path(__file__).parents[2])
        code = "import sys; sys.path.insert(0, sys.argv[2]); from grpo_roc.env.zygote import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", code, str(theirs.fileno()), package], pass_fds=[theirs.fileno()], env=STRINGS, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.channel = mine
        self.ready = loop.create_future()
        self.asked = 0
        zygote.send(mine, {
            "level": self.settings.level, "scratch": str(self.scratch), "scratch_bytes": self.settings.scratch, "preload": list(self.preload), "readable": readable(),
            "usable": ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"], "environment": STRINGS, "package": package,
        })  # fmt: skip
        loop.add_reader(mine, self.hear)
        await self.ready
        self.fill()

    def fill(self) -> None:
        """Ask for children until enough wait or are on their way."""
        assert self.channel is not None
        while self.asked + len(self.parked) < self.settings.parked + len(self.wanted):
            try:
                zygote.send(self.channel, {"op": "spawn"})
            except OSError:
                return
            self.asked += 1

    def hear(self) -> None:
        assert self.channel is not None and self.ready is not None
        try:
            message, descriptors = zygote.receive(self.channel, 2)
        except OSError:
            message, descriptors = None, []
        if message is None:
            self.lost()
        elif message["op"] == "ready":
            self.ready.set_result(None)
        elif message["op"] == "failed":
            self.ready.set_exception(Missing(f"the code environment at level {self.settings.level}: {message['why']}"))
        elif message["op"] == "child":
            channel = socket.socket(fileno=descriptors[1])
            channel.setblocking(False)
            child = Child(message["pid"], descriptors[0], channel, self)
            self.children[child.pid] = child
            asyncio.get_running_loop().add_reader(channel, self.settle, child)
        elif message["op"] == "ended":
            gone = self.children.pop(message["pid"], None)
            if gone is not None:
                if gone in self.parked:  # killed while it waited
                    self.parked.remove(gone)
                    gone.close()
                    self.fill()
                if not gone.ended.done():
                    gone.ended.set_result(Ended(message["status"], message["cpu"], message["rss"]))

    def settle(self, child: Child) -> None:
        """A child is confined, or could not be; what it says later is a program's word."""
        try:
            message, _ = zygote.receive(child.channel)
        except (OSError, ValueError):
            message = None
        asyncio.get_running_loop().remove_reader(child.channel)
        self.asked -= 1
        if message is not None and message.get("ready"):
            self.offer(child)
            return
        child.kill()
        child.close()
        self.broken = (message or {}).get("broken", "a child ended before it was ready")
        waiting = self.wanted.popleft() if self.wanted else None
        if waiting is not None and not waiting.done():
            waiting.set_exception(Lost(self.broken))

    def offer(self, child: Child) -> None:
        while self.wanted:
            waiting = self.wanted.popleft()
            if not waiting.done():
                waiting.set_result(child)
                return
        self.parked.append(child)

    async def take(self) -> Child:
        if self.parked:
            child = self.parked.popleft()
            self.fill()
            return child
        waiting: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self.wanted.append(waiting)
        self.fill()
        return await waiting

    def lost(self) -> None:
        """The zygote has gone, and with it, by the kernel, every child."""
        loop = asyncio.get_running_loop()
        if self.channel is not None:
            loop.remove_reader(self.channel)
            self.channel.close()
            self.channel = None
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(
                Missing(
                    f"the code environment at level {self.settings.level}: its interpreter ended before it was ready"
                )
            )
        for child in list(self.children.values()):
            child.kill()
            if not child.ended.done():
                child.ended.set_exception(Lost())
                child.ended.exception()  # seen, whether or not a call waits for it
        for child in self.parked:
            child.close()
        self.children.clear()
        self.parked.clear()
        waiting, self.wanted = list(self.wanted), deque()
        for one in waiting:
            if not one.done():
                one.set_exception(Lost())

    async def alive(self) -> None:
        """Start it again where it has gone."""
        if self.channel is None:
            if self.process is not None:
                self.process.wait()
            await self.start()

    def stop(self) -> None:
        if self.channel is not None:
            asyncio.get_running_loop().remove_reader(self.channel)
            self.channel.close()
            self.channel = None
        for child in self.children.values():
            child.kill()
            child.close()
        self.children.clear()
        self.parked.clear()
        if self.process is not None:
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Lost(Exception):
    """A warm interpreter was killed under a program: the environment's fault."""


class Capture:
    """A stream of a program, up to a limit; `closed` when nothing more can come."""

    def __init__(self, descriptor: int, most: int, full: Any) -> None:
        self.descriptor, self.most, self.full = descriptor, most, full
        self.parts: list[bytes] = []
        self.size = 0
        self.over = False
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = loop.create_future()
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, self.hear)

    def hear(self) -> None:
        while True:
            try:
                data = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            room = self.most - self.size
            self.parts.append(data[:room])
            self.size += min(len(data), room)
            if len(data) > room:
                self.over = True
                self.full()
                self.close()
                return

    def close(self) -> None:
        if self.descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = -1
        if not self.closed.done():
            self.closed.set_result(None)

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode("utf-8", "replace")


class Slot:
    """Where one program runs at a time: a small interpreter, and, where great modules are preloaded, one that has them."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        great = [name for name in settings.preload if name in GREAT]
        self.named = re.compile(rf"\b({'|'.join(map(re.escape, great))})\b") if great else None
        self.workers: list[Worker] = []
        small = tuple(name for name in settings.preload if name not in GREAT)
        for name, preload in (("small", small), *([("great", settings.preload)] if great else [])):
            folder = scratch / name
            folder.mkdir(parents=True, mode=0o755)
            self.workers.append(Worker(settings, folder, preload))

    def worker(self, program: Program) -> Worker:
        """A session's later cells may name what its first does not."""
        great = self.named is not None and (program.session is not None or self.named.search(program.code) is not None)
        return self.workers[-1 if great else 0]


class Session:
    def __init__(self, child: Child) -> None:
        self.child, self.lock = child, asyncio.Lock()


class Runner:
    """The environment within an event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.scratch = Path(tempfile.mkdtemp(prefix="grpo-roc-"))
        os.chmod(self.scratch, 0o755)
        self.slots: list[Slot] = []
        self.idle: deque[Slot] = deque()
        self.waiting: OrderedDict[str | None, deque[asyncio.Future[Slot]]] = OrderedDict()
        self.sessions: OrderedDict[str, Session] = OrderedDict()

    async def start(self) -> None:
        """Raises Missing."""
        self.slots = [Slot(self.settings, self.scratch / str(number)) for number in range(self.settings.workers)]
        try:
            await asyncio.gather(*(one.start() for one in self.workers))
        except BaseException:
            self.stop()
            raise
        self.idle.extend(self.slots)

    @property
    def workers(self) -> list[Worker]:
        return [worker for one in self.slots for worker in one.workers]

    def stop(self) -> None:
        for one in self.workers:
            one.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)

    async def slot(self, owner: str | None) -> Slot:
        """Owners take turns; of one owner, and of those without, first come is first served."""
        if self.idle and not self.waiting:
            return self.idle.popleft()
        waiting: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(owner, deque()).append(waiting)
        return await waiting

    def back(self, slot: Slot) -> None:
        while self.waiting:
            owner, line = self.waiting.popitem(last=False)
            one = line.popleft()
            if line:
                self.waiting[owner] = line  # to the end: another's turn
            if not one.done():
                one.set_result(slot)
                return
        self.idle.append(slot)

    async def run(self, program: Program) -> Result:
        asked = time.monotonic()
        for _ in range(TRIES):
            slot = await self.slot(program.owner or program.session)
            worker = slot.worker(program)
            try:
                await worker.alive()
                began = time.monotonic()
                found = await (self.once(worker, program) if program.session is None else self.cell(worker, program))
                found.queue_s = round(began - asked, 6)
                return found
            except Lost:
                if program.session is not None:
                    self.sessions.pop(program.session, None)
                    return Result(
                        "infra",
                        detail="the session's process was lost, and its state with it",
                        queue_s=round(time.monotonic() - asked, 6),
                    )
            finally:
                self.back(slot)
        return Result(
            "infra", detail=f"the environment failed {TRIES} times", queue_s=round(time.monotonic() - asked, 6)
        )

    async def once(self, worker: Worker, program: Program) -> Result:
        child = await worker.take()
        try:
            return await self.play(child, program, session=False)
        finally:
            child.kill()
            child.close()

    async def cell(self, worker: Worker, program: Program) -> Result:
        assert program.session is not None
        session = self.sessions.get(program.session)
        if session is None:
            while len(self.sessions) >= self.settings.sessions:
                _, oldest = self.sessions.popitem(last=False)
                oldest.child.kill()
                oldest.child.close()
            session = self.sessions[program.session] = Session(await worker.take())
        self.sessions.move_to_end(program.session)
        async with session.lock:
            found = await self.play(session.child, program, session=True)
        if session.child.ended.done() or found.status in ("timeout", "output_limit", "killed", "policy", "infra"):
            self.end(program.session)
        return found

    def end(self, name: str) -> bool:
        """End a session; whether there was one."""
        session = self.sessions.pop(name, None)
        if session is None:
            return False
        session.child.kill()
        session.child.close()
        return True

    async def play(self, child: Child, program: Program, *, session: bool) -> Result:
        """One program in one child. Raises Lost."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        timeout = settings.timeout if program.timeout is None else program.timeout
        reason: list[str] = []

        def kill(why: str) -> None:
            if not reason:
                reason.append(why)
            child.kill()

        streams = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        stdin = os.memfd_create("stdin", os.MFD_CLOEXEC)
        with open(stdin, "wb", closefd=False) as stream:
            stream.write(program.input.encode("utf-8", "surrogatepass"))
        os.lseek(stdin, 0, os.SEEK_SET)
        captures = [Capture(read, settings.output, lambda: kill("output_limit")) for read, _ in streams]
        told = {
            "code": program.code, "session": session, "echo": program.echo, "cpu": 1e6 if session else timeout + 1, "memory": settings.memory, "file_size": settings.file_size,
            "descriptors": settings.descriptors,
        }  # fmt: skip
        began = time.monotonic()
        said: asyncio.Future[zygote.Record] = loop.create_future()

        def hear() -> None:
            try:
                message, extra = zygote.receive(child.channel, 8)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                message, extra = None, []
            for one in extra:
                os.close(one)
            if message is None or not isinstance(message, dict):
                loop.remove_reader(child.channel)
            elif not said.done():
                said.set_result(message)

        clock = loop.call_later(timeout, kill, "timeout")
        try:
            try:
                zygote.send(child.channel, told, [stdin, streams[0][1], streams[1][1]])
            except OSError as problem:
                if not child.ended.done():
                    kill("infra")
                raise Lost() from problem
            finally:
                for one in (stdin, streams[0][1], streams[1][1]):
                    os.close(one)
            loop.add_reader(child.channel, hear)
            if session:
                either: list[asyncio.Future[Any]] = [child.ended, said]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.wait({child.ended})
            wall = time.monotonic() - began
            if said.done() and not child.ended.done():
                # a cell's streams are closed by the child; a thread that it left behind may keep them open
                await asyncio.wait({one.closed for one in captures}, timeout=0.2)
            else:
                await asyncio.wait({child.ended})
                await asyncio.wait({one.closed for one in captures}, timeout=1.0)
        finally:
            clock.cancel()
            with contextlib.suppress(ValueError, OSError):
                loop.remove_reader(child.channel)
            for capture in captures:
                capture.close()
        told_by = said.result() if said.done() else {}
        stdout, stderr = (one.text for one in captures)
        result = Result("ok", stdout, stderr, wall_s=round(wall, 6))
        ended = child.ended.result() if child.ended.done() else None
        if ended is not None:
            result.cpu_s, result.rss = round(ended.cpu, 6), ended.rss
            if os.WIFSIGNALED(ended.status):
                result.signal = os.WTERMSIG(ended.status)
            else:
                result.exit_code = os.WEXITSTATUS(ended.status)
        else:
            done = told_by.get("done")
            result.exit_code = done & 0xFF if isinstance(done, int) else 1
        result.status = status_of(result, reason[0] if reason else None, told_by.get("memory") is True, timeout)
        return result


def status_of(result: Result, reason: str | None, memory: bool, timeout: float) -> str:
    """What it came to: what we killed it for, then how it ended."""
    if reason is not None:
        return reason
    if result.signal == signal.SIGSYS:
        return "policy"
    if result.signal == signal.SIGXCPU or (result.signal == signal.SIGKILL and (result.cpu_s or 0) >= timeout):
        return "timeout"
    if result.signal is not None:
        return "killed"
    if result.exit_code:
        return "memory" if memory else "error"
    return "ok" if result.stdout else "ok_no_output"


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


class Environment:
    """The environment, for callers of any thread. Raises Missing where its level is not to be had here."""

    def __init__(self, settings: Settings | None = None, **more: Any) -> None:
        self.settings = msgspec.structs.replace(settings or Settings(), **more)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: Runner | None = None

    def __enter__(self) -> Environment:
        self._thread.start()

        async def begin() -> Runner:
            runner = Runner(self.settings)
            await runner.start()
            return runner

        try:
            self._runner = asyncio.run_coroutine_threadsafe(begin(), self._loop).result()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            assert self._runner is not None
            self._runner.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, program: Program) -> Any:
        """A concurrent future of its Result."""
        assert self._runner is not None
        return asyncio.run_coroutine_threadsafe(self._runner.run(program), self._loop)

    def run(self, program: Program) -> Result:
        found: Result = self.submit(program).result()
        return found
