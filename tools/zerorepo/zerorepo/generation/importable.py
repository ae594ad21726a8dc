"""Whether designed code can be imported: what it may name, and that no stub runs.

For designing.py, over code that interfaces.py parsed. Nothing is run to find out. What a file may import is known (Python's
library, what is installed, and the design's files that come before it), so no two files import each other in a circle;
which names stand for stubs is known too, so none is called while a file is imported.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from zerorepo.generation.interfaces import FUNCTIONS, MADE, Item, Piece, Source, Thing, needs_of, single
from zerorepo.generation.layout import short
from zerorepo.generation.scopes import root_of
from zerorepo.modules import Modules
from zerorepo.validate import components

_BUILTINS = frozenset([*dir(builtins), "__name__", "__file__", "__doc__", "__package__", "__spec__", "__path__", "__module__", "__qualname__"])  # fmt: skip
_HOOKS = ("__init_subclass__", "__set_name__", "__class_getitem__", "__prepare__")


class Project:
    """What the code of one file may name. paths: all planned files; done: path to designed file; upstream: file to the
    files that come before it in the plan, which alone it may import."""

    def __init__(
        self, paths: Collection[str], done: Mapping[str, Source], upstream: Mapping[str, Sequence[str]]
    ) -> None:
        self.modules = Modules(paths)
        self.done, self.upstream = done, upstream

    def third_party(self) -> list[str]:
        """First names of what is imported and neither ours nor Python's."""
        found = set()
        for source in self.done.values():
            for one in source.imports:
                first = _first(one)
                if first and first not in self.modules.roots and first not in sys.stdlib_module_names:
                    found.add(first)
        return sorted(found)

    def imported(self, path: str, statement: Any, *, typing: bool = False, optional: bool = False) -> tuple[str, Thing]:
        """(name it binds, what that is) of an import of one name.

        typing: for the type checker alone, so of any planned file; optional: its failure is caught. Raises ValueError.
        """
        alias = statement.names[0]
        told = ast.unparse(statement)
        name = _bound(statement)
        if isinstance(statement, ast.Import):
            module = self._module(path, 0, alias.name, told, optional)
            if module is None:
                return name, Thing("value")
            self._expect_upstream(path, module, told, typing)
            return name, Thing("module", True)
        module = self._module(path, statement.level, statement.module or "", told, optional)
        if module is None:
            return name, Thing("value")
        inside = None if module.endswith(".py") else self.modules.at(module, alias.name)
        self._expect_upstream(path, inside or module, told, typing)
        if inside is not None:
            return name, Thing("module", True)
        if typing:
            return name, Thing("value")
        file = self.modules.file(module) or ""
        thing = self.done[file].things.get(alias.name) if file in self.done else None
        if thing is None:
            raise ValueError(f"{told}: {file or module} has no {short(alias.name)}")
        return name, thing

    def _module(self, path: str, dots: int, name: str, told: str, optional: bool) -> str | None:
        """The file or folder that a module name stands for; None for what is not ours. Raises ValueError."""
        if dots:
            found = self.modules.relative(path, dots, name)
            if found is None:
                raise ValueError(f"{told}: the design has no such module")
            return found
        first = name.partition(".")[0]
        if first in self.modules.roots:
            found, _ = self.modules.absolute(path, name)
            if found is None:
                raise ValueError(f"{told}: the design has no module {name}")
            return found
        if first not in sys.stdlib_module_names and not optional and not _installed(first):
            raise ValueError(
                f"{told}: {first} is neither in the design nor in Python's library, and is not installed here"
            )
        return None

    def _expect_upstream(self, path: str, module: str, told: str, typing: bool) -> None:
        file = self.modules.file(module)
        before = self.upstream.get(path, ())
        if typing or file is None or file in before or (file.endswith("__init__.py") and file not in self.upstream):
            return
        if file == path or path in self.upstream.get(file, ()):
            circle = f"{path} -> {path}" if file == path else f"{file} -> {path} -> {file}"
            raise ValueError(f"{told}: an import circle, {circle}: in the plan {path} comes before {file}")
        raise ValueError(f"{told}: in the plan {file} does not come before {path}; import only what does")


def accept(source: Source, items: Sequence[Item], project: Project) -> tuple[list[Item], list[str]]:
    """(items taken over into the file, what is wrong with the rest): those that hold together.

    Refused are names that are bound twice (the earlier stays), imports that cannot be, names nobody defines, and what
    would run a stub when the file is imported.
    """
    wrong: list[str] = []
    good: list[tuple[Item, dict[str, Thing]]] = []
    for item in items:
        try:
            good.append((item, _imports_of(source.path, item, project)))
        except ValueError as error:
            wrong.append(str(error))
    while good:
        claimed = _Claims(source)
        bad: dict[int, str] = {}
        for at, (item, _) in enumerate(good):
            try:
                claimed.take(item)
            except ValueError as error:
                bad[at] = str(error)
        if not bad:
            things = _things(source.things, good)
            for at, (item, _) in enumerate(good):
                try:
                    _expect_importable(item, things)
                except ValueError as error:
                    bad[at] = str(error)
        if not bad:
            try:
                _expect_order([*source.pieces, *(piece for item, _ in good for piece in item.pieces)])
            except ValueError as error:
                return [], [*wrong, str(error)]
            source.things = things
            break
        wrong += bad.values()
        good = [pair for at, pair in enumerate(good) if at not in bad]
    have = {ast.unparse(one) for one in source.imports}
    for item, _ in good:
        for statement in item.imports:
            if (text := ast.unparse(statement)) not in have:
                have.add(text)
                source.imports.append(statement)
        source.typing += [text for text in item.typing if text not in source.typing]
        source.pieces += item.pieces
    return [item for item, _ in good], wrong


class _Claims:
    """Who binds which module-level name of a file: an import, as written, a unit or another statement."""

    def __init__(self, source: Source) -> None:
        self.of: dict[str, tuple[str, str]] = {_bound(one): ("import", ast.unparse(one)) for one in source.imports}
        self.of |= {name: (piece.kind, "") for piece in source.pieces for name in piece.binds}

    def take(self, item: Item) -> None:
        """Raises ValueError, and takes nothing, where one of the item's names is bound already."""
        fresh: dict[str, tuple[str, str]] = {}
        told = [(_bound(one), "import", ast.unparse(one)) for one in item.imports]
        for name, kind, text in [*told, *((name, piece.kind, "") for piece in item.pieces for name in piece.binds)]:
            other = fresh.get(name) or self.of.get(name)
            if other is not None and not (
                (kind == other[0] == "import" and (text == other[1] or _both_dotted(text, other[1])))
                or kind == other[0] == "other"
            ):
                raise ValueError(f"{name}: defined twice in the file")
            fresh[name] = (kind, text)
        self.of |= fresh


def _imports_of(path: str, item: Item, project: Project) -> dict[str, Thing]:
    """Raises ValueError where one cannot be."""
    found = dict(project.imported(path, one) for one in item.imports)
    for piece in item.pieces:
        found.update(
            project.imported(path, one, optional=isinstance(piece.node, ast.Try)) for one in _conditional(piece)
        )
    for block in item.typing:
        for statement in ast.walk(ast.parse(block)):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                for one in single(statement):
                    project.imported(path, one, typing=True)
    return found


def _things(known: Mapping[str, Thing], good: Sequence[tuple[Item, Mapping[str, Thing]]]) -> dict[str, Thing]:
    """What the names of a file are with some items more. A class is what its bases are, wherever those stand."""
    things = dict(known)
    for _, imported in good:
        things |= imported
    pieces = [piece for item, _ in good for piece in item.pieces]
    for piece in pieces:
        for name in piece.binds:
            things.setdefault(name, Thing("value"))
    for _ in range(len(pieces) + 1):  # as far as one can hang on another; two that are set to each other never settle
        before = dict(things)
        for piece in pieces:
            things |= _made_by(piece, things)
        if things == before:
            break
    return things


def _made_by(piece: Piece, things: Mapping[str, Thing]) -> dict[str, Thing]:
    node = piece.node
    if isinstance(node, FUNCTIONS):
        return {node.name: Thing("function", True)}
    if isinstance(node, ast.ClassDef):
        methods = {one.name for one in node.body if isinstance(one, FUNCTIONS)}
        bases = [things[base] for base in piece.reads.bases if base in things]
        runs = bool(methods & set(MADE)) or any(one.kind == "class" and one.runs for one in bases)
        return {node.name: Thing("class", runs, bool(methods & set(_HOOKS)) or any(one.hooks for one in bases))}
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Lambda):
        return dict.fromkeys(piece.binds, Thing("function", True))  # what it calls may be a stub
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Name) and node.value.id in things:
        return dict.fromkeys(piece.binds, things[node.value.id])
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
        name, attribute = root_of(node.value)
        if not attribute and name in things and things[name].kind == "class":  # methods of an instance are stubs
            return {name: Thing("instance", True) for name in piece.binds}
    return {}


def _expect_importable(item: Item, things: Mapping[str, Thing]) -> None:
    """Raises ValueError where the item cannot be run with every function a stub."""
    for piece in item.pieces:
        label = piece.node.name if piece.kind == "unit" else piece.text.split("\n")[-1][:60]
        for name in sorted(piece.reads.names - _BUILTINS - things.keys()):
            raise ValueError(f"{label}: uses {name} when the file is imported, and nothing defines it")
        for name, attribute in sorted(piece.reads.calls):
            thing = things.get(name, Thing("value"))
            if thing.kind == "value" or (thing.kind == "function" and attribute) or not (thing.runs or attribute):
                continue
            called = f"{name}.{attribute}" if attribute else name
            raise ValueError(
                f"{label}: calls {called} when the file is imported, where all that the design defines is a stub"
            )
        for base in piece.reads.bases:
            if base in things and things[base].hooks:
                raise ValueError(f"{label}: inherits from {base}, which then runs a stub when the file is imported")


def _expect_order(pieces: Sequence[Piece]) -> None:
    needs = needs_of(pieces)
    found = components(len(pieces), [sorted(needs[at]) for at in range(len(pieces))])
    if found:
        names = [name for at in found[0] for name in pieces[at].binds[:1]]
        raise ValueError(f"{', '.join(names)}: need each other when the file is imported, in a circle")


def _conditional(piece: Piece) -> Iterator[Any]:
    """Imports under try or if, which run when the file is imported."""
    if piece.kind == "other":
        for one in ast.walk(piece.node):
            if isinstance(one, (ast.Import, ast.ImportFrom)):
                yield from single(one)


def _bound(statement: Any) -> str:
    alias = statement.names[0]
    return alias.asname or (alias.name.partition(".")[0] if isinstance(statement, ast.Import) else alias.name)


def _both_dotted(one: str, other: str) -> bool:
    """`import a.b` and `import a.c` bind the same thing."""
    return all(text.startswith("import ") and " as " not in text for text in (one, other))


def _first(statement: Any) -> str:
    if isinstance(statement, ast.Import):
        return str(statement.names[0].name).partition(".")[0]
    return "" if statement.level else str(statement.module or "").partition(".")[0]


def _installed(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
