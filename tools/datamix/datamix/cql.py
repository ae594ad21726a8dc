"""Conservative Q-learning on the simplex: the paper's training of the agent after its warm start.

Where it sits: after sft.py, whose agent it goes on from; it reads recorded runs and nothing else. Critics i learn

    ½ E (Q_i - (r + γ (1 - d) min_j Q̄_j(s', π(s'))))² + α · weight · E_s [log ∫ exp Q_i(s, a) da - Q_i(s, a_data)]

and the actor maximises min_i Q_i - τ log π + λ · (-copying loss). The integral runs over the agent's simplex (simplex.py) and is estimated
from four kinds of points: of the policy at s and at s', about the data's action, and uniform. Two forms:

    importance   log 1/K Σ exp(Q_k - log density_k): d3rlpy's, an estimate of the integral
    rho          log 1/K Σ exp Q_k: CQL(ρ) of the CQL paper, no weights, ρ being the mixture of the four kinds

Importance weights of a policy that is a little narrow in many dimensions rest on one or two points. How many they are worth (the effective
sample size, as a share of a kind's points) is measured before the first step and again every `check` steps; where it is below `ess_least`
the form becomes `rho` for the rest of training, and the report says at which step and why.

Reference numbers are those of d3rlpy's CQLConfig (`REFERENCE` has them all). Numbers of ours: a conservative weight of .1 in place of
its 5, and a temperature of .1 at the start, as returns have a standard deviation of 1 here and not of hundreds (with 5, on
known dynamics, critics put the data's actions some 20 standard deviations above all others, and the actor ended far below its warm start); copying weight; the critics' own warm start on observed returns, without which a target that moves .005 a step would need thousands of steps to carry
a last reward back to the first decision.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from datamix import sft, simplex
from datamix.agent import Agent, network
from datamix.history import Trajectory
from datamix.networks import parameters
from datamix.simplex import Limits, Outputs
from tenfold_shared import BadInput
from tenfold_shared.progress import Progress

FormOfIntegral = Literal["auto", "importance", "rho"]
KINDS = ("policy", "next", "data", "uniform")


@dataclass(frozen=True)
class Settings:
    """batch: transitions a step (whole runs, as many as have about so many steps); samples: points a kind; weight: d3rlpy's
    conservative_weight; alpha: its initial multiplier, above 0, learned where `lagrange`, so that the conservative term stays near
    `threshold`. Adam moves the logarithms of alpha and of the temperature by about their rate a step: with 300 steps at 1e-4 by 3 % in all,
    so that both stay about what they begin with, and what they begin with matters. They are learned in earnest only with far more steps
    (d3rlpy's are 100,000s) or a higher rate; the report says how far they went (`multipliers`).
    cloning: λ of the copying loss;
    noise: c / D of Dirichlet(1 + c·a) about the data's action; held_out: share of runs kept for the diagnostics; critic_sizes: of the
    critics' networks (a decoder's are 64 wide unless told)."""

    sft: sft.Settings = field(default_factory=sft.Settings)
    steps: int = 300
    batch: int = 256
    critics: int = 2
    actor_lr: float = 1e-4
    critic_lr: float = 3e-4
    gamma: float = 0.99
    polyak: float = 0.005
    samples: int = 10
    weight: float = 0.1
    alpha: float = 1.0
    alpha_lr: float = 1e-4
    lagrange: bool = True
    threshold: float = 10.0
    temperature: float = 0.1
    temperature_lr: float = 1e-4
    cloning: float = 0.5
    max_q_backup: bool = False
    integral: FormOfIntegral = "auto"
    ess_least: float = 0.2
    noise: float = 20.0
    warm_steps: int = 200
    warm_lr: float = 3e-3
    check: int = 50
    held_out: float = 0.2
    fitted_q_steps: int = 150
    critic_sizes: dict[str, Any] | None = None


# d3rlpy's CQLConfig, where it says anything, for comparison. Its weight is meant for returns in the hundreds (see above).
REFERENCE = Settings(weight=5.0, temperature=1.0, warm_steps=0)

# ---------------------------------------------------------------- the loss


def conservative(q: Tensor, log_density: Tensor | float, q_data: Tensor) -> Tensor:
    """log 1/K Σ_k exp(q_k - log density_k) - q_data, [..., K] and [...] -> [...]. With K points drawn from densities it estimates
    log ∫ exp Q da - Q(a_data); over all K actions of a finite set at density 1/K it is log Σ exp Q - Q(a_data) exactly; at density 1, the
    CQL(ρ) form."""
    return torch.logsumexp(q - log_density, dim=-1) - math.log(q.shape[-1]) - q_data


def discrete_loss(q: Tensor, behaviour: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """The critic's loss in a one-step task with finitely many actions: ½ E_β (Q - r)² + α (log Σ exp Q - E_β Q), all [..., n] -> scalar.
    Its only stationary point solves α (softmax(Q) - β) + β (Q - r) = 0, so that Σ β Q = Σ β r."""
    each = conservative(q, -math.log(q.shape[-1]), (behaviour * q).sum(-1))
    return (0.5 * (behaviour * (q - reward).square()).sum(-1) + alpha * each).mean()


def effective(log_weight: Tensor) -> Tensor:
    """Effective sample size of weights as a share of their number, [..., K] -> [...]: (Σ w)² / (K Σ w²), in [1/K, 1]."""
    return torch.exp(2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)) / log_weight.shape[-1]


@dataclass
class Proposals:
    """Points y [B, T, K, D] and their log-densities [B, T, K], K = kinds · samples, a kind after the other."""

    y: Tensor
    log_density: Tensor

    def kind(self, k: int) -> Tensor:
        return self.log_density.chunk(len(KINDS), -1)[k]


@torch.no_grad()
def proposals(every: Outputs, limits: Limits, actions: Tensor, settings: Settings) -> Proposals:
    """For all states but the last of each run; every [B, T + 1, ...] are the actor's outputs at all states, limits those of all, actions
    [B, T, D]."""
    n, own, density, floor = settings.samples, sft.before(limits), settings.sft.density, settings.sft.floor
    after = Limits(*(one[:, 1:] for one in limits))
    at = simplex.draw(Outputs(*(one[:, :-1] for one in every)), own, n, density, floor)
    next_ = simplex.draw(Outputs(*(one[:, 1:] for one in every)), after, n, density, floor)
    mask = simplex.over(own, n).mask
    data = simplex.unsqueeze(actions, own, floor)[..., None, :].expand(mask.shape)
    alphas = [simplex.dirichlet_at(data, settings.noise * mask.sum(-1), mask), torch.ones(mask.shape)]
    others = []
    for alpha in alphas:
        y = simplex.dirichlet_sample(alpha, mask)
        others.append((y, simplex.dirichlet_log_density(y, alpha, mask)))
    points, densities = zip(at, next_, *others, strict=True)
    return Proposals(torch.cat(points, -2), torch.cat(densities, -1))


# ---------------------------------------------------------------- training


class Learner:
    """The nets and optimisers of one training, and one step of it."""

    def __init__(self, agent: Agent, settings: Settings, arch: str, sizes: dict[str, Any]) -> None:
        self.settings, self.agent, self.actor = settings, agent, agent.actor
        self.critics: list[Any] = [network(arch, sizes) for _ in range(settings.critics)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.tensor(math.log(settings.alpha), requires_grad=True)
        self.log_temperature = torch.tensor(math.log(settings.temperature), requires_grad=True)
        self.of_critics = torch.optim.Adam([p for one in self.critics for p in one.parameters()], lr=settings.critic_lr)
        self.of_actor = torch.optim.Adam(self.actor.parameters(), lr=settings.actor_lr)
        self.of_alpha = torch.optim.Adam([self.log_alpha], lr=settings.alpha_lr)
        self.of_temperature = torch.optim.Adam([self.log_temperature], lr=settings.temperature_lr)
        self.form: FormOfIntegral = settings.integral
        self.ess: list[dict[str, float]] = []
        self.notes: list[str] = []

    def warm(self, runs: sft.Runs, rows_of: Any, progress: Progress | None) -> float:
        """Critics learn the returns that followed the data's actions; the last mean squared error."""
        optimiser = torch.optim.Adam([p for one in self.critics for p in one.parameters()], lr=self.settings.warm_lr)
        error = math.nan
        for _ in range(self.settings.warm_steps):
            some = runs.take(rows_of())
            togo = to_go(some.rewards, self.settings.gamma)
            losses = [
                sft.masked_mean((data_value(one, some) - togo).square(), some.valid.float()) for one in self.critics
            ]
            loss = torch.stack(losses).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            error = float(loss.detach())
            if progress is not None:
                progress.update()
        for target, one in zip(self.targets, self.critics, strict=True):
            target.load_state_dict(one.state_dict())
        return error

    def look(self, drawn: Proposals, valid: Tensor, step: int) -> None:
        """Measure effective sample sizes; change the form where importance weights say too little."""
        told = {"step": float(step)}
        for k, kind in enumerate(KINDS):
            told[kind] = float(sft.masked_mean(effective(-drawn.kind(k)), valid.float()))
        told["all"] = float(sft.masked_mean(effective(-drawn.log_density), valid.float()))
        self.ess.append(told)
        least = min(KINDS[:3], key=lambda kind: told[kind])
        if self.form in ("auto", "importance") and told[least] < self.settings.ess_least:
            what = f"step {step}: {told[least] * self.settings.samples:.1f} effective of {self.settings.samples} points of kind {least}"
            if self.form == "auto":
                self.form = "rho"
                self.notes.append(f"{what}: importance weights say too little, CQL(rho) form from here on")
            elif not self.notes:
                self.notes.append(
                    f"{what}: the conservative term's importance weights are not to be relied on (integral=importance was asked for)"
                )

    def multipliers(self) -> dict[str, dict[str, float]]:
        """Where alpha and the temperature began and where they are; `factor`, how far Adam's steps of the rate carry about, either way."""
        s = self.settings
        alpha_steps = s.steps if s.lagrange else 0
        return {
            "alpha": {"start": s.alpha, "end": float(self.log_alpha.detach().exp()), "factor": math.exp(alpha_steps * s.alpha_lr)},
            "temperature": {"start": s.temperature, "end": float(self.log_temperature.detach().exp()), "factor": math.exp(s.steps * s.temperature_lr)},
        }  # fmt: skip

    @torch.no_grad()
    def backup(self, every: Outputs, limits: Limits, some: sft.Runs) -> Tensor:
        """r + γ (1 - d) min_j Q̄_j(s', π(s')) [B, T]: at the policy's centre (deterministic), or the best of its points (max_q_backup)."""
        s = self.settings
        if s.max_q_backup:
            y, _ = simplex.draw(every, limits, s.samples, s.sft.density, s.sft.floor)
        else:
            y = simplex.point_of(every, limits, s.sft.floor)[..., None, :]
        a = simplex.squeeze(y, simplex.over(limits, y.shape[-2]))
        q = torch.stack([one.value(one.encode(some.states), some.states, a) for one in self.targets]).amin(0).amax(-1)
        return some.rewards + s.gamma * torch.where(some.done, 0, q[:, 1:])

    def step(self, some: sft.Runs, weight: Tensor, number: int) -> dict[str, float]:
        """One update of everything; weight [B] of the runs in the copying term."""
        s, states, valid = self.settings, some.states, some.valid.float()
        limits = states.limits(s.sft.form)
        own = sft.before(limits)
        every = self.actor.act(self.actor.encode(states), states)
        encoded = [one.encode(states)[:, :-1] for one in self.critics]
        drawn = proposals(every, limits, some.actions, s)
        if number % s.check == 0:
            self.look(drawn, some.valid, number)
        goal = self.backup(every, limits, some)

        # Actor: one point a state, through the critics as they are; what its loss leaves in their gradients is cleared below.
        now = Outputs(*(one[:, :-1] for one in every))
        y, log_pi = simplex.draw(now, own, 1, s.sft.density, s.sft.floor)
        a = simplex.squeeze(y, simplex.over(own, 1))
        q = torch.stack([c.value(h.detach(), states, a) for c, h in zip(self.critics, encoded, strict=True)]).amin(0)[
            ..., 0
        ]
        temperature = self.log_temperature.exp().detach()
        gain = sft.masked_mean(q - temperature * log_pi[..., 0], valid)
        copied = sft.masked_mean(sft.copying(now, own, some.actions, s.sft), valid * weight[:, None])
        self.of_actor.zero_grad()
        (s.cloning * copied - gain).backward()
        self.of_actor.step()

        # Temperature: towards an entropy of D - 1 · (1 + ln 2) below that of the uniform density, as -dim is on tanh's box.
        d = own.mask.sum(-1).float()
        goal_entropy = -simplex.uniform_log_density(own.mask) - (d - 1) * (1 + math.log(2))
        self.of_temperature.zero_grad()
        (-self.log_temperature.exp() * sft.masked_mean(log_pi[..., 0].detach() + goal_entropy, valid)).backward()
        self.of_temperature.step()

        # Critics.
        a = simplex.squeeze(drawn.y, simplex.over(own, drawn.y.shape[-2]))
        a = torch.cat([a, some.actions[..., None, :]], dim=-2)  # the data's action last
        density = drawn.log_density if self.form != "rho" else torch.zeros_like(drawn.log_density)
        bellman, gap = [], []
        for one, h in zip(self.critics, encoded, strict=True):
            q = one.value(h, states, a)
            bellman.append(0.5 * sft.masked_mean((q[..., -1] - goal).square(), valid))
            gap.append(sft.masked_mean(conservative(q[..., :-1], density, q[..., -1]), valid))
        alpha = self.log_alpha.exp().clamp(max=1e6)
        if s.lagrange:
            self.of_alpha.zero_grad()
            (-alpha * s.weight * (torch.stack(gap).mean().detach() - s.threshold)).backward()
            self.of_alpha.step()
        self.of_critics.zero_grad()
        loss = torch.stack(bellman).sum() + alpha.detach() * s.weight * torch.stack(gap).sum()
        loss.backward()
        self.of_critics.step()
        with torch.no_grad():
            for target, one in zip(self.targets, self.critics, strict=True):
                for old, new in zip(target.parameters(), one.parameters(), strict=True):
                    old.lerp_(new, s.polyak)
        return {
            "bellman": float(torch.stack(bellman).mean().detach()), "conservative": float(torch.stack(gap).mean().detach()),
            "q": float(gain.detach()), "copying": float(copied.detach()), "alpha": float(alpha.detach()), "temperature": float(temperature),
        }  # fmt: skip


def to_go(rewards: Tensor, gamma: float) -> Tensor:
    """Discounted sum of this and later rewards, [B, T]."""
    found, later = [], torch.zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        later = rewards[:, t] + gamma * later
        found.append(later)
    return torch.stack(found[::-1], dim=1)


def data_value(critic: Any, some: sft.Runs) -> Tensor:
    """Q of the mixtures that were used, [B, T]."""
    found: Tensor = critic.value(critic.encode(some.states)[:, :-1], some.states, some.actions[..., None, :])[..., 0]
    return found


def hold_out(trajectories: Sequence[Trajectory], share: float, seed: int) -> tuple[list[Trajectory], list[Trajectory]]:
    """Runs to train on and runs to diagnose with, the latter spread over the tasks; a task keeps two or more to train on. Fewer than two say
    nothing of an agent (diagnose.report): then none is held out, and all are trained on."""
    order = torch.randperm(len(trajectories), generator=torch.Generator().manual_seed(seed)).tolist()
    wanted = round(share * len(trajectories))
    left: dict[str, int] = {}
    for one in trajectories:
        left[one.task] = left.get(one.task, 0) + 1
    held: list[int] = []
    tasks = sorted(left)
    while len(held) < wanted:
        before = len(held)
        for task in tasks:
            free = [i for i in order if trajectories[i].task == task and i not in held]
            if left[task] > 2 and free and len(held) < wanted:
                held.append(free[0])
                left[task] -= 1
        if len(held) == before:
            break
    if len(held) < 2:
        held = []
    return [one for i, one in enumerate(trajectories) if i not in held], [trajectories[i] for i in sorted(held)]


def train(
    trajectories: Sequence[Trajectory],
    arch: str = "set",
    settings: Settings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Agent:
    """An agent with critics, deterministic in its arguments (on one thread). `progress` counts the steps of the warm starts as well (total:
    sft.steps + warm_steps + steps). Raises BadInput as sft.train does."""
    from datamix import diagnose

    settings = settings or Settings()
    if settings.critics < 1 or settings.samples < 2:
        raise BadInput(f"critics {settings.critics}, samples {settings.samples}: expected at least 1 and 2")
    for name in ("alpha", "temperature"):  # their logarithms are what is learned
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise BadInput(f"--{name} {value:g}: expected a number above 0")
    began = time.perf_counter()
    kept, held = hold_out(sft.usable(trajectories), settings.held_out, seed)
    agent = sft.train(kept, arch, settings.sft, seed, progress)
    warm = dict(agent.report)
    of_task = sft.scales(kept)
    splits = settings.sft.splits if arch != "decoder" else 0
    runs = sft.runs_of(kept, of_task, feedback=settings.sft.feedback, splits=splits, seed=seed)
    weight = sft.copied(runs.returns[:: 1 + splits], settings.sft).repeat_interleave(1 + splits)
    sizes = dict(agent.card.sizes) | (settings.critic_sizes or ({"width": 64} if arch == "decoder" else {}))
    per_run = max(float(runs.valid.float().sum(1).mean()), 1.0)
    size = max(2, min(len(runs.returns), round(settings.batch / per_run)))

    def rows() -> Tensor:
        return torch.randperm(len(runs.returns))[:size]

    told: list[dict[str, float]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        learner = Learner(agent, settings, arch, sizes)
        warm_error = learner.warm(runs, rows, progress)
        for number in range(settings.steps):
            some = rows()
            told.append(learner.step(runs.take(some), weight[some], number))
            if progress is not None:
                progress.update()
        card = agent.card
        card.algo, card.critic_arch, card.critic_sizes = "cql", arch, sizes
        card.report = {
            "algo": "cql",
            "settings": asdict(settings),
            "seed": seed,
            "parameters": parameters(agent.actor),
            "critic_parameters": parameters(learner.critics[0]),
            "trajectories": {"given": len(trajectories), "used": len(kept), "held_out": len(held)},
            "warm_start": warm | {"critic_error": warm_error},
            "integral": learner.form if learner.form != "auto" else "importance",
            "notes": learner.notes,
            "multipliers": learner.multipliers(),
            "effective_sample_size": learner.ess,
            "last": {k: sum(one[k] for one in told[-20:]) / len(told[-20:]) for k in told[-1]} if told else {},
        }
        found = Agent(card, agent.actor, learner.critics)
        found.card.report["diagnosis"] = diagnose.report(found, kept, held, of_task, settings, seed)
    found.card.report["seconds"] = time.perf_counter() - began
    return found
