"""Targets and loss beside the definitions in float64."""

import pytest
import torch
from seer_models import config, draw, loop_truth
from torch.nn.functional import kl_div

from seer_decode.gate import Gates
from seer_decode.truth import chunks, divergence, first_row, ground_truth, past, sequence_loss


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 32, 77])
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (5, 1)])
def test_targets_are_the_pooled_map(tokens, heads):
    queries, keys = draw(heads[0], tokens, 8, seed=1, scale=2), draw(heads[1], tokens, 8, seed=2)
    truth = loop_truth(queries, keys, 16)
    found = ground_truth(queries, keys, 16)
    assert found.dtype == torch.float32 and found.shape == truth.shape
    assert (found.double() - truth).abs().max() < 1e-5
    half = ground_truth(queries.bfloat16(), keys.bfloat16(), 16)
    again = loop_truth(queries.bfloat16(), keys.bfloat16(), 16)
    assert (half.double() - again).abs().max() < 1e-5


def test_equal_logits_share_equally():
    found = ground_truth(torch.zeros(2, 70, 8), draw(1, 70, 8), 16)
    for t in range(70):
        n = t // 16
        assert torch.allclose(found[0, t, :n], torch.full((n,), 1 / max(n, 1)), atol=1e-6)
        assert not found[0, t, n:].any()


def test_a_dominating_key_takes_its_block():
    keys = draw(1, 70, 8)
    keys[0, 20] = 50.0
    found = ground_truth(torch.ones(2, 70, 8), keys, 16)
    assert torch.allclose(found[0, 32:, 1], torch.ones(38), atol=1e-5)


@pytest.mark.parametrize("first", [0, 1, 33, 69, 70])
@pytest.mark.parametrize("size", [1, 4 * 4 * 70 * 7, 1 << 26])
def test_chunks_are_the_whole(first, size):
    queries, keys = draw(4, 70, 8, seed=1), draw(2, 70, 8, seed=2)
    found = list(chunks(queries, keys, 16, first=first, chunk_bytes=size))
    assert [t for at, _ in found for t in at.tolist()] == list(range(first, 70))
    assert size != 1 or all(len(at) == 1 for at, _ in found)
    whole = ground_truth(queries, keys, 16)[:, first:]
    joined = torch.cat([rows for _, rows in found], 1) if found else whole
    assert torch.allclose(joined, whole, atol=1e-6)
    sums = whole.sum(-1)
    begun = torch.arange(first, 70) >= 16
    assert torch.allclose(sums, begun.float().expand_as(sums), atol=1e-4)


def test_a_long_sequence_holds_a_chunk_alone():
    """No tensor of logits is larger than a chunk may be, where the map would be 4096 · 4096."""
    sizes = []
    original = torch.Tensor.logsumexp

    def seen(self, *args, **kwargs):
        sizes.append(self.numel() * self.element_size())
        return original(self, *args, **kwargs)

    torch.Tensor.logsumexp = seen
    try:
        rows = sum(part.shape[1] for _, part in chunks(draw(2, 4096, 8), draw(1, 4096, 8), 64, chunk_bytes=1 << 20))
    finally:
        torch.Tensor.logsumexp = original
    assert rows == 4096 and max(sizes) <= 1 << 20


@pytest.mark.parametrize("first", [0, 20, 32])
def test_divergence_and_its_gradient(first):
    blocks, rows = 5, 70 - first
    target = ground_truth(draw(4, 70, 8, seed=1), draw(2, 70, 8, seed=2), 16)[:, first:]
    scores = draw(2, rows, blocks, seed=3, scale=3).requires_grad_()
    at = torch.arange(first, 70)
    found = divergence(scores, target, 16, at)
    mask = past(at, blocks, 16)
    plain = scores.detach().clone().double().requires_grad_()
    logs = plain.masked_fill(~mask, -1e20).log_softmax(-1)
    truth = kl_div(logs, target.double(), reduction="none").sum(-1)
    assert torch.allclose(found.double(), truth, atol=1e-5)
    early = max(0, 16 - first)
    assert (found[:, :early] == 0).all() and (found[:, early:] > -1e-6).all()
    weights = draw(2, rows, seed=4)
    (found * weights).sum().backward()
    (truth * weights.double()).sum().backward()
    assert torch.allclose(scores.grad.double(), plain.grad, atol=1e-5)
    closed = (scores.detach().masked_fill(~mask, -1e20).softmax(-1) - target) * weights[..., None]
    closed[:, :early] = 0
    assert torch.allclose(scores.grad, closed, atol=1e-5) and not scores.grad.masked_fill(mask, 0).any()


def test_divergence_passes_gradcheck():
    target = ground_truth(draw(2, 40, 8), draw(1, 40, 8), 16).double()
    scores = draw(1, 40, 3, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence(z, target, 16, torch.arange(40)), scores)


def test_divergence_is_zero_exactly_at_the_target():
    target = ground_truth(draw(4, 70, 8, seed=1), draw(2, 70, 8, seed=2), 16)
    exact = target.clamp_min(1e-30).log() + 3.0
    assert divergence(exact, target, 16, torch.arange(70)).abs().max() < 1e-5
    assert divergence(exact + draw(2, 70, 5), target, 16, torch.arange(70))[:, 32:].min() > 1e-7


def reference_loss(gate, before, after, ratio, scale):
    """KLDivLoss(reduction="mean") over the rows that count, in float64, times scale."""
    z = gate(before[0][None], before[1][None])[0].double()
    first = first_row(z.shape[1], ratio)
    target = loop_truth(*after, gate.shape.block)[:, first:]
    mask = past(torch.arange(first, z.shape[1]), z.shape[2], gate.shape.block)
    assert z.shape[1] > first
    logs = z[:, first:].masked_fill(~mask, -1e20).log_softmax(-1)
    return kl_div(logs, target, reduction="none").mean() * scale


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("tokens", [10, 70])
def test_loss_is_the_references(ratio, tokens):
    gate = Gates.of(config(), block=16)[0]
    with torch.no_grad():
        gate.query.mul_(5)
    before = draw(4, tokens, 8, seed=1), draw(2, tokens, 8, seed=2)
    after = draw(4, tokens, 8, seed=3), draw(2, tokens, 8, seed=4)
    truth = reference_loss(gate, before, after, ratio, 10.0)
    truth.backward()
    expected = {name: p.grad.clone() for name, p in gate.named_parameters()}
    gate.zero_grad()
    found = sequence_loss(gate, *before, *after, slice_ratio=ratio)
    assert found.item() == pytest.approx(truth.item(), abs=1e-6) and (truth.item() > 0) == (tokens > 16)
    found.backward()
    graph = {name: p.grad.clone() for name, p in gate.named_parameters()}
    gate.zero_grad()
    alone = sequence_loss(
        gate, *before, *after, slice_ratio=ratio, backward=True, weight=0.5, chunk_bytes=4 * 4 * 70 * 9
    )
    assert alone.item() == pytest.approx(truth.item(), abs=1e-6) and not alone.requires_grad
    for name, p in gate.named_parameters():
        assert torch.allclose(graph[name], expected[name], atol=1e-6)
        assert torch.allclose(p.grad, 0.5 * expected[name], atol=1e-6)


def test_some_rows_are_those_rows():
    gate = Gates.of(config(), block=16)[0]
    before, after = (draw(4, 70, 8, seed=1), draw(2, 70, 8, seed=2)), (draw(4, 70, 8, seed=3), draw(2, 70, 8, seed=4))
    rows = torch.tensor([3, 17, 18, 50, 69])
    whole = ground_truth(*after, 16)
    assert torch.allclose(ground_truth(*after, 16, rows=rows), whole[:, rows], atol=1e-6)
    each = divergence(gate(before[0][None], before[1][None])[0], whole, 16, torch.arange(70))[:, rows]
    for size in (1, 1 << 26):
        found = sequence_loss(gate, *before, *after, rows=rows, backward=True, chunk_bytes=size)
        assert found.item() == pytest.approx(10 * each.sum().item() / (2 * 5 * 5), abs=1e-6)


def test_training_brings_it_down():
    gate = Gates.of(config(), block=16)[0]
    keys = draw(2, 128, 8, seed=2)
    queries = keys.repeat_interleave(2, 0).roll(40, 1) * 3  # each looks some 40 tokens back
    step = torch.optim.Adam(gate.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        step.zero_grad()
        losses.append(sequence_loss(gate, queries, keys, queries, keys, backward=True).item())
        step.step()
    assert losses[-1] < 0.5 * losses[0]


def test_rows_that_count():
    assert [first_row(10, r) for r in (0.0, 0.5, 0.55)] == [0, 5, 6]
    with pytest.raises(ValueError, match="slice_ratio"):
        first_row(10, 1.0)
