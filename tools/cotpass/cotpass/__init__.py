"""Pass@K beside CoT-Pass@K: is a model right, and right for the right reason? [arXiv 2506.14245]

    import cotpass
    cotpass.pass_at_k(n=[16, 16], c=[3, 0], ks=[1, 4])   # array of shape (2, 2)

Names load on first use, so that the command's help does not wait for numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotpass.compare import pass_at_k_difference
    from cotpass.estimators import cons_at_k, g_pass_at_k, mg_pass_at_k, pass_at_k, pass_hat_k
    from cotpass.steps import check_steps
    from cotpass.theory import advantage
    from cotpass.votes import aggregate

__version__ = "0.1.0"
__all__ = [
    "advantage",
    "aggregate",
    "check_steps",
    "cons_at_k",
    "g_pass_at_k",
    "mg_pass_at_k",
    "pass_at_k",
    "pass_at_k_difference",
    "pass_hat_k",
]

_HOME = {"advantage": "theory", "aggregate": "votes", "check_steps": "steps", "pass_at_k_difference": "compare"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cotpass' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cotpass.{_HOME.get(name, 'estimators')}"), name)
