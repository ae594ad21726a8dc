"""Rows of `make gpu-check` for longexp-peft that are more than one kernel: whole training steps, in about 90 seconds.

A step is forward, backward and AdamW of a LoRA of rank 4 on q_proj and v_proj of transformers' OPT modules, in the shapes of OPT-1.3B
and OPT-2.7B with random bfloat16 weights. A few layers stand for all: logits are made at so many tokens that the head has the share it
has in the whole model with a loss at every token. The LoRA is one small module, the same in every arm. Documents are of one length, so
nobody pads, except in the paper's own protocol.

- dense: the modules as they are, a batch of documents, causal SDPA without a mask, eager; baseline is the same under torch.compile.
- predicted: the tool's feed-forward operator on the packed row. A random low-rank predictor is asked, and as many blocks of neurons as
  the density says are taken: the cost of a choice, not its quality. `given_ms` is the step whose sets are known beforehand, `choosing`
  what of the step predictors take by that; `batched_ms` has attention as the dense arm has it.
- static: the first neurons, which are a view of the matrices.
- blocks: patterns of heads as well. The predictor of patterns is asked, and patterns of a known density are taken in place of its
  answer. max_rel_err is of the loss where every head's pattern is dense, beside the dense arm's.
- exact: biases under which known neurons alone can fire. max_rel_err is of the loss; gradients of the dense arm and ours are each held
  against a float32 step, and ours may not be further away by half.
- memory: what a step adds at its peak to what was held before it. baseline_ratio is of bytes.
- FlexAttention: compiled, on the same blocks of one long document, forward and backward. Its blocks are of 128: the one tile that
  its backward has for these heads on an H100 does not divide blocks of 64.
- the paper's protocol: short documents padded to 512, eager attention, all logits. Nine tenths of what both sides compute is padding.

floor_ratio is over the step's operations (amdahl.py) at the measured rate of a large product; `bound` is what the operations left out
allow against dense, `of_bound` how much of it came. baseline is the faster dense arm, timed again beside each row. A row is ok where its
results are right and every one of its `bars` is met, {found, least or most}. `missing` names what did not run, with its error. Products
with picked neurons alone are rows of the registered kernels.

Long because `make gpu-check` loads it by itself, one file a tool: every arm and row is here.
"""

from __future__ import annotations

import copy as copying
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# What needs msgspec (sparse.py, bundle.py, pack.py) is not asked for: the GPU check runs without it. `Engine` does what `Sparse` does.
from longexp_peft import amdahl, head, kernels, patterns, shape
from longexp_peft.attention import Chosen, attend
from longexp_peft.mlp import Rows, Weights, count, feed_forward, pre_activation
from longexp_peft.predictor import AttentionLowRank, LowRank
from tenfold_kernels.registry import relative_error

Record = dict[str, Any]
Timer = Callable[[Callable[[], Any]], float]
Run = Callable[[], Any]
# Of a layer: its set, and z of the set where it was made on the way; and its documents' patterns.
Choice = Callable[[int, Tensor, Weights], tuple[Rows | None, Tensor | None]]
Patterns = Callable[[int, Tensor], dict[int, Tensor]]
LOSS = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float32: 1e-5}  # apart from dense, relative
ATTENTION = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 2e-5}  # of a gradient of block attention
OF_BOUND = 0.85  # least of what the operations left out allow
CHOOSING = 0.03  # most of a step
OURS, DENSE = "longexp-peft-rows", "longexp-peft-rows-dense"  # attention functions of transformers
COMPILES = 30.0  # seconds that must be left to compile a decoder


@dataclass(frozen=True)
class Model:
    """A model's shape."""

    name: str
    hidden: int
    inner: int
    heads: int
    layers: int  # that it has; Size says how many are run


@dataclass(frozen=True)
class Size:
    """What is run; the test makes it small."""

    models: tuple[Model, ...] = (Model("OPT-1.3B", 2048, 8192, 32, 24), Model("OPT-2.7B", 2560, 10240, 32, 32))
    layers: int = 4
    vocabulary: int = 50272
    spread: float = 0.02  # of the weights
    documents: int = 4
    tokens: int = 1024
    rank: int = 4
    alpha: float = 32.0
    densities: tuple[float, ...] = (0.25, 0.125)
    predictor_rank: int = 32
    predictor_block: int = 32
    block: int = 64
    blocks_density: float = 0.25  # of n²; causal is a half
    exact_density: float = 0.25
    peer_tokens: int = 4096
    peer_heads: int = 32
    peer_dim: int = 64
    peer_block: int = 128
    padded_tokens: int = 57
    padded_targets: int = 27
    padded_to: int = 512
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"
    compiler: str | None = "inductor"
    seconds: float = 110.0

    @property
    def how(self) -> Record:
        return {"dtype": self.dtype, "device": self.device}


class Bench:
    """What rows share: the time left, the ceiling of products, and the models in use."""

    def __init__(self, size: Size, timer: Timer, copy: float) -> None:
        self.size, self.timer, self.copy = size, timer, copy
        self.until = time.monotonic() + size.seconds
        self._arms: Arms | None = None

    def left(self, needed: float) -> bool:
        return time.monotonic() + needed < self.until

    @functools.cached_property
    def matmul(self) -> float:
        """Operations a second of a large product."""
        n = 8192 if self.size.device == "cuda" else 64
        a, b = (torch.randn(n, n, **self.size.how) for _ in range(2))
        return 2 * n**3 / self.timer(lambda: a @ b)

    def arms(self, model: Model) -> Arms:
        if self._arms is None or self._arms.of is not model:
            self.tidy()
            self._arms = Arms(self, model)
        return self._arms

    def tidy(self) -> None:
        self._arms = None
        if self.size.device == "cuda":
            torch.cuda.empty_cache()


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def row(kernel: str, case: str, **more: Any) -> Record:
    empty = dict.fromkeys(("max_rel_err", "ms", "bytes_s", "flop_s", "floor_ratio", "baseline", "baseline_ratio"))
    return {"kernel": f"longexp-peft {kernel}", "case": case, **empty, "bars": {}, "missing": {}, "ok": False, **more}


def judged(found: Record, right: bool) -> Record:
    """With ok: right, and every bar met; else with an error that names what is not."""
    wrong = [] if right else ["its results are wrong"]
    for name, bar in found["bars"].items():
        least, most = bar.get("least", -math.inf), bar.get("most", math.inf)
        if not least <= bar["found"] <= most:
            wrong.append(f"{name} {bar['found']:.3g}, bar {bar.get('least', bar.get('most')):.3g}")
    return found | {"ok": not wrong} | ({"error": "; ".join(wrong)} if wrong else {})


def thousands(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


# ---------------------------------------------------------------- models


class Lora(nn.Module):
    """x Wᵀ + b + s (x Aᵀ) Bᵀ, A and B in float32, at work in the type of x. B is not 0, so that A has a gradient."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        where = base.weight.device
        self.a = nn.Parameter(torch.randn(rank, base.in_features, device=where) / base.in_features**0.5)
        self.b = nn.Parameter(0.01 * torch.randn(base.out_features, rank, device=where))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * linear(linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))


@functools.cache
def register() -> None:
    """The attention functions, neither of which wants a mask."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    for name, function in ((OURS, ours_attention), (DENSE, dense_attention)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, lambda **given: None)


def dense_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:  # fmt: skip
    """Causal SDPA, without the mask that some versions of transformers give it, as with a mask it is not the flash kernel."""
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling).transpose(1, 2), None


def ours_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """The tool's on a packed row; on a batch the dense arm's."""
    if len(query) > 1:
        return dense_attention(module, query, key, value, None, scaling)
    return module.engine.attention(module.layer_idx, query, key, value, scaling), None


def random_model(size: Size, model: Model) -> Any:
    """A frozen OPTForCausalLM with a LoRA on q_proj and v_proj."""
    from transformers import OPTConfig, OPTForCausalLM

    register()
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=size.vocabulary, hidden_size=model.hidden, word_embed_proj_dim=model.hidden, ffn_dim=model.inner, num_hidden_layers=size.layers,
        num_attention_heads=model.heads, max_position_embeddings=max(2048, size.tokens), dropout=0.0, attention_dropout=0.0,
        init_std=size.spread,
    )  # fmt: skip
    with torch.device(size.device):
        made: Any = OPTForCausalLM(config)
    made.to(size.dtype).eval().requires_grad_(False)
    made.set_attn_implementation(DENSE)
    for _, attention in shape.attention_modules(made):
        for name in ("q_proj", "v_proj"):
            setattr(attention, name, Lora(getattr(attention, name), size.rank, size.alpha / size.rank))
    return made


def trained(model: Any) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


class Engine:
    """A model whose feed-forward modules and attention are the tool's, as `longexp_peft.sparse.Sparse` patches them.

    choose: a layer's set, None for all neurons; patterns: those of a layer's documents, None for dense ones."""

    def __init__(self, model: Any, lengths: tuple[int, ...], block: int) -> None:
        self.model, self.lengths, self.block = model, lengths, block
        self.choose: Choice | None = None
        self.patterns: Patterns | None = None
        self.sets: dict[int, Rows | None] = {}  # of the last run, by layer
        self.inputs: dict[int, Tensor] = {}
        self.ffns = shape.feed_forwards(model)
        for ffn in self.ffns:
            shape.lay_out(ffn)
            ffn.up.forward = functools.partial(self._feed, ffn)
            ffn.down.forward = _same
            setattr(ffn.holder, ffn.names[3], nn.Identity())
        for layer, attention in shape.attention_modules(model):
            attention.engine = self
            attention.register_forward_pre_hook(functools.partial(self._keep, layer), with_kwargs=True)
        model.set_attn_implementation(OURS)

    def _keep(self, layer: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.patterns is not None:
            self.inputs[layer] = (args[0] if args else kwargs["hidden_states"]).detach()[0]

    def _feed(self, ffn: shape.Ffn, x: Tensor) -> Tensor:
        w = Weights.of(ffn)
        rows, known = (None, None) if self.choose is None else self.choose(ffn.layer, x, w)
        self.sets[ffn.layer] = rows
        return feed_forward(x, w, rows, known)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        chosen = None
        if self.patterns is not None:
            with torch.no_grad():
                chosen = Chosen(self.patterns(layer, self.inputs[layer]), self.block)
        return attend(q, k, v, self.lengths, scale=scale, chosen=chosen)


def _same(x: Tensor) -> Tensor:
    return x


class Arms:
    """One shape's two models with the same weights, dense and ours, and steps of them."""

    def __init__(self, bench: Bench, of: Model) -> None:
        size = bench.size
        self.bench, self.size, self.of = bench, size, of
        self.dense = random_model(size, of)
        self.lengths = (size.tokens,) * size.documents
        self.engine = Engine(copying.deepcopy(self.dense), self.lengths, size.block)
        self.adam = {id(m): optimiser(m, size) for m in (self.dense, self.engine.model)}
        total = size.documents * size.tokens
        # So that the head has the share that it has beside all layers.
        count = max(1, total * size.layers // of.layers)
        self.ids = torch.randint(size.vocabulary, (size.documents, size.tokens), device=size.device)
        self.positions = torch.arange(size.tokens, device=size.device).repeat(size.documents)[None]
        self.at = torch.arange(count, device=size.device) * (total // count)
        self.labels = torch.randint(size.vocabulary, (count,), device=size.device)
        self.missing: dict[str, str] = {}
        self._first: dict[str, float] | None = None

    @property
    def case(self) -> str:
        size = self.size
        return f"{self.of.name}'s shape, {size.layers} of {self.of.layers} layers, {size.documents} x {thousands(size.tokens)}"

    # ------------------------------------------------------------ losses and steps

    def loss(self, hidden: Tensor, model: Any) -> Tensor:
        return head.loss_sum(hidden.index_select(0, self.at), self.labels, model.lm_head) / len(self.labels)

    def dense_loss(self, decoder: Any = None, model: Any = None) -> Tensor:
        decoder = self.dense.model.decoder if decoder is None else decoder
        hidden = decoder(input_ids=self.ids, use_cache=False).last_hidden_state
        return self.loss(hidden.flatten(0, 1), self.dense if model is None else model)

    def our_loss(self, choose: Choice | None = None, chosen: Patterns | None = None, batched: bool = False) -> Tensor:
        engine = self.engine
        engine.choose, engine.patterns = choose, chosen
        ids, positions = (self.ids, None) if batched else (self.ids.view(1, -1), self.positions)
        hidden = engine.model.model.decoder(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        return self.loss(hidden.flatten(0, 1), engine.model)

    def step(self, model: Any, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        adam = self.adam[id(model)]

        def run() -> Tensor:
            found = loss()
            found.backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            return found.detach()

        return run

    def ours(self, choose: Choice | None = None, chosen: Patterns | None = None, batched: bool = False) -> Run:
        return self.step(self.engine.model, lambda: self.our_loss(choose, chosen, batched))

    # ------------------------------------------------------------ the dense arms

    @functools.cached_property
    def yardsticks(self) -> dict[str, Run]:
        """Steps of the dense arms that run, eager first."""
        found: dict[str, Run] = {"eager": self.step(self.dense, self.dense_loss)}
        if self.size.compiler is None:
            return found
        if not self.bench.left(COMPILES):
            self.missing["torch.compile"] = f"not compiled: fewer than {COMPILES:.0f} seconds were left"
            return found
        try:
            decoder = torch.compile(self.dense.model.decoder, dynamic=False, backend=self.size.compiler)
            run = self.step(self.dense, lambda: self.dense_loss(decoder))
            run()
            found["torch.compile"] = run
        except Exception as error:  # of the compiler; the eager arm is still there
            self.missing["torch.compile"] = told(error)
        return found

    def first(self) -> dict[str, float]:
        """Seconds of the dense arms, measured once."""
        if self._first is None:
            self._first = {name: self.bench.timer(run) for name, run in self.yardsticks.items()}
        return self._first

    def against(self) -> tuple[str, float]:
        """The faster dense arm, and its seconds now."""
        times = self.first()
        name = min(times, key=lambda key: times[key])
        return f"dense, {name}", self.bench.timer(self.yardsticks[name])

    # ------------------------------------------------------------ operations

    def operations(self, mlp: float = 1.0, blocks: float | None = None) -> float:
        """Of a step where layers compute the share `mlp`, and attention reads `blocks` of n²."""
        layers = range(self.size.layers)
        attention = None if blocks is None else dict.fromkeys(layers, blocks)
        return amdahl.parts(self.dense, self.lengths, len(self.labels), mlp=dict.fromkeys(layers, mlp), attention=attention).total  # fmt: skip

    def judged(
        self, what: str, run: Callable[[], Tensor], *, mlp: float, blocks: float | None = None, right: bool = True, error: float | None = None,
        bars: Record | None = None, known: float | None = None, **more: Any,
    ) -> Record:  # fmt: skip
        """The row of a step beside the faster dense one. known: its seconds, where it was timed already."""
        loss = float(run())
        seconds = self.bench.timer(run) if known is None else known
        name, theirs = self.against()
        flops, dense = self.operations(mlp, blocks), self.operations()
        ratio, bound = theirs / seconds, dense / flops
        every = {
            "never slower than dense": {"found": ratio, "least": 1.0},
            "of the bound": {"found": ratio / bound, "least": OF_BOUND},
        }
        made = row(
            "step", f"{self.case}, {what}", max_rel_err=error, ms=seconds * 1e3, flop_s=flops / seconds, floor_ratio=seconds / (flops / self.bench.matmul),
            baseline=name, baseline_ratio=ratio, bound=bound, of_bound=ratio / bound, bars=every | (bars or {}), missing=dict(self.missing), loss=loss, **more,
        )  # fmt: skip
        return judged(made, right and math.isfinite(loss))


def optimiser(model: Any, size: Size) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trained(model), lr=1e-4, weight_decay=0.1, fused=size.device == "cuda")


def percent(share: float) -> str:
    return f"{100 * share:g} %"


# ---------------------------------------------------------------- choices


def blocks_of(size: Size, model: Model, density: float) -> int:
    return max(1, round(density * model.inner / size.predictor_block))


def neurons(blocks: Tensor, block: int) -> Tensor:
    return (blocks[:, None] * block + torch.arange(block, device=blocks.device)).flatten()


def predictors(size: Size, model: Model, density: float) -> list[LowRank]:
    """A random one for every layer, which takes the blocks that come to the density."""
    count, block = model.inner // size.predictor_block, size.predictor_block
    found = []
    for _ in range(size.layers):
        tensors = {
            "a": torch.randn(size.predictor_rank, model.hidden, device=size.device) / model.hidden**0.5,
            "b": torch.randn(count, size.predictor_rank, device=size.device) / size.predictor_rank**0.5,
            "c": torch.zeros(count, device=size.device),
            "energy": torch.ones(count, device=size.device),
            "norms2": torch.ones(model.inner, device=size.device),
        }
        found.append(LowRank(tensors, block, model.inner, 0.01, blocks_of(size, model, density)))
    return found


def asked(scorers: list[LowRank]) -> Choice:
    def choose(layer: int, x: Tensor, w: Weights) -> tuple[Rows | None, None]:
        scorer = scorers[layer]
        if x.is_cuda:
            return scorer.choose(x, w, None), None
        with torch.no_grad():  # on a CPU the tool takes as many as the scores say, and the density would not be known
            return neurons(scorer.scores(x, w, None).topk(scorer.fixed).indices.sort().values, scorer.block), None

    return choose


def given(sets: list[Rows]) -> Choice:
    return lambda layer, x, w: (sets[layer], None)


def drawn(size: Size, model: Model, density: float) -> list[Rows]:
    """As many blocks as a predictor takes."""
    count, kept = model.inner // size.predictor_block, blocks_of(size, model, density)
    return [
        neurons(torch.randperm(count, device=size.device)[:kept].sort().values, size.predictor_block)
        for _ in range(size.layers)
    ]


def exactly(layer: int, x: Tensor, w: Weights) -> tuple[Rows, Tensor]:
    """As `Sparse` does it: the first product of all neurons, then those that are positive for some token."""
    z = pre_activation(x, w.up, None)
    rows = (z.amax(0) > 0).nonzero()[:, 0]
    return rows, z.index_select(1, rows)


def near(blocks: int, heads: int, density: float, device: str) -> tuple[Tensor, float]:
    """Patterns (H,), the two whose densities over so many blocks are next to the one wanted by turns; and their mean density."""
    cost = patterns.densities(blocks)
    order = (cost - density).abs().argsort(stable=True)
    best = order[order != 0][:2]  # 0 is dense
    found = best[torch.arange(heads) % 2]
    return found.to(device), float(cost[found].mean())


# ---------------------------------------------------------------- steps


def dense(bench: Bench, model: Model) -> Record:
    arms = bench.arms(model)
    times, flops = arms.first(), arms.operations()
    loss = float(arms.yardsticks["eager"]())
    seconds, theirs = times["eager"], times.get("torch.compile")
    made = row(
        "step", f"{arms.case}, dense, eager", ms=seconds * 1e3, flop_s=flops / seconds, floor_ratio=seconds / (flops / bench.matmul), baseline="the same, torch.compile",
        baseline_ratio=None if theirs is None else theirs / seconds, missing=dict(arms.missing), loss=loss,
    )  # fmt: skip
    if "torch.compile" in arms.missing:
        made["baseline"] += f" (failed: {arms.missing['torch.compile']})"
    return judged(made, math.isfinite(loss))


def predicted(bench: Bench, model: Model, density: float) -> Record:
    arms, size = bench.arms(model), bench.size
    choose, sets = asked(predictors(size, model, density)), drawn(size, model, density)
    seconds = bench.timer(arms.ours(choose))
    known = bench.timer(arms.ours(given(sets)))
    choosing = max(0.0, 1 - known / seconds)
    share = len(sets[0]) / model.inner
    return arms.judged(
        f"predicted, {percent(density)} of neurons", arms.ours(choose), mlp=share, known=seconds, given_ms=known * 1e3, choosing=choosing,
        batched_ms=bench.timer(arms.ours(choose, batched=True)) * 1e3, products=products(arms, sets[0]),
        bars={"choosing, of the step": {"found": choosing, "most": CHOOSING}},
    )  # fmt: skip


def products(arms: Arms, rows: Rows) -> str:
    """Who makes the products with picked rows, as the tool has found at their first use."""
    x = torch.empty(arms.size.documents * arms.size.tokens, arms.of.hidden, **arms.size.how)
    by_kernel = kernels.products(x, arms.engine.ffns[0].up.weight, rows)
    return "kernels" if by_kernel else "copied rows"


def static(bench: Bench, model: Model, density: float) -> Record:
    arms, size = bench.arms(model), bench.size
    kept = blocks_of(size, model, density) * size.predictor_block
    run = arms.ours(given([slice(0, kept)] * size.layers))
    return arms.judged(f"static, the first {percent(density)} of neurons", run, mlp=kept / model.inner)


def blocks(bench: Bench, model: Model, density: float) -> Record:
    arms, size = bench.arms(model), bench.size
    many = -(-size.tokens // size.block)
    own, read = near(many, model.heads, size.blocks_density, size.device)
    rank = min(16, model.hidden)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=size.device)

    tensors = {
        "q": normal(model.heads, rank, model.hidden) / model.hidden**0.5, "k": normal(model.heads, rank, model.hidden) / model.hidden**0.5,
        "q_bias": normal(model.heads, rank), "k_bias": normal(model.heads, rank), "distance": normal(model.heads, 64), "sink": normal(model.heads),
    }  # fmt: skip
    guess = AttentionLowRank(tensors, 0.98)

    def predict(layer: int, x: Tensor) -> dict[int, Tensor]:
        found = {}
        for number, begin in enumerate(range(0, len(x), size.tokens)):
            wanted = guess.choose(x[begin : begin + size.tokens], size.block)
            found[number] = torch.where(wanted >= 0, own, wanted)  # what is wanted is made, and not used
        return found

    def all_of(one: Tensor) -> Patterns:
        return lambda layer, x: dict.fromkeys(range(size.documents), one)

    with torch.no_grad(), same_adapters(arms):
        truth, found = float(arms.dense_loss()), float(arms.our_loss(chosen=all_of(torch.zeros_like(own))))
    error = abs(found - truth) / abs(truth)
    choose, sets = asked(predictors(size, model, density)), drawn(size, model, density)
    seconds = bench.timer(arms.ours(choose, predict))
    known = bench.timer(arms.ours(given(sets), all_of(own)))
    choosing = max(0.0, 1 - known / seconds)
    return arms.judged(
        f"blocks of {size.block}, {percent(round(read, 3))} of n², predicted, {percent(density)} of neurons", arms.ours(choose, predict),
        mlp=len(sets[0]) / model.inner, blocks=read, known=seconds, error=error, right=error <= LOSS[size.dtype], given_ms=known * 1e3, choosing=choosing,
        bars={"choosing, of the step": {"found": choosing, "most": CHOOSING}},
    )  # fmt: skip


@contextmanager
def same_adapters(arms: Arms) -> Iterator[None]:
    """The dense model's adapter in ours, which has been trained on its own; ours again after."""
    pairs = list(zip(trained(arms.engine.model), trained(arms.dense), strict=True))
    kept = [mine.detach().clone() for mine, _ in pairs]
    with torch.no_grad():
        for mine, its in pairs:
            mine.copy_(its)
    try:
        yield
    finally:
        with torch.no_grad():
            for (mine, _), before in zip(pairs, kept, strict=True):
                mine.copy_(before)


@contextmanager
def planted(arms: Arms, density: float) -> Iterator[list[Tensor]]:
    """Biases that keep all but a share of the neurons from firing; that share, drawn, bool (F,) of every layer."""
    draw = torch.Generator().manual_seed(1)
    sides = [shape.feed_forwards(arms.dense), arms.engine.ffns]
    kept = [[ffn.up.bias.detach().clone() for ffn in side] for side in sides]
    alive = [torch.rand(arms.of.inner, generator=draw).to(arms.size.device) < density for _ in range(arms.size.layers)]
    with torch.no_grad():
        for side in sides:
            for ffn in side:
                ffn.up.bias.masked_fill_(~alive[ffn.layer], -50.0)
    try:
        yield alive
    finally:
        with torch.no_grad():
            for side, before in zip(sides, kept, strict=True):
                for ffn, bias in zip(side, before, strict=True):
                    ffn.up.bias.copy_(bias)


def apart(found: list[Tensor], truth: list[Tensor]) -> float:
    """‖found − truth‖ / ‖truth‖ over all of them."""
    gap, whole = (math.sqrt(sum(float(x.double().square().sum()) for x in of)) for of in ([a - b for a, b in zip(found, truth, strict=True)], truth))  # fmt: skip
    return gap / whole if whole else gap


def exact(bench: Bench, model: Model) -> Record:
    arms, size = bench.arms(model), bench.size
    with planted(arms, size.exact_density) as alive:
        with same_adapters(arms):
            theirs, ours = arms.dense_loss(), arms.our_loss(exactly)
            sets = dict(arms.engine.sets)
            dense_grads = list(torch.autograd.grad(theirs, trained(arms.dense)))
            our_grads = list(torch.autograd.grad(ours, trained(arms.engine.model)))
        exactly_so = copying.deepcopy(arms.dense).float()
        truth = list(torch.autograd.grad(arms.dense_loss(exactly_so.model.decoder, exactly_so), trained(exactly_so)))
        del exactly_so
        error = abs(float(ours.detach()) - float(theirs.detach())) / abs(float(theirs.detach()))
        dense_apart, our_apart = apart(dense_grads, truth), apart(our_grads, truth)
        strays = sum(int((~alive[layer][rows]).sum()) for layer, rows in sets.items())
        density = sum(count(rows, model.inner) for rows in sets.values()) / (size.layers * model.inner)
        right = error <= LOSS[size.dtype] and our_apart <= 1.5 * dense_apart + 1e-4 and not strays
        del dense_grads, our_grads, truth, theirs, ours
        return arms.judged(
            f"exact, {percent(size.exact_density)} of neurons can fire", arms.ours(exactly), mlp=amdahl.left("exact", density, False), error=error, right=right,
            density=density, strays=strays, grad_rel_err=our_apart, dense_grad_rel_err=dense_apart,
        )  # fmt: skip


# ---------------------------------------------------------------- memory


def peak(run: Run) -> int:
    """Bytes that a run adds at its peak to those held before it."""
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def memory(bench: Bench, model: Model, density: float) -> Record:
    arms, size = bench.arms(model), bench.size
    theirs = peak(arms.step(arms.dense, arms.dense_loss))
    ours = peak(arms.ours(asked(predictors(size, model, density))))
    weights = sum(p.nbytes for p in arms.dense.parameters())
    made = row(
        "memory", f"{arms.case}, a step's peak over weights, predicted, {percent(density)} of neurons", baseline="dense, eager; bytes, not time",
        baseline_ratio=theirs / ours, peak_bytes=ours, dense_peak_bytes=theirs, weight_bytes=weights,
        bars={"of the dense step's": {"found": ours / theirs, "most": 1.0}},
    )  # fmt: skip
    return judged(made, True)


# ---------------------------------------------------------------- FlexAttention


def block_mask(own: Tensor, blocks: int, block: int) -> Any:
    """FlexAttention's of patterns (H,): the diagonal's blocks are masked, the others whole."""
    from torch.nn.attention.flex_attention import BlockMask

    eye = torch.eye(blocks, dtype=torch.bool, device=own.device)
    whole = patterns.masks(blocks).to(own.device)[own] & ~eye
    order = whole.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    diagonal = eye.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return BlockMask.from_kv_blocks(
        torch.ones(1, len(own), blocks, dtype=torch.int32, device=own.device), diagonal.expand(1, len(own), -1, -1).contiguous(),
        whole.sum(-1, dtype=torch.int32)[None], order[None], BLOCK_SIZE=block, mask_mod=lambda b, h, i, j: i >= j,
    )  # fmt: skip


def flex(own: Tensor, blocks: int, block: int, scale: float, compiler: str | None) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    function: Any = flex_attention
    if compiler is not None:
        function = torch.compile(flex_attention, dynamic=False, backend=compiler)
    mask = block_mask(own, blocks, block)
    return lambda q, k, v: function(q[None], k[None], v[None], block_mask=mask, scale=scale)[0]


def both_ways(function: Callable[..., Tensor], leaves: list[Tensor], do: Tensor) -> Callable[[], list[Tensor]]:
    """o (H, T, e), dq, dk, dv."""

    def run() -> list[Tensor]:
        o = function(*leaves)
        return [o.detach(), *torch.autograd.grad(o, leaves, do)]

    return run


def flex_peer(bench: Bench) -> Record:
    size = bench.size
    many, heads, scale = size.peer_tokens // size.peer_block, size.peer_heads, size.peer_dim**-0.5
    own, read = near(many, heads, size.blocks_density, size.device)
    torch.manual_seed(0)
    leaves = [torch.randn(heads, size.peer_tokens, size.peer_dim, **size.how).requires_grad_() for _ in range(3)]
    do = torch.randn(heads, size.peer_tokens, size.peer_dim, **size.how)
    of = kernels.layout((size.peer_tokens,), {0: own}, heads, size.peer_block, 0, leaves[0].device)

    def listed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernels.attend_blocks(q, k, v, of, size.peer_block, scale).transpose(0, 1)

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=scale)[0]

    ours = both_ways(listed, leaves, do)
    found = ours()
    worst = max(listed_error(found, leaves, do, int(own[h]), h, size.peer_block, scale) for h in {0, heads - 1})
    seconds = bench.timer(ours)
    dense_seconds = bench.timer(both_ways(flash, leaves, do))
    # Half of the diagonal's blocks are hidden.
    pairs = heads * (read * size.peer_tokens**2 - size.peer_tokens * (size.peer_block - 1) / 2)
    flops, moved = 14 * size.peer_dim * pairs, 12 * leaves[0].nbytes
    made = row(
        "FlexAttention", f"forward and backward, one document of {thousands(size.peer_tokens)}, {heads} heads of {size.peer_dim}, blocks of {size.peer_block}, "
        f"{percent(round(read, 3))} of n²", max_rel_err=worst, ms=seconds * 1e3, flop_s=flops / seconds, bytes_s=moved / seconds,
        floor_ratio=seconds / max(flops / bench.matmul, moved / bench.copy), baseline="FlexAttention, compiled", flash_ratio=dense_seconds / seconds,
        bars={"never slower than dense flash": {"found": dense_seconds / seconds, "least": 1.0}},
    )  # fmt: skip
    try:
        begun = time.monotonic()
        theirs = both_ways(flex(own, many, size.peer_block, scale, size.compiler), leaves, do)
        gap = max(relative_error(a, b.double()) for a, b in zip(found, theirs(), strict=True))
        made |= {"compile_s": time.monotonic() - begun, "peer_rel_err": gap}
        if not gap <= 2 * ATTENTION[size.dtype]:
            raise ValueError(f"its result differs from ours by {gap:.2g}")
        made["baseline_ratio"] = bench.timer(theirs) / seconds
        made["bars"]["never slower than it"] = {"found": made["baseline_ratio"], "least": 1.0}
    except Exception as error:  # of the compiler, and says nothing of our kernel
        made["missing"]["FlexAttention"] = told(error)
        made["baseline"] += f" (failed: {told(error)})"
    return judged(made, worst <= ATTENTION[size.dtype])


def listed_error(
    found: list[Tensor], leaves: list[Tensor], do: Tensor, pattern: int, at: int, block: int, scale: float
) -> float:
    """The largest error of one head's o, dq, dk and dv against a masked softmax in float64."""
    tokens = do.shape[1]
    kept = patterns.masks(tokens // block)[pattern].to(do.device)
    seen = kept.repeat_interleave(block, 0).repeat_interleave(block, 1).tril()
    q, k, v = (x[at].detach().double().requires_grad_() for x in leaves)
    o = (q @ k.T * scale).masked_fill(~seen, -torch.inf).softmax(-1) @ v
    truth = [o.detach(), *torch.autograd.grad(o, [q, k, v], do[at].double())]
    return max(relative_error(a[at], b) for a, b in zip(found, truth, strict=True))


# ---------------------------------------------------------------- the paper's protocol


def padded(bench: Bench, model: Model, density: float) -> Record:
    """As the published code times itself, but for its mistakes in the operators: all logits, eager attention, no mask for padding."""
    arms, size = bench.arms(model), bench.size
    real, width, count = size.padded_tokens, size.padded_to, size.documents
    ids = torch.ones(count, width, dtype=torch.long, device=size.device)
    ids[:, :real] = torch.randint(2, size.vocabulary, (count, real), device=size.device)
    labels = torch.full_like(ids, -100)
    labels[:, real - size.padded_targets : real] = ids[:, real - size.padded_targets : real]
    choose = asked(predictors(size, model, density))
    targets = (labels[:, 1:] != -100).nonzero()
    at, wanted = targets[:, 0] * real + targets[:, 1], labels[:, 1:][labels[:, 1:] != -100]

    def whole(one: Any) -> Tensor:
        return one(input_ids=ids, labels=labels, use_cache=False).loss

    def ours() -> Tensor:
        arms.engine.choose, arms.engine.patterns = choose, None
        return whole(arms.engine.model)

    def bare() -> Tensor:
        hidden = arms.dense.model.decoder(input_ids=ids[:, :real], use_cache=False).last_hidden_state.flatten(0, 1)
        return head.loss_sum(hidden.index_select(0, at), wanted, arms.dense.lm_head) / len(at)

    both = (arms.dense, arms.engine.model)
    for one in both:
        one.set_attn_implementation("eager")
    try:
        run = arms.step(arms.engine.model, ours)
        loss = float(run())
        seconds = bench.timer(run)
        theirs = bench.timer(arms.step(arms.dense, lambda: whole(arms.dense)))
    finally:
        for one, name in zip(both, (DENSE, OURS), strict=True):
            one.set_attn_implementation(name)
    layers = range(size.layers)
    share = blocks_of(size, model, density) * size.predictor_block / model.inner
    flops, dense_flops = (
        amdahl.parts(arms.dense, (width,) * count, count * width, mlp=dict.fromkeys(layers, part)).total for part in (share, 1.0)
    )  # fmt: skip
    made = row(
        "the paper's protocol", f"{arms.of.name}'s shape, {size.layers} of {arms.of.layers} layers, random weights: {count} documents of {real} tokens padded to {width}, "
        f"eager attention, all logits; {percent(density)} of neurons; {100 * (1 - real / width):.0f} % of the tokens that both sides compute are padding",
        ms=seconds * 1e3, flop_s=flops / seconds, floor_ratio=seconds / (flops / bench.matmul), baseline="dense, padded, eager", baseline_ratio=theirs / seconds,
        bound=dense_flops / flops, unpadded_dense_ms=bench.timer(arms.step(arms.dense, bare)) * 1e3, loss=loss,
    )  # fmt: skip
    return judged(made, math.isfinite(loss))


# ---------------------------------------------------------------- all


def rows(timer: Timer, copy: float, size: Size | None = None) -> Iterator[Callable[[], Record]]:
    """The rows, each to be called for: one that fails is to leave the others alone, and one too late says so."""
    chosen = size or Size()
    bench = Bench(chosen, timer, copy)

    def in_time(
        kernel: str, case: str, needed: float, measure: Callable[..., Record], *how: Any
    ) -> Callable[[], Record]:
        def call() -> Record:
            if not bench.left(needed):
                return row(kernel, case, error=f"not run: the {chosen.seconds:.0f} seconds were over")
            return measure(bench, *how)

        return call

    for number, model in enumerate(chosen.models):
        yield in_time("step", f"{model.name}, dense", 5, dense, model)
        for density in chosen.densities:
            yield in_time("step", f"{model.name}, predicted, {percent(density)}", 4, predicted, model, density)
        yield in_time("step", f"{model.name}, static", 3, static, model, chosen.densities[0])
        yield in_time("step", f"{model.name}, blocks", 4, blocks, model, chosen.densities[0])
        yield in_time("step", f"{model.name}, exact", 4, exact, model)
        if number == 0:
            yield in_time("memory", model.name, 2, memory, model, chosen.densities[0])
            yield in_time("the paper's protocol", model.name, 3, padded, model, chosen.densities[0])
            yield in_time("FlexAttention", thousands(chosen.peer_tokens), 5, flex_peer)
    bench.tidy()
