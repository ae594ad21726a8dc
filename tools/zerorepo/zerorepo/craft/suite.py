"""A test file: which tests are in it, what they need of it, and what of the package they use.

Under harvest.py and grouping.py. `TestFile.pruned` cuts a file down to some tests and whatever of its module level they rest
on, by names: imports, constants, helpers, fixtures (which are asked for by the names of parameters). What is kept is kept
word for word. Nothing is run here; that the cut-down file still passes on the package is for harvest.py to see.
"""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

from zerorepo.craft.package import Package
from zerorepo.craft.references import Use, uses_of
from zerorepo.craft.syntax import DEFINITIONS, at_level, first_line, parsed, words_of_strings

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Names of module level that pytest or unittest calls or reads by themselves.
_HOOKS = frozenset(
    "setup_module teardown_module setup_function teardown_function setUpModule tearDownModule pytestmark pytest_plugins "
    "pytest_generate_tests load_tests __test__ collect_ignore collect_ignore_glob".split()
)
_FIXTURES = ("fixture", "yield_fixture")


class Case(NamedTuple):
    """One test. owner: its class, or ""."""

    name: str
    owner: str
    line: int

    @property
    def id(self) -> str:
        return f"{self.owner}::{self.name}" if self.owner else self.name


class _Item(NamedTuple):
    """A statement of the module's level."""

    statement: ast.stmt
    binds: frozenset[str]
    uses: frozenset[str]  # names, and words of strings, that may be names of this file
    roots: frozenset[str]  # what it changes: `table` of `table[1] = 2`, `table.append(3)`
    always: bool


class TestFile:
    """A test file, parsed. Raises ValueError where it is no Python."""

    __test__ = False  # to pytest, which looks at names

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.source = source.replace("\r\n", "\n").replace("\r", "\n")
        self.tree = parsed(self.source)
        self._lines = self.source.split("\n")
        imports = [one for one in self.tree.body if isinstance(one, (ast.Import, ast.ImportFrom))]
        self._imported = {name for one in imports for name in _bound(one)}
        self._helpers: dict[frozenset[str], str] = {}
        self._items = [self._item(one) for one in self.tree.body]

    # ------------------------------------------------------------ tests

    @cached_property
    def cases(self) -> list[Case]:
        """The tests as pytest collects them by default: functions `test*`, and methods `test*` of classes `Test*` or of
        unittest's, in order of place. Methods that a class inherits are not among them."""
        found = []
        for one in at_level(self.tree.body):
            if isinstance(one, _FUNCTIONS) and one.name.startswith("test") and _fixture(one) is None:
                found.append(Case(one.name, "", one.lineno))
            elif isinstance(one, ast.ClassDef) and self._is_test_class(one.name):
                seen: dict[str, Case] = {}
                for inner in one.body:
                    if isinstance(inner, _FUNCTIONS) and inner.name.startswith("test") and _fixture(inner) is None:
                        seen[inner.name] = Case(inner.name, one.name, inner.lineno)
                found += seen.values()
        unique = {case.id: case for case in found}  # of two with one name the later one is run
        return sorted(unique.values(), key=lambda case: case.line)

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {one.name: one for one in at_level(self.tree.body) if isinstance(one, ast.ClassDef)}

    def _is_test_class(self, name: str, seen: frozenset[str] = frozenset()) -> bool:
        made = self.classes[name]
        if any(isinstance(one, ast.FunctionDef) and one.name == "__init__" for one in made.body):
            return False
        return name.startswith("Test") or self._is_unittest(name, seen)

    def _is_unittest(self, name: str, seen: frozenset[str]) -> bool:
        for base in self.classes[name].bases:
            last = ast.unparse(base).rpartition(".")[2]
            if last.endswith("TestCase"):
                return True
            if last in self.classes and last not in seen | {name} and self._is_unittest(last, seen | {name}):
                return True
        return False

    def needs_plugin(self, case: Case) -> bool:
        """A coroutine that pytest does not run by itself; unittest does run its own."""
        if case.owner and self._is_unittest(case.owner, frozenset()):
            return False
        return any(isinstance(one, ast.AsyncFunctionDef) for one in self._definitions(case))

    @cached_property
    def fixtures(self) -> dict[str, bool]:
        """Fixtures of the module's level, to whether they are used without being asked for."""
        found = {}
        for one in at_level(self.tree.body):
            if isinstance(one, _FUNCTIONS) and (told := _fixture(one)) is not None:
                name, autouse = told
                found[name or one.name] = autouse
        return found

    # ------------------------------------------------------------ cutting down

    def pruned(self, ids: Collection[str]) -> str:
        """The file with these tests alone (of `Case.id`) and what they rest on. Raises KeyError for one that is not there."""
        known = {case.id: case for case in self.cases}
        wanted = [known[one] for one in ids]
        return self._cut({case.owner or case.name for case in wanted}, {(case.owner, case.name) for case in wanted})

    def helpers(self, names: Iterable[str]) -> str:
        """The file with these names of its module level alone, and what they rest on: of a conftest or helper module."""
        wanted = frozenset(names)
        if wanted not in self._helpers:
            self._helpers[wanted] = self._cut(set(wanted), set())
        return self._helpers[wanted]

    def _cut(self, names: set[str], tests: set[tuple[str, str]]) -> str:
        tested = {case.owner or case.name for case in self.cases}
        kept = self._closure(names, tests)
        used = names | {name for item in kept for name in self._uses(item, tests)}
        pieces: list[tuple[ast.stmt, str]] = []
        for item in kept:
            one = item.statement
            if isinstance(one, (ast.Import, ast.ImportFrom)):
                text = self._import(one, used)
            elif isinstance(one, ast.ClassDef) and one.name in tested:
                text = self._class(one, tests, used)
            else:
                text = self._text(one)
            if text:
                pieces.append((one, text))
        return _joined(pieces)

    def _closure(self, names: set[str], tests: set[tuple[str, str]]) -> list[_Item]:
        tested = {case.owner or case.name for case in self.cases}
        wanted = {owner or name for owner, name in tests}
        keep: set[int] = set()
        needed = set(names) | _HOOKS
        while True:
            before = len(keep), len(needed)
            bound = {name for at in keep for name in self._items[at].binds}
            for at, item in enumerate(self._items):
                if at in keep:
                    continue
                one = item.statement
                is_test = isinstance(one, DEFINITIONS) and one.name in tested and one.name not in wanted
                if (item.always and not is_test) or item.binds & needed or item.roots & bound:
                    keep.add(at)
                    needed |= self._uses(item, tests)
            if (len(keep), len(needed)) == before:
                return [self._items[at] for at in sorted(keep)]

    def _uses(self, item: _Item, tests: set[tuple[str, str]]) -> frozenset[str]:
        one = item.statement
        if not isinstance(one, ast.ClassDef) or not any(case.owner == one.name for case in self.cases):
            return item.uses
        left = self._left_out(one, tests)
        found: set[str] = set()
        for part in (
            *one.decorator_list,
            *one.bases,
            *one.keywords,
            *(inner for inner in one.body if inner not in left),
        ):
            found |= _names(part)
        return frozenset(found)

    def _left_out(self, made: ast.ClassDef, tests: set[tuple[str, str]]) -> list[ast.stmt]:
        """Tests of a class that are not wanted, unless one that stays names them."""
        others = {
            inner.name: inner
            for inner in made.body
            if isinstance(inner, _FUNCTIONS) and inner.name.startswith("test") and (made.name, inner.name) not in tests
        }
        if not any(owner == made.name for owner, _ in tests):
            # Kept for another's sake, as a base or a helper: its own tests are not run, only what they call may be.
            mentioned = {
                node.attr for one in self.tree.body for node in ast.walk(one) if isinstance(node, ast.Attribute)
            }
            return [inner for name, inner in others.items() if name not in mentioned]
        while True:
            staying = [inner for inner in made.body if inner not in others.values()]
            named = {node.attr for inner in staying for node in ast.walk(inner) if isinstance(node, ast.Attribute)}
            back = [name for name in others if name in named]
            if not back:
                return list(others.values())
            for name in back:
                del others[name]

    def _class(self, made: ast.ClassDef, tests: set[tuple[str, str]], used: Collection[str]) -> str:
        left = {
            number
            for inner in self._left_out(made, tests)
            for number in range(first_line(inner), (inner.end_lineno or 0) + 1)
        }
        numbers = [at for at in range(first_line(made), (made.end_lineno or 0) + 1) if at not in left]
        text = "\n".join(self._lines[at - 1] for at in numbers).rstrip()
        try:
            parsed(text)
        except ValueError:  # nothing is left in it
            text += "\n" + " " * (made.col_offset + 4) + "pass"
        return text

    def _import(self, one: ast.Import | ast.ImportFrom, used: Collection[str]) -> str:
        if isinstance(one, ast.ImportFrom) and (one.module == "__future__" or one.names[0].name == "*"):
            return self._text(one)
        keep = [alias for alias in one.names if (alias.asname or alias.name.partition(".")[0]) in used]
        if len(keep) == len(one.names):
            return self._text(one)
        if not keep:
            return ""
        return ast.unparse(
            ast.ImportFrom(one.module, keep, one.level) if isinstance(one, ast.ImportFrom) else ast.Import(keep)
        )

    def _text(self, one: ast.stmt) -> str:
        """A statement word for word; others on its lines come too, where a semicolon joins them."""
        if one in self._joined_lines:
            return ast.unparse(one)
        return "\n".join(self._lines[first_line(one) - 1 : one.end_lineno]).rstrip()

    @cached_property
    def _joined_lines(self) -> set[ast.stmt]:
        """Statements of the module's level that share a line with another."""
        found: set[ast.stmt] = set()
        for one, other in itertools.pairwise(self.tree.body):
            if (one.end_lineno or one.lineno) >= first_line(other):
                found |= {one, other}
        return found

    def _item(self, one: ast.stmt) -> _Item:
        binds, roots = _bound(one), _changed(one)
        always = bool(binds & _HOOKS)
        if isinstance(one, ast.ImportFrom):
            always |= one.module == "__future__" or one.names[0].name == "*"
        elif isinstance(one, ast.Expr):
            # A call for its effect: on everything (`seed(0)`, and `warnings.simplefilter` or `random.seed` of a module that is
            # imported, which the tests need not name), or on a name of the file (`TABLE.append`).
            always |= not isinstance(one.value, ast.Constant) and (not roots or bool(roots & self._imported))
        elif isinstance(one, ast.If):
            always |= not binds and not roots and "__main__" not in ast.unparse(one.test)
        elif isinstance(one, _FUNCTIONS):
            told = _fixture(one)
            always |= told is not None and told[1]
            if told is not None and told[0]:
                binds |= {told[0]}
        elif not isinstance(one, DEFINITIONS) and not isinstance(one, ast.Import):
            # Also one that sets something of a module, `sys.flag = True`: others may look at it.
            always |= not binds and (not roots or (isinstance(one, ast.Assign) and bool(roots & self._imported)))
        return _Item(one, frozenset(binds), frozenset(_names(one)), frozenset(roots), always)

    # ------------------------------------------------------------ what of the package a test uses

    def reached(self, case_id: str, package: Package, deep: bool = False) -> Counter[str]:
        """Canonical names of what of the package one test names itself, with how often; deep: also what the helpers and
        fixtures of the file do that it rests on."""
        case = next(one for one in self.cases if one.id == case_id)
        if deep:
            text = self._cut({case.owner or case.name}, {(case.owner, case.name)})
            return Counter(found.meaning.name for found in uses_of(text, self.path, package))
        return self._direct(package).get(case_id, Counter())

    def uses(self, package: Package) -> tuple[Use, ...]:
        """Every place of the file that names something of the package."""
        return uses_of(self.source, self.path, package)

    def _direct(self, package: Package) -> dict[str, Counter[str]]:
        if getattr(self, "_counted_for", None) is not package:
            ranges = [(case.id, one) for case in self.cases for one in self._definitions(case)]
            by_line: dict[int, str] = {}
            for name, one in ranges:
                by_line.update(dict.fromkeys(range(first_line(one), (one.end_lineno or 0) + 1), name))
            counted: dict[str, Counter[str]] = {}
            for use in self.uses(package):
                if use.line in by_line:
                    counted.setdefault(by_line[use.line], Counter())[use.meaning.name] += 1
            self._counted_for, self._counted = package, counted
        return self._counted

    def _definitions(self, case: Case) -> Iterator[ast.stmt]:
        level: Iterable[ast.stmt] = self.classes[case.owner].body if case.owner else at_level(self.tree.body)
        return (one for one in level if isinstance(one, _FUNCTIONS) and one.name == case.name)


@lru_cache(maxsize=256)
def read_suite_file(path: str, source: str) -> TestFile:
    """A TestFile, made once. Raises ValueError."""
    return TestFile(path, source)


# ---------------------------------------------------------------- syntax


def _fixture(one: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, bool] | None:
    """(name it is asked for by, "" for the function's own; used without being asked for) of a fixture; None of others."""
    for mark in one.decorator_list:
        call = mark if isinstance(mark, ast.Call) else None
        called = call.func if call is not None else mark
        if ast.unparse(called).rpartition(".")[2] in _FIXTURES:
            words = {word.arg: word.value for word in call.keywords} if call is not None else {}
            name, autouse = words.get("name"), words.get("autouse")
            told = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
            return told, autouse is not None and not (isinstance(autouse, ast.Constant) and not autouse.value)
    return None


def _names(one: ast.AST) -> set[str]:
    """Names a statement reads, parameters (which ask for fixtures) and words of strings (which may)."""
    found = words_of_strings(one)
    for node in ast.walk(one):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def _bound(one: ast.stmt) -> set[str]:
    """Names that a statement of the module's level binds there."""
    if isinstance(one, DEFINITIONS):
        return {one.name}
    found: set[str] = set()
    open_: list[ast.AST] = [one]
    while open_:
        node = open_.pop()
        if isinstance(node, DEFINITIONS):
            found.add(node.name)
            continue
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        open_ += ast.iter_child_nodes(node)
    return found


def _changed(one: ast.stmt) -> set[str]:
    """Names whose values a statement of the module's level changes: `a` of `a.b = 1`, `a[0] += 1`, `a.add(1)`."""
    found: set[str] = set()
    if isinstance(one, DEFINITIONS):
        return found

    def roots(target: ast.expr) -> None:
        while isinstance(target, (ast.Attribute, ast.Subscript, ast.Call)):
            target = target.func if isinstance(target, ast.Call) else target.value
        if isinstance(target, ast.Name):
            found.add(target.id)

    for node in ast.walk(one):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            roots(node)
        elif (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute)
        ):
            roots(node.value.func)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def _joined(pieces: list[tuple[ast.stmt, str]]) -> str:
    """Statements with the blank lines that belong between them."""
    text = ""
    for at, (one, piece) in enumerate(pieces):
        if at:
            before = pieces[at - 1][0]
            apart = isinstance(one, DEFINITIONS) or isinstance(before, DEFINITIONS)
            imports = isinstance(before, (ast.Import, ast.ImportFrom)) and not isinstance(
                one, (ast.Import, ast.ImportFrom)
            )
            text += "\n\n\n" if apart else "\n\n" if imports else "\n"
        text += piece
    return text + "\n" if text else ""
