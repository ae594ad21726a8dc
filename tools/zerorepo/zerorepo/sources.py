"""Where a repository's files come from: a folder with its uncommitted edits, or a commit.

encode and update read through a `Source` and so cannot tell the two apart; that is why a graph made
from a clean checkout equals the one made from its commit. Git decides what belongs to the repository
where there is git (ignored files are left out, untracked ones are not); elsewhere a walk that leaves
out environments and build leavings.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from tenfold_shared import BadInput, Missing

# Suffixes of code that is not Python: such files are kept as nodes, unread. Others (texts, data, pictures) are not.
LANGUAGES = {
    suffix: language
    for language, suffixes in {
        "Assembly": ".s .asm", "C": ".c .h", "C#": ".cs", "C++": ".cc .cpp .cxx .hpp .hh .hxx", "CUDA": ".cu .cuh",
        "Clojure": ".clj", "Cython": ".pyx .pxd .pxi", "Dart": ".dart", "Elixir": ".ex .exs", "Erlang": ".erl",
        "Fortran": ".f .f90 .f95 .for", "Go": ".go", "Haskell": ".hs", "Java": ".java", "JavaScript": ".js .jsx .mjs .cjs",
        "Julia": ".jl", "Kotlin": ".kt .kts", "Lua": ".lua", "MATLAB": ".m", "Nim": ".nim", "OCaml": ".ml .mli",
        "Objective-C++": ".mm", "PHP": ".php", "Perl": ".pl .pm", "R": ".r", "Ruby": ".rb", "Rust": ".rs", "SQL": ".sql",
        "Scala": ".scala", "Swift": ".swift", "TypeScript": ".ts .tsx", "Zig": ".zig", "notebook": ".ipynb",
        "shell": ".sh .bash .zsh", "type stub": ".pyi",
    }.items()
    for suffix in suffixes.split()
}  # fmt: skip
_LEFT_OUT = {".git", ".hg", ".svn", "__pycache__", "node_modules", ".tox", ".nox", ".mypy_cache", ".pytest_cache",
             ".ruff_cache", ".eggs"}  # fmt: skip
# A repository's own configuration may name commands that git runs: a folder from elsewhere must not start any.
_HARMLESS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
# Nor may an object that is not there be fetched: a repository that says it is a partial clone names the remote, and with it
# the program, to fetch it from. The variable outweighs what the repository's configuration allows.
_ALONE = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none", "GIT_TERMINAL_PROMPT": "0"}
# In a hook git names the repository it works for here; ours is the one of the root we were given.
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")
MOST_BYTES = 20_000_000  # a Python file beyond this is kept unparsed: its syntax tree would take gigabytes


class Source(Protocol):
    """A tree of files under one root."""

    root: Path
    notes: list[str]  # what was left out and why, for stderr

    def paths(self) -> list[str]:
        """POSIX paths of the regular files, relative to the root, sorted."""
        ...

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | str]]:
        """(path, bytes) of each path in order; a string in place of bytes says why it cannot be read."""
        ...


def is_python(path: str) -> bool:
    return path.endswith((".py", ".pyw"))


def language_of(path: str) -> str:
    """The language of code that is not Python, else ''."""
    return LANGUAGES.get(PurePosixPath(path).suffix.lower(), "")


def may_be_script(path: str) -> bool:
    """A file with no suffix: it is Python where its first line says so."""
    name = path.rpartition("/")[2]
    return "." not in name and not name.isupper()


def is_script(data: bytes) -> bool:
    first = data[:100].split(b"\n", 1)[0]
    return first.startswith(b"#!") and b"python" in first


def _wanted(path: str, notes: list[str], everything: bool = False) -> bool:
    """Whether a file may hold code; one whose name an id cannot hold is left out, with a note."""
    if not (everything or is_python(path) or language_of(path) or may_be_script(path)):
        return False
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if shown != path:
        notes.append(f"{shown}: a name that is not UTF-8, left out")
    elif ":" in path or "\n" in path:
        notes.append(f"{shown!r}: a colon or a line break in its name, which ids cannot hold; left out")
    else:
        return True
    return False


class WorkTree:
    """A folder as it stands on disk. Links are not followed: what they name is elsewhere or here already.

    everything: all regular files, not those alone that may hold code.
    """

    def __init__(self, root: str | Path, everything: bool = False) -> None:
        self.root, self.everything = Path(root), everything
        self.notes: list[str] = []
        self._inside: dict[str, bool] = {}  # of folders met so far
        if not self.root.exists():
            raise BadInput(f"{root}: no such folder")
        if not self.root.is_dir():
            raise BadInput(f"{root}: expected the folder of a repository")

    def paths(self) -> list[str]:
        found = self._of_git()
        return sorted(self._regular(found if found is not None else self._walked()))

    def _of_git(self) -> Iterable[str] | None:
        """The files git knows of or would add; None outside a work tree, or in a folder that git ignores."""
        try:
            listed = _git(self.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", check=False)
            if listed is None:
                if why := _refusal(self.root):
                    self.notes.append(f"{self.root}: {why}; read without git, so files that it ignores are read too")
                return None
            if _git(self.root, "check-ignore", "-q", ".", check=False) is not None:
                return None
        except Missing:
            return None
        return dict.fromkeys(os.fsdecode(name) for name in listed.split(b"\0") if name)

    def _walked(self) -> Iterator[str]:
        for folder, inside, names in os.walk(self.root):
            inside[:] = sorted(
                name
                for name in inside
                if name not in _LEFT_OUT
                and not name.endswith(".egg-info")
                and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
            )
            relative = os.path.relpath(folder, self.root)
            for name in names:
                yield name if relative == "." else f"{relative}/{name}"
            for name in inside:
                if os.path.exists(os.path.join(folder, name, ".git")):
                    self.notes.append(f"{os.path.join(relative, name)}: a repository of its own, left out")
            inside[:] = [name for name in inside if not os.path.exists(os.path.join(folder, name, ".git"))]

    def _regular(self, paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            if not _wanted(path, self.notes, self.everything):
                if os.path.isdir(os.path.join(self.root, path)) and not os.path.islink(os.path.join(self.root, path)):
                    self.notes.append(f"{path}: a repository of its own, left out")
                continue
            try:
                mode = os.lstat(self.root / path).st_mode
            except OSError:
                continue  # in git's index, no longer on disk
            if stat.S_ISDIR(mode):
                self.notes.append(f"{path}: a repository of its own, left out")
            elif stat.S_ISLNK(mode):
                if is_python(path):
                    self.notes.append(f"{path}: a link, left out")
            elif stat.S_ISREG(mode) and not self._outside(path):
                yield path

    def _outside(self, path: str) -> bool:
        """Whether a path leads out of the folder, by `..` or by a link among the folders above it: git lists neither of its
        own accord, an index made to harm or a graph from elsewhere may name them."""
        folder = os.path.dirname(path)
        if folder not in self._inside:
            top, real = os.path.realpath(self.root), os.path.realpath(os.path.join(self.root, folder))
            self._inside[folder] = real == top or real.startswith(top.rstrip("/") + "/")
        return not self._inside[folder] or os.path.basename(path) == ".."

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | str]]:
        for path in paths:
            try:
                if self._outside(path):
                    yield path, "cannot be read: leads out of the folder"
                    continue
                # paths of a graph may come from anywhere: a pipe or a device would keep us waiting
                if not stat.S_ISREG(os.stat(os.path.join(self.root, path)).st_mode):
                    yield path, "cannot be read: not a regular file"
                    continue
                with open(os.path.join(self.root, path), "rb") as stream:
                    data = stream.read()
            except (OSError, ValueError) as error:
                yield path, f"cannot be read: {getattr(error, 'strerror', None) or error}"
                continue
            yield path, data


class Held:
    """Files that are held in memory: of a repository that is about to be written."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.root = Path(".")
        self.notes: list[str] = []
        self.files = files

    def paths(self) -> list[str]:
        return sorted(path for path in self.files if _wanted(path, self.notes))

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | str]]:
        for path in paths:
            yield path, self.files.get(path, "not there")


class Commit:
    """The tree of one commit, read from git's objects; nothing is checked out.

    Raises BadInput where `root` is in no repository or `revision` names no commit.
    """

    def __init__(self, root: str | Path, revision: str, everything: bool = False) -> None:
        self.root, self.everything = Path(root), everything
        self.notes: list[str] = []
        if not self.root.is_dir():
            raise BadInput(f"{root}: expected the folder of a repository")
        self.name = resolve_commit(self.root, revision)
        # A root below the top of the work tree: names are relative to it, as ls-files gives them.
        self._prefix = (_git(self.root, "rev-parse", "--show-prefix") or b"").decode().strip()

    def paths(self) -> list[str]:
        listed = _git(self.root, "ls-tree", "-r", "-z", self.name) or b""
        found = []
        for entry in listed.split(b"\0"):
            if not entry:
                continue
            head, _, name = entry.partition(b"\t")
            path = os.fsdecode(name)
            mode = head[:6]
            if mode == b"160000":
                self.notes.append(f"{path}: a repository of its own, left out")
            elif not _wanted(path, self.notes, self.everything):
                continue
            elif mode == b"120000":
                if is_python(path):
                    self.notes.append(f"{path}: a link, left out")
            else:
                found.append(path)
        return sorted(found)

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | str]]:
        wanted = list(paths)
        with tempfile.TemporaryFile() as asked:  # a file, not a pipe: git answers before it has been asked everything
            asked.writelines(os.fsencode(f"{self.name}:{self._prefix}{path}") + b"\n" for path in wanted)
            asked.seek(0)
            command = ["git", *_HARMLESS, "-C", str(self.root), "cat-file", "--batch"]
            with subprocess.Popen(command, stdin=asked, stdout=subprocess.PIPE, env=_environment()) as process:
                assert process.stdout is not None
                for path in wanted:
                    head = process.stdout.readline().rsplit(b" ", 1)
                    if len(head) != 2 or not head[1].strip().isdigit():
                        yield path, "cannot be read: git has no such object"
                        continue
                    data = process.stdout.read(int(head[1]))
                    process.stdout.read(1)
                    yield path, data


def resolve_commit(root: Path, revision: str) -> str:
    """The full name of a commit. Raises BadInput where git knows none by that name."""
    found = (
        None
        if revision.startswith("-")
        else _git(root, "rev-parse", "--verify", "-q", revision + "^{commit}", check=False)
    )
    if not found:
        why = _refusal(root)
        raise BadInput(f"{root}: {why}" if why else f"{revision}: names no commit in the repository of {root}")
    return found.decode().strip()


def changed_between(root: Path, old: str, new: str) -> list[str]:
    """Paths (below root) that differ between two commits; a renamed file is two paths."""
    listed = _git(root, "diff-tree", "-r", "-z", "--no-renames", "--name-only", "--relative", old, new) or b""
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}
    return {**kept, **_ALONE, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def _refusal(root: Path) -> str:
    """What git says where there is a repository and it will not read it (of another owner, broken); '' elsewhere."""
    if not any((above / ".git").exists() for above in (root.resolve(), *root.resolve().parents)):
        return ""
    try:
        _git(root, "rev-parse", "--show-toplevel")
    except BadInput as error:
        return str(error).partition(": ")[2]
    return ""


def _git(root: Path, *words: str, check: bool = True) -> bytes | None:
    """git's stdout; None where it fails and `check` is off. Raises Missing without git, BadInput on failure."""
    try:
        done = subprocess.run(
            ["git", *_HARMLESS, "-C", str(root), *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError:
        raise Missing("git: not found; install git") from None
    if done.returncode == 0:
        return done.stdout
    if not check:
        return None
    told = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
    raise BadInput(f"{root}: git {words[0]}: {told[0]}")
