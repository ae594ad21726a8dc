"""`antkv bench`: one decoding step of attention on this CPU, from the codes and on the dequantised cache.

ours: `antkv.lut` on packed codes with 1 % anchors. peer: torch's scaled_dot_product_attention on the dequantised keys and
values in float32, which are there already (what dequantising them costs is not charged to it). floor: reading the codes
alone. Layers are taken in turn, as in a model, so that no layer's cache is still in the processor's from the step before.
The GPU's kernels are measured by `make gpu-check`.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from antkv import needs
from tenfold_shared import BadInput, Missing

COMMAND = "make bench-antkv"
Record = dict[str, Any]


class Shape(NamedTuple):
    """Stored heads, query heads of each, channels."""

    heads: int
    groups: int
    dim: int


def layer_of(bits: str, rope: Any, tokens: int, seed: int, of: Shape) -> Any:
    """A layer of random codes for `tokens` tokens."""
    from antkv.cache import AntLayer, Settings
    from antkv.codebook import NAMED
    from tenfold_kernels.packing import pack

    shape, draw = NAMED[bits], torch.Generator().manual_seed(seed)
    parts = of.dim // shape.dim
    book = torch.randn(2, of.heads, parts, shape.centroids, shape.dim, generator=draw)
    layer = AntLayer(0, (book[0], book[1]), rope, Settings())
    first = torch.randn(1, of.heads, 1, of.dim, generator=draw)
    layer.lazy_initialization(first, first)
    block = layer.settings.block
    layer.closed = layer.length = tokens
    for name in ("codes_k", "codes_v"):
        where = torch.randint(shape.centroids, (1, of.heads, tokens // block, parts, block), generator=draw)
        setattr(layer, name, pack(where, shape.bits))
    count = tokens // 100
    layer.at_k = layer.at_v = (
        torch.randperm(tokens, generator=draw)[:count].sort().values.int().expand(1, of.heads, -1).contiguous()
    )
    layer.anchors_k, layer.anchors_v = (
        torch.randn(1, of.heads, count, of.dim, generator=draw).half() for _ in range(2)
    )
    return layer


def seconds(work: Callable[[int], Any], rounds: int, layers: int) -> float:
    """Median over rounds of the mean time of one layer."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        for at in range(layers):
            work(at)
        found.append((time.perf_counter() - started) / layers)
    return sorted(found)[len(found) // 2]


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def needed(of: Any, bits: str, tokens: int) -> int:
    """Bytes at the peak: every layer's codes and its dequantised keys and values with a new token, float32; and, while one
    is made, its indices of 8 bytes and the copies that decoding makes of it."""
    from antkv.codebook import NAMED

    shape, numbers = NAMED[bits], of.kv_heads * of.head_dim * tokens  # keys or values of a layer
    held = of.layers * 2 * numbers * (shape.rate / 8 + 4)
    return int(held + numbers * (8 / shape.dim + 24))


def check_room(of: Any, bits: str, tokens: int) -> None:
    """Raises Missing where the machine has not the memory."""
    wanted, free = needed(of, bits, tokens), available()
    if wanted > free:
        raise Missing(
            f"--context {tokens}: needs {wanted} bytes of memory ({wanted / 2**30:.1f} GiB), {free / 2**30:.1f} GiB are free"
        )


def available() -> int:
    """Bytes of memory that programs can have, as Linux tells them."""
    with open("/proc/meminfo", encoding="ascii") as told:
        return next(1024 * int(line.split()[1]) for line in told if line.startswith("MemAvailable"))


def rows(model: Any, tokens: int, bits: str, rope: str, rounds: int) -> Record:
    """One case: milliseconds a layer, of a model's shape."""
    from antkv import lut
    from antkv.codebook import NAMED, Model
    from antkv.layers import check_layers
    from antkv.rope import Rope

    config = model.config.get_text_config()
    of = Model.of(model.config)
    check_layers(model)
    if of.head_dim % NAMED[bits].dim:
        raise BadInput(
            f"--bits {bits}: its sub-vectors of {NAMED[bits].dim} do not divide the model's head_dim {of.head_dim}"
        )
    check_room(of, bits, tokens)
    shape = Shape(of.kv_heads, config.num_attention_heads // of.kv_heads, of.head_dim)
    turned = Rope(model) if rope == "pre" else None
    layers = [layer_of(bits, turned, tokens, seed, shape) for seed in range(of.layers)]
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, shape.heads * shape.groups, 1, shape.dim, generator=draw)
    new = torch.randn(1, shape.heads, 1, shape.dim, generator=draw)
    scale = shape.dim**-0.5
    dense: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        keys, values = layer.dequantised(torch.float32)
        dense.append((torch.cat([keys, new], 2), torch.cat([values, new], 2)))

    def from_codes(at: int) -> Tensor:
        return lut.step(layers[at], query, new, new, scale)[0]

    def on_dense(at: int) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, *dense[at], scale=scale, enable_gqa=True)

    def reading(at: int) -> Any:
        return layers[at].codes_k.numpy().max(), layers[at].codes_v.numpy().max()

    apart = float((from_codes(0) - on_dense(0)).abs().max())
    if not apart < 1e-3:
        raise AssertionError(f"decoding from the codes is {apart} away from attention on the dequantised cache")
    mine, theirs, floor = (seconds(work, rounds, len(layers)) for work in (from_codes, on_dense, reading))
    return {
        "tool": "antkv",
        "case": f"decode attention a layer, {bits} bits, keys {rope}-RoPE, {tokens} tokens",
        "ours": round(1e3 * mine, 4),
        "peer": round(1e3 * theirs, 4),
        "peer_name": "torch SDPA on the dequantised cache",
        "unit": "ms",
        "ratio": round(theirs / mine, 3),
        "floor": round(1e3 * floor, 4),
        "floor_ratio": round(mine / floor, 2),
        "n": tokens,
        "machine": machine(),
        "command": COMMAND,
    }


def run(*, uri: str, trust_remote_code: bool, tokens: int, bits: str, rope: str, rounds: int, as_json: bool) -> int:
    """The verb."""
    from antkv.codebook import Model
    from tenfold_shared.generate.transformers import out_of_memory
    from tenfold_shared.models import load_causal_lm

    needs.numba()
    if tokens % 64:
        raise BadInput(f"--context {tokens}: expected a multiple of 64, whole blocks")
    model, _ = load_causal_lm(uri, dtype="float32", device="cpu", trust_remote_code=trust_remote_code)
    try:
        row = rows(model, tokens, bits, rope, rounds)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        wanted = needed(Model.of(model.config), bits, tokens)
        raise Missing(f"--context {tokens}: needs {wanted} bytes of memory, which are not to be had") from None
    if as_json:
        print(json.dumps(row, allow_nan=False))
    else:
        print(f"{row['case']}: {row['ours']:.3f} ms, {row['peer_name']} {row['peer']:.3f} ms: {row['ratio']:.2f} ×")
    return 0
