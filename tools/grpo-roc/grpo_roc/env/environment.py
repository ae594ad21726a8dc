"""The environment: programs in, what became of them out.

    with Environment(workers=2) as env:
        env.run(Program("print(6 * 7)")).stdout

Where it sits: above worker.py; below exec.py and serve.py. A thread for each worker takes programs from one line, in which trajectories take turns, and waits with them. A program that failed by no fault of
its own (its warm interpreter was killed, say) is tried again, and never counted against it. `submit` and `run` may be called from any thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import tempfile
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import msgspec

from grpo_roc.env.worker import Child, Lost, Played, Worker, folder, play
from grpo_roc.env.zygote import remove
from tenfold_shared import Missing

Level = Literal["strict", "standard", "rlimit-only"]  # isolation.LEVELS
PRELOAD = ("math", "cmath", "fractions", "decimal", "itertools", "functools", "collections", "random", "re", "json", "statistics", "heapq", "bisect", "string", "datetime", "typing", "numpy", "sympy")  # fmt: skip
# Which interpreter has a module, by what it costs each fork: those without code of their own beside the interpreter's are had by all; great ones by an interpreter for the programs that name one, as are the rest.
LIGHT = ("math", "itertools", "functools", "collections", "re", "string", "operator", "sys", "os", "time")
GREAT = ("numpy", "sympy", "scipy", "mpmath", "pandas")
TRIES = 3  # of a program that the environment failed
PREFIX = "grpo-roc-env-"  # of folders among temporary ones
FRESH = 60.0  # seconds in which who made such a folder has it held


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


class Slot:
    """Where one program runs at a time: up to three interpreters, each with more modules preloaded than the one before; a program has the first that has what it names."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self.tiers: list[tuple[re.Pattern[str] | None, Worker]] = []
        had: tuple[str, ...] = ()
        for name, wanted in (
            ("light", [one for one in settings.preload if one in LIGHT]),
            ("small", [one for one in settings.preload if one not in LIGHT and one not in GREAT]),
            ("great", [one for one in settings.preload if one in GREAT]),
        ):
            if wanted or (not had and name == "light"):
                had += tuple(wanted)
                folder(scratch / name)
                named = re.compile(rf"\b({'|'.join(map(re.escape, wanted))})\b") if self.tiers else None
                self.tiers.append((named, Worker(settings, scratch / name, had)))

    def worker(self, program: Program) -> Worker:
        """A session's later cells may name what its first does not."""
        if program.session is not None:
            return self.tiers[-1][1]
        return next(
            worker for named, worker in reversed(self.tiers) if named is None or named.search(program.code) is not None
        )


class Job(msgspec.Struct):
    program: Program
    asked: float
    future: Future[Result]


class Line:
    """Programs that wait. Owners take turns; of one owner, and of those without, first come is first served; of a session one runs at a time."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.waiting: OrderedDict[str | None, deque[Job]] = OrderedDict()
        self.sessions: set[str] = set()  # of which one runs
        self.running = 0
        self.closed = False

    def put(self, job: Job) -> None:
        with self.changed:
            if self.closed:
                raise RuntimeError("the environment has ended")
            program = job.program
            owner = program.session if program.owner is None else program.owner
            line = self.waiting.get(owner)
            if line is None:
                self.waiting[owner] = line = deque()
            line.append(job)
            self.changed.notify()

    def get(self) -> Job | None:
        """The next; None when there will be no more."""
        with self.changed:
            while not self.closed:
                job = self._next()
                if job is not None:
                    self.running += 1
                    return job
                self.changed.wait()
            return None

    def _next(self) -> Job | None:
        for owner, line in self.waiting.items():
            session = line[0].program.session
            if session is None or session not in self.sessions:
                job = line.popleft()
                if line:
                    self.waiting.move_to_end(owner)  # another's turn
                else:
                    del self.waiting[owner]
                if session is not None:
                    self.sessions.add(session)
                return job
        return None

    def done(self, job: Job) -> None:
        with self.changed:
            self.running -= 1
            if job.program.session is not None:
                self.sessions.discard(job.program.session)
                self.changed.notify()

    def close(self) -> list[Job]:
        """No more: what still waited."""
        with self.changed:
            self.closed = True
            left = [job for line in self.waiting.values() for job in line]
            self.waiting.clear()
            self.changed.notify_all()
            return left


class Forgotten(Exception):
    """A session's process was lost, by the environment's fault, and what its cells knew."""


class Session(msgspec.Struct):
    child: Child
    busy: bool = True  # a cell runs in it, whose thread ends it


class Environment:
    """The environment, for callers of any thread. Raises Missing where its level is not to be had here."""

    def __init__(self, settings: Settings | None = None, **more: Any) -> None:
        self.settings = msgspec.structs.replace(settings or Settings(), **more)
        self.line = Line()
        self.slots: list[Slot] = []
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.lock = threading.Lock()  # of the sessions
        self.threads: list[threading.Thread] = []
        self.scratch = Path()
        self.held = -1

    def __enter__(self) -> Environment:
        self.scratch, self.held = claim()
        try:
            self.slots = [Slot(self.settings, self.scratch / str(number)) for number in range(self.settings.workers)]
            # an interpreter ends with the thread that started it, which whoever calls this may not keep
            begun = [Future[None]() for _ in self.slots]
            for slot, future in zip(self.slots, begun, strict=True):
                thread = threading.Thread(target=self._work, args=(slot, future), daemon=True)
                self.threads.append(thread)
                thread.start()
            for future in begun:
                future.result()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for job in self.line.close():
            job.future.cancel()
        for worker in self.workers:
            worker.part()
        for worker in self.workers:
            worker.stop()
        for thread in self.threads:
            thread.join()
        for name in list(self.sessions):
            self.end(name)
        remove(str(self.scratch))
        if self.held >= 0:
            os.close(self.held)
            self.held = -1

    @property
    def workers(self) -> list[Worker]:
        return [worker for one in self.slots for _, worker in one.tiers]

    @property
    def running(self) -> int:
        return self.line.running

    def submit(self, program: Program) -> Future[Result]:
        job = Job(program, time.monotonic(), Future())
        self.line.put(job)
        return job.future

    def run(self, program: Program) -> Result:
        return self.submit(program).result()

    def end(self, name: str) -> bool:
        """End a session, in the midst of a cell too; whether there was one."""
        with self.lock:
            found = self.sessions.pop(name, None)
        if found is None:
            return False
        self._leave(found)
        return True

    def _leave(self, session: Session) -> None:
        """Of one that is no longer listed."""
        with self.lock:
            busy = session.busy
            if busy:
                session.child.kill()
        if not busy:
            session.child.worker.discard(session.child)

    # ------------------------------------------------------------ in a slot's thread

    def _work(self, slot: Slot, begun: Future[None]) -> None:
        try:
            for _, worker in slot.tiers:
                with worker.lock:
                    worker.launch()
            for _, worker in slot.tiers:
                with worker.lock:
                    worker.ready()
        except BaseException as problem:  # for whoever waits to see
            begun.set_exception(problem)
            return
        begun.set_result(None)
        while True:
            job = self.line.get()
            if job is None:
                return
            try:
                if job.future.set_running_or_notify_cancel():
                    self._answer(slot, job)
            finally:
                self.line.done(job)

    def _answer(self, slot: Slot, job: Job) -> None:
        try:
            result = self._run(slot, job)
        except BaseException as problem:  # for whoever waits to see
            job.future.set_exception(problem)
        else:
            job.future.set_result(result)

    def _run(self, slot: Slot, job: Job) -> Result:
        program, why = job.program, ""
        worker = slot.worker(program)
        for _ in range(TRIES):
            began = time.monotonic()
            if self.line.closed:
                why = "the environment has ended"
                break
            try:
                played = self._once(worker, program) if program.session is None else self._cell(worker, program)
            except Forgotten as problem:
                why = str(problem)
                break
            except (Lost, Missing, OSError) as problem:
                why = str(problem)
            else:
                result = outcome(played, self.settings.timeout if program.timeout is None else program.timeout)
                result.queue_s = round(began - job.asked, 6)
                return result
        return Result("infra", detail=why, queue_s=round(time.monotonic() - job.asked, 6))

    def _once(self, worker: Worker, program: Program) -> Played:
        child = worker.take(keep=False)
        try:
            return play(child, program, self.settings, session=False)
        except BaseException:
            worker.discard(child)
            raise

    def _cell(self, worker: Worker, program: Program) -> Played:
        name = program.session
        assert name is not None
        with self.lock:
            session = self.sessions.get(name)
            known = session is not None
            if session is not None:
                session.busy = True
                self.sessions.move_to_end(name)
        if session is None:
            session = Session(worker.take(keep=True))
            with self.lock:
                self.sessions[name] = session
        over = True
        try:
            self._bound()
            played = play(session.child, program, self.settings, session=True)
            over = played.ended is not None or played.reason is not None
        except (Lost, OSError) as problem:
            if self.sessions.get(name) is not session:  # it was ended before the cell had begun
                return Played(b"", b"", 0.0, "killed", None, 1, False)
            if known:
                raise Forgotten(f"the session's process was lost, and its state with it: {problem}") from None
            raise
        finally:
            with self.lock:
                session.busy = False
                listed = self.sessions.get(name) is session
                if listed and over:
                    del self.sessions[name]
            if over or not listed:
                self._leave(session)
        return played

    def _bound(self) -> None:
        """The oldest of too many sessions go, those in use excepted."""
        while True:
            with self.lock:
                over = len(self.sessions) - self.settings.sessions
                oldest = next((name for name, one in self.sessions.items() if not one.busy), None)
                if over <= 0 or oldest is None:
                    return
                session = self.sessions.pop(oldest)
            self._leave(session)


def claim() -> tuple[Path, int]:
    """A folder of our own among temporary ones, and a descriptor that holds it for as long as this process is there: folders of those that were killed are removed."""
    for one in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            held = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                told = os.fstat(held)
                if told.st_uid == os.geteuid() and time.time() - told.st_mtime > FRESH:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(str(one))
            finally:
                os.close(held)
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX))
    scratch.chmod(0o755)
    held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_EX)
    return scratch, held


def outcome(played: Played, timeout: float) -> Result:
    result = Result(
        "ok",
        played.stdout.decode("utf-8", "replace"),
        played.stderr.decode("utf-8", "replace"),
        wall_s=round(played.wall, 6),
    )
    ended = played.ended
    if ended is None:
        result.exit_code = played.code
    else:
        result.cpu_s, result.rss = round(ended.cpu, 6), ended.rss
        if os.WIFSIGNALED(ended.status):
            result.signal = os.WTERMSIG(ended.status)
        else:
            result.exit_code = os.WEXITSTATUS(ended.status)
    result.status = status_of(result, played.reason, played.memory, timeout)
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
