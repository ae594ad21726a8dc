"""The generated CUDA sources as such: they assemble, are kept, are emitted, and refuse a GPU that is too old or absent."""

import ctypes
import functools
import json
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from cuda_on_cpu import compiled
from stencil_setups import made, numbers, rule

from sparstencil import cuda, cuda_build, modes, reference
from sparstencil.boundary import Boundary
from sparstencil.cuda_launch import Gpu
from sparstencil.plan import CARDS, Core, predict_core, told
from sparstencil.stencil import Stencil
from sparstencil.suite import LITERATURE, SUITE
from sparstencil.verify import RULES, SHAPES
from tenfold_shared import Missing

ARCHES = ("sm_80", "sm_90a")


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    monkeypatch.setenv("TENFOLD_CACHE", str(folder))


# ---------------------------------------------------------------- machine code


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


def reported(source, arch):
    try:
        return cuda.report(cuda.build(source, arch))
    except Missing as error:
        pytest.skip(str(error))


def rules_of(kernel):
    return (RULES[kernel.id % len(RULES)],) * kernel.ndim


@functools.cache
def planned(name, mode):
    """What `emit` and `run` compile."""
    return cuda.target_of(SUITE[name].stencil, mode, "cuda-sp")


def assembled(kernel, arch, mode=None, rules=None):
    """On the best plan, the rules in turn."""
    target = planned(kernel.name, mode or ("s8" if kernel.integer else "fast"))
    setup = target.setup
    found = reported(cuda.source(setup, rules or rules_of(kernel), arch=arch), arch)
    sparse = "IMMA.SP" if setup.mode == "s8" else "HMMA.SP"
    # Twice: for blocks inside, their loop perhaps unrolled, and for those at an edge.
    least = len(target.issues) * len(target.products) * target.m_tiles * 2
    assert found.instructions[sparse] >= least
    assert not {"HMMA", "IMMA"} & set(found.instructions)
    assert found.instructions["LDGSTS"] > 0
    assert found.spills == 0
    assert found.registers <= 255
    return found


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", [*LITERATURE, "life-count-2d"])
def test_literature_kernels_assemble(name, arch):
    found = assembled(SUITE[name], arch)
    assert found.instructions.get("STG.64", 0) + found.instructions.get("STG.128", 0) > 0
    if name == "box-2d49p":  # every register of B is one load
        assert "LDS.U16" not in found.instructions


@pytest.mark.deep
@needs_nvcc
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kernel", SUITE.values(), ids=lambda k: k.name)
def test_every_kernel_assembles(kernel, arch):
    assembled(kernel, arch)


@pytest.mark.deep
@needs_nvcc
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("edges", ["wrap", "fixed", "valid"])  # all the code there is: the others are tables
@pytest.mark.parametrize("name", ["box-2d121p", "ltl-r5-2d", "box-3d343p"])
def test_kernels_short_of_registers_at_every_rule(name, edges, arch):
    assembled(SUITE[name], arch, rules=(edges,) * SUITE[name].ndim)


@pytest.mark.deep
@needs_nvcc
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("mode", ["mixed", "tf32", "f32"])
@pytest.mark.parametrize("name", LITERATURE)
def test_every_mode_assembles(name, mode, arch):
    assembled(SUITE[name], arch, mode)


@needs_nvcc
def test_the_ablation_and_the_cores(folder):
    setup = modes.prepare(SUITE["heat-2d"].stencil, "fast", (8, 2), "staircase")
    dense = reported(cuda.source(setup, ("wrap", "wrap"), "cuda-tc"), "sm_80")
    assert dense.instructions["HMMA"] and "HMMA.SP" not in dense.instructions and dense.spills == 0
    plain = reported(cuda.source(setup, ("wrap", "wrap"), "cuda-core"), "sm_80")
    assert plain.instructions["FFMA"] >= 5 * 32 and "HMMA" not in plain.instructions and plain.spills == 0


@needs_nvcc
def test_machine_code_is_kept_by_its_source(folder, monkeypatch):
    setup = modes.prepare(SUITE["heat-2d"].stencil, "fast", (8, 2), "staircase")
    source = cuda.source(setup, ("wrap", "wrap"))
    first = cuda.build(source, "sm_80")
    monkeypatch.setattr(cuda_build, "_by_nvcc", None)
    assert cuda.build(source, "sm_80") == first and first.stat().st_size > 0
    assert list(first.parent.glob("tmp*")) == []
    monkeypatch.undo()
    monkeypatch.setenv("TENFOLD_CACHE", str(folder))
    with pytest.raises(RuntimeError, match="error"):
        cuda.build("nonsense", "sm_80")


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda_build, "_nvrtc_libraries", lambda: iter(()))
    cuda_build._compiler.cache_clear()
    with pytest.raises(Missing, match="install the CUDA toolkit"):
        cuda.build("", "sm_80")
    cuda_build._compiler.cache_clear()


def test_a_source_includes_nothing_and_says_what_it_does():
    setup = modes.prepare(SUITE["box-2d49p"].stencil, "fast", (8, 2), "staircase")
    source = cuda.source(setup, ("wrap", "wrap"))
    assert "#include" not in source
    head = source.split("\n\n")[0]
    assert "Equation: u'(y,x) =" in head and "49 terms" in head
    assert "Bytes: 4 a point" in head and "Flops: 98 a point, 112 done" in head


def test_a_stencils_name_stays_in_its_comment(tmp_path):
    stencil = Stencil.of({(0,): 0.5, (1,): 0.5}, 'x\n#error "y" \\')
    setup = modes.prepare(stencil, "fast", (16,), "staircase")
    assert cuda.source(setup, ("wrap",)).startswith("// x__error _y_ _: one step")
    assert [path.name for path in cuda.emit(setup, Boundary.parse("wrap", 1), "sm_80", tmp_path)] == ["x-error-y.cu", "x-error-y.json"]  # fmt: skip


@pytest.mark.parametrize(
    "name, numbers_a_point", [("box-2d49p", 6.25), ("star-2d13p", 3.25), ("box-3d27p", 4.5), ("life-count-2d", None)]
)
@pytest.mark.parametrize("mode", ["fast", "f32"])
def test_the_prediction_counts_what_the_source_of_cuda_cores_loads(name, numbers_a_point, mode):
    kernel = SUITE[name]
    mode = "s8" if kernel.integer else mode
    target = cuda.target_of(kernel.stencil, mode, "cuda-core")
    source = cuda.source(target.setup, ("wrap",) * kernel.ndim, "cuda-core")
    body = source[source.index("const In* const at = raw") : source.index("const Sum out0_0[")]
    core = Core.emitted(kernel.stencil, mode)
    assert core.outputs == len(re.findall(r"Sum c\d+_\d+_\d+ = 0;", body))
    assert core.loads == len(re.findall(r"reinterpret_cast<const Ins\*>\(at", body)) + len(re.findall(r"\bat\[", body))
    assert core.numbers == len(re.findall(r"const Sum v\w+ =", body))
    products = re.findall(r"= fused\(| \+= ", body)
    assert len(products) == kernel.points * core.outputs
    if mode == "fast":
        assert core.numbers / core.outputs == numbers_a_point


def test_the_bound_of_arithmetic_on_cuda_cores():
    """684 GStencil/s of 49 float32 multiply-adds a point on an H100; and `auto` wants more than a tie."""
    predicted = predict_core(SUITE["box-2d49p"].stencil, "fast", CARDS["h100"])
    assert 1e-9 / predicted.parts["multiply"] == pytest.approx(684, rel=1e-3)
    setup = modes.prepare(SUITE["1d5p"].stencil, "fast", (16,), "staircase")
    found = told(setup, CARDS["h100"], 1)
    assert found["wins"] == "cuda-core" and "cuda-sp" in found["ties"]


# ---------------------------------------------------------------- emitted folders


def emitted(name, mode, backend, edges, folder):
    setup = made(name, mode, top=2)
    boundary = rule(edges, setup.stencil.ndim)
    return setup, boundary, cuda.emit(setup, boundary, "sm_80", folder, backend)


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHES)
def test_an_emitted_folder_compiles(arch, tmp_path):
    _, _, (source, plan) = emitted("heat-2d", "fast", "cuda-sp", "wrap", tmp_path)
    command = ["nvcc", "-cubin", "-std=c++17", f"-arch={arch}", "-o", str(tmp_path / "a.cubin"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    told = json.loads(plan.read_text())
    assert told["backend"] == "cuda-sp" and told["metadata"][0]["mma"].startswith("mma.sp::ordered_metadata")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cubin", "heat-2d.cu", "heat-2d.json"]


@pytest.mark.parametrize(
    "name, mode, backend, edges, steps",
    [
        ("heat-2d", "fast", "cuda-sp", "constant", 3), ("heat-3d", "mixed", "cuda-core", "valid", 2),
        ("life-count-2d", "s8", "cuda-sp", "mirror", 2), ("1d5p", "tf32", "cuda-tc", "reflect", 2),
    ],
)  # fmt: skip
def test_an_emitted_launcher_steps(name, mode, backend, edges, steps, folder, tmp_path):
    """Its own tables, buffers and launches, from C."""
    setup, boundary, (source, _) = emitted(name, mode, backend, edges, tmp_path)
    library = compiled(source.read_text(), "launcher_on_cpu.cpp", folder)
    ndim = setup.stencil.ndim
    grid = np.ascontiguousarray(numbers(SHAPES[ndim], mode), dtype=np.int8 if mode == "s8" else np.float32)
    truth = reference.run(grid.astype(np.float64), setup.stencil, steps, boundary)
    out = np.zeros(truth.shape, dtype=np.int32 if mode == "s8" else np.float32)
    shape = [1] * (3 - ndim) + list(grid.shape)
    status = library.sparstencil_run(
        ctypes.c_void_p(grid.ctypes.data), ctypes.c_void_p(out.ctypes.data), *shape, steps,
        ctypes.c_double(boundary.value), ctypes.c_double(4.0), None,
    )  # fmt: skip
    assert status == 0 and library.left_over() == 0
    assert np.array_equal(out, truth)


# ---------------------------------------------------------------- a GPU that is not there


def test_without_cupy_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(Missing, match="--backend cpu or emulate work without") as told:
        Gpu()
    assert told.value.code == 3


@pytest.mark.parametrize("capability, told", [("75", "compute capability is 7.5"), (None, "no CUDA device 0")])
def test_a_gpu_that_is_too_old_or_absent(capability, told, monkeypatch):
    """A stand-in for CuPy that says so."""

    class Device:
        compute_capability = capability

        def __init__(self, index):
            pass

    cuda_module = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=lambda: int(capability is not None)), Device=Device
    )
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda_module))
    with pytest.raises(Missing, match=told):
        Gpu()
