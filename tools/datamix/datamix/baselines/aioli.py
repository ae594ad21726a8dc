"""Aioli: learn during the run what a step on each domain does to each loss, and follow it (Chen et al., arXiv 2411.05735;
HazyResearch/aioli, trainer/aioli_trainer.py, Apache-2.0).

The law: L_i(t+1) = L_i(t) - Σ_j A_ij w_j. Each round LearnParams measures A: `sweeps` times, the domains in random order, train `steps`
updates on a smoothed one-hot p_d (`factor` on d, the rest even) and add the drop of every loss to column d; divide by sweeps; solve
P A_i = row_i for each row, P the matrix of the p_d. Then A is normalised (A -= min where that is below 0; A /= ΣA) and
w <- w · exp(η · Σ_i A_id), normalised, from an even start; or from even each round with a moving average of A (`ema`).
4-6 rounds, 4 steps, factor 0.625, η in {0.1, 0.2, 0.5}; 0.2 here.

Ours: rows of A are weighted by what a unit of their loss counts in the objective (summing to D: all 1, those of `--objective mean`, is the
paper's); the learning steps of each sweep begin from the round's model and are then forgotten, so that a short run is not made of them, and
the sweeps are as many as the tokens allow where no number is told; a round's mixture is projected on the source budget. The answer is the
rounds' mixtures as a schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamix.baselines.objective import multiplied
from datamix.history import Floats
from datamix.mixture import Weights, with_source_share
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

ETA, FACTOR, STEPS, ROUNDS = 0.2, 0.625, 4, 4
Train = Callable[[Weights, int], Floats]  # (weights [D], updates) -> losses [M] after them, going on from where it was


def smoothed(k: int, factor: float) -> Floats:
    """P [k, k]: row d is the mixture that stands for domain d. Raises BadInput for a factor outside (1/k, 1]."""
    if not 1 / k < factor <= 1:
        raise BadInput(f"--factor {factor:g}: expected more than an even share, {1 / k:.3g}, and at most 1")
    found = np.full((k, k), (1 - factor) / max(k - 1, 1))
    np.fill_diagonal(found, factor)
    return found


def learn(
    train: Train, before: Floats, k: int, rng: np.random.Generator, *, sweeps: int, steps: int = STEPS, factor: float = FACTOR
) -> Floats:  # fmt: skip
    """LearnParams. before [M]: losses where `train` begins. A [M, k], the drop of loss i by `steps` updates on domain j alone."""
    p = smoothed(k, factor)
    drops = np.zeros((len(before), k))
    for d in np.concatenate([rng.permutation(k) for _ in range(sweeps)]):
        after = train(p[d], steps)
        drops[:, d] += before - after
        before = after
    return np.asarray(np.linalg.solve(p, (drops / sweeps).T).T, dtype=np.float64)


def normalised(a: Floats) -> Floats:
    """Entries of 0 or more that sum to 1."""
    found = a - min(float(a.min()), 0.0)
    total = float(found.sum())
    return found / total if total > 0 else np.full(a.shape, 1 / a.size)


def update(w: Weights, a: Floats, eta: float = ETA, wanted: Floats | None = None) -> Weights:
    """w [k], a [M, k] normalised, wanted [M] (None: all 1)."""
    return multiplied(w, eta * (a.sum(axis=0) if wanted is None else wanted @ a))


def rounds_of(updates: int, rounds: int) -> NDArray[np.int64]:
    """Updates of each round, as even as they can be."""
    return np.diff(np.linspace(0, updates, rounds + 1).round().astype(np.int64))


def from_proxies(
    bench: Bench, eta: float = ETA, rounds: int = ROUNDS, steps: int = STEPS, factor: float = FACTOR, ema: float | None = None,
    sweeps: int | None = None,
) -> Found:  # fmt: skip
    """One run of the budget's length in `rounds` rounds, and before each `sweeps` sweeps of LearnParams (None: as many as the tokens allow).
    Raises BadInput where the tokens do not allow so many, or one."""
    from datamix.baselines.results import Found

    if not (eta > 0 and min(rounds, steps, 1 if sweeps is None else sweeps) >= 1 and (ema is None or 0 <= ema < 1)):
        raise BadInput(
            "aioli: expected --eta above 0, --aioli-rounds, --lp-rounds and --lp-steps of 1 or more, and --ema from 0 up to 1"
        )
    k, batch = len(bench.corpus.names), bench.config.batch
    rounds = min(rounds, bench.budget.steps)
    sweep = k * steps * batch * bench.config.context
    left = bench.proxy_tokens - bench.used - bench.run_tokens
    allowed, least = max(left, 0) // (rounds * sweep), sweeps or 1
    if allowed < least:
        raise BadInput(
            f"--proxy-tokens {bench.proxy_tokens}: aioli needs {bench.run_tokens + rounds * least * sweep}: a run, and in each of its "
            f"{rounds} rounds (--aioli-rounds) {least} sweeps (--lp-rounds) of {sweep} tokens"
        )
    sweeps = sweeps or allowed
    proxy, source = bench.fresh(), bench.corpus.source
    proxy.total = bench.updates
    mixer, learner = bench.mixer("run", 0), bench.mixer("learn")
    rng = np.random.default_rng(bench.seed_of("order"))
    w, average = np.full(k, 1 / k), np.empty(0)
    path, losses = [], bench.base
    learnt = np.zeros((k, k))

    def learning(weights: Weights, updates: int) -> Floats:
        rows, _ = learner.draw(weights, updates * batch)
        proxy.train(rows)
        bench.spent(len(rows))
        return proxy.evaluate(bench.held)

    for number, updates in enumerate(rounds_of(bench.updates, rounds)):
        kept, total = proxy.state(), np.zeros((k, k))
        for _ in range(sweeps):  # each from the round's own model
            total += learn(learning, losses, k, rng, sweeps=1, steps=steps, factor=factor)
            proxy.restore(kept)
        learnt = total / sweeps
        if not np.isfinite(learnt).all():
            raise BadInput(f"aioli: a loss is no number in round {number + 1}; lower the proxy's rate")
        a = normalised(learnt)
        if ema is None:
            w = update(w, a, eta, bench.shares)
        else:
            average = a if number == 0 else (1 - ema) * a + ema * average
            w = update(np.full(k, 1 / k), average, eta, bench.shares)
        used = with_source_share(w, source, min(bench.budget.source_share, 1.0))
        path.append(used)
        rows, _ = mixer.draw(used, int(updates) * batch)
        proxy.train(rows)
        bench.spent(len(rows))
        losses = proxy.evaluate(bench.held)
    lengths = np.diff(np.linspace(0, bench.budget.steps, rounds + 1).round().astype(int))
    more = {
        "objective": bench.objective.name,
        "eta": eta,
        "rounds": rounds,
        "sweeps": sweeps,
        "factor": factor,
        "matrix": learnt.tolist(),
    }
    return Found(
        "aioli",
        bench.corpus.names,
        schedule=np.repeat(np.array(path), lengths, axis=0),
        proxy_tokens=bench.used,
        more=more,
    )
