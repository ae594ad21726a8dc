"""Deep self-evolving reasoning (arXiv 2510.17498): verify–refine chains, a vote over them, and what they say of a model.

The Python API: `Chain` and `Procedure` (one chain as a state machine), `run_chains` (chains over any generator of
tenfold_shared), `vote`, `read_log`, `report_of`, and the closed forms in `dser.markov`. The command is `dser`.
"""

__version__ = "0.1.0"

from dser.chain import Call, Chain, Procedure, Step
from dser.log import read_log
from dser.report import report_of
from dser.solve import run_chains
from dser.vote import Ballot, vote

__all__ = ["Ballot", "Call", "Chain", "Procedure", "Step", "read_log", "report_of", "run_chains", "vote"]
