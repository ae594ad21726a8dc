"""Device code in the operators, in Triton's interpreter, beside what PyTorch does without: outputs and every gradient."""

import pytest
import torch
from longexp_models import examples, make
from torch import nn

from longexp_peft import kernels
from longexp_peft.attention import Chosen, Past, attend
from longexp_peft.methods import Method, attach
from longexp_peft.mlp import Side, Weights, feed_forward, into, pre_activation
from longexp_peft.pack import row_of
from longexp_peft.sparse import Sparse, Sparsity
from tenfold_kernels import device

D, F, R, M = 16, 40, 3, 9


def weights(act, drop=None):
    draw = torch.Generator().manual_seed(0)

    def new(*shape, grad=True):
        return (0.5 * torch.randn(*shape, generator=draw)).requires_grad_(grad)

    def side(out, width):
        return Side(new(F, D, grad=False), new(out), (new(R, width), new(out, R), 1.7, drop or nn.Identity()))

    return Weights(side(F, D), side(D, F), None, act, None)


def gradients(x, w, rows, known):
    def run():
        torch.manual_seed(0)
        u = into(x, w.up)
        z = pre_activation(x, w.up, u).index_select(1, rows) if known else None
        y = feed_forward(x, w, rows, z, u)
        inputs = [x, *(t for side in (w.up, w.down) for t in (side.bias, *side.low[:2]))]
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    return run


@pytest.mark.parametrize(
    ("act", "dropout", "known"),
    [
        ("relu", False, False),
        ("relu", False, True),
        ("relu2", False, False),
        ("relu2", False, True),
        ("relu", True, False),
    ],
)
def test_products_with_picked_neurons(act, dropout, known):
    w = weights(act, nn.Dropout(0.5).train() if dropout else None)
    x = torch.randn(M, D, generator=torch.Generator().manual_seed(1)).requires_grad_()
    run = gradients(x, w, torch.tensor([0, 3, 4, 17, 39, 22]), known)
    ours = run()
    assert not kernels.products(x, w.up.weight, torch.tensor([0]))
    with device.interpreter(True):
        assert kernels.products(x, w.up.weight, torch.tensor([0]))
        theirs = run()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("before", [0, 5])
def test_attention_of_blocks_over_a_packed_row(before):
    heads, kv, e, lengths = 4, 2, 16, [40, 7, 52]
    total = sum(lengths)

    def new(*shape, seed):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()

    q, k, v = new(1, heads, total, e, seed=0), new(1, kv, total, e, seed=1), new(1, kv, total, e, seed=2)
    past = Past(new(1, kv, before, e, seed=3), new(1, kv, before, e, seed=4)) if before else None
    chosen = Chosen({0: torch.tensor([1, 0, 2, 17]), 2: torch.tensor([2, 1, 1, 9])}, 16)

    def run():
        o = attend(q, k, v, lengths, scale=0.3, past=past, chosen=chosen)
        return [o, *torch.autograd.grad(o.square().sum(), [q, k, v, *(past or ())])]

    ours = run()
    with device.interpreter(True):
        assert kernels.attends(q, 16)
        theirs = run()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_a_whole_step():
    """An exact step of a model, kernels or not: one loss, the same gradients."""
    model = make("opt", num_hidden_layers=1).float()
    tuned = attach(model, Method("lora", targets=("q_proj", "v_proj", "fc1", "fc2")), "base")
    with torch.no_grad():
        for p in tuned.parameters.values():
            p.add_(0.05)
    sparse = Sparse(model, Sparsity(mode="exact", break_even=1.0))

    def run():
        with sparse.attached():
            loss = sparse.loss(row_of(examples()[:3]))
            return [loss, *torch.autograd.grad(loss, list(tuned.parameters.values()))]

    ours = run()
    with device.interpreter(True):
        theirs = run()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=2e-3, rtol=1e-4)
