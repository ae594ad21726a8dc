"""The error identity of attention, and the Anchor Score against sums written out in float64."""

import pytest
import torch
from ant_models import dense, dense_factors
from hypothesis import given, settings
from hypothesis import strategies as st

from antkv import score as scoring


def drawn(batch=1, heads=4, kv=2, n_q=9, n=9, dim=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, n_q, dim, generator=draw)
    k, v = (torch.randn(batch, kv, n, dim, generator=draw) for _ in range(2))
    return q, k, v


def test_the_identity_is_the_derivative():
    """d o_i = Σ_j A_ij s (q_i·dk_j)(v_j − o_i): the rest shrinks with the square of the step; of values it is exact."""
    q, k, v = (x.double() for x in drawn(heads=1, kv=1))
    dk, dv = (torch.randn(k.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64) for _ in range(2))
    weights, out = dense(q, k, v, 0.4)
    moved = torch.einsum(
        "bhij,bhij,bhijd->bhid", weights, 0.4 * q @ dk.transpose(2, 3), v[:, :, None] - out[:, :, :, None]
    )
    rest = []
    for step in (1e-2, 1e-3, 1e-4):
        _, after = dense(q, k + step * dk, v, 0.4)
        rest.append(float((after - out - step * moved).norm() / step))
    assert rest[1] == pytest.approx(rest[0] / 10, rel=0.1) and rest[2] == pytest.approx(rest[1] / 10, rel=0.1)
    _, after = dense(q, k, v + dv, 0.4)
    assert torch.allclose(after - out, weights @ dv, atol=1e-13)


@given(
    st.integers(1, 2), st.sampled_from([(1, 1), (3, 1), (4, 2), (6, 2)]), st.integers(1, 20), st.integers(0, 30), st.booleans(),
    st.booleans(), st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_factors_against_the_sums(batch, heads, n_q, before, squared, padded, seed):
    q, k, v = drawn(batch, *heads, n_q, n_q + before, 8, seed)
    start = torch.tensor([min(n_q + before - 1, 3 * b) for b in range(batch)]) if padded else None
    found = scoring.attend(q, k, v, 0.35, start)
    _, out = dense(q, k, v, 0.35, start)
    assert torch.allclose(found.out.double(), out, atol=1e-5)
    got = scoring.factors(q, k, v, found, 0.35, squared, start)
    for mine, truth in zip(got, dense_factors(q, k, v, 0.35, squared, start), strict=True):
        assert torch.allclose(mine.double(), truth, rtol=1e-4, atol=1e-5)


def test_blocks_of_queries_are_one_pass(monkeypatch):
    q, k, v = drawn(n_q=50, n=64)
    whole = scoring.attend(q, k, v, 0.3)
    one = scoring.factors(q, k, v, whole, 0.3, True)
    monkeypatch.setattr(scoring, "BLOCK", 7)
    monkeypatch.setattr(scoring, "_flashes", lambda q: False)
    parts = scoring.attend(q, k, v, 0.3)
    assert torch.allclose(parts.out, whole.out, atol=1e-6) and torch.allclose(parts.lse, whole.lse, atol=1e-5)
    for a, b in zip(scoring.factors(q, k, v, whole, 0.3, True), one, strict=True):
        assert torch.allclose(a, b, rtol=1e-5)


def test_chunks_of_queries_add_up():
    """Scores of chunks, each with the queries it has, are those of one pass; `last` is the last chunk alone."""
    q, k, v = drawn(n_q=24, n=24)
    whole = scoring.attend(q, k, v, 0.3)
    one = scoring.factors(q, k, v, whole, 0.3, False)
    fk, fv = torch.zeros_like(one.keys), torch.zeros_like(one.values)
    for at in (0, 8, 16):
        upto = at + 8
        part = scoring.attend(q[:, :, at:upto], k[:, :, :upto], v[:, :, :upto], 0.3)
        found = scoring.factors(q[:, :, at:upto], k[:, :, :upto], v[:, :, :upto], part, 0.3, False)
        fk[:, :, :upto] += found.keys
        fv[:, :, :upto] += found.values
    assert torch.allclose(fk, one.keys, rtol=1e-4) and torch.allclose(fv, one.values, rtol=1e-4)
    last = scoring.factors(q, k, v, whole, 0.3, False, last=8)
    assert torch.allclose(last.values[:, :, :16], found.values[:, :, :16], rtol=1e-4)


def test_properties():
    q, k, v = drawn(n_q=16, n=16)
    found = scoring.attend(q, k, v, 0.3)
    factors = scoring.factors(q, k, v, found, 0.3, False)
    assert torch.allclose(factors.values.sum(-1), torch.full((1, 2), 16.0 * 2), rtol=1e-5)  # n · G
    weights, _ = dense(q, k, v, 0.3)
    own = weights.diagonal(dim1=2, dim2=3).unflatten(1, (2, 2)).sum(2)
    assert (factors.values.double() >= own - 1e-6).all() and (own > 0).all()
    moved = scoring.factors(q, k, v + 100, scoring.attend(q, k, v + 100, 0.3), 0.3, False)
    assert torch.allclose(moved.keys, factors.keys, rtol=2e-3, atol=1e-4)
    same = torch.ones_like(v)
    assert scoring.factors(q, k, same, scoring.attend(q, k, same, 0.3), 0.3, False).keys.abs().max() < 1e-3
    turned = scoring.factors(3 * q, k / 3, v, scoring.attend(3 * q, k / 3, v, 0.3), 0.3, False)
    assert torch.allclose(turned.values, factors.values, rtol=1e-4)
    assert torch.allclose(turned.keys, 3 * factors.keys, rtol=1e-4)
    swap, heads = torch.tensor([1, 0]), torch.tensor([2, 3, 0, 1])
    other = scoring.attend(q[:, heads], k[:, swap], v[:, swap], 0.3)
    swapped = scoring.factors(q[:, heads], k[:, swap], v[:, swap], other, 0.3, False)
    assert torch.allclose(swapped.keys[:, swap], factors.keys, rtol=1e-5)


def test_kinds_of_scores():
    factor = scoring.Factors(torch.tensor([[[4.0, 1.0, 3.0]]]), torch.tensor([[[0.5, 2.0, 1.0]]]))
    assert scoring.score("bound2", factor) is factor
    assert scoring.score("mass", factor).keys is factor.values
    assert scoring.score("mean-mass", factor, first=2, total=6).keys.flatten().tolist() == pytest.approx(
        [0.125, 2 / 3, 0.5]
    )
    assert scoring.score("sink", factor).keys.argmax() == 0 and scoring.score("recent", factor).keys.argmax() == 2
    errors = (torch.tensor([[[1.0, 9.0, 1.0]]]), torch.tensor([[[8.0, 1.0, 1.0]]]))
    found = scoring.score("error", factor, errors=errors)
    assert found.keys.argmax() == 1 and found.values.argmax() == 0
    draws = [scoring.score("random", factor, generator=torch.Generator().manual_seed(3)).keys for _ in range(2)]
    assert torch.equal(*draws)
