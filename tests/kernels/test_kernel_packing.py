"""Packing: round trips at every short length, the documented bytes, and refusals."""

import numpy as np
import pytest
import torch

from tenfold_kernels.packing import BITS, pack, pack_blocks, packed_bytes, unpack, unpack_blocks


@pytest.mark.parametrize("bits", BITS)
def test_round_trip_at_every_length(bits):
    generator = torch.Generator().manual_seed(bits)
    for n in range(71):
        indices = torch.randint(0, 1 << bits, (3, n), generator=generator)
        packed = pack(indices, bits)
        assert packed.dtype == torch.uint8
        assert packed.shape == (3, packed_bytes(n, bits)) == (3, -(-n * bits // 8))
        assert torch.equal(unpack(packed, bits, n).long(), indices)
        assert not n or int(unpack(packed, bits, n).max()) < 1 << bits


def test_layout_is_the_documented_one():
    assert pack(torch.tensor([0xABC, 0x123]), 12).tolist() == [0xBC, 0x3A, 0x12]
    assert pack(torch.tensor([0b000001, 0b000010, 0b000011, 0b000100]), 6).tolist() == [
        0b10000001,
        0b00110000,
        0b00010000,
    ]
    assert pack(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack(torch.tensor([1, 2, 3, 0, 1]), 2).tolist() == [0b00111001, 1]
    assert pack(torch.tensor([255, 7]), 8).tolist() == [255, 7]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 70])
def test_blocks_round_trip(bits, n):
    generator = torch.Generator().manual_seed(n)
    indices = torch.randint(0, 1 << bits, (2, 3, n, 4), generator=generator)
    codes = pack_blocks(indices, bits, 32)
    assert codes.shape == (2, 3, -(-n // 32), 4, 32 * bits // 8)
    assert torch.equal(unpack_blocks(codes, bits, n).long(), indices)


def test_blocks_are_sub_vector_major():
    indices = torch.arange(16)[:, None] + torch.tensor([0, 100])
    codes = pack_blocks(indices, 8, 16)
    assert codes[0, 1].tolist() == list(range(100, 116))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_arrays_stay_arrays(kind):
    packed = pack(np.array([3, 1, 2], dtype=kind), 6)
    assert isinstance(packed, np.ndarray)
    assert unpack(packed, 6, 3).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pack(torch.tensor([64]), 6), "0 to 63 for 6 bits, got 64"),
        (lambda: pack(torch.tensor([-1]), 6), "got -1"),
        (lambda: pack(torch.tensor([1]), 7), "got 7"),
        (lambda: pack(torch.tensor([1.0]), 8), "float32"),
        (lambda: unpack(torch.zeros(2, dtype=torch.uint8), 6, 3), "3"),
        (lambda: pack_blocks(torch.zeros(4, 1, dtype=torch.int64), 6, 12), "got 12"),
        (lambda: unpack_blocks(torch.zeros(1, 1, 16, dtype=torch.uint8), 8, 17), "17"),
    ],
)
def test_refusals_name_the_values(call, words):
    with pytest.raises(ValueError, match=words):
        call()
