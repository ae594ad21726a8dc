"""What a kernel registers, once: its launcher, cases, oracle, tolerances, work and baseline.

From one registration come the interpreter tests (tests/kernels), the offline compiles (report.py) and
the GPU check (gpu_check.py). Registrations stand in `cases/<tool>.py`, in a list KERNELS. Launchers are
named by import path, because tenfold_shared.launch lies above this distribution.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TOOLS = ("antkv", "seer-decode", "longexp-peft", "zerorepo")  # their cases stand in modules with _ for -


@dataclass(frozen=True)
class Case:
    """One call: `shape` is read by the kernel's own `make`; `dtype` a torch name."""

    name: str
    dtype: str
    shape: Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """The least a call must do, for the floor: bytes to and from device memory, operations."""

    bytes: float
    flops: float


@dataclass(frozen=True)
class Baseline:
    """What the kernel's time is compared with: `prepare(arguments)` gives a callable to time."""

    name: str
    prepare: Callable[[dict[str, Any]], Callable[[], Any]]


@dataclass(frozen=True)
class Kernel:
    name: str
    tool: str
    kind: str  # triton or cuda
    module: str  # file in triton/ or cuda/ without its ending
    launcher: str  # package.module:function
    make: Callable[[Case, Any], dict[str, Any]]  # (case, device) to the launcher's keyword arguments, seed 0
    oracle: Callable[[dict[str, Any]], tuple[Any, ...]]  # float64, in the launcher's order; None where it gives None
    tolerance: Mapping[str, float]  # dtype to the largest error allowed, see `worst`
    tests: tuple[Case, ...]  # small and odd, for the interpreter
    builds: tuple[Case, ...]  # for the offline compiles; the first is the one `make test` compiles
    gpu: tuple[Case, ...]  # for the GPU check
    work: Callable[[dict[str, Any]], Work]
    baseline: Baseline | None = None
    worst: Callable[[Any, Any], float] | None = None  # (result, oracle) to an error; default `relative_error`


def kernels(tool: str | None = None) -> list[Kernel]:
    """The registered kernels, of one tool or of all."""
    found: list[Kernel] = []
    for name in TOOLS if tool is None else (tool,):
        found += importlib.import_module(f"tenfold_kernels.cases.{name.replace('-', '_')}").KERNELS
    return found


def relative_error(result: Any, oracle: Any) -> float:
    """Largest difference, in parts of the oracle's largest magnitude; NaN or differing infinities: infinite."""
    import torch

    result = result.double()
    same = result == oracle  # infinities of one sign are equal, and their difference is NaN
    gap = torch.where(same, 0.0, (result - oracle).abs())
    if gap.numel() == 0:
        return 0.0
    finite = oracle[torch.isfinite(oracle)].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    worst = float(gap.nan_to_num(nan=float("inf")).max())
    return worst / largest if largest > 0 else worst


def check(kernel: Kernel, arguments: dict[str, Any], results: Any) -> float:
    """Largest error of a launcher's results, a tuple or one tensor, against the oracle."""
    errors = [0.0]
    results = results if isinstance(results, tuple) else (results,)
    for result, truth in zip(results, kernel.oracle(arguments), strict=True):
        if (result is None) != (truth is None):
            raise ValueError(f"{kernel.name}: a result is missing or not expected")
        if result is not None:
            errors.append((kernel.worst or relative_error)(result, truth))
    return max(errors)
