"""The action of an agent: from the numbers a network puts out to a mixture that may be used, and densities over mixtures.

Where it sits: shared by the behaviour-cloned, the conservative and the model-based agent. Pure functions of torch tensors, batched over
any leading dimensions, differentiable; `mask` [..., D] is true where there is a domain (batches hold runs with different numbers of them).

Two simplices. A network acts on y, any point of the simplex over D domains. The mixture a is y itself where source text is not limited.
Where it is, y's source part m = Σ_S y is a share of what is allowed, a = squeeze(y):

    a_S = cap · y_S,   a_T = y_T · (1 - cap·m) / (1 - m)

a bijection between the simplex and the mixtures whose source share is at most cap; cap = 1 is the identity. cap of a step is min(1, source
tokens left, in steps' worth) in form `free`; min(1, left / steps left) in form `lean`, which cannot run dry before the end; and that, but at
most PACE times the budget's share of a run, in form `paced`, which cannot save all of it for a last few steps, of which swarms know little. Densities
are over y, so that Dirichlet(1) is uniform with log-density ln Γ(D), whatever the limit.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamix.history import History
from datamix.mixture import Weights, capped, with_source_share

Form = Literal["paced", "lean", "free"]
PACE = 2.5  # times the source budget's rate that a `paced` step may use
Density = Literal["dirichlet", "logistic-normal"]
FLOOR = 1e-4  # no domain's share of y is less
LEAST = 1e-7  # samples are kept this far inside the simplex, where logarithms are finite


class Outputs(NamedTuple):
    """What an actor's network puts out. logits [..., D]; gate [...]: logit of m, the share of the allowed source; spread [...]: how near
    samples lie to the centre, in (-1, 1) after tanh."""

    logits: Tensor
    gate: Tensor
    spread: Tensor


class Limits(NamedTuple):
    """What a mixture must keep to. source, mask [..., D] bool; cap [...]: highest source share; limited [...] bool: whether there is a
    limit in this run at all (where not, the gate is not used and cap is 1)."""

    source: Tensor
    mask: Tensor
    cap: Tensor
    limited: Tensor


def limits_of(
    source: Tensor, mask: Tensor, source_share: Tensor, left: Tensor, steps_left: Tensor, form: Form
) -> Limits:
    """source, mask [..., D]; source_share of the run, source tokens left in steps' worth and steps left, each [...]."""
    limited = source_share < 1
    allowed = left if form == "free" else left / steps_left.clamp(min=1)
    if form == "paced":
        allowed = torch.minimum(allowed, PACE * source_share)
    return Limits(source, mask, torch.where(limited, allowed.clamp(0, 1), torch.ones_like(allowed)), limited)


def point_of(outputs: Outputs, limits: Limits, floor: float = FLOOR) -> Tensor:
    """y [..., D], the centre of what the network proposes: a softmax over all domains, or, where source is limited, one within the source
    and one within the target domains, joined by the gate."""
    logits = outputs.logits.masked_fill(~limits.mask, -torch.inf)
    whole = logits.softmax(-1)
    of_source = logits.masked_fill(~limits.source, -1e9).softmax(-1)
    of_target = logits.masked_fill(limits.source, -1e9).softmax(-1)
    m = outputs.gate.sigmoid()[..., None]
    y = torch.where(limits.limited[..., None], m * of_source + (1 - m) * of_target, whole)
    d = limits.mask.sum(-1, keepdim=True)
    least = torch.clamp(1 / d.clamp(min=1).to(y.dtype), max=floor)
    return torch.where(limits.mask, (1 - least * d) * y + least, 0)


def squeeze(y: Tensor, limits: Limits) -> Tensor:
    """The mixture of a point of the simplex, [..., D] -> [..., D]; limits may lack y's last leading dimensions' size where it is 1."""
    m = torch.where(limits.source, y, 0).sum(-1, keepdim=True)
    cap = limits.cap[..., None]
    return y * torch.where(limits.source, cap, (1 - cap * m) / (1 - m).clamp(min=1e-9))


def unsqueeze(a: Tensor, limits: Limits, floor: float = FLOOR) -> Tensor:
    """The point whose mixture is a. A source share above cap, which the limit forbids, is taken as cap; where cap is 0 nothing tells m,
    and it is ½. At least `floor` a domain, so that a drawn share of 0 has finite logarithms."""
    s = torch.where(limits.source, a, 0).sum(-1, keepdim=True)
    cap = limits.cap[..., None]
    m = torch.where(cap > 1e-6, s / cap.clamp(min=1e-6), 0.5).clamp(0, 1)
    n_source = limits.source.sum(-1, keepdim=True)
    n_target = (limits.mask & ~limits.source).sum(-1, keepdim=True)
    u = torch.where(s > 1e-9, a / s.clamp(min=1e-9), 1 / n_source.clamp(min=1))
    v = torch.where(1 - s > 1e-9, a / (1 - s).clamp(min=1e-9), 1 / n_target.clamp(min=1))
    y = torch.where(limits.source, m * u, (1 - m) * v)
    d = limits.mask.sum(-1, keepdim=True)
    least = torch.clamp(1 / d.clamp(min=1).to(y.dtype), max=floor)
    y = torch.where(limits.mask, y, 0)
    y = y / y.sum(-1, keepdim=True).clamp(min=1e-9)
    return torch.where(limits.mask, (1 - least * d) * y + least, 0)


def mixture_of(outputs: Outputs, limits: Limits, floor: float = FLOOR) -> Tensor:
    """The mixture that an actor's outputs mean, [..., D]: on the simplex, every domain at least `floor` (sources: of what is allowed),
    source share at most cap."""
    return squeeze(point_of(outputs, limits, floor), limits)


# ---------------------------------------------------------------- densities over y


def concentration(spread: Tensor, mask: Tensor) -> Tensor:
    """c [...] of Dirichlet(1 + c·y): D·exp(4 tanh(spread)), a number for any D; at 0 a domain's sd is about its share at evenness / √D."""
    return mask.sum(-1) * torch.exp(4 * torch.tanh(spread))


def dirichlet_at(y: Tensor, c: Tensor, mask: Tensor) -> Tensor:
    """α = 1 + c·y, [..., D]. α_min is 1, so that the density is bounded and its mode is y itself: what is decided without chance."""
    return torch.where(mask, 1 + c[..., None] * y, 1.0)


def dirichlet_sample(alpha: Tensor, mask: Tensor) -> Tensor:
    """[..., D], differentiable in alpha: Gamma variables over their sum."""
    return _inside(torch.distributions.Gamma(alpha, torch.ones_like(alpha)).rsample(), mask)


def dirichlet_log_density(y: Tensor, alpha: Tensor, mask: Tensor) -> Tensor:
    """[...]: ln Γ(Σα) - Σ ln Γ(α) + Σ (α - 1) ln y over the domains of the mask."""
    total = torch.where(mask, alpha, 0).sum(-1)
    each = (alpha - 1) * torch.log(y.clamp(min=LEAST)) - torch.lgamma(alpha)
    return torch.lgamma(total) + torch.where(mask, each, 0).sum(-1)


def uniform_log_density(mask: Tensor) -> Tensor:
    """ln Γ(D) [...]: of Dirichlet(1), the inverse volume of the simplex in D - 1 coordinates."""
    return torch.lgamma(mask.sum(-1).float())


def logistic_sd(spread: Tensor) -> Tensor:
    """σ [...] of the logistic-normal: ½ exp(-2 tanh(spread)), between .07 and 3.7."""
    return 0.5 * torch.exp(-2 * torch.tanh(spread))


def logistic_normal_sample(y: Tensor, sd: Tensor, mask: Tensor) -> Tensor:
    """softmax(log y + σ ξ), ξ standard normal; [..., D], differentiable in both."""
    noise = torch.randn(y.shape) * sd[..., None]
    logits = (torch.log(y.clamp(min=LEAST)) + noise).masked_fill(~mask, -torch.inf)
    return _inside(logits.softmax(-1), mask)


def logistic_normal_log_density(x: Tensor, y: Tensor, sd: Tensor, mask: Tensor) -> Tensor:
    """[...]: of x under the logistic-normal about y, on the simplex in D - 1 coordinates. In centred log-ratios z it is an isotropic
    normal on the hyperplane Σz = 0, whose volume element is 1 / (√D Π x)."""
    d = mask.sum(-1).to(x.dtype)

    def centred(p: Tensor) -> Tensor:
        logs = torch.where(mask, torch.log(p.clamp(min=LEAST)), 0)
        return torch.where(mask, logs - logs.sum(-1, keepdim=True) / d[..., None], 0)

    off = (centred(x) - centred(y)).square().sum(-1) / sd.square()
    volume = torch.where(mask, torch.log(x.clamp(min=LEAST)), 0).sum(-1) + d.log() / 2
    return -off / 2 - (d - 1) * (sd.log() + math.log(2 * math.pi) / 2) - volume


def _inside(x: Tensor, mask: Tensor) -> Tensor:
    x = torch.where(mask, x.clamp(min=LEAST), 0)
    return x / x.sum(-1, keepdim=True).clamp(min=LEAST)


def draw(
    outputs: Outputs, limits: Limits, n: int, density: Density = "dirichlet", floor: float = FLOOR
) -> tuple[Tensor, Tensor]:
    """n points y [..., n, D] of the policy and their log-densities [..., n], differentiable in the outputs."""
    y = point_of(outputs, limits, floor)[..., None, :].expand(*limits.mask.shape[:-1], n, -1)
    mask = limits.mask[..., None, :].expand_as(y)
    spread = outputs.spread[..., None].expand(y.shape[:-1])
    if density == "dirichlet":
        alpha = dirichlet_at(y, concentration(spread, mask), mask)
        x = dirichlet_sample(alpha, mask)
        return x, dirichlet_log_density(x, alpha, mask)
    sd = logistic_sd(spread)
    x = logistic_normal_sample(y, sd, mask)
    return x, logistic_normal_log_density(x, y, sd, mask)


def log_density(
    x: Tensor, outputs: Outputs, limits: Limits, density: Density = "dirichlet", floor: float = FLOOR
) -> Tensor:
    """Of points x [..., D] under the policy, [...]."""
    y = point_of(outputs, limits, floor)
    if density == "dirichlet":
        alpha = dirichlet_at(y, concentration(outputs.spread, limits.mask), limits.mask)
        return dirichlet_log_density(x, alpha, limits.mask)
    return logistic_normal_log_density(x, y, logistic_sd(outputs.spread), limits.mask)


def over(limits: Limits, n: int) -> Limits:
    """The same limits for n points each: [...] -> [..., n], so that squeeze takes points [..., n, D]."""
    shape = limits.mask.shape
    return Limits(
        limits.source[..., None, :].expand(*shape[:-1], n, shape[-1]),
        limits.mask[..., None, :].expand(*shape[:-1], n, shape[-1]),
        limits.cap[..., None].expand(*shape[:-1], n),
        limits.limited[..., None].expand(*shape[:-1], n),
    )


# ---------------------------------------------------------------- what a run allows


def keep_to(weights: Weights, history: History) -> Weights:
    """A mixture held to what the run still allows: source tokens left, and max_epochs of every domain spread over the steps left
    (max_epochs · available / remaining). Where both cannot hold, the source limit does."""
    budget = history.budget
    most_source = 1.0 if budget.source_share >= 1 else min(1.0, history.source_left)
    if budget.max_epochs > 0:
        used = history.weights.sum(0) * budget.tokens
        left = np.maximum(budget.max_epochs * history.available - used, 0.0)
        most = np.minimum(left / (budget.tokens * max(history.steps_left, 1)), 1.0)
        if most.sum() > 0:
            weights = with_source_share(capped(weights, most), history.source, most_source)
            target = ~history.source
            share = weights[target].sum()
            if share > 0 and most[target].sum() > 0:
                weights = weights.copy()
                weights[target] = share * capped(weights[target] / share, most[target] / share)
    return with_source_share(weights, history.source, most_source)
