"""`cotpass calibrate report`: how a judge did on the labelled records of `inject.py`.

Sensitivity is the share of records with an injected error on which the judge's majority says no; specificity
that of clean ones on which it says yes. A record on which the majority says nothing (a tie, or no valid vote)
counts in neither share's numerator and is told as `unjudged`. `fpr` is the share of injected records with a
majority yes, `fnr` that of clean ones without: the rates of the verdict as `metric` counts it, where the unjudged
are no yes, so that `metric --correct rogan-gladen --rates` may use them. `fpr` is over all types together, in
the mixture that the file has: it is this judge's rate on these errors, not on the ones a model makes by itself.

Intervals are Wilson's, 95 %, and take records as independent, though several come from one sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from cotpass.readers import once
from cotpass.votes import VOTES, OneJudge, aggregate, tally
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.progress import Progress

Record = dict[str, Any]

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Trial:
    """One test record, judged. votes: (yes, no, abstain); verdict of the majority, None where unjudged; place:
    position of the error in the text, 0 to 1 (None: clean and splice); length: of the text, in characters; ends:
    finish reasons of the votes that have one."""

    type: str
    right: bool
    votes: tuple[int, int, int]
    verdict: bool | None
    place: float | None
    length: int
    ends: tuple[str, ...]


def wilson(count: int, n: int) -> Record:
    """{value, low, high, n} of a share, Wilson's 95 % interval; nulls for n = 0."""
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    share, z2 = count / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return {
        "value": share,
        "low": max(0.0, min(middle - half, share)),
        "high": min(1.0, max(middle + half, share)),
        "n": n,
    }


def fleiss_kappa(table: Sequence[Sequence[int]]) -> float | None:
    """Agreement of V votes a record beyond chance (Fleiss 1971): table, records by categories, each row's sum V.

    (P − P_e)/(1 − P_e): P the share of agreeing pairs of votes on a record, P_e = Σ_j (share of category j)². None
    for V < 2, and where all votes of all records are one category. Raises BadInput for unequal sums.
    """
    sums = {sum(row) for row in table}
    if len(sums) > 1:
        raise BadInput(f"votes: expected as many on every record, got {min(sums)} to {max(sums)}")
    votes = sums.pop() if sums else 0
    if votes < 2:
        return None
    agreeing = sum(sum(count * (count - 1) for count in row) for row in table) / (len(table) * votes * (votes - 1))
    shares = [sum(column) / (len(table) * votes) for column in zip(*table, strict=True)]
    chance = sum(share**2 for share in shares)
    return (agreeing - chance) / (1 - chance) if max(shares) < 1 else None


def collect(located: Iterable[tuple[str, Record]]) -> list[Trial]:
    """Judged test records as trials. Raises BadInput on records that `inject` did not make or nobody judged."""
    judge = OneJudge()
    found = []
    for at, record in once(located):
        injection = _injection(at, record)
        if not record.get("votes"):
            raise BadInput(f"{at}: votes: this test record is not judged; run `cotpass judge --scope all`")
        judge.check(at, record)
        votes = tally(record["votes"])
        position = injection["position"]
        entries = record.get("judge") or []
        found.append(
            Trial(
                injection["type"],
                injection["right"],
                votes,
                aggregate(*votes, "majority"),
                None if position is None else (position + 0.5) / max(injection["of"], position + 1),
                len(record["response"]) + len(record.get("reasoning") or ""),
                tuple(entry["finish_reason"] for entry in entries if entry.get("finish_reason")),
            )
        )
    if not found:
        raise BadInput("input: expected at least one judged test record, got none")
    return found


def _injection(at: str, record: Record) -> Record:
    found = (record.get("meta") or {}).get("injection")
    if not isinstance(found, dict):
        raise BadInput(f"{at}: meta.injection: expected a record made by `cotpass calibrate inject`")
    for name, wanted, told in (
        ("type", (str,), "a string"),
        ("right", (bool,), "true or false"),
        ("position", (int, type(None)), "a number or null"),
        ("of", (int,), "a number"),
    ):
        value = found.get(name)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise BadInput(f"{at}: meta.injection.{name}: expected {told}, got {value!r}")
    return found


def summary(trials: Sequence[Trial]) -> Record:
    """The object of `cotpass calibrate report --json`.

    `n`, `injected`, `clean`: records; `votes` a record. `fpr`, `fnr`, `specificity`, and `sensitivity` with `overall`
    and each type: {value, low, high, n}, the last two also `unjudged`. `abstention`: share of votes that abstain;
    `cap_rate`: share of votes cut at the token limit (n = 0 where no vote says how it ended). `kappa`: Fleiss' κ
    over all votes, an abstention being a category of its own; null for one vote. `by_position`: sensitivity by
    the third of the text the error is in; `by_length`: sensitivity and specificity by tercile of the
    text's length, `up_to` in characters.
    """
    injected, clean = [t for t in trials if not t.right], [t for t in trials if t.right]
    types = sorted({t.type for t in injected})
    cast = [sum(t.votes[i] for t in trials) for i in range(len(VOTES))]
    ends = [end for t in trials for end in t.ends]
    thirds = {
        name: [t for t in injected if t.place is not None and int(3 * t.place) == i]
        for i, name in enumerate(("first", "middle", "last"))
    }
    return {
        "n": len(trials),
        "injected": len(injected),
        "clean": len(clean),
        "votes": sum(trials[0].votes),
        "fpr": wilson(sum(t.verdict is True for t in injected), len(injected)),
        "fnr": wilson(sum(t.verdict is not True for t in clean), len(clean)),
        "sensitivity": {
            "overall": _share(injected, False),
            **{name: _share([t for t in injected if t.type == name], False) for name in types},
        },
        "specificity": _share(clean, True),
        "abstention": wilson(cast[VOTES.index("abstain")], sum(cast)),
        "cap_rate": wilson(ends.count("length"), len(ends)),
        "kappa": fleiss_kappa([t.votes for t in trials]),
        "by_position": {name: _share(part, False) for name, part in thirds.items()},
        "by_length": _by_length(trials),
    }


def _share(trials: Sequence[Trial], verdict: bool) -> Record:
    score = wilson(sum(t.verdict is verdict for t in trials), len(trials))
    return {**score, "unjudged": sum(t.verdict is None for t in trials)}


def _by_length(trials: Sequence[Trial]) -> Record:
    """Terciles of the lengths; equal lengths stay together, so that a tercile may be empty."""
    lengths = sorted(t.length for t in trials)
    edges = [lengths[max(0, -(-len(lengths) * i // 3) - 1)] for i in (1, 2, 3)]
    found, below = {}, -1
    for name, edge in zip(("short", "medium", "long"), edges, strict=True):
        part = [t for t in trials if below < t.length <= edge]
        found[name] = {
            "up_to": edge,
            "sensitivity": _share([t for t in part if not t.right], False),
            "specificity": _share([t for t in part if t.right], True),
        }
        below = edge
    return found


# ---------------------------------------------------------------- the verb


def run(files: Sequence[str], selection: Selection, *, as_json: bool, quiet: bool) -> int:
    """The verb; returns the exit code."""
    with Progress("calibrate report", None, "records", quiet) as progress:
        trials = collect(progress.over(selection.source(files, "verdict")))
    result = summary(trials)
    if as_json:
        print(json.dumps(result))
    else:
        print_table(human_table(result))
    return 0


def human_table(result: Record) -> Any:
    from rich.table import Table

    def shown(score: Record, style: Callable[[float], str] = "{:.1%}".format) -> str:
        return "–" if score["value"] is None else style(score["value"])

    kappa = "–" if result["kappa"] is None else f"{result['kappa']:.3f}"
    caption = [
        f"votes a record {result['votes']}, Fleiss' kappa {kappa}",
        f"votes that abstain {shown(result['abstention'])}, cut at the token limit {shown(result['cap_rate'])}",
        f"false positive rate {shown(result['fpr'])}, false negative rate {shown(result['fnr'])}",
    ]
    table = Table(title="The judge on labelled records", caption="\n".join(caption), caption_justify="left")
    for head in ("error", "n", "seen", "95 % interval", "unjudged"):
        table.add_column(head, justify="left" if head == "error" else "right")
    rows = {name: score for name, score in result["sensitivity"].items() if name != "overall"}
    rows["all errors"] = result["sensitivity"]["overall"]
    rows |= {f"in the {name} third": score for name, score in result["by_position"].items()}
    rows["clean, accepted"] = result["specificity"]
    for name, score in rows.items():
        interval = "–" if score["low"] is None else f"{score['low']:.1%} to {score['high']:.1%}"
        table.add_row(name, str(score["n"]), shown(score), interval, str(score["unjudged"]))
    return table
