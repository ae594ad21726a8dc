"""Order of a design: data flow, areas and files, against networkx and against all orders there are."""

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerorepo.generation.flow import (
    Cyclic,
    Flow,
    area_order,
    broken,
    circle_of,
    first_mentions,
    flow_checked,
    order_checked,
    upstream,
)

NAMES = [f"area {letter}" for letter in "qwertyuiopas"]


def pairs(most: int, acyclic: bool):
    """(names, edges) over up to `most` names."""

    @st.composite
    def drawn(draw):
        names = draw(st.permutations(NAMES))[: draw(st.integers(2, most))]
        every = [(a, b) for at, a in enumerate(names) for b in (names[at + 1 :] if acyclic else names) if a != b]
        edges = draw(st.lists(st.sampled_from(every), unique=True, max_size=25))
        return names, edges

    return drawn()


def edge(source, target, data_id="rows"):
    return {"source": source, "target": target, "data_id": data_id, "data_type": "list", "transformation": "read"}


def graph_of(names, edges):
    graph = networkx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(edges)
    return graph


@given(pairs(12, acyclic=True))
@settings(max_examples=300, deadline=None)
def test_areas_stand_as_networkx_orders_them(drawn):
    names, edges = drawn
    assert area_order(names, edges) == list(networkx.lexicographical_topological_sort(graph_of(names, edges)))


@given(pairs(7, acyclic=True))
@settings(max_examples=60, deadline=None)
def test_the_order_is_one_of_all_orders_there_are_and_the_least(drawn):
    names, edges = drawn
    orders = list(networkx.all_topological_sorts(graph_of(names, edges)))
    found = area_order(names, edges)
    assert found in orders and found == min(orders)


@given(pairs(10, acyclic=True))
@settings(max_examples=200, deadline=None)
def test_upstream_is_every_ancestor(drawn):
    names, edges = drawn
    graph = graph_of(names, edges)
    assert upstream(names, edges) == {name: networkx.ancestors(graph, name) for name in names}


@given(pairs(10, acyclic=False))
@settings(max_examples=300, deadline=None)
def test_a_circle_is_found_exactly_where_there_is_one(drawn):
    names, edges = drawn
    circle = circle_of(edges)
    assert (not circle) == networkx.is_directed_acyclic_graph(graph_of(names, edges))
    for here, after in zip(circle, circle[1:] + circle[:1], strict=True):
        assert edges[here][1] == edges[after][0]  # it closes, edge by edge
    assert len({edges[at][0] for at in circle}) == len(circle)  # and passes nowhere twice
    if not circle:
        assert area_order(names, edges)
    else:
        with pytest.raises(ValueError, match="circle"):
            area_order(names, edges)


@given(pairs(10, acyclic=False))
@settings(max_examples=300, deadline=None)
def test_what_is_dropped_would_close_a_circle_and_nothing_else_is(drawn):
    names, edges = drawn
    kept, dropped = broken([Flow(*pair, "rows", "list", "") for pair in edges])
    assert sorted(one[:2] for one in (*kept, *dropped)) == sorted(edges)
    graph = graph_of(names, [one[:2] for one in kept])
    assert networkx.is_directed_acyclic_graph(graph)
    for one in dropped:
        assert networkx.has_path(graph, one.target, one.source)
    assert {end for one in kept for end in one[:2]} == {end for pair in edges for end in pair}  # no area drops out


@given(pairs(6, acyclic=False))
@settings(max_examples=200, deadline=None)
def test_an_answer_is_taken_exactly_where_it_is_a_dag_that_uses_every_area(drawn):
    names, edges = drawn
    answer = {"flow": [edge(a, b) for a, b in edges]}
    right = networkx.is_directed_acyclic_graph(graph_of(names, edges)) and {e for p in edges for e in p} == set(names)
    if right:
        found, fabricated = flow_checked(answer, names)
        assert [one[:2] for one in found] == edges and not fabricated
    else:
        with pytest.raises(ValueError, match=r"circle|no data flows"):
            flow_checked(answer, names)


def test_a_circle_is_named_with_its_nodes_and_the_places_of_its_edges():
    answer = {"flow": [edge("a", "b"), edge("x", "a"), edge("b", "c"), edge("nowhere", "a"), edge("c", "a")]}
    with pytest.raises(Cyclic) as error:
        flow_checked(answer, ["a", "b", "c", "x"])
    assert str(error.value) == "data flows in a circle: a -> b -> c -> a, by the edges 0, 2, 4"


@pytest.mark.parametrize(
    ("flows", "told"),
    [
        ("no list", "expected"),
        ([edge("a", "b"), "text"], "edge 1: expected the strings"),
        ([edge("a", "b"), {"source": "a", "target": "b"}], "edge 1: expected the strings"),
        ([edge("a", "b", data_id=7)], "edge 0: expected the strings"),
        ([edge("a", "b", data_id=" ")], "neither may be empty"),
        ([edge("a", "b"), edge("b", "b")], "edge 1: from b to itself"),
        ([edge("a", "b"), edge("a", "b")], "edges 0 and 1: the same datum"),
        ([edge("a", "b", data_id="x" * 3000)], "more than 2,000"),
        ([edge("a", "nowhere")], "no data flows from or to a, b; .*no such area: 'nowhere'"),
        ([], "no data flows from or to a, b"),
    ],
)
def test_what_is_wrong_with_a_flow_is_said(flows, told):
    with pytest.raises(ValueError, match=told):
        flow_checked({"flow": flows}, ["a", "b"])


def test_an_edge_of_an_area_that_does_not_exist_is_dropped_and_counted():
    found, fabricated = flow_checked({"flow": [edge("a", "b"), edge("b", "moon"), edge("sun", "moon")]}, ["a", "b"])
    assert [one[:2] for one in found] == [("a", "b")] and fabricated == ["'moon'", "'sun'", "'moon'"]


@given(st.permutations(["p/a.py", "p/b.py", "p/c.py"]))
def test_a_permutation_is_an_order(order):
    assert order_checked({"order": list(order)}, {"p/a.py", "p/b.py", "p/c.py"}) == (list(order), [])


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (["a.py"], "not in the order: b.py"),
        (["a.py", 3], "expected"),
        (["a.py", "moon.py"], "not in the order: b.py; no file of this area: 'moon.py'"),
    ],
)
def test_what_is_wrong_with_an_order_is_said(order, told):
    with pytest.raises(ValueError, match=told):
        order_checked({"order": order}, {"a.py", "b.py"})


def test_a_file_that_comes_again_is_a_circle_and_can_be_cut():
    files = {"a.py", "b.py", "c.py"}
    with pytest.raises(Cyclic, match=r"a circle: a.py -> b.py -> a.py") as error:
        order_checked({"order": ["a.py", "b.py", "a.py", "c.py"]}, files)
    kept, dropped = first_mentions(error.value.edges)
    assert kept == ["a.py", "b.py", "c.py"] and dropped == [("b.py", "a.py")]
    assert order_checked({"order": ["b.py", "moon.py", "a.py", "c.py"]}, files) == (
        ["b.py", "a.py", "c.py"],
        ["'moon.py'"],
    )
