"""How large a repository is: files, lines of code and tokens, counted as the paper counts them (arXiv 2509.16198 §4.1).

Under scoring.py. The rules are those of the paper's released counter, its quirks included, since figures are put beside
the published ones; requests 2.28.2 gives 17 files, 2,783 lines, 22,206 tokens (bench/claim_parts/size.py). What is
counted are units: imports, assignments, functions and classes, each by whole lines, without what says nothing to a
machine.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from tenfold_shared import Missing

ENCODING = "o200k_base"  # gpt-4o's
# Names that keep a file out: of a whole folder or file, or one of the words in its name (`unit_tests`, `docs-v2`).
ASIDE = frozenset(
    """docs doc scripts example examples benchmark benchmarks tests test testing build_tools resource resources demo
    demos get-pip getpip .venv .pytest_cache""".split()
)
ASIDE_BEGIN = ("test_", "py_dep_", ".py_dep_", "py_deps", ".py_deps")  # and how a name begins that does
INIT = "__init__.py"
_WORDS = re.compile(r"[\\._-]+")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
_BLOCKS = ("body", "handlers", "orelse", "finalbody")
_FLOW = (ast.If, ast.Try, ast.With, ast.AsyncWith, ast.For, ast.AsyncFor, ast.While)


class Size(NamedTuple):
    """files: Python files that were counted; loc: their effective lines; tokens: of those lines, by gpt-4o's
    vocabulary. left_out: (path, reason) of the other Python files, by path."""

    files: int
    loc: int
    tokens: int
    left_out: list[tuple[str, str]]


def size_of(files: Mapping[str, bytes], *, inits: bool = False) -> Size:
    """Size of the Python files among `files`, a path below the repository to its bytes. inits: count __init__.py too,
    which the paper's figure of requests does not.

    A file is left out, with the reason, for its path (ASIDE), where it is empty, not UTF-8, or not Python. Time and
    memory grow with the size of the files. Raises Missing where the tokenizer is not installed.
    """
    tokenizer = _tokenizer()
    counted, loc, tokens = 0, 0, 0
    left_out: list[tuple[str, str]] = []
    for path, data in sorted(files.items()):
        if not path.endswith(".py"):
            continue
        reason = aside(path, inits)
        if not reason:
            try:
                lines = lines_of(data)
                for unit, times in units_of(lines).items():
                    loc += times * len(unit)
                    tokens += times * len(tokenizer.encode_ordinary("".join(unit)))
            except ValueError as error:
                reason = str(error)
        if reason:
            left_out.append((path, reason))
        else:
            counted += 1
    return Size(counted, loc, tokens, left_out)


def aside(path: str, inits: bool = False) -> str:
    """Why a Python file is left out for its path; '' where it is counted."""
    for part in path.lower().split("/"):
        for one in (part, part.removesuffix(".py"), *_WORDS.split(part)):
            if one in ASIDE:
                return f"its path has {one!r} in it"
        if part.startswith(ASIDE_BEGIN):
            return f"{part!r} in its path begins like a test's or a dependency's"
    return "" if inits or path.rpartition("/")[2] != INIT else INIT


def lines_of(data: bytes) -> list[str]:
    """The lines of a file, each with its LF. Raises ValueError where it is empty or not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    if not text:
        raise ValueError("empty")
    # Python's lines end at LF, CR or both, and nowhere else; str.splitlines knows more ends.
    return io.StringIO(text, newline=None).readlines()


def units_of(lines: list[str]) -> Counter[tuple[str, ...]]:
    """The units of a file, each as its effective lines, and how often it counts. Raises ValueError where it is no
    Python.

    Two units on one line (`a = 1; b = 2`) are that whole line twice. Equal ones are looked at once, so that no file can
    ask for more than a few passes over it.
    """
    spans = Counter((node.lineno, node.end_lineno or node.lineno) for node in _units(_parsed(lines)))
    found: Counter[tuple[str, ...]] = Counter()
    for (first, last), times in spans.items():
        found[tuple(effective(lines[first - 1 : last]))] += times
    return found


def _parsed(lines: list[str]) -> ast.Module:
    """Raises ValueError that says why they are no Python, and where."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings: no affair of a counter
            return ast.parse("".join(lines))
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno or 1}: not Python: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("nested too deep to read") from None


def _units(tree: ast.Module) -> Iterator[ast.stmt]:
    """What counts of a file.

    At the top: imports, assignments without operator (`x += 1` is none), functions, and classes with all in them. An
    assignment right in the body of such a class counts once more by itself. Under if, try, with, for and while, however
    deep, only functions and classes whose name is new: not of one at the top, not met before; not so under match, or
    under try with except*, which the counter does not look into.
    """
    met: set[tuple[bool, str]] = set()

    def key(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> tuple[bool, str]:
        return isinstance(node, ast.ClassDef), node.name

    for node in tree.body:
        if isinstance(node, _DEFINITIONS):
            met.add(key(node))
        elif not isinstance(node, (ast.Import, ast.ImportFrom, *_ASSIGNMENTS)):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from (one for one in node.body if isinstance(one, _ASSIGNMENTS))
    # A stack and no recursion: a chain of elif is as deep as it is long.
    stack: list[ast.AST] = [node for node in reversed(tree.body) if isinstance(node, _FLOW)]
    while stack:
        inner = stack.pop()
        if isinstance(inner, _DEFINITIONS):
            if key(inner) not in met:
                met.add(key(inner))
                yield inner
        elif isinstance(inner, (*_FLOW, ast.ExceptHandler)):
            stack.extend(reversed([one for block in _BLOCKS for one in getattr(inner, block, ())]))


def effective(lines: list[str]) -> list[str]:
    """The lines of a unit that count, from its first line (a decorator stands above it, so that a unit's own does not
    count) to its last: not blank, also not blank within a string; not a comment alone; not of a docstring, and not of a
    `@doc(...)` above a method or inner function.

    Docstrings are found by parsing these lines alone. Those of a unit under if or try are indented and do not parse:
    its docstrings stay.
    """
    gone = {at for at, line in enumerate(lines) if not line.strip()} | _comments(lines) | _told(lines)
    return [line for at, line in enumerate(lines) if at not in gone]


def _told(lines: list[str]) -> set[int]:
    """Lines of docstrings and of `@doc(...)`; all of a line on which one begins or ends."""
    found: set[int] = set()
    # What is indented is no Python; without a quote or an @ there is neither of the two.
    if lines[0][0] in " \t" or not any(mark in line for line in lines for mark in "\"'@"):
        return found
    try:
        tree = _parsed(lines)
    except ValueError:
        return found
    for node in ast.walk(tree):
        told: list[ast.stmt | ast.expr] = []
        if isinstance(node, (*_DEFINITIONS, ast.Module)) and ast.get_docstring(node, clean=False):
            told.append(node.body[0])
        if isinstance(node, _DEFINITIONS):
            told += [
                one for one in node.decorator_list
                if isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == "doc"
            ]  # fmt: skip
        for one in told:
            found.update(range(one.lineno - 1, one.end_lineno or one.lineno))
    return found


def _comments(lines: list[str]) -> set[int]:
    """Lines that are a comment alone; a # within a string begins none."""
    found: set[int] = set()
    if not any(line.lstrip().startswith("#") for line in lines):
        return found
    try:
        for token in tokenize.generate_tokens(iter(lines).__next__):
            row, column = token.start
            if token.type == tokenize.COMMENT and not lines[row - 1][:column].strip():
                found.add(row - 1)
    except (tokenize.TokenError, SyntaxError):
        pass  # lines from the middle of a statement; what was found up to there counts, as in the paper's counter
    return found


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """Its encode_ordinary takes text that looks like a control token (`<|endoftext|>`) for the text it is."""
    try:
        from splintr import Tokenizer
    except ImportError:
        raise Missing("tokens: splintr-rs is not installed: pip install 'zerorepo[craft]'") from None
    return Tokenizer.from_pretrained(ENCODING)
