"""What the runs of `grpo-roc toy` allow to be said: means over seeds, paired differences with intervals, a verdict for each claim; a table and a picture.

Intervals are Student's t over seeds, 95 %, of differences paired by seed. For the share of doubled answers, which drifts to one end or the other, they are crude: each seed's value stands beside them.

Where it sits: toy.py calls it once all runs are there. numpy; matplotlib for the picture alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from grpo_roc.toy import Settings

Record = dict[str, Any]
CONTROLS = ("grpo", "grpo-2g", "random-2g")
FAR = 0.5  # of a control's error share: what "far below" means
MARGIN = 0.03  # of accuracy: less is no loss
FIELDS = {
    "error_share": "error share, mean over the run",
    "doubled": "doubled, end",
    "tokens": "tokens, end",
    "accuracy": "pass@1, end",
}


# ---------------------------------------------------------------- intervals


def within(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's distribution, by the closed form for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(2 + freedom % 2, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    if freedom % 2:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def quantile(freedom: int, level: float = 0.95) -> float:
    """t with P(|T| < t) = level."""
    low, high = 0.0, 1.0
    while within(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return high


def interval(values: Sequence[float]) -> Record:
    """Mean and 95 % interval; none of one value."""
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = quantile(len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return {"mean": mean, "low": mean - half, "high": mean + half}


# ---------------------------------------------------------------- the table


def last(evaluation: Record) -> Record:
    """Of an evaluation: errors, doubling and length where arms were trained (the hidden operator), accuracy where it can be seen (the visible one)."""
    hidden = evaluation.get("hidden") or evaluation["all"]
    visible = evaluation.get("visible") or evaluation["all"]
    return {"doubled": hidden["doubled"], "tokens": hidden["tokens"], "accuracy": visible["correct"], "error_share": hidden["error_share"]}  # fmt: skip


def table_of(
    settings: Settings,
    arms: Sequence[str],
    seeds: Sequence[int],
    starts: dict[int, Record],
    runs: dict[str, Record],
) -> Record:
    """{task, seeds, start, arms: {arm: {field: {mean, low, high, each}}}, differences: {arm: {field: interval of first - arm}}, claims}."""
    before = [last(starts[seed]["before"]) for seed in seeds]
    found: Record = {
        "task": settings.task, "steps": settings.steps, "seeds": list(seeds), "intervals": "Student's t over seeds, 95 %; differences are paired by seed",
        "precondition": {str(seed): starts[seed]["precondition"] for seed in seeds},
        "start": {name: _of([one[name] for one in before]) for name in ("error_share", "doubled", "tokens", "accuracy")},
        "arms": {},
    }  # fmt: skip
    for arm in arms:
        each = [runs[f"{arm}/{seed}"] for seed in seeds]
        ends = [last(one["after"]) for one in each]
        curves = [[step["error_share"] for step in one["steps"]] for one in each]
        found["arms"][arm] = {
            "error_share": _of([_mean(one) for one in curves]),
            **{name: _of([one[name] for one in ends]) for name in ("doubled", "tokens", "accuracy")},
            "error_share_end": _of([one["error_share"] for one in ends]),
            **{f"error_share_{k}": _of([one[k] for one in curves]) for k in (20, 50) if k < settings.steps},
        }
    first = next((one for one in ("roc", "roc-top") if one in arms), None)
    found["first"] = first
    if first is not None:
        mine = found["arms"][first]
        found["differences"] = {
            arm: {name: _less(mine[name]["each"], other[name]["each"]) for name in FIELDS}
            for arm, other in found["arms"].items()
            if arm != first
        }
        found["claims"] = claims_of(found, first)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return float(np.mean(known)) if known else None


def _of(each: Sequence[float | None]) -> Record:
    known = [one for one in each if one is not None]
    spread = interval(known) if known else {"mean": None, "low": None, "high": None}
    return {**spread, "each": list(each)}


def _less(mine: Sequence[float | None], other: Sequence[float | None]) -> Record | None:
    pairs = [a - b for a, b in zip(mine, other, strict=True) if a is not None and b is not None]
    return interval(pairs) if pairs else None


def claims_of(found: Record, first: str) -> list[Record]:
    """The four claims: each {claim, supported, why}, by what FAR and MARGIN say. Supported is `yes` or `no` where intervals are on one side, else `not_shown`."""
    arms, differences, start = found["arms"], found["differences"], found["start"]
    controls = [arm for arm in CONTROLS if arm in arms]
    mine = arms[first]
    said = []

    def add(claim: str, supported: str, why: str) -> None:
        said.append({"claim": claim, "supported": supported, "why": why})

    def below(name: str) -> str:
        """Is it less than every control's?"""
        spans = [differences[arm][name] for arm in controls]
        if not spans or any(one is None or one["low"] is None for one in spans):
            return "not_shown"
        if all(one["high"] < 0 for one in spans):
            return "yes"
        return "no" if any(one["low"] > 0 for one in spans) else "not_shown"

    def listed(name: str) -> str:
        return "; ".join(f"{arm} {span(differences[arm][name])}" for arm in controls)

    supported = below("error_share")
    shares = [mine["error_share"]["mean"] / arms[arm]["error_share"]["mean"] for arm in controls if mine["error_share"]["mean"] is not None and arms[arm]["error_share"]["mean"]]  # fmt: skip
    if supported == "yes" and max(shares) > FAR:
        supported = "not_shown"
    worst = f"{max(shares):.2f} of the nearest control's; " if shares else ""
    add("the share of failed calls in right trajectories is far below every control's", supported, f"{worst}{first} less {listed('error_share')}")  # fmt: skip

    ends, starts = mine["doubled"]["each"], start["doubled"]["each"]
    drift = interval([a - b for a, b in zip(ends, starts, strict=True)])
    supported = "not_shown"
    if drift["low"] is not None:
        supported = "yes" if drift["high"] <= 0 and all(a <= b for a, b in zip(ends, starts, strict=True)) else "no" if drift["low"] > 0 else "not_shown"  # fmt: skip
    drifted = "; ".join(
        f"{arm} {sum(a > b for a, b in zip(arms[arm]['doubled']['each'], starts, strict=True))} of {len(starts)}"
        for arm in controls
    )
    add("no drift into doubled answers", supported, f"end less start {span(drift)}; runs that ended above their start: {drifted or 'no controls'}")  # fmt: skip

    add("responses are shorter than every control's", below("tokens"), f"{first} less {listed('tokens')}")

    kept = interval([a - b for a, b in zip(mine["accuracy"]["each"], start["accuracy"]["each"], strict=True)])
    spans = [kept, *(differences[arm]["accuracy"] for arm in controls)]
    supported = "not_shown"
    if all(one is not None and one["low"] is not None for one in spans):
        supported = "yes" if all(one["low"] > -MARGIN for one in spans) else "no" if any(one["high"] < -MARGIN for one in spans) else "not_shown"  # fmt: skip
    add(f"no loss of accuracy, to {MARGIN}", supported, f"end less start {span(kept)}; {first} less {listed('accuracy')}")  # fmt: skip
    return said


def span(one: Record | None, digits: int = 3) -> str:
    if one is None or one["mean"] is None:
        return "-"
    told = f"{one['mean']:+.{digits}f}"
    return told if one["low"] is None else f"{told} [{one['low']:+.{digits}f}, {one['high']:+.{digits}f}]"


def show(found: Record) -> None:
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(
        title=f"{found['task']}: mean over seeds ({len(found['seeds'])}) after {found['steps']} steps, and {found['first']} less it{' with 95 % interval' if len(found['seeds']) > 1 else ''}"
    )
    names = ("error_share", "doubled", "tokens", "accuracy")
    for column in ("arm", *(FIELDS[name] for name in names)):
        table.add_column(column, justify="left" if column == "arm" else "right")

    def figure(one: Record, name: str) -> str:
        return "-" if one["mean"] is None else f"{one['mean']:.{1 if name == 'tokens' else 3}f}"

    table.add_row("(start)", *(figure(found["start"][name], name) for name in names))
    for arm, one in found["arms"].items():
        less = found.get("differences", {}).get(arm, {})
        cells = []
        for name in names:
            behind = f"\n{span(less[name], 1 if name == 'tokens' else 3)}" if name in less else ""
            cells.append(figure(one[name], name) + behind)
        table.add_row(arm, *cells)
    print_table(table)
    for one in found.get("claims", ()):
        print(f"{one['supported']:>9}  {one['claim']}: {one['why']}")
    if found.get("claims") and len(found["seeds"]) == 1:
        print("one seed has no interval, so that nothing is shown by it: --seeds 8")


def picture(steps: Sequence[Record], arms: Sequence[str], seeds: Sequence[int], path: Path) -> None:
    """The share of failed calls in right trajectories by step: the mean over seeds, and from the least to the most of them. Without matplotlib there is none."""
    if find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    colours = {"grpo": "#777777", "grpo-2g": "#b58a3c", "random-2g": "#a05a8c", "roc": "#3b6ea8", "roc-top": "#4fa37a"}
    for arm in arms:
        rows = [[one["error_share"] for one in steps if one["arm"] == arm and one["seed"] == seed] for seed in seeds]
        curves = np.array(rows, dtype=np.float64)  # None is NaN
        x = np.arange(curves.shape[1])
        axes.plot(x, np.nanmean(curves, 0), color=colours[arm], label=arm, linewidth=1.6)
        axes.fill_between(x, np.nanmin(curves, 0), np.nanmax(curves, 0), color=colours[arm], alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel="failed calls, share in right trajectories", ylim=(0, None))
    axes.set_title(f"mean over seeds ({len(seeds)}), and from least to most", fontsize=9)
    axes.legend(fontsize=8)
    drawing.savefig(path, dpi=130)
