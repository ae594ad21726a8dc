"""What the logged chains say of a model as verifier, refiner and voter: `report_of`.

Read from the steps alone. Problems are what is resampled in every interval: the chains of one share its difficulty.
Pooled chances over problems of different difficulty do not give the mean stationary accuracy, so that both are told.
report.py is the verb: it reads the log, and prints what is found here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from dser import estimates as est
from dser import markov
from dser.log import Problem, Settings
from dser.trace import Outlines, Trace
from dser.vote import Classes, Grader
from tenfold_shared import BadInput

Record = dict[str, Any]
TESTED_PROBLEMS, TEST_REPLICAS = 200, 200
RESAMPLED = 200  # draws of a self-consistency vote that iteration 0 is resampled for


def told_interval(interval: est.Interval | None, **more: Any) -> Record | None:
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
        raise BadInput("input: expected at least one step of `dser solve`, got none")
    settings, rows = kept.settings, kept.rows
    graded = rows[rows["graded"]]
    found: Record = {"advice": None}
    found["run"] = _run(kept)
    found["iterations"] = _iterations(graded, settings, seed, replicates) if len(graded) else []
    if len(graded) and settings.procedure.iterations:
        found |= _chance(graded, kept, seed, replicates)
    else:
        found |= dict.fromkeys(("transitions", "stationary", "verifier", "counterfactual", "tests", "effective_votes"))
    found["stability"] = _stability(kept, seed, replicates)
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


def _iterations(graded: Any, settings: Settings, seed: int, replicates: int) -> list[Record]:
    accuracy = graded["accuracy"]  # (P, N+1)
    predicted = _predicted(graded, settings, seed)
    rows = []
    for n in range(accuracy.shape[1]):
        if np.isnan(accuracy[:, n]).all():
            break
        rows.append(
            {
                "n": n,
                "accuracy": told_interval(est.mean_interval(accuracy[:, n], seed, replicates)),
                "vote": told_interval(est.mean_interval(graded["leads"][:, n], seed, replicates)),
                "window_vote": round(float(graded["window_leads"][:, n].mean()), 5),
                "predicted": None if predicted is None else told_interval(predicted[n]),
                "answered": round(float(graded["answered"][:, n].mean()), 5),
            }
        )
    return rows


def _predicted(graded: Any, settings: Settings, seed: int) -> list[est.Interval] | None:
    """P_n(C) by iteration as the problems' own chances and starts give it; None where no formula does."""
    how = settings.procedure
    start, n = at_the_start(graded), np.arange(how.iterations + 1)
    if not how.iterations or how.policy == "stop-on-stable" or how.give_up:
        return None
    if how.policy == "stop-on-pass":
        skill = _skill(graded, how.unknown_passes)
        if skill is None:
            return None
        return est.shrunk_intervals(
            skill,
            lambda *rates: markov.stop_path(
                markov.Skill(*rates), np.broadcast_to(start, np.shape(rates[0])), how.needed, how.iterations
            ),
            seed,
        )

    def path(a: Any, b: Any) -> Any:
        pi = est.stationary(a, b)
        return pi + (start - pi) * (1 - a - b) ** n.reshape(-1, *[1] * np.ndim(a))

    return est.shrunk_intervals(est.shrunk(graded["transitions"]), path, seed)


def at_the_start(graded: Any) -> Any:
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
        rates[name] = told_interval(
            interval,
            k=total_k,
            n=total_n,
            wilson=[round(x, 5) for x in est.wilson(total_k, total_n)],
            jeffreys=[round(x, 5) for x in est.jeffreys(total_k, total_n)],
        )
    chances = est.shrunk(counts)
    lam = 1 - chances[0].values - chances[1].values
    middle, pi = est.shrunk_intervals(chances, lambda a, b: np.stack([1 - a - b, est.stationary(a, b)]), seed)
    out["transitions"] = {
        **rates,
        "lambda": told_interval(middle),
        "counts": {"ii": int(pooled[0, 0]), "ic": int(pooled[0, 1]), "ci": int(pooled[1, 0]), "cc": int(pooled[1, 1])},
    }
    if ends := settings.procedure.policy.startswith("stop"):
        out["stationary"] = {
            "per_problem_mean": told_interval(est.mean_interval(at_the_end(graded), seed, replicates)),
            "pooled": None,
            "two_state_condition": None,
            "plurality_condition": round(float(graded["leads"][:, -1].mean()), 5),
            "note": f"chains of {settings.procedure.policy} end: this is how many were right at their end and where the "
            "right answer led, as seen; there is no stationary distribution to it",
        }
    else:
        out["stationary"] = {
            "per_problem_mean": told_interval(pi),
            "pooled": _pooled(counts, kept, seed, replicates),
            "two_state_condition": round(float((chances[0].values > chances[1].values).mean()), 5),
            "plurality_condition": round(float(graded["plurality"].mean()), 5),
            "note": "pooled chances of problems of different difficulty do not give the mean accuracy; "
            "per_problem_mean is the one to read",
        }
    verdict_counts, moves = graded["reviews"], graded["moves"]
    known = verdict_counts[:, :, :2].sum(2)
    out["verifier"] = {
        "tpr": told_interval(est.ratio_interval(verdict_counts[:, 1, 1], known[:, 1], seed, replicates)),
        "fpr": told_interval(est.ratio_interval(verdict_counts[:, 0, 1], known[:, 0], seed, replicates)),
        "reviews": int(verdict_counts.sum()),
        "unknown": int(verdict_counts[:, :, 2].sum()),
        "refiner": {
            f"{kind}_{said}": told_interval(
                est.ratio_interval(moves[:, v, i, 1 - i], moves[:, v, i].sum(1), seed, replicates)
            )
            for v, said in ((1, "pass"), (0, "fail"))
            for i, kind in ((0, "ic"), (1, "ci"))
        },
    }
    out["counterfactual"] = _counterfactual(graded, settings, seed)
    out["tests"] = _tests(kept, counts, seed)
    typical = float(np.median(lam))
    cells = min(settings.window, settings.procedure.iterations + 1)
    chains = sum(kept.own.values())
    each = sum(count * markov.effective_votes(own, typical) for own, count in kept.own.items()) / chains
    total = each * settings.chains
    limit = at_the_end(graded) if ends else est.stationary(chances[0].values, chances[1].values)
    out["effective_votes"] = {
        "lambda_median": round(typical, 5),
        "per_chain": round(each, 3),
        "total": round(total, 2),
        "cells": settings.chains * cells,
        "implied_majority": round(float(np.mean([markov.majority(p, max(1, round(total))) for p in limit])), 5),
    }
    return out


def at_the_end(graded: Any) -> Any:
    """Accuracy of each problem's chains at the last iteration, where they have come that far; else as they began."""
    last = graded["accuracy"][:, -1]
    return np.where(np.isnan(last), at_the_start(graded), last)


def _pooled(counts: Any, kept: Outlines, seed: int, replicates: int) -> Record | None:
    """π_C of all transitions together, with the standard error of the delta method and intervals by resampling problems
    and by resampling chains."""
    pooled = counts.sum(0)
    delta = est.stationary_delta(pooled[0, 1], pooled[0].sum(), pooled[1, 0], pooled[1].sum())
    if delta is None:
        return None
    problems = _quantiles(
        est.resampled_sums(est.blocks(counts.reshape(-1, 4), seed), replicates, seed).reshape(-1, 2, 2)
    )
    low, high = problems if len(counts) > 1 else (None, None)
    return {
        "value": round(delta.value, 5),
        "stderr_delta": round(delta.stderr, 5),
        "low": low,
        "high": high,
        "by_chain": _quantiles(kept.by_chain),
    }


def _quantiles(drawn: Any) -> list[float | None]:
    """95 % of π_C over resampled counts (replicates, 2, 2)."""
    a, b = est.rates(drawn)
    with np.errstate(invalid="ignore"):
        pi = a / (a + b)
    pi = pi[np.isfinite(pi)]
    return [round(float(x), 5) for x in np.quantile(pi, [0.025, 0.975])] if len(pi) else [None, None]


def _skill(graded: Any, unknown_passes: bool) -> list[est.Shrunk] | None:
    """Each problem's `Skill`, in its fields' order, a verdict counted as the run took it; None where a state was never
    reviewed, or what failed there never refined."""
    reviews, moves = graded["reviews"], graded["moves"]
    passed = reviews[:, :, 1] + (reviews[:, :, 2] if unknown_passes else 0)  # (P, state)
    all_of = reviews.sum(2)
    failed = (all_of - passed).sum(0)
    if (all_of.sum(0) == 0).any() or ((failed > 0) & (moves[:, 0].sum((0, 2)) == 0)).any():
        return None
    found = [est.Shrunk(passed[:, state], all_of[:, state]) for state in (1, 0)]
    for state in (0, 1):
        found += [est.Shrunk(moves[:, v, state, 1 - state], moves[:, v, state].sum(1)) for v in (1, 0)]
    return found


def _counterfactual(graded: Any, settings: Settings, seed: int) -> Record:
    """What other policies would give from the same reviews and refinements, problem by problem; and stop-on-pass:1
    replayed."""
    skill = _skill(graded, settings.procedure.unknown_passes)
    if skill is None:
        return {"note": "reviews or refinements of one kind were never seen"}
    start = at_the_start(graded)
    names = {"always": ("p_ic", "p_ci"), "keep-on-pass": ("p_ic", "p_ci")}
    names |= {f"stop-on-pass:{passes}": ("from_i", "from_c") for passes in (1, 2)}
    if (graded["reviews"][:, :, 1].sum() > 0) and graded["moves"][:, 1].sum() == 0:
        del names["always"]  # what passed was never refined

    def policies(*rates: Any) -> Any:
        one, rows = markov.Skill(*rates), []
        for name in names:
            if name.startswith("stop"):
                from_i, from_c = markov.stop_on_pass(one, int(name[-1]))
                rows += [from_i, from_c, start * from_c + (1 - start) * from_i]
            else:
                a, b = markov.always(one) if name == "always" else markov.keep_on_pass(one)
                rows += [a, b, est.stationary(a, b)]
        return np.stack(rows)

    found = iter(est.shrunk_intervals(skill, policies, seed))
    value: Record = {}
    for name, keys in names.items():
        first, second, accuracy = (told_interval(next(found)) for _ in range(3))
        assert first and second and accuracy
        value[name] = {
            keys[0]: first["value"],
            keys[1]: second["value"],
            "accuracy": accuracy["value"],
            "low": accuracy["low"],
            "high": accuracy["high"],
        }
    if settings.procedure.policy in ("always", "stop-on-stable"):
        gate = graded["gate"].mean(0)
        value["stop-on-pass:1"]["replayed"] = {"accuracy": round(float(gate[0]), 5), "vote": round(float(gate[1]), 5)}
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
    a, b = (one.values for one in est.shrunk(counts[chosen]))
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


def _stability(kept: Outlines, seed: int, replicates: int) -> Record:
    rows = kept.rows

    def share(part: Any, whole: Any) -> list[float | None]:
        return [None if not n else round(float(k / n), 5) for k, n in zip(part, whole, strict=True)]

    found = {
        "changed": told_interval(est.ratio_interval(rows["changed"], rows["moved"], seed, replicates)),
        "settled_chains": told_interval(est.mean_interval(rows["settled"], seed, replicates)),
        "distinct_answers": round(float(rows["classes"].mean()), 3),
        "tied_votes": int(rows["tied"].sum()),
        "merged_answers": int(rows["merges"].sum()),
        "stopped_early": int(rows["early"].sum()),
        "by_iteration": {
            "changed": share(kept.changed, kept.moved),
            "no_answer": share(kept.empty, kept.made),
            "truncated": share(kept.lengths[:, 2], kept.lengths[:, 0]),
            "tokens": share(kept.lengths[:, 1], kept.lengths[:, 0]),
        },
    }
    if kept.last[0]:
        hits, steps = kept.hits.sum(), np.arange(len(kept.hits))
        found |= {
            "ever_right": round(float(hits / kept.last[0]), 5),
            "first_right": round(float((kept.hits * steps).sum() / hits), 5) if hits else None,
            "stay_wrong": round(float(kept.spent[0] / kept.runs[0]), 3) if kept.runs[0] else None,
            "stay_right": round(float(kept.spent[1] / kept.runs[1]), 3) if kept.runs[1] else None,
            "end_right": round(float(kept.last[1] / kept.last[0]), 5),
        }
    return found


def _metrics(graded: Any, settings: Settings, seed: int, replicates: int) -> Record:
    """The vote, Cons@K and Pass@k of the first and of the last iteration, Pass@1 over the window, and which problems the
    vote solved that a majority of first solutions did not."""
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k <= settings.chains]
    out: Record = {"vote": told_interval(est.mean_interval(graded["vote"], seed, replicates))}
    late = graded["accuracy"][:, -settings.window :]
    there = ~np.isnan(late)
    with np.errstate(invalid="ignore"):
        over_window = np.where(there, late, 0).sum(1) / there.sum(1)
    out["pass_at_1_window"] = told_interval(est.mean_interval(over_window, seed, replicates))
    for name, n in (("cons_at_k_first", 0), ("cons_at_k_last", -1)):
        out[name] = told_interval(est.mean_interval(graded["leads"][:, n], seed, replicates))
    missed = graded["leads"][:, 0] < 0.5
    out["solved_that_first_majority_missed"] = [int(graded["vote"][missed].sum()), int(missed.sum())]
    out["lost_that_first_majority_had"] = [int((~graded["vote"][~missed]).sum()), int((~missed).sum())]
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
    told = told_interval(est.mean_interval(ours - theirs, seed, replicates))
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
    told = told_interval(est.mean_interval(ours - theirs, seed, replicates))
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


class Sample(NamedTuple):
    """A single-turn solution to compare with. correct: as graded before, None where it was not."""

    answer: str | None
    tokens: float
    correct: bool | None = None


LEAST_CHANGE = 0.005  # of accuracy, that is worth advice


def advice(found: Record, graded: Any, settings: Settings, seed: int, replicates: int) -> Record:
    """`{verdict, text, change, low, high, vote_change}`; verdict: iterate, do_not_iterate, no_effect_seen, or unknown (no
    gold, or no iteration).

    It rests on the model's own transitions. `change`: where one chain's accuracy leads, problem by problem, against
    iteration 0. `vote_change`: the same for the vote of many chains, by the plurality condition. A policy that ends
    chains leads nowhere but to where they ended: both are then what was seen. A chain may get worse while the right
    answer stays the commonest: against iterating is a vote that loses, or a falling chain whose vote does not hold.
    """
    nothing = dict.fromkeys(("change", "low", "high", "vote_change"))
    if not len(graded):
        text = "No gold answers: nothing can be said of right and wrong; see stability."
        return {"verdict": "unknown", "text": text, **nothing}
    if not settings.procedure.iterations:
        text = "No iterations were run: there are no transitions to judge by."
        return {"verdict": "unknown", "text": text, **nothing}
    start, before = at_the_start(graded), graded["leads"][:, 0]
    if settings.procedure.policy.startswith("stop"):
        basis = f"under {found['run']['policy']}, as it was run,"
        interval = est.mean_interval(at_the_end(graded) - start, seed, replicates)
        votes = est.mean_interval(graded["leads"][:, -1] - before, seed, replicates)
        assert interval is not None
    else:
        basis = "by the model's own transitions"
        chances = est.shrunk(graded["transitions"])
        (interval,) = est.shrunk_intervals(chances, lambda a, b: (est.stationary(a, b) - start)[None], seed)
        votes = est.mean_interval(graded["plurality"] - before, seed, replicates)
    assert votes is not None
    low, high = interval.low, interval.high
    counts, chance = graded["transitions"].sum(0), found["transitions"]
    if math.isnan(low):  # one problem
        delta = est.stationary_delta(counts[0, 1], counts[0].sum(), counts[1, 0], counts[1].sum())
        sampled = math.sqrt(max(start[0] * (1 - start[0]), 0.01) / settings.chains)
        spread = est.Z95 * math.hypot(delta.stderr if delta else 0.5, sampled)
        low, high = max(-1.0, interval.value - spread), min(1.0, interval.value + spread)
    p_ic, p_ci = chance["p_ic"], chance["p_ci"]
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
    # NaN, of a single problem, is neither above nor below 0. What was never seen to happen is no ground for advice.
    vote_hurts, vote_gains = votes.high < 0, votes.low > 0
    rises = counts[0, 1] > 0 and low > 0 and interval.value > LEAST_CHANGE
    apart = bool(p_ic and p_ci and p_ci["low"] > p_ic["high"])
    falls = counts[1, 0] > 0 and interval.value < -LEAST_CHANGE and (high < 0 or apart)
    holds = votes.value >= 0 and found["metrics"]["vote"]["value"] >= before.mean() - 1e-9
    if vote_hurts or (falls and not vote_gains and not holds):
        verdict = "do_not_iterate"
        vote = "the vote loses" if vote_hurts else "one chain gets worse, and the vote does not hold"
        text = (
            f"Iteration will hurt: {vote}: {basis} {moved}. Vote over first solutions instead (--iterations 0). {tail}"
        )
    elif rises:
        verdict, text = "iterate", f"Iterate: {basis} {moved}. {tail}"
    elif vote_gains:
        verdict = "iterate"
        worse = "gets worse" if falls else "is not seen to gain"
        text = f"Iterate, and vote: the vote gains, though one chain alone {worse}: {basis} {moved}. {tail}"
    else:
        verdict = "no_effect_seen"
        told = "No gain seen for the vote, and one chain alone gets worse" if falls else "No gain seen, and no harm"
        text = f"{told}: {basis} {moved}. {tail}"
    if found["run"]["simulated"]:
        text += " (Simulated: no model was asked.)"
    figures = {"change": interval.value, "low": low, "high": high}
    return {
        "verdict": verdict,
        "text": text,
        **{k: round(v, 5) for k, v in figures.items()},
        "vote_change": told_interval(votes),
    }


def _number(chance: Record | None) -> str:
    return "unseen" if chance is None else f"{chance['value']:.3f}"
