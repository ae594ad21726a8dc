"""`cotpass theory`: what rewarding final answers does to right and wrong reasoning, as exact numbers.

The model (arXiv 2506.14245 §4, A.5). The G responses of a group are independent. A reasoning is right with chance
p_c; the answer is right with chance alpha after a right reasoning, beta after a wrong one. The reward is 1 for a
right answer, else 0, and the advantage of response i is (R_i − mean)/std over its group. Training raises right
reasoning exactly when a right reasoning's expected advantage is the larger one: when alpha > beta, which the
paper calls the logic prior.

With mu = p_c alpha + (1 − p_c) beta, the chance of a right answer, for every G and every std

    E[advantage | reasoning right] = (1 − p_c)(alpha − beta) D,   E[advantage | wrong] = −p_c (alpha − beta) D

where D is the expected advantage of a right answer minus that of a wrong one. The paper's theorem is D = 1/sigma,
sigma² = mu(1 − mu), for G → ∞. For a finite group D is a sum over S ~ Binomial(G−1, mu), the right answers among
the others; nothing is approximated. So p_c E[.|right] + (1 − p_c) E[.|wrong] = 0 holds to rounding. Given that a
group is undecided, each of the two is divided by its own chance of such a group.

Edges, decided here:
- sigma = 0 (every answer is the same): D grows as √(G−1) without bound, unless nothing is divided by. A limit is 0
  where the factor before D is 0, as it then is for every G, and null where it is not.
- p_c of 0 or 1: one of the two classes never occurs. Its value is that of one such response put among G − 1 of
  the other class, as the formula says.
- alpha = beta: everything is 0. alpha < beta: both signs turn round. Each of these is told in `warnings`.
- G = 1 has no group to compare with: refused.

`simulate` draws groups and knows none of this. `estimate` gets p_c, alpha, beta from judged records. numpy only.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from cotpass.estimators import Floats, Ints, integers
from cotpass.readers import once
from cotpass.reliability import wilson
from cotpass.votes import OneJudge, aggregate, tally
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.progress import Progress

Record = dict[str, Any]

STDS = ("population", "sample", "none")
MAX_GROUP = 1 << 20
"""Largest G: the exact sum has G terms."""

EXACT_WORK = 500_000_000
"""The test of alpha > beta is exact up to this many multiplications (a second or so), normal above."""

_CHUNK = 1 << 20  # responses simulated at once: some 50 MB


# ---------------------------------------------------------------- closed forms


def advantage(pc: float, alpha: float, beta: float, group: int, std: str = "population") -> Record:
    """Expected advantages of right (`ok`) and wrong (`bad`) reasoning under group-normalised rewards.

    pc, alpha, beta: chances in [0, 1]; group: G, 2 to MAX_GROUP. std: what the reward minus the group's mean is
    divided by: `population` (1/G; the paper), `sample` (1/(G−1), Bessel), `none` (nothing: Dr. GRPO). An advantage
    is 0 where all rewards of the group are the same. Raises BadInput.

    - `mu`, `sigma2`: mean and variance of one reward.
    - `limit`: for G → ∞ (§4's theorem; with `none`, D = 1). null where it is infinite.
    - `exact`: for this G.
    - `nondegenerate`: for this G given that the group is neither all right nor all wrong, which is what DAPO's dynamic
      sampling keeps; null where no such group can hold the response. `p_nondegenerate`: the share of groups kept.
    - `p_cc_given_ca` = p_c alpha/mu: the chance that a right answer has a right reasoning; null for mu = 0.
    - `logit_flow` = p_c(1 − p_c)(ok − bad) of `limit`: the speed of logit p_c under gradient ascent in it;
      `logit_flow_exact`: with `exact`.
    """
    pc, alpha, beta, group = _checked(pc, alpha, beta, group, std)
    other, gain = 1.0 - pc, alpha - beta
    mu = pc * alpha + other * beta
    miss = pc * (1.0 - alpha) + other * (1.0 - beta)  # 1 − mu, with the digits that the difference would lose
    sigma2 = mu * miss
    gap = _gap(mu, miss, group, std)
    ok, bad = other * gain * gap, -pc * gain * gap
    # By the response's own answer: whether the other G − 1 leave the group undecided.
    if_right, if_wrong = _not_all(mu, miss, group - 1), _not_all(miss, mu, group - 1)
    limit_gap = 1.0 if std == "none" else 1.0 / math.sqrt(sigma2) if sigma2 else math.inf
    flow = pc * other * gain
    return {
        "mu": mu,
        "sigma2": sigma2,
        "limit": {"ok": _times(other * gain, limit_gap), "bad": _times(-pc * gain, limit_gap)},
        "exact": {"ok": ok + 0.0, "bad": bad + 0.0},
        "nondegenerate": {
            "ok": _over(ok, alpha * if_right + (1.0 - alpha) * if_wrong),
            "bad": _over(bad, beta * if_right + (1.0 - beta) * if_wrong),
        },
        "p_nondegenerate": mu * if_right + miss * if_wrong,
        "p_cc_given_ca": pc * alpha / mu if mu else None,
        "logit_flow": _times(flow, limit_gap),
        "logit_flow_exact": flow * gap + 0.0,
    }


def _checked(pc: float, alpha: float, beta: float, group: int, std: str) -> tuple[float, float, float, int]:
    """The four numbers as Python's own, or BadInput."""
    for name, chance in (("pc", pc), ("alpha", alpha), ("beta", beta)):
        if isinstance(chance, bool) or not isinstance(chance, Real) or not 0 <= chance <= 1:
            raise BadInput(f"{name}: expected a chance in [0, 1], got {chance!r}")
    sizes = integers(group, "group")
    if sizes.shape != (1,) or not 2 <= sizes[0] <= MAX_GROUP:
        raise BadInput(f"group: expected 2 to {MAX_GROUP} responses a group, got {group}")
    if std not in STDS:
        raise BadInput(f"std: expected one of {', '.join(STDS)}, got {std!r}")
    return float(pc), float(alpha), float(beta), int(sizes[0])


def _gap(mu: float, miss: float, group: int, std: str) -> float:
    """D: the expected advantage of a right answer minus that of a wrong one, for G = group.

    With k of G right the population std is √(k(G−k))/G, so a right answer has √((G−k)/k) and a wrong one
    −√(k/(G−k)); both are 0 in undecided groups of their own accord. Only positive terms are added.
    """
    if std == "none":
        return (group - 1) / group
    others = np.arange(group)  # S, right answers among the other G − 1
    chance = _binomial(mu, miss, group - 1)
    right = chance @ np.sqrt((group - 1 - others) / (others + 1))
    wrong = chance @ np.sqrt(others / (group - others))
    return float(right + wrong) * (math.sqrt((group - 1) / group) if std == "sample" else 1.0)


def _binomial(p: float, q: float, n: int) -> Floats:
    """P(S = s), s = 0..n, for S ~ Binomial(n, p) with q = 1 − p: float64 (n+1,)."""
    if q == 0 or p == 0:
        return np.eye(1, n + 1, n if q == 0 else 0)[0]
    s = np.arange(n)
    return _from_ratios((n - s) / (s + 1) * (p / q))


def _from_ratios(ratio: Floats) -> Floats:
    """A distribution over 0..n from P(s+1)/P(s), s = 0..n−1, which must fall in s: float64 (n+1,).

    Products outward from the mode: every factor is at most 1, so nothing overflows and what is left out is 0.
    """
    mode = int(np.count_nonzero(ratio >= 1))
    weight = np.ones(len(ratio) + 1)
    weight[mode + 1 :] = np.cumprod(ratio[mode:])
    weight[:mode] = np.cumprod(1.0 / ratio[:mode][::-1])[::-1]
    return weight / weight.sum()


def _not_all(share: float, rest: float, n: int) -> float:
    """1 − share^n, with rest = 1 − share; exact also where share is near 1."""
    if share == 0 or rest == 0:
        return float(share == 0)
    return -math.expm1(n * (math.log1p(-rest) if rest < 0.5 else math.log(share)))


def _times(factor: float, gap: float) -> float | None:
    """factor · gap, where gap may be infinite: 0 for the factor 0, None for any other."""
    if not factor:
        return 0.0
    product = factor * gap
    return product if math.isfinite(product) else None


def _over(value: float, chance: float) -> float | None:
    return value / chance + 0.0 if chance > 0 else None


# ---------------------------------------------------------------- the same by drawing groups


def simulate(
    pc: float,
    alpha: float,
    beta: float,
    group: int,
    groups: int,
    std: str = "population",
    seed: int = 0,
    progress: Progress | None = None,
) -> Record:
    """Means over the responses of `groups` drawn groups: {`ok`, `bad`, `stderr` {ok, bad}}, and `nondegenerate` the
    same over the groups that are neither all right nor all wrong (`kept` of them).

    Arguments as `advantage`. Standard errors count groups, not responses, as independent. null where no response of
    the class was drawn, or (stderr) only in one group. Raises BadInput.
    """
    pc, alpha, beta, group = _checked(pc, alpha, beta, group, std)
    if groups < 2 or seed < 0:
        raise BadInput(f"simulate: expected at least 2 groups and a seed of at least 0, got {groups} and {seed}")
    rng = np.random.default_rng(seed)
    sums = np.zeros((2, 2, 6))  # all groups, kept ones; ok, bad; see _moments
    kept = 0
    rows = max(1, _CHUNK // group)
    for start in range(0, groups, rows):
        shape = (min(rows, groups - start), group)
        sound = rng.random(shape) < pc
        reward = (rng.random(shape) < np.where(sound, alpha, beta)).astype(float)
        score = reward - reward.mean(axis=1, keepdims=True)
        if std != "none":
            spread = reward.std(axis=1, ddof=int(std == "sample"), keepdims=True)
            np.divide(score, spread, out=score, where=spread > 0)
        mixed = reward.min(axis=1) < reward.max(axis=1)
        kept += int(mixed.sum())
        for at, members in enumerate((sound, ~sound)):
            count, total = members.sum(axis=1), (score * members).sum(axis=1)
            sums[0, at] += _moments(count, total)
            sums[1, at] += _moments(count[mixed], total[mixed])
        if progress is not None:
            progress.update(shape[0])
    every, mixed_only = (_ratio_means(part) for part in sums)
    return {"groups": groups, **every, "nondegenerate": {"kept": kept, **mixed_only}}


def _moments(count: Ints, total: Floats) -> Floats:
    """Σ n, Σ s, Σ n², Σ ns, Σ s² over groups with n responses of a class that score s, and the groups with any."""
    n = count.astype(float)
    return np.array([n.sum(), total.sum(), n @ n, n @ total, total @ total, np.count_nonzero(count)])


def _ratio_means(sums: Floats) -> Record:
    """Σs/Σn of each class and its linearised standard error √(Σ(s − r n)²)/Σn, groups as the units."""
    means: list[float | None] = []
    errors: list[float | None] = []
    for n, s, nn, ns, ss, units in sums.tolist():
        mean = s / n if n else None
        means.append(mean)
        if mean is None or units < 2:
            errors.append(None)
        else:
            residual = max(ss - 2 * mean * ns + mean * mean * nn, 0.0) * units / (units - 1)
            errors.append(math.sqrt(residual) / n)
    return {"ok": means[0], "bad": means[1], "stderr": {"ok": errors[0], "bad": errors[1]}}


# ---------------------------------------------------------------- p_c, alpha, beta from judged records


@dataclass
class Judged:
    """counts: per problem the responses by (reasoning, answer): right right, right wrong, wrong right, wrong wrong;
    int (M, 4). unjudged_right, unjudged_wrong: right and wrong answers without a majority verdict, left out of
    counts. failed: samples that failed, left out as well."""

    ids: list[str]
    counts: Ints
    unjudged_right: int = 0
    unjudged_wrong: int = 0
    failed: int = 0


def collect(located: Iterable[tuple[str, Record]]) -> Judged:
    """Records judged with scope all, as counts. A reasoning is right by the majority of its votes.

    Raises BadInput for what is not graded or judged, a repeated (id, sample), a second judge, and files in which only
    the right answers (or only the wrong ones) have verdicts: alpha and beta would come out as 1 (or 0).
    """
    judge = OneJudge()
    problems: dict[str, list[int]] = {}
    answers, voted, unjudged = [0, 0], [0, 0], [0, 0]  # by answer: wrong, right
    failed = 0
    for at, record in once(located):
        if record.get("error") or record.get("finish_reason") == "error":
            failed += 1
            continue
        if "correct" not in record:
            raise BadInput(f"{at}: correct: expected true or false; run `cotpass grade` first")
        right = int(record["correct"])
        answers[right] += 1
        verdict = None
        if record.get("votes"):
            judge.check(at, record)
            voted[right] += 1
            verdict = aggregate(*tally(record["votes"]), "majority")
        if verdict is None:
            unjudged[right] += 1
        else:
            problems.setdefault(record["id"], [0, 0, 0, 0])[2 * (not verdict) + (not right)] += 1
    if judge.votes is None:
        raise BadInput(
            "input: expected at least one record with votes, got none; run `cotpass judge --scope all` first"
        )
    both = "and alpha and beta need right and wrong ones"
    for right, word in ((0, "wrong"), (1, "right")):
        none = f"votes: none of the {answers[right]} {word} answers"
        if answers[right] and not voted[right]:
            raise BadInput(f"{none} is judged, {both}; run `cotpass judge --scope all`")
        if answers[right] and unjudged[right] == answers[right]:
            raise BadInput(f"{none} has a majority verdict, {both}; use another judge")
    return Judged(list(problems), np.array(list(problems.values()), dtype=np.int64), unjudged[1], unjudged[0], failed)


def estimate(judged: Judged, per_problem: bool = False) -> Record:
    """`p_c`, `alpha`, `beta`, each {value, low, high}, and `p_value_alpha_gt_beta`, from `Judged` with M ≥ 1.

    Values are pooled over responses: p_c = right reasonings/responses, alpha = right answers after right
    reasonings/right reasonings, beta the same after wrong ones; null where nothing is divided by. Intervals: see
    `pooled`. The test: see `prior_test`; it compares within problems, so that easy problems, which have more right
    reasonings and more right answers, do not feign it as they do a pooled alpha > beta. All of it is the judge's
    view: its errors draw alpha and beta together (`cotpass calibrate` measures them).
    per_problem: add `problems`, the same three values a problem with Wilson's intervals over its responses.
    """
    counts = judged.counts
    sound, right = counts[:, 0] + counts[:, 1], counts[:, 0] + counts[:, 2]
    total = counts.sum(axis=1)
    p_value, informative, method = prior_test(counts)
    test = "Cochran-Mantel-Haenszel"
    found: Record = {
        "p_c": pooled(sound, total),
        "alpha": pooled(counts[:, 0], sound),
        "beta": pooled(counts[:, 2], total - sound),
        "p_value_alpha_gt_beta": p_value,
        "test": {"name": f"exact {test}" if method == "exact" else f"{test}, {method}", "problems": informative},
        "p_ca": float(right.sum() / total.sum()),
        "n_problems": len(counts),
        "n_samples": int(total.sum()),
        "unjudged": {"right": judged.unjudged_right, "wrong": judged.unjudged_wrong},
        "failed": judged.failed,
    }
    if per_problem:
        found["problems"] = [
            {
                "id": name,
                "n": int(row.sum()),
                "p_c": wilson(int(row[:2].sum()), int(row.sum())),
                "alpha": wilson(int(row[0]), int(row[:2].sum())),
                "beta": wilson(int(row[2]), int(row[2:].sum())),
            }
            for name, row in zip(judged.ids, counts, strict=True)
        ]
    return found


def pooled(part: Ints, whole: Ints) -> Record:
    """{value, low, high}: Σ part/Σ whole over problems, both (M,), with a 95 % interval; problems are the clusters.

    The target is the ratio in the population that the problems are drawn from. Its variance is the jackknife's,
    leaving one problem out; that variance says how many independent responses the data are worth, at most Σ whole,
    and the interval is Wilson's for that number, with Student's t for as many problems as count (Korn and Graubard
    1998). So it stays within [0, 1] and has a width at 0 and 1: there nothing tells how alike the responses to one
    problem are, and each problem counts as one response. low and high are null for fewer than two problems.
    """
    size = float(whole.sum())
    if not size:
        return {"value": None, "low": None, "high": None}
    value = float(part.sum()) / size
    used = int(np.count_nonzero(whole))
    if used < 2:
        return {"value": value, "low": None, "high": None}
    change = (part - value * whole) / (size - whole)
    variance = (used - 1) / used * float(change @ change)
    worth = min(value * (1 - value) / variance, size) if 0 < value < 1 and variance > 0 else float(used)
    t2 = _t_quantile(used - 1) ** 2
    middle = (value + t2 / (2 * worth)) / (1 + t2 / worth)
    half = math.sqrt(t2) / (1 + t2 / worth) * math.sqrt(value * (1 - value) / worth + t2 / (4 * worth * worth))
    return {"value": value, "low": max(0.0, min(middle - half, value)), "high": min(1.0, max(middle + half, value))}


def _t_quantile(df: int) -> float:
    """The 97.5 % point of Student's t with a whole df ≥ 1, by bisection."""
    low, high = 1.9, 12.8  # df = ∞ has 1.96, df = 1 has 12.71
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, df) < 0.95 else (low, middle)
    return (low + high) / 2


def _t_within(t: float, df: int) -> float:
    """P(|T| < t) for a whole df ≥ 1, the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    cos2 = math.cos(angle) ** 2
    odd = df % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for j in range((df - 1) // 2 if odd else df // 2):
        total += term
        term *= cos2 * ((2 * j + 2) / (2 * j + 3) if odd else (2 * j + 1) / (2 * j + 2))
    sine = math.sin(angle)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def prior_test(counts: Ints) -> tuple[float, int, str]:
    """(p, problems, method): the one-sided test of alpha > beta against alpha = beta within every problem.

    counts: as `Judged`, (M, 4). Cochran-Mantel-Haenszel, stratified by problem: given how many reasonings and how
    many answers of a problem are right, under the null the number right in both is hypergeometric, as if the
    reasonings' labels were permuted within the problem, whatever the problem's p_c and difficulty are. p is the
    chance that the sum over problems is at least as large as seen: exact, by convolution (the chance of p ≤ x is
    then at most x), up to EXACT_WORK; above it normal, with continuity correction. problems: those that can tell
    anything, having right and wrong ones of both; p is 1 where there are none.
    """
    n, sound, right = counts.sum(axis=1), counts[:, 0] + counts[:, 1], counts[:, 0] + counts[:, 2]
    least, most = np.maximum(0, sound + right - n), np.minimum(sound, right)
    tells = least < most
    if not tells.any():
        return 1.0, 0, "exact"
    n, sound, right, least, most, both = (x[tells] for x in (n, sound, right, least, most, counts[:, 0]))
    informative = len(n)
    if int((most - least).sum()) ** 2 / 2 > EXACT_WORK:
        mean = sound * right / n
        variance = mean * ((n - sound) / n) * ((n - right) / (n - 1))
        z = (float(both.sum()) - float(mean.sum()) - 0.5) / math.sqrt(float(variance.sum()))
        return math.erfc(z / math.sqrt(2)) / 2, informative, "normal"
    chance: npt.NDArray[np.floating[Any]] = np.ones(1)
    for size, a, b, first, last in zip(n, sound, right, least, most, strict=True):
        s = np.arange(first, last)
        chance = np.convolve(chance, _from_ratios((a - s) * (b - s) / ((s + 1) * (size - a - b + s + 1))))
    tail = float(chance[int(both.sum() - least.sum()) :].sum())
    return min(tail, 1.0), informative, "exact"


# ---------------------------------------------------------------- the verb


def run(
    selection: Selection,
    *,
    pc: float | None,
    alpha: float | None,
    beta: float | None,
    group: int,
    std: str,
    simulate_groups: int | None,
    estimate_from: str | None,
    per_problem: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code: 1 where the judged file does not determine what is needed."""
    if estimate_from is None:
        if None in (pc, alpha, beta):
            raise BadInput("--pc, --alpha, --beta: give all three, or a judged file with --estimate")
        if per_problem or selection != Selection(None, None, None, 0):
            raise BadInput("--per-problem, --limit, --ids, --shard, --skip-bad: are for the records of --estimate")
    if seed < 0:
        raise BadInput(f"--seed: expected an integer of at least 0, got {seed}")
    found: Record = {}
    warnings = []
    if estimate_from is not None:
        with Progress("theory", None, "samples", quiet) as progress:
            judged = collect(progress.over(selection.source([estimate_from], "verdict")))
        found = estimate(judged, per_problem)
        warnings += _estimate_warnings(found)
    given = {"p_c": pc, "alpha": alpha, "beta": beta}
    inputs = {name: found[name]["value"] if number is None else number for name, number in given.items()}
    result: Record = {"inputs": {**inputs, "group": group, "std": std}, **found}
    lacking = [name for name, number in inputs.items() if number is None]
    if lacking:
        warnings.append(_lacking(lacking))
    else:
        chances = inputs["p_c"], inputs["alpha"], inputs["beta"]
        result |= advantage(*chances, group, std)
        warnings += _theory_warnings(*chances, result)
        if simulate_groups is not None:
            with Progress("theory", simulate_groups, "groups", quiet) as progress:
                result["simulated"] = simulate(*chances, group, simulate_groups, std, seed, progress)
    result["warnings"] = warnings
    for line in warnings:
        print(f"cotpass: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        if "mu" in result:
            print_table(human_table(result))
        if estimate_from is not None:
            print_table(estimate_table(result))
    return 1 if lacking else 0


def _lacking(names: Sequence[str]) -> str:
    needs = {"alpha": "a right", "beta": "a wrong"}
    told = " and ".join(f"{name} (no response has {needs[name]} reasoning)" for name in names)
    return f"no theory without {told}; give --{' and --'.join(names)}"


def _theory_warnings(pc: float, alpha: float, beta: float, result: Record) -> list[str]:
    lines = []
    if alpha < beta:
        lines.append("alpha < beta: the logic prior fails, the signs flip and training favours wrong reasoning")
    if alpha == beta:
        lines.append("alpha = beta: the answer says nothing about the reasoning, all advantages are 0")
    if pc in (0, 1):
        never, always = ("right", "wrong") if pc == 0 else ("wrong", "right")
        lines.append(
            f"p_c = {pc:g}: no response has a {never} reasoning; its values are for one put among {always} ones"
        )
    if result["sigma2"] == 0:
        lines.append(
            f"sigma2 = 0: every answer is {'right' if result['mu'] else 'wrong'} and no group carries a signal"
        )
    return lines


def _estimate_warnings(found: Record) -> list[str]:
    lines = []
    left = found["unjudged"]
    if left["right"] or left["wrong"]:
        lines.append(
            f"{left['right']} right and {left['wrong']} wrong answers have no majority verdict and are left out of the "
            f"estimates"
        )
    if not 0 < found["p_ca"] < 1:
        word = "right" if found["p_ca"] else "wrong"
        lines.append(f"every judged answer is {word}: alpha and beta are the same, whatever the reasoning does")
    elif not found["test"]["problems"]:
        lines.append("no problem has both right and wrong reasonings and answers: alpha > beta cannot be tested")
    return lines


def human_table(result: Record) -> Any:
    """The theory as a rich table: one row a variant, the two advantages beside each other."""
    from rich.table import Table

    inputs = result["inputs"]
    caption = [
        f"p_c {inputs['p_c']:.4g}, alpha {inputs['alpha']:.4g}, beta {inputs['beta']:.4g}, std {inputs['std']}",
        f"P(answer right) {result['mu']:.6g}, variance {result['sigma2']:.6g}",
        f"P(reasoning right | answer right) {_shown(result['p_cc_given_ca'])}",
        f"groups with a signal {result['p_nondegenerate']:.6g}",
        f"d logit(p_c)/dt {_shown(result['logit_flow'])} (limit), {result['logit_flow_exact']:.6f} (G = {inputs['group']})",
    ]
    table = Table(title="Expected advantage", caption="\n".join(caption), caption_justify="left", min_width=64)
    for head in ("", "reasoning right", "reasoning wrong"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    rows = {"limit": "G → ∞", "exact": f"G = {inputs['group']}", "nondegenerate": "  neither all right nor wrong"}
    for name, label in rows.items():
        table.add_row(label, _shown(result[name]["ok"]), _shown(result[name]["bad"]))
    if "simulated" in result:
        drawn = result["simulated"]
        for label, part in (
            (f"{drawn['groups']} simulated groups", drawn),
            ("  the mixed ones", drawn["nondegenerate"]),
        ):
            cells = [
                _shown(part[name]) + (f" ± {part['stderr'][name]:.6f}" if part["stderr"][name] is not None else "")
                for name in ("ok", "bad")
            ]
            table.add_row(label, *cells)
    return table


def estimate_table(result: Record) -> Any:
    from rich.markup import escape
    from rich.table import Table

    test, left = result["test"], result["unjudged"]
    caption = [
        f"{result['n_samples']} responses of {result['n_problems']} problems",
        f"test of alpha > beta within problems: p = {result['p_value_alpha_gt_beta']:.3g}",
        f"  {test['name']}, {test['problems']} problems tell",
    ]
    unused = left["right"] + left["wrong"] + result["failed"]
    caption += [f"{unused} unjudged or failed samples left out"] if unused else []
    table = Table(
        title="Estimated from judged records", caption="\n".join(caption), caption_justify="left", min_width=64
    )
    for head in ("", "value", "95 % interval"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    labels = {
        "p_c": "reasoning right (p_c)",
        "alpha": "answer right, reasoning right (alpha)",
        "beta": "answer right, reasoning wrong (beta)",
    }
    for name, label in labels.items():
        table.add_row(label, *_cells(result[name]))
    for problem in result.get("problems", []):
        table.add_section()
        table.add_row(f"{escape(problem['id'])} (n = {problem['n']})", "", "")
        for name in labels:
            table.add_row(f"  {name}", *_cells(problem[name]))
    return table


def _cells(score: Record) -> tuple[str, str]:
    between = "–" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}"
    return ("–" if score["value"] is None else f"{score['value']:.3f}"), between


def _shown(number: float | None) -> str:
    return "–" if number is None else f"{number:.6f}"
