"""What a program may do: namespaces, Landlock, seccomp and limits of resources, by plain system calls (no privilege, no container daemon).

    strict       own user, mount, network, IPC, host-name and process namespaces, a file system with what may be read and one folder; Landlock; seccomp; limits
    standard     Landlock; seccomp; limits
    rlimit-only  limits, and the clock outside: no boundary against a program that means harm

Where it sits: zygote.py makes a Confinement once and enters it in every child; `probe` says what this machine allows. Order matters: namespaces, privileges, Landlock, seccomp
last. Constants are of the Linux x86-64 ABI.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys

from grpo_roc.env import seccomp

TYPE_CHECKING = False  # as typing says; the module itself is kept out of zygotes, whose every page costs
if TYPE_CHECKING:
    from collections.abc import Callable
LEVELS = ("strict", "standard", "rlimit-only")

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWCGROUP = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
    0x2000000,
)
CLONE_PIDFD, CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID = 0x1000, 0x1000000, 0x200000
SIGCHLD = 17
SYS_PRCTL, SYS_CAPSET, SYS_MADVISE, SYS_CLOSE, SYS_MOUNT, SYS_UMOUNT, SYS_UNSHARE = 157, 126, 28, 3, 165, 166, 272
SYS_PIVOT_ROOT, SYS_MOUNT_SETATTR = 155, 442
MADV_COLLAPSE, GREAT_PAGE = 25, 2 << 20
SYS_CLONE, SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 56, 444, 445, 446
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SUBREAPER = 1, 4, 22, 24, 36
PR_SET_NO_NEW_PRIVS, PR_GET_TID_ADDRESS = 38, 40
NOBODY = 65534
CAPS_NEEDED = (6, 7, 21)  # to make a strict child: setgid, setuid, sys_admin
CAP_READ = 2  # others' files too, such as the interpreter, where Landlock allows it
CAPS_VERSION = 0x20080522
PROGRAM = "/program/home"  # a strict child's folder; rules are of the one above, as Landlock does not look at that on which something is mounted

# Landlock: what is handled (denied unless a rule allows it) by ABI, and what reading and running needs.
FS_EXECUTE, FS_WRITE, FS_READ, FS_READ_DIR = 1, 2, 4, 8
FS_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
FS_OF_FILE = (
    FS_EXECUTE | FS_WRITE | FS_READ | (1 << 14) | (1 << 15)
)  # rights that a rule on a file, not a folder, may have
NET_ALL, SCOPE_ALL = 3, 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
# plain numbers and addresses in, with nothing to convert: what a child calls
_plain = ctypes.CDLL(None, use_errno=True).syscall
_plain.restype, _plain.argtypes = ctypes.c_long, [ctypes.c_long] * 6


def _tid() -> int:
    """Where the C library keeps this thread's number; 0 where the kernel does not say."""
    found = ctypes.c_long(0)
    return found.value if _libc.prctl(PR_GET_TID_ADDRESS, ctypes.byref(found), 0, 0, 0) == 0 else 0


_TID = _tid()


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


def _made(call: tuple[int, ...]) -> None:
    """A system call, its number first, that is prepared. Raises Refused."""
    if _plain(*call) < 0:
        raise Refused(ctypes.get_errno(), f"system call {call[0]}: {os.strerror(ctypes.get_errno())}")


# ---------------------------------------------------------------- namespaces


def enclose(root: str, paths: list[str]) -> None:
    """This process (single-threaded) into namespaces of its own, in which it is root of nothing outside: no network, and a file system that has `paths`, to be read, under their own names, and an empty
    folder PROGRAM. It is built at the folder `root`, and the one that was is let go. Raises Refused."""
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
    _mount_memory(root, 1 << 16, 0o755)
    os.makedirs(root + PROGRAM, 0o755)
    bound: list[str] = []
    for path in filter(os.path.exists, paths):
        _mirror(root, path, bound)
    if not os.path.lexists(f"{root}/dev/shm"):  # where semaphores are files
        os.makedirs(f"{root}/dev", 0o755, exist_ok=True)
        os.symlink(PROGRAM, f"{root}/dev/shm")
    # struct mount_attr: set, clear, propagation, user namespace
    told = struct.pack("=QQQQ", MS_RDONLY | MS_NOSUID, 0, 0, 0)
    _syscall(SYS_MOUNT_SETATTR, ctypes.c_int(AT_FDCWD), os.fsencode(root), ctypes.c_uint(AT_RECURSIVE), told, ctypes.c_size_t(len(told)))  # fmt: skip
    os.chdir(root)
    _syscall(SYS_PIVOT_ROOT, b".", b".")  # the old one lies on the new one then
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def _mirror(root: str, path: str, bound: list[str]) -> None:
    """Below `root` the folders and links that lead to `path`, and there what it names, mounted; bound: what is there already, and this."""
    at, parts = "", [part for part in reversed(path.split("/")) if part]
    while parts:
        part = parts.pop()
        if part in (".", ".."):
            at = os.path.dirname(at) if part == ".." else at
            continue
        here = f"{at}/{part}"
        if any(f"{here}/".startswith(f"{one}/") for one in bound):
            return
        if os.path.islink(here):
            target = os.readlink(here)
            if not os.path.lexists(root + here):
                os.symlink(target, root + here)
            at = "" if target.startswith("/") else at
            parts += [part for part in reversed(target.split("/")) if part]
        elif parts:
            os.makedirs(root + here, 0o755, exist_ok=True)
            at = here
        else:
            if os.path.isdir(here):
                os.makedirs(root + here, 0o755, exist_ok=True)
            else:
                os.close(os.open(root + here, os.O_CREAT | os.O_CLOEXEC, 0o644))
            _call("mount", os.fsencode(here), os.fsencode(root + here), None, MS_BIND | MS_REC, None)
            bound.append(here)


def _write(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


def _mount_memory(path: str, size: int, mode: int) -> None:
    told = f"size={size},nr_inodes=4096,mode={mode:04o}".encode()
    _call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", MS_NOSUID | MS_NODEV, told)


def fork(level: str) -> tuple[int, int]:
    """fork, at level strict into a process namespace of its own, where the child is process 1: (pid, pidfd) to the parent, (0, -1) to the child. By the plain system call: what the interpreter and
    its modules do about a fork is for other threads, of which this process may have none, and costs more than the fork itself. What should differ between children (random.seed) is the caller's to change."""
    pidfd = ctypes.c_int(-1)
    namespaces = NEWPID if level == "strict" else 0
    # the C library keeps the thread's number where the kernel can be told to write the child's
    told = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID if _TID else 0
    pid = int(_plain(SYS_CLONE, namespaces | told | CLONE_PIDFD | SIGCHLD, 0, ctypes.addressof(pidfd), _TID, 0))
    if pid < 0:
        raise Refused(ctypes.get_errno(), f"clone: {os.strerror(ctypes.get_errno())}")
    return pid, pidfd.value


# ---------------------------------------------------------------- Landlock


def landlock_abi() -> int:
    """The kernel's version of Landlock; 0 where there is none."""
    found = int(_libc.syscall(ctypes.c_long(SYS_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    return max(found, 0)


def landlock_lack(level: str, abi: int) -> str:
    """What is missing of it for a level; "" where nothing is."""
    if abi < 1:
        return "the kernel has no Landlock (Linux 5.13 with CONFIG_SECURITY_LANDLOCK, and `landlock` in its lsm list)"
    if abi < 3 and level == "standard":  # at level strict all but the program's folder is mounted to be read
        return (
            f"the kernel's Landlock (version {abi}) lets files be cut short that may only be read (Linux 6.2 does not)"
        )
    return ""


def handled(abi: int) -> int:
    return FS_ALL[max(version for version in FS_ALL if version <= abi)]


def ruleset(readable: list[int], usable: list[int], writable: str, abi: int) -> int:
    """A descriptor of what `restrict` is to allow: to read and run what is below the folders or files of descriptors `readable`, to read and write the devices `usable`, and anything below the folder
    `writable` and what is mounted there; nothing else of any file system, no TCP (from ABI 4), no signals or abstract sockets beyond the process (from ABI 6)."""
    rights = handled(abi)
    fields = struct.pack("=QQQ", rights, NET_ALL if abi >= 4 else 0, SCOPE_ALL if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    found = _syscall(SYS_LANDLOCK_CREATE, fields, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        here = os.open(writable, os.O_PATH | os.O_CLOEXEC)
        try:
            rules = [(one, FS_EXECUTE | FS_READ | FS_READ_DIR) for one in readable] + [
                (one, FS_READ | FS_WRITE) for one in usable
            ]
            for descriptor, allowed in [*rules, (here, rights)]:
                folder = os.fstat(descriptor).st_mode & 0o170000 == 0o040000
                allowed = allowed & rights & (-1 if folder else FS_OF_FILE)
                _syscall(
                    SYS_LANDLOCK_ADD,
                    ctypes.c_int(found),
                    ctypes.c_int(1),
                    struct.pack("=Qi", allowed, descriptor),
                    ctypes.c_uint32(0),
                )
        finally:
            os.close(here)
    except BaseException:
        os.close(found)
        raise
    return found


def restrict(rules: int) -> None:
    """Hold this process to a ruleset, for good."""
    _syscall(SYS_LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0))


# ---------------------------------------------------------------- the rest


class Limits:
    """Of one program: memory (address space, bytes), file_size (bytes), descriptors and threads, both soft and hard, so that they cannot be raised again."""

    def __init__(self, memory: int, file_size: int, descriptors: int, threads: int) -> None:
        """What a zygote can bear itself holds from here on, and is inherited; the rest is set in a child."""
        for which, most in (
            (resource.RLIMIT_FSIZE, file_size),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_STACK, 8 << 20),
            (resource.RLIMIT_SIGPENDING, 1024),  # which is counted for all that a user has
        ):
            least = _least(which, most)
            resource.setrlimit(which, (least, least))
        # how many descriptors may be on their way to the supervisor, of all processes of a user, is bounded by the sender's own limit
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.descriptors = _least(resource.RLIMIT_NOFILE, descriptors)
        self.memory = _least(resource.RLIMIT_AS, memory)
        self.threads = _least(resource.RLIMIT_NPROC, threads)
        self.cpu = _least(resource.RLIMIT_CPU, 1 << 40)

    def apply(self, cpu: float) -> None:
        """In a child. cpu: seconds; what it has had until now is little."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        resource.setrlimit(resource.RLIMIT_AS, (self.memory, self.memory))
        resource.setrlimit(resource.RLIMIT_NPROC, (self.threads, self.threads))
        seconds = min(int(cpu + 1.999), self.cpu)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _least(which: int, most: int) -> int:
    _, hard = resource.getrlimit(which)
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


class Filter:
    """A filter of system calls, made once and installed in any process forked from here."""

    def __init__(self, code: bytes) -> None:
        self.code = ctypes.create_string_buffer(code, len(code))
        self.told = ctypes.create_string_buffer(
            struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(self.code)), 16
        )  # struct sock_fprog
        self.address = ctypes.addressof(self.told)

    def install(self) -> None:
        """For good; no new privileges first."""
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        _prctl(PR_SET_SECCOMP, 2, self.address)


def _prctl(option: int, second: int = 0, third: int = 0) -> None:
    _made((SYS_PRCTL, option, second, third, 0, 0))


class Confinement:
    """What a child is held to, prepared in its zygote as far as can be: a child makes few system calls, and touches little of the memory that must then be copied for it.

    strict: the zygote `enclose`s itself, and before each fork enters a new mount namespace and mounts a new file system on PROGRAM, which it leaves to the child; the ruleset of Landlock is of the folder above it,
    and so the same for all.
    standard: every child has a folder of its own below `scratch`, and a ruleset made for it."""

    def __init__(
        self, level: str, scratch: str, size: int, readable: list[str], usable: list[str], own_user: bool
    ) -> None:
        """This process, single-threaded, for good. own_user: whether children are to become an unprivileged user, which `enclose` maps. Raises Refused where a layer is missing; nothing is left out in silence."""
        self.level, self.scratch, self.own_user = level, scratch, own_user
        self.rules = -1
        self.made = 0
        self.last: list[tuple[int, ...]] = [(SYS_PRCTL, PR_SET_PDEATHSIG, 9, 0, 0, 0)]
        _prctl(PR_SET_PDEATHSIG, 9)
        _prctl(PR_SET_SUBREAPER, 1)
        if level == "rlimit-only":
            return
        self.abi = landlock_abi()
        lack = landlock_lack(level, self.abi)
        if lack:
            raise Refused(errno.ENOSYS, lack)
        self.readable, self.usable = (
            [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths if os.path.exists(path)]
            for paths in (readable, usable)
        )
        if level == "strict":
            enclose(scratch, [*readable, *usable])
            self.folder = PROGRAM
            self.rules = ruleset(self.readable, self.usable, os.path.dirname(self.folder), self.abi)
            for one in (*self.readable, *self.usable):
                os.close(one)
            self.options = [
                ctypes.create_string_buffer(one)
                for one in (b"tmpfs", self.folder.encode(), f"size={size},nr_inodes=4096,mode=0777".encode())
            ]
            kind, target, options = map(ctypes.addressof, self.options)
            # a namespace of mounts for the next child, without the last child's, which goes on to have it
            self.next = [
                (SYS_UNSHARE, NEWNS, 0, 0, 0, 0),
                (SYS_UMOUNT, target, MNT_DETACH, 0, 0, 0),
                (SYS_MOUNT, kind, target, kind, MS_NOSUID | MS_NODEV, options),
            ]
            _made(self.next[2])
            bound_capabilities(keep=CAPS_NEEDED)
            self.nothing = capabilities(())
            self.inner = Filter(seccomp.inner(1, modes=True))
            # in this order, when all else is done: no capability, Landlock, the filter
            self.last += [
                (SYS_CAPSET, *map(ctypes.addressof, self.nothing), 0, 0, 0),
                (SYS_LANDLOCK_RESTRICT, self.rules, 0, 0, 0, 0),
                (SYS_CLOSE, self.rules, 0, 0, 0, 0),
                (SYS_PRCTL, PR_SET_SECCOMP, 2, self.inner.address, 0, 0),
            ]
        elif os.geteuid() == 0 and not own_user:
            # programs will be the same user: it keeps no power over limits, other processes and the machine
            few = capabilities((CAP_READ,))
            _made((SYS_CAPSET, *map(ctypes.addressof, few), 0, 0, 0))
        _prctl(PR_SET_PDEATHSIG, 9)  # which new credentials may have cleared
        _prctl(PR_SET_DUMPABLE, 0)  # no program's crash starts what collects cores, as a limit of 0 alone would
        Filter(seccomp.outer()).install()

    def prepare(self) -> str:
        """Before a fork, in the parent: the folder that the child will have, which is the working folder then."""
        if self.level == "strict":
            os.chdir("/")
            for call in self.next:
                _made(call)
            os.chdir(self.folder)
            return self.folder
        self.made += 1
        folder = os.path.join(self.scratch, str(self.made))
        os.mkdir(folder, 0o700)
        if self.level == "standard":
            if self.own_user:
                os.chown(folder, NOBODY, NOBODY)
            self.rules = ruleset(self.readable, self.usable, folder, self.abi)
        os.chdir(folder)
        return folder

    def after(self) -> None:
        """After it, in the parent."""
        if self.level == "standard":
            os.close(self.rules)

    def enter(self) -> None:
        """The child, for good. Raises Refused. Limits of resources are set when a program comes."""
        if self.own_user:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        for call in self.last:
            _made(call)
        if self.level == "standard":
            restrict(self.rules)
            for one in (self.rules, *self.readable, *self.usable):
                os.close(one)
            Filter(seccomp.inner(os.getpid(), modes=False)).install()


def capabilities(keep: tuple[int, ...]) -> list[ctypes.Array[ctypes.c_char]]:
    """The two structures that capset is told, for this process to have `keep` (numbers below 32), to inherit nothing."""
    bits = sum(1 << one for one in keep)
    return [
        ctypes.create_string_buffer(one, len(one))
        for one in (struct.pack("=Ii", CAPS_VERSION, 0), struct.pack("=6I", bits, bits, 0, 0, 0, 0))
    ]


def bound_capabilities(keep: tuple[int, ...]) -> None:
    """Those beyond which no process from here on can come."""
    for number in range(64):
        if number not in keep and _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break


def gather(maps: str) -> None:
    """This process's data into great pages, where the kernel has them (Linux 6.1, "madvise" or "always"): a fork then copies a table of few entries. Where it does not, nothing is lost but time.
    maps: what /proc/self/maps says."""
    for line in maps.splitlines():
        words = line.split()
        if words[1] == "rw-p" and (len(words) == 5 or words[5] == "[heap]"):
            low, high = (int(word, 16) for word in words[0].split("-"))
            low, high = -(-low // GREAT_PAGE) * GREAT_PAGE, high // GREAT_PAGE * GREAT_PAGE
            if low < high:
                _plain(SYS_MADVISE, low, high - low, MADV_COLLAPSE, 0, 0)


def probe() -> dict[str, str]:
    """What is missing here for each level: {} level -> reason; a level that is all there is not named. Tried in children of our own."""
    import tempfile

    missing: dict[str, str] = {}
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return dict.fromkeys(LEVELS, "Linux on x86-64 is needed")
    for level in ("strict", "standard"):
        lack = landlock_lack(level, landlock_abi())
        if lack:
            missing[level] = lack
    if "strict" in missing:
        return missing

    def filters() -> None:
        Filter(seccomp.outer()).install()
        Filter(seccomp.inner(os.getpid(), modes=False)).install()

    problem = _tried(filters)
    if problem:
        missing["standard"] = missing["strict"] = f"seccomp filters: {problem}"
        return missing

    with tempfile.TemporaryDirectory() as folder:

        def namespaces() -> None:
            enclose(folder, ["/usr", "/dev/null"])
            pid, _ = fork("strict")
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

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


def read_by_all(path: str) -> bool:
    """Whether any user may read a path, could it but reach it; one that is not there is."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True
    needed = 0o005 if mode & 0o170000 == 0o040000 else 0o004
    return mode & needed == needed


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
