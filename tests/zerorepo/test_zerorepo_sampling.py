"""TempTransform, BaseSample and RejectSample against closed forms, brute force and chi-square."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tenfold_shared import BadInput
from zerorepo.generation.ontology import Ontology
from zerorepo.generation.sampling import Sampler, temp_transform

TOY = {
    ("a", "x", "1"): 8, ("a", "x", "2"): 1, ("a", "x", "3"): 1, ("a", "y", "4"): 5,
    ("b", "z", "5"): 2, ("b", "z", "6"): 6, ("b", "w", "7"): 3, ("b", "w", "8"): 3, ("b", "w", "9"): 6,
}  # fmt: skip


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def leaf_names(tree: Ontology, nodes) -> frozenset[str]:
    return frozenset(tree.names[tree.name[node]] for node in nodes)


# ------------------------------------------------------------ TempTransform


@pytest.mark.parametrize(
    ("temperature", "wanted"),
    [
        (1, [0.8, 0.1, 0.1]),
        (2, [0.5858, 0.2071, 0.2071]),
        (10, [0.3810, 0.3095, 0.3095]),
        (100, [1 / 3] * 3),
        (-250, [1 / 3] * 3),
    ],
)
def test_the_closed_forms(temperature, wanted):
    assert temp_transform([8, 1, 1], temperature) == pytest.approx(wanted, abs=5e-5)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), st.floats(0.05, 99))
def test_it_is_a_root_of_the_shares(frequencies, temperature):
    found = temp_transform(frequencies, temperature)
    total = sum(frequencies)
    exact = [math.exp(math.log((f / total if total else 0.0) + 1e-9) / temperature) for f in frequencies]
    assert found == pytest.approx([one / math.fsum(exact) for one in exact], rel=1e-9, abs=1e-300)
    assert found.sum() == pytest.approx(1)
    assert all((found[i] - found[j]) * (frequencies[i] - frequencies[j]) >= 0 for i in range(len(found)) for j in range(i))  # fmt: skip


def test_a_temperature_near_zero_does_not_overflow():
    assert temp_transform([8, 1, 1], 1e-3) == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("bad", [0, math.nan, math.inf])
def test_temperatures_that_say_nothing(bad):
    with pytest.raises(BadInput, match="temperature"):
        temp_transform([1, 2], bad)


@pytest.mark.parametrize("bad", [[-1, 2], [math.nan], [math.inf, 1]])
def test_frequencies_that_are_none(bad):
    with pytest.raises(BadInput, match="frequencies"):
        temp_transform(bad, 1)


# ------------------------------------------------------------ BaseSample


@pytest.mark.parametrize("temperature", [1, 2, 10, 100])
def test_100_000_single_draws_follow_the_transform(temperature):
    tree = Ontology.of({("p",): 8, ("q",): 1, ("r",): 1})
    sampler = Sampler(tree, temperature, (1,))
    random = rng(4)
    drawn = Counter(int(sampler.base_sample(random).leaves[0]) for _ in range(100_000))
    counts = [drawn[node] for node in tree.leaves.tolist()]
    assert stats.chisquare(counts, 100_000 * temp_transform([8, 1, 1], temperature)).pvalue > 1e-3
    if temperature < 100:  # and a draw at another temperature would be told from it
        other = 1 if temperature != 1 else 2
        assert stats.chisquare(counts, 100_000 * temp_transform([8, 1, 1], other)).pvalue < 1e-9


def test_pairs_are_drawn_without_replacement_in_proportion():
    """P({i, j}) = q_i q_j (1/(1 - q_i) + 1/(1 - q_j)): one after the other, what is left renormalised."""
    frequencies = [8, 4, 2, 1]
    tree = Ontology.of({("only", str(at)): count for at, count in enumerate(frequencies)})
    sampler = Sampler(tree, 2, (1, 2))
    q = temp_transform(frequencies, 2)
    random = rng(7)
    drawn = Counter(tuple(sampler.base_sample(random).leaves.tolist()) for _ in range(60_000))
    nodes = tree.leaves.tolist()
    pairs = list(itertools.combinations(range(4), 2))
    wanted = [q[i] * q[j] * (1 / (1 - q[i]) + 1 / (1 - q[j])) for i, j in pairs]
    assert math.fsum(wanted) == pytest.approx(1)
    counts = [drawn[nodes[i], nodes[j]] for i, j in pairs]
    assert sum(counts) == 60_000
    assert stats.chisquare(counts, 60_000 * np.array(wanted)).pvalue > 1e-3


def outcomes(tree: Ontology, conditions, temperature) -> dict[frozenset[int], float]:
    """Every set of leaves that a draw can end in, with its probability, by enumeration of ordered draws."""

    def subsets(nodes: list[int], count: int) -> dict[frozenset[int], float]:
        q = dict(zip(nodes, temp_transform(tree.frequency[nodes], temperature), strict=True))
        found: Counter = Counter()
        for order in itertools.permutations(nodes, min(count, len(nodes))):
            chance, left = 1.0, 1.0
            for node in order:
                chance *= q[node] / left
                left -= q[node]
            found[frozenset(order)] += chance
        return found

    def below(node: int, depth: int) -> dict[frozenset[int], float]:
        children = tree.children(node).tolist()
        if not children or depth == len(conditions):
            return {frozenset([node]): 1.0}
        found: Counter = Counter()
        for chosen, chance in subsets(children, conditions[depth]).items():
            combined = {frozenset(): chance}
            for child in chosen:
                combined_next: Counter = Counter()
                for sofar, p in combined.items():
                    for leaves, more in below(child, depth + 1).items():
                        combined_next[sofar | leaves] += p * more
                combined = combined_next
            for leaves, p in combined.items():
                found[leaves] += p
        return found

    return below(0, 0)


@pytest.mark.parametrize(("conditions", "temperature"), [((1, 1, 2), 2), ((2, 1, 1), 10), ((1, 2), 1), ((1, 1, 9), 3)])
def test_whole_draws_equal_brute_force_on_a_toy_tree(conditions, temperature):
    tree = Ontology.of(TOY)
    exact = outcomes(tree, conditions, temperature)
    assert math.fsum(exact.values()) == pytest.approx(1)
    sampler, random = Sampler(tree, temperature, conditions), rng(11)
    drawn = Counter(frozenset(sampler.base_sample(random).leaves.tolist()) for _ in range(20_000))
    assert drawn.keys() <= exact.keys()
    keys = list(exact)
    assert stats.chisquare([drawn[key] for key in keys], [20_000 * exact[key] for key in keys]).pvalue > 1e-3


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.floats(0.1, 200))
@settings(max_examples=60)
def test_a_draw_is_a_subtree_with_the_asked_fanout(seed, conditions, temperature):
    tree = Ontology.of({**TOY, ("c",): 4, ("c", "lone"): 1, ("d",): 2})
    found = Sampler(tree, temperature, conditions).base_sample(rng(seed))
    nodes = set(found.nodes.tolist())
    assert sorted(nodes) == found.nodes.tolist() and set(found.leaves.tolist()) <= nodes
    for node in [0, *nodes]:
        depth = int(tree.depth[node])
        inside = [child for child in tree.children(node).tolist() if child in nodes]
        if depth < len(conditions):
            assert len(inside) == min(conditions[depth], int(tree.fanout[node]))
        else:
            assert not inside
        if node:
            assert tree.parent[node] == 0 or int(tree.parent[node]) in nodes
            assert (node in set(found.leaves.tolist())) == (not inside)


def test_draws_are_the_same_for_a_seed_and_differ_between_seeds():
    tree = Ontology.of(TOY)
    sampler = Sampler(tree, 10, (1, 1, 1))
    sequences = [tuple(int(sampler.base_sample(random).leaves[0]) for _ in range(30)) for random in (rng(3), rng(3), rng(4))]  # fmt: skip
    assert sequences[0] == sequences[1] != sequences[2]


def test_only_what_is_asked_for_is_drawn_from():
    tree = Ontology.of(TOY)
    sampler = Sampler(tree, 10, (2, 2, 2), roots=tree.children(0)[1:])
    assert leaf_names(tree, sampler.base_sample(rng()).leaves) <= set("56789")


@pytest.mark.parametrize("bad", [(), (0,), (2, -1)])
def test_conditions_that_draw_nothing(bad):
    with pytest.raises(BadInput, match="conditions"):
        Sampler(Ontology.of(TOY), 10, bad)


# ------------------------------------------------------------ RejectSample


def seen(tree: Ontology, names) -> np.ndarray:
    marked = np.zeros(len(tree) + 1, bool)
    marked[[node for node in tree.leaves.tolist() if tree.names[tree.name[node]] in names]] = True
    return marked


def test_an_overlap_of_1_takes_the_first_draw():
    tree = Ontology.of(TOY)
    sampler = Sampler(tree, 10, (1, 1, 1))
    found = sampler.reject_sample(rng(5), seen(tree, "123456789"), 1.0)
    assert found.tries == 1 and found.overlap == 1
    assert found.leaves.tolist() == sampler.base_sample(rng(5)).leaves.tolist()


def test_an_overlap_of_0_finds_the_branch_nobody_touched():
    """Strictly below 0, as the paper's own code has it, nothing would ever be taken."""
    tree = Ontology.of(TOY)
    sampler = Sampler(tree, 10, (1, 1, 1))
    for seed in range(20):
        found = sampler.reject_sample(rng(seed), seen(tree, "1234"), 0.0)
        assert leaf_names(tree, found.leaves) <= set("56789") and found.overlap == 0 and found.tries < 100


@pytest.mark.parametrize("marked", ["123456789", "12345678", "157"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_reject_sample_equals_the_definition(marked, overlap):
    """Against draws made one by one from the same generator: the first at most that, else the first of the least."""
    tree = Ontology.of(TOY)
    sampler = Sampler(tree, 10, (1, 2, 2))
    for seed in range(25):
        random = rng(seed)
        draws = [sampler.base_sample(random).leaves.tolist() for _ in range(40)]
        shares = [len(leaf_names(tree, leaves) & set(marked)) / len(leaves) for leaves in draws]
        accepted = next((at for at, share in enumerate(shares) if share <= overlap), None)
        wanted = accepted if accepted is not None else shares.index(min(shares))
        found = sampler.reject_sample(rng(seed), seen(tree, marked), overlap, 40)
        assert found.leaves.tolist() == draws[wanted] and found.overlap == shares[wanted]
        assert found.tries == (40 if accepted is None else accepted + 1)


def test_an_exhausted_tree_gives_the_least_overlap_there_is():
    tree = Ontology.of(TOY)
    found = Sampler(tree, 10, (1, 1, 1)).reject_sample(rng(1), seen(tree, "123456789"), 0.0, 50)
    assert found.overlap == 1 and found.tries == 50


@pytest.mark.parametrize(("overlap", "tries"), [(-0.1, 5), (1.1, 5), (0.5, 0)])
def test_numbers_out_of_range(overlap, tries):
    tree = Ontology.of(TOY)
    with pytest.raises(BadInput, match="tries and overlap"):
        Sampler(tree).reject_sample(rng(), seen(tree, ""), overlap, tries)
