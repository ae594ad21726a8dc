"""Examples to rows without padding: documents one after another, and where their losses are.

A row holds whole documents; attention stays inside each (attention.py) and positions begin anew. Which rows an epoch has follows
from the seed alone, so that a run which goes on after a kill, or on more processes, reads the same ones.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longexp_peft.dataset import Example

WINDOW = 512  # examples that are packed together: enough to fill rows, few enough to keep an epoch's order near random


class Row(NamedTuple):
    """ids, positions int64 (T,); lengths of its documents; at (n,): tokens whose hidden state predicts a target, labels (n,)."""

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    at: Tensor
    labels: Tensor

    @property
    def tokens(self) -> int:
        return len(self.ids)


def row_of(examples: Sequence[Example], device: torch.device | str = "cpu") -> Row:
    ids = np.concatenate([one.ids for one in examples]).astype(np.int64)
    target = np.concatenate([np.concatenate([one.target[1:], [False]]) for one in examples])
    at = np.flatnonzero(target)
    positions = np.concatenate([np.arange(len(one.ids)) for one in examples])
    own = [torch.from_numpy(x).to(device) for x in (ids, positions, at, ids[at + 1])]
    return Row(own[0], own[1], tuple(len(one.ids) for one in examples), own[2], own[3])


def best_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of indices with a sum of at most `width`, the longest first, each where it leaves the least room; one longer than a row
    has one of its own. O(n log n)."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect.bisect_left(room, (lengths[index], -1))
        if at == len(room):
            left, row = width, len(rows)
            rows.append([])
        else:
            left, row = room.pop(at)
        rows[row].append(index)
        if left > lengths[index]:
            bisect.insort(room, (left - lengths[index], row))
    return rows


def epoch(lengths: Sequence[int], width: int, seed: int, number: int) -> list[list[int]]:
    """The rows of one epoch, as lists of example numbers: shuffled, packed window by window, rows shuffled."""
    draw = np.random.default_rng([seed, number])
    order = draw.permutation(len(lengths))
    rows: list[list[int]] = []
    for begin in range(0, len(order), WINDOW):
        part = order[begin : begin + WINDOW]
        rows += [[int(part[i]) for i in row] for row in best_fit([lengths[i] for i in part], width)]
    return [rows[i] for i in draw.permutation(len(rows))]


def in_order(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of examples as they come, each filled until the next does not fit: for evaluation and calibration."""
    rows: list[list[int]] = []
    used = width
    for index, length in enumerate(lengths):
        if used + length > width:
            rows.append([])
            used = 0
        rows[-1].append(index)
        used += length
    return rows
