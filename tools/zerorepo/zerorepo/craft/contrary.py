"""A task's test asked for something else, which must fail: how running.py finds code that decides how its test ends.

A repository can write the report itself, swallow what pytest raises, or return values that equal everything; the test that must
fail at the end of a run is spared by whoever knows its name. So what has passed is run once more, alike in command line, files
and names, with other values where the test compares, and must not pass. What is put in depends on the test alone: results stay
the same from run to run.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Sequence

from zerorepo.craft.syntax import parsed

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_EQUAL = ("assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertSetEqual", "assertTupleEqual", "assertSequenceEqual", "assertCountEqual", "assertMultiLineEqual")  # fmt: skip


def contrary(source: str, cases: Sequence[str]) -> tuple[str, list[str]]:
    """(the test file with other values in these tests, those of `cases` that are so changed).

    Where a test compares for equality at its own level, the value it is to equal is changed in every such place; any other
    begins with an assertion that does not hold. A case whose function is not in the file, being inherited, stays as it is.
    Raises ValueError where the source is no Python, or nested too deeply to be written again.
    """
    tree = copy.deepcopy(parsed(source))  # which others read, too
    changed = []
    for case in dict.fromkeys(cases):
        test = _defined(tree, case)
        if test is None:
            continue
        turned = not _leaves_early(test) and [_turned(one, f"{case}:{at}") for at, one in enumerate(test.body)]
        if not turned or not any(turned):
            test.body.insert(int(ast.get_docstring(test, clean=False) is not None), _never(case))
        changed.append(case)
    try:
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n", changed
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _defined(tree: ast.Module, case: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The last function of this name, which is the one that counts."""
    *owners, name = case.split("::")
    body = tree.body
    for owner in owners:
        classes = [one for one in body if isinstance(one, ast.ClassDef) and one.name == owner]
        if not classes:
            return None
        body = classes[-1].body
    found = [one for one in body if isinstance(one, _FUNCTIONS) and one.name == name]
    return found[-1] if found else None


def _leaves_early(test: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it may end before its comparisons, or is run on many examples (hypothesis, to make a failure small)."""
    marks = [ast.unparse(one) for one in test.decorator_list]
    return any("given" in one for one in marks) or any(isinstance(node, ast.Return | ast.Yield) for node in ast.walk(test))  # fmt: skip


def _turned(one: ast.stmt, seed: str) -> bool:
    """Change the value that a statement compares with; False where it does not compare for equality."""
    if isinstance(one, ast.Assert) and isinstance(one.test, ast.Compare):
        compared = one.test
        if len(compared.ops) == 1 and isinstance(compared.ops[0], ast.Eq):
            if _is_plain(compared.left) and not _is_plain(compared.comparators[0]):
                compared.left = _other(compared.left, seed)
            else:
                compared.comparators[0] = _other(compared.comparators[0], seed)
            return True
    call = one.value if isinstance(one, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _EQUAL):
        return False
    if len(call.args) < 2 or any(isinstance(each, ast.Starred) for each in call.args[:2]):
        return False
    at = 0 if _is_plain(call.args[0]) and not _is_plain(call.args[1]) else 1
    call.args[at] = _other(call.args[at], seed)
    return True


def _is_plain(value: ast.expr) -> bool:
    """Whether it is the test's own: nothing in it is called or looked up in a value."""
    return not any(isinstance(node, ast.Call | ast.Attribute | ast.Subscript | ast.Name) for node in ast.walk(value))


def _other(value: ast.expr, seed: str) -> ast.Constant:
    """Another value: an integer for an integer, else a text."""
    digest = hashlib.sha256(f"{seed}:{ast.dump(value)}".encode()).digest()
    if isinstance(value, ast.Constant) and isinstance(value.value, int) and not isinstance(value.value, bool):
        return ast.Constant(value.value + 100_003 + int.from_bytes(digest[:2], "big"))
    return ast.Constant("".join(chr(97 + one % 26) for one in digest[:9]))


def _never(seed: str) -> ast.Assert:
    left, right = (int.from_bytes(hashlib.sha256(f"{seed}:{side}".encode()).digest()[:2], "big") for side in "lr")
    return ast.Assert(ast.Compare(ast.Constant(left), [ast.Eq()], [ast.Constant(right + 100_003)]))
