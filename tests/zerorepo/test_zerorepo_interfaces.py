"""Interfaces of a design: what code is taken, what becomes of it, and that files of stubs can be imported."""

import ast
import itertools
import json
import re
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerorepo.generation.importable import Project, accept
from zerorepo.generation.interfaces import HEAD, Source, batches_checked, bind, outline, parsed
from zerorepo.generation.scopes import binds_of, reads_of

PATHS = ("shop/__init__.py", "shop/a.py", "shop/b.py", "shop/c.py", "shop/base.py")
UPSTREAM = {
    "shop/base.py": [],
    "shop/a.py": ["shop/base.py"],
    "shop/b.py": ["shop/base.py", "shop/a.py"],
    "shop/c.py": ["shop/base.py"],
}


def code(text):
    return textwrap.dedent(text).strip() + "\n"


def designed(*files, paths=PATHS, upstream=UPSTREAM):
    """{path: Source} of (path, code, ...) taken over one after the other; each must be right."""
    done: dict[str, Source] = {}
    for path, *texts in files:
        source = done[path] = Source(path, "area", "What it is.")
        good, wrong = accept(source, [parsed(code(text), []) for text in texts], Project(paths, done, upstream))
        assert not wrong and len(good) == len(texts), wrong
    return done


def refused(text, path="shop/b.py", before=()):
    """Why code is refused, by its form or in the file."""
    done = designed(*before)
    source = done.setdefault(path, Source(path, "area", ""))
    held = (list(source.pieces), list(source.imports), dict(source.things))
    try:
        item = parsed(code(text), [])
    except ValueError as error:
        return str(error)
    good, wrong = accept(source, [item], Project(PATHS, done, UPSTREAM))
    assert not good and wrong
    assert held == (source.pieces, source.imports, source.things)  # what is refused leaves no trace
    return "; ".join(wrong)


def imported(done, tmp_path, *names):
    """What modules hold after an import in a process of its own."""
    for path, source in done.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source.render())
    (tmp_path / "shop" / "__init__.py").touch()
    script = "import importlib, json, sys\nsys.path.insert(0, sys.argv[1])\nprint(json.dumps([sorted(vars(importlib.import_module(name))) for name in sys.argv[2:]]))"
    ran = subprocess.run([sys.executable, "-I", "-c", script, tmp_path, *names], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


RICH = '''
import enum
from dataclasses import dataclass, field

LIMIT = 3
NAMES = [name.upper() for name in ("a", "b")]


class Colour(enum.Enum):
    """Colours."""

    RED = "red"  # stays
    BLUE = "blue"


@dataclass(frozen=True)
class Row:
    """A row."""

    key: int
    colour: Colour = Colour.RED
    parts: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """How wide."""
        return LIMIT * len(self.parts)

    def __len__(self):
        return self.key


def load(path: str, most: int = LIMIT, *, row: type[Row] = Row) -> list[Row]:
    """Load rows."""

    def inner():
        return 1

    return [Row(inner())]
'''


def test_bodies_go_and_everything_else_stays(tmp_path):
    done = designed(("shop/a.py", RICH))
    text = done["shop/a.py"].render()
    tree = ast.parse(text)
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    assert {one.name for one in functions} == {"width", "__len__", "load"}
    for one in functions:
        assert (
            ast.unparse(one.body[-1]) == "raise NotImplementedError"
            and len(one.body) == (ast.get_docstring(one) is not None) + 1
        )
    assert "BLUE = 'blue'" in ast.unparse(tree) and "# stays" in text and HEAD in text
    assert {"Colour", "LIMIT", "NAMES", "Row", "load"} <= set(imported(done, tmp_path, "shop.a")[0])


def test_units_stand_after_what_they_need_whatever_the_order_they_came_in(tmp_path):
    child = 'class Child(Parent):\n    """A child."""\n\n    size = LIMIT\n\n\nclass Parent:\n    """A parent."""\n\n\n'
    done = designed(("shop/a.py", child + "LIMIT = max(ONE, 2)\nONE = 1\n"))
    text = done["shop/a.py"].render()
    places = [text.index(word) for word in ("ONE = 1", "LIMIT = ", "class Parent", "class Child")]
    assert places == sorted(places)
    imported(done, tmp_path, "shop.a")


def test_files_import_what_is_upstream(tmp_path):
    base = 'class Base:\n    """A contract."""\n\n    def run(self) -> int:\n        """Run."""\n\n\nclass Point:\n    """A place."""\n\n    x: int = 0\n'
    one = 'from shop.base import Base, Point as P\n\nORIGIN = P()\n\n\nclass One(Base):\n    """One."""\n\n    def run(self) -> int:\n        """Run."""\n'
    two = """
    import shop.a
    from . import a
    from .a import One, ORIGIN
    from typing import TYPE_CHECKING

    if TYPE_CHECKING:
        from shop.c import later


    class Two(One):
        '''Two.'''

        start = ORIGIN
        other = [shop.a.One, a.One]


    def use(one: One, other: "later" = None) -> later:
        '''Use.'''
    """
    done = designed(("shop/base.py", base), ("shop/a.py", one), ("shop/b.py", two))
    assert {"Two", "One", "shop", "a"} <= set(imported(done, tmp_path, "shop.b")[0])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no code"),
        ("X = 1", "no function and no class"),
        ("def f(:\n  pass", "line 1: not Python"),
        ("def f():\n    return 1", "f: has no docstring"),
        ('class A:\n    """A."""\n\n    def f(self):\n        pass', "A.f: has no docstring"),
        ('class A:\n    """A."""\n\n    class B:\n        x = 1', "A.B: has no docstring"),
        ('def f():\n    """F."""\n\n\nf()', "code that runs when the file is imported (Expr)"),
        ('def f():\n    """F."""\n\n\nfor x in []:\n    pass', "(For)"),
        ('def f():\n    """F."""\n\n\nif __name__ == "__main__":\n    f()', "Expr inside If"),
        ('def f():\n    """F."""\n\n\nwith open("x") as y:\n    pass', "(With)"),
        ('class A:\n    """A."""\n\n    for x in []:\n        pass', "For in the body of a class"),
        ('class A:\n    """A."""\n\n    import os', "Import in the body of a class"),
        ('def f():\n    """F."""\n\n\nX = f()', "calls f when the file is imported"),
        ('def f():\n    """F."""\n\n\n@f\ndef g():\n    """G."""', "calls f when"),
        ('def f():\n    """F."""\n\n\ndef g(x=f()):\n    """G."""', "g: calls f when"),
        ('class A:\n    """A."""\n\n    def __init__(self):\n        pass\n\n\nX = A()', "calls A when"),
        ('class A:\n    """A."""\n\n    def __init__(self):\n        pass\n\n\nclass B(A):\n    """B."""\n\n\nX = [B() for _ in ()]', "calls B when"),
        ('class A:\n    """A."""\n\n    def go(self):\n        """Go."""\n\n\nX = A()\nY = X.go()', "calls X.go when"),
        ('class A:\n    """A."""\n\n    @classmethod\n    def go(cls):\n        """Go."""\n\n\nX = A.go()', "calls A.go when"),
        ('class A:\n    """A."""\n\n    def __init_subclass__(cls):\n        pass\n\n\nclass B(A):\n    """B."""', "inherits from A"),
        ('import enum\n\n\nclass A(enum.Enum):\n    """A."""\n\n    X = 1\n\n    def __init__(self, x):\n        pass', "an enumeration"),
        ('class A(B):\n    """A."""', "A: uses B when"),
        ('def f(x=LIMIT):\n    """F."""', "f: uses LIMIT when"),
        ('class A(B):\n    """A."""\n\n\nclass B(A):\n    """B."""', "need each other"),
        ('def f(x=[f]):\n    """F."""', "f: need each other"),
        ('class A:\n    """A."""\n\n    x = [A]', "A: need each other"),
        ('def f():\n    """F."""\n\n\nK = K', "K: need each other"),
        ('class A:\n    """A."""\n\n\nK = A\nK = L\nL = K', "need each other"),
        ('def f():\n    """F."""\n\n\ndef f():\n    """Again."""', "f: defined twice"),
        ('from os import path as f\n\n\ndef f():\n    """F."""', "f: defined twice"),
        ('from os import *\n\n\ndef f():\n    """F."""', "name what is imported"),
        ('import no_such_module_anywhere\n\n\ndef f():\n    """F."""', "not installed here"),
        ('import shop.moon\n\n\ndef f():\n    """F."""', "no module shop.moon"),
        ('from .moon import x\n\n\ndef f():\n    """F."""', "no such module"),
        ('from ....moon import x\n\n\ndef f():\n    """F."""', "no such module"),
        ('from shop import moon\n\n\ndef f():\n    """F."""', "shop/__init__.py has no 'moon'"),
        ('from shop.b import f\n\n\ndef g():\n    """G."""', "an import circle, shop/b.py -> shop/b.py"),
        ('from shop.c import f\n\n\ndef g():\n    """G."""', "shop/c.py does not come before shop/b.py"),
        ('def f():\n    """F."""\n\n\nreturn', "(Return)"),
        ('def f(a, a):\n    """F."""', "duplicate argument"),
        ("def f():\n    '''F.'''\n    x = \0", "null|not Python"),
        ("(" * 3000 + ")" * 3000, "not Python|nested"),
        ("x" * 200_000, "at most 100,000"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_code_is_said(text, told):
    assert re.search(told if "|" in told else re.escape(told), refused(text)), refused(text)


def test_an_import_of_what_comes_later_names_the_circle():
    told = refused('from shop.b import f\n\n\ndef g():\n    """G."""', "shop/a.py")
    assert (
        told
        == "from shop.b import f: an import circle, shop/b.py -> shop/a.py -> shop/b.py: in the plan shop/a.py comes before shop/b.py"
    )
    before = [("shop/a.py", 'def f():\n    """F."""')]
    assert "shop/a.py has no 'h'" in refused('from shop.a import h\n\n\ndef g():\n    """G."""', before=before)
    assert "calls f when" in refused('from shop.a import f\n\nX = f()\n\n\ndef g():\n    """G."""', before=before)
    assert "calls a.f when" in refused('from shop import a\n\nX = a.f()\n\n\ndef g():\n    """G."""', before=before)


def test_imports_stand_once_and_together():
    names = [f"name_{n}_of_many" for n in range(8)]
    base = "".join(f'def {name}():\n    """N."""\n\n\n' for name in names)
    texts = [f'import os\nimport json as j, os.path\nfrom shop.base import {name}\nfrom typing import Any as A, cast\n\n\ndef use_{name}():\n    """U."""' for name in names]  # fmt: skip
    done = designed(("shop/base.py", base), ("shop/a.py", *texts))
    head = done["shop/a.py"].render().split("\n\n\ndef ")[0].split(HEAD)[1].strip().split("\n")
    assert head[:3] == ["import json as j", "import os", "import os.path"]
    assert head[3] == "from shop.base import (" and head[4:12] == [f"    {name}," for name in names]
    assert head[12:] == [")", "from typing import Any as A, cast"]


@pytest.mark.parametrize("bad", [None, 7, ["x"], {}])
def test_code_that_is_no_text_is_refused(bad):
    with pytest.raises(ValueError, match="no code"):
        parsed(bad, [])


def test_of_two_definitions_of_one_name_the_earlier_stays():
    source = Source("shop/a.py", "area", "")
    items = [parsed(code(text), [name]) for name, text in (("one", 'def f(x):\n    """F."""'), ("two", 'def f(y):\n    """F."""'), ("three", 'def g():\n    """G."""'))]  # fmt: skip
    good, wrong = accept(source, items, Project(PATHS, {}, UPSTREAM))
    assert [item.features for item in good] == [["one"], ["three"]] and wrong == ["f: defined twice in the file"]
    good, wrong = accept(source, [items[1]], Project(PATHS, {}, UPSTREAM))
    assert not good and wrong == ["f: defined twice in the file"]


def test_what_rests_on_a_refused_interface_is_refused_with_it():
    source = Source("shop/a.py", "area", "")
    texts = ('class A(Missing):\n    """A."""', 'class B(A):\n    """B."""', 'class C:\n    """C."""')
    good, wrong = accept(source, [parsed(code(text), [text]) for text in texts], Project(PATHS, {}, UPSTREAM))
    assert [item.pieces[0].node.name for item in good] == ["C"] and len(wrong) == 2
    assert set(source.things) == {"C"}


def test_hostile_code_is_read_and_never_run(tmp_path):
    mark = tmp_path / "ran"
    text = f'import os\n\nX = os.system("touch {mark}")\n\n\nclass A:\n    """A."""\n\n    y = open("{mark}", "w")\n'
    designed(("shop/a.py", text))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "features", "units"),
    [
        ('def add_item(x):\n    """Put it in."""', ["add item"], ["add_item"]),
        ('class Cart:\n    """Represent cart."""\n\n    def add(self, item):\n        """Add an item to the cart."""\n\n    def total(self):\n        """Sum of prices."""',
         ["represent cart", "add item", "total price of the cart", "sort zebras"], ["Cart", "Cart.add", "Cart.total", "Cart"]),
        ('def helper():\n    """Help."""\n\n\ndef parse_rows(text):\n    """Parse."""', ["parse rows"], ["parse_rows"]),
        ('class Store:\n    """Keep rows."""\n\n    def __init__(self, path):\n        self.path = path\n\n    def save(self):\n        """Save rows to disk."""',
         ["save rows to disk", "keep rows"], ["Store.save", "Store"]),
    ],
)  # fmt: skip
def test_each_feature_is_of_one_unit(text, features, units):
    item = parsed(code(text), features)
    assert bind(item, {feature: feature for feature in features}) == dict(zip(features, units, strict=True))


CHAIN = 'def first():\n    """F."""\n\n\nclass Parent:\n    """P."""\n\n\nclass Child(Parent):\n    """C."""\n\n    size = LIMIT\n\n\nclass Size:\n    """S."""\n\n\nLIMIT = Size\n'


@given(st.permutations(["first", "Parent", "Child", "Size"]), st.lists(st.integers(0, 4), max_size=3))
@settings(max_examples=60, deadline=None)
def test_batches_are_a_permutation_with_prerequisites_first_and_decide_the_order(order, cuts):
    source = designed(("shop/a.py", CHAIN))["shop/a.py"]
    edges = sorted({0, 4, *cuts})
    batches = [list(order[a:b]) for a, b in itertools.pairwise(edges)]
    right = order.index("Child") > order.index("Parent") and order.index("Child") > order.index("Size")
    if not right:
        with pytest.raises(ValueError, match=r"Child stands before (Parent|Size), which it needs"):
            batches_checked({"batches": batches}, source)
        return
    source.batches = batches_checked({"batches": batches}, source)
    tree = ast.parse(source.render())
    assert [one.name for one in tree.body if isinstance(one, (ast.ClassDef, ast.FunctionDef))] == list(order)
    assert source.names == list(order)


@pytest.mark.parametrize(
    ("batches", "told"),
    [
        ("first", "expected"), ([["first", 7]], "expected"), ([["first"], ["Size", "first"]], "more than once: first; missing: Child, Parent"),
        ([["first", "Parent", "Child", "Size", "moon"]], "no unit of the file: 'moon'"), ([], "missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_batches_is_said(batches, told):
    source = designed(("shop/a.py", CHAIN))["shop/a.py"]
    with pytest.raises(ValueError) as error:
        batches_checked({"batches": batches}, source)
    for part in told.split(": ")[:1]:
        assert part in str(error.value)
    if "moon" in told or "expected" in told:
        assert told in str(error.value)


def test_an_outline_has_every_signature_and_no_body():
    told = outline(designed(("shop/a.py", RICH))["shop/a.py"])
    assert "def load(path: str, most: int=LIMIT, *, row: type[Row]=Row) -> list[Row]  # Load rows." in told
    assert "    def width(self) -> int  # How wide." in told and "LIMIT = 3" in told and "inner" not in told


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("class A(B, metaclass=M):\n    x = C\n    y = x\n    def f(self, z=D, *, w=E): return G\n", "B C D E M"),
        ("class A:\n    x = x\n", "x"),
        ("def f(a: G = D) -> H: return G\n", "D"),
        ("@d(E)\ndef f(): pass\n", "d E"),
        ("x = [a for a, b in B if b > C]\n", "B C"),
        ("x = [a for a in a]\n", "a"),
        ("x = {k: v for k, v in D.items()}\n", "D"),
        ("x = lambda y=D: y + Z\n", "D"),
        ("x: T = V\n", "V"),
        ("x: T\n", ""),
        ("x += 1\n", "x"),
        ("x = (y := D)\n", "D"),
        ("try:\n    import q\nexcept E:\n    q = None\n", "E"),
    ],
)
def test_names_read_at_import_are_those_python_reads(text, names):
    """Python is the oracle: with all of them there is no NameError, and without any one of them there is."""
    found = reads_of(ast.parse(text).body[0]).names
    assert found == set(names.split())
    program = compile(f"from __future__ import annotations\n{text}", "x", "exec")
    values = {"__name__": "m", **{name: Stand() for name in found}} | ({"M": type} if "M" in found else {})
    values |= {"E": Exception} if "except" in text else {}
    exec(program, dict(values))
    for name in found:
        with pytest.raises(NameError) as error:
            exec(program, {key: value for key, value in values.items() if key != name})
        assert error.value.name == name


class Stand:
    """In place of any value: a base class, a decorator, something with one item."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **more):
        return self

    def __mro_entries__(self, bases):
        return ()

    def __iter__(self):
        return iter([(Stand(), Stand())])

    def __gt__(self, other):
        return True

    def __add__(self, other):
        return self


def test_names_bound_are_those_a_module_has():
    texts = [
        "import a.b, c as d",
        "from e import f, g as h",
        "x = y = 1",
        "(p, [q, *r]) = 1, [2, 3]",
        "s: int = 1",
        "t: int",
        "def u(): v = 1",
        "class W:\n    x = 1",
        "z = [i for i in ()]",
        "aa = (bb := 1)",
    ]
    found = [binds_of(ast.parse(text).body[0]) for text in texts]
    assert found == [
        ("a", "d"),
        ("f", "h"),
        ("x", "y"),
        ("p", "q", "r"),
        ("s",),
        (),
        ("u",),
        ("W",),
        ("z",),
        ("aa", "bb"),
    ]


EXPRESSIONS = [
    "1",
    "K",
    "L",
    "f",
    "g",
    "A",
    "B",
    "f()",
    "g()",
    "A()",
    "B()",
    "K()",
    "[A() for _ in (1, 2)]",
    "lambda: f()",
    "len([f])",
    "A.go",
    "K.go()",
]


@st.composite
def statements(draw):
    """A trusted statement that may read, call or inherit from the others."""
    value = draw(st.sampled_from(EXPRESSIONS))
    form = draw(st.sampled_from(["def", "class", "assign", "decorated"]))
    if form == "assign":
        return f"{draw(st.sampled_from('KL'))} = {value}\n"
    if form == "class":
        base = draw(st.sampled_from(["", "(A)", "(B)", "(list)"]))
        made = draw(
            st.sampled_from(
                [
                    "",
                    '    def __init__(self):\n        """I."""\n',
                    '    def __init_subclass__(cls):\n        """S."""\n',
                    '    def go(self=None):\n        """G."""\n',
                ]
            )
        )
        return f'class {draw(st.sampled_from("AB"))}{base}:\n    """D."""\n\n    here = {value}\n\n{made}'
    mark = "@functools.lru_cache\n" if form == "decorated" else ""
    return f'{mark}def {draw(st.sampled_from("fg"))}(x={value}):\n    """D."""\n    return x\n'


@given(st.lists(statements(), min_size=1, max_size=6))
@settings(max_examples=400, deadline=None)
def test_what_is_taken_can_be_imported(texts):
    items = []
    for text in texts:
        unit = "" if text.startswith(("def", "class", "@")) else 'def only():\n    """D."""\n'
        items.append(parsed("import functools\n" + text + (unit.replace("only", f"only{len(items)}")), []))
    source = Source("shop/a.py", "area", "")
    good, wrong = accept(source, items, Project(PATHS, {}, UPSTREAM))
    assert len(good) + len(wrong) >= 1
    if not good:
        return
    try:
        exec(compile(source.render(), "a.py", "exec"), {"__name__": "a"})
    except (AttributeError, TypeError):
        pass  # of a value that has no such attribute or cannot be called: what it is was not ours to know
