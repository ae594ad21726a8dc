"""The plan: topological order, ready set, batches; against networkx and against all orders of small graphs."""

import itertools
import random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerorepo.generation.order import Task, batches, leaves_of, lexicographic, plan, ready
from zerorepo.generation.states import State, States
from zerorepo.graph import Edge, Graph, Node


def dag(pairs, n):
    """before: key to what comes before it; edges from lower to higher numbers."""
    return {b: {a for a, other in pairs if other == b} for b in range(n)}


@given(st.data())
@settings(max_examples=150)
def test_lexicographic_order_is_networkx_own(data):
    n = data.draw(st.integers(1, 12))
    names = data.draw(st.permutations(range(n)))
    pairs = [(names[a], names[b]) for a in range(n) for b in range(a + 1, n) if data.draw(st.booleans())]
    before = dag(pairs, n)
    graph = nx.DiGraph(pairs)
    graph.add_nodes_from(range(n))
    assert lexicographic(before, lambda key: key) == list(nx.lexicographical_topological_sort(graph))


@pytest.mark.parametrize("seed", range(20))
def test_lexicographic_order_is_the_least_of_all_orders(seed):
    draw = random.Random(seed)
    n = 6
    pairs = [(a, b) for a, b in itertools.permutations(range(n), 2) if draw.random() < 0.25 and a * 7 % n < b * 7 % n]
    before = dag(pairs, n)
    valid = [
        order for order in itertools.permutations(range(n)) if all(order.index(a) < order.index(b) for a, b in pairs)
    ]
    assert tuple(lexicographic(before, lambda key: key)) == min(valid)


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match="a circle"):
        lexicographic({"a": {"b"}, "b": {"a"}, "c": set()}, str)


def test_each_relation_is_looked_at_once():
    class Counted(set):
        seen = 0

        def __iter__(self):
            Counted.seen += len(self)
            return super().__iter__()

    for n in (200, 2000):
        Counted.seen = 0
        before = {k: Counted({k - 1, k // 2} - {k}) if k else Counted() for k in range(n)}
        assert len(lexicographic(before, lambda key: key)) == n
        assert Counted.seen <= 2 * n


# ---------------------------------------------------------------- graphs


def repository(units, calls, *, order=(), flow=(), features=(), imports=()):
    """units: {path: [names]}, stubs, in the order of the file; calls: [(leaf, leaf)]; features: {path: area}."""
    nodes = [Node(id=".", kind="repo", path=".")]
    edges = []
    for path, names in units.items():
        nodes.append(Node(id=path, kind="file", name=path, path=path, status="stubbed"))
        edges.append(Edge(src=".", dst=path, type="contains"))
        for at, name in enumerate(names):
            nodes.append(
                Node(
                    id=f"{path}:{name}",
                    kind="function",
                    name=name,
                    path=path,
                    qualname=name,
                    span=[at + 1, at + 1],
                    status="stubbed",
                )
            )
            edges.append(Edge(src=path, dst=f"{path}:{name}", type="contains"))
    for area in sorted({area for _, area in features}):
        nodes.append(Node(id=f"#{area}", kind="area", name=area))
        edges.append(Edge(src=".", dst=f"#{area}", type="contains"))
    for path, area in features:
        nodes.append(Node(id=f"#{area}/{path}", kind="feature", name=path, path=path, qualname=units[path][0]))
        edges.append(Edge(src=f"#{area}", dst=f"#{area}/{path}", type="contains"))
    edges += [Edge(src=a, dst=b, type="invokes") for a, b in calls]
    edges += [Edge(src=a, dst=b, type="order") for a, b in order]
    edges += [Edge(src=a, dst=b, type="imports") for a, b in imports]
    edges += [Edge(src=f"#{a}", dst=f"#{b}", type="data_flow") for a, b in flow]
    return Graph(nodes, edges)


def ids(found):
    return [task.id for task in found.tasks if task.is_leaf]


def test_a_leaf_comes_after_what_it_calls():
    graph = repository(
        {"a.py": ["one", "two"], "b.py": ["three"]}, [("a.py:one", "b.py:three"), ("b.py:three", "a.py:two")]
    )
    found = plan(graph)
    assert ids(found) == ["a.py:two", "b.py:three", "a.py:one"]
    assert found.tasks[2].needs == ("a.py:two", "b.py:three")  # the call, and the leaf before it in its file
    assert found.cycles == []


def test_names_of_files_are_no_marks_of_ours():
    graph = repository({"begin a.py": ["f"], "end game.py": ["g"]}, [("begin a.py:f", "end game.py:g")])
    assert ids(plan(graph)) == ["end game.py:g", "begin a.py:f"]


def test_what_a_file_waits_for_its_first_leaf_alone_names():
    units = {f"{n:02}.py": ["f", "g", "h"] for n in range(40)}
    features = [(path, "early" if path < "20.py" else "late") for path in units]
    found = plan(repository(units, [], flow=[("early", "late")], features=features))
    leaves = [task for task in found.tasks if task.is_leaf]
    assert sum(len(task.needs) for task in leaves) == 80 + 20 * 20
    files = dict.fromkeys(units, b"def f():\n    pass\n")
    states = States(files, found, {})
    assert dict(states.before(leaves[-1]).chains) == {**{f"{n:02}.py": 3 for n in range(20)}, "39.py": 2}


def test_a_call_by_name_only_binds_nothing():
    graph = repository({"a.py": ["one"], "b.py": ["two"]}, [])
    graph.edges.append(Edge(src="a.py:one", dst="b.py:two", type="invokes", confidence="name_only"))
    assert ids(plan(graph)) == ["a.py:one", "b.py:two"]


def test_leaves_that_call_each_other_are_named_and_built():
    graph = repository(
        {"a.py": ["f"], "b.py": ["g", "h"]}, [("a.py:f", "b.py:g"), ("b.py:g", "a.py:f"), ("b.py:h", "b.py:h")]
    )
    found = plan(graph)
    assert ids(found) == ["a.py:f", "b.py:g", "b.py:h"]
    assert found.cycles == [["a.py:f", "b.py:g"]]


def test_data_flow_and_file_order_come_first():
    units = {"a.py": ["f"], "b.py": ["g"], "c.py": ["h"]}
    features = [("a.py", "late"), ("b.py", "early"), ("c.py", "early")]
    found = plan(repository(units, [], flow=[("early", "late")], order=[("c.py", "b.py")], features=features))
    assert ids(found) == ["c.py:h", "b.py:g", "a.py:f"]
    assert found.tasks[2].needs == ("c.py:h", "b.py:g")
    assert [task.id for task in found.tasks if not task.is_leaf] == ["integration:#early", "integration:#late"]
    assert not found.relaxed


def test_a_plan_that_calls_contradict_gives_way_and_says_so():
    units = {"a.py": ["f"], "b.py": ["g"]}
    found = plan(repository(units, [("b.py:g", "a.py:f")], order=[("b.py", "a.py")]))
    assert ids(found) == ["a.py:f", "b.py:g"]
    assert found.relaxed


def test_only_stubs_that_stand_in_no_function_are_leaves():
    graph = repository({"a.py": ["f"]}, [])
    graph.nodes += [
        Node(id="a.py:f.inner", kind="function", path="a.py", qualname="f.inner", status="stubbed"),
        Node(id="a.py:C", kind="class", path="a.py", qualname="C", status="stubbed"),
        Node(id="a.py:C.m", kind="method", path="a.py", qualname="C.m", status="stubbed", span=[9, 9]),
        Node(id="a.py:C.n", kind="method", path="a.py", qualname="C.n", status="done", span=[11, 11]),
    ]
    graph.edges += [
        Edge(src="a.py:f", dst="a.py:f.inner", type="contains"),
        Edge(src="a.py", dst="a.py:C", type="contains"),
        Edge(src="a.py:C", dst="a.py:C.m", type="contains"),
        Edge(src="a.py:C", dst="a.py:C.n", type="contains"),
    ]
    assert [node.id for node in leaves_of(graph)] == ["a.py:f", "a.py:C.m"]


def test_a_call_of_a_class_waits_for_its_constructor_and_a_subclass_for_its_base():
    nodes = [Node(id=".", kind="repo", path=".")]
    edges = []
    for path in ("a.py", "b.py"):
        nodes.append(Node(id=path, kind="file", path=path))
        edges.append(Edge(src=".", dst=path, type="contains"))
    for path, name, method in (("a.py", "Z", "run"), ("b.py", "B", "__init__")):
        nodes += [
            Node(id=f"{path}:{name}", kind="class", path=path, qualname=name, status="stubbed", span=[1, 3]),
            Node(id=f"{path}:{name}.{method}", kind="method", path=path, qualname=f"{name}.{method}", status="stubbed", span=[2, 2]),
        ]  # fmt: skip
        edges += [
            Edge(src=path, dst=f"{path}:{name}", type="contains"),
            Edge(src=f"{path}:{name}", dst=f"{path}:{name}.{method}", type="contains"),
        ]
    made = Graph(nodes, [*edges, Edge(src="a.py:Z.run", dst="b.py:B", type="invokes")])
    assert ids(plan(made)) == ["b.py:B.__init__", "a.py:Z.run"]
    derived = Graph(nodes, [*edges, Edge(src="a.py:Z", dst="b.py:B", type="inherits")])
    assert ids(plan(derived)) == ["b.py:B.__init__", "a.py:Z.run"]


def test_a_file_of_many_leaves_is_made_from_any_state():
    n = 1200
    found = plan(repository({"a.py": [f"f{k}" for k in range(n)]}, []))
    text = "".join(f"def f{k}():\n    raise NotImplementedError\n" for k in range(n))
    assert States({"a.py": text.encode()}, found, {}).text("a.py", State({"a.py": n})) == text


# ---------------------------------------------------------------- laws


@st.composite
def repositories(draw):
    files = [f"{name}.py" for name in "abcd"[: draw(st.integers(1, 4))]]
    units = {path: [f"f{n}" for n in range(draw(st.integers(1, 4)))] for path in files}
    leaves = [f"{path}:{name}" for path, names in units.items() for name in names]
    pair = st.tuples(st.sampled_from(leaves), st.sampled_from(leaves))
    calls = draw(st.lists(pair, max_size=10))
    shuffled = draw(st.permutations(files))
    order = list(itertools.pairwise(shuffled))[: draw(st.integers(0, 3))]
    features = [(path, draw(st.sampled_from(["x", "y"]))) for path in files]
    imports = draw(st.lists(st.tuples(st.sampled_from(files), st.sampled_from(files)), max_size=4))
    return repository(
        units, calls, order=order, flow=draw(st.sampled_from([[], [("x", "y")]])), features=features, imports=imports
    )


@given(repositories())
@settings(max_examples=200)
def test_every_leaf_once_and_every_need_before(graph):
    found = plan(graph)
    assert sorted(ids(found)) == sorted(node.id for node in leaves_of(graph))
    at = {task.id: n for n, task in enumerate(found.tasks)}
    assert all(at[need] < at[task.id] for task in found.tasks for need in task.needs)
    circles = [set(circle) for circle in found.cycles]
    for edge in graph.edges:
        if edge.type == "invokes" and edge.src != edge.dst and not any({edge.src, edge.dst} <= one for one in circles):
            assert at[edge.dst] < at[edge.src]


@given(repositories())
def test_circles_are_networkx_components(graph):
    calls = nx.DiGraph(
        [(edge.src, edge.dst) for edge in graph.edges if edge.type == "invokes" and edge.src != edge.dst]
    )
    expected = sorted(sorted(one) for one in nx.strongly_connected_components(calls) if len(one) > 1)
    assert sorted(sorted(one) for one in plan(graph).cycles) == expected


@given(repositories())
def test_leaves_of_a_file_follow_each_other(graph):
    last = {}
    for task in plan(graph).tasks:
        if task.is_leaf:
            assert task.path not in last or last[task.path] in task.needs
            last[task.path] = task.id


@given(repositories(), st.randoms())
def test_any_order_of_finishing_settles_everything_and_never_starts_too_early(graph, draw):
    tasks = plan(graph).tasks
    settled, running = set(), set()
    while len(settled) < len(tasks):
        for task in ready(tasks, settled, running):
            assert set(task.needs) <= settled
            running.add(task.id)
        one = draw.choice(sorted(running))
        running.remove(one)
        settled.add(one)


@given(repositories())
def test_batches_are_the_rounds_of_the_ready_set(graph):
    tasks = plan(graph).tasks
    settled: set[str] = set()
    for batch in batches(tasks):
        assert batch == ready(tasks, settled)
        settled |= {task.id for task in batch}
    assert settled == {task.id for task in tasks}


def test_ready_is_a_function_of_its_arguments():
    tasks = [Task("a", "a", "a", ()), Task("b", "b", "b", ("a",)), Task("c", "c", "c", ())]
    assert [one.id for one in ready(tasks, set())] == ["a", "c"]
    assert [one.id for one in ready(tasks, {"a"}, {"c"})] == ["b"]
    assert ready(tasks, {"a", "b", "c"}) == []
