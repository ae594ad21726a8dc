"""The environment beside the way of code-judge and beside fresh interpreters, and the resampler, on this machine: an object a line (make bench-grpo-roc).

code-judge (github.com/0xWJ/code-judge) takes calls over HTTP into a queue in Redis, from which workers start `python source.py` for each. It is stated again here, as Redis is no part of this project: an HTTP server,
a queue in its memory, as many workers as cores, a file and a fresh interpreter for each call; no isolation but limits of resources. Its client sends batches. `--only CASE` for one case, `--quick` for a look.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from grpo_roc import bench_env, penalty, roc, serve
from grpo_roc.env.environment import Environment, Program, Settings
from grpo_roc.env.isolation import LEVELS, probe

TOOL, COMMAND = "grpo-roc", "python tools/grpo-roc/bench/env.py"
WORKERS = os.cpu_count() or 1


def machine() -> str:
    model = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} CPUs"


def rounded(x: float | None) -> float | None:
    return None if x is None else float(f"{x:.4g}")


def row(
    case: str, ours: float, unit: str, *, n: int, only: str, peer: float | None = None, peer_name: str | None = None, ratio: float | None = None, floor: float | None = None,
    floor_ratio: float | None = None, command: str = COMMAND, **more: float,
) -> None:  # fmt: skip
    """ratio: how many times better than the peer."""
    print(json.dumps({
        "tool": TOOL, "case": case, "ours": rounded(ours), "peer": rounded(peer), "peer_name": peer_name, "unit": unit, "ratio": rounded(ratio), "floor": rounded(floor), "floor_ratio": rounded(floor_ratio), "n": n,
        "machine": machine(), "command": f"{command} --only {only}", **{name: rounded(value) for name, value in more.items()},
    }), flush=True)  # fmt: skip


# ---------------------------------------------------------------- the way of code-judge


async def code_judge(code: str, calls: int) -> float:
    """Calls a second, through HTTP and back."""
    from aiohttp import web

    queue: asyncio.Queue[tuple[dict[str, str], asyncio.Future[dict[str, object]]]] = asyncio.Queue()

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    async def worker() -> None:
        while True:
            told, done = await queue.get()
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "source.py").write_text(told["solution"])
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "source.py",
                    cwd=folder,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    preexec_fn=limits,
                )
                out, err = await asyncio.wait_for(process.communicate((told.get("input") or "").encode()), 10)
            done.set_result(
                {"success": process.returncode == 0, "stdout": out.decode(), "stderr": err.decode(), "reason": ""}
            )

    async def batch(request: web.Request) -> web.Response:
        told = await request.json()
        waiting = []
        for one in told["submissions"]:
            done: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
            queue.put_nowait((one, done))
            waiting.append(done)
        return web.json_response({"results": await asyncio.gather(*waiting)})

    app = web.Application()
    app.router.add_post("/run/long-batch", batch)
    workers = [asyncio.create_task(worker()) for _ in range(WORKERS)]
    rate = await batches(app, code, calls)
    for one in workers:
        one.cancel()
    return rate


async def batches(app: Any, code: str, calls: int) -> float:
    """Calls a second of an application that speaks code-judge's dialect, sent as its client sends them: 32 a batch, eight batches on their way."""
    import aiohttp
    from aiohttp import web

    server = web.AppRunner(app, access_log=None)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    port = server.addresses[0][1]
    room = asyncio.Semaphore(8)
    async with aiohttp.ClientSession() as session:

        async def send(n: int) -> None:
            told = {"submissions": [{"type": "python", "solution": code}] * n}
            async with room, session.post(f"http://127.0.0.1:{port}/run/long-batch", json=told) as response:
                assert all(one["success"] for one in (await response.json())["results"])

        began = time.perf_counter()
        await asyncio.gather(*(send(min(32, calls - k)) for k in range(0, calls, 32)))
        seconds = time.perf_counter() - began
    await server.cleanup()
    return calls / seconds


# ---------------------------------------------------------------- cases


def settings() -> Settings:
    level = next(one for one in LEVELS if one not in probe())
    return Settings(level=level, workers=WORKERS)


def beside(quick: bool) -> None:
    """print(1) and a sympy call: ours, in this process and over HTTP, beside the way of code-judge and fresh interpreters alone."""
    with Environment(settings()) as env:
        for name, ours_n, theirs_n in (
            ("print", 100 if quick else 3000, 8 if quick else 300),
            ("sympy", 20 if quick else 600, 2 if quick else 20),
        ):
            code = bench_env.PROGRAMS[name]
            for _ in range(10):
                env.run(Program(code))
            judge, bare = "way of code-judge, restated", "fresh interpreters, unconfined, as many at once as cores"
            peers = {
                judge: asyncio.run(code_judge(code, theirs_n)),
                bare: bench_env.fresh(code, theirs_n, WORKERS)["calls_s"],
            }
            ours = {
                f"{name}, {env.settings.level}, {WORKERS} workers": bench_env.closed(env, code, ours_n, lambda: None)[
                    "calls_s"
                ],
                f"{name} over HTTP, {env.settings.level}, {WORKERS} workers": asyncio.run(
                    batches(serve.application(serve.Desk(env, 1 << 16, 300.0)), code, ours_n)
                ),
            }
            for case, rate in ours.items():
                for peer_name, peer in peers.items():
                    row(
                        case,
                        rate,
                        "calls/s",
                        peer=peer,
                        peer_name=peer_name,
                        ratio=rate / peer,
                        n=ours_n,
                        only="beside",
                    )


def levels(quick: bool) -> None:
    """What each level costs."""
    missing = probe()
    rates = {}
    for level in LEVELS:
        if level not in missing:
            with Environment(settings(), level=level) as env:
                for _ in range(10):
                    env.run(Program("print(1)"))
                rates[level] = bench_env.closed(env, "print(1)", 100 if quick else 1000, lambda: None)["calls_s"]
    for level, rate in rates.items():
        row(
            f"print, {level}",
            rate,
            "calls/s",
            peer=rates["rlimit-only"],
            peer_name="rlimit-only",
            ratio=rate / rates["rlimit-only"],
            n=100 if quick else 1000,
            only="levels",
        )


def steady(quick: bool) -> None:
    """The paper's rate and its burst."""
    with Environment(settings()) as env:
        for _ in range(10):
            env.run(Program("print(1)"))
        found = bench_env.opened(env, 40, 2 if quick else 20, lambda: None)
        row(
            "40 calls/s, mean latency",
            found["mean_s"],
            "s",
            peer=0.3,
            peer_name="the paper's mean",
            ratio=0.3 / found["mean_s"],
            n=found["calls"],
            only="steady",
        )
        found = bench_env.queued(env, 500 if quick else 45_000, lambda: None)
        row(
            f"{found['calls']} calls at once, none lost or mixed up",
            found["seconds"],
            "s",
            n=found["calls"],
            only="steady",
        )


def resampler(quick: bool) -> None:
    """512 groups of 32 trajectories: penalties from structure and choice; beside the released scorer on the same trajectories' text."""
    rng = random.Random(0)
    groups = []
    for _ in range(16 if quick else 512):
        group = []
        for _ in range(32):
            turns = [
                {
                    "text": "<reason>" + "so on and on " * 400 + "</reason>",
                    "calls": [
                        {"name": "p", "arguments": {}, "status": rng.choice(["ok", "error"]), "stdout": "7" * 200}
                    ],
                }
                for _ in range(rng.randrange(1, 6))
            ]
            turns.append({"text": "<answer>\\boxed{7}</answer>", "calls": []})
            group.append((float(rng.random() < 0.5), turns))
        groups.append(group)
    n = 32 * len(groups)
    texts = [[penalty.response_text(turns) for _, turns in group] for group in groups]
    began = time.perf_counter()
    for k, group in enumerate(groups):
        roc.choose(
            [reward for reward, _ in group], [penalty.of_turns(turns).total for _, turns in group], 16, group=str(k)
        )
    ours = time.perf_counter() - began
    began = time.perf_counter()
    for group, text in zip(groups, texts, strict=True):
        roc.choose_rstar([reward for reward, _ in group], [penalty.rstar(one).total for one in text], 16)
    theirs = time.perf_counter() - began
    row(
        f"{n} trajectories scored and chosen",
        ours,
        "s",
        peer=theirs,
        peer_name="expressions over the text, as released",
        ratio=theirs / ours,
        n=n,
        only="resampler",
    )


CASES = {"beside": beside, "levels": levels, "steady": steady, "resampler": resampler}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    for name, case in CASES.items():
        if given.only in (None, name):
            case(given.quick)
    left = subprocess.run(["pgrep", "-f", "grpo_roc.env.zygote"], capture_output=True, text=True).stdout.split()
    assert not left, f"processes are left: {left}"


if __name__ == "__main__":
    main()
