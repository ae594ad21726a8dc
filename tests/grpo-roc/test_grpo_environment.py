"""The environment: what hostile programs come to, what is left of them, sessions, lost interpreters, and the filter of system calls run by a second reading of BPF."""

import contextlib
import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from grpo_hostile import HOSTILE

from grpo_roc.env import isolation, seccomp
from grpo_roc.env.environment import Environment, Program, Result, Settings, status_of
from grpo_roc.env.zygote import descendants
from tenfold_shared import Missing

MISSING = isolation.probe()
BOUNDED = [level for level in ("strict", "standard") if level not in MISSING]


def processes(pid=None):
    """Warm interpreters and what came from them, below a process (this one): what a program leaves is handed to its interpreter, and stays below."""
    found = set()
    for one in descendants(pid or os.getpid()):
        with contextlib.suppress(OSError):
            if b"grpo_roc.env.zygote" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.add(one)
    return found


def alive(pids):
    """Those of them that are still there, and not merely unread."""
    found = set()
    for one in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(one)
    return found


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.02)


def known(env):
    """Its interpreters and their children, once those asked for have come."""
    found = set()
    for worker in env.workers:
        with worker.lock:
            while worker.asked:
                worker.hear()
            found |= {worker.process.pid, *worker.children}
    return found


@pytest.fixture(scope="module", params=BOUNDED)
def env(request):
    before = processes()
    with Environment(level=request.param, workers=2, timeout=2.0) as found:
        yield found
        scratch = found.scratch
    until(lambda: processes() <= before)
    assert not scratch.exists()


def hostile(name):
    """Those that are to be stopped by the clock soon; the others have time, on a busy machine too."""
    code, statuses = HOSTILE[name]
    return Program(code, timeout=1.0 if "timeout" in statuses.split() else 15.0)


def run(env, code, given="", **more):
    return env.run(Program(code, given, **more))


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
        folders = [folder for worker in env.workers for folder in worker.folder.iterdir()]
        assert len(folders) == sum(len(worker.children) for worker in env.workers)


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


# ---------------------------------------------------------------- the filter, by a second reading of BPF


def decided(code, number, first=0, arch=seccomp.ARCH_X86_64):
    """What a BPF program answers to a system call: an interpreter of the few instructions that seccomp knows."""
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, first, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("HBBI", code))
    at, value = 0, 0
    while True:
        kind, yes, no, k = steps[at]
        at += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("<I", data, k)
        elif kind == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[kind]
            at += yes if holds else no


def test_the_filters_say_what_their_tables_say():
    """Of a program's two filters the stricter answer holds."""
    refused, absent = seccomp.RET_ERRNO | errno.EPERM, seccomp.RET_ERRNO | errno.ENOSYS
    strict = [seccomp.RET_KILL_PROCESS, absent, refused, seccomp.RET_ALLOW]
    codes = seccomp.outer(), seccomp.inner(7)

    def both(number, **more):
        return min((decided(code, number, **more) for code in codes), key=strict.index)

    special = {seccomp.CLONE, seccomp.CLONE3, seccomp.PRCTL, *seccomp.SIGNALS.values()}
    assert not set(seccomp.ALLOWED.values()) & (set(seccomp.REFUSED.values()) | special | set(seccomp.WARDEN.values()))
    assert not (set(seccomp.REFUSED.values()) | set(seccomp.WARDEN.values())) & special
    for number in range(600):
        want = seccomp.RET_KILL_PROCESS
        if number in seccomp.ALLOWED.values():
            want = seccomp.RET_ALLOW
        elif number in seccomp.REFUSED.values() or number in special - {seccomp.CLONE3}:
            want = refused
        elif number == seccomp.CLONE3:
            want = absent
        assert both(number) == want, number
    for number in seccomp.SIGNALS.values():
        assert both(number, first=7) == seccomp.RET_ALLOW and both(number, first=8) == refused
    assert both(seccomp.CLONE, first=0x3D0F00) == seccomp.RET_ALLOW  # as pthread_create asks
    assert both(seccomp.CLONE, first=17) == refused
    assert [both(seccomp.PRCTL, first=one) for one in (15, 1, 22)] == [seccomp.RET_ALLOW, refused, refused]
    assert both(0, arch=0x40000003) == both(seccomp.X32_BIT) == seccomp.RET_KILL_PROCESS
    assert all(len(code) // 8 < 4096 for code in codes) and len(codes[1]) // 8 < 64  # short: installed in every child


def test_numbers_of_system_calls_are_the_kernels():
    """Against the headers of this machine, where they are; else against the table of a few that everyone knows."""
    header = next(
        (
            path
            for path in map(Path, ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"))
            if path.exists()
        ),
        None,
    )
    known = {"read": 0, "write": 1, "openat": 257, "execve": 59, "clone": 56, "clone3": 435, "prctl": 157, "kill": 62}
    if header is not None:
        words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR_")]
        known = {name.removeprefix("__NR_"): int(number) for _, name, number in words}
    tables = (
        seccomp.ALLOWED
        | seccomp.REFUSED
        | seccomp.SIGNALS
        | seccomp.WARDEN
        | {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "prctl": seccomp.PRCTL}
    )
    assert {name: number for name, number in tables.items() if name in known} == {
        name: known[name] for name in tables if name in known
    }
    assert len(set(tables.values())) == len(tables)


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
    for worker in env.workers:
        with worker.lock:
            for child in worker.parked:
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
