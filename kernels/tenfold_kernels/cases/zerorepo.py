"""The kernel of zerorepo: exact search among feature vectors.

The GPU cases are the size of the feature tree of arXiv 2509.16198, 784,524 nodes, with vectors of 384 numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold_kernels.registry import Baseline, Case, Kernel, Work, relative_error


def make_scan(case: Case, device: Any) -> dict[str, Any]:
    """Random rows of length about 1; `whole`: few small integers, so that products are exact and ties are many;
    `equal`: so many different rows, over and over; `nan`: rows that hold one; `pad`: unused numbers after each row."""
    import torch

    shape, dtype = case.shape, getattr(torch, case.dtype)
    b, n, d = (shape[key] for key in ("B", "N", "d"))
    generator = None if str(device) == "meta" else torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Any:
        made = torch.empty(size, dtype=torch.float32, device=device)
        if generator is None:
            return made
        made = made.normal_(generator=generator)
        return made.round().clamp(-1, 1) if shape.get("whole") else made.mul_(d**-0.5)

    e = normal(n, d + shape.get("pad", 0)).to(dtype)[:, :d]
    if "equal" in shape:
        e = e[torch.arange(n, device=device) % shape["equal"]]
    if shape.get("nan") and generator is not None:
        e[list(shape["nan"]), d // 2] = float("nan")
    return {"q": normal(b, d).to(getattr(torch, shape.get("q", case.dtype))), "e": e, "k": shape["k"]}


def scan_oracle(arguments: dict[str, Any]) -> tuple[Any, Any]:
    """All products in float64, a stable sort of each query's."""
    import torch

    q, e, k = arguments["q"].double(), arguments["e"], arguments["k"]
    z = torch.cat([q @ part.double().T for part in e.split(65536)], 1)
    z = torch.where(z.isfinite(), z, float("-inf"))
    # Equal rows may differ in the last bits of a float64 product; the kernel knows them as equal.
    order = torch.stack([row.float().sort(descending=True, stable=True).indices[:k] for row in z])
    return z.gather(1, order), order.double()


def scan_error(result: Any, truth: Any) -> float:
    """Of scores: relative_error. Of rows: a hundredth of the part of places with another row than the oracle's, so that
    one in a thousand may differ: among 784,524 random scores some are as close as float32 can tell."""
    if result.dtype.is_floating_point:
        return relative_error(result, truth)
    return float((result != truth).double().mean()) / 100


def scan_work(arguments: dict[str, Any]) -> Work:
    q, e, k = arguments["q"], arguments["e"], arguments["k"]
    written = 12 * len(q) * k
    return Work(e.element_size() * e.numel() + q.element_size() * q.numel() + written, 2 * len(q) * e.numel())


def _torch_topk(arguments: dict[str, Any]) -> Callable[[], Any]:
    import torch

    q, e, k = arguments["q"].to(arguments["e"].dtype), arguments["e"], arguments["k"]
    return lambda: torch.topk(q @ e.T, k)


def _case(name: str, dtype: str, b: int, n: int, d: int, k: int, **more: Any) -> Case:
    return Case(name, dtype, {"B": b, "N": n, "d": d, "k": k, **more})


TREE = 784_524
SCAN_TOPK = Kernel(
    name="scan_topk",
    tool="zerorepo",
    kind="triton",
    module="scan_topk",
    launcher="tenfold_shared.launch.scan_topk:scan_topk",
    make=make_scan,
    oracle=scan_oracle,
    tolerance={"float32": 1e-5, "float16": 1e-5, "bfloat16": 1e-5},
    worst=scan_error,
    tests=(
        _case("one row, one number", "float32", 1, 1, 1, 1),
        _case("a tail, d 33", "float32", 3, 301, 33, 7),
        _case("k is N, less than a chunk", "float32", 5, 100, 48, 100),
        _case("k more than groups", "float16", 2, 130, 64, 128),
        _case("ties, 17 queries", "float16", 17, 1000, 64, 12, whole=True),
        _case("equal rows", "float16", 4, 900, 96, 100, equal=7),
        _case("rows with NaN, at the end", "float16", 3, 60, 64, 60, nan=[0, 17, 59]),
        _case("rows apart, 65 queries", "float16", 65, 700, 384, 4, pad=8),
        _case("float32 queries", "float16", 9, 2000, 384, 20, q="float32"),
        _case("float32 queries, ties", "float16", 2, 500, 80, 128, q="float32", whole=True),
        _case("bfloat16, d 1000", "bfloat16", 2, 260, 1000, 16),
        _case("float32 queries, three parts", "bfloat16", 3, 400, 384, 30, q="float32"),
        _case("bfloat16 queries, float32 rows", "float32", 2, 300, 100, 3, q="bfloat16"),
        _case("several chunks", "float16", 1, 70_000, 16, 128, whole=True),
    ),
    builds=(
        _case("1 query, d 384, k 10, half", "float16", 1, TREE, 384, 10),
        _case("64 queries of 32 bits, d 384, k 128, half", "float16", 64, TREE, 384, 128, q="float32"),
        _case("64 queries, d 1024, k 10, bfloat16", "bfloat16", 64, TREE, 1024, 10),
        _case("20 queries, d 384, k 50, float32", "float32", 20, TREE, 384, 50),
    ),
    gpu=(
        *(_case(f"{b} x {TREE:,} x 384, k {k}", "float16", b, TREE, 384, k) for b, k in ((1, 10), (16, 10), (64, 10))),
        _case(f"64 x {TREE:,} x 384, k 128", "float16", 64, TREE, 384, 128),
        _case(f"1 x {TREE:,} x 384, k 10, float32 query", "float16", 1, TREE, 384, 10, q="float32"),
        _case(f"64 x {TREE:,} x 384, k 10, float32 queries", "float16", 64, TREE, 384, 10, q="float32"),
    ),
    work=scan_work,
    baseline=Baseline("torch.topk(q @ e.T)", _torch_topk),
)

KERNELS = [SCAN_TOPK]
