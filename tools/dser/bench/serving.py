"""Calls, not rounds: `dser solve` on a loopback server whose latencies are log-normal (σ = .8), 64 requests in flight.

Prints an object a line (make bench-dser). Beside it on the same server and the same calls: rounds with a barrier, as a
loop over a batch client makes them (64 chains at a time, by the same HTTP client of ours); 64 bare connections that
send as fast as they get answers, which is what the server saturates at; and, for single-turn samples, its_hub's
self-consistency with its own client. Last, the time a call costs us at 256 in flight with a server that answers at
once: CPU seconds of the whole command, starting it included, by the number of calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

COMMAND = "make bench-dser"
SIGMA, MEAN_S = 0.8, 0.25
IN_FLIGHT, MANY = 64, 256
PROBLEMS, CHAINS, ITERATIONS = 16, 16, 8
SAMPLES = 128  # of single-turn samples a problem, against its_hub


_serial = itertools.count()

# ---------------------------------------------------------------- the server, in a process of its own


def latency(body: dict, mean: float) -> float:
    """Seconds a request takes: log-normal with this mean, the same for the same request."""
    if mean == 0:
        return 0.0
    # Clients that send no seed ask the same thing many times over: their requests are told apart by their order.
    told = body.get("seed", next(_serial))
    digest = hashlib.blake2b(json.dumps([body["messages"], told]).encode(), digest_size=16).digest()
    u, v = (int.from_bytes(part, "little") + 1 for part in (digest[:8], digest[8:]))
    normal = math.sqrt(-2 * math.log(u / (2**64 + 1))) * math.cos(2 * math.pi * v / 2**64)
    return mean * math.exp(SIGMA * normal - SIGMA**2 / 2)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mean: float) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            body = json.loads(await reader.readexactly(length))
            if wait := latency(body, mean):
                await asyncio.sleep(wait)
            text = "VERDICT: FAIL" if "Check this solution" in body["messages"][-1]["content"] else "\\boxed{1}"
            message = {"role": "assistant", "content": text}
            reply = {
                "id": "x", "object": "chat.completion", "created": 0, "model": "loop",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            }  # fmt: skip
            data = json.dumps(reply).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve(mean: float) -> None:
    server = await asyncio.start_server(lambda r, w: answer(r, w, mean), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def server(mean: float):
    child = subprocess.Popen([sys.executable, __file__, "serve", str(mean)], stdout=subprocess.PIPE, text=True)
    try:
        yield int(child.stdout.readline())
    finally:
        child.kill()
        child.wait()


# ---------------------------------------------------------------- clients


def dser(port: int, tasks: Path, in_flight: int, *options: str) -> tuple[float, float]:
    """(wall, CPU) seconds of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [
        "dser",
        "solve",
        str(tasks),
        "--model",
        f"http://127.0.0.1:{port}/v1#loop",
        "--concurrency",
        str(in_flight),
    ]
    subprocess.run([*command, *options, "-q"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def bare(port: int, calls: int, in_flight: int) -> float:
    """Seconds for so many calls over so many connections that never wait for one another."""
    left = iter(range(calls))
    started = time.perf_counter()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            body = json.dumps({"messages": [{"role": "user", "content": f"q{number}"}], "seed": number}).encode()
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(in_flight)))
    return time.perf_counter() - started


def lockstep(port: int, tasks: list[dict]) -> float:
    """Seconds for the same chains in rounds: 64 chains, one call each, all replies, the next call."""
    from dser.chain import Chain, Procedure, Step
    from dser.prompts import Prompts, Reading, answer_of, verdict_of
    from dser.runner import call_seed
    from tenfold_shared.generate import Request, Sampling
    from tenfold_shared.generate.server import ServerGenerator

    prompts, reading = Prompts(), Reading()
    model = ServerGenerator([f"http://127.0.0.1:{port}/v1"], "loop", concurrency=IN_FLIGHT)
    lines = [(task, k, Chain(Procedure(iterations=ITERATIONS))) for task in tasks for k in range(CHAINS)]
    started = time.perf_counter()
    for at in range(0, len(lines), IN_FLIGHT):
        block = lines[at : at + IN_FLIGHT]
        while due := [line for line in block if line[2].next]:
            requests, by_key = [], {}
            for task, k, chain in due:
                call = chain.next
                key = f"{task['id']}/{k}"
                by_key[key] = (task, k, chain, call)
                review = chain.review if call.role == "refine" else ""
                messages = prompts.messages(call.role, task, chain, chain.solution or "", review)
                requests.append(
                    Request(key, messages=messages, seed=call_seed(0, task["id"], k, call.iteration, call.role))
                )
            for done in list(model.generate(requests, Sampling(0.6, 0.95, 0, 4096))):
                task, k, chain, call = by_key[done.key]
                step = Step(id=task["id"], chain=k, iteration=call.iteration, role=call.role, text=done.text)
                if call.role == "verify":
                    step.verdict = verdict_of(done.text, reading)
                else:
                    step.answer = answer_of(done.text, reading)
                chain.take(step)
    return time.perf_counter() - started


async def its_hub(port: int, tasks: list[dict]) -> None:
    """its_hub's self-consistency on all problems at once, behind one limit of 64 in flight."""
    from its_hub import SelfConsistency
    from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
    from its_hub.core.orchestrator import LMOrchestrator

    model = OpenAICompatibleLanguageModel(f"http://127.0.0.1:{port}/v1", "none", "loop")
    method = SelfConsistency(orchestrator=LMOrchestrator(max_concurrency=IN_FLIGHT))
    asked = "{}\n\nThink it through step by step. Put the final answer in \\boxed{{}}."
    await asyncio.gather(*(method.ainfer(model, asked.format(task["prompt"]), SAMPLES) for task in tasks))


# ---------------------------------------------------------------- the table


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def row(case: str, ours: float, unit: str, n: int, **more: object) -> None:
    found = {"tool": "dser", "case": case, "ours": round(ours, 3), "peer": None, "peer_name": None, "unit": unit}
    found |= {"ratio": None, "floor": None, "floor_ratio": None, "n": n, "machine": machine(), "command": COMMAND}
    print(json.dumps({**found, **more}), flush=True)


def problems() -> list[dict]:
    return [{"id": f"t{i}", "prompt": f"What is {i}?", "answer": "1"} for i in range(PROBLEMS)]


def main() -> None:
    calls = PROBLEMS * CHAINS * (1 + 2 * ITERATIONS)
    tasks = problems()
    with tempfile.TemporaryDirectory() as folder, server(MEAN_S) as port:
        path = Path(folder) / "tasks.jsonl"
        path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
        shape = ["--chains", str(CHAINS), "--iterations", str(ITERATIONS)]
        ours, saturated = [], []
        for _ in range(2):
            ours.append(calls / dser(port, path, IN_FLIGHT, *shape, "-o", str(Path(folder) / f"run{len(ours)}"))[0])
            saturated.append(calls / asyncio.run(bare(port, calls, IN_FLIGHT)))
        rounds = calls / lockstep(port, tasks)
        mean, full = statistics.mean(ours), statistics.mean(saturated)
        row(
            "chains, 64 in flight, log-normal latency", mean, "calls/s", calls, peer=round(rounds, 3),
            peer_name="lock-step rounds", ratio=round(mean / rounds, 2), floor=round(full, 3), floor_ratio=round(mean / full, 3),
        )  # fmt: skip
        samples = PROBLEMS * SAMPLES
        single = samples / dser(port, path, IN_FLIGHT, "--preset", "self-consistency", "--chains", str(SAMPLES))[0]
        started = time.perf_counter()  # a process, as ours is one
        subprocess.run([sys.executable, __file__, "its_hub", str(port)], check=True, stderr=subprocess.DEVNULL)
        peer = samples / (time.perf_counter() - started)
        row(
            "self-consistency, 64 in flight, log-normal latency", single, "samples/s", samples, peer=round(peer, 3),
            peer_name="its_hub 1.2.0", ratio=round(single / peer, 2),
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, server(0.0) as port:
        path = Path(folder) / "tasks.jsonl"
        path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
        _, cpu = dser(port, path, MANY, "--chains", "32", "--iterations", "8", "-o", str(Path(folder) / "run"))
        count = PROBLEMS * 32 * 17
        row(
            "own CPU time a call, 256 in flight",
            1000 * cpu / count,
            "ms",
            count,
            floor=1.0,
            floor_ratio=round(1000 * cpu / count, 3),
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(float(sys.argv[2])))
    elif sys.argv[1:2] == ["its_hub"]:
        asyncio.run(its_hub(int(sys.argv[2]), problems()))
    else:
        main()
