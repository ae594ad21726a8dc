"""One decoding step of attention on a CPU, SmolLM2's shape, from the codes and on the dequantised cache.

Prints an object a line (make bench-antkv). ours: `antkv.lut` on packed codes with 1 % anchors. peer: torch's
scaled_dot_product_attention on the dequantised keys and values in float32, which are there already (what dequantising them
costs is not charged to it). floor: reading the codes alone. Layers are taken in turn, as in a model, so that no
layer's cache is still in the processor's from the step before.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COMMAND = "make bench-antkv"
LAYERS, HEADS, GROUPS, DIM = 30, 3, 3, 64


def layer_of(bits: str, rope: Any, tokens: int, seed: int) -> Any:
    """A layer of random codes for `tokens` tokens."""
    from antkv.cache import AntLayer, Settings
    from antkv.codebook import NAMED
    from tenfold_kernels.packing import pack

    shape, draw = NAMED[bits], torch.Generator().manual_seed(seed)
    parts = DIM // shape.dim
    book = torch.randn(2, HEADS, parts, shape.centroids, shape.dim, generator=draw)
    layer = AntLayer(0, (book[0], book[1]), rope, Settings())
    first = torch.randn(1, HEADS, 1, DIM, generator=draw)
    layer.lazy_initialization(first, first)
    block = layer.settings.block
    layer.closed = layer.length = tokens
    for name in ("codes_k", "codes_v"):
        where = torch.randint(shape.centroids, (1, HEADS, tokens // block, parts, block), generator=draw)
        setattr(layer, name, pack(where, shape.bits))
    count = tokens // 100
    layer.at_k = layer.at_v = (
        torch.randperm(tokens, generator=draw)[:count].sort().values.int().expand(1, HEADS, -1).contiguous()
    )
    layer.anchors_k, layer.anchors_v = (torch.randn(1, HEADS, count, DIM, generator=draw).half() for _ in range(2))
    return layer


def seconds(work: Callable[[int], Any], rounds: int) -> float:
    """Median over rounds of the mean time of one layer."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        for at in range(LAYERS):
            work(at)
        found.append((time.perf_counter() - started) / LAYERS)
    return sorted(found)[len(found) // 2]


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def main() -> None:
    from antkv import lut
    from antkv.rope import Rope
    from tenfold_shared.models import load_causal_lm

    model, _ = load_causal_lm("smollm2", dtype="float32", device="cpu")
    query = torch.randn(1, HEADS * GROUPS, 1, DIM)
    new = torch.randn(1, HEADS, 1, DIM)
    for tokens in (2048, 8192):
        for bits, side in (("1", "post"), ("1", "pre"), ("0.375", "post"), ("0.375", "pre")):
            rope = Rope(model) if side == "pre" else None
            layers = [layer_of(bits, rope, tokens, seed) for seed in range(LAYERS)]
            dense: list[tuple[Tensor, Tensor]] = []
            for layer in layers:
                keys, values = layer.dequantised(torch.float32)
                dense.append((torch.cat([keys, new], 2), torch.cat([values, new], 2)))

            def from_codes(at: int, layers: list[Any] = layers) -> Tensor:
                return lut.step(layers[at], query, new, new, 0.125)[0]

            def on_dense(at: int, dense: list[tuple[Tensor, Tensor]] = dense) -> Tensor:
                return torch.nn.functional.scaled_dot_product_attention(query, *dense[at], scale=0.125, enable_gqa=True)

            def reading(at: int, layers: list[Any] = layers) -> Any:
                return layers[at].codes_k.numpy().max(), layers[at].codes_v.numpy().max()

            assert torch.allclose(from_codes(0), on_dense(0), atol=1e-3)
            seconds(from_codes, 1)
            mine, theirs, floor = (seconds(work, 7) for work in (from_codes, on_dense, reading))
            print(
                json.dumps(
                    {
                        "tool": "antkv", "case": f"decode attention a layer, {bits} bits, keys {side}-RoPE, {tokens} tokens",
                        "ours": round(1e3 * mine, 4), "peer": round(1e3 * theirs, 4), "peer_name": "torch SDPA on the dequantised cache",
                        "unit": "ms", "ratio": round(theirs / mine, 3), "floor": round(1e3 * floor, 4),
                        "floor_ratio": round(mine / floor, 2), "n": tokens, "machine": machine(), "command": COMMAND,
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
