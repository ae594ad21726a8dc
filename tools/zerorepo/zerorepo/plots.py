"""Pictures for --plot: what every one of them has in common. Under the verbs that draw."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import write_atomic


def check_plot(path: str) -> None:
    """BadInput for a suffix that cannot be drawn, Missing where matplotlib is not installed."""
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise BadInput(f"--plot {path}: expected a name that ends in .png or .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise Missing("matplotlib is not installed: pip install 'zerorepo[plot]'")


@contextmanager
def drawing(path: str, inches: tuple[float, float]) -> Iterator[Any]:
    """A matplotlib figure to draw on; at the end it replaces PATH in one step. Its bytes depend on what is drawn alone.
    Raises as check_plot, and BadInput where it cannot be written."""
    check_plot(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
        matplotlib.rcParams["svg.hashsalt"] = "zerorepo"
        figure = Figure(figsize=inches, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        drawn = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if target.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(drawn, format=target.suffix.lower()[1:], metadata=metadata)
        try:
            write_atomic(target, drawn.getvalue())
        except OSError as error:
            raise BadInput(f"--plot {path}: cannot be written: {error.strerror}") from None
