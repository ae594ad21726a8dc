"""`cotpass grade`: is each response's final answer the gold answer? (README, "Grading")

The comparison itself is `tenfold_shared.answers`; here are the rules around it: what a truncated or
failed response counts as, what to do without a gold answer, and the harnesses' own verdicts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

import cotpass
from cotpass.readers import Reader, read_gold
from tenfold_shared import answers
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection, sha256_of
from tenfold_shared.jsonl import Output, flow
from tenfold_shared.progress import Progress

Record = dict[str, Any]


class Settings(msgspec.Struct, frozen=True):
    """deadline: seconds a symbolic comparison may take. truncated: `wrong` grades responses cut at
    the token limit as wrong (the default), `grade` grades what is there. trust_grades: keep a
    harness's own verdict where the file has one."""

    box: str = "last"
    require_box: bool = True
    deadline: float = 2.0
    truncated: str = "wrong"
    trust_grades: bool = False
    workers: int = 2


def identify(record: Record) -> str:
    return f"{record['id']}#{record['sample']}"


def settled(record: Record, settings: Settings) -> Record | None:
    """The grade of a record that needs no comparison, or None."""
    if record.get("error") or record.get("finish_reason") == "error":
        return _grade("ungradable", f"the sample failed: {record.get('error') or 'no completion'}")
    harness = (record.get("meta") or {}).get("harness_correct")
    if harness is not None and (settings.trust_grades or record.get("answer") is None):
        return _grade(
            "correct" if harness else "wrong", f"as recorded by {record['meta'].get('source', 'the harness')}"
        )
    if record.get("answer") in (None, "", []):
        return {**_grade("ungradable", "no gold answer"), "error": "no gold answer"}
    if record.get("finish_reason") == "length" and settings.truncated == "wrong":
        return _grade("wrong", "truncated at the token limit")
    if not record["response"].strip():
        return _grade("wrong", "empty response")
    return None


def _grade(grade: str, reason: str) -> Record:
    return {"correct": grade == "correct", "grade": grade, "grade_reason": reason}


def execute(settings: Settings, records: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
    """(key, record) -> (key, `{correct, grade, grade_reason}`), in input order."""
    items = ((key, settled(record, settings) or _comparison(record)) for key, record in records)
    for key, found in answers.grade_in_turn(
        items, settings.workers, settings.deadline, box=settings.box, require_box=settings.require_box
    ):
        yield key, _grade(found.grade, found.reason) if isinstance(found, answers.Grade) else found


def _comparison(record: Record) -> answers.Comparison:
    return answers.Comparison(record["answer"], record["response"], (record.get("meta") or {}).get("match", "any"))


def assemble(record: Record, results: list[Record]) -> list[Record]:
    """The record with its grade. A missing gold answer is no failure of the sample: it is told in
    `grade_reason`, and `error` stays what the sampler wrote."""
    graded = {name: results[0][name] for name in ("correct", "grade", "grade_reason")}
    return [{**record, "schema": shapes.schema("verdict"), **graded}]


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    gold: str | None,
    box: str,
    require_box: bool,
    grade_timeout: float,
    truncated: str,
    trust_grades: bool,
    workers: int,
    output: str | None,
    overwrite: bool,
    max_time: float | None,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    settings = Settings(box, require_box, grade_timeout, truncated, trust_grades, workers)
    golds = read_gold(gold) if gold else None
    source = selection.source(
        files, "sample", expand=lambda located: Reader(golds).samples(located), keep=output is not None
    )
    decides = {**msgspec.to_builtins(settings), **selection.identity(), "gold": sha256_of(gold) if gold else None}
    del decides["workers"]
    grades: Counter[str] = Counter()

    def counted(record: Record, results: list[Record]) -> list[Record]:
        grades[results[0]["grade"]] += 1
        return assemble(record, results)

    with (
        Output(
            output,
            tool="cotpass",
            version=cotpass.__version__,
            verb="grade",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("grade", None, "samples", quiet) as progress,
    ):
        if out.finished:
            print(f"cotpass: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        done = flow(
            source,
            identify=identify,
            plan=lambda where, record: [("", record)],
            execute=lambda records: execute(settings, records),
            assemble=counted,
            out=out,
            max_time=max_time,
            progress=progress,
        )
        code = out.complete(done, source, **grades)
    if not quiet:
        told = ", ".join(f"{grades[name]} {name}" for name in ("correct", "wrong", "ungradable"))
        print(f"cotpass: {done.read} samples: {told}", file=sys.stderr)
    if done.failed:
        print(f"cotpass: {done.failed} samples have no gold answer to be graded against", file=sys.stderr)
    return code
