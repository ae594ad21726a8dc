"""What can be said of an agent from recorded runs alone, without running it: does its Q rank held-out runs, what is its policy
worth by fitted-Q evaluation, do its critics agree, is it fast enough. Goes into the training report; none of it is proof, and the intervals
are wide because runs are few.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamix import correlation, cql, sft, simplex
from datamix.agent import Agent, network
from datamix.history import Budget, Floats, History, Trajectory


def fitted_q(agent: Agent, runs: sft.Runs, gamma: float, steps: int = 150, seed: int = 0) -> float:
    """Fitted-Q evaluation (Le, Voloshin and Yue 2019): the value at the start, mean over runs and in a task's standard deviations, of
    following the agent, by a fresh critic that learns Q(s, a) = r + γ Q(s', π(s')) from the runs' transitions. Its first half learns returns
    to go, from which it starts. Where the agent leaves the data this extrapolates: read it beside the mean return of the data (0)."""
    card = agent.card
    arch, sizes = card.critic_arch or card.arch, card.sizes if card.critic_sizes is None else card.critic_sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic: Any = network(arch, sizes)
        states, valid = runs.states, runs.valid.float()
        limits = states.limits(card.form)
        with torch.no_grad():
            mixtures = simplex.mixture_of(agent.actor.act(agent.actor.encode(states), states), limits, card.floor)[
                ..., None, :
            ]
        optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
        goal, target = cql.to_go(runs.rewards, gamma), copy.deepcopy(critic)
        for step in range(2 * steps):
            if step >= steps:
                if step == steps:
                    target.load_state_dict(critic.state_dict())
                with torch.no_grad():
                    after = target.value(target.encode(states), states, mixtures)[:, 1:, 0]
                    goal = runs.rewards + gamma * torch.where(runs.done, 0, after)
            loss = sft.masked_mean((cql.data_value(critic, runs) - goal).square(), valid)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step >= steps:
                with torch.no_grad():
                    for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                        old.lerp_(new, 0.05)
        with torch.no_grad():
            return float(critic.value(critic.encode(states), states, mixtures)[:, 0, 0].mean())


@torch.no_grad()
def disagreement(agent: Agent, runs: sft.Runs) -> dict[str, float]:
    """Mean standard deviation between critics, at the data's mixtures and at the agent's, in a task's standard deviations of return."""
    states, limits = runs.states, runs.states.limits(agent.card.form)
    own = simplex.mixture_of(agent.actor.act(agent.actor.encode(states), states), limits, agent.card.floor)[:, :-1]
    both = torch.stack([runs.actions, own], dim=-2)
    found = torch.stack([one.value(one.encode(states)[:, :-1], states, both) for one in agent.critics])
    apart = found.std(0, correction=0)
    return {
        name: float(sft.masked_mean(apart[..., k], runs.valid.float()))
        for k, name in enumerate(("at_data", "at_policy"))
    }


@torch.no_grad()
def first_values(agent: Agent, runs: sft.Runs) -> tuple[Floats, Floats]:
    """The lowest critic's Q(s_0, a_0) of runs, and the returns they had, [N] each."""
    q = torch.stack([cql.data_value(one, runs) for one in agent.critics]).amin(0)[:, 0]
    return q.double().numpy(), runs.returns.double().numpy()


def report(
    agent: Agent,
    kept: Sequence[Trajectory],
    held: Sequence[Trajectory],
    of_task: sft.Scales,
    settings: cql.Settings,
    seed: int,
) -> dict[str, Any]:
    """For the training report: on held-out runs where there are two or more of tasks that were trained on, else on the training runs
    (`runs` says which)."""
    some = [one for one in held if one.task in of_task]
    which, chosen = ("held-out", some) if len(some) >= 2 else ("training", list(kept))
    runs = sft.runs_of(chosen, of_task, feedback=agent.card.feedback)
    q, returns = first_values(agent, runs)
    return {
        "runs": which,
        "n": len(chosen),
        "rank_correlation": correlation.interval(q, returns, seed=seed),
        "fitted_q": fitted_q(agent, runs, settings.gamma, settings.fitted_q_steps, seed),
        "data_return": float(returns.mean()),
        "disagreement": disagreement(agent, runs),
    }


def decision_ms(agent: Agent, steps: int = 80, domains: int | None = None, seed: int = 0) -> dict[str, float]:
    """Milliseconds of processor time of one decision at the last step of a run of `steps` steps over `domains` domains (52 unless the agent is for others):
    `warm`, asked before every step as in a run; `cold`, asked for the first time there. Median of five and three."""
    names = agent.card.domains or [f"d{i}" for i in range(domains or 52)]
    roles = agent.card.roles or ["source" if i % 2 == 0 else "target" for i in range(len(names))]
    rng, d = np.random.default_rng(seed), len(names)
    history = History(
        names, np.array([one == "source" for one in roles]), np.full(d, 1e7), np.full(d, 3.0), Budget(10**5, steps, 0.2)
    )
    took = []
    for t in range(steps):
        began = time.process_time()
        agent.decide(history)
        took.append(time.process_time() - began)
        if t < steps - 1:
            history.add(rng.dirichlet(np.ones(d)), 3 + 0.1 * rng.normal(size=d))
    cold = []
    for _ in range(3):
        fresh = Agent(agent.card, agent.actor, agent.critics)
        began = time.process_time()
        fresh.decide(history)
        cold.append(time.process_time() - began)
    return {"warm": float(np.median(took[-5:]) * 1e3), "cold": float(np.median(cold) * 1e3)}
