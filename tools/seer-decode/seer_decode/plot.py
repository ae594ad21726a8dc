"""Pictures: what each method keeps and costs against its budget, and what a generation read."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]
# Colours that stay apart for colour-blind readers (Okabe and Ito), and a mark each.
LOOK = {
    "oracle": ("#000000", "s"), "seer": ("#D55E00", "o"), "quest": ("#0072B2", "^"), "recent": ("#009E73", "v"),
    "random": ("#999999", "x"),
}  # fmt: skip
NAMES = {"seer": "gate", "oracle": "oracle", "quest": "Quest, shared", "recent": "most recent", "random": "random"}


def _save(figure: Any, path: str) -> None:
    """Complete under its name, or not at all."""
    import matplotlib.pyplot as plt

    from tenfold_shared.jsonl import write_atomic

    held, kind = io.BytesIO(), path.rpartition(".")[2]
    figure.savefig(held, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {})
    plt.close(figure)
    write_atomic(path, held.getvalue())


def draw(rows: Sequence[Record], of: Record, path: str) -> None:
    """Coverage and perplexity against the budget, a column a block size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    blocks = sorted({row["block"] for row in rows if row["block"]})
    dense = next((row for row in rows if row["method"] == "dense"), None)
    figure, axes = plt.subplots(
        2, len(blocks), figsize=(1.5 + 4.2 * len(blocks), 6.4), squeeze=False, sharex=True, sharey="row"
    )
    for column, block in enumerate(blocks):
        for method, (colour, mark) in LOOK.items():
            mine = sorted((r for r in rows if r["method"] == method and r["block"] == block), key=lambda r: r["budget"])
            if not mine:
                continue
            budgets = [r["budget"] for r in mine]
            how = {"color": colour, "marker": mark, "label": NAMES[method], "linewidth": 1.5, "markersize": 5}
            axes[0][column].plot(budgets, [r["coverage"] for r in mine], **how)
            axes[1][column].errorbar(
                budgets, [r["ppl"] for r in mine], [r["ppl_stderr"] for r in mine], capsize=2, **how
            )
        if dense is not None:
            axes[1][column].axhline(dense["ppl"], color="#000000", linewidth=1, linestyle=":", label="all of the cache")
        axes[0][column].set_title(f"blocks of {block} tokens")
        axes[1][column].set_xlabel("budget, tokens")
        axes[1][column].set_xscale("log", base=2)
        ticks = sorted({r["budget"] for r in rows if r["budget"]})
        axes[1][column].set_xticks(ticks, [str(t) for t in ticks])
        axes[1][column].set_yscale("log")
        axes[1][column].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[1][column].yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes[1][column].yaxis.set_minor_formatter(NullFormatter())
        for row in axes:
            row[column].grid(alpha=0.25, linewidth=0.6)
    axes[0][0].set_ylabel("share of attention read")
    axes[1][0].set_ylabel("perplexity")
    figure.suptitle(
        f"{of['model']}, {of['windows']} windows of {of['length']} tokens, the last {of['decoded']} decoded",
        fontsize=10,
    )
    handles, labels = axes[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    _save(figure, path)


def draw_trace(samples: str, path: str) -> None:
    """Tokens read at each step against the tokens that were there, a line a sample of a file of samples."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from tenfold_shared.jsonl import decode_line, read_lines

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    longest, shortest, count, how = 1, math.inf, 0, ""
    for number, line in read_lines(samples):
        found = ((decode_line(f"{samples}:{number}", line).get("meta")) or {}).get("sparsity")
        if not found or not found["steps"]:
            continue
        begin, every, block = found["trace"]["context"], found["trace"]["every"], found["policy"]["block"]
        lengths = [begin + every * at for at in range(len(found["trace"]["blocks"]))]
        axes.plot(lengths, [min(n, b * block) for n, b in zip(lengths, found["trace"]["blocks"], strict=True)], color="#D55E00", alpha=0.6, linewidth=1)  # fmt: skip
        longest, shortest, count = max(longest, lengths[-1]), min(shortest, begin), count + 1
        how = f"{NAMES.get(found['method'], found['method'])}, {found['policy']['kind']} {found['policy']['value']:g}, blocks of {block}"
    begin = 0 if shortest > longest else shortest
    axes.plot([begin, longest], [begin, longest], color="#000000", linestyle=":", linewidth=1, label="all of the cache")
    axes.set(
        xlabel="cached tokens",
        ylabel="tokens read by a step, mean of layers and heads",
        title=f"{how}; {count} samples",
    )
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25, linewidth=0.6)
    _save(figure, path)
