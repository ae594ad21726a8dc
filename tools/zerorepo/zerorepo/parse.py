"""One Python file to its nodes: what it defines, imports and calls, as written and unresolved.

A pure function of a path and its bytes. It knows nothing of other files: resolve.py turns what is
recorded here into edges. The syntax tree is walked once, by hand, since the walk is the larger part of
encoding; `encode` must stay within three times the cost of `ast.parse` alone.

What a unit calls is kept as a short expression: `nx.Graph` (a name, then attributes), `Graph().add` (an
attribute of what the call of Graph gives; also what a parameter annotated `Graph` is), `self.add`,
`super().add`, `?.close` (an attribute of something not known here). Local variables do not appear: one that
holds a known expression is replaced by it.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import io
import re
import tokenize
import warnings
from typing import Any

from zerorepo.features import own_phrases
from zerorepo.graph import Import, Node
from zerorepo.sources import MOST_BYTES

_BUILTINS = frozenset(dir(builtins))
# Methods of the built-in containers, strings and files: on something unknown they name nothing of the repository.
COMMON = frozenset(
    name
    for kind in (str, bytes, list, dict, set, tuple, int, float, io.BytesIO, io.StringIO, frozenset, bytearray)
    for name in dir(kind)
    if not name.startswith("_")
)
_LEAVES = frozenset(
    {ast.Constant, ast.Pass, ast.Break, ast.Continue, ast.Global, ast.Nonlocal, ast.Load, ast.Store, ast.Del}
    | set(ast.operator.__subclasses__()) | set(ast.cmpop.__subclasses__())
    | set(ast.boolop.__subclasses__()) | set(ast.unaryop.__subclasses__())
)  # fmt: skip
# Fields that hold names, numbers or leaves.
_PLAIN = frozenset("ctx op ops type_comment kind conversion id attr names level lineno simple is_async name module asname"
                   " rest kwd_attrs tag arg".split())  # fmt: skip
# Of each kind of syntax node the fields that can hold others, so that the walk never asks twice.
_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(name for name in kind._fields if name not in _PLAIN)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST) and kind not in _LEAVES
}  # fmt: skip
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_UNKNOWN = ""  # a local variable of which nothing is known


def parse_file(path: str, data: bytes | str) -> list[Node]:
    """The nodes of one file: the file, then its classes, functions and methods, nested ones included.

    data: the file's bytes; a string says why they could not be read. A file that cannot be parsed is one
    node of status `unparsed` with the reason, and no units.
    """
    name = path.rpartition("/")[2]
    if isinstance(data, str):
        return [Node(id=path, kind="file", name=name, path=path, status="unparsed", reason=data)]
    digest = hashlib.sha256(data).hexdigest()
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"{len(data):,} bytes, more than the {MOST_BYTES:,} that are read")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes: the repository's affair
            tree = ast.parse(data)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        lines = data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except SyntaxError as error:
        reason = f"line {error.lineno or 1}: not Python {_version()}: {error.msg}"
    except (RecursionError, MemoryError):
        reason = "nested too deep to read"
    except ValueError as error:
        reason = f"not Python: {error}"
    else:
        try:
            return _Walk(path, name, digest, lines).file(tree)
        except RecursionError:
            reason = "nested too deep to read"
    return [Node(id=path, kind="file", name=name, path=path, sha256=digest, status="unparsed", reason=_clean(reason))]


def foreign_file(path: str, language: str, data: bytes | str) -> Node:
    """The node of a code file in another language, which is kept but not read."""
    digest = "" if isinstance(data, str) else hashlib.sha256(data).hexdigest()
    reason = data if isinstance(data, str) else "not Python"
    return Node(id=path, kind="file", language=language, name=path.rpartition("/")[2], path=path, sha256=digest,
                status="unparsed", reason=reason)  # fmt: skip


class _Scope:
    """What is being filled in while the body of one file, class or function is walked."""

    __slots__ = ("aliases", "calls", "given", "in_class", "locals", "node", "parent", "properties", "seen")

    def __init__(self, node: Node, parent: _Scope | None, in_class: Node | None) -> None:
        self.node, self.parent, self.in_class = node, parent, in_class
        self.calls: set[str] = set()
        self.locals: dict[str, str] = {}  # of a function: what its variables hold, _UNKNOWN for not known
        self.given: list[str | None] = []  # what its return statements give
        self.seen: dict[str, int] = {}  # how often a name was defined here


class _Walk:
    def __init__(self, path: str, name: str, digest: str, lines: list[str]) -> None:
        self.path, self.lines = path, lines
        self.nodes = [Node(id=path, kind="file", name=name, path=path, sha256=digest)]
        self.imports: list[Import] = []

    def file(self, tree: ast.Module) -> list[Node]:
        node = self.nodes[0]
        scope = _Scope(node, None, None)
        node.doc = _doc(tree)
        node.span = [1, max(1, len(self.lines) - (not self.lines[-1]))]
        node.features, node.provenance = own_phrases(node)
        self.body(tree.body, scope, "")
        # Calls of built-ins are dropped, unless the module has a name of its own for one.
        own = {n.name for n in self.nodes[1:] if "." not in n.qualname} | set(node.names)
        own |= {i.alias or i.name or i.module.partition(".")[0] for i in self.imports}
        for one in self.nodes:
            one.uses = sorted(use for use in one.uses if use not in _BUILTINS or use in own)
        node.imports = self.imports
        return self.nodes

    # ------------------------------------------------------------ definitions

    def body(self, statements: list[ast.stmt], scope: _Scope, when: str) -> None:
        """Walk the statements of one scope, then the functions defined in it, which may see its variables."""
        inner: list[tuple[Any, Node, Node | None]] = []
        self.walk(statements, scope, when, inner)
        node = scope.node
        node.uses = sorted(filter(None, {_substituted(call, scope) for call in scope.calls}))
        if node.kind in ("function", "method"):
            if not node.returns and len(set(scope.given)) == 1 and scope.given[0]:
                node.returns = _substituted(scope.given[0], scope)
                if not node.returns.endswith("()") and node.returns != "self":
                    node.returns = ""
        else:
            node.names.update(scope.locals)
        for definition, child, in_class in inner:
            self.enter(definition, child, scope, in_class)
        node.names = dict(sorted(node.names.items()))

    def define(self, definition: Any, scope: _Scope) -> tuple[Any, Node, Node | None]:
        """The node of a class or function, made where it is met so that nodes keep the order of the file."""
        parent, name = scope.node, definition.name
        base = f"{parent.qualname}.{name}" if parent.qualname else name
        times = scope.seen[name] = scope.seen.get(name, 0) + 1
        qualname = base if times == 1 else f"{base}#{times}"
        is_class = isinstance(definition, ast.ClassDef)
        kind = "class" if is_class else "method" if parent.kind == "class" else "function"
        first = definition.decorator_list[0].lineno if definition.decorator_list else definition.lineno
        node = Node(
            decorators=[self.decorator(one) for one in definition.decorator_list],
            doc=_doc(definition),
            id=f"{self.path}:{qualname}",
            kind=kind,
            name=name,
            path=self.path,
            qualname=qualname,
            sha256=self.digest(first, definition.end_lineno, definition.col_offset),
            signature=self.signature(definition),
            span=[first, definition.end_lineno],
        )
        node.features, node.provenance = own_phrases(node)
        if kind == "class":
            bases = (one.value if isinstance(one, ast.Subscript) else one for one in definition.bases)  # `Base[T]`
            node.bases = [text for text in map(_chain, bases) if text]
        elif definition.returns is not None:
            node.returns = _annotated(definition.returns)
        self.nodes.append(node)
        return definition, node, node if kind == "class" else (parent if parent.kind == "class" else scope.in_class)

    def enter(self, definition: Any, node: Node, outer: _Scope, in_class: Node | None) -> None:
        scope = _Scope(node, outer, in_class)
        if node.kind == "class":
            self.body(definition.body, scope, "lazy" if outer.node.kind in ("function", "method") else "")
            return
        static = "staticmethod" in node.decorators
        known = scope.locals
        arguments = definition.args
        every = [*arguments.posonlyargs, *arguments.args]
        for at, argument in enumerate([*every, *arguments.kwonlyargs]):
            known[argument.arg] = _annotated(argument.annotation) if argument.annotation is not None else _UNKNOWN
            if at == 0 and node.kind == "method" and not static and every:
                known[argument.arg] = "cls" if "classmethod" in node.decorators or node.name == "__new__" else "self"
        for argument in (arguments.vararg, arguments.kwarg):
            if argument is not None:
                known[argument.arg] = _UNKNOWN
        # Within, a parameter that is also assigned to keeps what the annotation says: it was promised.
        self.body(definition.body, scope, "lazy")

    # ------------------------------------------------------------ the walk

    def walk(self, statements: list[Any], scope: _Scope, when: str, inner: list[tuple[Any, Node, Node | None]]) -> None:
        calls, function = scope.calls, scope.node.kind in ("function", "method")
        stack: list[Any] = statements[::-1]
        pop, fields_of = stack.pop, _FIELDS.get
        while stack:
            node = pop()
            kind = type(node)
            if kind is ast.Name:
                if function and type(node.ctx) is not ast.Load and node.id not in scope.locals:
                    scope.locals[node.id] = _UNKNOWN
                continue
            if kind in _LEAVES:
                continue
            if kind is ast.Call:
                function_called = node.func
                text = _chain(function_called)
                if text is None:
                    if type(function_called) is ast.Attribute:
                        if function_called.attr not in COMMON:
                            calls.add("?." + function_called.attr)
                        stack.append(function_called.value)
                    else:
                        stack.append(function_called)
                else:
                    calls.add(text)
                    inside = function_called
                    while type(inside) is ast.Attribute:
                        inside = inside.value
                    if type(inside) is ast.Call:
                        stack.append(inside)
                stack += node.args
                for keyword in node.keywords:
                    stack.append(keyword.value)
                continue
            if kind is ast.Attribute:
                # An attribute that is read may be a property; resolve.py keeps it only where it is one.
                text = _chain(node)
                if text is not None and type(node.ctx) is ast.Load:
                    calls.add("@" + text)
                inside = node.value
                while type(inside) is ast.Attribute:
                    inside = inside.value
                if type(inside) is not ast.Name:
                    stack.append(inside)
                continue
            if kind in _FUNCTIONS or kind is ast.ClassDef:
                found = self.define(node, scope)
                inner.append(found)
                if function:
                    scope.locals[node.name] = node.name  # found again as a unit of this function
                for decorator in node.decorator_list:
                    text = _chain(decorator.func if type(decorator) is ast.Call else decorator)
                    if text:
                        calls.add(text)
                    if type(decorator) is ast.Call:
                        stack += decorator.args
                        stack += [keyword.value for keyword in decorator.keywords]
                if kind is ast.ClassDef:
                    stack += node.bases
                    stack += [keyword.value for keyword in node.keywords]
                else:
                    stack += node.args.defaults
                    stack += [default for default in node.args.kw_defaults if default is not None]
                continue
            if kind is ast.Import or kind is ast.ImportFrom:
                self.imported(node, scope, when)
                continue
            if kind is ast.If and _is_type_checking(node.test):
                self.walk(node.body, scope, "typing", inner)
                stack += node.orelse[::-1]
                continue
            if kind is ast.Assign or kind is ast.AnnAssign or kind is ast.NamedExpr:
                self.assigned(node, kind, scope, function)
            elif kind is ast.AugAssign:
                if type(node.target) is ast.Name and node.target.id == "__all__" and scope.parent is None:
                    self.exported(node.value, more=True)
            elif kind is ast.Return and function:
                scope.given.append(_chain(node.value) if node.value is not None else "None")
            elif kind is ast.With or kind is ast.AsyncWith:
                for item in node.items:
                    if type(item.optional_vars) is ast.Name:
                        self.hold(item.optional_vars.id, _chain(item.context_expr), scope, function)
            elif kind is ast.ExceptHandler:
                if node.name and function:
                    scope.locals.setdefault(node.name, _UNKNOWN)
            elif kind is ast.Raise:
                text = _chain(node.exc) if node.exc is not None else None
                if text and not text.endswith("()"):
                    calls.add(text)  # raising a class makes an instance of it
            elif kind is ast.Lambda:
                if function:
                    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                        scope.locals.setdefault(argument.arg, _UNKNOWN)
                stack.append(node.body)
                stack += node.args.defaults
                continue
            elif kind is ast.Global or kind is ast.Nonlocal:
                continue
            for field in reversed(fields_of(kind, ())):  # None stands among the keys of a dict
                value = getattr(node, field, None)
                if value.__class__ is list:
                    stack += value[::-1]
                elif value is not None and field != "annotation":
                    stack.append(value)

    def assigned(self, node: Any, kind: type, scope: _Scope, function: bool) -> None:
        targets = node.targets if kind is ast.Assign else [node.target]
        value = node.value
        text = _chain(value) if value is not None else None
        if kind is ast.AnnAssign:
            text = _annotated(node.annotation) or text
        for target in targets:
            if type(target) is ast.Name:
                if target.id == "__all__" and scope.parent is None:
                    self.exported(value, more=False)
                self.hold(target.id, text, scope, function)
            elif type(target) is ast.Attribute and type(target.value) is ast.Name:
                owner = scope.in_class
                if function and owner is not None and text and scope.locals.get(target.value.id) == "self":
                    held = _substituted(text, scope)
                    if held and not held.startswith("?"):
                        before = owner.names.get(target.attr)
                        owner.names[target.attr] = held if before in (None, held) else ""
            elif not function and type(target) in (ast.Tuple, ast.List):
                for element in target.elts:
                    if type(element) is ast.Name:
                        self.hold(element.id, None, scope, function)

    def hold(self, name: str, text: str | None, scope: _Scope, function: bool) -> None:
        """Record that a variable holds an expression; two that differ make it unknown."""
        known = scope.locals
        if text == "None":
            return
        held = text or _UNKNOWN
        before = known.get(name)
        if before is None:
            known[name] = held
        elif before != held and not (function and before in ("self", "cls")):
            known[name] = _UNKNOWN

    def exported(self, value: Any, *, more: bool) -> None:
        node = self.nodes[0]
        try:
            names = ast.literal_eval(value)
        except (ValueError, TypeError):
            node.exports = None  # made at run time: every public name may be meant
            return
        if isinstance(names, (list, tuple, set)) and all(isinstance(name, str) for name in names):
            node.exports = sorted({*(node.exports or ()), *map(_clean, names)} if more else set(map(_clean, names)))

    def imported(self, node: Any, scope: _Scope, when: str) -> None:
        where = scope.node.qualname if scope.parent is not None else ""
        if isinstance(node, ast.Import):
            found = [Import(module=one.name, alias=one.asname or "", scope=where, when=when) for one in node.names]
        else:
            module = "." * node.level + (node.module or "")
            found = [
                Import(module=module, name=one.name, alias=one.asname or "", scope=where, when=when)
                for one in node.names
            ]
        self.imports += found
        if scope.node.kind in ("function", "method"):
            for one in found:  # found again among the imports of this scope
                name = one.alias or one.name or one.module.partition(".")[0]
                scope.locals[name] = name

    # ------------------------------------------------------------ text of a definition

    def signature(self, definition: Any) -> str:
        """The header as written, on one line; from the syntax tree where it holds comments or a body."""
        first, last = definition.lineno, definition.body[0].lineno
        decorated = getattr(definition.body[0], "decorator_list", None)
        if decorated:
            last = decorated[0].lineno
        if last > first:
            text = self.lines[first - 1]
            if last - first > 1 and not (text.rstrip().endswith(":") and text.count("(") == text.count(")")):
                text = "\n".join(self.lines[first - 1 : last - 1])
            text = text.strip()
            if text.endswith(":") and "#" not in text and text.count("(") == text.count(")"):
                if "\n" not in text:
                    return _clean(text[:-1])
                if _QUOTES.isdisjoint(text):  # blanks inside a string count
                    return _clean(_SPACES.sub(" ", text[:-1]).replace("( ", "(").replace(", )", ")"))
        body, docless = definition.body, [ast.Pass()]
        decorators, definition.decorator_list = definition.decorator_list, []
        definition.body = docless
        text = ast.unparse(definition).rpartition(":\n")[0]
        definition.body, definition.decorator_list = body, decorators
        return _clean(text if "\n" not in text else " ".join(text.split()))

    def decorator(self, node: Any) -> str:
        """As written, where it is on one line; from the syntax tree where it is not."""
        if type(node) is ast.Name or node.lineno != node.end_lineno:
            return _clean(node.id if type(node) is ast.Name else ast.unparse(node))
        line = self.lines[node.lineno - 1]
        if line.isascii():
            return line[node.col_offset : node.end_col_offset]
        return _clean(line.encode("utf-8", "replace")[node.col_offset : node.end_col_offset].decode("utf-8", "replace"))

    def digest(self, first: int, last: int, column: int) -> str:
        """sha256 of the unit's source without its indentation and trailing blanks: moving it leaves it alike."""
        lines = self.lines[first - 1 : last]
        if column:
            blank = lines[0][:column]  # a line that does not begin with it lies inside a string or brackets
            lines = [line[column:] if line.startswith(blank) else line for line in lines]
        return hashlib.sha256("\n".join([line.rstrip() for line in lines]).encode("utf-8", "replace")).hexdigest()


_SPACES = re.compile(r"\s+")
_QUOTES = frozenset("'\"\\")


def _chain(node: Any) -> str | None:
    """A name, attributes and calls as text (`a.b().c`); None for anything else."""
    kind = type(node)
    if kind is ast.Name:
        return node.id
    if kind is ast.Attribute:
        inside = _chain(node.value)
        return None if inside is None else f"{inside}.{node.attr}"
    if kind is ast.Call:
        inside = _chain(node.func)
        return None if inside is None else inside + "()"
    if kind is ast.Await:
        return _chain(node.value)
    return None


def _annotated(node: Any) -> str:
    """What a value of this annotation is, as an expression: `Graph()` for Graph, Graph | None and "Graph"."""
    kind = type(node)
    if kind is ast.Constant and isinstance(node.value, str):
        try:
            return _annotated(ast.parse(node.value.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ""
    if kind is ast.BinOp:
        sides = [side for side in (node.left, node.right) if not (type(side) is ast.Constant and side.value is None)]
        return _annotated(sides[0]) if len(sides) == 1 else ""
    if kind is ast.Subscript:
        outer = (_chain(node.value) or "").rpartition(".")[2]
        return _annotated(node.slice) if outer in ("Optional", "Final", "ClassVar", "Annotated", "Awaitable") else ""
    text = _chain(node)
    if text == "Self":
        return "self"
    return "" if text is None or text in _BUILTINS or text.endswith(")") or text == "Any" else text + "()"


def _substituted(text: str, scope: _Scope) -> str:
    """A call as seen from outside its function: its local variables replaced by what they hold."""
    mark = ""
    if text.startswith("@"):
        mark, text = "@", text[1:]
    if text.startswith("?"):
        return mark + text
    if text.startswith("super()"):
        return mark + text
    for _ in range(8):  # a variable may hold another's expression
        head, dot, rest = text.partition(".")
        base = head.rstrip("()")
        calls = head[len(base) :]
        at: _Scope | None = scope
        held = None
        while at is not None:
            if at.node.kind in ("function", "method") and base in at.locals:
                held = at.locals[base]
                break
            at = at.parent
        if held is None or held == base:
            return mark + text
        if held == _UNKNOWN:
            last = rest.rpartition(".")[2] if dot else ""
            if not last or mark or last in COMMON or last.endswith(")"):
                return ""
            return "?." + last
        text = held + calls + dot + rest
        if held.startswith(("self", "cls", "super()")) and held.partition(".")[0] in ("self", "cls", "super()"):
            return mark + text
        scope = at or scope
    return ""


def _doc(node: Any) -> str:
    """First paragraph of the docstring, on one line."""
    if not node.body:
        return ""
    first = node.body[0]
    if type(first) is not ast.Expr or type(first.value) is not ast.Constant or type(first.value.value) is not str:
        return ""
    text = first.value.value.strip()
    return _clean(" ".join(text.split("\n\n", 1)[0].split()))


def _clean(text: str) -> str:
    """Lone surrogates, which a string literal may hold, have no UTF-8 form."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _is_type_checking(test: Any) -> bool:
    return (_chain(test) or "").rpartition(".")[2] == "TYPE_CHECKING"


def _version() -> str:
    import sys

    return f"{sys.version_info[0]}.{sys.version_info[1]}"
