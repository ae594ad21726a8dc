"""Contrary tests: what is changed, by hand; and that a test which holds does not hold any more."""

import ast
from typing import Any

import pytest

from zerorepo.craft.contrary import contrary


def turned(text: str, cases: list[str]) -> str:
    made, changed = contrary(text, cases)
    assert changed == cases
    return made


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("assert twice(2) == 4", "twice(2)"), ("assert 4 == twice(2)", "twice(2)"), ("assert twice(2) == [4][0]", "twice(2)"),
        ("assert twice('a') == 'aa', 'told'", "twice('a')"), ("assert twice(5e+29) == 1e30", "twice(5e+29)"), ("assert twice(x=1) == True + 1", "twice(x=1)"),
    ],
)  # fmt: skip
def test_the_value_that_is_compared_with_is_another(line: str, kept: str) -> None:
    text = f"def test_x():\n    {line}\n"
    made = turned(text, ["test_x"])
    test = ast.parse(made).body[0]
    assert isinstance(test, ast.FunctionDef) and isinstance(test.body[0], ast.Assert)
    assert kept in made and ast.dump(test.body[0].test) not in ast.dump(ast.parse(text))

    names: dict[str, Any] = {"twice": lambda x: x + x}
    exec(text, names)
    names["test_x"]()
    exec(made, names)
    with pytest.raises(AssertionError):
        names["test_x"]()


@pytest.mark.parametrize(
    "text",
    [
        "def test_x():\n    assert True\n", "def test_x():\n    'told'\n    for x in []:\n        assert x == 1\n",
        "def test_x():\n    if True:\n        return\n    assert 1 == 1\n", "def test_x():\n    assert 1 < 2 and 1 != 2\n",
        "def given(f):\n    return f\n\n\n@given\ndef test_x():\n    assert 1 == 1\n",
        "def test_x():\n    assert 1\n\n\ndef test_x():\n    assert 2\n",
    ],
)  # fmt: skip
def test_others_begin_with_what_does_not_hold(text: str) -> None:
    names: dict[str, Any] = {}
    exec(turned(text, ["test_x"]), names)
    with pytest.raises(AssertionError):
        names["test_x"]()


def test_only_the_cases_and_the_same_each_time() -> None:
    text = "class A:\n\n    class B:\n\n        def test_x(self):\n            self.assertEqual(f(), 1)\n\ndef test_y():\n    assert f() == 2\n"
    made, changed = contrary(text, ["A::B::test_x", "A::inherited", "C::test_z"])
    assert changed == ["A::B::test_x"] and "f() == 2" in made and "f(), 1)" not in made
    assert contrary(text, ["A::B::test_x"])[0] == made
    with pytest.raises(ValueError, match="line 1"):
        contrary("def (", ["x"])
