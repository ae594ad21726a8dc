"""Device code in the decoder, in Triton's interpreter, beside what PyTorch does without: same blocks, same logits, same loss."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from seer_models import config, draw
from test_seer_cache import model_of, tokens

from seer_decode import attend, kernels, truth
from seer_decode.cache import SeerCache, attached
from seer_decode.gate import Gates
from seer_decode.select import Policy, Selection, blocks_of, select
from tenfold_kernels import device

BLOCK = 16


def gate_of(how, seed=0, kind="llama"):
    """One layer's gate on heads of 64, with norms that are not 1."""
    gate = Gates.of(config(kind, head_dim=64), seed=seed, block=BLOCK, **how)[0]
    for at, norm in enumerate((gate.query_norm, gate.key_norm)):
        if norm is not None:
            norm.data = 1 + draw(*norm.shape, seed=at, scale=0.3)
    return gate.requires_grad_(False)


def test_without_a_gpu_nothing_is_the_kernels():
    gate, x = gate_of({}), torch.zeros(1, 2, 8, 64)
    assert not kernels.usable(x) and not kernels.chooses(gate, Policy("budget", 64, BLOCK), x)
    with device.interpreter(True):
        assert kernels.usable(x) and kernels.chooses(gate, Policy("budget", 64, BLOCK), x)
        assert not kernels.usable(x.double()) and not kernels.usable(x[..., :8])
        assert not kernels.chooses(gate, Policy("budget", 64, BLOCK), torch.zeros(1, 2, 8193, 64))


@pytest.mark.parametrize(
    "policy",
    [
        Policy("mass", 0.5, BLOCK),
        Policy("ratio", 0.5, BLOCK),
        Policy("budget", 64, BLOCK, local=2),
        Policy("budget", 64, BLOCK, sink=2),
        Policy("budget", 64, BLOCK, paper_compat=True),
    ],
    ids=["mass", "ratio", "local", "sinks", "paper"],
)
def test_what_the_kernel_does_not_choose(policy):
    with device.interpreter(True):
        assert not kernels.chooses(gate_of({}), policy, torch.zeros(1, 2, 8, 64))


@pytest.mark.parametrize("pooling", ["Qavgproj", "Qavg", "Qorig"])
def test_gates_that_the_kernel_does_not_score(pooling):
    with device.interpreter(True):
        policy = Policy("budget", 64, BLOCK)
        assert not kernels.chooses(gate_of({"query_pooling": pooling}), policy, torch.zeros(1, 2, 8, 64))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 12 * BLOCK), min_size=1, max_size=3),
    st.sampled_from(["budget", "threshold"]),
    st.integers(0, 1),
    st.integers(1, 14),
    st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
    st.sampled_from([0, 1, 3]),
    st.booleans(),
    st.sampled_from([{}, {"qk_norm": False, "rope": False}, {"gate_dim": 32}]),
    st.integers(0, 1000),
)
def test_the_kernel_chooses_as_select(lengths, kind, sink, most, tau, equal, spread, how, seed):
    """Scores are the gate's; blocks are those that select.select takes by the same scores, ties and the tail among them."""
    lengths = torch.tensor(lengths)
    most = max(most, sink + 1)
    policy = Policy(kind, most * BLOCK + 5 if kind == "budget" else tau, BLOCK, sink=sink).checked()
    gate = gate_of(how, seed)
    query = draw(len(lengths), 4, 64, seed=seed)
    held = 13  # more than any sequence fills
    compressed = draw(len(lengths), 2, held, gate.shape.gate_dim, seed=seed + 1, scale=3.0 if spread else 0.3)
    if equal:
        compressed = compressed[:, :, :equal].repeat(1, 1, held, 1)[:, :, :held]
    at = (lengths - 1)[:, None]
    plain = gate.scores(gate.query_features(query[:, :, None], at), compressed)[:, :, 0]
    compressed[:, :, 12:] = torch.nan  # what no sequence has scored is not read
    with device.interpreter(True):
        chosen, scores = kernels.choose(gate, query, compressed, lengths, policy)
    before = (torch.arange(held) < blocks_of(lengths, BLOCK)[:, None] - 1)[:, None].expand_as(scores)
    assert torch.allclose(scores[before], plain[before], rtol=1e-5, atol=1e-5)
    assert torch.isneginf(scores[~before]).all()
    if kind == "threshold" and tau:
        share = scores.double().softmax(-1).nan_to_num(0.0)
        assume(not ((share - tau).abs() < 1e-6).any())  # float32 may round it to either side
    expected = select(scores, lengths, policy)
    assert torch.equal(chosen.mask(held), expected.mask(held)) and torch.equal(chosen.counts, expected.counts)
    width = expected.indices.shape[-1]
    assert torch.equal(chosen.indices[..., :width], expected.indices) and (chosen.indices[..., width:] == -1).all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 96), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_the_kernel_attends_as_pytorch(lengths, group, most, seed):
    lengths, stored, held = torch.tensor(lengths), 2, 6
    batch = len(lengths)
    q = draw(batch, stored * group, 64, seed=seed)
    k, v = (draw(batch, stored, held * BLOCK, 64, seed=seed + at) for at in (1, 2))
    exists = (torch.arange(held) < blocks_of(lengths, BLOCK)[:, None])[:, None]
    mask = (draw(batch, stored, held, seed=seed + 3).argsort(-1) < most) & exists
    chosen = Selection.of_mask(mask, held)
    with device.interpreter(True):
        found = kernels.attend(q, k, v, lengths, chosen, BLOCK, 0.3)
    assert torch.allclose(found, attend.blocks(q, k, v, lengths, chosen, BLOCK, 0.3), atol=1e-5)


@torch.no_grad()
def steps(model, ids, cache, mask, count=2):
    """Logits of `count` steps, (B, count, V), after a prefill of what is before them."""
    positions, found = (mask.cumsum(1) - 1).clamp_min(0), []
    first = ids.shape[1] - count
    for a, b in [(0, first), *((at, at + 1) for at in range(first, ids.shape[1]))]:
        found.append(model(ids[:, a:b], attention_mask=mask[:, :b], position_ids=positions[:, a:b], past_key_values=cache).logits)  # fmt: skip
    return torch.cat(found[1:], 1)


def counted(monkeypatch):
    """How often each function of kernels.py is called."""
    calls = dict.fromkeys(("attend", "choose"), 0)

    def counting(name, original):
        def call(*args):
            calls[name] += 1
            return original(*args)

        return call

    for name in calls:
        monkeypatch.setattr(kernels, name, counting(name, getattr(kernels, name)))
    return calls


@pytest.mark.parametrize(
    ("kind", "method", "policy", "chosen"),
    [
        ("qwen", "seer", Policy("budget", 48, BLOCK, sink=1), True),
        ("llama", "seer", Policy("threshold", 0.2, BLOCK), True),
        ("llama", "seer", Policy("mass", 0.6, BLOCK), False),
        ("llama", "oracle", Policy("budget", 32, BLOCK), False),
    ],
    ids=["budget", "threshold", "mass", "oracle"],
)
def test_a_model_decodes_the_same(kind, method, policy, chosen, monkeypatch):
    """A padded batch in which a block fills: logits, and what was read."""
    model = model_of(kind, head_dim=64, num_hidden_layers=2)
    gates = Gates.of(model.config, seed=1, block=BLOCK) if method == "seer" else None
    ids, mask = tokens(2, 81), torch.ones(2, 81, dtype=torch.long)
    mask[0, :22] = 0
    calls, made = counted(monkeypatch), []
    for on in (True, False):
        with attached(model), device.interpreter(on):
            cache = SeerCache(model, policy, method, gates)
            made.append((steps(model, ids, cache, mask), [cache.trace.of(row) for row in range(len(ids))]))
        assert calls["attend"] > 0 and (calls["choose"] > 0) == chosen
    assert calls["attend"] <= 2 * 2  # the second run calls none
    (one, seen), (other, expected) = made
    assert seen == expected and cache.density() < 1
    assert torch.allclose(one, other, atol=1e-4)


def test_everything_read_is_dense_by_kernels_too():
    model, ids = model_of(head_dim=64, num_hidden_layers=1), tokens(1, 60)
    with attached(model), device.interpreter(True):
        cache = SeerCache(model, Policy("threshold", 0.0, BLOCK), "seer", Gates.of(model.config, seed=1, block=BLOCK))
        found = steps(model, ids, cache, torch.ones_like(ids))
    assert cache.density() == 1.0 and torch.allclose(found, model(ids).logits[:, -2:], atol=1e-4)


@pytest.mark.parametrize("heads", [(4, 2), (3, 1)])
@pytest.mark.parametrize("rows", [None, range(30, 61), [3, 40, 69]])
@pytest.mark.parametrize("size", [4 * 2 * 5 * 9, 1 << 26])
def test_targets_are_pytorchs(heads, rows, size, monkeypatch):
    q, k = draw(heads[0], 70, 64, seed=1, scale=2), draw(heads[1], 70, 64, seed=2)
    rows = None if rows is None else torch.tensor(list(rows))
    plain = list(truth.chunks(q, k, BLOCK, rows=rows, scale=0.2))
    together = rows is None or len(rows) > 3
    if together:
        monkeypatch.setattr(truth, "peaks", None)  # not asked
    with device.interpreter(True):
        found = list(truth.chunks(q, k, BLOCK, rows=rows, scale=0.2, chunk_bytes=size))
    assert torch.equal(torch.cat([at for at, _ in found]), torch.cat([at for at, _ in plain]))
    assert torch.allclose(torch.cat([gt for _, gt in found], 1), torch.cat([gt for _, gt in plain], 1), atol=1e-5)
    assert not together or all(gt.nbytes <= size for _, gt in found)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_the_loss_and_its_gradient_are_the_same(ratio):
    gate = gate_of({}).requires_grad_(True)
    before = draw(4, 70, 64, seed=1), draw(2, 70, 64, seed=2)
    after = draw(4, 70, 64, seed=3), draw(2, 70, 64, seed=4)
    made = []
    for on in (True, False):
        gate.zero_grad()
        with device.interpreter(on):
            loss = truth.sequence_loss(gate, *before, *after, slice_ratio=ratio, backward=True)
        made.append([loss, *(p.grad.clone() for p in gate.parameters())])
    for one, other in zip(*made, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
