"""Launchers of the device code, one module per kernel family; what they share is here.

A launcher checks shapes, dtypes and devices, picks the configuration, and launches. Tensors on CPU go
to the `fallback` the tool hands in, with the launcher's own arguments, unless TRITON_INTERPRET is 1,
which runs the Triton kernel itself on them. torch, triton and cupy are imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tenfold_kernels import device
from tenfold_shared import BadInput, Missing

FLOATS = ("float16", "bfloat16", "float32")


def expect(name: str, tensor: Any, shape: Sequence[tuple[str, int | None]], dtypes: Sequence[str]) -> None:
    """Raises BadInput unless TENSOR has this shape (axis name and size, None for any) and one of DTYPES."""
    got = str(tensor.dtype).removeprefix("torch.")
    if got not in dtypes:
        raise BadInput(f"{name}: expected {' or '.join(dtypes)}, got {got}")
    sizes = [size for _, size in shape]
    same = tensor.ndim == len(sizes) and all(
        size in (None, found) for size, found in zip(sizes, tensor.shape, strict=True)
    )
    if not same:
        wanted = ", ".join(axis if size is None else f"{axis}={size}" for axis, size in shape)
        raise BadInput(f"{name}: expected ({wanted}), got {tuple(tensor.shape)}")


def on_device(tensors: Mapping[str, Any]) -> bool:
    """Whether the kernel runs on these tensors (else the fallback). Raises BadInput for mixed devices."""
    (first, place), *others = [(name, tensor.device) for name, tensor in tensors.items()]
    for name, other in others:
        if other != place:
            raise BadInput(f"{name}: expected on {place} as {first}, got {other}")
    if place.type == "cuda" or device.is_recording():
        return True
    if place.type != "cpu":
        raise BadInput(f"{first}: expected on cuda or cpu, got {place}")
    return device.interpreting()


def fall_back(kernel: str, fallback: Callable[..., Any] | None) -> Callable[..., Any]:
    if fallback is None:
        raise Missing(f"{kernel}: the tensors are on cpu and no fallback was given: it needs a GPU")
    return fallback


def last_contiguous(tensor: Any) -> Any:
    """TENSOR, copied where its last axis is not contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def processors(place: Any) -> int:
    """Multiprocessors of a GPU; an H100's 132 where the launch is only recorded or interpreted."""
    import torch

    return torch.cuda.get_device_properties(place).multi_processor_count if place.type == "cuda" else 132
