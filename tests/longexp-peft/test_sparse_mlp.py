"""The feed-forward operator against dense layers in float64."""

import pytest
import torch
from longexp_models import make
from torch import nn

from longexp_peft import select
from longexp_peft.mlp import Side, Weights, feed_forward, into, pre_activation
from longexp_peft.shape import feed_forwards

D, F, R, M = 12, 40, 3, 23
ACTS = {"relu": torch.relu, "relu2": lambda z: torch.relu(z).square(), "silu": nn.functional.silu}


def weights(act, gated, seed=0, scale=0.5):
    """Everything that can be there: biases, a LoRA on every matrix, in float64, all that may train requiring gradients."""
    draw = torch.Generator().manual_seed(seed)

    def new(*shape, grad=True):
        return (scale * torch.randn(*shape, generator=draw, dtype=torch.float64)).requires_grad_(grad)

    def side(out, width_in):
        return Side(new(F, D, grad=False), new(out), (new(R, width_in), new(out, R), 1.7, nn.Identity()))

    return Weights(side(F, D), side(D, F), side(F, D) if gated else None, act, ACTS[act])


def trainable(w):
    return [x for side in (w.up, w.down, w.gate) if side is not None for x in (side.bias, *side.low[:2])]


def dense(x, w, keep=None):
    """The layer by the definition; keep (F,) masks h."""

    def first(side):
        return x @ side.weight.t() + side.bias + side.low[2] * (x @ side.low[0].t()) @ side.low[1].t()

    h = w.function(first(w.gate or w.up))
    if w.gate is not None:
        h = h * first(w.up)
    if keep is not None:
        h = h * keep
    a, b, scale, _ = w.down.low
    return h @ w.down.weight + w.down.bias + scale * (h @ a.t()) @ b.t()


def both(x, w, one, other):
    """Largest difference of outputs and of all gradients of two ways."""
    g = torch.randn(M, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    inputs = [x, *trainable(w)]
    a, b = one(), other()
    ga, gb = (torch.autograd.grad(y, inputs, g, allow_unused=True) for y in (a, b))
    worst = float((a - b).detach().abs().max())
    for p, q in zip(ga, gb, strict=True):
        p, q = (torch.zeros(()) if t is None else t for t in (p, q))
        worst = max(worst, float((p - q).abs().max()))
    return worst


def x_of(seed=3):
    return torch.randn(M, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_every_gradient_on_a_set_is_the_masked_dense_layers(act, gated):
    w, x = weights(act, gated), x_of()
    for rows in (torch.tensor([0, 3, 4, 17, 39]), slice(0, 16), slice(5, 6), torch.arange(F)):
        keep = torch.zeros(F, dtype=torch.float64)
        keep[rows] = 1
        assert both(x, w, lambda rows=rows: feed_forward(x, w, rows), lambda keep=keep: dense(x, w, keep)) < 1e-10


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_all_neurons_are_the_dense_layer(act, gated):
    w, x = weights(act, gated), x_of()
    assert both(x, w, lambda: feed_forward(x, w, None), lambda: dense(x, w)) < 1e-10


@pytest.mark.parametrize("act", ["relu", "relu2"])
def test_no_neuron_gives_the_bias_and_no_gradient_below(act):
    w, x = weights(act, False), x_of()
    y = feed_forward(x, w, torch.tensor([], dtype=torch.long))
    assert torch.equal(y, w.down.bias.expand(M, D))
    grads = torch.autograd.grad(y.sum(), [x, *trainable(w)])
    assert all(not g.any() for g in [grads[0], *grads[1:4]])  # x, b1, A1, B1
    assert torch.equal(grads[4], torch.full((D,), float(M), dtype=torch.float64))  # db2


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ["relu", "relu2"])
def test_exactness(act, gated):
    """With every neuron that is positive for some token, output and all gradients are dense, also from pre-activations made before."""
    w, x = weights(act, gated), x_of()
    first = w.gate or w.up
    with torch.no_grad():
        first.bias.sub_(6)  # most are never active
        z = pre_activation(x, first, into(x, first))
        active = (z > 0).any(0).nonzero()[:, 0]
    assert 0 < len(active) < F
    assert both(x, w, lambda: feed_forward(x, w, active), lambda: dense(x, w)) < 1e-10

    def known():
        u = into(x, first)
        return feed_forward(x, w, active, pre_activation(x, first, u).index_select(1, active), u)

    assert both(x, w, known, lambda: dense(x, w)) < 1e-10

    def known_dense():
        u = into(x, first)
        return feed_forward(x, w, None, pre_activation(x, first, u), u)

    assert both(x, w, known_dense, lambda: dense(x, w)) < 1e-10
    # The check can fail: leave out the active neuron with the least energy.
    h = w.function(z)
    least = active[(h[:, active].square().sum(0) * w.down.weight[active].square().sum(1)).argmin()]
    assert both(x, w, lambda: feed_forward(x, w, active[active != least]), lambda: dense(x, w)) > 1e-6


def test_gradcheck():
    w, x = weights("relu", False), x_of()
    rows = torch.tensor([1, 2, 30])
    assert torch.autograd.gradcheck(lambda x, *_: feed_forward(x, w, rows), [x, *trainable(w)], atol=1e-6)


def test_what_is_lost_is_bounded_token_by_token():
    w, x = weights("relu", False), x_of()
    w = w._replace(down=w.down._replace(low=None))
    with torch.no_grad():
        h = torch.relu(pre_activation(x, w.up, into(x, w.up)))
        whole = feed_forward(x, w, None)
        norms = w.down.weight.norm(dim=1)
        for lost in (0.5, 0.1, 0.01):
            kept = select.smallest(select.energies(h, norms), lost)
            y = feed_forward(x, w, kept.nonzero()[:, 0])
            bound = (h[:, ~kept] * norms[~kept]).sum(1)
            assert ((whole - y).norm(dim=1) <= bound + 1e-9).all()
            assert select.recall(select.energies(h, norms), kept) >= 1 - lost - 1e-9


def test_dropout_of_the_second_lora_is_the_same_in_backward():
    w, x = weights("relu", False), x_of()
    drop = nn.Dropout(0.5).train()
    w = w._replace(down=w.down._replace(low=(*w.down.low[:3], drop)))
    rows = torch.tensor([0, 5, 7, 20])

    def loss(x, *_):
        torch.manual_seed(5)
        return feed_forward(x, w, rows)

    assert torch.autograd.gradcheck(loss, [x, *trainable(w)], atol=1e-6)
    assert not torch.equal(
        loss(x), feed_forward(x, w._replace(down=w.down._replace(low=(*w.down.low[:3], nn.Identity()))), rows)
    )


@pytest.mark.parametrize("kind", ["opt", "post-ln", "gpt2", "llama", "arcee"])
def test_models_layers_are_found_as_they_compute(kind):
    model = make(kind)
    ffns = feed_forwards(model)
    assert len(ffns) == model.config.get_text_config().num_hidden_layers
    expected = {"llama": "silu", "arcee": "relu2"}.get(kind, "relu")
    assert {f.activation for f in ffns} == {expected}
    x = torch.randn(5, 32, dtype=torch.float64)
    for ffn in ffns:
        w = Weights.of(ffn)
        own = ffn.fused(x) if ffn.fused is not None else ffn.down(ffn.act(ffn.up(x)))
        assert torch.allclose(feed_forward(x, w, None), own, atol=1e-12)
