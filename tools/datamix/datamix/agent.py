"""A trained agent: a policy that reads a run so far and decides its next mixture, in a folder that holds all it needs.

    AGENT/agent.safetensors   weights: actor.*, critic.0.*, …
    AGENT/agent.json          agent/1: networks and sizes, feature spec, action form, the training report; sha256 of the weights, and of the world of
                              a model-based one (world.py)

`agent.json` is written last and names the weights' hash, so that a folder is one agent or is refused; `checksum` is of its own other fields, so
that one that was edited is refused too. Nothing is unpickled. sft.py, cql.py
and the model-based trainer make agents; apply, plan and explain ask them.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from datamix import features, simplex
from datamix.history import Decision, History
from datamix.mixture import Weights
from datamix.networks import States, parameters, states_of
from datamix.simplex import Density, Form
from tenfold_shared import BadInput, unread
from tenfold_shared.jsonl import write_atomic
from tenfold_shared.records import readable

SCHEMA = "agent/1"
JSON, WEIGHTS = "agent.json", "agent.safetensors"
# Architectures by name: the module and class of each, imported when one is asked for. See networks.Network for what they do.
ARCHITECTURES: dict[str, tuple[str, str]] = {
    "set": ("datamix.networks", "SetNetwork"),
    "decoder": ("datamix.networks", "DecoderNetwork"),
    "pooled": ("datamix.world", "PooledNetwork"),
    "pooled-value": ("datamix.world", "PooledValue"),
}


def network(arch: str, sizes: dict[str, Any]) -> nn.Module:
    """A network with fresh weights. Raises BadInput for an unknown architecture or sizes that it does not take."""
    if arch not in ARCHITECTURES:
        raise BadInput(f"architecture {arch}: expected one of {', '.join(ARCHITECTURES)}")
    module, name = ARCHITECTURES[arch]
    try:
        made: nn.Module = getattr(importlib.import_module(module), name)(**sizes)
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise BadInput(
            f"architecture {arch}: sizes {sizes} do not make one: {' '.join(str(error).split())[:200]}"
        ) from None
    return made


WIDEST = 1 << 14  # of any number among an architecture's sizes


def _expect_held(card: Card, size: int) -> None:
    """Raises BadInput where the networks that a card tells of have more weights than the file beside it can hold: they are
    counted before they are made, as a few bytes could ask for any memory."""
    critic = card.critic_arch or card.arch, card.sizes if card.critic_sizes is None else card.critic_sizes
    weights = 0
    for count, (arch, sizes) in ((1, (card.arch, card.sizes)), (card.critics, critic)):
        if any(isinstance(one, int | float) and one > WIDEST for one in sizes.values()):
            raise BadInput(f"sizes {sizes}: expected numbers of at most {WIDEST}")
        with torch.device("meta"):
            weights += count * sum(x.numel() for x in network(arch, sizes).parameters()) if count else 0
    if weights > size:
        raise BadInput(f"sizes {card.sizes}: make {weights:,} weights, {WEIGHTS} has {size:,} bytes")


class Card(msgspec.Struct, forbid_unknown_fields=True):
    """What agent.json holds. domains: the names a `decoder` was made for, in order, sources marked in `roles`; sizes: what the
    architecture's class is made with; critics: how many; feedback false: the twin that is shown no losses; world: sha256 of the file of a
    model-based agent's world (world.Simulator), None where it has none; checksum: of all other fields as they are written (checksum_of)."""

    arch: str
    algo: str
    sizes: dict[str, Any] = {}
    critics: int = 0
    critic_arch: str | None = None
    critic_sizes: dict[str, Any] | None = None
    domains: list[str] | None = None
    roles: list[Literal["source", "target"]] | None = None
    form: Form = "lean"
    density: Density = "dirichlet"
    floor: float = simplex.FLOOR
    feedback: bool = True
    features: str = features.SPEC
    schema: str = SCHEMA
    sha256: str = ""
    world: str | None = None
    report: dict[str, Any] = {}
    checksum: str = ""


def checksum_of(told: dict[str, Any]) -> str:
    """Of what agent.json holds, whatever its order and spacing, but for the checksum itself."""
    rest = {name: value for name, value in told.items() if name != "checksum"}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()


class Agent:
    """A Policy. `decide` is deterministic: the centre (and mode) of the actor's distribution, within what the run allows."""

    def __init__(self, card: Card, actor: nn.Module | None = None, critics: list[nn.Module] | None = None) -> None:
        """actor, critics: where they are not given, fresh ones."""
        self.card = card
        self.actor: Any = actor or network(card.arch, card.sizes)
        if critics is None:
            arch = card.critic_arch or card.arch
            sizes = card.sizes if card.critic_sizes is None else card.critic_sizes
            critics = [network(arch, sizes) for _ in range(card.critics)]
        self.critics: list[Any] = list(critics)
        card.critics = len(self.critics)
        self.name = f"agent-{card.algo}"
        self._kept: dict[int, Any] = {}
        for one in [self.actor, *self.critics]:
            one.eval()

    @property
    def report(self) -> dict[str, Any]:
        """What training said of it."""
        return self.card.report

    # ------------------------------------------------------------ deciding

    def check(self, names: list[str], source: Any) -> None:
        """Raises BadInput for a run over domains that this agent cannot read; `set` takes any."""
        if self.card.domains is None:
            return
        if list(names) != self.card.domains:
            raise BadInput(
                f"agent ({self.card.arch}): was made for the {len(self.card.domains)} domains {', '.join(self.card.domains)} "
                f"in this order, the run has {', '.join(names)}; train one with --arch set, which takes any"
            )
        if self.card.roles is not None and ["source" if one else "target" for one in source] != self.card.roles:
            raise BadInput(f"agent ({self.card.arch}): the run gives its domains other roles than it was trained with")

    def states(self, history: History) -> States:
        """As this agent sees them. Raises BadInput (check)."""
        self.check(history.names, history.source)
        return states_of([history], self.card.feedback)

    def _act(self, history: History) -> tuple[States, simplex.Outputs, simplex.Limits]:
        states = self.states(history)
        outputs = self.actor.act(self._last(0, self.actor, states), states)
        limits = states.limits(self.card.form)
        return states, outputs, simplex.Limits(*(one[:, -1:] for one in limits))

    def _last(self, key: int, one: Any, states: States) -> Tensor:
        """A network's last state. Networks that can follow a run are given what they kept of its earlier steps."""
        if not hasattr(one, "follow"):
            found: Tensor = one.encode(states, last=True)
            return found
        encoded, self._kept[key] = one.follow(states, self._kept.get(key))
        return encoded

    @torch.no_grad()
    def decide(self, history: History) -> Decision:
        """The next mixture, and the critics' value of it (None without critics). Raises BadInput where the run's domains are not those
        of a `decoder`."""
        states, outputs, limits = self._act(history)
        mixture = simplex.mixture_of(outputs, limits, self.card.floor)[0, 0].double().numpy()
        weights = simplex.keep_to(mixture / mixture.sum(), history)
        return Decision(weights, self._q(states, weights))

    @torch.no_grad()
    def sample(self, history: History, rng: np.random.Generator) -> Decision:
        """A mixture drawn from the actor's distribution instead of its centre."""
        states, outputs, limits = self._act(history)
        y = simplex.point_of(outputs, limits, self.card.floor)
        if self.card.density == "dirichlet":
            c = simplex.concentration(outputs.spread, limits.mask)
            drawn = rng.dirichlet(simplex.dirichlet_at(y, c, limits.mask)[0, 0].double().numpy())
        else:
            noise = rng.standard_normal(y.shape[-1]) * float(simplex.logistic_sd(outputs.spread)[0, 0])
            raised = np.exp(np.log(y[0, 0].double().numpy()) + noise)
            drawn = raised / raised.sum()
        mixture = simplex.squeeze(torch.from_numpy(drawn).float().view(1, 1, -1), limits)[0, 0].double().numpy()
        weights = simplex.keep_to(mixture / mixture.sum(), history)
        return Decision(weights, self._q(states, weights))

    @torch.no_grad()
    def q(self, history: History, weights: Weights) -> float | None:
        """The lowest critic's value of using a mixture now and this agent's own afterwards; None without critics. Its unit is the critics'
        (beliefs.UNITS): of `cql`, the return from here on in standard deviations of a task's returns in the swarm, 0 being what a task's
        mean run has from its start on; of `model`, the final score in points."""
        return self._q(self.states(history), weights)

    def _q(self, states: States, weights: Weights) -> float | None:
        if not self.critics:
            return None
        action = torch.from_numpy(np.asarray(weights, dtype=np.float32)).view(1, 1, 1, -1)
        found = [one.value(self._last(1 + i, one, states), states, action) for i, one in enumerate(self.critics)]
        return float(torch.cat([each.flatten() for each in found]).min())

    # ------------------------------------------------------------ on disk

    def tensors(self) -> dict[str, Tensor]:
        parts = {"actor": self.actor} | {f"critic.{i}": one for i, one in enumerate(self.critics)}
        return {f"{part}.{name}": x.contiguous() for part, one in parts.items() for name, x in one.state_dict().items()}

    def save(self, folder: str | Path) -> None:
        """Both files, the weights first, each whole or not at all."""
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = save(self.tensors())
        self.card.sha256 = hashlib.sha256(data).hexdigest()
        self.card.report.setdefault("parameters", parameters(self.actor))
        self.card.checksum = checksum_of(msgspec.json.decode(msgspec.json.encode(self.card)))
        write_atomic(folder / WEIGHTS, data)
        write_atomic(folder / JSON, msgspec.json.format(msgspec.json.encode(self.card), indent=1) + b"\n")

    @classmethod
    def load(cls, folder: str | Path) -> Agent:
        """Raises BadInput for what is no agent, is damaged or edited, or is of a kind that this version does not know."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = Path(folder) / JSON
        try:
            told = msgspec.json.decode(path.read_bytes())
        except FileNotFoundError:
            raise BadInput(
                f"{path}: no such file; expected an agent (make one with `datamix train-agent SWARM -o AGENT`)"
            ) from None
        except NotADirectoryError:
            raise BadInput(
                f"{folder}: is a file; expected an agent's folder (make one with `datamix train-agent SWARM -o AGENT`)"
            ) from None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{path}: not an agent: {' '.join(str(error).split())}") from None
        for field, want in (("schema", SCHEMA), ("features", features.SPEC)):
            got = told.get(field) if isinstance(told, dict) else None
            if got != want:
                raise BadInput(f"{path}: {field}: expected {want}, got {got!r}; train the agent again")
        try:
            card = msgspec.convert(told, Card)
        except msgspec.ValidationError as error:
            raise BadInput(f"{path}: not an agent: {readable(error)}") from None
        if card.arch == "decoder" and card.domains is None:
            raise BadInput(f"{path}: domains: expected the names that a decoder was made for")
        file = Path(folder) / WEIGHTS
        try:
            data = file.read_bytes()
        except OSError as error:
            raise unread(file, error, "expected the agent's weights") from None
        if hashlib.sha256(data).hexdigest() != card.sha256:
            raise BadInput(f"{file}: is not the file that {JSON} names (sha256); it is damaged or of another agent")
        try:
            _expect_held(card, len(data))
            found = cls(card)
            tensors = load(data)
            for part, one in [("actor", found.actor), *((f"critic.{i}", one) for i, one in enumerate(found.critics))]:
                own = {name.removeprefix(part + "."): x for name, x in tensors.items() if name.startswith(part + ".")}
                one.load_state_dict(own)
        except (SafetensorError, RuntimeError) as error:
            raise BadInput(f"{file}: does not fit {JSON}: {' '.join(str(error).split())[:200]}") from None
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        if not all(bool(torch.isfinite(x).all()) for x in tensors.values() if x.is_floating_point()):
            raise BadInput(f"{file}: has weights that are no numbers; train the agent again")
        if card.checksum != checksum_of(told):
            raise BadInput(f"{path}: does not fit its own checksum; was it edited? Train the agent again")
        return found
