"""What the rivals may be told: the options of `datamix baseline`, what each means, and which method reads which.

Where it sits: below the registry and the verb of this package; the parser of the command never reaches the methods.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tenfold_shared import BadInput


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `datamix baseline` may be told. None: the method's or the data's own. OPTIONS says what each means and who reads it."""

    seed: int = 0
    workers: int = 1
    proxy: str = "22k"
    base: str = "train"
    steps: int = 16
    tokens: int = 8192
    source_budget: float | None = None
    max_epochs: float = 0.0
    proxy_tokens: int | None = None
    feedback_tokens: int = 2048
    objective: str | None = None
    target_share: float | None = None
    within: str = "even"
    mixing_temperature: float | None = None
    test: str | None = None
    task: str | None = None
    prior: str | None = None
    regression: str | None = None
    candidates: int | None = None
    best: int | None = None
    rounds: int | None = None
    cv: int = 0
    regmix_stages: int = 4
    online: bool = False
    eta: float | None = None
    smoothing: float | None = None
    mu: float = 0.05
    factor: float = 0.625
    lp_steps: int = 4
    lp_rounds: int | None = None
    aioli_rounds: int = 4
    ema: float | None = None
    alpha: float | None = None
    kl: float = 0.1
    repetition: float = 4.0


OPTIONS: dict[str, str] = {
    "seed": "seed of proxies and draws",
    "workers": "processes that train proxies",
    "proxy": "preset or FILE.toml of the proxies (CORPUS)",
    "base": "`train`: proxies go on from a base trained on the source domains evenly; `none`: from nothing (CORPUS)",
    "steps": "steps of a run (CORPUS)",
    "tokens": "tokens of a step (CORPUS)",
    "source_budget": "share of all tokens that may be source text; default 1, or what the swarm's runs had",
    "max_epochs": "how often a domain's text may be seen in a run, 0 is no limit (CORPUS)",
    "proxy_tokens": "tokens that proxies may train on in all; default 24 runs (best-fixed, regmix, regmix-d, olmix, doremi, doge, aioli)",
    "feedback_tokens": "held-out tokens a domain that proxies are measured on (CORPUS)",
    "objective": "balanced (own swarms and corpora), mean (imported ones), or one metric (best-fixed, regmix, regmix-d, olmix, doge, aioli)",
    "target_share": "share of target text (fixed)",
    "within": "even or proportional: the split within a role (fixed); both: try either (best-fixed)",
    "mixing_temperature": "T of p^(1/T), default 2 (temperature); T of softmax(loss/T), default 1 (loss-softmax)",
    "test": "SWARM2: rank correlations of the regressions on it (regmix, olmix)",
    "task": "which task of a swarm of several (regmix, regmix-d, olmix)",
    "prior": "FILE of a mixture around which is searched; default sizes, or the mean of an imported swarm (regmix, regmix-d, olmix)",
    "regression": "lightgbm, linear or ridge (regmix); auto, lightgbm or ridge (regmix-d)",
    "candidates": "mixtures (regmix: 100000) or schedules (regmix-d: 20000) that are searched",
    "best": "how many of the best are averaged, default 128 (regmix, regmix-d)",
    "rounds": "of LightGBM: default 1000 (regmix), 300 (regmix-d)",
    "cv": "folds that choose the number of rounds; 0: all of them (regmix)",
    "regmix_stages": "of a schedule, default 4 (regmix-d)",
    "online": "plan anew at every stage; the schedule is what it does in a run of the proxy (regmix-d, CORPUS)",
    "eta": "step of the weights: 1 (doremi), 0.2 (aioli)",
    "smoothing": "share spread evenly: 1e-4 (doremi), 0 (doge)",
    "mu": "step 1/mu of the weights, default 0.05 (doge)",
    "factor": "weight of the one domain in a smoothed one-hot, default 0.625 (aioli)",
    "lp_steps": "updates on each smoothed one-hot, default 4 (aioli)",
    "lp_rounds": "sweeps over the domains in a round's LearnParams; default as many as the tokens allow (aioli)",
    "aioli_rounds": "rounds of a run, each with a mixture of its own, default 4 (aioli)",
    "ema": "moving average of the matrix over rounds; default none (aioli)",
    "alpha": "moving average of rewards; default sums (odm)",
    "kl": "weight of the divergence from the prior, default 0.1 (olmix)",
    "repetition": "how often a domain's text may be repeated, default 4 (olmix)",
}
_ENGINE = ("seed", "workers", "proxy", "base", "steps", "tokens", "source_budget", "max_epochs", "feedback_tokens")
USES: dict[str, tuple[str, ...]] = {
    "proportional": ("source_budget",),
    "uniform": ("source_budget",),
    "temperature": ("source_budget", "mixing_temperature"),
    "fixed": ("source_budget", "target_share", "within"),
    "best-fixed": (*_ENGINE, "proxy_tokens", "objective", "within"),
    "regmix": (*_ENGINE, "proxy_tokens", "objective", "test", "task", "prior", "regression", "candidates", "best", "rounds", "cv"),
    "regmix-d": (*_ENGINE, "proxy_tokens", "objective", "task", "prior", "regression", "candidates", "best", "rounds", "regmix_stages", "online"),
    "olmix": (*_ENGINE, "proxy_tokens", "objective", "test", "task", "prior", "kl", "repetition"),
    "doremi": (*_ENGINE, "proxy_tokens", "eta", "smoothing"),
    "doge": (*_ENGINE, "proxy_tokens", "objective", "mu", "smoothing"),
    "aioli": (*_ENGINE, "proxy_tokens", "objective", "eta", "factor", "lp_steps", "lp_rounds", "aioli_rounds", "ema"),
    "odm": (*_ENGINE, "objective", "alpha"),
    "loss-softmax": (*_ENGINE, "objective", "mixing_temperature"),
}  # fmt: skip


def settings_of(name: str, options: dict[str, Any]) -> Settings:
    """Options as the verb has them; those that are None are as if not given. Raises BadInput for an unknown method, an option that it does
    not read, or a value out of its range."""
    if name not in USES:
        raise BadInput(f"baseline {name}: no such method; there are {', '.join(USES)}")
    given = {key: value for key, value in options.items() if value is not None}
    try:
        found = msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise BadInput(f"baseline {name}: {error}") from None
    blank = Settings()
    for key in given:
        if key not in USES[name] and getattr(found, key) != getattr(blank, key) and key not in _ENGINE:
            raise BadInput(f"baseline {name}: --{key.replace('_', '-')} is not read by it; leave it out")
    if found.source_budget is not None and not 0 <= found.source_budget <= 1:
        raise BadInput(f"--source-budget {found.source_budget:g}: expected a share from 0 to 1")
    for key in (
        "workers",
        "steps",
        "tokens",
        "feedback_tokens",
        "proxy_tokens",
        "candidates",
        "best",
        "rounds",
        "regmix_stages",
        "lp_steps",
        "lp_rounds",
        "aioli_rounds",
    ):
        value = getattr(found, key)
        if value is not None and value < 1:
            raise BadInput(f"--{key.replace('_', '-')} {value}: expected 1 or more")
    if found.base not in ("train", "none"):
        raise BadInput(f"--base {found.base}: expected train or none")
    if found.cv < 0 or found.cv == 1:
        raise BadInput(f"--cv {found.cv}: expected 0, or 2 folds or more")
    return found
