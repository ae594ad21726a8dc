"""Gate scores and selection: budgets, ties, thresholds, order of scores and refusals."""

import pytest
import torch

from tenfold_kernels.cases.seer_decode import gate_oracle, gate_scores, make_gate
from tenfold_kernels.registry import Case, relative_error
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.gate_select import gate_select

SHAPE = {"B": 2, "Hkv": 2, "G": 3, "D": 64, "dg": 64, "NB": 40, "block": 16, "lengths": [16 * 33 + 5, 16 * 33]}


def arguments(dtype="float32", **changes):
    return make_gate(Case("", dtype, SHAPE | {"budget": 8} | changes), "cpu")


def lists(indices, counts):
    return [row[:count].tolist() for row, count in zip(indices.flatten(0, 1), counts.flatten(), strict=True)]


def scored(values, **changes):
    """Arguments of one head whose scores are VALUES: one channel of the compressed keys."""
    n = len(values)
    given = make_gate(
        Case("", "float32", {**SHAPE, "B": 1, "Hkv": 1, "G": 1, "NB": n, "lengths": [16 * n + 1], "norm": False}), "cpu"
    )
    given["q"], given["wq"] = torch.zeros_like(given["q"]), torch.zeros_like(given["wq"])
    given["q"][..., 0], given["wq"][0, 0, 0, 0] = 1.0, 8.0  # the square root of dg
    given["cos"], given["sin"] = torch.ones_like(given["cos"]), torch.zeros_like(given["sin"])
    given["kc"] = torch.zeros_like(given["kc"])
    given["kc"][0, :, 0, 0] = torch.tensor(values)
    return given | {"budget": 3} | changes


def test_a_budget_counts_everything_attended(interpreted):
    """Lists are nested, hold the tail, and are of exactly min(budget, blocks)."""
    before = [set()] * 4
    for budget in (1, 2, 7, 33, 34, 35, 60):
        indices, counts, _ = gate_select(**arguments(budget=budget))
        assert indices.shape == (2, 2, min(budget, 41))
        # Row 0 has a partial block 33; row 1 ends with the complete block 32.
        assert counts.tolist() == [[min(budget, 34)] * 2, [min(budget, 33)] * 2]
        now = [set(one) for one in lists(indices, counts)]
        assert all(one <= other for one, other in zip(before, now, strict=True))
        assert all(tail in one for tail, one in zip((33, 33, 32, 32), now, strict=True))
        assert (indices.flatten(0, 1)[torch.arange(indices.shape[2]) >= counts.flatten()[:, None]] == -1).all()
        before = now


def test_the_first_block_is_within_the_budget(interpreted):
    for budget, size in ((1, 1), (2, 2), (8, 8)):
        indices, counts, _ = gate_select(**arguments(budget=budget, first=True))
        assert (counts == size).all()
        assert all((0 in one) == (budget > 1) for one in lists(indices, counts))


@pytest.mark.parametrize(
    ("values", "changes", "expected"),
    [
        ([1.0, 2.0, 2.0, 2.0], {}, [1, 2, 4]),
        ([2.0, 1.0, 2.0, 2.0], {"first": True}, [0, 2, 4]),
        ([-1.0, -2.0, -0.5, -3.0], {}, [0, 2, 4]),
        ([0.0, -0.0, 0.0, -0.0], {}, [0, 1, 4]),
        ([-0.0, 0.0, -1e-38, 1e-38], {}, [0, 3, 4]),
        ([1e30, -1e30, 1e37, float("inf")], {}, [2, 3, 4]),
        ([float("nan"), 1.0, -5.0, float("nan")], {}, [1, 2, 4]),
        ([float("nan")] * 4, {}, [0, 1, 4]),
        ([1.0, 1.0000001, 0.9999999, 0.5], {}, [0, 1, 4]),
        ([1.0, 1.0, 1.0, 1.0], {"budget": None, "threshold": 0.24}, [0, 1, 2, 3, 4]),
        ([1.0, 1.0, 1.0, 1.0], {"budget": None, "threshold": 0.25}, [4]),
        ([1.0, 1.0, 1.0, 1.0], {"budget": None, "threshold": 0.9, "first": True}, [0, 4]),
        ([0.0, 5.0, 0.0, 5.0], {"budget": 2, "threshold": 0.1}, [1, 4]),
        ([0.0, 5.0, 0.0, 0.0], {"budget": 4, "threshold": 0.1}, [1, 4]),
    ],
)
def test_order_of_scores(interpreted, values, changes, expected):
    indices, counts, _ = gate_select(**scored(values, **changes))
    assert lists(indices, counts) == [expected]


def test_a_threshold_of_0_is_dense_and_of_1_the_tail(interpreted):
    everything = lists(*gate_select(**arguments(budget=None, threshold=0.0))[:2])
    assert everything == [list(range(34))] * 2 + [list(range(33))] * 2
    assert lists(*gate_select(**arguments(budget=None, threshold=1.0))[:2]) == [[33], [33], [32], [32]]


def test_scores_do_not_depend_on_neighbours(interpreted):
    given = arguments()
    whole = gate_select(**given)
    for row in range(2):
        alone = {name: given[name][row : row + 1] for name in ("q", "kc", "lengths", "cos", "sin")}
        for one, other in zip(gate_select(**(given | alone)), whole, strict=True):
            assert torch.equal(one[0], other[row])


def test_keys_of_many_strides(interpreted):
    given = arguments()
    turned = given["kc"].permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    for one, other in zip(gate_select(**given), gate_select(**(given | {"kc": turned})), strict=True):
        assert torch.equal(one, other)


def test_no_compressed_key_yet(interpreted):
    given = arguments(NB=0, lengths=[3, 0])
    indices, counts, scores = gate_select(**given)
    assert indices.flatten(0, 1).tolist() == [[0], [0], [-1], [-1]]
    assert counts.tolist() == [[1, 1], [0, 0]]
    assert scores.shape == (2, 2, 0)


def test_scores_are_right_to_their_own_size(interpreted):
    given = arguments()
    scores, truth = gate_select(**given)[2], gate_scores(given)
    finite = truth.isfinite()
    assert torch.equal(finite, scores.isfinite())
    assert (scores.double() - truth)[finite].abs().max() < 1e-5
    assert relative_error(scores, truth) < 1e-5


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = arguments()
    seen = {}

    def fallback(*tensors, **options):
        seen.update(options)
        return gate_oracle(given)

    assert gate_select(**given, fallback=fallback)[2].dtype == torch.float64
    assert set(seen) == {"block", "budget", "threshold", "first", "weight", "eps"}
    with pytest.raises(Missing, match="GPU"):
        gate_select(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wq": torch.zeros(2, 2, 64, 64)}, r"Hkv\*G=6, got 2\*2"),
        ({"wq": torch.zeros(2, 3, 64, 48)}, "got dg=48"),
        ({"wq": torch.zeros(2, 3, 64, 64, dtype=torch.float16)}, "expected float32, got float16"),
        ({"kc": torch.zeros(2, 8193, 2, 64)}, "at most 8192 blocks, got 8193"),
        ({"cos": torch.zeros(2, 64)}, r"dg/2=32\), got \(2, 64\)"),
        ({"weight": torch.zeros(63)}, "dg=64"),
        ({"lengths": torch.zeros(2)}, "int32"),
        ({"budget": None}, "a budget, a threshold, or both"),
        ({"budget": 0}, "1 or more blocks, got 0"),
        ({"threshold": 1.5}, "got 1.5"),
    ],
)
def test_refusals_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        gate_select(**(arguments() | changes))
