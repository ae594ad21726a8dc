"""Source text with its bodies out, and with units put in: what a skeleton's files are made by.

Sits below implementation.py (which stubs what a model designed), leaf.py (which puts an accepted unit in) and
rebuild.py (which strips a real package). Everything is surgery on the text by the positions of the syntax tree;
nothing is unparsed, so whatever is not a body stays byte for byte. Units are named as parse.py names them: `A.f`,
`A.f#2` for the second definition of a name in one scope, in the order of the file.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

STUB = "raise NotImplementedError"
_BREAK = re.compile(r"\r\n|\r|\n")
_INDENT = re.compile(r"[ \t\f]*")
_REST = re.compile(r"[ \t\f]*(?:#[^\r\n]*)?(?=[\r\n]|\Z)")  # nothing but a comment to the end of the line
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")  # in the order of the source


class Unit(NamedTuple):
    """A class, function or method of a file. start, end: offsets of its lines in the text, the first one's indentation
    included and the last one's line break not; outer: qualname of what it stands in; inside: of a function or class
    that stands inside a function, at any depth."""

    qualname: str
    definition: Any
    start: int
    end: int
    outer: str
    inside: bool

    @property
    def is_leaf(self) -> bool:
        """A function or method that does not stand inside another."""
        return isinstance(self.definition, _FUNCTIONS) and not self.inside


def units_of(source: str) -> dict[str, Unit]:
    """The units of a file by qualname, in the order of the file. Raises ValueError where it is no Python."""
    text = _Text(source)
    return {unit.qualname: unit for unit in text.units()}


def bodies_of(source: str) -> dict[str, str]:
    """The text of each unit as it stands, decorators and the indentation of its first line included."""
    return {unit.qualname: source[unit.start : unit.end] for unit in units_of(source).values()}


def stubs_of(source: str, keep: Collection[str] = (), stub: str | Callable[[str], str] = STUB) -> str:
    """The file with the body of every function and method replaced by its docstring and `raise NotImplementedError`.

    Functions inside functions go with the one they stand in. What stands before the first statement of a body
    (comments, type comments) stays, as a docstring does: it says what the function is.

    keep: qualnames of functions that keep their bodies; one inside a function keeps the outermost. stub: a simple
    statement in place of the default, or what gives it for a qualname. Raises ValueError where `source` is no Python.
    """
    text = _Text(source)
    kept = set(keep)
    leaves = [unit for unit in text.units() if unit.is_leaf]
    edits = []
    for unit in leaves:
        if unit.qualname in kept or any(name.startswith(unit.qualname + ".") for name in kept):
            continue
        words = stub if isinstance(stub, str) else stub(unit.qualname)
        if (edit := text.stubbed(unit, words)) is not None:
            edits.append(edit)
    return _edited(source, edits)


def with_units(source: str, units: Mapping[str, str]) -> str:
    """The file with each of the named units replaced by a given text.

    A text with another indentation than the unit has there is moved to it; lines inside strings other than docstrings
    are left as they are, so that no value changes. Raises ValueError naming a qualname that is not there, one inside
    another that is also given, or a text that is not one definition of that name.
    """
    known = units_of(source)
    edits: list[tuple[int, int, str]] = []
    for qualname, text in units.items():
        if qualname not in known:
            raise ValueError(f"{qualname}: no such class or function in the file")
        unit = known[qualname]
        edits.append((unit.start, unit.end, fitted(text, qualname, source[unit.start : unit.end])))
    edits.sort()
    for (_, end, _), (start, _, _) in itertools.pairwise(edits):
        if start < end:
            inner = next(name for name, unit in known.items() if unit.start == start and name in units)
            raise ValueError(f"{inner}: stands inside another unit that is given as well; give one of them")
    return _edited(source, edits)


def is_empty(unit: Unit) -> bool:
    """A function with nothing to write: its body is a docstring, `...` or `raise NotImplementedError` alone."""
    body = unit.definition.body[_has_doc(unit.definition) :]
    return len(body) == 0 or (len(body) == 1 and (_is_dots(body[0]) or raises_not_implemented(body[0])))


def decoded(data: bytes) -> tuple[str, str]:
    """(text, encoding) of a Python file by its BOM or PEP 263 line; `text.encode(encoding)` gives the bytes again.

    Raises ValueError where it does not, or where the encoding is not known.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
        same = text.encode(encoding) == data
    except (SyntaxError, LookupError) as error:
        raise ValueError(str(error)) from None
    if not same:
        raise ValueError(f"its bytes in {encoding} cannot be had back from its text")
    return text, encoding


# ------------------------------------------------------------ positions


class _Text:
    """A file's text, its syntax tree, and where in the text a position of the tree is."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = _tree(source)
        self.starts = [0, *(found.end() for found in _BREAK.finditer(source))]

    def line(self, number: int) -> str:
        """Of a 1-based number, its line break included."""
        return self.source[self.starts[number - 1] : self.starts[number] if number < len(self.starts) else None]

    def at(self, number: int, column: int) -> int:
        """The offset of a place that the tree names by line and by bytes in UTF-8."""
        line = self.line(number)
        if not line.isascii():
            column = len(line.encode()[:column].decode())
        return self.starts[number - 1] + column

    def line_end(self, number: int | None) -> int:
        assert number is not None
        found = _BREAK.search(self.source, self.starts[number - 1])
        return found.start() if found else len(self.source)

    def units(self) -> Iterator[Unit]:
        yield from self._within(self.tree.body, "", {}, inside=False)

    def _within(self, statements: Sequence[Any], outer: str, seen: dict[str, int], *, inside: bool) -> Iterator[Unit]:
        """Those of a scope. seen: how often a name was defined in it so far; parse.py counts likewise."""
        for one in statements:
            if not isinstance(one, (*_FUNCTIONS, ast.ClassDef)):
                for block in _BLOCKS:
                    yield from self._within(getattr(one, block, ()), outer, seen, inside=inside)
                continue
            times = seen[one.name] = seen.get(one.name, 0) + 1
            qualname = (f"{outer}." if outer else "") + one.name + (f"#{times}" if times > 1 else "")
            first = self.first_line(one)
            yield Unit(qualname, one, self.starts[first - 1], self.line_end(one.end_lineno), outer, inside)
            within = inside or isinstance(one, _FUNCTIONS)
            yield from self._within(one.body, qualname, {}, inside=within)

    def first_line(self, definition: Any) -> int:
        """Decorators included. One in brackets begins further down than its `@`."""
        if not definition.decorator_list:
            return int(definition.lineno)
        number = definition.decorator_list[0].lineno
        while not self.line(number).lstrip(" \t\f").startswith("@"):
            number -= 1
        return int(number)

    def colon(self, definition: Any) -> int:
        """Offset of the colon that ends the header: the first after its last expression, comments aside."""
        arguments = definition.args
        parts = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        parts += [
            *arguments.defaults,
            *arguments.kw_defaults,
            definition.returns,
            *getattr(definition, "type_params", ()),
        ]
        ends = [(part.end_lineno, part.end_col_offset) for part in parts if part is not None]
        place = self.at(*max(ends, default=(definition.lineno, definition.col_offset)))
        while (letter := self.source[place]) != ":":
            place = self._past(place) if letter == "#" else place + 1
        return place

    def _past(self, place: int) -> int:
        found = _BREAK.search(self.source, place)
        assert found is not None  # a header never ends the file
        return found.end()

    def stubbed(self, unit: Unit, words: str) -> tuple[int, int, str] | None:
        """(start, end, text) of the edit that empties a function; None where it says the same already."""
        body = unit.definition.body
        documented = _has_doc(unit.definition)
        if words == STUB and len(body) == documented + 1 and ast.unparse(body[-1]) == STUB:
            return None
        if not documented:
            return self._begin(body[0]), unit.end, words
        end = self.at(body[0].end_lineno, body[0].end_col_offset)
        colon = self.colon(unit.definition)
        after = _REST.match(self.source, colon + 1)
        if after is None:  # the suite stands on the header's own line
            return end, unit.end, "; " + words
        rest = _REST.match(self.source, end)
        if rest is not None:
            end = rest.end()
        return end, max(end, unit.end), self._newline(after.end()) + self._indent(after.end()) + words

    def _begin(self, statement: Any) -> int:
        if getattr(statement, "decorator_list", None):
            start = self.starts[self.first_line(statement) - 1]
            return start + self.source[start : start + 200].index("@")
        return self.at(statement.lineno, statement.col_offset)

    def _newline(self, place: int) -> str:
        found = _BREAK.match(self.source, place)
        return found.group() if found else "\n"

    def _indent(self, place: int) -> str:
        """Of the block that begins on the lines after `place`."""
        while True:
            found = _BREAK.match(self.source, place)
            assert found is not None  # a block has a statement
            rest = _REST.match(self.source, found.end())
            if rest is None:
                blank = _INDENT.match(self.source, found.end())
                return blank.group() if blank else ""
            place = rest.end()


def _tree(source: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes: the file's affair
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno or 1}: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("nested too deep to read") from None


def _edited(source: str, edits: Sequence[tuple[int, int, str]]) -> str:
    parts, place = [], 0
    for start, end, text in sorted(edits):
        parts += [source[place:start], text]
        place = end
    return "".join([*parts, source[place:]])


def _has_doc(definition: Any) -> bool:
    return bool(definition.body) and _is_doc(definition.body[0])


def _is_doc(statement: Any) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _is_dots(statement: Any) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is Ellipsis
    )


def raises_not_implemented(statement: Any) -> bool:
    """`raise NotImplementedError`, called or not."""
    if not isinstance(statement, ast.Raise):
        return False
    raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


# ------------------------------------------------------------ a given text, fitted in


def fitted(text: str, qualname: str, there: str) -> str:
    """A unit's text in the place of `there` (a text, or blanks alone), moved to its indentation and with its line breaks.
    Lines inside strings other than docstrings stay as they are. Raises ValueError for what is no one definition."""
    text = text.rstrip("\r\n")
    lead = re.match(r"(?:[ \t\f]*(?:\r\n|\r|\n))*", text)
    text = text[lead.end() :] if lead else text
    blank, wanted = _INDENT.match(text), _INDENT.match(there)
    have, indent = blank.group() if blank else "", wanted.group() if wanted else ""
    name = qualname.rpartition(".")[2].partition("#")[0]
    head = "if 1:\n" if have else ""
    try:
        tree = _tree(head + text + "\n\n")  # it may end in a backslash
    except ValueError as error:
        raise ValueError(f"{qualname}: the text given for it is no Python: {error}") from None
    body: list[Any] = tree.body
    if have and len(body) == 1 and not body[0].orelse:
        body = body[0].body
    if len(body) != 1 or not isinstance(body[0], (*_FUNCTIONS, ast.ClassDef)) or body[0].name != name:
        raise ValueError(f"{qualname}: expected the text of one definition of {name}")
    if have != indent:
        text = _moved(text, have, indent, _literal_lines(text, tree, bool(head)))
    breaks = set(_BREAK.findall(there))
    if breaks == {"\r\n"} and "\r" not in text:
        text = text.replace("\n", "\r\n")
    return text


def _moved(text: str, have: str, indent: str, literal: Collection[int]) -> str:
    parts = re.split(r"(\r\n|\r|\n)", text)
    for at in range(0, len(parts), 2):
        line = parts[at]
        if at // 2 + 1 not in literal and line.startswith(have) and line.strip():
            parts[at] = indent + line[len(have) :]
    return "".join(parts)


def _literal_lines(text: str, tree: ast.Module, shifted: bool) -> set[int]:
    """1-based lines of a text that begin inside a string which is no docstring."""
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and _has_doc(node):
            docs.add(node.body[0].lineno - shifted)
    found: set[int] = set()
    opened: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(_BREAK.sub("\n", text)).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":
            opened.append(token.start[0])
        elif kind == "FSTRING_END":
            found.update(range(opened.pop() + 1, token.end[0] + 1))
        elif kind == "STRING" and token.start[0] not in docs:
            found.update(range(token.start[0] + 1, token.end[0] + 1))
    return found
