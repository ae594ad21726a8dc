"""How much an error in a cached key or value costs the attention output: the Anchor Score.

With A the causal attention weights of a head and o_i = Σ_j A_ij v_j, to first order
    d o_i = Σ_j A_ij · s (q_i · dk_j) (v_j − o_i),   and exactly   Attn(Q, K, V + dV) − Attn(Q, K, V) = A dV,
so that a key's factor is FK_j = Σ_i A_ij ‖v_j − o_i‖₂ · s ‖q_i‖₂ and a value's FV_j = Σ_i A_ij. `bound2` sums the squares of
the terms, which is what weighs a squared distance. Everything here is PyTorch in blocks of queries: the path of a CPU,
and the oracle of the kernel that does the same in one pass beside flash attention (tenfold_kernels.triton.anchor_score).

Shapes: q (B, Hq, n_q, D), k and v (B, Hkv, n, D), queries being the last n_q positions; scores (B, Hkv, n), summed over
the Hq / Hkv query heads that share a stored head.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from antkv import kernels

Kind = Literal["bound2", "bound", "mass", "mean-mass", "error", "sink", "recent", "random"]
KINDS: tuple[Kind, ...] = ("bound2", "bound", "mass", "mean-mass", "error", "sink", "recent", "random")
BLOCK = 256  # queries at a time


class Factors(NamedTuple):
    """Keys' and values' factors, (B, Hkv, n) float32 each."""

    keys: Tensor
    values: Tensor


class Attended(NamedTuple):
    """out (B, Hq, n_q, D) and the rows' log-sum-exp (B, Hq, n_q) float32."""

    out: Tensor
    lse: Tensor


def visible(n_q: int, n: int, start: Tensor | None, device: Any, at: int = 0, upto: int | None = None) -> Tensor:
    """(B or 1, 1, upto − at, n) of which keys the queries at…upto see: earlier ones and themselves, no padding.

    start: (B,) first slot that is no left padding."""
    queries = torch.arange(n - n_q + at, n - n_q + (n_q if upto is None else upto), device=device)
    slots = torch.arange(n, device=device)
    seen = (slots[None, :] <= queries[:, None])[None, None]
    if start is not None:
        seen = seen & (slots[None, :] >= start[:, None])[:, None, None, :]
    return seen


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, start: Tensor | None = None) -> Attended:
    """Causal attention with its log-sum-exp: by flash attention, or with padding in blocks of queries. Rows of padding are 0
    with an lse of −∞."""
    batch, heads, n_q, dim = q.shape
    groups = heads // k.shape[1]
    if start is None and _flashes(q):
        return _flash_attend(q, k, v, scale)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    for at in range(0, n_q, BLOCK):
        upto = min(n_q, at + BLOCK)
        scores = _scores(q[:, :, at:upto], k, groups, scale)
        scores = scores.masked_fill(~visible(n_q, k.shape[2], start, q.device, at, upto)[:, :, None], -math.inf)
        rows = torch.logsumexp(scores, -1)
        weights = torch.exp(scores - rows[..., None].nan_to_num(neginf=0.0))
        mixed = torch.einsum("bhgij,bhjd->bhgid", weights, v.float())
        out[:, :, at:upto] = mixed.reshape(batch, heads, upto - at, dim).to(out.dtype)
        lse[:, :, at:upto] = rows.reshape(batch, heads, upto - at)
    return Attended(out, lse)


def _flashes(q: Tensor) -> bool:
    """Whether PyTorch's flash attention, which gives the log-sum-exp, takes tensors like these."""
    return q.device.type == "cpu" or (q.is_cuda and q.dtype != torch.float32 and q.shape[-1] % 8 == 0)


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Attended:
    if q.is_cuda:
        found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    return Attended(found[0], found[1].float())


def _flash_attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Attended:
    """In two parts, as flash attention's causal mask is for as many keys as queries: what all queries see, with the query
    heads of a stored head side by side, and the queries' own tokens. Merged by log-sum-exp."""
    batch, heads, n_q, dim = q.shape
    stored = k.shape[1]
    old = k.shape[2] - n_q if n_q > 1 else k.shape[2]
    parts = []
    if old:
        folded = q.reshape(batch, stored, heads // stored * n_q, dim)
        seen = _flash(folded, k[:, :, :old], v[:, :, :old], scale, False)
        parts.append(Attended(seen.out.reshape(q.shape), seen.lse.reshape(batch, heads, n_q)))
    if n_q > 1:
        own_k, own_v = (x[:, :, old:].repeat_interleave(heads // stored, 1) for x in (k, v))
        parts.append(_flash(q, own_k, own_v, scale, True))
    return parts[0] if len(parts) == 1 else merged(*parts)


def attend_past(q: Tensor, k: Tensor, v: Tensor, scale: float, start: Tensor | None = None) -> Attended:
    """Attention to keys that lie before all queries: every query sees every one from `start` on."""
    batch, heads, n_q, dim = q.shape
    stored = k.shape[1]
    folded = q.reshape(batch, stored, heads // stored * n_q, dim)
    if start is None and _flashes(q):
        out, lse = _flash(folded, k, v, scale, False)
    else:
        scores = torch.einsum("bhid,bhjd->bhij", folded.float(), k.float()) * scale
        if start is not None:
            pads = torch.arange(k.shape[2], device=q.device) < start[:, None]
            scores = scores.masked_fill(pads[:, None, None], -math.inf)
        lse = torch.logsumexp(scores, -1)
        out = torch.exp(scores - lse[..., None].nan_to_num(neginf=0.0)) @ v.float()
    return Attended(out.reshape(q.shape).to(q.dtype), lse.reshape(batch, heads, n_q))


def merged(one: Attended, two: Attended) -> Attended:
    """Attention to both parts' keys, by log-sum-exp; a part may have seen nothing."""
    lse = torch.logaddexp(one.lse, two.lse)
    shift = lse.nan_to_num(neginf=0.0)
    out = sum((part.out.float() * torch.exp(part.lse - shift)[..., None] for part in (one, two)), torch.zeros(()))
    return Attended(out.to(one.out.dtype), lse)


def _scores(q: Tensor, k: Tensor, groups: int, scale: float) -> Tensor:
    """(B, Hkv, G, n_q, n) float32."""
    batch, heads, n_q, dim = q.shape
    grouped = q.float().reshape(batch, heads // groups, groups, n_q, dim)
    return torch.einsum("bhgid,bhjd->bhgij", grouped, k.float()) * scale


def factors(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    scale: float,
    squared: bool,
    start: Tensor | None = None,
    last: int | None = None,
) -> Factors:
    """FK and FV of all keys, or FK2 and FV2 where `squared`. last: only so many of the latest queries count.

    ‖v_j − o_i‖ is taken by difference. (The kernel has ‖v_j‖² − 2 o_i·v_j + ‖o_i‖² from one more product, which is off by
    some 3e-4 ‖v_j‖ where a query attends to one token alone.)
    """
    batch, heads, n_q, dim = q.shape
    kv_heads, n = k.shape[1], k.shape[2]
    groups = heads // kv_heads
    if kernels.usable(q):
        late = slice(0 if last is None else max(0, n_q - last), n_q)
        out, lse = attended.out[:, :, late].to(q.dtype), attended.lse[:, :, late].contiguous()
        return Factors(*kernels.factors(q[:, :, late], k, v, out, lse, scale, squared, start))
    values = v.float()
    found = Factors(*(torch.zeros(batch, kv_heads, n, dtype=torch.float32, device=q.device) for _ in range(2)))
    power = 2 if squared else 1
    for at in range(0 if last is None else max(0, n_q - last), n_q, BLOCK):
        upto = min(n_q, at + BLOCK)
        rows = q[:, :, at:upto]
        seen = visible(n_q, n, start, q.device, at, upto)[:, :, None]
        lse = attended.lse[:, :, at:upto].reshape(batch, kv_heads, groups, upto - at, 1)
        weights = torch.exp(_scores(rows, k, groups, scale) - lse.nan_to_num(neginf=0.0))
        weights = weights.masked_fill(~(seen & torch.isfinite(lse)), 0.0)
        out = attended.out[:, :, at:upto].float().reshape(batch, kv_heads, groups * (upto - at), dim)
        apart = torch.cdist(out, values, compute_mode="donot_use_mm_for_euclid_dist").unflatten(2, (groups, upto - at))
        strength = scale * rows.float().norm(dim=-1).reshape(batch, kv_heads, groups, upto - at, 1)
        found.keys.add_((weights * apart * strength).pow(power).sum((2, 3)))
        found.values.add_(weights.pow(power).sum((2, 3)))
    return found


def score(
    kind: Kind,
    factor: Factors,
    *,
    errors: tuple[Tensor, Tensor] | None = None,
    first: int = 0,
    total: int | None = None,
    generator: torch.Generator | None = None,
    block: int | None = None,
) -> Factors:
    """What anchors are chosen by, the larger the likelier, from accumulated factors.

    factor: FK, FV for `bound` and `error`, FK2, FV2 for `bound2`; of values only for the masses. errors: ‖k − k̂‖ and
    ‖v − v̂‖, for `error`. first: position of the first slot, of `total` seen so far (`sink`, `recent`, `mean-mass`). block: `random` draws for so many slots
    at a time, so that its draws do not depend on how many blocks come at once.
    """
    n = factor.keys.shape[-1]
    at = torch.arange(first, first + n, device=factor.keys.device, dtype=torch.float32)
    if kind in ("bound", "bound2"):
        return factor
    if kind == "mass":
        return Factors(factor.values, factor.values)
    if kind == "mean-mass":
        mean = factor.values / (float(total if total is not None else first + n) - at)
        return Factors(mean, mean)
    if kind == "error":
        if errors is None:
            raise ValueError("score error: the quantisation errors are needed")
        return Factors(factor.keys * errors[0], factor.values * errors[1])
    if kind == "random":
        sizes = [block] * (n // block) if block else [n]
        drawn = torch.cat([torch.rand(*factor.keys.shape[:-1], size, generator=generator) for size in sizes], -1)
        drawn = drawn.to(factor.keys.device)
        return Factors(drawn, drawn)
    plain = (-at if kind == "sink" else at).expand_as(factor.keys)
    return Factors(plain, plain)


def combined(found: Factors) -> Tensor:
    """One score for a key and its value, (B, Hkv, n): each part by its own total, where it has one."""
    return sum((part / part.sum(-1, keepdim=True).abs().clamp_min(1e-30) for part in found), torch.zeros(()))


def squared(kind: Kind) -> bool:
    """Whether the kind wants the factors of squares."""
    return kind == "bound2"
