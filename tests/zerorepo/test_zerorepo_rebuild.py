"""`rebuild`: a package with its bodies out that imports, full code whose own tests pass, stubs from a graph alone, and
what is refused. Imports run in fresh interpreters; nothing here trusts the modules it tests to say that they load."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import attr
import click
import networkx
import packaging
import pytest
import requests
import yaml
from zerorepo_trees import git, graph_of, write

from tenfold_shared import BadInput
from tenfold_shared.sandbox import Limits, run
from zerorepo.encode import encode
from zerorepo.generation.rebuild import composed, run_rebuild
from zerorepo.generation.rendering import defaults_elided, rendered
from zerorepo.generation.skeleton import STUB, units_of
from zerorepo.generation.stripping import is_part, strip
from zerorepo.graph import Edge, Graph, Import, Node
from zerorepo.modules import dotted_name
from zerorepo.sources import Held, WorkTree
from zerorepo.validate import problems

COMMAND = Path(sys.executable).parent / "zerorepo"
IMPORT = """
import importlib, json, sys
sys.path.insert(0, ".")
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def imported(folder: Path, names: list[str]) -> dict[str, str]:
    """Module to the error with which it does not import, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT, *names], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def parts(files: Any) -> list[str]:
    return [dotted_name(path, files) for path in sorted(files) if is_part(path, files)]


def package(module: Any, without: str = "") -> dict[str, bytes]:
    """The files of an installed package, without its own tests."""
    top = Path(str(module.__file__)).parent
    return {
        f"{top.name}/{path.relative_to(top).as_posix()}": path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not (without and without in path.parts)
    }


def rebuild(graph: Path, output: Path, code: str = "stubs", **more: Any) -> int:
    given: dict[str, Any] = {"root": None, "rev": None, "alone": False, "unsafe_no_sandbox": False, "overwrite": False}
    return run_rebuild(str(graph), code=code, output=str(output), as_json=False, quiet=True, **{**given, **more})


def encoded(files: dict[str, Any], folder: Path) -> Path:
    """A repository on disk and its graph beside it."""
    write(folder / "repo", files)
    encode(WorkTree(folder / "repo")).save(folder / "rpg.json")
    (folder / "rpg.json.manifest.json").write_text(json.dumps({"options": {"root": "repo"}}))
    return folder / "rpg.json"


# A package that runs its own functions at import in every way we know of, and its tests.
LIVELY = {
    "p/__init__.py": '"""A package that works while it is imported."""\nfrom p.core import VALUE, Registry, table\nfrom p.late import late\n__all__ = ["VALUE", "Registry", "late", "table"]\n',
    "p/core.py": (
        "import atexit\nimport functools\nimport threading\nfrom p import deep\n\n"
        "def deco(f):\n    @functools.wraps(f)\n    def inner(*a):\n        return f(*a)\n    return inner\n\n"
        "def swallowed():\n    return 3\n\n"
        "try:\n    VALUE = swallowed()\nexcept Exception:\n    VALUE = None\n\n"
        "class Meta(type):\n    def __new__(mcs, name, bases, space):\n        return super().__new__(mcs, name, bases, space)\n    def other(cls):\n        return 1\n\n"
        "class Field:\n    def __set_name__(self, owner, name):\n        self.name = name\n    def __get__(self, one, owner):\n        return self.name\n\n"
        "class Registry(metaclass=Meta):\n    known = []\n    field = Field()\n    def __init_subclass__(cls):\n        Registry.known.append(cls)\n"
        "    @deco\n    def used(self, x):\n        'Twice x.'\n        return 2 * x\n    def __len__(self):\n        return len(self.known)\n\n"
        "class Child(Registry):\n    pass\n\n"
        "def rows():\n    yield from (1, 2)\n\n"
        "ROWS = rows()\n\n"
        "def table(n=deep.base()):\n    'n and the rows.'\n    return [n, *ROWS]\n\n"
        "def at_end():\n    deep.log.append('end')\n\n"
        "atexit.register(at_end)\n\n"
        "def threaded():\n    deep.log.append('thread')\n\n"
        "_thread = threading.Thread(target=threaded)\n_thread.start()\n_thread.join()\n\n"
        "later = lambda: unused()\n\n"
        "def unused():\n    return later\n"
    ),
    "p/deep.py": "log = []\n\ndef helper():\n    return 4\n\ndef base():\n    return helper() + 1\n\ndef other():\n    return base()\n",
    "p/late.py": "import inspect\n\ndef late():\n    def inside():\n        return 7\n    return inside()\n\ndef gen():\n    yield 1\n\nassert inspect.isgeneratorfunction(gen)\n\ndef plain():\n    return 1\n",
    "p/broken.py": "import no_such_module_anywhere\n\ndef f():\n    return 1\n",
    "p/quits.py": "import sys\n\ndef f():\n    return 1\n\nsys.exit(3)\n",
    "p/kills.py": "import os\n\ndef f():\n    return 1\n\nos._exit(0)\n",
    "p/data.json": "{}\n",
    "p/__main__.py": "def main():\n    raise SystemExit(5)\n\nmain()\n",
    "setup.py": "def setup():\n    raise SystemExit(9)\n\nsetup()\n",
    "tests/test_p.py": (
        "import p\nfrom p.core import Child, Registry\nfrom p import deep\n\n"
        "def test_all():\n    assert p.VALUE == 3 and p.late() == 7\n    assert Registry().used(4) == 8 and Registry.known == [Child]\n"
        "    assert p.table() == [5, 1, 2] and deep.other() == 5 and Registry.field == 'field' and len(Registry()) == 1\n"
    ),
}  # fmt: skip
RUN_AT_IMPORT = {
    "p/core.py:deco", "p/core.py:swallowed", "p/core.py:Meta.__new__", "p/core.py:Field.__set_name__",
    "p/core.py:Registry.__init_subclass__", "p/core.py:rows", "p/core.py:at_end", "p/core.py:threaded",
    "p/deep.py:base", "p/deep.py:helper",
}  # fmt: skip


@pytest.fixture(scope="module")
def lively() -> Any:
    source = Held({path: text.encode() for path, text in LIVELY.items()})
    return strip(encode(source), source, run=run, others={"p/data.json": b"{}\n"})


# ------------------------------------------------------------ bodies out


def test_what_an_import_runs_keeps_its_body_and_nothing_else_does(lively):
    kept = {one for one, why in lively.kept.items() if why == "import"}
    assert kept == RUN_AT_IMPORT
    assert set(lively.stubbed) == {
        "p/core.py:Meta.other", "p/core.py:Field.__get__", "p/core.py:Registry.used", "p/core.py:Registry.__len__",
        "p/core.py:table", "p/core.py:unused", "p/deep.py:other", "p/__main__.py:main",
    }  # fmt: skip


def test_the_same_package_gives_the_same_skeleton_and_without_a_sandbox_too(lively, tmp_path):
    source = Held({path: text.encode() for path, text in LIVELY.items()})
    again = strip(encode(source), source, run=run, others={"p/data.json": b"{}\n"}, unsafe=True)
    assert again.files == lively.files and again.graph.dumps() == lively.graph.dumps()
    assert again.kept == lively.kept and again.whole == lively.whole


def test_files_that_stay_whole_are_named_with_the_reason(lively):
    assert set(lively.whole) == {"p/broken.py", "p/quits.py", "p/kills.py", "p/late.py"}
    assert "no_such_module_anywhere" in lively.whole["p/broken.py"] and "SystemExit" in lively.whole["p/quits.py"]
    assert "ends the interpreter" in lively.whole["p/kills.py"] and "does not bear stubs" in lively.whole["p/late.py"]
    for path in lively.whole:
        assert lively.files[path] == LIVELY[path].encode()
    assert lively.kept["p/broken.py:f"] == "file" and lively.kept["tests/test_p.py:test_all"] == "outside"
    assert lively.files["setup.py"] == LIVELY["setup.py"].encode()


def test_the_skeleton_imports_and_its_graph_is_sound(lively, tmp_path):
    write(tmp_path, lively.files)
    assert imported(tmp_path, ["p", "p.core", "p.late", "p.deep"]) == {}
    assert problems(lively.graph.dumps()) == []
    found = encode(Held(lively.files)).by_id
    for node in lively.graph.nodes:
        if node.kind in ("file", "class", "function", "method"):
            assert found[node.id].sha256 == node.sha256 and found[node.id].span == node.span
        if node.status == "stubbed":
            unit = units_of(lively.files[node.path].decode())[node.qualname]
            assert ast.unparse(unit.definition.body[-1]) == STUB
        else:
            assert node.status == "done"


def test_the_graph_of_a_skeleton_keeps_what_the_bodies_said(lively):
    """Dependencies of what is out, those of inner functions with the one they went with; none of what is gone."""
    calls = {(edge.src, edge.dst) for edge in lively.graph.edges if edge.type == "invokes"}
    assert ("p/deep.py:other", "p/deep.py:base") in calls
    ids = {node.id for node in lively.graph.nodes}
    assert all(edge.src in ids and edge.dst in ids for edge in lively.graph.edges)
    source = {
        "a.py": "def outer():\n    def inner():\n        return other()\n    return inner\n\ndef other():\n    return 1\n"
    }
    held = Held({path: text.encode() for path, text in source.items()})
    found = strip(encode(held), held, run=run)
    assert ("a.py:outer", "a.py:other") in {(one.src, one.dst) for one in found.graph.edges if one.type == "invokes"}
    assert "a.py:outer.inner" not in found.graph.by_id


def test_features_that_a_model_named_stay():
    held = Held({"a.py": b"def f():\n    def g():\n        return 1\n    return g()\n"})
    graph = encode(held)
    nodes = [Node(id="#Area", kind="area", name="Area"), Node(id="#Area/c", kind="category", name="c"),
             Node(id="#Area/c/g", kind="group", name="g"),
             Node(id="#Area/c/g/one", kind="feature", name="one", path="a.py", qualname="f.g", provenance="m k")]  # fmt: skip
    ends = [(".", "#Area"), ("#Area", "#Area/c"), ("#Area/c", "#Area/c/g"), ("#Area/c/g", "#Area/c/g/one")]
    lifted = Graph([*graph.nodes, *nodes], [*graph.edges, *(Edge(src=a, dst=b, type="contains") for a, b in ends)])
    found = strip(lifted, held, run=run).graph
    assert found.by_id["#Area/c/g/one"].qualname == "f" and found.by_id["#Area/c/g/one"].provenance == "m k"
    assert problems(found.dumps()) == []


def test_a_long_chain_of_calls_takes_two_runs():
    """A profile of the first import finds what stubs would find one after another; the second run confirms it."""
    chain = "".join(f"def f{n}():\n    return f{n + 1}() if {n} < 30 else 0\n" for n in range(31))
    source, count = Held({"m.py": (chain + "X = f0()\n").encode()}), []

    def counted(*words: Any, **more: Any) -> Any:
        count.append(1)
        return run(*words, **more)

    found = strip(encode(source), source, run=counted)
    assert len(found.kept) == 31 and len(count) == 2


def test_an_import_that_never_ends_is_told():
    held = Held({"p.py": b"import time\ntime.sleep(60)\n"})
    with pytest.raises(ValueError, match=r"came to no end: killed \(timeout\)"):
        strip(encode(held), held, run=run, limits=Limits(wall_s=1))


def test_a_package_that_is_the_root_itself():
    files = {
        "__init__.py": b"from deep.pkg.a import f\nX = f()\n",
        "a.py": b"def f():\n    return 1\n\ndef g():\n    return f()\n",
    }
    held = Held(files)
    found = strip(encode(held, "deep.pkg"), held, run=run)
    assert found.stubbed == ["a.py:g"] and found.kept == {"a.py:f": "import"} and found.whole == {}


def test_what_belongs_to_the_package():
    files = {"src/p/__init__.py", "src/p/a.py", "setup.py", "docs/conf.py", "docs/__init__.py", "docs/x.py", "tools/a.py",
             "tests/test_a.py", "p/test_b.py", "p/__main__.py", "m.py", "benchmarks/__init__.py", "benchmarks/b.py"}  # fmt: skip
    assert {path for path in files if is_part(path, files)} == {"src/p/__init__.py", "src/p/a.py", "m.py"}
    assert is_part("tools/a.py", files | {"tools/__init__.py"})


@pytest.mark.parametrize("module", [click, requests, attr, yaml, packaging], ids=lambda module: module.__name__)
def test_a_real_package_imports_with_its_bodies_out(module, tmp_path):
    files = package(module)
    held = Held(files)
    data = {path: content for path, content in files.items() if not path.endswith(".py")}
    found = strip(encode(held), held, run=run, others=data)
    write(tmp_path, {**data, **found.files})
    failed = imported(tmp_path, [name for path, name in zip(sorted(files), [dotted_name(p, files) for p in sorted(files)], strict=True) if is_part(path, files) and path not in found.whole])  # fmt: skip
    assert failed == {}
    total = len(found.stubbed) + sum(why != "outside" for why in found.kept.values())
    assert len(found.stubbed) > 0.5 * total and all(
        "cannot be imported as it is" in why for why in found.whole.values()
    )
    assert problems(found.graph.dumps()) == []


# ------------------------------------------------------------ full code


def test_full_code_is_the_repository_and_its_tests_pass(tmp_path):
    graph = encoded(LIVELY, tmp_path)
    assert rebuild(graph, tmp_path / "out", "full") == 0
    for path, text in LIVELY.items():
        assert (tmp_path / "out" / path).read_text() == text
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "tests"], cwd=tmp_path / "out", env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    assert rebuild(graph, tmp_path / "stubs") == 0
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "tests"], cwd=tmp_path / "stubs", env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1 and "NotImplementedError" in done.stdout


@pytest.mark.deep
def test_networkx_composed_of_its_units_passes_its_own_tests(tmp_path):
    """Its tests are in the wheel; those of one folder are run on the composed copy."""
    tests = [f"networkx/algorithms/tests/test_{name}.py" for name in ("core", "dag")] + [
        "networkx/classes/tests/test_digraph.py"
    ]
    helpers = ("networkx/classes/tests/test_graph.py", "networkx/classes/tests/historical_tests.py")
    files = {
        path: data
        for path, data in package(networkx).items()
        if "/tests/" not in path or path in (*tests, *helpers) or path.endswith("/__init__.py")
    }
    some = ("networkx/classes/", "networkx/utils/", "networkx/algorithms/dag", "networkx/algorithms/c")
    graph = encode(Held({path: data for path, data in files.items() if path.startswith(some)}))
    whole = composed(graph, files)
    assert whole == files and sum(node.kind == "file" for node in graph.nodes) > 40
    write(tmp_path, whole)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull, "--rootdir=.", *tests], cwd=tmp_path, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and " passed" in done.stdout and "failed" not in done.stdout, done.stdout[-2000:]


def test_what_is_not_as_in_the_graph_is_named_and_nothing_is_written(tmp_path):
    graph = encoded(LIVELY, tmp_path)
    repo = tmp_path / "repo"
    (repo / "p/deep.py").write_text(LIVELY["p/deep.py"].replace("return 4", "return 5"))
    (repo / "p/late.py").write_text(LIVELY["p/late.py"] + "x = 1\n")
    (repo / "p/new.py").write_text("")
    (repo / "p/quits.py").unlink()
    for code in ("full", "stubs"):
        with pytest.raises(BadInput) as told:
            rebuild(graph, tmp_path / "out", code)
        words = str(told.value)
        assert (
            "p/deep.py:helper" in words
            and "p/late.py: differs outside" in words
            and "p/new.py: not in the graph" in words
        )
        assert "p/quits.py: not there" in words and "zerorepo update" in words
        assert not (tmp_path / "out").exists()


def test_a_graph_whose_unit_differs_from_its_file_is_named(tmp_path):
    graph = encoded(LIVELY, tmp_path)
    text = graph.read_text()
    old = Graph.load(graph).by_id["p/deep.py:helper"].sha256
    graph.write_text(text.replace(old, "0" * 64))
    with pytest.raises(BadInput, match=r"p/deep\.py:helper"):
        rebuild(graph, tmp_path / "out", "full")


def test_files_that_cannot_be_put_together_again_are_refused(monkeypatch):
    files = {"a.py": b"def f():\n    return 1\n"}
    monkeypatch.setattr("zerorepo.generation.rebuild.with_units", lambda source, units: source)
    with pytest.raises(BadInput, match=r"a\.py: cannot be put together"):
        composed(encode(Held(files)), files)


def test_a_commit_is_read_where_the_files_have_moved_on(tmp_path):
    graph = encoded(LIVELY, tmp_path)
    repo = tmp_path / "repo"
    git(repo, "init", "-q")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "one")
    (repo / "p/deep.py").write_text("changed = 1\n")
    (repo / "p/data.json").write_text("[1]\n")
    assert rebuild(graph, tmp_path / "out", "full", rev="HEAD") == 0
    assert (tmp_path / "out/p/deep.py").read_text() == LIVELY["p/deep.py"]
    assert (tmp_path / "out/p/data.json").read_text() == "{}\n"


def test_odd_files_of_a_repository(tmp_path):
    """Other encodings, files that are no Python, other languages, scripts, executables, links."""
    files = {
        "a.py": "# coding: latin-1\ndef f():\n    'é'\n    return 'é'\n".encode("latin-1"), "b.py": "\ufeffx = 1\r\n".encode(),
        "py2.py": b"print 'x'\n", "m.js": b"x\n", "run": b"#!/usr/bin/env python\ndef f(): pass\n", "Makefile": b"all:\n",
        "empty.py": b"", "d/data.bin": bytes(range(256)),
    }  # fmt: skip
    graph = encoded(files, tmp_path)
    (tmp_path / "repo/link.txt").symlink_to("/etc/passwd")
    for code in ("full", "stubs"):
        assert rebuild(graph, tmp_path / code, code) == 0
        made = {path.relative_to(tmp_path / code).as_posix(): path.read_bytes() for path in (tmp_path / code).rglob("*") if path.is_file()}  # fmt: skip
        assert made.keys() == files.keys() | {"rpg.json", "manifest.json"}
        same = [path for path in files if made[path] == files[path]]
        assert set(same) == (set(files) if code == "full" else set(files) - {"a.py"})
    assert (tmp_path / "stubs/a.py").read_bytes() == files["a.py"].replace(
        "return 'é'".encode("latin-1"), STUB.encode()
    )


def test_an_output_of_other_files_is_not_taken_for_complete(tmp_path):
    graph = encoded(LIVELY, tmp_path)
    assert rebuild(graph, tmp_path / "out", "full") == 0
    (tmp_path / "repo/p/data.json").write_text("[2]\n")
    with pytest.raises(BadInput, match="other content of the input"):
        rebuild(graph, tmp_path / "out", "full")
    assert rebuild(graph, tmp_path / "out", "full", overwrite=True) == 0
    assert (tmp_path / "out/p/data.json").read_text() == "[2]\n"


# ------------------------------------------------------------ stubs from a graph alone


def plain(node: Node) -> str:
    """A header with its spaces normalised and defaults that are no literals elided, by the syntax tree."""
    tree: Any = ast.parse(node.signature + ":\n pass").body[0]
    for defaults in (tree.args.defaults, tree.args.kw_defaults):
        for at, one in enumerate(defaults):
            try:
                if one is not None:
                    ast.literal_eval(one)
            except ValueError:
                defaults[at] = ast.Constant(...)
    return ast.unparse(tree)


@pytest.mark.parametrize(
    "module", [click, requests, attr, yaml, packaging, networkx], ids=lambda module: module.__name__
)
def test_stubs_of_a_real_graph_import_and_say_what_it_says(module, tmp_path):
    files = package(module, without="tests")
    graph = Graph.loads(encode(Held(files)).dumps())
    found = rendered(graph)
    write(tmp_path, found.files)
    assert imported(tmp_path, parts(found.files)) == {}
    assert found.files.keys() == {path for path in files if path.endswith(".py")}
    new = encode(Held(found.files)).by_id
    functions = {node.id for node in graph.nodes if node.kind in ("function", "method")}
    count: Counter[str] = Counter()
    for node in graph.nodes:
        names = node.qualname.split(".")
        above = (f"{node.path}:{'.'.join(names[:n])}" for n in range(1, len(names)))
        if node.kind not in ("class", "function", "method") or any(one in functions for one in above):
            continue
        assert (new[node.id].kind, new[node.id].doc, new[node.id].qualname) == (node.kind, node.doc, node.qualname)
        if node.kind == "class":
            count["classes"] += 1
            count["headers"] += ast.dump(ast.parse(new[node.id].signature + ": pass")) == ast.dump(ast.parse(node.signature + ": pass"))  # fmt: skip
        else:
            assert plain(new[node.id]) == plain(node)
            count["functions"] += 1
    assert count["headers"] >= 0.7 * count["classes"] and count["functions"] > 50
    for path in found.files:
        assert new[path].exports == graph.by_id[path].exports


TRICKY = {
    "q/__init__.py": 'from q.a import *\nfrom q import b\nfrom .b import B, dynamic\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from q.c import C\n__all__ = ["f", "B", "made", "b"]\ndef __getattr__(name):\n    return 1\n',
    "q/a.py": "import os\nfrom functools import lru_cache, total_ordering\nfrom dataclasses import dataclass\n__all__ = ['f', 'T']\nT = object()\n@lru_cache(maxsize=None)\ndef f(x, sep=os.sep, y=(1, 2), *, z=-1, k=len('a')):\n    return os\n@total_ordering\nclass O:\n    def __lt__(self, o): ...\n@dataclass(order=True)\nclass D:\n    x: int = 1\n",
    "q/b.py": "from q.c import C\nfrom typing import Generic, TypeVar\nfrom enum import Enum\nimport q.a as aliased\nX = TypeVar('X')\nclass M(type):\n    def __call__(cls): raise 1\nclass B(C, Generic[X], metaclass=M):\n    __slots__ = ('a',)\n    def __init_subclass__(cls, **k): raise 1\n    def __class_getitem__(cls, item): return cls\n    @property\n    def p(self): return self.a\n    @p.setter\n    def p(self, v): self.a = v\n    @aliased.f\n    def g(self): ...\nclass E(Enum):\n    ONE = 1\nclass S(B[int], aliased.O):\n    pass\nglobals()['dynamic'] = 1\n",
    "q/c.py": 'class C:\n    """A \\"quoted\\"\n    doc with \\\\ and """\n    def f(self):\n        from q.b import B\n        return B\ntry:\n    from no_such_place import Thing\nexcept ImportError:\n    Thing = object\nclass G(Thing): pass\nimport q.b as late\n',
    "q/d.py": "from q.c import C\nimport winreg\nimport no.such.thing as nst\nfrom no_such import *\nclass W(winreg.Key, nst.X): pass\n",
}  # fmt: skip


def test_stubs_of_a_tricky_graph_import(tmp_path):
    graph = graph_of(TRICKY)
    found = rendered(graph)
    write(tmp_path, found.files)
    assert imported(tmp_path, ["q.b", "q", "q.d"]) == {} == imported(tmp_path, ["q.c", "q.d"])
    text = found.files["q/a.py"].decode()
    assert "def f(x, sep=..., y=(1, 2), *, z=-1, k=...):" in text and "@lru_cache(maxsize=None)" in text
    text = found.files["q/b.py"].decode()
    assert "class B(C, Generic[X]):" in text and "@p.setter" in text and "aliased.f" not in text and "class S(B[int], aliased.O)" in text  # fmt: skip
    new = encode(Held(found.files))
    for path in TRICKY:
        old_imports = [one for one in graph.by_id[path].imports if not one.scope]
        assert Counter(one for one in new.by_id[path].imports if one.module != "__future__") == Counter(old_imports)


def test_stubs_alone_through_the_verb(tmp_path):
    graph = encoded(TRICKY, tmp_path)
    assert rebuild(graph, tmp_path / "out", alone=True) == 0
    made = Graph.load(tmp_path / "out/rpg.json")
    assert problems(made.dumps()) == []
    assert {node.status for node in made.nodes if node.kind in ("function", "method")} == {"stubbed"}
    shutil.rmtree(tmp_path / "repo")
    (tmp_path / "rpg.json.manifest.json").unlink()
    assert rebuild(graph, tmp_path / "out2") == 0  # no repository there
    assert (tmp_path / "out2/rpg.json").read_bytes() == (tmp_path / "out/rpg.json").read_bytes()
    with pytest.raises(BadInput, match="--code full"):
        rebuild(graph, tmp_path / "out3", "full", alone=True)


@pytest.mark.parametrize(
    ("signature", "wanted"),
    [
        ("def f(a, b=1, c='x:#', *d, e=None, **f)", "def f(a, b=1, c='x:#', *d, e=None, **f)"),
        ("def f(a=x, b=lambda: (1, 2))", "def f(a=..., b=...)"),
        ("async def f(é='é', a=g('é'), b={1: h})", "async def f(é='é', a=..., b=...)"),
        ("def f(a: int = os.system('x')) -> 'y'", "def f(a: int = ...) -> 'y'"),
    ],
)
def test_defaults_that_are_no_literals_are_elided(signature, wanted):
    assert defaults_elided(signature) == wanted


@pytest.mark.parametrize(
    "signature",
    ["def f(): import os; os.system('x')", "def f():\n  evil()\ndef g()", "class A", "x = 1", "def f(", "def f(a):\n pass", "@d\ndef f()"],
)  # fmt: skip
def test_a_signature_that_brings_more_than_a_header_is_refused(signature):
    with pytest.raises(ValueError):
        defaults_elided(signature)


# ------------------------------------------------------------ hostile graphs


def hostile(**changes: Any) -> Graph:
    """A sound graph of one function and one class, changed in one place."""
    file: dict[str, Any] = {"id": "a.py", "kind": "file", "name": "a.py", "path": "a.py"}
    unit: dict[str, Any] = {"id": "a.py:f", "kind": "function", "name": "f", "path": "a.py", "qualname": "f", "signature": "def f()", "span": [1, 2]}  # fmt: skip
    owner: dict[str, Any] = {"id": "a.py:A", "kind": "class", "name": "A", "path": "a.py", "qualname": "A", "signature": "class A", "span": [3, 4]}  # fmt: skip
    for key, value in changes.items():
        what, _, field = key.partition("_")
        {"file": file, "unit": unit, "class": owner}[what][field] = value
    return Graph([Node(id=".", kind="repo", path="."), *(Node(**one) for one in (file, unit, owner))])


CANARY = "__import__('pathlib').Path('canary').write_text('x')"


@pytest.mark.parametrize(
    "changes",
    [
        {"unit_signature": f"def f(a={CANARY})"},
        {"unit_signature": f"def f(a: {CANARY}) -> {CANARY}"},
        {"unit_decorators": [CANARY, f"lru_cache({CANARY})", "property"]},
        {"unit_decorators": ["os.system('touch canary')"], "file_imports": [Import(module="os")]},
        {"class_decorators": ["system('touch canary')"], "file_imports": [Import(module="os", name="system")]},
        {"unit_doc": '"""\n' + CANARY + '\n"""\\'},
        {"file_doc": "'''\n" + CANARY + "\n'''" + '"'},
        {"class_signature": f"class A({CANARY}, metaclass={CANARY}, x={CANARY})"},
        {"class_signature": f"class A(dict[{CANARY}])"},
        {"file_names": {"x = " + CANARY: "", "y": CANARY, "z": "f()"}},
        {"file_exports": ["x'] + [" + CANARY, "f"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_nothing_of_a_graph_runs_when_its_stubs_are_imported(changes, tmp_path):
    found = rendered(hostile(**changes))
    write(tmp_path, found.files)
    assert imported(tmp_path, ["a"]) == {}
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"unit_name": "f(): pass\nevil", "unit_qualname": "f"},
        {"unit_signature": f"def f(): {CANARY}; x = 1"},
        {"unit_signature": f"def f():\n    pass\n{CANARY}\ndef g()"},
        {"class_signature": f"class A:\n    {CANARY}\nclass B"},
        {"file_imports": [Import(module="os; evil")]},
        {"file_imports": [Import(module="os\nimport evil")]},
        {"file_imports": [Import(module="os", name="path; evil")]},
        {"file_imports": [Import(module="os", alias="if")]},
        {"file_imports": [Import(module="")]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_no_name_is_refused(changes):
    with pytest.raises(BadInput):
        rendered(hostile(**changes))


@pytest.mark.parametrize(
    "path",
    ["../a.py", "/tmp/a.py", "p/../../a.py", ".git/hooks/x.py", "C:/a.py", "p\\..\\a.py", "con.py", "a\0.py", "x" * 300 + ".py",
     "p//a.py", "manifest.json", "RPG.json"],
)  # fmt: skip
def test_a_path_that_leads_out_is_refused_before_anything_is_written(path, tmp_path):
    node = Node(id="x.py", kind="file", name="a.py", path=path)
    name = tmp_path / "in/rpg.json"
    name.parent.mkdir()
    Graph([Node(id=".", kind="repo", path="."), node], [Edge(src=".", dst="x.py", type="contains")]).save(name)
    for more in ({"alone": True}, {"code": "full"}):
        with pytest.raises(BadInput):
            rebuild(name, tmp_path / "in/out", **more)
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["in", "rpg.json"]


@pytest.mark.parametrize("paths", [("A.py", "a.py"), ("a.py", "a.py/b.py")])
def test_paths_that_cannot_stand_together_are_refused(paths, tmp_path):
    nodes = [Node(id=path, kind="file", name="a.py", path=path) for path in paths]
    Graph([Node(id=".", kind="repo", path="."), *nodes]).save(tmp_path / "rpg.json")
    with pytest.raises(BadInput, match=r"in case alone|which is a file"):
        rebuild(tmp_path / "rpg.json", tmp_path / "out", alone=True)


def test_links_in_a_repository_are_not_followed(tmp_path):
    graph = encoded(LIVELY, tmp_path)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "repo/leak.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "repo/folder").symlink_to(tmp_path)
    assert rebuild(graph, tmp_path / "out", "full") == 0
    assert not (tmp_path / "out/leak.txt").exists() and not (tmp_path / "out/folder").exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="is no folder"):
        rebuild(graph, tmp_path / "link", "full")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ------------------------------------------------------------ the command


def test_the_command(tmp_path):
    encoded(LIVELY, tmp_path)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([COMMAND, "rebuild", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = command("rpg.json", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["stubbed"] == 8 and counts["kept"]["import"] == len(RUN_AT_IMPORT) == len(counts["kept_at_import"])
    assert sorted(counts["whole"]) == ["p/broken.py", "p/kills.py", "p/late.py", "p/quits.py"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    done = command("rpg.json", "-o", "out")
    assert done.returncode == 0 and "complete already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    done = command("rpg.json", "-o", "out", "--code", "full")
    assert done.returncode == 2 and "code" in done.stderr
    done = command("rpg.json", "-o", "out", "--code", "full", "--overwrite")
    assert done.returncode == 0 and (tmp_path / "out/p/core.py").read_text() == LIVELY["p/core.py"]
    done = command("no.json", "-o", "out2")
    assert done.returncode == 2 and "no.json: no such file" in done.stderr
    done = command("rpg.json")
    assert done.returncode == 2 and "-o DIR" in done.stderr


@pytest.mark.parametrize("code", ["stubs", "full"])
def test_a_graph_that_is_not_sound_is_refused(code, tmp_path):
    path = encoded({"p/__init__.py": "", "p/a.py": "def f():\n    return 1\n"}, tmp_path)
    graph = Graph.load(path)
    Graph(graph.nodes, [*graph.edges, Edge(src="p/a.py:f", dst="p", type="contains")]).save(path)
    with pytest.raises(BadInput, match="level: p, of kind folder"):
        rebuild(path, tmp_path / "out", code)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line",
    [[], ["hit", 99999], ["hit", -1], ["failed"], ["failed", "x", 1, 2], ["failed", "nowhere.py", "why", []], ["ran", 1, 2, 3], ["begin", "nowhere.py"], ["no", "kind"], {}, 3],
)  # fmt: skip
def test_what_a_package_writes_into_the_report_changes_nothing(line):
    said = f'import os\nwith open(os.environ["TMPDIR"] + "/report", "a") as stream:\n    stream.write({json.dumps(line) + chr(10)!r})\n'
    source = Held({"p/__init__.py": b"", "p/a.py": (said + "def f():\n    return 1\n").encode()})
    found = strip(encode(source), source, run=run)
    assert found.stubbed == ["p/a.py:f"] and found.whole == {}
