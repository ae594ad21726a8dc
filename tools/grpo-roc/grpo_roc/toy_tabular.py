"""The toy's tabular task: a policy of three numbers, trained by the score function.

The policy makes a call that fails with probability e, writes a second answer block with d, and makes no call at all with n. A call fails besides with probability 0.05, whatever the policy does. Calls are
repeated until one succeeds, ten times at most. Each prompt is solved with a chance of its own, c ~ U(0.1, 0.9), which neither e nor d nor n touches, but that who never succeeds has no answer.

One on-policy update a step, so that ratios are 1 and nothing is clipped: the mean over what was kept of advantage times score. Penalties are penalty.py's, of turns made up for each outcome; the choice is selection.py's.

Where it sits: toy.py starts `start` and `arm`. numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from grpo_roc import penalty, selection
from grpo_roc.toy import Settings, drawn, measure

Record = dict[str, Any]
Floats = NDArray[np.float64]
START = (0.5, 0.3, 0.1)  # e, d, n
NOISE = 0.05
RATE = 0.5
LENGTHS = (10, 13, 12)  # tokens: of the reasoning, of a call, of an answer block


class Batch(msgspec.Struct):
    """[P, N] each: calls made, failed, and spoilt by the policy's own doing; answer blocks; whether it made no call, was right."""

    calls: NDArray[np.int64]
    failed: NDArray[np.int64]
    spoilt: NDArray[np.int64]
    blocks: NDArray[np.int64]
    bare: NDArray[np.bool_]
    correct: NDArray[np.bool_]

    @property
    def tokens(self) -> NDArray[np.int64]:
        return LENGTHS[0] + LENGTHS[1] * self.calls + LENGTHS[2] * self.blocks

    def measure(self) -> Record:
        return measure(self.correct, self.calls, self.failed, self.blocks, self.tokens)


def rollouts(theta: Floats, prompts: int, n: int, rng: np.random.Generator, turns: int) -> Batch:
    """theta: the logits of e, d, n. turns: calls at most."""
    e, d, none = 1 / (1 + np.exp(-theta))
    chance = rng.uniform(0.1, 0.9, (prompts, 1))
    bare = rng.random((prompts, n)) < none
    spoils = rng.random((prompts, n, turns)) < e
    fails = spoils | (rng.random((prompts, n, turns)) < NOISE)
    found = ~fails.all(-1)
    calls = np.where(found, fails.argmin(-1) + 1, turns)
    made = (np.arange(turns) < calls[..., None]) & ~bare[..., None]
    answered = bare | found
    return Batch(
        made.sum(-1),
        (made & fails).sum(-1),
        (made & spoils).sum(-1),
        np.where(answered, 1 + (rng.random((prompts, n)) < d), 0),
        bare,
        answered & (rng.random((prompts, n)) < chance),
    )


@cache
def penalised(calls: int, failed: int, blocks: int) -> float:
    """The penalty of a trajectory whose calls, each in a turn of its own, failed but for the last, and whose last turn has so many answer blocks."""
    turns: list[Record] = [
        {"text": "<tool_call>{}</tool_call>", "calls": [{"status": "error" if k < failed else "ok"}]}
        for k in range(calls)
    ]
    if blocks:
        turns.append({"text": r"<answer>\boxed{1}</answer>" * blocks})
    return penalty.of_turns(turns).total


def gradient(theta: Floats, batch: Batch, kept: NDArray[np.bool_], advantage: Floats) -> Floats:
    """[3]: of what was kept, the mean of advantage times the gradient of log-probability, summed over a trajectory's decisions."""
    e, d, none = 1 / (1 + np.exp(-theta))
    doubles = np.where(batch.blocks > 0, (batch.blocks > 1) - d, 0.0)
    score = np.stack([batch.spoilt - e * batch.calls, doubles, batch.bare - none], -1)
    found: Floats = (score[kept] * advantage[kept][:, None]).sum(0) / max(kept.sum(), 1)
    return found


def start(seed: int, settings: Settings, folder: str, tick: Callable[[], None]) -> Record:
    """{before, precondition}: what the policy does that every arm begins with."""
    theta = logits()
    batch = rollouts(theta, 1024, 16, drawn(seed, "precondition"), settings.turns)
    return {
        "before": evaluate(theta, seed, settings),
        "precondition": np.stack([batch.failed.ravel(), batch.correct.ravel()], 1).tolist(),
    }


def logits() -> Floats:
    chance = np.array(START)
    found: Floats = np.log(chance / (1 - chance))
    return found


def evaluate(theta: Floats, seed: int, settings: Settings) -> Record:
    return {"all": rollouts(theta, settings.evaluated, 1, drawn(seed, "evaluate"), settings.turns).measure()}


def arm(name: selection.Algo, seed: int, settings: Settings, folder: str, tick: Callable[[], None]) -> Record:
    """One arm: {steps: what was sampled in each, after}."""
    theta, steps = logits(), []
    n = settings.sampled(name)
    for step in range(settings.steps):
        batch = rollouts(theta, settings.prompts, n, drawn(seed, f"step {step}"), settings.turns)
        kept, advantage = np.zeros(batch.calls.shape, dtype=bool), np.zeros(batch.calls.shape)
        for p in range(settings.prompts):
            penalties = [
                penalised(*map(int, one)) for one in zip(batch.calls[p], batch.failed[p], batch.blocks[p], strict=True)
            ]
            rewards = batch.correct[p].astype(float).tolist()
            for one in selection.keep(rewards, penalties, name, settings.group, group=f"{step}/{p}", seed=seed):
                kept[p, one.index], advantage[p, one.index] = True, one.advantage
        steps.append({"step": step, **batch.measure(), "kept": int(kept.sum()), "groups": int(kept.any(1).sum())})  # fmt: skip
        theta = theta + RATE * gradient(theta, batch, kept, advantage)
        tick()
    return {"steps": steps, "after": evaluate(theta, seed, settings)}
