"""`dser report`: what the logged chains say of a model as verifier, refiner and voter (reference 2.2 to 2.5 and 3).

Read from the steps alone. Problems are what is resampled in every interval: the chains of one share its difficulty.
Pooled chances over problems of different difficulty do not give the mean stationary accuracy, so that both are told.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dser import estimates as est
from dser import markov
from dser.log import Problem, Settings, read_log
from dser.trace import Outlines, Trace
from dser.vote import Classes, Grader
from tenfold_shared import BadInput, answers

Record = dict[str, Any]
TESTED_PROBLEMS, TEST_REPLICAS = 200, 200
RESAMPLED = 200  # draws of a self-consistency vote that iteration 0 is resampled for


def skill_of(verdicts: Any, moved: Any) -> markov.Skill | None:
    """A `Skill` from counts (2, 3) and (2, 2, 2); None where a chance of it was never seen."""
    known = verdicts[:, :2].sum(1)
    n = moved.sum(-1)
    if (known == 0).any() or (n[0] == 0).any():
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        wrong_to_right = moved[:, 0, 1] / n[:, 0]
        right_to_wrong = moved[:, 1, 0] / n[:, 1]
    return markov.Skill(
        verdicts[1, 1] / known[1],
        verdicts[0, 1] / known[0],
        wrong_to_right[1],
        wrong_to_right[0],
        right_to_wrong[1],
        right_to_wrong[0],
    )


def _told(interval: est.Interval | None, **more: Any) -> Record | None:
    if interval is None:
        return None
    low, high = (None if math.isnan(x) else round(x, 5) for x in interval[1:])
    return {"value": round(interval.value, 5), "low": low, "high": high, **more}


def report_of(
    problems: Iterable[Problem],
    *,
    baseline: dict[str, list[Sample]] | None = None,
    reference: dict[str, list[Sample]] | None = None,
    seed: int = 0,
    replicates: int = 2000,
) -> Record:
    """The report of a run (see the README for its fields). baseline, reference: samples by id of a self-consistency
    run of the same model, and of another model. Raises BadInput for an empty log, or runs of different settings."""
    grader, rng = Grader(), np.random.default_rng(seed)
    kept: Outlines | None = None
    short = 0
    for problem in problems:
        if kept is None:
            kept = Outlines(problem.settings, problem.model, TESTED_PROBLEMS)
        elif problem.settings != kept.settings:
            raise BadInput("report: the log holds runs of different settings; report on one at a time")
        trace = Trace(problem, grader)
        row = kept.add(trace)
        if not trace.graded:
            continue
        if baseline is None:
            row["samples"] = _resampled(trace, rng)
        elif given := baseline.get(problem.name):
            row["samples"], few = _sampled(trace.tokens, given, grader, problem.task)
            short += few
        if reference is not None and (given := reference.get(problem.name)):
            row["reference"] = np.mean([_right(sample, grader, problem.task) for sample in given])
    if kept is None:
        raise BadInput("report: the log holds no step")
    settings, rows = kept.settings, kept.rows
    graded = rows[rows["graded"]]
    found: Record = {"advice": None}
    found["run"] = _run(kept)
    found["iterations"] = _iterations(graded, seed, replicates) if len(graded) else []
    if len(graded) and settings.procedure.iterations:
        found |= _chance(graded, kept, seed, replicates)
    else:
        found |= dict.fromkeys(("transitions", "stationary", "verifier", "counterfactual", "tests", "effective_votes"))
    found["stability"] = _stability(rows, seed, replicates)
    found["truncation"] = {role: dict(counts) for role, counts in sorted(kept.roles.items())}
    found["metrics"] = _metrics(graded, settings, seed, replicates) if len(graded) else None
    found["vs_self_consistency"] = _against(graded, baseline is not None, short, seed, replicates)
    found["vs_reference"] = _reference(graded, seed, replicates) if reference else None
    found["advice"] = advice(found, graded, settings, seed, replicates)
    return found


def _run(kept: Outlines) -> Record:
    settings, rows = kept.settings, kept.rows
    how = settings.procedure
    needed = f":{how.needed}" if how.policy.startswith("stop") else ""
    return {
        "problems": len(rows),
        "graded": int(rows["graded"].sum()),
        "chains": settings.chains,
        "iterations": how.iterations,
        "window": settings.window,
        "policy": how.policy + needed,
        "vote": settings.rule,
        "model": kept.model,
        "simulated": kept.model.startswith("sim:"),
        "calls": sum(role["calls"] for role in kept.roles.values()),
        "generated_tokens": int(rows["tokens"].sum()),
        "prompt_tokens": sum(role["prompt_tokens"] for role in kept.roles.values()),
        "unfinished_chains": kept.unfinished,
        "ended": dict(kept.ended),
    }


def _iterations(graded: Any, seed: int, replicates: int) -> list[Record]:
    accuracy = graded["accuracy"]  # (P, N+1)
    last = accuracy.shape[1] - 1
    predicted: Any = None
    if last:
        a, b = est.shrunk(graded["transitions"])
        start = _start(graded)
        pi, lam = a / (a + b), 1 - a - b
        predicted = pi[:, None] + (start - pi)[:, None] * lam[:, None] ** np.arange(last + 1)
    rows = []
    for n in range(last + 1):
        if np.isnan(accuracy[:, n]).all():
            break
        rows.append(
            {
                "n": n,
                "accuracy": _told(est.mean_interval(accuracy[:, n], seed, replicates)),
                "vote": _told(est.mean_interval(graded["leads"][:, n], seed, replicates)),
                "window_vote": round(float(graded["window_leads"][:, n].mean()), 5),
                "predicted": None if predicted is None else round(float(predicted[:, n].mean()), 5),
                "answered": round(float(graded["answered"][:, n].mean()), 5),
            }
        )
    return rows


def _start(graded: Any) -> Any:
    """Accuracy at iteration 0 by problem; 0 where no chain has a solution yet."""
    return np.nan_to_num(graded["accuracy"][:, 0])


def _chance(graded: Any, kept: Outlines, seed: int, replicates: int) -> Record:
    """transitions, stationary, verifier, counterfactual, tests, effective_votes."""
    counts, settings = graded["transitions"], kept.settings
    pooled = counts.sum(0)
    out: Record = {}
    rates = {}
    for name, i, j in (("p_ic", 0, 1), ("p_ci", 1, 0)):
        k, n = counts[:, i, j], counts[:, i, :].sum(1)
        interval = est.ratio_interval(k, n, seed, replicates)
        total_k, total_n = int(k.sum()), int(n.sum())
        rates[name] = _told(
            interval,
            k=total_k,
            n=total_n,
            wilson=[round(x, 5) for x in est.wilson(total_k, total_n)],
            jeffreys=[round(x, 5) for x in est.jeffreys(total_k, total_n)],
        )
    a, b = est.shrunk(counts)
    lam = 1 - a - b
    out["transitions"] = {
        **rates,
        "lambda": _told(est.mean_interval(lam, seed, replicates)),
        "counts": {"ii": int(pooled[0, 0]), "ic": int(pooled[0, 1]), "ci": int(pooled[1, 0]), "cc": int(pooled[1, 1])},
    }
    pi = a / (a + b)
    delta = est.stationary_delta(pooled[0, 1], pooled[0].sum(), pooled[1, 0], pooled[1].sum())
    out["stationary"] = {
        "per_problem_mean": _told(est.mean_interval(pi, seed, replicates)),
        "pooled": None
        if delta is None
        else {
            "value": round(delta.value, 5),
            "stderr_delta": round(delta.stderr, 5),
            **_pooled_interval(counts, seed, replicates),
        },
        "two_state_condition": round(float((a > b).mean()), 5),
        "plurality_condition": round(float(graded["plurality"].mean()), 5),
        "note": "pooled chances of problems of different difficulty do not give the mean accuracy; "
        "per_problem_mean is the one to read",
    }
    verdict_counts, moves = graded["reviews"], graded["moves"]
    known = verdict_counts[:, :, :2].sum(2)
    out["verifier"] = {
        "tpr": _told(est.ratio_interval(verdict_counts[:, 1, 1], known[:, 1], seed, replicates)),
        "fpr": _told(est.ratio_interval(verdict_counts[:, 0, 1], known[:, 0], seed, replicates)),
        "reviews": int(verdict_counts.sum()),
        "unknown": int(verdict_counts[:, :, 2].sum()),
        "refiner": {
            f"{kind}_{said}": _told(est.ratio_interval(moves[:, v, i, 1 - i], moves[:, v, i].sum(1), seed, replicates))
            for v, said in ((1, "pass"), (0, "fail"))
            for i, kind in ((0, "ic"), (1, "ci"))
        },
    }
    out["counterfactual"] = _counterfactual(graded, settings, seed)
    out["tests"] = _tests(kept, counts, seed)
    middle = float(np.median(lam))
    each = markov.effective_votes(min(settings.window, settings.procedure.iterations + 1), middle)
    total = each * settings.chains
    out["effective_votes"] = {
        "lambda_median": round(middle, 5),
        "per_chain": round(each, 3),
        "total": round(total, 2),
        "cells": settings.chains * min(settings.window, settings.procedure.iterations + 1),
        "implied_majority": round(float(np.mean([markov.majority(p, max(1, round(total))) for p in pi])), 5),
    }
    return out


def _pooled_interval(counts: Any, seed: int, replicates: int) -> Record:
    if len(counts) < 2:
        return {"low": None, "high": None}
    sums = est.resampled_sums(est.blocks(counts.reshape(-1, 4), seed), replicates, seed)
    drawn = sums.reshape(-1, 2, 2)
    a, b = est.rates(drawn)
    pi = (a / (a + b))[np.isfinite(a / np.where(a + b > 0, a + b, np.nan))]
    if not len(pi):
        return {"low": None, "high": None}
    low, high = np.quantile(pi, [0.025, 0.975])
    return {"low": round(float(low), 5), "high": round(float(high), 5)}


def _counterfactual(graded: Any, settings: Settings, seed: int) -> Record:
    """What other policies would give, from the same reviews and refinements (pooled); and stop-on-pass:1 replayed."""
    verdicts, moves, start = graded["reviews"], graded["moves"], _start(graded)
    rows: dict[str, list[float]] = {}

    def policies(v: Any, m: Any, p_0: float) -> Record | None:
        skill = skill_of(v, m)
        if skill is None:
            return None
        out: Record = {}
        if not math.isnan(skill.ic_pass + skill.ci_pass):
            out["always"] = dict(zip(("p_ic", "p_ci"), markov.always(skill), strict=True))
        out["keep-on-pass"] = dict(zip(("p_ic", "p_ci"), markov.keep_on_pass(skill), strict=True))
        for value in out.values():
            value["accuracy"] = markov.stationary(value["p_ic"], value["p_ci"])
        for passes in (1, 2):
            from_i, from_c = markov.stop_on_pass(skill, passes)
            accuracy = None if from_i is None or from_c is None else p_0 * from_c + (1 - p_0) * from_i
            out[f"stop-on-pass:{passes}"] = {"from_i": from_i, "from_c": from_c, "accuracy": accuracy}
        return out

    value = policies(verdicts.sum(0), moves.sum(0), float(start.mean()))
    if value is None:
        return {"note": "reviews or refinements of one kind were never seen"}
    if len(graded) > 1:
        parts = np.concatenate(
            [verdicts.reshape(-1, 6), moves.reshape(-1, 8), start[:, None], np.ones((len(start), 1))], 1
        )
        for sums in est.resampled_sums(est.blocks(parts, seed), 300, seed):
            drawn = policies(sums[:6].reshape(2, 3), sums[6:14].reshape(2, 2, 2), sums[14] / sums[15])
            for name, one in (drawn or {}).items():
                if one["accuracy"] is not None:
                    rows.setdefault(name, []).append(one["accuracy"])
    for name, one in value.items():
        low, high = np.quantile(rows[name], [0.025, 0.975]) if rows.get(name) else (None, None)
        one |= {"low": low, "high": high}
        for key in one:
            one[key] = None if one[key] is None else round(float(one[key]), 5)
    if settings.procedure.policy in ("always", "stop-on-stable"):
        accuracy, vote = (round(float(mean), 5) for mean in graded["gate"].mean(0))
        value["stop-on-pass:1"]["replayed"] = {"accuracy": accuracy, "vote": vote}
    return value


def _tests(kept: Outlines, counts: Any, seed: int) -> Record:
    """Likelihood-ratio tests, within problems: the statistics of the problems added up, their chance by simulating
    each problem's own fitted chain (problems differ, and pooling them would look like memory)."""
    count = min(TESTED_PROBLEMS, len(kept.states))
    some = [kept.states[at * len(kept.states) // count] for at in range(count)]
    chosen = [at for at, _ in some]
    states = np.stack([states for _, states in some])
    out: Record = {"problems": len(chosen)}
    if states.shape[2] < 4:
        return {**out, "order": None, "homogeneity": None, "autocorrelation": None}
    a, b = est.shrunk(counts[chosen])
    start = np.array([(s[:, 0] == 1).mean() for s in states])
    rng = np.random.default_rng(seed)
    replicas = int(np.clip(2e7 // states.size, 39, TEST_REPLICAS))
    for name, statistic in (("order", _order_sum), ("homogeneity", _halves_sum)):
        seen = statistic(states)
        null = []
        for _ in range(replicas):
            drawn = est.simulate(a, b, start, states.shape[1], states.shape[2] - 1, rng)
            null.append(statistic(np.where(states < 0, -1, drawn)))
        p = (1 + sum(one >= seen - 1e-9 for one in null)) / (1 + replicas)
        out[name] = {"statistic": round(float(seen), 3), "expected": round(float(np.mean(null)), 3), "p": round(p, 4)}
    correlation = [c for s in states if (c := est.autocorrelation(s)) is not None]
    out["autocorrelation"] = round(float(np.mean(correlation)), 5) if correlation else None
    return out


def _order_sum(states: Any) -> float:
    s = states
    a, b, c = s[:, :, :-2], s[:, :, 1:-1], s[:, :, 2:]
    table = np.stack(
        [((a == i) & (b == j) & (c == k)).sum((1, 2)) for i in (0, 1) for j in (0, 1) for k in (0, 1)], 1
    ).reshape(-1, 2, 2, 2)
    return float(2 * (est._maximum(table).sum(1) - est._maximum(table.sum(1))).sum())


def _halves_sum(states: Any) -> float:
    half = states.shape[2] // 2
    first, second = est.transitions(states[:, :, : half + 1]), est.transitions(states[:, :, half:])
    return float(2 * (est._maximum(first) + est._maximum(second) - est._maximum(first + second)).sum())


def _stability(rows: Any, seed: int, replicates: int) -> Record:
    return {
        "changed": _told(est.ratio_interval(rows["changed"], rows["moved"], seed, replicates)),
        "settled_chains": _told(est.mean_interval(rows["settled"], seed, replicates)),
        "distinct_answers": round(float(rows["classes"].mean()), 3),
        "tied_votes": int(rows["tied"].sum()),
        "merged_answers": int(rows["merges"].sum()),
        "stopped_early": int(rows["early"].sum()),
    }


def _metrics(graded: Any, settings: Settings, seed: int, replicates: int) -> Record:
    """Pass@k of the first and of the last iteration, and the vote."""
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k <= settings.chains]
    out: Record = {"vote": _told(est.mean_interval(graded["vote"], seed, replicates))}
    for at, name in enumerate(("pass_at_k_first", "pass_at_k_last")):
        there, right = graded["ends"][:, at].T
        out[name] = {
            str(k): round(float(np.mean([markov.pass_at_k(int(n), int(c), k) for n, c in ends])), 5)
            for k in ks
            if (ends := [(n, c) for n, c in zip(there, right, strict=True) if n >= k])
        }
    return out


def _resampled(trace: Trace, rng: np.random.Generator) -> tuple[float, float, float]:
    """(samples, tokens, accuracy of their vote) of self-consistency that draws from iteration 0 what the chains spent."""
    first = trace.codes[:, 0]
    first = first[first > -2]
    if not len(first):
        return math.nan, math.nan, math.nan
    each = max(1.0, trace.generated.get("solve", 0) / max(1, trace.counts["solve"]["calls"]))
    count = max(1, int(trace.tokens / each))
    if not trace.classes:
        return count, count * each, 0.0
    shares = np.bincount(first + 1, minlength=trace.classes + 1)[1:].astype(float)
    nothing = len(first) - shares.sum()
    drawn = rng.multinomial(count, np.append(shares, nothing) / len(first), size=RESAMPLED)[:, :-1]
    best = drawn == drawn.max(1, keepdims=True)
    won = ((best & trace.right_class).sum(1) / best.sum(1))[drawn.sum(1) > 0].sum() / RESAMPLED
    return count, count * each, float(won)


def _sampled(
    budget: int, given: list[Sample], grader: Grader, task: Record | None
) -> tuple[tuple[float, float, float], bool]:
    """The same of given samples, as many as `budget` tokens hold; and whether there were too few of them."""
    tokens = 0.0
    kept: list[Sample] = []
    for sample in given:
        if kept and tokens + sample.tokens > budget:
            return (len(kept), tokens, _sample_vote(kept, grader, task)), False
        tokens += sample.tokens
        kept.append(sample)
    return (len(kept), tokens, _sample_vote(kept, grader, task)), tokens < 0.95 * budget


def _against(graded: Any, given: bool, short: int, seed: int, replicates: int) -> Record | None:
    """The vote against self-consistency at equal generated tokens, problems paired."""
    held = graded[~np.isnan(graded["samples"][:, 2])]
    if not len(held):
        return None
    ours, theirs = held["vote"].astype(float), held["samples"][:, 2]
    told = _told(est.mean_interval(ours - theirs, seed, replicates))
    assert told is not None
    wrong = theirs < 0.5
    return {
        "diff": told["value"],
        "low": told["low"],
        "high": told["high"],
        "dser": round(float(ours.mean()), 5),
        "self_consistency": round(float(theirs.mean()), 5),
        "tokens": {"dser": int(held["tokens"].sum()), "self_consistency": int(np.floor(held["samples"][:, 1]).sum())},
        "samples_mean": round(float(held["samples"][:, 0].mean()), 2),
        "problems": len(held),
        "solved_that_self_consistency_missed": [int((ours[wrong] > 0.5).sum()), int(wrong.sum())],
        "lost_that_self_consistency_had": [int((ours[~wrong] < 0.5).sum()), int((~wrong).sum())],
        "problems_short_of_tokens": short,
        "basis": "its own samples" if given else "iteration 0, resampled to equal generated tokens",
    }


def _sample_vote(samples: list[Sample], grader: Grader, task: Record | None) -> float:
    found = [sample.answer for sample in samples if sample.answer is not None]
    counted = Counter(found)
    if not counted:
        return 0.0
    classes = Classes(counted)
    votes: Counter[int] = Counter()
    for answer, count in counted.items():
        votes[classes.of[answer]] += count
    best = max(votes.values())
    leaders = [c for c, count in votes.items() if count == best]
    return sum(bool(grader.correct(task, classes.shown[c])) for c in leaders) / len(leaders)


def _right(sample: Sample, grader: Grader, task: Record | None) -> bool:
    return sample.correct if sample.correct is not None else bool(grader.correct(task, sample.answer))


def _reference(graded: Any, seed: int, replicates: int) -> Record | None:
    """The vote against another model's single-turn accuracy, problems paired."""
    held = graded[~np.isnan(graded["reference"])]
    if not len(held):
        return None
    ours, theirs = held["vote"].astype(float), held["reference"]
    told = _told(est.mean_interval(ours - theirs, seed, replicates))
    assert told is not None
    return {
        "diff": told["value"],
        "low": told["low"],
        "high": told["high"],
        "dser": round(float(ours.mean()), 5),
        "reference": round(float(theirs.mean()), 5),
        "problems": len(held),
        "missing": len(graded) - len(held),
    }


def advice(found: Record, graded: Any, settings: Settings, seed: int, replicates: int) -> Record:
    """`{verdict, text, change, low, high, vote_change}`; verdict: iterate, do_not_iterate, no_effect_seen, or unknown (no
    gold, or no iteration).

    It rests on the model's own transitions. `change`: where one chain's accuracy leads, problem by problem, against
    iteration 0. `vote_change`: the same for the vote of many chains, by the plurality condition [2.3]. The vote decides
    where it is clear; a chain may get worse while the right answer stays the commonest.
    """
    nothing = dict.fromkeys(("change", "low", "high", "vote_change"))
    if not len(graded):
        text = "No gold answers: nothing can be said of right and wrong; see stability."
        return {"verdict": "unknown", "text": text, **nothing}
    if not settings.procedure.iterations:
        text = "No iterations were run: there are no transitions to judge by."
        return {"verdict": "unknown", "text": text, **nothing}
    counts, start = graded["transitions"], _start(graded)
    interval = est.mean_interval(est.per_problem_stationary(counts) - start, seed, replicates)
    before = graded["leads"][:, 0]
    votes = est.mean_interval(graded["plurality"] - before, seed, replicates)
    assert interval is not None and votes is not None
    low, high = interval.low, interval.high
    if math.isnan(low):
        delta = est.stationary_delta(counts[0, 0, 1], counts[0, 0].sum(), counts[0, 1, 0], counts[0, 1].sum())
        sampled = math.sqrt(max(start[0] * (1 - start[0]), 0.01) / settings.chains)
        spread = est.Z95 * math.hypot(delta.stderr if delta else 0.5, sampled)
        low, high = max(-1.0, interval.value - spread), min(1.0, interval.value + spread)
    chance = found["transitions"]
    p_ic, p_ci = (chance[name]["value"] if chance[name] else None for name in ("p_ic", "p_ci"))
    moved = (
        f"one chain's accuracy goes from {start.mean():.3f} at iteration 0 towards "
        f"{start.mean() + interval.value:.3f} (change {interval.value:+.3f}, 95 % {low:+.3f} to {high:+.3f}; "
        f"p_IC {_number(p_ic)}, p_CI {_number(p_ci)})"
    )
    tail = (
        f"Of {len(graded)} problems the right answer led {before.mean():.0%} at iteration 0 and leads "
        f"{before.mean() + votes.value:.0%} where the chains end up; the vote of {settings.chains} chains was right on "
        f"{found['metrics']['vote']['value']:.0%}."
    )
    # NaN, of a single problem, is neither above nor below 0.
    vote_hurts, vote_gains = votes.high < 0, votes.low > 0
    if vote_hurts or (high < 0 and votes.value < 0):
        verdict = "do_not_iterate"
        text = f"Iteration will hurt: by the model's own transitions {moved}. Vote over first solutions instead (--iterations 0). {tail}"
    elif low > 0:
        verdict, text = "iterate", f"Iterate: by the model's own transitions {moved}. {tail}"
    elif vote_gains:
        verdict = "iterate"
        worse = "gets worse" if high < 0 else "is not seen to gain"
        text = f"Iterate, and vote: the vote gains, though one chain alone {worse}: by the model's own transitions {moved}. {tail}"
    else:
        verdict = "no_effect_seen"
        worse = ", and one chain alone gets worse" if high < 0 else ""
        text = f"No gain seen for the vote{worse}: by the model's own transitions {moved}. {tail}"
    if found["run"]["simulated"]:
        text += " (Simulated: no model was asked.)"
    told = {"change": interval.value, "low": low, "high": high}
    return {"verdict": verdict, "text": text, **{k: round(v, 5) for k, v in told.items()}, "vote_change": _told(votes)}


def _number(value: float | None) -> str:
    return "unseen" if value is None else f"{value:.3f}"


# ---------------------------------------------------------------- the verb


class Sample(NamedTuple):
    """A single-turn solution to compare with. correct: as graded before, None where it was not."""

    answer: str | None
    tokens: float
    correct: bool | None = None


def read_samples(path: str) -> dict[str, list[Sample]]:
    """Samples by id: sample records with `id` and `response` (graded ones keep their `correct`), or a run folder, whose
    first solutions they are. Texts are not kept. Raises BadInput."""
    from dser.log import STEPS, steps_path
    from tenfold_shared.jsonl import Source

    out: dict[str, list[Sample]] = {}
    if Path(path).is_dir() or Path(path).name == STEPS:
        for problem in read_log(str(steps_path(path))):
            each = problem.generated.get("solve", 0) / max(1, problem.counts["solve"]["calls"])
            out[problem.name] = [
                Sample(chain.cells[0] if chain.cells else None, each) for _, chain in sorted(problem.chains.items())
            ]
        return out
    for where, record in Source([path], None):
        if not isinstance(record.get("id"), str) or not isinstance(record.get("response"), str):
            raise BadInput(f"{where}: expected a sample record with `id` and `response`, or a run folder")
        text = answers.after_thinking(record["response"])
        answer = answers.extract(text) or answers.extract(text, require_box=False)
        correct = record.get("correct")
        tokens = (record.get("usage") or {}).get("completion_tokens", 0)
        out.setdefault(record["id"], []).append(Sample(answer, tokens, correct if isinstance(correct, bool) else None))
    if not out:
        raise BadInput(f"{path}: expected sample records; the file is empty")
    return out


def run(
    folder: str,
    *,
    self_consistency: str | None,
    reference: str | None,
    replicates: int,
    seed: int,
    as_json: bool,
    plot: str | None,
) -> int:
    """The verb `report`; returns the exit code."""
    baseline = read_samples(self_consistency) if self_consistency else None
    other = read_samples(reference) if reference else None
    found = report_of(read_log(folder), baseline=baseline, reference=other, seed=seed, replicates=replicates)
    found["model"] = found["run"]["model"]
    if plot:
        from dser.plot import draw

        draw(found, plot)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write("\n".join(lines(found)) + "\n")
    return 0


def lines(found: Record) -> Iterator[str]:
    """The report for people, the advice first."""

    def shown(value: Record | None) -> str:
        if value is None:
            return "unseen"
        return f"{value['value']:.4f}" + ("" if value["low"] is None else f" [{value['low']:.4f}, {value['high']:.4f}]")

    yield found["advice"]["text"]
    run = found["run"]
    yield (
        f"{run['problems']} problems x {run['chains']} chains x {run['iterations']} iterations, policy {run['policy']}, "
        f"model {run['model']}: {run['calls']} calls, {run['generated_tokens']} tokens generated"
        + (f"; {run['unfinished_chains']} chains unfinished" if run["unfinished_chains"] else "")
    )
    rows = found["iterations"]
    for row in rows:
        if row["n"] in (0, 1, 2, 3, 5, 10, 20, 30, 40, 60, 80) or row is rows[-1]:
            told = "" if row["predicted"] is None else f", predicted {row['predicted']:.4f}"
            yield f"  n={row['n']:<3} accuracy {shown(row['accuracy'])}{told}; vote {row['window_vote']:.4f}"
    if found["transitions"]:
        chance, limit, verifier = found["transitions"], found["stationary"], found["verifier"]
        yield f"transitions: p_IC {shown(chance['p_ic'])}, p_CI {shown(chance['p_ci'])}, lambda {shown(chance['lambda'])}"
        pooled = limit["pooled"]
        yield (
            f"stationary accuracy: {shown(limit['per_problem_mean'])} (mean over problems)"
            + (f"; pooled {pooled['value']:.4f}" if pooled else "")
            + f"; p_IC > p_CI on {limit['two_state_condition']:.0%}, plurality condition on {limit['plurality_condition']:.0%} of the problems"
        )
        yield f"verifier: TPR {shown(verifier['tpr'])}, FPR {shown(verifier['fpr'])}; {verifier['unknown']} of {verifier['reviews']} reviews without a verdict"
        for name, one in found["counterfactual"].items():
            if isinstance(one, dict) and one.get("accuracy") is not None:
                yield f"  policy {name}: accuracy {one['accuracy']:.4f}"
        tests = found["tests"]
        if tests["order"]:
            yield f"model checks: order p={tests['order']['p']}, homogeneity p={tests['homogeneity']['p']}"
        effective = found["effective_votes"]
        yield f"effective votes: {effective['total']} of {effective['cells']} cells; a majority of them right: {effective['implied_majority']:.4f}"
    stable = found["stability"]
    yield f"stability: answers change in {shown(stable['changed'])} of the iterations; {shown(stable['settled_chains'])} of the chains settled"
    for role, counts in found["truncation"].items():
        yield f"  {role}: {counts['calls']} calls, {counts['truncated']} truncated, {counts['looped']} in a loop, {counts['trimmed']} trimmed, {counts['unknown']} without verdict"
    for name, label in (("vs_self_consistency", "self-consistency"), ("vs_reference", "the reference")):
        if versus := found[name]:
            other = versus.get("self_consistency", versus.get("reference"))
            interval = "" if versus["low"] is None else f" [{versus['low']:.4f}, {versus['high']:.4f}]"
            basis = f" ({versus['basis']})" if "basis" in versus else ""
            yield f"vote {versus['dser']:.4f} against {label} {other:.4f}: {versus['diff']:+.4f}{interval}{basis}"
