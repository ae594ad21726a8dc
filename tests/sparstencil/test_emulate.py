"""All 79 stencils, bit by bit from metadata words and tables of places, against scipy; modes, fusion and invariants."""

import itertools
import json

import numpy as np
import pytest
import scipy.ndimage

import sparstencil
from sparstencil import emulate, fuse, modes, program, reference, verify
from sparstencil.boundary import NAMES, Boundary
from sparstencil.geometry import fit
from sparstencil.plan import CARDS, best, told
from sparstencil.stencil import Stencil
from sparstencil.suite import LITERATURE, SUITE, named

SCIPY = ("constant", "nearest", "reflect", "mirror", "wrap")
SHAPES = verify.SHAPES


def rule(name, ndim):
    return Boundary.parse("constant:3" if name == "constant" else name, ndim)


def by_scipy(grid, stencil, boundary):
    """One step by scipy.ndimage.correlate in float64; fixed and valid by cutting."""
    name = boundary.rules[0]
    weights = stencil.array()
    origin = [-low - n // 2 for low, n in zip(stencil.lo, weights.shape, strict=True)]
    how = {"mode": name, "cval": boundary.value} if name in SCIPY else {"mode": "nearest"}
    out = scipy.ndimage.correlate(grid.astype(np.float64), weights, origin=origin, **how)
    inner = tuple(slice(*boundary.ring(grid.shape, stencil, axis)) for axis in range(grid.ndim))
    if name == "valid":
        return out[inner]
    kept = grid.astype(np.float64)
    kept[inner] = out[inner]
    return kept


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "offsets",
    [
        {(-2,), (0,), (3,)},
        {(1,), (2,)},
        {(-1, 2), (0, -3), (2, 0)},
        {(1, 1), (2, 3)},
        {(-1, 0, 2), (0, -2, 0), (1, 1, -1)},
    ],
)
def test_the_definition_is_scipys(offsets, name):
    draw = np.random.default_rng(1)
    stencil = Stencil.of({o: float(draw.uniform(-1, 1)) for o in sorted(offsets)})
    grid = draw.standard_normal(SHAPES[stencil.ndim])
    boundary = rule(name, stencil.ndim)
    assert np.allclose(reference.step(grid, stencil, boundary), by_scipy(grid, stencil, boundary), atol=1e-13)


@pytest.mark.parametrize("kernel", SUITE.values(), ids=lambda k: k.name)
def test_every_stencil_of_the_suite(kernel):
    """Legal 2:4 form with the fewest groups there can be for its instructions, and a step at an odd size that is exact."""
    row = verify.suite_row(kernel)
    assert row["ok"] and row["wrong"] == 0
    assert row["fewest"] == row["lower_bound"] <= row["groups"]
    assert -(-row["groups"] // 4) == -(-row["lower_bound"] // 4)  # no instruction could be spared


@pytest.mark.deep
@pytest.mark.parametrize("kernel", SUITE.values(), ids=lambda k: k.name)
def test_every_stencil_at_every_boundary_in_every_kind(kernel):
    draw = np.random.default_rng(kernel.id)
    whole = verify.whole_numbers(kernel.stencil, kernel.id)
    for mode in ("fast", "tf32", "s8"):
        setup = best(whole, mode, CARDS["h100"])
        exact = program.plain(setup.program.grouping, setup.kind)
        geometry = fit(exact, modes.PLANE_BYTES[mode])
        for name in NAMES:
            boundary = rule(name, kernel.ndim)
            shape = SHAPES[kernel.ndim]
            grid = draw.integers(-8, 9, shape).astype(np.float32)
            inner = tuple(slice(*boundary.ring(shape, whole, axis)) for axis in range(kernel.ndim))
            truth = by_scipy(grid, whole, boundary)
            found = emulate.product(geometry, [grid], boundary, [boundary.value])
            assert np.array_equal(found[inner], truth if name == "valid" else truth[inner]), (mode, name)


@pytest.mark.parametrize(("name", "mode", "near"), [
    (name, mode, near) for name in ("box-2d9p", "heat-3d", "1d7p") for mode, near in (("fast", 2e-3), ("mixed", 1e-3), ("tf32", 1e-3), ("f32", 2e-7))
])  # fmt: skip
@pytest.mark.parametrize("name_of_rule", ["wrap", "mirror", "constant", "fixed"])
def test_modes_are_as_near_as_they_say(name, mode, near, name_of_rule):
    stencil = named(name)
    grid = np.random.default_rng(2).standard_normal(SHAPES[stencil.ndim]).astype(np.float32)
    boundary = rule(name_of_rule, stencil.ndim)
    setup = best(stencil, mode, CARDS["h100"])
    found = modes.run(setup, grid, 2, boundary)
    truth = reference.run(grid.astype(np.float64), stencil, 2, boundary)
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < near


def heat(c):
    return Stencil.of({(0, 0): 1 - 4 * c, (0, 1): c, (0, -1): c, (1, 0): c, (-1, 0): c}, "heat")


def test_rounded_weights_leak_and_increments_do_not():
    """Heat-2D, c = .123, 200 steps: float16 loses mass every step, the increment form none."""
    grid = (1 + 0.5 * np.random.default_rng(0).standard_normal((32, 32))).astype(np.float32)
    boundary = Boundary.parse("wrap", 2)
    truth = reference.run(grid.astype(np.float64), heat(0.123), 200, boundary)
    error = {}
    for mode in ("fast", "mixed", "tf32", "f32"):
        setup = modes.prepare(heat(0.123), mode, (4, 4), "blossom")
        found = modes.run(setup, grid, 200, boundary)
        error[mode] = np.linalg.norm(found - truth) / np.linalg.norm(truth)
        assert setup.increment == (mode in ("mixed", "tf32"))
    assert error["fast"] > 0.03 and error["mixed"] < 3e-4 and error["tf32"] < 3e-4 and error["f32"] < 5e-6


@pytest.mark.deep
def test_3000_mixed_steps_stay_below_5e4():
    grid = (1 + 0.5 * np.random.default_rng(0).standard_normal((64, 64))).astype(np.float32)
    boundary = Boundary.parse("wrap", 2)
    truth = reference.run(grid.astype(np.float64), heat(0.123), 3000, boundary)
    found = modes.run(modes.prepare(heat(0.123), "mixed", (4, 4), "blossom"), grid, 3000, boundary)
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < 5e-4


@pytest.mark.parametrize(
    "weights", [named(n) for n in ("heat-2d", "heat-3d", "shapiro-2d", "1d9p", "aniso-diff-2d", "star-2d9p")]
)
def test_balanced_weights_keep_their_sum_in_float16(weights):
    change = weights.increment()
    found = program.balanced(dict(zip(change.offsets, change.weights, strict=True)))
    assert all(float(np.float16(w)) == w for w in found.values())
    if abs(change.total) < 1e-12:
        assert sum(found.values()) == 0.0
    for offset, weight in zip(change.offsets, change.weights, strict=True):
        assert found.get(offset, 0.0) == pytest.approx(weight, abs=2e-3 * max(map(abs, change.weights)))


def test_large_and_small_numbers_are_scaled_into_float16():
    for factor in (1e-30, 1e-8, 1.0, 1e9, 1e30):
        grid = (np.random.default_rng(3).standard_normal((20, 24)) * factor).astype(np.float32)
        boundary = Boundary(("constant", "constant"), 2 * factor)
        for mode in ("fast", "mixed"):
            found = modes.run(modes.prepare(named("heat-2d"), mode, (4, 4), "blossom"), grid, 3, boundary)
            truth = reference.run(grid.astype(np.float64), named("heat-2d"), 3, boundary)
            assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < 2e-3
    grow = Stencil.of({(0,): 30.0, (1,): 30.0})
    with pytest.raises(OverflowError, match="does not fit f16"):
        modes.run(
            modes.prepare(grow, "fast", (16,), "staircase"),
            np.ones(64, dtype=np.float32),
            12,
            Boundary.parse("wrap", 1),
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [2, 3])
def test_fused_steps_are_single_steps_on_the_whole_grid(name, steps):
    """Including the ring: in float64 through the definition, and by emulated whole numbers, exactly."""
    draw = np.random.default_rng(steps)
    for offsets in ({(-1,), (0,), (2,)}, {(-1, 0), (0, 1), (2, -1), (0, 0)}, {(0, 0, 1), (1, 0, 0), (0, -1, 0)}):
        stencil = Stencil.of({o: float(draw.integers(1, 4)) for o in sorted(offsets)})
        boundary = rule(name, stencil.ndim)
        grid = draw.integers(-4, 5, tuple(n + 10 for n in SHAPES[stencil.ndim])).astype(np.float64)

        def singly(g, k, b, stencil=stencil):
            return reference.run(g, stencil, k, b)

        def together(g, k, b, stencil=stencil):
            return reference.step(g, stencil.power(k), b)

        assert fuse.worthwhile(grid.shape, stencil, steps, boundary)
        truth = reference.run(grid, stencil, steps, boundary)
        assert np.array_equal(fuse.fused(grid, stencil, steps, boundary, together, singly), truth)
        fast = best(stencil, "f32", CARDS["h100"])
        wide = best(stencil, "f32", CARDS["h100"], steps=steps)
        found = fuse.fused(
            grid.astype(np.float32), stencil, steps, boundary,
            lambda g, _, b, wide=wide: modes.run(wide, g, 1, b), lambda g, k, b, fast=fast: modes.run(fast, g, k, b),
        )  # fmt: skip
        assert np.array_equal(found, truth)


def test_mixed_rules_fuse_too():
    stencil = named("box-2d9p")
    grid = np.random.default_rng(5).standard_normal((41, 38))
    for pair in itertools.permutations(("wrap", "fixed", "reflect", "nearest"), 2):
        boundary = Boundary(pair)
        truth = reference.run(grid, stencil, 4, boundary)
        found = fuse.fused(
            grid, stencil, 4, boundary, lambda g, k, b: reference.step(g, stencil.power(k), b),
            lambda g, k, b: reference.run(g, stencil, k, b),
        )  # fmt: skip
        assert np.allclose(found, truth, atol=1e-14)


def test_invariants():
    draw = np.random.default_rng(7)
    grid = draw.standard_normal((24, 40)).astype(np.float32)
    boundary = Boundary.parse("wrap", 2)
    for name in ("heat-2d", "shapiro-2d"):
        out = modes.run(best(named(name), "f32", CARDS["h100"]), grid, 10, boundary)
        assert out.mean() == pytest.approx(grid.mean(), abs=1e-6)  # Σ w = 1
    stencil = named("box-2d25p")
    setup = best(stencil, "f32", CARDS["h100"])
    shifted = np.roll(grid, (3, 5), (0, 1))
    moved = np.roll(modes.run(setup, grid, 1, boundary), (3, 5), (0, 1))
    assert np.allclose(moved, modes.run(setup, shifted, 1, boundary), atol=1e-6)  # other sums, rounded otherwise
    point = np.zeros((24, 40), dtype=np.float32)
    point[12, 20] = 1.0
    out = modes.run(setup, point, 2, boundary)
    power = stencil.power(2)
    for (a, b), weight in zip(power.offsets, power.weights, strict=True):
        assert out[12 - a, 20 - b] == pytest.approx(weight, abs=1e-7)  # the flipped stencil, convolved with itself


BACKENDS = [("emulate", "f32", np.float32, 2e-6), ("cpu", "f64", np.float64, 1e-13)]


@pytest.mark.parametrize(("backend", "mode", "dtype", "near"), BACKENDS, ids=[row[0] for row in BACKENDS])
@pytest.mark.parametrize("name", ["heat-2d", "aniso-diff-2d", "box-2d25p", "quick-1d", "himeno-3d"])
def test_a_plane_wave_is_an_eigenvector(name, backend, mode, dtype, near):
    """u_T = Re(ŵ(k)^T e^{i k x}) on a torus, symmetric and not; Heat-2D's wave (1, 0) of 64 keeps .998796 a step."""
    stencil, steps = named(name), 5
    shape = {1: (64,), 2: (64, 40), 3: (16, 20, 24)}[stencil.ndim]
    wave = (1, 0) if name == "heat-2d" else (2, 3, 1)[: stencil.ndim]
    k = [2 * np.pi * m / n for m, n in zip(wave, shape, strict=True)]
    phase = sum(one * x for one, x in zip(k, np.indices(shape), strict=True))
    symbol = stencil.symbol(*k)
    if name == "heat-2d":
        assert symbol == pytest.approx(0.998796, abs=1e-6)
    else:
        assert abs(symbol.imag) > 1e-3
    found = sparstencil.apply(np.cos(phase).astype(dtype), stencil, steps, "wrap", mode=mode, backend=backend)
    assert np.abs(found - (symbol**steps * np.exp(1j * phase)).real).max() < near * max(1, abs(symbol)) ** steps


@pytest.mark.parametrize(("backend", "mode", "dtype", "near"), BACKENDS, ids=[row[0] for row in BACKENDS])
@pytest.mark.parametrize("name", ["d2-o4-1d", "d2-o8-1d", "mehrstellen-2d", "poisson-3d19p", "iso-lap-3d27p"])
def test_second_derivatives_applied_to_polynomials(name, backend, mode, dtype, near):
    """0 on constants, lines and x y, 2 on x² along every axis, by the back end and not by the weights' moments."""
    stencil = named(name)
    shape = {1: (40,), 2: (21, 26), 3: (11, 13, 18)}[stencil.ndim]
    at = [x.astype(dtype) for x in np.indices(shape)]
    fields = [(np.ones(shape, dtype=dtype), 0)]
    for a, x in enumerate(at):
        fields += [(x, 0), (x * x, 2), *((x * y, 0) for y in at[a + 1 :])]
    for field, value in fields:
        found = sparstencil.apply(field, stencil, 1, "valid", mode=mode, backend=backend)
        largest = float(np.abs(field).max()) * stencil.gain
        assert found.size and np.abs(found - value).max() < near * largest


FUSED = [
    ({(-1,): 1, (0,): 2, (2,): -1}, (61,)),
    ({(-1, 0): 1, (0, 1): 2, (2, -1): -1, (0, 0): 1}, (41, 38)),
    pytest.param({(0, 0, 1): 1, (1, 0, 0): 2, (0, -1, 0): -1}, (19, 18, 23), marks=pytest.mark.deep),
]


@pytest.mark.parametrize("backend", ["emulate", "cpu"])
@pytest.mark.parametrize(("offsets", "shape"), FUSED)
def test_a_fused_run_is_the_run_step_by_step(offsets, shape, backend):
    """Seven steps, three a pass and one left over, with the ring of three steps' reach: whole numbers, exactly."""
    draw = np.random.default_rng(11)
    stencil = Stencil.of({o: float(w) for o, w in offsets.items()})
    grid = draw.integers(-2, 3, shape).astype(np.float32)
    small = draw.integers(-2, 3, tuple(3 * (h - low) + 2 for low, h in zip(stencil.lo, stencil.hi, strict=True)))
    for name in NAMES:
        boundary = rule(name, stencil.ndim)
        if name != "valid":
            assert fuse.worthwhile(shape, stencil, 3, boundary)  # the fused pass is what runs
        for values, steps in ((grid, 7), (small.astype(np.float32), 3)):  # the second is all ring: step by step
            truth = reference.run(values.astype(np.float64), stencil, steps, boundary)
            found = sparstencil.apply(values, stencil, steps, boundary, mode="f32", backend=backend, fuse=3)
            assert found.shape == truth.shape and np.array_equal(found, truth), name


def test_a_fused_run_makes_fused_passes(monkeypatch):
    """Two of three steps and one of one, for seven."""
    made = []
    whole = fuse.fused
    monkeypatch.setattr(fuse, "fused", lambda grid, stencil, steps, *more: made.append(steps) or whole(grid, stencil, steps, *more))  # fmt: skip
    grid = np.ones((40, 44), dtype=np.float32)
    sparstencil.apply(grid, named("heat-2d"), 7, "fixed", mode="f32", backend="emulate", fuse=3)
    assert made == [3, 3]


def test_a_glider_lives_400_steps():
    """Conway's rule on neighbour counts of 8-bit products, on a torus: exact."""
    life = named("life-count-2d")
    setup = modes.prepare(life, "s8", (4, 4), "staircase")
    boundary = Boundary.parse("wrap", 2)
    world = np.zeros((16, 24), dtype=np.int8)
    world[1, 2] = world[2, 3] = world[3, 1] = world[3, 2] = world[3, 3] = 1
    start = world.copy()
    for _ in range(400):
        count = modes.run(setup, world, 1, boundary)
        world = ((count == 3) | ((count == 2) & (world == 1))).astype(np.int8)
    # 400 steps carry it 100 places along both axes.
    assert np.array_equal(world, np.roll(start, (100 % 16, 100 % 24), (0, 1)))


@pytest.mark.parametrize("name", [*LITERATURE, "life-count-2d"])
def test_a_wrong_bit_of_a_plan_file_is_found(name, tmp_path):
    """Every kind of table: a metadata word, a place, the permutation."""
    stencil = named(name)
    mode = "s8" if SUITE[name].integer else "fast"
    plan = told(best(stencil, mode, CARDS["h100"]), CARDS["h100"], 1)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    assert verify.verify(stencil, mode, None, None, str(path))["ok"]
    draw = np.random.default_rng(0)
    for what in ("metadata", "offsets", "permutation"):
        wrong = json.loads(json.dumps(plan))
        if what == "metadata":
            lane = next(
                i for i, word in enumerate(wrong["metadata"][0]["lanes"]) if word not in ("00000000", "44444444")
            )
            word = wrong["metadata"][0]["lanes"][lane]
            at = next(i for i, digit in enumerate(word) if digit != "4")
            wrong["metadata"][0]["lanes"][lane] = word[:at] + ("4" if word[at] != "4" else "e") + word[at + 1 :]
        elif what == "offsets":
            at = int(draw.choice([i for i, place in enumerate(plan["offsets"]) if place is not None]))
            wrong["offsets"][at][-1] += 1
        else:  # every column still stands once, but two have changed places
            order = wrong["permutation"]
            at, other = draw.choice([i for i, column in enumerate(order) if column >= 0], 2, replace=False)
            order[at], order[other] = order[other], order[at]
        path.write_text(json.dumps(wrong))
        found = verify.verify(stencil, mode, None, None, str(path))
        assert not found["ok"] and found["tables"]
        if what != "permutation":  # which may leave A's registers as they are, and the numbers right
            assert len(found["tables"]) == 1 and what in found["tables"][0]
            assert any(not row["ok"] for row in found["rows"])
