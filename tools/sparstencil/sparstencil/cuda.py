"""Stencils on NVIDIA GPUs: sources, machine code, runs.

`source` prints a step as CUDA C++, `emit` a file with its own launcher and its plan, `build` and `report` need a compiler and no
GPU, `run` and `stepper` a GPU and CuPy. What is printed stands in cuda_source.py, what it takes its numbers from in cuda_plan.py.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparstencil import cuda_launch, modes
from sparstencil.boundary import NAMES, Boundary, Name
from sparstencil.convert import NONE, Solver
from sparstencil.cuda_build import Report, build, report
from sparstencil.cuda_launch import Device, Gpu, Ran, Runner
from sparstencil.cuda_plan import BACKENDS, Backend, Target, three
from sparstencil.cuda_source import TEMPLATES, print_source
from sparstencil.modes import Mode, Setup
from sparstencil.stencil import Offset, Stencil

__all__ = ["BACKENDS", "Backend", "Ran", "Report", "Target", "build", "emit", "report", "run", "source", "stepper"]

Record = dict[str, Any]
# Tiles whose outputs a lane has side by side; float64's instruction has eight rows.
TILES: dict[int, Offset] = {1: (16,), 2: (8, 2), 3: (4, 2, 2)}
TILES_64: dict[int, Offset] = {1: (8,), 2: (1, 8), 3: (1, 1, 8)}


def source(
    setup: Setup, rules: tuple[Name, ...], backend: Backend = "cuda-sp", arch: str = "sm_80", *, wide: bool = False
) -> str:
    """A self-contained CUDA C++ file of one step at these rules, for nvcc and NVRTC. wide: float64, not on cuda-sp."""
    return print_source(Target(setup, backend, wide), rules, arch)


def emit(
    setup: Setup,
    boundary: Boundary,
    arch: str,
    folder: str | Path,
    backend: Backend = "cuda-sp",
    *,
    wide: bool = False,
) -> list[Path]:
    """`NAME.cu`, the step with a launcher `sparstencil_run` for grids in device memory, and `NAME.json`, its plan, in a folder
    that is made where it is missing."""
    from tenfold_shared.jsonl import write_atomic  # not on the bare machine of a GPU check

    target = Target(setup, backend, wide)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", setup.stencil.name or setup.stencil.key).strip("-")
    text = print_source(target, boundary.rules, arch) + _launcher(target, boundary)
    plan = json.dumps(plan_of(target, boundary, arch), indent=1, ensure_ascii=False) + "\n"
    made = []
    for suffix, content in ((".cu", text), (".json", plan)):
        made.append(folder / f"{name}{suffix}")
        write_atomic(made[-1], content.encode())
    return made


def run(
    setup: Setup,
    grid: np.ndarray,
    steps: int,
    boundary: Boundary,
    device: int | Device = 0,
    backend: Backend = "cuda-sp",
    *,
    wide: bool = False,
) -> Ran:
    """`steps` steps on a GPU. Raises Missing without one, BadInput for a grid that is too small, OverflowError where float16 or
    8 bits do not hold a value."""
    where = device if not isinstance(device, int) else Gpu(device)
    return Runner(Target(setup, backend, wide), where).run(grid, steps, boundary)


def stepper(
    stencil: Stencil,
    mode: Mode | Literal["f64"],
    backend: str,
    tile: Offset | None = None,
    solver: Solver | None = None,
    device: int | Device = 0,
    depth: int = 1,
) -> Callable[[np.ndarray, int, Boundary], np.ndarray]:
    """A function of a grid, a number of steps and a rule; plan and machine code are made once, the GPU is asked for at the first
    call. depth: steps a pass. The grid goes to the GPU and back once a call, whatever the number of passes; what is left of
    `depth`, and all of it where a pass would feel an edge everywhere (Runner.passes), is made step by step. Raises BadInput for
    s8 where `depth` steps as one have weights beyond 8 bits."""
    target = target_of(stencil, mode, backend, tile, solver)
    power = target_of(stencil.power(depth), mode, backend, tile, solver) if depth > 1 else None
    where: Callable[[], Device] = (lambda: device) if not isinstance(device, int) else functools.partial(Gpu, device)
    return cuda_launch.stepper_on(where, target, power, depth)


def target_of(
    stencil: Stencil,
    mode: Mode | Literal["f64"],
    backend: str,
    tile: Offset | None = None,
    solver: Solver | None = None,
) -> Target:
    """The best plan for tensor cores; CUDA cores and float64 need only a tile to cut blocks from. Raises ValueError for a back
    end that is none of these."""
    if backend not in BACKENDS:
        raise ValueError(f"{backend} is none of {', '.join(BACKENDS)}")
    if mode == "f64":
        at = tile or (TILES if backend == "cuda-core" else TILES_64)[stencil.ndim]
        return Target(modes.prepare(stencil, "f32", at, "staircase"), backend, wide=True)
    if backend == "cuda-core":
        return Target(modes.prepare(stencil, mode, tile or TILES[stencil.ndim], "staircase"), backend)
    from sparstencil.plan import CARDS, best

    return Target(best(stencil, mode, CARDS["h100"], tile, solver), backend)


# ---------------------------------------------------------------- what `emit` adds


def _launcher(target: Target, boundary: Boundary) -> str:
    """The host's side, its rules and its constants."""
    stencil, types = target.setup.stencil, target.types
    rules = three_names(boundary.rules)
    high = three(stencil.hi, 0)
    lines = [
        f"enum Rule {{ {', '.join(name.upper() for name in NAMES)} }};",
        f"[[maybe_unused]] constexpr Rule RULE_Z = {rules[0]}, RULE_Y = {rules[1]}, RULE_X = {rules[2]};",
        f"[[maybe_unused]] constexpr int HIZ = {high[0]}, HIY = {high[1]}, HIX = {high[2]};",
        f"constexpr bool SHRINKS = {str(boundary.rules[0] == 'valid').lower()}, SCALED = {str(target.scaled).lower()}, "
        f"SCALES_STORED = {str(types.stored == 'u16').lower()};",
        f"constexpr double GAIN = {stencil.gain.hex()};",
    ]
    if types.stored == "i8":
        after = [
            "        if (step < steps - 1) {",
            "            state = {static_cast<In*>(rooms[turn].at), done.nz, done.ny, done.nx, modulo(LEAD - LOX, UNIT)};",
            "            const Out* wide = done.point(0, 0, 0);",
            "            In* narrow = state.point(0, 0, 0);",
            "            i64 plane = state.plane(), row = state.row();",
            "            void* more[] = {&wide, &narrow, &done.nz, &done.ny, &done.nx, &out_plane, &out_row, &plane, &row, &beyond.at};",
            "            SPARSTENCIL_TRY(cudaLaunchKernel(reinterpret_cast<const void*>(sparstencil_narrow), dim3(4096), dim3(256), more, 0, stream));",
            "        }",
        ]
    else:
        after = ["        state = {done.at, done.nz, done.ny, done.nx, done.phase}, turn ^= 1;"]
    parts = {"rules": lines, "next": after}
    out = []
    for line in (TEMPLATES / "launcher.cu").read_text(encoding="utf-8").splitlines():
        out += parts[line.removeprefix("//@")] if line.startswith("//@") else [line]
    return "\n".join(out) + "\n"


def three_names(rules: tuple[Name, ...]) -> list[str]:
    """In the launcher's spelling, for z, y, x."""
    return [*["WRAP"] * (3 - len(rules)), *(rule.upper() for rule in rules)]


def plan_of(target: Target, boundary: Boundary, arch: str) -> Record:
    """What the source was printed from, for people and for a second look."""
    setup, program, geometry = target.setup, target.program, target.geometry
    stencil = setup.stencil
    told: Record = {
        "schema": "kernel/1",
        "stencil": {"name": stencil.name, "key": stencil.key, "offsets": stencil.offsets, "weights": stencil.weights},
        "backend": target.backend,
        "mode": "f64" if target.wide else target.mode,
        "arch": arch,
        "boundary": str(boundary),
        "increment": target.increment,
        "tile": program.layout.tile,
        "block": geometry.block,
        "extents": geometry.extents,
        "lead": geometry.lead,
        "threads": target.threads,
        "stages": target.stages,
        "shared_bytes": target.shared,
    }
    if not target.on_tensor_cores:
        return told | {"outputs_a_thread": target.core_tile}
    slots = [None if column == NONE else list(program.layout.columns[column]) for column in target.slots]
    told |= {
        "solver": program.grouping.solver,
        "k": len(slots),
        "slots": slots,
        "offsets": target.offsets(geometry).tolist(),
        "instructions": [
            {"shape": f"k{issue.form.k}", "first": issue.first, "selector": issue.selector} for issue in target.issues
        ],
        "products": target.products,
        "loads_a_lane": sum(len(register) for issue in target.loads for register in issue),
        "patterns": len(target.patterns),
        "weights_in": target.weights_in,
        "exchange": target.vectors.direct is None,
    }
    return told | ({"metadata": program.table()} if target.backend == "cuda-sp" else {})
