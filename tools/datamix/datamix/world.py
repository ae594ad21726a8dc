"""The model-based agent: learn what one step of training does to every domain, then practise schedules in imagination.

The paper trains its agent by conservative Q-learning (cql.py). A few dozen runs say little about a sixteen-step delayed effect through one
number, a return; they say much about the effect of one step on every domain's loss. So here an ensemble of small set networks is fitted
to the change of each domain's f̂ in one step, and a policy is improved by gradient through whole imagined runs, in which a random member
plays the world and the members' disagreement is paid for. Ours, not the paper's: a model-based agent with a pessimistic objective, as in
MOPO (arXiv 2005.13239), over the same swarm, features and action as the paper's; `datamix compare` shows both.

Where it sits: train.py calls `train`; the policy is an agent of architecture `pooled`. Shapes: B runs side by side, D domains (padded;
`mask` [B, D] says which are there), F features of features.NAMES; float32.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamix import features, sft, simplex
from datamix.agent import Agent, Card
from datamix.history import Decision, Floats, History, Trajectory
from datamix.mixture import Weights
from datamix.networks import States, states_of
from datamix.simplex import Form, Limits, Outputs
from tenfold_shared import BadInput
from tenfold_shared.jsonl import write_atomic

WORLD = "world.safetensors"
POINTS = 100.0  # f̂ in points, so that a step's changes are of order one
COLUMN = {name: k for k, name in enumerate(features.NAMES)}
# What the world is shown of a domain: nothing of clock and budget, which text does not know of, but whether the run has just begun, when the
# optimiser has no state. What the policy is shown: not its own last action, which it would only repeat.
OF_WORLD = ("source", "base", "gain", "gain_change", "epochs", "share")
OF_POLICY = ("source", "base", "gain", "gain_change", "share", "progress", "source_left", "source_rate")


class Settings(msgspec.Struct, frozen=True):
    """members: of the ensemble; caution: how much of their disagreement, summed over a run, the run's score is charged; feedback false: the
    policy is shown no losses, a control."""

    members: int = 5
    hidden: int = 48
    world_steps: int = 700
    batch: int = 256
    world_lr: float = 3e-3
    world_decay: float = 0.3
    policy_decay: float = 0.03
    cloning_steps: int = 60
    policy_steps: int = 300
    policy_lr: float = 3e-3
    rollouts: int = 64
    caution: float = 0.5
    shrink: float = 0.0
    form: Form = "paced"
    split: str = "even"
    feedback: bool = True


class SetLayers(nn.Module):
    """Two layers that see a domain together with the means of what is seen of source and of target domains: [B, D, inputs] -> [B, D, out], and
    `whole` numbers a run. Indifferent to the order and number of domains."""

    def __init__(self, inputs: int, hidden: int, out: int, whole: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(3 * hidden, hidden)
        self.out = nn.Linear(hidden, out)
        self.whole = nn.Linear(2 * hidden, whole) if whole else None

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        h = F.silu(self.first(x))
        around = means(h, source, mask)[..., None, :].expand(*h.shape[:-1], 2 * h.shape[-1])
        z = F.silu(self.second(torch.cat([h, around], -1)))
        return self.out(z), (None if self.whole is None else self.whole(means(z, source, mask)))


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


class PooledNetwork(nn.Module):
    """The policy: an agents' network (networks.Network) that reads the last state alone. split `even` shares a role's tokens evenly."""

    def __init__(self, width: int = 48, split: str = "learned") -> None:
        super().__init__()
        if split not in ("learned", "even"):
            raise ValueError(f"split {split}: expected learned or even")
        self.columns = [COLUMN[name] for name in OF_POLICY]
        self.layers, self.split = SetLayers(len(self.columns), width, 1, 1), split
        nn.init.zeros_(self.layers.out.weight)  # an even split to begin with
        nn.init.zeros_(self.layers.out.bias)

    def encode(self, states: States, last: bool = False) -> Tensor:
        return states.x[:, -1:] if last else states.x

    def act(self, encoded: Tensor, states: States) -> Outputs:
        b, s, d, _ = encoded.shape
        source, mask = (one[:, None].expand(b, s, d) for one in (states.source, states.mask))
        logits, gate = self.outputs(encoded, source, mask)
        return Outputs(logits, gate, torch.zeros_like(gate))

    def outputs(self, x: Tensor, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [..., D] and gate [...] from features [..., D, F]."""
        out, whole = self.layers(x[..., self.columns], source, mask)
        assert whole is not None
        logits = out[..., 0]
        return (torch.zeros_like(logits) if self.split == "even" else logits), whole[..., 0]

    def value(self, encoded: Tensor, states: States, actions: Tensor) -> Tensor:
        raise BadInput("a pooled network decides and values nothing; its agent's values are of another")


class PooledValue(nn.Module):
    """The value of an action: the final score, in points, of imagined runs that use it now and the policy afterwards."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.columns = [COLUMN[name] for name in OF_POLICY]
        self.layers = SetLayers(len(self.columns) + 2, width, 1, 1)

    def encode(self, states: States, last: bool = False) -> Tensor:
        return states.x[:, -1:] if last else states.x

    def act(self, encoded: Tensor, states: States) -> Outputs:
        raise BadInput("a value decides nothing")

    def of(self, x: Tensor, source: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """[...] from features [..., D, F] and mixtures [..., D]."""
        _, whole = self.layers(torch.cat([x[..., self.columns], seen(weights)], -1), source, mask)
        assert whole is not None
        return 10 * whole[..., 0]

    def value(self, encoded: Tensor, states: States, actions: Tensor) -> Tensor:
        b, s, d, f = encoded.shape
        k = actions.shape[2]
        x = encoded[:, :, None].expand(b, s, k, d, f)
        source, mask = (one[:, None, None].expand(b, s, k, d) for one in (states.source, states.mask))
        return self.of(x, source, mask, actions)


def seen(weights: Tensor) -> Tensor:
    """A mixture as networks see it, [..., D, 2]: little is very different from nothing, and much hardly from a little more."""
    return torch.stack([weights, (weights + 1e-3).sqrt()], -1)


class World(nn.Module):
    """The ensemble: what each of E members takes the change of every domain's f̂ to be, in points, by one step under a mixture. The members are
    PooledNetwork's two layers, side by side in stacked matrices, so that all of them cost the operations of one."""

    def __init__(self, members: int, hidden: int) -> None:
        super().__init__()
        self.columns = [COLUMN[name] for name in OF_WORLD]
        inputs = len(self.columns) + 3
        self.members = members
        for name, (rows, columns) in {
            "first": (inputs, hidden),
            "second": (3 * hidden, hidden),
            "out": (hidden, 1),
        }.items():
            bound = rows**-0.5
            self.register_parameter(name, nn.Parameter(torch.empty(members, rows, columns).uniform_(-bound, bound)))
            self.register_parameter(
                name + "_bias", nn.Parameter(torch.empty(members, 1, columns).uniform_(-bound, bound))
            )

    def forward(self, x: Tensor, source: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """[E, B, D] from features [B, D, F] and mixtures [B, D]; or features [E, B, D, F], where members see worlds of their own."""
        *_, b, d, _ = x.shape
        begun = (x[..., COLUMN["progress"]] == 0).to(x.dtype)[..., None]
        acted = seen(weights).expand(*x.shape[:-1], 2)
        rows = torch.cat([x[..., self.columns], begun, acted], -1).reshape(-1, b * d, len(self.columns) + 3)
        p = self.get_parameter
        h = F.silu(torch.baddbmm(p("first_bias"), rows.expand(self.members, -1, -1), p("first"))).view(
            self.members, b, d, -1
        )
        around = means(h, source, mask)[..., None, :].expand(*h.shape[:-1], 2 * h.shape[-1])
        wide = torch.cat([h, around], -1).view(self.members, b * d, -1)
        z = F.silu(torch.baddbmm(p("second_bias"), wide, p("second")))
        return torch.baddbmm(p("out_bias"), z, p("out")).view(self.members, b, d)


# ---------------------------------------------------------------- imagined runs


class Imagined(msgspec.Struct):
    """Where B imagined runs stand: what features.tokens needs of them. base bits per byte, gain and change in points, used steps' worth of each
    domain, epoch [B, D]: epochs that one step on a domain alone is, size as in the features, allowed [B]: source budget in steps."""

    base: Tensor
    gain: Tensor
    change: Tensor
    used: Tensor
    epoch: Tensor
    size: Tensor
    last: Tensor
    source: Tensor
    mask: Tensor
    share: Tensor
    step: Tensor
    steps: Tensor

    def features(self, feedback: bool = True) -> Tensor:
        """[B, D, F], as features.tokens has them."""
        d = self.mask.sum(-1, keepdim=True).float()
        ones = torch.ones_like(self.base)
        epochs = self.used * self.epoch
        limited = (self.share < 1).float()[:, None]
        allowed = (self.share * self.steps)[:, None]
        left = self.left()[:, None]
        remaining = (self.steps - self.step).clamp(min=1)[:, None]
        fed = 1.0 if feedback else 0.0
        of = {
            "source": self.source.float(), "weight": self.last, "epochs": epochs / (1 + epochs), "share": self.used / self.step[:, None].clamp(min=1),
            "size": self.size, "base": fed * self.base / 4, "loss": fed * self.base * (1 - self.gain / POINTS) / 4, "gain": fed * self.gain * 10 / POINTS,
            "gain_change": fed * self.change * 100 / POINTS, "progress": ones * (self.step / self.steps)[:, None],
            "source_left": ones * (limited * left / allowed.clamp(min=1e-9) + 1 - limited),
            "source_rate": ones * (limited * (left / remaining).clamp(max=1) + 1 - limited) * (self.step < self.steps)[:, None], "domains": ones * d.log() / 3,
        }  # fmt: skip
        return torch.stack([of[name] for name in features.NAMES], -1) * self.mask[..., None]

    def left(self) -> Tensor:
        """Source budget left, in steps' worth, [B]."""
        return (self.share * self.steps - (self.used * self.source).sum(-1)).clamp(min=0)

    def limits(self, form: Form) -> Limits:
        return simplex.limits_of(self.source, self.mask, self.share, self.left(), self.steps - self.step, form)

    def after(self, weights: Tensor, change: Tensor) -> Imagined:
        return Imagined(self.base, self.gain + change, change, self.used + weights, self.epoch, self.size, weights, self.source, self.mask, self.share, self.step + 1, self.steps)  # fmt: skip

    def take(self, rows: Tensor) -> Imagined:
        return Imagined(*(getattr(self, name)[rows] for name in self.__struct_fields__))


def beginnings(runs: Sequence[Trajectory]) -> Imagined:
    """Where the runs of a swarm began."""
    histories = [one.history().upto(0) for one in runs]
    b, d = len(histories), max(len(one.names) for one in histories)
    base, source, mask = np.ones((b, d)), np.zeros((b, d), bool), np.zeros((b, d), bool)
    epoch, size, share, steps = np.zeros((b, d)), np.zeros((b, d)), np.zeros(b), np.zeros(b)
    for i, one in enumerate(histories):
        n = len(one.names)
        base[i, :n], source[i, :n], mask[i, :n] = one.base, one.source, True
        epoch[i, :n] = one.budget.tokens / one.available
        size[i, :n] = np.log(one.available / one.available.mean()) / 2
        share[i], steps[i] = one.budget.source_share, len(runs[i].steps)
    zero = torch.zeros(b, d)

    def of(x: Any) -> Tensor:
        return torch.from_numpy(x).float()

    return Imagined(of(base), zero, zero, zero, of(epoch), of(size), zero, torch.from_numpy(source), torch.from_numpy(mask), of(share), torch.zeros(b), of(steps))  # fmt: skip


def decide(policy: PooledNetwork, now: Imagined, how: Settings) -> Tensor:
    """The policy's mixtures, [B, D]."""
    logits, gate = policy.outputs(now.features(how.feedback), now.source, now.mask)
    return simplex.mixture_of(Outputs(logits, gate, torch.zeros_like(gate)), now.limits(how.form))


def imagine(
    policy: PooledNetwork,
    world: World,
    now: Imagined,
    how: Settings,
    who: Tensor,
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Whole imagined runs: their score in points, and the doubt summed over them, [B] each: the members' disagreement (sd of a step's change of
    the score) and, times `shrink`, how far the mixture is from an even one. Member who[b] plays run b's world. first [B, D]: mixtures to use in the first step in place of the policy's."""
    doubt = torch.zeros(len(who))
    final = torch.zeros(len(who))
    rows = torch.arange(len(who))
    for _ in range(int((now.steps - now.step).max())):
        going = now.step < now.steps
        weights = decide(policy, now, how) if first is None else first
        first = None
        x = now.features()
        said = world(x, now.source, now.mask, weights) * now.mask
        each = score_of(said, now.source, now.mask)
        doubt = doubt + (each.std(0) + how.shrink * apart(weights, now)) * going
        change = said[who, rows]
        now = now.after(weights, change)
        final = torch.where(going, score_of(now.gain, now.source, now.mask), final)
    return final, doubt


def apart(weights: Tensor, now: Imagined) -> Tensor:
    """KL divergence [B], in nats, of mixtures from the one that nobody has to learn: the source budget's share, evenly within each role. Far from it
    the swarm has few runs, and all members of an ensemble may err alike, which their disagreement does not show."""
    n_source, n_target = (now.source & now.mask).sum(-1, keepdim=True), (~now.source & now.mask).sum(-1, keepdim=True)
    share = now.share.clamp(max=0.5)[:, None]
    even = torch.where(now.source, share / n_source.clamp(min=1), (1 - share) / n_target.clamp(min=1))
    return (torch.xlogy(weights, weights) - weights * even.clamp(min=1e-9).log()).sum(-1)


class Simulator:
    """An agent's world, for plans without a live model: WORLD in its folder."""

    def __init__(self, world: World, policy: PooledNetwork, how: Settings) -> None:
        self.world, self.policy, self.how = world, policy, how

    @torch.no_grad()
    def rollout(
        self, history: History, decide: Callable[[History], Decision] | None = None
    ) -> list[tuple[Weights, Floats]]:
        """What is left of a run as the ensemble's mean sees it: (mixture, losses [D] in bits per byte) of each step. decide: another policy than
        the agent's."""
        history = history.upto(len(history))
        found = []
        while len(history) < history.budget.steps:
            states = states_of([history])
            x, source, mask = states.x[:, -1], states.source, states.mask
            if decide is None:
                seen_x = states_of([history], self.how.feedback).x[:, -1:]
                outputs = self.policy.act(seen_x, states)
                limits = Limits(*(one[:, -1:] for one in states.limits(self.how.form)))
                mixed = simplex.mixture_of(outputs, limits)[0, 0].double().numpy()
                weights = simplex.keep_to(mixed / mixed.sum(), history)
            else:
                weights = decide(history).weights
            action = torch.from_numpy(weights.astype(np.float32))[None]
            change = self.world(x, source, mask, action).mean(0)[0].double().numpy()
            losses = history.base * (1 - history.gains[-1] - change / POINTS)
            history.add(weights, losses)
            found.append((weights, losses))
        return found

    def save(self, folder: Path) -> None:
        from safetensors.torch import save

        # one key: safetensors writes several in any order, and the same agent must be the same bytes
        told = {"world": json.dumps({"schema": "agent-world/1", "settings": msgspec.to_builtins(self.how)})}
        write_atomic(
            folder / WORLD, save({name: x.contiguous() for name, x in self.world.state_dict().items()}, metadata=told)
        )

    @classmethod
    def load(cls, folder: str | Path) -> Simulator:
        """Raises BadInput where the agent has none, or it is damaged."""
        from safetensors import SafetensorError, safe_open

        path = Path(folder) / WORLD
        agent = Agent.load(folder)
        if agent.card.algo != "model" or not path.exists():
            raise BadInput(
                f"{folder}: is no model-based agent with a world of its own ({WORLD}); train one with --algo model"
            )
        try:
            with safe_open(str(path), "pt") as stream:
                told = stream.metadata() or {}
                how = msgspec.convert(json.loads(told["world"])["settings"], Settings)
                world = World(how.members, how.hidden)
                world.load_state_dict({name: stream.get_tensor(name) for name in world.state_dict()})
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, msgspec.ValidationError) as error:
            raise BadInput(f"{path}: not an agent's world: {' '.join(str(error).split())[:200]}") from None
        return cls(world, agent.actor, how)


# ---------------------------------------------------------------- training


def train(
    runs: Sequence[Trajectory], how: Settings, seed: int, tick: Callable[[], None] = lambda: None
) -> tuple[Agent, Simulator]:
    """An agent from a swarm's runs, and the world that it practised in. Deterministic on one thread. Raises BadInput where there are fewer than four runs to learn from."""
    runs = [one for one in runs if one.status == "done" and len(one.steps) > 1]
    if len(runs) < 4:
        raise BadInput(
            f"the swarm: {len(runs)} finished runs of more than one step; expected at least 4 (some dozens are of use)"
        )
    torch.manual_seed(seed % 2**63)
    rng = np.random.default_rng([seed % 2**63, 10])
    world, told = fit_world(runs, how, rng, tick)
    policy, practised = practise(runs, world, how, rng, tick)
    value, r2 = fit_value(runs, policy, world, how, rng, tick)
    report = {
        "runs": len(runs), "tasks": len({one.task for one in runs}), "seed": seed, "settings": msgspec.to_builtins(how),
        "world": told, "policy": practised, "value": {"r2": r2},
    }  # fmt: skip
    simulator = Simulator(world, policy, how)
    card = Card(
        arch="pooled", algo="model", sizes={"width": how.hidden, "split": how.split}, critic_arch="pooled-value",
        critic_sizes={"width": how.hidden}, form=how.form, feedback=how.feedback, report=report,
    )  # fmt: skip
    return Agent(card, policy, [value]), simulator


def null(how: Settings, seed: int) -> Agent:
    """The same network with the same action, untrained: what the form of the action does by itself."""
    torch.manual_seed(seed % 2**63)
    card = Card(
        arch="pooled",
        algo="null",
        sizes={"width": how.hidden, "split": how.split},
        form=how.form,
        report={"seed": seed},
    )
    return Agent(card, PooledNetwork(how.hidden, how.split), [])


class Steps(msgspec.Struct):
    """All steps of all runs, [N] of them: features before, mixture used, change of f̂ in points, run and step."""

    x: Tensor
    source: Tensor
    mask: Tensor
    weights: Tensor
    change: Tensor
    run: Tensor
    step: Tensor


def steps_of(runs: Sequence[Trajectory]) -> Steps:
    histories = [one.history() for one in runs]
    states = states_of(histories)
    s, d = states.x.shape[1] - 1, states.x.shape[2]
    weights, change = torch.zeros(len(runs), s, d), torch.zeros(len(runs), s, d)
    for i, one in enumerate(histories):
        t, n = len(one), len(one.names)
        weights[i, :t, :n] = torch.from_numpy(one.weights)
        change[i, :t, :n] = torch.from_numpy(POINTS * np.diff(one.gains, axis=0))
    run, step = torch.meshgrid(torch.arange(len(runs)), torch.arange(s), indexing="ij")
    alive = step < torch.tensor([len(one) for one in histories])[:, None]
    run, step = run[alive], step[alive]
    return Steps(
        states.x[run, step], states.source[run], states.mask[run], weights[run, step], change[run, step], run, step
    )


def fit_world(
    runs: Sequence[Trajectory], how: Settings, rng: np.random.Generator, tick: Callable[[], None]
) -> tuple[World, dict[str, float]]:
    """The ensemble, each member on a bootstrap sample of the runs; `r2` of changes in runs that a member was not shown."""
    data = steps_of(runs)
    torch.manual_seed(int(rng.integers(2**31)))
    n = len(runs)
    world = World(how.members, how.hidden)
    drawn = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(how.members)]
    count = torch.from_numpy(np.stack(drawn)).float()  # [E, R]: how often a member's sample has a run
    optimiser = torch.optim.AdamW(world.parameters(), lr=how.world_lr, weight_decay=how.world_decay)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.world_steps)
    for k in range(how.world_steps):
        some = torch.from_numpy(rng.integers(len(data.run), size=min(how.batch, len(data.run))))
        mask = data.mask[some]
        got = world(data.x[some], data.source[some], mask, data.weights[some])
        # nearly the square: a narrower loss makes little of the large recoveries that late replay lives on
        error = F.huber_loss(got, data.change[some].expand_as(got), reduction="none", delta=10.0)
        weight = count[:, data.run[some]][..., None] * mask
        loss = ((error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        if k % 50 == 49:
            tick()
    world.requires_grad_(False)
    unseen = (count[:, data.run] == 0)[..., None] & data.mask
    change = data.change.expand_as(unseen)
    left = (change - world(data.x, data.source, data.mask, data.weights))[unseen]
    around = change[unseen] - change[unseen].mean()
    return world, {"r2": 1 - float(left.square().sum()) / max(float(around.square().sum()), 1e-9)}


def practise(
    runs: Sequence[Trajectory], world: World, how: Settings, rng: np.random.Generator, tick: Callable[[], None]
) -> tuple[PooledNetwork, dict[str, float]]:
    """A policy improved by gradient through imagined runs, from where the swarm's runs began."""
    torch.manual_seed(int(rng.integers(2**31)))
    policy = PooledNetwork(how.hidden, how.split)
    if how.cloning_steps:
        settings = sft.Settings(
            steps=how.cloning_steps,
            form=how.form,
            feedback=how.feedback,
            sizes={"width": how.hidden, "split": how.split},
            splits=0,
        )
        policy.load_state_dict(sft.train(runs, "pooled", settings, int(rng.integers(2**31))).actor.state_dict())
    policy.train().requires_grad_(True)
    start = beginnings(runs)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=how.policy_lr, weight_decay=how.policy_decay)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.policy_steps)
    told = {"imagined": 0.0, "doubt": 0.0}
    for k in range(how.policy_steps):
        rows = torch.from_numpy(rng.integers(len(runs), size=how.rollouts))
        who = torch.from_numpy(rng.integers(how.members, size=how.rollouts))
        final, doubt = imagine(policy, world, start.take(rows), how, who)
        loss = -(final - how.caution * doubt).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
        rate.step()
        told = {"imagined": float(final.detach().mean()), "doubt": float(doubt.detach().mean())}
        if k % 10 == 9:
            tick()
    return policy, told


def fit_value(
    runs: Sequence[Trajectory],
    policy: PooledNetwork,
    world: World,
    how: Settings,
    rng: np.random.Generator,
    tick: Callable[[], None],
) -> tuple[PooledValue, float]:
    """What imagined runs say of an action: regression on the score, less what doubt costs, of runs that begin in swarm states with any mixture and
    go on with the policy. With its R² on fresh ones."""
    policy = copy.deepcopy(policy).requires_grad_(False)
    torch.manual_seed(int(rng.integers(2**31)))
    value = PooledValue(how.hidden)
    begin = beginnings(runs)

    def some(n: int) -> tuple[Imagined, Tensor, Tensor]:
        rows = torch.from_numpy(rng.integers(len(runs), size=n))
        who = torch.from_numpy(rng.integers(how.members, size=n))
        now = begin.take(rows)
        for _ in range(int(rng.integers(int(now.steps.min())))):  # a while under mixtures near the policy's
            weights = _varied(decide(policy, now, how), now, how, rng)
            said = world(now.features(), now.source, now.mask, weights) * now.mask
            now = now.after(weights, said[who, torch.arange(n)])
        first = _varied(decide(policy, now, how), now, how, rng)
        final, doubt = imagine(policy, world, now, how, who, first)
        return now, first, final - how.caution * doubt

    with torch.no_grad():
        sets = [some(64) for _ in range(40)]
    optimiser = torch.optim.AdamW(value.parameters(), lr=3e-3, weight_decay=how.policy_decay)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 400)
    kept = sets[:32]
    for k in range(400):
        now, first, want = kept[k % len(kept)]
        loss = F.huber_loss(value.of(now.features(how.feedback), now.source, now.mask, first), want, delta=3.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    tick()
    with torch.no_grad():
        got = torch.cat(
            [value.of(now.features(how.feedback), now.source, now.mask, first) for now, first, _ in sets[32:]]
        )
    want = torch.cat([one for _, _, one in sets[32:]])
    return value, float(1 - (got - want).square().sum() / (want - want.mean()).square().sum().clamp(min=1e-9))


def _varied(weights: Tensor, now: Imagined, how: Settings, rng: np.random.Generator) -> Tensor:
    """Mixtures about these, or anywhere, that the budget allows."""
    limits = now.limits(how.form)
    y = simplex.unsqueeze(weights, limits)
    noise = torch.from_numpy(rng.standard_normal(tuple(y.shape)) * rng.choice([0.2, 0.7, 1.5])).float()
    raised = torch.where(limits.mask, y.clamp(min=1e-6) * noise.exp(), 0)
    return simplex.squeeze(raised / raised.sum(-1, keepdim=True), limits)
