"""Structured sparsity conversion: an order of the columns, and zero columns, that make A 2:4 sparse.

A group is four columns of which no row has entries in more than two. Two columns are compatible where no row has entries in
both; two pairs of compatible columns are a group, and the only kind that the 1:2 form of tf32 takes. Three solvers:

- staircase: pairs along one axis by a closed form; z = max(k − r + 1, (k + r − 1) mod 2) zero columns a line in 1D
- blossom: a maximum matching of compatible columns; z = n − 2ν is the least that pairs can do
- quad: groups that need not be pairs, by greedy choice and repair, or annealing; it stops at the bound max(⌈P/2⌉, ⌈n/4⌉)
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparstencil.layout import Layout
from sparstencil.stencil import Offset

Solver = Literal["staircase", "blossom", "quad"]
SOLVERS: tuple[Solver, ...] = ("staircase", "blossom", "quad")
NONE = -1  # a zero column
ANNEALED = 200_000  # exchanges that one attempt of annealing proposes, about half a second
MATCHED = 1280  # columns up to which `fewest` looks for a matching


@dataclass(frozen=True)
class Grouping:
    """groups: four columns each, NONE for a zero column; pairs: whether places 0, 2 and 1, 3 of every group are compatible.
    z: zero columns that the solver needed, before the last group was filled up."""

    layout: Layout
    solver: Solver
    groups: tuple[tuple[int, int, int, int], ...]
    z: int
    pairs: bool

    @property
    def count(self) -> int:
        return len(self.groups)

    @property
    def optimal(self) -> bool:
        """Whether no grouping has fewer groups."""
        return self.count == self.layout.bound

    @property
    def spares(self) -> bool:
        """Whether no grouping needs fewer instructions of 16 columns."""
        return math.ceil(self.count / 4) == math.ceil(self.layout.bound / 4)

    @property
    def permutation(self) -> list[int]:
        """Column of each of the 4 · groups places, NONE for a zero column."""
        return [c for group in self.groups for c in group]

    def check(self) -> None:
        """Raises ValueError unless every column stands once and no row has more than two entries in a group."""
        kept = sorted(c for c in self.permutation if c != NONE)
        if kept != list(range(self.layout.n)):
            raise ValueError(f"{self.solver}: columns are missing or stand twice")
        for at, group in enumerate(self.groups):
            used = self.layout.support[[c for c in group if c != NONE]].sum(0)
            if used.max(initial=0) > 2:
                raise ValueError(f"{self.solver}: row {int(used.argmax())} has {int(used.max())} entries in group {at}")


def convert(layout: Layout, solver: Solver, seed: int = 0, effort: int = 6) -> Grouping:
    """The columns of a layout in legal groups. effort: attempts of `quad` at each number of groups; a single one is repair
    alone, without annealing."""
    if solver == "quad":
        groups = quad(layout, seed, effort, 500 * effort, ANNEALED if effort > 1 else 0)
        found = Grouping(layout, "quad", tuple(groups), 4 * len(groups) - layout.n, False)
    else:
        pairs = staircase(layout) if solver == "staircase" else blossom(layout)
        z = sum(b == NONE for _, b in pairs)
        found = Grouping(layout, solver, tuple(_quads(layout, pairs)), z, True)
    found.check()
    return found


def zeros_1d(k: int, r: int) -> int:
    """Zero columns of a line of k + r − 1 columns whose rows have k entries each."""
    return max(k - r + 1, (k + r - 1) % 2)


# ---------------------------------------------------------------- pairs

Pair = tuple[int, int]


def staircase(layout: Layout) -> list[Pair]:
    """Pairs of columns at least k apart on a line along one axis, the axis with the fewest zero columns. On a line without
    gaps, (i, i + k) for r ≤ k + 1 and (i, i + ⌊n/2⌋) beyond: the closed form. Lines of a star have gaps; there the first
    half of a line's columns takes the nearest partner that is far enough."""
    best: list[Pair] | None = None
    for axis in range(layout.stencil.ndim):
        k = layout.stencil.extents[axis]
        lines: dict[Offset, list[int]] = {}
        for j, c in enumerate(layout.columns):
            lines.setdefault(c[:axis] + c[axis + 1 :], []).append(j)
        found = [pair for line in lines.values() for pair in _line(line, [layout.columns[j][axis] for j in line], k)]
        if best is None or sum(b == NONE for _, b in found) < sum(b == NONE for _, b in best):
            best = found
    assert best is not None
    return best


def _line(columns: list[int], at: list[int], k: int) -> list[Pair]:
    """Most pairs of places `at` (ascending) that lie at least k apart, then the rest alone."""
    n = len(columns)
    if at == list(range(at[0], at[0] + n)):
        r = n - k + 1
        apart = k if r <= k + 1 else n // 2
        count = r - 1 if r <= k + 1 else n // 2
        pairs = [(i, i + apart) for i in range(max(0, count))]
    else:
        most = n // 2
        while most and any(at[n - most + i] - at[i] < k for i in range(most)):
            most -= 1
        pairs = [(i, n - most + i) for i in range(most)]
    used = {i for pair in pairs for i in pair}
    alone = [(columns[i], NONE) for i in range(n) if i not in used]
    return [(columns[i], columns[j]) for i, j in pairs] + alone


def blossom(layout: Layout) -> list[Pair]:
    """A maximum matching of compatible columns, and the rest alone."""
    import networkx

    support = layout.support.astype(np.int32)
    clash = support @ support.T
    graph = networkx.Graph()
    graph.add_nodes_from(range(layout.n))
    graph.add_edges_from(map(tuple, np.argwhere(np.triu(clash == 0, 1)).tolist()))
    matched = networkx.max_weight_matching(graph, maxcardinality=True)
    pairs = sorted((min(pair), max(pair)) for pair in matched)
    used = {c for pair in pairs for c in pair}
    return pairs + [(c, NONE) for c in range(layout.n) if c not in used]


def _quads(layout: Layout, pairs: list[Pair]) -> list[tuple[int, int, int, int]]:
    """Two pairs a group, (a, b, a′, b′) of pairs (a, a′) and (b, b′). Pairs that are each other's neighbours along the last
    axis stand together where they can: places 0, 1 and 2, 3 are then neighbours in memory, one load each."""
    at = {c: j for j, c in enumerate(layout.columns)}

    def next_to(c: int) -> int | None:
        if c == NONE:
            return NONE
        place = layout.columns[c]
        return at.get((*place[:-1], place[-1] + 1))

    left = dict.fromkeys(sorted(pairs))
    groups: list[tuple[int, int, int, int]] = []
    rest: list[tuple[int, int]] = []
    while left:
        a, a2 = next(iter(left))
        del left[a, a2]
        b, b2 = next_to(a), next_to(a2)
        if b is not None and b2 is not None and (b, b2) in left:
            del left[b, b2]
            groups.append((a, b, a2, b2))
        else:
            rest.append((a, a2))
    for first, second in itertools.zip_longest(rest[::2], rest[1::2], fillvalue=(NONE, NONE)):
        groups.append((first[0], second[0], first[1], second[1]))
    return groups


# ---------------------------------------------------------------- groups that need not be pairs


def quad(
    layout: Layout, seed: int = 0, tries: int = 6, moves: int = 3000, annealed: int = ANNEALED
) -> list[tuple[int, int, int, int]]:
    """Groups of any four columns, as near to the bound as exchanges of two columns get, from the bound upwards. A number of groups
    is tried `tries` times: by annealing, with up to `annealed` proposals each, or, where that is 0, by the quicker repair of a
    greedy deal, with `moves` exchanges each. The same seed gives the same groups. Search, no proof: it may miss the bound."""
    draw = np.random.default_rng(seed)
    support = np.vstack([layout.support, np.zeros((1, layout.rows), dtype=bool)]).astype(np.int16)  # the last: none
    paired = _quads(layout, blossom(layout)) if layout.n <= 400 else _quads(layout, staircase(layout))
    if len(paired) == layout.bound:
        return paired
    for count in range(layout.bound, len(paired)):
        for attempt in range(tries):
            if annealed:
                chance = random.Random(1000 * seed + attempt)
                found = _annealed(layout, count, chance, min(annealed, 100 * layout.n**2))
                if found is not None:
                    return [_told(group, layout.n) for group in found]
                continue
            places = _dealt(support, count, draw)
            if _repaired(support, places, draw, moves):
                return [_told(group, layout.n) for group in places.tolist()]
    return paired


def _annealed(layout: Layout, count: int, draw: random.Random, proposals: int) -> list[list[int]] | None:
    """`count` groups of column numbers, layout.n for a zero column, or None where the excess did not reach 0.

    The excess, entries beyond two summed over rows and groups, is lowered by exchanges of two columns under a temperature that
    falls from 1 to .15 of an entry. A group's entries a row are four bits of one whole number: adding a column is one addition,
    and a row has three entries where bits 0 and 1 are set, four where bit 2 is."""
    ones = sum(1 << 4 * row for row in range(layout.rows))
    bits = [sum(1 << 4 * int(row) for row in np.flatnonzero(used)) for used in layout.support] + [0]
    order = [*range(layout.n), *[layout.n] * (4 * count - layout.n)]
    draw.shuffle(order)

    def excess(rows: int) -> int:
        return (rows & rows >> 1 & ones).bit_count() + 2 * (rows >> 2 & ones).bit_count()

    held = [bits[c] for c in order]
    sums = [sum(held[4 * g : 4 * g + 4]) for g in range(count)]
    each = [excess(rows) for rows in sums]
    left, chance, places, cold = sum(each), draw.random, 4 * count, math.log(0.15)
    for proposal in range(proposals):
        if not left:
            break
        i, j = int(chance() * places), int(chance() * places)
        g, h, change = i >> 2, j >> 2, held[j] - held[i]
        if g == h or not change:
            continue
        here, there = excess(sums[g] + change), excess(sums[h] - change)
        worse = here + there - each[g] - each[h]
        if worse > 0 and chance() >= math.exp(-worse / math.exp(cold * proposal / proposals)):
            continue
        held[i], held[j], order[i], order[j] = held[j], held[i], order[j], order[i]
        sums[g], sums[h], each[g], each[h] = sums[g] + change, sums[h] - change, here, there
        left += worse
    return None if left else [order[4 * g : 4 * g + 4] for g in range(count)]


def fewest(layout: Layout, pairs: bool = False) -> int:
    """Groups of the best conversion of a tile by any solver; pairs: by those that pair columns alone, as tf32 needs. A plan may
    hold one with more groups, where they make no more instructions and its loads are fewer."""
    least: int | None = None
    for solver in SOLVERS:
        if (solver == "blossom" and layout.n > MATCHED) or (solver == "quad" and pairs):
            continue
        found = convert(layout, solver).count
        least = min(least or found, found)
        if least == layout.bound:
            break
    assert least is not None
    return least


def _dealt(support: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """(count, 4) columns, each where it adds the fewest third entries and then the most room is left."""
    n = len(support) - 1
    places = np.full((count, 4), n)
    used, size = np.zeros((count, support.shape[1]), dtype=np.int16), np.zeros(count, dtype=int)
    order = sorted(range(n), key=lambda c: (-int(support[c].sum()), draw.random()))
    for c in order:
        cost = np.maximum(used + support[c] - 2, 0).sum(1) - np.maximum(used - 2, 0).sum(1) + 1000 * (size == 4)
        overlap = (used * support[c]).sum(1)
        g = int(np.lexsort((draw.random(count), overlap, cost))[0])
        places[g, size[g]] = c
        used[g] += support[c]
        size[g] += 1
    return places


def _repaired(support: np.ndarray, places: np.ndarray, draw: np.random.Generator, moves: int) -> bool:
    """Exchanges in place until no row has three entries in a group; False where `moves` did not do it."""
    used = support[places].sum(1)  # (G, M)
    recent: dict[tuple[int, int], int] = {}
    for move in range(moves):
        excess = np.maximum(used - 2, 0).sum(1)
        if not excess.any():
            return True
        g = int(draw.choice(np.flatnonzero(excess)))
        guilty = [i for i in range(4) if (support[places[g, i]] * (used[g] > 2)).any()]
        best: tuple[float, int, int, int] | None = None
        for i in guilty:
            c = int(places[g, i])
            without = used[g] - support[c]
            others = support[places]  # (G, 4, M)
            here = np.maximum(without + others - 2, 0).sum(2)
            there = np.maximum(used[:, None] - others + support[c] - 2, 0).sum(2)
            change = (here + there - excess[:, None] - excess[g]).astype(float)
            change[g] = np.inf
            for (column, group), until in recent.items():
                if until > move:
                    if column == c:
                        change[group] += 2
                    change[(places == column) & (np.arange(len(places)) == group)[:, None]] += 2
            change += draw.random(change.shape) * 0.5
            least = int(change.argmin())
            if best is None or change.flat[least] < best[0]:
                best = float(change.flat[least]), i, least // 4, least % 4
        assert best is not None
        _, i, h, j = best
        a, b = int(places[g, i]), int(places[h, j])
        used[g] += support[b] - support[a]
        used[h] += support[a] - support[b]
        places[g, i], places[h, j] = b, a
        tenure = move + 8 + int(draw.integers(8))
        recent = {key: until for key, until in recent.items() if until > move}
        recent[a, g] = tenure
        recent[b, h] = tenure
    return False


def _told(group: list[int], n: int) -> tuple[int, int, int, int]:
    a, b, c, d = (NONE if place == n else place for place in sorted(group))
    return a, b, c, d
