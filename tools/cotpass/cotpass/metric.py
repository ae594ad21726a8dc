"""`cotpass metric`: from judged records, or from a table of counts, to Pass@K beside CoT-Pass@K.

Two steps. `accumulate` (records) or `from_counts` (CSV) reduces the input to `Counts`, a few numbers
a problem, in one pass; `report` turns them into the summary. `run` is the verb around them. The
estimators are `estimators.py`, the vote rules `votes.py`, the picture `plot.py`.

The intervals are `intervals.py`: each is given the statistic and the counts it is computed from, so
that it may resample them.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np

from cotpass import correct as correction
from cotpass import estimators as est
from cotpass import intervals
from cotpass.estimators import Floats, Ints
from cotpass.intervals import INTERVALS, REPLICATES, Draws, Interval, Statistic
from cotpass.votes import RULES, OneJudge, aggregate, tally
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.jsonl import open_read
from tenfold_shared.progress import Progress

Record = Mapping[str, Any]
Report = dict[str, Any]
AnswerKey = Callable[[Record], str | None]

TAUS = (0.25, 0.5, 0.75, 1.0)
MAX_UNJUDGED = 0.01


# ---- counts


@dataclass
class Counts:
    """What the metrics need of each of M problems, and tallies over all samples for the summary.

    n, c: samples, and samples with a right answer; shape (M,).
    d: per vote rule (or `counts` for a table) the answer-correct samples whose reasoning is right, as
    (low, high): the unjudged ones counted wrong, counted right. Empty where nothing was judged.
    answers: per problem {answer key: [samples, samples graded correct]}; None where no sample has one.
    """

    ids: list[str]
    n: Ints
    c: Ints
    d: dict[str, tuple[Ints, Ints]] = field(default_factory=dict)
    answers: list[dict[str, list[int]]] | None = None
    truncated: int = 0
    ungradable: int = 0
    failed: int = 0
    duplicates: int = 0


class _Problem:
    """The running counts of one problem. `seen` and `texts` cost some 100 bytes a sample."""

    __slots__ = ("answers", "c", "n", "right", "seen", "texts", "unjudged")

    def __init__(self) -> None:
        self.n = self.c = 0
        self.right = [0] * len(RULES)
        self.unjudged = [0] * len(RULES)
        self.seen: set[int] = set()
        self.texts = array("q")
        self.answers: dict[str, list[int]] = {}


def answer_votes(require_box: bool = True) -> AnswerKey:
    """The usual vote of a sample for Cons@K: its final answer in canonical form, or None.

    Ungradable samples and samples without a final answer vote for nothing.
    """
    import tenfold_shared.answers as answers

    key = lru_cache(1 << 14)(answers.key)

    def vote(record: Record) -> str | None:
        text = record.get("response")
        if not isinstance(text, str) or record.get("grade") == "ungradable":
            return None
        answer = answers.extract(text, require_box=require_box)
        return key(answer) if answer is not None else None

    return vote


def accumulate(records: Iterable[tuple[str, Record]], answer_key: AnswerKey | None = None) -> Counts:
    """Reduce graded or judged records, given as (where, record), to counts: one pass, any order.

    Memory grows with the problems and their distinct answers, plus about 100 bytes a sample to find
    duplicates; texts are not kept. A sample that failed (finish_reason `error`) is no draw from the
    model: it is tallied and left out of n. A right answer without votes, in a file that has votes, is
    unjudged. answer_key: the vote of a sample for Cons@K; None for `answer_votes()`.

    Raises BadInput naming record and field: what is not graded, a repeated (id, sample), a NaN
    reward, unknown votes, another number of votes, a second judge.
    """
    vote = answer_key or answer_votes()
    problems: dict[str, _Problem] = {}
    judge = OneJudge()
    truncated = ungradable = failed = 0
    for where, record in records:
        name, sample = _identity(where, record)
        at = f"{where}: id {name!r} sample {sample}"
        problem = problems.get(name)
        if problem is None:
            problem = problems[name] = _Problem()
        if sample in problem.seen:
            raise BadInput(f"{where}: id: {name}#{sample} appears twice; ids (and samples within an id) must be unique")
        problem.seen.add(sample)
        if record.get("finish_reason") == "error" or record.get("error"):
            failed += 1
            continue
        correct = record.get("correct")
        if correct is not True and correct is not False:
            found = repr(correct) if "correct" in record else "nothing"
            raise BadInput(f"{at}: correct: expected true or false, got {found}; run `cotpass grade` first")
        _check_reward(at, record)
        truncated += record.get("finish_reason") == "length"
        ungradable += record.get("grade") == "ungradable"
        problem.n += 1
        problem.c += correct
        problem.texts.append(hash((record.get("reasoning"), record.get("response"))))
        key = vote(record)
        if key is not None:
            tried = problem.answers.setdefault(key, [0, 0])
            tried[0] += 1
            tried[1] += correct
        votes = record.get("votes")
        counted = (0, 0, 0)
        if votes:
            if not isinstance(votes, list):
                raise BadInput(f"{at}: votes: expected a list of yes, no or abstain")
            judge.check(at, record)
            try:
                counted = tally(votes)
            except BadInput as error:
                raise BadInput(f"{at}: {error}") from None
        if correct:
            for i, rule in enumerate(RULES):
                verdict = aggregate(*counted, rule)
                problem.right[i] += verdict is True
                problem.unjudged[i] += verdict is None
    return _settle(problems, judge.votes is not None, truncated, ungradable, failed)


def _identity(where: str, record: Record) -> tuple[str, int]:
    name, sample = record.get("id"), record.get("sample")
    if not isinstance(name, str):
        raise BadInput(f"{where}: id: expected a string, got {name!r}")
    if type(sample) is not int or sample < 0:
        raise BadInput(f"{where}: id {name!r}: sample: expected an integer of at least 0, got {sample!r}")
    return name, sample


def _check_reward(at: str, record: Record) -> None:
    reward = record.get("reward")
    if reward is None:
        return
    if isinstance(reward, bool) or not isinstance(reward, (int, float)) or not abs(reward) <= sys.float_info.max:
        raise BadInput(f"{at}: reward: expected a finite number, got {reward!r}")


def _settle(problems: dict[str, _Problem], judged: bool, truncated: int, ungradable: int, failed: int) -> Counts:
    if not problems:
        raise BadInput("input: expected at least one graded sample, got none")
    all_ = list(problems.values())

    def column(values: Iterable[int]) -> Ints:
        return np.fromiter(values, dtype=np.int64, count=len(all_))

    d = {}
    for i, rule in enumerate(RULES if judged else ()):
        low = column(p.right[i] for p in all_)
        d[str(rule)] = (low, low + column(p.unjudged[i] for p in all_))
    answers = [p.answers for p in all_]
    return Counts(
        ids=list(problems),
        n=column(p.n for p in all_),
        c=column(p.c for p in all_),
        d=d,
        answers=answers if any(answers) else None,
        truncated=truncated,
        ungradable=ungradable,
        failed=failed,
        duplicates=sum(p.n - len(np.unique(np.frombuffer(p.texts, dtype=np.int64))) for p in all_ if p.n),
    )


def from_counts(lines: Iterable[str], name: str = "counts.csv") -> Counts:
    """Counts from a CSV table with the header `problem,n,c,d` (any order; `d` may be left out).

    lines: the text lines of the table (an open file); name: what error messages call it. n samples,
    c with a right answer, d of those with right reasoning: 0 ≤ d ≤ c ≤ n, n ≥ 1, problems unique.
    """
    try:
        return _read_counts(csv.reader(lines), name)
    except csv.Error as error:
        raise BadInput(f"{name}: expected a CSV table: {error}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: expected UTF-8: {error.reason} at byte {error.start}") from None


def _read_counts(rows: Any, name: str) -> Counts:
    header = [cell.strip().lstrip("\ufeff").lower() for cell in next(rows, [])]
    if not {"problem", "n", "c"} <= set(header) or len(set(header)) != len(header):
        raise BadInput(f"{name}:1: header: expected problem,n,c,d (d may be left out), got {','.join(header)!r}")
    wanted = [column for column in ("n", "c", "d") if column in header]
    table: dict[str, list[int]] = {}
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        at = f"{name}:{rows.line_num}"
        if len(row) != len(header):
            raise BadInput(f"{at}: expected {len(header)} columns ({','.join(header)}), got {len(row)}")
        cells = dict(zip(header, row, strict=True))
        problem = cells["problem"].strip()
        if problem in table:
            raise BadInput(f"{at}: problem: {problem} appears twice; problems must be unique")
        table[problem] = numbers = [_count(at, column, cells[column]) for column in wanted]
        if numbers != sorted(numbers, reverse=True):
            raise BadInput(f"{at}: {problem!r}: expected {' >= '.join(wanted)}, got {numbers}")
        if not 1 <= numbers[0] <= est.MAX_SAMPLES:
            raise BadInput(f"{at}: n: expected 1 to {est.MAX_SAMPLES} samples, got {numbers[0]}")
    if not table:
        raise BadInput(f"{name}: expected at least one row under the header")
    columns = np.array(list(table.values()), dtype=np.int64).T
    d = {"counts": (columns[2], columns[2])} if "d" in wanted else {}
    return Counts(ids=list(table), n=columns[0], c=columns[1], d=d)


def _count(at: str, column: str, cell: str) -> int:
    text = cell.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadInput(f"{at}: {column}: expected an integer of at least 0, got {cell!r}")
    return int(text)


# ---- report


def report(
    counts: Counts,
    ks: Sequence[int] | None = None,
    *,
    ci: str = "normal",
    max_unjudged: float = MAX_UNJUDGED,
    drop_short: bool = False,
    taus: Sequence[float] = TAUS,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Report:
    """The summary of `cotpass metric --json`.

    ks: default the powers of two up to the smallest n (with drop_short the largest: each K is then
    scored on the problems with n ≥ K only, their number in `problems_at_k`). K > n: BadInput.

    Values are means over problems, each {value, low, high}, the interval after `ci` (intervals.py; seed and
    replicates for those that resample). low and high are null for one problem (but not with ci closed), and
    for `cons` with ci nested, closed and bayes, since it is no function of the counts:
    `pass.<K>`, `cot_pass.<any|majority|all|counts>.<K>`, `g_pass.<tau>.<K>`, `mg_pass.<K>`,
    `pass_hat.<K>`, `cons.<K>` (absent without answers; `stderr` where it was sampled), `p_ca` = C/n,
    `p_cc_given_ca` = D/C over the problems with C > 0 (`excluded_c0` counts the others; D by majority).
    `unjudged`: the share of right answers that majority leaves unjudged, null where nothing was judged.
    `bounds.<rule>.<K>`: CoT-Pass@K with the unjudged counted wrong (low) and right (high). Where the
    unjudged are more than max_unjudged the rule stands in `refused` and its values are null, and so
    is `p_cc_given_ca`; otherwise they count as wrong. `warnings`: lines for people.
    """
    if ci not in INTERVALS:
        raise BadInput(f"ci: expected one of {', '.join(INTERVALS)}, got {ci!r}")
    if not 0 <= max_unjudged <= 1:
        raise BadInput(f"max_unjudged: expected a share in [0, 1], got {max_unjudged}")
    draws = Draws(seed, replicates)

    def interval(statistic: Statistic, n: Ints, count: Ints) -> Interval:
        return intervals.interval(ci, statistic, n, count, draws)

    n, c = counts.n, counts.c
    ladder = _ladder(counts, ks, drop_short)

    def over_k(statistic: Callable[[int], Statistic], count: Ints) -> Report:
        return {str(k): interval(statistic(k), n[n >= k], count[n >= k]) for k in ladder}

    def means(count: Ints) -> list[float]:
        return [float(est.pass_at_k(n[n >= k], count[n >= k], [k]).mean()) for k in ladder]

    shares = {rule: _unjudged(c, low, high) for rule, (low, high) in counts.d.items()}
    refused = [rule for rule, share in shares.items() if share > max_unjudged]
    headline = "majority" if "majority" in counts.d else "counts"
    cot_pass, bounds = {}, {}
    for rule, (low, high) in counts.d.items():
        cot_pass[rule] = _refusal(ladder) if rule in refused else over_k(intervals.pass_statistic, low)
        bounds[rule] = {
            str(k): {"low": least, "high": most} for k, least, most in zip(ladder, means(low), means(high), strict=True)
        }

    present = n > 0
    some = c > 0
    share = intervals.share_statistic()
    p_cc: Interval = {"value": None, "low": None, "high": None}
    if headline in counts.d and headline not in refused:
        p_cc = interval(share, c[some], counts.d[headline][0][some])
    result: Report = {
        "n_problems": len(n),
        "n_samples": int(n.sum()),
        "min_n": int(n.min()),
        "max_n": int(n.max()),
        "k": ladder,
        "ci": ci,
        "pass": over_k(intervals.pass_statistic, c),
        "cot_pass": cot_pass,
        "bounds": bounds,
        "p_ca": interval(share, n[present], c[present]),
        "p_cc_given_ca": p_cc,
        "excluded_c0": int((present & ~some).sum()),
        "unjudged": shares.get(headline),
        "max_unjudged": max_unjudged,
        "refused": refused,
        "g_pass": {f"{tau:g}": over_k(partial(intervals.g_pass_statistic, tau=tau), c) for tau in taus},
        "mg_pass": over_k(intervals.mg_pass_statistic, c),
        "pass_hat": over_k(intervals.pass_hat_statistic, c),
        "truncated": counts.truncated,
        "ungradable": counts.ungradable,
        "failed": counts.failed,
        "duplicates": counts.duplicates,
    }
    if counts.answers is not None:
        result["cons"] = _cons(counts, ladder, interval, seed)
    if drop_short:
        result["problems_at_k"] = {str(k): int((n >= k).sum()) for k in ladder}
    result["warnings"] = _warnings(counts, result)
    return result


def _ladder(counts: Counts, ks: Sequence[int] | None, drop_short: bool) -> list[int]:
    """The K to report, or BadInput naming the problem that is too short for one of them."""
    limit = int(counts.n.max() if drop_short else counts.n.min())
    shortest = counts.ids[int(np.argmin(counts.n))]
    if limit < 1:
        hint = "" if drop_short else "; `--drop-short` leaves such problems out"
        raise BadInput(f"id {shortest!r}: expected at least one sample that did not fail{hint}")
    if ks is None:
        return [1 << i for i in range(limit.bit_length())]
    ladder = sorted({int(k) for k in est.integers(list(ks), "k")})
    if not ladder or ladder[0] < 1:
        raise BadInput(f"k: expected integers of at least 1, got {list(ks)}")
    if ladder[-1] > limit:
        if drop_short:
            raise BadInput(f"k: K = {ladder[-1]} is more than the {limit} samples of the longest problem; lower K")
        raise BadInput(
            f"k: K = {ladder[-1]} is more than the n = {limit} samples of problem {shortest!r}; lower K, or "
            f"`--drop-short` scores each K on the problems that have enough"
        )
    return ladder


def _unjudged(c: Ints, low: Ints, high: Ints) -> float:
    return float((high - low).sum() / c.sum()) if c.sum() else 0.0


def _refusal(ladder: Sequence[int]) -> Report:
    return {str(k): {"value": None, "low": None, "high": None} for k in ladder}


def _cons(
    counts: Counts, ladder: list[int], interval: Callable[[Statistic, Ints, Ints], Interval], seed: int
) -> Report:
    """Cons@K: problem by problem, since each has answers of its own; equal vote patterns share."""
    assert counts.answers is not None
    size = len(counts.n)
    values, errors = np.full((size, len(ladder)), np.nan), np.zeros((size, len(ladder)))
    known: dict[Any, tuple[Floats, Floats]] = {}
    for row, (n, answers) in enumerate(zip(counts.n.tolist(), counts.answers, strict=True)):
        pattern = sorted((samples, right / samples) for samples, right in answers.values())
        ks = [k for k in ladder if k <= n]
        shared = (n, *pattern)
        if shared not in known or n > est.CONS_EXACT_UP_TO:
            # Sampled values must not share draws, or their errors would not average out.
            votes, credit = [p[0] for p in pattern], [p[1] for p in pattern]
            stream = int(np.random.SeedSequence([seed, row]).generate_state(1)[0])
            known[shared] = est.cons_at_k(votes, credit, n, ks, seed=stream)
        values[row, : len(ks)], errors[row, : len(ks)] = known[shared]
    scores: Report = {}
    for at, k in enumerate(ladder):
        rows = counts.n >= k
        scores[str(k)] = interval(_given(values[rows, at]), counts.n[rows], counts.c[rows])
        if errors[rows, at].any():
            scores[str(k)]["stderr"] = float(np.sqrt((errors[rows, at] ** 2).sum()) / rows.sum())
    return scores


def _given(column: Floats) -> Statistic:
    """A statistic whose values are known already, because counts alone do not give them."""
    return Statistic(lambda n, c: column)


def _warnings(counts: Counts, result: Report) -> list[str]:
    total = max(int(counts.n.sum()), 1)
    lines = []
    if result["min_n"] != result["max_n"]:
        lines.append(f"problems have between {result['min_n']} and {result['max_n']} samples")
    if counts.failed:
        lines.append(f"{counts.failed} samples failed while sampling and are left out of n")
    if counts.ungradable:
        lines.append(f"{counts.ungradable} samples ({counts.ungradable / total:.1%}) are ungradable and count as wrong")
    if counts.duplicates:
        lines.append(
            f"{counts.duplicates} samples ({counts.duplicates / total:.1%}) repeat another text of the same problem: "
            f"with greedy decoding or a fixed server seed the samples are not independent"
        )
    if result["refused"]:
        lines.append(
            f"{result['unjudged']:.1%} of the right answers are unjudged (tie, or no valid vote), more than "
            f"{result['max_unjudged']:.1%}: no value for {', '.join(result['refused'])}, see the bounds"
        )
    return lines


# ---- tables for people


def human_table(report: Report) -> Any:
    """The report as a rich table of at most 80 columns: one row a K. CoT-Pass@K is by majority (or from
    counts), with its interval; where that value was refused, its bounds as low – high."""
    from rich.table import Table

    cot, bounds = report["cot_pass"], report["bounds"]
    main = "majority" if "majority" in cot else "counts"
    table = Table(title="Right, and right for the right reason", caption=_caption(report), caption_justify="left")
    table.min_width = 64  # room for the caption
    heads = ["K", "Pass@K"]
    heads += ["CoT-Pass@K", "gap"] if cot else []
    heads += ["all – any"] if main == "majority" and cot else []
    heads += ["maj@K"] if "cons" in report else []
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for k in map(str, report["k"]):
        passed = report["pass"][k]
        cells = {"K": k, "Pass@K": _shown(passed)}
        if cot and main in report["refused"]:
            low, high = bounds[main][k]["low"], bounds[main][k]["high"]
            cells["CoT-Pass@K"] = f"{low:.3f} – {high:.3f}"
            cells["gap"] = "?"
        elif cot:
            cells["CoT-Pass@K"] = _shown(cot[main][k])
            cells["gap"] = f"{passed['value'] - cot[main][k]['value']:.3f}"
        if "all – any" in heads:
            cells["all – any"] = f"{bounds['all'][k]['low']:.3f} – {bounds['any'][k]['high']:.3f}"
        if "cons" in report:
            cells["maj@K"] = f"{report['cons'][k]['value']:.3f}"
        table.add_row(*(cells[head] for head in heads))
    return table


def _shown(score: Mapping[str, float | None]) -> str:
    if score["low"] is None:
        return "–" if score["value"] is None else f"{score['value']:.3f}"
    # A backslash keeps rich from reading the bracket as markup.
    return f"{score['value']:.3f} \\[{score['low']:.2f}, {score['high']:.2f}]"


def _caption(report: Report) -> str:
    lines = [f"{report['n_problems']} problems, {report['n_samples']} samples, {report['truncated']} truncated"]
    lines.append(f"P(answer right) {_shown(report['p_ca'])}")
    if report["p_cc_given_ca"]["value"] is not None:
        lines.append(f"P(reasoning right | answer right) {_shown(report['p_cc_given_ca'])}")
        if report["excluded_c0"]:
            lines.append(f"  without problems that have no right answer: {report['excluded_c0']}")
    if report["unjudged"] is not None:
        lines.append(f"unjudged {report['unjudged']:.1%} of the right answers")
    return "\n".join(lines)


# ---- the verb


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    ks: Sequence[int] | None,
    from_counts: str | None,
    ci: str,
    max_unjudged: float,
    drop_short: bool,
    seed: int,
    replicates: int,
    correct: str | None,
    rates: str | None,
    fpr: float | None,
    fnr: float | None,
    as_json: bool,
    plot: str | None,
    quiet: bool,
) -> int:
    """The verb; returns the exit code: 1 where too many right answers are unjudged, or --correct is refused."""
    wanted = correction.settings(correct, rates, fpr, fnr, seed, from_counts is not None)
    votes = correction.Votes()
    if plot:
        from cotpass.plot import check_target, plot_report

        check_target(plot)  # before the long read, not after it
    if from_counts:
        counts = counts_of(from_counts)
    else:
        with Progress("metric", None, "samples", quiet) as progress:
            records = progress.over(selection.source(files, "verdict"))
            counts = accumulate(votes.watch(records) if wanted else records)
    result = report(
        counts, ks, ci=ci, max_unjudged=max_unjudged, drop_short=drop_short, seed=seed, replicates=replicates
    )
    if wanted:
        votes = correction.Votes.of_counts(counts) if from_counts else votes
        result["corrected"] = correction.corrected(counts, votes, result["k"], wanted)
    if plot:
        plot_report(result, plot)
    for line in result["warnings"]:
        print(f"cotpass: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_table(human_table(result))
        if wanted and result["corrected"]["identifiable"]:
            print("\n".join(correction.lines(result["corrected"], result)))
    if wanted and not result["corrected"]["identifiable"]:
        print(f"cotpass: --correct {correct}: not identifiable: {result['corrected']['reason']}", file=sys.stderr)
        return 1
    return 1 if result["refused"] else 0


def counts_of(path: str) -> Counts:
    """`from_counts` of a file by name; `-` is stdin."""
    with io.TextIOWrapper(open_read(path), encoding="utf-8", newline="") as lines:
        return from_counts(lines, "<stdin>" if path == "-" else path)
