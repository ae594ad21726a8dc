"""The rows of the GPU check that are a whole model, at a small size in Triton's interpreter."""

import dataclasses
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tenfold_kernels import device

FOLDER = Path(__file__).parents[2] / "tools" / "antkv" / "bench" / "gpu"


def loaded(name, monkeypatch):
    """A script of the folder, under the name that its neighbours import it by."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(monkeypatch):
    return loaded("rows", monkeypatch)


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


def test_the_whole_prefill_goes_on_after_a_kill_to_the_same_cache(script, monkeypatch, tmp_path):
    capacity = loaded("capacity", monkeypatch)
    size = dataclasses.replace(small(script), batch=1, held=1000)
    whole, result = capacity.fill(size, 96, tmp_path / "whole", 1e9, float("inf"))
    assert result["ok"] and result["tokens"] == 1002 and not (tmp_path / "whole").exists()

    times = itertools.count()
    monkeypatch.setattr(capacity.time, "monotonic", lambda: float(next(times)))  # a second between any two looks
    work, saves = tmp_path / "work", []

    def dies(layers, folder, seconds):
        saved(layers, folder, seconds)
        saves.append(layers[0].length)
        if len(saves) == 2:
            (folder / ".saving").mkdir()  # as a kill in the middle of the next one leaves it
            raise KeyboardInterrupt

    saved = capacity.save
    monkeypatch.setattr(capacity, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        capacity.fill(size, 96, work, 5.0, float("inf"))
    monkeypatch.setattr(capacity, "save", saved)
    again, stopped = capacity.fill(size, 96, work, 1e9, 0.0)
    assert stopped is None and saves[1] < again[0].length < 1000  # no time: one more chunk, saved
    final, result = capacity.fill(size, 96, work, 5.0, float("inf"))
    assert result["ok"] and result["tokens"] == 1002
    for one, two in zip(whole, final, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in one.TENSORS)


def test_without_a_gpu_the_whole_prefill_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, str(FOLDER / "capacity.py")], capture_output=True, text=True)
    assert done.returncode == 3 and "not yet measured" in done.stderr
