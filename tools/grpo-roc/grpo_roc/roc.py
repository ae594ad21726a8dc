"""Which trajectories of a group are kept, and what advantage they have (arXiv 2508.20722, section 2.2.3, equations 4 to 7).

Of N trajectories of a prompt G are kept. Those with reward 0 by chance alone; those with a reward by preference for few penalties. How many of each is their share of N, to a whole
number, and at least two of each where there are two: the success rate of what is kept is that of the group, but for rounding. A group whose rewards
are all equal has nothing to teach and is dropped before.

Pure functions of arrays. What is drawn depends on the seed and on the group's name alone: neither on the order in which its trajectories ended nor on other groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Select = Literal["inverse", "top"]
Reason = Literal["positive", "negative", "quota", "equal_rewards"]
LEAST = 2  # of a class that are kept where there are so many


class Choice(msgspec.Struct, frozen=True):
    """Of a group of N: reasons [N], kept [N] bool, advantage [N] (NaN of those not kept)."""

    reasons: list[Reason]
    kept: NDArray[np.bool_]
    advantage: Floats


def quotas(positives: int, negatives: int, size: int, least: int = LEAST) -> tuple[int, int]:
    """How many of each class are kept so that together they are min(size, N): by largest remainder, a tie to where the positives' number is even; and at least `least` (half of `size`,
    where that is less) of a class that has so many."""
    least = min(least, size // 2)
    total = positives + negatives
    if total <= size:
        return positives, negatives
    floor, left = divmod(positives * size, total)
    kept = floor + (2 * left > total or (2 * left == total and floor % 2 == 1))
    few_negatives, few_positives = min(least, negatives), min(least, positives)
    kept = min(kept, size - few_negatives)
    kept = max(kept, min(few_positives, size), size - negatives)
    return kept, size - kept


def generator(seed: int, group: str) -> np.random.Generator:
    """A group's own stream of random numbers."""
    name = hashlib.blake2b(group.encode(), digest_size=8).digest()
    return np.random.default_rng([seed % 2**63, int.from_bytes(name, "little")])


def inverse(penalties: Floats, k: int, rng: np.random.Generator, epsilon: float = 1e-3) -> NDArray[np.intp]:
    """k of n without replacement, one after the other with probability proportional to 1 / (p + epsilon) among those left: the k first of
    independent exponential clocks with these rates (Efraimidis and Spirakis, 2006)."""
    clocks = rng.standard_exponential(len(penalties)) * (penalties + epsilon)
    return np.argsort(clocks, kind="stable")[:k]


def chances(penalties: Floats, k: int, epsilon: float = 1e-3) -> Floats:
    """Probability [n] that `inverse` keeps each: the clock of i, an exponential of rate w_i = 1 / (p_i + epsilon), is among the k first; by integrating over its time the chance that fewer than k of the
    others have rung, which is a sum of independent events (a Poisson binomial). By Gauss-Legendre on the unit interval."""
    n = len(penalties)
    if k >= n:
        return np.ones(n)
    rates = 1.0 / (penalties + epsilon)
    points, weights = np.polynomial.legendre.leggauss(400)
    found = np.empty(n)
    for i in range(n):
        # of clock i's own distribution function u, its time is -log(1 - u) / w_i; u is taken as 1 - v^4, so that late times, where slow clocks still matter, have points enough
        v = (points + 1) / 2
        rung = 1 - np.exp(np.outer(np.log(v) * 4 / rates[i], np.delete(rates, i)))  # [points, n - 1]
        fewer = np.zeros((len(v), k))
        fewer[:, 0] = 1
        for chance in rung.T:
            moved = fewer[:, :-1] * chance[:, None]
            fewer *= 1 - chance[:, None]
            fewer[:, 1:] += moved
        found[i] = float((weights / 2 * 4 * v**3 * fewer.sum(1)).sum())
    return found


def top(penalties: Floats, k: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """The k least penalised; ties by chance, never by place."""
    order = rng.permutation(len(penalties))
    return order[np.argsort(penalties[order], kind="stable")][:k]


def advantages(rewards: Floats, ddof: int = 1) -> Floats:
    """(r - mean) / (std + 1e-6) over what is kept (section 2.2.1); 0 where all rewards are one. ddof 1 as verl has it. Raises ValueError for fewer than two."""
    if len(rewards) < 2:
        raise ValueError("advantages: expected two rewards or more of a group")
    if np.all(rewards == rewards[0]):
        return np.zeros(len(rewards))
    found: Floats = (rewards - rewards.mean()) / (rewards.std(ddof=ddof) + 1e-6)
    return found


def choose(
    rewards: Sequence[float],
    penalties: Sequence[float],
    size: int,
    *,
    group: str,
    order: Sequence[Any] | None = None,
    select: Select = "inverse",
    epsilon: float = 1e-3,
    seed: int = 0,
    ddof: int = 1,
) -> Choice:
    """Resample-on-Correct on one group. order: names of the trajectories by which they are sorted before anything is drawn, so that the choice does not hang on the order in which
    they come."""
    r, p = np.asarray(rewards, dtype=np.float64), np.asarray(penalties, dtype=np.float64)
    n = len(r)
    kept, advantage = np.zeros(n, dtype=bool), np.full(n, np.nan)
    if np.all(r == r[0]):
        return Choice(["equal_rewards"] * n, kept, advantage)
    places = (
        np.arange(n) if order is None else np.array(sorted(range(n), key=lambda i: (str(type(order[i])), order[i])))
    )
    positive, negative = places[r[places] > 0], places[r[places] <= 0]
    good, bad = quotas(len(positive), len(negative), size)
    rng = generator(seed, group)
    drawn = rng.permutation(len(negative))[:bad]
    best = inverse(p[positive], good, rng, epsilon) if select == "inverse" else top(p[positive], good, rng)
    kept[negative[drawn]] = kept[positive[best]] = True
    advantage[kept] = advantages(r[kept], ddof)
    return Choice([("positive" if r[i] > 0 else "negative") if kept[i] else "quota" for i in range(n)], kept, advantage)


def choose_rstar(rewards: Sequence[float], penalties: Sequence[float], size: int, ddof: int = 1) -> Choice:
    """The released selection: both classes' numbers rounded half to even, then floors of two; positives by penalty, ties by place; the first negatives; of a group of fewer than `size`
    none. Raises ValueError where the released code's assertions fail, as for 7 and 7 of 14, or where `size` has no room for the floors."""
    if size < 2 * LEAST:
        raise ValueError(f"{size} are fewer than {LEAST} of each class: the released code stops here")
    r, p = np.asarray(rewards, dtype=np.float64), np.asarray(penalties, dtype=np.float64)
    n = len(r)
    kept, advantage = np.zeros(n, dtype=bool), np.full(n, np.nan)
    if np.allclose(r[0], r):
        return Choice(["equal_rewards"] * n, kept, advantage)
    if n < size:
        return Choice(["quota"] * n, kept, advantage)
    positive, negative = np.flatnonzero(r > 0), np.flatnonzero(r <= 0)
    if n > size:
        bad, good = round(len(negative) * size / n), round(len(positive) * size / n)
        few_negatives, few_positives = min(LEAST, len(negative)), min(LEAST, len(positive))
        if bad <= few_negatives:
            bad, good = few_negatives, size - few_negatives
        if good <= few_positives:
            good, bad = few_positives, size - few_positives
        positive = positive[np.argsort(p[positive], kind="stable")][:good]
        negative = negative[:bad]
        if len(positive) + len(negative) != size:
            raise ValueError(
                f"{len(positive)} and {len(negative)} are not the {size} wanted: the released code stops here"
            )
    kept[positive] = kept[negative] = True
    advantage[kept] = advantages(r[kept], ddof)
    return Choice([("positive" if r[i] > 0 else "negative") if kept[i] else "quota" for i in range(n)], kept, advantage)
