"""A Python package as the scorer sees it: its files, their graph, and what a dotted name stands for.

Under harvest.py, where it is the real package, and scoring.py, where it is the repository to be scored. Nothing is imported
or run here: names are looked up by resolve.Program, through re-exports and stars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tenfold_shared import BadInput
from zerorepo.encode import encode
from zerorepo.generation.stripping import is_part
from zerorepo.graph import UNITS, Graph, Node
from zerorepo.modules import dotted_name, dotted_prefix, import_root
from zerorepo.resolve import Program, Symbol
from zerorepo.sources import Held, WorkTree, is_python

LARGEST = 4 << 20  # bytes of a file that is laid out beside the code; larger data is left out
DEEPEST = 400  # dots of a name that is looked up: paths and classes are not nested so deep
TESTS = ("tests", "test")  # names of folders that hold tests


class Meaning(NamedTuple):
    """What a dotted name stands for. name: the canonical one, at its definition. node: None for a variable."""

    name: str
    kind: str  # module, class, function, method, variable
    node: Node | None

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2].partition("#")[0]


class Package:
    """The files of a repository or package. files: path to bytes, as they lie below the folder that imports start from,
    so a folder that is a package itself has its own name as first part."""

    def __init__(self, files: Mapping[str, bytes], name: str = "") -> None:
        self.files = dict(sorted(files.items()))
        self.name = name
        self.graph: Graph = encode(Held(self.files))
        self._meanings: dict[str, Meaning | None] = {}

    @classmethod
    def load(cls, folder: str | Path, also: Iterable[str | Path] = ()) -> Package:
        """The files of a folder that git tracks or would add (all, without git); links are left out. also: folders beside
        or below it whose files come too, at their place beside it. Raises BadInput."""
        root = Path(folder)
        if not root.is_dir():
            raise BadInput(f"{folder}: no such folder")
        above = dotted_prefix(root).count(".") + 1 if dotted_prefix(root) else 0
        top = root.resolve()
        for _ in range(above):
            top = top.parent
        found: dict[str, bytes] = {}
        for one in (root, *map(Path, also)):
            here = one.resolve()
            if not here.is_dir():
                raise BadInput(f"{one}: no such folder")
            if not here.is_relative_to(top):
                if not here.parent.is_relative_to(top.parent):
                    raise BadInput(f"{one}: expected a folder in {folder} or beside it")
                place = here.name
            else:
                place = here.relative_to(top).as_posix()
            tree = WorkTree(here, everything=True)
            for path, data in tree.read(tree.paths()):
                name = path if place == "." else f"{place}/{path}"
                if isinstance(data, bytes) and name not in found and (is_python(path) or len(data) <= LARGEST):
                    found[name] = data
        return cls(found, root.resolve().name)

    # ------------------------------------------------------------ names

    @cached_property
    def program(self) -> Program:
        return Program(node for node in self.graph.nodes if node.kind not in ("repo", "folder"))

    @cached_property
    def module_paths(self) -> dict[str, str]:
        """Dotted name of every module to its file; of two with one name the one nearer to the top."""
        found: dict[str, str] = {}
        for path in sorted((one for one in self.files if one.endswith(".py")), key=lambda one: (one.count("/"), one)):
            found.setdefault(dotted_name(path, self.files), path)
        return found

    @cached_property
    def folders(self) -> set[str]:
        """Dotted names of folders that are packages without __init__.py."""
        found = set()
        for name in self.module_paths:
            while name := name.rpartition(".")[0]:
                if name not in self.module_paths:
                    found.add(name)
        return found

    @cached_property
    def top(self) -> list[str]:
        """Names that an import of the package begins with; tests and what only makes the package are left out."""
        return sorted({name.partition(".")[0] for name, path in self.module_paths.items() if is_part(path, self.files)})

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """Folders that imports begin at, the top first."""
        parts = (path for path in self.module_paths.values() if is_part(path, self.files))
        return tuple(sorted({import_root(path, self.files) for path in parts} | {""}))

    def meaning(self, name: str) -> Meaning | None:
        """What a dotted name stands for, as an import statement and attributes would find it; None where nothing of this
        package."""
        if name.count(".") > DEEPEST:
            return None
        if name not in self._meanings:
            self._meanings[name] = self._meaning(name)
        return self._meanings[name]

    def _meaning(self, name: str) -> Meaning | None:
        if name in self.module_paths:
            return Meaning(name, "module", self.program.nodes.get(self.module_paths[name]))
        if name in self.folders:
            return Meaning(name, "module", None)
        owner, _, last = name.rpartition(".")
        above = self.meaning(owner) if owner else None
        if above is None:
            return None
        if above.kind == "module":
            path = self.module_paths.get(above.name)
            if path is None:
                return None
            found = self._of(self.program.member(path, last), above.name, last)
            if found is None and last in self.program.bound.get(path, {}):
                return Meaning(f"{above.name}.{last}", "variable", None)  # it imports that from elsewhere
            return found
        if above.kind == "class" and above.node is not None:
            return self._of(self.program.attribute(above.node.id, last), above.name, last)
        return None

    def public(self, module: str, seen: frozenset[str] = frozenset()) -> list[str]:
        """Names that `from MODULE import *` brings. seen: modules whose stars led here."""
        path = self.module_paths.get(module)
        node = self.program.nodes.get(path or "")
        if path is None or node is None:
            return []
        if node.exports is not None:
            return list(node.exports)
        own = {*self.program.scopes.get(path, {}), *self.program.bound.get(path, {}), *node.names}
        for target, exports in self.program.starred(path):
            name = dotted_name(target, self.files)
            if name not in seen:
                own |= exports if exports is not None else set(self.public(name, seen | {module}))
        return sorted(name for name in own if not name.startswith("_"))

    def _of(self, symbol: Symbol | None, owner: str, last: str) -> Meaning | None:
        if symbol is None:
            return None
        node = self.program.nodes.get(symbol.id)
        if symbol.kind in ("file", "folder"):
            path = symbol.id if symbol.kind == "file" else f"{symbol.id}/__init__.py"
            return Meaning(dotted_name(path, self.files), "module", node)
        if node is not None and node.kind in UNITS and symbol.kind in UNITS:
            return Meaning(self.dotted(node), node.kind, node)
        return Meaning(f"{owner}.{last}", "variable", None)

    def dotted(self, node: Node) -> str:
        """Canonical dotted name of a file or unit."""
        module = dotted_name(node.path, self.files)
        return f"{module}.{node.qualname}" if node.kind in UNITS else module

    @cached_property
    def units(self) -> list[Node]:
        """Classes, functions and methods of the code itself, by id."""
        found = (one for one in self.graph.nodes if one.kind in UNITS and is_part(one.path, self.files))
        return sorted(found, key=lambda one: one.id)

    def beside_tests(self) -> dict[str, bytes]:
        """The files without those that could have a say in how a test runs or is judged: conftest.py and folders of tests."""
        return {path: data for path, data in self.files.items() if not in_tests(path)}


def in_tests(path: str) -> bool:
    *folders, name = path.split("/")
    return name == "conftest.py" or any(one in TESTS for one in folders)
