"""sparstencil: constant-coefficient stencils on sparse tensor cores through 2:4 structured sparsity, and on a plain CPU
(after arXiv 2506.22969).

From Python: `apply(u, stencil, steps, boundary)` on numpy, torch and cupy arrays; `Stencil`, `Boundary`. The command is
`sparstencil` (cli.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparstencil.boundary import Boundary
    from sparstencil.stencil import Stencil
    from sparstencil.stepping import apply

__version__ = "0.1.0"
_HOMES = {"boundary": ("Boundary",), "stencil": ("Stencil",), "stepping": ("apply",)}

__all__ = ["Boundary", "Stencil", "apply"]


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"sparstencil.{home}"), name)
    raise AttributeError(f"module 'sparstencil' has no attribute {name!r}")
