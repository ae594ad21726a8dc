"""A package under other names, for tests of what finds it again: `renamed` gives a copy that works and says what is called what.

Modules, classes, functions and public methods are renamed in code, tests and documents alike, by positions of the syntax
tree. What a name stands for is looked up (resolve.Program, and the scopes of each file); where that cannot tell, as with
names made from strings at run time, the old name stays. Methods go by their name alone: one is renamed everywhere or not at
all, and never where a built-in type or an imported library has an attribute of that name.
"""

import ast
import builtins
import importlib
import keyword
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from zerorepo.craft.package import Package
from zerorepo.features import words_of
from zerorepo.generation.stripping import is_part
from zerorepo.graph import Import
from zerorepo.modules import dotted_name
from zerorepo.parse import COMMON
from zerorepo.resolve import Symbol

SCHEMES = ("synonyms", "opaque")
# A word to one that another author might have chosen.
SYNONYMS = dict(
    pair.split(":")
    for pair in """get:fetch set:assign add:insert remove:discard delete:erase make:create create:make build:construct
    parse:read read:load load:open write:save save:store find:search search:lookup split:divide join:merge merge:combine
    iter:walk map:apply filter:select sort:order sorted:ordered count:tally sum:total first:head last:tail take:grab drop:skip
    group:cluster unique:distinct flatten:unnest chunk:batch chunked:batched window:slide windowed:sliding key:label value:item
    item:element items:elements list:array dict:mapping string:text str:text text:words number:numeric num:numeric file:document
    path:route dir:folder cache:memo cached:memoized error:fault exception:fault format:render formatter:renderer print:show
    token:lexeme tokens:lexemes statement:clause version:release match:fit pattern:template compile:prepare check:verify
    valid:legal validate:verify convert:transform to:into from:out compare:weigh max:largest min:smallest size:extent
    length:extent limit:bound start:begin stop:end begin:start end:finish run:execute call:invoke is:be has:holds
    update:refresh copy:clone clear:empty reset:restart index:position range:span type:sort class:breed name:title time:clock
    date:day range:span random:chance round:snap table:grid row:record column:field stats:summary queue:line stack:pile tree:trunk
    node:knot url:address query:question html:markup escape:guard strip:trim pad:fill indent:shift line:strand lines:strands
    utils:helpers util:helper tools:kit function:procedure func:procedure args:arguments partial:fixed curry:staged compose:chain
    pipe:flow base:root default:usual simple:plain old:former new:fresh bump:raise""".split()
)
# Names of nothing that is read from outside: a plugin looks for some of them, Python for others.
_KEPT = frozenset("main setup test tests".split())
_NAMING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_CODE_WORD = re.compile(r"(?<![\w.])((?:\w+\.)*)(\w+)(?=\()|`([\w.]+)`|(?<=[\w)\]]\.)(\w+)\b")


class _Edit(NamedTuple):
    line: int  # 1-based
    column: int  # in bytes
    old: str
    new: str


def new_name(name: str, scheme: str, number: int) -> str:
    """What a scheme makes of a name; `number` counts the names of its sort."""
    lead = name[: len(name) - len(name.lstrip("_"))]
    large = name.lstrip("_")[:1].isupper()
    if scheme == "opaque":
        return f"{lead}{'C' if large else 'f'}{number}"
    words = words_of(name)
    found = [SYNONYMS.get(word, word) for word in words]
    if found == words:
        found = (
            found[::-1]
            if len(set(found)) > 1 and found[-1].isalpha()
            else [*found, "kind"]
            if large
            else ["run", *found]
        )
    return lead + ("".join(word.capitalize() for word in found) if large else "_".join(found))


def renamed(files: Mapping[str, bytes], scheme: str, keep: frozenset[str] = frozenset()) -> tuple[dict[str, bytes], dict[str, str]]:  # fmt: skip
    """(files, names) of the copy. files: from path to bytes, paths below the folder that imports start from. names: dotted
    name of every module, class, function and method that is called otherwise now to its new one. keep: names that stay."""
    while True:
        work = _Renaming(files, scheme, keep)
        made = work.files()
        if not work.lost:
            return made, work.names()
        keep |= work.lost  # a place that could not be rewritten: the name stays everywhere


class _Scope:
    """Names bound in a function, lambda or comprehension, or a class body. Each to what an import says, or None."""

    def __init__(self, kind: str, names: dict[str, Any]) -> None:
        self.kind, self.names = kind, names


class _Renaming:
    def __init__(self, files: Mapping[str, bytes], scheme: str, keep: frozenset[str]) -> None:
        self.given, self.package = files, Package(files)
        self.program = self.package.program
        self.trees: dict[str, ast.Module] = {}
        for path, data in files.items():
            if path.endswith(".py"):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        self.trees[path] = ast.parse(data.decode("utf-8-sig"))
                except (SyntaxError, UnicodeDecodeError):
                    continue
        code = [path for path in self.trees if is_part(path, files)]
        self.parts = [path for path in code if "." in dotted_name(path, files) or path.endswith("/__init__.py")] or code
        self.lost: set[str] = set()
        taken, quoted, stored = self._identifiers()
        # `getattr(self, f"_visit_{type(node).__name__.lower()}")`: a class whose name ends another name is looked up by it.
        ends = {name.rpartition("_")[2] for name in taken if "_" in name}
        spelled = {node.name for node in self.package.units if node.kind == "class" and node.name.lower() in ends}
        kept = keep | quoted | spelled | _KEPT | set(dir(builtins))
        self.units = {
            node.id
            for node in self.package.units
            if node.path in self.parts and node.kind != "method" and "." not in node.qualname and _public(node.name) and node.name not in kept
        }  # fmt: skip
        outside = self._outside()
        tops = {self.program.nodes[one].name for one in self.units}
        methods = {node.name for node in self.package.units if node.kind == "method" and _public(node.name)}
        self.methods = methods - kept - outside - stored - tops - COMMON
        self.modules = {
            name for path in self.parts for name in _above(dotted_name(path, files))
            if _public(last := name.rpartition(".")[2]) and last not in keep and last not in ("tests", "test")
            and (name in self.package.module_paths or name in self.package.folders)
        }  # fmt: skip
        self.new = self._new_names(scheme, tops, taken)
        self.called = {name.rpartition(".")[2] for name in self.names()}

    def _new_names(self, scheme: str, tops: set[str], taken: set[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        used = taken | set(dir(builtins)) | set(keyword.kwlist) | sys.stdlib_module_names
        numbers: Counter[bool] = Counter()
        for name in sorted({*tops, *self.methods, *(one.rpartition(".")[2] for one in self.modules)}):
            large = name[:1].isupper()
            numbers[large] += 1
            new = new_name(name, scheme, numbers[large])
            while new in used:
                new += "X" if large else "_x"
            used.add(new)
            found[name] = new
        return found

    def _identifiers(self) -> tuple[set[str], set[str], set[str]]:
        """(all identifiers, those that stand in strings of the code, those that a class or a slot holds as a variable)."""
        taken, quoted, stored = set(), set(), set()
        for tree in self.trees.values():
            docs = _doc_nodes(tree)
            spared = {id(one) for node in ast.walk(tree) for one in _spared(node)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Name):
                    taken.add(node.id)
                elif isinstance(node, ast.Attribute):
                    taken.add(node.attr)
                elif isinstance(node, ast.arg | ast.keyword):
                    taken.add(node.arg or "")
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    taken.add(node.name)
                elif isinstance(node, ast.Global | ast.Nonlocal):
                    quoted |= set(node.names)
                elif isinstance(node, ast.alias):
                    taken |= {*node.name.split("."), node.asname or ""}
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs and id(node) not in spared:  # fmt: skip
                    quoted |= set(re.findall(r"\w+", node.value)) if len(node.value) < 80 and " " not in node.value else set()  # fmt: skip
                if isinstance(node, ast.ClassDef):
                    for one in node.body:
                        targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []  # fmt: skip
                        stored |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}  # fmt: skip
        return taken, quoted, stored

    def _outside(self) -> set[str]:
        """Attributes of the libraries that the package imports, and of their classes."""
        found: set[str] = set()
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                names = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []  # fmt: skip
                for name in names:
                    if self.program.modules.absolute(path, name)[0] is not None:
                        continue
                    if name.partition(".")[0] not in {*sys.stdlib_module_names, "pytest", "hypothesis"} or name in ("this", "antigravity"):  # fmt: skip
                        continue
                    try:
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            module = importlib.import_module(name)
                    except ImportError:
                        continue
                    for attribute in dir(module):
                        found.add(attribute)
                        value = getattr(module, attribute, None)
                        if isinstance(value, type):
                            found |= set(dir(value))
        return found

    # ------------------------------------------------------------ what is renamed

    def names(self) -> dict[str, str]:
        found = {name: self._module(name) for name in self.modules}
        for node in self.package.units:
            old = self.package.dotted(node)
            if node.path in self.parts and self.package.meaning(old) is not None:
                found[old] = self._dotted(node)
        return {old: new for old, new in sorted(found.items()) if old != new}

    def _dotted(self, node: Any) -> str:
        above, _, last = node.qualname.rpartition(".")
        outer = self.program.nodes.get(f"{node.path}:{above}") if above else None
        owner = self._dotted(outer) if outer is not None else self._module(dotted_name(node.path, self.given))
        is_new = node.id in self.units or (node.kind == "method" and last in self.methods)
        return f"{owner}.{self.new[last] if is_new else last}"

    def _module(self, name: str) -> str:
        return ".".join(self.new[one.rpartition(".")[2]] if one in self.modules else one.rpartition(".")[2] for one in reversed(list(_above(name))))  # fmt: skip

    def _symbol(self, symbol: Symbol | None, name: str) -> str:
        """What a name that is bound to the symbol is called now."""
        if symbol is None:
            return name
        if symbol.kind in ("class", "function"):
            node = self.program.nodes.get(symbol.id)
            return self.new[name] if node is not None and symbol.id in self.units and node.name == name else name
        if symbol.kind in ("file", "folder"):
            path = symbol.id if symbol.kind == "file" else f"{symbol.id}/__init__.py"
            dotted = dotted_name(path, self.given)
            return self.new[name] if dotted in self.modules and dotted.rpartition(".")[2] == name else name
        return name

    # ------------------------------------------------------------ writing

    def files(self) -> dict[str, bytes]:
        found = {}
        for path, data in self.given.items():
            found[self._path(path)] = self._file(path, data) if path in self.trees else data
        return found

    def _path(self, path: str) -> str:
        """Where a file lies now; tests and data in a package move with its folder."""
        folders, name = path.split("/")[:-1], path.rpartition("/")[2]
        found = []
        for depth, folder in enumerate(folders, 1):
            dotted = dotted_name("/".join([*folders[:depth], "__init__.py"]), self.given)
            found.append(self.new[folder] if dotted in self.modules else folder)
        if path in self.parts and name != "__init__.py" and dotted_name(path, self.given) in self.modules:
            name = f"{self.new[name.removesuffix('.py')]}.py"
        return "/".join([*found, name])

    def _file(self, path: str, data: bytes) -> bytes:
        mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
        lines = data[len(mark) :].split(b"\n")
        edits = set(_Walk(self, path, lines).edits())
        for edit in sorted(edits, key=lambda one: (one.line, one.column), reverse=True):
            line, old = lines[edit.line - 1], edit.old.encode()
            if line[edit.column : edit.column + len(old)] != old:
                self.lost |= {part for part in edit.old.split(".") if part in self.new}
                continue
            lines[edit.line - 1] = line[: edit.column] + edit.new.encode() + line[edit.column + len(old) :]
        return mark + b"\n".join(lines)


class _Walk:
    """The edits of one file."""

    def __init__(self, work: _Renaming, path: str, lines: list[bytes]) -> None:
        self.work, self.path, self.lines = work, path, lines
        self.program, self.new = work.program, work.new
        self.found: list[_Edit] = []
        tree = work.trees[path]
        self.docs = _doc_nodes(tree)
        self.annotations = {id(one) for node in ast.walk(tree) for one in _annotation_strings(node)}
        self.exports = {id(one) for node in ast.walk(tree) for one in _exported(node)}

    def edits(self) -> list[_Edit]:
        self._visit(self.work.trees[self.path], [])
        return self.found

    def _edit(self, line: int, column: int, old: str, new: str) -> None:
        if old != new:
            self.found.append(_Edit(line, column, old, new))

    # ---- names

    def _held(self, name: str, scopes: list[_Scope]) -> tuple[Symbol | None, bool]:
        """(what a bare name stands for, whether a class body binds it)."""
        for at, scope in enumerate(reversed(scopes)):
            if scope.kind == "class" and at:
                continue
            if name in scope.names:
                return scope.names[name], scope.kind == "class"
        return self.program.member(self.path, name), False

    def _name(self, name: str, scopes: list[_Scope]) -> str:
        held, in_class = self._held(name, scopes)
        if in_class and held is None and name in self.work.methods:
            return self.new[name]
        return self.work._symbol(held, name)

    def _value(self, node: Any, scopes: list[_Scope]) -> Symbol | None:
        """What modules and classes a chain of names stands for."""
        if isinstance(node, ast.Name):
            return self._held(node.id, scopes)[0]
        if isinstance(node, ast.Attribute):
            held = self._value(node.value, scopes)
            return self.program._attribute_of(held, node.attr) if held is not None else None
        return None

    def _attribute(self, node: ast.Attribute, scopes: list[_Scope]) -> None:
        held = self._value(node.value, scopes)
        name = node.attr
        if held is not None and held.kind in ("file", "folder"):
            new = self.work._symbol(self.program._attribute_of(held, name), name)
        else:
            new = self.new[name] if name in self.work.methods else name
        assert node.end_lineno is not None and node.end_col_offset is not None
        self._edit(node.end_lineno, node.end_col_offset - len(name.encode()), name, new)

    # ---- imports

    def _imported(self, node: Any, one: ast.alias) -> Import:
        if isinstance(node, ast.Import):
            return Import(module=one.name, alias=one.asname or "")
        return Import(module="." * node.level + (node.module or ""), name=one.name, alias=one.asname or "")

    def _import(self, node: Any, scopes: list[_Scope]) -> None:
        if isinstance(node, ast.ImportFrom):
            self._from(node)
        for one in node.names:
            if one.name == "*":
                continue
            if isinstance(node, ast.Import):
                new = self._absolute(one.name)
                bound = one.asname or one.name.partition(".")[0]
                self._edit(one.lineno, one.col_offset, one.name, new)
                if one.asname is not None:
                    self._as(one, scopes)
                if "." not in one.name and one.asname is None and self._name(bound, scopes) != new:
                    self.work.lost.add(bound)
                continue
            asked = self._imported(node, one)
            module, _ = self.program.module_of(self.path, asked)
            new = self.work._symbol(self.program.member(module, one.name), one.name) if module is not None else one.name
            if one.asname is None:
                bound = self._name(one.name, scopes)
                self._edit(one.lineno, one.col_offset, one.name, new if new == bound else f"{new} as {bound}")
            else:
                self._edit(one.lineno, one.col_offset, one.name, new)
                self._as(one, scopes)

    def _as(self, one: ast.alias, scopes: list[_Scope]) -> None:
        """The name after `as`, which may be the thing's own."""
        assert one.asname is not None and one.end_lineno is not None and one.end_col_offset is not None
        column = one.end_col_offset - len(one.asname.encode())
        self._edit(one.end_lineno, column, one.asname, self._name(one.asname, scopes))

    def _absolute(self, name: str) -> str:
        module, _ = self.program.modules.absolute(self.path, name)
        if module is None:
            return name
        path = self.program.modules.file(module) or f"{module}/__init__.py"
        dotted = dotted_name(path, self.work.given)
        new = self.work._module(dotted)
        return new if dotted == name else ".".join(new.split(".")[-len(name.split(".")) :])

    def _from(self, node: ast.ImportFrom) -> None:
        if not node.module:
            return
        module, _ = self.program.module_of(self.path, Import(module="." * node.level + node.module, name="x"))
        if module is None:
            return
        dotted = dotted_name(self.program.modules.file(module) or f"{module}/__init__.py", self.work.given)
        new = ".".join(self.work._module(dotted).split(".")[-len(node.module.split(".")) :])
        text = self.lines[node.lineno - 1][node.col_offset :]
        place = re.match(rb"from\s+[.\s]*", text)
        assert place is not None
        self._edit(node.lineno, node.col_offset + place.end(), node.module, new)

    # ---- the walk

    def _visit(self, node: Any, scopes: list[_Scope]) -> None:
        if isinstance(node, ast.Name):
            self._edit(node.lineno, node.col_offset, node.id, self._name(node.id, scopes))
        elif isinstance(node, ast.Attribute):
            self._attribute(node, scopes)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node, scopes)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._string(node, scopes)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = self.lines[node.lineno - 1][node.col_offset :]
            begin = re.match(rb"(?:async\s+def|def|class)\s+", text)
            assert begin is not None
            self._edit(node.lineno, node.col_offset + begin.end(), node.name, self._name(node.name, scopes))
            for one in node.decorator_list:
                self._visit(one, scopes)
            if isinstance(node, ast.ClassDef):
                for one in (*node.bases, *(word.value for word in node.keywords)):
                    self._visit(one, scopes)
                inner = [*scopes, _Scope("class", self._bound(node.body, []))]
            else:
                arguments = node.args
                for one in (*arguments.defaults, *(default for default in arguments.kw_defaults if default), node.returns):  # fmt: skip
                    if one is not None:
                        self._visit(one, scopes)
                every = _arguments(arguments)
                for one in every:
                    if one.annotation is not None:
                        self._visit(one.annotation, scopes)
                inner = [*scopes, _Scope("function", self._bound(node.body, [one.arg for one in every]))]
            for one in node.body:
                self._visit(one, inner)
            return
        if isinstance(node, ast.Lambda):
            for one in (*node.args.defaults, *(default for default in node.args.kw_defaults if default)):
                self._visit(one, scopes)
            names = dict.fromkeys(one.arg for one in _arguments(node.args))
            self._visit(node.body, [*scopes, _Scope("function", names)])
            return
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            names = dict.fromkeys(name.id for one in node.generators for name in ast.walk(one.target) if isinstance(name, ast.Name))  # fmt: skip
            self._visit(node.generators[0].iter, scopes)
            inner = [*scopes, _Scope("function", names)]
            for at, one in enumerate(node.generators):
                for part in (one.target, *([one.iter] if at else []), *one.ifs):
                    self._visit(part, inner)
            for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
                self._visit(part, inner)
            return
        for child in ast.iter_child_nodes(node):
            self._visit(child, scopes)

    def _bound(self, body: list[Any], arguments: list[str]) -> dict[str, Any]:
        """Names that a scope binds. An import's to what it stands for, unless something else binds it too."""
        found: dict[str, Any] = dict.fromkeys(arguments)
        others, imports, outer = set(arguments), {}, set()
        for node in _inside(body):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                others.add(node.id)
            elif isinstance(node, _NAMING) and node.name:
                others.add(node.name)
            elif isinstance(node, ast.Global | ast.Nonlocal):
                outer |= set(node.names)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for one in node.names:
                    imports[one.asname or one.name.partition(".")[0]] = self.program.imported(self.path, self._imported(node, one))  # fmt: skip
        found |= {name: held for name, held in imports.items() if name not in others} | dict.fromkeys(others)
        return {name: held for name, held in found.items() if name not in outer}

    # ---- strings

    def _string(self, node: ast.Constant, scopes: list[_Scope]) -> None:
        assert node.end_lineno is not None and isinstance(node.value, str)
        if id(node) in self.docs:
            self._doc(node)
        elif node.lineno == node.end_lineno:
            text = self.lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()
            if id(node) in self.annotations:
                new = re.sub(r"(?<![\w.])[A-Za-z_]\w*", lambda name: self._name(name[0], scopes), text)
            elif id(node) in self.exports:
                new = text.replace(node.value, self._name(node.value, []))
            elif self._is_ours(node.value):
                new = text.replace(node.value, self._spoken(node.value))
            else:
                return
            self._edit(node.lineno, node.col_offset, text, new)

    def _is_ours(self, value: str) -> bool:
        if "." not in value:
            return value in self.work.modules and value in self.work.package.top
        return re.fullmatch(r"[\w.]+", value) is not None and self.work.package.meaning(value) is not None

    def _spoken(self, name: str) -> str:
        """The new form of a dotted name, its own way through re-exports kept."""
        found: list[str] = []
        for one in reversed(list(_above(name))):
            meaning, last = self.work.package.meaning(one), one.rpartition(".")[2]
            assert meaning is not None
            changes = (
                meaning.name in self.work.modules and meaning.name.rpartition(".")[2] == last
                if meaning.kind == "module"
                else meaning.node is not None and meaning.node.name == last
                and (meaning.node.id in self.work.units or (meaning.kind == "method" and last in self.work.methods))
            )  # fmt: skip
            found.append(self.new[last] if changes else last)
        return ".".join(found)

    def _doc(self, node: ast.Constant) -> None:
        """What a docstring spells as code, so that it does not tell the old name."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        known = self.work.called
        for number in range(node.lineno, node.end_lineno + 1):
            line = self.lines[number - 1].decode()
            for found in _CODE_WORD.finditer(line):
                for group in (1, 2, 3, 4):
                    for word in re.finditer(r"\w+", found[group] or ""):
                        if word[0] in known and word[0] in self.new:
                            column = len(line[: found.start(group) + word.start()].encode())
                            self._edit(number, column, word[0], self.new[word[0]])


def _public(name: str) -> bool:
    return not name.startswith("_")


def _above(name: str) -> Iterator[str]:
    """The dotted name and those of what it lies in, itself first."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*found, *(one for one in (arguments.vararg, arguments.kwarg) if one is not None)]


def _inside(body: list[Any]) -> Iterator[Any]:
    """The nodes of one scope: definitions themselves, not what stands in them, and no comprehension."""
    queue = list(body)
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            queue += [one for one in ast.walk(node) if isinstance(one, ast.NamedExpr)]
            continue
        queue += ast.iter_child_nodes(node)


def _doc_nodes(tree: ast.Module) -> set[int]:
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
    }  # fmt: skip


def _annotation_strings(node: Any) -> Iterator[ast.Constant]:
    for one in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        for inner in ast.walk(one) if isinstance(one, ast.AST) else ():
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield inner


def _is_all(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == "__all__"


def _exported(node: Any) -> Iterator[ast.Constant]:
    """The strings of `__all__`."""
    value: Any = None
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if any(_is_all(one) for one in targets):
        value = getattr(node, "value", None)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_all(node.func.value):
        value = ast.Tuple(node.args)
    for one in ast.walk(value) if value is not None else ():
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one


def _spared(node: Any) -> Iterator[ast.Constant]:
    """Strings that are rewritten, so that they keep no name as it is."""
    yield from _annotation_strings(node)
    yield from _exported(node)
