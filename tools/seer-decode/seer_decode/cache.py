"""The cache of a sparse decoder in a transformers model: all keys and values, one compressed key a block, and what is read.

    with attached(model):
        cache = SeerCache(model, Policy("budget", 1024), gates=gates)
        model.generate(..., past_key_values=cache)

A prefill is dense. Then each step of each gated layer scores the past blocks, chooses by the policy and attends to what was
chosen (arXiv 2506.08889, section 3). A sequence's token p lies at slot p whatever padding it came with: blocks begin at its
own first token, padding is in no pool, and no batch mate changes a result. Memory grows by quarters, so that a step copies
next to nothing. A block's compressed key is made when it is full, from its keys turned back by the model's rotation, at the
position of its first token, in a prefill as in a step.

Positions must count from a sequence's first token, as `generate` has them; padding must be on the left. Several tokens at once are
read densely, also after the prompt: assisted decoding saves nothing here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from seer_decode import attend, fast, kernels, stepwise
from seer_decode.capture import check_attention, check_rotation, switched
from seer_decode.gate import Gate, Gates
from seer_decode.rotate import Turns, Unrotated, turns
from seer_decode.select import (
    METHODS,
    Bounds,
    Policy,
    Selection,
    key_bounds,
    oracle_scores,
    quest_scores,
    random_scores,
    recent_scores,
    select,
)
from seer_decode.shape import Shape, count, gated_layers
from seer_decode.stepwise import Seen
from seer_decode.trace import Trace
from tenfold_shared import BadInput

NAME = "seer-decode"
Method = Literal["seer", "oracle", "quest", "recent", "random", "dense"]


class Pending(NamedTuple):
    """New keys and values on their way from `update` to the attention function."""

    layer: SeerLayer
    keys: Tensor
    values: Tensor


class SeerLayer(CacheLayerMixin):
    """One layer. keys, values (B, Hkv, capacity, D); lengths (B,) tokens of each sequence; compressed (B, Hkv, N, dg) float32
    and, for `quest`, bounds (B, Hkv, N, D), of whole blocks."""

    is_sliding = False
    is_croppable = True
    keys: Tensor
    values: Tensor

    def __init__(self, index: int, how: SeerCache, gate: Gate | None) -> None:
        super().__init__()
        self.index, self.how, self.gate = index, how, gate
        self.length = 0  # with padding, as transformers counts
        self.start: list[int] | None = None  # slots of padding before each sequence; None without padding
        self.each: list[int] = []  # lengths as the host knows them: no layer asks a device

    @property
    def block(self) -> int:
        return self.how.policy.block

    # ------------------------------------------------------------ what transformers asks of a layer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, dim = key_states.shape
        if value_states.shape != key_states.shape:
            raise BadInput(
                f"layer {self.index}: keys of {dim} and values of {value_states.shape[-1]} channels are not alike"
            )
        self.keys, self.values = (
            key_states.new_zeros(batch, heads, 0, dim),
            value_states.new_zeros(batch, heads, 0, dim),
        )
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=key_states.device)
        wide = self.gate.shape.gate_dim if self.gate is not None else 0
        self.compressed = torch.zeros(batch, heads, 0, wide, device=key_states.device)
        self.high, self.low = (torch.zeros(batch, heads, 0, dim, device=key_states.device) for _ in range(2))
        self.each = [0] * batch
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.length += key_states.shape[2]
        pending = Pending(self, key_states, value_states)
        return pending, pending

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.is_initialized, self.length, self.start, self.each = False, 0, None, []

    def _over_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values", "lengths", "compressed", "high", "low"):
            setattr(self, name, change(getattr(self, name)))
        at = change(torch.arange(len(self.each), device=self.keys.device)).tolist()
        self.each = [self.each[place] for place in at]
        self.start = None if self.start is None else [self.start[place] for place in at]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._over_batch(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._over_batch(lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._over_batch(lambda t: t[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the latest tokens: so many where the number is below 0, else, as transformers has it, all beyond it. A
        block that is no longer full is compressed again when it fills."""
        if tokens_to_remove == 0:
            return
        count = -tokens_to_remove if tokens_to_remove < 0 else max(0, self.length - tokens_to_remove)
        if not count or not self.is_initialized:
            return
        if count > min(self.each):
            raise BadInput(f"layer {self.index}: {count} tokens cannot be taken back, a sequence has {min(self.each)}")
        self.length -= count
        self.lengths, self.each = self.lengths - count, [length - count for length in self.each]

    # ------------------------------------------------------------ attention

    def attend(self, query: Tensor, pending: Pending, padding: Tensor | None, scale: float) -> Tensor:
        """(B, Hq, n, D) of new queries over all tokens or, for one query each, over the blocks that are chosen.

        padding: (B, kv) which slots are tokens, or None for all."""
        if padding is not None:
            self.start = self.how.starts(padding)
        count = pending.keys.shape[2]
        self._append(pending.keys, pending.values)
        if self.how.stepwise:
            return stepwise.attend(self, query, scale)
        if count > 1:
            return self._chunk(query, scale)
        return self.read(query[:, :, 0], scale)[:, :, None]

    def take(self, keys: Tensor, values: Tensor) -> None:
        """Keep tokens (B, Hkv, n, D) that come without queries, as a prefill keeps its own."""
        self.update(keys, values)
        self._append(keys, values)

    def read(self, query: Tensor, scale: float) -> Tensor:
        """(B, Hq, D) of the newest tokens' queries (B, Hq, D) over the blocks that are chosen for them."""
        return self.over(query, self.choose(query, scale), scale)

    def over(self, query: Tensor, chosen: Selection | None, scale: float) -> Tensor:
        """The same over blocks at hand; None for all."""
        if chosen is None:
            return attend.dense(query, self.keys, self.values, self.lengths, scale)
        given = query, self.keys, self.values, self.lengths, chosen, self.block, scale
        return kernels.attend(*given) if kernels.usable(self.keys) else attend.blocks(*given, self.how.workspace)

    def _append(self, keys: Tensor, values: Tensor) -> None:
        """New tokens to their slots; padding has none."""
        count = keys.shape[2]
        before = self.each
        if self.start is None:  # every sequence has every token
            first, last = self.length - count, self.length
            self._grow(last)
            self.keys[:, :, first:last], self.values[:, :, first:last] = keys, values
            self.lengths, self.each = self.lengths + count, [last] * len(before)
            if first // self.block < last // self.block:
                self._compress(slice(None), first // self.block, last // self.block)
            return
        after = [max(0, self.length - start) for start in self.start]
        if any(not 0 <= last - first <= count for first, last in zip(before, after, strict=True)):
            raise BadInput(f"layer {self.index}: the padding of a sequence changed after its first tokens")
        self._grow(max(after))
        self.lengths, self.each = torch.tensor(after, device=keys.device), after
        for row, (first, last) in enumerate(zip(before, after, strict=True)):
            if last > first:
                self.keys[row, :, first:last] = keys[row, :, count - (last - first) :]
                self.values[row, :, first:last] = values[row, :, count - (last - first) :]
            if first // self.block < last // self.block:
                self._compress(slice(row, row + 1), first // self.block, last // self.block)

    def _grow(self, tokens: int) -> None:
        """Room for so many tokens, whole blocks, at least a quarter more than there was."""
        held = self.keys.shape[2]
        if tokens <= held:
            return
        blocks = -(-max(tokens, held + held // 4, 256) // self.block)
        more = blocks * self.block - held
        self.keys, self.values = (pad(x, (0, 0, 0, more)) for x in (self.keys, self.values))
        self.compressed = pad(self.compressed, (0, 0, 0, blocks - self.compressed.shape[2]))
        if self.how.method == "quest":
            self.high, self.low = (pad(x, (0, 0, 0, blocks - x.shape[2])) for x in (self.high, self.low))

    def compress_anew(self) -> None:
        """Make what the method needs of every full block, for the blocks that the policy has now."""
        if not self.is_initialized:
            return
        batch, heads, tokens, dim = self.keys.shape
        blocks = -(-tokens // self.block)
        self.keys, self.values = (pad(x, (0, 0, 0, blocks * self.block - tokens)) for x in (self.keys, self.values))
        wide = self.gate.shape.gate_dim if self.gate is not None else 0
        self.compressed = self.keys.new_zeros(batch, heads, blocks, wide, dtype=torch.float32)
        held = blocks if self.how.method == "quest" else 0
        self.high, self.low = (self.keys.new_zeros(batch, heads, held, dim, dtype=torch.float32) for _ in range(2))
        for row, length in enumerate(self.each):
            if length >= self.block:
                self._compress(slice(row, row + 1), 0, length // self.block)

    def _compress(self, rows: slice, first: int, last: int) -> None:
        """Blocks first … last − 1 of some sequences, which are full."""
        held = self.keys[rows, :, first * self.block : last * self.block]
        if self.gate is not None and self.how.method == "seer":
            positions = torch.arange(first * self.block, last * self.block, device=held.device)[None]
            features = self.gate.key_features(self.how.unrotated(held, positions), first)
            self.compressed[rows, :, first:last] = features.detach()
        if self.how.method == "quest":
            bounds = key_bounds(held.float(), self.block)
            self.high[rows, :, first:last], self.low[rows, :, first:last] = bounds

    def _chunk(self, query: Tensor, scale: float) -> Tensor:
        """Dense attention of a chunk, each query to what is before it."""
        count, lengths = query.shape[2], self.each
        even = self.start is None and min(lengths) == max(lengths)
        if even and lengths[0] == count:
            keys, values = self.keys[:, :, :count], self.values[:, :, :count]
            return scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale, enable_gqa=True)
        out = torch.zeros_like(query)
        for row, length in enumerate(lengths):
            real = min(count, length)
            mine = slice(row, row + 1)
            seen = torch.ones(real, length, dtype=torch.bool, device=query.device).tril(length - real)
            out[mine, :, count - real :] = scaled_dot_product_attention(
                query[mine, :, count - real :], self.keys[mine, :, :length], self.values[mine, :, :length], seen, scale=scale,
                enable_gqa=True,
            )  # fmt: skip
        return out

    def choose(self, query: Tensor, scale: float) -> Selection | None:
        """The blocks of one query each, (B, Hq, D); None where all are read, and dense attention is the same."""
        how, lengths, each = self.how, self.lengths, self.each
        if self.length <= how.prompt:
            return None
        if self._reads_all():
            how.trace.add(each, None)
            return None
        if how.method == "seer" and self.gate is not None and kernels.chooses(self.gate, how.policy, self.compressed):
            before = query.float() @ how.turns(each, query.device).back
            chosen, _ = kernels.choose(self.gate, before, self.compressed, lengths, how.policy)
        elif (
            how.method == "seer"
            and self.gate is not None
            and fast.chooses(self.gate, how.policy, query, self.compressed)
        ):
            chosen, _ = fast.choose(self.gate, query, how.angles(each), self.compressed, each, how.policy)
        else:
            chosen = select(self._scores(query, each, scale), lengths, how.policy)
        how.trace.add(each, chosen.counts)
        return chosen

    def _reads_all(self) -> bool:
        """Whether a step is dense, whatever the scores are: by the method, or as the budget holds everything."""
        how = self.how
        if how.method == "dense" or self.index < how.dense_layers or min(self.each) < 1:
            return True
        blocks = [-(-length // self.block) for length in self.each]
        return not how.policy.paper_compat and all(how.policy.ceiling(count) == count for count in blocks)

    def _scores(self, query: Tensor, each: list[int], scale: float) -> Tensor:
        """(B, Hkv, blocks) logits of sequences of `each` tokens, of which those from the tail on are not looked at."""
        how, lengths, heads = self.how, self.lengths, self.keys.shape[1]
        most = -(-max(each) // self.block)
        if how.method == "seer":
            assert self.gate is not None
            turns = how.turns(each, query.device)
            # torch.bmm, not @: it goes through fewer of torch's layers, which are not in the processor's cache either.
            features = self.gate.projected(torch.bmm(query.float(), turns.back)[:, :, None])[:, :, 0]
            return self.gate.scores(torch.bmm(features, turns.on)[:, :, None], self.compressed[:, :, :most])[:, :, 0]
        if how.method == "oracle":
            return oracle_scores(query, self.keys[:, :, : max(each)], lengths, self.block, scale)
        if how.method == "quest":
            return quest_scores(query, Bounds(self.high[:, :, :most], self.low[:, :, :most]), how.quest_share, scale)
        if how.method == "recent":
            return recent_scores(lengths, heads, self.block)
        return random_scores(lengths, heads, self.block, how.seed, self.index)


class SeerCache(Cache):
    """For use inside `attached(model)`. Layers that can have no gate keep transformers' own caches.

    method: what ranks blocks; `seer` needs gates of the policy's block. dense_layers: so many first layers read everything.
    quest_share: how a group shares Quest's scores. ranks: tensor-parallel ranks that share the stored heads out (Gates.shard).
    trace: what was read, for as long as the cache lives.
    Raises BadInput for gates that are missing or of another shape.
    """

    def __init__(
        self,
        model: Any,
        policy: Policy,
        method: Method = "seer",
        gates: Gates | None = None,
        *,
        dense_layers: int = 0,
        quest_share: Literal["max", "mean"] = "max",
        seed: int = 0,
        ranks: int = 1,
    ) -> None:
        if method not in METHODS:
            raise BadInput(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        self.policy, self.method, self.seed = policy.checked(), method, seed
        self.dense_layers, self.quest_share, self.ranks = dense_layers, quest_share, ranks
        self.gates, self.workspace = gates, attend.Workspace()
        self._turns: tuple[list[int], Turns] | None = None
        self._angles: tuple[list[int], fast.Angles] | None = None
        self.model = model
        self.stepwise = False  # whether the tokens of a chunk choose their blocks one by one (stepwise.py)
        self.seen: list[Seen] = []
        self.prompt = 0  # tokens, padding among them, that are read densely even where they come one at a time
        self._starts: tuple[Tensor, list[int]] | None = None
        check_attention(model)
        gated, _ = gated_layers(model.config)
        if method == "seer":
            _check(model, policy, gates, gated, ranks)
            check_rotation(model, self.unrotated)
        config = model.config.get_text_config()
        layers = list(DynamicCache(config=config).layers)
        while len(layers) < config.num_hidden_layers:  # a config of full layers only leaves them to be made later
            layers.append(DynamicLayer())
        for index in gated:
            layers[index] = SeerLayer(index, self, gates[index] if gates is not None and index in gates else None)
        super().__init__(layers=layers)
        heads = count(config, "num_key_value_heads", count(config, "num_attention_heads"))
        self.trace = Trace(len(gated), heads // ranks, policy.block)

    def become(self, policy: Policy, method: Method, gates: Gates | None = None) -> None:
        """Go on with another policy and method over the same keys and values; full blocks are compressed anew."""
        self.policy, self.method, self.gates = policy.checked(), method, gates
        self._turns = self._angles = None
        if method == "seer":
            _check(self.model, policy, gates, [layer.index for layer in self.sparse], self.ranks)
            check_rotation(self.model, self.unrotated)
        self.trace = Trace(self.trace.layers, self.trace.heads, policy.block)
        for layer in self.sparse:
            layer.gate = gates[layer.index] if gates is not None and layer.index in gates else None
            layer.compress_anew()

    @functools.cached_property
    def unrotated(self) -> Unrotated:
        """The model's rotation backwards, which gates alone need."""
        return Unrotated(self.model)

    @property
    def sparse(self) -> list[SeerLayer]:
        return [layer for layer in self.layers if isinstance(layer, SeerLayer)]

    def turns(self, each: list[int], device: torch.device) -> Turns:
        """Of the last of `each` tokens; the layers of a step share them."""
        if self._turns is None or self._turns[0] != each or self._turns[1].back.device != device:
            assert self.gates is not None
            self._turns = each, turns(self.unrotated, self.gates, torch.tensor(each, device=device) - 1)
        return self._turns[1]

    def angles(self, each: list[int]) -> fast.Angles:
        """The same for fast.choose."""
        if self._angles is None or self._angles[0] != each:
            assert self.gates is not None
            self._angles = each, fast.angles(self.unrotated, self.gates, torch.tensor(each) - 1)
        return self._angles[1]

    def starts(self, padding: Tensor) -> list[int]:
        """Slots before each sequence's first token, of padding (B, kv) that all layers of a forward are given."""
        if self._starts is None or self._starts[0] is not padding:
            self._starts = padding, _start(padding).tolist()
        return self._starts[1]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.trace.keep(beam_idx.tolist())
        super().reorder_cache(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.trace.keep(indices.tolist())
        super().batch_select_indices(indices)

    def density(self) -> float:
        """Share of blocks that were read, over all steps and layers; 1 before the first step."""
        return self.trace.density()


def _check(model: Any, policy: Policy, gates: Gates | None, gated: list[int], ranks: int = 1) -> None:
    if gates is None:
        raise BadInput("method seer: needs gates; the others (oracle, quest, recent, random, dense) do not")
    whole, found = Shape.of(model.config, block=policy.block), gates.shape
    mine = msgspec.structs.replace(whole, heads=whole.heads // ranks, kv_heads=whole.kv_heads // ranks)
    for name in ("layers", "heads", "kv_heads", "head_dim", "block"):
        if getattr(mine, name) != getattr(found, name):
            raise BadInput(f"gates: are made for {name} {getattr(found, name)}, and here it is {getattr(mine, name)}")
    if missing := [index for index in gated if index not in gates]:
        raise BadInput(f"gates: have none of layer {missing[0]}")


def attention(
    module: nn.Module,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function: gated layers attend through their cache, others as `sdpa` does."""
    if not isinstance(key, Pending):
        return sdpa_attention_forward(
            module, query, key, value, _dense_mask(query, key, attention_mask), scaling=scaling, **kwargs
        )
    if kwargs.get("softcap") or kwargs.get("sliding_window") or kwargs.get("s_aux") is not None:
        raise BadInput("the model's attention has soft caps, sinks or windows of its own in a gated layer")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = key.layer.attend(query, key, attention_mask, scale)
    return out.transpose(1, 2).contiguous(), None


def _start(padding: Tensor) -> Tensor:
    """(B,) how many slots before a sequence's first token, of padding (B, kv). Raises BadInput for padding elsewhere."""
    tokens = padding.bool()
    start = tokens.shape[1] - tokens.sum(1)
    if not torch.equal(tokens, torch.arange(tokens.shape[1], device=tokens.device) >= start[:, None]):
        raise BadInput("the attention mask hides tokens other than padding on the left; expected left padding only")
    return start


def _dense_mask(query: Tensor, key: Tensor, given: Tensor | None) -> Tensor | None:
    """What `sdpa` needs where a layer has another cache: our padding (B, kv) with the causal order written out."""
    count, tokens = query.shape[2], key.shape[2]
    if given is not None and given.dim() == 4:
        return given
    if given is None and count in (1, tokens):
        return None
    seen = torch.ones(count, tokens, dtype=torch.bool, device=query.device).tril(tokens - count)[None, None]
    return seen if given is None else seen & given[:, None, None, :tokens]


def mask(**given: Any) -> Tensor | None:
    """For gated layers the padding (B, kv), None without any: causal order needs no mask. For others what `sdpa` wants."""
    if given.get("local_size") is not None:
        return sdpa_mask(**given)
    padding = given.get("attention_mask")
    if padding is None or bool(padding.bool().all()):
        return None
    return padding.bool()


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)


@contextmanager
def attached(model: Any) -> Iterator[Any]:
    """The model with this attention; its own comes back at the end. A call without a `SeerCache` attends as `sdpa`."""
    with switched(model, NAME):
        yield model
