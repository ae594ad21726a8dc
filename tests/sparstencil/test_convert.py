"""Flatten, crush and conversion to 2:4: known tables, bounds, and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparstencil import convert as conversion
from sparstencil.boundary import Boundary
from sparstencil.convert import NONE, convert, fewest, zeros_1d
from sparstencil.layout import Layout
from sparstencil.reference import step
from sparstencil.stencil import Stencil
from sparstencil.suite import named
from tenfold_shared import BadInput


def line(k):
    return Stencil.of({(i,): 1.0 + i for i in range(k)})


@pytest.mark.parametrize("k", range(2, 14))
def test_1d_zero_columns_are_the_closed_form_and_the_matching(k):
    for r in range(1, 20):
        layout = Layout(line(k), (r,))
        assert layout.n == k + r - 1
        stair, matched = convert(layout, "staircase"), convert(layout, "blossom")
        assert stair.z == matched.z == zeros_1d(k, r)
        if r == k + 1:  # compressed width exactly k: k pairs, and every row has an entry in each, so no slot is wasted
            pairs = [pair for a, b, c, d in stair.groups for pair in ((a, c), (b, d)) if pair != (NONE, NONE)]
            assert stair.z == 0 and len(pairs) == k
            assert all((layout.support[a] ^ layout.support[b]).all() for a, b in pairs)


TABLE = [  # stencil, tile, n, z by pairing, groups by pairing, bound
    ("box-2d9p", (2, 2), 16, 4, 5, 5), ("box-2d9p", (3, 3), 25, 1, 7, 7), ("box-2d25p", (2, 4), 48, 8, 14, 13),
    ("box-2d25p", (4, 4), 64, 4, 17, 16), ("box-2d49p", (4, 4), 100, 16, 29, 25), ("box-3d27p", (2, 2, 2), 64, 8, 18, 16),
    ("star-2d9p", (2, 2), 20, 0, 5, 5), ("heat-2d", (2, 2), 12, 0, 3, 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tile", "n", "z", "paired", "bound"), TABLE)
def test_pairs_are_the_references_table(name, tile, n, z, paired, bound):
    layout = Layout(named(name), tile)
    found = convert(layout, "blossom")
    assert (layout.n, found.z, found.count, layout.bound) == (n, z, paired, bound)


@pytest.mark.parametrize(("name", "tile", "n", "z", "paired", "bound"), TABLE)
def test_groups_that_are_no_pairs_meet_the_bound(name, tile, n, z, paired, bound):
    """Every row of the table, Box-2D49P on 4 x 4 with 25 groups for the 29 of pairs among them; the same each time."""
    layout = Layout(named(name), tile)
    found = convert(layout, "quad")
    assert found.count == bound and found.groups == convert(layout, "quad").groups


@pytest.mark.parametrize(
    ("name", "tile", "bound"), [("box-2d49p", (2, 4), 25), ("box-2d81p", (4, 4), 41), ("box-3d125p", (2, 2, 2), 63)]
)
def test_annealing_meets_the_bound_of_larger_tiles(name, tile, bound):
    assert convert(Layout(named(name), tile), "quad").count == bound


def test_the_fewest_groups_are_those_of_any_solver_or_of_pairs():
    layout = Layout(named("box-2d25p"), (4, 4))
    assert (fewest(layout), fewest(layout, pairs=True)) == (16, 17)


PLANS = [  # stencil, tile, K
    ("heat-2d", (4, 4), 32), ("star-2d9p", (4, 4), 48), ("star-2d13p", (4, 4), 64), ("box-2d49p", (8, 2), 112),
    ("heat-3d", (1, 4, 4), 64), ("star-3d13p", (2, 2, 4), 96), ("box-3d27p", (4, 2, 2), 96), ("heat-1d", (8,), 16),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tile", "k"), PLANS)
def test_best_plans_are_the_references(name, tile, k):
    layout = Layout(named(name), tile)
    best = min((convert(layout, solver) for solver in ("staircase", "blossom")), key=lambda found: found.count)
    assert 16 * -(-best.count // 4) == k


def test_box_2d49p_wastes_one_slot_in_eight():
    found = convert(Layout(named("box-2d49p"), (8, 2)), "staircase")
    assert found.layout.n == 112 and found.z == 0 and found.count == 28 and found.optimal
    assert 49 / (4 * 28 / 2) == 0.875
    # Places 0, 1 and 2, 3 of every group are neighbours in memory: one load each.
    for a, b, c, d in found.groups:
        places = [found.layout.columns[at] for at in (a, b, c, d)]
        assert places[1] == (places[0][0], places[0][1] + 1) and places[3] == (places[2][0], places[2][1] + 1)
        assert places[2] == (places[0][0] + 7, places[0][1])


def matchings(n, edges):
    """Size of the largest set of disjoint edges, by trying all."""

    def most(left):
        if not left:
            return 0
        first, *rest = left
        best = most(rest)
        for other in rest:
            if (first, other) in edges:
                best = max(best, 1 + most([x for x in rest if x != other]))
        return best

    return most(list(range(n)))


supports = st.sets(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(supports, st.sampled_from([(1, 2), (2, 1), (2, 2), (3, 1), (1, 4)]))
def test_a_matching_is_the_largest_and_every_solver_is_legal(offsets, tile):
    layout = Layout(Stencil.of({o: 1.0 + i for i, o in enumerate(sorted(offsets))}), tile)
    found = {solver: convert(layout, solver) for solver in ("staircase", "blossom", "quad")}  # each checks itself
    assert all(f.count >= layout.bound for f in found.values())
    assert found["quad"].count <= found["blossom"].count <= found["staircase"].count
    assume(layout.n <= 12)
    support = layout.support
    edges = {(a, b) for a, b in itertools.combinations(range(layout.n), 2) if not (support[a] & support[b]).any()}
    assert found["blossom"].z == layout.n - 2 * matchings(layout.n, edges)


def brute_groups(support, count):
    """Whether the columns fit into `count` groups of four with two entries a row, by trying all."""
    n = len(support)
    used = np.zeros((count, support.shape[1]), dtype=int)
    size = [0] * count

    def place(c):
        if c == n:
            return True
        seen_empty = False
        for g in range(count):
            if size[g] == 4 or (size[g] == 0 and seen_empty) or (used[g] + support[c]).max() > 2:
                continue
            seen_empty |= size[g] == 0
            used[g] += support[c]
            size[g] += 1
            if place(c + 1):
                return True
            used[g] -= support[c]
            size[g] -= 1
        return False

    return place(0)


@settings(max_examples=25, deadline=None)
@given(supports, st.sampled_from([(1, 2), (2, 2), (1, 3)]))
def test_quads_are_the_fewest_by_trying_all(offsets, tile):
    layout = Layout(Stencil.of(dict.fromkeys(offsets, 1.0)), tile)
    assume(layout.n <= 12)
    found = convert(layout, "quad").count
    least = next(g for g in range(layout.bound, found + 1) if brute_groups(layout.support.astype(int), g))
    assert found == least


def test_rows_have_p_entries_and_times_patches_is_the_stencil():
    """A from the layout times explicitly gathered patches equals the definition; columns permuted, the same."""
    draw = np.random.default_rng(3)
    for name, tile in (("star-2d9p", (3, 2)), ("aniso-diff-3d", (2, 1, 3)), ("quick-1d", (5,))):
        layout = Layout(named(name), tile)
        assert ((layout.matrix != 0).sum(1) == layout.stencil.points).all()
        shape = tuple(4 * r for r in tile)
        grid = draw.standard_normal(shape)
        truth = step(grid, layout.stencil, Boundary.parse("wrap", len(shape)))
        order = draw.permutation(layout.n)
        for origin in itertools.product(*(range(0, n, r) for n, r in zip(shape, tile, strict=True))):
            patch = np.array(
                [
                    grid[tuple((o + c) % n for o, c, n in zip(origin, column, shape, strict=True))]
                    for column in layout.columns
                ]
            )
            out = layout.matrix[:, order] @ patch[order]
            for value, o in zip(out, layout.outputs, strict=True):
                assert value == pytest.approx(truth[tuple(a + b for a, b in zip(origin, o, strict=True))], abs=1e-12)


def test_boxes_have_the_product_of_k_plus_r_less_one():
    for tile in ((1, 1), (2, 3), (4, 4)):
        assert Layout(named("box-2d25p"), tile).n == (5 + tile[0] - 1) * (5 + tile[1] - 1)


def test_an_illegal_grouping_is_found():
    layout = Layout(line(3), (2,))
    for groups in (((0, 1, 2, 3),), ((0, 1, NONE, NONE), (0, 2, 3, NONE)), ((0, 1, NONE, NONE),)):
        with pytest.raises(ValueError, match=r"entries|twice"):
            conversion.Grouping(layout, "quad", groups, 0, False).check()
    with pytest.raises(BadInput, match="--tile 2x2: expected 1 sizes"):
        Layout(line(3), (2, 2))
