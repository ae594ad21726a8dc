"""Attention of packs, segment by segment, and of slots, a token each: what transformers' models are told to use where they are trained or sampled here.

In a pack a segment sees itself and what is before it in its trajectories: the work is what rows of their own would take less what is shared, and no table of all tokens by all tokens is made. In slots a step has one
query a row and many keys: as products of small batches over the keys as they lie, heads that share keys together. Anything else is torch's.

Where it sits: below packing.py and engine.py. torch and transformers only.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tenfold_shared import BadInput

Tensor = torch.Tensor
NAME = "grpo_roc"


class Span(msgspec.Struct, frozen=True):
    """A segment: tokens first to last - 1 of a pack; above: the ranges before it in its trajectories, from their beginning."""

    first: int
    last: int
    above: tuple[tuple[int, int], ...]


def attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, dropout: float = 0.0, spans: tuple[Span, ...] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """As transformers calls it: query [B, H, T, D], key and value [B, K, L, D], attention_mask to be added [B, 1, T, L] or None; returns [B, T, H, D]. spans: of a pack, where B is 1 and T is L."""
    if spans is not None:
        if dropout:
            raise BadInput("the model drops attention out while it trains: set its attention_dropout to 0")
        found = packed(
            query.to(value.dtype), key.to(value.dtype), value, spans, scaling
        )  # autocast leaves rotated ones wider
    elif query.shape[2] == 1 and attention_mask is not None and not query.requires_grad:
        found = one_query(query, key, value, attention_mask, scaling)
    else:
        whole: tuple[Tensor, None] = sdpa_attention_forward(module, query, key.to(query.dtype), value.to(query.dtype), attention_mask, dropout=dropout, scaling=scaling, **others)  # fmt: skip
        return whole
    return found.transpose(1, 2).contiguous(), None


def packed(query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...], scaling: float | None) -> Tensor:
    """Of a pack, [1, H, T, D]."""
    grouped = key.shape[1] != query.shape[1]
    parts = []
    for span in spans:
        own = query[:, :, span.first : span.last]
        keys, values = (
            torch.cat([one[:, :, a:b] for a, b in (*span.above, (span.first, span.last))], 2)
            if span.above
            else one[:, :, span.first : span.last]
            for one in (key, value)
        )
        bias = causal_lower_right(own.shape[2], keys.shape[2]) if span.above else None
        parts.append(
            scaled_dot_product_attention(
                own, keys, values, attn_mask=bias, is_causal=bias is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(parts, 2)


def one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Of one token a row, [B, H, 1, D], in the type that keys are held in. Keys are not repeated for the heads that share them."""
    rows, heads, _, width = query.shape
    groups, reach = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    asked = (query.to(key.dtype) * scale).reshape(rows * groups, heads // groups, width)
    scores = torch.bmm(asked, key.flatten(0, 1).transpose(1, 2)).view(rows, groups, heads // groups, reach)
    weights = torch.softmax(scores.float() + mask.float(), -1).to(value.dtype)
    found = torch.bmm(weights.view(rows * groups, heads // groups, reach), value.flatten(0, 1))
    return found.view(rows, heads, 1, width).to(query.dtype)


AttentionInterface.register(NAME, attention)
