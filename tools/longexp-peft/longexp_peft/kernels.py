"""The operators by device code (tenfold_shared.launch), on a GPU or in Triton's interpreter; elsewhere PyTorch's.

`up` and `down` are the products with picked neurons of mlp.py, `attend_blocks` the attention of attention.py over a whole packed row.
On a GPU a product can also be made by copying the rows and a plain product: which of the two is faster for a shape is measured at its
first use, as neither is always so.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longexp_peft import patterns
from tenfold_shared.launch.block_attention import BLOCKS, BlockLayout, block_attention, block_attention_backward
from tenfold_shared.launch.neuron_gemm import neuron_down, neuron_up

TYPES = (torch.float16, torch.bfloat16, torch.float32)
Low = tuple[Tensor, Tensor, float] | None


@functools.cache
def _triton() -> bool:
    """Whether Triton is here; else PyTorch does the work on a GPU too, which is told once."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        print(
            "longexp-peft: triton is not installed: rows are copied and multiplied by PyTorch, attention of blocks likewise",
            file=sys.stderr,
        )
    return found


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def on_device(x: Tensor) -> bool:
    return x.dtype in TYPES and ((x.is_cuda and _triton()) or (x.device.type == "cpu" and interpreting()))


# ---------------------------------------------------------------- products with picked neurons

_faster: dict[tuple[Any, ...], bool] = {}


def products(x: Tensor, weight: Tensor, rows: Tensor | slice | None) -> bool:
    """Whether device code makes a layer's products with these rows of (F, d) weights, rather than a copy of them and PyTorch."""
    if not on_device(x) or not isinstance(rows, Tensor) or not len(rows) or not weight.is_contiguous():
        return False  # a run of neurons, or all, is a view: nothing would be copied
    if not x.is_cuda:
        return True
    if torch.are_deterministic_algorithms_enabled():
        return True
    # Coarse, so that few shapes are ever timed: each is waited for.
    key = (len(x).bit_length(), -(-8 * len(rows) // len(weight)), weight.shape, x.dtype, x.device)
    if key not in _faster:
        index = rows.to(torch.int32)
        h = torch.ones(
            len(x), len(rows), dtype=x.dtype, device=x.device
        )  # nothing is drawn: dropout's masks come after

        def kernel() -> None:
            neuron_up(x, weight, index)
            neuron_down(h, weight, index)

        def copied() -> None:
            w = weight.index_select(0, rows)
            torch.mm(x, w.t())
            torch.mm(h, w)

        _faster[key] = _seconds(kernel) < _seconds(copied)
    return _faster[key]


def _seconds(run: Any) -> float:
    run()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def up(
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    *,
    bias: Tensor | None = None,
    low: Low = None,
    epilogue: str = "none",
    h: Tensor | None = None,
) -> Tensor:
    """f(x weight[rows]ᵀ + bias[rows] + scale u b[rows]ᵀ) (M, |S|)."""
    if low is not None:
        low = (low[0].to(x.dtype), low[1].to(x.dtype), low[2])
    return neuron_up(x, weight, rows.to(torch.int32), bias=bias, low=low, epilogue=epilogue, h=h)


def down(h: Tensor, weight: Tensor, rows: Tensor, *, bias: Tensor | None = None, low: Low = None) -> Tensor:
    """h weight[rows] + bias + scale u bᵀ (M, d)."""
    return neuron_down(h, weight, rows.to(torch.int32), bias=bias, low=low)


# ---------------------------------------------------------------- attention by blocks


def attends(q: Tensor, block: int) -> bool:
    """Whether device code attends to heads like q (…, e)."""
    return on_device(q) and block in BLOCKS and 16 <= q.shape[-1] <= 128


@functools.lru_cache(maxsize=8)
def _tables(most: int, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(x.to(device) for x in patterns.lists(most))


@functools.lru_cache(maxsize=64)
def _blocks_of(lengths: tuple[int, ...], block: int, prefix: int, device: torch.device) -> Tensor:
    """The table of a row's blocks, made once for all layers."""
    table: list[tuple[int, ...]] = [(0, 0, 0, 0, 0, 0)] * -(-prefix // block)
    start = prefix
    for number, length in enumerate(lengths):
        first, blocks = len(table), -(-length // block)
        table += [(start + i * block, min(block, length - i * block), first, i, blocks, number) for i in range(blocks)]
        start += length
    return torch.tensor(table, dtype=torch.int32, device=device)


def layout(
    lengths: Sequence[int], chosen: dict[int, Tensor], heads: int, block: int, prefix: int, device: torch.device
) -> BlockLayout:
    """The row's blocks and each document's patterns (dense where it has none); `prefix` keys come first."""
    which = torch.zeros(len(lengths), heads, dtype=torch.int32, device=device)
    for number, one in chosen.items():
        which[number] = one.to(device=device, dtype=torch.int32)
    # Tables for a power of two of blocks serve documents of any length below.
    most = 1 << max(0, max(-(-n // block) for n in lengths) - 1).bit_length()
    row_ptr, row_idx, col_ptr, col_idx = _tables(most, device)
    of = _blocks_of(tuple(lengths), block, prefix, device)
    return BlockLayout(of, which, row_ptr, row_idx, col_ptr, col_idx, prefix_blocks=-(-prefix // block))


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, of: BlockLayout, block: int, scale: float) -> Tensor:
    """o (T, H, e) of q (H, T, e), k, v (Hkv, P + T, e)."""
    return _Blocks.apply(q, k, v, of, block, scale).transpose(0, 1)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, of: BlockLayout, block: int, scale: float) -> Tensor:
        o, lse = block_attention(q, k, v, of, block=block, scale=scale)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.of, ctx.block, ctx.scale = of, block, scale
        return o

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        return (
            *block_attention_backward(do, q, k, v, o, lse, ctx.of, block=ctx.block, scale=ctx.scale),
            None,
            None,
            None,
        )
