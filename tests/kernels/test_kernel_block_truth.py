"""The gate's training target: cases known beforehand, rows and padding, refusals."""

import pytest
import torch

from tenfold_kernels.cases.seer_decode import make_truth, truth_oracle
from tenfold_kernels.registry import Case, relative_error
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.block_truth import block_truth

SHAPE = {"B": 1, "Hq": 3, "Hkv": 1, "D": 64, "S": 100, "block": 16}


def arguments(dtype="float32", **changes):
    return make_truth(Case("", dtype, SHAPE | changes), "cpu")


def test_rows_sum_to_one_but_in_the_first_block(interpreted):
    gt = block_truth(**arguments(B=2, lengths=[100, 37]))
    for row, length in enumerate((100, 37)):
        sums = gt[row, 0].sum(-1)
        assert (sums[16:length] - 1).abs().max() < 1e-5
        assert sums[:16].abs().max() == 0
        assert length == 100 or sums[length:].abs().max() == 0
        own = torch.arange(100) // 16
        assert gt[row, 0][torch.arange(7) >= own[:, None]].abs().max() == 0


def test_equal_logits_share_equally(interpreted):
    given = arguments()
    gt = block_truth(**(given | {"k": torch.ones_like(given["k"])}))
    for t in range(16, 100):
        assert torch.allclose(gt[0, 0, t, : t // 16], torch.tensor(16 / (t - t % 16)).expand(t // 16), atol=1e-6)


def test_one_key_that_dominates(interpreted):
    given = arguments()
    given["q"][:] = 1.0
    given["k"][:] = 0.0
    given["k"][0, 0, 20] = 100.0
    gt = block_truth(**given)
    assert (gt[0, 0, 32:, 1] > 1 - 1e-6).all()


def test_a_peak_behind_the_query_does_no_harm(interpreted):
    """Scores of keys a query does not see may be far above its own largest."""
    given = arguments()
    given["k"][0, 0, 40:] *= 300
    truth = truth_oracle(given)[0]
    gt = block_truth(**given)
    assert relative_error(gt[..., :40, :], truth[..., :40, :]) < 1e-5


@pytest.mark.parametrize("first_row", [1, 63, 99, 100])
def test_late_rows_are_rows_of_the_whole(interpreted, first_row):
    given = arguments()
    late = block_truth(**(given | {"first_row": first_row}))
    assert late.shape == (1, 1, 100 - first_row, 7)
    assert relative_error(late, block_truth(**given)[:, :, first_row:].double()) < 1e-6


def test_padding_changes_nothing(interpreted):
    given = arguments(B=2, lengths=[100, 50])
    whole = block_truth(**given)
    alone = {name: given[name][1:, :, :50] for name in ("q", "k")}
    short = block_truth(**(given | alone | {"lengths": torch.tensor([50], dtype=torch.int32)}))
    assert relative_error(whole[1:, :, :50, :4], short.double()) < 1e-6


def test_strided_views_are_read_where_they_lie(interpreted):
    given = arguments()
    views = {name: given[name].transpose(1, 2).contiguous().transpose(1, 2) for name in ("q", "k")}
    assert torch.equal(block_truth(**given), block_truth(**(given | views)))


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = arguments()
    assert block_truth(**given, fallback=lambda *_, **options: options) == {
        name: given[name] for name in ("block", "scale", "first_row")
    }
    with pytest.raises(Missing, match="GPU"):
        block_truth(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": torch.zeros(1, 3, 100, 40), "k": torch.zeros(1, 1, 100, 40)}, "got D=40"),
        ({"k": torch.zeros(1, 2, 100, 64)}, "2 heads of k, got 3"),
        ({"k": torch.zeros(1, 1, 99, 64)}, "N=100.*99"),
        ({"block": 8}, "got 8"),
        ({"scale": 0.0}, "above 0, got 0.0"),
        ({"first_row": 101}, "0 to 100, got 101"),
        ({"lengths": torch.zeros(2, dtype=torch.int32)}, "B=1"),
    ],
)
def test_refusals_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        block_truth(**(arguments() | changes))
