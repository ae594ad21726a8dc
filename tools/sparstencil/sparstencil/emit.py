"""`sparstencil emit`: a stencil's kernel as a folder that stands alone, with its machine code where a compiler is found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from sparstencil import cuda
from sparstencil.boundary import Boundary
from sparstencil.convert import Solver
from sparstencil.cuda_plan import Backend
from sparstencil.modes import Mode, Setup
from sparstencil.plan import CARDS, best, fusion
from sparstencil.stencil import Offset, Stencil
from tenfold_shared import BadInput, Missing

CARD = CARDS["h100"]


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
    """The verb; exit code 1 where the compiler refuses the source. fuse: None is the number of steps with which the back end is
    predicted fastest. Raises BadInput without a folder, or for one that holds other things."""
    if output is None or output == "-":
        raise BadInput("emit: expected -o FOLDER")
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{output}: is a file; expected a folder, or a name that is free")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise BadInput(f"{output}: is not empty; choose another folder or add --overwrite")
    rule = Boundary.parse(boundary, stencil.ndim)
    mends = bool(set(rule.rules) - {"wrap", "valid"})
    steps = fuse or (1 if mends else fastest(stencil, mode, backend))
    if steps > 1 and mends:
        raise BadInput(
            f"--fuse {steps}: a kernel of several steps is exact for wrap and valid alone; `run` mends the ring of {rule}"
        )
    setup = best(stencil, mode, CARD, tile, solver, steps)
    files = cuda.emit(setup, rule, arch, folder, backend)
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    cubin, made, note = compiled(setup, rule, backend, arch, files[0].with_suffix(".cubin"))
    if cubin is not None:
        files.append(cubin)
    if as_json:
        layout = setup.program.layout
        print(
            json.dumps(
                {
                    "files": [str(path) for path in files],
                    "lines": lines,
                    "steps_a_pass": steps,
                    "tile": list(layout.tile),
                    "K": setup.program.k,
                    "arch": arch,
                    "machine_code": made,
                }
            )
        )
    elif not quiet:
        sizes = [f"{path} ({lines[path.name]} lines)" if path.name in lines else str(path) for path in files]
        print(f"sparstencil: {', '.join(sizes)}", file=sys.stderr)
    if note:
        print(f"sparstencil: {note}", file=sys.stderr)
    return 1 if note and made is not None and made.get("refused") else 0


def fastest(stencil: Stencil, mode: Mode, backend: Backend) -> int:
    """Steps a pass with which a back end is predicted fastest."""
    rows = fusion(stencil, mode, CARD)
    return int(max(rows, key=lambda row: row[backend])["steps"])


def compiled(
    setup: Setup, rule: Boundary, backend: Backend, arch: str, path: Path
) -> tuple[Path | None, dict[str, Any] | None, str]:
    """The step's machine code at `path`, what the assembler made of it (registers; spills: bytes of local memory or instructions
    that touch it; shared: static bytes), and a line for people where one of them is missing. No compiler is no failure; one
    that refuses is {"refused": its words}."""
    from tenfold_shared.jsonl import write_atomic

    path.unlink(missing_ok=True)  # an older one, of another architecture, would say that it is this source's
    try:
        built = cuda.build(cuda.source(setup, rule.rules, backend, arch), arch)
    except Missing as missing:
        return None, None, f"not compiled: {missing}"
    except RuntimeError as error:
        return None, {"refused": str(error)}, f"the compiler refuses the source: {error}"
    write_atomic(path, built.read_bytes())
    try:
        found = cuda.report(path)
    except Missing as missing:
        return path, None, f"{path.name} is compiled, its registers are not known: {missing}"
    return path, {"registers": found.registers, "spills": found.spills, "shared": found.shared, "instructions": dict(found.instructions)}, ""  # fmt: skip
