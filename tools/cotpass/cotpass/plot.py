"""The pictures of `metric --plot` (Pass@K and CoT-Pass@K over K, and the gap between them) and `compare --plot`.

Each takes the report of its module and writes a PNG or SVG whose bytes depend on the report alone.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput, Missing

SUFFIXES = (".png", ".svg")

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
        raise Missing("--plot draws with matplotlib, which is not installed: pip install 'cotpass[plot]'")


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
        problems = "1 problem" if report["n_problems"] == 1 else f"{report['n_problems']} problems"
        many[0].set_ylabel(f"mean difference over {problems}")
        names = (f"{side.upper()}: {Path(report[side]['file']).name}" for side in ("a", "b"))
        figure.suptitle("    ".join(names).replace("$", r"\$"), fontsize=10, color=_FAINT)

    _save(path, 4.8 * len(panels) + (1.6 if len(panels) == 1 else 0), draw)


def _save(path: str | Path, width: float, draw: Callable[[Any], None]) -> None:
    """Draw on a fresh figure in our style and write it under PATH in one step."""
    check_target(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, 4.4), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        partial = target.with_name(f".{target.name}.{os.getpid()}{target.suffix}")
        metadata = {"Date": None, "Creator": None} if target.suffix.lower() == ".svg" else {"Software": None}
        try:
            figure.savefig(partial, metadata=metadata)
            os.replace(partial, target)
        except OSError as error:
            raise BadInput(f"--plot {path}: cannot be written: {error.strerror}") from None
        finally:
            partial.unlink(missing_ok=True)


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
    problems = "1 problem" if report["n_problems"] == 1 else f"{report['n_problems']} problems"
    samples = str(report["min_n"]) if report["min_n"] == report["max_n"] else f"{report['min_n']}–{report['max_n']}"
    whiskers = "" if report["n_problems"] == 1 else ", 95 % intervals over problems"
    axes.set_title(f"{problems} × {samples} samples{whiskers}", loc="left", fontsize=10.5)
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
