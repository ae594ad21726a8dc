"""OpenAI-compatible servers as a backend, against a scripted loopback server: retries, many in flight, keys, replies."""

import asyncio
import logging
import threading
import time
from contextlib import closing

import pytest
import torch
from generate_requests import by_key, encoded
from scripted_server import Reply, ScriptedServer, as_json, chat, completion, models, refusing_url

from tenfold_shared import BadInput, Missing
from tenfold_shared.generate import Request, Sampling
from tenfold_shared.generate.recording import Recorder
from tenfold_shared.generate.server import ServerGenerator

torch.set_num_threads(1)


# ------------------------------------------------------------------ servers


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(i=0, text="hi"):
    return Request(f"k{i}", messages=[{"role": "user", "content": text}], seed=i)


class Client:
    """A ServerGenerator whose waiting between attempts is written down instead of done."""

    def __init__(self, *urls, model="m", **more):
        self.waits = []

        async def sleep(seconds):
            self.waits.append(seconds)
            await asyncio.sleep(0)

        self.backend = ServerGenerator(urls, model, **{"timeout": 10.0, "max_retries": 3, "sleep": sleep, **more})

    def get(self, *requests, **how):
        return list(self.backend.generate(requests or [ask()], Sampling(**how)))


FAULTS = {
    "429": Reply(429, b'{"error": {"message": "slow down"}}'),
    "500": Reply(500, b"oops"),
    "503 html": Reply(503, b"<html>\n<p>busy</p></html>", {"Content-Type": "text/html"}),
    "408": Reply(408),
    "torn body": Reply(200, b'{"choices": [{"fin', claimed=4000),
    "torn json": Reply(200, b'{"choices": [{"finish_reason": "stop"'),
    "no json": Reply(200, b"<html>welcome</html>"),
    "not utf-8": Reply(200, b'{"choices": "\xff\xfe"}'),
    "deep json": Reply(200, b"[" * 200_000),
    "no choices": as_json({"choices": []}),
    "a list": as_json([1]),
    "null": as_json(None),
    "text of another kind": chat([{"type": "text", "text": "hello"}]),
    "dropped": Reply(drop=True),
    "bad gzip": Reply(200, b"this is no gzip", {"Content-Encoding": "gzip"}),
    "stall": chat("late", delay=2.5),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_may_pass_is_tried_again_exactly_once_each(fault, caplog):
    caplog.set_level(logging.INFO, "tenfold_shared")
    with ScriptedServer(FAULTS[fault], FAULTS[fault], chat("fine")) as server:
        client = Client(server.url, timeout=1.0 if fault == "stall" else 10.0)
        (got,) = client.get()
    assert (got.text, got.finish_reason, got.prompt_tokens, got.completion_tokens) == ("fine", "stop", 7, 3)
    assert len(server.requests) == 3 and len(client.waits) == 2
    assert server.requests[0].body == server.requests[2].body
    assert len([r for r in caplog.records if r.name.startswith("tenfold")]) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_an_error_of_its_request_alone(fault):
    def answer(body):
        return FAULTS[fault] if body["messages"][0]["content"] == "bad" else chat("fine")

    with ScriptedServer(answer) as server:
        client = Client(server.url, max_retries=2, timeout=1.0 if fault == "stall" else 10.0)
        got = by_key(client.get(ask(0), ask(1, "bad"), ask(2)))
    assert got["k0"].text == got["k2"].text == "fine"
    assert got["k1"].finish_reason == "error" and got["k1"].error.endswith("(after 3 attempts)"), got["k1"]
    assert "\n" not in got["k1"].error and len(got["k1"].error) < 400
    assert len(server.requests) == 5 and len(client.waits) == 2


def test_backoff_doubles_within_its_jitter_up_to_a_ceiling_and_repeats_with_the_seed():
    def waits(**more):
        with ScriptedServer(Reply(500)) as server:
            client = Client(server.url, max_retries=9, **more)
            client.get()
            assert len(server.requests) == 10
        return client.waits

    first = waits(seed=1)
    for attempt, wait in enumerate(first):
        full = min(0.5 * 2**attempt, 30.0)
        assert full / 2 <= wait <= full
    assert len(first) == 9 and waits(seed=1) == first and waits(seed=2) != first


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("100000", 120, 120),
        ("inf", 120, 120),
        *((header, 0.25, 0.5) for header in ("0.1", "-5", "nan", "soon", "Wed, 21 Oct 2015 07:28:00 GMT")),
    ],
)
def test_retry_after_is_heeded_and_bounded(header, least, most):
    with ScriptedServer(Reply(429, headers={"Retry-After": header}), chat()) as server:
        client = Client(server.url)
        assert client.get()[0].text == "hello"
    assert len(client.waits) == 1 and least <= client.waits[0] <= most


@pytest.mark.parametrize("status", [400, 413, 422, 301])
def test_a_request_the_server_refuses_is_not_repeated(status):
    refusal = Reply(status, b'{"error": {"message": "context is\\n too short", "type": "x"}}')
    with ScriptedServer(refusal, chat("next")) as server:
        client = Client(server.url, concurrency=1)
        first, second = client.get(ask(0), ask(1))
    assert first.error == f"HTTP {status}: context is too short" and first.finish_reason == "error"
    assert second.text == "next" and len(server.requests) == 2 and client.waits == []


@pytest.mark.parametrize(
    ("status", "key", "text"),
    [
        (401, None, "asks for a key; set MY_KEY"),
        (401, "sk-planted", "refuses the key in MY_KEY"),
        (403, "sk-planted", "refuses the key in MY_KEY"),
        (404, None, "usually ending in /v1"),
    ],
)
def test_what_no_request_could_do_ends_the_run(status, key, text):
    with ScriptedServer(Reply(status, b'{"detail": "no"}')) as server:
        client = Client(server.url, key=key, key_env="MY_KEY")
        with pytest.raises(Missing, match=text) as caught:
            client.get(*map(ask, range(20)))
        assert "sk-planted" not in str(caught.value) and client.waits == []
    assert not [t for t in threading.enumerate() if t.name == "tenfold-http"]


def test_a_server_that_is_not_there_is_missing_after_its_retries():
    client = Client(refusing_url(), max_retries=2)
    with pytest.raises(Missing, match="cannot be reached; is the server running"):
        client.get()
    assert len(client.waits) == 2


def test_a_server_that_goes_away_fails_requests_not_the_run():
    with ScriptedServer(chat("one", headers={"Connection": "close"})) as server:
        client = Client(server.url, concurrency=1, max_retries=1)
        run = client.backend.generate([ask(0), ask(1)], Sampling())
        first = next(run)
    (second,) = run
    assert first.text == "one" and "(after 2 attempts)" in second.error


def test_an_endpoint_that_is_down_is_passed_over():
    down = refusing_url()
    with ScriptedServer(chat("up")) as server:
        client = Client(down, server.url, concurrency=4)
        got = client.get(*map(ask, range(40)))
    assert [c.text for c in got] == ["up"] * 40 and len(server.requests) == 40
    assert len(client.waits) <= 4  # only those sent before the first refusal


def test_the_endpoint_with_fewest_requests_is_asked_next():
    release = threading.Event()
    with ScriptedServer(chat("slow", hold=release)) as slow, ScriptedServer(chat("fast")) as fast:
        backend = Client(slow.url, fast.url, concurrency=2).backend
        run = backend.generate(map(ask, range(8)), Sampling())
        texts = [next(run).text for _ in range(7)]
        release.set()
        texts += [c.text for c in run]
    assert texts == ["fast"] * 7 + ["slow"]
    assert (len(slow.requests), len(fast.requests)) == (1, 7)


def test_concurrency_is_reached_and_not_passed_and_the_source_is_pulled_lazily():
    pulled = 0

    def source():
        nonlocal pulled
        for i in range(24):
            pulled += 1
            yield ask(i)

    with ScriptedServer(chat(delay=0.1)) as server:
        done = 0
        for _ in Client(server.url, concurrency=6).backend.generate(source(), Sampling()):
            assert pulled <= done + 6
            done += 1
    assert server.most_at_once == 6 and done == 24


def test_finished_text_is_not_held_back_by_a_slow_source():
    got = []

    def source():
        yield ask(0)
        for i in range(1, 4):
            time.sleep(0.3)
            if i == 3:
                assert got, "nothing came out while the source was slow"
            yield ask(i)

    with ScriptedServer(chat()) as server:
        for completion_ in Client(server.url, concurrency=8).backend.generate(source(), Sampling()):
            got.append(completion_.key)
    assert sorted(got) == ["k0", "k1", "k2", "k3"]


def test_closing_cancels_what_is_under_way_and_the_next_run_works():
    release = threading.Event()

    def answer(body):
        return chat("quick") if body["seed"] == 0 else chat("slow", hold=release)

    with ScriptedServer(answer) as server:
        backend = Client(server.url, concurrency=4, timeout=60).backend
        started = time.monotonic()
        with closing(backend.generate(map(ask, range(10)), Sampling())) as run:
            assert next(run).text == "quick"
            while len(server.requests) < 4:
                time.sleep(0.01)
        assert time.monotonic() - started < 5
        assert not [t for t in threading.enumerate() if t.name == "tenfold-http"]
        release.set()
        assert [c.text for c in backend.generate([ask(0)], Sampling())] == ["quick"]
        assert len(server.requests) == 5
        # Load was given back too: a cancelled request must not count as under way for ever.
        assert sorted(c.text for c in backend.generate([ask(0), ask(1)], Sampling())) == ["quick", "slow"]


def test_an_error_of_the_source_ends_the_run_cleanly():
    def source():
        yield ask(0)
        raise BadInput("in.jsonl:2: broken")

    with ScriptedServer(chat(delay=0.2)) as server, pytest.raises(BadInput, match="broken"):
        list(Client(server.url).backend.generate(source(), Sampling()))
    assert not [t for t in threading.enumerate() if t.name == "tenfold-http"]


def test_what_is_sent_and_read():
    reply = chat("4", message={"reasoning_content": "two and two"})
    with ScriptedServer(reply, chat("cut", "length"), chat(None, "tool_calls")) as server:
        client = Client(server.url + "/", concurrency=1)
        how = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "max_tokens": 9, "stop": ("a", "b")}
        first, second, third = client.get(ask(4), ask(5), ask(6), **how)
    assert (first.text, first.reasoning, first.model) == ("4", "two and two", "m")
    assert (second.text, second.finish_reason, second.reasoning) == ("cut", "length", None)
    assert (third.text, third.finish_reason) == ("", "stop")
    sent = server.requests[0]
    assert sent.path == "/v1/chat/completions" and "Authorization" not in sent.headers
    assert sent.body == {
        "model": "m",
        "n": 1,
        "seed": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
        "top_k": 3,
        "stop": ["a", "b"],
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_raw_prompts_go_to_the_older_interface():
    scores = {"token_logprobs": [-0.5, -1], "tokens": ["a", "b"]}
    with ScriptedServer(completion("ab", logprobs=scores)) as server:
        client = Client(server.url, concurrency=1)
        got = client.get(Request("a", prompt="x"), Request("b", prompt_ids=[1, 2]), logprobs=True)
    assert [c.text for c in got] == ["ab", "ab"] and got[0].logprobs == [-0.5, -1.0]
    assert [r.path for r in server.requests] == ["/v1/completions"] * 2
    assert [r.body["prompt"] for r in server.requests] == ["x", [1, 2]]
    assert server.requests[0].body["logprobs"] == 1 and "top_k" not in server.requests[0].body


def test_logprobs_of_a_chat():
    choice = {
        "finish_reason": "stop",
        "message": {"content": "ab"},
        "logprobs": {"content": [{"token": "a", "logprob": -0.25}, {"token": "b", "logprob": -2}]},
    }
    with ScriptedServer(as_json({"choices": [choice]})) as server:
        (got,) = Client(server.url).get(logprobs=True)
    assert got.logprobs == [-0.25, -2.0] and (got.prompt_tokens, got.completion_tokens) == (0, 0)
    assert server.requests[0].body["logprobs"] is True


@pytest.mark.parametrize("finish", ["content_filter", None, "abort", {"a": 1}])
def test_an_ending_that_is_no_answer_is_an_error_with_what_came(finish):
    with ScriptedServer(chat("half", finish)) as server:
        client = Client(server.url, max_retries=1)
        (got,) = client.get()
    assert got.finish_reason == "error"
    if not isinstance(finish, dict):
        assert got.text == "half" and f"finish_reason `{finish}`" in got.error
        assert got.completion_tokens == 3 and len(server.requests) == 1


def test_half_a_surrogate_pair_can_be_written():
    """Servers that cut a text between the halves of an emoji send one; no UTF-8 file can hold it."""
    lone = as_json({"error": {"message": "bad \ud83d"}}, status=400)
    with ScriptedServer(chat("a\ud83d", message={"reasoning": "b\ude00"}), chat("\ud83d\ude00"), lone) as server:
        got = Client(server.url, concurrency=1).get(ask(0), ask(1), ask(2))
    assert (got[0].text, got[0].reasoning, got[1].text) == ("a\ufffd", "b\ufffd", "😀")
    assert encoded(got)


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -1])
def test_seeds_are_sent_as_what_servers_take(seed):
    with ScriptedServer() as server:
        Client(server.url).get(Request("a", prompt_ids=[1], seed=seed))
    assert 0 <= server.requests[0].body["seed"] < 2**63


def test_the_key_is_sent_and_shown_nowhere(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "tenfold_shared")
    key = "sk-planted-0123456789"
    padding = "x" * (200 - len(key) // 2 - len('{"oops": "'))  # so that a cut at 200 falls within the key
    script = [
        as_json({"error": {"message": f"invalid {key} in header"}}, status=500),
        Reply(200, b'{"oops": "' + padding.encode() + key.encode()),
        Reply(502, b"Authorization: Bearer " + key.encode()),
        Reply(500, b"y" * (1000 - 8) + key.encode()),
        as_json({"error": f"no {key}"}, status=400),
        chat("x", f"odd {key}"),
    ]
    with ScriptedServer(*script) as server:
        client = Client(server.url, key=key, concurrency=1, max_retries=5)
        recorder = Recorder(client.backend, str(tmp_path / "r"))
        got = list(recorder.generate([ask(0), ask(1)], Sampling()))
        recorder.close()
    assert {r.headers["Authorization"] for r in server.requests} == {f"Bearer {key}"}
    assert len(server.requests) == 6 and [c.finish_reason for c in got] == ["error", "error"]
    shown = encoded(got).decode() + caplog.text + (tmp_path / "r").read_text()
    assert "[key]" in shown
    for part in (key, key[:8], key[-8:]):
        assert part not in shown


@pytest.mark.parametrize("key", ["sk-planted-key\n", " sk-planted-key\r\n"])
def test_blanks_around_a_key_are_not_part_of_it(key):
    with ScriptedServer() as server:
        assert Client(server.url, key=key).get()[0].text == "hello"
    assert server.requests[0].headers["Authorization"] == "Bearer sk-planted-key"


@pytest.mark.parametrize("key", ["sk-pla\nnted", "sk-plänted", "sk-pla\0nted"])
def test_a_key_no_header_can_hold_is_refused_unseen(key):
    with pytest.raises(BadInput, match="MY_KEY") as caught:
        Client("http://127.0.0.1:9/v1", key=key, key_env="MY_KEY")
    assert "sk-pl" not in str(caught.value)


def test_without_a_name_the_server_is_asked_which_model():
    with ScriptedServer(models("org/the-one"), chat()) as server:
        client = Client(server.url, model=None)
        assert client.get()[0].model == "org/the-one"
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")
    assert server.requests[1].body["model"] == "org/the-one"


@pytest.mark.parametrize(
    ("replies", "error", "text"),
    [
        ([models("a", "b")], BadInput, "add #NAME to say which model; it serves: a, b"),
        ([models()], BadInput, "it serves: none"),
        ([models("a"), models("b")], BadInput, "serve different models: a, b"),
        ([Reply(404)], Missing, "usually ending in /v1"),
        ([Reply(401)], Missing, "asks for a key"),
        ([as_json({"data": None})], Missing, "not the JSON expected"),
        ([as_json({"data": [{"id": 3}]})], Missing, "not the JSON expected"),
        ([Reply(400, b"no")], Missing, "HTTP 400: no"),
    ],
)
def test_servers_that_do_not_name_one_model(replies, error, text):
    servers = [ScriptedServer(reply) for reply in replies]
    for server in servers:
        server.__enter__()
    try:
        with pytest.raises(error, match=text):
            Client(*(server.url for server in servers), model=None)
    finally:
        for server in servers:
            server.__exit__()
