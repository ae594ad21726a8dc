"""verl's agent loop with our dialogue, made as verl makes it, over a server that is no server; what verl's own worker makes of it, and verl's own trainer deals out."""

import asyncio
import json
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import torch
from grpo_models import ambiguous
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker, DictConfigWrap, ToolListWrap, _agent_loop_registry
from verl.protocol import DataProto
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from grpo_roc import verl_adapter, verl_agent
from grpo_roc.env import isolation
from tenfold_shared import BadInput

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
NAME = "execute_python_code_with_standard_io"
RIGHT, WRONG = "<answer>\\boxed{42}</answer>", "<answer>\\boxed{41}</answer>"


def call(code):
    return f"</reason><tool_call>{json.dumps({'name': NAME, 'arguments': {'code': code, 'input': ''}})}</tool_call>"


class Servers:
    """Has verl's `generate`; says line after line, and remembers what it was asked."""

    def __init__(self, tokenizer, lines):
        self.tokenizer, self.lines, self.asked = tokenizer, iter(lines), []

    async def generate(self, request_id, *, prompt_ids, sampling_params, **more):
        self.asked.append((request_id, list(prompt_ids), sampling_params))
        ids = [*self.tokenizer.encode(next(self.lines), add_special_tokens=False), self.tokenizer.eos_token_id]
        return TokenOutput(token_ids=ids[: sampling_params["max_tokens"]], log_probs=[-0.5] * len(ids), stop_reason="completed", num_preempted=1)  # fmt: skip


CONFIG = OmegaConf.create(
    {"actor_rollout_ref": {"rollout": {"n": 4, "prompt_length": 2048, "response_length": 1500}}, "data": {}}
)
ROW = {"raw_prompt": [{"role": "user", "content": "six times seven?"}], "reward_model": {"ground_truth": "42"}, "index": 3, "data_source": "math"}  # fmt: skip


def agent(servers, tokenizer, **more):
    """As AgentLoopWorker makes one."""
    return hydra.utils.instantiate(
        config={**_agent_loop_registry["grpo_roc_agent"], "level": LEVEL, "call_timeout": 2.0, **more}, trainer_config=DictConfigWrap(config=CONFIG), server_manager=servers, tokenizer=tokenizer, processor=None,
        hf_model_type="llama", dataset_cls=RLHFDataset, data_config=DictConfigWrap(CONFIG.data), tools=ToolListWrap([]),
    )  # fmt: skip


def worker(tokenizer):
    """verl's, without the processes that it would begin."""
    found = object.__new__(AgentLoopWorker)
    found.tokenizer, found.processor, found.reward_loop_worker_handles = tokenizer, None, None
    found.rollout_config = SimpleNamespace(prompt_length=2048, response_length=1500)
    found.mm_processor_kwargs, found.distillation_enabled = {}, False
    return found


async def trajectories(tokenizer, scripts):
    """As AgentLoopWorker.generate_sequences does with its agent loops."""
    mine, found = worker(tokenizer), []
    for lines in scripts:
        one = agent(Servers(tokenizer, lines), tokenizer)
        output = await one.run({"temperature": 1.0, "logprobs": True}, **ROW)
        found.append(await mine._agent_loop_postprocess(output, False, **ROW))
    return mine._postprocess(found, input_non_tensor_batch={}, validate=False)


def test_a_trajectory_in_verls_form():
    tokenizer = ambiguous()
    servers = Servers(tokenizer, [call("print(6 * 7)"), RIGHT])
    assert _agent_loop_registry["grpo_roc_agent"] == {"_target_": "grpo_roc.verl_agent.Agent"}

    async def run():
        one = agent(servers, tokenizer)
        return one, await one.run({"temperature": 1.0, "logprobs": True}, **ROW)

    one, found = asyncio.run(run())
    assert found.prompt_ids == one.dialogue.prompt("six times seven?") and found.reward_score == 1.0
    (first, ids, how), (second, longer, _) = servers.asked
    assert first == second and ids == found.prompt_ids and how["stop_token_ids"] == sorted(one.dialogue.ends)
    assert longer == (found.prompt_ids + found.response_ids)[: len(longer)] and how["max_tokens"] == 1500
    said = [token for token, mask in zip(found.response_ids, found.response_mask, strict=True) if mask]
    assert tokenizer.decode(said) == call("print(6 * 7)") + "<|im_end|>" + RIGHT + "<|im_end|>"
    assert found.response_logprobs == [-0.5 * mask for mask in found.response_mask]
    assert found.num_turns == 4 and found.metrics.num_preempted == 2
    assert found.extra_fields["roc_turns"][0]["calls"][0]["status"] == "ok"

    async def long():
        one = agent(servers, tokenizer)
        await one.run({}, **{**ROW, "raw_prompt": [{"role": "user", "content": "x" * 3000}]})

    with pytest.raises(BadInput, match=r"more than data\.max_prompt_length 2048"):
        asyncio.run(long())
    assert verl_agent.environment(next(iter(verl_agent._open))) is next(iter(verl_agent._open.values()))


def test_verls_worker_and_trainer_take_it_on():
    """Through verl's padding to a DataProto, and the mixin over verl's own trainer, to ranks."""
    tokenizer = ambiguous()
    tokenizer.pad_token = tokenizer.eos_token
    scripts = [[call("print(42)"), RIGHT], [call("1 / 0"), RIGHT], [call("1 / 0"), call("1 / 0"), RIGHT], [WRONG]]
    data = asyncio.run(trajectories(tokenizer, [*scripts, *([[WRONG]] * 4)]))
    assert isinstance(data, DataProto) and data.batch["rm_scores"].sum(-1).tolist() == [1.0, 1.0, 1.0, 0, 0, 0, 0, 0]
    assert data.meta_info["reward_extra_keys"] == ["acc", "ungradable"]
    data.non_tensor_batch["uid"] = np.array(["a"] * 4 + ["b"] * 4, dtype=object)
    data.non_tensor_batch["row"] = np.arange(8)

    class Trainer(verl_adapter.Resampled, RayPPOTrainer):
        algo = "roc-top"

        def __init__(self):
            self.config, self.tokenizer, self.global_steps, self.actor_rollout_wg = CONFIG, tokenizer, 1, None

        def _get_dp_size(self, group, role):
            return 2

    metrics = {}
    Trainer()._balance_batch(data, metrics)
    # one of three right ones, that without a failed call, and the one that is wrong; the other group is dropped
    assert sorted(data.non_tensor_batch["row"].tolist()) == [0, 3] and len(data.batch) == 2
    assert metrics["roc/groups/kept"] == 1 and metrics["roc/groups/solve_none"] == 1
    assert metrics["roc/errors/correct"] == pytest.approx(3 / 4) and metrics["roc/errors/kept_correct"] == 0.0
    assert any(name.startswith("global_seqlen") for name in metrics)
    for row, ids, mask in zip(data.non_tensor_batch["row"], data.batch["responses"], data.batch["response_mask"], strict=True):  # fmt: skip
        assert tokenizer.decode(ids[mask.bool()]).endswith([RIGHT, None, None, WRONG][row] + "<|im_end|>")
        assert torch.is_tensor(mask) and int(mask.sum()) > 0


class Queue:
    """What of TransferQueue a replay buffer asks, in this process."""

    def __init__(self):
        self.rows = {}

    def put(self, key, tag, **fields):
        self.rows[key] = (tag, fields)

    def kv_list(self, partition_id=None):
        return {"train": {key: dict(tag) for key, (tag, _) in self.rows.items()}}

    def kv_clear(self, keys, partition_id):
        for key in keys:
            del self.rows[key]

    def kv_batch_get(self, keys, partition_id, select_fields):
        rows = [self.rows[key][1] for key in keys]
        found = {name: [row[name] for row in rows] for name in select_fields}
        return {**found, "rm_scores": torch.nested.nested_tensor(found["rm_scores"], layout=torch.jagged)}


def test_what_the_replay_buffer_hands_on_is_what_is_kept(monkeypatch):
    from verl.trainer.ppo.v1 import replay_buffer

    from grpo_roc import verl_sampler

    queue = Queue()
    for module in (replay_buffer, verl_sampler):
        monkeypatch.setattr(module, "tq", queue)
    rewards = {"a": [1.0, 0.0, 1.0, 0.0], "e": [1.0] * 4, "later": [0.0, 1.0] * 2}
    for step, (uid, each) in enumerate(rewards.items()):
        for k, reward in enumerate(each):
            turns = [{"text": RIGHT, "calls": [{"status": "error" if k == 2 else "ok"}]}]
            queue.put(f"{uid}_{k}_0", {"status": "success", "seq_len": 9}, uid=uid, rm_scores=torch.tensor([0.0] * k + [reward]), extra_fields={"roc_turns": turns})  # fmt: skip
        queue.put(uid, {"is_prompt": True, "status": "finished", "global_steps": step})
    named = {"trainer_mode": "sync", "trainer_config": {}, "max_off_policy_threshold": 1, "max_off_policy_strategy": "drop", "refill_fn": lambda count: None}  # fmt: skip
    with pytest.raises(BadInput, match="how many trajectories of a group"):
        verl_sampler.Sampler(**named, sampler_kwargs={})
    sampler = verl_sampler.Sampler(**named, sampler_kwargs={"size": 2, "algo": "roc-top"})
    found, told = sampler.sample(global_steps=1, partition_id="train", batch_size=2)
    assert len(found.keys) == 2 and found.keys[0] == "a_0_0" and found.keys[1] in ("a_1_0", "a_3_0")
    assert (told["roc/groups/kept"], told["roc/groups/solve_all"], told["roc/trajectories/kept"]) == (1, 1, 2)
    assert set(queue.rows) == {*found.keys, "later", *(f"later_{k}_0" for k in range(4))}
    assert sorted(found.tags, key=str) == sorted([{"status": "success", "seq_len": 9}] * 2, key=str)
