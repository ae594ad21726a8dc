"""`seer-decode bench`: one attention layer, and one whole decoding step of a model, sparse beside dense, on this machine.

kernel: from queries after RoPE to the attention's output, through `cache.SeerLayer` as a model goes; peers are forms of dense
attention over the same tensors. Layers are taken in turn, as in a model, so that no layer's cache is still in the processor's
from the step before. step: a forward and its likeliest token, transformers' own (DynamicCache, sdpa) beside ours. Keys, values
and gates are random: what is read, and so the time, does not depend on them. Every case is held to its definition first.

Times are medians over rounds in which all forms take turns. floor: what must be read, over the bandwidth of a copy.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from seer_decode import attend, fast, needs
from seer_decode.cache import SeerCache, SeerLayer, attached
from seer_decode.gate import Gates
from seer_decode.select import Policy, Selection
from seer_decode.shape import Shape
from tenfold_shared import BadInput

Record = dict[str, Any]
COPIED = 256 << 20  # bytes, many times a processor's cache
TURNED = 512 << 20  # bytes of keys and values that a round goes through at least, where it has 30 layers or fewer
OWN = "our dense step"
CLOSE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of the largest output


class Layer(msgspec.Struct, frozen=True):
    """`bench kernel`: one layer's attention. keep: share of blocks that is read."""

    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    context: int = 32768
    batch: int = 1
    block: int = 64
    keep: float = 0.1
    dtype: str = "bfloat16"
    rounds: int = 7

    @property
    def blocks(self) -> int:
        """Of a sequence."""
        return -(-self.context // self.block)

    @property
    def read(self) -> int:
        """Blocks of a list."""
        return max(1, math.ceil(self.keep * self.blocks - 1e-9))

    @property
    def bytes_held(self) -> int:
        """Keys and values of a layer."""
        return 2 * self.batch * self.kv_heads * self.context * self.head_dim * _type(self.dtype).itemsize

    @property
    def layers(self) -> int:
        return min(30, max(2, -(-TURNED // self.bytes_held)))

    def checked(self) -> Layer:
        """Itself. Raises BadInput for heads that are none."""
        if self.heads % self.kv_heads:
            raise BadInput(f"--heads {self.heads}: expected a multiple of --kv-heads {self.kv_heads}")
        if self.head_dim % 2:
            raise BadInput(f"--head-dim {self.head_dim}: RoPE pairs channels; expected an even number")
        return self

    def __str__(self) -> str:
        return (
            f"attention of a layer, {self.heads}/{self.kv_heads} heads of {self.head_dim}, {self.context} tokens, batch "
            f"{self.batch}, {self.read} of {self.blocks} blocks of {self.block}, {self.dtype}"
        )


class Step(msgspec.Struct, frozen=True):
    """`bench step`: a step of a model."""

    uri: str = "smollm2"
    context: int = 8192
    budget: int = 819
    block: int = 64
    dtype: str = "bfloat16"
    trust_remote_code: bool = False
    rounds: int = 15


def _type(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _place(name: str) -> torch.device:
    """Raises BadInput for a device that is not there."""
    cuda = torch.cuda.is_available()
    try:
        found = torch.device(("cuda" if cuda else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise BadInput(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and not cuda):
        raise BadInput(f"--device {name}: not here")
    return found


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads" + (
        ", numba" if fast.available() else ""
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def medians(works: dict[str, Callable[[int], Any]], rounds: int, layers: int, device: torch.device) -> dict[str, float]:
    """Seconds of a layer by name: all take turns, in the other order every other round; the first round does not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name in list(works) if turn % 2 else list(works)[::-1]:
            _wait(device)
            started = time.perf_counter()
            for at in range(layers):
                works[name](at)
            _wait(device)
            if turn:
                found[name].append((time.perf_counter() - started) / layers)
    return {name: statistics.median(times) for name, times in found.items()}


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * COPIED / medians({"copy": lambda at: target.copy_(source)}, 5, 1, device)["copy"]


def row(
    case: str, ours: float, peer: float, peer_name: str, floor: float, n: int, device: torch.device, command: str
) -> Record:
    """A row of the results; times in seconds."""
    return {
        "tool": "seer-decode",
        "case": case,
        "ours": round(1e3 * ours, 4),
        "peer": round(1e3 * peer, 4),
        "peer_name": peer_name,
        "unit": "ms",
        "ratio": round(peer / ours, 3),
        "floor": round(1e3 * floor, 4),
        "floor_ratio": round(ours / floor, 2),
        "n": n,
        "machine": machine(device),
        "command": command,
    }


# ---------------------------------------------------------------- one layer


def layers_of(of: Layer, device: torch.device) -> list[SeerLayer]:
    """Layers of random keys and values, gates in the same type, as a cache of a model of this shape has them."""
    import transformers

    numbers = of.bytes_held // _type(of.dtype).itemsize
    needs.room(of.layers * of.bytes_held + 4 * numbers, device, "bench kernel", "use a smaller --context or --batch")
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=2 * of.heads, intermediate_size=8, num_hidden_layers=of.layers, head_dim=of.head_dim,
        num_attention_heads=of.heads, num_key_value_heads=of.kv_heads, max_position_embeddings=of.context + 1,
    )  # fmt: skip
    gates = Gates.of(config, block=of.block).to(device, _type(of.dtype))
    policy = Policy("budget", of.read * of.block, of.block)
    cache = SeerCache(transformers.AutoModelForCausalLM.from_config(config).to(device), policy, "seer", gates)
    draw = torch.Generator(device).manual_seed(0)
    shape = of.batch, of.kv_heads, of.context, of.head_dim
    for layer in cache.sparse:
        layer.take(*(torch.randn(shape, generator=draw, device=device).to(_type(of.dtype)) for _ in range(2)))
    return cache.sparse


def check(layer: SeerLayer, query: Tensor, scale: float) -> Selection | None:
    """What a step reads. Raises AssertionError where its output is not dense attention with all other blocks hidden."""
    chosen, block = layer.choose(query, scale), layer.block
    found = layer.over(query, chosen, scale).double()
    grouped = query.unflatten(1, (layer.keys.shape[1], -1)).double()
    wanted = torch.zeros_like(grouped)
    for b, length in enumerate(layer.lengths.tolist()):
        for h in range(layer.keys.shape[1]):
            keys, values = layer.keys[b, h, :length].double(), layer.values[b, h, :length].double()
            logits = grouped[b, h] @ keys.T * scale
            if chosen is not None:
                seen = chosen.mask(-(-length // block))[b, h].repeat_interleave(block)[:length]
                logits = logits.masked_fill(~seen, -torch.inf)
            wanted[b, h] = logits.softmax(-1) @ values
    apart, largest = float((found - wanted.flatten(1, 2)).abs().max()), float(wanted.abs().max())
    if not apart <= CLOSE[query.dtype] * largest:
        raise AssertionError(f"sparse attention is {apart} away from dense attention with the other blocks hidden")
    return chosen


def dense_forms(
    layers: list[SeerLayer], query: Tensor, context: int, scale: float
) -> dict[str, Callable[[int], Tensor]]:
    """Attention over everything by name, each of layer `at`."""
    held = [(layer.keys[:, :, :context].contiguous(), layer.values[:, :, :context].contiguous()) for layer in layers]
    batch, _, dim = query.shape
    grouped = query.unflatten(1, (held[0][0].shape[1], -1))  # (B, Hkv, g, D)

    def ours(at: int) -> Tensor:
        return attend.dense(query, *held[at], layers[at].lengths, scale)

    def products(at: int) -> Tensor:
        return attend.products(query, *held[at], layers[at].lengths, scale)

    def a_head_at_a_time(at: int) -> Tensor:
        parts = []
        for q, k, v in zip(grouped.flatten(0, 1), *(x.flatten(0, 1) for x in held[at]), strict=True):
            parts.append(((q @ k.T).float() * scale).softmax(-1).to(q.dtype) @ v)
        return torch.stack(parts).view(batch, -1, dim)

    def folded(at: int) -> Tensor:
        return scaled_dot_product_attention(grouped, *held[at], scale=scale)

    def stock(at: int) -> Tensor:
        return scaled_dot_product_attention(query[:, :, None], *held[at], scale=scale, enable_gqa=True)

    own: dict[str, Callable[[int], Tensor]] = (
        {OWN: ours} if fast.usable(query, *held[0]) else {}
    )  # elsewhere it is the next one
    return own | {
        "bmm, group folded": products,
        "mm a head, group folded": a_head_at_a_time,
        "SDPA, group folded": folded,
        "SDPA, enable_gqa": stock,
    }


@torch.no_grad()
def kernel(of: Layer, device: torch.device, command: str) -> tuple[list[Record], dict[str, float]]:
    """Rows with gate and selection, and for the attention alone, beside PyTorch's fastest dense form; the first beside our own
    dense step, where it is another; and every form's seconds."""
    layers = layers_of(of.checked(), device)
    draw = torch.Generator(device).manual_seed(1)
    query = torch.randn(of.batch, of.heads, of.head_dim, generator=draw, device=device).to(_type(of.dtype))
    scale = of.head_dim**-0.5
    chosen = [check(layer, query, scale) for layer in layers[:2]]
    chosen += [layer.choose(query, scale) for layer in layers[2:]]
    works: dict[str, Callable[[int], Any]] = {
        "ours": lambda at: layers[at].read(query, scale),
        "alone": lambda at: layers[at].over(query, chosen[at], scale),
    }
    peers = dense_forms(layers, query, of.context, scale)
    times = medians(works | peers, of.rounds, of.layers, device)
    best = min(peers.keys() - {OWN}, key=times.__getitem__)
    gate = layers[0].gate
    assert gate is not None and gate.query is not None
    read = of.bytes_held * of.read / of.blocks
    scored = gate.query.nbytes + 4 * of.batch * of.kv_heads * of.blocks * gate.shape.gate_dim
    speed = bandwidth(device)
    shared: Record = {"n": of.context, "device": device, "command": command}
    sparsely, floor = f"{of}: gate, selection and attention", (read + scored) / speed
    rows = [
        row(sparsely, times["ours"], times[best], best, floor, **shared),
        row(f"{of}: attention alone", times["alone"], times[best], best, read / speed, **shared),
    ]
    if OWN in peers:
        rows.append(row(sparsely, times["ours"], times[OWN], OWN, floor, **shared))
    return rows, times


# ---------------------------------------------------------------- a step of a model


def fill(caches: list[Any], config: Any, context: int, dtype: torch.dtype, device: torch.device) -> None:
    """The same random keys and values to all caches, in place of a prefill."""
    shape, draw = Shape.of(config), torch.Generator(device).manual_seed(0)
    for index in range(shape.layers):
        size = 1, shape.kv_heads, context, shape.head_dim
        new = [torch.randn(size, generator=draw, device=device).to(dtype) for _ in range(2)]
        for cache in caches:
            layer = cache.layers[index] if index < len(cache.layers) else None
            if isinstance(layer, SeerLayer):
                layer.take(*new)
            else:
                cache.update(*new, index)


@torch.no_grad()
def step(of: Step, device: torch.device, command: str) -> list[Record]:
    """Rows: sparse beside transformers, dense beside transformers, sparse beside dense."""
    from transformers import DynamicCache

    from tenfold_shared.models import load_causal_lm

    policy = Policy("budget", of.budget, of.block).checked()
    model, _ = load_causal_lm(of.uri, of.dtype, str(device), of.trust_remote_code)
    shape = Shape.of(model.config, block=of.block)
    held = 2 * shape.layers * shape.kv_heads * of.context * shape.head_dim * model.dtype.itemsize
    needs.room(4 * held, device, "bench step", "use a smaller --context")
    gates = Gates.of(model.config, shape=shape).to(device, model.dtype)
    model.set_attn_implementation("sdpa")
    caches: dict[str, Any] = {
        "stock": DynamicCache(config=model.config),
        "dense": SeerCache(model, Policy("dense", block=of.block), "dense"),
        "sparse": SeerCache(model, policy, "seer", gates),
    }
    fill(list(caches.values()), model.config, of.context, model.dtype, device)
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.get_text_config().vocab_size, (of.rounds + 1,), generator=draw).to(device)
    times: dict[str, list[float]] = {name: [] for name in caches}
    for turn in range(of.rounds + 1):
        logits = {}
        for name in list(caches) if turn % 2 else list(caches)[::-1]:
            with contextlib.nullcontext() if name == "stock" else attached(model):
                _wait(device)
                started = time.perf_counter()
                out = model(tokens[turn : turn + 1, None], past_key_values=caches[name]).logits[0, -1]
                out.argmax().item()
                _wait(device)
                times[name].append(time.perf_counter() - started)
            logits[name] = out.float()
        # The first counts for no time: memory grows, and libraries make themselves ready. Half floats' rounding over all layers
        # is told from nothing on random keys, and their attention is looked at by itself below.
        if not turn and model.dtype == torch.float32:
            apart, largest = float((logits["stock"] - logits["dense"]).abs().max()), float(logits["stock"].abs().max())
            if not apart <= 1e-3 * largest:
                raise AssertionError(f"our dense step's logits are {apart} (of {largest}) away from transformers'")
    query = torch.randn(1, shape.heads, shape.head_dim, generator=draw).to(device, model.dtype)
    for name in ("dense", "sparse"):
        check(caches[name].sparse[0], query, shape.head_dim**-0.5)
    stock, dense, ours = (statistics.median(times[name][1:]) for name in caches)
    speed = bandwidth(device)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    scored = sum(p.nbytes for p in gates.parameters()) + 4 * len(shape.gated) * shape.kv_heads * shape.gate_dim * of.context / of.block  # fmt: skip
    floors = [(weights + held) / speed, (weights + held * caches["sparse"].density() + scored) / speed]
    case = f"step of {of.uri}, {of.dtype}, {of.context} tokens cached (random), batch 1"
    sparsely = f"{case}, budget {of.budget} in blocks of {of.block} by random gates: sparse"
    theirs, our_dense = "transformers, DynamicCache and sdpa", OWN
    shared: Record = {"n": of.context, "device": device, "command": command}
    return [
        row(sparsely, ours, stock, theirs, floors[1], **shared),
        row(f"{case}: dense", dense, stock, theirs, floors[0], **shared),
        row(sparsely, ours, dense, our_dense, floors[1], **shared),
    ]


# ---------------------------------------------------------------- the verbs


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _told(verb: str, of: Layer | Step, threads: int | None) -> str:
    """The command with all its options."""
    given = {name: value for name, value in msgspec.structs.asdict(of).items() if name != "trust_remote_code"}
    given = {"model" if name == "uri" else name.replace("_", "-"): value for name, value in given.items()}
    if threads:
        given["threads"] = threads
    return shlex.join(["seer-decode", "bench", verb, *(str(word) for name, value in given.items() for word in (f"--{name}", value))])  # fmt: skip


def run(of: Layer | Step, *, device: str, threads: int | None, as_json: bool) -> int:
    """Either verb."""
    place, verb = _place(device), "kernel" if isinstance(of, Layer) else "step"
    times: dict[str, float] = {}
    try:
        with _threads(threads):
            command = _told(verb, of, threads)
            if isinstance(of, Layer):
                rows, times = kernel(of, place, command)
            else:
                rows = step(of, place, command)
    except RuntimeError as error:
        from tenfold_shared.generate.transformers import out_of_memory

        if not out_of_memory(error):
            raise
        needs.refuse(f"bench {verb}", "use a smaller --context", type(error).__name__)
    for found in rows:
        if as_json:
            print(json.dumps(found, allow_nan=False))
        else:
            print(f"{found['case']}: {found['ours']:.3f} ms (floor {found['floor']:.3f}); {found['peer_name']} {found['peer']:.3f}: {found['ratio']:.2f} ×")  # fmt: skip
    if not as_json:
        for name in sorted(times.keys() - {"ours", "alone"}, key=times.__getitem__):
            print(f"  dense, {name}: {1e3 * times[name]:.3f} ms")
    return 0
