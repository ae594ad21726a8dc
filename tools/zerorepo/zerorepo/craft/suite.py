"""A test file: which tests are in it, what they need of it, and what of the package they use.

Under harvest.py and grouping.py. `TestFile.pruned` cuts a file down to some tests and whatever of its module level they rest
on, by names: imports, constants, helpers, fixtures (which are asked for by the names of parameters). What is kept is kept
word for word. Nothing is run here; that the cut-down file still passes on the package is for harvest.py to see.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from zerorepo.craft.package import Meaning, Package, in_tests
from zerorepo.craft.tasks import Interface, Support
from zerorepo.features import own_phrases
from zerorepo.modules import import_root

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Names of module level that pytest or unittest calls or reads by themselves.
_HOOKS = frozenset(
    "setup_module teardown_module setup_function teardown_function setUpModule tearDownModule pytestmark pytest_plugins "
    "pytest_generate_tests load_tests __test__ collect_ignore collect_ignore_glob".split()
)
_FIXTURES = ("fixture", "yield_fixture")
CONFTEST = "conftest.py"


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
        self._items = [self._item(one) for one in self.tree.body]

    # ------------------------------------------------------------ tests

    @cached_property
    def cases(self) -> list[Case]:
        """The tests as pytest collects them by default: functions `test*`, and methods `test*` of classes `Test*` or of
        unittest's, in order of place. Methods that a class inherits are not among them."""
        found = []
        for one in _at_level(self.tree.body):
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
        return {one.name: one for one in _at_level(self.tree.body) if isinstance(one, ast.ClassDef)}

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

    @cached_property
    def fixtures(self) -> dict[str, bool]:
        """Fixtures of the module's level, to whether they are used without being asked for."""
        found = {}
        for one in _at_level(self.tree.body):
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
        return self._cut(set(names), set())

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
                is_test = isinstance(one, _DEFINITIONS) and one.name in tested and one.name not in wanted
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
            for number in range(_first(inner), (inner.end_lineno or 0) + 1)
        }
        numbers = [at for at in range(_first(made), (made.end_lineno or 0) + 1) if at not in left]
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
        first, last = _first(one), one.end_lineno or one.lineno
        alone = all(other is one or (other.end_lineno or 0) < first or _first(other) > last for other in self.tree.body)
        return "\n".join(self._lines[first - 1 : last]).rstrip() if alone else ast.unparse(one)

    def _item(self, one: ast.stmt) -> _Item:
        binds, roots = _bound(one), _changed(one)
        always = bool(binds & _HOOKS)
        if isinstance(one, ast.ImportFrom):
            always |= one.module == "__future__" or one.names[0].name == "*"
        elif isinstance(one, ast.Expr):
            # A call for its effect: on everything (`warnings.simplefilter`), or on a name (`TABLE.append`).
            always |= not isinstance(one.value, ast.Constant) and not roots
        elif isinstance(one, ast.If):
            always |= not binds and not roots and "__main__" not in ast.unparse(one.test)
        elif isinstance(one, _FUNCTIONS):
            told = _fixture(one)
            always |= told is not None and told[1]
            if told is not None and told[0]:
                binds |= {told[0]}
        elif not isinstance(one, _DEFINITIONS) and not isinstance(one, ast.Import):
            always |= not binds and not roots
        return _Item(one, frozenset(binds), frozenset(_names(one)), frozenset(roots), always)

    # ------------------------------------------------------------ what of the package a test uses

    def reached(self, case_id: str, package: Package, deep: bool = False) -> Counter[str]:
        """Canonical names of what of the package one test names itself, with how often; deep: also what the helpers and
        fixtures of the file do that it rests on."""
        case = next(one for one in self.cases if one.id == case_id)
        if deep:
            tree = parsed(self._cut({case.owner or case.name}, {(case.owner, case.name)}))
            return Counter(found.meaning.name for found in References(tree, self.path, package).uses)
        return self._direct(package).get(case_id, Counter())

    def _direct(self, package: Package) -> dict[str, Counter[str]]:
        if getattr(self, "_counted_for", None) is not package:
            ranges = [(case.id, one) for case in self.cases for one in self._definitions(case)]
            by_line: dict[int, str] = {}
            for name, one in ranges:
                by_line.update(dict.fromkeys(range(_first(one), (one.end_lineno or 0) + 1), name))
            counted: dict[str, Counter[str]] = {}
            for use in References(self.tree, self.path, package).uses:
                if use.line in by_line:
                    counted.setdefault(by_line[use.line], Counter())[use.meaning.name] += 1
            self._counted_for, self._counted = package, counted
        return self._counted

    def _definitions(self, case: Case) -> Iterator[ast.stmt]:
        level: Iterable[ast.stmt] = self.classes[case.owner].body if case.owner else _at_level(self.tree.body)
        return (one for one in level if isinstance(one, _FUNCTIONS) and one.name == case.name)


# ---------------------------------------------------------------- the package's names in a source


class Use(NamedTuple):
    """A place at which something of the package is named. written: the dotted name as reached, "" on a value."""

    written: str
    meaning: Meaning
    line: int


class References:
    """Every place in a test's source that names something of the package: imports, chains of attributes from what was
    imported, dotted names in strings (as `mock.patch` takes them), and attributes of values where a method of a class that is
    used here has that name."""

    def __init__(self, tree: ast.AST, path: str, package: Package) -> None:
        self.package, self.path = package, path
        self.uses: list[Use] = []
        self._imports(tree)
        self._walk(tree)
        self._members(tree)

    def _imports(self, tree: ast.AST) -> None:
        self.aliases: dict[str, str] = {}  # local name to what it stands for, dotted, as written
        for one in ast.walk(tree):
            if isinstance(one, ast.Import):
                for alias in one.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._take(alias.asname or name, name, one.lineno)
                    if not alias.asname and "." in alias.name:
                        self._add(alias.name, one.lineno)
            elif isinstance(one, ast.ImportFrom):
                module = absolute(one, self.path, self.package)
                for alias in one.names:
                    if alias.name == "*":
                        self._star(module, one.lineno)
                    else:
                        self._take(alias.asname or alias.name, f"{module}.{alias.name}", one.lineno)

    def _take(self, local: str, written: str, line: int) -> None:
        if self._add(written, line):
            self.aliases[local] = written

    def _star(self, module: str, line: int) -> None:
        if self._add(module, line):
            for name in self.package.public(module):
                if self.package.meaning(f"{module}.{name}") is not None:
                    self.aliases.setdefault(name, f"{module}.{name}")

    def _add(self, written: str, line: int) -> Meaning | None:
        found = self.package.meaning(written)
        if found is None or self._own(found):
            return None
        self.uses.append(Use(written, found, line))
        return found

    def _own(self, found: Meaning) -> bool:
        """Whether it is of the suite, not of the package."""
        path = (
            found.node.path
            if found.node is not None
            else self.package.module_paths.get(found.name.rpartition(".")[0], "")
        )
        return in_tests(path)

    def _walk(self, tree: ast.AST) -> None:
        inner: set[ast.AST] = set()  # parts of a chain that is already counted
        for one in ast.walk(tree):
            if isinstance(one, ast.Attribute) and one not in inner:
                chain = chain_of(one)
                if chain is None or chain[0] not in self.aliases:
                    continue
                part: ast.expr = one
                while isinstance(part, ast.Attribute):
                    inner.add(part.value)
                    part = part.value
                written = ".".join([self.aliases[chain[0]], *chain[1:]])
                while written.count(".") > self.aliases[chain[0]].count(".") and self._add(written, one.lineno) is None:
                    written = written.rpartition(".")[0]
            elif (
                isinstance(one, ast.Name)
                and one not in inner
                and isinstance(one.ctx, ast.Load)
                and one.id in self.aliases
            ):
                self._add(self.aliases[one.id], one.lineno)
            elif isinstance(one, ast.Constant) and isinstance(one.value, str) and is_dotted(one.value):
                written = one.value
                while written.partition(".")[0] in self.package.top and "." in written:
                    if self._add(written, one.lineno):
                        break
                    written = written.rpartition(".")[0]

    def _members(self, tree: ast.AST) -> None:
        """Methods of the classes that are used here, by their names alone."""
        classes = {use.meaning.name: use.meaning for use in self.uses if use.meaning.kind == "class"}
        owned = {use.meaning.name.rpartition(".")[0] for use in self.uses if use.meaning.kind == "method"}
        for name in owned:
            found = self.package.meaning(name)
            if found is not None and found.kind == "class":
                classes.setdefault(name, found)
        for one in ast.walk(tree):
            if not isinstance(one, ast.Attribute) or one.attr.startswith("__"):
                continue
            chain = chain_of(one)
            if chain is not None and chain[0] in self.aliases:
                continue
            for name in sorted(classes):
                found = self.package.meaning(f"{name}.{one.attr}")
                if found is not None and found.kind == "method":
                    self.uses.append(Use("", found, one.lineno))


def with_absolute(source: str, path: str, package: Package) -> str:
    """The source with absolute imports in the place of relative ones of the package itself; those of the suite stay."""
    lines = source.split("\n")
    found = [one for one in ast.walk(parsed(source)) if isinstance(one, ast.ImportFrom) and one.level]
    for one in sorted(found, key=lambda node: -node.lineno):
        module = absolute(one, path, package)
        meaning = package.meaning(module)
        of_suite = meaning is None or in_tests(package.module_paths.get(meaning.name, ""))
        if of_suite and not any(_of_package(f"{module}.{alias.name}", package) for alias in one.names):
            continue
        text = ast.unparse(ast.ImportFrom(module, one.names, 0))
        first, last = lines[one.lineno - 1], lines[(one.end_lineno or one.lineno) - 1]
        before, after = first.encode()[: one.col_offset].decode(), last.encode()[one.end_col_offset :].decode()
        lines[one.lineno - 1 : one.end_lineno] = [before + text + after]
    return "\n".join(lines)


def _of_package(name: str, package: Package) -> bool:
    found = package.meaning(name)
    return found is not None and found.kind != "variable" and not in_tests(package.module_paths.get(found.name, "") or (found.node.path if found.node else ""))  # fmt: skip


def interfaces(sources: Mapping[str, str], package: Package, tested: Collection[str]) -> list[Interface]:
    """What of the package some sources (path to text) name, each once, by name. tested: canonical names of what the task is
    about."""
    meanings: dict[str, Meaning] = {}
    written: dict[str, set[str]] = {}
    for path, source in sources.items():
        for use in References(parsed(source), path, package).uses:
            meanings.setdefault(use.meaning.name, use.meaning)
            written.setdefault(use.meaning.name, set())
            if use.written:
                written[use.meaning.name].add(use.written)
    for name in tested:
        found = package.meaning(name)
        if found is not None:
            meanings.setdefault(name, found)
    told = []
    for name, meaning in sorted(meanings.items()):
        node = meaning.node
        kind: Any = meaning.kind
        told.append(
            Interface(
                name=name,
                kind=kind,
                written=sorted(written.get(name, ())),
                tested=name in tested,
                signature=node.signature if node is not None else "",
                doc=node.doc if node is not None else "",
                features=own_phrases(node)[0] if node is not None and kind != "module" else [],
            )
        )
    return told


# ---------------------------------------------------------------- what lies beside a test


def support_of(path: str, source: str, package: Package) -> list[Support]:
    """The suite's own Python files that a test needs, cut down to what it needs of them: conftest files above it, modules of
    the suite that it or those import, and the __init__ files that make them importable. path, source: of the (cut-down)
    test. Data files are found by running it (harvest.py)."""
    return [Support.of(name, text.encode()) for name, text in sorted(_Beside(package).needed(path, source).items())]


class _Beside:
    def __init__(self, package: Package) -> None:
        self.package = package
        self.wanted: dict[str, set[str] | None] = {}  # path to names wanted of it; None: the whole file

    def needed(self, path: str, source: str) -> dict[str, str]:
        conftests = [one for one in (_in(folder, CONFTEST) for folder in _above(path)) if one in self.package.files]
        texts = {path: source}
        asked = {node.arg for node in ast.walk(parsed(source)) if isinstance(node, ast.arg)} | _strings(parsed(source))
        for one in conftests:
            self.wanted[one] = set()
        while True:
            before = {name: None if names is None else len(names) for name, names in self.wanted.items()}
            for one in conftests:
                file = self._file(one)
                names = self.wanted[one]
                if file is not None and names is not None:
                    hooks = {name for item in file._items for name in item.binds if name.startswith("pytest_")}
                    fixtures = {name for name, autouse in file.fixtures.items() if autouse or name in asked}
                    names |= hooks | fixtures
            texts = {path: source, **self._texts()}
            for name, text in texts.items():
                tree = parsed(text)
                self._imported(name, tree)
                if name == path or name.rpartition("/")[2] == CONFTEST:
                    asked |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | _strings(tree)
            if {name: None if names is None else len(names) for name, names in self.wanted.items()} == before:
                break
        del texts[path]
        for name in [path, *texts]:
            for folder in _above(name):
                init = _in(folder, "__init__.py")
                if init in self.package.files and init not in texts and in_tests(init):
                    texts[init] = self._text(init, None)
        return {name: text for name, text in texts.items() if text.strip() or name.endswith("__init__.py")}

    def _imported(self, path: str, tree: ast.Module) -> None:
        """Modules of the suite that a file imports, and the names it takes of them."""
        for one in ast.walk(tree):
            if isinstance(one, ast.Import):
                for alias in one.names:
                    self._want(self._module(alias.name, path), None)
            elif isinstance(one, ast.ImportFrom):
                module = absolute(one, path, self.package)
                for alias in one.names:
                    inner = self._module(f"{module}.{alias.name}", path)
                    if inner is not None:
                        self._want(inner, None)
                    else:
                        self._want(self._module(module, path), None if alias.name == "*" else alias.name)

    def _module(self, name: str, path: str) -> str | None:
        """A module of the suite by the name an import has for it; a test file's folder is a place imports start from."""
        folder = import_root(path, self.package.files) if _in(path.rpartition("/")[0], "__init__.py") in self.package.files else path.rpartition("/")[0]  # fmt: skip
        places = [folder, *(root for root in self.package.roots if root != folder)]
        for place in places:
            base = _in(place, name.replace(".", "/"))
            for one in (f"{base}.py", f"{base}/__init__.py"):
                if one in self.package.files:
                    return one if in_tests(one) else None
        return None

    def _want(self, path: str | None, name: str | None) -> None:
        if path is None:
            return
        if name is None or path.endswith("__init__.py"):
            self.wanted[path] = None
        elif (names := self.wanted.setdefault(path, set())) is not None:
            names.add(name)

    def _texts(self) -> dict[str, str]:
        return {path: self._text(path, names) for path, names in self.wanted.items()}

    def _file(self, path: str) -> TestFile | None:
        try:
            return TestFile(path, self._text(path, None))
        except ValueError:
            return None

    def _text(self, path: str, names: set[str] | None) -> str:
        text = self.package.files[path].decode("utf-8", "replace").removeprefix("\ufeff")
        if names is None:
            return text
        try:
            return TestFile(path, text).helpers(names)
        except ValueError:
            return text


# ---------------------------------------------------------------- syntax


def parsed(source: str) -> ast.Module:
    """Raises ValueError where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply") from None


def chain_of(one: ast.expr) -> list[str] | None:
    """`["a", "b", "c"]` of `a.b.c`; None of any other expression."""
    names: list[str] = []
    while isinstance(one, ast.Attribute):
        names.append(one.attr)
        one = one.value
    return [one.id, *reversed(names)] if isinstance(one, ast.Name) else None


def is_dotted(text: str) -> bool:
    return "." in text and len(text) < 300 and all(part.isidentifier() for part in text.split("."))


def absolute(one: ast.ImportFrom, path: str, package: Package) -> str:
    """The dotted module of `from MODULE import`, relative ones seen from `path`."""
    if not one.level:
        return one.module or ""
    root = import_root(path, package.files)
    folder = path.rpartition("/")[0].removeprefix(root).strip("/")
    parts = folder.split("/") if folder else []
    parts = parts[: len(parts) - (one.level - 1)] if one.level > 1 else parts
    return ".".join([*parts, *(one.module.split(".") if one.module else [])])


def _at_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a level, those under if, try and with included."""
    for one in body:
        yield one
        if isinstance(one, (ast.If, ast.Try, ast.With)):
            blocks = [one.body, getattr(one, "orelse", []), getattr(one, "finalbody", [])]
            blocks += [handler.body for handler in getattr(one, "handlers", [])]
            for block in blocks:
                yield from _at_level(block)


def _first(one: ast.stmt) -> int:
    """First line, decorators included."""
    marks = one.decorator_list if isinstance(one, _DEFINITIONS) else []
    return min([one.lineno, *(mark.lineno for mark in marks)])


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
    found = _strings(one)
    for node in ast.walk(one):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def _strings(one: ast.AST) -> set[str]:
    return {
        word.strip()
        for node in ast.walk(one)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 300
        for word in node.value.replace(",", " ").split()
        if word.isidentifier()
    }


def _bound(one: ast.stmt) -> set[str]:
    """Names that a statement of the module's level binds there."""
    if isinstance(one, _DEFINITIONS):
        return {one.name}
    found: set[str] = set()
    open_: list[ast.AST] = [one]
    while open_:
        node = open_.pop()
        if isinstance(node, _DEFINITIONS):
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
    if isinstance(one, _DEFINITIONS):
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
            apart = isinstance(one, _DEFINITIONS) or isinstance(before, _DEFINITIONS)
            imports = isinstance(before, (ast.Import, ast.ImportFrom)) and not isinstance(
                one, (ast.Import, ast.ImportFrom)
            )
            text += "\n\n\n" if apart else "\n\n" if imports else "\n"
        text += piece
    return text + "\n" if text else ""


def _above(path: str) -> list[str]:
    """Folders above a file, the top ("") first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:at]) for at in range(len(parts) + 1)]


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
