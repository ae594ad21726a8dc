"""A base model's forward that hands out each layer's queries and keys, and frees them before the next (arXiv 2506.08889, 2.3).

    with captured(model, visit): model.base_model(ids, position_ids=...)

A row holds several sequences one after another, whose attention never crosses and whose positions begin at 0 each. A gate's
output feeds no layer of the base, so that all layers train from this one dense forward, each inside its own attention call.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from seer_decode.rotate import Unrotated
from seer_decode.shape import gated_layers, named
from tenfold_shared import BadInput

NAME = "seer-decode-capture"


class Features(NamedTuple):
    """One layer's view of one sequence: queries (Hq, n, D) and keys (Hkv, n, D) after RoPE, and what its logits are times."""

    queries: Tensor
    keys: Tensor
    scale: float


Visit = Callable[[int, int, Features], None]  # layer, number of the sequence in its row, features


class _Now(NamedTuple):
    lengths: Sequence[int]
    gated: frozenset[int]
    visit: Visit


_now: list[
    _Now
] = []  # the forward under way, innermost last; attention functions are registered by name, not by object


def can_pack(config: Any) -> bool:
    """Whether a row may hold more than one sequence: layers of other kinds than attention would carry a state across."""
    _, dense = gated_layers(config)
    return set(dense.values()) <= {"sliding_attention"}


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence of a row (1, H, n, D); a gated layer's queries and keys are visited."""
    if not _now:
        raise RuntimeError("captured() is not entered")
    now = _now[-1]
    layer = int(getattr(module, "layer_idx", -1))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise BadInput("the model's attention has soft caps or sinks, which gates do not know")
    out, begin = (
        torch.empty(1, query.shape[2], query.shape[1], value.shape[-1], dtype=query.dtype, device=query.device),
        0,
    )
    for number, length in enumerate(now.lengths):
        rows = slice(begin, begin + length)
        q, k, v = query[:, :, rows], key[:, :, rows], value[:, :, rows]
        group = q.shape[1] // k.shape[1]
        mask = None
        if sliding_window is not None and layer not in now.gated and length > sliding_window:
            at = torch.arange(length, device=q.device)
            apart = at[:, None] - at
            mask = (apart >= 0) & (apart < sliding_window)
        if group > 1:  # not enable_gqa, whose CPU path takes several times as long
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
        out[:, rows] = found.transpose(1, 2)
        if layer in now.gated:
            now.visit(layer, number, Features(q[0].detach(), key[0, :, rows].detach(), scale))
        begin += length
    return out, None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, lambda **given: None)


def check_attention(model: Any) -> None:
    """Raises BadInput for a model whose layers do not ask for an attention function by name."""
    plain = getattr(model, "get_base_model", lambda: model)()
    if not getattr(plain, "_supports_attention_backend", False):
        kind = model.config.get_text_config().model_type
        raise BadInput(
            f"{kind}: its attention is code of its own, which transformers' attention functions do not replace: gates cannot see it"
        )


@contextmanager
def switched(model: Any, name: str) -> Iterator[None]:
    """The model with a registered attention function; its own comes back at the end. Raises BadInput as check_attention does."""
    check_attention(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def captured(model: Any, lengths: Sequence[int], visit: Visit) -> Iterator[None]:
    """Inside, a forward of one row of sequences of these lengths calls `visit` in every gated layer, in their order."""
    gated, dense = gated_layers(model.config)
    if "chunked_attention" in dense.values():
        raise BadInput("the model's other layers attend in chunks, which training does not know")
    with switched(model, NAME):
        _now.append(_Now(tuple(lengths), frozenset(gated), visit))
        try:
            yield
        finally:
            _now.pop()


@torch.no_grad()
def forward(model: Any, sequences: Sequence[Tensor], visit: Visit) -> None:
    """One dense forward of sequences (n,) of token ids packed into one row; no logits are made."""
    device = next(model.parameters()).device
    ids = torch.cat(list(sequences))[None].to(device)
    positions = torch.cat([torch.arange(len(one)) for one in sequences])[None].to(device)
    inner = getattr(model, "get_base_model", lambda: model)().base_model  # an adapter's model wraps the one with layers
    seen: set[tuple[int, int]] = set()

    def noted(layer: int, number: int, features: Features) -> None:
        seen.add((layer, number))
        visit(layer, number, features)

    with captured(model, [len(one) for one in sequences], noted):
        inner(input_ids=ids, position_ids=positions, use_cache=False)
    gated, _ = gated_layers(model.config)
    if missed := sorted(set(gated) - {layer for layer, _ in seen}):
        raise BadInput(f"layers {named(missed)} did not come to the attention function: gates cannot see them")


_turned: weakref.WeakSet[Any] = weakref.WeakSet()  # models that were looked at
SAME = 0.05  # of the largest key: far above rounding in bfloat16, far below what a wrong turn leaves


@torch.no_grad()
def check_rotation(model: Any, unrotated: Unrotated) -> None:
    """Raises BadInput where turning keys back does not give them as they were before RoPE: other pairs of channels, or layers
    without a rotation among others with one.

    All tokens of a text being the same, every layer's states are the same at all positions, as attention then averages equal
    values; so are its keys before RoPE, and those that are turned back must be.
    """
    if unrotated.module is None or model in _turned:
        return
    apart: dict[int, float] = {}

    def visit(layer: int, number: int, features: Features) -> None:
        positions = torch.arange(features.keys.shape[1], device=features.keys.device)[None]
        keys = unrotated(features.keys[None], positions)[0]
        apart[layer] = float((keys - keys[:, :1]).abs().max() / keys.abs().max().clamp_min(1e-30))

    _, dense = gated_layers(model.config)
    others = [layer for layer, kind in dense.items() if kind != "sliding_attention"]  # states of their own may differ
    token = min(7, model.get_input_embeddings().num_embeddings - 1)
    forward(model, [torch.full((8,), token)], visit)
    wrong = [layer for layer, found in apart.items() if layer < min(others, default=math.inf) and not found < SAME]
    if any(not math.isfinite(apart[layer]) for layer in wrong):
        return  # no numbers at all, which is told where they are used
    if wrong:
        kind = model.config.get_text_config().model_type
        raise BadInput(
            f"{kind}: layers {named(wrong)} do not rotate their keys as its tables say (neighbouring channels are paired, or the layer has "
            "no RoPE): gates, which see keys before RoPE, do not know such models"
        )
    _turned.add(model)
