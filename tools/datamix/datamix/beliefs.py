"""What an agent believes: Q of its critics over the simplex, and what the world of a model-based one expects of a step.

Where it sits: below explain.py, which shows it; above agent.py and world.py. Both are beliefs: critics and worlds were fitted to a swarm's
runs, and far from its mixtures they say what networks say. Shapes: K mixtures [K, D], D domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamix.agent import Agent
from datamix.history import Floats, History

if TYPE_CHECKING:
    from datamix.world import Simulator

Record = dict[str, Any]
Q_POINTS = 21  # of a share from 0 to 1
SHIFT = 0.1  # of a step's tokens, moved to one domain
UNITS = {"model": "points of the final score", "cql": "standard deviations of a task's returns in the swarm"}


def values(agent: Agent, history: History, mixtures: Floats) -> Floats:
    """What Agent.q says of each of mixtures [K, D] at a state, [K]."""
    with torch.no_grad():
        states = agent.states(history)
        actions = torch.from_numpy(mixtures.astype(np.float32)).view(1, 1, *mixtures.shape)
        said = torch.stack([one.value(one.encode(states, last=True), states, actions)[0, 0] for one in agent.critics])
    lowest: Floats = said.amin(0).double().numpy()
    return lowest


def q_of(agent: Agent, states: Sequence[History]) -> Record:
    """Q along lines of the simplex through what the agent decides, at each state: over the source's share, both roles divided as decided; and over each
    domain's share, the others in proportion. Three domains: over the whole simplex as well. `feasible`: within the source budget."""
    if not agent.critics:
        return {"available": False, "why": f"an agent of --algo {agent.card.algo} has no critics"}
    shares = np.linspace(0, 1, Q_POINTS)
    found = []
    for history in states:
        source, decided = history.source, agent.decide(history).weights
        most = min(1.0, history.source_left) if history.budget.source_share < 1 else 1.0

        def along(mixtures: Floats, history: History = history, most: float = most) -> Record:
            within = (mixtures[:, history.source].sum(1) <= most + 1e-9).tolist()
            return {"q": values(agent, history, mixtures).tolist(), "feasible": within}

        one: Record = {"step": len(history), "decided": dict(zip(history.names, decided.tolist(), strict=True)), "decided_q": float(values(agent, history, decided[None])[0]), "source_most": most}  # fmt: skip
        one["source_share"] = {
            "decided": float(decided[source].sum()),
            "shares": shares.tolist(),
            **along(lines(decided, source, shares)),
        }
        one["domains"] = {name: {"shares": shares.tolist(), **along(lines(decided, np.arange(len(source)) == d, shares))} for d, name in enumerate(history.names)}  # fmt: skip
        if len(source) == 3:
            grid = triangle(Q_POINTS - 1)
            one["simplex"] = {"weights": grid.tolist(), **along(grid)}
        found.append(one)
    return {
        "available": True,
        "unit": UNITS.get(agent.card.algo, "returns"),
        "critics": len(agent.critics),
        "states": found,
    }


def lines(weights: Floats, some: Any, shares: Floats) -> Floats:
    """Mixtures [K, D] in which `some` [D] bool have together shares [K], inside and outside as in weights [D] (evenly where there is nothing)."""
    parts = []
    for part in (some, ~some):
        held = np.where(part, weights, 0.0)
        parts.append(held / held.sum() if held.sum() > 1e-9 else part / part.sum())
    return shares[:, None] * parts[0] + (1 - shares[:, None]) * parts[1]


def triangle(n: int) -> Floats:
    """All mixtures of three domains in n-ths."""
    return np.array([[i, j, n - i - j] for i in range(n + 1) for j in range(n + 1 - i)], dtype=np.float64) / n


def world_of(folder: str, agent: Agent, states: Sequence[History]) -> Record | None:
    """What a model-based agent expects of one step at each state: the change of every domain's f̂ in points under what it decides, and how it differs
    when a tenth of the step is moved to one domain. Means of the ensemble and its standard deviation for the score. None for other agents."""
    from datamix.world import WORLD, Simulator

    if agent.card.algo != "model" or not (Path(folder) / WORLD).is_file():
        return None
    simulator = Simulator.load(folder)
    found = []
    for history in states:
        decided = agent.decide(history).weights
        moved = (1 - SHIFT) * decided[None] + SHIFT * np.eye(len(decided))
        change = effects(simulator, history, np.vstack([decided[None], moved]))
        scores = _scores(change, history.source)
        more = scores[:, 1:] - scores[:, :1]
        domains = {}
        for d, name in enumerate(history.names):
            each = (change[:, 1 + d] - change[:, 0]).mean(0)
            domains[name] = {"score": float(more[:, d].mean()), "sd": float(more[:, d].std()), "change": dict(zip(history.names, each.tolist(), strict=True))}  # fmt: skip
        decided_change = dict(zip(history.names, change[:, 0].mean(0).tolist(), strict=True))
        found.append(
            {
                "step": len(history),
                "decided": {"score": float(scores[:, 0].mean()), "change": decided_change},
                "domains": domains,
            }
        )
    return {"shift": SHIFT, "unit": "points of one step", "states": found}


def effects(simulator: Simulator, history: History, mixtures: Floats) -> Floats:
    """Change of f̂ in points, [members, K, D], by one step under mixtures [K, D]."""
    from datamix.world import standing

    with torch.no_grad():
        now = standing(history).take(torch.zeros(len(mixtures), dtype=torch.long))
        then = now.after(torch.from_numpy(mixtures).float(), torch.zeros_like(now.gain))
        said: Floats = (then.levels(simulator.world) - now.levels(simulator.world)).double().numpy()
    return said


def _scores(change: Floats, source: Any) -> Floats:
    found: Floats = (change[..., source].mean(-1) + change[..., ~source].mean(-1)) / 2
    return found
