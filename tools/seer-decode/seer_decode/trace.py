"""What decoding steps read, sequence by sequence: the record behind `meta.sparsity`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Read(NamedTuple):
    """Of one sequence, step by step: cached tokens, and the mean over layers and stored heads of blocks that were read."""

    lengths: list[int]
    blocks: list[float]


class _Step(NamedTuple):
    rows: list[int]
    lengths: list[int]
    blocks: Tensor  # (B,) summed over layers and heads


class Trace:
    """Steps of all gated layers over a batch, whose sequences may leave it or change places. Nothing is fetched from a device
    until something is asked."""

    def __init__(self, layers: int, heads: int, block: int) -> None:
        self.layers, self.heads, self.block = layers, heads, block
        self._rows: list[int] | None = None
        self._steps: list[_Step] = []
        self._open: tuple[list[int], list[Tensor]] | None = None

    def add(self, each: list[int], counts: Tensor | None) -> None:
        """A layer's step: sequences of `each` tokens, and the blocks (B, Hkv) that were read; None for all."""
        if self._open is None:
            self._open = list(each), []
        if counts is None:
            every = torch.tensor([float(self.heads * -(-length // self.block)) for length in each])
            self._open[1].append(every)
        else:
            self._open[1].append(counts.sum(1).float())
        if len(self._open[1]) == self.layers:
            lengths, parts = self._open
            rows = self._rows if self._rows is not None else list(range(len(lengths)))
            device = max(parts, key=lambda part: part.is_cuda).device
            self._steps.append(_Step(list(rows), lengths, torch.stack([part.to(device) for part in parts]).sum(0)))
            self._open = None

    def keep(self, places: list[int]) -> None:
        """The batch is now what stood at these places."""
        if self._rows is not None:
            self._rows = [self._rows[place] for place in places]
        elif self._steps:
            self._rows = list(places)

    def __len__(self) -> int:
        return len(self._steps)

    def of(self, row: int) -> Read:
        """Of the sequence that stood at this place in the first step."""
        mine = [(step, step.rows.index(row)) for step in self._steps if row in step.rows]
        sums = torch.stack([step.blocks[at] for step, at in mine]).tolist() if mine else []
        each = self.layers * self.heads
        return Read([step.lengths[at] for step, at in mine], [found / each for found in sums])

    def density(self) -> float:
        """Share of blocks that were read, over all steps and layers; 1 before the first step."""
        there = sum(-(-length // self.block) for step in self._steps for length in step.lengths)
        read = float(sum(step.blocks.sum().item() for step in self._steps)) / (self.layers * self.heads)
        return read / there if there else 1.0
