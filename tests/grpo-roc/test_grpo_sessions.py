"""Sessions of the environment: what a cell leaves for the next, their order, their end."""

import time

from grpo_programs import BOUNDED, known, processes, run, until

from grpo_roc.env import environment, worker
from grpo_roc.env.environment import Environment, Program

# ---------------------------------------------------------------- sessions


def test_a_session_keeps_what_it_knows(env):
    assert run(env, "import math\nx = math.comb(40, 20)", session="a").status == "ok_no_output"
    assert run(env, "x % 1000", session="a").stdout == "820\n"
    assert run(env, "1 / 0", session="a").status == "error"
    assert run(env, "def f():\n    return x\nf() - x", session="a").stdout == "0\n"
    assert run(env, "x", session="b").status == "error"
    late = run(env, "while True:\n    pass", session="a", timeout=0.3)
    assert late.status == "timeout"
    assert run(env, "x", session="a").status == "error"  # a new process
    assert run(env, "import os\nos._exit(3)", session="b").status == "error"
    assert run(env, "5", session="b").stdout == "5\n"


def test_cells_of_one_session_are_run_in_their_order(env):
    calls = [
        env.submit(Program("x = []" if k == 0 else f"x.append({k})\nprint(x)", session="order")) for k in range(10)
    ]
    assert [one.result().stdout for one in calls][1:] == [f"{list(range(1, k + 1))}\n" for k in range(1, 10)]


def test_the_oldest_session_goes_where_there_are_too_many():
    with Environment(level=BOUNDED[-1] if BOUNDED else "rlimit-only", sessions=2, preload=()) as env:
        for name in "abc":
            run(env, f"x = {name!r}", session=name)
        assert [run(env, "x", session=name).stdout for name in "cb"] == ["'c'\n", "'b'\n"]
        assert run(env, "x", session="a").status == "error"


def test_a_session_is_ended_while_a_cell_runs(env):
    """Its call comes to its end at once, and nothing of it is left."""
    for _ in range(5):
        call = env.submit(Program("import time\ntime.sleep(60)", session="ended", timeout=100.0))
        until(lambda: "ended" in env.sessions)
        assert env.end("ended") and not env.end("ended")
        assert call.result(20).status == "killed"
        assert run(env, "5", session="ended").stdout == "5\n" and env.end("ended")
    until(lambda: processes() == known(env))


def test_a_session_that_is_ended_before_its_cell_began_is_not_begun_again(monkeypatch):
    """Its descriptors are closed by the thread that has it, which may be waiting at them."""
    with Environment(level="rlimit-only", preload=()) as env:
        asked = []

        def play(child, *_, **__):
            asked.append((env.end("a"), child.pidfd >= 0))
            raise worker.Lost("killed")

        with monkeypatch.context() as ending:
            ending.setattr(environment, "play", play)
            assert run(env, "1", session="a").status == "killed" and asked == [(True, True)]
        assert run(env, "5", session="a").stdout == "5\n"


def test_nothing_of_a_session_runs_between_its_cells(env):
    begin = "import threading, time\ndef f():\n    while True:\n        pass\nthreading.Thread(target=f, daemon=True).start()\n"
    first = float(run(env, begin + "print(time.process_time())", session="idle").stdout)
    time.sleep(1)
    assert float(run(env, "print(time.process_time())", session="idle").stdout) - first < 0.5
    env.end("idle")


def test_what_waits_goes_on_after_it_was_stopped(env):
    """Waits with an end are begun again by a system call of their own."""
    begin = """import os, select, threading
held = threading.Lock()
held.acquire()
poll = select.poll()
poll.register(os.pipe()[0])
for wait in (lambda: held.acquire(timeout=60), lambda: poll.poll(60_000)):
    threading.Thread(target=wait, daemon=True).start()"""
    assert run(env, begin, session="stopped").status == "ok_no_output"
    for k in range(5):
        assert run(env, f"{k}", session="stopped").stdout == f"{k}\n"
    env.end("stopped")


def test_what_a_cell_closes_is_there_for_the_next(env):
    closing = "import os\nfor n in (0, 1, 2):\n    os.close(n)"
    for _ in range(2):
        run(env, closing, session="closed")
        assert run(env, "print(input())", "x", session="closed").stdout == "x\n"
    env.end("closed")


def test_a_cell_whose_output_would_be_lost_is_not_run(env):
    code = "import os\nheld = []\ntry:\n    while True:\n        held.append(os.open('.', 0))\nexcept OSError:\n    os.close(held.pop())"
    assert run(env, code, session="held").status == "ok_no_output"
    assert run(env, "print(1)", session="held").status == "error"
    assert run(env, "print(1)", session="held").stdout == "1\n"
    env.end("held")


def test_a_session_whose_process_ended_is_not_the_environments_fault(env):
    assert run(env, "x = 1", session="dead").status == "ok_no_output"
    env.sessions["dead"].child.kill()
    until(env.sessions["dead"].child.gone)
    assert run(env, "x", session="dead").status == "killed"
    assert run(env, "5", session="dead").stdout == "5\n"
    env.end("dead")


def test_a_session_that_takes_nothing_is_ended_by_its_time(env):
    """A thread of an earlier cell keeps the interpreter from reading a long program."""
    code = "import threading, time\ndef f():\n    time.sleep(0.2)\n    9 ** (10 ** 8)\nthreading.Thread(target=f, daemon=True).start()"
    assert run(env, code, session="stuck").status == "ok_no_output"
    time.sleep(0.5)
    began = time.monotonic()
    late = run(env, "import time\ntime.sleep(0.5)\n#" + "x" * (1 << 20), session="stuck", timeout=1.0)
    assert late.status == "timeout" and time.monotonic() - began < 15
