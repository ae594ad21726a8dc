"""The objective that a policy is trained with (arXiv 2508.20722, equations 1, 2, 6 and 7), and log-probabilities without a table of all logits.

    J = 1 / sum_i |o_i| * sum_i sum_t min(rho_it A_i, clip(rho_it, 1 - low, 1 + high) A_i),   rho_it = pi(o_it) / pi_old(o_it)

over the trajectories i that were kept and the tokens t that the model sampled. The denominator is of the whole batch of an update, whatever micro-batches and ranks it is split over: `loss` gives a sum over
one micro-batch divided by what the caller has counted for all. Nothing is added: no KL term, no entropy bonus. `per_trajectory` is plain GRPO's average of averages (equation 1).

Where it sits: below train.py and toy.py. torch only.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch.utils.checkpoint import checkpoint

Tensor = torch.Tensor


class Clip(msgspec.Struct, frozen=True):
    """The range 1 - low to 1 + high beyond which a ratio brings nothing more: higher above, so that rare tokens may grow (section 2.2.1)."""

    low: float = 0.2
    high: float = 0.28


class Stats(msgspec.Struct):
    """Sums over a micro-batch's sampled tokens, to be divided by `tokens` once all are together. clipped_low and clipped_high: tokens whose gradient the clip took away; kl: of old from new, by
    ratio - 1 - log(ratio) (Schulman's estimator, never negative)."""

    tokens: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    kl: float = 0.0
    ratio_most: float = 0.0

    def add(self, other: Stats) -> None:
        self.tokens += other.tokens
        self.clipped_low += other.clipped_low
        self.clipped_high += other.clipped_high
        self.kl += other.kl
        self.ratio_most = max(self.ratio_most, other.ratio_most)


def surrogate(logp: Tensor, old: Tensor, advantage: Tensor, clip: Clip) -> Tensor:
    """Minus the clipped gain of each token, the shape of `logp`; old and advantage are constants."""
    ratio = torch.exp(logp - old.detach())
    held = torch.clamp(ratio, 1 - clip.low, 1 + clip.high)
    return -torch.minimum(ratio * advantage, held * advantage)


def loss(
    logp: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    denominator: float,
    clip: Clip | None = None,
    *,
    weight: Tensor | None = None,
) -> tuple[Tensor, Stats]:
    """(sum of the sampled tokens' losses / denominator, counts). logp, old, mask: one shape, mask True at sampled tokens; advantage broadcasts to it. denominator: the sampled tokens of the whole update.
    weight: of each token, in place of 1 (`per_trajectory`). Tokens that are masked have no influence, whatever they hold, NaN included."""
    clip = clip or Clip()
    zero = torch.zeros((), dtype=logp.dtype, device=logp.device)
    logp, old = torch.where(mask, logp, zero), torch.where(mask, old, zero)
    advantage = torch.where(mask, advantage.to(logp.dtype).expand_as(logp), zero)
    each = surrogate(logp, old, advantage, clip)
    if weight is not None:
        each = each * torch.where(mask, weight.to(logp.dtype).expand_as(logp), zero)
    total = torch.where(mask, each, zero).sum() / denominator
    with torch.no_grad():
        difference = logp - old
        ratio = torch.exp(difference)
        stats = Stats(
            float(mask.sum()),
            float((mask & (advantage < 0) & (ratio < 1 - clip.low)).sum()),
            float((mask & (advantage > 0) & (ratio > 1 + clip.high)).sum()),
            float((torch.where(mask, ratio - 1 - difference, zero)).sum()),
            float(torch.where(mask, ratio, zero).max()) if mask.any() else 0.0,
        )
    return total, stats


def per_trajectory(lengths: Tensor) -> Tensor:
    """Weights [B] of trajectories' tokens with which a denominator of B makes plain GRPO's average of averages (equation 1). lengths [B]: sampled tokens of each."""
    return 1.0 / lengths.clamp(min=1)


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, *, temperature: float = 1.0, chunk: int = 1024, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(log pi of each target [N], entropies [N] or None), in float32 (float64 where hidden is). hidden [N, d]: final states, each before its target; head [V, d]: the output matrix. Never more than `chunk` rows
    of V logits are held: those of other rows are worked out once more on the way back. entropy: without gradient."""

    def rows(states: Tensor, wanted: Tensor) -> Any:
        logits = states @ head.T.to(states.dtype)
        wide = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
        log = wide - torch.logsumexp(wide, -1, keepdim=True)
        chosen = log.gather(-1, wanted[:, None])[:, 0]
        if not entropy:
            return chosen, chosen.detach()
        with torch.no_grad():
            return chosen, -(log.exp() * log).sum(-1)

    found = []
    for first in range(0, len(hidden), chunk):
        states, wanted = hidden[first : first + chunk], targets[first : first + chunk]
        if torch.is_grad_enabled() and len(hidden) > chunk:
            found.append(checkpoint(rows, states, wanted, use_reentrant=False))
        else:
            found.append(rows(states, wanted))
    if not found:
        empty = hidden.new_zeros(0)
        return empty, empty if entropy else None
    chosen = torch.cat([one for one, _ in found])
    return chosen, torch.cat([one for _, one in found]) if entropy else None
