"""What once went wrong in training: each of these failed before it was mended. Stages that follow one another, copies that sample in another type, models whose logits are more than a product, servers that were lost,
shards after a pass without a way back, dropout, and files that are read more than once."""

import json
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from grpo_models import ambiguous, small
from grpo_scripted import answering, scripted
from grpo_server import Peer
from safetensors.torch import load_file
from test_grpo_failures import Saved, metric
from test_grpo_ranks import steps_of, torchrun
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

from grpo_roc import engine_server, sft
from grpo_roc import train as training
from grpo_roc.cli import main
from grpo_roc.dialogue import Dialogue
from grpo_roc.engine import LocalEngine
from grpo_roc.engine_open import follow, open_engines, push
from grpo_roc.engine_protocol import Lost
from grpo_roc.env import isolation
from grpo_roc.objective import Clip
from grpo_roc.policy import Example, Optimisation, Policy
from grpo_roc.ranks import Ranks
from grpo_roc.train import Counts, Plan, Run, Stage, Watch
from tenfold_shared import BadInput, Missing

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
COMMON = ["--level", LEVEL, "--workers", 1, "--dtype", "float32", "--device", "cpu", "--deterministic", "-q"]
SIZES = ["--max-tokens", 200, "--max-prompt", 3000]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def grpo(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="grpo-roc")


def wrote(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


# ---------------------------------------------------------------- stages


def test_a_steps_deadline_is_not_the_filters(tmp_path):
    model = scripted(tmp_path / "m", answering(**{"4": 1.0}))
    tasks = wrote(tmp_path / "t.jsonl", [{"id": f"t{k}", "prompt": f"Say {k}.", "answer": "47"[k % 2]} for k in range(4)])  # fmt: skip
    stages = tmp_path / "s.toml"
    stages.write_text(f'[[stage]]\ntasks = ["{tasks}"]\nsteps = 1\nprompts = 2\ngroup_size = 2\nmax_correct = 1\nfilter_rollouts = 2\n')  # fmt: skip
    done = grpo("train", "--stages", stages, "--model", model, "--step-deadline", "0.001s", "--slots", 2, *SIZES, *COMMON, "-o", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads((tmp_path / "run" / "stage-1.json").read_text()) == ["t1", "t3"]


def staged(tmp_path, rewards, until=None):
    """A run of one stage for each list of rewards, whose steps have these: (its end, the run)."""
    run = Run.__new__(Run)
    run.plan = Plan(tuple(Stage(tasks=("x",), steps=len(each), prompts=1) for each in rewards))
    run.policy, run.tokenizer, run.folder, run.progress, run.ranks = Saved(), None, tmp_path, None, Ranks()
    run.counts, run.watch, run.save_every, run.keep_rollouts, run.said = Counts(), Watch(), 1000, 0, []
    run.tell = run.said.append
    flat = [one for each in rewards for one in each]

    def step(stage, tasks, name):
        run.policy.step = at = run.counts.step + 1
        return {"step": at, "name": name, **metric(flat[at - 1])}, {"step": at}

    run.step, run._fit = step, lambda stage, tasks, number: ["a problem"]
    run._order = lambda tasks, number: iter(lambda: tasks, None)
    return run.go(lambda stage: []), run


def test_harder_problems_of_a_later_stage_are_no_collapse_and_have_a_best_of_their_own(tmp_path):
    why, run = staged(tmp_path, [[0.9] * 15, [0.2] * 12 + [0.3] * 10])
    assert why == "done" and run.said == []
    assert run.counts.best == pytest.approx(0.3) and run.counts.best_step == 37
    assert run.policy.saves[-2:] == [("best", 37), ("checkpoint", 37)]


def test_a_collapse_within_a_stage_is_told_by_a_run_that_goes_on_too(tmp_path):
    why, run = staged(tmp_path, [[0.9] * 15, [0.6] * 12 + [0.0] * 10])
    assert why.startswith("collapse: reward:")
    seen = run.counts.step
    again = Run.__new__(Run)
    again.folder, again.ranks, again.watch = tmp_path, Ranks(), Watch()

    class Restored:
        def restore(self, folder):
            return {"counts": {"step": seen - 1}}

    again.policy = Restored()
    again.resume()
    assert again.watch.best == pytest.approx(0.6) and again.watch.said == set()


@pytest.mark.parametrize(("line", "why"), [("lr = nan", "lr"), ("lr = -1.0", "lr"), ("warmup = -1", "warmup")])
def test_rates_that_no_optimizer_takes(tmp_path, line, why):
    tasks = wrote(tmp_path / "t.jsonl", [{"id": "t", "prompt": "Say.", "answer": "4"}])
    stages = tmp_path / "s.toml"
    stages.write_text(f'[[stage]]\ntasks = ["{tasks}"]\n{line}\n')
    done = grpo("train", "--stages", stages, "--model", "/nowhere", "-o", tmp_path / "run")
    assert done.exit_code == 2 and f"{why}: expected" in done.output, done.output


def test_lines_that_may_be_bad_may_be_so_each_time_that_they_are_read(tmp_path):
    model = scripted(tmp_path / "m", answering(**{"4": 0.5, "5": 0.5}))
    tasks = wrote(tmp_path / "t.jsonl", [{"id": "t", "prompt": "Say.", "answer": "4"}])
    tasks.write_text(tasks.read_text() + "no JSON\n")
    words = ["train", tasks, "--model", model, "--steps", 1, "--prompts", 1, "--group-size", 2, *SIZES, *COMMON]
    done = grpo(*words, "--skip-bad", 1, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert grpo(*words, "-o", tmp_path / "other").exit_code == 2


def test_a_cold_start_that_ended_before_its_manifest_goes_on(tmp_path, monkeypatch):
    small(torch.float32, len(ambiguous()), positions=4096).save_pretrained(tmp_path / "m")
    ambiguous().save_pretrained(tmp_path / "m")
    data = wrote(tmp_path / "d.jsonl", [{"id": f"{k}", "prompt": "Say.", "turns": [{"text": "</reason><answer>4</answer>", "calls": []}]} for k in range(4)])  # fmt: skip
    words = ["sft", "--model", tmp_path / "m", "--data", data, "--epochs", 1, "--device", "cpu", "-q", "-o", tmp_path / "cold"]  # fmt: skip
    real = sft.write_atomic

    def full(path, raw):
        if path.parent.name == "cold":
            raise OSError(28, "No space left on device", str(path))
        real(path, raw)

    monkeypatch.setattr(sft, "write_atomic", full)
    assert grpo(*words).exit_code == 3 and (tmp_path / "cold" / "config.json").exists()
    monkeypatch.undo()
    done = grpo(*words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "cold" / "manifest.json").exists() and not (tmp_path / "cold.work").exists()
    # what nobody here wrote is still left alone
    (tmp_path / "mine").mkdir()
    wrote(tmp_path / "mine" / "config.json", [])
    assert grpo(*words[:-1], tmp_path / "mine").exit_code == 2


# ---------------------------------------------------------------- models


def test_a_copy_that_samples_in_bfloat16_is_what_is_opened_in_bfloat16(tmp_path):
    """Rounded frequencies of its positions would turn late tokens by other angles."""
    small(torch.bfloat16, positions=4096).save_pretrained(tmp_path)
    ids = torch.randint(0, 60, (1, 2000), generator=torch.Generator().manual_seed(1))
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    copy = training.copied(wide, "cpu", torch.bfloat16)
    assert {one.dtype for one in copy.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in wide.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(copy(ids).logits, opened(ids).logits)


def test_logits_that_are_more_than_a_product_are_refused():
    torch.manual_seed(0)
    config = GraniteConfig(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=None, logits_scaling=8.0)  # fmt: skip
    with pytest.raises(BadInput, match="granite: its logits are scaled"):
        Policy(GraniteForCausalLM(config).eval(), Optimisation())
    with pytest.raises(BadInput, match="granite: its logits are scaled"):
        LocalEngine(GraniteForCausalLM(config).eval(), frozenset({1}), slots=1, capacity=64)
    config.logits_scaling = 1.0
    model = GraniteForCausalLM(config).eval()
    Policy(model, Optimisation())
    LocalEngine(model, frozenset({1}), slots=1, capacity=64)
    LocalEngine(model.to(torch.bfloat16), frozenset({1}), slots=1, capacity=64)


def test_nothing_is_dropped_out_while_a_policy_is_trained():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3, bos_token_id=None, eos_token_id=None)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    assert config.resid_pdrop == 0.1
    policy = Policy(model, Optimisation())
    examples = [Example(**one) for one in steps_of([5])[0]]
    still = policy.logprobs(examples)[0]
    model.train()
    assert policy.logprobs(examples)[0] == still


SAVE = """
import os, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from grpo_roc.policy import Example, Optimisation, Policy
from grpo_roc.ranks import Ranks

folder = Path(sys.argv[1])
with Ranks().joined("cpu") as ranks:
    lm = AutoModelForCausalLM.from_pretrained(folder / "start", dtype=torch.float32)
    policy = Policy(lm, Optimisation(compute="bfloat16"), ranks=ranks)
    policy.logprobs([Example([1, 2], [3, 4], [True, True], 1.0)])
    policy.save(folder / "end", AutoTokenizer.from_pretrained(folder / "start"), {"done": 0})
os._exit(0)  # as the tool leaves torchrun: gloo's threads may abort an interpreter that is taken down
"""


def test_a_checkpoint_after_a_pass_without_a_way_back_is_float32_all_the_same(tmp_path):
    tokenizer = ambiguous()
    small(torch.float32, len(tokenizer)).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    (tmp_path / "save.py").write_text(SAVE)
    done = torchrun(2, tmp_path / "save.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "end"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == torch.float32 and torch.equal(after[name], value), name
    assert json.loads((tmp_path / "end" / "config.json").read_text())["dtype"] == "float32"


# ---------------------------------------------------------------- servers


@pytest.fixture
def dialogue():
    return Dialogue(ambiguous())


def opened(dialogue, *peers, folder):
    return open_engines([peer.uri for peer in peers], dialogue=dialogue, slots=4, capacity=200, temperature=1.0, folder=folder)  # fmt: skip


def model_of(dialogue):
    return small(torch.float32, len(dialogue.tokenizer), positions=4096)


def test_processes_agree_on_which_servers_have_the_weights(dialogue, tmp_path):
    with Peer(model_of(dialogue), weights=True) as one, Peer(model_of(dialogue), weights=True) as two:
        engines = opened(dialogue, one, two, folder=str(tmp_path))
        try:
            # the process that gives the weights could not give them to the first
            follow(engines, ["its weights could not be loaded", ""], first=False)
            assert engines[0].lost and not engines[1].lost
            # it could the next time, and what was lost here alone is there again
            engines[1].lost = "was away"
            push(engines, [], first=False)
            follow(engines, ["", ""], first=False)
            assert not engines[0].lost and not engines[1].lost
            two.die()
            engines[1].lost = "was away"
            follow(engines, ["", ""], first=False)
            assert not engines[0].lost and engines[1].lost
            with pytest.raises(Missing, match="no engine is left"):
                follow(engines, ["gone", ""], first=False)
        finally:
            for engine in engines:
                engine.close()


def test_a_server_that_was_lost_and_is_there_again_is_watched_again(dialogue, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_server, "WATCH_S", 0.05)
    model = model_of(dialogue)
    with Peer(model, weights=True) as one:
        (engine,) = opened(dialogue, one, folder=str(tmp_path))
        try:
            engine.lost = "was away"
            engine._watch.result(30)  # which ends it
            push([engine], model.state_dict().items())
            assert not engine.lost
            one.hangs = one.ill = True
            engine.start("a", [1, 2, 3], 5, np.random.default_rng(0))
            end = time.monotonic() + 30
            with pytest.raises(Lost, match="/health"):
                while time.monotonic() < end:
                    engine.poll()
                    time.sleep(0.01)
        finally:
            engine.close()


# ---------------------------------------------------------------- what is packed


@pytest.mark.parametrize("most", [20, 10_000])
def test_a_trajectory_that_was_cut_off_before_it_said_anything_costs_nothing(most):
    """Alone in a pack, beside one that is longer than a pass, it had no loss to go back from."""
    told = {"prompt": [1, 2, 3, 4, 5], "response": list(range(10, 40)), "mask": [True] * 30, "advantage": 1.0}
    nothing = {"prompt": told["prompt"], "response": [], "mask": [], "advantage": -1.0}
    found = []
    for examples in ([told], [told, nothing]):
        policy = Policy(small(torch.float32), Optimisation(lr=1e-2, warmup=1, most=most))
        done = policy.update([Example(**one) for one in examples], Clip())
        found.append((done.loss, done.grad_norm, done.stats.tokens, [p.detach().clone() for p in policy.parameters]))
    assert found[0][:3] == found[1][:3]
    assert all(torch.equal(a, b) for a, b in zip(found[0][3], found[1][3], strict=True))


def test_an_adapter_is_sampled_from_and_trained_as_the_whole_that_it_makes(tmp_path):
    from peft import LoraConfig, get_peft_model

    scripted(tmp_path / "base", answering(**{"4": 0.5, "5": 0.5}))
    over = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32), LoraConfig(r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights=False))  # fmt: skip
    over.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    over.save_pretrained(tmp_path / "adapter")
    tasks = wrote(tmp_path / "t.jsonl", [{"id": "t", "prompt": "Say.", "answer": "4"}])
    done = grpo("eval", tasks, "--model", tmp_path / "adapter", "--samples", 2, *SIZES, *COMMON, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    words = ["train", tasks, "--model", tmp_path / "adapter", "--steps", 1, "--prompts", 1, "--group-size", 2, "--lr", "1e-12"]  # fmt: skip
    done = grpo(*words, *SIZES, *COMMON, "-o", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint", dtype=torch.float32)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.allclose(after(ids).logits, over.eval()(ids).logits, atol=1e-4)


def test_a_template_without_a_system_text_is_refused_in_a_line(tmp_path):
    model = scripted(tmp_path / "m", answering(**{"4": 1.0}))
    (model / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")
    tasks = wrote(tmp_path / "t.jsonl", [{"id": "t", "prompt": "Say.", "answer": "4"}])
    done = grpo("rollout", tasks, "--model", model, *SIZES, *COMMON)
    assert done.exit_code == 2 and "refuses a system text" in done.output and "not supported" in done.output


def test_a_generation_config_that_transformers_does_not_write_is_no_hindrance(tmp_path):
    model = scripted(tmp_path / "m", answering(**{"4": 0.5, "5": 0.5}))
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 3}))
    tasks = wrote(tmp_path / "t.jsonl", [{"id": "t", "prompt": "Say.", "answer": "4"}])
    words = ["train", tasks, "--model", model, "--steps", 1, "--prompts", 1, "--group-size", 2, *SIZES, *COMMON]
    done = grpo(*words, "-o", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads((tmp_path / "run" / "checkpoint" / "generation_config.json").read_text())["eos_token_id"] == 3
