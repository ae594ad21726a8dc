"""What an engine is: something that samples tokens for trajectories, turn by turn.

A trajectory's context stays in an engine from its first turn to its last: a turn adds the tokens that are new (the prompt; later, a tool's response), and gives back sampled tokens, each with its
log-probability. Trajectories come and go while others run; nothing waits for a batch.

    engine.start(key, ids, most, draw)   a turn of trajectory `key`: `ids` are appended to what it holds, then at most `most` tokens are sampled
    engine.poll()                        some work, never a long wait; the turns that ended
    engine.release(key)                  its context may go, and what still runs of it is cut off
    engine.load(weights)                 between batches: the policy as it is now; nothing is kept of what older weights computed

Where it sits: below everything that samples. The engines are engine.py (transformers in this process), engine_vllm.py (vLLM in this process) and engine_server.py (a server); engine_open.py opens them, engine_fleet.py
decides which of several a trajectory goes to. No torch at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Turn(msgspec.Struct):
    """A turn that ended. ids: sampled tokens, the one that ends the turn included; logp: log-probability of each as it was drawn; ended: False where `most` was reached first."""

    key: str
    ids: list[int]
    logp: list[float]
    ended: bool


class Lost(Exception):
    """An engine is gone, with what its trajectories had in its cache; the text says why."""


class Engine(Protocol):
    """name: as it is told to people. block, blocks: tokens of a block of its KV cache, and how many it has. places: trajectories at a time, however short. paged: whether trajectories take blocks as they grow
    (else each place is as long as the longest). lost: why it is gone, "" while it is not. bell: called, from any thread, when `poll` has something; whoever polls sets it.

    start, poll and load raise Lost; start raises BadInput for what has no room.
    """

    name: str
    block: int
    blocks: int
    places: int
    paged: bool
    lost: str
    bell: Callable[[], object]

    @property
    def idle(self) -> bool:
        """Whether a poll now would only come back with nothing: whoever polls may wait for the bell."""

    def start(self, key: str, ids: Sequence[int], most: int, draw: np.random.Generator) -> None: ...

    def poll(self) -> list[Turn]: ...

    def release(self, key: str) -> None: ...

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """weights: all of the policy's parameters, named as in its `state_dict()`; of two names for one, either or both."""

    def sleep(self) -> None:
        """Between batches: give memory back that the trainer could use."""

    def wake(self) -> None:
        """Before the next batch, and before `load`."""

    def close(self) -> None: ...


def silent() -> None:
    """A bell that nobody hears."""
