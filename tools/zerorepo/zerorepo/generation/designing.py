"""A design under way: the questions of stage B in their order, and what is known from the answers.

implementation.py starts it, blueprint.py makes files and a graph of it. What an answer must be is judged in layout.py,
flow.py, interfaces.py and importable.py; wording.py says the prompts. Files of areas that do not depend on each other are
asked about at the same time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tenfold_shared import TenfoldError
from zerorepo.generation import wording
from zerorepo.generation.asking import TRIES, Ask, Asker, again
from zerorepo.generation.flow import (
    Cyclic,
    Flow,
    area_order,
    broken,
    first_mentions,
    flow_checked,
    order_checked,
    upstream,
)
from zerorepo.generation.folder import Record
from zerorepo.generation.importable import Project, accept
from zerorepo.generation.interfaces import Item, Source, batches_checked, bind, parsed
from zerorepo.generation.layout import (
    MOST_NAMED,
    Files,
    Folders,
    Proposal,
    folders_checked,
    packages_of,
    short,
    top_of,
)
from zerorepo.lift import MARK

ROUNDS = 3  # of TRIES each, for folders and data flow, without which there is no design
MOST_BASES = 10
ROLES = ("folders", "files", "flow", "bases", "order", "interfaces", "tasks")


Fault = Callable[[Mapping[str, bytes], str], str]  # stripping.import_fault, or what takes the same


class Settings(msgspec.Struct, frozen=True):
    """break_cycles: drop what closes a circle, and record it, instead of refusing. file_steps, interface_steps: rounds
    in which the features of an area are given files, those of a file interfaces (paper: 20 and 30)."""

    break_cycles: bool = False
    file_steps: int = 20
    interface_steps: int = 30


class Refused(TenfoldError):
    """There is no design that could be written: folders or data flow without a usable answer, or a circle. Exit 1."""


class Report(msgspec.Struct):
    """What came of it. uncovered: leaf features without an interface, by id; refused: role and subject to what was wrong
    with the last answer; fabricated: role to how many names were dropped that nobody offered, or offered once and used
    twice; dropped: edges left out to break a circle; crowded: folders with more files than the paper would put in one;
    stopped: why the design is not complete, '' where it is."""

    features: int
    covered: int = 0
    uncovered: list[str] = []
    refused: dict[str, str] = {}
    fabricated: dict[str, int] = {}
    dropped: list[dict[str, str]] = []
    crowded: list[str] = []
    bases: dict[str, list[str]] = {}
    stopped: str = ""


class Design:
    """A design under way: what is asked, and what is known from the answers so far. `run` may end at any question with
    OverBudget; what is known then is a design too, of less. fault: what an import of a file of stubs fails with, by
    trying; None to trust what importable.py can tell without."""

    def __init__(
        self, proposal: Proposal, asker: Asker, settings: Settings, fault: Fault | None = None
    ) -> None:  # fmt: skip
        self.proposal, self.asker, self.settings, self.fault = proposal, asker, settings, fault
        self.system = wording.overview(proposal)
        self.names = proposal.names
        self.report = Report(features=sum(map(len, proposal.leaves.values())))
        self.fabricated: Counter[str] = Counter()
        self.folders = Folders({}, [], [])
        self.files = Files({})
        self.edges: list[Flow] = []
        self.areas: list[str] = []  # in order
        self.order: dict[str, list[str]] = {}  # area to its files in order
        self.bases: list[Source] = []
        self.sources: dict[str, Source] = {}
        self.failed: set[str] = set()  # leaves given up

    def run(self, step: Callable[[int], None]) -> None:
        self._folders()
        self._files()
        self._flow()
        self._bases()
        self._file_order()
        self._interfaces(step)
        self._tasks()

    # ------------------------------------------------------------ asking

    def _ask(self, role: str, subject: str, user: str) -> Ask:
        return Ask(role, subject, self.system, user)

    def _insist(self, role: str, user: str, check: Callable[[Record], Any]) -> Any:
        """As Asker.checked, in ROUNDS rounds; the subject is the role. Raises Refused at the end, Cyclic's words in it."""
        ask = self._ask(role, role, user)
        for sample in range(ROUNDS):
            found = self.asker.checked(ask._replace(sample=sample), check, (role,))
            why = self.asker.refused.pop(f"{role} {role}", "")
            if found is not None:
                return found
            ask = again(self._ask(role, role, user), why, 0)
        raise Refused(f"{role}: no usable answer in {ROUNDS * TRIES} tries: {why}")

    def _drop(self, role: str, names: Sequence[str]) -> None:
        if names:
            self.fabricated[role] += len(names)

    # ------------------------------------------------------------ steps 1 to 4, and 6

    def _folders(self) -> None:
        areas = self.proposal.areas
        self.folders = self._insist("folders", wording.folders(areas), lambda value: folders_checked(value, areas))
        self._drop("folders", self.folders.fabricated)
        self.files = Files(self.folders.of)

    def _files(self) -> None:
        open_ = {area: list(leaves) for area, leaves in self.proposal.leaves.items()}
        active = list(open_)
        wrong: dict[str, list[str]] = {}
        for _ in range(self.settings.file_steps):
            items: list[Any] = [
                (self._files_ask(area, open_[area], wrong.get(area, ())), self._files_check(area, open_), ("files",))
                for area in active
            ]
            for area, placed in zip(active, self.asker.checked_all(items), strict=True):
                if placed is not None:
                    self._drop("files", placed.fabricated)
                    wrong[area] = placed.wrong
                    open_[area] = [leaf for leaf in open_[area] if leaf not in placed.files]
            active = [area for area in active if open_[area] and f"files {MARK}{area}" not in self.asker.refused]
            if not active:
                break
        self.failed |= {leaf for leaves in open_.values() for leaf in leaves}

    def _files_ask(self, area: str, leaves: Sequence[str], wrong: Sequence[str]) -> Ask:
        folder = self.folders.of[area]
        planned = [path for path in self.folders.planned if path.startswith(folder + "/" if folder else "")]
        names = [leaf[len(area) + 1 :] for leaf in leaves]
        taken, count = self.files.in_area(area), len(self.proposal.leaves[area])
        return self._ask("files", MARK + area, wording.files(area, folder, names, taken, planned, count, wrong))

    def _files_check(self, area: str, open_: Mapping[str, list[str]]) -> Callable[[Record], Any]:
        return lambda value: self.files.take(area, set(open_[area]), value)

    def _flow(self) -> None:
        areas = self.proposal.areas
        if len(areas) > 1:
            circular: list[list[Flow]] = []

            def check(value: Record) -> tuple[list[Flow], list[str]]:
                try:
                    return flow_checked(value, areas)
                except Cyclic as error:
                    circular.append(error.edges)
                    raise

            try:
                self.edges, fabricated = self._insist("flow", wording.flow(areas), check)
                self._drop("flow", fabricated)
            except Refused as error:
                if not circular:
                    raise
                if not self.settings.break_cycles:
                    raise Refused(f"{error}; --break-cycles drops what closes the circle") from None
                self.edges, dropped = broken(circular[-1])
                self.report.dropped += [{"type": "data_flow", "src": MARK + one.source, "dst": MARK + one.target, "data_id": one.data_id} for one in dropped]  # fmt: skip
        self.areas = area_order(areas, self._pairs)

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        return [(edge.source, edge.target) for edge in self.edges]

    def _file_order(self) -> None:
        held: dict[str, dict[str, list[str]]] = {}
        for area in self.areas:
            held[area] = {path: [] for path in self.files.in_area(area)}
            for leaf in self.proposal.leaves[area]:
                if leaf in self.files.of:
                    held[area][self.files.of[leaf]].append(self.names[leaf])
            self.order[area] = list(held[area])
        several = [area for area in self.areas if len(held[area]) > 1]
        circular: dict[str, list[str]] = {}

        def checking(area: str) -> Callable[[Record], Any]:
            def check(value: Record) -> tuple[list[str], list[str]]:
                circular.pop(area, None)
                try:
                    return order_checked(value, held[area])
                except Cyclic as error:
                    circular[area] = error.edges
                    raise

            return check

        items = [
            (self._ask("order", MARK + area, wording.order(area, held[area])), checking(area), ("order",))
            for area in several
        ]
        for area, found in zip(several, self.asker.checked_all(items), strict=True):
            if found is not None:
                self.order[area] = found[0]
                self._drop("order", found[1])
            elif area in circular:
                why = self.asker.refused.pop(f"order {MARK}{area}")
                if not self.settings.break_cycles:
                    raise Refused(f"order of {area}: {why}; --break-cycles drops what closes the circle")
                self.order[area], dropped = first_mentions(circular[area])
                self.report.dropped += [{"type": "order", "src": one, "dst": other} for one, other in dropped]

    # ------------------------------------------------------------ step 5

    def _bases(self) -> None:
        areas = self.areas
        if len(areas) < 2 or not self.files.owner:
            return
        paths = sorted(self.files.owner)
        user = wording.bases(areas, self.edges, paths, {top_of(path) for path in paths if "/" in path} or {"shared"})
        found = self.asker.checked(self._ask("bases", "bases", user), self._bases_checked, ("bases",))
        if found is None:
            return
        for source, _, unknown in found:
            self._drop("bases", unknown)
            self.bases.append(source)
            self.sources[source.path] = source
            self.files.paths.add(source.path)

    def _bases_checked(self, value: Record) -> list[tuple[Source, list[str], list[str]]]:
        """Raises ValueError that names everything that is wrong: all are right, or none is taken."""
        told = value.get("bases")
        if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
            raise ValueError('expected {"bases": [{"file_path", "code", "used_by"}, ...]}')
        if len(told) > MOST_BASES:
            raise ValueError(f"{len(told)} shared files; usually there are one to three, at most {MOST_BASES}")
        found: list[tuple[Source, list[str], list[str]]] = []
        wrong: list[str] = []
        done: dict[str, Source] = {}
        tops = {top_of(path) for path in self.files.owner}
        for at, one in enumerate(told):
            path, used = one.get("file_path"), one.get("used_by")
            users = list(dict.fromkeys(area for area in used if area in self.areas)) if _texts(used) else []
            unknown = [area for area in used if area not in self.areas] if _texts(used) else []
            trouble = self.files.paths.problem(path)
            if not trouble and (path in self.files.owner or path in done):
                trouble = f"{short(path)}: is a file already"
            if not trouble and ("/" not in path or top_of(path) not in tops):
                trouble = f"{short(path)}: expected a file inside {' or '.join(sorted(tops))}"
            if not trouble and len(users) < 2:
                trouble = f"{short(path)}: used_by names {len(users)} areas; what is shared is used by at least two"
            if trouble:
                wrong.append(f"base {at}: {trouble}")
                continue
            source = Source(path, "", f"Shared by {', '.join(users)}.")
            planned = {*self.files.owner, *done, path}
            project = Project(
                planned | set(packages_of(planned)),
                done,
                {path: list(done), **dict.fromkeys(self.files.owner, (path,))},
            )
            try:
                _, more = accept(source, [parsed(one.get("code"), [])], project)
            except ValueError as error:
                more = [str(error)]
            if not more and self.fault is not None:
                files = {other.path: other.render().encode() for other in (*done.values(), source)}
                fault = self.fault({**dict.fromkeys(packages_of(files), b""), **files}, path)
                more = [f"cannot be imported: {fault}"] if fault else []
            if more:
                wrong += [f"base {at}: {why}" for why in more]
                continue
            done[path] = source
            found.append((source, users, unknown))
        folded = [path.casefold() for path in done]
        if len(set(folded)) < len(folded):
            wrong.append("two paths differ in case alone")
        if wrong:
            raise ValueError("; ".join(wrong[:MOST_NAMED]))
        return found

    # ------------------------------------------------------------ steps 7 and 8

    @property
    def _plan(self) -> list[str]:
        return [path for area in self.areas for path in self.order.get(area, ())]

    def _before(self) -> dict[str, list[str]]:
        """File to the files it may import: shared ones, those of areas its data comes from, and its area's earlier ones."""
        shared = [source.path for source in self.bases]
        found = {path: shared[:at] for at, path in enumerate(shared)}
        above = upstream(self.areas, self._pairs)
        for area in self.areas:
            mine = [*shared, *(path for other in self.areas if other in above[area] for path in self.order[other])]
            for path in self.order[area]:
                found[path] = list(mine)
                mine.append(path)
        return found

    def _interfaces(self, step: Callable[[int], None]) -> None:
        plan, before = self._plan, self._before()
        planned = {*plan, *(source.path for source in self.bases)}
        project = Project(planned | set(packages_of(planned)), self.sources, before)
        open_: dict[str, list[str]] = {path: [] for path in plan}
        for area in self.areas:
            for leaf in self.proposal.leaves[area]:
                if leaf in self.files.of:
                    open_[self.files.of[leaf]].append(leaf)
        for path in plan:
            phrases = "; ".join(self.names[leaf] for leaf in open_[path])
            self.sources[path] = Source(path, self.files.owner[path], f"{self.files.owner[path]}: {phrases}.")
        wrong: dict[str, list[str]] = {}
        steps: Counter[str] = Counter()
        finished = {source.path for source in self.bases}
        while len(finished) < len(planned):
            ready = [path for path in plan if path not in finished and finished.issuperset(before[path])]
            items: list[Any] = []
            for path in ready:
                user = self._interface_prompt(path, plan, before[path], open_[path], wrong.get(path, []))
                items.append(
                    (self._ask("interfaces", path, user), self._interface_check(path, open_, project), ("interfaces",))
                )
            for path, found in zip(ready, self.asker.checked_all(items), strict=True):
                steps[path] += 1
                if found is not None:
                    good, wrong[path], dropped = found
                    self._drop("interfaces", dropped)
                    covered = {leaf for item in good for leaf in item.features}
                    for item in good:
                        self.sources[path].units |= bind(item, self.names)
                    open_[path] = [leaf for leaf in open_[path] if leaf not in covered]
                    step(len(covered))
                if not open_[path]:
                    finished.add(path)
                elif found is None or steps[path] >= self.settings.interface_steps:
                    finished.add(path)
                    self.failed |= set(open_[path])

    def _interface_prompt(self, path: str, plan: Sequence[str], before: Sequence[str], leaves: Sequence[str], wrong: Sequence[str]) -> str:  # fmt: skip
        told = [(one, self.files.owner[one]) for one in plan]
        above = [self.sources[one] for one in before if one in self.files.owner]
        source = self.sources[path]
        return wording.interfaces(told, self.edges, self.bases, above, path, source.area, leaves, source, wrong)

    def _interface_check(self, path: str, open_: Mapping[str, list[str]], project: Project) -> Callable[[Record], Any]:
        def check(value: Record) -> tuple[list[Item], list[str], list[str]]:
            told = value.get("interfaces")
            if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
                raise ValueError('expected {"interfaces": [{"features": [...], "code": "..."}, ...]}')
            items: list[Item] = []
            wrong: list[str] = []
            dropped: list[str] = []
            left = dict.fromkeys(open_[path])
            for at, one in enumerate(told):
                features = one.get("features")
                if not _texts(features):
                    wrong.append(f"interface {at}: features: expected a list of features")
                    continue
                mine = [leaf for leaf in dict.fromkeys(features) if leaf in left]
                strange = [leaf for leaf in dict.fromkeys(features) if leaf not in left]
                dropped += strange + [""] * (len(features) - len(set(features)))
                if not mine:
                    wrong.append(
                        f"interface {at}: names no feature that is open in {path}: {', '.join(map(short, strange[:3]))}"
                    )
                    continue
                try:
                    items.append(parsed(one.get("code"), mine))
                except ValueError as error:
                    wrong.append(f"interface {at}: {error}")
                else:
                    for leaf in mine:
                        del left[leaf]
            before = self.sources[path].kept()
            good, more = accept(self.sources[path], items, project)
            if not good:
                raise ValueError("; ".join([*wrong, *more][:MOST_NAMED]) or "it has no interface")
            if fault := self._fault(path, project.upstream[path]):
                self.sources[path] = before
                raise ValueError(f"the file, all bodies stubs, cannot be imported: {fault}")
            return good, [*wrong, *more], dropped

        return check

    def _fault(self, path: str, upstream: Sequence[str]) -> str:
        if self.fault is None:
            return ""
        files = {one: self.sources[one].render().encode() for one in (*upstream, path)}
        return self.fault({**dict.fromkeys(packages_of(files), b""), **files}, path)

    def _tasks(self) -> None:
        several = [source for source in self.sources.values() if len(source.names) > 1]
        items: list[Any] = [
            (self._ask("tasks", source.path, wording.tasks(source)), lambda value, source=source: batches_checked(value, source), ("batches",))
            for source in several
        ]  # fmt: skip
        for source, found in zip(several, self.asker.checked_all(items), strict=True):
            if found is not None:
                source.batches = found


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
