"""What a verb cannot do without, told before it begins: libraries, and a picture's name. Imports nothing heavy itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from tenfold_shared import BadInput, Missing


def _extra(wanted: Sequence[str], extra: str) -> None:
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        told = f"{', '.join(missing)}: not installed: pip install 'datamix[{extra}]'"
        raise Missing(told)


def torch() -> None:
    """What proxies and agents need. Raises Missing where torch or safetensors is not installed."""
    _extra(("torch", "safetensors"), "hf")


def ray() -> None:
    """What proxies on a Ray cluster need. Raises Missing where one of it is not installed."""
    _extra(("torch", "safetensors", "ray"), "ray")


def models() -> None:
    """What models from elsewhere need. Raises Missing where torch, safetensors, transformers or accelerate is not installed."""
    _extra(("torch", "safetensors", "transformers", "accelerate"), "hf")


def rival(method: str, corpus: bool, regression: str | None = None) -> None:
    """What a baseline needs: proxies where it learns from a corpus, trees or solvers. Raises Missing, before anything is trained."""
    method = method.removesuffix("-online")
    if corpus and method not in ("proportional", "uniform", "temperature", "fixed", "hand"):
        torch()
    if method in ("regmix", "regmix-d") and regression in (None, "auto", "lightgbm"):
        _extra(("lightgbm", "scipy"), "regmix")
    if method == "olmix":
        _extra(("scipy",), "regmix")


def comparisons(methods: Sequence[str]) -> None:
    """What a comparison needs: proxies, intervals, and what its methods want. Raises Missing."""
    _extra(("torch", "safetensors", "scipy"), "hf")
    for name in methods:
        rival(name, True)


def plots(path: str | None, others: Sequence[str | None] = ()) -> None:
    """Raises BadInput for a picture of another kind, in no folder, or in the place of another file of the command (`others`); Missing
    without matplotlib. Nothing is wanted where `path` is None."""
    if path is None:
        return
    if not path.endswith((".png", ".svg")):
        raise BadInput(f"--plot {path}: expected a name ending in .png or .svg")
    if not Path(path).absolute().parent.is_dir():
        raise BadInput(f"--plot {path}: the folder {Path(path).absolute().parent} does not exist; create it first")
    if any(other and Path(other).resolve() == Path(path).resolve() for other in others):
        raise BadInput(f"--plot {path}: is an input or the output as well; choose another name")
    _extra(("matplotlib",), "plot")
