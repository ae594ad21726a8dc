"""The model-based agent: learn what mixtures do to every domain (levels.py), then practise schedules in imagination.

The paper trains its agent by conservative Q-learning (cql.py). A few dozen runs say little about a sixteen-step delayed effect through one
number, a return; they say much through every domain's loss at every step. So here an ensemble learns where mixtures bring every domain's f̂, and
a policy is improved by gradient through whole imagined runs: a random member plays the world of a random task of the swarm, the policy
sees losses as noisy as the real ones were, and the members' disagreement about the final score is paid for. Ours, not the paper's: a model-based agent with a
pessimistic objective, as in MOPO (arXiv 2005.13239), over the same swarm, features and action as the paper's; `datamix compare` shows both.

Where it sits: train.py calls `train`; the policy is an agent of architecture `pooled`. Shapes: B runs side by side, D domains (padded;
`mask` [B, D] says which are there), F features of features.NAMES; float32.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamix import features, levels, sft, simplex
from datamix.agent import JSON, Agent, Card
from datamix.history import Decision, Floats, History, Trajectory
from datamix.levels import KEPT, POINTS, World, means, remember, score_of
from datamix.mixture import Weights
from datamix.networks import States, states_of
from datamix.simplex import Form, Limits, Outputs
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import write_atomic

WORLD = "world.safetensors"
COLUMN = {name: k for k, name in enumerate(features.NAMES)}
# What the policy is shown: not its own last action, which it would only repeat.
OF_POLICY = ("source", "base", "gain", "gain_change", "share", "progress", "source_left", "source_rate")


SPLITS = ("even", "targets", "learned")


class Settings(msgspec.Struct, frozen=True):
    """members: of the ensemble; effects: numbers that a domain of a task has for itself; caution: how much of the members' disagreement about a run's score it is
    charged; feedback false: the policy is shown no losses, a control."""

    members: int = 5
    hidden: int = 48
    effects: int = 2
    effect_prior: float = 4000.0
    world_steps: int = 1000
    batch: int = 256
    world_lr: float = 3e-3
    world_decay: float = 0.1
    policy_decay: float = 0.03
    cloning_steps: int = 60
    policy_steps: int = 300
    policy_lr: float = 3e-3
    rollouts: int = 64
    caution: float = 1.0
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


class PooledNetwork(nn.Module):
    """The policy: an agents' network (networks.Network) that reads the last state alone. split `even` shares a role's tokens evenly."""

    def __init__(self, width: int = 48, split: str = "learned") -> None:
        super().__init__()
        if split not in SPLITS:
            raise ValueError(f"split {split}: expected one of {', '.join(SPLITS)}")
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
        even = {"even": torch.ones_like(source), "targets": source, "learned": torch.zeros_like(source)}[self.split]
        return logits.masked_fill(even, 0), whole[..., 0]

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


# ---------------------------------------------------------------- imagined runs


class Imagined(msgspec.Struct):
    """Where B imagined runs stand: what features.tokens and the world need of them. base bits per byte, gain and change in points, as they are measured; used steps' worth of each
    domain, epoch [B, D]: epochs that one step on a domain alone is, size as in the features; memory [B, D, K] of levels.remember; effect [B, E, D, k] of the members' worlds; noise
    [B, E, T+1, D] of what is measured, in points."""

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
    memory: Tensor
    effect: Tensor | None = None
    noise: Tensor | None = None

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
        return msgspec.structs.replace(
            self,
            gain=self.gain + change,
            change=change,
            used=self.used + weights,
            last=weights,
            step=self.step + 1,
            memory=remember(self.memory, weights, self.steps),
        )

    def levels(self, world: World) -> Tensor:
        """What the members say of the runs as they stand, [E, B, D] in points."""
        effect = None if self.effect is None else self.effect.transpose(0, 1)
        return world(self.memory, self.step, self.steps, self.source, self.mask, self.base, effect)

    def measured(self, levels: Tensor, who: Tensor) -> Tensor:
        """[B, D]: what member who[b] says, with the noise of its run."""
        rows = torch.arange(len(who))
        if self.noise is None:
            return levels[who, rows]
        return levels[who, rows] + self.noise[rows, who, self.step.long().clamp(max=self.noise.shape[2] - 1)]

    def take(self, rows: Tensor) -> Imagined:
        found: dict[str, Any] = {}
        for name in self.__struct_fields__:
            x = getattr(self, name)
            found[name] = None if x is None else x[rows]
        return Imagined(**found)


def beginnings(runs: Sequence[Trajectory]) -> Imagined:
    """Where the runs of a swarm began."""
    return beginnings_of([one.history() for one in runs], [len(one.steps) for one in runs])


def beginnings_of(histories: Sequence[History], lengths: Sequence[int]) -> Imagined:
    b, d = len(histories), max(len(one.names) for one in histories)
    base, source, mask = np.ones((b, d)), np.zeros((b, d), bool), np.zeros((b, d), bool)
    epoch, size, share, steps = np.zeros((b, d)), np.zeros((b, d)), np.zeros(b), np.zeros(b)
    for i, one in enumerate(histories):
        n = len(one.names)
        base[i, :n], source[i, :n], mask[i, :n] = one.base, one.source, True
        epoch[i, :n] = one.budget.tokens / one.available
        size[i, :n] = np.log(one.available / one.available.mean()) / 2
        share[i], steps[i] = one.budget.source_share, lengths[i]
    zero = torch.zeros(b, d)

    def of(x: Any) -> Tensor:
        return torch.from_numpy(x).float()

    memory = torch.zeros(b, d, KEPT)
    return Imagined(of(base), zero, zero, zero, of(epoch), of(size), zero, torch.from_numpy(source), torch.from_numpy(mask), of(share), torch.zeros(b), of(steps), memory)  # fmt: skip


def standing(history: History) -> Imagined:
    """Where a run has come to, as the world sees it: by its mixtures."""
    now = beginnings_of([history], [history.budget.steps])
    for weights in history.weights:
        now = now.after(torch.from_numpy(weights).float()[None], torch.zeros_like(now.gain))
    return now


def decide(policy: PooledNetwork, now: Imagined, how: Settings) -> Tensor:
    """The policy's mixtures, [B, D]."""
    logits, gate = policy.outputs(now.features(how.feedback), now.source, now.mask)
    return simplex.mixture_of(Outputs(logits, gate, torch.zeros_like(gate)), now.limits(how.form))


def after(now: Imagined, world: World, weights: Tensor, who: Tensor) -> tuple[Imagined, Tensor]:
    """A step on, as member who[b] has it; and what all members say there, [E, B, D] in points."""
    used = now.after(weights, torch.zeros_like(weights))
    said = used.levels(world)
    change = used.measured(said, who) - now.gain
    return msgspec.structs.replace(used, gain=now.gain + change, change=change), said


def imagine(
    policy: PooledNetwork,
    world: World,
    now: Imagined,
    how: Settings,
    who: Tensor,
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Whole imagined runs, [B] each: their score in points in the world of member who[b], and the members' disagreement about it (sd). first [B, D]: mixtures to use in the first
    step in place of the policy's."""
    doubt = torch.zeros(len(who))
    final = torch.zeros(len(who))
    rows = torch.arange(len(who))
    for _ in range(int((now.steps - now.step).max())):
        going = now.step < now.steps
        weights = decide(policy, now, how) if first is None else first
        first = None
        now, said = after(now, world, weights, who)
        each = score_of(said, now.source, now.mask)
        final = torch.where(going, each[who, rows], final)
        doubt = torch.where(going, each.std(0), doubt)
    return final, doubt


class Simulator:
    """An agent's world, for plans without a live model: WORLD in its folder, whose hash is in the agent's card from when both are made, so that
    agent and world are saved in any order."""

    def __init__(self, world: World, policy: PooledNetwork, how: Settings) -> None:
        self.world, self.policy, self.how = world, policy, how

    @torch.no_grad()
    def rollout(
        self, history: History, decide: Callable[[History], Decision] | None = None
    ) -> list[tuple[Weights, Floats]]:
        """What is left of a run as the ensemble's mean sees it: (mixture, losses [D] in bits per byte) of each step. decide: another policy than
        the agent's."""
        history = history.upto(len(history))
        now = standing(history)
        level = now.levels(self.world).mean(0)
        found = []
        while len(history) < history.budget.steps:
            states = states_of([history])
            if decide is None:
                seen_x = states_of([history], self.how.feedback).x[:, -1:]
                outputs = self.policy.act(seen_x, states)
                limits = Limits(*(one[:, -1:] for one in states.limits(self.how.form)))
                mixed = simplex.mixture_of(outputs, limits)[0, 0].double().numpy()
                weights = simplex.keep_to(mixed / mixed.sum(), history)
            else:
                weights = decide(history).weights
            now = now.after(torch.from_numpy(weights).float()[None], torch.zeros_like(now.gain))
            before, level = level, now.levels(self.world).mean(0)
            change = (level - before)[0].double().numpy()
            losses = history.base * (1 - history.gains[-1] - change / POINTS)
            history.add(weights, losses)
            found.append((weights, losses))
        return found

    def data(self) -> bytes:
        """The bytes of WORLD."""
        from safetensors.torch import save

        # one key: safetensors writes several in any order, and the same agent must be the same bytes
        told = {"world": json.dumps({"schema": "agent-world/1", "settings": msgspec.to_builtins(self.how)})}
        return save({name: x.contiguous() for name, x in self.world.state_dict().items()}, metadata=told)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data()).hexdigest()

    def save(self, folder: Path) -> None:
        write_atomic(folder / WORLD, self.data())

    @classmethod
    def load(cls, folder: str | Path) -> Simulator:
        """Raises BadInput where the agent has none, or it is damaged, of another agent, or holds what are no numbers."""
        from safetensors import SafetensorError, safe_open

        path = Path(folder) / WORLD
        agent = Agent.load(folder)
        if agent.card.algo != "model" or not path.exists():
            raise BadInput(
                f"{folder}: is no model-based agent with a world of its own ({WORLD}); train one with --algo model"
            )
        try:
            if sha256_of(str(path)) != agent.card.world:
                raise BadInput(
                    f"{path}: not an agent's world: it is not the file that {JSON} names (sha256); it is damaged or of another agent"
                )
            with safe_open(str(path), "pt") as stream:
                told = stream.metadata() or {}
                how = msgspec.convert(json.loads(told["world"])["settings"], Settings)
                with torch.device("meta"):  # counted before it is made
                    weights = sum(x.numel() for x in World(min(how.members, 1), how.hidden, how.effects).parameters())
                if how.members * weights > path.stat().st_size:
                    raise ValueError(f"its settings make {how.members * weights:,} weights, more than its file holds")
                world = World(how.members, how.hidden, how.effects)
                world.load_state_dict({name: stream.get_tensor(name) for name in world.state_dict()})
        except (
            SafetensorError,
            OSError,
            ValueError,
            KeyError,
            RuntimeError,
            msgspec.ValidationError,
            RecursionError,
        ) as error:
            raise BadInput(f"{path}: not an agent's world: {' '.join(str(error).split())[:200]}") from None
        if not all(bool(torch.isfinite(x).all()) for x in world.state_dict().values()):
            raise BadInput(f"{path}: has weights that are no numbers; train the agent again")
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
    world, effects, told = levels.fit(runs, how, rng, tick)
    start = as_measured(runs, world, effects)
    policy, practised = practise(runs, start, world, how, rng, tick)
    value, r2 = fit_value(start, policy, world, how, rng, tick)
    report = {
        "runs": len(runs), "tasks": len({one.task for one in runs}), "seed": seed, "settings": msgspec.to_builtins(how),
        "world": told, "policy": practised, "value": {"r2": r2},
    }  # fmt: skip
    simulator = Simulator(world, policy, how)
    card = Card(
        arch="pooled", algo="model", sizes={"width": how.hidden, "split": how.split}, critic_arch="pooled-value",
        critic_sizes={"width": how.hidden}, form=how.form, feedback=how.feedback, world=simulator.sha256, report=report,
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


def as_measured(runs: Sequence[Trajectory], world: World, effects: Tensor) -> Imagined:
    """Where the swarm's runs began, each with its domains' effects in every member's world, and with what every member did not foresee of it as noise, so that a policy that
    practises sees losses as they really are."""
    start, data = beginnings(runs), levels.records(runs)
    now = msgspec.structs.replace(start, effect=effects.transpose(0, 1).contiguous())
    noise = torch.zeros(len(runs), world.members, data.level.shape[1], data.level.shape[2])
    with torch.no_grad():
        for t in range(1, data.level.shape[1]):
            then = msgspec.structs.replace(now, memory=data.memory[:, t], step=torch.full_like(now.step, t))
            left = data.level[:, t] - then.levels(world)
            noise[:, :, t] = (left * (data.steps >= t)[:, None]).transpose(0, 1)
    return msgspec.structs.replace(now, noise=noise * data.mask[:, None, None])


def practise(
    runs: Sequence[Trajectory],
    start: Imagined,
    world: World,
    how: Settings,
    rng: np.random.Generator,
    tick: Callable[[], None],
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
    begin: Imagined,
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

    def some(n: int) -> tuple[Imagined, Tensor, Tensor]:
        rows = torch.from_numpy(rng.integers(len(begin.steps), size=n))
        who = torch.from_numpy(rng.integers(how.members, size=n))
        now = begin.take(rows)
        for _ in range(int(rng.integers(int(now.steps.min())))):  # a while under mixtures near the policy's
            weights = _varied(decide(policy, now, how), now, how, rng)
            now, _ = after(now, world, weights, who)
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
