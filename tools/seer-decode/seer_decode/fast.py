"""A decoding step on a CPU without copies (_blocks.py): attend.blocks, attend.dense and a gate's choice where numba is here.

Numba compiles at the first call, and keeps what it made beside this file; without numba PyTorch does the same, slower. The
work is cut by shape alone, so that no number depends on the threads. They are PyTorch's own, by its library of OpenMP: those
wait for their next work without letting go of their cores, and others beside them would not come to run. Where PyTorch brought
no such library one thread does all.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seer_decode.select import Policy, Selection
from tenfold_shared import BadInput

if TYPE_CHECKING:
    from seer_decode.gate import Gate, Gates
    from seer_decode.rotate import Unrotated

TYPES = (torch.float32, torch.bfloat16)
PIECE = 1024  # tokens of a list that are done at once: their logits stay in a core's cache
DENSE = 64  # tokens of a block where all are read
ITEMS = 8  # of work at least where there are so many blocks, so that threads end together
ALONE = 512 << 10  # bytes that one thread reads in the time that others need to begin and end


@functools.cache
def available() -> bool:
    """Whether numba is here."""
    return importlib.util.find_spec("numba") is not None


def usable(*tensors: Tensor) -> bool:
    """Whether queries, keys and values are the kernels': on a CPU, of one type, where no gradient is asked for."""
    kind = tensors[0].dtype
    return (
        kind in TYPES
        and all(x.device.type == "cpu" and x.dtype == kind for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and available()
    )


@functools.cache
def _together() -> Any:
    """GOMP_parallel (function, its argument, threads, flags) of the OpenMP that PyTorch brought; None where it has none."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*")):
        try:
            found = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return found
    return None


@functools.lru_cache(64)
def _number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float32)


class Kernel(NamedTuple):
    """A C function of _blocks.py."""

    address: int
    call: Any


@functools.cache
def _kernel(name: str, *types: torch.dtype) -> Kernel:
    from seer_decode import _blocks

    made = getattr(_blocks, name)(*(np.uint16 if kind == torch.bfloat16 else np.float32 for kind in types))
    return Kernel(made.address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(made.address))


def _run(
    kernel: Kernel, work: int, read: int, sizes: Sequence[int], tensors: Sequence[Tensor], *more: list[int]
) -> list[int]:
    """The kernel over so much work, by torch's threads where it reads many bytes.

    more: lists that lie in the table, their addresses after those of the tensors; the last comes back as the kernel left it."""
    first = 2 + len(sizes) + len(tensors)
    table = array("q", [0, work, *sizes, *(x.data_ptr() for x in tensors)])
    table.extend([0] * len(more))
    for at, part in enumerate(more):
        table[first + at] = len(table)
        table.extend(part)
    begin = table.buffer_info()[0]
    for at in range(first, first + len(more)):
        table[at] = begin + 8 * table[at]
    threads = min(work, torch.get_num_threads()) if read >= ALONE else 1
    together = _together() if threads > 1 else None
    if together is None:
        kernel.call(begin)
    else:
        together(kernel.address, begin, threads, 0)
    return list(table[len(table) - len(more[-1]) :])


def attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, selection: Selection | None, block: int, scale: float
) -> Tensor:
    """(B, Hq, D) of queries (B, Hq, D) over chosen blocks of keys and values (B, Hkv, S, D), or over all; S counts for nothing."""
    batch, stored, tokens, dim = keys.shape
    heads = query.shape[1]
    lists, group = batch * stored, heads // stored
    if selection is None:
        most, columns = -(-tokens // block), 0
        chosen, counts = torch.empty(0, dtype=torch.int32), torch.full((lists,), most, dtype=torch.int32)
    else:
        chosen, counts = (x.to(torch.int32).contiguous() for x in selection)
        most = columns = chosen.shape[-1]
    if not most or not lists:
        return torch.zeros_like(query)
    per = -(-most // min(most, max(-(-most * block // PIECE), -(-ITEMS // lists))))
    pieces, fours = -(-most // per), -(-group // 4) * 4
    rows = lists * pieces * fours
    parts, sums, out = torch.empty(rows, dim), torch.empty(rows, 2), torch.empty(batch, heads, dim)
    tensors = (
        query.contiguous(), keys.contiguous(), values.contiguous(), lengths.long().contiguous(), chosen, counts,
        _number(scale), parts, sums, out,
    )  # fmt: skip
    read = 2 * lists * min(most * block, tokens) * dim * keys.element_size()
    sizes = batch, heads, lists, tokens, dim, columns, block, per, pieces, fours
    _run(_kernel("attender", keys.dtype), lists * pieces, read, sizes, tensors, [0] * lists)
    return out.to(query.dtype)


class Angles(NamedTuple):
    """cos and sin (2, B, half) float32 of the model's rotation, over its factor squared, and of the gate's; half is 0 for none."""

    back: Tensor
    on: Tensor


def angles(unrotated: Unrotated, gates: Gates, positions: Tensor) -> Angles:
    """At positions (B,)."""
    back = on = torch.empty(2, len(positions), 0)
    if unrotated.module is not None:
        back = torch.stack(unrotated.tables(positions[:, None]))[:, :, 0] / unrotated.factor**2
        back = back[..., : back.shape[-1] // 2]  # the halves are alike
    if gates.rotation is not None:
        on = torch.stack(gates.rotation.tables(positions))
    return Angles(back.contiguous(), on.contiguous())


def chooses(gate: Gate, policy: Policy, query: Tensor, compressed: Tensor) -> bool:
    """Whether `choose` can: Qproj, a number of blocks that no score changes, features in float32."""
    weight = gate.query
    return (
        gate.shape.query_pooling == "Qproj"
        and weight is not None
        and weight.dtype in TYPES
        and weight.device.type == "cpu"
        and policy.kind in ("budget", "ratio")
        and not policy.paper_compat
        and compressed.dtype == torch.float32
        and usable(query.detach())
    )


def choose(
    gate: Gate, query: Tensor, turned: Angles, compressed: Tensor, each: list[int], policy: Policy
) -> tuple[Selection, Tensor]:
    """select.select of the gate's scores, and these, (B, Hkv, NB) float32, 0 from a sequence's tail on.

    query (B, Hq, D) after RoPE at the last of `each` tokens; compressed (B, Hkv, N, dg). Raises BadInput for a score that is NaN
    or infinity."""
    from seer_decode.gate import EPS

    weight, norm = gate.query, gate.query_norm
    assert weight is not None
    batch, stored, held, wide = compressed.shape
    lists = batch * stored
    blocks = [-(-length // policy.block) for length in each]
    most = [policy.ceiling(count) or 0 for count in blocks]
    longest, widest = max(blocks), max(most)
    scores = torch.empty(batch, stored, longest)
    found = torch.empty(batch, stored, widest, dtype=torch.int32), torch.empty(batch, stored, dtype=torch.int32)
    sizes = (
        batch, query.shape[1], stored, held, query.shape[2], wide, turned.back.shape[2], turned.on.shape[2],
        0 if norm is None else wide, policy.block, policy.sink, policy.local, longest, widest,
    )  # fmt: skip
    tensors = (
        query.contiguous(), weight.contiguous(), turned.on if norm is None else norm.float(), compressed.contiguous(),
        turned.back, turned.on, _number(EPS), scores, *found,
    )  # fmt: skip
    read = weight.nbytes + 4 * lists * longest * wide
    if _run(_kernel("chooser", query.dtype, weight.dtype), lists, read, sizes, tensors, each, most, [0])[0]:
        raise BadInput("scores: hold NaN or infinity")
    return Selection(*found), scores
