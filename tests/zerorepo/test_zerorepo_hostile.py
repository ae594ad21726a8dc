"""Repositories that were not written for us: odd bytes, odd files, huge files, and folders that mean harm.

Whatever the input, `encode` ends, names what it left out or
could not read, follows no link out of the folder, and starts nothing that the folder's configuration names.
"""

import ast
import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zerorepo_trees import edges_of, git, graph_of, write

from zerorepo import parse
from zerorepo.encode import encode, update
from zerorepo.graph import Graph
from zerorepo.parse import parse_file
from zerorepo.sources import Commit, WorkTree

TESTS = Path(__file__).parent


def sound(path: str, data: bytes) -> list:
    """parse_file's nodes, with what holds for any bytes at all checked against ast itself."""
    nodes = parse_file(path, data)
    file, units = nodes[0], nodes[1:]
    assert file.id == path and file.kind == "file" and file.sha256 == hashlib.sha256(data).hexdigest()
    assert Graph.loads(Graph(nodes).dumps()).dumps() == Graph(nodes).dumps()
    if file.status == "unparsed":
        assert file.reason and not units
        return nodes
    tree = ast.parse(data)
    count = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(tree))
    assert len(units) == count == len({node.id for node in units})
    assert all(1 <= node.span[0] <= node.span[1] for node in units)
    return nodes


# ------------------------------------------------------------ bytes


TEXT = "def f(a):\n    return a\n\n\nclass C:\n    def m(self): pass\n"
BYTES = {
    "BOM": b"\xef\xbb\xbf" + TEXT.encode(),
    "CRLF": TEXT.replace("\n", "\r\n").encode(),
    "CR alone": TEXT.replace("\n", "\r").encode(),
    "mixed line ends": TEXT.replace("\n", "\r\n", 2).encode(),
    "latin-1 by its cookie": b"# -*- coding: latin-1 -*-\nX = '\xe9'\n" + TEXT.encode(),
    "cookie on the second line": b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nX = '\x93'\n" + TEXT.encode(),
    "utf-8 cookie after a BOM": b"\xef\xbb\xbf# coding: utf-8\n" + TEXT.encode(),
    "gbk": "# coding: gbk\nX = '中文'\n".encode("gbk") + TEXT.encode(),
    "form feeds": b"\f\n" + TEXT.replace("\n\n", "\n\f\n").encode(),
    "no line end": TEXT.rstrip().encode(),
    "a vertical tab and a line separator in strings": ("X = '\u2028 \x0b \x1c \x85'\n" + TEXT).encode(),
    "identifiers of other scripts": (TEXT + "def naïve(): pass\nclass Ελλ: pass\n").encode(),
    "backslashes at line ends": b"X = 1 + \\\n    2\n" + TEXT.encode(),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_python_reads(name):
    data = BYTES[name]
    nodes = sound("a.py", data)
    assert nodes[0].status == "done", nodes[0].reason
    spans = {node.qualname: node.span for node in nodes[1:]}
    for node in ast.parse(data).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert spans[node.name] == [node.lineno, node.end_lineno]
    plain = {node.qualname: node.sha256 for node in parse_file("a.py", TEXT.encode())[1:]}
    found = {node.qualname: node.sha256 for node in nodes[1:]}
    if name not in ("form feeds", "CR alone"):
        assert {key: found[key] for key in plain} == plain, "the units are the same text"


def test_lone_surrogates_in_strings():
    text = 'def f(a="\\ud800"):\n    "doc \\ud800 text"\n__all__ = ["\\udfff", "f"]\n@d("\\ud800")\nclass C(x["\\ud800"]): "\\ud83d"\n'
    nodes = sound("a.py", text.encode())
    assert nodes[0].status == "done" and nodes[1].doc == "doc ? text"
    assert graph_of({"a.py": text}).dumps()


DEEP = {
    "brackets": b"x = " + b"[" * 150 + b"]" * 150,
    "calls": b"x = " + b"f(" * 150 + b")" * 150,
    "attributes": b"def g():\n    return x" + b".a" * 20_000,
    "chained calls": b"def g():\n    return x" + b".a()" * 5_000,
    "sums": b"x = " + b" + ".join([b"f()"] * 20_000),
    "else ifs": b"if 1: pass\n" + b"".join(b"elif %d: f()\n" % i for i in range(3_000)),
    "functions": b"".join(b" " * i + b"def f%d():\n" % i for i in range(95)) + b" " * 95 + b"pass",
    "classes": b"".join(b" " * i + b"class C%d:\n" % i for i in range(95)) + b" " * 95 + b"pass",
    "lambdas": b"x = " + b"lambda: " * 150 + b"f()",
    "nots": b"x = " + b"not " * 3_000 + b"1",
    "subscripts": b"def g(a: " + b"Optional[" * 150 + b"C" + b"]" * 150 + b"): pass",
    "strings of annotations": b"def g(a: " + repr(repr(repr(repr("C")))).encode() + b"): pass",
    "parameters": b"def g(" + b", ".join(b"a%d: C" % i for i in range(20_000)) + b"): pass",
    "bases": b"class C(" + b", ".join(b"B%d" % i for i in range(20_000)) + b"): pass",
    "targets": b" = ".join(b"a%d" % i for i in range(20_000)) + b" = f()",
    "variables that hold each other": b"def g():\n" + b"".join(b"    a%d = a%d\n" % (i, i + 1) for i in range(3_000)) + b"    a0.go()\n",
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP)
def test_deep_and_wide(name):
    start = time.perf_counter()
    data = DEEP[name] + b"\n"
    nodes = parse_file("a.py", data)
    assert nodes[0].status == "done" or nodes[0].reason
    graph = graph_of({"a.py": data.decode()})
    assert graph.dumps() == graph_of({"a.py": data.decode()}).dumps()
    assert time.perf_counter() - start < 10


def test_fifty_thousand_lines():
    """A generated file costs in proportion to its length."""

    def lines(count: int) -> bytes:
        return b"import a\n" + b"".join(
            b"def f%d(x):\n    y = a.g%d(x)\n    return f%d(y)\n" % (i, i, i // 2) for i in range(count // 3)
        )

    def seconds(count: int) -> float:
        data = lines(count).decode()
        start = time.perf_counter()
        assert len(graph_of({"a.py": "", "big.py": data}).nodes) == 3 + count // 3
        return time.perf_counter() - start

    small = min(seconds(5_000) for _ in range(2))
    assert seconds(50_000) < 30 * small


def test_a_file_too_large_is_named(monkeypatch):
    monkeypatch.setattr(parse, "MOST_BYTES", 100)
    [node] = parse_file("a.py", b"x = 1\n" * 100)
    assert node.status == "unparsed" and "600" in node.reason


def test_python_two():
    texts = [
        "print 'x'\n",
        "exec 'x'\n",
        "raise E, 'x'\n",
        "try:\n    pass\nexcept E, e:\n    pass\n",
        "x = 0777\n",
        "x = ur'x'\n",
        "x <> y\n",
        "x = `y`\n",
    ]
    graph = graph_of({f"a{number}.py": text for number, text in enumerate(texts)})
    assert all(node.reason.startswith("line ") for node in graph.nodes if node.kind == "file")
    assert {node.status for node in graph.nodes if node.kind == "file"} == {"unparsed"}


# ------------------------------------------------------------ mutated real files


def real_files() -> list[bytes]:
    folder = Path(ast.__file__).parent
    names = [
        "ast.py",
        "argparse.py",
        "enum.py",
        "functools.py",
        "dataclasses.py",
        "typing.py",
        "asyncio/tasks.py",
        "json/decoder.py",
        "contextlib.py",
    ]
    return [(folder / name).read_bytes() for name in names]


def mutated(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(found))
        kind = rng.randrange(6)
        if kind == 0:
            found[place] = rng.randrange(256)
        elif kind == 1:
            found[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del found[place : place + rng.choice((1, 1, 10, 1000))]
        elif kind == 3:
            found[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4))))
        elif kind == 4:
            found[place:place] = rng.choice(
                (
                    b"\n",
                    b"    ",
                    b"\t",
                    b"(",
                    b")",
                    b'"""',
                    b"#",
                    b"\\\n",
                    b"\r",
                    b"\f",
                    b" async ",
                    b" await ",
                    b" yield ",
                    b" := ",
                    b"\0",
                    b"@",
                    b"*",
                    b": ",
                )
            )
        else:
            other = rng.randrange(len(found))
            found[place : place + 40] = found[other : other + rng.choice((10, 40, 200))]
        if not found:
            return b""
    return bytes(found[: rng.randrange(len(found))] if rng.random() < 0.2 else found)


def test_mutated_real_files_never_fail_and_are_never_silently_empty():
    rng = random.Random(0)
    parts = [
        ast.get_source_segment(data.decode(), node)
        for data in real_files()[:4]
        for node in ast.parse(data).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    small = [part.encode() for part in parts if part and 300 < len(part) < 6000]
    read = 0
    for _ in range(1500):
        nodes = sound("a.py", mutated(rng.choice(small), rng))
        read += nodes[0].status == "done"
    assert 200 < read < 1300, "both outcomes must be common"
    for data in real_files():
        assert sound("a.py", data)[0].status == "done"
        sound("a.py", mutated(data, rng))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(data):
    sound("a.py", data)


# ------------------------------------------------------------ folders


def files_of(graph: Graph) -> set[str]:
    return {node.path for node in graph.nodes if node.kind == "file"}


@pytest.mark.parametrize("in_git", [False, True])
def test_links_pipes_and_locked_files(tmp_path, in_git):
    outside = write(tmp_path / "outside", {"secret.py": "SECRET = 1\n", "sub/x.py": ""})
    root = write(tmp_path / "root", {"a.py": "def f(): pass\n", "locked.py": "x = 1\n", "pkg/__init__.py": ""})
    (root / "out.py").symlink_to(outside / "secret.py")
    (root / "folder").symlink_to(outside / "sub")
    (root / "in.py").symlink_to("a.py")
    (root / "dangling.py").symlink_to("nowhere.py")
    (root / "pkg" / "loop").symlink_to("..")
    (root / "self.py").symlink_to("self.py")
    if in_git:
        git(root, "init", "-q")
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "links")
    os.mkfifo(root / "pipe.py")
    os.mkfifo(root / "pipe")
    source = WorkTree(root)
    source_graph = encode(source)
    assert files_of(source_graph) == {"a.py", "locked.py", "pkg/__init__.py"}
    assert b"SECRET" not in source_graph.dumps()
    for name in ("out.py", "in.py", "dangling.py", "self.py"):
        assert any(note.startswith(name + ":") for note in source.notes), source.notes
    if in_git:
        assert encode(Commit(root, "HEAD")).dumps() == source_graph.dumps()
    # A file that cannot be read: as root the mode says nothing, so the file goes after it was listed.
    source = WorkTree(root)
    paths = source.paths()
    (root / "locked.py").unlink()
    (root / "locked.py").mkdir()
    told = dict(source.read(paths))
    assert isinstance(told["locked.py"], str) and "cannot be read" in told["locked.py"]


def test_a_file_without_permission(tmp_path):
    root = write(tmp_path / "r", {"a.py": "x = 1\n", "locked.py": "y = 1\n"})
    (root / "locked.py").chmod(0)
    root.chmod(0o755)
    # From within, where the folders above need not let a stranger through; as root, the mode says nothing to us.
    code = """
import os
from zerorepo.sources import WorkTree
if os.getuid() == 0:
    os.setuid(65534)
for path, data in WorkTree(".").read(["a.py", "locked.py"]):
    print(path, data)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["a.py b'x = 1\\n'", "locked.py cannot be read: Permission denied"]


def test_names_that_no_id_can_hold(tmp_path):
    root = write(
        tmp_path / "r",
        {"a.py": "x = 1\n", "two words.py": "", "quote'\"s.py": "", "é.py": "", "-dash.py": "", "back\\slash.py": ""},
    )
    for name in (b"caf\xe9.py", b"new\nline.py", b"co:lon.py"):
        (Path(os.fsdecode(os.path.join(os.fsencode(root), name)))).write_bytes(b"y = 1\n")
    source = WorkTree(root)
    plain = encode(source)
    assert files_of(plain) == {"a.py", "two words.py", "quote'\"s.py", "é.py", "-dash.py", "back\\slash.py"}
    assert len(source.notes) == 3 and all("left out" in note and "\n" not in note for note in source.notes), (
        source.notes
    )
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "names")
    commit = Commit(root, "HEAD")
    assert encode(WorkTree(root)).dumps() == plain.dumps() == encode(commit).dumps()
    assert sorted(commit.notes) == sorted(source.notes)
    (root / "a.py").write_text("x = 2\n")
    assert update(plain, WorkTree(root))[0].dumps() == encode(WorkTree(root)).dumps()


@pytest.mark.parametrize("committed", [False, True])
def test_repositories_inside(tmp_path, committed):
    """A submodule, and a repository that was merely put there, are named and left out."""
    inner = write(tmp_path / "inner", {"x.py": "x = 1\n"})
    git(inner, "init", "-q")
    git(inner, "add", "-A")
    git(inner, "commit", "-q", "-m", "inner")
    root = write(
        tmp_path / "root",
        {"a.py": "", ".gitignore": "ignored/\n*.gen.py\n", "ignored/i.py": "", "b.gen.py": "", "kept/k.py": ""},
    )
    if committed:
        git(root, "init", "-q")
        git(root, "submodule", "add", "-q", str(inner), "mod")
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "outer")
        assert files_of(encode(Commit(root, "HEAD"))) == {"a.py", "kept/k.py"}
    git(tmp_path, "clone", "-q", str(inner), str(root / "loose"))
    source = WorkTree(root)
    found = files_of(encode(source))
    assert found == ({"a.py", "kept/k.py"} if committed else {"a.py", "kept/k.py", "ignored/i.py", "b.gen.py"})
    assert any("loose" in note for note in source.notes), source.notes
    assert not committed or any("mod" in note for note in source.notes), source.notes


def test_nothing_that_a_repository_configures_is_run(tmp_path):
    """core.fsmonitor, hooks, filters, text conversions, pagers, aliases and a file:// of submodules: none starts."""
    root = write(
        tmp_path / "root",
        {
            "a.py": "def f(): pass\n",
            "b.py": "import a\na.f()\n",
            ".gitattributes": "*.py filter=evil diff=evil merge=evil\n",
        },
    )
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    first = git(root, "rev-parse", "HEAD").strip()
    (root / "a.py").write_text("def g(): pass\n")
    git(root, "commit", "-q", "-a", "-m", "two")
    ran = tmp_path / "ran"
    script = tmp_path / "evil.sh"
    script.write_text(f'#!/bin/sh\necho "$0 $*" >> {ran}\ncat\n')
    script.chmod(0o755)
    for hook in (
        "post-checkout",
        "pre-commit",
        "post-index-change",
        "fsmonitor-watchman",
        "reference-transaction",
        "post-rewrite",
    ):
        (root / ".git" / "hooks").mkdir(exist_ok=True)
        (root / ".git" / "hooks" / hook).write_bytes(script.read_bytes())
        (root / ".git" / "hooks" / hook).chmod(0o755)
    evil = str(script)
    (root / ".git" / "config").write_text(
        f"[core]\n\trepositoryformatversion = 0\n\tfsmonitor = {evil}\n\tpager = {evil}\n\teditor = {evil}\n\tsshCommand = {evil}\n"
        f"\thooksPath = {root / '.git' / 'hooks'}\n\taskPass = {evil}\n"
        f"[filter \"evil\"]\n\tclean = {evil}\n\tsmudge = {evil}\n\tprocess = {evil}\n\trequired = true\n"
        f"[diff]\n\texternal = {evil}\n[diff \"evil\"]\n\ttextconv = {evil}\n\tcommand = {evil}\n[merge \"evil\"]\n\tdriver = {evil}\n"
        f"[alias]\n\tls-files = !{evil}\n\tls-tree = !{evil}\n\tcat-file = !{evil}\n\trev-parse = !{evil}\n[credential]\n\thelper = !{evil}\n"
        f"[pager]\n\tls-files = {evil}\n\tdiff-tree = {evil}\n[uploadpack]\n\tpackObjectsHook = {evil}\n[gpg]\n\tprogram = {evil}\n[log]\n\tshowSignature = true\n"
    )  # fmt: skip
    from zerorepo.sources import changed_between

    (root / "c.py").write_text("import b\n")
    (root / "b.py").touch()
    tree = encode(WorkTree(root))
    old, new = encode(Commit(root, first)), encode(Commit(root, "HEAD"))
    found, _ = update(old, Commit(root, "HEAD"), only=changed_between(root, first, "HEAD"))
    assert found.dumps() == new.dumps() and files_of(tree) == {"a.py", "b.py", "c.py"}
    binary = Path(sys.executable).parent / "zerorepo"
    done = subprocess.run(
        [str(binary), "encode", str(root), "-o", str(tmp_path / "g.json")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(binary), "update", str(tmp_path / "g.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not ran.exists(), ran.read_text()
    subprocess.run(["git", "-C", str(root), "status"], capture_output=True)
    assert ran.exists(), "the configuration would have run something: the test means what it says"


def test_a_broken_repository(tmp_path):
    """A .git that git refuses: the files are still read; a commit is refused in one line."""
    from tenfold_shared import BadInput

    root = write(tmp_path / "r", {"a.py": "x = 1\n"})
    (root / ".git").write_text("gitdir: /nowhere/at/all\n")
    assert files_of(encode(WorkTree(root))) == {"a.py"}
    for revision in ("HEAD", "--output=x", "", "HEAD:a.py", "a b"):
        with pytest.raises(BadInput) as caught:
            Commit(root, revision)
        assert "\n" not in str(caught.value)


def test_missing_objects_are_named(tmp_path):
    git(tmp_path, "init", "-q")
    write(tmp_path, {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    blob = git(tmp_path, "rev-parse", "HEAD:a.py").strip()
    (tmp_path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    graph = encode(Commit(tmp_path, "HEAD"))
    assert graph.by_id["a.py"].status == "unparsed" and "git" in graph.by_id["a.py"].reason
    assert graph.by_id["b.py"].status == "done"


# ------------------------------------------------------------ graphs that cost too much


def test_stars_between_all_and_bases_of_all():
    """Resolution is not exponential where everything leads to everything."""
    count = 40
    start = time.perf_counter()
    files = {
        f"s{i}.py": "".join(f"from s{j} import *\n" for j in range(count) if j != i) + "def go():\n    missing()\n"
        for i in range(count)
    }
    files |= {
        f"r{i}.py": "".join(f"from r{j} import n{j}\n" for j in range(count)) + f"n{i}()\nn{i}.x.y()\n"
        for i in range(count)
    }
    files["c.py"] = "".join(
        f"class C{i}({', '.join(f'C{j}' for j in range(i))}):\n    a = C{(i * 7) % 60}.b\n    def m(self): self.q(self.a)\n"
        for i in range(60)
    )
    files["d.py"] = "".join(
        f"class D{i}({', '.join(f'D{(i + j) % 12}' for j in range(1, 12))}):\n    def m(self): super().q()\n"
        for i in range(12)
    )
    files["e.py"] = "".join(f"def f{i}():\n    return f{(i + 1) % 50}()\n" for i in range(50)) + "f0().x().y()\n"
    graph = graph_of(files)
    assert time.perf_counter() - start < 20
    assert ("s0.py", "s1.py") in edges_of(graph, "imports")


def test_cycles_end():
    graph = graph_of({
        "a.py": "from b import x\nfrom c import *\nclass A(B): pass\nclass B(A):\n    def m(self): self.n()\ny = y\nz = w\nw = z\ndef f(): return g()\ndef g(): return f()\nf()()\nz()\n",
        "b.py": "from a import x\nfrom a import *\nx()\n", "c.py": "from b import *\nimport c\nc.c.c()\n", "p/__init__.py": "from p import p\np.p()\n",
    })  # fmt: skip
    assert edges_of(graph, "inherits") == {("a.py:A", "a.py:B"), ("a.py:B", "a.py:A")}
    assert edges_of(graph, "invokes") >= {("a.py:f", "a.py:g"), ("a.py:g", "a.py:f"), ("a.py", "a.py:f")}
