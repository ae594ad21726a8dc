"""The decode step: exact merging, empty parts, positions, the tile trick for RoPE, refusals."""

import itertools
import math

import pytest
import torch

from tenfold_kernels.cases.antkv import decode_oracle, dequantised, make_decode
from tenfold_kernels.packing import pack_blocks
from tenfold_kernels.registry import Case, relative_error
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.vq_decode import Coded, Dense, Rope, merge_parts, tables_refused, vq_decode

SHAPE = {"B": 1, "Hq": 2, "Hkv": 1, "D": 64, "n": 70, "block": 32, "design": "tile", "rope": False, "dense": (5,)}
SHAPE |= {"k_sub": 8, "k_bits": 8, "v_sub": 8, "v_bits": 8}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def arguments(dtype="float32", **changes):
    return make_decode(Case("", dtype, SHAPE | changes), "cpu")


def part_of(s, v):
    """Partial softmax of some keys' scores, as the kernels write it; -inf and 0 where there is none."""
    m = s.max(-1).values if s.shape[-1] else torch.full(s.shape[:-1], float("-inf"))
    p = (s - torch.where(m.isinf(), 0.0, m)[..., None]).exp()
    return m, p.sum(-1), p @ v


# Every partition of a few keys into three parts would be too many: lengths of the parts, and a part hidden.
PARTITIONS = [(0, 0, 9), (9, 0, 0), (0, 9, 0), (1, 1, 7), (3, 3, 3), (0, 4, 5), (8, 1, 0)]


@pytest.mark.parametrize("lengths", PARTITIONS)
@pytest.mark.parametrize("hidden", [None, 0, 1, 2])
def test_three_parts_merge_to_one_softmax(interpreted, lengths, hidden):
    s, v = normal(2, 3, 9) * 5, normal(9, 64, seed=1)
    edges = [0, *itertools.accumulate(lengths)]
    if hidden is not None:
        s[..., edges[hidden] : edges[hidden + 1]] = float("-inf")
    parts = [part_of(s[..., a:b], v[a:b]) for a, b in itertools.pairwise(edges)]
    m, total = (torch.stack([part[at] for part in parts], -1) for at in (0, 1))
    out, lse = merge_parts(m, total, torch.stack([part[2] for part in parts], -2))
    everything = s.double()
    if s.isinf().all():
        assert out.abs().max() == 0
        assert (lse == float("-inf")).all()
        return
    assert relative_error(out, everything.softmax(-1) @ v.double()) < 1e-6
    assert relative_error(lse, everything.logsumexp(-1)) < 1e-6


def test_what_stands_in_an_empty_part_is_not_read(interpreted):
    m = torch.tensor([[[0.0, float("-inf")]]])
    total = torch.tensor([[[2.0, float("nan")]]])
    acc = torch.stack([torch.ones(64), torch.full((64,), float("nan"))])[None, None]
    out, lse = merge_parts(m, total, acc)
    assert torch.equal(out, torch.full((1, 1, 64), 0.5))
    assert lse.item() == pytest.approx(0.6931472)


def test_many_parts(interpreted):
    s, v = normal(1, 1, 40) * 3, normal(40, 64, seed=1)
    parts = [part_of(s[..., at : at + 1], v[at : at + 1]) for at in range(40)]
    m, total = (torch.stack([part[at] for part in parts], -1) for at in (0, 1))
    out, _ = merge_parts(m, total, torch.stack([part[2] for part in parts], -2))
    assert relative_error(out, s.double().softmax(-1) @ v.double()) < 1e-6


def test_splits_give_what_one_split_gives(interpreted, monkeypatch):
    given = arguments(n=600, dense=(300, 5))
    one, lse = vq_decode(**given)
    for splits in (1, 2, 3, 5, 10):
        monkeypatch.setattr(
            "tenfold_shared.launch.vq_decode._split",
            lambda units, *_, k=splits: (-(-units // k), -(-units // -(-units // k))),
        )
        other, other_lse = vq_decode(**given)
        assert relative_error(other, one.double()) < 1e-6
        assert relative_error(other_lse, lse.double()) < 1e-6


def test_no_key_at_all(interpreted):
    out, lse = vq_decode(**arguments(valid=0.0))
    assert out.abs().max() == 0
    assert (lse == float("-inf")).all()
    out, lse = vq_decode(normal(2, 3, 64), None, scale=0.1)
    assert out.abs().max() == 0
    assert (lse == float("-inf")).all()


def test_coded_and_anchors_partition_the_tokens(interpreted):
    """Tokens moved from codes to anchors, all of them in the end, give the same result."""
    given = arguments(dense=(), valid=1.0)
    coded = given["coded"]
    keys, values = dequantised(coded, 0, 0)
    reference, _ = decode_oracle(given)
    for moved in ([], [0], [3, 31, 32, 69], list(range(70))):
        coded.valid[:] = True
        coded.valid[0, 0, moved] = False
        positions = torch.tensor(moved, dtype=torch.int32)[None, None]
        dense = Dense(keys[moved].float()[None, None], values[moved].float()[None, None], positions)
        out, _ = vq_decode(**(given | {"dense": [dense]}))
        assert relative_error(out, reference) < 1e-5


def test_empty_entries_may_hold_anything(interpreted):
    given = arguments()
    part = given["dense"][0]
    part.positions[0, 0] = torch.tensor([4, -1, 7, -1, 9], dtype=torch.int32)
    before, _ = vq_decode(**given)
    part.v[0, 0, [1, 3]] = float("nan")
    part.k[0, 0, [1, 3]] = float("nan")
    after, _ = vq_decode(**given)
    assert torch.equal(before, after)


def test_lse_gives_a_key_its_weight(interpreted):
    given = arguments()
    _, lse = vq_decode(**given)
    keys = [dequantised(given["coded"], 0, 0)[0][given["coded"].valid[0, 0, :70]]]
    part = given["dense"][0]
    keys.append(part.k[0, 0].double()[part.positions[0, 0] >= 0])
    s = given["q"][0].double() @ torch.cat(keys).T * given["scale"]
    assert (s - lse[0, :, None]).exp().sum(-1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("shift", [0, -13, 130000])
def test_rotating_back_a_tile_is_rotating_every_key(interpreted, shift):
    given = arguments(rope=True, n=200, dense=())
    given["coded"].rope.shift[:] = shift
    out, lse = vq_decode(**given)
    reference, reference_lse = decode_oracle(given)
    assert relative_error(out, reference) < 1e-5
    assert relative_error(lse, reference_lse) < 1e-5


def test_rotation_tables_grow(interpreted):
    rope = Rope(torch.ones(2, dtype=torch.float64))
    cpu = torch.device("cpu")
    assert rope.tables(3, 10, cpu)[0][2].tolist() == pytest.approx([math.cos(20.0)] * 2)
    assert rope.tables(2, 10, cpu)[0] is rope.tables(3, 10, cpu)[0]
    assert rope.tables(9, 10, cpu)[0].shape[0] >= 9


def test_one_list_of_validity_serves_all_heads(interpreted):
    given = arguments(Hq=4, Hkv=2)
    coded = given["coded"]
    coded.valid[:, 1] = coded.valid[:, 0]
    both, _ = vq_decode(**given)
    coded.valid = coded.valid[:, :1]
    assert torch.equal(vq_decode(**given)[0], both)


def test_heads_may_share_a_codebook(interpreted):
    given = arguments(Hq=4, Hkv=2)
    coded = given["coded"]
    coded.k_book = coded.k_book[:1].expand(2, -1, -1, -1)
    coded.v_book = coded.v_book[:1].expand(2, -1, -1, -1)
    shared, _ = vq_decode(**given)
    assert relative_error(shared, decode_oracle(given)[0]) < 1e-5


def test_a_cache_with_room_for_more(interpreted):
    """Codes are views into a larger allocation, of which n slots are used."""
    given = arguments()
    coded = given["coded"]
    room = torch.full((1, 1, 9, *coded.k_codes.shape[3:]), 255, dtype=torch.uint8)
    room[:, :, :3] = coded.k_codes
    before, _ = vq_decode(**given)
    coded.k_codes = room
    coded.v_codes = torch.nn.functional.pad(coded.v_codes, (0, 0, 0, 0, 0, 6))
    assert torch.equal(vq_decode(**given)[0], before)


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = arguments()
    seen = []

    def fallback(q, coded, dense, scale):
        seen.append((q, coded, dense, scale))
        return decode_oracle({"q": q, "coded": coded, "dense": dense, "scale": scale})

    out, _ = vq_decode(**given, fallback=fallback)
    assert out.dtype == torch.float64
    assert seen[0][1] is given["coded"]
    with pytest.raises(Missing, match="GPU"):
        vq_decode(**given)


def test_tables_say_why_they_cannot(interpreted):
    given = arguments("float16", rope=True)
    assert "before RoPE" in tables_refused(given["q"], given["coded"])
    with pytest.raises(BadInput, match="before RoPE"):
        vq_decode(**(given | {"design": "tables"}))
    given = arguments("float32")
    assert "float32" in tables_refused(given["q"], given["coded"])
    given = arguments("float16")
    with pytest.raises(Missing, match="needs a GPU"):
        vq_decode(**(given | {"design": "tables"}))


def codes(bits, sub, block=32, n=70):
    return pack_blocks(torch.zeros(1, 1, n, 64 // sub, dtype=torch.int64), bits, block)


def coded_with(**changes):
    own = {"k_codes": codes(8, 8), "v_codes": codes(8, 8), "k_book": torch.zeros(1, 8, 256, 8), "n": 70}
    own |= {"v_book": torch.zeros(1, 8, 256, 8), "k_bits": 8, "v_bits": 8, "valid": torch.ones(1, 1, 70).bool()}
    return Coded(**(own | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_bits": 7}, "got 7"),
        ({"k_book": torch.zeros(1, 8, 200, 8)}, "C=256 for 8 bits, got C=200"),
        ({"k_book": torch.zeros(1, 8, 256, 4)}, r"M\*d=64.*M=8, d=4"),
        ({"v_codes": codes(8, 16)}, r"M=8.*\(1, 1, 3, 4, 32\)"),
        ({"v_codes": codes(8, 8, 64)}, r"blocks=3.*\(1, 1, 2, 8, 64\)"),
        ({"n": 97}, "96 slots of 3 blocks, got 97"),
        ({"valid": torch.ones(1, 1, 69).bool()}, r"n=70.*69"),
        ({"valid": torch.ones(1, 2, 70).bool()}, r"Hkv=1 or 1.*\(1, 2, 70\)"),
        ({"valid": torch.ones(1, 1, 70)}, "float32"),
        ({"v_book": torch.zeros(1, 8, 256, 8, dtype=torch.float16)}, "float32 as k_book, got torch.float16"),
        ({"k_codes": codes(8, 8, 48), "v_codes": codes(8, 8, 48)}, "got 48"),
        ({"rope": Rope(torch.zeros(16))}, r"D/2=32\), got \(16,\)"),
        ({"rope": Rope(torch.zeros(32), torch.zeros(2).long())}, r"B=1\), got \(2,\)"),
    ],
)
def test_refusals_of_codes_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        vq_decode(torch.zeros(1, 2, 64), coded_with(**changes), scale=1.0)


@pytest.mark.parametrize(
    ("q", "k", "positions", "words"),
    [
        ((1, 3, 64), (1, 2, 4, 64), (1, 2, 4), "2 heads.*got 3"),
        ((1, 2, 64), (1, 2, 4, 32), (1, 2, 4), r"D=64\), got \(1, 2, 4, 32\)"),
        ((1, 2, 64), (1, 2, 4, 64), (1, 2, 5), r"A=4\), got \(1, 2, 5\)"),
        ((1, 2, 96), (1, 2, 4, 96), (1, 2, 4), "got D=96"),
    ],
)
def test_refusals_of_dense_parts_name_both_values(interpreted, q, k, positions, words):
    part = Dense(torch.zeros(k), torch.zeros(k), torch.zeros(positions, dtype=torch.int32))
    with pytest.raises(BadInput, match=words):
        vq_decode(torch.zeros(q), None, [part], scale=1.0)
