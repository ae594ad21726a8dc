"""Call edges against calls that happened: tests of networkx run under sys.setprofile.

A pair of units in which one called the other is an independent oracle. Of pairs whose callee's name stands in a call
of the caller, the graph must have at least 0.60; of the graph's edges whose caller ran, the share that happened is
its precision, which no test run can make 1: much that could be called was not.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from zerorepo_calls import TRACER, Score, copied, score
from zerorepo_trees import edges_of, graph_of

from zerorepo.encode import encode
from zerorepo.sources import WorkTree

NAMES = ("dag", "core", "digraph", "matching")  # bench/calls.py runs all seven


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Score:
    folder = tmp_path_factory.mktemp("calls")
    package = copied("networkx", folder)
    trace, elsewhere = folder / "trace.json", folder / "run"
    elsewhere.mkdir()  # where the copy, which has no tests, is not found in place of the installed package
    done = subprocess.run(
        [sys.executable, "-c", TRACER, str(trace), *NAMES], capture_output=True, text=True, cwd=elsewhere
    )
    assert trace.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return score(encode(WorkTree(package), "networkx"), package, json.loads(trace.read_text()))


def test_recall_of_what_can_be_seen(scored):
    assert len(scored.happened) > 300 and len(scored.visible) > 150
    assert scored.recall >= 0.60, scored


def test_precision_by_confidence(scored):
    """Better evidence is right more often; all of it together stays above what the graph of the paper's own code has (0.463)."""
    share = {name: scored.precision(name) for name in ("exact", "inferred", "name_only")}
    assert share["inferred"] > share["name_only"] and share["exact"] > share["name_only"], share
    assert scored.precision("exact", "inferred", "name_only") > 0.463, share


def called(text: str, **files: str) -> set[str]:
    """The units that `use` in u.py calls; the file defines more above it."""
    graph = graph_of({"u.py": text, **{name + ".py": data for name, data in files.items()}})
    return {dst for src, dst in edges_of(graph, "invokes") if src == "u.py:use"}


SHAPE = (
    "class Shape:\n    def __init__(self): pass\n    def area(self): pass\n    @property\n    def size(self): pass\n"
)
ROUND = SHAPE + "class Round(Shape):\n    def area(self): pass\n    def both(self): pass\n"
CALLS = {
    "a function": ("def f(): pass\ndef use(): f()", {"u.py:f"}),
    "a parameter of the same name": ("def f(): pass\ndef use(f): f()", set()),
    "a local of the same name": ("def f(): pass\ndef use():\n    f = print\n    f()", set()),
    "an import inside": ("def use():\n    from a import f\n    f()", {"a.py:f"}),
    "a module's function": ("import a\ndef use(): a.f()", {"a.py:f"}),
    "a renamed module": ("import a as b\ndef use(): b.f()", {"a.py:f"}),
    "something from elsewhere": ("import os\ndef f(): pass\ndef use(): os.f()", set()),
    "a class": (SHAPE + "def use(): Shape()", {"u.py:Shape", "u.py:Shape.__init__"}),
    "a class without a constructor": (ROUND + "def use(): Round()", {"u.py:Round", "u.py:Shape.__init__"}),
    "an instance": (ROUND + "def use():\n    r = Round()\n    r.area()", {"u.py:Round", "u.py:Shape.__init__", "u.py:Round.area"}),
    "an annotated parameter": (ROUND + "def use(r: Round): r.area()", {"u.py:Round.area"}),
    "a quoted annotation": (ROUND + "def use(r: 'Round | None'): r.area()", {"u.py:Round.area"}),
    "an optional": (ROUND + "def use(r: Optional[Round]): r.area()", {"u.py:Round.area"}),
    "an inherited method": ("class A:\n    def m(self): pass\nclass B(A): pass\ndef use(b: B): b.m()", {"u.py:A.m"}),
    "a property read": (SHAPE + "def use(s: Shape): return s.size", {"u.py:Shape.size"}),
    "what a function gives": (ROUND + "def make() -> Round: pass\ndef use(): make().both()", {"u.py:make", "u.py:Round.both"}),
    "what a context gives": (ROUND + "def use():\n    with Round() as r: r.both()", {"u.py:Round", "u.py:Shape.__init__", "u.py:Round.both"}),
    "a nested function": ("def use():\n    def inner(): pass\n    inner()", {"u.py:use.inner"}),
    "a raised class": ("class E(Exception): pass\ndef use(): raise E", {"u.py:E"}),
    "a recursion": ("def use(): use()", {"u.py:use"}),
    "one method of a name": ("class A:\n    def crunch(self): pass\ndef use(x): x.crunch()", {"u.py:A.crunch"}),
    "a method of strings": ("class A:\n    def split(self): pass\ndef use(x): x.split()", set()),
    "methods of strangers": ("class A:\n    def crunch(self): pass\nclass B:\n    def crunch(self): pass\ndef use(x): x.crunch()", set()),
    "a family": ("class A:\n    def crunch(self): pass\nclass B(A):\n    def crunch(self): pass\ndef use(x): x.crunch()", {"u.py:A.crunch", "u.py:B.crunch"}),
    "a default argument": ("def f(): pass\ndef use(x=f()): pass", set()),  # runs where use is defined, not in it
    "an awaited call": ("async def f(): pass\nasync def use(): await f()", {"u.py:f"}),
    "a comprehension": ("def f(): pass\ndef use(): return [f() for _ in ()]", {"u.py:f"}),
    "a lambda": ("def f(): pass\ndef use(): return lambda: f()", {"u.py:f"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    text, wanted = CALLS[name]
    assert called(text, a="def f(): pass\n") == wanted


def test_calls_at_the_margin():
    """Module level, class bodies, decorators and defaults belong to the file or class in which they run."""
    text = "from a import f, Deco\ndef g(): pass\nf()\ng()\nclass C:\n    x = f()\n    def m(self, y=g()): pass\n@f\ndef h(): pass\nclass D(C): pass\n"
    graph = graph_of({"u.py": text, "a.py": "def f(): pass\nclass Deco: pass\n"})
    assert edges_of(graph, "invokes") == {
        ("u.py", "a.py:f"),
        ("u.py", "u.py:g"),
        ("u.py:C", "a.py:f"),
        ("u.py:C", "u.py:g"),
    }
    assert edges_of(graph, "inherits") == {("u.py:D", "u.py:C")}


def test_super_and_diamond():
    text = """
class A:
    def m(self): pass
    def only(self): pass
class B(A):
    def m(self): super().m()
class C(A):
    def m(self): super().m()
class D(B, C):
    def m(self):
        super().m()
        self.only()
    @classmethod
    def make(cls): return cls()
    @staticmethod
    def free(self): self.m()
"""
    found = edges_of(graph_of({"u.py": text}), "invokes")
    assert {(a.partition(":")[2], b.partition(":")[2]) for a, b in found} >= {
        ("B.m", "A.m"),
        ("C.m", "A.m"),
        ("D.m", "B.m"),
        ("D.m", "A.only"),
        ("D.make", "D"),
    }


def test_method_order_is_pythons():
    """The order of bases of every class of networkx equals its __mro__, for classes of the package."""
    import networkx

    package = Path(networkx.__file__).parent
    code = """
import importlib, inspect, json, pkgutil, sys, networkx
found = {}
for info in pkgutil.walk_packages(networkx.__path__, "networkx."):
    if ".tests" in info.name: continue
    for name, value in vars(importlib.import_module(info.name)).items():
        if isinstance(value, type) and value.__module__ == info.name and value.__qualname__ == name and not hasattr(value, "_fields"):
            found[info.name + ":" + name] = [c.__module__ + ":" + c.__qualname__ for c in value.__mro__ if c.__module__.startswith("networkx")]
print(json.dumps(found))"""
    wanted = json.loads(
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout
    )
    from zerorepo.resolve import Program

    program = Program(encode(WorkTree(package), "networkx").nodes, "networkx")

    def dotted(node_id: str) -> str:
        path, _, name = node_id.partition(":")
        return f"networkx.{path.removesuffix('.py').replace('/', '.').removesuffix('.__init__')}:{name}"

    ours = {
        dotted(node.id): [dotted(base) for base in program.order(node.id)]
        for node in program.nodes.values()
        if node.kind == "class"
    }
    assert len(wanted) > 100
    assert {name: ours[name] for name in wanted} == wanted
