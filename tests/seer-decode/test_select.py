"""Selections beside their definitions, and what methods rank by."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seer_models import draw

from seer_decode.select import (
    Policy,
    Selection,
    attention,
    coverage,
    key_bounds,
    oracle_scores,
    quest_scores,
    random_scores,
    recent_scores,
    select,
)
from tenfold_shared import BadInput

B = 16
CASES = st.tuples(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 2**31), st.booleans())  # fmt: skip


def scored(case):
    """Lengths, scores (B, H, N) with ties where the case asks for them."""
    lengths, heads, seed, tied = case
    z = draw(len(lengths), heads, max(-(-s // B) for s in lengths), seed=seed, scale=2)
    return torch.tensor(lengths), z.round() if tied else z


def lists(found):
    """Each row's blocks as a list, the form checked on the way."""
    assert found.indices.dtype == found.counts.dtype == torch.int32
    rows = {}
    for b in range(found.counts.shape[0]):
        for h in range(found.counts.shape[1]):
            n = int(found.counts[b, h])
            row = found.indices[b, h].tolist()
            assert row[:n] == sorted(set(row[:n])) and set(row[n:]) <= {-1} and min(row[:n]) >= 0
            rows[b, h] = row[:n]
    assert found.indices.shape[-1] == max(len(row) for row in rows.values())
    return rows


def softmax(values):
    top = max(values, default=0.0)
    shares = [math.exp(v - top) for v in values]
    return [s / sum(shares) for s in shares]


def blocks(length):
    return -(-length // B)


@settings(max_examples=150, deadline=None)
@given(CASES, st.integers(B, 260), st.integers(0, 3), st.integers(1, 3))
def test_a_budget_is_a_ceiling_met_exactly(case, budget, sink, local):
    lengths, z = scored(case)
    most = budget // B
    if sink + local > most:
        with pytest.raises(BadInput, match="blocks of 16"):
            select(z, lengths, Policy("budget", budget, B, sink, local))
        return
    rows = lists(select(z, lengths, Policy("budget", budget, B, sink, local)))
    for (b, h), row in rows.items():
        nb = blocks(int(lengths[b]))
        assert len(row) == min(most, nb) and len(row) * B <= budget and max(row) == nb - 1
        forced = {j for j in range(nb) if j < sink or j > nb - 1 - local}
        order = sorted(set(range(nb)) - forced, key=lambda j: (-float(z[b, h, j]), j))
        assert set(row) == forced | set(order[: max(0, min(most, nb) - len(forced))])


@settings(max_examples=80, deadline=None)
@given(CASES, st.sampled_from(["budget", "ratio", "threshold", "mass"]), st.integers(0, 2))
def test_more_is_never_less(case, kind, sink):
    lengths, z = scored(case)
    steps = {
        "budget": [64, 80, 100, 128, 512],
        "ratio": [0.01, 0.1, 0.3, 0.7, 1.0],
        "threshold": [1.0, 0.5, 0.2, 0.01, 0.0],
        "mass": [0.01, 0.3, 0.5, 0.9, 1.0],
    }[kind]
    last = None
    for value in steps:
        rows = {key: set(row) for key, row in lists(select(z, lengths, Policy(kind, value, B, sink))).items()}
        assert last is None or all(last[key] <= rows[key] for key in rows)
        last = rows
    assert all(row == set(range(blocks(int(lengths[b])))) for (b, _), row in last.items())  # all of it is dense


@settings(max_examples=100, deadline=None)
@given(CASES, st.floats(0.001, 0.9), st.integers(0, 2))
def test_threshold_and_mass_by_definition(case, value, sink):
    lengths, z = scored(case)
    by_threshold = lists(select(z, lengths, Policy("threshold", value, B, sink)))
    by_mass = lists(select(z, lengths, Policy("mass", value, B, sink)))
    for (b, h), row in by_threshold.items():
        own = blocks(int(lengths[b])) - 1
        forced = {j for j in range(own) if j < sink} | {own}
        shares = softmax([float(v) for v in z[b, h, :own].double()])
        if all(abs(s - value) > 1e-12 for s in shares):
            assert set(row) == forced | {j for j in range(own) if shares[j] > value}
        order, total, prefix = sorted(range(own), key=lambda j: (-float(z[b, h, j]), j)), 0.0, set()
        for j in order:
            if total >= value:
                break
            prefix.add(j)
            total += shares[j]
        if abs(total - value) > 1e-12:
            assert set(by_mass[b, h]) == forced | prefix


@settings(max_examples=60, deadline=None)
@given(CASES, st.sampled_from([0.1, 0.25, 0.3, 0.9]))
def test_ratio_counts_up(case, value):
    lengths, z = scored(case)
    for (b, _), row in lists(select(z, lengths, Policy("ratio", value, B))).items():
        assert len(row) == max(1, math.ceil(round(value * blocks(int(lengths[b])), 9)))


@settings(max_examples=60, deadline=None)
@given(CASES, st.sampled_from([("budget", 64), ("threshold", 0.1), ("mass", 0.6), ("ratio", 0.4), ("dense", 0)]), st.booleans())  # fmt: skip
def test_batch_mates_and_what_comes_after_do_not_matter(case, how, compat):
    lengths, z = scored(case)
    compat = compat and how[0] in ("budget", "threshold")
    policy = Policy(*how, B, paper_compat=compat)
    together = lists(select(z, lengths, policy))
    for b, length in enumerate(lengths.tolist()):
        own = z[b : b + 1].clone()
        own[..., blocks(length) :] = 1e9
        alone = lists(select(own, lengths[b : b + 1], policy))
        shorter = lists(select(z[b : b + 1, :, : blocks(length)], lengths[b : b + 1], policy))
        assert alone == shorter == {(0, h): together[b, h] for h in range(z.shape[1])}


@settings(max_examples=100, deadline=None)
@given(CASES, st.integers(B, 100), st.floats(0.01, 0.5))
def test_the_papers_own_rule(case, budget, tau):
    """k by score, the unfilled block at logit 0 among them, and the first and last."""
    lengths, z = scored(case)
    by_budget = lists(select(z, lengths, Policy("budget", budget, B, paper_compat=True)))
    by_threshold = lists(select(z, lengths, Policy("threshold", tau, B, paper_compat=True)))
    for (b, h), row in by_budget.items():
        nb = blocks(int(lengths[b]))
        values = [float(v) for v in z[b, h, :nb].double()]
        if int(lengths[b]) % B:
            values[-1] = 0.0
        order = sorted(range(nb), key=lambda j: (-values[j], j))
        assert set(row) == set(order[: budget // B]) | {0, nb - 1} and len(row) <= budget // B + 2
        shares = softmax(values)
        if all(abs(s - tau) > 1e-12 for s in shares):
            assert set(by_threshold[b, h]) == {j for j in range(nb) if shares[j] > tau} | {0, nb - 1}


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40 * B), st.integers(0, 2**31)),
    st.sampled_from(
        [("budget", 1), ("budget", 4), ("budget", 9), ("ratio", 0.07), ("ratio", 0.3), ("ratio", 1), ("dense", 0)]
    ),
    st.integers(0, 3),
    st.integers(1, 3),
    st.sampled_from(["plain", "ties", "all", "gaps"]),
)
def test_the_short_way_is_the_long_one(case, how, sink, local, look):
    """Float32 scores of sequences of one length on a CPU are chosen from in NumPy; float64 ones are not."""
    batch, heads, length, seed = case
    kind, value = how
    policy = Policy(kind, max(value, sink + local) * B if kind == "budget" else value, B, sink, local)
    z = draw(batch, heads, blocks(length) + seed % 3, seed=seed, scale=2)
    if look == "ties":
        z = z.round()
    elif look == "all":
        z = z * 0.0  # of both signs
    elif look == "gaps":
        z = z.masked_fill(z < 0.5, -torch.inf)
    z[..., blocks(length) - 1 :] = torch.nan  # the tail's and what is after it are not looked at
    lengths = torch.full((batch,), length)
    short, long = select(z, lengths, policy), select(z.double(), lengths, policy)
    lists(short)
    assert torch.equal(short.indices, long.indices) and torch.equal(short.counts, long.counts)
    if blocks(length) > 1:
        for wrong in (torch.nan, torch.inf):
            z[0, 0, seed % (blocks(length) - 1)] = wrong
            for scores in (z, z.double()):
                with pytest.raises(BadInput, match="NaN or infinity"):
                    select(scores, lengths, policy)


def test_the_papers_rule_exceeds_its_budget_and_ours_does_not():
    z, lengths = torch.tensor([[[-1.0, 5.0, 4.0, -2.0, 9.0]]]), torch.tensor([5 * B - 1])
    assert lists(select(z, lengths, Policy("budget", 2 * B, B, paper_compat=True)))[0, 0] == [0, 1, 2, 4]
    assert lists(select(z, lengths, Policy("budget", 2 * B, B)))[0, 0] == [1, 4]


def test_scores_of_zero_length_gaps_and_infinities():
    z = torch.tensor([[[-torch.inf, 1.0, -torch.inf, 0.0]]])
    lengths = torch.tensor([4 * B])
    assert lists(select(z, lengths, Policy("budget", 3 * B, B)))[0, 0] == [0, 1, 3]  # of equals the lower
    assert lists(select(z, lengths, Policy("mass", 0.9, B)))[0, 0] == [1, 3]
    assert lists(select(z[..., :3], lengths, Policy("threshold", 0.5, B)))[0, 0] == [1, 3]  # the tail needs no score
    none = torch.full((1, 1, 4), -torch.inf)
    assert lists(select(none, lengths, Policy("threshold", 0.5, B)))[0, 0] == [3]
    assert lists(select(torch.zeros(1, 1, 0), torch.tensor([3]), Policy("budget", B, B)))[0, 0] == [0]
    empty = select(torch.zeros(0, 2, 4), torch.zeros(0, dtype=torch.long), Policy("dense", 0, B))
    assert empty.indices.shape == (0, 2, 0) and empty.counts.shape == (0, 2)


@pytest.mark.parametrize(
    ("z", "lengths", "told"),
    [
        (torch.zeros(1, 1, 2), [64], "expected 3 blocks before the tail, got 2"),
        (torch.tensor([[[0.0, float("nan")]]]), [48], "NaN"),
        (torch.tensor([[[0.0, float("inf")]]]), [48], "NaN"),
        (torch.zeros(1, 1, 2), [0], "1 token or more"),
        (torch.zeros(1, 2), [3], "expected"),
        (torch.zeros(2, 1, 2), [3], "expected"),
    ],
)
def test_input_that_is_none(z, lengths, told):
    with pytest.raises(BadInput, match=told):
        select(z, torch.tensor(lengths), Policy("budget", 64, B))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (("budget", 15, 16), "at least one block of 16 tokens"),
        (("budget", math.nan, 16), "budget nan"),
        (("budget", 64.5, 16), "64.5"),
        (("threshold", -0.1, 16), "0 to 1"),
        (("mass", 0.0, 16), "more than 0"),
        (("mass", 1.1, 16), "more than 0"),
        (("ratio", math.nan, 16), "more than 0"),
        (("best", 1, 16), "expected one of budget"),
        (("budget", 64, 24), "got 24"),
        (("budget", 64, 16, -1), "sink -1"),
        (("budget", 64, 16, 0, 0), "local 0"),
        (("mass", 0.5, 16, 0, 1, True), "paper_compat"),
        (("budget", 64, 16, 1, 1, True), "paper_compat"),
    ],
)
def test_policies_that_are_none(how, told):
    with pytest.raises(BadInput, match=told):
        Policy(*how).checked()


def test_rounding_down_is_told():
    assert Policy("budget", 4000, 64).notes == ["budget 4000: rounded down to 3968 tokens, 62 blocks of 64"]
    assert Policy("budget", 4096, 64).notes == [] and Policy("mass", 0.9).notes == []


def test_masks_and_lists_are_one():
    mask = torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(0)) > 0.5
    found = Selection.of_mask(mask)
    assert torch.equal(found.mask(9), mask)
    wide = Selection.of_mask(mask, width=12)
    assert wide.indices.shape == (2, 3, 12) and torch.equal(wide.mask(9), mask)
    with pytest.raises(ValueError, match="width 2"):
        Selection.of_mask(torch.ones(1, 1, 3, dtype=torch.bool), width=2)


# ---------------------------------------------------------------- what methods rank by


def tensors(lengths=(70, 33), heads=4, stored=2, seed=0):
    most = max(lengths)
    return draw(len(lengths), heads, 8, seed=seed, scale=3), draw(len(lengths), stored, most, 8, seed=seed + 1), torch.tensor(lengths)  # fmt: skip


def test_attention_by_blocks_is_the_definition():
    queries, keys, lengths = tensors()
    found = attention(queries, keys, lengths, B)
    for b, length in enumerate(lengths.tolist()):
        for h in range(2):
            logits = queries[b, 2 * h : 2 * h + 2].double() @ keys[b, h, :length].double().T / math.sqrt(8)
            shares = logits.softmax(-1)
            for j in range(5):
                part = shares[:, j * B : (j + 1) * B]
                peak, mass = (part.max(), part.sum(-1).mean()) if part.numel() else (0.0, 0.0)
                assert found.peak[b, h, j].item() == pytest.approx(float(peak), abs=1e-6)
                assert found.mass[b, h, j].item() == pytest.approx(float(mass), abs=1e-6)


def test_the_oracle_is_the_training_target():
    from seer_decode.truth import ground_truth

    queries, keys, lengths = tensors((70,))
    target = ground_truth(queries[0, :, None].expand(-1, 70, -1), keys[0], B)[:, 69]
    scores = oracle_scores(queries, keys, lengths, B)[0, :, :4]
    assert torch.allclose(scores.softmax(-1), target[:, :4], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 1))
def test_the_oracle_covers_most(seed, most, sink):
    queries, keys, lengths = tensors(seed=seed)
    if sink + 1 > most:
        return
    policy = Policy("budget", most * B, B, sink)
    peak = attention(queries, keys, lengths, B).peak
    best = coverage(select(oracle_scores(queries, keys, lengths, B), lengths, policy), peak)
    others = {
        "quest": quest_scores(queries, key_bounds(keys, B)).nan_to_num(0, 0, 0),
        "recent": recent_scores(lengths, 2, B),
        "random": random_scores(lengths, 2, B, seed),
        "noise": draw(2, 2, 5, seed=seed),
    }
    for scores in others.values():
        assert (coverage(select(scores, lengths, policy), peak) <= best + 1e-12).all()
    assert torch.allclose(coverage(select(others["noise"], lengths, Policy("dense", 0, B)), peak), torch.ones(2, 2).double())  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([16, 33, 64]))
def test_quest_bounds_every_logit(seed, length):
    queries, keys, _ = tensors((length,), seed=seed)
    bounds = key_bounds(keys, B)
    scores = quest_scores(queries, bounds, None)
    assert scores.shape == (1, 4, -(-length // B))
    for a in range(4):
        logits = queries[0, a] @ keys[0, a // 2].T / math.sqrt(8)
        for j in range(scores.shape[2]):
            part = keys[0, a // 2, j * B : (j + 1) * B]
            assert scores[0, a, j] >= logits[j * B : (j + 1) * B].max() - 1e-5
            by_hand = torch.maximum(queries[0, a] * part.amax(0), queries[0, a] * part.amin(0)).sum() / math.sqrt(8)
            assert scores[0, a, j].item() == pytest.approx(by_hand.item(), abs=1e-5)
    grouped = scores.unflatten(1, (2, 2))
    assert torch.allclose(quest_scores(queries, bounds, "max"), grouped.amax(2), atol=1e-6)
    assert torch.allclose(quest_scores(queries, bounds, "mean"), grouped.mean(2), atol=1e-6)


def test_recent_blocks_are_the_last():
    lengths = torch.tensor([70, 33])
    rows = lists(select(recent_scores(lengths, 2, B), lengths, Policy("budget", 3 * B, B, sink=1)))
    assert rows[0, 0] == [0, 3, 4] and rows[1, 1] == [0, 1, 2]


def test_random_is_seeded_and_even():
    lengths = torch.tensor([64 * B, 50 * B + 3])
    one = random_scores(lengths, 8, B, seed=1)
    assert torch.equal(one, random_scores(lengths, 8, B, seed=1)) and one.shape == (2, 8, 64)
    assert torch.equal(one[1:, :, :51], random_scores(lengths[1:], 8, B, seed=1))  # no batch mate matters
    for other in (random_scores(lengths, 8, B, seed=2), random_scores(lengths, 8, B, seed=1, layer=1)):
        assert (other == one).float().mean() < 0.01
    many = torch.cat([random_scores(torch.tensor([s]), 8, B)[0] for s in range(1000, 1064)], -1)
    assert many.min() >= 0 and many.max() < 1 and many.mean() == pytest.approx(0.5, abs=0.01)
    assert many.var() == pytest.approx(1 / 12, rel=0.03) and len(many.unique()) > 0.999 * many.numel()
