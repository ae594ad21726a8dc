"""Which trajectories are kept: quotas, selection without replacement, advantages; against brute force and the published figures."""

import itertools
import math
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_roc import roc

# positives of 32 -> (positives, negatives) of 16 that are kept
TABLE = {1: (1, 15), 6: (3, 13), 10: (5, 11), 14: (7, 9), 18: (9, 7), 22: (11, 5), 26: (13, 3), 31: (15, 1)}
TABLE |= (
    dict.fromkeys(range(2, 6), (2, 14)) | dict.fromkeys(range(7, 10), (4, 12)) | dict.fromkeys(range(11, 14), (6, 10))
)
TABLE |= (
    dict.fromkeys(range(15, 18), (8, 8)) | dict.fromkeys(range(19, 22), (10, 6)) | dict.fromkeys(range(23, 26), (12, 4))
)
TABLE |= dict.fromkeys(range(27, 31), (14, 2))


def test_the_quota_table():
    assert sorted(TABLE) == list(range(1, 32))
    assert {n: roc.quotas(n, 32 - n, 16) for n in TABLE} == TABLE


@pytest.mark.parametrize("positives", range(1, 32))
def test_the_released_selection_has_the_same_table(positives):
    rewards = [1.0] * positives + [0.0] * (32 - positives)
    kept = roc.choose_rstar(rewards, [0.0] * 32, 16).kept
    assert (kept[:positives].sum(), kept[positives:].sum()) == TABLE[positives]


def test_where_the_released_code_stops_ours_goes_on():
    rewards = [1.0] * 7 + [0.0] * 7
    with pytest.raises(ValueError, match="not the 7 wanted"):
        roc.choose_rstar(rewards, [0.0] * 14, 7)
    assert roc.quotas(7, 7, 7) == (4, 3)


def test_the_released_selection_drops_groups_that_are_too_small():
    found = roc.choose_rstar([1.0, 0.0, 0.0], [0.0] * 3, 4)
    assert not found.kept.any() and found.reasons == ["quota"] * 3 and np.isnan(found.advantage).all()
    assert roc.choose_rstar([1.0, 0.0, 0.0, 0.0], [0.0] * 4, 4).kept.all()
    with pytest.raises(ValueError, match="fewer than 2 of each class"):
        roc.choose_rstar([1.0, 0.0] * 4, [0.0] * 8, 3)


@given(positives=st.integers(0, 70), negatives=st.integers(0, 70), size=st.integers(1, 70))
def test_quotas_are_whole_possible_and_near_the_share(positives, negatives, size):
    kept = roc.quotas(positives, negatives, size)
    assert sum(kept) == min(size, positives + negatives)
    assert 0 <= kept[0] <= positives and 0 <= kept[1] <= negatives
    total = positives + negatives
    if total > size:
        least = min(2, size // 2)
        assert all(mine >= min(least, there) for mine, there in zip(kept, (positives, negatives), strict=True))
        if min(kept) > least:
            assert abs(kept[0] - positives * size / total) <= 0.5


def inclusions(weights, k):
    """Brute force: how likely each is among k drawn one after the other without replacement."""
    found = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), k):
        p, left = 1.0, sum(weights)
        for i in order:
            p *= weights[i] / left
            left -= weights[i]
        found[list(order)] += p
    return found


@pytest.mark.parametrize(
    ("epsilon", "stated"), [(1e-3, (1.0000, 0.5452, 0.2729, 0.1820)), (0.1, (0.9607, 0.5363, 0.2974, 0.2056))]
)
def test_draws_have_the_probabilities_of_sequential_drawing(epsilon, stated):
    penalties = np.array([0, 0.5, 1, 1.5])
    want = inclusions(1 / (penalties + epsilon), 2)
    assert want == pytest.approx(stated, abs=1e-4) and want.sum() == pytest.approx(2)
    rng, n = np.random.default_rng(0), 200_000
    got = np.bincount(np.concatenate([roc.inverse(penalties, 2, rng, epsilon) for _ in range(n)]), minlength=4) / n
    assert (np.abs(got - want) <= 4 * np.sqrt(want * (1 - want) / n) + 1e-12).all()


@pytest.mark.parametrize(("share", "stated"), [(0.5, 0.09819), (0.3, 0.00433)])
def test_the_best_half_of_sixteen(share, stated):
    """Kept error share where each of 16 is faulty with this probability and 8 are kept: the closed form, and what `top` keeps."""
    want = sum(comb(16, j) * share**j * (1 - share) ** (16 - j) * max(0, 8 - (16 - j)) / 8 for j in range(17))
    assert want == pytest.approx(stated, abs=1e-5)
    rng = np.random.default_rng(1)
    faulty = rng.random((20_000, 16)) < share
    got = [one[roc.top(one.astype(float), 8, rng)].mean() for one in faulty]
    assert np.mean(got) == pytest.approx(want, abs=4 * np.std(got) / math.sqrt(len(got)))


def test_ties_are_broken_by_chance():
    rng, n = np.random.default_rng(2), 4000
    got = np.bincount(np.concatenate([roc.top(np.zeros(8), 3, rng) for _ in range(n)]), minlength=8) / n
    assert (np.abs(got - 3 / 8) < 4 * math.sqrt(3 / 8 * 5 / 8 / n)).all()


def test_without_penalty_comes_first_as_epsilon_vanishes():
    rng = np.random.default_rng(3)
    for _ in range(200):
        assert {0, 2} <= set(roc.inverse(np.array([0, 1, 0, 0.1, 2]), 3, rng, 1e-12).tolist())


# ---------------------------------------------------------------- groups


groups = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])), min_size=1, max_size=40
)


@given(
    group=groups,
    size=st.integers(2, 24),
    seed=st.integers(0, 99),
    select=st.sampled_from(["inverse", "top"]),
    turn=st.randoms(),
)
def test_a_choice_is_sound_and_does_not_hang_on_the_order_of_arrival(group, size, seed, select, turn):
    rewards, penalties = zip(*group, strict=True)
    n = len(group)
    found = roc.choose(rewards, penalties, size, group="g", order=range(n), select=select, seed=seed)
    if len(set(rewards)) == 1:
        assert found.reasons == ["equal_rewards"] * n and not found.kept.any() and np.isnan(found.advantage).all()
        return
    assert found.kept.sum() == min(size, n)
    assert all((reason == "quota") != kept for reason, kept in zip(found.reasons, found.kept, strict=True))
    assert found.advantage[found.kept].sum() == pytest.approx(0, abs=1e-9)
    order = list(range(n))
    turn.shuffle(order)
    other = roc.choose(
        [rewards[i] for i in order],
        [penalties[i] for i in order],
        size,
        group="g",
        order=order,
        select=select,
        seed=seed,
    )
    assert [other.reasons[order.index(i)] for i in range(n)] == found.reasons


def test_seeds_and_groups_draw_their_own():
    rewards, penalties = [1.0, 0.0] * 16, [0.5] * 32

    def kept(**told):
        return roc.choose(rewards, penalties, 16, **{"group": "a", **told}).kept.tolist()

    assert kept() == kept() != kept(seed=1) and kept(group="b") != kept()


def test_negatives_are_drawn_evenly():
    """By chance alone, whatever their penalties."""
    rewards, penalties = [1.0] * 4 + [0.0] * 8, [0.0] * 4 + [0.0, 2.0] * 4
    n = 3000
    kept = np.mean([roc.choose(rewards, penalties, 6, group=str(i)).kept[4:] for i in range(n)], axis=0)
    assert (np.abs(kept - 0.5) < 4.5 * math.sqrt(0.25 / n)).all()


# ---------------------------------------------------------------- advantages


@pytest.mark.parametrize(("ddof", "stated"), [(1, (1.43614, -0.65279)), (0, (1.48324, -0.67420))])
def test_advantages_of_five_right_of_sixteen(ddof, stated):
    found = roc.advantages(np.array([1.0] * 5 + [0.0] * 11), ddof)
    assert (found[0], found[-1]) == pytest.approx(stated, abs=1e-5) and found.sum() == pytest.approx(0, abs=1e-9)


def test_equal_rewards_teach_nothing_and_one_alone_is_refused():
    assert (roc.advantages(np.full(4, 0.3)) == 0).all()
    with pytest.raises(ValueError, match="two rewards"):
        roc.advantages(np.ones(1))


@pytest.mark.parametrize(("epsilon", "wanted"), [(1e-3, (1.0000, 0.5452, 0.2729, 0.1820)), (0.1, (0.9607, 0.5363, 0.2974, 0.2056))])  # fmt: skip
def test_chances_are_the_reference_figures(epsilon, wanted):
    found = roc.chances(np.array([0, 0.5, 1, 1.5]), 2, epsilon)
    assert found == pytest.approx(wanted, abs=6e-5) and found.sum() == pytest.approx(2, abs=1e-6)


def by_enumeration(penalties, k, epsilon):
    """Every order in which k may be drawn, one after the other among those left."""
    weights = 1 / (np.asarray(penalties) + epsilon)
    found = np.zeros(len(weights))
    for drawn in itertools.permutations(range(len(weights)), k):
        left, chance = weights.sum(), 1.0
        for i in drawn:
            chance *= weights[i] / left
            left -= weights[i]
        found[list(drawn)] += chance
    return found


@pytest.mark.parametrize("penalties", [(0, 0, 0.5), (0.2, 0.9, 1.7, 0.4, 0.1), (0, 0, 0, 1, 2), (0.5,) * 5])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_chances_are_those_of_every_order_of_drawing(penalties, k):
    assert roc.chances(np.array(penalties, float), k, 1e-3) == pytest.approx(
        by_enumeration(penalties, k, 1e-3), abs=1e-5
    )
    assert roc.chances(np.array(penalties, float), len(penalties)).tolist() == [1.0] * len(penalties)
