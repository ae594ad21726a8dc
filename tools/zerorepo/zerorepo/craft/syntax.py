"""Small questions to a syntax tree, for all of craft/ that reads tests."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@lru_cache(maxsize=64)  # the same helper files are looked at for every test of a suite
def parsed(source: str) -> ast.Module:
    """The tree, which is not to be changed. Raises ValueError where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno is not None else ""  # none where it has a NUL
        raise ValueError(f"{where}{error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply") from None


def is_code(path: str, text: str) -> bool:
    """Whether a file of this path and text is Python that can be parsed."""
    if not path.endswith(".py"):
        return False
    try:
        parsed(text)
    except ValueError:
        return False
    return True


def chain_of(one: ast.expr) -> list[str] | None:
    """`["a", "b", "c"]` of `a.b.c`; None of any other expression."""
    names: list[str] = []
    while isinstance(one, ast.Attribute):
        names.append(one.attr)
        one = one.value
    return [one.id, *reversed(names)] if isinstance(one, ast.Name) else None


def is_dotted(text: str) -> bool:
    return "." in text and len(text) < 300 and all(part.isidentifier() for part in text.split("."))


def at_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a level, those under if, try and with included."""
    for one in body:
        yield one
        if isinstance(one, (ast.If, ast.Try, ast.With)):
            blocks = [one.body, getattr(one, "orelse", []), getattr(one, "finalbody", [])]
            blocks += [handler.body for handler in getattr(one, "handlers", [])]
            for block in blocks:
                yield from at_level(block)


def first_line(one: ast.stmt) -> int:
    """First line, decorators included."""
    marks = one.decorator_list if isinstance(one, DEFINITIONS) else []
    return min([one.lineno, *(mark.lineno for mark in marks)])


def words_of_strings(one: ast.AST) -> set[str]:
    """Words in the strings of a tree that could be names."""
    return {
        word.strip()
        for node in ast.walk(one)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 300
        for word in node.value.replace(",", " ").split()
        if word.isidentifier()
    }


@lru_cache(maxsize=256)
def asked_for(source: str) -> frozenset[str]:
    """Names that a file may ask fixtures by: parameters, and words in strings. Raises ValueError where it is no Python."""
    tree = parsed(source)
    return frozenset({node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | words_of_strings(tree))
