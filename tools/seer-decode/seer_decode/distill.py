"""`seer-decode distill`: gates trained towards a frozen model's own attention (arXiv 2506.08889, 2.3 and 4.1).

A step reads a batch of packed rows through the base, once and without gradients; each layer's gate takes its loss and gradient
inside that layer's attention call, so that one layer's queries and keys are held at a time. Under torchrun each rank reads its
rows of a batch and gradients are summed; one process alone, or two, come to the same gates.

What is unfinished lies beside the output in NAME.work: one file of weights, moments and losses after a whole step, from which the
same command goes on to the same bytes on a CPU.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

import seer_decode
from seer_decode import data, needs, store
from seer_decode.capture import Features, can_pack, check_rotation, forward
from seer_decode.gate import Gates
from seer_decode.rotate import Unrotated
from seer_decode.shape import Shape, gated_layers, named
from seer_decode.text import Encoder, Reader
from seer_decode.truth import first_row, sequence_loss
from tenfold_shared import BadInput
from tenfold_shared.cli import Terminated
from tenfold_shared.generate.transformers import out_of_memory
from tenfold_shared.jsonl import Lock, difference, write_atomic
from tenfold_shared.models import load_causal_lm
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import one_line, redact

logger = logging.getLogger(__name__)
Record = dict[str, Any]
SAVE_EVERY_S = 30.0
STATE, IDENTITY = "state.safetensors", "run.json"
OURS = (STATE, IDENTITY, f".{STATE}.tmp", f".{IDENTITY}.tmp")  # the last two of a kill while writing
KEPT_LOSSES = 200  # of a run, in gate.json


class Settings(msgspec.Struct, frozen=True):
    """How gates are trained; the paper's values are the defaults of all but the first three (steps 800, 16 rows of 32,768).

    rows: query rows of a sequence that count, drawn anew each time, 0 for all. parts: optimiser steps a forward, each on its own
    share of those rows; 1 is the paper's. slice_ratio: rows before this share of a sequence are left out.
    """

    steps: int = 200
    batch_rows: int = 1
    length: int = 4096
    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup: int = 20
    slice_ratio: float = 0.0
    loss_scale: float = 10.0
    rows: int = 0
    parts: int = 1
    seed: int = 0

    @property
    def updates(self) -> int:
        return self.steps * self.parts

    def rate(self, update: int) -> float:
        """The learning rate of an optimiser step: linear over the warm-up, then a cosine to min_lr."""
        warmup = min(self.warmup, self.updates - 1)
        if update < warmup:
            return self.lr * (update + 1) / warmup
        along = (update - warmup) / max(1, self.updates - 1 - warmup)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * along)) / 2


class Ranks:
    """The processes of one run: rank and size, sums over them. One process needs no process group."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"

    @contextmanager
    def joined(self) -> Iterator[Ranks]:
        if self.size == 1:
            yield self
            return
        if torch.cuda.is_available():
            torch.cuda.set_device(self.device)  # objects are broadcast through the current one
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield self
        finally:
            dist.destroy_process_group()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over all ranks."""
        if self.size == 1:
            return
        flat = torch.cat([x.reshape(-1) for x in tensors])
        dist.all_reduce(flat)
        for x, part in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(part.view_as(x))

    def same(self, value: Any) -> Any:
        """Rank 0's value."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]


class Trainer:
    """Gates, and one AdamW a layer; `step` reads a batch. losses: of each step the sum over layers, and the divergence of a row
    from its target in nats, a mean over layers."""

    def __init__(self, model: Any, gates: Gates, how: Settings, ranks: Ranks) -> None:
        self.model, self.gates, self.how, self.ranks = model, gates, how, ranks
        self.unrotated = Unrotated(model)
        self._tables: tuple[Tensor, Tensor] | None = None
        self.optimisers = {
            layer: torch.optim.AdamW(gate.parameters(), lr=how.lr, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
            for layer, gate in gates
        }
        for p in gates.parameters():  # also where no row has a target, or a rank none
            p.grad = torch.zeros_like(p)
        self.done = 0
        self.losses: list[tuple[float, float]] = []

    def tables(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos, sin (tokens, r) of positions 0 …, made once for all layers."""
        if self._tables is None or len(self._tables[0]) < tokens:
            cos, sin = self.unrotated.tables(torch.arange(tokens, device=device)[None])
            self._tables = cos[0], sin[0]
        return self._tables[0][:tokens], self._tables[1][:tokens]

    def step(self, batch: list[list[Tensor]]) -> tuple[float, float]:
        """One batch of rows, of which this rank reads its own. Returns loss and divergence. Raises BadInput for NaN."""
        sequences = sum(map(len, batch))
        told = torch.zeros(2, dtype=torch.float64)
        for number, row in enumerate(batch):
            if number % self.ranks.size == self.ranks.rank:
                forward(self.model, row, _Row(self, number, len(row), 1 / sequences, told))
        if self.how.parts == 1:
            for layer, _ in self.gates:
                self._update(layer, self.done)
        told = told.to(self.gates[self.gates.shape.gated[0]].key.device)
        self.ranks.add([told])
        self.done += 1
        loss, nats = told.tolist()
        if not math.isfinite(loss):
            raise BadInput(
                f"step {self.done}: the loss is {loss}: the model's attention holds no numbers; try --dtype float32"
            )
        self.losses.append((loss, nats / len(self.optimisers)))
        return self.losses[-1]

    def _update(self, layer: int, update: int) -> None:
        """One optimiser step of a layer, on the gradients of all ranks."""
        optimiser = self.optimisers[layer]
        self.ranks.add([p.grad for p in self.gates[layer].parameters() if p.grad is not None])
        for group in optimiser.param_groups:
            group["lr"] = self.how.rate(update)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)

    # ------------------------------------------------------------ what a killed run continues from

    def tensors(self) -> dict[str, Tensor]:
        found = {f"weight.{name}": p.detach().cpu() for name, p in self.gates.named_parameters()}
        for layer, optimiser in self.optimisers.items():
            for name, p in self.gates[layer].named_parameters():
                for key, value in optimiser.state.get(p, {}).items():
                    found[f"{key}.{layer}.{name}"] = value.detach().cpu().clone()
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, p in self.gates.named_parameters():
            p.copy_(tensors[f"weight.{name}"])
        for layer, optimiser in self.optimisers.items():
            for name, p in self.gates[layer].named_parameters():
                state = {key: tensors[f"{key}.{layer}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                # `step` stays a CPU scalar, as the optimiser itself has it.
                optimiser.state[p] = {key: x.clone() if key == "step" else x.to(p.device) for key, x in state.items()}


class _Row:
    """What the gates do while the base reads one row: gather a layer's sequences, then loss, gradient and, with several parts,
    optimiser steps."""

    def __init__(self, trainer: Trainer, number: int, sequences: int, weight: float, told: Tensor) -> None:
        self.trainer, self.number, self.sequences, self.weight, self.told = trainer, number, sequences, weight, told
        self.held: list[tuple[Features, tuple[Tensor, Tensor]]] = []
        self.drawn: dict[int, list[Tensor]] = {}

    def __call__(self, layer: int, number: int, features: Features) -> None:
        how = self.trainer.how
        if how.parts == 1:
            self._loss(layer, number, features, self._before(features), 0)
            return
        # An optimiser step on a part needs that part of every sequence of the row.
        self.held.append((features, self._before(features)))
        if len(self.held) < self.sequences:
            return
        for part in range(how.parts):
            for at, (one, before) in enumerate(self.held):
                self._loss(layer, at, one, before, part)
            self.trainer._update(layer, self.trainer.done * how.parts + part)
        self.held.clear()

    def _before(self, features: Features) -> tuple[Tensor, Tensor]:
        """Queries and keys as they were before RoPE."""
        trainer = self.trainer
        cos, sin = trainer.tables(features.keys.shape[1], features.keys.device)
        return trainer.unrotated.by(features.queries, cos, sin), trainer.unrotated.by(features.keys, cos, sin)

    def _loss(self, layer: int, number: int, features: Features, before: tuple[Tensor, Tensor], part: int) -> None:
        trainer, how = self.trainer, self.trainer.how
        gate = trainer.gates[layer]
        rows = self._rows(number, features.keys.shape[1], gate.shape.block)[part].to(features.keys.device)
        with torch.enable_grad():
            loss = sequence_loss(
                gate, *before, features.queries, features.keys, rows=rows, scale=how.loss_scale,
                attention_scale=features.scale, backward=True, weight=self.weight,
            )  # fmt: skip
        counted = int((rows >= gate.shape.block).sum())
        blocks = -(-features.keys.shape[1] // gate.shape.block)
        share = self.weight / how.parts
        self.told[0] += float(loss) * share
        self.told[1] += float(loss) / how.loss_scale * blocks * len(rows) / max(counted, 1) * share

    def _rows(self, number: int, tokens: int, block: int) -> list[Tensor]:
        """The rows of a sequence that count, cut in parts, the same for all layers; each ascending."""
        if number not in self.drawn:
            how = self.trainer.how
            begin = first_row(tokens, how.slice_ratio)
            if how.rows or how.parts > 1:
                begin = max(
                    begin, block
                )  # what is drawn should have a target; without drawing, all count as in the published code
            at = torch.arange(begin, tokens)
            if how.rows or how.parts > 1:
                where = [how.seed, self.trainer.done, self.number, number]
                draw = torch.Generator().manual_seed(int.from_bytes(_digest(where), "little"))
                at = at[torch.randperm(len(at), generator=draw)[: how.rows or None]]
            self.drawn[number] = [part.sort().values for part in at.tensor_split(how.parts)]
        return self.drawn[number]


def _digest(numbers: Sequence[int]) -> bytes:
    import hashlib

    return hashlib.blake2b(json.dumps(list(numbers)).encode(), digest_size=7).digest()


# ---------------------------------------------------------------- unfinished work on disk


class Work:
    """NAME.work beside the output: the run's identity, and its state after a whole step."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.work")

    def identity(self) -> Record | None:
        try:
            found = json.loads((self.folder / IDENTITY).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def check(self) -> None:
        """Raises BadInput for a folder of this name that is not ours."""
        if (
            self.folder.exists()
            and self.identity() is None
            and any(path.name not in OURS for path in self.folder.iterdir())
        ):
            raise BadInput(f"{self.folder}: is wanted for unfinished work and holds other things; move it away")

    def begin(self, identity: Record) -> None:
        self.folder.mkdir(exist_ok=True)
        write_atomic(self.folder / IDENTITY, json.dumps(identity).encode())

    def save(self, trainer: Trainer) -> None:
        from safetensors.torch import save

        told = {"done": str(trainer.done), "losses": json.dumps(trainer.losses)}
        write_atomic(self.folder / STATE, save(trainer.tensors(), metadata=told))

    def load(self) -> tuple[int, list[tuple[float, float]], dict[str, Tensor]] | None:
        """Steps done, their losses, the tensors; None where nothing whole is there."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.folder / STATE), "pt") as found:
                told = found.metadata()
                tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (it is no dict)
            return int(told["done"]), [(a, b) for a, b in json.loads(told["losses"])], tensors
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
            print(f"seer-decode: {self.folder / STATE}: not what was written there; starting again", file=sys.stderr)
            return None

    def clear(self) -> None:
        for name in OURS:
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)


# ---------------------------------------------------------------- the verb


def run(
    texts: Sequence[str],
    how: Settings,
    *,
    uri: str,
    shape: Record,
    init: str | None,
    chat_template: str | None,
    skip_bad: int,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    save_dtype: str,
    allow_extrapolation: bool,
    max_time: float | None,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    started, clock = datetime.now(UTC), time.monotonic()
    how = msgspec.structs.replace(how, seed=how.seed % (1 << 63))
    if output in (None, "-"):
        raise BadInput("distill: expected -o GATE, a folder")
    target = Path(str(output))
    if not target.absolute().parent.is_dir():
        raise BadInput(f"{target}: the folder {target.absolute().parent} does not exist; create it first")
    ranks = Ranks()
    quiet = quiet or ranks.rank > 0
    if how.parts > 1 and how.batch_rows != ranks.size:
        raise BadInput(
            f"--parts {how.parts}: expected --batch-rows {ranks.size}, one row for each process: a layer takes its steps while it "
            "is at hand"
        )
    if ranks.size > how.batch_rows:
        raise BadInput(f"--batch-rows {how.batch_rows}: {ranks.size} processes have no row each")
    reader = Reader(texts, skip_bad)
    if ranks.size > 1 and "-" in reader.paths:
        raise BadInput("-: several processes cannot read one stdin; give a file")
    if how.length <= shape["block"]:
        raise BadInput(
            f"--length {how.length}: expected more than a block of {shape['block']} tokens, which has no target"
        )
    lock, work = Lock(store.lock_path(target), target) if ranks.rank == 0 else None, Work(target)
    try:
        model, tokenizer = load_causal_lm(
            uri, dtype=dtype, device=ranks.device if device == "auto" else device, trust_remote_code=trust_remote_code
        )
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if limit and how.length > limit and not allow_extrapolation:
            raise BadInput(
                f"--length {how.length}: the model has {limit} positions; --allow-extrapolation goes on beyond them"
            )
        check_rotation(model, Unrotated(model))
        gates, name = _gates(model, uri, shape, init, how.seed), uri
        encode = Encoder(tokenizer, chat_template)
        wanted = how.steps * how.batch_rows * how.length
        corpus = data.read(reader, encode, how.length, gates.shape.block, wanted, can_pack(model.config))
        fingerprint = needs.fingerprint(model)
        identity = {
            "tool": "seer-decode", "verb": "distill",
            "options": {
                **msgspec.to_builtins(how), **msgspec.to_builtins(gates.shape), "model": uri, "weights": fingerprint,
                "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type, "save_dtype": save_dtype,
                "init": needs.digest(init), "chat_template": needs.digest(chat_template),
            },
            "inputs": data.inputs(reader, corpus),
        }  # fmt: skip
        identity = json.loads(json.dumps(identity))  # as it will be read back
        finished = _settled(target, work, identity, overwrite) if ranks.rank == 0 else None
        if finished is not None and not quiet:
            print(f"seer-decode: {output}: complete already; nothing to do", file=sys.stderr)
        if finished is not None and as_json:
            print(json.dumps({"gates": output, **finished}))
        with ranks.joined():
            if ranks.same(finished) is not None:
                return 0
            needs.room(_needed(model, gates, how), model.device, "distill", "a smaller --length or --dtype bfloat16")
            if not quiet:
                _tell(model, corpus, how, reader)
            mine = work if ranks.rank == 0 else None
            trainer, complete = _train(model, gates, corpus, how, ranks, mine, clock, max_time, quiet)
            if ranks.rank > 0:
                return 0 if complete else 1
            if not complete:
                print(
                    f"seer-decode: {output}: out of time after {trainer.done} of {how.steps} steps; the same command goes on",
                    file=sys.stderr,
                )
                return 1
            told = _told(trainer, corpus, how, gates.shape)
            made = store.made_for(model.config, gates.shape, name, weights=fingerprint, training={**msgspec.to_builtins(how), **told})  # fmt: skip
            manifest = {
                "schema": "manifest/1", "version": seer_decode.__version__, "argv": [redact(word) for word in sys.argv],
                "seed": how.seed, **identity, "counts": told, "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
            }  # fmt: skip
            gates.to(getattr(torch, save_dtype))
            extra = {"manifest.json": msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"}
            store.save(gates, made, target, overwrite=True, extra=extra, locked=True)
            work.clear()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        needs.refuse("distill", "a smaller --length, or --dtype bfloat16", one_line(error, 120))
    finally:
        if lock is not None:
            if not (work.folder / STATE).exists():
                work.clear()  # nothing to go on from, and nothing in another run's way
            lock.release()
    if as_json:
        print(json.dumps({"gates": output, **told}))
    elif not quiet:
        print(
            f"seer-decode: {output}: {len(gates.shape.gated)} gates after {how.steps} steps; divergence of a row from its target "
            f"{told['nats_first']:.3f} nats at first, {told['nats_last']:.3f} at last",
            file=sys.stderr,
        )
    return 0


def _gates(model: Any, uri: str, shape: Record, init: str | None, seed: int) -> Gates:
    if init is None:
        gates = Gates.of(model.config, seed=seed, **shape)
    else:
        loaded = store.load(init, model.config, name=uri, block=shape["block"], reuse_gate=True)
        for note in loaded.notes:
            print(f"seer-decode: {note}", file=sys.stderr)
        gates = loaded.gates
        fresh = Shape.of(model.config, **{**shape, "gate_dim": shape["gate_dim"] or gates.shape.gate_dim})
        if fresh != gates.shape:
            differ = next(f for f in Shape.__struct_fields__ if getattr(fresh, f) != getattr(gates.shape, f))
            raise BadInput(
                f"--init {init}: has {differ} {getattr(gates.shape, differ)}, and {getattr(fresh, differ)} is asked for"
            )
    return gates.float().to(model.device)


def _settled(target: Path, work: Work, identity: Record, overwrite: bool) -> Record | None:
    """What a finished run told, None where there is work to do. Raises BadInput for what is in the way."""
    unfinished = work.identity()
    if unfinished is not None and (found := difference(unfinished, identity)):
        if not overwrite and (work.folder / STATE).exists():
            raise BadInput(
                f"{target}: an unfinished run was made with {found}; finish it with its options, or --overwrite"
            )
        work.clear()
        unfinished = None
    if unfinished is None:
        work.check()
        if target.exists() and any(target.iterdir() if target.is_dir() else [target]) and not overwrite:
            try:
                manifest = json.loads((target / "manifest.json").read_bytes())
            except (OSError, ValueError, RecursionError):
                raise BadInput(
                    f"{target}: exists, and no manifest says what made it; --overwrite replaces it"
                ) from None
            if found := difference(manifest, identity):
                raise BadInput(f"{target}: was made with {found}; choose another output or add --overwrite")
            return manifest.get("counts", {})
        store.prepare(target, overwrite=True)
        work.begin(identity)
    return None


def _train(
    model: Any, gates: Gates, corpus: data.Corpus, how: Settings, ranks: Ranks, work: Work | None, clock: float,
    max_time: float | None, quiet: bool,
) -> tuple[Trainer, bool]:  # fmt: skip
    """All steps, or as many as there is time for."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trainer = Trainer(model, gates, how, ranks)
    found = ranks.same(work.load() if work is not None else None)
    if found is not None:
        trainer.done, trainer.losses, tensors = found
        trainer.restore(tensors)
    saved, late = time.monotonic(), False
    with Progress("distill", how.steps, "steps", quiet) as progress, _after_a_step() as asked:
        progress.update(trainer.done)
        while trainer.done < how.steps and not late:
            _, nats = trainer.step(corpus.batch(trainer.done, how.batch_rows, how.seed))
            logger.info("step %d of %d: loss %.6f, %.4f nats a row", trainer.done, how.steps, *trainer.losses[-1])
            progress.label = f"distill, {nats:.3f} nats"
            progress.update()
            late = ranks.same(max_time is not None and time.monotonic() - clock > max_time)
            if work is not None and (time.monotonic() - saved > SAVE_EVERY_S or late or asked):
                work.save(trainer)
                saved = time.monotonic()
            if asked:
                raise asked[0]
    return trainer, trainer.done == how.steps


@contextmanager
def _after_a_step() -> Iterator[list[BaseException]]:
    """SIGINT and SIGTERM wait for the step under way, so that it is saved: the exception that each stands for comes into the list.
    A second one ends the run at once."""
    asked: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    kinds = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
    before = {number: signal.getsignal(number) for number in kinds}

    def note(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        asked.append(kinds[signal.Signals(number)]())

    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _needed(model: Any, gates: Gates, how: Settings) -> int:
    """Bytes beside the weights that are loaded: gates with gradients and moments, one row's activations, a chunk of targets."""
    from seer_decode.truth import CHUNK_BYTES

    text = model.config.get_text_config()
    width = getattr(text, "intermediate_size", 4 * text.hidden_size)
    activations = how.length * (6 * text.hidden_size + 3 * width) * model.dtype.itemsize
    return 16 * sum(p.numel() for p in gates.parameters()) + activations + 6 * CHUNK_BYTES


def _tell(model: Any, corpus: data.Corpus, how: Settings, reader: Reader) -> None:
    """What a user should know before it begins, on stderr."""
    _, dense = gated_layers(model.config)
    lines = []
    if dense:
        lines.append(
            f"layers {named(sorted(dense))} do not attend to the whole context: they have no gate and stay dense"
        )
    if corpus.cut:
        lines.append(f"--length {how.length}: documents longer than it, read in pieces: {corpus.cut}")
    if corpus.short:
        lines.append(f"{corpus.short} documents or ends of one have no more than a block of tokens: left out")
    if reader.skipped:
        lines.append(f"{reader.skipped} malformed records passed over")
    rounds = how.steps * how.batch_rows / len(corpus.rows)
    if rounds > 1:
        lines.append(f"{corpus.tokens} tokens of text in {len(corpus.rows)} rows: read {rounds:.1f} times")
    for line in lines:
        print(f"seer-decode: {line}", file=sys.stderr)


def _told(trainer: Trainer, corpus: data.Corpus, how: Settings, shape: Shape) -> Record:
    tenth = max(1, len(trainer.losses) // 10)
    every = max(1, -(-len(trainer.losses) // KEPT_LOSSES))
    nats = [nats for _, nats in trainer.losses]
    return {
        "layers": len(shape.gated), "parameters": shape.parameters, "steps": trainer.done, "updates": how.updates,
        "sequences": len(corpus.sequences), "tokens": corpus.tokens, "rows_packed": len(corpus.rows),
        "nats_first": round(nats[0], 6), "nats_last": round(sum(nats[-tenth:]) / tenth, 6),
        "losses": [round(loss, 6) for loss, _ in trainer.losses[::every]], "losses_every": every,
    }  # fmt: skip
