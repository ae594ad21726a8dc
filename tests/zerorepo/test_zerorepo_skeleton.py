"""Bodies out and units in (generation/skeleton.py): against the syntax tree with its bodies taken out by ast alone, the
names and signatures of parse.py, and the original bytes; on real packages, on odd files, and on generated ones."""

from __future__ import annotations

import ast
import inspect
import random
import sysconfig
import textwrap
import time
from pathlib import Path
from typing import Any

import click
import networkx
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zerorepo.generation.skeleton import STUB, bodies_of, decoded, is_empty, stubs_of, units_of, with_units
from zerorepo.parse import parse_file

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGES = [Path(str(module.__file__)).parent for module in (click, requests, networkx)]


def is_doc(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class Emptied(ast.NodeTransformer):
    """What stubs are, by the syntax tree: of each outermost function the docstring and one raise."""

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        stub = ast.parse(STUB).body
        node.body = [*node.body[:1], *stub] if is_doc(node.body[0]) else stub
        return node

    def visit_AsyncFunctionDef(self, node: Any) -> ast.AST:
        return self.visit_FunctionDef(node)


def told(data: bytes, inner: set[str]) -> list[tuple[object, ...]]:
    """What parse.py says of the units that do not stand inside a function."""
    nodes = parse_file("m.py", data)
    assert nodes[0].status == "done", nodes[0].reason
    return [
        (one.qualname, one.kind, one.signature, one.doc, one.decorators, one.bases)
        for one in nodes[1:]
        if one.qualname not in inner
    ]


def check(data: bytes) -> None:
    """Everything that must hold of any Python file."""
    source, encoding = decoded(data)
    units = units_of(source)
    assert set(units) == {one.qualname for one in parse_file("m.py", data)[1:]}
    stubs = stubs_of(source)
    assert ast.dump(ast.parse(stubs)) == ast.dump(Emptied().visit(ast.parse(source)))
    inner = {name for name, unit in units.items() if unit.inside}
    assert told(stubs.encode(encoding), inner) == told(data, inner)
    assert stubs_of(stubs) == stubs
    bodies = bodies_of(source)
    assert all(body in source for body in bodies.values())
    leaves = {name: bodies[name] for name, unit in units.items() if unit.is_leaf}
    assert with_units(stubs, leaves).encode(encoding) == data
    outer = {name: bodies[name] for name, unit in units.items() if not unit.outer}
    assert with_units(stubs, outer).encode(encoding) == data
    assert stubs_of(source, keep=set(leaves)) == source


# ------------------------------------------------------------ real files


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_real_package_is_emptied_and_filled_again(package):
    files = sorted(package.rglob("*.py"))
    chosen = random.Random(0).sample(files, min(len(files), 100))
    assert len(chosen) >= 15
    for path in chosen:
        check(path.read_bytes())


def test_the_standard_library_with_its_oddest_files():
    """Its own tests hold what hardly any package writes: form feeds, nested backslashes, every kind of header."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    odd = ("ast.py", "typing.py", "dataclasses.py", "turtle.py", "test/test_grammar.py", "test/test_functools.py")
    names = [stdlib / name for name in odd if (stdlib / name).is_file()]
    assert len(names) >= 4
    for path in names:
        check(path.read_bytes())


def test_near_linear_in_the_size_of_a_file():
    one = "class C{n}:\n    def f(self, a, b=(1, 2)):\n        'd'\n        return [a, b]\n\n"
    times = []
    for count in (500, 4000):
        source = "".join(one.format(n=n) for n in range(count))
        begin = time.process_time()
        stubs = stubs_of(source)
        with_units(stubs, {f"C{n}.f": f"def f(self, a, b=(1, 2)):\n    return {n}" for n in range(count)})
        times.append(time.process_time() - begin)
    assert times[1] < 8 * times[0] * 3


# ------------------------------------------------------------ single cases

ODD = {
    "one line": "def f(): return 1\n",
    "one line, no break at the end": "def f(): 'd'; return 1",
    "one line with a docstring alone": "def f(): 'd';\n",
    "semicolons": "def f():\n    x = 1; y = 2; return x;  # c\nz = 1; w = 2\n",
    "docstring and more on its line": "def f():\n    'd'; x = 1\n    return x\n",
    "comment on the docstring's line": "def f():\n    'd'  # noqa\n    # about x\n    x = 1\n    # after\n\n# outside\n",
    "type comments": "def f(a, b):\n    # type: (int, int) -> int\n    'd'\n    return a\n",
    "type comment on the header": "def f(a,  # type: int\n      b):  # type: (...) -> int\n    return a\n",
    "colons in comments of the header": "def f(\n    a=lambda x: {1: x},  # c : d\n    *, b: int = 3,  # : e\n) -> (\n    # f: g\n    dict[str, int]\n):  # h : i\n    return 1\n",
    "colons in comments before a docstring": "def f(\n    a,  # b: c\n    # d: e\n):  # f: g\n    'd'\n    return 1\n",
    "backslashes": "def f(a, \\\n      b): \\\n    return 1\n",
    "backslash before the body": "def f():\n  \\\n  'd'\n  x = 1\n  # t\n",
    "backslash at the end": "def f(): return 1;  \\\n\nx = 1\n",
    "tabs and form feeds": "class A:\n\x0c\tdef f(self):\n\t\t'd'\n\n\x0c\n\x0c\t\treturn 1\n\n\tx = 1\n\x0c\n\tdef g(self):\n\x0c\t\treturn 1\n",
    "crlf": "def f():\r\n    'd'\r\n    x = 1\r\n\r\n    return x\r\ny = 1\r\n",
    "cr": "def f():\r  x = 1\r  return x\ry = 1\r",
    "mixed breaks": "def f():\r\n    x = 1\n    return x\ndef g():\n    return 1\n",
    "wide letters": "class É:\n    def ü(self, a: 'é:é' = 'é:'): 'é'; return 'é'\n    def ö(self, 𝔞=1):\n        é = 1; return é\n",
    "decorators": "class A:\n    @(\n        # c\n        property)\n    def f(self):\n        return 1\n    @f.setter\n    def f(self, v): pass\n    @deco(lambda x: (\n        x))\n    # between\n    @other\n    async def g(self): ...\n",
    "redefined": "if 1:\n    def f(): return 1\nelif 2:\n    def f(): return 2\nelse:\n    class f:\n        def f(self): return 3\n",
    "in every block": "try:\n    def a(): return 1\nexcept E:\n    def a(): return 2\nelse:\n    def a(): return 3\nfinally:\n    def a(): return 4\nwith x:\n    def b(): return 1\nfor i in x:\n    def c(): return 1\nwhile x:\n    def d(): return 1\nmatch x:\n    case 1:\n        def e(): return 1\n    case _:\n        def e(): return 2\n",
    "under TYPE_CHECKING": "if TYPE_CHECKING:\n    def f(): ...\nelse:\n    def f(): return 1\ndef f(): return 2\n",
    "nested": "def f():\n    @g(1)\n    def h():\n        class K:\n            def m(self): return 1\n        return K\n    return h\nclass A:\n    class B:\n        class C:\n            def f(self): return 1\n",
    "overloads and abstract ones": "class A(ABC):\n    @overload\n    def f(self, a: int) -> int: ...\n    @overload\n    def f(self, a: str) -> str: ...\n    def f(self, a): return a\n    @abstractmethod\n    def g(self):\n        'd'\n",
    "strings that look like code": "def f():\n    x = '''\ndef g():\n    pass\n'''\n    return x\ny = '''\ndef h():\n    pass\n'''\n",
    "docstring in brackets": "def f():\n    ('one '\n     'two')\n    return 1\n",
    "bytes and f-strings are no docstrings": "def f():\n    b'd'\n    return 1\ndef g():\n    f'd'\n    return 1\n",
    "continued in brackets to the left": "class A:\n    def f(self):\n        return (\n1,\n  2)\n",
    "comments under the body": "def f():\n    return 1\n    # still inside\n# outside\n",
}


@pytest.mark.parametrize("source", ODD.values(), ids=ODD)
def test_odd_files(source):
    check(source.encode())


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffdef f():\n    return 'é'\n".encode(),
        "# coding: latin-1\ndef f(a='é'):\n    'Grüße'; return 'é'\nx = 'é'\n".encode("latin-1"),
        "#!/usr/bin/python\n# -*- coding: cp1252 -*-\nclass A:\n    def f(self): return '€'\n".encode("cp1252"),
    ],
    ids=["bom", "latin-1", "cp1252"],
)
def test_other_encodings(data):
    check(data)


def test_an_encoding_that_does_not_give_its_bytes_again_is_refused():
    with pytest.raises(ValueError, match="cannot be had back"):
        decoded(b"# coding: utf-7\nx = '+AGE-'\n")
    with pytest.raises(ValueError, match="unknown encoding"):
        decoded(b"# coding: no-such\n")


def test_what_is_left_of_a_function():
    source = ODD["comment on the docstring's line"]
    assert stubs_of(source) == "def f():\n    'd'  # noqa\n    raise NotImplementedError\n    # after\n\n# outside\n"
    assert stubs_of(ODD["type comments"]) == ODD["type comments"].replace("return a", STUB)
    assert stubs_of("def f():\n    'd'\n") == "def f():\n    'd'\n    raise NotImplementedError\n"
    header = ODD["colons in comments before a docstring"]
    assert stubs_of(header) == header.replace("return 1", STUB)
    assert stubs_of(ODD["one line"]) == "def f(): raise NotImplementedError\n"


def test_kept_bodies_and_other_stubs():
    source = "def f(): return 1\nclass A:\n    def f(self):\n        def g(): return 2\n        return g\n    def h(self): return 3\n"
    assert stubs_of(source, keep=["A.f"]) == source.replace("return 1", STUB).replace("return 3", STUB)
    assert stubs_of(source, keep=["A.f.g"]) == stubs_of(source, keep=["A.f"])
    found = stubs_of(source, stub=lambda name: f"raise Hit({name!r})")
    assert all(f"raise Hit({name!r})" in found for name in ("f", "A.f", "A.h")) and found.count("raise") == 3


def test_which_functions_have_nothing_to_write():
    source = (
        "def a(): ...\ndef b(): 'd'\ndef c():\n    'd'\n    ...\ndef d(): raise NotImplementedError('later')\n"
        "def e(): pass\ndef f(): raise ValueError\ndef g():\n    raise NotImplementedError\n    return 1\ndef h(): return ...\n"
    )
    assert [name for name, unit in units_of(source).items() if is_empty(unit)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("source", ["def f(:\n", "x = 1\n  y = 2\n", "print 1\n", "x = '\0'\n", "(" * 3000])
def test_what_is_no_python_is_a_value_error(source):
    for function in (stubs_of, bodies_of, units_of):
        with pytest.raises(ValueError):
            function(source)


# ------------------------------------------------------------ units put in


def test_a_unit_goes_where_its_name_says():
    source = "class A:\n    @property\n    def x(self): return 1\n    @x.setter\n    def x(self, v): self.v = v\n\ndef x(): return 2\n"
    new = with_units(source, {"A.x#2": "@x.setter\ndef x(self, v):\n    self.w = v\n", "x": "def x(): return 5"})
    assert new == (
        "class A:\n    @property\n    def x(self): return 1\n    @x.setter\n    def x(self, v):\n        self.w = v\n\n"
        "def x(): return 5\n"
    )


def test_indentation_is_corrected_and_values_are_not():
    source = "class A:\n    class B:\n        def f(self): raise NotImplementedError\n"
    text = 'def f(self):\n    """One.\n\n    Two.\n    """\n    x = """\n  kept\n"""\n    if x:\n\n        return (x,\n1)\n'
    new = with_units(source, {"A.B.f": text})
    assert '            x = """\n  kept\n"""\n' in new
    assert '"""One.\n\n            Two.\n            """\n' in new
    wanted, got = function_of(text), function_of(bodies_of(new)["A.B.f"])
    assert wanted == got
    back = with_units(text, {"f": bodies_of(new)["A.B.f"]})
    assert ast.dump(ast.parse(back)) == ast.dump(ast.parse(text))


def function_of(text: str) -> str:
    """The syntax tree of one function's text, docstrings as inspect cleans them."""
    tree = ast.parse(text if text.lstrip(" \t\f") == text else "if 1:\n" + text)
    (found,) = tree.body if text.lstrip(" \t\f") == text else tree.body[0].body  # type: ignore[attr-defined]
    for node in ast.walk(found):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and is_doc(node.body[0]):
            doc: Any = node.body[0]
            doc.value.value = inspect.cleandoc(doc.value.value)
    return ast.dump(found)


def test_line_breaks_are_those_of_the_place():
    new = with_units("x = 1\r\ndef f():\r\n    pass\r\n", {"f": "def f():\n    y = 1\n    return y\n"})
    assert new == "x = 1\r\ndef f():\r\n    y = 1\r\n    return y\r\n"


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"g": "def g(): pass"}, "g: no such"),
        ({"A.g": "def g(): pass"}, "A.g: no such"),
        ({"f#2": "def f(): pass"}, "f#2: no such"),
        ({"A": "class A: pass", "A.f": "def f(self): pass"}, "A.f: stands inside"),
        ({"f": "def g(): pass"}, "f: expected the text of one definition of f"),
        ({"f": "def f(): pass\nx = 1"}, "f: expected the text of one"),
        ({"f": "import os\ndef f(): pass"}, "f: expected the text of one"),
        ({"f": "x = 1"}, "f: expected the text of one"),
        ({"f": ""}, "f: expected the text of one"),
        ({"f": "def f(:"}, "f: the text given for it is no Python"),
        ({"f": "    def f(): pass\nelse:\n    pass"}, "f: expected the text of one"),
        ({"f": "    def f(): pass\nx = 1"}, "f: expected the text of one"),
    ],
)
def test_what_cannot_be_put_in_is_named(units, words):
    with pytest.raises(ValueError, match=words):
        with_units("def f(): pass\nclass A:\n    def f(self): pass\n", units)


# ------------------------------------------------------------ generated files

COMMENTS = st.sampled_from(["", "  # c", "  # a: b", " ;", "  # type: ignore"])
DOCS = st.sampled_from(["", '"d"', '"""d\n{i}more: "x"\n{i}"""', "'é'", 'r"\\d"', "('a'\n{i} 'b')"])
STATEMENTS = st.sampled_from(
    [
        "x = 1", "return", "y = '''\nno: indent\n'''", "if a:\n{i}    x = 2\n{i}else: y = 3", "pass", "z = (1,\n2)",
        "def inner(q=':'):\n{i}    return q", "@d\n{i}class K:\n{i}    def m(self): pass", "# c\n{i}x = 5", "é = 'ü'; x = é",
        "for i in a: pass", "w = f'{{a}}:'", "lambda: (yield)", "x = 1 + \\\n2",
    ]
)  # fmt: skip
ARGUMENTS = st.sampled_from(
    [
        "",
        "a",
        "a: int = 1",
        "a, /, b, *, c=lambda: 0",
        "*a, **k",
        "a={1: 2}",
        "\n  a,  # x: y\n  b=':'\n",
        "é: 'ü:' = 0",
    ]
)
RETURNS = st.sampled_from(["", " -> int", " -> 'x: y'", " -> {1: 2}", " -> (\n int)"])
MARKS = st.lists(st.sampled_from(["@d", "@d(1, x=':')", "@d(\n  1)", "@(\n d)", "@property", "@é.ü  # c"]), max_size=2)
NAMES = st.sampled_from(["f", "g", "é"])


@st.composite
def functions(draw: Any, indent: str) -> str:
    inner = indent + draw(st.sampled_from(["    ", "\t", " "]))
    lines = [f"{indent}{mark}\n" for mark in draw(MARKS)]
    head = f"{indent}{draw(st.sampled_from(['def', 'async def']))} {draw(NAMES)}({draw(ARGUMENTS)}){draw(RETURNS)}:"
    doc = draw(DOCS)
    body = draw(st.lists(STATEMENTS, min_size=0 if doc else 1, max_size=3))
    if draw(st.integers(0, 5)) == 0:  # on the header's line
        simple = [doc.format(i=inner)] * bool(doc) + ["x = 1"] * draw(st.integers(0 if doc else 1, 2))
        return "".join(lines) + head + " " + "; ".join(simple) + draw(COMMENTS) + "\n"
    lines.append(head + draw(st.sampled_from(["", "  # c: d"])) + "\n")
    lines += draw(st.sampled_from([[], [f"{inner}# type: () -> int\n"], ["\n", f"{indent} # odd\n"]]))
    if doc:
        lines.append(f"{inner}{doc.format(i=inner)}{draw(COMMENTS)}\n")
    for one in body:
        text = one.format(i=inner)
        plain = "\n" not in text and ":" not in text
        lines.append(f"{inner}{text}{draw(COMMENTS) if plain else ''}\n")
        lines += draw(st.sampled_from([[], [], ["\n"], [f"{inner}# note\n"]]))
    return "".join(lines)


@st.composite
def modules(draw: Any) -> str:
    parts = []
    for kind in draw(st.lists(st.sampled_from(["function", "class", "if", "try", "text"]), min_size=1, max_size=5)):
        if kind == "function":
            parts.append(draw(functions("")))
        elif kind == "class":
            inside = draw(st.lists(functions("  "), min_size=1, max_size=3))
            parts.append(f"class {draw(NAMES)}(B):\n  x: int = 1\n" + "".join(inside))
        elif kind == "if":
            parts.append("if a:\n" + draw(functions("    ")) + "else:\n" + draw(functions("    ")))
        elif kind == "try":
            parts.append(
                "try:\n" + draw(functions("\t")) + "except E:\n" + draw(functions("\t")) + "finally:\n\tpass\n"
            )
        else:
            parts.append(draw(st.sampled_from(["x = '''\ndef f(): pass\n'''\n", "# def f(): pass\n", "\x0c\n", "é = 1; y = 2\n"])))  # fmt: skip
    text = "".join(parts)
    text = draw(st.sampled_from([text, text.rstrip("\n"), text + "\n\n"]))
    return text.replace("\n", draw(st.sampled_from(["\n", "\n", "\r\n", "\r"])))


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(modules())
def test_generated_files_are_emptied_and_filled_again(source):
    if is_python(source):  # the next test counts what this leaves out
        check(source.encode())


def test_most_generated_files_are_python():
    good = []

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(modules())
    def count(source):
        good.append(is_python(source))

    count()
    assert sum(good) > 0.7 * len(good)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(functions("    "), st.sampled_from(["", "  ", "\t", "        "]))
def test_a_dedented_function_means_the_same_in_its_class(text, indent):
    """Its tree is that of the text, docstrings compared as inspect cleans them."""
    plain = textwrap.dedent(text)
    if not is_python(plain):
        return  # dedenting broke a string or a bracket: no model can mean that
    (name,) = (unit.definition.name for unit in units_of(plain).values() if not unit.outer)
    new = with_units(f"class A:\n {indent}x = 1\n {indent}def {name}(self): pass\n", {f"A.{name}": plain})
    assert function_of(bodies_of(new)[f"A.{name}"]) == function_of(plain)
