"""Every method, packed and sparse, against peft's own modules read one example at a time in float64; and what is written to disk."""

import json
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from longexp_models import alone, examples, make, save, stir
from safetensors.torch import load_file

from longexp_peft import load_adapter, shape
from longexp_peft.audit import Audit
from longexp_peft.methods import METHODS, Method, attach
from longexp_peft.pack import row_of
from longexp_peft.sparse import Sparse, Sparsity
from tenfold_shared import BadInput, Missing
from tenfold_shared.models import load_causal_lm

warnings.filterwarnings("ignore", module="peft")
FFN = {
    "opt": ("fc1", "fc2"),
    "post-ln": ("fc1", "fc2"),
    "gpt2": ("c_fc", "c_proj"),
    "arcee": ("up_proj", "down_proj"),
    "llama": ("gate_proj", "up_proj", "down_proj"),
}


def tuned_of(kind, method, **more):
    targets = (*(["q_proj", "v_proj"] if kind != "gpt2" else ["c_attn"]), *FFN[kind]) if method == "lora" else ()
    return stir(attach(make(kind), Method(method, virtual_tokens=7, bottleneck=5, targets=targets, **more), "base"))


def differences(loss, other, parameters):
    a, b = (torch.autograd.grad(x, parameters, allow_unused=True, retain_graph=True) for x in (loss, other))
    worst = abs(float((loss - other).detach()))
    for p, q in zip(a, b, strict=True):
        p, q = (torch.zeros(()) if t is None else t for t in (p, q))
        worst = max(worst, float((p - q).abs().max()))
    return worst


@pytest.mark.parametrize("kind", ["opt", "post-ln", "gpt2", "arcee", "llama"])
@pytest.mark.parametrize("method", METHODS)
def test_packed_and_exact_are_pefts_own_loss_and_gradients(kind, method):
    tuned = tuned_of(kind, method)
    parameters, some = list(tuned.parameters.values()), examples()
    truth = alone(tuned.peft if tuned.peft is not None else tuned.model, some)
    small = (
        1e-9 if kind in ("opt", "post-ln", "gpt2") else 1e-5
    )  # the others' norms and rotations are float32 whatever the weights
    for mode in ("dense",) if kind == "llama" else ("dense", "exact"):
        for group in ("batch", "sequence"):
            sparse = Sparse(tuned.model, Sparsity(mode=mode, group=group, break_even=1.0))
            with sparse.attached():
                loss = sparse.loss(row_of(some), tuned.prompt())
                assert differences(loss, truth, parameters) < small
            if mode == "exact":
                assert max(sparse.densities.values()) < 0.5
    # Outside, the model computes as before.
    assert abs(float((alone(tuned.peft if tuned.peft is not None else tuned.model, some) - truth).detach())) < 1e-9


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_layer_that_is_run_again_uses_its_set(checkpointing):
    tuned = tuned_of("opt", "lora")
    if checkpointing:
        tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
        tuned.model.train()
    truth = alone(tuned.peft.eval(), examples())
    tuned.model.train(checkpointing)
    sparse = Sparse(tuned.model, Sparsity(mode="exact", break_even=1.0))
    chosen = []
    sparse.watch = lambda layer, x, w, rows, u: chosen.append(layer)
    with sparse.attached():
        assert differences(sparse.loss(row_of(examples())), truth, list(tuned.parameters.values())) < 1e-9
    assert chosen == [0, 1, 2]


@pytest.mark.parametrize("mode", ["dense", "exact"])
@pytest.mark.parametrize("targets", [("q_proj",), ("fc1",), ("fc2",), ("q_proj", "fc1", "fc2")])
def test_dropout_is_the_same_when_a_layer_is_run_again(mode, targets):
    """LoRA's dropout with gradient checkpointing, audited or not: the gradients without."""
    found = []
    for checkpointing, audited in ((False, False), (True, False), (True, True)):
        tuned = stir(attach(make("opt"), Method("lora", targets=targets, dropout=0.3), "base"))
        if checkpointing:
            tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
        tuned.model.train()  # all: OPT draws a number a layer when it trains
        sparse = Sparse(tuned.model, Sparsity(mode=mode, break_even=1.0))
        audit = Audit(sparse, 1, 0.99, 0)
        with sparse.attached():
            torch.manual_seed(3)
            if audited:
                audit.before(1)
            loss = sparse.loss(row_of(examples()))
            found.append([loss.detach(), *torch.autograd.grad(loss, list(tuned.parameters.values()))])
        if audited and mode == "exact":
            assert audit.answer([audit.look()])["action"] == "none"
    for other in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found[0], other, strict=True))


def test_padding_and_packing_change_nothing():
    """The same examples padded to 64, to 128, in one row, in two: one loss, one gradient."""
    tuned = tuned_of("opt", "lora")
    some, parameters = examples(), list(tuned.parameters.values())
    sparse = Sparse(tuned.model, Sparsity(mode="exact", break_even=1.0))
    with sparse.attached():
        one = sparse.loss(row_of(some))
        two = sparse.loss(row_of(some[:2])) + sparse.loss(row_of(some[2:]))
        assert differences(one, two, parameters) < 1e-9
    for width in (64, 128):
        total = 0.0
        ids = torch.zeros(len(some), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, e in enumerate(some):
            ids[i, : len(e.ids)], mask[i, : len(e.ids)] = torch.tensor(e.ids), 1
        logp = tuned.peft(input_ids=ids, attention_mask=mask).logits.double().log_softmax(-1)
        for i, e in enumerate(some):
            for t in np.flatnonzero(e.target):
                total = total - logp[i, t - 1, int(e.ids[t])]
        with sparse.attached():
            assert differences(sparse.loss(row_of(some)), total, parameters) < 1e-9


def test_label_smoothing_is_torchs():
    tuned = tuned_of("opt", "lora")
    some = examples()
    sparse = Sparse(tuned.model, Sparsity())
    row = row_of(some)
    with sparse.attached():
        loss = sparse.loss(row, smoothing=0.1)
        hidden = sparse.hidden(row)
    logits = tuned.model.get_output_embeddings()(hidden[row.at])
    truth = torch.nn.functional.cross_entropy(logits, row.labels, label_smoothing=0.1, reduction="sum")
    assert differences(loss, truth, list(tuned.parameters.values())) < 1e-9


def test_dense_targets_take_all_neurons_and_the_others_the_set():
    tuned = tuned_of("opt", "lora")
    some = examples()
    seen = {}
    sparse = Sparse(tuned.model, Sparsity(mode="exact", break_even=1.0, dense_targets=True))
    sparse.watch = lambda layer, x, w, rows, u: seen.setdefault(layer, []).append(len(x))
    with sparse.attached():
        loss = sparse.loss(row_of(some))
    truth = alone(tuned.peft, some)
    assert differences(loss, truth, list(tuned.parameters.values())) < 1e-9
    row = row_of(some)
    assert seen[0] == [row.tokens - len(row.at)]
    assert len(row.at) / row.tokens < sparse.densities[0] < 1


def test_a_neuron_left_out_is_seen():
    """The exactness checks above fail when one active neuron is missing."""
    tuned = tuned_of("opt", "lora")
    truth = alone(tuned.peft, examples())
    sparse = Sparse(tuned.model, Sparsity(mode="exact", break_even=1.0))
    pays = sparse._pays
    sparse._pays = lambda rows, ffn: pays(rows, ffn)[1:]
    with sparse.attached():
        assert differences(sparse.loss(row_of(examples())), truth, list(tuned.parameters.values())) > 1e-6


def test_exact_refuses_what_has_no_zeros():
    with pytest.raises(Missing, match=r"silu.*no exact zeros.*ReLU model"):
        Sparse(make("llama"), Sparsity(mode="exact"))


# ---------------------------------------------------------------- on disk


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save(tmp_path_factory.mktemp("base") / "model")


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None], attention_mask=torch.ones(1, 37, dtype=torch.long)).logits[
            0, -37:
        ]


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_trained_in_another_order_is_the_bases_own(base, tmp_path, method):
    """Neurons shuffled, adapter stirred, saved: stock peft on the base as it was gives the logits that the shuffled model gave."""
    model, _ = load_causal_lm(str(base))
    before = logits_of(model)
    tuned = attach(
        model,
        Method(method, virtual_tokens=7, targets=("q_proj", "v_proj", "fc1", "fc2") if method == "lora" else ()),
        str(base),
    )
    draw = torch.Generator().manual_seed(3)
    tuned.reorder([torch.randperm(64, generator=draw) for _ in range(3)])
    outer = (tuned.peft if tuned.peft is not None else tuned.model).eval()
    if method in ("lora", "bitfit"):
        with outer.disable_adapter():
            assert torch.allclose(logits_of(outer), before, atol=1e-5)
    with torch.no_grad():
        for name in sorted(tuned.parameters):
            tuned.parameters[name].add_(0.05 * torch.randn(tuned.parameters[name].shape, generator=draw))
    ours = logits_of(outer)
    assert not torch.allclose(ours, before, atol=1e-2)
    tuned.save(tmp_path / "adapter")
    assert torch.equal(logits_of(outer), ours)  # and training could go on
    fresh, _ = load_causal_lm(str(base))
    if method == "adapter":
        assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == ["adapter.json", "adapter.safetensors"]
        theirs = logits_of(load_adapter(fresh, tmp_path / "adapter"))
    else:
        theirs = logits_of(peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval())
        assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(
            base
        )
    assert torch.allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "prefix", "ptuning"])
def test_keys_are_pefts_own(base, tmp_path, method):
    model, _ = load_causal_lm(str(base))
    attach(model, Method(method, virtual_tokens=7), str(base)).save(tmp_path / "ours")
    config = {
        "lora": peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=7, prefix_projection=True, task_type="CAUSAL_LM"),
        "ptuning": peft.PromptEncoderConfig(num_virtual_tokens=7, encoder_hidden_size=32, task_type="CAUSAL_LM"),
    }[method]
    fresh, _ = load_causal_lm(str(base))
    peft.get_peft_model(fresh, config).save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_adapters_of_another_model_are_refused(base, tmp_path):
    model, _ = load_causal_lm(str(base))
    attach(model, Method("adapter", bottleneck=5), str(base)).save(tmp_path / "adapter")
    with pytest.raises(BadInput, match="another model"):
        load_adapter(make("opt", hidden_size=16, word_embed_proj_dim=16).float(), tmp_path / "adapter")
    with pytest.raises(BadInput, match="3 layers, this one has 2"):
        load_adapter(make("arcee").float(), tmp_path / "adapter")
    Path(tmp_path / "adapter/adapter.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(BadInput, match="no adapter of"):
        load_adapter(make("opt").float(), tmp_path / "adapter")


def test_bad_methods_are_told():
    with pytest.raises(BadInput, match=r"no x_proj; it has .*q_proj"):
        attach(make("opt"), Method("lora", targets=("x_proj",)), "base")
    with pytest.raises(BadInput, match="no biases"):
        attach(make("llama", mlp_bias=True).__class__(make("llama").config.__class__(
            vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2)), Method("bitfit"), "base")  # fmt: skip


def test_only_what_is_asked_for_trains():
    for method in METHODS:
        tuned = attach(make("opt"), Method(method, virtual_tokens=4, bottleneck=3), "base")
        own = {
            "lora": "lora_",
            "adapter": "longexp_",
            "bitfit": "bias",
            "prefix": "prompt_encoder",
            "ptuning": "prompt_encoder",
        }[method]
        assert tuned.parameters and all(own in name for name in tuned.parameters)
        assert shape.plain(tuned.model).get_input_embeddings().weight.requires_grad is False
        assert tuned.first == 0
