"""`longexp-peft make-model`: the two models that need no download (planted.py, tiny_relu.py)."""

from __future__ import annotations

import sys
from typing import Any

from tenfold_shared import BadInput
from tenfold_shared.progress import Progress


def planted(output: str | None, *, quiet: bool, overwrite: bool, **given: Any) -> int:
    """The verb `make-model planted`; returns the exit code."""
    from longexp_peft.planted import make

    if output in (None, "-"):
        raise BadInput("make-model: expected -o DIR, a folder")
    with Progress("planted", given["layers"], "layers", quiet) as progress:
        told = make(str(output), **given, overwrite=overwrite, progress=progress)
    if not quiet:
        print(
            f"longexp-peft: {output}: {given['layers']} layers of {given['ffn']} neurons in {told['groups']} groups, train.jsonl, valid.jsonl, planted.json",
            file=sys.stderr,
        )
    return 0


def tiny_relu(
    output: str | None,
    *,
    texts: tuple[str, ...],
    small: bool,
    max_time: float | None,
    overwrite: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """The verb `make-model tiny-relu`; returns the exit code. small: the recipe of seconds, with the seed and penalty given."""
    from longexp_peft.tiny_relu import QUICK, make

    if output in (None, "-"):
        raise BadInput("make-model: expected -o DIR, a folder")
    recipe = {**QUICK, "seed": given["seed"], "l1": given["l1"]} if small else given
    told = make(str(output), texts=texts, max_time=max_time, overwrite=overwrite, quiet=quiet, **recipe)
    if not quiet:
        print(
            f"longexp-peft: {output}: held-out loss {told['loss']['held_out']:.3f} nats a token; heldout.txt has text it has not seen",
            file=sys.stderr,
        )
    return 0
