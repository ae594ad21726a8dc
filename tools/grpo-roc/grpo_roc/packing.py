"""Trajectories side by side in one row, a prompt that several share read once.

A pack is a row of tokens: a prompt, then responses to it, each of which sees the prompt and itself; then the next prompt. Nothing is padded, and a group's prompt (with its tool schemas, often longer than a
response) costs what one costs. What a token sees, and its position, are those of its trajectory alone, so that log-probabilities are those of trajectories in rows of their own.

Where it sits: below policy.py. torch only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch

Tensor = torch.Tensor


class Piece(msgspec.Struct):
    """A trajectory to be packed. mask: of the response's tokens, those that are trained on; index: whose results these are."""

    index: int
    prompt: list[int]
    response: list[int]
    mask: list[bool]


class Pack(msgspec.Struct):
    """tokens, positions [T]; segment [T]: of each token, 0 and up; prefix [segments]: the segment that a segment sees besides itself, its own number where none. sources: places whose state predicts a token that is
    trained on; targets: these tokens; owner, place: whose they are, and where in its response."""

    tokens: Tensor
    positions: Tensor
    segment: Tensor
    prefix: Tensor
    sources: Tensor
    targets: Tensor
    owner: Tensor
    place: Tensor

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[1, 1, T, T] to be added to scores: 0 where a token is seen, least where not."""
        order = torch.arange(len(self.tokens), device=self.tokens.device)
        same = self.segment[:, None] == self.segment[None, :]
        seen = same & (order[:, None] >= order[None, :])
        prompt = self.prefix[self.segment]
        seen |= (prompt != self.segment)[:, None] & (prompt[:, None] == self.segment[None, :])
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[
            None, None
        ]


def pack(pieces: Sequence[Piece], most: int) -> list[Pack]:
    """Packs of at most `most` tokens, but for a trajectory that is longer by itself; responses to one prompt stay together as far as there is room, longest first. Every piece stands in one pack."""
    groups: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(tuple(piece.prompt), []).append(piece)
    runs: list[list[Piece]] = []  # responses that share a prompt in a pack
    for members in groups.values():
        room = 0
        for piece in sorted(members, key=lambda one: (-len(one.response), one.index)):
            if not runs or runs[-1][0].prompt != piece.prompt or len(piece.response) > room:
                runs.append([])
                room = most - len(piece.prompt)
            runs[-1].append(piece)
            room -= len(piece.response)
    runs.sort(key=lambda run: (-_size(run), run[0].index))
    bins: list[list[list[Piece]]] = []
    left: list[int] = []
    for run in runs:  # first fit, longest first
        size = _size(run)
        for number, room in enumerate(left):
            if size <= room:
                bins[number].append(run)
                left[number] -= size
                break
        else:
            bins.append([run])
            left.append(most - size)
    return [_row(one) for one in bins]


def _size(run: Sequence[Piece]) -> int:
    return len(run[0].prompt) + sum(len(piece.response) for piece in run)


def _row(runs: Sequence[Sequence[Piece]]) -> Pack:
    tokens: list[int] = []
    positions: list[int] = []
    segment: list[int] = []
    prefix: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    place: list[int] = []
    for run in runs:
        prompt = run[0].prompt
        last, home = len(tokens) + len(prompt) - 1, len(prefix)
        tokens += prompt
        positions += range(len(prompt))
        segment += [home] * len(prompt)
        prefix.append(home)
        for piece in run:
            first = len(tokens)
            tokens += piece.response
            positions += range(len(prompt), len(prompt) + len(piece.response))
            segment += [len(prefix)] * len(piece.response)
            prefix.append(home)
            for k, (token, trained) in enumerate(zip(piece.response, piece.mask, strict=True)):
                if trained:
                    sources.append(first + k - 1 if k else last)
                    targets.append(token)
                    owner.append(piece.index)
                    place.append(k)
    return Pack(
        *(
            torch.tensor(one, dtype=torch.long)
            for one in (tokens, positions, segment, prefix, sources, targets, owner, place)
        )
    )
