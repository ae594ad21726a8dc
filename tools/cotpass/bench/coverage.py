"""How often the intervals of `metric --ci` and `compare` hold their target: simulated coverage of nominal 95 %.

    python tools/cotpass/bench/coverage.py [--sets 2000] [--replicates 2000] [--difficulty 1,2] [--pairs shift] [--quick]

M = 30 problems, n = 16 or 64 samples, difficulties p from a Beta distribution (or the two that no Beta fits:
`spike`, 30 % of the problems impossible and the others Beta(2, 3); `twohumps`, half Beta(2, 60) and half
Beta(8, 6)). Each data set draws difficulties and counts and asks every method for the interval of Pass@K. Targets:
for problem, nested, bayes and normal the population's mean of 1 − (1 − p)^K; for closed, whose problems are
drawn once and stay, the mean over these problems.

Prints one JSON object a line for each difficulty, method, n and K: the columns of bench/metric.py, where `ours` is
the share of data sets whose interval holds the target, `peer` the same for `--ci normal` on the same data (none
for closed, whose target is another), `ratio` ours over the nominal 0.95; and besides `stderr` (binomial),
`width` (mean) and `within` (0.93 to 0.97).

Then `compare`, two models on the same problems, n = 64, K = 1, 4, 16, 64: `ours` is the share of data sets whose
simultaneous intervals hold the population's difference at all K, `peer` that of the pointwise ones (which do not
promise it), `pointwise` the share for each K alone. Pairs: B a little off A either way (noise), better (shift), the
same but for 15 % of the problems (few), unrelated to A (unrelated), better on problems easy for both (easy).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable

import numpy as np

from cotpass.compare import pass_at_k_difference
from cotpass.intervals import Draws, interval, pass_statistic
from metric import machine

PROBLEMS = 30
KS = {16: (1, 4, 8, 16), 64: (1, 8, 32, 64)}
METHODS = ("problem", "nested", "bayes", "closed", "normal")
NOMINAL, LOW, HIGH = 0.95, 0.93, 0.97

Draw = Callable[[np.random.Generator, int], np.ndarray]


def misses(a: float, b: float, k: int) -> float:
    """E[(1 − p)^k] for p ~ Beta(a, b)."""
    return math.prod((b + i) / (a + b + i) for i in range(k))


def difficulty(name: str) -> tuple[Draw, Callable[[int], float]]:
    """Draws `size` difficulties, and the population's mean of 1 − (1 − p)^K."""
    if name == "spike":
        return (
            lambda rng, size: np.where(rng.random(size) < 0.3, 0.0, rng.beta(2, 3, size)),
            lambda k: 0.7 * (1 - misses(2, 3, k)),
        )
    if name == "twohumps":
        return (
            lambda rng, size: np.where(rng.random(size) < 0.5, rng.beta(2, 60, size), rng.beta(8, 6, size)),
            lambda k: 1 - (misses(2, 60, k) + misses(8, 6, k)) / 2,
        )
    a, b = map(float, name.split(","))
    return (lambda rng, size: rng.beta(a, b, size)), (lambda k: 1 - misses(a, b, k))


def study(name: str, n: int, sets: int, replicates: int) -> dict[tuple[str, int], tuple[float, float]]:
    """(method, K) to (coverage, mean width)."""
    draw, population = difficulty(name)
    rng = np.random.default_rng([n, *name.encode()])
    fixed = draw(rng, PROBLEMS)
    held = {(ci, k): 0 for ci in METHODS for k in KS[n]}
    width = dict.fromkeys(held, 0.0)
    size = np.full(PROBLEMS, n)
    for at in range(sets):
        counts = {False: rng.binomial(n, draw(rng, PROBLEMS)), True: rng.binomial(n, fixed)}
        for ci in METHODS:
            draws = Draws(at, replicates)
            for k in KS[n]:
                found = interval(ci, pass_statistic(k), size, counts[ci == "closed"], draws)
                target = float(np.mean(1 - (1 - fixed) ** k)) if ci == "closed" else population(k)
                held[ci, k] += found["low"] <= target <= found["high"]
                width[ci, k] += found["high"] - found["low"]
        if sys.stderr.isatty() and at % 20 == 0:
            print(f"\r{name} n={n}: {at}/{sets}", end="", file=sys.stderr)
    return {key: (held[key] / sets, width[key] / sets) for key in held}


# ---- compare

PAIR_KS = (1, 4, 16, 64)
PAIRS = ("noise", "shift", "few", "unrelated", "easy")


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def pair(name: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Chances of a right answer of A and of B on `size` problems."""
    a = rng.beta(2, 2, size) if name == "easy" else rng.beta(0.5, 1.5, size)
    a = np.clip(a, 1e-12, 1 - 1e-12)
    if name == "noise":
        b = logit(a) + 0.5 * rng.standard_normal(size)
    elif name == "few":
        b = logit(a) + np.where(rng.random(size) < 0.15, 3.0, 0.0)
    elif name == "unrelated":
        b = logit(rng.beta(1, 1.5, size))
    else:
        b = logit(a) + 1 + rng.standard_normal(size)
    return a, 1 / (1 + np.exp(-b))


def study_pairs(name: str, sets: int, replicates: int, n: int = 64) -> tuple[float, float, list[float], float]:
    """Coverage of the simultaneous and of the pointwise intervals at all K, of each K alone, and mean width."""
    rng = np.random.default_rng([n, *name.encode()])
    total = np.zeros(len(PAIR_KS))
    for _ in range(20):  # the population's difference, by 10 million problems: standard error 1e-4 at most
        a, b = pair(name, rng, 500_000)
        total += [np.mean((1 - a) ** k - (1 - b) ** k) for k in PAIR_KS]
    target = total / 20
    size = np.full(PROBLEMS, n)
    at_all, all_pointwise, alone, width = 0, 0, np.zeros(len(PAIR_KS)), 0.0
    for at in range(sets):
        a, b = pair(name, rng, PROBLEMS)
        found = pass_at_k_difference(size, rng.binomial(n, a), size, rng.binomial(n, b), PAIR_KS, at, replicates)
        held = (found.low <= target) & (target <= found.high)
        at_all += bool(((found.sim_low <= target) & (target <= found.sim_high)).all())
        all_pointwise += bool(held.all())
        alone += held
        width += float((found.high - found.low).mean())
    return at_all / sets, all_pointwise / sets, [round(float(each), 4) for each in alone / sets], width / sets


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--difficulty", action="append", metavar="A,B|spike|twohumps", help="default: 1,2 and 0.5,1.5")
    parser.add_argument("--pairs", action="append", choices=PAIRS, help="default: all")
    parser.add_argument("--sets", type=int, default=2000, help="simulated data sets")
    parser.add_argument("--replicates", type=int, default=2000, help="of each resampling interval")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data sets")
    given = parser.parse_args()
    sets = max(1, given.sets // (10 if given.quick else 1))
    either = given.difficulty or given.pairs
    for name in given.difficulty or ([] if either else ["1,2", "0.5,1.5"]):
        label = name if name.isalpha() else f"Beta({name.replace(',', ', ')})"
        for n in KS:
            found = study(name, n, sets, given.replicates)
            for (ci, k), (share, width) in found.items():
                peer = None if ci in ("closed", "normal") else found["normal", k][0]
                row = {"tool": "cotpass", "case": f"coverage {ci}, n={n} K={k}, {label}", "ours": share, "peer": peer,
                       "peer_name": peer and "--ci normal", "unit": "share of 95 % intervals that hold the target",
                       "ratio": round(share / NOMINAL, 4), "floor": None, "floor_ratio": None, "n": sets,
                       "stderr": round(math.sqrt(share * (1 - share) / sets), 4), "width": round(width, 4),
                       "within": LOW <= share <= HIGH, "machine": machine(),
                       "command": f"python tools/cotpass/bench/coverage.py --difficulty {name} --sets {sets}"}  # fmt: skip
                print(json.dumps(row), flush=True)
    for name in given.pairs or ([] if either else PAIRS):
        share, pointwise, alone, width = study_pairs(name, sets, given.replicates)
        row = {"tool": "cotpass", "case": f"coverage compare, all K, n=64, {name}", "ours": share, "peer": pointwise,
               "peer_name": "pointwise intervals", "unit": "share of data sets with all K held",
               "ratio": round(share / NOMINAL, 4), "floor": None, "floor_ratio": None, "n": sets,
               "stderr": round(math.sqrt(share * (1 - share) / sets), 4), "width": round(width, 4),
               "pointwise": alone, "within": LOW <= share <= HIGH, "machine": machine(),
               "command": f"python tools/cotpass/bench/coverage.py --pairs {name} --sets {sets}"}  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
