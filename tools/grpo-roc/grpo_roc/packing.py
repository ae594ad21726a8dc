"""Trajectories side by side in one row, what several begin with read once.

A pack is a row of tokens in segments: what all its prompts begin with (the system text with its tool schemas, often longer than all else), then what a prompt has of its own, then responses to it, and so on with
the next prompt. A segment sees itself, its prompt and the beginning; nothing is padded. What a token sees, and its position, are those of its trajectory alone, so that log-probabilities are those of trajectories
in rows of their own.

Where it sits: between attention.py, by which segments see what they must, and policy.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from grpo_roc.attention import Span
from tenfold_shared import BadInput

Tensor = torch.Tensor
LEAST = 16  # tokens of a beginning that are worth a segment


def full_attention(model: Any, what: str) -> None:
    """Raises BadInput for a transformers model with a layer that does not see every token before: neither packs nor slots of keys and values are for those."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]) - {"full_attention"}
    if kinds:
        raise BadInput(f"{model.config.model_type}: layers of kind {', '.join(sorted(kinds))}: {what}")


def beneath(model: Any) -> Any:
    """The model itself, or that which a PEFT adapter is laid over: its adapter's layers are within."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def plain_head(model: Any) -> None:
    """Raises BadInput for a transformers model whose logits are more than its output matrix times its last states (scaled as Granite's, capped, with a bias): what is sampled and trained here would be another policy."""
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(4, device=model.device)[None] % rows
    training = model.training
    model.eval()
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids, use_cache=False).logits.float()
    model.train(training)
    plain = (states @ model.get_output_embeddings().weight.T).float()
    near = 1e-3 if states.dtype in (torch.float32, torch.float64) else 2e-2
    if float((logits - plain).abs().max()) > near * float(plain.abs().max()):
        raise BadInput(f"{model.config.model_type}: its logits are scaled, capped or moved, which is not done here")


class Piece(msgspec.Struct):
    """A trajectory to be packed. mask: of the response's tokens, those that are trained on; index: whose results these are."""

    index: int
    prompt: list[int]
    response: list[int]
    mask: list[bool]


class Pack(msgspec.Struct):
    """tokens, positions [T]; spans: segments, which cover all of it in order. sources: places whose state predicts a token that is trained on; targets: these tokens; owner, place: whose they are, and where in its
    response."""

    tokens: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    sources: Tensor
    targets: Tensor
    owner: Tensor
    place: Tensor

    def to(self, device: torch.device) -> Pack:
        names = (name for name in self.__struct_fields__ if name != "spans")
        return msgspec.structs.replace(self, **{name: getattr(self, name).to(device) for name in names})


def _begin(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all prompts begin with, but for the last of the shortest; 0 where they are too few to matter, or there is one prompt."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    count = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    count = min(count, min(map(len, prompts)) - 1)
    return count if count >= LEAST else 0


def pack(pieces: Sequence[Piece], most: int) -> list[Pack]:
    """Packs of at most `most` tokens, but for a trajectory that is longer by itself; responses to one prompt stay together as far as there is room, longest first. Every piece stands in one pack."""
    groups: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(tuple(piece.prompt), []).append(piece)
    begin = _begin(list(groups))
    runs: list[list[Piece]] = []  # responses that share a prompt in a pack
    for members in groups.values():
        room = 0
        for piece in sorted(members, key=lambda one: (-len(one.response), one.index)):
            if not runs or runs[-1][0].prompt != piece.prompt or len(piece.response) > room:
                runs.append([])
                room = most - len(piece.prompt)
            runs[-1].append(piece)
            room -= len(piece.response)
    sizes = [len(run[0].prompt) - begin + sum(len(piece.response) for piece in run) for run in runs]
    bins: list[list[list[Piece]]] = []
    left: list[int] = []
    for number in sorted(range(len(runs)), key=lambda k: (-sizes[k], runs[k][0].index)):  # first fit, longest first
        place = next((k for k, room in enumerate(left) if sizes[number] <= room), len(left))
        if place == len(left):
            bins.append([])
            left.append(most - begin)
        bins[place].append(runs[number])
        left[place] -= sizes[number]
    return [_row(one, begin) for one in bins]


def _row(runs: Sequence[Sequence[Piece]], begin: int) -> Pack:
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []

    def add(ids: Sequence[int], first: int, above: Sequence[Span]) -> list[Span]:
        """A segment that begins at position `first`, after others; all of them to its end."""
        span = Span(len(tokens), len(tokens) + len(ids), tuple((one.first, one.last) for one in above))
        tokens.extend(ids)
        positions.extend(range(first, first + len(ids)))
        spans.append(span)
        return [*above, span]

    sources: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    place: list[int] = []
    root = add(runs[0][0].prompt[:begin], 0, []) if begin else []
    for run in runs:
        prompt = run[0].prompt
        home = add(prompt[begin:], begin, root)
        last = len(tokens) - 1
        for piece in run:
            first = len(tokens)
            add(piece.response, len(prompt), home)
            for k, (token, trained) in enumerate(zip(piece.response, piece.mask, strict=True)):
                if trained:
                    sources.append(first + k - 1 if k else last)
                    targets.append(token)
                    owner.append(piece.index)
                    place.append(k)
    whole = [torch.tensor(one, dtype=torch.long) for one in (tokens, positions, sources, targets, owner, place)]
    return Pack(whole[0], whole[1], tuple(spans), *whole[2:])
