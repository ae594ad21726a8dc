"""DoReMi: weights by group-robust excess loss of a proxy over a reference (Xie et al., arXiv 2305.10429; sangmichaelxie/doremi, MIT).

A reference model is trained on reference weights. Then a proxy, from the same start; at every update, for every domain d,
    score_d = mean over the domain's tokens of max(loss of proxy - loss of reference, 0);  a domain without a row keeps its last score
    log w_d += η · score_d;  w = w / Σw;  w = (1 - ε) w + ε / D                                        (doremi/trainer.py, doremiv1)
and the proxy steps on Σ (w_d / q_d) · loss over rows, divided by Σ (w_d / q_d), where q are the weights that rows are drawn with. The
answer is the mean of w over the updates. η = 1 and ε = 1e-4 are the authors' defaults; near one-hot weights are a known failure (issue 5),
for which they advise η = 0.1, a proportional reference and larger batches. w begins even.

Ours: reference weights and q are proportional to sizes within the source budget, losses are compared in nats a token, the answer is
projected on the source budget, and where tokens allow several pairs of runs their answers are averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamix.baselines.objective import multiplied
from datamix.history import Floats
from datamix.mixture import Weights, with_source_share
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from datamix.baselines.bench import Bench
    from datamix.baselines.results import Found

ETA, EPS = 1.0, 1e-4


def update(w: Weights, scores: Floats, eta: float = ETA, eps: float = EPS) -> Weights:
    """One step of the weights [D]."""
    return multiplied(w, eta * scores, eps)


def scores(excess: Floats, domains: NDArray[np.int64], last: Floats) -> Floats:
    """excess [n, tokens], loss of proxy minus that of reference; domains [n]; last [D]: scores before, kept where a domain has no row."""
    found = last.copy()
    clipped = np.maximum(excess, 0)
    for d in np.unique(domains):
        found[d] = clipped[domains == d].mean()
    return found


def one_pair(bench: Bench, number: int, eta: float, eps: float) -> tuple[Weights, Floats]:
    """A reference and a proxy; the mean weights [D] and their path [updates, D]. Raises BadInput where a loss is no number."""
    import torch

    q, batch, updates = bench.prior, bench.config.batch, bench.updates
    reference = bench.fresh()
    rows, _ = bench.mixer("reference", number).draw(q, updates * batch)
    reference.train(rows, updates)
    proxy, mixer = bench.fresh(), bench.mixer("run", number)
    proxy.total = updates
    w, last = np.full(len(q), 1 / len(q)), np.zeros(len(q))
    path = np.empty((updates, len(q)))
    for i in range(updates):
        drawn, domains = mixer.draw(q, batch)
        tokens = torch.from_numpy(drawn)
        with torch.no_grad():
            excess = (proxy.losses(tokens) - reference.losses(tokens)).double().numpy()
        if not np.isfinite(excess).all():
            raise BadInput(f"doremi: a loss is no number after {i} updates; lower the proxy's rate")
        last = scores(excess, domains, last)
        w = update(w, last, eta, eps)
        of_rows = w[domains] / q[domains]
        proxy.backward(tokens, torch.from_numpy((of_rows / of_rows.mean()).astype(np.float32)))
        proxy.apply()
        path[i] = w
    bench.spent(2 * updates * batch)
    return path.mean(axis=0), path


def from_proxies(bench: Bench, eta: float = ETA, eps: float = EPS) -> Found:
    """As many pairs of runs as the tokens allow. Raises BadInput where they allow none."""
    from datamix.baselines.results import Found

    if not (eta > 0 and 0 <= eps <= 1):
        raise BadInput(f"--eta {eta:g} and --smoothing {eps:g}: expected a step above 0 and a share from 0 to 1")
    pairs = bench.need(2, "doremi", ", for a reference and a proxy") // 2
    answers = np.array([one_pair(bench, i, eta, eps)[0] for i in range(pairs)])
    raw = answers.mean(axis=0)
    weights = with_source_share(raw / raw.sum(), bench.corpus.source, min(bench.budget.source_share, 1.0))
    more = {"eta": eta, "smoothing": eps, "pairs": pairs, "spread": float(answers.std(axis=0).max())}
    return Found("doremi", bench.corpus.names, weights=weights, proxy_tokens=bench.used, more=more)
