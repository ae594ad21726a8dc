"""Pictures: loss curves and density of runs side by side, a profile by layer, a bench's ratios beside their bounds and losses."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longexp_peft import needs
from tenfold_shared import BadInput, unread

Record = dict[str, Any]


def run(sources: Sequence[str], output: str | None, *, quiet: bool) -> int:
    """The verb; returns the exit code."""
    if output in (None, "-"):
        raise BadInput("plot: expected -o FILE.png or FILE.svg")
    output = str(output)
    needs.plots(output, sources)
    folders = [s for s in sources if Path(s).is_dir()]
    if len(folders) == len(sources):
        names = [Path(s).name for s in sources]
        draw_runs(
            {name if names.count(name) == 1 else s: _log(Path(s)) for s, name in zip(sources, names, strict=True)},
            output,
        )
    elif len(sources) == 1:
        try:
            told = json.loads(Path(sources[0]).read_bytes())
        except OSError as error:
            raise unread(sources[0], error, "expected a folder of train, or one JSON object") from None
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{sources[0]}: neither a folder of train nor one JSON object: {' '.join(str(error).split())[:120]}"
            ) from None
        if isinstance(told, dict) and "arms" in told:
            draw_bench(told, output)
        elif isinstance(told, dict) and "amdahl" in told:
            draw_profile(told, output)
        else:
            raise BadInput(f"{sources[0]}: expected what profile --json or bench --json prints")
    else:
        raise BadInput("plot: expected folders of train, or one JSON file of profile or bench")
    if not quiet:
        print(f"longexp-peft: {output} written", file=sys.stderr)
    return 0


def _log(folder: Path) -> list[Record]:
    path = folder / "log.jsonl"
    if not path.exists():
        raise BadInput(f"{folder}: has no log.jsonl: expected a folder that `longexp-peft train` wrote")
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            raise BadInput(f"{path}:{number}: expected a JSON object") from None
    return found


def _smooth(values: list[float], over: int) -> list[float]:
    out, held = [], values[0] if values else 0.0
    for value in values:
        held += (value - held) / over
        out.append(held)
    return out


def draw_runs(logs: dict[str, list[Record]], path: str) -> None:
    """Loss by step, loss by seconds, and density by step of each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    by_step, by_time, density = figure.subplots(1, 3)
    for name, lines in logs.items():
        steps = [one for one in lines if "loss" in one]
        x = [one["step"] for one in steps]
        smooth = _smooth([one["loss"] for one in steps], max(1, min(20, len(steps) // 10)))
        at, seconds = 0.0, []
        for one in steps:
            at += one["seconds"]
            seconds.append(at)
        (line,) = by_step.plot(x, smooth, label=name)
        by_time.plot(seconds, smooth, color=line.get_color(), label=name)
        evals = [(one["step"], one["eval"]["loss"]) for one in lines if "eval" in one]
        if evals:
            by_step.plot(*zip(*evals, strict=True), "o", color=line.get_color(), markersize=4)
        density.plot(x, [one["density"] for one in steps], color=line.get_color(), label=name)
        audits = [(one["step"], one["audit"]["recall"]) for one in steps if "audit" in one]
        if audits:
            density.plot(*zip(*audits, strict=True), "x", color=line.get_color(), markersize=5)
    by_step.set(xlabel="step", ylabel="loss a target (dots: held out)")
    by_time.set(xlabel="seconds of steps", ylabel="loss a target")
    density.set(xlabel="step", ylabel="share of neurons computed (x: recall of energy)", ylim=(0, 1.05))
    by_step.legend()
    figure.savefig(path)


def draw_profile(told: Record, path: str) -> None:
    """By layer: zeros shared by a token, a document, a row; and neurons for 90, 95, 99 % of the energy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    zeros, density = figure.subplots(1, 2)
    x = range(len(told["layers"]))
    for key, name in (
        ("zeros_token", "one token"),
        ("zeros_seq", "all of a document"),
        ("zeros_batch", "all of a row"),
    ):
        zeros.plot(x, [one[key] for one in told["layers"]], "o-", label=name, markersize=3)
    for key in ("90", "95", "99"):
        density.plot(
            x, [one["density"][key] for one in told["layers"]], "o-", label=f"{key} % of the energy", markersize=3
        )
    zeros.set(xlabel="layer", ylabel="share of neurons at zero for", ylim=(-0.02, 1.02))
    density.set(xlabel="layer", ylabel="share of neurons that hold", ylim=(-0.02, 1.02))
    zeros.legend()
    density.legend()
    figure.savefig(path)


def draw_bench(told: Record, path: str) -> None:
    """Each arm's ratio as a bar with its bound as a line, and the loss it came with."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    speed, loss = figure.subplots(1, 2)
    names = [one["arm"] for one in told["arms"]]
    speed.barh(names, [one["ratio"] for one in told["arms"]], color="#4878a8")
    for number, one in enumerate(told["arms"]):
        speed.plot([one["bound"]] * 2, [number - 0.4, number + 0.4], color="#222", linewidth=2)
    key = "held_out" if all(one["held_out"] is not None for one in told["arms"]) else "loss_last"
    loss.barh(names, [one[key] for one in told["arms"]], color="#a87848")
    low = min(one[key] for one in told["arms"])
    loss.set_xlim(left=0.9 * low)
    speed.set(xlabel=f"steps a second, times {told['yardstick']} (line: what the operations allow)")
    loss.set(xlabel="held-out loss" if key == "held_out" else "loss of the last steps")
    loss.set_yticks([])
    speed.invert_yaxis()
    loss.invert_yaxis()
    figure.savefig(path)
