"""Online rules that look at losses and nothing else: ODM's bandit and the softmax of losses. Policies of the run itself; no proxies.

ODM (Albalak et al., arXiv 2312.02406; alon-albalak/online-data-mixing, Exp3WeightUpdater): every domain is an arm, its loss the reward.
    R_d += (loss_d / 10) / π_d                                         for every domain that was drawn
    ε_t = min(1/D, sqrt(ln D / (D t)));   π_d = (1 - D ε_t) · exp(ε_{t-1} R_d) / Σ_k exp(ε_{t-1} R_k) + ε_t
The repository sums the rewards; the paper's text has a moving average, R_d = α R_d + (1 - α) loss_d / π_d, which `alpha` chooses.
There the loss is that of the batch just trained on, one domain a batch; here a step draws from all domains and the feedback losses stand
for theirs.

loss-softmax (the rule of modelscope/ms-swift, pull request 9142): w = softmax(loss / T), T = 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datamix.history import Decision, Floats, History
from datamix.mixture import Weights, with_source_share
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

SCALE = 10.0


def exploration(domains: int, t: int) -> float:
    """ε_t, t from 1."""
    return min(1 / domains, float(np.sqrt(np.log(domains) / (domains * t))))


class Exp3:
    """The bandit: `probabilities` [D] now. alpha None sums rewards divided by 10 (the repository), a number is the paper's average."""

    def __init__(self, start: Weights, alpha: float | None = None) -> None:
        if alpha is not None and not 0 <= alpha < 1:
            raise BadInput(f"--alpha {alpha:g}: expected a share from 0 up to 1")
        self.alpha = alpha
        self.probabilities = np.asarray(start, dtype=np.float64) / np.sum(start)
        self.rewards = np.zeros(len(start))
        self.t, self.eps = 0, 1 / len(start)

    def update(self, losses: Floats, drawn: np.ndarray) -> Weights:
        """losses [D] of the arms, drawn [D] bool -> the next probabilities."""
        weighted = losses / np.maximum(self.probabilities, 1e-12)
        if self.alpha is None:
            self.rewards = np.where(drawn, self.rewards + weighted / SCALE, self.rewards)
        else:
            self.rewards = np.where(drawn, self.alpha * self.rewards + (1 - self.alpha) * weighted, self.rewards)
        self.t += 1
        before, self.eps = self.eps, exploration(len(losses), self.t)
        logs = before * self.rewards
        found = np.exp(logs - logs.max())
        self.probabilities = (1 - len(losses) * self.eps) * found / found.sum() + self.eps
        return self.probabilities


class OdmPolicy:
    """The bandit over a run: replayed from its history at each step, so that a resumed run goes on as it would have."""

    name = "odm"

    def __init__(self, start: Weights | None = None, alpha: float | None = None) -> None:
        self.start, self.alpha = start, alpha
        Exp3(np.ones(2), alpha)  # see now that alpha is one

    def decide(self, history: History) -> Decision:
        d = len(history.names)
        bandit = Exp3(np.full(d, 1 / d) if self.start is None else self.start, self.alpha)
        for used, losses in zip(history.weights, history.losses, strict=True):
            bandit.update(losses, used > 0)
        return Decision(_within(bandit.probabilities, history))


class LossSoftmaxPolicy:
    """softmax(loss / T) of the last losses, those of the base at first."""

    name = "loss-softmax"

    def __init__(self, temperature: float = 1.0) -> None:
        if not (np.isfinite(temperature) and temperature > 0):
            raise BadInput(f"--mixing-temperature {temperature:g}: expected a number above 0")
        self.temperature = temperature

    def decide(self, history: History) -> Decision:
        last = history.losses[-1] if len(history) else history.base
        found = np.exp((last - last.max()) / self.temperature)
        return Decision(_within(found / found.sum(), history))


def _within(weights: Weights, history: History) -> Weights:
    """No more source than an even use of what is left: without this a rule that knows no budget spends it all at once."""
    share = history.source_left / max(history.steps_left, 1)
    return with_source_share(weights, history.source, min(share, 1.0))


def from_proxies(bench: Bench, policy: OdmPolicy | LossSoftmaxPolicy) -> Found:
    """For the verb: what the rule does in one run of the proxy, as a schedule with its feedback. Raises BadInput where the run fails."""
    from datamix.baselines.results import Found

    bench.need(1, policy.name)
    run = bench.histories([policy], [bench.seed_of("run", 0)])[0]
    if run is None:
        raise BadInput(f"{policy.name}: a loss of the proxy is no number; lower its rate")
    more = {"objective": bench.objective.name, "value": float(bench.objective.value(run.losses[-1]))}
    return Found(
        policy.name,
        run.names,
        schedule=run.weights,
        feedback=run.losses,
        proxy_tokens=bench.used,
        more=more,
        live=policy,
    )
