"""The decoder's work by device code (tenfold_shared.launch), on a GPU or in Triton's interpreter; elsewhere PyTorch's.

Each function does what PyTorch does elsewhere: `attend` is attend.blocks, `choose` the gate's scores with select.select, and
`targets` truth.chunks. `usable`, `chooses` and `makes_targets` say whether it can.

A device is not waited for, so `choose` looks for no NaN: such a score is the lowest, where select.select refuses it.

Imports of this package stand where they are used: the GPU check reads this file on machines without the tool's dependencies.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from tenfold_shared.launch.block_decode import WIDTHS, block_decode
from tenfold_shared.launch.block_truth import MOST_HEADS, block_truth
from tenfold_shared.launch.gate_select import MOST_BLOCKS, gate_select
from tenfold_shared.launch.gate_select import WIDTHS as GATE_WIDTHS

if TYPE_CHECKING:
    from seer_decode.gate import Gate
    from seer_decode.select import Policy, Selection

TYPES = (torch.float16, torch.bfloat16, torch.float32)


@functools.cache
def _triton() -> bool:
    """Whether Triton is here; else PyTorch does the work on a GPU too, which is told once."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        print("seer-decode: triton is not installed: PyTorch attends in its place, slower", file=sys.stderr)
    return found


def on_device(x: Tensor) -> bool:
    return (x.is_cuda and _triton()) or (x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


def usable(x: Tensor) -> bool:
    """Whether device code attends to keys and values like x (..., D)."""
    return on_device(x) and x.shape[-1] in WIDTHS and x.dtype in TYPES


def attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, selection: Selection, block: int, scale: float
) -> Tensor:
    """(B, Hq, D) of queries (B, Hq, D) over the chosen blocks of keys and values (B, Hkv, S, D); S counts for nothing."""
    lists = selection.indices.to(torch.int32), selection.counts.to(torch.int32)
    out, _ = block_decode(query, keys, values, lengths.to(torch.int32), *lists, block=block, scale=scale)
    return out


def chooses(gate: Gate, policy: Policy, compressed: Tensor) -> bool:
    """Whether the gate's scores and this policy are the kernel's: Qproj, a budget or a threshold, at most one sink, the tail."""
    shape = gate.shape
    return (
        on_device(compressed)
        and shape.query_pooling == "Qproj"
        and shape.gate_dim in GATE_WIDTHS
        and gate.query is not None
        and gate.query.dtype in TYPES
        and policy.kind in ("budget", "threshold")
        and policy.sink <= 1
        and policy.local == 1
        and not policy.paper_compat
        and compressed.shape[2] <= MOST_BLOCKS
    )


def choose(gate: Gate, query: Tensor, compressed: Tensor, lengths: Tensor, policy: Policy) -> tuple[Selection, Tensor]:
    """The blocks of queries (B, Hq, D) before RoPE, each at the last of lengths (B,), and scores (B, Hkv, N) float32.

    compressed: (B, Hkv, N, dg), of which blocks before the tail's are read; the others score −infinity. Lists are as wide as
    the policy allows, whatever is in them.
    """
    from seer_decode.gate import EPS
    from seer_decode.select import Selection

    assert gate.query is not None
    held = compressed.shape[2]
    budget = int(policy.value // policy.block) if policy.kind == "budget" else None
    threshold = policy.value if policy.kind == "threshold" else None
    if threshold == 0.0:  # reads all, also a block whose share underflows
        budget, threshold = held + 1, None
    if gate.rotation is None:
        cos = torch.ones(len(query), gate.shape.gate_dim // 2, device=query.device)
        sin = torch.zeros_like(cos)
    else:
        cos, sin = gate.rotation.tables(lengths - 1)
    indices, counts, scores = gate_select(
        query.to(gate.query.dtype), gate.query.detach(), compressed.transpose(1, 2), lengths.to(torch.int32), cos, sin,
        block=policy.block, budget=budget, threshold=threshold, first=policy.sink == 1,
        weight=None if gate.query_norm is None else gate.query_norm.detach(), eps=EPS,
    )  # fmt: skip
    return Selection(indices, counts), scores


def makes_targets(queries: Tensor, keys: Tensor, rows: Tensor) -> bool:
    """Whether device code makes the targets of these rows: such as follow one another, of heads that fit a program."""
    together = len(rows) > 0 and int(rows[-1]) - int(rows[0]) == len(rows) - 1
    return usable(queries) and queries.dtype == keys.dtype and len(queries) <= MOST_HEADS * len(keys) and together


def targets(
    queries: Tensor, keys: Tensor, block: int, rows: Tensor, scale: float, chunk_bytes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """truth.chunks of queries (Hq, n, D), keys (Hkv, n, D) and rows that follow one another; chunk_bytes bounds a chunk's
    targets (Hkv, r, NB) float32, as no logits are held."""
    stored, tokens, _ = keys.shape
    blocks = -(-tokens // block)
    step = max(1, chunk_bytes // (4 * stored * blocks))
    first, end = int(rows[0]), int(rows[-1]) + 1
    for at in rows.split(step):
        stop = min(first + step, end)  # no row looks further
        lengths = torch.full((1,), stop, dtype=torch.int32, device=keys.device)
        found = block_truth(queries[None, :, :stop].detach(), keys[None, :, :stop].detach(), lengths, block=block, scale=scale, first_row=first)  # fmt: skip
        yield at, pad(found[0], (0, blocks - found.shape[-1]))
        first = stop
