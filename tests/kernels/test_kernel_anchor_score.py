"""Properties of the anchor scores that hold whatever the inputs, refusals, and the CPU fallback."""

import pytest
import torch

from tenfold_kernels.cases.antkv import causal_attention, make_score, score_oracle
from tenfold_kernels.registry import Case, relative_error
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.anchor_score import anchor_score


def arguments(mode="bound", start=(0, 0)):
    shape = {"B": 2, "Hq": 6, "Hkv": 2, "Nq": 45, "Nk": 45, "D": 64, "mode": mode, "start": list(start)}
    return make_score(Case("", "float32", shape), "cpu")


def again(given, **changes):
    """GIVEN with changed tensors, and the attention output that belongs to them."""
    given = given | changes
    o, lse = causal_attention(given["q"], given["k"], given["v"], given["scale"], given["start"])
    return given | {"o": o.float(), "lse": lse.float()}


@pytest.mark.parametrize("start", [[0, 0], [0, 30], [44, 12]])
def test_mass_adds_up_to_the_queries(interpreted, start):
    given = arguments("mass", start=start)
    fk, fv = anchor_score(**given)
    assert fk is None
    # Padded queries give nothing: each row's total is G for every query that is no padding.
    expected = torch.tensor([3.0 * (45 - begin) for begin in start])
    assert torch.allclose(fv.sum(-1), expected[:, None].expand(2, 2), rtol=1e-4)
    for row, begin in enumerate(start):
        assert fv[row, :, :begin].abs().sum() == 0
        assert (fv[row, :, begin:] > 0).all()


@pytest.mark.parametrize("shift", [1.0, 30.0])
def test_a_vector_added_to_all_values_changes_nothing(interpreted, shift):
    given = arguments("bound")
    fk, _ = anchor_score(**given)
    # In units that float32 holds exactly, or rounding of the values themselves would be measured.
    values = (given["v"] * 64).round() / 64
    fk, _ = anchor_score(**again(given, v=values))
    moved, _ = anchor_score(**again(given, v=values + shift * torch.arange(64).sub(32).sign()))
    assert relative_error(moved, fk.double()) < 1e-4


def test_equal_values_give_keys_no_factor(interpreted):
    given = arguments("bound")
    fk, fv = anchor_score(**again(given, v=given["v"][:, :, :1].expand_as(given["v"])))
    assert fk.max() < 1e-5 * fv.max()


def test_permuted_heads_permute_scores(interpreted):
    given = arguments("bound2")
    fk, fv = anchor_score(**given)
    order = torch.tensor([1, 0])
    heads = torch.tensor([3, 4, 5, 0, 1, 2])
    moved = {name: given[name][:, heads] for name in ("q", "o", "lse")}
    moved |= {name: given[name][:, order] for name in ("k", "v")}
    other_fk, other_fv = anchor_score(**(given | moved))
    assert torch.equal(other_fk, fk[:, order])
    assert torch.equal(other_fv, fv[:, order])


def test_scaled_queries_scale_the_key_factor_alone(interpreted):
    given = arguments("bound")
    fk, fv = anchor_score(**given)
    scaled_fk, scaled_fv = anchor_score(**(given | {"q": given["q"] * 4, "k": given["k"] / 4}))
    assert relative_error(scaled_fv, fv.double()) < 1e-6
    assert relative_error(scaled_fk, 4 * fk.double()) < 1e-6


@pytest.mark.parametrize("mode", ["bound", "bound2", "mass"])
def test_chunks_add_up_to_the_whole(interpreted, mode):
    given = arguments(mode, start=[0, 7])
    whole = anchor_score(**given)
    chunks = []
    for begin, end in ((0, 20), (20, 21), (21, 45)):
        part = {name: given[name][:, :, begin:end] for name in ("q", "o", "lse")}
        part |= {name: given[name][:, :, :end] for name in ("k", "v")}
        chunks.append((end, anchor_score(**(given | part))))
    for which, total in enumerate(whole):
        if total is None:
            continue
        summed = torch.zeros_like(total)
        for end, scores in chunks:
            summed[:, :, :end] += scores[which]
        assert relative_error(summed, total.double()) < 1e-6


def test_strided_views_are_read_where_they_lie(interpreted):
    """(B, N, H, D) memory seen as (B, H, N, D), as models hand it over."""
    given = arguments("bound")
    views = {name: given[name].transpose(1, 2).contiguous().transpose(1, 2) for name in ("q", "k", "v", "o")}
    for one, other in zip(anchor_score(**given), anchor_score(**(given | views)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", ["bound", "bound2", "mass"])
def test_every_key_is_right_to_its_own_size(interpreted, mode):
    """The registry's error is relative to the largest score, and the first tokens' are by far the largest."""
    given = arguments(mode, start=[0, 20])
    for result, truth in zip(anchor_score(**given), score_oracle(given), strict=True):
        if truth is not None:
            # Of one key alone, the first query's, the factor is 0: what is left of it is rounding of o.
            kept = truth > 1e-6 * truth.max()
            assert (((result - truth) / truth)[kept]).abs().max() < 1e-5
            assert result[~kept].abs().max() <= 1e-5 * truth.max()


def test_nan_is_seen(interpreted):
    given = arguments("mass")
    given["q"][0, 0, 40, 3] = float("nan")
    _, fv = anchor_score(**given)
    assert fv[0, 0].isnan().any()
    assert not fv[1].isnan().any()


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = arguments("bound")
    seen = {}

    def fallback(*tensors, **options):
        seen.update(options)
        return score_oracle(dict(zip(("q", "k", "v", "o", "lse"), tensors, strict=True)) | options)

    fk, _ = anchor_score(**given, fallback=fallback)
    assert fk.dtype == torch.float64
    assert set(seen) == {"scale", "start", "mode"}
    with pytest.raises(Missing, match="GPU"):
        anchor_score(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "linear"}, "got linear"),
        ({"k": torch.zeros(2, 2, 45, 32)}, r"D=64\), got \(2, 2, 45, 32\)"),
        ({"k": torch.zeros(2, 4, 45, 64), "v": torch.zeros(2, 4, 45, 64)}, "4 heads of k, got 6"),
        ({"v": torch.zeros(2, 2, 44, 64)}, r"Nk=45.*44"),
        ({"o": torch.zeros(2, 6, 45, 64, dtype=torch.float16)}, "o: expected float32, got float16"),
        ({"lse": torch.zeros(2, 6, 45, dtype=torch.float64)}, "float64"),
        ({"k": torch.zeros(2, 2, 44, 64), "v": torch.zeros(2, 2, 44, 64)}, r"\(44\), got 45"),
        ({"start": torch.zeros(3, dtype=torch.int32)}, r"B=2\), got \(3,\)"),
        ({"start": torch.zeros(2, dtype=torch.int64)}, "int64"),
    ],
)
def test_refusals_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        anchor_score(**(arguments() | changes))
