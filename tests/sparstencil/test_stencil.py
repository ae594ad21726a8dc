"""Stencils: the four ways to write one, what is refused, powers and symbols."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparstencil.stencil import Stencil, formula, read
from sparstencil.suite import ALIASES, LITERATURE, SUITE, named
from tenfold_shared import BadInput

FIVE = {(0, -1): 0.1, (0, 1): 0.2, (-1, 0): 0.3, (1, 0): 0.15, (0, 0): 0.25}


def test_the_suite_is_the_list():
    assert len(SUITE) == 79 and [k.id for k in SUITE.values()] == list(range(1, 80))
    for kernel in SUITE.values():
        stencil = kernel.stencil
        assert (stencil.ndim, stencil.radius, stencil.points) == (kernel.ndim, kernel.radius, kernel.points), (
            kernel.name
        )
        if kernel.name.startswith(("box-", "star-")):
            assert math.fsum(map(abs, stencil.weights)) == pytest.approx(1.0)
            assert stencil.flipped() != stencil
        assert kernel.integer == all(w == 1.0 for w in stencil.weights)
    assert set(LITERATURE) <= set(SUITE) and set(ALIASES.values()) <= set(SUITE)
    assert named("Box-2D49P") == named("box2d3r") == named("box-2d49p")


@pytest.mark.parametrize(
    ("name", "order"),
    [("d2-o4-1d", 2), ("d2-o8-1d", 2), ("d1-o6-1d", 1), ("kdv-d3-1d", 3), ("savgol-11-1d", 0), ("1d11p", 0), ("lax-wendroff-1d", 0)],
)  # fmt: skip
def test_derivatives_are_exact_on_polynomials(name, order):
    """A scheme for the n-th derivative takes x^n to n! and lower powers to 0; smoothers keep constants."""
    stencil = named(name)
    for power in range(order + 1):
        value = sum(w * o[0] ** power for o, w in zip(stencil.offsets, stencil.weights, strict=True))
        assert value == pytest.approx(math.factorial(order) if power == order else 0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["mehrstellen-2d", "oono-puri-2d", "poisson-3d19p", "iso-lap-3d27p", "mg-resid-3d", "biharmonic-2d", "biharmonic-3d25p", "arakawa-2d"])  # fmt: skip
def test_operators_kill_constants_and_lines(name):
    stencil = named(name)
    assert stencil.total == pytest.approx(0.0, abs=1e-12)
    if name != "arakawa-2d":
        for axis in range(stencil.ndim):
            assert sum(w * o[axis] for o, w in zip(stencil.offsets, stencil.weights, strict=True)) == pytest.approx(
                0.0, abs=1e-12
            )


def test_a_plane_wave_is_multiplied_by_the_symbol():
    """Heat-2D, c = .125, wave (1, 0) of 64 points: 1 − .25 (1 − cos(2π/64)) a step."""
    factor = named("heat-2d").symbol(2 * math.pi / 64, 0.0)
    assert factor.real == pytest.approx(0.998796, abs=1e-6) and abs(factor.imag) < 1e-15
    assert named("heat-2d").growth() == pytest.approx(1.0) and Stencil.of(
        {(0,): 1.5, (1,): 0.6}
    ).growth() == pytest.approx(2.1)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6, unique=True), st.integers(1, 4), st.integers(0, 2**31))
def test_powers_are_polynomial_powers(places, steps, seed):
    weights = np.random.default_rng(seed).uniform(-1, 1, len(places))
    stencil = Stencil.of({(p,): float(w) for p, w in zip(places, weights, strict=True)})
    dense = np.zeros(7)
    dense[np.array(places) + 3] = weights
    whole = dense.copy()
    for _ in range(steps - 1):
        whole = np.convolve(whole, dense)
    power = stencil.power(steps)
    found = np.zeros(6 * steps + 1)
    for offset, weight in zip(power.offsets, power.weights, strict=True):
        found[offset[0] + 3 * steps] = weight
    assert np.allclose(found, whole, atol=1e-12)


def test_a_power_is_the_fourier_power():
    """w^{*3} of a random box against the FFT's: no formula that somebody expanded by hand."""
    stencil = named("box-2d9p")
    grid = np.zeros((16, 16))
    for offset, weight in zip(stencil.offsets, stencil.weights, strict=True):
        grid[offset] = weight
    truth = np.fft.ifft2(np.fft.fft2(grid) ** 3).real
    for offset, weight in zip(stencil.power(3).offsets, stencil.power(3).weights, strict=True):
        assert weight == pytest.approx(truth[offset], abs=1e-14)


def test_four_ways_to_write_one(tmp_path):
    weights = np.zeros((3, 3))
    for (a, b), w in FIVE.items():
        weights[a + 1, b + 1] = w
    np.save(tmp_path / "w.npy", weights)
    table = {"ndim": 2, "offsets": [list(o) for o in FIVE], "weights": list(FIVE.values()), "name": "five"}
    (tmp_path / "w.json").write_text(json.dumps(table))
    (tmp_path / "w.toml").write_text(f"ndim = 2\noffsets = {table['offsets']}\nweights = {table['weights']}\n")
    text = " + ".join(f"{w}*u[{a},{b}]" for (a, b), w in FIVE.items())
    truth = Stencil.of(FIVE)
    for spec in (tmp_path / "w.npy", tmp_path / "w.json", tmp_path / "w.toml", text):
        assert read(str(spec)) == truth
    assert read("(u[-1] - 2*u[0] + u[1])/4 + u[0]") == Stencil.of({(-1,): 0.25, (0,): 0.5, (1,): 0.25})
    assert read("u[+1] - -u[0]") == Stencil.of({(1,): 1.0, (0,): 1.0})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("u[0]*u[1]", r"u\[0\]\*u\[1\].*not linear"),
        ("c*u[0]", "c is no number"),
        ("k[0]*u[0]", r"k\[…\] is another array"),
        ("u[0] + 1", "constant 1.0"),
        ("sin(u[0])", r"sin\(u\[0\]\)"),
        ("u[0.5]", "no whole number"),
        ("u[i]", "no whole number"),
        ("u[0]**2", r"u\[0\]\*\*2"),
        ("1/u[0]", "division by u"),
        ("u[0]/0", "division by 0"),
        ("u[0", "never closed"),
        ("u[0] + u[0,1]", "axes"),
        ("__import__('os').system('true') + u[0]", "not one of"),
        ("u[0] - u[0]", "every weight"),
    ],
)
def test_a_formula_that_is_no_linear_sum_names_the_term(text, told):
    with pytest.raises(BadInput, match=told):
        formula(text)


def test_bad_weights_name_the_entry(tmp_path):
    for name, array, told in (
        ("nan", [[0, 1, 0], [1, np.nan, 1], [0, 1, 0]], r"entry \[1, 1\]"),
        ("even", np.ones((2, 3)), "--origin"),
        ("zero", np.zeros((3, 3)), "no weights|every weight"),
        ("four", np.ones((1, 1, 1, 1)), "1 to 3 axes"),
        ("empty", np.ones((0, 3)), "1 to 3 axes"),
        ("words", np.array(["a"]), "real numbers"),
    ):
        np.save(tmp_path / f"{name}.npy", np.asarray(array))
        with pytest.raises(BadInput, match=told):
            read(str(tmp_path / f"{name}.npy"))
    np.save(tmp_path / "even.npy", np.arange(1.0, 7).reshape(2, 3))
    assert read(str(tmp_path / "even.npy"), (0, 1)).offsets[0] == (0, -1)
    for text, told in (
        ('{"offsets": [[0]]}', "offsets and weights"),
        ('{"offsets": [[0], [1]], "weights": [1]}', "same length"),
        ('{"offsets": [[0.5]], "weights": [1]}', r"offsets\[0\]"),
        ('{"offsets": [[0]], "weights": ["x"]}', r"weights\[0\]"),
        ('{"ndim": 2, "offsets": [[0]], "weights": [1]}', r"offsets\[0\]: 1 numbers"),
        ('{"offsets": [[0]], "weights": [NaN]}', r"weights\[0\] is nan"),
        ("{", "not JSON"),
    ):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(BadInput, match=told):
            read(str(tmp_path / "s.json"))
    with pytest.raises(BadInput, match="nearest name is heat-2d"):
        read("heat-2")
    with pytest.raises(BadInput, match="no such file"):
        read(str(tmp_path / "none.npy"))


def test_zeros_are_absent_and_doubles_add_up(tmp_path):
    (tmp_path / "s.json").write_text('{"offsets": [[0], [1], [0], [2]], "weights": [1, 2, 3, 0]}')
    with pytest.warns(UserWarning) as caught:
        stencil = read(str(tmp_path / "s.json"))
    assert stencil == Stencil.of({(0,): 4.0, (1,): 2.0})
    assert any("stand twice" in str(w.message) for w in caught) and any("exactly 0" in str(w.message) for w in caught)


def test_reach_includes_the_point_itself():
    one_sided = Stencil.of({(2, 3): 1.0, (4, 3): 1.0})
    assert one_sided.lo == (0, 0) and one_sided.hi == (4, 3) and one_sided.extents == (3, 1)
    assert one_sided.array().shape == (5, 4)
    assert one_sided.flipped().hi == (0, 0)


def test_an_increment_is_one_less_at_the_point_itself():
    heat = named("heat-2d")
    change = heat.increment()
    assert change.total == pytest.approx(0.0, abs=1e-15)
    assert dict(zip(change.offsets, change.weights, strict=True))[0, 0] == -0.5
    assert Stencil.of({(0,): 1.0}).increment() is None
    assert (0,) in named("d1-o6-1d").increment().offsets
    assert named("heat-1d").offsets[:2] == ((-1,), (0,))
