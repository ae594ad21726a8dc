"""Deep self-evolving reasoning (arXiv 2510.17498): verify–refine chains, a vote over them, and what they say of a model.

The Python API: `Chain` and `Procedure` (one chain as a state machine), `run_chains` (chains over any generator of
tenfold_shared), `dser.vote.vote`, `read_log`, `report_of`, `plan_of`, and the closed forms in `dser.markov`. The command is
`dser`. Names are looked up when they are used, so that the command starts without numpy and scipy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dser.chain import Call, Chain, Procedure, Step
    from dser.findings import report_of
    from dser.log import Problem, Settings, read_log
    from dser.plan import plan_of
    from dser.runner import Outcome, run_chains
    from dser.vote import Ballot

__version__ = "0.1.0"

_HOMES = {
    "chain": ("Call", "Chain", "Procedure", "Step"),
    "findings": ("report_of",),
    "log": ("Problem", "Settings", "read_log"),
    "plan": ("plan_of",),
    "runner": ("Outcome", "run_chains"),
    "vote": ("Ballot",),
}
__all__ = [
    "Ballot", "Call", "Chain", "Outcome", "Problem", "Procedure", "Settings", "Step", "plan_of", "read_log", "report_of",
    "run_chains",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"dser.{module}"), name)
    raise AttributeError(f"module 'dser' has no attribute {name!r}")
