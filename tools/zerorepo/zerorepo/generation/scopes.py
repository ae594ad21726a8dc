"""Which names a statement binds, and which it reads or calls when the module is imported.

For interfaces.py, which must know before anything runs whether a file of stubs can be imported. Annotations are not
read (every file of a design has `from __future__ import annotations`), bodies of functions and lambdas neither.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Reads(NamedTuple):
    """names: read from the module; calls: (name, attribute or '') of what is called, decorators included; bases: names
    a class inherits from."""

    names: frozenset[str]
    calls: frozenset[tuple[str, str]]
    bases: tuple[str, ...]


def binds_of(statement: Any) -> tuple[str, ...]:
    """The module-level names that a module-level statement binds, in order."""
    found: dict[str, None] = {}
    stack: list[Any] = [statement]
    while stack:
        node = stack.pop()
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            found[node.name] = None
            continue
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            found.update({one.target.id: None for one in ast.walk(node) if isinstance(one, ast.NamedExpr)})
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = None
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update({one.asname or one.name.partition(".")[0]: None for one in node.names})
        elif isinstance(node, ast.AnnAssign) and node.value is None:
            continue  # an annotation alone binds nothing
        stack += reversed(list(ast.iter_child_nodes(node)))
    return tuple(found)


def reads_of(statement: Any) -> Reads:
    """What a module-level statement reads from its module when it runs."""
    walk = _Walk()
    walk.visit(statement, frozenset())
    bases: tuple[str, ...] = ()
    if isinstance(statement, ast.ClassDef):
        bases = tuple(base for one in statement.bases if (base := root_of(one)[0]))
    return Reads(frozenset(walk.names), frozenset(walk.calls), bases)


class _Walk:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.calls: set[tuple[str, str]] = set()

    def visit(self, node: Any, local: frozenset[str]) -> None:
        """local: names bound nearer than the module."""
        if isinstance(node, _FUNCTIONS):
            for one in node.decorator_list:
                self.called(one, local)
                self.visit(one, local)
            self.defaults(node.args, local)
        elif isinstance(node, ast.Lambda):
            self.defaults(node.args, local)
        elif isinstance(node, ast.ClassDef):
            for one in node.decorator_list:
                self.called(one, local)
                self.visit(one, local)
            for one in node.bases:
                self.visit(one, local)
            for keyword in node.keywords:
                if keyword.arg == "metaclass":
                    self.called(keyword.value, local)
                self.visit(keyword.value, local)
            inner = local
            for statement in node.body:  # a name read before the class binds it is the module's
                self.visit(statement, inner)
                inner |= frozenset(binds_of(statement))
        elif isinstance(node, _COMPREHENSIONS):
            inner = local
            for generator in node.generators:
                self.visit(generator.iter, inner)
                inner |= frozenset(binds_of(generator.target))
                for one in generator.ifs:
                    self.visit(one, inner)
            for part in (getattr(node, name) for name in ("elt", "key", "value") if hasattr(node, name)):
                self.visit(part, inner)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.visit(node.value, local)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load) and node.id not in local:
                self.names.add(node.id)
        elif isinstance(node, ast.AugAssign):
            if isinstance(node.target, ast.Name) and node.target.id not in local:
                self.names.add(node.target.id)
            for child in ast.iter_child_nodes(node):
                self.visit(child, local)
        else:
            if isinstance(node, ast.Call):
                self.called(node.func, local)
            for child in ast.iter_child_nodes(node):
                self.visit(child, local)

    def defaults(self, arguments: ast.arguments, local: frozenset[str]) -> None:
        for one in (*arguments.defaults, *arguments.kw_defaults):
            if one is not None:
                self.visit(one, local)

    def called(self, function: Any, local: frozenset[str]) -> None:
        name, attribute = root_of(function)
        if name and name not in local:
            self.calls.add((name, attribute))


def root_of(expression: Any) -> tuple[str, str]:
    """(first name, the attributes after it) of `a.b.c`; ('', '') of what begins otherwise. A subscript is seen through."""
    parts: list[str] = []
    while isinstance(expression, (ast.Attribute, ast.Subscript, ast.Call)):
        if isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
        expression = expression.func if isinstance(expression, ast.Call) else expression.value
    return (expression.id, ".".join(reversed(parts))) if isinstance(expression, ast.Name) else ("", "")
