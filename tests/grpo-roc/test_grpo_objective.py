"""The objective against a token-by-token NumPy restatement and float64 gradients; clip cases; denominators over micro-batches; log-probabilities in chunks against the whole table."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_roc import objective
from grpo_roc.objective import Clip
from grpo_roc.roc import advantages


def by_hand(logp, old, advantage, mask, denominator, clip):
    """Token by token, as the equation is written."""
    total = 0.0
    for i in range(len(logp)):
        for t in range(len(logp[i])):
            if mask[i][t]:
                ratio = math.exp(logp[i][t] - old[i][t])
                held = min(max(ratio, 1 - clip.low), 1 + clip.high)
                total += -min(ratio * advantage[i], held * advantage[i])
    return total / denominator


def batch(seed, rows=5, columns=7):
    rng = np.random.default_rng(seed)
    logp = rng.normal(-1, 0.5, (rows, columns))
    old = logp + rng.normal(0, 0.3, (rows, columns))
    mask = rng.random((rows, columns)) < 0.7
    mask[0, 0] = True
    return logp, old, rng.normal(size=rows), mask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_loss_is_the_equation(seed):
    logp, old, advantage, mask = batch(seed)
    found, stats = objective.loss(
        torch.tensor(logp), torch.tensor(old), torch.tensor(advantage)[:, None], torch.tensor(mask), 17.0
    )
    assert float(found) == pytest.approx(by_hand(logp, old, advantage, mask, 17.0, Clip()), rel=1e-12, abs=1e-12)
    assert stats.tokens == mask.sum()
    ratio = np.exp(logp - old)
    wide = np.broadcast_to(advantage[:, None], ratio.shape)
    assert stats.clipped_low == (mask & (wide < 0) & (ratio < 0.8)).sum()
    assert stats.clipped_high == (mask & (wide > 0) & (ratio > 1.28)).sum()
    assert stats.kl == pytest.approx(((ratio - 1 - np.log(ratio)) * mask).sum()) and stats.kl >= 0


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"),
    [(1.0, 1.3, False), (1.0, 1.2, True), (1.0, 0.5, True), (-1.0, 0.7, False), (-1.0, 1.5, True), (-1.0, 0.9, True)],
)
def test_where_the_clip_takes_the_gradient_away(advantage, ratio, moves):
    old = torch.tensor([[-1.0]], dtype=torch.float64)
    logp = (old + math.log(ratio)).requires_grad_()
    found, _ = objective.loss(
        logp, old, torch.tensor([[advantage]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool), 1.0
    )
    found.backward()
    # the gradient of -ratio * advantage is -ratio * advantage itself
    assert float(logp.grad) == pytest.approx(-ratio * advantage if moves else 0.0)


def test_masked_tokens_have_no_influence_whatever_they_hold():
    logp, old, advantage, mask = batch(3)
    values = []
    for filler in (0.0, 1e30, -math.inf, math.nan):
        a, b = (torch.tensor(np.where(mask, x, filler)) for x in (logp, old))
        a.requires_grad_()
        found, _ = objective.loss(a, b, torch.tensor(advantage)[:, None], torch.tensor(mask), 9.0)
        found.backward()
        values.append(float(found.detach()))
        assert torch.isfinite(a.grad).all() and (a.grad[~torch.tensor(mask)] == 0).all()
    assert len(set(values)) == 1


def test_parts_of_a_batch_add_up_to_the_whole():
    """One denominator for all: the mean of parts' means would be another number."""
    logp, old, advantage, mask = (torch.tensor(x) for x in batch(5, rows=8))
    tokens = float(mask.sum())
    whole, _ = objective.loss(logp, old, advantage[:, None], mask, tokens)
    for size in (1, 3, 5):
        parts = [
            objective.loss(
                logp[k : k + size], old[k : k + size], advantage[k : k + size, None], mask[k : k + size], tokens
            )[0]
            for k in range(0, 8, size)
        ]
        assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-12)


def test_on_the_first_update_the_ratio_is_one():
    logp, _, advantage, mask = batch(7)
    at = torch.tensor(logp, requires_grad=True)
    found, stats = objective.loss(
        at, at.detach(), torch.tensor(advantage)[:, None], torch.tensor(mask), float(mask.sum())
    )
    assert float(found) == pytest.approx(-(advantage[:, None] * mask).sum() / mask.sum())
    assert stats.kl == stats.clipped_low == stats.clipped_high == 0 and stats.ratio_most == 1


def test_average_of_averages_is_plain_grpos():
    logp, old, advantage, mask = batch(11)
    lengths = torch.tensor(mask.sum(1))
    found, _ = objective.loss(
        torch.tensor(logp), torch.tensor(old), torch.tensor(advantage)[:, None], torch.tensor(mask), float(len(logp)), weight=objective.per_trajectory(lengths)[:, None]
    )  # fmt: skip
    each = [by_hand(logp[i : i + 1], old[i : i + 1], advantage[i : i + 1], mask[i : i + 1], max(mask[i].sum(), 1), Clip()) for i in range(len(logp))]  # fmt: skip
    assert float(found) == pytest.approx(np.mean(each))


def test_advantages_are_the_reference_figures():
    rewards = np.array([1.0] * 5 + [0.0] * 11)
    assert advantages(rewards)[[0, 5]] == pytest.approx([1.43614, -0.65279], abs=1e-5)
    assert advantages(rewards, ddof=0)[[0, 5]] == pytest.approx([1.48324, -0.67420], abs=1e-5)
    assert not advantages(np.ones(8)).any() and abs(advantages(rewards).sum()) < 1e-9


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_log_probabilities_in_chunks_are_the_whole_tables_with_their_gradients(chunk):
    torch.manual_seed(0)
    hidden = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    head = torch.randn(23, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 23, (10,))
    logp, entropy = objective.token_logprobs(hidden, head, targets, temperature=0.7, chunk=chunk, entropy=True)
    whole = torch.log_softmax(hidden @ head.T / 0.7, -1)
    assert torch.allclose(logp, whole[torch.arange(10), targets], atol=1e-12)
    assert torch.allclose(entropy, -(whole.exp() * whole).sum(-1), atol=1e-12) and not entropy.requires_grad
    found = torch.autograd.grad(logp.square().sum(), (hidden, head))
    wanted = torch.autograd.grad(whole[torch.arange(10), targets].square().sum(), (hidden, head))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, wanted, strict=True))


def test_no_rows_give_none():
    logp, entropy = objective.token_logprobs(
        torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(0, dtype=torch.long), entropy=True
    )
    assert logp.shape == entropy.shape == (0,)
