"""`dser export`: a run as samples, as lm-evaluation-harness samples, or as training triples.

Reads the steps with their texts, chain by chain as they come; memory holds the solutions that are current.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from dser.chain import Chain, Role, Step
from dser.log import Settings, emit, no_first_step, read_steps, steps_path
from dser.prompts import Prompts
from dser.vote import Grader
from tenfold_shared import BadInput
from tenfold_shared import records as shapes

Record = dict[str, Any]


class _Line:
    """A chain as it is replayed, with its last review and the tokens it took."""

    def __init__(self, settings: Settings) -> None:
        self.chain = Chain(settings.procedure)
        self.review: Step | None = None
        self.tokens = [0, 0]
        self.model = ""
        self.error: str | None = None
        self.waiting: dict[tuple[int, str], Step] = {}  # steps whose turn has not come


class _Problem:
    def __init__(self, task: Record, settings: Settings, position: int) -> None:
        self.task, self.settings, self.position = task, settings, position
        self.lines: dict[int, _Line] = {}


def replay(path: str, on_refined: Any = None) -> dict[str, _Problem]:
    """The chains with their last solutions; on_refined(problem, chain number, line, step) at each refinement."""
    found: dict[str, _Problem] = {}
    early: dict[str, list[tuple[int, Step]]] = {}  # of problems whose task has not been read yet
    file = steps_path(path)

    def take(step: Step) -> None:
        problem = found[step.id]
        line = problem.lines.get(step.chain)
        if line is None:
            line = problem.lines[step.chain] = _Line(problem.settings)
        line.error = step.error
        if step.error is not None:
            return
        line.waiting.setdefault((step.iteration, step.role), step)
        while (call := line.chain.next) is not None and (due := line.waiting.pop((call.iteration, call.role), None)):
            if due.role == "refine" and not due.kept and on_refined is not None:
                on_refined(problem, due.chain, line, due)
            line.chain.take(due)
            line.tokens[0] += due.prompt_tokens
            line.tokens[1] += due.completion_tokens
            line.model = due.model
            if due.role == "verify":
                line.review = due

    for number, step in read_steps(file, Step):
        if step.id not in found:
            early.setdefault(step.id, []).append((number, step))
            if step.run is None or step.task is None:
                continue
            found[step.id] = _Problem(step.task, msgspec.convert(step.run, Settings), step.position)
            for _, before in early.pop(step.id):
                take(before)
        else:
            take(step)
    for name, steps in early.items():
        raise no_first_step(f"{file}:{steps[0][0]}", name)
    if not found:
        raise BadInput(f"{file}: expected at least one step of `dser solve`, got none")
    return dict(sorted(found.items(), key=lambda pair: pair[1].position))


def samples(path: str) -> Iterator[Record]:
    """Every chain's last solution as sample 0 … K − 1. A chain whose texts were all cut off has an empty one, which a grader
    counts as wrong; one whose call failed is a sample with an error, which a grader leaves out."""
    for problem in replay(path).values():
        for index, line in sorted(problem.lines.items()):
            text = line.chain.solution
            failed = text is None and line.error is not None
            record = {
                **problem.task,
                "schema": shapes.schema("sample"),
                "sample": index,
                "response": text or "",
                "finish_reason": "error" if failed else "length" if text is None else "stop",
                "usage": {"prompt_tokens": line.tokens[0], "completion_tokens": line.tokens[1]},
                "model": line.model,
            }
            if failed:
                record["error"] = line.error
            yield record


def lm_eval(path: str) -> Iterator[Record]:
    """As --log_samples writes: doc_id, doc, target, resps (one list, a repeat each), filtered_resps."""
    for number, problem in enumerate(replay(path).values()):
        lines = [line for _, line in sorted(problem.lines.items())]
        gold = problem.task.get("answer")
        yield {
            "doc_id": number,
            "doc": problem.task,
            "target": gold[0] if isinstance(gold, list) and gold else gold,
            "arguments": [[shapes.question_of(problem.task), {}]],
            "resps": [[line.chain.solution or "" for line in lines]],
            "filtered_resps": [line.chain.cells[-1] or "" if line.chain.cells else "" for line in lines],
        }


def triples(path: str, templates: Sequence[str] = ()) -> Iterator[Record]:
    """(solution, review, refined solution) with what is known of each, as chats to train a verifier or refiner on: in the
    words of `templates` (ROLE=FILE), for the others in the built-in ones.

    labels: solution_correct, verdict_right (None for an unreadable verdict), refined_correct; None without gold.
    """
    grader, prompts = Grader(), Prompts(templates)
    rows: list[tuple[tuple[int, int, int], Record]] = []

    def note(problem: _Problem, index: int, line: _Line, step: Step) -> None:
        review, solution, task = line.review, line.chain.solution, problem.task
        if review is None or solution is None:
            return
        before = grader.correct(task, line.chain.cells[-1]) if line.chain.cells else None
        after = grader.correct(task, step.answer)
        told = (
            None if before is None or review.verdict not in ("pass", "fail") else (review.verdict == "pass") == before
        )
        parts: list[tuple[Role, str, str]] = [("verify", "", review.text), ("refine", review.text, step.text)]
        chats = {
            role: [*prompts.messages(role, task, line.chain, solution, text), {"role": "assistant", "content": said}]
            for role, text, said in parts
        }
        row = {
            "id": task["id"],
            "chain": index,
            "iteration": step.iteration,
            "solution": solution,
            "review": review.text,
            "verdict": review.verdict,
            "refined": step.text,
            "labels": {"solution_correct": before, "verdict_right": told, "refined_correct": after},
            "verify": {"messages": chats["verify"]},
            "refine": {"messages": chats["refine"]},
        }
        rows.append(((problem.position, index, step.iteration), row))

    replay(path, note)
    for _, row in sorted(rows, key=operator.itemgetter(0)):  # not in the order of the replies
        yield row


def run(folder: str, *, form: str, templates: Sequence[str], output: str | None, overwrite: bool) -> int:
    """The verb `export`."""
    if templates and form != "triples":
        raise BadInput(f"--template: only the chats of --to triples have prompts, {form} have none")
    if form == "triples" and (missing := _templates(folder) - {pair.partition("=")[0] for pair in templates}):
        print(
            f"dser: the run had its own prompts for {', '.join(sorted(missing))}, and the chats have the built-in ones; "
            "--template ROLE=FILE gives them",
            file=sys.stderr,
        )
    found = triples(folder, templates) if form == "triples" else {"samples": samples, "lm-eval": lm_eval}[form](folder)
    emit(found, output, overwrite)
    return 0


def _templates(folder: str) -> set[str]:
    """The roles that the run's manifest says had templates of their own; none where there is no manifest to ask."""
    try:
        manifest = msgspec.json.decode((steps_path(folder).parent / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return set()
    return set(manifest.options.template) & {"verify", "refine"}


class _Options(msgspec.Struct, frozen=True):
    template: dict[str, str] = {}


class _Manifest(msgspec.Struct):
    options: _Options = _Options()
