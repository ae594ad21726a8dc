"""The rows of the GPU check that are more than one kernel, at a small size in Triton's interpreter."""

import contextlib
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from seer_decode.plan import Roofline
from tenfold_kernels import device

ROWS = Path(__file__).parents[2] / "tools" / "seer-decode" / "bench" / "gpu" / "rows.py"
DENSE = {
    "FlashAttention 3",
    "SDPA flash, group folded",
    "SDPA cuDNN, group folded",
    "SDPA efficient, group folded",
    "SDPA enable_gqa",
}


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("seer_rows", ROWS)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def small(script, **more):
    how = {
        "heads": 4, "kv_heads": 2, "dim": 64, "gate_dim": 32, "block": 16, "batches": (2,), "contexts": (128,), "sparsities": (0.5,),
        "peers": ((2, 128, 0.0),), "layers": 1, "hidden": 32, "inner": 48, "vocabulary": 50, "step_heads": 4, "step_batch": 2,
        "step_context": 128, "step_sparsity": 0.5, "truth_tokens": 96, "truth_heads": 4, "truth_check": 70, "dtype": torch.float16,
        "device": "cpu", "compiled": False,
    }  # fmt: skip
    return script.Size(**{**how, **more})


class Clock:
    """Seconds by what is run: each call works once and takes twice as long as the one before it."""

    def __init__(self):
        self.at = 0.5e-6

    def __call__(self, work):
        work()
        self.at *= 2
        return self.at


@pytest.fixture
def interpreted():
    with device.interpreter(True):
        yield


def test_a_cell_of_the_grid(script, interpreted):
    *_, measure, _ = script.rows(Clock(), 1e12, small(script))
    row = measure()
    assert row["case"] == "2 x 128, 50 %" and row["max_rel_err"] < 2e-3 and row["scores_rel_err"] < 1e-3 and row["ok"]
    assert (row["ms"], row["gate_ms"], row["with_gate_ms"]) == (1e-3, 2e-3, 4e-3)  # the clock's first three
    # Each dense attention is there or has a reason.
    assert set(row["dense_ms"]) | set(row["missing"]) == DENSE and not set(row["dense_ms"]) & set(row["missing"])
    assert row["baseline"] in row["dense_ms"] and row["bars_against"] == row["baseline"] and row["fa3_ratio"] is None
    assert "fa3" in row["missing"]["FlashAttention 3"]
    assert row["baseline_ratio"] == 8.0 and row["gate_ratio"] == 2.0
    assert row["bars"] == {"never slower than dense": {"found": 8.0, "least": 1.0}}
    read = 2 * 4 * 16 * 2 * 2 * 64 * 2  # batch, blocks, tokens, keys and values, stored heads, channels, bytes
    assert row["bytes_s"] == pytest.approx(read / 1e-6) and row["floor_ratio"] == pytest.approx(1e-6 / (read / 1e12))


@pytest.mark.parametrize("fast", [True, False])
def test_bars_are_of_flash_attention_3_where_it_is(script, interpreted, monkeypatch, fast):
    """The figure's bars, and those of large reads, by a stand-in for the library."""
    from torch.nn.functional import scaled_dot_product_attention

    def stand_in(q, k, v, cache_seqlens, softmax_scale):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, scale=softmax_scale, enable_gqa=True).transpose(1, 2)

    library = type(sys)("fa3_fwd_interface")
    library.flash_attn_with_kvcache = stand_in
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", library)
    monkeypatch.setattr(script, "FASTER", {(1, 128): 8.0 if fast else 8.1})
    *_, measure, _ = script.rows(Clock(), 1e12, small(script, batches=(1,), sparsities=(0.9,)))
    row = measure()
    assert row["bars_against"] == "FlashAttention 3" and row["fa3_ratio"] == 8.0
    assert row["bars"]["times as fast"]["found"] == 8.0 and row["ok"] == fast
    assert row.get("error") == (None if fast else "times as fast 8, bar 8.1")


def test_a_dense_attention_that_is_wrong_is_no_baseline(script, interpreted, monkeypatch):
    library = type(sys)("fa3_fwd_interface")
    library.flash_attn_with_kvcache = lambda q, k, v, cache_seqlens, softmax_scale: torch.zeros_like(q)
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", library)
    *_, measure, _ = script.rows(Clock(), 1e12, small(script, batches=(1,)))
    row = measure()
    assert "wrong" in row["missing"]["FlashAttention 3"] and "FlashAttention 3" not in row["dense_ms"]


@pytest.mark.parametrize("what", ["attended", "gated"])
def test_a_wrong_kernel_is_not_ok(script, interpreted, monkeypatch, what):
    original = getattr(script, what)

    def spoiled(*args):
        found = original(*args)
        if what == "attended":
            return found * 1.01
        indices, counts, scores = found
        return indices, counts - 1, scores  # without the tail

    monkeypatch.setattr(script, what, spoiled)
    *_, measure, _ = script.rows(Clock(), 1e12, small(script, batches=(1,)))
    row = measure()
    assert not row["ok"] and row["max_rel_err"] > 5e-3 and "wrong" in row["error"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_sparse_peer(script, interpreted):
    """Not compiled it is dense: at sparsity 0 that is the same."""
    *_, measure = script.rows(Clock(), 1e12, small(script))
    row = measure()
    assert row["ok"] and row["baseline_ratio"] == 2.0 and row["max_rel_err"] < 2e-3 and row["compile_s"] > 0


def test_a_peer_that_does_not_run_is_named(script, interpreted, monkeypatch):
    monkeypatch.setattr(script, "flex_run", lambda *args: 1 / 0)
    *_, measure = script.rows(Clock(), 1e12, small(script))
    row = measure()
    assert not row["ok"] and "ZeroDivisionError" in row["missing"]["FlexAttention"] and row["error"]


@pytest.mark.parametrize("copy", [1e6, 1e12])
def test_a_whole_step(script, interpreted, copy):
    _, measure, *_ = script.rows(Clock(), copy, small(script))
    row = measure()
    assert row["case"] == "Qwen3-4B's shape, 2 x 128, 50 %" and row["max_rel_err"] < 1e-4
    assert row["baseline"].startswith("the same step, SDPA") and row["baseline_ratio"] == 2.0
    weights = 2 * ((4 + 4) * 64 * 32 + 4 * 64 * 32 + 3 * 48 * 32 + 50 * 32)
    cached = 2 * 4 * 16 * 2 * 2 * 64 * 2
    gate = 2 * 8 * 2 * 32 * 2 + 4 * 64 * 32 * 2
    moved = weights + cached + gate
    assert row["bytes_s"] == pytest.approx(moved / (row["ms"] / 1e3))
    bar = row["bars"]["of the predicted speed"]
    assert bar["found"] == pytest.approx(moved / copy / (row["ms"] / 1e3)) and row["ok"] == (bar["found"] >= 0.75)


def test_the_training_target(script, interpreted):
    measure, *_ = script.rows(Clock(), 1e12, small(script))
    row = measure()
    assert row["ok"] and row["baseline_ratio"] == 2.0 and row["max_rel_err"] < 2**-8
    assert row["reference_buffer_bytes"] == 2 * 4 * 96 * 6 and row["buffer_bytes"] <= row["reference_buffer_bytes"] / 2


class Card:
    """Stands in for torch.cuda: an event's time is how often the graphs have been replayed, in ms."""

    def __init__(self, log):
        self.log, self.now = log, 0.0
        card = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = card.now

            def elapsed_time(self, other):
                return other.at - self.at

        class CUDAGraph:
            def replay(self):
                card.now += 2.0
                log.append(self.what)

        class Stream:
            def wait_stream(self, other):
                assert isinstance(other, Stream)

        self.Event, self.CUDAGraph, self.Stream, self.stream = Event, CUDAGraph, Stream, contextlib.nullcontext
        self.current_stream, self.synchronize = Stream, lambda: None

    @contextlib.contextmanager
    def graph(self, graph):
        del self.log[:]
        yield
        (graph.what,) = self.log  # what is captured, once
        del self.log[:]


def test_on_a_card_contenders_are_graphs_and_take_turns_with_a_cold_cache(script, monkeypatch):
    log = []
    bench = script.Bench(small(script), None, 1e12)
    bench.cache = types.SimpleNamespace(zero_=lambda: log.append("cold"))
    monkeypatch.setattr(torch, "cuda", Card(log))

    def breaks():
        raise RuntimeError("no kernel\n of this kind")

    times, missing = bench.times({"a": lambda: log.append("a"), "b": breaks, "c": lambda: log.append("c")}, budget=1e-9)
    assert times == {"a": 2e-3, "c": 2e-3} and missing == {"b": "RuntimeError: no kernel of this kind"}
    assert log == ["cold", "a", "cold", "c"] * 6  # one turn warms up, another says how long one takes


def test_rows_that_come_too_late_say_so(script):
    made = [measure() for measure in script.rows(None, 1e12, small(script, seconds=0.0))]
    assert len(made) == 4 and not any(row["ok"] for row in made)
    assert all(row["error"] == "not run: the 0 seconds were over" for row in made)


def test_what_does_not_fit_says_so(script, monkeypatch):
    monkeypatch.setattr(script.Bench, "free", lambda self: 1000.0)
    *_, cell, peer = script.rows(None, 1e12, small(script))
    for measure in (cell, peer):
        row = measure()
        assert not row["ok"] and row["error"].startswith("not run: it takes")


def test_bytes_are_what_plan_counts(script):
    size = script.Size()
    line, plan = script.Bytes(size, 64), Roofline(64, 8, 128, 128)
    for batch, tokens, sparsity in ((1, 8192, 0.9), (16, 131072, 0.5), (3, 1000, 0.9)):
        kept = line.kept(tokens, sparsity)
        assert kept == plan.kept(tokens, sparsity)
        assert line.dense(batch, tokens) == plan.dense_bytes(batch, tokens)
        assert line.sparse(batch, tokens, kept) == plan.sparse_bytes(batch, tokens, kept)
        assert line.gate(batch, tokens) == plan.gate_bytes(batch, tokens)


def test_a_card_needs_no_dependency_of_the_tool():
    """The GPU check has torch, triton, numpy, transformers and this checkout."""
    code = (
        "import runpy, sys\n"
        "for name in ('msgspec', 'click', 'rich', 'polars', 'pyarrow', 'safetensors', 'tokenizers'):\n"
        "    sys.modules[name] = None\n"
        "sys.path[:0] = ['kernels', 'shared']\n"
        f"runpy.run_path({str(ROWS)!r}, run_name='rows')\n"
        "print(*sorted(name for name in sys.modules if name.startswith('seer_decode')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROWS.parents[4])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["seer_decode", "seer_decode.kernels"]


def test_a_row_of_the_gpu_check_can_be_printed(script):
    """Its own line of a row, by the keys that every row has."""
    spec = importlib.util.spec_from_file_location("gpu_check", ROWS.parents[4] / "kernels" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    late = next(script.rows(None, 1e12, small(script, seconds=0.0)))()
    assert module.line_of(late) == "BAD seer-decode ground truth / 96: not run: the 0 seconds were over"
