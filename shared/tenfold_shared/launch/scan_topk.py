"""Launcher of the fused scan and top-k (tenfold_kernels/triton/scan_topk.py, where the equations stand)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device

MOST_K = 128
MOST_D = 1024
GROUP = 16  # rows of which the scan keeps one maximum
CHUNK = 4096  # keys that one program orders at once
TILE = 128  # rows that one program scans
SLAB = 4  # groups whose rows one program scores again
PARTS = {"float16": 2, "bfloat16": 3}  # 16-bit numbers that together hold a float32 one


def scan_topk(q: Any, e: Any, *, k: int, fallback: Callable[..., tuple[Any, Any]] | None = None) -> tuple[Any, Any]:
    """The k largest of q e^T for each query: scores float32 (B, k), descending, and their rows int64 (B, k).

    q: (B, d), float16, bfloat16 or float32; e: (N, d) of these, any row stride; d 1 to 1024, k 1 to 128 and at most N.
    Of equal scores the lower row goes first. A score that is not finite, of a row with a NaN or an infinity, counts as
    -inf and is given as that; so are all scores of a query that holds one, whose rows are then 0 to k-1. Products are
    exact and sums float32, whatever the dtypes, and must stay within its range: where q has another dtype than a 16-bit
    e, it is multiplied as a sum of two (float16) or three (bfloat16) such numbers. Which rows are found may depend on
    rounding only where scores differ by as little; equal rows have equal scores. Nothing waits for the device. On CPU
    returns fallback(q, e, k=). Raises BadInput, Missing.
    """
    import torch

    expect("q", q, [("B", None), ("d", None)], FLOATS)
    queries, d = q.shape
    expect("e", e, [("N", None), ("d", d)], FLOATS)
    rows = e.shape[0]
    if not 1 <= d <= MOST_D:
        raise BadInput(f"q: expected d of 1 to {MOST_D}, got d={d}")
    if rows < 1:
        raise BadInput("e: expected one row or more, got N=0")
    if rows > 2**31 - TILE:
        raise BadInput(f"e: expected at most {2**31 - TILE} rows, got N={rows}")
    if not 1 <= k <= min(MOST_K, rows):
        raise BadInput(f"k: expected 1 to {min(MOST_K, rows)} (N={rows}), got {k}")
    if not on_device({"q": q, "e": e}):
        return fall_back("scan_topk", fallback)(q, e, k=k)

    place = q.device
    q, e = q.contiguous(), last_contiguous(e)
    if q.dtype != e.dtype and e.dtype == torch.float32:
        q = q.float()
    terms = q[None]
    if q.dtype != e.dtype:
        name = str(e.dtype).removeprefix("torch.")
        terms = torch.empty(PARTS[name], queries, d, dtype=e.dtype, device=place)
        constants = {"D": d, "DP": max(16, filled(d)), "TERMS": PARTS[name], "HALF": name == "float16"}
        device.start("scan_topk", "split_queries", (queries,), (q, terms, queries), constants, warps=4, stages=1)

    groups = -(-rows // GROUP)
    best_b = -(-groups // 16) * 16  # so that rows begin where 16 bytes can be read
    best = torch.empty(queries, best_b, dtype=torch.float32, device=place)
    columns = min(64, max(16, filled(queries)))
    query_tiles = -(-queries // columns)
    device.start(
        "scan_topk",
        "scan_groups",
        (-(-rows // TILE) * query_tiles,),
        (terms, e, best, queries, rows, groups, query_tiles, e.stride(0), best_b),
        {
            "D": d,
            "TERMS": len(terms),
            "R": GROUP,
            "PRECISION": "ieee",
            "BN": TILE,
            "BM": columns,
            "BD": 64 if e.element_size() == 2 else 32,
        },
        warps=4 if columns == 16 else 8,
        stages=3,
    )

    chunk = min(CHUNK, max(MOST_K, filled(groups)))
    chunks = -(-groups // chunk)
    kept = torch.empty(queries, chunks * k, dtype=torch.int64, device=place)
    arguments: tuple[Any, ...] = (best, kept, groups, chunks, k, best_b)
    device.start("scan_topk", "top_groups", (queries, chunks), arguments, {"CH": chunk}, warps=8, stages=1)
    while chunks > 1:
        entries = chunks * k
        chunk = min(CHUNK, max(MOST_K, filled(entries)))
        chunks = -(-entries // chunk)
        before, kept = kept, torch.empty(queries, chunks * k, dtype=torch.int64, device=place)
        arguments = (before, kept, entries, chunks, k)
        device.start("scan_topk", "merge_keys", (queries, chunks), arguments, {"CH": chunk}, warps=8, stages=1)

    wanted = min(k, groups)
    slabs = -(-wanted // SLAB)
    slots = slabs * SLAB * GROUP
    scored = torch.empty(queries, slots, dtype=torch.int64, device=place)
    device.start(
        "scan_topk",
        "score_groups",
        (queries, slabs),
        (kept, q, e, scored, rows, k, wanted, slots, e.stride(0)),
        {"D": d, "R": GROUP, "GS": SLAB, "BD": 256 // e.element_size()},
        warps=4,
        stages=1,
    )
    picked = torch.empty(queries, k, dtype=torch.int64, device=place)
    scores = torch.empty(queries, k, dtype=torch.float32, device=place)
    indices = torch.empty(queries, k, dtype=torch.int64, device=place)
    constants = {"CH": max(MOST_K, filled(slots)), "K2": max(16, filled(k))}
    arguments = (scored, picked, scores, indices, slots, k)
    device.start("scan_topk", "write_top", (queries,), arguments, constants, warps=4, stages=1)
    return scores, indices


def filled(count: int) -> int:
    """The power of two that is COUNT or the next one above."""
    return 1 << max(count - 1, 0).bit_length()
