"""The codebook file, and calibration through the installed command: same bytes, resumed after kills, refused where wrong."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch
from ant_models import BIN, antkv, codebook, tiny

from antkv import calibrate as verb
from antkv import codebook as books
from antkv.text import Text
from tenfold_shared import BadInput


def calibrate(folder, out, *more, **how):
    return antkv(
        "calibrate", folder / "text.txt", "--model", folder, "--dim", 4, "--centroids", 16, "--tokens", 1024, "--length", 128,
        "-o", out, "-q", *more, **how,
    )  # fmt: skip


def test_named_rates():
    rates = {name: shape.rate for name, shape in books.NAMED.items()}
    assert rates == {name: float(name) for name in rates} and len(rates) == 6
    assert books.shape_of(None, 32, 4096).rate == 0.375 and books.shape_of("1", None, None) == (8, 256)
    for given in ((None, None, None), ("1", 8, 256), (None, 8, None)):
        with pytest.raises(BadInput, match="expected --bits, or --dim"):
            books.shape_of(*given)
    for count in (8, 100, 128, 8192):
        with pytest.raises(BadInput, match=f"--centroids {count}: expected one of 4, 16, 64, 256, 4096"):
            books.shape_of(None, 8, count)


def test_there_and_back(tmp_path):
    model = tiny()
    made = codebook(model)
    path = str(tmp_path / "c.safetensors")
    books.save(made, path)
    back = books.load(path)
    assert back.made == made.made and all(torch.equal(back.keys[i], made.keys[i]) for i in (0, 1))
    assert back.nbytes == made.nbytes == 2 * 2 * 2 * 4 * 16 * 4 * 2
    back.check(model.config, "pre", books.weights_sha256(model))


def test_a_codebook_of_another_model_is_refused_with_both_values(tmp_path):
    made = codebook(tiny())
    with pytest.raises(BadInput, match="kv_heads 2, this one has 4"):
        made.check(tiny(num_key_value_heads=4).config)
    with pytest.raises(BadInput, match="head_dim 16, this one has 32"):
        made.check(tiny(head_dim=32).config)
    with pytest.raises(BadInput, match="--rope pre, not post"):
        made.check(tiny().config, "post")
    with pytest.raises(BadInput, match="another model of the same shape"):
        made.check(tiny().config, None, books.weights_sha256(tiny(seed=1)))
    with pytest.raises(BadInput, match="rope"):
        made.check(tiny(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}).config)


def test_files_that_are_none(tmp_path):
    from safetensors.torch import save_file

    for name, make, word in (
        ("text", lambda p: p.write_text("no"), "not a codebook"),
        ("bare", lambda p: save_file({"a": torch.zeros(1)}, p), "no `antkv`"),
        ("other", lambda p: save_file({"a": torch.zeros(1)}, p, metadata={"antkv": "{}"}), "metadata"),
    ):
        make(tmp_path / name)
        with pytest.raises(BadInput, match=word):
            books.load(str(tmp_path / name))
    with pytest.raises(BadInput, match="no such file"):
        books.load(str(tmp_path / "nothing"))
    made = codebook(tiny())
    made.keys[1] = made.keys[1][:, :2]
    books.save(made, str(tmp_path / "short"))
    with pytest.raises(BadInput, match=r"layers\.1\.keys: expected a tensor of shape"):
        books.load(str(tmp_path / "short"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dim": 0}, "metadata: dim: expected a divisor of head_dim 16, got 0"),
        ({"dim": -4}, "metadata: dim: expected a divisor of head_dim 16, got -4"),
        ({"dim": 3}, "metadata: dim: expected a divisor of head_dim 16, got 3"),
        ({"centroids": 8}, "metadata: centroids: expected one of 4, 16, 64, 256, 4096, got 8"),
        ({"centroids": 0}, "metadata: centroids: expected one of"),
        ({"layers": []}, "metadata: layers: expected some of 2, in ascending order"),
        ({"layers": [1, 0]}, "metadata: layers"),
        ({"layers": [0, 0, 1]}, "metadata: layers"),
        ({"layers": [0, 2]}, "metadata: layers"),
        ({"layers": [1]}, r"layers\.0\.keys: is no table of the layers that its metadata tells of"),
        ({"model": {"head_dim": 0}}, "metadata: head_dim: expected 1 or more"),
        ({"model": {"kv_heads": 0}}, "metadata: kv_heads: expected 1 or more"),
        ({"model": {"kv_heads": 3}}, r"layers\.0\.keys: expected a tensor of shape \(3, 4, 16, 4\), got \(2, 4, 16, 4\)"),
        ({"scope": "layer"}, r"expected a tensor of shape \(1, 4, 16, 4\)"),
        ({"schema": "antkv-codebook/1"}, "expected antkv-codebook/2"),
        (torch.float32, r"layers\.0\.keys: expected float16, got float32"),
        (torch.bool, r"layers\.0\.keys: expected float16, got bool"),
        ("more", r"more: is no table of the layers"),
    ],
)  # fmt: skip
def test_codebooks_that_contradict_themselves_are_refused(tmp_path, change, told):
    import msgspec
    from safetensors.torch import save_file

    book = codebook(tiny())
    made = msgspec.to_builtins(book.made)
    tables = {f"layers.{i}.{part}": getattr(book, part)[i] for i in (0, 1) for part in ("keys", "values")}
    if isinstance(change, dict):
        made |= {**change, "model": made["model"] | change.get("model", {})}
    elif change == "more":
        tables["more"] = torch.zeros(1)
    else:
        tables = {name: table.to(change) for name, table in tables.items()}
    path = str(tmp_path / "c.safetensors")
    save_file(tables, path, metadata={"antkv": json.dumps(made)})
    with pytest.raises(BadInput, match=told):
        books.load(path)


def test_metadata_of_any_depth_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = str(tmp_path / "c.safetensors")
    for text in ("[" * 100_000, '{"model": ' * 50_000):
        save_file({"a": torch.zeros(1)}, path, metadata={"antkv": text})
        with pytest.raises(BadInput, match="metadata"):
            books.load(path)


def test_a_codebook_of_other_layers_is_refused():
    """A cache would look in vain for the books of a layer that is full in this model alone."""
    kinds = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}
    made = codebook(tiny("gemma", query_pre_attn_scalar=16, **kinds))
    other = tiny("gemma", query_pre_attn_scalar=16, **kinds | {"layer_types": ["full_attention"] * 2})
    with pytest.raises(BadInput, match="has books of layers 0, this model attends to its whole context in 0-1"):
        made.check(other.config)


def test_models_without_keys_a_head_are_refused():
    import transformers

    with pytest.raises(BadInput, match="MLA"):
        books.Model.of(transformers.DeepseekV3Config(num_hidden_layers=2))
    with pytest.raises(BadInput, match="gpt_oss: its attention has sinks"):
        books.Model.of(transformers.GptOssConfig(num_hidden_layers=2))


def test_same_bytes_for_the_same_seed_and_nothing_to_do_twice(folder, tmp_path):
    outs = [tmp_path / f"{at}.safetensors" for at in range(3)]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        done = calibrate(folder, out, "--seed", seed)
        assert done.returncode == 0 and "a centroid" not in done.stderr, done.stderr
    data = [out.read_bytes() for out in outs]
    assert data[0] == data[1] != data[2]
    again = antkv(*["calibrate", folder / "text.txt", "--model", folder, "--dim", 4, "--centroids", 16, "--tokens", 1024, "--length", 128, "-o", outs[0]])  # fmt: skip
    assert again.returncode == 0 and "complete already" in again.stderr
    assert not (tmp_path / "0.safetensors.work").exists()
    other = calibrate(folder, outs[0], "--weights", "none")
    assert other.returncode == 2 and "--weights" in other.stderr and outs[0].read_bytes() == data[0]
    made = books.load(str(outs[0])).made
    assert (made.tokens, made.sequences, made.length, made.rope) == (1024, 8, 128, "pre")
    manifest = json.loads((tmp_path / "0.safetensors.manifest.json").read_text())
    assert len(manifest["fit"]["keys_error"]) == 2 and manifest["tool"] == "antkv"


def test_killed_calibrations_go_on(folder, tmp_path):
    whole = tmp_path / "whole.safetensors"
    assert calibrate(folder, whole).returncode == 0
    cut = tmp_path / "cut.safetensors"
    words = [
        "calibrate", folder / "text.txt", "--model", folder, "--dim", 4, "--centroids", 16, "--tokens", 1024, "--length", 128,
        "-o", cut, "-q",
    ]  # fmt: skip
    work, kills = tmp_path / "cut.safetensors.work", 0
    for wanted in ("collected.json", "layer-1", "book-0.sha256"):
        run = subprocess.Popen([str(BIN), *map(str, words)], stderr=subprocess.DEVNULL)
        while run.poll() is None and not (work / wanted).exists():
            time.sleep(0.005)
        if run.poll() is None:
            os.kill(run.pid, signal.SIGKILL)
            kills += 1
        run.wait()
        assert not cut.exists()
        with open(work / "layer-0", "ab") as half:
            half.write(b"half a row")  # what a kill in the middle of a write leaves
    assert kills
    done = antkv(*words)
    assert done.returncode == 0, done.stderr
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("more", "code", "word"),
    [
        (["--dim", 3], 2, "--dim 3: does not divide"),
        (["--centroids", 4096, "--dim", 4], 2, "are fewer than the 4096 centroids"),
        (["--bits", "1"], 2, "expected --bits, or --dim"),
        (["--model", "no-such-folder"], 2, "no-such-folder"),
    ],
)
def test_bad_calls_are_named(folder, tmp_path, more, code, word):
    done = calibrate(folder, tmp_path / "x.safetensors", *more)
    assert done.returncode == code and word in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x.safetensors").exists()


def test_bad_texts_are_named(folder, tmp_path):
    for name, data, word in (
        ("empty.txt", b"", "no text in it"),
        ("latin.txt", b"caf\xe9", "expected UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": 1}\n', r"a\.jsonl:2: expected an object with a string `text`"),
        ("b.jsonl", b"{\n", r"b\.jsonl:1: not JSON"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadInput, match=word):
            Text([str(tmp_path / name)])
    done = antkv("calibrate", tmp_path / "b.jsonl", "--model", folder, "--bits", "1", "-o", tmp_path / "x")
    assert done.returncode == 2 and "b.jsonl:1: not JSON" in done.stderr
    assert "expected -o FILE" in antkv("calibrate", folder / "text.txt", "--model", folder, "--bits", "1").stderr
    assert "does not exist" in calibrate(folder, tmp_path / "no" / "x").stderr


def test_few_tokens_a_centroid_are_told(folder, tmp_path):
    done = antkv(
        "calibrate", folder / "text.txt", "--model", folder, "--dim", 4, "--centroids", 16, "--tokens", 256, "--length", 128,
        "-o", tmp_path / "x.safetensors",
    )  # fmt: skip
    assert done.returncode == 0 and "256 tokens are 16 a centroid; 40 are wanted" in done.stderr
    assert "the weights of a book are worth" in done.stderr


def test_books_fit_the_text_they_came_from(folder, tmp_path, capsys):
    """A rate four times finer leaves less error in every layer; weights and scopes run."""
    fits = {}
    for name, (shape, more) in {
        "coarse": ((8, 16), {}), "fine": ((2, 16), {}), "layer": ((4, 16), {"scope": "layer"}),
        "none": ((4, 16), {"weights": "none", "left_out": 0.0}), "post": ((4, 16), {"rope": "post"}),
        "bound": ((4, 16), {"weights": "bound"}),
    }.items():  # fmt: skip
        how = {
            "uri": str(folder), "shape": books.Shape(*shape), "rope": "pre", "weights": "bound2", "scope": "head",
            "left_out": 0.01, "tokens": 1024, "length": 128, "dtype": "auto", "device": "auto", "trust_remote_code": False,
            "allow_extrapolation": False, "seed": 0, "output": str(tmp_path / f"{name}.safetensors"), "overwrite": False,
            "as_json": True, "quiet": True,
        }  # fmt: skip
        assert verb.run([str(folder / "text.txt")], **(how | more)) == 0
        fits[name] = json.loads(capsys.readouterr().out)
    for part in ("keys_error", "values_error"):
        assert all(f <= c for f, c in zip(fits["fine"][part], fits["coarse"][part], strict=True))
    assert sum(fits["fine"]["keys_error"]) < sum(fits["coarse"]["keys_error"])
    assert fits["fine"]["index_bits"] == 2 and fits["coarse"]["index_bits"] == 0.5
    assert books.load(str(tmp_path / "layer.safetensors")).keys[0].shape[0] == 1
    assert fits["none"]["keys_least_ess"] == 1024
