"""A grid through T steps of a generated kernel: buffers, tables, launches, times.

Two buffers take turns. Their rows begin at 16 bytes, shifted by some entries from step to step (`phase`), so that every step
finds its tiles' first places and writes its vectors at their natural boundaries, whatever the stencil reaches to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sparstencil import cuda_build
from sparstencil.boundary import INSIDE, Boundary
from sparstencil.cuda_plan import Target, three
from sparstencil.cuda_source import print_source
from sparstencil.fuse import slabs, worthwhile
from sparstencil.modes import scale_of
from sparstencil.stencil import Offset
from tenfold_shared import BadInput, Missing

TYPES: dict[str, type[np.generic]] = {"i8": np.int8, "u16": np.uint16, "int": np.int32, "float": np.float32, "double": np.float64}  # fmt: skip
ELSEWHERE = "--backend cpu or emulate work without"


class Device(Protocol):
    """What `run` asks of a GPU. Addresses are integers."""

    arch: str

    def compile(self, source: str) -> Any: ...  # ahead of `module`; from any thread
    def module(self, source: str, shared: int) -> Any: ...
    def blocks(self, module: Any, threads: int, shared: int) -> int: ...
    def room(self, count: int) -> int: ...
    def put(self, address: int, array: np.ndarray) -> None: ...
    def get(self, address: int, dtype: Any, shape: Offset) -> np.ndarray: ...
    def launch(self, module: Any, name: str, blocks: int, threads: int, shared: int, arguments: list[Any]) -> None: ...
    def clock(self) -> Any: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Ran:
    """A run's result. kernel_seconds: of the steps alone; seconds: with both copies and the layout of buffers."""

    grid: np.ndarray
    kernel_seconds: float
    seconds: float
    steps: int

    def rate(self, points: int) -> float:
        """10⁹ points and steps a second of the steps alone."""
        return points * self.steps / self.kernel_seconds * 1e-9


@dataclass(frozen=True)
class Buffer:
    """Rows of a grid of `shape` (z, y, x) in device memory: entry (z, y, x) lies at address + size (phase + z plane + y row + x)."""

    address: int
    size: int
    shape: Offset
    row: int
    plane: int
    phase: int

    @classmethod
    def bytes_for(cls, shape: Offset, size: int) -> int:
        return cls.row_for(shape, size) * shape[0] * shape[1] * size + 16

    @staticmethod
    def row_for(shape: Offset, size: int) -> int:
        unit = 16 // size
        return (shape[2] + unit + unit - 1) // unit * unit

    @classmethod
    def at(cls, address: int, size: int, shape: Offset, phase: int) -> Buffer:
        row = cls.row_for(shape, size)
        return cls(address, size, shape, row, row * shape[1], phase)

    def point(self, z: int, y: int, x: int) -> int:
        """The address of a point, which may lie before the first."""
        return self.address + self.size * (self.phase + z * self.plane + y * self.row + x)

    def part(self, where: tuple[slice, ...]) -> Buffer:
        """Some of its points, where they are. where: of the grid's own axes."""
        cut = [slice(None)] * (3 - len(where)) + list(where)
        first, last = zip(*(s.indices(n)[:2] for s, n in zip(cut, self.shape, strict=True)), strict=True)
        shape = tuple(b - a for a, b in zip(first, last, strict=True))
        address = self.address + self.size * (first[0] * self.plane + first[1] * self.row)
        return Buffer(address, self.size, shape, self.row, self.plane, self.phase + first[2])


class Runner:
    """A target's compiled steps, by rules. power: another target's, each of whose steps is `depth` of this one's."""

    def __init__(self, target: Target, device: Device, power: Target | None = None, depth: int = 1) -> None:
        self.target, self.device, self.depth = target, device, depth
        self.power = Runner(power, device) if power is not None and depth > 1 else None
        self._modules: dict[Any, Any] = {}

    def module(self, boundary: Boundary) -> Any:
        key = tuple(rule if rule in INSIDE else "" for rule in boundary.rules)  # the others are tables
        if key not in self._modules:
            text = print_source(self.target, boundary.rules, self.device.arch)
            self._modules[key] = self.device.module(text, self.target.shared)
        return self._modules[key]

    def passes(self, shape: Offset, steps: int, boundary: Boundary) -> int:
        """How many of `depth` steps are made as one. None where an edge is felt everywhere, nor, but for `wrap` and `valid`, of
        8-bit numbers: beside a slab's inner cut some come out wrong, and might say of 8 bits that they are too few."""
        if self.power is None:
            return 0
        anywhere = boundary.rules[0] == "valid" or set(boundary.rules) == {"wrap"}
        inside = worthwhile(shape, self.target.setup.stencil, self.depth, boundary)
        return steps // self.depth if anywhere or (inside and self.target.types.stored != "i8") else 0

    def run(self, grid: np.ndarray, steps: int, boundary: Boundary) -> Ran:
        """`steps` steps. Raises BadInput for a grid too small, OverflowError where float16 or 8 bits do not hold a value."""
        types, stencil = self.target.types, self.target.setup.stencil
        boundary.check(grid.shape, stencil)
        if max(grid.shape) > 2**31 - 2**20:
            raise BadInput(f"a grid of {grid.shape}: no axis may have 2³¹ points or more")
        began = time.perf_counter()
        if types.stored == "i8" and ((grid < -127) | (grid > 127)).any():
            raise OverflowError("a number beyond 127 does not fit 8 bits")
        given = np.ascontiguousarray(grid, dtype=TYPES[types.given])
        if not steps:
            return Ran(given.astype(TYPES[types.taken]), 0.0, time.perf_counter() - began, 0)
        finite = np.abs(given[np.isfinite(given)].astype(np.float64))
        largest = max(float(finite.max(initial=0.0)), abs(boundary.value))
        passes = self.passes(given.shape, steps, boundary)
        gain = stencil.gain if not passes or self.power is None else max(stencil.gain, self.power.target.setup.stencil.gain)  # fmt: skip
        scale = scale_of(largest, gain) if self.target.scaled else 1.0
        try:
            session = Session(self, given.shape, boundary, scale, steps, passes)
            session.load(given)
            with self.device.clock() as clock:
                for left in reversed(range(steps - passes * (self.depth - 1))):
                    if passes:
                        session.fused(more=left > 0)
                        passes -= 1
                    else:
                        session.step(more=left > 0)
            result = session.unload()
        finally:
            self.device.close()
        if self.target.scaled and not np.isfinite(result).all() and np.isfinite(given).all():
            raise OverflowError(f"float16 overflowed within {steps} steps; --mode f32 has the range")
        return Ran(result, clock.seconds, time.perf_counter() - began, steps)


class Stage:
    """A runner's step at a rule, with its tables in device memory. reals: scale, its inverse, the constant as it is stored."""

    def __init__(self, runner: Runner, boundary: Boundary, reals: list[Any]) -> None:
        self.target, self.device, self.reals = runner.target, runner.device, reals
        self.module, self.plan = runner.module(boundary), Plan(runner.target, boundary)
        self.resident = self.device.blocks(self.module, self.target.threads, self.target.shared)
        self.tables: dict[Offset, list[int]] = {}

    def prepare(self, shape: Offset, steps: int) -> Offset:
        """Tables for that many steps from a grid of `shape`; returns the shape after them. Raises BadInput where one is too
        small."""
        for _ in range(steps):
            if shape not in self.tables:
                self.plan.check(shape)
                self.tables[shape] = self._tables(shape)
            shape = self.plan.after(shape)
        return shape

    def _tables(self, shape: Offset) -> list[int]:
        found = []
        for table in self.target.geometry.tables(self.plan.boundary, shape[3 - self.plan.ndim :]):
            found.append(self.device.room(table.nbytes))
            self.device.put(found[-1], table)
        return [*[0] * (3 - len(found)), *found]

    def step(self, state: Buffer, room: int) -> Buffer:
        done, shift = self.plan.next(state, room)
        arguments = [
            *(np.uint64(x) for x in (state.point(0, 0, 0), self.plan.origin(done), *self.tables[state.shape])),
            *(np.int32(n) for n in state.shape),
            *(np.int64(n) for n in (state.plane, state.row, done.plane, done.row)),
            np.int32(shift),
            *self.reals,
        ]
        blocks = min(self.resident, self.plan.tiles(state.shape, shift))
        self.device.launch(self.module, cuda_build.STEP, blocks, self.target.threads, self.target.shared, arguments)
        return done


class Session:
    """A grid in device memory, from step to step. scale: by which float16 is. passes: of `runner.depth` steps as one, which come
    first of `steps` steps."""

    def __init__(
        self, runner: Runner, shape: Offset, boundary: Boundary, scale: float = 1.0, steps: int = 1, passes: int = 0
    ) -> None:
        self.runner, self.device, self.target, self.ndim = runner, runner.device, runner.target, len(shape)
        types, device = self.target.types, self.device
        outside = boundary.value * (scale if types.stored == "u16" else 1.0)
        reals = [_real(types, scale), _real(types, 1.0 / scale), _real(types, outside)]
        self.single = Stage(runner, boundary, reals)
        self.module, self.reals = self.single.module, reals
        self.size = max(types.stored_bytes, types.out_bytes)
        whole = three(shape, 1)
        self.here, self.there = (device.room(Buffer.bytes_for(whole, self.size)) for _ in range(2))
        self.beyond = device.room(4)
        device.put(self.beyond, np.zeros(1, dtype=np.int32))
        self.state = Buffer.at(self.here, types.stored_bytes, whole, self.single.plan.first_phase)
        left = whole
        if passes and runner.power is not None:
            self.power = Stage(runner.power, boundary, reals)
            left = self.power.prepare(whole, passes)
            self.slabs = list(slabs(shape, self.target.setup.stencil, runner.depth, boundary))
            self._rooms_for_slabs(whole)
        self.single.prepare(left, steps - passes * runner.depth)

    def _rooms_for_slabs(self, whole: Offset) -> None:
        """Two for their steps, and one for what goes from there to the grid."""
        most = [0, 0]
        for slab in self.slabs:
            shape = self.state.part(slab.stepped(self.ndim)).shape
            self.single.prepare(shape, 1)
            right = math.prod(whole) // whole[3 - self.ndim + slab.axis] * slab.width
            most = [max(most[0], Buffer.bytes_for(shape, self.size)), max(most[1], right)]
        if self.slabs:
            self.slab_rooms = [self.device.room(most[0]) for _ in range(2)]
            self.dense = self.device.room(most[1] * np.dtype(TYPES[self.target.types.taken]).itemsize)

    def load(self, given: np.ndarray) -> None:
        """A grid of the caller's own type."""
        whole = self.device.room(given.nbytes)
        self.device.put(whole, given)
        self._launch("sparstencil_load", whole, self.state.point(0, 0, 0), *_sizes(self.state), self.reals[0])

    def step(self, more: bool = False) -> None:
        """One step. more: whether another will follow, for which 32-bit results are narrowed."""
        self._became(self.single.step(self.state, self.there), more)

    def fused(self, more: bool = False) -> None:
        """`runner.depth` steps as one, and step by step what feels an edge."""
        before, done = self.state, self.power.step(self.state, self.there)
        one = _real(self.target.types, 1.0)
        for slab in self.slabs:
            here, there = self.slab_rooms
            state = before.part(slab.stepped(self.ndim))
            for _ in range(self.runner.depth):
                state, here, there = self.single.step(state, there), there, here
            # Through numbers of the caller's type, which hold the stored ones: that needs no kernel of its own.
            right, to = state.part(slab.right_inside(self.ndim)), done.part(slab.right(self.ndim))
            self._launch("sparstencil_unload", right.point(0, 0, 0), self.dense, *_sizes(right), one)
            self._launch("sparstencil_load", self.dense, to.point(0, 0, 0), *_sizes(to), one)
        self._became(done, more)

    def _became(self, done: Buffer, more: bool) -> None:
        """`done`, in the room `there`, is the grid now."""
        if self.target.types.stored == "i8" and more:
            narrow = Buffer.at(self.here, 1, done.shape, self.single.plan.first_phase)
            places = [np.int64(narrow.plane), np.int64(narrow.row), np.uint64(self.beyond)]
            self._launch("sparstencil_narrow", done.point(0, 0, 0), narrow.point(0, 0, 0), *_sizes(done), *places)
            self.state = narrow
        else:
            self.state, self.here, self.there = done, self.there, self.here

    def unload(self) -> np.ndarray:
        """The grid as the caller has it. Raises OverflowError where a number did not fit 8 bits on the way."""
        if self.device.get(self.beyond, np.int32, (1,))[0]:
            raise OverflowError("a number beyond 127 does not fit 8 bits")
        shape, dtype = self.state.shape[3 - self.ndim :], TYPES[self.target.types.taken]
        whole = self.device.room(math.prod(shape) * np.dtype(dtype).itemsize)
        self._launch("sparstencil_unload", self.state.point(0, 0, 0), whole, *_sizes(self.state), self.reals[1])
        return self.device.get(whole, dtype, shape)

    def _launch(self, name: str, first: int, second: int, *more: Any) -> None:
        self.device.launch(self.module, name, 4096, 256, 0, [np.uint64(first), np.uint64(second), *more])


@dataclass(frozen=True)
class Plan:
    """Where a step finds its tiles and where it writes: pure arithmetic on phases."""

    target: Target
    boundary: Boundary

    @property
    def _low(self) -> Offset:
        return three(self.target.setup.stencil.lo, 0)

    @property
    def _high(self) -> Offset:
        return three(self.target.setup.stencil.hi, 0)

    @property
    def shrinks(self) -> bool:
        return self.boundary.rules[0] == "valid"

    @property
    def first_phase(self) -> int:
        """For which the first tile begins at the first point."""
        return (self.target.geometry.lead - self._low[2]) % self.target.types.unit

    @property
    def ndim(self) -> int:
        return self.target.setup.stencil.ndim

    def check(self, shape: Offset) -> None:
        """Raises BadInput where a grid is too small for a step."""
        self.boundary.check(shape[3 - self.ndim :], self.target.setup.stencil)

    def after(self, shape: Offset) -> Offset:
        """A step's result's."""
        return self._shrunk(shape) if self.shrinks else shape

    def _shrunk(self, shape: Offset) -> Offset:
        return tuple(n - high + low for n, low, high in zip(shape, self._low, self._high, strict=True))

    def next(self, state: Buffer, room: int) -> tuple[Buffer, int]:
        """The buffer that a step from `state` fills, and how many points before the grid its first tile begins."""
        types, low = self.target.types, self._low
        shift = (state.phase + low[2] - self.target.geometry.lead) % types.unit
        shape = self.after(state.shape)
        phase = (shift - (low[2] if self.shrinks else 0)) % (16 // types.out_bytes)
        return Buffer.at(room, types.out_bytes, shape, phase), shift

    def origin(self, out: Buffer) -> int:
        """Where the input's point (0, 0, 0) would lie in the output."""
        return out.point(*self._low) if self.shrinks else out.point(0, 0, 0)

    def tiles(self, shape: Offset, shift: int) -> int:
        nz, ny, nx = shape
        bz, by, bx = three(self.target.geometry.block, 1)
        return -(-nz // bz) * -(-ny // by) * -(-(nx + shift) // bx)


def _sizes(buffer: Buffer) -> list[Any]:
    return [*(np.int32(n) for n in buffer.shape), np.int64(buffer.plane), np.int64(buffer.row)]


def _real(types: Any, value: float) -> Any:
    return np.float64(value) if types.sum == "double" else np.float32(value)


# ---------------------------------------------------------------- a GPU through CuPy


class Clock:
    seconds = 0.0


class Gpu:
    """One CUDA device. Raises Missing where there is none of compute capability 8.0 or more, or no CuPy."""

    def __init__(self, index: int = 0) -> None:
        try:
            import cupy
        except ImportError as error:
            raise Missing(f"cupy cannot be imported ({error}): pip install 'sparstencil[gpu]'; {ELSEWHERE}") from error
        self.cupy = cupy
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except Exception as error:  # CuPy's own, which cannot be named before it is imported
            raise Missing(f"CUDA cannot be used ({str(error).splitlines()[0]}); {ELSEWHERE}") from error
        if index >= count:
            raise Missing(f"no CUDA device {index}, of {count}; {ELSEWHERE}")
        self.device = cupy.cuda.Device(index)
        capability = self.device.compute_capability
        if int(capability) < 80:
            raise Missing(
                f"the GPU's compute capability is {capability[:-1]}.{capability[-1]}: sparse tensor cores need 8.0; {ELSEWHERE}"
            )
        self.arch = f"sm_{capability}{'a' if capability == '90' else ''}"
        self.multiprocessors = int(self.device.attributes["MultiProcessorCount"])
        self._held: list[Any] = []

    def compile(self, source: str) -> str:
        return str(cuda_build.build(source, self.arch))

    def module(self, source: str, shared: int) -> Any:
        path = self.compile(source)
        most = int(self.device.attributes.get("MaxSharedMemoryPerBlockOptin", shared))
        if shared > most:
            raise Missing(
                f"a block needs {shared} bytes of shared memory, the GPU has {most}; a smaller --tile, or {ELSEWHERE}"
            )
        with self.device:
            module = self.cupy.RawModule(path=path)
            module.get_function(cuda_build.STEP).max_dynamic_shared_size_bytes = shared
        return module

    def blocks(self, module: Any, threads: int, shared: int) -> int:
        with self.device:
            function = module.get_function(cuda_build.STEP)
            driver = self.cupy.cuda.driver
            if hasattr(driver, "occupancyMaxActiveBlocksPerMultiprocessor"):
                each = driver.occupancyMaxActiveBlocksPerMultiprocessor(function.kernel.ptr, threads, shared)
            else:
                each = min(65536 // (threads * function.num_regs), (164 * 1024) // (shared + 1024), 2048 // threads)
        return max(1, each) * self.multiprocessors

    def room(self, count: int) -> int:
        try:
            with self.device:
                self._held.append(self.cupy.cuda.alloc(max(16, count)))
        except self.cupy.cuda.memory.OutOfMemoryError as error:
            self._held.clear()
            raise Missing(f"the GPU has no {count / 1e9:.1f} GB left; split the grid, or {ELSEWHERE}") from error
        return int(self._held[-1].ptr)

    def put(self, address: int, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        with self.device:
            self.cupy.cuda.runtime.memcpy(address, array.ctypes.data, array.nbytes, 1)

    def get(self, address: int, dtype: Any, shape: Offset) -> np.ndarray:
        out = np.empty(shape, dtype=dtype)
        with self.device:
            self.cupy.cuda.runtime.memcpy(out.ctypes.data, address, out.nbytes, 2)
        return out

    def launch(self, module: Any, name: str, blocks: int, threads: int, shared: int, arguments: list[Any]) -> None:
        with self.device:
            module.get_function(name)((blocks,), (threads,), tuple(arguments), shared_mem=shared)

    @contextmanager
    def clock(self) -> Iterator[Clock]:
        clock = Clock()
        with self.device:
            marks = [self.cupy.cuda.Event(), self.cupy.cuda.Event()]
            marks[0].record()
            yield clock
            marks[1].record()
            marks[1].synchronize()
            clock.seconds = self.cupy.cuda.get_elapsed_time(*marks) / 1e3

    def close(self) -> None:
        """Gives the run's memory back to CuPy's pool."""
        self._held.clear()


def stepper_on(
    device: Callable[[], Device], target: Target, power: Target | None = None, depth: int = 1
) -> Callable[[np.ndarray, int, Boundary], np.ndarray]:
    """A function of a grid, a number of steps and a rule; the device is asked for at the first call. power, depth: as Runner's."""
    runner: list[Runner] = []

    def step(state: np.ndarray, count: int, boundary: Boundary) -> np.ndarray:
        if not runner:
            runner.append(Runner(target, device(), power, depth))
        return runner[0].run(state, count, boundary).grid

    return step
