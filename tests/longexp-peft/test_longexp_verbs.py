"""The other verbs through their commands: profile, calibrate, predictor, eval, bench, merge, make-model, plot, doctor."""

import json

import peft
import pytest
import torch
from longexp_models import command, here, save
from safetensors.torch import load_file

from longexp_peft import Bundle, Sparse, Sparsity, planted, predict, shape
from longexp_peft.pack import row_of
from tenfold_shared import BadInput
from tenfold_shared.models import load_causal_lm


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save(tmp_path_factory.mktemp("verbs") / "model")


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    """A planted model: 64 wide, 256 neurons in 4 groups."""
    made = tmp_path_factory.mktemp("planted") / "model"
    done = here("make-model", "planted", "--hidden", 64, "--ffn", 256, "--layers", 2, "--heads", 4, "--vocab", 256, "--groups", 4, "--positions", 256, "--examples", 96, "--length", 64, "--completion", 24, "-q", "-o", made)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def garden_bundle(garden, tmp_path_factory):
    made = tmp_path_factory.mktemp("garden") / "bundle"
    read = ("--model", garden, "--batch-tokens", 128, "-q")
    done = here(
        "calibrate",
        garden / "train.jsonl",
        *read,
        "--neuron-block",
        16,
        "--attention-block",
        16,
        "--tokens",
        6000,
        "-o",
        made,
    )
    assert done.returncode == 0, done.stderr
    done = here(
        "predictor",
        "train",
        made,
        garden / "train.jsonl",
        *read,
        "--neuron-block",
        16,
        "--rank",
        8,
        "--steps",
        300,
        "--tokens",
        6000,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    return made


def answer(*arguments):
    done = here(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---------------------------------------------------------------- profile


def test_profile_tells_zeros_as_they_are(base):
    told = answer("profile", base / "train.jsonl", "--model", base, "--batch-tokens", 256, "-q")
    assert told.keys() >= {"advice", "layers", "amdahl"} and told["advice"].startswith("yes")
    model, _ = load_causal_lm(str(base))
    records = [json.loads(line) for line in (base / "train.jsonl").read_text().splitlines()]
    # The first row again, by the model's own modules.
    ids, used = [], 0
    for one in records:
        if used + len(one["context"]) + len(one["completion"]) > 256:
            break
        ids.append(torch.tensor(one["context"] + one["completion"]))
        used += len(ids[-1])
    kept = {}
    for layer, module in enumerate(shape.layers(model)):
        module.fc2.register_forward_pre_hook(
            lambda m, args, layer=layer: kept.setdefault(layer, []).append(args[0].detach())
        )
    for one in ids:
        model(input_ids=one[None])
    only = answer("profile", base / "train.jsonl", "--model", base, "--batch-tokens", 256, "--tokens", 1, "-q")
    for layer, found in enumerate(only["layers"]):
        h = torch.cat(kept[layer])
        assert found["zeros_token"] == pytest.approx(float((h == 0).float().mean()), abs=1e-4)
        assert found["zeros_batch"] == pytest.approx(float((h == 0).all(0).float().mean()), abs=1e-4)
        documents = torch.stack([(one == 0).all(0).float().mean() for one in kept[layer]])
        assert found["zeros_seq"] == pytest.approx(float(documents.mean()), abs=1e-4)
        energy = (
            (h.square().sum(0) * shape.layers(model)[layer].fc2.weight.square().sum(0)).sort(descending=True).values
        )
        for mass in (90, 95, 99):
            needed = int((energy.cumsum(0) < mass / 100 * energy.sum()).sum()) + 1
            assert found["density"][str(mass)] == pytest.approx(needed / 64, abs=1e-4)
        assert found["zeros_token"] >= found["zeros_seq"] >= found["zeros_batch"] > 0.5


def test_profile_says_no_to_what_has_no_zeros(tmp_path):
    gated = save(tmp_path / "gated", "llama")
    told = answer("profile", gated / "train.jsonl", "--model", gated, "-q")
    assert told["advice"].startswith("no: silu with a gate gives no exact zeros (0.0 % of activations)")
    assert "90 % of the energy" in told["advice"] and told["layers"][0]["zeros_token"] == 0
    done = here("profile", gated / "train.jsonl", "--model", gated, "-q")
    assert "at most" in done.stdout and "no: silu" in done.stdout


def test_heads_of_long_documents_have_patterns(tmp_path):
    base = save(tmp_path / "model")
    (base / "long.jsonl").write_text(json.dumps({"context": [5, 6, 7] * 40, "completion": [9] * 40}) + "\n")
    told = answer("profile", base / "long.jsonl", "--model", base, "--attention-block", 16, "--mass", 0.9, "-q")
    heads = told["layers"][0]["heads"]
    assert len(heads) == 4
    for head in heads:
        assert head["lost"] <= 0.1 + 1e-6 or head["pattern"] == "dense"
        assert 0 < head["exposed"] <= 55 / 100  # of 10 blocks, causal
    assert (
        answer("profile", base / "train.jsonl", "--model", base, "--attention-block", 16, "-q")["layers"][0]["heads"]
        == []
    )


# ---------------------------------------------------------------- bundles


def test_reordering_leaves_the_function_and_gathers_what_works_together(garden, garden_bundle):
    model, _ = load_causal_lm(str(garden))
    ids = torch.arange(4, 60)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        bundle = Bundle.load(garden_bundle, model)
        predict.lay_on(bundle, model)
        assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-4)
    known = planted.read(garden)["neurons"]
    for layer in range(2):
        groups = torch.tensor(known[layer])[bundle.order(layer)].view(-1, 16)
        assert (groups == groups[:, :1]).all()  # every block of 16 is of one group, which lie scattered in the model
        assert not (torch.tensor(known[layer]).view(-1, 16) == torch.tensor(known[layer]).view(-1, 16)[:, :1]).all()


def test_predictors_find_the_planted_sets(garden, garden_bundle):
    """On rows of one topic and of two: the quarter, or the half, of the neurons that can fire, and all of their energy."""
    from longexp_peft import dataset

    model, tokenizer = load_causal_lm(str(garden))
    bundle = Bundle.load(garden_bundle, model)
    data = dataset.read([str(garden / "valid.jsonl")], tokenizer, 258, form="ids", max_length=64).examples
    topics = [json.loads(line)["topic"] for line in (garden / "valid.jsonl").read_text().splitlines()]
    predict.lay_on(bundle, model)
    sparse = Sparse(model, Sparsity(mode="predicted", break_even=1.0), bundle)
    exact = Sparse(model, Sparsity(mode="exact", break_even=1.0))
    chosen = {}
    sparse.watch = lambda layer, x, w, rows, u: chosen.__setitem__(layer, rows)
    for pair in ((0, 0), (1, 1), (0, 1), (2, 3)):
        picked = [data[i] for topic in pair for i in [j for j, t in enumerate(topics) if t == topic][:1]]
        row = row_of(picked)
        with sparse.attached():
            ours = sparse.loss(row)
        with exact.attached():
            theirs = exact.loss(row)
        for layer in range(2):
            truth = torch.from_numpy(planted.true_set(garden, layer, set(pair)))[bundle.order(layer)]
            kept = torch.zeros(256, dtype=torch.bool)
            kept[slice(None) if chosen[layer] is None else chosen[layer]] = True
            assert not (kept & ~truth).any()
            assert float((kept & truth).sum() / truth.sum()) > 0.9
        assert float(ours) == pytest.approx(float(theirs), rel=0.02)


def test_predicted_neurons_stay_few_while_an_adapter_trains(garden, garden_bundle, tmp_path):
    """Doubt about every token must not add up to blocks that none wants."""
    done = here("train", garden / "train.jsonl", "--model", garden, "--mode", "predicted", "--bundle", garden_bundle, "--batch-tokens", 128, "--lr", 3e-3, "--steps", 120, "--audit-every", 10, "-q", "-o", tmp_path / "a")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()]
    assert sum(one["density"] for one in lines[-20:]) / 20 < 0.6  # two topics of four fire: a half
    assert all(one["audit"]["recall"] > 0.98 for one in lines if "audit" in one)


def test_predictor_eval_says_yes_and_no(garden, garden_bundle, tmp_path):
    read = ("--model", garden, "--batch-tokens", 128, "-q")
    told = answer("predictor", "eval", garden_bundle, garden / "valid.jsonl", *read)
    assert told["recall"] > 0.99 and told["density"] < 0.6 and len(told["layers"]) == 2
    careless = Bundle.load(garden_bundle)
    for layer in careless.info["layers"]:
        layer["lost"] = 0.4
    careless.save(tmp_path / "careless")
    done = here("predictor", "eval", tmp_path / "careless", garden / "valid.jsonl", *read)
    assert done.returncode == 1 and "layers 0, 1 keep less than 0.99 of the energy" in done.stderr


def test_svd_needs_no_training_and_takes_drift_exactly(garden, garden_bundle, tmp_path):
    import shutil

    from longexp_peft.mlp import Weights, into
    from longexp_peft.predictor import Svd

    own = tmp_path / "bundle"
    shutil.copytree(garden_bundle, own)
    read = ("--model", garden, "--batch-tokens", 128, "-q")
    told = answer(
        "predictor",
        "train",
        own,
        garden / "train.jsonl",
        *read,
        "--kind",
        "svd",
        "--rank",
        16,
        "--neuron-block",
        16,
        "--tokens",
        4000,
    )
    assert told["recall"] > 0.95 and told["density"] < 0.8
    # Full rank, any drift of the first matrix: the estimate is the energy itself.
    from longexp_peft.exposer import column_norms, hidden_of
    from longexp_peft.methods import Method, attach
    from longexp_peft.predictor import token_energy

    model, _ = load_causal_lm(str(garden))
    tuned = attach(model, Method("lora", targets=("fc1",)), "base")
    with torch.no_grad():
        for p in tuned.parameters.values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        w = Weights.of(shape.feed_forwards(model)[0])._replace(function=torch.relu)
        x = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
        predictor = Svd.of(w, x.mean(0), 64, 16, 0.0)
        truth = token_energy(hidden_of(x, w), column_norms(w), 16).sum(0)
        assert torch.allclose(predictor.scores(x, w, into(x, w.up)), truth, rtol=1e-3)
        still = predictor.scores(x, w, None)
        assert not torch.allclose(still, truth, rtol=5e-3)


def test_low_rank_scores_rise_with_drift_by_what_it_can_call_up(garden, garden_bundle):
    from longexp_peft.methods import Method, attach
    from longexp_peft.mlp import Weights, into

    model, _ = load_causal_lm(str(garden))
    bundle = Bundle.load(garden_bundle, model)
    tuned = attach(model, Method("lora", targets=("fc1",)), "base")
    with torch.no_grad():
        for p in tuned.parameters.values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        w = Weights.of(shape.feed_forwards(model)[0])
        x = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
        u = into(x, w.up)
        scorer = bundle.predictor(0)
        rise = scorer.scores(x, w, u) - scorer.scores(x, w, None)
        moved = w.up.low[2] * u @ w.up.low[1].t()  # Δz, token by token
        norms2 = bundle.tensors["predictor.0.norms2"]
        truth = (moved.square() * norms2).sum(0).view(-1, 16).sum(1)
        assert torch.allclose(rise, truth, rtol=1e-3, atol=1e-3 * float(truth.max()))


def test_a_damaged_bundle_is_refused(garden, garden_bundle, tmp_path):
    import shutil

    own = tmp_path / "bundle"
    shutil.copytree(garden_bundle, own)
    found = load_file(own / "bundle.safetensors")
    found["order.0"] = found["order.0"].flip(0)
    from safetensors.torch import save_file

    save_file(found, own / "bundle.safetensors")
    with pytest.raises(BadInput, match="not of one run"):
        Bundle.load(own)
    done = here(
        "calibrate", garden / "train.jsonl", "--model", garden, "--batch-tokens", 128, "--tokens", 100, "-q", "-o", own
    )
    assert done.returncode == 2 and "choose another output" in done.stderr


# ---------------------------------------------------------------- bench


def test_bench_compares_in_one_run(garden, garden_bundle, tmp_path):
    told = answer(
        "bench",
        "--model",
        garden,
        "--batch-tokens",
        128,
        "--tokens",
        4000,
        "--bundle",
        garden_bundle,
        "--steps",
        4,
        "--plot",
        tmp_path / "b.png",
        "-q",
    )
    arms = {one["arm"]: one for one in told["arms"]}
    assert {"peft", "dense", "exact", "predicted", "static", "svd", "random"} <= arms.keys()
    assert (
        set(told["left_out"])
        == {"predicted-attention", "blocks", "bigbird", "longformer", "random-attention"} - arms.keys()
    )
    assert arms["exact"]["losses_apart"] < 1e-5 and arms["dense"]["losses_apart"] < 1e-5
    assert arms["exact"]["density"] == pytest.approx(0.25, abs=0.01)
    assert arms["predicted"]["density"] == pytest.approx(0.25, abs=0.02)
    assert arms["random"]["density"] == pytest.approx(arms["predicted"]["density"], abs=0.02)
    assert arms["random"]["losses_apart"] > 10 * arms["predicted"]["losses_apart"]
    assert arms["predicted"]["bound"] > arms["exact"]["bound"] > 1 == arms["peft"]["bound"]
    assert all(one["of_bound"] == pytest.approx(one["ratio"] / one["bound"], abs=2e-3) for one in arms.values())
    assert told["packing"]["tokens_factor"] == 1.0 and (tmp_path / "b.png").stat().st_size > 1000
    assert arms["predicted"]["flop"] < arms["exact"]["flop"] < arms["dense"]["flop"]
    done = here(
        "bench",
        "--model",
        garden,
        "--batch-tokens",
        128,
        "--tokens",
        2000,
        "--bundle",
        garden_bundle,
        "--arms",
        "exact",
        "-q",
    )
    assert done.returncode == 2 and "peft or dense" in done.stderr


def test_bench_makes_its_own_bundle_and_arms_of_attention(tmp_path):
    base = save(tmp_path / "model")
    draw = torch.Generator().manual_seed(0)
    lines = [
        {"context": torch.randint(3, 97, (60,), generator=draw).tolist(), "completion": [5 + i % 9] * 60}
        for i in range(12)
    ]
    (base / "long.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    told = answer(
        "bench",
        base / "long.jsonl",
        "--model",
        base,
        "--batch-tokens",
        128,
        "--attention-block",
        16,
        "--neuron-block",
        4,
        "--steps",
        2,
        "-q",
    )
    arms = {one["arm"]: one for one in told["arms"]}
    assert told["left_out"] == {}
    assert arms["longformer"]["attention_density"] == pytest.approx(0.5, abs=1e-3)  # w12 over 8 blocks is causal
    assert (
        arms["bigbird"]["density"] == 1.0
        and arms["bigbird"]["attention_density"] <= 0.5 == arms["longformer"]["attention_density"]
    )


# ---------------------------------------------------------------- eval, merge


def test_eval_with_and_without_skipping(garden, garden_bundle):
    read = ("--model", garden, "--batch-tokens", 128, "-q")
    losses = {
        mode: answer(
            "eval",
            garden / "valid.jsonl",
            *read,
            "--mode",
            mode,
            *(("--bundle", garden_bundle) if mode == "predicted" else ()),
        )["loss"]
        for mode in ("dense", "exact", "predicted")
    }
    assert losses["exact"] == pytest.approx(losses["dense"], abs=1e-5)
    assert losses["predicted"] == pytest.approx(losses["dense"], rel=0.02)
    for more, said in (
        (("--max-length", 4000), "positions"),
        (("--mode", "exact", "--attention", "blocks"), "predicted or static"),
    ):
        done = here("eval", garden / "valid.jsonl", *read, *more)
        assert done.returncode == 2 and said in done.stderr
    done = here("eval", garden / "valid.jsonl", "-q")
    assert done.returncode == 2 and "--adapter DIR" in done.stderr


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_merge_is_the_base_with_the_adapter(base, tmp_path, method):
    done = here(
        "train",
        base / "train.jsonl",
        "--model",
        base,
        "--method",
        method,
        "--batch-tokens",
        128,
        "--lr",
        1e-2,
        "--steps",
        4,
        "-q",
        "-o",
        tmp_path / "a",
    )
    assert done.returncode == 0, done.stderr
    done = here("merge", tmp_path / "a", "-q", "-o", tmp_path / "merged")
    assert done.returncode == 0, done.stderr
    ids = torch.arange(4, 40)[None]
    merged, _ = load_causal_lm(str(tmp_path / "merged"))
    fresh, _ = load_causal_lm(str(base))
    with torch.no_grad():
        before = fresh(input_ids=ids).logits.clone()
        truth = peft.PeftModel.from_pretrained(fresh, tmp_path / "a").eval()(input_ids=ids).logits
        found = merged(input_ids=ids).logits
    assert torch.allclose(found, truth, atol=1e-5) and not torch.allclose(found, before, atol=1e-3)
    done = here("merge", tmp_path / "a", "-q", "-o", tmp_path / "merged")
    assert done.returncode == 2 and "--overwrite" in done.stderr


def test_an_adapter_of_another_model_or_a_damaged_one_is_refused(base, tmp_path):
    """peft itself only warns, and drops layers that are not there."""
    done = here(
        "train",
        base / "train.jsonl",
        "--model",
        base,
        "--batch-tokens",
        128,
        "--steps",
        1,
        "-q",
        "-o",
        tmp_path / "a",
    )
    assert done.returncode == 0, done.stderr
    for layers in (2, 4):
        other = save(tmp_path / f"other-{layers}", num_hidden_layers=layers)
        for verb in (
            ("merge", tmp_path / "a", "-o", tmp_path / "m"),
            ("eval", base / "valid.jsonl", "--adapter", tmp_path / "a"),
        ):
            done = here(*verb, "--model", other, "-q")
            assert done.returncode == 2 and "is for another model" in done.stderr and done.stderr.count("\n") == 1
    whole = (tmp_path / "a/adapter_model.safetensors").read_bytes()
    (tmp_path / "a/adapter_model.safetensors").write_bytes(whole[:500])
    for verb in (
        ("merge", tmp_path / "a", "-o", tmp_path / "m"),
        ("eval", base / "valid.jsonl", "--adapter", tmp_path / "a"),
    ):
        done = here(*verb, "-q")
        assert done.returncode == 2 and "damaged" in done.stderr and done.stderr.count("\n") == 1
    done = here("train", base / "train.jsonl", "--model", base, "--init", tmp_path / "a", "-q", "-o", tmp_path / "b")
    assert done.returncode == 2 and "does not fit" in done.stderr
    assert not (tmp_path / "m").exists()
    done = here("eval", base / "valid.jsonl", "--adapter", tmp_path / "nothing")
    assert done.returncode == 2 and "no such folder" in done.stderr


def test_what_is_no_change_of_weights_is_not_merged(base, tmp_path):
    for method, said in (("prefix", "serve it with peft"), ("adapter", "load_adapter")):
        folder = tmp_path / method
        assert here("train", base / "train.jsonl", "--model", base, "--method", method, "--virtual-tokens", 4, "--batch-tokens", 128, "--steps", 1, "-q", "-o", folder).returncode == 0  # fmt: skip
        done = here("merge", folder, "-q", "-o", tmp_path / "m")
        assert done.returncode == 2 and said in done.stderr
    done = here("merge", tmp_path, "-q", "-o", tmp_path / "m")
    assert done.returncode == 2 and "--model" in done.stderr


# ---------------------------------------------------------------- pictures, doctor


def test_pictures(base, tmp_path):
    for name, mode in (("dense", "dense"), ("exact", "exact")):
        assert here("train", base / "train.jsonl", "--model", base, "--mode", mode, "--batch-tokens", 128, "--steps", 5, "--eval", base / "valid.jsonl", "--eval-every", 2, "-q", "-o", tmp_path / name).returncode == 0  # fmt: skip
    assert here("plot", tmp_path / "dense", tmp_path / "exact", "-o", tmp_path / "runs.svg", "-q").returncode == 0
    text = (tmp_path / "runs.svg").read_text()
    assert "<svg" in text and "dense" in text
    (tmp_path / "p.json").write_text(here("profile", base / "train.jsonl", "--model", base, "-q", "--json").stdout)
    assert here("plot", tmp_path / "p.json", "-o", tmp_path / "p.png", "-q").returncode == 0
    for sources, said in (
        ((base,), "no log.jsonl"),
        ((tmp_path / "none.json",), "no such file; expected a folder of train"),
        ((base / "train.jsonl",), "neither"),
    ):
        done = here("plot", *sources, "-o", tmp_path / "x.png")
        assert done.returncode == 2 and said in done.stderr
    done = here("plot", tmp_path / "dense", "-o", tmp_path / "x.pdf")
    assert done.returncode == 2 and ".png or .svg" in done.stderr


def test_help_version_doctor():
    done = command("--help")
    assert done.returncode == 0 and "profile" in done.stdout
    told = json.loads(command("doctor", "--json").stdout)
    assert told["extras"]["items"]["hf"]["ok"] and told.keys() == {"device", "backends", "extras", "kernels", "sandbox"}


def test_a_planted_model_is_made_once_and_others_folders_are_left(garden, tmp_path):
    before = (garden / "model.safetensors").stat().st_mtime_ns
    again = ("make-model", "planted", "--hidden", 64, "--ffn", 256, "--layers", 2, "--heads", 4, "--vocab", 256, "--groups", 4, "--positions", 256, "--examples", 96, "--length", 64, "--completion", 24, "-q")  # fmt: skip
    assert here(*again, "-o", garden).returncode == 0 and (garden / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "mine.txt").write_text("mine")
    assert here(*again, "-o", tmp_path).returncode == 2 and (tmp_path / "mine.txt").read_text() == "mine"
    done = here("make-model", "planted", "--groups", 7, "-q", "-o", tmp_path / "x")
    assert (done.returncode == 2 and "--ffn" in done.stderr) or "--groups" in done.stderr
