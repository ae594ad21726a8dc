"""`longexp-peft calibrate`: a bundle of what a model needs on these data (arXiv 2510.15964, Shadowy-sparsity Exposer).

Neurons get an order in which those that work together lie together and the hottest come first; a static set is a run from its
beginning. Heads get the cheapest pattern of the pool that covers `mass` of their attention.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import longexp_peft
from longexp_peft import profile, select, shape
from longexp_peft.bundle import SCHEMA, Bundle, identity
from longexp_peft.exposer import measure, order_of
from longexp_peft.profile import Reading
from longexp_peft.sparse import Sparse, Sparsity
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock, difference
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import redact

Record = dict[str, Any]


def made(found: profile.Read, *, block: int, attention_block: int, mass: float, lost: float, progress: Any) -> Bundle:
    """A bundle from measured rows: `lost` is the share of a layer's energy that a static set may leave outside."""
    base = identity(found.model)
    sparse = Sparse(found.model, Sparsity())
    layers = measure(sparse, found.rows, block=attention_block, mass=mass, progress=progress.update)
    tensors, told = {}, []
    for ffn, layer in zip(sparse.ffns, layers, strict=True):
        order = order_of(layer, block)
        tensors[f"order.{ffn.layer}"] = order.to(torch.int32)
        # The set that has what is asked for in every row, as it is to serve them all: the longest run from the beginning.
        runs = [_run(one[order], lost) for one in layer.rows]
        size = min(ffn.width, -(-max(runs) // block) * block)
        heads = layer.heads(mass)
        zeros = layer.share_of_zeros()
        told.append({
            "width": ffn.width, "static": size, "patterns": [h["pattern"] for h in heads], "heads": heads,
            "zeros": [round(z, 4) for z in zeros], "density": {str(m): round(layer.density(m / 100), 4) for m in (90, 95, 99)},
            "density_blocks": round(_by_blocks(layer.rows, order, block, lost), 4), "density_static": round(size / ffn.width, 4),
        })  # fmt: skip
        progress.update()
    info = {
        "schema": SCHEMA, "version": longexp_peft.__version__, "model": base, "block": block, "attention_block": attention_block,
        "mass": mass, "lost": lost, "rows": len(found.rows), "tokens": sum(r.tokens for r in found.rows), "layers": told,
        "predictor": None,
    }  # fmt: skip
    return Bundle(info, tensors)


def _run(energy: torch.Tensor, lost: float) -> int:
    """How long a run from the beginning leaves at most `lost` of the energy behind it."""
    total = energy.double().sum()
    if not total > 0:
        return 0
    behind = energy.double().flip(0).cumsum(0).flip(0)
    return int((behind > lost * total).sum())


def _by_blocks(rows: list[torch.Tensor], order: torch.Tensor, block: int, lost: float) -> float:
    found = [float(select.smallest(select.by_block(one[order], block), lost).float().mean()) for one in rows]
    return sum(found) / max(1, len(found))


def run(
    files: Sequence[str], how: Reading, *, block: int, attention_block: int, mass: float, lost: float, output: str | None,
    overwrite: bool, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code."""
    started, clock = datetime.now(UTC), time.monotonic()
    target = folder(output, "calibrate")
    lock = Lock(target.with_name(f".{target.name}.lock"), target)
    try:
        found = profile.read(files, how)
        known = {
            "tool": "longexp-peft", "verb": "calibrate",
            "options": {**profile.identity_of(how), "neuron_block": block, "attention_block": attention_block, "mass": mass, "lost": lost, "model": identity(found.model)},
            "inputs": found.inputs,
        }  # fmt: skip
        known = json.loads(json.dumps(known))
        if settled(target, known, overwrite):
            print(f"longexp-peft: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        with Progress(
            "calibrate", len(found.rows) + len(shape.feed_forwards(found.model)), "rows and layers", quiet
        ) as progress:
            bundle = made(found, block=block, attention_block=attention_block, mass=mass, lost=lost, progress=progress)
        bundle.info["manifest"] = {
            "schema": "manifest/1", **known, "argv": [redact(word) for word in sys.argv], "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
        }  # fmt: skip
        bundle.save(target)
    finally:
        lock.release()
    told = [
        {k: one[k] for k in ("zeros", "density", "density_blocks", "density_static")} for one in bundle.info["layers"]
    ]
    if as_json:
        print(json.dumps({"bundle": output, "layers": told}))
    elif not quiet:
        mean = {key: sum(one[key] for one in told) / len(told) for key in ("density_blocks", "density_static")}
        print(
            f"longexp-peft: {output}: {len(told)} layers; {100 * (1 - lost):g} % of a row's energy takes {100 * mean['density_blocks']:.1f} % of the neurons "
            f"in its own blocks of {block}, {100 * mean['density_static']:.1f} % in one set for all rows",
            file=sys.stderr,
        )
    return 0


def folder(output: str | None, verb: str) -> Path:
    if output in (None, "-"):
        raise BadInput(f"{verb}: expected -o BUNDLE, a folder")
    target = Path(str(output))
    if not target.absolute().parent.is_dir():
        raise BadInput(f"{target}: the folder {target.absolute().parent} does not exist; create it first")
    if target.exists() and not target.is_dir():
        raise BadInput(f"{target}: is a file; expected a folder to write")
    return target


def settled(target: Path, known: Record, overwrite: bool) -> bool:
    """Whether a bundle of this very command stands there. Raises BadInput for another one, or other things."""
    if not target.exists() or not any(target.iterdir()):
        return False
    try:
        bundle = Bundle.load(target)
    except BadInput:
        if overwrite and (target / "bundle.json").exists():
            return False  # one of ours that was damaged
        raise BadInput(f"{target}: holds other things; choose another output") from None
    if overwrite:
        return False
    if found := difference(bundle.info.get("manifest", {}), known):
        raise BadInput(f"{target}: was made with {found}; choose another output or add --overwrite")
    return True
