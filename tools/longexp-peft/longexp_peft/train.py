"""`longexp-peft train`: an adapter from a data set, with sparse feed-forward layers and attention (arXiv 2510.15964).

A step reads rows of packed documents, forward and backward, adds up gradients of the mean loss over all targets, and takes one AdamW
step. Under torchrun each rank reads its rows of a step and chooses its own sets; one process that reads them all comes to the same
gradients. Work lies in NAME.work (work.py) until it is complete; the same command goes on after a kill, on a CPU to the same bytes.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

import longexp_peft
from longexp_peft import dataset, needs, pack, shape
from longexp_peft.audit import Audit, Broken
from longexp_peft.bundle import Bundle, identity
from longexp_peft.dataset import Data
from longexp_peft.methods import Method, Tuned, attach
from longexp_peft.ranks import Ranks, shard
from longexp_peft.sparse import Sparse, Sparsity, check_forward, check_zeros
from longexp_peft.work import LOG, STATE, Work, after_a_step
from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import sha256_of
from tenfold_shared.generate.transformers import out_of_memory
from tenfold_shared.jsonl import Lock
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import one_line, redact

logger = logging.getLogger(__name__)
Record = dict[str, Any]
SAVE_EVERY_S = 30.0


class Settings(msgspec.Struct, frozen=True):
    """How an adapter is trained. batch_tokens: tokens of a row; batch_rows: rows of a step, over all processes. steps ends a run
    before its epochs do. decay: the rate after the warm-up, constant, linear or cosine to 0. warmup_dense: share of the steps, from
    the first, that skip nothing. audit_every: 0 for none."""

    epochs: int = 1
    steps: int | None = None
    batch_tokens: int = 2048
    batch_rows: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.1
    warmup: int = 20
    decay: str = "linear"
    smoothing: float = 0.0
    max_norm: float = 1.0
    warmup_dense: float = 0.0
    audit_every: int = 50
    audit_recall: float = 0.98
    eval_every: int = 0
    gradient_checkpointing: bool = False
    seed: int = 0

    @staticmethod
    def mode_skips(sparse: Sparse) -> bool:
        return sparse.how.mode != "dense"

    def rate(self, step: int, steps: int) -> float:
        warmup = min(self.warmup, steps - 1)
        if step < warmup:
            return self.lr * (step + 1) / (warmup + 1)
        along = (step - warmup) / max(1, steps - warmup)
        left = {"constant": 1.0, "linear": 1 - along, "cosine": (1 + math.cos(math.pi * along)) / 2}[self.decay]
        return self.lr * left


class Trainer:
    """What trains, its optimiser, and the rows of every step."""

    def __init__(
        self, tuned: Tuned, sparse: Sparse, data: Data, how: Settings, ranks: Ranks, sharded: bool = False
    ) -> None:
        self.tuned, self.sparse, self.data, self.how, self.ranks = tuned, sparse, data, how, ranks
        self.sharded = sharded
        self.device = next(iter(tuned.parameters.values())).device
        self.lengths = [len(one.ids) for one in data.examples]
        self.epochs: dict[int, list[list[int]]] = {}
        self.sizes: list[int] = []  # rows of the epochs so far; they differ by a row or so
        if how.steps is not None:
            self.steps = how.steps
        else:
            self.steps = -(-sum(self._size(number) for number in range(how.epochs)) // how.batch_rows)
        self.parameters = [tuned.parameters[name] for name in sorted(tuned.parameters)]
        # A step of 1e-4 is lost in 16 bits: what trains in them, a model's own biases, has a float32 copy that is stepped.
        self.masters = [
            p if p.dtype in (torch.float32, torch.float64) else nn.Parameter(p.detach().float())
            for p in self.parameters
        ]
        decay = 0.0 if tuned.how.name == "bitfit" else how.weight_decay  # which would pull a model's own biases to 0
        self.optimiser = torch.optim.AdamW(self.masters, lr=how.lr, weight_decay=decay, betas=(0.9, 0.999), eps=1e-8)
        self.audit = Audit(sparse, how.audit_every if how.mode_skips(sparse) else 0, how.audit_recall, how.seed)
        self.done = 0
        self.losses: list[float] = []
        self.tokens = self.targets = 0
        self.held: Record | None = None

    def _epoch(self, number: int) -> list[list[int]]:
        if number not in self.epochs:
            if len(self.epochs) > 2:
                self.epochs.pop(min(self.epochs))
            self.epochs[number] = pack.epoch(self.lengths, self.how.batch_tokens, self.how.seed, number)
        return self.epochs[number]

    def _size(self, number: int) -> int:
        while len(self.sizes) <= number:
            self.sizes.append(len(self._epoch(len(self.sizes))))
        return self.sizes[number]

    def rows(self, step: int) -> list[list[int]]:
        """The rows of a step as example numbers. Epochs are laid end to end, as many as the steps need; the last step of a run by
        epochs has what is left."""
        end = sum(self._size(n) for n in range(self.how.epochs)) if self.how.steps is None else None
        found = []
        for at in range(step * self.how.batch_rows, (step + 1) * self.how.batch_rows):
            if end is not None and at >= end:
                break
            number = 0
            while at >= self._size(number):
                at -= self._size(number)
                number += 1
            found.append(self._epoch(number)[at])
        return found

    def _mine(self, rows: list[list[int]]) -> list[tuple[int, list[int]]]:
        """This rank's rows with their numbers. Where layers are sharded every rank must take part in as many: one with fewer reads the
        first row again, for nothing."""
        size, rank = self.ranks.size, self.ranks.rank
        mine = [(number, rows[number]) for number in range(rank, len(rows), size)]
        if self.sharded:
            mine += [(len(rows) + rank, rows[0])] * (-(-len(rows) // size) - len(mine))
        return mine

    def step(self) -> Record:
        """One optimiser step; what is logged of it. Raises Broken for a loss that is no number."""
        how, started = self.how, time.perf_counter()
        rows = self.rows(self.done)
        targets = sum(int(self.data.examples[i].target.sum()) for row in rows for i in row)
        for group in self.optimiser.param_groups:
            group["lr"] = how.rate(self.done, self.steps)
        self.sparse.skipping = how.mode_skips(self.sparse) and self.done >= how.warmup_dense * self.steps
        self.audit.before(self.done + 1)
        self.optimiser.zero_grad(set_to_none=True)
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        neurons: list[tuple[int, dict[int, float]]] = []
        blocks: list[tuple[int, dict[int, float]]] = []
        for number, members in self._mine(rows):
            row = pack.row_of([self.data.examples[i] for i in members], self.device)
            torch.manual_seed(
                ((how.seed * 1_000_003 + self.done) * 4096 + number) % (1 << 63)
            )  # dropout: the same after a kill
            loss = self.sparse.loss(row, self.tuned.prompt(), how.smoothing)
            if number >= len(rows):
                (0.0 * loss).backward()
                continue
            (loss / targets).backward()
            total += loss.detach().double().cpu()
            tokens += row.tokens
            neurons.append((row.tokens, dict(self.sparse.densities)))
            blocks.append((row.tokens, dict(self.sparse.attention_densities)))
        told = torch.tensor([float(total), float(tokens)], dtype=torch.float64)
        grads = []
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            grads.append(p.grad)
        if self.ranks.size > 1:
            told = told.to(self.device)
            self.ranks.add([told])
            self.ranks.add(grads)
        loss_mean, tokens = float(told[0]) / targets, int(told[1])
        if not math.isfinite(loss_mean):
            raise Broken(
                f"step {self.done + 1}: the loss is {loss_mean}; what was saved before is kept. A smaller --lr, or --dtype bfloat16 or "
                "float32 in place of float16, may help"
            )
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, how.max_norm if how.max_norm else math.inf))
        for p, master in zip(self.parameters, self.masters, strict=True):
            if master is not p:
                assert p.grad is not None
                master.grad = p.grad.float()
        self.optimiser.step()
        self._copy_masters()
        self.done += 1
        self.losses.append(loss_mean)
        self.tokens += tokens
        self.targets += targets
        audited = self.audit.answer(self.ranks.all(self.audit.look()))
        seconds = time.perf_counter() - started
        line: Record = {
            "step": self.done, "loss": round(loss_mean, 6), "lr": self.optimiser.param_groups[0]["lr"], "grad_norm": round(norm, 6),
            "tokens": tokens, "targets": targets, "seconds": round(seconds, 4), "tokens_s": round(tokens / seconds, 1),
            "density": _mean(neurons), "attention_density": _mean(blocks),
        }  # fmt: skip
        if audited:
            line["audit"] = audited
            line["densities"] = {str(k): round(v, 4) for k, v in sorted(self.sparse.densities.items())}
        return line

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for p, master in zip(self.parameters, self.masters, strict=True):
            if master is not p:
                p.copy_(master)

    # ------------------------------------------------------------ what a killed run continues from

    def _named(self) -> list[tuple[str, Tensor]]:
        return list(zip(sorted(self.tuned.parameters), self.masters, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for name, p in self._named():
            found[f"weight.{name}"] = p.detach().cpu().contiguous().clone()
            for key, value in self.optimiser.state.get(p, {}).items():
                found[f"{key}.{name}"] = value.detach().cpu().contiguous().clone()
        return found

    def told(self) -> Record:
        return {"losses": self.losses, "tokens": self.tokens, "targets": self.targets, "audit": self.audit.state()}

    @torch.no_grad()
    def restore(self, done: int, told: Record, tensors: dict[str, Tensor]) -> None:
        self.done, self.losses = done, [float(x) for x in told["losses"]]
        self.tokens, self.targets = told["tokens"], told["targets"]
        self.audit.restore(told["audit"])
        for name, p in self._named():
            p.copy_(tensors[f"weight.{name}"])
            # `step` stays a CPU scalar, as the optimiser itself has it.
            state = {
                key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors
            }
            if state:
                self.optimiser.state[p] = {
                    key: x.clone() if key == "step" else x.to(p.device) for key, x in state.items()
                }
        self._copy_masters()


def _mean(seen: list[tuple[int, dict[int, float]]]) -> float | None:
    """Mean over layers and rows, by tokens."""
    total = weight = 0.0
    for tokens, by_layer in seen:
        for value in by_layer.values():
            total += value * tokens
            weight += tokens
    return round(total / weight, 4) if weight else None


def evaluate(sparse: Sparse, tuned: Tuned, data: Data, width: int) -> Record:
    """Mean loss per target of held-out examples, computed as `sparse` is set now. No gradients."""
    device = next(iter(tuned.parameters.values())).device if tuned.parameters else next(tuned.model.parameters()).device
    total, count, examples = 0.0, 0, []
    with torch.no_grad():
        prompt = tuned.prompt()
        for members in pack.in_order([len(one.ids) for one in data.examples], width):
            row = pack.row_of([data.examples[i] for i in members], device)
            each = sparse.losses(row, prompt).double()
            total += float(each.sum())
            count += len(each)
            examples += [
                float(part.mean()) for part in each.split([int(data.examples[i].target.sum()) for i in members])
            ]
    return {
        "loss": round(total / count, 6),
        "perplexity": round(math.exp(min(700.0, total / count)), 4),
        "targets": count,
        "examples": len(examples),
    }


# ---------------------------------------------------------------- the verb


def run(
    files: Sequence[str],
    how: Settings,
    method: Method,
    sparsity: Sparsity,
    *,
    uri: str,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    bundle: str | None,
    form: str,
    max_length: int | None,
    truncate: str,
    chat_template: str | None,
    template: str | None,
    limit: int | None,
    skip_bad: int,
    held_out: str | None,
    init: str | None,
    allow_lossy: bool,
    fsdp: bool,
    max_time: float | None,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    started, clock = datetime.now(UTC), time.monotonic()
    if output in (None, "-"):
        raise BadInput("train: expected -o DIR, a folder for the adapter")
    target = Path(str(output))
    if not target.absolute().parent.is_dir():
        raise BadInput(f"{target}: the folder {target.absolute().parent} does not exist; create it first")
    if sparsity.mode in ("predicted", "static") and bundle is None:
        raise BadInput(f"--mode {sparsity.mode}: needs --bundle, which `longexp-peft calibrate` makes")
    if sparsity.attention == "blocks" and sparsity.mode not in ("predicted", "static"):
        raise BadInput("--attention blocks: needs --mode predicted or static, whose patterns a bundle has")
    ranks = Ranks()
    quiet = quiet or ranks.rank > 0
    if how.batch_rows < ranks.size:
        raise BadInput(f"--batch-rows {how.batch_rows}: {ranks.size} processes have no row each; give at least as many")
    if ranks.size > 1 and "-" in (*files, *([] if files else ["-"])):
        raise BadInput("-: several processes cannot read one stdin; give a file")
    if fsdp and ranks.size == 1:
        raise BadInput(
            "--fsdp: shards a model over processes; start it with torchrun --nproc-per-node N -m longexp_peft.cli"
        )
    lock, work = Lock(target.with_name(f".{target.name}.lock"), target) if ranks.rank == 0 else None, Work(target)
    try:
        model, tokenizer = needs.load(
            uri, dtype, ranks.device if device == "auto" and ranks.size > 1 else device, trust_remote_code
        )
        model.eval()  # no dropout but LoRA's own: sets would differ between forward and recomputation
        check_forward(model)
        needs.chat_template(tokenizer, chat_template)
        ffns = shape.feed_forwards(model)
        skips(model, sparsity.mode, allow_lossy)
        virtual = method.virtual_tokens if method.name in ("prefix", "ptuning") else 0
        if needs.positions(model) - virtual < 2:
            raise BadInput(f"--virtual-tokens {virtual}: the model has {needs.positions(model)} positions in all")
        longest = longest_of(max_length, needs.positions(model) - virtual, how.batch_tokens)
        reading: Record = {"form": form, "max_length": longest, "truncate": truncate, "template": template}
        data = dataset.read(files, tokenizer, needs.vocabulary(model), **reading, limit=limit, skip_bad=skip_bad)
        held = None if held_out is None else dataset.read([held_out], tokenizer, needs.vocabulary(model), **reading)
        found = None if bundle is None else Bundle.load(bundle, model)
        base = identity(model)
        known = {
            "tool": "longexp-peft", "verb": "train",
            "options": {
                **_named(method), **_named(sparsity), **msgspec.to_builtins(how), **reading, "limit": limit, "model": base,
                "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type, "processes": ranks.size,
                "bundle": None if found is None else found.digest(), "skip_bad": skip_bad, "fsdp": fsdp,
                "init": None if init is None else _adapter_digest(init),
                "chat_template": None if chat_template is None else sha256_of(chat_template),
                "template": None if template is None else sha256_of(template),
            },
            "inputs": [*data.inputs, *(held.inputs if held is not None else [])],
        }  # fmt: skip
        known = json.loads(json.dumps(known))  # as it will be read back
        finished = work.settle(known, overwrite) if ranks.rank == 0 else None
        if finished is not None:
            if not quiet:
                print(f"longexp-peft: {output}: complete already; nothing to do", file=sys.stderr)
            if as_json:
                print(json.dumps({"adapter": output, **finished}))
        with ranks.joined():
            if ranks.same(finished) is not None:
                return 0
            if not quiet:
                _tell(data, longest)
            tuned = attach(model, method, uri)
            if init is not None:
                _initialise(tuned, init)
            if found is not None:
                tuned.reorder([found.order(f.layer) for f in ffns])
                found.to(model.device)
            if how.gradient_checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.train()  # transformers checkpoints training models alone; their own dropouts are set to 0 below
                _no_dropout(model, tuned)
            sparse = Sparse(model, sparsity, found)
            if fsdp:
                shard(tuned)
            mine = work if ranks.rank == 0 else None
            trainer, complete = _train(tuned, sparse, data, held, how, ranks, mine, clock, max_time, quiet, fsdp)
            if ranks.rank > 0:
                return 0 if complete else 1
            if not complete:
                print(
                    f"longexp-peft: {output}: out of time after {trainer.done} of {trainer.steps} steps; the same command goes on",
                    file=sys.stderr,
                )
                return 1
            told = _told(trainer, data, held, sparse, longest, work)
            manifest = {
                "schema": "manifest/1", "version": longexp_peft.__version__, "argv": [redact(word) for word in sys.argv],
                "seed": how.seed, **known, "counts": told, "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
            }  # fmt: skip
            extra = {
                "manifest.json": msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n",
                "log.jsonl": (work.folder / LOG).read_bytes(),
            }
            tuned.save(target, extra)
            work.clear()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise Missing(
            f"train: out of memory ({one_line(error, 120)}); a smaller --batch-tokens, --gradient-checkpointing or --dtype bfloat16"
        ) from None
    finally:
        if lock is not None:
            if work.begun and not (work.folder / STATE).exists():
                work.clear()  # nothing to go on from, and nothing in another run's way
            lock.release()
    if as_json:
        print(json.dumps({"adapter": output, **told}))
    elif not quiet:
        print(f"longexp-peft: {output}: {_sentence(told)}", file=sys.stderr)
    return 0


OPTION = {
    "name": "method", "dropout": "lora_dropout", "targets": "target_modules", "protect": "protect_layers", "dense_targets": "dense_output_tokens",
}  # fmt: skip


def _named(settings: msgspec.Struct) -> Record:
    """Settings by the names of their options, which a refusal of another run's output tells."""
    return {OPTION.get(k, k): v for k, v in msgspec.to_builtins(settings).items()}


def skips(model: Any, mode: str, allow_lossy: bool) -> None:
    """Raises Missing for a mode that skips in a model without exact zeros, but where loss is allowed and the mode can lose."""
    ffns = shape.feed_forwards(model)
    if mode == "exact":
        check_zeros(ffns)
    if mode != "dense" and not all(f.zeros for f in ffns) and not allow_lossy:
        raise Missing(
            f"--mode {mode}: this model's activation ({ffns[0].activation}) has no exact zeros, so that skipping loses quality; --allow-lossy "
            "does it all the same; `longexp-peft profile` tells how much would be lost"
        )


def longest_of(asked: int | None, possible: int, batch_tokens: int) -> int:
    """Tokens an example may have. Raises BadInput."""
    if asked is None:
        return min(possible, batch_tokens, 1024)
    if asked > possible:
        raise BadInput(f"--max-length {asked}: the model has {possible} positions left")
    if asked > batch_tokens:
        raise BadInput(f"--max-length {asked}: does not fit into --batch-tokens {batch_tokens}")
    return asked


def _adapter_digest(folder: str) -> str:
    for name in ("adapter_model.safetensors", "adapter.safetensors"):
        if (Path(folder) / name).exists():
            return sha256_of(str(Path(folder) / name))
    raise BadInput(f"--init {folder}: no adapter_model.safetensors or adapter.safetensors there")


def _initialise(tuned: Tuned, folder: str) -> None:
    """Begin with the weights of a lora or bitfit adapter of the same shape and scale. Raises BadInput."""
    from safetensors.torch import load_file

    path = Path(folder)
    if tuned.how.name not in ("lora", "bitfit"):
        raise BadInput(f"--init: a {tuned.how.name} cannot be gone on with; lora and bitfit can")
    import peft

    assert tuned.peft is not None
    try:
        its = peft.PeftConfig.from_pretrained(str(path))
    except (ValueError, OSError, TypeError) as error:
        raise BadInput(f"--init {folder}: no adapter of peft: {' '.join(str(error).split())[:160]}") from None
    own = tuned.peft.active_peft_config
    for name in ("peft_type", "r", "lora_alpha", "target_modules", "bias"):
        a, b = getattr(its, name, None), getattr(own, name, None)
        a, b = (sorted(x) if isinstance(x, set | list) else x for x in (a, b))
        if a != b:
            raise BadInput(f"--init {folder}: was made with {name} {a}, this run has {b}")
    from safetensors import SafetensorError

    try:
        found: Any = peft.set_peft_model_state_dict(tuned.peft, load_file(path / "adapter_model.safetensors"))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise BadInput(f"--init {folder}: does not fit: {' '.join(str(error).split())[:160]}") from None
    wrong = [*found.unexpected_keys, *(n for n in found.missing_keys if "lora_" in n)]
    if wrong:
        raise BadInput(f"--init {folder}: {len(wrong)} tensors do not fit this method, {wrong[0]} first")


def _no_dropout(model: Any, tuned: Tuned) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and "lora_" not in name:
            module.p = 0.0
    for module in model.modules():
        for field in ("dropout", "attention_dropout", "layerdrop"):
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, 0.0)


def _train(
    tuned: Tuned, sparse: Sparse, data: Data, held: Data | None, how: Settings, ranks: Ranks, work: Work | None, clock: float,
    max_time: float | None, quiet: bool, fsdp: bool,
) -> tuple[Trainer, bool]:  # fmt: skip
    """All steps, or as many as there is time for."""
    trainer = Trainer(tuned, sparse, data, how, ranks, fsdp)
    found = ranks.same(work.load() if work is not None else None)
    if found is not None:
        trainer.restore(*found)
    logged = work.cut_log(trainer.done) if work is not None else []
    saved, late = time.monotonic(), False
    _lora_dropout(tuned, True)
    with sparse.attached(fsdp), Progress("train", trainer.steps, "steps", quiet) as progress, after_a_step() as asked:
        progress.update(trainer.done)
        if not logged and held is not None and work is not None and how.eval_every and not fsdp:
            work.log({"step": 0, "eval": _held_out(trainer, held)})
        while trainer.done < trainer.steps and not late:
            try:
                line = trainer.step()
            except Broken:
                if work is not None and trainer.done:
                    work.save(trainer.done, trainer.told(), trainer.tensors())  # of the last whole step
                raise
            due = held is not None and how.eval_every and trainer.done % how.eval_every == 0
            if due and held is not None:
                line["eval"] = _held_out(trainer, held)
            if work is not None:
                work.log(line)
            logger.info("step %d of %d: %s", trainer.done, trainer.steps, line)
            progress.label = f"train, loss {line['loss']:.3f}"
            progress.update()
            late = ranks.same(max_time is not None and time.monotonic() - clock > max_time)
            if work is not None and (time.monotonic() - saved > SAVE_EVERY_S or late or asked):
                work.save(trainer.done, trainer.told(), trainer.tensors())
                saved = time.monotonic()
            if asked:
                raise asked[0]
        complete = trainer.done == trainer.steps
        trainer.held = _held_out(trainer, held) if complete and held is not None else None
    _lora_dropout(tuned, False)
    return trainer, complete


def _held_out(trainer: Trainer, held: Data) -> Record:
    """Held-out loss, always dense: what the adapter is worth on the base model."""
    sparse = trainer.sparse
    before = sparse.skipping
    sparse.skipping = False
    _lora_dropout(trainer.tuned, False)
    try:
        return evaluate(sparse, trainer.tuned, held, trainer.how.batch_tokens)
    finally:
        sparse.skipping = before
        _lora_dropout(trainer.tuned, True)


def _lora_dropout(tuned: Tuned, on: bool) -> None:
    for name, module in tuned.model.named_modules():
        if "lora_dropout" in name:
            module.train(on)


def _tell(data: Data, longest: int) -> None:
    """What a user should know before it begins, on stderr."""
    counts, lines = data.counts, []
    if counts.truncated:
        lines.append(f"{counts.truncated} examples are longer than --max-length {longest}: cut")
    if counts.no_target:
        lines.append(f"{counts.no_target} examples have no token to predict left: passed over")
    if counts.skipped_bad:
        lines.append(f"{counts.skipped_bad} malformed records passed over")
    for line in lines:
        print(f"longexp-peft: {line}", file=sys.stderr)


def _told(trainer: Trainer, data: Data, held: Data | None, sparse: Sparse, longest: int, work: Work) -> Record:
    tenth = max(1, len(trainer.losses) // 10)
    lines = [json.loads(line) for line in (work.folder / LOG).read_bytes().splitlines()]
    densities = [one["density"] for one in lines if one.get("density") is not None]
    audits = [one["audit"] for one in lines if "audit" in one]
    rows = [len(r) for r in trainer._epoch(0)]
    padded = len(data.examples) * max(trainer.lengths)
    return {
        "steps": trainer.done, "examples": len(data.examples), "tokens": trainer.tokens, "targets": trainer.targets,
        "truncated": data.counts.truncated, "no_target": data.counts.no_target, "skipped_bad": data.counts.skipped_bad,
        "rows": len(rows), "packing": {"fill": round(sum(trainer.lengths) / (len(rows) * trainer.how.batch_tokens), 4), "tokens_padded": padded,
                                       "factor": round(padded / sum(trainer.lengths), 3)},
        "loss_first": round(trainer.losses[0], 6), "loss_last": round(sum(trainer.losses[-tenth:]) / tenth, 6),
        "held_out": trainer.held, "density": round(sum(densities) / len(densities), 4) if densities else None,
        "layers_dense": sorted({f.layer for f in sparse.ffns} - sparse.allowed) if sparse.how.mode != "dense" else [],
        "audits": len(audits), "recall": round(sum(a["recall"] for a in audits) / len(audits), 5) if audits else None,
        "recall_worst": min((a["recall_worst"] for a in audits), default=None),
        "seconds_training": round(sum(one.get("seconds", 0.0) for one in lines), 3),
        "parameters": sum(p.numel() for p in trainer.parameters),
    }  # fmt: skip


def _sentence(told: Record) -> str:
    parts = [f"{told['steps']} steps, loss {told['loss_first']:.4f} at first, {told['loss_last']:.4f} at last"]
    if told["held_out"]:
        parts.append(f"held-out {told['held_out']['loss']:.4f}")
    if told["density"] is not None and told["density"] < 1:
        parts.append(f"{100 * told['density']:.1f} % of the neurons computed")
    if told["recall"] is not None:
        parts.append(f"energy recall {told['recall']:.4f} in {told['audits']} audits")
    return "; ".join(parts)
