"""nanotron's `data_stages` (huggingface/nanotron, config.py: DatasetStageArgs, DataArgs, NanosetDatasetsArgs): a list of stages, each with
a name of its own, the training step it begins with (the first one with 1) and a Nanoset of `dataset_folder` and `dataset_weights`.

Stages are counted in training steps, so that a schedule needs --step-tokens, the tokens of one: micro batch × accumulation × data
parallel ranks × sequence length. `tokens.train_steps` ends the last stage. Weights are of samples of the sequence length. Release 0.4
on PyPI is older than stages; its sources have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamix.forms.common import (
    Form,
    How,
    Read,
    as_number,
    dump_yaml,
    field,
    load_yaml,
    name_of,
    path_of,
    relative,
    unique,
)
from datamix.schedule import Stage
from tenfold_shared import BadInput


def write(stages: Sequence[Stage], how: How) -> str:
    folders = {name: path_of(name, how.paths or "{domain}") for name in stages[0].weights}
    if how.step_tokens is None and len(stages) > 1:
        raise BadInput("--step-tokens: nanotron counts stages in training steps; give the tokens of one (micro batch × accumulation × dp × sequence length)")  # fmt: skip
    length = how.step_tokens or 1
    starts = [round(stage.start / length) for stage in stages]
    end = round((stages[-1].start + stages[-1].tokens) / length)
    for stage, start, after in zip(stages, starts, [*starts[1:], end], strict=True):
        if after <= start and stage.tokens:
            raise BadInput(f"--step-tokens: {length}: the stage of step {stage.first_step} has {stage.tokens} tokens, less than a training step")  # fmt: skip
    told: dict[str, Any] = {
        "data_stages": [
            {
                "name": f"step {stage.first_step}",
                "start_training_step": start + 1,
                "data": {
                    "dataset": {
                        "dataset_folder": list(folders.values()),
                        "dataset_weights": [stage.weights[name] for name in folders],
                    },
                    "num_loading_workers": 1,
                    "seed": 42,
                },
            }
            for stage, start in zip(stages, starts, strict=True)
        ]
    }
    if how.step_tokens is not None and end > 0:
        told["tokens"] = {"train_steps": end}
    return dump_yaml(told)


def read(text: str, where: str, how: How) -> list[Read]:
    whole = load_yaml(text, where)
    listed = field(whole, "data_stages", where)
    if not isinstance(listed, list) or not listed:
        raise BadInput(f"{where}: data_stages: expected a list of stages")
    found = [_read(stage, f"{where}: data_stages: {number}", how) for number, stage in enumerate(listed)]
    found.sort(key=lambda stage: stage[0])
    if len(found) == 1:
        return [Read(found[0][1])]
    if how.step_tokens is None:
        raise BadInput("--step-tokens: nanotron counts stages in training steps; give the tokens of one")
    steps = whole["tokens"].get("train_steps") if isinstance(whole.get("tokens"), dict) else None
    if type(steps) is not int:
        raise BadInput(f"{where}: tokens: train_steps: missing; it says where the last stage ends")
    ends = [*(start for start, _ in found[1:]), steps + 1]
    stages = []
    for (start, weights), end in zip(found, ends, strict=True):
        if end <= start:
            raise BadInput(f"{where}: data_stages: one begins with training step {start} and ends before it")
        stages.append(Read(weights, (end - start) * how.step_tokens))
    return stages


def _read(stage: Any, where: str, how: How) -> tuple[int, dict[str, float]]:
    dataset = field(field(stage, "data", where), "dataset", f"{where}: data")
    at = f"{where}: data: dataset"
    folders = field(dataset, "dataset_folder", at)
    if isinstance(folders, str):
        folders = [folders]
    one = isinstance(folders, list) and len(folders) == 1
    weights = dataset.get("dataset_weights") or ([1.0] if one else None)
    if not isinstance(folders, list) or not isinstance(weights, list) or len(weights) != len(folders):
        raise BadInput(f"{at}: dataset_weights: expected one for each of dataset_folder (nanotron takes sizes without them)")  # fmt: skip
    found: dict[str, float] = {}
    for folder, weight in zip(folders, weights, strict=True):
        name = unique(name_of(str(folder), how.paths or "{domain}", at), found, at)
        found[name] = as_number(weight, f"{at}: {folder}")
    start = field(stage, "start_training_step", where)
    if type(start) is not int or start < 1:
        raise BadInput(f"{where}: start_training_step: expected 1 or more, got {start!r}")
    return start, relative(found, at)


FORM = Form("nanotron", ".yaml", write, read, stages="inside")
