"""Tasks of a RepoCraft-like benchmark (arXiv 2509.16198 §4.1, app. D): what one is, read and written as JSON Lines.

The record that every module of craft/ hands on. harvest.py makes them from a real package's own tests, listing.py filters and
shows them, scoring.py uses them. A task stands alone: with its test, what the test needs beside it, and the interfaces of the
real package that the test uses, so that neither package nor suite is needed where a repository is scored.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.records import readable
from zerorepo.craft.syntax import parsed

SCHEMA = "craft/1"
DEEPEST = 100  # parts of a dotted name
LONGEST_PATH, LONGEST_PART = 3000, 255
SHOWN = 80  # characters of a value, in a message
FUNCTIONS = "functions"  # the module of tests that stand in no class
Kind = Literal["module", "class", "function", "method", "variable"]


class Interface(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Something of the real package that the test names.

    name: canonical, the module that defines it first: `boltons.cacheutils.LRU.copy`. written: the dotted names by which the
    test reaches it (through re-exports too: `boltons.LRU`); empty where it is used on a value (`cache.copy()`). tested: the
    test is about it; else it is used on the way. signature: as in the source, without `def`; doc: first paragraph.
    """

    name: str
    kind: Kind
    written: list[str] = []
    tested: bool = False
    signature: str = ""
    doc: str = ""
    features: list[str] = []

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """Dotted name of what defines it: its module, or its class."""
        return self.name.rpartition(".")[0]


class Support(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A file beside the test that it needs: a conftest, a helper module, data. Exactly one of text and base64 is given."""

    path: str
    text: str | None = None
    base64: str | None = None

    @property
    def data(self) -> bytes:
        return self.text.encode() if self.text is not None else base64.b64decode(self.base64 or "", validate=True)

    @classmethod
    def of(cls, path: str, data: bytes) -> Support:
        try:
            return cls(path=path, text=data.decode("utf-8"))
        except UnicodeDecodeError:
            return cls(path=path, base64=base64.b64encode(data).decode())


class Gold(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the same steps give on the real package itself. result: of verdict.Verdict; reason: why not, "" where passed;
    skipped: how many tests did not run, or were expected to fail, where the others passed; None where that is not known."""

    passed: bool
    voted: bool
    result: str = ""
    reason: str = ""
    skipped: int | None = None


class Task(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One task. The first nine fields are the paper's record (app. D).

    category: the deepest folder of the test file that is not named test or tests. file: path of the test file in the
    repository. module: `functions` or the test class. cap: what is tested. functions: names of its tests. query_code: the
    test file cut down to them and what they need. cases: what pytest is given, `Class::name` or `name`. top: names that the
    real package is imported by.
    """

    id: str
    category: str
    file: str
    module: str
    cap: str
    functions: list[str]
    query_code: str
    alg_description: str
    task_query: str
    project: str
    cases: list[str]
    top: list[str]
    interfaces: list[Interface]
    support: list[Support] = []
    gold: Gold | None = None
    schema: str = SCHEMA

    @property
    def leaf(self) -> str:
        """The class of the taxonomy that the task belongs to: `category/test file`, without its test_ or _test."""
        stem = self.file.rpartition("/")[2].removesuffix(".py")
        return f"{self.category}/{stem.removeprefix('test_').removesuffix('_test')}"

    @property
    def tested(self) -> list[Interface]:
        return [one for one in self.interfaces if one.tested]


def dumps(task: Task) -> bytes:
    """One line of JSON, without its end."""
    return msgspec.json.encode(task)


def task_of(where: str, record: Any) -> Task:
    """A decoded line. Raises BadInput that begins with `where`."""
    declared = record.get("schema") if isinstance(record, dict) else None
    if declared not in (None, SCHEMA):
        raise BadInput(f"{where}: schema: expected {SCHEMA}, as `zerorepo craft harvest` writes it, got {declared!r}")
    try:
        task = msgspec.convert(record, Task)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {readable(error)}; expected a task of `zerorepo craft harvest`") from None
    for one in task.support:
        try:
            _ = one.data
        except binascii.Error as error:
            raise BadInput(f"{where}: {one.path}: base64: {error}") from None
    for path in (task.file, *(one.path for one in task.support)):
        if fault := path_fault(path):
            raise BadInput(f"{where}: {path[:SHOWN]!r}: {fault}")
    if fault := _fault(task):
        raise BadInput(f"{where}: {fault}")
    return task


def _fault(task: Task) -> str:
    """Why a task cannot be run or placed, with its field; '' where it can."""
    if not task.file.endswith(".py"):
        return f"file: {task.file[:SHOWN]!r}: expected a Python file"
    if not task.cases:
        return "cases: expected one test at least"
    for case in task.cases:
        if not all(part.isidentifier() for part in case.split("::")):
            return f"cases: {case[:SHOWN]!r}: expected a test as `name` or `Class::name`"
    for one in task.interfaces:
        for name in (one.name, *one.written):
            parts = name.split(".")
            if len(parts) > DEEPEST or not all(parts):
                return f"interfaces: {name[:SHOWN]!r}: expected a dotted name of at most {DEEPEST} parts"
    if task.gold is not None and task.gold.passed and not task.gold.voted:
        return "gold.passed: true without voted; expected both, as a task is passed where its vote was won"
    return ""


def path_fault(path: str) -> str:
    """Why a file of a task cannot have this path; '' where it can. Tasks come from elsewhere, and their files are laid out."""
    parts = path.split("/")
    if (
        not path
        or path.startswith("/")
        or "\\" in path
        or "\0" in path
        or any(part in ("", ".", "..") for part in parts)
    ):
        return "expected a relative path that stays in the repository"
    if len(path) > LONGEST_PATH or any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"expected at most {LONGEST_PART} bytes between slashes and {LONGEST_PATH} in all"
    return ""


def read_tasks(source: Iterable[tuple[str, dict[str, Any]]], name: str = "tasks", to_run: bool = False) -> list[Task]:
    """The tasks of a tenfold_shared.jsonl.Source. Raises BadInput with file and line for what is none, an unknown schema,
    an id twice, or where there is not one. name: of the source, where it has no line; to_run: their tests
    must be Python."""
    found: dict[str, Task] = {}
    where = name
    for where, record in source:
        task = task_of(where, record)
        if task.id in found:
            raise BadInput(f"{where}: id: {task.id!r} stands twice")
        if to_run:
            try:
                parsed(task.query_code)
            except ValueError as error:
                raise BadInput(f"{where}: query_code: no Python: {error}") from None
        found[task.id] = task
    if not found:
        raise BadInput(f"{where}: no task; expected what `zerorepo craft harvest` writes")
    return list(found.values())
