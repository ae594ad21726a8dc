"""The language model's head and loss at label positions alone, in pieces, with the hidden states' gradient made on the way.

The head is frozen, so the gradient of a piece needs that piece's logits only: they are made once, used and dropped. Loss is the sum
over labels of (1 − a) · nll + a · mean over the vocabulary of −log p, with label smoothing a as torch's cross entropy has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

PIECE = 1 << 25  # logits at a time


def loss_sum(hidden: Tensor, labels: Tensor, head: Any, smoothing: float = 0.0) -> Tensor:
    """Scalar float32: the summed loss of hidden (n, d) against labels (n,); head is a Linear, frozen."""
    return _Loss.apply(hidden, labels, head.weight, head.bias, smoothing)


def token_losses(hidden: Tensor, labels: Tensor, head: Any) -> Tensor:
    """float32 (n,), without gradient."""
    size = max(1, PIECE // len(head.weight))
    parts = [
        cross_entropy(torch.nn.functional.linear(h, head.weight, head.bias).float(), y, reduction="none")
        for h, y in zip(hidden.split(size), labels.split(size), strict=True)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, smoothing: float
    ) -> Tensor:
        size = max(1, PIECE // len(weight))
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for begin in range(0, len(hidden), size):
            h, y = hidden[begin : begin + size], labels[begin : begin + size]
            logits = torch.nn.functional.linear(h, weight, bias).to(exact)
            lse = logits.logsumexp(1)
            picked = logits.gather(1, y[:, None])[:, 0]
            total += (lse - (1 - smoothing) * picked).sum()
            if smoothing:
                total -= smoothing * logits.mean(1).sum()
            if grad is not None:
                p = logits.sub_(lse[:, None]).exp_()
                p.scatter_add_(1, y[:, None], torch.full_like(picked, smoothing - 1)[:, None])
                if smoothing:
                    p -= smoothing / p.shape[1]
                torch.mm(p.to(hidden.dtype), weight, out=grad[begin : begin + size])
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return None if grad is None else grad * g.to(grad.dtype), None, None, None, None
