"""What a verb cannot do without, told before it begins. Imports nothing heavy itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from tenfold_shared import Missing


def _extra(wanted: Sequence[str], extra: str) -> None:
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"{', '.join(missing)}: not installed: pip install 'grpo-roc[{extra}]'")


def torch() -> None:
    """What the toy needs. Raises Missing."""
    _extra(("torch",), "hf")


def models() -> None:
    """What sampling and training need. Raises Missing where torch, safetensors, transformers or accelerate is not installed."""
    _extra(("torch", "safetensors", "transformers", "accelerate"), "hf")


def plots() -> None:
    """Raises Missing without matplotlib."""
    _extra(("matplotlib",), "plot")
