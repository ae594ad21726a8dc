"""Pictures: a comparison, a schedule, an explanation, a swarm. One function each, to a .png or .svg.

Where it sits: beside the verbs, which call it for --plot. Reads what they wrote; draws with matplotlib's own figures, no display and no global
state. Source domains are blue, targets orange, everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamix import needs
from datamix import schedule as schedules
from datamix.history import Floats
from tenfold_shared import BadInput

Record = dict[str, Any]
SOURCE, TARGET, OTHER = "#3b6ea8", "#d9822b", "#777777"
ROLES = {"source": ("Blues", SOURCE), "target": ("Oranges", TARGET)}


def _figure(path: str | Path, width: float, height: float) -> Any:
    """An empty figure. Raises BadInput for another kind of file, Missing without matplotlib."""
    needs.plots(str(path))
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: str | Path) -> None:
    """The same figure gives the same bytes: no date in it. Dollar signs are themselves, as the names of domains may hold one."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    extra = {"Date": None} if str(path).endswith(".svg") else {}
    with rc_context({"svg.hashsalt": "datamix"}):
        figure.savefig(path, dpi=130, metadata=extra)


def _colours(names: Sequence[str], roles: dict[str, str]) -> list[Any]:
    """One for each domain: shades of its role's colour."""
    from matplotlib import colormaps

    found = []
    for name in names:
        same = [one for one in names if roles.get(one) == roles.get(name)]
        palette = ROLES[roles[name]][0] if name in roles else "viridis"
        found.append(colormaps[palette](0.35 + 0.5 * same.index(name) / max(len(same) - 1, 1)))
    return found


def _streams(axes: Any, weights: Floats, names: Sequence[str], roles: dict[str, str], legend: int = 16) -> None:
    """Weights [T, D] by step, stacked: each step is as wide as its number."""
    steps, order = len(weights), sorted(range(len(names)), key=lambda d: (roles.get(names[d], ""), d))
    stepped = np.repeat(weights, 2, axis=0)
    x = np.repeat(np.arange(steps + 1), 2)[1:-1]
    named = [names[d] for d in order]
    axes.stackplot(x, *(stepped[:, d] for d in order), labels=named, colors=_colours(named, roles), linewidth=0)
    axes.set(xlim=(0, steps), ylim=(0, 1), xlabel="step", ylabel="share of the mixture")
    if len(names) <= legend:
        axes.legend(fontsize=7, loc="upper left", ncols=2 if len(names) > 6 else 1, framealpha=0.8)


def _half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean; 0 for one value."""
    from datamix.figures import interval

    found = interval(values)
    return 0.0 if found["low"] is None else (found["high"] - found["low"]) / 2


# ---------------------------------------------------------------- comparisons


def comparison(folder: str | Path, path: str | Path) -> None:
    """A folder of `datamix compare`: what the agent mixed, what each method keeps of the source and learns of the target, and by how much the
    agent is ahead of each, controls too, with 95 % intervals over seeds. Raises BadInput for another folder."""
    root = Path(folder)
    summary = _json(root / "compare.json")
    runs = [one for one in _lines(root / "runs.jsonl") if one.get("status") == "done"]
    finished = {name: one for name, one in summary.get("methods", {}).items() if one["score"] is not None}
    if not runs or not finished:
        raise BadInput(f"{root}: no finished runs in it; expected the folder of `datamix compare`")
    roles = _task_roles(root)
    figure = _figure(path, 17, 6)
    left, frontier, differences = figure.subplots(1, 3, width_ratios=(1, 1.1, 1))
    left.remove()
    upper, lower = (figure.add_subplot(place) for place in left.get_subplotspec().subgridspec(2, 1))
    summary["methods"], named = finished, summary.get("first")
    shown = str(named if named in finished else max(finished, key=lambda name: finished[name]["score"]))
    _shares(upper, runs, roles, shown, summary)
    first = next((one for one in runs if one["method"] == shown), runs[0])
    names = list(first["weights"][0])
    some = [one for one in runs if one["method"] == first["method"] and one["task"] == first["task"]]
    weights = np.mean([[[row[name] for name in names] for row in one["weights"]] for one in some], axis=0)
    _streams(lower, weights, names, roles.get(first["task"], {}))
    lower.set_title(f"{first['method']} on {first['task']}", fontsize=9)
    _frontier(frontier, runs, summary, shown)
    _differences(differences, summary, shown)
    _save(figure, path)


def _task_roles(root: Path) -> dict[str, dict[str, str]]:
    """Roles of every task's domains, from the plan."""
    plan = _json(root / "plan.json")
    return {
        one["name"]: dict.fromkeys(one["sources"], "source") | dict.fromkeys(one["targets"], "target")
        for one in plan.get("tasks", [])
    }


def _shares(axes: Any, runs: list[Record], roles: dict[str, dict[str, str]], shown: str, summary: Record) -> None:
    """The source's share by step, mean over tasks and seeds: the agent's as streams, its rivals' as lines."""

    def share(method: str) -> Floats:
        of = [
            [sum(w for name, w in row.items() if roles[one["task"]].get(name) == "source") for row in one["weights"]]
            for one in runs
            if one["method"] == method
        ]
        return np.mean(of, axis=0)

    own = share(shown)
    _streams(axes, np.stack([own, 1 - own], 1), ["source", "target"], {"source": "source", "target": "target"})
    rivals = [
        name
        for name in dict.fromkeys(["hand", summary.get("best_rival"), "proportional"])
        if name in summary["methods"] and name != shown
    ]
    for name, style in zip(rivals, ("--", ":", "-."), strict=False):
        line = share(str(name))
        axes.step(
            np.arange(len(line) + 1), [*line, line[-1]], style, where="post", color="black", linewidth=1.2, label=name
        )
    axes.legend(fontsize=7, loc="upper left", framealpha=0.8)
    axes.set_title(f"{shown}: mean over tasks", fontsize=9)


def _frontier(axes: Any, runs: list[Record], summary: Record, shown: str) -> None:
    """What is kept of the source beside what is learned of the target: a point a method, with 95 % intervals of the means over tasks across seeds."""
    for name in summary["methods"]:
        mine = [one for one in runs if one["method"] == name]
        seeds = sorted({one["seed"] for one in mine})
        of = {
            part: [float(np.mean([one[part] for one in mine if one["seed"] == seed])) for seed in seeds]
            for part in ("source", "target")
        }
        x, y = (float(np.mean(of[part])) for part in ("target", "source"))
        own = name == shown
        axes.errorbar(
            x,
            y,
            xerr=_half(of["target"]),
            yerr=_half(of["source"]),
            fmt="*" if own else "o",
            markersize=13 if own else 6,
            capsize=2,
            color=TARGET if own else SOURCE,
        )
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    low, high = axes.get_xlim()
    at = np.array(axes.get_ylim())
    best = summary["methods"][shown]["score"]
    axes.plot(2 * best - at, at, color="#bbbbbb", linewidth=0.8, zorder=0)  # the same score as the agent's
    axes.set(
        xlim=(low, high),
        ylim=tuple(at),
        xlabel="gain on target domains, points",
        ylabel="gain on source domains, points",
    )
    axes.set_title("forgetting frontier (grey: as good as the star)", fontsize=9)


def _differences(axes: Any, summary: Record, shown: str) -> None:
    """The agent less each other method (over seeds, thin over tasks) and less each control (over its agents)."""
    rows = [(name, one["diff"], SOURCE) for name, one in summary["methods"].items() if "diff" in one]
    rows = sorted(rows, key=lambda row: -row[1]["mean"])
    rows += [(name, one["diff"], OTHER) for name, one in summary.get("controls", {}).items()]
    for k, (_, diff, colour) in enumerate(rows):
        wide = diff.get("over_tasks")
        if wide and wide["low"] is not None:
            axes.plot([wide["low"], wide["high"]], [k, k], color=colour, linewidth=1)
        if diff["low"] is not None:
            axes.plot([diff["low"], diff["high"]], [k, k], color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
        axes.plot(diff["mean"], k, "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set(ylim=(max(len(rows), 1) - 0.5, -0.5), xlabel=f"score of {shown} less that of the other, points")
    axes.set_title(
        "differences, 95 % over seeds (thin: over tasks; grey: controls)" if rows else "no agent to compare", fontsize=9
    )


# ---------------------------------------------------------------- schedules


def schedule(source: str | Path, path: str | Path) -> None:
    """A schedule.jsonl: weights as streams, feedback and q as lines below. A static mixture is one step. Raises BadInput."""
    lines = schedules.load_any(str(source))
    names = list(lines[0].weights)
    fed = [one for one in lines if one.feedback]
    valued = [one for one in lines if one.q is not None]
    panels = 1 + bool(fed) + bool(valued)
    figure = _figure(path, 9, 3 + 2.2 * (panels - 1))
    every = np.atleast_1d(figure.subplots(panels, 1, sharex=True, height_ratios=[2, 1, 1][:panels]))
    _streams(every[0], np.array([one.vector for one in lines]), names, {})
    if fed:
        for name, colour in zip(names, _colours(names, {}), strict=True):
            here = [(one.step + 1, one.feedback[name]) for one in fed if one.feedback and name in one.feedback]
            if here:
                every[1].plot(*zip(*here, strict=True), color=colour, label=name)
        every[1].set(ylabel="bits per byte")
    if valued:
        every[-1].plot([one.step for one in valued], [one.q for one in valued if one.q is not None], color="black")
        every[-1].set(ylabel="expected value")
    for axes in every[:-1]:
        axes.set(xlabel="")
    every[-1].set(xlabel="step")
    _save(figure, path)


# ---------------------------------------------------------------- explanations


def explanation(summary: Record, path: str | Path) -> None:
    """What `datamix explain` found: weights over time, gains of domains beside their weights, Q along the source's share, and Q over the simplex of
    three domains, else along each domain's share, before the middle step."""
    figure = _figure(path, 12, 8.5)
    (streams, agreement), (line, landscape) = figure.subplots(2, 2)
    if summary["weights"]:
        task = next(iter(summary["weights"][0]["domains"]))
        names = list(summary["roles"][task])
        weights = np.array([[one["domains"][task][name] for name in names] for one in summary["weights"]])
        _streams(streams, weights, names, summary["roles"][task])
        every = [one["source"] for one in summary["weights"]]
        streams.step(np.arange(len(every) + 1), [*every, every[-1]], where="post", color="black", linewidth=1.2)
        streams.set_title(f"{summary['algo']} agent on {task} (line: source share, mean over tasks)", fontsize=9)
    _agreement(agreement, summary["ablation"])
    q = summary["q"]
    if not q["available"]:
        for axes in (line, landscape):
            axes.set_axis_off()
        line.text(0.5, 0.5, f"Q: {q['why']}", ha="center", wrap=True)
    else:
        for one, shade in zip(q["states"], (0.7, 0.4, 0.0), strict=False):
            along, colour = one["source_share"], str(shade)
            can = np.array(along["feasible"])
            x, y = np.array(along["shares"]), np.array(along["q"])
            line.plot(x, y, ":", color=colour, linewidth=1)
            line.plot(np.where(can, x, np.nan), y, color=colour, label=f"before step {one['step']}")
            line.plot(along["decided"], one["decided_q"], "o", color=colour)
        line.set(xlabel="source share (dot: decided; dotted: not allowed any more)", ylabel=f"Q, {q['unit']}")
        line.legend(fontsize=8)
        _landscape(figure, landscape, q["states"][len(q["states"]) // 2], summary["roles"][q["task"]], q["unit"])
    _save(figure, path)


def _agreement(axes: Any, found: Record | None) -> None:
    if found is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no ablation was asked for", ha="center")
        return
    for one in found["pairs"]:
        if one["gain"] is None:
            continue
        colour = ROLES[one["role"]][1]
        error = None if one["low"] is None else [[one["gain"] - one["low"]], [one["high"] - one["gain"]]]
        axes.errorbar(one["weight"], one["gain"], yerr=error, fmt="o", color=colour, markersize=5, linewidth=0.7)
        axes.annotate(
            one["domain"], (one["weight"], one["gain"]), xytext=(4, 3), textcoords="offset points", fontsize=7
        )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="mean weight", ylabel="score with the domain less without, points")
    inside = found["within_role"]  # over all pairs the source budget alone makes them agree
    told = (
        "none"
        if inside["spearman"] is None
        else f"{inside['spearman']:+.2f} [{inside['low']:+.2f}, {inside['high']:+.2f}]"
    )
    axes.set_title(f"rank correlation within roles {told}", fontsize=9)


def _landscape(figure: Any, axes: Any, state: Record, roles: dict[str, str], unit: str) -> None:
    """Q over a triangle with a domain in each corner, or along each domain's share."""
    names = list(state["decided"])
    if "simplex" in state:
        weights, q = np.array(state["simplex"]["weights"]), np.array(state["simplex"]["q"])
        corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
        drawn = axes.tricontourf(*(weights @ corners).T, q, levels=14, cmap="viridis")
        figure.colorbar(drawn, ax=axes, label=f"Q, {unit}")
        axes.plot(
            *(np.array(list(state["decided"].values())) @ corners),
            "*",
            color="white",
            markersize=14,
            markeredgecolor="black",
        )
        for name, corner, side in zip(names, corners, ("top", "top", "bottom"), strict=True):
            axes.text(*corner, name, ha="center", va=side)
        axes.set_aspect("equal")
        axes.set_axis_off()
    else:
        for name, colour in zip(names, _colours(names, roles), strict=True):
            one = state["domains"][name]
            axes.plot(one["shares"], one["q"], color=colour, label=name)
            axes.plot(state["decided"][name], state["decided_q"], "o", color=colour, markersize=4)
        axes.set(xlabel="share of the domain, the others in proportion (dots: decided)", ylabel=f"Q, {unit}")
        if len(names) <= 16:
            axes.legend(fontsize=7)
    axes.set_title(
        f"Q before step {state['step']} (star: decided)" if "simplex" in state else f"Q before step {state['step']}",
        fontsize=9,
    )


# ---------------------------------------------------------------- swarms


def swarm(folder: str | Path, path: str | Path) -> None:
    """A swarm: returns by sampler, and what each run kept and learned, coloured by its source share. One that was imported has no steps and no base:
    its mixtures and metrics. Raises BadInput for another folder."""
    from datamix import history as h
    from datamix import swarms

    runs = [one for one in swarms.read(folder) if one.status == "done"]
    if not runs:
        raise BadInput(f"{folder}: no finished run in it")
    figure = _figure(path, 12, 5)
    left, right = figure.subplots(1, 2)
    if swarms.about(folder).get("kind") == "imported":
        _, domains, x, metrics, y = swarms.table(folder)
        _boxes(left, list(x.T), domains, "share of the mixture")
        _boxes(right, list(y.T), metrics, "loss")
        _save(figure, path)
        return
    histories = [one.history() for one in runs]
    returns = np.array([100 * h.rewards(one).sum() for one in histories])
    tasks = np.array([one.task for one in runs])
    centred = returns - np.array([returns[tasks == task].mean() for task in tasks])
    kinds = sorted({one.sampler for one in runs})
    _boxes(
        left,
        [centred[[one.sampler == kind for one in runs]] for kind in kinds],
        kinds,
        "final score less its task's mean, points",
    )
    ends = np.array([[100 * float(part) for part in h.parts(one.gains[-1], one.source)] for one in histories])
    share = [float(one.weights[:, one.source].sum(1).mean()) for one in histories]
    drawn = right.scatter(ends[:, 1], ends[:, 0], c=share, cmap="coolwarm_r", s=25, edgecolor="black", linewidth=0.3)
    figure.colorbar(drawn, ax=right, label="mean source share")
    right.set(xlabel="gain on target domains, points", ylabel="gain on source domains, points")
    right.set_title(f"{len(runs)} runs of {len(set(tasks.tolist()))} tasks", fontsize=9)
    _save(figure, path)


def _boxes(axes: Any, values: list[Floats], names: Sequence[str], label: str) -> None:
    axes.boxplot(values, orientation="horizontal", widths=0.6, showfliers=False)
    for k, one in enumerate(values):
        axes.plot(one, np.full(len(one), k + 1.0), "o", color=SOURCE, markersize=3, alpha=0.5)
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.set(xlabel=label)
    axes.invert_yaxis()


# ---------------------------------------------------------------- files


def _json(path: Path) -> Record:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; expected the folder of `datamix compare`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return found


def _lines(path: Path) -> list[Record]:
    from tenfold_shared.jsonl import decode_line, read_lines

    return [decode_line(f"{path}:{number}", raw) for number, raw in read_lines(str(path))]
