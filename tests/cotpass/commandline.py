"""For tests that run the installed command: `cotpass(...)`, record files, tables, and a loopback model.

The loopback model is an OpenAI-compatible server whose reply is a pure function of the request, so
that two runs can be compared byte for byte and calls can be counted.
"""

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BIN = Path(sys.executable).parent / "cotpass"


def cotpass(*args, stdin=None, env=None, timeout=120):
    """Run the installed command; returns the CompletedProcess with text streams."""
    return subprocess.run(
        [str(BIN), *map(str, args)], input=stdin, capture_output=True, text=True, env=env, timeout=timeout
    )


def start(*args, env=None):
    return subprocess.Popen(
        [str(BIN), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def write(path, records):
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def tasks(n):
    return [
        {"id": f"t{i}", "messages": [{"role": "user", "content": f"What is {i} + 1?"}], "answer": str(i + 1)}
        for i in range(n)
    ]


def samples(n, per=2):
    """Graded-looking text: sample 0 of each task is right, the others are off by one."""
    return [
        {**task, "sample": j, "response": f"{i} + 1 = {i + 1 + j} so \\boxed{{{i + 1 + j}}}", "finish_reason": "stop"}
        for i, task in enumerate(tasks(n))
        for j in range(per)
    ]


def counts(path, rows):
    """A table of counts; rows: (problem, n, c) or (problem, n, c, d)."""
    head = ["problem", "n", "c", "d"][: len(rows[0])]
    path.write_text("\n".join(",".join(map(str, row)) for row in [head, *rows]) + "\n")
    return path


def judged(problems, seed, votes=3, samples=8, quality=0.6, judge="judge-8b", **more):
    """Records of `problems` × `samples`, right with a chance that differs by problem, and voted on where right."""
    rng = random.Random(seed)
    rows = []
    for i in range(problems):
        chance = quality * rng.random()
        for s in range(samples):
            row = {"id": f"q{i}", "sample": s, "answer": str(i), "response": f"{s}", "finish_reason": "stop"}
            row["correct"] = rng.random() < chance
            if votes and row["correct"]:
                row["votes"] = rng.choices(["yes", "no"], [3, 1], k=votes)
                row["judge"] = [{"model": judge}] * votes
            rows.append({**row, **more})
    return rows


class LoopbackModel:
    """`with LoopbackModel(delay=0.02) as model: model.uri, model.bodies` — one reply a request."""

    def __init__(self, delay=0.0, reply=None):
        self.delay, self.bodies, self.headers = delay, [], []
        self.reply = reply or self._default
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    owner.bodies.append(body)
                    owner.headers.append(dict(self.headers))
                time.sleep(owner.delay)
                text = owner.reply(body)
                data = json.dumps(
                    {
                        "model": "loopback",
                        "choices": [
                            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                        ],
                        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
                    }
                ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                data = json.dumps({"object": "list", "data": [{"id": "loopback", "object": "model"}]}).encode()
                self.send_response(200 if self.path == "/v1/models" else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # a killed client tears its connection; that is what the tests do

        self._server = Server(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}/v1#loopback"

    @staticmethod
    def _default(body):
        digest = hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).digest()
        question = body["messages"][-1]["content"]
        number = int("".join(c for c in question.split("+")[0] if c.isdigit()) or 0)
        return f"{number} + 1 = {number + 1 + digest[0] % 2}, so \\boxed{{{number + 1 + digest[1] % 2}}}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()
