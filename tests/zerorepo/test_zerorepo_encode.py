"""What `encode` records of files: units, spans, signatures, digests, and what it must not lose.

`ast` and `inspect` are the oracles over a real package; written cases are the pitfalls of reading:
conditional imports, `__main__.py`, nested functions, unreadable files, deep chains.
"""

import ast
import hashlib
import inspect
import json
import os
import random
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_calls import copied
from zerorepo_trees import Author, Tree, edges_of, git, graph_of, write

from zerorepo.encode import encode
from zerorepo.graph import ROOT, SCHEMA, Graph
from zerorepo.parse import parse_file
from zerorepo.sources import Commit, WorkTree

BIN = Path(sys.executable).parent / "zerorepo"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return copied("networkx", tmp_path_factory.mktemp("encode"))


@pytest.fixture(scope="module")
def graph(package) -> Graph:
    return encode(WorkTree(package), "networkx")


# ------------------------------------------------------------ a real package


def definitions(tree: ast.AST, above: str = ""):
    """(dotted name, node) of every class and function, in order of place, without regard to what holds it."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{above}.{child.name}" if above else child.name
            yield name, child
            yield from definitions(child, name)
        else:
            yield from definitions(child, above)


def test_every_definition_of_every_file_is_a_unit(package, graph):
    units: dict[str, list] = {}
    for node in graph.nodes:
        if node.qualname:
            units.setdefault(node.path, []).append(node)
    count = 0
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package).as_posix()
        wanted = sorted(
            (min([d.lineno for d in one.decorator_list] + [one.lineno]), one.end_lineno, name, type(one).__name__)
            for name, one in definitions(ast.parse(file.read_bytes()))
        )
        found = sorted(
            (*node.span, ".".join(part.partition("#")[0] for part in node.qualname.split(".")), node) for node in units.get(path, ())
        ) if path in units else []  # fmt: skip
        assert [one[:3] for one in found] == [one[:3] for one in wanted], path
        for (*_, node), (*_, kind) in zip(found, wanted, strict=True):
            assert (node.kind == "class") == (kind == "ClassDef")
            above = graph.parent(node.id)
            assert above is not None and above.id == node.id.rpartition("." if "." in node.qualname else ":")[0]
            assert (node.kind == "method") == (kind != "ClassDef" and above.kind == "class")
        count += len(wanted)
    assert count > 2000


def test_spans_and_parameters_are_those_of_inspect(package, graph):
    """Functions as the interpreter has them: source lines, and the parameters of the stored header."""
    compared = 0
    for node in graph.nodes:
        if node.kind != "function" or "." in node.qualname or "#" in node.qualname:
            continue
        module = "networkx." + node.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        try:
            value = getattr(import_module(module), node.name, len)
        except ImportError:
            continue  # of a library that is not installed
        value = inspect.unwrap(getattr(value, "orig_func", value))
        if not inspect.isfunction(value) or value.__module__ != module or value.__code__.co_name != node.name:
            continue
        source, first = inspect.getsourcelines(value)
        if first != node.span[0]:
            continue  # `_dispatchable` as a function, which another definition hides
        while not source[-1].strip() or source[-1].lstrip().startswith("#"):
            source.pop()  # inspect takes in comments that follow
        assert node.span == [first, first + len(source) - 1], node.id
        header = ast.parse(node.signature + ": pass").body[0]
        assert isinstance(header, ast.FunctionDef | ast.AsyncFunctionDef) and header.name == node.name
        told = inspect.signature(value).parameters
        arguments = header.args
        names = [*arguments.posonlyargs, *arguments.args, *([arguments.vararg] if arguments.vararg else []), *arguments.kwonlyargs, *([arguments.kwarg] if arguments.kwarg else [])]  # fmt: skip
        assert [one.arg for one in names] == list(told), node.id
        defaults = len(arguments.defaults) + sum(default is not None for default in arguments.kw_defaults)
        assert defaults == sum(one.default is not one.empty for one in told.values()), node.id
        compared += 1
    assert compared > 800


def test_every_signature_is_the_definition_without_its_body(package, graph):
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package).as_posix()
        at = {(node.span[0], node.name): node for node in graph.nodes if node.path == path and node.qualname}
        for _, one in definitions(ast.parse(file.read_bytes())):
            node = at[min([d.lineno for d in one.decorator_list] + [one.lineno]), one.name]
            assert "\n" not in node.signature
            one.body, one.decorator_list = [ast.Pass()], []
            assert ast.dump(ast.parse(node.signature + ": pass").body[0]) == ast.dump(one), node.id


def test_docs_are_those_of_ast(package, graph):
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package).as_posix()
        tree = ast.parse(file.read_bytes())
        at = {(node.span[0], node.name): node for node in graph.nodes if node.path == path and node.qualname}
        for one in [tree, *(node for _, node in definitions(tree))]:
            node = (
                graph.by_id[path]
                if one is tree
                else at[min([d.lineno for d in one.decorator_list] + [one.lineno]), one.name]
            )
            paragraph = (ast.get_docstring(one) or "").strip().partition("\n\n")[0]
            assert node.doc == " ".join(paragraph.split()), node.id


def test_ids_are_unique_and_one_tree_holds_all(graph):
    ids = [node.id for node in graph.nodes]
    assert len(ids) == len(set(ids))
    parents = [edge.dst for edge in graph.edges if edge.type == "contains"]
    assert sorted(parents) == sorted(set(ids) - {ROOT})
    assert {end for edge in graph.edges for end in (edge.src, edge.dst)} <= set(ids)
    for node in graph.nodes:
        seen, above = set(), node
        while above.id != ROOT:
            assert above.id not in seen
            seen.add(above.id)
            parent = graph.parent(above.id)
            assert parent is not None
            above = parent


def test_save_load_save(graph, tmp_path):
    path = tmp_path / "rpg.json"
    graph.save(path)
    first = path.read_bytes()
    again = Graph.load(path)
    again.save(path)
    assert path.read_bytes() == first == graph.dumps()
    random.Random(0).shuffle(again.nodes)
    random.Random(1).shuffle(again.edges)
    assert Graph(again.nodes, again.edges).dumps() == first
    plain = json.loads(first)
    assert plain["schema"] == SCHEMA and sorted(plain) == list(plain)
    assert [node["id"] for node in plain["nodes"]] == sorted(node.id for node in graph.nodes)
    assert all(list(item) == sorted(item) for kind in ("nodes", "edges") for item in plain[kind])
    assert first.endswith(b"\n") and b"\r" not in first and str(tmp_path).encode() not in first


def test_nothing_depends_on_the_hash_seed_or_the_place(package, graph, tmp_path):
    code = "import sys\nfrom zerorepo.encode import encode\nfrom zerorepo.sources import WorkTree\nsys.stdout.buffer.write(encode(WorkTree(sys.argv[1]), 'networkx').dumps())"
    elsewhere = tmp_path / "a name with spaces é" / "b"
    elsewhere.parent.mkdir()
    package.rename(elsewhere)
    try:
        for seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-c", code, str(elsewhere)],
                capture_output=True,
                check=True,
                env={**os.environ, "PYTHONHASHSEED": seed},
            )
            assert done.stdout == graph.dumps()
    finally:
        elsewhere.rename(package)


# ------------------------------------------------------------ pitfalls


def units(text: str, path: str = "a.py") -> dict[str, str]:
    return {node.qualname: node.kind for node in graph_of({path: text}).nodes if node.qualname}


def test_main_nested_and_conditional_definitions():
    text = """
def f():
    def inner():
        class Deep:
            def m(self): pass
    return inner
class C:
    class D:
        def m(self): pass
    if True:
        def maybe(self): pass
    for x in ():
        async def looped(self): pass
    m = lambda self: 1
try:
    def g(): pass
except ImportError:
    def g(): pass
else:
    class E: pass
finally:
    def h(): pass
with open("x"):
    def w(): pass
while False:
    def l(): pass
match 1:
    case 1:
        def k(): pass
if 1:
    pass
elif 2:
    def e(): pass
"""
    assert units(text, "pkg/__main__.py") == {
        "f": "function", "f.inner": "function", "f.inner.Deep": "class", "f.inner.Deep.m": "method", "C": "class", "C.D": "class",
        "C.D.m": "method", "C.maybe": "method", "C.looped": "method", "g": "function", "g#2": "function", "E": "class",
        "h": "function", "w": "function", "l": "function", "k": "function", "e": "function",
    }  # fmt: skip


def test_the_reference_loses_these_imports():
    """Conditional and type-checking imports, and those of `__main__.py`, are edges."""
    graph = graph_of({
        "pkg/__init__.py": "", "pkg/a.py": "", "pkg/b.py": "",
        "pkg/__main__.py": "from typing import TYPE_CHECKING\ntry:\n    from . import a\nexcept ImportError:\n    a = None\nif TYPE_CHECKING:\n    from .b import T\n",
    })  # fmt: skip
    assert edges_of(graph, "imports") == {("pkg/__main__.py", "pkg/a.py")}
    assert edges_of(graph, "imports_typing") == {("pkg/__main__.py", "pkg/b.py")}


UNREADABLE = {
    "a syntax error": (b"x = 1\ndef f(:\n    pass\n", "line 2"),
    "an unfinished string": (b'x = """abc', "line 1"),
    "bytes that are no UTF-8": (b"x = 1\n# caf\xe9\n", "utf-8"),
    "an unknown encoding": (b"# -*- coding: nonsense -*-\n", "nonsense"),
    "a null byte": (b"x = 1\0\n", "null"),
    "Python 2": (b"print 'hello'\n", "line 1"),
    "tabs and blanks": (b"if 1:\n\tx = 1\n        y = 2\n", "line 3"),
    "nesting without end": (b"x = " + b"(" * 5000 + b")" * 5000 + b"\n", "not Python"),
    "operators without end": (b"x = " + b"-" * 100_000 + b"1\n", ""),
    "no permission": ("cannot be read: Permission denied", "Permission denied"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(name):
    data, wanted = UNREADABLE[name]
    nodes = parse_file("pkg/bad.py", data)
    assert len(nodes) == 1 and nodes[0].status == "unparsed" and nodes[0].id == "pkg/bad.py"
    assert nodes[0].reason and "\n" not in nodes[0].reason and wanted.lower() in nodes[0].reason.lower()
    assert nodes[0].sha256 == (hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else "")
    graph = graph_of({"pkg/bad.py": data if isinstance(data, bytes) else None, "u.py": "from pkg.bad import f\nf()"})
    assert edges_of(graph, "imports") == {("u.py", "pkg/bad.py")}, "it is a module all the same"


def test_chains_deeper_than_the_reference_keeps():
    folders = "/".join(f"d{i}" for i in range(30))
    text = "".join("    " * i + f"class C{i}:\n" for i in range(20)) + "    " * 20 + "def m(self): pass\n"
    graph = graph_of({f"{folders}/a.py": text})
    name = ".".join(f"C{i}" for i in range(20)) + ".m"
    node, depth = graph.by_id[f"{folders}/a.py:{name}"], 0
    while node.id != ROOT:
        parent = graph.parent(node.id)
        assert parent is not None
        node, depth = parent, depth + 1
    assert depth == 30 + 1 + 21
    assert Graph.loads(graph.dumps()).dumps() == graph.dumps()


def test_lists_of_bases_and_decorators_are_as_written():
    text = '@one\n@two.three(1, x="y")\nclass C(A, b.B, metaclass=M, key=1): pass\n@property\nasync def f(a, /, b: int = 1, *c, d, **e) -> "C | None":\n    pass\n'
    nodes = {node.qualname: node for node in graph_of({"a.py": text}).nodes}
    assert nodes["C"].bases == ["A", "b.B"] and [text.partition("(")[0] for text in nodes["C"].decorators] == [
        "one",
        "two.three",
    ]
    assert nodes["C"].signature == "class C(A, b.B, metaclass=M, key=1)"
    assert nodes["f"].signature == 'async def f(a, /, b: int = 1, *c, d, **e) -> "C | None"'
    assert nodes["C"].span == [1, 3] and nodes["f"].span == [4, 6]


HEADERS = [
    "def f(a, b): pass", "def f(\n    a,\n    b,\n): pass", "def f(a,  # a comment\n      b): pass", "def f(a=')',\n      b=':'): pass",
    "def f(a=lambda x: x): return a", "def f(a: 'x:y' = {1: 2}) -> dict[str, int]: ...", "def f(): return {1: 2}", "class C: x: int = 1",
    "def f(a, b):\n\n    # a comment\n    pass", 'def f(a="#", b=1):\n    pass', "def f(\n    a=[\n        1, ], ) -> None:\n    pass", "async   def  f ( a ) :\n    pass",
    'def f(a="""\n  x\n"""):\n    pass', "class C(\n    object,\n):\n    @property\n    def x(self): pass", "def f(a, *, b=1, **k): pass; pass", "def f(a='  '): pass", "def f(a='x  y',\n      b='( ', c=', )'): pass",
    "def f(\\\n  a, \\\n  b): pass", "def f(a\t=\t1): pass", "class C():\n    'doc'", "def f[T: int](a: T) -> T: pass" if sys.version_info >= (3, 12) else "def f(): pass",
]  # fmt: skip


@pytest.mark.parametrize("text", HEADERS)
def test_headers(text):
    [one] = ast.parse(text).body
    node = next(node for node in parse_file("a.py", text.encode()) if node.qualname)
    assert "\n" not in node.signature and not node.signature.endswith(":")
    assert isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    one.body, one.decorator_list = [ast.Pass()], []
    assert ast.dump(ast.parse(node.signature + ": pass").body[0]) == ast.dump(one)


# ------------------------------------------------------------ digests


def digests(text: str) -> dict[str, str]:
    return {node.qualname.rpartition(".")[2]: node.sha256 for node in graph_of({"a.py": text}).nodes if node.qualname}


FUNCTION = 'def f(a, b=1):\n    """Says what.\n\n      indented text\n    """\n    if a:\n        return "x  y"\n    # why\n    return b\n'


def test_a_digest_is_of_the_unit_alone():
    base = digests(FUNCTION)["f"]
    assert digests("import os\n\n\n" + FUNCTION + "\n\nx = 1\n")["f"] == base, "moved down"
    assert digests(FUNCTION.replace("\n", "\r\n"))["f"] == base, "CRLF"
    assert digests(FUNCTION.replace("if a:", "if a:   "))["f"] == base, "trailing blanks"
    assert digests("if 1:\n" + textwrap.indent(FUNCTION, "    "))["f"] == base, "indented"
    assert digests("class C:\n    class D:\n" + textwrap.indent(FUNCTION, " " * 8))["f"] == base, "a method of a class"
    assert digests("def g():\n" + textwrap.indent(FUNCTION, "\t"))["f"] == base, "indented with a tab"
    tabs = "class C:\n\tdef f(a):\n\t\tif a:\n\t\t\tprint()\n\t\t\tprint(1)\n"
    assert digests(tabs)["f"] != digests(tabs.replace("\t\t\tprint(1)", "\t\tprint(1)"))["f"], "a line out of its block"
    text = 'class C:\n    def f(a):\n        return (\n  1, """\n  x""")\n'
    assert digests(text)["f"] != digests(text.replace("\n  x", "\n x"))["f"], "blanks inside a string"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(FUNCTION) - 2), st.sampled_from("xyz0_\"' "))
def test_any_edit_changes_the_digest(place, letter):
    """A letter put anywhere; unless the text is the same but for trailing blanks."""
    text = FUNCTION[:place] + letter + FUNCTION[place:]
    found = parse_file("a.py", text.encode())
    if found[0].status != "unparsed" and found[1].span[0] == 1 and found[1].name == "f":
        stripped = [line.rstrip() for line in text.splitlines()]
        alike = stripped == FUNCTION.splitlines()
        assert (found[1].sha256 == digests(FUNCTION)["f"]) == alike
    assert found[0].sha256 != parse_file("a.py", FUNCTION.encode())[0].sha256


# ------------------------------------------------------------ other files, sources


def test_files_that_are_not_python():
    notebook = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    graph = graph_of({
        "a.py": "", "b.pyw": "def w(): pass", "c.c": "int main;", "n.ipynb": notebook, "s.pyi": "def f(): ...", "tool": "#!/usr/bin/env python3\ndef t(): pass\n",
        "run": "#!/bin/sh\necho\n", "LICENSE": "text", "Makefile": "all:\n", "k.CU": "x", "sub/x.rs": "fn",
    })  # fmt: skip
    files = {node.path: node for node in graph.nodes if node.kind == "file"}
    assert {path: node.language for path, node in files.items()} == {
        "a.py": "", "b.pyw": "", "tool": "", "c.c": "C", "n.ipynb": "notebook", "s.pyi": "type stub", "k.CU": "CUDA", "sub/x.rs": "Rust",
    }  # fmt: skip
    for path, node in files.items():
        assert (node.status, node.reason) == (("done", "") if not node.language else ("unparsed", "not Python")), path
    assert {node.id for node in graph.nodes if node.kind == "function"} == {"b.pyw:w", "tool:t"}
    assert ("sub", "sub/x.rs") in edges_of(graph, "contains")


def test_scripts_see_their_own_names_and_imports():
    text = "#!/usr/bin/python\nfrom b import f\nimport b\ndef t(): f()\nt()\nb.f()\n"
    graph = graph_of({"tool": text, "w.pyw": text, "b.py": "def f(): pass"})
    for path in ("tool", "w.pyw"):
        assert {pair for pair in edges_of(graph, "invokes", "imports") if pair[0].startswith(path)} == {
            (path, "b.py"), (path, "b.py:f"), (path, path + ":t"), (path + ":t", "b.py:f"),
        }  # fmt: skip


def test_a_clean_checkout_and_its_commit_are_one_graph(tmp_path):
    """Also below the top of the repository, and at an earlier commit."""
    git(tmp_path, "init", "-q")
    files: dict[str, str | bytes] = {
        "pkg/__init__.py": "from .a import f", "pkg/a.py": b"\xef\xbb\xbfdef f(): pass\r\n", "bad.py": "def", "tool": "#!/usr/bin/python\nimport pkg\n",
        "sub/deep/x.py": "import y", "sub/deep/y.py": "", "sub/x.c": "", "é/ü.py": "x = 1", "ignored/z.py": "", ".gitignore": "ignored/\n", ".hidden/h.py": "h = 1",
    }  # fmt: skip
    write(tmp_path, files)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    first = encode(WorkTree(tmp_path))
    assert first.dumps() == encode(Commit(tmp_path, "HEAD")).dumps()
    paths = {node.path for node in first.nodes if node.kind == "file"}
    assert paths == set(files) - {"ignored/z.py", ".gitignore"}
    for below in ("sub", "sub/deep", "é"):
        assert encode(WorkTree(tmp_path / below)).dumps() == encode(Commit(tmp_path / below, "HEAD")).dumps()
    (tmp_path / "pkg" / "a.py").unlink()
    (tmp_path / "new.py").write_text("import pkg\n")
    assert encode(Commit(tmp_path, "HEAD")).dumps() == first.dumps()
    changed = {node.path for node in encode(WorkTree(tmp_path)).nodes if node.kind == "file"}
    assert changed == paths - {"pkg/a.py"} | {"new.py"}


def test_without_git_the_same_files(tmp_path):
    files = {
        "pkg/__init__.py": "",
        "pkg/a.py": "x = 1",
        "venv/pyvenv.cfg": "",
        "venv/lib/x.py": "",
        "node_modules/m.js": "",
        "p.egg-info/x.py": "",
        "__pycache__/a.py": "",
    }
    write(tmp_path, files)
    assert WorkTree(tmp_path).paths() == ["pkg/__init__.py", "pkg/a.py"]


def test_random_trees_load_as_they_were_saved():
    for seed in range(200):
        graph = graph_of(Author(random.Random(seed)).tree())
        data = graph.dumps()
        assert Graph.loads(data).dumps() == data
        assert msgspec.json.decode(data)["schema"] == SCHEMA


def test_the_order_of_nodes_given_to_encode_is_no_matter():
    files = {"b.py": "import a\na.f()", "a.py": "def f(): pass"}
    assert encode(Tree(files)).dumps() == encode(Tree(dict(reversed(files.items())))).dumps()


# ------------------------------------------------------------ the command


def zerorepo(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN), *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=60)


def test_the_command_from_end_to_end(tmp_path):
    write(tmp_path / "r", {"pkg/__init__.py": "", "pkg/a.py": "def f(): pass\n", "u.py": "from pkg.a import f\nf()\n"})
    done = zerorepo("encode", "r", "-o", "rpg.json", cwd=tmp_path)
    assert done.returncode == 0 and not done.stdout, done.stderr
    assert (tmp_path / "rpg.json").read_bytes() == encode(WorkTree(tmp_path / "r")).dumps()
    piped = subprocess.run([str(BIN), "encode", "r"], capture_output=True, cwd=tmp_path)
    assert piped.returncode == 0 and piped.stdout == (tmp_path / "rpg.json").read_bytes()
    assert zerorepo("update", "rpg.json", "--check", cwd=tmp_path).returncode == 0
    (tmp_path / "r" / "pkg" / "a.py").write_text("def g(): pass\n")
    assert zerorepo("update", "rpg.json", "--check", cwd=tmp_path).returncode == 1
    done = zerorepo("update", "rpg.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rpg.json").read_bytes() == encode(WorkTree(tmp_path / "r")).dumps()
    assert "pkg/a.py:g" in Graph.load(tmp_path / "rpg.json").by_id


def test_the_command_names_what_it_could_not_read(tmp_path):
    write(
        tmp_path / "r", {"good.py": "x = 1\n", "bad.py": "def f(:\n", "old.py": "print 'x'\n", "latin.py": b"# \xe9\n"}
    )
    done = zerorepo("encode", "r", "-o", "rpg.json", cwd=tmp_path)
    assert done.returncode == 1
    for path in ("bad.py", "old.py", "latin.py"):
        assert path in done.stderr, done.stderr
        assert Graph.load(tmp_path / "rpg.json").by_id[path].status == "unparsed"
    assert zerorepo("encode", "r", "-o", "two.json", "--allow-unparsed", cwd=tmp_path).returncode == 0
    for wrong, text in (
        (("nowhere",), "nowhere"),
        (("r/good.py",), "folder"),
        (("r", "--rev", "HEAD~99"), "HEAD~99"),
        (("r", "--rev", "--output=x"), ""),
    ):
        done = zerorepo("encode", *wrong, "-o", "three.json", cwd=tmp_path)
        assert done.returncode == 2 and text in done.stderr and len(done.stderr.strip().splitlines()) <= 4, done.stderr
        assert not (tmp_path / "three.json").exists()


def test_decorators_are_kept_as_written_and_known_by_their_last_name():
    text = (
        "import functools\n\n\n@functools.lru_cache(maxsize=2)\ndef f(): pass\n\n\n@one.two('é', x = 1)\ndef g(): pass\n\n\n"
        "@long(\n    1,\n    2,\n)\nclass C:\n    @property\n    def p(self): return C()\n\n    @p.setter\n    def p(self, value): pass\n"
    )
    graph = graph_of({"a.py": text})
    marks = {node.qualname: node.decorators for node in graph.nodes if node.decorators}
    assert marks == {
        "f": ["functools.lru_cache(maxsize=2)"],
        "g": ["one.two('é', x = 1)"],
        "C": ["long(1, 2)"],
        "C.p": ["property"],
        "C.p#2": ["p.setter"],
    }


@pytest.mark.parametrize(
    ("source", "signature"),
    [
        ("def f(value:\n        int) -> int:\n    return value\n", "def f(value: int) -> int"),
        ("def f(value:\n        int): return value\n", "def f(value: int)"),
        ('def f(value="("):\n    return value\n', "def f(value='(')"),
    ],
)
def test_a_header_does_not_end_at_an_annotation(source, signature):
    nodes = parse_file("a.py", source.encode())
    assert next(node for node in nodes if node.name == "f").signature == signature
