"""The verbs on a tiny model through the installed command: figures that can be computed otherwise, and bad input."""

import json
import math
import os
import signal
import subprocess
import time

import pytest
import torch
from ant_models import BIN, antkv

from antkv import evaluate


def told(*args):
    done = antkv(*args, "--json", "-q")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def evaluated(folder, books, *more):
    return told("eval", folder / "text.txt", "--model", folder, "--codebook", books["codebook"], "--length", 128, "--windows", 6, "--block", 16, *more)  # fmt: skip


@torch.inference_mode()
def perplexity(folder, length, count):
    """By the definition: mean NLL of the L − 1 predicted tokens of each window, exp."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer((folder / "text.txt").read_text())["input_ids"]
    losses = []
    for at in range(count):
        window = torch.tensor([ids[at * length : (at + 1) * length]])
        losses.append(float(model(input_ids=window, labels=window).loss))
    return math.exp(sum(losses) / count)


def test_all_anchors_are_the_exact_model(folder, books):
    found = evaluated(folder, books, "--anchors", 1, "--window", 16)
    truth = perplexity(folder, 128, 6)
    assert found["exact"]["ppl"] == pytest.approx(truth, rel=1e-4) and found["ppl"] == pytest.approx(truth, rel=1e-3)
    assert found["kl"] < 1e-4 and found["top1_agreement"] > 0.99 and found["tokens"] == 6 * 127


def test_bits_are_the_caches_own(folder, books):
    found = evaluated(folder, books, "--anchors", 0.05, "--window", 16)
    closed, anchors = 112, math.ceil(0.05 * 112)
    lists, dim = 2 * 2, 16  # layers, stored heads
    expected = {
        "index": lists * 2 * closed * 4 * 4 // 8,
        "anchors": lists * anchors * (4 * dim + 4),
        "window": lists * 16 * (4 * dim + 8),
    }
    numbers = 2 * lists * 128 * dim
    assert found["bytes"] == expected
    assert found["effective_bits"] == pytest.approx(8 * sum(expected.values()) / numbers)
    assert found["total_bits"] == pytest.approx(found["effective_bits"] + 8 * found["codebook_bytes"] / (6 * numbers))
    assert found["index_bits"] == 1.0 and found["codebook_bytes"] == lists * 2 * 4 * 16 * 4 * 2


def test_protocols_differ_and_their_windows_do(folder, books):
    decode, prefill = evaluated(folder, books), evaluated(folder, books, "--protocol", "prefill")
    assert (decode["window"], prefill["window"]) == (128, 0)
    assert prefill["kl"] > decode["kl"]
    assert prefill["effective_bits"] < decode["effective_bits"]


def test_windows_too_short_to_quantise_are_told(folder, books):
    done = antkv(
        "eval", folder / "text.txt", "--model", folder, "--codebook", books["codebook"], "--length", 64, "--windows", 1
    )
    assert done.returncode == 0 and "nothing is quantised" in done.stderr
    assert "ppl" in done.stdout and "bits a number" in done.stdout


def test_figures_by_hand():
    draw = torch.Generator().manual_seed(0)
    exact, packed = (torch.randn(5, 7, generator=draw) for _ in range(2))
    ids = torch.tensor([1, 2, 3, 4, 5])
    window = evaluate.compared(exact, packed, ids)
    p, q = exact[:-1].double().softmax(-1), packed[:-1].double().softmax(-1)
    assert torch.allclose(window.nll, -q[torch.arange(4), ids[1:]].log(), atol=1e-5)
    assert torch.allclose(window.kl, (p * (p / q).log()).sum(-1), atol=1e-5)
    assert window.top.tolist() == [float(a == b) for a, b in zip(p.argmax(-1), q.argmax(-1), strict=True)]
    tally, other = evaluate.Tally(), evaluate.Tally()
    for shift in (0.0, 1.0, 3.0):
        tally.add(evaluate.Window(window.nll + shift, window.kl, window.top))
        other.add(window)
    assert tally.against(other)["nll_difference"] == pytest.approx(4 / 3)
    assert tally.against(other)["stderr"] == pytest.approx(
        math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2 / 3)
    )
    assert tally.figures()["ppl"] == pytest.approx(math.exp(float(window.nll.mean()) + 4 / 3))


def test_compare_runs_all_methods_on_equal_windows(folder, books, tmp_path):
    found = told(
        "compare", folder / "text.txt", "--model", folder, "--codebook", books["codebook"], "--plain-codebook", books["plain"],
        "--length", 256, "--windows", 3, "--window", 32, "--block", 32, "--anchors", 0.03, "--methods",
        "antkv,vq,cq,kvquant,evict", "--plot", tmp_path / "p.png",
    )  # fmt: skip
    rows = {row["method"]: row for row in found["methods"]}
    assert (
        list(rows) == ["exact", "antkv", "vq", "cq", "kvquant", "evict"] and (tmp_path / "p.png").stat().st_size > 1000
    )
    assert rows["exact"]["kl"] == 0 and rows["exact"]["effective_bits"] is None
    assert rows["vq"]["effective_bits"] >= rows["antkv"]["effective_bits"] > rows["cq"]["effective_bits"]
    assert rows["evict"]["effective_bits"] == pytest.approx(rows["antkv"]["effective_bits"], rel=0.12)
    assert rows["evict"]["effective_bits"] <= rows["antkv"]["effective_bits"]
    for row in rows.values():
        assert row["tokens"] == 3 * 255 and row["against_antkv"]["nll_difference"] == pytest.approx(
            row["nll"] - rows["antkv"]["nll"], abs=1e-9
        )
    table = antkv(
        "compare", folder / "text.txt", "--model", folder, "--codebook", books["codebook"], "--length", 128, "--windows", 2,
        "--window", 16, "--block", 16, "--methods", "antkv,evict",
    )  # fmt: skip
    assert table.returncode == 0 and "evict" in table.stdout


def test_compare_says_what_it_needs(folder, books):
    base = [
        "compare",
        folder / "text.txt",
        "--model",
        folder,
        "--codebook",
        books["codebook"],
        "--length",
        128,
        "--windows",
        1,
    ]
    assert "--plain-codebook" in antkv(*base, "--methods", "vq").stderr
    assert "expected some of" in antkv(*base, "--methods", "kivvi").stderr


def generate(folder, books, tasks, *more):
    return antkv(
        "generate", tasks, "--model", folder, "--codebook", books["codebook"], "--max-tokens", 40, "--window", 16, "--block", 16, *more
    )  # fmt: skip


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"id": f"t{i}", "prompt": "the old bridge over " * (3 + i)} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_generate_with_all_kept_is_greedy_decoding(folder, books, tasks):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = generate(folder, books, tasks, "--anchors", 1, "-q")
    assert done.returncode == 0, done.stderr
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for line in done.stdout.splitlines():
        sample = json.loads(line)
        ids = torch.tensor([tokenizer(sample["prompt"])["input_ids"]])
        out = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
        assert sample["response"] == tokenizer.decode(out, skip_special_tokens=True)
        assert sample["usage"] == {"prompt_tokens": ids.shape[1], "completion_tokens": 40}
        assert sample["finish_reason"] == "length" and sample["meta"]["antkv"]["effective_bits"] > 16


def test_generate_goes_on_after_a_kill(folder, books, tasks, tmp_path):
    whole = generate(folder, books, tasks, "-q", "--temperature", 0.7, "-o", tmp_path / "whole.jsonl")
    assert whole.returncode == 0, whole.stderr
    words = [
        "generate", tasks, "--model", folder, "--codebook", books["codebook"], "--max-tokens", 40, "--window", 16, "--block", 16,
        "--temperature", 0.7, "-o", tmp_path / "cut.jsonl", "-q",
    ]  # fmt: skip
    run = subprocess.Popen([str(BIN), *map(str, words)], stderr=subprocess.DEVNULL)
    journal = tmp_path / "cut.jsonl.journal"
    deadline = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < deadline:
        if any(p.name.startswith(".cut.jsonl") or p == journal for p in tmp_path.iterdir() if p.stat().st_size > 600):
            os.kill(run.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    run.wait()
    assert antkv(*words).returncode == 0
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_prompts_that_cannot_be_done_are_told_of(folder, books, tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [
        {"id": "long", "prompt": "river " * 600},
        {"id": "chat", "messages": [{"role": "user", "content": "the light"}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = generate(folder, books, path, "-q")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (
        done.returncode == 1
        and "exceed the model's 512 positions" in first["error"]
        and second["usage"]["prompt_tokens"] == 2
    )


def test_inspect_a_codebook_and_a_text(folder, books):
    found = told("inspect", books["codebook"])
    assert found["made"]["rope"] == "pre" and len(found["layers"]) == 2 and found["index_bits"] == 1.0
    seen = told(
        "inspect",
        folder / "text.txt",
        "--model",
        folder,
        "--codebook",
        books["codebook"],
        "--length",
        64,
        "--anchors",
        0.05,
    )
    assert seen["anchors_a_head"] == 4 and seen["lists"] == 4 and sum(row["lists"] for row in seen["anchors"]) == 16
    assert all(0 <= row["keys_error"] < 1 for row in seen["layers"])
    sinks = told(
        "inspect", folder / "text.txt", "--model", folder, "--score", "sink", "--anchors", 0.05, "--length", 64
    )
    assert {row["position"] for row in sinks["anchors"]} == {0, 1, 2, 3}
    assert "anchors in each" in antkv("inspect", folder / "text.txt", "--model", folder, "--length", 32).stdout
    assert "keys pre-RoPE" in antkv("inspect", books["codebook"]).stdout
    assert "needs --codebook" in antkv("inspect", folder / "text.txt", "--model", folder, "--score", "error").stderr


def test_bad_evaluations_are_named(folder, books, tmp_path):
    base = ["eval", folder / "text.txt", "--model", folder, "--codebook", books["codebook"]]
    assert "512 positions; --allow-extrapolation" in antkv(*base, "--length", 1024, "--windows", 1).stderr
    assert "multiple of 8" in antkv(*base, "--length", 128, "--windows", 1, "--block", 9).stderr
    (tmp_path / "short.txt").write_text("the river")
    done = antkv("eval", tmp_path / "short.txt", *base[2:], "--length", 128)
    assert done.returncode == 2 and "2 tokens, less than one window" in done.stderr
    other = antkv("eval", folder / "text.txt", "--codebook", books["codebook"], "--length", 128, "--windows", 1)
    assert other.returncode == 2 and "was made for a model with" in other.stderr


def llama3_8b(folder):
    import transformers

    transformers.LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=8192, tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_plan_is_the_references_arithmetic(tmp_path):
    """840,000 tokens of LLaMA-3-8B: 102.5 GiB in 16 bits; 6.41 GiB of 1-bit indices and 1.03 GiB of anchors."""
    rows = told("plan", "--model", llama3_8b(tmp_path), "--gpu-mem", "80G", "--context", 840000)
    by = {row["bits"]: row for row in rows}
    gib = 2**30
    assert by[16]["bytes"]["weights"] == pytest.approx(16.06e9, rel=1e-3)
    assert by[16]["bytes"]["index"] / gib == pytest.approx(102.5, abs=0.1) and not by[16]["cache_fits"]
    assert by[1]["bytes"]["index"] / gib == pytest.approx(6.41, abs=0.01) and by[1]["cache_fits"]
    assert by[1]["bytes"]["anchors"] / gib == pytest.approx(1.03, abs=0.02)
    assert by[0.375]["bytes"]["index"] / gib == pytest.approx(2.40, abs=0.01)
    assert by[1]["bytes"]["codebooks"] == 32 * 2**20 and by[0.75]["bytes"]["codebooks"] == 512 * 2**20
    assert by[0.375]["bytes"]["codebooks"] == 8 * 2**20
    assert by[1]["prefill_fits"] == {"whole": False, "in_chunks": True, "chunk": 4096}
    assert by[1]["max_context"] > 5_000_000 > by[16]["max_context"] and by[1]["max_batch"] >= 1
    contexts = [row["max_context"] for row in rows]
    assert contexts == sorted(contexts)


def test_plan_wants_a_size(tmp_path):
    for size in ("80X", "", "-1G"):
        done = antkv("plan", "--model", llama3_8b(tmp_path), "--gpu-mem", size)
        assert done.returncode == 2 and "--gpu-mem" in done.stderr
    done = antkv("plan", "--model", tmp_path / "nothing", "--gpu-mem", "80G")
    assert done.returncode == 2 and "nothing" in done.stderr
    assert "longest" in antkv("plan", "--model", tmp_path, "--gpu-mem", "24GiB", "--batch", 4).stdout


def test_bench_holds_its_result_to_the_dequantised_cache(folder):
    row = told("bench", "--model", folder, "--tokens", 256, "--bits", "0.375", "--rounds", 1)
    assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=0.02, abs=1e-3) and row["n"] == 256
    assert "multiple of 64" in antkv("bench", "--model", folder, "--tokens", 200).stderr
