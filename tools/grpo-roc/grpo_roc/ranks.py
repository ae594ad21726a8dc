"""The processes of one run under torchrun: who samples and reads what, sums over all of them, a model in shards. One process needs no group.

Every rank knows all trajectories of a step and chooses the same ones; each samples its part of them, and each reads its part of the packs of an update. What is written, rank 0 writes.

Where it sits: below policy.py and train.py. torch only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")
Tensor = torch.Tensor
PATIENCE = timedelta(hours=12)  # ranks wait for the one whose trajectories take longest


class Ranks:
    """This process among `size`; `rank` counts from 0."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, asked: str) -> str:
        """Where this rank computes: with auto or cuda, a GPU of its own."""
        if self.size > 1 and asked in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        return asked

    @contextmanager
    def joined(self, device: str = "auto") -> Iterator[Ranks]:
        """The group: nccl (and gloo for what lies on the CPU) where this run computes on GPUs, else gloo. One that the caller's program has joined is used as it is."""
        own = self.size > 1 and not dist.is_initialized()
        if own:
            place = self.device(device)
            if place.startswith("cuda"):
                torch.cuda.set_device(place)
                dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
            else:
                dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield self
            if own:
                dist.barrier()  # a rank that left while another still writes would end its threads under it
        finally:
            if own:
                dist.destroy_process_group()

    def same(self, value: Value) -> Value:
        """Rank 0's value."""
        if self.size == 1:
            return value
        held: list[Any] = [value]
        dist.broadcast_object_list(held, src=0)
        found: Value = held[0]
        return found

    def all(self, value: Value) -> list[Value]:
        """Every rank's value, in their order."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held

    def mine(self, things: Sequence[Value]) -> Sequence[Value]:
        """Every size-th of them, so that long and short ones of an ordered list are spread."""
        return things[self.rank :: self.size]

    def shard(self, whole: torch.nn.Module, layers: Sequence[torch.nn.Module], compute: torch.dtype) -> None:
        """FSDP2: parameters, gradients and the optimizer's state in parts of a rank each; gathered in `compute` around each layer, gradients summed in float32."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        device = "cuda" if "nccl" in dist.get_backend_config() and torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(device, (self.size,))
        how = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=how)
        fully_shard(whole, mesh=mesh, mp_policy=how)


def reshard(module: torch.nn.Module) -> None:
    """After a pass without a way back FSDP leaves the outermost module's parameters gathered, in the type that is computed in; this lets go of them, so that parameters are the float32 parts again."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.reshard()


def whole(value: Tensor) -> Tensor:
    """A parameter that may lie in shards, gathered: every rank must ask."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, cut as `parameter` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
