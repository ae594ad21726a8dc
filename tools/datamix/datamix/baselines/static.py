"""Mixtures that nobody learned: proportional to sizes, uniform, tempered, a fixed target share, and the best fixed share of a grid.

    proportional   w_d ∝ n_d, the train tokens
    uniform        w_d = 1/D
    temperature    w_d ∝ n_d^(1/T): T = 1 is proportional, T → ∞ uniform (multilingual BERT, XLM-R)
    fixed          a share τ of target text, within each role evenly or proportionally
    best-fixed     every τ of 10, 20, ... 90 % is tried on proxies; the best one

Under a source budget each is projected on it: what is cut of the source goes to the targets in proportion (mixture.with_source_share), so
that `proportional` has the source share that the budget allows. The policies that hold a mixture or a schedule are here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamix.history import Decision, Floats, History
from datamix.mixture import Weights, with_source_share
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

Within = Literal["even", "proportional"]
GRID = tuple(round(0.1 * i, 1) for i in range(1, 10))


def proportional(sizes: NDArray[Any], source: NDArray[np.bool_], source_share: float = 1.0) -> Weights:
    """sizes [D], train tokens."""
    return with_source_share(np.asarray(sizes, dtype=np.float64) / sizes.sum(), source, source_share)


def uniform(source: NDArray[np.bool_], source_share: float = 1.0) -> Weights:
    return with_source_share(np.full(len(source), 1 / len(source)), source, source_share)


def temperature(sizes: NDArray[Any], t: float, source: NDArray[np.bool_], source_share: float = 1.0) -> Weights:
    """Raises BadInput for a temperature that is not above 0."""
    if not (np.isfinite(t) and t > 0):
        raise BadInput(f"--mixing-temperature {t:g}: expected a number above 0")
    shares = np.asarray(sizes, dtype=np.float64) / sizes.max()
    powered = shares ** (1 / t)
    return with_source_share(powered / powered.sum(), source, source_share)


def fixed(
    target_share: float, sizes: NDArray[Any], source: NDArray[np.bool_], within: Within = "even", source_share: float = 1.0
) -> Weights:  # fmt: skip
    """A share in 0..1 of target text. Raises BadInput for another share."""
    if not 0 <= target_share <= 1:
        raise BadInput(f"--target-share {target_share:g}: expected a share from 0 to 1")
    split = np.asarray(sizes, dtype=np.float64) if within == "proportional" else np.ones(len(sizes))
    found = np.where(
        source, split / split[source].sum() * (1 - target_share), split / split[~source].sum() * target_share
    )
    return with_source_share(found, source, source_share)


def grid(source_share: float) -> list[float]:
    """Target shares worth trying: 10 ... 90 %, those that the source budget allows, and the one that uses all of it."""
    least = round(1 - source_share, 6)
    return sorted({share for share in GRID if share >= least} | ({least} if 0 < least < 1 else set()))


class StaticPolicy:
    """One mixture [D] for the whole run, projected on its source budget."""

    def __init__(self, name: str, weights: Weights) -> None:
        self.name, self.weights = name, np.asarray(weights, dtype=np.float64)

    def decide(self, history: History) -> Decision:
        return Decision(with_source_share(self.weights, history.source, min(history.budget.source_share, 1.0)))


class SchedulePolicy:
    """A schedule [S, D] stretched over the run's steps; a step never asks for more source text than is left."""

    def __init__(self, name: str, schedule: Floats) -> None:
        self.name, self.schedule = name, np.asarray(schedule, dtype=np.float64)

    def decide(self, history: History) -> Decision:
        at = min(len(history) * len(self.schedule) // history.budget.steps, len(self.schedule) - 1)
        return Decision(with_source_share(self.schedule[at], history.source, min(history.source_left, 1.0)))


def from_proxies(bench: Bench, within: Sequence[Within] = ("even",), method: str = "best-fixed") -> Found:
    """The best share of the grid by the mean objective of its proxies. Every share is run on the same seeds, as many as the tokens allow.
    Raises BadInput where they do not suffice for one run a share."""
    from datamix.baselines.results import Found

    share = bench.budget.source_share
    tried = [(tau, how) for tau in grid(share) for how in within]
    each = bench.runs_left() // len(tried)
    if each < 1:
        need = len(tried) * bench.run_tokens
        raise BadInput(
            f"--proxy-tokens {bench.proxy_tokens}: {len(tried)} shares want {need}, one proxy of {bench.run_tokens} for each"
        )
    mixtures = np.array([fixed(tau, bench.corpus.sizes, bench.corpus.source, how, share) for tau, how in tried])
    losses = bench.statics(
        np.repeat(mixtures, each, axis=0), [bench.seed_of("run", i) for _ in tried for i in range(each)]
    )
    values = bench.objective.value(losses).reshape(len(tried), each).mean(axis=1)
    if not np.isfinite(values).any():
        raise BadInput("best-fixed: the loss of every proxy is no number; lower the proxy's rate")
    best = int(np.nanargmax(values))
    table = [
        {"target_share": tau, "within": how, "value": float(v)}
        for (tau, how), v in zip(tried, values, strict=True)
        if np.isfinite(v)
    ]
    more = {"target_share": tried[best][0], "within": tried[best][1], "runs_each": each, "grid": table}
    return Found(method, bench.corpus.names, weights=mixtures[best], proxy_tokens=bench.used, more=more)
