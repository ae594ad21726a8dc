"""The picture of a report: accuracy by iteration beside what the chain predicts, and where the skill lies."""

from __future__ import annotations

from typing import Any

from tenfold_shared import BadInput, Missing

Record = dict[str, Any]


def draw(found: Record, path: str) -> None:
    """Write PATH (.png or .svg). Raises BadInput for another suffix, Missing without matplotlib."""
    if not path.endswith((".png", ".svg")):
        raise BadInput(f"--plot {path}: expected a name ending in .png or .svg")
    try:
        import matplotlib
    except ImportError:
        raise Missing("matplotlib is not installed: pip install 'dser[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = found["iterations"]
    if not rows:
        raise BadInput("--plot: without gold answers there is no accuracy to draw")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[3, 2], layout="constrained")
    n = [row["n"] for row in rows]
    value = [row["accuracy"]["value"] for row in rows]
    left.plot(n, value, "o-", ms=3, label="one chain (Pass@1)")
    if rows[0]["accuracy"]["low"] is not None:
        left.fill_between(n, [r["accuracy"]["low"] for r in rows], [r["accuracy"]["high"] for r in rows], alpha=0.2)
    if rows[0]["predicted"] is not None:
        left.plot(n, [row["predicted"]["value"] for row in rows], "--", label="predicted from its transitions")
    left.plot(n, [row["window_vote"] for row in rows], "s-", ms=3, label=f"vote of {found['run']['chains']} chains")
    versus = found["vs_self_consistency"]
    if versus:
        left.axhline(versus["self_consistency"], ls=":", c="k", label="self-consistency, equal tokens")
    left.set(
        xlabel="iteration",
        ylabel="accuracy",
        ylim=(-0.02, 1.02),
        title=str(found["advice"]["verdict"]).replace("_", " "),
    )
    left.legend(fontsize=8)
    bars: list[tuple[str, Record]] = []
    if found["transitions"]:
        for label, one in (
            ("p_IC", found["transitions"]["p_ic"]),
            ("p_CI", found["transitions"]["p_ci"]),
            ("TPR", found["verifier"]["tpr"]),
            ("FPR", found["verifier"]["fpr"]),
        ):
            if one is not None:
                bars.append((label, one))
    for at, (_, one) in enumerate(bars):
        right.bar(at, one["value"], color=["tab:green", "tab:red", "tab:blue", "tab:orange"][at % 4])
        if one["low"] is not None:
            right.plot([at, at], [one["low"], one["high"]], "k-")
    right.set_xticks(range(len(bars)), [label for label, _ in bars])
    right.set(ylim=(0, 1), title="transitions and verifier, 95 % by problem")
    figure.savefig(path, dpi=120)
    plt.close(figure)
