"""`grpo-roc filter-hard`: problems that are still worth training on (arXiv 2508.20722, section 4.3): those that a model does not already solve every time.

Where it sits: after rollout or verify, before train, which does the same with the policy at a stage's beginning.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import grpo_roc
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import Flow, Output
from tenfold_shared.records import schema

Record = dict[str, Any]


def filter_hard(
    files: Sequence[str],
    selection_: Selection,
    *,
    max_correct: int,
    min_correct: int,
    output: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Problems that were solved at least `min_correct` and at most `max_correct` times, as task records in the order in which they first come. Raises BadInput."""
    if min_correct > max_correct:
        raise BadInput(f"--min-correct {min_correct}: more than --max-correct {max_correct}")
    source = selection_.source(files, None, keep=output is not None)
    right: dict[str, int] = {}
    seen: dict[str, int] = {}
    tasks: dict[str, Record] = {}
    for where, record in source:
        name = record.get("id")
        if not isinstance(name, str) or not name:
            raise BadInput(f"{where}: id: expected a string")
        if record.get("error"):
            continue
        won = record.get("reward") if record.get("reward") is not None else record.get("correct")
        if isinstance(won, str) or not isinstance(won, bool | int | float):
            raise BadInput(f"{where}: {name}: reward or correct: expected one (`grpo-roc verify` adds them)")
        right[name] = right.get(name, 0) + (won > 0)
        seen[name] = seen.get(name, 0) + 1
        if name not in tasks:
            task = tasks[name] = {"schema": schema("task"), "id": name}
            for field in ("prompt", "messages", "answer", "meta", "source"):
                if field in record:
                    task[field] = record[field]
    chosen = [name for name in tasks if min_correct <= right[name] <= max_correct]
    decides = {"max_correct": max_correct, "min_correct": min_correct, **selection_.identity()}
    with Output(output, tool="grpo-roc", version=grpo_roc.__version__, verb="filter-hard", options=decides, source=source, overwrite=overwrite) as out:  # fmt: skip
        if out.finished:
            print(f"grpo-roc: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        done = Flow(read=sum(seen.values()))
        for name in chosen:
            out.write(tasks[name])
            done.written += 1
        code = out.complete(done, source)
    if not quiet:
        few = min(seen.values(), default=0)
        if few <= max_correct and chosen:
            print(
                f"grpo-roc: some problems have {few} samples: solved {max_correct} times or fewer says little of them",
                file=sys.stderr,
            )
        print(
            f"grpo-roc: {len(chosen)} of {len(tasks)} problems solved {min_correct} to {max_correct} times",
            file=sys.stderr,
        )
    return code
