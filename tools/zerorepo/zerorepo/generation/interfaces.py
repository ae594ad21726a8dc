"""The interfaces of a design: what a model wrote for a file, judged and put together to a file of stubs.

Step 5, 7 and 8 of stage B (arXiv 2509.16198 §2.3): base classes, interfaces file by file, units in an order that
their task batches say. Code is data here: it is parsed and compiled, never run, and of every function only header and
docstring stay (skeleton.stubs_of). What it may name is known: the standard library, what is installed, and what the
design has upstream; so a file of stubs can be imported, and no two files import each other in a circle.
"""

from __future__ import annotations

import ast
import copy
import itertools
import re
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from zerorepo.encode import encode
from zerorepo.features import words_of
from zerorepo.generation.layout import MOST_NAMED, short
from zerorepo.generation.order import lexicographic
from zerorepo.generation.scopes import Reads, binds_of, reads_of
from zerorepo.generation.skeleton import stubs_of
from zerorepo.lexical import stem, tokens
from zerorepo.sources import Held
from zerorepo.validate import problems

_WORDS = re.compile(r"\w+")
LONGEST = 100_000  # characters of the code of one interface
MOST_LINE = 100  # letters, of what is written here; code of a model stays as it is
HEAD = "from __future__ import annotations"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_UNITS = (*FUNCTIONS, ast.ClassDef)
MADE = ("__init__", "__new__", "__post_init__", "__call__")


class Thing(NamedTuple):
    """What a module-level name of the design is at import time. kind: function, class, value or module.

    runs: calling it runs a stub; hooks: so does inheriting from it.
    """

    kind: str
    runs: bool = False
    hooks: bool = False


class Piece(NamedTuple):
    """A module-level statement other than an import. kind: unit, or other."""

    kind: str
    text: str
    node: Any
    binds: tuple[str, ...]
    reads: Reads


class Item(NamedTuple):
    """One interface as parsed. imports: the statements that bind one name each; typing: blocks for the type checker."""

    features: list[str]
    imports: list[Any]
    typing: list[str]
    pieces: list[Piece]


class Source:
    """A designed file while its interfaces come in. units: leaf feature to qualname."""

    def __init__(self, path: str, area: str, doc: str) -> None:
        self.path, self.area, self.doc = path, area, doc
        self.units: dict[str, str] = {}
        self.imports: list[Any] = []
        self.typing: list[str] = []
        self.pieces: list[Piece] = []
        self.things: dict[str, Thing] = {}
        self.batches: list[list[str]] = []
        self.outlined = (0, "")  # of how many pieces, and their outline: every file after it reads it

    @property
    def names(self) -> list[str]:
        """Its top-level functions and classes, the keys of its task batches, what they need first."""
        return [self.pieces[at].node.name for at in self._order() if self.pieces[at].kind == "unit"]

    def kept(self) -> Source:
        """As it stands, to go back to."""
        found = copy.copy(self)
        found.imports, found.typing, found.pieces = [*self.imports], [*self.typing], [*self.pieces]
        return found

    def needs(self) -> dict[int, set[int]]:
        """Piece to the pieces that must stand before it: they bind what it reads when the file is imported."""
        return needs_of(self.pieces)

    def _order(self) -> list[int]:
        place = {name: at for at, name in enumerate(name for batch in self.batches for name in batch)}
        return lexicographic(self.needs(), lambda at: (
            self.pieces[at].kind == "unit", place.get(self.pieces[at].node.name, at) if self.pieces[at].kind == "unit" else at
        ))  # fmt: skip

    def render(self) -> str:
        """The file: docstring, imports, then units in the order of the batches, bodies out."""
        order = self._order()
        parts = [f'"""{_quoted(self.doc)}"""', HEAD]
        if self.imports:
            parts.append(_import_block(self.imports))
        parts += self.typing
        text = "\n\n".join(parts)
        before = "other"
        for at in order:
            piece = self.pieces[at]
            text += ("\n\n\n" if "unit" in (before, piece.kind) else "\n\n" if at == order[0] else "\n") + piece.text
            before = piece.kind
        return stubs_of(text + "\n")


# ------------------------------------------------------------ one answer


def parsed(code: Any, features: list[str]) -> Item:
    """Raises ValueError where the code is no set of documented definitions with their imports and constants."""
    if not isinstance(code, str) or not code.strip():
        raise ValueError("no code")
    if len(code) > LONGEST:
        raise ValueError(f"{len(code):,} characters of code; at most {LONGEST:,}")
    code = textwrap.dedent(code).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    if code.strip().startswith("```"):
        code = code.strip().split("\n", 1)[-1].rsplit("```", 1)[0]
    tree = _tree(code)
    lines = code.split("\n")
    own_lines = all((one.end_lineno or 0) < other.lineno for one, other in itertools.pairwise(tree.body))
    item = Item(features, [], [], [])
    end = 0
    for one in tree.body:
        start, end_line = end, one.end_lineno or one.lineno
        end = end_line
        if _is_text(one) or isinstance(one, ast.Pass):
            continue
        if isinstance(one, (ast.Import, ast.ImportFrom)):
            item.imports.extend(single(one))
            continue
        text = "\n".join(lines[start:end_line]).strip("\n") if own_lines else ast.unparse(one)
        if isinstance(one, ast.If) and _is_typing(one.test):
            _expect_plain(one, (ast.Import, ast.ImportFrom, ast.Pass))
            item.typing.append(ast.unparse(one))
            continue
        if isinstance(one, _UNITS):
            _expect_documented(one, "")
        elif isinstance(one, (ast.Try, ast.If)):
            _expect_plain(one, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Pass))
        elif not isinstance(one, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            raise ValueError(f"line {one.lineno}: code that runs when the file is imported ({type(one).__name__}); expected imports, constants, functions and classes")  # fmt: skip
        item.pieces.append(
            Piece("unit" if isinstance(one, _UNITS) else "other", text, one, binds_of(one), reads_of(one))
        )
    if not any(piece.kind == "unit" for piece in item.pieces):
        raise ValueError("no function and no class in it")
    stubs = stubs_of(code)
    _tree(stubs, compiled=True)
    if wrong := problems(encode(Held({"interface.py": stubs.encode()})).dumps()):
        raise ValueError(f"its graph would not be sound: {wrong[0].message}")
    return item


def bind(item: Item, phrases: Mapping[str, str]) -> dict[str, str]:
    """Each feature of an interface to the qualname of the one unit that answers to it.

    That is the unit whose docstring names the feature; else the one whose name is most of all in it; else the one that
    shares most words with it, a function before its class; where none shares any, the first unit. phrases: feature to
    its words.
    """
    units = [found for piece in item.pieces if piece.kind == "unit" for found in _units(piece.node, "")]
    found = {}
    for feature in item.features:
        phrase = phrases[feature]
        words = set(tokens(phrase))

        def rank(at: int, phrase: str = phrase, words: set[str] = words) -> tuple[Any, ...]:
            node = units[at][1]
            doc = (ast.get_docstring(node) or "").partition("\n\n")[0]
            named = (
                f" {' '.join(_WORDS.findall(phrase.casefold()))} " in f" {' '.join(_WORDS.findall(doc.casefold()))} "
            )
            name = {stem(word) for word in words_of(node.name)}
            called = len(words & name) / max(1, len(name))
            shared = len(words & {*name, *tokens(doc)}) / max(1, len(words))
            return (named, called, shared, shared > 0 and not isinstance(node, ast.ClassDef), -at)

        found[feature] = units[max(range(len(units)), key=rank)][0]
    return found


def batches_checked(value: Mapping[str, Any], source: Source) -> list[list[str]]:
    """The task batches of a file: every unit once, after what it needs when the file is imported.

    Raises ValueError that names duplicates, missing and extra units, and a prerequisite that comes later.
    """
    told = value.get("batches")
    if not isinstance(told, list) or not all(isinstance(one, list) and all(isinstance(key, str) for key in one) for one in told):  # fmt: skip
        raise ValueError('expected {"batches": [["unit key", ...], ...]}')
    flat = [key for batch in told for key in batch]
    count, names = Counter(flat), source.names
    twice = sorted(key for key, times in count.items() if times > 1)
    missing = [key for key in names if key not in count]
    extra = [short(key) for key in count.keys() - set(names)]
    wrong = [f"{word}: {', '.join(keys[:MOST_NAMED])}" for word, keys in (("more than once", twice), ("missing", missing), ("no unit of the file", extra)) if keys]  # fmt: skip
    if wrong:
        raise ValueError("; ".join(wrong))
    place = {key: at for at, key in enumerate(flat)}
    needs = source.needs()
    for at, piece in enumerate(source.pieces):
        if piece.kind != "unit":
            continue
        for other in sorted(_all_needs(needs, at)):
            if source.pieces[other].kind == "unit" and place[source.pieces[other].node.name] > place[piece.node.name]:
                raise ValueError(f"{piece.node.name} stands before {source.pieces[other].node.name}, which it needs when the file is imported")  # fmt: skip
    return [batch for batch in told if batch]


def outline(source: Source) -> str:
    """Signatures and first lines of docstrings, as the files after it see them."""
    if source.outlined[0] == len(source.pieces):
        return source.outlined[1]
    lines = []
    for piece in source.pieces:
        if piece.kind == "unit":
            for name, node in _units(piece.node, ""):
                head = ast.unparse(_bodiless(node)).removesuffix("\n    pass").removesuffix(":")
                doc = (ast.get_docstring(node) or "").split("\n")[0]
                lines.append("    " * name.count(".") + head.split("\n")[-1] + f"  # {doc}")
        else:
            lines.append(piece.text.split("\n")[-1][:160])
    source.outlined = (len(source.pieces), "\n".join(lines))
    return source.outlined[1]


# ------------------------------------------------------------ inside


def _tree(code: str, compiled: bool = False) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes
            code.encode()
            tree = ast.parse(code)
            if compiled:
                compile(code, "interface", "exec", dont_inherit=True)
            return tree
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno or 1}: not Python: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("nested too deep to read") from None


def _expect_documented(node: Any, outer: str) -> None:
    name = f"{outer}{node.name}"
    marks = {ast.unparse(one).rpartition(".")[2] for one in node.decorator_list}
    plain = not marks & {"overload", "setter", "deleter"} and not (outer and node.name.startswith("__"))
    if plain and not (ast.get_docstring(node) or "").strip():
        raise ValueError(f"{name}: has no docstring")
    if not isinstance(node, ast.ClassDef):
        return
    methods = {one.name for one in node.body if isinstance(one, FUNCTIONS)}
    if any(ast.unparse(base).endswith(("Enum", "Flag")) for base in node.bases) and methods & {
        *MADE,
        "_generate_next_value_",
    }:
        raise ValueError(
            f"{name}: an enumeration whose members are made by a method, which is a stub when the file is imported"
        )
    for one in node.body:
        if isinstance(one, _UNITS):
            _expect_documented(one, name + ".")
        elif not isinstance(one, (ast.Assign, ast.AnnAssign, ast.Pass)) and not _is_text(one):
            raise ValueError(
                f"{name}: line {one.lineno}: {type(one).__name__} in the body of a class; expected attributes and methods"
            )


def _expect_plain(node: Any, allowed: tuple[type, ...]) -> None:
    for field in ("body", "orelse", "finalbody"):
        for one in getattr(node, field, ()):
            if isinstance(one, (ast.If, ast.Try)):
                _expect_plain(one, allowed)
            elif not isinstance(one, allowed) and not _is_text(one):
                raise ValueError(f"line {one.lineno}: {type(one).__name__} inside {type(node).__name__} at module level; expected imports and constants")  # fmt: skip
    for handler in getattr(node, "handlers", ()):
        _expect_plain(handler, allowed)


def single(statement: Any) -> Iterator[Any]:
    """An import statement as statements of one name each. Raises ValueError on a star."""
    for alias in statement.names:
        if alias.name == "*":
            raise ValueError(f"{ast.unparse(statement)}: name what is imported")
        if isinstance(statement, ast.Import):
            yield ast.Import(names=[alias])
        elif statement.module == "__future__":
            continue  # each file has the one that matters
        else:
            yield ast.ImportFrom(module=statement.module, names=[alias], level=statement.level)


def needs_of(pieces: Sequence[Piece]) -> dict[int, set[int]]:
    binders: dict[str, list[int]] = defaultdict(list)
    for at, piece in enumerate(pieces):
        for name in piece.binds:
            binders[name].append(at)
    found: dict[int, set[int]] = {}
    for at, piece in enumerate(pieces):
        needs: set[int] = set()
        for name in piece.reads.names:
            binding = binders.get(name, [])
            earlier = [other for other in binding if other < at]
            needs.update(earlier or [other for other in binding if other != at or _before_it_binds(piece.node)])
        for name in piece.binds:  # a name that is set again is set in the order written
            needs.update(other for other in binders[name] if other < at)
        found[at] = needs
    return found


def _before_it_binds(node: Any) -> bool:
    """Whether a name that a statement both reads and binds is read first, and so must be there before it."""
    if isinstance(node, _UNITS):
        return True
    plain = isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign))
    return plain and not any(isinstance(one, ast.NamedExpr) for one in ast.walk(node))


def _all_needs(needs: Mapping[int, set[int]], at: int) -> set[int]:
    found: set[int] = set()
    stack = [at]
    while stack:
        fresh = needs[stack.pop()] - found
        found |= fresh
        stack += fresh
    return found - {at}


def _units(node: Any, outer: str) -> Iterator[tuple[str, Any]]:
    """(qualname, node) of a unit and those in it, not in its functions; of a name that is defined again the first."""
    yield outer + node.name, node
    if isinstance(node, ast.ClassDef):
        seen: set[str] = set()
        for one in node.body:
            if isinstance(one, _UNITS) and one.name not in seen:
                seen.add(one.name)
                yield from _units(one, f"{outer}{node.name}.")


def _bodiless(node: Any) -> Any:
    more = {field: getattr(node, field) for field in node._fields if field not in ("body", "decorator_list")}
    return ast.copy_location(type(node)(**more, body=[ast.Pass()], decorator_list=[]), node)


def _is_typing(test: Any) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _is_text(statement: Any) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _import_block(statements: Sequence[Any]) -> str:
    """Statements of one name each as lines, those from one module together."""
    lines = sorted(ast.unparse(one) for one in statements if isinstance(one, ast.Import))
    named: dict[str, list[str]] = defaultdict(list)
    for one in statements:
        if isinstance(one, ast.ImportFrom):
            head, _, name = ast.unparse(one).partition(" import ")
            named[head].append(name)
    for head, names in sorted(named.items()):
        line = f"{head} import {', '.join(sorted(names))}"
        lines.append(
            line if len(line) <= MOST_LINE else f"{head} import (\n    " + ",\n    ".join(sorted(names)) + ",\n)"
        )
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Text as it may stand between three double quotes, wrapped."""
    kept = "".join(letter if letter.isprintable() else " " for letter in text).replace("\\", "/").replace('"', "'")
    return "\n".join(textwrap.wrap(kept, MOST_LINE, break_long_words=False, break_on_hyphens=False)) or "Nothing yet."
