"""Exact search: against float64 brute force, torch and safetensors; whatever the engine, its blocks and threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenfold_kernels import device
from tenfold_shared import BadInput, Missing
from zerorepo import vectors
from zerorepo.vectors import VectorIndex, read_tensors, write_tensors

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def unit(n, d, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rounded(rows, store):
    """What is stored, as float64, by torch's own conversion."""
    return torch.from_numpy(rows).to(DTYPES[store]).double().numpy()


def brute(rows, queries, k):
    """All products in float64, rounded to float32, by a stable sort."""
    scores = (rows.astype(np.float64)[None] * queries.astype(np.float64)[:, None]).sum(-1).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def same(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@pytest.mark.parametrize("store", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("n", "d", "b", "k"), [(1, 1, 1, 1), (700, 384, 3, 10), (5000, 33, 1, 300), (2500, 96, 9, 1)])
def test_against_brute_force(engine, store, n, d, b, k):
    rows, queries = unit(n, d), unit(b, d, seed=1)
    index = VectorIndex(rows, store=store, engine=engine)
    assert (index.store, index.engine, index.rows, index.dimensions) == (store, engine, n, d)
    same(index.top_k(queries, k), brute(rounded(rows, store), queries, k))
    assert index.engine == engine  # and has not been given up


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ties_go_to_the_lower_row(engine, data):
    """Few whole numbers: many scores are equal, and every product is exact."""
    n, d, b = (data.draw(st.integers(1, most)) for most in (200, 6, 5))
    numbers = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows, queries = (numbers.integers(-2, 3, (size, d)).astype(np.float32) for size in (n, b))
    k = data.draw(st.integers(1, n))
    store = data.draw(st.sampled_from(sorted(DTYPES)))
    same(VectorIndex(rows, store=store, engine=engine).top_k(queries, k), brute(rows, queries, k))


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_rows_that_differ_by_less_than_the_scan_can_see(engine, monkeypatch):
    """Thousands of rows whose scores are a few units of the last place apart, and copies of them far away."""
    base = unit(1, 384)
    rows = np.repeat(base, 3000, axis=0)
    rows[:, 0] += np.random.default_rng(0).permutation(3000).astype(np.float32) * 2**-15
    rows = np.concatenate([rows, rows])
    expected = brute(rows, base, 50)
    assert len(set(expected[0][0].tolist())) > 5
    for pool in (vectors.POOL, 256):  # 256: they are scored while the scan goes on
        monkeypatch.setattr(vectors, "POOL", pool)
        monkeypatch.setattr(vectors, "SCORES", 1024)
        same(VectorIndex(rows, engine=engine).top_k(base, 50), expected)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_blocks_do_not_show(engine, monkeypatch):
    rows, queries = unit(9000, 48), unit(7, 48, seed=1)
    expected = brute(rows, queries, 20)
    for scores in (1, 9000, 40_000, 1 << 18):
        monkeypatch.setattr(vectors, "SCORES", scores)
        same(VectorIndex(rows, engine=engine).top_k(queries, 20), expected)


def test_threads_and_engines_give_the_same_bytes(tmp_path):
    code = """
import sys, numpy as np
from zerorepo.vectors import VectorIndex
draw = np.random.default_rng(3)
rows, queries = (draw.standard_normal((n, 384)).astype(np.float32) for n in (20_000, 17))
found = VectorIndex(rows, engine=sys.argv[1]).top_k(queries, 40)
sys.stdout.buffer.write(found[0].tobytes() + found[1].tobytes())
"""
    seen = set()
    for engine, threads in (("numpy", "1"), ("numpy", "2"), ("torch", "1"), ("torch", "2")):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code, engine], env=environment, capture_output=True, check=True)
        seen.add(done.stdout)
    assert len(seen) == 1
    assert len(seen.pop()) == 17 * 40 * 12


def test_a_scan_that_is_worse_than_its_bound_is_not_believed(monkeypatch):
    """As if torch summed in bfloat16: the index goes on with numpy, and finds the same."""
    rows, queries = unit(3000, 64), unit(4, 64, seed=1)
    index = VectorIndex(rows, engine="torch")
    honest = index._torch_scan

    def worse(queries):
        scan = honest(queries)
        return lambda start, stop: scan(start, stop) * np.float32(0.95)

    monkeypatch.setattr(index, "_torch_scan", worse)
    same(index.top_k(queries, 5), brute(rows, queries, 5))
    assert index.engine == "numpy"
    assert "numpy" in index.how


def test_the_bound_holds_and_is_not_idle():
    """The scans' real errors are below ε, and a hundredth of ε is below them."""
    rows, queries = unit(2000, 384), unit(20, 384, seed=1)
    truth = queries.astype(np.float64) @ rows.astype(np.float64).T
    index = VectorIndex(rows, engine="torch")
    for scan, coarse in ((index._torch_scan(queries), True), (index._numpy_scan(queries), False)):
        error = np.abs(scan(0, 2000).T - truth).max()
        assert index._bound(np.ones(20), coarse).max() / 1000 < error < index._bound(np.ones(20), coarse).min()


@pytest.mark.parametrize("store", ["float32", "float16", "bfloat16"])
def test_the_kernel_by_its_launcher(store):
    """Interpreted, as no GPU is needed for it; the same order, scores to a float32 sum's rounding."""
    rows, queries = unit(900, 64), unit(5, 64, seed=1)
    with device.interpreter(True):
        index = VectorIndex(torch.from_numpy(rows).to(DTYPES[store]), engine="kernel")
        scores, found = index.top_k(queries, 12)
    expected = brute(rounded(rows, store), queries, 12)
    assert index.store == store
    assert "kernel" in index.how
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)


def test_the_kernel_needs_a_tensor_and_a_gpu():
    with pytest.raises(Missing, match=r"zerorepo\[gpu\]"):
        VectorIndex(unit(5, 4), engine="kernel")
    with device.interpreter(False), pytest.raises(Missing, match="GPU"):
        VectorIndex(torch.from_numpy(unit(5, 4)), engine="kernel").top_k(unit(1, 4), 1)


def test_engines_are_chosen_by_size_and_by_what_is_there(monkeypatch):
    monkeypatch.setattr(vectors, "TORCH_FROM", 1000)
    assert VectorIndex(unit(10, 10)).engine == "numpy"
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert VectorIndex(unit(100, 10)).engine == ("torch" if supported else "numpy")
    monkeypatch.delitem(sys.modules, "torch")
    assert VectorIndex(unit(100, 10)).engine == "numpy"
    monkeypatch.setattr(vectors, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"zerorepo\[hf\]"):
        VectorIndex(unit(100, 10), engine="torch")


def test_importing_it_imports_no_torch():
    code = "import sys, zerorepo.vectors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_tensors_of_torch_and_no_queries():
    rows = unit(50, 8)
    for dtype in DTYPES.values():
        tensor = torch.from_numpy(rows).to(dtype)
        found = VectorIndex(tensor).top_k(torch.from_numpy(rows[:2]), 3)
        same(found, brute(tensor.double().numpy(), rows[:2], 3))
    scores, found = VectorIndex(rows).top_k(np.empty((0, 8), np.float32), 3)
    assert scores.shape == found.shape == (0, 3)


def test_rows_of_zero_and_of_other_lengths():
    rows = np.array([[0, 0], [3e5, 0], [0, 1e-30], [-1, 0], [0, 0]], np.float32)
    for engine in ("numpy", "torch"):
        found = VectorIndex(rows, engine=engine).top_k(np.array([[1, 0], [0, 0], [1e-30, 1e-30]], np.float32), 5)
        assert found[1].tolist() == [[1, 0, 2, 4, 3], [0, 1, 2, 3, 4], [1, 0, 2, 4, 3]]
        assert found[0][0].tolist() == [3e5, 0, 0, 0, -1]


# ---------------------------------------------------------------- dtypes and files


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=20))
@example([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 3.4e38, float("inf")])
def test_bfloat16_rounds_as_torch_does(values):
    rows = np.array(values, np.float32)
    ours = vectors._bfloat16(rows)
    theirs = torch.from_numpy(rows).bfloat16()
    np.testing.assert_array_equal(np.isnan(rows), np.isnan(vectors._float32(ours)))
    finite = ~np.isnan(rows)
    np.testing.assert_array_equal(ours[finite], theirs.view(torch.int16).numpy().view(np.uint16)[finite])
    np.testing.assert_array_equal(vectors._float32(ours)[finite], theirs.float().numpy()[finite])


@pytest.mark.parametrize("store", ["float32", "float16", "bfloat16"])
def test_saved_and_loaded(tmp_path, store):
    rows, queries = unit(300, 24), unit(4, 24, seed=1)
    index = VectorIndex(rows, store=store, meta={"encoder": "minilm, ü"})
    index.save(tmp_path / "v")
    again = VectorIndex.load(tmp_path / "v")
    assert isinstance(again._rows, np.memmap)
    assert (again.store, again.meta) == (store, {"encoder": "minilm, ü"})
    same(again.top_k(queries, 9), index.top_k(queries, 9))
    same(VectorIndex.load(tmp_path / "v", engine="torch").top_k(queries, 9), index.top_k(queries, 9))
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "v").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "v"]
    # The library reads it, bit by bit, and we what the library writes.
    theirs = safetensors.torch.load_file(tmp_path / "v")
    assert torch.equal(theirs["vectors"], torch.from_numpy(rows).to(DTYPES[store]))
    safetensors.torch.save_file(theirs, tmp_path / "t", {"schema": "vectors/1"})
    same(VectorIndex.load(tmp_path / "t").top_k(queries, 9), index.top_k(queries, 9))


def test_tensors_as_the_library_reads_them(tmp_path):
    arrays = {"a": np.arange(12, dtype=np.uint8).reshape(3, 4), "b": unit(70_000, 2), "c": np.empty((0, 5), np.float32)}
    write_tensors(tmp_path / "x", arrays, {"k": "v"})
    for read in (safetensors.numpy.load_file(tmp_path / "x"), read_tensors(tmp_path / "x")[0]):
        assert set(read) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
    assert read_tensors(tmp_path / "x")[1] == {"k": "v"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    index = VectorIndex(unit(20, 8))
    index.save(tmp_path / "v")
    before = (tmp_path / "v").read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vectors.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space.*v'"):
        VectorIndex(unit(30, 8)).save(tmp_path / "v")
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
    assert (tmp_path / "v").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "cut off"),
        (lambda data: data[:5], "expected a safetensors file"),
        (lambda data: b"", "expected a safetensors file"),
        (lambda data: b"\x80\x04pickle" + data, "expected a safetensors file"),
        (lambda data: data.replace(b"vectors/1", b"vectors/9"), "expected vectors/1.*got vectors/9"),
        (lambda data: data.replace(b'"vectors"', b'"victors"'), "one tensor, vectors"),
        (lambda data: data.replace(b"[20,8]", b"[20,9]"), "640 bytes are not of shape"),
        (lambda data: data.replace(b"[20,8]", b"[-1,8]"), "are not of shape"),
        (lambda data: data.replace(b"F32", b"F64"), "expected a safetensors file"),
        (lambda data: data.replace(b'"longest":"1', b'"longest":"x'), "longest: expected a number, got x"),
    ],
)
def test_files_of_other_kinds(tmp_path, change, words):
    VectorIndex(unit(20, 8)).save(tmp_path / "v")
    data = (tmp_path / "v").read_bytes()
    assert change(data) != data
    (tmp_path / "v").write_bytes(change(data))
    with pytest.raises(BadInput, match=words):
        VectorIndex.load(tmp_path / "v")
    with pytest.raises(BadInput, match="nowhere: no such file"):
        VectorIndex.load("nowhere")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: VectorIndex(np.empty((0, 8), np.float32)), r"got \(0, 8\)"),
        (lambda: VectorIndex(np.ones(8, np.float32)), r"got \(8,\)"),
        (lambda: VectorIndex(np.ones((2, 8))), "float64"),
        (lambda: VectorIndex(unit(9, 8), store="int8"), "store: .*got int8"),
        (lambda: VectorIndex(unit(9, 8), engine="fast"), "engine: .*got fast"),
        (lambda: VectorIndex(np.array([[1, 2], [3, np.nan]], np.float32)), "row 1 holds a NaN"),
        (lambda: VectorIndex(np.array([[1, np.inf]], np.float32)), "row 0 holds a NaN or an infinity"),
        (lambda: VectorIndex(np.array([[1e30, 1]], np.float32)), "a length of about 1, got 1e"),
        (lambda: VectorIndex(unit(9, 8)).top_k(unit(1, 7), 1), r"expected \(B, 8\), got \(1, 7\)"),
        (lambda: VectorIndex(unit(9, 8)).top_k(unit(1, 8)[0], 1), r"expected \(B, 8\), got \(8,\)"),
        (lambda: VectorIndex(unit(9, 8)).top_k(unit(1, 8), 10), "1 to 9, .*got 10"),
        (lambda: VectorIndex(unit(9, 8)).top_k(unit(1, 8), 0), "got 0"),
        (lambda: VectorIndex(unit(9, 8)).top_k(np.full((2, 8), np.nan, np.float32), 1), "query 0 is not finite"),
    ],
)
def test_refusals_say_what_was_expected(call, words):
    with pytest.raises(BadInput, match=words):
        call()
