"""From a generated source to machine code, with no GPU: nvcc or NVRTC, kept on disk by content, and what ptxas made of it.

Only the standard library is used, so that a bare machine can do it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenfold_shared import Missing
from tenfold_shared.cache import cache_dir, expect_ours

STEP = "sparstencil_step"
OLDEST = (12, 5)  # of the compiler: PTX 8.5 has mma.sp::ordered_metadata
# Of the machine code of a step: sparse and dense products, loads from shared memory by width, asynchronous copies, stores.
INSTRUCTIONS = {
    "HMMA.SP": r"\bHMMA\.SP\b",
    "IMMA.SP": r"\bIMMA\.SP\b",
    "HMMA": r"\bHMMA\.\d",
    "IMMA": r"\bIMMA\.\d",
    "DMMA": r"\bDMMA\.",
    "FFMA": r"\bFFMA\b",
    "DFMA": r"\bDFMA\b",
    "LDS.U8": r"\bLDS\.U8\b",
    "LDS.U16": r"\bLDS\.U16\b",
    "LDS.32": r"\bLDS (?=R)",
    "LDS.64": r"\bLDS\.64\b",
    "LDS.128": r"\bLDS\.128\b",
    "LDGSTS": r"\bLDGSTS\.",
    "STG.64": r"\bSTG\.E(?:\.\w+)*\.64\b",
    "STG.128": r"\bSTG\.E(?:\.\w+)*\.128\b",
}


@dataclass(frozen=True)
class Report:
    """Figures of a kernel for one architecture. shared: static bytes, the dynamic ones are the source's SHARED; spills: bytes
    of local memory, or instructions that touch it."""

    registers: int
    shared: int
    spills: int
    instructions: Mapping[str, int] = field(default_factory=dict)


def build(source: str, arch: str) -> Path:
    """The cubin of a source for `sm_80`, `sm_90a`, …: made once and kept under the cache folder by what it is made of. Raises
    Missing without a compiler, RuntimeError with the compiler's words where it refuses."""
    name, version, compiler = _compiler()
    key = hashlib.sha256("\n".join([source, arch, name, version]).encode()).hexdigest()[:32]
    path = cache_dir() / "sparstencil" / f"{key}.cubin"
    if path.exists():
        expect_ours(path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "kernel.cubin"
            compiler(source, arch, made)
            os.replace(made, path)  # a second process that does the same writes the same
    except OSError as error:
        raise Missing(f"{path.parent}: cannot be written ({error.strerror}); set TENFOLD_CACHE") from error
    return path


@functools.cache
def _compiler() -> tuple[str, str, Any]:
    """nvcc where it is new enough, else NVRTC."""
    told = "nvcc is not on PATH"
    if nvcc := shutil.which("nvcc"):
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"release (\d+)\.(\d+)", text)
        version = (int(found[1]), int(found[2])) if found else (0, 0)
        if version >= OLDEST:
            return "nvcc", f"{version[0]}.{version[1]}", functools.partial(_by_nvcc, nvcc)
        told = f"nvcc is {version[0]}.{version[1]}, and {OLDEST[0]}.{OLDEST[1]} is needed"
    for library in _nvrtc_libraries():
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        if (major.value, minor.value) >= OLDEST:
            return "nvrtc", f"{major.value}.{minor.value}", functools.partial(_by_nvrtc, library)
    raise Missing(f"{told}, and there is no NVRTC: install the CUDA toolkit, or pip install nvidia-cuda-nvrtc")


def _by_nvcc(nvcc: str, source: str, arch: str, out: Path) -> None:
    text = out.with_suffix(".cu")
    text.write_text(source, encoding="utf-8")
    command = [nvcc, f"-arch={arch}", "-cubin", "-std=c++17", "-o", str(out), str(text)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc -arch={arch}: {done.stderr.strip()}")


def _nvrtc_libraries() -> Iterator[ctypes.CDLL]:
    """NVRTC where the loader finds it, and where pip puts it."""
    names = [f"libnvrtc.so.{major}" for major in (13, 12)] + ["libnvrtc.so"]
    folders = [Path(entry) / "nvidia" for entry in sys.path if entry]
    packaged = [str(path) for folder in folders for name in names for path in sorted(folder.glob(f"*/lib/{name}"))]
    for name in [*names, *packaged]:
        try:
            yield ctypes.CDLL(name)
        except OSError:
            continue


def _by_nvrtc(library: ctypes.CDLL, source: str, arch: str, out: Path) -> None:
    program = ctypes.c_void_p()
    options = [f"--gpu-architecture={arch}", "--std=c++17"]
    array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    if library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"step.cu", 0, None, None):
        raise RuntimeError("NVRTC cannot start")
    try:
        if library.nvrtcCompileProgram(program, len(options), array):
            raise RuntimeError(
                f"NVRTC for {arch}: {_of(library, 'ProgramLog', program).decode(errors='replace').strip()}"
            )
        out.write_bytes(_of(library, "CUBIN", program))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _of(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw if what == "CUBIN" else buffer.value


def report(cubin: Path, function: str = STEP) -> Report:
    """What ptxas made of a function. Raises Missing without cuobjdump and nvdisasm."""
    cuobjdump, nvdisasm = _tool("cuobjdump"), _tool("nvdisasm")
    usage = subprocess.run([cuobjdump, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True)
    mine = re.search(rf"Function {function}:\s*(.*)", usage.stdout)
    if mine is None:
        raise RuntimeError(f"{cubin}: no function {function}")
    found = {name: int(value) for name, value in re.findall(r"\b(REG|SHARED|LOCAL|STACK):(\d+)", mine[1])}
    code = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^//-+ \.text\.(\w+)\s+-+.*$", code, flags=re.MULTILINE)
    text = dict(zip(parts[1::2], parts[2::2], strict=True)).get(function)
    if text is None:
        raise RuntimeError(f"{cubin}: no machine code of {function}")
    counts = {name: len(re.findall(pattern, text)) for name, pattern in INSTRUCTIONS.items()}
    spills = max(found.get("LOCAL", 0), found.get("STACK", 0), len(re.findall(r"\b(?:STL|LDL)\b", text)))
    return Report(found["REG"], found.get("SHARED", 0), spills, {name: n for name, n in counts.items() if n})


def _tool(name: str) -> str:
    """On PATH, or as Triton's wheel carries it."""
    if path := shutil.which(name):
        return path
    try:
        import triton
    except ImportError:
        pass
    else:
        bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
        if bundled.exists():
            return str(bundled)
    raise Missing(f"{name} is not on PATH: install the CUDA toolkit, or pip install triton")
