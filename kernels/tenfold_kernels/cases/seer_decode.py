"""The kernels of seer-decode: block-sparse decoding, gate scores with selection, the gate's training target.

Shapes of the GPU cases are those of the paper's kernel figure: 64 query heads, 8 kv-heads, D 128, blocks of
64, nine tenths of the blocks left out. Oracles are float64, over what is selected or piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tenfold_kernels.registry import Baseline, Case, Kernel, Work

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


def _random(device: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Seeded sources (normal, uniform) of tensors on DEVICE; on meta, of shapes alone."""
    import torch

    generator = None if str(device) == "meta" else torch.Generator(device).manual_seed(0)

    def normal(*shape: int, dtype: Any = torch.float32) -> Any:
        if generator is None:
            return torch.empty(shape, device=device, dtype=dtype)
        return torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator)

    def uniform(*shape: int) -> Any:
        if generator is None:
            return torch.empty(shape, device=device)
        return torch.rand(shape, generator=generator, device=device)

    return normal, uniform


def _lengths(shape: Any, device: Any) -> Any:
    import torch

    return torch.tensor(shape.get("lengths") or [shape["S"]] * shape["B"], dtype=torch.int32, device=device)


# ---------------------------------------------------------------- block_decode


def make_decode(case: Case, device: Any) -> dict[str, Any]:
    """A cache and random lists that hold the tail; what no list names is NaN where `poison`."""
    import torch

    shape, dtype = case.shape, getattr(torch, case.dtype)
    normal, uniform = _random(device)
    b, hq, hkv, d, s, block, most = (shape[key] for key in ("B", "Hq", "Hkv", "D", "S", "block", "K"))
    lengths = _lengths(shape, device)
    blocks = -(-s // block)
    order = torch.arange(blocks, device=device)
    tail = (lengths - 1) // block
    # The tail before the others, and blocks past the row's end after them.
    rank = uniform(b, hkv, blocks) + (order == tail[:, None, None]).float() * 2
    rank = torch.where(order > tail[:, None, None], -1.0, rank)
    counts = (tail + 1).clamp(max=most)[:, None].expand(b, hkv).to(torch.int32).contiguous()
    if "counts" in shape:
        counts = torch.minimum(counts, torch.tensor(shape["counts"], dtype=torch.int32, device=device).view(b, hkv))
    chosen = rank.argsort(-1, descending=True)[..., :most]
    past = torch.arange(chosen.shape[-1], device=device) >= counts[..., None]
    indices = torch.where(past, blocks, chosen).sort(-1).values.to(torch.int32)
    mask = torch.zeros(b, hkv, blocks + 1, dtype=torch.bool, device=device).scatter(-1, indices.long(), True)
    mask = mask[..., :blocks].contiguous()

    q = normal(b, hq, d, dtype=dtype)
    if shape.get("order", "bhsd") == "bhsd":
        k, v = (normal(b, hkv, s, d, dtype=dtype) for _ in range(2))
    else:
        k, v = (normal(b, s, hkv, d, dtype=dtype).transpose(1, 2) for _ in range(2))
    if shape.get("poison", True) and str(device) != "meta":
        token = torch.arange(s, device=device)
        read = mask.gather(-1, (token // block).expand(b, hkv, s)) & (token < lengths[:, None, None])
        k, v = (torch.where(read[..., None], one, float("nan")) for one in (k, v))
    table = None
    if "page" in shape:
        k, v, table = paged(k, v, shape["page"])
    given: dict[str, Any] = {"q": q, "k": k, "v": v, "lengths": lengths}
    if shape.get("mask", False):
        given |= {"mask": mask}
    else:
        given |= {"indices": indices, "counts": counts}
    return given | {"block": block, "scale": d**-0.5, "table": table}


def paged(k: Any, v: Any, page: int) -> tuple[Any, Any, Any]:
    """k, v (B, Hkv, S, D) as pages (pages, Hkv, page, D), strewn about, and the table (B, pages of a row)."""
    import torch

    b, hkv, s, d = k.shape
    each = -(-s // page)
    place = torch.randperm(b * each, generator=torch.Generator().manual_seed(1)).to(k.device, torch.int32)
    if str(k.device) == "meta":
        place = torch.empty(b * each, dtype=torch.int32, device="meta")

    def cut(x: Any) -> Any:
        x = torch.nn.functional.pad(x, (0, 0, 0, each * page - s))
        rows = x.reshape(b, hkv, each, page, d).transpose(1, 2).reshape(b * each, hkv, page, d)
        return torch.empty_like(rows).index_copy(0, place.long(), rows)

    return cut(k), cut(v), place.view(b, each)


def decode_oracle(arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Softmax over the union of the listed blocks' tokens, one row and kv-head at a time."""
    import torch

    q, k, v, lengths, block = (arguments[key] for key in ("q", "k", "v", "lengths", "block"))
    table = arguments.get("table")
    hkv = k.shape[1]
    group = q.shape[1] // hkv
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    lse = torch.full(q.shape[:2], float("-inf"), dtype=torch.float64, device=q.device)
    for b in range(q.shape[0]):
        for h in range(hkv):
            if arguments.get("mask") is not None:
                listed = arguments["mask"][b, h].nonzero()[:, 0]
            else:
                listed = arguments["indices"][b, h, : arguments["counts"][b, h]].long()
            token = (listed[:, None] * block + torch.arange(block, device=q.device)).flatten()
            token = token[token < lengths[b]]
            if not len(token):
                continue
            if table is None:
                keys, values = k[b, h, token].double(), v[b, h, token].double()
            else:
                page, within = table[b, token // k.shape[2]].long(), token % k.shape[2]
                keys, values = k[page, h, within].double(), v[page, h, within].double()
            heads = slice(h * group, (h + 1) * group)
            s = q[b, heads].double() @ keys.T * arguments["scale"]
            out[b, heads] = s.softmax(-1) @ values
            lse[b, heads] = s.logsumexp(-1)
    return out, lse


def decode_work(arguments: dict[str, Any]) -> Work:
    """By the lists' capacity, which the GPU cases fill; of a mask, by all its blocks."""
    q = arguments["q"]
    b, hq, d = q.shape
    hkv = arguments["k"].shape[1]
    entries = (arguments["indices"] if arguments.get("mask") is None else arguments["mask"]).shape[2]
    tokens = entries * arguments["block"]
    read = b * hkv * (2 * d * q.element_size() * tokens + 4 * entries)
    return Work(read + b * hq * (2 * d * q.element_size() + 4), 4 * d * b * hq * tokens)


def _dense_decode(arguments: dict[str, Any]) -> Callable[[], Any]:
    """SDPA over the whole cache, the group's heads as queries of one kv-head: nothing is read twice."""
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v, scale = (arguments[key] for key in ("q", "k", "v", "scale"))
    b, hq, d = q.shape
    folded = q.view(b, k.shape[1], hq // k.shape[1], d)
    return lambda: scaled_dot_product_attention(folded, k, v, scale=scale)


def _decode_case(
    name: str, dtype: str, heads: tuple[int, int], d: int, b: int, s: int, block: int, most: int, **more: Any
) -> Case:
    """heads: (Hq, Hkv); most: entries of a list."""
    own = {"Hq": heads[0], "Hkv": heads[1], "D": d, "B": b, "S": s, "block": block, "K": most}
    return Case(name, dtype, {**own, **more})


PAPER = (64, 8)
BLOCK_DECODE = Kernel(
    name="block_decode",
    tool="seer-decode",
    kind="triton",
    module="block_decode",
    launcher="tenfold_shared.launch.block_decode:block_decode",
    make=make_decode,
    oracle=decode_oracle,
    tolerance=TOLERANCE,
    tests=(
        _decode_case("one token", "float32", (1, 1), 64, 1, 1, 16, 1),
        _decode_case("groups of 3, ragged", "float32", (6, 2), 64, 3, 333, 64, 3, lengths=[333, 64, 129]),
        _decode_case(
            "nothing listed, an empty row", "float32", (4, 2), 64, 2, 200, 32, 4, lengths=[200, 0], counts=[0, 3, 0, 0]
        ),
        _decode_case("blocks of 16, D 80, as B S H D", "float32", (8, 1), 80, 2, 301, 16, 9, order="bshd"),
        _decode_case("pages of 2 blocks, groups of 20, D 96", "float32", (20, 1), 96, 1, 500, 16, 11, page=32),
        _decode_case("blocks of 256, D 192, by a mask", "float16", (4, 2), 192, 1, 900, 256, 3, mask=True),
        _decode_case("blocks of 128, D 256, pages of a block", "bfloat16", (2, 2), 256, 1, 300, 128, 2, page=128),
        _decode_case("blocks of 32, D 128, groups of 70", "bfloat16", (70, 1), 128, 1, 290, 32, 6, mask=True),
    ),
    builds=(
        _decode_case("64/8 heads, D 128, blocks of 64", "bfloat16", PAPER, 128, 16, 32768, 64, 52),
        _decode_case("pages, 9/3 heads, D 64, blocks of 16", "float16", (9, 3), 64, 4, 8192, 16, 64, page=32),
        _decode_case("40/8 heads, D 192, blocks of 128", "bfloat16", (40, 8), 192, 4, 8192, 128, 8),
        _decode_case("mask, 32/1 heads, D 80, blocks of 32", "bfloat16", (32, 1), 80, 4, 8192, 32, 16, mask=True),
    ),
    gpu=tuple(
        _decode_case(
            f"{b} x {s // 1024}K, 90 %",
            "bfloat16",
            PAPER,
            128,
            b,
            s,
            64,
            math.ceil(s // 64 / 10),
            poison=False,
        )
        for b in (1, 4, 16)
        for s in (8192, 32768, 131072)
    ),
    work=decode_work,
    baseline=Baseline("SDPA, dense cache, group folded", _dense_decode),
)

# ---------------------------------------------------------------- gate_select


def make_gate(case: Case, device: Any) -> dict[str, Any]:
    """Gate weights and compressed keys; `lengths` against NB blocks of `block` tokens; `equal` repeats keys."""
    import torch

    shape, dtype = case.shape, getattr(torch, case.dtype)
    normal, uniform = _random(device)
    b, hkv, group, d, width, blocks = (shape[key] for key in ("B", "Hkv", "G", "D", "dg", "NB"))
    lengths = torch.tensor(shape["lengths"], dtype=torch.int32, device=device)
    angle = uniform(b, width // 2) * 6
    kc = normal(b, blocks, hkv, width, dtype=dtype)
    if shape.get("equal"):
        kc = kc[:, : shape["equal"]].repeat(1, -(-blocks // shape["equal"]), 1, 1)[:, :blocks]
    if str(device) != "meta":  # blocks without a score are never read
        tail = (lengths - 1) // shape["block"]
        kc = torch.where((torch.arange(blocks, device=device) < tail[:, None])[..., None, None], kc, float("nan"))
    return {
        "q": normal(b, hkv * group, d, dtype=dtype),
        "wq": normal(hkv, group, d, width, dtype=dtype) * (group * d) ** -0.5,
        "kc": kc,
        "lengths": lengths,
        "cos": angle.cos(),
        "sin": angle.sin(),
        "block": shape["block"],
        "budget": shape.get("budget"),
        "threshold": shape.get("threshold"),
        "first": shape.get("first", False),
        "weight": normal(width, dtype=dtype) if shape.get("norm", True) else None,
        "eps": 1e-6,
    }


def gate_scores(arguments: dict[str, Any]) -> Any:
    """float64 (B, Hkv, NB), -inf for the blocks that are not before the tail."""
    import torch

    q, wq, kc = (arguments[key].double() for key in ("q", "wq", "kc"))
    hkv, group, d, width = wq.shape
    x = torch.einsum("bhgd,hgde->bhe", q.view(-1, hkv, group, d), wq)
    if arguments["weight"] is not None:
        x = x * (x.square().mean(-1, keepdim=True) + arguments["eps"]).rsqrt() * arguments["weight"].double()
    cos, sin = (arguments[key].double()[:, None] for key in ("cos", "sin"))
    low, high = x.chunk(2, -1)
    x = torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
    z = torch.einsum("bhe,bnhe->bhn", x, kc) / math.sqrt(width)
    tail = (arguments["lengths"] - 1) // arguments["block"]
    return torch.where(torch.arange(kc.shape[1], device=kc.device) < tail[:, None, None], z, float("-inf"))


def gate_oracle(arguments: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Lists by sorting, one row and kv-head at a time."""
    import torch

    z = gate_scores(arguments)
    b, hkv, blocks = z.shape
    most = blocks + 1 if arguments["budget"] is None else min(arguments["budget"], blocks + 1)
    indices = torch.full((b, hkv, most), -1, dtype=torch.float64)
    counts = torch.zeros(b, hkv, dtype=torch.float64)
    for row, length in enumerate(arguments["lengths"].tolist()):
        tail = (length - 1) // arguments["block"]
        for h in range(hkv):
            if length == 0:
                continue
            # Equal keys differ in the last bits of a float64 product; a gate knows them as equal.
            score = z[row, h, :tail].cpu().float()
            chosen = score.sort(descending=True, stable=True).indices.tolist()
            if arguments["threshold"] is not None:
                p = z[row, h, :tail].cpu().softmax(-1)
                chosen = [j for j in chosen if p[j] > arguments["threshold"]]
            if arguments["first"] and len(score):
                chosen = [0, *(j for j in chosen if j != 0)]
            listed = sorted([*chosen[: most - 1], tail])
            counts[row, h] = len(listed)
            indices[row, h, : len(listed)] = torch.tensor(listed, dtype=torch.float64)
    return indices.to(z.device), counts.to(z.device), z


def gate_error(result: Any, truth: Any) -> float:
    """Of lists: the part of their blocks that are not the oracle's (near ties may differ); else relative_error."""
    from tenfold_kernels.registry import relative_error

    if result.dtype.is_floating_point or result.ndim == 2:
        return relative_error(result, truth)
    strangers = 0
    for one, other in zip(result.flatten(0, 1).tolist(), truth.flatten(0, 1).tolist(), strict=True):
        known = {int(value) for value in other}
        strangers += sum(value not in known for value in one) + (one != sorted(one, key=lambda j: j if j >= 0 else 1e9))
    return strangers / max(1, result.numel())


def gate_work(arguments: dict[str, Any]) -> Work:
    q, wq, kc = (arguments[key] for key in ("q", "wq", "kc"))
    b, hq, d = q.shape
    blocks, hkv, width = kc.shape[1:]
    read = q.element_size() * (q.numel() + wq.numel()) + kc.element_size() * kc.numel()
    return Work(read + 4 * b * hkv * blocks, 2 * d * width * b * hq + 2 * width * b * hkv * blocks)


def _torch_gate(arguments: dict[str, Any]) -> Callable[[], Any]:
    """Products, norm, RoPE, topk and a sort by torch, of a budget; lengths and the tail as they come."""
    import torch

    q, wq, kc, cos, sin, weight = (arguments[key] for key in ("q", "wq", "kc", "cos", "sin", "weight"))
    hkv, group, d, width = wq.shape
    keys = kc.permute(0, 2, 3, 1)  # (B, Hkv, dg, NB)
    cos, sin = cos[:, None].to(q.dtype), sin[:, None].to(q.dtype)
    flat = wq.reshape(hkv, group * d, width)

    def run() -> Any:
        x = (q.view(-1, hkv, group * d).transpose(0, 1) @ flat).transpose(0, 1)
        if weight is not None:
            x = torch.nn.functional.rms_norm(x, (width,), weight, 1e-6)
        low, high = x.chunk(2, -1)
        x = torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
        z = (x[:, :, None] @ keys)[:, :, 0]
        return z.topk(min(arguments["budget"], z.shape[-1]), dim=-1).indices.sort(-1).values.int()

    return run


def _gate_case(
    name: str, dtype: str, heads: tuple[int, int], d: int, width: int, blocks: int, lengths: list[int], **more: Any
) -> Case:
    """heads: (Hkv, G)."""
    own = {"B": len(lengths), "Hkv": heads[0], "G": heads[1], "D": d, "dg": width, "NB": blocks, "lengths": lengths}
    return Case(name, dtype, {**own, "block": 64, **more})


GATE_SELECT = Kernel(
    name="gate_select",
    tool="seer-decode",
    kind="triton",
    module="gate_select",
    launcher="tenfold_shared.launch.gate_select:gate_select",
    make=make_gate,
    oracle=gate_oracle,
    tolerance={"float32": 2e-5, "float16": 1e-3, "bfloat16": 1e-3},
    worst=gate_error,
    tests=(
        _gate_case("one block", "float32", (1, 1), 64, 32, 1, [1, 64, 65], budget=1),
        _gate_case("a budget, ragged", "float32", (3, 3), 64, 64, 100, [6401, 64 * 70, 130, 0], budget=9),
        _gate_case(
            "a budget, first, no norm", "float32", (2, 5), 80, 128, 70, [4000, 100], budget=5, first=True, norm=False
        ),
        _gate_case("ties", "float32", (2, 2), 64, 64, 130, [8321, 8000], budget=40, equal=7),
        _gate_case("a threshold", "float32", (2, 4), 128, 128, 150, [9600, 700, 20], threshold=0.01),
        _gate_case(
            "threshold, budget, first", "float16", (1, 7), 128, 64, 90, [5800], threshold=0.01, budget=8, first=True
        ),
        _gate_case("more budget than blocks", "bfloat16", (2, 2), 96, 64, 20, [1300, 500], budget=50),
        _gate_case("17 rows", "bfloat16", (1, 2), 64, 64, 10, [64 * 9 + at for at in range(17)], budget=4),
    ),
    builds=(
        _gate_case("budget, 8 x 8, NB 2048", "bfloat16", (8, 8), 128, 128, 2048, [131072], budget=205),
        _gate_case("threshold, 3 x 3, NB 128", "float16", (3, 3), 64, 64, 128, [8192], threshold=0.004, first=True),
        _gate_case("budget, 8 x 5, NB 8192", "bfloat16", (8, 5), 128, 256, 8192, [131072], budget=512, block=16),
    ),
    gpu=tuple(
        _gate_case(
            f"{b} x {s // 1024}K, budget {math.ceil(s // 64 / 10)}",
            "bfloat16",
            (8, 8),
            128,
            128,
            s // 64,
            [s] * b,
            budget=math.ceil(s // 64 / 10),
        )
        for b, s in ((1, 32768), (1, 131072), (16, 32768), (16, 131072))
    ),
    work=gate_work,
    baseline=Baseline("torch matmul and topk", _torch_gate),
)

# ---------------------------------------------------------------- block_truth


def make_truth(case: Case, device: Any) -> dict[str, Any]:
    import torch

    shape, dtype = case.shape, getattr(torch, case.dtype)
    normal, _ = _random(device)
    b, hq, hkv, n, d = (shape[key] for key in ("B", "Hq", "Hkv", "S", "D"))
    return {
        "q": normal(b, hq, n, d, dtype=dtype) * shape.get("sharp", 1.0),
        "k": normal(b, hkv, n, d, dtype=dtype),
        "lengths": _lengths(shape, device),
        "block": shape["block"],
        "scale": d**-0.5,
        "first_row": shape.get("first_row", 0),
    }


def truth_oracle(arguments: dict[str, Any]) -> tuple[Any]:
    """Softmax, block maxima, strictly earlier blocks, sum: piece by piece of the dense map."""
    import torch

    q, k, lengths, block = (arguments[key] for key in ("q", "k", "lengths", "block"))
    first_row, scale = arguments["first_row"], arguments["scale"]
    b, hq, n, _ = q.shape
    hkv = k.shape[1]
    group, blocks = hq // hkv, -(-n // block)
    gt = torch.zeros(b, hkv, n - first_row, blocks, dtype=torch.float64, device=q.device)
    keys = torch.arange(n, device=q.device)
    for row, length in enumerate(lengths.tolist()):
        for h in range(hkv):
            for at in range(first_row, length, 1024):
                t = torch.arange(at, min(at + 1024, length), device=q.device)
                u = torch.zeros(len(t), blocks, dtype=torch.float64, device=q.device)
                for a in range(h * group, (h + 1) * group):
                    s = q[row, a, t].double() @ k[row, h].double().T * scale
                    p = s.masked_fill(keys > t[:, None], float("-inf")).softmax(-1)
                    p = torch.nn.functional.pad(p, (0, blocks * block - n))
                    u = torch.maximum(u, p.view(len(t), blocks, block).amax(-1))
                u = u * (torch.arange(blocks, device=q.device) < (t // block)[:, None])
                gt[row, h, at - first_row : at - first_row + len(t)] = u / (u.sum(-1, keepdim=True) + 1e-9)
    return (gt,)


def truth_work(arguments: dict[str, Any]) -> Work:
    """One product of queries and keys: that the kernel makes it twice is its own choice."""
    q, k = arguments["q"], arguments["k"]
    b, hq, n, d = q.shape
    rows = n - arguments["first_row"]
    pairs = b * hq * (rows * arguments["first_row"] + rows * (rows + 1) / 2)
    written = 4 * b * k.shape[1] * rows * -(-n // arguments["block"])
    return Work(q.element_size() * d * b * (hq * rows + k.shape[1] * n) + written, 2 * d * pairs)


def _flash_forward(arguments: dict[str, Any]) -> Callable[[], Any]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    q, k, scale = (arguments[key] for key in ("q", "k", "scale"))
    v = torch.randn_like(k)

    def run() -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)

    return run


def _truth_case(name: str, dtype: str, heads: tuple[int, int], d: int, b: int, n: int, block: int, **more: Any) -> Case:
    """heads: (Hq, Hkv)."""
    return Case(name, dtype, {"Hq": heads[0], "Hkv": heads[1], "D": d, "B": b, "S": n, "block": block, **more})


BLOCK_TRUTH = Kernel(
    name="block_truth",
    tool="seer-decode",
    kind="triton",
    module="block_truth",
    launcher="tenfold_shared.launch.block_truth:block_truth",
    make=make_truth,
    oracle=truth_oracle,
    tolerance={"float32": 1e-5, "float16": 2e-3, "bfloat16": 2**-8},
    tests=(
        _truth_case("one token", "float32", (1, 1), 64, 1, 1, 16),
        _truth_case("groups of 3, ragged", "float32", (6, 2), 64, 2, 150, 32, lengths=[150, 70]),
        _truth_case(
            "late rows, blocks of 16, D 80", "float32", (4, 1), 80, 2, 131, 16, first_row=50, lengths=[131, 40]
        ),
        _truth_case("sharp, blocks of 64", "float32", (2, 2), 64, 1, 140, 64, sharp=12.0),
        _truth_case("groups of 20, blocks of 128", "float16", (20, 1), 128, 1, 300, 128, first_row=230),
        _truth_case("blocks of 256, D 192", "bfloat16", (2, 1), 192, 1, 530, 256, first_row=400),
    ),
    builds=(
        _truth_case("64/8 heads, D 128, blocks of 64", "bfloat16", PAPER, 128, 1, 8192, 64),
        _truth_case("9/3 heads, D 64, blocks of 16", "float16", (9, 3), 64, 4, 8192, 16, first_row=4096),
        _truth_case("32/8 heads, D 128, blocks of 256", "bfloat16", (32, 8), 128, 1, 8192, 256),
        _truth_case("8/4 heads, D 192, blocks of 128", "bfloat16", (8, 4), 192, 1, 8192, 128),
    ),
    gpu=(
        _truth_case("8K, all rows", "bfloat16", PAPER, 128, 1, 8192, 64),
        _truth_case("16K, all rows", "bfloat16", PAPER, 128, 1, 16384, 64),
    ),
    work=truth_work,
    baseline=Baseline("SDPA flash forward", _flash_forward),
)

KERNELS = [BLOCK_DECODE, GATE_SELECT, BLOCK_TRUTH]
