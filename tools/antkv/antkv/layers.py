"""Which layers of a model are antkv's: those whose attention sees the whole context."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def full_layers(config: Any) -> list[int]:
    """The layers whose attention sees the whole context; sliding, linear and other ones keep their own caches."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        sliding = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
        kinds = ["sliding_attention" if sliding else "full_attention"] * text.num_hidden_layers
    return [index for index, kind in enumerate(kinds) if kind == "full_attention"]


def named(layers: Sequence[int]) -> str:
    """Ascending indices as a reader wants them: `0-4, 6`."""
    runs = [
        [index for _, index in run] for _, run in itertools.groupby(enumerate(layers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
