"""A device for sparstencil.cuda_launch that is this CPU: the generated source itself, compiled by g++, a fiber a thread.

Memory lies between guards, and is noise before it is written; blocks run one after the other. What the hardware does
(instructions, copies, barriers) is warps_on_cpu.h.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sparstencil.cuda_launch import Clock

HERE = Path(__file__).parent
COUNTS = ("copies", "vectors", "products")
GUARD = 256
KINDS = {
    np.dtype(np.uint64): ctypes.c_uint64, np.dtype(np.int64): ctypes.c_int64, np.dtype(np.int32): ctypes.c_int32,
    np.dtype(np.float32): ctypes.c_float, np.dtype(np.float64): ctypes.c_double,
}  # fmt: skip


def compiled(source, harness, folder):
    """A generated text in one of the harnesses beside this file."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is needed to compile the CUDA source for the CPU")
    key = hashlib.sha256((harness + source).encode()).hexdigest()[:24]
    library = Path(folder) / f"{key}.so"
    if not library.exists():
        text = library.with_suffix(".cu")
        text.write_text(source, encoding="utf-8")
        made = library.with_suffix(f".{os.getpid()}.so")
        command = [
            "g++",
            "-O1",
            "-fsanitize=alignment",
            "-std=c++17",
            "-shared",
            "-fPIC",
            "-w",
            "-I",
            str(HERE),
            "-I",
            str(HERE.parent / "kernels"),
        ]
        command += [f'-DKERNEL_FILE="{text}"', *(["-DNARROWS"] if "sparstencil_narrow" in source else [])]
        subprocess.run([*command, "-o", str(made), str(HERE / harness)], check=True)
        os.replace(made, library)
    return ctypes.CDLL(str(library))


class Cpu:
    """blocks: how many of a launch there are at most; few make each do several tiles."""

    arch = "sm_80"

    def __init__(self, folder, blocks=3, edit=None):
        self.folder, self.count, self.edit = Path(folder), blocks, edit
        self.rooms, self.libraries = [], []

    def compile(self, source):
        return compiled(self.edit(source) if self.edit else source, "steps_on_cpu.cpp", self.folder)

    def module(self, source, shared):
        library = self.compile(source)
        library.counted.restype = ctypes.c_long
        self.libraries.append((library, {name: library.counted(at) for at, name in enumerate(COUNTS)}))
        return library

    def counted(self, what):
        """16-byte copies, vector stores or matrix instructions of all lanes since the device was made."""
        return sum(library.counted(COUNTS.index(what)) - before[what] for library, before in self.libraries)

    def blocks(self, module, threads, shared):
        return self.count

    def room(self, count):
        memory = np.full(count + 2 * GUARD + 256, 0x7B, dtype=np.uint8)
        start = GUARD + -(memory.ctypes.data + GUARD) % 256
        self.rooms.append((memory, start, count))
        return memory.ctypes.data + start

    def put(self, address, array):
        array = np.ascontiguousarray(array)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def get(self, address, dtype, shape):
        out = np.empty(shape, dtype=dtype)
        ctypes.memmove(out.ctypes.data, address, out.nbytes)
        return out

    def launch(self, module, name, blocks, threads, shared, arguments):
        function = getattr(module, name.removeprefix("sparstencil_"))
        function.restype = ctypes.c_char_p
        fault = function(blocks, threads, *(KINDS[value.dtype](value.item()) for value in arguments))
        assert not fault, fault.decode()

    @contextlib.contextmanager
    def clock(self):
        clock = Clock()
        clock.seconds = 1.0
        yield clock

    def close(self):
        for memory, start, count in self.rooms:
            assert (memory[:start] == 0x7B).all() and (memory[start + count :] == 0x7B).all(), "written beyond a buffer"
        self.rooms.clear()
