"""The mixing loader: counts against weights, exact resume, limits that hold, and the torch dataset on it.

The picker is checked against one pick at a time written out here, and torch's DataLoader against the row-by-row sequence.
"""

import json
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from datamix_corpus import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader

from datamix.dataset import MixedDataset
from datamix.stream import GOLDEN, Mixer, Picker, Rows, occurrences
from tenfold_shared import BadInput

NAMES = list("abcd")
SKEWED = np.array([0.55, 0.3, 0.1, 0.05])
mixtures = (
    st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda w: sum(w) > 0.1).map(lambda w: np.array(w) / sum(w))
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), {"a": 9_000, "b": 5_000, "c": 2_000, "d": 3_100}, valid=500)


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("seed", range(5))
def test_random_order_is_a_draw_from_the_weights(seed):
    n = 20_000
    chosen = Picker(NAMES, seed, order="random").pick(SKEWED, n)
    counts = np.bincount(chosen, minlength=4)
    assert stats.chisquare(counts, SKEWED * n).pvalue > 1e-3
    assert (np.abs(counts - SKEWED * n) < 3.3 * np.sqrt(n * SKEWED * (1 - SKEWED))).all()
    # Neighbours are independent: the table of pairs has the product of the weights.
    pairs = np.bincount(chosen[::2] * 4 + chosen[1::2], minlength=16)
    assert stats.chisquare(pairs, np.outer(SKEWED, SKEWED).ravel() * n / 2).pvalue > 1e-3


@given(mixtures, st.integers(0, 2**31), st.integers(1, 30_000))
@settings(max_examples=60, deadline=None)
def test_even_order_keeps_to_the_weights_within_a_few(weights, seed, n):
    picker = Picker(NAMES, seed)
    counts = np.bincount(picker.pick(weights, n), minlength=4)
    assert np.abs(counts - n * weights).max() <= 5  # 4.3 is the most seen in 3,000 mixtures
    assert (picker.taken == counts).all()


def test_even_order_is_the_rule_one_at_a_time():
    picker = Picker(NAMES, 9)
    edges = np.cumsum(SKEWED)
    expected = [int(np.searchsorted(edges, (picker._shift + k * GOLDEN) % 1.0, side="right")) for k in range(500)]
    assert picker.pick(SKEWED, 500).tolist() == expected


@pytest.mark.parametrize("order", ["even", "random"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_split_of_the_calls_gives_the_same_picks(order, data):
    whole = Picker(NAMES, 3, order=order).pick(SKEWED, 300)
    picker, parts = Picker(NAMES, 3, order=order), []
    while (left := 300 - sum(map(len, parts))) > 0:
        parts.append(picker.pick(SKEWED, data.draw(st.integers(1, left))))
    assert (np.concatenate(parts) == whole).all()


# ---------------------------------------------------------------- resume and changes


@pytest.mark.parametrize("order", ["even", "random"])
def test_the_next_ten_thousand_picks_after_a_restore(order):
    limits, source = np.array([4000, 10**9, 900, 10**9]), np.array([True, True, False, False])
    kinds = {"order": order, "limits": limits, "source": source, "total_source": 9_500}
    first = Picker(NAMES, 1, **kinds)
    first.pick(SKEWED, 4321)
    second = Picker(NAMES, 1, **kinds)
    second.taken = first.taken.copy()
    assert (first.pick(SKEWED, 10_000) == second.pick(SKEWED, 10_000)).all()
    assert first.taken[:2].sum() == 9_500 and first.taken[0] == 4000  # both limits were met on the way


@given(st.lists(st.tuples(mixtures, st.integers(1, 100)), min_size=1, max_size=6), st.sampled_from(["even", "random"]))
@settings(max_examples=30, deadline=None)
def test_changed_weights_change_only_what_comes_after(parts, order):
    picker = Picker(NAMES, 5, order=order)
    found = np.concatenate([picker.pick(weights, n) for weights, n in parts])
    # A fresh run that is given each pick's weights pick by pick.
    fresh = Picker(NAMES, 5, order=order)
    single = [int(fresh.pick(weights, 1)[0]) for weights, n in parts for _ in range(n)]
    assert found.tolist() == single


@given(
    st.lists(st.tuples(mixtures, st.integers(1, 120)), min_size=1, max_size=6),
    st.lists(st.integers(0, 150), min_size=4, max_size=4),
    st.integers(0, 200),
    st.sampled_from(["even", "random"]),
)
@settings(max_examples=80, deadline=None)
def test_limits_are_never_exceeded(parts, limits, total, order):
    source = np.array([True, True, False, False])
    picker = Picker(NAMES, 2, order=order, limits=np.array(limits), source=source, total_source=total)
    all_of_it = min(limits[0] + limits[1], total) + limits[2] + limits[3]
    drawn = 0
    for weights, n in parts:
        assert picker.left() == all_of_it - drawn
        if n > all_of_it - drawn:
            with pytest.raises(BadInput, match="--max-epochs or --source-budget"):
                picker.pick(weights, n)
            break
        chosen = picker.pick(weights, n)
        drawn += n
        assert len(chosen) == n and (np.bincount(chosen, minlength=4) <= picker.taken).all()
    assert (picker.taken <= limits).all() and picker.taken[:2].sum() <= total


def test_what_is_used_up_leaves_its_weight_to_the_others_in_proportion():
    picker = Picker(NAMES, 0, limits=np.array([100, 10**9, 10**9, 10**9]))
    picker.pick(SKEWED, 1000)
    assert picker.taken[0] == 100
    before = picker.taken.copy()
    picker.pick(SKEWED, 9000)
    rest = SKEWED[1:] / SKEWED[1:].sum()
    assert np.abs((picker.taken - before)[1:] - 9000 * rest).max() <= 4


@given(st.lists(st.integers(0, 3), max_size=60))
def test_occurrences_counts_before(chosen):
    expected = [chosen[:i].count(d) for i, d in enumerate(chosen)]
    assert occurrences(np.array(chosen, dtype=np.int64), 4).tolist() == expected


# ---------------------------------------------------------------- rows


def test_an_epoch_visits_every_row_once(corpus):
    rows = Rows(corpus, 32, seed=4)
    for d, name in enumerate(corpus.names):
        n = int(rows.per_epoch[d])
        text = np.asarray(corpus.tokens(name, "train")).astype(np.int64)
        for epoch in range(2):
            starts = rows._starts(d, np.arange(n) + epoch * n)
            offset = starts.min()
            assert sorted(starts) == list(range(offset, offset + 32 * n, 32)) and starts.max() + 33 <= len(text)
            found = rows.at(np.full(n, d), np.arange(n) + epoch * n)
            assert all((row == text[s : s + 33]).all() for row, s in zip(found, starts, strict=True))
    assert (rows.limits(1.5) == np.floor(rows.per_epoch * 1.5)).all() and rows.limits(0) is None


def test_a_domains_rows_do_not_depend_on_what_others_give(corpus):
    sequences = []
    for weights, seed in ((SKEWED, 1), (SKEWED[::-1], 2)):
        mixer = Mixer(Rows(corpus, 32, seed=4), Picker(corpus.names, seed))
        drawn = [mixer.draw(weights, n) for n in (7, 300, 93)]
        tokens, domains = (np.concatenate(x) for x in zip(*drawn, strict=True))
        sequences.append([tokens[domains == d] for d in range(4)])
    for one, other in zip(*sequences, strict=True):
        shared = min(len(one), len(other))
        assert shared > 10 and (one[:shared] == other[:shared]).all()


def test_a_domain_shorter_than_a_row_is_refused(corpus):
    with pytest.raises(BadInput, match=r"c: 20.. tokens are fewer than one row of 2501"):
        Rows(corpus, 2500, seed=0)


# ---------------------------------------------------------------- MixedDataset


def rows_of(dataset, n):
    return [(int(row["domain"]), tuple(row["input_ids"].tolist())) for row in islice(iter(dataset), n)]


def test_dataset_is_the_mixer_row_by_row(corpus):
    dataset = MixedDataset(corpus, 32, SKEWED, seed=6, block=50)
    again = MixedDataset(corpus, 32, dict(zip(corpus.names, SKEWED, strict=True)), seed=6)
    mixer = Mixer(Rows(corpus, 32, dataset._rows.seed), Picker(corpus.names, 6))
    tokens, domains = mixer.draw(SKEWED, 200)
    assert rows_of(dataset, 200) == [(d, tuple(t[:-1])) for d, t in zip(domains.tolist(), tokens.tolist(), strict=True)]
    drawn = [again.draw(n) for n in (3, 150, 47)]
    assert (torch.cat([x["tokens"] for x in drawn]).numpy() == tokens).all()
    pairs = MixedDataset(corpus, 32, SKEWED, seed=6, pairs=True)
    for (x, y), row in zip(pairs, tokens[:50], strict=False):
        assert (x.numpy() == row[:-1]).all() and (y.numpy() == row[1:]).all()


@given(st.lists(st.tuples(mixtures, st.integers(0, 130)), min_size=1, max_size=5), st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_new_weights_count_from_the_next_row(corpus, parts, block):
    dataset = MixedDataset(corpus, 16, SKEWED, seed=2, block=block)
    picker, rows = Picker(corpus.names, 2), iter(dataset)
    for weights, n in [(SKEWED, 33), *parts]:
        dataset.set_weights(weights)
        assert [int(next(rows)["domain"]) for _ in range(n)] == picker.pick(weights, n).tolist()
    assert (dataset.taken_at(dataset.position) == picker.taken).all()


@pytest.mark.parametrize("world", [2, 4])
def test_any_world_size_reads_the_same_sequence(corpus, world):
    whole = MixedDataset(corpus, 32, SKEWED, seed=1, max_epochs=2, source_budget=32 * 300)
    expected = rows_of(whole, 80)
    whole.set_weights(SKEWED[::-1])
    expected += rows_of(whole, 320)
    ranks = [MixedDataset(corpus, 32, SKEWED, seed=1, rank=r, world_size=world, max_epochs=2, source_budget=32 * 300, block=9) for r in range(world)]  # fmt: skip
    parts = [rows_of(one, 80 // world) for one in ranks]
    assert {one.set_weights(SKEWED[::-1]) for one in ranks} == {80}
    parts = [part + rows_of(one, 320 // world) for part, one in zip(parts, ranks, strict=True)]
    assert [row for rows in zip(*parts, strict=True) for row in rows] == expected


def test_state_goes_on_exactly_and_on_another_number_of_ranks(corpus):
    first = MixedDataset(corpus, 32, SKEWED, seed=1, max_epochs=3, block=64)
    rows_of(first, 101)
    first.set_weights(SKEWED[::-1])
    rows_of(first, 41)
    state = json.loads(json.dumps(first.state_dict()))
    expected = rows_of(first, 300)
    for world in (1, 3):
        ranks = [
            MixedDataset(corpus, 32, np.ones(4) / 4, seed=1, rank=r, world_size=world, max_epochs=3)
            for r in range(world)
        ]
        for one in ranks:
            one.load_state_dict(state)
        order = [(142 + i) % world for i in range(300)]
        rows = [iter(rows_of(one, 300 // world)) for one in ranks]
        assert [next(rows[r]) for r in order] == expected
    # The state of an earlier moment, as a loader that reads ahead needs it.
    earlier = MixedDataset(corpus, 32, np.ones(4) / 4, seed=1, max_epochs=3)
    earlier.load_state_dict(first.state_dict(95))
    assert rows_of(earlier, 347)[47:] == expected
    assert (first.taken_at(95) != first.taken_at(101)).any()


def test_text_that_ends_is_read_to_its_end_and_then_told(corpus):
    for world in (1, 3):
        ranks = [
            MixedDataset(corpus, 32, SKEWED, rank=r, world_size=world, max_epochs=1, source_budget=32 * 100)
            for r in range(world)
        ]
        per_epoch = Rows(corpus, 32, 0).per_epoch
        total = 100 + int(per_epoch[~corpus.source].sum())
        got = []
        for one in ranks:
            rows = iter(one)
            with pytest.raises(BadInput, match="every domain has given all it may"):
                while True:
                    got.append(int(next(rows)["domain"]))
        assert len(got) == total and sum(corpus.source[got]) == 100


def test_bad_weights_positions_and_states(corpus):
    dataset = MixedDataset(corpus, 32, SKEWED)
    rows_of(dataset, 10)
    for bad, told in (
        (SKEWED * 2, "sum to 2"),
        (SKEWED[:2], "2 numbers"),
        ({"x": 1.0}, "no such domain"),
        (SKEWED * np.nan, "numbers"),
    ):
        with pytest.raises(BadInput, match=told):
            dataset.set_weights(bad)
    with pytest.raises(BadInput, match="position 9 is gone"):
        dataset.set_weights(SKEWED, at=9)
    with pytest.raises(BadInput, match="drawn rows 0 to 10"):
        dataset.taken_at(11)
    state = dataset.state_dict()
    for change, told in (
        ({"seed": 5}, "seed"),
        ({"length": 64}, "length"),
        ({"taken": {"a": 1}}, "taken"),
        ({"changes": []}, "changes"),
        ({"schema": "x/9"}, "schema"),
    ):
        with pytest.raises(BadInput, match=f"state: {told}"):
            dataset.load_state_dict({**state, **change})
    with pytest.raises(BadInput, match="rank 2"):
        MixedDataset(corpus, 32, SKEWED, rank=2, world_size=2)


def batches(dataset, n, **loader):
    return [b["input_ids"] for b in islice(DataLoader(dataset, batch_size=8, **loader), n)]


@pytest.mark.parametrize(
    ("workers", "context"), [(1, "fork"), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.deep)]
)
def test_workers_give_the_batches_of_none(corpus, workers, context):
    expected = batches(MixedDataset(corpus, 32, SKEWED, seed=3), 14)
    dataset = MixedDataset(corpus, 32, SKEWED, seed=3, batch_size=8)
    found = batches(dataset, 14, num_workers=workers, multiprocessing_context=context)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    # Without the batch size, the same rows a round of batches.
    loose = torch.cat(
        batches(MixedDataset(corpus, 32, SKEWED, seed=3), 12, num_workers=workers, multiprocessing_context="fork")
    )
    assert {tuple(r) for r in loose[: 4 * 8 * workers].tolist()} <= {tuple(r) for r in torch.cat(expected).tolist()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_change_reaches_all_workers_at_one_position(corpus, workers):
    dataset = MixedDataset(corpus, 32, np.array([1.0, 0, 0, 0]), seed=3, batch_size=4)
    loader = iter(DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context="fork"))
    found = [next(loader) for _ in range(6)]
    at = [dataset.set_weights(np.array([0, 0.5, 0.5, 0]))]
    found += [next(loader) for _ in range(60)]
    at.append(dataset.set_weights(np.array([0, 0, 0, 1.0])))
    found += [next(loader) for _ in range(60)]
    with pytest.raises(BadInput, match="workers draw ahead"):
        dataset.state_dict()
    domains = torch.cat([b["domain"] for b in found]).numpy()
    assert 24 <= at[0] < 24 + 400 and at[0] < at[1]
    assert (
        (domains[: at[0]] == 0).all()
        and np.isin(domains[at[0] : at[1]], [1, 2]).all()
        and (domains[at[1] :] == 3).all()
    )
    assert len(domains) > at[1] + 4
    # One process that is told the same positions reads the same rows, and so does a run that goes on from a state of the middle.
    single = MixedDataset(corpus, 32, np.array([1.0, 0, 0, 0]), seed=3)
    single.set_changes(dataset.changes)
    assert (single.draw(len(domains))["tokens"][:, :-1] == torch.cat([b["input_ids"] for b in found])).all()
    resumed = MixedDataset(corpus, 32, SKEWED, seed=3)
    resumed.load_state_dict(dataset.state_dict(264))
    assert (resumed.draw(50)["tokens"][:, :-1] == torch.cat([b["input_ids"] for b in found])[264:314]).all()


def test_a_copy_has_a_state_of_its_own(corpus):
    dataset = MixedDataset(corpus, 32, SKEWED, seed=3)
    rows_of(dataset, 20)
    copy = pickle.loads(pickle.dumps(dataset))
    copy.set_weights(SKEWED[::-1])
    assert (dataset.weights == SKEWED).all() and dataset.next_change == copy.next_change == 20
    dataset.set_weights(SKEWED[::-1])
    assert rows_of(copy, 30) == rows_of(dataset, 30)


def test_picking_a_million_rows_is_a_few_numpy_calls(corpus, monkeypatch):
    """The bookkeeping's cost as a count: one draw of numbers a block, whatever the number of rows."""
    calls = []
    uniform = Picker._uniform
    monkeypatch.setattr(Picker, "_uniform", lambda self, start, n: calls.append(n) or uniform(self, start, n))
    dataset = MixedDataset(corpus, 32, SKEWED)
    dataset.draw(2_000_000 // 32)
    assert len(calls) <= 2
    calls.clear()
    assert int(dataset.taken_at(60_000).sum()) == 60_000 and len(calls) == 1
