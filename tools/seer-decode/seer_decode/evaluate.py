"""`seer-decode eval`: pass@1 on sets of questions with answers, AIME and MATH-500 style, and how long the generations were.

A record is a task, or `problem` or `question` with `answer` as benchmarks have them. What a number is counts by tasks: a task's
samples are one draw of its difficulty.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from string import Template
from typing import Any

import seer_decode
from seer_decode.generate import Reading, answer, decides, opened, own_sampling
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection, read_template, sha256_of
from tenfold_shared.generate import Sampling
from tenfold_shared.jsonl import Output, decode_line, read_lines

Record = dict[str, Any]
FEW = 10
MATHS = "$question\n\nThink step by step, and give the final answer inside \\boxed{}."
PROMPTS = {"math": MATHS, "plain": "$question"}


def tasks(lines: Iterable[tuple[str, Record]], skip_bad: int = 0) -> Iterator[tuple[str, Record]]:
    """Task records of either form. Raises BadInput for more than skip_bad without a question or an answer."""
    skipped = 0
    for number, (where, record) in enumerate(lines):
        try:
            yield where, _task(where, record, number)
        except BadInput:
            skipped += 1
            if skipped > skip_bad:
                raise


def _task(where: str, record: Record, number: int) -> Record:
    question = record.get("problem", record.get("question"))
    task = dict(record)
    if "prompt" not in task and "messages" not in task:
        if not isinstance(question, str) or not question.strip():
            raise BadInput(f"{where}: expected `prompt`, `messages`, `problem` or `question`")
        task["prompt"] = question
    if task.get("answer") is None:
        raise BadInput(f"{where}: answer: expected what the response is compared with")
    if not isinstance(task["answer"], str | list):
        task["answer"] = str(task["answer"])
    task["id"] = str(task.get("id", task.get("unique_id", number)))
    return task


def wilson(right: Sequence[Sequence[bool]]) -> tuple[float, float, float]:
    """pass@1, the mean over tasks of the mean over a task's samples, and its 95 % interval: Wilson's, on as many draws as the
    spread between tasks leaves of all samples, at least one a task, and no more than that where there are fewer than FEW."""
    means = [sum(one) / len(one) for one in right]
    count, mean = len(means), sum(means) / len(means)
    effective, every = float(count), sum(map(len, right))
    if count > 1 and 0 < mean < 1:
        error = sum((x - mean) ** 2 for x in means) / (count - 1) / count
        effective = min(max(mean * (1 - mean) / error, count), every) if error else float(every)
    if count < FEW:  # the spread between so few says too little
        effective = float(count)
    z = 1.959963984540054
    centre = (mean + z * z / (2 * effective)) / (1 + z * z / effective)
    wide = z / (1 + z * z / effective) * math.sqrt(mean * (1 - mean) / effective + z * z / (4 * effective**2))
    return mean, max(0.0, centre - wide), min(1.0, centre + wide)


def summary(samples: Sequence[Record]) -> Record:
    """Of verdict records; those that failed are counted and left out."""
    by_task: dict[str, list[bool]] = {}
    for sample in samples:
        if not sample.get("error"):
            by_task.setdefault(sample["id"], []).append(bool(sample["correct"]))
    found = [sample for sample in samples if not sample.get("error")]
    if not found:
        return {"tasks": 0, "samples": 0, "errors": len(samples), "pass_at_1": None, "low": None, "high": None}
    mean, low, high = wilson(list(by_task.values()))
    lengths = sorted(sample["usage"]["completion_tokens"] for sample in found)
    densities = [sample["meta"]["sparsity"]["density"] for sample in found]
    return {
        "tasks": len(by_task), "samples": len(found), "errors": len(samples) - len(found), "pass_at_1": round(mean, 6),
        "low": round(low, 6), "high": round(high, 6), "tokens_mean": round(sum(lengths) / len(lengths), 2),
        "tokens_median": statistics.median(lengths), "truncated": sum(s["finish_reason"] == "length" for s in found),
        "ungradable": sum(s["grade"] == "ungradable" for s in found), "density": round(sum(densities) / len(densities), 6),
    }  # fmt: skip


def run(
    files: Sequence[str],
    reading: Reading,
    selection: Selection,
    sampling: Sampling,
    *,
    uri: str,
    samples: int,
    prompt: str,
    template: str | None,
    model_sampling: bool,
    batch_size: int,
    allow_extrapolation: bool,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    seed: int,
    max_time: float | None,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    if output in (None, "-"):
        raise BadInput("eval: expected -o FILE for the verdicts, from which a killed run goes on")
    text = read_template(template, "", {"question"}, "question") if template else PROMPTS[prompt]
    source = selection.source(files, None, expand=partial(tasks, skip_bad=selection.skip_bad), keep=True)
    if model_sampling:
        sampling = own_sampling(sampling, uri)
    options = decides(
        reading, sampling, selection, model=uri, samples=samples, batch_size=batch_size, dtype=dtype, seed=seed, prompt=prompt,
        template=sha256_of(template) if template else None, allow_extrapolation=allow_extrapolation,
    )  # fmt: skip
    with Output(output, tool="seer-decode", version=seer_decode.__version__, verb="eval", options=options, source=source, overwrite=overwrite) as out:  # fmt: skip
        code = 0
        if out.finished:
            print(f"seer-decode: {output}: complete already; nothing to do", file=sys.stderr)
        else:
            by = opened(
                reading, uri, batch_size=batch_size, dtype=dtype, device=device, trust_remote_code=trust_remote_code,
                allow_extrapolation=allow_extrapolation, seed=seed,
            )  # fmt: skip
            chats = by.decoder.chats

            def sent(task: Record) -> Record:
                asked = Template(text).safe_substitute(question=shapes.question_of(task))
                return {"messages": [{"role": "user", "content": asked}]} if chats else {"prompt": asked}

            def judge(task: Record, fields: Record) -> Record:
                return _grade(task, fields, prompt)

            code = answer(by, source, out, sent, sampling, reading, verb="eval", samples=samples, seed=seed, max_time=max_time, quiet=quiet, judge=judge)  # fmt: skip
    found = summary([decode_line(f"{output}:{number}", line) for number, line in read_lines(str(output))])
    if as_json:
        print(json.dumps({"model": uri, "verdicts": output, **found}))
    elif found["pass_at_1"] is None:
        print(f"no sample that could be graded; {found['errors']} failed")
    else:
        failed = f"; {found['errors']} samples failed and do not count" if found["errors"] else ""
        print(
            f"pass@1 {found['pass_at_1']:.3f} [{found['low']:.3f}, {found['high']:.3f}] over {found['tasks']} tasks of "
            f"{found['samples']} samples; {found['tokens_mean']:.0f} tokens in the mean, {found['truncated']} cut off; "
            f"{100 * found['density']:.1f} % of the blocks read{failed}"
        )
    return code


def _grade(task: Record, fields: Record, prompt: str) -> Record:
    """What a verdict adds. Without a request for a box, an answer may stand outside one."""
    from tenfold_shared import answers

    if fields.get("error"):
        return {"correct": False, "grade": "ungradable", "grade_reason": fields["error"]}
    match = (task.get("meta") or {}).get("match", "any")
    found = answers.grade(task["answer"], fields["response"], match=match, require_box=prompt == "math")
    return {"correct": found.grade == "correct", "grade": found.grade, "grade_reason": found.reason}
