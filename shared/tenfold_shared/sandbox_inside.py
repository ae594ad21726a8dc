"""The first process of a sandbox: puts the files in place, runs one command, hands back what it left.

`sandbox.py` gives this text to the sandbox's interpreter (`python -I -S -c TEXT SOCKET`), so it may use nothing but the
standard library, and little of that: its imports are paid at every run. It is process 1 there: signals from its own
namespace do not reach it, it may not be traced or have its descriptors opened (it is not dumpable), and when it ends the
kernel ends all the others. Without a sandbox (`unsafe`) it is an ordinary process and ends nobody.

On the socket: "ready" with descriptors of /proc and of the writable file systems; then the job comes in, up to the end of
input (marshal, from the trusted side); last goes a reply: status and number of files, then each file's index, length, bytes.
"""

import _socket
import ctypes
import marshal
import os
import resource
import select
import struct
import sys

HEAD, FILE = "<iI", "<IQ"  # status: exit code, or minus a signal's number; REFUSED with a text in place of files
REFUSED = -1000
READY_FOLDERS = ("/proc", "/tmp", "/dev/shm", ".")
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


def main() -> None:
    libc = ctypes.CDLL(None)
    libc.signal(2, None)  # Python's own handler of SIGINT would let it reach process 1
    link = _socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(link.fileno(), False)
    os.closerange(3, link.fileno())  # what bubblewrap was given, and did not close
    os.closerange(link.fileno() + 1, 1 << 12)
    folders = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in READY_FOLDERS] if os.getpid() == 1 else []
    rights = struct.pack(f"{len(folders)}i", *folders)
    link.sendmsg([b"ready"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if folders else [])
    for one in folders:
        os.close(one)
    parts = []
    while part := link.recv(1 << 20):
        parts.append(part)
    job = marshal.loads(b"".join(parts))
    parts.clear()
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # by now sandbox.py has set what it sets in our /proc
    user = job["user"]
    if user:  # files are made and read as the command's user; uid 0, to which signals from there do not go, stays the real one
        os.setgroups([])
        os.setegid(user)
        os.seteuid(user)
        # A new uid forgets that we are to end with bubblewrap, as it does with sandbox.py. Had either ended by now, so would
        # the other end of the socket have.
        libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
        poller = select.poll()
        poller.register(link, 0)
        if poller.poll(0):
            return
    work = os.getcwd()
    try:
        for name, content in job.pop("files").items():
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
            with open(name, "wb") as stream:
                stream.write(content)
    except OSError as error:
        link.sendall(struct.pack(HEAD, REFUSED, 0) + f"{error.filename or name}: {error.strerror}".encode())
        return
    link.sendall(run(job, libc) + collected(work, job["collect"], job["output_bytes"]))


def run(job: dict, libc: ctypes.CDLL) -> bytes:
    """Run the command to its end, and end what it left running; its status, packed."""
    pid = os.fork()
    if pid == 0:
        try:
            if job["user"]:
                os.seteuid(0)
                os.setresgid(*[job["user"]] * 3)
                os.setresuid(*[job["user"]] * 3)  # with which the capabilities go, too
            for number in (13, 25):  # SIGPIPE, SIGXFSZ: Python ignores them, and that would be inherited
                libc.signal(number, None)
            for which, wanted in job["limits"].items():
                hard = resource.getrlimit(which)[1]
                most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
                resource.setrlimit(which, (min(wanted[0], most), min(wanted[1], most)))
            os.execvpe(job["argv"][0], job["argv"], job["env"])
        except BaseException as error:
            os.write(2, f"{job['argv'][0][:200]}: cannot be started: {error}\n".encode(errors="replace"))
        finally:
            os._exit(127)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            break
    if os.getpid() == 1:
        try:
            os.kill(-1, 9)
        except ProcessLookupError:
            pass
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
    return struct.pack("<i", os.waitstatus_to_exitcode(status))


def collected(work: str, names: list[str], room: int) -> bytes:
    """How many files, and each of them: regular, reached through no link, and together within `room` bytes; others are left out."""
    found = []
    for index, name in enumerate(names):
        path = os.path.join(work, name)
        if os.path.realpath(path) != os.path.normpath(path):
            continue
        try:
            # NONBLOCK: to open a FIFO would wait for a writer
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
                info = os.fstat(stream.fileno())
                if info.st_mode & 0o170000 != 0o100000 or info.st_size > room:
                    continue
                content = stream.read(room)
        except OSError:
            continue
        room -= len(content)
        found.append(struct.pack(FILE, index, len(content)) + content)
    return struct.pack("<I", len(found)) + b"".join(found)


if __name__ == "__main__":
    main()
    os._exit(0)
