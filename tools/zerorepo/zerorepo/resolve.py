"""What the names of a repository stand for: from nodes as parsed to edges between them.

`Program` looks names up the way Python does at run time: module scope, imports with their re-exports and
stars, classes with their bases, instances where an annotation or a constructor call tells the class.
`edges_of(file)` gives every dependency edge that starts in one file, and depends on nothing but nodes: so
the edges of a file whose names are untouched by a change stay as they are (update.py).

Confidence: `exact` for what definitions and imports alone decide, `inferred` where the class of a value was
taken from an annotation, a constructor or an attribute, `name_only` where the class is unknown and the
method's name is the only evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from zerorepo.graph import IMPORTS, ROOT, Edge, Import, Node, mark_of
from zerorepo.modules import Modules, is_test
from zerorepo.parse import COMMON

_DEPTH = 100  # lookups inside lookups, far beyond what code has
MOST_NAMESAKES = 4  # more methods of one name than this, and the name tells nothing


_Key = tuple[str, str, str]


class Symbol(NamedTuple):
    """What an expression stands for. kind: file, folder, class, function, instance, super, value."""

    kind: str
    id: str
    confidence: str = "exact"


class Program:
    """The lookup tables of a set of parsed files. nodes: of all files, in any order."""

    def __init__(self, nodes: Iterable[Node], prefix: str = "") -> None:
        self.nodes: dict[str, Node] = {}
        self.units: dict[str, list[Node]] = {}  # file to its units, in order of place
        self.scopes: dict[str, dict[str, str]] = defaultdict(dict)  # id of a file or unit to the units defined in it
        # file, or file:qualname of a scope, to the names its imports bind, in order of place
        self.bound: dict[str, dict[str, list[Import]]] = {}
        self.stars: dict[str, list[Import]] = {}
        self.methods: dict[str, list[str]] = defaultdict(list)  # method name to ids, tests left out
        paths = []
        for node in nodes:
            self.nodes[node.id] = node
            if node.kind == "file":
                paths.append(node.path)
                self.units.setdefault(node.path, [])
                for one in node.imports:
                    if one.name == "*":
                        self.stars.setdefault(node.path, []).append(one)
                        continue
                    key = f"{node.path}:{one.scope}" if one.scope else node.path
                    name = one.alias or one.name or one.module.partition(".")[0]
                    self.bound.setdefault(key, {}).setdefault(name, []).append(one)
            elif node.kind in ("class", "function", "method"):
                self.units.setdefault(node.path, []).append(node)
        for path, units in self.units.items():
            units.sort(key=lambda node: (node.span, node.id))
            for node in units:
                above = node.qualname.rpartition(".")[0]
                inside = self.scopes[f"{path}:{above}" if above else path]
                if node.name in inside and _yields(node):
                    continue
                inside[node.name] = node.id
                if node.kind == "method" and not node.name.startswith("__") and not is_test(path):
                    self.methods[node.name].append(node.id)
        self.modules = Modules(paths, prefix)
        self._stars: dict[str, list[tuple[str, set[str] | None]]] = {}
        self._known: dict[_Key, tuple[Any, int]] = {}  # answers that rest on no cut, and the lookups inside them
        self._asked: dict[_Key, Any] = {}  # answers to questions from outside that do
        self._partial: dict[_Key, Any] = {}  # answers within the question at hand that do
        self._looking: set[_Key] = set()
        self._cuts = self._deepest = 0

    def _answer(self, key: _Key, find: Callable[[], Any], cut: Any = None) -> Any:
        """`find()`, remembered. Definitions may lead in a circle (modules that import each other's stars, a class
        that names itself): a question that is already being asked is answered by `cut`. What rests on a cut
        depends on where one began, so such a question is asked again with an empty memory, and its answer is
        remembered for it alone: the edges of a file are then the same whichever files were looked at before,
        which update.py relies on."""
        depth = len(self._looking)
        known = self._known.get(key)
        if known is not None and depth + known[1] <= _DEPTH:
            self._deepest = max(self._deepest, depth + known[1])
            return known[0]
        if depth:
            return self._find(key, find, cut)
        if key in self._asked:
            return self._asked[key]
        self._cuts = self._deepest = 0
        found = self._find(key, find, cut)
        self._partial.clear()
        if self._cuts:
            remembered, self._known = self._known, {}
            found = self._asked[key] = self._find(key, find, cut)
            self._partial.clear()
            self._known = remembered
        return found

    def _find(self, key: _Key, find: Callable[[], Any], cut: Any) -> Any:
        if key in self._partial:
            self._cuts += 1
            return self._partial[key]
        if key in self._looking or len(self._looking) >= _DEPTH:
            self._cuts += 1
            return cut
        cuts, deepest = self._cuts, self._deepest
        self._looking.add(key)
        self._deepest = len(self._looking)
        found = find()
        self._looking.discard(key)
        if self._cuts == cuts:
            self._known[key] = found, self._deepest - len(self._looking)
        else:
            self._partial[key] = found
        self._deepest = max(deepest, self._deepest)
        return found

    # ------------------------------------------------------------ modules

    def module_of(self, path: str, one: Import) -> tuple[str | None, str]:
        """(module, confidence) of `from MODULE import` or `import MODULE`; None where it is not of this repository."""
        name = one.module.lstrip(".")
        dots = len(one.module) - len(name)
        return (self.modules.relative(path, dots, name), "exact") if dots else self.modules.absolute(path, name)

    def imported(self, path: str, one: Import) -> Symbol | None:
        """What the name that an import binds stands for."""
        if not one.name:
            module, confidence = self.module_of(path, one)
            if not one.alias and "." in one.module:  # `import a.b` binds a
                module, confidence = self.modules.absolute(path, one.module.partition(".")[0])
            return self._module(module, confidence)
        module, confidence = self.module_of(path, one)
        if module is None:
            return None
        found = self.member(module, one.name)
        return found if found is None or confidence == "exact" else found._replace(confidence=confidence)

    def _bound(self, path: str, imports: Sequence[Import]) -> Symbol | None:
        """What a name stands for that these imports bind, one after the other: the last that finds something, since a
        later one may be the other arm of a `try`."""
        return next((found for one in reversed(imports) if (found := self.imported(path, one))), None)

    def _module(self, module: str | None, confidence: str = "exact") -> Symbol | None:
        if module is None:
            return None
        file = self.modules.file(module)
        return Symbol("folder", module, confidence) if file is None else Symbol("file", file, confidence)

    def member(self, module: str, name: str) -> Symbol | None:
        """A name of a module (a file or a folder): its own, one it imports, one of a star, a submodule."""
        return self._answer(("member", module, name), lambda: self._member(module, name))

    def _member(self, module: str, name: str) -> Symbol | None:
        path = module if module in self.units else self.modules.file(module)
        if path is not None:
            if unit := self.scopes.get(path, {}).get(name):
                return self._unit(unit)
            file = self.nodes[path]
            imports = self.bound.get(path, {}).get(name, ())
            if found := self._bound(path, imports):
                return found
            if name in file.names:
                held = file.names[name]
                return (self.evaluate(held, path) if held and held != name else None) or Symbol("value", path)
            if imports and all(self.module_of(path, one)[0] is None for one in imports):
                return None  # imported from outside the repository
            for target, exports in self.starred(path):
                offered = name in exports if exports is not None else not name.startswith("_")
                if offered and (found := self.member(target, name)):
                    own = self._submodule(module, name) if found.kind == "file" else None
                    return own or found  # a submodule, once imported, takes its name from what a star brought
        return self._submodule(module, name)

    def _submodule(self, module: str, name: str) -> Symbol | None:
        """A module inside a package: a folder, or the `__init__.py` it is known by."""
        if module in self.units:
            module, _, last = module.rpartition("/")
            if last != "__init__.py":
                return None
        return self._module(self.modules.at(module, name))

    def starred(self, path: str) -> list[tuple[str, set[str] | None]]:
        """The modules a file imports with a star, the last first, and what each exports (None: all public names)."""
        if path not in self._stars:
            found: list[tuple[str, set[str] | None]] = []
            for star in reversed(self.stars.get(path, ())):
                target = self.modules.file(self.module_of(path, star)[0])
                if target is not None:
                    exports = self.nodes[target].exports
                    found.append((target, None if exports is None else set(exports)))
            self._stars[path] = found
        return self._stars[path]

    def _unit(self, unit: str) -> Symbol:
        return Symbol("class" if self.nodes[unit].kind == "class" else "function", unit)

    # ------------------------------------------------------------ classes

    def order(self, class_id: str) -> list[str]:
        """The class and its bases in the repository, nearest first, each once."""
        return self._answer(("order", class_id, ""), lambda: self._order(class_id), [class_id])

    def _order(self, class_id: str) -> list[str]:
        found = [class_id]
        for base in self.nodes[class_id].bases:
            symbol = self.evaluate(base, class_id.partition(":")[0], class_id)
            if symbol is not None and symbol.kind == "class" and symbol.id != class_id:
                found += self.order(symbol.id)
        # of a base reached twice the last place counts, as in Python's own order
        return list(dict.fromkeys(reversed(found)))[::-1]

    def attribute(self, class_id: str, name: str, *, after: bool = False) -> Symbol | None:
        """A class attribute along the bases; `after` begins behind the class itself, as super() does."""
        return self._answer(
            ("after" if after else "attribute", class_id, name), lambda: self._attribute(class_id, name, after)
        )

    def _attribute(self, class_id: str, name: str, after: bool) -> Symbol | None:
        for owner in self.order(class_id)[after:]:
            if unit := self.scopes.get(owner, {}).get(name):
                return self._unit(unit)
            if name in self.nodes[owner].names:
                held = self.nodes[owner].names[name]
                found = self.evaluate(held, owner.partition(":")[0], owner) if held and held != name else None
                return found and found._replace(confidence="inferred")
        return None

    # ------------------------------------------------------------ expressions

    def evaluate(self, text: str, path: str, unit: str = "") -> Symbol | None:
        """What an expression stands for, seen from a unit (its id) or from the module level of a file."""
        return self._answer(("value", unit or path, text), lambda: self._evaluate(text, path, unit))

    def _evaluate(self, text: str, path: str, unit: str) -> Symbol | None:
        at: Symbol | None = None
        for place, part in enumerate(text.split(".")):
            name = part.rstrip("()")
            times = (len(part) - len(name)) // 2
            if place == 0:
                if name == "super" and times:
                    owner = self._owner(unit)
                    at, times = (Symbol("super", owner) if owner else None), times - 1
                else:
                    at = self.lookup(name, path, unit)
            else:
                assert at is not None
                at = self._attribute_of(at, name)
            for _ in range(times):
                at = self._result(at) if at is not None else None
            if at is None:
                return None
        return at

    def lookup(self, name: str, path: str, unit: str) -> Symbol | None:
        """A bare name: self and cls, then enclosing functions outward, then the module."""
        if name in ("self", "cls"):
            owner = self._owner(unit)
            return None if owner is None else Symbol("instance" if name == "self" else "class", owner)
        qualname = unit.partition(":")[2]
        inner = True
        while qualname:
            scope = f"{path}:{qualname}"
            node = self.nodes.get(scope)
            # the names of a class are seen by its own body, not by its methods
            if node is not None and (node.kind != "class" or inner):
                if found := self.scopes.get(scope, {}).get(name):
                    return self._unit(found)
                if imports := self.bound.get(scope, {}).get(name):
                    return self._bound(path, imports)
            inner = False
            qualname = qualname.rpartition(".")[0]
        return self.member(path, name)

    def _owner(self, unit: str) -> str | None:
        path, _, qualname = unit.partition(":")
        while qualname:
            node = self.nodes.get(f"{path}:{qualname}")
            if node is not None and node.kind == "class":
                return node.id
            qualname = qualname.rpartition(".")[0]
        return None

    def _attribute_of(self, at: Symbol, name: str) -> Symbol | None:
        if at.kind in ("file", "folder"):
            module = at.id.rpartition("/")[0] if at.id.endswith("/__init__.py") else at.id
            if at.id == "__init__.py":
                module = ""
            found = self.member(module, name)
            return found if found is None or at.confidence == "exact" else found._replace(confidence=at.confidence)
        if at.kind in ("class", "instance", "super"):
            found = self.attribute(at.id, name, after=at.kind == "super")
            if found is None:
                return None
            if at.kind == "instance" and found.kind == "function" and _is_property(self.nodes[found.id]):
                return self._result(found)
            return found if at.confidence == "exact" else found._replace(confidence=at.confidence)
        return None

    def _result(self, at: Symbol) -> Symbol | None:
        """What a call gives: of a class an instance, of a function what it returns."""
        if at.kind == "class":
            return Symbol("instance", at.id, "inferred")
        if at.kind == "function":
            node = self.nodes[at.id]
            if not node.returns:
                return None
            if node.returns == "self":
                owner = self._owner(at.id)
                return Symbol("instance", owner, "inferred") if owner else None
            found = self.evaluate(node.returns, node.path, at.id)
            return found and found._replace(confidence="inferred")
        if at.kind == "instance" and (called := self.attribute(at.id, "__call__")):
            return self._result(called)
        return None

    # ------------------------------------------------------------ edges

    def edges_of(self, path: str) -> list[Edge]:
        """The dependency edges that start in a file or in one of its units."""
        return [*self._imports(path), *self._uses(path)]

    def _imports(self, path: str) -> list[Edge]:
        found: dict[tuple[str, str, str], Edge] = {}
        for one in self.nodes[path].imports:
            module, confidence = self.module_of(path, one)
            kind = {"": IMPORTS[0], "lazy": IMPORTS[1], "typing": IMPORTS[2]}[one.when]
            if module is None:
                continue
            target, resolved = self.modules.file(module), None
            if one.name and one.name != "*":
                submodule = None if module.endswith(".py") else self.modules.at(module, one.name)
                if submodule is not None and self.modules.file(submodule) is not None:
                    target = self.modules.file(submodule)
                symbol = self.member(module, one.name)
                resolved = symbol.id if symbol is not None and symbol.kind != "folder" else None
            else:
                resolved = target
            if target is None or target == path:
                continue
            name = one.name or one.module
            edge = Edge(
                src=path, dst=target, type=kind, confidence=confidence, payload={"name": name, "resolved": resolved}
            )
            found[target, kind, name] = edge
        return list(found.values())

    def _uses(self, path: str) -> list[Edge]:
        edges: dict[tuple[str, str, str], Edge] = {}
        tested: dict[str, set[str]] = defaultdict(set)
        testing = is_test(path)

        def add(src: str, dst: str, kind: str, confidence: str) -> None:
            if src == dst and kind == "inherits":
                return
            key = (src, dst, kind)
            before = edges.get(key)
            if before is None or _RANK[confidence] < _RANK[before.confidence]:
                edges[key] = Edge(src=src, dst=dst, type=kind, confidence=confidence)
            if kind == "invokes" and testing and not is_test(dst.partition(":")[0]):
                tested[dst.partition(":")[0]].add(dst.partition(":")[2])

        for node in (self.nodes[path], *self.units[path]):
            unit = "" if node.kind == "file" else node.id
            for base in node.bases:
                symbol = self.evaluate(base, path, unit)
                if symbol is not None and symbol.kind == "class":
                    add(node.id, symbol.id, "inherits", symbol.confidence)
            for use in node.uses:
                for dst, confidence in self._called(use, path, unit):
                    add(node.id, dst, "invokes", confidence)
        found = list(edges.values())
        found += [
            Edge(src=path, dst=target, type="tests", confidence="inferred", payload={"units": sorted(units)})
            for target, units in tested.items()
        ]
        return found

    def _called(self, use: str, path: str, unit: str) -> list[tuple[str, str]]:
        """(id, confidence) of the units that run when an expression is called, or read where it is a property."""
        if use.startswith("@"):
            return self._read(use[1:], path, unit)
        if use.startswith("?"):
            return self.namesakes(use.rpartition(".")[2], path)
        symbol = self.evaluate(use, path, unit)
        if symbol is None:
            receiver, _, name = use.rpartition(".")
            if not receiver or name.endswith(")"):
                return []
            known = self.evaluate(receiver, path, unit)
            # a module or a class of ours that lacks the name, or something from outside: no guess
            return self.namesakes(name, path) if known is None and self._may_be_ours(use, path, unit) else []
        if symbol.kind == "function":
            receiver, _, name = use.rpartition(".")
            confidence = symbol.confidence
            if receiver and receiver not in ("self", "cls", "super()"):
                at = self.evaluate(receiver, path, unit)
                if at is not None and at.kind == "instance" and confidence == "exact":
                    confidence = "inferred"
            return [(symbol.id, confidence)]
        if symbol.kind == "class":
            found = [(symbol.id, symbol.confidence)]
            for name in ("__init__", "__new__", "__post_init__"):
                made = self.attribute(symbol.id, name)
                if made is not None and made.kind == "function":
                    found.append((made.id, symbol.confidence))
            return found
        if symbol.kind == "instance":
            called = self.attribute(symbol.id, "__call__")
            return [(called.id, "inferred")] if called is not None and called.kind == "function" else []
        return []

    def _read(self, text: str, path: str, unit: str) -> list[tuple[str, str]]:
        receiver, _, name = text.rpartition(".")
        at = self.evaluate(receiver, path, unit)
        if at is None or at.kind not in ("instance", "super"):
            return []
        found = self.attribute(at.id, name, after=at.kind == "super")
        if found is None or found.kind != "function" or not _is_property(self.nodes[found.id]):
            return []
        own = receiver in ("self", "super()")
        return [(found.id, "exact" if own and found.confidence == "exact" else "inferred")]

    def _may_be_ours(self, use: str, path: str, unit: str) -> bool:
        """False where an expression begins at an import from outside the repository."""
        name = use.partition(".")[0].rstrip("()")
        if name in ("self", "cls", "super"):
            return True
        qualname = unit.partition(":")[2]
        while True:
            imports = self.bound.get(f"{path}:{qualname}" if qualname else path, {}).get(name)
            if imports:
                return self._bound(path, imports) is not None
            if not qualname:
                return self.member(path, name) is not None
            qualname = qualname.rpartition(".")[0]

    def namesakes(self, name: str, path: str) -> list[tuple[str, str]]:
        """Methods of this name, where there are few and they belong to one family of classes."""
        if name in COMMON:
            return []  # what is unknown is rather a list, a dict or a file than the one class with such a method
        found = self.methods.get(name, ())
        if not found or len(found) > MOST_NAMESAKES:
            return []
        if len(found) > 1:
            owners = [method.rpartition(".")[0] for method in found]
            heads = [o for o in owners if all(o in self.order(other) for other in owners if other in self.nodes)]
            if not heads:
                return []
        return [(method, "name_only") for method in found]


_RANK = {"exact": 0, "inferred": 1, "name_only": 2}


def _is_property(node: Node) -> bool:
    return any(
        mark_of(mark) in ("property", "cached_property", "abstractproperty", "getter") for mark in node.decorators
    )


def _yields(node: Node) -> bool:
    """A second definition that does not take the name from the first: a property's setter, one more overload."""
    return any(mark_of(mark) in ("setter", "deleter", "overload", "register") for mark in node.decorators)


def contains(paths: Iterable[str], nodes: Iterable[Node]) -> list[Edge]:
    """The containment edges: root, folders, files, units."""
    found: dict[tuple[str, str], None] = {}
    for path in paths:
        inside = path
        while True:
            above = inside.rpartition("/")[0]
            key = (above or ROOT, inside)
            if key in found:
                break
            found[key] = None
            if not above:
                break
            inside = above
    edges = [Edge(src=src, dst=dst, type="contains") for src, dst in found]
    for node in nodes:
        if node.qualname:
            above = node.qualname.rpartition(".")[0]
            edges.append(Edge(src=f"{node.path}:{above}" if above else node.path, dst=node.id, type="contains"))
    return edges
