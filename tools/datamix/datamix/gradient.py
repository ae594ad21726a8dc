"""The gradient of a proxy's loss by hand, on a CPU: what proxies spend their lives with.

Where it sits: below proxy.py, whose `Proxy.forward` defines the model and, through autograd, its gradient; a test holds the two together.
On models this small a third of autograd's time is bookkeeping and copies. Here every product adds straight into the model's flat gradient,
the softmax of the loss becomes its derivative in place, and rows come in parts whose activations stay in the caches.

Notation, N = n·L tokens of a part, d wide: h [N, d] the residual stream, a [N, d] = h·r with r [N, 1] = 1 / rms(h), u [N, 4d] after ReLU,
s [N, vocabulary]. Products are in `precision`; the stream h, attention (whose bfloat16 kernel is slow), loss and gradients in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from datamix.proxy import Proxy

PART = 4096  # tokens at once: what is kept of so many for the way back fits the caches
EPS = torch.finfo(torch.float32).eps  # as F.rms_norm has it
LEAST = torch.finfo(torch.float32).tiny


def possible(proxy: Proxy) -> bool:
    """Whether this torch and device have the kernels that are called here."""
    return proxy.device.type == "cpu" and hasattr(
        torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward"
    )


@torch.no_grad()
def fill(proxy: Proxy, rows: Tensor, weights: Tensor | None = None) -> float:
    """proxy.gradient becomes that of the mean loss of rows [n, length + 1], each row's times weights [n]; returns that mean."""
    proxy.gradient.zero_()
    length = rows.shape[1] - 1
    each = max(1, PART // length)
    scale = 1 / (len(rows) * length)
    dtype = torch.bfloat16 if proxy.config.precision == "bfloat16" else torch.float32
    views = {name: x.detach().to(dtype) for name, x in proxy.views.items()}
    total = 0.0
    for start in range(0, len(rows), each):
        weight = None if weights is None else weights[start : start + each].float().repeat_interleave(length)[:, None]
        total += _part(proxy, views, rows[start : start + each], weight, scale)
    return total * scale


def _part(proxy: Proxy, w: dict[str, Tensor], rows: Tensor, weight: Tensor | None, scale: float) -> float:
    """Add the gradient of scale · Σ weight · loss of some rows; Σ weight · loss."""
    flash, flash_back = (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )
    c, g = proxy.config, {name: x.grad for name, x in proxy.views.items() if x.grad is not None}
    dtype = w["tokens"].dtype
    x, y = rows[:, :-1], rows[:, 1:].reshape(-1, 1)
    n, length = x.shape
    d, heads, count = c.width, c.heads, n * length
    h = (F.embedding(x, proxy.views["tokens"]) + proxy.views["positions"][:length]).view(count, d)
    kept = []
    for i in range(c.layers):
        a, r = _norm(h, dtype)
        q, k, v = torch.mm(a, w[f"qkv{i}"].t()).float().view(n, length, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        o, lse = flash(q, k, v, 0.0, True)
        mixed = o.transpose(1, 2).reshape(count, d).to(dtype)
        h = _onto(h, mixed, w[f"out{i}"].t())
        b, rb = _norm(h, dtype)
        u = torch.mm(b, w[f"up{i}"].t()).relu_()
        h = _onto(h, u, w[f"down{i}"].t())
        kept.append((a, r, (q, k, v, o, lse), mixed, b, rb, u))
    a, r = _norm(h, dtype)
    s = torch.mm(a, w["tokens"].t()).float()
    torch.softmax(s, -1, out=s)
    loss = s.gather(1, y).clamp_(min=LEAST).log_().neg_()
    s.scatter_add_(1, y, torch.full_like(loss, -1.0))  # dloss/dlogits
    if weight is not None:
        loss, s = loss * weight, s.mul_(weight)
    s = s.to(dtype)
    _into(g["tokens"], s.t(), a, scale)
    dh = _norm_back(torch.mm(s, w["tokens"]).float().mul_(scale), a, r)
    for i in reversed(range(c.layers)):
        a, r, (q, k, v, o, lse), mixed, b, rb, u = kept[i]
        dy = dh.to(dtype)
        _into(g[f"down{i}"], dy.t(), u)
        du = torch.mm(dy, w[f"down{i}"])
        torch.ops.aten.threshold_backward.grad_input(du, u, 0, grad_input=du)
        _into(g[f"up{i}"], du.t(), b)
        dh.add_(_norm_back(torch.mm(du, w[f"up{i}"]).float(), b, rb))
        dy = dh.to(dtype)
        _into(g[f"out{i}"], dy.t(), mixed)
        do = torch.mm(dy, w[f"out{i}"]).float().view(n, length, heads, d // heads).transpose(1, 2)
        dqkv = torch.empty(count, 3 * d, dtype=dtype)
        places = dqkv.view(n, length, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        for place, one in zip(places, flash_back(do, q, k, v, o, lse, 0.0, True), strict=True):
            place.copy_(one)
        _into(g[f"qkv{i}"], dqkv.t(), a)
        dh.add_(_norm_back(torch.mm(dqkv, w[f"qkv{i}"]).float(), a, r))
    dh = dh.view(n, length, d)
    g["tokens"].add_(torch.ops.aten.embedding_dense_backward(dh, x, proxy.vocabulary, -1, False))
    g["positions"][:length].add_(dh.sum(0))
    return float(loss.double().sum())


def _norm(h: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    r = torch.rsqrt(h.square().mean(-1, keepdim=True).add_(EPS))
    return (h * r).to(dtype), r


def _norm_back(da: Tensor, a: Tensor, r: Tensor) -> Tensor:
    """dh = r (da - a · mean(da · a)), in da's place."""
    return da.sub_(a * (da * a).mean(-1, keepdim=True)).mul_(r)


def _onto(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """h + a @ b."""
    return torch.addmm(h, a, b) if a.dtype == h.dtype else h + torch.mm(a, b)


def _into(g: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    """g += scale · a @ b."""
    if a.dtype == g.dtype:
        g.addmm_(a, b, alpha=scale)
    else:
        g.add_(torch.mm(a, b), alpha=scale)
