"""Resample-on-Correct in verl's trainers over a TransferQueue (0.9, `verl.trainer.main_ppo`): a replay buffer that hands on what is kept.

    trainer.v1.sampler.custom_sampler.path=pkg://grpo_roc.verl_sampler
    trainer.v1.sampler.custom_sampler.name=Sampler
    +trainer.v1.sampler.sampler_kwargs.size=16         G; the number of rollouts, actor_rollout_ref.rollout.n, is 2G

The trajectories must be grpo_roc_agent's (verl_agent.py). Of a batch in which no group is mixed one group is kept, whose advantages are all 0, as the trainer has no step of nothing. verl fills a batch up to a multiple
of ppo_mini_batch_size × rollout.n with rows of no weight: halve ppo_mini_batch_size where n is 2G.

Where it sits: above verl_adapter.py. Imports verl and transfer_queue; nothing here imports it.
"""

from __future__ import annotations

from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import KVBatchMeta, ReplayBuffer

from grpo_roc.verl_adapter import TURNS, chosen
from tenfold_shared import BadInput

Record = dict[str, Any]


class Sampler(ReplayBuffer):
    """sampler_kwargs: size (needed), seed, algo, epsilon."""

    def __init__(self, *given: Any, sampler_kwargs: Any = None, **named: Any) -> None:
        super().__init__(*given, sampler_kwargs=sampler_kwargs, **named)
        self.how: Record = dict(sampler_kwargs or {})
        if "size" not in self.how:
            raise BadInput("trainer.v1.sampler.sampler_kwargs.size: expected how many trajectories of a group are kept")

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, Record]:
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        if partition_id == "val":
            return batch, metrics
        data = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["uid", "rm_scores", "extra_fields"])  # fmt: skip
        uids = list(data["uid"])
        turns = [extra[TURNS] for extra in data["extra_fields"]]
        rewards = [float(one.sum()) for one in data["rm_scores"].unbind()]
        kept, told = chosen(uids, rewards, turns, name=str(global_steps), **self.how)
        if not kept:
            kept = [k for k, uid in enumerate(uids) if uid == uids[0]][: self.how["size"]]
        dropped = sorted(set(range(len(uids))) - set(kept))
        if dropped:
            tq.kv_clear(keys=[batch.keys[k] for k in dropped], partition_id=partition_id)
        found = KVBatchMeta(partition_id=partition_id, keys=[batch.keys[k] for k in kept], tags=[batch.tags[k] for k in kept], extra_info=batch.extra_info)  # fmt: skip
        return found, {**metrics, **told}
