"""A feed-forward layer on a set S of its neurons, forward and backward (arXiv 2510.15964, Dynamic-aware Operator).

    z = x W1[S]ᵀ + b1[S] + s₁ u₁ B1[S]ᵀ      h = act(z)        u₁ = dropout(x) A1ᵀ, made outside
    u₂ = h A2[:, S]ᵀ                         y = h W2[:, S]ᵀ + b2 + s₂ u₂ B2ᵀ
    dh = g W2[:, S] + s₂ (g B2) A2[:, S]     dz = dh ∘ act'(z)
    dx = dz W1[S]      du₁ = s₁ dz B1[S]     dB1[S] = s₁ dzᵀ u₁      db1[S] = Σ dz
    dA2[:, S] = s₂ (g B2)ᵀ h                 dB2 = s₂ gᵀ u₂          db2 = Σ g

The matrices are frozen and get no gradient; z is never kept, and h is M × |S|. With ReLU or ReLU², a set that holds every neuron
which is positive for some token gives the dense layer's output and all its gradients. `Weights` has both matrices as (F, d): a
neuron is one row of each. On a GPU the products with gathered rows are kernels (shared/tenfold_shared/launch/neuron_gemm.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from longexp_peft import kernels
from longexp_peft.shape import Ffn, bias, low_ranks, neuron_major
from tenfold_shared import BadInput

Rows = Tensor | slice  # neurons: int64 (|S|,), or a run of them, which is a view and no copy


class Side(NamedTuple):
    """One matrix, frozen, as (F, d), with what may train: bias, and a LoRA as (A, B, scale, dropout) or None."""

    weight: Tensor
    bias: Tensor | None
    low: tuple[Tensor, Tensor, float, nn.Module] | None = None


class Weights(NamedTuple):
    up: Side
    down: Side
    gate: Side | None
    act: str
    function: Any = None  # of an activation without exact zeros

    @classmethod
    def of(cls, ffn: Ffn) -> Weights:
        """What a layer holds now. Raises BadInput for more than one LoRA on a matrix."""

        def side(module: nn.Module | None, first: bool) -> Side | None:
            if module is None:
                return None
            low = low_ranks(module)
            if len(low) > 1:
                raise BadInput("more than one active LoRA on a feed-forward layer is not supported")
            weight = neuron_major(module, first)
            # Adapters of a 16-bit model are kept in float32, as peft keeps them, and work in its type.
            own = (low[0].a.to(weight.dtype), low[0].b.to(weight.dtype), *low[0][2:]) if low else None
            return Side(weight, bias(module), own)

        up, gate, down = side(ffn.up, True), side(ffn.gate, True), side(ffn.down, False)
        assert up is not None and down is not None
        return cls(up, down, gate, ffn.activation, ffn.act)


def take(x: Tensor, rows: Rows | None) -> Tensor:
    """x[rows], all of it for None."""
    if rows is None:
        return x
    return x[rows] if isinstance(rows, slice) else x.index_select(0, rows)


def take_columns(x: Tensor, rows: Rows | None) -> Tensor:
    if rows is None:
        return x
    return x[:, rows] if isinstance(rows, slice) else x.index_select(1, rows)


def put(rows: Rows | None, part: Tensor, size: int) -> Tensor:
    """(size, …) with `part` in its rows, 0 elsewhere."""
    if rows is None:
        return part
    whole = part.new_zeros(size, *part.shape[1:])
    whole[rows] = part
    return whole


def count(rows: Rows | None, width: int) -> int:
    if rows is None:
        return width
    return len(range(*rows.indices(width))) if isinstance(rows, slice) else len(rows)


@torch.no_grad()
def pre_activation(x: Tensor, side: Side, u: Tensor | None) -> Tensor:
    """z (M, F) of every neuron, without gradient: the first matrix's dense output with bias and LoRA, whose u is `into`'s."""
    z = linear(x, side.weight, side.bias)
    return z if side.low is None or u is None else z.addmm_(u, side.low[1].t(), alpha=side.low[2])


def into(x: Tensor, side: Side) -> Tensor | None:
    """u = dropout(x) Aᵀ (M, r); None without LoRA."""
    return None if side.low is None else linear(side.low[3](x), side.low[0])


def feed_forward(
    x: Tensor, w: Weights, rows: Rows | None, known: Tensor | None = None, u: Tensor | None = None
) -> Tensor:
    """y (M, d) of x (M, d) on the neurons `rows`, all for None.

    known: z (M, |S|) of the first matrix where it was made already (`pre_activation`'s columns S, of which this call may make
    use as it likes), with the u (M, r) it was made of: it is not made again, and gradients go through S alone.
    """
    first = w.gate or w.up
    if first.low is not None and u is None:
        u = into(x, first)
    if w.gate is None and w.act in ("relu", "relu2"):
        return _Plain.apply(x, u, w, rows, known, first.bias, w.down.bias, *_pair(first), *_pair(w.down))
    z = (
        _affine(x, first, rows, u)
        if known is None
        else _Known.apply(x, u, first, rows, known, first.bias, *_pair(first))
    )
    h = w.function(z)
    if w.gate is not None:
        h = h * _affine(x, w.up, rows, into(x, w.up))
    y = linear(h, take(w.down.weight, rows).t(), w.down.bias)
    if w.down.low is not None:
        a, b, scale, dropout = w.down.low
        y = y + scale * linear(linear(dropout(h), take_columns(a, rows)), b)
    return y


def _pair(side: Side) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if side.low is None else (side.low[0], side.low[1])


def _affine(x: Tensor, side: Side, rows: Rows | None, u: Tensor | None) -> Tensor:
    z = linear(x, take(side.weight, rows), None if side.bias is None else take(side.bias, rows))
    if side.low is not None and u is not None:
        z = z + side.low[2] * linear(u, take(side.low[1], rows))
    return z


class _Known(torch.autograd.Function):
    """z[:, S] that was made before; backward through the rows of S."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, u: Tensor | None, side: Side, rows: Rows, known: Tensor, b: Any, la: Any, lb: Any
    ) -> Tensor:
        ctx.side, ctx.rows = side, rows
        ctx.save_for_backward(u if ctx.needs_input_grad[7] else None)
        return known

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        side, rows, (u,) = ctx.side, ctx.rows, ctx.saved_tensors
        dx = dz @ take(side.weight, rows) if ctx.needs_input_grad[0] else None
        du = db = dlb = None
        size = len(side.weight)
        if side.low is not None:
            if ctx.needs_input_grad[1]:
                du = side.low[2] * (dz @ take(side.low[1], rows))
            if ctx.needs_input_grad[7]:
                dlb = put(rows, side.low[2] * (dz.t() @ u), size)
        if ctx.needs_input_grad[5]:
            db = put(rows, dz.sum(0), size)
        return dx, du, None, None, None, db, None, dlb


class _Plain(torch.autograd.Function):
    """A layer without a gate, ReLU or ReLU²: all of the equations above. Inputs beyond `known` are listed so that autograd asks
    for their gradients: b1, b2, A1 (whose gradient comes through u), B1, A2, B2."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, u: Tensor | None, w: Weights, rows: Rows | None, known: Tensor | None, b1: Any, b2: Any, a1: Any,
        lb1: Any, a2: Any, lb2: Any,
    ) -> Tensor:  # fmt: skip
        ctx.w, ctx.rows = w, rows
        ctx.device = kernels.products(x, w.up.weight, rows) and w.down.weight.is_contiguous()
        if ctx.device:
            return _on_device(ctx, x, u, w, rows, known, b1, b2, lb1, a2, lb2)
        w1, w2 = take(w.up.weight, rows), take(w.down.weight, rows)
        if known is None:
            z = linear(x, w1, None if b1 is None else take(b1, rows))
            if lb1 is not None:
                assert w.up.low is not None and u is not None
                z.addmm_(u, take(lb1, rows).t(), alpha=w.up.low[2])
        else:
            z = known
        h = z.relu_() if w.act == "relu" else z.relu_().square_()
        y = torch.mm(h, w2) if b2 is None else torch.addmm(b2, h, w2)
        u2 = keep = None
        if w.down.low is not None:
            u2, keep = _into_second(h, a2, rows, w.down.low[3])
            y.addmm_(u2, lb2.t(), alpha=w.down.low[2])
        ctx.save_for_backward(h, u if lb1 is not None and ctx.needs_input_grad[8] else None, u2, keep)
        ctx.gathered = (w1, w2)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        w, rows, (h, u, u2, keep), (w1, w2) = ctx.w, ctx.rows, ctx.saved_tensors, ctx.gathered
        needs, width = ctx.needs_input_grad, len(w.up.weight)
        db1 = db2 = dlb1 = da2 = dlb2 = dx = du = None
        if needs[6]:
            db2 = g.sum(0)
        gb = None if w.down.low is None else w.down.low[2] * (g @ w.down.low[1])
        fused = ctx.device and keep is None
        if fused:
            low = None if w.down.low is None or gb is None else (gb, w.down.low[0].t(), 1.0)
            dz = kernels.up(g.contiguous(), w.down.weight, rows, low=low, epilogue=f"{w.act}_mask", h=h)
        else:
            dz = kernels.up(g.contiguous(), w.down.weight, rows) if ctx.device else g @ w2.t()
        if w.down.low is not None and gb is not None:
            a2, _, scale, _ = w.down.low
            if keep is None and not fused:
                dz.addmm_(gb, take_columns(a2, rows))
            elif keep is not None:
                dz += (gb @ take_columns(a2, rows)) * keep
            if needs[9]:
                kept = h if keep is None else h * keep
                da2 = put(rows, kept.t() @ gb, width).t()
            if needs[10]:
                dlb2 = scale * (g.t() @ u2)
        if not fused:
            dz = (
                torch.ops.aten.threshold_backward(dz, h, 0) if w.act == "relu" else dz.mul_(2 * h.sqrt())
            )  # h = relu(z)²
        if needs[0]:
            dx = kernels.down(dz, w.up.weight, rows) if ctx.device else dz @ w1
        if w.up.low is not None:
            if needs[1]:
                du = w.up.low[2] * (dz @ take(w.up.low[1], rows))
            if needs[8]:
                dlb1 = put(rows, w.up.low[2] * (dz.t() @ u), width)
        if needs[5]:
            db1 = put(rows, dz.sum(0), width)
        return dx, du, None, None, None, db1, db2, None, dlb1, da2, dlb2


def _into_second(h: Tensor, a2: Tensor, rows: Rows | None, dropout: nn.Module) -> tuple[Tensor, Tensor | None]:
    """(u₂ (M, r) of the second matrix's LoRA, its dropout's mask (M, |S|) or None)."""
    keep = None
    if isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0:
        keep = torch.empty_like(h).bernoulli_(1 - dropout.p).div_(1 - dropout.p)
    return linear(h if keep is None else h * keep, take_columns(a2, rows)), keep


def _on_device(
    ctx: Any,
    x: Tensor,
    u: Tensor | None,
    w: Weights,
    rows: Any,
    known: Tensor | None,
    b1: Any,
    b2: Any,
    lb1: Any,
    a2: Any,
    lb2: Any,
) -> Tensor:
    """The forward of `_Plain` where products are kernels: nothing is gathered, and activation and LoRA are in them."""
    if known is None:
        low = None if w.up.low is None or u is None else (u, lb1, w.up.low[2])
        h = kernels.up(x, w.up.weight, rows, bias=b1, low=low, epilogue=w.act)
    else:
        h = known.relu_() if w.act == "relu" else known.relu_().square_()
    u2 = keep = last = None
    if w.down.low is not None:
        u2, keep = _into_second(h, a2, rows, w.down.low[3])
        last = (u2, lb2, w.down.low[2])
    ctx.save_for_backward(h, u if lb1 is not None and ctx.needs_input_grad[8] else None, u2, keep)
    ctx.gathered = (None, None)
    return kernels.down(h, w.down.weight, rows, bias=b2, low=last)
