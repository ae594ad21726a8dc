"""Olmix: a log-linear law of every loss, and the mixture that minimises it exactly near a prior (allenai/olmix, Apache-2.0; arXiv 2602.12237).

The law (also Ye et al., Data Mixing Laws, arXiv 2403.16952):  L_m(w) = c_m + exp(a_m · w), c_m >= 0. As Σ w = 1, a_m holds the scale too.
Fitted by least squares with a Huber loss, from several starts of c.

The proposer minimises  Σ_m v_m L_m(w) + λ · KL(w || prior)  on the simplex, λ = 0.1, which is convex; with caps w_d <= repetition ·
available_d / tokens (repetition 4) and, ours, a source budget Σ_source w_d <= share. For the balanced score v_m is the share that the
score gives a domain, divided by its base loss and multiplied by the mean base loss, so that the objective is in bits per byte as λ
supposes. The Frank-Wolfe gap, an upper bound of how far the answer is from the minimum, is reported with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamix.baselines.objective import Objective
from datamix.baselines.regmix import static_runs
from datamix.history import Floats
from datamix.mixture import Weights
from tenfold_shared import BadInput, Missing

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

KL, REPETITION = 0.1, 4.0
STARTS = (0.0, 0.5, 0.8, 0.95)  # of c, as shares of the smallest loss seen
TINY = 1e-12


class LogLinear:
    """c [M], a [M, D]."""

    def __init__(self, c: Floats, a: Floats) -> None:
        self.c, self.a = c, a

    def predict(self, mixtures: Floats, metrics: NDArray[np.int64] | None = None) -> Floats:
        """[n, D] -> [n, M]."""
        return self.c + np.exp(mixtures @ self.a.T)

    def gradient(self, w: Weights, v: Floats) -> Floats:
        """Of Σ v_m L_m at w: [D]."""
        return (v * np.exp(self.a @ w)) @ self.a


def fit(x: Floats, y: Floats) -> LogLinear:
    """x [n, D] mixtures, y [n, M] losses above 0. Raises BadInput where runs are fewer than the law's D + 1 numbers and one more, or a
    loss is not above 0; Missing without scipy."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise Missing("scipy: not installed: pip install 'datamix[regmix]'") from None
    n, d = x.shape
    if n < d + 2:
        raise BadInput(f"olmix: {n} runs; the law of {d} domains needs {d + 2} or more")
    if not (y > 0).all():
        raise BadInput("olmix: a loss is not above 0, and the law is of losses that are")
    cs, slopes = [], []
    for column in y.T:
        best: tuple[float, Floats] | None = None
        for start in STARTS:
            c = start * column.min()
            a = np.linalg.lstsq(x, np.log(column - c), rcond=None)[0]
            found = least_squares(
                lambda p, column=column: p[0] + np.exp(np.minimum(x @ p[1:], 50.0)) - column,
                np.array([c, *a]),
                jac=lambda p: np.hstack([np.ones((n, 1)), np.exp(np.minimum(x @ p[1:], 50.0))[:, None] * x]),
                bounds=(np.array([0.0, *np.full(d, -np.inf)]), np.array([column.min(), *np.full(d, np.inf)])),
                loss="huber", f_scale=0.01, x_scale="jac", xtol=1e-10, ftol=1e-10, gtol=1e-10, max_nfev=200,
            )  # fmt: skip
            if best is None or found.cost < best[0]:
                best = float(found.cost), found.x
        assert best is not None
        cs.append(best[1][0])
        slopes.append(best[1][1:])
    return LogLinear(np.array(cs), np.array(slopes))


def propose(
    law: LogLinear, v: Floats, prior: Weights, kl: float = KL, caps: Floats | None = None, source: NDArray[np.bool_] | None = None, share: float = 1.0
) -> tuple[Weights, float]:  # fmt: skip
    """The minimiser [D] of Σ v_m L_m(w) + kl · KL(w || prior) under caps [D] and the source budget, and its Frank-Wolfe gap. Raises
    BadInput where caps and budget leave no mixture, or kl is below 0."""
    from scipy.optimize import linprog, minimize

    if not kl >= 0:
        raise BadInput(f"--kl {kl:g}: expected 0 or more")
    d = len(prior)
    prior = np.maximum(prior, TINY) / np.maximum(prior, TINY).sum()
    most = np.minimum(np.ones(d) if caps is None else caps, 1.0)
    limit = source is not None and share < 1
    rows = source[None].astype(float) if source is not None and limit else np.empty((0, d))
    bound = np.full(len(rows), share)

    def value(w: Weights) -> float:
        return float(v @ (law.c + np.exp(law.a @ w)) + kl * (w @ np.log(np.maximum(w, TINY) / prior)))

    def slope(w: Weights) -> Floats:
        return law.gradient(w, v) + kl * (np.log(np.maximum(w, TINY) / prior) + 1)

    def vertex(cost: Floats) -> Weights:
        found = linprog(cost, A_ub=rows if limit else None, b_ub=bound if limit else None, A_eq=np.ones((1, d)), b_eq=[1.0], bounds=list(zip(np.zeros(d), most, strict=True)))  # fmt: skip
        if found.status != 0:
            raise BadInput(
                "olmix: no mixture keeps within the source budget and the text there is; raise --source-budget or --repetition"
            )
        return np.asarray(found.x)

    # A feasible point inside: the mean of vertices that favour each domain.
    start = np.mean([vertex(-np.eye(d)[i]) for i in range(d)], axis=0)
    constraints = [{"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(d)}]
    if limit:
        constraints.append({"type": "ineq", "fun": lambda w: share - rows[0] @ w, "jac": lambda w: -rows[0]})
    best, gap = start, np.inf
    for _ in range(3):  # begun again where it stopped: curvature is estimated anew
        found = minimize(value, best, jac=slope, method="SLSQP", bounds=list(zip(np.full(d, TINY), np.maximum(most, TINY), strict=True)), constraints=constraints, options={"ftol": 1e-15, "maxiter": 2000})  # fmt: skip
        w = np.clip(found.x, TINY, np.maximum(most, TINY))
        w /= w.sum()
        here = slope(w) @ (w - vertex(slope(w)))
        if here < gap:
            best, gap = w, float(here)
    return best, max(gap, 0.0)


def in_bits(objective: Objective, base: Floats | None) -> Floats:
    """The objective's coefficients as v, in bits per byte."""
    return objective.coefficients * (float(np.mean(base)) if base is not None and objective.name == "balanced" else 1.0)


def caps_of(available: Floats, tokens: float, repetition: float = REPETITION) -> Floats | None:
    """w_d <= repetition · available_d / tokens; None where no length or size is known."""
    if tokens <= 0 or not (available > 0).all():
        return None
    return np.minimum(repetition * available / tokens, 1.0)


def from_proxies(bench: Bench, kl: float = KL, repetition: float = REPETITION) -> Found:
    """The law from as many static runs as the tokens allow, those of regmix."""
    from datamix.baselines.results import Found

    x, y = static_runs(bench, "olmix")
    caps = caps_of(bench.corpus.sizes.astype(float), bench.run_tokens, repetition)
    v = in_bits(bench.objective, bench.base)
    weights, gap = propose(
        fit(x, y), v, bench.prior, kl, caps, bench.corpus.source, min(bench.budget.source_share, 1.0)
    )
    more = {"objective": bench.objective.name, "kl": kl, "gap": gap, "runs": len(x)}
    return Found("olmix", bench.corpus.names, weights=weights, proxy_tokens=bench.used, more=more)
