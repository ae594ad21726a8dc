"""`datamix baseline`: a method on a corpus, with proxies of its own, or on the finished runs of a swarm.

Where it sits: above the methods of this package; it loads what they work on, trains a base where one is wanted, and hands their answers
to results.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamix import mixture, swarms
from datamix.baselines import NAMES, regmix_kind, sized, static, watcher
from datamix.baselines import objective as objectives
from datamix.baselines.results import Found, deliver
from datamix.baselines.settings import USES, Settings
from datamix.corpus import FILE, Corpus
from datamix.history import Budget, Floats, Trajectory
from datamix.mixture import Weights
from datamix.schedule import keep_inputs
from tenfold_shared import BadInput

RUNS = 24  # of proxies, where nothing else is said
SWARM_OR_CORPUS = ("regmix", "regmix-d", "olmix")


def run(
    name: str, data: str, told: Settings, *, output: str | None, overwrite: bool, as_json: bool, quiet: bool
) -> int:
    """Returns the exit status. Raises BadInput for data or options that do not go together, and an output within an input."""
    keep_inputs(output, [data, told.test, told.prior, told.proxy])
    folder = Path(data)
    corpus = (folder / FILE).exists() or not (folder / swarms.TRAJECTORIES).exists()
    if not corpus and name not in SWARM_OR_CORPUS:
        raise BadInput(f"{data}: is a swarm; baseline {name} wants a corpus")
    inputs = [folder / FILE if corpus else folder / swarms.TRAJECTORIES]
    if corpus:
        loaded = Corpus.load(folder)
        if told.task is not None:
            raise BadInput(f"--task {told.task}: {data} is a corpus, which has no tasks; leave it out")
        if told.test is not None:
            raise BadInput(f"--test {told.test}: {data} is a corpus; rank correlations need a swarm to learn from")

        def work() -> Found:
            return _on_corpus(name, loaded, told, quiet)
    else:
        if told.online:
            raise BadInput(
                f"--online: {data} is a swarm, in which nothing can be run; give the corpus, or leave it out for a schedule"
            )
        if told.test is not None:
            inputs.append(Path(told.test) / swarms.TRAJECTORIES)
            if not inputs[-1].exists():
                raise BadInput(f"--test {told.test}: no {swarms.TRAJECTORIES} in it; expected a swarm")
        tokens = 0

        def work() -> Found:
            return _on_swarm(name, data, told, wanted=output is not None or told.test is None)

    if told.prior is not None:
        inputs.append(Path(told.prior))
        if not inputs[-1].is_file():
            raise BadInput(f"--prior {told.prior}: no such file")
    tokens = told.tokens if corpus else _tokens_of(data, told.task)
    decides = {"method": name} | {
        key: getattr(told, key) for key in USES[name] if key not in ("workers", "test", "prior")
    }
    return deliver(
        work, tokens, output, options=decides, inputs=inputs, seed=told.seed, overwrite=overwrite, as_json=as_json
    )


def _on_corpus(name: str, corpus: Corpus, told: Settings, quiet: bool) -> Found:
    share = 1.0 if told.source_budget is None else told.source_budget
    if name in ("proportional", "uniform", "temperature", "fixed"):
        return sized(name, corpus, told, share)
    corpus.verify()
    from datamix.baselines.bench import Bench
    from datamix.proxy import Proxy, config_of, train_base
    from datamix.steer import check_budget
    from tenfold_shared.progress import Progress

    config = config_of(told.proxy)
    budget = Budget(told.tokens, told.steps, share, told.max_epochs)
    rows = check_budget(corpus, Proxy(config, corpus.listing.vocabulary, 0), budget)
    one_run = rows * config.context * budget.steps
    allowed = RUNS * one_run if told.proxy_tokens is None else told.proxy_tokens
    base = None
    base_tokens = 0
    if told.base == "train":
        even = corpus.source / corpus.source.sum()
        with Progress("base", config.base_updates, "update", quiet) as bar:
            base = train_base(config, corpus, even, told.seed, tick=lambda: bar.update(50)).state()
        base_tokens = config.base_updates * config.batch * config.context
    objective = told.objective or "balanced"
    prior = None if told.prior is None else _read_prior(told.prior, corpus.names)
    bench = Bench(
        corpus, config, base, budget, allowed, told.seed,
        objective=objective, workers=told.workers, feedback_tokens=told.feedback_tokens, prior=prior,
    )  # fmt: skip
    method = NAMES[name]
    if method is None:
        from datamix.baselines import odm

        found = odm.from_proxies(bench, watcher(name, told))
    else:
        found = method(bench, told)
        if found.live is not None:  # regmix-d online: show what it does
            bench.proxy_tokens += bench.run_tokens
            shown = bench.histories([found.live], [bench.seed_of("shown")])[0]
            if shown is None:
                raise BadInput(f"{found.method}: a loss of the proxy is no number; lower its rate")
            found.schedule, found.feedback, found.proxy_tokens = shown.weights, shown.losses, bench.used
    found.more = {**found.more, "base_tokens": base_tokens}
    return found


@dataclass
class Learnt:
    """A swarm as the regressions read it: table (x [n, D], y [n, M]) and what its runs say of roles, base and budget (None: imported)."""

    names: list[str]
    x: Floats
    metrics: list[str]
    y: Floats
    runs: list[Trajectory]
    source: NDArray[np.bool_] | None
    base: Floats | None
    share: float


def _learnt(folder: str, told: Settings) -> Learnt:
    """Raises BadInput as swarms.table."""
    _, names, x, metrics, y = swarms.table(folder, told.task)
    runs = [one for one in swarms.read(folder) if one.status == "done" and (told.task is None or one.task == told.task)]
    first = runs[0]
    own = swarms.about(folder).get("kind", "runs") == "runs" and all(
        metric in first.base and metric in first.roles for metric in metrics
    )
    if own and len(tasks := sorted({one.task for one in runs})) > 1:
        raise BadInput(
            f"{folder}: runs of {len(tasks)} tasks, each with its own base; choose one with --task, such as {tasks[0]}"
        )
    source = np.array([first.roles[name] == "source" for name in names]) if own else None
    base = np.array([first.base[metric] for metric in metrics]) if own else None
    share = first.budget.source_share if told.source_budget is None else told.source_budget
    return Learnt(names, x, metrics, y, runs, source, base, share if own else 1.0)


def _tokens_of(folder: str, task: str | None) -> int:
    """Tokens of a step of a swarm's runs; 0 where nobody knows."""
    runs = [one for one in swarms.read(folder) if one.status == "done" and (task is None or one.task == task)]
    return runs[0].steps[0].tokens_seen if runs else 0


def _read_prior(path: str, names: list[str]) -> Weights:
    """The mixture of a mixture/1 file, or of the first step of a schedule."""
    from datamix.schedule import load_any

    return mixture.from_names(load_any(path)[0].weights, names, path)


def _prior_of(told: Settings, learnt: Learnt) -> Weights:
    """--prior, else sizes within the budget, else the mean of the swarm's mixtures."""
    if told.prior is not None:
        return _read_prior(told.prior, learnt.names)
    available = np.array([learnt.runs[0].available.get(name, 0) for name in learnt.names], dtype=np.float64)
    if learnt.source is not None and (available > 0).all():
        return static.proportional(available, learnt.source, learnt.share)
    mean = learnt.x.mean(axis=0)
    return mean / mean.sum()


def _on_swarm(name: str, folder: str, told: Settings, wanted: bool) -> Found:
    """wanted: a mixture is asked for, not only correlations."""
    from datamix.baselines import olmix, regmix, regmix_d

    learnt = _learnt(folder, told)
    roles = (
        learnt.source
        if learnt.source is None
        else np.array([learnt.runs[0].roles[metric] == "source" for metric in learnt.metrics])
    )
    objective = objectives.choose(told.objective, learnt.metrics, roles, learnt.base)
    prior = _prior_of(told, learnt)
    trained = sum(one.steps[-1].tokens_seen for one in learnt.runs)
    if name == "regmix-d":
        if learnt.base is None:
            raise BadInput(
                f"{folder}: imported tables hold final losses alone; regmix-d needs a swarm of runs (datamix swarm)"
            )
        kind: Any = told.regression or "auto"
        found = regmix_d.from_runs(
            [one.history() for one in learnt.runs], objective, prior, stages=told.regmix_stages, kind=kind, rounds=told.rounds or 300,
            schedules=told.candidates or regmix_d.SCHEDULES, best=told.best or regmix.BEST, seed=told.seed,
        )  # fmt: skip
        found.proxy_tokens = trained
        return found
    more: dict[str, Any] = {"runs": len(learnt.runs), "objective": objective.name}
    test = None if told.test is None else _aligned(learnt, folder, told)
    law = None
    if name == "olmix":
        law = olmix.fit(learnt.x, learnt.y)
    if test is not None:
        more["tested"] = len(test[0])
        if law is not None:
            each = regmix.spearman(law.predict(test[0]), test[1])
            more["spearman"] = {"mean": float(each.mean()), **dict(zip(learnt.metrics, map(float, each), strict=True))}
        else:
            more |= regmix.correlations(
                ("lightgbm", "linear", "ridge"),
                learnt.x,
                learnt.y,
                *test,
                learnt.metrics,
                told.rounds or regmix.ROUNDS,
                told.cv,
            )
    if not wanted:
        return Found(name, learnt.names, proxy_tokens=trained, more=more)
    if law is not None:
        v = olmix.in_bits(objective, learnt.base)
        available = np.array([learnt.runs[0].available.get(one, 0) for one in learnt.names], dtype=np.float64)
        caps = olmix.caps_of(available, learnt.runs[0].budget.tokens * learnt.runs[0].budget.steps, told.repetition)
        weights, gap = olmix.propose(law, v, prior, told.kl, caps, learnt.source, learnt.share)
        more |= {"kl": told.kl, "gap": gap}
    else:
        kind = regmix_kind(told)
        predictor = regmix.fit(kind, learnt.x, learnt.y, told.rounds or regmix.ROUNDS, told.cv)
        drawn = regmix.feasible(
            regmix.candidates(prior, told.candidates or regmix.SAMPLES, told.seed), learnt.source, learnt.share
        )
        weights, value = regmix.propose(predictor, objective, drawn, told.best or regmix.BEST)
        more |= {"predicted": value, "regression": kind}
    return Found(name, learnt.names, weights=weights, proxy_tokens=trained, more=more)


def _aligned(learnt: Learnt, folder: str, told: Settings) -> tuple[Floats, Floats]:
    """The test swarm's (x, y) in the order of the first one's domains and metrics. Raises BadInput naming the first that is in one only."""
    assert told.test is not None
    _, names, x, metrics, y = swarms.table(told.test)
    for what, one, other in (("domain", learnt.names, names), ("metric", learnt.metrics, metrics)):
        if odd := sorted(set(one) ^ set(other)):
            where = folder if odd[0] in one else told.test
            raise BadInput(f"--test {told.test}: {odd[0]}: is a {what} of {where} only; expected the same ones in both")
    order = [names.index(name) for name in learnt.names]
    columns = [metrics.index(metric) for metric in learnt.metrics]
    return x[:, order], y[:, columns]
