"""The model's own rotation taken off queries and keys (arXiv 2506.08889, 2.2: a gate sees them before RoPE).

transformers hands an attention function rotated queries and keys. Turning them back by the model's cosines and sines is exact
but for rounding, whatever the scaling: with its attention factor f, R(−p) R(p) x = f² x, and f² is divided out. So nothing
before the rotation needs to be kept or hooked, and blocks that fill in a prefill or a token at a time are pooled alike.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seer_decode.gate import Gates
from seer_decode.shape import FIXED_ROPES, FULL
from tenfold_shared import BadInput


class Unrotated:
    """A model's rotary embedding, backwards. Raises BadInput for one that depends on the length or pairs channels otherwise."""

    def __init__(self, model: nn.Module) -> None:
        found = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "rotary_emb"]
        self.module: Any = copy.deepcopy(found[0]) if found else None  # hooks on the model's own stay out of this
        self.how: dict[str, Any] = {}
        self.factor = 1.0
        if self.module is None:
            return
        self.how = {"layer_type": FULL} if "layer_type" in inspect.signature(self.module.forward).parameters else {}
        kind = getattr(self.module, "rope_type", "default")
        kind = str(kind.get(FULL, "default") if isinstance(kind, dict) else kind)
        if kind not in FIXED_ROPES:
            raise BadInput(
                f"rope_type {kind}: its frequencies depend on the length, so that keys cannot be turned back"
            )
        name = f"{FULL}_attention_scaling" if self.how else "attention_scaling"
        self.factor = float(getattr(self.module, name, 1.0) or 1.0)
        cos, _ = self.tables(torch.arange(1, 3)[None])
        if not torch.equal(*cos.chunk(2, -1)):
            raise BadInput("the model's rotation pairs neighbouring channels; expected channel i with i + half")

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin (B, n, r) float32 of positions (B, n); r ≤ D channels are rotated, none of a model without a rotation."""
        if self.module is None:
            none = torch.zeros(*positions.shape, 0, device=positions.device)
            return none, none
        probe = torch.zeros(1, dtype=torch.float32, device=positions.device)
        found = self.module(probe, positions, **self.how)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise BadInput("the model's rotation is no pair of cosines and sines: it cannot be taken off")
        return found[0].float(), found[1].float()

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys (B, H, n, D) at positions (B, n) as they were before RoPE, float32."""
        cos, sin = (table[:, None] for table in self.tables(positions))
        return self.by(x, cos, sin)

    def by(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The same by tables (..., n, r) at hand."""
        x, width = x.float(), cos.shape[-1]
        if not width:
            return x
        part = x[..., :width]
        left, right = part.chunk(2, -1)
        turned = (part * cos - torch.cat([-right, left], -1) * sin) / self.factor**2
        return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)


class Turns(NamedTuple):
    """Both rotations at one position of each sequence, as matrices that rows are multiplied by: one small product in place of
    many small steps. back (B, D, D) takes the model's off queries, on (B, dg, dg) is the gate's of features."""

    back: Tensor
    on: Tensor


def turns(unrotated: Unrotated, gates: Gates, positions: Tensor) -> Turns:
    """At positions (B,). Rotations are linear, and a row of their matrix is what they make of a unit vector."""
    shape, at = gates.shape, positions[:, None]
    units, features = (
        torch.eye(wide, device=positions.device).expand(len(positions), 1, wide, wide)
        for wide in (shape.head_dim, shape.gate_dim)
    )
    return Turns(
        unrotated(units, at)[:, 0], (features if gates.rotation is None else gates.rotation.turn(features, at))[:, 0]
    )
