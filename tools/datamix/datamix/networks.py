"""The networks of an agent (torch): `set`, which takes any number of domains in any order, and `decoder`, the paper's.

Where it sits: below sft.py, cql.py and agent.py. A network reads the states of whole runs in one causal pass (`encode`), proposes an
action at every state (`act`) and values given actions there (`value`). Other networks with these three methods can be agents' too: they
are listed in agent.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from datamix import features
from datamix.history import History
from datamix.simplex import Form, Limits, Outputs, limits_of


@dataclass
class States:
    """Runs as networks read them: B runs, S states each (before steps 0..S-1), D domains, padded where runs differ.

    x [B, S, D, F] of features.tokens; flat [B, S, 2D + 1]: row s is finished step s - 1, row 0 is zero; source, mask [B, D] bool;
    valid [B, S] bool; source_share [B]; left, steps_left [B, S] as simplex.limits_of takes them.
    """

    x: Tensor
    flat: Tensor
    source: Tensor
    mask: Tensor
    valid: Tensor
    source_share: Tensor
    left: Tensor
    steps_left: Tensor

    def limits(self, form: Form) -> Limits:
        """Of every state: source and mask [B, S, D], cap and limited [B, S]."""
        b, s, d = self.x.shape[:3]
        return limits_of(
            self.source[:, None].expand(b, s, d),
            self.mask[:, None].expand(b, s, d),
            self.source_share[:, None].expand(b, s),
            self.left,
            self.steps_left,
            form,
        )

    def take(self, rows: Tensor) -> States:
        """Some of the runs."""
        return States(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})


def states_of(histories: Sequence[History], feedback: bool = True) -> States:
    """t + 1 states of every run. feedback false: everything that losses reveal is zero."""
    b, s, d = len(histories), max(map(len, histories)) + 1, max(len(one.names) for one in histories)
    x = np.zeros((b, s, d, len(features.NAMES)), dtype=np.float32)
    flat = np.zeros((b, s, 2 * d + 1), dtype=np.float32)
    source, mask, valid = np.zeros((b, d), bool), np.zeros((b, d), bool), np.zeros((b, s), bool)
    left, steps_left = np.zeros((b, s), np.float32), np.zeros((b, s), np.float32)
    for i, one in enumerate(histories):
        t, n = len(one), len(one.names)
        found = features.tokens(one)
        x[i, : t + 1, :n] = found if feedback else features.without_feedback(found)
        if n == d:  # only runs over the same domains go to a network that reads this
            flat[i, 1 : t + 1] = features.flat(one, feedback)
        source[i, :n], mask[i, :n], valid[i, : t + 1] = one.source, True, True
        left[i, : t + 1], steps_left[i, : t + 1] = features.source_left(one), one.budget.steps - np.arange(t + 1)
    share = np.array([one.budget.source_share for one in histories], dtype=np.float32)
    return States(*map(torch.from_numpy, (x, flat, source, mask, valid, share, left, steps_left)))


class Network(Protocol):
    """What agents are made of; an nn.Module."""

    def encode(self, states: States, last: bool = False) -> Tensor:
        """What later heads need of every state: [B, S, ...], or of the last state alone, [B, 1, ...]."""

    def act(self, encoded: Tensor, states: States) -> Outputs:
        """Logits [B, S, D], gate and spread [B, S]."""

    def value(self, encoded: Tensor, states: States, actions: Tensor) -> Tensor:
        """Q [B, S, K] of mixtures [B, S, K, D]."""


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None) -> Tensor:
    """Attention of [N, n, H] to [N, m, H]; allowed broadcasts to [N, heads, n, m]."""
    n, rows, width = q.shape
    of_heads = [one.reshape(n, -1, heads, width // heads).transpose(1, 2) for one in (q, k, v)]
    found = nn.functional.scaled_dot_product_attention(of_heads[0], of_heads[1], of_heads[2], attn_mask=allowed)
    return found.transpose(1, 2).reshape(n, rows, width)


class Attention(nn.Module):
    """x + attention of x's rows, normalised first. queries: only the last so many rows ask and come back."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, allowed: Tensor | None, queries: int | None = None) -> Tensor:
        k, v = self.keys(x)
        return self.asked(x if queries is None else x[:, -queries:], k, v, allowed)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(self.norm(x)).chunk(2, dim=-1)
        return k, v

    def asked(self, x: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        found: Tensor = x + self.out(attend(self.q(self.norm(x)), k, v, self.heads, allowed))
        return found


class Feed(nn.Module):
    """x + two layers of x, normalised first."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.layers(x)
        return found


class Memory(NamedTuple):
    """What `follow` keeps of a run: states x [S, D, F] and the keys and values over time [D, S, H] of them."""

    x: Tensor
    k: Tensor
    v: Tensor


def causal(s: int) -> Tensor:
    """[s, s] bool: what each state may look at."""
    return torch.ones(s, s, dtype=torch.bool).tril()


def others(mask: Tensor, s: int) -> Tensor | None:
    """mask [B, D] for attention over domains of s states a run: [B·s, 1, 1, D], None where nothing is padded."""
    if bool(mask.all()):
        return None
    return mask[:, None, None, None, :].expand(-1, s, 1, 1, -1).reshape(-1, 1, 1, mask.shape[1])


class SetNetwork(nn.Module):
    """A token for every step and domain, weights shared by all domains: attention over the domains of a step, then over a domain's own
    past, then over domains again. Permuting domains permutes the logits and leaves Q alone; no size depends on D.

    Only the first layer sees every step; for a decision the others are asked of the last state alone, so that its time is that of one
    attention over domains a step. About 25,000 parameters at width 32.
    """

    def __init__(self, *, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(len(features.NAMES), width)
        self.over_domains, self.over_time = Attention(width, heads), Attention(width, heads)
        self.between = Feed(width, 2 * width)
        self.over_domains_again, self.last = Attention(width, heads), Feed(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.logit, self.of_run = nn.Linear(width, 1), nn.Linear(3 * width, 2)
        self.of_state, self.of_action = nn.Linear(width, width), nn.Linear(2, width, bias=False)
        self.q = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        for head in (self.logit, self.of_run):  # begin at the even mixture
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def encode(self, states: States, last: bool = False) -> Tensor:
        b, s, d, _ = states.x.shape
        h = self.embed(states.x)
        width = h.shape[-1]
        h = self.over_domains(h.reshape(b * s, d, width), others(states.mask, s))
        h = h.view(b, s, d, width).transpose(1, 2).reshape(b * d, s, width)
        h = self.over_time(h, None if last else causal(s), queries=1 if last else None)
        return self._above(h, states.mask)

    def _above(self, h: Tensor, mask: Tensor) -> Tensor:
        """What follows the attention over time: [B·D, S, H] -> [B, S, D, H]."""
        (b, d), (_, rows, width) = mask.shape, h.shape
        h = self.between(h).view(b, d, rows, width).transpose(1, 2).reshape(b * rows, d, width)
        found: Tensor = self.norm(self.last(self.over_domains_again(h, others(mask, rows)))).view(b, rows, d, width)
        return found

    def follow(self, states: States, memory: Memory | None) -> tuple[Tensor, Memory]:
        """encode(states, last=True) of one run, and what to bring along to its next step: keys and values of the states so far, which
        need no second look. A memory of another run is seen to be one, and left."""
        x, known = states.x[0], 0
        if memory is not None and len(memory.x) <= len(x) and torch.equal(memory.x, x[: len(memory.x)]):
            known = min(len(memory.x), len(x) - 1)
        h = self.over_domains(self.embed(x[known:]), others(states.mask, len(x) - known)).transpose(0, 1)  # [D, new, H]
        k, v = self.over_time.keys(h)
        if memory is not None and known:
            k, v = torch.cat([memory.k[:, :known], k], 1), torch.cat([memory.v[:, :known], v], 1)
        h = self.over_time.asked(h[:, -1:], k, v, None)
        return self._above(h, states.mask), Memory(x, k, v)

    def act(self, encoded: Tensor, states: States) -> Outputs:
        source, mask = states.source[:, None, :, None], states.mask[:, None, :, None]
        pooled = torch.cat([mean(encoded, one) for one in (mask, source, mask & ~source)], dim=-1)
        of_run = self.of_run(pooled)
        return Outputs(self.logit(encoded)[..., 0], of_run[..., 0], of_run[..., 1])

    def value(self, encoded: Tensor, states: States, actions: Tensor) -> Tensor:
        d = states.mask.sum(-1).view(-1, 1, 1, 1).to(actions.dtype)
        each = torch.stack([actions, torch.log1p(actions * d)], dim=-1)
        h = torch.relu(self.of_state(encoded)[:, :, None] + self.of_action(each))
        mask = states.mask[:, None, None, :, None]
        pooled = torch.cat([mean(h, mask), (h * actions[..., None]).sum(-2)], dim=-1)  # by domain and by token
        found: Tensor = self.q(pooled)[..., 0]
        return found


def mean(h: Tensor, mask: Tensor) -> Tensor:
    """Over domains: [..., D, H] -> [..., H]; mask [..., D, 1]."""
    kept: Tensor = (h * mask).sum(-2) / mask.sum(-2).clamp(min=1)
    return kept


class DecoderNetwork(nn.Module):
    """The paper's: a token for every past step, Linear([a, f̂, t/T]), a learned one for the start, and a causal transformer over them,
    whose last row is the state. For the D domains it was made for, in their order. 1.6 M parameters at width 256, 2 layers and D = 52
    (the 2.1 M told of the paper's are what two layers with cross-attention would have)."""

    def __init__(self, *, domains: int, width: int = 256, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.start, self.embed = nn.Parameter(torch.zeros(width)), nn.Linear(2 * domains + 1, width)
        self.attention = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.feed = nn.ModuleList(Feed(width, 4 * width) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, domains + 2)
        self.q = nn.Sequential(nn.Linear(width + domains, width), nn.GELU(), nn.Linear(width, 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, states: States, last: bool = False) -> Tensor:
        s = states.flat.shape[1]
        h = self.embed(states.flat)
        h = torch.cat([self.start.expand(h.shape[0], 1, -1), h[:, 1:]], dim=1)
        for i, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            alone = last and i == len(self.attention) - 1  # the last row looks at all
            h = feed(attention(h, None if alone else causal(s), queries=1 if alone else None))
        found: Tensor = self.norm(h)
        return found

    def act(self, encoded: Tensor, states: States) -> Outputs:
        out = self.out(encoded)
        return Outputs(out[..., :-2], out[..., -2], out[..., -1])

    def value(self, encoded: Tensor, states: States, actions: Tensor) -> Tensor:
        h = encoded[:, :, None].expand(*actions.shape[:3], encoded.shape[-1])
        found: Tensor = self.q(torch.cat([h, actions * actions.shape[-1]], dim=-1))[..., 0]
        return found


def parameters(network: nn.Module) -> int:
    """How many numbers a network has."""
    return sum(one.numel() for one in network.parameters())
