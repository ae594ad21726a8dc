"""Import edges against grimp and against the interpreter itself; layouts, kinds and re-exports.

Two independent oracles: grimp's import graph (its own parser and resolver, in Rust) for which module imports which,
and a Python process that imports the package for what an imported name stands for.
"""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from grimp import build_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zerorepo_calls import copied, release
from zerorepo_trees import edges_of, graph_of, write

from zerorepo.encode import encode
from zerorepo.graph import IMPORTS, Edge, Graph
from zerorepo.modules import dotted_prefix
from zerorepo.sources import WorkTree

GRIMP = """
import grimp, json, sys
for name in sys.argv[1:]:
    graph = grimp.build_graph(name, include_external_packages=False, cache_dir=None)
    print(json.dumps([sorted(graph.modules), [[m, d] for m in graph.modules for d in graph.find_modules_directly_imported_by(m)]]))
"""
# stdin: [[file's package, module, name], ...]; stdout: what each name is once all of it was imported.
INTERPRETER = """
import importlib, inspect, json, sys, types, warnings
warnings.simplefilter("ignore")
told = []
for package, module, name in json.load(sys.stdin):
    try:
        value = getattr(importlib.import_module(module, package or None), name)
    except (ImportError, AttributeError):
        told.append(None)
        continue
    if isinstance(value, types.ModuleType):
        told.append(["module", getattr(value, "__file__", None)])
    elif isinstance(value, type | types.FunctionType):
        value = inspect.unwrap(value)
        first = value.__code__.co_firstlineno if isinstance(value, types.FunctionType) else None
        told.append(["unit", getattr(sys.modules.get(value.__module__), "__file__", None), value.__qualname__, first])
    else:
        told.append(["value"])
print(json.dumps(told))
"""


def python(code: str, *words: str, where: Path, stdin: str = "", quick: bool = False) -> str:
    """A fresh interpreter that finds packages in `where` before any installed ones; `quick` has no installed ones."""
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *(["-S"] if quick else []), "-c", code, *words],
        input=stdin,
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def grimp(where: Path, *names: str) -> list[tuple[set[str], set[tuple[str, str]]]]:
    """(modules, importer and imported) of packages in a folder, each in a process that has imported none of them."""
    told = [json.loads(line) for line in python(GRIMP, *names, where=where).splitlines()]
    return [(set(modules), {(a, b) for a, b in pairs}) for modules, pairs in told]


def pairs_of(graph: Graph, package: str, below: str = "") -> tuple[set[str], set[tuple[str, str]]]:
    """Modules of a graph and import pairs, under dotted names. below: folder of the package inside the graph's root."""

    def dotted(path: str) -> str:
        inside = path.removeprefix(below).removesuffix(".py").replace("/", ".")
        return ".".join(filter(None, (package, inside.removesuffix("__init__").rstrip("."))))

    files = {
        node.path
        for node in graph.nodes
        if node.kind == "file" and node.path.endswith(".py") and node.path.startswith(below)
    }
    return set(map(dotted, files)), {(dotted(a), dotted(b)) for a, b in edges_of(graph, *IMPORTS) if {a, b} <= files}


@pytest.fixture(scope="module")
def networkx(tmp_path_factory) -> Path:
    return copied("networkx", tmp_path_factory.mktemp("imports"))


@pytest.mark.parametrize(
    ("name", "known"), [("networkx", {"networkx 3.6.1": (288, 800)}), ("requests", {"requests 2.32.5": (18, 55)})]
)
def test_pairs_equal_grimps(tmp_path, name, known):
    """Section 5 counts 288 modules and 800 pairs in networkx 3.6.1, 18 and 55 in requests 2.32.5; any release equals grimp's."""
    package = copied(name, tmp_path)
    [(modules, pairs)] = grimp(tmp_path, name)
    ours = pairs_of(encode(WorkTree(package), dotted_prefix(package)), name)
    assert ours == (modules, pairs)
    assert (len(modules), len(pairs)) == known.get(release(name), (len(modules), len(pairs)))
    # The same from a folder above the package, and from one that holds it under src.
    assert pairs_of(encode(WorkTree(tmp_path)), name, name + "/") == (modules, pairs)
    (tmp_path / "far" / "src").mkdir(parents=True)
    package.rename(tmp_path / "far" / "src" / name)
    assert pairs_of(encode(WorkTree(tmp_path / "far")), name, f"src/{name}/") == (modules, pairs)


def resolved_by_both(root: Path, graph: Graph, package: str) -> Counter:
    """For every `from x import name` of a graph: agreement with the interpreter; disagreements under their own key."""
    asked, ours = [], []
    edges: dict[tuple[str, str], list[Edge]] = {}
    for edge in graph.edges:
        if edge.type in IMPORTS:
            edges.setdefault((edge.src, edge.payload["name"]), []).append(edge)
    for node in graph.nodes:
        counts = Counter(one.name for one in node.imports)
        for one in node.imports:
            found = edges.get((node.path, one.name), [])
            if one.name not in ("", "*") and counts[one.name] == 1 and len(found) == 1:
                folder = node.path.rpartition("/")[0].replace("/", ".")
                asked.append([".".join(filter(None, (package, folder))), one.module, one.name])
                ours.append((node.path, found[0].payload["resolved"]))
    told = json.loads(
        python(INTERPRETER, where=root.parent if package else root, stdin=json.dumps(asked), quick=not package)
    )
    lines = {node.id: node.span[0] for node in graph.nodes if node.qualname}
    score: Counter = Counter()
    for (path, resolved), question, answer in zip(ours, asked, told, strict=True):
        if answer is None or answer[0] == "value" or answer[1] is None or not Path(answer[1]).is_relative_to(root):
            score["no answer" if answer is None else "value"] += 1
            continue
        file = Path(answer[1]).relative_to(root).as_posix()
        if answer[0] == "module":
            alike = resolved == file
        else:
            alike = str(resolved).replace("#2", "") == f"{file}:{answer[2]}" and answer[3] in (
                None,
                lines.get(resolved),
            )
        score["agree" if alike else f"{path}: {question[1]}.{question[2]}: {resolved} is {answer[1:]}"] += 1
    return score


def test_resolved_equals_what_the_interpreter_says(networkx):
    """The definition behind every imported name: its module, qualified name and first line."""
    score = resolved_by_both(networkx, encode(WorkTree(networkx), "networkx"), "networkx")
    assert score.pop("agree") > 400
    # `_dispatchable` is a class and, where an environment variable is set, also a function further down.
    assert [key for key in score if key not in ("value", "no answer") and "_dispatchable" not in key] == []


# ------------------------------------------------------------ written cases


TWO = "def f(): pass\ndef g(): pass\n"


def imports(files: dict, prefix: str = "") -> dict[tuple[str, str], list[tuple[str, str | None]]]:
    """(file, name) to the targets and definitions of its edges."""
    found: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    for edge in graph_of(files, prefix).edges:
        if edge.type in IMPORTS:
            found.setdefault((edge.src, edge.payload["name"]), []).append((edge.dst, edge.payload["resolved"]))
    return found


def test_kinds():
    text = """
import a
from typing import TYPE_CHECKING
import typing as t
if TYPE_CHECKING:
    import b
elif t.TYPE_CHECKING:
    import h
else:
    import c
try:
    import d
except ImportError:
    d = None
else:
    import e
def later():
    import i
    class Inner:
        import j
class At:
    import k
if t.TYPE_CHECKING:
    from m import f
with open("x") as x, open("y"):
    import n
for o in ():
    import o
"""
    graph = graph_of({"u.py": text, **{f"{name}.py": TWO for name in "abcdehijkmno"}})
    kinds = {dst: edge.type for edge in graph.edges if edge.type in IMPORTS for dst in [edge.dst.removesuffix(".py")]}
    assert kinds == {
        **dict.fromkeys("acdekno", "imports"), **dict.fromkeys("bhm", "imports_typing"), **dict.fromkeys("ij", "imports_lazy"),
    }  # fmt: skip


def test_both_kinds_of_one_pair():
    graph = graph_of({"a.py": "import b\ndef f():\n    import b\n", "b.py": ""})
    assert edges_of(graph, "imports") == edges_of(graph, "imports_lazy") == {("a.py", "b.py")}


def test_target_and_definition_are_kept_apart():
    """The file a statement names, and the definition it comes to, through re-exports under other names and stars."""
    found = imports({
        "pkg/__init__.py": "from .top import *\nfrom .low.deep import h as renamed\nfrom . import low\n",
        "pkg/top.py": "__all__ = ['f', 'late']\nfrom .low import *\nfrom .low import f as late\n",
        "pkg/low/__init__.py": "from .deep import f, _hidden, Thing\n",
        "pkg/low/deep.py": "def f(): pass\ndef h(): pass\ndef _hidden(): pass\nclass Thing: pass\nTABLE = {}\n",
        "u.py": "from pkg import f, renamed, late, low, Thing, missing\nfrom pkg.low.deep import TABLE\nimport pkg.low.deep\nfrom pkg.low import *\n",
    })  # fmt: skip
    init, deep = "pkg/__init__.py", "pkg/low/deep.py"
    assert found["u.py", "f"] == [(init, deep + ":f")]
    assert found["u.py", "renamed"] == [(init, deep + ":h")]
    assert found["u.py", "late"] == [(init, deep + ":f")]
    assert found["u.py", "low"] == [("pkg/low/__init__.py", "pkg/low/__init__.py")]
    assert found["u.py", "Thing"] == [(init, None)], "__all__ of top.py does not let it out"
    assert found["u.py", "missing"] == [(init, None)]
    assert found["u.py", "TABLE"] == [(deep, deep)]
    assert found["u.py", "pkg.low.deep"] == [(deep, deep)]
    assert found["u.py", "*"] == [("pkg/low/__init__.py", "pkg/low/__init__.py")]


def test_a_module_and_a_function_of_one_name():
    """`from .f import f` in `__init__` hides the module f behind the function f, as the interpreter has it."""
    found = imports(
        {"pkg/__init__.py": "from .f import f\n", "pkg/f.py": TWO, "u.py": "from pkg import f\nimport pkg.f\n"}
    )
    assert found["u.py", "f"][0][1] == "pkg/f.py:f" and found["u.py", "pkg.f"] == [("pkg/f.py", "pkg/f.py")]


def test_a_submodule_comes_before_one_that_a_star_brings():
    files = {
        "pkg/__init__.py": "from pkg.other import *\nfrom pkg import same\n", "pkg/same/__init__.py": TWO,
        "pkg/other/__init__.py": "from pkg.other.same import *\n", "pkg/other/same.py": "def h(): pass\n", "u.py": "from pkg import same\nsame.f()\n",
    }  # fmt: skip
    assert imports(files)["u.py", "same"] == [("pkg/same/__init__.py", "pkg/same/__init__.py")]
    assert ("u.py", "pkg/same/__init__.py:f") in edges_of(graph_of(files), "invokes")


def test_relative_imports():
    found = imports({
        "pkg/__init__.py": "from . import a\nfrom .sub.c import f\n", "pkg/a.py": "from .sub import c\nfrom .sub.c import g\nfrom . import missing\n",
        "pkg/sub/__init__.py": "", "pkg/sub/c.py": "from .. import a\nfrom ..a import x\nfrom ... import pkg\nfrom .... import far\n" + TWO,
    })  # fmt: skip
    pairs = {(src, name, dst) for (src, name), [(dst, _)] in found.items()}
    assert pairs == {
        ("pkg/__init__.py", "a", "pkg/a.py"), ("pkg/__init__.py", "f", "pkg/sub/c.py"), ("pkg/a.py", "c", "pkg/sub/c.py"),
        ("pkg/a.py", "g", "pkg/sub/c.py"), ("pkg/a.py", "missing", "pkg/__init__.py"), ("pkg/sub/c.py", "a", "pkg/a.py"),
        ("pkg/sub/c.py", "x", "pkg/a.py"), ("pkg/sub/c.py", "pkg", "pkg/__init__.py"),
    }  # fmt: skip


# files, prefix, {(importer, name): target or None}
LAYOUTS: dict[str, tuple[dict[str, str], dict[tuple[str, str], str | None]]] = {
    "src": ({"src/pkg/__init__.py": "", "src/pkg/a.py": TWO, "tests/test_a.py": "import pkg.a\nfrom pkg import a"}, {("tests/test_a.py", "pkg.a"): "src/pkg/a.py", ("tests/test_a.py", "a"): "src/pkg/a.py"}),
    "flat": ({"pkg/__init__.py": "", "pkg/a.py": TWO, "setup.py": "import pkg.a"}, {("setup.py", "pkg.a"): "pkg/a.py"}),
    "scripts beside each other": ({"bin/one.py": "import two", "bin/two.py": TWO}, {("bin/one.py", "two"): "bin/two.py"}),
    "several distributions": (
        {"tools/x/x/__init__.py": "import y.a", "tools/y/y/__init__.py": "", "tools/y/y/a.py": "import x", "tools/y/bench/run.py": "import y.a"},
        {("tools/x/x/__init__.py", "y.a"): "tools/y/y/a.py", ("tools/y/y/a.py", "x"): "tools/x/x/__init__.py", ("tools/y/bench/run.py", "y.a"): "tools/y/y/a.py"},
    ),
    "one name in several distributions": (
        {"one/lib/__init__.py": TWO, "one/app/main.py": "import lib", "two/lib/__init__.py": TWO, "two/app/main.py": "import lib"},
        {("one/app/main.py", "lib"): "one/lib/__init__.py", ("two/app/main.py", "lib"): "two/lib/__init__.py"},
    ),
    "namespace package": ({"ns/one/__init__.py": "from ns.two import b", "ns/two/b.py": "import ns.one"}, {("ns/one/__init__.py", "b"): "ns/two/b.py", ("ns/two/b.py", "ns.one"): "ns/one/__init__.py"}),
    "vendored": (
        {"pkg/__init__.py": "from pkg._vendor import six", "pkg/_vendor/__init__.py": "", "pkg/_vendor/six.py": "import six\nfrom . import deep", "pkg/_vendor/deep.py": "", "pkg/a.py": "import six"},
        {("pkg/__init__.py", "six"): "pkg/_vendor/six.py", ("pkg/_vendor/six.py", "six"): None, ("pkg/_vendor/six.py", "deep"): "pkg/_vendor/deep.py", ("pkg/a.py", "six"): None},
    ),
    "named like the standard library, elsewhere": ({"tools/json.py": TWO, "pkg/__init__.py": "", "pkg/a.py": "import json\nimport logging", "pkg/logging.py": TWO}, {("pkg/a.py", "json"): None, ("pkg/a.py", "logging"): None}),
    "named like the standard library, beside": ({"tools/json.py": TWO, "tools/a.py": "import json"}, {("tools/a.py", "json"): "tools/json.py"}),
    "a package and a module of one name": ({"a.py": TWO, "a/__init__.py": TWO, "u.py": "import a"}, {("u.py", "a"): "a/__init__.py"}),
    "a folder and a module of one name": ({"a.py": TWO, "a/data.py": TWO, "u.py": "import a"}, {("u.py", "a"): "a.py"}),
    "below a module": ({"a.py": TWO, "u.py": "import a.b\nfrom a.b import c"}, {("u.py", "a.b"): None, ("u.py", "c"): None}),
    "main": ({"pkg/__init__.py": "", "pkg/__main__.py": "from pkg import a\nimport pkg", "pkg/a.py": ""}, {("pkg/__main__.py", "a"): "pkg/a.py", ("pkg/__main__.py", "pkg"): "pkg/__init__.py"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    files, wanted = LAYOUTS[name]
    found = imports(files)
    assert {key: found[key][0][0] if key in found else None for key in wanted} == wanted


def test_every_module_is_found_whatever_imports_it_twice():
    """`import a.b, a.c` binds a once but names two files."""
    graph = graph_of(
        {"a/__init__.py": "", "a/b.py": TWO, "a/c.py": TWO, "u.py": "import a.b, a.c as d\nimport a\na.b.f()\nd.g()\n"}
    )
    assert edges_of(graph, "imports") == {("u.py", "a/b.py"), ("u.py", "a/c.py"), ("u.py", "a/__init__.py")}
    assert edges_of(graph, "invokes") == {("u.py", "a/b.py:f"), ("u.py", "a/c.py:g")}


def test_a_name_that_a_later_import_does_not_find_stays_what_it_was():
    later = (
        "try: from pkg.a import f\nexcept ImportError: pass\ntry: from pkg.a import g as f\nexcept ImportError: pass\n"
    )
    graph = graph_of(
        {"pkg/__init__.py": "", "pkg/a.py": "def f(): pass\n", "pkg/d.py": later, "u.py": "from pkg.d import f\nf()\n"}
    )
    assert ("u.py", "pkg/a.py:f") in edges_of(graph, "invokes")


# ------------------------------------------------------------ random packages


@st.composite
def packages(draw: st.DrawFn) -> dict[str, str]:
    """A package whose modules import only from ones written before them, so that every import succeeds. No two
    modules have one name: which of them `pkg.a` is would depend on which was imported last."""
    places = [
        "pkg/a.py",
        "pkg/b.py",
        "pkg/sub/__init__.py",
        "pkg/sub/c.py",
        "pkg/sub/d.py",
        "pkg/__init__.py",
        "pkg/sub/low/__init__.py",
        "pkg/sub/low/e.py",
    ]
    order = draw(st.permutations(places))
    order = order[: draw(st.integers(3, len(order)))]
    needed = [
        f"{folder}/__init__.py"
        for path in order
        for folder in ("pkg", "pkg/sub", "pkg/sub/low")
        if path.startswith(folder + "/")
    ]
    files = {path: "" for path in dict.fromkeys(needed) if path not in order}
    for place, path in enumerate(order):
        earlier = order[:place]
        stars, lines, defined = [], [], draw(st.sets(st.sampled_from(["f", "g", "C"]), max_size=2))
        for _ in range(draw(st.integers(0, 3)) if earlier else 0):
            target = draw(st.sampled_from(earlier))
            module = target.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            kind = draw(st.sampled_from(["from", "from", "star", "import", "module"]))
            if kind == "from":
                alias = draw(st.sampled_from(["", "", " as f", " as h"]))
                lines.append(f"from {module} import {draw(st.sampled_from(['f', 'g', 'C', 'h']))}{alias}")
            elif kind == "star":
                stars.append(f"from {module} import *")
            elif kind == "import":
                lines.append(f"import {module}")
            elif "." in module:
                above, _, last = module.rpartition(".")
                lines.append(f"from {above} import {last}")
        exported = draw(st.sampled_from([None, None, ["f"], ["f", "C"]]))
        body = [f"class {name}: pass" if name == "C" else f"def {name}(): pass" for name in sorted(defined)]
        if exported is not None:
            body.append(f"__all__ = {[name for name in exported if name in defined]!r}")
        # `try`: a name that the target lacks stops nothing; it then has no answer from the interpreter either.
        files[path] = "\n".join([*stars, *(f"try: {line}\nexcept ImportError: pass" for line in lines), *body]) + "\n"
    return files


_NUMBERS = itertools.count()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(packages())
def test_random_packages(tmp_path_factory, files):
    """Pairs as grimp has them and definitions as the interpreter has them."""
    name = f"pkg{next(_NUMBERS)}x"  # grimp, and what it asks, remember names
    root = write(
        tmp_path_factory.mktemp("random"),
        {path.replace("pkg", name, 1): text.replace("pkg", name) for path, text in files.items()},
    )
    graph = encode(WorkTree(root))
    sys.path.insert(0, str(root))
    try:
        theirs = build_graph(name, cache_dir=None)
    finally:
        sys.path.remove(str(root))
    pairs = {
        (module, imported) for module in theirs.modules for imported in theirs.find_modules_directly_imported_by(module)
    }
    assert pairs_of(graph, name, name + "/") == (theirs.modules, pairs)
    score = resolved_by_both(root, graph, "")
    assert [key for key in score if key not in ("agree", "value", "no answer")] == []
