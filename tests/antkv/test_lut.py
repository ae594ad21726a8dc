"""Decoding from the codes is attention on the dequantised cache, for every width of an index and every kind of cache."""

import pytest
import torch
from ant_models import codebook, tiny
from test_cache import F32, fed, ids

from antkv import lut
from antkv.cache import AntCache, Settings, attached


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
