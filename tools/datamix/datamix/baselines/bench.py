"""The proxies that a rival may train: runs from one base under one budget, every token counted.

A `Bench` holds a task (corpus with roles, proxy shape, base, the run's budget) and an allowance of tokens. Methods ask it for runs under
static mixtures or policies, or take a model and its loader and train as their own rule says (DoReMi, DoGE, Aioli) and tell it what they
used. Losses are those of feedback text: what results are quoted on is never seen here. torch through and through; imported lazily.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamix.baselines import objective as objectives
from datamix.baselines.static import StaticPolicy, proportional
from datamix.corpus import Corpus
from datamix.history import Budget, Floats, History, Policy
from datamix.mixture import Weights, with_source_share
from datamix.proxy import Held, Proxy, ProxyConfig
from datamix.steer import Diverged, Run, check_budget
from datamix.stream import Mixer, Picker, Rows, key_of
from tenfold_shared import BadInput

Arrays = dict[str, NDArray[np.generic]]
Task = tuple[
    Corpus, ProxyConfig, Arrays | None, int
]  # what a process needs to begin a run: corpus, shape, base, feedback tokens


class Bench:
    """base: the state of a Proxy of that shape, or None to begin from nothing (a model initialised by the seed). budget: of one run.
    objective: as objective.choose takes it. `used` counts tokens trained on."""

    def __init__(
        self, corpus: Corpus, config: ProxyConfig, base: dict[str, Tensor] | None, budget: Budget, proxy_tokens: int, seed: int, *,
        objective: str | None = "balanced", workers: int = 1, feedback_tokens: int = 2048, prior: Weights | None = None,
    ) -> None:  # fmt: skip
        self.corpus, self.config, self.budget, self.proxy_tokens, self.seed = corpus, config, budget, proxy_tokens, seed
        self.workers, self.used, self._prior = workers, 0, prior
        arrays = None if base is None else {name: x.detach().cpu().numpy() for name, x in base.items()}
        self._task: Task = (corpus, config, arrays, feedback_tokens)
        proxy = self.fresh()
        self.rows_a_step = check_budget(corpus, proxy, budget)
        self.run_tokens = self.rows_a_step * budget.steps * config.context
        self.held = Held(corpus, config.context, feedback_tokens, "feedback")
        self.base: Floats = proxy.evaluate(self.held)
        if not np.isfinite(self.base).all():
            raise BadInput(
                f"{corpus.folder}: the base's loss of {corpus.names[int(np.flatnonzero(~np.isfinite(self.base))[0])]} is no number"
            )
        self.objective = objectives.choose(objective, corpus.names, corpus.source, self.base)

    @property
    def prior(self) -> Weights:
        """The reference of every method that wants one, within the source budget: the one given, else sizes."""
        if self._prior is not None:
            return with_source_share(self._prior, self.corpus.source, min(self.budget.source_share, 1.0))
        return proportional(self.corpus.sizes, self.corpus.source, min(self.budget.source_share, 1.0))

    @property
    def updates(self) -> int:
        """Updates of one run."""
        return self.rows_a_step * self.budget.steps // self.config.batch

    @property
    def shares(self) -> Floats:
        """[D], what a unit of each domain's loss counts in the objective, summing to D: the weights that make of drops of losses, or of
        gradients, the gain of the objective."""
        found = self.objective.coefficients
        return found / found.sum() * len(found)

    def runs_left(self) -> int:
        return max(self.proxy_tokens - self.used, 0) // self.run_tokens

    def need(self, runs: int, method: str, why: str = "") -> int:
        """How many runs the tokens allow; BadInput where they are fewer than `runs`."""
        found = self.runs_left()
        if found < runs:
            raise BadInput(
                f"--proxy-tokens {self.proxy_tokens}: {found} runs of {self.run_tokens} tokens; {method} needs {runs} or more{why}"
            )
        return found

    def seed_of(self, *what: object) -> int:
        """A seed of this bench's own; the proxies of all methods of one seed see the same text in the same order."""
        return key_of(self.seed, "proxies", *what) % 2**32

    def fresh(self) -> Proxy:
        """The base as a run begins with it."""
        return _begin(self._task, self.seed)

    def mixer(self, *what: object) -> Mixer:
        """A loader of the training rows; no budget is enforced, as what is drawn is the method's own affair."""
        seed = self.seed_of(*what)
        return Mixer(Rows(self.corpus, self.config.context, key_of(seed, "rows")), Picker(self.corpus.names, seed))

    def spent(self, rows: int) -> None:
        self.used += rows * self.config.context

    def histories(
        self, policies: Sequence[Policy], seeds: Sequence[int], budget: Budget | None = None
    ) -> list[History | None]:
        """One run a policy; None where a loss was no number."""
        jobs = [(self._task, budget or self.budget, policy, seed) for policy, seed in zip(policies, seeds, strict=True)]
        self.used += len(jobs) * self.run_tokens
        if self.workers <= 1 or len(jobs) < 2:
            return [_run(job) for job in jobs]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(self.workers, len(jobs)), mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(_run, jobs, chunksize=max(len(jobs) // (4 * self.workers), 1)))

    def statics(self, mixtures: Floats, seeds: Sequence[int]) -> Floats:
        """Final losses [n, D] of runs under static mixtures [n, D]; NaN where a run failed. Measured once, at the end: the same training as
        step by step, as neither picks nor rates depend on where a step ends."""
        whole = Budget(
            self.rows_a_step * self.config.context * self.budget.steps,
            1,
            self.budget.source_share,
            self.budget.max_epochs,
        )
        found = self.histories([StaticPolicy("static", w) for w in mixtures], seeds, whole)
        return np.array([np.full(len(self.corpus.names), np.nan) if one is None else one.losses[-1] for one in found])


def _begin(task: Task, seed: int) -> Proxy:
    corpus, config, arrays, _ = task
    proxy = Proxy(config, corpus.listing.vocabulary, seed if arrays is None else 0)
    if arrays is not None:
        proxy.restore({name: torch.from_numpy(np.array(x)) for name, x in arrays.items()})
    proxy.begin()
    return proxy


def _run(job: tuple[Task, Budget, Policy, int]) -> History | None:
    task, budget, policy, seed = job
    run = Run(task[0], _begin(task, seed), budget, seed, feedback_tokens=task[3], score_tokens=task[3])
    try:
        run.begin()
        for _ in run.steps(policy):
            pass
    except Diverged:
        return None
    return run.history
