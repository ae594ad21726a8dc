"""A decoding step on a CPU without copies (_blocks.py): attend.blocks, attend.dense and a gate's choice where numba is here.

Numba compiles at the first call, and keeps what it made beside this file; without numba PyTorch does the same, slower. The
work is cut by shape alone, so that no number depends on the threads. They are PyTorch's own, by its library of OpenMP: those
wait for their next work without letting go of their cores, and others beside them would not come to run.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
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
ALONE = 2 << 20  # bytes that one thread reads in the time that others need to wake


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


def _plain(x: Tensor) -> Any:
    """Its numbers for numba; bfloat16 as uint16."""
    x = x.detach().contiguous()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


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


def _run(body: Any, work: int, read: int, *given: Any) -> None:
    """A C function of _blocks over so much work, by torch's threads where it reads many bytes; given: numbers and arrays."""
    table = np.array([0, work, *(x.ctypes.data if isinstance(x, np.ndarray) else x for x in given)], np.int64)
    threads = min(work, torch.get_num_threads()) if read >= ALONE else 1
    together = _together() if threads > 1 else None
    if together is None:
        body.ctypes(table.ctypes.data)
    else:
        together(body.address, table.ctypes.data, threads, 0)


def attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, selection: Selection | None, block: int, scale: float
) -> Tensor:
    """(B, Hq, D) of queries (B, Hq, D) over chosen blocks of keys and values (B, Hkv, S, D), or over all; S counts for nothing."""
    from seer_decode import _blocks

    batch, stored, tokens, dim = keys.shape
    lists, group = batch * stored, query.shape[1] // stored
    if selection is None:
        most = -(-int(lengths.max()) // block)
        chosen, counts = np.empty((lists, 0), np.int32), np.full(lists, most, np.int32)
    else:
        most = selection.indices.shape[-1]
        chosen, counts = (_plain(x.to(torch.int32)) for x in selection)
    if not most:
        return torch.zeros_like(query)
    per = max(1, PIECE // block)
    pieces, fours = -(-most // per), -(-group // 4) * 4
    peak, total = (np.empty((lists, pieces, fours), np.float32) for _ in range(2))
    apart = np.empty((lists, pieces, fours, dim), np.float32)
    q, k, v = (_plain(x) for x in (query, keys, values))
    read = 2 * lists * min(most * block, tokens) * dim * keys.element_size()
    _run(
        _blocks.attender(q.dtype.type), lists * pieces, read, batch, query.shape[1], lists, tokens, dim, chosen.shape[-1], block,
        per, pieces, fours, q, k, v, _plain(lengths.long()), chosen, counts, np.array([scale], np.float32), peak, total, apart,
    )  # fmt: skip
    out = np.empty((lists, group, dim), np.float32)
    _blocks.merge(peak, total, apart, out)
    return torch.from_numpy(out).view(batch, -1, dim).to(query.dtype)


class Angles(NamedTuple):
    """cos and sin (2, B, half) float32 of the model's rotation, over its factor squared, and of the gate's; half is 0 for none."""

    back: Any
    on: Any


def angles(unrotated: Unrotated, gates: Gates, positions: Tensor) -> Angles:
    """At positions (B,)."""
    back = on = torch.empty(2, len(positions), 0)
    if unrotated.module is not None:
        back = torch.stack(unrotated.tables(positions[:, None]))[:, :, 0] / unrotated.factor**2
        back = back[..., : back.shape[-1] // 2]  # the halves are alike
    if gates.rotation is not None:
        on = torch.stack(gates.rotation.tables(positions))
    return Angles(_plain(back), _plain(on))


def chooses(gate: Gate, policy: Policy, query: Tensor, compressed: Tensor) -> bool:
    """Whether `choose` can: Qproj, a number of blocks that no score changes, features in float32."""
    return (
        gate.shape.query_pooling == "Qproj"
        and gate.query is not None
        and gate.query.dtype in TYPES
        and gate.query.device.type == "cpu"
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
    from seer_decode import _blocks
    from seer_decode.gate import EPS

    assert gate.query is not None
    batch, stored, held, wide = compressed.shape
    lists = batch * stored
    blocks = [-(-length // policy.block) for length in each]
    most = [policy.ceiling(count) for count in blocks]
    widest = max(count for count in most if count is not None)
    scores, taken = np.empty((lists, max(blocks)), np.float32), np.empty((lists, widest), np.int32)
    q, weight, fine = _plain(query), _plain(gate.query), np.empty(lists, np.uint8)
    norm = np.empty(0, np.float32) if gate.query_norm is None else _plain(gate.query_norm.float())
    read = gate.query.nbytes + 4 * lists * max(blocks) * wide
    _run(
        _blocks.chooser(q.dtype.type, weight.dtype.type), lists, read, batch, query.shape[1], stored, held, query.shape[2], wide,
        turned.back.shape[2], turned.on.shape[2], len(norm), policy.block, policy.sink, policy.local, max(blocks), widest, q,
        weight, norm, _plain(compressed), turned.back, turned.on, np.array(each), np.array(most), np.array([EPS], np.float32),
        scores, taken, fine,
    )  # fmt: skip
    if not fine.all():
        raise BadInput("scores: hold NaN or infinity")
    counts = torch.tensor(most, dtype=torch.int32)[:, None].expand(batch, stored).contiguous()
    lists_of = torch.from_numpy(taken).view(batch, stored, widest)
    return Selection(lists_of, counts), torch.from_numpy(scores).view(batch, stored, -1)
