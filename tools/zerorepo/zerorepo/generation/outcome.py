"""What a build came to: its commits, its graph, its counts.

Pure functions of a skeleton, the plan and the results, between building.py, which settles leaves, and history.py, which
writes commits. verbs.py publishes what they give.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from zerorepo.encode import encode
from zerorepo.generation import history
from zerorepo.generation.asking import Asker, label
from zerorepo.generation.building import Builder, Built
from zerorepo.generation.folder import MANIFEST, RPG
from zerorepo.generation.leaf import Result
from zerorepo.generation.order import Task
from zerorepo.generation.states import State
from zerorepo.graph import SEMANTIC, Edge, Graph, Node, one_line
from zerorepo.sources import Held
from zerorepo.tree import preorder

Record = dict[str, Any]


def commits_of(
    files: Mapping[str, bytes], graph: Graph, builder: Builder, built: Built, final: bytes
) -> Iterator[history.Commit]:  # fmt: skip
    """The skeleton, a commit a verified task in the order of the plan, the graph of what was built."""
    states = builder.states
    leaves = sum(task.is_leaf for task in built.plan.tasks)
    yield history.Commit(
        f"Skeleton: {leaves} leaves to build\n", {path: data for path, data in files.items() if path != MANIFEST}
    )
    settled: dict[str, int] = {}
    areas = 0
    for task in built.plan.tasks:
        result = built.results.get(task.id)
        if task.is_leaf:
            settled[task.path] = settled.get(task.path, 0) + 1
        else:
            areas += 1
        if result is None or result.status != "done":
            continue
        changed: dict[str, bytes] = {path: text.encode() for path, text in result.tests.items()}
        for path in {task.path} if task.is_leaf else {key.partition(":")[0] for key, _ in result.patches}:
            changed[path] = states.encoded(path, states.text(path, State(settled, areas)))
        yield history.Commit(_message(graph, task, result), changed)
    failed = [key for key in built.results if built.results[key].status == "failed"]
    more = "\n" + "".join(f"failed: {key}\n" for key in failed) if failed else ""
    yield history.Commit(f"Graph of what was built\n{more}", {RPG: final})


def _message(graph: Graph, task: Task, result: Result) -> str:
    node = graph.by_id.get(task.id)
    title = task.id if task.is_leaf else f"{task.id.partition('#')[2]}: integration test"
    told = one_line(" ".join((node.doc if node is not None else "").split()))
    test = next(iter(result.tests), "")
    about = f"{textwrap.fill(told, 72)}\n\n" if told else ""
    return f"{one_line(title)}\n\n{about}Test: {test}\nTries: {result.tries}\nAnswers: {label(result.models)}\n"


def finished(files: Mapping[str, bytes], graph: Graph, builder: Builder, built: Built) -> bytes:
    """rpg.json of the built tree: what is there, and above it what was planned, with what became of it."""
    whole, _ = builder.whole()
    whole.pop(RPG, None)
    fresh = encode(Held(whole))
    state = {}
    for task in built.plan.tasks:
        result = built.results.get(task.id)
        state[task.id] = "stubbed" if result is None else result.status
    lifted = {node.id: node for node in graph.nodes if node.provenance not in ("", "name", "doc")}  # by a model: kept
    nodes = [msgspec.structs.replace(node, status=state[node.id]) if node.id in state else node for node in fresh.nodes]
    for node in nodes:
        if node.id in lifted:
            node.features, node.provenance = lifted[node.id].features, lifted[node.id].provenance
    nodes += _became(graph, state)
    present = {node.id for node in nodes}
    root = next(node for node in nodes if node.id == ".")
    old = graph.by_id.get(".")
    if old is not None:
        root.doc = old.doc
    kept = [edge for edge in graph.edges if _planned(edge, graph) and edge.src in present and edge.dst in present]
    return Graph(nodes, [*fresh.edges, *kept]).dumps()


def _planned(edge: Edge, graph: Graph) -> bool:
    if edge.type == "contains":
        end = graph.by_id.get(edge.dst)
        return end is not None and end.kind in SEMANTIC
    return edge.type in ("data_flow", "order")


def _became(graph: Graph, state: Mapping[str, str]) -> list[Node]:
    """The planned areas down to features. A feature is what its unit's leaves are, what holds it what its features are:
    failed where one is, else stubbed where one is, else done."""
    status: dict[str, str] = {}

    def worst(found: Collection[str]) -> str:
        return next((one for one in ("failed", "stubbed") if one in found), "done")

    semantic = [node for node in preorder(graph) if node.kind in SEMANTIC]
    for node in reversed(semantic):
        unit = f"{node.path}:{node.qualname}"
        own = (
            {one for key, one in state.items() if key == unit or key.startswith(unit + ".")} if node.qualname else set()
        )
        lost = {node.status} & {"failed"}  # a feature that no interface was found for
        status[node.id] = worst(
            own | lost | {status[below.id] for below in graph.children(node.id) if below.id in status}
        )
    return [msgspec.structs.replace(node, status=status[node.id]) for node in semantic]


def counted(built: Built, asker: Asker, lost: Mapping[str, str]) -> Record:
    leaves = [task.id for task in built.plan.tasks if task.is_leaf]
    done = [key for key in leaves if key in built.results and built.results[key].status == "done"]
    failed = {key: one.why for key, one in built.results.items() if one.status == "failed"} | dict(lost)
    failed |= {key: f"no answer: {why}" for key, why in built.unanswered.items()}
    tried = Counter(built.results[key].tries for key in done)
    causes: Counter[str] = Counter()
    for one in built.results.values():
        causes.update(one.votes)
    return {
        "together": built.together, "leaves": len(leaves) + len(lost), "done": len(done), "failed": failed,
        "pending": [task.id for task in built.plan.tasks if task.id not in built.results and task.id not in built.unanswered],
        "tries": {str(n): count for n, count in sorted(tried.items())}, "causes": dict(sorted(causes.items())),
        "answered_by": label(asker.models), "spent": {role: msgspec.to_builtins(one) for role, one in sorted(asker.spent.items())},
    }  # fmt: skip
