"""For tests that run the installed command: `dser(...)`, record files, and a loopback model server.

The server's reply is a pure function of the request (messages and seed), unless a test gives its own.
"""

import hashlib
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BIN = Path(sys.executable).parent / "dser"


def dser(*args, stdin=None, env=None, timeout=120):
    return subprocess.run(
        [str(BIN), *map(str, args)], input=stdin, capture_output=True, text=True, env=env, timeout=timeout
    )


def start(*args):
    return subprocess.Popen([str(BIN), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(path, records):
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def tasks(n, **more):
    return [{"id": f"t{i}", "prompt": f"What is {i} + 1?", "answer": str(i + 1), **more} for i in range(n)]


def sim(path, **world):
    path.write_text(json.dumps(world))
    return f"sim:{path}"


def kind_of(body):
    """solve, verify or refine, by the built-in prompts' words."""
    said = body["messages"][-1]["content"]
    if "A review of it:" in said:
        return "refine"
    return "verify" if "Proposed solution:" in said else "solve"


def hashed_reply(body):
    """Solutions that are right or off by one, and verdicts, by a hash of the request."""
    digest = hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).digest()
    if kind_of(body) == "verify":
        return f"Looked at it.\nVERDICT: {'PASS' if digest[0] % 2 else 'FAIL'}"
    said = body["messages"][-1]["content"]
    number = int(said.split("What is ")[1].split(" ")[0])
    return f"<think>{digest.hex()}</think>Draft {digest.hex()[:6]}: \\boxed{{{number + 1 + digest[1] % 2}}}"


class Server:
    """`with Server(reply) as server: server.uri, server.bodies`. reply: body -> text, or (status, headers, json)."""

    def __init__(self, reply=hashed_reply, delay=0.0, usage=True):
        self.bodies, self.now, self.most = [], 0, 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    owner.bodies.append(body)
                    owner.now += 1
                    owner.most = max(owner.most, owner.now)
                time.sleep(delay(body) if callable(delay) else delay)
                found = reply(body)
                with owner._lock:
                    owner.now -= 1
                status, headers = 200, {}
                if isinstance(found, tuple):
                    status, headers, found = found
                if isinstance(found, str):
                    message = {"role": "assistant", "content": found}
                    found = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
                    if usage:
                        found["usage"] = {"prompt_tokens": 7, "completion_tokens": 3}
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, client_address):
                pass  # clients that were killed

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}/v1#loop"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()


def reply_of(text, finish="stop", **message):
    """A whole reply: text, finish_reason and further message fields."""
    choice = {"finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return (200, {}, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
