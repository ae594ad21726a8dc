"""`MixtureCallback`: an agent steers a transformers.Trainer. (`MixtureFile`, for trainers that are not Python's, is in filecontrol.py.)

    data = MixedDataset(corpus, 1024, weights)
    steering = MixtureCallback(agent, data, budget=Budget(tokens=2**20, steps=80, source_share=0.2), schedule_file="schedule.jsonl")
    Trainer(model=model, args=TrainingArguments(max_steps=..., ...), train_dataset=data, callbacks=[steering]).train()

Every `budget.tokens` tokens the model is measured on every domain's held-out text, the policy decides, and the dataset's weights change.
The callback's state goes into each checkpoint (`mixture.json`) and comes back with `train(resume_from_checkpoint=...)`, whether the
trainer replays the rows it had read or is told not to (ignore_data_skip). Under torch.distributed every process measures (a sharded
model needs all of them), rank 0 decides, and all change their weights at the same position. Give each process the dataset with
world_size=1, as the trainer's own loader deals the rows out, unless that loader is replaced.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datamix import schedule
from datamix.corpus import Corpus
from datamix.dataset import MixedDataset
from datamix.filecontrol import MixtureFile, bytes_per_token, in_bits_per_byte
from datamix.history import Budget, Decision, Floats, History, Policy
from datamix.mixture import to_names
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import write_atomic

try:
    import torch
    from torch.nn import functional
    from transformers import TrainerCallback
except ImportError:
    raise Missing("transformers is not installed: pip install 'datamix[hf]'") from None

__all__ = ["MixtureCallback", "MixtureFile", "bits_per_byte"]
STATE = "mixture.json"


def bits_per_byte(model: Any, corpus: Corpus, length: int, *, tokens: int = 16_384, batch: int = 8) -> Floats:
    """Held-out loss of each domain, [D], in bits per byte: the mean over the first `tokens` tokens of its valid text, in rows of
    `length` (the last one shorter), by a model that returns `logits` [n, length, V]. Gradients and train mode are left as they were."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found = []
    try:
        with torch.no_grad():
            for name in corpus.names:
                found.append(_nats_a_token(model, corpus.tokens(name, "valid")[: tokens + 1], length, batch, device))
    finally:
        model.train(was_training)
    return in_bits_per_byte(np.array(found), "nats_per_token", bytes_per_token(corpus), "evaluate")


def _nats_a_token(model: Any, text: Any, length: int, batch: int, device: Any) -> float:
    ids = torch.from_numpy(np.asarray(text).astype(np.int64)).to(device)
    if len(ids) < 2:
        return math.nan
    whole = (len(ids) - 1) // length
    rows = ids[: whole * length].reshape(whole, length)
    after = ids[1 : whole * length + 1].reshape(whole, length)
    pieces = list(zip(rows.split(batch), after.split(batch), strict=True)) if whole else []
    if whole * length < len(ids) - 1:
        pieces.append((ids[None, whole * length : -1], ids[None, whole * length + 1 :]))
    total = 0.0
    for x, y in pieces:
        logits = model(input_ids=x).logits.float()
        total += float(functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum"))
    return total / (len(ids) - 1)


class MixtureCallback(TrainerCallback):
    """Steers a Trainer that reads `dataset`.

    policy: anything with `decide(history) -> Decision`, as an agent is. evaluate: model -> losses [D] in bits per byte; by default
    `bits_per_byte` on the corpus's held-out text. budget: tokens of a step (over all processes), how many steps, and the limits that the
    policy is told. every: optimiser updates of a step, where it should not be budget.tokens rounded to whole updates. schedule_file gets
    a line of mixture-schedule/1 for each finished step; resume_from: a checkpoint folder, where it is not output_dir/checkpoint-N.
    After the last step the weights stay. Raises BadInput for a checkpoint without its state.
    """

    def __init__(
        self,
        policy: Policy,
        dataset: MixedDataset,
        evaluate: Callable[[Any], Floats] | None = None,
        *,
        budget: Budget,
        every: int | None = None,
        schedule_file: str | Path | None = None,
        resume_from: str | Path | None = None,
    ) -> None:
        self.policy, self.dataset, self.budget, self.every = policy, dataset, budget, every
        self.evaluate = evaluate or (lambda model: bits_per_byte(model, dataset.corpus, dataset.length))
        self.schedule_file = None if schedule_file is None else Path(schedule_file)
        self.resume_from = None if resume_from is None else Path(resume_from)
        self.history: History | None = None
        self.told: list[schedule.Line] = []
        self._decision: Decision | None = None
        self._start = dataset.position
        self._seen = np.zeros(len(dataset.names), dtype=np.int64)  # rows of each domain when the last step ended

    # ------------------------------------------------------------ the trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        self._rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        tokens = self._rows * self.dataset.length
        self._every = self.every or max(1, round(self.budget.tokens / tokens))
        if state.global_step > 0:
            self._resume(args, state)
            return
        base = self._measure(model)
        corpus = self.dataset.corpus
        self.history = History(corpus.names, corpus.source, corpus.sizes, base, self.budget)
        self._seen = self.dataset.taken_at(self._start)
        self._decide()
        self._write()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        history = self.history
        if history is None or self._decision is None or state.global_step != (len(history) + 1) * self._every:
            return
        losses = self._measure(model)
        missing = [name for name, loss in zip(self.dataset.names, losses, strict=True) if math.isnan(loss)]
        used = self._used(state.global_step)
        history.add(used, losses)
        names, decided = self.dataset.names, self._decision
        told = {name: float(x) for name, x in zip(names, history.losses[-1], strict=True)}
        seen = state.global_step * self._rows * self.dataset.length
        self.told.append(
            schedule.line(len(history) - 1, seen, to_names(decided.weights, names), told, decided.q, missing)
        )
        self._decision = None
        if len(history) < self.budget.steps:
            self._decide()
        self._write()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if _rank() == 0 and self.history is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / STATE, json.dumps(self._state(state.global_step)).encode() + b"\n")

    # ------------------------------------------------------------ deciding

    def _measure(self, model: Any) -> Floats:
        losses = np.asarray(self.evaluate(model), dtype=np.float64)
        if losses.shape != (len(self.dataset.names),):
            raise BadInput(
                f"evaluate: shape {losses.shape}; expected a loss for each of the {len(self.dataset.names)} domains"
            )
        return np.asarray(_from_first(losses))

    def _used(self, step: int) -> Floats:
        """Shares of what was drawn in the step that ends at optimiser update `step`. The first process knows, where it reads for all."""
        if _rank() == 0:
            taken = self.dataset.taken_at(self._start + step * self._rows)
            shares = (taken - self._seen) / (taken - self._seen).sum()
            self._seen = taken
        else:
            shares = np.zeros(len(self.dataset.names))
        return np.asarray(_from_first(shares))

    def _decide(self) -> None:
        assert self.history is not None
        self._decision = _from_first(self.policy.decide(self.history) if _rank() == 0 else None)
        assert self._decision is not None
        with self.dataset.hold() as first:
            self.dataset.set_weights(self._decision.weights, at=_largest(first))

    def _write(self) -> None:
        if self.schedule_file is not None and _rank() == 0:
            write_atomic(self.schedule_file, schedule.schedule_file(self.told))

    # ------------------------------------------------------------ checkpoints

    def _state(self, step: int) -> dict[str, Any]:
        assert self.history is not None
        data = self.dataset.state_dict(self._start + step * self._rows)
        decision = self._decision
        return {
            "schema": "mixture-run/1", "global_step": step, "rows_per_update": self._rows, "updates_per_step": self._every,
            "start": self._start, "dataset": data, "changes": self.dataset.changes, "seen": self._seen.tolist(),
            "base": self.history.base.tolist(), "weights": self.history.weights.tolist(), "losses": self.history.losses.tolist(),
            "decision": None if decision is None else {"weights": decision.weights.tolist(), "q": decision.q},
            "schedule": [json.loads(schedule.write_line(one)) for one in self.told],
        }  # fmt: skip

    def _resume(self, args: Any, state: Any) -> None:
        places = [self.resume_from, Path(args.output_dir) / f"checkpoint-{state.global_step}"]
        if isinstance(args.resume_from_checkpoint, str):
            places.insert(1, Path(args.resume_from_checkpoint))
        path = next((place / STATE for place in places if place is not None and (place / STATE).is_file()), None)
        if path is None:
            raise BadInput(
                f"{places[-1]}: no {STATE}: that checkpoint was not saved under this callback, or lies elsewhere (resume_from)"
            )
        try:
            saved = json.loads(path.read_bytes())
            told = [schedule.Line(**line) for line in saved["schedule"]]
            base, weights, losses = (np.array(saved[name], dtype=np.float64) for name in ("base", "weights", "losses"))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"{path}: not the state of a mixture run: {error}") from None
        if saved.get("rows_per_update") != self._rows or saved["global_step"] != state.global_step:
            raise BadInput(
                f"{path}: {saved.get('rows_per_update')} rows an update to update {saved['global_step']}; this run has {self._rows} at "
                f"{state.global_step}: resume with the same batch size times processes"
            )
        corpus = self.dataset.corpus
        if len(base) != len(corpus.names):
            raise BadInput(f"{path}: {len(base)} domains; the corpus has {len(corpus.names)}")
        self._every, self.told = int(saved["updates_per_step"]), told
        self.history = History(corpus.names, corpus.source, corpus.sizes, base, self.budget)
        for used, loss in zip(weights, losses, strict=True):
            self.policy.decide(self.history)  # in order, as it was: it may keep what it needs
            self.history.add(used, loss)
        decision = saved["decision"]
        self._decision = None
        if decision is not None:
            self.policy.decide(self.history)
            self._decision = Decision(np.array(decision["weights"], dtype=np.float64), decision["q"])
        if args.ignore_data_skip:
            self.dataset.load_state_dict(saved["dataset"])
        else:  # the trainer reads all rows again from the start, and has to get the same ones
            self.dataset.set_changes(saved["changes"])
        self._start, self._seen = int(saved["start"]), np.array(saved["seen"], dtype=np.int64)
        self._write()


# ---------------------------------------------------------------- processes


def _rank() -> int:
    return torch.distributed.get_rank() if _several() else 0


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _from_first(value: Any) -> Any:
    """What rank 0 has."""
    if not _several():
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]


def _largest(number: int) -> int:
    """Over all processes."""
    if not _several():
        return number
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, number)
    return int(max(found))
