"""Products with listed neurons: padding, views, a whole sparse MLP; the registry has the oracle over odd shapes."""

import pytest
import torch

from tenfold_kernels import device
from tenfold_kernels.cases.longexp_peft import down_oracle, make_down, make_up, up_oracle
from tenfold_kernels.registry import Case, relative_error
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch.neuron_gemm import neuron_down, neuron_up

SHAPE = {"M": 20, "D": 40, "F": 90, "S": 48, "bias": True, "R": 3}


def up(dtype="float32", **changes):
    return make_up(Case("", dtype, SHAPE | changes), "cpu")


def down(dtype="float32", **changes):
    return make_down(Case("", dtype, SHAPE | changes), "cpu")


@pytest.mark.parametrize("act", ["relu", "relu2"])
def test_a_sparse_mlp_is_the_dense_one(interpreted, act):
    """Where the list holds every neuron that fires: y, dz and dx of both launchers against autograd in float64."""
    generator = torch.Generator().manual_seed(0)
    m, d, f, rank, scale = 9, 24, 80, 4, 1.5
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    w1, w2, b2, g = normal(f, d) / 5, normal(f, d) / 9, normal(d), normal(m, d)
    b1 = normal(f) - 5 * (torch.arange(f) % 3 > 0)
    x = normal(m, d)
    a1, low1, a2, low2 = normal(rank, d), normal(f, rank) / 9, normal(f, rank), normal(d, rank)

    dense = x.double().requires_grad_()
    z = dense @ w1.double().T + b1.double() + scale * (dense @ a1.double().T) @ low1.double().T
    z.retain_grad()
    hidden = z.relu() if act == "relu" else z.relu().square()
    y = hidden @ w2.double() + b2.double() + scale * (hidden @ a2.double()) @ low2.double().T
    y.backward(g.double())
    fires = (z > 0).any(0)
    assert 20 < fires.sum() < 60
    chosen = fires.nonzero()[:, 0].to(torch.int32)
    count = torch.tensor([len(chosen)], dtype=torch.int32)
    index = torch.cat([chosen, torch.full((64 - len(chosen),), -7, dtype=torch.int32)])

    h = neuron_up(x, w1, index, bias=b1, low=(x @ a1.T, low1, scale), epilogue=act, count=count)
    u = h[:, : len(chosen)] @ a2[chosen.long()]
    found = neuron_down(h, w2, index, bias=b2, low=(u, low2, scale), count=count)
    dz = neuron_up(g, w2, index, low=(g @ low2, a2, scale), epilogue=f"{act}_mask", h=h, count=count)
    t = dz[:, : len(chosen)] @ low1[chosen.long()]
    dx = neuron_down(dz, w1, index, low=(t, a1.T, scale), count=count)
    assert relative_error(found, y.detach()) < 1e-5
    assert relative_error(dz[:, : len(chosen)], z.grad[:, fires]) < 1e-5
    assert relative_error(dx, dense.grad) < 1e-5


def test_padding_is_not_read(interpreted):
    """Its numbers may be no neuron's, its h may be NaN; what comes out of it is 0."""
    for count in (0, 1, 47):
        given = up(count=count, epilogue="relu_mask")
        given["h"][:, count:] = float("nan")
        out = neuron_up(**given)
        assert out[:, count:].abs().sum() == 0
        assert relative_error(out, up_oracle(given)[0]) < 1e-5
        given = down(count=count)
        assert relative_error(neuron_down(**given), down_oracle(given)[0]) < 1e-5


def test_a_count_above_the_slots_is_all_of_them(interpreted):
    given = up()
    more = given | {"count": torch.tensor([99], dtype=torch.int32)}
    assert torch.equal(neuron_up(**more), neuron_up(**given))
    given = down()
    more = given | {"count": torch.tensor([99], dtype=torch.int32)}
    assert torch.equal(neuron_down(**more), neuron_down(**given))


def test_no_neuron_and_no_row(interpreted):
    given = down()
    nothing = given | {"h": given["h"][:, :0], "index": given["index"][:0]}
    assert relative_error(neuron_down(**nothing), down_oracle(nothing)[0]) < 1e-6
    given = up()
    assert neuron_up(**(given | {"index": given["index"][:0]})).shape == (20, 0)
    u, b, scale = given["low"]
    assert neuron_up(**(given | {"x": given["x"][:0], "low": (u[:0], b, scale)})).shape == (0, 48)


def test_neurons_come_in_the_lists_order(interpreted):
    given = up()
    before = neuron_up(**given)
    turned = given["index"].flip(0)
    assert torch.equal(neuron_up(**(given | {"index": turned})), before.flip(1))
    twice = torch.cat([given["index"][:24], given["index"][:24]])
    assert torch.equal(neuron_up(**(given | {"index": twice})), before[:, :24].repeat(1, 2))


def test_a_hot_prefix_is_a_view(interpreted):
    given = up()
    first = given | {"index": torch.arange(48, dtype=torch.int32)}
    u, b, scale = given["low"]
    view = given | {"index": None, "w": given["w"][:48], "bias": given["bias"][:48], "low": (u, b[:48], scale)}
    assert torch.equal(neuron_up(**first), neuron_up(**view))
    given = down()
    first = given | {"index": torch.arange(48, dtype=torch.int32)}
    assert torch.equal(neuron_down(**first), neuron_down(**(given | {"index": None, "w": given["w"][:48]})))


def test_strided_views_are_read_where_they_lie(interpreted):
    given = up(epilogue="relu2_mask")
    wide = {name: torch.cat([given[name], given[name]], 1)[:, : given[name].shape[1]] for name in ("x", "w", "h")}
    assert torch.equal(neuron_up(**given), neuron_up(**(given | wide)))
    given = down()
    wide = {name: torch.cat([given[name], given[name]], 1)[:, : given[name].shape[1]] for name in ("h", "w")}
    columns = {"h": given["h"].T.contiguous().T}
    assert torch.equal(neuron_down(**given), neuron_down(**(given | wide)))
    assert torch.equal(neuron_down(**given), neuron_down(**(given | columns)))


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_nan_is_not_hidden_by_relu(interpreted):
    given = up(epilogue="relu")
    given["x"][3, 5] = float("nan")
    out = neuron_up(**given)
    assert out[3].isnan().all()
    assert not out[:3].isnan().any()


def test_rows_do_not_depend_on_their_neighbours(interpreted):
    given = up(M=70)
    u, b, scale = given["low"]
    alone = given | {"x": given["x"][66:67], "low": (u[66:67], b, scale)}
    assert torch.equal(neuron_up(**alone), neuron_up(**given)[66:67])


def test_a_bias_of_another_dtype(interpreted):
    given = down("float16")
    given["bias"] = given["bias"].float()
    assert relative_error(neuron_down(**given), down_oracle(given)[0]) < 2e-3


def test_tiles_follow_the_work(compiled):
    """Recorded for 132 multiprocessors: wide tiles where these nearly fill them."""
    for m, s, wide, programs in ((4096, 2048, 256, 256), (4096, 1024, 256, 128), (512, 1024, 128, 32), (1, 1, 128, 1)):
        given = make_up(Case("", "bfloat16", {"M": m, "D": 64, "F": 4096, "S": s}), "meta")
        with device.recording() as launches:
            neuron_up(**given)
        assert launches[0].constants["BN"] == wide
        assert launches[0].grid == (programs,)


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = up(epilogue="relu")
    options = neuron_up(**given, fallback=lambda *_, **options: options)
    assert {name: given[name] for name in ("bias", "low", "epilogue", "h", "count")} == options
    given = down()
    options = neuron_down(**given, fallback=lambda *_, **options: options)
    assert {name: given[name] for name in ("bias", "low", "count")} == options
    with pytest.raises(Missing, match="GPU"):
        neuron_up(**up())
    with pytest.raises(Missing, match="GPU"):
        neuron_down(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"w": torch.zeros(90, 39)}, "D=40.*39"),
        ({"w": torch.zeros(90, 40, dtype=torch.float16)}, "expected float32, got float16"),
        ({"index": torch.zeros(48, dtype=torch.int64)}, "int64"),
        ({"bias": torch.zeros(48)}, "F=90.*48"),
        ({"low": (torch.zeros(20, 3), torch.zeros(48, 3), 1.0)}, "F=90.*48"),
        ({"low": (torch.zeros(20, 3), torch.zeros(90, 4), 1.0)}, "R=3.*4"),
        ({"epilogue": "gelu"}, "got gelu"),
        ({"epilogue": "relu_mask"}, "got relu_mask"),
        ({"h": torch.zeros(20, 48)}, "got none"),
        ({"epilogue": "relu_mask", "h": torch.zeros(20, 47)}, "S=48.*47"),
        ({"count": torch.zeros(2, dtype=torch.int32)}, "one=1.*2"),
    ],
)
def test_refusals_of_up_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        neuron_up(**(up() | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"index": torch.zeros(47, dtype=torch.int32)}, "S=48 .* got 47"),
        ({"index": None}, "S=48 .* got 90"),
        ({"bias": torch.zeros(90)}, "D=40.*90"),
        ({"low": (torch.zeros(20, 3), torch.zeros(90, 3), 1.0)}, "D=40.*90"),
        ({"w": torch.zeros(90, 40, dtype=torch.bfloat16)}, "expected float32, got bfloat16"),
    ],
)
def test_refusals_of_down_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        neuron_down(**(down() | changes))
