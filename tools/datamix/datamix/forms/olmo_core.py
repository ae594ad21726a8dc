"""OLMo-core's source mixture (allenai/OLMo-core, data/source_mixture.py: SourceMixtureList): `sources`, each with source_name, target_ratio,
paths and max_repetition_ratio. Paths are .npy token files and may hold globs. Stages are a file each, with the tokens of each for
`requested_tokens` of SourceMixtureDatasetConfig in the index.

Its builder stops where a source has fewer tokens than its share wants, times max_repetition_ratio. Where a corpus and the number of
tokens are known, the ratio is what the mixture needs and 1 at least; otherwise 1, its default, is left out. Domains without weight are
left out, as older versions refuse a ratio of 0.
"""

from __future__ import annotations

import math
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
    one,
    path_of,
    relative,
    unique,
    used,
)
from datamix.schedule import Stage
from tenfold_shared import BadInput


def write(stages: Sequence[Stage], how: How) -> str:
    stage = one(stages)
    sources = []
    for name, weight in used(stage).items():
        source: dict[str, Any] = {
            "source_name": name,
            "target_ratio": weight,
            "paths": [path_of(name, how.paths or "{domain}")],
        }
        if how.corpus is not None and stage.tokens:
            available = int(how.corpus.sizes[how.corpus.names.index(name)])
            # Rounded up: the builder compares with whole tokens and refuses one too few.
            source["max_repetition_ratio"] = max(1.0, math.ceil(100 * stage.tokens * weight / available + 1) / 100)
        sources.append(source)
    return dump_yaml({"sources": sources})


def read(text: str, where: str, how: How) -> list[Read]:
    whole = load_yaml(text, where)
    if isinstance(whole, dict) and isinstance(whole.get("source_list"), dict):
        whole = whole["source_list"]  # a whole SourceMixtureDatasetConfig
    sources = field(whole, "sources", where)
    if not isinstance(sources, list) or not sources:
        raise BadInput(f"{where}: sources: expected a list of sources")
    found: dict[str, float] = {}
    for number, source in enumerate(sources):
        at = f"{where}: sources: {number}"
        name = unique(str(field(source, "source_name", at)), found, at)
        found[name] = as_number(field(source, "target_ratio", at), f"{at}: target_ratio")
    return [Read(relative(found, where) if abs(sum(found.values()) - 1) < 1e-5 else found)]


FORM = Form("olmo-core", ".yaml", write, read, zeros=False, stages="folder")
