"""Several engines as one: who goes to which, and what becomes of those whose engine is gone.

Trajectories are submitted; as there is room, `next` says which begin. Turns are asked for with the whole context: the fleet knows what of it their engine holds already, and sends the rest. Where an engine is lost,
its trajectories are sent to others with all their tokens, as they were: a turn that was under way is sampled again from its beginning.

Where it sits: between rollout.py and the engines; admission is scheduler.py's. For one batch; no thread and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from grpo_roc.engine_protocol import Engine, Lost, Turn
from grpo_roc.scheduler import Admission, Name, Settings, Trajectory
from tenfold_shared import BadInput, Missing

Policy = Literal["auto", "static", "least", "kv", "kv-quantile", "kv-mean"]


def chosen(asked: Policy, engines: Sequence[Engine], lockstep: bool) -> Name:
    """auto: kv-mean, the fastest of those simulated where caches fill up (README, "Scheduling, simulated"), as they do in engines whose trajectories take blocks as they grow. In slots, each as long as the longest, its guesses
    gain nothing: there, and in lockstep, where who begins must not hang on lengths, it is kv, in the order given."""
    if asked != "auto":
        return asked
    return "kv-mean" if all(engine.paged for engine in engines) and not lockstep else "kv"


class _Asked(msgspec.Struct):
    """A turn that is wanted or under way. ids: the whole context."""

    ids: Sequence[int]
    most: int
    draw: np.random.Generator


class Fleet:
    """Engines that are there, for one batch of trajectories of at most `most` tokens beyond their prompts. seen: lengths of an earlier batch. Raises Missing where all are gone."""

    def __init__(self, engines: Sequence[Engine], policy: Name, most: int, *, seen: Sequence[int] = (), tell: Callable[[str], None] = lambda _: None) -> None:  # fmt: skip
        self.engines = [engine for engine in engines if not engine.lost]
        if not self.engines:
            raise Missing("; ".join(f"{engine.name}: {engine.lost}" for engine in engines) or "no engine")
        self.policy, self.tell = policy, tell
        self.block = max(engine.block for engine in self.engines)
        capacities = [engine.blocks * engine.block // self.block for engine in self.engines]
        settings = Settings(policy, most, self.block, seen=tuple(seen))
        self.admission = Admission(capacities, settings, [engine.places for engine in self.engines])
        self.least = min(capacities) * self.block
        self.most = most
        self.home: dict[str, int] = {}
        self.held: dict[str, int] = {}  # tokens that the engine has of it
        self.asked: dict[str, _Asked] = {}
        self.lengths: list[int] = []

    def submit(self, key: str, prompt: int, group: str) -> None:
        """Raises BadInput for one that an engine has no room for."""
        if prompt + self.most > self.least and self.policy.startswith("kv"):
            raise BadInput(
                f"{key}: a prompt of {prompt} tokens and a response of up to {self.most}, but an engine's cache holds {self.least}: lower --max-tokens or --max-prompt"
            )
        self.admission.submit(Trajectory(key, prompt, group))

    @property
    def waiting(self) -> int:
        """Those that have not begun, and those whose engine is gone."""
        return self.admission.waiting

    def next(self) -> list[str]:
        """Those that may begin now. Those that are sent again, as their engine was lost, are among them."""
        found: list[str] = []
        while sent := self.admission.next():
            for key, index in sent:
                self.home[key], self.held[key] = index, 0
            for key, index in sent:
                if key in self.asked and self.home.get(key) == index:
                    self._start(key)
            found += [key for key, _ in sent]
        return found

    def ask(self, key: str, ids: Sequence[int], most: int, draw: np.random.Generator) -> None:
        """A turn of one that has begun. ids: its whole context, which stays as it is until the turn has ended."""
        self.asked[key] = _Asked(ids, most, draw)
        if key in self.home:
            self._start(key)

    def poll(self) -> list[Turn]:
        turns: list[Turn] = []
        for index, engine in enumerate(self.engines):
            if engine.lost:
                continue
            try:
                found = engine.poll()
            except Lost as why:
                self._lost(index, str(why))
                continue
            for turn in found:
                self.held[turn.key] = len(self.asked.pop(turn.key).ids) + len(turn.ids)
            turns += found
        return turns

    @property
    def idle(self) -> bool:
        return all(engine.idle for engine in self.engines if not engine.lost)

    def grew(self, key: str, tokens: int) -> None:
        """So many beyond its prompt. One that waits to be sent again is counted when it has been."""
        if key in self.home:
            self.admission.grew(key, tokens)

    def ended(self, key: str, tokens: int) -> None:
        """One that has begun is through, or is cut off."""
        self.asked.pop(key, None)
        index = self.home.pop(key, None)
        self.lengths.append(tokens)
        if index is None:
            self.admission.withdraw(key)
            return
        del self.held[key]
        self.engines[index].release(key)
        self.admission.ended(key, tokens)

    # ------------------------------------------------------------ inside

    def _start(self, key: str) -> None:
        asked, index = self.asked[key], self.home[key]
        try:
            self.engines[index].start(key, asked.ids[self.held[key] :], asked.most, asked.draw)
        except Lost as why:
            self._lost(index, str(why))

    def _lost(self, index: int, why: str) -> None:
        """Raises Missing where it was the last."""
        engine = self.engines[index]
        engine.lost = engine.lost or why
        if all(one.lost for one in self.engines):
            raise Missing(f"{engine.name}: {why}; no engine is left, and what was written so far is kept")
        gone = self.admission.lost(index)
        for key in gone:
            del self.home[key], self.held[key]
        self.tell(f"{engine.name}: {why}; its {len(gone)} trajectories go on elsewhere")
