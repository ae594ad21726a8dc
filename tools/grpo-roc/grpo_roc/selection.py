"""Which trajectories of a step are trained on: the arms that are compared (arXiv 2508.20722, section 2.2.3), and what a step's trajectories were like.

    roc, roc-top   oversample × G sampled, G kept by Resample-on-Correct
    grpo           G sampled, all kept
    grpo-2g        oversample × G sampled, all kept: what the larger sample alone does
    random-2g      oversample × G sampled, G kept by chance alone

A group whose rewards are all equal teaches nothing under any of them and is dropped before. Where it sits: above roc.py, penalty.py and transcript.py; below train.py.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from grpo_roc import penalty, roc
from grpo_roc.transcript import ERRORS, answers_of

Algo = Literal["roc", "roc-top", "grpo", "grpo-2g", "random-2g"]
ALGOS: tuple[Algo, ...] = ("roc", "grpo", "grpo-2g", "random-2g", "roc-top")
Record = dict[str, Any]


class Sampled(Protocol):
    """What is needed of a trajectory."""

    group: str
    rollout: int
    reward: float
    finish: str
    turns: list[Record]

    @property
    def sampled(self) -> int: ...

    @property
    def response(self) -> list[int]: ...


class Kept(msgspec.Struct):
    """index: in the step's list; advantage over what was kept of its group."""

    index: int
    advantage: float


def samples(algo: Algo, size: int, oversample: int) -> int:
    """Trajectories of a prompt that are sampled."""
    return size if algo == "grpo" else size * oversample


def keep(rewards: Sequence[float], penalties: Sequence[float], algo: Algo, size: int, *, group: str, seed: int, epsilon: float = 1e-3, ddof: int = 1) -> list[Kept]:  # fmt: skip
    """Of one group, in the order of its rollouts."""
    r = np.asarray(rewards, dtype=np.float64)
    if len(r) < 2 or np.all(r == r[0]):
        return []
    if algo in ("roc", "roc-top"):
        choice = roc.choose(
            rewards,
            penalties,
            size,
            group=group,
            select="inverse" if algo == "roc" else "top",
            epsilon=epsilon,
            seed=seed,
            ddof=ddof,
        )
        return [Kept(int(k), float(choice.advantage[k])) for k in np.flatnonzero(choice.kept)]
    chosen = np.arange(len(r))
    if algo == "random-2g" and len(r) > size:
        chosen = np.sort(roc.generator(seed, group).permutation(len(r))[:size])
    advantage = roc.advantages(r[chosen], ddof)
    if not advantage.any():
        return []
    return [Kept(int(k), float(one)) for k, one in zip(chosen, advantage, strict=True)]


def select(step: Sequence[Sampled], algo: Algo, size: int, *, seed: int, name: str, epsilon: float = 1e-3, ddof: int = 1) -> list[Kept]:  # fmt: skip
    """Of a whole step, its trajectories in order of group and rollout. name: of the step, so that no two draw alike."""
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(step):
        groups.setdefault(one.group, []).append(index)
    found = []
    for group, members in groups.items():
        rewards = [step[k].reward for k in members]
        penalties = [penalty.of_turns(step[k].turns).total for k in members]
        for kept in keep(
            rewards, penalties, algo, size, group=f"{name}/{group}", seed=seed, epsilon=epsilon, ddof=ddof
        ):
            found.append(Kept(members[kept.index], kept.advantage))
    return found


def error_share(turns: Sequence[Sequence[Record]]) -> float | None:
    """Failed calls among the calls of these trajectories that were the model's doing; None without any."""
    statuses = [
        call["status"]
        for each in turns
        for turn in each
        for call in turn.get("calls") or ()
        if call["status"] != "infra"
    ]
    return sum(status in ERRORS for status in statuses) / len(statuses) if statuses else None


def described(step: Sequence[Sampled], kept: Sequence[Kept]) -> Record:
    """What a step's trajectories were like, under names that verl's users know."""
    groups: dict[str, list[float]] = {}
    for one in step:
        groups.setdefault(one.group, []).append(one.reward)
    right = [one for one in step if one.reward > 0]
    calls = [sum(len(turn.get("calls") or ()) for turn in one.turns) for one in step]
    statuses = Counter(call["status"] for one in step for turn in one.turns for call in turn.get("calls") or ())
    blocks = [answers_of(one.turns).count for one in step]
    shares = {"errors/correct": [one.turns for one in right], "errors/kept_correct": [step[k.index].turns for k in kept if step[k.index].reward > 0], "errors/all": [one.turns for one in step]}  # fmt: skip
    found: Record = {
        "reward/mean": statistics.fmean(one.reward for one in step),
        "groups/solve_none": sum(max(each) <= 0 for each in groups.values()) / len(groups),
        "groups/solve_all": sum(min(each) > 0 for each in groups.values()) / len(groups),
        "groups/kept": len({step[k.index].group for k in kept}),
        "groups/all": len(groups),
        "trajectories/all": len(step),
        "trajectories/kept": len(kept),
        **{name: error_share(of) for name, of in shares.items()},
        "calls/mean": statistics.fmean(calls),
        "calls/none": sum(count == 0 for count in calls) / len(step),
        "calls/statuses": dict(sorted(statuses.items())),
        "answers/none": sum(count == 0 for count in blocks) / len(step),
        "answers/several": sum(count > 1 for count in blocks) / len(step),
        "response_length/mean": statistics.fmean(len(one.response) for one in step),
        "response_length/max": max(len(one.response) for one in step),
        "response_length/sampled": statistics.fmean(one.sampled for one in step),
        "response_length/clip_ratio": sum(one.finish in ("length", "deadline", "turns") for one in step) / len(step),
        "turns/mean": statistics.fmean(len(one.turns) for one in step),
    }
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in found.items()}
