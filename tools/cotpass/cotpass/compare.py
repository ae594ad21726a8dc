"""`cotpass compare A B`: how much better is B than A on the same problems, for every K?

Both files are graded (or judged) records, or tables of counts whose names end in .csv. A problem's difference is
Pass@K of B minus Pass@K of A, and likewise for CoT-Pass@K by majority; the score is its mean over problems. Easy and
hard problems are so on both sides, and their difference drops out of the pair.

Intervals, 95 %, problems as a sample from a population. `paired_difference` draws Bayesian bootstrap weights
(Rubin 1981): Gamma(1) for each problem, and Gamma(1/10) for a problem at either end of the scale, where one side
solves always and the other never. Without these ends a K at which no problem differs, as K = n of two strong
models, would get an interval of width 0. With x*_K a replicate's deviation from its expectation and sd_K its
standard deviation, both ends of

- the pointwise interval are at ± q_K sd_K f, q_K the 95 % quantile of |x*_K|/sd_K,
- the simultaneous one at ± q sd_K f, q that of max_K |x*_K|/sd_K (max-t): all K hold at once.

q ≥ q_K, so the simultaneous interval contains the pointwise one. f = t/1.96 · √((M+1)/(M−1)), t the quantile of
Student's t with M − 1 degrees of freedom, undoes what weights lose for few problems. The draws depend on the
number of problems and the seed alone and are applied to problems in the order of their ids, so that comparing
B with A gives exactly the negative. Where both sides have the same counts in every problem, nothing was seen to
differ: 0, width 0. Measured coverage: tests/cotpass/test_compare.py.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from cotpass import estimators as est
from cotpass.estimators import Floats, Ints
from cotpass.intervals import REPLICATES, Z95
from cotpass.metric import MAX_UNJUDGED, Counts, accumulate, counts_of
from cotpass.votes import OneJudge
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.progress import Progress

Report = dict[str, Any]

_END = 0.1  # problems added at each end of the scale
_CHUNK = 1 << 22  # weights held at once
_NAMES = ("diff", "low", "high", "sim_low", "sim_high")
_NAMED = 5  # problems, and files, named in an error
# Student's t at 97.5 % for 1 to 4 degrees of freedom, where the series of `_student` is too short.
_FEW = (12.706205, 4.302653, 3.182446, 2.776445)


# ---- the statistics


@dataclass(frozen=True)
class Differences:
    """Mean differences and the ends of their intervals, each float64 (J,); NaN where one problem gives no interval."""

    diff: Floats
    low: Floats
    high: Floats
    sim_low: Floats
    sim_high: Floats

    def negative(self) -> Differences:
        """B and A exchanged."""
        columns = (self.diff, self.high, self.low, self.sim_high, self.sim_low)
        return Differences(*(0.0 - column for column in columns))  # not −column, which makes −0.0 of 0.0


def paired_difference(differences: npt.ArrayLike, seed: int = 0, replicates: int = REPLICATES) -> Differences:
    """Pointwise and simultaneous 95 % intervals of the column means of differences in [−1, 1], shape (M, J).

    A row a problem, a column a K; see the module for the method. Raises BadInput for values outside [−1, 1],
    NaN, no rows, fewer than 100 replicates, a negative seed.
    """
    rows = np.asarray(differences, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise BadInput(f"differences: expected a row for each of at least one problem, got shape {rows.shape}")
    if not (np.abs(rows) <= 1).all():
        raise BadInput("differences: expected values in [-1, 1]")
    if replicates < 100:
        raise BadInput(f"replicates: expected at least 100, got {replicates}")
    if seed < 0:
        raise BadInput(f"seed: expected an integer of at least 0, got {seed}")
    flat = rows[rows != 0]
    if len(flat) and flat[0] < 0:
        # One orientation for both orders of the files: the draws for the two ends differ.
        return paired_difference(-rows, seed, replicates).negative()
    diff = rows.mean(axis=0)
    if len(rows) == 1:
        none = np.full_like(diff, np.nan)
        return Differences(diff, none, none, none, none)
    size = len(rows)
    total = size + 2 * _END
    expected = rows.sum(axis=0) / total
    sd = np.sqrt(((rows**2).sum(axis=0) + 2 * _END) / total - expected**2) / math.sqrt(total + 1)
    deviation = np.abs(_replicates(rows, seed, replicates) - expected) / sd
    factor = _student(size - 1) / Z95 * math.sqrt((size + 1) / (size - 1))
    # A maximum over K is nowhere below its parts, and neither are its quantiles: the second contains the first.
    pointwise = np.quantile(deviation, 0.95, axis=0) * sd * factor
    at_once = np.quantile(deviation.max(axis=1, initial=0.0), 0.95) * sd * factor
    return Differences(
        diff,
        np.maximum(diff - pointwise, -1.0),
        np.minimum(diff + pointwise, 1.0),
        np.maximum(diff - at_once, -1.0),
        np.minimum(diff + at_once, 1.0),
    )


def pass_at_k_difference(
    n_a: npt.ArrayLike,
    c_a: npt.ArrayLike,
    n_b: npt.ArrayLike,
    c_b: npt.ArrayLike,
    ks: npt.ArrayLike,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Differences:
    """Mean Pass@K of B − Pass@K of A over M problems with counts n, c of shape (M,), for J values of K.

    Equal counts on both sides in every problem: 0, width 0. Raises BadInput as `estimators.pass_at_k` and
    `paired_difference`.
    """
    return pass_at_k_gains(n_a, c_a, [(n_b, c_b)], ks, seed, replicates)[0]


def pass_at_k_gains(
    n: npt.ArrayLike,
    c: npt.ArrayLike,
    others: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
    ks: npt.ArrayLike,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> list[Differences]:
    """Mean Pass@K of each other − Pass@K of the base, counts n, c of shape (M,), for J values of K.

    The simultaneous intervals hold for all K of all the others at once: one max-t over their columns, since what
    the base's samples happened to be moves all of them together. Equal counts and errors as `pass_at_k_difference`.
    """
    if not others:
        return []
    base = est.pass_at_k(n, c, ks)
    found = paired_difference(np.hstack([est.pass_at_k(*other, ks) - base for other in others]), seed, replicates)
    width = base.shape[1]
    gains = []
    for i, (n_b, c_b) in enumerate(others):
        columns = [getattr(found, name)[i * width : (i + 1) * width] for name in _NAMES]
        if np.array_equal(n, n_b) and np.array_equal(c, c_b) and len(base) > 1:
            columns = [columns[0]] * len(_NAMES)
        gains.append(Differences(*columns))
    return gains


def _replicates(rows: Floats, seed: int, replicates: int) -> Floats:
    """Weighted means of the rows and of the two ends, (replicates, J)."""
    rng = np.random.default_rng(seed)
    parts = []
    step = max(1, _CHUNK // len(rows))
    for at in range(0, replicates, step):
        count = min(step, replicates - at)
        weights = rng.standard_exponential((count, len(rows)))
        ends = rng.standard_gamma(_END, (count, 2))
        total = weights.sum(axis=1) + ends.sum(axis=1)
        parts.append((weights @ rows + (ends[:, 1] - ends[:, 0])[:, None]) / total[:, None])
    return np.concatenate(parts)


def _student(freedom: int) -> float:
    """Student's t at 97.5 %, to four digits: Fisher's expansion (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z, v = Z95, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (i + 1) for i, term in enumerate(terms))


# ---- one side


@dataclass
class Side:
    """One file: its counts, its problems' gold answers, and its judge."""

    path: str
    counts: Counts
    gold: dict[str, Any] = field(default_factory=dict)
    judge: OneJudge = field(default_factory=OneJudge)

    def at(self, ids: Sequence[str]) -> Side:
        """The same side with these problems only, in this order."""
        row = {name: i for i, name in enumerate(self.counts.ids)}
        rows = np.array([row[name] for name in ids], dtype=np.int64)
        d = {rule: (low[rows], high[rows]) for rule, (low, high) in self.counts.d.items()}
        counts = Counts(ids=list(ids), n=self.counts.n[rows], c=self.counts.c[rows], d=d)
        return Side(self.path, counts, self.gold, self.judge)

    @property
    def majority(self) -> tuple[Ints, Ints] | None:
        """D by majority (or from a table) as (unjudged counted wrong, counted right); None: nothing is judged."""
        return self.counts.d.get("majority") or self.counts.d.get("counts")

    @property
    def unjudged(self) -> float | None:
        if self.majority is None:
            return None
        low, high = self.majority
        right = int(self.counts.c.sum())
        return float((high - low).sum() / right) if right else 0.0


def read_side(path: str, selection: Selection, progress: Progress) -> Side:
    """Read records, or a table of counts where the name says .csv. Raises BadInput as `metric` does."""
    if path.lower().endswith((".csv", ".csv.gz", ".csv.zst")):
        if selection.ids or selection.skip_bad:
            raise BadInput(f"{path}: --ids and --skip-bad are for records; a table of counts is read whole")
        return Side(path, counts_of(path))
    side = Side(path, Counts([], np.empty(0, np.int64), np.empty(0, np.int64)))
    # Answers are not voted on here, so none is looked for.
    side.counts = accumulate(_watched(selection.source([path], "verdict"), side, progress), lambda record: None)
    return side


def _watched(
    records: Iterable[tuple[str, Mapping[str, Any]]], side: Side, progress: Progress
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Hand records on; note gold answer and judge of each after its reader has checked it."""
    for where, record in records:
        yield where, record
        progress.update()
        if record.get("votes") and not (record.get("finish_reason") == "error" or record.get("error")):
            side.judge.check(where, record)
        answer = record.get("answer")
        if answer is None:
            continue
        known = side.gold.setdefault(record["id"], answer)
        if known != answer and not _same_answer(known, answer):
            raise BadInput(f"{where}: id {record['id']!r}: answer: expected {known!r} as before, got {answer!r}")


def _same_answer(one: Any, other: Any) -> bool:
    """Whether two gold answers are one: equal values (042 and 42), an answer and the list of it alone."""
    from tenfold_shared.answers import key

    first, second = (each if isinstance(each, list) else [each] for each in (one, other))
    return len(first) == len(second) and sorted(map(key, map(str, first))) == sorted(map(key, map(str, second)))


def matched(sides: Sequence[Side], intersect: bool = False) -> tuple[list[Side], list[list[str]]]:
    """The sides with the problems that all have, in the order of their ids, and for each side the ids it lacks.

    Raises BadInput for a side that lacks a problem of another (unless intersect), none in common, gold answers or
    judges that differ.
    """
    each = [set(side.counts.ids) for side in sides]
    everything = set().union(*each)
    common = sorted(everything.intersection(*each))
    lacking = [sorted(everything - ids) for ids in each]
    if any(lacking) and not intersect:
        parts = []
        for i, (side, names) in enumerate(zip(sides, lacking, strict=True)):
            of = sides[1 - i].path if len(sides) == 2 else "the other files"
            parts += [f"{side.path} lacks {naming(names)} of {of}"] if names else []
        if len(parts) > _NAMED:
            parts = [*parts[:_NAMED], f"and {len(parts) - _NAMED} more files lack some"]
        raise BadInput(f"{'; '.join(parts)}; --intersect compares the {len(common)} that all have")
    if not common:
        raise BadInput(f"{' and '.join(side.path for side in sides)} have no problem in common")
    _check_gold(sides, common)
    _check_judge(sides)
    return [side.at(common) for side in sides], lacking


# ---- the report


def compare(
    a: Side,
    b: Side,
    ks: Sequence[int] | None = None,
    *,
    intersect: bool = False,
    max_unjudged: float = MAX_UNJUDGED,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Report:
    """The summary of `cotpass compare --json`: B − A.

    `pass.<K>` and `cot_pass.<K>`: {diff, low, high, sim_low, sim_high}, the sim interval for all K of its score at
    once; ends null for one problem. `cot_pass` is {} unless both sides are judged. Where more than max_unjudged of a
    side's right answers have no majority verdict, that side stands in `refused`, the values of `cot_pass` are null
    and `bounds.<K>` {low, high} holds what they can be: the unjudged of one side all wrong and of the other all
    right, and the reverse. `a` and `b`: file, samples, scores. only_a, only_b: ids that one file alone has, left
    out. ks: default the powers of two up to the smallest n of a common problem on either side.

    Raises BadInput for ids that one file alone has (unless intersect), none in common, different gold
    answers or judges, K above an n.
    """
    if not 0 <= max_unjudged <= 1:
        raise BadInput(f"max_unjudged: expected a share in [0, 1], got {max_unjudged}")
    (a, b), (only_b, only_a) = matched((a, b), intersect)
    ladder = common_ladder((a, b), ks)

    n_a, n_b = a.counts.n, b.counts.n

    def paired(count_a: Ints, count_b: Ints) -> Report:
        found = pass_at_k_difference(n_a, count_a, n_b, count_b, ladder, seed, replicates)
        return difference_columns(ladder, found)

    sides = [_side(side, ladder) for side in (a, b)]
    refused = [
        name for name, side in (("a", a), ("b", b)) if side.unjudged is not None and side.unjudged > max_unjudged
    ]
    cot_pass: Report = {}
    bounds: Report = {}
    if a.majority is not None and b.majority is not None:
        (low_a, high_a), (low_b, high_b) = (
            [est.pass_at_k(n, count, ladder).mean(axis=0) for count in each]
            for n, each in ((n_a, a.majority), (n_b, b.majority))
        )
        bounds = {
            str(k): {"low": float(low_b[i] - high_a[i]), "high": float(high_b[i] - low_a[i])}
            for i, k in enumerate(ladder)
        }
        cot_pass = no_difference(ladder) if refused else paired(a.majority[0], b.majority[0])
        if not refused:
            sides[0]["cot_pass"], sides[1]["cot_pass"] = by_k(ladder, low_a), by_k(ladder, low_b)
    else:
        refused = []  # there is no comparison of reasoning that could be refused
    result: Report = {
        "n_problems": len(a.counts.ids),
        "k": ladder,
        "pass": paired(a.counts.c, b.counts.c),
        "cot_pass": cot_pass,
        "bounds": bounds,
        "a": sides[0],
        "b": sides[1],
        "only_a": only_a,
        "only_b": only_b,
        "max_unjudged": max_unjudged,
        "refused": refused,
    }
    result["warnings"] = _warnings(a, b, result)
    return result


def _check_gold(sides: Sequence[Side], common: Iterable[str]) -> None:
    known: dict[str, Side] = {}
    differ: dict[str, tuple[Side, Side]] = {}
    for name in common:
        for side in sides:
            if name not in side.gold:
                continue
            first = known.setdefault(name, side)
            one, other = first.gold[name], side.gold[name]
            if one != other and not _same_answer(one, other):
                differ.setdefault(name, (first, side))
    if differ:
        name, (one, other) = next(iter(differ.items()))
        raise BadInput(
            f"id {name!r}: answer: expected one gold answer in both files, got {one.gold[name]!r} in {one.path} and "
            f"{other.gold[name]!r} in {other.path}{f'; and {len(differ) - 1} more' if len(differ) > 1 else ''}"
        )


def _check_judge(sides: Sequence[Side]) -> None:
    """Two judges, or two numbers of votes, would be a difference that no model made."""
    for a, b in combinations(sides, 2):
        one, other = ((side.judge.name, side.judge.votes) for side in (a, b))
        if None in (one[1], other[1]):
            continue
        if one[1] != other[1] or (one[0] and other[0] and one[0] != other[0]):
            raise BadInput(
                f"judge: expected one judge and number of votes in both files, got {one[0] or 'no name'} with "
                f"{one[1]} in {a.path} and {other[0] or 'no name'} with {other[1]} in {b.path}"
            )


def common_ladder(sides: Sequence[Side], ks: Sequence[int] | None) -> list[int]:
    """The K that every problem of every side has samples for: ks, or by default the powers of two. Raises BadInput."""
    side = min(sides, key=lambda each: int(each.counts.n.min()))
    row = int(np.argmin(side.counts.n))
    limit, shortest = int(side.counts.n[row]), side.counts.ids[row]
    if limit < 1:
        raise BadInput(f"{side.path}: id {shortest!r}: expected at least one sample that did not fail")
    if ks is None:
        return [1 << i for i in range(limit.bit_length())]
    ladder = sorted({int(k) for k in est.integers(list(ks), "k")})
    if not ladder or ladder[0] < 1:
        raise BadInput(f"k: expected integers of at least 1, got {list(ks)}")
    if ladder[-1] > limit:
        raise BadInput(
            f"k: K = {ladder[-1]} is more than the n = {limit} samples of problem {shortest!r} in {side.path}; lower K"
        )
    return ladder


def difference_columns(ladder: Sequence[int], found: Differences) -> Report:
    """`{K: {diff, low, high, sim_low, sim_high}}`, null for what is NaN."""
    rows: Report = {}
    for i, k in enumerate(ladder):
        values = {name: float(getattr(found, name)[i]) for name in _NAMES}
        rows[str(k)] = {name: None if math.isnan(value) else value for name, value in values.items()}
    return rows


def no_difference(ladder: Sequence[int]) -> Report:
    """The same without values."""
    return {str(k): dict.fromkeys(_NAMES) for k in ladder}


def by_k(ladder: Sequence[int], means: Floats) -> dict[str, float]:
    """`{K: value}` of values (J,)."""
    return {str(k): float(value) for k, value in zip(ladder, means, strict=True)}


def _side(side: Side, ladder: Sequence[int]) -> Report:
    return {
        "file": side.path,
        "n_samples": int(side.counts.n.sum()),
        "min_n": int(side.counts.n.min()),
        "max_n": int(side.counts.n.max()),
        "unjudged": side.unjudged,
        "pass": by_k(ladder, est.pass_at_k(side.counts.n, side.counts.c, ladder).mean(axis=0)),
        "cot_pass": {},
    }


def naming(names: Sequence[str]) -> str:
    """How many problems these are and the first few of them, for messages."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} problem{'s' if len(names) > 1 else ''} ({', '.join(map(repr, names[:_NAMED]))}{more})"


def _warnings(a: Side, b: Side, result: Report) -> list[str]:
    lines = []
    for names, path in ((result["only_a"], a.path), (result["only_b"], b.path)):
        if names:
            lines.append(f"left out, only in {path}: {naming(names)}")
    if (a.majority is None) != (b.majority is None):
        judged, bare = (b, a) if a.majority is None else (a, b)
        lines.append(f"{judged.path} is judged and {bare.path} is not: no comparison of CoT-Pass@K")
    for name, side in (("a", a), ("b", b)):
        if name in result["refused"]:
            lines.append(
                f"{side.unjudged:.1%} of the right answers in {side.path} are unjudged, more than "
                f"{result['max_unjudged']:.1%}: no value for CoT-Pass@K, see the bounds"
            )
    return lines


# ---- for people


def human_table(report: Report) -> Any:
    """The report as a rich table of at most 80 columns: a row a score and K, B − A with both intervals."""
    from rich.table import Table

    table = Table(title="B − A on the same problems", caption=_caption(report), caption_justify="left")
    for head in ("", "A", "B", "B − A", "95 %, this K", "95 %, all K"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for name, title in (("pass", "Pass"), ("cot_pass", "CoT-Pass")):
        for k, score in report[name].items():
            head = f"{title}@{k}"
            if score["diff"] is None:
                bound = report["bounds"][k]
                table.add_row(head, "?", "?", "?", f"{bound['low']:+.3f} – {bound['high']:+.3f}", "bounds")
                continue
            sides = (f"{report[side][name][k]:.3f}" for side in ("a", "b"))
            ends = (_ends(score["low"], score["high"]), _ends(score["sim_low"], score["sim_high"]))
            table.add_row(head, *sides, f"{score['diff']:+.3f}", *ends)
        table.add_section()
    return table


def _ends(low: float | None, high: float | None) -> str:
    # A backslash keeps rich from reading the bracket as markup.
    return "–" if low is None or high is None else f"\\[{low:+.3f}, {high:+.3f}]"


def _caption(report: Report) -> str:
    from rich.markup import escape

    lines = [f"{report['n_problems']} problems"]
    for side in ("a", "b"):
        found = report[side]
        per = str(found["min_n"]) if found["min_n"] == found["max_n"] else f"{found['min_n']}–{found['max_n']}"
        lines.append(f"{side.upper()}: {escape(found['file'])}, {per} samples a problem")
    return "\n".join(lines)


# ---- the verb


def run(
    a: str,
    b: str,
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
    """The verb; returns the exit code: 1 where too many right answers are unjudged on a side."""
    if plot:
        from cotpass.plot import check_target, plot_comparison

        check_target(plot)
    if a == b == "-":
        raise BadInput("-: stdin can be read once; name it a single time")
    with Progress("compare", None, "samples", quiet) as progress:
        left, right = (read_side(path, selection, progress) for path in (a, b))
    result = compare(left, right, ks, intersect=intersect, max_unjudged=max_unjudged, seed=seed, replicates=replicates)
    if plot:
        plot_comparison(result, plot)
    return tell(result, human_table, as_json)


def tell(report: Report, table: Callable[[Report], Any], as_json: bool) -> int:
    """Print warnings and the report, as JSON or as a table; the exit code: 1 where the report refused something."""
    for line in report["warnings"]:
        print(f"cotpass: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_table(table(report))
    return 1 if report["refused"] else 0
