"""Launcher of the gate's training target (tenfold_kernels/triton/block_truth.py, where the equation stands)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device

BLOCKS = (16, 32, 64, 128, 256)
WIDTHS = (64, 80, 96, 128, 192, 256)
MOST_HEADS = 128  # query heads of a kv-head, rows of one product


def block_truth(
    q: Any,
    k: Any,
    lengths: Any,
    *,
    block: int,
    scale: float,
    first_row: int = 0,
    fallback: Callable[..., Any] | None = None,
) -> Any:
    """Target gt, float32 (B, Hkv, N - first_row, ceil(N/block)), of causal attention: row r is query first_row + r.

    The largest attention weight in each block strictly before the query's own, over the kv-head's query
    heads, divided by the row's sum; rows of the first block and rows at or past `lengths` are 0.
    q: (B, Hq, N, D), k: (B, Hkv, N, D), one dtype of float16, bfloat16, float32, D 64, 80, 96, 128, 192 or
    256; lengths: int32 (B,), tokens of each row, padding behind them.
    On CPU returns fallback(q, k, lengths, block=, scale=, first_row=). Raises BadInput, Missing.
    """
    import torch

    expect("q", q, [("B", None), ("Hq", None), ("N", None), ("D", None)], FLOATS)
    b, hq, n, d = q.shape
    if d not in WIDTHS:
        raise BadInput(f"q: expected D of {', '.join(map(str, WIDTHS))}, got D={d}")
    expect("k", k, [("B", b), ("Hkv", None), ("N", n), ("D", d)], [str(q.dtype).removeprefix("torch.")])
    hkv = k.shape[1]
    if hkv == 0 or hq % hkv or hq // hkv > MOST_HEADS:
        raise BadInput(f"q: expected a multiple, at most {MOST_HEADS} times, of the {hkv} heads of k, got {hq}")
    expect("lengths", lengths, [("B", b)], ["int32"])
    if block not in BLOCKS:
        raise BadInput(f"block: expected one of {', '.join(map(str, BLOCKS))}, got {block}")
    if not scale > 0:
        raise BadInput(f"scale: expected above 0, got {scale}")
    if not 0 <= first_row <= n:
        raise BadInput(f"first_row: expected 0 to {n}, got {first_row}")
    if not on_device({"q": q, "k": k, "lengths": lengths}):
        return fall_back("block_truth", fallback)(q, k, lengths, block=block, scale=scale, first_row=first_row)

    blocks = -(-n // block)
    gt = torch.zeros(b, hkv, n - first_row, blocks, dtype=torch.float32, device=q.device)
    q, k = last_contiguous(q), last_contiguous(k)
    heads, width = _power(hq // hkv), _power(d)
    wide = q.dtype == torch.float32
    # By the offline report: a tile of scores stays in registers. float32 has no tensor cores here.
    tile = 32 if wide else 64
    rows = max(heads, 32 if wide else 128 if width <= 128 else 64)
    queries = rows // heads
    device.start(
        "block_truth",
        "block_truth",
        (-(-(n - first_row) // queries), b * hkv),
        (q, k, lengths.contiguous(), gt, float(scale), n, first_row, blocks, *q.stride()[:3], *k.stride()[:3]),
        {
            "HKV": hkv,
            "G": hq // hkv,
            "GP": heads,
            "BM": queries,
            "D": d,
            "DP": width,
            "BLOCK": block,
            "T": tile,
            "PRECISION": "ieee",
        },
        warps=8 if rows * tile >= 8192 else 4,
        stages=2,
    )
    return gt


def _power(n: int) -> int:
    """The least power of two that is not below N."""
    return 1 << max(n - 1, 0).bit_length()
