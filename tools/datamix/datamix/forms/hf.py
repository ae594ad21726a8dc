"""Arguments of `datasets.interleave_datasets` as JSON: `probabilities` in the order of `datasets`, and `stopping_strategy`.

    mix = json.load(open("mix.json"))
    data = datasets.interleave_datasets([load(name) for name in mix["datasets"]], probabilities=mix["probabilities"],
                                        seed=mix["seed"], stopping_strategy=mix["stopping_strategy"])

Several stages are a list under `stages`, each with these fields and the `tokens` to train on. Interleaving draws examples: pack every
data set to rows of one length first, so that shares of examples are shares of tokens. Domains without weight are left out: the strategy
all_exhausted would wait for them for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamix.forms.common import (
    Form,
    How,
    Read,
    as_number,
    dump_json,
    field,
    load_json,
    name_of,
    path_of,
    relative,
    unique,
    used,
)
from datamix.schedule import Stage
from tenfold_shared import BadInput

STRATEGY = (
    "all_exhausted"  # small domains come again until the largest was seen once; first_exhausted stops at the smallest
)


def write(stages: Sequence[Stage], how: How) -> str:
    told = [_stage(stage, how) for stage in stages]
    if len(told) == 1 and stages[0].tokens == 0:
        del told[0]["tokens"]
    return dump_json(told[0] if len(told) == 1 else {"stages": told})


def _stage(stage: Stage, how: How) -> dict[str, Any]:
    weights = used(stage)
    return {
        "datasets": [path_of(name, how.paths or "{domain}") for name in weights],
        "probabilities": list(weights.values()),
        "seed": 0,
        "stopping_strategy": STRATEGY,
        "tokens": stage.tokens,
    }


def read(text: str, where: str, how: How) -> list[Read]:
    whole = load_json(text, where)
    listed = whole.get("stages") if isinstance(whole, dict) else None
    if listed is not None and (not isinstance(listed, list) or not listed):
        raise BadInput(f"{where}: stages: expected a list of stages")
    if listed is None:
        return [_read(whole, where, how)]
    return [_read(stage, f"{where}: stages: {number}", how) for number, stage in enumerate(listed)]


def _read(stage: Any, where: str, how: How) -> Read:
    paths, weights = field(stage, "datasets", where), field(stage, "probabilities", where)
    if not isinstance(paths, list) or not isinstance(weights, list) or len(paths) != len(weights):
        raise BadInput(f"{where}: probabilities: expected one for each of datasets")
    found: dict[str, float] = {}
    for path, weight in zip(paths, weights, strict=True):
        name = unique(name_of(str(path), how.paths or "{domain}", where), found, where)
        found[name] = as_number(weight, f"{where}: probabilities: {path}")
    tokens = stage.get("tokens")
    if tokens is not None and (type(tokens) is not int or tokens < 0):
        raise BadInput(f"{where}: tokens: expected a whole number, got {tokens!r}")
    return Read(relative(found, where), tokens)


FORM = Form("hf", ".json", write, read, zeros=False, stages="inside")
