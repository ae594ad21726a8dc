"""Attention over listed blocks and its gradients: dense attention, documents, prefix; the registry has the oracle."""

import dataclasses

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tenfold_kernels import device
from tenfold_kernels.cases.longexp_peft import CAUSAL, attention_oracle, backward_oracle, make_attention, pool
from tenfold_kernels.registry import Case, relative_error
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.block_attention import block_attention, block_attention_backward

SHAPE = {"Hq": 2, "Hkv": 1, "E": 16, "docs": [37, 18], "block": 16, "patterns": [(1, 1), (2, 0)]}


def arguments(dtype="float32", **changes):
    return make_attention(Case("", dtype, SHAPE | changes), "cpu")


def all_of_it(given, do=None):
    """o, lse, dq, dk, dv."""
    o, lse = block_attention(**given)
    if do is None:
        do = torch.randn(o.shape, generator=torch.Generator().manual_seed(7))
    q, k, v = (given[name] for name in "qkv")
    options = {name: given[name] for name in ("block", "scale")}
    return o, lse, *block_attention_backward(do, q, k, v, o, lse, given["layout"], **options)


def same(one, other, tolerance=1e-5):
    return all(relative_error(a, b.double()) < tolerance for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("prefix", [0, 19])
def test_all_blocks_are_dense_attention(interpreted, prefix):
    given = arguments(patterns=[CAUSAL], docs=[33], prefix=prefix)
    do = torch.randn(given["q"].shape, generator=torch.Generator().manual_seed(3))
    q, k, v = (given[name].double().requires_grad_() for name in "qkv")
    mask = torch.ones(33, 33 + prefix, dtype=torch.bool).tril(prefix)
    o = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=given["scale"], enable_gqa=True)
    o.backward(do.double())
    found, _, *gradients = all_of_it(given, do)
    assert same([found, *gradients], [o.detach(), q.grad, k.grad, v.grad])


@pytest.mark.parametrize(("block", "docs"), [(64, [65]), (128, [100, 7])])
def test_programs_for_parts_of_a_block(interpreted, block, docs):
    """float32 takes 32 rows and keys at a time: 2 and 4 programs a block, the last of a short one with no row."""
    given = arguments(block=block, docs=docs, Hq=1)
    found = all_of_it(given)
    do = torch.randn(given["q"].shape, generator=torch.Generator().manual_seed(7))
    assert same(found, [*attention_oracle(given), *backward_oracle(given | {"do": do})], 2e-5)


def test_packed_documents_are_documents_alone(interpreted):
    given = arguments()
    packed = all_of_it(given, do := torch.randn(given["q"].shape))
    for at, length, turn in ((0, 37, 0), (37, 18, 1)):
        alone = arguments(docs=[length])
        part = slice(at, at + length)
        alone |= {name: given[name][:, part] for name in "qkv"}
        pattern = given["layout"].pattern[turn : turn + 1]
        alone["layout"] = dataclasses.replace(alone["layout"], pattern=pattern)
        found = all_of_it(alone, do[:, part])
        assert all(torch.equal(one, other[:, part]) for one, other in zip(found, packed, strict=True))


def test_a_pattern_for_all_documents(interpreted):
    given = arguments()
    layout = given["layout"]
    whole = dataclasses.replace(layout, pattern=layout.pattern[0])
    each = dataclasses.replace(layout, pattern=layout.pattern[:1].repeat(2, 1))
    one, other = (block_attention(**(given | {"layout": chosen})) for chosen in (whole, each))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_rows_without_a_key(interpreted):
    given = arguments(patterns=[(0, 0), (0, 1)], Hkv=2, docs=[37])
    o, lse, dq, dk, dv = all_of_it(given)
    for result in (o, dq, dk, dv):
        assert not result.isnan().any()
        assert result[0].abs().max() == 0  # nothing is listed for the first head
    assert (lse[0] == float("-inf")).all()
    assert lse[1].isfinite().all()
    assert dk[1, 16:].abs().max() == 0  # the second lists the first block alone


def test_what_no_document_covers(interpreted):
    given = arguments(tail=5, docs=[20], prefix=3)
    o, lse, dq, dk, dv = all_of_it(given)
    for result in (o, dq, dk, dv):
        assert not result.isnan().any()
        assert result[:, -5:].abs().max() == 0
    assert (lse[:, -5:] == float("-inf")).all()


def test_groups_are_sums_over_their_heads(interpreted):
    given = arguments(Hq=4, Hkv=2, docs=[40])
    each = given | {name: given[name].repeat_interleave(2, 0) for name in "kv"}
    o, lse, dq, dk, dv = all_of_it(given)
    found = all_of_it(each)
    dk_each, dv_each = (one.unflatten(0, (2, 2)).sum(1) for one in found[3:])
    assert same([o, lse, dq, dk, dv], [*found[:3], dk_each, dv_each], 1e-6)


def test_two_runs_give_the_same_bytes_whatever_the_strides(interpreted):
    given = arguments(prefix=9, docs=[20, 3])
    before = all_of_it(given)
    copies = given | {name: given[name].contiguous() for name in "qkv"}
    columns = given | {"q": given["q"].transpose(1, 2).contiguous().transpose(1, 2)}
    for other in (given, copies, columns):
        assert all(torch.equal(a, b) for a, b in zip(all_of_it(other), before, strict=True))
    assert before[0].transpose(0, 1).is_contiguous()


def test_a_shift_of_all_logits_changes_nothing(interpreted):
    given = arguments()
    given["q"][..., -1] = 8.0
    o, lse = block_attention(**given)
    k = given["k"].clone()
    k[..., -1] += 2.0
    moved, after = block_attention(**(given | {"k": k}))
    assert relative_error(moved, o.double()) < 1e-5
    assert relative_error(after, (lse + 16.0 * given["scale"]).double()) < 1e-6


def test_pool_lists_and_their_transpose():
    row_ptr, row_idx, col_ptr, col_idx = pool([CAUSAL, (2, 0), (1, 1), (0, 0)], 8)
    density = [ptr[-1] - ptr[0] for ptr in row_ptr]
    assert density == [36, 2 * 8 - 1, 8 + 7, 0]
    for rows, columns in zip(row_ptr, col_ptr, strict=True):
        by_row = {(i, j) for i in range(8) for j in row_idx[rows[i] : rows[i + 1]]}
        by_column = {(i, j) for j in range(8) for i in col_idx[columns[j] : columns[j + 1]]}
        assert by_row == by_column


def test_grids_follow_the_blocks(compiled):
    given = make_attention(
        Case("", "bfloat16", SHAPE | {"docs": [130, 64], "block": 64, "prefix": 70, "E": 80}), "meta"
    )
    q, k, v, layout = (given[name] for name in ("q", "k", "v", "layout"))
    options = {name: given[name] for name in ("block", "scale")}
    with device.recording() as launches:
        o, lse = block_attention(**given)
        block_attention_backward(torch.empty_like(o), q, k, v, o, lse, layout, **options)
    # Four blocks with rows; two of the prefix, whose keys have programs of their own.
    assert [launch.grid for launch in launches] == [(4, 2), (4, 2), (6, 1)]


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = arguments()
    o = torch.zeros_like(given["q"])
    lse = o[..., 0].contiguous()
    seen = block_attention(**given, fallback=lambda *tensors, **options: (len(tensors), options))
    assert seen == (4, {name: given[name] for name in ("block", "scale")})
    seen = block_attention_backward(o, o=o, lse=lse, **given, fallback=lambda *tensors, **options: len(tensors))
    assert seen == 7
    with pytest.raises(Missing, match="GPU"):
        block_attention(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": torch.zeros(2, 55, 8), "k": torch.zeros(1, 55, 8), "v": torch.zeros(1, 55, 8)}, "got E=8"),
        (
            {"q": torch.zeros(3, 55, 16), "k": torch.zeros(2, 55, 16), "v": torch.zeros(2, 55, 16)},
            "2 heads of k, got 3",
        ),
        ({"k": torch.zeros(1, 50, 16), "v": torch.zeros(1, 50, 16)}, "55 positions of q, got 50"),
        ({"v": torch.zeros(1, 54, 16)}, "Tk=55.*54"),
        ({"block": 48}, "got 48"),
        ({"k": torch.zeros(1, 60, 16), "v": torch.zeros(1, 60, 16)}, "expected 1 blocks of 16 .* 5 keys, got 0"),
    ],
)
def test_refusals_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        block_attention(**(arguments() | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": torch.zeros(5, 5, dtype=torch.int32)}, "columns=6.*5"),
        ({"pattern": torch.zeros(3, dtype=torch.int32)}, "Hq=2.*3"),
        ({"pattern": torch.zeros(2, 2)}, "expected int32, got float32"),
        ({"col_ptr": torch.zeros(2, 3, dtype=torch.int32)}, r"R \+ 1=4.*3"),
        ({"tokens": 56}, "0 to 55, got 56"),
    ],
)
def test_refusals_of_a_layout_name_both_values(interpreted, changes, words):
    given = arguments()
    with pytest.raises(BadInput, match=words):
        block_attention(**(given | {"layout": dataclasses.replace(given["layout"], **changes)}))


def test_refusals_of_the_backward(interpreted):
    given = arguments()
    o, lse = block_attention(**given)
    with pytest.raises(BadInput, match=r"Tq=55.*54"):
        block_attention_backward(o[:, :54], o=o, lse=lse, **given)
    with pytest.raises(BadInput, match="expected float32, got float64"):
        block_attention_backward(o, o=o, lse=lse.double(), **given)
