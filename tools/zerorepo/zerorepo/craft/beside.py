"""What of a suite a test needs beside its own file: conftest files, helper modules, the __init__ files of its folders.

Between harvest.py and suite.py, which cuts each file down to what is needed of it.
"""

from __future__ import annotations

import ast

from zerorepo.craft.package import Package, in_tests
from zerorepo.craft.references import absolute
from zerorepo.craft.suite import TestFile, read_suite_file
from zerorepo.craft.syntax import asked_for, parsed
from zerorepo.craft.tasks import Support
from zerorepo.modules import import_root

CONFTEST = "conftest.py"


def support_of(path: str, source: str, package: Package) -> list[Support]:
    """The suite's own Python files that a test needs, cut down to what it needs of them: conftest files above it, modules of
    the suite that it or those import, and the __init__ files that make them importable. path, source: of the (cut-down)
    test. Data files are found by running it (harvest.py)."""
    return [Support.of(name, text.encode()) for name, text in sorted(_Beside(package).needed(path, source).items())]


class _Beside:
    def __init__(self, package: Package) -> None:
        self.package = package
        self.wanted: dict[str, set[str] | None] = {}  # path to names wanted of it; None: the whole file

    def needed(self, path: str, source: str) -> dict[str, str]:
        conftests = [one for one in (_in(folder, CONFTEST) for folder in _above(path)) if one in self.package.files]
        texts = {path: source}
        asked = set(asked_for(source))
        for one in conftests:
            self.wanted[one] = set()
        while True:
            before = {name: None if names is None else len(names) for name, names in self.wanted.items()}
            for one in conftests:
                file = self._file(one)
                names = self.wanted[one]
                if file is not None and names is not None:
                    hooks = {name for item in file._items for name in item.binds if name.startswith("pytest_")}
                    fixtures = {name for name, autouse in file.fixtures.items() if autouse or name in asked}
                    names |= hooks | fixtures
            texts = {path: source, **self._texts()}
            for name, text in texts.items():
                try:
                    self._imported(name, parsed(text))
                except ValueError:
                    continue  # what uses it fails, on the real package as well
                if name == path or name.rpartition("/")[2] == CONFTEST:
                    asked |= asked_for(text)
            if {name: None if names is None else len(names) for name, names in self.wanted.items()} == before:
                break
        del texts[path]
        for name in [path, *texts]:
            for folder in _above(name):
                init = _in(folder, "__init__.py")
                if init in self.package.files and init not in texts and in_tests(init):
                    texts[init] = self._text(init, None)
        return {name: text for name, text in texts.items() if text.strip() or name.endswith("__init__.py")}

    def _imported(self, path: str, tree: ast.Module) -> None:
        """Modules of the suite that a file imports, and the names it takes of them."""
        for one in ast.walk(tree):
            if isinstance(one, ast.Import):
                for alias in one.names:
                    self._want(self._module(alias.name, path), None)
            elif isinstance(one, ast.ImportFrom):
                module = absolute(one, path, self.package)
                for alias in one.names:
                    inner = self._module(f"{module}.{alias.name}", path)
                    if inner is not None:
                        self._want(inner, None)
                    else:
                        self._want(self._module(module, path), None if alias.name == "*" else alias.name)

    def _module(self, name: str, path: str) -> str | None:
        """A module of the suite by the name an import has for it; a test file's folder is a place imports start from."""
        folder = import_root(path, self.package.files) if _in(path.rpartition("/")[0], "__init__.py") in self.package.files else path.rpartition("/")[0]  # fmt: skip
        places = [folder, *(root for root in self.package.roots if root != folder)]
        for place in places:
            base = _in(place, name.replace(".", "/"))
            for one in (f"{base}.py", f"{base}/__init__.py"):
                if one in self.package.files:
                    return one if in_tests(one) else None
        return None

    def _want(self, path: str | None, name: str | None) -> None:
        if path is None:
            return
        if name is None or path.endswith("__init__.py"):
            self.wanted[path] = None
        elif (names := self.wanted.setdefault(path, set())) is not None:
            names.add(name)

    def _texts(self) -> dict[str, str]:
        return {path: self._text(path, names) for path, names in self.wanted.items()}

    def _file(self, path: str) -> TestFile | None:
        try:
            return read_suite_file(path, self._text(path, None))
        except ValueError:
            return None

    def _text(self, path: str, names: set[str] | None) -> str:
        text = self.package.files[path].decode("utf-8", "replace").removeprefix("\ufeff")
        if names is None:
            return text
        try:
            return read_suite_file(path, text).helpers(names)
        except ValueError:
            return text


def _above(path: str) -> list[str]:
    """Folders above a file, the top ("") first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:at]) for at in range(len(parts) + 1)]


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
