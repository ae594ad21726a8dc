"""Launcher of the anchor scores (tenfold_kernels/triton/anchor_score.py, where the equations stand)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device

MODES = ("bound", "bound2", "mass")


def anchor_score(
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    *,
    scale: float,
    start: Any = None,
    mode: str = "bound2",
    fallback: Callable[..., tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Scores (fk, fv), float32 (B, Hkv, Nk), of cached keys and values; fk is None for mode mass.

    q, o: (B, Hq, Nq, D); k, v: (B, Hkv, Nk, D), one dtype of float16, bfloat16, float32; D 64 or 128;
    lse: float32 (B, Hq, Nq), natural logarithm of the softmax's denominator. Query i stands at key
    position Nk-Nq+i. start: int32 (B,), first position of each row that is no padding (default 0).
    mode: bound (sum of A ||v-o|| scale ||q||, and of A), bound2 (sums of their squares), mass (of A).
    On CPU returns fallback(q, k, v, o, lse, scale=, start=, mode=). Raises BadInput, Missing.
    """
    import torch

    if mode not in MODES:
        raise BadInput(f"mode: expected one of {', '.join(MODES)}, got {mode}")
    expect("q", q, [("B", None), ("Hq", None), ("Nq", None), ("D", None)], FLOATS)
    b, hq, nq, d = q.shape
    one = [str(q.dtype).removeprefix("torch.")]
    if d not in (64, 128):
        raise BadInput(f"q: expected D=64 or D=128, got D={d}")
    expect("k", k, [("B", b), ("Hkv", None), ("Nk", None), ("D", d)], one)
    hkv, nk = k.shape[1:3]
    expect("v", v, [("B", b), ("Hkv", hkv), ("Nk", nk), ("D", d)], one)
    expect("o", o, [("B", b), ("Hq", hq), ("Nq", nq), ("D", d)], one)
    expect("lse", lse, [("B", b), ("Hq", hq), ("Nq", nq)], ["float32"])
    if hkv == 0 or hq % hkv:
        raise BadInput(f"q: expected a multiple of the {hkv} heads of k, got {hq}")
    if nq > nk:
        raise BadInput(f"q: expected at most as many queries as keys ({nk}), got {nq}")
    given = {"q": q, "k": k, "v": v, "o": o, "lse": lse}
    if start is not None:
        expect("start", start, [("B", b)], ["int32"])
        given["start"] = start
    if not on_device(given):
        return fall_back("anchor_score", fallback)(q, k, v, o, lse, scale=scale, start=start, mode=mode)

    fv = torch.empty(b, hkv, nk, dtype=torch.float32, device=q.device)
    fk = None if mode == "mass" else torch.empty_like(fv)
    if start is None:
        start = torch.zeros(b, dtype=torch.int32, device=q.device)
    q, k, v, o = (last_contiguous(tensor) for tensor in (q, k, v, o))
    wide = q.dtype == torch.float32
    # By the offline report: 128 keys a program keep both score tiles in registers without spills on sm_80
    # and sm_90. float32 has no tensor cores here (its products are exact) and is meant for checks.
    bm, bn = (16, 32) if wide else (64, 128)
    strides = [stride for tensor in (q, k, v, o) for stride in tensor.stride()[:3]]
    device.start(
        "anchor_score",
        "anchor_score",
        (-(-nk // bn), b * hkv),
        (q, k, v, o, lse.contiguous(), start, fv if fk is None else fk, fv, scale, nq, nk, *strides),
        {
            "HKV": hkv,
            "G": hq // hkv,
            "D": d,
            "KEYS": fk is not None,
            "SQUARED": mode == "bound2",
            "EXACT": wide,
            "PRECISION": "ieee",
            "BM": bm,
            "BN": bn,
        },
        warps=8,
        stages=1 if wide else 2,
    )
    return fk, fv
