"""Launcher of one decode step over a vector-quantised cache: coded tokens, anchors and window, merged.

Device code: tenfold_kernels/triton/vq_decode.py (dequantised tiles; 16-bit parts; merging) and
tenfold_kernels/cuda/vq_decode_tables.cu (product-quantisation tables), where the equations stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tenfold_kernels import device
from tenfold_kernels.packing import BITS
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch import FLOATS, expect, fall_back, last_contiguous, on_device, processors

TILE = 64  # tokens dequantised at once
CHUNK = 1024  # tokens whose scores the table kernel holds at once, and the least part of its splits
SHARED = 227 * 1024  # bytes of shared memory a block may take on an H100, where only recorded; an A100 lends 163 KiB


@dataclass
class Rope:
    """Rotations of keys stored before RoPE: slot s of row b stands at position s + shift[b].

    inv_freq: (D/2,), the angle a position adds to channel pair (i, i + D/2). shift: int64 (B,), default 0
    (negative where the row is padded on the left). A model's attention_scaling belongs into `scale`.
    Tables are made in float64, kept, and grow with the cache.
    """

    inv_freq: Any
    shift: Any = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def tables(self, count: int, step: int, place: Any) -> tuple[Any, Any]:
        """cos and sin of positions 0, step, 2 step ...: float32 (at least COUNT, D/2)."""
        import torch

        found = self._kept.get((step, place))
        if found is None or found[0].shape[0] < count:
            rows = torch.arange(1 << max(count - 1, 0).bit_length(), device=place, dtype=torch.float64)
            angle = rows[:, None] * step * self.inv_freq.to(place, torch.float64)
            found = self._kept[step, place] = (angle.cos().float(), angle.sin().float())
        return found

    def turned_back(self, q: Any) -> Any:
        """q (B, Hq, D) rotated by -shift, float32: then slots count as positions."""
        import torch

        if self.shift is None:
            return q
        if q.device not in self._kept:
            angle = self.shift.to(q.device, torch.float64)[:, None] * self.inv_freq.to(q.device, torch.float64)
            self._kept[q.device] = (angle.cos().float()[:, None], angle.sin().float()[:, None])
        cos, sin = self._kept[q.device]
        low, high = q.float().chunk(2, -1)
        return torch.cat([low * cos + high * sin, high * cos - low * sin], -1)


@dataclass
class Coded:
    """The quantised part of a cache: the first n slots of each row and kv-head.

    k_codes, v_codes: uint8 (B, Hkv, blocks, M, block*bits/8), of packing.pack_blocks; M may differ, the
    block (tokens) may not: a power of two from 16, or a multiple of 64.
    k_book, v_book: (Hkv, M, C, D/M), stride 0 over Hkv where heads share one.
    valid: bool or uint8 (B, Hkv or 1, at least n), 0 for anchors' slots and padding.
    rope: None where keys were stored after RoPE.
    """

    k_codes: Any
    v_codes: Any
    k_book: Any
    v_book: Any
    k_bits: int
    v_bits: int
    n: int
    valid: Any
    rope: Rope | None = None


@dataclass
class Dense:
    """16-bit keys (after RoPE) and values of anchors or of the window.

    k, v: (B, Hkv, A, D); positions: int32 (B, Hkv or 1, A), negative where the entry is empty or must not
    be seen. What stands in an empty entry's k must be finite or NaN alike; it is never used.
    """

    k: Any
    v: Any
    positions: Any


def vq_decode(
    q: Any,
    coded: Coded | None,
    dense: Sequence[Dense] = (),
    *,
    scale: float,
    design: str = "auto",
    fallback: Callable[..., tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Attention of one query a row over all the parts' keys: out (B, Hq, D) as q, lse float32 (B, Hq).

    q: (B, Hq, D), rotated to its position; float16, bfloat16 or float32; D 64 or 128. design: tile
    (dequantise tiles), tables (keys after RoPE, 16-bit codebooks, a GPU), or auto, by shape. A row without
    any key gives out 0 and lse -inf. exp(score - lse) is a key's attention weight.
    On CPU returns fallback(q, coded, dense, scale=). Raises BadInput, Missing.
    """
    import torch

    expect("q", q, [("B", None), ("Hq", None), ("D", None)], FLOATS)
    if q.shape[2] not in (64, 128):
        raise BadInput(f"q: expected D=64 or D=128, got D={q.shape[2]}")
    if design not in ("auto", "tile", "tables"):
        raise BadInput(f"design: expected auto, tile or tables, got {design}")
    given = {"q": q}
    if coded is not None:
        _check_coded(q, coded)
        given |= {name: getattr(coded, name) for name in ("k_codes", "v_codes", "k_book", "v_book", "valid")}
    for at, part in enumerate(dense):
        _check_dense(q, part, at)
        given |= {f"dense[{at}].{name}": getattr(part, name) for name in ("k", "v", "positions")}
    if not on_device(given):
        return fall_back("vq_decode", fallback)(q, coded, dense, scale=scale)

    b, hq, d = q.shape
    plans: list[tuple[Callable[..., None], Any, int, int]] = []  # launch, part, units of work a split, splits
    if coded is not None and coded.n:
        why_not = tables_refused(q, coded)
        if design == "tables" and why_not:
            raise (Missing if "needs a GPU" in why_not else BadInput)(f"design tables: {why_not}")
        if design == "tables" or (design == "auto" and not why_not and tables_pay(q, coded)):
            heads = hq // _heads_at_once(q, coded)
            plans.append((_start_tables, coded, *_split(-(-coded.n // CHUNK), b * heads, 1, q)))
        else:
            plans.append((_start_tile, coded, *_split(-(-coded.n // _tile(coded)), b * _kv_heads(coded), 4, q)))
    for part in dense:
        if part.k.shape[2]:
            plans.append((_start_dense, part, *_split(-(-part.k.shape[2] // TILE), b * part.k.shape[1], 4, q)))
    parts = sum(splits for *_, splits in plans)
    m, total = (torch.empty(b, hq, parts, dtype=torch.float32, device=q.device) for _ in range(2))
    acc = torch.empty(b, hq, parts, d, dtype=torch.float32, device=q.device)
    at = 0
    for launch, part, per_split, splits in plans:
        launch(q, part, scale, per_split, splits, at, (m, total, acc))
        at += splits
    return merge_parts(m, total, acc, q.dtype)


def merge_parts(m: Any, total: Any, acc: Any, dtype: Any = None) -> tuple[Any, Any]:
    """One softmax from the partial ones of any partition of its keys: out (B, Hq, D), lse float32 (B, Hq).

    m, total: float32 (B, Hq, parts), the largest score (-inf where there is none) and sum of exp(score - m);
    acc: float32 (B, Hq, parts, D), sum of exp(score - m) v. dtype: of out, default float32.
    Raises BadInput; Missing on CPU.
    """
    import torch

    expect("m", m, [("B", None), ("Hq", None), ("parts", None)], ["float32"])
    shape = list(zip(("B", "Hq", "parts"), m.shape, strict=True))
    expect("l", total, shape, ["float32"])
    expect("acc", acc, [*shape, ("D", None)], ["float32"])
    b, hq, parts = m.shape
    d = acc.shape[3]
    if d not in (64, 128):
        raise BadInput(f"acc: expected D=64 or D=128, got D={d}")
    if not on_device({"m": m, "l": total, "acc": acc}):
        raise Missing("merge_parts: the tensors are on cpu: it needs a GPU")
    out = torch.empty(b, hq, d, dtype=dtype or torch.float32, device=m.device)
    lse = torch.empty(b, hq, dtype=torch.float32, device=m.device)
    arguments = (m.contiguous(), total.contiguous(), acc.contiguous(), out, lse, parts)
    device.start("vq_decode", "merge_parts", (b * hq,), arguments, {"D": d, "S": 16}, warps=4, stages=1)
    return out, lse


# ---------------------------------------------------------------- checks


def _check_coded(q: Any, coded: Coded) -> None:
    b, hq, d = q.shape
    expect(
        "k_codes", coded.k_codes, [("B", b), ("Hkv", None), ("blocks", None), ("M", None), ("bytes", None)], ["uint8"]
    )
    hkv, blocks = coded.k_codes.shape[1:3]
    if hkv == 0 or hq % hkv:
        raise BadInput(f"q: expected a multiple of the {hkv} heads of k_codes, got {hq}")
    block = _block(coded)
    for name, codes, book, bits in (
        ("k", coded.k_codes, coded.k_book, coded.k_bits),
        ("v", coded.v_codes, coded.v_book, coded.v_bits),
    ):
        if bits not in BITS:
            raise BadInput(f"{name}_bits: expected one of {', '.join(map(str, BITS))}, got {bits}")
        expect(f"{name}_book", book, [("Hkv", hkv), ("M", None), ("C", None), ("d", None)], FLOATS)
        subvectors, centroids, sub = book.shape[1:]
        if subvectors * sub != d or subvectors & (subvectors - 1):
            raise BadInput(f"{name}_book: expected M*d={d}, M a power of two, got M={subvectors}, d={sub}")
        if centroids != 1 << bits:
            # An index may be anything its bits can hold, and must find a centroid.
            raise BadInput(f"{name}_book: expected C={1 << bits} for {bits} bits, got C={centroids}")
        shape = [("B", b), ("Hkv", hkv), ("blocks", blocks), ("M", subvectors), ("bytes", block * bits // 8)]
        expect(f"{name}_codes", codes, shape, ["uint8"])
    if coded.k_book.dtype != coded.v_book.dtype:
        raise BadInput(f"v_book: expected {coded.k_book.dtype} as k_book, got {coded.v_book.dtype}")
    if block % TILE and block not in (16, 32):
        raise BadInput(f"k_codes: expected blocks of 16, 32 or a multiple of {TILE} tokens, got {block}")
    if not 0 <= coded.n <= blocks * block:
        raise BadInput(f"n: expected at most the {blocks * block} slots of {blocks} blocks, got {coded.n}")
    expect("valid", coded.valid, [("B", b), ("Hkv", None), ("slots", None)], ["bool", "uint8"])
    if coded.valid.shape[1] not in (1, hkv) or coded.valid.shape[2] < coded.n:
        raise BadInput(f"valid: expected (B={b}, Hkv={hkv} or 1, n={coded.n} or more), got {tuple(coded.valid.shape)}")
    if coded.rope is not None:
        expect("rope.inv_freq", coded.rope.inv_freq, [("D/2", d // 2)], ["float32", "float64"])
        if coded.k_book.shape[1] < 2:
            raise BadInput("k_book: expected two sub-vectors or more for keys before RoPE, got M=1")
        if coded.rope.shift is not None:
            expect("rope.shift", coded.rope.shift, [("B", b)], ["int32", "int64"])


def _check_dense(q: Any, part: Dense, at: int) -> None:
    b, hq, d = q.shape
    expect(f"dense[{at}].k", part.k, [("B", b), ("Hkv", None), ("A", None), ("D", d)], FLOATS)
    hkv, entries = part.k.shape[1:3]
    same = [("B", b), ("Hkv", hkv), ("A", entries), ("D", d)]
    expect(f"dense[{at}].v", part.v, same, [str(part.k.dtype).removeprefix("torch.")])
    expect(f"dense[{at}].positions", part.positions, [("B", b), ("Hkv", None), ("A", entries)], ["int32"])
    if hkv == 0 or hq % hkv:
        raise BadInput(f"q: expected a multiple of the {hkv} heads of dense[{at}].k, got {hq}")
    if part.positions.shape[1] not in (1, hkv):
        raise BadInput(f"dense[{at}].positions: expected Hkv={hkv} or 1, got {part.positions.shape[1]}")


def _kv_heads(coded: Coded) -> int:
    return int(coded.k_codes.shape[1])


def _block(coded: Coded) -> int:
    return int(coded.k_codes.shape[4]) * 8 // coded.k_bits if coded.k_bits else 0


def _tile(coded: Coded) -> int:
    return min(TILE, _block(coded))


# ---------------------------------------------------------------- configurations and launches


def _split(units: int, groups: int, least: int, q: Any) -> tuple[int, int]:
    """(units of work a split, splits): enough programs to fill the GPU four times, none tiny."""
    wanted = max(1, 4 * processors(q.device) // max(groups, 1))
    per_split = max(least, -(-units // wanted))
    return per_split, -(-units // per_split)


def _packed_rows(codes: Any) -> Any:
    """CODES with blocks, sub-vectors and bytes contiguous within a row and head."""
    _, _, blocks, subvectors, size = codes.shape
    packed = codes.stride()[2:] == (subvectors * size, size, 1) or blocks == 0
    return codes if packed else codes.contiguous()


def _books(coded: Coded) -> tuple[Any, Any]:
    k_book, v_book = (book if book[0].is_contiguous() else book.contiguous() for book in (coded.k_book, coded.v_book))
    return k_book, v_book


def _per_head(tensor: Any, hkv: int) -> tuple[Any, int, int]:
    """TENSOR (B, Hkv or 1, n) and its strides over rows and heads."""
    tensor = last_contiguous(tensor)
    return tensor, tensor.stride(0), tensor.stride(1) if tensor.shape[1] == hkv else 0


def _valid(coded: Coded) -> tuple[Any, int, int]:
    import torch

    valid = coded.valid if coded.valid.dtype == torch.uint8 else coded.valid.view(torch.uint8)
    return _per_head(valid, _kv_heads(coded))


def _start_tile(q: Any, coded: Coded, scale: float, per_split: int, splits: int, at: int, out: Sequence[Any]) -> None:
    b, hq, d = q.shape
    hkv, tile = _kv_heads(coded), _tile(coded)
    k_book, v_book = _books(coded)
    k_codes, v_codes = _packed_rows(coded.k_codes), _packed_rows(coded.v_codes)
    valid, valid_b, valid_h = _valid(coded)
    if coded.rope is None:
        tables = (q, q, q, q)
    else:
        base = coded.rope.tables(-(-coded.n // tile), tile, q.device)
        tables = (*base, *coded.rope.tables(tile, 1, q.device))
        q = coded.rope.turned_back(q)
    arguments = [q.contiguous(), k_codes, v_codes, k_book, v_book, valid, *tables, *out]
    arguments += [scale, coded.n, per_split, out[0].shape[2], at]
    arguments += [*k_codes.stride()[:2], *v_codes.stride()[:2], valid_b, valid_h, k_book.stride(0), v_book.stride(0)]
    device.start(
        "vq_decode",
        "vq_part",
        (splits, b * hkv),
        arguments,
        {
            "HKV": hkv,
            "G": hq // hkv,
            "GP": _rows(hq // hkv),
            "D": d,
            "K_M": k_book.shape[1],
            "K_C": k_book.shape[2],
            "K_BITS": coded.k_bits,
            "V_M": v_book.shape[1],
            "V_C": v_book.shape[2],
            "V_BITS": coded.v_bits,
            "BLOCK": _block(coded),
            "T": tile,
            "ROPE": coded.rope is not None,
            "PRECISION": "ieee",
        },
        # With RoPE the table of a tile's rotations stays in registers: over four warps it leaves none to spare.
        warps=4 if coded.rope is None else 8,
        stages=2,
    )


def _start_dense(q: Any, part: Dense, scale: float, per_split: int, splits: int, at: int, out: Sequence[Any]) -> None:
    b, hq, d = q.shape
    hkv, entries = part.k.shape[1:3]
    k, v = last_contiguous(part.k), last_contiguous(part.v)
    positions, position_b, position_h = _per_head(part.positions, hkv)
    strides = [*k.stride()[:3], *v.stride()[:3], position_b, position_h]
    device.start(
        "vq_decode",
        "dense_part",
        (splits, b * hkv),
        (q.contiguous(), k, v, positions, *out, scale, entries, per_split, out[0].shape[2], at, *strides),
        {"HKV": hkv, "G": hq // hkv, "GP": _rows(hq // hkv), "D": d, "T": TILE, "PRECISION": "ieee"},
        warps=4,
        stages=2,
    )


def _rows(heads: int) -> int:
    """Rows of the query tile: tl.dot takes 16 at least, and powers of two."""
    return max(16, 1 << (heads - 1).bit_length())


# ---------------------------------------------------------------- product-quantisation tables


def tables_refused(q: Any, coded: Coded) -> str:
    """Why the table kernel cannot do this cache, or an empty string."""
    import torch

    if coded.rope is not None:
        return "keys stored before RoPE have no table that holds for all positions; design tile does them"
    if coded.k_book.dtype == torch.float32:
        return f"expected 16-bit codebooks, got {coded.k_book.dtype}"
    if not device.is_recording() and q.device.type != "cuda":
        return "CUDA C++ cannot be interpreted: it needs a GPU"
    if not _heads_at_once(q, coded):
        need = _table_shared(1, coded)
        return f"tables and bins take {need} bytes of shared memory, a block gets {_shared_limit(q.device)}"
    return ""


def tables_pay(q: Any, coded: Coded) -> bool:
    """By traffic on chip: 16-bit cache for tiles; tables and bins of every query head for tables.

    An expectation from the counts of section "Kernels" of kernels/README.md, not yet measured.
    """
    group = q.shape[1] // _kv_heads(coded)
    large = max(coded.k_book.shape[2], coded.v_book.shape[2]) > 256  # no longer in a multiprocessor's L1
    alone = group == 1 and max(coded.k_book.shape[1], coded.v_book.shape[1]) <= 16
    return coded.n >= 4 * coded.k_book.shape[2] and (large or alone)


def _table_bytes(coded: Coded) -> int:
    """Tables of large codebooks are float16, so that they fit."""
    return 2 if coded.k_book.shape[2] > 256 else 4


def _table_shared(heads: int, coded: Coded) -> int:
    tables = coded.k_book.shape[1] * coded.k_book.shape[2] * heads * _table_bytes(coded)
    bins = coded.v_book.shape[1] * coded.v_book.shape[2] * heads * 4
    return int(tables + bins + heads * CHUNK * 4)


def _shared_limit(place: Any) -> int:
    """Bytes of shared memory a block may ask for, by CUDA's table of compute capabilities."""
    import torch

    if place.type != "cuda":
        return SHARED
    known = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227}
    return known.get(torch.cuda.get_device_capability(place), 99) * 1024


def _heads_at_once(q: Any, coded: Coded) -> int:
    """Query heads of a group that one block serves, 0 where none fits.

    The most of 4, 2, 1 with which two blocks share a multiprocessor, to hide the wait for memory; else one.
    """
    group = q.shape[1] // _kv_heads(coded)
    needed = {heads: _table_shared(heads, coded) + 64 for heads in (4, 2, 1) if group % heads == 0}  # 64: static
    limit = _shared_limit(q.device)
    paired = [heads for heads, need in needed.items() if need <= limit // 2 - 512]
    single = [heads for heads, need in needed.items() if need <= limit]
    return max(paired or single, default=0)


def _start_tables(q: Any, coded: Coded, scale: float, per_split: int, splits: int, at: int, out: Sequence[Any]) -> None:
    import numpy as np
    import torch

    b, hq, d = q.shape
    hkv, heads = _kv_heads(coded), _heads_at_once(q, coded)
    k_book, v_book = _books(coded)
    k_codes, v_codes = _packed_rows(coded.k_codes), _packed_rows(coded.v_codes)
    valid, valid_b, valid_h = _valid(coded)
    strides = [*k_codes.stride()[:2], *v_codes.stride()[:2], valid_b, valid_h, k_book.stride(0), v_book.stride(0)]
    arguments = [q.float().contiguous(), k_codes, v_codes, k_book, v_book, valid, *out, np.float32(scale)]
    arguments += [np.int32(value) for value in (coded.n, per_split * CHUNK, out[0].shape[2], at)]
    arguments += [np.int64(value) for value in strides]
    device.start_cuda(
        "vq_decode_tables",
        "vq_decode_tables",
        (splits, b * hq // heads),
        arguments,
        {
            "HKV": hkv,
            "G": hq // hkv,
            "HEADS": heads,
            "D": d,
            "K_M": k_book.shape[1],
            "K_C": k_book.shape[2],
            "K_BITS": coded.k_bits,
            "V_M": v_book.shape[1],
            "V_C": v_book.shape[2],
            "V_BITS": coded.v_bits,
            "BLOCK": _block(coded),
            "CHUNK": CHUNK,
            "BFLOAT": int(k_book.dtype == torch.bfloat16),
            "TABLE_BYTES": _table_bytes(coded),
        },
        warps=8,
        shared=_table_shared(heads, coded),
    )
