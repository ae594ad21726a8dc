"""A text read at once: what its keys, values and factors are in each full layer, and which tokens become anchors.

The model attends exactly, and layers that are not antkv's do so by their own masks. Factors are sums over all queries of
the text, as under `--protocol prefill`: a server that closes a block earlier knows less. The anchors are chosen by the
code of the cache itself, from one list for a head's keys and values: of each whole block the share of all tokens so far.
What is left of the text behind its whole blocks would stay in the window, and has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from antkv import score as scoring
from antkv.cache import AntLayer, Packed, Pending, Settings, attached
from antkv.layers import named
from antkv.rope import Rope
from antkv.score import Factors
from tenfold_shared import BadInput


class Watched(AntLayer):
    """One layer that keeps nothing but what it saw: keys (B, H, n, D), before rotation where there is a `rope`, values
    (B, H, n, D) and factors (B, H, n). settings: its ratio, score, block and seed choose the anchors."""

    keys: Tensor
    values: Tensor
    factors: Factors

    def __init__(self, index: int, rope: Rope | None, settings: Settings) -> None:
        nothing = torch.empty(1, 1, 1, 1)
        super().__init__(index, (nothing, nothing), rope, settings)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        if value_states.shape != key_states.shape:
            raise BadInput(
                f"layer {self.index}: keys of {key_states.shape[-1]} and values of {value_states.shape[-1]} channels are not alike"
            )
        self.device = key_states.device
        self.is_initialized = True

    def attend(self, query: Tensor, pending: Pending, padding: Tensor | None, scale: float) -> Tensor:
        keys, values = pending.keys, pending.values
        attended = scoring.attend(query, keys, values, scale)
        self.factors = scoring.factors(query, keys, values, attended, scale, scoring.squared(self.settings.score))
        positions = self._positions(0, self.length, keys.shape[0])
        self.keys = keys if self.rope is None else self.rope.unrotate(keys, positions)
        self.values = values
        return attended.out

    def anchors(self, errors: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, H, a) positions, ascending in each block. errors: of keys and values (B, H, n), for the score `error`."""
        count = in_blocks(self.length, self.settings)
        wanted = self._wanted(count)
        if not wanted.any():
            return torch.empty(*self.keys.shape[:2], 0, dtype=torch.long, device=self.device)
        keys, values = (factor[..., :count] for factor in self.factors)
        found = scoring.score(
            self.settings.score, Factors(keys, values), errors=errors and (errors[0][..., :count], errors[1][..., :count]),
            total=self.length, generator=self._random, block=self.settings.block,
        )  # fmt: skip
        return self._choose(found, wanted)[0]


def in_blocks(length: int, settings: Settings) -> int:
    """How many of a text's tokens are in whole blocks."""
    return length // settings.block * settings.block


def count(length: int, settings: Settings) -> int:
    """How many anchors a head has of so many tokens."""
    return int(Watched(0, None, settings)._wanted(in_blocks(length, settings)).sum())


@torch.inference_mode()
def watch(model: Any, ids: Sequence[int], rope: Rope | None, settings: Settings) -> list[Watched]:
    """The full layers of a model that has read `ids`. Raises BadInput for attention that antkv does not know, and for keys,
    values or logits that are no numbers."""
    cache = Packed(model, lambda index: Watched(index, rope, settings))
    with attached(model):
        logits = model(
            input_ids=torch.tensor([list(ids)], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits  # fmt: skip
    if not logits.amax(-1).isfinite().all():  # NaN and infinity stay; a token may well be ruled out, −infinity
        raise BadInput(f"the model's logits hold NaN or infinity after {len(ids)} tokens")
    seen = [layer for layer in cache.layers if isinstance(layer, Watched)]
    if silent := [layer.index for layer in seen if not layer.is_initialized]:
        raise BadInput(
            f"layers {named(silent)}: the model keeps their keys and values elsewhere; antkv cannot see them"
        )
    return seen
