"""`seer-decode plan`: what a decoding step must read, and so the least time it can take (arXiv 2506.08889, Figure 6 and 6.1).

Decoding is bound by memory: a step's floor is its bytes over the card's bandwidth. Cached keys and values take 2 Hkv D e bytes
a token and layer, a gate reads NB compressed keys and its query projection, weights are read once a step whatever the batch.
Nothing here is measured: it is what a measurement is compared with.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from seer_decode.shape import Shape, config_of, count, gated_layers, text_of
from tenfold_shared import BadInput

Record = dict[str, Any]


class Roofline(msgspec.Struct, frozen=True):
    """One layer's attention: q heads on kv_heads stored ones of head_dim, gates of gate_dim on blocks of `block` tokens,
    numbers of `width` bytes, a memory of `bandwidth` bytes a second."""

    heads: int
    kv_heads: int
    head_dim: int
    gate_dim: int
    block: int = 64
    width: int = 2
    bandwidth: float = 4.3e12

    @classmethod
    def of(cls, shape: Shape, width: int = 2, bandwidth: float = 4.3e12) -> Roofline:
        return cls(shape.heads, shape.kv_heads, shape.head_dim, shape.gate_dim, shape.block, width, bandwidth)

    @property
    def token_bytes(self) -> int:
        """Of one cached token's keys and values: 2 Hkv D e."""
        return 2 * self.kv_heads * self.head_dim * self.width

    @property
    def weight_bytes(self) -> int:
        """Of Wq, which a step reads; Wk only where a block fills."""
        return self.heads * self.head_dim * self.gate_dim * self.width

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block)

    def kept(self, tokens: int, sparsity: float | None = None, budget: int | None = None) -> int:
        """Blocks read of a cache of so many tokens: k = ceil(S (1 − s) / B), or T // B of a budget, no more than there are."""
        if (sparsity is None) == (budget is None):
            raise ValueError("expected a sparsity or a budget")
        if budget is not None:
            return min(budget // self.block, self.blocks(tokens))
        assert sparsity is not None
        return min(max(1, math.ceil(tokens * (1 - sparsity) / self.block - 1e-9)), self.blocks(tokens))

    def dense_bytes(self, batch: int, tokens: int) -> int:
        return batch * tokens * self.token_bytes

    def sparse_bytes(self, batch: int, tokens: int, kept: int) -> int:
        return batch * min(kept * self.block, tokens) * self.token_bytes

    def gate_bytes(self, batch: int, tokens: int) -> int:
        """B NB Hkv dg e of compressed keys, and Wq. Of 16 bits as the paper counts them; our cache holds keys' features in 32."""
        return batch * self.blocks(tokens) * self.kv_heads * self.gate_dim * self.width + self.weight_bytes

    def row(
        self,
        batch: int,
        tokens: int,
        sparsity: float | None = None,
        budget: int | None = None,
        overhead: float = 5e-6,
    ) -> Record:
        """Floors in µs and what no kernel can beat: byte_cap by bytes of keys and values alone, gate_cap with what the gate
        reads, fixed_cap with `overhead` seconds on both sides in place of the gate."""
        kept = self.kept(tokens, sparsity, budget)
        dense, sparse = self.dense_bytes(batch, tokens), self.sparse_bytes(batch, tokens, kept)
        gate = self.gate_bytes(batch, tokens)
        fixed = overhead * self.bandwidth
        return {
            "batch": batch,
            "context": tokens,
            "blocks": kept,
            "dense_us": 1e6 * dense / self.bandwidth,
            "sparse_us": 1e6 * sparse / self.bandwidth,
            "gate_us": 1e6 * gate / self.bandwidth,
            "byte_cap": dense / sparse,
            "gate_cap": dense / (sparse + gate),
            "fixed_cap": (dense + fixed) / (sparse + fixed),
        }


class Weights(msgspec.Struct, frozen=True):
    """Numbers of a model: `all` of them are held, `step` of them read by a decoding step, which looks up the embedding's rows
    but reads the output projection whole, tied or not."""

    all: int
    step: int

    @classmethod
    def of(cls, config: Any) -> Weights:
        """Counted on a model without storage. Experts are counted whole: a large batch reads them all."""
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except Exception as error:  # a config's own checks
            raise BadInput(f"{text_of(config).model_type}: no model of this config: {error}") from None
        total = sum(p.numel() for p in model.parameters())
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        tied = head is not None and table is not None and head.weight is table.weight
        return cls(total, total if tied or table is None else total - table.weight.numel())


def other_bytes(config: Any, gated: Sequence[int], line: Roofline, tokens: int) -> int:
    """Bytes of one sequence's cache in the layers without a gate: sliding ones hold their window, linear ones are left out."""
    text = text_of(config)
    _, dense = gated_layers(config)
    window = getattr(text, "sliding_window", None) or tokens
    slides = sum(kind in ("sliding_attention", "chunked_attention") for kind in dense.values())
    return slides * min(window, tokens) * line.token_bytes


def step(
    config: Any,
    shape: Shape,
    batch: int,
    tokens: int,
    *,
    sparsity: float | None = None,
    budget: int | None = None,
    dense_layers: int = 0,
    width: int = 2,
    bandwidth: float = 4.3e12,
    overhead: float = 5e-6,
    memory: float | None = None,
    weights: Weights | None = None,
) -> Record:
    """A whole decoding step of a model: `batch` sequences of `tokens` cached ones.

    dense_layers: the first n layers stay dense; width: bytes of a number; overhead: seconds a layer takes besides, on both
    sides. Returns the layer's `Roofline.row` with the step's bytes, floors in ms and tokens a second, and the memory held.
    """
    line = Roofline.of(shape, width, bandwidth)
    weights = weights or Weights.of(config)
    sparse_layers = [layer for layer in shape.gated if layer >= dense_layers]
    row = line.row(batch, tokens, sparsity, budget, overhead)
    layer_dense = line.dense_bytes(batch, tokens)
    layer_sparse = line.sparse_bytes(batch, tokens, row["blocks"]) + line.gate_bytes(batch, tokens)
    if row["blocks"] == line.blocks(tokens):  # everything is read, and no gate is asked
        layer_sparse = layer_dense
    other = batch * other_bytes(config, shape.gated, line, tokens)
    gated, layers = len(shape.gated), count(text_of(config), "num_hidden_layers")
    dense = weights.step * width + gated * layer_dense + other
    sparse = dense + len(sparse_layers) * (layer_sparse - layer_dense)
    fixed = layers * overhead
    dense_s, sparse_s = dense / bandwidth + fixed, sparse / bandwidth + fixed
    compressed = batch * gated * line.blocks(tokens) * shape.kv_heads * shape.gate_dim * width
    held = {
        "weights": weights.all * width,
        "cache": gated * layer_dense + other,
        "compressed_keys": compressed,
        "gates": shape.parameters * width,
    }
    found = row | {
        "step_bytes": {"weights": weights.step * width, "dense": dense, "sparse": sparse},
        "step_dense_ms": 1e3 * dense_s,
        "step_sparse_ms": 1e3 * sparse_s,
        "step_speedup": dense_s / sparse_s,
        "tokens_per_s": batch / sparse_s,
        "memory": held,
    }
    if memory is not None:
        found["fits"] = sum(held.values()) <= memory
    return found


def run(
    *,
    uri: str,
    contexts: Sequence[int],
    batches: Sequence[int],
    budget: int | None,
    sparsity: float | None,
    block: int,
    gate_dim: int | None,
    dense_layers: int,
    bandwidth: float,
    overhead: float,
    width: int,
    gpu_mem: float | None,
    as_json: bool,
) -> int:
    """The verb."""
    config = config_of(uri)
    shape = Shape.of(config, gate_dim=gate_dim, block=block)
    if budget is None and sparsity is None:
        budget = 4096
    if budget is not None and budget < block:
        raise BadInput(f"--budget {budget}: expected a block of {block} tokens or more")
    if budget is not None and budget % block:
        print(f"seer-decode: --budget {budget}: rounded down to {budget // block * block} tokens", file=sys.stderr)
    weights = Weights.of(config)
    rows = [
        step(
            config, shape, batch, tokens, sparsity=sparsity, budget=budget, dense_layers=dense_layers, width=width,
            bandwidth=bandwidth, overhead=overhead / 1e6,
            memory=gpu_mem, weights=weights,
        )
        for batch in batches
        for tokens in contexts
    ]  # fmt: skip
    longest = getattr(text_of(config), "max_position_embeddings", None)
    if longest and max(contexts) > longest:
        print(f"seer-decode: the model itself has {longest:,} positions", file=sys.stderr)
    if as_json:
        print(json.dumps({"model": uri, "shape": msgspec.to_builtins(shape), "rows": rows}))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    how = f"budget {budget:,}" if budget is not None else f"sparsity {sparsity:g}"
    table = Table(
        "batch", "context", "blocks", "dense µs", "sparse µs", "gate µs", "cap", "with gate", "step dense ms", "sparse ms",
        "speed-up", "tokens/s", *(["fits"] if gpu_mem else []),
        title=f"floors by bytes at {bandwidth}B/s, {how}, blocks of {block}, {overhead:g} µs a layer besides",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row['batch']}", f"{row['context']:,}", f"{row['blocks']}", f"{row['dense_us']:.1f}", f"{row['sparse_us']:.1f}",
            f"{row['gate_us']:.1f}", f"{row['byte_cap']:.2f}", f"{row['gate_cap']:.2f}", f"{row['step_dense_ms']:.3f}",
            f"{row['step_sparse_ms']:.3f}", f"{row['step_speedup']:.2f}", f"{row['tokens_per_s']:,.0f}",
            *(["yes" if row["fits"] else "no"] if gpu_mem else []),
        )  # fmt: skip
    print_table(table)
    return 0
