"""`grpo-roc verify`: is the last box of the answer block the gold answer? (arXiv 2508.20722, section 2.2.1, equation 3)

A reward is 1 or 0 and rests on nothing else: no bonus for tools, format or length. The answer is the content of the last `\\boxed{}` within the last answer block, so that a number
in the prose, or two candidates, count for nothing; `--grader-scope response` takes the last box of the whole response, as the released code does. Numbers are compared exactly,
before anything symbolic is asked; what is symbolic goes to killable processes with a deadline, never to a signal of this one, so that a tower of powers costs its deadline and a caller
may be any thread (tenfold_shared.answers). A comparison that met the deadline is `ungradable`: counted apart, and rewarded with 0.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec

import grpo_roc
from grpo_roc.readers import turns_of_chat, turns_of_text
from grpo_roc.transcript import spoken
from tenfold_shared import answers
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import Located, Output, flow
from tenfold_shared.progress import Progress
from tenfold_shared.records import RecordProblem

Record = dict[str, Any]
Scope = Literal["answer", "response"]
Form = Literal["any", "number"]
_NUMBER = re.compile(r"-?[0-9]+(?:/[0-9]+)?")
_WORK = re.compile(r"[-+*/^×·÷!]|\\(?:times|cdot|div|frac|sqrt|sum|prod|binom|[bp]?mod)\b|\bmod\b")
KEY = " place"  # a field of ours while a record is under way
OPEN, CLOSE = "<answer>", "</answer>"
QUOTES = (("``", "''"), ('"', '"'), ("'", "'"), ("`", "`"), ("`", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"))
_LETTERS = re.compile(r"\\(?:text|texttt|textbf|textit|textrm|textsf|mathrm|mathbf|mathtt|mathsf|mbox)\s*\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([ _%&#$,;])")


class Settings(msgspec.Struct, frozen=True):
    """scope: where the box is looked for. form: whether an expression may stand for a number. deadline: seconds that a symbolic comparison may take."""

    scope: Scope = "answer"
    form: Form = "any"
    deadline: float = 2.0
    workers: int = 2


def gold_of(record: Record) -> Any:
    """The gold answer, under the names that datasets have for it; None without one. Raises RecordProblem."""
    model = record.get("reward_model")
    for value in (
        record.get("answer"),
        model.get("ground_truth") if isinstance(model, dict) else None,
        record.get("gts"),
        record.get("solution"),
    ):
        if value in (None, "", []):
            continue
        if isinstance(value, dict):
            raise RecordProblem("gold answer: expected text, a number, or a list of them")
        return plain(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    return None


def plain(value: float) -> str:
    """A number in digits: 1e20 and 1e-7 have no `e`, which in an answer is a letter."""
    return f"{Decimal(str(value)):f}"


def said_by(record: Record) -> list[str] | None:
    """The assistant's own words, turn by turn: of the turns, of `response`, of verl's `output`, of a chat; None without any. Raises RecordProblem."""
    turns = record.get("turns")
    if turns:
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise RecordProblem("turns: expected a list of {text, calls}")
        texts = [turn.get("text") or "" for turn in turns]
        if not all(isinstance(text, str) for text in texts):
            raise RecordProblem("turns: expected strings in `text`")
        return [spoken(text) for text in texts]
    for name in ("response", "output"):
        if isinstance(record.get(name), str):
            return [spoken(turn["text"]) for turn in turns_of_text(record[name])]
    if record.get("completion") is None and not record.get("messages"):
        return None
    return [spoken(turn["text"]) for turn in turns_of_chat(record)[1]]


def last_block(texts: Sequence[str]) -> str | None:
    """What stands in the last answer block, which begins and ends in one turn and holds no other; None without one."""
    for text in reversed(texts):
        end = text.rfind(CLOSE)
        start = text.rfind(OPEN, 0, max(end, 0))
        if start >= 0:
            return text[start + len(OPEN) : text.find(CLOSE, start)]
    return None


def unworked(gold: Any, text: str) -> bool:
    """Whether the gold answer is a whole number, and the box holds what would still have to be worked out (59 * 73 for 4307): equal, and earned by copying the problem."""
    if not isinstance(gold, str) or not re.fullmatch("-?[0-9]+", answers.key(gold)):
        return False
    found = answers.extract(text) or ""
    return not _NUMBER.fullmatch(answers.key(found)) and _WORK.search(found.strip(" $-+")) is not None


def settled(record: Record, scope: Scope, form: Form = "any") -> Record | answers.Comparison:
    """A grade that needs no comparison, or the comparison. form: `number` for the rule of `unworked`."""
    if record.get("error") or record.get("finish_reason") == "error":
        return grade("ungradable", f"the sample failed: {record.get('error') or 'no completion'}")
    try:
        gold = gold_of(record)
        if gold is None:
            return {**grade("ungradable", "no gold answer"), "error": "no gold answer"}
        if record.get("finish_reason") == "length":
            return grade("wrong", "truncated at the token limit")
        texts = said_by(record)
        meta = record.get("meta")
        match, compare = (meta.get("match", "any"), meta.get("compare")) if isinstance(meta, dict) else ("any", None)
        if match not in ("any", "all"):
            raise RecordProblem(f'meta.match: expected "any" or "all", got {match!r}')
        if compare not in (None, "text") or (compare and match == "all"):
            raise RecordProblem(f'meta.compare: expected "text", with any gold answer enough, got {compare!r}')
    except RecordProblem as problem:
        return {**grade("ungradable", str(problem)), "error": str(problem)}
    if texts is None:
        return {**grade("ungradable", "no response"), "error": "no turns, response, output or chat"}
    text = "\n".join(texts) if scope == "response" else last_block(texts)
    if text is None:
        return grade("wrong", "no answer block")
    if compare:
        return as_text(gold, text)
    if form == "number" and unworked(gold, text):
        return grade("wrong", "an expression that is not worked out, where the answer is a number")
    return answers.Comparison(gold, text, match)


def as_text(gold: Any, text: str) -> Record:
    """The grade of an answer that is a text and no mathematics, to which "cat" would be "act" and 2024-03-15 the number 2006: equal but for case, spaces, quotes around it and LaTeX's letters."""
    found = answers.extract(text)
    if found is None:
        return grade("wrong", "no final answer in a box")
    golds = {plain_text(str(one)) for one in (gold if isinstance(gold, list) else [gold])}
    return grade("correct", "equal text") if plain_text(found) in golds else grade("wrong", "different text")


def plain_text(answer: str) -> str:
    """Case-folded, in one line, without a full stop at its end, a space after each comma. Commands that only set letters, escapes, dollars and quotes around all of it go."""
    if len(answer) > answers.MAX_ANSWER:
        return answer  # no answer of a problem is, and what is nested in it would take long
    text = _ESCAPED.sub(r"\1", answer)
    while (inner := _LETTERS.sub(r"\1", text)) != text:
        text = inner
    text = re.sub(r" ?, ?", ", ", " ".join(text.split()))
    while True:
        before = text
        text = text.strip(" $").removesuffix(".").strip()
        for left, right in QUOTES:
            if len(text) > 1 and text.startswith(left) and text.endswith(right):
                text = text.removeprefix(left).removesuffix(right).strip()
        if text == before:
            return text.casefold()


def grade(grade: str, reason: str) -> Record:
    return {"correct": grade == "correct", "grade": grade, "grade_reason": reason}


def execute(settings: Settings, records: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
    """(key, record) -> (key, grade), in input order."""
    items = ((key, settled(record, settings.scope, settings.form)) for key, record in records)
    for key, found in answers.grade_in_turn(items, settings.workers, settings.deadline):
        yield key, grade(found.grade, found.reason) if isinstance(found, answers.Grade) else found


def assemble(record: Record, results: list[Record]) -> list[Record]:
    """The record with its grade; `reward` where it has none yet, so that it can be resampled."""
    found = {name: results[0][name] for name in ("correct", "grade", "grade_reason")}
    reward = {"reward": float(found["correct"])} if record.get("reward") is None else {}
    kept = {name: value for name, value in record.items() if name != KEY}
    return [{**kept, **found, **reward}]


def numbered(located: Iterable[Located]) -> Iterator[Located]:
    """Records named by their place: dumps have no ids, and trajectories of one task share theirs."""
    for number, (where, record) in enumerate(located):
        yield where, {**record, KEY: str(number)}


def run(
    files: Sequence[str], selection: Selection, *, grader_scope: Scope, answer_form: Form, grade_timeout: float, workers: int, output: str | None, overwrite: bool, max_time: float | None, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code. Raises BadInput."""
    settings = Settings(grader_scope, answer_form, grade_timeout, workers)
    source = selection.source(files, None, expand=numbered, keep=output is not None)
    decides = {"scope": grader_scope, "form": answer_form, "deadline": grade_timeout, **selection.identity()}
    grades: Counter[str] = Counter()

    def counted(record: Record, results: list[Record]) -> list[Record]:
        grades[results[0]["grade"]] += 1
        return assemble(record, results)

    with (
        Output(
            output,
            tool="grpo-roc",
            version=grpo_roc.__version__,
            verb="verify",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("verify", None, "samples", quiet) as progress,
    ):
        if out.finished:
            print(f"grpo-roc: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        done = flow(
            source, identify=lambda record: record[KEY], plan=lambda where, record: [("", record)], execute=lambda records: execute(settings, records), assemble=counted, out=out, max_time=max_time,
            progress=progress,
        )  # fmt: skip
        code = out.complete(done, source, **grades)
    if not quiet:
        told = ", ".join(f"{grades[name]} {name}" for name in ("correct", "wrong", "ungradable"))
        print(f"grpo-roc: {done.read} samples: {told}", file=sys.stderr)
    if done.failed:
        print(
            f"grpo-roc: {done.failed} samples cannot be graded: no gold answer, nothing that was said, or not of a known shape; `grade_reason` says which",
            file=sys.stderr,
        )
    return code
