"""What a model-based agent learns of training: where a run's mixtures so far have brought every domain.

An ensemble of small set networks maps what a domain, and those beside it, were given (how much lately, how much over the whole run) to the domain's
f̂ now. It is fitted to every measurement of every run at once. A model of one step that is played on and on was tried first: held-out
losses go up and down by more, from one step to the next, than what a schedule decides about, so that it took fluctuation for damage that
has to be avoided, and its errors added up over a run. Domains differ in ways that no feature shows before training (some wreck what was learnt
before, some cannot be learnt): each domain of each task has a small vector of its own, its effect, drawn to 0 by a prior, as in a mixed-effects
model. Without one, what is peculiar to the domains that got much text is taken for the effect of the text. Of a new task effects are not known: they are 0 where a
schedule is planned, and a policy that practises with the effects of the swarm's tasks learns to read them off the losses.

Where it sits: below world.py, which practises in it. Ours, not the paper's. Shapes: E members, B runs side by side, D domains (padded; `mask` [B, D] says
which are there), K numbers of memory; float32; f̂ in points, 100 · f̂.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamix.history import Trajectory

if TYPE_CHECKING:
    from datamix.world import Settings

POINTS = 100.0  # f̂ in points, so that levels and their changes are of order one to ten
SPANS = (0.05, 0.175, 0.6, math.inf)  # how far back in a run what was mixed is remembered, in shares of the run
SOFT = 0.02  # roots of weights are even about here: a trickle is worth little
KEPT = 2 * len(SPANS)  # numbers of a domain's memory: of its weights, and of their roots
SHOWN = 2 + 3 * len(SPANS) + len(SPANS)  # numbers a domain that the world is shown


def means(x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """[..., D, H] -> [..., 2H]: means over the source and over the target domains."""
    found = []
    for role in (source & mask, ~source & mask):
        m = role.to(x.dtype)[..., None]
        found.append((x * m).sum(-2) / m.sum(-2).clamp(min=1))
    return torch.cat(found, -1)


def score_of(gain: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """[..., D] -> [...]: the mean of the source domains' mean and the target domains' mean."""
    return means(gain[..., None], source, mask).mean(-1)


def fading(steps: Tensor) -> Tensor:
    """[B] -> [B, K]: what is left of a memory after one step of a run of so many."""
    spans = torch.tensor(SPANS, dtype=steps.dtype)
    return torch.exp(-1 / (spans * steps[:, None].clamp(min=1)))


def remember(memory: Tensor, weights: Tensor, steps: Tensor) -> Tensor:
    """[B, D, K] after a step under weights [B, D]: sums of past weights, fading, of the last span all of it; then of their roots, as much at once may be worth less than
    the same little by little."""
    kept = torch.stack([weights, (weights + SOFT).sqrt() - SOFT**0.5], -1).repeat_interleave(len(SPANS), -1)
    return memory * fading(steps).repeat(1, 2)[:, None] + kept


class World(nn.Module):
    """The ensemble, two layers a member, side by side in stacked matrices, so that all cost the operations of one. A domain is seen together with
    the means of what is seen of source and of target domains: indifferent to the order and number of domains."""

    def __init__(self, members: int, hidden: int, effects: int = 2) -> None:
        super().__init__()
        self.members, self.effects = members, effects
        for name, (rows, columns) in {
            "first": (SHOWN + effects, hidden),
            "second": (3 * hidden, hidden),
            "out": (hidden, 1),
        }.items():
            bound = rows**-0.5
            self.register_parameter(name, nn.Parameter(torch.empty(members, rows, columns).uniform_(-bound, bound)))
            self.register_parameter(
                name + "_bias", nn.Parameter(torch.empty(members, 1, columns).uniform_(-bound, bound))
            )

    def forward(
        self,
        memory: Tensor,
        step: Tensor,
        steps: Tensor,
        source: Tensor,
        mask: Tensor,
        base: Tensor,
        effect: Tensor | None = None,
    ) -> Tensor:
        """f̂ in points [E, B, D] after `step` [B] of `steps` [B] steps: memory [B, D, K], base [B, D] in bits per byte, effect [E, B, D, `effects`] (None: 0). Exactly 0 at
        the beginning of a run."""
        b, d, _ = memory.shape
        faded = fading(steps)
        # each span's memory as a mean: shares of the text lately, and of the whole run's
        size = torch.cat([1 - faded[:, :-1], 1 / steps[:, None].clamp(min=1)], 1).repeat(1, 2)[:, None]
        own = base.new_zeros(self.members, b, d, self.effects) if effect is None else effect
        p = self.get_parameter

        def said(memory: Tensor, step: Tensor) -> Tensor:
            lately = memory * size
            at = torch.cat(
                [1 - faded[:, :-1] ** step[:, None], torch.log1p(16 * step / steps.clamp(min=1))[:, None] / 3], 1
            )
            # little is very different from nothing, and much hardly from a little more: the root as well
            shown = [
                source.to(base.dtype)[..., None],
                base[..., None] / 4,
                lately,
                (lately[..., : len(SPANS)] + 1e-3).sqrt(),
                at[:, None].expand(b, d, -1),
            ]
            rows = torch.cat(shown, -1).expand(self.members, -1, -1, -1)
            rows = torch.cat([rows, own], -1).reshape(self.members, b * d, -1)
            h = F.silu(torch.baddbmm(p("first_bias"), rows, p("first"))).view(self.members, b, d, -1)
            around = means(h, source, mask)[..., None, :].expand(*h.shape[:-1], 2 * h.shape[-1])
            wide = torch.cat([h, around], -1).view(self.members, b * d, -1)
            z = F.silu(torch.baddbmm(p("second_bias"), wide, p("second")))
            return torch.baddbmm(p("out_bias"), z, p("out")).view(self.members, b, d)

        return 10 * (said(memory, step) - said(torch.zeros_like(memory), torch.zeros_like(step))) * mask


class Records(msgspec.Struct):
    """All measurements of R runs of at most T steps: memory [R, T+1, D, K], level [R, T+1, D] in points, source, mask, base [R, D], steps [R], slot [R, D]: which
    domain of which task, of `slots`; task [R]."""

    memory: Tensor
    level: Tensor
    source: Tensor
    mask: Tensor
    base: Tensor
    steps: Tensor
    slot: Tensor
    slots: int
    task: Tensor


def records(runs: Sequence[Trajectory]) -> Records:
    histories = [one.history() for one in runs]
    r, t, d = len(runs), max(map(len, histories)), max(len(one.names) for one in histories)
    memory, level = torch.zeros(r, t + 1, d, KEPT), torch.zeros(r, t + 1, d)
    source, mask = torch.zeros(r, d, dtype=torch.bool), torch.zeros(r, d, dtype=torch.bool)
    base, slot = torch.ones(r, d), torch.zeros(r, d, dtype=torch.long)
    steps = torch.tensor([float(len(one)) for one in histories])
    known: dict[tuple[str, str], int] = {}
    tasks: dict[str, int] = {}
    for i, (run, one) in enumerate(zip(runs, histories, strict=True)):
        n, m = len(one.names), len(one)
        source[i, :n], mask[i, :n], base[i, :n] = torch.from_numpy(one.source), True, torch.from_numpy(one.base).float()
        slot[i, :n] = torch.tensor([known.setdefault((run.task, name), len(known)) for name in one.names])
        tasks.setdefault(run.task, len(tasks))
        level[i, : m + 1, :n] = torch.from_numpy(POINTS * one.gains).float()
        for k in range(m):
            weights = torch.zeros(1, d)
            weights[0, :n] = torch.from_numpy(one.weights[k]).float()
            memory[i, k + 1] = remember(memory[i : i + 1, k], weights, steps[i : i + 1])[0]
    task = torch.tensor([tasks[run.task] for run in runs])
    return Records(memory, level, source, mask, base, steps, slot, len(known), task)


def fit(
    runs: Sequence[Trajectory], how: Settings, rng: np.random.Generator, tick: Callable[[], None]
) -> tuple[World, Tensor, dict[str, float | None]]:
    """The ensemble, each member on a bootstrap sample of the runs, and the effects [E, R, D, k] of the runs' domains. Said of it, over runs that a member was not
    shown: `r2` of all their levels, and `within`, the correlation of their final scores with the truth within tasks (None where no task has two such runs)."""
    data = records(runs)
    torch.manual_seed(int(rng.integers(2**31)))
    n = len(runs)
    world = World(how.members, how.hidden, how.effects)
    table = nn.Parameter(0.1 * torch.randn(how.members, data.slots, how.effects))
    drawn = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(how.members)]
    count = torch.from_numpy(np.stack(drawn)).float()  # [E, R]: how often a member's sample has a run
    groups = [
        {"params": list(world.parameters()), "weight_decay": how.world_decay},
        {"params": [table], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=how.world_lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.world_steps)

    def said(run: Tensor, step: Tensor) -> Tensor:
        return world(
            data.memory[run, step],
            step.float(),
            data.steps[run],
            data.source[run],
            data.mask[run],
            data.base[run],
            table[:, data.slot[run]],
        )

    last = data.steps.numpy().astype(np.int64)
    for k in range(how.world_steps):
        some = rng.integers(n, size=how.batch)
        # three in ten at the end, which is what counts
        step = np.where(
            rng.random(how.batch) < 0.3, last[some], 1 + (rng.random(how.batch) * last[some]).astype(np.int64)
        )
        run, at = torch.from_numpy(some), torch.from_numpy(step)
        # nearly the square: a narrower loss makes little of the large recoveries that late replay lives on
        error = F.huber_loss(
            said(run, at), data.level[run, at].expand(how.members, -1, -1), reduction="none", delta=10.0
        )
        weight = count[:, run][..., None] * data.mask[run]
        loss = ((error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).sum()
        loss = loss + how.effect_prior * table.square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        if k % 50 == 49:
            tick()
    world.requires_grad_(False)
    with torch.no_grad():
        told = _held_out(data, count == 0, said)
        return world, table[:, data.slot].detach(), told


def _held_out(data: Records, unseen: Tensor, said: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float | None]:
    """unseen [E, R]."""
    left = around = 0.0
    every = torch.arange(len(data.steps))
    whole = data.level[:, 1:][data.mask[:, None].expand(-1, data.level.shape[1] - 1, -1)].mean()
    for t in range(1, data.level.shape[1]):
        there = (unseen & (data.steps >= t))[..., None] & data.mask
        want = data.level[:, t].expand(there.shape)
        left += float((want - said(every, torch.full_like(every, t)))[there].square().sum())
        around += float((want - whole)[there].square().sum())
    end = data.steps.long()
    mine = score_of(said(every, end), data.source, data.mask)
    true = score_of(data.level[every, end], data.source, data.mask)
    pairs = []
    for e in range(len(unseen)):
        for task in data.task.unique():
            here = unseen[e] & (data.task == task)
            if int(here.sum()) > 1:
                pairs += [torch.stack([x[here] - x[here].mean() for x in (mine[e], true)])]
    found = torch.cat(pairs, 1) if pairs else torch.zeros(2, 0)
    within = float(torch.corrcoef(found)[0, 1]) if found.shape[1] > 2 and bool((found.std(1) > 0).all()) else None
    return {"r2": 1 - left / max(around, 1e-9), "within": within}
