"""`seer-decode convert`: gates from one of their two forms on disk to the other."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from seer_decode import __version__
from seer_decode.info import counts
from seer_decode.shape import config_of
from seer_decode.store import FORMS, Form, form_of, load, prepare, save
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import difference, write_atomic


def run(
    folder: str,
    *,
    output: str | None,
    to: Form | None,
    uri: str | None,
    block: int | None,
    reuse_gate: bool,
    base_model: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb: reads `folder` in whichever form it has, checks it, writes `output` in the other, or as `to` says."""
    started, clock = datetime.now(UTC), time.monotonic()
    if not output or output == "-":
        raise BadInput("-o: expected a folder to write")
    source = form_of(folder)
    target: Form = to or FORMS[1 - FORMS.index(source)]
    if Path(output).exists() and Path(output).samefile(folder):
        raise BadInput(f"{output}: is the input as well; choose another output")
    inputs = [
        {"path": str(path), "sha256": sha256_of(str(path))}
        for path in sorted(Path(folder).iterdir())
        if path.is_file() and path.name != "manifest.json"
    ]
    identity: dict[str, Any] = {
        "tool": "seer-decode", "verb": "convert", "inputs": inputs,
        "options": {"to": target, "model": uri, "block": block, "reuse_gate": reuse_gate, "base_model": base_model},
    }  # fmt: skip
    if not overwrite and (before := _manifest(output)) is not None and difference(before, identity) is None:
        if not quiet:
            print(f"seer-decode: {output}: complete already; nothing to do", file=sys.stderr)
        if as_json:
            print(json.dumps({**before.get("counts", {}), "output": output}))
        return 0
    prepare(output, overwrite)
    loaded = load(folder, config_of(uri) if uri else None, name=uri or "", block=block, reuse_gate=reuse_gate)
    made = loaded.made
    if base_model:
        made = msgspec.structs.replace(made, base=msgspec.structs.replace(made.base, name=base_model))
    for note in loaded.notes:
        print(f"seer-decode: {note}", file=sys.stderr)
    save(loaded.gates, made, output, target, overwrite=overwrite)
    told: dict[str, Any] = {"from": source, "to": target, "layers": len(made.shape.gated), **counts(made.shape)}
    manifest = {
        "schema": "manifest/1",
        **identity,
        "version": __version__,
        "argv": sys.argv,
        "seed": None,
        "counts": told,
        "status": "done",
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
    }
    write_atomic(Path(output) / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
    if as_json:
        print(json.dumps({**told, "output": output}))
    elif not quiet:
        print(
            f"seer-decode: {output}: {target} form, {told['layers']} layers, {told['parameters']:,} parameters",
            file=sys.stderr,
        )
    return 0


def _manifest(folder: str) -> dict[str, Any] | None:
    """What made a folder, as far as it says so."""
    try:
        found = json.loads((Path(folder) / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("options"), dict) else None
