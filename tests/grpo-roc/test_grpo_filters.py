"""The filters of system calls, run by a second reading of BPF, and their tables beside the kernel's."""

import errno
import struct
from pathlib import Path

import pytest

from grpo_roc.env import seccomp

# ---------------------------------------------------------------- the filter, by a second reading of BPF


def decided(code, number, *arguments, arch=seccomp.ARCH_X86_64):
    """What a BPF program answers to a system call: an interpreter of the few instructions that seccomp knows."""
    given = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *given)
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


@pytest.mark.parametrize("modes", [True, False])
def test_the_filters_say_what_their_tables_say(modes):
    """Of a program's two filters the stricter answer holds."""
    allowed, killed = seccomp.RET_ALLOW, seccomp.RET_KILL_PROCESS
    refused, done = seccomp.RET_ERRNO | errno.EPERM, seccomp.RET_ERRNO
    absent, unfit, lacking = (seccomp.RET_ERRNO | n for n in (errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP))
    strict = [killed, absent, unfit, lacking, refused, done, allowed]
    codes = seccomp.outer(), seccomp.inner(7, modes=modes)

    def both(number, *arguments, **more):
        return min((decided(code, number, *arguments, **more) for code in codes), key=strict.index)

    groups = [
        seccomp.ALLOWED, seccomp.REFUSED, seccomp.LACKING, seccomp.MODES, seccomp.TIMES, seccomp.OF_ONESELF, seccomp.SIGNALS,
        {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "prctl": seccomp.PRCTL, "ioctl": seccomp.IOCTL, "fcntl": seccomp.FCNTL, "socketpair": seccomp.SOCKETPAIR},
    ]  # fmt: skip
    numbers = [number for group in groups for number in group.values()]
    assert len(set(numbers)) == len(numbers) and not set(seccomp.WARDEN.values()) & (
        set(numbers) - set(seccomp.REFUSED.values())
    )
    want = dict.fromkeys(range(600), killed)
    want |= dict.fromkeys(seccomp.ALLOWED.values(), allowed) | dict.fromkeys(seccomp.REFUSED.values(), refused)
    want |= dict.fromkeys(seccomp.LACKING.values(), lacking) | {seccomp.CLONE3: absent}
    want |= dict.fromkeys(seccomp.MODES.values(), allowed if modes else done)
    want |= dict.fromkeys(seccomp.TIMES.values(), allowed if modes else refused)  # by a time of null: now
    want |= dict.fromkeys(seccomp.SIGNALS.values(), refused) | dict.fromkeys(seccomp.OF_ONESELF.values(), allowed)
    want |= {seccomp.CLONE: refused, seccomp.PRCTL: refused, seccomp.IOCTL: unfit, seccomp.FCNTL: allowed, seccomp.SOCKETPAIR: refused}  # fmt: skip
    assert {number: both(number) for number in range(600)} == want
    for number in seccomp.SIGNALS.values():
        assert both(number, 7) == allowed and both(number, 8) == refused
    for number in seccomp.OF_ONESELF.values():
        assert both(number, 7) == both(number, 1) == refused
    for number in seccomp.TIMES.values():
        assert both(number, 0, 0, 0x7FFF12345678) == (allowed if modes else done)
    assert both(seccomp.CLONE, 0x3D0F00) == allowed  # as pthread_create asks
    assert both(seccomp.CLONE, 17) == refused
    assert [both(seccomp.PRCTL, one) for one in (15, 1, 22, 4)] == [allowed, refused, refused, refused]
    # F_GETFL, F_SETLK, F_DUPFD_CLOEXEC; F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_SETPIPE_SZ
    assert {both(seccomp.FCNTL, 3, one) for one in (3, 6, 1030)} == {allowed}
    assert {both(seccomp.FCNTL, 3, one) for one in (8, 10, 15, 1024, 1031)} == {refused}
    # TCGETS, FIOCLEX; FIOSETOWN, FIOASYNC, TIOCSTI, FS_IOC_SETFLAGS
    assert {both(seccomp.IOCTL, 3, one) for one in (0x5401, 0x5451)} == {allowed}
    assert {both(seccomp.IOCTL, 3, one) for one in (0x8901, 0x5452, 0x5412, 0x40086602)} == {unfit}
    # streams and packets of AF_UNIX, also as Python asks for them (SOCK_CLOEXEC); datagrams, raw, other families
    assert {both(seccomp.SOCKETPAIR, 1, one) for one in (1, 5, 0x80001)} == {allowed}
    assert {both(seccomp.SOCKETPAIR, *one) for one in ((1, 2), (1, 3), (1, 0x80002), (2, 1), (30, 5))} == {refused}
    assert both(0, arch=0x40000003) == both(seccomp.X32_BIT) == killed
    assert all(len(code) // 8 < 4096 for code in codes) and len(codes[1]) // 8 < 80  # short: installed in every child


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
        | seccomp.LACKING
        | seccomp.MODES
        | seccomp.TIMES
        | seccomp.OF_ONESELF
        | seccomp.SIGNALS
        | seccomp.WARDEN
        | {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "prctl": seccomp.PRCTL}
        | {"ioctl": seccomp.IOCTL, "fcntl": seccomp.FCNTL, "socketpair": seccomp.SOCKETPAIR}
    )
    assert {name: number for name, number in tables.items() if name in known} == {
        name: known[name] for name in tables if name in known
    }
    assert len(set(tables.values())) == len(tables)
