"""datamix: an agent that learns how to mix training data, once, from small runs, and steers other runs (arXiv 2507.15640).

From Python: `Corpus` is a folder of domains, `History` what a policy sees, `Policy` what decides the next mixture, `Agent` a trained one,
`MixedDataset` a torch dataset whose weights change while it is read, `MixtureCallback` steers a transformers Trainer. Names are imported
when they are asked for, as some need torch. The command is `datamix` (cli.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamix.agent import Agent
    from datamix.corpus import Corpus
    from datamix.dataset import MixedDataset
    from datamix.filecontrol import MixtureFile
    from datamix.history import History, Policy
    from datamix.hooks import MixtureCallback

__version__ = "0.1.0"
_HOMES = {
    "agent": ("Agent",),
    "corpus": ("Corpus",),
    "dataset": ("MixedDataset",),
    "filecontrol": ("MixtureFile",),
    "history": ("History", "Policy"),
    "hooks": ("MixtureCallback",),
}

__all__ = ["Agent", "Corpus", "History", "MixedDataset", "MixtureCallback", "MixtureFile", "Policy"]


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"datamix.{home}"), name)
    raise AttributeError(f"module 'datamix' has no attribute {name!r}")
