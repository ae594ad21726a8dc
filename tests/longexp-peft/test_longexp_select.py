"""Sets of neurons: smallest, monotone, by brute force; the published rule and what it throws away; FLOPs by hand."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from longexp_models import make

from longexp_peft import amdahl, select
from longexp_peft.predictor import settle

energies = st.lists(st.floats(0, 1e3), min_size=1, max_size=9).map(lambda x: torch.tensor(x, dtype=torch.float64))


@settings(max_examples=80, deadline=None)
@given(energies, st.floats(0, 1))
def test_no_smaller_set_loses_as_little(energy, lost):
    kept = select.smallest(energy, lost)
    total = float(energy.sum())
    slack = 1e-9 * total
    assert float(energy[~kept].sum()) <= lost * total + slack
    if total > 0:
        for size in range(int(kept.sum())):
            for some in itertools.combinations(range(len(energy)), size):
                assert total - float(energy[list(some)].sum()) > lost * total - slack
    else:
        assert not kept.any()


@settings(max_examples=80, deadline=None)
@given(energies, st.integers(0, 100).map(lambda x: x / 128), st.integers(0, 100).map(lambda x: x / 128))
def test_a_larger_budget_never_keeps_less(energy, a, b):
    more, less = (select.smallest(energy, x) for x in (min(a, b), max(a, b)))
    assert (less <= more).all()
    assert select.recall(energy, more) >= select.recall(energy, less) - 1e-12
    assert select.density(energy, 1 - min(a, b)) == pytest.approx(
        float(more.float().mean()), abs=1 / len(energy) + 1e-9
    )


def test_blocks_and_their_members():
    energy = torch.arange(10.0)
    assert select.by_block(energy, 4).tolist() == [6, 22, 17]
    assert select.members(torch.tensor([True, False, True]), 4, 10).tolist() == [True] * 4 + [False] * 4 + [True] * 2


def test_sixteen_bit_activations_do_not_overflow():
    h = torch.full((4096, 2), 100.0, dtype=torch.float16)
    assert select.energies(h, torch.ones(2)).tolist() == pytest.approx([4096e4] * 2, rel=1e-6)


def test_the_published_rule_drops_a_block_with_one_giant():
    """Why it is not ours: its threshold is relative to the block's own maximum."""
    activation = torch.full((256,), 0.5)
    activation[7] = 1000.0
    kept = select.published(activation, 0.01)
    assert kept.tolist() == [False, True]  # the block that holds nearly everything is the one that goes
    assert select.recall(activation, select.members(kept, 128, 256)) < 0.07
    ours = select.smallest(activation.square(), 0.01)
    assert ours[7] and int(ours.sum()) == 1


def test_what_a_predictor_may_leave_out_is_settled_on_recall():
    draw = torch.Generator().manual_seed(0)
    truth = [torch.rand(40, generator=draw).pow(4) for _ in range(20)]
    lost, blocks = settle(truth, truth, 0.95)  # a predictor that knows
    assert lost == pytest.approx(0.05)  # and of two or four at once, as it knows the sums too
    worse = [t * torch.rand(40, generator=draw) for t in truth]
    tight, more = settle(worse, truth, 0.95)
    assert tight < lost and more > blocks
    kept = sorted(select.recall(t, select.smallest(s, tight)) for s, t in zip(worse, truth, strict=True))
    assert kept[2] >= 0.95


def by_hand(hidden, ffn, layers, vocab, lengths, labels):
    """2 · 4d² and 2 · 2dF a token forward, once more for dX; 7 · n² d of attention; the head at labels twice."""
    tokens = sum(lengths)
    return (
        layers * tokens * 2 * 2 * (4 * hidden**2 + 2 * hidden * ffn) + layers * sum(7 * n * n * hidden for n in lengths) + 4 * vocab * hidden * labels
    )  # fmt: skip


def test_operations_by_hand():
    model = make("opt")
    found = amdahl.parts(model, [10, 7], 5, first=-1)  # something trains below layer 0
    assert found.total == by_hand(32, 64, 3, 97, [10, 7], 5)
    # Nothing below the first layer that trains goes backward; the first one's own q, k, v need no dX.
    first = amdahl.parts(model, [10, 7], 5, first=1)
    assert found.proj - first.proj == 17 * 2 * (4 * 32**2) + 17 * 2 * 3 * 32**2
    assert found.mlp - first.mlp == 17 * 2 * 2 * 32 * 64
    half = amdahl.parts(model, [10, 7], 5, first=-1, mlp=dict.fromkeys(range(3), 0.5))
    assert half.mlp == found.mlp / 2 and amdahl.bound(found, half) == found.total / (found.total - found.mlp / 2)


def test_bounds_of_the_reference():
    """Amdahl's table: OPT-1.3B at 1024 tokens, shares .58/.29/.06/.07, 1.92 at a quarter of neurons and of attention."""
    import transformers

    config = transformers.OPTConfig(
        hidden_size=2048, ffn_dim=8192, num_hidden_layers=24, num_attention_heads=32, word_embed_proj_dim=2048
    )
    with torch.device("meta"):
        model = transformers.OPTForCausalLM(config)
    dense = amdahl.parts(model, [1024], 1024, first=-1)
    assert [round(x, 2) for x in dense.shares().values()] == [0.58, 0.29, 0.06, 0.07]
    quarter = amdahl.parts(
        model, [1024], 1024, first=-1, mlp=dict.fromkeys(range(24), 0.25), attention=dict.fromkeys(range(24), 0.125)
    )
    assert amdahl.bound(dense, quarter) == pytest.approx(1.92, abs=0.01)
    exact = amdahl.parts(model, [1024], 1024, first=-1, mlp=dict.fromkeys(range(24), amdahl.left("exact", 0.25, False)))
    assert amdahl.left("exact", 0.25, False) == pytest.approx(1 / 2.29, abs=1e-3)
    assert 1.3 < amdahl.bound(dense, exact) < 1.6
    assert amdahl.left("exact", 0.25, True) == pytest.approx((1 + 5 * 0.25) / 6)
