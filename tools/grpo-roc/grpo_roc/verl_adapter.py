"""Resample-on-Correct within verl (0.9): a reward function, what is kept of a batch, and trajectories over verl's servers.

    compute_score     reward.custom_reward_function: the verifier, where verl's own agent loops make the trajectories
    resample          on a DataProto: of each `uid` whose rewards are not all equal, `size` rows, and the counts of what was dropped
    Resampled         a mixin that does so in RayPPOTrainer (`verl.trainer.main_ppo_v0`), between its rollouts and all that is computed of them;
                      verl_sampler.py for the trainers of `verl.trainer.main_ppo`
    converse          a trajectory by `generate(prompt_ids)` calls; verl_agent.py makes verl's agent loop of it

verl's advantages (`algorithm.adv_estimator=grpo`) are ours: (r - mean) / (std + 1e-6), one degree of freedom less. They are computed after this, from what is kept of a uid.

Where it sits: above rollout.py, selection.py and verify.py; within verl's processes. Imports neither verl nor torch itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
import numpy as np

from grpo_roc import penalty, readers, selection, verify
from grpo_roc.dialogue import Dialogue, calls_in, response
from grpo_roc.env.environment import Program, Result
from grpo_roc.rollout import Rollouts, Settings, Task, Trajectory, outcome, program_of
from tenfold_shared import BadInput, answers

Record = dict[str, Any]
TURNS = "roc_turns"  # a non-tensor field: each trajectory's turns, with what became of their calls
Generate = Callable[[list[int], int], Awaitable["Said"]]


# ---------------------------------------------------------------- rewards


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, scope: verify.Scope = "answer", deadline: float = 2.0, **_: Any) -> Record:  # fmt: skip
    """{score, acc: 1.0 where the last box of the answer is the gold answer, else 0.0; ungradable: 1.0 where that could not be told}. From any thread; no comparison takes longer than `deadline` seconds."""
    found = verify.settled({"answer": ground_truth, "response": solution_str}, scope)
    if isinstance(found, answers.Comparison):
        grade = answers.grade(found.gold, found.text, deadline, match=found.match).grade
    else:
        grade = found["grade"]
    right = float(grade == "correct")
    return {"score": right, "acc": right, "ungradable": float(grade == "ungradable")}


# ---------------------------------------------------------------- what is kept of a batch


def resample(
    data: Any, size: int, *, name: str, seed: int = 0, algo: selection.Algo = "roc", epsilon: float = 1e-3, tokenizer: Any = None, multiple: int = 1
) -> tuple[Any, Record]:  # fmt: skip
    """(the rows of a DataProto that are trained on, counts under `roc/`). The rows of a uid are its group, in their order; whole groups are kept, of `size` rows, or dropped where their rewards are all equal.

    name: of the step, so that no two draw alike. Rewards are the sums of `token_level_scores` or `rm_scores`; what the calls came to is read from the field `roc_turns`, of our agent loop, or from the text, by the
    tokenizer. multiple: rows must be so many times something, as verl deals them out to its ranks: what lacks is made up with rows that are not kept, their `response_mask` all 0, so that they are no part of a mean
    over tokens (`loss_agg_mode=token-mean`); no group is cut. Raises BadInput.
    """
    there = set(data.batch.keys())
    names = [name for name in ("token_level_scores", "rm_scores") if name in there]
    if not names or "uid" not in data.non_tensor_batch:
        raise BadInput("resample: expected `rm_scores` (or `token_level_scores`) and `uid`: rewards come first")
    rewards = data.batch[names[0]].sum(-1).tolist()
    turns = turns_of(data, tokenizer)
    kept, metrics = chosen(data.non_tensor_batch["uid"].tolist(), rewards, turns, size, name=name, seed=seed, algo=algo, epsilon=epsilon)  # fmt: skip
    lacking = -len(kept) % multiple or (multiple if not kept else 0)
    spare = sorted(set(range(len(rewards))) - set(kept))
    if lacking > len(spare):
        raise BadInput(f"resample: {len(kept)} rows of {len(rewards)} cannot be made up to a multiple of {multiple}")
    found = data.select_idxs(np.array(sorted(kept) + spare[:lacking], dtype=np.int64))
    if lacking:
        mask = found.batch["response_mask"].clone()
        mask[len(kept) :] = 0
        found.batch["response_mask"] = mask
        uids = found.non_tensor_batch["uid"].copy()
        uids[len(kept) :] = [f"padding-{k}" for k in range(lacking)]  # or they would count in a group's mean
        found.non_tensor_batch["uid"] = uids
    metrics["roc/trajectories/padding"] = lacking
    return found, metrics


def chosen(
    uids: Sequence[Any], rewards: Sequence[float], turns: Sequence[list[Record]], size: int, *, name: str, seed: int = 0, algo: selection.Algo = "roc", epsilon: float = 1e-3,
) -> tuple[list[int], Record]:  # fmt: skip
    """(the places of rows that are kept, in order of their groups; counts)."""
    groups: dict[Any, list[int]] = {}
    for row, uid in enumerate(uids):
        groups.setdefault(uid, []).append(row)
    kept: list[int] = []
    counts = {"solve_none": 0, "solve_all": 0, "kept": 0}
    for number, members in enumerate(groups.values()):
        r = [rewards[k] for k in members]
        penalties = [penalty.of_turns(turns[k]).total for k in members]
        # by its place in the step: uids are other ones in every run
        found = selection.keep(r, penalties, algo, size, group=f"{name}/{number}", seed=seed, epsilon=epsilon)
        counts["kept" if found else "solve_all" if r[0] > 0 else "solve_none"] += 1
        kept += [members[one.index] for one in found]
    metrics: Record = {
        "roc/groups/all": len(groups), **{f"roc/groups/{key}": value for key, value in counts.items()}, "roc/trajectories/all": len(rewards), "roc/trajectories/kept": len(kept),
        "roc/reward/mean": sum(rewards) / len(rewards),
    }  # fmt: skip
    right = [k for k, reward in enumerate(rewards) if reward > 0]
    for key, rows in (("all", range(len(rewards))), ("correct", right), ("kept_correct", [k for k in kept if rewards[k] > 0])):  # fmt: skip
        share = selection.error_share([turns[k] for k in rows])
        if share is not None:
            metrics[f"roc/errors/{key}"] = share
    return kept, metrics


def turns_of(data: Any, tokenizer: Any) -> list[list[Record]]:
    """Each row's turns. Raises BadInput."""
    if TURNS in data.non_tensor_batch:
        return [list(one) for one in data.non_tensor_batch[TURNS]]
    if tokenizer is None:
        raise BadInput(f"resample: rows have no {TURNS} (grpo_roc_agent gives it): give the tokenizer, to read their text")  # fmt: skip
    width = data.batch["responses"].shape[-1]
    lengths = data.batch["attention_mask"][:, -width:].sum(-1).tolist()
    return [
        readers.turns_of_text(tokenizer.decode(ids[:length], skip_special_tokens=False))
        for ids, length in zip(data.batch["responses"].tolist(), lengths, strict=True)
    ]


class Resampled:
    """Before RayPPOTrainer in a class's bases: each step's batch becomes what is kept of it, before it is dealt out to ranks (trainer.balance_batch must be on, which it is). Of rollout.n rows of a prompt
    rollout.n / oversample are kept."""

    oversample: int = 2
    algo: selection.Algo = "roc"
    epsilon: float = 1e-3
    seed: int = 0
    config: Any
    tokenizer: Any
    actor_rollout_wg: Any
    global_steps: int

    def _balance_batch(self, batch: Any, metrics: Record, *more: Any, **named: Any) -> None:
        size = self.config.actor_rollout_ref.rollout.n // self.oversample
        own: Any = self
        below: Any = super()
        found, told = resample(
            batch, size, name=str(self.global_steps), seed=self.seed, algo=self.algo, epsilon=self.epsilon, tokenizer=self.tokenizer, multiple=own._get_dp_size(self.actor_rollout_wg, "actor"),
        )  # fmt: skip
        batch.batch, batch.non_tensor_batch = found.batch, found.non_tensor_batch
        metrics.update(told)
        below._balance_batch(batch, metrics, *more, **named)


# ---------------------------------------------------------------- a trajectory over a server


class Said(msgspec.Struct):
    """What a server sampled. logp: None where it was not asked for; cut: it gave up before the turn's end."""

    ids: list[int]
    logp: list[float] | None
    cut: bool = False


async def converse(
    task: Task, rollout: int, dialogue: Dialogue, generate: Generate, submit: Callable[[Program], Future[Result]], settings: Settings, *, key: str = "", end_session: Callable[[str], object] = lambda _: None,
    spent: dict[str, float] | None = None,
) -> Trajectory:  # fmt: skip
    """A trajectory as Rollouts makes it, graded, where it alone decides when it asks: generate(all ids so far, most) for each turn, submit for each call. key: names its notebook. spent: seconds of both are added to
    it. settings.deadline, lockstep and noise are not for this."""
    prompt = dialogue.prompt(task.prompt)
    one = Trajectory(task.id, rollout, task, len(prompt), prompt, [], [], [])
    key, spent = key or one.key, {} if spent is None else spent
    try:
        while not one.finish:
            began = time.monotonic()
            said = await generate(list(one.ids), settings.max_tokens - len(one.response))
            spent["generate"] = spent.get("generate", 0.0) + time.monotonic() - began
            one.ids += said.ids
            one.mask += [True] * len(said.ids)
            one.logp += [0.0] * len(said.ids) if said.logp is None else said.logp
            text = (dialogue.opened if not one.turns else "") + dialogue.spoken(said.ids)
            one.turns.append({"text": text, "tokens": len(said.ids), "calls": []})
            if said.cut or not said.ids or said.ids[-1] not in dialogue.ends:
                one.finish = "deadline" if said.cut else "length"
                break
            calls = calls_in(text, dialogue.tools)
            if not calls or len(one.turns) >= settings.turns:
                one.finish = "turns" if calls else "stop"
                break
            began = time.monotonic()
            told = await asyncio.gather(*(_made(call, key, submit, settings) for call in calls))
            spent["tools"] = spent.get("tools", 0.0) + time.monotonic() - began
            one.turns[-1]["calls"] = list(told)
            suffix = dialogue.suffix([response(call, settings.shown) for call in told], ended=one.ids[-1] in dialogue.closing)  # fmt: skip
            if len(one.response) + len(suffix) >= settings.max_tokens:
                one.finish = "length"
                break
            one.ids += suffix
            one.mask += [False] * len(suffix)
            one.logp += [0.0] * len(suffix)
    finally:
        if "notebook" in dialogue.tools:
            end_session(key)
    judge = Rollouts([], dialogue, submit, settings)
    judge._reward(one, await asyncio.get_running_loop().run_in_executor(None, judge._grade, one))
    return one


async def _made(call: Any, key: str, submit: Callable[[Program], Future[Result]], settings: Settings) -> Record:
    told: Record = {"name": call.name, "arguments": call.arguments}
    if call.problem:
        return {**told, "status": "invalid_call", "problem": call.problem}
    return {**told, **outcome(await asyncio.wrap_future(submit(program_of(call, key, settings))))}
