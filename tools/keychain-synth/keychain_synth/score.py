r"""`keychain-synth score`: a reward for each sample, and how far the rewards themselves can be trusted.

The rules are `reward.py`'s; here are the verb, the forms of samples it reads (the KeyChain repository's trajectories
among them, which it can write too), and `--stress`: known exploits and a labelled table of answers under every rule.

A sample that failed gets no reward and is in no mean. One without a gold answer gets none either, and the exit is 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

import keychain_synth
from keychain_synth.reward import after_thinking, as_golds, extract, reward_for, rule_for, with_reasoning
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection, print_table, sha256_of
from tenfold_shared.jsonl import Located, Output, Source, flow, is_pipe
from tenfold_shared.progress import Progress

Record = dict[str, Any]

COMPARED = ("two-way", "two-way-guarded", "exact", "f1", "one-way", "one-way-guarded")


class Settings(msgspec.Struct, frozen=True):
    """reward: whose value becomes `reward`. f1_threshold: from it on an F1 counts as `correct`; other rules are right
    at 1. require_think: see `reward.extract`; None is: where the response opens a think tag."""

    reward: str | None = None
    f1_threshold: float = 0.5
    require_think: bool | None = None

    def right(self, rule: str, value: float) -> bool:
        return value >= (self.f1_threshold if rule == "f1" else 1.0)


def evaluate(record: Record, settings: Settings) -> Record:
    """What `score` finds out about one sample; `rewards` holds its value under every compared rule."""
    if record.get("error") or record.get("finish_reason") == "error":
        return {"skipped": "failed"}
    golds = as_golds(record.get("answer"))
    if not golds:
        return {"skipped": "no_gold", "error": "no gold answer"}
    text = with_reasoning(record["response"], record.get("reasoning"))
    match = (record.get("meta") or {}).get("match") or "any"
    think = settings.require_think
    rewards = {rule: reward_for(text, golds, rule, match=match, require_think=think) for rule in COMPARED}
    rule = rule_for(record.get("meta") or {}, settings.reward)
    value = rewards[rule] if rule in rewards else reward_for(text, golds, rule, match=match, require_think=think)
    return {
        "reward": value,
        "rule": rule,
        "correct": settings.right(rule, value),
        "answer": extract(text, think),
        "thought": after_thinking(text, think) is not None,
        "rewards": rewards,
    }


class Summary:
    """Counts over evaluated samples; `result` is the object of --json."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.n = self.correct = self.no_box = self.no_think = 0
        self.skipped: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        self.total = 0.0

    def take(self, found: Record) -> None:
        if "skipped" in found:
            self.skipped[found["skipped"]] += 1
            return
        self.n += 1
        self.rules[found["rule"]] += 1
        self.total += found["reward"]
        self.correct += found["correct"]
        self.no_think += not found["thought"]
        self.no_box += found["thought"] and found["answer"] is None
        self.totals.update(found["rewards"])

    def result(self) -> Record:
        """n: samples with a reward. no_think: a closing think tag was wanted; no_box: no final answer after it."""
        means = {rule: self.totals[rule] / self.n if self.n else None for rule in COMPARED}
        return {
            "n": self.n,
            "reward": ", ".join(sorted(self.rules)) or self.settings.reward or "two-way",
            "mean_reward": self.total / self.n if self.n else None,
            "correct": self.correct,
            "no_box": self.no_box,
            "no_think": self.no_think,
            "failed_samples": self.skipped["failed"],
            "no_gold": self.skipped["no_gold"],
            "by_reward": means,
        }


# ---------------------------------------------------------------- readers


def _trajectories(where: str, record: Record) -> Iterator[Record]:
    """The KeyChain repository's rollouts: one line a row, its responses in `trajectories`.

    The row's other fields ride along in `meta.row`, for `--to keychain`.
    """
    identity = record.get("id", record.get("index"))
    if identity is None:
        raise BadInput(f"{where}: index: required field is missing")
    if not isinstance(record["trajectories"], list):
        raise BadInput(f"{where}: trajectories: expected a list")
    answer = record.get("answers", record.get("answer"))
    row = {name: value for name, value in record.items() if name != "trajectories"}
    for number, one in enumerate(record["trajectories"]):
        text = one.get("text") if isinstance(one, dict) else None
        if not isinstance(text, str):
            raise BadInput(f"{where}: trajectories[{number}].text: expected text")
        yield {
            "id": str(identity),
            "prompt": str(record.get("input", "")),
            "answer": None if answer is None else _golds(where, "answers", answer),
            "meta": {"source": "keychain", "row": row},
            "sample": number,
            "response": text,
            **({"model": str(record["model"])} if record.get("model") else {}),
        }


def _openai_batch(where: str, record: Record) -> Iterator[Record]:
    """OpenAI and vLLM batch output; the gold comes from --gold."""
    identity = str(record["custom_id"])
    reply = _object(where, "response", record.get("response"))
    body = _object(where, "response.body", reply.get("body"))
    if record.get("error") or str(reply.get("status_code", 200)) >= "400":
        told = record.get("error") or body.get("error") or f"status {reply.get('status_code')}"
        text = str(told.get("message", told)) if isinstance(told, dict) else str(told)
        yield {"id": identity, "response": "", "finish_reason": "error", "error": text}
        return
    if not isinstance(body.get("choices"), list):
        raise BadInput(f"{where}: response.body.choices: expected a list")
    for choice in body["choices"]:
        choice = _object(where, "response.body.choices", choice)
        message = _object(
            where, "response.body.choices.message", choice.get("message") or {"content": choice.get("text")}
        )
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        yield {
            "id": identity,
            "response": message.get("content") or "",
            "finish_reason": "length" if choice.get("finish_reason") == "length" else "stop",
            **({"reasoning": reasoning} if reasoning else {}),
            **({"model": str(body["model"])} if body.get("model") else {}),
        }


def _object(where: str, field: str, value: Any) -> Record:
    """The JSON object in a field, {} for null. Raises BadInput for anything else."""
    if value is not None and not isinstance(value, dict):
        raise BadInput(f"{where}: {field}: expected an object")
    return value or {}


def _golds(where: str, field: str, value: Any) -> list[str]:
    try:
        return as_golds(value)
    except TypeError as why:
        raise BadInput(f"{where}: {field}: {why}") from None


_TASK_OF_FILE = re.compile(r"samples_(.+?)_\d{4}-\d{2}-\d{2}T[^/]*\.jsonl")


def _lm_eval(where: str, record: Record) -> Iterator[Record]:
    """lm-evaluation-harness --log_samples; all repeats of generated text."""
    task = _TASK_OF_FILE.search(Path(where.rsplit(":", 1)[0]).name)
    identity = f"{task[1]}/{record['doc_id']}" if task else str(record["doc_id"])
    target = record.get("target")
    for response in _flat(record["resps"]):
        if not isinstance(response, str):
            raise BadInput(f"{where}: resps: expected generated text; this looks like a log-likelihood task")
        yield {
            "id": identity,
            "answer": None if target is None else _golds(where, "target", target),
            "response": response,
        }


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value


_READERS: dict[str, tuple[Callable[[Record], bool], Callable[[str, Record], Iterator[Record]]]] = {
    "keychain": (lambda r: "trajectories" in r, _trajectories),
    "openai-batch": (lambda r: "custom_id" in r and ("response" in r or "error" in r), _openai_batch),
    "lm-eval": (lambda r: "doc_id" in r and "resps" in r, _lm_eval),
}


def _raise(error: BadInput) -> None:
    raise error


class Reader:
    """Located objects of any known form as located sample records.

    gold: task records by id, whose answer replaces the file's. Raises BadInput for an object of no known form and for
    an id that `gold` lacks.
    """

    def __init__(self, gold: dict[str, Record] | None = None) -> None:
        self.gold = gold
        self._used: Counter[str] = Counter()
        self._filters: dict[str, str] = {}

    def samples(self, located: Iterable[Located], tolerate: Callable[[BadInput], None] = _raise) -> Iterator[Located]:
        """tolerate: takes what is wrong with an object; it raises where no more is tolerated."""
        for where, record in located:
            try:
                found = list(self._read(where, record))
            except BadInput as error:
                tolerate(error)
                continue
            yield from ((where, sample) for sample in found)

    def _read(self, where: str, record: Record) -> Iterator[Record]:
        if "sample" in record and "response" in record:
            yield self._with_gold(where, record)
            return
        name = next((name for name, (looks_like, _) in _READERS.items() if looks_like(record)), None)
        if name is None:
            raise BadInput(
                f"{where}: no known sample format; expected our records (id, sample, response) or one of "
                f"{', '.join(_READERS)}; found the fields {', '.join(sorted(record)[:8]) or 'none'}"
            )
        for sample in _READERS[name][1](where, record):
            # lm-eval repeats a document's responses for each of its filters: those of the first one count.
            filtered = str(record.get("filter"))
            if name == "lm-eval" and self._filters.setdefault(sample["id"], filtered) != filtered:
                break
            if "sample" not in sample:  # a batch may have several lines for one id
                sample["sample"] = self._used[sample["id"]]
                self._used[sample["id"]] += 1
            sample.setdefault("meta", {"source": name})
            yield self._with_gold(where, {"schema": shapes.schema("sample"), **sample})

    def _with_gold(self, where: str, record: Record) -> Record:
        identity, meta = record.get("id"), record.get("meta") or {}
        if self.gold is None or not isinstance(identity, str) or not isinstance(meta, dict):
            return record  # what is wrong with it, its validation says
        task = self.gold.get(identity)
        if task is None:
            raise BadInput(f"{where}: id {identity!r} is not in the --gold file")
        known: Record = {name: task[name] for name in ("messages", "prompt", "answer") if name in task}
        return {**record, **known, "meta": {**(task.get("meta") or {}), **meta}}


def read_gold(path: str) -> dict[str, Record]:
    """Task records of a --gold file by id. Raises BadInput."""
    if is_pipe(path):
        raise BadInput(f"--gold {path}: is no regular file, and is read more than once; write it to a file first")
    found: dict[str, Record] = {}
    for where, record in Source([path], None):
        identity = record.get("id", record.get("custom_id"))
        if not isinstance(identity, str) or not isinstance(record.get("answer"), (str, list)):
            raise BadInput(f"{where}: expected a gold record with `id` and `answer`")
        _golds(where, "answer", record["answer"])
        if not isinstance(record.get("meta") or {}, dict):
            raise BadInput(f"{where}: meta: expected an object")
        if identity in found:
            raise BadInput(f"{where}: id: {identity} appears twice; ids must be unique")
        found[identity] = record
    return found


# ---------------------------------------------------------------- writers


def as_verdict(record: Record, results: list[Record]) -> list[Record]:
    """The sample with `reward` and `correct`; without them where there is none to give."""
    [found] = results
    given: Record = {name: found[name] for name in ("reward", "correct") if name in found}
    meta = record.get("meta") or {}
    if meta.get("source") == "keychain":
        # Thousands of tokens of context, once a sample: only `--to keychain` wants them.
        record = {**record, "meta": {name: value for name, value in meta.items() if name != "row"}}
    return [{**record, "schema": shapes.schema("verdict"), **given}]


def as_trajectories(group: Record, results: list[Record]) -> list[Record]:
    """One line a task in the KeyChain repository's form; `is_correct` is by the reward asked for."""
    first = group["samples"][0]
    trajectories = []
    for sample, found in zip(group["samples"], results, strict=True):
        if found.get("skipped") == "failed":
            continue
        rewards = found.get("rewards") or dict.fromkeys(COMPARED, 0.0)
        trajectories.append(
            {
                "text": with_reasoning(sample["response"], sample.get("reasoning")),
                "extracted_answer": found.get("answer"),
                "sub_em": int(rewards["two-way"]),
                "em": int(rewards["exact"]),
                "f1": round(rewards["f1"], 4),
                "is_correct": int(found.get("correct", False)),
            }
        )
    right = sum(one["is_correct"] for one in trajectories)
    row = (first.get("meta") or {}).get("row") or {"index": first["id"], "input": shapes.question_of(first)}
    return [
        {
            **row,
            "answers": as_golds(first.get("answer")),
            **({"model": first["model"]} if first.get("model") else {}),
            "trajectories": trajectories,
            "num_correct": right,
            "pass_rate": round(right / len(trajectories), 4) if trajectories else 0.0,
        }
    ]


def plan_task(where: str, group: Record) -> list[tuple[str, Record]]:
    """The samples of a task as what `flow` asks for."""
    return [(f"#{one['sample']}", one) for one in group["samples"]]


def grouped(located: Iterable[Located]) -> Iterator[Located]:
    """Neighbouring samples of one task as one record `{id, samples}`. Raises BadInput where one comes twice."""
    for identity, members in groupby(located, key=lambda each: each[1]["id"]):
        samples: dict[int, Record] = {}
        for where, record in members:
            if record["sample"] in samples:
                raise BadInput(
                    f"{where}: id: {identity}#{record['sample']} appears twice; ids (and samples within an id) must be unique"
                )
            samples[record["sample"]] = record
        yield where, {"id": identity, "samples": list(samples.values())}


# ---------------------------------------------------------------- the verb


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    reward: str | None,
    f1_threshold: float,
    require_think: bool | None,
    gold: str | None,
    to: str,
    stress: bool,
    output: str | None,
    overwrite: bool,
    max_time: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    settings = Settings(reward, f1_threshold, require_think)
    if stress:
        if files or output:
            raise BadInput("--stress: has a table of its own; leave out the files and -o")
        report = stressed(settings)
        if as_json:
            print(json.dumps(report, ensure_ascii=False))
        else:
            for table in stress_tables(report):
                print_table(table)
        return 0
    for name, part in (("shard", selection.shard), ("limit", selection.limit)):
        if to == "keychain" and part is not None:
            raise BadInput(f"--{name}: --to keychain writes one line a task, whose samples it may part; leave it out")
    golds = read_gold(gold) if gold else None

    def samples(located: Iterable[Located]) -> Iterator[Located]:
        return Reader(golds).samples(located, source._tolerate)

    source: Source = selection.source(files, "sample", expand=samples, keep=output is not None)
    decides = {
        **msgspec.to_builtins(settings), "to": to, **selection.identity(), "gold": sha256_of(gold) if gold else None
    }  # fmt: skip
    summary = Summary(settings)
    by_task = to == "keychain"

    def assemble(record: Record, results: list[Record]) -> list[Record]:
        for found in results:
            summary.take(found)
        return (as_trajectories if by_task else as_verdict)(record, results)

    with (
        Output(
            output,
            tool="keychain-synth",
            version=keychain_synth.__version__,
            verb="score",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("score", None, "samples", quiet) as progress,
    ):
        if out.finished:
            print(f"keychain-synth: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        done = flow(
            grouped(source) if by_task else source,
            identify=lambda record: record["id"] if by_task else f"{record['id']}#{record['sample']}",
            plan=plan_task if by_task else lambda where, record: [("", record)],
            execute=lambda samples: ((key, evaluate(sample, settings)) for key, sample in samples),
            assemble=assemble,
            out=out,
            max_time=max_time,
            progress=progress,
        )
        result = summary.result()
        code = out.complete(done, source, **result)
    if as_json:
        print(json.dumps(result), file=sys.stderr if output is None else sys.stdout)
    elif not quiet:
        mean = "none" if result["mean_reward"] is None else f"{result['mean_reward']:.3f}"
        print(
            f"keychain-synth: {result['n']} samples, mean {result['reward']} reward {mean}, {result['correct']} correct, "
            f"{result['no_box']} without a final answer, {result['no_think']} with open thinking",
            file=sys.stderr,
        )
    if result["no_gold"]:
        print(f"keychain-synth: {result['no_gold']} samples have no gold answer; --gold FILE gives it", file=sys.stderr)
    return code


# ---------------------------------------------------------------- --stress


def stressed(settings: Settings) -> Record:
    """The exploits' rewards, and each rule's false positives and negatives on the labelled table."""

    def rewards(gold: Any, prediction: str) -> dict[str, float]:
        text, golds = f"\\boxed{{{prediction}}}", as_golds(gold)
        return {rule: reward_for(text, golds, rule, require_think=False) for rule in COMPARED}

    table = [(rewards(gold, prediction), right) for gold, prediction, right in LABELLED]
    n_right = sum(right for _, right in table)
    rates = {}
    for rule in COMPARED:
        given = Counter((right, settings.right(rule, values[rule])) for values, right in table)
        positive, negative = given[False, True], given[True, False]
        rates[rule] = {
            "false_positives": positive,
            "false_negatives": negative,
            "false_positive_rate": positive / (len(table) - n_right),
            "false_negative_rate": negative / n_right,
        }
    return {
        "exploits": [{"gold": gold, "prediction": said, "rewards": rewards(gold, said)} for gold, said in EXPLOITS],
        "labelled": {"n": len(table), "right": n_right, "wrong": len(table) - n_right},
        "f1_threshold": settings.f1_threshold,
        "rates": rates,
    }


def stress_tables(report: Record) -> list[Any]:
    from rich.table import Table

    labelled = report["labelled"]
    exploits = Table("gold", "answer", title="Wrong answers made to be rewarded, and their rewards")
    rates = Table(
        title=f"On {labelled['n']} labelled answers, {labelled['right']} right and {labelled['wrong']} wrong ones"
    )
    for rule in COMPARED:
        exploits.add_column(rule.replace("-guarded", "\nguarded"), justify="right")
    for each in report["exploits"]:
        values = [f"{round(value, 2):g}" for value in each["rewards"].values()]
        exploits.add_row(each["gold"], each["prediction"], *values)
    for head in ("reward", "wrong, but rewarded", "right, but not rewarded"):
        rates.add_column(head, justify="left" if head == "reward" else "right")
    for rule, found in report["rates"].items():
        shown = (f"{found[f'false_{side}s']} ({found[f'false_{side}_rate']:.0%})" for side in ("positive", "negative"))
        rates.add_row(rule, *shown)
    return [exploits, rates]


# What equation 3 rewards and nobody should: (gold, prediction).
EXPLOITS = [
    ("Edward Snowden", "e"),
    ("Edward Snowden", "the"),
    ("Edward Snowden", "."),
    ("Norway", "no"),
    ("17", "7"),
    ("Paris", "not Paris"),
    ("Rome", "Paris or London or Rome"),
    ("yes", "yes and no"),
]

# (gold or golds, prediction, whether a person would call it right). Made to find faults on both sides, so the rates are
# not those of a model's answers; plain hits and misses stand among them in small number.
LABELLED: list[tuple[str | list[str], str, bool]] = [
    # as it should be
    ("Edward Snowden", "Edward Snowden", True),
    ("Lake Superior", "Lake Superior", True),
    ("17", "17", True),
    ("yes", "Yes", True),
    ("no", "No.", True),
    ("Canberra", "canberra", True),
    ("Robert Downey Jr.", "Robert Downey, Jr.", True),
    ("December 7, 1941", "December 7 1941", True),
    ("1,234", "1234", True),
    ("The Beatles", "Beatles", True),
    (["Istanbul", "Constantinople"], "Constantinople", True),
    # more than the gold says
    ("Paris", "Paris, France", True),
    ("Barack Obama", "President Barack Obama", True),
    ("Chongqing", "The answer is Chongqing", True),
    ("actress", "American actress and singer", True),
    ("Kentucky", "in the state of Kentucky", True),
    ("The Hobbit", '"The Hobbit" by J. R. R. Tolkien', True),
    ("United States", "United States of America", True),
    ("17", "17 years", True),
    ("1969", "July 20, 1969", True),
    ("yes", "Yes, both are American", True),
    ("no", "No, they were born in different countries", True),
    ("Paris", "Paris, not London", True),
    ("Nikola Tesla", "The person described in the passage is Nikola Tesla, the Serbian-American inventor", True),
    # less than the gold says
    ("Edward Snowden", "Snowden", True),
    ("Paris, France", "Paris", True),
    ("film director", "director", True),
    ("Gabriel García Márquez", "García Márquez", True),
    ("Johann Sebastian Bach", "Bach", True),
    ("Republic of Ireland", "Ireland", True),
    # the same in other signs
    ("Beyoncé", "Beyonce", True),
    ("Antonín Dvořák", "Antonin Dvorak", True),
    ("Strømsgodset", "Stromsgodset", True),
    ("Rock 'n' Roll", "Rock ’n’ Roll", True),
    ("1914–1918", "1914-1918", True),
    ("Marie Curie", "\\text{Marie Curie}", True),
    ("$3.5 million", "3.5 million dollars", True),
    # the same in other words
    ("Edward Snowden", "Edward Joseph Snowden", True),
    ("United States", "the U.S.", True),
    ("New York City", "NYC", True),
    ("University of Oxford", "Oxford University", True),
    ("World War II", "World War 2", True),
    ("Mount Everest", "Mt. Everest", True),
    ("John F. Kennedy", "John Fitzgerald Kennedy", True),
    ("Sergei Rachmaninoff", "Sergei Rachmaninov", True),
    ("July 20, 1969", "20 July 1969", True),
    ("5 feet 11 inches", "5 ft 11 in", True),
    # something else
    ("Edward Snowden", "Chelsea Manning", False),
    ("1969", "1968", False),
    ("yes", "no", False),
    ("no", "yes", False),
    ("Queen Victoria", "Queen Elizabeth", False),
    ("Leonardo DiCaprio", "Leonardo da Vinci", False),
    ("George W. Bush", "George H. W. Bush", False),
    ("Michael Jordan", "Michael B. Jordan", False),
    ("December 7, 1941", "December 8, 1941", False),
    ("Thomas Jefferson", "Jefferson Davis", False),
    # fragments and nothing
    *((gold, prediction, False) for gold, prediction in EXPLOITS[:3]),
    ("Bob Dylan", "an", False),
    ("Hamlet", "Ham", False),
    ("I, Robot", "I", False),
    ("The King of Limbs", "of", False),
    ("University of Oxford", "University of", False),
    ("Lake Superior", "the lake", False),
    ("Kansas City, Missouri", "Kansas", False),
    ("New York", "York", False),
    ("North Korea", "Korea", False),
    ("December 7, 1941", "7", False),
    ("December 7, 1941", "1941", False),
    # one word inside another
    *((gold, prediction, False) for gold, prediction in EXPLOITS[3:5]),
    ("Oman", "Roman", False),
    ("Mali", "Somalia", False),
    ("Niger", "Nigeria", False),
    ("Kansas", "Arkansas", False),
    ("male", "female", False),
    ("Cher", "Cherokee", False),
    ("no", "unknown", False),
    ("no", "I do not know", False),
    ("17", "1776", False),
    ("3.5", "35", False),
    ("2 million", "12 million", False),
    ("Apollo 11", "Apollo 1", False),
    ("Henry VIII", "Henry VII", False),
    ("Elizabeth II", "Elizabeth I", False),
    # the name of something else
    ("Johann Strauss II", "Johann Strauss", False),
    ("Paris", "Paris, Texas", False),
    ("Mercury", "Freddie Mercury", False),
    # hedges
    *((gold, prediction, False) for gold, prediction in EXPLOITS[5:]),
    ("Georgia", "Georgia or Armenia", False),
    ("London", "It is neither London nor Leeds", False),
    ("Spain", "Spain and Portugal", False),
    ("Rome", "Paris, London, Rome, Madrid", False),
    ("Rome", "Paris London Rome Madrid Berlin Vienna Prague Lisbon Dublin Oslo Bern", False),
]
