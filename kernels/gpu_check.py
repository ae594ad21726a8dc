"""`python3 kernels/gpu_check.py`: every registered kernel on this machine's GPU, against oracle and floor.

Needs torch, triton, cupy and numpy beside the standard library, and this checkout; no network. ROWS=antkv
runs one tool's kernels; OUT is the folder of the results (default kernels/results). Writes <gpu>.json:
the card's copy and bfloat16 matmul ceilings, measured first, and rows {kernel, case, max_rel_err, ms,
bytes_s, flop_s, floor_ratio, baseline, baseline_ratio, ok}:
  floor_ratio     ms over the least time that the ceilings allow for the bytes and flops of the case
  baseline_ratio  the baseline's ms over ours: above 1 is faster than it
Before them stand the rows of tools/*/bench/gpu/rows.py, outside these seconds: a whole model's step, and what fits.
The registry's small odd cases follow (error alone, no times), as far as 80 seconds a tool go.
A kernel that fails is a row with ok false and its error. Exit 0 all right, 1 a row is not, 3 no GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "shared")]

SECONDS = 80.0  # a tool
RESERVE = 4.0  # what one more case may take


def main() -> int:
    started = time.monotonic()
    try:
        import torch
    except ImportError as error:
        print(f"torch cannot be imported ({error}); the kernels are not yet measured on a GPU", file=sys.stderr)
        return 3
    if not torch.cuda.is_available():
        print("no CUDA device; the kernels are not yet measured on a GPU", file=sys.stderr)
        return 3
    os.environ.pop("TRITON_INTERPRET", None)
    from tenfold_kernels.registry import TOOLS, kernels

    wanted = os.environ.get("ROWS") or None
    known = sorted({*TOOLS, *(path.parents[2].name for path in row_files())})
    if wanted is not None and wanted not in known:
        print(f"ROWS={wanted}: expected one of {', '.join(known)}", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name()
    copy, matmul = copy_ceiling(), matmul_ceiling()
    print(f"{name}: copy {copy / 1e12:.2f} TB/s, bfloat16 matmul {matmul / 1e12:.0f} TFLOP/s", flush=True)
    found = kernels(wanted) if wanted is None or wanted in TOOLS else []
    begun = time.monotonic()
    jobs = [(kernel, case, True) for kernel in found for case in kernel.gpu]
    jobs += [(kernel, case, False) for kernel in found for case in kernel.tests]
    rows = [*wholes(wanted, copy)]
    allowed = SECONDS * max(1, len({kernel.tool for kernel in found}))
    started += time.monotonic() - begun
    for kernel, case, timed in jobs:
        if time.monotonic() - started > allowed - RESERVE:
            rows.append(row_of(kernel, case) | {"error": f"not run: the {allowed:.0f} seconds were over"})
        else:
            rows.append(measured(kernel, case, timed, copy, matmul))
        torch.cuda.empty_cache()
        print(line_of(rows[-1]), flush=True)
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() + ".json")
    result = {"gpu": name, "torch": torch.__version__, "triton": version("triton"), "cupy": version("cupy")}
    result |= {"copy_bytes_s": copy, "matmul_flop_s": matmul, "seconds": round(time.monotonic() - started, 1)}
    file.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    bad = [row for row in rows if not row["ok"]]
    print(f"{len(rows) - len(bad)} of {len(rows)} rows are all right; {file}")
    return 1 if bad else 0


def row_files() -> list[Path]:
    return sorted(HERE.parent.glob("tools/*/bench/gpu/rows.py"))


def wholes(wanted: str | None, copy: float) -> Iterator[dict[str, Any]]:
    """Rows that are more than one kernel: what tools/<tool>/bench/gpu/rows.py measures (a model's step, what fits)."""
    import torch

    for path in row_files():
        tool = path.parents[2].name
        if wanted not in (None, tool):
            continue
        spec = importlib.util.spec_from_file_location(f"gpu_rows_{tool.replace('-', '_')}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        for measure in module.rows(median_seconds, copy):
            try:
                row = measure()
            except Exception as error:  # of whatever library; the kernels are still to be seen
                told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                row = {"kernel": f"{tool} whole", "case": "", "max_rel_err": None, "ms": None, "floor_ratio": None}
                row |= {"baseline_ratio": None, "ok": False, "error": told}
            torch.cuda.empty_cache()
            print(line_of(row), flush=True)
            yield row


def version(package: str) -> str | None:
    try:
        return str(__import__(package).__version__)
    except ImportError:
        return None


def row_of(kernel: Any, case: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("max_rel_err", "ms", "bytes_s", "flop_s", "floor_ratio", "baseline", "baseline_ratio"))
    return {"kernel": kernel.name, "case": case.name, **empty, "ok": False}


def line_of(row: dict[str, Any]) -> str:
    parts = [f"{'ok ' if row['ok'] else 'BAD'} {row['kernel']} / {row['case']}"]
    parts += [
        f"{key} {row[key]:.3g}"
        for key in ("max_rel_err", "ms", "floor_ratio", "baseline_ratio")
        if row[key] is not None
    ]
    return ": ".join([parts[0], ", ".join(parts[1:] + ([row["error"]] if "error" in row else []))])


def measured(kernel: Any, case: Any, timed: bool, copy: float, matmul: float) -> dict[str, Any]:
    """The row of one case; what goes wrong in it becomes its `error`."""
    import torch

    from tenfold_kernels.device import resolve
    from tenfold_kernels.registry import check

    row = row_of(kernel, case)
    try:
        arguments = kernel.make(case, torch.device("cuda"))
        launch = resolve(kernel.launcher)
        row["max_rel_err"] = check(kernel, arguments, launch(**arguments))
        row["ok"] = row["max_rel_err"] <= kernel.tolerance[case.dtype]
        if timed:
            seconds = median_seconds(lambda: launch(**arguments))
            work = kernel.work(arguments)
            row |= {"ms": seconds * 1e3, "bytes_s": work.bytes / seconds, "flop_s": work.flops / seconds}
            row["floor_ratio"] = seconds / max(work.bytes / copy, work.flops / matmul)
            if kernel.baseline is not None:
                row["baseline"] = kernel.baseline.name
                try:
                    row["baseline_ratio"] = median_seconds(kernel.baseline.prepare(arguments)) / seconds
                except Exception as error:  # says nothing of our kernel
                    row["baseline"] += f" (failed: {type(error).__name__}: {' '.join(str(error).split())[:200]})"
    except Exception as error:  # of whatever library; the other kernels are still to be seen
        row |= {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return row


def median_seconds(run: Callable[[], Any], budget: float = 0.5) -> float:
    """Median of 5 to 50 runs by CUDA events, after two that warm up; about BUDGET seconds in all."""
    import torch

    run()
    torch.cuda.synchronize()
    begun = time.monotonic()
    run()
    torch.cuda.synchronize()
    count = max(5, min(50, int(budget / max(time.monotonic() - begun, 1e-5))))
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for before, after in marks:
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in marks) / 1e3


def copy_ceiling() -> float:
    """Bytes read and written a second by a large copy."""
    import torch

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source))


def matmul_ceiling() -> float:
    """Operations a second of a large bfloat16 product."""
    import torch

    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * 8192**3 / median_seconds(lambda: a @ b)


if __name__ == "__main__":
    sys.exit(main())
