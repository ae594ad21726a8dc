"""The model that is trained: log-probabilities of packed trajectories, one update, checkpoints.

Where it sits: above packing.py and objective.py; below train.py and sft.py.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from grpo_roc import attention, objective
from grpo_roc.packing import Pack, Piece, full_attention, pack, plain_head
from grpo_roc.ranks import Ranks, like, reshard, whole
from tenfold_shared import BadInput, Missing

Tensor = torch.Tensor


class Optimisation(msgspec.Struct, frozen=True):
    """AdamW with a constant rate after a linear warm-up of `warmup` updates (section 4.3); most: tokens of a pass; norm: gradients are scaled down to it. compute: the type that products are computed in: weights,
    gradients and the optimizer's state are float32 always, as an update of a rate like 1e-6 is lost in bfloat16."""

    lr: float = 1e-6
    warmup: int = 20
    decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    norm: float = 1.0
    most: int = 4096
    chunk: int = 1024
    temperature: float = 1.0
    checkpointing: bool = False
    compute: str = "float32"


class Example(msgspec.Struct):
    """A trajectory to learn from. old: log-probabilities [response] under the policy that it is to be compared with (None: this very one, before the update); sampled: those that the engine drew with, where
    the gap is to be known."""

    prompt: list[int]
    response: list[int]
    mask: list[bool]
    advantage: float
    old: list[float] | None = None
    sampled: list[float] | None = None


class _Sums(msgspec.Struct):
    """Over packs of an update, then over ranks."""

    stats: objective.Stats
    loss: float = 0.0
    gap: float = 0.0
    gap_most: float = 0.0
    entropy: float = 0.0

    def add(self, other: _Sums) -> None:
        self.stats.add(other.stats)
        self.loss += other.loss
        self.gap += other.gap
        self.gap_most = max(self.gap_most, other.gap_most)
        self.entropy += other.entropy


class Updated(msgspec.Struct):
    """gap_mean, gap_most: between the engine's log-probabilities and these, of a token; entropy: mean of a token's distribution."""

    loss: float
    grad_norm: float
    stats: objective.Stats
    skipped: bool
    gap_mean: float = 0.0
    gap_most: float = 0.0
    entropy: float = 0.0


def for_training(source: str, dtype: str, device: str, trust_remote_code: bool, ranks: Ranks) -> tuple[Any, Any, str]:
    """(model in float32, tokenizer, the type to compute in: the checkpoint's own where dtype is auto, bfloat16 for one in float16). Raises BadInput and Missing."""
    from tenfold_shared.models import load_causal_lm

    if dtype == "float16":
        raise BadInput("--dtype float16: small gradients would be lost in it; compute in bfloat16 or float32")
    # under torchrun the shards are moved to GPUs, on which the whole need not fit
    place = "cpu" if ranks.size > 1 else device
    model, tokenizer = load_causal_lm(source, "auto", place, trust_remote_code)
    found = str(model.dtype).removeprefix("torch.") if dtype == "auto" else dtype
    if hasattr(model, "merge_and_unload"):  # an adapter: what is trained, and saved, is the whole
        model = model.float().merge_and_unload()
    state = Path(source) / "state.json"
    if dtype == "auto" and state.exists():  # a checkpoint of ours: its weights are float32 whatever it computes in
        found = state_of(Path(source))["compute"]
    model = model.float().requires_grad_(True)
    _writable(model)
    return model, tokenizer, "bfloat16" if found == "float16" else found


def _writable(model: Any) -> None:
    """Many checkpoints have a temperature beside greedy decoding, which transformers reads and refuses to write: nothing here decodes by it, so only its tokens are kept."""
    from transformers import GenerationConfig

    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )


def state_of(folder: Path) -> dict[str, Any]:
    """What was saved with a checkpoint. Raises BadInput."""
    try:
        found: dict[str, Any] = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError, RecursionError) as problem:
        raise damaged(folder, problem) from None
    return found


def damaged(folder: Path, problem: Exception) -> BadInput:
    return BadInput(
        f"{folder}: the checkpoint is damaged ({problem}); put it back from a copy, or begin again with --overwrite"
    )


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The decoder's layers."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (one for one in model.base_model.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == count)
    return list(next(lists))


class Forward(torch.nn.Module):
    """A pack's log-probabilities as a module, so that what wraps it (FSDP) knows where the pass begins and ends."""

    def __init__(self, model: Any, how: Optimisation) -> None:
        super().__init__()
        self.model, self.how = model, how
        self.compute: torch.dtype = getattr(torch, how.compute)
        model.set_attn_implementation(attention.NAME)

    def forward(self, one: Pack, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """(log-probabilities of the pack's targets, entropies of the distributions or None)."""
        with torch.autocast(one.tokens.device.type, self.compute, enabled=self.compute != torch.float32):
            states = self.model.base_model(
                input_ids=one.tokens[None],
                position_ids=one.positions[None],
                spans=one.spans,
                use_cache=False,
            ).last_hidden_state[0]
            return objective.token_logprobs(
                states[one.sources],
                self.model.get_output_embeddings().weight,
                one.targets,
                temperature=self.how.temperature,
                chunk=self.how.chunk,
                entropy=entropy,
            )


class Policy:
    """A causal transformers model with its optimizer; under torchrun in shards. Raises BadInput for a model whose attention is not full in every layer: packs are for those."""

    def __init__(self, model: Any, how: Optimisation, *, training: bool = True, ranks: Ranks | None = None) -> None:
        """training: False for log-probabilities alone, without an optimizer."""
        self.model, self.how, self.ranks = model, how, ranks or Ranks()
        full_attention(model, "only full attention can be trained here")
        plain_head(model)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):  # a ratio is that of two policies, not of two masks
                module.p = 0.0
        if how.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.forward = Forward(model, how)
        if self.ranks.size > 1:
            self.ranks.shard(self.forward, layers_of(model), self.forward.compute)
        self.parameters = [one for one in model.parameters() if one.requires_grad]
        self._apart()
        self.updates = 0
        if not training:
            return
        self.optimizer = self._adam()

    @torch.no_grad()
    def _apart(self) -> None:
        """Raises BadInput for a model whose code does not hand a pack's segments to its attention: a response would see others."""
        found = []
        for other in (1, 2):
            one = pack([Piece(0, [1, 2], [other] * 3, [True] * 3), Piece(1, [1, 2], [3, 4, 5], [True] * 3)], 64)[0]
            logp, _ = self.predicted(one.to(self.device))
            found.append(logp[one.owner == 1])
        if float((found[0] - found[1]).abs().max()) > 1e-5:
            raise BadInput(
                f"{self.model.config.model_type}: its code does not pass attention's arguments on, so that trajectories cannot be packed"
            )

    @property
    def device(self) -> torch.device:
        found: torch.device = next(self.model.parameters()).device
        return found

    def predicted(self, one: Pack, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (and entropies) of a pack's targets."""
        found: tuple[Tensor, Tensor | None] = self.forward(one, entropy)
        return found

    def packs(self, examples: Sequence[Example]) -> Iterator[Pack]:
        # one that a deadline cut off before its first turn ended has nothing to be read for
        pieces = [Piece(k, one.prompt, one.response, one.mask) for k, one in enumerate(examples) if any(one.mask)]
        for one in pack(pieces, self.how.most):
            yield one.to(self.device)

    def rounds(self, examples: Sequence[Example]) -> Iterator[tuple[Pack, bool]]:
        """This rank's packs, and as many as any other has: where it has fewer, it reads the first one again, False, for nothing, as ranks gather and add up together."""
        packs = list(self.packs(examples))
        mine = self.ranks.mine(packs)
        yield from ((one, True) for one in mine)
        yield from ((packs[0], False) for _ in range(-(-len(packs) // self.ranks.size) - len(mine)))

    @torch.no_grad()
    def logprobs(self, examples: Sequence[Example]) -> tuple[list[list[float]], float]:
        """(of each example's response, 0 where it is not trained on; mean entropy of the distributions that were drawn from)."""
        seen: list[tuple[list[int], list[int], list[float], float]] = []
        for one, counts in self.rounds(examples):
            logp, entropies = self.predicted(one, entropy=True)
            assert entropies is not None
            if counts:
                seen.append((one.owner.tolist(), one.place.tolist(), logp.tolist(), float(entropies.sum())))
        found = [[0.0] * len(one.response) for one in examples]
        total, count = 0.0, 0
        for owner, place, values, entropy in itertools.chain.from_iterable(self.ranks.all(seen)):
            total, count = total + entropy, count + len(values)
            for who, where, value in zip(owner, place, values, strict=True):
                found[who][where] = value
        return found, total / max(count, 1)

    # ------------------------------------------------------------ one update

    def update(self, examples: Sequence[Example], clip: objective.Clip, *, denominator: float | None = None) -> Updated:
        """One step of the optimizer on all examples, which every rank has. denominator: the sampled tokens of the whole update; counted here where it is not given. Where the loss or a gradient is no number,
        nothing is changed, and it says so."""
        tokens = denominator if denominator is not None else float(sum(sum(one.mask) for one in examples))
        compared = all(each.sampled is not None for each in examples)
        sums = _Sums(objective.Stats())
        self.optimizer.zero_grad(set_to_none=True)
        for one, counts in self.rounds(examples):
            logp, entropies = self.predicted(one, entropy=True)
            assert entropies is not None
            if not counts:
                (logp.sum() * 0).backward()
                continue
            sums.entropy += float(entropies.sum())
            if compared:
                apart = (logp.detach() - self._values(logp, one, [each.sampled for each in examples])).abs()
                sums.gap += float(apart.sum())
                sums.gap_most = max(sums.gap_most, float(apart.max()) if len(apart) else 0.0)
            advantage = torch.tensor([each.advantage for each in examples], dtype=logp.dtype, device=logp.device)[
                one.owner
            ]
            old = self._old(examples, one, logp)
            part, counted = objective.loss(logp, old, advantage, torch.ones_like(logp, dtype=torch.bool), tokens, clip)
            self._backward(part)
            sums.loss += float(part.detach())
            sums.stats.add(counted)
        own, *others = self.ranks.all(sums)
        for other in others:
            own.add(other)
        found = self._step(own.loss, own.stats)
        if own.stats.tokens:
            found.gap_mean, found.gap_most = own.gap / own.stats.tokens, own.gap_most
            found.entropy = own.entropy / own.stats.tokens
        return found

    def fit(self, examples: Sequence[Example], rate: float) -> float:
        """One step of maximum likelihood at a learning rate: the mean loss of a token. (The cold start.)"""
        tokens = float(sum(sum(one.mask) for one in examples))
        total = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for one, counts in self.rounds(examples):
            logp, _ = self.predicted(one)
            part = -logp.sum() / tokens * counts
            self._backward(part)
            total += float(part.detach())
        total = sum(self.ranks.all(total))
        self._step(total, objective.Stats(), rate)
        return total

    def _backward(self, part: Tensor) -> None:
        """Gradients of a part of a sum over ranks, of which FSDP takes the mean."""
        (part * self.ranks.size).backward()

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
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.how.norm)))
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
        self.optimizer = self._adam()

    def _adam(self) -> torch.optim.AdamW:
        how = self.how
        return torch.optim.AdamW(self.parameters, lr=how.lr, betas=how.betas, weight_decay=how.decay, fused=True)

    # ------------------------------------------------------------ checkpoints

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole value of each parameter, one at a time; every rank must ask, and to the end."""
        reshard(self.forward)
        for name, value in self.model.named_parameters():
            yield name, whole(value.detach())

    def save(self, folder: Path, tokenizer: Any, state: dict[str, Any], *, optimizer: bool = True, dtype: str | None = None) -> None:  # fmt: skip
        """A folder that transformers opens, and with what is needed to go on; complete or not at all. Every rank calls it, rank 0 writes. dtype: of the weights in it (None: as they are)."""
        weights = {}
        for name, value in self.weights():
            if self.ranks.first:
                weights[name] = value.to("cpu", value.dtype if dtype is None else getattr(torch, dtype))
        tensors, numbers = self._moments() if optimizer else ({}, {})
        problem = ""
        if self.ranks.first:
            try:
                self._write(folder, tokenizer, weights, tensors if optimizer else None, {**state, "compute": self.how.compute, "updates": self.updates, "numbers": numbers})  # fmt: skip
            except (OSError, SafetensorError) as error:
                why = getattr(error, "strerror", None) or error
                problem = f"{folder}: the checkpoint could not be written: {why}; what was saved before is kept"
        if problem := self.ranks.same(problem):
            raise Missing(problem)

    def _moments(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimizer's state: (tensors, numbers) by place and name."""
        tensors, numbers = {}, {}
        for place, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    full = whole(value)
                    if self.ranks.first:
                        tensors[f"{place}.{name}"] = full.cpu().contiguous()
                else:
                    numbers[f"{place}.{name}"] = value
        return tensors, numbers

    def _write(self, folder: Path, tokenizer: Any, weights: dict[str, Tensor], moments: dict[str, Tensor] | None, state: dict[str, Any]) -> None:  # fmt: skip
        """Raises OSError and, as full disks are among them, SafetensorError, with what was there kept."""
        beside = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            kind = str(next(iter(weights.values())).dtype).removeprefix("torch.")
            self.model.save_pretrained(beside, state_dict=weights)
            config = json.loads((beside / "config.json").read_text())
            config["dtype"] = kind  # not the model's, which may be wider
            (beside / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            tokenizer.save_pretrained(beside)
            if moments is not None:
                save_file(moments, beside / "optimizer.safetensors")
                (beside / "state.json").write_text(json.dumps(state))
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
        except (OSError, SafetensorError):
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def restore(self, folder: Path) -> dict[str, Any]:
        """The optimizer's state from a checkpoint whose weights this policy was opened with; returns what was saved with it."""
        state = state_of(folder)
        try:
            tensors = load_file(folder / "optimizer.safetensors")
        except (OSError, SafetensorError) as problem:
            raise damaged(folder, problem) from None
        found: dict[int, dict[str, Any]] = {}
        for name, value in [*tensors.items(), *state.pop("numbers").items()]:
            place, _, what = name.partition(".")
            own = self.parameters[int(place)]
            found.setdefault(int(place), {})[what] = (
                like(value, own) if isinstance(value, torch.Tensor) and value.shape == own.shape else value
            )
        current = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": found, "param_groups": current["param_groups"]})
        self.updates = state.pop("updates")
        del state["compute"]
        return state
