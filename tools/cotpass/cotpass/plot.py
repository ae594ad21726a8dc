"""The pictures of `metric --plot` (Pass@K and CoT-Pass@K over K, and the gap between them), `compare --plot` and
`dynamics --plot` (distributions and scores over training steps).

Each takes the report of its module and writes a PNG or SVG whose bytes depend on the report alone.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import write_atomic

if TYPE_CHECKING:
    from cotpass.dynamics import Dynamics
    from cotpass.estimators import Floats

SUFFIXES = (".png", ".svg")
_LABELS = 12  # step numbers beside each other that a panel has room for

# Okabe-Ito blue and vermilion: told apart by colour-blind readers and in grey print.
_PASS, _COT, _INK, _FAINT = "#0072B2", "#D55E00", "#333333", "#777777"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "cotpass",
}


def check_target(path: str | Path) -> None:
    """BadInput for a suffix that cannot be drawn, Missing where matplotlib is not installed."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise BadInput(f"--plot {path}: expected a name that ends in .png or .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise Missing("matplotlib is not installed: pip install 'cotpass[plot]'")


def plot_report(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the report to PATH (.png or .svg), replacing it in one step.

    Left: Pass@K, and CoT-Pass@K by majority (or from counts) on the band from all to any vote;
    whiskers are the intervals, since shaded intervals would drown that band. A refused value shows as
    the hatched band between its bounds. Right: the gap Δ(K) = Pass@K − CoT-Pass@K; left out where
    nothing was judged. Raises BadInput and Missing as `check_target`.
    """
    judged = bool(report["cot_pass"])

    def draw(figure: Any) -> None:
        if judged:
            left, right = figure.subplots(1, 2, width_ratios=[1.9, 1])
            _draw_curves(left, report)
            _draw_gap(right, report)
        else:
            _draw_curves(figure.subplots(), report)

    _save(path, 9.6 if judged else 6.4, draw)


def plot_comparison(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the report of `compare.py` to PATH (.png or .svg), replacing it in one step.

    B − A over K, Pass@K left and CoT-Pass@K right where both files are judged: the inner band is the interval of
    one K, the outer one that of all K at once. A refused value shows as the hatched band between its bounds.
    Raises BadInput and Missing as `check_target`.
    """
    panels = [("pass", _PASS, "Pass@K, B − A")]
    if report["cot_pass"]:
        panels.append(("cot_pass", _COT, "CoT-Pass@K, B − A"))

    def draw(figure: Any) -> None:
        many = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (name, color, title) in zip(many, panels, strict=True):
            _draw_difference(axes, report, name, color)
            axes.set_title(title, loc="left", fontsize=10.5)
        many[0].set_ylabel(f"mean difference over {_problems(report['n_problems'])}")
        names = (f"{side.upper()}: {Path(report[side]['file']).name}" for side in ("a", "b"))
        figure.suptitle("    ".join(names).replace("$", r"\$"), fontsize=10, color=_FAINT)

    _save(path, 4.8 * len(panels) + (1.6 if len(panels) == 1 else 0), draw)


def plot_dynamics(found: Dynamics, path: str | Path) -> None:
    """Draw what `dynamics.py` found to PATH (.png or .svg), replacing it in one step.

    Above: for easy and for hard problems a violin a step of P(CA) and, where a file is judged, of P(CC|CA), after
    arXiv 2506.14245 §5. Beneath: Pass@K and CoT-Pass@K over steps at the smallest and the largest K.
    Raises BadInput and Missing as `check_target`.
    """
    report = found.report
    judged = any(step["cot_pass"] for step in report["steps"])
    ks = sorted({report["k"][0], report["k"][-1]})
    rows = [["ca easy", "ca hard"], *([["cc easy", "cc hard"]] if judged else []), [f"@{ks[0]}", f"@{ks[-1]}"]]

    def draw(figure: Any) -> None:
        panels = figure.subplot_mosaic(rows, height_ratios=[1] * (len(rows) - 1) + [1.25])
        for group, mask in (("easy", found.easy), ("hard", ~found.easy)):
            _draw_violins(panels[f"ca {group}"], report, found.p_ca[:, mask], _PASS)
            if judged:
                _draw_violins(panels[f"cc {group}"], report, found.p_cc[:, mask], _COT)
            some = "right at least once" if group == "easy" else "never right"
            title = f"{group}: {_problems(mask.sum())}, {some} at step {report['base']}"
            panels[f"ca {group}"].set_title(title, loc="left", fontsize=10.5)
        panels["ca easy"].set_ylabel("P(CA)\nanswer right")
        if judged:
            panels["cc easy"].set_ylabel("P(CC|CA)\nreasoning right\nif the answer is")
        first = report["emergence_step"]
        above = f"above step {report['base']} at {'no step' if first is None else f'step {first}'}"
        judgement = f"CoT-Pass@K {'' if first is None else 'first '}{above}" if judged else "reasoning not judged"
        figure.suptitle(f"Training dynamics: {judgement}", fontsize=12)
        for k in ks:
            _draw_scores(panels[f"@{k}"], report, k)
        panels[f"@{ks[0]}"].set_ylabel(f"mean over {_problems(report['n_problems'])}")

    _save(path, min(max(9.6, 1.1 * len(report["steps"])), 18.0), draw, height=2.0 + 2.1 * len(rows))


def _save(path: str | Path, width: float, draw: Callable[[Any], None], height: float = 4.4) -> None:
    """Draw on a fresh figure in our style and write it under PATH in one step."""
    check_target(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        drawn = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if target.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(drawn, format=target.suffix.lower()[1:], metadata=metadata)
        try:
            write_atomic(target, drawn.getvalue())
        except OSError as error:
            raise BadInput(f"--plot {path}: cannot be written: {error.strerror}") from None


def _draw_difference(axes: Any, report: Mapping[str, Any], name: str, color: str) -> None:
    ks, scores = report["k"], report[name]
    axes.axhline(0, color=_INK, lw=1, zorder=1)
    if scores[str(ks[0])]["diff"] is None:
        low, high = (_column(report["bounds"], side, ks) for side in ("low", "high"))
        label = f"bounds: unjudged in {' and '.join(side.upper() for side in report['refused'])}"
        axes.fill_between(ks, low, high, facecolor="none", edgecolor=color, hatch="///", lw=0, alpha=0.6, label=label)
        axes.plot(ks, low, color=color, lw=1.2)
        axes.plot(ks, high, color=color, lw=1.2)
    else:
        if scores[str(ks[0])]["low"] is not None:
            for start, end, alpha, label in (
                ("sim_low", "sim_high", 0.15, "95 %, all K at once"),
                ("low", "high", 0.3, "95 %, each K"),
            ):
                ends = _column(scores, start, ks), _column(scores, end, ks)
                if len(ks) == 1:  # a band needs two points
                    axes.vlines(ks, *ends, color=color, lw=6, alpha=alpha, label=label)
                else:
                    axes.fill_between(ks, *ends, color=color, alpha=alpha, lw=0, label=label)
        axes.plot(ks, _column(scores, "diff", ks), color=color, marker="o", ms=4.5, lw=2, zorder=3)
    _k_axis(axes, ks)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)


def _draw_curves(axes: Any, report: Mapping[str, Any]) -> None:
    ks, cot = report["k"], report["cot_pass"]
    # The two curves step aside a little, so that their whiskers do not cover each other.
    aside = 2**0.05 if cot else 1.0
    _curve(axes, report["pass"], ks, aside, _PASS, "Pass@K")
    if cot:
        main = "majority" if "majority" in cot else "counts"
        if main in report["refused"]:
            label = f"CoT-Pass@K, bounds: {report['unjudged']:.0%} unjudged"
            low, high = (_column(report["bounds"][main], side, ks) for side in ("low", "high"))
            axes.fill_between(
                ks, low, high, facecolor="none", edgecolor=_COT, hatch="///", lw=0, alpha=0.6, label=label
            )
            axes.plot(ks, low, color=_COT, lw=1.2)
            axes.plot(ks, high, color=_COT, lw=1.2)
        else:
            label = "CoT-Pass@K, majority vote" if main == "majority" else "CoT-Pass@K"
            _curve(axes, cot[main], ks, 1 / aside, _COT, label)
        if main == "majority" and not {"any", "all"} & set(report["refused"]):
            low, high = _column(cot["all"], "value", ks), _column(cot["any"], "value", ks)
            if low != high:
                axes.fill_between(ks, low, high, color=_COT, alpha=0.22, lw=0, label="CoT-Pass@K, all to any vote")
    _k_axis(axes, ks)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("mean over problems")
    samples = str(report["min_n"]) if report["min_n"] == report["max_n"] else f"{report['min_n']}–{report['max_n']}"
    whiskers = "" if report["n_problems"] == 1 else ", 95 % intervals over problems"
    axes.set_title(f"{_problems(report['n_problems'])} × {samples} samples{whiskers}", loc="left", fontsize=10.5)
    axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)


def _draw_gap(axes: Any, report: Mapping[str, Any]) -> None:
    ks = report["k"]
    main = "majority" if "majority" in report["cot_pass"] else "counts"
    passed = _column(report["pass"], "value", ks)
    high, low = (
        [p - b for p, b in zip(passed, _column(report["bounds"][main], side, ks), strict=True)]
        for side in ("low", "high")
    )
    if main in report["refused"]:
        axes.fill_between(ks, low, high, facecolor="none", edgecolor=_INK, hatch="///", lw=0, alpha=0.5)
        axes.plot(ks, low, color=_INK, lw=1.2)
        axes.plot(ks, high, color=_INK, lw=1.2)
    else:
        axes.plot(ks, high, color=_INK, marker="o", ms=4, lw=1.8)
        axes.fill_between(ks, 0, high, color=_INK, alpha=0.06, lw=0)
    _k_axis(axes, ks)
    axes.set_ylim(0, max(0.05, 1.15 * max(high)))
    axes.set_ylabel("right answer, reasoning not")
    axes.set_title("Δ(K) = Pass@K − CoT-Pass@K", loc="left", fontsize=10.5)


def _draw_violins(axes: Any, report: Mapping[str, Any], shares: Floats, color: str) -> None:
    """A violin a step of shares (S, M), with its quartiles; NaN is left out, and how many remain is written above."""
    import numpy as np

    at, width = _step_axis(axes, report)
    for x, row in zip(at, shares, strict=True):
        known = row[~np.isnan(row)]
        if not len(known):
            continue
        height, half = _density(known)
        body = half > 0.01
        axes.fill_betweenx(height, x - width * half, x + width * half, where=body, color=color, alpha=0.35, lw=0)
        low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
        axes.vlines(x, low, high, color=color, lw=2.4, zorder=3)
        axes.plot(x, middle, "o", color="white", mec=color, mew=1.4, ms=5, zorder=4)
        if len(known) < len(row) and len(at) <= _LABELS:
            axes.annotate(f"n={len(known)}", (x, 1.06), ha="center", va="bottom", fontsize=7.5, color=_FAINT)
    for x, step in zip(at, report["steps"], strict=True):
        if color == _COT and step["refused"]:
            axes.text(x, 0.5, "?", ha="center", va="center", color=_FAINT)
    if np.isnan(shares).all():
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color=_FAINT)
    axes.set_ylim(-0.04, 1.2 if np.isnan(shares).any() else 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(visible=False, axis="x")


def _density(shares: Floats) -> tuple[Floats, Floats]:
    """Heights in [0, 1] and the density there, its largest value 1: a Gaussian kernel, folded back at both ends.

    Its width is bounded from below, so that one problem, or equal ones, make a bump and not a line.
    """
    import numpy as np

    height = np.linspace(0, 1, 201)
    low, high = np.quantile(shares, (0.25, 0.75))
    spread = min(float(shares.std()), float(high - low) / 1.34) or float(shares.std())
    kernel = float(np.clip(0.9 * spread * len(shares) ** -0.2, 0.03, 0.12))
    values, counts = np.unique(shares.round(3), return_counts=True)
    density = np.zeros_like(height)
    for folded in (values, -values, 2 - values):
        density += np.exp(-0.5 * ((height[:, None] - folded) / kernel) ** 2) @ counts
    return height, density / density.max()


def _draw_scores(axes: Any, report: Mapping[str, Any], k: int) -> None:
    """Both scores over steps at one K. The band is the base's value plus the simultaneous interval of the gain."""
    import numpy as np

    steps = report["steps"]
    at, _ = _step_axis(axes, report)
    title = f"K = {k}"
    for name, score, color in (("pass", "Pass", _PASS), ("cot_pass", "CoT-Pass", _COT)):
        rows = [step[name].get(str(k)) or {} for step in steps]
        value, low, high = (
            np.array([row.get(end) for row in rows], dtype=float) for end in ("value", "sim_low", "sim_high")
        )
        if not any(rows):
            continue
        axes.plot(at, value, color=color, marker="o", ms=4.5, lw=2, label=f"{score}@{k}", zorder=3)
        if np.isfinite(low).any():
            low[0] = high[0] = 0.0  # the base is its own measure
            band = [np.clip(value[0] + end, 0, 1) for end in (low, high)]
            axes.fill_between(at, *band, color=color, alpha=0.14, lw=0)
            for end in band:
                axes.plot(at, end, color=color, lw=0.8, alpha=0.5)
            axes.vlines(at, *band, color=color, lw=0.8, alpha=0.5)  # seen where a step stands between gaps
            axes.axhline(value[0], color=color, lw=1, ls=(0, (4, 3)))
            title = f"K = {k}; bands: gain over step {report['base']}, 95 % for all at once"
    refused = [(x, step["bounds"][str(k)]) for x, step in zip(at, steps, strict=True) if step["refused"]]
    if refused:
        ends = np.array([[x, bound["low"], bound["high"]] for x, bound in refused]).T
        axes.vlines(*ends, color=_COT, lw=6, alpha=0.45, label=f"CoT-Pass@{k}, bounds: too many unjudged")
    first = report["emergence"]["cot_pass"][str(k)]
    if first is not None:
        i = [step["step"] for step in steps].index(first)
        label = f"first above step {report['base']}: step {first}"
        axes.plot(at[i], value[i], "*", ms=15, color=_COT, mec="white", mew=1.2, label=label, zorder=4)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)


def _step_axis(axes: Any, report: Mapping[str, Any]) -> tuple[list[float], float]:
    """Where the steps stand, and half the width a violin may have there.

    To scale, unless two steps are much closer than the average: then evenly spaced, and the axis says so.
    """
    steps = [step["step"] for step in report["steps"]]
    gap: float = min(after - before for before, after in pairwise(steps))
    to_scale = gap >= 0.4 * (steps[-1] - steps[0]) / (len(steps) - 1)
    at = [float(step) for step in steps] if to_scale else [float(i) for i in range(len(steps))]
    gap = gap if to_scale else 1
    every = -(-len(steps) // max(1, min(_LABELS, 45 // len(str(steps[-1])))))
    axes.set_xticks(at[::every], [str(step) for step in steps[::every]])
    axes.set_xlim(at[0] - 0.6 * gap, at[-1] + 0.6 * gap)
    if axes.get_subplotspec().is_last_row():
        axes.set_xlabel("training step" if to_scale else "training step, not to scale")
    return at, 0.42 * gap


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count} problems"


def _curve(axes: Any, scores: Mapping[str, Any], ks: Sequence[int], aside: float, color: str, label: str) -> None:
    axes.plot(ks, _column(scores, "value", ks), color=color, marker="o", ms=4.5, lw=2, label=label, zorder=3)
    shown = [k for k in ks if scores[str(k)]["low"] is not None]
    low, high = _column(scores, "low", shown), _column(scores, "high", shown)
    at = [k * aside for k in shown]
    axes.vlines(at, low, high, color=color, lw=1.1, alpha=0.75, zorder=2)
    axes.plot(at * 2, low + high, color=color, ls="none", marker="_", ms=6, mew=1.1, alpha=0.75, zorder=2)


def _column(scores: Mapping[str, Any], side: str, ks: Sequence[int]) -> list[float]:
    return [scores[str(k)][side] for k in ks]


def _k_axis(axes: Any, ks: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    ticks = [k for k in ks if k & (k - 1) == 0] or list(ks) if len(ks) > 12 else list(ks)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    if len(ks) == 1:
        axes.set_xlim(ks[0] / 2, ks[0] * 2)
    axes.set_xlabel("K")
