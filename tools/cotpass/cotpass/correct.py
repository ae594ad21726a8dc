"""`cotpass metric --correct`: P(CC|CA) and CoT-Pass@K as they would be if the judge made no mistakes.

The raw scores take the majority's yes for right. Here every answer-correct sample has instead a posterior chance
that its reasoning is right, given its votes:

- latent: π = p L1/(p L1 + (1−p) L2) with L = t^yes (1−t)^no, the rates and p those of the model of `latent.py`
  fitted to the answer-correct samples of this file. A sample without a valid vote has π = p.
- rogan-gladen: the majority verdict's rates f (fpr) and m (fnr) are known; the share of right reasonings is then
  p = (q − f)/(1 − m − f), q the share of yes (Rogan and Gladen 1978), clipped to [0, 1], and
  π = p(1−m)/(p(1−m) + (1−p)f) after a yes, p m/(p m + (1−p)(1−f)) otherwise. Unjudged samples count as no yes,
  as in `calibrate report`. These π average p.

Only the number D of right reasonings among a problem's samples is unknown: a sum of independent coins π_i, whose
distribution is Poisson-binomial, convolved exactly. The corrected CoT-Pass@K is the mean over problems of
E[1 − C(n−D, K)/C(n, K)] under it, not the estimator at E[D], which it is no linear function of.

P(CC|CA): latent: mean over problems with C > 0 of their mean π. rogan-gladen: the formula on the mean over problems
of D/C, clipped once. Clipping problem by problem would bias the mean, so a problem whose own corrected share
falls outside [0, 1] is only counted.

Limits. p is one for all problems: posteriors of hard problems are pulled up and of easy ones down, and the
less a vote says the more so. What the rates' sources cannot see (errors that all votes share; for a report, other
errors than those injected) is not corrected.

Intervals: percentile bootstrap over problems, each replicate with p and the rates fitted anew (latent), or drawn
from their Beta posteriors where a report says how many records they rest on. numpy only.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cotpass import estimators as est
from cotpass import latent
from cotpass.estimators import Floats, Ints
from cotpass.votes import aggregate, tally
from tenfold_shared import BadInput
from tenfold_shared.jsonl import read_text

if TYPE_CHECKING:
    from cotpass.metric import Counts

Record = dict[str, Any]
Pattern = tuple[int, int]  # yes and no votes of one sample

_WORK = 5e8  # coin flips in all convolutions of all replicates, about 2 s
_WEIGHTS = 2e7  # of problems in all replicates, held at once
_NOTHING: Record = {"value": None, "low": None, "high": None}


@dataclass(frozen=True)
class Rates:
    """Known rates of the verdict. counts: (fpr's, fnr's) number of records they rest on, None: taken as exact."""

    fpr: float
    fnr: float
    counts: tuple[int, int] | None = None


@dataclass
class Settings:
    """method: latent or rogan-gladen. rates: for rogan-gladen."""

    method: str
    rates: Rates | None = None
    seed: int = 0


@dataclass
class Votes:
    """The votes on the answer-correct samples of each problem: {id: {(yes, no): samples}}; votes: asked a sample."""

    problems: dict[str, Counter[Pattern]] = field(default_factory=dict)
    votes: int | None = None

    def watch(self, located: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Hand the records on and note their votes, each after its reader has taken (and checked) it."""
        for where, record in located:
            yield where, record
            if record.get("error") or record.get("finish_reason") == "error" or not record["correct"]:
                continue
            cast = record.get("votes") or []
            yes, no, _ = tally(cast)
            self.votes = len(cast) or self.votes
            self.problems.setdefault(record["id"], Counter())[yes, no] += 1

    @classmethod
    def of_counts(cls, counts: Counts) -> Votes:
        """From a table with d: a yes for each of the d, a no for the others."""
        if "counts" not in counts.d:
            raise BadInput("--correct: expected the column d in the table of counts")
        pairs = zip(counts.ids, counts.c.tolist(), counts.d["counts"][0].tolist(), strict=True)
        return cls({name: Counter({(1, 0): d, (0, 1): c - d}) for name, c, d in pairs}, 1)


def settings(
    method: str | None, path: str | None, fpr: float | None, fnr: float | None, seed: int, from_counts: bool
) -> Settings | None:
    """The options of `metric --correct` as Settings; None without it. Raises BadInput where they contradict."""
    if method is None:
        if path is not None or fpr is not None or fnr is not None:
            raise BadInput("--rates, --fpr, --fnr: only with --correct rogan-gladen")
        return None
    if method == "latent":
        if path is not None or fpr is not None or fnr is not None:
            raise BadInput("--correct latent: finds the rates itself; leave out --rates, --fpr and --fnr")
        if from_counts:
            raise BadInput("--correct latent: needs the votes; a table of counts has none (--correct rogan-gladen)")
        return Settings(method, None, seed)
    if path is not None and (fpr is not None or fnr is not None):
        raise BadInput("--rates: holds both rates; leave out --fpr and --fnr")
    if path is not None:
        return Settings(method, read_rates(path), seed)
    if fpr is None or fnr is None:
        raise BadInput("--correct rogan-gladen: needs --rates REPORT.json (of `cotpass calibrate report --json`), or --fpr and --fnr")  # fmt: skip
    return Settings(method, Rates(fpr, fnr), seed)


def read_rates(path: str) -> Rates:
    """fpr and fnr of a report of `calibrate report --json`. Raises BadInput."""
    try:
        report = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}; expected what `cotpass calibrate report --json` printed") from None
    found = []
    for name in ("fpr", "fnr"):
        score = report.get(name) if isinstance(report, dict) else None
        if isinstance(report, dict) and "identifiable" in report:
            raise BadInput(f"{path}: these are the rates of one vote; `--correct latent` finds and uses them itself")
        value = score.get("value") if isinstance(score, dict) else None
        n = score.get("n") if isinstance(score, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise BadInput(f"{path}: {name}.value: expected a share in [0, 1], got {value!r}")
        if type(n) is not int or n < 1:
            raise BadInput(f"{path}: {name}.n: expected the number of records, got {n!r}")
        found.append((float(value), n))
    (fpr, injected), (fnr, clean) = found
    return Rates(fpr, fnr, (injected, clean))


def rogan_gladen(share: Any, fpr: Any, fnr: Any) -> Any:
    """(q − f)/(1 − m − f), not clipped; for floats or arrays. The judge must do better than chance: f + m < 1."""
    return (share - fpr) / (1 - fnr - fpr)


# ---------------------------------------------------------------- the expectation


def right_counts(chances: Sequence[tuple[int, Floats]]) -> Floats:
    """The distribution of D, a sum of independent coins: [(samples, π (R,))] to P(D = d), (R, C+1)."""
    size = sum(samples for samples, _ in chances)
    mass = np.zeros((len(chances[0][1]) if chances else 1, size + 1))
    mass[:, 0] = 1.0
    flipped = 0
    for samples, chance in chances:
        heads = chance[:, None]
        for _ in range(samples):
            flipped += 1
            part = mass[:, :flipped]
            moved = part * heads
            part -= moved
            mass[:, 1 : flipped + 1] += moved
    return mass


def expected_pass(
    n: Ints, patterns: Sequence[Counter[Pattern]], chances: Mapping[Pattern, Floats], weights: Floats, ks: Sequence[int]
) -> Floats:
    """Weighted mean over problems of E[1 − C(n−D, K)/C(n, K)]: (R, J), over the problems with n ≥ K each.

    chances: π of a sample with these votes, (R,); weights: of the problems, (R, M). Problems with equal n and
    votes share the work. NaN where all weights are 0.
    """
    alike: dict[Any, list[int]] = {}
    for row, (size, votes) in enumerate(zip(n.tolist(), patterns, strict=True)):
        alike.setdefault((size, tuple(sorted(votes.items()))), []).append(row)
    total, weight = np.zeros((2, len(weights), len(ks)))
    for (size, votes), rows in alike.items():
        fits = [j for j, k in enumerate(ks) if k <= size]
        if not fits:
            continue
        c = sum(many for _, many in votes)
        table = est.pass_at_k(np.full(c + 1, size), np.arange(c + 1), [ks[j] for j in fits])
        mass = right_counts([(many, chances[pattern]) for pattern, many in votes if many])
        share = weights[:, rows].sum(axis=1, keepdims=True)
        total[:, fits] += share * (mass @ table)
        weight[:, fits] += share
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)


# ---------------------------------------------------------------- the two methods


@dataclass
class _Model:
    """What a method found: in row 0 the estimate, below it the replicates. chances: π by pattern, (1+R,);
    weights: of the problems, (1+R, M); p_cc: P(CC|CA), (1+R,); told: what else the report says."""

    chances: dict[Pattern, Floats]
    weights: Floats
    p_cc: Floats
    told: Record


def corrected(counts: Counts, votes: Votes, ks: Sequence[int], wanted: Settings) -> Record:
    """The `corrected` object of `metric --json`: {method, identifiable, reason, fpr, fnr, p_cc_given_ca, cot_pass:
    {K: {value, low, high}}}, values null where it is refused; `rates_of`: vote (latent) or verdict; rogan-gladen
    also `clipped`: {value: whether P(CC|CA) was, replicates: the share of replicates that were, problems: how
    many have a corrected share of their own outside [0, 1]}. No interval for one problem.
    """
    n = counts.n
    patterns = [votes.problems.get(name, Counter()) for name in counts.ids]
    if votes.votes is None:
        raise BadInput("input: expected at least one record with votes, got none; run `cotpass judge` first")
    flips = sum(sum(one.values()) ** 2 / 2 for one in {tuple(sorted(p.items())): p for p in patterns}.values())
    replicates = int(min(max(min(_WORK / max(flips, 1), _WEIGHTS / len(n)), 100), 1000))
    method = _latent if wanted.method == "latent" else _rogan_gladen
    model = method(patterns, votes.votes, wanted, replicates if len(n) > 1 else 0)
    base: Record = {"method": wanted.method, "rates_of": "vote" if wanted.method == "latent" else "verdict"}
    if isinstance(model, str):
        rates = wanted.rates
        known = {"fpr": rates.fpr if rates else None, "fnr": rates.fnr if rates else None}
        nulls = {"p_cc_given_ca": _NOTHING, "cot_pass": {str(k): _NOTHING for k in ks}}
        return {**base, "identifiable": False, "reason": model, **known, **nulls}
    values = expected_pass(n, patterns, model.chances, model.weights, ks)
    scores = {str(k): _interval(values[:, j]) for j, k in enumerate(ks)}
    told = {"p_cc_given_ca": _interval(model.p_cc), "cot_pass": scores}
    return {**base, "identifiable": True, "reason": None, **model.told, **told}


def _interval(drawn: Floats) -> Record:
    """Row 0 and the 95 % percentiles of the rest, kept in [0, 1], which sums of rounded numbers leave by 1e-16."""
    drawn = np.clip(drawn, 0.0, 1.0)
    value = float(drawn[0])
    if math.isnan(value):
        return dict(_NOTHING)
    rest = drawn[1:][np.isfinite(drawn[1:])]
    if not len(rest):
        return {"value": value, "low": None, "high": None}
    low, high = (float(x) for x in np.quantile(rest, [0.025, 0.975]))
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def _mean(weights: Floats, values: Floats) -> Floats:
    """Weighted mean over problems, (1+R, M) both, to (1+R,); NaN where all weights are 0."""
    total = weights.sum(axis=1)
    return np.divide((weights * values).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def _resampled(problems: int, seed: int, replicates: int) -> Floats:
    """Row 0: every problem once; below it the bootstrap's draws, those of `latent.fit`."""
    ones = np.ones((1, problems))
    return np.concatenate([ones, latent.resampled(problems, seed, replicates)]) if replicates else ones


def _latent(patterns: list[Counter[Pattern]], votes: int, wanted: Settings, replicates: int) -> _Model | str:
    table = np.zeros((len(patterns), votes + 1), dtype=np.int64)
    left_out = 0
    for row, one in enumerate(patterns):
        for (yes, no), many in one.items():
            if yes + no == votes:
                table[row, yes] += many
            else:
                left_out += many
    tallies = latent.Tallies([str(row) for row in range(len(patterns))], table, votes, left_out)
    found = latent.fit(tallies, wanted.seed, max(replicates, 1))
    if found.rates is None:
        return str(found.reason)
    drawn = np.array([found.rates])
    weights = np.ones((1, len(patterns)))
    if found.replicates is not None and found.weights is not None:
        drawn = np.concatenate([drawn, found.replicates])
        weights = np.concatenate([weights, found.weights])
    p, t1, t2 = drawn.T
    chances = {}
    for yes, no in set().union(*patterns):
        right, wrong = p * t1**yes * (1 - t1) ** no, (1 - p) * t2**yes * (1 - t2) ** no
        total = right + wrong
        chances[yes, no] = np.divide(right, total, out=p.copy(), where=total > 0)
    some = np.array([bool(one) for one in patterns])
    mean = np.zeros((len(drawn), len(patterns)))
    for row, one in enumerate(patterns):
        for pattern, many in one.items():
            mean[:, row] += many / one.total() * chances[pattern]
    told = {"fpr": found.rates.yes_wrong, "fnr": 1 - found.rates.yes_right, "p": found.rates.p}
    return _Model(chances, weights, _mean(weights[:, some], mean[:, some]), told)


def _rogan_gladen(patterns: list[Counter[Pattern]], votes: int, wanted: Settings, replicates: int) -> _Model | str:
    rates = wanted.rates
    assert rates is not None
    if rates.fpr + rates.fnr >= 1 - 1e-9:
        return f"fpr {rates.fpr:.3g} and fnr {rates.fnr:.3g}: a judge no better than chance tells nothing"
    c = np.array([one.total() for one in patterns], dtype=float)
    if not c.sum():
        return "no sample has a right answer"
    accepted = {pattern: aggregate(*pattern, 0, "majority") is True for pattern in set().union(*patterns)}
    d = np.array([sum(many for pattern, many in one.items() if accepted[pattern]) for one in patterns], dtype=float)
    weights = _resampled(len(patterns), wanted.seed, replicates)
    rng = np.random.default_rng([wanted.seed, 1])
    fpr, fnr = (_drawn(rng, value, n, replicates) for value, n in zip((rates.fpr, rates.fnr), rates.counts or (0, 0), strict=True))  # fmt: skip
    # A replicate whose judge is no better than chance says nothing about p: then any p may be.
    useful = fpr + fnr < 1 - 1e-9
    anything = rng.random(len(fpr))

    def solved(share: Floats) -> Floats:
        fitted = rogan_gladen(share, np.where(useful, fpr, 0.0), np.where(useful, fnr, 0.0))
        return np.where(useful, fitted, anything)

    some = c > 0
    pooled = np.divide(weights @ d, weights @ c, out=np.zeros(len(weights)), where=weights @ c > 0)
    p = np.clip(solved(pooled), 0.0, 1.0)
    share = _mean(weights[:, some], np.broadcast_to(d[some] / c[some], (len(weights), int(some.sum()))))
    p_cc = solved(share)
    own = rogan_gladen(d[some] / c[some], rates.fpr, rates.fnr)
    yes = p * (1 - fnr) + (1 - p) * fpr
    after_yes = np.divide(p * (1 - fnr), yes, out=p.copy(), where=yes > 0)
    after_no = np.divide(p * fnr, 1 - yes, out=p.copy(), where=1 - yes > 1e-12)
    chances = {pattern: after_yes if right else np.clip(after_no, 0, 1) for pattern, right in accepted.items()}
    outside = (p_cc < 0) | (p_cc > 1)
    clipped = {
        "value": bool(outside[0]),
        "replicates": float(outside[1:].mean()) if replicates else None,
        "problems": int(((own < -1e-12) | (own > 1 + 1e-12)).sum()),
    }
    told = {"fpr": rates.fpr, "fnr": rates.fnr, "p": float(p[0]), "clipped": clipped}
    return _Model(chances, weights, np.clip(p_cc, 0.0, 1.0), told)


def _drawn(rng: np.random.Generator, value: float, n: int, replicates: int) -> Floats:
    """The rate, and below it draws from its Beta posterior under Jeffreys' prior (n = 0: it is exact)."""
    if not n:
        return np.full(1 + replicates, value)
    seen = value * n
    return np.concatenate([[value], rng.beta(seen + 0.5, n - seen + 0.5, replicates)])


# ---------------------------------------------------------------- for people


def lines(found: Record, raw: Record) -> list[str]:
    """The correction in words, under the table of `metric`; raw: that report."""
    head = f"Corrected for the judge ({found['method']}, fpr {found['fpr']:.3f}, fnr {found['fnr']:.3f} a {found['rates_of']})"
    before = raw["p_cc_given_ca"]["value"]
    told = [head, f"  P(reasoning right | answer right) {_shown(found['p_cc_given_ca'])}" + (f", raw {before:.3f}" if before is not None else "")]  # fmt: skip
    return told + [f"  CoT-Pass@{k} {_shown(score)}" for k, score in found["cot_pass"].items()]


def _shown(score: Mapping[str, float | None]) -> str:
    if score["value"] is None:
        return "–"
    tail = "" if score["low"] is None else f" [{score['low']:.2f}, {score['high']:.2f}]"
    return f"{score['value']:.3f}{tail}"
