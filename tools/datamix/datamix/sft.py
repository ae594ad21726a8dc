"""The warm start: an agent that copies what the better runs of a swarm did, and a swarm's runs as tensors.

Where it sits: after a swarm, before cql.py. Runs of the best share of returns count, weighted by exp(advantage / β). Returns are normalised
within a task (its mean taken off, divided by its standard deviation), as tasks differ more than schedules do. What is copied is the
mixture that was used, by KL(a ‖ π) or by the likelihood of the actor's distribution.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamix import simplex
from datamix.agent import Agent, Card, network
from datamix.history import History, Trajectory, rewards
from datamix.networks import States, parameters, states_of
from datamix.simplex import Density, Form, Limits, Outputs
from tenfold_shared import BadInput
from tenfold_shared.progress import Progress

Loss = Literal["kl", "nll"]
Scales = dict[str, tuple[float, float]]  # task -> mean and standard deviation of its returns


@dataclass(frozen=True)
class Settings:
    """top: share of runs, by normalised return, that are copied; beta: of exp(advantage / β), in standard deviations; splits: copies of
    every run in which one domain is cut in two (`set`), so that shares do not depend on how text is divided; sizes: of the network.
    batch: runs a step; weight_decay and lr: AdamW's."""

    top: float = 0.5
    beta: float = 1.0
    loss: Loss = "kl"
    steps: int = 300
    batch: int = 16
    lr: float = 3e-3
    weight_decay: float = 0.01
    splits: int = 1
    form: Form = "lean"
    density: Density = "dirichlet"
    floor: float = simplex.FLOOR
    feedback: bool = True
    sizes: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- runs as tensors


@dataclass
class Runs:
    """N runs, S = longest + 1 states. actions [N, S - 1, D]; rewards [N, S - 1] and returns [N] normalised within tasks; valid and done
    [N, S - 1]: a step was taken, and was the last."""

    states: States
    actions: Tensor
    rewards: Tensor
    returns: Tensor
    valid: Tensor
    done: Tensor

    def take(self, rows: Tensor) -> Runs:
        return Runs(
            self.states.take(rows), self.actions[rows], self.rewards[rows], self.returns[rows], self.valid[rows], self.done[rows]
        )  # fmt: skip


def usable(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Runs to learn from: not failed, with steps. Raises BadInput where fewer than two are left."""
    found = [one for one in trajectories if one.status == "done" and one.steps]
    if len(found) < 2:
        raise BadInput(
            f"trajectories: {len(found)} of {len(trajectories)} finished; expected two or more to learn from"
        )
    return found


def scales(trajectories: Sequence[Trajectory]) -> Scales:
    """Mean and sd of every task's returns. Where a task has one run, or all alike, the sd is that within all tasks (1 where that is 0)."""
    returns: dict[str, list[float]] = {}
    for one in trajectories:
        returns.setdefault(one.task, []).append(float(rewards(one.history()).sum()))
    within = np.concatenate([np.array(each) - np.mean(each) for each in returns.values()])
    pooled = float(np.sqrt(np.square(within).sum() / max(len(within) - len(returns), 1))) or 1.0
    found = {}
    for task, each in returns.items():
        sd = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
        found[task] = (float(np.mean(each)), sd if sd > 1e-3 * pooled else pooled)
    return found


def halved(history: History, d: int, share: float) -> History:
    """The same run with domain d cut in two, of which the first has `share` of its text and of its weight; losses stay."""

    def cut(x: np.ndarray, first: float, second: float) -> np.ndarray:
        return np.concatenate(
            [x[..., :d], x[..., d : d + 1] * first, x[..., d : d + 1] * second, x[..., d + 1 :]], axis=-1
        )

    names = [*history.names[: d + 1], history.names[d] + " (2)", *history.names[d + 1 :]]
    source = np.insert(history.source, d, history.source[d])
    found = History(names, source, cut(history.available, share, 1 - share), cut(history.base, 1, 1), history.budget)
    for weights, losses in zip(history.weights, history.losses, strict=True):
        found.add(cut(weights, share, 1 - share), cut(losses, 1, 1))
    return found


def runs_of(
    trajectories: Sequence[Trajectory], of_task: Scales, *, feedback: bool = True, splits: int = 0, seed: int = 0
) -> Runs:
    """Runs as tensors, each followed by `splits` copies with a domain cut in two at a random place; a copy keeps the rewards of its run.
    Rewards are divided by the task's sd after its mean return, spread over the steps, is taken off."""
    rng = np.random.default_rng(seed)
    histories, gained = [], []
    for one in trajectories:
        history = one.history()
        mean, sd = of_task[one.task]
        reward = (rewards(history) - mean / len(history)) / sd
        copies = [
            halved(history, int(rng.integers(len(history.names))), float(rng.uniform(0.3, 0.7))) for _ in range(splits)
        ]
        histories += [history, *copies]
        gained += [reward] * (1 + splits)
    states = states_of(histories, feedback)
    n, s, d = states.x.shape[:3]
    actions, reward = np.zeros((n, s - 1, d), np.float32), np.zeros((n, s - 1), np.float32)
    done = np.zeros((n, s - 1), bool)
    for i, (history, each) in enumerate(zip(histories, gained, strict=True)):
        actions[i, : len(history), : len(history.names)] = history.weights
        reward[i, : len(history)] = each
        done[i, len(history) - 1] = True
    taken, gain = torch.from_numpy(actions), torch.from_numpy(reward)
    return Runs(states, taken, gain, gain.sum(1), states.valid[:, 1:], torch.from_numpy(done))


# ---------------------------------------------------------------- the loss


def copying(outputs: Outputs, limits: Limits, actions: Tensor, settings: Settings) -> Tensor:
    """[...]: how far the actor is from mixtures that were used. `kl`: KL(a ‖ centre), and the spread by likelihood with the centre held;
    `nll`: the likelihood of both. Likelihoods leave out states where no source is left, in which nothing tells the gate."""
    y = simplex.unsqueeze(actions, limits, settings.floor)
    told = torch.where(limits.cap > 1e-6, 1.0, 0.0) / limits.mask.sum(-1)
    if settings.loss == "nll":
        return -told * simplex.log_density(y, outputs, limits, settings.density, settings.floor)
    centre = simplex.mixture_of(outputs, limits, settings.floor)
    each = torch.xlogy(actions, actions.clamp(min=1e-9)) - actions * torch.log(centre.clamp(min=1e-6))
    held = Outputs(outputs.logits.detach(), outputs.gate.detach(), outputs.spread)
    spread = -told * simplex.log_density(y, held, limits, settings.density, settings.floor)
    return torch.where(limits.mask, each, 0).sum(-1) + 0.1 * spread


def before(limits: Limits) -> Limits:
    """Of every state but the last, after which nothing is decided."""
    return Limits(*(one[:, :-1] for one in limits))


def act(actor: Any, encoded: Tensor, states: States) -> Outputs:
    """An actor's outputs at every state but the last."""
    return Outputs(*(one[:, :-1] for one in actor.act(encoded, states)))


def masked_mean(x: Tensor, weight: Tensor) -> Tensor:
    return (x * weight).sum() / weight.sum().clamp(min=1e-9)


def copied(returns: Tensor, settings: Settings) -> Tensor:
    """Weights of runs [N], mean 1 over those copied and 0 for the others."""
    least = torch.quantile(returns, 1 - settings.top) if settings.top < 1 else returns.min()
    weight = torch.exp((returns - returns.max()) / settings.beta) * (returns >= least)
    return weight * (weight > 0).sum() / weight.sum()


# ---------------------------------------------------------------- training


def card_of(trajectories: Sequence[Trajectory], arch: str, algo: str, settings: Settings) -> Card:
    """Raises BadInput where a decoder is to learn from runs over different domains."""
    sizes = dict(settings.sizes)
    card = Card(
        arch,
        algo,
        sizes,
        form=settings.form,
        density=settings.density,
        floor=settings.floor,
        feedback=settings.feedback,
    )
    if arch == "decoder":
        names, roles = list(trajectories[0].roles), dict(trajectories[0].roles)
        for one in trajectories:
            if list(one.roles) != names or one.roles != roles:
                raise BadInput(
                    f"{one.id}: its domains are not those of {trajectories[0].id}; --arch decoder learns from runs over the same domains "
                    "in the same order and roles; use --arch set"
                )
        sizes["domains"] = len(names)
        card.domains = names
        card.roles = ["source" if roles[name] == "source" else "target" for name in names]
    return card


def train(
    trajectories: Sequence[Trajectory],
    arch: str = "set",
    settings: Settings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Agent:
    """An agent without critics, deterministic in its arguments (on one thread). Raises BadInput for too few runs, or a decoder's over
    different domains."""
    settings = settings or Settings()
    began = time.perf_counter()
    kept = usable(trajectories)
    card = card_of(kept, arch, "sft", settings)
    splits = settings.splits if arch != "decoder" else 0
    runs = runs_of(kept, scales(kept), feedback=settings.feedback, splits=splits, seed=seed)
    weight = copied(runs.returns[:: 1 + splits], settings).repeat_interleave(1 + splits)
    runs, weight = runs.take(torch.nonzero(weight)[:, 0]), weight[weight > 0]
    limits = before(runs.states.limits(settings.form))
    over = masked_mean(((runs.actions * limits.source).sum(-1) > limits.cap + 1e-3).float(), runs.valid)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = network(arch, card.sizes)
        agent = Agent(card, actor, [])
        actor.train()
        optimiser = torch.optim.AdamW(actor.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
        for _ in range(settings.steps):
            rows = torch.randperm(len(weight))[: settings.batch]
            some = runs.take(rows)
            outputs = act(actor, agent.actor.encode(some.states), some.states)
            each = copying(outputs, before(some.states.limits(settings.form)), some.actions, settings)
            loss = masked_mean(each, some.valid * weight[rows][:, None])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress.update()
        actor.eval()
    card.report.update(
        algo="sft",
        settings=asdict(settings),
        seed=seed,
        parameters=parameters(actor),
        trajectories={"given": len(trajectories), "used": len(kept), "copied": int(len(weight) / (1 + splits))},
        effective_runs=float(weight.sum().square() / weight.square().sum() / (1 + splits)),
        outside_form=float(over),  # share of copied steps whose source share this action form cannot express
        loss={"first": losses[0], "last": float(np.mean(losses[-20:]))},
        seconds=time.perf_counter() - began,
    )
    return agent
