"""The sandbox against programs that want out: to the host, its kernel, its files, its network, its owner."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hostile_host import PRELUDE, QUICK, Host, tree_hash

from tenfold_shared import BadInput
from tenfold_shared.sandbox import WORK, Limits, run

# Programs that could harm a machine without a sandbox look first whether they are in one.
ALONE = "if os.getppid() != 1 or os.getpid() > 50: sys.exit('no process namespace of our own')\n"


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
