"""The kernels of antkv: anchor scores, encoding, decode by tiles, decode by tables.

Shapes of the GPU cases are LLaMA-3-8B's: 32 query heads, 8 kv-heads, D 128. Oracles are dense float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels.device import resolve
from tenfold_kernels.packing import pack_blocks, unpack_blocks
from tenfold_kernels.registry import Baseline, Case, Kernel, Work

LLAMA = {"Hq": 32, "Hkv": 8, "D": 128}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


def _random(device: Any) -> Callable[..., Any]:
    """A seeded source of normal tensors on DEVICE; on meta, of shapes alone."""
    import torch

    def normal(*shape: int, dtype: Any = torch.float32) -> Any:
        if generator is None:
            return torch.empty(shape, device=device, dtype=dtype)
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    generator = None if str(device) == "meta" else torch.Generator(device).manual_seed(0)
    return normal


def _integers(device: Any, below: int, *shape: int) -> Any:
    import torch

    if str(device) == "meta":
        return torch.empty(shape, device=device, dtype=torch.int64)
    return torch.randint(below, shape, generator=torch.Generator(device).manual_seed(1), device=device)


# ---------------------------------------------------------------- anchor_score


def make_score(case: Case, device: Any) -> dict[str, Any]:
    """Arguments with o and lse of causal attention; `start` lists each row's padding."""
    import torch

    shape, dtype, normal = case.shape, getattr(torch, case.dtype), _random(device)
    b, hq, hkv, nq, nk, d = (shape[key] for key in ("B", "Hq", "Hkv", "Nq", "Nk", "D"))
    q, k, v = (normal(b, h, n, d, dtype=dtype) for h, n in ((hq, nq), (hkv, nk), (hkv, nk)))
    start = torch.tensor(shape.get("start", [0] * b), dtype=torch.int32, device=device)
    scale = d**-0.5
    if str(device) == "meta":
        o, lse = torch.empty_like(q), q.new_empty(b, hq, nq, dtype=torch.float32)
    else:
        o, lse = causal_attention(q, k, v, scale, start)
        o, lse = o.to(dtype), lse.float()
    return {"q": q, "k": k, "v": v, "o": o, "lse": lse, "scale": scale, "start": start, "mode": shape["mode"]}


def causal_attention(q: Any, k: Any, v: Any, scale: float, start: Any) -> tuple[Any, Any]:
    """Dense float64 attention: o (B, Hq, Nq, D), 0 for padded queries, and lse (B, Hq, Nq), -inf for these."""
    import torch

    o = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    lse = torch.full(q.shape[:3], float("-inf"), dtype=torch.float64, device=q.device)
    for b, h, rows, seen in _pieces(q, k, start):
        s = q[b, h, rows].double() @ k[b, h // (q.shape[1] // k.shape[1])].double().T * scale
        s = s.masked_fill(~seen, float("-inf"))
        lse[b, h, rows] = s.logsumexp(-1)
        o[b, h, rows] = s.softmax(-1).nan_to_num() @ v[b, h // (q.shape[1] // k.shape[1])].double()
    return o, lse


def _pieces(q: Any, k: Any, start: Any) -> Any:
    """(row, query head, slice of queries, which keys each sees): pieces of the n x n matrix that fit memory."""
    import torch

    nq, nk = q.shape[2], k.shape[2]
    keys = torch.arange(nk, device=q.device)
    for b in range(q.shape[0]):
        begin = start[b]
        for h in range(q.shape[1]):
            for at in range(0, nq, 2048):
                rows = slice(at, min(at + 2048, nq))
                place = torch.arange(rows.start, rows.stop, device=q.device)[:, None] + nk - nq
                yield b, h, rows, (keys <= place) & (keys >= begin) & (place >= begin)


def score_oracle(arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The module's equations, piece by piece of the dense matrix."""
    import torch

    q, k, v, o, lse = (arguments[key] for key in ("q", "k", "v", "o", "lse"))
    scale, start, mode = arguments["scale"], arguments["start"], arguments["mode"]
    group = q.shape[1] // k.shape[1]
    fk, fv = (torch.zeros(k.shape[:3], dtype=torch.float64, device=q.device) for _ in range(2))
    for b, h, rows, seen in _pieces(q, k, start):
        queries, values, outputs = q[b, h, rows].double(), v[b, h // group].double(), o[b, h, rows].double()
        s = queries @ k[b, h // group].double().T * scale
        a = torch.where(seen, (s - lse[b, h, rows].double()[:, None]).exp(), 0.0)
        # Exact to 1e-8 of the vectors' norms; torch.cdist's own direct way is slow for what a GPU checks.
        gap = torch.cdist(outputs, values) if len(values) <= 512 else _distances(outputs, values)
        term = a * gap * scale * queries.norm(dim=-1)[:, None]
        power = 2 if mode == "bound2" else 1
        fk[b, h // group] += (term**power).sum(0)
        fv[b, h // group] += (a**power).sum(0)
    return (None if mode == "mass" else fk), fv


def _distances(a: Any, b: Any) -> Any:
    return (a.square().sum(-1)[:, None] - 2 * a @ b.T + b.square().sum(-1)).clamp(min=0).sqrt()


def score_work(arguments: dict[str, Any]) -> Work:
    q, k = arguments["q"], arguments["k"]
    b, hq, nq, d = q.shape
    nk = k.shape[2]
    pairs = b * hq * (nq * (nk - nq) + nq * (nq + 1) / 2)
    products = 1 if arguments["mode"] == "mass" else 2
    size = q.element_size()
    read = size * d * (2 * b * hq * nq + 2 * b * k.shape[1] * nk) + 4 * b * hq * nq
    return Work(read + 8 * b * k.shape[1] * nk, 2 * d * pairs * products)


def _flash_prefill(arguments: dict[str, Any]) -> Callable[[], Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v, scale = (arguments[key] for key in ("q", "k", "v", "scale"))
    # Of fewer queries than keys, SDPA's causal mask would stand at the wrong corner: all keys are seen then.
    causal = q.shape[2] == k.shape[2]

    def run() -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)

    return run


def _score_case(
    name: str, dtype: str, b: int, hq: int, hkv: int, nq: int, nk: int, d: int, mode: str, **more: Any
) -> Case:
    return Case(name, dtype, {"B": b, "Hq": hq, "Hkv": hkv, "Nq": nq, "Nk": nk, "D": d, "mode": mode, **more})


SCORE = Kernel(
    name="anchor_score",
    tool="antkv",
    kind="triton",
    module="anchor_score",
    launcher="tenfold_shared.launch.anchor_score:anchor_score",
    make=make_score,
    oracle=score_oracle,
    tolerance={"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2},
    tests=(
        _score_case("one token", "float32", 1, 1, 1, 1, 1, 64, "bound"),
        _score_case("tails, groups of 3", "float32", 2, 6, 2, 75, 75, 64, "bound"),
        _score_case("squares, groups of 4, padding", "float32", 2, 4, 1, 67, 67, 64, "bound2", start=[0, 41]),
        _score_case("mass, a row all padding but one", "float32", 2, 3, 1, 40, 40, 64, "mass", start=[39, 3]),
        _score_case("fewer queries than keys", "float32", 1, 3, 1, 37, 101, 128, "bound"),
        _score_case("one query", "float32", 2, 4, 1, 1, 90, 64, "bound2", start=[0, 70]),
        _score_case("half", "float16", 1, 2, 2, 70, 70, 128, "bound"),
        _score_case("bfloat16", "bfloat16", 1, 3, 1, 70, 130, 64, "bound2", start=[65]),
    ),
    builds=(
        _score_case("bound, D 128, half", "float16", 1, 32, 8, 256, 8192, 128, "bound"),
        _score_case("bound2, D 128, bfloat16", "bfloat16", 1, 32, 8, 8192, 8192, 128, "bound2"),
        _score_case("mass, D 128, bfloat16", "bfloat16", 1, 32, 8, 8192, 8192, 128, "mass"),
        _score_case("bound2, D 64, bfloat16", "bfloat16", 4, 9, 3, 2048, 2048, 64, "bound2"),
        _score_case("bound2, D 64, float32", "float32", 1, 9, 3, 2048, 2048, 64, "bound2"),
        _score_case("bound, D 128, float32", "float32", 1, 32, 8, 2048, 2048, 128, "bound"),
    ),
    gpu=(
        _score_case("8K, full range, bound2", "bfloat16", 1, 32, 8, 8192, 8192, 128, "bound2"),
        _score_case("8K, full range, mass", "bfloat16", 1, 32, 8, 8192, 8192, 128, "mass"),
        _score_case("last 256 queries of 32K, bound2", "bfloat16", 1, 32, 8, 256, 32768, 128, "bound2"),
    ),
    work=score_work,
    baseline=Baseline("SDPA flash forward", _flash_prefill),
)

# ---------------------------------------------------------------- vq_encode


def make_encode(case: Case, device: Any) -> dict[str, Any]:
    import torch

    shape, dtype, normal = case.shape, getattr(torch, case.dtype), _random(device)
    n, h, m, c, sub = (shape[key] for key in ("N", "H", "M", "C", "d"))
    return {
        "x": normal(n, h, m, sub, dtype=dtype),
        "codebook": normal(h, m, c, sub, dtype=dtype),
        "want_error": shape.get("want_error", True),
    }


def encode_oracle(arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Indices of the nearest centroids and their squared errors."""
    import torch

    x, codebook = arguments["x"].double(), arguments["codebook"].double()
    index = torch.empty(x.shape[:3], dtype=torch.float64, device=x.device)
    error = torch.empty_like(index)
    for h in range(x.shape[1]):
        for m in range(x.shape[2]):
            for at in range(0, x.shape[0], 4096):
                rows = slice(at, at + 4096)
                # argmin's choice among equals is not promised; the first of the least is.
                gaps = _distances(x[rows, h, m], codebook[h, m]).square()
                least = gaps.min(-1).values
                index[rows, h, m] = (gaps == least[:, None]).to(torch.float32).argmax(-1).double()
                error[rows, h, m] = least
    return index, (error if arguments["want_error"] else None)


def encode_error(result: Any, truth: Any) -> float:
    """Of indices: the part that differs (near ties may); of errors: relative_error."""
    from tenfold_kernels.registry import relative_error

    if result.dtype.is_floating_point:
        return relative_error(result, truth)
    return float((result.double() != truth).double().mean()) if result.numel() else 0.0


def encode_work(arguments: dict[str, Any]) -> Work:
    x, codebook = arguments["x"], arguments["codebook"]
    n, h, m, sub = x.shape
    c = codebook.shape[2]
    out = (1 if c <= 256 else 2) + (4 if arguments["want_error"] else 0)
    return Work(n * h * m * (sub * x.element_size() + out), 2 * n * h * m * c * sub)


def _torch_encode(arguments: dict[str, Any]) -> Callable[[], Any]:
    x, codebook = arguments["x"], arguments["codebook"]
    rows = x.permute(1, 2, 0, 3).contiguous()  # (H, M, N, d)
    norms = codebook.float().square().sum(-1)

    def run() -> Any:
        return (norms[:, :, None] - 2 * (rows @ codebook.transpose(-1, -2))).argmin(-1)

    return run


def _encode_case(name: str, dtype: str, n: int, h: int, m: int, c: int, sub: int, **more: Any) -> Case:
    return Case(name, dtype, {"N": n, "H": h, "M": m, "C": c, "d": sub, **more})


ENCODE = Kernel(
    name="vq_encode",
    tool="antkv",
    kind="triton",
    module="vq_encode",
    launcher="tenfold_shared.launch.vq_encode:vq_encode",
    make=make_encode,
    oracle=encode_oracle,
    tolerance={"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-3},
    worst=encode_error,
    tests=(
        _encode_case("one vector", "float32", 1, 1, 1, 1, 8),
        _encode_case("no vector", "float32", 0, 2, 2, 16, 8),
        *(_encode_case(f"d {sub}", "float32", 37, 2, 3, 70, sub) for sub in (2, 4, 8, 16, 32)),
        _encode_case("int16 indices", "float16", 33, 1, 2, 300, 16),
        _encode_case("bfloat16, no error wanted", "bfloat16", 40, 2, 2, 64, 8, want_error=False),
    ),
    builds=(
        _encode_case("d 8, C 256, half", "float16", 1024, 8, 16, 256, 8),
        _encode_case("d 2, C 256, bfloat16", "bfloat16", 1024, 8, 64, 256, 2),
        _encode_case("d 16, C 64, bfloat16", "bfloat16", 1024, 8, 8, 64, 16),
        _encode_case("d 32, C 4096, half", "float16", 1024, 8, 4, 4096, 32),
        _encode_case("d 8, C 256, float32", "float32", 1024, 8, 16, 256, 8),
    ),
    gpu=(
        _encode_case("8K tokens, d 8, C 256", "float16", 8192, 8, 16, 256, 8),
        _encode_case("8K tokens, d 32, C 4096", "float16", 8192, 8, 4, 4096, 32),
        _encode_case("128 tokens, d 8, C 256", "float16", 128, 8, 16, 256, 8),
    ),
    work=encode_work,
    baseline=Baseline("torch matmul and argmin", _torch_encode),
)

# ---------------------------------------------------------------- vq_decode, both designs


def make_decode(case: Case, device: Any) -> dict[str, Any]:
    """A cache of random codes, a part of its slots invalid, with anchors and a window."""
    import torch

    launch = "tenfold_shared.launch.vq_decode:"
    coded_type, dense_type, rope_type = (resolve(launch + name) for name in ("Coded", "Dense", "Rope"))
    shape, dtype, normal = case.shape, getattr(torch, case.dtype), _random(device)
    b, hq, hkv, d, n, block = (shape[key] for key in ("B", "Hq", "Hkv", "D", "n", "block"))
    shown = shape.get("valid", 0.9)

    def codes(bits: int, sub: int) -> tuple[Any, Any]:
        blocks = -(-n // block)
        if str(device) == "cpu":
            packed = pack_blocks(_integers(device, 1 << bits, b, hkv, n, d // sub), bits, block)
        else:  # random bytes are random indices, without the memory that packing takes
            packed = _integers(device, 256, b, hkv, blocks, d // sub, block * bits // 8).to(torch.uint8)
        return packed, normal(hkv, d // sub, 1 << bits, sub, dtype=dtype)

    k_codes, k_book = codes(shape["k_bits"], shape["k_sub"])
    v_codes, v_book = codes(shape["v_bits"], shape["v_sub"])
    rope = None
    if shape["rope"]:
        inv_freq = 10000.0 ** (-torch.arange(0, d, 2, device=device, dtype=torch.float64) / d)
        rope = rope_type(inv_freq, torch.arange(b, device=device) * -3)
    valid = _integers(device, 1000, b, hkv, n + 3) < 1000 * shown
    coded = coded_type(k_codes, v_codes, k_book, v_book, shape["k_bits"], shape["v_bits"], n, valid, rope)
    dense = []
    for entries in shape["dense"]:
        k, v = (normal(b, hkv, entries, d, dtype=dtype) for _ in range(2))
        positions = _integers(device, 1000, b, hkv, entries).to(torch.int32) - int(1000 * (1 - shown))
        dense.append(dense_type(k, v, positions))
    q = normal(b, hq, d, dtype=dtype)
    return {"q": q, "coded": coded, "dense": dense, "scale": d**-0.5, "design": shape["design"]}


def dequantised(coded: Any, b: int, h: int) -> tuple[Any, Any]:
    """Keys (after RoPE) and values of one row and kv-head, float64 (n, D)."""
    import torch

    def read(codes: Any, book: Any, bits: int) -> Any:
        index = unpack_blocks(codes[b, h], bits, coded.n).long()
        picked = [book[h, m].double()[index[:, m]] for m in range(book.shape[1])]
        return torch.cat(picked, -1)

    k = read(coded.k_codes, coded.k_book, coded.k_bits)
    if coded.rope is not None:
        shift = 0 if coded.rope.shift is None else coded.rope.shift[b]
        place = (torch.arange(coded.n, device=k.device) + shift).double()
        angle = place[:, None] * coded.rope.inv_freq.double()
        low, high = k.chunk(2, -1)
        k = torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)
    return k, read(coded.v_codes, coded.v_book, coded.v_bits)


def decode_oracle(arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Dense attention over the union of the parts' keys, one row and kv-head at a time."""
    import torch

    q, coded, dense = arguments["q"], arguments["coded"], arguments["dense"]
    b, hq, _ = q.shape
    hkv = (coded.k_codes if coded is not None else dense[0].k).shape[1]
    group = hq // hkv
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    lse = torch.full((b, hq), float("-inf"), dtype=torch.float64, device=q.device)
    for row in range(b):
        for h in range(hkv):
            keys, values = [], []
            if coded is not None and coded.n:
                k, v = dequantised(coded, row, h)
                seen = coded.valid[row, h % coded.valid.shape[1], : coded.n] != 0
                keys.append(k[seen])
                values.append(v[seen])
            for part in dense:
                seen = part.positions[row, h % part.positions.shape[1]] >= 0
                keys.append(part.k[row, h].double()[seen])
                values.append(part.v[row, h].double()[seen])
            k, v = torch.cat(keys), torch.cat(values)
            heads = slice(h * group, (h + 1) * group)
            s = q[row, heads].double() @ k.T * arguments["scale"]
            if len(k):
                out[row, heads] = s.softmax(-1) @ v
                lse[row, heads] = s.logsumexp(-1)
    return out, lse


def decode_work(arguments: dict[str, Any]) -> Work:
    q, coded = arguments["q"], arguments["coded"]
    b, hq, d = q.shape
    hkv = coded.k_codes.shape[1]
    token = coded.k_book.shape[1] * coded.k_bits / 8 + coded.v_book.shape[1] * coded.v_bits / 8 + 1
    books = (coded.k_book.numel() + coded.v_book.numel()) * coded.k_book.element_size()
    entries = sum(part.k.shape[2] for part in arguments["dense"])
    dense = b * hkv * entries * (2 * d * q.element_size() + 4)
    return Work(b * hkv * coded.n * token + books + dense, 4 * d * b * hq * (coded.n + entries))


def _flash_decode(arguments: dict[str, Any]) -> Callable[[], Any]:
    """SDPA over a 16-bit cache of as many tokens, all of them seen."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    q, coded, scale = arguments["q"], arguments["coded"], arguments["scale"]
    b, _, d = q.shape
    shape = (b, coded.k_codes.shape[1], coded.n, d)
    k, v = (torch.empty(shape, dtype=q.dtype, device=q.device).normal_() for _ in range(2))

    def run() -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q[:, :, None], k, v, scale=scale, enable_gqa=True)

    return run


def _decode_case(
    name: str,
    dtype: str,
    shape: dict[str, int],
    n: int,
    keys: tuple[int, int],
    values: tuple[int, int],
    *,
    design: str = "tile",
    rope: bool = False,
    dense: tuple[int, ...] = (),
    block: int = 128,
    **more: Any,
) -> Case:
    """keys, values: (d, bits) of their codebooks."""
    (k_sub, k_bits), (v_sub, v_bits) = keys, values
    own = {"k_sub": k_sub, "k_bits": k_bits, "v_sub": v_sub, "v_bits": v_bits}
    return Case(
        name, dtype, {**shape, "n": n, **own, "design": design, "rope": rope, "dense": dense, "block": block, **more}
    )


def _small(b: int, hq: int, hkv: int, d: int) -> dict[str, int]:
    return {"B": b, "Hq": hq, "Hkv": hkv, "D": d}


LONG, DENSE = 131072, (1311, 128)  # 1 % anchors, a window
DECODE_TILE = Kernel(
    name="vq_decode",
    tool="antkv",
    kind="triton",
    module="vq_decode",
    launcher="tenfold_shared.launch.vq_decode:vq_decode",
    make=make_decode,
    oracle=decode_oracle,
    tolerance=TOLERANCE,
    tests=(
        _decode_case("one token", "float32", _small(2, 1, 1, 64), 1, (2, 2), (8, 4), block=16),
        _decode_case("no token, dense alone", "float32", _small(2, 3, 1, 64), 0, (8, 8), (8, 8), dense=(5, 66)),
        _decode_case(
            "after RoPE, groups of 3", "float32", _small(2, 6, 2, 64), 130, (8, 8), (8, 8), dense=(7, 9), block=32
        ),
        _decode_case(
            "before RoPE", "float32", _small(2, 6, 2, 64), 130, (8, 8), (8, 8), dense=(7, 9), rope=True, block=64
        ),
        _decode_case(
            "before RoPE, 6 and 12 bits, groups of 4",
            "float32",
            _small(1, 4, 1, 128),
            200,
            (16, 6),
            (32, 12),
            rope=True,
        ),
        _decode_case("all slots invalid", "float32", _small(1, 2, 1, 64), 40, (8, 8), (8, 8), valid=0.0, dense=(3,)),
        _decode_case("two sub-vectors before RoPE", "float32", _small(1, 2, 2, 64), 70, (32, 6), (4, 8), rope=True),
        _decode_case("half", "float16", _small(1, 2, 2, 128), 77, (16, 6), (16, 6), rope=True, dense=(4,)),
        _decode_case("bfloat16", "bfloat16", _small(1, 4, 1, 64), 90, (8, 8), (8, 8), rope=True, dense=(4,), block=64),
    ),
    builds=(
        _decode_case(
            "1 bit, before RoPE, half", "float16", {"B": 8, **LLAMA}, LONG, (8, 8), (8, 8), rope=True, dense=DENSE
        ),
        _decode_case("1 bit, after RoPE, bfloat16", "bfloat16", {"B": 8, **LLAMA}, LONG, (8, 8), (8, 8), dense=DENSE),
        _decode_case("4 bits, before RoPE, bfloat16", "bfloat16", {"B": 8, **LLAMA}, LONG, (2, 8), (2, 8), rope=True),
        _decode_case(
            "0.375 bits (4096), before RoPE, half", "float16", {"B": 8, **LLAMA}, LONG, (32, 12), (32, 12), rope=True
        ),
        _decode_case(
            "0.375 bits (64), before RoPE, bfloat16", "bfloat16", {"B": 8, **LLAMA}, LONG, (16, 6), (16, 6), rope=True
        ),
        _decode_case(
            "1 bit, before RoPE, D 64",
            "bfloat16",
            _small(4, 9, 3, 64),
            4096,
            (8, 8),
            (8, 8),
            rope=True,
            dense=(41, 128),
        ),
    ),
    gpu=(
        _decode_case(
            "1 bit, before RoPE, 8 x 128K", "float16", {"B": 8, **LLAMA}, LONG, (8, 8), (8, 8), rope=True, dense=DENSE
        ),
        _decode_case("1 bit, after RoPE, 8 x 128K", "float16", {"B": 8, **LLAMA}, LONG, (8, 8), (8, 8), dense=DENSE),
        _decode_case(
            "0.375 bits (64), before RoPE, 8 x 128K",
            "float16",
            {"B": 8, **LLAMA},
            LONG,
            (16, 6),
            (16, 6),
            rope=True,
            dense=DENSE,
        ),
        _decode_case(
            "0.375 bits (4096), before RoPE, 8 x 128K",
            "float16",
            {"B": 8, **LLAMA},
            LONG,
            (32, 12),
            (32, 12),
            rope=True,
            dense=DENSE,
        ),
        _decode_case(
            "1 bit, before RoPE, 1 x 32K",
            "float16",
            {"B": 1, **LLAMA},
            32768,
            (8, 8),
            (8, 8),
            rope=True,
            dense=(328, 128),
        ),
    ),
    work=decode_work,
    baseline=Baseline("SDPA flash, 16-bit cache", _flash_decode),
)

DECODE_TABLES = Kernel(
    name="vq_decode_tables",
    tool="antkv",
    kind="cuda",
    module="vq_decode_tables",
    launcher="tenfold_shared.launch.vq_decode:vq_decode",
    make=make_decode,
    oracle=decode_oracle,
    # Half tables round each of the M terms of a score to 2^-11 of it.
    tolerance={"float16": 5e-3, "bfloat16": 1e-2},
    tests=(
        _decode_case("one token", "float16", _small(1, 1, 1, 64), 1, (8, 8), (8, 8), design="tables", block=16),
        _decode_case(
            "two chunks, groups of 4", "float16", _small(1, 4, 1, 64), 1100, (8, 8), (8, 8), design="tables", dense=(3,)
        ),
        _decode_case(
            "groups of 3, 6 bits", "bfloat16", _small(2, 3, 1, 64), 70, (16, 6), (16, 6), design="tables", block=64
        ),
        _decode_case("12 bits, half tables", "float16", _small(1, 2, 1, 64), 1030, (32, 12), (32, 12), design="tables"),
        _decode_case("2 and 4 bits", "float16", _small(1, 2, 2, 128), 130, (8, 2), (4, 4), design="tables", block=32),
        _decode_case(
            "all slots invalid", "float16", _small(1, 2, 1, 64), 40, (8, 8), (8, 8), design="tables", valid=0.0
        ),
    ),
    builds=(
        _decode_case("1 bit, groups of 4", "float16", {"B": 8, **LLAMA}, LONG, (8, 8), (8, 8), design="tables"),
        _decode_case(
            "0.375 bits (4096), half tables", "bfloat16", {"B": 8, **LLAMA}, LONG, (32, 12), (32, 12), design="tables"
        ),
        _decode_case(
            "0.75 bits (4096), half tables", "float16", {"B": 8, **LLAMA}, LONG, (16, 12), (16, 12), design="tables"
        ),
        _decode_case("0.375 bits (64)", "bfloat16", {"B": 8, **LLAMA}, LONG, (16, 6), (16, 6), design="tables"),
        _decode_case("4 bits", "float16", {"B": 8, **LLAMA}, LONG, (2, 8), (2, 8), design="tables"),
        _decode_case(
            "1 bit, D 64, groups of 3", "bfloat16", _small(4, 9, 3, 64), 4096, (8, 8), (8, 8), design="tables"
        ),
    ),
    gpu=(
        _decode_case(
            "1 bit, 8 x 128K", "float16", {"B": 8, **LLAMA}, LONG, (8, 8), (8, 8), design="tables", dense=DENSE
        ),
        _decode_case(
            "0.375 bits (4096), 8 x 128K",
            "float16",
            {"B": 8, **LLAMA},
            LONG,
            (32, 12),
            (32, 12),
            design="tables",
            dense=DENSE,
        ),
        _decode_case(
            "0.375 bits (64), 8 x 128K",
            "float16",
            {"B": 8, **LLAMA},
            LONG,
            (16, 6),
            (16, 6),
            design="tables",
            dense=DENSE,
        ),
        _decode_case(
            "1 bit, 32 kv-heads, 2 x 128K",
            "float16",
            {"B": 2, "Hq": 32, "Hkv": 32, "D": 128},
            LONG,
            (8, 8),
            (8, 8),
            design="tables",
        ),
    ),
    work=decode_work,
    baseline=Baseline("SDPA flash, 16-bit cache", _flash_decode),
)

KERNELS = [SCORE, ENCODE, DECODE_TILE, DECODE_TABLES]
