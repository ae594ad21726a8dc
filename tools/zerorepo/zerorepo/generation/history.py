"""A build as a git repository: the skeleton, one commit a verified leaf, one an area's integration, the graph at the end.

Written once all is settled, by one `git fast-import`, in the order of the plan and with times that count up from a fixed
one: the same results are the same commits. No hook, template or configuration of the user takes part.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tenfold_shared import Missing

BRANCH = "main"
ABSENT = "git is not installed; a build is written as a git repository"
AUTHOR = "zerorepo <zerorepo@localhost>"
START = 946_684_800  # 2000-01-01: commits are told apart by their order, not by when a run happened
# Nothing outside the folder: no configuration, and no remote to fetch a missing object from.
_ALONE = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
}  # fmt: skip
# Of a repository's own configuration what names no program that `git status` would run, as a filter does.
_HARMLESS = re.compile(r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks)|(remote|branch|user)\..*", re.I)  # fmt: skip


class Commit(NamedTuple):
    """files: path to bytes of what differs from the commit before; none is ever removed."""

    message: str
    files: Mapping[str, bytes]


def check() -> None:
    """Raises Missing where there is no git: said before a build, not after it."""
    if shutil.which("git") is None:
        raise Missing(ABSENT)


def touched(folder: Path, head: str) -> bool:
    """Whether a repository that `write` made has other commits, or changes, since; of one that is set up otherwise that is
    not asked, as it may be anybody's, and git would run what its configuration names."""
    told = _git(folder, "config", "--local", "--no-includes", "--list", "--name-only", "-z").split("\0")
    if not all(_HARMLESS.fullmatch(name) for name in told if name):
        return True
    return _git(folder, "rev-parse", "HEAD").strip() != head or _git(folder, "status", "--porcelain") != ""


def write(folder: Path, commits: Iterable[Commit]) -> str:
    """Make `folder`, which must be empty, the work tree of a new repository with these commits; the id of the last.

    Raises Missing where git is not there or fails.
    """
    _git(folder, "init", "-q", "--template=", f"--initial-branch={BRANCH}")
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "exclude").write_text("/manifest.json\n__pycache__/\n")
    parts = []
    for number, commit in enumerate(commits):
        message = commit.message.encode()
        parts.append(f"commit refs/heads/{BRANCH}\ncommitter {AUTHOR} {START + number} +0000\n".encode())
        parts.append(b"data %d\n%s\n" % (len(message), message))
        for path, data in sorted(commit.files.items()):
            parts.append(b"M 100644 inline %s\ndata %d\n%s\n" % (_quoted(path), len(data), data))
    _git(folder, "fast-import", "--quiet", "--done", stdin=b"".join([*parts, b"done\n"]))
    plain = (
        folder / ".git" / "info" / "attributes"
    )  # files as they were tested, whatever a .gitattributes among them says
    plain.write_text("* -text -ident -filter -working-tree-encoding\n")
    _git(folder, "reset", "-q", "--hard", BRANCH)
    plain.unlink()
    return _git(folder, "rev-parse", BRANCH).strip()


def _quoted(path: str) -> bytes:
    return b'"%s"' % path.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")


def _git(folder: Path, *words: str, stdin: bytes = b"") -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    call = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(call, cwd=folder, input=stdin, capture_output=True, env={**kept, **_ALONE}, check=False)
    except FileNotFoundError:
        raise Missing(ABSENT) from None
    if done.returncode:
        raise Missing(f"git {words[0]}: {' '.join(done.stderr.decode(errors='replace').split())[:300]}")
    return done.stdout.decode()
