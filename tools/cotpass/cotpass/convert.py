"""`cotpass convert`: sample files from one form to another, by the readers of `readers.py` and the writers here.

Every form that `cotpass grade` reads can be written, so that samples made for one harness can be scored by
another. `counts` (problem,n,c,d) and `matrix` (a line of 0/1 a problem) keep correctness alone; from these two
only each other can be made. A form that has no place for a field loses it: `LOSES` says which.
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import cotpass
from cotpass.readers import Reader, read_gold
from cotpass.votes import aggregate, tally
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection, sha256_of
from tenfold_shared.jsonl import Output, open_read, unreadable
from tenfold_shared.progress import Progress

Record = dict[str, Any]

LOSES = {
    "records": "nothing",
    "openai-batch": "questions, gold answers, grades and votes",
    "evalhub": "questions and finish reasons; votes; grades unless every sample has one",
    "lm-eval": "finish reasons, grades and votes",
    "human-eval": "questions, gold answers and votes",
    "evalplus": "questions, gold answers and votes",
    "generic": "grades and votes",
    "verl": "ids, gold answers and votes; the score is 1 or 0",
    "counts": "everything but n, c and d (majority vote)",
    "matrix": "everything but the answers' correctness",
}


# ---------------------------------------------------------------- writers: one problem's records to lines


def _records(identity: str, samples: list[Record]) -> Iterator[Record]:
    yield from samples


def _openai_batch(identity: str, samples: list[Record]) -> Iterator[Record]:
    """One line a problem, its samples as choices; failed samples are lines of their own, as the producers write them."""
    choices: list[Record] = []
    for sample in samples:
        if sample.get("error"):
            yield {"custom_id": identity, "response": None, "error": {"message": sample["error"]}}
            continue
        message = {"role": "assistant", "content": sample["response"]}
        if sample.get("reasoning"):
            message["reasoning_content"] = sample["reasoning"]
        reason = sample.get("finish_reason") or "stop"
        choices.append({"index": len(choices), "message": message, "finish_reason": reason})
    if choices:
        body = {"object": "chat.completion", "model": samples[0].get("model", "unknown"), "choices": choices}
        yield {"custom_id": identity, "response": {"status_code": 200, "body": body}, "error": None}


def _evalhub(identity: str, samples: list[Record]) -> Iterator[Record]:
    """A results line where every sample is graded, else evalhub's raw form."""
    texts = [sample["response"] for sample in samples]
    if all("correct" in sample for sample in samples):
        gold = {} if samples[0].get("answer") is None else {"ground_truth": _one_gold(identity, samples[0])}
        yield {"task_id": identity, "solutions": texts, **gold, "correct": [s["correct"] for s in samples]}
    else:
        yield {"task_id": identity, "responses": texts}


def _lm_eval(identity: str, samples: list[Record]) -> Iterator[Record]:
    texts, prompt = [sample["response"] for sample in samples], shapes.question_of(samples[0])
    yield {
        "doc_id": identity,
        "doc": {"id": identity, "question": prompt},
        "target": samples[0].get("answer"),
        "arguments": {"gen_args_0": {"arg_0": prompt}},
        "resps": [texts],
        "filtered_resps": texts[:1],
        "filter": "none",
    }


def _human_eval(identity: str, samples: list[Record]) -> Iterator[Record]:
    for sample in samples:
        yield {"task_id": identity, "completion": sample["response"], "passed": _correct(sample)}


def _evalplus(identity: str, samples: list[Record]) -> Iterator[Record]:
    status = {True: "pass", False: "fail"}
    attempts = [
        {"task_id": identity, "solution": s["response"], "base_status": status[_correct(s)], "plus_status": None}
        for s in samples
    ]
    yield {"eval": {identity: attempts}}


def _generic(identity: str, samples: list[Record]) -> Iterator[Record]:
    responses = [{"text": s["response"], "finish_reason": s.get("finish_reason", "stop")} for s in samples]
    question, gold = shapes.question_of(samples[0]), samples[0].get("answer")
    yield {"problem_id": identity, "question": question, "gold": gold, "responses": responses}


def _verl(identity: str, samples: list[Record]) -> Iterator[Record]:
    for sample in samples:
        score = float(sample.get("reward", _correct(sample)))
        yield {"input": shapes.question_of(sample), "output": sample["response"], "score": score}


WRITERS: dict[str, Callable[[str, list[Record]], Iterator[Record]]] = {
    "records": _records,
    "openai-batch": _openai_batch,
    "evalhub": _evalhub,
    "lm-eval": _lm_eval,
    "human-eval": _human_eval,
    "evalplus": _evalplus,
    "generic": _generic,
    "verl": _verl,
}
TABLES = ("counts", "matrix")
FORMS = (*WRITERS, *TABLES)
# What numpy raises for bytes that are no array.
UNREADABLE = (OSError, EOFError, ValueError, SyntaxError, TokenError, OverflowError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)  # fmt: skip


def _correct(sample: Record) -> bool:
    if sample.get("correct") is None:
        raise BadInput(
            f"id {sample['id']!r} sample {sample['sample']}: correct: this form holds verdicts; run `cotpass grade` first"
        )
    return bool(sample["correct"])


def _one_gold(identity: str, sample: Record) -> str:
    gold = sample["answer"]
    if isinstance(gold, list) and len(gold) != 1:
        raise BadInput(f"id {identity!r}: answer: this form holds one gold answer, got {len(gold)}")
    return gold[0] if isinstance(gold, list) else gold


# ---------------------------------------------------------------- tables


Row = tuple[str, list[bool], int | None]  # problem, correctness a sample, d where judged


def _row(identity: str, samples: list[Record]) -> Row:
    """Failed samples are no draws; an unjudged right answer counts as wrong in d, as `metric` counts it."""
    drawn = [s for s in samples if not (s.get("error") or s.get("finish_reason") == "error")]
    right = [_correct(s) for s in drawn]
    judged = any(s.get("votes") for s in drawn)
    d = sum(
        aggregate(*tally(s.get("votes") or []), "majority") is True for s, ok in zip(drawn, right, strict=True) if ok
    )
    return identity, right, d if judged else None


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    judged = any(d is not None for _, _, d in rows)
    yield "problem,n,c,d" if judged else "problem,n,c"
    for identity, right, d in rows:
        cells = [identity, len(right), sum(right), *([d or 0] if judged else [])]
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        yield line.getvalue()


def _matrix(rows: Sequence[Row]) -> Iterator[str]:
    widths = {len(right) for _, right, _ in rows}
    if len(widths) > 1:
        raise BadInput(f"matrix: expected as many samples for every problem, got {min(widths)} to {max(widths)}")
    for _, right, _ in rows:
        yield ",".join("1" if ok else "0" for ok in right)


def read_matrix(path: str) -> list[Row]:
    """Rows of a 0/1 table: CSV without a header, or the one 2-D array of a .npy or .npz file. Raises BadInput."""
    if path.endswith((".npy", ".npz")):
        table = _read_array(path)
    else:
        with io.TextIOWrapper(open_read(path), encoding="utf-8", newline="") as lines:
            try:
                table = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(map(str.strip, row))]
            except (UnicodeDecodeError, csv.Error) as error:
                raise BadInput(f"{path}: expected a CSV table of 0 and 1: {error}") from None
            except Exception as error:
                if (told := unreadable(error, path)) is None:
                    raise
                raise told from None
    rows: list[Row] = []
    for number, cells in enumerate(table, 1):
        if not set(cells) <= {"0", "1"}:
            bad = next(cell for cell in cells if cell not in ("0", "1"))
            raise BadInput(f"{path}:{number}: expected 0 or 1, got {bad!r}")
        if len(cells) != len(table[0]):
            raise BadInput(f"{path}:{number}: expected {len(table[0])} columns as in the first line, got {len(cells)}")
        rows.append((str(number), [cell == "1" for cell in cells], None))
    if not rows:
        raise BadInput(f"{path}: expected at least one line of 0 and 1")
    return rows


def _read_array(path: str) -> list[list[str]]:
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            if len(loaded.files) != 1:
                raise BadInput(f"{path}: expected one array, got {', '.join(loaded.files) or 'none'}")
            loaded = loaded[loaded.files[0]]
    except UNREADABLE as error:
        raise BadInput(f"{path}: cannot be read as a numpy array: {error}") from None
    if loaded.ndim != 2 or loaded.dtype.kind not in "biuf":
        raise BadInput(f"{path}: expected a 2-D array of 0 and 1, got {loaded.dtype} of shape {loaded.shape}")
    return [[f"{value:g}" for value in row] for row in loaded.astype(float).tolist()]


# ---------------------------------------------------------------- the verb


def _grouped(located: Iterable[tuple[str, Record]]) -> dict[str, list[Record]]:
    """Samples by problem, problems in the order of their first sample. Raises BadInput on a repeated one."""
    found: dict[str, list[Record]] = {}
    seen: set[tuple[str, int]] = set()
    for where, record in located:
        key = record["id"], record["sample"]
        if key in seen:
            raise BadInput(
                f"{where}: id: {key[0]}#{key[1]} appears twice; ids (and samples within an id) must be unique"
            )
        seen.add(key)
        found.setdefault(record["id"], []).append(record)
    return found


def _as_verdict(record: Record) -> Record:
    """A foreign file's own verdict as `correct`, where the record has no grade of ours."""
    harness = (record.get("meta") or {}).get("harness_correct")
    return record if harness is None or "correct" in record else {**record, "correct": harness}


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    to: str,
    gold: str | None,
    output: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    table = [path for path in files if Path(path).suffix in (".csv", ".npy", ".npz")]
    if table and (len(files) > 1 or to not in TABLES):
        raise BadInput(f"{table[0]}: a matrix of 0 and 1 can be converted, alone, to {' or '.join(TABLES)}")
    golds = read_gold(gold) if gold else None
    source = selection.source(
        files, "sample", expand=lambda located: Reader(golds).samples(located), keep=output is not None
    )
    decides = {"to": to, **selection.identity(), "gold": sha256_of(gold) if gold else None}
    with (
        Output(
            output,
            tool="cotpass",
            version=cotpass.__version__,
            verb="convert",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("convert", None, "samples", quiet) as progress,
    ):
        if out.finished:
            print(f"cotpass: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        lines = 0
        if table:
            rows = read_matrix(table[0])
        else:
            problems = _grouped((where, _as_verdict(record)) for where, record in progress.over(source))
            rows = [_row(*item) for item in problems.items()] if to in TABLES else []
        if to in TABLES:
            for line in (_counts if to == "counts" else _matrix)(rows):
                out.write_line(line.encode())
                lines += 1
        else:
            for item in problems.items():
                for record in WRITERS[to](*item):
                    out.write(record)
                    lines += 1
        out.finish({"read": progress.done, "written": lines, "skipped_bad": source.bad})
    if not quiet:
        print(f"cotpass: {lines} lines of form {to}; it does not hold: {LOSES[to]}", file=sys.stderr)
    return 0
