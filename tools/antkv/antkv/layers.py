"""Which layers of a model are antkv's: those whose attention sees the whole context, in a way that it knows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tenfold_shared import BadInput


def full_layers(config: Any) -> list[int]:
    """The layers whose attention sees the whole context; sliding, linear and other ones keep their own caches."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        sliding = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
        kinds = ["sliding_attention" if sliding else "full_attention"] * text.num_hidden_layers
    return [index for index, kind in enumerate(kinds) if kind == "full_attention"]


def check_layers(model: Any) -> None:
    """Raises BadInput for a model that has no full layer, or whose attention antkv cannot take the place of."""
    from antkv.cache import NAME, attached  # which imports this module

    kind = type(model).__name__
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        raise BadInput(f"{kind}: its attention has sinks, a share that goes to no token; antkv does not know them")
    with attached(model):
        reached = model.config._attn_implementation == NAME
    if not reached:
        raise BadInput(
            f"{kind}: has attention code of its own, as models with ALiBi do, in place of transformers' attention interface; "
            "antkv cannot reach it"
        )
    if not full_layers(model.config):
        raise BadInput(f"{kind}: no layer attends to its whole context; there is nothing to quantise")


def named(layers: Sequence[int]) -> str:
    """Ascending indices as a reader wants them: `0-4, 6`."""
    runs = [
        [index for _, index in run] for _, run in itertools.groupby(enumerate(layers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
