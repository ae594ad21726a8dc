"""Folders and files of a design: which area lies where, and what a path may be called.

Steps 1 and 2 of stage B (arXiv 2509.16198 §2.3): every area is bound to one folder, every leaf feature to one file
below its area's folder. implementation.py asks; here an answer is judged. A path is judged before anything is done
with it, and no path that could lead out of the repository, enter git's folder, hide a module or be no file somewhere
is ever kept.
"""

from __future__ import annotations

import keyword
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from tenfold_shared import BadInput
from zerorepo.graph import ROOT, SEMANTIC, Edge, Graph, Node
from zerorepo.lift import MARK
from zerorepo.validate import judged_path

MOST_DEPTH = 12  # folders inside each other
MOST_BYTES = 900  # of a whole path; Linux takes 4096, with the folder it is put in
MOST_NAMED = 8  # mistakes of one answer that are told to the model
CROWDED = 10  # files in a folder after which the paper introduces folders below it
SRC = "src"  # the one folder that holds packages without being one
# At an import root these hide what the tests of stage C are run with, or are run by Python itself at start.
_TAKEN = frozenset(
    "pytest _pytest pluggy iniconfig packaging coverage conftest setup sitecustomize usercustomize".split()
)
_TESTS = ("test", "tests")


class Proposal(NamedTuple):
    """A proposed graph as stage B reads it. leaves: area to its leaf features, both named by id without the mark and
    in the order of ids; nodes, contains: the semantic tree without branches that hold no leaf; empty: ids of those."""

    name: str
    purpose: str
    leaves: dict[str, list[str]]
    nodes: list[Node]
    contains: list[Edge]
    empty: list[str]

    @property
    def areas(self) -> list[str]:
        return list(self.leaves)

    @property
    def names(self) -> dict[str, str]:
        """Leaf to its phrase."""
        return {node.id[len(MARK) :]: node.name for node in self.nodes if node.kind == "feature"}


def proposal_of(graph: Graph, name: str = "proposal") -> Proposal:
    """Raises BadInput where the graph is no proposal: it has files already, no area, or no feature."""
    held = next((node for node in graph.nodes if node.kind not in ("repo", *SEMANTIC)), None)
    if held is not None:
        raise BadInput(f"{name}: {held.id}: a {held.kind}; design starts from a proposal, which has features alone")
    root = graph.by_id.get(ROOT)
    leaves: dict[str, list[str]] = {}
    kept: list[Node] = []
    contains: list[Edge] = []
    empty: list[str] = []
    for area in sorted((node for node in graph.nodes if node.kind == "area"), key=lambda node: node.id):
        order, stack = [], [area]
        while stack:
            node = stack.pop()
            order.append(node)
            stack += sorted(graph.children(node.id), key=lambda one: one.id, reverse=True)
        held_below: set[str] = set()
        for node in reversed(order):
            below = graph.children(node.id)
            if (node.kind == "feature" and not below) or any(one.id in held_below for one in below):
                held_below.add(node.id)
        mine = [node.id[len(MARK) :] for node in order if node.kind == "feature" and not graph.children(node.id)]
        for node in order:
            above = graph.parent(node.id)
            begin = MARK if node is area or above is None else above.id + "/"
            if not node.id.startswith(begin) or not node.id.isprintable() or len(node.id) == len(begin):
                raise BadInput(f"{name}: {node.id!a}: expected {begin}NAME in printable characters: the id of a semantic node is its parent's and its own name")  # fmt: skip
            if node.id in held_below:
                kept.append(node)
                contains.append(
                    Edge(src=ROOT if node is area or above is None else above.id, dst=node.id, type="contains")
                )
            else:
                empty.append(node.id)
        if mine:
            leaves[area.id[len(MARK) :]] = mine
    lost = sorted({node.id for node in graph.nodes if node.kind != "repo"} - {node.id for node in kept} - set(empty))
    if leaves and lost:
        raise BadInput(f"{name}: {lost[0]}: stands below no area, as {len(lost)} do; give each a place, or let `zerorepo propose` end")  # fmt: skip
    if not leaves:
        raise BadInput(f"{name}: no feature below an area; `zerorepo propose` writes what design reads")
    told = root.name if root is not None else ""
    return Proposal(told, root.doc if root is not None else "", leaves, kept, contains, empty)


# ------------------------------------------------------------ names


class Paths:
    """The paths of a design so far. `problem` judges one more, `add` takes it."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}  # path to folder or file
        self._alike: dict[str, str] = {}

    def problem(self, path: Any, kind: str = "file") -> str:
        """Why a path cannot be of a module (kind file) or package (kind folder) of this design; '' where it can."""
        if not isinstance(path, str):
            return f"{short(path)}: expected a path, a string"
        if wrong := unwritable(path):
            return wrong
        parts = path.split("/")
        for at in range(len(parts)):
            here = "/".join(parts[: at + 1])
            wanted = kind if at == len(parts) - 1 else "folder"
            if wrong := self._module_problem(parts, at, wanted) or self._clash(here, wanted):
                return f"path {short(path)}: {wrong}"
        return ""

    def add(self, path: str, kind: str = "file") -> None:
        parts = path.split("/")
        for at in range(len(parts)):
            here = "/".join(parts[: at + 1])
            self.kinds.setdefault(here, kind if at == len(parts) - 1 else "folder")
            self._alike.setdefault(_folded(here), here)

    def _module_problem(self, parts: list[str], at: int, kind: str) -> str:
        part = parts[at]
        if kind == "file":
            if not part.endswith(".py"):
                return f"{short(part)}: expected a Python module, NAME.py"
            part = part[:-3]
            if part.startswith("test_") or part.endswith("_test") or part == "conftest":
                return f"{short(part)}.py: pytest takes it for a test; tests are written later"
        if keyword.iskeyword(part) or not part.isidentifier() or unicodedata.normalize("NFKC", part) != part:
            return f"{short(part)}: no import statement can name it"
        if kind == "folder" and part in _TESTS:
            return f"{short(part)}: the folder of tests; they are written later"
        if at == 0 or parts[:at] == [SRC]:
            if part in sys.stdlib_module_names:
                return f"{short(part)}: hides the standard library's module of that name"
            if part in _TAKEN:
                return f"{short(part)}: hides a module that the tests are run with"
        return ""

    def _clash(self, here: str, kind: str) -> str:
        other = self._alike.get(_folded(here))
        if other is not None and other != here:
            return f"{short(here)}: differs from {short(other)} in case alone"
        if self.kinds.get(here, kind) != kind:
            return f"{short(here)}: is a {self.kinds[here]} already"
        beside = here[:-3] if kind == "file" else here + ".py"
        taken = self._alike.get(_folded(beside))
        return f"{short(here)}: {short(taken)} is a module of the same name beside it" if taken is not None else ""


def unwritable(path: str) -> str:
    """Why no file can have this path everywhere, or none may be written there; '' where one can."""
    wrong = judged_path(path, True)
    if wrong is not None:
        return wrong[1]
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return f"path {short(path)}: not UTF-8"
    if size > MOST_BYTES or path.count("/") >= MOST_DEPTH:
        return f"path {short(path)}: more than {MOST_BYTES} bytes, or than {MOST_DEPTH} names"
    return ""


def packages_of(paths: Iterable[str]) -> list[str]:
    """The `__init__.py` that make every folder above a module a package; a top-level `src` is none."""
    found = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder != SRC:
            found.add(f"{folder}/__init__.py")
            folder = folder.rpartition("/")[0]
    return sorted(found)


def top_of(path: str) -> str:
    """The folder an import statement begins with, `src` before it where it lies in that."""
    parts = path.split("/")
    return "/".join(parts[: 2 if parts[0] == SRC else 1])


# ------------------------------------------------------------ step 1: folders


class Folders(NamedTuple):
    """of: area to its folder; planned: Python files the model named beside; fabricated: areas that do not exist."""

    of: dict[str, str]
    planned: list[str]
    fabricated: list[str]


def folders_checked(value: Mapping[str, Any], areas: Collection[str]) -> Folders:
    """Every area in exactly one folder, of nested `{"folder": [areas] | {...}, "file": null}`.

    A folder that is an object and an area's own has the area under the name `.`; at the top that is the root.
    Raises ValueError that names what is wrong: areas missing or bound twice, paths that may not be.
    """
    tree = value.get("folders")
    if not isinstance(tree, dict):
        raise ValueError('expected {"folders": {...}}')
    wrong: list[str] = []
    bound: dict[str, list[str]] = defaultdict(list)
    planned: list[str] = []
    stack: list[tuple[str, Any]] = [("", tree)]
    fabricated: list[str] = []
    while stack:
        path, below = stack.pop()
        if path and (trouble := unwritable(path)):
            wrong.append(trouble)
        elif isinstance(below, dict):
            stack += [(_inside(path, name), more) for name, more in reversed(below.items())]
        elif isinstance(below, list):
            for area in below:
                if isinstance(area, str) and area in areas:
                    bound[area].append(path)
                else:
                    fabricated.append(short(area))
        elif below is None:
            planned += [path] if path.endswith(".py") else []
        else:
            wrong.append(f"{short(path)}: expected an object, a list of areas or null, got {short(below)}")
    for area, places in bound.items():
        if len(places) > 1:
            wrong.append(f"area {area}: bound to {' and to '.join(places)}; expected one folder")
    if missing := [area for area in areas if area not in bound]:
        wrong.append(f"in no folder: {', '.join(missing[:MOST_NAMED])}")
    paths = Paths()
    for area in sorted(bound):
        for place in bound[area]:
            if place and (trouble := paths.problem(place, "folder")):
                wrong.append(trouble)
            elif place == SRC:
                wrong.append(f"area {area}: {SRC} holds packages and is none; bind the area to a folder inside it")
            elif place:
                paths.add(place, "folder")
    if wrong:
        unknown = [f"no such area: {', '.join(fabricated[:3])}"] if fabricated else []
        raise ValueError("; ".join([*wrong[:MOST_NAMED], *unknown]))
    return Folders({area: bound[area][0] for area in areas}, planned, fabricated)


# ------------------------------------------------------------ step 2: files


class Placed(NamedTuple):
    """files: leaf to its file, new ones alone; fabricated: leaves that were not asked about; wrong: why others are
    left to the next round."""

    files: dict[str, str]
    fabricated: list[str]
    wrong: list[str]


class Files:
    """Which leaf lies in which file, while answers come in. bound: area to its folder, of step 1."""

    def __init__(self, bound: Mapping[str, str]) -> None:
        self.bound = bound
        self.of: dict[str, str] = {}  # leaf to file
        self.owner: dict[str, str] = {}  # file to area
        self.paths = Paths()
        self.homes: dict[str, set[str]] = defaultdict(set)  # folder to the areas bound to it
        for area, folder in bound.items():
            self.homes[folder].add(area)
            if folder:
                self.paths.add(folder, "folder")

    def take(self, area: str, open_: Collection[str], value: Mapping[str, Any]) -> Placed:
        """Take over what is right of `{"files": {"category/group/leaf": "folder/file.py"}}`, the leaf without its area.

        Raises ValueError where nothing is. A second mention of a leaf cannot be: an object has a key once.
        """
        told = value.get("files")
        if not isinstance(told, dict):
            raise ValueError('expected {"files": {"category/group/leaf": "folder/file.py"}}')
        placed = Placed({}, [], [])
        for name, path in told.items():
            leaf = f"{area}/{name}"
            if leaf not in open_:
                placed.fabricated.append(short(name))
            elif wrong := self._problem(area, path):
                placed.wrong.append(wrong)
            else:
                placed.files[leaf] = path
                self.paths.add(path)
                self.owner[path] = area
        if not placed.files:
            unknown = [f"not asked about: {', '.join(placed.fabricated[:3])}"] if placed.fabricated else []
            raise ValueError("; ".join([*dict.fromkeys(placed.wrong), *unknown][:MOST_NAMED]) or "it places no feature")
        self.of |= placed.files
        return placed

    def _problem(self, area: str, path: Any) -> str:
        if wrong := self.paths.problem(path):
            return wrong
        folder = self.bound[area]
        if folder and not path.startswith(folder + "/"):
            return f"{short(path)}: not below {folder}, the folder of {area}"
        here = path.rpartition("/")[0]
        while here and here not in self.homes:
            here = here.rpartition("/")[0]
        if area not in self.homes[here]:
            return f"{short(path)}: lies in {here}, the folder of {', '.join(sorted(self.homes[here]))}"
        if self.owner.get(path, area) != area:
            return f"{short(path)}: is a file of {self.owner[path]}; a file belongs to one area"
        return ""

    def in_area(self, area: str) -> list[str]:
        return sorted(path for path, one in self.owner.items() if one == area)

    def crowded(self) -> list[str]:
        """Folders with more files than the paper would leave in one."""
        count: dict[str, int] = defaultdict(int)
        for path in self.owner:
            count[path.rpartition("/")[0]] += 1
        return sorted(folder for folder, files in count.items() if files > CROWDED)


def _inside(folder: str, name: str) -> str:
    return folder if name in (".", "") else f"{folder}/{name}" if folder else name


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return ascii(text[:57] + "..." if len(text) > 60 else text)
