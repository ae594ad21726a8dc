"""Rank correlations and what few runs allow to say of them.

Where it sits: below diagnose.py, explain.py and baselines/regmix.py, which all rank things. numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamix.history import Floats


def ranks(x: Floats) -> Floats:
    """1..n, ties share their mean."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = (ends - (counts - 1) / 2)[place]
    return means


def spearman(x: Floats, y: Floats) -> float | None:
    """Rank correlation; None where one of them is constant or there are fewer than three."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def interval(
    x: Floats, y: Floats, clusters: NDArray[Any] | None = None, seed: int = 0, draws: int = 2000
) -> dict[str, Any]:
    """{value, low, high, n}: rank correlation with the 95 % interval of the percentile bootstrap over pairs, or over `clusters` [n], the
    labels of pairs that are drawn together. All None where it has no value; -1 to 1, which says nothing, where nothing can be drawn anew."""
    value, rng = spearman(x, y), np.random.default_rng(seed)
    if value is None:
        return {"value": None, "low": None, "high": None, "n": len(x)}
    names, place = np.unique(np.arange(len(x)) if clusters is None else clusters, return_inverse=True)
    low, high = -1.0, 1.0
    if len(names) > 1:
        picks = rng.integers(len(names), size=(draws, len(names)))
        times = np.stack([np.bincount(pick, minlength=len(names)) for pick in picks])[:, place]
        drawn = repeated(x, y, times.astype(np.float64))
        if len(drawn):
            low, high = map(float, np.quantile(drawn, [0.025, 0.975]))
    return {"value": value, "low": low, "high": high, "n": len(x)}


def repeated(x: Floats, y: Floats, times: Floats) -> Floats:
    """Rank correlations of samples in which pair k is times[i, k] times, [m]; those that have none are left out."""
    centred = []
    for z in (x, y):
        below, same = (z[None] < z[:, None]).astype(np.float64), (z[None] == z[:, None]).astype(np.float64)
        rank = times @ below.T + (times @ same.T + 1) / 2
        centred.append(rank - (times * rank).sum(1, keepdims=True) / times.sum(1, keepdims=True))
    a, b = centred
    size = np.sqrt((times * a * a).sum(1) * (times * b * b).sum(1))
    some = (size > 1e-9) & (times.sum(1) >= 3)
    found: Floats = (times * a * b).sum(1)[some] / size[some]
    return found


def chance(x: Floats, y: Floats, groups: Sequence[Sequence[int]], seed: int = 0, draws: int = 2000) -> float | None:
    """How often a rank correlation as far from 0 comes about when y is permuted within each group of rows: the two-sided p of a
    permutation test, the values given being one of the permutations. None where there is no correlation."""
    value, rng = spearman(x, y), np.random.default_rng(seed)
    if value is None:
        return None
    a, b = (ranks(z) - (len(z) + 1) / 2 for z in (x, y))
    mixed = np.tile(b, (draws, 1))
    for group in groups:
        mixed[:, group] = rng.permuted(mixed[:, group], axis=1)
    as_far = int((np.abs(mixed @ a) >= abs(a @ b) - 1e-9).sum())
    return (as_far + 1) / (draws + 1)
