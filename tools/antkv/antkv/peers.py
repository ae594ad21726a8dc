"""What antkv is compared with, re-stated from the papers and codebases of their authors, in the same cache.

Every peer closes the same blocks from the same window, so that what differs is how closed tokens are kept; bytes are those
of the tensors that a method needs (the scores of a window are charged to antkv and evict alone). Labelled as re-statements:
none of this is the authors' code.

- kivi (arXiv 2402.02750): keys a channel in groups of 32 tokens, values a token in groups of 32 channels, asymmetric
  min–max, after RoPE. It has no rule for first tokens.
- kvquant-style (2401.18079): keys a channel before RoPE, values a token of a head; levels of a normal distribution
  (Lloyd–Max) on each vector's own mean and deviation in place of calibrated ones; the largest 1 % of each vector exact. The
  first token is exact, and no part of a vector: its authors' attention-sink rule (--first_few_fp16, 1 for their checkpoints).
- skvq-style (2405.06219): values and keys before RoPE a token, all stored heads' channels of the layer together, in as many
  groups as there are 64s of channels: clusters of the channels' least and greatest values, as in its authors' calibration.py,
  but of the first block instead of other text; min–max clipped by the best of five factors a group (theirs: one factor),
  scales in 16 bits (theirs: 8). The first 5 tokens are exact, as in its authors' runs (attn_sink 5 in the eval_ppl.py of
  cat538/SKVQ).
- evict: tokens in 16 bits, as many as fill the bytes that the packed cache has; the others are dropped. Of each block that
  closes, those stay whose column mass Σ_i A_ij (H2O), summed while they were in the window, is largest: a choice among a
  block's tokens, not among all closed ones, and never taken back.
- cq (2405.03917) and vq need no layer of their own: an AntCache without anchors on a plain codebook. cq, Coupled
  Quantization, is k-means of adjacent channels of a head with the same window; vq is the same with a window longer by the
  anchors' bytes.
- quantized-cache is transformers' own, not a re-statement; see `QuantoCache`.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from transformers import QuantizedCache

from antkv.cache import AntLayer, Packed, Pending, Settings
from antkv.codebook import Model
from antkv.kmeans import fit, nearest
from antkv.rope import Rope
from antkv.score import Factors
from tenfold_kernels.packing import pack, unpack
from tenfold_shared import BadInput

GROUP = 32  # tokens or channels of kivi's groups, and of quanto's
WIDE = 64  # channels of skvq's, on average
# Lloyd–Max levels of a standard normal variable.
NORMAL = {
    2: (-1.51042, -0.45278, 0.45278, 1.51042),
    4: (-2.73259, -2.06902, -1.61805, -1.25623, -0.94234, -0.65676, -0.38805, -0.12840,
        0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259),
}  # fmt: skip


class PeerLayer(AntLayer):
    """A layer that keeps what it will of each closed block, as a dict of tensors; of those, `first…` are whole tokens."""

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

    def attend(self, query: Tensor, pending: Pending, padding: Tensor | None, scale: float) -> Tensor:
        if padding is not None:
            raise BadInput("a peer's cache is for windows of text: it knows no padding")
        return super().attend(query, pending, None, scale)

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

    @property
    def _looked_up(self) -> bool:
        return False

    @property
    def _has_codes(self) -> bool:
        return False

    def parts(self) -> dict[str, int]:
        found = {"index": 0, "anchors": 0, "window": 0}
        if self.is_initialized:
            found["window"] = self.window_k.nbytes + self.window_v.nbytes
        for block in self.blocks:
            for name, tensor in block.items():
                found["anchors" if name.startswith("first") else "index"] += tensor.nbytes
        return found


class QuantisedLayer(PeerLayer):
    """A layer whose closed blocks a method quantises, but for the first SINKS tokens: `encode` to tensors, `decode` back."""

    SINKS = 0

    def _keep(self, keys: Tensor, values: Tensor, sums: Factors) -> None:
        exact = 0 if self.blocks else self.SINKS
        rest = keys[:, :, exact:]
        if self.rope is None:
            plain = rest.float()
        else:
            plain = self.rope.unrotate(rest, self._positions(self.closed + exact, rest.shape[2], rest.shape[0]))
        block = self.encode(plain, values[:, :, exact:].float())
        if exact:
            block |= {"first_k": keys[:, :, :exact].clone(), "first_v": values[:, :, :exact].clone()}
        self.blocks.append(block)

    @abstractmethod
    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        """The tensors that stay of a block's keys and values (B, H, n, D) float32."""

    @abstractmethod
    def decode(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, n, D) of what `encode` left."""

    def dequantised(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if not self.blocks:
            return self.window_k[:, :, :0].to(dtype), self.window_v[:, :, :0].to(dtype)
        keys, values = (torch.cat(part, 2) for part in zip(*map(self.decode, self.blocks), strict=True))
        if self.rope is not None:
            count = keys.shape[2]
            keys = self.rope.rotate(keys, self._positions(self.closed - count, count, keys.shape[0]))
        if self.SINKS:
            keys, values = (torch.cat([self.blocks[0][f"first_{n}"], x], 2) for n, x in (("k", keys), ("v", values)))
        return keys.to(dtype), values.to(dtype)


def _scale(low: Tensor, high: Tensor, bits: int, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """Low and step, as 16 bits hold them, of levels from least to greatest, clipped around their middle."""
    middle, half = (low + high) / 2, (high - low) / 2 * clip
    return (middle - half).half().float(), (2 * half / (2**bits - 1)).half().float()


def _indices(x: Tensor, low: Tensor, step: Tensor, bits: int) -> Tensor:
    return ((x - low) / step.clamp_min(1e-8)).round().clamp(0, 2**bits - 1).int()


class Kivi(QuantisedLayer):
    """Blocks are whole groups of 32 tokens; a key group shares its scale along time, a value group along channels."""

    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        along = keys.unflatten(2, (-1, GROUP)).transpose(3, 4)  # (B, H, groups, D, 32)
        out: dict[str, Tensor] = {}
        for name, x in (("k", along), ("v", values.unflatten(3, (-1, GROUP)))):
            low, step = _scale(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), self.bits)
            codes = pack(_indices(x, low, step, self.bits), self.bits, checked=False)
            out |= {f"{name}_codes": codes, f"{name}_low": low.half(), f"{name}_step": step.half()}
        return out

    def decode(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        keys, values = (
            unpack(block[f"{n}_codes"], self.bits, GROUP) * block[f"{n}_step"].float() + block[f"{n}_low"].float()
            for n in ("k", "v")
        )
        return keys.transpose(3, 4).flatten(2, 3), values.flatten(3)


class KvQuant(QuantisedLayer):
    """Normal levels on each vector's mean and deviation; the largest 1 % of a vector's numbers exact."""

    SINKS = 1

    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, x in (("k", keys.transpose(2, 3)), ("v", values)):
            few = math.ceil(0.01 * x.shape[-1])
            far = (x - x.mean(-1, keepdim=True)).abs().topk(few, -1).indices
            rest = torch.ones_like(x).scatter(-1, far, 0.0)
            count = rest.sum(-1, keepdim=True)
            mean = (x * rest).sum(-1, keepdim=True) / count
            spread = (((x - mean) * rest).square().sum(-1, keepdim=True) / count).sqrt().clamp_min(1e-6)
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

    def decode(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        tokens, levels, found = block["v_codes"].shape[2], torch.tensor(NORMAL[self.bits], device=self.device), []
        for name, width in (("k", tokens), ("v", self.width)):
            x = levels[unpack(block[f"{name}_codes"], self.bits, width).long()]
            x = x * block[f"{name}_spread"].float() + block[f"{name}_mean"].float()
            found.append(x.scatter(-1, block[f"{name}_far"].long(), block[f"{name}_exact"].float()))
        return found[0].transpose(2, 3), found[1]


class Skvq(QuantisedLayer):
    """A layer's channels in groups of those that reach from like to like; each group of a token clipped by its best factor."""

    SINKS = 5
    FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8)
    groups: Tensor | None = None  # (2, H D) uint8, which group a channel of keys, of values is in

    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        flat = torch.stack([x.transpose(1, 2).flatten(2) for x in (keys, values)])  # (2, B, n, H D)
        count = max(1, flat.shape[3] // WIDE)
        if self.groups is None:
            ends = torch.stack([flat.amin((1, 2)), flat.amax((1, 2))], -1)  # (2, H D, 2)
            self.groups = nearest(ends, fit(ends, torch.ones_like(ends[..., 0]), count, restarts=4).centroids)[0].byte()
        out: dict[str, Tensor] = {}
        for name, x, group in zip(("k", "v"), flat, self.groups.long(), strict=True):
            where, empty = group.expand_as(x), x.new_zeros(*x.shape[:2], count)
            low, high = (empty.scatter_reduce(2, where, x, how, include_self=False) for how in ("amin", "amax"))
            tried = [_scale(low, high, self.bits, factor) for factor in self.FACTORS]
            errors = []
            for low, step in tried:
                low, step = low[..., group], step[..., group]
                apart = _indices(x, low, step, self.bits) * step + low - x
                errors.append(empty.scatter_add(2, where, apart.square()))
            best = torch.stack(errors).argmin(0)[None]
            low, step = (torch.stack(part).gather(0, best)[0] for part in zip(*tried, strict=True))
            codes = pack(_indices(x, low[..., group], step[..., group], self.bits), self.bits, checked=False)
            out |= {f"{name}_codes": codes, f"{name}_low": low.half(), f"{name}_step": step.half()}
        return out

    def decode(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        assert self.groups is not None
        found = []
        for name, group in zip(("k", "v"), self.groups.long(), strict=True):
            low, step = (block[f"{name}_{part}"].float()[..., group] for part in ("low", "step"))
            x = unpack(block[f"{name}_codes"], self.bits, len(group)) * step + low
            found.append(x.unflatten(2, (self.heads, -1)).transpose(1, 2))
        return found[0], found[1]

    def reset(self) -> None:
        super().reset()
        self.groups = None

    def parts(self) -> dict[str, int]:
        found = super().parts()
        found["index"] += 0 if self.groups is None else self.groups.nbytes
        return found


class Evict(PeerLayer):
    """Of each closed block only the tokens with the largest mass stay, `share` of all closed ones, in 16 bits."""

    def __init__(self, index: int, share: float, settings: Settings) -> None:
        own = copy.copy(settings)
        own.score = "mass"  # the window then sums ΣA, whatever antkv is scored by
        super().__init__(index, 16, None, own)
        self.share, self.chosen = share, 0

    def reset(self) -> None:
        super().reset()
        self.chosen = 0

    def _keep(self, keys: Tensor, values: Tensor, sums: Factors) -> None:
        count = keys.shape[2]
        wanted = min(count, math.floor(self.share * (self.closed + count) + 1e-9) - self.chosen)
        best = sums.values.topk(max(0, wanted), -1).indices.sort(-1).values
        at = best[..., None].expand(-1, -1, -1, keys.shape[3])
        self.blocks.append({"k": keys.gather(2, at), "v": values.gather(2, at)})
        self.chosen += best.shape[2]

    def dequantised(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        keys, values = (
            torch.cat([window[:, :, :0], *(block[name] for block in self.blocks)], 2)
            for name, window in (("k", self.window_k), ("v", self.window_v))
        )
        return keys.to(dtype), values.to(dtype)

    def parts(self) -> dict[str, int]:
        found = super().parts()
        found["window"] += self.sum_v.nbytes if self.is_initialized else 0
        return found


QUANTISERS = {"kivi": (Kivi, False), "kvquant": (KvQuant, True), "skvq": (Skvq, True)}  # class, whether before RoPE


class PeerCache(Packed):
    """A cache of peers' layers: `kivi`, `kvquant`, `skvq` with `bits`, or `evict` with the share of closed tokens kept.
    Raises BadInput where a method's groups do not fit."""

    def __init__(self, model: Any, method: str, settings: Settings, bits: int = 2, share: float = 0.0) -> None:
        _fits(method, Model.of(model.config), settings.block)
        rope = Rope(model) if method in QUANTISERS and QUANTISERS[method][1] else None

        def make(index: int) -> AntLayer:
            if method == "evict":
                return Evict(index, share, settings)
            return QUANTISERS[method][0](index, bits, rope, settings)

        super().__init__(model, make)


def _fits(method: str, model: Model, block: int) -> None:
    if method == "kivi":
        for name, size in (("--block", block), ("head_dim", model.head_dim)):
            if size % GROUP:
                raise BadInput(f"kivi: {name} {size}: its groups of {GROUP} need a multiple of {GROUP}")


class QuantoCache(QuantizedCache):
    """transformers' own QuantizedCache on quanto. Raises BadInput for a model with other than full-attention layers.

    Its first update is quantised whole; later tokens stay exact until there are more than `window`, and then all is quantised
    anew: the exact window saw-tooths from none to `window` and back. Bits are therefore those of the mean of its window over
    the steps so far, at the present length. What the model's type holds in more than 16 bits (scales, window) is charged 16,
    as antkv holds its own.
    """

    def __init__(self, model: Any, bits: int, window: int) -> None:
        try:
            super().__init__("quanto", model.config, nbits=bits, q_group_size=GROUP, residual_length=max(1, window))
        except ValueError as error:
            raise BadInput(f"--methods quantized-cache: {error}") from error
        self.exact: list[int] = []  # tokens of the exact window after each step

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        found = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == 0:
            layer: Any = self.layers[0]
            self.exact.append(layer.keys.shape[2] if layer.keys.dim() == 4 else 0)  # an empty one has no shape
        return found

    @property
    def mean_window(self) -> float:
        return sum(self.exact) / len(self.exact)

    def effective_bits(self) -> float:
        """Of the first layer: all are alike."""
        layer: Any = self.layers[0]
        coded = layer._quantized_keys, layer._quantized_values
        bits = 8 * sum(map(_bytes, coded)) / sum(part.numel() for part in coded)
        share = self.mean_window / layer.get_seq_length()
        return (1 - share) * bits + share * 16

    def note(self) -> str:
        return (
            f"quantized-cache: its exact window saw-tooths, {min(self.exact)} to {max(self.exact)} tokens; bits are at its mean "
            f"over the steps, {self.mean_window:.0f}, with floats in 16 bits"
        )


def _bytes(tensor: Any) -> int:
    """Of a tensor or of a quantised one's parts, floats as 16 bits where they have more."""
    if type(tensor) is not Tensor and hasattr(tensor, "__tensor_flatten__"):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * (min(2, tensor.element_size()) if tensor.is_floating_point() else tensor.element_size())
