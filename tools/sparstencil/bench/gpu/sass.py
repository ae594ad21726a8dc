"""What nvcc makes of every kernel of the suite, with no GPU: registers, spills and instructions of sm_80 and sm_90a.

    python tools/sparstencil/bench/gpu/sass.py [--only NAME,...]

One row a stencil, mode and architecture, of cuda-sp on the plan that `emit` and `run` take, with the boundary rules in turn:
every stencil in float16 (8-bit whole numbers where the weights are whole), the literature's also in mixed, tf32 and f32. A
kernel's code holds its loop twice, for blocks inside the grid and for those at an edge, so that counts of products and loads
are twice those of a block, or more where the first is unrolled. Writes sass.json beside itself; --only prints alone. Exit 1
where a kernel spills, has no sparse product or has a dense one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sparstencil import cuda, cuda_build
from sparstencil.boundary import Name
from sparstencil.cuda_plan import Target
from sparstencil.cuda_source import print_source
from sparstencil.modes import Mode
from sparstencil.suite import LITERATURE, SUITE, Kernel

ARCHES = ("sm_80", "sm_90a")
RULES: tuple[Name, ...] = ("wrap", "reflect", "mirror", "nearest", "constant", "fixed", "valid")
OUT = Path(__file__).with_name("sass.json")
Record = dict[str, Any]


def jobs(kernels: list[Kernel]) -> Iterator[tuple[Kernel, Target, str]]:
    for kernel in kernels:
        modes: list[Mode] = ["s8" if kernel.integer else "fast"]
        if kernel.name in LITERATURE:
            modes += ["mixed", "tf32", "f32"]
        for mode in modes:
            target = cuda.target_of(kernel.stencil, mode, "cuda-sp")
            for arch in ARCHES:
                yield kernel, target, arch


def row(kernel: Kernel, target: Target, arch: str) -> Record:
    program, rule = target.program, RULES[kernel.id % len(RULES)]
    found = cuda.report(cuda.build(print_source(target, (rule,) * kernel.ndim, arch), arch))
    sparse, dense = ("IMMA.SP", "IMMA") if target.mode == "s8" else ("HMMA.SP", "HMMA")
    return {
        "stencil": kernel.name, "field": kernel.field, "points": kernel.points, "mode": target.mode, "arch": arch, "rule": rule,
        "tile": list(program.layout.tile), "solver": program.grouping.solver, "K": program.k,
        "a_block": len(target.issues) * len(target.products) * target.m_tiles,
        "registers": found.registers, "spills": found.spills, "shared": target.shared, "instructions": dict(found.instructions),
        "ok": found.spills == 0 and found.instructions.get(sparse, 0) > 0 and dense not in found.instructions,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,...")
    only = parser.parse_args().only
    kernels = [SUITE[name] for name in only.split(",")] if only else list(SUITE.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [pool.submit(row, *job) for job in jobs(kernels)]
        rows = []
        for one in made:
            rows.append(one.result())
            told = rows[-1]
            counts = ", ".join(f"{count} {name}" for name, count in told["instructions"].items())
            print(f"{told['stencil']:20} {told['mode']:5} {told['arch']:6} {told['rule']:8} {told['registers']:3} registers, {told['spills']} spilled: {counts}", flush=True)  # fmt: skip
    bad = [told for told in rows if not told["ok"]]
    for arch in ARCHES:
        registers = sorted(told["registers"] for told in rows if told["arch"] == arch)
        print(f"{arch}: {len(registers)} kernels, registers {registers[0]} to {registers[-1]}, median {registers[len(registers) // 2]}; "
              f"{sum(told['spills'] > 0 for told in rows if told['arch'] == arch)} spill")  # fmt: skip
    if not only:
        OUT.write_text(json.dumps({"command": "python tools/sparstencil/bench/gpu/sass.py", "compiler": list(cuda_build._compiler()[:2]), "rows": rows}, indent=1) + "\n")  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
