"""`grpo-roc serve`: the environment over HTTP or a Unix socket, in its own dialect and in those of code-judge and SandboxFusion.

    POST /v1/exec               {id?, code, input?, session?, timeout?}, or a list of them -> what `exec` adds to a record
    DELETE /v1/sessions/NAME    end a session
    GET /v1/status, /status, /ping
    POST /run, /run/batch, /run/long-batch, /judge, /judge/batch, /judge/long-batch     code-judge
    POST /run_code                                                                      SandboxFusion

Where it sits: above env/environment.py. One queue for all, first come first served within a trajectory and turn by turn between trajectories. A call's id names it: the same id again waits for, or gives, the
same result, and runs nothing twice. Beyond --queue calls are refused with 429 and Retry-After. On SIGTERM nothing new is taken, what runs may end within --grace, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from grpo_roc.env.environment import Environment, Program, Result, Settings
from tenfold_shared import BadInput, Missing

Record = dict[str, Any]
KEPT, KEPT_BYTES = 65_536, 256 << 20  # results that are remembered by id, and what their outputs may come to
BODY = 64 << 20


class Invalid(ValueError):
    """A request that cannot be read."""


class Full(Exception):
    """More calls wait than may."""


class Desk:
    """Calls in, results out: ids, the bound of the queue, counts."""

    def __init__(self, env: Environment, queue: int, timeout_most: float) -> None:
        self.env, self.queue, self.timeout_most = env, queue, timeout_most
        self.pending = 0
        self.closing = False
        self.done = 0
        self.statuses: dict[str, int] = {}
        self.known: OrderedDict[str, asyncio.Future[Result]] = OrderedDict()
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
            bool(told.get("echo", True)),
            told.get("owner"),
        )

    async def run(self, program: Program, name: str | None) -> Result:
        """Raises Full."""
        if name is not None and name in self.known:
            self.known.move_to_end(name)
            return await asyncio.shield(self.known[name])
        if self.pending >= self.queue or self.closing:
            raise Full()
        work = asyncio.ensure_future(self.counted(program))
        if name is not None:
            self.known[name] = work
            work.add_done_callback(self.remember)
        return await asyncio.shield(work)

    def remember(self, work: asyncio.Future[Result]) -> None:
        """The oldest results are forgotten where there are too many, or too much of them; not those of calls that still run."""
        self.held += weight(work)
        for name, one in list(itertools.islice(self.known.items(), max(len(self.known) - KEPT, 64))):
            if len(self.known) <= KEPT and self.held <= KEPT_BYTES:
                return
            if one.done() and one is not work:
                self.held -= weight(self.known.pop(name))

    async def counted(self, program: Program) -> Result:
        self.pending += 1
        try:
            result = await asyncio.wrap_future(self.env.submit(program))
        finally:
            self.pending -= 1
        self.done += 1
        self.statuses[result.status] = self.statuses.get(result.status, 0) + 1
        return result

    def status(self) -> Record:
        running = self.env.running
        return {
            "level": self.env.settings.level, "workers": len(self.env.slots), "running": running, "waiting": max(self.pending - running, 0), "sessions": len(self.env.sessions),
            "done": self.done, "statuses": dict(self.statuses), "seconds": round(time.monotonic() - self.began, 3),
        }  # fmt: skip


def weight(work: asyncio.Future[Result]) -> int:
    """Of an ended call: about the bytes that its result holds."""
    if work.cancelled() or work.exception() is not None:
        return 0
    result = work.result()
    return len(result.stdout) + len(result.stderr)


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


async def judge(desk: Desk, told: Any) -> Record:
    """One submission of code-judge. Raises Full."""
    if not isinstance(told, dict) or not isinstance(told.get("solution"), str):
        return refused(told, "solution: expected a string")
    kind = told.get("type", "python")
    if kind == "math":
        from tenfold_shared import answers

        # answers waits for processes of its own: not in this loop's thread
        grade = await asyncio.to_thread(
            answers.grade, str(told.get("expected_output") or ""), told["solution"], 2.0, require_box=False
        )
        right = grade.grade == "correct"
        return {
            "sub_id": told.get("sub_id"),
            "success": right,
            "run_success": True,
            "cost": 0.0,
            "stdout": "",
            "stderr": grade.reason,
            "reason": "",
        }
    if kind != "python":
        return refused(told, f"type {kind}: only python and math are run here")
    if told.get("input") is not None and not isinstance(told["input"], str):
        return refused(told, "input: expected a string")
    name = told.get("sub_id")
    program = Program(told["solution"], told.get("input") or "", echo=False)
    return judged(told, await desk.run(program, name if isinstance(name, str) else None))


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
            return web.Response(body=json.dumps(found).encode(), content_type="application/json")

        return handle

    async def exec_(request: Any) -> Any:
        told = await body(request)

        async def one(each: Any) -> Record:
            program = desk.program(each)
            name = each.get("id")
            result: Record = msgspec.to_builtins(await desk.run(program, name))
            return {"id": name, **result}

        if not isinstance(told, list):
            return await one(told)
        for each in told:
            desk.program(each)  # all are sound, or none is run
        if desk.pending + len(told) > desk.queue:
            raise Full()
        return await asyncio.gather(*map(one, told))

    async def run_one(request: Any) -> Any:
        return await judge(desk, await body(request))

    async def run_batch(request: Any) -> Any:
        told = await body(request)
        if not isinstance(told, dict) or not isinstance(told.get("submissions"), list):
            raise Invalid("submissions: expected a list")
        if desk.pending + len(told["submissions"]) > desk.queue:
            raise Full()
        return {
            "sub_id": told.get("sub_id"),
            "results": await asyncio.gather(*(judge(desk, one) for one in told["submissions"])),
        }

    async def run_code(request: Any) -> Any:
        told = await body(request)
        if not isinstance(told, dict) or told.get("language", "python") not in ("python", "pytest"):
            raise Invalid("language: only python is run here")
        if told.get("files") or told.get("fetch_files"):
            raise Invalid("files, fetch_files: not taken here; write them from the program")
        program = desk.program(
            {"code": told.get("code"), "input": told.get("stdin"), "timeout": told.get("run_timeout")}
        )
        return fused(await desk.run(msgspec.structs.replace(program, echo=False), None))

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
        raise Missing("serve needs aiohttp: pip install 'grpo-roc[serve]'")
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

    env = Environment(settings)
    await asyncio.to_thread(env.__enter__)
    desk = Desk(env, queue, timeout_most)
    server = web.AppRunner(application(desk), access_log=None, shutdown_timeout=grace)
    try:
        await server.setup()
        try:
            site = web.UnixSite(server, unix) if unix is not None else web.TCPSite(server, host, port)
            await site.start()
        except OSError as problem:
            raise BadInput(
                f"--{'unix ' + unix if unix else f'http {host}:{port}'}: {problem.strerror or problem}"
            ) from None
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
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
        while desk.pending and time.monotonic() < end:
            await asyncio.sleep(0.02)
        if desk.pending:
            print(f"grpo-roc: {desk.pending} calls were cut off after {grace:g} s", file=sys.stderr)
    finally:
        env.__exit__()
        await server.cleanup()
        if unix is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unix)
    return 0
