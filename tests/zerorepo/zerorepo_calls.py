"""Calls as they happen, and how a graph's call edges compare with them; for test_zerorepo_calls.py and bench/calls.py."""

import ast
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from zerorepo.graph import Graph

Place = tuple[str, int, str]  # file, first line (decorators included), name
Pair = tuple[str, str]  # ids of caller and callee

# argv: where to write, then names of networkx's test files. Pairs of (file, first line, name) of functions of the package.
TRACER = """
import glob, json, os, sys
import pytest, networkx
root = os.path.dirname(networkx.__file__) + "/"
pairs, known = set(), {}
def place(code):
    if code not in known:
        inside = code.co_filename.startswith(root) and "/tests/" not in code.co_filename
        known[code] = (code.co_filename[len(root):], code.co_firstlineno, code.co_name) if inside else None
    return known[code]
def called(frame, event, _):
    if event == "call" and frame.f_back is not None:
        caller, callee = place(frame.f_back.f_code), place(frame.f_code)
        if caller and callee:
            pairs.add((caller, callee))
files = [f for f in sorted(glob.glob(root + "**/tests/test_*.py", recursive=True)) if os.path.basename(f)[5:-3] in sys.argv[2:]]
sys.setprofile(called)
status = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", ".", "-c", os.devnull, *files])
sys.setprofile(None)
assert status == 0, status
with open(sys.argv[1], "w") as out:
    json.dump(sorted(pairs), out)
"""


def copied(name: str, folder: Path, *, tests: bool = False) -> Path:
    """A copy of an installed package without its tests directories."""
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    leave = ("__pycache__", "*.pyc") if tests else ("__pycache__", "*.pyc", "tests")
    return shutil.copytree(Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns(*leave))


def release(name: str) -> str:
    return f"{name} {version(name)}"


class Score(NamedTuple):
    """happened: pairs of units of which one called the other; visible: those whose callee's name stands in a call of
    the caller; edges: the graph's call edges between functions, with their confidence, whose caller ran."""

    happened: set[Pair]
    visible: set[Pair]
    edges: dict[Pair, str]

    @property
    def recall(self) -> float:
        return len(self.visible & self.edges.keys()) / len(self.visible)

    def precision(self, *confidences: str) -> float:
        counted = {pair for pair, confidence in self.edges.items() if confidence in confidences}
        return len(counted & self.happened) / len(counted)


def names_called(package: Path, path: str) -> dict[tuple[int, str], set[str]]:
    """(first line, name) of each function of a file to the names in its call expressions; `f` of f() and of x.f()."""
    found: dict[tuple[int, str], set[str]] = {}
    for node in ast.walk(ast.parse((package / path).read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            inside = [call.func for part in node.body for call in ast.walk(part) if isinstance(call, ast.Call)]
            names = {
                f.id if isinstance(f, ast.Name) else f.attr for f in inside if isinstance(f, ast.Name | ast.Attribute)
            }
            found[first, node.name] = names
    return found


def score(graph: Graph, package: Path, trace: list[tuple[Place, Place]]) -> Score:
    """Compare a graph of `package` with a trace as TRACER writes it."""
    functions = [node for node in graph.nodes if node.kind in ("function", "method")]
    at = {(node.path, node.span[0], node.name): node for node in functions}
    happened, visible = set(), set()
    texts = {path: names_called(package, path) for path in {node.path for node in functions}}
    for caller, callee in trace:
        (a, first, name), (b, second, other) = caller, callee
        src, dst = at.get((a, first, name)), at.get((b, second, other))
        if src is not None and dst is not None:
            happened.add((src.id, dst.id))
            if dst.name in texts[src.path][src.span[0], src.name]:
                visible.add((src.id, dst.id))
    ran = {unit for pair in happened for unit in pair}
    units = {node.id for node in functions}
    edges = {
        (e.src, e.dst): e.confidence for e in graph.edges if e.type == "invokes" and e.src in ran and e.dst in units
    }
    return Score(happened, visible, edges)
