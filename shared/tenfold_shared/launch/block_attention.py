"""Launchers of block-sparse attention (tenfold_kernels/triton/block_attention.py, where the equation stands)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device

BLOCKS = (16, 32, 64, 128)
LEAST, MOST = 16, 128  # of E


@dataclass(frozen=True)
class BlockLayout:
    """Which blocks of a packed row see which: tables on the tensors' device, none of whose numbers is checked.

    blocks: int32 (N, 6), a row a block of key positions: start, length, the table's row of its document's first
    block, its number within the document, the document's number of blocks, the document's number. The first
    `prefix_blocks` rows are the prefix's ceil((Tk - Tq)/block) blocks and are not read. All blocks but a document's
    last are full. A table may be filled up with rows of zeros: a block of length 0 does nothing.
    pattern: int32 (Hq,) or (documents, Hq), the pattern of each head.
    row_ptr, col_ptr: int32 (P, R + 1); row_idx, col_idx: int32 flat. Block i of a document sees, under pattern p, its
    blocks row_idx[row_ptr[p, i]:row_ptr[p, i + 1]], ascending, none above i; column j is seen by the blocks
    col_idx[col_ptr[p, j]:col_ptr[p, j + 1]], ascending. R is at least the blocks of the longest document.
    tokens: the key positions that prefix and documents cover, from 0 on without a gap; None: all. Queries past
    them see nothing and keys past them are not seen.
    """

    blocks: Any
    pattern: Any
    row_ptr: Any
    row_idx: Any
    col_ptr: Any
    col_idx: Any
    prefix_blocks: int = 0
    tokens: int | None = None


def block_attention(
    q: Any,
    k: Any,
    v: Any,
    layout: BlockLayout,
    *,
    block: int,
    scale: float,
    fallback: Callable[..., tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Causal attention of packed documents over their listed blocks: o (Hq, Tq, E) as q, lse float32 (Hq, Tq).

    q: (Hq, Tq, E), k, v: (Hkv, Tk, E), one dtype of float16, bfloat16, float32, E 16 to 128. The first Tk - Tq keys
    are a prefix that every query sees; query t stands at key position Tk - Tq + t. block: 16, 32, 64 or 128.
    A query that sees no key gives o 0 and lse -inf. o is a transpose: its tokens stand one after another in memory.
    On CPU returns fallback(q, k, v, layout, block=, scale=). Raises BadInput, Missing.
    """
    import torch

    given = _expect(q, k, v, layout, block)
    if not on_device(given):
        return fall_back("block_attention", fallback)(q, k, v, layout, block=block, scale=scale)
    hq, tq, _ = q.shape
    offset = k.shape[1] - tq
    q, k, v = last_contiguous(q), last_contiguous(k), last_contiguous(v)
    o = _tokens_first(q)
    lse = torch.empty(hq, tq, dtype=torch.float32, device=q.device)
    covered = _covered(layout, tq, offset)
    if covered < tq:
        o[:, covered:].zero_()
        lse[:, covered:].fill_(float("-inf"))
    pattern, each = _pattern(layout)
    constants, warps = _constants("forward", q, k, block)
    device.start(
        "block_attention",
        "block_forward",
        ((layout.blocks.shape[0] - layout.prefix_blocks) * (block // constants["ROWS"]), hq),
        (
            *(q, k, v, o, lse, layout.blocks.contiguous(), pattern),
            *(layout.row_ptr.contiguous(), layout.row_idx.contiguous(), float(scale)),
            *(offset, layout.prefix_blocks, tq, each, layout.row_ptr.shape[1]),
            *(stride for one in (q, k, v, o) for stride in one.stride()[:2]),
        ),
        constants | {"PREFIX": offset > 0},
        warps=warps,
        stages=2 if q.dtype == torch.float32 else 3,
    )
    return o, lse


def block_attention_backward(
    do: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    layout: BlockLayout,
    *,
    block: int,
    scale: float,
    fallback: Callable[..., tuple[Any, Any, Any]] | None = None,
) -> tuple[Any, Any, Any]:
    """dq, dk, dv, of the shapes and the dtype of q, k, v, from do (Hq, Tq, E) and what `block_attention` gave.

    They are the gradients of the softmax over the listed keys alone, and 0 for what sees or is seen by nothing. Two
    runs give the same bytes: there are no atomics.
    On CPU returns fallback(do, q, k, v, o, lse, layout, block=, scale=). Raises BadInput, Missing.
    """
    import torch

    given = _expect(q, k, v, layout, block)
    hq, tq, e = q.shape
    one = [str(q.dtype).removeprefix("torch.")]
    for name, tensor in (("do", do), ("o", o)):
        expect(name, tensor, [("Hq", hq), ("Tq", tq), ("E", e)], one)
    expect("lse", lse, [("Hq", hq), ("Tq", tq)], ["float32"])
    if not on_device(given | {"do": do, "o": o, "lse": lse}):
        call = fall_back("block_attention_backward", fallback)
        return call(do, q, k, v, o, lse, layout, block=block, scale=scale)
    hkv, offset = k.shape[0], k.shape[1] - tq
    q, k, v, o, do = (last_contiguous(tensor) for tensor in (q, k, v, o, do))
    lse = lse.contiguous()
    delta = torch.empty_like(lse)
    dq, dk, dv = _tokens_first(q), _tokens_first(k), _tokens_first(v)
    covered = _covered(layout, tq, offset)
    if covered < tq:
        dq[:, covered:].zero_()
        dk[:, offset + covered :].zero_()
        dv[:, offset + covered :].zero_()
    blocks = layout.blocks.contiguous()
    rows = blocks.shape[0] - layout.prefix_blocks
    pattern, each = _pattern(layout)
    constants, warps = _constants("dq", q, k, block)
    device.start(
        "block_attention",
        "block_dq",
        (rows * (block // constants["ROWS"]), hq),
        (
            *(q, k, v, o, do, lse, delta, dq, blocks, pattern),
            *(layout.row_ptr.contiguous(), layout.row_idx.contiguous(), float(scale)),
            *(offset, layout.prefix_blocks, tq, each, layout.row_ptr.shape[1]),
            *(stride for one in (q, k, v, o, do, dq) for stride in one.stride()[:2]),
        ),
        constants | {"PREFIX": offset > 0},
        warps=warps,
        stages=2 if q.dtype == torch.float32 else 3,
    )
    constants, warps = _constants("dkdv", q, k, block)
    tiles = -(-offset // constants["ROWS"])
    device.start(
        "block_attention",
        "block_dkdv",
        (tiles + rows * (block // constants["ROWS"]), hkv),
        (
            *(q, k, v, do, lse, delta, dk, dv, blocks, pattern),
            *(layout.col_ptr.contiguous(), layout.col_idx.contiguous(), float(scale)),
            *(offset, layout.prefix_blocks, tiles, tq, covered, each, layout.col_ptr.shape[1]),
            *(stride for one in (q, k, v, do, dk, dv) for stride in one.stride()[:2]),
        ),
        constants | {"PREFIX": offset > 0},
        warps=warps,
        stages=2 if q.dtype == torch.float32 else 3,
    )
    return dq, dk, dv


def _expect(q: Any, k: Any, v: Any, layout: BlockLayout, block: int) -> dict[str, Any]:
    """The tensors by name. Raises BadInput."""
    expect("q", q, [("Hq", None), ("Tq", None), ("E", None)], FLOATS)
    hq, tq, e = q.shape
    one = [str(q.dtype).removeprefix("torch.")]
    if not LEAST <= e <= MOST:
        raise BadInput(f"q: expected E of {LEAST} to {MOST}, got E={e}")
    if block not in BLOCKS:
        raise BadInput(f"block: expected one of {', '.join(map(str, BLOCKS))}, got {block}")
    expect("k", k, [("Hkv", None), ("Tk", None), ("E", e)], one)
    hkv, tk, _ = k.shape
    expect("v", v, [("Hkv", hkv), ("Tk", tk), ("E", e)], one)
    if hkv == 0 or hq % hkv:
        raise BadInput(f"q: expected a multiple of the {hkv} heads of k, got {hq}")
    if tk < tq:
        raise BadInput(f"k: expected at least the {tq} positions of q, got {tk}")
    given = {"q": q, "k": k, "v": v}
    expect("blocks", layout.blocks, [("N", None), ("columns", 6)], ["int32"])
    if layout.pattern.ndim == 1:
        expect("pattern", layout.pattern, [("Hq", hq)], ["int32"])
    else:
        expect("pattern", layout.pattern, [("documents", None), ("Hq", hq)], ["int32"])
    expect("row_ptr", layout.row_ptr, [("P", None), ("R + 1", None)], ["int32"])
    expect("col_ptr", layout.col_ptr, list(zip(("P", "R + 1"), layout.row_ptr.shape, strict=True)), ["int32"])
    expect("row_idx", layout.row_idx, [("entries", None)], ["int32"])
    expect("col_idx", layout.col_idx, [("entries", None)], ["int32"])
    if layout.prefix_blocks != -(-(tk - tq) // block):
        raise BadInput(
            f"prefix_blocks: expected {-(-(tk - tq) // block)} blocks of {block} for a prefix of {tk - tq} keys, "
            f"got {layout.prefix_blocks}"
        )
    if layout.blocks.shape[0] < layout.prefix_blocks:
        raise BadInput(f"blocks: expected at least the prefix's {layout.prefix_blocks}, got {layout.blocks.shape[0]}")
    if layout.tokens is not None and not tk - tq <= layout.tokens <= tk:
        raise BadInput(f"tokens: expected {tk - tq} to {tk}, got {layout.tokens}")
    names = ("blocks", "pattern", "row_ptr", "row_idx", "col_ptr", "col_idx")
    return given | {name: getattr(layout, name) for name in names}


def _covered(layout: BlockLayout, tq: int, offset: int) -> int:
    """Queries that belong to a document; what follows them no program writes."""
    return tq if layout.tokens is None else layout.tokens - offset


def _pattern(layout: BlockLayout) -> tuple[Any, int]:
    """The patterns of the heads, and what lies between two documents' rows of them."""
    pattern = layout.pattern.contiguous()
    return pattern, 0 if pattern.ndim == 1 else pattern.shape[1]


def _tokens_first(tensor: Any) -> Any:
    """An empty tensor like (heads, tokens, E), a token's heads side by side: what a projection reads as one row."""
    import torch

    heads, tokens, e = tensor.shape
    return torch.empty(tokens, heads, e, dtype=tensor.dtype, device=tensor.device).transpose(0, 1)


def _constants(kernel: str, q: Any, k: Any, block: int) -> tuple[dict[str, Any], int]:
    """Constants and warps. By the offline report: tiles of scores and sums that stay in registers."""
    width = max(16, 1 << (q.shape[2] - 1).bit_length())
    if q.element_size() == 4:  # no tensor cores
        rows, step = 32, 32
    elif kernel == "dkdv":  # two sums of ROWS x EP
        rows, step = (128, 64) if width <= 64 else (64, 32)
    else:
        rows, step = 128, 64
    rows, step = min(block, rows), min(block, step)
    constants = {
        "G": q.shape[0] // k.shape[0],
        "E": q.shape[2],
        "EP": width,
        "BLOCK": block,
        "ROWS": rows,
        "T": step,
        "EXACT": "ieee",
    }
    return constants, 8 if rows > 64 else 4
