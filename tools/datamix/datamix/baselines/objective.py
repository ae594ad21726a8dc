"""What a rival is to make as high as can be: every objective here is a constant minus a weighted sum of losses, so that regressions,
convex programs and gradient methods share it; and the multiplicative step by which the latter follow it.

Where it sits: below the methods of this package; above history.py, whose score it repeats as coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamix.history import Floats
from datamix.mixture import Weights
from tenfold_shared import BadInput


class Objective:
    """value(Y) = constant − Y · coefficients, for losses Y [..., M] of `metrics` [M]."""

    def __init__(self, name: str, metrics: Sequence[str], coefficients: Floats, constant: float = 0.0) -> None:
        self.name, self.metrics = name, list(metrics)
        self.coefficients, self.constant = np.asarray(coefficients, dtype=np.float64), constant

    def value(self, losses: Floats) -> Floats:
        """Losses [..., M] -> [...], the higher the better."""
        return self.constant - losses @ self.coefficients

    @property
    def used(self) -> NDArray[np.int64]:
        """The metrics that count."""
        return np.flatnonzero(self.coefficients)


def multiplied(w: Weights, exponents: Floats, eps: float = 0.0) -> Weights:
    """The step that the gradient methods share: log w [D] += exponents [D], normalised, and a share eps of it spread evenly."""
    logs = np.log(np.maximum(w, 1e-300)) + exponents
    found = np.exp(logs - logs.max())
    return (1 - eps) * found / found.sum() + eps / len(w)


def role_shares(source: NDArray[np.bool_]) -> Floats:
    """[D], what each domain counts in the balanced score: half a role, evenly within it."""
    return np.where(source, 0.5 / max(int(source.sum()), 1), 0.5 / max(int((~source).sum()), 1))


def balanced(names: Sequence[str], source: NDArray[np.bool_], base: Floats) -> Objective:
    """The mean of the source domains' mean f̂ and the target domains' (history.score)."""
    shares = role_shares(source)
    return Objective("balanced", names, shares / base, float(shares.sum()))


def choose(
    name: str | None, metrics: Sequence[str], source: NDArray[np.bool_] | None, base: Floats | None
) -> Objective:
    """`balanced` (needs roles and base losses), `mean` of all metrics, or one metric by name; None: balanced where it can be, else mean.
    Raises BadInput for a metric that is not there, or `balanced` where the metrics are not domains with a base."""
    can = source is not None and base is not None
    if name is None:
        name = "balanced" if can else "mean"
    if name == "balanced":
        if source is None or base is None:
            raise BadInput(
                "--objective balanced: an imported swarm has no base losses by domain; choose `mean` or one of its metrics"
            )
        return balanced(metrics, source, base)
    if name == "mean":
        return Objective("mean", metrics, np.full(len(metrics), 1 / len(metrics)))
    if name not in metrics:
        raise BadInput(f"--objective {name}: no such metric; there are balanced, mean, {', '.join(metrics)}")
    return Objective(name, metrics, np.array([float(one == name) for one in metrics]))
