"""Launcher of the nearest-centroid encoder (tenfold_kernels/triton/vq_encode.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device

MOST_CENTROIDS = 4096
SUB = (2, 4, 8, 16, 32)


def vq_encode(
    x: Any, codebook: Any, *, want_error: bool = False, fallback: Callable[..., tuple[Any, Any]] | None = None
) -> tuple[Any, Any]:
    """Indices (N, H, M) of the nearest centroids, and their squared errors float32 (N, H, M), or None.

    x: (N, H, M, d); codebook: (H, M, C, d), stride 0 over H where heads share one; one dtype of float16,
    bfloat16, float32; d 2, 4, 8, 16 or 32; C at most 4096. Indices are uint8 for C <= 256, else int16; of
    equally near centroids the lowest. Where x holds NaN or infinities the index means nothing and the
    error is not finite: the caller has to check one or the other.
    On CPU returns fallback(x, codebook, want_error=). Raises BadInput, Missing.
    """
    import torch

    expect("x", x, [("N", None), ("H", None), ("M", None), ("d", None)], FLOATS)
    n, h, m, sub = x.shape
    book_shape = [("H", h), ("M", m), ("C", None), ("d", sub)]
    expect("codebook", codebook, book_shape, [str(x.dtype).removeprefix("torch.")])
    c = codebook.shape[2]
    if sub not in SUB:
        raise BadInput(f"x: expected d of {', '.join(map(str, SUB))}, got d={sub}")
    if not 1 <= c <= MOST_CENTROIDS:
        raise BadInput(f"codebook: expected C of 1 to {MOST_CENTROIDS}, got C={c}")
    if not on_device({"x": x, "codebook": codebook}):
        return fall_back("vq_encode", fallback)(x, codebook, want_error=want_error)

    index = torch.empty(n, h, m, dtype=torch.uint8 if c <= 256 else torch.int16, device=x.device)
    error = torch.empty(n, h, m, dtype=torch.float32, device=x.device) if want_error else None
    x = last_contiguous(x)
    if h and not codebook[0].is_contiguous():
        codebook = codebook.contiguous()
    wide = x.dtype == torch.float32
    bn, bc = (32, 32) if wide else (64, 64)
    device.start(
        "vq_encode",
        "vq_encode",
        (-(-n // bn), h * m),
        (x, codebook, index, index if error is None else error, n, *x.stride()[:3], codebook.stride(0)),
        {
            "H": h,
            "M": m,
            "C": c,
            "SUB": sub,
            "DEPTH": max(sub, 16),
            "ERROR": want_error,
            "PRECISION": "ieee",
            "BN": bn,
            "BC": bc,
        },
        warps=4,
        stages=2,
    )
    return index, error
