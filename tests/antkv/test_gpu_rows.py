"""The rows of the GPU check that are a whole model, at a small size in Triton's interpreter."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tenfold_kernels import device

SCRIPT = Path(__file__).parents[2] / "tools" / "antkv" / "bench" / "gpu" / "rows.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu_rows", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    sys.modules["gpu_rows"] = module
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def small(script, **more):
    return script.Size(
        layers=1, hidden=64, heads=4, kv_heads=2, dim=64, inner=96, vocabulary=50, batch=2, held=1280, prefill=80, steps=2,
        window=64, memory=2e5 + 2 * 2 * 1 * 2 * 64 * 2 * 640, dtype=torch.float16, device="cpu", **more,
    )  # fmt: skip


def test_a_step_is_timed_beside_its_twin(script):
    times = iter([0.25, 1.0])

    def timer(work):
        assert torch.isfinite(work()).all()
        return next(times)

    with device.interpreter(True):
        row = next(script.rows(timer, 1e9, small(script)))()
    assert row["ok"] and row["baseline_ratio"] == 4.0 and row["bar_met"] and row["tokens_s"] == 8.0


def test_what_fits_goes_through_antkvs_own_layers(script):
    *_, capacity = script.rows(None, 1e9, small(script))
    row = capacity()
    assert row["ok"] and row["tokens"] == 1280 + 80 + 2 and row["peak_bytes"] is None
    codes = 2 * 2 * 8 * (1280 + 64)
    assert row["cache_bytes"] > codes
