"""Which file an import statement names: the table of a repository's modules.

A module is found as Python would find it: relative imports by folder, absolute ones by their first name
below an import root. Roots are not declared anywhere one can rely on, so every folder that is no package
itself but holds modules or packages is one, and where several hold the same first name the nearest to the
importer is taken (arXiv 2509.16198 has only packages at the root; real repositories have src layouts,
several distributions and test folders).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Container, Iterable

from zerorepo.sources import is_python


class Modules:
    """paths: the Python files, relative to the root. prefix: dotted name of the root where it is a package
    itself (`networkx`), else ''."""

    def __init__(self, paths: Iterable[str], prefix: str = "") -> None:
        self.files = {path for path in paths if path.endswith(".py")}
        self.prefix = prefix
        self.folders: set[str] = set()  # holding Python files, at any depth; "" is the root
        for path in self.files:
            folder = path.rpartition("/")[0]
            while folder not in self.folders:
                self.folders.add(folder)
                folder = folder.rpartition("/")[0]
        self.roots: dict[str, list[str]] = defaultdict(list)  # first name of a module to the folders it stands in
        for path in self.files:
            folder, _, name = path.rpartition("/")
            if name != "__init__.py" and not self.is_package(folder):
                self.roots[name[:-3]].append(folder)
        for folder in self.folders:
            above, _, name = folder.rpartition("/")
            if folder and not self.is_package(above):
                self.roots[name].append(above)
        for name, found in self.roots.items():
            self.roots[name] = sorted(set(found))
        self._absolute: dict[tuple[str, str], tuple[str | None, str]] = {}

    def is_package(self, folder: str) -> bool:
        return _join(folder, "__init__.py") in self.files

    def at(self, folder: str, name: str) -> str | None:
        """The module `name` inside a folder: a file, or the folder of a package. A package comes first."""
        inside = _join(folder, name)
        if inside in self.folders and (self.is_package(inside) or inside + ".py" not in self.files):
            return inside
        return inside + ".py" if inside + ".py" in self.files else None

    def file(self, module: str | None) -> str | None:
        """The file that runs when a module is imported; None for a folder without `__init__.py`."""
        if module is None or module.endswith(".py"):
            return module
        inside = _join(module, "__init__.py")
        return inside if inside in self.files else None

    def relative(self, importer: str, dots: int, name: str) -> str | None:
        """`from ..name import`: None where it leaves the tree or names nothing in it."""
        folder = importer.rpartition("/")[0]
        for _ in range(dots - 1):
            if not folder:
                return None
            folder = folder.rpartition("/")[0]
        return self.below(folder, name)

    def below(self, folder: str, name: str) -> str | None:
        module: str | None = folder
        for part in name.split(".") if name else ():
            if module is None or module.endswith(".py"):
                return None
            module = self.at(module, part)
        return module

    def absolute(self, importer: str, name: str) -> tuple[str | None, str]:
        """(module of the longest known prefix... of the whole name, confidence); None where it is not ours."""
        here = importer.rpartition("/")[0]
        key = (here, name)
        if key not in self._absolute:
            self._absolute[key] = self._find(here, name)
        return self._absolute[key]

    def _find(self, here: str, name: str) -> tuple[str | None, str]:
        if self.prefix:
            if name == self.prefix:
                return "", "exact"
            if name.startswith(self.prefix + "."):
                return self.below("", name[len(self.prefix) + 1 :]), "exact"
        first, _, rest = name.partition(".")
        root, confidence = self._root(here, first)
        if root is None:
            return None, "exact"
        module = self.at(root, first)
        if rest and module is not None:
            module = None if module.endswith(".py") else self.below(module, rest)
        return module, confidence

    def _root(self, here: str, first: str) -> tuple[str | None, str]:
        """The import root that `first` is taken from, seen from the folder `here`."""
        found = self.roots.get(first)
        if not found:
            return None, "exact"
        own = not self.is_package(here) and here in found
        if first in sys.stdlib_module_names and not own:
            return None, "exact"  # a file named like the standard library hides it from its own folder alone
        if own and self._is_regular(here, first):
            return here, "exact"
        regular = [root for root in found if self._is_regular(root, first)]
        if not regular:  # folders without __init__.py: only those above the importer, or at the root
            above = [root for root in found if root == "" or _above(root, here)]
            return (max(above, key=len), "inferred") if above else (None, "exact")
        if len(regular) == 1:
            certain = _above(regular[0], here) or regular[0].rpartition("/")[2] in ("src", "lib")
            return regular[0], "exact" if certain else "inferred"
        return max(regular, key=lambda root: (_shared(root, here), -len(root), root)), "inferred"

    def _is_regular(self, root: str, first: str) -> bool:
        module = self.at(root, first)
        return module is not None and (module.endswith(".py") or self.is_package(module))


def dotted_prefix(root: object) -> str:
    """The dotted name of a folder that is a package itself, from the packages above it; '' where it is none."""
    from pathlib import Path

    names: list[str] = []
    folder = Path(str(root)).resolve()
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names)


def module_name(path: str) -> str:
    """Last name of the module a file is: its stem, or its folder for `__init__.py`."""
    folder, _, name = path.rpartition("/")
    return folder.rpartition("/")[2] if name == "__init__.py" else name.removesuffix(".py")


def import_root(path: str, files: Container[str]) -> str:
    """The folder that imports of a module begin at: the one above its topmost package. `` is the root of the tree."""
    folder = path.rpartition("/")[0]
    while folder and f"{folder}/__init__.py" in files:
        folder = folder.rpartition("/")[0]
    return folder


def dotted_name(path: str, files: Container[str]) -> str:
    """What an import statement calls a module of the tree: `pkg.a` of `src/pkg/a.py`."""
    root = import_root(path, files)
    inside = path[len(root) + 1 :] if root else path
    return inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_test(path: str) -> bool:
    """By the names pytest and unittest look for."""
    *folders, name = path.split("/")
    return (
        name.startswith("test_")
        or name.endswith("_test.py")
        or name == "conftest.py"
        or any(folder in ("test", "tests", "testing") for folder in folders)
    ) and is_python(path)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _above(root: str, here: str) -> bool:
    return root == "" or here == root or here.startswith(root + "/")


def _shared(a: str, b: str) -> int:
    """Leading folders that two paths have in common."""
    count = 0
    for one, other in zip(a.split("/"), b.split("/"), strict=False):
        if one != other or not one:
            break
        count += 1
    return count
