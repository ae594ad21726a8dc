"""Rotary positions taken off a key and put on again.

A model rotates its keys before the cache sees them; keys before rotation have statistics that no position disturbs. A
rotation is undone exactly by the model's own cosines and sines, whatever its scaling: those carry the attention factor
f, so that R(−p) R(p) k = f² k, and f² is divided out.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tenfold_shared import BadInput

Halves = tuple[Tensor, Tensor]
FULL = "full_attention"
GROWING = ("dynamic", "longrope")  # frequencies that change with the length: a cached key cannot be rotated back


class Rope:
    """A model's rotary embedding as a function of positions. Raises BadInput for one that cannot be undone."""

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(
            rotary_of(model)
        )  # its buffers are few, and a hook on the model's own stays out of this
        # Where kinds of layers rotate in their own ways, ours are the full ones.
        self.how = {"layer_type": FULL} if "layer_type" in inspect.signature(self.module.forward).parameters else {}
        kind = getattr(self.module, "rope_type", "default")
        kind = str(kind.get(FULL, "default") if isinstance(kind, dict) else kind)
        if kind in GROWING:
            raise BadInput(
                f"rope_type {kind}: its frequencies depend on the length, so that keys cannot be rotated back; use --rope post"
            )
        name = f"{FULL}_attention_scaling" if self.how else "attention_scaling"
        self.factor = float(getattr(self.module, name, 1.0) or 1.0)
        self._stepped: dict[str, tuple[tuple[Any, ...], Halves]] = {}
        self._launched: dict[Any, Any] = {}

    @property
    def frequencies(self) -> Tensor:
        """(r / 2,) the angles that a position adds to each pair of channels."""
        return getattr(self.module, f"{FULL}_inv_freq" if self.how else "inv_freq").float()

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin (B, n, r) float32 of positions (B, n); r ≤ D channels are rotated."""
        probe = torch.zeros(1, dtype=torch.float32, device=positions.device)
        cos, sin = self.module(probe, positions, **self.how)
        return cos.float(), sin.float()

    def stepped(self, block: int, length: int, start: Tensor | None) -> tuple[Halves, Halves]:
        """Rotations of a position p = first of its block + t as two: near (block, r / 2) of t, far (B, or 1 without `start`,
        blocks, r / 2) of the firsts of `length` tokens, of length 1. q · R(first + t) k = (R(−first) q) · R(t) k. Layers of a step share them."""

        def once(name: str, key: tuple[Any, ...], make: Callable[[], Tensor], length: float) -> Halves:
            known = self._stepped.get(name)
            if known is None or known[0] != key:
                cos, sin = self.tables(make())
                half = cos.shape[-1] // 2
                self._stepped[name] = known = (
                    key,
                    ((cos[..., :half] / length).contiguous(), (sin[..., :half] / length).contiguous()),
                )
            return known[1]

        begins = (0,) if start is None else tuple(start.tolist())
        near = once("near", (block,), lambda: torch.arange(block)[None], 1.0)
        far = once(
            "far",
            (block, length, begins),
            lambda: torch.arange(0, length, block) - torch.tensor(begins)[:, None],
            self.factor,
        )
        return (near[0][0], near[1][0]), far

    def launched(self, device: Any, start: Tensor | None) -> Any:
        """What the decode kernel takes; without padding one for all steps, as its tables are long."""
        from tenfold_shared.launch.vq_decode import Rope as Launched

        if start is not None:
            return Launched(self.frequencies.to(device), -start.long())
        if device not in self._launched:
            self._launched[device] = Launched(self.frequencies.to(device))
        return self._launched[device]

    def rotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys (B, H, n, D) as the model has them at positions (B, n)."""
        cos, sin = self.tables(positions)
        return _turned(keys.float(), cos[:, None], sin[:, None])

    def unrotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys before rotation, float32."""
        cos, sin = self.tables(positions)
        return _turned(keys.float(), cos[:, None], -sin[:, None], 1 / self.factor**2)


def _turned(keys: Tensor, cos: Tensor, sin: Tensor, scale: float = 1.0) -> Tensor:
    width = cos.shape[-1]
    part = keys[..., :width]
    left, right = part.chunk(2, -1)
    turned = part * cos + torch.cat([-right, left], -1) * sin
    if scale != 1.0:
        turned = turned * scale
    return turned if width == keys.shape[-1] else torch.cat([turned, keys[..., width:]], -1)


def rotary_of(model: nn.Module) -> Any:
    """The model's rotary module. Raises BadInput where there is none of the known shape."""
    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "rotary_emb"]
    if not found:
        raise BadInput("--rope pre: the model has no `rotary_emb` to rotate back by; use --rope post")
    _check_halves(found[0])
    return found[0]


def _check_halves(module: Any) -> None:
    """Raises BadInput unless the model rotates as `_turned` does, channel i with channel i + r/2: tried on random keys with
    the function that the model's own code has for it."""
    home = sys.modules[type(module).__module__]
    apply: Any = getattr(home, "apply_rotary_pos_emb", None)
    kind = type(module).__name__
    width = 8
    keys, angles = torch.randn(2, 1, 1, 3, width, generator=torch.Generator().manual_seed(0))
    half = angles[..., : width // 2]
    cos, sin = (torch.cat([wave(half), wave(half)], -1)[:, 0] for wave in (torch.cos, torch.sin))
    try:
        _, turned = apply(keys, keys, cos, sin)
    except TypeError as error:  # there is none, or it wants other arguments
        raise BadInput(f"--rope pre: how {kind} turns its keys cannot be tried ({error}); use --rope post") from error
    if turned.shape != keys.shape or not torch.allclose(turned, _turned(keys, cos[:, None], sin[:, None]), atol=1e-5):
        raise BadInput(f"--rope pre: {kind} pairs its channels otherwise than halves; use --rope post")
