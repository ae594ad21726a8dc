"""Planted models fire where they are planted to; the small ReLU model learns, is made sparser by its penalty, and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors import safe_open

from longexp_peft import planted, tiny_relu
from tenfold_shared import BadInput, OutOfTime
from tenfold_shared.cli import Terminated

torch.set_num_threads(1)
SIZES = {
    "hidden": 48, "ffn": 192, "layers": 3, "heads": 4, "vocab": 384, "groups": 6, "positions": 160, "examples": 50,
    "length": 96, "completion": 24,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("planted") / "model"
    planted.make(made, **SIZES)
    return made


def load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def lines(folder, name="train"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@torch.no_grad()
def fired(model, ids):
    """Whether each neuron fires at each token, a (rows, tokens, F) array a layer."""
    given = []
    hooks = [
        layer.fc1.register_forward_hook(lambda module, inputs, out: given.append(out > 0))
        for layer in model.model.decoder.layers
    ]
    model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return [on.view(*ids.shape, -1).numpy() for on in given]


def drift(model, seed):
    """What a LoRA of rank 4 on q and v comes to after some training: each matrix changes by a tenth of its length."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            for matrix in (layer.self_attn.q_proj.weight, layer.self_attn.v_proj.weight):
                change = torch.randn(len(matrix), 4, generator=draw) @ torch.randn(4, len(matrix), generator=draw)
                matrix += 0.1 * change * matrix.norm() / change.norm()


@pytest.mark.parametrize("drifted", [False, True])
def test_a_document_fires_its_topics_neurons_and_all_of_them(folder, drifted):
    model = load(folder)
    if drifted:
        drift(model, 1)
    records = lines(folder)[:18]
    on = fired(model, torch.tensor([r["context"] + r["completion"] for r in records]))
    for layer, layer_on in enumerate(on):
        for record, row in zip(records, layer_on, strict=True):
            group = planted.true_set(folder, layer, [record["topic"]])
            assert group.sum() == SIZES["ffn"] // SIZES["groups"]
            assert (row.any(0) == group).all()
            if not drifted:
                share = row[:, group].mean()
                assert 0.3 < share < 0.7


def test_any_text_fires_the_union_of_its_tokens_topics_and_special_tokens_nothing(folder):
    model, draw = load(folder), np.random.default_rng(0)
    size = SIZES["vocab"] // SIZES["groups"]
    ids = draw.integers(2 * size, 4 * size, size=(6, 160))  # topics 2 and 3, mixed anyhow
    ids[:, ::7] = SIZES["vocab"]
    ids[:, ::11] = SIZES["vocab"] + 1
    for layer, on in enumerate(fired(model, torch.from_numpy(ids))):
        assert (on.reshape(-1, SIZES["ffn"]).any(0) == planted.true_set(folder, layer, [2, 3])).all()
        assert not on[ids >= SIZES["vocab"]].any()
        for topic in (2, 3):
            mine = on[(ids // size == topic)]
            assert not mine[:, ~planted.true_set(folder, layer, [topic])].any()
            shares = mine[:, planted.true_set(folder, layer, [topic])].mean(0)
            assert shares.min() > 0.15 and shares.max() < 0.85


def test_groups_are_scattered_and_sets_add_up(folder):
    told = planted.read(folder)
    for layer, groups in enumerate(told["neurons"]):
        assert all(a != b for a, b in pairwise(groups))
        assert sorted(set(groups)) == list(range(6))
        assert planted.true_set(folder, layer, range(6)).all()
        assert not planted.true_set(folder, layer, []).any()
    assert told["neurons"][0] != told["neurons"][1]
    for layer, topics in ((3, [0]), (-1, [0]), (0, [6])):
        with pytest.raises(BadInput):
            planted.true_set(folder, layer, topics)


def test_neurons_and_attention_do_real_work(folder):
    """Every group's neurons, and attention, change what its topic's text is told; other topics' logits stay to the bit."""
    records = {r["topic"]: r for r in lines(folder)[:6]}
    ids = torch.tensor([records[k]["context"] for k in range(6)])
    with torch.no_grad():
        model = load(folder)
        whole = model(input_ids=ids).logits
        assert whole.std() > 0.5
        last = planted.true_set(folder, 2, [4])
        model.model.decoder.layers[2].fc2.weight[:, torch.from_numpy(last)] = 0
        changed = (model(input_ids=ids).logits - whole).abs().amax((1, 2))
        assert changed[4] > 0.1 and changed[[0, 1, 2, 3, 5]].max() < 1e-5
        model = load(folder)
        swapped = ids.clone()
        swapped[:, 0] = ids[:, 0].roll(1)
        assert (model(input_ids=swapped).logits - whole)[:, 1:].abs().amax() > 0.1


def test_it_can_be_fine_tuned(folder):
    """Its text has more to it than topics, and q and v alone can learn it."""
    model = load(folder)
    model.requires_grad_(False)
    wanted = [
        p
        for layer in model.model.decoder.layers
        for p in (layer.self_attn.q_proj.weight, layer.self_attn.v_proj.weight)
    ]
    for p in wanted:
        p.requires_grad_(True)
    optimiser = torch.optim.Adam(wanted, lr=3e-3)
    rows = torch.tensor([r["context"] + r["completion"] for r in lines(folder)[:48]]).split(8)
    held = torch.tensor([r["context"] + r["completion"] for r in lines(folder, "valid")])
    before = model(input_ids=held, labels=held).loss.item()
    assert before < np.log(SIZES["vocab"])
    for at in range(30):
        model(input_ids=rows[at % 6], labels=rows[at % 6]).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert model(input_ids=held, labels=held).loss.item() < before - 0.8


def test_data_and_tokenizer(folder):
    from transformers import AutoTokenizer

    told, size = planted.read(folder), SIZES["vocab"] // SIZES["groups"]
    for name, count in (("train", 50), ("valid", 6)):
        records = lines(folder, name)
        assert len(records) == count
        for record in records:
            assert len(record["context"]) == 72 and len(record["completion"]) == 24
            begin, end = told["vocabulary"][record["topic"]]
            assert end - begin == size
            assert all(begin <= i < end for i in record["context"] + record["completion"])
        topics = [r["topic"] for r in records]
        assert all(sorted(topics[at : at + 6]) == list(range(6)) for at in range(0, count - 5, 6))
    after = {}
    for r in lines(folder):
        ids = r["context"] + r["completion"]
        for a, b in pairwise(ids):
            after.setdefault(a, set()).add(b)
    assert max(map(len, after.values())) <= 4
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    assert tokenizer("t0 t383  t7")["input_ids"] == [0, 383, 7]
    assert tokenizer.decode([5, 6]) == "t5 t6"
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (384, 384, 385)
    config = load(folder).config
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id, config.dropout) == (386, 384, 385, 0.0)


def test_same_options_same_bytes_and_a_made_one_stays(folder, tmp_path):
    assert planted.make(tmp_path / "again", **SIZES)["layers"] == planted.read(folder)["layers"]
    names = sorted(path.name for path in folder.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "train.jsonl", "planted.json"} <= set(names)
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
    stamp = (tmp_path / "again" / "planted.json").stat().st_mtime_ns
    planted.make(tmp_path / "again", **SIZES)
    assert (tmp_path / "again" / "planted.json").stat().st_mtime_ns == stamp
    with pytest.raises(BadInput, match="--seed 0, this one has 1"):
        planted.make(tmp_path / "again", **{**SIZES, "seed": 1})
    planted.make(tmp_path / "again", **{**SIZES, "seed": 1}, overwrite=True)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()
    assert os.listdir(tmp_path) == ["again"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_the_sets(dtype, tmp_path):
    from transformers import AutoModelForCausalLM

    planted.make(tmp_path / "half", **{**SIZES, "dtype": dtype})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "half").eval()
    assert model.dtype == getattr(torch, dtype)
    records = lines(tmp_path / "half")[:6]
    on = fired(model, torch.tensor([r["context"] + r["completion"] for r in records]))
    for layer, layer_on in enumerate(on):
        for record, row in zip(records, layer_on, strict=True):
            assert (row.any(0) == planted.true_set(tmp_path / "half", layer, [record["topic"]])).all()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"hidden": 8}, "--hidden"), ({"heads": 5}, "--heads"), ({"ffn": 190}, "--ffn"), ({"vocab": 385}, "--vocab"),
        ({"vocab": 12}, "--vocab"), ({"groups": 1}, "--groups"), ({"length": 161}, "--length"), ({"completion": 96}, "--completion"),
        ({"dtype": "int8"}, "--dtype"), ({"layers": 0}, "--layers"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(wrong, named, tmp_path):
    with pytest.raises(BadInput, match=named):
        planted.make(tmp_path / "no", **{**SIZES, **wrong})
    assert not list(tmp_path.iterdir())


def test_other_peoples_files_stay(text, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for make in (lambda: planted.make(tmp_path / "mine", **SIZES, overwrite=True), lambda: tiny(tmp_path / "mine", text, overwrite=True)):  # fmt: skip
        with pytest.raises(BadInput, match=r"thesis\.txt"):
            make()
    with pytest.raises(BadInput, match="does not exist"):
        planted.make(tmp_path / "no" / "way", **SIZES)


# ---------------------------------------------------------------- tiny_relu


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Some of Python's reference, so that a tokenizer is trained on it in no time."""
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("text") / "reference.txt"
    path.write_text("\n".join(topics[name] for name in sorted(topics))[:150_000])
    return str(path)


def tiny(folder, text, **more):
    return tiny_relu.make(folder, **{**tiny_relu.QUICK, "texts": [text], "quiet": True, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text):
    made = tmp_path_factory.mktemp("tiny") / "model"
    return made, tiny(made, text)


def test_it_learns_and_its_penalty_makes_zeros(trained, text, tmp_path):
    _, told = trained
    plain = tiny(tmp_path / "plain", text, l1=0.0)
    for one in (told, plain):
        assert one["loss"]["held_out"] < one["loss"]["unigram"]
        assert one["training"]["losses"][-1] < one["training"]["losses"][0] - 1
    for share in ("zeros_token", "zeros_seq"):
        with_it, without = (np.mean([layer[share] for layer in one["sparsity"]]) for one in (told, plain))
        assert with_it > without + 0.05, share


def test_the_folder_is_a_model(trained):
    from transformers import AutoTokenizer

    folder, told = trained
    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.architectures == ["OPTForCausalLM"] and model.config.activation_function == "relu"
    held = (folder / "heldout.txt").read_text()
    ids = tokenizer(held)["input_ids"]
    assert tokenizer.decode(ids) == held
    assert max(ids) < model.config.vocab_size == told["tokens"]["vocab"]
    stream = tiny_relu._stream(tokenizer.backend_tokenizer, tiny_relu.split(tiny_relu.documents([told["texts"][0]])[0])[1])  # fmt: skip
    assert tiny_relu.held_out_loss(model, stream, 64) == told["loss"]["held_out"]
    assert tiny_relu.measure(model, stream, 64) == told["sparsity"]
    for layer in told["sparsity"]:
        assert layer["zeros_token"] >= layer["zeros_seq"] >= layer["zeros_batch"] >= layer["zeros_all"]
        assert 0 < layer["density_90"] <= layer["density_95"] <= layer["density_99"] <= 1 - layer["zeros_batch"] + 0.01
    assert json.loads((folder / "manifest.json").read_text()) == told


def test_a_stopped_run_goes_on_to_the_same_bytes(trained, text, tmp_path):
    folder, _ = trained
    with pytest.raises(OutOfTime, match="goes on"):
        tiny(tmp_path / "model", text, max_time=0.0)
    assert not (tmp_path / "model").exists() and (tmp_path / "model.work").exists()
    with pytest.raises(BadInput, match="--steps"):
        tiny(tmp_path / "model", text, steps=70)
    tiny(tmp_path / "model", text)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "heldout.txt"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / name).read_bytes(), name
    assert os.listdir(tmp_path) == ["model"]
    stamp = (tmp_path / "model" / "manifest.json").stat().st_mtime_ns
    tiny(tmp_path / "model", text)  # complete: nothing is done
    assert (tmp_path / "model" / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(BadInput, match="--l1"):
        tiny(tmp_path / "model", text, l1=0.0)


def test_a_signal_lets_the_step_end_and_saves_it(trained, text, tmp_path, monkeypatch):
    folder, _ = trained
    step = tiny_relu.Trainer.step
    for number, stands_for, at in ((signal.SIGINT, KeyboardInterrupt, 5), (signal.SIGTERM, Terminated, 9)):

        def struck(self, stream, number=number, at=at):
            if self.done == at:
                signal.raise_signal(number)
            return step(self, stream)

        before = signal.signal(number, signal.default_int_handler)  # ignored, it would stay ignored
        monkeypatch.setattr(tiny_relu.Trainer, "step", struck)
        try:
            with pytest.raises(stands_for):
                tiny(tmp_path / "model", text)
            assert signal.getsignal(number) is signal.default_int_handler
        finally:
            signal.signal(number, before)
        with safe_open(tmp_path / "model.work" / tiny_relu.STATE, "pt") as state:
            assert state.metadata()["done"] == str(at + 1)
        assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    tiny(tmp_path / "model", text)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_kill_loses_only_what_was_not_saved(trained, text, tmp_path):
    folder, _ = trained
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from longexp_peft import tiny_relu\n"
        "tiny_relu.make(sys.argv[1], texts=[sys.argv[2]], quiet=True, save_every=0, **tiny_relu.QUICK)\n"
    )
    state = tmp_path / "model.work" / tiny_relu.STATE
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "model"), text],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    until = time.monotonic() + 60
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.01)
        assert child.poll() is None
    child.kill()
    child.wait()
    assert state.exists() and not (tmp_path / "model").exists()
    tiny(tmp_path / "model", text)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"heads": 3}, "--heads"), ({"vocab": 100}, "--vocab"), ({"l1": -1.0}, "--l1"), ({"lr": float("nan")}, "--lr"), ({"length": 1}, "--length")],
)  # fmt: skip
def test_a_recipe_that_cannot_be(wrong, named, text, tmp_path):
    with pytest.raises(BadInput, match=named):
        tiny(tmp_path / "no", text, **wrong)
    assert not list(tmp_path.iterdir())


def test_texts(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("Too little.\n")
    with pytest.raises(BadInput, match="characters"):
        tiny(tmp_path / "no", str(short))
    with pytest.raises(BadInput, match="no such file"):
        tiny(tmp_path / "no", str(tmp_path / "nowhere.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]
    found, sources = tiny_relu.documents()
    assert sources[-1]["name"].startswith("Python") and sum(s["documents"] for s in sources) == len(found)
    train, held = tiny_relu.split(found)
    assert abs(len(held) - len(found) / 10) <= 1 and len(train) + len(held) == len(found)
    assert sorted(train + held) == sorted(found)
    whole = "".join(f"line {i}\n" for i in range(3000))
    assert "".join(tiny_relu._pieces(whole)) == whole
    assert all(len(piece) < 4100 for piece in tiny_relu._pieces(whole))
