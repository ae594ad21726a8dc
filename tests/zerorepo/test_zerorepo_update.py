"""`update` gives the bytes of a fresh `encode`: over written cases, random edits and this repository's own history.

The written cases are the ways in which an edit to one file changes what another file's words mean, without that
other file naming the edited definition: each was, or would be, an edge left standing or an edge left out.
"""

import random
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zerorepo_trees import Author, Tree, edges_of, git, graph_of, write

from zerorepo.encode import encode, update
from zerorepo.graph import Graph
from zerorepo.sources import Commit, WorkTree, changed_between

HERE = Path(__file__).resolve().parents[2]
TWO = "def f(): pass\ndef g(): pass\n"
BASE = "class Base:\n    def run(self): pass\n    def stop(self): pass\n"
USER = "from pkg.b import C\ndef use():\n    c = C()\n    c.run()\n    c.stop()\n"


def lines(graph: Graph) -> set[bytes]:
    return {line.rstrip(b",") for line in graph.dumps().splitlines()}


def check(before: dict, after: dict, prefix: str = "") -> Graph:
    """Update before → after and back, and compare with encode; returns the graph of `after`."""
    old, new = graph_of(before, prefix), graph_of(after, prefix)
    for start, files, wanted in ((old, after, new), (new, before, old)):
        found, _ = update(start, Tree(files), prefix)
        assert sorted(lines(found) - lines(wanted)) == sorted(lines(wanted) - lines(found)) == []
        assert found.dumps() == wanted.dumps()
    return new


# name -> (files, what changes: path to new text, None for removed; an edge between files or units that must differ)
Files = dict[str, str | bytes | None]
CASES: dict[str, tuple[Files, Files]] = {
    "a function renamed": ({"a.py": TWO, "u.py": "from a import f\nf()"}, {"a.py": TWO.replace("f()", "h()")}),
    "a function moved": ({"a.py": TWO, "u.py": "import a\na.f()"}, {"a.py": "from b import f", "b.py": TWO}),
    "a name through a chain of packages": (
        {"pkg/__init__.py": "from .x import f", "pkg/x.py": "from .y import g as f", "pkg/y.py": TWO, "u.py": "import pkg as p\np.f()"},
        {"pkg/y.py": "def f(): pass\n"},
    ),
    "a name let out by __all__": (
        {"pkg/__init__.py": "from .m import *", "pkg/m.py": "__all__ = ['f']\n" + TWO, "u.py": "import pkg\npkg.g()"},
        {"pkg/m.py": "__all__ = ['f', 'g']\n" + TWO},
    ),
    "an __all__ made at run time": (
        {"pkg/__init__.py": "from .m import *", "pkg/m.py": "__all__ = ['f']\n" + TWO, "u.py": "import pkg\npkg.g()"},
        {"pkg/m.py": "__all__ = list(globals())\n" + TWO},
    ),
    "a star added": ({"pkg/__init__.py": "", "pkg/m.py": TWO, "u.py": "import pkg\npkg.g()"}, {"pkg/__init__.py": "from .m import *"}),
    "two stars that change places": (
        {"pkg/__init__.py": "from .m import *\nfrom .n import *", "pkg/m.py": TWO, "pkg/n.py": TWO, "u.py": "import pkg\npkg.g()"},
        {"pkg/__init__.py": "from .n import *\nfrom .m import *"},
    ),
    "a star whose module another hides": (
        {"pkg/__init__.py": "from m import *", "m.py": TWO, "u.py": "import pkg\npkg.g()"},
        {"pkg/__init__.py": "from m import *", "m/__init__.py": ""},
    ),
    "a star behind a star": (
        {"pkg/__init__.py": "from .m import *", "pkg/m.py": "from .n import *", "pkg/n.py": TWO, "u.py": "from pkg import g\ng()"},
        {"pkg/m.py": "from .n import f"},
    ),
    "a folder becomes a package": ({"d/a.py": "import b\nb.f()", "d/b.py": TWO}, {"d/__init__.py": ""}),
    "the dot of a folder that becomes a package": ({"d/a.py": "from . import f"}, {"d/__init__.py": ""}),
    "a folder below one that becomes a package": ({"d/e/a.py": "from .. import f", "u.py": "from e import a"}, {"d/__init__.py": ""}),
    "a root that becomes a package": ({"a.py": "import b\nb.f()", "b.py": TWO}, {"__init__.py": ""}),
    "src layout appears": ({"u.py": "import pkg\npkg.f()"}, {"src/pkg/__init__.py": TWO}),
    "src becomes a package": ({"src/pkg/__init__.py": TWO, "u.py": "import pkg\npkg.f()"}, {"src/__init__.py": ""}),
    "a nearer module": ({"lib/a.py": TWO, "app/u.py": "import a\na.f()"}, {"app/a.py": TWO}),
    "a file named like the standard library": ({"u.py": "import json\njson.f()"}, {"json.py": TWO}),
    "a base class gains bases": (
        {"pkg/a.py": BASE, "pkg/b.py": "from .m import Middle\nclass C(Middle): pass", "pkg/m.py": "class Middle: pass", "u.py": USER},
        {"pkg/m.py": "from .a import Base\nclass Middle(Base): pass"},
    ),
    "a base class goes": (
        {"pkg/a.py": BASE, "pkg/b.py": "from .a import Base\nclass C(Base): pass", "u.py": USER},
        {"pkg/a.py": "def Base(): pass"},
    ),
    "a base class gains a constructor": (
        {"pkg/a.py": BASE, "pkg/b.py": "from .a import Base\nclass C(Base): pass", "u.py": USER},
        {"pkg/a.py": BASE + "    def __init__(self): pass\n"},
    ),
    "a base class becomes callable": (
        {"pkg/a.py": BASE, "pkg/b.py": "from .a import Base\nclass C(Base): pass", "u.py": "from pkg.b import C\nC()()"},
        {"pkg/a.py": BASE + "    def __call__(self): pass\n"},
    ),
    "a return annotation": (
        {"pkg/a.py": BASE, "pkg/b.py": "def make() -> int: pass", "u.py": "from pkg.b import make\nmake().run()"},
        {"pkg/b.py": "from .a import Base\ndef make() -> Base: pass"},
    ),
    "what a function returns": (
        {"pkg/a.py": BASE, "pkg/b.py": "from .a import Base\ndef make():\n    return Base()", "u.py": "from pkg.b import make\nmake().run()"},
        {"pkg/b.py": "def make():\n    return 1"},
    ),
    "the type of an attribute": (
        {"pkg/a.py": BASE, "pkg/b.py": "class C:\n    def __init__(self):\n        self.run = 1", "u.py": "from pkg.b import C\nC().run.stop()"},
        {"pkg/b.py": "from .a import Base\nclass C:\n    def __init__(self):\n        self.run = Base()"},
    ),
    "an instance of the module": (
        {"pkg/a.py": BASE, "pkg/b.py": "only = None", "u.py": "import pkg.b\npkg.b.only.run()"},
        {"pkg/b.py": "from .a import Base\nonly = Base()"},
    ),
    "a method becomes a property": (
        {"pkg/b.py": "class C:\n    def run(self): pass\n    def stop(self): pass", "u.py": "from pkg.b import C\ndef use(c: C):\n    c.run"},
        {"pkg/b.py": "class C:\n    @property\n    def run(self): pass\n    def stop(self): pass"},
    ),
    "a property gains a setter": (
        {"b.py": "class C:\n    @property\n    def x(self): pass", "u.py": "from b import C\ndef use(c: C):\n    c.x = c.x"},
        {"b.py": "class C:\n    @property\n    def x(self): pass\n    @x.setter\n    def x(self, value): pass"},
    ),
    "a namesake appears": (
        {"a.py": "class A:\n    def crunch(self): pass", "u.py": "def use(a):\n    a.crunch()"},
        {"b.py": "class B:\n    def crunch(self): pass"},
    ),
    "namesakes become one family": (
        {"a.py": "class A:\n    def crunch(self): pass", "b.py": "class B:\n    def crunch(self): pass", "u.py": "def use(a):\n    a.crunch()"},
        {"b.py": "from a import A\nclass B(A):\n    def crunch(self): pass"},
    ),
    "a file ceases to parse": ({"a.py": TWO, "u.py": "import a\na.f()"}, {"a.py": "def f(:"}),
    "a file cannot be read": ({"a.py": TWO, "u.py": "from a import *\nf()"}, {"a.py": None}),
    "a script": ({"tool": "#!/usr/bin/python3\nimport a\na.f()\ndef f(): pass\nf()", "a.py": TWO}, {"a.py": "def g(): pass"}),
    "a script that is one no longer": ({"tool": "#!/usr/bin/python3\nimport a\na.f()", "a.py": TWO}, {"tool": "text"}),
    "two modules that import one name from each other": (
        {"a.py": "from b import f\nfrom c import *", "b.py": "from a import f\nfrom d import *", "c.py": TWO, "d.py": TWO,
         "u.py": "from a import f\nf()", "v.py": "from b import f\nf()"},
        {"v.py": "from b import f\nf()\n\n"},
    ),
    "classes whose attributes name each other": (
        {"a.py": "class A:\n    x = B.y\n    run = B.x\nclass B:\n    y = A.x\n    x = A.run", "u.py": "import a\na.A.x()\na.B.y()\na.A.run()"},
        {"u.py": "import a\na.B.y()\na.A.run()\na.A.x()"},
    ),
    "a chain longer than is followed": (
        {**{f"m{i}.py": f"from m{i + 1} import f\nf()" for i in range(150)}, "m150.py": TWO}, {"m20.py": "from m21 import f\nf()\n"},
    ),
}  # fmt: skip
# Cases after which no file but the edited one may have other edges: what could go wrong is the update itself.
ALIKE = {
    "a property gains a setter", "a script that is one no longer", "two modules that import one name from each other",
    "classes whose attributes name each other", "a chain longer than is followed",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_others_feel(name):
    files, edit = CASES[name]
    after = {**files, **edit}
    new = check(files, after)
    was, now = (
        {(e.src, e.dst, e.type, e.confidence) for e in graph.edges if e.type != "contains"}
        for graph in (graph_of(files), new)
    )
    elsewhere = {src.partition(":")[0] for src, *_ in was ^ now} - edit.keys()
    assert bool(elsewhere) != (name in ALIKE), "a case is one only where another file's edges come or go"
    gone = {path: data for path, data in files.items() if path != next(iter(files))}
    check(files, gone)


def test_prefix_of_a_root_that_is_a_package_itself():
    files = {"__init__.py": "from pkg.a import f", "a.py": TWO, "b.py": "import pkg.a\npkg.a.f()"}
    new = check(files, {**files, "a.py": "def g(): pass\n"}, prefix="pkg")
    assert ("b.py", "a.py") in edges_of(new, "imports") and not edges_of(new, "invokes")
    as_root, _ = update(graph_of(files), Tree(files), "pkg")
    assert as_root.dumps() == graph_of(files, "pkg").dumps() != graph_of(files).dumps()


def test_what_an_edit_inside_a_body_costs():
    """A body that names nothing new leaves every other file alone; a central name reaches those that mention it."""
    files = {
        "a.py": BASE,
        **{f"u{i}.py": f"from a import Base\ndef use{i}(b: Base):\n    b.run()" for i in range(9)},
        "o.py": TWO,
    }
    old = graph_of(files)
    after = {**files, "a.py": BASE.replace("def stop(self): pass", "def stop(self):\n        return 1 + 1")}
    new, change = update(old, Tree(after))
    assert new.dumps() == graph_of(after).dumps()
    assert (change.added, change.modified, change.removed, change.resolved) == ([], ["a.py"], [], ["a.py"])
    after = {**files, "a.py": BASE.replace("run", "go")}
    new, change = update(old, Tree(after))
    assert new.dumps() == graph_of(after).dumps()
    assert change.modified == ["a.py"] and "u3.py" in change.resolved and "o.py" not in change.resolved


def test_a_graph_of_no_change_is_itself():
    files = {**CASES["a base class goes"][0], "tool": "#!/usr/bin/python3\n", "x.c": "int x;", "bad.py": "def"}
    old = graph_of(files)
    new, change = update(old, Tree(files))
    assert new.dumps() == old.dumps() and change == ([], [], [], [])


def steps(author: Author, count: int) -> None:
    """A random tree and `count` edits, each update starting from the one before."""
    files = author.tree()
    graph = graph_of(files)
    for _ in range(count):
        files = author.edited(files)
        graph, _ = update(graph, Tree(files))
        assert graph.dumps() == graph_of(files).dumps()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_random_edits(rng):
    steps(Author(rng), 3)


@pytest.mark.parametrize("seed", range(4))
def test_many_random_edits(seed):
    for number in range(400):
        steps(Author(random.Random(f"{seed} {number}")), 3)


def test_every_file_in_any_order_gives_the_same_graph():
    """What is asked first, and what of it is remembered, has no part in the answers."""
    for seed in range(150):
        files = Author(random.Random(seed)).tree()
        graph = graph_of(files)
        shuffled = sorted(files, key=lambda path: random.Random(path + str(seed)).random())

        class Shuffled(Tree):
            def paths(self, order=shuffled):
                return list(order)

        assert encode(Shuffled(files)).dumps() == graph.dumps()


# ------------------------------------------------------------ on disk


def test_a_history_of_commits_and_the_work_tree(tmp_path):
    git(tmp_path, "init", "-q")
    author = Author(random.Random(7))
    files: dict[str, str | bytes | None] = {}
    commits = []
    for _ in range(12):
        files = {
            path: data for path, data in (author.edited(files) if files else author.tree()).items() if data is not None
        }
        git(tmp_path, "rm", "-rq", "--cached", "--ignore-unmatch", ".")
        for old in [p for p in tmp_path.rglob("*") if p.is_file() and ".git" not in p.parts]:
            old.unlink()
        for folder in sorted((p for p in tmp_path.rglob("*") if p.is_dir() and ".git" not in p.parts), reverse=True):
            folder.rmdir()
        write(tmp_path, files)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "edit")
        commits.append(git(tmp_path, "rev-parse", "HEAD").strip())
    graphs = [encode(Commit(tmp_path, commit)) for commit in commits]
    for (a, old), (b, new) in pairwise(zip(commits, graphs, strict=True)):
        found, _ = update(old, Commit(tmp_path, b), only=changed_between(tmp_path, a, b))
        assert found.dumps() == new.dumps()
        back, _ = update(new, Commit(tmp_path, a), only=changed_between(tmp_path, b, a))
        assert back.dumps() == old.dumps()
    assert encode(WorkTree(tmp_path)).dumps() == graphs[-1].dumps()
    some = next(path for path in sorted(files) if path.endswith(".py"))
    (tmp_path / some).write_text("def uncommitted(): pass\n")
    (tmp_path / "untracked.py").write_text("import a\n")
    found, change = update(graphs[-1], WorkTree(tmp_path))
    assert found.dumps() == encode(WorkTree(tmp_path)).dumps()
    assert change.modified == [some] and change.added == ["untracked.py"]


def own_history() -> list[str]:
    """Commits of this repository that touch Python, oldest first; few in a shallow clone, none outside one."""
    done = subprocess.run(
        ["git", "-C", str(HERE), "log", "--first-parent", "--reverse", "--format=%H", "--", "*.py"],
        capture_output=True,
        text=True,
    )
    return done.stdout.split() if done.returncode == 0 else []


def along(commits: list[str]) -> None:
    """Each graph brought up to date to the next commit, by its range and by every file."""
    old = encode(Commit(HERE, commits[0])) if commits else Graph()
    for a, b in pairwise(commits):
        new = encode(Commit(HERE, b))
        for only in (changed_between(HERE, a, b), None):
            found, change = update(old, Commit(HERE, b), only=only)
            assert found.dumps() == new.dumps(), f"{a[:10]}..{b[:10]}"
            assert change.added or change.modified or change.removed
        old = new


def test_own_history():
    commits = own_history()
    along(commits[:12])  # when the repository was small
    along(commits[-4:])


@pytest.mark.deep
@pytest.mark.parametrize("part", range(4))
def test_own_history_at_length(part):
    commits = own_history()
    start = part * len(commits) // 4
    along(commits[start : start + 20])


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(8))
def test_random_edits_at_length(seed):
    for number in range(2500):
        steps(Author(random.Random(f"deep {seed} {number}")), 4)
