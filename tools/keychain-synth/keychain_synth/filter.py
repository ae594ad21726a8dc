"""`keychain-synth filter` and `mine`: questions, and rows, that a model answers rightly sometimes.

filter: seed curation (LoongRL, arXiv 2510.19363 §3.1): ask each question over its own short text n = 8 times and
keep what is right at least once and not always. mine: stage II (§3.2.2): of 8 rollouts a row from the best checkpoint
of stage I, drop the rows that are right every time; 30 to 40 % remained in the paper.

The answers come from a file or, in `filter`, from a model. An answer counts as the reward says (reward.py): the last
box behind the thinking, compared both ways, where KeyChain's filter_question took all behind the *first* answer
phrase and asked only whether the prediction is inside the gold.

Sample files: our records (id, sample, and reward, correct or response with answer), or KeyChain's (input or id, and
trajectories [{text, is_correct}], or pass_rate alone). A reward of 1 is right.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from string import Template
from typing import Any

import msgspec

import keychain_synth
from keychain_synth import evaluate, reward
from keychain_synth.convert import Records
from keychain_synth.fields import checked
from keychain_synth.items import Dropped, Item, read_items
from keychain_synth.row import PLAIN, SYSTEM
from keychain_synth.score import Settings as Scoring
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Backend, Selection, read_template, sha256_of
from tenfold_shared.generate import Sampling
from tenfold_shared.jsonl import Located, Output, Source, flow, is_pipe
from tenfold_shared.progress import Progress

Record = dict[str, Any]

SAMPLES = 8
_NAMED = 3  # ids in a message


# ---------------------------------------------------------------- what is filtered


class Questions(Records):
    """Question files in the neutral form, and files of task records as they are; dropped: questions left out."""

    def __init__(self, paths: Sequence[str], form: str, quiet: bool, **more: Any) -> None:
        super().__init__(paths, None, keep=True, **more)
        self.form, self.quiet = form, quiet
        self.dropped: dict[str, str] = {}  # place -> reason; files may be read twice

    def _file(self, path: str) -> Iterator[Located]:
        real = self._spools[path].name if path in self._spools else path
        first = next(iter(self._raw(real, path)), ("", None))[1]
        if self.form == "auto" and isinstance(first, dict) and ("messages" in first or "prompt" in first):
            for where, record in super()._file(path):
                try:
                    shapes.validate(record, "task")
                except shapes.RecordProblem as problem:
                    self._tolerate(BadInput(f"{where}: {problem}"))
                    continue
                yield where, record
            return
        for found in read_items(real, self.form):
            if isinstance(found, Item):
                yield f"{path}: id {found.id!r}", neutral(found)
            else:
                self._drop(found.where.replace(real, "<stdin>" if path == "-" else path), found)

    def _drop(self, where: str, found: Dropped) -> None:
        if where not in self.dropped and not self.quiet:
            print(f"keychain-synth: {where}: left out: {found.detail}", file=sys.stderr)
        self.dropped[where] = found.reason


def neutral(item: Item) -> Record:
    """An Item as the generic form that `items.read_items` reads."""
    known = {"hops": item.hops, "type": item.type, "source": None if item.source == "generic" else item.source}
    return {
        "id": item.id,
        "question": item.question,
        "answers": list(item.answers),
        "paragraphs": [
            {"title": each.title, "text": each.text, "is_supporting": each.supporting} for each in item.paragraphs
        ],
        **{name: value for name, value in known.items() if value is not None},
    }


def asked(record: Record) -> str:
    """The short question of a neutral record or a row."""
    return record["question"] if "paragraphs" in record else str((record.get("meta") or {}).get("question") or "")


# ---------------------------------------------------------------- how often an answer was right


def is_right(sample: Record, rule: str | None) -> bool:
    """By the rule; without one by what LoongRL gives rows of `meta.data_source`, two-way where there is none."""
    meta = sample.get("meta") or {}
    text = reward.with_reasoning(sample["response"], sample.get("reasoning"))
    rule = reward.rule_for(meta, rule)
    golds = reward.as_golds(sample.get("answer"))
    value = reward.reward_for(text, golds, rule, match=meta.get("match") or "any", require_think=None)
    return Scoring().right(rule, value)


class Tally(msgspec.Struct):
    """right of drawn answers; failed ones are no draws."""

    right: int = 0
    drawn: int = 0
    failed: int = 0


class _Trajectory(msgspec.Struct):
    text: str | None = None
    is_correct: float | bool | None = None


class _Trajectories(msgspec.Struct):
    trajectories: list[_Trajectory] | None = None
    pass_rate: float | None = None


class Tallies:
    """How often each question of a samples file was answered rightly; found by id or by the question's text.

    rule: score the responses by it; None takes the file's own reward or correct where there is one.
    Raises BadInput for a line that tells neither, a sample that comes twice, and an n that differs.
    """

    def __init__(self, path: str, rule: str | None, n: int | None) -> None:
        self.path, self.rule = path, rule
        self.by_id: dict[str, Tally] = {}
        self.by_text: dict[str, Tally] = {}
        self._used: dict[str, str] = {}
        self._seen: set[tuple[str, int]] = set()
        for where, record in Source([path], None):
            if "trajectories" in record or "pass_rate" in record:
                self._trajectories(where, record, n or SAMPLES)
            elif "id" in record and "sample" in record:
                self._sample(where, record)
            else:
                raise BadInput(
                    f"{where}: expected samples (id, sample, and reward, correct or response) or KeyChain's "
                    f"trajectories (input, trajectories or pass_rate); found {', '.join(sorted(record)[:8]) or 'none'}"
                )
        self._seen.clear()
        self.n = self._common(n)

    def _sample(self, where: str, record: Record) -> None:
        try:
            shapes.validate(record, "verdict")
        except shapes.RecordProblem as problem:
            raise BadInput(f"{where}: {problem}") from None
        key = record["id"], record["sample"]
        if key in self._seen:
            raise BadInput(
                f"{where}: id: {key[0]}#{key[1]} appears twice; ids (and samples within an id) must be unique"
            )
        self._seen.add(key)
        tally = self.by_id.setdefault(record["id"], Tally())
        if record.get("error") or record.get("finish_reason") == "error":
            tally.failed += 1
            return
        tally.drawn += 1
        tally.right += self._verdict(where, record)

    def _verdict(self, where: str, record: Record) -> bool:
        if self.rule is None and record.get("correct") is not None:
            return record["correct"]
        if self.rule is None and record.get("reward") is not None:
            return record["reward"] >= 1
        try:
            golds = reward.as_golds(record.get("answer"))
        except TypeError as why:
            raise BadInput(f"{where}: {why}") from None
        if not golds:
            raise BadInput(
                f"{where}: id {record['id']!r}: answer: needed to score the response; `score` it first, or give it"
            )
        return is_right(record, self.rule)

    def _trajectories(self, where: str, record: Record, n: int) -> None:
        name, question = record.get("id", record.get("source_id")), record.get("input")
        if name is None and not isinstance(question, str):
            raise BadInput(f"{where}: expected id or input, to know which question this is")
        try:
            told = checked(record, _Trajectories)
        except ValueError as why:
            raise BadInput(f"{where}: {why}") from None
        tally = Tally()
        if told.trajectories is not None:
            for each in told.trajectories:
                if each.text is None and each.is_correct is None:
                    raise BadInput(f"{where}: trajectories: expected objects with text and is_correct")
                sample = {"id": name or question, "response": each.text or "", "answer": record.get("answers")}
                known = {} if each.is_correct is None else {"reward": float(each.is_correct)}
                tally.right += self._verdict(where, sample | known)
                tally.drawn += 1
        else:
            rate = told.pass_rate if told.pass_rate is not None else -1.0
            right = rate * n
            if not 0 <= rate <= 1:
                raise BadInput(f"{where}: pass_rate: expected a share from 0 to 1, got {told.pass_rate}")
            if abs(right - round(right)) > 5e-5 * n + 1e-6:  # rates come rounded to four places
                raise BadInput(f"{where}: pass_rate: {rate} is no number of {n} answers; give their number, -n")
            tally = Tally(round(right), n)
        table, key = (self.by_id, str(name)) if name is not None else (self.by_text, _key(str(question)))
        if key in table:
            raise BadInput(
                f"{where}: {'id' if name is not None else 'input'}: {key} appears twice; was a file given twice?"
            )
        table[key] = tally

    def _common(self, n: int | None) -> int:
        drawn = Counter(tally.drawn for table in (self.by_id, self.by_text) for tally in table.values())
        if not drawn:
            raise BadInput(f"{self.path}: expected at least one sample, got none")
        wanted = n or drawn.most_common(1)[0][0]
        for table in (self.by_id, self.by_text):
            for name, tally in table.items():
                if tally.drawn < wanted and tally.failed:
                    continue  # its other answers failed: nobody knows how often it is right
                if tally.drawn != wanted:
                    raise BadInput(
                        f"{self.path}: {name!r} has {tally.drawn} answers, "
                        f"{'-n says' if n else 'most have'} {wanted}; expected as many for every question (failed ones "
                        "are not counted)"
                    )
        return wanted

    def of(self, where: str, record: Record) -> Tally | None:
        found = self.by_id.get(record["id"])
        if found is not None or not self.by_text:
            return self._take(f"id {record['id']!r}", record["id"], where, found)
        key = _key(asked(record))
        return self._take(f"question {key!r}", record["id"], where, self.by_text.get(key))

    def _take(self, key: str, name: str, where: str, found: Tally | None) -> Tally | None:
        if found is not None and self._used.setdefault(key, name) != name:
            raise BadInput(
                f"{where}: asks the same as {self._used[key]!r}, and the samples name questions by their text; "
                "put `id` into them"
            )
        return found

    def unused(self) -> list[str]:
        """Names that no question took."""
        taken = self._used.keys()
        return [name for name in self.by_id if f"id {name!r}" not in taken] + [
            text for text in self.by_text if f"question {text!r}" not in taken
        ]


def _key(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------- asking a model


def as_task(record: Record, template: str) -> Record:
    """A question over its own paragraphs, to be thought about and answered in a box; task records as they are."""
    if "paragraphs" not in record:
        return record
    context = "\n\n".join(
        f"Passage {number}:\n{each['title']}\n{each['text']}" for number, each in enumerate(record["paragraphs"], 1)
    )
    text = Template(template).substitute(context=context, question=record["question"])
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return {"id": record["id"], "messages": turns, "answer": record["answers"]}


# ---------------------------------------------------------------- what comes of it


class Report:
    """Counts by source; `take` decides. low, high: right answers a record may have."""

    def __init__(self, n: int, low: int, high: int) -> None:
        self.n, self.low, self.high = n, low, high
        self.right: dict[str, list[int]] = {}
        self.missing: list[str] = []

    def take(self, record: Record, right: int) -> list[Record]:
        about = record if "paragraphs" in record else record.get("meta") or {}
        source = str(about.get("part") or about.get("source") or "other")
        self.right.setdefault(source, [0] * (self.n + 1))[right] += 1
        return [record] if self.low <= right <= self.high else []

    def summary(self) -> Record:
        def counts(right: Sequence[int]) -> Record:
            kept, total = sum(right[self.low : self.high + 1]), sum(right)
            return {"read": total, "kept": kept, "kept_share": kept / total if total else None, "right": list(right)}

        whole = [sum(column) for column in zip(*self.right.values(), strict=True)] or [0] * (self.n + 1)
        parts = {name: counts(right) for name, right in sorted(self.right.items())}
        return {
            "n": self.n, "keep": [self.low, self.high], **counts(whole), "without_answers": len(self.missing),
            **({"parts": parts} if len(parts) > 1 else {}),
        }  # fmt: skip


def table(summary: Record) -> str:
    """How many records were right 0, 1, ... n times, as a Markdown table; a line for each part."""
    rows = [["right", *map(str, range(summary["n"] + 1)), "kept"]]
    for name, counts in [*summary.get("parts", {}).items(), ("all", summary)]:
        share = "" if counts["kept_share"] is None else f" ({counts['kept_share']:.1%})"
        rows.append([name, *map(str, counts["right"]), f"{counts['kept']}{share}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]])


def bounds(n: int, low: int, high: int | None, names: tuple[str, str]) -> tuple[int, int]:
    """(low, high) of n; high defaults to one less than n. Raises BadInput."""
    if high is None and low > n - 1:
        raise BadInput(
            f"{names[0]} {low}: with {n} answers a question none is right at least {low} times and wrong at least once; "
            f"draw more (-n), or give {names[1]}"
        )
    top = n - 1 if high is None else high
    if top > n or low > top:
        raise BadInput(
            f"{names[0]} {low}, {names[1]} {top}: expected numbers from 0 to {n}, the answers a question, in this order"
        )
    return low, top


# ---------------------------------------------------------------- the verbs


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    verb: str,
    form: str,
    answers: str | None,
    n: int | None,
    low: int,
    high: int | None,
    names: tuple[str, str],
    rule: str | None,
    backend: Backend | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    template: str | None = None,
    budget_tokens: int | None = None,
    max_time: float | None = None,
    dry_run: bool = False,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Both verbs; returns the exit code: 1 where a record has no answers. names: of the options low and high."""
    model = backend if backend is not None and backend.model else None
    if (answers is None) == (model is None):
        raise BadInput("expected either --answers FILE, answers that are there, or --model URI, to ask for them")
    if answers is not None and is_pipe(answers):
        raise BadInput(f"--answers {answers}: is no regular file, and is read more than once; write it to a file first")
    source = Questions(
        files, form, quiet, ids=selection.ids, limit=selection.limit, shard=selection.shard, skip_bad=selection.skip_bad
    )
    text = read_template(template, PLAIN, {"context", "question"}, "context")
    tallies = Tallies(answers, rule, n) if answers else None
    drawn = tallies.n if tallies else n or SAMPLES
    report = Report(drawn, *bounds(drawn, low, high, names))
    if dry_run:
        tasks = ((where, as_task(record, text)) for where, record in source)
        print(evaluate.estimate(tasks, 0 if tallies else drawn, sampling or Sampling()))
        return 0
    decides = {
        **selection.identity(), "form": form, "samples": drawn, "reward": rule,
        names[0].lstrip("-"): report.low, names[1].lstrip("-"): report.high,
        "answers": sha256_of(answers) if answers else None,
        **({**model.identity(), **msgspec.to_builtins(sampling), "seed": seed, "template": text} if model else {}),
    }  # fmt: skip
    with Output(output, tool="keychain-synth", version=keychain_synth.__version__, verb=verb, options=decides,
                source=source, overwrite=overwrite) as out:  # fmt: skip
        if out.finished:
            print(f"keychain-synth: {output}: complete already; its summary again", file=sys.stderr)
            _show(json.loads(out.manifest_path.read_bytes())["counts"][verb], output, as_json)
            return 0
        total = source.count() if model else None
        with (
            closing(model.open(seed)) if model else nullcontext() as generator,
            Progress(
                verb, None if total is None else total * drawn, "answers" if model else "records", quiet
            ) as progress,
        ):
            found = tallies

            def planned(where: str, record: Record) -> list[tuple[str, Any]]:
                if found is None:
                    return evaluate.plan(where, as_task(record, text), drawn, seed, True)
                return [("", (where, record))]

            def asking(requests: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Record]]:
                return evaluate.execute(generator, sampling or Sampling(), requests)

            def looked_up(requests: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Record]]:
                assert found is not None
                for key, (where, record) in requests:
                    tally = found.of(where, record)
                    whole = tally is not None and tally.drawn == found.n
                    # Not an `error`, which would be tried again: the file will not say more.
                    yield key, {"right": tally.right} if tally is not None and whole else {"missing": True}

            def decided(record: Record, results: list[Record]) -> list[Record]:
                if not results or any(result.get("error") or result.get("missing") for result in results):
                    report.missing.append(record["id"])
                    return []
                if found is not None:
                    return report.take(record, results[0]["right"])
                task = as_task(record, text)
                right = sum(is_right({**task, **evaluate.sampled(at, each)}, rule) for at, each in enumerate(results))
                return report.take(record, right)

            done = flow(
                source,
                identify=lambda record: record["id"],
                plan=planned,
                execute=asking if found is None else looked_up,
                assemble=decided,
                out=out,
                batch=generator.batch_size if generator is not None else None,
                max_time=max_time,
                budget=budget_tokens,
                cost=_tokens if model else None,
                progress=progress,
            )
        summary = {**report.summary(), "dropped": dict(sorted(Counter(source.dropped.values()).items()))}
        if done.read and len(report.missing) == done.read and tallies is not None:
            raise BadInput(
                f"{answers}: has answers to none of the {done.read} questions, such as {report.missing[0]!r}"
            )
        code = out.complete(done, source, seed=seed if model else None, **{verb: summary}) or int(bool(report.missing))
    _tell(report, tallies, summary, selection, answers, output, as_json, quiet)
    return code


def _tokens(result: Record) -> int:
    return result.get("prompt_tokens", 0) + result.get("completion_tokens", 0)


def _tell(
    report: Report, tallies: Tallies | None, summary: Record, selection: Selection, answers: str | None,
    output: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    def some(names: Sequence[str]) -> str:
        return ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")

    if report.missing:
        why = f"have no answers in {answers}" if answers else "have no gold answer, or the model failed on them"
        print(f"keychain-synth: {len(report.missing)} {why}: {some(report.missing)}", file=sys.stderr)
    whole = selection.ids is None and selection.limit is None and selection.shard is None
    if tallies and whole and not quiet and (unknown := tallies.unused()):
        print(f"keychain-synth: {answers}: {len(unknown)} answered questions are not in the input: {some(unknown)}",
              file=sys.stderr)  # fmt: skip
    if quiet and summary["dropped"]:
        told = ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items())
        print(f"keychain-synth: questions left out: {told}", file=sys.stderr)
    _show(summary, output, as_json)


def _show(summary: Record, output: str | None, as_json: bool) -> None:
    """On stderr where records have stdout."""
    print(json.dumps(summary) if as_json else table(summary), file=sys.stderr if output in (None, "-") else sys.stdout)
