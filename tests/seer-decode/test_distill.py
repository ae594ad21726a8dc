"""Distillation: the gradients of a plain loop, one layer at a time, packed rows, runs that were killed, two ranks, bad input."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref

import pytest
import torch
from seer_models import BIN, here, seer
from tiny_models import make_lm

from seer_decode import distill, store
from seer_decode.capture import forward
from seer_decode.distill import Ranks, Settings, Trainer
from seer_decode.gate import Gates
from seer_decode.rotate import Unrotated
from seer_decode.truth import sequence_loss
from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import Terminated


class Killed(BaseException):
    """What a kill is to code that catches errors."""


def run(model, out, texts=None, how=None, **change):
    """The verb in this process."""
    shape = {"gate_dim": None, "block": 16, "key_pooling": ("max", "min", "avg"), "query_pooling": "Qproj", "qk_norm": True, "rope": None}  # fmt: skip
    given = {
        "uri": str(model), "shape": shape, "init": None, "chat_template": None, "skip_bad": 0, "dtype": "float32", "device": "cpu",
        "trust_remote_code": False, "save_dtype": "float32", "allow_extrapolation": False, "max_time": None, "output": str(out),
        "overwrite": False, "as_json": False, "quiet": True,
    } | change  # fmt: skip
    how = Settings(**({"steps": 8, "length": 128, "lr": 1e-2, "warmup": 2, "batch_rows": 2} | (how or {})))
    return distill.run([str(text) for text in texts or [model / "text.jsonl"]], how, **given)


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def ids(*shape, seed=0):
    return torch.randint(3, 340, shape, generator=torch.Generator().manual_seed(seed))


def seen(model, sequences):
    """Every layer's features of every sequence, as (layer, number) -> copies."""
    found = {}
    forward(model, sequences, lambda layer, number, f: found.__setitem__((layer, number), (f.queries.clone(), f.keys.clone(), f.scale)))  # fmt: skip
    return found


@pytest.mark.parametrize("kind", ["llama", "sliding"])
def test_a_packed_row_is_its_sequences_alone(kind):
    model = make_lm("llama") if kind == "llama" else sliding()
    three = [ids(40), ids(7, seed=1), ids(33, seed=2)]
    together = seen(model, three)
    assert sorted({number for _, number in together}) == [0, 1, 2]
    for number, one in enumerate(three):
        for (layer, _), features in seen(model, [one]).items():
            for mine, theirs in zip(features[:2], together[layer, number][:2], strict=True):
                assert torch.allclose(mine, theirs, atol=1e-5)
    # And they are the model's own: its cache holds the same keys.
    with torch.no_grad():
        cached = model(three[0][None], use_cache=True).past_key_values
    for layer in sorted({layer for layer, _ in together}):
        if cached.layers[layer].keys.shape[2] == 40:
            assert torch.allclose(cached.layers[layer].keys[0], together[layer, 0][1], atol=1e-5)


def sliding():
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=340, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=8, use_bidirectional_attention=False,
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config).eval()


def test_three_steps_are_those_of_a_plain_loop():
    """All layers' losses summed, one AdamW over all gates, features gathered first."""
    model = make_lm()
    batches = [[[ids(60, seed=3 * s), ids(30, seed=3 * s + 1)], [ids(90, seed=3 * s + 2)]] for s in range(3)]
    how = Settings(steps=3, lr=1e-2, min_lr=1e-3, warmup=1, slice_ratio=0.25)
    trainer = Trainer(model, Gates.of(model.config, seed=1, block=16), how, Ranks())
    told = [trainer.step(batch) for batch in batches]

    gates, turned = Gates.of(model.config, seed=1, block=16), Unrotated(model)
    plain = torch.optim.AdamW(gates.parameters(), lr=1.0, weight_decay=0.0)
    rates = [1e-2, 1e-2, 1e-3]
    for batch, rate, (loss, _) in zip(batches, rates, told, strict=True):
        total = torch.zeros(())
        for row in batch:
            for (layer, _), (q, k, scale) in seen(model, row).items():
                at = torch.arange(q.shape[1])[None]
                before = turned(q[None], at)[0], turned(k[None], at)[0]
                total = total + sequence_loss(gates[layer], *before, q, k, slice_ratio=0.25, attention_scale=scale) / 3
        plain.zero_grad()
        total.backward()
        plain.param_groups[0]["lr"] = rate
        plain.step()
        assert loss == pytest.approx(total.item(), rel=1e-5)
    for (name, mine), theirs in zip(trainer.gates.named_parameters(), gates.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5), name


def test_the_learning_rate():
    how = Settings(steps=10, parts=2, lr=1.0, min_lr=0.1, warmup=4)
    rates = [how.rate(update) for update in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert Settings(steps=1, warmup=20).rate(0) == 1e-3


def test_one_layer_is_held_at_a_time():
    """When a layer is visited nothing of the layers before it is alive."""
    model, held, alive = make_lm(num_hidden_layers=4), [], []

    def visit(layer, number, features):
        alive.append(sum(ref() is not None for ref in held))
        held.extend(weakref.ref(x) for x in (features.queries, features.keys))

    forward(model, [ids(50)], visit)
    assert len(held) == 8 and alive == [0] * 4


@pytest.mark.parametrize(
    "how", [{"rows": 20}, {"rows": 24, "parts": 3, "batch_rows": 1}, {"parts": 2, "batch_rows": 1}]
)
def test_rows_are_drawn_anew_and_alike_in_all_layers(how):
    model = make_lm()
    trainer = Trainer(model, Gates.of(model.config, seed=1, block=16), Settings(steps=4, **how), Ranks())
    rows = {}
    real = distill._Row._rows

    def noted(self, number, tokens, block):
        found = real(self, number, tokens, block)
        rows.setdefault((trainer.done, self.number, number), []).append([part.tolist() for part in found])
        return found

    distill._Row._rows = noted
    try:
        for step in range(2):
            trainer.step([[ids(60, seed=step), ids(40, seed=9)]])
    finally:
        distill._Row._rows = real
    assert len(rows) == 4 and all(one == each[0] for each in rows.values() for one in each)
    assert rows[0, 0, 0] != rows[1, 0, 0]
    for (_, _, number), (parts, *_) in rows.items():
        flat = [t for part in parts for t in part]
        assert (
            len(set(flat)) == len(flat)
            and all(part == sorted(part) for part in parts)
            and len(parts) == how.get("parts", 1)
        )
        assert min(flat) >= 16 and len(flat) == min(how.get("rows", 999), (60, 40)[number] - 16)


def test_the_command_leaves_gates_and_the_base_as_it_was(model, tmp_path, capsys):
    before = digest(model)
    done = seer("distill", model / "text.jsonl", "--model", model, "--block", 16, "--steps", 12, "--length", 256, "--lr", 0.02,
                "--warmup", 1, "-o", tmp_path / "g", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert digest(model) == before
    assert set(digest(tmp_path / "g")) == {"gate.json", "gate.safetensors", "manifest.json"}
    assert not (tmp_path / "g.work").exists() and not list(tmp_path.glob(".*"))
    made = store.describe(tmp_path / "g")
    assert told["nats_last"] < told["nats_first"] and made.training["steps"] == 12 and made.base.weights
    info = json.loads(here("info", tmp_path / "g", "--model", model, "--json").stdout)
    assert info["parameters"] == told["parameters"]
    how = {"steps": 12, "length": 256, "lr": 0.02, "warmup": 1, "batch_rows": 1}
    assert run(model, tmp_path / "g", how=how, dtype="auto", save_dtype="bfloat16", quiet=False) == 0
    assert "complete already" in capsys.readouterr().err
    with pytest.raises(BadInput, match="--steps 12, this one has 13"):
        run(model, tmp_path / "g", how=how | {"steps": 13}, dtype="auto", save_dtype="bfloat16")


@pytest.mark.parametrize("how", [{}, {"rows": 24, "parts": 2, "batch_rows": 1}], ids=["plain", "parts"])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_killed_run_goes_on_to_the_same_bytes(model, tmp_path, monkeypatch, how, at):
    assert run(model, tmp_path / "whole", how=how) == 0
    real, steps = Trainer.step, []

    def dying(self, batch):
        steps.append(self.done)
        if len(steps) == at:
            raise Killed
        return real(self, batch)

    monkeypatch.setattr(distill, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(Killed):
        run(model, tmp_path / "cut", how=how)
    assert not (tmp_path / "cut").exists() and (tmp_path / "cut.work").is_dir() == (
        at > 1
    )  # nothing of nothing is kept
    monkeypatch.setattr(Trainer, "step", real)
    if at > 1:
        with pytest.raises(BadInput, match="an unfinished run was made with --lr"):
            run(model, tmp_path / "cut", how=how | {"lr": 0.5})
    assert run(model, tmp_path / "cut", how=how) == 0
    one, two = digest(tmp_path / "whole"), digest(tmp_path / "cut")
    assert one["gate.safetensors"] == two["gate.safetensors"] and one["gate.json"] == two["gate.json"]
    assert not (tmp_path / "cut.work").exists()


def test_a_state_that_is_damaged_begins_again(model, tmp_path, monkeypatch, capsys):
    assert run(model, tmp_path / "whole") == 0
    assert run(model, tmp_path / "cut", max_time=1e-9) == 1
    assert "out of time after 1 of 8 steps" in capsys.readouterr().err
    state = tmp_path / "cut.work" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    assert run(model, tmp_path / "cut") == 0
    assert "starting again" in capsys.readouterr().err
    assert digest(tmp_path / "whole")["gate.safetensors"] == digest(tmp_path / "cut")["gate.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_its_step_and_saves_it(model, tmp_path, monkeypatch, number):
    assert run(model, tmp_path / "whole") == 0
    real = Trainer.step

    def interrupted(self, batch):
        if self.done == 3:
            os.kill(os.getpid(), number)
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises((KeyboardInterrupt, Terminated)):
        run(model, tmp_path / "cut")
    monkeypatch.setattr(Trainer, "step", real)
    done, losses, _ = distill.Work(tmp_path / "cut").load()
    assert done == 4 and len(losses) == 4
    assert run(model, tmp_path / "cut") == 0
    assert digest(tmp_path / "whole")["gate.safetensors"] == digest(tmp_path / "cut")["gate.safetensors"]


def test_sigkill_and_a_second_start(model, tmp_path):
    """A real kill at some moment, a lock that a living run holds, the same gates in the end."""
    how = [
        "distill",
        model / "text.jsonl",
        "--model",
        model,
        "--block",
        "16",
        "--steps",
        "60",
        "--length",
        "256",
        "-q",
    ]
    code = "import seer_decode.distill as d, sys; d.SAVE_EVERY_S = 0.0\nfrom seer_decode.cli import main\nmain(sys.argv[1:])"
    started = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, how), "-o", str(tmp_path / "g")], stderr=subprocess.PIPE
    )
    state = tmp_path / "g.work" / "state.safetensors"
    until = time.monotonic() + 100
    while not state.exists() and started.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert here(*how, "-o", tmp_path / "g").returncode == 75
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "g").exists()
    assert here(*how, "-o", tmp_path / "g").returncode == 0
    assert here(*how, "-o", tmp_path / "whole").returncode == 0
    assert digest(tmp_path / "g")["gate.safetensors"] == digest(tmp_path / "whole")["gate.safetensors"]


def test_two_ranks_are_one(model, tmp_path):
    """torchrun's environment, gloo: each reads its rows of a batch, and the gates are one process's."""
    how = ["distill", str(model / "text.jsonl"), "--model", str(model), "--block", "16", "--steps", "4", "--length", "128",
           "--batch-rows", "2", "--save-dtype", "float32", "--dtype", "float32", "-q"]  # fmt: skip
    assert here(*how, "-o", tmp_path / "one").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [str(BIN), *how, "-o", str(tmp_path / "two")], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank in ranks:
        _, err = rank.communicate(timeout=120)
        assert rank.returncode == 0, err
    one, two = (store.load(tmp_path / name).gates for name in ("one", "two"))
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def test_a_run_whose_rows_have_no_target_goes_on_too(model, tmp_path):
    how = {"slice_ratio": 0.0, "length": 17, "steps": 4, "batch_rows": 1}
    assert run(model, tmp_path / "g", how=how | {"rows": 1}, max_time=1e-9) == 1
    (tmp_path / "g.work" / ".state.safetensors.tmp").write_bytes(b"half")
    assert run(model, tmp_path / "g", how=how | {"rows": 1}) == 0 and not (tmp_path / "g.work").exists()
    (tmp_path / "h.work").mkdir()
    (tmp_path / "h.work" / ".state.safetensors.tmp").write_bytes(b"half")
    assert run(model, tmp_path / "h", how=how) == 0 and not (tmp_path / "h.work").exists()


def test_gates_go_on_from_others(model, gates, tmp_path):
    assert run(model, tmp_path / "g", init=str(gates / "16"), how={"steps": 1, "lr": 1e-9, "min_lr": 0.0}) == 0
    one, two = store.load(gates / "16").gates, store.load(tmp_path / "g").gates
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a.float(), b, atol=1e-6)
    with pytest.raises(BadInput, match=r"--init .*: has qk_norm True, and False is asked for"):
        run(model, tmp_path / "h", init=str(gates / "16"), shape={"gate_dim": None, "block": 16, "qk_norm": False})


@pytest.mark.parametrize(
    ("change", "how", "why"),
    [
        ({"output": None}, {}, "expected -o GATE"),
        ({"output": "/nowhere/at/all"}, {}, "does not exist"),
        ({}, {"length": 4096}, "the model has 2048 positions"),
        ({}, {"parts": 2}, "--parts 2: expected --batch-rows 1"),
        ({}, {"length": 16}, "expected more than a block of 16 tokens"),
        ({"chat_template": "/nowhere.jinja"}, {}, "no such file"),
        ({"init": "/nowhere"}, {}, "no such f"),
    ],
)
def test_what_it_refuses(model, tmp_path, change, how, why):
    with pytest.raises(BadInput, match=why):
        run(model, **({"out": tmp_path / "g"} | ({} if "output" not in change else {"out": ""}) | change), how=how)
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way(model, tmp_path, monkeypatch):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "mine.txt").write_text("a user's")
    with pytest.raises(BadInput, match="no manifest says what made it"):
        run(model, tmp_path / "g")
    with pytest.raises(BadInput, match=r"holds mine\.txt"):
        run(model, tmp_path / "g", overwrite=True)
    (tmp_path / "h.work").mkdir()
    (tmp_path / "h.work" / "mine.txt").write_text("a user's")
    with pytest.raises(BadInput, match="holds other things"):
        run(model, tmp_path / "h")
    monkeypatch.setattr(distill.needs, "available", lambda device: 1000)
    with pytest.raises(Missing, match=r"distill: needs .* GiB more memory, .* a smaller --length"):
        run(model, tmp_path / "i")


def test_a_model_whose_numbers_are_none(model, tmp_path, monkeypatch):
    real = distill.load_causal_lm

    def broken(*args, **kwargs):
        lm, tokenizer = real(*args, **kwargs)
        lm.model.layers[0].self_attn.k_proj.weight.data.fill_(float("nan"))
        return lm, tokenizer

    monkeypatch.setattr(distill, "load_causal_lm", broken)
    with pytest.raises(BadInput, match="step 1: the loss is nan"):
        run(model, tmp_path / "g")
