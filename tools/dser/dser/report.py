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
from typing import Any

import numpy as np

from dser import estimates as est
from dser import markov
from dser.log import Problem, Settings, read_log
from dser.vote import Classes, Grader, stopped_at, vote
from tenfold_shared import BadInput, answers

Record = dict[str, Any]
TESTED_PROBLEMS, TEST_REPLICAS = 200, 200
RESAMPLED = 200  # draws of a self-consistency vote that iteration 0 is resampled for


class Trace:
    """A problem's chains as arrays. states (K, N+1): 1 right, 0 wrong, -1 not there; codes (K, N+1): answer classes,
    -1 no answer, -2 not there; verdicts (K, N+1): 1 pass, 0 fail, 2 unknown, -1 none; filled: states and codes with
    chains that a policy ended kept to the end."""

    def __init__(self, problem: Problem, grader: Grader) -> None:
        settings = problem.settings
        self.name, self.settings, self.model = problem.name, settings, problem.model
        self.stopped = stopped_at(problem)
        last = settings.procedure.iterations if self.stopped is None else self.stopped
        shape = (settings.chains, settings.procedure.iterations + 1)
        counted = Counter(
            answer for chain in problem.chains.values() for answer in chain.cells[: last + 1] if answer is not None
        )
        classes = Classes(counted)
        self.classes = len(classes.shown)
        right = {answer: grader.correct(problem.task, answer) for answer in counted}
        self.graded = problem.gold not in (None, "", [])
        # A class is right where its commonest spelling is.
        self.right_class = np.array([bool(right[shown]) for shown in classes.shown], dtype=bool)
        self.codes = np.full(shape, -2, dtype=np.int32)
        self.verdicts = np.full(shape, -1, dtype=np.int8)
        self.filled = self.codes.copy()
        told = {"pass": 1, "fail": 0, "unknown": 2, None: -1}
        of: dict[str | None, int] = {**dict.fromkeys(classes.of, 0), None: -1}
        of.update(classes.of)
        for index, chain in problem.chains.items():
            row = [of[answer] for answer in chain.cells[: last + 1]]
            self.codes[index, : len(row)] = self.filled[index, : len(row)] = row
            self.verdicts[index, : len(row)] = [told[verdict] for verdict in chain.verdicts[: last + 1]]
            if row and (chain.ended or self.stopped is not None):
                self.filled[index, len(row) :] = row[-1]
        self.states, self.filled_states = self._states(self.codes), self._states(self.filled)
        ballot = vote(problem, upto=self.stopped)
        self.vote_right = bool(grader.correct(problem.task, ballot.answer)) if self.graded else None
        self.tie, self.merges = ballot.tie, len(ballot.merges)
        self.generated, self.prompted, self.counts = problem.generated, problem.prompted, problem.counts
        self.unfinished = sum(not chain.ended for chain in problem.chains.values()) if self.stopped is None else 0
        self.unfinished += settings.chains - len(problem.chains)
        ended = [chain.ended for chain in problem.chains.values()]
        self.ended = Counter(str(why) for why in ended if why)

    def _states(self, codes: Any) -> Any:
        lookup = np.concatenate([self.right_class, [False]]).astype(np.int8)  # -1, no answer, is wrong
        return np.where(codes == -2, -1, lookup[codes] if self.graded else -1).astype(np.int8)

    @property
    def tokens(self) -> int:
        return sum(self.generated.values())

    def skill_counts(self) -> tuple[Any, Any]:
        """Reviews (2, 3): state x (fail, pass, unknown); refinements (2, 2, 2): passed x from x to, unknown as a fail."""
        s, v = self.states[:, :-1], self.verdicts[:, :-1]
        after = self.states[:, 1:]
        out = np.zeros((2, 3), dtype=np.int64)  # state x (fail, pass, unknown)
        moved = np.zeros((2, 2, 2), dtype=np.int64)  # verdict (unknown is fail) x from x to
        refined = self._refined()
        for state in (0, 1):
            for verdict in (0, 1, 2):
                here = (s == state) & (v == verdict)
                out[state, verdict] = here.sum()
                for to in (0, 1):
                    moved[int(verdict == 1), state, to] += (here & refined & (after == to)).sum()
        # The reviews of the last iteration, where a policy ended the chain there.
        tail = self.verdicts[:, -1]
        for state in (0, 1):
            for verdict in (0, 1, 2):
                out[state, verdict] += ((self.states[:, -1] == state) & (tail == verdict)).sum()
        return out, moved

    def _refined(self) -> Any:
        """Where a verdict was followed by a refinement: always, or on a fail only."""
        v = self.verdicts[:, :-1]
        if self.settings.procedure.policy in ("always", "stop-on-stable"):
            return np.ones(v.shape, dtype=bool)
        unknown = self.settings.procedure.unknown_passes
        return (v == 0) | ((v == 2) & (not unknown))


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


def plurality_right(codes: Any, right_class: Any) -> float:
    """Share of the most-voted classes that is right: 1, 0, or a tie's part. codes: any shape, below 0 no vote."""
    votes = np.bincount(codes[codes >= 0].ravel(), minlength=len(right_class))
    if not votes.sum():
        return 0.0
    best = votes == votes.max()
    return float((best & right_class).sum() / best.sum())


def _told(interval: est.Interval | None, **more: Any) -> Record | None:
    if interval is None:
        return None
    low, high = (None if math.isnan(x) else round(x, 5) for x in interval[1:])
    return {"value": round(interval.value, 5), "low": low, "high": high, **more}


def report_of(
    problems: Iterable[Problem],
    *,
    baseline: dict[str, list[Record]] | None = None,
    reference: dict[str, list[Record]] | None = None,
    seed: int = 0,
    replicates: int = 2000,
) -> Record:
    """The report of a run (see the README for its fields). baseline, reference: samples by id of a self-consistency
    run of the same model, and of another model. Raises BadInput for an empty log, or runs of different settings."""
    grader = Grader()
    golds: dict[str, Any] = {}
    traces = []
    for problem in problems:
        golds[problem.name] = problem.task
        traces.append(Trace(problem, grader))
    if not traces:
        raise BadInput("report: the log holds no step")
    settings = traces[0].settings
    if any(trace.settings != settings for trace in traces):
        raise BadInput("report: the log holds runs of different settings; report on one at a time")
    found: Record = {"advice": None}
    graded = [trace for trace in traces if trace.graded]
    found["run"] = _run(traces, settings)
    found["iterations"] = _iterations(graded, settings, seed, replicates) if graded else []
    if graded and settings.procedure.iterations:
        counts = np.stack([est.transitions(trace.states) for trace in graded])
        found |= _chance(graded, counts, settings, seed, replicates)
    else:
        found |= dict.fromkeys(("transitions", "stationary", "verifier", "counterfactual", "tests", "effective_votes"))
    found["stability"] = _stability(traces, settings, seed, replicates)
    found["truncation"] = _mishaps(traces)
    found["metrics"] = _metrics(graded, settings, seed, replicates) if graded else None
    found["vs_self_consistency"] = _against(graded, baseline, grader, golds, seed, replicates) if graded else None
    found["vs_reference"] = _reference(graded, reference, grader, golds, seed, replicates) if reference else None
    found["advice"] = advice(found, graded, settings, seed, replicates)
    return found


def _run(traces: list[Trace], settings: Settings) -> Record:
    how = settings.procedure
    needed = f":{how.needed}" if how.policy.startswith("stop") else ""
    return {
        "problems": len(traces),
        "graded": sum(trace.graded for trace in traces),
        "chains": settings.chains,
        "iterations": how.iterations,
        "window": settings.window,
        "policy": how.policy + needed,
        "vote": settings.rule,
        "model": traces[0].model,
        "simulated": traces[0].model.startswith("sim:"),
        "calls": sum(c["calls"] for trace in traces for c in trace.counts.values()),
        "generated_tokens": sum(trace.tokens for trace in traces),
        "prompt_tokens": sum(sum(trace.prompted.values()) for trace in traces),
        "unfinished_chains": sum(trace.unfinished for trace in traces),
        "ended": dict(sum((trace.ended for trace in traces), Counter())),
    }


def _iterations(graded: list[Trace], settings: Settings, seed: int, replicates: int) -> list[Record]:
    last = settings.procedure.iterations
    states = np.stack([trace.filled_states for trace in graded])  # (P, K, N+1)
    there = states >= 0
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = np.where(there, states, 0).sum(1) / there.sum(1)
    predicted: Any = None
    if last:
        a, b = est.shrunk(np.stack([est.transitions(trace.states) for trace in graded]))
        start = np.where(np.isnan(accuracy[:, 0]), 0.0, accuracy[:, 0])
        predicted = np.stack([start] + [np.zeros_like(start)] * last, 1)
        pi, lam = a / (a + b), 1 - a - b
        predicted = pi[:, None] + (start - pi)[:, None] * lam[:, None] ** np.arange(last + 1)
    rows = []
    for n in range(last + 1):
        if not there[:, :, n].any():
            break
        window = min(settings.window, n + 1)
        rows.append(
            {
                "n": n,
                "accuracy": _told(est.mean_interval(accuracy[:, n], seed, replicates)),
                "vote": _told(
                    est.mean_interval(
                        [plurality_right(t.filled[:, n], t.right_class) for t in graded], seed, replicates
                    )
                ),
                "window_vote": round(
                    float(
                        np.mean([plurality_right(t.filled[:, n + 1 - window : n + 1], t.right_class) for t in graded])
                    ),
                    5,
                ),
                "predicted": None if predicted is None else round(float(predicted[:, n].mean()), 5),
                "answered": round(float(np.mean([(t.filled[:, n] >= 0).mean() for t in graded])), 5),
            }
        )
    return rows


def _chance(graded: list[Trace], counts: Any, settings: Settings, seed: int, replicates: int) -> Record:
    """transitions, stationary, verifier, counterfactual, tests, effective_votes."""
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
        "plurality_condition": round(float(np.mean([plurality_holds(trace) for trace in graded])), 5),
        "note": "pooled chances of problems of different difficulty do not give the mean accuracy; "
        "per_problem_mean is the one to read",
    }
    verdicts, moved = zip(*(trace.skill_counts() for trace in graded), strict=True)
    verdict_counts, moves = np.stack(verdicts), np.stack(moved)
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
    out["counterfactual"] = _counterfactual(graded, verdict_counts, moves, seed)
    out["tests"] = _tests(graded, counts, seed)
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
    weights = est.problem_weights(len(counts), replicates, seed)
    drawn = np.einsum("rp,pij->rij", weights, counts.astype(float))
    a, b = est.rates(drawn)
    pi = (a / (a + b))[np.isfinite(a / np.where(a + b > 0, a + b, np.nan))]
    if not len(pi):
        return {"low": None, "high": None}
    low, high = np.quantile(pi, [0.025, 0.975])
    return {"low": round(float(low), 5), "high": round(float(high), 5)}


def plurality_holds(trace: Trace) -> bool:
    """Whether the right answer has the largest part of the problem's answer-level stationary distribution [2.3].

    The answer-level chain of a problem: its classes and `no answer`, counts with half a transition of prior that is
    spread as the problem's cells are.
    """
    table = answer_matrix(trace)
    if table is None:
        return False
    matrix, right = table
    pi = markov.stationary_of(matrix)
    wrong = np.delete(pi[:-1], right)  # the last state is `no answer` and the rare ones, which never win
    return bool(not len(wrong) or pi[right] > wrong.max())


def answer_matrix(trace: Trace, most: int = 12) -> tuple[Any, int] | None:
    """((J+1, J+1) transition matrix over the commonest classes and, last, everything else; index of the right class).

    All right classes are one state, the first; None where the right answer was never given.
    """
    if not trace.right_class.any():
        return None
    codes = trace.codes
    mapped, share = answer_states(trace, most)
    size = len(share)
    there = codes != -2
    both = there[:, :-1] & there[:, 1:]
    table = np.zeros((size, size))
    np.add.at(table, (mapped[:, :-1][both], mapped[:, 1:][both]), 1)
    table += 0.5 * share / share.sum()
    return table / table.sum(1, keepdims=True), 0


def answer_states(trace: Trace, most: int = 12) -> tuple[Any, Any]:
    """((K, N+1) states, weight of each state over all cells with half a cell of prior): 0 the right classes, then the
    commonest wrong ones, last everything else, no answer with it."""
    codes = trace.codes
    seen = np.bincount(codes[codes >= 0].ravel(), minlength=trace.classes)
    wrong = [c for c in np.argsort(-seen, kind="stable") if not trace.right_class[c] and seen[c]][: most - 1]
    states = np.full(trace.classes + 2, len(wrong) + 1)  # codes -1 and -2 index from the end
    states[:-2][trace.right_class] = 0
    for at, c in enumerate(wrong):
        states[c] = at + 1
    mapped = states[codes]
    return mapped, np.bincount(mapped[codes != -2].ravel(), minlength=len(wrong) + 2) + 0.5


def _counterfactual(graded: list[Trace], verdicts: Any, moves: Any, seed: int) -> Record:
    """What other policies would give, from the same reviews and refinements (pooled); and stop-on-pass:1 replayed."""
    start = np.array(
        [np.mean(t.states[:, 0][t.states[:, 0] >= 0]) if (t.states[:, 0] >= 0).any() else 0 for t in graded]
    )
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
        for weights in est.problem_weights(len(graded), 300, seed):
            drawn = policies(
                np.tensordot(weights, verdicts, 1),
                np.tensordot(weights, moves, 1),
                float(weights @ start / weights.sum()),
            )
            for name, one in (drawn or {}).items():
                if one["accuracy"] is not None:
                    rows.setdefault(name, []).append(one["accuracy"])
    for name, one in value.items():
        low, high = np.quantile(rows[name], [0.025, 0.975]) if rows.get(name) else (None, None)
        one |= {"low": low, "high": high}
        for key in one:
            one[key] = None if one[key] is None else round(float(one[key]), 5)
    replayed = [_first_pass(trace) for trace in graded]
    if graded[0].settings.procedure.policy in ("always", "stop-on-stable"):
        value["stop-on-pass:1"]["replayed"] = {
            "accuracy": round(float(np.mean([one[0] for one in replayed])), 5),
            "vote": round(float(np.mean([one[1] for one in replayed])), 5),
        }
    return value


def _first_pass(trace: Trace) -> tuple[float, float]:
    """(mean accuracy, vote right) had each chain stopped at its first passing review; the path to it is the same."""
    passed = trace.verdicts == 1
    at = np.where(passed.any(1), passed.argmax(1), (trace.codes != -2).sum(1) - 1).clip(0)
    rows = np.arange(len(at))
    states = trace.states[rows, at]
    return float((states == 1).mean()), plurality_right(trace.codes[rows, at], trace.right_class)


def _tests(graded: list[Trace], counts: Any, seed: int) -> Record:
    """Likelihood-ratio tests, within problems: the statistics of the problems added up, their chance by simulating
    each problem's own fitted chain (problems differ, and pooling them would look like memory)."""
    step = max(1, len(graded) // TESTED_PROBLEMS)
    chosen = list(range(0, len(graded), step))[:TESTED_PROBLEMS]
    states = np.stack([graded[i].states for i in chosen])
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


def _stability(traces: list[Trace], settings: Settings, seed: int, replicates: int) -> Record:
    changed, moved, settled, distinct = [], [], [], []
    window = min(settings.window, settings.procedure.iterations + 1)
    for trace in traces:
        before, after = trace.codes[:, :-1], trace.codes[:, 1:]
        both = (before != -2) & (after != -2)
        changed.append(((before != after) & both).sum())
        moved.append(both.sum())
        tail = trace.filled[:, -window:]
        settled.append(float(((tail == tail[:, :1]).all(1) & (tail[:, 0] >= 0)).mean()))
        distinct.append(trace.classes)
    return {
        "changed": _told(est.ratio_interval(changed, moved, seed, replicates)),
        "settled_chains": _told(est.mean_interval(settled, seed, replicates)),
        "distinct_answers": round(float(np.mean(distinct)), 3),
        "tied_votes": sum(trace.tie for trace in traces),
        "merged_answers": sum(trace.merges for trace in traces),
        "stopped_early": sum(trace.stopped is not None for trace in traces),
    }


def _mishaps(traces: list[Trace]) -> Record:
    out: Record = {}
    for trace in traces:
        for role, counts in trace.counts.items():
            row = out.setdefault(role, Counter())
            row.update(counts)
            row["generated_tokens"] += trace.generated[role]
            row["prompt_tokens"] += trace.prompted[role]
    return {role: dict(row) for role, row in sorted(out.items())}


def _metrics(graded: list[Trace], settings: Settings, seed: int, replicates: int) -> Record:
    """Pass@k of the first and of the last iteration, and the vote."""
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k <= settings.chains]
    out: Record = {"vote": _told(est.mean_interval([float(bool(t.vote_right)) for t in graded], seed, replicates))}
    for name, n in (("pass_at_k_first", 0), ("pass_at_k_last", -1)):
        found = {}
        for k in ks:
            values = []
            for trace in graded:
                row = trace.filled_states[:, n]
                there = int((row >= 0).sum())
                if there >= k:
                    values.append(markov.pass_at_k(there, int((row == 1).sum()), k))
            if values:
                found[str(k)] = round(float(np.mean(values)), 5)
        out[name] = found
    return out


def _against(
    graded: list[Trace],
    baseline: dict[str, list[Record]] | None,
    grader: Grader,
    tasks: dict[str, Any],
    seed: int,
    replicates: int,
) -> Record | None:
    """The vote against self-consistency at equal generated tokens, problems paired."""
    differences, ours, theirs, spent, samples = [], [], [], [0, 0], []
    rng = np.random.default_rng(seed)
    short = 0
    for trace in graded:
        if baseline is None:
            first = trace.codes[:, 0]
            first = first[first > -2]
            solves = trace.generated.get("solve", 0)
            if not len(first):
                continue
            each = max(1.0, solves / max(1, trace.counts["solve"]["calls"]))
            count = max(1, int(trace.tokens / each))
            shares = np.bincount(first + 1, minlength=trace.classes + 1)[1:].astype(float)
            nothing = len(first) - shares.sum()
            drawn = rng.multinomial(count, np.append(shares, nothing) / len(first), size=RESAMPLED)[:, :-1]
            best = drawn == drawn.max(1, keepdims=True)
            sc = (
                float(((best & trace.right_class).sum(1) / best.sum(1))[drawn.sum(1) > 0].sum() / RESAMPLED)
                if trace.classes
                else 0.0
            )
            tokens = count * each
        else:
            given = baseline.get(trace.name)
            if not given:
                continue
            tokens, count, kept = 0.0, 0, []
            for sample in given:
                used = (sample.get("usage") or {}).get("completion_tokens", 0)
                if count and tokens + used > trace.tokens:
                    break
                tokens += used
                count += 1
                kept.append(sample)
            else:
                short += tokens < 0.95 * trace.tokens
            sc = _sample_vote(kept, grader, tasks[trace.name])
        differences.append(float(bool(trace.vote_right)) - sc)
        ours.append(float(bool(trace.vote_right)))
        theirs.append(sc)
        spent[0] += trace.tokens
        spent[1] += int(tokens)
        samples.append(count)
    if not differences:
        return None
    interval = est.mean_interval(differences, seed, replicates)
    assert interval is not None
    told = _told(interval)
    assert told is not None
    wrong = [(o, t) for o, t in zip(ours, theirs, strict=True) if t < 0.5]
    right = [(o, t) for o, t in zip(ours, theirs, strict=True) if t >= 0.5]
    return {
        "diff": told["value"],
        "low": told["low"],
        "high": told["high"],
        "dser": round(float(np.mean(ours)), 5),
        "self_consistency": round(float(np.mean(theirs)), 5),
        "tokens": {"dser": spent[0], "self_consistency": spent[1]},
        "samples_mean": round(float(np.mean(samples)), 2),
        "problems": len(differences),
        "solved_that_self_consistency_missed": [sum(o > 0.5 for o, _ in wrong), len(wrong)],
        "lost_that_self_consistency_had": [sum(o < 0.5 for o, _ in right), len(right)],
        "problems_short_of_tokens": short,
        "basis": "its own samples" if baseline is not None else "iteration 0, resampled to equal generated tokens",
    }


def _sample_vote(samples: list[Record], grader: Grader, task: Any) -> float:
    found = [answer for sample in samples if (answer := sample["_answer"]) is not None]
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


def _reference(
    graded: list[Trace],
    reference: dict[str, list[Record]],
    grader: Grader,
    tasks: dict[str, Any],
    seed: int,
    replicates: int,
) -> Record | None:
    """The vote against another model's single-turn accuracy, problems paired."""
    differences, theirs = [], []
    for trace in graded:
        given = reference.get(trace.name)
        if not given:
            continue
        right = [
            sample["correct"]
            if isinstance(sample.get("correct"), bool)
            else bool(grader.correct(tasks[trace.name], sample["_answer"]))
            for sample in given
        ]
        theirs.append(float(np.mean(right)))
        differences.append(float(bool(trace.vote_right)) - theirs[-1])
    if not differences:
        return None
    told = _told(est.mean_interval(differences, seed, replicates))
    assert told is not None
    return {
        "diff": told["value"],
        "low": told["low"],
        "high": told["high"],
        "dser": round(float(np.mean(differences)) + float(np.mean(theirs)), 5),
        "reference": round(float(np.mean(theirs)), 5),
        "problems": len(differences),
        "missing": len(graded) - len(differences),
    }


def advice(found: Record, graded: list[Trace], settings: Settings, seed: int, replicates: int) -> Record:
    """`{verdict, text, change, low, high, vote_change}`; verdict: iterate, do_not_iterate, no_effect_seen, or unknown (no
    gold, or no iteration).

    It rests on the model's own transitions. `change`: where one chain's accuracy leads, problem by problem, against
    iteration 0. `vote_change`: the same for the vote of many chains, by the plurality condition [2.3]. The vote decides
    where it is clear; a chain may get worse while the right answer stays the commonest.
    """
    nothing = dict.fromkeys(("change", "low", "high", "vote_change"))
    if not graded:
        text = "No gold answers: nothing can be said of right and wrong; see stability."
        return {"verdict": "unknown", "text": text, **nothing}
    if not settings.procedure.iterations:
        text = "No iterations were run: there are no transitions to judge by."
        return {"verdict": "unknown", "text": text, **nothing}
    counts = np.stack([est.transitions(trace.states) for trace in graded])
    start = np.array([(t.states[:, 0] == 1).sum() / max(1, (t.states[:, 0] >= 0).sum()) for t in graded])
    interval = est.mean_interval(est.per_problem_stationary(counts) - start, seed, replicates)
    before = np.array([plurality_right(t.codes[:, 0], t.right_class) for t in graded])
    votes = est.mean_interval([plurality_holds(t) - b for t, b in zip(graded, before, strict=True)], seed, replicates)
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


def read_samples(path: str) -> dict[str, list[Record]]:
    """Samples by id: sample records with `id` and `response` (graded ones keep their `correct`), or a run folder, whose
    first solutions they are."""
    from dser.log import STEPS, steps_path
    from tenfold_shared.jsonl import Source

    out: dict[str, list[Record]] = {}
    if Path(path).is_dir() or Path(path).name == STEPS:
        for problem in read_log(str(steps_path(path))):
            each = problem.generated.get("solve", 0) / max(1, problem.counts["solve"]["calls"])
            out[problem.name] = [
                {"_answer": chain.cells[0] if chain.cells else None, "usage": {"completion_tokens": each}}
                for _, chain in sorted(problem.chains.items())
            ]
        return out
    for where, record in Source([path], None):
        if not isinstance(record.get("id"), str) or not isinstance(record.get("response"), str):
            raise BadInput(f"{where}: expected a sample record with `id` and `response`, or a run folder")
        text = answers.after_thinking(record["response"])
        record["_answer"] = answers.extract(text) or answers.extract(text, require_box=False)
        out.setdefault(record["id"], []).append(record)
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
