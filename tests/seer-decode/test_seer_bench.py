"""`bench`: rows in their form from tiny shapes, results held to their definition, and bad input in one line; never a time."""

import json
import signal

import pytest
import torch
from seer_models import config, seer

from seer_decode import attend, bench, needs
from seer_decode.cli import main
from tenfold_shared import Missing

SMALL = ["--heads", 4, "--kv-heads", 2, "--head-dim", 8, "--context", 100, "--block", 16, "--rounds", 1]
FIELDS = [
    "tool",
    "case",
    "ours",
    "peer",
    "peer_name",
    "unit",
    "ratio",
    "floor",
    "floor_ratio",
    "n",
    "machine",
    "command",
]
TINY = bench.Layer(4, 2, 8, 100, 2, 16, 0.3, "float32", 1)
CPU = torch.device("cpu")


def rows(*args):
    done = seer("bench", *args, "--json")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for row in found:
        assert list(row) == FIELDS and row["tool"] == "seer-decode" and row["unit"] == "ms"
        assert min(row["ours"], row["peer"], row["floor"]) >= 0 and row["command"].startswith("seer-decode bench ")
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with weights and a tokenizer."""
    import transformers
    from tokenizers import Tokenizer, models

    folder = tmp_path_factory.mktemp("bench") / "model"
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config()).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(97)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return folder


def test_a_layers_rows():
    found = rows("kernel", *SMALL, "--keep", 0.3, "--dtype", "bfloat16", "--threads", 1)
    whole = "gate, selection and attention"
    assert [row["case"].rpartition(": ")[2] for row in found] == [whole, "attention alone", whole]
    assert all("4/2 heads of 8, 100 tokens, batch 1, 3 of 7 blocks of 16, bfloat16" in row["case"] for row in found)
    assert found[0]["n"] == 100 and "1 threads" in found[0]["machine"] and "--threads 1" in found[0]["command"]
    assert found[0]["peer"] == found[1]["peer"] and found[0]["floor"] >= found[1]["floor"]
    assert found[0]["ours"] == found[2]["ours"] and [row["peer_name"] == bench.OWN for row in found] == [False, False, True]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("keep", [0.01, 0.5, 1.0])
def test_every_form_is_the_same_attention(dtype, keep):
    layer = bench.Layer(4, 2, 8, 100, 2, 16, keep, dtype, 1)
    made = bench.layers_of(layer, CPU)
    query = torch.randn(2, 4, 8).to(made[0].keys.dtype)
    with torch.no_grad():
        chosen = bench.check(made[0], query, 0.3)
        assert chosen is None if keep == 1.0 else (chosen.counts == layer.read).all()
        forms = bench.dense_forms(made, query, 100, 0.3)
        wanted = forms["SDPA, enable_gqa"](1).flatten()
        for form in forms.values():
            assert torch.allclose(form(1).flatten().float(), wanted.float(), atol=3e-2)


def test_a_wrong_result_has_no_row(monkeypatch):
    right = attend.blocks
    monkeypatch.setattr(attend, "blocks", lambda *args: 1.01 * right(*args))
    with pytest.raises(AssertionError, match="the other blocks hidden"):
        bench.kernel(TINY, CPU, "")


def test_a_steps_rows(model):
    how = ["--model", model, "--context", 90, "--budget", 32, "--block", 16, "--rounds", 1, "--dtype", "float32"]
    found = rows("step", *how)
    assert [row["peer_name"].partition(",")[0] for row in found] == ["transformers", "transformers", "our dense step"]
    assert found[0]["ours"] == found[2]["ours"] and found[1]["ours"] == found[2]["peer"]
    assert "budget 32 in blocks of 16 by random gates" in found[0]["case"] and "--model" in found[0]["command"]


def test_rows_for_the_eye(model, capsys):
    of = bench.Step(str(model), 40, 32, 16, "bfloat16", rounds=1)
    for what, lines in ((TINY, 8), (of, 3)):
        assert bench.run(what, device="auto", threads=1, as_json=False) == 0
        shown = capsys.readouterr().out.splitlines()
        assert len(shown) == lines and all(line.count(" ms") >= 1 for line in shown)


def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr(needs, "available", lambda device: 1000)
    with pytest.raises(Missing, match=r"bench kernel: needs .* smaller --context"):
        bench.kernel(TINY, CPU, "")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["kernel", "--heads", 5, "--kv-heads", 2], "--heads 5: expected a multiple of --kv-heads 2"),
        (["kernel", "--head-dim", 9], "--head-dim 9"),
        (["kernel", "--keep", 0], "--keep"),
        (["kernel", "--keep", "nan"], "--keep"),
        (["kernel", "--context", 0], "--context"),
        (["kernel", "--dtype", "int8"], "--dtype"),
        (["kernel", "--device", "moon"], "--device moon"),
        (["kernel", "--rounds", 0], "--rounds"),
        (["step", "--budget", 32], "at least one block of 64"),
        (["step", "--model", "nix/nix/nix"], "nix"),
        (["layer"], "layer"),
    ],
)
def test_options_that_are_wrong(args, word, capsys):
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert main(["bench", *map(str, args)], standalone_mode=False) == 2
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    out, err = capsys.readouterr()
    assert not out and word in err and len(err.splitlines()) == 1
