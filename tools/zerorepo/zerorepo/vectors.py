"""Exact search among feature vectors: the k rows of a matrix with the largest products with each query.

The paper keeps its feature tree in an exact flat index of L2-normalised vectors (arXiv 2509.16198 §2.2, appendix A).
`VectorIndex` is that index. embeddings.py makes the vectors and calls it; the GPU's part is
tenfold_kernels/triton/scan_topk.py. Nothing here knows of texts or graphs.

Each search is a scan and a second look. The scan gives an approximate score of every row, whose error has a bound ε
that follows from the arithmetic; a row whose approximate score is more than 2ε below the k-th best so far cannot be
among the k best. What remains, rarely more than a few times k rows, is scored again in float64, and of this alone come
scores and order. So neither block sizes nor threads nor the way of the scan can change a result, and the scan may be as
coarse as it is fast: bfloat16 products by torch read 2 bytes a number where numpy's float32 read 4.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput, Missing, unread
from tenfold_shared.jsonl import write_atomic

Scan = Callable[[int, int], "NDArray[np.float32]"]  # approximate scores (rows, B) of the rows from .. to
SCHEMA = "vectors/1"
STORES = ("float32", "float16", "bfloat16")
ENGINES = ("auto", "numpy", "torch", "kernel")
TORCH_FROM = 1 << 22  # numbers in a matrix from which the copy for torch's scan is worth making
SCORES = 1 << 18  # scores of one block of the scan, 1 MiB: they are compared while they are in cache
POOL = 1 << 20  # candidates that may wait before they are scored
LONGEST = 1e15  # of a row or a query: squares and products stay within float32


class VectorIndex:
    """The rows of a matrix (N, d), in memory or memory-mapped.

    `store` is the dtype in which rows are kept, and of which scores are: float32, float16 or bfloat16 (as uint16 in
    numpy); `engine` how they are scanned (numpy, torch, kernel); `how` the same in words, for outputs; `meta` what was
    saved with them.
    """

    def __init__(
        self,
        matrix: Any,
        *,
        store: str | None = None,
        engine: str = "auto",
        meta: Mapping[str, str] | None = None,
        longest: float | None = None,
    ) -> None:
        """matrix: numpy or torch, float32, float16 or (torch) bfloat16; a torch tensor on a GPU stays there and is
        searched by the kernel. store: None keeps the matrix's own dtype. engine: auto takes torch for large matrices
        where it is already imported (that takes longer than most searches) and multiplies bfloat16 well. longest: the length of the longest row, if known.

        Raises BadInput for another shape or dtype, or a row that is not finite, and Missing for an engine that is not
        here.
        """
        if engine not in ENGINES:
            raise BadInput(f"engine: expected one of {', '.join(ENGINES)}, got {engine}")
        if store is not None and store not in STORES:
            raise BadInput(f"store: expected one of {', '.join(STORES)}, got {store}")
        self.meta = dict(meta or {})
        self._shadow: Any = None
        self._tensor: Any = None
        if hasattr(matrix, "is_cuda") and (matrix.is_cuda or engine == "kernel"):
            if engine not in ("auto", "kernel"):
                raise BadInput(f"engine: a matrix on {matrix.device} is searched by the kernel, not by {engine}")
            self._tensor = matrix if store is None else matrix.to(_torch_dtype(store))
            self.store = str(self._tensor.dtype).removeprefix("torch.")
            shape = tuple(self._tensor.shape)
        elif engine == "kernel":
            raise Missing("engine: the kernel needs a torch tensor on a GPU: pip install 'zerorepo[gpu]'")
        else:
            self._rows, self.store = _stored(matrix, store)
            shape = self._rows.shape
        if len(shape) != 2 or 0 in shape or self.store not in STORES:
            raise BadInput(f"vectors: expected (rows, dimensions) of {', '.join(STORES)}, got {shape} {self.store}")
        self.rows, self.dimensions = shape
        self._file = ""  # that told of the longest; what it tells may be wrong
        if self._tensor is not None:
            self.engine = "kernel"
            return
        self._longest = self._length_of_longest() if longest is None else longest
        if not 0 <= self._longest <= LONGEST:
            raise BadInput(f"vectors: expected rows of a length of about 1, got {self._longest:g}")
        self.engine = self._choose(engine)

    @property
    def how(self) -> str:
        """The way of the scan, for people."""
        if self.engine == "kernel":
            return f"{self.store} vectors, scanned by the scan_topk kernel on {self._tensor.device}"
        product = "bfloat16 products by torch" if self.engine == "torch" else "float32 products by numpy"
        return f"{self.store} vectors, scanned with {product}"

    def top_k(self, queries: Any, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best rows of each query: scores (B, k), descending, and row numbers (B, k).

        queries: (B, d), taken as float32; k: 1 to N, by the kernel at most 128. Of equal scores the lower row goes
        first. On CPU a score is the float64 product of the query and the row as stored, rounded to float32, whatever
        the engine, its blocks and threads; by the kernel it is a float32 sum of exact products. Raises BadInput.
        """
        if hasattr(queries, "detach"):
            queries = queries.detach().float().cpu().numpy()
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimensions:
            raise BadInput(f"queries: expected (B, {self.dimensions}), got {queries.shape}")
        if not 1 <= k <= self.rows:
            raise BadInput(f"k: expected 1 to {self.rows}, as many as there are vectors; got {k}")
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        for row in np.flatnonzero(~(lengths <= LONGEST)):
            raise BadInput(f"queries: query {row} is not finite, or longer than {LONGEST:g}")
        if self.engine == "kernel":
            return self._by_kernel(queries, k)
        if self.engine == "torch":
            found = self._search(queries, k, self._torch_scan(queries), self._bound(lengths, coarse=True))
            if found is not None:
                return found
            self.engine = "numpy"  # this torch does not sum bfloat16 products in float32, as ours assumes
        found = self._search(queries, k, self._numpy_scan(queries), self._bound(lengths, coarse=False))
        if found is None and self._file:
            raise BadInput(
                f"{self._file}: longest: {self._longest} is not the length of its longest vector; make it anew"
            )
        if found is None:
            raise RuntimeError("numpy's float32 products are further from float64's than rounding explains")
        return found

    # ------------------------------------------------------------ the search

    def _search(
        self, queries: NDArray[np.float32], k: int, scan: Scan, bound: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """None where a score was further from its approximation than `bound` (B,) says."""
        count = len(queries)
        scores, rows = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        pool = _Pool(count, k, bound, lambda query, among: self._exact(queries[query], among))
        if count == 0:
            return scores, rows
        stop, due, most = 0, 1024, max(1024, SCORES // count)
        while stop < self.rows:  # blocks grow: of the first ones every row is a candidate
            start, stop = stop, min(stop + min(max(stop, 1024), most), self.rows)
            pool.add(scan(start, stop), start)
            if stop >= min(due, self.rows) or pool.waiting > POOL:
                pool.tidy()
                due = 2 * stop  # the k-th best grows with the logarithm of what was seen
        for query in range(count):
            among, approximate = pool.candidates(query)
            exact = self._exact(queries[query], among)
            if not len(exact) or np.abs(approximate - exact).max() > bound[query]:  # none where all are NaN
                return None
            first = best_places(exact, among, k)
            scores[query], rows[query] = exact[first], among[first]
        return scores, rows

    def _exact(self, query: NDArray[np.float32], among: NDArray[np.int64]) -> NDArray[np.float64]:
        """Products with the rows AMONG, each a float64 sum in one and the same order, rounded to float32."""
        found = np.empty(len(among))
        wide = query.astype(np.float64)
        for start in range(0, len(among), 4096):
            part = among[start : start + 4096]
            found[start : start + 4096] = (_float32(self._rows[part]) * wide).sum(axis=1)
        return found.astype(np.float32).astype(np.float64)

    def _bound(self, lengths: NDArray[np.float64], coarse: bool) -> NDArray[np.float64]:
        """ε: how far an approximate score may be from the exact one, of each query of those lengths.

        A float32 sum of d products in any order: d 2^-24 |q||e| (Higham, Accuracy and Stability, §3.1); the exact
        score's own rounding 2^-24. bfloat16 besides: both factors and the score rounded, 2^-9 each. The last term is
        what falls below the smallest normal number.
        """
        part = (self.dimensions + 4) * 2.0**-24
        if coarse:
            part = part * 1.02 + 3 * 2.0**-9 * 1.01
        return part * 1.001 * lengths * self._longest + self.dimensions * 2.0**-118 * (1 + lengths + self._longest)

    # ------------------------------------------------------------ scans

    def _numpy_scan(self, queries: NDArray[np.float32]) -> Scan:
        columns = np.ascontiguousarray(queries.T)
        if self.store == "float32":
            return lambda start, stop: self._rows[start:stop] @ columns

        def scan(start: int, stop: int) -> NDArray[np.float32]:
            scores = np.empty((stop - start, columns.shape[1]), np.float32)
            for at in range(start, stop, 512):  # as float32 they are in cache when they are multiplied
                end = min(at + 512, stop)
                np.matmul(_float32(self._rows[at:end]), columns, out=scores[at - start : end - start])
            return scores

        return scan

    def _torch_scan(self, queries: NDArray[np.float32]) -> Scan:
        import torch

        if self._shadow is None:
            self._shadow = self._bfloat16_copy()
        columns = torch.from_numpy(queries.copy()).to(torch.bfloat16).T
        if len(queries) == 1:
            columns = columns[:, 0]  # as a matrix of one column it takes twice the time

        def scan(start: int, stop: int) -> NDArray[np.float32]:
            found: NDArray[np.float32] = (self._shadow[start:stop] @ columns).float().numpy()
            return found.reshape(stop - start, len(queries))

        return scan

    def _bfloat16_copy(self) -> Any:
        """The matrix for torch's scan, (N, d) bfloat16: what is stored so is not copied."""
        import torch

        if self.store == "bfloat16":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a mapped file cannot be written to; nobody does
                return torch.from_numpy(self._rows.view(np.int16)).view(torch.bfloat16)
        made = torch.empty(self._rows.shape, dtype=torch.bfloat16)
        for start in range(0, self.rows, 65536):
            made[start : start + 65536] = torch.from_numpy(np.array(self._rows[start : start + 65536]))
        return made

    def _by_kernel(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        import torch

        try:
            from tenfold_shared.launch.scan_topk import scan_topk
        except ImportError as error:
            raise Missing(f"the scan_topk kernel cannot be imported ({error}): pip install 'zerorepo[gpu]'") from None
        scores, rows = scan_topk(torch.from_numpy(queries.copy()).to(self._tensor.device), self._tensor, k=k)
        return scores.cpu().numpy(), rows.cpu().numpy()

    def _choose(self, engine: str) -> str:
        if engine == "numpy" or (engine == "auto" and ("torch" not in sys.modules or self._rows.size < TORCH_FROM)):
            return "numpy"
        if find_spec("torch") is None:
            raise Missing("engine: torch is not installed: pip install 'zerorepo[hf]'")
        import torch

        # Where it is not, torch multiplies bfloat16 by code of its own, slower than float32.
        return "torch" if engine == "torch" or torch.ops.mkldnn._is_mkldnn_bf16_supported() else "numpy"

    def _length_of_longest(self) -> float:
        longest = 0.0
        for start in range(0, self.rows, 8192):
            block = _float32(self._rows[start : start + 8192])
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.einsum("ij,ij->i", block, block)
            if not np.isfinite(squares).all():
                squares = np.einsum("ij,ij->i", block.astype(np.float64), block.astype(np.float64))
                for row in np.flatnonzero(~np.isfinite(squares)):
                    raise BadInput(f"vectors: row {start + row} holds a NaN or an infinity")
            longest = max(longest, float(squares.max()))
        return float(np.sqrt(longest)) * (1 + self.dimensions * 2.0**-23)

    # ------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write the vectors to PATH, a safetensors file, under its name only when complete. Raises OSError."""
        if self._tensor is None:
            rows, longest = self._rows, {"longest": repr(self._longest)}
        else:
            rows, longest = _stored(self._tensor.cpu(), None)[0], {}
        write_tensors(path, {"vectors": rows}, {**self.meta, **longest, "schema": SCHEMA})

    @classmethod
    def load(cls, path: str | Path, *, engine: str = "auto") -> VectorIndex:
        """The vectors that `save` wrote to PATH, memory-mapped. Raises BadInput for any other file."""
        arrays, meta = read_tensors(path)
        schema = meta.pop("schema", None)
        if schema != SCHEMA or set(arrays) != {"vectors"}:
            raise BadInput(f"{path}: schema: expected {SCHEMA} with one tensor, vectors; got {schema}")
        longest = meta.pop("longest", None)
        try:
            known = None if longest is None else float(longest)
        except ValueError:
            raise BadInput(f"{path}: longest: expected a number, got {longest}") from None
        made = cls(arrays["vectors"], engine=engine, meta=meta, longest=known)
        made._file = str(path)
        return made


class _Pool:
    """Rows that may be among the k best of a query, while a scan goes on."""

    def __init__(
        self, queries: int, k: int, bound: NDArray[np.float64], exact: Callable[[int, Any], NDArray[np.float64]]
    ) -> None:
        self._k, self._bound, self._exact = k, bound, exact
        self._floor = np.full(queries, -np.inf, np.float32)  # approximate scores below it are out
        self._kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = [
            (np.empty(0, np.int64), np.empty(0, np.float32)) for _ in range(queries)
        ]
        self._new: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self.waiting = 0

    def add(self, scores: NDArray[np.float32], start: int) -> None:
        """Approximate scores (rows, B) of the rows from START."""
        flat = np.flatnonzero(scores >= self._floor)
        rows, queries = np.divmod(flat, scores.shape[1])
        self._new.append((queries, rows + start, scores.reshape(-1)[flat]))
        self.waiting += len(flat)

    def tidy(self) -> None:
        """Raise the floors by what was added, and drop what is below them."""
        queries = np.concatenate([part[0] for part in self._new])
        rows = np.concatenate([part[1] for part in self._new])
        scores = np.concatenate([part[2] for part in self._new])
        order = np.argsort(queries, kind="stable")
        cuts = np.searchsorted(queries[order], np.arange(len(self._kept) + 1))
        self._new, self.waiting = [], 0
        for query, (kept_rows, kept_scores) in enumerate(self._kept):
            mine = order[cuts[query] : cuts[query + 1]]
            among = np.concatenate([kept_rows, rows[mine]])
            approximate = np.concatenate([kept_scores, scores[mine]])
            if len(among) > self._k:
                edge = np.partition(approximate, len(among) - self._k)[len(among) - self._k]
                self._raise(query, float(edge) - 2 * self._bound[query])
                stays = approximate >= self._floor[query]
                among, approximate = among[stays], approximate[stays]
            if len(among) > self._k + POOL // (2 * len(self._kept)):  # many scores too close to tell apart
                exact = self._exact(query, among)
                best = np.sort(best_places(exact, among, self._k))
                self._raise(query, exact[best].min() - self._bound[query])
                among, approximate = among[best], approximate[best]
            self._kept[query] = (among, approximate)
            self.waiting += len(among)

    def _raise(self, query: int, floor: float) -> None:
        below = np.nextafter(np.float32(floor), np.float32(-np.inf))
        self._floor[query] = max(self._floor[query], below)

    def candidates(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self._kept[query]


def best_places(scores: NDArray[Any], rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Places (k,) of the k largest scores, descending, of equal ones the lower row first."""
    if len(scores) > 4 * k:
        edge = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = np.flatnonzero(scores >= edge)
        return near[np.lexsort((rows[near], -scores[near]))[:k]]
    return np.lexsort((rows, -scores))[:k]


# ---------------------------------------------------------------- dtypes


def _float32(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Stored rows as float32, exactly."""
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32, copy=False)


def _bfloat16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 to the nearest bfloat16, of two as near the even one; a NaN stays one."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(rows), 0x7FC0, rounded).astype(np.uint16)


def _stored(matrix: Any, store: str | None) -> tuple[NDArray[Any], str]:
    """A matrix on CPU as numpy keeps it, and the name of its dtype, converted to STORE where that is another."""
    if hasattr(matrix, "is_cuda"):
        name = str(matrix.dtype).removeprefix("torch.")
        matrix = matrix.detach().contiguous()
        if name == "bfloat16":
            import torch

            matrix = matrix.view(torch.int16).numpy().view(np.uint16)
        else:
            matrix = matrix.numpy()
    else:
        matrix = np.ascontiguousarray(matrix) if not isinstance(matrix, np.memmap) else matrix
        name = "bfloat16" if matrix.dtype == np.uint16 else matrix.dtype.name
    if store is None or store == name or name not in STORES:
        return matrix, name
    wide = _float32(matrix)
    return (_bfloat16(wide), store) if store == "bfloat16" else (wide.astype(store), store)


def _torch_dtype(store: str) -> Any:
    import torch

    return getattr(torch, store)


# ---------------------------------------------------------------- safetensors, without the library

_TAGS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}


def write_tensors(path: str | Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, str]) -> None:
    """ARRAYS (float32, float16, uint8, and uint16 as bfloat16) and META as a safetensors file, beside PATH and renamed
    when complete. Raises OSError that names PATH."""
    names = {dtype: tag for tag, dtype in _TAGS.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(meta.items()))}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # so that vectors begin where wide loads like it
    parts = (
        np.ascontiguousarray(array[start : start + 65536]).data
        for array in arrays.values()
        for start in range(0, len(array), 65536)
    )
    write_atomic(path, chain([len(text).to_bytes(8, "little") + text], parts))


def read_tensors(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """(tensors, metadata) of a safetensors file with tensors of those dtypes, memory-mapped. Raises BadInput."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if 8 + length <= size else b""
    except OSError as error:
        raise unread(path, error) from None
    try:
        header = json.loads(text)
        meta = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
        places: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]] = {}
        for name, told in header.items():
            start, end = map(int, told["data_offsets"])
            places[name] = (_TAGS[told["dtype"]], tuple(map(int, told["shape"])), start, end)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BadInput(f"{path}: expected a safetensors file of float32, float16, bfloat16 or uint8") from None
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape, start, end) in places.items():
        if min(shape, default=0) < 0 or end - start != dtype.itemsize * math.prod(shape):
            raise BadInput(f"{path}: {name}: {end - start} bytes are not of shape {shape}")
        if 8 + length + end > size or start < 0:
            raise BadInput(f"{path}: {name}: ends at byte {8 + length + end}, the file at {size}: it is cut off")
        if start == end:
            arrays[name] = np.empty(shape, dtype)
        else:
            arrays[name] = np.memmap(path, dtype, "r", 8 + length + start, shape)
    return arrays, meta
