"""What a policy sees, what it decides, and what a run leaves: the decision process of the paper's section 3 (state, action, reward).

A step trains on a fixed number of tokens under one mixture; then every domain's held-out loss is measured. Losses are bits per byte, so
that models with different tokenizers can be compared. f̂ = (base − loss) / base is the feedback as the agent and the score see it:
positive where the model is better than before. The score is the mean of the source domains' mean f̂ and the target domains' mean f̂;
a step's reward is its change, so that a run's rewards sum to its final score.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from datamix.mixture import Weights, entropy

Floats = NDArray[np.float64]


class Budget(msgspec.Struct, frozen=True):
    """What a run may use. tokens: of one step; steps: T; source_share: of all the run's tokens, how many at most may be source text
    (1 is no limit); max_epochs: how often a domain's text may be seen (0 is no limit)."""

    tokens: int
    steps: int
    source_share: float = 1.0
    max_epochs: float = 0.0


class History:
    """One run so far: t finished steps of T, D domains.

    names [D]; source [D] bool; available [D] train tokens; base [D] losses before the first step; weights [t, D] as they were used
    (shares of what was really drawn); losses [t, D] after each step.
    """

    def __init__(
        self, names: list[str], source: NDArray[np.bool_], available: NDArray[Any], base: Floats, budget: Budget
    ) -> None:
        self.names, self.source, self.budget = list(names), np.asarray(source, dtype=bool), budget
        self.available = np.asarray(available, dtype=np.float64)
        self.base = np.asarray(base, dtype=np.float64)
        self._weights: list[Weights] = []
        self._losses: list[Floats] = []

    def add(self, weights: Weights, losses: Floats) -> None:
        """A finished step. A loss that was not measured (NaN) is carried forward from the step before."""
        before = self._losses[-1] if self._losses else self.base
        self._weights.append(np.asarray(weights, dtype=np.float64))
        self._losses.append(np.where(np.isnan(losses), before, losses))

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def weights(self) -> Floats:
        return np.array(self._weights).reshape(len(self), len(self.names))

    @property
    def losses(self) -> Floats:
        return np.array(self._losses).reshape(len(self), len(self.names))

    @property
    def gains(self) -> Floats:
        """f̂ [t + 1, D], the first row 0."""
        return gains(self.base, np.vstack([self.base[None], self.losses]))

    @property
    def source_left(self) -> float:
        """Source tokens that may still be used, in steps' worth."""
        used = float(self.weights[:, self.source].sum())
        return max(self.budget.source_share * self.budget.steps - used, 0.0)

    @property
    def steps_left(self) -> int:
        return self.budget.steps - len(self)

    def upto(self, t: int) -> History:
        """The same run after its first t steps."""
        found = History(self.names, self.source, self.available, self.base, self.budget)
        found._weights, found._losses = self._weights[:t], self._losses[:t]
        return found


def gains(base: Floats, losses: Floats) -> Floats:
    """f̂ = (base − loss) / base; base [D], losses [..., D]."""
    return (base - losses) / base


def parts(gain: Floats, source: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean f̂ of source and of target domains: [..., D] -> [...], [...]."""
    return gain[..., source].mean(-1), gain[..., ~source].mean(-1)


def score(gain: Floats, source: NDArray[np.bool_], weights: tuple[float, float] = (0.5, 0.5)) -> Floats:
    """w_s · mean source f̂ + w_t · mean target f̂, [..., D] -> [...]."""
    of_source, of_target = parts(gain, source)
    return weights[0] * of_source + weights[1] * of_target


def rewards(history: History, weights: tuple[float, float] = (0.5, 0.5)) -> Floats:
    """r_t, the change of the score by step t, [t]; they sum to the score of the last step."""
    return np.diff(score(history.gains, history.source, weights))


class Decision(msgspec.Struct):
    """The next mixture, and what is known of it: q, the value that the policy expects of it (None where it has no idea of one)."""

    weights: Weights
    q: float | None = None

    @property
    def entropy(self) -> float:
        return entropy(self.weights)


class Policy(Protocol):
    """Decides the next mixture from a run so far. It is asked once before every step, in order, and may keep what it needs; `name`
    stands in records and tables."""

    name: str

    def decide(self, history: History) -> Decision: ...


class Step(msgspec.Struct):
    """One finished step as it is written (a line of steps.jsonl, an entry of a trajectory). `weights` are shares of what was drawn;
    `missing` names domains whose loss could not be measured and was carried forward."""

    step: int
    tokens_seen: int
    weights: dict[str, float]
    feedback: dict[str, float]
    missing: list[str] = []


class Trajectory(msgspec.Struct):
    """One finished run of a swarm: a line of trajectories.jsonl. `sampler` is the behaviour policy; `task` names the domains-and-base that
    runs share; status `failed` where a loss was no number (`error` says which); such runs are counted and not learned from."""

    id: str
    task: str
    sampler: str
    seed: int
    roles: dict[str, str]
    available: dict[str, int]
    base: dict[str, float]
    budget: Budget
    steps: list[Step]
    status: str = "done"
    error: str | None = None
    schema: str = "mixture-trajectory/1"

    def history(self) -> History:
        names = list(self.roles)
        source = np.array([self.roles[name] == "source" for name in names])
        found = History(names, source, np.array([self.available[name] for name in names]), np.array([self.base[name] for name in names]), self.budget)  # fmt: skip
        for one in self.steps:
            found.add(np.array([one.weights.get(name, 0.0) for name in names]), np.array([one.feedback.get(name, np.nan) for name in names]))  # fmt: skip
        return found
