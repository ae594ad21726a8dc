"""The picture of a comparison: perplexity over effective bits."""

from __future__ import annotations

from typing import Any

from tenfold_shared import BadInput, Missing

Record = dict[str, Any]


def draw(rows: list[Record], path: str) -> None:
    """Write PATH (.png or .svg): a point a method with its standard error, the exact model as a line."""
    if not path.endswith((".png", ".svg")):
        raise BadInput(f"--plot {path}: expected a name ending in .png or .svg")
    try:
        import matplotlib
    except ImportError:
        raise Missing("matplotlib is not installed: pip install 'antkv[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row in rows:
        if row["effective_bits"] is None:
            axes.axhline(row["ppl"], ls=":", c="k", label=f"{row['method']}: {row['ppl']:.2f}")
            continue
        axes.errorbar(
            row["effective_bits"], row["ppl"], yerr=row["ppl_stderr"], fmt="o", capsize=3, label=row["method"]
        )
    if max(row["ppl"] for row in rows) > 5 * min(row["ppl"] for row in rows):
        axes.set_yscale("log")
    axes.set(xlabel="effective bits a cached number", ylabel="perplexity", title="same text, same exact window")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
