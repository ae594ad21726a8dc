"""seer-decode: block-sparse decoding of long chains of thought by a small trained gate a layer (arXiv 2506.08889).

From Python: `Gates.of` makes a model's gates, `load` and `save` keep them, `sequence_loss` is what they are trained on, and
`select` with a `Policy` chooses blocks. Names are imported when they are asked for, as they need torch. The command is
`seer-decode` (cli.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seer_decode.gate import Gate, Gates, Rotation
    from seer_decode.select import Policy, Selection, select
    from seer_decode.shape import Base, Shape
    from seer_decode.store import load, made_for, save
    from seer_decode.truth import ground_truth, sequence_loss

__version__ = "0.1.0"
_HOMES = {
    "gate": ("Gate", "Gates", "Rotation"),
    "select": ("Policy", "Selection", "select"),
    "shape": ("Base", "Shape"),
    "store": ("load", "made_for", "save"),
    "truth": ("ground_truth", "sequence_loss"),
}

__all__ = [
    "Base", "Gate", "Gates", "Policy", "Rotation", "Selection", "Shape", "ground_truth", "load", "made_for", "save", "select",
    "sequence_loss",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"seer_decode.{home}"), name)
    raise AttributeError(f"module 'seer_decode' has no attribute {name!r}")
