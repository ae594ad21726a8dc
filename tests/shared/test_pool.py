"""Worker processes: values, errors, hard deadlines, crashes, and nothing left running."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenfold_shared.pool import DeadlineExceeded, Pool, WorkerDied, WorkerError

TARGETS = """
import ctypes, os, subprocess, sys, time

ready = []

def set_up(): ready.append(1)
def was_set_up(_): return len(ready)
def echo(value): return value
def noisy(value):
    print("to stdout", flush=True)
    os.write(1, b"to fd 1")
    return [value, sys.stdin.read()]
def fail(what):
    if what == "exit": sys.exit("bye")
    if what == "result": return object()
    raise ValueError(what)
def nap(seconds):
    time.sleep(seconds)
    return os.getpid()
def crash(how):
    if how == "exit": os._exit(7)
    if how == "segfault": ctypes.string_at(0)
    return "alive"
def spin(start):
    open(start, "w").write(str(os.getpid()))
    return 7 ** (10 ** 9) % 2  # one C loop of many minutes that never gives up the interpreter lock
def child(start):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(start, "w").write(str(process.pid))
    time.sleep(600)
def hog(size): return len(bytearray(size))
"""


@pytest.fixture(autouse=True)
def targets(tmp_path, monkeypatch):
    (tmp_path / "pool_targets.py").write_text(TARGETS)
    (tmp_path / "pool_broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def pool(name: str, **options) -> Pool:
    return Pool(f"pool_targets:{name}", **options)


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether the process ends within `seconds` (a zombie has ended)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def written(path) -> int:
    """The process id a target writes to `path`, once it is there."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.01)
    raise AssertionError(f"{path} was never written")


def test_values_survive_the_trip():
    values: list = [None, True, -5, 2**63, 1.5, "ünï\x00", b"\x00\xff", [], {"a": [1, {"b": None}]}, "x" * 3_000_000]
    with pool("echo", workers=1) as workers:
        for value in values:
            assert workers.call(value, 30) == value


def test_stdout_and_stdin_of_the_function_are_not_the_protocol():
    with pool("noisy", workers=1) as workers:
        assert [workers.call(i, 30) for i in range(3)] == [[0, ""], [1, ""], [2, ""]]


@pytest.mark.parametrize(
    ("what", "text"),
    [("no such thing", "ValueError: no such thing"), ("exit", "SystemExit: bye"), ("result", "object")],
)
def test_errors_are_reported_and_the_worker_lives(what, text):
    with pool("fail", workers=1) as workers:
        for _ in range(2):
            with pytest.raises(WorkerError, match=text):
                workers.call(what, 30)
        assert len(workers._idle) == 1 and workers._idle[0].process.poll() is None


def test_deadline_kills_the_worker_and_the_next_call_works(tmp_path):
    with pool("spin", workers=1) as workers:
        workers.warm()
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
            workers.call(str(tmp_path / "pid"), 0.3)
        assert time.monotonic() - start < 2
        assert gone(written(tmp_path / "pid"))
    with pool("nap", workers=1) as workers:
        with pytest.raises(DeadlineExceeded):
            workers.call(60, 0.1)
        assert workers.call(0, 30) > 0  # replaced, and its loading does not count


def test_deadline_kills_what_the_function_started(tmp_path):
    with pool("child", workers=1) as workers:
        workers.warm()
        with pytest.raises(DeadlineExceeded):
            workers.call(str(tmp_path / "pid"), 1.0)
        assert gone(written(tmp_path / "pid"))


def test_waiting_for_a_free_worker_does_not_count():
    # Six naps of 0.3 s queue for one worker; the last waits 1.5 s under a deadline of 1 s.
    with pool("nap", workers=1) as workers, ThreadPoolExecutor(6) as threads:
        workers.warm()
        assert len(set(threads.map(lambda _: workers.call(0.3, 1.0), range(6)))) == 1


def test_many_threads_many_outcomes():
    def one(i: int) -> str:
        try:
            workers.call(30 if i % 4 == 0 else 0.01, 0.4)
            return "answer"
        except DeadlineExceeded:
            return "deadline"

    with pool("nap", workers=2) as workers, ThreadPoolExecutor(12) as threads:
        got = list(threads.map(one, range(24)))
    assert got == ["deadline" if i % 4 == 0 else "answer" for i in range(24)]


@pytest.mark.parametrize(("how", "text"), [("exit", "exit status 7"), ("segfault", "SIGSEGV")])
def test_crash_is_named_and_survived(how, text):
    with pool("crash", workers=1) as workers:
        with pytest.raises(WorkerDied, match=text):
            workers.call(how, 30)
        assert workers.call("no", 30) == "alive"


def test_memory_limit():
    with pool("hog", workers=1, memory_bytes=1 << 30) as workers:
        with pytest.raises(WorkerError, match="MemoryError"):
            workers.call(2 << 30, 30)
        assert workers.call(1000, 30) == 1000


def test_set_up_runs_once_before_the_first_call():
    with pool("was_set_up", workers=1, setup="pool_targets:set_up") as workers:
        assert [workers.call(None, 30), workers.call(None, 30)] == [1, 1]


@pytest.mark.parametrize("target", ["pool_broken:f", "pool_targets:nothing"])
def test_what_cannot_start_says_why_each_time(target):
    with Pool(target, workers=1) as workers:
        for _ in range(2):
            with pytest.raises(WorkerDied, match=r"could not start: (ModuleNotFound|Attribute)Error"):
                workers.call(1, 5)


def test_wrong_construction_and_use():
    with pytest.raises(ValueError, match=r"package\.module:function"):
        Pool("math.sqrt")
    with pytest.raises(ValueError, match="at least 1"):
        Pool("math:sqrt", workers=0)
    with pool("echo", workers=1) as workers:
        with pytest.raises(TypeError):
            workers.call(object(), 5)  # refused before a worker is taken
        assert workers.call(1, 30) == 1


def test_close_ends_workers_and_calls_in_flight(tmp_path):
    workers = pool("spin", workers=1)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            workers.call(str(tmp_path / "pid"), 600)
        except WorkerDied as died:
            raised.append(died)

    caller = threading.Thread(target=call)
    caller.start()
    pid = written(tmp_path / "pid")
    workers.close()
    workers.close()
    caller.join(10)
    assert len(raised) == 1 and "closed" in str(raised[0])
    assert gone(pid)
    with pytest.raises(WorkerDied, match="closed"):
        workers.call(1, 1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_busy_worker_ends_with_its_parent(tmp_path, end):
    """Even one inside a C loop, where it can neither read end-of-input nor run a signal handler."""
    program = f"""
        from tenfold_shared.pool import Pool
        Pool("pool_targets:spin", workers=1).call({str(tmp_path / "pid")!r}, 600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    pid = written(tmp_path / "pid")
    assert not gone(pid, 0.1)
    parent.send_signal(end)
    parent.wait()
    assert gone(pid)


def test_an_idle_worker_ends_with_its_parent():
    program = """
        from tenfold_shared.pool import Pool
        workers = Pool("pool_targets:nap", workers=1)
        print(workers.call(0, 30))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert gone(int(done.stdout))


def test_a_thread_that_ends_leaves_its_worker_to_others():
    with pool("nap", workers=1) as workers:
        pids: list[int] = []
        for _ in range(2):
            thread = threading.Thread(target=lambda: pids.append(workers.call(0, 30)))
            thread.start()
            thread.join()
        assert len(pids) == 2 and pids[0] == pids[1]


def test_a_forked_child_is_told_and_leaves_the_parents_workers_alone():
    with pool("echo", workers=1) as workers:
        workers.call(1, 30)
        child = os.fork()
        if child == 0:
            try:
                workers.call(1, 1)
            except RuntimeError:
                workers.close()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert workers.call(2, 30) == 2
