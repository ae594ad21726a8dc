"""How device code is loaded and started: compiled on a GPU, interpreted on CPU, or only recorded.

The launchers of `tenfold_shared.launch` end in `start` or `start_cuda` here. Knows no kernel.
Triton binds a module to its interpreter or its compiler when that module is imported, its own library
too. One process can do both here: `load` keeps a copy of our modules for each, and while a launch is
interpreted Triton's library stands in its interpreted form. `TRITON_INTERPRET` is read at each launch,
never left changed.
`recording()` collects launches instead of doing them: from these, made with tensors of device meta,
come the offline compiles (report.py), so that what is compiled is what the launcher would start.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
OPTIONS = {"enable_fp_fusion": True}  # the default of old; Triton 3.9 warns that it will change
_recorded: list[list[Launch]] = []
_interpreted_functions: dict[Any, Any] = {}
_cuda_functions: dict[tuple[Any, ...], Any] = {}


@dataclass(frozen=True)
class Launch:
    """A launch as the launcher asked for it; `arguments` in the kernel's order, constants apart."""

    language: str  # triton or cuda
    module: str  # file of tenfold_kernels/triton or cuda, without its ending
    function: str
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any]
    warps: int
    stages: int  # Triton's software pipeline
    shared: int  # bytes of dynamic shared memory; Triton finds its own


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def interpreter(on: bool) -> Iterator[None]:
    """TRITON_INTERPRET set so within, and as it was afterwards."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1" if on else "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Launches within are collected, not done."""
    launches: list[Launch] = []
    _recorded.append(launches)
    try:
        yield launches
    finally:
        _recorded.pop()


def is_recording() -> bool:
    return bool(_recorded)


def load(module: str, interpret: bool = False) -> ModuleType:
    """tenfold_kernels/triton/MODULE.py for the compiler or for the interpreter."""
    name = f"tenfold_kernels.triton.{module}" + ("__interpreted" if interpret else "")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, HERE / "triton" / f"{module}.py")
    assert spec is not None and spec.loader is not None
    with interpreter(False):
        importlib.import_module("triton.language")  # its own library: for the compiler, see _interpreted_library
    with interpreter(interpret):
        loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            sys.modules.pop(name, None)
            raise
    return loaded


def start(
    module: str,
    function: str,
    grid: tuple[int, ...],
    arguments: Sequence[Any],
    constants: Mapping[str, Any],
    *,
    warps: int = 4,
    stages: int = 3,
) -> None:
    """Launch a Triton kernel on its tensors' device. An empty grid starts nothing."""
    if _recorded:
        launch = Launch("triton", module, function, grid, tuple(arguments), dict(constants), warps, stages, 0)
        _recorded[-1].append(launch)
        return
    if 0 in grid:
        return
    if interpreting():
        kernel = getattr(load(module, interpret=True), function)
        with _interpreted_library(), _widened(arguments) as widened:
            kernel[grid](*widened, **constants)
        return
    kernel = getattr(load(module), function)
    with _on_device(arguments):
        kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages, **OPTIONS)


@contextmanager
def _interpreted_library() -> Iterator[None]:
    """triton.language for the interpreter within, and as it was afterwards.

    Its functions that are kernels themselves (tl.sum and its like) are swapped for their interpreted form.
    What the interpreter patches it takes back only in the modules it knows the kernel to use, so that a
    compile in the same process would meet patched functions; everything it may touch is put back here.
    """
    import triton.language as tl
    from triton.language import core, math, standard
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    touched: list[Any] = [tl, core, math, standard, core.tensor, core.dtype, core.tensor_descriptor_base]
    before = [dict(vars(holder)) for holder in touched]
    for holder in (tl, standard):
        for name, value in list(vars(holder).items()):
            if isinstance(value, JITFunction):
                if value.fn not in _interpreted_functions:
                    _interpreted_functions[value.fn] = InterpretedFunction(value.fn)
                setattr(holder, name, _interpreted_functions[value.fn])
    try:
        yield
    finally:
        for holder, names in zip(touched, before, strict=True):
            if isinstance(holder, type):  # what it adds to modules are its own names, which it needs again
                for name in [name for name in vars(holder) if name not in names]:
                    delattr(holder, name)
            for name, value in names.items():
                if vars(holder).get(name) is not value:
                    setattr(holder, name, value)


@contextmanager
def _widened(arguments: Sequence[Any]) -> Iterator[list[Any]]:
    """ARGUMENTS with bfloat16 memory as float32, written back afterwards.

    The interpreter multiplies the bits of bfloat16 as integers (seen in Triton 3.9). Interpreted, bfloat16
    inputs are exact and nothing between is rounded to it.
    """
    import torch

    wide: dict[int, tuple[Any, Any]] = {}
    widened = []
    for value in arguments:
        if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
            storage = value.untyped_storage()
            if storage.data_ptr() not in wide:
                narrow = torch.empty(0, dtype=torch.bfloat16).set_(storage)
                wide[storage.data_ptr()] = (narrow, narrow.float())
            memory = wide[storage.data_ptr()][1]
            value = memory.as_strided(value.shape, value.stride(), value.storage_offset())
        widened.append(value)
    yield widened
    for narrow, memory in wide.values():
        narrow.copy_(memory)


def start_cuda(
    module: str,
    function: str,
    grid: tuple[int, ...],
    arguments: Sequence[Any],
    constants: Mapping[str, Any],
    *,
    warps: int,
    shared: int,
) -> None:
    """Launch a kernel of tenfold_kernels/cuda/MODULE.cu, built by CuPy with CONSTANTS as macros.

    arguments: tensors, and numpy scalars of the kernel's own types.
    """
    if _recorded:
        launch = Launch("cuda", module, function, grid, tuple(arguments), dict(constants), warps, 0, shared)
        _recorded[-1].append(launch)
        return
    if 0 in grid:
        return
    import cupy
    import numpy as np
    import torch

    tensor = next(value for value in arguments if isinstance(value, torch.Tensor))
    with cupy.cuda.Device(tensor.device.index), torch.cuda.device(tensor.device):
        key = (module, function, tensor.device.index, *sorted(constants.items()))
        if key not in _cuda_functions:
            source = (HERE / "cuda" / f"{module}.cu").read_text(encoding="utf-8")
            built = cupy.RawModule(code=source, options=("--std=c++17", *defines(constants)))
            _cuda_functions[key] = built.get_function(function)
            _cuda_functions[key].max_dynamic_shared_size_bytes = shared
        values = [np.uint64(value.data_ptr()) if isinstance(value, torch.Tensor) else value for value in arguments]
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            _cuda_functions[key](grid, (warps * 32,), tuple(values), shared_mem=shared)


def defines(constants: Mapping[str, Any]) -> list[str]:
    return [f"-D{name}={value}" for name, value in sorted(constants.items())]


@contextmanager
def _on_device(arguments: Sequence[Any]) -> Iterator[None]:
    """Triton launches on the current device, which need not be the tensors' one."""
    import torch

    place = next((value.device for value in arguments if isinstance(value, torch.Tensor)), None)
    if place is None or place.type != "cuda":
        yield
        return
    with torch.cuda.device(place):
        yield


def resolve(path: str) -> Callable[..., Any]:
    """What `package.module:name` names."""
    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
