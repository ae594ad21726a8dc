"""What is kept of verl's batches, its own advantages on that, the verifier as its reward function, and trajectories over a server that is asked turn by turn."""

import asyncio
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from grpo_models import ambiguous
from grpo_scripted import END, HEADER, OPENED, scripted
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import agg_loss, compute_grpo_outcome_advantage

from grpo_roc import penalty, roc, verl_adapter
from grpo_roc.dialogue import Dialogue
from grpo_roc.engine import LocalEngine
from grpo_roc.env import isolation
from grpo_roc.env.environment import Environment
from grpo_roc.rollout import Rollouts, Settings, Task, stream
from grpo_roc.verl_adapter import Said, compute_score, converse, resample
from tenfold_shared import BadInput

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
NAME = "execute_python_code_with_standard_io"


def call(code, name=NAME):
    more = {"input": ""} if name == NAME else {}
    return f"</reason><tool_call>{json.dumps({'name': name, 'arguments': {'code': code, **more}})}</tool_call>"


RIGHT, WRONG = "<answer>\\boxed{42}</answer>", "<answer>\\boxed{41}</answer>"
TASK = Task("q", "six times seven?", "42")


@pytest.fixture(scope="module")
def env():
    with Environment(level=LEVEL, workers=2, preload=()) as found:
        yield found


# ---------------------------------------------------------------- batches


def batch(rewards, seed=0, width=12):
    """A DataProto as verl has it before it computes advantages. rewards: {uid: of each row}; rows of the groups one after the other."""
    rng = np.random.default_rng(seed)
    uids = [uid for uid, each in rewards.items() for _ in each]
    lengths = rng.integers(3, width + 1, len(uids))
    mask = np.arange(width)[None] < lengths[:, None]
    mask &= rng.random(mask.shape) < 0.8  # tool text between
    mask[:, 0] = True
    scores = np.zeros(mask.shape, dtype=np.float32)
    scores[np.arange(len(uids)), lengths - 1] = [r for each in rewards.values() for r in each]
    turns = np.empty(len(uids), dtype=object)
    for k in range(len(uids)):
        calls = [{"status": "error" if rng.random() < 0.5 else "ok"} for _ in range(rng.integers(0, 4))]
        turns[k] = [{"text": "x", "calls": calls}, {"text": RIGHT * int(rng.integers(1, 3)), "calls": []}]
    tensors = {
        "responses": torch.from_numpy(rng.integers(0, 50, mask.shape)), "response_mask": torch.from_numpy(mask.astype(np.int64)), "rm_scores": torch.from_numpy(scores),
        "attention_mask": torch.cat([torch.ones(len(uids), 4, dtype=torch.int64), torch.from_numpy((np.arange(width)[None] < lengths[:, None]).astype(np.int64))], 1),
    }  # fmt: skip
    return DataProto.from_dict(tensors, non_tensors={"uid": np.array(uids, dtype=object), "roc_turns": turns, "row": np.arange(len(uids))})  # fmt: skip


MIXED = {"e": [1.0] * 8, "a": [1, 0, 1, 1, 0, 1, 0, 1], "f": [0.0] * 8, "b": [0, 0, 1, 0, 0, 0, 0, 0]}


def test_whole_groups_are_kept_as_roc_chooses_and_verls_advantages_on_them_are_ours():
    data = batch(MIXED)
    found, told = resample(data, 4, name="7", seed=5)
    rows = found.non_tensor_batch["row"].tolist()
    wanted = {}
    for number, (uid, rewards) in enumerate(MIXED.items()):
        totals = [
            penalty.of_turns(one).total for one in data.non_tensor_batch["roc_turns"][number * 8 : number * 8 + 8]
        ]
        choice = roc.choose(rewards, totals, 4, group=f"7/{number}", seed=5)
        wanted |= {number * 8 + k: choice.advantage[k] for k in np.flatnonzero(choice.kept)}
        assert (uid in found.non_tensor_batch["uid"]) == (uid in ("a", "b"))
    assert rows == sorted(wanted) and len(rows) == 8
    assert torch.equal(found.batch["responses"], data.batch["responses"][rows])
    advantages, _ = compute_grpo_outcome_advantage(found.batch["rm_scores"], found.batch["response_mask"], found.non_tensor_batch["uid"])  # fmt: skip
    for row, advantage, mask in zip(rows, advantages, found.batch["response_mask"], strict=True):
        assert torch.allclose(advantage, mask * float(wanted[row]), atol=1e-6)
    assert {name: told[f"roc/{name}"] for name in ("groups/all", "groups/kept", "groups/solve_all", "groups/solve_none", "trajectories/kept", "trajectories/padding")} == {
        "groups/all": 4, "groups/kept": 2, "groups/solve_all": 1, "groups/solve_none": 1, "trajectories/kept": 8, "trajectories/padding": 0,
    }  # fmt: skip
    again, _ = resample(batch(MIXED), 4, name="7", seed=5)
    other, _ = resample(batch(MIXED), 4, name="8", seed=5)
    assert again.non_tensor_batch["row"].tolist() == rows != other.non_tensor_batch["row"].tolist()


@pytest.mark.parametrize("multiple", [3, 5, 16])
@pytest.mark.parametrize("groups", [("e", "a", "f", "b"), ("a", "b")])
def test_what_ranks_lack_is_made_up_with_rows_without_influence(groups, multiple):
    """Also where those rows are of the very groups that are kept from."""
    rewards = {uid: MIXED[uid] for uid in groups}
    plain, _ = resample(batch(rewards), 4, name="7")
    found, told = resample(batch(rewards), 4, name="7", multiple=multiple)
    assert len(found) % multiple == 0 and told["roc/trajectories/padding"] == len(found) - 8 > 0
    assert found.non_tensor_batch["row"].tolist()[:8] == plain.non_tensor_batch["row"].tolist()
    assert len(set(found.non_tensor_batch["row"].tolist())) == len(found)
    assert not found.batch["response_mask"][8:].any() and plain.batch["response_mask"].any(-1).all()
    losses = []
    for one in (plain, found):
        advantages, _ = compute_grpo_outcome_advantage(one.batch["rm_scores"], one.batch["response_mask"], one.non_tensor_batch["uid"])  # fmt: skip
        losses.append(agg_loss(-advantages * one.batch["responses"], one.batch["response_mask"], "token-mean"))
    assert torch.allclose(losses[0], losses[1], atol=1e-6)


def test_where_no_group_is_mixed_a_step_of_nothing_is_left():
    found, told = resample(batch({"e": [1.0] * 4, "f": [0.0] * 4}), 2, name="0", multiple=2)
    assert len(found) == 2 and not found.batch["response_mask"].any() and told["roc/groups/kept"] == 0
    advantages, _ = compute_grpo_outcome_advantage(found.batch["rm_scores"], found.batch["response_mask"], found.non_tensor_batch["uid"])  # fmt: skip
    assert not advantages.any()


def test_calls_are_read_from_the_text_where_verls_own_loop_made_it():
    tokenizer = ambiguous()
    data = batch({"a": [1, 0] * 4})
    shown = ["<tool_response>\nTool call success\nstdout: 42\n</tool_response>", "<tool_response>\nTool call failure\nreason: error\n</tool_response>"]  # fmt: skip
    texts = [f"{call('print(1)')}<|im_end|>\n<|im_start|>user\n{shown[k // 2 % 2]}<|im_end|>\n<|im_start|>assistant\n{RIGHT}<|im_end|>" for k in range(8)]  # fmt: skip
    ids = [tokenizer.encode(text) for text in texts]
    width = max(map(len, ids))
    data.batch["responses"] = torch.tensor([one + [0] * (width - len(one)) for one in ids])
    data.batch["attention_mask"] = torch.tensor([[1] * (4 + len(one)) + [0] * (width - len(one)) for one in ids])
    del data.non_tensor_batch["roc_turns"]
    with pytest.raises(BadInput, match="give the tokenizer"):
        resample(data, 4, name="0")
    found, told = resample(data, 4, name="0", algo="roc-top", tokenizer=tokenizer)
    kept = found.non_tensor_batch["row"].tolist()
    assert [k for k in kept if k % 2 == 0] == [0, 4]  # right, and whose call did not fail
    assert told["roc/errors/correct"] == 0.5 and told["roc/errors/kept_correct"] == 0.0
    del data.batch["rm_scores"]
    with pytest.raises(BadInput, match="rewards come first"):
        resample(data, 4, name="0", tokenizer=tokenizer)


def test_the_mixin_hands_on_what_is_kept():
    class Below:
        def _get_dp_size(self, group, role):
            return {"actor": 3}[role]

        def _balance_batch(self, batch, metrics, logging_prefix="x"):
            self.seen = (batch, metrics, logging_prefix)

    class Trainer(verl_adapter.Resampled, Below):
        seed = 2

    trainer = Trainer()
    trainer.config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=8)))
    trainer.tokenizer = trainer.actor_rollout_wg = None
    trainer.global_steps = 7
    data, metrics = batch(MIXED), {"x": 1}
    trainer._balance_batch(data, metrics, logging_prefix="y")
    wanted, told = resample(batch(MIXED), 4, name="7", seed=2, multiple=3)
    assert trainer.seen[0] is data and len(data) == len(wanted) == 9 and trainer.seen[2] == "y"
    assert data.non_tensor_batch["row"].tolist() == wanted.non_tensor_batch["row"].tolist()
    assert torch.equal(data.batch["response_mask"], wanted.batch["response_mask"]) and metrics == {"x": 1, **told}


# ---------------------------------------------------------------- rewards


def test_scores_from_any_thread():
    cases = [
        (RIGHT, "42", 1.0, 0.0), (WRONG, "42", 0.0, 0.0), ("42", "42", 0.0, 0.0), (RIGHT, ["1", "42"], 1.0, 0.0), ("<answer>\\boxed{9^{9^{9^{9}}}}</answer>", "9^{9^{9^{8}}}", 0.0, 1.0),
    ]  # fmt: skip
    found = []
    thread = threading.Thread(target=lambda: found.extend(compute_score("math", said, gold, {"index": 0}, deadline=0.5, reward_router_address=None) for said, gold, *_ in cases))  # fmt: skip
    thread.start()
    thread.join()
    assert found == [{"score": right, "acc": right, "ungradable": lost} for *_, right, lost in cases]
    # as verl decodes a trajectory of several turns: without special tokens, tool text within
    text = f"I compute.{call('print(42)')}\nuser\n<tool_response>\n{RIGHT}\n</tool_response>\nassistant\n{WRONG}"
    assert compute_score("math", text, "42")["score"] == 0.0 and compute_score("math", text, 41)["score"] == 1.0


# ---------------------------------------------------------------- trajectories


def scripted_server(dialogue, lines):
    turn = iter(lines)

    async def generate(ids, most):
        said = [*dialogue.encode(next(turn)), dialogue.tokenizer.eos_token_id][:most]
        return Said(said, [-1.0] * len(said))

    return generate


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        ([call("print(6 * 7)"), RIGHT], Settings()),
        (["</reason><tool_call>{not json}</tool_call>", call("1 / 0"), call("x = 1") + call("print(2)"), WRONG], Settings()),
        ([call("print(1)")] * 5, Settings(turns=3)),
        (["x" * 500], Settings(max_tokens=100)),
        ([call("print('y' * 4000)"), RIGHT], Settings(max_tokens=600)),
    ],
)  # fmt: skip
def test_a_trajectory_is_the_one_that_rollouts_make(env, lines, settings):
    from test_grpo_rollout import Scripted

    dialogue = Dialogue(ambiguous())
    engine = Scripted(dialogue, {"q/0": lines})
    (wanted,) = Rollouts([engine], dialogue, env.submit, settings).run([TASK], 1)
    spent = {}
    found = asyncio.run(converse(TASK, 0, dialogue, scripted_server(dialogue, lines), env.submit, settings, spent=spent))  # fmt: skip
    for name in ("ids", "prompt", "mask", "logp", "finish", "reward", "grade", "grade_reason"):
        assert getattr(found, name) == getattr(wanted, name), name
    for ours, theirs in zip(found.turns, wanted.turns, strict=True):
        assert [{**one, "stderr": ""} for one in ours["calls"]] == [{**one, "stderr": ""} for one in theirs["calls"]]
        assert ours["text"] == theirs["text"] and ours["tokens"] == theirs["tokens"]
    assert spent["generate"] >= 0


def test_what_a_server_breaks_off_is_no_answer_and_a_notebook_is_closed(env):
    dialogue = Dialogue(ambiguous(), ("notebook",))
    cell = call("n = 41 + 1\nprint(n)", "jupyter_code")
    ended = []

    async def generate(ids, most):
        if len(ids) > len(dialogue.prompt(TASK.prompt)):
            return Said(dialogue.encode(RIGHT), None, True)
        return Said([*dialogue.encode(cell), dialogue.tokenizer.eos_token_id], None)

    found = asyncio.run(converse(TASK, 0, dialogue, generate, env.submit, Settings(), key="k", end_session=lambda name: (ended.append(name), env.end(name))))  # fmt: skip
    assert (found.finish, found.reward, found.turns[0]["calls"][0]["stdout"]) == ("deadline", 0.0, "42\n")
    assert ended == ["k"] and not env.sessions and found.logp == [0.0] * len(found.response)


def test_over_a_model_tokens_and_log_probabilities_are_those_of_the_engine(env, tmp_path):
    """A server that reads all tokens anew for each one that it draws, with the numbers that our engine would have drawn."""
    said = {RIGHT: 0.2, call("print(42)"): 0.5, call("1 / 0"): 0.3}
    folder = scripted(tmp_path / "model", {OPENED: said, HEADER: said, **{one: {END: 1.0} for one in said}})
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    dialogue, settings = Dialogue(tokenizer), Settings(turns=5, max_tokens=800)
    engine = LocalEngine(model.eval(), dialogue.ends, slots=4, capacity=3000)
    wanted = {one.rollout: one for one in Rollouts([engine], dialogue, env.submit, settings).run([TASK], 4)}

    def server(rollout):
        draw = stream(0, "sample", "", TASK.id, rollout)

        async def generate(ids, most):
            found = Said([], [])
            while len(found.ids) < most and not (found.ids and found.ids[-1] in dialogue.ends):
                with torch.no_grad():
                    log = torch.log_softmax(model(torch.tensor([ids + found.ids])).logits[0, -1], -1)
                token = int(torch.searchsorted(log.double().exp().cumsum(-1), draw.random(), right=True))
                found.ids.append(token)
                found.logp.append(float(log[token]))
            return found

        return generate

    async def all_of_them():
        return await asyncio.gather(*(converse(TASK, k, dialogue, server(k), env.submit, settings) for k in range(4)))

    found = asyncio.run(all_of_them())
    assert sum(len(one.turns) for one in found) > 4
    for k, one in enumerate(found):
        assert (one.ids, one.mask, one.finish, one.reward) == (wanted[k].ids, wanted[k].mask, wanted[k].finish, wanted[k].reward)  # fmt: skip
        assert one.logp == pytest.approx(wanted[k].logp, abs=1e-5)
