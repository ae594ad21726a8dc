"""Block-sparse decoding: splits, lists, layouts and refusals; the registry has the oracle over odd shapes."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tenfold_kernels import device
from tenfold_kernels.cases.seer_decode import decode_oracle, make_decode, paged
from tenfold_kernels.registry import Case, relative_error
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.block_decode import block_decode, lists_of

SHAPE = {"B": 2, "Hq": 6, "Hkv": 2, "D": 64, "S": 300, "block": 32, "K": 6, "lengths": [300, 177]}


def arguments(dtype="float32", **changes):
    return make_decode(Case("", dtype, SHAPE | changes), "cpu")


def same(one, other, tolerance=1e-5):
    return all(relative_error(a, b.double()) < tolerance for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("block", [16, 128])
@pytest.mark.parametrize("splits", [1, 2, 5, 99])
def test_any_number_of_splits_gives_the_same(interpreted, splits, block):
    given = arguments(block=block, K=9)
    assert same(block_decode(**given, splits=splits), decode_oracle(given))


@pytest.mark.parametrize("block", [16, 64, 256])
def test_all_blocks_are_dense_attention(interpreted, block):
    given = arguments(block=block, K=19, poison=False, S=304, lengths=[304, 1])
    out, lse = block_decode(**given)
    for row, length in enumerate([304, 1]):
        k, v = (given[name][row, :, :length] for name in ("k", "v"))
        q = given["q"][row].view(2, 3, 64)
        dense = scaled_dot_product_attention(q, k, v, scale=given["scale"])
        assert relative_error(out[row], dense.reshape(6, 64).double()) < 1e-5
        scores = (q.double() @ k.double().transpose(-1, -2)) * given["scale"]
        assert relative_error(lse[row], scores.logsumexp(-1).flatten()) < 1e-6


def test_full_blocks_may_stand_in_any_order(interpreted):
    given = arguments()
    before = block_decode(**given)
    indices = given["indices"].clone()
    for row in range(2):
        for head in range(2):
            last = given["counts"][row, head] - 1
            indices[row, head, :last] = indices[row, head, :last].flip(0)
    assert not torch.equal(indices, given["indices"])
    assert same(block_decode(**(given | {"indices": indices})), before, 1e-6)


def test_lists_without_the_tail(interpreted):
    """A list need not hold the block of the row's last token: all its tokens are seen then."""
    given = arguments(poison=False)
    given["counts"] = given["counts"] - 1
    assert same(block_decode(**given), decode_oracle(given))


def test_what_follows_the_count_is_not_read(interpreted):
    given = arguments(counts=[3, 1, 2, 0])
    before = block_decode(**given)
    past = torch.arange(given["indices"].shape[-1]) >= given["counts"][..., None]
    wild = torch.where(past, torch.tensor(2**30, dtype=torch.int32), given["indices"])
    assert all(torch.equal(a, b) for a, b in zip(before, block_decode(**(given | {"indices": wild})), strict=True))
    assert before[0][1, 3:].abs().max() == 0
    assert (before[1][1, 3:] == float("-inf")).all()


def test_nothing_at_all(interpreted):
    given = arguments() | {"indices": torch.empty(2, 2, 0, dtype=torch.int32)}
    given["counts"] = torch.zeros(2, 2, dtype=torch.int32)
    out, lse = block_decode(**given)
    assert out.abs().max() == 0
    assert (lse == float("-inf")).all()


def test_rows_do_not_depend_on_their_neighbours(interpreted):
    given = arguments()
    whole = block_decode(**given, splits=3)
    for row in range(2):
        alone = {name: given[name][row : row + 1] for name in ("q", "k", "v", "lengths", "indices", "counts")}
        parts = block_decode(**(given | alone), splits=3)
        assert all(torch.equal(one[0], other[row]) for one, other in zip(parts, whole, strict=True))


@pytest.mark.parametrize("page", [32, 96])
def test_pages_are_the_contiguous_cache(interpreted, page):
    given = arguments(poison=False)
    k, v, table = paged(given["k"], given["v"], page)
    before = block_decode(**given)
    after = block_decode(**(given | {"k": k, "v": v, "table": table}))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_mask_is_its_lists(interpreted):
    given, masked = arguments(), arguments(mask=True)
    before, after = block_decode(**given), block_decode(**masked)
    assert same(after, before, 1e-6)
    everything = torch.ones(2, 2, 12, dtype=torch.bool)  # blocks past a row's end are left out
    indices, counts = lists_of(everything, given["lengths"], 32)
    assert counts.tolist() == [[10, 10], [6, 6]]
    assert indices[1, 1, :6].tolist() == list(range(6))


def test_a_shift_of_all_logits_changes_nothing(interpreted):
    given = arguments(poison=False)
    given["q"][..., -1] = 8.0
    reference, before = block_decode(**given)
    k = given["k"].clone()
    k[..., -1] += 2.0
    moved, after = block_decode(**(given | {"k": k}))
    assert relative_error(moved, reference.double()) < 1e-5
    assert relative_error(after, (before + 16.0 * given["scale"]).double()) < 1e-6


def test_splits_follow_the_work(compiled):
    """Recorded for 132 multiprocessors: two programs each, and no more than blocks."""
    for b, most, splits in ((1, 205, 33), (1, 13, 13), (16, 205, 3), (64, 205, 1)):
        shape = {"B": b, "Hq": 64, "Hkv": 8, "D": 128, "S": 64 * 205, "block": 64, "K": most, "lengths": None}
        with device.recording() as launches:
            block_decode(**make_decode(Case("", "bfloat16", shape), "meta"))
        assert launches[0].grid == (splits, 8 * b, 1)


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = arguments()
    seen = {}

    def fallback(*tensors, **options):
        seen.update(options)
        return decode_oracle(given)

    out, _ = block_decode(**given, fallback=fallback)
    assert out.dtype == torch.float64
    assert set(seen) == {"block", "scale", "mask", "table"}
    with pytest.raises(Missing, match="GPU"):
        block_decode(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": torch.zeros(2, 6, 72)}, "got D=72"),
        ({"q": torch.zeros(2, 5, 64)}, "2 heads of k, got 5"),
        ({"block": 48}, "got 48"),
        ({"v": torch.zeros(2, 2, 299, 64)}, "S=300.*299"),
        ({"k": torch.zeros(2, 2, 300, 64, dtype=torch.float16)}, "expected float32, got float16"),
        ({"lengths": torch.zeros(2, dtype=torch.int64)}, "int64"),
        ({"counts": None}, "indices with counts"),
        ({"mask": torch.zeros(2, 2, 10, dtype=torch.bool)}, "mask in their stead"),
        ({"indices": torch.zeros(2, 3, 6, dtype=torch.int32)}, "Hkv=2"),
        ({"table": torch.zeros(2, 3, dtype=torch.int32)}, "multiple of 32 tokens, got 300"),
        ({"splits": 0}, "got 0"),
    ],
)
def test_refusals_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        block_decode(**(arguments() | changes))
