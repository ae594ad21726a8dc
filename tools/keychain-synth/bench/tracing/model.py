"""A small decoder-only transformer whose parts do not know how long a text is.

Part of `make claims-keychain-synth`. No positions: order comes from causal attention and from short causal
convolutions over queries, keys and values (So et al. 2021, arXiv 2109.08668 §4), which let a token look for what
followed the last few. Queries grow with the logarithm of the number of keys, so that attention stays sharp over more
tokens than in training (Chiang and Cholak 2022, arXiv 2202.12172 §5). Queries and keys start out from the same
weights (Trockman and Kolter 2023, arXiv 2305.09828), by which copying is learnt in hundreds of steps. Pre-norm blocks,
tied embeddings, float32 on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 6
HEADS = 4


class Block(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.near = nn.Conv1d(3 * width, 3 * width, KERNEL, groups=3 * width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        with torch.no_grad():
            nn.init.normal_(self.qkv.weight, std=width**-0.5)
            self.qkv.weight[width : 2 * width] = self.qkv.weight[:width]
            for linear in (self.out, self.down):
                nn.init.normal_(linear.weight, std=width**-0.5 / math.sqrt(2 * layers))

    def forward(self, x: Tensor, sharpness: Tensor, memory: Memory | None = None) -> Tensor:
        """x: (B, T, width); sharpness: (B or 1, T, 1), the factor of each position's queries."""
        b, t, width = x.shape
        made = self.qkv(self.norm_in(x)).transpose(1, 2)
        made = functional.pad(made, (KERNEL - 1, 0)) if memory is None else memory.with_last(made)
        q, k, v = self.near(made).transpose(1, 2).reshape(b, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q = q * sharpness[:, None]
        if memory is None:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = functional.scaled_dot_product_attention(q, *memory.extended(k, v), attn_mask=memory.seen())
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, width))
        return x + self.down(functional.gelu(self.up(self.norm_mid(x))))


class Memory:
    """What a block keeps of B texts of different lengths while they grow: keys, values, and the convolution's last."""

    def __init__(self, lengths: Tensor, room: int) -> None:
        self.lengths, self.room = lengths, room
        self.starting = True
        self.k = self.v = self.last = torch.empty(0)

    def with_last(self, made: Tensor) -> Tensor:
        """made (B, 3·width, T) behind the KERNEL − 1 positions before it, which are zeros at a text's start."""
        padded = functional.pad(made, (KERNEL - 1, 0)) if self.starting else torch.cat([self.last, made], 2)
        ends = self.lengths if self.starting else torch.ones_like(self.lengths)
        at = ends[:, None] + torch.arange(KERNEL - 1)  # the last KERNEL − 1 of each text in `padded`
        self.last = padded.gather(2, at[:, None, :].expand(-1, padded.shape[1], -1))
        return padded

    def extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.starting:
            wide = (0, 0, 0, self.room)
            self.k, self.v = functional.pad(k, wide), functional.pad(v, wide)
        else:
            rows = torch.arange(len(k))
            self.k[rows, :, self.lengths], self.v[rows, :, self.lengths] = k[:, :, 0], v[:, :, 0]
        return self.k, self.v

    def seen(self) -> Tensor:
        """(B or 1, 1, T, room): the keys each query may look at; then the new token counts as part of its text."""
        places = torch.arange(self.k.shape[2])
        if self.starting:
            self.starting = False
            return (places <= torch.arange(len(places) - self.room)[:, None])[None, None]
        mask = places <= self.lengths[:, None]
        self.lengths = self.lengths + 1
        return mask[:, None, None]


class Model(nn.Module):
    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)

    def hidden(self, tokens: Tensor, start: Tensor | None = None, memory: Sequence[Memory | None] = ()) -> Tensor:
        """(B, T, width), before the output embedding; the texts' first `start` (B,) tokens are in `memory`."""
        x = self.embed(tokens)
        first = torch.zeros(1, dtype=torch.long) if start is None else start
        places = first[:, None] + torch.arange(1, tokens.shape[1] + 1)
        sharpness = torch.log(places + math.e)[:, :, None] / 4
        for block, kept in zip(self.blocks, memory or [None] * len(self.blocks), strict=True):
            x = block(x, sharpness, kept)
        return self.norm(x)

    def loss(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mean cross-entropy of tokens[:, 1:] where mask (B, T−1) says so; only there are logits made."""
        hidden = self.hidden(tokens[:, :-1])[mask]
        return functional.cross_entropy(functional.linear(hidden, self.embed.weight), tokens[:, 1:][mask])

    @torch.no_grad()
    def continued(self, prompts: Sequence[Sequence[int]], limit: int, end: int) -> list[list[int]]:
        """At most `limit` tokens after each prompt, the likeliest one at each step, up to and without `end`."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        memory = [Memory(lengths, limit) for _ in self.blocks]
        last = self.hidden(tokens, memory=memory)[torch.arange(len(prompts)), lengths - 1]
        made: list[Tensor] = []
        over = torch.zeros(len(prompts), dtype=torch.bool)
        while True:
            token = functional.linear(last, self.embed.weight).argmax(-1)
            made.append(token)
            over |= token == end
            if len(made) == limit or over.all():
                break
            last = self.hidden(token[:, None], start=lengths + len(made) - 1, memory=memory)[:, 0]
        rows = torch.stack(made, 1).tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]
