"""The packed cache in a transformers model: codes, anchors and a window of exact tokens.

    with attached(model):
        cache = AntCache(model, codebook)
        model.generate(..., past_key_values=cache)

A layer holds the indices of closed tokens, packed; the anchors among them, exact; and the latest tokens, exact, with the
factors that later queries have added to them. When the window holds `window` + `block` tokens its oldest `block` are
closed: the share `ratio` with the largest score become anchors, all are encoded. No dequantised copy is kept: it is made
for one layer while that layer attends. Sliding and other layers keep transformers' own caches.

`update` hands the new keys and values through to the attention function, which is where the queries are: the scores need
them. Keys are cached as the model rotates them; codes are of keys before rotation where the codebook is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from antkv import kernels, lut
from antkv import score as scoring
from antkv.kmeans import nearest
from antkv.layers import full_layers
from antkv.rope import Rope
from antkv.score import Factors
from tenfold_kernels.packing import pack, packed_bytes, unpack
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from antkv.codebook import Codebook

NAME = "antkv"
STRETCH = 16384  # closed tokens that are decoded at once for a chunk
Scope = Literal["head", "layer", "shared-kv"]


class Settings:
    """How a cache is kept. ratio: share of closed tokens that become anchors. scope: `head` chooses keys' and values'
    anchors for each stored head, `shared-kv` one list for both, `layer` one list for all heads and both.
    window: exact tokens, 0 for none. block: tokens closed at once. exact_prefill: a chunk of several tokens attends to
    itself exactly; else to what the cache will hold of it. dtype: of anchors and window. tables: decode one token at a
    time from the codes where that can be done (lut.py), not from a dequantised layer.
    """

    def __init__(
        self,
        ratio: float = 0.01,
        score: scoring.Kind = "bound2",
        scope: Scope = "shared-kv",
        window: int = 128,
        block: int = 64,
        exact_prefill: bool = True,
        dtype: torch.dtype = torch.float16,
        seed: int = 0,
        tables: bool = True,
    ) -> None:
        if not 0 <= ratio <= 1:
            raise BadInput(f"--anchors {ratio}: expected a share from 0 to 1")
        if block < 8 or block % 8:
            raise BadInput(f"--block {block}: expected a multiple of 8 tokens")
        self.ratio, self.score, self.scope, self.window, self.block = ratio, score, scope, window, block
        self.exact_prefill, self.dtype, self.seed, self.tables = exact_prefill, dtype, seed, tables


class Pending:
    """New keys and values on their way from `update` to the attention function."""

    def __init__(self, layer: AntLayer, keys: Tensor, values: Tensor) -> None:
        self.layer, self.keys, self.values = layer, keys, values


class AntLayer(CacheLayerMixin):
    """One layer's packed cache; shapes (B, H, …) over the batch and the stored heads.

    codes_k, codes_v (B, H, blocks, M, bytes) uint8; anchors_k, anchors_v (B, H, a, D) at slots at_k, at_v (B, H, a) int32,
    −1 where a padded row had too few tokens; window_k, window_v (B, H, w, D); sum_k, sum_v (B, H, w) float32.
    """

    is_sliding = False
    is_croppable = False
    TENSORS = ("codes_k", "codes_v", "anchors_k", "anchors_v", "at_k", "at_v", "window_k", "window_v", "sum_k", "sum_v")

    def __init__(self, index: int, books: tuple[Tensor, Tensor], rope: Rope | None, settings: Settings) -> None:
        super().__init__()
        self.index, self.rope, self.settings = index, rope, settings
        self.book_k, self.book_v = books
        self.dim, self.bits = books[0].shape[-1], max(1, (books[0].shape[-2] - 1).bit_length())
        self.length = self.closed = 0
        self.start: Tensor | None = None
        self._random = torch.Generator()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._random.manual_seed((self.settings.seed * 1_000_003 + self.index) % 2**63)

    # ------------------------------------------------------------ what transformers asks of a layer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, dim = key_states.shape
        if value_states.shape != key_states.shape:
            raise BadInput(
                f"layer {self.index}: keys of {dim} and values of {value_states.shape[-1]} channels are not alike"
            )
        self.device, self.heads, self.width = key_states.device, heads, dim
        self.book_k, self.book_v = (
            book.to(self.device, torch.float32).expand(heads, -1, -1, -1) for book in (self.book_k, self.book_v)
        )
        kept: dict[str, Any] = {"dtype": self.settings.dtype, "device": self.device}
        self.window_k, self.window_v, self.anchors_k, self.anchors_v = (
            torch.empty(batch, heads, 0, dim, **kept) for _ in range(4)
        )
        self.sum_k, self.sum_v = (torch.empty(batch, heads, 0, device=self.device) for _ in range(2))
        self.at_k, self.at_v = (torch.empty(batch, heads, 0, dtype=torch.int32, device=self.device) for _ in range(2))
        size = packed_bytes(self.settings.block, self.bits)
        self.codes_k, self.codes_v = (
            torch.empty(batch, heads, 0, dim // self.dim, size, dtype=torch.uint8, device=self.device) for _ in range(2)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for name, states in (("keys", key_states), ("values", value_states)):
            fits = torch.isfinite(states.to(self.settings.dtype))
            if not fits.all():
                head = int(torch.nonzero(~fits.all(-1).all(-1))[0, 1])
                if torch.isfinite(states).all():
                    kind = str(self.settings.dtype).removeprefix("torch.")
                    raise BadInput(
                        f"layer {self.index}, head {head}: the model's {name} reach {float(states.abs().max()):.3g}, beyond {kind}"
                    )
                raise BadInput(f"layer {self.index}, head {head}: the model's {name} hold NaN or infinity")
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
        self.is_initialized = False
        self.length = self.closed = 0
        self.start = None
        self._begin_anew()

    def _over_batch(self, change: Any) -> None:
        if not self.is_initialized:
            return
        shared = self.at_v is self.at_k
        for name in self.TENSORS:
            setattr(self, name, change(getattr(self, name)))
        if shared:
            self.at_v = self.at_k
        self.start = None if self.start is None else change(self.start)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._over_batch(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._over_batch(lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._over_batch(lambda t: t[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the latest tokens, as far as they are in the window: what was closed cannot come back. The sums of
        earlier tokens keep what the queries of the taken ones added."""
        count = abs(tokens_to_remove)
        if not count:
            return
        if count > self.length - self.closed:
            raise BadInput(
                f"layer {self.index}: {count} tokens cannot be taken back, {self.length - self.closed} are not encoded yet"
            )
        for name in ("window_k", "window_v", "sum_k", "sum_v"):
            setattr(self, name, getattr(self, name)[:, :, :-count])
        self.length -= count

    # ------------------------------------------------------------ attention

    def attend(self, query: Tensor, pending: Pending, padding: Tensor | None, scale: float) -> Tensor:
        """(B, Hq, n, D) of the new queries over closed tokens, window and themselves; then the window takes the new tokens.

        padding: (B, kv) which slots are tokens, or None for all."""
        if padding is not None:
            self.start = _start(padding)
        keys, values = pending.keys, pending.values
        count = keys.shape[2]
        if count > 1 and not self.settings.exact_prefill:
            return self._attend_closed(query, keys, values, scale)
        window_k, window_v = self._with(keys, values)
        if count == 1 and self._has_codes and kernels.usable(query) and not kernels.refused(self):
            attended = scoring.Attended(*kernels.step(self, query, window_k, window_v, scale))
        elif count == 1 and self._looked_up:
            attended = scoring.Attended(*lut.step(self, query, window_k, window_v, scale))
        else:
            attended = self._attend_all(query, window_k, window_v, scale)
        self._push(query, keys, values, window_k, window_v, attended, scale)
        return attended.out

    @property
    def _stretch(self) -> int:
        """How many tokens are decoded at once: whole blocks."""
        return max(1, STRETCH // self.settings.block) * self.settings.block

    @property
    def _has_codes(self) -> bool:
        """Whether closed tokens are codes that a kernel reads; peers keep them otherwise."""
        return True

    @property
    def _looked_up(self) -> bool:
        """Whether one query is answered from the codes themselves: on a CPU, with numba."""
        return self.device.type == "cpu" and self.settings.tables and lut.available()

    def _with(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The window with new tokens after it."""
        return torch.cat([self.window_k.to(keys.dtype), keys], 2), torch.cat(
            [self.window_v.to(values.dtype), values], 2
        )

    def _attend_closed(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """A chunk that sees of itself what the cache will hold: exact attention for the scores, then again."""
        window_k, window_v = self._with(keys, values)
        exact = self._attend_all(query, window_k, window_v, scale)
        self._push(query, keys, values, window_k, window_v, exact, scale)
        return self._attend_all(query, self.window_k.to(keys.dtype), self.window_v.to(keys.dtype), scale).out

    def _attend_all(self, query: Tensor, exact_k: Tensor, exact_v: Tensor, scale: float) -> scoring.Attended:
        """Attention to the closed tokens and to exact ones after them. What is decoded at once is bounded: whole stretches
        of closed tokens are merged with the rest."""
        found, first = None, 0
        if self._has_codes:
            for first in range(self._stretch, self.closed + 1, self._stretch):
                keys, values = self._decoded_from(exact_k.dtype, first - self._stretch, first)
                start = None if self.start is None else self.start - (first - self._stretch)
                part = scoring.attend_past(query, keys, values, scale, start)
                found = part if found is None else scoring.merged(found, part)
            old_k, old_v = self._decoded_from(exact_k.dtype, first, self.closed)
        else:
            old_k, old_v = self.dequantised(exact_k.dtype)
        start = None if self.start is None else (self.start - first).clamp_min(0)
        rest = scoring.attend(query, torch.cat([old_k, exact_k], 2), torch.cat([old_v, exact_v], 2), scale, start)
        return rest if found is None else scoring.merged(found, rest)

    def _push(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        window_k: Tensor,
        window_v: Tensor,
        attended: Any,
        scale: float,
    ) -> None:
        """Score the window with the new queries, take the new tokens in, close what has become too old."""
        new = scoring.factors(
            query, window_k, window_v, attended, scale, scoring.squared(self.settings.score), self._window_start()
        )
        count, dtype = keys.shape[2], self.settings.dtype
        self.window_k = torch.cat([self.window_k, keys.to(dtype)], 2)
        self.window_v = torch.cat([self.window_v, values.to(dtype)], 2)
        self.sum_k = nn.functional.pad(self.sum_k, (0, count)) + new.keys
        self.sum_v = nn.functional.pad(self.sum_v, (0, count)) + new.values
        over = (self.window_k.shape[2] - self.settings.window) // self.settings.block
        if over > 0:
            self._close(over * self.settings.block)

    def _window_start(self) -> Tensor | None:
        return None if self.start is None else (self.start - self.closed).clamp_min(0)

    def _close(self, count: int) -> None:
        """The window's oldest tokens leave it, whole blocks."""
        sums = Factors(self.sum_k[:, :, :count], self.sum_v[:, :, :count])
        self._keep(self.window_k[:, :, :count], self.window_v[:, :, :count], sums)
        for name in ("window_k", "window_v", "sum_k", "sum_v"):
            setattr(self, name, getattr(self, name)[:, :, count:].clone())
        self.closed += count

    def _keep(self, keys: Tensor, values: Tensor, sums: Factors) -> None:
        """Encode whole blocks, and take their anchors: the same ones however many blocks come at once."""
        count, block = keys.shape[2], self.settings.block
        positions = self._positions(self.closed, count, keys.shape[0])
        plain = keys.float() if self.rope is None else self.rope.unrotate(keys, positions)
        codes_k, codes_v = self._encode(plain, self.book_k), self._encode(values.float(), self.book_v)
        errors = None
        if self.settings.score == "error":
            errors = tuple(
                (x - _decoded(codes, book)).norm(dim=-1)
                for x, codes, book in ((plain, codes_k, self.book_k), (values.float(), codes_v, self.book_v))
            )
        found = scoring.score(
            self.settings.score, sums, errors=errors, first=self.closed, total=self.length, generator=self._random,
            block=block,
        )  # fmt: skip
        wanted = self._wanted(count)
        self.codes_k, self.codes_v = (
            torch.cat([old, pack(new.unflatten(-1, (-1, block)).transpose(2, 3), self.bits, checked=False)], 2)
            for old, new in ((self.codes_k, codes_k), (self.codes_v, codes_v))
        )
        if wanted.any():
            at_k, at_v = self._choose(found, wanted)
            shared = at_v is at_k
            self.anchors_k = torch.cat([self.anchors_k, _picked(keys, at_k)], 2)
            self.anchors_v = torch.cat([self.anchors_v, _picked(values, at_v)], 2)
            self.at_k = torch.cat([self.at_k, _slots(at_k, self.closed)], 2)
            self.at_v = self.at_k if shared else torch.cat([self.at_v, _slots(at_v, self.closed)], 2)

    def _wanted(self, count: int) -> Tensor:
        """(B or 1, blocks) anchors of each block that closes: a row's share of all its tokens so far, exactly; padding is
        no token."""
        ends = torch.arange(self.closed, self.closed + count + 1, self.settings.block)
        begun = torch.zeros(1, dtype=torch.long) if self.start is None else self.start.cpu()
        tokens = (ends - begun[:, None]).clamp_min(0).double()
        return torch.ceil(self.settings.ratio * tokens - 1e-9).long().clamp_min(0).diff(dim=1)

    def _choose(self, found: Factors, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Indices within the new tokens (B, H, a), ascending, `wanted` of each block, −1 where a row has fewer than another;
        the same object where keys and values share."""
        keys, values = (part.unflatten(-1, (wanted.shape[1], -1)) for part in found)
        if self.settings.scope != "head":
            keys = scoring.combined(Factors(keys, values))
            if self.settings.scope == "layer":
                keys = keys.sum(1, keepdim=True).expand_as(keys)
        block, widest = self.settings.block, wanted.amax(0)
        most = int(widest.max())
        pads = None
        if self.start is not None:
            slots = torch.arange(self.closed, self.closed + wanted.shape[1] * block, device=self.device)
            pads = (slots < self.start[:, None]).unflatten(-1, (-1, block))[:, None]
        rank = torch.arange(most)
        beyond = (rank >= wanted[..., None])[:, None].to(self.device)  # of this row
        nowhere = (rank >= widest[:, None]).to(self.device)  # of every row
        held = (~nowhere).flatten().nonzero()[:, 0]
        begins = torch.arange(0, wanted.shape[1] * block, block, device=self.device)[:, None]

        def top(scores: Tensor) -> Tensor:
            scores = scores if pads is None else scores.masked_fill(pads, -math.inf)
            best = scores.topk(most, dim=-1)
            at = torch.where((best.values == -math.inf) | beyond, -1, best.indices)
            at = at.masked_fill(nowhere, block).sort(-1).values  # these come last in a block, and are dropped
            return torch.where(at < 0, -1, at + begins).flatten(2).index_select(2, held)

        at_k = top(keys)
        return at_k, at_k if self.settings.scope != "head" else top(values)

    def _encode(self, x: Tensor, book: Tensor) -> Tensor:
        """(B, H, M, n) indices of vectors (B, H, n, D)."""
        batch, heads, n, _ = x.shape
        if kernels.encodes(x, book):
            return kernels.encode(x, book)
        parts = x.reshape(batch, heads, n, -1, self.dim).permute(1, 3, 0, 2, 4).reshape(-1, batch * n, self.dim)
        where, _ = nearest(parts, book.reshape(-1, *book.shape[2:]))
        return where.reshape(heads, -1, batch, n).permute(2, 0, 1, 3)

    def _positions(self, first: int, count: int, batch: int) -> Tensor:
        at = torch.arange(first, first + count, device=self.device).expand(batch, -1)
        return at if self.start is None else (at - self.start[:, None]).clamp_min(0)

    def dequantised(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Closed keys and values (B, H, closed, D) as attention reads them: decoded, rotated, anchors in place."""
        return self._decoded_from(dtype, 0, self.closed)

    def _decoded_from(self, dtype: torch.dtype, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The same of tokens first … last, whole blocks."""
        batch, block = self.window_k.shape[0], self.settings.block
        found = []
        for codes, book, anchors, at, rope in (
            (self.codes_k, self.book_k, self.anchors_k, self.at_k, self.rope),
            (self.codes_v, self.book_v, self.anchors_v, self.at_v, None),
        ):
            indices = unpack(codes[:, :, first // block : last // block], self.bits, block)  # (B, H, blocks, M, block)
            x = _decoded(indices.permute(0, 1, 3, 2, 4).flatten(3), book)
            if rope is not None and last > first:
                x = rope.rotate(x, self._positions(first, last - first, batch))
            x = nn.functional.pad(x.to(dtype), (0, 0, 0, 1))  # a last row takes what is no anchor of these tokens
            here = torch.where((at >= first) & (at < last), at - first, last - first)
            where = here.long()[..., None].expand(-1, -1, -1, self.width)
            found.append(x.scatter(2, where, anchors.to(dtype))[:, :, : last - first])
        return found[0], found[1]

    # ------------------------------------------------------------ bytes

    def tokens(self) -> int:
        """Cached tokens of all rows."""
        padding = 0 if self.start is None else int(self.start.clamp_max(self.length).sum())
        return self.window_k.shape[0] * self.length - padding

    def parts(self) -> dict[str, int]:
        """Bytes of the live tensors: index, anchors, window."""
        if not self.is_initialized:
            return {"index": 0, "anchors": 0, "window": 0}
        at = [self.at_k] if self.at_v is self.at_k else [self.at_k, self.at_v]
        return {
            "index": self.codes_k.nbytes + self.codes_v.nbytes,
            "anchors": self.anchors_k.nbytes + self.anchors_v.nbytes + sum(t.nbytes for t in at),
            "window": self.window_k.nbytes + self.window_v.nbytes + self.sum_k.nbytes + self.sum_v.nbytes,
        }


def _start(padding: Tensor) -> Tensor:
    """(B,) first token of each row of (B, kv). Raises BadInput where the padding is not all on the left."""
    start = torch.where(padding.any(1), padding.int().argmax(1), padding.shape[1])  # so far padding alone: not begun
    tokens = torch.arange(padding.shape[1], device=padding.device) >= start[:, None]
    if not torch.equal(tokens, padding.bool()):
        raise BadInput("the attention mask hides tokens other than padding on the left; antkv knows left padding only")
    return start


def _picked(x: Tensor, at: Tensor) -> Tensor:
    return x.gather(2, at.clamp_min(0)[..., None].expand(-1, -1, -1, x.shape[-1]))


def _slots(at: Tensor, first: int) -> Tensor:
    return torch.where(at < 0, -1, at + first).to(torch.int32)


def _decoded(indices: Tensor, book: Tensor) -> Tensor:
    """(B, H, n, D) of indices (B, H, M, n) and books (H, M, C, d)."""
    heads, parts = book.shape[:2]
    rows = torch.arange(heads, device=book.device)[:, None, None]
    found = book[rows, torch.arange(parts, device=book.device)[:, None], indices.long()]  # (B, H, M, n, d)
    return found.transpose(2, 3).flatten(3)


class Packed(Cache):
    """A cache whose full-attention layers `make(index)` makes; the others are transformers' own."""

    def __init__(self, model: Any, make: Callable[[int], AntLayer]) -> None:
        config = model.config.get_text_config()
        layers = list(DynamicCache(config=config).layers)
        while len(layers) < config.num_hidden_layers:  # a config of full layers only leaves them to be made later
            layers.append(DynamicLayer())
        for index in full_layers(model.config):
            layers[index] = make(index)
        super().__init__(layers=layers)

    @property
    def packed(self) -> list[AntLayer]:
        return [layer for layer in self.layers if isinstance(layer, AntLayer)]

    def parts(self) -> dict[str, int]:
        """Bytes of the packed layers' live tensors."""
        found = {"index": 0, "anchors": 0, "window": 0}
        for layer in self.packed:
            for name, size in layer.parts().items():
                found[name] += size
        return found

    def numbers(self) -> int:
        """How many numbers the packed layers stand for; padding is none."""
        return sum(2 * layer.heads * layer.width * layer.tokens() for layer in self.packed if layer.is_initialized)

    def effective_bits(self) -> float:
        """Bits of the live tensors a cached number; the codebook is not in it."""
        return 8 * sum(self.parts().values()) / max(1, self.numbers())


class AntCache(Packed):
    """A cache for `model` with packed full-attention layers, for use inside `attached(model)`. Raises BadInput where the
    codebook is of another model."""

    def __init__(self, model: Any, codebook: Codebook, settings: Settings | None = None) -> None:
        codebook.check(model.config)
        self.settings, self.codebook = settings or Settings(), codebook
        if codebook.rank is not None and self.settings.scope == "layer":
            raise BadInput(
                "--anchor-scope layer: needs the scores of all heads, and a rank has its own alone; use shared-kv"
            )
        rope = Rope(model) if codebook.made.rope == "pre" else None
        super().__init__(
            model, lambda index: AntLayer(index, (codebook.keys[index], codebook.values[index]), rope, self.settings)
        )


def attention(
    module: nn.Module,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function: packed layers attend through their cache, others as `sdpa` does."""
    if not isinstance(key, Pending):
        return sdpa_attention_forward(
            module, query, key, value, _dense_mask(query, key, attention_mask), scaling=scaling, **kwargs
        )
    if kwargs.get("softcap") or kwargs.get("sliding_window") or kwargs.get("s_aux") is not None:
        raise BadInput(
            "the model's attention has soft caps, sinks or windows of its own in a full layer; antkv does not know them"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = key.layer.attend(query, key, attention_mask, scale)
    return out.transpose(1, 2).contiguous(), None


def _dense_mask(query: Tensor, key: Tensor, given: Tensor | None) -> Tensor | None:
    """What `sdpa` needs where a layer has another cache: our padding (B, kv) with the causal order written out."""
    n_q, n = query.shape[2], key.shape[2]
    if given is not None and given.dim() == 4:
        return given
    if given is None and n_q in (1, n):
        return None
    seen = scoring.visible(n_q, n, None, query.device)
    return seen if given is None else seen & given[:, None, None, :n]


def mask(**given: Any) -> Tensor | None:
    """For full layers the padding (B, kv), None without any: causal order needs no mask. For others what `sdpa` wants."""
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
    """The model with antkv's attention; its own comes back at the end. A call without an `AntCache` attends as `sdpa`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield model
    finally:
        model.set_attn_implementation(before)
