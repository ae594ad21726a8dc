"""Rows of `make gpu-check` for seer-decode that are more than one kernel, about a minute in all.

- ground truth: the training target of one long sequence in chunks of rows, beside a flash forward of the same sequence, and the
  memory it takes beside the published code's buffer, 16 bits for every (query head, query, block).
- decode step: a model of Qwen3-4B's shape with random weights, 64K tokens cached for each of 8 sequences or as many as fit: the
  least time that its bytes take at the measured copy rate, over its time; and the same step with the fastest dense attention.
- grid: batch x context x sparsity at 64/8 heads. Sparse attention alone and with gate and selection, beside every dense one that
  this machine has: FlashAttention 3, PyTorch's with the group as queries of one stored head under each backend, and with
  enable_gqa. baseline is the fastest of them, baseline_ratio without the gate, gate_ratio with it.
- sparse peer: FlexAttention, compiled, on the same lists; its compilation is not counted.

All is timed on the device: each contender is captured in a CUDA graph, all run in turns, and before each run the L2 cache is
overwritten; times are medians. Keys, values, weights and compressed keys are bfloat16. A row is ok where its results are right and
every one of its `bars` is met, {found, least or most}; bars are those of SeerAttention-R's figure 6 against FlashAttention 3, and
where that is not there, against the fastest dense attention, which `bars_against` says. `missing` names each contender that did not
run, with its error. The authors' TileLang and Triton kernels are not measured here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seer_decode import kernels
from tenfold_kernels.cases.seer_decode import decode_oracle, gate_scores, truth_oracle
from tenfold_kernels.registry import relative_error
from tenfold_shared.launch.block_decode import block_decode
from tenfold_shared.launch.gate_select import gate_select

Record = dict[str, Any]
Timer = Callable[[Callable[[], Any]], float]
Run = Callable[[], Any]
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-4}
SCORES = 1e-3  # of the gate's scores: its sums are float32
FASTER = {(16, 32768): 7.5, (16, 131072): 8.5, (4, 32768): 6.0, (1, 131072): 6.0}  # at 90 %, by (batch, context)
FA3 = "FlashAttention 3"


@dataclass(frozen=True)
class Size:
    """What is run; the test makes it small."""

    heads: int = 64
    kv_heads: int = 8
    dim: int = 128
    gate_dim: int = 128
    block: int = 64
    batches: tuple[int, ...] = (1, 4, 16)
    contexts: tuple[int, ...] = (8192, 32768, 131072)
    sparsities: tuple[float, ...] = (0.5, 0.9)
    peers: tuple[tuple[int, int, float], ...] = ((1, 131072, 0.9), (4, 32768, 0.9), (16, 131072, 0.9))
    layers: int = 36
    hidden: int = 2560
    inner: int = 9728
    vocabulary: int = 151936
    step_heads: int = 32
    step_batch: int = 8
    step_context: int = 65536
    step_sparsity: float = 0.9
    truth_tokens: int = 32768
    truth_heads: int = 32
    truth_check: int = 2048
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"
    compiled: bool = True  # FlexAttention
    seconds: float = 65.0

    @property
    def how(self) -> Record:
        return {"dtype": self.dtype, "device": self.device}


@dataclass(frozen=True)
class Bytes:
    """What one layer's attention must read, as seer_decode.plan counts it; that module's dependencies are not asked for here."""

    size: Size
    heads: int

    def kept(self, tokens: int, sparsity: float) -> int:
        """Blocks read of a cache of so many tokens: ceil(S (1 − s) / B)."""
        return max(1, math.ceil(tokens * (1 - sparsity) / self.size.block - 1e-9))

    def dense(self, batch: int, tokens: int) -> int:
        """Keys and values of all tokens: 2 Hkv D e each."""
        size = self.size
        return batch * tokens * 2 * size.kv_heads * size.dim * size.dtype.itemsize

    def sparse(self, batch: int, tokens: int, kept: int) -> int:
        return self.dense(batch, min(kept * self.size.block, tokens))

    def gate(self, batch: int, tokens: int) -> int:
        """B NB Hkv dg e of compressed keys, and Wq."""
        size = self.size
        keys = batch * -(-tokens // size.block) * size.kv_heads * size.gate_dim
        return (keys + self.heads * size.dim * size.gate_dim) * size.dtype.itemsize


class Bench:
    """What rows share: the time left, and how contenders are timed."""

    def __init__(self, size: Size, timer: Timer, copy: float) -> None:
        self.size, self.timer, self.copy = size, timer, copy
        self.until = time.monotonic() + size.seconds
        self.cases: dict[tuple[int, int], Record] = {}  # the one in use
        self.cache = torch.empty(256 << 20, dtype=torch.uint8, device="cuda") if size.device == "cuda" else None

    def left(self, needed: float) -> bool:
        return time.monotonic() + needed < self.until

    def free(self) -> float:
        """Bytes that a row may fill."""
        return 0.92 * torch.cuda.mem_get_info()[0] if self.size.device == "cuda" else math.inf

    def fits(self, key: tuple[int, int], needed: float) -> bool:
        """Whether the case is there, or room for it is once the last one is gone."""
        if key not in self.cases:
            self.tidy()
        return key in self.cases or 1.2 * needed <= self.free()

    def tidy(self) -> None:
        self.cases.clear()
        if self.size.device == "cuda":
            torch.cuda.empty_cache()

    def times(self, runs: dict[str, Run], budget: float = 0.4) -> tuple[dict[str, float], dict[str, str]]:
        """Median seconds of each that can run, and why the others cannot. On a GPU in turns, each from a graph and a cold L2."""
        ready: dict[str, Run] = {}
        missing = {}
        for name, run in runs.items():
            try:
                run()
                ready[name] = run if self.cache is None else graphed(run)
            except Exception as error:  # of whatever library: it says nothing of the others
                missing[name] = told(error)
        if self.cache is None:
            return {name: self.timer(run) for name, run in ready.items()}, missing
        marks: dict[str, list[Any]] = {name: [] for name in ready}

        def turn() -> float:
            begun = time.monotonic()
            for name, run in ready.items():
                pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                self.cache.zero_()
                pair[0].record()
                run()
                pair[1].record()
                marks[name].append(pair)
            torch.cuda.synchronize()
            return time.monotonic() - begun

        turn()
        for found in marks.values():
            found.clear()
        rounds = max(5, min(40, int(budget / turn())))
        for _ in range(rounds - 1):
            turn()
        medians = {name: statistics.median(a.elapsed_time(b) for a, b in found) / 1e3 for name, found in marks.items()}
        return medians, missing


def graphed(run: Run) -> Run:
    """The same work from a CUDA graph: the host's time to launch it counts for nobody."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # libraries settle their workspaces
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def row(kernel: str, case: str, **more: Any) -> Record:
    empty = dict.fromkeys(("max_rel_err", "ms", "bytes_s", "flop_s", "floor_ratio", "baseline", "baseline_ratio"))
    return {"kernel": f"seer-decode {kernel}", "case": case, **empty, "bars": {}, "missing": {}, "ok": False, **more}


def judged(found: Record, right: bool) -> Record:
    """With ok: right, and every bar met; else with an error that names what is not."""
    wrong = [] if right else ["its results are wrong, or there is nothing to compare with"]
    for name, bar in found["bars"].items():
        least, most = bar.get("least", -math.inf), bar.get("most", math.inf)
        if not least <= bar["found"] <= most:
            wrong.append(f"{name} {bar['found']:.3g}, bar {bar.get('least', bar.get('most')):.3g}")
    return found | {"ok": not wrong} | ({"error": "; ".join(wrong)} if wrong else {})


# ---------------------------------------------------------------- dense attention of one query a sequence


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    with sdpa_kernel(getattr(SDPBackend, name)):
        yield


def dense_runs(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float) -> dict[str, Run]:
    """Attention of q (B, Hq, D) over all of k, v (B, Hkv, S, D), by all who might have it; results hold (B, Hq, D) in order."""
    folded = q.unflatten(1, (k.shape[1], -1))

    def by(name: str) -> Run:
        def run() -> Tensor:
            with backend(name):
                return scaled_dot_product_attention(folded, k, v, scale=scale)

        return run

    def fa3() -> Tensor:
        attend = importlib.import_module("fa3_fwd_interface").flash_attn_with_kvcache
        found = attend(q[:, None], k.transpose(1, 2), v.transpose(1, 2), cache_seqlens=lengths, softmax_scale=scale)
        return found[0] if isinstance(found, tuple) else found

    runs: dict[str, Run] = {FA3: fa3}
    for name, title in (
        ("FLASH_ATTENTION", "flash"),
        ("CUDNN_ATTENTION", "cuDNN"),
        ("EFFICIENT_ATTENTION", "efficient"),
    ):
        runs[f"SDPA {title}, group folded"] = by(name)
    runs["SDPA enable_gqa"] = lambda: scaled_dot_product_attention(q[:, :, None], k, v, scale=scale, enable_gqa=True)
    return runs


def strangers(runs: dict[str, Run], q: Tensor, k: Tensor, v: Tensor, scale: float) -> dict[str, str]:
    """Those whose result is not dense attention, with their error at the last row and stored head; they are no baseline."""
    group = q.shape[1] // k.shape[1]
    truth = (q[-1, -group:].double() @ k[-1, -1].double().T * scale).softmax(-1) @ v[-1, -1].double()
    found = {}
    for name, run in runs.items():
        with contextlib.suppress(Exception):  # `times` tells of it
            error = relative_error(run().reshape(q.shape)[-1, -group:], truth)
            if not error <= 2 * TOLERANCE[q.dtype]:
                found[name] = f"its result is wrong by {error:.2g}"
    return found


# ---------------------------------------------------------------- the grid


def drawn(bench: Bench, batch: int, context: int) -> Record:
    """A layer's cache, query and gate; that of the last batch and context is kept."""
    size = bench.size
    if (batch, context) not in bench.cases:  # `fits` has let go of the last one
        torch.manual_seed(0)
        group, blocks = size.heads // size.kv_heads, -(-context // size.block)
        angle = torch.rand(batch, size.gate_dim // 2, device=size.device) * 6
        wq = torch.randn(size.kv_heads, group, size.dim, size.gate_dim, **size.how) * (group * size.dim) ** -0.5
        bench.cases[batch, context] = {
            "q": torch.randn(batch, size.heads, size.dim, **size.how),
            "k": torch.randn(batch, size.kv_heads, context, size.dim, **size.how),
            "v": torch.randn(batch, size.kv_heads, context, size.dim, **size.how),
            "lengths": torch.full((batch,), context, dtype=torch.int32, device=size.device),
            "wq": wq,
            "kc": torch.randn(batch, size.kv_heads, blocks, size.gate_dim, **size.how).transpose(1, 2),
            "cos": angle.cos(),
            "sin": angle.sin(),
            "weight": torch.ones(size.gate_dim, **size.how),
        }
    return bench.cases[batch, context]


def gated(case: Record, block: int, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """indices, counts and scores. The query before RoPE and after it are one: their bytes are the same."""
    given = {name: case[name] for name in ("q", "wq", "kc", "lengths", "cos", "sin", "weight")}
    return gate_select(**given, block=block, budget=kept)


def attended(case: Record, indices: Tensor, counts: Tensor, block: int) -> Tensor:
    scale = case["q"].shape[-1] ** -0.5
    return block_decode(case["q"], case["k"], case["v"], case["lengths"], indices, counts, block=block, scale=scale)[0]


def errors(
    case: Record, chosen: tuple[Tensor, Tensor, Tensor], out: Tensor, block: int, kept: int
) -> tuple[float, float]:
    """Of the attention and the scores against float64, at the first and last row and stored head; infinite for lists that
    are not the tail and the best of the same scores, of equal ones the first, in ascending order."""
    indices, counts, scores = chosen
    batch, stored, _ = indices.shape
    group, worst, score = out.shape[1] // stored, 0.0, 0.0
    for at, head in ((0, 0), (batch - 1, stored - 1)):
        one, own, heads = slice(at, at + 1), slice(head, head + 1), slice(head * group, (head + 1) * group)
        given: Record = {
            "q": case["q"][one, heads], "k": case["k"][one, own], "v": case["v"][one, own], "lengths": case["lengths"][one],
            "indices": indices[one, own], "counts": counts[one, own], "block": block, "scale": out.shape[-1] ** -0.5,
        }  # fmt: skip
        worst = max(worst, relative_error(out[one, heads], decode_oracle(given)[0]))
        given |= {name: case[name][one] for name in ("cos", "sin")}
        given |= {"wq": case["wq"][own], "kc": case["kc"][one, :, own], "weight": case["weight"], "eps": 1e-6}
        score = max(score, relative_error(scores[one, own], gate_scores(given)))
        tail = (int(case["lengths"][at]) - 1) // block
        order = scores[at, head, :tail].sort(descending=True, stable=True).indices
        best = sorted([*order[: kept - 1].tolist(), tail])
        if indices[at, head, : counts[at, head]].tolist() != best:
            return math.inf, score
    return worst, score


def cell(bench: Bench, batch: int, context: int, sparsity: float) -> Record:
    """One cell of the grid."""
    size = bench.size
    name = f"{batch} x {thousands(context)}, {100 * sparsity:.0f} %"
    line = Bytes(size, size.heads)
    if not bench.fits((batch, context), line.dense(batch, context)):
        return row("grid", name, error=f"not run: it takes {line.dense(batch, context) / 1e9:.0f} GB")
    case, kept = drawn(bench, batch, context), line.kept(context, sparsity)
    chosen = gated(case, size.block, kept)
    worst, score = errors(case, chosen, attended(case, *chosen[:2], size.block), size.block, kept)
    dense = dense_runs(case["q"], case["k"], case["v"], case["lengths"], size.dim**-0.5)
    wrong = strangers(dense, case["q"], case["k"], case["v"], size.dim**-0.5)
    found, missing = bench.times(
        {
            "sparse": lambda: attended(case, *chosen[:2], size.block),
            "gate": lambda: gated(case, size.block, kept),
            "sparse with gate": lambda: attended(case, *gated(case, size.block, kept)[:2], size.block),
            **{name: run for name, run in dense.items() if name not in wrong},
        }
    )
    missing |= wrong
    if not {"sparse", "gate", "sparse with gate"} <= found.keys():
        return row("grid", name, missing=missing, error="our own kernels did not run")
    ours, gate, both = (found.pop(key) for key in ("sparse", "gate", "sparse with gate"))
    read, scored = line.sparse(batch, context, kept), line.gate(batch, context)
    made = row(
        "grid", name, max_rel_err=worst, scores_rel_err=score, ms=ours * 1e3, bytes_s=read / ours, flop_s=4 * size.dim * batch * size.heads * kept * size.block / ours,
        floor_ratio=ours / (read / bench.copy), gate_ms=gate * 1e3, with_gate_ms=both * 1e3, with_gate_floor_ratio=both / ((read + scored) / bench.copy),
        dense_ms={name: seconds * 1e3 for name, seconds in found.items()}, missing=missing, blocks=kept,
    )  # fmt: skip
    bars: Record = made["bars"]
    if found:
        fastest = min(found, key=lambda key: found[key])
        against = FA3 if FA3 in found else fastest
        made |= {"baseline": fastest, "baseline_ratio": found[fastest] / ours, "gate_ratio": found[fastest] / both}
        made |= {"bars_against": against, "fa3_ratio": found[FA3] / ours if FA3 in found else None}
        bars["never slower than dense"] = {"found": found[fastest] / ours, "least": 1.0}
        if sparsity == 0.9 and (batch, context) in FASTER:
            bars["times as fast"] = {"found": found[against] / ours, "least": FASTER[batch, context]}
    if read >= 200e6:
        bars["of the copy rate"] = {"found": read / ours / bench.copy, "least": 0.85}
    if read >= 50e6:
        bars["gate in parts of sparse attention"] = {"found": gate / ours, "most": 0.25}
    return judged(made, bool(found) and worst <= TOLERANCE[size.dtype] and score <= SCORES)


def thousands(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


# ---------------------------------------------------------------- FlexAttention


def flex_run(case: Record, indices: Tensor, counts: Tensor, block: int, compiled: bool) -> Run:
    """FlexAttention over the same lists: the group's heads are queries, stored heads lie in the batch, all blocks are whole."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    batch, stored, tokens, dim = case["k"].shape
    q, k, v = (x.reshape(batch * stored, 1, -1, dim) for x in (case["q"], case["k"], case["v"]))
    # As wide as there are blocks: from the width it takes their number.
    lists = F.pad(indices.clamp_min(0), (0, tokens // block - indices.shape[-1])).view(batch * stored, 1, 1, -1)
    of_lists = counts.view(-1, 1, 1)
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(of_lists), torch.zeros_like(lists), of_lists, lists, BLOCK_SIZE=(128, block), seq_lengths=(q.shape[2], tokens),
    )  # fmt: skip
    attend: Any = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
    return lambda: attend(q, k, v, block_mask=mask, scale=dim**-0.5)


def peer(bench: Bench, batch: int, context: int, sparsity: float) -> Record:
    """FlexAttention beside block_decode."""
    size = bench.size
    name = f"{batch} x {thousands(context)}, {100 * sparsity:.0f} %"
    line = Bytes(size, size.heads)
    if not bench.fits((batch, context), line.dense(batch, context)):
        return row("sparse peer", name, error=f"not run: it takes {line.dense(batch, context) / 1e9:.0f} GB")
    case, kept = drawn(bench, batch, context), line.kept(context, sparsity)
    indices, counts, _ = gated(case, size.block, kept)
    mine = attended(case, indices, counts, size.block)
    made = row("sparse peer", name, baseline="FlexAttention, compiled")
    begun = time.monotonic()
    try:
        theirs = flex_run(case, indices, counts, size.block, size.compiled)
        made["max_rel_err"] = relative_error(mine.double(), theirs().reshape(mine.shape).double())
    except Exception as error:  # of the compiler
        return made | {"missing": {"FlexAttention": told(error)}, "error": "there is no peer to compare with"}
    made["compile_s"] = time.monotonic() - begun
    found, missing = bench.times({"sparse": lambda: attended(case, indices, counts, size.block), "flex": theirs})
    if missing:
        return made | {"missing": missing, "error": "there is no peer to compare with"}
    read = line.sparse(batch, context, kept)
    ratio = found["flex"] / found["sparse"]
    made |= {
        "ms": found["sparse"] * 1e3,
        "bytes_s": read / found["sparse"],
        "floor_ratio": found["sparse"] / (read / bench.copy),
    }
    made |= {"baseline_ratio": ratio, "bars": {"faster": {"found": ratio, "least": 1.0}}}
    return judged(made, made["max_rel_err"] <= 2 * TOLERANCE[size.dtype])


# ---------------------------------------------------------------- a whole step


Attend = Callable[[int, Tensor, Tensor], Tensor]


@dataclass
class Model:
    """Random weights, and a cache of random keys; `run(attend)` is one decoding step of all sequences to logits.

    Norms of queries and keys, their rotation, and the new token's place in the cache are part of it. Embedding and output
    projection are one.
    """

    size: Size
    batch: int
    layers: list[tuple[Tensor, ...]] = field(init=False)

    def __post_init__(self) -> None:
        size, how = self.size, self.size.how
        query, stored = size.step_heads * size.dim, size.kv_heads * size.dim
        context, group = size.step_context, size.step_heads // size.kv_heads
        shapes = (
            (query + 2 * stored, size.hidden),
            (size.hidden, query),
            (2 * size.inner, size.hidden),
            (size.hidden, size.inner),
        )
        self.layers = [tuple(matrix(*shape, **how) for shape in shapes) for _ in range(size.layers)]
        self.head = matrix(size.vocabulary, size.hidden, **how)
        gate = (size.kv_heads, group, size.dim, size.gate_dim)
        self.gates = [torch.randn(*gate, **how) * (group * size.dim) ** -0.5 for _ in range(size.layers)]
        self.norm = torch.ones(size.gate_dim, **how)
        cache = (self.batch, size.kv_heads, context, size.dim)
        self.keys, self.values = ([torch.randn(*cache, **how) for _ in range(size.layers)] for _ in range(2))
        blocks = (self.batch, size.kv_heads, -(-context // size.block), size.gate_dim)
        self.compressed = [torch.randn(*blocks, **how).transpose(1, 2) for _ in range(size.layers)]
        self.lengths = torch.full((self.batch,), context, dtype=torch.int32, device=size.device)
        self.token = torch.zeros(self.batch, dtype=torch.int64, device=size.device)
        angle = (context - 1) * 1e6 ** -(torch.arange(0, size.dim, 2, device=size.device) / size.dim)
        self.cos = angle.cos().repeat(2).to(size.dtype)
        self.sin = torch.cat([-angle.sin(), angle.sin()]).to(size.dtype)  # of (−right, left)
        wide = angle.new_zeros(self.batch, size.gate_dim // 2)
        self.gate_cos, self.gate_sin = wide + 1.0, wide

    @property
    def weight_bytes(self) -> int:
        return sum(w.nbytes for layer in self.layers for w in layer) + self.head.nbytes

    def run(self, attend: Attend) -> Tensor:
        """(B, vocabulary); attend(layer, before, after) of the queries (B, Hq, D) before RoPE and after it."""
        size = self.size
        heads, stored = size.step_heads, size.kv_heads
        x = self.head[self.token]
        for at, (qkv, out, up, down) in enumerate(self.layers):
            y = (normed(x) @ qkv.T).unflatten(-1, (-1, size.dim))
            before = normed(y[:, : heads + stored])
            after = torch.addcmul(before * self.cos, before.roll(size.dim // 2, -1), self.sin)
            self.keys[at][:, :, -1] = after[:, heads:]
            self.values[at][:, :, -1] = y[:, heads + stored :]
            mixed = attend(at, before[:, :heads], after[:, :heads])
            x = torch.addmm(x, mixed.reshape(len(x), -1), out.T)
            gate, wide = (normed(x) @ up.T).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate) * wide, down.T)
        return normed(x) @ self.head.T

    def sparse(self, kept: int) -> Attend:
        size = self.size

        def attend(at: int, before: Tensor, after: Tensor) -> Tensor:
            indices, counts, _ = gate_select(
                before.contiguous(), self.gates[at], self.compressed[at], self.lengths, self.gate_cos, self.gate_sin, block=size.block,
                budget=kept, weight=self.norm,
            )  # fmt: skip
            cache = self.keys[at], self.values[at], self.lengths
            return block_decode(after.contiguous(), *cache, indices, counts, block=size.block, scale=size.dim**-0.5)[0]

        return attend

    def dense(self, name: str) -> Attend:
        def attend(at: int, before: Tensor, after: Tensor) -> Tensor:
            cache = self.keys[at], self.values[at], self.lengths
            return dense_runs(after.contiguous(), *cache, self.size.dim**-0.5)[name]().reshape(after.shape)

        return attend


def matrix(rows: int, columns: int, **how: Any) -> Tensor:
    return torch.randn(rows, columns, **how) / columns**0.5


def normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def whole_step(bench: Bench) -> Record:
    """Time of a step from a graph, over the least that its bytes allow; and beside the same step with dense attention."""
    size = bench.size
    bench.tidy()
    line = Bytes(size, size.step_heads)
    context, kept = size.step_context, line.kept(size.step_context, size.step_sparsity)
    worst = step_error(size)
    per_layer = size.hidden * (size.step_heads * 2 + 2 * size.kv_heads) * size.dim + 3 * size.hidden * size.inner
    weights = (size.layers * per_layer + size.vocabulary * size.hidden) * size.dtype.itemsize
    a_sequence = size.layers * (line.dense(1, context) + line.gate(1, context))
    batch = int(min(size.step_batch, (bench.free() - 1.1 * weights) / a_sequence))
    shape = f"Qwen3-4B's shape, {batch} x {thousands(context)}, {100 * size.step_sparsity:.0f} %"
    if batch < 1:
        return row("decode step", shape, max_rel_err=worst, error="not run: not one sequence fits")
    model = Model(size, batch)
    first = torch.randn(batch, size.step_heads, size.dim, **size.how)
    dense = dense_runs(first, model.keys[0], model.values[0], model.lengths, size.dim**-0.5)
    wrong = strangers(dense, first, model.keys[0], model.values[0], size.dim**-0.5)
    alone, missing = bench.times({name: run for name, run in dense.items() if name not in wrong}, budget=0.2)
    if not alone:
        return row("decode step", shape, max_rel_err=worst, missing=missing | wrong, error="no dense attention runs")
    fastest = min(alone, key=lambda name: alone[name])
    finite = bool(torch.isfinite(model.run(model.sparse(kept))).all())
    found, failed = bench.times(
        {"sparse": lambda: model.run(model.sparse(kept)), "dense": lambda: model.run(model.dense(fastest))}, budget=1.0
    )
    if failed:
        return row(
            "decode step", shape, max_rel_err=worst, missing=missing | wrong | failed, error="a step did not run"
        )
    moved = model.weight_bytes + size.layers * (line.sparse(batch, context, kept) + line.gate(batch, context))
    seconds, predicted = found["sparse"], moved / bench.copy
    made = row(
        "decode step", shape, max_rel_err=worst, ms=seconds * 1e3, bytes_s=moved / seconds, floor_ratio=seconds / predicted,
        baseline=f"the same step, {fastest}", baseline_ratio=found["dense"] / seconds, dense_ms=found["dense"] * 1e3, tokens_s=batch / seconds,
        missing=missing | wrong, bars={"of the predicted speed": {"found": predicted / seconds, "least": 0.75}},
    )  # fmt: skip
    return judged(made, finite and worst <= 1e-3)


def step_error(size: Size) -> float:
    """A small step in float32 that reads every block, beside the same step with dense attention."""
    small = dataclasses.replace(
        size, layers=min(2, size.layers), step_context=min(1024, size.step_context), vocabulary=min(1000, size.vocabulary),
        dtype=torch.float32,
    )  # fmt: skip
    model = Model(small, 2)
    blocks = -(-small.step_context // small.block)
    found = model.run(model.sparse(blocks))
    return relative_error(found, model.run(model.dense("SDPA enable_gqa")).double())


# ---------------------------------------------------------------- the training target


def truth(bench: Bench) -> Record:
    """Targets of one sequence, all rows, beside a flash forward; memory beside the published code's buffer."""
    size = bench.size
    tokens, heads, stored, block = size.truth_tokens, size.truth_heads, size.kv_heads, size.block
    scale = size.dim**-0.5
    few = size.truth_check
    q, k = (torch.randn(1, n, few, size.dim, **size.how) for n in (heads, stored))
    rows = torch.arange(few, device=size.device)
    lengths = torch.full((1,), few, dtype=torch.int32, device=size.device)
    given: Record = {"q": q, "k": k, "lengths": lengths, "block": block, "first_row": 0, "scale": scale}
    small = torch.cat([gt for _, gt in kernels.targets(q[0], k[0], block, rows, scale, 1 << 20)], 1)
    worst = relative_error(small, truth_oracle(given)[0][0])
    del q, k, given, small
    q, k, v = (torch.randn(1, n, tokens, size.dim, **size.how) for n in (heads, stored, stored))
    rows = torch.arange(tokens, device=size.device)
    chunk = min(64 << 20, max(1, 4 * stored * tokens * -(-tokens // block) // 4))

    def ours() -> int:
        """Bytes of the largest chunk."""
        return max(gt.nbytes for _, gt in kernels.targets(q[0], k[0], block, rows, scale, chunk))

    def flash() -> Tensor:
        with backend("FLASH_ATTENTION" if size.device == "cuda" else "MATH"):
            return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)

    held = ours()
    if size.device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        ours()
        held = torch.cuda.max_memory_allocated() - before
    # By the clock of the host's queue, not from a graph: the launches of a few chunks are short beside the work.
    found = {"ours": bench.timer(ours), "flash": bench.timer(flash)}
    theirs = 2 * heads * tokens * -(-tokens // block)
    ratio = found["ours"] / found["flash"]
    flops = 2 * size.dim * heads * tokens * (tokens + 1) / 2
    made = row(
        "ground truth", f"{thousands(tokens)}, {heads}/{stored} heads, all rows", max_rel_err=worst, ms=found["ours"] * 1e3, flop_s=flops / found["ours"],
        baseline="SDPA flash forward", baseline_ratio=1 / ratio, buffer_bytes=held, reference_buffer_bytes=theirs,
        bars={
            "times a flash forward": {"found": ratio, "most": 1.5},
            "buffer in parts of the reference's": {"found": held / theirs, "most": stored / heads},
        },
    )  # fmt: skip
    return judged(made, worst <= 2**-8)


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

    yield in_time("ground truth", thousands(chosen.truth_tokens), 3, truth)
    yield in_time("decode step", thousands(chosen.step_context), 6, whole_step)
    bench.tidy()
    grid = itertools.product(chosen.batches, chosen.contexts, chosen.sparsities)
    for how in grid:
        yield in_time("grid", "{} x {}, sparsity {}".format(*how), 2, cell, *how)
    for how in chosen.peers:
        yield in_time("sparse peer", "{} x {}, sparsity {}".format(*how), 12, peer, *how)
    bench.tidy()
