"""A server for tests: OpenAI's completions over a model of this process, with vLLM's fields, and with what a server may do wrong."""

import json
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


class Peer(ThreadingHTTPServer):
    """ids, scores: given back where asked for. processed: log-probabilities of the tempered distribution. blocks: of 16 tokens, told in metrics (0: not told). busy: times it says 429 first. dies: after so many
    completions. hangs, ill: completions and /health never answer. weights: /collective_rpc is there. script: tokens of each turn in place of sampled ones, by the tokens that it is asked with."""

    daemon_threads = True

    def __init__(self, model, *, ids=True, scores=True, processed=False, blocks=0, busy=0, dies=None, hangs=False, ill=False, weights=False, context=4096, adds=(), key="", script=None, name="tiny"):  # fmt: skip
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.ids, self.scores, self.processed, self.blocks = model, ids, scores, processed, blocks
        self.busy, self.dies, self.hangs, self.ill, self.weights = busy, dies, hangs, ill, weights
        self.context, self.adds, self.key, self.script, self.served = context, list(adds), key, script, name
        self.guard = threading.Lock()
        self.asked, self.cut, self.resets, self.cached = [], 0, 0, set()
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1#{self.served}"

    def __exit__(self, *why):
        self.die()

    def die(self):
        """Nobody listens any more, and connections break."""
        self.over.set()
        threading.Thread(target=self.shutdown).start()
        self.server_close()

    def handle_error(self, request, client_address):
        """A connection that broke is what some tests are about."""

    @torch.no_grad()
    def sample(self, body):
        context, temperature, draw = [*self.adds, *body["prompt"]], body["temperature"], np.random.default_rng(body["seed"])  # fmt: skip
        given = self.script(body["prompt"]) if self.script and not body["logprobs"] else None
        ids, scores, tops, reason = [], [], [], "length"
        rows = self.model(torch.tensor([context + given])).logits[0, len(context) - 1 :].double() if given else None
        while len(ids) < body["max_tokens"]:
            logits = self.model(torch.tensor([context + ids])).logits[0, -1].double() if rows is None else rows[len(ids)]  # fmt: skip
            heated = torch.log_softmax(logits / temperature, -1) if temperature else torch.log_softmax(logits, -1)
            if given:
                token = given[len(ids)]
            elif temperature:
                token = int(draw.choice(len(heated), p=heated.exp().numpy() / float(heated.exp().sum())))
            else:
                token = int(logits.argmax())
            shown = heated if self.processed else torch.log_softmax(logits, -1)
            ids.append(token)
            scores.append(float(shown[token]))
            best = shown.topk(body["logprobs"])
            tops.append({f"token_id:{k}": float(v) for v, k in zip(best.values, best.indices.tolist(), strict=True)})
            if token in body["stop_token_ids"]:
                reason = "stop"
                break
        choice = {"index": 0, "text": "", "finish_reason": reason, "token_ids": None, "prompt_token_ids": None, "logprobs": None}  # fmt: skip
        if self.ids and body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": context}
        if self.scores:
            choice["logprobs"] = {"token_logprobs": scores, "top_logprobs": tops, "tokens": [""] * len(ids)}
        return {"id": "cmpl", "object": "text_completion", "choices": [choice], "usage": {}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Nothing is printed."""

    def answer(self, status, body, kind="application/json"):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        peer = self.server
        if peer.over.is_set():
            self.close_connection = True
            return
        if peer.key and self.headers.get("Authorization") != f"Bearer {peer.key}":
            self.answer(401, {"error": {"message": f"no, not {self.headers.get('Authorization')}"}})
        elif self.path == "/v1/models":
            self.answer(200, {"data": [{"id": peer.served, "root": "there", "max_model_len": peer.context}]})
        elif self.path == "/metrics" and peer.blocks:
            told = f'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="{peer.blocks}",x="None"}} 1.0\n'
            self.answer(200, b"# HELP\n" + told.encode(), "text/plain")
        elif self.path == "/health" and not peer.ill:
            self.answer(200, b"")
        elif self.path == "/health":
            self.wait()
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self):
        peer = self.server
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if peer.over.is_set():
            self.close_connection = True
            return
        if self.path == "/v1/completions":
            self.complete(json.loads(raw))
        elif self.path == "/collective_rpc" and peer.weights:
            body = json.loads(raw)
            if "method" not in body:
                self.answer(400, {"detail": "Missing 'method' in request body"})
                return
            assert body["method"] == "reload_weights"
            found = {}
            for path in sorted(Path(body["kwargs"]["weights_path"]).glob("*.safetensors")):
                found |= load_file(path)
            missing, unexpected = peer.model.load_state_dict(found, strict=False)
            assert not unexpected and set(missing) <= {"lm_head.weight"}
            self.answer(200, {"results": [None]})
        elif self.path == "/reset_prefix_cache" and peer.weights:
            peer.resets += 1
            self.answer(200, {"success": peer.resets % 2 == 0})  # refused once: blocks are still held
        else:
            self.answer(404, {"detail": "Not Found"})

    def complete(self, body):
        peer = self.server
        with peer.guard:
            if peer.over.is_set():
                self.close_connection = True
                return
            if peer.busy:
                peer.busy -= 1
                self.answer(429, {"error": {"message": "not now"}})
                return
            probe = body["max_tokens"] == 1 and body["logprobs"] > 0
            if not probe:
                peer.asked.append(body)
            if peer.dies is not None and len(peer.asked) > peer.dies:
                peer.die()
            if peer.over.is_set():
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if not (peer.hangs and not probe):
                self.answer(200, peer.sample(body))
                return
        self.wait()

    def wait(self):
        """Until whoever asked has gone."""
        while not self.server.over.is_set():
            if select.select([self.connection], [], [], 0.02)[0]:
                self.server.cut += 1
                self.close_connection = True
                return
