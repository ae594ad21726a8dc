"""Block attention against masked dense attention in float64, and the pool's lists."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longexp_peft import patterns
from longexp_peft.attention import Chosen, Past, attend, block_mass, by_blocks

E, SCALE = 8, 0.4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def dense(q, k, v, mask):
    """(H, n, e) of q (H, n, e), k, v (H, m, e) over mask (H, n, m) by the definition."""
    return (q @ k.transpose(1, 2) * SCALE).masked_fill(~mask, -torch.inf).softmax(-1) @ v


def worst(ours, theirs, inputs):
    g = torch.randn(ours.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    a, b = (
        torch.autograd.grad(ours, inputs, g, retain_graph=True),
        torch.autograd.grad(theirs, inputs, g, retain_graph=True),
    )
    return max(float((x - y).detach().abs().max()) for x, y in [(ours, theirs), *zip(a, b, strict=True)])


def mask_of(chosen, n, block):
    blocks = -(-n // block)
    each = [
        patterns.masks(blocks)[p].repeat_interleave(block, 0).repeat_interleave(block, 1)[:n, :n].tril() for p in chosen
    ]
    return torch.stack(each)


@pytest.mark.parametrize(("heads", "kv"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("n", [1, 15, 64, 131])
def test_listed_blocks_are_masked_dense_attention(heads, kv, n):
    q, k, v = draw(heads, n, E), draw(kv, n, E, seed=1), draw(kv, n, E, seed=2)
    chosen = torch.tensor([0, 2, 9, 16][:heads])
    ours = by_blocks(q, k, v, chosen, 16, SCALE)
    k2, v2 = (x.repeat_interleave(heads // kv, 0) for x in (k, v))
    assert worst(ours, dense(q, k2, v2, mask_of(chosen, n, 16)), (q, k, v)) < 1e-10


def test_a_prefix_is_seen_by_every_document_and_documents_not_by_each_other():
    heads, kv, lengths, p = 4, 2, [40, 7, 16, 70, 16], 5
    total = sum(lengths)
    q, k, v = draw(heads, total, E), draw(kv, total, E, seed=1), draw(kv, total, E, seed=2)
    pk, pv = draw(1, kv, p, E, seed=3), draw(1, kv, p, E, seed=4)
    chosen = Chosen({3: torch.tensor([1, 0, 5, 1])}, 16)
    ours = attend(q[None], k[None], v[None], lengths, scale=SCALE, past=Past(pk, pv), chosen=chosen)[0].transpose(0, 1)
    mask = torch.zeros(heads, total, p + total, dtype=torch.bool)
    mask[:, :, :p] = True
    begin = 0
    for number, n in enumerate(lengths):
        own = mask_of(chosen.by_document[3], n, 16) if number == 3 else torch.ones(heads, n, n, dtype=torch.bool).tril()
        mask[:, begin : begin + n, p + begin : p + begin + n] = own
        begin += n
    k2, v2 = (torch.cat([a[0], b], 1).repeat_interleave(2, 0) for a, b in ((pk, k), (pv, v)))
    assert worst(ours, dense(q, k2, v2, mask), (q, k, v, pk, pv)) < 1e-10


def test_virtual_tokens_at_the_beginning_are_causal_themselves():
    heads, lengths, p = 2, [9, 20], 6
    total = p + sum(lengths)
    q, k, v = draw(heads, total, E), draw(heads, total, E, seed=1), draw(heads, total, E, seed=2)
    ours = attend(q[None], k[None], v[None], lengths, scale=SCALE, prefix=p)[0].transpose(0, 1)
    mask = torch.ones(total, total, dtype=torch.bool).tril()
    mask[p + 9 :, p : p + 9] = False
    assert worst(ours, dense(q, k, v, mask.expand(heads, -1, -1)), (q, k, v)) < 1e-10


def test_a_sliding_window():
    q, k, v = draw(2, 40, E), draw(2, 40, E, seed=1), draw(2, 40, E, seed=2)
    ours = attend(q[None], k[None], v[None], [30, 10], scale=SCALE, window=8)[0].transpose(0, 1)
    mask = torch.zeros(40, 40, dtype=torch.bool)
    for a, b in ((0, 30), (30, 40)):
        for i in range(a, b):
            mask[i, max(a, i - 7) : i + 1] = True
    assert worst(ours, dense(q, k, v, mask.expand(2, -1, -1)), (q, k, v)) < 1e-10


def test_dense_pattern_is_causal_sdpa():
    q, k, v = draw(2, 50, E), draw(2, 50, E, seed=1), draw(2, 50, E, seed=2)
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE)
    assert worst(by_blocks(q, k, v, torch.zeros(2, dtype=torch.long), 16, SCALE), theirs, (q, k, v)) < 1e-10


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_lists_are_the_masks_and_columns_the_rows_transposed(n):
    masks, found = patterns.masks(n), patterns.lists(n)
    for p in range(len(patterns.POOL)):
        by_row = torch.zeros(n, n, dtype=torch.bool)
        by_column = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            row = found.row_idx[found.row_ptr[p, i] : found.row_ptr[p, i + 1]].tolist()
            column = found.col_idx[found.col_ptr[p, i] : found.col_ptr[p, i + 1]].tolist()
            assert row == sorted(row) and column == sorted(column)
            assert i in row and 0 in row  # the diagonal and the sink
            by_row[i, row], by_column[column, i] = True, True
        assert torch.equal(by_row, masks[p]) and torch.equal(by_column, masks[p])
        assert not masks[p].triu(1).any()


def test_rows_do_not_depend_on_the_documents_length():
    """One table serves all documents: the pattern of n blocks is the corner of that of more."""
    assert torch.equal(patterns.masks(32)[:, :9, :9], patterns.masks(9))


def test_known_densities():
    n = 32
    found = dict(zip(patterns.NAMES, patterns.densities(n).tolist(), strict=True))
    assert found["dense"] == (n + 1) / (2 * n) == 0.515625
    for w in (1, 2, 4, 8):
        window = (w * n - w * (w - 1) / 2) / n**2
        assert found[f"w{w}"] == pytest.approx(
            window + (n - w) / n**2
        )  # and block 0 in the rows the window does not reach
    assert found[patterns.FIELD["longformer"]] == pytest.approx(0.330, abs=1e-3)
    assert found[patterns.FIELD["bigbird"]] == pytest.approx(0.257, abs=0.012)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000), st.floats(0.5, 1.0))
def test_the_cheapest_pattern_that_covers(n, seed, least):
    mass = torch.rand(3, n, n, generator=torch.Generator().manual_seed(seed)).square().tril()
    mass = mass / mass.sum(-1, keepdim=True)
    chosen = patterns.choose(mass, least)
    masks = patterns.masks(n)
    for h in range(3):
        shares = [float((mass[h] * m).sum()) / n for m in masks]
        cheap = min(int(m.sum()) for m, s in zip(masks, shares, strict=True) if s >= least - 1e-6)
        assert int(masks[chosen[h]].sum()) == cheap
        assert float(patterns.covered(mass, chosen)[h]) == pytest.approx(shares[chosen[h]], abs=1e-6)
    # What no pool can undercut, row by row by brute force.
    kept = patterns.exposed(mass, least)
    for h in range(3):
        for i in range(n):
            forced = {0, i}
            others = sorted((float(mass[h, i, j]) for j in range(i) if j not in forced), reverse=True)
            have, need = sum(float(mass[h, i, j]) for j in forced), 0
            while have < least - 1e-6 and need < len(others):
                have, need = have + others[need], need + 1
            assert int(kept[h, i].sum()) == len(forced) + need


def test_block_mass_is_the_mean_attention_of_a_block():
    n, block = 45, 16
    q, k = draw(4, n, E).detach(), draw(2, n, E, seed=1).detach()
    mass = block_mass(q, k, block, SCALE)
    p = (
        (q @ k.repeat_interleave(2, 0).transpose(1, 2) * SCALE)
        .masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
        .softmax(-1)
    )
    for i in range(3):
        for j in range(3):
            part = p[:, i * block : (i + 1) * block, j * block : (j + 1) * block]
            assert torch.allclose(mass[:, i, j].double(), part.sum(-1).mean(-1), atol=1e-6)
    assert torch.allclose(mass.sum(-1), torch.ones(4, 3), atol=1e-5)
