"""Known dynamics to test agents on: L' = L - A·w^p + ρ (L∞ - L), with the schedule that is best for them.

Losses of every domain fall by A·w^p a step and drift back towards L∞ at their own rate ρ: what was learned last counts most in a domain
that forgets fast. p = 1 is the linear law; p < 1 has diminishing returns. At most a share of all tokens may be source text. The final score
is a concave function of the schedule w [T, D], over a polytope: a linear programme at p = 1 (scipy's HiGHS), else a smooth concave one
(SLSQP from several starts), and so is the best mixture that never changes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, minimize

from datamix.history import Budget, History, Step, Trajectory, rewards, score
from datamix.mixture import with_source_share


@dataclass(frozen=True)
class Dynamics:
    """effect A [D, D]: of a share of domain j on the loss of i; rate ρ [D]; limit L∞, base L(0) [D]; power p."""

    source: np.ndarray
    effect: np.ndarray
    rate: np.ndarray
    limit: np.ndarray
    base: np.ndarray
    budget: Budget
    power: float = 1.0

    @property
    def names(self):
        return [f"d{i}" for i in range(len(self.source))]

    def start(self):
        return History(self.names, self.source, np.full(len(self.source), 1e9), self.base, self.budget)

    def step(self, losses, weights):
        return losses - self.effect @ weights**self.power + self.rate * (self.limit - losses)

    def run(self, policy):
        """A whole run of a policy; what is left of the source budget bounds every step, as in a real one."""
        history = self.start()
        for _ in range(self.budget.steps):
            weights = with_source_share(policy.decide(history).weights, self.source, min(1.0, history.source_left))
            losses = history.losses[-1] if len(history) else self.base
            history.add(weights, self.step(losses, weights))
        return history

    def score(self, schedule):
        """Final score of a schedule [T, D]."""
        losses = self.base
        for weights in schedule:
            losses = self.step(losses, weights)
        return float(score((self.base - losses) / self.base, self.source))

    def value(self):
        """c [T, D] with score = Σ c·w^p + constant, and the constant: every step's effect fades by (1 - ρ) a step."""
        per_loss = np.where(self.source, 0.5 / self.source.sum(), 0.5 / (~self.source).sum()) / self.base
        steps = self.budget.steps
        fade = (1 - self.rate)[None] ** np.arange(steps - 1, -1, -1)[:, None]
        return (fade * per_loss) @ self.effect, self.score(np.zeros((steps, len(self.source))))

    def best(self, static=False):
        """The best schedule [T, D] and its score; static: among schedules that never change."""
        c, constant = self.value()
        steps, d = c.shape
        if static:
            c = c.sum(0, keepdims=True)
        rows = len(c)
        each = np.kron(np.eye(rows), np.ones(d))  # a row's weights sum to 1
        used = np.tile(self.source.astype(float), rows)[None]
        most = self.budget.source_share * rows
        if self.power == 1:
            found = linprog(-c.ravel(), A_ub=used, b_ub=[most], A_eq=each, b_eq=np.ones(rows), bounds=(0, 1))
            w = found.x
        else:
            rng, w, value = np.random.default_rng(0), None, -np.inf
            for _ in range(4):
                guess = rng.dirichlet(np.ones(d), rows)
                guess = np.array([with_source_share(one, self.source, self.budget.source_share) for one in guess])
                found = minimize(
                    lambda x: -(c.ravel() @ np.maximum(x, 1e-9) ** self.power), guess.ravel(), method="SLSQP", bounds=[(1e-9, 1)] * c.size,
                    jac=lambda x: -c.ravel() * self.power * np.maximum(x, 1e-9) ** (self.power - 1),
                    constraints=[{"type": "eq", "fun": lambda x: each @ x - 1, "jac": lambda x: each},
                                 {"type": "ineq", "fun": lambda x: most - used[0] @ x, "jac": lambda x: -used[0]}],
                    options={"maxiter": 500, "ftol": 1e-12},
                )  # fmt: skip
                if -found.fun > value:
                    w, value = found.x, -found.fun
        w = np.clip(w.reshape(rows, d), 0, None)
        w = w / w.sum(1, keepdims=True)
        schedule = np.repeat(w, steps, 0) if static else w
        return schedule, constant + float((self.value()[0] * schedule**self.power).sum())


def forgetting(steps=10, power=0.7, share=0.2, domains=(2, 2), seed=0):
    """Sources that forget fast and targets that keep what they learn, under a source budget: late replay is best, by far."""
    rng = np.random.default_rng(seed)
    n_source, n_target = domains
    source = np.arange(n_source + n_target) < n_source
    d = len(source)
    effect = np.diag(np.where(source, 0.30, 0.12) * rng.uniform(0.8, 1.2, d)) + 0.01 * rng.uniform(0, 1, (d, d))
    rate = np.where(source, 0.25, 0.02)
    base = rng.uniform(2.5, 3.5, d)
    return Dynamics(source, effect, rate, base + np.where(source, 0.5, 0.0), base, Budget(1000, steps, share), power)


class Fixed:
    """A policy that plays a schedule."""

    name = "fixed"

    def __init__(self, schedule):
        self.schedule = schedule

    def decide(self, history):
        from datamix.history import Decision

        return Decision(np.asarray(self.schedule[len(history)]))


def trajectory(history, number, sampler="test", task="task"):
    """A finished run as a swarm would have written it."""
    names = history.names
    steps = [
        Step(t, (t + 1) * history.budget.tokens, dict(zip(names, map(float, w), strict=True)), dict(zip(names, map(float, f), strict=True)))
        for t, (w, f) in enumerate(zip(history.weights, history.losses, strict=True))
    ]  # fmt: skip
    return Trajectory(
        f"run-{number:03d}", task, sampler, number,
        {n: "source" if s else "target" for n, s in zip(names, history.source, strict=True)},
        {n: int(a) for n, a in zip(names, history.available, strict=True)},
        dict(zip(names, map(float, history.base), strict=True)), history.budget, steps,
    )  # fmt: skip


def swarm(dynamics, n=32, seed=0, task="task"):
    """n runs of samplers as a swarm has them: still mixtures, walks, and source shares that rise or fall to a level at some time."""
    rng = np.random.default_rng(seed)
    steps, d, source = dynamics.budget.steps, len(dynamics.source), dynamics.source
    found = []
    for number in range(n):
        kind = ("dirichlet", "walk", "ramp", "ramp")[number % 4]
        w = rng.dirichlet(np.ones(d))
        schedule = np.tile(w, (steps, 1))
        if kind == "walk":
            for t in range(1, steps):
                raised = schedule[t - 1] * np.exp(0.7 * rng.normal(size=d))
                schedule[t] = raised / raised.sum()
        elif kind == "ramp":
            split_s, split_t = rng.dirichlet(np.ones(source.sum())), rng.dirichlet(np.ones((~source).sum()))
            low, high = rng.uniform(0, 0.15), rng.uniform(0.2, 0.9)
            first, last = (low, high) if rng.random() < 0.6 else (high, low)
            at = rng.uniform(0, 1) * steps
            for t in range(steps):
                s = first if t < at else last
                schedule[t, source], schedule[t, ~source] = s * split_s, (1 - s) * split_t
        found.append(trajectory(dynamics.run(Fixed(schedule)), number, kind, task))
    return found


def final(history):
    return float(rewards(history).sum())
