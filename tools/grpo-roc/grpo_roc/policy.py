"""The model that is trained: log-probabilities of packed trajectories, one update, checkpoints.

Where it sits: above packing.py and objective.py; below train.py and sft.py.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file

from grpo_roc import objective
from grpo_roc.packing import Pack, Piece, full_attention, pack
from tenfold_shared import BadInput

Tensor = torch.Tensor


class Optimisation(msgspec.Struct, frozen=True):
    """AdamW with a constant rate after a linear warm-up of `warmup` updates (section 4.3); most: tokens of a pass; norm: gradients are scaled down to it."""

    lr: float = 1e-6
    warmup: int = 20
    decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    norm: float = 1.0
    most: int = 4096
    chunk: int = 1024
    temperature: float = 1.0
    checkpointing: bool = False


class Example(msgspec.Struct):
    """A trajectory to learn from. old: log-probabilities [response] under the policy that it is to be compared with (None: this very one, before the update); sampled: those that the engine drew with, where
    the gap is to be known."""

    prompt: list[int]
    response: list[int]
    mask: list[bool]
    advantage: float
    old: list[float] | None = None
    sampled: list[float] | None = None


class Updated(msgspec.Struct):
    """gap_mean, gap_most: between the engine's log-probabilities and these, of a token; entropy: mean of a token's distribution."""

    loss: float
    grad_norm: float
    stats: objective.Stats
    skipped: bool
    gap_mean: float = 0.0
    gap_most: float = 0.0
    entropy: float = 0.0


class Policy:
    """A causal transformers model with its optimizer. Raises BadInput for a model whose attention is not full in every layer: packs are for those."""

    def __init__(self, model: Any, how: Optimisation, *, training: bool = True) -> None:
        """training: False for log-probabilities alone, without an optimizer."""
        self.model, self.how = model, how
        full_attention(model, "only full attention can be trained here")
        if how.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.parameters = [one for one in model.parameters() if one.requires_grad]
        self.updates = 0
        if not training:
            return
        self.optimizer = torch.optim.AdamW(self.parameters, lr=how.lr, betas=how.betas, weight_decay=how.decay)

    def states(self, one: Pack) -> Tensor:
        """Final states [T, d] of a pack."""
        found: Tensor = self.model.base_model(
            input_ids=one.tokens[None],
            attention_mask=one.mask(self.model.dtype),
            position_ids=one.positions[None],
            use_cache=False,
        ).last_hidden_state[0]
        return found

    def predicted(self, one: Pack, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (and entropies) of a pack's targets."""
        head = self.model.get_output_embeddings().weight
        return objective.token_logprobs(
            self.states(one)[one.sources],
            head,
            one.targets,
            temperature=self.how.temperature,
            chunk=self.how.chunk,
            entropy=entropy,
        )

    def packs(self, examples: Sequence[Example]) -> Iterator[Pack]:
        pieces = [Piece(k, one.prompt, one.response, one.mask) for k, one in enumerate(examples)]
        device = self.model.device
        for one in pack(pieces, self.how.most):
            yield Pack(*(getattr(one, name).to(device) for name in one.__struct_fields__))

    @torch.no_grad()
    def logprobs(self, examples: Sequence[Example]) -> tuple[list[list[float]], float]:
        """(of each example's response, 0 where it is not trained on; mean entropy of the distributions that were drawn from)."""
        found = [[0.0] * len(one.response) for one in examples]
        total, count = 0.0, 0
        for one in self.packs(examples):
            logp, entropies = self.predicted(one, entropy=True)
            assert entropies is not None
            total += float(entropies.sum())
            count += len(entropies)
            for who, where, value in zip(one.owner.tolist(), one.place.tolist(), logp.tolist(), strict=True):
                found[who][where] = value
        return found, total / max(count, 1)

    # ------------------------------------------------------------ one update

    def update(self, examples: Sequence[Example], clip: objective.Clip, *, denominator: float | None = None) -> Updated:
        """One step of the optimizer on all examples. denominator: the sampled tokens of the whole update, over all processes; counted here where it is not given. Where the loss or a gradient is no number,
        nothing is changed, and it says so."""
        tokens = denominator if denominator is not None else float(sum(sum(one.mask) for one in examples))
        stats, total = objective.Stats(), 0.0
        self.optimizer.zero_grad(set_to_none=True)
        gap, most, entropy = 0.0, 0.0, 0.0
        for one in self.packs(examples):
            logp, entropies = self.predicted(one, entropy=True)
            assert entropies is not None
            entropy += float(entropies.sum())
            if all(each.sampled is not None for each in examples):
                apart = (logp.detach() - self._values(logp, one, [each.sampled for each in examples])).abs()
                gap, most = gap + float(apart.sum()), max(most, float(apart.max())) if len(apart) else most
            advantage = torch.tensor([each.advantage for each in examples], dtype=logp.dtype, device=logp.device)[
                one.owner
            ]
            old = self._old(examples, one, logp)
            part, counted = objective.loss(logp, old, advantage, torch.ones_like(logp, dtype=torch.bool), tokens, clip)
            part.backward()
            total += float(part.detach())
            stats.add(counted)
        found = self._step(total, stats)
        if stats.tokens:
            found.gap_mean, found.gap_most, found.entropy = gap / stats.tokens, most, entropy / stats.tokens
        return found

    def fit(self, examples: Sequence[Example], rate: float) -> float:
        """One step of maximum likelihood at a learning rate: the mean loss of a token. (The cold start.)"""
        tokens = float(sum(sum(one.mask) for one in examples))
        total = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for one in self.packs(examples):
            logp, _ = self.predicted(one)
            part = -logp.sum() / tokens
            part.backward()
            total += float(part.detach())
        self._step(total, objective.Stats(), rate)
        return total

    def _old(self, examples: Sequence[Example], one: Pack, logp: Tensor) -> Tensor:
        if all(each.old is None for each in examples):
            return logp.detach()
        return self._values(logp, one, [each.old for each in examples])

    @staticmethod
    def _values(like: Tensor, one: Pack, of: Sequence[list[float] | None]) -> Tensor:
        """Each target's number in what its owner brought. Raises ValueError where one brought none."""
        values = []
        for who, where in zip(one.owner.tolist(), one.place.tolist(), strict=True):
            brought = of[who]
            if brought is None:
                raise ValueError("log-probabilities are given for all examples, or for none")
            values.append(brought[where])
        return torch.tensor(values, dtype=like.dtype, device=like.device)

    def _step(self, total: float, stats: objective.Stats, rate: float | None = None) -> Updated:
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.how.norm))
        if not math.isfinite(total) or not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            return Updated(total, norm, stats, True)
        self.updates += 1
        if rate is None:
            rate = self.how.lr * min(1.0, self.updates / max(self.how.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Updated(total, norm, stats, False)

    def reset_optimizer(self, lr: float | None = None) -> None:
        """As at the beginning of a stage (section 4.3, stage 3)."""
        if lr is not None:
            self.how = msgspec.structs.replace(self.how, lr=lr)
        self.updates = 0
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.how.lr, betas=self.how.betas, weight_decay=self.how.decay
        )

    # ------------------------------------------------------------ checkpoints

    def save(self, folder: Path, tokenizer: Any, state: dict[str, Any], *, optimizer: bool = True) -> None:
        """A folder that transformers opens, and with what is needed to go on; complete or not at all."""
        beside = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            self.model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
            if optimizer:
                tensors, numbers = {}, {}
                for place, values in self.optimizer.state_dict()["state"].items():
                    for name, value in values.items():
                        if isinstance(value, torch.Tensor):
                            tensors[f"{place}.{name}"] = value.contiguous()
                        else:
                            numbers[f"{place}.{name}"] = value
                save_file(tensors, beside / "optimizer.safetensors")
                (beside / "state.json").write_text(json.dumps({**state, "updates": self.updates, "numbers": numbers}))
            for path in beside.iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            if folder.exists():
                old = folder.with_name(f".{folder.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
                beside.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
            else:
                beside.rename(folder)
        except OSError as problem:
            shutil.rmtree(beside, ignore_errors=True)
            raise BadInput(
                f"{folder}: the checkpoint could not be written: {problem.strerror or problem}; what was saved before is kept"
            ) from None

    def restore(self, folder: Path) -> dict[str, Any]:
        """The optimizer's state from a checkpoint whose weights this policy was opened with; returns what was saved with it."""
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "optimizer.safetensors")
        found: dict[int, dict[str, Any]] = {}
        for name, value in [*tensors.items(), *state.pop("numbers").items()]:
            place, _, what = name.partition(".")
            found.setdefault(int(place), {})[what] = value
        current = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": found, "param_groups": current["param_groups"]})
        self.updates = state.pop("updates")
        return state
