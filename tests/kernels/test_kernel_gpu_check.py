"""The GPU check on a machine without a GPU, and what it is made of."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "kernels" / "gpu_check.py"


def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def test_without_a_gpu_it_says_so_and_exits_3(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OUT": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.strip() == "no CUDA device; the kernels are not yet measured on a GPU"
    assert list(tmp_path.iterdir()) == []


def pretend_gpu(monkeypatch, check, tmp_path):
    """What the check asks of torch.cuda, on CPU with times of half a second: its own code runs as it is."""
    pretended = {"is_available": lambda: True, "get_device_name": lambda: "Test Card", "empty_cache": lambda: None}
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(check, "copy_ceiling", lambda: 1e9)
    monkeypatch.setattr(check, "matmul_ceiling", lambda: 1e9)
    monkeypatch.setattr(check, "median_seconds", lambda run: (run(), 0.5)[1])
    monkeypatch.setattr(torch, "device", lambda *_: "cpu")
    monkeypatch.setattr(check, "HERE", tmp_path / "kernels")  # no tool's whole rows: they need gigabytes


@pytest.fixture
def check(monkeypatch, tmp_path):
    module = script()
    pretend_gpu(monkeypatch, module, tmp_path)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.delenv("ROWS", raising=False)
    return module


def registered(monkeypatch, launch):
    from tenfold_kernels import registry
    from tenfold_kernels.registry import Baseline, Case, Kernel, Work

    def make(case, device):
        return {"x": torch.full((4,), case.shape["value"])}

    kernel = Kernel(
        name="double",
        tool="antkv",
        kind="triton",
        module="",
        launcher="",
        make=make,
        oracle=lambda arguments: (2 * arguments["x"].double(),),
        tolerance={"float32": 1e-6},
        tests=(Case("small", "float32", {"value": 1.0}),),
        builds=(),
        gpu=(Case("large", "float32", {"value": 3.0}),),
        work=lambda arguments: Work(2e9, 1e9),
        baseline=Baseline("another", lambda arguments: lambda: None),
    )
    monkeypatch.setattr(registry, "kernels", lambda tool=None: [kernel])
    monkeypatch.setattr("tenfold_kernels.device.resolve", lambda path: launch)


def test_rows_are_whole(check, monkeypatch, tmp_path):
    registered(monkeypatch, lambda x: (2 * x,))
    assert check.main() == 0
    result = json.loads((tmp_path / "test-card.json").read_text())
    large, small = result["rows"]
    assert large == {
        "kernel": "double",
        "case": "large",
        "max_rel_err": 0.0,
        "ms": 500.0,
        "bytes_s": 4e9,
        "flop_s": 2e9,
        "floor_ratio": 0.25,
        "baseline": "another",
        "baseline_ratio": 1.0,
        "ok": True,
    }
    assert small["ok"]
    assert small["ms"] is None
    assert result["copy_bytes_s"] == 1e9


def test_a_kernel_that_fails_is_a_row(check, monkeypatch, tmp_path):
    def launch(x):
        if x[0] == 3:
            raise RuntimeError("no such\n instruction")
        return (3 * x,)

    registered(monkeypatch, launch)
    assert check.main() == 1
    large, small = json.loads((tmp_path / "test-card.json").read_text())["rows"]
    assert large["error"] == "RuntimeError: no such instruction"
    assert not small["ok"]
    assert small["max_rel_err"] == 0.5


def test_a_baseline_that_fails_is_no_fault_of_the_kernel(check, monkeypatch, tmp_path):
    registered(monkeypatch, lambda x: (2 * x,))
    monkeypatch.setattr(check, "median_seconds", lambda run: 0.5 if run() else 1 / 0)
    assert check.main() == 0
    large, _ = json.loads((tmp_path / "test-card.json").read_text())["rows"]
    assert large["baseline_ratio"] is None
    assert large["baseline"].startswith("another (failed: ZeroDivisionError")


def test_it_runs_without_the_tools_libraries():
    """On a bare machine there is no msgspec, click or transformers."""
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("msgspec", "click", "transformers", "httpx"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import runpy
runpy.run_path({str(SCRIPT)!r})
from tenfold_kernels.registry import kernels
from tenfold_kernels.device import recording, resolve
with recording() as launches:
    for kernel in kernels():
        resolve(kernel.launcher)(**kernel.make(kernel.gpu[0], "meta"))
print(len(launches))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8


def test_time_that_runs_out_is_told(check, monkeypatch, tmp_path):
    registered(monkeypatch, lambda x: (2 * x,))
    monkeypatch.setattr(check, "SECONDS", 0.0)
    assert check.main() == 1
    rows = json.loads((tmp_path / "test-card.json").read_text())["rows"]
    assert all("not run" in row["error"] for row in rows)


def test_rows_of_no_tool(check, monkeypatch, capsys):
    monkeypatch.setenv("ROWS", "nothing")
    assert check.main() == 2
    assert "antkv" in capsys.readouterr().err


def test_rows_of_a_tool_that_registers_no_kernel(check, monkeypatch, capsys, tmp_path):
    rows = tmp_path / "tools" / "apart" / "bench" / "gpu" / "rows.py"
    rows.parent.mkdir(parents=True)
    rows.write_text(
        "def rows(timer, copy):\n"
        "    empty = dict.fromkeys(('max_rel_err', 'ms', 'floor_ratio', 'baseline_ratio'))\n"
        "    yield lambda: {'kernel': 'apart', 'case': 'all of it', **empty, 'ok': True}\n"
    )
    monkeypatch.setenv("ROWS", "apart")
    assert check.main() == 0
    assert [row["kernel"] for row in json.loads((tmp_path / "test-card.json").read_text())["rows"]] == ["apart"]
    monkeypatch.setenv("ROWS", "nothing")
    assert check.main() == 2
    assert "antkv, apart" in capsys.readouterr().err
