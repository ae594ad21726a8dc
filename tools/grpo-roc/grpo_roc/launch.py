"""From the command line to a training run: stages, problems, and what makes a run the same run.

Where it sits: between cli.py and train.py, so that neither knows the other's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from grpo_roc import train as training
from grpo_roc.evaluate import task_of
from grpo_roc.rollout import Task
from grpo_roc.train import Plan, Stage
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Source

Record = dict[str, Any]
OF_A_STAGE = ("steps", "prompts", "group_size", "oversample", "lr", "warmup", "updates", "max_tokens", "max_prompt")


def train(
    files: Sequence[str], stages: str | None, model: str, output: str, *, overwrite: bool, max_time: float | None, quiet: bool, skip_bad: int, given: Record,
) -> int:  # fmt: skip
    """The verb; returns the exit code. Raises BadInput, Missing and Busy."""
    common = {name: given.pop(name) for name in OF_A_STAGE} | {"turns": given.pop("max_turns"), "tasks": list(files)}
    if stages is None:
        if not files:
            raise BadInput("TASKS: expected a file of problems, or --stages")
        found: tuple[Stage, ...] = (msgspec.convert(common, Stage),)
    else:
        found = training.stages_of(stages, common)
    plan = Plan(
        found, algo=given.pop("algo"), epsilon=given.pop("epsilon"), ddof=int(given.pop("ddof")), clip_low=given.pop("clip_low"), clip_high=given.pop("clip_high"),
        temperature=given.pop("temperature"), tools=given.pop("tools"), call_timeout=given.pop("call_timeout"), shown=given.pop("shown"), scope=given.pop("grader_scope"), form=given.pop("answer_form"), admission=given.pop("admission"),
        deadline=given.pop("step_deadline") or 0.0, lockstep=given.pop("lockstep"), noise_timeout=given.pop("noise_timeout"), noise_error=given.pop("noise_error"), slots=given.pop("slots"),
        most=given.pop("pass_tokens"), checkpointing=given.pop("checkpointing"), norm=given.pop("max_norm"), seed=given.pop("seed"),
    )  # fmt: skip
    training.checked(plan)
    names = list(dict.fromkeys(name for stage in plan.stages for name in stage.tasks))
    if any(name == "-" for name in names):
        raise BadInput("-: a run reads its problems again when it goes on: give a file")
    inputs = {name: Source([name], "task", skip_bad=skip_bad) for name in names}

    def tasks_of(stage: Stage) -> list[Task]:
        """In the files' order. Raises BadInput."""
        tasks: dict[str, Task] = {}
        for name in stage.tasks:
            inputs[name].bad = 0  # of this reading
            for where, record in inputs[name]:
                task = task_of(where, record)
                if task.id in tasks:
                    raise BadInput(f"{where}: id: {task.id} appears twice; ids must be unique")
                tasks[task.id] = task
        if not tasks:
            raise BadInput(f"{', '.join(stage.tasks)}: no problem")
        return list(tasks.values())

    for stage in plan.stages:
        tasks_of(stage)  # what cannot be read is said before anything is loaded
    identity = {
        "tool": "grpo-roc",
        "verb": "train",
        "options": {"model": model, "dtype": given["dtype"], "skip_bad": skip_bad, **msgspec.to_builtins(plan)},
        "inputs": [one for source in inputs.values() for one in source.identity()],
    }
    return training.run(
        model,
        plan,
        tasks_of,
        identity,
        output,
        memory=given.pop("engine_memory"),
        overwrite=overwrite,
        max_time=max_time,
        quiet=quiet,
        **given,
    )
