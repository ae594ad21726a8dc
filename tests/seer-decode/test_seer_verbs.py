"""The verbs: figures, files, and bad input in one line; each once through the installed command, else in this process, as an
import of transformers takes seconds."""

import json

import pytest
import torch
from seer_models import config, qwen
from seer_models import here as seer
from seer_models import seer as installed

from seer_decode import store
from seer_decode.gate import Gates


def told(*args, run=seer):
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(code, *args, run=seer):
    """The one line that says why."""
    done = run(*args)
    assert done.returncode == code and not done.stdout, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("seer-decode: ") and "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Configs of a few models, gates for the first in both forms."""
    made = tmp_path_factory.mktemp("seer")
    sliding = config(
        "gemma", layer_types=["sliding_attention", "full_attention", "sliding_attention"], sliding_window=64
    )
    for name, of in {"small": config(), "other": config(num_attention_heads=8), "qwen": qwen(), "sliding": sliding,
                     "none": config("mistral", sliding_window=64)}.items():  # fmt: skip
        (made / f"{name}.json").write_text(of.to_json_string())
    gates = Gates.of(config(), seed=3)
    for form in store.FORMS:
        store.save(gates, store.made_for(config(), gates.shape, "small"), made / form, form)
    return made


def test_info_of_a_model(folder):
    found = told("info", "--model", folder / "qwen.json")
    assert (found["per_layer"], found["parameters"], found["bytes"]) == (917_760, 33_039_360, 66_078_720)
    assert found["shape"]["gated"] == list(range(36)) and found["dense_layers"] == {}
    wide = told(
        "info",
        "--model",
        folder / "qwen.json",
        "--gate-dim",
        64,
        "--block",
        128,
        "--no-qk-norm",
        "--key-pooling",
        "Kavg",
    )
    assert wide["per_layer"] == 32 * 128 * 64 + 8 * 128 * 64 and wide["shape"]["block"] == 128
    text = seer("info", "--model", folder / "sliding.json")
    assert text.returncode == 0 and "stay dense: layers 0, 2 (sliding_attention)" in text.stdout


def test_info_of_the_embedded_model():
    found = told("info", run=installed)
    assert (found["per_layer"], found["parameters"]) == (73_856, 2_215_680)


@pytest.mark.parametrize("form", store.FORMS)
def test_info_of_gates(folder, form):
    found = told("info", folder / form, "--model", folder / "small.json")
    assert found["form"] == form and found["parameters"] == found["bytes"] / 4 == 3 * (4 * 8 * 8 + 2 * 24 * 8 + 16)
    assert found["base"]["name"] == "small" and found["sparsity"]["token_budget"] == 4096
    shown = seer("info", folder / form)
    assert shown.returncode == 0 and "layers 0-2 of 3" in shown.stdout and "Kmaxminavg" in shown.stdout


def test_convert_there_and_back(folder, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    found = told(
        "convert", folder / "published", "-o", there, "--model", folder / "small.json", "--base-model", "Org/Name"
    )
    assert (found["from"], found["to"], found["layers"]) == ("published", "ours", 3)
    assert told("convert", there, "-o", back, run=installed)["to"] == "published"
    one, two = (torch.load(f / "attn_gate_weights.pth", weights_only=True) for f in (folder / "published", back))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    first, last = (json.loads((f / "config.json").read_text()) for f in (folder / "published", back))
    assert last == first | {"base_model": "Org/Name"}
    manifest = json.loads((there / "manifest.json").read_text())
    assert manifest["options"]["to"] == "ours" and len(manifest["inputs"]) == 2 and manifest["counts"]["layers"] == 3
    once_more = seer(
        "convert", folder / "published", "-o", there, "--model", folder / "small.json", "--base-model", "Org/Name"
    )
    assert once_more.returncode == 0 and "complete already" in once_more.stderr
    again = seer("convert", folder / "published", "-o", there)
    assert again.returncode == 2 and "--overwrite" in again.stderr
    assert seer("convert", folder / "published", "-o", there, "--overwrite", "-q").returncode == 0
    same = seer("convert", folder / "ours", "--to", "ours", "-o", tmp_path / "copy", "--block", 128, "--reuse-gate")
    assert same.returncode == 0 and "trained for blocks of 64 tokens are used at 128" in same.stderr
    assert store.load(tmp_path / "copy").made.shape.block == 128


def test_convert_refuses(folder, tmp_path):
    out = tmp_path / "out"
    line = refused(2, "convert", folder / "ours", "-o", out, "--model", folder / "other.json")
    assert "heads 4" in line and "has 8" in line
    assert "--reuse-gate" in refused(2, "convert", folder / "ours", "-o", out, "--block", 32)
    assert "-o: expected a folder" in refused(2, "convert", folder / "ours")
    assert "is the input" in refused(2, "convert", folder / "ours", "-o", folder / "ours", "--overwrite")
    assert "no such folder" in refused(2, "convert", tmp_path / "nix", "-o", out)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text((folder / "published" / "config.json").read_text())
    torch.save({"x": print}, tmp_path / "bad" / "attn_gate_weights.pth")
    assert "pickled objects" in refused(2, "convert", tmp_path / "bad", "-o", out, run=installed)
    assert not out.exists()


def test_plan(folder):
    found = told(
        "plan", "--model", folder / "qwen.json", "--context", "32768,131072", "--batch", "1,16", "--sparsity", 0.9
    )
    assert [(r["batch"], r["context"]) for r in found["rows"]] == [(1, 32768), (1, 131072), (16, 32768), (16, 131072)]
    assert [r["blocks"] for r in found["rows"]] == [52, 205, 52, 205]
    assert all(1 < r["step_speedup"] < r["byte_cap"] for r in found["rows"])
    text = installed("plan", "--model", folder / "qwen.json", "--budget", 4100, "--gpu-mem", "80G", "--start-layer", 2)
    assert text.returncode == 0 and "rounded down to 4096" in text.stderr and "40,960 positions" in text.stderr
    assert "131,072" in text.stdout and "yes" in text.stdout


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["plan", "--budget", 32], "a block of 64"),
        (["plan", "--budget", 64, "--sparsity", 0.5], "expected one of them"),
        (["plan", "--sparsity", 1], "--sparsity"),
        (["plan", "--bandwidth", "fast"], "'--bandwidth': 'fast': expected a size"),
        (["plan", "--gpu-mem", "-3"], "'--gpu-mem': '-3': expected a size"),
        (["plan", "--context", "8k"], "whole numbers"),
        (["info", "--block", 48], "48"),
        (["info", "--key-pooling", "Kavgmax"], "--key-pooling"),
        (["info", "--query-pooling", "Qavg", "--gate-dim", 16], "head_dim"),
    ],
)
def test_options_that_are_wrong(folder, args, word):
    assert word in refused(2, *args, "--model", folder / "small.json")


def test_models_that_are_wrong(folder, tmp_path):
    assert "no layer is left for a gate" in refused(2, "info", "--model", folder / "none.json")
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "kind.json").write_text('{"model_type": "nix"}')
    (tmp_path / "heads.json").write_text('{"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 3}')
    (tmp_path / "vector.json").write_text('{"model_type": "mamba"}')
    for name, word in (
        ("torn", "not JSON"),
        ("kind", "transformers knows"),
        ("heads", "evenly"),
        ("vector", "no layer is left"),
    ):
        for verb in ("info", "plan"):
            assert word in refused(2, verb, "--model", tmp_path / f"{name}.json")
    assert "no such" in refused(2, "info", "--model", tmp_path / "nix" / "nix")


def test_help_and_doctor():
    for verb in ("info", "convert", "plan"):
        done = seer(verb, "--help")
        assert done.returncode == 0 and f"seer-decode {verb} " in done.stdout.split("Example:")[1]
    report = told("doctor", run=installed)
    assert report["extras"]["items"]["hf"]["ok"]
    assert seer("--version").stdout.startswith("seer-decode, version 0.1.0")
