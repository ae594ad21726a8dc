"""What antkv is compared with, re-stated from the papers and codebases of their authors, in the same cache.

Every peer closes the same blocks from the same window, so that what differs is how closed tokens are kept; bytes are
those of its live tensors. Labelled as re-statements: none of this is the authors' code.

- kivi (arXiv 2402.02750): keys a channel in groups of 32 tokens, values a token in groups of 32 channels, asymmetric
  min–max, after RoPE.
- kvquant-style (2401.18079): keys a channel before RoPE, values a token; levels of a normal distribution (Lloyd–Max) on
  each vector's own mean and deviation in place of calibrated ones; the largest 1 % of each vector exact.
- skvq-style (2405.06219): values and keys before RoPE a token, in groups of 64 channels that are ordered by their spread
  (of the first block), min–max clipped by the best of five factors.
- evict: tokens in 16 bits, as many as fill the bytes that the packed cache has; the others are dropped. Kept are those
  with the largest column mass (H2O) among the closed ones.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from antkv.cache import AntLayer, Packed, Settings
from antkv.rope import Rope
from antkv.score import Factors
from tenfold_kernels.packing import pack, unpack

GROUP = 32
# Lloyd–Max levels of a standard normal variable.
NORMAL = {
    1: (-0.79788, 0.79788),
    2: (-1.51042, -0.45278, 0.45278, 1.51042),
    3: (-2.15195, -1.34391, -0.75601, -0.24509, 0.24509, 0.75601, 1.34391, 2.15195),
    4: (-2.73259, -2.06902, -1.61805, -1.25623, -0.94232, -0.65676, -0.38805, -0.12839,
        0.12839, 0.38805, 0.65676, 0.94232, 1.25623, 1.61805, 2.06902, 2.73259),
}  # fmt: skip


class PeerLayer(AntLayer):
    """A layer that keeps what it will of each closed block, as a dict of tensors."""

    def __init__(self, index: int, bits: int, rope: Rope | None, settings: Settings) -> None:
        nothing = torch.empty(1, 1, 1, 1)
        super().__init__(index, (nothing, nothing), rope, settings)
        self.bits = bits
        self.blocks: list[dict[str, Tensor]] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, dim = key_states.shape
        self.device, self.heads, self.width = key_states.device, heads, dim
        kept: dict[str, Any] = {"dtype": self.settings.dtype, "device": self.device}
        self.window_k, self.window_v = (torch.empty(batch, heads, 0, dim, **kept) for _ in range(2))
        self.sum_k, self.sum_v = (torch.empty(batch, heads, 0, device=self.device) for _ in range(2))
        self.is_initialized = True

    def reset(self) -> None:
        super().reset()
        self.blocks = []

    def _close(self, count: int) -> None:
        """One block at a time, as each is a record of its own."""
        for _ in range(count // self.settings.block):
            super()._close(self.settings.block)

    def _over_batch(self, change: Any) -> None:
        if not self.is_initialized:
            return
        for name in ("window_k", "window_v", "sum_k", "sum_v"):
            setattr(self, name, change(getattr(self, name)))
        self.blocks = [{name: change(tensor) for name, tensor in block.items()} for block in self.blocks]
        self.start = None if self.start is None else change(self.start)

    @property
    def _looked_up(self) -> bool:
        return False

    @property
    def _has_codes(self) -> bool:
        return False

    def parts(self) -> dict[str, int]:
        if not self.is_initialized:
            return {"index": 0, "anchors": 0, "window": 0}
        window = self.window_k.nbytes + self.window_v.nbytes
        return {"index": sum(t.nbytes for block in self.blocks for t in block.values()), "anchors": 0, "window": window}


class QuantisedLayer(PeerLayer):
    """A layer whose closed blocks a method quantises: `encode` to tensors, `decode` back."""

    def _keep(self, keys: Tensor, values: Tensor, sums: Factors) -> None:
        plain = keys.float()
        if self.rope is not None:
            plain = self.rope.unrotate(keys, self._positions(self.closed, keys.shape[2], keys.shape[0]))
        self.blocks.append(self.encode(plain, values.float()))

    @abstractmethod
    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        """The tensors that stay of a block of keys and values (B, H, block, D) float32."""

    @abstractmethod
    def decode(self, block: dict[str, Tensor], count: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, count, D) of what `encode` left."""

    def dequantised(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if not self.blocks:
            return self.window_k[:, :, :0].to(dtype), self.window_v[:, :, :0].to(dtype)
        parts = [self.decode(block, self.settings.block) for block in self.blocks]
        keys, values = (torch.cat([part[at] for part in parts], 2) for at in (0, 1))
        if self.rope is not None:
            keys = self.rope.rotate(keys, self._positions(0, self.closed, keys.shape[0]))
        return keys.to(dtype), values.to(dtype)


def _uniform(x: Tensor, bits: int, clip: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Indices, low and step of the last axis quantised between its least and greatest, asymmetric."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2 * clip
    low = (middle - half).half().float()
    step = ((2 * half) / (2**bits - 1)).half().float().clamp_min(1e-8)
    return ((x - low) / step).round().clamp(0, 2**bits - 1).int(), low, step


class Kivi(QuantisedLayer):
    """Blocks are whole groups of 32 tokens; a key group shares its scale along time, a value group along channels."""

    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        along = keys.unflatten(2, (-1, GROUP)).transpose(3, 4)  # (B, H, groups, D, 32)
        out: dict[str, Tensor] = {}
        for name, x in (("k", along), ("v", values.unflatten(3, (-1, GROUP)))):
            indices, low, step = _uniform(x, self.bits)
            out |= {
                f"{name}_codes": pack(indices, self.bits, checked=False),
                f"{name}_low": low.half(),
                f"{name}_step": step.half(),
            }
        return out

    def decode(self, block: dict[str, Tensor], count: int) -> tuple[Tensor, Tensor]:
        keys, values = (
            unpack(block[f"{n}_codes"], self.bits, GROUP) * block[f"{n}_step"].float() + block[f"{n}_low"].float()
            for n in ("k", "v")
        )
        return keys.transpose(3, 4).flatten(2, 3), values.flatten(3)


class KvQuant(QuantisedLayer):
    """Normal levels on each vector's mean and deviation; the largest 1 % of a vector's numbers exact."""

    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, x in (("k", keys.transpose(2, 3)), ("v", values)):
            few = max(1, math.ceil(0.01 * x.shape[-1]))
            far = (x - x.mean(-1, keepdim=True)).abs().topk(few, -1).indices
            rest = torch.ones_like(x).scatter(-1, far, 0.0)
            mean = (x * rest).sum(-1, keepdim=True) / rest.sum(-1, keepdim=True)
            spread = (
                (((x - mean) * rest).square().sum(-1, keepdim=True) / rest.sum(-1, keepdim=True)).sqrt().clamp_min(1e-6)
            )
            levels = torch.tensor(NORMAL[self.bits], device=x.device)
            indices = torch.bucketize(((x - mean) / spread).contiguous(), (levels[1:] + levels[:-1]) / 2).int()
            out |= {
                f"{name}_codes": pack(indices, self.bits, checked=False),
                f"{name}_mean": mean.half(),
                f"{name}_spread": spread.half(),
                f"{name}_far": far.to(torch.int16),
                f"{name}_exact": x.gather(-1, far).half(),
            }
        return out

    def decode(self, block: dict[str, Tensor], count: int) -> tuple[Tensor, Tensor]:
        found = []
        for name, width in (("k", count), ("v", self.width)):
            levels = torch.tensor(NORMAL[self.bits], device=self.device)
            x = levels[unpack(block[f"{name}_codes"], self.bits, width).long()]
            x = x * block[f"{name}_spread"].float() + block[f"{name}_mean"].float()
            found.append(x.scatter(-1, block[f"{name}_far"].long(), block[f"{name}_exact"].float()))
        return found[0].transpose(2, 3), found[1]


class Skvq(QuantisedLayer):
    """Channels in the order of their spread, so that a group's are alike; each group clipped by its best factor."""

    FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8)

    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        group = min(64, self.width)
        if not self.blocks:
            self.order = [(x.amax((0, 2)) - x.amin((0, 2))).argsort(-1) for x in (keys, values)]  # (H, D)
        out: dict[str, Tensor] = {}
        for name, x, order in (("k", keys, self.order[0]), ("v", values, self.order[1])):
            sorted_ = x.gather(3, order[None, :, None].expand_as(x)).unflatten(3, (-1, group))
            best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
            for factor in self.FACTORS:
                indices, low, step = _uniform(sorted_, self.bits, factor)
                error = (indices * step + low - sorted_).square().sum(-1, keepdim=True)
                if best is None:
                    best = indices, low, step, error
                else:
                    won = error < best[3]
                    best = (
                        torch.where(won, indices, best[0]), torch.where(won, low, best[1]), torch.where(won, step, best[2]),
                        torch.where(won, error, best[3]),
                    )  # fmt: skip
            assert best is not None
            out |= {
                f"{name}_codes": pack(best[0], self.bits, checked=False),
                f"{name}_low": best[1].half(),
                f"{name}_step": best[2].half(),
            }
        return out

    def decode(self, block: dict[str, Tensor], count: int) -> tuple[Tensor, Tensor]:
        group, found = min(64, self.width), []
        for name, order in (("k", self.order[0]), ("v", self.order[1])):
            x = (
                unpack(block[f"{name}_codes"], self.bits, group) * block[f"{name}_step"].float()
                + block[f"{name}_low"].float()
            )
            x = x.flatten(3)
            found.append(torch.zeros_like(x).scatter(3, order[None, :, None].expand_as(x), x))
        return found[0], found[1]


class Evict(PeerLayer):
    """Of each closed block only the tokens with the largest mass stay, `share` of all closed ones, in 16 bits."""

    def __init__(self, index: int, share: float, settings: Settings) -> None:
        super().__init__(index, 16, None, settings)
        self.share, self.chosen = share, 0

    def reset(self) -> None:
        super().reset()
        self.chosen = 0

    def _keep(self, keys: Tensor, values: Tensor, sums: Factors) -> None:
        count = keys.shape[2]
        wanted = math.floor(self.share * (self.closed + count) + 1e-9) - self.chosen
        if wanted > 0:
            best = sums.values.topk(min(wanted, count), -1).indices.sort(-1).values
            at = best[..., None].expand(-1, -1, -1, keys.shape[3])
            self.blocks.append({"k": keys.gather(2, at).clone(), "v": values.gather(2, at).clone()})
            self.chosen += best.shape[2]

    def dequantised(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if not self.blocks:
            return self.window_k[:, :, :0].to(dtype), self.window_v[:, :, :0].to(dtype)
        return (
            torch.cat([block["k"] for block in self.blocks], 2).to(dtype),
            torch.cat([block["v"] for block in self.blocks], 2).to(dtype),
        )


QUANTISERS = {"kivi": (Kivi, False), "kvquant": (KvQuant, True), "skvq": (Skvq, True)}  # class, whether before RoPE


class PeerCache(Packed):
    """A cache of peers' layers: `kivi`, `kvquant`, `skvq` with `bits`, or `evict` with the share of closed tokens kept."""

    def __init__(self, model: Any, method: str, settings: Settings, bits: int = 2, share: float = 0.0) -> None:
        rope = Rope(model) if method in QUANTISERS and QUANTISERS[method][1] else None

        def make(index: int) -> AntLayer:
            if method == "evict":
                return Evict(index, share, settings)
            return QUANTISERS[method][0](index, bits, rope, settings)

        super().__init__(model, make)
