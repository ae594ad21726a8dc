"""A small decoder-only transformer in one file: loss over whole sequences, sampling with a cache of keys and values.

Part of `make claims-cotpass`. Pre-norm blocks, learned positions, tied embeddings, float32 on a CPU. All prompts of one
call have the same length (chains.py's fixed width sees to it), so nothing is padded on the left and no mask but the
causal one is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from study.chains import CONTEXT, END, PAD, VOCABULARY


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: Tensor | None, at: int) -> Tensor:
        """x: (B, T, width) at positions at..at+T−1; cache: (2, B, heads, S, width/heads), written there, or None."""
        b, t, width = x.shape
        q, k, v = self.qkv(self.norm_in(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, at : at + t], cache[1, :, :, at : at + t] = k, v
            k, v = cache[0, :, :, : at + t], cache[1, :, :, : at + t]
        # One new position sees all before it; several at once are a prompt from position 0.
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, width))
        return x + self.down(functional.gelu(self.up(self.norm_mid(x))))


class Model(nn.Module):
    def __init__(self, width: int = 128, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.heads, self.layers, self.width = heads, layers, width
        self.embed = nn.Embedding(len(VOCABULARY), width)
        self.place = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if residual else 1.0))

    def forward(self, tokens: Tensor, cache: Tensor | None = None, at: int = 0) -> Tensor:
        """Logits (B, T, vocabulary) for tokens (B, T) at positions at..at+T−1."""
        x = self.embed(tokens) + self.place.weight[at : at + tokens.shape[1]]
        for index, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[index], at)
        return functional.linear(self.norm(x), self.embed.weight)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """log P of tokens[:, 1:] given what stands before each: (B, T−1)."""
        logits = self(tokens[:, :-1])
        return -functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(
            len(tokens), -1
        )

    @torch.no_grad()
    def sample(self, prompts: Tensor, longest: int, generator: torch.Generator) -> Tensor:
        """Prompts (B, P) and up to `longest` sampled tokens each, PAD after END: (B, P + longest). Temperature 1."""
        b, start = prompts.shape
        tokens = torch.full((b, start + longest), PAD)
        tokens[:, :start] = prompts
        cache = torch.empty(self.layers, 2, b, self.heads, start + longest, self.width // self.heads)
        logits = self(prompts, cache)[:, -1]
        alive = torch.ones(b, dtype=torch.bool)
        for at in range(start, start + longest):
            # argmax of logits plus Gumbel noise is a draw from the softmax.
            noise = -torch.log(torch.empty_like(logits).exponential_(generator=generator))
            choice = torch.where(alive, (logits + noise).argmax(dim=-1), PAD)
            tokens[:, at] = choice
            alive &= choice != END
            if at + 1 == start + longest or not alive.any():
                break
            logits = self(choice[:, None], cache, at)[:, -1]
        return tokens
