"""The encoder: ties, what NaN does, shared codebooks, refusals."""

import pytest
import torch

from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.vq_encode import vq_encode


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ties_go_to_the_lowest_index(interpreted):
    """Equal centroids within a tile of the codebook, and in tiles far apart."""
    codebook = normal(1, 1, 100, 8)
    codebook[:, :, [5, 20, 99]] = codebook[:, :, 3:4].clone()
    x = codebook[:, :, [3, 5, 20, 99, 7]].permute(2, 0, 1, 3).contiguous()
    index, error = vq_encode(x, codebook, want_error=True)
    assert index.flatten().tolist() == [3, 3, 3, 3, 7]
    assert error.abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_the_error(interpreted, bad):
    x = normal(5, 1, 2, 8)
    x[3, 0, 1, 2] = bad
    _, error = vq_encode(x, normal(1, 2, 16, 8, seed=1), want_error=True)
    assert (~error.isfinite()).nonzero().tolist() == [[3, 0, 1]]


def test_heads_may_share_a_codebook(interpreted):
    x, shared = normal(9, 3, 2, 4), normal(1, 2, 33, 4, seed=1).expand(3, 2, 33, 4)
    assert torch.equal(vq_encode(x, shared)[0], vq_encode(x, shared.contiguous())[0])


def test_centroids_encode_to_themselves(interpreted):
    codebook = normal(2, 2, 257, 16)
    index, error = vq_encode(codebook.permute(2, 0, 1, 3), codebook, want_error=True)
    assert index.dtype == torch.int16
    assert torch.equal(index.long(), torch.arange(257)[:, None, None].expand(257, 2, 2))
    assert error.max() == 0


def test_cpu_tensors_go_to_the_fallback(compiled):
    x, codebook = normal(2, 1, 1, 8), normal(1, 1, 4, 8)
    assert vq_encode(x, codebook, fallback=lambda *given, want_error: (given, want_error)) == ((x, codebook), False)
    with pytest.raises(Missing, match="GPU"):
        vq_encode(x, codebook)


@pytest.mark.parametrize(
    ("x", "codebook", "words"),
    [
        ((4, 1, 2, 8), (1, 3, 16, 8), r"M=2.*3"),
        ((4, 1, 2, 8), (1, 2, 16, 4), "d=8"),
        ((4, 1, 2, 5), (1, 2, 16, 5), "got d=5"),
        ((4, 1, 1, 8), (1, 1, 4097, 8), "got C=4097"),
        ((4, 1, 8), (1, 1, 16, 8), r"\(4, 1, 8\)"),
    ],
)
def test_refusals_name_both_values(interpreted, x, codebook, words):
    with pytest.raises(BadInput, match=words):
        vq_encode(torch.zeros(x), torch.zeros(codebook))
