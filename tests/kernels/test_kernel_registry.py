"""Every registered Triton kernel, interpreted, against its float64 oracle; and the registry itself."""

import pytest
import torch

from tenfold_kernels import device, report
from tenfold_kernels.registry import TOOLS, check, kernels, relative_error

KERNELS = kernels()
TESTS = [
    pytest.param(kernel, case, id=f"{kernel.name}: {case.name}")
    for kernel in KERNELS
    if kernel.kind == "triton"
    for case in kernel.tests
]


@pytest.mark.parametrize(("kernel", "case"), TESTS)
def test_against_the_oracle(interpreted, kernel, case):
    arguments = kernel.make(case, "cpu")
    results = device.resolve(kernel.launcher)(**arguments)
    assert check(kernel, arguments, results) <= kernel.tolerance[case.dtype]


def test_two_runs_give_the_same_bytes(interpreted):
    kernel = KERNELS[0]
    arguments = kernel.make(kernel.tests[1], "cpu")
    first, second = (device.resolve(kernel.launcher)(**arguments) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_registration_is_whole(kernel):
    assert kernel.kind in ("triton", "cuda")
    ending = {"triton": "py", "cuda": "cu"}[kernel.kind]
    assert (device.HERE / kernel.kind / f"{kernel.module}.{ending}").is_file()
    assert callable(device.resolve(kernel.launcher))
    for cases in (kernel.tests, kernel.builds, kernel.gpu):
        assert cases
        assert len({case.name for case in cases}) == len(cases)
        assert all(case.dtype in kernel.tolerance for case in cases)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_cases_of_the_gpu_can_be_launched(kernel):
    """Shapes alone: the launcher takes them and starts this kernel, and their work is counted."""
    for case in kernel.gpu:
        arguments = kernel.make(case, "meta")
        with device.recording() as launches:
            device.resolve(kernel.launcher)(**arguments)
        assert kernel.module in {launch.module for launch in launches}
        assert all(0 not in launch.grid for launch in launches)
        work = kernel.work(arguments)
        assert work.bytes > 1e5
        assert work.flops > 1e5


def test_names_are_unique():
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS)


@pytest.mark.parametrize("tool", TOOLS)
def test_kernels_of_one_tool_are_its_own(tool):
    assert kernels(tool)
    assert all(kernel.tool == tool for kernel in kernels(tool))


def test_every_device_file_is_registered():
    files = {path.stem for kind in ("triton", "cuda") for path in (device.HERE / kind).iterdir()}
    assert files - {"__init__", "__pycache__"} == {kernel.module for kernel in KERNELS}


def test_work_counts_what_a_case_moves():
    kernel = next(one for one in KERNELS if one.name == "vq_decode")
    work = kernel.work(kernel.make(kernel.gpu[1], "meta"))
    tokens = 8 * 8 * 131072
    # 16 bytes of keys, 16 of values and 1 of validity a token and kv-head, and about 1 % in 16 bits.
    assert work.bytes == pytest.approx(tokens * 33 + 64 * (1311 + 128) * 516, rel=0.01)


@pytest.mark.parametrize(
    ("result", "oracle", "error"),
    [([1.0, 2.0], [1.0, 4.0], 0.5), ([float("nan")], [1.0], float("inf")), ([-float("inf")], [-float("inf")], 0.0)],
)
def test_relative_error(result, oracle, error):
    found = relative_error(torch.tensor(result), torch.tensor(oracle, dtype=torch.float64))
    assert found == error or (error == float("inf") and found > 1e100)


@pytest.mark.parametrize("kernel", [one for one in KERNELS if one.kind == "triton"], ids=lambda kernel: kernel.name)
def test_interpreting_leaves_triton_fit_to_compile(interpreted, kernel, tmp_path, monkeypatch):
    """With an empty cache, so that it is a compile: all of Triton's library is back in its place."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    device.resolve(kernel.launcher)(**kernel.make(kernel.tests[1], "cpu"))
    _, compiled = next(report.compile_case(kernel, kernel.builds[-1], [80]))
    assert compiled.registers
