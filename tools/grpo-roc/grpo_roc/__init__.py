"""Agentic reinforcement learning with code: Resample-on-Correct, an answer verifier, a code environment. [arXiv 2508.20722]

    from grpo_roc import choose
    choose(rewards=[1, 0, 1, 0], penalties=[0.5, 0, 0, 1], size=2, group="q1").kept

Names load on first use.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = (
    False  # as typing says; a warm interpreter imports this package, and the less it has the faster it forks
)
if TYPE_CHECKING:
    from typing import Any

    from grpo_roc.penalty import Penalty, of_turns
    from grpo_roc.roc import Choice, advantages, choose, quotas

__version__ = "0.1.0"
__all__ = ["Choice", "Penalty", "advantages", "choose", "of_turns", "quotas"]

_HOME = {"Penalty": "penalty", "of_turns": "penalty"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'grpo_roc' has no attribute {name!r}")
    return getattr(importlib.import_module(f"grpo_roc.{_HOME.get(name, 'roc')}"), name)
