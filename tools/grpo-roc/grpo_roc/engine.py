"""The engine in this process over a transformers model, `LocalEngine`.

It keeps keys and values in slots of one tensor a layer: each step of decoding is one forward pass over all slots that run, of one token each; new tokens of a slot are read in a pass of their own, and a prompt that
several trajectories share is read once.

Where it sits: below rollout.py, as one of the engines of engine_protocol.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from grpo_roc import attention
from grpo_roc.engine_protocol import Turn, silent
from grpo_roc.packing import full_attention, plain_head
from grpo_roc.scheduler import blocks_of
from tenfold_shared import BadInput

Tensor = torch.Tensor


# ---------------------------------------------------------------- keys and values in slots


class _Where(msgspec.Struct):
    """Of the pass under way: rows [B] slots, positions [B, Q] of its tokens, reach: keys that any of them may see."""

    rows: Tensor
    positions: Tensor
    reach: int
    all_rows: bool


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, heads, capacity, head dim]: a pass writes its tokens at their places and gets what its rows hold up to `reach`, places beyond a row's own length masked by whoever
    calls."""

    def __init__(self, slots: int, capacity: int) -> None:
        super().__init__()
        self.slots, self.capacity = slots, capacity
        self.where: _Where | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.slots, key_states.shape[1], self.capacity, key_states.shape[-1])
        # a CPU multiplies few rows by float32 several times as fast as by bfloat16
        dtype = torch.float32 if key_states.device.type == "cpu" and key_states.itemsize < 4 else key_states.dtype
        self.keys = key_states.new_zeros(shape, dtype=dtype)
        self.values = value_states.new_zeros((*shape[:3], value_states.shape[-1]), dtype=dtype)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.where is not None and self.keys is not None and self.values is not None
        where = self.where
        rows = where.rows[:, None].expand_as(where.positions)
        self.keys[rows, :, where.positions] = key_states.transpose(1, 2).to(self.keys.dtype)
        self.values[rows, :, where.positions] = value_states.transpose(1, 2).to(self.keys.dtype)
        if where.all_rows:
            count = len(where.rows)
            return self.keys[:count, :, : where.reach], self.values[:count, :, : where.reach]
        return self.keys[where.rows, :, : where.reach], self.values[where.rows, :, : where.reach]

    def forget(self) -> None:
        self.keys, self.values, self.is_initialized = None, None, False

    def copy(self, source: int, target: int, length: int) -> None:
        assert self.keys is not None and self.values is not None
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        assert self.where is not None
        return self.where.reach, 0

    def get_max_length(self) -> int:
        return self.capacity


class _Slot(msgspec.Struct):
    key: str
    number: int
    length: int = 0  # tokens whose keys are held
    next: int = -1  # the last sampled token, which is not held yet
    most: int = 0
    draw: Any = None
    ids: list[int] = []
    logp: list[float] = []
    running: bool = False


class LocalEngine:
    """Over a causal transformers model in this process. slots: trajectories at a time, what is more waits here; capacity: tokens of one. temperature: of sampling; log-probabilities are those of the distribution
    that was drawn from. The model may be the very one that is trained, which then needs no `load`, or a copy in another type."""

    name, block, paged, lost = "transformers", 16, False, ""

    def __init__(
        self, model: Any, ends: frozenset[int], *, slots: int, capacity: int, temperature: float = 1.0
    ) -> None:
        """Raises BadInput for a model whose layers do not all keep full keys and values."""
        config = model.config.get_text_config()
        full_attention(model, "only full attention is sampled here")
        plain_head(model)
        model.set_attn_implementation(attention.NAME)
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and capacity > limit:
            raise BadInput(
                f"trajectories of up to {capacity} tokens: the model has {limit} positions; lower --max-tokens or --max-prompt"
            )
        self.model, self.ends, self.capacity, self.temperature = model, ends, capacity, temperature
        self.places, self.blocks = slots, slots * blocks_of(capacity, self.block)
        self.layers = [SlotLayer(slots, capacity) for _ in range(config.num_hidden_layers)]
        self.cache = Cache(layers=list(self.layers))
        self.free = list(range(slots - 1, -1, -1))
        self.slots: dict[str, _Slot] = {}
        self.new: list[tuple[_Slot, list[int]]] = []
        self.line: deque[tuple[str, list[int], int, np.random.Generator]] = deque()  # those without a slot
        self.bell: Callable[[], object] = silent

    @property
    def idle(self) -> bool:
        return not self.new and not any(slot.running for slot in self.slots.values())

    def start(self, key: str, ids: Sequence[int], most: int, draw: np.random.Generator) -> None:
        slot = self.slots.get(key)
        held = 0 if slot is None else slot.length + (slot.next >= 0)
        if held + len(ids) + most > self.capacity:
            raise BadInput(f"{key}: {held + len(ids)} tokens and {most} more are beyond {self.capacity}")
        if slot is None:
            if not self.free:
                self.line.append((key, list(ids), most, draw))
                return
            slot = self.slots[key] = _Slot(key, self.free.pop())
        fresh = [slot.next, *ids] if slot.next >= 0 else list(ids)
        slot.most, slot.draw, slot.ids, slot.logp, slot.next = most, draw, [], [], -1
        self.new.append((slot, fresh))

    def release(self, key: str) -> None:
        if key not in self.slots:
            self.line = deque(one for one in self.line if one[0] != key)
            return
        slot = self.slots.pop(key)
        self.new = [one for one in self.new if one[0] is not slot]
        self.free.append(slot.number)
        self.free.sort(reverse=True)  # low numbers are used first: rows 0 to B - 1 need no copy
        if self.line:
            self.start(*self.line.popleft())

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies what is not this engine's own tensor. Raises ValueError where trajectories are here, or where the weights are not this model's."""
        if self.slots:
            raise ValueError("weights are loaded between batches")
        own = self.model.state_dict()
        there = {value.data_ptr() for value in self.model.parameters()}
        done = set()
        for name, value in weights:
            if name not in own or own[name].shape != value.shape:
                raise ValueError(f"{name}, of shape {tuple(value.shape)}, is no weight of this engine's model")
            if own[name].data_ptr() != value.data_ptr():
                own[name].copy_(value)
            done.add(own[name].data_ptr())
        if there - done:
            raise ValueError(f"{len(there - done)} of the engine's weights were not given")

    def sleep(self) -> None:
        for layer in self.layers:
            layer.forget()

    def wake(self) -> None:
        """Keys and values find memory again at the first pass."""

    def close(self) -> None:
        self.sleep()

    @torch.no_grad()
    def poll(self) -> list[Turn]:
        """Reads what was appended, then draws one token for every trajectory that runs."""
        if self.new:
            new, self.new = self.new, []
            return self._read(new)
        running = sorted((slot for slot in self.slots.values() if slot.running), key=lambda slot: slot.number)
        if not running:
            return []
        numbers = [slot.number for slot in running]
        top = numbers[-1] + 1
        if top <= 2 * len(running):
            # rows with gaps between them would be copied, which takes longer than a token for those that rest
            numbers = list(range(top))
        held = {slot.number: slot for slot in self.slots.values()}
        rows = [(n, held[n].length if n in held else 0) for n in numbers]
        hidden = self._forward(rows, [[held[n].next] if n in held and held[n].running else [0] for n in numbers])
        for slot in running:
            slot.length += 1
        at = {n: row for row, n in enumerate(numbers)}
        return self._sample(running, hidden[[at[slot.number] for slot in running]])

    def _read(self, new: list[tuple[_Slot, list[int]]]) -> list[Turn]:
        """Prompts and tool responses; of equal beginnings of empty slots, one is read and copied to the others."""
        first: dict[tuple[int, ...], _Slot] = {}
        copies: list[tuple[_Slot, _Slot]] = []
        reading: list[tuple[_Slot, list[int]]] = []
        for slot, ids in new:
            same = first.get(tuple(ids)) if slot.length == 0 else None
            if same is not None:
                copies.append((same, slot))
                continue
            if slot.length == 0:
                first[tuple(ids)] = slot
            reading.append((slot, ids))
        reading.sort(key=lambda one: one[0].number)
        hidden = self._forward([(slot.number, slot.length) for slot, _ in reading], [ids for _, ids in reading])
        for slot, ids in reading:
            slot.length += len(ids)
        at = {slot.number: row for row, (slot, _) in enumerate(reading)}
        for source, target in copies:
            for layer in self.layers:
                layer.copy(source.number, target.number, source.length)
            target.length = source.length
            at[target.number] = at[source.number]
        slots = [slot for slot, _ in new]
        for slot in slots:
            slot.running = True
        return self._sample(slots, hidden[[at[slot.number] for slot in slots]])

    def _forward(self, slots: list[tuple[int, int]], ids: list[list[int]]) -> Tensor:
        """Final states [B, d] of each row's last token. slots: (number, tokens that are held). Padded tokens, and one for a row that rests, are written beyond a row's end, where its next ones will be."""
        device = self.model.device
        width = max(map(len, ids))
        tokens = torch.zeros(len(ids), width, dtype=torch.long)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = torch.tensor(one)
        lengths = torch.tensor([length for _, length in slots])
        positions = (lengths[:, None] + torch.arange(width)).clamp(max=self.capacity - 1)
        reach = min(int(lengths.max()) + width, self.capacity)
        rows = torch.tensor([number for number, _ in slots])
        where = _Where(rows.to(device), positions.to(device), reach, bool((rows == torch.arange(len(rows))).all()))
        for layer in self.layers:
            layer.where = where
        dtype = self.model.dtype
        seen = torch.arange(reach)[None, None, :] <= positions[:, :, None]
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None].to(device)
        body = self.model.base_model
        states = body(
            input_ids=tokens.to(device),
            attention_mask=mask,
            position_ids=positions.to(device),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        last = torch.tensor([len(one) - 1 for one in ids], device=device)
        found: Tensor = states[torch.arange(len(ids), device=device), last]
        return found

    def _sample(self, slots: list[_Slot], hidden: Tensor) -> list[Turn]:
        logits = self.model.get_output_embeddings()(hidden).float()
        if self.temperature == 0:  # all is on the likeliest
            chosen = logits.argmax(-1)
            values = [0.0] * len(slots)
        else:
            log = torch.log_softmax(logits / self.temperature, -1)
            # by each trajectory's own stream: what it draws does not hang on who else is in the batch
            points = torch.tensor([slot.draw.random() for slot in slots], dtype=torch.float64, device=log.device)
            rising = log.double().exp().cumsum(-1)
            chosen = torch.searchsorted(rising, points[:, None] * rising[:, -1:], right=True)[:, 0]
            chosen = chosen.clamp(max=log.shape[-1] - 1)
            values = log.gather(-1, chosen[:, None])[:, 0].tolist()
        done = []
        for slot, token, value in zip(slots, chosen.tolist(), values, strict=True):
            slot.ids.append(token)
            slot.logp.append(value)
            slot.next = token
            ended = token in self.ends
            if ended or len(slot.ids) >= slot.most:
                slot.running = False
                done.append(Turn(slot.key, slot.ids, slot.logp, ended))
        return done
