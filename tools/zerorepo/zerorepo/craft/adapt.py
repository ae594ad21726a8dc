"""A test of the real package to one of another repository: every name of the package becomes the name found for it.

Between locate.py, which finds the names, and running.py. Edits are made at the places of the syntax tree and nowhere else, so
assertions, values and layout stay as they are: the adapted test asks what the original asks. What has no counterpart stays
too, and fails at its import.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from zerorepo.craft.syntax import chain_of, is_dotted, parsed

_SETTERS = ("setattr", "getattr", "hasattr", "delattr", "object")  # take an object and the name of an attribute


class _Edit(NamedTuple):
    begin: int  # in bytes of the source
    end: int
    text: str


class Names(NamedTuple):
    """What becomes of names. places: dotted name as written to the new one, those alone that change. members: attribute of a
    value to the new one. written: every dotted name of the package that the tests write, changing or not; modules: those of
    them that are modules, which must be imported before they can be an attribute; methods: those that are methods, which only their
    class has; variables: those that are variables, whose value may be another later."""

    places: Mapping[str, str]
    members: Mapping[str, str]
    written: frozenset[str]
    modules: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()


def adapted(source: str, names: Names) -> str:
    """The source with new names. Relative imports are the suite's own (suite.with_absolute). Raises ValueError where it is no
    Python."""
    if not names.places and not names.members:
        return source
    return _Adaptation(source, names).text()


class _Binding(NamedTuple):
    """A local name that an import binds in a scope. homes: the import statements that do."""

    dotted: str
    homes: list[ast.stmt]


_FOREIGN = _Binding("", [])  # of what is not the package's for certain: another module, a literal, a builtin's value
_Scope = dict[str, _Binding | None]  # None: a parameter or variable hides what is outside
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Modules whose names and values are none of the package's. `test` may be the suite.
_ELSEWHERE = (sys.stdlib_module_names | {"pytest", "hypothesis", "numpy"}) - {"test"}
_LITERALS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict, *_COMPREHENSIONS[:3])
_BUILT = frozenset("bool bytearray bytes complex dict float frozenset int list repr set sorted str tuple".split())


class _Adaptation:
    def __init__(self, source: str, names: Names) -> None:
        self.names = names
        self.data = source.encode("utf-8", "surrogatepass")
        self.tree = parsed(source)
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.edits: list[_Edit] = []
        self.brought: dict[ast.stmt, dict[str, str]] = {}  # import to the new ones beside it: local name to dotted name
        self.bound: dict[ast.AST, _Binding] = {}  # uses of names to what they are bound to
        self.shared = {
            name for node in ast.walk(self.tree) if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names
        }
        self.taken = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)} | {
            node.arg for node in ast.walk(self.tree) if isinstance(node, ast.arg)
        }

    def text(self) -> str:
        self._bind()
        self._chains()
        self._strings()
        self._definitions()
        self._imports()
        data = self.data
        for edit in sorted(set(self.edits), key=lambda one: one.begin, reverse=True):
            data = data[: edit.begin] + edit.text.encode("utf-8", "surrogatepass") + data[edit.end :]
        return data.decode("utf-8", "surrogatepass")

    # ------------------------------------------------------------ scopes

    def _bind(self) -> None:
        """Find for every name what it is bound to, from the innermost function outwards."""
        open_: list[tuple[ast.AST, list[_Scope]]] = [(self.tree, [self._scope(self.tree)])]
        while open_:
            node, scopes = open_.pop()
            if isinstance(node, ast.Name):
                found = next((scope[node.id] for scope in reversed(scopes) if node.id in scope), None)
                if found is not None:
                    self.bound[node] = found
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            inner = [*scopes, self._scope(node)] if is_function else scopes
            if isinstance(node, _COMPREHENSIONS):
                targets = (name for one in node.generators for name in ast.walk(one.target))
                inner = [*scopes, dict.fromkeys((one.id for one in targets if isinstance(one, ast.Name)), None)]
            for field, value in ast.iter_fields(node):
                outside = field in ("decorator_list", "returns", "args")
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        open_.append((child, scopes if outside and is_function else inner))

    def _scope(self, node: ast.AST) -> _Scope:
        """What a function, or the module, binds itself."""
        own: _Scope = {}
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            own.update(dict.fromkeys((one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)), None))
        body = getattr(node, "body", [])
        inside = list(_inside(body if isinstance(body, list) else [body]))
        outer = {name for one in inside if isinstance(one, (ast.Global, ast.Nonlocal)) for name in one.names}
        looping = {
            name
            for one in inside
            if isinstance(one, _COMPREHENSIONS)
            for each in one.generators
            for name in ast.walk(each.target)
        }
        plain = self._plain(inside) - self.shared
        for one in inside:
            for name in _stored(one) if one not in looping else ():
                if name not in outer:
                    own[name] = _FOREIGN if name in plain else None
        for one in inside:
            if isinstance(one, (ast.Import, ast.ImportFrom)):
                for local, dotted in self._bindings(one):
                    known = own.get(local)
                    if known is not None and known.dotted == dotted:
                        known.homes.append(one)
                    elif self._ours(dotted):
                        own[local] = _Binding(dotted, [one])
                    elif local not in own and dotted.partition(".")[0] in _ELSEWHERE:
                        own[local] = _FOREIGN
        return own

    @staticmethod
    def _plain(inside: Iterable[ast.AST]) -> set[str]:
        """Names of a scope that hold nothing but literals and values of builtins, by every statement that binds them."""
        found: dict[str, bool] = {}
        told: set[ast.AST] = set()
        for one in inside:
            if isinstance(one, (ast.Assign, ast.AnnAssign)):
                for target in one.targets if isinstance(one, ast.Assign) else [one.target]:
                    if isinstance(target, ast.Name):
                        told.add(target)
                        found[target.id] = found.get(target.id, True) and _is_built(one.value)
            elif one not in told:
                found.update(dict.fromkeys(_stored(one), False))
        return {name for name, holds in found.items() if holds}

    def _bindings(self, one: ast.Import | ast.ImportFrom) -> list[tuple[str, str]]:
        """(local name, dotted name) of an import statement."""
        found = []
        for alias in one.names:
            if isinstance(one, ast.Import):
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found.append((alias.asname or name, name))
            elif alias.name == "*":
                found += [(name, f"{_module(one)}.{name}") for name in sorted(self._starred(_module(one)))]
            else:
                found.append((alias.asname or alias.name, f"{_module(one)}.{alias.name}"))
        return found

    def _starred(self, module: str) -> set[str]:
        """Names that a star brings and that are used: those of the tests' names that stand right below the module."""
        below = (name.removeprefix(module + ".") for name in self.names.written if name.startswith(module + "."))
        return {name for name in below if "." not in name and name in self.taken}

    def _ours(self, dotted: str) -> bool:
        return dotted in self.names.written or any(name.startswith(dotted + ".") for name in self.names.written)

    # ------------------------------------------------------------ imports

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

    def _imports(self) -> None:
        for one in ast.walk(self.tree):
            if not isinstance(one, (ast.Import, ast.ImportFrom)):
                continue
            new = [_from(target, local) for local, target in sorted(self.brought.get(one, {}).items())]
            same = not new
            for alias in one.names:
                fresh = self._rewritten(one, alias)
                same &= fresh is None
                new += fresh if fresh is not None else [_as_written(one, alias)]
            if not same:
                begin, end = (
                    self._at(one.lineno, one.col_offset),
                    self._at(one.end_lineno or 0, one.end_col_offset or 0),
                )
                before = self.data[self.starts[one.lineno - 1] : begin]
                after = self.data[end : self.starts[one.end_lineno or 0]].split(b"#")[0]
                alone = not before.strip() and not after.strip()
                text = ("\n" + before.decode() if alone else "; ").join(dict.fromkeys(new))
                self.edits.append(_Edit(begin, end, text))

    def _rewritten(self, one: ast.Import | ast.ImportFrom, alias: ast.alias) -> list[str] | None:
        """The statements in place of one name of an import; None where it stays."""
        if isinstance(one, ast.ImportFrom):
            module = _module(one)
            if alias.name == "*":
                names = {name: self._new(f"{module}.{name}") for name in sorted(self._starred(module))}
                if self._new(module) == module and all(new == f"{module}.{name}" for name, new in names.items()):
                    return None
                return [_from(new, name) for name, new in names.items()] or ["pass"]
            written = f"{module}.{alias.name}"
            fresh = self._new(written)
            return None if fresh == written else [_from(fresh, alias.asname or alias.name)]
        fresh = self._new(alias.name)
        if fresh == alias.name:
            return None
        if alias.asname:
            return [_from(fresh, alias.asname)]
        # `import a.b` binds `a`: what chains need of it is brought by name; the rest is for its effect.
        bound = alias.name.partition(".")[0]
        top = self._new(bound)
        return [f"import {fresh}", *([_from(top, bound)] if top != bound else [])]

    # ------------------------------------------------------------ uses

    def _chains(self) -> None:
        """Rewrite chains of attributes, and the attributes of values; note what must be imported for it."""
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
            binding = self.bound.get(part)
            if binding is _FOREIGN or _is_built(part):
                continue
            done = self._chain(binding, parts) if binding is not None else 0
            of_module = binding is not None and binding.dotted in self.names.modules and done == 0
            for at, rest in enumerate(parts[done:]):
                if rest.attr in self.names.members and not (of_module and at == 0):
                    self._rename_attribute(rest, self.names.members[rest.attr])

    def _chain(self, binding: _Binding, parts: list[ast.Attribute]) -> int:
        """How many of a chain's attributes belong to a name of the package; they are rewritten."""
        written = [binding.dotted]
        for part in parts:
            written.append(f"{written[-1]}.{part.attr}")
        length = max((at for at, name in enumerate(written) if name in self.names.written), default=0)
        if written[length] in self.names.methods:
            # Only its own name changes here: the class before it, which may have it from another, is seen to by itself.
            fresh = self._new(written[length]).rpartition(".")[2]
            if parts[length - 1].attr != fresh:
                self._rename_attribute(parts[length - 1], fresh)
            if length > 1 and written[length - 1] in self.names.written:
                self._chained(binding, parts[: length - 1], written)
            return length
        if not length:
            return 0
        return self._chained(binding, parts[:length], written)

    def _chained(self, binding: _Binding, parts: list[ast.Attribute], written: list[str]) -> int:
        length = len(parts)
        old, new, kept = written[length], self._new(written[length]), self._new(written[0])
        if new == kept + old[len(written[0]) :]:
            return length  # what the root's own import becomes suffices
        through = any(name in self.names.modules for name in written[1:length])
        if not through and new.startswith(kept + ".") and new.count(".") == kept.count(".") + length:
            for part, fresh in zip(parts[:length], new[len(kept) + 1 :].split("."), strict=True):
                if part.attr != fresh:
                    self._rename_attribute(part, fresh)
            return length
        last = parts[length - 1]
        # What is set, and a variable's value as it is then, is an attribute of where it lives; a name would be a copy of it.
        lives = not isinstance(last.ctx, ast.Load) or old in self.names.variables
        home_of, _, attribute = new.rpartition(".") if lives and "." in new else (new, "", "")
        local = self._local(home_of)
        for home in binding.homes:
            self.brought.setdefault(home, {})[local] = home_of
        begin = self._at(parts[0].value.lineno, parts[0].value.col_offset)
        text = f"{local}.{attribute}" if attribute else local
        self.edits.append(_Edit(begin, self._at(last.end_lineno or 0, last.end_col_offset or 0), text))
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
                if one.value.partition(".")[0] in tops and self._is_named(one.value):
                    self._string(one, self._new(one.value))
            elif isinstance(one, ast.Call) and len(one.args) >= 2:
                called = chain_of(one.func) or [""]
                target = chain_of(one.args[0])
                word = one.args[1]
                if called[-1] not in _SETTERS or not isinstance(word, ast.Constant) or not isinstance(word.value, str):
                    continue
                root = self.bound.get(_root(one.args[0]))
                if root is _FOREIGN or _is_built(_root(one.args[0])):
                    continue
                if target is not None and root is not None:
                    dotted = ".".join([root.dotted, *target[1:], word.value])
                    if dotted in self.names.written:
                        self._string(word, self._new(dotted).rpartition(".")[2])
                        continue
                self._string(word, self.names.members.get(word.value, word.value))

    def _is_named(self, text: str) -> bool:
        """Whether a string is a dotted name of the package, or of something below one: not `lib.json`, which may be a file."""
        name = text
        while name and name not in self.names.written:
            name = name.rpartition(".")[0]
        return name == text or "." in name

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
                if chain_of(base) is None or self.bound.get(_root(base), _FOREIGN) is _FOREIGN:
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


def _stored(one: ast.AST) -> list[str]:
    """Names that a node itself binds, those of imports left out."""
    if isinstance(one, ast.Name):
        return [one.id] if isinstance(one.ctx, ast.Store) else []
    if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [one.name]
    if isinstance(one, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        return [one.name] if one.name else []
    return [one.rest] if isinstance(one, ast.MatchMapping) and one.rest else []


def _is_built(one: ast.expr | None) -> bool:
    """Whether an expression's value is a literal's or a builtin's, which no other package's methods are looked up on."""
    if isinstance(one, ast.Call):
        return isinstance(one.func, ast.Name) and one.func.id in _BUILT
    return isinstance(one, _LITERALS) and not (isinstance(one, ast.Constant) and one.value in (None, ...))


def _module(one: ast.ImportFrom) -> str:
    return "." * one.level + (one.module or "")


def _from(dotted: str, local: str) -> str:
    """An import that binds a dotted name to a local one."""
    module, _, last = dotted.rpartition(".")
    shown = last if last == local else f"{last} as {local}"
    return f"from {module} import {shown}" if module else f"import {shown}"


def _as_written(one: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    shown = alias.name + (f" as {alias.asname}" if alias.asname else "")
    return f"import {shown}" if isinstance(one, ast.Import) else f"from {_module(one)} import {shown}"


def _root(one: ast.expr) -> ast.expr:
    """`a` of `a.b.c`."""
    while isinstance(one, ast.Attribute):
        one = one.value
    return one


def _inside(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes of a scope in the order of the source, those of functions inside it left out."""
    open_ = list(body)[::-1]
    while open_:
        node = open_.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            open_ += list(ast.iter_child_nodes(node))[::-1]
