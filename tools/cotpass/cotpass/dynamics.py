"""`cotpass dynamics STEP=FILE…`: what training does to answers and to reasoning, checkpoint by checkpoint.

After arXiv 2506.14245 §5 and A.6. Each file holds graded or judged samples of one checkpoint on the same problems,
as records or as a table of counts; the lowest step is the base. It sits on `compare.py`, which reads and matches the
files and derives the intervals; the picture is in `plot.py`.

With n samples of a problem, C of them right and D right for the right reason (majority of the votes):

- P(CA) = C/n and P(CC|CA) = D/C are distributions over problems; P(CC|CA) is undefined where C = 0.
- Easy problems are those the base solves at least once, hard ones the others. This picks by the base's own luck: a
  problem it solves in 1 of 100 tries may count as hard, so that hard problems seem to gain a little and easy ones to
  lose a little even if training does nothing. The two groups therefore describe; they are not tested.
- The gain of a step is its Pass@K (CoT-Pass@K) minus the base's, problem by problem.

Emergence is the first step whose CoT-Pass@K is above the base's at some K. Looking for the first of many steps at
many K finds something by chance sooner or later, so the interval that decides is simultaneous over all later steps
and all K (`compare.pass_at_k_gains`): without any change, the chance that any step is called is at most 2.5 % for
each score (one end of a 95 % interval; measured in tests/cotpass/test_dynamics.py). All later steps that have a value
take part. A step that is not judged, or has too many unjudged right answers, has none, and the CoT-Pass@K intervals of
the others are, for the same problems and K, those that they would have without its file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotpass import estimators as est
from cotpass.compare import (
    Differences,
    Side,
    by_k,
    common_ladder,
    difference_columns,
    matched,
    naming,
    no_difference,
    pass_at_k_gains,
    read_side,
    tell,
)
from cotpass.estimators import Floats, Ints
from cotpass.intervals import REPLICATES
from cotpass.metric import MAX_UNJUDGED
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection
from tenfold_shared.progress import Progress

Report = dict[str, Any]
Mask = npt.NDArray[np.bool_]

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
SCORES = ("pass", "cot_pass")


@dataclass(frozen=True)
class Dynamics:
    """The report of `cotpass dynamics --json`, and what its distributions are made of, for S steps and M problems.

    p_ca, p_cc: P(CA) and P(CC|CA), float64 (S, M), p_cc NaN where C = 0 or the step has no value; easy: bool (M,).
    """

    report: Report
    p_ca: Floats
    p_cc: Floats
    easy: Mask


@dataclass(frozen=True)
class _Checkpoint:
    """One step and its file.

    right_reasons: D, the unjudged counted wrong, (M,); passed, cot_pass: scores by problem, (M, J). None where the
    step is not judged or refused.
    """

    step: int
    side: Side
    refused: bool
    right_reasons: Ints | None
    passed: Floats
    cot_pass: Floats | None

    def p_ca(self) -> Floats:
        return self.side.counts.c / self.side.counts.n

    def p_cc(self) -> Floats:
        c, d = self.side.counts.c, self.right_reasons
        shares = np.full(len(c), np.nan)
        return shares if d is None else np.divide(d, c, out=shares, where=c > 0)


# ---- the report


def dynamics(
    files: Mapping[int, Side],
    ks: Sequence[int] | None = None,
    *,
    intersect: bool = False,
    max_unjudged: float = MAX_UNJUDGED,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Dynamics:
    """The summary of checkpoints, step -> file.

    `steps`, by step: `step`, `file`, `n_samples`, `min_n`, `max_n`; `p_ca` and `p_cc_given_ca` {q05, q25, q50, q75,
    q95, mean} over problems, the latter without the `excluded_c0` that have no right answer; `optimised`, the problems
    with P(CA) = 1; `pass.<K>` and `cot_pass.<K>` {value, diff, low, high, sim_low, sim_high}, the last five for the
    gain over the base (null for the base), the sim interval for all later steps and all K of its score at once;
    `easy` and `hard` {n_problems, p_ca, p_cc_given_ca, excluded_c0, pass.<K>, cot_pass.<K>}, means; `unjudged`, the
    share of right answers without a majority verdict, null where nothing is judged; `refused`, whether that is more
    than max_unjudged; `bounds.<K>` {low, high}, CoT-Pass@K with the unjudged counted wrong, counted right.
    `cot_pass` and `bounds` are {} where the step is not judged. What has no value is null: P(CC|CA) of steps not
    judged, CoT-Pass@K of refused ones, gains where either side has no value, means over no problems, the ends of
    intervals from one problem.

    `emergence_step`: the first step where some K of CoT-Pass has sim_low > 0. `emergence.<pass|cot_pass>.<K>`: the
    same for each K; `emergence_all_k.<pass|cot_pass>`: the first step where every K has. null: none.
    `base`, `n_problems`, `k`, `left_out` (ids that not all files have), `max_unjudged`, `refused` (steps), `warnings`.

    Raises BadInput as `compare.matched` and `compare.common_ladder`, and for fewer than two steps.
    """
    if not 0 <= max_unjudged <= 1:
        raise BadInput(f"max_unjudged: expected a share in [0, 1], got {max_unjudged}")
    if len(files) < 2:
        raise BadInput(f"steps: expected at least two, a base and a later one, got {len(files)}")
    order = sorted(files)
    sides, lacking = matched([files[step] for step in order], intersect)
    ladder = common_ladder(sides, ks)
    points = [_checkpoint(step, side, ladder, max_unjudged) for step, side in zip(order, sides, strict=True)]
    gains = {
        "pass": _gains([(p, p.side.counts.c) for p in points], ladder, seed, replicates),
        "cot_pass": _gains([(p, p.right_reasons) for p in points], ladder, seed, replicates),
    }
    easy = sides[0].counts.c > 0
    steps = [_step(p, ladder, easy, {name: gains[name].get(p.step) for name in SCORES}) for p in points]
    emergence = {name: {str(k): _first(steps, name, [k]) for k in ladder} for name in SCORES}
    report: Report = {
        "base": order[0],
        "n_problems": len(easy),
        "k": ladder,
        "steps": steps,
        "emergence_step": min((step for step in emergence["cot_pass"].values() if step is not None), default=None),
        "emergence": emergence,
        "emergence_all_k": {name: _first(steps, name, ladder) for name in SCORES},
        "left_out": sorted(set().union(*lacking)),
        "max_unjudged": max_unjudged,
        "refused": [p.step for p in points if p.refused],
    }
    report["warnings"] = _warnings(points, report)
    return Dynamics(report, np.stack([p.p_ca() for p in points]), np.stack([p.p_cc() for p in points]), easy)


def _checkpoint(step: int, side: Side, ladder: Sequence[int], max_unjudged: float) -> _Checkpoint:
    refused = side.unjudged is not None and side.unjudged > max_unjudged
    d = None if side.majority is None or refused else side.majority[0]
    n = side.counts.n
    cot_pass = None if d is None else est.pass_at_k(n, d, ladder)
    return _Checkpoint(step, side, refused, d, est.pass_at_k(n, side.counts.c, ladder), cot_pass)


def _gains(
    points: Sequence[tuple[_Checkpoint, Ints | None]], ladder: Sequence[int], seed: int, replicates: int
) -> dict[int, Differences]:
    """Step -> gain over the first, for the steps that have counts; none where the first has none."""
    (base, start), *later = points
    if start is None:
        return {}
    valued = {p.step: (p.side.counts.n, count) for p, count in later if count is not None}
    found = pass_at_k_gains(base.side.counts.n, start, list(valued.values()), ladder, seed, replicates)
    return dict(zip(valued, found, strict=True))


def _step(point: _Checkpoint, ladder: Sequence[int], easy: Mask, gains: Mapping[str, Differences | None]) -> Report:
    counts, judged = point.side.counts, point.side.majority
    everything = np.ones(len(easy), dtype=bool)
    bounds: Report = {}
    if judged is not None:
        low, high = (by_k(ladder, est.pass_at_k(counts.n, d, ladder).mean(axis=0)) for d in judged)
        bounds = {k: {"low": low[k], "high": high[k]} for k in low}
    whole = _group(point, ladder, everything)

    def scores(name: str) -> Report:
        gain = gains[name]
        ends = no_difference(ladder) if gain is None else difference_columns(ladder, gain)
        return {k: {"value": value, **ends[k]} for k, value in whole[name].items()}

    return {
        "step": point.step,
        "file": point.side.path,
        "n_samples": int(counts.n.sum()),
        "min_n": int(counts.n.min()),
        "max_n": int(counts.n.max()),
        "p_ca": {**_quantiles(point.p_ca()), "mean": whole["p_ca"]},
        "p_cc_given_ca": {**_quantiles(point.p_cc()), "mean": whole["p_cc_given_ca"]},
        "excluded_c0": whole["excluded_c0"],
        "optimised": int((counts.c == counts.n).sum()),
        "pass": scores("pass"),
        "cot_pass": scores("cot_pass"),
        "easy": _group(point, ladder, easy),
        "hard": _group(point, ladder, ~easy),
        "unjudged": point.side.unjudged,
        "refused": point.refused,
        "bounds": bounds,
    }


def _group(point: _Checkpoint, ladder: Sequence[int], rows: Mask) -> Report:
    """Means over some of the problems."""

    def means(scores: Floats | None) -> Report:
        if scores is None or not rows.any():
            return dict.fromkeys(map(str, ladder))
        return by_k(ladder, scores[rows].mean(axis=0))

    return {
        "n_problems": int(rows.sum()),
        "p_ca": _mean(point.p_ca()[rows]),
        "p_cc_given_ca": _mean(point.p_cc()[rows]),
        "excluded_c0": int((point.side.counts.c[rows] == 0).sum()),
        "pass": means(point.passed),
        "cot_pass": {} if point.side.majority is None else means(point.cot_pass),
    }


def _mean(shares: Floats) -> float | None:
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if len(known) else None


def _quantiles(shares: Floats) -> dict[str, float | None]:
    known = shares[~np.isnan(shares)]
    if not len(known):
        return dict.fromkeys(QUANTILES)
    return {name: float(np.quantile(known, at)) for name, at in QUANTILES.items()}


def _first(steps: Sequence[Report], name: str, ks: Sequence[int]) -> int | None:
    """The first step whose gain is above 0 at all of these K, by the simultaneous interval."""
    return next((step["step"] for step in steps if all(change(step, name, k) > 0 for k in ks)), None)


def change(step: Report, name: str, k: int) -> int:
    """1 where a step's score is above the base's by the simultaneous interval, −1 where it is below, else 0."""
    score = step[name].get(str(k))
    if score is None or score["sim_low"] is None:
        return 0
    return int(score["sim_low"] > 0) - int(score["sim_high"] < 0)


def _warnings(points: Sequence[_Checkpoint], report: Report) -> list[str]:
    lines = []
    if report["left_out"]:
        lines.append(f"left out, not in every file: {naming(report['left_out'])}")
    judged = [p for p in points if p.side.majority is not None]
    for p in points:
        at = f"step {p.step}: "
        # No gain of any step can be had without the base.
        lost = "CoT-Pass@K, and none for its gain at any step" if p is points[0] else "CoT-Pass@K"
        if judged and p not in judged:
            lines.append(f"{at}{p.side.path} is not judged: no value for {lost}")
        if p.refused:
            lines.append(
                f"{at}{p.side.unjudged:.1%} of the right answers in {p.side.path} are unjudged, more than "
                f"{report['max_unjudged']:.1%}: no value for {lost}, see the bounds"
            )
    return lines


# ---- for people


def human_table(report: Report) -> Any:
    """The report as a rich table of at most 80 columns: a row a step; scores at the smallest and largest K."""
    from rich.table import Table

    judged = any(step["cot_pass"] for step in report["steps"])
    ks = sorted({report["k"][0], report["k"][-1]})
    table = Table(title="Training dynamics", caption=_caption(report), caption_justify="left")
    table.min_width = 68  # room for the caption
    heads = ["step", "P(CA)\nmedian"]
    heads += ["P(CC|CA)\nmedian"] if judged else []
    heads += ["P(CA)\n= 1", *(f"Pass\n@{k}" for k in ks)]
    heads += [f"CoT-Pass\n@{k}" for k in ks] if judged else []
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for step in report["steps"]:
        cells = [str(step["step"]), _number(step["p_ca"]["q50"])]
        if judged:
            cells.append("?" if step["refused"] else _number(step["p_cc_given_ca"]["q50"]))
        cells += [str(step["optimised"]), *(_score(step, "pass", k) for k in ks)]
        cells += [_score(step, "cot_pass", k) for k in ks] if judged else []
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _score(step: Report, name: str, k: int) -> str:
    if name == "cot_pass" and step["refused"]:
        return "?"
    score = step[name].get(str(k))
    # A blank where there is no mark keeps the digits of a column under each other.
    return _number(score and score["value"]) + {1: "↑", -1: "↓", 0: " "}[change(step, name, k)]


def _caption(report: Report) -> str:
    base, ks = report["steps"][0], report["k"]
    low, high = (pick(step[end] for step in report["steps"]) for pick, end in ((min, "min_n"), (max, "max_n")))
    easy, hard = (base[group]["n_problems"] for group in ("easy", "hard"))
    lines = [
        f"{report['n_problems']} problem{'s' if report['n_problems'] > 1 else ''}, {low if low == high else f'{low}–{high}'} samples each",
        f"easy: {easy}, right at least once at step {base['step']}; hard: {hard}",
        f"↑ ↓ above, below step {base['step']}: 95 %, all steps and K of a score at once",
        f"emergence of CoT-Pass: {emergence_text(report)}",
    ]
    if any(step["cot_pass"] for step in report["steps"]) and report["emergence_step"] is not None:
        whole = report["emergence_all_k"]["cot_pass"]
        span = f"K = {', '.join(map(str, ks))}" if len(ks) < 5 else f"K = {ks[0]} to {ks[-1]}"
        lines.append(f"at every K ({span}): {'at no step' if whole is None else f'step {whole}'}")
    return "\n".join(lines)


def emergence_text(report: Report) -> str:
    """Where CoT-Pass@K first rises above the base, in words."""
    if not any(step["cot_pass"] for step in report["steps"]):
        return "no file is judged"
    first = report["emergence_step"]
    if first is None:
        return "at no step"
    ks = [k for k, step in report["emergence"]["cot_pass"].items() if step == first]
    return f"step {first} (K = {', '.join(ks) if len(ks) < 5 else f'{ks[0]} and {len(ks) - 1} more'})"


# ---- the verb


def checkpoints(arguments: Sequence[str]) -> dict[int, str]:
    """STEP=FILE arguments as step -> file, by step; FILE may contain `=`.

    Raises BadInput for another form, a step given twice, fewer than two, stdin more than once.
    """
    files: dict[int, str] = {}
    for argument in arguments:
        text, _, path = argument.partition("=")
        # A step of more digits than a 64-bit integer has is a slip, such as a date glued to a time.
        if not (path and text.isascii() and text.isdigit() and len(text) < 19):
            raise BadInput(
                f"{argument!r}: expected STEP=FILE with an integer STEP of at least 0, such as 20=step20.jsonl"
            )
        if int(text) in files:
            raise BadInput(f"{argument!r}: expected every step once, {files[int(text)]} is step {int(text)} already")
        files[int(text)] = path
    if len(files) < 2:
        raise BadInput(f"expected at least two STEP=FILE, a base and a later step, got {len(files)}")
    if list(files.values()).count("-") > 1:
        raise BadInput("-: stdin can be read once; name it for a single step")
    return dict(sorted(files.items()))


def run(
    arguments: Sequence[str],
    selection: Selection,
    *,
    ks: Sequence[int] | None,
    intersect: bool,
    max_unjudged: float,
    seed: int,
    replicates: int,
    as_json: bool,
    plot: str | None,
    quiet: bool,
) -> int:
    """The verb; returns the exit code: 1 where too many right answers of a step are unjudged."""
    paths = checkpoints(arguments)
    if plot:
        from cotpass.plot import check_target, plot_dynamics

        check_target(plot)
    with Progress("dynamics", None, "samples", quiet) as progress:
        files = {step: read_side(path, selection, progress) for step, path in paths.items()}
    found = dynamics(files, ks, intersect=intersect, max_unjudged=max_unjudged, seed=seed, replicates=replicates)
    if plot:
        plot_dynamics(found, plot)
    return tell(found.report, human_table, as_json)
