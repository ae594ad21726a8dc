"""`grpo-roc serve`: the environment over HTTP or a Unix socket, in its own dialect and in those of code-judge and SandboxFusion.

    POST /v1/exec               {id?, code, input?, session?, timeout?}, or a list of them -> what `exec` adds to a record
    DELETE /v1/sessions/NAME    end a session
    GET /v1/status, /status, /ping
    POST /run, /run/batch, /run/long-batch, /judge, /judge/batch, /judge/long-batch     code-judge
    POST /run_code                                                                      SandboxFusion

Where it sits: above env/environment.py. One queue for all, first come first served within a trajectory and turn by turn between trajectories. A call's id names it: the same program with the same id again
waits for, or gives, the same result, and is not run twice. Beyond --queue calls are refused with 429 and Retry-After. On SIGTERM nothing new is taken, what runs may end within --grace (a second SIGTERM cuts
it short), and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from grpo_roc.env.environment import Environment, Program, Result, Settings
from tenfold_shared import BadInput, Missing

Record = dict[str, Any]
Work = asyncio.Future[Result]
KEPT, KEPT_BYTES = 65_536, 256 << 20  # results that are remembered by id, and what their outputs may come to
BODY = 64 << 20
WAITING_BYTES = 1 << 30  # of programs and their inputs that wait or run
BACKLOG = 4096  # connections that the kernel holds until they are accepted; one that finds no place is tried again seconds later
FLUSH = 1.0  # seconds for the last answers to go out


class Invalid(ValueError):
    """A request that cannot be read."""


class Full(Exception):
    """More calls wait than may."""


class Stopped(Exception):
    """The service ended before the call did."""


class Desk:
    """Calls in, results out: ids, the bound of the queue, counts."""

    def __init__(self, env: Environment, queue: int, timeout_most: float) -> None:
        self.env, self.queue, self.timeout_most = env, queue, timeout_most
        self.pending, self.bytes = 0, 0
        self.closing = False
        self.done = 0
        self.statuses: dict[str, int] = {}
        self.known: OrderedDict[tuple[str, int], Work] = OrderedDict()
        self.held = 0
        self.began = time.monotonic()

    def program(self, told: Any) -> Program:
        """Raises Invalid."""
        if not isinstance(told, dict):
            raise Invalid("expected an object")
        for name, needed in (("code", True), ("input", False), ("session", False), ("id", False), ("owner", False)):
            value = told.get(name)
            if (value is None and needed) or (value is not None and not isinstance(value, str)):
                raise Invalid(f"{name}: expected a string")
        if told.get("session") == "":
            raise Invalid("session: expected a name; leave it out for a process of the call's own")
        if not isinstance(told.get("echo", True), bool):
            raise Invalid("echo: expected true or false")
        timeout = told.get("timeout")
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= self.timeout_most
        ):
            raise Invalid(f"timeout: expected more than 0 and at most {self.timeout_most:g}")
        return Program(
            told["code"],
            told.get("input") or "",
            told.get("session"),
            timeout,
            told.get("echo", True),
            told.get("owner"),
        )

    def room(self, count: int) -> None:
        """For so many calls more. Raises Full, and Invalid where there will never be."""
        if count > self.queue:
            raise Invalid(f"expected at most {self.queue} calls at once")
        if self.closing or self.pending + count > self.queue or self.bytes > WAITING_BYTES:
            raise Full()

    def begin(self, program: Program, name: str | None) -> Work:
        """Its result to come; shielded, so that whoever no longer waits for it does not end it for others. Raises Full."""
        key = None if name is None else (name, hash(program))
        if key is not None and key in self.known:
            self.known.move_to_end(key)
            return self.known[key]
        self.room(1)
        size = len(program.code) + len(program.input)
        work = asyncio.wrap_future(self.env.submit(program))
        self.pending += 1
        self.bytes += size
        if key is not None:
            self.known[key] = work

        def ended(work: Work) -> None:
            self.pending -= 1
            self.bytes -= size
            if not work.cancelled() and work.exception() is None:
                status = work.result().status
                self.done += 1
                self.statuses[status] = self.statuses.get(status, 0) + 1
            if key is not None:
                self.remember(key)

        work.add_done_callback(ended)
        return work

    async def end(self, work: Work) -> Result:
        """Raises Stopped."""
        await asyncio.wait([work])
        if work.cancelled():
            raise Stopped()
        return work.result()

    def remember(self, key: tuple[str, int]) -> None:
        """A call that has ended; where the environment failed it, it may be sent again. The oldest results are forgotten where there are too many, or too much of them; not those of calls that still run."""
        work = self.known[key]
        if work.cancelled() or work.exception() is not None or work.result().status == "infra":
            del self.known[key]
            return
        self.held += weight(key, work)
        for one in list(itertools.islice(self.known, max(len(self.known) - KEPT, 64))):
            if len(self.known) <= KEPT and self.held <= KEPT_BYTES:
                return
            if self.known[one].done() and one != key:
                self.held -= weight(one, self.known.pop(one))

    def status(self) -> Record:
        running = self.env.running
        return {
            "level": self.env.settings.level, "workers": len(self.env.slots), "running": running, "waiting": max(self.pending - running, 0), "sessions": len(self.env.sessions),
            "done": self.done, "statuses": dict(self.statuses), "seconds": round(time.monotonic() - self.began, 3),
        }  # fmt: skip


def weight(key: tuple[str, int], work: Work) -> int:
    """Of an ended call: about the bytes that its result holds."""
    result = work.result()
    return sum(map(sys.getsizeof, (key[0], result.stdout, result.stderr)))


# ---------------------------------------------------------------- dialects


def judged(told: Record, result: Result) -> Record:
    """A result as code-judge gives it."""
    fine = result.status in ("ok", "ok_no_output")
    reason = {"timeout": "worker_timeout", "infra": "internal_error", "invalid_call": "invalid_input"}.get(
        result.status, ""
    )
    want = told.get("expected_output")
    success = fine and (want is None or result.stdout.strip() == str(want).strip())
    return {
        "sub_id": told.get("sub_id"), "success": success, "run_success": fine, "cost": result.wall_s, "stdout": result.stdout, "stderr": result.stderr, "reason": reason,
    }  # fmt: skip


def refused(told: Any, why: str) -> Record:
    name = told.get("sub_id") if isinstance(told, dict) else None
    return {
        "sub_id": name,
        "success": False,
        "run_success": False,
        "cost": 0.0,
        "stdout": "",
        "stderr": why,
        "reason": "invalid_input",
    }


def fused(result: Result) -> Record:
    """A result as SandboxFusion gives it."""
    fine = result.status in ("ok", "ok_no_output")
    status = (
        "Finished"
        if result.signal is None and result.status != "timeout"
        else "TimeLimitExceeded"
        if result.status == "timeout"
        else "Error"
    )
    return {
        "status": "SandboxError" if result.status == "infra" else "Success" if fine else "Failed", "message": result.detail or "", "compile_result": None,
        "run_result": {"status": status, "execution_time": result.wall_s, "return_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr},
        "executor_pod_name": None, "files": {},
    }  # fmt: skip


def judge(desk: Desk, told: Any) -> Awaitable[Record]:
    """One submission of code-judge: begun here, its answer to come. Raises Full."""
    if not isinstance(told, dict) or not isinstance(told.get("solution"), str):
        return given(refused(told, "solution: expected a string"))
    kind = told.get("type", "python")
    if kind == "math":
        return graded(told)
    if kind != "python":
        return given(refused(told, f"type {kind}: only python and math are run here"))
    if told.get("input") is not None and not isinstance(told["input"], str):
        return given(refused(told, "input: expected a string"))
    name = told.get("sub_id")
    program = Program(told["solution"], told.get("input") or "", echo=False)
    work = desk.begin(program, name if isinstance(name, str) else None)

    async def answer() -> Record:
        return judged(told, await desk.end(work))

    return answer()


async def given(answer: Record) -> Record:
    return answer


async def graded(told: Record) -> Record:
    """A submission whose answer is compared and not run."""
    from tenfold_shared import answers

    # answers waits for processes of its own: not in this loop's thread
    grade = await asyncio.to_thread(
        answers.grade, str(told.get("expected_output") or ""), told["solution"], 2.0, require_box=False
    )
    right = grade.grade == "correct"
    return {
        "sub_id": told.get("sub_id"), "success": right, "run_success": True, "cost": 0.0, "stdout": "", "stderr": grade.reason, "reason": "",
    }  # fmt: skip


# ---------------------------------------------------------------- the server


def application(desk: Desk) -> Any:
    """An aiohttp application."""
    from aiohttp import web

    async def body(request: Any) -> Any:
        try:
            return json.loads(await request.read())
        except (ValueError, RecursionError):
            raise Invalid("expected JSON") from None

    def answered(work: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def handle(request: Any) -> Any:
            try:
                found = await work(request)
            except Invalid as problem:
                return web.json_response({"error": str(problem)}, status=400)
            except Full:
                return web.json_response({"error": "too many calls wait"}, status=429, headers={"Retry-After": "1"})
            except Stopped:
                return web.json_response({"error": "the service has stopped"}, status=503)
            return web.Response(body=json.dumps(found).encode(), content_type="application/json")

        return handle

    async def exec_(request: Any) -> Any:
        told = await body(request)
        many = told if isinstance(told, list) else [told]
        programs = [desk.program(each) for each in many]  # all are sound, or none is run
        desk.room(sum((each.get("id"), hash(program)) not in desk.known for each, program in zip(many, programs, strict=True)))  # fmt: skip
        works = [desk.begin(program, each.get("id")) for program, each in zip(programs, many, strict=True)]

        async def answer(each: Record, work: Work) -> Record:
            return {"id": each.get("id"), **msgspec.to_builtins(await desk.end(work))}

        found = await asyncio.gather(*map(answer, many, works))
        return found if isinstance(told, list) else found[0]

    async def run_one(request: Any) -> Any:
        return await judge(desk, await body(request))

    async def run_batch(request: Any) -> Any:
        told = await body(request)
        if not isinstance(told, dict) or not isinstance(told.get("submissions"), list):
            raise Invalid("submissions: expected a list")
        desk.room(len(told["submissions"]))
        results = await asyncio.gather(*[judge(desk, one) for one in told["submissions"]])
        return {"sub_id": told.get("sub_id"), "results": results}

    async def run_code(request: Any) -> Any:
        told = await body(request)
        if not isinstance(told, dict) or told.get("language", "python") not in ("python", "pytest"):
            raise Invalid("language: only python is run here")
        if told.get("files") or told.get("fetch_files"):
            raise Invalid("files, fetch_files: not taken here; write them from the program")
        program = desk.program(
            {"code": told.get("code"), "input": told.get("stdin"), "timeout": told.get("run_timeout")}
        )
        return fused(await desk.end(desk.begin(msgspec.structs.replace(program, echo=False), None)))

    async def status(_: Any) -> Any:
        return desk.status()

    async def ping(_: Any) -> Any:
        return {"ping": "pong"}

    async def end(request: Any) -> Any:
        return {"ended": await asyncio.to_thread(desk.env.end, request.match_info["name"])}

    app = web.Application(client_max_size=BODY)
    app.router.add_post("/v1/exec", answered(exec_))
    app.router.add_delete("/v1/sessions/{name}", answered(end))
    app.router.add_get("/v1/status", answered(status))
    app.router.add_get("/status", answered(status))
    app.router.add_get("/ping", answered(ping))
    for verb in ("run", "judge"):
        app.router.add_post(f"/{verb}", answered(run_one))
        app.router.add_post(f"/{verb}/batch", answered(run_batch))
        app.router.add_post(f"/{verb}/long-batch", answered(run_batch))
    app.router.add_post("/run_code", answered(run_code))
    return app


def run(
    settings: Settings, *, http: str | None, unix: str | None, queue: int, timeout_most: float, grace: float
) -> int:
    """The verb: until SIGTERM or SIGINT. Raises BadInput and Missing."""
    if importlib.util.find_spec("aiohttp") is None:
        raise Missing("aiohttp is not installed: pip install 'grpo-roc[serve]'")
    if (http is None) == (unix is None):
        raise BadInput("expected one of --http HOST:PORT and --unix PATH")
    host, port = "", 0
    if http is not None:
        host, _, number = http.rpartition(":")
        if not host or not number.isdecimal() or int(number) > 65535:
            raise BadInput(f"--http {http}: expected HOST:PORT, such as 127.0.0.1:8088")
        port = int(number)
    return asyncio.run(_serve(settings, host, port, unix, queue, timeout_most, grace))


async def _serve(
    settings: Settings, host: str, port: int, unix: str | None, queue: int, timeout_most: float, grace: float
) -> int:
    from aiohttp import web

    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    if unix is not None and in_use(unix):
        raise BadInput(f"--unix {unix}: another service listens there")
    env = Environment(settings)
    await asyncio.to_thread(env.__enter__)
    desk = Desk(env, queue, timeout_most)
    server = web.AppRunner(application(desk), access_log=None, logger=logger(), shutdown_timeout=FLUSH)
    mine: tuple[int, int] | None = None
    try:
        await server.setup()
        try:
            site = (
                web.UnixSite(server, unix, backlog=BACKLOG)
                if unix is not None
                else web.TCPSite(server, host, port, backlog=BACKLOG)
            )
            await site.start()
        except OSError as problem:
            raise BadInput(
                f"--{'unix ' + unix if unix else f'http {host}:{port}'}: {problem.strerror or problem}"
            ) from None
        if unix is not None:
            mine = inode(unix)
        bound = unix or "http://{}:{}".format(*server.addresses[0][:2])
        print(
            f"grpo-roc: {settings.workers} workers at level {settings.level}; listening at {bound}",
            file=sys.stderr,
            flush=True,
        )
        await stop.wait()
        desk.closing = True
        await site.stop()
        end = time.monotonic() + grace
        while desk.pending and not hurry.is_set() and time.monotonic() < end:
            await asyncio.sleep(0.02)
        if desk.pending:
            print(f"grpo-roc: {desk.pending} calls were cut off", file=sys.stderr)
    finally:
        await asyncio.to_thread(env.__exit__)
        await server.cleanup()
        if unix is not None and mine is not None and inode(unix) == mine:
            os.unlink(unix)
    return 0


def logger() -> logging.Logger:
    """For what goes wrong in here. A request that is none is told to who sent it, not to stderr, which any client could fill then, and stop the service where nobody reads it."""
    from aiohttp.http_exceptions import HttpProcessingError

    found = logging.getLogger(__name__)
    found.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return found


def inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def in_use(path: str) -> bool:
    """Whether somebody listens at a socket: one that a killed service left is taken over."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(path)
    except OSError:
        return False
    return True
