"""Launcher of block-sparse decode attention (tenfold_kernels/triton/block_decode.py, where the equation stands)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device, processors

BLOCKS = (16, 32, 64, 128, 256)
WIDTHS = (64, 80, 96, 128, 192, 256)
HEADS = 64  # query heads that one program serves at most, half of them where D is above 128


def block_decode(
    q: Any,
    k: Any,
    v: Any,
    lengths: Any,
    indices: Any = None,
    counts: Any = None,
    *,
    block: int,
    scale: float,
    mask: Any = None,
    table: Any = None,
    splits: int | None = None,
    fallback: Callable[..., tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Attention of one query a row over the listed blocks alone: o (B, Hq, D) as q, lse float32 (B, Hq).

    q: (B, Hq, D), D 64, 80, 96, 128, 192 or 256; k, v: (B, Hkv, S, D) of any strides (a cache (B, S, Hkv, D)
    comes as its transpose), one dtype of float16, bfloat16, float32. With table int32 (B, pages of a row) they
    are pages instead: (pages, Hkv, P, D), P a multiple of `block`.
    lengths: int32 (B,), tokens of each row. indices: int32 (B, Hkv, K), of which the first counts (int32
    (B, Hkv)) are block numbers below ceil(length/block), ascending; what follows is not read. In their stead
    mask: bool (B, Hkv, NB), made into lists on the device. They lie on the device, so none of this is checked;
    full blocks may stand in any order as long as the one of the last token comes last.
    splits: parts each list is cut into, by default as fills the GPU twice. A row that sees no token gives o 0
    and lse -inf.
    On CPU returns fallback(q, k, v, lengths, indices, counts, block=, scale=, mask=, table=). Raises BadInput,
    Missing.
    """
    import torch

    expect("q", q, [("B", None), ("Hq", None), ("D", None)], FLOATS)
    b, hq, d = q.shape
    one = [str(q.dtype).removeprefix("torch.")]
    if d not in WIDTHS:
        raise BadInput(f"q: expected D of {', '.join(map(str, WIDTHS))}, got D={d}")
    if block not in BLOCKS:
        raise BadInput(f"block: expected one of {', '.join(map(str, BLOCKS))}, got {block}")
    first, third = ("B", "S") if table is None else ("pages", "P")
    expect("k", k, [(first, b if table is None else None), ("Hkv", None), (third, None), ("D", d)], one)
    hkv = k.shape[1]
    expect("v", v, list(zip((first, "Hkv", third, "D"), k.shape, strict=True)), one)
    if hkv == 0 or hq % hkv:
        raise BadInput(f"q: expected a multiple of the {hkv} heads of k, got {hq}")
    expect("lengths", lengths, [("B", b)], ["int32"])
    given = {"q": q, "k": k, "v": v, "lengths": lengths}
    if (mask is None) == (indices is None) or (indices is None) != (counts is None):
        raise BadInput("indices: expected indices with counts, or mask in their stead")
    if mask is None:
        expect("indices", indices, [("B", b), ("Hkv", hkv), ("K", None)], ["int32"])
        expect("counts", counts, [("B", b), ("Hkv", hkv)], ["int32"])
        given |= {"indices": indices, "counts": counts}
    else:
        expect("mask", mask, [("B", b), ("Hkv", hkv), ("NB", None)], ["bool"])
        given["mask"] = mask
    if table is not None:
        expect("table", table, [("B", b), ("pages of a row", None)], ["int32"])
        given["table"] = table
        if k.shape[2] == 0 or k.shape[2] % block:
            raise BadInput(f"k: expected pages of a multiple of {block} tokens, got {k.shape[2]}")
    if splits is not None and splits < 1:
        raise BadInput(f"splits: expected 1 or more, got {splits}")
    if not on_device(given):
        options = {"block": block, "scale": scale, "mask": mask, "table": table}
        return fall_back("block_decode", fallback)(q, k, v, lengths, indices, counts, **options)

    if mask is not None:
        indices, counts = lists_of(mask, lengths, block)
    k, v = last_contiguous(k), last_contiguous(v)
    group, capacity = hq // hkv, indices.shape[2]
    width, wide = _power(d), q.dtype == torch.float32
    rows = min(HEADS if width <= 128 else HEADS // 2, max(16, _power(group)))
    chunks = -(-group // rows)
    # By the offline report: tiles of 16 KiB keep three stages for two programs on a multiprocessor.
    tile = 32 if wide or width > 128 else 64
    if splits is None:
        splits = -(-2 * processors(q.device) // max(1, b * hkv * chunks))
    splits = max(1, min(splits, capacity, -(-capacity * block // tile)))
    page = 0 if table is None else k.shape[2]
    m, total = (torch.empty(b, hq, splits, dtype=torch.float32, device=q.device) for _ in range(2))
    acc = torch.empty(b, hq, splits, d, dtype=torch.float32, device=q.device)
    table = lengths if table is None else last_contiguous(table)  # not read where there are no pages
    arguments = [q.contiguous(), k, v, lengths.contiguous(), indices.contiguous(), counts.contiguous(), table]
    arguments += [m, total, acc, float(scale), capacity, splits, table.stride(0), *k.stride()[:3], *v.stride()[:3]]
    device.start(
        "block_decode",
        "block_part",
        (splits, b * hkv, chunks),
        arguments,
        {
            "HKV": hkv,
            "G": group,
            "GP": rows,
            "D": d,
            "DP": width,
            "BLOCK": block,
            "T": tile,
            "PAGE": page,
            "PRECISION": "ieee",
        },
        warps=8 if rows > 32 or rows * width > 4096 else 4,
        stages=2 if wide else 5,
    )
    out = torch.empty(b, hq, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(b, hq, dtype=torch.float32, device=q.device)
    device.start(
        "block_decode",
        "combine",
        (b * hq,),
        (m, total, acc, out, lse, splits),
        {"D": d, "DP": width, "S": 16},
        warps=4,
        stages=1,
    )
    return out, lse


def lists_of(mask: Any, lengths: Any, block: int) -> tuple[Any, Any]:
    """(indices int32 (B, Hkv, NB), counts int32 (B, Hkv)) of a mask (B, Hkv, NB), past each count unset."""
    import torch

    b, hkv, blocks = mask.shape
    indices = torch.empty(b, hkv, blocks, dtype=torch.int32, device=mask.device)
    counts = torch.empty(b, hkv, dtype=torch.int32, device=mask.device)
    device.start(
        "block_decode",
        "list_blocks",
        (b * hkv,),
        (mask.contiguous().view(torch.uint8), lengths.contiguous(), indices, counts, blocks),
        {"HKV": hkv, "BLOCK": block, "N": min(4096, max(16, _power(blocks)))},
        warps=4,
        stages=1,
    )
    return indices, counts


def _power(n: int) -> int:
    """The least power of two that is not below N."""
    return 1 << max(n - 1, 0).bit_length()
