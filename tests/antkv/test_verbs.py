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

from antkv import codebook as books_of
from antkv import evaluate, inspect, verbs
from tenfold_shared import BadInput, models


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
    tally.add(evaluate.Window(window.nll + 3000, window.kl, window.top))
    with pytest.raises(BadInput, match="no language model's"):
        tally.figures()


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


def test_plan_knows_an_mlp_by_any_name():
    """OPT says ffn_dim, GPT-2 nothing where it is four times as wide."""
    import transformers

    from antkv.plan import activation_bytes

    made = [
        transformers.OPTConfig(hidden_size=64, ffn_dim=512, num_attention_heads=4, vocab_size=100),
        transformers.GPT2Config(n_embd=64, n_inner=512, n_head=4, vocab_size=100),
        transformers.GPT2Config(n_embd=64, n_head=4, vocab_size=100),
    ]
    assert [activation_bytes(config, 10) for config in made] == [
        2 * 10 * (2 * 64 + 3 * width) + 4 * 100 for width in (512, 512, 256)
    ]


def test_plan_wants_a_size(tmp_path):
    for size in ("80X", "", "-1G"):
        done = antkv("plan", "--model", llama3_8b(tmp_path), "--gpu-mem", size)
        assert done.returncode == 2 and "--gpu-mem" in done.stderr
    done = antkv("plan", "--model", tmp_path / "nothing", "--gpu-mem", "80G")
    assert done.returncode == 2 and "nothing" in done.stderr
    assert "longest" in antkv("plan", "--model", tmp_path, "--gpu-mem", "24GiB", "--batch", 4).stdout


def test_bench_holds_its_result_to_the_dequantised_cache(folder):
    row = told("bench", "--model", folder, "--context", 256, "--bits", "0.375", "--rounds", 1)
    assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=0.02, abs=1e-3) and row["n"] == 256
    assert "multiple of 64" in antkv("bench", "--model", folder, "--context", 200).stderr


def test_bench_tells_the_bytes_it_has_not(folder, monkeypatch):
    """Layers, keys and values, heads, tokens, channels, float32; and the copies of one layer."""
    from antkv import bench
    from tenfold_shared import Missing

    how = {"uri": str(folder), "trust_remote_code": False, "bits": "1", "rope": "pre", "rounds": 1, "as_json": False}
    with pytest.raises(Missing, match=r"--context 100000000000: needs (\d+) bytes of memory") as told:
        bench.run(tokens=100_000_000_000, **how)
    wanted = int(str(told.value).split()[3])
    assert wanted == pytest.approx(1e11 * (2 * 2 * 2 * 16 * (4 + 1 / 8) + 2 * 16 * (8 / 8 + 24)), rel=1e-6)
    assert told.value.code == 3
    monkeypatch.setattr(bench, "available", lambda: 1 << 60)  # what is promised may yet not be had
    with pytest.raises(Missing, match="bytes of memory, which are not to be had"):
        bench.run(tokens=100_000_000_000_000, **how)
    with pytest.raises(BadInput, match="do not divide the model's head_dim 16"):
        monkeypatch.setitem(books_of.NAMED, "1", books_of.Shape(32, 256))
        bench.run(tokens=128, **how)


def test_a_config_is_the_file_that_is_named(tmp_path, monkeypatch):
    """By any name, whatever lies beside it; and no folder is meant by none."""
    llama3_8b(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("other.json", "llama3.conf"):
        (tmp_path / name).write_text(json.dumps(config | {"num_hidden_layers": 7}))
        assert inspect.config_of(str(tmp_path / name)).num_hidden_layers == 7
    assert inspect.config_of(str(tmp_path / "config.json")).num_hidden_layers == 32
    assert inspect.config_of(str(tmp_path)).num_hidden_layers == 32
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="--model: expected one of"):
        inspect.config_of("")
    for text in ("{", "[1]", '{"model_type": "none_such"}', '{"model_type": "llama", "num_hidden_layers": "x"}', "\0"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(BadInput, match=r"bad\.json: no config that transformers knows"):
            inspect.config_of(str(tmp_path / "bad.json"))
    (tmp_path / "code.json").write_text('{"model_type": "none_such", "auto_map": {"AutoConfig": "x.Y"}}')
    with pytest.raises(BadInput, match="Python code of its own, which is not run here"):
        inspect.config_of(str(tmp_path / "code.json"))


def how_of(folder, **change):
    return verbs.How(**{
        "model": str(folder), "length": 128, "windows": 2, "anchors": 0.05, "score": "bound2", "scope": "shared-kv", "window": 16,
        "block": 64, "protocol": "decode", "dtype": "float32", "device": "cpu", "trust_remote_code": False,
        "allow_extrapolation": False, "seed": 0,
    } | change)  # fmt: skip


def seen_by(how):
    """Closed tokens that each query reads, by feeding counts through the rule that the cache's docstring states."""
    closed, read = 0, []
    for start in range(0, how.length, how.block):
        fed = min(start + how.block, how.length)
        read += [closed] * (fed - start)
        while fed - closed >= how.window + how.block:
            closed += how.block
    return read


@pytest.mark.parametrize(
    ("length", "window", "block"), [(128, 16, 64), (130, 16, 64), (194, 16, 64), (100, 0, 8), (90, 33, 16)]
)
def test_what_queries_read_is_told(folder, books, capsys, length, window, block):
    how = how_of(folder, length=length, window=window, block=block)
    read = seen_by(how)
    assert [how.read(at) for at in range(length)] == read
    assert verbs.run_eval([str(folder / "text.txt")], how, str(books["codebook"]), True, True) == 0
    out, err = capsys.readouterr()
    found, none = json.loads(out), not any(read[:-1])
    assert ("none reads a quantised token" in err) == none
    if none:
        assert "--length 130 or more" in err and found["kl"] < 1e-5
    closed = how.closed(length)
    coded = 8 * (found["bytes"]["index"] + found["bytes"]["anchors"]) / closed / (4 * 2 * 16)
    bits = [(read[at] * coded + (at + 1 - read[at]) * (16 + 2 * 32 / (2 * 16))) / (at + 1) for at in range(length - 1)]
    assert found["effective_bits_seen"] == pytest.approx(sum(bits) / len(bits))
    assert found["effective_bits_seen"] > found["effective_bits"]


def test_bits_that_queries_read_of_what_is_kept(folder, books, capsys):
    how = how_of(folder, protocol="prefill", window=None, block=16)
    assert verbs.run_eval([str(folder / "text.txt")], how, str(books["codebook"]), True, True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["effective_bits_seen"] == pytest.approx(
        found["effective_bits"]
    )  # all is closed, and read as it is kept


def test_files_are_looked_at_before_the_model_is_loaded(folder, books, tmp_path, monkeypatch):
    def load(*args, **how):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(models, "load_causal_lm", load)
    monkeypatch.setattr(inspect, "load_causal_lm", load)
    text, nothing = str(folder / "text.txt"), str(tmp_path / "nothing")
    (tmp_path / "bad.jsonl").write_text("{")
    for texts, book, told in (
        ([text, nothing], books["codebook"], "nothing: no such file"),
        ([text], nothing, "nothing: no such file"),
        ([text], text, "not a codebook"),
        ([str(tmp_path / "bad.jsonl")], books["codebook"], r"bad\.jsonl:1: not JSON"),
    ):
        with pytest.raises(BadInput, match=told):
            verbs.run_eval(texts, how_of(folder), str(book), True, True)
        with pytest.raises(BadInput, match=told):
            inspect.anchors_of(
                texts[-1], uri=str(folder), codebook=str(book), anchors=0.01, score="bound2", length=64, dtype="auto",
                device="cpu", trust_remote_code=False, allow_extrapolation=False, seed=0,
            )  # fmt: skip
    with pytest.raises(AssertionError, match="the model is loaded"):
        verbs.run_eval([text], how_of(folder), str(books["codebook"]), True, True)


def test_tables_keep_their_numbers_in_a_pipe(tmp_path, capsys, monkeypatch):
    """Every number whole and on its row's one line; on a terminal that is too narrow, none is cut."""
    from rich.table import Table
    from rich.text import Text

    from tenfold_shared.cli import print_table

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    numbers = [f"{10**at:,}" for at in range(9, 19)]
    table = Table(*(f"longest context of {name}" for name in "abcdefghij"))
    table.add_row(*numbers)
    print_table(table)
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if numbers[0] in line]
    assert all(f" {number} " in row for number in numbers) and "…" not in out
    wide = Table("detail", "count")
    wide.add_row("a sentence of words " * 50, "1,234,567,890")
    print_table(wide)
    out = capsys.readouterr().out
    assert " 1,234,567,890 " in out and max(map(len, out.splitlines())) <= 200
    print_table(Text("a text is wrapped as ever " * 10))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    print_table(table)
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.splitlines())) <= 80


def test_a_codebook_by_any_name_is_inspected(folder, books, tmp_path, capsys):
    import shutil

    from antkv.cli import main

    copy = tmp_path / "codebook"
    shutil.copy(books["codebook"], copy)
    assert inspect.is_codebook(str(copy)) and not inspect.is_codebook(str(folder / "text.txt"))
    (tmp_path / "brace.txt").write_text("12345678{")
    for name in ("brace.txt", "nothing", ".", "-"):
        assert not inspect.is_codebook(str(tmp_path / name) if name != "-" else "-")
    how = {
        "uri": str(folder), "codebook": None, "anchors": 0.01, "score": "bound2", "length": 64, "dtype": "auto", "device": "cpu",
        "trust_remote_code": False, "allow_extrapolation": False, "seed": 0, "as_json": True,
    }  # fmt: skip
    assert inspect.run(str(copy), **how) == 0
    assert json.loads(capsys.readouterr().out)["made"]["rope"] == "pre"
    for verb in ("calibrate", "eval", "compare", "generate", "inspect", "bench"):
        assert "--trust-remote-code" in {name for option in main.commands[verb].params for name in option.opts}, verb
