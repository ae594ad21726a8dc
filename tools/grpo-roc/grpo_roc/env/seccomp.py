"""The filters of system calls that a program runs under: an allow-list, as BPF programs for x86-64, one on the zygote and a short one that each child adds.

Where it sits: isolation.py installs them last. Answers to what is not allowed: what ordinary code tries (a socket, a new process) fails with EPERM, so that it can be told why; where libraries have a second way, with what makes them take it
(ENOSYS for clone3, whose flags a filter cannot read, ENOTTY, EOPNOTSUPP); anything else ends the process with SIGSYS, which its caller reads as `policy`.
"""

from __future__ import annotations

import errno
import struct

ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000
CLONE_THREAD = 0x00010000
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data; of arguments the lower halves, which are all that an int has.
_NR, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32

# What a Python program with numpy and sympy calls, the commonest first; numbers of the x86-64 table.
ALLOWED = {
    "read": 0, "write": 1, "futex": 202, "mmap": 9, "munmap": 11, "brk": 12, "mprotect": 10, "madvise": 28, "lseek": 8, "close": 3, "fstat": 5, "newfstatat": 262, "openat": 257,
    "clock_gettime": 228, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "restart_syscall": 219, "getdents64": 217, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "open": 2, "stat": 4,
    "lstat": 6, "poll": 7, "ppoll": 271, "select": 23, "pselect6": 270, "access": 21, "faccessat": 269, "faccessat2": 439, "pipe": 22, "pipe2": 293, "sched_yield": 24,
    "mremap": 25, "msync": 26, "mincore": 27, "dup": 32, "dup2": 33, "dup3": 292, "pause": 34, "nanosleep": 35, "clock_nanosleep": 230, "clock_getres": 229, "getitimer": 36, "alarm": 37,
    "setitimer": 38, "getpid": 39, "gettid": 186, "exit": 60, "exit_group": 231, "uname": 63, "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
    "getcwd": 79, "chdir": 80, "fchdir": 81, "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265, "unlink": 87,
    "unlinkat": 263, "symlink": 88, "symlinkat": 266, "readlink": 89, "readlinkat": 267, "umask": 95, "gettimeofday": 96, "getrlimit": 97,
    "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getresuid": 118,
    "getresgid": 120, "getpgid": 121, "getsid": 124, "sigaltstack": 131, "statfs": 137, "fstatfs": 138, "getpriority": 140, "sched_getparam": 143,
    "sched_getscheduler": 145, "sched_get_priority_max": 146, "sched_get_priority_min": 147, "arch_prctl": 158, "set_tid_address": 218, "time": 201, "sched_getaffinity": 204,
    "epoll_create": 213, "epoll_create1": 291, "epoll_ctl": 233, "epoll_wait": 232, "epoll_pwait": 281, "eventfd": 284, "eventfd2": 290, "timerfd_create": 283,
    "timerfd_settime": 286, "timerfd_gettime": 287, "set_robust_list": 273, "get_robust_list": 274, "getrandom": 318, "statx": 332, "rseq": 334,
    "copy_file_range": 326, "sendfile": 40, "fadvise64": 221, "rt_sigpending": 127, "rt_sigtimedwait": 128,
    "rt_sigsuspend": 130, "signalfd4": 289, "wait4": 61, "waitid": 247, "getcpu": 309, "membarrier": 324, "close_range": 436, "setsid": 112, "setpgid": 109,
    "recvmsg": 47, "sendmsg": 46, "recvfrom": 45, "sendto": 44, "shutdown": 48, "getsockopt": 55, "getsockname": 51, "getpeername": 52,
}  # fmt: skip
# What ordinary code may try, and is refused with EPERM.
REFUSED = {
    "socket": 41, "tkill": 200, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "setsockopt": 54, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
    "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setresuid": 117, "setresgid": 119, "setgroups": 116,
    "utime": 132, "setpriority": 141, "sched_setscheduler": 144, "sched_setparam": 142, "setrlimit": 160, "mknod": 133, "mknodat": 259, "chroot": 161, "sethostname": 170, "shmget": 29, "shmat": 30,
    "shmctl": 31, "msgget": 68, "semget": 64, "mq_open": 240, "inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300, "mlock": 149, "mlockall": 151, "mlock2": 325, "sync": 162,
    "syncfs": 306,     "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239,
    "memfd_create": 319,  # memory that no limit of a process counts
}  # fmt: skip
# What a zygote does to make a child, and a child before it takes a program; to programs these are refused, or their end.
WARDEN = {
    "mount": 165, "umount2": 166, "unshare": 272, "capset": 126, "landlock_restrict_self": 446, "landlock_create_ruleset": 444, "landlock_add_rule": 445, "setresuid": 117, "setresgid": 119, "setgroups": 116, "chown": 92,
}  # fmt: skip
CLONE, CLONE3, PRCTL = 56, 435, 157
# What files need not have, and what then is done without. fallocate could take a disk, past the limit of a file's size.
LACKING = {
    "fallocate": 285, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "getxattr": 191, "lgetxattr": 192, "fgetxattr": 193, "listxattr": 194, "llistxattr": 195, "flistxattr": 196,
}  # fmt: skip
OF_ONESELF = {"prlimit64": 302, "sched_setaffinity": 203}  # of process 0 alone: else of all that the user has
IOCTL, FCNTL, SOCKETPAIR = 16, 72, 53
# What files are asked that are no devices: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not: whom to send signals, a file's flags.
IOCTL_COMMANDS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# Duplicates, flags, locks, the size of a pipe. Not: whom to send which signal, leases, a greater pipe.
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
UNIX, NOT_STREAMS = (
    1,
    0b1010,
)  # a pair of datagram sockets could send to any socket that has a path; streams (1) and packets in order (5) have not these bits
# What Landlock does not know. At level standard, where other files of the same user are to be seen, these are as if done (copying files would fail otherwise), but for setting a file's time to now,
# which is refused (a file that is touched must come to be).
MODES = {"chmod": 90, "fchmod": 91, "fchmodat": 268}
TIMES = {"utimensat": 280}
SIGNALS = {"kill": 62, "tgkill": 234, "rt_sigqueueinfo": 129}  # to oneself alone
PRCTL_OPTIONS = (
    3,
    15,
    16,
    23,
    39,
)  # whether dumpable, set and get one's name, and whether privileges are bounded; not: whom one dies with


Step = tuple[int, int, int, int]


def _statement(code: int, k: int) -> Step:
    return code, 0, 0, k


def outer() -> bytes:
    """The filter that a zygote puts on itself, an array of struct sock_filter: what its children may do, and what it must do to make them."""
    refused = RET_ERRNO | errno.EPERM
    steps: list[Step] = [
        _statement(_LOAD, _ARCH),
        (_JEQ, 1, 0, ARCH_X86_64),
        _statement(_RET, RET_KILL_PROCESS),
        _statement(_LOAD, _NR),
        (_JGE, 0, 1, X32_BIT),
        _statement(_RET, RET_KILL_PROCESS),
    ]
    for number in OF_ONESELF.values():
        steps += _allowed_where(number, _ARG0, [(_JEQ, 0)], refused)
    steps += _allowed_where(FCNTL, _ARG1, [(_JEQ, one) for one in FCNTL_COMMANDS], refused)
    steps += _allowed_where(IOCTL, _ARG1, [(_JEQ, one) for one in IOCTL_COMMANDS], RET_ERRNO | errno.ENOTTY)
    pair = [_statement(_LOAD, _ARG0), (_JEQ, 0, 3, UNIX), _statement(_LOAD, _ARG1), (_JSET, 1, 0, NOT_STREAMS)]
    steps += [(_JEQ, 0, len(pair) + 2, SOCKETPAIR), *pair, _statement(_RET, RET_ALLOW), _statement(_RET, refused)]
    open_ = {*ALLOWED.values(), *WARDEN.values(), *MODES.values(), *TIMES.values(), *SIGNALS.values(), PRCTL, CLONE}
    for number in open_:
        steps += [(_JEQ, 0, 1, number), _statement(_RET, RET_ALLOW)]
    for number in REFUSED.values():
        if number not in open_:
            steps += [(_JEQ, 0, 1, number), _statement(_RET, refused)]
    steps += [(_JEQ, 0, 1, CLONE3), _statement(_RET, RET_ERRNO | errno.ENOSYS)]
    for number in LACKING.values():
        steps += [(_JEQ, 0, 1, number), _statement(_RET, RET_ERRNO | errno.EOPNOTSUPP)]
    steps.append(_statement(_RET, RET_KILL_PROCESS))
    return _packed(steps)


def inner(pid: int, *, modes: bool) -> bytes:
    """The filter that a child adds to it, for process `pid` (as it sees itself), which may change modes and times of files or (not `modes`) only seems to: of two filters the stricter answer holds. Short,
    as the kernel works out each filter's answers when it is installed."""
    refused = RET_ERRNO | errno.EPERM
    steps: list[Step] = [_statement(_LOAD, _NR)]
    for name, number in WARDEN.items():
        steps += [(_JEQ, 0, 1, number), _statement(_RET, refused if name in REFUSED else RET_KILL_PROCESS)]
    if not modes:
        for number in MODES.values():
            steps += [(_JEQ, 0, 1, number), _statement(_RET, RET_ERRNO)]
        now = [_statement(_LOAD, _ARG2), (_JEQ, 0, 1, 0), _statement(_RET, refused), _statement(_RET, RET_ERRNO)]
        steps += [step for number in TIMES.values() for step in [(_JEQ, 0, len(now), number), *now]]
    for number in SIGNALS.values():
        steps += _allowed_where(number, _ARG0, [(_JEQ, pid)], refused)
    steps += _allowed_where(PRCTL, _ARG0, [(_JEQ, one) for one in PRCTL_OPTIONS], refused)
    steps += _allowed_where(CLONE, _ARG0, [(_JSET, CLONE_THREAD)], refused)  # threads are no processes
    steps.append(_statement(_RET, RET_ALLOW))
    return _packed(steps)


def _packed(steps: list[Step]) -> bytes:
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _allowed_where(number: int, argument: int, tests: list[tuple[int, int]], answer: int) -> list[Step]:
    """This call is allowed where an argument passes one of the tests, else answered so."""
    steps: list[Step] = [_statement(_LOAD, argument)]
    for test, value in tests:
        steps += [(test, 0, 1, value), _statement(_RET, RET_ALLOW)]
    steps.append(_statement(_RET, answer))
    return [(_JEQ, 0, len(steps), number), *steps]
