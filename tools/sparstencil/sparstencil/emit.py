"""`sparstencil emit`: a stencil's kernel as a folder that stands alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

from sparstencil import cuda
from sparstencil.boundary import Boundary
from sparstencil.convert import Solver
from sparstencil.cuda_plan import Backend
from sparstencil.modes import Mode
from sparstencil.plan import CARDS, best
from sparstencil.stencil import Offset, Stencil
from tenfold_shared import BadInput


def run(
    stencil: Stencil,
    output: str | None,
    as_json: bool,
    quiet: bool,
    *,
    tile: Offset | None,
    solver: Solver | None,
    mode: Mode,
    backend: Backend,
    boundary: str,
    fuse: int | None,
    arch: Literal["sm_80", "sm_90a"],
    overwrite: bool,
) -> int:
    """The verb. Raises BadInput without a folder, or for one that holds other things."""
    if output is None or output == "-":
        raise BadInput("emit: expected -o FOLDER")
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{output}: is a file; expected a folder, or a name that is free")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise BadInput(f"{output}: is not empty; choose another folder or add --overwrite")
    steps = fuse or 1
    rule = Boundary.parse(boundary, stencil.ndim)
    if steps > 1 and set(rule.rules) - {"wrap", "valid"}:
        raise BadInput(
            f"--fuse {steps}: a kernel of several steps is exact for wrap and valid alone; `run` mends the ring of {rule}"
        )
    setup = best(stencil, mode, CARDS["h100"], tile, solver, steps)
    files = cuda.emit(setup, rule, arch, folder, backend)
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    if as_json:
        layout = setup.program.layout
        print(
            json.dumps(
                {
                    "files": [str(path) for path in files],
                    "lines": lines,
                    "tile": list(layout.tile),
                    "K": setup.program.k,
                    "arch": arch,
                }
            )
        )
    elif not quiet:
        print(f"sparstencil: {', '.join(f'{path} ({lines[path.name]} lines)' for path in files)}", file=sys.stderr)
    return 0
