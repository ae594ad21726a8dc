"""DoGE: weights by how well a domain's gradient agrees with those of all (Fan et al., arXiv 2310.15393; as HazyResearch/aioli has it,
trainer/doge_trainer.py, Apache-2.0).

At every update, with g_d the gradient of domain d's mean loss in the batch, cut to norm 1 (0 for a domain without a row):
    s_d = lr · <g_d, Σ_k g_k> / (mean_d |g_d| + 1e-6), cut to [lr · lo, lr · hi], lo = 0, hi = 5
    log w_d += s_d / μ;  w = softmax;  w = (1 - ε) w + ε / D
and the model steps on Σ w_d g_d. The answer is the mean of w over the updates. μ = 0.05, ε = 0. w begins even.

Ours: Σ_k g_k is weighted by what a unit of each loss counts in the objective (summing to D: all 1, those of `--objective mean`, is the
paper's), so that domains are judged by what they do for the objective; rows are drawn proportionally to sizes within the source budget; the answer is projected on the budget; several runs are averaged where tokens allow them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datamix.baselines.objective import multiplied
from datamix.history import Floats
from datamix.mixture import Weights, with_source_share
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

MU, LOW, HIGH = 0.05, 0.0, 5.0


def scores(gradients: Floats, wanted: Floats, lr: float, low: float = LOW, high: float = HIGH) -> Floats:
    """gradients [D, P], each cut already; wanted [D], the weight of each in the sum they are to agree with -> [D]."""
    agreement = gradients @ (wanted @ gradients)
    found = lr * agreement / (np.linalg.norm(gradients, axis=1).mean() + 1e-6)
    return np.clip(found, lr * low, lr * high)


def update(w: Weights, score: Floats, mu: float = MU, eps: float = 0.0) -> Weights:
    return multiplied(w, score / mu, eps)


def one_run(bench: Bench, number: int, mu: float, eps: float, wanted: Floats) -> tuple[Weights, Floats]:
    """The mean weights [D] and their path [updates, D]. Raises BadInput where a loss is no number."""
    import torch

    batch, updates, d = bench.config.batch, bench.updates, len(bench.corpus.names)
    proxy, mixer = bench.fresh(), bench.mixer("run", number)
    proxy.total = updates
    w = np.full(d, 1 / d)
    path = np.empty((updates, d))
    for i in range(updates):
        drawn, domains = mixer.draw(bench.prior, batch)
        found = torch.zeros(d, len(proxy.flat))
        for k in np.unique(domains):
            loss = proxy.backward(torch.from_numpy(drawn[domains == k]))
            if not np.isfinite(loss):
                raise BadInput(f"doge: a loss is no number after {i} updates; lower the proxy's rate")
            found[k] = proxy.gradient * min(1.0, 1.0 / (float(proxy.gradient.norm()) + 1e-6))
        w = update(w, scores(found.numpy(), wanted, proxy.rate()), mu, eps)
        proxy.gradient.copy_(torch.from_numpy(w.astype(np.float32)) @ found)
        proxy.apply()
        path[i] = w
    bench.spent(updates * batch)
    return path.mean(axis=0), path


def from_proxies(bench: Bench, mu: float = MU, eps: float = 0.0) -> Found:
    """As many runs as the tokens allow. Raises BadInput where they allow none."""
    from datamix.baselines.results import Found

    if not (mu > 0 and 0 <= eps <= 1):
        raise BadInput(f"--mu {mu:g} and --smoothing {eps:g}: expected a step above 0 and a share from 0 to 1")
    runs = bench.need(1, "doge")
    answers = np.array([one_run(bench, i, mu, eps, bench.shares)[0] for i in range(runs)])
    raw = answers.mean(axis=0)
    weights = with_source_share(raw / raw.sum(), bench.corpus.source, min(bench.budget.source_share, 1.0))
    more = {
        "objective": bench.objective.name,
        "mu": mu,
        "smoothing": eps,
        "runs": runs,
        "spread": float(answers.std(axis=0).max()),
    }
    return Found("doge", bench.corpus.names, weights=weights, proxy_tokens=bench.used, more=more)
