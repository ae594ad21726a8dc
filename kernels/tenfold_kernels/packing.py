"""Bit packing of codebook indices, and the block layout the decode kernels read.

Knows torch tensors and numpy arrays, no device code. The stream is little-endian: index t of a row
takes the bits t*bits ... t*bits+bits-1, bit 0 of byte 0 first, and the last byte is filled up with
zeros. So 8-bit is one byte each, 12-bit two in 3 bytes (low byte; high 4 bits | low 4 bits; high
byte), 6-bit four in 3 bytes, 4-bit two and 2-bit four in one.
"""

from __future__ import annotations

import math
from typing import Any

BITS = (2, 4, 6, 8, 12)


def packed_bytes(n: int, bits: int) -> int:
    """Bytes that n indices of `bits` bits take: ceil(n*bits/8)."""
    return (n * bits + 7) // 8


def pack(indices: Any, bits: int, *, checked: bool = True) -> Any:
    """Indices (..., n) of any integer type, each in [0, 2**bits), to uint8 (..., ceil(n*bits/8)).

    Packs the last axis; returns what it was given, tensor or array. `checked=False` leaves the range
    unlooked at, which on a GPU saves a synchronisation; indices out of range then spill into their
    neighbours. Raises ValueError.
    """
    import torch

    _known(bits)
    values, back = _tensor(indices)
    if values.dtype.is_floating_point or values.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(f"indices: expected an integer type, got {values.dtype}")
    if checked and values.numel():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= 1 << bits:
            raise ValueError(f"indices: expected 0 to {(1 << bits) - 1} for {bits} bits, got {low} to {high}")
    n = values.shape[-1]
    group, size = _group(bits)
    words = torch.nn.functional.pad(values.to(torch.int32), (0, -n % group)).unflatten(-1, (-1, group))
    word = torch.zeros(words.shape[:-1], dtype=torch.int32, device=words.device)
    for place in range(group):
        word |= words[..., place] << (bits * place)
    parts = torch.stack([(word >> (8 * place)) & 255 for place in range(size)], -1)
    return back(parts.flatten(-2).to(torch.uint8)[..., : packed_bytes(n, bits)].contiguous())


def unpack(packed: Any, bits: int, n: int) -> Any:
    """The n indices of each packed row: uint8 (..., ceil(n*bits/8)) to int32 (..., n). Raises ValueError."""
    import torch

    _known(bits)
    values, back = _tensor(packed)
    if values.dtype != torch.uint8 or values.shape[-1] != packed_bytes(n, bits):
        raise ValueError(
            f"packed: expected uint8 (..., {packed_bytes(n, bits)}) for {n} indices of {bits} bits, "
            f"got {values.dtype} {tuple(values.shape)}"
        )
    group, size = _group(bits)
    parts = torch.nn.functional.pad(values.to(torch.int32), (0, -values.shape[-1] % size)).unflatten(-1, (-1, size))
    word = torch.zeros(parts.shape[:-1], dtype=torch.int32, device=parts.device)
    for place in range(size):
        word |= parts[..., place] << (8 * place)
    indices = torch.stack([(word >> (bits * place)) & ((1 << bits) - 1) for place in range(group)], -1)
    return back(indices.flatten(-2)[..., :n].contiguous())


def pack_blocks(indices: Any, bits: int, block: int, *, checked: bool = True) -> Any:
    """Indices (..., n, M) to the decode kernels' layout, uint8 (..., ceil(n/block), M, block*bits/8).

    Sub-vector-major inside each block of `block` tokens (a multiple of 8), so that one warp reads
    contiguous bytes. Tokens that fill up the last block get index 0. Raises ValueError.
    """
    import torch

    if block <= 0 or block % 8:
        raise ValueError(f"block: expected a multiple of 8 tokens, got {block}")
    values, back = _tensor(indices)
    n = values.shape[-2]
    filled = torch.nn.functional.pad(values.to(torch.int32), (0, 0, 0, -n % block))
    return back(pack(filled.unflatten(-2, (-1, block)).transpose(-1, -2), bits, checked=checked))


def unpack_blocks(codes: Any, bits: int, n: int) -> Any:
    """The other way: uint8 (..., blocks, M, block*bits/8) to the first n tokens' int32 (..., n, M)."""
    values, back = _tensor(codes)
    block = values.shape[-1] * 8 // bits
    if n > values.shape[-3] * block:
        raise ValueError(f"n: {n} tokens asked for, {values.shape[-3]} blocks hold {values.shape[-3] * block}")
    indices = unpack(values, bits, block)
    return back(indices.transpose(-1, -2).flatten(-3, -2)[..., :n, :].contiguous())


def _known(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"bits: expected one of {BITS}, got {bits}")


def _group(bits: int) -> tuple[int, int]:
    """Indices and bytes of the smallest run that ends at a byte's end."""
    whole = math.lcm(bits, 8)
    return whole // bits, whole // 8


def _tensor(values: Any) -> tuple[Any, Any]:
    """VALUES as a tensor, and what turns a result into the kind VALUES is."""
    import torch

    if isinstance(values, torch.Tensor):
        return values, lambda result: result
    return torch.from_numpy(values), lambda result: result.numpy()
