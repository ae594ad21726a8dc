"""What a verb cannot do without, told before it begins: libraries, memory, the very weights that gates were trained for."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tenfold_shared import BadInput, Missing


def models() -> None:
    """Raises Missing where torch, transformers or safetensors is not installed."""
    missing = [name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"{', '.join(missing)}: not installed: pip install 'seer-decode[hf]'")


def available(device: Any) -> int:
    """Bytes of memory that can be had on a device; on a CPU as Linux tells them."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo", encoding="ascii") as told:
        return next(1024 * int(line.split()[1]) for line in told if line.startswith("MemAvailable"))


def room(wanted: int, device: Any, verb: str, remedy: str) -> None:
    """Raises Missing where a device has not so many bytes left."""
    if (free := available(device)) < wanted:
        raise Missing(f"{verb}: needs {wanted / 2**30:.1f} GiB more memory, {free / 2**30:.1f} are free; {remedy}")


def refuse(verb: str, remedy: str, why: str) -> NoReturn:
    """Raises Missing for memory that ran out after all."""
    raise Missing(f"{verb}: out of memory ({why}); {remedy}") from None


def fingerprint(model: Any) -> str | None:
    """sha256 of some 256 numbers of every parameter as bfloat16 rounds them: the same for a checkpoint loaded as float32 or as
    bfloat16. None of a model in float16, which cannot hold all of bfloat16's numbers."""
    import torch

    if model.dtype == torch.float16:
        return None
    found = hashlib.sha256()
    for weight in model.parameters():
        step = max(1, weight.numel() // 256) | 1  # odd, so that it goes through all columns of a matrix
        found.update(weight.detach().reshape(-1)[::step].to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return found.hexdigest()


def digest(path: str | None) -> str | None:
    """sha256 of a file, or of the files of a folder of gates; None for none. Raises BadInput."""
    if path is None:
        return None
    if not Path(path).exists():
        raise BadInput(f"{path}: no such folder or file")
    if Path(path).is_dir():
        found = hashlib.sha256()
        for entry in sorted(Path(path).iterdir()):
            found.update(entry.name.encode() + (entry.read_bytes() if entry.is_file() else b""))
        return found.hexdigest()
    from tenfold_shared.cli import sha256_of

    return sha256_of(path)


def plots(path: str, others: Sequence[str | None] = ()) -> None:
    """Raises BadInput for a picture of another kind, in no folder, or in the place of another file of the command; Missing without
    matplotlib."""
    if not path.endswith((".png", ".svg")):
        raise BadInput(f"--plot {path}: expected a name ending in .png or .svg")
    if not Path(path).absolute().parent.is_dir():
        raise BadInput(f"--plot {path}: the folder {Path(path).absolute().parent} does not exist; create it first")
    if any(other and Path(other).resolve() == Path(path).resolve() for other in others):
        raise BadInput(f"--plot {path}: is an input or the output as well; choose another name")
    if importlib.util.find_spec("matplotlib") is None:
        raise Missing("matplotlib is not installed: pip install 'seer-decode[plot]'")
