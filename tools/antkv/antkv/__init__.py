"""antkv: the KV cache of a transformer at 4 to 0.375 bits a number, with anchor tokens kept exact (arXiv 2506.19505).

From Python: `AntCache` and `attached` put a packed cache into a transformers model, `load` reads a codebook, `factors` is
the Anchor Score. Names are imported when they are asked for, as they need torch. The command is `antkv` (cli.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antkv.cache import AntCache, Settings, attached
    from antkv.codebook import Codebook, load
    from antkv.score import attend, factors

__version__ = "0.1.0"
_HOMES = {
    "cache": ("AntCache", "Settings", "attached"),
    "codebook": ("Codebook", "load"),
    "score": ("attend", "factors"),
}

__all__ = ["AntCache", "Codebook", "Settings", "attached", "attend", "factors", "load"]


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"antkv.{home}"), name)
    raise AttributeError(f"module 'antkv' has no attribute {name!r}")
