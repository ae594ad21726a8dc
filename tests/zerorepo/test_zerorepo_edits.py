"""Answers as edits: what is taken, what is refused and with which words, and what a file is afterwards."""

import ast

import pytest

from zerorepo.generation.edits import Patch, apply, code_in, patch_of
from zerorepo.generation.votes import majority

FILE = '''"""A module."""

import os

LIMIT = 3


def area(width: int, height: int = 1) -> int:
    """Width times height."""
    raise NotImplementedError


class Box:
    """A box."""

    size = 1

    def __init__(self, size):
        raise NotImplementedError

    @property
    def volume(self) -> int:
        """Its volume."""
        raise NotImplementedError

    @volume.setter
    def volume(self, value: int) -> None:
        raise NotImplementedError
'''


def block(code):
    return f"Here it is:\n```python\n{code}\n```\nThat is all."


def test_a_function_takes_the_place_of_its_stub_and_nothing_else_changes():
    code = 'def area(width: int, height: int = 1) -> int:\n    """Width times height."""\n    return width * height\n'
    text = apply(FILE, "area", patch_of(block(code), FILE, "area"))
    assert text == FILE.replace("    raise NotImplementedError", "    return width * height", 1)


def test_imports_names_and_helpers_find_their_places():
    code = """from __future__ import annotations
import os
import math
FACTOR = 2
def _grown(x):
    return math.floor(x) * FACTOR
def area(width: int, height: int = 1) -> int:
    return _grown(width * height)
"""
    text = apply(FILE, "area", patch_of(block(code), FILE, "area"))
    head = '"""A module."""\nfrom __future__ import annotations\n\nimport os\nimport math\n\nFACTOR = 2\n'
    assert text.startswith(head)
    space: dict = {}
    exec(compile(text, "m", "exec"), space)
    assert space["area"](3, 2) == 12 and space["LIMIT"] == 3


def test_a_method_comes_in_its_class():
    code = """class Box:
    def _checked(self, size):
        return max(size, 0)

    def __init__(self, size):
        self.size = self._checked(size)
"""
    text = apply(FILE, "Box.__init__", patch_of(block(code), FILE, "Box.__init__"))
    space: dict = {}
    exec(compile(text, "m", "exec"), space)
    assert space["Box"](-1).size == 0 and space["Box"](2).size == 2
    with pytest.raises(NotImplementedError):
        _ = space["Box"](1).volume


def test_a_property_and_its_setter_are_two_leaves():
    setter = "class Box:\n    @volume.setter\n    def volume(self, value: int) -> None:\n        self.size = value\n"
    text = apply(FILE, "Box.volume#2", patch_of(block(setter), FILE, "Box.volume#2"))
    assert text == FILE.replace("raise NotImplementedError", "self.size = value", 4).replace("self.size = value", "raise NotImplementedError", 3)  # fmt: skip
    getter = 'class Box:\n    @property\n    def volume(self) -> int:\n        """Its volume."""\n        return 1\n'
    with pytest.raises(ValueError, match=r"volume \(FunctionDef\)|missing"):
        patch_of(block(getter), FILE, "Box.volume#2")


def test_what_stays_after_an_edit_can_be_edited_again():
    first = apply(FILE, "area", Patch("def area(width: int, height: int = 1) -> int:\n    return 1\n"))
    code = "def area(width: int, height: int = 1) -> int:\n    return 2\n"
    assert "return 2" in apply(first, "area", patch_of(block(code), first, "area"))


@pytest.mark.parametrize(
    ("answer", "qualname", "why"),
    [
        ("I cannot do that.", "area", "no Python block"),
        (block("def area(:"), "area", "line 1"),
        ("```python\ndef area(): pass", "area", "not closed"),
        (block("x = 1"), "area", "area is missing"),
        (block("def area(width: int) -> int:\n    return 1"), "area", "parameters of area must stay"),
        (block("async def area(width: int, height: int = 1) -> int:\n    return 1"), "area", "kind of area"),
        (block("def area(width: int, height: int = 1) -> str:\n    return ''"), "area", "return annotation"),
        (block("@cache\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "decorators"),
        (block("LIMIT = 9\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "LIMIT anew"),
        (block("def other(): return 1\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "begins with an underscore"),
        (block("class Box: pass\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "Box"),
        (block("print('x')\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "a statement"),
        (block('def area(width: int, height: int = 1) -> int:\n    """Width times height."""\n    raise NotImplementedError'), "area", "still a stub"),
        (block("class Box:\n    size = 2\n    def __init__(self, size):\n        self.a = size\n    def more(self): return 1"), "Box.__init__", "the method more"),
        (block("class Box:\n    def __init__(self, size):\n        self.a = 1\n    @property\n    def volume(self) -> int:\n        return 1"), "Box.__init__", "volume"),
        (block("def __init__(self, size):\n    self.a = 1"), "Box.__init__", "only|expected"),
        (block("x = 1"), "nowhere", "no function of the file"),
        (block("os = 3\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "os anew"),
        (block("os.environ['A'] = ''\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "changes what exists"),
        (block("from math import pi as os\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "binds names"),
        (block("import math as LIMIT\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "binds names"),
        (block("from math import *\ndef area(width: int, height: int = 1) -> int:\n    return 1"), "area", "binds names"),
    ],
)  # fmt: skip
def test_what_is_not_an_edit_of_the_leaf_is_refused_with_words(answer, qualname, why):
    with pytest.raises(ValueError, match=why):
        patch_of(answer, FILE, qualname)


def test_a_fence_in_a_docstring_and_windows_line_ends_are_no_ends():
    code = 'def area(width: int, height: int = 1) -> int:\n    """It.\n\n    ```\n    area(1)\n    ```\n    """\n    return 1'
    for answer in (block(code), block(code).replace("\n", "\r\n")):
        assert "area(1)" in patch_of(answer, FILE, "area").unit


def test_many_fences_are_read_once():
    with pytest.raises(ValueError, match="not closed"):
        code_in("```x\n" * 40_000)  # by backtracking, minutes
    with pytest.raises(ValueError, match="area is missing"):
        patch_of("x = 1\n" * 33_000, FILE, "area")  # the lines cut anew for each statement: hours


def test_lines_are_counted_as_python_counts_them():
    source = '"""Doc."""\n\x0c\n\x0c\nfrom os import (\n    path,\n    sep,\n)\n\n\ndef f():\n    raise NotImplementedError\n'
    answer = block('import math\nMARK = "\u2028\x0c"\ndef f():\n    return len(MARK)')
    space: dict = {}
    exec(apply(source, "f", patch_of(answer, source, "f")), space)
    assert space["f"]() == 2 and space["math"].pi > 3


def test_a_method_of_a_class_that_is_defined_twice():
    source = "if 1:\n    class A:\n        def f(self):\n            raise NotImplementedError\nelse:\n    class A:\n        def f(self):\n            raise NotImplementedError\n"
    text = apply(source, "A#2.f", patch_of(block("class A:\n    def f(self):\n        return 2"), source, "A#2.f"))
    assert text.endswith("else:\n    class A:\n        def f(self):\n            return 2\n")


def test_blocks_of_other_languages_are_no_code_and_several_are_one():
    answer = "```sh\nrm -rf /\n```\n```python\nimport os\n```\nand\n~~~py\nx = 1\n~~~\n"
    assert ast.unparse(ast.parse(code_in(answer))) == "import os\nx = 1"


# ---------------------------------------------------------------- votes


@pytest.mark.parametrize(
    ("votes", "found"),
    [
        (["code"] * 5, "code"),
        (["code", "code", "code", "test", "test"], "code"),
        (["code", "code", "test", "test", None], None),  # a tie of those cast
        (["code", "code", "test", "environment", None], None),  # no majority
        (["test", None, None, None, None], None),  # no quorum
        (["test", "test", None, None, None], None),
        (["test", "test", "code", None, None], "test"),
        ([None] * 5, None),
    ],
)
def test_a_vote_is_decided_by_rule(votes, found):
    assert majority(votes) == found


@pytest.mark.parametrize(("p", "right"), [(0.6, 0.68256), (0.7, 0.83692), (0.8, 0.94208), (0.9, 0.99144)])
def test_five_votes_are_right_as_often_as_the_binomial_says(p, right):
    total = 0.0
    for pattern in range(32):
        votes = ["code" if pattern >> n & 1 else "test" for n in range(5)]
        share = 1.0
        for vote in votes:
            share *= p if vote == "code" else 1 - p
        total += share * (majority(votes) == "code")
    assert total == pytest.approx(right, abs=1e-9)
