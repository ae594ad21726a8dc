"""Launchers of the products with listed neurons (tenfold_kernels/triton/neuron_gemm.py, where the equations stand)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device, processors

EPILOGUES = ("none", "relu", "relu2", "relu_mask", "relu2_mask")
RANK = 64  # of a low-rank term, columns that one step multiplies


def neuron_up(
    x: Any,
    w: Any,
    index: Any,
    *,
    bias: Any = None,
    low: tuple[Any, Any, float] | None = None,
    epilogue: str = "none",
    h: Any = None,
    count: Any = None,
    fallback: Callable[..., Any] | None = None,
) -> Any:
    """f(x w[index]^T + bias[index] + scale u b[index]^T), (M, S) as x: fc1's forward, or fc2's backward to dz.

    x: (M, D); w: (F, D), a row a neuron; index: int32 (S,), rows of w, or None for all of w in its order, so that
    a hot prefix is the view w[:S] and nothing is gathered. low: (u (M, R), b (F, R), scale). x, w, u, b and h of
    one dtype of float16, bfloat16, float32; bias (F,) of any of them. Sums are float32.
    epilogue: none, relu, relu2, or relu_mask and relu2_mask, which multiply by the derivative of relu or relu^2
    where h (M, S) is what that gave: 1[h>0], 2 sqrt(h).
    count: int32 (1,), how many slots of index are in use; those past it are 0 in the result and may hold anything.
    On CPU returns fallback(x, w, index, bias=, low=, epilogue=, h=, count=). Raises BadInput, Missing.
    """
    import torch

    expect("x", x, [("M", None), ("D", None)], FLOATS)
    m, d = x.shape
    one = [str(x.dtype).removeprefix("torch.")]
    if epilogue not in EPILOGUES:
        raise BadInput(f"epilogue: expected one of {', '.join(EPILOGUES)}, got {epilogue}")
    given = {"x": x} | _weight(w, index, count, d, one)
    f = w.shape[0]
    s = f if index is None else index.shape[0]
    if bias is not None:
        expect("bias", bias, [("F", f)], FLOATS)
        given["bias"] = bias
    given |= _low(low, ("M", m), ("F", f), one)
    if (h is not None) != epilogue.endswith("_mask"):
        raise BadInput(f"h: expected with the epilogues relu_mask and relu2_mask, and no others; got {epilogue}")
    if h is not None:
        expect("h", h, [("M", m), ("S", s)], one)
        given["h"] = h
    if not on_device(given):
        options = {"bias": bias, "low": low, "epilogue": epilogue, "h": h, "count": count}
        return fall_back("neuron_up", fallback)(x, w, index, **options)

    out = torch.empty(m, s, dtype=x.dtype, device=x.device)
    x, w = last_contiguous(x), last_contiguous(w)
    h = x if h is None else last_contiguous(h)
    u, b, scale, constants = _term(low, x, w)
    size = tiles(m, s, x)
    device.start(
        "neuron_gemm",
        "neuron_up",
        (-(-m // size["BM"]) * -(-s // size["BN"]),),
        (
            x,
            w,
            _or(index, x),
            _or(count, x),
            _or(bias, x),
            u,
            b,
            h,
            out,
            scale,
            m,
            s,
            x.stride(0),
            w.stride(0),
            u.stride(0),
            b.stride(0),
            h.stride(0),
            out.stride(0),
        ),
        {
            "GATHER": index is not None,
            "COUNT": count is not None,
            "BIAS": bias is not None,
            "EPILOGUE": epilogue,
            "D": d,
            **constants,
            **size,
            "EXACT": "ieee",
        },
        warps=8,
        stages=2 if x.dtype == torch.float32 else 4 if size["BN"] == 256 else 3,
    )
    return out


def neuron_down(
    h: Any,
    w: Any,
    index: Any,
    *,
    bias: Any = None,
    low: tuple[Any, Any, float] | None = None,
    count: Any = None,
    fallback: Callable[..., Any] | None = None,
) -> Any:
    """h w[index] + bias + scale u b^T, (M, D) as h: fc2's forward, or fc1's backward to dx.

    h: (M, S); w: (F, D), a row a neuron; index: int32 (S,), rows of w, or None for all of w in its order (a hot
    prefix is the view w[:S]). low: (u (M, R), b (D, R), scale). h, w, u and b of one dtype of float16, bfloat16,
    float32; bias (D,) of any of them. Sums are float32.
    count: int32 (1,), how many slots of index are in use; those past it, and their columns of h, may hold anything.
    On CPU returns fallback(h, w, index, bias=, low=, count=). Raises BadInput, Missing.
    """
    import torch

    expect("h", h, [("M", None), ("S", None)], FLOATS)
    m, s = h.shape
    one = [str(h.dtype).removeprefix("torch.")]
    given = {"h": h} | _weight(w, index, count, None, one)
    d = w.shape[1]
    if (w.shape[0] if index is None else index.shape[0]) != s:
        name, found = ("w", w) if index is None else ("index", index)
        raise BadInput(f"{name}: expected S={s} of them as h has columns, got {found.shape[0]}")
    if bias is not None:
        expect("bias", bias, [("D", d)], FLOATS)
        given["bias"] = bias
    given |= _low(low, ("M", m), ("D", d), one)
    if not on_device(given):
        return fall_back("neuron_down", fallback)(h, w, index, bias=bias, low=low, count=count)

    y = torch.empty(m, d, dtype=h.dtype, device=h.device)
    h, w = last_contiguous(h), last_contiguous(w)
    u, b, scale, constants = _term(low, h, w)
    size = tiles(m, d, h)
    device.start(
        "neuron_gemm",
        "neuron_down",
        (-(-m // size["BM"]) * -(-d // size["BN"]),),
        (
            h,
            w,
            _or(index, h),
            _or(count, h),
            _or(bias, h),
            u,
            b,
            y,
            scale,
            m,
            s,
            h.stride(0),
            w.stride(0),
            u.stride(0),
            b.stride(0),
            y.stride(0),
        ),
        {
            "GATHER": index is not None,
            "COUNT": count is not None,
            "BIAS": bias is not None,
            "D": d,
            **constants,
            **size,
            "EXACT": "ieee",
        },
        warps=8,
        # A neuron's number is loaded before its row: Triton gives that half of the pipeline's distance.
        stages=2 if h.dtype == torch.float32 else 5,
    )
    return y


def tiles(m: int, n: int, like: Any) -> dict[str, int]:
    """Tile of a result (M, n) and step of the sum. Wide tiles read less; narrow ones fill a GPU sooner."""
    if like.element_size() == 4:  # no tensor cores
        return {"BM": 64, "BN": 64, "BK": 32}
    wide = -(-m // 128) * -(-n // 256) >= 3 * processors(like.device) // 4
    return {"BM": 128, "BN": 256 if wide else 128, "BK": 64}


def _weight(w: Any, index: Any, count: Any, d: int | None, one: list[str]) -> dict[str, Any]:
    expect("w", w, [("F", None), ("D", d)], one)
    given = {"w": w}
    if index is not None:
        expect("index", index, [("S", None)], ["int32"])
        given["index"] = index
    if count is not None:
        expect("count", count, [("one", 1)], ["int32"])
        given["count"] = count
    return given


def _low(
    low: tuple[Any, Any, float] | None, rows: tuple[str, int], columns: tuple[str, int], one: list[str]
) -> dict[str, Any]:
    if low is None:
        return {}
    u, b, _ = low
    expect("low's u", u, [rows, ("R", None)], one)
    expect("low's b", b, [columns, ("R", u.shape[1])], one)
    return {"low's u": u, "low's b": b}


def _term(low: tuple[Any, Any, float] | None, x: Any, w: Any) -> tuple[Any, Any, float, dict[str, int]]:
    """u, b, scale and the constants of a low-rank term; where there is none, tensors that are not read."""
    if low is None or low[0].shape[1] == 0:
        return x, w, 0.0, {"R": 0, "RP": 16}
    u, b, scale = low
    rank = u.shape[1]
    constants = {"R": rank, "RP": min(RANK, max(16, 1 << (rank - 1).bit_length()))}
    return last_contiguous(u), last_contiguous(b), float(scale), constants


def _or(tensor: Any, other: Any) -> Any:
    """TENSOR made contiguous, or OTHER, which is not read, where there is none."""
    return other if tensor is None else tensor.contiguous()
