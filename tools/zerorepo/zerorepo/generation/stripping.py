"""A real package to a skeleton: every body out that importing the package does not run.

Between rebuild.py, the verb, and skeleton.py, which takes the bodies out. Which functions an import runs is found by
running it, in a sandbox: once as it is, under a profile function, then with stubs that report themselves, what was hit
restored, again until nothing is hit. A report goes to a file before anything is raised, so that a package which swallows
the exception does not hide it.
"""

from __future__ import annotations

import ast
import bisect
import sys
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tenfold_shared.sandbox import Limits, Outcome
from zerorepo.encode import encode
from zerorepo.generation.skeleton import STUB, Unit, decoded, is_empty, stubs_of, units_of
from zerorepo.graph import ROOT, SEMANTIC, Graph, Node
from zerorepo.modules import dotted_name, import_root, is_test
from zerorepo.sources import Held, Source
from zerorepo.validate import edge_name

Run = Callable[..., Outcome]  # tenfold_shared.sandbox.run, or what takes the same
LIMITS = Limits(wall_s=300, memory_mb=4096, disk_mb=512, output_bytes=4_000_000)
ONE = Limits(wall_s=20, memory_mb=2048, disk_mb=64)  # of importing one file of stubs
ROUNDS = 200  # of stubs that report themselves; each but the last finds at least one more body to keep
# Names of files that make, test or document a package and are not imported from it.
_AROUND = frozenset(
    "setup.py conf.py noxfile.py fabfile.py tasks.py dodo.py wscript.py versioneer.py __main__.py".split()
)
_AROUND_FOLDERS = frozenset("doc docs example examples bench benchmark benchmarks".split())
_MAYBE_AROUND = frozenset("script scripts tool tools ci".split())  # unless such a folder is a package
_OURS = "_zerorepo_import"  # folder of what is run, in the sandbox
_REPORT = "/tmp/report"
_INSIDE = Path(__file__).with_name("stripping_inside.py").read_bytes()
# Lines of a report: what follows the first word.
_FORMS: dict[str, Any] = {
    "begin": tuple[str], "failed": tuple[str, str, list[str]], "ran": tuple[str, str, int], "hit": tuple[int], "end": tuple[()],
}  # fmt: skip
_OVERLOADS = ("overload", "typing.overload", "typing_extensions.overload", "t.overload")


class Skeleton(NamedTuple):
    """files: path to bytes, stubs in place of the bodies. graph: of the skeleton, what is to be written `stubbed`.
    kept: id of a function with its body to the reason: `import` (importing runs it), `empty` (nothing to write in it:
    an overload, or `...` alone), `file` (its file does not bear stubs), `outside` (of a test or of what only makes the
    package). whole: files left as they are to the reason, those that cannot be imported at all among them."""

    files: dict[str, bytes]
    graph: Graph
    kept: dict[str, str]
    whole: dict[str, str]

    @property
    def stubbed(self) -> list[str]:
        return sorted(node.id for node in self.graph.nodes if node.status == "stubbed")


def strip(
    graph: Graph, source: Source, *, run: Run, python: str = sys.executable, limits: Limits = LIMITS,
    unsafe: bool = False, others: Mapping[str, bytes] | None = None,
) -> Skeleton:  # fmt: skip
    """The skeleton of the package that `graph` maps and `source` holds. run: tenfold_shared.sandbox.run.

    others: files beside the code, which an import may read. Raises ValueError where an import does not come to an end,
    and what `run` raises.
    """
    return _Strip(graph, source, run, python, limits, unsafe, others or {}).skeleton()


def is_part(path: str, files: Container[str]) -> bool:
    """Whether a Python file is of the package itself: no test, and nothing that only makes or documents it."""
    *folders, name = path.split("/")
    top = folders[0] if folders else ""
    around = top in _AROUND_FOLDERS or (top in _MAYBE_AROUND and f"{top}/__init__.py" not in files)
    return path.endswith(".py") and not is_test(path) and name not in _AROUND and not around


class _Strip:
    def __init__(
        self, graph: Graph, source: Source, run: Run, python: str, limits: Limits, unsafe: bool,
        others: Mapping[str, bytes],
    ) -> None:  # fmt: skip
        self.graph, self.run, self.python, self.limits, self.unsafe = graph, run, python, limits, unsafe
        self.prefix = graph.by_id[ROOT].name if ROOT in graph.by_id else ""
        self.files: dict[str, bytes] = dict(others)
        self.whole: dict[str, str] = {}
        for path, data in source.read([node.path for node in graph.nodes if node.kind == "file"]):
            if isinstance(data, bytes):
                self.files[path] = data
        self.texts: dict[str, tuple[str, str]] = {}  # of files of the package
        self.leaves: dict[str, dict[str, Unit]] = {}
        for path in sorted(self.files):
            if is_part(path, self.files) or (path.endswith("__main__.py") and not is_test(path)):
                self._read(path)
        self.keep: dict[str, str] = {}  # id to reason
        for path, leaves in self.leaves.items():
            for qualname, unit in leaves.items():
                if is_empty(unit) or any(mark in _OVERLOADS for mark in _marks(unit)):
                    self.keep[f"{path}:{qualname}"] = "empty"

    def _read(self, path: str) -> None:
        try:
            text, encoding = decoded(self.files[path])
            self.leaves[path] = {name: unit for name, unit in units_of(text).items() if unit.is_leaf}
        except ValueError as error:
            self.whole[path] = str(error)
            return
        self.texts[path] = text, encoding

    def skeleton(self) -> Skeleton:
        modules = {path: dotted_name(path, self.files) for path in self.texts if is_part(path, self.files)}
        modules = {path: self._full(name) for path, name in modules.items()}
        first = self._imported(self.files, modules, profiled=True)
        for path, why in first.failed.items():
            self._leave(path, f"cannot be imported as it is: {why}")
        modules = {path: name for path, name in modules.items() if path not in first.failed}
        self._hit(first.hits)
        for _ in range(ROUNDS):
            ids: list[str] = []
            tried = self._imported(self._stubbed(ids), modules, profiled=False)
            hits = {ids[number] for number in tried.numbers if 0 <= number < len(ids)}
            for one in hits:
                self.keep[one] = "import"
            if not hits:
                if not tried.failed:
                    break
                self._give_up(tried, first)
        else:
            raise ValueError(f"after {ROUNDS} rounds an import still runs a stub")
        return self._made()

    def _full(self, name: str) -> str:
        if not self.prefix:
            return name
        return self.prefix if name == "__init__" else f"{self.prefix}.{name}"

    def _leave(self, path: str, why: str) -> None:
        self.whole[path] = why
        for qualname in self.leaves.get(path, ()):
            self.keep[f"{path}:{qualname}"] = "file"

    def _give_up(self, tried: _Imported, first: _Imported) -> None:
        """Stubs that no import runs, yet one fails: something looks at its functions. The files on its way stay whole."""
        path, why = next(iter(tried.failed.items()))
        way = [one for one in (*reversed(tried.way.get(path, ())), path) if one in self.texts and one not in self.whole]
        if not way:
            raise ValueError(f"{path}: imports as it is and not in the skeleton: {why}")
        self._leave(way[0], f"does not bear stubs: {why}")

    # ------------------------------------------------------------ running

    def _stubbed(self, ids: list[str] | None) -> dict[str, bytes]:
        """All files, with stubs; `ids` is filled with what the numbers in reports mean. None: plain stubs."""
        found = dict(self.files)

        def stub(path: str, name: str) -> str:
            assert ids is not None
            ids.append(f"{path}:{name}")
            return f'raise __import__("{_OURS}").hit({len(ids) - 1})'

        for path, (text, encoding) in self.texts.items():
            keep = {name for name in self.leaves[path] if f"{path}:{name}" in self.keep}
            if path in self.whole or len(keep) == len(self.leaves[path]):
                continue
            stubs = stubs_of(text, keep, STUB if ids is None else partial(stub, path))
            found[path] = stubs.encode(encoding)
        return found

    def _imported(self, files: Mapping[str, bytes], modules: Mapping[str, str], *, profiled: bool) -> _Imported:
        top = self.prefix.replace(".", "/") + "/" if self.prefix else ""
        roots = sorted({"" if self.prefix else import_root(path, self.files) for path in self.texts})
        placed = {top + path: data for path, data in files.items()}
        job = {"roots": roots, "top": top, "profiled": profiled}
        return _imported(placed, modules, job, partial(self.run, limits=self.limits, python=self.python, unsafe=self.unsafe), self.python)  # fmt: skip

    def _hit(self, codes: Iterable[tuple[str, str, int]]) -> None:
        """Keep what a profile saw run: (path, qualified name of the code, first line)."""
        starts: dict[str, list[tuple[int, int, str]]] = {}
        for path, name, line in codes:
            if path not in self.leaves:
                continue
            if path not in starts:
                starts[path] = sorted(
                    (unit.definition.decorator_list[0].lineno if unit.definition.decorator_list else unit.definition.lineno,
                     unit.definition.end_lineno, qualname)
                    for qualname, unit in self.leaves[path].items()
                )  # fmt: skip
            at = bisect.bisect_right(starts[path], (line, sys.maxsize, "")) - 1
            if at < 0 or starts[path][at][1] < line:
                continue
            qualname = starts[path][at][2]
            plain = ".".join(part.partition("#")[0] for part in qualname.split("."))
            if name == plain or name.startswith(plain + ".<locals>."):
                self.keep.setdefault(f"{path}:{qualname}", "import")

    # ------------------------------------------------------------ the result

    def _made(self) -> Skeleton:
        files = self._stubbed(None)
        new = encode(Held(files), self.prefix)
        kept = dict(self.keep)
        stubbed: set[str] = set()
        inner: dict[str, str] = {}  # id of a unit inside a function to the one it went with
        for path, (text, _) in self.texts.items():
            for qualname in units_of(text):
                parts = qualname.split(".")
                leaf = next(
                    (one for n in range(len(parts)) if (one := ".".join(parts[: n + 1])) in self.leaves[path]), None
                )
                if leaf is None:
                    continue
                if f"{path}:{leaf}" not in self.keep:
                    stubbed.add(f"{path}:{leaf}")
                if leaf != qualname:
                    inner[f"{path}:{qualname}"] = f"{path}:{leaf}"
        for node in self.graph.nodes:
            if node.kind in ("function", "method") and node.path not in self.texts:
                kept[node.id] = "outside"
        return Skeleton(files, joined(self.graph, new, stubbed, inner), dict(sorted(kept.items())), dict(sorted(self.whole.items())))  # fmt: skip


def import_fault(files: Mapping[str, bytes], path: str, *, run: Run, python: str = sys.executable, limits: Limits = ONE, unsafe: bool = False) -> str:  # fmt: skip
    """Why the module at `path` of some files cannot be imported, tried in the sandbox; '' where it can."""
    job = {"roots": [import_root(path, files)], "top": "", "profiled": False}
    sandboxed = partial(run, limits=limits, python=python, unsafe=unsafe)
    try:
        return _imported(files, {path: dotted_name(path, files)}, job, sandboxed, python).failed.get(path, "")
    except ValueError as error:
        return str(error)


def _imported(files: Mapping[str, bytes], modules: Mapping[str, str], job: Mapping[str, object], run: Run, python: str) -> _Imported:  # fmt: skip
    """Import all modules, in one process unless one ends it. Raises ValueError where that comes to no end."""
    found = _Imported()
    left = dict(modules)
    while left:
        told = msgspec.json.encode({**job, "modules": list(left.items())})
        done = run(
            [python, "-P", f"{_OURS}/run.py"],
            files={**files, f"{_OURS}/run.py": _INSIDE, f"{_OURS}/job.json": told},
            collect=[_REPORT],
            env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"},
        )
        if _REPORT not in done.files:
            why = f"killed ({done.killed})" if done.killed else done.stderr.strip()[-300:] or f"exit {done.code}"
            raise ValueError(f"importing the package came to no end: {why}")
        begun = found.read(done.files[_REPORT], left)
        if begun is None:
            return found
        how = f"signal {done.signal}" if done.signal else f"exit {done.code}"
        found.failed[begun] = f"it ends the interpreter ({how})"
        del left[begun]
    return found


def joined(old: Graph, new: Graph, stubbed: Collection[str], inner: Mapping[str, str]) -> Graph:
    """The graph of the skeleton: nodes as its files say, with the features, dependencies and meaning of the old one."""
    nodes: list[Node] = []
    for node in new.nodes:
        before = old.by_id.get(node.id)
        if before is not None:
            told = {"features": before.features, "provenance": before.provenance}
            node = msgspec.structs.replace(node, **told)
        if node.id in stubbed:
            node = msgspec.structs.replace(node, status="stubbed")
        nodes.append(node)
    for node in old.nodes:
        if node.kind in SEMANTIC:
            leaf = inner.get(f"{node.path}:{node.qualname}")
            nodes.append(msgspec.structs.replace(node, qualname=leaf.partition(":")[2]) if leaf else node)
    known = {node.id for node in nodes}
    kinds = {node.id: node.kind for node in nodes}
    edges = {(edge.src, edge.dst, edge.type, edge_name(edge)): edge for edge in new.edges if edge.type == "contains"}
    for edge in old.edges:
        src, dst = (inner.get(end, end) for end in (edge.src, edge.dst))
        if src not in known or dst not in known or (src == dst and src != edge.src):
            continue
        if edge.type == "contains" and kinds[dst] not in SEMANTIC:
            continue
        moved = msgspec.structs.replace(edge, src=src, dst=dst)
        edges.setdefault((src, dst, edge.type, edge_name(edge)), moved)
    return Graph(nodes, edges.values())


def _marks(unit: Unit) -> list[str]:
    return [ast.unparse(mark) for mark in unit.definition.decorator_list]


class _Imported:
    """What importing the modules showed. failed: path to the reason; way: to the files on the way to the failure,
    outermost first; hits: (path, name, line) of code that ran, of a profile; numbers: of stubs that ran."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.way: dict[str, list[str]] = {}
        self.hits: set[tuple[str, str, int]] = set()
        self.numbers: set[int] = set()

    def read(self, report: bytes, modules: Container[str]) -> str | None:
        """Take a report over; the path of the module at which it breaks off, None where it is whole. The package can
        write into it too: what is not of a form, or of none of the modules, is passed over."""
        begun: str | None = None
        for line in report.splitlines():
            try:
                kind, *told = msgspec.json.decode(line)
                words = msgspec.convert(told, _FORMS[kind])
            except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError, KeyError, RecursionError):
                continue
            if kind in ("begin", "failed") and words[0] not in modules:
                continue
            if kind == "begin":
                begun = words[0]
            elif kind == "failed":
                self.failed[words[0]], self.way[words[0]] = words[1], words[2]
            elif kind == "ran":
                self.hits.add((words[0], words[1], words[2]))
            elif kind == "hit":
                self.numbers.add(words[0])
            elif kind == "end":
                begun = None
        return begun
