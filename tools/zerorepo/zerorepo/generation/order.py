"""In what order are the leaves of a plan built, and which can be built now?

Two pure functions of a graph: `plan` gives every leaf its place and what must be settled before it, `ready` the leaves
whose prerequisites are settled. Building (building.py), `zerorepo plan` and any scheduler beyond one machine use
these and nothing else.

Before a leaf come the leaves it calls or inherits from, all of the files that its file imports and, where the plan says
so, of the areas its data comes from and of the files before its own (arXiv 2509.16198 §2.3: data flow, file order and dependencies admit one topological
order). Leaves of one file follow each other, so that two never edit it at once.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from zerorepo.graph import Graph, Node
from zerorepo.validate import components

Key = TypeVar("Key", bound=Hashable)
INTEGRATION = "integration:"


class Task(NamedTuple):
    """A leaf, or the integration test of an area (id `integration:#area`). needs: ids that are settled before."""

    id: str
    path: str
    qualname: str
    needs: tuple[str, ...]

    @property
    def is_leaf(self) -> bool:
        return not self.id.startswith(INTEGRATION)


class Plan(NamedTuple):
    """tasks: in topological order. cycles: leaves that call each other in a circle; among them the place in the file
    decides. relaxed: calls contradict the plan's order of files, which was left out of account."""

    tasks: list[Task]
    cycles: list[list[str]]
    relaxed: bool = False


def leaves_of(graph: Graph) -> list[Node]:
    """Stubbed functions and methods that stand in no other function, by file and line."""
    found = [
        node
        for node in graph.nodes
        if node.kind in ("function", "method") and node.status in ("stubbed", "designed", "failed") and not _inner(graph, node)
    ]  # fmt: skip
    return sorted(found, key=lambda node: (node.path, node.span, node.id))


def _inner(graph: Graph, node: Node) -> bool:
    above = graph.parent(node.id)
    while above is not None and above.kind in ("class", "function", "method"):
        if above.kind != "class":
            return True
        above = graph.parent(above.id)
    return False


def plan(graph: Graph) -> Plan:
    """Every leaf once, prerequisites first; of several orders the one by file and line. Linear but for the heap."""
    leaves = leaves_of(graph)
    by_file: dict[str, list[str]] = defaultdict(list)
    for node in leaves:
        by_file[node.path].append(node.id)
    rank = {path: at for at, path in enumerate(_file_order(graph, by_file))}
    place = {node.id: (rank[node.path], at) for at, node in enumerate(leaves)}
    calls = _calls(graph, {node.id for node in leaves})
    planned, imported = _planned_before(graph, by_file), _imported_before(graph, by_file)
    before, cycles, relaxed = _agreeing(calls, planned, imported, by_file)
    gates = {path: {other[4:] for other in before[f"begin {path}"]} for path in by_file}
    order = [key for key in lexicographic(before, lambda key: _priority(key, place, rank)) if key in place]
    at = {key: n for n, key in enumerate(order)}
    last: dict[str, str] = {}
    tasks = []
    final = {path: max(ids, key=at.__getitem__) for path, ids in by_file.items()}
    node_of = graph.by_id
    for key in order:
        node = node_of[key]
        needs = {other for other in calls.get(key, ()) if at[other] < at[key]}
        if node.path in last:
            needs.add(last[node.path])
        else:  # the leaves after it in the file come after these by it
            needs |= {final[path] for path in gates[node.path]}
        last[node.path] = key
        tasks.append(Task(key, node.path, node.qualname, tuple(sorted(needs, key=at.__getitem__))))
    return Plan(tasks + _integrations(graph, by_file, at), cycles, relaxed)


def ready(tasks: Sequence[Task], settled: Collection[str], started: Collection[str] = ()) -> list[Task]:
    """The tasks, neither settled nor started, whose needs are all settled; in the order of the plan."""
    return [
        task
        for task in tasks
        if task.id not in settled and task.id not in started and all(need in settled for need in task.needs)
    ]


def batches(tasks: Sequence[Task]) -> list[list[Task]]:
    """Rounds of tasks that can be built together, were every task of a round to take as long as the others."""
    depth: dict[str, int] = {}
    found: list[list[Task]] = []
    for task in tasks:
        level = 1 + max((depth[need] for need in task.needs), default=-1)
        depth[task.id] = level
        if level == len(found):
            found.append([])
        found[level].append(task)
    return found


def lexicographic(before: Mapping[Key, Collection[Key]], priority: Any) -> list[Key]:
    """Topological order by Kahn; of the free ones the least by `priority` first. before: key to what comes before it.

    Raises ValueError where there is a circle.
    """
    after: dict[Key, list[Key]] = defaultdict(list)
    missing = dict.fromkeys(before, 0)
    for key, others in before.items():
        for other in others:
            after[other].append(key)
            missing[key] += 1
    heap = [(priority(key), n, key) for n, key in enumerate(before) if not missing[key]]
    number = {key: n for n, key in enumerate(before)}
    heapq.heapify(heap)
    found = []
    while heap:
        _, _, key = heapq.heappop(heap)
        found.append(key)
        for other in after[key]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(heap, (priority(other), number[other], other))
    if len(found) < len(before):
        raise ValueError(f"a circle among {sorted(map(str, missing.keys() - set(found)))[:5]}")
    return found


# ------------------------------------------------------------ what comes before what


def _calls(graph: Graph, leaves: set[str]) -> dict[str, set[str]]:
    """Leaf to the leaves it calls or inherits from. A call of a class is one of its constructor."""
    members: dict[str, list[str]] = defaultdict(list)
    for key in leaves:
        path, _, qualname = key.partition(":")
        if "." in qualname:
            members[f"{path}:{qualname.rpartition('.')[0]}"].append(key)

    def targets(key: str) -> Iterable[str]:
        if key in leaves:
            return (key,)
        made = ("__init__", "__new__", "__post_init__")
        return [one for one in members.get(key, ()) if one.rpartition(".")[2] in made]

    found: dict[str, set[str]] = defaultdict(set)
    for edge in graph.edges:
        if edge.confidence == "name_only":
            continue
        if edge.type == "invokes":
            source = _outermost(edge.src, leaves)
            if source is not None:
                found[source].update(targets(edge.dst))
        elif edge.type == "inherits":
            for member in members.get(edge.src, ()):
                found[member].update(members.get(edge.dst, ()))
    for key, others in found.items():
        others.discard(key)
    return found


def _outermost(key: str, leaves: set[str]) -> str | None:
    """The leaf a unit is or stands in."""
    while key not in leaves:
        head, dot, _ = key.rpartition(".")
        if not dot or ":" not in head:
            return None
        key = head
    return key


def _planned_before(graph: Graph, by_file: Mapping[str, list[str]]) -> dict[str, set[str]]:
    """File to the files that the plan puts before it: by order edges, and by data flow between areas."""
    areas: dict[str, set[str]] = defaultdict(set)  # area to its files with leaves
    for path, names in areas_of(graph).items():
        for area in names if path in by_file else ():
            areas[area].add(path)
    found: dict[str, set[str]] = defaultdict(set)
    for edge in graph.edges:
        if edge.type == "order" and edge.src in by_file and edge.dst in by_file:
            found[edge.dst].add(edge.src)
        elif edge.type == "data_flow":
            for path in areas.get(edge.dst, ()):
                found[path] |= areas.get(edge.src, set()) - {path}
    return found


def _imported_before(graph: Graph, by_file: Mapping[str, list[str]]) -> dict[str, set[str]]:
    """File to the files with leaves that it imports when it is imported."""
    found: dict[str, set[str]] = defaultdict(set)
    for edge in graph.edges:
        if edge.type == "imports" and edge.src in by_file and edge.dst in by_file and edge.src != edge.dst:
            found[edge.src].add(edge.dst)
    return found


def areas_of(graph: Graph) -> dict[str, set[str]]:
    """File to the areas whose features it holds."""
    found: dict[str, set[str]] = defaultdict(set)
    for area in (node for node in graph.nodes if node.kind == "area"):
        stack = [area.id]
        while stack:
            for below in graph.children(stack.pop()):
                stack.append(below.id)
                if below.kind == "feature" and below.path:
                    found[below.path].add(area.id)
    return found


def _agreeing(
    calls: Mapping[str, set[str]], planned: Mapping[str, set[str]], imported: Mapping[str, set[str]],
    by_file: Mapping[str, list[str]],
) -> tuple[dict[str, set[str]], list[list[str]], bool]:  # fmt: skip
    """One relation `comes before` over leaves and the begins and ends of files, without circles; the circles of calls that
    were left out; and whether what the plan says of files had to give way to calls.

    In a circle imports give way first, then the plan's order, then calls.
    """
    before: dict[str, set[str]] = {}
    for path, ids in by_file.items():
        before[f"begin {path}"] = {f"end {other}" for other in planned.get(path, set()) | imported.get(path, set())}
        for key in ids:
            before[key] = {f"begin {path}", *calls.get(key, ())}
        before[f"end {path}"] = set(ids)
    relaxed = False
    for weak in (imported, planned):
        inside = {key: n for n, circle in enumerate(_circles(before)) for key in circle}
        for path in by_file:
            begin = f"begin {path}"
            for other in weak.get(path, ()):
                stronger = weak is imported and other in planned.get(path, ())
                if not stronger and begin in inside and inside[begin] == inside.get(f"end {other}"):
                    before[begin].discard(f"end {other}")
                    relaxed |= weak is planned
    circles = _circles(before)
    inside = {key: n for n, circle in enumerate(circles) for key in circle}
    for key, others in before.items():
        if key in inside:
            before[key] = {other for other in others if inside.get(other) != inside[key]}
    return before, circles, relaxed


def _circles(before: Mapping[str, set[str]]) -> list[list[str]]:
    keys = list(before)
    number = {key: n for n, key in enumerate(keys)}
    after: list[list[int]] = [[] for _ in keys]
    for key, others in before.items():
        for other in others:
            after[number[other]].append(number[key])
    return [[keys[n] for n in members] for members in components(len(keys), after)]


def _file_order(graph: Graph, paths: Iterable[str]) -> list[str]:
    """Files with what they import first; those that import each other in a circle by name."""
    wanted = set(paths)
    before: dict[str, set[str]] = {path: set() for path in wanted}
    for edge in graph.edges:
        if edge.type == "imports" and edge.src in wanted and edge.dst in wanted and edge.src != edge.dst:
            before[edge.src].add(edge.dst)
    circles = _circles(before)
    inside = {key: n for n, circle in enumerate(circles) for key in circle}
    for key, others in before.items():
        if key in inside:
            before[key] = {other for other in others if inside.get(other) != inside[key]}
    return lexicographic(before, lambda path: path)


def _priority(key: str, place: Mapping[str, tuple[int, int]], rank: Mapping[str, int]) -> tuple[int, int]:
    if key in place:  # first: a file may be called `end game.py`
        return place[key]
    return (rank[key[6:]], -1) if key.startswith("begin ") else (rank[key[4:]], len(place))


def _integrations(graph: Graph, by_file: Mapping[str, list[str]], at: Mapping[str, int]) -> list[Task]:
    """A task for each area, after all of its leaves; one after the other, as each may write leaves over."""
    members: dict[str, list[str]] = defaultdict(list)
    for path, areas in areas_of(graph).items():
        for area in areas:
            members[area] += by_file.get(path, [])
    found: list[Task] = []
    for area, ids in sorted(members.items(), key=lambda pair: (max((at[key] for key in pair[1]), default=0), pair[0])):
        if ids:
            before = [found[-1].id] if found else []
            found.append(Task(INTEGRATION + area, "", "", (*sorted(ids, key=at.__getitem__), *before)))
    return found
