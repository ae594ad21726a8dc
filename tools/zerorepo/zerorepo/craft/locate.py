"""What in a repository stands for the names a task's test uses: localisation of RepoCraft (arXiv 2509.16198 app. D), by rule.

Between tasks.py and package.py below and adapt.py, judging.py and scoring.py above. Four rules, the first that answers counts:
what the user's map says (`renamed`); the same dotted name (`same`); the same last name elsewhere (`named`); the unit most like
what the task tells of its interface (`ranked`). Attempts after the first differ in what no name decides. Words and source are
compared by localize.py, meanings by the encoder; resemblance.py has the score.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec

from tenfold_shared import BadInput
from zerorepo.craft.package import Meaning, Package
from zerorepo.craft.resemblance import FLOOR, Candidate, Resemblance, is_public
from zerorepo.craft.tasks import Interface, Task
from zerorepo.embeddings import Encoder
from zerorepo.features import words_of
from zerorepo.generation.stripping import is_part
from zerorepo.graph import Node

HOW = ("renamed", "same", "named", "ranked", "model")
MOST_ATTEMPTS = 8  # combinations that are tried
MOST_CHOICES = 8  # candidates of one interface that attempts go through
_MOST_STATES = 4000  # of the search for the next best combination
_NAMED = 1.0  # that a name is the same weighs more than any resemblance, which is below 1
_TIMES = re.compile(r"#\d+")  # of the second definition of a name in one scope
# Kinds that can stand for a kind under the same dotted name: a class is called as a function is, and a value may be either.
_STANDS = {
    "module": ("module",),
    "class": ("class", "variable"),
    "function": ("function", "class", "variable"),
    "method": ("method", "function", "variable", "class"),
    "variable": ("variable", "class", "function"),
}


class Located(msgspec.Struct):
    """names: canonical name of an interface to the canonical name of what stands for it in the repository. how: the same to
    the rule (HOW) that found it. missing: interfaces that nothing stands for. A module that is only the way to its members is
    in none of them."""

    names: dict[str, str]
    how: dict[str, str]
    missing: list[str]

    def places(self, task: Task, package: Package) -> tuple[dict[str, str], dict[str, str]]:
        """(places, members): what must change in the test. places: dotted name as written to the new one, where the written
        name does not mean the located thing in the repository already. members: attribute used on values to its new name,
        where all interfaces of the task that have the old one agree."""
        places: dict[str, str] = {}
        members: dict[str, set[str]] = {}
        for one in task.interfaces:
            new = self.names.get(one.name)
            if new is None:
                continue
            for written in one.written:
                found = package.meaning(written)
                if found is None or plain(found.name) != new:
                    places[written] = new
            if is_member(one, task):
                members.setdefault(plain(one.last), set()).add(new.rpartition(".")[2])
        changed = {old: next(iter(new)) for old, new in members.items() if len(new) == 1 and new != {old}}
        return dict(sorted(places.items())), dict(sorted(changed.items()))


class _Choice(NamedTuple):
    """Something that may stand for an interface."""

    name: str
    score: float
    how: str


class _Combination(NamedTuple):
    total: float
    picks: dict[str, _Choice | None]


def plain(name: str) -> str:
    """A canonical name without the marks of repeated definitions, as an import would have it."""
    return _TIMES.sub("", name)


def is_member(one: Interface, task: Task) -> bool:
    """Whether an interface is an attribute of a class's values."""
    if one.kind == "method":
        return True
    return one.kind == "variable" and any(
        other.kind == "class" and other.name == one.owner for other in task.interfaces
    )


def read_rename(path: str, package: Package) -> dict[str, str]:
    """The user's map, a JSON object of dotted name in the real package to dotted name in the repository. Raises BadInput for
    what is none, a key that stands twice, and a target that the repository does not have."""
    from tenfold_shared.jsonl import read_text

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise BadInput(f"--rename {path}: {key!r} stands twice")
            found[key] = value
        return found

    try:
        told = json.loads(read_text(path), object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise BadInput(f"--rename {path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise BadInput(f"--rename {path}: nested too deep; expected one JSON object") from None
    if not isinstance(told, dict):
        raise BadInput(f"--rename {path}: expected a JSON object of dotted names, got {type(told).__name__}")
    for old, new in told.items():
        if not isinstance(new, str):
            raise BadInput(f"--rename {path}: {old!r}: expected a dotted name as a string, got {json.dumps(new)[:80]}")
        for name in (old, new):
            if not all(part.isidentifier() for part in name.split(".")):
                raise BadInput(f"--rename {path}: {name!r}: expected a dotted name, such as package.module.name")
        if package.meaning(new) is None:
            near = get_close_matches(new, _all_names(package), 3, 0.5)
            told_near = f"; nearest: {', '.join(near)}" if near else ""
            raise BadInput(f"--rename {path}: {old!r}: the repository has no {new}{told_near}")
    return told


def _all_names(package: Package) -> list[str]:
    found = set(package.module_paths) | package.folders
    return sorted(found | {plain(package.dotted(node)) for node in package.units})


class Locator:
    """Finds the interfaces of tasks in one repository. rename: the user's map, dotted name to dotted name."""

    def __init__(self, package: Package, encoder: Encoder | None, rename: Mapping[str, str] | None = None) -> None:
        self.package, self.encoder, self.rename = package, encoder, dict(rename or {})
        self.alike = Resemblance(package, encoder)
        self._kept: tuple[Task, list[Located]] | None = None

    def located(self, task: Task, attempt: int = 0) -> Located | None:
        """What stands for the interfaces of a task; None where an attempt has nothing left that another did not try."""
        if self._kept is None or self._kept[0] is not task:
            self._kept = (task, _Task(self, task).attempts())
        found = self._kept[1]
        return found[attempt] if attempt < len(found) else None

    def candidates(self, interface: Interface, task: Task, top: int = 20) -> list[Candidate]:
        """What may stand for an interface, best first: namesakes, then the units most like it."""
        found = {one.name: one for one in self._namesakes(interface, task)}
        for one in self._ranked(interface, task, top):
            found.setdefault(one.name, one)
        return list(found.values())[:top]

    def _namesakes(self, interface: Interface, task: Task) -> list[Candidate]:
        """Units of its kind with its last name, or the same words in another case; the likest first."""
        wanted = plain(interface.last)
        words, public = words_of(wanted), is_public(wanted)

        def is_meant(node: Node) -> bool:
            return node.name == wanted or (is_public(node.name) == public and words_of(node.name) == words)

        scored = self.alike.scored(interface, task, is_meant)
        return sorted(scored, key=lambda one: (one.last != wanted, -one.score, one.name))

    def _ranked(self, interface: Interface, task: Task, top: int) -> list[Candidate]:
        scored = self.alike.scored(interface, task, lambda node: is_public(node.name) or not is_public(interface.last))
        return scored[:top]


class _Task:
    """One task under way."""

    def __init__(self, locator: Locator, task: Task) -> None:
        self.locator, self.package, self.task = locator, locator.package, task
        self.program = locator.package.program
        self.firm: dict[str, _Choice] = {}  # by the user's map, or the same name

    def attempts(self) -> list[Located]:
        """All there is to try, best first; there is always a first."""
        owners = {one.name for one in self.task.interfaces if one.kind == "class"}
        wanted = list(self.task.interfaces)
        # The class of a method that the test never names has to be found as well.
        for one in self.task.interfaces:
            if one.kind == "method" and one.owner not in owners:
                owners.add(one.owner)
                wanted.append(Interface(name=one.owner, kind="class", tested=one.tested))
        for one in wanted:
            if (certain := self._by_map(one) or self._same(one)) is not None:
                self.firm[one.name] = certain
        taken = {choice.name for choice in self.firm.values()}
        free = [one for one in wanted if one.kind in ("class", "function") and one.name not in self.firm]
        lists = {one.name: self._choices(one, taken) for one in free}
        found: list[tuple[float, Located]] = []
        seen: set[tuple[tuple[str, str], ...]] = set()
        for first in self._combined(free, lists):
            outer = {name: choice for name, choice in first.picks.items() if choice is not None} | self.firm
            methods = [one for one in wanted if is_member(one, self.task) and one.name not in self.firm]
            used = {choice.name for choice in outer.values()}
            inner = {one.name: self._members(one, outer, used) for one in methods}
            for second in self._combined(methods, inner):
                picks = outer | {name: choice for name, choice in second.picks.items() if choice is not None}
                self._values(wanted, picks)
                self._modules(wanted, picks)
                made = self._located(picks)
                told = tuple(sorted(made.names.items()))
                if told not in seen and len(found) < MOST_ATTEMPTS:
                    seen.add(told)
                    found.append((first.total + second.total, made))
        order = sorted(range(len(found)), key=lambda at: (at > 0, -round(found[at][0], 9), at))
        return [found[at][1] for at in order]

    def _located(self, picks: Mapping[str, _Choice]) -> Located:
        names, how, missing = {}, {}, []
        for one in self.task.interfaces:
            choice = picks.get(one.name)
            if choice is not None:
                names[one.name], how[one.name] = choice.name, choice.how
            elif one.kind != "module" or not self._inside(one):
                missing.append(one.name)
        return Located(names, how, missing)

    def _inside(self, module: Interface) -> list[Interface]:
        return [one for one in self.task.interfaces if one.name.startswith(module.name + ".") and one.kind != "module"]

    # ------------------------------------------------------------ by name

    def _by_map(self, one: Interface) -> _Choice | None:
        """The name of the map that leaves least of the interface's name, canonical or written, to be carried over decides; of
        two the longer one, of two as long the canonical one's."""
        best: tuple[int, int] | None = None
        target = ""
        for name in (plain(one.name), *one.written):
            above = name
            while above:
                rest = name[len(above) :]
                if above in self.locator.rename and (best is None or (-rest.count("."), len(above)) > best):
                    best, target = (-rest.count("."), len(above)), self.locator.rename[above] + rest
                above = above.rpartition(".")[0]
        found = self.package.meaning(target) if target else None
        if found is None or (found.kind == "module") != (one.kind == "module"):
            return None
        return _Choice(plain(found.name), 1.0, "renamed")

    def _same(self, one: Interface) -> _Choice | None:
        for name in (plain(one.name), *one.written):
            found = self.package.meaning(name)
            if found is not None and found.kind in _STANDS[one.kind]:
                return _Choice(plain(found.name), 1.0, "same")
        return None

    def _choices(self, one: Interface, taken: set[str]) -> list[_Choice]:
        """What may stand for a unit that is not there under its own name, best first."""
        namesakes = [
            each for each in self.locator._namesakes(one, self.task) if each.name not in taken and each.kind == one.kind
        ]
        if namesakes:
            return [_Choice(each.name, _NAMED + each.score, "named") for each in namesakes[:MOST_CHOICES]]
        ranked = self.locator._ranked(one, self.task, MOST_CHOICES + len(taken))
        return [
            _Choice(each.name, each.score, "ranked")
            for each in ranked
            if each.name not in taken and each.score >= FLOOR
        ][:MOST_CHOICES]

    # ------------------------------------------------------------ combinations

    def _combined(self, free: Sequence[Interface], lists: Mapping[str, list[_Choice]]) -> Iterator[_Combination]:
        """Choices for all, best sum first, none twice. Where tests are about some of them, those alone vary."""
        tested = {one.name for one in free if one.tested} | {
            one.owner for one in self.task.interfaces if one.kind == "method" and one.tested
        }
        varied = [one.name for one in free if one.name in tested and lists[one.name]]
        varied = varied or [one.name for one in free if lists[one.name]]
        rest = [one.name for one in free if one.name not in varied]
        for total, picks in best_first([lists[name] for name in varied]):
            found: dict[str, _Choice | None] = dict(zip(varied, picks, strict=True))
            used = {choice.name for choice in picks if choice is not None}
            for _, others in best_first([[one for one in lists[name] if one.name not in used] for name in rest], 1):
                found |= zip(rest, others, strict=True)
            yield _Combination(total, found)

    # ------------------------------------------------------------ members, values, modules

    def _members(self, one: Interface, outer: Mapping[str, _Choice], taken: set[str]) -> list[_Choice]:
        """What may stand for a method or class variable, in the class located for its class."""
        owner = outer.get(one.owner)
        if owner is None:
            if one.kind != "method" or one.owner in {other.name for other in self.task.interfaces}:
                return []
            # Nothing is known of its class but the name: the method is looked for by itself.
            return self._choices(one, taken)
        found = self.package.meaning(owner.name)
        if found is None or found.node is None or found.kind != "class":
            return []
        last = plain(one.last)
        if (member := self._member(found, last)) is not None:
            how = owner.how if owner.how in ("renamed", "same") else "named"
            return [_Choice(member, _NAMED, how)]
        if one.kind != "method" or not is_public(last):
            return []
        ranked = self.locator.alike.methods(one, self.task, found.node)
        return [
            _Choice(each.name, each.score, "ranked")
            for each in ranked
            if each.score >= FLOOR and each.name not in taken
        ][:MOST_CHOICES]

    def _member(self, owner: Meaning, name: str) -> str | None:
        """The dotted name of a class's attribute: a method, or a variable of the class or of its values."""
        assert owner.node is not None
        for one in self.program.order(owner.node.id):
            if (unit := self.program.scopes.get(one, {}).get(name)) is not None:
                return plain(self.package.dotted(self.program.nodes[unit]))
            if name in self.program.nodes[one].names:
                return f"{plain(self.package.dotted(self.program.nodes[one]))}.{name}"
        return None

    def _values(self, wanted: Iterable[Interface], picks: dict[str, _Choice]) -> None:
        """Variables of modules."""
        for one in wanted:
            if one.kind != "variable" or one.name in picks or is_member(one, self.task):
                continue
            home = self._home(one.owner, picks)
            found = self.package.meaning(f"{home}.{one.last}") if home is not None else None
            others = self.locator.alike.variables.get(one.last, [])
            if found is not None and found.kind in _STANDS["variable"]:
                picks[one.name] = _Choice(plain(found.name), _NAMED, "named")
            elif len(others) == 1:
                picks[one.name] = _Choice(others[0], _NAMED, "named")

    def _home(self, module: str, picks: Mapping[str, _Choice]) -> str | None:
        """The module that most of what is located out of a module stands in; ties by name. Where nothing of its own is
        located, as of a package that only passes names on, the one as far above what stands below it."""
        if module in picks:
            return picks[module].name
        inside = [one for one in self.task.interfaces if one.name in picks and one.kind not in ("module", "method")]
        homes = Counter(
            self.locator.alike.module_of(picks[one.name].name) for one in inside if one.owner == module
        ) or Counter(self._above(one, module, picks) for one in inside if one.name.startswith(module + "."))
        return min(homes, key=lambda home: (-homes[home], home)) if homes else None

    def _above(self, one: Interface, module: str, picks: Mapping[str, _Choice]) -> str:
        home = self.locator.alike.module_of(picks[one.name].name)
        for _ in range(one.owner.count(".") - module.count(".")):
            home = home.rpartition(".")[0] or home
        return home

    def _modules(self, wanted: Sequence[Interface], picks: dict[str, _Choice]) -> None:
        for one in wanted:
            if one.kind != "module" or one.name in picks:
                continue
            home = self._home(one.name, picks)
            if home is None and not self._inside(one):
                names = [
                    name
                    for name, path in self.package.module_paths.items()
                    if name.rpartition(".")[2] == one.last and is_part(path, self.package.files)
                ]
                home = min(names, key=lambda name: (name.count("."), name)) if names else None
            if home is not None:
                picks[one.name] = _Choice(home, 1.0, "named" if home.rpartition(".")[2] == one.last else "ranked")


def best_first(
    lists: Sequence[Sequence[_Choice]], most: int = MOST_ATTEMPTS
) -> Iterator[tuple[float, list[_Choice | None]]]:
    """Ways to take one of each list, no name twice, by descending sum of scores; the first `most`. None is taken from a list
    only where all of its names are taken by others. Each list by descending score."""
    start = (0,) * len(lists)

    def total(state: tuple[int, ...]) -> float:
        return sum(one[at].score for one, at in zip(lists, state, strict=True) if at < len(one))

    heap = [(-total(start), start)]
    seen = {start}
    given = 0
    while heap and given < most and len(seen) < _MOST_STATES:
        negative, state = heapq.heappop(heap)
        picks = [one[at] if at < len(one) else None for one, at in zip(lists, state, strict=True)]
        names = [pick.name for pick in picks if pick is not None]
        if len(set(names)) == len(names) and all(
            pick is not None or all(choice.name in names for choice in one)
            for pick, one in zip(picks, lists, strict=True)
        ):
            given += 1
            yield -negative, picks
        for place, one in enumerate(lists):
            after = (*state[:place], state[place] + 1, *state[place + 1 :])
            if state[place] < len(one) and after not in seen:
                seen.add(after)
                heapq.heappush(heap, (-total(after), after))
    if not given and lists:  # too many want the same: the best first, each what is left
        used: set[str] = set()
        taken: dict[int, _Choice | None] = {}
        for place in sorted(range(len(lists)), key=lambda at: (-(lists[at][0].score if lists[at] else 0), at)):
            taken[place] = next((choice for choice in lists[place] if choice.name not in used), None)
            used |= {choice.name for choice in (taken[place],) if choice is not None}
        found = [taken[place] for place in range(len(lists))]
        yield sum(choice.score for choice in found if choice is not None), found
