"""The table kernel without a GPU: its algorithm in numpy, and the CUDA source itself compiled for the CPU.

cuda_on_cpu.h runs each thread of a block as a fiber, so the source's indexing, packing, barriers and
arithmetic are what is tested; how a GPU orders memory accesses is not. Needs g++.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold_kernels import device
from tenfold_kernels.cases.antkv import DECODE_TABLES, decode_oracle, dequantised
from tenfold_kernels.packing import unpack_blocks
from tenfold_kernels.registry import relative_error
from tenfold_shared.launch import vq_decode as launcher

HERE = Path(__file__).parent
CASES = [pytest.param(case, id=case.name) for case in DECODE_TABLES.tests]


def tables_and_bins(arguments, chunk=1024, unit=2.0**21):
    """The algorithm: tables, scores by look-up, integer bins a chunk, one product with the codebook at the end."""
    q, coded, scale = (arguments[name] for name in ("q", "coded", "scale"))
    b, hq, d = q.shape
    hkv = coded.k_codes.shape[1]
    out, lse = np.zeros((b, hq, d)), np.full((b, hq), -np.inf)
    for row in range(b):
        for head in range(hq):
            h = head // (hq // hkv)
            k_index, v_index = (
                unpack_blocks(packed[row, h], bits, coded.n).numpy()
                for packed, bits in ((coded.k_codes, coded.k_bits), (coded.v_codes, coded.v_bits))
            )
            k_book, v_book = coded.k_book[h].double().numpy(), coded.v_book[h].double().numpy()
            table = np.einsum("md,mcd->mc", q[row, head].double().numpy().reshape(k_book.shape[0], -1), k_book) * scale
            open_ = coded.valid[row, h, : coded.n].numpy()
            bins, top, weight = np.zeros(v_book.shape[:2]), -np.inf, 0.0
            for at in range(0, coded.n, chunk):
                some = np.flatnonzero(open_[at : at + chunk]) + at
                if not len(some):
                    continue
                s = table[np.arange(len(table)), k_index[some]].sum(-1)
                units = np.rint(np.exp(s - s.max()) * unit)
                counts = np.zeros(v_book.shape[:2])
                for m in range(len(counts)):
                    np.add.at(counts[m], v_index[some, m], units)
                assert (counts.sum(-1) == units.sum()).all()  # exact: integers
                now = max(top, s.max())
                shrink, grow = np.exp(top - now), np.exp(s.max() - now) / unit
                bins, weight, top = bins * shrink + counts * grow, weight * shrink + units.sum() * grow, now
            if weight:
                out[row, head] = np.einsum("mc,mcd->md", bins, v_book).reshape(-1) / weight
                lse[row, head] = top + np.log(weight)
    return torch.from_numpy(out), torch.from_numpy(lse)


@pytest.mark.parametrize("case", CASES)
def test_the_algorithm_is_dense_attention(case):
    arguments = DECODE_TABLES.make(case, "cpu") | {"dense": []}
    if not arguments["coded"].valid.any():
        out, lse = tables_and_bins(arguments)
        assert out.abs().max() == 0
        assert (lse == -np.inf).all()
        return
    for result, truth in zip(tables_and_bins(arguments), decode_oracle(arguments), strict=True):
        assert relative_error(result, truth) < 1e-5


def on_cpu(launch, folder):
    """Run a recorded launch of the kernel on CPU tensors."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is needed to compile the CUDA source for the CPU")
    library = folder / "kernel.so"
    kernel = device.HERE / "cuda" / f"{launch.module}.cu"
    command = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-w", f"-I{HERE}", f'-DKERNEL_FILE="{kernel}"']
    command += [*device.defines(launch.constants), "-o", str(library), str(HERE / "cuda_blocks.cpp")]
    subprocess.run(command, check=True)
    kinds = {np.float32: ctypes.c_float, np.int32: ctypes.c_int, np.int64: ctypes.c_longlong}
    values = [
        ctypes.c_void_p(value.data_ptr()) if isinstance(value, torch.Tensor) else kinds[type(value)](value.item())
        for value in launch.arguments
    ]
    ctypes.CDLL(str(library)).run(*launch.grid, *values)


def decoded(arguments, folder):
    """(out, lse) with the coded part by the CUDA source, merged as the launcher merges."""
    with device.recording() as launches:
        launcher.vq_decode(**arguments)
    part, *_ = launches
    assert part.module == "vq_decode_tables"
    on_cpu(part, folder)
    m, total, acc = part.arguments[6:9]
    whole = m.logsumexp(-1) if not total.any() else (m + total.log()).logsumexp(-1)
    weight = torch.where(m == float("-inf"), 0.0, (m - torch.where(whole.isinf(), 0.0, whole)[..., None]).exp())
    return (weight[..., None] * acc).sum(-2), whole


@pytest.mark.parametrize("case", CASES)
def test_the_source_is_dense_attention(case, tmp_path):
    arguments = DECODE_TABLES.make(case, "cpu") | {"dense": []}
    out, lse = decoded(arguments, tmp_path)
    truth, truth_lse = decode_oracle(arguments)
    assert relative_error(out, truth) <= DECODE_TABLES.tolerance[case.dtype]
    assert relative_error(lse, truth_lse) <= DECODE_TABLES.tolerance[case.dtype]


def test_float_tables_are_exact_to_the_integers(tmp_path):
    arguments = DECODE_TABLES.make(DECODE_TABLES.tests[1], "cpu") | {"dense": []}
    out, _ = decoded(arguments, tmp_path)
    assert relative_error(out, decode_oracle(arguments)[0]) < 1e-5


def test_splits_of_several_chunks(tmp_path, monkeypatch):
    """More than one chunk a split, a chunk without a valid slot, scores far apart between chunks."""
    arguments = DECODE_TABLES.make(DECODE_TABLES.tests[1], "cpu") | {"dense": []}
    coded = arguments["coded"]
    coded.k_codes, coded.v_codes = (codes.repeat(1, 1, 4, 1, 1) for codes in (coded.k_codes, coded.v_codes))
    coded.n = coded.k_codes.shape[2] * 128 - 5
    coded.valid = torch.ones(1, 1, coded.n, dtype=torch.bool)
    arguments["q"] = (arguments["q"][:, :1] * 4).expand(1, 4, 64)
    # Each chunk shows larger scores than the one before, so that what was added has to shrink; the first none.
    scores = dequantised(coded, 0, 0)[0] @ arguments["q"][0, 0].double()
    for chunk, share in enumerate((0.0, 0.3, 0.6, 0.9, 1.0)):
        rows = slice(chunk * 1024, (chunk + 1) * 1024)
        coded.valid[0, 0, rows] = scores[rows] < scores.quantile(share)
    monkeypatch.setattr(launcher, "_split", lambda units, *_: (3, -(-units // 3)))
    out, lse = decoded(arguments, tmp_path)
    truth, truth_lse = decode_oracle(arguments)
    assert relative_error(out, truth) < 1e-4
    assert relative_error(lse, truth_lse) < 1e-5


def test_dequantised_tokens_are_the_picked_centroids():
    """The oracle's own reading of codes, by hand."""
    coded = DECODE_TABLES.make(DECODE_TABLES.tests[2], "cpu")["coded"]
    keys, _ = dequantised(coded, 1, 0)
    index = unpack_blocks(coded.k_codes, coded.k_bits, coded.n)[1, 0, 69, 2]
    assert torch.equal(keys[69, 32:48], coded.k_book[0, 2, index].double())
