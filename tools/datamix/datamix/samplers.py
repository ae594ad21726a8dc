"""Behaviour policies: how a swarm's mixtures are chosen before anyone knows a good one.

Random walks alone waste proxies, so that samplers with ideas are mixed: ramps of the target's share, late and early replay, what the
losses ask for, and RegMix's static mixtures. Each is a `Policy`: it sees the history, never asks for more source text than is left, and
is a pure function of its seed and that history, so that a run that was cut off goes on with the same mixtures. `datamix sample` writes
their schedules for clusters of other people's; `swarm` trains under them. numpy alone.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamix import __version__
from datamix.corpus import Corpus, check_domains
from datamix.history import Budget, Decision, Floats, History, Policy
from datamix.mixture import Weights, capped, from_names, to_names, with_source_share
from datamix.schedule import keep_inputs
from datamix.stream import Picker, key_of
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output

Bools = NDArray[np.bool_]
REGMIX_STRENGTHS = np.logspace(-1, math.log10(5.0), 15)
REGMIX_LEAST = 2e-4
REGMIX_USES = 15.0  # a domain's weight stays below this multiple of its prior
DEFAULT_MIX = "ramp=2,late=3,walk,dirichlet,early,scored,loss-greedy"
DEFAULT_MIX_UNSEEN = "ramp=2,late=3,walk,dirichlet,early,scored"  # where no loss is known


# ---------------------------------------------------------------- RegMix's prior


def regmix_prior(
    prior: Weights,
    n: int,
    seed: int,
    *,
    temperature: float = 0.5,
    strengths: Floats = REGMIX_STRENGTHS,
    most: float = REGMIX_USES,
    least: float = REGMIX_LEAST,
    oversample: int = 100,
) -> Floats:
    """n different mixtures [n, D] by the rules of RegMix (sail-sg/regmix, mixture_config/synthesize_mixture.py).

    prior [D] sums to 1. A candidate is Dirichlet(strength · prior^temperature, renormalised) with the strength one of 15 spaced
    logarithmically in [0.1, 5]; it is dropped where any weight is above min(most · prior, 1); weights below `least` become 0, the rest is
    divided by its sum and rounded to multiples of `least`. Of all different candidates (L1 above 1e-5) among `oversample` · n, n are
    chosen evenly. RegMix leaves the rounding's rest; here the largest weight takes it, so that every row sums to 1.
    Raises BadInput where so many different mixtures cannot be found.
    """
    prior = np.asarray(prior, dtype=np.float64)
    prior = prior / prior.sum()
    bound = np.minimum(most * prior, 1.0)
    tempered = prior**temperature
    tempered /= tempered.sum()
    rng = np.random.default_rng(key_of(seed, "regmix"))
    units = round(1 / least)
    found = np.empty((0, len(prior)), dtype=np.int64)
    tried, wanted, limit = 0, max(oversample * n, 100), 50 * max(oversample * n, 100)
    while tried < wanted or (len(found) < n and tried < limit):
        size = min(1 << 15, limit - tried)
        tried += size
        drawn = dirichlets(rng, rng.choice(strengths, size)[:, None] * tempered)
        drawn = drawn[(drawn <= bound).all(axis=1)]
        drawn[drawn < least] = 0.0
        drawn = drawn[drawn.sum(axis=1) > 0]
        counts = np.round(drawn / drawn.sum(axis=1, keepdims=True) * units).astype(np.int64)
        counts[np.arange(len(counts)), counts.argmax(axis=1)] += units - counts.sum(axis=1)
        # In whole units, L1 distances below 1e-5 are equality.
        found = np.unique(np.vstack([found, counts]), axis=0)
    if len(found) < n:
        raise BadInput(
            f"dirichlet: only {len(found)} different mixtures of {len(prior)} domains stay below {most:g} times their prior; "
            "ask for fewer, or give a flatter prior"
        )
    return np.asarray(found[rng.choice(len(found), n, replace=False)] / units)


def dirichlets(rng: np.random.Generator, alpha: Floats) -> Floats:
    """One Dirichlet draw for each row of alpha [n, D], by gammas in logarithms: alphas of 1e-3 would all underflow."""
    positive = np.where(alpha > 0, alpha, 1.0)
    logs = np.log(rng.standard_gamma(positive + 1)) + np.log1p(-rng.random(alpha.shape)) / positive
    logs = np.where(alpha > 0, logs, -np.inf)
    found = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


# ---------------------------------------------------------------- what is allowed


def check_text(corpus: Corpus, budget: Budget) -> None:
    """Raises BadInput where the text cannot fill a run under max_epochs and the source budget. In tokens; a run that has begun counts in
    rows (steer.check_budget)."""
    if budget.max_epochs <= 0:
        return
    want, can, target = budget.tokens * budget.steps, corpus.sizes * budget.max_epochs, ~corpus.source
    usable = min(float(can[corpus.source].sum()), budget.source_share * want) + float(can[target].sum())
    if usable < want * (1 - 1e-9):
        least = corpus.names[int(np.argmin(np.where(target, can, np.inf)))]
        raise BadInput(
            f"{corpus.folder}: {want} tokens are wanted and {int(usable)} may be used under --max-epochs {budget.max_epochs:g} and the source "
            f"budget; {least} is the smallest target: add text, or raise either"
        )


def feasible(weights: Weights, history: History, *, lean: bool = False) -> Weights:
    """The mixture nearest to `weights` that the budget allows in the next step: no more source than is left (`lean`: than is left for
    each of the steps left) and no domain beyond max_epochs. Where both cannot be, the source budget counts and the picker, which sees
    whole rows, deals with the rest."""
    left = history.source_left / (max(history.steps_left, 1) if lean else 1)
    source, budget = history.source, history.budget
    if budget.max_epochs > 0:
        used = history.weights.sum(axis=0) * budget.tokens
        room = np.maximum(budget.max_epochs * history.available - used, 0.0) / budget.tokens
        share = min(float(weights[source].sum()), left, float(room[source].sum()))
        share = min(max(share, 1 - float(room[~source].sum())), left)
        found = np.zeros(len(weights))
        for role, part in ((source, share), (~source, 1 - share)):
            if part > 0:
                within = weights[role] if weights[role].sum() > 0 else np.ones(int(role.sum()))
                found[role] = part * capped(within / within.sum(), room[role] / part + 1e-300)
        weights = found / found.sum()
    return with_source_share(weights, source, min(left, 1.0))


# ---------------------------------------------------------------- the samplers


class Sampler(ABC):
    """A behaviour policy. `draw` chooses what holds for the whole trajectory, `wanted` a step's mixture, which is then made feasible.
    `lean` ones spread the source budget over the steps left, so that it never runs dry."""

    name = ""
    sees_losses = False

    def __init__(self, names: Sequence[str], source: Bools, prior: Weights, seed: int, budget: Budget) -> None:
        self.names, self.source, self.seed, self.budget = list(names), np.asarray(source, dtype=bool), seed, budget
        self.prior = np.asarray(prior, dtype=np.float64) / np.sum(prior)
        self.lean = False
        self.draw(self._rng("trajectory"))

    def _rng(self, what: object) -> np.random.Generator:
        return np.random.default_rng(key_of(self.seed, self.name, what))

    def draw(self, rng: np.random.Generator) -> None:
        self.lean = bool(rng.random() < 0.5)

    @abstractmethod
    def wanted(self, history: History, rng: np.random.Generator) -> Weights:
        """Weights [D] that sum to 1, before the budget is looked at; rng is the step's own."""

    def decide(self, history: History) -> Decision:
        return Decision(feasible(self.wanted(history, self._rng(len(history))), history, lean=self.lean))


class Static(Sampler):
    """One mixture for the whole run, drawn by RegMix's rules; what the budget cuts is cut evenly."""

    name = "dirichlet"

    def draw(self, rng: np.random.Generator) -> None:
        self.lean = True
        self.weights: Weights = regmix_prior(self.prior, 1, self.seed)[0]

    def wanted(self, history: History, rng: np.random.Generator) -> Weights:
        return self.weights


class Uniform(Static):
    """One mixture for the whole run, drawn evenly from the whole simplex: Dirichlet(1)."""

    name = "uniform-static"

    def draw(self, rng: np.random.Generator) -> None:
        self.lean = True
        self.weights = rng.dirichlet(np.ones(len(self.names)))


class Walk(Sampler):
    """Random walk of the logits: w_{t+1} ∝ w_t · exp(σ ξ), σ log-uniform in [0.1, 0.8] a trajectory, from a random share of source."""

    name = "walk"

    def draw(self, rng: np.random.Generator) -> None:
        super().draw(rng)
        share = rng.uniform(0.05, 0.95)
        self.start = np.log(_mixed(share, _split(self.prior, self.source, rng), self.source) + 1e-6)
        self.sigma = _log_uniform(rng, 0.1, 0.8)

    def wanted(self, history: History, rng: np.random.Generator) -> Weights:
        steps = self._rng("walk").standard_normal((self.budget.steps, len(self.names)))
        return _softmax(self.start + self.sigma * steps[: len(history)].sum(axis=0))


class Scheduled(Sampler):
    """Source share as a function of time, split within each role by one random draw about the prior."""

    def draw(self, rng: np.random.Generator) -> None:
        self.split = _split(self.prior, self.source, rng)
        self.cap = min(self.budget.source_share, 1.0)
        self.shares = np.clip(self.shape(rng, (np.arange(self.budget.steps) + 0.5) / self.budget.steps), 0.0, 1.0)

    @abstractmethod
    def shape(self, rng: np.random.Generator, at: Floats) -> Floats:
        """Source shares [T] at the steps' middles `at`, in (0, 1) of the run."""

    def wanted(self, history: History, rng: np.random.Generator) -> Weights:
        return _mixed(float(self.shares[min(len(history), len(self.shares) - 1)]), self.split, self.source)


class Ramp(Scheduled):
    """Linear, cosine, or a step at a random time, from one source share to another, source-up in six of ten; or `anneal-source-last`:
    little source until the last tenth to third, then rising to much."""

    name = "ramp"

    def shape(self, rng: np.random.Generator, at: Floats) -> Floats:
        low, high = rng.uniform(0, 0.5) * self.cap, rng.uniform(0.5, 1.0) * min(2 * self.cap, 1.0)
        self.form = str(rng.choice(["linear", "cosine", "step", "anneal-source-last"]))
        self.rising = self.form == "anneal-source-last" or bool(rng.random() < 0.6)
        if self.form == "linear":
            way = at
        elif self.form == "cosine":
            way = (1 - np.cos(np.pi * at)) / 2
        elif self.form == "step":
            way = (at >= rng.uniform(0.2, 0.8)).astype(np.float64)
        else:
            begins = 1 - rng.uniform(0.1, 0.34)
            way, high = np.clip((at - begins) / (1 - begins), 0, 1), min(2 * high, 1.0)
        return low + (high - low) * (way if self.rising else 1 - way)


class Late(Scheduled):
    """Little or no source until a random time, then about what the budget still holds a step (0.5 to 1.25 of it)."""

    name = "late"

    def shape(self, rng: np.random.Generator, at: Floats) -> Floats:
        self.switch = rng.uniform(0.3, 0.85)
        little = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.4) * self.cap
        left = (self.cap - little * self.switch) / (1 - self.switch)
        much = max(min(left, 1.0) * rng.uniform(0.5, 1.25), little)
        return np.where(at < self.switch, little, much)


class Early(Scheduled):
    """The opposite: source text first, about as much as the budget holds, then little or none."""

    name = "early"

    def shape(self, rng: np.random.Generator, at: Floats) -> Floats:
        self.switch = rng.uniform(0.15, 0.75)
        much = min(self.cap / self.switch, 1.0) * rng.uniform(0.5, 1.25)
        little = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.5) * min(much, self.cap)
        return np.where(at < self.switch, much, little)


class LossGreedy(Sampler):
    """Where the loss is: softmax(L / T), the rule of ms-swift's dynamic_mix (its pull request 9142), or softmax(ΔL / T) with
    ΔL = L − base, what was lost since the run began. Losses in bits per byte; T log-uniform, in [0.1, 2] and [0.01, 0.5]."""

    name = "loss-greedy"
    sees_losses = True

    def draw(self, rng: np.random.Generator) -> None:
        super().draw(rng)
        self.change = bool(rng.random() < 0.5)
        self.temperature = _log_uniform(rng, 0.01, 0.5) if self.change else _log_uniform(rng, 0.1, 2.0)

    def wanted(self, history: History, rng: np.random.Generator) -> Weights:
        now = history.losses[-1] if len(history) else history.base
        return _softmax((now - history.base if self.change else now) / self.temperature)


class Scored(Sampler):
    """Each step, M candidates are drawn and one is chosen with softmax(score / τ): score = −(distance to the source prior) + target
    share + entropy / ln D − one-hot penalty, each with a random factor a trajectory. τ is positive, negative or without end, a third of
    the trajectories each, so that bad mixtures occur too."""

    name = "scored"
    candidates = 32

    def draw(self, rng: np.random.Generator) -> None:
        super().draw(rng)
        self.factors = rng.uniform(0.5, 1.5, size=4)
        self.slope = float(rng.choice([10.0, -10.0, 0.0]))  # 1 / τ
        self.strength = _log_uniform(rng, 1.0, 30.0)

    def scores(self, drawn: Floats) -> Floats:
        """[M, D] -> [M]."""
        origin = np.where(self.source, self.prior, 0.0)
        origin = origin / origin.sum() if origin.sum() > 0 else self.source / self.source.sum()
        distance = np.abs(drawn - origin).sum(axis=1) / 2
        logs = np.log(np.where(drawn > 0, drawn, 1.0))
        spread = -(drawn * logs).sum(axis=1) / math.log(len(self.names))
        alone = np.maximum(drawn.max(axis=1) - 0.5, 0.0) * 2
        terms = np.stack([-distance, drawn[:, ~self.source].sum(axis=1), spread, -alone])
        return np.asarray(self.factors @ terms)

    def wanted(self, history: History, rng: np.random.Generator) -> Weights:
        half = self.candidates // 2
        evenly = rng.dirichlet(np.ones(len(self.names)), size=half)
        about = np.stack(
            [
                _mixed(share, _split(self.prior, self.source, rng, self.strength), self.source)
                for share in rng.random(half)
            ]
        )
        drawn = np.vstack([evenly, about])
        return np.asarray(drawn[rng.choice(len(drawn), p=_softmax(self.slope * self.scores(drawn)))])


SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind for kind in (Static, Walk, Ramp, Late, Early, LossGreedy, Scored, Uniform)
}


def make(name: str, names: Sequence[str], source: Bools, prior: Weights, seed: int, budget: Budget) -> Policy:
    """The sampler of that name for one trajectory. names, source and prior [D] as the corpus has them; the prior is the domains' natural
    shares. Raises BadInput for an unknown name."""
    if name not in SAMPLERS:
        raise BadInput(f"--sampler: {name}: no such sampler; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name](names, source, prior, seed, budget)


def parse_mix(text: str) -> dict[str, float]:
    """`ramp=2,walk` as {name: weight}; a name alone counts 1. Raises BadInput for unknown names and weights that are none."""
    found: dict[str, float] = {}
    for word in text.split(","):
        name, _, number = word.strip().partition("=")
        if name not in SAMPLERS:
            raise BadInput(f"--sampler: {name or text!r}: no such sampler; there are {', '.join(SAMPLERS)}")
        try:
            weight = float(number) if number else 1.0
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise BadInput(f"--sampler: {word.strip()}: expected NAME or NAME=WEIGHT with a weight above 0")
        if name in found:
            raise BadInput(f"--sampler: {name}: named twice")
        found[name] = weight
    return found


def assign(mix: Mapping[str, float], n: int, seed: int) -> list[str]:
    """The sampler of each of n trajectories, as even as the weights allow. The first of them stay the same where n grows."""
    names, weights = list(mix), np.array(list(mix.values()), dtype=np.float64)
    chosen = Picker(names, key_of(seed, "samplers")).pick(weights / weights.sum(), n)
    return [names[i] for i in chosen]


def trajectory_seed(seed: int, index: int) -> int:
    """The seed of trajectory `index` (from 0) of a swarm."""
    return key_of(seed, "trajectory", index)


# ---------------------------------------------------------------- datamix sample


def run(
    corpus: Corpus | None,
    names: Sequence[str] = (),
    targets: Sequence[str] = (),
    *,
    prior: Mapping[str, float] | None = None,
    sampler: str = DEFAULT_MIX_UNSEEN,
    trajectories: int = 24,
    steps: int = 16,
    tokens: int = 1,
    source_share: float = 1.0,
    max_epochs: float = 0.0,
    seed: int = 0,
    output: str | None = None,
    overwrite: bool = False,
) -> int:
    """Writes what a swarm elsewhere should train on: a JSON line {id, sampler, step, weights} for each step of each trajectory.

    Domains, roles and natural shares are the corpus's, or `names` (all domains) and `targets` (which of them are targets), evenly unless
    `prior` says otherwise. Returns the exit status. Raises BadInput for domains that cannot be mixed, samplers that look at losses, an output
    within the corpus, max_epochs that its text cannot keep, and max_epochs without a corpus, as nobody knows how much text there is.
    """
    mix = parse_mix(sampler)
    for name in mix:
        if SAMPLERS[name].sees_losses:
            raise BadInput(
                f"--sampler: {name}: follows losses, and a list of mixtures knows none; use it in `datamix swarm`"
            )
    if min(trajectories, steps, tokens) < 1:
        raise BadInput("--trajectories, --steps and tokens: expected 1 or more")
    if not 0 <= source_share <= 1:
        raise BadInput(f"--source-budget: {source_share:g}: expected a share from 0 to 1")
    if corpus is not None:
        names, source = corpus.names, corpus.source
        available = corpus.sizes.astype(np.float64)
    else:
        if unknown := [name for name in targets if name not in names]:
            raise BadInput(f"--target: {unknown[0]}: no such domain; there are {', '.join(names)}")
        check_domains([(name, "target" if name in targets else "source") for name in names], "--domain")
        if max_epochs > 0:
            raise BadInput("--max-epochs: needs a corpus, which says how much text there is")
        source, available = np.array([name not in targets for name in names]), np.ones(len(names))
    natural = available / available.sum() if prior is None else from_names(prior, names, "--prior")
    budget = Budget(tokens, steps, source_share, max_epochs)
    if corpus is not None:
        keep_inputs(output, [corpus.folder])
        check_text(corpus, budget)
    decides: dict[str, Any] = {
        "domains": {name: "source" if s else "target" for name, s in zip(names, source, strict=True)},
        "prior": to_names(natural, names), "available": available.tolist() if max_epochs > 0 else None, "sampler": sampler,
        "trajectories": trajectories, "steps": steps, "tokens": tokens, "source_share": source_share, "max_epochs": max_epochs, "seed": seed,
    }  # fmt: skip
    unknown_loss = np.full(len(names), np.nan)
    with Output(
        output, tool="datamix", version=__version__, verb="sample", options=decides, overwrite=overwrite
    ) as out:
        if out.finished:
            print(f"datamix: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        for index, kind in enumerate(assign(mix, trajectories, seed)):
            policy = make(kind, names, source, natural, trajectory_seed(seed, index), budget)
            history = History(list(names), source, available, np.ones(len(names)), budget)
            for step in range(steps):
                weights = policy.decide(history).weights
                history.add(weights, unknown_loss)
                out.write({"id": f"t{index:04d}", "sampler": kind, "step": step, "weights": to_names(weights, names)})
        out.finish({"trajectories": trajectories, "written": trajectories * steps}, seed=seed)
    return 0


# ---------------------------------------------------------------- pieces


def _softmax(logits: Floats) -> Weights:
    found = np.exp(logits - logits.max())
    return np.asarray(found / found.sum())


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _split(prior: Weights, source: Bools, rng: np.random.Generator, strength: float | None = None) -> Weights:
    """Weights [D] that sum to 1 within each role, Dirichlet about the prior there; the larger the strength, the nearer."""
    strength = _log_uniform(rng, 2.0, 50.0) if strength is None else strength
    found = np.zeros(len(prior))
    for role in (source, ~source):
        within = prior[role] if prior[role].sum() > 0 else np.ones(int(role.sum()))
        found[role] = dirichlets(rng, strength * len(within) * (within / within.sum())[None])[0]
    return found


def _mixed(share: float, split: Weights, source: Bools) -> Weights:
    return np.where(source, share, 1 - share) * split
