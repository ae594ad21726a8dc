"""What a run takes, against models that are built and watched, and by hand."""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_roc import plan
from grpo_roc.cli import main
from grpo_roc.plan import Options, Shape
from tenfold_shared import BadInput

BIN = Path(sys.executable).parent / "grpo-roc"
SMALL = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 500}  # fmt: skip
FAMILIES = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 32}),
    ("mistral", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 24}),
    ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    ("granite", {}),
    ("smollm3", {"pad_token_id": 0, "tie_word_embeddings": True}),
    ("phi3", {"pad_token_id": 0, "tie_word_embeddings": False}),
]


def config(family, **more):
    return AutoConfig.for_model(family, **{**SMALL, **more})


def qwen3_14b():
    """Its published config."""
    return AutoConfig.for_model(
        "qwen3", hidden_size=5120, intermediate_size=17_408, num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=8, head_dim=128, vocab_size=151_936,
        tie_word_embeddings=False,
    )  # fmt: skip


def here(*words):
    return CliRunner().invoke(main, ["plan", *map(str, words)], prog_name="grpo-roc")


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize(("family", "more"), FAMILIES)
def test_parameters_are_those_of_the_model(family, more):
    told = config(family, **more)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(told)
    assert Shape.of(told).parameters == sum(p.numel() for p in model.parameters())


def test_what_the_paper_and_the_embedded_model_have():
    shape = Shape.of(qwen3_14b())
    assert shape.kv_bytes == 163_840 and shape.parameters == 14_768_307_200
    found = run("--gpus", 1)
    assert found["model"] == {"parameters": 134_515_008, "kv_bytes_per_token": 23_040}


@pytest.mark.parametrize(
    ("family", "more"), [one for one in FAMILIES if one[0] in ("llama", "qwen2", "qwen3", "mistral")]
)
def test_activations_are_what_a_forward_pass_keeps(family, more):
    """Bytes of distinct saved tensors that are no weights, from the difference of two depths."""
    kept = []
    for layers in (2, 4):
        told = config(family, **{**more, "num_hidden_layers": layers})
        model = AutoModelForCausalLM.from_config(told, dtype=torch.bfloat16, attn_implementation="sdpa")
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen, alive = {}, []

        def pack(tensor, weights=weights, seen=seen, alive=alive):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.model(input_ids=torch.zeros((1, 256), dtype=torch.long), use_cache=False)
        kept.append(sum(seen.values()) / 256)
    assert Shape.of(told).activations == pytest.approx((kept[1] - kept[0]) / 2, rel=0.03)


@pytest.mark.parametrize(("family", "more"), FAMILIES[:7])
def test_operations_are_those_of_a_pass(family, more):
    """torch counts every product of attention, those that the mask leaves out too: a context of all tokens."""
    told, n = config(family, **more), 64
    model = AutoModelForCausalLM.from_config(told, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros((1, n), dtype=torch.long), use_cache=False)
    shape = Shape.of(told)
    norms_and_biases = shape.layers * (shape.layer - 2 * shape.hidden * (shape.query + shape.kv) - 3 * shape.hidden * shape.mlp) + shape.hidden  # fmt: skip
    ours = 2 * n * (shape.multiplied - norms_and_biases) + 4 * n * n * shape.layers * shape.query
    assert counter.get_total_flops() == ours
    s = plan.counted(shape, Options(mean_prompt=n, mean_length=1, max_length=1, max_prompt=n, gpus=2))
    assert s["flop_per_token"] == 2 * shape.multiplied + 4 * shape.layers * shape.query * (n + 0.5)


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("mixtral", {}, "mixture of experts"),
        ("qwen3_moe", {}, "mixture of experts"),
        ("deepseek_v3", {}, "mixture of experts"),
        ("qwen3_next", {"num_experts": 0, "num_experts_per_tok": 0}, "linear_attention"),
        ("mamba", {}, "layers without keys and values of every token"),
        ("t5", {}, "an encoder and a decoder"),
        ("gemma2", {}, "family with other parts"),
        ("gpt2", {}, "family with other parts"),
    ],
)
def test_what_cannot_be_counted_is_refused(family, more, message, tmp_path):
    told = AutoConfig.for_model(family, **more)
    with pytest.raises(BadInput, match=f"--model: {family}: .*{message}"):
        Shape.of(told)
    (tmp_path / "config.json").write_text(json.dumps(told.to_dict()))
    refused = here("--model", tmp_path / "config.json")
    assert refused.exit_code == 2 and message in refused.stderr and "Traceback" not in refused.stderr


# ---------------------------------------------------------------- the plan


def run(*words):
    told = here(*words, "--json")
    assert told.exit_code in (0, 1), told.stderr
    return json.loads(told.stdout)


def test_a_step_by_hand():
    shape = Shape.of(config("llama"))
    o = Options(prompts=10, group_size=4, oversample=2.5, max_length=100, mean_length=40, mean_prompt=10, max_prompt=60, gpus=4, tensor_parallel=2, gpu_mem=1e9, pass_tokens=200, tokens_per_second=50, tool_rate=10, calls=3, tool_seconds=0.5, train_tflops=1e-3)  # fmt: skip
    s = plan.counted(shape, o)
    p = shape.parameters
    assert (s["rollouts"], s["kept"], s["tool_calls"], s["rollout_tokens"], s["train_tokens"]) == (100, 40, 300, 4000, 2000)  # fmt: skip
    assert s["engines"] == 2 and s["weights"] == p and s["trainer_beside"] == 3 * p
    assert s["training_peak"] == 12 * p / 4 + 4 * p / 4 + 6 * max(shape.layer, 500 * 96) + 200 * (2 * 96 * 3 + shape.activations) + 10 * 1024 * 500  # fmt: skip
    cache = 2 * (0.92e9 - p - 3 * p)
    assert shape.kv_bytes == 2 * 3 * 2 * 16 * 2
    blocks = int(cache // (384 * 16))
    assert s["cache_tokens"] == 16 * blocks and s["places"] == blocks // math.ceil(160 / 16)
    assert s["at_once"] == 50  # all of an engine's fit
    assert s["rollout_seconds"] == max(4000 / (2 * 50), 100 / (50 / 50)) == 100
    assert s["tool_seconds"] == 30 and s["tool_rate_needed"] == 3 and s["tool_calls_in_flight"] == 1.5
    assert s["train_seconds"] == pytest.approx(5 * s["flop_per_token"] * 2000 / (4 * 1e9))
    assert s["step_seconds"] == 100 + s["train_seconds"]
    slow = plan.counted(shape, replace(o, tool_rate=2.0))
    assert slow["step_seconds"] == 150 + s["train_seconds"] and any("more workers" in one for one in plan.notes(slow, Options(tool_rate=2.0)))  # fmt: skip


def test_six_p_and_eight_p():
    shape = Shape.of(qwen3_14b())
    tokens = 8192 * (6144 + 256)
    for checkpointing, times in ((True, 8), (False, 6)):
        s = plan.counted(shape, Options(gradient_checkpointing=checkpointing))
        attention = times / 2 * 4 * 40 * 5120 * (256 + 3072) * tokens
        assert s["train_flop"] == pytest.approx(times * (shape.parameters - 151_936 * 5120) * tokens + attention)
        assert 0 < s["train_flop"] / (times * shape.parameters * tokens) - 1 < 0.1


def test_the_rate_of_decoding_is_what_the_memory_can_read():
    """The paper's model on one GPU of 3.35 TB/s: all weights once a step, and what is cached of each."""
    s = plan.counted(Shape.of(qwen3_14b()), Options(gpus=64, mean_length=4096))
    at_once = s["at_once"]
    step = (2 * 14_768_307_200 + at_once * 163_840 * (256 + 2048)) / 3350e9
    assert s["engine_rate"] == pytest.approx(at_once / step) and 1000 < s["engine_rate"] < 5000
    assert at_once == s["cache_tokens"] / (256 + 4096)


@settings(max_examples=200, deadline=None)
@given(
    gpus=st.sampled_from([1, 2, 3, 8, 64]),
    tp=st.sampled_from([1, 2]),
    memory=st.floats(0.01, 200),
    length=st.integers(1, 30_000),
    checkpointing=st.booleans(),
    offload=st.booleans(),
    micro=st.integers(0, 30_000),
    shape=st.sampled_from([Shape.of(qwen3_14b()), Shape.of(config("llama")), Shape.of(config("qwen3"))]),
)
def test_what_is_advised_is_enough(gpus, tp, memory, length, checkpointing, offload, micro, shape):
    o = Options(max_length=length, gpus=gpus, tensor_parallel=tp if gpus % tp == 0 else 1, gpu_mem=memory * 1e9, gradient_checkpointing=checkpointing, offload=offload, pass_tokens=length + 2048 + micro)  # fmt: skip
    plan.check(shape, o)
    s = plan.counted(shape, o)
    advice = plan.changes(shape, o)
    assert (advice == []) == all(plan.fits(s).values())
    for line in advice:
        if not line.startswith("--"):
            continue
        words = shlex.split(line)
        changed = {}
        while words:
            name = words.pop(0).removeprefix("--").replace("-", "_")
            changed[name] = int(words.pop(0)) if words and not words[0].startswith("--") else True
        other = replace(o, **changed)
        plan.check(shape, other)
        assert all(plan.fits(plan.counted(shape, other)).values()), line
    more = plan.counted(shape, replace(o, gpus=2 * gpus))
    assert gpus == 1 or more["training_peak"] <= s["training_peak"]
    assert more["places"] >= s["places"]


def test_a_run_that_fits_and_one_that_does_not():
    fits = here("--gpus", 1, "--gpu-mem", "24G")
    assert fits.exit_code == 0 and "training: fits" in fits.stdout and "would fit" not in fits.stdout
    assert "134,515,008" in fits.stdout and "23,040 B" in fits.stdout
    tight = here("--gpus", 1, "--gpu-mem", "24G", "--no-gradient-checkpointing", "--pass-tokens", 40_000)
    assert tight.exit_code == 1 and "training: does not fit" in tight.stdout
    advised = re.findall(r"would fit: (.*)", tight.stdout)
    assert advised[0] == "--gradient-checkpointing"
    again = here("--gpus", 1, "--gpu-mem", "24G", "--pass-tokens", 40_000, *shlex.split(advised[0]))
    assert again.exit_code == 0


def test_the_papers_run_on_its_gpus(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(qwen3_14b().to_dict()))
    words = ("--model", tmp_path, "--gpus", 64, "--gpu-mem", "192G", "--tool-rate", 340, "--mean-length", 6144)
    found = run(*words)
    assert all(found["fits"].values()) and found["changes"] == [] and found["uri"] == str(tmp_path)
    assert found["step"]["rollouts"] == 16_384 and found["step"]["tool_calls"] == 45_056
    assert found["engines"]["places"] == (found["engines"]["cache_tokens"] // 16) // 896
    alone = run("--model", tmp_path, "--gpus", 1)
    assert alone["fits"] == {"training": False, "rollout": False} and alone["changes"][0].startswith("--gpus ")


def test_every_number_has_a_formula():
    done = subprocess.run([str(BIN), "plan", "--gpus", "2", "--tool-rate", "100", "--json", "--explain"], capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    parts = [found[name] for name in ("model", "step", "training", "engines", "operations", "time")]
    rows = [row for part in parts for row in part.values()]
    assert len(rows) == 34 and all(row["formula"] and isinstance(row["value"], int | float) for row in rows)
    assert found["model"]["kv_bytes_per_token"]["formula"] == "2 x 30 layers x 3 KV heads x 64 x 2 bytes"
    plain = run("--gpus", 2, "--tool-rate", 100)
    assert all(plain[part][name] == row["value"] for part in ("training", "time") for name, row in found[part].items())
    table = here("--gpus", 2, "--explain")
    assert table.exit_code == 0 and "2 x 30 layers x 3 KV heads x 64 x 2 bytes" in table.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpus", 8, "--tensor-parallel", 3, "--gpus", 9), ""),
        (("--gpus", 8, "--tensor-parallel", 3), "--tensor-parallel 3: expected a divisor of --gpus 8"),
        (("--gpus", 8, "--tensor-parallel", 2), "--tensor-parallel 2: expected a divisor of the model's 3 KV heads"),
        (("--pass-tokens", 14_335), "--pass-tokens 14335: expected 14336 or more"),
        (("--mean-length", 20_000), "expected no more than --max-length"),
        (("--oversample", 0.5), "--oversample"),
        (("--model", "nowhere/"), "nowhere/"),
    ],
)
def test_bad_usage_is_named(words, message):
    told = here(*words)
    assert told.exit_code == (2 if message else 0) and message in told.stderr and "Traceback" not in told.stderr
