"""The gate of one attention layer: from queries and keys to a score for each block (arXiv 2506.08889, 2.2, equation 1).

Inputs are queries and keys before RoPE, after the model's own biases and norms. A group's query heads are projected to one
feature, each block's keys are pooled and projected, both are normed and then rotated as the base model rotates, the query at
its own position and the key at its block's first token, so that z[h, j] = qg[h] · kg[h, j] / sqrt(dg). Sums of norms, angles
and scores are float32 whatever the weights are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from seer_decode.shape import FIXED_ROPES, Pool, Shape, rope_of, text_of
from tenfold_shared import BadInput

EPS = 1e-6  # of both norms
INIT = 0.02  # standard deviation of weights before training


class Rotation:
    """RoPE over the gate's dg channels: the base model's theta and scaling, its attention factor included."""

    def __init__(self, frequencies: Tensor, factor: float = 1.0) -> None:
        """frequencies: (dg / 2,) float32, the angle that a position adds to each pair of channels i and i + dg / 2."""
        self.frequencies, self.factor = frequencies.float(), factor

    @classmethod
    def of(cls, config: Any, gate_dim: int) -> Rotation:
        """For a transformers config. All dg channels turn, also where the base turns a part of its heads.

        Raises BadInput for a model without RoPE, or with one whose frequencies depend on the length.
        """
        rope = rope_of(config)
        if not isinstance(rope.get("rope_theta"), int | float):
            raise BadInput(f"{text_of(config).model_type}: has no rope_theta, and gates with RoPE take their base's")
        kind = str(rope.get("rope_type", "default"))
        if kind not in FIXED_ROPES:
            raise BadInput(
                f"{text_of(config).model_type}: rope_type {kind}: expected one of {', '.join(FIXED_ROPES)}; blocks that are "
                "scored from a cache need angles that no length changes"
            )
        if kind == "default":
            return cls(1.0 / rope["rope_theta"] ** (torch.arange(0, gate_dim, 2, dtype=torch.float32) / gate_dim))
        from transformers import LlamaConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        # The base's own formulas, at a head of dg channels.
        like = LlamaConfig(
            head_dim=gate_dim,
            max_position_embeddings=text_of(config).max_position_embeddings,
            rope_parameters={key: value for key, value in rope.items() if key != "partial_rotary_factor"},
        )
        try:
            frequencies, factor = ROPE_INIT_FUNCTIONS[kind](like, torch.device("cpu"))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise BadInput(f"{text_of(config).model_type}: rope_type {kind}: {error!r} is missing or wrong") from None
        return cls(frequencies, float(factor))

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (..., dg / 2) float32 of positions (...), times the factor."""
        angles = positions.float()[..., None] * self.frequencies.to(positions.device)
        return angles.cos() * self.factor, angles.sin() * self.factor

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B, H, n, dg) at positions (n,) or (B, n): float32, turned."""
        cos, sin = self.tables(positions.to(x.device))
        if positions.dim() == 2:
            cos, sin = cos[:, None], sin[:, None]
        left, right = x.float().chunk(2, -1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def pool(keys: Tensor, block: int, kinds: Sequence[Pool] = ("max", "min", "avg")) -> Tensor:
    """(B, H, n, D) keys to (B, H, ceil(n / block), len(kinds) D): max, min and avg of each block side by side.

    A last block that is not full is pooled over the keys it has.
    """
    batch, heads, tokens, dim = keys.shape
    whole = tokens // block * block
    parts = []
    if whole:
        parts.append(_pooled(keys[:, :, :whole].unflatten(2, (-1, block)), kinds))
    if whole < tokens:
        parts.append(_pooled(keys[:, :, whole:].unsqueeze(2), kinds))
    return torch.cat(parts, 2) if parts else keys.new_empty(batch, heads, 0, len(kinds) * dim)


def _pooled(blocks: Tensor, kinds: Sequence[Pool]) -> Tensor:
    """(B, H, N, b, D) to (B, H, N, len(kinds) D)."""
    how = {"max": lambda: blocks.amax(3), "min": lambda: blocks.amin(3), "avg": lambda: blocks.mean(3)}
    return torch.cat([how[kind]() for kind in kinds], -1)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm over the last axis, float32: x / sqrt(mean(x²) + 1e-6) · weight."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight.float()


class Gate(nn.Module):
    """One layer's gate.

    query: Wq (Hkv, g, D, dg) under Qproj, (Hkv, D, dg) under Qavgproj, else None; key: Wk (Hkv, 3 D, dg); query_norm and
    key_norm: (dg,), shared by heads, or None. No projection has a bias.
    """

    query: Tensor | None
    key: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None

    def __init__(self, shape: Shape, rotation: Rotation | None = None) -> None:
        """rotation: None exactly where shape.rope is False. Weights are not initialised: see `reset`."""
        super().__init__()
        if (rotation is None) == shape.rope:
            raise ValueError("expected a rotation where shape.rope is set, and none where it is not")
        self.shape, self.rotation = shape, rotation
        projected = shape.query_shape
        self.query = nn.Parameter(torch.empty(projected)) if projected else None
        self.key = nn.Parameter(torch.empty(shape.key_shape))
        self.query_norm = nn.Parameter(torch.empty(shape.gate_dim)) if shape.qk_norm else None
        self.key_norm = nn.Parameter(torch.empty(shape.gate_dim)) if shape.qk_norm else None

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Weights from normal(0, 0.02), norms 1: where the paper's runs begin."""
        for weight in (self.query, self.key):
            if weight is not None:
                weight.normal_(0.0, INIT, generator=generator)
        for norm in (self.query_norm, self.key_norm):
            if norm is not None:
                norm.fill_(1.0)

    def query_features(self, queries: Tensor, positions: Tensor) -> Tensor:
        """Queries (B, Hq, n, D) before RoPE at positions (n,) or (B, n) to qg (B, Hkv, n, dg) float32."""
        return self._turned(self.projected(queries), positions)

    def projected(self, queries: Tensor) -> Tensor:
        """Queries (B, Hq, n, D) before RoPE to their features before the gate's rotation, (B, Hkv, n, dg) float32.

        Qorig scores with every query head and averages; as scores are linear in a feature, its feature is the mean.
        """
        grouped = queries.unflatten(1, (self.shape.kv_heads, self.shape.group))  # (B, Hkv, g, n, D)
        if self.shape.query_pooling == "Qproj":
            assert self.query is not None
            batch, stored, _, tokens, _ = grouped.shape
            rows = grouped.to(self.query.dtype).permute(1, 0, 3, 2, 4).reshape(stored, batch * tokens, -1)
            # One product a stored head over g D channels: for a single token several times as fast as einsum's.
            features = torch.bmm(rows, self.query.flatten(1, 2)).view(stored, batch, tokens, -1).transpose(0, 1)
        elif self.shape.query_pooling == "Qavgproj":
            assert self.query is not None
            features = torch.einsum("bhnd,hde->bhne", grouped.mean(2).to(self.query.dtype), self.query)
        elif self.shape.query_pooling == "Qavg":
            features = grouped.mean(2)
        else:
            each = normed(grouped, self.query_norm) if self.query_norm is not None else grouped.float()
            return each.mean(2)
        return normed(features, self.query_norm) if self.query_norm is not None else features.float()

    def project(self, pooled: Tensor, blocks: Tensor) -> Tensor:
        """Pooled blocks (B, Hkv, N, 3 D), the blocks (N,) or (B, N) of their sequences, to kg (B, Hkv, N, dg) float32."""
        features = torch.einsum("bhnd,hde->bhne", pooled.to(self.key.dtype), self.key)
        if self.key_norm is not None:
            features = normed(features, self.key_norm)
        # A block stands at its first token whenever it was filled, in a prefill or a token at a time.
        return self._turned(features, blocks * self.shape.block)

    def key_features(self, keys: Tensor, first: int = 0) -> Tensor:
        """Keys (B, Hkv, n, D) before RoPE, the first of them that of block `first`, to kg (B, Hkv, ceil(n / block), dg)."""
        pooled = pool(keys, self.shape.block, self.shape.key_pooling)
        return self.project(pooled, torch.arange(first, first + pooled.shape[2], device=keys.device))

    def scores(self, query_features: Tensor, key_features: Tensor) -> Tensor:
        """z (B, Hkv, n, N) = qg · kg / sqrt(dg), float32, no mask."""
        features = query_features / math.sqrt(self.shape.gate_dim)
        if features.shape[2] == 1:  # a CPU goes through the keys twice as fast where they come first
            found = torch.bmm(key_features.flatten(0, 1), features.flatten(0, 1).transpose(1, 2))
            return found.view(*key_features.shape[:2], 1, -1)
        return features @ key_features.transpose(2, 3)

    def forward(self, queries: Tensor, keys: Tensor, positions: Tensor | None = None) -> Tensor:
        """z (B, Hkv, n, ceil(m / block)) of queries (B, Hq, n, D) on keys (B, Hkv, m, D); the queries are the last n of
        the m tokens unless positions say otherwise."""
        if positions is None:
            positions = torch.arange(keys.shape[2] - queries.shape[2], keys.shape[2], device=keys.device)
        return self.scores(self.query_features(queries, positions), self.key_features(keys))

    def _turned(self, features: Tensor, positions: Tensor) -> Tensor:
        return features.float() if self.rotation is None else self.rotation.turn(features, positions)


class Gates(nn.Module):
    """A model's gates by layer: gates[layer] is the `Gate` of one of shape.gated."""

    def __init__(self, shape: Shape, rotation: Rotation | None = None) -> None:
        super().__init__()
        self.shape, self.rotation = shape.checked(), rotation
        self.layers = nn.ModuleDict({str(layer): Gate(shape, rotation) for layer in shape.gated})

    @classmethod
    def of(cls, config: Any, seed: int | None = 0, shape: Shape | None = None, **how: Any) -> Gates:
        """For a transformers config; how: as in Shape.of. Weights from `seed`; None leaves them undefined."""
        shape = shape or Shape.of(config, **how)
        gates = cls(shape, Rotation.of(config, shape.gate_dim) if shape.rope else None)
        if seed is not None:
            draw = torch.Generator().manual_seed(seed)
            for _, gate in gates:
                gate.reset(draw)
        return gates

    def shard(self, rank: int, ranks: int) -> Gates:
        """The gates of one of `ranks` tensor-parallel ranks: those of its stored heads, which need nothing of the others.
        Raises ValueError where the heads do not divide."""
        shape = self.shape
        if shape.kv_heads % ranks or not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} of {ranks}: {shape.kv_heads} stored heads cannot be shared out")
        mine = shape.kv_heads // ranks
        fields = {"heads": shape.heads // ranks, "kv_heads": mine}
        made = Gates(msgspec.structs.replace(shape, **fields), self.rotation)
        heads = slice(rank * mine, (rank + 1) * mine)
        for (_, one), (_, whole) in zip(made, self, strict=True):
            one.key = nn.Parameter(whole.key.detach()[heads].clone())
            one.query = None if whole.query is None else nn.Parameter(whole.query.detach()[heads].clone())
            one.query_norm, one.key_norm = whole.query_norm, whole.key_norm  # shared by heads
        return made

    def __getitem__(self, layer: int) -> Gate:
        gate = self.layers[str(layer)]
        assert isinstance(gate, Gate)
        return gate

    def __contains__(self, layer: int) -> bool:
        return str(layer) in self.layers

    def __iter__(self) -> Iterator[tuple[int, Gate]]:
        return ((layer, self[layer]) for layer in self.shape.gated)
