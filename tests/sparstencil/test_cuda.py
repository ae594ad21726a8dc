"""The CUDA back ends without a GPU: compiled offline, and the generated sources themselves run on this CPU.

warps_on_cpu.h executes matrix instructions from registers and metadata words by its own reading of the PTX ISA, so what is
compared with the emulator and with the definition is everything the source does: tables, fragments, fills, barriers, edges,
stores. How a GPU orders memory accesses is not seen, nor how fast it is.
"""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu import Cpu
from stencil_setups import made, numbers, rule, whole

from sparstencil import cuda, modes, reference
from sparstencil.boundary import Boundary
from sparstencil.cuda_launch import Runner
from sparstencil.cuda_plan import BACKENDS, Target
from sparstencil.stencil import Stencil
from sparstencil.suite import SUITE
from sparstencil.verify import RULES, SHAPES
from tenfold_shared import BadInput

LARGE = {
    1: (8192 * 2 + 4099,),
    2: (150, 411),
    3: (18, 38, 203),
}  # blocks that touch no edge, and more than one a thread block


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    monkeypatch.setenv("TENFOLD_CACHE", str(folder))


def agrees(target, boundary, grid, device, steps=1):
    """The source's result, the emulator's on the same tables, and the definition's are the same numbers."""
    ran = Runner(target, device).run(grid, steps, boundary)
    assert np.array_equal(ran.grid, reference.run(grid, target.setup.stencil, steps, boundary))
    if target.on_tensor_cores and not target.wide:
        assert np.array_equal(ran.grid, modes.run(target.placed, grid, steps, boundary))
    return ran


# ---------------------------------------------------------------- the sources, run


# Every back end, mode and rule, each kind of tile: one load of two, packed loads, exchange of outputs, padded rows, 4 tiles.
CASES = [
    ("box-2d49p", "fast", "cuda-sp", "wrap", None), ("box-2d49p", "fast", "cuda-tc", "reflect", None),
    ("heat-2d", "fast", "cuda-sp", "fixed", (4, 4)), ("heat-2d", "mixed", "cuda-sp", "mirror", (3, 5)),
    ("star-2d13p", "mixed", "cuda-tc", "valid", None), ("box-2d9p", "tf32", "cuda-sp", "constant", None),
    ("box-2d9p", "fast", "cuda-sp", "nearest", (16, 4)), ("heat-1d", "f32", "cuda-sp", "constant", None),
    ("quick-1d", "fast", "cuda-core", "valid", None), ("heat-3d", "fast", "cuda-sp", "reflect", None),
    ("box-3d27p", "f32", "cuda-tc", "wrap", None), ("upwind-3d", "tf32", "cuda-core", "fixed", None),
    ("life-count-2d", "s8", "cuda-sp", "wrap", None), ("life-count-2d", "s8", "cuda-core", "fixed", None),
    ("box-2d81p", "f32", "cuda-tc", "mirror", None),  # too many weights for registers
]  # fmt: skip


@pytest.mark.parametrize("name, mode, backend, edges, tile", CASES, ids=lambda value: str(value))
def test_a_source_is_the_emulator_and_the_definition(name, mode, backend, edges, tile, folder):
    target = Target(made(name, mode, tile), backend)
    ndim = target.setup.stencil.ndim
    agrees(target, rule(edges, ndim), numbers(SHAPES[ndim], mode), Cpu(folder))


@pytest.mark.deep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at, kernel", list(enumerate(SUITE.values())), ids=lambda value: getattr(value, "name", ""))
def test_every_stencil_of_the_suite(at, kernel, backend, folder):
    mode = "s8" if kernel.integer else ("fast", "mixed", "tf32", "f32")[(at + BACKENDS.index(backend)) % 4]
    target = Target(made(kernel.name, mode, top=3 if kernel.points > 100 else 8), backend)
    edges = RULES[(at + BACKENDS.index(backend)) % len(RULES)]
    shape = SHAPES[kernel.ndim] if kernel.radius < 5 else tuple(n + 4 for n in SHAPES[kernel.ndim])
    agrees(target, rule(edges, kernel.ndim), numbers(shape, mode), Cpu(folder))


@pytest.mark.deep
@pytest.mark.parametrize("kernel", SUITE.values(), ids=lambda k: k.name)
def test_every_stencil_on_its_best_plan(kernel, folder):
    """Tiles and groupings as `plan` chooses them: any solver, up to two tiles of rows."""
    stencil = whole(kernel.stencil, 3 if kernel.points > 100 else 8)
    target = cuda.target_of(stencil, "s8" if kernel.integer else "fast", "cuda-sp")
    shape = {1: (301,), 2: (67, 79), 3: (35, 21, 41)}[kernel.ndim]
    agrees(target, rule(RULES[kernel.id % len(RULES)], kernel.ndim), numbers(shape, target.mode), Cpu(folder))


@pytest.mark.deep
@pytest.mark.parametrize("edges", RULES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["fast", "mixed", "tf32", "f32", "s8"])
@pytest.mark.parametrize("name", ["heat-2d", "d3q19"])
def test_every_mode_at_every_rule(name, mode, backend, edges, folder):
    target = Target(made(name, mode), backend)
    ndim = target.setup.stencil.ndim
    agrees(target, rule(edges, ndim), numbers(SHAPES[ndim], mode), Cpu(folder))


@pytest.mark.parametrize(
    "name, backend, edges",
    [("heat-2d", "cuda-sp", "valid"), ("heat-3d", "cuda-sp", "wrap,fixed,mirror"), ("1d5p", "cuda-core", "fixed")],
)
def test_inner_blocks_are_copied_and_stored_whole_step_after_step(name, backend, edges, folder):
    """Rows begin elsewhere in each step, and still copies and stores find their boundaries."""
    steps = 3 if len(cuda.TILES[SUITE[name].ndim]) < 3 else 2  # more would overflow float16
    target = Target(made(name, "fast", top=2), backend)
    stencil = target.setup.stencil
    device = Cpu(folder, blocks=2)
    grid = numbers(LARGE[stencil.ndim], "fast")
    agrees(target, Boundary.parse(edges, stencil.ndim), grid, device, steps)
    rows = grid.size / grid.shape[-1] if stencil.ndim > 1 else 1
    halo = np.prod(target.geometry.extents) / np.prod(target.geometry.block)
    assert steps * 0.7 * grid.size < 8 * device.counted("copies") < steps * halo * (grid.size + rows * 512)
    inside = np.prod([(n // b - 1) * b for n, b in zip(grid.shape, target.geometry.block, strict=True)]) / 4
    assert device.counted("vectors") >= inside > 0


@pytest.mark.parametrize(
    "backend, tile, twice", [("cuda-core", (8, 2), False), ("cuda-tc", (1, 8), True), ("cuda-tc", (4, 2), False)]
)
def test_float64(backend, tile, twice, folder):
    """ConvStencil's two matrices, any tile, and plain arithmetic, to the last places."""
    stencil = SUITE["box-2d49p"].stencil
    target = Target(modes.prepare(stencil, "f32", tile, "staircase"), backend, wide=True, twice=twice)
    grid = np.random.default_rng(2).standard_normal((75, 150))
    ran = Runner(target, Cpu(folder)).run(grid, 2, Boundary.parse("mirror", 2))
    assert ran.grid.dtype == np.float64
    assert np.abs(ran.grid - reference.run(grid, stencil, 2, Boundary.parse("mirror", 2))).max() < 1e-15
    if twice:
        assert len(target.slots) == 104  # 49 and 49, each filled up to 52, as theirs


@pytest.mark.deep
@pytest.mark.parametrize("name, wide, where", [("box-3d125p", True, "shared"), ("box-3d343p", False, "global")])
def test_weights_that_do_not_fit_registers(name, wide, where, folder):
    """Of float64 and of three parts, dense: from shared memory, and through the first-level cache."""
    stencil = whole(SUITE[name].stencil, 2)
    target = Target(modes.prepare(stencil, "f32", (1, 1, 8) if wide else (4, 2, 2), "staircase"), "cuda-tc", wide=wide)
    assert target.weights_in == where
    agrees(target, Boundary.parse("mirror", 3), numbers((9, 10, 21), "f32"), Cpu(folder))


@pytest.mark.parametrize("mode, ulps", [("fast", 0.51), ("mixed", 3), ("tf32", 3), ("f32", 3)])
def test_real_weights_agree_with_the_emulator(mode, ulps, folder):
    """Sums are rounded once in both, in another order: float16 results may round to the other side, float32 ones by little."""
    stencil = SUITE["hdiff-2d"].stencil
    target = Target(modes.prepare(stencil, mode, (8, 2), "staircase"), "cuda-sp")
    assert target.increment == (mode in ("mixed", "tf32"))
    grid = np.random.default_rng(3).standard_normal((37, 53)).astype(np.float32)
    boundary = Boundary.parse("wrap", 2)
    result = Runner(target, Cpu(folder)).run(grid, 2, boundary).grid
    truth = modes.run(target.placed, grid, 2, boundary)
    unit = 2.0 ** (-10 if mode == "fast" else -23)
    assert np.abs(result - truth).max() <= ulps * unit * np.abs(truth).max()
    exact = reference.run(grid.astype(np.float64), stencil, 2, boundary)
    assert np.abs(result - exact).max() <= (1e-6 if mode == "f32" else 4e-3) * np.abs(exact).max()


def test_cuda_cores_round_no_weights(folder):
    """`fast` there: float16 grids, float32 arithmetic. A step's error is the rounding of what is stored, to half a place."""
    stencil, boundary = SUITE["hdiff-2d"].stencil, Boundary.parse("wrap", 2)
    target = cuda.target_of(stencil, "fast", "cuda-core")
    source = cuda.source(target.setup, ("wrap", "wrap"), "cuda-core")
    assert target.types.stored == "u16" and all(f"({float(np.float32(w)).hex()}f)" in source for w in stencil.weights)
    grid = np.random.default_rng(3).standard_normal((37, 53)).astype(np.float16).astype(np.float64)
    result = Runner(target, Cpu(folder)).run(grid, 1, boundary).grid
    truth = reference.run(grid, stencil, 1, boundary)
    assert (np.abs(result - truth) <= 0.51 * np.spacing(np.abs(truth).astype(np.float16)).astype(np.float64)).all()


def test_infinities_and_nan_spread_no_further_than_their_tile(folder):
    """Where the definition has them, the source has; tf32 rounds none into a number. What an absent weight multiplies is left
    out as the instruction leaves it out, so it spreads less than in the emulator."""
    grid = numbers((37, 53), "tf32")
    grid[5, 7], grid[20, 30] = np.inf, np.nan
    target, boundary = Target(made("heat-2d", "tf32"), "cuda-sp"), Boundary.parse("fixed", 2)
    with np.errstate(invalid="ignore"):
        truth = reference.run(grid, target.setup.stencil, 1, boundary)
        emulated = modes.run(target.placed, grid, 1, boundary)
    result = Runner(target, Cpu(folder)).run(grid, 1, boundary).grid
    assert not np.isfinite(result[~np.isfinite(truth)]).any()
    assert np.array_equal(result[np.isfinite(emulated)], truth[np.isfinite(emulated)])
    assert np.isfinite(emulated).sum() <= np.isfinite(result).sum() <= np.isfinite(truth).sum()


def test_life_on_a_torus_for_three_steps(folder):
    """Whole numbers go from 32 bits to 8 between steps, and say where they do not fit."""
    target = Target(made("life-count-2d", "s8", top=2), "cuda-sp")
    grid = np.zeros((37, 53))
    grid[5:8, 5:8] = [[0, 1, 0], [0, 0, 1], [1, 1, 1]]
    boundary = Boundary.parse("wrap", 2)
    ran = agrees(target, boundary, grid, Cpu(folder), steps=3)
    assert ran.grid.dtype == np.int32
    with pytest.raises(OverflowError, match="8 bits"):
        Runner(target, Cpu(folder)).run(numbers((37, 53), "s8") * 100, 2, boundary)
    with pytest.raises(OverflowError, match="8 bits"):
        Runner(target, Cpu(folder)).run(np.full((37, 53), 200.0), 1, boundary)


def test_float16_that_overflows_is_told(folder):
    target = Target(made("box-2d9p", "fast"), "cuda-sp")
    with pytest.raises(OverflowError, match="float16"):
        Runner(target, Cpu(folder)).run(numbers((37, 53), "fast"), 12, Boundary.parse("wrap", 2))


def test_a_grid_too_small_or_no_step(folder):
    target = Target(made("box-2d49p", "fast"), "cuda-sp")
    with pytest.raises(BadInput, match="spans 7"):
        Runner(target, Cpu(folder)).run(numbers((6, 60), "fast"), 1, Boundary.parse("fixed", 2))
    with pytest.raises(BadInput, match="spans 7"):
        Runner(target, Cpu(folder)).run(numbers((13, 60), "fast"), 3, Boundary.parse("valid", 2))
    assert Runner(target, Cpu(folder)).run(numbers((9, 9), "fast"), 0, Boundary.parse("fixed", 2)).grid.shape == (9, 9)


def test_a_stencil_that_reaches_too_far():
    wide = Stencil.of({(0, 0, 0): 1.0, (-40, -40, -40): 0.5, (40, 40, 40): 0.25})
    with pytest.raises(BadInput, match="too far"):
        _ = Target(modes.prepare(wide, "fast", (16, 1, 1), "staircase"), "cuda-core").geometry


# ---------------------------------------------------------------- what is wrong is seen


def spoiled(pattern, change):
    def edit(source):
        found = re.sub(pattern, change, source, count=1)
        assert found != source
        return found

    return edit


@pytest.mark.parametrize(
    "edit, fault",
    [
        (spoiled(r"(METADATA\[\d+\] = \{\n    0x[0-9a-f]{7})4", r"\g<1>8"), None),  # another place of the four
        (spoiled(r"(METADATA\[\d+\] = \{\n    0x[0-9a-f]{7})4", r"\g<1>5"), "not in order"),
        (spoiled(r"product_32<0>\(c0", "product_32<1>(c0"), None),  # another lane's words
        (spoiled(r"word\(p0 \+ far0 \+ (\d+)\)", lambda m: f"word(p0 + far0 + {int(m[1]) + 4})"), None),
        (spoiled(r"word\(p0 \+ far0 \+ (\d+)\)", lambda m: f"word(p0 + far0 + {int(m[1]) + 2})"), "not aligned"),
        (spoiled(r"(LANE_PLACES\[\d+\] = \{\n    0, )(\d+)", lambda m: f"{m[1]}{int(m[2]) + 4}"), None),
        (spoiled(r"(WEIGHTS\[\d+\] = \{\n    0x)(\w)", lambda m: m[1] + ("1" if m[2] != "1" else "2")), None),
        (spoiled(r"        arrived\(\);\n", ""), "never waited"),
    ],
    ids=["metadata", "undefined", "selector", "offset", "odd", "lane", "weight", "wait"],
)
def test_a_wrong_bit_is_seen(edit, fault, folder):
    target = Target(made("box-2d49p", "fast"), "cuda-sp")
    with pytest.raises(AssertionError, match=fault):
        agrees(target, Boundary.parse("wrap", 2), numbers((75, 150), "fast"), Cpu(folder, edit=edit))


def test_a_stepper_keeps_its_kernel(folder):
    """What `run` calls: the plan is chosen once, the device is asked for at the first call."""
    stencil = whole(SUITE["heat-2d"].stencil, 2)
    boundary = Boundary.parse("wrap", 2)
    for mode, backend in (("fast", "cuda-sp"), ("f64", "cuda-core"), ("f64", "cuda-tc")):
        step = cuda.stepper(stencil, mode, backend, (8, 2) if mode == "fast" else None, None, Cpu(folder))
        grid = numbers((37, 53), mode)
        assert np.array_equal(step(step(grid, 1, boundary), 1, boundary), reference.run(grid, stencil, 2, boundary))


class Counting(Cpu):
    """Counts grids that go to the device and back: all but tables of places and the flag, which are int32."""

    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.puts = self.gets = 0

    def put(self, address, array):
        self.puts += array.dtype != np.int32
        super().put(address, array)

    def get(self, address, dtype, shape):
        self.gets += np.prod(shape) > 1
        return super().get(address, dtype, shape)


# A name, mode and back end, steps a pass, steps, rule, whether passes are made. Odd counts leave single steps behind them.
FUSED = [
    ("heat-2d", "f32", "cuda-sp", 2, 5, "wrap", True), ("box-2d9p", "mixed", "cuda-core", 2, 4, "valid", True),
    ("heat-2d", "fast", "cuda-core", 2, 3, "reflect", True), ("heat-2d", "mixed", "cuda-sp", 2, 4, "fixed", True),
    ("1d5p", "fast", "cuda-sp", 3, 3, "mirror", True), ("upwind-2d", "f64", "cuda-core", 3, 7, "constant", True),
    ("life-count-2d", "s8", "cuda-core", 2, 2, "reflect", False),
    *(
        pytest.param(*case, marks=pytest.mark.deep)
        for case in [
            ("heat-1d", "fast", "cuda-sp", 2, 3, "wrap", True), ("heat-2d", "tf32", "cuda-tc", 2, 5, "valid", True),
            ("heat-2d", "f32", "cuda-core", 2, 5, "wrap,nearest", True), ("heat-3d", "fast", "cuda-core", 2, 3, "nearest", True),
            ("life-count-2d", "s8", "cuda-sp", 2, 3, "wrap", True),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize("name, mode, backend, depth, steps, edges, passes", FUSED, ids=lambda value: str(value))
def test_fused_passes_stay_on_the_device(name, mode, backend, depth, steps, edges, passes, folder):
    """The same numbers as single steps, and one grid each way for all of them."""
    stencil = (
        Stencil.of(dict.fromkeys(SUITE[name].stencil.offsets, 1.0), name)
        if mode == "s8"
        else whole(SUITE[name].stencil, 2)
    )
    boundary = rule(edges, stencil.ndim)
    shape = {1: (301,), 2: (37, 53), 3: (13, 15, 37)}[stencil.ndim]
    grid = numbers(shape, mode)
    if mode == "s8":
        grid *= np.random.default_rng(4).integers(0, 9, shape) == 0  # sparse: no count outgrows 8 bits
        grid = grid.astype(np.int8)
    device = Counting(folder)
    step = cuda.stepper(stencil, mode, backend, None, None, device, depth)
    found = step(grid, steps, boundary)
    assert np.array_equal(found, reference.run(grid.astype(np.float64), stencil, steps, boundary))
    assert (device.puts, device.gets) == (1, 1)
    target = cuda.target_of(stencil, mode, backend)
    runner = Runner(target, device, cuda.target_of(stencil.power(depth), mode, backend), depth)
    assert runner.passes(shape, steps, boundary) == (steps // depth if passes else 0)


@pytest.mark.deep
@pytest.mark.parametrize("edges", RULES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["upwind-1d", "box-2d9p", "heat-3d"])
def test_fused_passes_at_every_rule(name, backend, edges, folder):
    stencil = whole(SUITE[name].stencil, 2)
    boundary, grid = rule(edges, stencil.ndim), numbers({1: (301,), 2: (37, 53), 3: (13, 15, 37)}[stencil.ndim], "fast")
    step = cuda.stepper(stencil, "f32", backend, None, None, Cpu(folder), 2)
    assert np.array_equal(step(grid, 3, boundary), reference.run(grid, stencil, 3, boundary))


def test_a_grid_that_edges_fill_is_stepped_singly(folder):
    stencil = whole(SUITE["heat-2d"].stencil, 2)
    boundary, grid = Boundary.parse("mirror", 2), numbers((8, 60), "fast")
    step = cuda.stepper(stencil, "f32", "cuda-core", None, None, Cpu(folder), 2)
    assert np.array_equal(step(grid, 2, boundary), reference.run(grid, stencil, 2, boundary))


# ---------------------------------------------------------------- the rows of the GPU check


@pytest.fixture
def script(monkeypatch):
    path = Path(__file__).parents[2] / "tools" / "sparstencil" / "bench" / "gpu" / "rows.py"
    spec = importlib.util.spec_from_file_location("sparstencil_rows", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def small(script, folder, **more):
    chosen = {
        "kernels": ("heat-1d", "box-2d9p", "life-count-2d"), "literature": ("heat-2d",), "fused": (), "modes": (), "twice": (),
        "odd": {1: (301,), 2: (19, 41)}, "full": {1: (9001,), 2: (70, 150)}, "device": lambda: Cpu(folder), "card": "h100",
        "others": False, "on": "cpu", "workers": 2,
    }  # fmt: skip
    return script.Size(**{**chosen, **more})


def test_rows_at_a_small_size(script, folder):
    """All that the GPU check does but torch's and cupyx's times, which need a GPU to mean anything."""
    times = iter([1e-3, 2e-3, 4e-3])

    def timer(work):
        work()
        return next(times)

    right, timed, told = [measure() for measure in script.rows(timer, 1e12, small(script, folder))]
    assert right["ok"] and right["kernel"] == "sparstencil 3 stencils" and 0 < right["max_rel_err"] < 2e-3
    assert timed["ok"] and timed["case"] == "70x150, fast, 1 steps a pass"
    assert (
        timed["ms"] == 1.0 and timed["ratios"] == {"cuda-tc": 2.0, "cuda-core": 4.0} and timed["baseline_ratio"] == 4.0
    )
    assert set(timed["bounds"]) == {"memory", "multiply", "shared"} and timed["gstencil_s"] == pytest.approx(0.0105)
    assert timed["floor_ratio"] == pytest.approx(1e-3 / (70 * 150 * 4 / 1e12))
    assert told["ratios"]["cuda-core"] == {"geomean": pytest.approx(4.0), "min": 4.0, "max": 4.0, "n": 1}


def test_rows_that_come_too_late_say_so(script, folder):
    made = script.rows(None, 1e12, small(script, folder, kernels=(), seconds=0.0))
    row = list(made)[1]()
    assert not row["ok"] and row["error"].startswith("not run")


@pytest.mark.deep
def test_every_mode_fused_passes_and_convstencils_way(script, folder):
    size = small(script, folder, kernels=(), modes=("hdiff-2d", "1d5p"), literature=("box-2d49p",), fused=("box-2d9p", "heat-1d"), twice=("box-2d9p", "box-2d49p"))  # fmt: skip
    _, precise, plain, fused, line, told = [
        measure() for measure in script.rows(lambda work: (work(), 0.5)[1], 1e12, size)
    ]
    assert precise["ok"], precise["wrong"]
    assert plain["ok"] and fused["ok"] and line["ok"]
    assert {*plain["ratios"]} == {"cuda-tc", "cuda-core", "ConvStencil's way restated, float64"}
    assert told["ratios"]["ConvStencil's way restated, float64"]["n"] == 2


def test_a_failing_row_names_the_stencil(script, folder):
    device = Cpu(folder, edit=spoiled(r"(METADATA\[\d+\] = \{\n    0x[0-9a-f]{7})4", r"\g<1>8"))
    size = small(script, folder, kernels=("box-2d9p",), device=lambda: device)
    row = next(iter(script.rows(None, 1e12, size)))()
    assert not row["ok"] and row["wrong"][0].startswith("box-2d9p wrap")
