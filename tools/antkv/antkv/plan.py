"""`antkv plan`: what fits on a card, and where its memory goes. Needs the model's config alone.

Two limits are told apart: whether the cache fits, and whether a prefill's activations fit beside it, whole or in chunks.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from antkv.codebook import NAMED, Model, Shape
from antkv.layers import full_layers
from tenfold_shared import BadInput

Record = dict[str, Any]


def weight_bytes(config: Any, dtype_bytes: int = 2) -> int:
    """Bytes of the weights, counted on a model without storage."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return dtype_bytes * sum(p.numel() for p in model.parameters())


def token_bytes(
    model: Model, layers: int, shape: Shape | None, anchors: float, dtype_bytes: int = 2
) -> dict[str, float]:
    """Bytes of one cached token, all full layers: index and anchors; shape None is a cache of 16 bits."""
    numbers = 2 * layers * model.kv_heads * model.head_dim
    if shape is None:
        return {"index": numbers * dtype_bytes, "anchors": 0.0}
    one = layers * model.kv_heads * (2 * model.head_dim * dtype_bytes + 4)
    return {"index": numbers * shape.rate / 8, "anchors": anchors * one}


def codebook_bytes(model: Model, layers: int, shape: Shape, scope: str) -> int:
    """16-bit centroids of all books."""
    heads = model.kv_heads if scope == "head" else 1
    return 2 * layers * heads * (model.head_dim // shape.dim) * shape.centroids * shape.dim * 2


def activation_bytes(config: Any, tokens: int) -> int:
    """Bytes at the peak of a forward pass of so many tokens at once, flash attention, logits of the last token only.

    Residual stream, normed input, the larger of q, k, v, o and of the MLP's gate, up and product, 16 bits each; and the
    chunk's exact keys and values of the layer at hand.
    """
    hidden = config.hidden_size
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or hidden // heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    attention = 2 * heads * dim + 2 * kv * dim
    return 2 * tokens * (2 * hidden + max(attention, 3 * mlp_width(config))) + 4 * config.vocab_size


def mlp_width(config: Any) -> int:
    """Under any of its names; GPT-2 leaves it out where it is four times the hidden size."""
    named = (getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return next((width for width in named if isinstance(width, int)), 4 * config.hidden_size)


def decoding_bytes(model: Model, shape: Shape | None, tokens: int) -> tuple[int, float]:
    """Bytes of a chunk's attention beside its activations, and bytes a cached token: one layer's closed tokens are decoded so
    many at a time, in float32 while they are turned (some 24 bytes a number), and its codes are copied once when blocks join
    them."""
    from antkv.cache import STRETCH

    if shape is None:
        return 0, 0.0
    numbers = model.kv_heads * model.head_dim
    return 24 * numbers * min(tokens, STRETCH), 2 * numbers * shape.rate / 8


def plan(
    config: Any,
    memory: int,
    context: int,
    batch: int,
    anchors: float,
    window: int,
    chunk: int,
    scope: str,
    reserve: float,
) -> list[Record]:
    """A row a rate, 16 bits first. max_context: of one sequence; max_batch: sequences of `context` tokens."""
    text = config.get_text_config()
    model, layers = Model.of(config), len(full_layers(config))
    if not layers:
        raise BadInput("plan: no layer of the model attends to its whole context; there is nothing to quantise")
    missing = [name for name in ("hidden_size", "vocab_size") if not isinstance(getattr(text, name, None), int)]
    if missing:
        raise BadInput(f"plan: the config has no {', '.join(missing)}: its activations cannot be counted")
    weights = weight_bytes(config)
    free = memory * (1 - reserve)
    rows = []
    for name, shape in [("16", None), *NAMED.items()]:
        if shape is not None and model.head_dim % shape.dim:
            continue
        each = token_bytes(model, layers, shape, anchors)
        a_token = each["index"] + each["anchors"]
        books = codebook_bytes(model, layers, shape, scope) if shape else 0
        exact = min(window, context) if shape else 0  # tokens in the window, which are no codes
        windows = 2 * layers * model.kv_heads * (2 * model.head_dim + 4) * exact
        decoding, copied = decoding_bytes(model, shape, context)
        other = (
            (text.num_hidden_layers - layers)
            * 2
            * model.kv_heads
            * model.head_dim
            * 2
            * (getattr(text, "sliding_window", None) or 0)
        )
        held = weights + books + decoding + activation_bytes(text, min(chunk, context))
        fixed = windows + other  # of each sequence
        whole = activation_bytes(text, context) + weights + books  # nothing is cached before it
        closed = context - exact
        cache = batch * (closed * a_token + fixed) + copied * closed
        most = weights + books + decoding_bytes(model, shape, memory)[0] + activation_bytes(text, chunk)
        longest = max(0, math.floor((free - most - fixed) / (a_token + copied)) + exact)
        rows.append(
            {
                "bits": float(name),
                "effective_bits": 8 * (a_token * closed + windows)
                / (2 * layers * model.kv_heads * model.head_dim * context),
                "max_context": longest,
                "max_batch": max(0, math.floor((free - held - copied * closed) / (closed * a_token + fixed))),
                "cache_fits": weights + books + cache <= free,
                "prefill_fits": {"whole": whole + cache <= free, "in_chunks": held + cache <= free, "chunk": chunk},
                "bytes": {
                    "weights": weights,
                    "index": round(batch * closed * each["index"]),
                    "anchors": round(batch * closed * each["anchors"]),
                    "window": batch * fixed,
                    "codebooks": books,
                    "activations": activation_bytes(text, min(chunk, context)) + decoding,
                    "activations_whole": activation_bytes(text, context),
                },
                "dim": shape.dim if shape else None,
                "centroids": shape.centroids if shape else None,
            }
        )  # fmt: skip
    return rows


def run(
    *,
    uri: str,
    gpu_mem: float,
    context: int | None,
    batch: int,
    anchors: float,
    window: int,
    chunk: int,
    scope: str,
    reserve: float,
    as_json: bool,
) -> int:
    """The verb."""
    from antkv.inspect import config_of

    config = config_of(uri)
    text = config.get_text_config()
    length = context or getattr(text, "max_position_embeddings", 0) or 8192
    memory = int(gpu_mem)
    rows = plan(config, memory, length, batch, anchors, window, chunk, scope, reserve)
    if as_json:
        print(json.dumps(rows))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(
        "bits", "effective", "longest context", f"sequences of {length:,}", "cache fits", "prefill: whole", "in chunks",
        title=f"{memory / 1e9:g} GB, weights {rows[0]['bytes']['weights'] / 1e9:.2f} GB, batch {batch} of {length:,} tokens",
    )  # fmt: skip
    for row in rows:
        fits = row["prefill_fits"]
        table.add_row(
            f"{row['bits']:g}", f"{row['effective_bits']:.3f}", f"{row['max_context']:,}", f"{row['max_batch']:,}",
            *("yes" if ok else "no" for ok in (row["cache_fits"], fits["whole"], fits["in_chunks"])),
        )  # fmt: skip
    print_table(table)
    longest = getattr(text, "max_position_embeddings", None)
    if longest and length > longest:
        print(f"antkv: the model itself has {longest:,} positions", file=sys.stderr)
    return 0
