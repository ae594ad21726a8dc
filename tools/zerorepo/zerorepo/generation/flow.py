"""What comes before what in a design: data flow between areas, areas in order, files in order inside an area.

Steps 3, 4 and 6 of stage B (arXiv 2509.16198 §2.3). Pure functions over answers: implementation.py asks. A circle is
named with its members and the places of its edges in the answer, so that a model can mend it; it is never broken
unless the user said so, and what is dropped then is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from zerorepo.generation.layout import MOST_NAMED, short
from zerorepo.generation.order import lexicographic

FIELDS = ("source", "target", "data_id", "data_type", "transformation")
LONGEST = 2_000  # characters of one field


class Flow(NamedTuple):
    """One datum that goes from an area to another."""

    source: str
    target: str
    data_id: str
    data_type: str
    transformation: str


class Cyclic(ValueError):
    """A circle. edges: the answer as it was, otherwise right."""

    def __init__(self, text: str, edges: Sequence[Any]) -> None:
        super().__init__(text)
        self.edges = list(edges)


def flow_checked(value: Mapping[str, Any], areas: Collection[str]) -> tuple[list[Flow], list[str]]:
    """(edges, fabricated areas) of `{"flow": [{source, target, data_id, data_type, transformation}]}`.

    Edges of areas that do not exist are dropped. Raises ValueError where a field is missing, an edge leads back to its
    own area, two carry the same datum between the same areas, or an area has no part; Cyclic where there is a circle.
    """
    told = value.get("flow")
    if not isinstance(told, list):
        raise ValueError('expected {"flow": [{"source", "target", "data_id", "data_type", "transformation"}, ...]}')
    wrong: list[str] = []
    edges: list[Flow] = []
    places: list[int] = []
    fabricated: list[str] = []
    seen: dict[tuple[str, str, str], int] = {}
    for at, one in enumerate(told):
        if not isinstance(one, dict) or not all(isinstance(one.get(field), str) for field in FIELDS):
            wrong.append(f"edge {at}: expected the strings {', '.join(FIELDS)}")
            continue
        edge = Flow(*(one[field].strip() for field in FIELDS))
        unknown = [end for end in (edge.source, edge.target) if end not in areas]
        if unknown:
            fabricated += [short(end) for end in unknown]
        elif not edge.data_id or not edge.data_type:
            wrong.append(f"edge {at}: data_id and data_type say what flows; neither may be empty")
        elif max(map(len, edge)) > LONGEST:
            wrong.append(f"edge {at}: a field of more than {LONGEST:,} characters")
        elif edge.source == edge.target:
            wrong.append(f"edge {at}: from {edge.source} to itself")
        elif (key := (edge.source, edge.target, edge.data_id)) in seen:
            wrong.append(f"edges {seen[key]} and {at}: the same datum {short(edge.data_id)} between the same areas")
        else:
            seen[key] = at
            edges.append(edge)
            places.append(at)
    used = {end for edge in edges for end in (edge.source, edge.target)}
    if unused := [area for area in areas if area not in used]:
        wrong.append(f"no data flows from or to {', '.join(unused[:MOST_NAMED])}; every area has a part")
    circle = circle_of([(edge.source, edge.target) for edge in edges])
    if circle:
        names = [edges[at].source for at in circle]
        told_circle = f"data flows in a circle: {' -> '.join([*names, names[0]])}, by the edges {', '.join(str(places[at]) for at in circle)}"  # fmt: skip
        if not wrong:
            raise Cyclic(told_circle, edges)
        wrong.insert(0, told_circle)
    if wrong:
        unknown = [f"no such area: {', '.join(dict.fromkeys(fabricated))}"] if fabricated else []
        raise ValueError("; ".join([*wrong[:MOST_NAMED], *unknown[:1]]))
    return edges, fabricated


def circle_of(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """The places of edges (source, target) that form one simple circle, in its order; none where there is none.

    The circle is a shortest one through the first edge that lies on any. O(E (V + E)) at worst.
    """
    after: dict[str, list[int]] = {}
    for at, (source, _) in enumerate(pairs):
        after.setdefault(source, []).append(at)
    for first, (source, target) in enumerate(pairs):
        came: dict[str, int] = {target: first}
        queue = [target]
        for here in queue:  # breadth first; the list grows meanwhile
            if here == source:
                break
            for at in after.get(here, ()):
                if pairs[at][1] not in came:
                    came[pairs[at][1]] = at
                    queue.append(pairs[at][1])
        if source in came:
            circle = [came[source]]
            while circle[-1] != first:
                circle.append(came[pairs[circle[-1]][0]])
            return circle[::-1]
    return []


def broken(edges: Sequence[Flow]) -> tuple[list[Flow], list[Flow]]:
    """(kept, dropped): in the order of the answer an edge is dropped where the kept ones already lead from its end to
    its beginning. The kept have no circle, every dropped one would close one, and no area is left without a part."""
    kept: list[Flow] = []
    dropped: list[Flow] = []
    after: dict[str, list[str]] = {}
    for edge in edges:
        reached = {edge.target}
        stack = [edge.target]
        while stack:
            for other in after.get(stack.pop(), ()):
                if other not in reached:
                    reached.add(other)
                    stack.append(other)
        if edge.source in reached:
            dropped.append(edge)
        else:
            kept.append(edge)
            after.setdefault(edge.source, []).append(edge.target)
    return kept, dropped


def area_order(areas: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[str]:
    """Every area once, sources first; of the free ones the least name first (Kahn). Raises ValueError on a circle."""
    before: dict[str, set[str]] = {area: set() for area in areas}
    for source, target in edges:
        before[target].add(source)
    return lexicographic(before, lambda area: area)


def upstream(areas: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, set[str]]:
    """Area to all areas its data comes from, at any distance."""
    found: dict[str, set[str]] = {area: set() for area in areas}
    for area in area_order(areas, edges):
        for source, target in edges:
            if target == area:
                found[area] |= {source} | found[source]
    return found


def order_checked(value: Mapping[str, Any], files: Collection[str]) -> tuple[list[str], list[str]]:
    """(the files in order, fabricated ones) of `{"order": ["folder/file.py", ...]}`.

    Raises ValueError where a file is missing; Cyclic where one stands twice: what lies between would be before and
    after it.
    """
    told = value.get("order")
    if not isinstance(told, list) or not all(isinstance(one, str) for one in told):
        raise ValueError('expected {"order": ["folder/file.py", ...]}')
    fabricated = [short(one) for one in told if one not in files]
    order = [one for one in told if one in files]
    missing = sorted(set(files) - set(order))
    circles = []
    last: dict[str, int] = {}
    for at, path in enumerate(order):
        if path in last:
            circles.append(" -> ".join(order[last[path] : at + 1]))
        last[path] = at
    wrong = [f"the order runs in a circle: {circle}; each file stands once" for circle in circles]
    if missing:
        wrong.append(f"not in the order: {', '.join(missing[:MOST_NAMED])}")
    if wrong and fabricated:
        wrong.append(f"no file of this area: {', '.join(fabricated[:3])}")
    if circles and not missing:
        raise Cyclic("; ".join(wrong[:MOST_NAMED]), order)
    if wrong:
        raise ValueError("; ".join(wrong[:MOST_NAMED]))
    return order, fabricated


def first_mentions(order: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(order, dropped edges): a circular file order cut where a file comes again; the edge that led back to it goes."""
    kept: list[str] = []
    dropped: list[tuple[str, str]] = []
    for at, path in enumerate(order):
        if path in kept:
            dropped.append((order[at - 1], path))
        else:
            kept.append(path)
    return kept, dropped
