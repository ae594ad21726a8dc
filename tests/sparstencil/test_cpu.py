"""The compiled back end against scipy.ndimage and the definition, and against itself: no bit depends on how it is done."""

import itertools
import os
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sparstencil import cpu, cpu_source, reference
from sparstencil.boundary import Boundary
from sparstencil.stencil import Stencil
from sparstencil.suite import named
from tenfold_shared import BadInput, Missing

RULES = ["fixed", "constant:1.25", "nearest", "reflect", "mirror", "wrap", "valid"]
MIXED = {
    1: ["wrap"],
    2: ["fixed,wrap", "reflect,constant:-2", "mirror,fixed", "wrap,nearest"],
    3: ["wrap,fixed,reflect", "constant:0.5,mirror,wrap", "nearest,wrap,fixed", "reflect,nearest,constant:3"],
}
PADS = {"nearest": "edge", "reflect": "symmetric", "mirror": "reflect", "wrap": "wrap", "constant": "constant"}


def drawn(ndim, low, high, points, seed):
    """A stencil of so many points of the box, whatever their weights, that does not grow."""
    rng = random.Random(seed)
    box = list(itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True))))
    chosen = rng.sample(box, points)
    return Stencil.of({place: rng.uniform(-1, 1) * 1.6 / points for place in chosen}, f"drawn-{ndim}d-{seed}")


# Odd sizes, radii up to 5, one-sided ones, one not much larger than its grid, one that leaves its own point out, sums that
# are written out, looped plane by plane, and looped over a table.
CASES = {
    "1d": (drawn(1, (-2,), (3,), 5, 1), (101,)),
    "1d-left": (drawn(1, (-5,), (0,), 4, 2), (101,)),
    "1d-far": (
        Stencil.of({(-8,): 0.3, (0,): -0.2, (7,): 0.1, (8,): 0.25}, "far"),
        (101,),
    ),  # as far as vectors are long
    "2d": (drawn(2, (-1, -1), (1, 1), 9, 3), (37, 53)),
    "2d-corner": (drawn(2, (-3, 1), (-1, 5), 11, 4), (37, 53)),
    "2d-large": (drawn(2, (-5, -5), (5, 5), 121, 5), (12, 13)),
    "3d": (drawn(3, (-1, -2, 0), (1, 0, 3), 14, 6), (17, 19, 23)),
    "3d-planes": (drawn(3, (-3, -2, -2), (3, 3, 3), 252, 7), (7, 9, 23)),
    "3d-table": (drawn(3, (-2, -3, -3), (2, 3, 3), 150, 8), (17, 9, 23)),
}
DOUBLE = ("1d", "1d-far", "2d", "3d")
KINDS = [(name, np.float32) for name in CASES] + [(name, np.float64) for name in DOUBLE]


@pytest.fixture(scope="session", autouse=True)
def kept(tmp_path_factory):
    """One cache folder for the file, so that each stencil is compiled once."""
    before = os.environ.get("TENFOLD_CACHE")
    os.environ["TENFOLD_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TENFOLD_CACHE"]
    else:
        os.environ["TENFOLD_CACHE"] = before


@pytest.fixture
def cut(monkeypatch):
    """cut(tile, far): so all passes are cut, however small the grid."""

    def use(tile, far=False):
        monkeypatch.setattr(
            cpu,
            "_cut",
            lambda shape, size, stencil, boundary, t, threads: cpu.Plan(
                t, tuple(min(a, b) for a, b in zip(tile, shape, strict=True)), threads or 1, far, 0
            ),
        )

    return use


def grid_of(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def by_scipy(grid, stencil, steps, boundary):
    """In float64, the weights in a box about the middle, the grid padded by numpy axis by axis."""
    from scipy import ndimage

    reach = tuple(max(-a, b) for a, b in zip(stencil.lo, stencil.hi, strict=True))
    weights = np.zeros([2 * r + 1 for r in reach])
    for offset, weight in zip(stencil.offsets, stencil.weights, strict=True):
        weights[tuple(o + r for o, r in zip(offset, reach, strict=True))] = grid.dtype.type(weight)
    out = grid.astype(np.float64)
    for _ in range(steps):
        inner = tuple(slice(-a, n - b) for a, b, n in zip(stencil.lo, stencil.hi, out.shape, strict=True))
        if boundary.rules[0] == "valid":
            out = ndimage.correlate(out, weights, mode="constant")[inner]
        elif len(set(boundary.rules)) == 1 and boundary.rules[0] != "fixed":
            out = ndimage.correlate(out, weights, mode=boundary.rules[0], cval=boundary.value)
        else:
            wide = out
            for axis, rule in enumerate(boundary.rules):
                width = [(reach[axis],) * 2 if a == axis else (0, 0) for a in range(out.ndim)]
                if rule in ("fixed", "constant"):  # what lies beyond a fixed edge is not used
                    wide = np.pad(wide, width, constant_values=boundary.value)
                else:
                    wide = np.pad(wide, width, mode=PADS[rule])
            all_of = ndimage.correlate(wide, weights, mode="constant")
            new = all_of[tuple(slice(r, r + n) for r, n in zip(reach, out.shape, strict=True))]
            where = tuple(
                part if rule == "fixed" else slice(None) for part, rule in zip(inner, boundary.rules, strict=True)
            )
            out = out.copy()
            out[where] = new[where]
    return out


# ---------------------------------------------------------------- right


@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_as_scipy_and_as_the_definition(name, dtype):
    stencil, shape = CASES[name]
    grid = grid_of(shape, dtype)
    for rule, steps in itertools.product(RULES + MIXED[len(shape)], (1, 3)):
        boundary = Boundary.parse(rule, len(shape))
        try:
            boundary.check(shape, stencil, steps)
        except BadInput:
            with pytest.raises(BadInput):
                cpu.run(grid, stencil, steps, boundary)
            continue
        found = cpu.run(grid, stencil, steps, boundary, threads=2)
        assert found.dtype == dtype
        rounding = np.finfo(dtype).eps * stencil.points * steps
        for truth in (by_scipy(grid, stencil, steps, boundary), reference.run(grid, stencil, steps, boundary)):
            np.testing.assert_allclose(found, truth, rtol=0, atol=4 * rounding, err_msg=f"{rule}, {steps} steps")


@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_no_bit_depends_on_passes_tiles_or_threads(name, dtype, cut):
    stencil, shape = CASES[name]
    grid = grid_of(shape, dtype, 1)
    rng = random.Random(name)
    for rule in RULES + MIXED[len(shape)]:
        boundary = Boundary.parse(rule, len(shape))
        steps = 7
        while steps:
            try:
                boundary.check(shape, stencil, steps)
                break
            except BadInput:
                steps -= 1
        cut(shape)
        singly = cpu.run(grid, stencil, steps, boundary, threads=1, fuse=1) if steps else None
        for fuse, threads, far in ((1, 2, True), (2, 1, False), (3, 2, True), (7, 3, False), (4, 2, True)):
            if singly is None:
                break
            cut(tuple(rng.randint(1, n) for n in shape) if rng.random() < 0.8 else shape, far)
            found = cpu.run(grid, stencil, steps, boundary, threads=threads, fuse=fuse)
            assert found.tobytes() == singly.tobytes(), (rule, fuse, threads)


def test_a_grid_of_whole_lines_goes_past_the_cache_by_whole_lines(cut):
    """Rows of 64 numbers: the parts of lines that a step leaves alone are carried along."""
    stencil = CASES["2d"][0]
    grid = grid_of((40, 64), np.float32)
    for rule in RULES + MIXED[2]:
        boundary = Boundary.parse(rule, 2)
        cut(grid.shape)
        singly = cpu.run(grid, stencil, 5, boundary, threads=1, fuse=1)
        for fuse, tile in itertools.product((1, 2, 5), ((40, 64), (16, 32), (7, 16))):
            cut(tile, far=True)
            assert cpu.run(grid, stencil, 5, boundary, threads=2, fuse=fuse).tobytes() == singly.tobytes(), (rule, fuse)


@st.composite
def runs(draw):
    """A case on any grid, under any rules, cut anyhow."""
    name = draw(st.sampled_from(sorted(CASES)))
    ndim = CASES[name][0].ndim
    most = {1: (300,), 2: (60, 90), 3: (20, 24, 50)}[ndim]
    shape = tuple(draw(st.integers(1, n)) for n in most)
    if draw(st.booleans()):  # rows of whole lines: what goes past the caches goes by lines
        shape = (*shape[:-1], draw(st.sampled_from((16, 32, 48, 64))))
    each = st.sampled_from(("fixed", "nearest", "reflect", "mirror", "wrap", "constant:1.5"))
    rule = "valid" if draw(st.integers(0, 5)) == 0 else ",".join(draw(each) for _ in shape)
    steps = draw(st.integers(1, 9))
    tile = tuple(draw(st.integers(1, n)) for n in shape)
    return name, shape, rule, steps, draw(st.integers(1, steps)), tile, draw(st.booleans()), draw(st.integers(1, 3))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs())
def test_any_cut_of_any_grid_gives_the_same_bits(cut, run):
    name, shape, rule, steps, fuse, tile, far, threads = run
    stencil, boundary = CASES[name][0], Boundary.parse(rule, len(shape))
    try:
        boundary.check(shape, stencil, steps)
    except BadInput:
        assume(False)
    grid = grid_of(shape, np.float32, 4)
    cut(shape)
    singly = cpu.run(grid, stencil, steps, boundary, threads=1, fuse=1)
    cut(tile, far)
    assert cpu.run(grid, stencil, steps, boundary, threads=threads, fuse=fuse).tobytes() == singly.tobytes()


def test_large_enough_grids_are_cut_by_the_plan_itself():
    stencil = CASES["2d"][0]
    for shape in ((300, 1100), (1500, 128)):
        grid = grid_of(shape, np.float32)
        for rule in ("wrap", "mirror,fixed"):
            boundary = Boundary.parse(rule, 2)
            singly = cpu.run(grid, stencil, 20, boundary, threads=1, fuse=1)
            plan = cpu.plan(shape, grid.dtype, stencil, boundary, 20, 2)
            assert plan.fuse > 1
            assert cpu.run(grid, stencil, 20, boundary, threads=2).tobytes() == singly.tobytes()
            assert cpu.run(grid, stencil, 20, boundary, threads=2, fuse=8).tobytes() == singly.tobytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(0, 60), st.floats(-2, 2, width=32), st.integers(1, 4))
def test_linear_and_the_same_everywhere(down, right, factor, steps):
    """Moving a periodic grid moves the result, bit for bit; sums and multiples go through, within rounding."""
    stencil, wrap = CASES["2d"][0], Boundary.parse("wrap", 2)
    a, b = grid_of((41, 67), np.float32, 2), grid_of((41, 67), np.float32, 3)
    one, two = (cpu.run(x, stencil, steps, wrap, fuse=2) for x in (a, b))
    moved = cpu.run(np.roll(a, (down, right), (0, 1)), stencil, steps, wrap, fuse=2)
    assert moved.tobytes() == np.roll(one, (down, right), (0, 1)).tobytes()
    both = cpu.run(a + np.float32(factor) * b, stencil, steps, wrap, fuse=2)
    np.testing.assert_allclose(both, one + np.float32(factor) * two, rtol=0, atol=2e-5)


def test_what_is_not_a_number_stays_where_it_belongs(cut):
    """Lanes that are computed beyond the need never reach a result."""
    for name in ("1d", "2d", "3d"):
        stencil, shape = CASES[name]
        for rule in ("fixed", "reflect", "wrap"):
            grid = grid_of(shape, np.float32)
            grid[tuple(n // 2 for n in shape)] = np.nan
            grid[tuple(0 for _ in shape)] = np.inf
            boundary = Boundary.parse(rule, len(shape))
            with np.errstate(invalid="ignore"):
                truth = reference.run(grid, stencil, 3, boundary)
            cut(tuple(max(1, n // 3) for n in shape))
            found = cpu.run(grid, stencil, 3, boundary, threads=2, fuse=3)
            np.testing.assert_array_equal(np.isnan(found), np.isnan(truth))
            np.testing.assert_array_equal(np.isinf(found), np.isinf(truth))


def test_grids_hardly_larger_than_the_stencil():
    for name in ("1d", "2d", "3d", "2d-corner"):
        stencil, _ = CASES[name]
        spans = [b - a + 1 for a, b in zip(stencil.lo, stencil.hi, strict=True)]
        for shape, rules in (
            (spans, RULES),
            ([max(3, s - 1) for s in spans], RULES[1:6]),
            ([1] * stencil.ndim, ["wrap"]),
        ):
            grid = grid_of(shape, np.float64 if name in DOUBLE else np.float32)
            for rule in rules:
                boundary = Boundary.parse(rule, stencil.ndim)
                steps = 1 if rule == "valid" else 3
                try:
                    boundary.check(grid.shape, stencil, steps)
                except BadInput:
                    continue
                singly = cpu.run(grid, stencil, steps, boundary, fuse=1)
                np.testing.assert_allclose(singly, reference.run(grid, stencil, steps, boundary), rtol=0, atol=1e-5)
                assert cpu.run(grid, stencil, steps, boundary, fuse=3).tobytes() == singly.tobytes()


def test_nothing_but_the_grid_is_read():
    """A grid between two pages that may not be read, begun and ended by them."""
    script = """
import ctypes, mmap, sys
import numpy as np
sys.path[:0] = sys.argv[1:]
import test_cpu
from sparstencil import cpu
from sparstencil.boundary import Boundary
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
page = mmap.PAGESIZE
for name in ("1d", "2d", "3d", "2d-corner"):
    stencil, shape = test_cpu.CASES[name]
    for shape in (shape, {1: (64,), 2: (9, 160), 3: (9, 8, 160)}[len(shape)]):
        grid = test_cpu.grid_of(shape, np.float32)
        room = -(-grid.nbytes // page) * page
        area = mmap.mmap(-1, room + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        for at in (start, start + page + room):
            assert libc.mprotect(at, page, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0) == 0
        for first in (page, page + room - grid.nbytes):
            inside = np.frombuffer(area, np.float32, grid.size, first).reshape(shape)
            inside[:] = grid
            for rule in ("fixed", "reflect", "wrap", "constant:1", "valid"):
                for fuse in (1, 2):
                    cpu.run(inside, stencil, 2, Boundary.parse(rule, len(shape)), threads=1, fuse=fuse)
"""
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", script, here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- what comes in


def test_other_layouts_are_copied_and_nothing_that_came_in_is_changed():
    stencil, shape = CASES["2d"]
    grid = grid_of(shape, np.float32)
    wide = grid_of((2 * shape[0], 3 * shape[1]), np.float32)
    for rule in ("fixed", "wrap"):
        boundary = Boundary.parse(rule, 2)
        truth = cpu.run(grid, stencil, 3, boundary)
        before = grid.tobytes()
        for other in (np.asfortranarray(grid), grid[::-1, ::-1].copy()[::-1, ::-1], grid.astype(">f4")):
            assert cpu.run(other, stencil, 3, boundary).tobytes() == truth.tobytes()
        assert grid.tobytes() == before
        part = wide[::2, ::3]
        assert cpu.run(part, stencil, 2, boundary).tobytes() == cpu.run(part.copy(), stencil, 2, boundary).tobytes()
    same = cpu.run(grid, stencil, 0, Boundary.parse("valid", 2))
    assert same.tobytes() == grid.tobytes() and not np.shares_memory(same, grid)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"grid": np.zeros((9, 9), np.int32)}, "float32 and float64"),
        ({"grid": np.zeros((9, 9), np.float16)}, "float32 and float64"),
        ({"grid": np.zeros(9, np.float32)}, "the same number"),
        ({"grid": np.zeros((2, 9), np.float32)}, "spans 3"),
        ({"steps": -1}, "expected none or more"),
        ({"fuse": 0}, "expected at least 1"),
        ({"threads": 0}, "expected at least 1"),
        ({"stencil": Stencil.of({(0, 0): 1e300, (0, 1): 1.0})}, r"\[0, 0\], 1e\+300, does not fit float32"),
    ],
)
def test_bad_input_is_named(change, expected):
    given_ = {
        "grid": np.zeros((9, 9), np.float32),
        "stencil": CASES["2d"][0],
        "steps": 1,
        "fuse": "auto",
        "threads": None,
    }
    given_ |= change
    with pytest.raises(BadInput, match=expected):
        cpu.run(
            given_["grid"], given_["stencil"], given_["steps"], Boundary.parse("fixed", 2),
            fuse=given_["fuse"], threads=given_["threads"],
        )  # fmt: skip


def test_progress_is_told_and_a_stop_is_heard(monkeypatch):
    stencil, shape = CASES["2d"]
    grid, wrap = grid_of(shape, np.float32), Boundary.parse("wrap", 2)
    monkeypatch.setattr(cpu, "TURN_S", 0.0)  # look after every pass
    told: list[int] = []
    whole = cpu.run(grid, stencil, 10, wrap, fuse=3, progress=told.append)
    assert told == [3, 6, 9, 10]
    told.clear()
    part = cpu.run(grid, stencil, 10, wrap, fuse=3, progress=told.append, stop=lambda: told[-1] >= 6)
    assert told == [3, 6]
    assert part.tobytes() == cpu.run(grid, stencil, 6, wrap).tobytes()
    assert cpu.run(part, stencil, 4, wrap).tobytes() == whole.tobytes()


# ---------------------------------------------------------------- compiling


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A compiler that notes its calls, and an empty cache. Returns how many there were."""
    real = cpu.compiler()
    if real is None:
        pytest.skip("no C compiler")
    notes, script = tmp_path / "calls", tmp_path / "counting-cc"
    script.write_text(f'#!/bin/sh\necho call >> {notes}\nexec {real[0]} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    return lambda: len(notes.read_text().splitlines()) if notes.exists() else 0


def test_a_stencil_is_compiled_once(counted, tmp_path):
    stencil = Stencil.of({(-1,): 0.25, (0,): 0.5, (1,): 0.25})
    grid = grid_of((50,), np.float32)
    for _ in range(2):
        for rule, fuse in itertools.product(("wrap", "fixed", "reflect"), (1, 4)):
            cpu.run(grid, stencil, 4, Boundary.parse(rule, 1), fuse=fuse, threads=2)
        cpu._loaded.cache_clear()  # as another process
    assert counted() == 1
    cpu.run(grid.astype(np.float64), stencil, 1, Boundary.parse("wrap", 1))
    assert counted() == 2
    left = {path.suffix for path in (tmp_path / "cache" / "sparstencil").iterdir()}
    assert left == {".c", ".so"}  # nothing half done
    for each in (tmp_path / "cache" / "sparstencil").glob("*.so"):
        head = each.read_bytes()[:100]
        each.unlink()
        each.write_bytes(head)  # cut short by a full disk, say
    script = (
        "import numpy as np; from sparstencil import cpu; from sparstencil.stencil import Stencil;"
        "from sparstencil.boundary import Boundary;"
        "cpu.run(np.ones(9, np.float32), Stencil.of({(-1,): .25, (0,): .5, (1,): .25}), 3, Boundary.parse('wrap', 1))"
    )
    for _ in range(2):  # another process: this one has it loaded
        subprocess.run([sys.executable, "-c", script], check=True)
    assert counted() == 3


def test_two_processes_may_compile_at_once(counted):
    script = (
        "import numpy as np; from sparstencil import cpu; from sparstencil.stencil import Stencil;"
        "from sparstencil.boundary import Boundary;"
        "print(cpu.run(np.ones(9, np.float32), Stencil.of({(1,): 2.0}), 3, Boundary.parse('wrap', 1)).sum())"
    )
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["72.0"] * 2
    assert counted() in (1, 2)


def test_without_a_compiler_numba_runs_it(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv("CC", "no-such-compiler")
    for name in ("2d", "3d", "1d-left"):
        stencil, shape = CASES[name]
        grid = grid_of(shape, np.float32)
        for rule in ("fixed", "reflect", "wrap", "valid", MIXED[len(shape)][0]):
            boundary = Boundary.parse(rule, len(shape))
            with pytest.warns(UserWarning, match=r"no C compiler \(no-such-compiler\): numba runs the stencil"):
                found = cpu.run(grid, stencil, 3, boundary, threads=2, fuse=2)
            np.testing.assert_array_equal(found, reference.run(grid, stencil, 3, boundary))
    told: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpu.run(grid, stencil, 3, boundary, progress=told.append)
    assert told == [1, 2, 3]


def test_without_either_it_says_what_to_install(monkeypatch):
    from sparstencil import cpu_numba

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "numba", None)
    cpu_numba._step.cache_clear()
    with pytest.warns(UserWarning, match="no C compiler"), pytest.raises(Missing, match="install gcc or clang, or pip"):
        cpu.run(np.ones(9, np.float32), CASES["1d"][0], 1, Boundary.parse("wrap", 1))
    cpu_numba._step.cache_clear()


def test_a_compiler_that_fails_is_shown_with_its_command(tmp_path, monkeypatch):
    script = tmp_path / "bad-cc"
    script.write_text("#!/bin/sh\necho 'bad-cc: fatal error: no headers here' >&2\nexit 7\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", f"{script} --some-flag")
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(Missing) as told:
        cpu.run(np.ones(9, np.float32), CASES["1d"][0], 1, Boundary.parse("wrap", 1))
    first, second = str(told.value).splitlines()
    assert f"exit status 7): {script} --some-flag -std=gnu11 -O2" in first
    assert second == "bad-cc: fatal error: no headers here"
    assert not list((tmp_path / "cache").rglob("*.so"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "file"))
    with pytest.raises(Missing, match="set TENFOLD_CACHE to another folder"):
        cpu.run(np.ones(9, np.float32), CASES["1d"][0], 1, Boundary.parse("wrap", 1))


@pytest.mark.skipif("fma" not in cpu.processor().split(), reason="a processor without FMA")
@pytest.mark.parametrize("name", ["1d", "2d", "3d"])
def test_other_processors_give_the_same_bits_if_they_have_fma(name, monkeypatch, cut):
    """AVX2 as AVX-512, bit for bit; SSE2, which rounds twice, within rounding."""
    stencil, shape = CASES[name]
    grid = grid_of(shape, np.float32)
    cut(tuple(max(1, n // 2) for n in shape), far=True)
    native = {}
    for march in ("native", "x86-64-v3", "x86-64"):
        flags = [flag.replace("native", march) for flag in cpu.FLAGS]
        monkeypatch.setattr(cpu, "FLAGS", flags)
        monkeypatch.setattr(cpu, "processor", lambda march=march: "avx512f" if march == "native" else "")
        cpu._loaded.cache_clear()
        for rule in ("fixed", "mirror", "wrap"):
            found = cpu.run(grid, stencil, 4, Boundary.parse(rule, len(shape)), threads=2, fuse=3)
            if march == "native":
                native[rule] = found
            elif march == "x86-64-v3":
                assert found.tobytes() == native[rule].tobytes()
            else:
                np.testing.assert_allclose(found, native[rule], rtol=0, atol=2e-6)
        monkeypatch.undo()
        cut(tuple(max(1, n // 2) for n in shape), far=True)
    cpu._loaded.cache_clear()


def test_large_stencils_stay_small_sources():
    """11 x 11 is written out; 7 x 7 x 7 and 1001 points in a line are loops."""
    size = {
        name: len(cpu_source.source(named(name), np.dtype(np.float32)))
        for name in ("box-2d9p", "box-2d121p", "box-3d343p")
    }
    assert size["box-2d121p"] < 250_000 and size["box-3d343p"] < 150_000
    comb = Stencil.of({(i,): 1.0 / (i + 1) for i in range(1001)})
    assert len(cpu_source.source(comb, np.dtype(np.float64))) < 120_000


# ---------------------------------------------------------------- planning


def test_caches_are_read_and_plans_fit_them():
    found = cpu.caches()
    assert 4096 <= found.first <= found.second <= found.last
    assert cpu._members("0-3,8") == 5
    for name, shape in (("heat-2d", (4096, 4096)), ("box-3d27p", (256, 256, 256)), ("fir-15-1d", (10**7,))):
        stencil = named(name)
        for rule in ("fixed", "wrap"):
            plan = cpu.plan(shape, np.dtype(np.float32), stencil, Boundary.parse(rule, len(shape)), 1000, 2)
            assert plan.held <= found.second and plan.threads == 2 and plan.far == (found.last < 256 << 20)
            assert all(1 <= k <= n for k, n in zip(plan.tile, shape, strict=True))
    one = cpu.plan((64, 64), np.dtype(np.float32), named("heat-2d"), Boundary.parse("wrap", 2), 5)
    assert one.threads == 1 and one.fuse <= 5
