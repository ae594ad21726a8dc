"""`dser export`: a run as samples, as lm-evaluation-harness samples, or as training triples (reference 7).

Reads the steps with their texts, chain by chain as they come; memory holds the solutions that are current.
"""

from __future__ import annotations

from collections.abc import Iterator
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


class _Problem:
    def __init__(self, task: Record, settings: Settings) -> None:
        self.task, self.settings = task, settings
        self.lines: dict[int, _Line] = {}


def replay(path: str, on_refined: Any = None) -> dict[str, _Problem]:
    """The chains with their last solutions; on_refined(problem, chain number, line, step) at each refinement."""
    found: dict[str, _Problem] = {}
    file = steps_path(path)
    for number, step in read_steps(file, Step):
        problem = found.get(step.id)
        if problem is None:
            if step.run is None or step.task is None:
                raise no_first_step(f"{file}:{number}", step.id)
            problem = found[step.id] = _Problem(step.task, msgspec.convert(step.run, Settings))
        line = problem.lines.get(step.chain)
        if line is None:
            line = problem.lines[step.chain] = _Line(problem.settings)
        if step.role == "refine" and not step.kept and on_refined is not None:
            on_refined(problem, step.chain, line, step)
        try:
            line.chain.take(step)
        except BadInput as error:
            raise BadInput(f"{file}:{number}: {error}") from None
        line.tokens[0] += step.prompt_tokens
        line.tokens[1] += step.completion_tokens
        line.model = step.model
        if step.role == "verify":
            line.review = step
    return found


def samples(path: str) -> Iterator[Record]:
    """Every chain's last solution as sample 0 … K − 1; a chain without one is a sample with an error."""
    for problem in replay(path).values():
        for index, line in sorted(problem.lines.items()):
            text = line.chain.solution
            record = {
                **problem.task,
                "schema": shapes.schema("sample"),
                "sample": index,
                "response": text or "",
                "finish_reason": "stop" if text is not None else "error",
                "usage": {"prompt_tokens": line.tokens[0], "completion_tokens": line.tokens[1]},
                "model": line.model,
            }
            if text is None:
                record["error"] = "the chain has no solution"
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


def triples(path: str) -> Iterator[Record]:
    """(solution, review, refined solution) with what is known of each, as chats to train a verifier or refiner on.

    labels: solution_correct, verdict_right (None for an unreadable verdict), refined_correct; None without gold.
    """
    grader, prompts = Grader(), Prompts()
    rows: list[Record] = []

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
        rows.append(
            {
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
        )

    replay(path, note)
    yield from rows


def run(folder: str, *, form: str, output: str | None, overwrite: bool) -> int:
    """The verb `export`."""
    emit({"samples": samples, "lm-eval": lm_eval, "triples": triples}[form](folder), output, overwrite)
    return 0
