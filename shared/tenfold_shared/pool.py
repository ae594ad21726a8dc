"""Warm, killable worker processes with hard deadlines: call a function that may hang or crash.

Sits under `answers` and every tool that runs code it cannot trust to return. A worker is this
module run as a program: it imports the target, says it is ready, then answers one call at a time,
each a length-prefixed msgpack frame on a pipe. No pickle, no signal handler and no multiprocessing:
a call works from any thread, and a hang inside a C loop ends by SIGKILL like any other.
"""

import atexit
import fcntl
import importlib
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

_HEADER = struct.Struct(">Q")  # frame = byte count, then that many bytes of msgpack
_START_SECONDS = 300.0  # an import that takes longer than this is taken for a hang
_CHUNK = 1 << 16


class PoolError(Exception):
    """A call that gave no result; the subclasses say why."""


class DeadlineExceeded(PoolError):
    """No answer within the deadline; the worker's process group was killed and replaced."""


class WorkerError(PoolError):
    """The function raised: the text is `Type: message`. The worker lives on."""


class WorkerDied(PoolError):
    """The worker could not start, crashed, ran out of memory, or the pool was closed."""


class _Worker:
    """One worker process, leader of its own process group, and the pipes to it."""

    def __init__(self, command: list[str]):
        # Nobody writes to the lifeline; when this process ends, however it ends, its closing
        # makes the kernel kill the worker's group, even in a C loop that never yields to Python.
        lifeline, self.lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*command, str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                pass_fds=(lifeline,),
            )
        except OSError:
            os.close(self.lifeline)
            raise
        finally:
            os.close(lifeline)
        assert self.process.stdin and self.process.stdout
        self.inlet, self.outlet = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.inlet, False)
        os.set_blocking(self.outlet, False)
        self.ready = False
        self.loading = threading.Lock()

    def wait_ready(self) -> None:
        """Return once the worker has imported its target. Raises WorkerDied if it cannot."""
        with self.loading:
            if self.ready:
                return
            try:
                fault = self.exchange(b"", _START_SECONDS)
            except DeadlineExceeded:
                raise WorkerDied(f"worker was not ready after {_START_SECONDS:g} s") from None
            if fault is not None:
                raise WorkerDied(f"worker could not start: {fault}")
            self.ready = True

    def exchange(self, request: bytes, seconds: float) -> Any:
        """Send `request` (already framed; may be empty) and return the decoded reply frame.

        Writing and reading share one deadline, so a worker that has stopped reading, or stops
        in the middle of its reply, is caught like one that never answers.
        """
        end = time.monotonic() + seconds
        unsent, reply, need = memoryview(request), bytearray(), _HEADER.size
        poller = select.poll()
        poller.register(self.outlet, select.POLLIN)
        if unsent:
            poller.register(self.inlet, select.POLLOUT)
        while len(reply) < need:
            left = end - time.monotonic()
            events = poller.poll(min(max(0.0, left), 3600.0) * 1000)  # poll counts in an int
            if not events and left <= 0:
                raise DeadlineExceeded(f"no answer after {seconds:g} s")
            for fd, _ in events:
                if fd == self.inlet:
                    try:
                        unsent = unsent[os.write(fd, unsent[:_CHUNK]) :]
                    except BrokenPipeError:
                        raise WorkerDied(self.epitaph()) from None
                    if not unsent:
                        poller.unregister(fd)
                else:
                    # Never past this frame: the next one belongs to the next call.
                    piece = os.read(fd, min(_CHUNK, need - len(reply)))
                    if not piece:
                        raise WorkerDied(self.epitaph())
                    reply += piece
                    if len(reply) == _HEADER.size == need:
                        need += _HEADER.unpack(reply)[0]
        return msgspec.msgpack.decode(memoryview(reply)[_HEADER.size :])

    def epitaph(self) -> str:
        """How a worker that closed its pipe ended. It is left unreaped, so its id stays its own."""
        for _ in range(100):
            ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended and ended.si_code == os.CLD_EXITED:
                return f"worker ended with exit status {ended.si_status}"
            if ended:
                return f"worker ended by {signal.Signals(ended.si_status).name}"
            time.sleep(0.01)
        return "worker closed its pipe"

    def kill(self) -> None:
        """SIGKILL the worker and everything in its process group."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Kill, reap, and free the pipes; once only."""
        self.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()
        os.close(self.lifeline)


class Pool:
    """`workers` processes that each run `target` ("package.module:function") on request.

    `setup` ("package.module:function", no arguments) runs in each worker before it says it is
    ready: heavy imports and first-call costs go there, where no deadline runs. `memory_bytes`
    limits each worker's address space (the function then sees MemoryError). Workers start when
    first needed, or all at once with `warm()`; a killed one is replaced at once, and loads while
    others work. The module of `target` must be importable in a new Python process.
    """

    def __init__(self, target: str, workers: int = 2, memory_bytes: int | None = None, setup: str = ""):
        for name in filter(None, (target, setup)):
            if name.count(":") != 1:
                raise ValueError(f'{name!r}: expected "package.module:function"')
        if workers < 1:
            raise ValueError(f"workers={workers}: expected at least 1")
        # -P: a file in the user's current folder must not shadow a module the worker imports.
        self._command = [sys.executable, "-P", "-m", "tenfold_shared.pool"]
        self._command += [target, setup, str(memory_bytes or 0)]
        self._unstarted = workers
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False
        self._free = threading.Condition()
        self.pid = os.getpid()
        atexit.register(self.close)

    def call(self, args: Any, deadline: float) -> Any:
        """Return `target(args)`; `args` and the result are whatever msgpack can carry.

        `deadline` is in seconds from handing the call to a ready worker: waiting for a free worker
        and its start-up do not count. Raises DeadlineExceeded, WorkerError, WorkerDied.
        """
        payload = msgspec.msgpack.encode(args)
        worker = self._take()
        try:
            worker.wait_ready()
            status, value = worker.exchange(_HEADER.pack(len(payload)) + payload, deadline)
        except WorkerDied:
            self._retire(worker, replace=worker.ready)  # what cannot start is not started again at once
            if self._closed:
                raise WorkerDied("pool is closed") from None
            raise
        except BaseException:
            self._retire(worker, replace=True)
            raise
        self._give_back(worker)
        if status != "ok":
            raise WorkerError(value)
        return value

    def warm(self) -> None:
        """Start every worker and return when all are ready. Raises WorkerDied."""
        with self._free:
            while self._unstarted:
                self._idle.append(self._start())
            started = list(self._idle)
        for worker in started:
            worker.wait_ready()

    def close(self) -> None:
        """Kill every worker; calls in flight raise WorkerDied. Safe to call twice."""
        atexit.unregister(self.close)
        if os.getpid() != self.pid:
            return  # a forked child must not kill its parent's workers
        with self._free:
            self._closed = True
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.kill()  # its caller buries it
            self._free.notify_all()
        for worker in idle:
            worker.bury()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> _Worker:
        """A new worker process, still loading. The caller holds the lock."""
        worker = _Worker(self._command)
        self._unstarted -= 1
        return worker

    def _take(self) -> _Worker:
        if os.getpid() != self.pid:
            raise RuntimeError("this Pool belongs to another process: make a new one after a fork")
        with self._free:
            while not self._closed:
                if self._idle or self._unstarted:
                    # A worker that has loaded before one that is still loading.
                    worker = min(self._idle, key=lambda w: not w.ready) if self._idle else self._start()
                    self._idle = [w for w in self._idle if w is not worker]
                    self._busy.add(worker)
                    return worker
                self._free.wait()
        raise WorkerDied("pool is closed")

    def _give_back(self, worker: _Worker) -> None:
        with self._free:
            self._busy.discard(worker)
            closed = self._closed
            if not closed:
                self._idle.append(worker)
                self._free.notify()
        if closed:
            worker.bury()

    def _retire(self, worker: _Worker, replace: bool) -> None:
        with self._free:
            self._busy.discard(worker)
            self._unstarted += 1
            if replace and not self._closed:
                self._idle.append(self._start())
            self._free.notify()
        worker.kill()
        # Freeing a large worker's memory takes the kernel a while; the caller's deadline is over.
        threading.Thread(target=worker.bury, daemon=True).start()


def _load(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _send(outlet: BinaryIO, message: Any) -> None:
    payload = msgspec.msgpack.encode(message)
    outlet.write(_HEADER.pack(len(payload)) + payload)
    outlet.flush()


def _serve(target: str, setup: str, memory_bytes: int, lifeline: int) -> None:
    """The worker's whole life: arm the lifeline, load, announce, answer until end of input."""
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        return  # the parent was gone before the lifeline was armed
    # The protocol keeps private copies of the pipes: what the function prints goes to stderr,
    # what it reads is empty.
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        function = _load(target)
        if setup:
            _load(setup)()
    except BaseException as error:
        _send(outlet, f"{type(error).__name__}: {error}")
        return
    _send(outlet, None)
    while header := inlet.read(_HEADER.size):
        request = inlet.read(_HEADER.unpack(header)[0])
        reply: tuple[str, Any]
        try:
            reply = ("ok", function(msgspec.msgpack.decode(request)))
            msgspec.msgpack.encode(reply)
        # BaseException: a library's SystemExit or BaseException-derived time-out is the
        # function's failure, not the worker's end.
        except BaseException as error:
            reply = ("error", f"{type(error).__name__}: {error}")
        _send(outlet, reply)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
