"""A loopback HTTP server that answers each request as a script says, faults included.

`with ScriptedServer(Reply(500), chat("hello")) as server:` answers the first request with a 500 and
every later one with the last entry; an entry may be a function of the request's body. It keeps what
it was sent (`requests`) and how many it held at once (`most_at_once`).
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """status, headers, body as sent. claimed: a Content-Length that lies. drop: close without a word.

    delay: seconds before the reply; hold: an event to wait for instead.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    claimed: int | None = None
    drop: bool = False
    delay: float = 0.0
    hold: threading.Event | None = None


def as_json(value: object, **more) -> Reply:
    return Reply(body=json.dumps(value).encode(), **more)


def chat(text: object = "hello", finish: object = "stop", message: dict | None = None, **more) -> Reply:
    """A well-formed chat completion; `message` adds fields beside role and content."""
    choice = {"finish_reason": finish, "message": {"role": "assistant", "content": text, **(message or {})}}
    return as_json({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}, **more)


def completion(text: str, finish: str = "stop", **choice) -> Reply:
    """A well-formed reply of the older /completions interface."""
    entry = {"finish_reason": finish, "text": text, **choice}
    return as_json({"choices": [entry], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})


def models(*names: str) -> Reply:
    return as_json({"object": "list", "data": [{"id": name} for name in names]})


@dataclass
class Got:
    method: str
    path: str
    headers: dict[str, str]
    body: dict | None


class ScriptedServer:
    def __init__(self, *script: Reply | Callable[[dict], Reply]) -> None:
        self.script, self.requests, self.most_at_once = script or (chat(),), [], 0
        self._now, self._lock = 0, threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    turn = len(owner.requests)
                    owner.requests.append(Got(self.command, self.path, dict(self.headers), body))
                    owner._now += 1
                    owner.most_at_once = max(owner.most_at_once, owner._now)
                try:
                    entry = owner.script[min(turn, len(owner.script) - 1)]
                    self._send(entry if isinstance(entry, Reply) else entry(body))
                finally:
                    with owner._lock:
                        owner._now -= 1

            def do_GET(self):
                with owner._lock:
                    turn = len(owner.requests)
                    owner.requests.append(Got(self.command, self.path, dict(self.headers), None))
                entry = owner.script[min(turn, len(owner.script) - 1)]
                assert isinstance(entry, Reply)
                self._send(entry)

            def _send(self, reply):
                if reply.hold is not None:
                    reply.hold.wait(30)
                time.sleep(reply.delay)
                if reply.drop:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(reply.body) if reply.claimed is None else reply.claimed))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)
                if reply.claimed is not None:
                    self.close_connection = True

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # clients that hang up are what the tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()


def refusing_url() -> str:
    """An address where nothing listens: a port that was just given out and closed again."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/v1"
