"""What a verb cannot do without, told before anything is imported."""

from __future__ import annotations

import importlib.util

from tenfold_shared import Missing


def models() -> None:
    """Raises Missing where torch, transformers or safetensors is not installed."""
    missing = [name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"{', '.join(missing)}: not installed: pip install 'seer-decode[hf]'")
