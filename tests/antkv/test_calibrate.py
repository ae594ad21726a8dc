"""Calibration against the models' own states and the cache's own anchors; texts and models that it must refuse."""

import argparse
import gzip
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from ant_models import antkv, codebook, tiny
from calibrated import model_folder, run

from antkv import anchors, calibrate, text
from antkv import codebook as books
from antkv.cache import AntCache, Settings, attached
from antkv.layers import named
from tenfold_shared import BadInput
from tenfold_shared.models import load_causal_lm

GEMMA = {
    "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "query_pre_attn_scalar": 16,
    "use_bidirectional_attention": False,
}  # fmt: skip


@pytest.fixture
def hybrid(folder, tmp_path):
    return model_folder(folder, tmp_path / "hybrid", tiny("gemma", vocab_size=11, **GEMMA))


def states(folder, count):
    """The model's own cached keys and values (2, H, count, D) of each layer, of the first tokens of the text."""
    model, tokenizer = load_causal_lm(str(folder), dtype="float32", device="cpu")
    ids = tokenizer((folder / "text.txt").read_text())["input_ids"][:count]
    with torch.inference_mode():
        layers = model(input_ids=torch.tensor([ids]), use_cache=True).past_key_values.layers
    return [(layer.keys[0], layer.values[0]) for layer in layers]


def missed(x, table):
    """(H, n) distance of vectors (H, n, D) to the nearest centroid of books (H, 1, C, D), relative to their own size."""
    return torch.cdist(x.float(), table[:, 0].float()).amin(-1) / x.float().norm(dim=-1)


# ------------------------------------------------------------ what is fitted


def test_layers_behind_a_sliding_one_are_collected_as_the_model_has_them(hybrid, tmp_path):
    """A book with a centroid for every token holds the very states that the model caches."""
    out = tmp_path / "c.safetensors"
    shape = books.Shape(16, 64)
    assert run(hybrid, out, shape=shape, rope="post", weights="none", left_out=0.0, tokens=64, length=64) == 0
    made = books.load(str(out))
    assert made.made.layers == [1]
    keys, values = states(hybrid, 64)[1]
    assert missed(keys, made.keys[1]).max() < 2e-3 and missed(values, made.values[1]).max() < 2e-3


def test_attention_of_another_kind_is_refused(folder, tmp_path):
    import transformers

    config = transformers.Gemma2Config(
        vocab_size=11, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, query_pre_attn_scalar=16, layer_types=["full_attention"], attn_logit_softcapping=1.0, pad_token_id=0,
    )  # fmt: skip
    capped = model_folder(folder, tmp_path / "capped", transformers.Gemma2ForCausalLM(config))
    with pytest.raises(BadInput, match="soft caps"):
        run(capped, tmp_path / "c.safetensors")
    done = antkv("inspect", folder / "text.txt", "--model", capped, "--length", 64)
    assert done.returncode == 2 and "soft caps" in done.stderr


def kept_by_a_cache(folder, ratio, length, block=64):
    """Of each layer the anchors (H, a) of a cache that reads the text whole, with every token but the last block's rest
    closed."""
    model, tokenizer = load_causal_lm(str(folder), dtype="float32", device="cpu")
    ids = tokenizer((folder / "text.txt").read_text())["input_ids"][:length]
    cache = AntCache(model, codebook(model), Settings(ratio, window=0, block=block, dtype=torch.float32))
    with attached(model), torch.inference_mode():
        model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return [layer.at_k[0] for layer in cache.packed]


def test_what_is_left_out_are_the_caches_anchors(folder, tmp_path):
    """With nearly a centroid for every token that counts, the keys of anchors alone are far from all."""
    out, shape = tmp_path / "c.safetensors", books.Shape(16, 64)
    assert run(folder, out, shape=shape, rope="post", left_out=0.05, tokens=72, length=72) == 0
    made = books.load(str(out))
    for layer, (at, (keys, _)) in enumerate(zip(kept_by_a_cache(folder, 0.05, 72), states(folder, 72), strict=True)):
        far = missed(keys, made.keys[layer]) > 2e-3
        assert at.shape == (2, 4) and far.gather(1, at.long()).all()
        assert far.sum() <= 2 * (4 + 2 * 4)  # 68 tokens share 64 centroids


@pytest.mark.parametrize("weights", ["bound2", "bound", "none"])
def test_weights_are_0_at_the_caches_anchors_alone(folder, weights):
    made = codebook(tiny()).made
    made = type(made)(**{f: getattr(made, f) for f in made.__struct_fields__} | {"weights": weights, "left_out": 0.04})
    model, tokenizer = load_causal_lm(str(folder), dtype="float32", device="cpu")
    ids = tokenizer((folder / "text.txt").read_text())["input_ids"][:200]
    settings = calibrate.settings_of(made)
    assert settings.score == ("bound" if weights == "bound" else "bound2")
    kept = AntCache(model, codebook(model), Settings(0.04, settings.score, window=0, dtype=torch.float32))
    with attached(model), torch.inference_mode():
        model(input_ids=torch.tensor([ids]), past_key_values=kept, use_cache=True)
    seen = anchors.watch(model, ids, None, settings)
    assert anchors.count(200, settings) == 8 == kept.packed[0].at_k.shape[2]
    for layer, cached in zip(seen, kept.packed, strict=True):
        for part in calibrate.weighed(layer, made):
            zeros = [(part[:, head] == 0).nonzero()[:, 0].tolist() for head in range(2)]
            assert zeros == cached.at_k[0].tolist()
            if weights == "none":
                assert set(part.unique().tolist()) == {0.0, 1.0}


def test_inspect_tells_the_caches_anchors(folder):
    done = antkv(
        "inspect", folder / "text.txt", "--model", folder, "--length", 200, "--anchors", 0.04, "--dtype", "float32", "--json"
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["tokens"], found["in_blocks"], found["anchors_a_head"], found["lists"]) == (200, 192, 8, 4)
    expected = torch.cat([at.flatten() for at in kept_by_a_cache(folder, 0.04, 200)]).bincount(minlength=200)
    assert {row["position"]: row["lists"] for row in found["anchors"]} == {
        at: count for at, count in enumerate(expected.tolist()) if count
    }
    none = antkv("inspect", folder / "text.txt", "--model", folder, "--length", 64, "--anchors", 0, "--json")
    assert json.loads(none.stdout)["anchors"] == []


# ------------------------------------------------------------ what is refused, and what is told


def test_numbers_beyond_float16_are_named(folder, tmp_path):
    model = tiny(vocab_size=11)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[16:].mul_(1e7)
    large = model_folder(folder, tmp_path / "large", model)
    with pytest.raises(BadInput, match=r"layer 1, head 1: .* values .*beyond float16"):
        run(large, tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_keys_that_leave_float16_when_rotated_back_are_named(folder):
    made = codebook(tiny()).made
    model, _ = load_causal_lm(str(folder), dtype="float32", device="cpu")
    layer = anchors.watch(model, list(range(9)), None, calibrate.settings_of(made))[1]
    layer.keys = layer.keys.clone()
    layer.factors = type(layer.factors)(*(part.clone() for part in layer.factors))
    layer.keys[0, 1, 3] = 7e4
    with pytest.raises(BadInput, match=r"layer 1, head 1: the keys to be quantised reach 7e\+04, beyond float16"):
        calibrate.rows_of(layer, made)
    layer.keys[0, 1, 3] = 0
    layer.factors.values[0, 0, 5] = torch.inf
    with pytest.raises(BadInput, match="layer 1, head 0: the values to be quantised have no finite weights"):
        calibrate.rows_of(layer, made)


def test_books_that_are_no_numbers_are_neither_written_nor_read(tmp_path):
    import msgspec
    from safetensors.torch import save_file

    made = codebook(tiny())
    path = tmp_path / "c.safetensors"
    made.values[1][1, 2, 3] = torch.nan
    with pytest.raises(BadInput, match=r"layers\.1\.values, head 1: holds NaN"):
        books.save(made, str(path))
    assert list(tmp_path.iterdir()) == []
    tensors = {f"layers.{i}.{part}": getattr(made, part)[i].contiguous() for i in (0, 1) for part in ("keys", "values")}
    save_file(tensors, path, metadata={"antkv": msgspec.json.encode(made.made).decode()})
    with pytest.raises(BadInput, match=r"layers\.1\.values, head 1: holds NaN"):
        books.load(str(path))


def test_left_alone_layers_are_named_once(hybrid, folder, tmp_path, capsys):
    assert run(hybrid, tmp_path / "h.safetensors", quiet=False) == 0
    told = capsys.readouterr().err
    assert told.count("layers 0 do not attend to the whole context") == 1
    assert run(folder, tmp_path / "f.safetensors", quiet=False) == 0
    assert "whole context" not in capsys.readouterr().err
    assert named([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8" and named([3]) == "3"


def test_lengths_that_do_not_fit_are_named(folder, tmp_path):
    out = tmp_path / "c.safetensors"
    with pytest.raises(BadInput, match="--length 1024: the model has 512 positions; --allow-extrapolation"):
        run(folder, out, length=1024)
    assert run(folder, out, length=1024, allow_extrapolation=True) == 0
    words = ["inspect", folder / "text.txt", "--model", folder, "--length", 600]
    done = antkv(*words)
    assert done.returncode == 2 and "the model has 512 positions; --allow-extrapolation" in done.stderr
    assert json.loads(antkv(*words, "--allow-extrapolation", "--json").stdout)["tokens"] == 600
    (tmp_path / "short.txt").write_text("the river")
    with pytest.raises(BadInput, match="the text has 2 tokens, fewer than one sequence of --length 128"):
        run(folder, tmp_path / "d.safetensors", [tmp_path / "short.txt"])


def test_a_share_that_leaves_nothing_is_refused(folder, tmp_path):
    done = antkv(
        "calibrate", folder / "text.txt", "--model", folder, "--bits", "1", "--leave-out", 1, "-o", tmp_path / "c"
    )
    assert done.returncode == 2 and "--leave-out" in done.stderr
    with pytest.raises(BadInput, match="0 tokens that are no anchors are fewer than the 16 centroids"):
        run(folder, tmp_path / "c.safetensors", left_out=0.999, tokens=64, length=64)


def test_fingerprints_are_of_the_checkpoint(folder, tmp_path):
    """The same for every type that it is loaded in, another where any weight is another."""

    def loaded(where, dtype):
        return books.weights_sha256(load_causal_lm(str(where), dtype=dtype, device="cpu")[0])

    coarse = model_folder(folder, tmp_path / "coarse", tiny(vocab_size=11).to(torch.bfloat16))
    assert len({loaded(coarse, dtype) for dtype in ("auto", "float32", "bfloat16", "float16")}) == 1
    assert len({loaded(folder, dtype) for dtype in ("auto", "float32", "bfloat16")}) == 1
    names = [name for name, _ in tiny().named_parameters()]
    before = books.weights_sha256(tiny())
    for name in names:
        model = tiny()
        with torch.no_grad():
            model.get_parameter(name).add_(0.1)
        assert books.weights_sha256(model) != before, name


# ------------------------------------------------------------ texts


def test_json_lines_by_any_name_and_with_any_separator(tmp_path):
    lines = '{"text": "the river"}\n\n{"text": "a stone\u2028and\u0085light"}\r\n'
    (tmp_path / "c4.json.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "u.jsonl").write_text(lines, newline="")
    for name in ("c4.json.gz", "u.jsonl"):
        assert list(text.documents(str(tmp_path / name))) == ["the river", "a stone\u2028and\u0085light"]
    (tmp_path / "one.json").write_text('[{"text": "a"},\n {"text": "b"}]')
    assert list(text.documents(str(tmp_path / "one.json"))) == ["a", "b"]
    (tmp_path / "bad.json").write_text('{"text":\n "a",\n}')
    with pytest.raises(BadInput, match=r"bad\.json:3: not JSON"):
        list(text.documents(str(tmp_path / "bad.json")))
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(lines.encode())[:-12])
    with pytest.raises(BadInput, match="cannot be read"):
        list(text.documents(str(tmp_path / "cut.json.gz")))


def test_parquet_and_json_lines_of_the_same_rows_are_the_same_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = ["", "the river", "", "", "a stone", ""]
    pq.write_table(pa.table({"text": rows}), tmp_path / "w.parquet")
    (tmp_path / "w.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    found = [text.Text([str(tmp_path / name)]).upto() for name in ("w.parquet", "w.jsonl")]
    assert found[0] == found[1] == "\n\n".join(rows)
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "n.parquet")
    with pytest.raises(BadInput, match=r"n\.parquet: row 2: expected a string"):
        list(text.documents(str(tmp_path / "n.parquet")))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a \\ud800 b"}', r"`text` holds \\ud800, one half of a surrogate pair"),
        ("[" * 200_000, "JSON nested too deeply"),
        ('{"n": ' + "9" * 6000 + ', "text": "a"}', "not JSON"),
        ('{"text": "a"', "not JSON"),
        ('{"text": 1}', "expected an object with a string `text`"),
        (b'{"text": "\xff"}', "expected UTF-8"),
    ],
)
def test_json_that_is_no_text_is_named_by_its_line(tmp_path, line, told):
    for name in ("a.jsonl", "a.json"):
        path = tmp_path / name
        path.write_bytes(b'{"text": "a"}\n\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n")
        with pytest.raises(BadInput, match=rf"{name}:3: .*{told}"):
            text.Text([str(path)])


def test_a_json_file_over_several_lines_is_one_value(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n\n[{"text":\n\n"a"},\n {"text": "b"}]\n')
    assert list(text.documents(str(path))) == ["a", "b"]
    path.write_text('\n\n[{"text":\n\n"a"},\n {"text" "b"}]\n')
    with pytest.raises(BadInput, match=r"a\.json:6: not JSON"):
        list(text.documents(str(path)))


@pytest.fixture(scope="module")
def bytewise():
    """A tokenizer of bytes and pairs, as most models' are: fitted to Python's own prose."""
    import inspect

    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    made = ByteLevelBPETokenizer()
    made.train_from_iterator([inspect.getsource(argparse)], vocab_size=600, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=made._tokenizer)


def test_only_what_is_wanted_is_read_and_tokenised(folder, bytewise, tmp_path):
    """The ids are those of the whole text; what lies behind is neither tokenised nor, but for a piece, read."""
    prose = Path(argparse.__file__).read_text() + "\n\n\n  ünï 漢字 \u2028 \r\n" * 50
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": part}) + "\n" for part in ("", "a stone", "", "\n")))
    (tmp_path / "b.txt").write_text(prose)
    (tmp_path / "c.jsonl").write_text("no JSON, and never read")
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.txt", "c.jsonl")]
    whole = "\n\n".join(["", "a stone", "", "\n", prose])
    seen = []

    def counted(words, **how):
        seen.append(len(words))
        return bytewise(words, **how)

    every = list(bytewise(whole, add_special_tokens=False)["input_ids"])
    for count in (1, 2, 100, 777, 5000):
        assert text.Text(paths, count).ids(counted, count) == every[:count]
        assert seen[-1] <= text.CHARACTERS * (count + text.SETTLED)
    (tmp_path / "big.txt").write_text("the river " * 500_000)
    source = text.Text([str(tmp_path / "big.txt")], 100)
    assert len(source.ids(counted, 100)) == 100 and len(source.upto(0)) <= 2 * text.PIECE
    words = load_causal_lm(str(folder), device="cpu")[1]  # 5 characters a token and then 300,000
    (tmp_path / "long.txt").write_text("the river " * 40 + "x" * 300_000 + " old stone" * 100)
    assert text.Text([str(tmp_path / "long.txt")], 150).ids(words, 150) == words((tmp_path / "long.txt").read_text())["input_ids"][:150]  # fmt: skip


def test_what_is_read_once_is_hashed_whole(tmp_path):
    data = "the river\n" * 50_000
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeding = threading.Thread(target=lambda: pipe.write_text(data))
    feeding.start()
    (tmp_path / "a.txt").write_text("a stone")
    source = text.Text([str(pipe), str(tmp_path / "a.txt")], 10)
    assert source.upto(9) and not source.whole
    digests = source.digests()
    feeding.join()
    assert digests == [hashlib.sha256(part.encode()).hexdigest() for part in (data, "a stone")]
    with pytest.raises(BadInput, match="stdin can be read once"):
        text.Text(["-", "-"])


def test_bytes_that_are_no_characters_are_named_where_they_stand(tmp_path):
    path = tmp_path / "a.txt"
    good = "\ufeff" + "ä" * text.PIECE  # a character lies across every piece's end
    path.write_bytes(good.encode() + b"\xe4 b")
    with pytest.raises(BadInput, match=rf"a\.txt: expected UTF-8: .* at byte {len(good.encode())}$"):
        text.Text([str(path)])
    path.write_text(good)
    assert text.Text([str(path)]).upto() == good[1:]
    path.write_text(" \n" * 100_000 + "x")
    assert text.Text([str(path)], 1).upto(1)
    path.write_text(" \n" * 100_000)
    with pytest.raises(BadInput, match="no text in it"):
        text.Text([str(path)], 1)


def test_a_codebook_is_no_stream(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="expected -o FILE"):
        run(folder, "-")
    assert list(tmp_path.iterdir()) == []


def test_fewer_tokens_than_a_sequence_are_a_shorter_one(folder, tmp_path, capsys):
    out = tmp_path / "c.safetensors"
    assert run(folder, out, tokens=96, length=512, quiet=False) == 0
    made = books.load(str(out)).made
    assert (made.tokens, made.sequences, made.length) == (96, 1, 96)
    assert "--tokens 96: no whole sequence of --length 512: one of 96 is read" in capsys.readouterr().err


def test_values_that_are_all_alike_leave_numbers(folder, tmp_path, capsys):
    """Where all values are one vector, no key counts anything: errors are 0, and the result is JSON."""
    model = tiny(vocab_size=11)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.zero_()
    flat = model_folder(folder, tmp_path / "flat", model)

    def no_number(word):
        raise AssertionError(word)

    assert run(flat, tmp_path / "c.safetensors", as_json=True) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=no_number)
    assert found["keys_error"][1] == found["values_error"][1] == 0


# ------------------------------------------------------------ models that are none for it


B = {
    "vocab_size": 11, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
OTHERS = {
    "GptOss": (
        {**B, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 32,
         "layer_types": ["sliding_attention", "full_attention"]},
        "its attention has sinks",
    ),
    "Mamba": ({"vocab_size": 11, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}, "has no num_attention_heads"),
    "Mistral": ({**B, "sliding_window": 64}, "no layer attends to its whole context"),
    "Bloom": ({"vocab_size": 11, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "attention code of its own"),
    "Llama4Text": (
        {**B, "head_dim": 16, "intermediate_size_mlp": 96, "num_local_experts": 2, "num_experts_per_tok": 1},
        "no layer attends to its whole context",
    ),
    "DeepseekV3": (
        {**B, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
         "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
         "moe_intermediate_size": 32, "first_k_dense_replace": 1},
        r"latent vectors \(MLA\)",
    ),
    "Gemma2": ({**B, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}, "has soft caps"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_models_that_are_none_for_it_are_refused_by_every_verb(folder, tmp_path, kind):
    import transformers

    from antkv import bench, inspect, plan

    options, told = OTHERS[kind]
    config = getattr(transformers, f"{kind}Config")(**options)
    torch.manual_seed(0)
    where = model_folder(folder, tmp_path / "m", transformers.AutoModelForCausalLM.from_config(config))
    for rope in ("pre", "post"):
        with pytest.raises(BadInput, match=told):
            run(where, tmp_path / "c.safetensors", rope=rope)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    how = {
        "uri": str(where), "codebook": None, "anchors": 0.01, "score": "bound2", "length": 128, "dtype": "auto", "device": "cpu",
        "trust_remote_code": False, "allow_extrapolation": False, "seed": 0,
    }  # fmt: skip
    with pytest.raises(BadInput, match=told):
        inspect.anchors_of(str(folder / "text.txt"), **how)
    with pytest.raises(BadInput, match=told):
        bench.run(uri=str(where), trust_remote_code=False, tokens=128, bits="1", rope="post", rounds=1, as_json=False)
    with pytest.raises(BadInput):
        plan.plan(inspect.config_of(str(where)), 10**9, 512, 1, 0.01, 128, 512, "head", 0.05)


def test_configs_that_count_nothing_are_named():
    import transformers

    llama = transformers.LlamaConfig(**B)
    for name, value, told in (
        ("num_key_value_heads", 0, "num_key_value_heads 0, expected 1 or more"),
        ("num_attention_heads", [4, 2], r"num_attention_heads \[4, 2\], expected 1 or more"),
        ("hidden_size", None, "has no hidden_size"),
        ("num_key_value_heads", 3, "4 attention heads do not share 3 stored ones evenly"),
        ("num_kv_shared_layers", 1, "last 1 layers read the keys and values of others"),
    ):
        before = getattr(llama, name, None)
        object.__setattr__(llama, name, value)
        with pytest.raises(BadInput, match=told):
            books.Model.of(llama)
        object.__setattr__(llama, name, before)
    assert books.Model.of(llama).kv_heads == 2


def test_heads_that_the_config_does_not_tell_of_are_named(folder):
    made = codebook(tiny()).made
    model, _ = load_causal_lm(str(folder), dtype="float32", device="cpu")
    layer = anchors.watch(model, list(range(9)), None, calibrate.settings_of(made))[1]
    layer.keys, layer.values = layer.keys[:, :1], layer.values[:, :1]
    with pytest.raises(BadInput, match="layer 1: has 1 stored heads of 16 channels, the config tells of 2 of 16"):
        calibrate.rows_of(layer, made)


@pytest.fixture
def broken(folder, tmp_path):
    """A model whose keys and values are sound, and whose logits are not."""
    model = tiny(vocab_size=11)
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    return model_folder(folder, tmp_path / "broken", model)


def test_a_model_whose_logits_are_no_numbers_is_refused(folder, broken, tmp_path):
    from antkv import inspect, verbs

    with pytest.raises(BadInput, match="sequence 1: the model's logits hold NaN or infinity"):
        run(broken, tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()
    how = {"dtype": "float32", "device": "cpu", "trust_remote_code": False, "allow_extrapolation": False, "seed": 0}
    with pytest.raises(BadInput, match=r"text\.txt, the first 70 tokens: the model's logits hold NaN"):
        inspect.anchors_of(
            str(folder / "text.txt"), uri=str(broken), codebook=None, anchors=0.01, score="bound2", length=70, **how
        )
    books.save(codebook(load_causal_lm(str(broken), "float32", "cpu")[0]), str(tmp_path / "b.safetensors"))
    study = verbs.How(
        model=str(broken), length=64, windows=2, anchors=0.01, score="bound2", scope="shared-kv", window=16, block=16,
        protocol="decode", **how,
    )  # fmt: skip
    with pytest.raises(BadInput, match="window 1: the model's logits hold NaN or infinity"):
        verbs.run_eval([str(folder / "text.txt")], study, str(tmp_path / "b.safetensors"), True, True)
