"""The cache with device code, in Triton's interpreter, beside the cache without: same anchors, same codes, same logits."""

import pytest
import torch
from ant_models import codebook, tiny
from test_cache import F32, fed, ids

from antkv import kernels
from antkv import score as scoring
from antkv.cache import AntCache, Settings, attached
from tenfold_kernels import device


def run(model, book, tokens, steps, mask, on, **how):
    cache = AntCache(model, book, Settings(block=16, window=16, dtype=F32, tables=False, **how))
    with attached(model), device.interpreter(on):
        assert kernels.usable(torch.zeros(1, 64)) == on
        first = fed(model, tokens[:, :-steps], cache, 80, None if mask is None else mask[:, :-steps])
        rest = fed(model, tokens, cache, 1, mask, first=tokens.shape[1] - steps)
    return torch.cat([first, rest], 1), cache


@pytest.mark.parametrize(("rope", "dim", "centroids"), [("pre", 8, 256), ("post", 16, 64)])
def test_device_code_is_the_cache_without(rope, dim, centroids):
    model = tiny(head_dim=64, num_hidden_layers=1)
    book = codebook(model, dim=dim, centroids=centroids, rope=rope)
    mask = torch.tensor([[1] * 68, [0] * 21 + [1] * 47])
    tokens = ids(2, 68) * mask
    (a, one), (b, two) = (run(model, book, tokens, 3, mask, on, ratio=0.1) for on in (True, False))
    assert torch.allclose(a[0], b[0], atol=5e-3) and torch.allclose(a[1, 21:], b[1, 21:], atol=5e-3)
    for x, y in zip(one.packed, two.packed, strict=True):
        assert torch.equal(x.at_k, y.at_k)
        assert (x.codes_k != y.codes_k).float().mean() < 0.01  # keys in 16 bits may be as near to another centroid
        assert torch.allclose(x.sum_k, y.sum_k, rtol=2e-2, atol=1e-3)


def test_scaled_rotations():
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    model = tiny(head_dim=64, num_hidden_layers=1, rope_parameters=yarn)
    book = codebook(model, dim=8, centroids=256)
    a, b = (run(model, book, ids(1, 52), 2, None, on, ratio=0.1)[0] for on in (True, False))
    assert torch.allclose(a, b, atol=5e-3)


def test_what_has_to_do_without():
    model = tiny(head_dim=64, num_hidden_layers=1)
    for how, word in (({"scope": "head"}, "anchors of their own"), ({"block": 24}, "the block is not")):
        cache = AntCache(model, codebook(model, dim=8), Settings(**({"block": 16, "window": 16, "ratio": 0.1} | how)))
        with attached(model):
            fed(model, ids(1, 60), cache, 20)
        assert word in kernels.refused(cache.packed[0])
        with attached(model), device.interpreter(True):
            assert torch.isfinite(fed(model, ids(1, 2), cache, 1)).all()


def test_the_last_queries_alone():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, 20, 64, generator=draw) for h in (4, 2, 2))
    found = scoring.attend(q, k, v, 0.125)
    plain = scoring.factors(q, k, v, found, 0.125, True, last=6)
    with device.interpreter(True):
        mine = scoring.factors(q, k, v, found, 0.125, True, last=6)
    assert torch.allclose(mine.keys, plain.keys, rtol=1e-3, atol=1e-5) and torch.allclose(
        mine.values, plain.values, rtol=1e-3
    )
