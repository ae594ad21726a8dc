"""`train` through its command: determinism, kills, ranks, parity with dense, audits, and bad input."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import peft
import pytest
import torch
from longexp_models import BIN, ONE_THREAD, command, here, save
from safetensors.torch import load_file

from tenfold_shared.models import load_causal_lm


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save(tmp_path_factory.mktemp("train") / "model")


SMALL = ("--batch-tokens", 128, "--lr", 1e-2, "--warmup", 2, "-q")


def train(base, out, *more, data="train.jsonl"):
    done = here("train", base / data, "--model", base, *SMALL, "-o", out, *more)
    assert done.returncode == 0, done.stderr
    return out


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder):
    return [one["loss"] for one in log(folder) if "loss" in one]


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def test_from_data_to_an_adapter_that_peft_loads(base, tmp_path):
    done = command("train", base / "train.jsonl", "--model", base, *SMALL, "--mode", "exact", "--epochs", 8, "--eval", base / "valid.jsonl", "--json", "-o", tmp_path / "a")  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["loss_last"] < 0.8 * told["loss_first"]
    assert told["density"] < 0.5 and told["recall"] == 1.0 and told["examples"] == 60
    lines = log(tmp_path / "a")
    assert [one["step"] for one in lines] == list(range(1, told["steps"] + 1))
    assert {"loss", "lr", "tokens", "targets", "tokens_s", "density", "grad_norm"} <= lines[0].keys()
    # Stock peft, one example at a time, has the loss that is told.
    model, _ = load_causal_lm(str(base))
    model = peft.PeftModel.from_pretrained(model, tmp_path / "a").eval()
    total = count = 0
    for line in (base / "valid.jsonl").read_text().splitlines():
        one = json.loads(line)
        ids = torch.tensor(one["context"] + one["completion"])
        with torch.no_grad():
            logp = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for t in range(len(one["context"]), len(ids)):
            total, count = total - float(logp[t - 1, ids[t]]), count + 1
    assert told["held_out"]["targets"] == count
    assert told["held_out"]["loss"] == pytest.approx(total / count, abs=1e-4)
    again = here("eval", base / "valid.jsonl", "--adapter", tmp_path / "a", "--json")
    assert json.loads(again.stdout)["loss"] == pytest.approx(total / count, abs=1e-4)
    # And run again it has nothing to do.
    before = weights(tmp_path / "a")
    done = here("train", base / "train.jsonl", "--model", base, *SMALL, "--mode", "exact", "--epochs", 8, "--eval", base / "valid.jsonl", "-o", tmp_path / "a")  # fmt: skip
    assert done.returncode == 0 and weights(tmp_path / "a") == before


def test_two_runs_are_one_and_another_seed_is_not(base, tmp_path):
    one = weights(train(base, tmp_path / "a", "--steps", 5, "--lora-dropout", 0.3))
    assert weights(train(base, tmp_path / "b", "--steps", 5, "--lora-dropout", 0.3)) == one
    assert weights(train(base, tmp_path / "c", "--steps", 5, "--lora-dropout", 0.3, "--seed", 1)) != one


def test_exact_has_the_losses_of_dense_for_fifty_steps(base, tmp_path):
    dense = losses(train(base, tmp_path / "d", "--steps", 50))
    exact = losses(train(base, tmp_path / "e", "--steps", 50, "--mode", "exact"))
    assert len(dense) == 50 and max(abs(a - b) for a, b in zip(dense, exact, strict=True)) < 1e-5
    assert dense[-1] < dense[0]


@pytest.mark.parametrize("method", ["adapter", "bitfit", "prefix", "ptuning"])
def test_every_method_learns_and_is_exact(base, tmp_path, method):
    more = ("--method", method, "--virtual-tokens", 4, "--bottleneck", 8, "--steps", 16)
    dense = losses(train(base, tmp_path / "d", *more))
    exact = losses(train(base, tmp_path / "e", *more, "--mode", "exact", "--eval", base / "valid.jsonl"))
    assert max(abs(a - b) for a, b in zip(dense, exact, strict=True)) < 1e-5
    assert sum(dense[-4:]) < sum(dense[:4])
    # What was written has the loss that was told, by the file.
    told = json.loads((tmp_path / "e/manifest.json").read_text())["counts"]["held_out"]["loss"]
    found = here(
        "eval", base / "valid.jsonl", "--model", base, "--adapter", tmp_path / "e", "--mode", "exact", "--json"
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["loss"] == pytest.approx(told, abs=1e-4)


def kill_after(arguments, ready, how=signal.SIGKILL):
    process = subprocess.Popen(
        [str(BIN), *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=ONE_THREAD
    )
    until = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err.decode()


def test_a_killed_run_goes_on_to_the_same_bytes(base, tmp_path, bundle):
    arguments = ["train", base / "train.jsonl", "--model", base, "--batch-tokens", 128, "--lr", 1e-2, "--warmup", 2, "-q", "--steps", 40, "--mode", "predicted", "--bundle", bundle, "--audit-every", 3, "--lora-dropout", 0.2]  # fmt: skip
    assert here(*arguments, "-o", tmp_path / "whole").returncode == 0
    work = tmp_path / "killed.work"

    def steps():
        path = work / "log.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    code, err = kill_after([*arguments, "-o", tmp_path / "killed"], lambda: steps() >= 5, signal.SIGTERM)
    assert code == 143, err
    assert (work / "state.safetensors").exists() and not (tmp_path / "killed").exists()
    code, err = kill_after([*arguments, "-o", tmp_path / "killed"], lambda: steps() >= 12)
    assert code == -9, err
    with open(work / "log.jsonl", "ab") as stream:
        stream.write(b'{"step": 13, "lo')  # torn by the kill
    done = here(*arguments, "-o", tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    unclocked = [
        [{k: v for k, v in one.items() if k not in ("seconds", "tokens_s")} for one in log(tmp_path / f)]
        for f in ("whole", "killed")
    ]
    assert unclocked[0] == unclocked[1] and any("audit" in one for one in unclocked[0])
    assert not work.exists()


def test_a_half_written_state_is_not_trusted(base, tmp_path):
    arguments = ["train", base / "train.jsonl", "--model", base, *SMALL, "--steps", 6, "-o", tmp_path / "a"]
    assert here(*arguments, "--max-time", "0.001s").returncode == 1
    state = tmp_path / "a.work/state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    done = here(*arguments)
    assert done.returncode == 0 and "starting again" in done.stderr
    assert weights(tmp_path / "a") == weights(train(base, tmp_path / "b", "--steps", 6))


def test_time_that_runs_out_is_kept(base, tmp_path):
    arguments = ["train", base / "train.jsonl", "--model", base, *SMALL, "--steps", 6, "-o", tmp_path / "a"]
    for _ in range(6):
        done = here(*arguments, "--max-time", "0.001s")
        if done.returncode == 0:
            break
        assert done.returncode == 1 and "the same command goes on" in done.stderr
    else:
        done = here(*arguments)
    assert done.returncode == 0
    assert weights(tmp_path / "a") == weights(train(base, tmp_path / "b", "--steps", 6))


def torchrun(arguments, processes=2):
    call = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "longexp_peft.cli",
    ]
    done = subprocess.run([*call, *map(str, arguments)], capture_output=True, text=True, timeout=180, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("how", [(), ("--fsdp",)])
def test_two_ranks_are_one_process_with_accumulated_gradients(base, tmp_path, how):
    arguments = [
        "train",
        base / "train.jsonl",
        "--model",
        base,
        *SMALL,
        "--steps",
        6,
        "--batch-rows",
        4,
        "--mode",
        "exact",
    ]
    assert here(*arguments, "-o", tmp_path / "one").returncode == 0
    torchrun([*arguments, *how, "-o", tmp_path / "two"])
    assert max(abs(a - b) for a, b in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True)) < 2e-5
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[k], two[k], atol=1e-4) for k in one)
    assert [a["tokens"] for a in log(tmp_path / "one")] == [a["tokens"] for a in log(tmp_path / "two")]


def test_sharded_ranks_with_unequal_rows_and_a_bundle(base, bundle, tmp_path):
    """Three rows on two ranks, the last step with fewer: every rank takes part; the adapter is in the base's order."""
    arguments = [
        "train",
        base / "train.jsonl",
        "--model",
        base,
        *SMALL,
        "--batch-rows",
        3,
        "--mode",
        "predicted",
        "--bundle",
        bundle,
    ]
    arguments += ["--target-modules", "q_proj,fc1,fc2", "--audit-every", 2]
    torchrun([*arguments, "--fsdp", "-o", tmp_path / "two"])
    assert here(*arguments, "-o", tmp_path / "one").returncode == 0
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=0.02)  # sets are each rank's own
    told = [
        json.loads(here("eval", base / "valid.jsonl", "--adapter", tmp_path / n, "--json").stdout)["loss"]
        for n in ("one", "two")
    ]
    assert told[0] == pytest.approx(told[1], abs=0.02)


def test_gradient_checkpointing_changes_no_loss(base, tmp_path):
    plain = losses(train(base, tmp_path / "a", "--steps", 6, "--mode", "exact"))
    again = losses(train(base, tmp_path / "b", "--steps", 6, "--mode", "exact", "--gradient-checkpointing"))
    assert max(abs(a - b) for a, b in zip(plain, again, strict=True)) < 1e-6


# ---------------------------------------------------------------- bundles


@pytest.fixture(scope="module")
def bundle(base, tmp_path_factory):
    made = tmp_path_factory.mktemp("bundle") / "bundle"
    done = here("calibrate", base / "train.jsonl", "--model", base, "--batch-tokens", 128, "--neuron-block", 4, "--attention-block", 16, "-q", "-o", made)  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = here("predictor", "train", made, base / "train.jsonl", "--model", base, "--batch-tokens", 128, "--neuron-block", 4, "--rank", 8, "--steps", 200, "-q")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("mode", ["predicted", "static"])
def test_lossy_modes_end_beside_dense_and_are_audited(base, bundle, tmp_path, mode):
    dense = losses(train(base, tmp_path / "d", "--steps", 30))
    told = train(
        base,
        tmp_path / "s",
        "--steps",
        30,
        "--mode",
        mode,
        "--bundle",
        bundle,
        "--attention",
        "blocks",
        "--audit-every",
        2,
    )
    ours = losses(told)
    assert sum(ours[-5:]) / 5 == pytest.approx(sum(dense[-5:]) / 5, rel=0.05)
    audits = [one["audit"] for one in log(told) if "audit" in one]
    assert len(audits) == 15 and all(one["recall"] > 0.9 for one in audits)
    assert json.loads((told / "manifest.json").read_text())["counts"]["density"] < 0.7
    # The adapter is for the base as it is, not for the bundle's order.
    told = json.loads(here("eval", base / "valid.jsonl", "--adapter", told, "--json").stdout)["loss"]
    other = json.loads(here("eval", base / "valid.jsonl", "--adapter", tmp_path / "d", "--json").stdout)["loss"]
    assert told == pytest.approx(other, rel=0.05)


def test_a_set_that_loses_too_much_grows_until_the_layer_is_dense(base, bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    from longexp_peft.bundle import Bundle

    made = Bundle.load(broken)
    for layer in made.info["layers"]:
        layer["static"] = 1
    made.save(broken)
    told = train(
        base,
        tmp_path / "s",
        "--steps",
        40,
        "--mode",
        "static",
        "--bundle",
        broken,
        "--audit-every",
        1,
        "--audit-recall",
        0.999,
    )
    audits = [one["audit"] for one in log(told) if "audit" in one]
    assert audits[0]["recall"] < 0.99 and audits[0]["action"] == "raised"
    assert "dense" in {one["action"] for one in audits}
    assert json.loads((told / "manifest.json").read_text())["counts"]["layers_dense"]
    first, last = (next(a for a in order if a["layer"] == audits[0]["layer"]) for order in (audits, audits[::-1]))
    assert last["density"] > first["density"]


def test_an_exact_run_that_is_not_ends(base, tmp_path, monkeypatch):
    from longexp_peft.sparse import Sparse

    pays = Sparse._pays
    monkeypatch.setattr(Sparse, "_pays", lambda self, rows, ffn: pays(self, rows[1:], ffn))
    done = here(
        "train",
        base / "train.jsonl",
        "--model",
        base,
        *SMALL,
        "--mode",
        "exact",
        "--audit-every",
        1,
        "-o",
        tmp_path / "a",
    )
    assert done.returncode == 1
    assert "active neurons are outside the exact set" in done.stderr


def test_audits_draw_nothing(base, tmp_path):
    """Dropout on every LoRA: exact stays exact under audits, and audits move no mask."""
    more = ("--mode", "exact", "--target-modules", "q_proj,fc1,fc2", "--lora-dropout", 0.3, "--steps", 12)
    often = train(base, tmp_path / "a", *more, "--audit-every", 1)
    never = train(base, tmp_path / "b", *more, "--audit-every", 0)
    assert weights(often) == weights(never)
    assert all(one["audit"]["apart"] < 1e-5 for one in log(often))


def test_biases_train_in_sixteen_bits(base, tmp_path):
    """A step of 1e-4 is less than a bfloat16 can tell of a bias near 1; float32 copies add the steps up."""
    more = (
        "--method",
        "bitfit",
        "--dtype",
        "bfloat16",
        "--steps",
        30,
        "--lr",
        1e-4,
        "--warmup",
        0,
        "--decay",
        "constant",
    )
    told = train(base, tmp_path / "a", *more)
    model, _ = load_causal_lm(str(base), dtype="bfloat16")
    found = load_file(told / "adapter_model.safetensors")
    before = dict(model.named_parameters())
    moved = total = 0
    for name, x in found.items():
        if name.endswith("fc1.bias"):
            was = before[name.removeprefix("base_model.model.")].float()
            some = (was.abs() > 0.05) & (was.abs() < 1)
            moved, total = moved + int((x.float() != was)[some].sum()), total + int(some.sum())
    assert total > 10 and moved > 0.5 * total
    assert losses(told)[-1] < losses(told)[0]


def test_going_on_with_an_adapter(base, tmp_path):
    first = train(base, tmp_path / "a", "--steps", 12, "--mode", "exact")
    told = train(base, tmp_path / "b", "--steps", 3, "--init", first)
    assert losses(told)[0] < losses(first)[0] - 0.05
    for more, said in ((("--alpha", 64), "lora_alpha"), (("--rank", 8), "with r 4"), (("--target-modules", "fc1"), "target_modules"), (("--method", "prefix"), "prefix cannot")):  # fmt: skip
        refused(
            2,
            base / "train.jsonl",
            "--model",
            base,
            *SMALL,
            "--steps",
            3,
            "--init",
            first,
            *more,
            "-o",
            tmp_path / "c",
            said=[said],
        )


# ---------------------------------------------------------------- bad input


def refused(code, *arguments, said):
    done = here("train", *arguments)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert all(part in done.stderr for part in said), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_cannot_be_done_is_told(base, bundle, tmp_path):
    out = tmp_path / "out"
    data, common = base / "train.jsonl", ("--model", base, "-q", "-o", out)
    refused(2, data, "--model", base, "-q", said=["-o DIR"])
    refused(2, data, *common, "--mode", "predicted", said=["--bundle", "calibrate"])
    refused(2, data, *common, "--attention", "blocks", said=["predicted or static"])
    refused(2, data, *common, "--max-length", 4000, said=["512 positions"])
    refused(2, data, *common, "--max-length", 200, "--batch-tokens", 64, said=["does not fit"])
    refused(2, data, *common, "--target-modules", "x_proj", said=["no x_proj", "q_proj"])
    refused(2, data, *common, "--fsdp", said=["torchrun"])
    refused(2, tmp_path / "none.jsonl", *common, said=["none.jsonl"])
    refused(2, data, *common, "--mode", "static", "--bundle", tmp_path, said=["no bundle"])
    (tmp_path / "bad.jsonl").write_text(
        '{"context": [3, 4], "completion": [5]}\n{"context": [3], "completion": [97]}\n'
    )
    refused(2, tmp_path / "bad.jsonl", *common, said=["bad.jsonl:2", "97"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl"]  # nothing is left behind


def test_a_bundle_of_another_model_is_refused(base, bundle, tmp_path):
    other = save(tmp_path / "other", quiet_share=0.5)
    refused(2, base / "train.jsonl", "--model", other, "-q", "--mode", "static", "--bundle", bundle, "-o", tmp_path / "a", said=["was made for weights with hash", "calibrate again"])  # fmt: skip
    wide = save(tmp_path / "wide", ffn_dim=128)
    refused(2, base / "train.jsonl", "--model", wide, "-q", "--mode", "static", "--bundle", bundle, "-o", tmp_path / "a", said=["3x32x64", "3x32x128"])  # fmt: skip


def test_a_gated_model_without_zeros_needs_a_word(base, tmp_path):
    gated = save(tmp_path / "gated", "llama")
    refused(3, base / "train.jsonl", "--model", gated, "-q", "--mode", "exact", "-o", tmp_path / "a", said=["silu", "no exact zeros", "ReLU model"])  # fmt: skip
    bundle = tmp_path / "bundle"
    assert (
        here("calibrate", base / "train.jsonl", "--model", gated, "--batch-tokens", 256, "-q", "-o", bundle).returncode
        == 0
    )
    refused(3, base / "train.jsonl", "--model", gated, "-q", "--mode", "static", "--bundle", bundle, "-o", tmp_path / "a", said=["--allow-lossy", "profile"])  # fmt: skip
    done = here("train", base / "train.jsonl", "--model", gated, "-q", "--mode", "static", "--bundle", bundle, "--allow-lossy", "--steps", 2, "-o", tmp_path / "a")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_models_that_do_more_than_is_computed_are_refused(base, tmp_path):
    """A norm inside the layers, scaled logits, another's LoRA target: told before anything is trained."""
    import transformers

    how = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    for name, more in (("BitNet", {}), ("Granite", {"logits_scaling": 4.0})):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**how, **more))
        model.save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(base / file, tmp_path / name)
        refused(2, base / "train.jsonl", "--model", tmp_path / name, "-q", "-o", tmp_path / "a", said=["not supported"])
    refused(
        2,
        base / "train.jsonl",
        "--model",
        base,
        "-q",
        "--target-modules",
        "q_proj,lm_head",
        "-o",
        tmp_path / "a",
        said=["lm_head is outside"],
    )
    refused(
        2,
        base / "train.jsonl",
        "--model",
        base,
        "-q",
        "--mode",
        "exact",
        "--protect-layers",
        "99",
        "-o",
        tmp_path / "a",
        said=["layers 0 to 2"],
    )


def test_odd_numbers_are_taken_or_told(base, tmp_path):
    train(base, tmp_path / "a", "--steps", 2, "--seed", 10**26)
    refused(2, base / "train.jsonl", "--model", base, *SMALL, "--method", "prefix", "--virtual-tokens", 1000, "-o", tmp_path / "b", said=["--virtual-tokens 1000", "512 positions"])  # fmt: skip


def test_a_failed_start_touches_no_one_elses_folder(base, tmp_path):
    mine = tmp_path / "mine.work"
    mine.mkdir()
    (mine / "log.jsonl").write_text("my notes")
    refused(2, tmp_path / "nothing.jsonl", "--model", base, *SMALL, "-o", tmp_path / "mine", said=["nothing.jsonl"])
    assert (mine / "log.jsonl").read_text() == "my notes"


def test_a_bundle_that_was_changed_is_another_run(base, bundle, tmp_path):
    from longexp_peft.bundle import Bundle

    more = ("--steps", 2, "--mode", "static", "--bundle")
    train(base, tmp_path / "a", *more, bundle)
    other = Bundle.load(bundle)
    other.info["layers"][0]["static"] += 4
    other.save(tmp_path / "other")
    refused(
        2,
        base / "train.jsonl",
        "--model",
        base,
        *SMALL,
        *more,
        tmp_path / "other",
        "-o",
        tmp_path / "a",
        said=["--bundle"],
    )


def test_other_options_on_the_same_output_are_refused(base, tmp_path):
    train(base, tmp_path / "a", "--steps", 2)
    refused(2, base / "train.jsonl", "--model", base, *SMALL, "--steps", 3, "-o", tmp_path / "a", said=["--steps 2, this one has 3", "--overwrite"])  # fmt: skip
    for more, said in (
        (("--rank", 2), "--rank 4, this one has 2"),
        (("--seed", -1), "--seed 0"),
        (("--mode", "exact"), '--mode "dense"'),
    ):
        refused(
            2, base / "train.jsonl", "--model", base, *SMALL, "--steps", 2, *more, "-o", tmp_path / "a", said=[said]
        )
    before = weights(tmp_path / "a")
    train(base, tmp_path / "a", "--steps", 3, "--overwrite")
    assert weights(tmp_path / "a") != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    refused(
        2,
        base / "train.jsonl",
        "--model",
        base,
        *SMALL,
        "--steps",
        3,
        "--overwrite",
        "-o",
        tmp_path / "mine",
        said=["holds things"],
    )
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_a_loss_that_is_no_number_stops_and_keeps(base, tmp_path):
    done = here(
        "train",
        base / "train.jsonl",
        "--model",
        base,
        "-q",
        "--batch-tokens",
        128,
        "--lr",
        1e30,
        "--warmup",
        0,
        "--max-norm",
        0,
        "-o",
        tmp_path / "a",
    )
    assert done.returncode == 1
    assert "the loss is nan" in done.stderr or "the loss is inf" in done.stderr
    assert not (tmp_path / "a").exists()


def test_two_at_once_on_one_output(base, tmp_path):
    from tenfold_shared.jsonl import Lock

    lock = Lock(Path(tmp_path / ".a.lock"), tmp_path / "a")
    refused(75, base / "train.jsonl", "--model", base, *SMALL, "-o", tmp_path / "a", said=[""])
    lock.release()


@pytest.mark.deep
def test_many_kills_at_any_moment(base, bundle, tmp_path):
    """Twenty kills, some of them while a state is being written: the same bytes as without any."""
    import random

    arguments = ["train", base / "train.jsonl", "--model", base, "--batch-tokens", 128, "--lr", 1e-2, "--warmup", 2, "-q", "--steps", 400, "--mode", "predicted", "--bundle", bundle, "--audit-every", 3]  # fmt: skip
    whole = command(*arguments, "-o", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    draw, killed = random.Random(0), 0
    while not (tmp_path / "killed").exists():
        began = time.monotonic()
        wait = draw.uniform(2.5, 6) if killed < 20 else 600
        how = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        code, err = kill_after(
            [*arguments, "-o", tmp_path / "killed"], lambda began=began, wait=wait: time.monotonic() - began > wait, how
        )
        killed += code != 0
        assert code in (0, -9, 130, 143), err
        assert killed < 60
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
