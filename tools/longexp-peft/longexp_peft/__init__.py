"""longexp-peft: parameter-efficient fine-tuning that skips the neurons and attention blocks which do not matter (arXiv 2510.15964).

From Python: `Sparse` runs a transformers model with a `Sparsity` (dense, exact, predicted, static), `attach` makes it trainable by a
`Method`, `Bundle` is what calibration knows of it, and `load_adapter` puts bottleneck adapters back on a base model. Names are
imported when they are asked for, as they need torch. The command is `longexp-peft` (cli.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longexp_peft.bundle import Bundle
    from longexp_peft.methods import Method, Tuned, attach, load_adapter
    from longexp_peft.pack import Row, row_of
    from longexp_peft.sparse import Sparse, Sparsity

__version__ = "0.1.0"
_HOMES = {
    "bundle": ("Bundle",),
    "methods": ("Method", "Tuned", "attach", "load_adapter"),
    "pack": ("Row", "row_of"),
    "sparse": ("Sparse", "Sparsity"),
}

__all__ = ["Bundle", "Method", "Row", "Sparse", "Sparsity", "Tuned", "attach", "load_adapter", "row_of"]


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"longexp_peft.{home}"), name)
    raise AttributeError(f"module 'longexp_peft' has no attribute {name!r}")
