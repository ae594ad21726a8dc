"""`grpo-roc serve`: its dialects, what it remembers, what it refuses, how it ends."""

import os
import signal
import subprocess
import time

import httpx
import pytest
from grpo_pipes import BIN, LEVEL, command, here

# ---------------------------------------------------------------- serve


class Service:
    def __init__(self, path, *words):
        self.path = path
        self.process = subprocess.Popen(
            [str(BIN), "serve", "--unix", str(path), "--level", LEVEL, "--preload", "", "--call-timeout", "2s", *words],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "listening at" in self.process.stderr.readline()
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://service", timeout=60)

    def post(self, where, told):
        return self.client.post(where, json=told)

    def stop(self, number=signal.SIGTERM):
        self.client.close()
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return said


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    found = Service(tmp_path_factory.mktemp("service") / "socket", "--workers", "2")
    yield found
    found.stop()
    assert found.process.returncode == 0 and not found.path.exists()


def test_the_services_own_dialect(service):
    one = service.post("/v1/exec", {"id": "a1", "code": "print(input())", "input": "hi"}).json()
    assert (one["id"], one["status"], one["stdout"]) == ("a1", "ok", "hi\n")
    many = service.post("/v1/exec", [{"code": f"print({k})"} for k in range(20)]).json()
    assert [x["stdout"] for x in many] == [f"{k}\n" for k in range(20)]
    service.post("/v1/exec", {"code": "x = 5", "session": "s"})
    assert service.post("/v1/exec", {"code": "x", "session": "s"}).json()["stdout"] == "5\n"
    assert service.client.delete("/v1/sessions/s").json() == {"ended": True}
    assert service.client.delete("/v1/sessions/s").json() == {"ended": False}
    assert service.post("/v1/exec", {"code": "x", "session": "s"}).json()["status"] == "error"
    status = service.client.get("/v1/status").json()
    assert status["level"] == LEVEL and status["workers"] == 2 and status["statuses"]["ok"] >= 22


def test_an_id_names_a_call(service):
    """Sent again, even while it runs, it is run once."""
    told = {"id": "once", "code": "import time, random\ntime.sleep(0.3)\nprint(random.SystemRandom().random())"}
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(service.path)), base_url="http://service", timeout=60
    ) as other:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as several:
            found = {one.json()["stdout"] for one in several.map(lambda _: other.post("/v1/exec", json=told), range(4))}
    assert found == {service.post("/v1/exec", told).json()["stdout"]}


def test_code_judges_dialect(service):
    assert service.client.get("/ping").status_code == 200
    one = service.post("/run", {"type": "python", "solution": "print(int(input()) + 1)", "input": "4"}).json()
    assert (one["success"], one["run_success"], one["stdout"], one["reason"]) == (True, True, "5\n", "")
    told = {"type": "batch", "submissions": [
        {"sub_id": "x", "type": "python", "solution": "while True: pass"}, {"type": "python", "solution": "1 / 0"}, {"type": "cpp", "solution": "int main() {}"}, {"type": "python"},
    ]}  # fmt: skip
    late, raised, other, broken = service.post("/run/long-batch", told).json()["results"]
    assert (late["sub_id"], late["success"], late["reason"]) == ("x", False, "worker_timeout")
    assert (raised["run_success"], raised["reason"]) == (False, "") and "ZeroDivisionError" in raised["stderr"]
    assert other["reason"] == broken["reason"] == "invalid_input"
    right, wrong = (
        service.post("/judge", {"type": "python", "solution": "print(4)", "expected_output": want}).json()
        for want in ("4", "5")
    )
    assert right["success"] and not wrong["success"] and wrong["run_success"]
    math = service.post(
        "/judge", {"type": "math", "solution": "\\boxed{\\frac{1}{2}}", "expected_output": "0.5"}
    ).json()
    assert math["success"]


def test_sandbox_fusions_dialect(service):
    fine = service.post("/run_code", {"code": "print(input())", "language": "python", "stdin": "x"}).json()
    assert (
        fine["status"] == "Success" and fine["run_result"]["stdout"] == "x\n" and fine["run_result"]["return_code"] == 0
    )
    late = service.post("/run_code", {"code": "while True: pass", "language": "python", "run_timeout": 0.3}).json()
    assert late["status"] == "Failed" and late["run_result"]["status"] == "TimeLimitExceeded"
    assert service.post("/run_code", {"code": "1", "language": "rust"}).status_code == 400


@pytest.mark.parametrize(
    ("where", "told", "message"),
    [
        ("/v1/exec", {"code": 7}, "code: expected a string"),
        ("/v1/exec", [{"code": "1"}, 5], "expected an object"),
        ("/v1/exec", {"code": "1", "timeout": 1e9}, "timeout: expected"),
        ("/run/batch", {"submissions": 3}, "submissions: expected a list"),
    ],
)
def test_requests_that_cannot_be_read(service, where, told, message):
    found = service.post(where, told)
    assert found.status_code == 400 and message in found.json()["error"]
    assert service.client.post(where, content=b"{torn").status_code == 400


def test_a_full_queue_is_told_and_a_stop_waits_for_what_runs(tmp_path):
    one = Service(tmp_path / "socket", "--workers", "1", "--queue", "2", "--grace", "5s")
    from concurrent.futures import ThreadPoolExecutor

    slow = {"code": "import time\ntime.sleep(0.7)\nprint('ended')"}
    with ThreadPoolExecutor(2) as several:
        calls = [
            several.submit(
                httpx.Client(transport=httpx.HTTPTransport(uds=str(one.path)), base_url="http://s", timeout=60).post,
                "/v1/exec",
                json=slow,
            )
            for _ in range(2)
        ]
        end = time.monotonic() + 20
        while one.client.get("/v1/status").json()["running"] + one.client.get("/v1/status").json()["waiting"] < 2:
            assert time.monotonic() < end
        full = one.post("/v1/exec", {"code": "1"})
        assert full.status_code == 429 and full.headers["Retry-After"] == "1"
        one.stop()
        assert [call.result().json()["stdout"] for call in calls] == ["ended\n", "ended\n"]
    assert one.process.returncode == 0


def test_an_id_with_another_program_is_another_call(service):
    """In any dialect: no call is answered with what another printed."""
    for code in ("print(1)", "print(2)", "print(1)"):
        assert service.post("/v1/exec", {"id": "same", "code": code}).json()["stdout"] == code[6] + "\n"
    assert service.post("/run", {"sub_id": "same", "solution": "print(3)"}).json()["stdout"] == "3\n"


def test_a_session_is_ended_while_a_cell_of_it_runs(service):
    from concurrent.futures import ThreadPoolExecutor

    told = {"code": "import time\ntime.sleep(60)", "session": "long", "timeout": 100}
    with ThreadPoolExecutor(1) as other:
        call = other.submit(httpx.Client(transport=httpx.HTTPTransport(uds=str(service.path)), base_url="http://s", timeout=60).post, "/v1/exec", json=told)  # fmt: skip
        end = time.monotonic() + 20
        while service.client.get("/v1/status").json()["running"] < 1:
            assert time.monotonic() < end
        time.sleep(0.2)
        assert service.client.delete("/v1/sessions/long").json() == {"ended": True}
        assert call.result(20).json()["status"] == "killed"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"code": "1", "session": ""}, "session: expected a name"),
        ({"code": "1", "echo": "false"}, "echo: expected true or false"),
        ([{"code": "1"}] * 65_537, "expected at most 65536 calls at once"),
    ],
)
def test_calls_that_cannot_be_run(service, told, message):
    found = service.post("/v1/exec", told)
    assert found.status_code == 400 and message in found.json()["error"]


class Fake:
    """An environment that gives what it is told to."""

    def __init__(self):
        self.asked = []

    def submit(self, program):
        from concurrent.futures import Future

        self.asked.append(Future())
        return self.asked[-1]


def test_what_is_remembered(monkeypatch):
    """A call that the environment failed is run again; what outputs hold in bytes is bounded, whatever their letters; names count too."""
    import asyncio

    from grpo_roc import serve
    from grpo_roc.env.environment import Program, Result

    async def held():
        env = Fake()
        desk = serve.Desk(env, 100, 10.0)

        async def call(name, *results):
            for result in results:
                work = desk.begin(Program("1"), name)
                env.asked[-1].set_result(result)
                await desk.end(work)
                await asyncio.sleep(0)

        await call("a", Result("infra"), Result("ok", "x"))
        desk.begin(Program("1"), "a")
        assert len(env.asked) == 2 and desk.pending == 0 and desk.bytes == 0
        monkeypatch.setattr(serve, "KEPT_BYTES", 100_000)
        for k in range(100):
            await call(f"b{k}", Result("ok", "\U0001f600" * 5_000))
        wide = len(desk.known)
        for k in range(100):
            await call(f"{k}" * 20_000, Result("ok"))
        return wide, len(desk.known), desk.held

    wide, named, total = asyncio.run(held())
    assert 1 <= wide <= 5 and 1 <= named <= 5 and total <= 100_000


def test_the_bytes_that_wait_are_bounded(monkeypatch):
    import asyncio

    from grpo_roc import serve
    from grpo_roc.env.environment import Program

    async def refused():
        desk = serve.Desk(Fake(), 100, 10.0)
        monkeypatch.setattr(serve, "WAITING_BYTES", 1_000)
        for _ in range(3):
            desk.begin(Program("#" * 400), None)
        with pytest.raises(serve.Full):
            desk.begin(Program("1"), None)

    asyncio.run(refused())


def test_a_socket_in_use_is_not_taken_and_one_that_was_left_is(tmp_path):
    first = Service(tmp_path / "socket", "--workers", "1")
    words = ["serve", "--unix", str(first.path), "--level", "rlimit-only", "--preload", ""]
    second = command(*words)
    assert second.returncode == 2 and "another service listens there" in second.stderr
    assert first.post("/v1/exec", {"code": "print(1)"}).json()["stdout"] == "1\n"
    first.stop(signal.SIGKILL)
    assert first.path.exists()
    third = Service(tmp_path / "socket", "--workers", "1")
    assert third.post("/v1/exec", {"code": "print(1)"}).json()["stdout"] == "1\n"
    third.stop()
    assert third.process.returncode == 0 and not third.path.exists()


def test_many_clients_may_come_at_once(service):
    """Before any is accepted."""
    import socket

    service.process.send_signal(signal.SIGSTOP)
    came = []
    try:
        for _ in range(400):
            came.append(socket.socket(socket.AF_UNIX))
            came[-1].setblocking(False)
            came[-1].connect(str(service.path))
    finally:
        service.process.send_signal(signal.SIGCONT)
        for one in came:
            one.close()
    assert service.post("/v1/exec", {"code": "print(1)"}).json()["stdout"] == "1\n"


def test_requests_that_are_none_do_not_fill_stderr(tmp_path):
    """Nobody reads it here but for its first line."""
    import socket

    one = Service(tmp_path / "socket", "--workers", "1")
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(20)
            other.connect(str(one.path))
            other.send(b"POST /v1/exec HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
            assert other.recv(100).split()[1] == b"400"
    assert one.stop() == ""


def test_a_second_signal_cuts_the_grace_short(tmp_path):
    """With a client that never ends its request; whoever waited is answered."""
    import socket
    from concurrent.futures import ThreadPoolExecutor

    one = Service(tmp_path / "socket", "--workers", "1", "--grace", "100s")
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(one.path))
    slow.send(b"POST /v1/exec HTTP/1.1\r\nHost: s\r\nContent-Length: 1000\r\n\r\n{")
    told = {"code": "import time\ntime.sleep(60)", "timeout": 100}
    with ThreadPoolExecutor(2) as several, slow:
        calls = [
            several.submit(
                httpx.Client(transport=httpx.HTTPTransport(uds=str(one.path)), base_url="http://s", timeout=60).post, "/v1/exec", json=told
            )
            for _ in range(2)
        ]  # fmt: skip
        end = time.monotonic() + 20
        while one.client.get("/v1/status").json()["waiting"] < 1:
            assert time.monotonic() < end
        one.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert one.process.poll() is None
        began = time.monotonic()
        said = one.stop()
        assert one.process.returncode == 0 and "2 calls were cut off" in said and time.monotonic() - began < 20
        answers = [call.result() for call in calls]
        assert sorted(answer.status_code for answer in answers) == [200, 503]
        assert next(answer for answer in answers if answer.status_code == 200).json()["status"] == "infra"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected one of --http HOST:PORT and --unix PATH"),
        (("--http", "localhost"), "--http localhost: expected HOST:PORT"),
        (("--http", "127.0.0.1:99999"), "--http 127.0.0.1:99999: expected HOST:PORT"),
        (("--unix", "/nowhere/socket"), "--unix /nowhere/socket: "),
    ],
)
def test_where_it_cannot_listen(words, message):
    told = here("serve", *words, "--level", "rlimit-only", "--preload", "")
    assert told.exit_code == 2 and message in told.stderr


def test_secrets_of_the_service_are_not_the_programs(tmp_path):
    env = {**os.environ, "HF_TOKEN": "hf_secret_planted"}
    (tmp_path / "p.py").write_text(
        "import os\nprint(dict(os.environ))\ntry:\n    print(open('/proc/self/environ').read())\nexcept OSError:\n    pass"
    )
    done = command("exec", tmp_path / "p.py", "--level", LEVEL, "--preload", "", env=env)
    assert done.returncode == 0 and "hf_secret" not in done.stdout + done.stderr
