"""Gates on disk: both forms there and back, and every folder that must not be taken."""

import hashlib
import json
import pickle

import msgspec
import pytest
import torch
from seer_models import config, draw, qwen

from seer_decode import store
from seer_decode.gate import Gates
from seer_decode.shape import Shape
from tenfold_shared import BadInput, Busy, Missing

PREFIX = "model.layers.{}.self_attn.attn_gate.attngate_{}.weight"


def saved(folder, of=None, form="ours", sparsity=None, **how):
    of = of or config()
    gates = Gates.of(of, seed=1, **how)
    made = store.made_for(of, gates.shape, "a-model", training={"steps": 800}, sparsity=sparsity)
    store.save(gates, made, folder, form)
    return gates


def published(folder, of, shape, tensors=None, **keys):
    """As the authors' scripts leave it, written here by hand. keys: of seerattn_; None leaves one out."""
    folder.mkdir()
    own = {
        "k_seq_pooling_type": "Kmaxminavg", "q_head_pooling_type": "Qproj", "gate_block_size": 64, "gate_hidden_size": 8,
        "use_qk_norm": True, "use_rope": True, "sparsity_method": "threshold", "threshold": 0.004, "token_budget": 4096,
        "sliding_window_size": 0, "start_layer": 0, "implementation": "seer_sparse", "output_sparsity": False,
    } | keys  # fmt: skip
    fields = json.loads(of.to_json_string()) | {f"seerattn_{k}": v for k, v in own.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(fields | {"base_model": "Org/Base"}))
    if tensors is None:
        tensors = theirs(shape)
    torch.save(tensors, folder / "attn_gate_weights.pth")
    return folder


def theirs(shape, dtype=torch.bfloat16):
    found = {}
    for layer in shape.gated:
        found[PREFIX.format(layer, "linear_q")] = draw(*shape.query_shape, seed=layer).to(dtype)
        found[PREFIX.format(layer, "linear_k")] = draw(*shape.key_shape, seed=layer + 100).to(dtype)
        found[PREFIX.format(layer, "qnorm")] = torch.ones(shape.gate_dim, dtype=dtype)
        found[PREFIX.format(layer, "knorm")] = torch.ones(shape.gate_dim, dtype=dtype)
    return found


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


@pytest.mark.parametrize("form", store.FORMS)
@pytest.mark.parametrize(
    "how", [{}, {"block": 128}, {"gate_dim": 16}, {"query_pooling": "Qavg", "qk_norm": False}, {"rope": False, "key_pooling": ("max",)}]
)  # fmt: skip
def test_there_and_back(form, how, tmp_path):
    sparsity = store.Sparsity("token_budget", token_budget=2048, start_layer=1)
    gates = saved(tmp_path / "g", form=form, sparsity=sparsity, **how)
    loaded = store.load(tmp_path / "g", config(), block=how.get("block", 64))
    same(gates, loaded.gates)
    assert store.form_of(tmp_path / "g") == form and loaded.notes == []
    assert loaded.made.shape == gates.shape and loaded.made.sparsity == sparsity and loaded.made.base.name == "a-model"
    assert loaded.made.training == ({"steps": 800} if form == "ours" else None)
    queries, keys = draw(1, 4, 3, 8), draw(1, 2, 300, 8)
    assert torch.equal(gates[2](queries, keys), loaded.gates[2](queries, keys))


def test_the_published_form_of_a_qwen_shape(tmp_path):
    """Names and shapes of the published file, a base's config in the older spelling, width 128 beside a hidden size that
    says otherwise."""
    of = qwen(2)
    shape = Shape.of(of)
    folder = published(tmp_path / "p", of, shape, gate_hidden_size=128)
    fields = json.loads((folder / "config.json").read_text())
    fields.pop("rope_parameters")
    fields |= {"rope_theta": 1000000, "rope_scaling": None, "sliding_window": None, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields))
    loaded = store.load(folder, of, name="local")
    assert loaded.made.base.name == "Org/Base" and loaded.made.sparsity.threshold == 0.004
    assert loaded.gates[1].query.shape == (8, 4, 128, 128) and loaded.gates[1].query.dtype == torch.bfloat16
    assert torch.equal(loaded.gates[1].key, theirs(shape)[PREFIX.format(1, "linear_k")])
    store.save(loaded.gates, loaded.made, tmp_path / "again", "published")
    again = torch.load(tmp_path / "again" / "attn_gate_weights.pth", weights_only=True)
    assert again.keys() == theirs(shape).keys() and all(torch.equal(again[k], v) for k, v in theirs(shape).items())
    keys = {k: v for k, v in json.loads((tmp_path / "again" / "config.json").read_text()).items() if "seerattn" in k}
    assert keys == {k: v for k, v in fields.items() if "seerattn" in k}


def test_what_the_references_config_class_refuses_loads(tmp_path):
    """A token budget, blocks of 128, a width that is not head_dim: its own asserts stop at each."""
    shape = Shape.of(config(), block=128, gate_dim=16)
    keys = {"gate_block_size": 128, "gate_hidden_size": 16, "sparsity_method": "token_budget", "token_budget": 2048}
    made = store.load(published(tmp_path / "p", config(), shape, **keys), config()).made
    assert (made.shape.block, made.shape.gate_dim, made.sparsity.token_budget) == (128, 16, 2048)


def test_the_published_config_has_the_rotation_where_its_readers_look(tmp_path):
    for rope in (
        {"rope_type": "default", "rope_theta": 1000000.0},
        {"rope_type": "yarn", "rope_theta": 50000.0, "factor": 4.0, "original_max_position_embeddings": 1024},
    ):
        of = config(rope_parameters=rope)
        gates = Gates.of(of, seed=1)
        store.save(gates, store.made_for(of, gates.shape, "a base"), tmp_path / "g", "published", overwrite=True)
        written = json.loads((tmp_path / "g" / "config.json").read_text())
        assert written["rope_theta"] == rope["rope_theta"]
        assert (written["rope_scaling"] is None) == (rope["rope_type"] == "default")
        assert store.load(tmp_path / "g", of).gates.rotation.frequencies.equal(gates.rotation.frequencies)


def test_defaults_of_the_published_config(tmp_path):
    """Norms are off unless its config says so; the width is 128."""
    shape = Shape.of(config(), gate_dim=128, qk_norm=False)
    tensors = {k: v for k, v in theirs(Shape.of(config(), gate_dim=128)).items() if "norm" not in k}
    names = [
        "use_qk_norm",
        "gate_hidden_size",
        "gate_block_size",
        "k_seq_pooling_type",
        "q_head_pooling_type",
        "use_rope",
    ]
    folder = published(tmp_path / "p", config(), shape, tensors, **dict.fromkeys(names))
    assert store.load(folder).made.shape == shape


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"num_attention_heads": 8}, "heads 4; mine has 8"),
        ({"num_hidden_layers": 4}, "layers 3; mine has 4"),
        ({"head_dim": 16}, "head_dim 8; mine has 16"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta 10000.0; mine has 500000.0"),
        ({"intermediate_size": 64}, "config sha256 [0-9a-f]{12}; mine has [0-9a-f]{12}"),
    ],
)
@pytest.mark.parametrize("form", store.FORMS)
def test_another_base_is_refused_with_both_values(form, more, told, tmp_path):
    saved(tmp_path / "g", form=form)
    with pytest.raises(BadInput, match=f"trained for a-model with {told}"):
        store.load(tmp_path / "g", config(**more), name="mine")
    assert store.load(tmp_path / "g", config(max_position_embeddings=9999, pad_token_id=3))  # no part of what gates see


def test_another_family_and_other_weights_are_refused(tmp_path):
    gates = Gates.of(config())
    store.save(gates, store.made_for(config(), gates.shape, "m", weights="aaa"), tmp_path / "g")
    with pytest.raises(BadInput, match="architecture llama; q has qwen3"):
        store.load(tmp_path / "g", config("qwen"), name="q")
    with pytest.raises(BadInput, match="weights aaa of m; q has bbb"):
        store.load(tmp_path / "g", config(), name="q", weights="bbb")
    assert store.load(tmp_path / "g", config(), weights="aaa") and store.load(tmp_path / "g", config())


def test_another_block_needs_a_word(tmp_path):
    gates = saved(tmp_path / "g")
    with pytest.raises(BadInput, match=r"blocks of 64 tokens, not 128; --reuse-gate"):
        store.load(tmp_path / "g", block=128)
    loaded = store.load(tmp_path / "g", block=128, reuse_gate=True)
    same(gates, loaded.gates)
    assert loaded.gates[0].shape.block == loaded.made.shape.block == 128 and "at 128" in loaded.notes[0]
    with pytest.raises(BadInput, match="got 100"):
        store.load(tmp_path / "g", block=100, reuse_gate=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(PREFIX.format(1, "linear_q")), "layer 1, query .*got nothing"),
        (lambda t: [t.pop(k) for k in list(t) if ".1." in k], "no gate of layers 1"),
        (lambda t: t.update({PREFIX.format(7, "linear_q"): draw(2)}), "gates of layers 7 too"),
        (lambda t: t.update({PREFIX.format(0, "linear_v"): draw(2)}), "is no tensor of a gate"),
        (lambda t: t.update({"model.embed_tokens.weight": draw(2)}), "is no tensor of a gate"),
        (lambda t: t.update({PREFIX.format(0, "qnorm"): draw(9)}), r"expected a tensor of shape \(8,\), got .* \(9,\)"),
        (lambda t: t.update({PREFIX.format(0, "qnorm"): torch.ones(8).int()}), "float32, bfloat16, float16, got int32"),
        (lambda t: t[PREFIX.format(2, "linear_k")].view(-1)[3:4].fill_(float("nan")), "layer 2, key: holds NaN"),
        (
            lambda t: t[PREFIX.format(2, "linear_q")].view(-1)[3:4].fill_(float("inf")),
            "layer 2, query: holds NaN or inf",
        ),
        (lambda t: t.clear(), "expected a state dict"),
        (lambda t: t.update({"x": 3}), "expected a dense tensor, got int"),
        (lambda t: t.update({"x": draw(2, 2).to_sparse()}), "expected a dense tensor"),
    ],
)
def test_published_tensors_that_do_not_fit(change, told, tmp_path):
    shape = Shape.of(config())
    tensors = theirs(shape)
    change(tensors)
    with pytest.raises(BadInput, match=told):
        store.load(published(tmp_path / "p", config(), shape, tensors))


class Payload:
    def __reduce__(self):
        import os

        return os.mkdir, ("ran",)


def test_pickled_objects_do_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = published(tmp_path / "p", config(), Shape.of(config()))
    for data in (lambda f: torch.save({"x": Payload()}, f), lambda f: f.write_bytes(pickle.dumps(Payload()))):
        data(folder / "attn_gate_weights.pth")
        with pytest.raises(BadInput, match="pickled objects"):
            store.load(folder)
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 torn", b"not torch at all"])
def test_torn_files(data, tmp_path):
    folder = published(tmp_path / "p", config(), Shape.of(config()))
    (folder / "attn_gate_weights.pth").write_bytes(data)
    with pytest.raises(BadInput, match=r"attn_gate_weights\.pth"):
        store.load(folder)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"gate_block_size": 48}, "gate_block_size: expected one of 16"),
        ({"gate_block_size": "64"}, "gate_block_size: expected int"),
        ({"gate_block_size": True}, "gate_block_size: expected int"),
        ({"k_seq_pooling_type": "Ksum"}, "k_seq_pooling_type: expected K"),
        ({"q_head_pooling_type": "Qmax"}, "query_pooling: expected one of Qproj"),
        ({"sparsity_method": "magic"}, "sparsity_method: expected one of token_budget"),
        ({"gate_hidden_size": 0}, "gate_dim: expected 1"),
        ({"gate_hidden_size": 16}, "expected a tensor of shape"),
        ({"use_qk_norm": False}, "query_norm .*expected nothing"),
        ({"token_budget": 1.5}, "token_budget: expected int"),
    ],
)
def test_published_configs_that_are_wrong(keys, told, tmp_path):
    with pytest.raises(BadInput, match=told):
        store.load(published(tmp_path / "p", config(), Shape.of(config()), **keys))


def test_folders_that_hold_no_gates(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        store.load(tmp_path / "none")
    with pytest.raises(BadInput, match="no gates"):
        store.load(tmp_path)
    folder = published(tmp_path / "p", config(), Shape.of(config()))
    (folder / "config.json").write_text(config().to_json_string())
    with pytest.raises(BadInput, match="no seerattn_ keys"):
        store.load(folder)
    for text, told in (("{", "not JSON"), ("[]", "expected a JSON object"), ('{"seerattn_a": 1}', "model_type"),
                       ('{"seerattn_a": 1, "model_type": "nix"}', "transformers knows")):  # fmt: skip
        (folder / "config.json").write_text(text)
        with pytest.raises(BadInput, match=told):
            store.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"config\.json: no such file"):
        store.load(folder)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["schema"], "seer-decode-gate/9", "schema: expected seer-decode-gate/1"),
        (["shape", "block"], 48, "block: expected one of"),
        (["shape", "heads"], "x", "Expected `int`"),
        (["shape", "gated"], [0, 1], "expected gates of layers 0-1: there are gates of layers 2 too"),
        (["shape", "gated"], [2, 1], "ascending"),
        (["base", "heads"], 2, "heads 2"),
        (["config", "num_attention_heads"], 2, "heads 4; a-model has 2"),
        (["config", "rope_parameters", "rope_theta"], 1.0, "rope_theta"),
        (["sha256"], "0" * 64, "not of one run"),
        (["shape", "query_pooling"], "Qavgproj", "expected a tensor of shape"),
    ],
)
def test_descriptions_that_were_changed(path, value, told, tmp_path):
    saved(tmp_path / "g")
    file = tmp_path / "g" / "gate.json"
    told_now = at = json.loads(file.read_text())
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(json.dumps(told_now))
    with pytest.raises(BadInput, match=told):
        store.load(tmp_path / "g")


def test_our_tensors_that_are_torn_or_strange(tmp_path):
    from safetensors.torch import save

    saved(tmp_path / "g")
    file, said = tmp_path / "g" / "gate.safetensors", tmp_path / "g" / "gate.json"
    for data, told in ((b"torn", "not safetensors"), (save({"layers.0.value": draw(2)}), "no tensor of a gate")):
        file.write_bytes(data)
        made = json.loads(said.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
        said.write_text(json.dumps(made))
        with pytest.raises(BadInput, match=told):
            store.load(tmp_path / "g")
    file.unlink()
    with pytest.raises(BadInput, match="no such file"):
        store.load(tmp_path / "g")


def test_saving_keeps_what_it_does_not_own(tmp_path):
    gates = Gates.of(config())
    made = store.made_for(config(), gates.shape)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match=r"holds thesis\.tex"):
        store.save(gates, made, tmp_path / "other", overwrite=True)
    (tmp_path / "file").write_text("")
    for folder, told in (("file", "is a file"), ("no/such", "does not exist")):
        with pytest.raises(BadInput, match=told):
            store.save(gates, made, tmp_path / folder)
    saved(tmp_path / "g")
    with pytest.raises(BadInput, match="--overwrite replaces it"):
        store.save(gates, made, tmp_path / "g")
    store.save(gates, made, tmp_path / "g", "published", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == ["attn_gate_weights.pth", "config.json"]
    same(store.load(tmp_path / "g").gates, gates)
    with torch.no_grad():
        gates[0].key[0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"layers\.0\.key: holds NaN"):
        store.save(gates, made, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_two_at_once_and_a_full_disk(tmp_path, monkeypatch):
    from tenfold_shared.jsonl import Lock

    gates = Gates.of(config())
    made = store.made_for(config(), gates.shape)
    lock = Lock(tmp_path / ".g.lock", tmp_path / "g")
    with pytest.raises(Busy):
        store.save(gates, made, tmp_path / "g")
    lock.release()

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(store, "write_atomic", full)
    with pytest.raises(Missing, match="no space"):
        store.save(gates, made, tmp_path / "h")
    monkeypatch.undo()
    assert store.save(gates, made, tmp_path / "h")


def test_an_older_folder_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    """A write that fails half way, in either form, leaves what was there; a killed run's remains are no hindrance."""
    gates = saved(tmp_path / "g", form="published")
    made = store.made_for(config(), gates.shape)
    (tmp_path / ".g.new").mkdir()
    (tmp_path / ".g.new" / "half").write_text("")
    written = []

    def failing(path, data):
        if written:
            raise OSError(5, "Input/output error", str(path))
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(store, "write_atomic", failing)
    with pytest.raises(BadInput, match="cannot be written"):
        store.save(Gates.of(config(), seed=9), made, tmp_path / "g", "published", overwrite=True)
    same(store.load(tmp_path / "g").gates, gates)
    monkeypatch.undo()
    (tmp_path / "link").symlink_to(tmp_path / "g")
    store.save(Gates.of(config(), seed=9), made, tmp_path / "link", overwrite=True)
    same(store.load(tmp_path / "g").gates, Gates.of(config(), seed=9))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g", "link"]


def test_equal_gates_are_equal_bytes(tmp_path):
    saved(tmp_path / "a")
    saved(tmp_path / "b")
    for name in ("gate.safetensors", "gate.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert msgspec.json.decode((tmp_path / "a" / "gate.json").read_bytes())["schema"] == "seer-decode-gate/1"
