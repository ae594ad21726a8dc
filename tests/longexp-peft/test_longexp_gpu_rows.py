"""The rows of the GPU check that are whole steps, at a small size in Triton's interpreter."""

import copy
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from longexp_peft import amdahl, kernels, patterns, shape
from longexp_peft.pack import Row
from longexp_peft.sparse import Sparse, Sparsity
from tenfold_kernels import device

ROWS = Path(__file__).parents[2] / "tools" / "longexp-peft" / "bench" / "gpu" / "rows.py"
NAMES = ["dense", "predicted", "sparser", "static", "blocks", "exact", "memory", "padded", "flex"]


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("longexp_rows", ROWS)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def small(script, **more):
    how = {
        "models": (script.Model("tiny", 32, 64, 2, 4),), "layers": 1, "vocabulary": 60, "spread": 0.2, "documents": 2, "tokens": 32, "densities": (0.25, 0.125),
        "predictor_rank": 4, "predictor_block": 8, "block": 16, "peer_tokens": 48, "peer_heads": 2, "peer_dim": 16, "peer_block": 16, "padded_tokens": 5,
        "padded_targets": 3, "padded_to": 16, "dtype": torch.float32, "device": "cpu", "compiler": None, "seconds": 1e9,
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


class Told:
    """The seconds given, in order, the last one for all that follow."""

    def __init__(self, *seconds):
        self.seconds = list(seconds)

    def __call__(self, work):
        work()
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


@pytest.fixture
def interpreted():
    with device.interpreter(True):
        yield


def measure(script, name, timer=None, **more):
    made = dict(zip(NAMES, script.rows(timer or Clock(), 1e12, small(script, **more)), strict=True))
    return made[name]()


def arms_of(script, **more):
    size = small(script, **more)
    return script.Bench(size, Clock(), 1e12).arms(size.models[0])


# ---------------------------------------------------------------- dense


def test_the_dense_step_and_its_compiled_twin(script):
    row = measure(script, "dense", compiler="eager")
    assert row["ok"] and row["case"] == "tiny's shape, 1 of 4 layers, 2 x 32, dense, eager"
    assert row["ms"] == 1e-3 and row["baseline_ratio"] == 2.0 and row["baseline"] == "the same, torch.compile"
    # Per token 8 d² of projections less q, k, v once (nothing trains below), 4 d F of the layer; 7 products of attention; 16 labels.
    tokens, d, f, labels = 64, 32, 64, 16
    flops = tokens * (8 + 2) * d * d + 2 * 4 * tokens * d * f + 7 * 2 * d * 2 * 32**2 / 2 + 4 * 60 * d * labels
    assert row["flop_s"] == pytest.approx(flops / 1e-6)
    assert row["floor_ratio"] == pytest.approx(
        1e-6 / (flops / (2 * 64**3 / 4e-6))
    )  # the clock's third call is the product


def test_a_compiler_that_fails_leaves_the_eager_arm(script, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *args, **how: 1 / 0)
    row = measure(script, "dense", compiler="inductor")
    assert row["ok"] and row["ms"] == 1e-3 and row["baseline_ratio"] is None
    assert "ZeroDivisionError" in row["baseline"] and "ZeroDivisionError" in row["missing"]["torch.compile"]
    row = measure(script, "static", compiler="inductor")
    assert row["baseline"] == "dense, eager" and "torch.compile" in row["missing"]


def test_there_may_be_no_time_to_compile(script):
    row = measure(script, "dense", compiler="eager", seconds=10.0)
    assert row["ok"] and row["missing"] == {"torch.compile": "not compiled: fewer than 30 seconds were left"}


def test_the_faster_dense_arm_is_the_yardstick(script, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda decoder, **how: decoder)
    timer = Told(2.0, 5.0, 3.0, 4.0, 1.0)  # ours, eager, compiled, which is timed again, the product
    row = measure(script, "static", timer, compiler="inductor")
    assert row["baseline"] == "dense, torch.compile" and row["baseline_ratio"] == 2.0


# ---------------------------------------------------------------- skipping


def test_a_predicted_step(script, interpreted):
    row = measure(script, "predicted")
    assert row["case"].endswith("predicted, 25 % of neurons") and row["products"] == "kernels" and row["ok"]
    assert (row["ms"], row["given_ms"], row["batched_ms"], row["choosing"]) == (1e-3, 2e-3, 4e-3, 0.0)
    assert row["baseline"] == "dense, eager" and row["baseline_ratio"] == 16.0
    of = arms_of(script)
    assert row["bound"] == pytest.approx(of.operations() / of.operations(0.25)) and row["of_bound"] == 16 / row["bound"]
    assert row["flop_s"] == pytest.approx(of.operations(0.25) / 1e-6)


def test_what_misses_a_bar_is_not_ok(script, interpreted):
    row = measure(script, "predicted", Told(1.0, 0.9, 1.0, 1.3, 1.3, 1.0))
    assert row["choosing"] == pytest.approx(0.1) and row["baseline_ratio"] == 1.3 and row["of_bound"] > 0.85
    assert not row["ok"] and row["error"] == "choosing, of the step 0.1, bar 0.03"
    row = measure(script, "static", Told(2.0, 1.0))
    assert not row["ok"] and row["error"].startswith("never slower than dense 0.5, bar 1; of the bound 0.")


def test_sets_have_the_density_and_are_used(script, interpreted):
    of = arms_of(script)
    choose = script.asked(script.predictors(of.size, of.of, 0.25))
    seen = {}

    def watched(layer, x, w):
        rows, known = choose(layer, x, w)
        seen[layer] = rows
        return rows, known

    some = of.our_loss(watched)
    assert len(seen[0]) == 16 and (seen[0].view(-1, 8).diff(dim=1) == 1).all() and of.engine.sets == seen
    assert abs(float(some.detach()) - float(of.our_loss().detach())) > 1e-3
    assert all(len(rows) == 16 for rows in script.drawn(of.size, of.of, 0.25))
    batched = of.our_loss(script.given([seen[0]]), batched=True)
    assert float(batched.detach()) == pytest.approx(float(some.detach()), rel=1e-5)


def test_a_step_trains(script, interpreted):
    of = arms_of(script)
    run = of.ours(script.given(script.drawn(of.size, of.of, 0.25)))
    losses = [float(run()) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in of.engine.model.parameters())


def test_a_static_step(script):
    row = measure(script, "static")
    assert row["ok"] and row["case"].endswith("static, the first 25 % of neurons")


def test_all_neurons_packed_is_the_dense_step(script):
    of = arms_of(script, layers=2)
    with torch.no_grad():
        losses = [float(x) for x in (of.dense_loss(), of.our_loss(), of.our_loss(batched=True))]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)


def test_the_engine_does_what_the_tool_does(script, interpreted):
    """Its loss and gradients are those of `Sparse`, which asks for a library that a card may lack."""
    of = arms_of(script, layers=2)
    twin = copy.deepcopy(of.dense)
    row = Row(of.ids.flatten(), of.positions[0], of.lengths, of.at, of.labels)
    with script.planted(of, 0.25):
        for ffn, planted in zip(shape.feed_forwards(twin), of.engine.ffns, strict=True):
            ffn.up.bias.data.copy_(planted.up.bias)
        sparse = Sparse(twin, Sparsity(mode="exact"))
        with sparse.attached():
            theirs = sparse.loss(row) / len(row.labels)
        ours = of.our_loss(script.exactly)
        grads = [torch.autograd.grad(x, script.trained(m)) for x, m in ((theirs, twin), (ours, of.engine.model))]
    assert 0 < sparse.densities[0] == len(of.engine.sets[0]) / 64 < 0.5
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


# ---------------------------------------------------------------- blocks


def test_blocks_of_attention(script, interpreted):
    row = measure(script, "blocks")
    read = float(patterns.densities(2)[1])
    assert row["ok"] and row["max_rel_err"] < 1e-5 and "75 % of n², predicted, 25 % of neurons" in row["case"]
    assert (row["ms"], row["given_ms"]) == (1e-3, 2e-3)
    of = arms_of(script)
    assert row["bound"] == pytest.approx(of.operations() / of.operations(0.25, read))


def test_a_wrong_attention_is_not_ok(script, interpreted, monkeypatch):
    attend = kernels.attend_blocks
    monkeypatch.setattr(kernels, "attend_blocks", lambda *args: attend(*args) * 1.05)
    row = measure(script, "blocks")
    assert not row["ok"] and row["max_rel_err"] > 1e-5 and "wrong" in row["error"]


def test_the_patterns_of_a_density(script):
    own, read = script.near(16, 5, 0.25, "cpu")
    cost = patterns.densities(16)
    assert own.tolist() == [own[0], own[1], own[0], own[1], own[0]] and own[0] != own[1]
    assert read == pytest.approx(float(cost[own].mean())) and abs(read - 0.25) < 0.02


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exact_step(script, interpreted, dtype):
    row = measure(script, "exact", dtype=dtype, layers=2)
    assert row["ok"] and row["max_rel_err"] <= script.LOSS[dtype] and row["strays"] == 0
    assert 0.1 < row["density"] < 0.4
    assert (row["grad_rel_err"] < 1e-5) == (dtype == torch.float32) and row["grad_rel_err"] < 0.05
    of = arms_of(script, layers=2)
    assert row["bound"] == pytest.approx(of.operations() / of.operations(amdahl.left("exact", row["density"], False)))


def test_a_set_without_a_neuron_that_fires_is_not_ok(script, interpreted, monkeypatch):
    whole = script.exactly

    def short(layer, x, w):
        rows, known = whole(layer, x, w)
        return rows[1:], known[:, 1:].contiguous()

    monkeypatch.setattr(script, "exactly", short)
    row = measure(script, "exact")
    assert not row["ok"] and "wrong" in row["error"] and row["grad_rel_err"] > 1e-3


def test_what_an_exact_step_plants_is_taken_out(script, interpreted):
    of = arms_of(script)
    of.ours()()  # adapters apart
    before = [x.detach().clone() for x in script.trained(of.engine.model)]
    script.exact(of.bench, of.of)
    for side in (shape.feed_forwards(of.dense), of.engine.ffns):
        assert all(not ffn.up.bias.any() for ffn in side)
    with pytest.raises(RuntimeError), script.same_adapters(of), script.planted(of, 0.25):
        raise RuntimeError
    assert not of.engine.ffns[0].up.bias.any()
    of = arms_of(script)
    of.ours()()
    with script.same_adapters(of):
        pairs = zip(script.trained(of.engine.model), script.trained(of.dense), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(a, b) for a, b in zip(script.trained(of.engine.model), before, strict=True))


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("ours", [60, 110])
def test_memory(script, interpreted, monkeypatch, ours):
    runs = []

    def peak(run):
        runs.append(float(run()))
        return (100, ours)[len(runs) - 1]

    monkeypatch.setattr(script, "peak", peak)
    row = measure(script, "memory")
    assert row["ok"] == (ours < 100) and row["baseline_ratio"] == 100 / ours and row["ms"] is None
    assert (row["peak_bytes"], row["dense_peak_bytes"]) == (ours, 100) and row["weight_bytes"] > 4 * 60 * 32


def test_a_peak_is_over_what_was_held_after_a_first_run(script, monkeypatch):
    held = {"now": 10, "most": 0}

    def run():
        held["most"] = max(held["most"], held["now"] + 7)
        held["now"] = 12  # an optimiser's state stays

    card = types.SimpleNamespace(
        synchronize=lambda: None, memory_allocated=lambda: held["now"], max_memory_allocated=lambda: held["most"],
        reset_peak_memory_stats=lambda: held.update(most=held["now"]),
    )  # fmt: skip
    monkeypatch.setattr(torch, "cuda", card)
    assert script.peak(run) == 7


# ---------------------------------------------------------------- FlexAttention


def masked(own, blocks, block, scale, compiler):
    """Stands in for FlexAttention, which has no backward on a CPU."""
    seen = patterns.masks(blocks)[own].repeat_interleave(block, 1).repeat_interleave(block, 2).tril()

    def function(q, k, v):
        return (q @ k.transpose(1, 2) * scale).masked_fill(~seen, -torch.inf).softmax(-1) @ v

    return function


def test_the_peer_of_blocks(script, interpreted, monkeypatch):
    monkeypatch.setattr(script, "flex", masked)
    row = measure(script, "flex")
    assert row["ok"] and row["max_rel_err"] < 2e-5 and row["peer_rel_err"] < 2e-5
    assert (
        row["flash_ratio"] == 2.0 and row["baseline_ratio"] == 8.0 and row["baseline"] == "FlexAttention, compiled"
    )  # the third is the product
    read = float(patterns.densities(3)[1])
    pairs = 2 * sum(16 * 16 * int(n) for n in patterns.masks(3)[1].sum(1)) - 2 * 3 * 16 * 15 / 2
    assert row["flop_s"] == pytest.approx(14 * 16 * pairs / 1e-6) and f"{100 * read:.1f} % of n²" in row["case"]


def test_a_peer_that_does_not_run_or_is_wrong_is_named(script, interpreted, monkeypatch):
    row = measure(script, "flex")
    assert row["ok"] and row["baseline_ratio"] is None and "NotImplementedError" in row["missing"]["FlexAttention"]
    monkeypatch.setattr(script, "flex", lambda *args: lambda q, k, v: masked(*args)(q, k, v) * 1.5)
    row = measure(script, "flex")
    assert row["ok"] and row["baseline_ratio"] is None and "differs from ours" in row["missing"]["FlexAttention"]


def test_a_wrong_kernel_is_not_ok(script, interpreted, monkeypatch):
    attend = kernels.attend_blocks
    monkeypatch.setattr(kernels, "attend_blocks", lambda *args: attend(*args) * 1.01)
    row = measure(script, "flex")
    assert not row["ok"] and "wrong" in row["error"]


def test_the_peer_has_the_same_blocks(script):
    own = torch.tensor([1, 9, 2])
    mask = script.block_mask(own, 6, 16)
    assert torch.equal(mask.to_dense()[0].bool(), patterns.masks(6)[own])
    assert (mask.kv_num_blocks == 1).all() and mask.kv_indices[0, 0, :, 0].tolist() == list(range(6))
    assert mask.mask_mod(0, 0, torch.tensor(3), torch.tensor(3)) and not mask.mask_mod(
        0, 0, torch.tensor(3), torch.tensor(4)
    )


# ---------------------------------------------------------------- the paper's protocol


def test_the_papers_protocol(script, interpreted, monkeypatch):
    asked = []
    attention = script.dense_attention
    monkeypatch.setattr(script, "dense_attention", lambda *args, **how: asked.append(1) or attention(*args, **how))
    row = measure(script, "padded")
    assert row["ok"] and row["kernel"] == "longexp-peft the paper's protocol"
    assert asked == [1]  # of the step without padding; the others are eager
    assert "2 documents of 5 tokens padded to 16, eager attention, all logits; 25 % of neurons; 69 % of" in row["case"]
    assert row["ms"] == 1e-3 and row["baseline_ratio"] == 2.0 and row["unpadded_dense_ms"] == 8e-3


def test_attention_is_as_it_was_after_the_papers_protocol(script, monkeypatch):
    of = arms_of(script)
    script.padded(of.bench, of.of, 0.25)
    names = [m.config._attn_implementation for m in (of.dense, of.engine.model)]
    assert names == [script.DENSE, script.OURS]
    monkeypatch.setattr(of, "step", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        script.padded(of.bench, of.of, 0.25)
    assert [m.config._attn_implementation for m in (of.dense, of.engine.model)] == names


# ---------------------------------------------------------------- all


def test_rows_that_come_too_late_say_so(script):
    made = [call() for call in script.rows(None, 1e12, small(script, seconds=0.0))]
    assert len(made) == len(NAMES) and not any(row["ok"] for row in made)
    assert all(row["error"] == "not run: the 0 seconds were over" for row in made)


def test_few_layers_stand_for_all(script):
    """The parts of a step are in the proportions of the whole model's at 1,024 tokens."""
    size = script.Size(device="meta")
    for model, shares in zip(size.models, ((0.58, 0.29, 0.06, 0.07), (0.60, 0.30, 0.05, 0.05)), strict=True):
        labels = size.documents * size.tokens * size.layers // model.layers
        made = script.random_model(size, model)
        found = amdahl.parts(made, (size.tokens,) * size.documents, labels).shares()
        assert list(found.values()) == pytest.approx(shares, abs=0.025)
        assert shape.head_dim(made) == {"OPT-1.3B": 64, "OPT-2.7B": 80}[model.name]


def test_a_card_needs_no_dependency_of_the_tool():
    """The GPU check has torch, triton, numpy, transformers and this checkout."""
    code = (
        "import runpy, sys\n"
        "for name in ('msgspec', 'click', 'rich', 'polars', 'pyarrow', 'peft', 'safetensors', 'tokenizers', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "sys.path[:0] = ['kernels', 'shared']\n"
        f"runpy.run_path({str(ROWS)!r}, run_name='rows')\n"
        "print(*sorted(name for name in sys.modules if name.startswith('longexp_peft.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROWS.parents[4])
    assert done.returncode == 0, done.stderr
    wanted = "amdahl attention head kernels mlp patterns predictor select shape"
    assert done.stdout.split() == [f"longexp_peft.{name}" for name in wanted.split()]


def test_a_row_of_the_gpu_check_can_be_printed(script):
    """Its own line of a row, by the keys that every row has."""
    spec = importlib.util.spec_from_file_location("gpu_check", ROWS.parents[4] / "kernels" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    late = next(script.rows(None, 1e12, small(script, seconds=0.0)))()
    assert module.line_of(late) == "BAD longexp-peft step / tiny, dense: not run: the 0 seconds were over"
