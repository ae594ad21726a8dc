"""Floors by bytes: a table, and a step's sums by hand."""

import pytest
from seer_models import config, qwen

from seer_decode.plan import Roofline, Weights, step
from seer_decode.shape import Shape

K = 1024
# batch, tokens, dense µs, blocks, sparse µs, cap by bytes, with the gate, with 5 µs on both sides
TABLE = [
    (1, 8 * K, 7.8, 13, 0.8, 9.85, 5.8, 2.2),
    (1, 32 * K, 31.2, 52, 3.2, 9.85, 8.0, 4.4),
    (1, 128 * K, 124.9, 205, 12.5, 9.99, 8.9, 7.4),
    (4, 32 * K, 124.9, 52, 12.7, 9.85, 8.8, 7.3),
    (4, 128 * K, 499, 205, 50.0, 9.99, 9.2, 9.2),
    (8, 32 * K, 250, 52, 25.4, 9.85, 9.0, 8.4),
    (16, 8 * K, 125, 13, 12.7, 9.85, 8.8, 7.3),
    (16, 32 * K, 499, 52, 50.7, 9.85, 9.1, 9.1),
    (16, 128 * K, 1998, 205, 200, 9.99, 9.25, 9.8),
]
LINE = Roofline(64, 8, 128, 128)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}x{row[1]}")
def test_the_table(row):
    batch, tokens, dense, blocks, sparse, cap, with_gate, with_fixed = row
    found = LINE.row(batch, tokens, sparsity=0.9)
    assert found["blocks"] == blocks
    assert found["dense_us"] == pytest.approx(dense, abs=0.5 if dense >= 125 else 0.11)
    assert found["sparse_us"] == pytest.approx(sparse, abs=0.5 if sparse >= 200 else 0.06)
    for key, value in (("byte_cap", cap), ("gate_cap", with_gate), ("fixed_cap", with_fixed)):
        assert found[key] == pytest.approx(value, abs=0.06)


def test_bytes():
    assert LINE.token_bytes == 4096 and LINE.weight_bytes == pytest.approx(2.1e6, rel=0.01)
    assert LINE.gate_bytes(2, 130) == 2 * 3 * 8 * 128 * 2 + LINE.weight_bytes
    # Compressed keys are 1/128 of the cache at blocks of 64 and dg = D.
    assert (LINE.gate_bytes(1, 64 * K) - LINE.weight_bytes) * 128 == LINE.dense_bytes(1, 64 * K)


def test_what_is_kept():
    assert (
        LINE.kept(8192, sparsity=0.9) == 13 and LINE.kept(640, sparsity=0.9) == 1 and LINE.kept(640, sparsity=0.0) == 10
    )
    assert LINE.kept(32768, budget=4100) == 64 and LINE.kept(1000, budget=4096) == 16
    assert LINE.sparse_bytes(1, 100, LINE.kept(100, budget=4096)) == LINE.dense_bytes(1, 100)
    with pytest.raises(ValueError, match="sparsity or a budget"):
        LINE.kept(100)


def test_a_step_by_hand():
    of = qwen(2)
    shape = Shape.of(of)
    weights = Weights.of(of)
    hidden, vocabulary, mlp = 2560, 151936, 9728
    layer = hidden * 128 * (32 + 8 + 8 + 32) + 3 * hidden * mlp + 2 * hidden + 2 * 128
    assert weights.step == 2 * layer + hidden + hidden * vocabulary  # the table is not read, the projection is
    assert weights.all == weights.step + hidden * vocabulary
    found = step(of, shape, 4, 32 * K, budget=4096, dense_layers=1, memory=80e9, overhead=3e-6)
    cached, read, gate = 4 * 32 * K * 4096, 4 * 4096 * 4096, 4 * 512 * 8 * 128 * 2 + 32 * 128 * 128 * 2
    assert found["step_bytes"] == {
        "weights": 2 * weights.step,
        "dense": 2 * weights.step + 2 * cached,
        "sparse": 2 * weights.step + cached + read + gate,
    }
    dense, sparse = (found["step_bytes"][k] / 4.3e12 + 2 * 3e-6 for k in ("dense", "sparse"))
    assert found["step_dense_ms"] == pytest.approx(1e3 * dense) and found["step_speedup"] == pytest.approx(
        dense / sparse
    )
    assert found["tokens_per_s"] == pytest.approx(4 / sparse)
    assert found["memory"] == {
        "weights": 2 * weights.all, "cache": 2 * cached, "compressed_keys": 2 * 4 * 512 * 8 * 128 * 2,
        "gates": 2 * shape.parameters,
    }  # fmt: skip
    assert found["fits"] and not step(of, shape, 4, 32 * K, budget=4096, memory=1e9, weights=weights)["fits"]


def test_a_budget_that_holds_all_is_dense():
    of = config()
    found = step(of, Shape.of(of), 2, 1000, budget=4096)
    assert found["step_speedup"] == 1 and found["step_bytes"]["dense"] == found["step_bytes"]["sparse"]


def test_tied_tables_and_layers_that_slide():
    assert (w := Weights.of(config(tie_word_embeddings=True))).all == w.step
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    of = config("gemma", layer_types=kinds, sliding_window=64)
    found = step(of, Shape.of(of), 1, 1000, budget=256)
    token = 2 * 2 * 8 * 2
    assert found["memory"]["cache"] == (1000 + 2 * 64) * token
    assert found["step_bytes"]["dense"] - found["step_bytes"]["weights"] == (1000 + 2 * 64) * token
