"""The filters of system calls that a program runs under: an allow-list, as BPF programs for x86-64, one on the zygote and a short one that each child adds.

Where it sits: isolation.py installs them last. Three answers to what is not allowed. What ordinary code tries (a socket, a new process) fails with EPERM, so that it can be told why; clone3,
whose flags a filter cannot read, fails with ENOSYS, at which the C library falls back to clone; anything else ends the process with SIGSYS, which its caller reads as `policy`.
"""

from __future__ import annotations

import errno
import struct

ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000
CLONE_THREAD = 0x00010000
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG0 = 0, 4, 16  # offsets in struct seccomp_data

# What a Python program with numpy and sympy calls, the commonest first; numbers of the x86-64 table.
ALLOWED = {
    "read": 0, "write": 1, "futex": 202, "mmap": 9, "munmap": 11, "brk": 12, "mprotect": 10, "madvise": 28, "lseek": 8, "close": 3, "fstat": 5, "newfstatat": 262, "openat": 257,
    "clock_gettime": 228, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "getdents64": 217, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "open": 2, "stat": 4,
    "lstat": 6, "poll": 7, "ppoll": 271, "select": 23, "pselect6": 270, "ioctl": 16, "access": 21, "faccessat": 269, "faccessat2": 439, "pipe": 22, "pipe2": 293, "sched_yield": 24,
    "mremap": 25, "msync": 26, "mincore": 27, "dup": 32, "dup2": 33, "dup3": 292, "pause": 34, "nanosleep": 35, "clock_nanosleep": 230, "clock_getres": 229, "getitimer": 36, "alarm": 37,
    "setitimer": 38, "getpid": 39, "gettid": 186, "exit": 60, "exit_group": 231, "uname": 63, "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
    "getcwd": 79, "chdir": 80, "fchdir": 81, "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265, "unlink": 87,
    "unlinkat": 263, "symlink": 88, "symlinkat": 266, "readlink": 89, "readlinkat": 267, "chmod": 90, "fchmod": 91, "fchmodat": 268, "umask": 95, "gettimeofday": 96, "getrlimit": 97,
    "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getresuid": 118,
    "getresgid": 120, "getpgid": 121, "getsid": 124, "sigaltstack": 131, "utime": 132, "utimensat": 280, "statfs": 137, "fstatfs": 138, "getpriority": 140, "sched_getparam": 143,
    "sched_getscheduler": 145, "sched_get_priority_max": 146, "sched_get_priority_min": 147, "arch_prctl": 158, "set_tid_address": 218, "time": 201, "sched_getaffinity": 204,
    "sched_setaffinity": 203, "epoll_create": 213, "epoll_create1": 291, "epoll_ctl": 233, "epoll_wait": 232, "epoll_pwait": 281, "eventfd": 284, "eventfd2": 290, "timerfd_create": 283,
    "timerfd_settime": 286, "timerfd_gettime": 287, "set_robust_list": 273, "get_robust_list": 274, "prlimit64": 302, "getrandom": 318, "memfd_create": 319, "statx": 332, "rseq": 334,
    "copy_file_range": 326, "sendfile": 40, "fallocate": 285, "fadvise64": 221, "rt_sigpending": 127, "rt_sigtimedwait": 128,
    "rt_sigsuspend": 130, "signalfd4": 289, "wait4": 61, "waitid": 247, "getcpu": 309, "membarrier": 324, "close_range": 436, "setsid": 112, "setpgid": 109,
    "recvmsg": 47, "sendmsg": 46, "recvfrom": 45, "sendto": 44, "shutdown": 48, "getsockopt": 55, "getsockname": 51, "getpeername": 52, "socketpair": 53,
}  # fmt: skip
# What ordinary code may try, and is refused with EPERM.
REFUSED = {
    "socket": 41, "tkill": 200, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "setsockopt": 54, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
    "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setresuid": 117, "setresgid": 119, "setgroups": 116,
    "setpriority": 141, "sched_setscheduler": 144, "sched_setparam": 142, "setrlimit": 160, "mknod": 133, "mknodat": 259, "chroot": 161, "sethostname": 170, "shmget": 29, "shmat": 30,
    "shmctl": 31, "msgget": 68, "semget": 64, "mq_open": 240, "inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300, "mlock": 149, "mlockall": 151, "mlock2": 325, "sync": 162,
    "syncfs": 306, "getxattr": 191, "setxattr": 188, "listxattr": 194, "lgetxattr": 192, "fgetxattr": 193, "llistxattr": 195, "flistxattr": 196, "lsetxattr": 189, "fsetxattr": 190,
    "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239,
}  # fmt: skip
# What a zygote does to make a child, and a child before it takes a program; to programs these are refused, or their end.
WARDEN = {
    "mount": 165, "umount2": 166, "unshare": 272, "capset": 126, "landlock_restrict_self": 446, "landlock_create_ruleset": 444, "landlock_add_rule": 445, "setresuid": 117, "setresgid": 119, "setgroups": 116, "chown": 92,
}  # fmt: skip
CLONE, CLONE3, PRCTL = 56, 435, 157
SIGNALS = {"kill": 62, "tgkill": 234, "rt_sigqueueinfo": 129}  # to oneself alone
PRCTL_OPTIONS = (
    3,
    15,
    16,
    23,
    39,
)  # whether dumpable, set and get one's name, and whether privileges are bounded; not: whom one dies with


def _statement(code: int, k: int) -> tuple[int, int, int, int]:
    return code, 0, 0, k


def outer() -> bytes:
    """The filter that a zygote puts on itself, an array of struct sock_filter: what its children may do, and what it must do to make them."""
    steps: list[tuple[int, int, int, int]] = [
        _statement(_LOAD, _ARCH),
        (_JEQ, 1, 0, ARCH_X86_64),
        _statement(_RET, RET_KILL_PROCESS),
        _statement(_LOAD, _NR),
        (_JGE, 0, 1, X32_BIT),
        _statement(_RET, RET_KILL_PROCESS),
    ]
    open_ = {*ALLOWED.values(), *WARDEN.values(), *SIGNALS.values(), PRCTL, CLONE}
    for number in open_:
        steps += [(_JEQ, 0, 1, number), _statement(_RET, RET_ALLOW)]
    for number in REFUSED.values():
        if number not in open_:
            steps += [(_JEQ, 0, 1, number), _statement(_RET, RET_ERRNO | errno.EPERM)]
    steps += [(_JEQ, 0, 1, CLONE3), _statement(_RET, RET_ERRNO | errno.ENOSYS)]
    steps.append(_statement(_RET, RET_KILL_PROCESS))
    return _packed(steps)


def inner(pid: int) -> bytes:
    """The filter that a child adds to it, for process `pid` (as it sees itself): of two filters the stricter answer holds. Short, as the kernel works out each filter's answers when it is installed."""
    steps: list[tuple[int, int, int, int]] = [_statement(_LOAD, _NR)]
    for name, number in WARDEN.items():
        answer = RET_ERRNO | errno.EPERM if name in REFUSED else RET_KILL_PROCESS
        steps += [(_JEQ, 0, 1, number), _statement(_RET, answer)]
    steps += _first_argument(list(SIGNALS.values()), [(_JEQ, pid)])
    steps += _first_argument([PRCTL], [(_JEQ, one) for one in PRCTL_OPTIONS])
    steps += _first_argument([CLONE], [(_JSET, CLONE_THREAD)])  # threads are no processes
    steps.append(_statement(_RET, RET_ALLOW))
    return _packed(steps)


def _packed(steps: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _first_argument(numbers: list[int], allowed: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """These calls are allowed where their first argument passes one of the tests, else refused."""
    tests: list[tuple[int, int, int, int]] = [_statement(_LOAD, _ARG0)]
    for test, value in allowed:
        tests += [(test, 0, 1, value), _statement(_RET, RET_ALLOW)]
    tests.append(_statement(_RET, RET_ERRNO | errno.EPERM))
    found: list[tuple[int, int, int, int]] = []
    for number in numbers:
        found += [(_JEQ, 0, len(tests), number), *tests]
    return found
