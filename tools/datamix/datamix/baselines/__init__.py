"""Rivals of the agent: what others use to choose a mixture, each in a module of its own beside its source's rule.

    datamix baseline proportional|uniform|temperature|fixed|best-fixed CORPUS       static.py
    datamix baseline regmix|regmix-d|olmix SWARM | CORPUS                            regmix.py, regmix_d.py, olmix.py
    datamix baseline doremi|doge|aioli CORPUS                                        doremi.py, doge.py, aioli.py
    datamix baseline odm|loss-softmax CORPUS                                         odm.py

`run` is the verb, `policies` makes a rival's policy for a run that is compared with others, from the same base and with as many tokens of
proxies at most. settings.py holds their options, objective.py says what they optimise, bench.py trains their proxies, results.py writes their answers, verb.py reads
corpora and swarms for the verb. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from datamix.baselines import static
from datamix.baselines.results import Found
from datamix.baselines.settings import OPTIONS, USES, Settings, settings_of
from datamix.corpus import Corpus
from datamix.history import Budget, Policy
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from datamix.baselines.bench import Bench
    from datamix.proxy import ProxyConfig

__all__ = ["NAMES", "OPTIONS", "USES", "Found", "Settings", "found_for", "policies", "run", "settings_of"]


def sized(name: str, corpus: Corpus, told: Settings, share: float) -> Found:
    """The methods that know sizes alone."""
    sizes, source = corpus.sizes, corpus.source
    more: dict[str, Any] = {"source_budget": share}
    if name == "proportional":
        found = static.proportional(sizes, source, share)
    elif name == "uniform":
        found = static.uniform(source, share)
    elif name == "temperature":
        more["mixing_temperature"] = 2.0 if told.mixing_temperature is None else told.mixing_temperature
        found = static.temperature(sizes, more["mixing_temperature"], source, share)
    else:
        if told.target_share is None:
            raise BadInput(
                "baseline fixed: --target-share is missing; give a share, or use best-fixed, which tries them"
            )
        more |= {"target_share": told.target_share, "within": told.within}
        found = static.fixed(told.target_share, sizes, source, _within(told.within), share)
    return Found(name, corpus.names, weights=found, more=more)


def _within(given: str) -> static.Within:
    if given == "even":
        return "even"
    if given == "proportional":
        return "proportional"
    raise BadInput(f"--within {given}: expected even or proportional")


def _best_fixed(bench: Bench, told: Settings) -> Found:
    return static.from_proxies(bench, ("even", "proportional") if told.within == "both" else (_within(told.within),))


def _regmix(bench: Bench, told: Settings) -> Found:
    from datamix.baselines import regmix

    return regmix.from_proxies(
        bench,
        regmix_kind(told),
        told.rounds or regmix.ROUNDS,
        told.cv,
        told.candidates or regmix.SAMPLES,
        told.best or regmix.BEST,
    )


def regmix_kind(told: Settings) -> Any:
    kind = told.regression or "lightgbm"
    if kind not in ("lightgbm", "linear", "ridge"):
        raise BadInput(f"--regression {kind}: expected lightgbm, linear or ridge")
    return kind


def _regmix_d(bench: Bench, told: Settings) -> Found:
    from datamix.baselines import regmix_d

    kind: Any = told.regression or "auto"
    return regmix_d.from_proxies(
        bench, told.online, told.regmix_stages, kind, told.rounds or 300, told.candidates or regmix_d.SCHEDULES, told.best or regmix_d.BEST
    )  # fmt: skip


def _olmix(bench: Bench, told: Settings) -> Found:
    from datamix.baselines import olmix

    return olmix.from_proxies(bench, told.kl, told.repetition)


def _doremi(bench: Bench, told: Settings) -> Found:
    from datamix.baselines import doremi

    return doremi.from_proxies(
        bench, doremi.ETA if told.eta is None else told.eta, doremi.EPS if told.smoothing is None else told.smoothing
    )


def _doge(bench: Bench, told: Settings) -> Found:
    from datamix.baselines import doge

    return doge.from_proxies(bench, told.mu, told.smoothing or 0.0)


def _aioli(bench: Bench, told: Settings) -> Found:
    from datamix.baselines import aioli

    return aioli.from_proxies(
        bench, aioli.ETA if told.eta is None else told.eta, told.aioli_rounds, told.lp_steps, told.factor, told.ema, told.lp_rounds
    )  # fmt: skip


def watcher(name: str, told: Settings) -> Any:
    from datamix.baselines import odm

    if name == "odm":
        return odm.OdmPolicy(alpha=told.alpha)
    return odm.LossSoftmaxPolicy(1.0 if told.mixing_temperature is None else told.mixing_temperature)


NAMES: dict[str, Callable[[Bench, Settings], Found] | None] = {
    "proportional": None, "uniform": None, "temperature": None, "fixed": None, "best-fixed": _best_fixed, "regmix": _regmix, "regmix-d": _regmix_d,
    "olmix": _olmix, "doremi": _doremi, "doge": _doge, "aioli": _aioli, "odm": None, "loss-softmax": None,
}  # fmt: skip


def policies(
    name: str, corpus: Corpus, config: ProxyConfig, base_state: dict[str, Tensor] | None, budget: Budget, proxy_tokens: int, seed: int, *,
    objective: str = "balanced", workers: int = 1, options: dict[str, Any] | None = None,
) -> Policy:  # fmt: skip
    """The policy that a method would use in a run of this budget from this base, having trained proxies on at most proxy_tokens tokens.
    `regmix-d-online` is regmix-d with online planning. Raises BadInput where the tokens do not suffice, Missing without lightgbm or scipy
    where a method needs them."""
    return found_for(
        name,
        corpus,
        config,
        base_state,
        budget,
        proxy_tokens,
        seed,
        objective=objective,
        workers=workers,
        options=options,
    ).policy


def found_for(
    name: str, corpus: Corpus, config: ProxyConfig, base_state: dict[str, Tensor] | None, budget: Budget, proxy_tokens: int, seed: int, *,
    objective: str = "balanced", workers: int = 1, options: dict[str, Any] | None = None,
) -> Found:  # fmt: skip
    """As `policies`, with the tokens used and the method's figures."""
    given = dict(options or {})
    if name == "regmix-d-online":
        name, given = "regmix-d", {**given, "online": True}
    told = settings_of(name, given)
    method = NAMES[name]
    if name in ("odm", "loss-softmax"):
        return Found(name, corpus.names, live=watcher(name, told))
    if method is None:
        return sized(name, corpus, told, min(budget.source_share, 1.0))
    from datamix.baselines.bench import Bench

    bench = Bench(
        corpus,
        config,
        base_state,
        budget,
        proxy_tokens,
        seed,
        objective=objective,
        workers=workers,
        feedback_tokens=told.feedback_tokens,
    )
    return method(bench, told)


def run(
    name: str, data: str, *, options: dict[str, Any], output: str | None, overwrite: bool, as_json: bool, quiet: bool
) -> int:  # fmt: skip
    """The verb: data is a CORPUS, or for regmix, regmix-d and olmix a SWARM. Writes mixture/1, or a schedule where the answer is one."""
    from datamix.baselines import verb

    return verb.run(
        name, data, settings_of(name, options), output=output, overwrite=overwrite, as_json=as_json, quiet=quiet
    )
