"""The kernels of longexp-peft: products with the active neurons, attention over listed blocks and its gradients.

Shapes of the GPU cases are OPT-1.3B's and OPT-2.7B's over 4,096 packed tokens, a quarter and an eighth of the
neurons active, a quarter of the s x s blocks listed. Oracles are float64: rows picked one by one, dense masked
softmax, gradients by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tenfold_kernels.device import resolve
from tenfold_kernels.registry import Baseline, Case, Kernel, Work

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
ATTENTION = "tenfold_shared.launch.block_attention"


def _normal(device: Any) -> Callable[..., Any]:
    """A seeded source of normal tensors on DEVICE; on meta, of shapes alone."""
    import torch

    generator = None if str(device) == "meta" else torch.Generator(device).manual_seed(0)

    def normal(*shape: int, dtype: Any = torch.float32) -> Any:
        made = torch.empty(shape, device=device, dtype=dtype)
        return made if generator is None else made.normal_(generator=generator)

    return normal


# ---------------------------------------------------------------- neuron_up, neuron_down


def _selection(shape: Any, device: Any) -> tuple[Any, Any]:
    """index and count: neurons in ascending order; what the count leaves out is no neuron's number."""
    import torch

    f, s, count = shape["F"], shape["S"], shape.get("count")
    if shape.get("gather", True):
        order = torch.randperm(f, generator=torch.Generator().manual_seed(1))[:s].sort().values
        index = order.to(torch.int32)
        if count is not None:
            index[count:] = 2**30
        index = index.to(device)
    else:
        index = None
    return index, None if count is None else torch.tensor([count], dtype=torch.int32, device=device)


def _low(shape: Any, normal: Callable[..., Any], m: int, columns: int, dtype: Any) -> Any:
    rank = shape.get("R", 0)
    return (normal(m, rank, dtype=dtype), normal(columns, rank, dtype=dtype) * 0.3, 1.7) if rank else None


def make_up(case: Case, device: Any) -> dict[str, Any]:
    import torch

    shape, dtype, normal = case.shape, getattr(torch, case.dtype), _normal(device)
    m, d, f, s = (shape[key] for key in ("M", "D", "F", "S"))
    index, count = _selection(shape, device)
    epilogue = shape.get("epilogue", "none")
    return {
        "x": normal(m, d, dtype=dtype),
        "w": normal(f, d, dtype=dtype) * d**-0.5,
        "index": index,
        "bias": normal(f, dtype=dtype) if shape.get("bias", False) else None,
        "low": _low(shape, normal, m, f, dtype),
        "epilogue": epilogue,
        "h": normal(m, s, dtype=dtype).clamp(min=0) if epilogue.endswith("_mask") else None,
        "count": count,
    }


def up_oracle(arguments: dict[str, Any]) -> tuple[Any]:
    """Row by row of w in the order of the list; past the count nothing."""
    import torch

    x, w, index, bias, low, h = (arguments[key] for key in ("x", "w", "index", "bias", "low", "h"))
    s = w.shape[0] if index is None else index.shape[0]
    count = s if arguments["count"] is None else int(arguments["count"])
    chosen = torch.arange(s, device=x.device)[:count] if index is None else index[:count].long()
    z = x.double() @ w[chosen].double().T
    if bias is not None:
        z = z + bias[chosen].double()
    if low is not None:
        z = z + low[2] * low[0].double() @ low[1][chosen].double().T
    epilogue = arguments["epilogue"]
    if epilogue.endswith("_mask"):
        seen = h[:, :count].double()
        z = z * ((seen > 0) if epilogue == "relu_mask" else 2 * seen.sqrt())
    elif epilogue != "none":
        z = z.relu() if epilogue == "relu" else z.relu().square()
    return (torch.nn.functional.pad(z, (0, s - count)),)


def up_work(arguments: dict[str, Any]) -> Work:
    x, w, index, low, h = (arguments[key] for key in ("x", "w", "index", "low", "h"))
    (m, d), s = x.shape, w.shape[0] if index is None else index.shape[0]
    rank = 0 if low is None else low[0].shape[1]
    moved = m * d + s * d + m * s * (1 if h is None else 2) + rank * (m + s)
    return Work(x.element_size() * moved, 2 * m * s * (d + rank))


def _torch_up(arguments: dict[str, Any]) -> Callable[[], Any]:
    """The rows copied side by side, then torch's products."""
    import torch

    x, w, index, bias, low, h = (arguments[key] for key in ("x", "w", "index", "bias", "low", "h"))
    epilogue = arguments["epilogue"]

    def run() -> Any:
        rows = w.index_select(0, index)
        z = torch.nn.functional.linear(x, rows, None if bias is None else bias.index_select(0, index))
        if low is not None:
            z.addmm_(low[0], low[1].index_select(0, index).T, alpha=low[2])
        if epilogue == "relu_mask":
            return z.mul_(h > 0)
        return z.relu_() if epilogue == "relu" else z

    return run


def make_down(case: Case, device: Any) -> dict[str, Any]:
    """Columns of h past the count are NaN."""
    import torch

    shape, dtype, normal = case.shape, getattr(torch, case.dtype), _normal(device)
    m, d, f, s = (shape[key] for key in ("M", "D", "F", "S"))
    index, count = _selection(shape, device)
    h = normal(m, s, dtype=dtype)
    if count is not None:
        h[:, shape["count"] :] = float("nan")
    return {
        "h": h,
        "w": normal(f, d, dtype=dtype) * s**-0.5,
        "index": index,
        "bias": normal(d, dtype=dtype) if shape.get("bias", False) else None,
        "low": _low(shape, normal, m, d, dtype),
        "count": count,
    }


def down_oracle(arguments: dict[str, Any]) -> tuple[Any]:
    import torch

    h, w, index, bias, low = (arguments[key] for key in ("h", "w", "index", "bias", "low"))
    count = h.shape[1] if arguments["count"] is None else int(arguments["count"])
    chosen = torch.arange(count, device=h.device) if index is None else index[:count].long()
    y = h[:, :count].double() @ w[chosen].double()
    if bias is not None:
        y = y + bias.double()
    if low is not None:
        y = y + low[2] * low[0].double() @ low[1].double().T
    return (y,)


def down_work(arguments: dict[str, Any]) -> Work:
    h, w, low = (arguments[key] for key in ("h", "w", "low"))
    (m, s), d = h.shape, w.shape[1]
    rank = 0 if low is None else low[0].shape[1]
    return Work(h.element_size() * (m * s + s * d + m * d + rank * (m + d)), 2 * m * d * (s + rank))


def _torch_down(arguments: dict[str, Any]) -> Callable[[], Any]:
    import torch

    h, w, index, bias, low = (arguments[key] for key in ("h", "w", "index", "bias", "low"))

    def run() -> Any:
        rows = w.index_select(0, index)
        y = h @ rows if bias is None else torch.addmm(bias, h, rows)
        return y if low is None else y.addmm_(low[0], low[1].T, alpha=low[2])

    return run


def _neuron_case(name: str, dtype: str, m: int, d: int, f: int, s: int, **more: Any) -> Case:
    return Case(name, dtype, {"M": m, "D": d, "F": f, "S": s, **more})


def _opt(forward: dict[str, Any], backward: dict[str, Any]) -> tuple[Case, ...]:
    """The forward's product at both models' shapes and both densities, and the backward's."""
    models = (("OPT-1.3B", 2048), ("OPT-2.7B", 2560))
    forwards = [
        _neuron_case(f"{name}, forward, density 1/{part}", "bfloat16", 4096, d, 4 * d, 4 * d // part, **forward)
        for name, d in models
        for part in (4, 8)
    ]
    backwards = [
        _neuron_case(f"{name}, backward, density 1/4", "bfloat16", 4096, d, 4 * d, d, **backward) for name, d in models
    ]
    return (*forwards, *backwards)


UP_FORWARD = {"bias": True, "epilogue": "relu"}
UP_BACKWARD = {"epilogue": "relu_mask", "R": 16}
NEURON_UP = Kernel(
    name="neuron_up",
    tool="longexp-peft",
    kind="triton",
    module="neuron_gemm",
    launcher="tenfold_shared.launch.neuron_gemm:neuron_up",
    make=make_up,
    oracle=up_oracle,
    tolerance=TOLERANCE,
    tests=(
        _neuron_case("one row, one neuron", "float32", 1, 16, 3, 1),
        _neuron_case("relu, bias, ragged", "float32", 70, 100, 150, 67, bias=True, epilogue="relu"),
        _neuron_case(
            "relu2, rank 3, 70 of 96 slots", "float32", 66, 64, 130, 96, bias=True, R=3, count=70, epilogue="relu2"
        ),
        _neuron_case("relu_mask, rank 70", "float32", 33, 40, 80, 70, R=70, epilogue="relu_mask"),
        _neuron_case("relu2_mask, 5 of 160 slots", "float32", 5, 33, 200, 160, count=5, epilogue="relu2_mask"),
        _neuron_case("no slot in use", "float32", 9, 32, 40, 16, bias=True, R=4, count=0, epilogue="relu"),
        _neuron_case("a hot prefix", "bfloat16", 130, 72, 140, 140, gather=False, bias=True, epilogue="relu"),
        _neuron_case("half, rank 16", "float16", 131, 96, 300, 150, R=16, count=149, epilogue="relu_mask"),
        _neuron_case("600 rows: a group of tiles and a part of one", "float32", 600, 16, 80, 70),
    ),
    builds=(
        _neuron_case("relu, D 2048, bfloat16", "bfloat16", 4096, 2048, 8192, 2048, **UP_FORWARD),
        _neuron_case("relu_mask, rank 16, D 2560, bfloat16", "bfloat16", 4096, 2560, 10240, 2560, **UP_BACKWARD),
        _neuron_case(
            "relu2, a count, D 1024, half", "float16", 512, 1024, 4096, 1024, bias=True, count=900, epilogue="relu2"
        ),
    ),
    gpu=_opt(UP_FORWARD, UP_BACKWARD),
    work=up_work,
    baseline=Baseline("index_select and torch matmul", _torch_up),
)

NEURON_DOWN = Kernel(
    name="neuron_down",
    tool="longexp-peft",
    kind="triton",
    module="neuron_gemm",
    launcher="tenfold_shared.launch.neuron_gemm:neuron_down",
    make=make_down,
    oracle=down_oracle,
    tolerance=TOLERANCE,
    tests=(
        _neuron_case("one row, one neuron", "float32", 1, 16, 3, 1),
        _neuron_case("bias, ragged", "float32", 70, 100, 150, 67, bias=True),
        _neuron_case("rank 3, 70 of 96 slots", "float32", 66, 64, 130, 96, R=3, count=70),
        _neuron_case("rank 70, D 130", "float32", 33, 130, 80, 70, bias=True, R=70),
        _neuron_case("no slot in use", "float32", 9, 40, 40, 16, bias=True, R=4, count=0),
        _neuron_case("a hot prefix", "bfloat16", 130, 140, 80, 80, gather=False, bias=True),
        _neuron_case("half, rank 16", "float16", 131, 150, 300, 160, R=16, count=149),
        _neuron_case("600 rows: a group of tiles and a part of one", "float32", 600, 70, 80, 16),
    ),
    builds=(
        _neuron_case("bias, D 2048, bfloat16", "bfloat16", 4096, 2048, 8192, 2048, bias=True),
        _neuron_case("rank 16, D 2560, bfloat16", "bfloat16", 4096, 2560, 10240, 2560, R=16),
        _neuron_case("a count, D 1024, half", "float16", 512, 1024, 4096, 1024, bias=True, count=900),
    ),
    gpu=_opt({"bias": True}, {"R": 16}),
    work=down_work,
    baseline=Baseline("index_select and torch matmul", _torch_down),
)

# ---------------------------------------------------------------- block_attention


def pool(
    patterns: Sequence[tuple[int, int]], blocks: int
) -> tuple[list[list[int]], list[int], list[list[int]], list[int]]:
    """row_ptr, row_idx, col_ptr, col_idx of patterns (window, sinks): block i sees j if i - j < window or j < sinks."""
    row_ptr: list[list[int]] = []
    col_ptr: list[list[int]] = []
    row_idx: list[int] = []
    col_idx: list[int] = []
    for window, sinks in patterns:
        seen = [(i, j) for i in range(blocks) for j in range(i + 1) if i - j < window or j < sinks]
        for ptr, idx, axis in ((row_ptr, row_idx, 0), (col_ptr, col_idx, 1)):
            counts = [sum(pair[axis] == at for pair in seen) for at in range(blocks)]
            ptr.append([len(idx) + sum(counts[:at]) for at in range(blocks + 1)])
            idx.extend(other for at in range(blocks) for *_, other in _of(seen, axis, at))
    return row_ptr, row_idx, col_ptr, col_idx


def _of(seen: list[tuple[int, int]], axis: int, at: int) -> list[tuple[int, int]]:
    """The pairs whose AXIS is AT, that one first, ascending."""
    return sorted((pair[axis], pair[1 - axis]) for pair in seen if pair[axis] == at)


def make_layout(shape: Any, device: Any) -> Any:
    """Documents after the prefix, patterns by turns over heads (and documents, unless `alike`), R beyond the longest."""
    import torch

    block, prefix, docs = shape["block"], shape.get("prefix", 0), shape["docs"]
    table = [[at, min(block, prefix - at), 0, 0, 0, -1] for at in range(0, prefix, block)]
    start = prefix
    for document, length in enumerate(docs):
        first, many = len(table), -(-length // block)
        for i in range(many):
            table.append([start + i * block, min(block, length - i * block), first, i, many, document])
        start += length
    table += [[0] * 6] * shape.get("unused", 0)
    longest = max(-(-length // block) for length in docs) + shape.get("more", 0)
    lists = pool(shape["patterns"], longest)
    count = len(shape["patterns"])
    turn = (
        torch.arange(shape["Hq"])
        if shape.get("alike")
        else torch.arange(len(docs))[:, None] + torch.arange(shape["Hq"])
    )
    row_ptr, row_idx, col_ptr, col_idx = (torch.tensor(one, dtype=torch.int32, device=device) for one in lists)
    return resolve(f"{ATTENTION}:BlockLayout")(
        torch.tensor(table, dtype=torch.int32, device=device),
        (turn % count).to(torch.int32).to(device),
        row_ptr,
        row_idx,
        col_ptr,
        col_idx,
        prefix_blocks=-(-prefix // block),
        tokens=start if shape.get("tail") else None,
    )


def make_attention(case: Case, device: Any) -> dict[str, Any]:
    """q, k, v side by side as projections leave them; queries and keys past the documents are NaN."""
    import torch

    shape, dtype, normal = case.shape, getattr(torch, case.dtype), _normal(device)
    hq, hkv, e = (shape[key] for key in ("Hq", "Hkv", "E"))
    prefix, tail = shape.get("prefix", 0), shape.get("tail", 0)
    tq = sum(shape["docs"]) + tail
    q = normal(tq, hq, e, dtype=dtype).transpose(0, 1)
    k, v = (normal(prefix + tq, hkv, e, dtype=dtype).transpose(0, 1) for _ in range(2))
    if tail:
        for one in (q, k, v):
            one[:, one.shape[1] - tail :] = float("nan")
    layout = make_layout(shape, device)
    return {"q": q, "k": k, "v": v, "layout": layout, "block": shape["block"], "scale": e**-0.5}


def visible(arguments: dict[str, Any], head: int) -> Any:
    """bool (Tq, Tk), entry by entry of the lists: what a query of this head sees."""
    import torch

    layout = arguments["layout"]
    tq, tk = arguments["q"].shape[1], arguments["k"].shape[1]
    offset = tk - tq
    covered = tk if layout.tokens is None else layout.tokens
    seen = torch.zeros(tq, tk, dtype=torch.bool)
    seen[: covered - offset, :offset] = True
    ptr, idx = layout.row_ptr.cpu(), layout.row_idx.cpu()
    pattern, table = layout.pattern.cpu(), layout.blocks.cpu().tolist()
    for start, length, first, i, _, document in table[layout.prefix_blocks :]:
        if not length:
            continue
        p = int(pattern[head] if pattern.ndim == 1 else pattern[document, head])
        for j in idx[ptr[p, i] : ptr[p, i + 1]].tolist():
            other, wide = table[first + j][:2]
            tile = torch.arange(start, start + length)[:, None] >= torch.arange(other, other + wide)
            seen[start - offset : start - offset + length, other : other + wide] = tile
    return seen.to(arguments["q"].device)


def dense(arguments: dict[str, Any], head: int, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
    """o and lse of one head by a masked softmax over all keys."""
    seen = visible(arguments, head)
    s = (q @ k.T * arguments["scale"]).masked_fill(~seen, float("-inf"))
    lse = s.logsumexp(-1)
    nothing = ~seen.any(-1, keepdim=True)
    return s.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0) @ v, lse


def attention_oracle(arguments: dict[str, Any]) -> tuple[Any, Any]:
    import torch

    q, k, v = (arguments[key].double().nan_to_num() for key in ("q", "k", "v"))
    group = q.shape[0] // k.shape[0]
    found = [dense(arguments, a, q[a], k[a // group], v[a // group]) for a in range(q.shape[0])]
    return torch.stack([o for o, _ in found]), torch.stack([lse for _, lse in found])


def make_backward(case: Case, device: Any) -> dict[str, Any]:
    """o and lse are the oracle's, rounded."""
    import torch

    arguments = make_attention(case, device)
    q = arguments["q"]
    if str(device) == "meta":
        o, lse = torch.empty_like(q), torch.empty(q.shape[:2], device=device)
    else:
        o, lse = attention_oracle(arguments)
    do = _normal(device)(q.shape[1], q.shape[0], q.shape[2], dtype=q.dtype).transpose(0, 1)
    if tail := case.shape.get("tail", 0):
        do[:, q.shape[1] - tail :] = float("nan")
    return {"do": do, "o": o.to(q.dtype), "lse": lse.float(), **arguments}


def backward_oracle(arguments: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Autograd through `dense`, in float64."""
    import torch

    q, k, v, do = (arguments[key].double().nan_to_num() for key in ("q", "k", "v", "do"))
    group = q.shape[0] // k.shape[0]
    dq, dk, dv = (torch.zeros_like(one) for one in (q, k, v))
    for a in range(q.shape[0]):
        leaves = [one.clone().requires_grad_() for one in (q[a], k[a // group], v[a // group])]
        o, _ = dense(arguments, a, *leaves)
        found = torch.autograd.grad(o, leaves, do[a])
        for total, part in zip((dq[a], dk[a // group], dv[a // group]), found, strict=True):
            total += part
    return dq, dk, dv


def _pairs(arguments: dict[str, Any]) -> float:
    """Visible pairs of query and key, over all heads; on meta, where lists have no entries, the whole triangles."""
    q, layout, block = arguments["q"], arguments["layout"], arguments["block"]
    offset = arguments["k"].shape[1] - q.shape[1]
    hq, tq, _ = q.shape
    if layout.blocks.is_meta:
        return hq * tq * (offset + (tq + 1) / 2)
    ptr, idx, pattern = (one.cpu() for one in (layout.row_ptr, layout.row_idx, layout.pattern))
    total = float(hq * tq * offset)
    for _, length, _, i, _, document in layout.blocks.cpu().tolist()[layout.prefix_blocks :]:
        for head in range(hq):
            p = int(pattern[head] if pattern.ndim == 1 else pattern[document, head])
            listed = idx[ptr[p, i] : ptr[p, i + 1]].tolist()
            total += sum(length * (length + 1) / 2 if j == i else length * block for j in listed)
    return total


def _attention_work(moved: int, flops: int) -> Callable[[dict[str, Any]], Work]:
    """MOVED tensors of the size of q, and as many of the size of k; FLOPS a pair and channel."""

    def work(arguments: dict[str, Any]) -> Work:
        q, k = arguments["q"], arguments["k"]
        size = q.element_size() * moved * (q.numel() + k.numel()) + 4 * q.shape[0] * q.shape[1]
        return Work(size, flops * q.shape[2] * _pairs(arguments))

    return work


def _documents(arguments: dict[str, Any]) -> list[Any]:
    """q, k, v as (documents, heads, tokens, E), all documents being of one length and there being no prefix."""
    table = arguments["layout"].blocks.cpu()
    length = int(table[table[:, 5] == 0, 1].sum())
    return [arguments[key].unflatten(1, (-1, length)).transpose(0, 1) for key in ("q", "k", "v")]


def _flash(arguments: dict[str, Any], q: Any, k: Any, v: Any) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=arguments["scale"], enable_gqa=True)


def _flash_forward(arguments: dict[str, Any]) -> Callable[[], Any]:
    documents = _documents(arguments)
    return lambda: _flash(arguments, *documents)


def _flash_backward(arguments: dict[str, Any]) -> Callable[[], Any]:
    import torch

    leaves = [one.detach().requires_grad_() for one in _documents(arguments)]
    o = _flash(arguments, *leaves)
    do = torch.randn_like(o)
    return lambda: torch.autograd.grad(o, leaves, do, retain_graph=True)


def _attention_case(
    name: str,
    dtype: str,
    heads: tuple[int, int],
    e: int,
    docs: list[int],
    block: int,
    patterns: list[tuple[int, int]],
    **more: Any,
) -> Case:
    """heads: (Hq, Hkv); patterns: (window, sinks) in blocks."""
    own = {"Hq": heads[0], "Hkv": heads[1], "E": e, "docs": docs, "block": block, "patterns": patterns}
    return Case(name, dtype, {**own, **more})


CAUSAL = (999, 0)
ATTENTION_TESTS = (
    _attention_case("one token", "float32", (1, 1), 16, [1], 16, [CAUSAL]),
    _attention_case("groups of 3, ragged documents", "float32", (3, 1), 24, [70, 5, 33], 32, [(1, 1), (2, 0)], more=2),
    _attention_case(
        "a prefix, E 80, padding", "float32", (2, 2), 80, [20, 47], 16, [(2, 1), (1, 0)], prefix=21, tail=6
    ),
    _attention_case(
        "rows without a key, unused rows", "float32", (4, 2), 16, [40, 17], 16, [(0, 0), (0, 1)], unused=2, alike=True
    ),
    _attention_case("blocks of 128, half", "float16", (2, 1), 72, [200], 128, [(1, 0), CAUSAL]),
    _attention_case("blocks of 64, a prefix, bfloat16", "bfloat16", (2, 1), 64, [130], 64, [(1, 1)], prefix=40),
)
ATTENTION_BUILDS = (
    _attention_case("E 64, blocks of 64, bfloat16", "bfloat16", (32, 32), 64, [1024] * 4, 64, [(3, 1)]),
    _attention_case("E 64, blocks of 128, bfloat16", "bfloat16", (32, 32), 64, [1024] * 4, 128, [(2, 0)]),
    _attention_case("E 80, blocks of 64, bfloat16", "bfloat16", (32, 32), 80, [1024] * 4, 64, [(3, 1)]),
    _attention_case("E 80, blocks of 128, bfloat16", "bfloat16", (32, 32), 80, [1024] * 4, 128, [(2, 0)]),
    _attention_case(
        "a prefix, 32/8 heads, E 128, blocks of 64, half", "float16", (32, 8), 128, [1024] * 2, 64, [(3, 1)], prefix=128
    ),
)
ATTENTION_GPU = tuple(
    _attention_case(
        f"{len(docs)} x {docs[0]}, E {e}, blocks of {block}", "bfloat16", (32, 32), e, docs, block, patterns
    )
    for docs, block, patterns in (
        ([1024] * 4, 64, [(3, 1), (4, 1)]),
        ([1024] * 4, 128, [(2, 0), (1, 1)]),
        ([2048] * 2, 64, [(8, 1), (6, 3)]),
        ([2048] * 2, 128, [(4, 1), (3, 1)]),
    )
    for e in (64, 80)
)

BLOCK_ATTENTION = Kernel(
    name="block_attention",
    tool="longexp-peft",
    kind="triton",
    module="block_attention",
    launcher=f"{ATTENTION}:block_attention",
    make=make_attention,
    oracle=attention_oracle,
    tolerance=TOLERANCE,
    tests=ATTENTION_TESTS,
    builds=ATTENTION_BUILDS,
    gpu=ATTENTION_GPU,
    work=_attention_work(2, 4),
    baseline=Baseline("SDPA flash, causal, dense", _flash_forward),
)

BLOCK_ATTENTION_BACKWARD = Kernel(
    name="block_attention_backward",
    tool="longexp-peft",
    kind="triton",
    module="block_attention",
    launcher=f"{ATTENTION}:block_attention_backward",
    make=make_backward,
    oracle=backward_oracle,
    tolerance={"float32": 2e-5, "float16": 4e-3, "bfloat16": 2e-2},  # p and ds are rounded before their products
    tests=ATTENTION_TESTS,
    builds=ATTENTION_BUILDS,
    gpu=ATTENTION_GPU,
    work=_attention_work(4, 10),
    baseline=Baseline("SDPA flash backward, causal, dense", _flash_backward),
)

KERNELS = [NEURON_UP, NEURON_DOWN, BLOCK_ATTENTION, BLOCK_ATTENTION_BACKWARD]
