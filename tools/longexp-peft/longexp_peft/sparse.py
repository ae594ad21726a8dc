"""A model whose feed-forward layers and attention skip what a choice leaves out (arXiv 2510.15964).

    sparse = Sparse(model, Sparsity(mode="exact"))
    with sparse.attached():
        loss = sparse.loss(row)

Four modes: `dense`; `exact`, where the first product is dense and the rest goes over the neurons that are positive for some token:
the dense layer's output and gradients, bit for bit but rounding; `predicted`, where a predictor names the set before anything is made;
`static`, where calibration does. Forward methods of the model's own modules are replaced while attached, so that parameters, names and
peft's adapters stay where they are. A set that is too large to pay (`break_even`) makes its layer dense for that row. A layer that
is run again in the same row, as gradient checkpointing does, uses the set it had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from longexp_peft import head, patterns, shape
from longexp_peft.attention import Chosen, Past, attend
from longexp_peft.bundle import Bundle
from longexp_peft.mlp import Rows, Weights, count, feed_forward, into, pre_activation
from longexp_peft.pack import Row
from longexp_peft.shape import Ffn
from tenfold_shared import BadInput

NAME = "longexp-peft"
TILE = 128  # fewest tokens of a group with a set of its own
MODES = ("dense", "exact", "predicted", "static")


class Sparsity(msgspec.Struct, frozen=True):
    """What is skipped, and how it is chosen.

    attention: `dense`, or `blocks` where the mode has patterns (predicted, static). group: tokens that share a set, the whole row or
    runs of documents of at least 128 tokens. protect: layers that stay dense. break_even: share of neurons from which a layer is
    dense; attention_break_even: share of a document's blocks (of n²) from which a head is dense there, by default what was measured
    for its length (`pays_to_list`). dense_targets: tokens whose
    loss counts go through all neurons. random: a control: sets of the size the choice has, drawn at random.
    """

    mode: str = "dense"
    attention: str = "dense"
    group: str = "batch"
    protect: tuple[int, ...] = ()
    break_even: float = 0.8
    attention_break_even: float | None = None
    dense_targets: bool = False
    random: bool = False
    seed: int = 0


class Prompt(NamedTuple):
    """What precedes every document: each layer's keys and values, or virtual tokens' embeddings (P, d); P tokens."""

    tokens: int
    past: list[Past] | None = None
    embeds: Tensor | None = None


class _Run:
    """The row under way."""

    def __init__(self, row: Row, prompt: Prompt | None, step: int) -> None:
        self.row, self.prompt, self.step = row, prompt, step
        self.sets: dict[tuple[int, int], Any] = {}  # (layer, group) to rows
        self.chosen: dict[int, Chosen | None] = {}
        self.inputs: dict[int, Tensor] = {}

    @property
    def virtual(self) -> int:
        """Virtual tokens in the row itself."""
        return 0 if self.prompt is None or self.prompt.embeds is None else self.prompt.tokens


_running: list[Sparse] = []  # innermost last; attention functions are registered by name, not by object


class Sparse:
    """A causal model with a way to skip. `bundle` is what calibration made (needed for predicted, static). `watch` sees every layer's
    (layer, x (M, d), weights, chosen rows, u of the first matrix's LoRA) after its set is chosen, and `watch_attention` (layer, q, k,
    scale, chosen): for calibration and audits.

    densities: of the last row, by layer. spent: seconds in predictors and the choice of sets since `clock` was set to 0.
    """

    def __init__(self, model: Any, how: Sparsity, bundle: Bundle | None = None) -> None:
        if how.mode not in MODES:
            raise BadInput(f"--mode {how.mode}: expected one of {', '.join(MODES)}")
        if how.mode in ("predicted", "static") and bundle is None:
            raise BadInput(f"--mode {how.mode}: needs --bundle, which `longexp-peft calibrate` makes")
        self.model, self.how, self.bundle = model, how, bundle
        self.inner, self.outer = shape.decoder(model), shape.plain(model)
        self.ffns = shape.feed_forwards(model)
        self.acts = {f.layer: f.act for f in self.ffns}
        self.head = self.outer.get_output_embeddings()
        self.watch: Callable[[int, Tensor, Weights, Rows | None, Tensor | None], None] | None = None
        self.watch_attention: Callable[..., None] | None = None
        self.densities: dict[int, float] = {}
        self.attention_densities: dict[int, float] = {}
        if wrong := [n for n in how.protect if n >= len(self.ffns)]:
            raise BadInput(f"--protect-layers {wrong[0]}: the model has layers 0 to {len(self.ffns) - 1}")
        self.allowed = {f.layer for f in self.ffns} - set(how.protect)  # layers that may skip; audits take layers out
        self.attends_densely: set[int] = set()  # audits put layers in
        self.skipping = how.mode != "dense"  # False while warming up
        self.keep_inputs = False  # also of attention, for those who train its predictors
        self.spent = 0.0
        self._run: _Run | None = None
        self._steps = 0
        if how.mode == "exact":
            check_zeros(self.ffns)
        kind = getattr(self.outer, "_supports_attention_backend", False)
        if not kind:
            raise BadInput(
                f"{shape.kind(model)}: its attention is code of its own, which cannot be packed; use another model"
            )

    # ------------------------------------------------------------ patches

    @contextmanager
    def attached(self, sharded: bool = False) -> Iterator[Sparse]:
        """Inside, the model's forward is ours; its own comes back at the end. sharded: matrices stay as FSDP lays them out."""
        before = self.outer.config._attn_implementation
        self.outer.set_attn_implementation(NAME)
        hooks = [
            module.register_forward_pre_hook(self._keep_input(layer), with_kwargs=True)
            for layer, module in shape.attention_modules(self.model)
        ]
        for ffn in self.ffns:
            if not sharded:
                shape.lay_out(ffn)
            self._patch(ffn)
        _running.append(self)
        try:
            yield self
        finally:
            _running.pop()
            for hook in hooks:
                hook.remove()
            for ffn in self.ffns:
                self._unpatch(ffn)
            self.outer.set_attn_implementation(before)

    def _patch(self, ffn: Ffn) -> None:
        def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return self._feed(ffn, x)

        if ffn.fused is not None:
            ffn.fused.forward = run
            return
        ffn.up.forward = run
        ffn.down.forward = _same
        setattr(ffn.holder, ffn.names[3], nn.Identity())

    def _unpatch(self, ffn: Ffn) -> None:
        for module in (ffn.fused,) if ffn.fused is not None else (ffn.up, ffn.down):
            vars(module).pop("forward", None)
        if ffn.fused is None:
            setattr(ffn.holder, ffn.names[3], self.acts[ffn.layer])

    def _keep_input(self, layer: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._run is not None and (self._predicts_attention or self.keep_inputs):
                self._run.inputs[layer] = (args[0] if args else kwargs["hidden_states"]).detach()[0]

        return keep

    @property
    def _predicts_attention(self) -> bool:
        return self.how.attention == "blocks" and self.how.mode == "predicted" and self.skipping

    # ------------------------------------------------------------ a row

    def hidden(self, row: Row, prompt: Prompt | None = None) -> Tensor:
        """The decoder's last hidden states (T, d) of a row's documents."""
        self._steps += 1
        self._run = _Run(row, prompt, self._steps)
        self.densities, self.attention_densities = {}, {}
        positions = row.positions[None] + (0 if prompt is None else prompt.tokens)
        if prompt is not None and prompt.embeds is not None:
            before = torch.arange(prompt.tokens, device=positions.device)[None]
            positions = torch.cat([before, positions], 1)
            words = self.outer.get_input_embeddings()(row.ids)
            given = {"inputs_embeds": torch.cat([prompt.embeds.to(words.dtype), words])[None]}
        else:
            given = {"input_ids": row.ids[None]}
        found = self.inner(**given, position_ids=positions, use_cache=False).last_hidden_state[0]
        return found[self._run.virtual :]

    def loss(self, row: Row, prompt: Prompt | None = None, smoothing: float = 0.0) -> Tensor:
        """The summed loss of a row's targets, float32. With gradient checkpointing its backward must come before the next row: what a
        layer recomputes is of the row under way."""
        return head.loss_sum(self.hidden(row, prompt).index_select(0, row.at), row.labels, self.head, smoothing)

    @torch.no_grad()
    def losses(self, row: Row, prompt: Prompt | None = None) -> Tensor:
        """Each target's loss, float32 (n,)."""
        return head.token_losses(self.hidden(row, prompt).index_select(0, row.at), row.labels, self.head)

    # ------------------------------------------------------------ feed-forward

    def _feed(self, ffn: Ffn, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        w = Weights.of(ffn)._replace(function=self.acts[ffn.layer])
        y = self._groups(ffn, flat, w)
        return (y if ffn.after is None else ffn.after(y)).view(x.shape)

    def _groups(self, ffn: Ffn, x: Tensor, w: Weights) -> Tensor:
        run = self._run
        if run is None or ffn.layer not in self.allowed or not self.skipping:
            if self.watch is not None and run is not None:
                self.watch(ffn.layer, x.detach(), w, None, None)
            self.densities[ffn.layer] = 1.0
            return feed_forward(x, w, None)
        groups = self._tokens(run, len(x), x.device)
        if groups is None:
            y, share = self._one(ffn, x, w, 0)
            self.densities[ffn.layer] = share
            return y
        parts, total = [], 0.0
        for number, group in enumerate(groups):
            dense = self.how.dense_targets and number == 0
            part = x.index_select(0, group)
            y, share = (feed_forward(part, w, None), 1.0) if dense else self._one(ffn, part, w, number)
            parts.append(y)
            total += share * len(group)
        self.densities[ffn.layer] = total / len(x)
        back = torch.cat(groups).argsort()
        return torch.cat(parts).index_select(0, back)

    def _tokens(self, run: _Run, size: int, device: torch.device) -> list[Tensor] | None:
        """Groups of tokens with a set each; None where all have one. With dense_targets the first group is the dense one."""
        if self.how.group == "batch" and not self.how.dense_targets:
            return None
        ends: list[int] = []
        open_ = run.virtual
        for length in run.row.lengths:
            open_ += length
            if self.how.group == "sequence" and open_ - (ends[-1] if ends else 0) >= TILE:
                ends.append(open_)
        if not ends or size - ends[-1] >= TILE:
            ends.append(size)
        else:
            ends[-1] = size  # a short rest goes with the run before it
        every = torch.arange(size, device=device)
        groups = list(every.tensor_split(ends[:-1]))
        if self.how.dense_targets:
            target = torch.zeros(size, dtype=torch.bool, device=device)
            target[run.row.at + run.virtual] = True
            groups = [target.nonzero()[:, 0], *(g[~target[g]] for g in groups)]
            groups = [g for i, g in enumerate(groups) if i == 0 or len(g)]
        return groups

    def _one(self, ffn: Ffn, x: Tensor, w: Weights, group: int) -> tuple[Tensor, float]:
        """(y, share of neurons) of one group of tokens."""
        run = self._run
        assert run is not None
        key = (ffn.layer, group)
        first = w.gate or w.up
        u = into(x, first) if first.low is not None else None
        known = None
        if key not in run.sets:
            begun = time.perf_counter()
            if self.how.mode == "exact":
                known = pre_activation(x, first, u)
                run.sets[key] = self._pays((known.amax(0) > 0).nonzero()[:, 0], ffn)
            else:
                run.sets[key] = self._pays(self._choose(ffn, x, w, u), ffn)
                self.spent += time.perf_counter() - begun
            if self.watch is not None:
                self.watch(ffn.layer, x.detach(), w, run.sets[key], None if u is None else u.detach())
        rows = run.sets[key]
        if known is None and self.how.mode == "exact":
            known = pre_activation(x, first, u)
        if known is not None and rows is not None:
            known = known.index_select(1, rows)
        return feed_forward(x, w, rows, known, u), count(rows, ffn.width) / ffn.width

    def _pays(self, rows: Rows | None, ffn: Ffn) -> Rows | None:
        """The set, or None where dense is as fast."""
        if rows is None or count(rows, ffn.width) > self.how.break_even * ffn.width:
            return None
        if self.how.random:
            assert self._run is not None
            draw = torch.Generator().manual_seed(hash((self.how.seed, self._run.step, ffn.layer)) % (1 << 62))
            place = "cpu" if isinstance(rows, slice) else rows.device
            return torch.randperm(ffn.width, generator=draw)[: count(rows, ffn.width)].sort().values.to(place)
        return rows

    @torch.no_grad()
    def _choose(self, ffn: Ffn, x: Tensor, w: Weights, u: Tensor | None) -> Rows | None:
        assert self.bundle is not None
        if self.how.mode == "static":
            return self.bundle.static(ffn.layer)
        found = self.bundle.predictor(ffn.layer).choose(x, w, u)
        if self.how.random:  # as many, but no more than held-out rows needed; which ones is drawn in `_pays`
            return slice(0, min(count(found, ffn.width), self.bundle.needed(ffn.layer).stop))
        return found

    # ------------------------------------------------------------ attention

    def _attention(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, dropout: float
    ) -> Tensor:
        run = self._run
        if run is None:
            return attend(q, k, v, [q.shape[2]], scale=scale, window=window, dropout=dropout)
        past = run.prompt.past[layer] if run.prompt is not None and run.prompt.past is not None else None
        if layer not in run.chosen:
            run.chosen[layer] = self._patterns(layer, run, window)
        chosen = run.chosen[layer]
        if self.watch_attention is not None:
            self.watch_attention(layer, q, k, scale, chosen)
        return attend(
            q,
            k,
            v,
            run.row.lengths,
            scale=scale,
            past=past,
            prefix=run.virtual,
            chosen=chosen,
            window=window,
            dropout=dropout,
        )

    @torch.no_grad()
    def _patterns(self, layer: int, run: _Run, window: int | None) -> Chosen | None:
        """Each document's patterns, where they pay."""
        if self.how.attention != "blocks" or not self.skipping or window is not None:
            return None
        if layer not in self.allowed or layer in self.attends_densely:
            return None
        assert self.bundle is not None
        begun = time.perf_counter()
        block = self.bundle.attention_block
        found: dict[int, Tensor] = {}
        read = total = 0.0
        begin = run.virtual
        for number, length in enumerate(run.row.lengths):
            blocks = -(-length // block)
            one = None
            if blocks >= 4:
                if self.how.mode == "static":
                    one = self.bundle.patterns(layer)
                else:
                    x = run.inputs[layer][begin : begin + length]
                    one = self.bundle.attention_predictor(layer).choose(x, block)
            if one is not None:
                share = patterns.densities(blocks, one.device)[one]
                limit = self.how.attention_break_even
                one = torch.where(
                    share <= (pays_to_list(length, one.is_cuda) if limit is None else limit), one, 0
                )  # head by head
                # On a GPU the choice stays there: to look at it would be to wait for it.
                if one.is_cuda:
                    found[number] = one
                elif (one > 0).any():
                    found[number] = (
                        _drawn(one, blocks, self.how.seed + run.step * 1009 + layer) if self.how.random else one
                    )
            # What must be computed: of a block on the diagonal a half, and half of all where a document is dense.
            known = number in found and not found[number].is_cuda
            mean = float(patterns.densities(blocks)[found[number]].mean()) - 0.5 / blocks if known else 0.5
            read += mean * length**2
            total += length**2
            begin += length
        self.attention_densities[layer] = read / total if total else 0.5
        self.spent += time.perf_counter() - begun
        return Chosen(found, block) if found else None


def pays_to_list(length: int, cuda: bool) -> float:
    """The share of n² from which blocks of attention are as slow as dense: on a CPU a quarter up to 2,048 tokens, less for longer
    documents, whose gathered keys leave the caches (bench/results.json); on a GPU not measured."""
    return 0.35 if cuda else 0.25 * min(1.0, 2048 / length)


def _drawn(one: Tensor, blocks: int, seed: int) -> Tensor:
    """Patterns drawn at random among those that cost from half as much to as much: the control."""
    draw = torch.Generator().manual_seed(seed % (1 << 62))
    cost = patterns.densities(blocks)
    picked = []
    for pattern in one.tolist():
        among = ((cost <= cost[pattern] + 1e-9) & (cost >= cost[pattern] / 2)).nonzero()[:, 0]
        picked.append(int(among[torch.randint(len(among), (1,), generator=draw)]))
    return torch.tensor(picked)


def _same(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


@torch.no_grad()
def check_forward(model: Any) -> None:
    """Raises BadInput for a model that does more than this tool computes: a norm inside its feed-forward layers, scales or caps of its
    logits. One short document tells: its own logits must be ours."""
    outer, device = shape.plain(model), next(model.parameters()).device
    ids = torch.arange(9, device=device) * 7 % outer.get_input_embeddings().weight.shape[0]
    own = outer(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], use_cache=False).logits[0].float()
    sparse = Sparse(model, Sparsity())
    none = torch.zeros(0, dtype=torch.long, device=device)
    with sparse.attached(sharded=True):  # the weights stay as they lie
        hidden = sparse.hidden(Row(ids, torch.arange(9, device=device), (9,), none, none))
    ours = torch.nn.functional.linear(hidden, sparse.head.weight, sparse.head.bias).float()
    apart = float((own - ours).abs().max() / own.abs().max().clamp_min(1e-30))
    if not apart < (1e-3 if outer.dtype in (torch.float32, torch.float64) else 0.1):
        raise BadInput(
            f"{shape.kind(model)}: computes more than its projections, activation and head say (logits differ by {apart:.1g} of the largest): "
            "a norm inside its layers, scaled or capped logits; such models are not supported"
        )


def check_zeros(ffns: list[Ffn]) -> None:
    """Raises Missing for layers whose activation has no exact zeros, with what to do instead."""
    from tenfold_shared import Missing

    without = next((f for f in ffns if not f.zeros), None)
    if without is not None:
        raise Missing(
            f"--mode exact: layer {without.layer}'s activation ({without.activation}) gives no exact zeros, so no neuron can be left out "
            "without loss; take a ReLU model, or --mode predicted --allow-lossy with a bundle, or --mode dense"
        )


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
    dropout: float = 0.0, sliding_window: int | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' attention function of this name."""
    if not _running:
        raise RuntimeError("Sparse.attached() is not entered")
    if kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise BadInput("the model's attention has soft caps or sinks, which this tool does not know")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = int(getattr(module, "layer_idx", None) or 0)
    return _running[-1]._attention(layer, query, key, value, scale, sliding_window, dropout), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, lambda **given: None)
