"""Decoding from the codes is attention on the dequantised cache, for every width of an index and every kind of cache."""

import math

import numpy as np
import pytest
import torch
from ant_models import codebook, tiny
from test_cache import F32, fed, ids

from antkv import _lut, bench, lut
from antkv.cache import AntCache, Settings, attached
from antkv.rope import Rope
from tenfold_kernels.packing import pack


def both(model, book, tokens, mask=None, **how):
    """Logits with and without look-ups, and their caches."""
    outs = []
    for tables in (True, False):
        cache = AntCache(model, book, Settings(dtype=F32, block=8, window=8, tables=tables, **how))
        with attached(model):
            first = fed(model, tokens[:, :24], cache, 24, None if mask is None else mask[:, :24])
            rest = fed(model, tokens, cache, 1, mask, first=24)
        outs.append((torch.cat([first, rest], 1), cache))
    (a, one), (b, two) = outs
    assert torch.allclose(a, b, atol=2e-4)
    for x, y in zip(one.packed, two.packed, strict=True):
        assert torch.equal(x.at_k, y.at_k) and torch.equal(x.codes_v, y.codes_v)
        assert torch.allclose(x.sum_k, y.sum_k, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rope", ["pre", "post"])
@pytest.mark.parametrize(("dim", "centroids"), [(4, 4), (4, 16), (8, 64), (2, 256), (16, 4096)])
def test_every_width(rope, dim, centroids):
    model = tiny()
    both(model, codebook(model, dim=dim, centroids=centroids, rope=rope), ids(1, 60), ratio=0.1)


@pytest.mark.parametrize("scope", ["head", "layer", "shared-kv"])
def test_padding_and_scopes(scope):
    model = tiny()
    mask = torch.tensor([[1] * 50, [0] * 13 + [1] * 37, [0] * 30 + [1] * 20])
    tokens = ids(3, 50) * mask
    both(model, codebook(model), tokens, mask, ratio=0.1, scope=scope)


@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (8, 2)])
def test_groups_of_heads_and_scaled_rotations(heads):
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    model = tiny(num_attention_heads=heads[0], num_key_value_heads=heads[1], rope_parameters=yarn)
    both(model, codebook(model), ids(2, 40), ratio=0.1)


def test_nothing_closed_and_no_anchors():
    model = tiny()
    both(model, codebook(model), ids(1, 26), ratio=0.0)
    cache = AntCache(model, codebook(model), Settings(dtype=F32, block=8, window=1000))
    with attached(model), torch.inference_mode():
        truth = model(input_ids=ids(1, 9)).logits
        assert torch.allclose(fed(model, ids(1, 9), cache, 1), truth, atol=1e-4)


def test_without_numba_it_is_dequantised(monkeypatch):
    monkeypatch.setattr(lut, "available", lambda: False)
    monkeypatch.setattr(lut, "step", None)
    model = tiny()
    cache = AntCache(model, codebook(model), Settings(block=8, window=8))
    with attached(model):
        assert torch.isfinite(fed(model, ids(1, 40), cache, 1)).all()


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 12])
def test_indices_come_out_as_they_were_packed(bits):
    where = torch.randint(2**bits, (3, 64), generator=torch.Generator().manual_seed(bits))
    out = np.empty((3, 64), dtype=np.uint32)
    _lut._unpack(pack(where, bits).numpy(), bits, out)
    assert np.array_equal(out, where.numpy())


def test_weights_are_those_of_softmax():
    scores = np.random.default_rng(0).normal(scale=30, size=(1000, 4)).astype(np.float32)
    truth = np.exp(scores[7:].astype(np.float64) - scores[7:].max(0))
    peak, total = np.empty(4, dtype=np.float32), np.empty(4, dtype=np.float32)
    top = scores[7:].max(0)
    _lut._weigh(scores, 7, peak, total)
    assert np.array_equal(peak, top) and not scores[:7].any()
    assert np.allclose(scores[7:], truth, rtol=2e-5, atol=1e-30)
    assert np.allclose(total, truth.sum(0), rtol=1e-6)


@pytest.mark.parametrize("bits", ["4", "2", "1", "0.375"])
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("turned", ["all", "half", "none"])
def test_a_step_over_many_stretches_is_attention_in_float64(bits, groups, turned):
    """Longer than one part of the work, with anchors, a row that begins late, and rotations of all or half of the channels."""
    shape, tokens = bench.Shape(2, groups, 32), 2 * lut.STRETCH + 320
    rope = None
    if turned != "none":
        share = {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0 if turned == "all" else 0.5,
        }
        rope = Rope(tiny(kind="phi", head_dim=32, hidden_size=128, rope_parameters=share))
    layer = bench.layer_of(bits, rope, tokens, 1, shape)
    layer.start = torch.tensor([70])
    draw = torch.Generator().manual_seed(2)
    query = torch.randn(1, 2 * groups, 1, 32, generator=draw)
    keys, values = torch.randn(2, 1, 2, 5, 32, generator=draw)
    out, lse = lut.step(layer, query, keys, values, 0.3)
    old_k, old_v = (x.double() for x in layer.dequantised(torch.float32))
    all_k, all_v = (
        torch.cat([old, new.double()], 2)[:, :, 70:].repeat_interleave(groups, 1)
        for old, new in ((old_k, keys), (old_v, values))
    )
    scores = (query.double() * 0.3) @ all_k.transpose(2, 3)
    assert torch.allclose(lse.double(), scores.logsumexp(-1), atol=1e-5)
    assert torch.allclose(out.double(), scores.softmax(-1) @ all_v, atol=1e-5)


def test_a_row_of_padding_alone_attends_to_nothing():
    layer = bench.layer_of("1", None, 128, 0, bench.Shape(1, 2, 16))
    layer.start = torch.tensor([129])
    one = torch.randn(1, 1, 1, 16)
    out, lse = lut.step(layer, torch.randn(1, 2, 1, 16), one, one, 1.0)
    assert not out.any() and (lse == -math.inf).all()
