"""Stage A: which features a project should have, and in which modules (arXiv 2509.16198 §2.2, algorithms 1 and 2).

Takes a `Spec` (spec.py) and, where there is one, a global feature tree (ontology.py); gives a graph of areas, categories,
groups and features, all proposed, which implementation.py designs a repository for. In rounds, the tree is searched for
the goal (exploit) and drawn from (explore); the model chooses among the paths it is offered, names what is missing, and
judges the union again in batches; then it plans modules and gives every feature a place in one.

An answer is data. A path that was not offered, a feature that is not there, a place of the wrong depth or in no planned
module is dropped and counted; what is left over is asked for again; what stays without a place is reported. A feature is
known by its full path, never by its last name, which two branches may share.

Without a tree (the simple mode of the paper's own code), the features are those that the model names as missing, in as many rounds;
nothing is retrieved or drawn, and every output says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tenfold_shared import Missing
from zerorepo.generation.asking import Ask, Asker, label
from zerorepo.generation.ontology import SLASH, Hit, LeafIndex, Ontology, told_path
from zerorepo.generation.sampling import CONDITIONS, OVERLAP, TEMPERATURE, TRIES, Sampler
from zerorepo.generation.spec import Spec
from zerorepo.graph import ROOT, Edge, Graph, Node, one_line

if TYPE_CHECKING:
    pass

ROUNDS = 30  # P1
OFFER = 600  # paths of a round, of each kind; the bound of the paper's own code for retrieval
PER_QUERY = 20  # names that a query may add in a round
PER_NAME = 3  # paths of one name
BATCH = 100  # P1's B: paths that are judged, or placed, in one question
LEAST_BATCH = 10
PLACING_ROUNDS = 40  # as in the paper's own code
IDLE_ROUNDS = 3  # of them without one new place, after which it ends
ENOUGH = 0.99  # share of the features that have a place
MOST_MODULES = 8  # P1: 3 to 8; fewer than 3 are taken, as a small project has
LONGEST = 120  # letters of a name
MOST_SHOWN = 12_000  # characters of what was chosen so far, in a prompt
MOST_PLANNED = 2_000  # features in the prompt that modules are planned from

_RULES = """You plan a Python package. In several steps its features are chosen and then arranged in modules; no code is written yet.
A feature is a concrete capability that can be implemented and tested. Not features: aims without a content of their own
(be fast, be easy to use), what any project has (logging, configuration, packaging, continuous integration), and a feature
that is there already under another name. A path names a feature and the branches above it, parted by `/`. Where paths are
offered, each stands on a line of its own after "- ", and you give it back exactly as it stands there, every letter alike.
Answer with one JSON object and nothing else.
"""
MISSING = """Name features that a project of this purpose is expected to have. Judge by the purpose alone. Give them in groups: at most
50 groups, each a short name with its features, each feature two to five words in lower case.{earlier}
Answer: {{"features": {{"group name": ["feature", ...]}}}}
"""
_EXPLOIT = """Of the paths below, which were found by searching for the purpose, choose those that this project needs and that carry
further what has been chosen already. Choose from these alone; none is an answer too.{chosen}
The paths:
{offered}
Answer: {{"paths": ["...", ...]}}
"""
_EXPLORE = """Of the paths below, which were drawn from a large tree without regard to the purpose, choose those that open a branch
which the project lacks and which serves its purpose. Choose from these alone; most will not fit, and none is an answer too.{chosen}
The paths:
{offered}
Answer: {{"paths": ["...", ...]}}
"""
_CHECK = """Judge the candidates below once more. Keep those that can be implemented in a Python package, lie within the scope, and say
nothing that another candidate or a chosen feature says already. Of two that say the same keep one.{chosen}
The candidates:
{offered}
Answer: {{"keep": ["...", ...]}}
"""
_MODULES = """Plan the modules of the package: three to eight that together take in all features below and do not overlap. Give each a
name of one to three words, its purpose in a sentence, and the number of features you expect in it.
The features:
{offered}
Answer: {{"modules": [{{"name": "...", "purpose": "...", "size": 12}}, ...]}}
"""
_PLACE = """Give each feature below a place, written module/category/group: the module is one of those planned, exactly as written; the
category and the group are one to four words each. Put what belongs together in one group, and use a group again where it fits.
The planned modules:
{modules}{known}
The features:
{offered}
Answer: {{"places": {{"path of the feature": "module/category/group", ...}}}}
"""
_TIDY = """These are the groups that features were put into, each with some of its features. Where two say the same, merge them; where
one stands in the wrong module or category, move it; where a name does not say what is in it, rename it. Leave the rest.
The planned modules:
{modules}
The groups:
{offered}
Answer: {{"moves": {{"module/category/group": "module/category/group", ...}}}}, and an empty object where nothing is to be moved.
"""

Path_ = tuple[str, ...]
Place = tuple[str, str, str]


class Settings(msgspec.Struct, frozen=True):
    """rounds: of choosing; conditions, smoothing, overlap, tries: of drawing (sampling.py); offer: paths offered at most
    by retrieval, and as many by drawing, in a round."""

    rounds: int = ROUNDS
    conditions: tuple[int, ...] = CONDITIONS
    smoothing: float = TEMPERATURE
    overlap: float = OVERLAP
    tries: int = TRIES
    offer: int = OFFER
    seed: int = 0


class Module(NamedTuple):
    name: str
    purpose: str
    size: int


class Growth(msgspec.Struct):
    """One round: paths offered, those chosen of them or named by the model, those kept of these, features there are."""

    round: int
    offered: int
    selected: int
    kept: int
    leaves: int


def propose(
    spec: Spec,
    ontology: Ontology | None,
    asker: Asker,
    settings: Settings | None = None,
    index: LeafIndex | None = None,
    step: Callable[[], object] = lambda: None,
) -> Graph:
    """The proposed graph. index: of the ontology's leaves; made by TF-IDF where it is not given. step: called once a
    round. Raises OverBudget, and Missing where no usable answer gave a feature or a module."""
    proposal = Proposal(spec, ontology, asker, settings, index)
    proposal.run(step)
    return proposal.graph()


class Proposal:
    """What is known of the project so far. `chosen`: features by their path on one line; `places`: of those that have
    one; `counts`: what was dropped and why; `growth`: a record a round."""

    def __init__(
        self,
        spec: Spec,
        ontology: Ontology | None,
        asker: Asker,
        settings: Settings | None = None,
        index: LeafIndex | None = None,
    ) -> None:
        self.spec, self.ontology, self.asker = spec, ontology, asker
        self.settings = settings or Settings()
        self.index = index
        if ontology is not None:
            if index is None:
                from zerorepo.embeddings import encoder

                self.index = LeafIndex(ontology, encoder("tfidf"))
            self._sampler = Sampler(ontology, self.settings.smoothing, self.settings.conditions, ontology.sampled_roots())  # fmt: skip
            self.visited: NDArray[np.bool_] = np.zeros(len(ontology) + 1, bool)
        self.chosen: dict[str, Path_] = {}
        self.modules: list[Module] = []
        self.places: dict[str, Place] = {}
        self.counts: Counter[str] = Counter()
        self.growth: list[Growth] = []
        self._by: dict[str, str] = {}  # label of a feature to the question that gave it its place
        self._moved: set[Place] = set()
        self._named: dict[str, None] = {}  # what the model named as missing, in order
        self._ranked: dict[str, list[Hit]] = {}  # what is left of a standing query's ranking
        self._spelled: dict[tuple[str, ...], str] = {}
        self.system = overview(spec)

    def run(self, step: Callable[[], object] = lambda: None) -> None:
        for number in range(1, self.settings.rounds + 1):
            self.choose(number)
            step()
        if not self.chosen:
            raise Missing(f"propose: no feature was chosen in {self.settings.rounds} rounds{self._refusals()}")
        self.plan()
        self.place()
        self.tidy()

    def _refusals(self) -> str:
        some = [f"{name}: {why}" for name, why in sorted(self.asker.refused.items())[:3]]
        return f": {'; '.join(some)}; another --seed or model, with --overwrite, asks anew" if some else ""

    # ------------------------------------------------------------ choosing

    def choose(self, number: int) -> None:
        """One round. What no usable answer was given to stays unvisited, to be offered again."""
        subject = f"round-{number}"
        random = np.random.default_rng([self.settings.seed, number])
        drawn = self._drawn(random)
        shown = self._shown()
        first = Ask("missing", subject, self.system, MISSING.format(earlier=self._earlier()))
        asks: list[tuple[Ask, Callable[[dict[str, Any]], Any], tuple[str, ...]]] = [
            (first, self._missing, ("features",)),
        ]
        if drawn:
            asks.append(self._asked("explore", subject, _EXPLORE, shown, drawn, "paths"))
        named, explored = [*self.asker.checked_all(asks), None][:2]
        found = self._retrieved(random, named or {}, drawn)
        exploited = None
        if found:
            exploited = self.asker.checked_all([self._asked("exploit", subject, _EXPLOIT, shown, found, "paths")])[0]
        union: dict[str, Path_] = {}
        for offered, selected in ((found, exploited), (drawn, explored)):
            for told in selected or ():
                assert self.ontology is not None
                union.setdefault(told, self.ontology.path(offered[told]))
        union |= {told: path for told, path in (named or {}).items() if told not in union}
        union = {told: path for told, path in union.items() if told not in self.chosen}
        kept, judged = self._checked(subject, union, shown)
        for told in kept:
            self.chosen[told] = union[told]
        for offered, selected in ((found, exploited), (drawn, explored)):
            if selected is not None:
                again = {offered[told] for told in selected if told in union and told not in judged}
                self.visited[[node for node in offered.values() if node not in again]] = True
        self._named |= dict.fromkeys(named or ())
        self.growth.append(Growth(number, len(found) + len(drawn), len(union), len(kept), len(self.chosen)))

    def _asked(
        self, role: str, subject: str, words: str, shown: str, offered: Mapping[str, Any], key: str
    ) -> tuple[Ask, Callable[[dict[str, Any]], list[str]], tuple[str, ...]]:
        user = words.format(chosen=shown, offered=listed(offered))
        return Ask(role, subject, self.system, user), lambda value: self._of_offered(value, key, offered), (key,)

    def _of_offered(self, value: dict[str, Any], key: str, offered: Mapping[str, Any]) -> list[str]:
        """Those of the answer's paths that were offered, once each."""
        given = value.get(key)
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise ValueError(f'expected {{"{key}": [...]}}, a list of paths as they were offered')
        found = dict.fromkeys(told for one in given if (told := one.strip()) in offered)
        fabricated = [one for one in given if one.strip() not in offered]
        self.counts["fabricated"] += len(fabricated)
        self.counts["twice"] += len(given) - len(fabricated) - len(found)
        if given and not found:
            raise ValueError(f"none of the paths was offered, such as {fabricated[0][:100]!r}; give them exactly as they stand after the dash")  # fmt: skip
        return list(found)

    def _missing(self, value: dict[str, Any]) -> dict[str, Path_]:
        """Path on one line to path of the features that the model names itself."""
        groups = value.get("features")
        if not isinstance(groups, dict):
            raise ValueError('expected {"features": {"group name": ["feature", ...]}}')
        found: dict[str, Path_] = {}
        unusable = 0
        for group, phrases in groups.items():
            for phrase in phrases if isinstance(phrases, list) else [None]:
                path = (name_of(group), name_of(phrase))
                if not all(path):
                    unusable += 1
                    continue
                found.setdefault(told_path(path), path)
        self.counts["unusable"] += unusable
        if groups and not found:
            raise ValueError("no group has a usable feature; expected lists of short texts")
        return found

    def _drawn(self, random: np.random.Generator) -> dict[str, int]:
        """Unvisited leaves of a draw, at most `offer`, which are then chosen evenly."""
        if self.ontology is None:
            return {}
        one = self.settings
        leaves = self._sampler.reject_sample(random, self.visited, one.overlap, one.tries).leaves
        leaves = leaves[~self.visited[leaves]]
        if len(leaves) > one.offer:
            leaves = np.sort(random.choice(leaves, one.offer, replace=False))
        return self._labels(leaves.tolist())

    def _retrieved(self, random: np.random.Generator, named: Mapping[str, Path_], drawn: Mapping[str, int]) -> dict[str, int]:  # fmt: skip
        """Unvisited leaves whose names are most like the purpose, the requirements and what was just named as missing:
        of each query the next PER_QUERY names, of each name at most PER_NAME paths; the queries take turns."""
        if self.ontology is None or self.index is None:
            return {}
        standing = dict.fromkeys([self.spec.purpose, *self.spec.requirements])
        new = [query for query in standing if query not in self._ranked]
        self._ranked |= dict(zip(new, self.index.search(new, 2 * PER_QUERY * self.settings.rounds), strict=True))
        passing = [path[-1] for path in named.values() if path[-1] not in standing]
        rankings = [self._ranked[query] for query in standing]
        rankings += self.index.search(list(dict.fromkeys(passing)), PER_QUERY)
        out = set(drawn.values())
        found: dict[int, None] = {}
        turns = [iter(list(ranking)) for ranking in rankings]
        left = [PER_QUERY] * len(turns)
        while any(left) and len(found) < self.settings.offer:
            for at, turn in enumerate(turns):
                while left[at]:
                    hit = next(turn, None)
                    if hit is None:
                        left[at] = 0
                        break
                    fresh = [node for node in hit.nodes if not self.visited[node] and node not in out and node not in found]  # fmt: skip
                    if fresh:
                        left[at] -= 1
                        some = random.choice(fresh, PER_NAME, replace=False).tolist() if len(fresh) > PER_NAME else fresh  # fmt: skip
                        found |= dict.fromkeys(sorted(some))
                        break
        return self._labels(list(found)[: self.settings.offer])

    def _labels(self, nodes: Sequence[int]) -> dict[str, int]:
        assert self.ontology is not None
        found: dict[str, int] = {}
        for node in nodes:
            self.counts["ambiguous"] += found.setdefault(self.ontology.label(node), node) != node
        return found

    def _checked(self, subject: str, union: Mapping[str, Path_], shown: str) -> tuple[list[str], set[str]]:
        """(those that the self-check keeps, those that it judged at all)"""
        batches = _batches(list(union), BATCH)
        answers = self.asker.checked_all(
            [
                self._asked("check", f"{subject}.batch-{at}", _CHECK, shown, dict.fromkeys(batch), "keep")
                for at, batch in enumerate(batches, 1)
            ]
        )
        kept: list[str] = []
        judged: set[str] = set()
        for batch, answer in zip(batches, answers, strict=True):
            if answer is None:
                self.counts["unchecked"] += len(batch)
                continue
            judged.update(batch)
            kept += answer
        return kept, judged

    def _shown(self) -> str:
        """What was chosen so far, for a prompt: a branch a line."""
        if not self.chosen:
            return "\nNothing has been chosen so far."
        branches: dict[str, list[str]] = {}
        for path in self.chosen.values():
            branches.setdefault(told_path(path[:-1]), []).append(path[-1])
        lines = [f"* {branch}: {'; '.join(names)}" for branch, names in sorted(branches.items())]
        return "\nChosen so far:\n" + _cut(lines)

    def _earlier(self) -> str:
        if not self._named:
            return ""
        return " Others than these, which you named before:\n" + _cut([f"* {one}" for one in self._named])

    # ------------------------------------------------------------ modules and places

    def plan(self) -> None:
        """The modules. Raises Missing where there is no usable plan."""
        some = list(self.chosen)[:MOST_PLANNED]
        more = f"\nand {len(self.chosen) - len(some):,} more" if len(self.chosen) > len(some) else ""
        ask = Ask("modules", "plan", self.system, _MODULES.format(offered=listed(some) + more))
        found = self.asker.checked(ask, modules_checked, ("modules",))
        if found is None:
            raise Missing(f"propose: no usable plan of modules{self._refusals()}")
        self.modules = found

    def place(self) -> None:
        """A place for every feature, in rounds; ends at ENOUGH of them, or when rounds no longer help."""
        known = {one.name.casefold(): one.name for one in self.modules}
        size, idle = BATCH, 0
        for number in range(1, PLACING_ROUNDS + 1):
            remaining = sorted(self.chosen.keys() - self.places.keys())
            if len(self.places) >= ENOUGH * len(self.chosen) or idle == IDLE_ROUNDS:
                break
            batches = _batches(remaining, size)
            used = self._used()
            asks = []
            for at, batch in enumerate(batches, 1):
                user = _PLACE.format(modules=self._planned(), known=used, offered=listed(batch))
                ask = Ask("place", f"round-{number}.batch-{at}", self.system, user)
                asks.append((ask, _places_of(self, frozenset(batch), known), ("places",)))
            before = len(self.places)
            answers = self.asker.checked_all(asks)
            for (ask, *_), answer in zip(asks, answers, strict=True):
                for told, place in (answer or {}).items():
                    self.places[told] = self._spell(place)
                    self._by[told] = f"{ask.role}|{ask.subject}"
            if None in answers:
                size = max(LEAST_BATCH, size // 2)
            idle = idle + 1 if len(self.places) == before else 0

    def placed(self, value: dict[str, Any], remaining: frozenset[str], known: Mapping[str, str]) -> dict[str, Place]:
        """Of an answer, the features that are there with a place that can be. Raises ValueError where none is."""
        given = value.get("places")
        if not isinstance(given, dict):
            raise ValueError('expected {"places": {"path of the feature": "module/category/group"}}')
        found: dict[str, Place] = {}
        why = ""
        for told, target in given.items():
            if told.strip() not in remaining:
                self.counts["imagined"] += 1
                why = why or f"{told[:100]!r} is none of the features"
                continue
            place = place_of(target)
            if place is None:
                self.counts["wrong_depth"] += 1
                why = why or f"{str(target)[:100]!r}: expected module/category/group"
                continue
            module = known.get(place[0].casefold())
            if module is None:
                self.counts["unknown_module"] += 1
                why = why or f"{place[0][:60]!r} is none of the planned modules"
                continue
            found[told.strip()] = (module, place[1], place[2])
        if not found:
            raise ValueError(why or "no feature has a place in it")
        return found

    def tidy(self) -> None:
        """Groups merged, moved and renamed as the model says; nothing, where it has no usable answer."""
        groups: dict[str, list[str]] = {}
        for told, place in sorted(self.places.items()):
            groups.setdefault("/".join(place), []).append(self.chosen[told][-1])
        if not groups:
            return
        lines = [f"- {group}\n  with {'; '.join(names[:5])}" for group, names in sorted(groups.items())]
        user = _TIDY.format(modules=self._planned(), offered="\n".join(lines))
        moves = self.asker.checked(
            Ask("tidy", "tidy", self.system, user), lambda value: self._moves(value, groups), ("moves",)
        )
        for told, place in list(self.places.items()):
            target = (moves or {}).get("/".join(place))
            if target is not None and target != place:
                self.places[told] = target
                self._moved.add(target)

    def _moves(self, value: dict[str, Any], groups: Mapping[str, Any]) -> dict[str, Place]:
        given = value.get("moves")
        if not isinstance(given, dict):
            raise ValueError('expected {"moves": {"module/category/group": "module/category/group"}}')
        known = {one.name.casefold(): one.name for one in self.modules}
        found: dict[str, Place] = {}
        for group, target in given.items():
            place = place_of(target)
            if group.strip() not in groups or place is None or place[0].casefold() not in known:
                self.counts["bad_moves"] += 1
                continue
            found[group.strip()] = self._spell((known[place[0].casefold()], place[1], place[2]))
        if given and not found:
            raise ValueError("no move is from a group that is there to module/category/group of a planned module")
        return found

    def _spell(self, place: Place) -> Place:
        """The place with each name as it was first written there: names that differ in case alone are one."""
        keys = [tuple(map(str.casefold, place[:depth])) for depth in (1, 2, 3)]
        module, category, group = (self._spelled.setdefault(key, name) for key, name in zip(keys, place, strict=True))
        return module, category, group

    def _planned(self) -> str:
        return "\n".join(f"* {one.name}: {one.purpose} (about {one.size} features)" for one in self.modules)

    def _used(self) -> str:
        groups = sorted({"/".join(place) for place in self.places.values()})
        return "\nGroups in use:\n" + _cut([f"* {one}" for one in groups]) if groups else ""

    @property
    def unplaced(self) -> list[str]:
        return sorted(self.chosen.keys() - self.places.keys())

    # ------------------------------------------------------------ the graph

    def graph(self, *, unplaced: bool = False) -> Graph:
        """The proposal: below the root areas, categories, groups, features, all of status proposed.

        A feature has its phrase as name and feature, and in `doc` the full path it was chosen by; an area has its purpose
        in `doc`, the root the project's, and the requirements as its features. Of features of one name in one group, the
        first by path keeps it as its id; the others are told apart by the branch they come from. unplaced: those without
        a place hang below the root, where a budget ended the run before it gave them one.
        """
        who = ", ".join(sorted(self.asker.models))
        root = Node(id=ROOT, kind="repo", name=self.spec.name, path=ROOT, doc=self.spec.purpose,
                    features=list(self.spec.requirements), status="proposed")  # fmt: skip
        nodes: dict[str, Node] = {}
        edges: list[Edge] = []

        def add(node: Node, above: str) -> None:
            if node.id not in nodes:
                nodes[node.id] = node
                edges.append(Edge(src=above, dst=node.id, type="contains"))

        purposes = {one.name: one.purpose for one in self.modules}
        for told in sorted(self.places):
            place, path = self.places[told], self.chosen[told]
            by = f"{who} {'tidy|tidy' if place in self._moved else self._by[told]}"
            above = ROOT
            for kind, name in zip(("area", "category", "group"), place, strict=True):
                mine = f"{above}/{name}" if above != ROOT else f"#{name}"
                doc = purposes[name] if kind == "area" else ""
                made = f"{who} modules|plan" if kind == "area" else by
                add(Node(id=mine, kind=kind, name=name, doc=doc, status="proposed", provenance=made), above)
                above = mine
            mine = _unused(above, path, nodes)
            add(_feature(mine, path, f"{who} {self._by[told]}"), above)
        if unplaced:
            for told in self.unplaced:
                add(_feature("#" + told.replace("/", SLASH), self.chosen[told], who), ROOT)
        return Graph([root, *nodes.values()], edges)

    def told(self) -> dict[str, Any]:
        """What goes into the manifest."""
        fit = linear_fit([one.round for one in self.growth], [one.leaves for one in self.growth])
        return {
            "features": len(self.chosen),
            "placed": len(self.places),
            "utilisation": round(len(self.places) / len(self.chosen), 6) if self.chosen else 0.0,
            "unplaced": self.unplaced,
            "modules": [one.name for one in self.modules],
            "empty_modules": sorted({one.name for one in self.modules} - {place[0] for place in self.places.values()}),
            "groups": len(set(self.places.values())),
            "mode": "ontology" if self.ontology is not None else "simple: no ontology, features are the model's own",
            "ontology": self.ontology.counts() if self.ontology is not None else None,
            "retrieval": self.index.how if self.index is not None else None,
            "dropped": {name: count for name, count in sorted(self.counts.items()) if count},
            "refused": dict(sorted(self.asker.refused.items())),
            "growth": [msgspec.to_builtins(one) for one in self.growth],
            "growth_fit": fit._asdict() if fit is not None else None,
            "answered_by": label(self.asker.models),
            "tokens": self.asker.tokens,
        }


def _feature(id_: str, path: Path_, by: str) -> Node:
    return Node(id=id_, kind="feature", name=path[-1], features=[path[-1]], doc=told_path(path), status="proposed", provenance=by)  # fmt: skip


def _unused(above: str, path: Path_, nodes: Mapping[str, Node]) -> str:
    """An id for a feature below `above` that no node has: its name, else with as much of its branch as it takes."""
    name = path[-1].replace("/", SLASH)
    found = f"{above}/{name}"
    for depth in range(2, len(path) + 1):
        if found not in nodes:
            return found
        found = f"{above}/{name} ({told_path(path[-depth:-1]).replace('/', SLASH)})"
    number = 2
    while found in nodes:  # two paths that differ in how a slash is written alone
        found, number = f"{above}/{name} ({number})", number + 1
    return found


def _places_of(
    proposal: Proposal, remaining: frozenset[str], known: Mapping[str, str]
) -> Callable[[dict[str, Any]], dict[str, Place]]:
    return lambda value: proposal.placed(value, remaining, known)


def overview(spec: Spec) -> str:
    """The system message, the same in all of stage A."""
    parts = [_RULES, f"The package: {spec.name}", f"Its purpose: {spec.purpose}"]
    if spec.scope:
        parts.append(f"Its scope: {spec.scope}")
    if spec.requirements:
        parts += ["It is required:", *(f"* {one}" for one in spec.requirements)]
    return "\n".join(parts) + "\n"


def listed(paths: Iterable[str]) -> str:
    return "\n".join(f"- {one}" for one in paths)


def name_of(value: Any) -> str:
    """A name on one line; '' for what is none."""
    if not isinstance(value, str):
        return ""
    found = " ".join(value.split())
    return found if len(found) <= LONGEST and found.isprintable() else ""


def place_of(value: Any) -> Place | None:
    """module/category/group of a text; None for another depth."""
    parts = [name_of(part) for part in value.split("/")] if isinstance(value, str) else []
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and all(parts) else None


def modules_checked(value: dict[str, Any]) -> list[Module]:
    """Raises ValueError saying what is wrong with the plan."""
    given = value.get("modules")
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_MODULES:
        raise ValueError(f'expected {{"modules": [...]}} with three to {MOST_MODULES} modules')
    found: dict[str, Module] = {}
    for one in given:
        name = name_of(one.get("name")).replace("/", SLASH) if isinstance(one, dict) else ""
        if not name:
            raise ValueError("each module is an object with name, purpose and size")
        if name.casefold() in found:
            raise ValueError(f"two modules are called {name!r}")
        size, purpose = one.get("size"), one.get("purpose")
        if not isinstance(purpose, str) or not purpose.strip():
            raise ValueError(f"module {name!r}: expected its purpose in a sentence")
        expected = int(size) if type(size) in (int, float) and 0 <= size < 1e6 else 0
        found[name.casefold()] = Module(name, one_line(" ".join(purpose.split()))[:500], expected)
    return list(found.values())


def _batches(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def _cut(lines: Sequence[str]) -> str:
    """The lines, as many as a prompt has room for."""
    used = 0
    for at, line in enumerate(lines):
        used += len(line) + 1
        if used > MOST_SHOWN:
            return "\n".join([*lines[:at], f"* and {len(lines) - at:,} more lines"])
    return "\n".join(lines)


class Fit(NamedTuple):
    """leaves ≈ slope × round + intercept by least squares; r2: share of their variance that the line explains."""

    slope: float
    intercept: float
    r2: float


def linear_fit(rounds: Sequence[float], leaves: Sequence[float]) -> Fit | None:
    """None for fewer than three rounds, or a count that does not change."""
    x, y = np.asarray(rounds, float), np.asarray(leaves, float)
    if len(x) < 3 or np.ptp(y) == 0:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    rest = dy - slope * dx
    return Fit(round(slope, 6), round(float(y.mean() - slope * x.mean()), 6), round(1 - float(rest @ rest / (dy @ dy)), 6))  # fmt: skip
