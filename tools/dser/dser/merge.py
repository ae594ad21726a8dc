"""`dser merge`: the runs of shards as one run folder, byte for byte what an unsharded run writes in the end.

Shards need the same options (the shard aside) and problems of their own. steps.jsonl is theirs, one after the other;
answers.jsonl and chains.jsonl likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import dser
from dser.log import STEPS
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock, difference, write_atomic

Record = dict[str, Any]
FILES = (STEPS, "chains.jsonl", "answers.jsonl")


def run(folders: Sequence[str], *, output: str | None, overwrite: bool, quiet: bool) -> int:
    """The verb; returns the exit code: 1 where a shard is not complete."""
    if output is None:
        raise BadInput("merge: expected -o DIR, the folder of the joined run")
    if len(folders) < 2:
        raise BadInput("merge: expected two run folders or more")
    found = sorted((_manifest(folder) for folder in folders), key=lambda pair: pair[0].get("shard") or [0, 0])
    first = found[0][1]
    for _, manifest, folder in found[1:]:
        if told := difference(_unsharded(first), _unsharded(manifest)):
            raise BadInput(f"{folder}: was made with other settings than {found[0][2]}: {told}")
    shards = [tuple(options.get("shard") or ()) for options, _, _ in found]
    if all(shards) and (len({total for _, total in shards}) > 1 or len(set(shards)) < len(shards)):
        given = ", ".join("/".join(map(str, shard)) for shard in shards)
        raise BadInput(f"merge: expected different shards of one split, got {given}")
    target = Path(output)
    if target.exists() and any(entry.name != ".lock" for entry in target.iterdir()) and not overwrite:
        raise BadInput(f"{output}: exists; choose another output or add --overwrite")
    if any(Path(folder).resolve() == target.resolve() for folder in folders):
        raise BadInput(f"{output}: is one of the runs to merge; choose another folder")
    try:
        target.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise BadInput(f"{output}: the folder {target.parent} does not exist; create it first") from None
    lock = Lock(target / ".lock", target)
    try:
        _distinct([folder for _, _, folder in found])
        for name in FILES:
            write_atomic(target / name, _joined(Path(folder) / name for _, _, folder in found))
        counts: Record = {}
        for _, manifest, _ in found:
            for key, value in manifest.get("counts", {}).items():
                counts[key] = counts.get(key, 0) + value
        statuses = {manifest["status"] for _, manifest, _ in found}
        missing = sorted(set(range(1, shards[0][1] + 1)) - {index for index, _ in shards}) if all(shards) else []
        merged = {
            **{key: first[key] for key in ("schema", "tool", "verb")},
            "options": _unsharded(first)["options"],
            "inputs": first["inputs"],
            "version": dser.__version__,
            "merged": [{"shard": options.get("shard"), "status": manifest["status"]} for options, manifest, _ in found],
            "seed": first.get("seed"),
            "counts": counts,
            "status": "done" if statuses == {"done"} and not missing else "partial",
        }
        write_atomic(target / "manifest.json", msgspec.json.format(msgspec.json.encode(merged), indent=2) + b"\n")
    finally:
        lock.release()
    if not quiet:
        import sys

        told = f"; missing: shard {', '.join(f'{index}/{shards[0][1]}' for index in missing)}" if missing else ""
        print(f"dser: {counts.get('problems', 0)} problems of {len(found)} runs in {output}{told}", file=sys.stderr)
    return 1 if counts.get("failed") or missing or statuses != {"done"} else 0


def _manifest(folder: str) -> tuple[Record, Record, str]:
    path = Path(folder) / "manifest.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{folder}: expected a run folder of dser solve, with manifest.json") from None
    except (msgspec.DecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    for name in FILES:
        if not (Path(folder) / name).is_file():
            raise BadInput(f"{folder}: {name} is missing; is the run over? Run its command again first")
    return manifest["options"], manifest, folder


def _unsharded(manifest: Record) -> Record:
    return {**manifest, "options": {**manifest["options"], "shard": None}}


def _joined(paths: Iterable[Path]) -> Iterator[bytes]:
    """The files' bytes one after the other."""
    for path in paths:
        with open(path, "rb") as part:
            while block := part.read(1 << 20):
                yield block


def _distinct(folders: Sequence[str]) -> None:
    class Named(msgspec.Struct):
        id: str

    seen: dict[str, str] = {}
    decode = msgspec.json.Decoder(Named).decode
    for folder in folders:
        with open(Path(folder) / "answers.jsonl", "rb") as lines:
            for line in lines:
                name = decode(line).id
                if name in seen:
                    raise BadInput(f"{folder}: {name}: is also in {seen[name]}; a problem may be in one run only")
                seen[name] = folder
