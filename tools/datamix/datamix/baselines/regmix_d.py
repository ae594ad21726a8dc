"""RegMix-D: regress on whole loss trajectories, and choose a mixture for every stage (Zhao et al., arXiv 2606.18663).

From the paper's abstract: proxy runs leave not only final losses but trajectories of losses; a regression on these predicts good mixtures
at several stages of training; the offline variant makes a whole schedule before the run, the online one adapts it to observed losses.
Everything below that is ours, as the paper's rules beyond this are not known to us:

  - A run of T steps has `stages` stages, as even as whole steps allow (the first ones are a step longer where T is no multiple). One example
    is a window of one run as long as a stage: its mean mixture m, the state before it (f̂ of every domain, share of the run done), and as
    answer the change of every domain's f̂ over the window, a step. Windows overlap; where stages have two lengths there are windows of both.
  - One regression a domain on (m, log(m + 0.001), f̂, share done): LightGBM as in regmix.py, or ridge; `auto` takes the one with the smaller
    squared error when whole runs are left out (4 folds).
  - Schedules that keep within the source budget are drawn (20,000: the source's path over the stages from ramps, steps and random shares of
    the budget; the split within each role fixed or changing), rolled out through the regression from the state now, and the answer is the
    mean, stage by stage, of the 128 with the best predicted objective.
  - Online: at the beginning of every stage this is done again from the losses just measured and the budget that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from datamix.baselines.objective import Objective
from datamix.baselines.regmix import BEST, ROUNDS, Linear, Predictor, candidates, fit_trees
from datamix.history import Decision, Floats, History
from datamix.mixture import Weights, with_source_share
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

Kind = Literal["auto", "lightgbm", "ridge"]
STAGES, SCHEDULES, FOLDS, LEAST_RUNS = 4, 20_000, 4, 8
PENALTIES = (0.1, 1.0, 10.0, 100.0)


def features(mixture: Floats, gain: Floats, done: Floats) -> Floats:
    """mixture [n, D], f̂ before [n, D], share of the run done [n] -> [n, 3 D + 1]."""
    return np.hstack([mixture, np.log(mixture + 1e-3), gain, done[:, None]])


def lengths_of(steps: int, stages: int) -> NDArray[np.int64]:
    """Steps of each stage [stages], of a run and of the model alike."""
    return np.array([len(part) for part in np.array_split(np.arange(steps), stages)])


def windows(runs: Sequence[History], widths: Sequence[int]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """(features [n, F], changes of f̂ a step [n, D], the run of each [n]) of all windows of these widths."""
    xs, ys, groups = [], [], []
    for number, run in enumerate(runs):
        gains, weights, steps = run.gains, run.weights, len(run)
        for width in widths:
            for t in range(steps - width + 1):
                xs.append(features(weights[None, t : t + width].mean(axis=1), gains[None, t], np.array([t / steps])))
                ys.append((gains[t + width] - gains[t]) / width)
                groups.append(number)
    return np.vstack(xs), np.array(ys), np.array(groups)


def _fit(kind: str, penalty: float, rounds: int, x: Floats, y: Floats) -> Predictor:
    return fit_trees(x, y, rounds) if kind == "lightgbm" else Linear(x, y, penalty=penalty, scaled=True)


class Model:
    """The change of f̂ a step in a stage. `lengths` [stages]: steps of each; `errors`: mean squared error with whole runs left out, by kind."""

    def __init__(self, runs: Sequence[History], stages: int = STAGES, kind: Kind = "auto", rounds: int = 300) -> None:
        """Runs of one length, domains and base. Raises BadInput where they are fewer than 8, shorter than the stages, or of several lengths;
        Missing where lightgbm is wanted and absent."""
        if len(runs) < LEAST_RUNS:
            raise BadInput(f"regmix-d: {len(runs)} runs; a regression on trajectories needs {LEAST_RUNS} or more")
        steps = {len(run) for run in runs}
        if len(steps) != 1:
            raise BadInput(f"regmix-d: runs of {min(steps)} to {max(steps)} steps; expected one length")
        (length,) = steps
        if not 2 <= stages <= length:
            raise BadInput(
                f"regmix-d: --regmix-stages {stages} for runs of {length} steps; expected from 2 to {length}"
            )
        if kind not in ("auto", "lightgbm", "ridge"):
            raise BadInput(f"--regression {kind}: expected auto, lightgbm or ridge")
        self.stages, self.steps = stages, length
        self.lengths = lengths_of(length, stages)
        x, y, group = windows(runs, sorted(set(self.lengths.tolist())))
        tried = [("ridge", p) for p in PENALTIES] if kind != "lightgbm" else []
        tried += [("lightgbm", 0.0)] if kind != "ridge" else []
        self.errors = {one: self._left_out(one[0], one[1], rounds, x, y, group) for one in tried}
        self.kind, self.penalty = min(self.errors, key=lambda one: self.errors[one])
        self._fitted = _fit(self.kind, self.penalty, rounds, x, y)

    @staticmethod
    def _left_out(kind: str, penalty: float, rounds: int, x: Floats, y: Floats, group: NDArray[np.int64]) -> float:
        total = 0.0
        for fold in range(FOLDS):
            out = group % FOLDS == fold
            fitted = _fit(kind, penalty, rounds, x[~out], y[~out])
            total += float(((fitted.predict(x[out]) - y[out]) ** 2).sum())
        return total / y.size

    def roll(self, gain: Floats, done: float, schedules: Floats, lengths: Floats) -> Floats:
        """f̂ [D] and share of the run done now, schedules [n, S, D] of stages of lengths [S], in the model's steps -> f̂ at their end [n, D]."""
        now, at = np.repeat(gain[None], len(schedules), axis=0), done
        for s, length in enumerate(lengths):
            now = now + length * self._fitted.predict(features(schedules[:, s], now, np.full(len(now), at)))
            at += length / self.steps
        return now


def draw_schedules(
    source: NDArray[np.bool_], prior: Weights, lengths: Floats, n: int, left: float, rng: np.random.Generator
) -> Floats:  # fmt: skip
    """n schedules [n, S, D] of stages of lengths [S] steps, with at most `left` steps' worth of source text in all.

    The source's path: a ramp between two shares, a step at a random stage, or a random total spread by a random Dirichlet, in equal parts;
    scaled down where it uses more than is left. The split within each role: Dirichlet with strengths from 1 to 100 around the prior's,
    even for a quarter; anew for every stage for half of the rest.
    """
    stages, whole = len(lengths), float(np.sum(lengths))
    kinds = rng.integers(0, 3, n)
    first, last = rng.random((2, n, 1))
    at = np.linspace(0, 1, stages)[None] if stages > 1 else np.full((1, 1), 0.5)
    ramp = first + (last - first) * at
    step = np.where(np.arange(stages)[None] < rng.integers(0, stages + 1, (n, 1)), first, last)
    spread = rng.dirichlet(np.ones(stages), n) * rng.random((n, 1)) * min(left, whole) / lengths
    path = np.minimum(np.choose(kinds[:, None], [ramp, step, spread]), 1.0)
    total = (path * lengths).sum(axis=1, keepdims=True)
    path = path * np.minimum(1.0, left / np.maximum(total, 1e-12))
    found = np.zeros((n, stages, len(source)))
    for role, share in ((source, path), (~source, 1 - path)):
        within = prior[role] / prior[role].sum() if prior[role].sum() > 0 else np.full(int(role.sum()), 1 / role.sum())
        split = _splits(within, n, stages, rng)
        found[:, :, role] = split * share[:, :, None]
    return found


def _splits(within: Weights, n: int, stages: int, rng: np.random.Generator) -> Floats:
    """[n, S, k], each summing to 1."""
    k = len(within)
    parts = n // 4
    seed = int(rng.integers(2**31))
    strengths = (1.0 * k, 10.0 * k, 100.0 * k)
    fixed = rng.permutation(candidates(within, n, seed, strengths))
    found = np.repeat(fixed[:, None], stages, axis=1)
    found[:parts] = 1 / k
    changing = rng.permutation(candidates(within, 2 * parts * stages, seed + 1, strengths))
    found[n - 2 * parts :] = changing.reshape(2 * parts, stages, k)
    return found


def plan(
    model: Model, objective: Objective, base: Floats, source: NDArray[np.bool_], prior: Weights, budget_left: float, *,
    gain: Floats | None = None, lengths: Floats | None = None, schedules: int = SCHEDULES, best: int = BEST, seed: int = 0,
) -> tuple[Floats, float]:  # fmt: skip
    """The best stages [S, D] from here to the end and the objective predicted for them. gain [D]: f̂ now (0 by default); lengths [S]: of the
    stages left (all by default), and budget_left: source text that may still be used, both in the model's steps."""
    now = np.zeros(len(base)) if gain is None else gain
    left = np.asarray(model.lengths if lengths is None else lengths, dtype=np.float64)
    done = 1 - float(left.sum()) / model.steps
    drawn = draw_schedules(source, prior, left, schedules, budget_left, np.random.default_rng(seed))
    values = objective.value(base * (1 - model.roll(now, done, drawn, left)))
    mean = drawn[np.argsort(-values, kind="stable")[:best]].mean(axis=0)
    return mean, float(objective.value(base * (1 - model.roll(now, done, mean[None], left)))[0])


class OnlinePolicy:
    """Plans anew at the beginning of every stage; within one it holds its mixture. Each decision depends on the run alone."""

    name = "regmix-d-online"

    def __init__(
        self,
        model: Model,
        objective: Objective,
        prior: Weights,
        *,
        schedules: int = SCHEDULES // 4,
        best: int = BEST // 4,
        seed: int = 0,
    ) -> None:
        self.model, self.objective, self.prior = model, objective, prior
        self.schedules, self.best, self.seed = schedules, best, seed
        self._planned: tuple[bytes, Weights] | None = None

    def decide(self, history: History) -> Decision:
        steps = history.budget.steps
        lengths = lengths_of(steps, min(self.model.stages, steps))
        stage = int(np.searchsorted(np.cumsum(lengths), len(history), side="right"))
        before = history.upto(int(lengths[:stage].sum()))
        key = before.weights.tobytes() + before.losses.tobytes() + history.base.tobytes()
        if self._planned is None or self._planned[0] != key:
            # The model's steps and the run's may differ in number: shares of the run are what they have in common.
            scale = self.model.steps / steps
            stages, _ = plan(
                self.model, self.objective, history.base, history.source, self.prior, before.source_left * scale, gain=before.gains[-1],
                lengths=np.asarray(lengths[stage:] * scale, dtype=np.float64), schedules=self.schedules, best=self.best, seed=self.seed,
            )  # fmt: skip
            self._planned = key, stages[0]
        return Decision(with_source_share(self._planned[1], history.source, min(history.source_left, 1.0)))


def from_runs(
    runs: Sequence[History], objective: Objective, prior: Weights, *, online: bool = False, stages: int = STAGES, kind: Kind = "auto",
    rounds: int = 300, schedules: int = SCHEDULES, best: int = BEST, seed: int = 0,
) -> Found:  # fmt: skip
    """From finished runs of one task. The schedule has a row a step; online, `live` plans along the run instead."""
    from datamix.baselines.results import Found

    model = Model(runs, stages, kind, min(rounds, ROUNDS))
    one = runs[0]
    share = min(one.budget.source_share, 1.0) * model.steps
    rows, value = plan(model, objective, one.base, one.source, prior, share, schedules=schedules, best=best, seed=seed)
    more = {
        "objective": objective.name,
        "predicted": value,
        "runs": len(runs),
        "stages": len(rows),
        "regression": model.kind,
    }
    live = None
    if online:
        live = OnlinePolicy(
            model, objective, prior, schedules=max(schedules // 4, 1), best=max(best // 4, 1), seed=seed
        )
    return Found(
        "regmix-d-online" if online else "regmix-d",
        one.names,
        schedule=np.repeat(rows, model.lengths, axis=0),
        more=more,
        live=live,
    )


def from_proxies(
    bench: Bench, online: bool = False, stages: int = STAGES, kind: Kind = "auto", rounds: int = 300, schedules: int = SCHEDULES, best: int = BEST
) -> Found:  # fmt: skip
    """As many runs under sampled schedules as the tokens allow, from the bench's base. Raises BadInput where they are fewer than 8."""
    from datamix import samplers

    n = bench.need(LEAST_RUNS, "regmix-d")
    corpus = bench.corpus
    kinds = samplers.assign(samplers.parse_mix(samplers.DEFAULT_MIX), n, bench.seed_of("samplers"))
    natural = corpus.sizes / corpus.sizes.sum()
    policies = [
        samplers.make(name, corpus.names, corpus.source, natural, bench.seed_of("sampler", i), bench.budget)
        for i, name in enumerate(kinds)
    ]
    runs = [one for one in bench.histories(policies, [bench.seed_of("run", i) for i in range(n)]) if one is not None]
    found = from_runs(
        runs, bench.objective, bench.prior, online=online, stages=min(stages, bench.budget.steps), kind=kind, rounds=rounds,
        schedules=schedules, best=best, seed=bench.seed,
    )  # fmt: skip
    found.proxy_tokens = bench.used
    return found
