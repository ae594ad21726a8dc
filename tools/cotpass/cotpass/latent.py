"""A judge's error rates from its votes alone: the two-class latent model behind `cotpass calibrate latent`.

No response need be labelled. Each has a reasoning that is right with chance p; given that, its V votes are
independent, yes with chance t1 = 1 − fnr where it is right and t2 = fpr < t1 where it is wrong. So the number
of yes is a mixture of two binomials (arXiv 2506.14245 leaves the judge unmeasured; the model is the classic one
of diagnostic tests without a gold standard):

    P(Y = y) = p C(V,y) t1^y (1−t1)^(V−y) + (1−p) C(V,y) t2^y (1−t2)^(V−y)

- V = 3 has three free frequencies for three unknowns: solved in closed form from the factorial moments
  m_j = E[Y(Y−1)…]/(V(V−1)…), which are p t1^j + (1−p) t2^j. Nothing is left to test: `fit` is `saturated`.
- V ≥ 4: maximum likelihood (EM and Fisher scoring from several starts), and a likelihood-ratio test of fit, G²
  with V − 3 degrees of freedom. It is meant to see votes that depend on each other; that p differs between
  problems does not disturb it.
- V < 3 determines nothing.

When the estimate is refused (`identifiable: false`, all values null): every response's votes are the same (a
perfect judge, or one that repeats itself: no data of this kind can tell them apart); two votes on one
response agree no more than chance would have them; the solution lies on or beyond the edge of the model. The
model cannot see errors that all votes of a response share: it then takes the judge's blind spot for the truth.

Abstentions: only responses whose votes are all yes or no are used, the others are counted in `left_out`.
Intervals: percentile bootstrap over problems, each replicate fitted anew; replicates outside the model take
the likeliest values inside it, so an interval may end at 0 or 1. numpy only.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cotpass.estimators import Floats, Ints
from cotpass.readers import once
from cotpass.votes import RULES, OneJudge, joined_rates, tally
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.progress import Progress

Record = dict[str, Any]

REPLICATES = 2000
EDGE = 1e-5  # a rate this near 0 or 1 is at the boundary
_STEPS = 2000  # of the search, at most; it needs some dozen
_TINY = 1e-300
_STARTS = [(p, t1, t2) for p in (0.2, 0.5, 0.8) for t1, t2 in ((0.9, 0.1), (0.95, 0.6), (0.4, 0.05))]


class Rates(NamedTuple):
    """p: share of right reasonings. yes_right = 1 − fnr, yes_wrong = fpr: chances that one vote says yes."""

    p: float
    yes_right: float
    yes_wrong: float


@dataclass
class Tallies:
    """yes: per problem, responses by their number of yes, int (M, V+1). left_out: responses with an
    abstention, unjudged: without votes."""

    ids: list[str]
    yes: Ints
    votes: int
    left_out: int = 0
    unjudged: int = 0


@dataclass
class Fit:
    """rates: None where they are refused, for `reason`. replicates: the refitted ones, (R, 3), in the order of
    `Rates`, with the problems' weights in each, int (R, M); None for one problem. test: (statistic, df,
    p_value), None for V = 3 and where rates is None."""

    rates: Rates | None
    reason: str | None = None
    replicates: Floats | None = None
    weights: Ints | None = None
    test: tuple[float, int, float] | None = None


# ---------------------------------------------------------------- the model


def moments(counts: Floats) -> Floats:
    """m1, m2, m3 of responses by number of yes: (..., V+1) to (..., 3). V ≥ 3."""
    top = counts.shape[-1] - 1
    y = np.arange(top + 1.0)
    falling = np.stack(
        [y / top, y * (y - 1) / (top * (top - 1)), y * (y - 1) * (y - 2) / (top * (top - 1) * (top - 2))]
    )
    return counts @ falling.T / counts.sum(axis=-1, keepdims=True)


def solve_moments(m: Floats) -> Floats:
    """(p, t1, t2) with these first three factorial moments, (..., 3) to (..., 3); NaN where they have no
    solution with t2 < t1. The solution may lie outside [0, 1].

    t1 + t2 = (m3 − m1 m2)/(m2 − m1²), t1 t2 = (m1 m3 − m2²)/(m2 − m1²), p = (m1 − t2)/(t1 − t2).
    """
    m1, m2, m3 = np.moveaxis(m, -1, 0)
    spread = np.where(m2 - m1**2 > 1e-12, m2 - m1**2, np.nan)
    total, product = (m3 - m1 * m2) / spread, (m1 * m3 - m2**2) / spread
    inner = total**2 / 4 - product
    half = np.sqrt(np.where(inner > 1e-12, inner, np.nan))
    t1, t2 = total / 2 + half, total / 2 - half
    return np.stack([(m1 - t2) / (t1 - t2), t1, t2], axis=-1)


def _joint(rates: Floats, top: int) -> tuple[Floats, Floats]:
    """P(Y = y and right), P(Y = y and wrong): (..., 3) to two (..., V+1)."""
    y = np.arange(top + 1)
    ways = np.array([math.comb(top, int(k)) for k in y], dtype=float)
    p, t1, t2 = (rates[..., i, None] for i in range(3))
    return p * ways * t1**y * (1 - t1) ** (top - y), (1 - p) * ways * t2**y * (1 - t2) ** (top - y)


def log_likelihood(counts: Floats, rates: Floats) -> Floats:
    """Of counts (..., V+1) under rates (..., 3): (...)."""
    right, wrong = _joint(rates, counts.shape[-1] - 1)
    return np.sum(counts * np.log(np.maximum(right + wrong, _TINY)), axis=-1)


def _em_step(counts: Floats, rates: Floats) -> Floats:
    top = counts.shape[-1] - 1
    y = np.arange(top + 1)
    right, wrong = _joint(rates, top)
    to_right = counts * right / np.maximum(right + wrong, _TINY)
    to_wrong = counts - to_right
    n1, n2 = to_right.sum(axis=-1), to_wrong.sum(axis=-1)
    t1 = (to_right @ y) / np.maximum(top * n1, _TINY)
    t2 = (to_wrong @ y) / np.maximum(top * n2, _TINY)
    return np.clip(np.stack([n1 / (n1 + n2), t1, t2], axis=-1), 0.0, 1.0)


def _scoring_step(counts: Floats, rates: Floats) -> Floats:
    """(p, t1, t2) after one step of Fisher scoring, (B, 3); NaN where it leads out of the model.

    δ solves (JᵀWJ) δ = JᵀW (h − f), f the cells' chances, W = 1/f. The step is taken in the moments, of which
    the cells are nearly linear functions (V = 3: exactly), and not in (p, t1, t2), where the likelihood of
    near classes is a bent ridge.
    """
    top = counts.shape[-1] - 1
    y = np.arange(top + 1)
    right, wrong = _joint(rates, top)
    cells = np.maximum(right + wrong, _TINY)
    p, t1, t2 = (np.clip(rates[:, i, None], 1e-12, 1 - 1e-12) for i in range(3))
    slopes = np.stack(
        [
            right / p - wrong / (1 - p),
            right * (y - top * t1) / (t1 * (1 - t1)),
            wrong * (y - top * t2) / (t2 * (1 - t2)),
        ],
        axis=1,
    )
    weighted = slopes / cells[:, None, :]
    seen = counts / counts.sum(axis=-1, keepdims=True)
    information = weighted @ np.swapaxes(slopes, 1, 2)
    ridge = 1e-10 * np.trace(information, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    score = (weighted @ (seen - cells)[:, :, None])[:, :, 0]
    step = np.linalg.solve(information + ridge, score[:, :, None])[:, :, 0]
    powers = np.arange(1, 4)
    one, other = t1**powers, t2**powers
    bends = np.stack([one - other, p * powers * one / t1, (1 - p) * powers * other / t2], axis=-1)
    return solve_moments(p * one + (1 - p) * other + (bends @ step[:, :, None])[:, :, 0])


def maximise(counts: Floats, starts: Floats) -> Floats:
    """Likeliest (p, t1, t2), t1 ≥ t2, from each start: counts (B, V+1), starts (B, 3) to (B, 3).

    Each step is the better one of EM, which never lowers the likelihood but crawls where the classes are near,
    and of Fisher scoring followed by EM, which is quick there.
    """
    rates = np.array(starts, dtype=float)
    active = np.arange(len(rates))
    for _ in range(_STEPS):
        part, old = counts[active], rates[active]
        new = _em_step(part, old)
        # At most ten times nearer to an edge than EM itself went: from an edge it comes back slowly.
        jumped = _scoring_step(part, old)
        jumped = np.where(np.isfinite(jumped).all(axis=-1, keepdims=True), jumped, new)
        jumped = _em_step(part, np.clip(jumped, new / 10, 1 - (1 - new) / 10))
        better = log_likelihood(part, jumped) >= log_likelihood(part, new)
        new[better] = jumped[better]
        rates[active] = new
        moving = (np.abs(new - old) / (new * (1 - new) + 1e-8)).max(axis=-1) > 1e-7
        active = active[moving]
        if not len(active):
            break
    swap = rates[:, 1] < rates[:, 2]
    rates[swap] = np.stack([1 - rates[swap, 0], rates[swap, 2], rates[swap, 1]], axis=-1)
    return rates


def _inside(rates: Floats) -> Any:
    """Whether (..., 3) lies inside the model, off its edges: bool (...)."""
    with np.errstate(invalid="ignore"):
        within = ((rates > EDGE) & (rates < 1 - EDGE)).all(axis=-1)
        return within & (rates[..., 1] - rates[..., 2] > EDGE)


def chi_square_tail(statistic: float, df: int) -> float:
    """P(χ²_df > statistic) for a whole df ≥ 1, by Q(df + 2) = Q(df) + (x/2)^(df/2) e^(−x/2) / Γ(df/2 + 1)."""
    half = max(statistic, 0.0) / 2
    if half == 0:
        return 1.0
    tail, at = (math.erfc(math.sqrt(half)), 1) if df % 2 else (math.exp(-half), 2)
    while at < df:
        tail += math.exp(at / 2 * math.log(half) - half - math.lgamma(at / 2 + 1))
        at += 2
    return min(tail, 1.0)


def fit(tallies: Tallies, seed: int = 0, replicates: int = REPLICATES) -> Fit:
    """The model on the responses of `tallies`; deterministic in the seed. Raises BadInput for V < 3."""
    top = tallies.votes
    if top < 3:
        raise BadInput(
            f"votes: expected at least 3 a response, got {top}: fewer do not determine p, fpr and fnr; judge with "
            f"--votes 3 or more, or measure the rates with `cotpass calibrate inject` and `report`"
        )
    counts = tallies.yes.sum(axis=0).astype(float)
    if not counts.sum():
        return Fit(None, "every response has an abstention among its votes")
    if not counts[1:-1].any():
        return Fit(None, "all votes on a response are the same: a perfect judge and one that repeats itself look alike")
    m1, m2, _ = moments(counts)
    if m2 - m1**2 <= 1e-12:
        return Fit(None, "two votes on a response agree no more often than chance: they do not tell right from wrong")
    if top == 3:
        best = solve_moments(moments(counts))
    else:
        starts = np.array([*_STARTS, solve_moments(moments(counts))])
        starts = starts[np.isfinite(starts).all(axis=1)]
        tried = maximise(np.broadcast_to(counts, (len(starts), top + 1)), np.clip(starts, 1e-3, 1 - 1e-3))
        best = tried[int(np.argmax(log_likelihood(counts, tried)))]
    if not _inside(best):
        return Fit(None, f"the votes' solution lies at or beyond the edge of the model ({_told(best)})")
    found = Fit(Rates(*map(float, best)))
    if len(tallies.yes) > 1:
        found.weights = resampled(len(tallies.yes), seed, replicates)
        found.replicates = _refit(found.weights @ tallies.yes, best)
        spread = moments((found.weights @ tallies.yes).astype(float))
        if np.quantile(spread[:, 1] - spread[:, 0] ** 2, 0.025) <= 0:
            return Fit(None, "that two votes on a response agree more often than chance is not certain (95 %)")
    if top > 3:
        expected = counts.sum() * np.add(*_joint(best, top))
        seen = counts > 0
        statistic = max(0.0, 2 * float(np.sum(counts[seen] * np.log(counts[seen] / expected[seen]))))
        found.test = (statistic, top - 3, chi_square_tail(statistic, top - 3))
    return found


def _told(rates: Floats) -> str:
    if not np.isfinite(rates).all():
        return "no two classes have these moments"
    p, t1, t2 = rates
    return f"p {p:.3g}, fpr {t2:.3g}, fnr {1 - t1:.3g}"


def resampled(problems: int, seed: int, replicates: int) -> Ints:
    """How often each problem is drawn in each replicate, (R, M)."""
    rng = np.random.default_rng(seed)
    if problems * replicates > 1 << 27:
        raise BadInput(f"{problems} problems are more than this bootstrap holds in memory; take a --limit")
    return rng.multinomial(problems, np.full(problems, 1 / problems), size=replicates)


def _refit(counts: Ints, best: Floats) -> Floats:
    """The model in each replicate: (R, V+1) to (R, 3). Inside the model as the estimate itself was made; else
    the likeliest point of it, searched from the estimate."""
    whole = np.maximum(counts, 0).astype(float)
    whole[whole.sum(axis=1) == 0] += counts.sum(axis=0)  # a replicate without usable responses says nothing
    rates = np.broadcast_to(best, (len(whole), 3)).copy()
    rest = np.ones(len(whole), dtype=bool)
    if counts.shape[1] == 4:
        solved = solve_moments(moments(whole))
        rest = ~_inside(solved)
        rates[~rest] = solved[~rest]
    if rest.any():
        rates[rest] = maximise(whole[rest], rates[rest])
    return rates


# ---------------------------------------------------------------- records


def collect(located: Iterable[tuple[str, Record]], scope: str = "all") -> Tallies:
    """Judged records to tallies. scope `correct`: only responses with a right answer.

    Raises BadInput for a repeated (id, sample), another number of votes, a second judge, and no votes at all.
    """
    judge = OneJudge()
    problems: dict[str, list[int]] = {}  # yes-count of each usable response
    left_out = unjudged = 0
    for at, record in once(located):
        if record.get("error") or record.get("finish_reason") == "error":
            continue
        if scope == "correct" and "correct" not in record:
            raise BadInput(f"{at}: correct: expected true or false; run `cotpass grade` first")
        if scope == "correct" and not record["correct"]:
            continue
        if not record.get("votes"):
            unjudged += 1
            continue
        judge.check(at, record)
        yes, _, abstain = tally(record["votes"])
        rows = problems.setdefault(record["id"], [])
        if abstain:
            left_out += 1
        else:
            rows.append(yes)
    if judge.votes is None:
        raise BadInput("input: expected at least one record with votes, got none; run `cotpass judge` first")
    width = judge.votes + 1
    table = np.zeros((len(problems), width), dtype=np.int64)
    for at_row, rows in enumerate(problems.values()):
        table[at_row] = np.bincount(np.array(rows, dtype=np.int64), minlength=width)
    return Tallies(list(problems), table, judge.votes, left_out, unjudged)


def summary(tallies: Tallies, found: Fit) -> Record:
    """The object of `cotpass calibrate latent --json`.

    `p`, `fpr`, `fnr` {value, low, high}, the rates those of one vote; `joined`: the rates {fpr, fnr} of the
    verdict of all V votes by rule; `fit`: `saturated`, {statistic, df, p_value}, or null; `counts`: the
    responses used by number of yes, 0 to V; `reason`: why it is not identifiable, else null.
    """
    value = found.rates

    def interval(number: float | None, column: int, flip: bool = False) -> Record:
        if number is None or found.replicates is None:
            return {"value": number, "low": None, "high": None}
        drawn = found.replicates[:, column]
        low, high = (float(x) for x in np.quantile(1 - drawn if flip else drawn, [0.025, 0.975]))
        return {"value": number, "low": min(low, number), "high": max(high, number)}

    tested = None
    if value is not None:
        names = ("statistic", "df", "p_value")
        tested = dict(zip(names, found.test, strict=True)) if found.test else "saturated"
    joined = None
    if value is not None:
        pairs = {rule: joined_rates(value.yes_wrong, 1 - value.yes_right, tallies.votes, rule) for rule in RULES}
        joined = {rule: {"fpr": fpr, "fnr": fnr} for rule, (fpr, fnr) in pairs.items()}
    return {
        "p": interval(value.p if value else None, 0),
        "fpr": interval(value.yes_wrong if value else None, 2),
        "fnr": interval(1 - value.yes_right if value else None, 1, flip=True),
        "joined": joined,
        "fit": tested,
        "identifiable": value is not None,
        "reason": found.reason,
        "n_problems": len(tallies.ids),
        "n_samples": int(tallies.yes.sum()),
        "votes": tallies.votes,
        "counts": tallies.yes.sum(axis=0).tolist(),
        "left_out": tallies.left_out,
        "unjudged": tallies.unjudged,
    }


# ---------------------------------------------------------------- the verb


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    scope: str,
    replicates: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code: 1 where the votes do not determine the rates."""
    with Progress("calibrate latent", None, "samples", quiet) as progress:
        tallies = collect(progress.over(selection.source(files, "verdict")), scope)
    result = summary(tallies, fit(tallies, seed, replicates))
    if as_json:
        print(json.dumps(result))
    else:
        print_table(human_table(result))
    if not result["identifiable"]:
        print(f"cotpass: not identifiable: {result['reason']}", file=sys.stderr)
        return 1
    if isinstance(result["fit"], dict) and result["fit"]["p_value"] < 0.05:
        print(
            f"cotpass: the votes do not fit the model (p = {result['fit']['p_value']:.2g}): they depend on each other, "
            f"or responses differ in how hard they are to judge; the rates may be too favourable",
            file=sys.stderr,
        )
    return 0


def human_table(result: Record) -> Any:
    from rich.table import Table

    fitted = result["fit"]
    test = (
        f"G² {fitted['statistic']:.2f}, df {fitted['df']}, p {fitted['p_value']:.3g}"
        if isinstance(fitted, dict)
        else fitted
    )
    caption = [f"{result['n_samples']} responses of {result['n_problems']} problems, {result['votes']} votes each"]
    caption += [f"{result['left_out']} responses with an abstention left out"] if result["left_out"] else []
    caption += [f"fit: {test}"] if test else []
    table = Table(title="The judge, from its votes", caption="\n".join(caption), caption_justify="left")
    for head in ("", "value", "95 % interval"):
        table.add_column(head, justify="left" if not head else "right")
    names = {
        "p": "reasoning right (p)",
        "fpr": "yes to a wrong one, per vote (fpr)",
        "fnr": "no to a right one, per vote (fnr)",
    }
    for name, label in names.items():
        score = result[name]
        table.add_row(
            label,
            "–" if score["value"] is None else f"{score['value']:.3f}",
            "–" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}",
        )
    return table
