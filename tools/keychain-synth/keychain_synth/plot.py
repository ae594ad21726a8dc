"""The picture of `eval --plot`: mean reward over context length, and depth or hops, as a heat map.

Takes a grid of evaluate.py and writes a PNG or SVG whose bytes depend on the grid alone.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import write_atomic

SUFFIXES = (".png", ".svg")

# Vermilion for 0, blue for 1 (Okabe-Ito), pale between: told apart by colour-blind readers, and one missed cell shows
# in a field of found ones.
_COLORS = ("#B84A00", "#F2A983", "#F7F4EC", "#86B9DA", "#005B94")
_INK, _FAINT, _NONE = "#333333", "#777777", "#E4E4E4"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "hatch.color": "#AAAAAA",
    "hatch.linewidth": 0.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "keychain-synth",
}


def check_target(path: str | Path) -> None:
    """BadInput for a suffix that cannot be drawn, Missing where matplotlib is not installed."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise BadInput(f"--plot {path}: expected a name that ends in .png or .svg")
    if not Path(path).absolute().parent.is_dir():
        raise BadInput(f"--plot {path}: the folder {Path(path).parent} does not exist; create it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise Missing("matplotlib is not installed: pip install 'keychain-synth[plot]'")


def length_labels(lengths: Sequence[int]) -> list[str]:
    """131072 and 128000 both as 128K; as plain numbers where two would read the same."""
    binary = [n % 1000 and n % 1024 == 0 for n in lengths]
    short = [
        str(n) if n < 1000 else f"{n // 1024 if by_1024 else round(n / 1000)}K"
        for n, by_1024 in zip(lengths, binary, strict=True)
    ]
    return short if len(set(short)) == len(short) else [str(n) for n in lengths]


def plot_grids(grids: Sequence[Mapping[str, Any]], title: str, path: str | Path) -> None:
    """Draw grids {kind, axis, lengths, levels, mean, n, errors} to PATH (.png or .svg), replacing it in one step.

    One below the other. A cell shows 100 times its mean reward; a hatched one has nothing but rows that failed, an
    empty one no row at all.
    """
    check_target(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [max(2, len(grid["levels"])) for grid in grids]
    columns = max(len(grid["lengths"]) for grid in grids)
    target = Path(path)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
        matplotlib.rcParams.update(_STYLE)
        size = (max(5.6, 2.2 + 0.62 * columns), 0.5 + sum(1.1 + 0.42 * each for each in rows))
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title.replace("$", r"\$"), fontsize=11.5, x=0.01, ha="left")
        panels = figure.subplots(len(grids), 1, squeeze=False, height_ratios=rows)[:, 0]
        for axes, grid in zip(panels, grids, strict=True):
            _draw(figure, axes, grid)
        failed = sum(sum(map(sum, grid["errors"])) for grid in grids)
        if failed:
            figure.supxlabel(f"hatched: rows that failed, such as too long for the model ({failed} in all)",
                             x=0.99, ha="right", fontsize=8, color=_FAINT)  # fmt: skip
        drawn = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if target.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(drawn, format=target.suffix.lower()[1:], metadata=metadata)
        try:
            write_atomic(target, drawn.getvalue())
        except OSError as error:
            raise BadInput(f"--plot {path}: cannot be written: {error.strerror}") from None


def _draw(figure: Any, axes: Any, grid: Mapping[str, Any]) -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    colors = LinearSegmentedColormap.from_list("found", _COLORS).with_extremes(bad=_NONE)
    mean = np.array([[np.nan if cell is None else cell for cell in row] for row in grid["mean"]], dtype=float)
    image = axes.imshow(np.ma.masked_invalid(mean), cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(mean):
        if not np.isnan(value):
            ink = "white" if abs(value - 0.5) > 0.36 else _INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=9)
        elif grid["errors"][row][column]:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", lw=0))
    rows, columns = mean.shape
    axes.set_xticks(range(columns), length_labels(grid["lengths"]))
    axes.set_yticks(range(rows), [f"{level:g}" for level in grid["levels"]])
    # White lines between the cells instead of a grid through them.
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("context length, tokens")
    axes.set_ylabel("depth of the needle, %" if grid["axis"] == "depth" else "hops")
    axes.set_title(grid["kind"], loc="left", fontsize=10.5, parse_math=False)
    bar = figure.colorbar(image, ax=axes, pad=0.015, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0", "50", "100"])
    bar.set_label("mean reward, %")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
