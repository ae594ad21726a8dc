"""The processes of one run under torchrun: every rank draws the same rows and trains on its slice of each update's, gradients are added up.

Where it sits: below foreign.py and apply.py. Rank 0 decides mixtures, measures time and writes; what it says is broadcast. Rows are a
function of seed and mixture alone (stream.py), so that a world of any size reads one global sequence. One process needs no group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from datamix.history import Floats
from datamix.proxy import Held, Proxy

BUCKET = 1 << 24  # numbers that are added up at once, at most: a copy of so many is made
PATIENCE = timedelta(hours=12)  # ranks wait while the first one makes a base
Value = TypeVar("Value")


class Ranks:
    """This process among `size`; `rank` counts from 0. device: where it should compute."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        self._talk = torch.device("cpu")  # where tensors must lie to be sent

    @contextmanager
    def joined(self, device: str = "cpu") -> Iterator[Ranks]:
        """The group, nccl where this run computes on GPUs, else gloo. One that the caller's program has joined is used as it is."""
        own = self.size > 1 and not dist.is_initialized()
        if self.size > 1:
            gpu = torch.device(device).type == "cuda"
            self._talk = torch.device(device if gpu else "cpu")
            if gpu:
                torch.cuda.set_device(self._talk)
            if own:
                dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
        try:
            yield self
            if own:
                dist.barrier()  # a rank that left while another still writes would end its threads under it
        finally:
            if own:
                dist.destroy_process_group()

    def slice(self, n: int) -> slice:
        """This rank's of n rows."""
        return slice(self.rank, n, self.size)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over all ranks, the same bits on each."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for i, one in enumerate(tensors):
            bucket.append(one)
            following = tensors[i + 1] if i + 1 < len(tensors) else None
            whole = sum(x.numel() for x in bucket) + (0 if following is None else following.numel())
            if following is not None and whole <= BUCKET and following.dtype == one.dtype:
                continue
            flat = torch.cat([x.reshape(-1) for x in bucket]).to(self._talk)
            dist.all_reduce(flat)
            for x, part in zip(bucket, flat.split([x.numel() for x in bucket]), strict=True):
                x.copy_(part.view_as(x))
            bucket = []

    def same(self, value: Value) -> Value:
        """Rank 0's value."""
        if self.size == 1:
            return value
        held: list[Any] = [value]
        dist.broadcast_object_list(held, src=0)
        found: Value = held[0]
        return found

    def any(self, value: bool) -> bool:
        """Whether it is so on any rank."""
        if self.size == 1:
            return value
        told = torch.tensor([float(value)], device=self._talk)
        dist.all_reduce(told)
        return bool(told.item() > 0)

    def tensors(self, given: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Rank 0's tensors, one at a time, so that none is copied as an object."""
        if self.size == 1:
            return given or {}
        told = self.same(None if given is None else [(name, tuple(x.shape), x.dtype) for name, x in given.items()])
        found = {}
        for name, shape, dtype in told or []:
            held = (
                given[name].to(self._talk) if given is not None else torch.empty(shape, dtype=dtype, device=self._talk)
            )
            held = held.contiguous()
            dist.broadcast(held, src=0)
            found[name] = held.cpu()
        return found

    def measure(self, held: Held, size: int, losses: Callable[[Tensor], Tensor]) -> Floats:
        """Bits per byte of every domain [D]. losses: rows [n, context + 1] -> mean loss of each [n]. Batches of `size` rows go to ranks in
        turn, whole, so that the numbers do not depend on how many ranks there are."""
        means = torch.zeros(len(held.rows), dtype=torch.float32)
        for number, start in enumerate(range(0, len(held.rows), size)):
            if number % self.size == self.rank:
                means[start : start + size] = losses(held.rows[start : start + size]).float().cpu()
        if self.size > 1:
            shared = means.to(self._talk)
            dist.all_reduce(shared)  # what is another's is 0 here
            means = shared.cpu()
        return self.same(held.means(means))


class SharedProxy:
    """A proxy that several ranks train as one (proxy.Learner). Gradients are averaged over the rows of an update, not over ranks, so that
    shares of unequal length count right; a rank without a row takes part with none."""

    def __init__(self, proxy: Proxy, ranks: Ranks) -> None:
        self.proxy, self.ranks = proxy, ranks
        self.batch, self.context = proxy.batch, proxy.context

    def train(self, rows: NDArray[np.int64], updates: int | None = None) -> float:
        proxy = self.proxy
        if updates is not None:
            proxy.total = updates
        losses = []
        for batch in torch.from_numpy(rows).split(self.batch):
            mine = batch[self.ranks.slice(len(batch))].to(proxy.device)
            share, loss = len(mine) / len(batch), torch.zeros(1, dtype=torch.float64)
            if share:
                loss += share * proxy.backward(mine)
                proxy.gradient.mul_(share)
            else:
                proxy.gradient.zero_()
            self.ranks.add([proxy.gradient])
            proxy.apply()
            losses.append(loss)
        told = torch.cat(losses)
        self.ranks.add([told])
        return float(told.mean())

    @torch.no_grad()
    def evaluate(self, held: Held) -> Floats:
        proxy = self.proxy
        return self.ranks.measure(held, max(self.batch, 64), lambda rows: proxy.losses(rows.to(proxy.device)).mean(1))

    def state(self) -> dict[str, Tensor]:
        return self.proxy.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        self.proxy.restore(state)
