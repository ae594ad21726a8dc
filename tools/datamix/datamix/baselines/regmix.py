"""RegMix: regress losses on mixtures, then look for the best mixture among many (Liu et al., arXiv 2407.01492; sail-sg/regmix, MIT).

For every metric LightGBM is fitted to (mixture, final loss) of static runs, with the parameters of the authors' notebook
(regression_fitting/regression.ipynb: gbdt, l2, 1000 rounds, rate 0.01, seed 42, the rest LightGBM's own). Then 100,000 mixtures are drawn
from Dirichlet(prior), and the answer is the mean of the 128 that are predicted best. The notebook stops early on the very runs that it
then reports on; here all rounds are used, or as many as cross-validation says (`cv` folds). `linear` (least squares) and `ridge` on
(w, log(w + 0.001)), penalty 0.01, are fitted beside it.

Ours: with fewer than 200 runs a leaf may hold a tenth of them instead of LightGBM's 20, with which nothing could be split at all below 40
runs; under a source budget every candidate is projected on it before it is judged, so that only feasible mixtures are compared
(without this RegMix is not given a fair chance); and where a corpus is given instead of a swarm, the static runs are
trained from its base under mixtures by the rule of RegMix's swarm (samplers.regmix_prior), made feasible, and candidates come with
strengths 1, 5 and 25 in equal parts, as with few domains those of strength 1 lie almost all in corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from datamix import correlation
from datamix.baselines.objective import Objective
from datamix.history import Floats
from datamix.mixture import Weights
from datamix.samplers import dirichlets
from tenfold_shared import BadInput, Missing

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

Kind = Literal["lightgbm", "linear", "ridge"]
PARAMETERS: dict[str, Any] = {
    "boosting_type": "gbdt", "objective": "regression", "metric": ["l2"], "seed": 42, "learning_rate": 1e-2, "verbosity": -1,
    "num_threads": 1, "deterministic": True, "force_row_wise": True,  # the same trees everywhere
}  # fmt: skip
ROUNDS, SAMPLES, BEST = 1000, 100_000, 128
LEAST_RUNS = 8
RIDGE = 0.01


class Predictor(Protocol):
    def predict(self, mixtures: Floats, metrics: NDArray[np.int64] | None = None) -> Floats:
        """Mixtures [n, D] -> losses [n, M]; 0 for metrics that are not among those asked for."""
        ...


class Trees:
    """One booster a metric."""

    def __init__(self, boosters: Sequence[Any]) -> None:
        self.boosters = list(boosters)

    def predict(self, mixtures: Floats, metrics: NDArray[np.int64] | None = None) -> Floats:
        found = np.zeros((len(mixtures), len(self.boosters)))
        for m in range(len(self.boosters)) if metrics is None else metrics:
            found[:, m] = self.boosters[m].predict(mixtures, num_threads=1)
        return found


class Linear:
    """Least squares (penalty 0) or ridge, with an intercept that the penalty spares, on x, on (x, log(x + 0.001)) where `logs`, each divided
    by its standard deviation where `scaled`."""

    def __init__(self, x: Floats, y: Floats, *, penalty: float, logs: bool = False, scaled: bool = False) -> None:
        self.logs = logs
        features = self._features(x)
        self.centre, self.mean = features.mean(axis=0), y.mean(axis=0)
        self.scale: Floats = np.maximum(features.std(axis=0), 1e-9) if scaled else np.ones(features.shape[1])
        a, b = (features - self.centre) / self.scale, y - self.mean
        if penalty > 0:
            self.slope = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ b)
        else:  # mixtures sum to 1, so that columns depend on each other: the shortest solution
            self.slope = np.linalg.lstsq(a, b, rcond=None)[0]

    def _features(self, x: Floats) -> Floats:
        return np.hstack([x, np.log(x + 1e-3)]) if self.logs else x

    def predict(self, mixtures: Floats, metrics: NDArray[np.int64] | None = None) -> Floats:
        return ((self._features(mixtures) - self.centre) / self.scale) @ self.slope + self.mean


def lightgbm() -> Any:
    """The module. Raises Missing."""
    try:
        import lightgbm as found
    except ImportError:
        raise Missing("lightgbm: not installed: pip install 'datamix[regmix]'") from None
    return found


def parameters(n: int) -> dict[str, Any]:
    """LightGBM's parameters for n runs."""
    small = {"min_data_in_leaf": min(20, max(2, n // 10)), "min_data_in_bin": min(3, max(1, n // 50))}
    return {**PARAMETERS, **small}


def fit_trees(x: Floats, y: Floats, rounds: int = ROUNDS, cv: int = 0) -> Trees:
    """x [n, D], y [n, M]. cv: folds that choose the number of rounds, up to `rounds` (0: all of them)."""
    module = lightgbm()
    told = parameters(len(x))
    boosters = []
    for m in range(y.shape[1]):
        use = rounds
        if cv > 1:
            # cross-validation only looks at l2; with `rounds` as patience it sees all rounds and takes the best
            curve = module.cv(
                told,
                module.Dataset(x, y[:, m], params=told),
                rounds,
                nfold=cv,
                stratified=False,
                seed=PARAMETERS["seed"],
            )
            use = int(np.argmin(curve["valid l2-mean"])) + 1
        boosters.append(module.train(told, module.Dataset(x, y[:, m], params=told), use))
    return Trees(boosters)


def fit(kind: Kind, x: Floats, y: Floats, rounds: int = ROUNDS, cv: int = 0) -> Predictor:
    """Raises BadInput for another kind or fewer than 8 runs, Missing without lightgbm."""
    if len(x) < LEAST_RUNS:
        raise BadInput(f"regmix: {len(x)} runs; a regression needs {LEAST_RUNS} or more")
    if kind == "lightgbm":
        return fit_trees(x, y, rounds, cv)
    if kind == "linear":
        return Linear(x, y, penalty=0)
    if kind == "ridge":
        return Linear(x, y, logs=True, penalty=RIDGE)
    raise BadInput(f"--regression {kind}: expected lightgbm, linear or ridge")


def spearman(predicted: Floats, true: Floats) -> Floats:
    """Rank correlations of columns, [n, M] twice -> [M]; 0 where either is constant or n is below 3."""
    return np.array([correlation.spearman(*pair) or 0.0 for pair in zip(predicted.T, true.T, strict=True)])


def candidates(prior: Weights, n: int, seed: int, strengths: Sequence[float] = (1.0,)) -> Floats:
    """n mixtures [n, D] from Dirichlet(strength · prior), strengths in equal parts; domains whose prior is 0 stay 0."""
    rng = np.random.default_rng(seed)
    found = np.zeros((n, len(prior)))
    here = np.flatnonzero(prior > 0)
    edges = np.linspace(0, n, len(strengths) + 1).astype(int)
    for strength, start, end in zip(strengths, edges[:-1], edges[1:], strict=True):
        found[start:end, here] = dirichlets(rng, np.tile(strength * prior[here], (end - start, 1)))
    return found


def feasible(mixtures: Floats, source: NDArray[np.bool_] | None, share: float) -> Floats:
    """Each of [n, D] projected on the source budget: mixture.with_source_share of every row."""
    if source is None or share >= 1 or source.all():
        return mixtures
    found = mixtures.copy()
    used = mixtures[:, source].sum(axis=1)
    over = np.flatnonzero(used > share)
    target = mixtures[np.ix_(over, np.flatnonzero(~source))]
    held = target.sum(axis=1, keepdims=True)
    split = np.where(held > 0, target / np.where(held > 0, held, 1), 1 / target.shape[1])
    found[np.ix_(over, np.flatnonzero(source))] *= (share / used[over])[:, None]
    found[np.ix_(over, np.flatnonzero(~source))] = (1 - share) * split
    return found


def propose(predictor: Predictor, objective: Objective, mixtures: Floats, best: int = BEST) -> tuple[Weights, float]:
    """The mean of the `best` mixtures of [n, D] by predicted objective, and what is predicted for it. Ties go to the first."""
    values = objective.value(predictor.predict(mixtures, objective.used))
    chosen = mixtures[np.argsort(-values, kind="stable")[:best]]
    mean = chosen.mean(axis=0)
    return mean / mean.sum(), float(objective.value(predictor.predict(mean[None], objective.used))[0])


def correlations(kinds: Sequence[Kind], x: Floats, y: Floats, x_test: Floats, y_test: Floats, metrics: Sequence[str], rounds: int = ROUNDS, cv: int = 0) -> dict[str, dict[str, float]]:  # fmt: skip
    """Rank correlations on other runs: {kind: {"mean": ..., metric: ...}}, lightgbm under the name `spearman`."""
    found: dict[str, dict[str, float]] = {}
    for kind in kinds:
        each = spearman(fit(kind, x, y, rounds, cv).predict(x_test), y_test)
        found["spearman" if kind == "lightgbm" else kind] = {
            "mean": float(each.mean()),
            **dict(zip(metrics, map(float, each), strict=True)),
        }
    return found


def from_proxies(
    bench: Bench, kind: Kind = "lightgbm", rounds: int = ROUNDS, cv: int = 0, samples: int = SAMPLES, best: int = BEST
) -> Found:
    """As many static runs as the tokens allow, from the bench's base. Raises BadInput where they are fewer than 8."""
    from datamix.baselines.results import Found

    x, y = static_runs(bench, "regmix")
    predictor = fit(kind, x, y, rounds, cv)
    share = bench.budget.source_share
    drawn = feasible(
        candidates(bench.prior, samples, bench.seed_of("candidates") % 2**31, (1.0, 5.0, 25.0)),
        bench.corpus.source,
        share,
    )
    weights, value = propose(predictor, bench.objective, drawn, best)
    more = {"objective": bench.objective.name, "predicted": value, "runs": len(x), "regression": kind}
    return Found("regmix", bench.corpus.names, weights=weights, proxy_tokens=bench.used, more=more)


def static_runs(bench: Bench, method: str) -> tuple[Floats, Floats]:
    """(mixtures [n, D], final losses [n, D]) of runs under feasible mixtures of RegMix's prior; failed runs left out."""
    from datamix import samplers

    n = bench.need(LEAST_RUNS, method)
    x = feasible(
        samplers.regmix_prior(bench.prior, n, bench.seed_of("mixtures") % 2**31),
        bench.corpus.source,
        bench.budget.source_share,
    )
    y = bench.statics(x, [bench.seed_of("run", i) for i in range(n)])
    done = np.isfinite(y).all(axis=1)
    if done.sum() < LEAST_RUNS:
        raise BadInput(f"{method}: the loss is no number in {int((~done).sum())} of {n} proxies; lower their rate")
    return x[done], y[done]
