"""Launcher of gate scores and block selection (tenfold_kernels/triton/gate_select.py, where the equations stand)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device

WIDTHS = (32, 64, 128, 256)
MOST_BLOCKS = 8192  # scores that one program orders at once
TILE = 64  # blocks that one program scores


def gate_select(
    q: Any,
    wq: Any,
    kc: Any,
    lengths: Any,
    cos: Any,
    sin: Any,
    *,
    block: int,
    budget: int | None = None,
    threshold: float | None = None,
    first: bool = False,
    weight: Any = None,
    eps: float = 1e-6,
    fallback: Callable[..., tuple[Any, Any, Any]] | None = None,
) -> tuple[Any, Any, Any]:
    """The blocks a decode step attends: indices int32 (B, Hkv, K), counts int32 (B, Hkv), scores (B, Hkv, NB).

    q: (B, Hq, D) before RoPE; wq: (Hkv, G, D, dg), of q's dtype, D at most 256, dg 32, 64, 128 or 256; kc:
    (B, NB, Hkv, dg), compressed keys after the gate's RoPE, block j at j, NB at most 8192; lengths: int32
    (B,), tokens of each row with the current one; cos, sin: float32 (B, dg/2) of the row's position.
    weight: (dg,) of the query's RMSNorm, None for no norm.
    The block of a row's last token, number (length-1)//block, is always attended; only blocks before it have
    a score, and those beyond NB are never attended. budget: most blocks attended in all, 1 or more.
    threshold: only blocks whose softmax probability is above it; with a budget, the best of them. first:
    attend block 0 whatever its score, a budget of 1 excepted. Of equal scores the lower block goes first.
    Lists ascend, with -1 past their count; K is min(budget, NB + 1). Scores are float32, -inf where there is
    none. Shapes do not depend on what is selected, and nothing waits for the device.
    On CPU returns fallback(q, wq, kc, lengths, cos, sin, block=, budget=, threshold=, first=, weight=, eps=).
    Raises BadInput, Missing.
    """
    import torch

    expect("q", q, [("B", None), ("Hq", None), ("D", None)], FLOATS)
    b, hq, d = q.shape
    one = [str(q.dtype).removeprefix("torch.")]
    expect("wq", wq, [("Hkv", None), ("G", None), ("D", d), ("dg", None)], one)
    hkv, group, _, width = wq.shape
    if hkv * group != hq or hq == 0:
        raise BadInput(f"wq: expected Hkv*G={hq}, got {hkv}*{group}")
    if width not in WIDTHS:
        raise BadInput(f"wq: expected dg of {', '.join(map(str, WIDTHS))}, got dg={width}")
    expect("kc", kc, [("B", b), ("NB", None), ("Hkv", hkv), ("dg", width)], FLOATS)
    blocks = kc.shape[1]
    if blocks > MOST_BLOCKS:
        raise BadInput(f"kc: expected at most {MOST_BLOCKS} blocks, got {blocks}")
    expect("lengths", lengths, [("B", b)], ["int32"])
    expect("cos", cos, [("B", b), ("dg/2", width // 2)], ["float32"])
    expect("sin", sin, [("B", b), ("dg/2", width // 2)], ["float32"])
    given = {"q": q, "wq": wq, "kc": kc, "lengths": lengths, "cos": cos, "sin": sin}
    if weight is not None:
        expect("weight", weight, [("dg", width)], FLOATS)
        given["weight"] = weight
    if block < 1:
        raise BadInput(f"block: expected 1 or more, got {block}")
    if budget is None and threshold is None:
        raise BadInput("budget: expected a budget, a threshold, or both")
    if budget is not None and budget < 1:
        raise BadInput(f"budget: expected 1 or more blocks, got {budget}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise BadInput(f"threshold: expected 0 to 1, got {threshold}")
    if not on_device(given):
        options = {"block": block, "budget": budget, "threshold": threshold, "first": first}
        options |= {"weight": weight, "eps": eps}
        return fall_back("gate_select", fallback)(q, wq, kc, lengths, cos, sin, **options)

    capacity = blocks + 1 if budget is None else min(budget, blocks + 1)
    kc = last_contiguous(kc)
    part = torch.empty(group, b, hkv, width, dtype=torch.float32, device=q.device)
    tickets = torch.empty(b, hkv, dtype=torch.int32, device=q.device)
    scores = torch.empty(b, hkv, blocks, dtype=torch.float32, device=q.device)
    indices = torch.empty(b, hkv, capacity, dtype=torch.int32, device=q.device)
    counts = torch.empty(b, hkv, dtype=torch.int32, device=q.device)
    columns = min(width, 64)
    device.start(
        "gate_select",
        "gate_query",
        (hq, width // columns, -(-b // 16)),
        (q.contiguous(), wq.contiguous(), part, tickets, b),
        {"HKV": hkv, "G": group, "D": d, "DG": width, "PRECISION": "ieee", "BM": 16, "BN": columns, "BD": 64},
        warps=4,
        stages=2,
    )
    slots = max(16, 1 << max(blocks - 1, 0).bit_length())
    tiles = max(1, -(-blocks // TILE))
    arguments = [part, part if weight is None else weight.contiguous(), cos.contiguous(), sin.contiguous(), kc]
    arguments += [lengths.contiguous(), scores, tickets, indices, counts, 1 / math.sqrt(width), float(eps)]
    arguments += [float(threshold or 0.0), b, blocks, tiles, capacity, *kc.stride()[:3]]
    device.start(
        "gate_select",
        "gate_select",
        (tiles, b * hkv),
        arguments,
        {
            "HKV": hkv,
            "G": group,
            "DG": width,
            "NORM": weight is not None,
            "FIRST": first,
            "THRESHOLD": threshold is not None,
            "BLOCK": block,
            "BN": TILE,
            "N": slots,
        },
        warps=4 if slots <= 1024 else 8 if slots <= 4096 else 16,
        stages=1,
    )
    return indices, counts, scores
