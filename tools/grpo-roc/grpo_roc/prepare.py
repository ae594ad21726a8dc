"""`grpo-roc prepare`: problem sets of many shapes as one, fit to be trained on (arXiv 2508.20722, section 4.2).

Kept are problems whose answer is a whole number of not too many digits, as such an answer can be checked without doubt; each problem once; and none that shares eight words in a row with
a benchmark (--against). Everything dropped is told, with the reason and the line. A part (--shard) is sifted as the whole is, so that parts hold no problem twice.

Shapes read: verl (`prompt` chat, `reward_model.ground_truth`), GSM8K (`question`, `answer` that ends in `#### 42`), MATH-500 and AIME (`problem` or `Problem`, `answer` or `Answer`), open-r1's
DAPO (`prompt`, `solution`), OpenMathReasoning (`problem`, `expected_answer`), our own task records; as JSON Lines or parquet.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

import grpo_roc
from grpo_roc.verify import plain
from tenfold_shared import BadInput, Missing, answers
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import Flow, Output, decode_line, read_lines, write_atomic
from tenfold_shared.progress import Progress

Record = dict[str, Any]
GRAM = 8  # words
QUESTIONS = ("question", "problem", "Problem", "prompt", "instruction")
ANSWERS = ("expected_answer", "answer", "Answer", "solution")
IDS = ("id", "unique_id", "ID")
_WORD = re.compile(r"\w+")
_MARK = re.compile(r"\w+|[^\w\s.,;:?'\"“”‘’。，、；：？$\\{}]")  # no punctuation, nor what only sets the type


class Settings(msgspec.Struct, frozen=True):
    """to: `task` or `verl`; max_digits: of a whole-number answer."""

    to: str = "task"
    integers: bool = True
    max_digits: int = 12
    source: str = "unknown"


class Problem(msgspec.Struct):
    """others: names to take in turn where another problem has this id, as where two sets are numbered from 0."""

    id: str
    prompt: str
    answer: str
    source: str
    others: list[str] = []


class Unfit(Exception):
    """A problem that is dropped; the text is the reason, and then perhaps what of."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail


def question_of(record: Record) -> str:
    """Raises Unfit."""
    for name in ("messages", *QUESTIONS):
        value = record.get(name)
        if isinstance(value, list):
            value = shapes.question_of({"messages": value}) if all(map(_is_message, value)) else None
        if isinstance(value, str) and value.strip():
            return value
    raise Unfit("no question", f"expected one of {', '.join(QUESTIONS)}")


def _is_message(one: Any) -> bool:
    content = one.get("content") if isinstance(one, dict) else 0
    parts = content if isinstance(content, list) else []
    return content is None or (isinstance(content, str | list) and all(isinstance(part, dict) for part in parts))


def answer_of(record: Record) -> str:
    """Raises Unfit."""
    model = record.get("reward_model")
    values = [model.get("ground_truth")] if isinstance(model, dict) else []
    for value in [*values, *(record.get(name) for name in ANSWERS)]:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = plain(value)
        if isinstance(value, str) and value.strip():
            boxed = answers.extract(value)
            if boxed is not None:
                return boxed
            return value.rpartition("####")[2].strip()
    raise Unfit("no answer", f"expected one of {', '.join(ANSWERS)}, or reward_model.ground_truth")


def whole(answer: str, max_digits: int) -> str:
    """A whole-number answer as digits: `1,234`, `42.0` and `042` are taken. Raises Unfit."""
    found = answers.key(answer)
    if not re.fullmatch(r"-?[0-9]+", found):
        raise Unfit("answer is no whole number", answer[:80])
    if len(found.lstrip("-")) > max_digits:
        raise Unfit("answer has too many digits", answer[:80])
    return found


def problem_of(record: Record, number: int, settings: Settings) -> Problem:
    """Raises Unfit."""
    extra = record.get("extra_info")
    named = next((record[name] for name in IDS if record.get(name) is not None), None)
    index = record.get("index")
    if index is None and isinstance(extra, dict):
        index = extra.get("index")
    source = record.get("data_source") or record.get("source") or settings.source
    names = [str(named if named is not None else index)] if named is not None or index is not None else []
    if named is None and isinstance(index, int):
        names.append(f"{source}-{index}")
    if named is None and not isinstance(index, str):
        names.append(f"{source}-{number}")
    question, answer = question_of(record).strip(), answer_of(record)
    if settings.integers:
        answer = whole(answer, settings.max_digits)
    return Problem(names[0], question, answer, str(source), names[1:])


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def all_of(text: str) -> str:
    """What makes a problem the same as another: its words and signs, as 2+2 is another problem than 2-2."""
    return " ".join(_MARK.findall(text.casefold()))


def grams(text: str) -> set[str]:
    """Runs of eight words; of a text with fewer, all of it, signs as well."""
    found = words(text)
    if len(found) < GRAM:
        return {all_of(text)} if found else set()
    return {" ".join(found[k : k + GRAM]) for k in range(len(found) - GRAM + 1)}


def benchmark(files: Sequence[str]) -> dict[str, str]:
    """Every run of eight words of the benchmarks' problems -> where it stands."""
    known: dict[str, str] = {}
    for path in files:
        for where, record in located(path):
            try:
                for gram in grams(question_of(record)):
                    known.setdefault(gram, where)
            except Unfit as problem:
                raise BadInput(f"{where}: --against: {problem.reason}: {problem.detail}") from None
    return known


def located(path: str) -> Iterator[tuple[str, Record]]:
    if path.endswith(".parquet"):
        yield from parquet(path)
        return
    for number, line in read_lines(path):
        record = decode_line(f"{path}:{number}", line)
        if not isinstance(record, dict):
            raise BadInput(f"{path}:{number}: expected a JSON object")
        yield f"{path}:{number}", record


def parquet(path: str) -> Iterator[tuple[str, Record]]:
    try:
        import pyarrow.parquet as table
    except ImportError:
        raise Missing(f"{path}: pyarrow is not installed: pip install 'grpo-roc[arrow]'") from None
    import pyarrow

    try:
        file = table.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", record
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise BadInput(f"{path}: not parquet: {' '.join(str(error).split())[:200]}") from None


class Sieve:
    """What was kept so far, and the benchmarks."""

    def __init__(self, settings: Settings, against: dict[str, str]) -> None:
        self.settings, self.against = settings, against
        self._ids: set[str] = set()
        self._texts: dict[str, str] = {}

    def admit(self, record: Record, number: int) -> Problem:
        """Raises Unfit."""
        found = problem_of(record, number, self.settings)
        text = all_of(found.prompt)
        if text in self._texts:
            raise Unfit("same problem", self._texts[text])
        free = [name for name in (found.id, *found.others) if name not in self._ids]
        if not free:
            raise Unfit("same id", found.id)
        found.id = free[0]
        hit = next((self.against[gram] for gram in grams(found.prompt) if gram in self.against), None)
        if hit is not None:
            raise Unfit("in a benchmark", hit)
        self._texts[text] = found.id
        self._ids.add(found.id)
        return found


def written(problem: Problem, to: str, index: int) -> Record:
    if to == "task":
        return {
            "schema": shapes.schema("task"),
            "id": problem.id,
            "prompt": problem.prompt,
            "answer": problem.answer,
            "meta": {"source": problem.source},
        }
    return {
        "data_source": problem.source, "prompt": [{"role": "user", "content": problem.prompt}], "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer}, "extra_info": {"index": index, "id": problem.id},
    }  # fmt: skip


def check_dropped(dropped: str, others: Sequence[str | None]) -> None:
    """Whether --dropped can be written, and is none of the other files. Raises BadInput."""
    folder = os.path.dirname(dropped) or "."
    if dropped == "-":
        raise BadInput("--dropped -: expected a file; stdout is for the problems")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise BadInput(f"--dropped {dropped}: the folder {folder} does not exist or is not writable; create it first")
    if os.path.exists(dropped) and not os.path.isfile(dropped):
        raise BadInput(f"--dropped {dropped}: is no regular file; name one")
    for other in others:
        if other is not None and os.path.realpath(other) == os.path.realpath(dropped):
            raise BadInput(f"--dropped {dropped}: is an input or the output as well; choose another file")


def run(
    files: Sequence[str], selection: Selection, *, settings: Settings, against: Sequence[str], dropped: str | None, output: str | None, overwrite: bool, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code. Raises BadInput and Missing."""
    if dropped is not None:
        check_dropped(dropped, [*files, *against, output])
    if "-" in against:
        raise BadInput("--against -: expected a file; stdin is for the problems")
    tables = [path for path in files if path.endswith(".parquet")]
    if tables and (len(tables) < len(files)):
        raise BadInput(f"{tables[0]}: parquet and JSON Lines in one command; prepare them one after the other")
    expand = (lambda _: (found for path in tables for found in parquet(path))) if tables else None
    known = benchmark(against)
    source = selection.source(files, None, expand=expand, keep=output is not None)
    whole = source
    if selection.shard is not None:
        whole = replace(selection, shard=None).source(files, None, expand=expand)
    # Named by what was read, not by the files: a pipe, as `<(...)` in a shell is, cannot be read again.
    runs = [hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()] if against else []
    decides = {**msgspec.to_builtins(settings), "against": runs, **selection.identity()}
    done, reasons, told = Flow(), Counter[str](), []
    sieve = Sieve(settings, known)
    with (
        Output(
            output,
            tool="grpo-roc",
            version=grpo_roc.__version__,
            verb="prepare",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("prepare", None, "problem", quiet) as bar,
    ):
        if out.finished:
            to_do = "nothing to do" if dropped is None else "only --dropped is written"
            print(f"grpo-roc: {output}: complete already; {to_do}", file=sys.stderr)
            if dropped is None:
                return 0
        kept = 0
        first, end = source.bounds() or (0, sys.maxsize)
        for number, (where, record) in enumerate(whole, 1):
            mine = first < number <= end
            done.read += mine
            bar.update()
            try:
                problem = sieve.admit(record, number)
            except Unfit as unfit:
                if mine:
                    reasons[unfit.reason] += 1
                    told.append({"at": where, "reason": unfit.reason, "detail": unfit.detail})
                continue
            if mine and not out.finished:
                out.write(written(problem, settings.to, kept))
            kept += 1
            done.written += mine
        if dropped is not None:
            write_atomic(dropped, b"".join(msgspec.json.encode(one) + b"\n" for one in told))
        source.bad = whole.bad
        code = 0 if out.finished else out.complete(done, source, dropped=dict(reasons))
    if not quiet:
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) or "none dropped"
        print(f"grpo-roc: {done.read} problems, {done.written} kept: {why}", file=sys.stderr)
    return code
