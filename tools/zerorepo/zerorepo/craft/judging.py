"""Is what was located what the task is about? Five judges by rule, and a vote (RepoCraft, arXiv 2509.16198 app. D: five rounds).

Between locate.py and scoring.py; asked.py has the judges that are a model. Each rule looks at what was located for the tested
interfaces and says yes, no or nothing: `there` (present and written, not a stub), `kind`, `calls` (the test's own calls bind),
`members` (what the test uses of a class is there), `meaning` (words of names and docstrings). A stub implements nothing,
whatever it is called: where `there` says no, all five do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from zerorepo.craft.locate import Located, plain
from zerorepo.craft.package import Meaning, Package
from zerorepo.craft.resemblance import parameters_of, stems
from zerorepo.craft.syntax import chain_of, parsed
from zerorepo.craft.tasks import Interface, Task
from zerorepo.embeddings import Encoder, TfIdf
from zerorepo.features import words_of
from zerorepo.generation.skeleton import Unit, decoded, raises_not_implemented, units_of
from zerorepo.generation.votes import QUORUM, majority
from zerorepo.graph import Node, mark_of
from zerorepo.parse import COMMON

Vote = Literal["yes", "no"]
JUDGES = ("there", "kind", "calls", "members", "meaning")
# Likeness of meaning below which the judge says no, of a sentence encoder's cosine and of shared words. Of documented units
# under other names 1 in 100 is below either; of pairs drawn at random more than 7 in 10 are.
LEAST_COSINE, LEAST_SHARED = 0.3, 0.2
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Decorators that leave the parameters as they are.
_CLEAR = frozenset(
    "staticmethod classmethod abstractmethod property cached_property wraps lru_cache cache contextmanager "
    "asynccontextmanager overload override final total_ordering".split()
)
_RAISING = ("raises", "assertRaises", "assertRaisesRegex", "assertWarns", "warns")
_LAZY = frozenset("Generator Iterator AsyncGenerator AsyncIterator".split())
_WHOLE = frozenset("list dict tuple set frozenset str bytes int float bool None List Dict Tuple Set".split())


def passed(votes: Sequence[str | None]) -> bool:
    """More than half of the cast votes say yes, and at least three are cast."""
    return majority(votes, QUORUM) == "yes"


def rules(task: Task, located: Located, package: Package, encoder: Encoder | None = None) -> list[Vote | None]:
    """The five judges' votes, in the order of JUDGES; None where one has nothing to go by. Of several tested interfaces one
    that fails is enough for a no; meaning is judged over all."""
    judging = _Judging(task, located, package, encoder)
    if judging.there() != "yes":
        return ["no"] * len(JUDGES)
    return ["yes", judging.kind(), judging.calls(), judging.members(), judging.meaning()]


@lru_cache(maxsize=2)
def _sources(package: Package) -> Sources:
    return Sources(package)


class Sources:
    """The definitions of a package's files, each file read once."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self._known: dict[str, dict[str, Unit]] = {}
        self._texts: dict[str, str] = {}

    def unit(self, node: Node) -> Unit | None:
        if node.path not in self._known:
            try:
                self._texts[node.path], _ = decoded(self.package.files.get(node.path, b""))
                self._known[node.path] = units_of(self._texts[node.path])
            except ValueError:
                self._known[node.path] = {}
        return self._known[node.path].get(node.qualname)

    def text(self, node: Node) -> str:
        """The source of a unit or file; its signature where it cannot be read."""
        unit = self.unit(node)
        whole = self._texts.get(node.path, "")
        if unit is not None:
            return whole[unit.start : unit.end]
        return node.signature if node.qualname else whole


def is_stub(definition: Any) -> bool:
    """A function that does nothing: docstring, `pass`, `...` and `raise NotImplementedError` alone."""
    return all(_does_nothing(one) for one in definition.body)


def _does_nothing(one: ast.stmt) -> bool:
    if isinstance(one, ast.Pass) or raises_not_implemented(one):
        return True
    return isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)


class _Judging:
    def __init__(self, task: Task, located: Located, package: Package, encoder: Encoder | None) -> None:
        self.task, self.located, self.package, self.encoder = task, located, package, encoder
        self.program, self.sources = package.program, _sources(package)
        self.tested = task.tested or list(task.interfaces)
        self.found: dict[str, Meaning] = {}
        for old, new in located.names.items():
            if (meaning := package.meaning(new)) is not None:
                self.found[old] = meaning

    @cached_property
    def uses(self) -> Uses:
        return Uses(self.task)

    # ------------------------------------------------------------ there

    def there(self) -> Vote:
        wanted = [one for one in self.tested if one.kind != "module"] or self.tested
        return "yes" if wanted and all(self._is_there(one) for one in wanted) else "no"

    def _is_there(self, one: Interface) -> bool:
        new = self.located.names.get(one.name)
        if new is None:
            return False
        meaning = self.found.get(one.name)
        if meaning is None:
            # An attribute that values have: its class is there, and locate.py saw it set.
            above = self.package.meaning(new.rpartition(".")[0])
            return above is not None and above.kind == "class"
        if meaning.kind in ("module", "variable") or meaning.node is None:
            return True
        unit = self.sources.unit(meaning.node)
        if unit is None:
            return False
        return not is_stub(unit.definition) if meaning.kind != "class" else self._is_written(one, meaning.node)

    def _is_written(self, one: Interface, node: Node) -> bool:
        """At least half of the methods that the test uses are; where it uses none, not all that the class
        and its bases have are stubs."""
        used = [each for each in self.task.interfaces if each.kind == "method" and each.owner == one.name]
        if used:
            written = 0
            for each in used:
                meaning = self.found.get(each.name)
                inner = self.sources.unit(meaning.node) if meaning is not None and meaning.node is not None else None
                written += inner is not None and isinstance(inner.definition, _FUNCTIONS) and not is_stub(inner.definition)  # fmt: skip
                written += inner is None and each.name in self.located.names  # an attribute in a method's place
            return 2 * written >= len(used)
        own = [
            inner
            for each in self.program.order(node.id)
            if (above := self.sources.unit(self.program.nodes[each])) is not None
            for inner in above.definition.body
            if isinstance(inner, _FUNCTIONS)
        ]
        return not own or not all(is_stub(inner) for inner in own)

    # ------------------------------------------------------------ kind

    def kind(self) -> Vote | None:
        told = [self._same_kind(one) for one in self.tested if one.kind != "module"]
        return _all(told)

    def _same_kind(self, one: Interface) -> bool | None:
        meaning = self.found.get(one.name)
        if meaning is None:
            return None
        kinds = {"function": ("function", "class", "variable"), "class": ("class", "variable"),
                 "method": ("method", "function"), "variable": ("variable", "class", "function")}  # fmt: skip
        if meaning.kind not in kinds.get(one.kind, (one.kind,)):
            return False
        unit = self.sources.unit(meaning.node) if meaning.node is not None else None
        if unit is None or not isinstance(unit.definition, _FUNCTIONS):
            return True
        definition = unit.definition
        if one.signature and one.signature.startswith("async ") != isinstance(definition, ast.AsyncFunctionDef):
            return False
        told, have = _returned(one.signature), _annotation(definition.returns)
        lazy = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own_nodes(definition))
        return not ((told in _LAZY and have in _WHOLE) or (told in _WHOLE and lazy and have not in _WHOLE))

    # ------------------------------------------------------------ calls

    def calls(self) -> Vote | None:
        return _all([self._binds(one) for one in self.tested])

    def _binds(self, one: Interface) -> bool | None:
        """Whether every call of the test binds; where there is none, whether what the real one asks for does."""
        meaning = self.found.get(one.name)
        if meaning is None or meaning.node is None:
            return None
        told = [self._call_binds(one, meaning, call) for call in self.uses.calls(one)]
        if any(answer is not None for answer in told):
            return all(answer is not False for answer in told)
        mine = parameters_of(one.signature) if one.kind != "class" else None
        theirs = self._parameters(meaning, bound=one.kind == "method")
        if told or mine is None or theirs is None:
            return None
        needed = sum(name in theirs.by_place for name in theirs.needed)
        return needed <= len(mine.names) and (theirs.starred or len(theirs.by_name) >= mine.required)

    def _call_binds(self, one: Interface, meaning: Meaning, call: Call) -> bool | None:
        theirs = self._parameters(meaning, bound=one.kind == "method" and call.on_value)
        if theirs is None or any(isinstance(each, ast.Starred) for each in call.node.args):
            return None
        names = [word.arg for word in call.node.keywords]
        given, positional = {name for name in names if name is not None}, len(call.node.args)
        if positional > len(theirs.by_place) and not theirs.starred:
            return False
        filled = set(theirs.by_place[:positional])
        by_name = given & set(theirs.by_name)  # a positional-only name is no keyword; `**words` may take it as one
        if by_name & filled or (given != by_name and not theirs.keywords):
            return False
        if None in names:  # `**words` may give the rest
            return True
        return set(theirs.needed) <= filled | by_name

    def _parameters(self, meaning: Meaning, *, bound: bool) -> Header | None:
        """What a call may give; None where that cannot be told: decorated, generated, or inherited from outside."""
        node = meaning.node
        if node is None:
            return None
        if meaning.kind == "class":
            return self._constructor(node)
        unit = self.sources.unit(node)
        if unit is None or not isinstance(unit.definition, _FUNCTIONS):
            return None
        marks = {mark_of(each) for each in node.decorators}
        if not marks <= _CLEAR or marks & {"property", "cached_property"}:
            return None
        if "staticmethod" in marks:
            return Header.of(unit.definition.args, 0)
        takes_self = meaning.kind == "method" and (bound or "classmethod" in marks)
        return Header.of(unit.definition.args, int(takes_self))

    def _constructor(self, node: Node) -> Header | None:
        order = self.program.order(node.id)
        if any(self.program.nodes[one].decorators for one in order) or not self._is_closed(node):
            return None
        for name in ("__init__", "__new__"):
            found = self.program.attribute(node.id, name)
            made = self.program.nodes.get(found.id) if found is not None else None
            if made is None:
                continue
            unit = self.sources.unit(made)
            if unit is None or not isinstance(unit.definition, _FUNCTIONS) or {mark_of(one) for one in made.decorators} - _CLEAR:  # fmt: skip
                return None
            return Header.of(unit.definition.args, 1)
        return Header((), (), (), False, False)

    def _is_closed(self, node: Node) -> bool:
        """Whether all of a class's bases are of the repository (or object)."""
        for one in self.program.order(node.id):
            unit = self.sources.unit(self.program.nodes[one])
            if unit is None or unit.definition.keywords:  # a metaclass, or words for __init_subclass__
                return False
            for base in unit.definition.bases:
                text = ".".join(chain_of(base) or ["?"])
                if text == "object":
                    continue
                symbol = self.program.evaluate(text, one.partition(":")[0], one)
                if symbol is None or symbol.kind != "class":
                    return False
        return True

    # ------------------------------------------------------------ members

    def members(self) -> Vote | None:
        owners = {one.name for one in self.tested if one.kind == "class"}
        owners |= {one.owner for one in self.tested if one.kind == "method"}
        told = [self._has_members(one) for one in self.task.interfaces if one.name in owners and one.kind == "class"]
        return _all(told)

    def _has_members(self, one: Interface) -> bool | None:
        meaning = self.found.get(one.name)
        if meaning is None or meaning.kind != "class" or meaning.node is None:
            return None
        wanted = {plain(each.last): each.name for each in self.task.interfaces if each.kind == "method" and each.owner == one.name}  # fmt: skip
        used = set(wanted) | self.uses.attributes(one)
        if not used:
            return None
        names, complete = self._attributes(meaning.node)
        for attribute in used:
            new = self.located.names.get(wanted.get(attribute, ""), attribute).rpartition(".")[2]
            if new not in names and not _is_special(new):
                if not complete:
                    return None
                return False
        return True

    def _attributes(self, node: Node) -> tuple[set[str], bool]:
        """Names that values of a class have, and whether there can be no others."""
        found: set[str] = set()
        complete = self._is_closed(node)
        for one in self.program.order(node.id):
            found |= set(self.program.nodes[one].names) | set(self.program.scopes.get(one, {}))
            unit = self.sources.unit(self.program.nodes[one])
            if unit is None:
                complete = False
                continue
            complete = complete and not self.program.nodes[one].decorators
            for inner in ast.walk(unit.definition):
                if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    found.add(inner.attr)
                elif _sets_any(inner):
                    complete = False
            complete = complete and not {"__getattr__", "__getattribute__"} & set(self.program.scopes.get(one, {}))
            if "__slots__" in self.program.nodes[one].names:
                found |= {each.value for each in ast.walk(unit.definition) if isinstance(each, ast.Constant) and isinstance(each.value, str)}  # fmt: skip
        return found, complete

    # ------------------------------------------------------------ meaning

    def meaning(self) -> Vote | None:
        told = [value for one in self.tested if (value := self._alike(one)) is not None]
        if not told:
            return None
        least = LEAST_COSINE if knows_synonyms(self.encoder) else LEAST_SHARED
        return "yes" if sum(told) / len(told) >= least else "no"

    def _alike(self, one: Interface) -> float | None:
        """Likeness of what is told of the interface and of the unit. None where no docstring says anything and the names
        differ: they are no evidence then. Of names that the user's map gives, its word counts where no docstrings do."""
        meaning = self.found.get(one.name)
        if meaning is None:
            return None
        node = meaning.node
        doc = node.doc if node is not None else ""
        last, new = plain(one.last), meaning.name.rpartition(".")[2]
        by_map = self.located.how.get(one.name) == "renamed"
        if by_map and not (one.doc and doc):
            return 1.0  # the user says that it means the same, and nothing says otherwise
        if not one.doc and not doc:
            return 1.0 if last == plain(new) else None
        names = [] if by_map else [" ".join(words_of(last))]
        theirs = [] if by_map else [" ".join(words_of(plain(new)))]
        mine = ". ".join(filter(None, [*names, one.doc or "; ".join(one.features)]))
        other = ". ".join(filter(None, [*theirs, doc or "; ".join(node.features if node is not None else [])]))
        return likeness(mine, other, self.encoder)


def knows_synonyms(encoder: Encoder | None) -> bool:
    return encoder is not None and encoder.name != TfIdf.name


def likeness(one: str, other: str, encoder: Encoder | None) -> float:
    """Cosine of two texts by a sentence encoder; without one the share of the shorter one's words that the other has."""
    if encoder is None or not knows_synonyms(encoder):
        mine, theirs = stems(one), stems(other)
        return len(mine & theirs) / max(1, min(len(mine), len(theirs)))
    first, second = encoder.encode([one, other])
    return float(np.dot(first, second))


class Header(NamedTuple):
    """What a call may give. by_place: positional parameters in order; by_name: those a keyword may give; needed: without
    default."""

    by_place: tuple[str, ...]
    by_name: tuple[str, ...]
    needed: tuple[str, ...]
    starred: bool
    keywords: bool

    @classmethod
    def of(cls, arguments: ast.arguments, given: int) -> Header:
        """given: how many of the first parameters are bound already."""
        first = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        needed = first[: len(first) - len(arguments.defaults)]
        keyword = [one.arg for one in arguments.kwonlyargs]
        needed += [one for one, default in zip(keyword, arguments.kw_defaults, strict=True) if default is None]
        bound = set(first[:given])
        by_name = [one.arg for one in arguments.args if one.arg not in bound] + keyword
        return cls(
            tuple(first[given:]), tuple(by_name), tuple(one for one in needed if one not in bound),
            arguments.vararg is not None, arguments.kwarg is not None,
        )  # fmt: skip


# ---------------------------------------------------------------- what the test does


class Call(NamedTuple):
    node: ast.Call
    on_value: bool  # `cache.copy()`, not `Cache.copy(cache)`


class Uses:
    """Calls and attributes of a task's interfaces in its test, as far as its own assignments tell."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.tree = parsed(task.query_code)
        self.written = {name: one for one in task.interfaces for name in one.written}
        self.aliases: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for each in node.names:
                    name = each.name if each.asname else each.name.partition(".")[0]
                    self.aliases.setdefault(each.asname or name, name)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for each in node.names:
                    self.aliases.setdefault(each.asname or each.name, f"{node.module}.{each.name}")
        self._calls: list[tuple[Interface, Call]] = []
        self._attributes: dict[str, set[str]] = {}
        self._visit(self.tree, {}, False)

    def calls(self, one: Interface) -> list[Call]:
        """Those outside of blocks that expect an error."""
        return [call for other, call in self._calls if other.name == one.name]

    def attributes(self, one: Interface) -> set[str]:
        """Attributes of values of a class, and of the class."""
        return self._attributes.get(one.name, set())

    def _meant(self, node: ast.expr) -> Interface | None:
        chain = chain_of(node)
        if not chain or chain[0] not in self.aliases:
            return None
        return self.written.get(".".join([self.aliases[chain[0]], *chain[1:]]))

    def _made(self, node: Any, values: Mapping[str, str | None]) -> str | None:
        """The class whose value an expression is."""
        if isinstance(node, ast.Call):
            found = self._meant(node.func)
            return found.name if found is not None and found.kind == "class" else None
        chain = chain_of(node) if isinstance(node, ast.expr) else None
        return values.get(".".join(chain)) if chain else None

    def _visit(self, node: Any, values: dict[str, str | None], expecting: bool) -> None:
        """values: names of variables to the class of what they hold, None where it may be another's."""
        if isinstance(node, (*_FUNCTIONS, ast.Module)):
            values = dict(values)
            for inner in _own_nodes(node):
                for target, value in _bindings(inner):
                    name = ".".join(chain_of(target) or [])
                    if name:
                        made = self._made(value, values)
                        values[name] = made if values.get(name, made) == made else None
        elif isinstance(node, ast.ClassDef):
            values = dict(values)
            for method in node.body:
                for inner in _own_nodes(method) if isinstance(method, _FUNCTIONS) else ():
                    for target, value in _bindings(inner):
                        name = ".".join(chain_of(target) or [])
                        if name.startswith("self."):
                            made = self._made(value, values)
                            values[name] = made if values.get(name, made) == made else None
        elif isinstance(node, ast.With | ast.AsyncWith):
            expecting = expecting or any(_expects_error(item.context_expr) for item in node.items)
        elif isinstance(node, ast.Call) and not expecting:
            self._called(node, values)
        if isinstance(node, ast.Attribute):
            owner = self._made(node.value, values)
            if owner is None and (found := self._meant(node.value)) is not None and found.kind == "class":
                owner = found.name
            if owner is not None and not expecting:
                self._attributes.setdefault(owner, set()).add(node.attr)
        for child in ast.iter_child_nodes(node):
            self._visit(child, values, expecting)

    def _called(self, node: ast.Call, values: Mapping[str, str | None]) -> None:
        found = self._meant(node.func)
        if found is not None:
            self._calls.append((found, Call(node, on_value=False)))
        elif isinstance(node.func, ast.Attribute):
            name = node.func.attr
            namesakes = [one for one in self.task.interfaces if one.kind == "method" and plain(one.last) == name]
            owner = self._made(node.func.value, values)
            mine = [one for one in namesakes if one.owner == owner]
            if owner is None and len(namesakes) == 1 and name not in COMMON and self._is_unknown(node.func.value):
                mine = namesakes
            self._calls += [(one, Call(node, on_value=True)) for one in mine[:1]]

    def _is_unknown(self, value: ast.expr) -> bool:
        """A value of the test's own, no module's attribute."""
        chain = chain_of(value)
        return chain is not None and chain[0] not in self.aliases and chain[0] != "self"


def _bindings(node: Any) -> Iterator[tuple[ast.expr, Any]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield target, node.value
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.With | ast.AsyncWith):
        for item in node.items:
            if item.optional_vars is not None:
                yield item.optional_vars, None  # what it gives is for the context manager to say
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        for name in ast.walk(node.target):
            if isinstance(name, ast.Name):
                yield name, None


def _own_nodes(definition: Any) -> Iterator[Any]:
    """The nodes of a function or module without those of functions and classes in it, in the order of the source."""
    for child in ast.iter_child_nodes(definition):
        yield child
        if not isinstance(child, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            yield from _own_nodes(child)


def _expects_error(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and (chain_of(node.func) or ["?"])[-1] in _RAISING


def _sets_any(node: Any) -> bool:
    """Whether code may give a value attributes that it does not spell."""
    if isinstance(node, ast.Call):
        return (chain_of(node.func) or ["?"])[-1] in ("setattr", "__setattr__")
    return isinstance(node, ast.Attribute) and node.attr == "__dict__"


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _all(told: Sequence[bool | None]) -> Vote | None:
    cast = [one for one in told if one is not None]
    if not cast:
        return None
    return "yes" if all(cast) else "no"


def _returned(signature: str) -> str:
    """The outer name of the annotation that a header ends with."""
    text = signature.strip().rstrip(":")
    try:
        made = ast.parse(f"{text}: pass").body[0] if text.startswith(("def ", "async ")) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return _annotation(made.returns) if isinstance(made, _FUNCTIONS) else ""


def _annotation(node: Any) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Constant):
        return str(node.value).partition("[")[0].rpartition(".")[2]
    return (chain_of(node) or [""])[-1] if isinstance(node, ast.expr) else ""
