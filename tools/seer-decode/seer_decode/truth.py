"""What a gate is trained towards, and how far it is from it (arXiv 2506.08889, 2.3).

For a query row t the target of block j is max_{i in j, i <= t} softmax_i(q_t · k_i / sqrt(D)), the maximum over the query heads of
a group, zero unless j lies strictly before the row's own block, and divided by the row's sum. Rows of the first block have
no target and add exactly 0. A softmax is exp(logit − lse), so that a block's maximum needs only its largest logit: the map
of all rows is never held, only that of one chunk of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from seer_decode import kernels

if TYPE_CHECKING:
    from seer_decode.gate import Gate

MASKED = -1e20  # what the published code gives a masked block's logit; exp of it is 0
FLOOR = 1e-9  # added to a row's sum, as in the published code: a row without past mass stays near 0
CHUNK_BYTES = 64 << 20  # of one chunk's logits, float32


def past(at: Tensor, blocks: int, block: int) -> Tensor:
    """(r, blocks) whether a block lies strictly before the own block of the row at position at[r]."""
    return torch.arange(blocks, device=at.device) < (at // block)[:, None]


def first_row(length: int, slice_ratio: float) -> int:
    """The first row that counts: the least t >= slice_ratio · length."""
    if not 0 <= slice_ratio < 1:
        raise ValueError(f"slice_ratio {slice_ratio}: expected 0 <= ratio < 1")
    return math.ceil(slice_ratio * length)


def peaks(queries: Tensor, keys: Tensor, block: int, at: Tensor, scale: float | None = None) -> Tensor:
    """Block maxima of causal attention: queries (Hq, r, D) at ascending positions (r,), keys (Hkv, n, D), both after RoPE, to
    (Hkv, r, ceil(n / block)) float32, the maximum over the group, blocks after the row 0. Holds Hq · r · n logits."""
    heads, rows, dim = queries.shape
    stored, tokens, _ = keys.shape
    scale = dim**-0.5 if scale is None else scale
    blocks = -(-tokens // block)
    seen = min(tokens, int(at[-1]) + 1)  # no row looks further
    kind = torch.float64 if queries.dtype == torch.float64 else torch.float32
    grouped = queries.to(kind).unflatten(0, (stored, heads // stored)).flatten(1, 2)  # (Hkv, g r, D)
    logits = (grouped @ keys[:, :seen].to(kind).transpose(1, 2) * scale).unflatten(1, (-1, rows))
    logits.masked_fill_(torch.arange(seen, device=keys.device) > at[:, None], -torch.inf)
    whole = -(-seen // block)
    peak = pad(logits, (0, whole * block - seen), value=-torch.inf).unflatten(-1, (whole, block)).amax(-1)
    found = (peak - logits.logsumexp(-1, keepdim=True)).exp().amax(1)
    return pad(found, (0, blocks - whole))


def chunks(
    queries: Tensor,
    keys: Tensor,
    block: int,
    *,
    first: int = 0,
    rows: Tensor | None = None,
    scale: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The targets of one sequence, some rows at a time: (their positions (r,), gt (Hkv, r, NB) float32), NB = ceil(n / block).

    queries (Hq, n, D), keys (Hkv, n, D): after RoPE. first: rows before it are left out; rows: ascending positions, those
    alone. Ascending, none twice.
    """
    heads, tokens, dim = queries.shape
    blocks = -(-tokens // block)
    rows = torch.arange(first, tokens, device=keys.device) if rows is None else rows
    if kernels.makes_targets(queries, keys, rows):
        yield from kernels.targets(queries, keys, block, rows, dim**-0.5 if scale is None else scale, chunk_bytes)
        return
    step = max(1, chunk_bytes // (4 * heads * max(tokens, 1)))
    for at in rows.split(step) if len(rows) else ():
        peak = peaks(queries[:, at], keys, block, at, scale) * past(at, blocks, block)
        yield at, peak / (peak.sum(-1, keepdim=True) + FLOOR)


def ground_truth(queries: Tensor, keys: Tensor, block: int, **how: Any) -> Tensor:
    """All of `chunks` as one (Hkv, rows, NB): for a sequence short enough."""
    found = [target for _, target in chunks(queries, keys, block, **how)]
    return torch.cat(found, 1) if found else keys.new_zeros(keys.shape[0], 0, -(-keys.shape[1] // block)).float()


class _Divergence(torch.autograd.Function):
    """KL(gt ‖ softmax(z)) of each row and its gradient in closed form, (Σ gt) softmax(z) − gt on past blocks, else 0.

    Only the gradient is kept, where autograd would keep log-softmax and target both.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
        masked = scores.to(kind).masked_fill(~mask, MASKED)
        logs = masked.log_softmax(-1)  # float32: bfloat16 would round a row's loss to nothing
        target = target.to(kind) * mask
        ctx.save_for_backward((logs.exp() * target.sum(-1, keepdim=True) - target) * mask)
        ctx.kind = scores.dtype
        return (torch.xlogy(target, target) - target * logs.masked_fill(~mask, 0.0)).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (found,) = ctx.saved_tensors
        return (found * grads[0][..., None]).to(ctx.kind), None, None


def divergence(scores: Tensor, target: Tensor, block: int, at: Tensor) -> Tensor:
    """KL(gt ‖ softmax(z)) of each row, (..., r): scores z and target gt (..., r, NB) of rows at positions (r,); z is masked
    here. Rows of the first block give exactly 0. Differentiable in z: softmax(z) − gt, 0 on masked blocks."""
    return _Divergence.apply(scores, target, past(at, scores.shape[-1], block))


def sequence_loss(
    gate: Gate,
    queries_before: Tensor,
    keys_before: Tensor,
    queries: Tensor,
    keys: Tensor,
    *,
    slice_ratio: float = 0.0,
    rows: Tensor | None = None,
    scale: float = 10.0,
    attention_scale: float | None = None,
    backward: bool = False,
    weight: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """One layer's loss on one sequence: scale · mean over (Hkv, rows, NB), masked elements counted, as the published code has it.

    queries_before (Hq, n, D), keys_before (Hkv, n, D): before RoPE; queries, keys: after. Rows t >= slice_ratio · n count, or
    those at the ascending positions `rows`. The loss of a batch is the mean over its packed sequences, of a model the sum
    over its layers. Returns a scalar float32.
    backward: add weight · d loss / d weights to the gate's gradients chunk by chunk, so that one chunk is held at a time, and
    return a scalar without a graph.
    """
    tokens, block = queries.shape[1], gate.shape.block
    if rows is None:
        rows = torch.arange(first_row(tokens, slice_ratio), tokens, device=keys.device)
    elements = keys.shape[0] * len(rows) * -(-tokens // block)
    compressed = gate.key_features(keys_before[None])
    leaf = compressed.detach().requires_grad_() if backward else compressed
    total = torch.zeros((), device=keys.device)
    if not elements:
        return total
    for at, target in chunks(queries, keys, block, rows=rows, scale=attention_scale, chunk_bytes=chunk_bytes):
        features = gate.query_features(queries_before[None, :, at], at)
        part = divergence(gate.scores(features, leaf)[0], target, block, at).sum() * (scale / elements)
        if backward:
            (part * weight).backward()
            part = part.detach()
        total = total + part
    if backward and leaf.grad is not None:
        compressed.backward(leaf.grad)
    return total
