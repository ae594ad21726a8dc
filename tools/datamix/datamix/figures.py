"""What the runs of `datamix compare` allow to be said: paired differences with their intervals, controls one by one, the verdict in words.

Where it sits: compare.py has the runs and calls `summary_of`; explain.py, plot.py and the claims take intervals from here. Figures are points, 100 · f̂.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datamix.compare import Plan

CONTROLS = ("reward_shuffle", "no_feedback")
Record = dict[str, Any]
Scores = dict[tuple[str, int], float]  # of a method, by task and seed


def interval(values: Any) -> Record:
    """Mean and 95 % interval (Student's t) of independent values; no interval of one value."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return {"mean": mean, "low": None, "high": None, "n": len(x)}
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(x)}


def paired(mine: Scores, other: Scores) -> Record:
    """mine - other over the (task, seed) that both finished: the mean, and its interval over seeds, each the mean over tasks (order of text), and over tasks, each the mean
    over seeds (which domains)."""
    both = sorted(set(mine) & set(other))
    difference = {key: mine[key] - other[key] for key in both}
    seeds = sorted({seed for _, seed in both})
    tasks = sorted({task for task, _ in both})
    over_seeds = interval([np.mean([difference[k] for k in both if k[1] == seed]) for seed in seeds])
    over_tasks = interval([np.mean([difference[k] for k in both if k[0] == task]) for task in tasks])
    return {
        **over_seeds,
        "over_tasks": over_tasks,
        "tasks": {task: float(np.mean([difference[k] for k in both if k[0] == task])) for task in tasks},
    }


def summary_of(plan: Plan, records: list[Record], proxies: dict[str, int]) -> Record:
    done = [one for one in records if one["status"] == "done"]
    scores: dict[str, Scores] = {}
    planned = dict.fromkeys(one["method"] for one in records)
    for one in done:
        scores.setdefault(one["method"], {})[one["task"], one["seed"]] = one["score"]
    first = next(iter(plan.agents), None)
    methods: Record = {}
    for name in planned:
        if name.rpartition("-")[0] in (*CONTROLS, "null"):
            continue
        mine = [one for one in done if one["method"] == name]
        told = {
            field: float(np.mean([one[field] for one in mine])) if mine else None
            for field in ("score", "auc", "source", "target", "source_bytes")
        }
        methods[name] = {
            **told,
            "proxy_tokens": proxies.get(name, 0),
            "failed": len(plan.tasks) * plan.settings.seeds - len(mine),
        }
        if first is not None and name != first and set(scores.get(first, {})) & set(scores.get(name, {})):
            methods[name]["diff"] = paired(scores[first], scores[name])  # the agent less this method
    found: Record = {"first": first, "methods": methods, "controls": {}}
    if first is not None:
        rivals = [name for name, x in methods.items() if name not in plan.agents and "diff" in x]
        best = max(rivals, key=lambda name: methods[name]["score"]) if rivals else None
        found["best_rival"] = best
        for kind in [*plan.settings.controls, *(["null"] if "null" in plan.settings.methods else [])]:
            each = {name: x for name, x in scores.items() if name.rpartition("-")[0] == kind}
            like = {name: scores[name] for name in plan.like if name in scores}
            both = set.intersection(*map(set, [*like.values(), *each.values()])) if like and each else set()
            if both:
                found["controls"][kind] = _control(like, each, both, scores.get("proportional"))
        found["verdict"] = verdict(found)
    counts = {
        "runs": len(records),
        "failed": len(records) - len(done),
        "tasks": len(plan.tasks),
        "seeds": plan.settings.seeds,
        "proxy_tokens_a_task": plan.proxy_tokens,
    }
    return {**found, **methods, "counts": counts}


def _control(
    true: dict[str, Scores], each: dict[str, Scores], both: set[tuple[str, int]], even: Scores | None
) -> Record:
    """Agents of a control against agents that learned from the truth, one value an agent (its mean over `both`, the tasks and seeds that all of them finished) and never
    an averaged policy. diff: true less control, with Welch's interval; advantage: of each over proportional."""
    mine = [float(np.mean([x[k] for k in both])) for x in true.values()]
    theirs = [float(np.mean([x[k] for k in both])) for x in each.values()]
    found: Record = {"score": float(np.mean(theirs)), "each": dict(zip(each, theirs, strict=True)), "true": dict(zip(true, mine, strict=True)), "diff": welch(mine, theirs)}  # fmt: skip
    if even is not None:
        found["advantage"] = interval([float(np.mean([x[k] - even[k] for k in x if k in even])) for x in each.values()])
    low = found["diff"]["low"]
    found["loses"] = bool(low is not None and low > 0)
    return found


def welch(mine: Sequence[float], theirs: Sequence[float]) -> Record:
    """The difference of two means and its 95 % interval without equal variances; no interval with fewer than two values on a side."""
    from scipy import stats

    mean = float(np.mean(mine) - np.mean(theirs))
    told: Record = {"mean": mean, "low": None, "high": None, "n": [len(mine), len(theirs)]}
    if min(len(mine), len(theirs)) > 1 and np.var(mine) + np.var(theirs) > 0:
        span = stats.ttest_ind(mine, theirs, equal_var=False).confidence_interval(0.95)
        told |= {"low": float(span.low), "high": float(span.high)}
    return told


def verdict(found: Record) -> str:
    """What the figures allow to be said."""
    said = []
    best = found["best_rival"]
    if found["methods"][found["first"]]["score"] is None:
        return f"no run of {found['first']} finished: nothing can be said of it"
    if best is not None:
        diff = found["methods"][best]["diff"]
        low, high = diff["low"], diff["high"]
        if low is None:
            said.append(f"one seed: nothing can be said of {best}")
        elif low > 0:
            said.append(f"the agent beats the best rival, {best}")
        elif high < 0:
            said.append(f"the best rival, {best}, beats the agent")
        else:
            said.append(f"the agent and the best rival, {best}, cannot be told apart")
    for kind, lacks in (("reward_shuffle", "rewards"), ("no_feedback", "feedback")):
        control = found["controls"].get(kind)
        if control is None:
            continue
        low, high = control["diff"]["low"], control["diff"]["high"]
        if low is None:
            said.append(f"too few agents to say what true {lacks} adds (two or more of each are needed)")
        elif low > 0:
            said.append(f"agents trained without true {lacks} do worse")
        else:
            how = "do better than" if high < 0 else "cannot be told apart from"
            said.append(
                f"agents trained without true {lacks} {how} it: the agent has not been shown to learn from {lacks}"
            )
    return "; ".join(said)


def size(count: float) -> str:
    """Bytes for people: whole kB from ten of them on."""
    return f"{count / 1000:.0f} kB" if count >= 10_000 else f"{count:.0f} B"


def show(summary: Record) -> None:
    from rich.table import Table

    from tenfold_shared.cli import print_table

    counts = summary["counts"]
    table = Table(
        title=f"{counts['tasks']} tasks, {counts['seeds']} seeds; points (100 × relative gain of held-out loss)"
    )
    for column in (
        "method",
        "source",
        "target",
        "score",
        "auc",
        "source text",
        f"{summary['first'] or ''} less it",
        "over tasks",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")

    def span(one: Record | None) -> str:
        if not one:
            return ""
        return (
            f"{one['mean']:+.2f}"
            if one["low"] is None
            else f"{one['mean']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"
        )

    finished = [(name, x) for name, x in summary["methods"].items() if x["score"] is not None]
    for name, x in sorted(finished, key=lambda item: -item[1]["score"]):
        diff = x.get("diff")
        table.add_row(
            name,
            f"{x['source']:.2f}",
            f"{x['target']:.2f}",
            f"{x['score']:.2f}",
            f"{x['auc']:.2f}",
            size(x["source_bytes"]),
            span(diff),
            span(diff and diff["over_tasks"]),
        )
    for name, x in summary["controls"].items():
        table.add_row(f"{name} (each of {len(x['each'])})", "", "", f"{x['score']:.2f}", "", "", span(x["diff"]), "")
    print_table(table)
    if summary.get("verdict"):  # empty where there was neither a rival nor a control
        print(summary["verdict"])
