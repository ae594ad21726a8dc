"""The processes of one run under torchrun: who reads which rows, and sums over all of them. One process needs no group.

With FSDP2 the frozen layers' matrices are sharded and gathered whole around each layer's forward and backward, before neurons are
picked; what trains is small, stays whole on every rank, and its gradients are summed here, with or without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longexp_peft import shape
from longexp_peft.methods import Tuned


class Ranks:
    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"

    @contextmanager
    def joined(self) -> Iterator[Ranks]:
        if self.size == 1 or dist.is_initialized():
            yield self
            return
        if torch.cuda.is_available():
            torch.cuda.set_device(self.device)  # objects are broadcast through the current one
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield self
            dist.barrier()  # a rank that left while another still writes would end its threads under it
        finally:
            dist.destroy_process_group()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over all ranks."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([x.reshape(-1) for x in tensors])
        dist.all_reduce(flat)
        for x, part in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(part.view_as(x))

    def same(self, value: Any) -> Any:
        """Rank 0's value."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def all(self, value: Any) -> list[Any]:
        """Every rank's value."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held


def shard(tuned: Tuned) -> None:
    """FSDP2 over the decoder's layers; what trains is left out and stays whole."""
    from torch.distributed.fsdp import fully_shard

    kept = set(tuned.parameters.values())
    for layer in shape.layers(tuned.model):
        fully_shard(layer, ignored_params=kept)
