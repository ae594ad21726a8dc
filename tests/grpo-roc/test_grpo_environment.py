"""The environment: what hostile programs come to, what is left of them, sessions, lost interpreters, and the filter of system calls run by a second reading of BPF."""

import asyncio
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
from grpo_roc.env.environment import Environment, Program, Result, Runner, Settings, status_of
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


@pytest.fixture(scope="module", params=BOUNDED)
def env(request):
    before = processes()
    with Environment(level=request.param, workers=2, timeout=2.0) as found:
        yield found
        scratch = found._runner.scratch
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
    workers = env._runner.workers
    parked = {child.pid for one in workers for child in one.parked} | {one.process.pid for one in workers}
    until(lambda: len(parked & processes()) == len(parked))
    until(
        lambda: (
            processes() <= {child for one in workers for child in one.children} | {one.process.pid for one in workers}
        )
    )
    if env.settings.level == "standard":  # strict ones are file systems that ended with the program
        until(
            lambda: all(
                int(folder.name) in {pid for one in workers for pid in one.children}
                for one in workers
                for folder in one.scratch.iterdir()
            )
        )


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
        and result.rss > 10 << 20
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
    for one in env._runner.workers:
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
        runner = env._runner
        until(
            lambda: (
                processes() - before
                <= {pid for one in runner.workers for pid in one.children} | {one.process.pid for one in runner.workers}
            )
        )
    until(lambda: not processes() - before)


# ---------------------------------------------------------------- turns


def test_trajectories_take_turns():
    """One that asks for much does not keep another waiting: by counting, not by the clock."""

    async def order():
        runner = Runner(Settings(level="rlimit-only", preload=()))
        await runner.start()
        ended = []

        async def one(owner, k):
            await runner.run(Program(f"print({k})", owner=owner))
            ended.append(owner)

        try:
            await asyncio.gather(*(one("greedy", k) for k in range(30)), *(one("modest", k) for k in range(3)))
        finally:
            runner.stop()
        return ended

    ended = asyncio.run(order())
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


def test_the_filter_says_what_its_tables_say():
    code = seccomp.program(7)
    refused, absent = seccomp.RET_ERRNO | errno.EPERM, seccomp.RET_ERRNO | errno.ENOSYS
    special = {seccomp.CLONE, seccomp.CLONE3, seccomp.PRCTL, *seccomp.SIGNALS.values()}
    assert not set(seccomp.ALLOWED.values()) & (set(seccomp.REFUSED.values()) | special)
    assert not set(seccomp.REFUSED.values()) & special
    for number in range(600):
        want = seccomp.RET_KILL_PROCESS
        if number in seccomp.ALLOWED.values():
            want = seccomp.RET_ALLOW
        elif number in seccomp.REFUSED.values() or number in special - {seccomp.CLONE3}:
            want = refused
        elif number == seccomp.CLONE3:
            want = absent
        assert decided(code, number, first=0) == want, number
    for number in seccomp.SIGNALS.values():
        assert decided(code, number, first=7) == seccomp.RET_ALLOW and decided(code, number, first=8) == refused
    assert decided(code, seccomp.CLONE, first=0x3D0F00) == seccomp.RET_ALLOW  # as pthread_create asks
    assert decided(code, seccomp.CLONE, first=17) == refused
    assert [decided(code, seccomp.PRCTL, first=one) for one in (15, 1, 22)] == [seccomp.RET_ALLOW, refused, refused]
    assert decided(code, 0, arch=0x40000003) == decided(code, seccomp.X32_BIT) == seccomp.RET_KILL_PROCESS
    assert len(code) // 8 < 4096


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
        | {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "prctl": seccomp.PRCTL}
    )
    assert {name: number for name, number in tables.items() if name in known} == {
        name: known[name] for name in tables if name in known
    }
    assert len(set(tables.values())) == len(tables)


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
        workers = env._runner.workers
        until(
            lambda: (
                processes() <= {pid for one in workers for pid in one.children} | {one.process.pid for one in workers}
            )
        )


def test_settings_are_what_is_asked():
    assert msgspec.to_builtins(Settings())["level"] == "strict"
