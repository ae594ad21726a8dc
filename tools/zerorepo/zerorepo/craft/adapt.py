"""A test of the real package to one of another repository: every name of the package becomes the name found for it.

Between locate.py, which finds the names, and running.py. Edits are made at the places of the syntax tree and nowhere else, so
assertions, values and layout stay as they are: the adapted test asks what the original asks. What has no counterpart stays
too, and fails at its import.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import NamedTuple

from zerorepo.craft.suite import chain_of, is_dotted, parsed

_SETTERS = ("setattr", "getattr", "hasattr", "delattr", "object")  # take an object and the name of an attribute


class _Edit(NamedTuple):
    begin: int  # in bytes of the source
    end: int
    text: str


class Names(NamedTuple):
    """What becomes of names. places: dotted name as written to the new one, those alone that change. members: attribute of a
    value to the new one. written: every dotted name of the package that the tests write, changing or not; modules: those of
    them that are modules, which must be imported before they can be an attribute."""

    places: Mapping[str, str]
    members: Mapping[str, str]
    written: frozenset[str]
    modules: frozenset[str] = frozenset()


def adapted(source: str, names: Names) -> str:
    """The source with new names. Relative imports are the suite's own (suite.with_absolute). Raises ValueError where it is no
    Python."""
    if not names.places and not names.members:
        return source
    return _Adaptation(source, names).text()


class _Adaptation:
    def __init__(self, source: str, names: Names) -> None:
        self.names = names
        self.data = source.encode("utf-8", "surrogatepass")
        self.tree = parsed(source)
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.edits: list[_Edit] = []
        self.aliases: dict[str, str] = {}  # local name to the dotted name it was imported as
        self.homes: dict[str, ast.stmt] = {}  # local name to the import that binds it
        self.taken = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)} | {
            node.arg for node in ast.walk(self.tree) if isinstance(node, ast.arg)
        }

    def text(self) -> str:
        self._read_imports()
        hidden = _hidden(self.tree, set(self.aliases))
        chains = self._chains(hidden)
        self._strings()
        self._definitions()
        self._imports(chains)
        data = self.data
        for edit in sorted(set(self.edits), key=lambda one: one.begin, reverse=True):
            data = data[: edit.begin] + edit.text.encode() + data[edit.end :]
        return data.decode("utf-8", "surrogatepass")

    # ------------------------------------------------------------ imports

    def _read_imports(self) -> None:
        for one in ast.walk(self.tree):
            if isinstance(one, ast.Import):
                for alias in one.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._bind(alias.asname or name, name, one)
            elif isinstance(one, ast.ImportFrom):
                for alias in one.names:
                    if alias.name == "*":
                        for name in sorted(self._starred(_module(one))):
                            self._bind(name, f"{_module(one)}.{name}", one)
                    else:
                        self._bind(alias.asname or alias.name, f"{_module(one)}.{alias.name}", one)

    def _starred(self, module: str) -> set[str]:
        """Names that a star brings and that are used: those of the tests' names that stand right below the module."""
        below = (name.removeprefix(module + ".") for name in self.names.written if name.startswith(module + "."))
        return {name for name in below if "." not in name and name in self.taken}

    def _bind(self, local: str, dotted: str, home: ast.stmt) -> None:
        if dotted in self.names.written or any(name.startswith(dotted + ".") for name in self.names.written):
            self.aliases.setdefault(local, dotted)
            self.homes.setdefault(local, home)

    def _new(self, dotted: str) -> str:
        """The new dotted name, the same where it does not change. A name below one that changes changes with it."""
        name, rest = dotted, ""
        while name:
            if name in self.names.places:
                return self.names.places[name] + rest
            if name in self.names.written:
                return dotted
            name, dot, last = name.rpartition(".")
            rest = dot + last + rest
        return dotted

    def _imports(self, chains: Mapping[str, dict[str, str]]) -> None:
        """Rewrite the import statements. chains: local name of a module to the aliases that take the place of chains from it
        (alias to new dotted name)."""
        for one in ast.walk(self.tree):
            if not isinstance(one, (ast.Import, ast.ImportFrom)):
                continue
            new, same = self._statements(one, chains)
            if not same:
                indent = " " * one.col_offset
                self._edit(one, f"\n{indent}".join(new) if new else "pass")

    def _statements(
        self, one: ast.Import | ast.ImportFrom, chains: Mapping[str, dict[str, str]]
    ) -> tuple[list[str], bool]:
        found: list[str] = []
        same = True
        for alias in one.names:
            if isinstance(one, ast.Import):
                bound = alias.asname or alias.name.partition(".")[0]
                dotted = alias.name if alias.asname else alias.name.partition(".")[0]
                more = chains.get(bound, {}) if self.homes.get(bound) is one else {}
                found += [_from(target, local) for local, target in sorted(more.items())]
                same &= not more
                fresh = self._new(alias.name)
                if fresh == alias.name or bound not in self.aliases:
                    found.append(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
                elif alias.asname:
                    found.append(_from(fresh, alias.asname))
                    same = False
                else:
                    # `import a.b` binds `a`: what is used of it are chains, brought by name above; the rest is for its effect.
                    top = self._new(dotted)
                    found.append(f"import {fresh}")
                    if top != dotted:
                        found.append(_from(top, bound) if "." in top else f"import {top} as {bound}")
                    same = False
            elif alias.name == "*":
                module = _module(one)
                names = {name: self._new(f"{module}.{name}") for name in sorted(self._starred(module))}
                if self._new(module) == module and all(new == f"{module}.{name}" for name, new in names.items()):
                    found.append(f"from {module} import *")
                    continue
                found += [_from(new, name) for name, new in names.items()]
                same = False
            else:
                module = _module(one)
                bound = alias.asname or alias.name
                written = f"{module}.{alias.name}"
                fresh = self._new(written)
                more = chains.get(bound, {}) if self.homes.get(bound) is one else {}
                found += [_from(target, local) for local, target in sorted(more.items())]
                same &= not more
                if fresh != written and bound in self.aliases:
                    found.append(_from(fresh, bound))
                    same = False
                else:
                    found.append(f"from {module} import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
        return found, same

    # ------------------------------------------------------------ uses

    def _chains(self, hidden: dict[ast.AST, set[str]]) -> dict[str, dict[str, str]]:
        """Rewrite chains of attributes, and the attributes of values; what must be brought by each import for it."""
        brought: dict[str, dict[str, str]] = {}
        inner: set[ast.AST] = set()
        for one in ast.walk(self.tree):
            if not isinstance(one, ast.Attribute) or one in inner:
                continue
            parts: list[ast.Attribute] = []
            part: ast.expr = one
            while isinstance(part, ast.Attribute):
                parts.insert(0, part)
                inner.add(part.value)
                part = part.value
            root = part.id if isinstance(part, ast.Name) else ""
            done = 0
            if root in self.aliases and root not in hidden.get(part, ()):
                done = self._chain(root, parts, brought)
            for rest in parts[done:]:
                if rest.attr in self.names.members and not (done == 0 and rest is parts[0] and root in self.aliases):
                    self._rename_attribute(rest, self.names.members[rest.attr])
        return brought

    def _chain(self, root: str, parts: list[ast.Attribute], brought: dict[str, dict[str, str]]) -> int:
        """How many of a chain's attributes belong to a name of the package; they are rewritten."""
        written = [self.aliases[root]]
        for part in parts:
            written.append(f"{written[-1]}.{part.attr}")
        length = max((at for at, name in enumerate(written) if name in self.names.written), default=0)
        if not length:
            return 0
        old, new, kept = written[length], self._new(written[length]), self._new(written[0])
        if new == kept + old[len(written[0]) :]:
            return length  # what the root's own import becomes suffices
        through = any(name in self.names.modules for name in written[1:length])
        if not through and new.startswith(kept + ".") and new.count(".") == kept.count(".") + length:
            for part, fresh in zip(parts[:length], new[len(kept) + 1 :].split("."), strict=True):
                if part.attr != fresh:
                    self._rename_attribute(part, fresh)
            return length
        local = self._local(new)
        brought.setdefault(root, {})[local] = new
        begin = self._at(parts[0].value.lineno, parts[0].value.col_offset)
        last = parts[length - 1]
        self.edits.append(_Edit(begin, self._at(last.end_lineno or 0, last.end_col_offset or 0), local))
        return length

    def _local(self, dotted: str) -> str:
        """A name for a new import that the file does not use."""
        name = "_" + dotted.replace(".", "_")
        while name in self.taken:
            name = "_" + name
        return name

    def _rename_attribute(self, one: ast.Attribute, fresh: str) -> None:
        end = self._at(one.end_lineno or 0, one.end_col_offset or 0)
        self.edits.append(_Edit(end - len(one.attr.encode()), end, fresh))

    def _strings(self) -> None:
        """Dotted names in strings, as mock.patch takes them, and attribute names beside an object, as setattr does."""
        tops = {name.partition(".")[0] for name in self.names.written}
        for one in ast.walk(self.tree):
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and is_dotted(one.value):
                if one.value.partition(".")[0] in tops:
                    self._string(one, self._new(one.value))
            elif isinstance(one, ast.Call) and len(one.args) >= 2:
                called = chain_of(one.func) or [""]
                target = chain_of(one.args[0])
                word = one.args[1]
                if called[-1] not in _SETTERS or not isinstance(word, ast.Constant) or not isinstance(word.value, str):
                    continue
                if target is not None and target[0] in self.aliases:
                    dotted = ".".join([self.aliases[target[0]], *target[1:], word.value])
                    if dotted in self.names.written:
                        self._string(word, self._new(dotted).rpartition(".")[2])
                        continue
                self._string(word, self.names.members.get(word.value, word.value))

    def _string(self, one: ast.Constant, fresh: str) -> None:
        begin, end = self._at(one.lineno, one.col_offset), self._at(one.end_lineno or 0, one.end_col_offset or 0)
        old = self.data[begin:end]
        if fresh != one.value and old.count(str(one.value).encode()) == 1:
            self.edits.append(_Edit(begin, end, old.replace(str(one.value).encode(), fresh.encode()).decode()))

    def _definitions(self) -> None:
        """Methods that a class of the tests overrides of one of the package's."""
        for one in ast.walk(self.tree):
            if not isinstance(one, ast.ClassDef):
                continue
            for base in one.bases:
                chain = chain_of(base)
                if chain is None or chain[0] not in self.aliases:
                    continue
                for inner in one.body:
                    if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.name in self.names.members:
                        self._rename_definition(inner, self.names.members[inner.name])

    def _rename_definition(self, one: ast.FunctionDef | ast.AsyncFunctionDef, fresh: str) -> None:
        begin = self._at(one.lineno, one.col_offset)
        place = self.data.index(one.name.encode(), begin + len(b"def "))
        self.edits.append(_Edit(place, place + len(one.name.encode()), fresh))

    # ------------------------------------------------------------ places

    def _at(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def _edit(self, one: ast.stmt, text: str) -> None:
        begin, end = self._at(one.lineno, one.col_offset), self._at(one.end_lineno or 0, one.end_col_offset or 0)
        self.edits.append(_Edit(begin, end, text))


def _module(one: ast.ImportFrom) -> str:
    return "." * one.level + (one.module or "")


def _from(dotted: str, local: str) -> str:
    """An import that binds a dotted name to a local one."""
    module, _, last = dotted.rpartition(".")
    shown = last if last == local else f"{last} as {local}"
    return f"from {module} import {shown}" if module else f"import {shown}"


def _hidden(tree: ast.AST, names: set[str]) -> dict[ast.AST, set[str]]:
    """Name nodes to the imported names that a function around them hides by a parameter or a variable of its own."""
    found: dict[ast.AST, set[str]] = {}

    def walk(node: ast.AST, hidden: set[str]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            hidden = hidden | (_own(node) & names)
        if isinstance(node, ast.Name) and node.id in hidden:
            found[node] = hidden
        for child in ast.iter_child_nodes(node):
            walk(child, hidden)

    walk(tree, set())
    return found


def _own(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """Parameters, and names the body assigns, imports left out."""
    own = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    body = function.body if isinstance(function.body, list) else [function.body]
    outer = {
        name
        for one in body
        for node in ast.walk(one)
        if isinstance(node, (ast.Global, ast.Nonlocal))
        for name in node.names
    }
    stores = {
        node.id
        for one in body
        for node in ast.walk(one)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return own | (stores - outer)
