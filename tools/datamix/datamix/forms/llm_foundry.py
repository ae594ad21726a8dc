"""LLM Foundry's training data (mosaicml/llm-foundry, data/text_data.py): `train_loader.dataset.streams`, a map of streams whose fields are
those of streaming.Stream; `proportion` is a stream's share of the samples, and every stream has one or none has. A path with :// is a
`remote`, any other a `local` folder of MDS shards. Samples are rows of the sequence length where the shards were written with
--concat_tokens; then their shares are shares of tokens. Domains without weight are left out.
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
    one,
    path_of,
    refuse,
    relative,
    used,
)
from datamix.schedule import Stage
from tenfold_shared import BadInput


def write(stages: Sequence[Stage], how: How) -> str:
    streams: dict[str, Any] = {}
    for name, weight in used(one(stages)).items():
        path = path_of(name, how.paths or "{domain}")
        if "${" in path or "${" in name:
            refuse(name, "OmegaConf, which reads the file, takes ${ for an interpolation")
        streams[name] = {"remote" if "://" in path else "local": path, "proportion": weight}
    return dump_yaml({"train_loader": {"name": "text", "dataset": {"streams": streams}}})


def read(text: str, where: str, how: How) -> list[Read]:
    whole = load_yaml(text, where)
    for name in ("train_loader", "dataset"):  # a whole run's file, or a part of one
        if isinstance(whole, dict) and isinstance(whole.get(name), dict):
            whole = whole[name]
    streams = field(whole, "streams", where)
    if not isinstance(streams, dict) or not streams:
        raise BadInput(f"{where}: streams: expected a map of streams")
    found: dict[str, float] = {}
    for name, stream in streams.items():
        at = f"{where}: streams: {name}"
        if isinstance(stream, dict) and "proportion" not in stream and {"repeat", "choose", "samples"} & stream.keys():
            raise BadInput(f"{at}: has repeat or choose; only proportion says what share of a mixture it is")
        found[str(name)] = as_number(field(stream, "proportion", at), f"{at}: proportion")
    return [Read(relative(found, where))]


FORM = Form("llm-foundry", ".yaml", write, read, zeros=False)
