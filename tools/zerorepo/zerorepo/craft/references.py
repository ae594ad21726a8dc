"""What of a package a source names, and where.

Under suite.py, which cuts test files down, and harvest.py. Names are looked up (package.py), never guessed; the exception are
attributes of values, of which only the name is known: they count where a class that is named in the source has such a method.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from zerorepo.craft.package import Meaning, Package, in_tests
from zerorepo.craft.syntax import chain_of, is_dotted, parsed
from zerorepo.craft.tasks import Interface
from zerorepo.features import own_phrases
from zerorepo.modules import import_root


class Use(NamedTuple):
    """A place at which something of the package is named. written: the dotted name as reached, "" on a value."""

    written: str
    meaning: Meaning
    line: int


class References:
    """Every place in a test's source that names something of the package: imports, chains of attributes from what was
    imported, dotted names in strings (as `mock.patch` takes them), and attributes of values where a method of a class that is
    used here has that name."""

    def __init__(self, tree: ast.AST, path: str, package: Package) -> None:
        self.package, self.path = package, path
        self.uses: list[Use] = []
        self._imports(tree)
        self._walk(tree)
        self._members(tree)

    def _imports(self, tree: ast.AST) -> None:
        self.aliases: dict[str, str] = {}  # local name to what it stands for, dotted, as written
        for one in ast.walk(tree):
            if isinstance(one, ast.Import):
                for alias in one.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._take(alias.asname or name, name, one.lineno)
                    if not alias.asname and "." in alias.name:
                        self._add(alias.name, one.lineno)
            elif isinstance(one, ast.ImportFrom):
                module = absolute(one, self.path, self.package)
                for alias in one.names:
                    if alias.name == "*":
                        self._star(module, one.lineno)
                    else:
                        self._take(alias.asname or alias.name, f"{module}.{alias.name}", one.lineno)

    def _take(self, local: str, written: str, line: int) -> None:
        if self._add(written, line):
            self.aliases[local] = written

    def _star(self, module: str, line: int) -> None:
        if self._add(module, line):
            for name in self.package.public(module):
                if self.package.meaning(f"{module}.{name}") is not None:
                    self.aliases.setdefault(name, f"{module}.{name}")

    def _add(self, written: str, line: int) -> Meaning | None:
        found = self.package.meaning(written)
        if found is None or self._own(found):
            return None
        self.uses.append(Use(written, found, line))
        return found

    def _own(self, found: Meaning) -> bool:
        """Whether it is of the suite, not of the package."""
        path = (
            found.node.path
            if found.node is not None
            else self.package.module_paths.get(found.name.rpartition(".")[0], "")
        )
        return in_tests(path)

    def _walk(self, tree: ast.AST) -> None:
        inner: set[ast.AST] = set()  # parts of a chain that is already counted
        for one in ast.walk(tree):
            if isinstance(one, ast.Attribute) and one not in inner:
                chain = chain_of(one)
                if chain is None or chain[0] not in self.aliases:
                    continue
                part: ast.expr = one
                while isinstance(part, ast.Attribute):
                    inner.add(part.value)
                    part = part.value
                written = ".".join([self.aliases[chain[0]], *chain[1:]])
                while written.count(".") > self.aliases[chain[0]].count("."):
                    found = self._add(written, one.lineno)
                    if found is not None and found.kind != "method":
                        break
                    written = written.rpartition(".")[0]  # of a method, its class is named as well
            elif (
                isinstance(one, ast.Name)
                and one not in inner
                and isinstance(one.ctx, ast.Load)
                and one.id in self.aliases
            ):
                self._add(self.aliases[one.id], one.lineno)
            elif isinstance(one, ast.Constant) and isinstance(one.value, str) and is_dotted(one.value):
                written = one.value
                while written.partition(".")[0] in self.package.top and "." in written:
                    if self._add(written, one.lineno):
                        break
                    written = written.rpartition(".")[0]

    def _members(self, tree: ast.AST) -> None:
        """Methods of the classes that are used here, by their names alone."""
        classes = {use.meaning.name: use.meaning for use in self.uses if use.meaning.kind == "class"}
        owned = {use.meaning.name.rpartition(".")[0] for use in self.uses if use.meaning.kind == "method"}
        for name in owned:
            found = self.package.meaning(name)
            if found is not None and found.kind == "class":
                classes.setdefault(name, found)
        for one in ast.walk(tree):
            if not isinstance(one, ast.Attribute) or one.attr.startswith("__"):
                continue
            chain = chain_of(one)
            if chain is not None and chain[0] in self.aliases:
                continue
            for name in sorted(classes):
                found = self.package.meaning(f"{name}.{one.attr}")
                if found is not None and found.kind == "method":
                    self.uses.append(Use("", found, one.lineno))


def _of_values(source: str, path: str, package: Package, known: Collection[str]) -> Iterator[Meaning]:
    """Methods that a source may call on values of classes that it does not name, as what a function gives: those whose name
    few have, all of one family of classes (Program.namesakes). known: last names of what it is seen to use."""
    uses = References(parsed(source), path, package)
    for one in ast.walk(parsed(source)):
        if not isinstance(one, ast.Attribute) or one.attr in known or one.attr.startswith("__"):
            continue
        chain = chain_of(one)
        if chain is not None and (chain[0] in uses.aliases or chain[:-1] == ["self"]):
            continue
        for method, _ in package.program.namesakes(one.attr, path):
            node = package.program.nodes[method]
            yield Meaning(package.dotted(node), "method", node)


@lru_cache(maxsize=256)
def uses_of(source: str, path: str, package: Package) -> tuple[Use, ...]:
    """What `References` finds in a source. Raises ValueError where it is no Python."""
    return tuple(References(parsed(source), path, package).uses)


def with_absolute(source: str, path: str, package: Package) -> str:
    """The source with absolute imports in the place of relative ones of the package itself; those of the suite stay."""
    lines = source.split("\n")
    found = [one for one in ast.walk(parsed(source)) if isinstance(one, ast.ImportFrom) and one.level]
    for one in sorted(found, key=lambda node: (-node.lineno, -node.col_offset)):  # from the end, so that places hold
        module = absolute(one, path, package)
        meaning = package.meaning(module)
        of_suite = meaning is None or in_tests(package.module_paths.get(meaning.name, ""))
        if of_suite and not any(_of_package(f"{module}.{alias.name}", package) for alias in one.names):
            continue
        text = ast.unparse(ast.ImportFrom(module, one.names, 0))
        first, last = lines[one.lineno - 1], lines[(one.end_lineno or one.lineno) - 1]
        before, after = first.encode()[: one.col_offset].decode(), last.encode()[one.end_col_offset :].decode()
        lines[one.lineno - 1 : one.end_lineno] = [before + text + after]
    return "\n".join(lines)


def _of_package(name: str, package: Package) -> bool:
    found = package.meaning(name)
    return found is not None and found.kind != "variable" and not in_tests(package.module_paths.get(found.name, "") or (found.node.path if found.node else ""))  # fmt: skip


def interfaces(sources: Mapping[str, str], package: Package, tested: Collection[str]) -> list[Interface]:
    """What of the package some sources (path to text) name, each once, by name. tested: canonical names of what the task is
    about."""
    meanings: dict[str, Meaning] = {}
    written: dict[str, set[str]] = {}
    for path, source in sources.items():
        for use in uses_of(source, path, package):
            meanings.setdefault(use.meaning.name, use.meaning)
            written.setdefault(use.meaning.name, set())
            if use.written:
                written[use.meaning.name].add(use.written)
        for method in _of_values(source, path, package, {one.last for one in meanings.values()}):
            meanings.setdefault(method.name, method)
    for name in tested:
        found = package.meaning(name)
        if found is not None:
            meanings.setdefault(name, found)
    told = []
    for name, meaning in sorted(meanings.items()):
        node = meaning.node
        kind: Any = meaning.kind
        told.append(
            Interface(
                name=name,
                kind=kind,
                written=sorted(written.get(name, ())),
                tested=name in tested,
                signature=node.signature if node is not None else "",
                doc=node.doc if node is not None else "",
                features=own_phrases(node)[0] if node is not None and kind != "module" else [],
            )
        )
    return told


def absolute(one: ast.ImportFrom, path: str, package: Package) -> str:
    """The dotted module of `from MODULE import`, relative ones seen from `path`."""
    if not one.level:
        return one.module or ""
    root = import_root(path, package.files)
    folder = path.rpartition("/")[0].removeprefix(root).strip("/")
    parts = folder.split("/") if folder else []
    parts = parts[: len(parts) - (one.level - 1)] if one.level > 1 else parts
    return ".".join([*parts, *(one.module.split(".") if one.module else [])])
