"""Stubs from a graph alone: what its nodes say of a file, written out as Python that imports.

For `rebuild --alone`, where there is no repository to take text from. A file is given its docstring, imports, module
variables (without values: a graph has none), classes, functions and `__all__`; bodies are `raise NotImplementedError`.
Whatever would have to be evaluated at import and is not known to be harmless is left out: defaults that are no
literals become `...`, decorators and bases stay where they are of a few known modules, of the graph itself, or plain
imports. Annotations are never evaluated. The graph may come from anywhere, so every word of it that is written as code
is a name, or parsed and written again from what was allowed.

Imports that nothing in the file needs at once come last, so that files which import each other in a circle load.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import keyword
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from tenfold_shared import BadInput
from zerorepo.generation.skeleton import STUB
from zerorepo.graph import ROOT, Graph, Import, Node
from zerorepo.modules import Modules

# Standard modules that may be imported here to see which names they have; the others' imports are guarded.
_PLAIN = frozenset(
    "abc ast asyncio base64 bisect builtins calendar collections collections.abc configparser contextlib copy csv"
    " dataclasses datetime decimal difflib email enum errno fnmatch fractions functools getpass glob hashlib heapq html"
    " http importlib inspect io itertools json keyword locale logging math numbers operator os os.path pathlib pickle"
    " platform pprint queue random re select shlex shutil signal socket stat statistics string struct subprocess sys"
    " tempfile textwrap threading time timeit tokenize traceback types typing unicodedata unittest urllib urllib.parse"
    " uuid warnings weakref zlib".split()
)
_SAFE = frozenset(
    "builtins.property builtins.staticmethod builtins.classmethod abc.abstractmethod abc.abstractproperty"
    " abc.abstractclassmethod abc.abstractstaticmethod dataclasses.dataclass functools.cached_property functools.cache"
    " functools.lru_cache functools.singledispatch functools.singledispatchmethod functools.total_ordering"
    " contextlib.contextmanager contextlib.asynccontextmanager typing.overload typing.final typing.override"
    " typing.runtime_checkable typing.no_type_check typing.type_check_only enum.unique".split()
)
# Variables of a module that the import machinery reads.
_OF_A_MODULE = frozenset(
    "__all__ __getattr__ __dir__ __path__ __spec__ __file__ __name__ __package__ __loader__ __cached__ __class__ __doc__"
    " __builtins__ __dict__ __annotations__".split()
)
_TYPE_VARIABLES = ("TypeVar", "ParamSpec", "TypeVarTuple")
_ORDERS = frozenset("__lt__ __le__ __gt__ __ge__".split())
# What an import may call: bodies that do nothing, for a base class is extended and a module's attribute asked for.
_CALLED = {"__init_subclass__": "return None", "__set_name__": "return None", "__prepare__": "return {}"}


class Rendered(NamedTuple):
    """files: path to bytes. left: what of the graph is not in them, id to reason."""

    files: dict[str, bytes]
    left: dict[str, str]


def rendered(graph: Graph) -> Rendered:
    """Stubs of every Python file of the graph. Raises BadInput where a name or signature of it is no Python."""
    every = _Every(graph)
    return Rendered({path: every.file(path).encode() for path in every.paths}, every.left)


def defaults_elided(signature: str) -> str:
    """A header with defaults that are no literals as `...`. Raises ValueError where it is no header of a function."""
    try:
        tree = ast.parse(signature + ":\n pass\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"signature {signature[:80]!r}: {error}") from None
    if len(tree.body) != 1 or not isinstance(tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise ValueError(f"signature {signature[:80]!r}: expected the header of one function")
    definition = tree.body[0]
    if len(definition.body) != 1 or not isinstance(definition.body[0], ast.Pass) or "\n" in signature:
        raise ValueError(f"signature {signature[:80]!r}: expected a header without a body")
    raw = signature.encode()
    arguments = definition.args
    for default in sorted(filter(None, [*arguments.defaults, *arguments.kw_defaults]), key=lambda one: -one.col_offset):
        if not _is_literal(default):
            raw = raw[: default.col_offset] + b"..." + raw[default.end_col_offset :]
    return raw.decode()


class _Every:
    """The whole graph, as one file's rendering looks into others."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.left: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self.units: dict[str, list[Node]] = defaultdict(list)  # path to its units outside functions, in their order
        functions = {node.id for node in graph.nodes if node.kind in ("function", "method")}
        for node in sorted(graph.nodes, key=lambda node: (node.path, node.span, len(node.qualname))):
            if node.kind == "file":
                if node.status == "unparsed" or node.language:
                    self.left[node.id] = node.reason or "not Python"
                elif not node.path.endswith(".py"):
                    self.left[node.id] = "a script or another file that is no module"
                else:
                    self.nodes[node.path] = node
            elif node.kind in ("class", "function", "method"):
                parts = node.qualname.split(".")
                above = (f"{node.path}:{'.'.join(parts[:n])}" for n in range(1, len(parts)))
                if not any(one in functions for one in above):
                    self.units[node.path].append(node)
        self.paths = sorted(self.nodes)
        root = graph.by_id.get(ROOT)
        self.modules = Modules(self.paths, root.name if root is not None else "")
        self.wanted: dict[str, set[str]] = defaultdict(set)  # path to names that other files import from it
        for path in self.paths:
            for one in self.nodes[path].imports:
                _named(one, path)
                found = self.target(path, one)
                file = self.modules.file(found)
                if (
                    file in self.nodes
                    and one.name not in ("", "*")
                    and self.modules.at(_package(found), one.name) is None
                ):
                    self.wanted[file].add(one.name)
        self.generic: set[str] = set()  # ids of classes that take type arguments

    def target(self, path: str, one: Import) -> str | None:
        """The module of the graph that an import statement names before its own `import`; None for others."""
        name = one.module.lstrip(".")
        dots = len(one.module) - len(name)
        return self.modules.relative(path, dots, name) if dots else self.modules.absolute(path, name)[0]

    def file(self, path: str) -> str:
        return _File(self, path).text()


class _File:
    def __init__(self, every: _Every, path: str) -> None:
        self.every, self.path, self.node = every, path, every.nodes[path]
        self.units = every.units[path]
        self.known = {unit.qualname: unit for unit in self.units}
        self.imports = {self._bound(one): one for one in self.node.imports if not one.scope and one.when != "lazy" and one.name != "*"}  # fmt: skip
        self.needed: set[str] = set()  # names that a base or decorator uses
        self.bound: set[str] = set()  # names of units that stand by now
        self.methods: dict[str, set[str]] = defaultdict(set)
        self.properties: set[str] = set()  # qualnames of names that hold a property by now

    @staticmethod
    def _bound(one: Import) -> str:
        return one.alias or one.name or one.module.partition(".")[0]

    def text(self) -> str:
        for unit in self.units:
            outer = unit.qualname.rpartition(".")[0]
            self.methods[outer].add(unit.name)
        body = [line for unit in self.units if "." not in unit.qualname for line in self._unit(unit, "")]
        early = [one for one in self.node.imports if not one.scope and one.when == "" and self._is_early(one)]
        late = [one for one in self.node.imports if not one.scope and one.when == "" and not self._is_early(one)]
        typing = [one for one in self.node.imports if not one.scope and one.when == "typing"]
        lines: list[str] = []
        if self.node.doc:
            lines += [_literal(self.node.doc), ""]
        lines += ["from __future__ import annotations", ""]
        lines += self._import_lines(early)
        lines += self._variables()
        lines += body
        lines += [*([""] if late else []), *self._import_lines(late)]
        lines += self._typing_lines(typing)
        lines += self._aliases()
        if self.node.exports is not None:
            lines += ["", f"__all__ = {sorted(self.node.exports)!r}"]
        lines += self._promised()
        return "\n".join(lines).rstrip("\n") + "\n"

    # ------------------------------------------------------------ imports

    def _is_early(self, one: Import) -> bool:
        """Needed while the file's definitions run, or from outside the graph, or the package's own order of imports."""
        return self.every.target(self.path, one) is None or self._bound(one) in self.needed

    def _import_lines(self, imports: Iterable[Import]) -> list[str]:
        lines: list[str] = []
        for one in imports:
            if one.module == "__future__":
                continue
            statement = _statement(one)
            if self.every.target(self.path, one) is not None or _is_there(one.module, one.name):
                lines.append(statement)
            elif one.name in ("", "*"):
                fallback = (
                    "pass" if one.name == "*" or ("." in one.module and not one.alias) else f"{self._bound(one)} = ..."
                )
                lines += ["try:", f"    {statement}", "except ImportError:", f"    {fallback}"]
            else:
                name = self._bound(one)
                lines += ["try:", f"    {statement}", "except ImportError:", f"    {name} = type({name!r}, (), {{}})"]
        return lines

    def _typing_lines(self, imports: list[Import]) -> list[str]:
        if not imports:
            return []
        name = next(
            (self._bound(one) for one in self.node.imports if (one.module, one.name) == ("typing", "TYPE_CHECKING")), ""
        )
        alias = next((self._bound(one) for one in self.node.imports if (one.module, one.name) == ("typing", "")), "")
        lines = ["" if name or alias else "from typing import TYPE_CHECKING", f"if {name or (alias + '.' if alias else '') + 'TYPE_CHECKING'}:"]  # fmt: skip
        return lines + [f"    {_statement(one)}" for one in imports]

    # ------------------------------------------------------------ variables

    def _variables(self) -> list[str]:
        lines = []
        tops = self.methods[""]
        for name, held in self.node.names.items():
            if name in self.imports or name in tops or name in _OF_A_MODULE or not _is_name(name):
                continue
            kind = held.removesuffix("()").rpartition(".")[2]
            if kind in _TYPE_VARIABLES and self._qualified(held.removesuffix("()")).startswith("typing"):
                self.needed.add(held.partition(".")[0].removesuffix("()"))
                lines.append(f'{name} = {held.removesuffix("()")}("{name}")')
            elif not self._alias_of(held):
                lines.append(f"{name} = ...")
        return [*([""] if lines else []), *lines]

    def _alias_of(self, held: str) -> str:
        """The unit of this file that a variable is another name for."""
        return held if held in self.known and "." not in held and "#" not in held else ""

    def _aliases(self) -> list[str]:
        taken = self.methods[""] | set(self.imports)
        found = [
            f"{name} = {held}"
            for name, held in self.node.names.items()
            if self._alias_of(held) and name not in taken and _is_name(name)
        ]
        return [*([""] if found else []), *found]

    def _promised(self) -> list[str]:
        """Names that `__all__` or another file's import expects and that nothing above binds."""
        have = self.methods[""] | set(self.imports) | set(self.node.names)
        wanted = {name for name in (*(self.node.exports or ()), *self.every.wanted[self.path]) if name not in have}
        if self.path.endswith("__init__.py"):
            wanted = {name for name in wanted if self.every.modules.at(_package(self.path), name) is None}
        names = sorted(
            name for name in wanted if _is_name(name) and not (name.startswith("__") and name.endswith("__"))
        )
        stars = any(one.name == "*" and not one.scope for one in self.node.imports)
        lines = [f"globals().setdefault({name!r}, ...)" if stars else f"{name} = ..." for name in names]
        return [*([""] if lines else []), *lines]

    # ------------------------------------------------------------ units

    def _unit(self, unit: Node, indent: str) -> Iterator[str]:
        if not _is_name(unit.name):
            raise BadInput(f"{unit.id}: {unit.name[:60]!r} is no name of Python")
        yield from ["", ""] if not indent else [""]
        outer = unit.qualname.rpartition(".")[0]
        marks = [mark for text in unit.decorators if (mark := self._decorator(text, unit, outer))]
        for mark in marks:
            yield f"{indent}@{mark}"
        own = f"{outer}.{unit.name}" if outer else unit.name
        self.properties.discard(own)
        if any(
            mark.rpartition(".")[2] in ("property", "abstractproperty", "setter", "getter", "deleter") for mark in marks
        ):
            self.properties.add(own)
        if unit.kind == "class":
            yield f"{indent}class {unit.name}{self._bases(unit)}:"
            if unit.doc:
                yield f"{indent}    {_literal(unit.doc)}"
            inside = [one for one in self.units if one.qualname.rpartition(".")[0] == unit.qualname]
            for one in self.node.imports:
                if one.scope == unit.qualname and one.when == "" and self.every.target(self.path, one) is None and _is_there(one.module, one.name):  # fmt: skip
                    yield f"{indent}    {_statement(one)}"
            for member in inside:
                yield from self._unit(member, indent + "    ")
            if not inside and not unit.doc:
                yield f"{indent}    pass"
        else:
            try:
                header = defaults_elided(unit.signature)
            except ValueError as error:
                raise BadInput(f"{unit.id}: {error}") from None
            yield f"{indent}{header}:"
            if unit.doc:
                yield f"{indent}    {_literal(unit.doc)}"
            yield f"{indent}    {self._body(unit, outer, header)}"
        self.bound.add(own)

    def _body(self, unit: Node, outer: str, header: str) -> str:
        if unit.name == "__getattr__" and not outer:
            tree: Any = ast.parse(header + ": pass").body[0]
            arguments = [*tree.args.posonlyargs, *tree.args.args]
            return f"raise AttributeError({arguments[0].arg})" if arguments else "raise AttributeError"
        if unit.name == "__class_getitem__" and outer:
            tree = ast.parse(header + ": pass").body[0]
            return f"return {tree.args.args[0].arg}" if tree.args.args else STUB
        return _CALLED.get(unit.name, STUB) if outer else STUB

    def _qualified(self, name: str) -> str:
        """`functools.lru_cache` of what a file calls `lru_cache` or `ft.lru_cache`; '' for what is not imported."""
        head, _, rest = name.partition(".")
        if head in self.methods[""] or (head in self.node.names and head not in self.imports):
            return ""
        one = self.imports.get(head)
        if one is None:
            return f"builtins.{name}" if hasattr(builtins, head) else ""
        if one.when or self.every.target(self.path, one) is not None:
            return ""
        full = f"{one.module}.{one.name}" if one.name else one.module if one.alias else head
        full = f"{full}.{rest}" if rest else full
        return full.replace("typing_extensions.", "typing.", 1)

    def _decorator(self, text: str, unit: Node, outer: str) -> str:
        """The decorator where it is safe to run, else ''."""
        try:
            tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ""
        function = tree.func if isinstance(tree, ast.Call) else tree
        name = _dotted(function)
        head, _, last = name.rpartition(".")
        if last in ("setter", "getter", "deleter") and not isinstance(tree, ast.Call) and outer:
            return name if f"{outer}.{head}" in self.properties and head == unit.name else ""
        full = self._qualified(name)
        if full not in _SAFE or not _is_there(*full.rpartition(".")[::2]):
            return ""
        if full == "functools.total_ordering" and _ORDERS.isdisjoint(self.methods[unit.qualname]):
            return ""
        if isinstance(tree, ast.Call) and not (
            all(_is_literal(one) for one in tree.args)
            and all(one.arg and _is_literal(one.value) for one in tree.keywords)
        ):
            return ""
        self.needed.add(name.partition(".")[0])
        return ast.unparse(tree)

    def _bases(self, unit: Node) -> str:
        """`(A, Generic[T])`: of the header's bases and keywords those that can be evaluated."""
        try:
            tree: Any
            tree, *more = ast.parse(unit.signature + ":\n pass\n").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadInput(f"{unit.id}: signature {unit.signature[:80]!r}: {error}") from None
        if more or not isinstance(tree, ast.ClassDef) or len(tree.body) != 1:
            raise BadInput(f"{unit.id}: signature {unit.signature[:80]!r}: expected the header of a class")
        kept = [text for base in tree.bases if (text := self._base(base, unit))]
        if any("[" in text for text in kept):
            self.every.generic.add(unit.id)
        for one in tree.keywords:
            name = _dotted(one.value)
            if one.arg == "metaclass" and self._qualified(name) == "abc.ABCMeta":
                self.needed.add(name.partition(".")[0])
                kept.append(f"metaclass={name}")
            elif one.arg == "total" and isinstance(one.value, ast.Constant) and any(text.endswith("TypedDict") for text in kept):  # fmt: skip
                kept.append(f"total={one.value.value!r}")
        return f"({', '.join(dict.fromkeys(kept))})" if kept else ""

    def _base(self, tree: Any, unit: Node) -> str:
        inside = tree.slice if isinstance(tree, ast.Subscript) else None
        name = _dotted(tree.value if isinstance(tree, ast.Subscript) else tree)
        how = self._resolves(name, unit) if name else ""
        if not how:
            return ""
        if inside is None:
            return name
        names = [one.id for one in ast.walk(inside) if isinstance(one, ast.Name)]
        plain = all(
            isinstance(one, (ast.Name, ast.Tuple, ast.List, ast.Constant, ast.Load)) for one in ast.walk(inside)
        )
        full = self._qualified(name)
        takes = how in self.every.generic or full.startswith(("typing.", "collections.", "builtins."))
        if not (plain and takes and all(self._resolves(one, unit) or self._is_type_variable(one) for one in names)):
            return "" if full == "typing.Generic" else name
        self.needed.update(one.partition(".")[0] for one in names)
        return ast.unparse(tree)

    def _is_type_variable(self, name: str) -> bool:
        return self.node.names.get(name, "").removesuffix("()").rpartition(".")[2] in _TYPE_VARIABLES

    def _resolves(self, name: str, unit: Node) -> str:
        """What a dotted name of a class header is, '' where it cannot be told to be there: the id of a class of the
        graph, a type variable of it, or the name itself where it comes from outside."""
        head, _, rest = name.partition(".")
        outer = unit.qualname.rpartition(".")[0]
        if outer and not rest and f"{outer}.{head}" in self.bound:
            return f"{self.path}:{outer}.{head}"
        if head in self.methods[""]:
            found = f"{self.path}:{name}"
            stands = name in self.bound and self.known.get(name) is not None and self.known[name].kind == "class"
            return found if stands else ""
        one = self.imports.get(head)
        if one is None:
            return name if not rest and isinstance(getattr(builtins, head, None), type) and head not in self.node.names else ""  # fmt: skip
        if one.when:
            return ""
        found_in = self.every.target(self.path, one)
        if found_in is None:
            full = self._qualified(name)
            usable = (one.name and not rest) or one.module in _PLAIN
            if not usable or (full.rpartition(".")[0] in _PLAIN and not _is_there(*full.rpartition(".")[::2])):
                return ""
            self.needed.add(head)
            return name
        if one.name:
            file, inner = self._followed(found_in, one.name, rest)
        else:
            file, inner = self._followed(_head_module(self.every, self.path, one, found_in), "", rest)
        if file is None:
            return ""
        node = self.every.graph.by_id.get(f"{file}:{inner}")
        if (node is not None and node.kind == "class") or self._variable(file, inner):
            self.needed.add(head)
            return f"{file}:{inner}"
        return ""

    def _variable(self, file: str, name: str) -> bool:
        held = self.every.nodes[file].names.get(name, "") if file in self.every.nodes else ""
        return held.removesuffix("()").rpartition(".")[2] in _TYPE_VARIABLES

    def _followed(self, module: str | None, name: str, rest: str, depth: int = 0) -> tuple[str | None, str]:
        """(file, qualname) of `module.name.rest`, through submodules and imports under the same or another name."""
        every = self.every
        words = [word for word in (name, *rest.split(".")) if word]
        while words and module is not None and not module.endswith(".py"):
            below = every.modules.at(module, words[0])
            file = every.modules.file(module)
            own = file is not None and file in every.nodes and f"{file}:{words[0]}" in every.graph.by_id
            if below is None or own:
                break
            module, words = below, words[1:]
        file = every.modules.file(module)
        if file is None or file not in every.nodes or not words:
            return None, ""
        if f"{file}:{'.'.join(words)}" in every.graph.by_id or self._variable(file, words[0]):
            return file, ".".join(words)
        if depth > 8:
            return None, ""
        for one in every.nodes[file].imports:
            if one.scope or one.when or (self._bound(one) != words[0] and one.name != "*"):
                continue
            there = every.target(file, one)
            if there is None:
                continue
            inner = words[0] if one.name == "*" else one.name
            found = self._followed(there, inner, ".".join(words[1:]), depth + 1)
            if found[0] is not None:
                return found
        return None, ""


def _head_module(every: _Every, path: str, one: Import, found: str) -> str | None:
    """The module that `import a.b` binds: `a`; with an alias, `a.b` itself."""
    if one.alias:
        return found
    return every.modules.absolute(path, one.module.partition(".")[0])[0]


def _package(module: str | None) -> str:
    """The folder that names below a module are looked up in."""
    if module is None:
        return "\0"
    if module.endswith("/__init__.py") or module == "__init__.py":
        return module.rpartition("/")[0]
    return "\0" if module.endswith(".py") else module


def _statement(one: Import) -> str:
    alias = f" as {one.alias}" if one.alias else ""
    return f"from {one.module} import {one.name}{alias}" if one.name else f"import {one.module}{alias}"


def _named(one: Import, path: str) -> None:
    """Raises BadInput where an import is not made of names."""
    parts = [*filter(None, one.module.lstrip(".").split(".")), *filter(None, (one.name, one.alias))]
    bare = one.module.lstrip(".")
    if not all(part == "*" or _is_name(part) for part in parts) or (bare == "" and not one.name) or ".." in bare or bare.endswith("."):  # fmt: skip
        raise BadInput(f"{path}: imports: {one.module[:60]!r}: no import statement can name it")


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


@cache
def _is_there(module: str, name: str) -> bool:
    if module not in _PLAIN:
        return False
    return name in ("", "*") or hasattr(importlib.import_module(module), name)


def _dotted(tree: Any) -> str:
    if isinstance(tree, ast.Name):
        return tree.id
    inside = _dotted(tree.value) if isinstance(tree, ast.Attribute) else ""
    return f"{inside}.{tree.attr}" if inside else ""


def _is_literal(tree: Any) -> bool:
    try:
        ast.literal_eval(tree)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _literal(text: str) -> str:
    """A docstring on one line."""
    plain = text.isprintable() and "\\" not in text and '"""' not in text and not text.endswith('"')
    return f'"""{text}"""' if plain else repr(text)
