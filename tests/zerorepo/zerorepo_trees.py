"""Repositories for the tests: a source in memory, and a writer of random small ones that Python would accept.

`Tree` stands in for a folder or a commit, so that thousands of states can be encoded without a disk. `Author`
writes modules over a handful of names on purpose: with few names nearly every edit shadows, renames, re-exports
or orphans something.
"""

import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from zerorepo.encode import encode
from zerorepo.graph import Graph


class Tree:
    """A Source over a mapping of paths to text or bytes; a None says that the file cannot be read."""

    def __init__(self, files: Mapping[str, str | bytes | None]) -> None:
        self.root = Path()
        self.files = files
        self.notes: list[str] = []

    def paths(self) -> list[str]:
        return sorted(self.files)

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | str]]:
        for path in paths:
            data = self.files[path]
            if data is None:
                yield path, "cannot be read: Permission denied"
            else:
                yield path, data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data


def graph_of(files: Mapping[str, str | bytes | None], prefix: str = "") -> Graph:
    return encode(Tree(files), prefix)


def edges_of(graph: Graph, *types: str) -> set[tuple[str, str]]:
    return {(edge.src, edge.dst) for edge in graph.edges if edge.type in types}


def write(root: Path, files: Mapping[str, str | bytes | None]) -> Path:
    for path, data in files.items():
        if data is None:
            continue
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def git(root: Path, *words: str) -> str:
    """git with a fixed author and none of the user's own settings."""
    done = subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false",
         "-c", "init.defaultBranch=main", "-c", "core.autocrlf=false", "-c", "protocol.file.allow=always", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


NAMES = ("f", "g", "A", "B", "x")
METHODS = ("f", "run", "make", "__init__", "__call__")
PATHS = (
    "a.py", "b.py", "pkg/__init__.py", "pkg/a.py", "pkg/b.py", "pkg/sub/__init__.py", "pkg/sub/c.py", "src/pkg/__init__.py",
    "src/pkg/a.py", "json.py", "lib/a.py", "lib/__init__.py", "a/__init__.py", "test_a.py", "tests/test_b.py", "tool", "__init__.py",
)  # fmt: skip
MODULES = (
    "a", "b", "pkg", "pkg.a", "pkg.b", "pkg.sub", "pkg.sub.c", ".", ".a", ".b", ".sub", ".sub.c", "..", "..a", "json", "lib.a", "os",
)  # fmt: skip


class Author:
    """Writes modules and edits them, by the choices of a random.Random (hypothesis' own shrinks them)."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def tree(self) -> dict[str, str | bytes | None]:
        count = self.rng.randint(2, 6)
        return {path: self.module() for path in self.rng.sample(PATHS, count)}

    def edited(self, files: dict[str, str | bytes | None]) -> dict[str, str | bytes | None]:
        """The files after one commit's worth of change."""
        after = dict(files)
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            self._edit(after)
        return after

    def _edit(self, after: dict[str, str | bytes | None]) -> None:
        rng = self.rng
        path = rng.choice(sorted(after)) if after else "a.py"
        kind = rng.choice(("line", "line", "line", "line", "rewrite", "add", "add", "remove", "move", "break", "mend"))
        text = after.get(path)
        lines = text.split("\n") if isinstance(text, str) else []
        blocks = _blocks(lines)
        if kind == "line" and blocks:
            place = rng.randrange(len(blocks))
            how = rng.choice(("replace", "insert", "delete", "swap"))
            if how == "replace":
                blocks[place] = self.statement()
            elif how == "insert":
                blocks.insert(place, self.statement())
            elif how == "delete":
                del blocks[place]
            else:
                other = rng.randrange(len(blocks))
                blocks[place], blocks[other] = blocks[other], blocks[place]
            after[path] = "\n".join(blocks) + "\n"
        elif kind in ("line", "rewrite"):
            after[path] = self.module()
        elif kind == "add":
            after[rng.choice(PATHS)] = self.module()
        elif kind == "remove" and len(after) > 1:
            del after[path]
        elif kind == "move":
            moved = after.pop(path)
            after[rng.choice(PATHS)] = moved
        elif kind == "break":
            after[path] = rng.choice(("def (:\n", b"x = '\xff'\n", None, ""))
        else:
            broken = [path for path, data in sorted(after.items()) if not isinstance(data, str)]
            after[rng.choice(broken) if broken else path] = self.module()

    def module(self) -> str:
        count = self.rng.randint(0, 5)
        return "\n".join(self.statement() for _ in range(count)) + "\n"

    def statement(self) -> str:
        rng = self.rng
        kind = rng.choice(("from", "from", "star", "star", "import", "all", "def", "def", "class", "class", "assign", "call", "typing", "try"))  # fmt: skip
        if kind == "from":
            return self._from()
        if kind == "star":
            return f"from {rng.choice(MODULES)} import *"
        if kind == "import":
            return self._import()
        if kind == "all":
            names = rng.sample(NAMES, rng.randint(0, 3))
            return rng.choice((f"__all__ = {names!r}", f"__all__ += {names!r}", "__all__ = list(globals())"))
        if kind == "def":
            return self._function("", rng.choice(NAMES))
        if kind == "class":
            return self._class()
        if kind == "assign":
            return f"{rng.choice(NAMES)}{self._annotation(': ')} = {self.expression()}"
        if kind == "typing":
            return f"if TYPE_CHECKING:\n    {self._from()}"
        if kind == "try":
            return f"try:\n    {self._from()}\nexcept ImportError:\n    {self._from()}"
        return f"{self.expression()}()"

    def _from(self) -> str:
        alias = f" as {self.rng.choice(NAMES)}" if self.rng.random() < 0.3 else ""
        return f"from {self.rng.choice(MODULES)} import {self.rng.choice((*NAMES, 'a', 'b', 'sub'))}{alias}"

    def _import(self) -> str:
        module = self.rng.choice([module for module in MODULES if not module.startswith(".")])
        return f"import {module}" + (f" as {self.rng.choice(NAMES)}" if self.rng.random() < 0.4 else "")

    def _annotation(self, before: str) -> str:
        return before + self.rng.choice(NAMES) if self.rng.random() < 0.4 else ""

    def expression(self) -> str:
        rng = self.rng
        head = rng.choice((*NAMES, *NAMES, "a", "b", "pkg", "pkg.a", "pkg.sub.c", "json"))
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            head += rng.choice(("()", "." + rng.choice(NAMES), "." + rng.choice(METHODS)))
        return head

    def _class(self) -> str:
        rng = self.rng
        bases = [rng.choice((*NAMES, "a.A", "pkg.A", "pkg.a.B")) for _ in range(rng.choice((0, 1, 1, 2)))]
        lines = [f"class {rng.choice(('A', 'B', 'x'))}({', '.join(bases)}):"]
        for _ in range(rng.randint(0, 3)):
            kind = rng.choice(("method", "method", "attribute", "annotated", "property"))
            if kind == "method":
                mark = rng.choice(("", "", "", "    @classmethod\n", "    @staticmethod\n"))
                lines.append(mark + self._function("    ", rng.choice(METHODS), "self"))
            elif kind == "property":
                name = rng.choice(NAMES)
                lines.append("    @property\n" + self._function("    ", name, "self"))
                if rng.random() < 0.5:
                    lines.append(f"    @{name}.setter\n" + self._function("    ", name, "self"))
            elif kind == "attribute":
                lines.append(f"    {rng.choice(NAMES)} = {self.expression()}")
            else:
                lines.append(f"    {rng.choice(NAMES)}: {rng.choice(NAMES)}")
        return "\n".join(lines if len(lines) > 1 else [*lines, "    pass"])

    def _function(self, indent: str, name: str, first: str = "") -> str:
        rng = self.rng
        parameters = [first] if first else []
        if rng.random() < 0.5:
            parameters.append("v" + self._annotation(": "))
        lines = [f"{indent}def {name}({', '.join(parameters)}){self._annotation(' -> ')}:"]
        inside = indent + "    "
        for _ in range(rng.randint(0, 3)):
            kind = rng.choice(("call", "call", "hold", "on", "return", "self", "selfcall", "super", "import", "with", "nested", "read"))  # fmt: skip
            lines.append(
                inside
                + {
                    "call": lambda: f"{self.expression()}()",
                    "hold": lambda: f"v = {self.expression()}",
                    "on": lambda: f"v.{rng.choice(METHODS)}()",
                    "return": lambda: (
                        f"return {rng.choice((self.expression(), self.expression() + '()', 'self', 'v'))}"
                    ),
                    "self": lambda: f"self.{rng.choice(NAMES)} = {self.expression()}()",
                    "selfcall": lambda: f"self.{rng.choice((*NAMES, *METHODS))}.{rng.choice(METHODS)}()",
                    "super": lambda: f"super().{rng.choice(METHODS)}()",
                    "import": self._from,
                    "with": lambda: f"with {self.expression()}() as v: v.run()",
                    "nested": lambda: f"def {rng.choice(NAMES)}(): return {self.expression()}()",
                    "read": lambda: f"print(v.{rng.choice(NAMES)}, {rng.choice(NAMES)}().{rng.choice(NAMES)})",
                }[kind]()
            )
        return "\n".join(lines if len(lines) > 1 else [*lines, inside + "pass"])


def _blocks(lines: list[str]) -> list[str]:
    """Lines to statements at the left margin, with what is indented below them."""
    blocks: list[str] = []
    for line in lines:
        joined = line.startswith((" ", "except")) and blocks
        if joined or (blocks and blocks[-1].rpartition("\n")[2].startswith("@")):
            blocks[-1] += "\n" + line
        elif line:
            blocks.append(line)
    return blocks
