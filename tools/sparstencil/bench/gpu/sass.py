"""What nvcc makes of every kernel of the suite, with no GPU: registers, spills and instructions of sm_80 and sm_90a.

    python tools/sparstencil/bench/gpu/sass.py [--only NAME,...]

One row a stencil and architecture, of cuda-sp (float16; 8-bit whole numbers where the weights are whole), on the tile that
the GPU rows use. A kernel's code holds its loop twice, for blocks inside the grid and for those at an edge, so that counts of
products and loads are about twice those of a block. Writes sass.json beside itself; --only prints alone. Exit 1 where a
kernel spills, has no sparse product or has a dense one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sparstencil import cuda, cuda_build, modes
from sparstencil.cuda_plan import Target
from sparstencil.suite import SUITE, Kernel

ARCHES = ("sm_80", "sm_90a")
OUT = Path(__file__).with_name("sass.json")
Record = dict[str, Any]


def row(kernel: Kernel, arch: str) -> Record:
    setup = modes.prepare(kernel.stencil, "s8" if kernel.integer else "fast", cuda.TILES[kernel.ndim], "staircase")
    target = Target(setup, "cuda-sp")
    found = cuda.report(cuda.build(cuda.source(setup, ("wrap",) * kernel.ndim, arch=arch), arch))
    sparse, dense = ("IMMA.SP", "IMMA") if kernel.integer else ("HMMA.SP", "HMMA")
    return {
        "stencil": kernel.name, "field": kernel.field, "points": kernel.points, "arch": arch, "tile": list(setup.program.layout.tile),
        "K": setup.program.k, "a_block": len(target.issues) * len(target.products) * target.m_tiles,
        "registers": found.registers, "spills": found.spills, "instructions": dict(found.instructions),
        "ok": found.spills == 0 and found.instructions.get(sparse, 0) > 0 and dense not in found.instructions,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,...")
    only = parser.parse_args().only
    kernels = [SUITE[name] for name in only.split(",")] if only else list(SUITE.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [pool.submit(row, kernel, arch) for kernel in kernels for arch in ARCHES]
        rows = []
        for one in made:
            rows.append(one.result())
            told = rows[-1]
            counts = ", ".join(f"{count} {name}" for name, count in told["instructions"].items())
            print(f"{told['stencil']:20} {told['arch']:6} {told['registers']:3} registers, {told['spills']} spilled: {counts}", flush=True)  # fmt: skip
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
