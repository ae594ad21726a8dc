"""TRL's own GRPOTrainer with our trajectories, rewards and tools: what it trains on is what was sampled and kept, and its update is ours."""

import json
import os
import threading
from types import SimpleNamespace

import pytest
import torch
from grpo_scripted import END, HEADER, OPENED, scripted
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from grpo_roc import cli, selection, trl_adapter
from grpo_roc.env import isolation
from grpo_roc.env.environment import Environment
from grpo_roc.objective import Clip
from grpo_roc.policy import Example, Optimisation, Policy
from grpo_roc.rollout import Settings, Task
from grpo_roc.trl_adapter import UPDATE, Groups, dataset
from tenfold_shared import BadInput

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
NAME = "execute_python_code_with_standard_io"


def call(code):
    return f"</reason><tool_call>{json.dumps({'name': NAME, 'arguments': {'code': code, 'input': ''}})}</tool_call>"


GOOD, BAD = call("print(6 * 7)"), call("1 / 0")
RIGHT, WRONG = "<answer>\\boxed{42}</answer>", "<answer>\\boxed{41}</answer>"
TASKS = [Task("a", "six times seven?", "42"), Task("b", "forty and two?", 42), Task("never", "one less?", "7")]
G = 4


@pytest.fixture(scope="module")
def env():
    with Environment(level=LEVEL, workers=2, preload=()) as found:
        yield found


@pytest.fixture
def parts(tmp_path):
    said = {RIGHT: 0.3, WRONG: 0.25, GOOD: 0.25, BAD: 0.2}
    folder = scripted(tmp_path / "model", {OPENED: said, HEADER: said, **{one: {END: 1.0} for one in said}})
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def arguments(folder, **more):
    from trl import GRPOConfig

    return GRPOConfig(
        str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, learning_rate=1e-2, lr_scheduler_type="constant",
        max_grad_norm=1e9, dataloader_pin_memory=False, **{"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "num_generations": G, "max_steps": 2, **more},
    )  # fmt: skip


def log_probabilities(model, ids):
    """Of each next token [T, V]; not by the model's own forward, which TRL puts one of its own in the place of."""
    with torch.no_grad():
        states = model.base_model(torch.tensor([ids])).last_hidden_state[0]
        return torch.log_softmax(model.get_output_embeddings()(states), -1)


def apart(found, wanted):
    difference = sum(float((found[name] - wanted[name]).double().square().sum()) for name in wanted)
    return (difference / sum(float(one.double().square().sum()) for one in wanted.values())) ** 0.5


def our_gradient(model, examples):
    found = {}
    policy = Policy(model.train(), Optimisation(lr=0.0, norm=1e9))
    policy.optimizer.register_step_pre_hook(
        lambda *_: found.update({name: one.grad.clone() for name, one in model.named_parameters()})
    )
    policy.update(examples, Clip())
    return found


# ---------------------------------------------------------------- two steps


def test_two_steps_of_trls_trainer_are_two_of_ours(env, parts, tmp_path):
    from trl import GRPOTrainer

    model, tokenizer = parts
    batches, returned, tensors, gradients = [], [], [], []

    class Watched(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            tensors.append(super()._generate_and_score_completions(inputs))
            return tensors[-1]

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, *_, **__):
            gradients.append({name: one.grad.clone() for name, one in model.named_parameters()})

    def seen(name, sampled, kept):
        before = type(model)(model.config)  # no deep copy: accelerate's wrapper of `forward` would be the first model's
        before.load_state_dict(model.state_dict())
        batches.append((name, sampled, kept, before.eval()))

    groups = Groups(TASKS, tokenizer, env, settings=Settings(turns=4, max_tokens=600, seed=3), max_prompt=2048, slots=8, seen=seen)  # fmt: skip

    def rollouts(prompts, trainer):
        returned.append((prompts, groups(prompts, trainer)))
        assert trainer.model.training  # as it was
        return returned[-1][1]

    trainer = Watched(model=model, processing_class=tokenizer, rollout_func=rollouts, reward_funcs=[groups.advantage, groups.reward], train_dataset=dataset(TASKS), args=arguments(tmp_path, **UPDATE), callbacks=[Gradients()])  # fmt: skip
    trainer.train()
    assert [name for name, *_ in batches] == ["0/0", "1/0"]
    for (name, sampled, kept, before), (prompts, rows), tensor, gradient in zip(batches, returned, tensors, gradients, strict=True):  # fmt: skip
        assert len(sampled) == 3 * 2 * G and len(prompts) == 3 * G
        # the two groups that are mixed are kept from, G of each; the third is never right
        assert {sampled[one.index].group for one in kept} == {"a", "b"} and len(kept) == 2 * G

        # kept: what `grpo-roc resample` keeps
        lines, out = tmp_path / "sampled.jsonl", tmp_path / "kept.jsonl"
        lines.write_text("".join(json.dumps({**one.record(), "group": f"{name}/{one.group}"}) + "\n" for one in sampled))  # fmt: skip
        assert cli.main(["resample", str(lines), "--group-size", str(G), "--seed", "3", "-o", str(out), "--overwrite", "--quiet"], standalone_mode=False) == 0  # fmt: skip
        told = [json.loads(line) for line in out.read_text().splitlines()]
        assert [k for k, line in enumerate(told) if line["kept"]] == sorted(one.index for one in kept)
        for one in kept:
            assert one.advantage == pytest.approx(told[one.index]["advantage"], abs=1e-12)

        # each row: the trajectory as it was sampled, from the model as it was
        advantages = {id(sampled[one.index]): one.advantage for one in kept}
        keys = {(one.group, one.rollout): one for one in sampled}
        chosen = []
        for k, prompt in enumerate(prompts):
            ids, said = rows["prompt_ids"][k], rows["completion_ids"][k]
            one = keys[rows["trajectory"][k]["group"], rows["trajectory"][k]["rollout"]]
            chosen.append(one)
            assert ids + said == one.ids and rows["logprobs"][k] == one.logp
            assert one.task.prompt == prompt and ids == groups.dialogue.prompt(prompt)
            learnt = id(one) in advantages
            assert rows["env_mask"][k] == [int(learnt and mask) for mask in one.mask]
            assert rows["reward"][k] == float("\\boxed{42}" in one.turns[-1]["text"] and one.task.id != "never")
            assert tensor["advantages"][k].item() == pytest.approx(advantages.get(id(one), 0.0), abs=1e-6)
            log = log_probabilities(before, one.ids)
            shown = ""
            for place, (token, mask, value) in enumerate(zip(said, one.mask, one.logp, strict=True)):
                if mask:
                    assert float(log[len(ids) - 1 + place, token]) == pytest.approx(value, abs=1e-4)
                else:
                    shown += tokenizer.decode([token])
            for turn in one.turns[:-1]:
                assert {"ok": "stdout: 42", "error": "ZeroDivisionError"}[turn["calls"][0]["status"]] in shown
        assert (
            sum(id(one) in advantages for one in chosen) == 2 * G
        )  # every one that was kept, and the rest of no weight

        # what TRL trains on is that, padded
        for k, one in enumerate(chosen):
            count = len(one.response)
            assert tensor["completion_ids"][k, :count].tolist() == one.response
            assert tensor["tool_mask"][k, :count].tolist() == rows["env_mask"][k]
            assert tensor["sampling_per_token_logps"][k, :count].tolist() == pytest.approx(one.logp, abs=1e-6)
        assert int(tensor["num_items_in_batch"]) == sum(sampled[one.index].sampled for one in kept)

        # and its gradient is that of `grpo-roc train`
        examples = [Example(sampled[one.index].ids[: sampled[one.index].prompt], sampled[one.index].response, sampled[one.index].mask, one.advantage) for one in kept]  # fmt: skip
        assert apart(gradient, our_gradient(before, examples)) < 1e-4
    log = trainer.state.log_history[0]
    assert log["roc/trajectories/all"] == 3 * 2 * G and log["roc/groups/solve_none"] == pytest.approx(1 / 3)
    assert log["rewards/reward/mean"] == pytest.approx(sum(returned[0][1]["reward"]) / (3 * G), abs=1e-6)
    assert log["roc/reward/mean"] == pytest.approx(sum(one.reward for one in batches[0][1]) / (6 * G), abs=1e-6)


def test_an_adapter_is_sampled_from_and_a_problem_may_come_twice_in_a_batch(env, parts, tmp_path):
    """LoRA, whose layers are within the model; two groups of one problem, which draw and choose apart."""
    from peft import LoraConfig
    from trl import GRPOTrainer

    model, tokenizer = parts
    batches = []
    groups = Groups(TASKS[:1], tokenizer, env, settings=Settings(turns=3, max_tokens=400), seen=lambda *one: batches.append(one))  # fmt: skip
    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, rollout_func=groups, reward_funcs=[groups.advantage, groups.reward], train_dataset=dataset(TASKS[:1]), peft_config=LoraConfig(target_modules=["q_proj"]),
        args=arguments(tmp_path, **UPDATE, per_device_train_batch_size=G, gradient_accumulation_steps=2, max_steps=1, shuffle_dataset=False),
    )  # fmt: skip
    prompts = [TASKS[0].prompt] * (2 * G)
    trainer.model.train()
    rows = groups(prompts, trainer)
    ((name, sampled, kept),) = batches
    assert name == "0/0" and [one.rollout for one in sampled] == list(range(4 * G)) and len(kept) == 2 * G
    assert len({tuple(one.logp) for one in sampled}) > 2
    for block in range(2):
        part = sampled[block * 2 * G : (block + 1) * 2 * G]
        wanted = selection.select([SimpleNamespace(**{n: getattr(one, n) for n in ("reward", "turns")}, group="a" + "#1" * block) for one in part], "roc", G, seed=0, name="0/0")  # fmt: skip
        assert rows["completion_ids"][block * G : (block + 1) * G] == [part[one.index].response for one in wanted]
        assert rows["advantage"][block * G : (block + 1) * G] == [one.advantage for one in wanted]
    for one in sampled[:2]:
        log = log_probabilities(trainer.model.get_base_model(), one.ids)
        assert float(log[one.prompt - 1, one.response[0]]) == pytest.approx(one.logp[0], abs=1e-4)


def test_to_evaluate_nothing_is_left_out(env, parts, tmp_path):
    from trl import GRPOTrainer

    model, tokenizer = parts
    groups = Groups(TASKS, tokenizer, env, settings=Settings(turns=3, max_tokens=400))
    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, rollout_func=groups, reward_funcs=[groups.advantage, groups.reward], train_dataset=dataset(TASKS), eval_dataset=dataset(TASKS),
        args=arguments(tmp_path, **UPDATE, per_device_eval_batch_size=12, num_generations_eval=4),
    )  # fmt: skip
    found = trainer.evaluate()
    model.eval()
    rows = groups([task.prompt for task in TASKS for _ in range(3)], trainer)
    assert len({tuple(one) for one in map(tuple, rows["logprobs"])}) > 1 and not any(rows["advantage"])
    assert all(any(mask) for mask in rows["env_mask"]) and [one["rollout"] for one in rows["trajectory"]] == [0, 1, 2] * 3  # fmt: skip
    assert 0 < found["eval_rewards/reward/mean"] < 1


def test_what_the_deadline_leaves_out_is_filled_up_with_nothing(env, parts):
    model, tokenizer = parts
    groups = Groups(TASKS[:1], tokenizer, env, settings=Settings(deadline=1e-9, max_tokens=400))
    trainer = stand_in(model.train())
    rows = groups([TASKS[0].prompt] * G, trainer)
    assert len(rows["completion_ids"]) == G and not any(map(sum, rows["env_mask"])) and not any(rows["reward"])
    assert all(rows["completion_ids"]) and [len(one) for one in rows["logprobs"]] == [len(one) for one in rows["completion_ids"]]  # fmt: skip


def stand_in(model, **more):
    """What `Groups` asks of a trainer."""
    accelerator = SimpleNamespace(process_index=0, unwrap_model=lambda one: one)
    known = {"is_fsdp_enabled": False, "is_deepspeed_enabled": False, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "temperature": 1.0}  # fmt: skip
    return SimpleNamespace(model=model, num_generations=G, state=SimpleNamespace(global_step=0), accelerator=accelerator, **{**known, **more})  # fmt: skip


def test_what_cannot_be_done_is_said(env, parts):
    model, tokenizer = parts
    for tasks, more, said in [
        ([TASKS[0], Task("c", TASKS[0].prompt, "1")], {}, "the same problem as a"),
        ([TASKS[0], Task("a", "another?", "1")], {}, "ids must be unique"),
        (TASKS, {"max_prompt": 10}, "more than max_prompt 10"),
        (TASKS, {"algo": "grpo-2g"}, "TRL trains on as many as it asks for"),
        (TASKS, {"oversample": 1}, "give 2 or more"),
    ]:
        with pytest.raises(BadInput, match=said):
            Groups(tasks, tokenizer, env, **more)
    groups = Groups(TASKS, tokenizer, env)
    model.train()
    for prompts, more, said in [
        (["what?"] * G, {}, "not among the tasks"),
        ([[{"role": "system", "content": "x"}]] * G, {}, "a user turn"),
        ([TASKS[0].prompt] * (G - 1), {}, "part of a group"),
        ([TASKS[0].prompt] * G, {"is_fsdp_enabled": True}, "in shards"),
        ([TASKS[0].prompt] * G, {"top_p": 0.9}, "cut distribution"),
    ]:
        with pytest.raises(BadInput, match=said):
            groups(prompts, stand_in(model, **more))
        assert model.training
    chat = [{"role": "user", "content": TASKS[1].prompt}]
    assert trl_adapter.text_of(chat) == TASKS[1].prompt


# ---------------------------------------------------------------- rewards and tools alone


def test_a_reward_function_for_texts_and_chats_from_any_thread():
    reward, counts = trl_adapter.rewarded(deadline=0.5), {}
    said = [RIGHT, WRONG, "42", "<answer>\\boxed{9^{9^{9^{9}}}}</answer>", [{"role": "assistant", "content": RIGHT}]]
    gold = ["42", "42", "42", "9^{9^{9^{8}}}", 42]
    found = []
    thread = threading.Thread(target=lambda: found.append(reward(completions=said, answer=gold, prompts=["?"] * 5, log_metric=counts.__setitem__)))  # fmt: skip
    thread.start()
    thread.join()
    assert found == [[1.0, 0.0, 0.0, 0.0, 1.0]]
    assert counts == {"verifier/ungradable": pytest.approx(1 / 5)}
    assert reward(completions=[RIGHT], reward_model=[{"ground_truth": "42"}]) == [1.0]
    assert trl_adapter.rewarded("response")(completions=["it is \\boxed{42}"], answer=["42"]) == [1.0]
    with pytest.raises(BadInput, match="row 0: answer: expected a column"):
        reward(completions=[RIGHT])


@pytest.mark.parametrize("kind", ["tool", "notebook"])
def test_trls_own_loop_calls_the_environment(env, tmp_path, kind):
    """What the model writes in the form of TRL's template is run here, and what it is shown is masked."""
    from trl import GRPOTrainer
    from trl.chat_template_utils import qwen3_chat_template

    code = "x = 40 + 2\nprint(x)" if kind == "tool" else "n = globals().get('n', 0) + 1\nprint('cell', n)"
    name = NAME if kind == "tool" else "jupyter_code"
    asked = f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'code': code}})}\n</tool_call>"
    said = {asked: 0.6, RIGHT: 0.2, WRONG: 0.2}
    folder = scripted(tmp_path / "model", {HEADER: said, **{one: {END: 1.0} for one in said}})
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = qwen3_chat_template
    found = []

    class Watched(GRPOTrainer):
        def _generate(self, prompts):
            found.append(super()._generate(prompts))
            return found[-1]

    more = {"tools": [trl_adapter.tool(env)]} if kind == "tool" else {"environment_factory": trl_adapter.environment_factory(env)}  # fmt: skip
    data = dataset([Task("a", "?", "42")]).map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}], "answer": "42"})  # fmt: skip
    trainer = Watched(
        model=model, processing_class=tokenizer, reward_funcs=trl_adapter.rewarded(), train_dataset=data, args=arguments(tmp_path / "out", max_steps=1, per_device_train_batch_size=8, gradient_accumulation_steps=1, num_generations=8, max_completion_length=600),
        **more,
    )  # fmt: skip
    trainer.train()
    ((_, ids, mask, chats, *_),) = found
    calls = 0
    for row, seen, chat in zip(ids, mask, chats, strict=True):
        shown = [turn["content"] for turn in chat if turn["role"] == "tool"]
        calls += len(shown)
        wanted = ["Tool call success\nstdout: 42" if kind == "tool" else f"Tool call success\nstdout: cell {k + 1}" for k in range(len(shown))]  # fmt: skip
        assert shown == wanted
        text = tokenizer.decode([token for token, own in zip(row, seen, strict=True) if not own])
        assert text.count("Tool call success") == len(shown)
    assert calls >= 3
    assert trainer.state.log_history[0]["tools/failure_frequency"] == 0
    right = sum(any("42}" in (turn["content"] or "") for turn in chat if turn["role"] == "assistant") for chat in chats)
    assert trainer.state.log_history[0]["reward"] == pytest.approx(right / 8)
