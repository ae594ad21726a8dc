"""The environment: what hostile programs come to, what is left of them, lost interpreters, levels."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from grpo_hostile import CHANNEL, HOSTILE
from grpo_programs import BOUNDED, MISSING, known, processes, run, until

from grpo_roc.env import environment, isolation, worker, zygote
from grpo_roc.env.environment import Environment, Program, Result, Settings, status_of
from tenfold_shared import Missing

STRICT = [level for level in BOUNDED if level == "strict"]


def alive(pids):
    """Those of them that are still there, and not merely unread."""
    found = set()
    for one in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(one)
    return found


def hostile(name):
    """Those that are to be stopped by the clock soon; the others have time, on a busy machine too."""
    code, statuses = HOSTILE[name]
    return Program(code, timeout=1.0 if "timeout" in statuses.split() else 15.0)


# ---------------------------------------------------------------- what programs come to


@pytest.mark.xdist_group("hostile")
def test_hostile_programs_twice_among_others(env):
    """Each has the right status, none leaves anything, none changes another's result."""
    calls = []
    for k, name in enumerate([*HOSTILE, *HOSTILE]):
        calls += [
            (name, env.submit(hostile(name))),
            (k, env.submit(Program(f"print(len('abc') + {k})"))),
        ]
    wrong = []
    for name, call in calls:
        result = call.result()
        if isinstance(name, int):
            assert (result.status, result.stdout) == ("ok", f"{name + 3}\n")
        elif result.status not in HOSTILE[name][1].split():
            wrong.append((name, HOSTILE[name][1], result))
    assert len(HOSTILE) >= 40 and wrong == []
    until(lambda: processes() == known(env))
    if env.settings.level == "standard":  # strict ones are file systems that ended with the program
        children = sum(len(one.children) for one in env.workers)
        until(lambda: len([folder for one in env.workers for folder in one.folder.iterdir()]) == children, 60)


@pytest.mark.parametrize(
    ("code", "status", "stdout"),
    [
        ("print(6 * 7)", "ok", "42\n"),
        ("6 * 7", "ok", "42\n"),
        ("x = 6\nx * 7", "ok", "42\n"),
        ("None", "ok_no_output", ""),
        ("x = 1", "ok_no_output", ""),
        ("import sys\nprint('a')\nsys.exit()", "ok", "a\n"),
        ("import sys\nprint('a')\nsys.exit(3)", "error", "a\n"),
        ("raise SystemExit('bad')", "error", ""),
        ("if __name__ == '__main__':\n    print('main')", "ok", "main\n"),
        ("import atexit\natexit.register(print, 'bye')\nprint('hi')", "ok", "hi\nbye\n"),
        ("import threading\nthreading.Thread(target=lambda: print('late')).start()", "ok", "late\n"),
        ("import asyncio\nasync def f():\n    return 5\nasyncio.run(f())", "ok", "5\n"),
        ("print('é', '\\ud800', '\\0')", "ok", "é \\ud800 \0\n"),
        ("open('x', 'w').write('kept')\nprint(open('x').read())", "ok", "kept\n"),
        ("import sympy\nx = sympy.Symbol('x')\nsympy.integrate(x ** 2)", "ok", "x**3/3\n"),
        ("import numpy as np\nprint(np.linalg.det(np.eye(3)))", "ok", "1.0\n"),
        (
            "import threading\nt = threading.main_thread()\nprint(t.native_id == threading.get_native_id(), t.ident == threading.get_ident())",
            "ok",
            "True True\n",
        ),
        (
            "import concurrent.futures as c, time\nwith c.ThreadPoolExecutor(50) as e:\n    print(sum(e.map(lambda n: time.sleep(0.1) or n, range(50))))",
            "ok",
            "1225\n",
        ),
        (
            "import sys\nsys.stdout.reconfigure(encoding='ascii', errors='replace')\nprint('é', sys.stdout.seekable())",
            "ok",
            "? False\n",
        ),
        ("import pathlib\nx = pathlib.Path('x')\nx.touch()\nx.touch()\nprint(x.exists())", "ok", "True\n"),
        (
            "import shutil\nopen('x', 'w').close()\nshutil.copy('x', 'y')\nshutil.make_archive('z', 'gztar', '.', 'y')\nshutil.unpack_archive('z.tar.gz', 'd')\nprint(open('d/y').read() == '')",
            "ok",
            "True\n",
        ),
        (
            "import sqlite3\nc = sqlite3.connect('x')\nc.execute('create table t(a)')\nc.execute('insert into t values(7)')\nc.commit()\nprint(c.execute('select * from t').fetchall())",
            "ok",
            "[(7,)]\n",
        ),
        (
            "import ctypes\nprint(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))",
            "ok",
            "0\n",
        ),  # not dumpable: nothing collects its core
        ("import csv, fractions, zoneinfo\nprint(fractions.Fraction(1, 3))", "ok", "1/3\n"),
    ],
)
def test_ordinary_programs(env, code, status, stdout):
    result = run(env, code)
    assert (result.status, result.stdout) == (status, stdout), result


def test_errors_are_told_as_an_interpreter_tells_them(env):
    result = run(env, "def f():\n    return 1 / 0\nf()")
    assert result.stderr == (
        'Traceback (most recent call last):\n  File "<program>", line 3, in <module>\n    f()\n  File "<program>", line 2, in f\n    return 1 / 0\n           ~~^~~\nZeroDivisionError: division by zero\n'
    )
    assert run(env, "x = = 1").stderr.endswith("SyntaxError: invalid syntax\n")


def test_input_and_output_of_any_size(env):
    great = "x" * (5 << 20)
    assert run(env, "import sys\nprint(len(sys.stdin.read()))", great).stdout == f"{len(great)}\n"
    most = env.settings.output
    exact = run(env, f"import sys\n_ = sys.stdout.write('a' * {most})")
    assert (exact.status, len(exact.stdout)) == ("ok", most)
    over = run(env, f"import sys\n_ = sys.stdout.write('a' * {most + 1})")
    assert (over.status, len(over.stdout)) == ("output_limit", most)
    assert run(env, "input()").stderr.endswith("EOFError: EOF when reading a line\n")


def test_figures_of_a_call(env):
    result = run(env, "x = 0\nfor k in range(2_000_000):\n    x += k")
    assert (
        0 < result.cpu_s <= result.wall_s + 0.1
        and result.rss > 5 << 20
        and result.exit_code == 0
        and result.signal is None
    )
    late = run(env, "import time\ntime.sleep(60)", timeout=0.3)
    assert late.status == "timeout" and 0.3 <= late.wall_s < 5 and late.cpu_s < 1 and late.signal == 9


def test_programs_know_nothing_of_each_other(env):
    for _ in range(3):
        run(
            env,
            "import builtins, random, math\nbuiltins.print = None\nrandom.seed(1)\nmath.pi = 4\nopen('left', 'w').write('x')",
        )
    for _ in range(3):
        assert (
            run(
                env,
                "import math, os, random\nprint(round(math.pi, 2), os.listdir('.'), random.random() != 0.13436424411240122)",
            ).stdout
            == "3.14 [] True\n"
        )


def test_many_threads_many_calls_none_mixed_up(env):
    found = {}

    def ask(n):
        calls = [env.submit(Program(f"print({n}, {k}, input())", f"{n}-{k}")) for k in range(12)]
        found[n] = [one.result().stdout for one in calls]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {n: [f"{n} {k} {n}-{k}\n" for k in range(12)] for n in range(6)}


# ---------------------------------------------------------------- what is around a program


@pytest.mark.parametrize("level", STRICT)
def test_a_strict_program_finds_no_file_but_those_it_may_read(level, tmp_path):
    (tmp_path / "secret").write_text("x")
    code = f"""import multiprocessing.dummy, os
print([os.path.lexists(path) for path in ("/proc/self", "/sys/kernel", {str(tmp_path / "secret")!r})])
for path in (os.path.dirname(os.getcwd()) + "/x", "/x", "/dev/x"):
    try:
        open(path, "w")
        print(path)
    except OSError:
        pass
with multiprocessing.dummy.Pool(2) as pool:
    print(pool.map(abs, [-1]))
"""
    with Environment(level=level, preload=()) as env:
        assert run(env, code).stdout == "[False, False, False]\n[1]\n"


@pytest.mark.parametrize("level", BOUNDED)
def test_its_own_users_files_may_be_read_and_no_more(level, tmp_path, monkeypatch):
    """Where the interpreter lies in a folder of its user, which others may not enter."""
    (tmp_path / "kept").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    tmp_path.chmod(0o700)
    (tmp_path / "kept").chmod(0o640)
    real = worker.readable()
    monkeypatch.setattr(worker, "readable", lambda: [*real, str(tmp_path)])
    code = f"""import os
path = {str(tmp_path / "link")!r}
print(open(path).read())
for change in (lambda: os.chmod(path, 0o666), lambda: os.utime(path, (1, 1)), lambda: os.truncate(path, 0), lambda: os.unlink(path)):
    try:
        change()
    except OSError:
        pass
"""
    before = os.stat(tmp_path / "kept")
    with Environment(level=level, preload=()) as env:
        assert run(env, code).stdout == "x\n"
    after = os.stat(tmp_path / "kept")
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, 1)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("level", BOUNDED)
def test_the_services_mask_is_not_the_programs(level):
    before = os.umask(0o077)
    try:
        with Environment(level=level, preload=("math",)) as env:
            code = "import os\nopen(os.path.join(os.getcwd(), 'x'), 'w').close()\nprint(oct(os.umask(0)))"
            assert run(env, code).stdout == "0o22\n"
    finally:
        os.umask(before)


@pytest.mark.parametrize(("level", "most"), worker.THREADS.items())
def test_threads_are_bounded(level, most):
    if level in MISSING:
        most = 0
    else:
        with Environment(level=level, preload=()) as env:
            print_ = "import resource\nprint(max(resource.getrlimit(resource.RLIMIT_NPROC)))"
            assert 0 < int(run(env, print_).stdout) <= most


def test_hashes_of_strings_are_the_same_everywhere(env):
    """What a program prints of a set does not depend on where it ran."""
    code = "print(hash('abc'))"
    fresh = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True)
    assert {run(env, more + code).stdout for more in ("", "import json\n", "import numpy\n")} == {fresh.stdout}


@pytest.mark.parametrize("session", [None, "busy"])
def test_no_program_keeps_its_supervisor_busy(env, session):
    """By a channel at its end, or full."""
    for code in (
        "channel.shutdown(socket.SHUT_WR)\nimport time\ntime.sleep(1)",
        "while True:\n    channel.send(bytes(99))",
    ):
        before = time.process_time()
        result = run(env, CHANNEL + code, session=session, timeout=1.5)
        assert result.status in ("ok_no_output", "timeout", "killed") and time.process_time() - before < 0.4


def test_streams_that_a_program_sent_away_are_not_waited_for(env, monkeypatch):
    monkeypatch.setattr(worker, "LINGER", 30.0)
    # on a busy machine the other end may have closed by the second message
    code = "import array\ntry:\n    channel.send(bytes(5000))\n    channel.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1, 2]))])\nexcept OSError:\n    pass\nprint(1)"
    began = time.monotonic()
    result = run(env, CHANNEL + code)
    assert (result.status, result.stdout) == ("ok", "1\n") and time.monotonic() - began < 15


# ---------------------------------------------------------------- the environment's own faults


def test_a_program_whose_interpreter_was_killed_is_run_again(env):
    """By no fault of its own: it gives its result, and its session, which cannot be had again, is infra."""
    run(env, "x = 1", session="lost")
    call = env.submit(Program("import time\ntime.sleep(0.5)\nprint('done')"))
    time.sleep(0.2)
    for one in env.workers:
        one.process.kill()
    assert call.result().stdout == "done\n"
    assert run(env, "x", session="lost").status in ("infra", "error")
    assert [run(env, f"print({k})").stdout for k in range(4)] == [f"{k}\n" for k in range(4)]


def test_an_interpreter_that_no_longer_answers_is_replaced(monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", 1.0)
    with Environment(level="rlimit-only", preload=()) as env:
        for one in env.workers:
            os.kill(one.process.pid, signal.SIGSTOP)
        assert [env.submit(Program(f"print({k})")).result(30).stdout for k in range(4)] == [f"{k}\n" for k in range(4)]


def test_an_interpreter_does_not_end_with_the_thread_that_began_it():
    env = Environment(level="rlimit-only", preload=())
    thread = threading.Thread(target=env.__enter__)
    thread.start()
    thread.join()
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.push(env)
        began = [one.process.pid for one in env.workers]
        time.sleep(0.2)
        assert run(env, "print(1)").stdout == "1\n"
        assert [one.process.pid for one in env.workers] == began


def test_a_service_without_descriptors_fails_its_calls_and_goes_on(monkeypatch):
    """They come cut short then, and what is missing is not waited for."""
    with Environment(level="rlimit-only", preload=()) as env:
        real, short = zygote.unpack, []

        def unpack(channel, size, most):
            data, descriptors = real(channel, size, most)
            if data[:1] == zygote.CHILD and len(short) < 2:
                short.append(data)
                for one in descriptors[1:]:
                    os.close(one)
                return data, descriptors[:1]
            return data, descriptors

        monkeypatch.setattr(zygote, "unpack", unpack)
        assert [env.submit(Program("print(1)")).result(60).stdout for _ in range(4)] == ["1\n"] * 4
        assert len(short) == 2

        def text(_):
            raise OSError(errno.EMFILE, "none left")

        monkeypatch.setattr(worker, "_text", text)
        failed = run(env, "print(1)", "input")
        assert (failed.status, failed.detail) == ("infra", f"[Errno {errno.EMFILE}] none left")
        assert run(env, "print(1)").stdout == "1\n"


def test_a_lost_interpreter_leaves_no_descriptor(monkeypatch):
    with Environment(level="rlimit-only", preload=()) as env:
        run(env, "1")
        for one in env.workers:
            with one.lock:
                while one.asked:
                    one.hear()
        before = len(os.listdir("/proc/self/fd"))
        real = worker.Worker.fill

        def fill(self, ended=-1):
            monkeypatch.setattr(worker.Worker, "fill", real)
            self.lost()
            raise worker.Lost("gone")

        monkeypatch.setattr(worker.Worker, "fill", fill)
        assert run(env, "5", session="a").stdout == "5\n"
        env.end("a")
        for one in env.workers:
            with one.lock:
                while one.asked:
                    one.hear()
        assert len(os.listdir("/proc/self/fd")) == before


def test_where_every_child_ends_at_once_a_call_does_too(monkeypatch):
    with Environment(level="rlimit-only", preload=()) as env:
        with monkeypatch.context() as dying:
            dying.setattr(worker.Child, "gone", lambda child: child.kill() or True)
            failed = env.submit(Program("1")).result(60)
        assert (failed.status, failed.detail) == ("infra", "children end before they have a program")
        assert run(env, "5").stdout == "5\n"


def test_where_there_is_no_room_for_a_process_it_is_waited_for(monkeypatch):
    tried, one = [], zygote.Zygote.__new__(zygote.Zygote)
    one.level = "rlimit-only"

    def fork(level):
        tried.append(level)
        if len(tried) < 3:
            raise isolation.Refused(errno.EAGAIN, "full")
        return 7, 8

    monkeypatch.setattr(isolation, "fork", fork)
    assert one.fork() == (7, 8) and len(tried) == 3

    def refused(level):
        raise isolation.Refused(errno.EPERM, "no")

    monkeypatch.setattr(isolation, "fork", refused)
    with pytest.raises(isolation.Refused, match="no"):
        one.fork()


def test_descriptors_of_children_are_not_for_those_of_others(env):
    for one in env.workers:
        for child in one.children.values():
            held = (child.pidfd, child.channel.fileno(), *child.ends)
            assert not any(map(os.get_inheritable, held))


def test_an_environment_that_ends_starts_no_interpreter():
    with Environment(level="rlimit-only", preload=()) as env:
        one = env.workers[0]
        one.part()
        one.lost()
        with pytest.raises(Missing, match="has ended"):
            one.alive()


def test_folders_are_removed_however_they_are_left(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "kept").write_text("x")
    (top / "link").symlink_to(tmp_path / "kept")
    (top / "folder").symlink_to(tmp_path)
    here = os.open(top, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    for mode in (0, 0o300, 0o500):
        (top / f"{mode}").mkdir()
        (top / f"{mode}" / "x").write_text("x")
        (top / f"{mode}").chmod(mode)
    for k in range(250):
        (top / f"file{k}").write_text("")
    zygote.remove(str(top))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kept"]


def test_folders_that_a_killed_owner_left_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.tempfile, "tempdir", str(tmp_path))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, "rlimit-only"],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert owner.stdout.readline() == b"running\n"
    (held,) = tmp_path.iterdir()
    monkeypatch.setattr(environment, "FRESH", -1.0)
    with Environment(level="rlimit-only", preload=()) as env:
        assert {held, env.scratch} == set(tmp_path.iterdir())
    owner.kill()
    owner.wait()
    with Environment(level="rlimit-only", preload=()) as env:
        until(lambda: [env.scratch] == list(tmp_path.iterdir()))


def test_what_landlock_lacks_is_told():
    assert isolation.landlock_lack("strict", 0) and isolation.landlock_lack("standard", 0)
    assert "Linux 6.2" in isolation.landlock_lack("standard", 2)
    assert not isolation.landlock_lack("strict", 1) and not isolation.landlock_lack("standard", 3)


OWNER = """
import sys, time
from grpo_roc.env.environment import Environment, Program
with Environment(level=sys.argv[1], workers=2, preload=()) as env:
    calls = [env.submit(Program("while True:\\n    pass", timeout=60.0)) for _ in range(4)]
    time.sleep(0.5)
    print("running", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("level", [*BOUNDED, "rlimit-only"])
def test_nothing_outlives_whoever_owns_it(level):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, level], stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"running\n"
    owned = processes(owner.pid)
    assert len(owned) >= 4
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    until(lambda: not alive(owned))


REFUSED = """
import sys
from grpo_roc.env.environment import Environment
from tenfold_shared import Missing
try:
    with Environment(level="strict", preload=()):
        print("started")
except Missing as problem:
    print(problem)
"""


@pytest.mark.parametrize("level", BOUNDED[:1])
def test_below_its_level_it_does_not_start(level):
    """Where user namespaces are used up, in a user namespace of our own that has a limit of none."""
    allow = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", allow, "sh", sys.executable, "-c", REFUSED],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"the code environment at level {level}: ") and "started" not in done.stdout, done


def test_what_the_probe_says_is_what_starts():
    for level in isolation.LEVELS:
        refused = pytest.raises(Missing) if level in MISSING else contextlib.nullcontext()
        with refused, Environment(level=level, preload=()) as env:
            assert run(env, "6 * 7").stdout == "42\n"


def test_what_a_program_at_the_lowest_level_leaves_is_swept_away():
    before = processes()
    with Environment(level="rlimit-only", preload=()) as env:
        left = "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        import time\n        time.sleep(100)\n    os._exit(0)\n_ = open('x', 'w')"
        assert run(env, left).status == "ok_no_output"
        until(lambda: processes() - before == known(env))
    until(lambda: not processes() - before)


# ---------------------------------------------------------------- turns


def test_trajectories_take_turns():
    """One that asks for much does not keep another waiting: by counting, not by the clock."""

    ended = []
    with Environment(level="rlimit-only", preload=()) as env:
        calls = []
        for owner, count in (("greedy", 30), ("modest", 3)):
            for k in range(count):
                calls.append(env.submit(Program(f"print({k})", owner=owner)))
                calls[-1].add_done_callback(lambda _, owner=owner: ended.append(owner))
        for one in calls:
            one.result()
    until(lambda: len(ended) == len(calls))
    assert len(ended) == 33 and max(k for k, owner in enumerate(ended) if owner == "modest") <= 8


@pytest.mark.parametrize(
    ("result", "reason", "memory", "status"),
    [
        ({"exit_code": 0, "stdout": "x"}, None, False, "ok"),
        ({"exit_code": 0}, None, True, "ok_no_output"),
        ({"exit_code": 1}, None, False, "error"),
        ({"exit_code": 1}, None, True, "memory"),
        ({"signal": 9}, "timeout", False, "timeout"),
        ({"signal": 9}, "output_limit", False, "output_limit"),
        ({"signal": 9, "cpu_s": 2.1}, None, False, "timeout"),
        ({"signal": 9, "cpu_s": 0.1}, None, False, "killed"),
        ({"signal": 24}, None, False, "timeout"),
        ({"signal": 31}, None, False, "policy"),
        ({"signal": 11}, None, True, "killed"),
        ({"exit_code": 0, "stdout": "x"}, "timeout", False, "timeout"),
    ],
)
def test_what_it_came_to(result, reason, memory, status):
    assert status_of(Result("", **result), reason, memory, 2.0) == status


def test_what_differs_between_fresh_interpreters_differs_between_children(env):
    """Children are copies of one process: their random numbers must not be."""
    for name in ("random", "numpy.random"):
        code = f"import {name.partition('.')[0]}\nprint({name}.random())"
        results = [run(env, code) for _ in range(6)]
        assert len({one.stdout for one in results}) == 6, results


def test_numbers_of_a_module_that_the_interpreter_has_differ_too():
    with Environment(level="rlimit-only", preload=("random", "numpy.random")) as env:
        code = "import random, numpy\nprint(random.random(), numpy.random.random())"
        pairs = [run(env, code).stdout.split() for _ in range(6)]
    assert all(len(set(column)) == 6 for column in zip(*pairs, strict=True))


def test_no_variable_of_the_services_own_reaches_a_program(env):
    names = eval(run(env, "import os\nprint(sorted(os.environ))").stdout)
    assert set(names) == {"HOME", "LANG", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PWD", "PYTHONHASHSEED", "TMPDIR"}  # fmt: skip


def test_a_child_that_was_killed_while_it_waited_is_passed_over(env):
    for one in env.workers:
        with one.lock:
            for child in one.parked:
                child.kill()
                until(child.gone)
    assert [run(env, f"print({k})").stdout for k in range(4)] == [f"{k}\n" for k in range(4)]


def test_an_environment_that_ends_answers_whoever_waits():
    with Environment(level="rlimit-only", preload=()) as env:
        calls = [env.submit(Program("import time\ntime.sleep(60)", timeout=100.0)) for _ in range(3)]
        until(lambda: env.running == 1)
    assert calls[0].result().status == "infra" and all(call.cancelled() for call in calls[1:])
    with pytest.raises(RuntimeError):
        env.submit(Program("1"))


# ---------------------------------------------------------------- at length


@pytest.mark.deep
@pytest.mark.parametrize("level", BOUNDED)
def test_ten_thousand_calls_leave_no_trace(level):
    """Hostile ones twice among them: all right, no process, file, descriptor or memory of the service more than before."""
    with Environment(level=level, workers=2, timeout=1.0) as env:
        for call in [env.submit(Program("print(1)")) for _ in range(200)]:
            assert call.result().status == "ok"

        def held():
            status = Path("/proc/self/status").read_text()
            return len(os.listdir("/proc/self/fd")), int(status.split("VmRSS:")[1].split()[0])

        before, descriptors = held(), len(os.listdir("/proc/self/fd"))
        names = [*HOSTILE, *HOSTILE]
        every = 10_000 // len(names)
        for block in range(0, 10_000, 500):
            calls = []
            for k in range(block, block + 500):
                if k % every == 0 and k // every < len(names):
                    calls.append((names[k // every], env.submit(hostile(names[k // every]))))
                calls.append((k, env.submit(Program(f"print({k} + 1)"))))
            for name, call in calls:
                result = call.result()
                if isinstance(name, int):
                    assert (result.status, result.stdout) == ("ok", f"{name + 1}\n")
                else:
                    assert result.status in HOSTILE[name][1].split(), (name, result)
        after = held()
        assert after[0] <= descriptors + 8 and after[1] < before[1] + (64 << 10)
        until(lambda: processes() <= known(env))


def test_settings_are_what_is_asked():
    assert msgspec.to_builtins(Settings())["level"] == "strict"
