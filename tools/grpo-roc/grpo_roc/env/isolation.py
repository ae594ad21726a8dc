"""What a program may do: namespaces, Landlock, seccomp and limits of resources, by plain system calls (no privilege, no container daemon).

    strict       own user, mount, network, IPC, host-name and process namespaces; Landlock; seccomp; limits
    standard     Landlock; seccomp; limits
    rlimit-only  limits, and the clock outside: no boundary against a program that means harm

Where it sits: zygote.py calls `enclose` once and `confine` in every child; `probe` says what this machine allows. Order matters: no new privileges, namespaces,
Landlock, seccomp last. Constants are of the Linux x86-64 ABI.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Callable
from typing import Literal

from grpo_roc.env import seccomp

Level = Literal["strict", "standard", "rlimit-only"]
LEVELS: tuple[Level, ...] = ("strict", "standard", "rlimit-only")

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWCGROUP = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
    0x2000000,
)
CLONE_PIDFD = 0x1000
SIGCHLD = 17
SYS_CLONE, SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 56, 444, 445, 446
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 36, 38
NOBODY = 65534

# Landlock: what is handled (denied unless a rule allows it) by ABI, and what reading and running needs.
FS_EXECUTE, FS_WRITE, FS_READ, FS_READ_DIR = 1, 2, 4, 8
FS_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
FS_OF_FILE = (
    FS_EXECUTE | FS_WRITE | FS_READ | (1 << 14) | (1 << 15)
)  # rights that a rule on a file, not a folder, may have
NET_ALL, SCOPE_ALL = 3, 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Refused(OSError):
    """A layer that the kernel, or its administrator, does not allow."""


def _call(name: str, *args: object) -> int:
    found = int(getattr(_libc, name)(*args))
    if found < 0:
        number = ctypes.get_errno()
        raise Refused(number, f"{name}: {os.strerror(number)}")
    return found


def _syscall(number: int, *args: object) -> int:
    found = int(_libc.syscall(ctypes.c_long(number), *args))
    if found < 0:
        code = ctypes.get_errno()
        raise Refused(code, f"system call {number}: {os.strerror(code)}")
    return found


# ---------------------------------------------------------------- namespaces


def enclose(scratch: str, size: int) -> None:
    """This process (single-threaded) into namespaces of its own, in which it is root of nothing outside: no network, a mount table whose changes stay here, and a small file system of
    `size` bytes in memory at `scratch`. Raises Refused."""
    uid, gid = os.geteuid(), os.getegid()
    # root may map a second, unprivileged user, under which programs run; others have but themselves
    maps = f"0 {uid} 1\n" + (f"{NOBODY} {NOBODY} 1\n" if uid == 0 else "")
    ready = os.pipe()
    child = os.fork()
    if child == 0:  # it stays outside, where a map of two lines may be written
        os.close(ready[1])
        os.read(ready[0], 1)
        code = 0
        try:
            _write(f"/proc/{os.getppid()}/uid_map", maps)
            if uid != 0:
                _write(f"/proc/{os.getppid()}/setgroups", "deny")
            _write(f"/proc/{os.getppid()}/gid_map", f"0 {gid} 1\n" + (f"{NOBODY} {NOBODY} 1\n" if uid == 0 else ""))
        except OSError as problem:
            code = problem.errno or 1
        os._exit(min(code, 255))
    try:
        _call("unshare", NEWUSER | NEWNS | NEWNET | NEWIPC | NEWUTS | NEWCGROUP)
    finally:
        os.write(ready[1], b"x")
        _, status = os.waitpid(child, 0)
        for one in ready:
            os.close(one)
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise Refused(code, f"uid_map: {os.strerror(code)}")
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _mount_memory(scratch, size)


def _write(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


def _mount_memory(path: str, size: int) -> None:
    _call(
        "mount",
        b"tmpfs",
        path.encode(),
        b"tmpfs",
        MS_NOSUID | MS_NODEV,
        f"size={size},nr_inodes=4096,mode=0777".encode(),
    )


def fork_isolated() -> tuple[int, int]:
    """fork into process and mount namespaces of its own: (pid, pidfd) to the parent, (0, -1) to the child, which is process 1 of its namespace."""
    pidfd = ctypes.c_int(-1)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(
        _libc.syscall(
            ctypes.c_long(SYS_CLONE),
            ctypes.c_ulong(NEWPID | NEWNS | CLONE_PIDFD | SIGCHLD),
            None,
            ctypes.byref(pidfd),
            None,
            None,
        )
    )
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    code = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise Refused(code, f"clone: {os.strerror(code)}")
    return pid, pidfd.value


# ---------------------------------------------------------------- Landlock


def landlock_abi() -> int:
    """The kernel's version of Landlock; 0 where there is none."""
    found = int(_libc.syscall(ctypes.c_long(SYS_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    return max(found, 0)


def handled(abi: int) -> int:
    return FS_ALL[max(version for version in FS_ALL if version <= abi)]


def landlock(readable: list[int], usable: list[int], writable: str, abi: int) -> None:
    """Allow this process, for good: to read and run what is below the folders or files of descriptors `readable`, to read and write the devices `usable`, and anything below the folder
    `writable`; nothing else of any file system, no TCP (from ABI 4), no signals or abstract sockets beyond itself (from ABI 6)."""
    rights = handled(abi)
    fields = struct.pack("=QQQ", rights, NET_ALL if abi >= 4 else 0, SCOPE_ALL if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _syscall(SYS_LANDLOCK_CREATE, fields, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        here = os.open(writable, os.O_PATH | os.O_CLOEXEC)
        rules = [(one, FS_EXECUTE | FS_READ | FS_READ_DIR) for one in readable] + [
            (one, FS_READ | FS_WRITE) for one in usable
        ]
        for descriptor, allowed in [*rules, (here, rights)]:
            folder = os.fstat(descriptor).st_mode & 0o170000 == 0o040000
            allowed = allowed & rights & (-1 if folder else FS_OF_FILE)
            _syscall(
                SYS_LANDLOCK_ADD,
                ctypes.c_int(ruleset),
                ctypes.c_int(1),
                struct.pack("=Qi", allowed, descriptor),
                ctypes.c_uint32(0),
            )
        os.close(here)
        _syscall(SYS_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


# ---------------------------------------------------------------- the rest


class Limits:
    """Of one program: cpu in seconds, memory (address space), file size and descriptors."""

    def __init__(
        self, cpu: float = 10.0, memory: int = 1 << 30, file_size: int = 32 << 20, descriptors: int = 64
    ) -> None:
        self.cpu, self.memory, self.file_size, self.descriptors = cpu, memory, file_size, descriptors

    def apply(self) -> None:
        """Both soft and hard, so that they cannot be raised again."""
        spent = sum(os.times()[:2])
        seconds = max(1, int(spent + self.cpu + 0.999))
        for which, most in (
            (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, self.memory), (resource.RLIMIT_FSIZE, self.file_size), (resource.RLIMIT_NOFILE, self.descriptors),
            (resource.RLIMIT_CORE, 0), (resource.RLIMIT_STACK, 8 << 20),
        ):  # fmt: skip
            _, hard = resource.getrlimit(which)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (least, least))


def install_filter() -> None:
    code = seccomp.program(os.getpid())
    array = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    told = Program(len(code) // 8, ctypes.cast(array, ctypes.c_void_p))
    _call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(told), 0, 0)


def drop_capabilities() -> None:
    """All of them, from all sets."""
    for number in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break
    header = struct.pack("=Ii", 0x20080522, 0)
    _syscall(126, header, bytes(24))  # capset


def confine(
    level: Level, *, scratch: str, size: int, readable: list[int], usable: list[int], abi: int, own_user: bool
) -> None:
    """This process, a fresh child, for good. Raises Refused where a layer is missing; nothing is left out in silence. own_user: whether it is to become the unprivileged user that
    `enclose` has mapped. Limits of resources are set when a program comes."""
    _call("prctl", PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if level == "rlimit-only":
        return
    if level == "strict":
        _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        _mount_memory(scratch, size)
        os.chdir(scratch)
    if own_user:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _call("prctl", PR_SET_PDEATHSIG, 9, 0, 0, 0)  # a change of user has cleared it
    if level == "strict":
        drop_capabilities()
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    landlock(readable, usable, scratch, abi)
    install_filter()


def probe() -> dict[str, str]:
    """What is missing here for each level: {} level -> reason; a level that is all there is not named. Tried in children of our own."""
    missing: dict[str, str] = {}
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return dict.fromkeys(LEVELS, "Linux on x86-64 is needed")
    abi = landlock_abi()
    if abi < 1:
        missing["standard"] = missing["strict"] = (
            "the kernel has no Landlock (Linux 5.13 with CONFIG_SECURITY_LANDLOCK, and `landlock` in its lsm list)"
        )
        return missing

    def filters() -> None:
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        install_filter()

    problem = _tried(filters)
    if problem:
        missing["standard"] = missing["strict"] = f"seccomp filters: {problem}"
        return missing

    def namespaces() -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            enclose(folder, 1 << 20)
            pid, _ = fork_isolated()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            _call("umount2", folder.encode(), MNT_DETACH)

    problem = _tried(namespaces)
    if problem:
        missing["strict"] = (
            f"unprivileged namespaces: {problem} (see kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor's restrictions)"
        )
    return missing


def _tried(what: Callable[[], None]) -> str:
    """Why `what` fails in a child; "" where it does not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            what()
        except OSError as problem:
            os.write(write, (problem.strerror or str(problem)).encode()[:200])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(pid, 0)
    return said or ("" if status == 0 else f"ended with {status}")


def open_to_all(path: str) -> bool:
    """Whether any user may reach a path: a program under a user of its own must find the interpreter, which may lie in somebody's home."""
    while path != "/":
        try:
            if not os.stat(path).st_mode & 0o001 and os.path.isdir(path):
                return False
        except OSError:
            return True
        path = os.path.dirname(path)
    return True
