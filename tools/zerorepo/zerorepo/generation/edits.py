"""A model's answer to an edit of one leaf, and the edit to a file's text.

The edit tools of arXiv 2509.16198 app. C.2 as one form: the answer holds the function, or its class with the one
method in it, and beside it imports, new module-level names and private helpers. Whatever else an answer changes is
refused with a reason that the model can act on; the header of the leaf, which others rely on, stays.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import msgspec

from zerorepo.generation.skeleton import Unit, fitted, units_of, with_units

_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*([\w+.-]*)[^`]*")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as Python counts lines; str.splitlines knows more breaks
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Patch(msgspec.Struct, frozen=True):
    """unit: the leaf's new source as it stood in the answer. imports, names: statements for the head of the file. helpers:
    name and source of private functions or classes (beside a function) or methods (in the class of a method)."""

    unit: str
    imports: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    helpers: tuple[tuple[str, str], ...] = ()


def code_in(text: str) -> str:
    """The Python of an answer: its fenced blocks, or all of it where it has none. Raises ValueError."""
    blocks = _blocks(text.replace("\r\n", "\n"))
    code = "\n\n".join(blocks) if blocks else text
    try:
        if not ast.parse(code).body:
            raise ValueError("no code in it; expected one Python block")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"its code does not parse: {where}{reason}" if blocks else "no Python block in it") from None
    return code


def _blocks(text: str) -> list[str]:
    """The bodies of its fenced blocks of Python, fences within a body's lines left alone. Raises ValueError where one is not
    closed."""
    found: list[str] = []
    body: list[str] = []
    mark = language = ""
    for line in text.split("\n"):
        if mark and line.rstrip() == mark:
            if language.lower() in ("", "python", "py", "python3"):
                found.append("\n".join([*body, ""]))
            mark, body = "", []
        elif mark:
            body.append(line)
        elif opened := _FENCE.fullmatch(line):
            mark, language = opened.groups()
    if mark:
        raise ValueError("a code block in it is not closed")
    return found


def patch_of(answer: str, source: str, qualname: str) -> Patch:
    """What an answer makes of the leaf `qualname` of a file's text. Raises ValueError saying what is wrong with it."""
    code = code_in(answer)
    units = units_of(source)
    stub = _function(units, qualname)
    outer = qualname.rpartition(".")[0]
    module = ast.parse(source).body
    taken, imported = _names_of(module), _imports_of(module)
    there = _names_of(units[outer].definition.body) if outer else set()
    imports: list[str] = []
    names: list[str] = []
    helpers: list[tuple[str, str]] = []
    unit: tuple[Function, str] | None = None
    lines = _LINE.findall(code)
    for statement in ast.parse(code).body:
        text = _text(lines, statement)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for name, origin in _imports_of([statement]).items():
                if name == "*" or name in taken or imported.get(name, origin) != origin:
                    raise ValueError(f"`{text.strip()}` binds names that the file has, or may have, already; import it under a new one")  # fmt: skip
            imports.append(text)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            if not _only_names(statement):
                raise ValueError(
                    f"it holds {_say(statement)}, which changes what exists; only new names may be assigned"
                )
            clash = _targets(statement) & (taken | imported.keys())
            if clash:
                raise ValueError(f"it assigns {sorted(clash)[0]} anew, which the file has already")
            names.append(text)
        elif isinstance(statement, ast.ClassDef) and outer and statement.name == re.split(r"[.#]", outer)[0]:
            holder = _class(statement, outer.split(".")[1:])
            if holder is None:
                raise ValueError(f"its class {statement.name} does not hold {outer}")
            for member in holder.body:
                told = _text(lines, member)
                if _is(member, stub):
                    unit = member, told
                elif isinstance(member, _FUNCTIONS) and member.name not in there:
                    if not member.name.startswith("_"):
                        raise ValueError(f"it adds the method {member.name}; a helper's name begins with an underscore")
                    helpers.append((member.name, told))
                elif not _known(member, there):
                    raise ValueError(f"its class changes {_say(member)}; only {qualname} may be written")
        elif not outer and _is(statement, stub):
            unit = statement, text
        elif isinstance(statement, (*_FUNCTIONS, ast.ClassDef)) and statement.name not in taken and not outer:
            if not statement.name.startswith("_"):
                raise ValueError(f"it adds {statement.name}; a helper's name begins with an underscore")
            helpers.append((statement.name, text))
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring of the module
        else:
            raise ValueError(f"it holds {_say(statement)}; expected {qualname}, imports, new names and helpers alone")
    if unit is None:
        raise ValueError(f"{qualname} is missing from it")
    _same_header(stub, unit[0])
    if ast.dump(unit[0]) == ast.dump(stub):
        raise ValueError(f"{qualname} is still a stub in it")
    return Patch(unit[1], tuple(imports), tuple(names), tuple(helpers))


def apply(source: str, qualname: str, patch: Patch) -> str:
    """A file's text with the patch in it. Imports the file has are not added again."""
    text = with_units(source, {qualname: patch.unit})
    outer = qualname.rpartition(".")[0]
    for name, helper in patch.helpers:
        text = _beside(text, qualname, name, helper, inside=bool(outer))
    if not patch.imports and not patch.names:
        return text
    present = {ast.dump(one) for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Import | ast.ImportFrom)}
    fresh = [one for one in dict.fromkeys(patch.imports) if ast.dump(ast.parse(one).body[0]) not in present]
    return _at_head(text, fresh, list(patch.names))


# ------------------------------------------------------------ reading


def _text(lines: Sequence[str], statement: ast.stmt) -> str:
    """A statement's lines, decorators included, as they stand."""
    first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", []))])
    return "".join(lines[first - 1 : statement.end_lineno]).rstrip() + "\n"


def _function(units: Mapping[str, Unit], qualname: str) -> Function:
    found = units[qualname].definition if qualname in units else None
    if not isinstance(found, _FUNCTIONS):
        raise ValueError(f"{qualname} is no function of the file")
    return found


def _class(statement: ast.ClassDef, inner: list[str]) -> ast.ClassDef | None:
    for part in inner:
        name = part.partition("#")[0]
        below = next((one for one in statement.body if isinstance(one, ast.ClassDef) and one.name == name), None)
        if below is None:
            return None
        statement = below
    return statement


def _names_of(body: list[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for one in body:
        if isinstance(one, (*_FUNCTIONS, ast.ClassDef)):
            found.add(one.name)
        elif isinstance(one, ast.Assign | ast.AnnAssign):
            found |= _targets(one)
        elif isinstance(one, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                found |= _names_of(getattr(one, field, []))
    return found


def _imports_of(body: list[ast.stmt]) -> dict[str, str]:
    """Names that a module's imports bind, and of what."""
    found: dict[str, str] = {}
    for one in body:
        if isinstance(one, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0] for alias in one.names}  # fmt: skip
        elif isinstance(one, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{'.' * one.level}{one.module or ''}:{alias.name}" for alias in one.names}  # fmt: skip
        elif isinstance(one, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                found |= _imports_of(getattr(one, field, []))
    return found


def _only_names(statement: ast.Assign | ast.AnnAssign) -> bool:
    targets: list[Any] = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    allowed = (ast.Name, ast.Tuple, ast.List, ast.Starred, ast.expr_context)
    return all(isinstance(one, allowed) for target in targets for one in ast.walk(target))


def _targets(statement: ast.Assign | ast.AnnAssign) -> set[str]:
    targets: list[Any] = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}


def _is(statement: ast.stmt, stub: Function) -> TypeGuard[Function]:
    """Whether a definition is the leaf: of its name, and of its decorators where a property and its setter share one."""
    if not isinstance(statement, _FUNCTIONS) or statement.name != stub.name:
        return False
    special = {"setter", "deleter", "getter", "overload"}
    marks = [
        {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in each.decorator_list}
        for each in (statement, stub)
    ]
    return marks[0] & special == marks[1] & special


def _known(member: ast.stmt, there: set[str]) -> bool:
    """What of a class may stand in an answer for context: its docstring, and members that it has, as stubs."""
    if isinstance(member, ast.Expr | ast.Pass):
        return True
    if isinstance(member, _FUNCTIONS):
        return member.name in there and _only_raises(member)
    return isinstance(member, ast.Assign | ast.AnnAssign) and _targets(member) <= there


def _only_raises(definition: ast.stmt) -> bool:
    """A stub: a docstring, `...`, `pass` or `raise NotImplementedError`, and nothing else."""
    body = getattr(definition, "body", [])
    return all(
        isinstance(one, ast.Pass)
        or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        or (isinstance(one, ast.Raise) and one.exc is not None and "NotImplementedError" in ast.dump(one.exc))
        for one in body
    )


def _same_header(stub: Function, one: Function) -> None:
    for what, mine, theirs in (
        ("decorators", [ast.unparse(x) for x in stub.decorator_list], [ast.unparse(x) for x in one.decorator_list]),
        ("parameters", ast.unparse(stub.args), ast.unparse(one.args)),
        ("return annotation", stub.returns and ast.unparse(stub.returns), one.returns and ast.unparse(one.returns)),
        ("kind", type(stub).__name__, type(one).__name__),
    ):
        if mine != theirs:
            raise ValueError(f"the {what} of {stub.name} must stay {mine!r}; it has {theirs!r}")


def _say(statement: ast.stmt) -> str:
    name = getattr(statement, "name", "")
    return (
        f"{name} ({type(statement).__name__})"
        if name
        else f"a statement ({ast.unparse(statement).splitlines()[0][:60]!r})"
    )


# ------------------------------------------------------------ writing


def _beside(source: str, qualname: str, name: str, helper: str, *, inside: bool) -> str:
    """The helper's text before the leaf's own lines."""
    at = units_of(source)[qualname].start
    margin = re.match(r"[ \t]*", source[at:])
    told = (margin[0] if margin else "") + fitted(helper, name, source[at:]).lstrip(" \t")
    return source[:at] + told + ("\n\n" if inside else "\n\n\n") + source[at:]


def _at_head(source: str, imports: list[str], names: list[str]) -> str:
    """Imports after those there are, `__future__` first of all; names after the imports."""
    if not imports and not names:
        return source
    lines = _LINE.findall(source)
    body = ast.parse(source).body
    at = 0
    future = 0
    for one in body:
        is_doc = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and one is body[0]
        if not is_doc and not isinstance(one, ast.Import | ast.ImportFrom):
            break
        at = one.end_lineno or at
        if is_doc or (isinstance(one, ast.ImportFrom) and one.module == "__future__"):
            future = at
    if at == 0:  # after a first comment, which may name an encoding or an interpreter
        at = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
        future = at
    early = [one for one in imports if one.startswith("from __future__")]
    late = [one for one in imports if not one.startswith("from __future__")]
    head, middle, tail = lines[:future], lines[future:at], lines[at:]
    if head and not head[-1].endswith("\n"):
        head[-1] += "\n"
    if middle and not middle[-1].endswith("\n"):
        middle[-1] += "\n"
    spaced = ["\n", *names] if names else []
    return "".join([*head, *early, *middle, *late, *spaced, *tail])
