"""Any transformers causal language model as a `proxy.Learner`, so that a live run steers it as a swarm steers its proxies.

Weights are kept and stepped in float32, and computed in bfloat16 where that is asked for; dropout is off, so that a run goes on after a
kill to the same bytes. Under torchrun each rank trains on its slice of every update and gradients are added up (ranks.py). What does not
fit on one device is for a trainer of its own: hooks.py steers transformers' Trainer, filecontrol.py any other.

Where it sits: beside proxy.py; apply.py opens it. torch at the top, as it is imported when a model is.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamix.corpus import Corpus
from datamix.history import Floats
from datamix.proxy import Held, rate_of
from datamix.ranks import Ranks
from tenfold_shared import BadInput, Missing
from tenfold_shared.generate.transformers import out_of_memory
from tenfold_shared.jsonl import decode_line, read_lines
from tenfold_shared.redaction import one_line

MICRO_TOKENS = 8192  # of a forward pass, where nothing else is said: logits are tokens x vocabulary
SAMPLED = 4096  # numbers of each tensor that name a model


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is trained. batch rows of `context` tokens an update (context at most the model's positions); micro rows a forward pass
    (0: as many as make 8192 tokens), all ranks' together being the same update. lr after `warmup` updates, then constant or down to 0
    over the run. AdamW (0.9, beta2), decay on matrices alone, gradients clipped to `clip` (0: not)."""

    batch: int = 8
    context: int = 512
    micro: int = 0
    lr: float = 5e-5
    warmup: int = 10
    decay: Literal["constant", "cosine", "linear"] = "constant"
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def checked(self) -> Training:
        """Raises BadInput for numbers that make no training."""
        if min(self.batch, self.context) < 1 or min(self.micro, self.warmup) < 0:
            raise BadInput(
                "--batch-size and --context: expected 1 or more; Training.micro and Training.warmup: 0 or more"
            )
        rates = (self.lr, self.weight_decay, self.clip)
        if not all(math.isfinite(x) for x in rates) or self.lr <= 0 or min(rates) < 0:
            raise BadInput(f"--lr {self.lr:g}: expected a number above 0, and weight decay and clipping of 0 or more")
        return self


class Foreign:
    """A model under training. batch and context as in `Training`; losses in bits per byte (proxy.Learner)."""

    def __init__(self, model: Any, tokenizer: Any, training: Training, ranks: Ranks | None = None) -> None:
        """model: a transformers causal LM on its device; tokenizer is only saved beside it and may be None. Raises BadInput for an adapter
        and for a context beyond the model's positions."""
        self.training, self.ranks, self.tokenizer = training.checked(), ranks or Ranks(), tokenizer
        if hasattr(model, "peft_config"):
            raise BadInput("--model: is an adapter; merge it into its base model first")
        self.stored: torch.dtype = model.dtype  # of the checkpoint, in which it is saved again
        self.model = model.float().eval()
        self.device = next(model.parameters()).device
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or training.context
        self.batch, self.context = training.batch, min(training.context, int(positions))
        self.micro = min(training.micro or max(MICRO_TOKENS // self.context, 1), self.batch)
        self.half = training.dtype == "bfloat16" or (
            training.dtype == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in self.named]
        self.begin()

    def begin(self) -> None:
        """Forget the optimiser's state and begin a run's schedule."""
        self.updates, self.total = 0, None
        how = self.training
        matrices = [p for p in self.parameters if p.ndim >= 2]
        others = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=how.lr, betas=(0.9, how.beta2))

    total: int | None

    def rate(self) -> float:
        """The learning rate of the next update."""
        how = self.training
        return rate_of(self.updates + 1, how.lr, how.warmup, how.decay, self.total)

    def losses(self, rows: Tensor) -> Tensor:
        """Cross entropy of each token in nats, [n, context], of rows [n, context + 1]. Raises Missing where memory does not suffice."""
        rows = rows.to(self.device)
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.model(input_ids=rows[:, :-1], use_cache=False).logits
            found = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].reshape(-1), reduction="none")
        except RuntimeError as error:
            raise _told(error) from None
        return found.view(len(rows), -1)

    def train(self, rows: NDArray[np.int64], updates: int | None = None) -> float:
        if updates is not None:
            self.total = updates
        losses = []
        for batch in torch.from_numpy(rows).split(self.batch):
            self._adam.zero_grad(set_to_none=False)
            told = torch.zeros(1, dtype=torch.float64)
            mine = batch[self.ranks.slice(len(batch))]
            for part in mine.split(self.micro) if len(mine) else ():
                loss = self.losses(part).mean() * (len(part) / len(batch))
                try:
                    loss.backward()
                except RuntimeError as error:
                    raise _told(error) from None
                told += loss.detach().double().cpu()
            self._step()
            losses.append(told)
        mean = torch.cat(losses)
        self.ranks.add([mean])
        return float(mean.mean())

    def _step(self) -> None:
        """One AdamW step on the gradients of all ranks."""
        grads = []
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            grads.append(p.grad)
        self.ranks.add(grads)
        if self.training.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
        for group in self._adam.param_groups:
            group["lr"] = self.rate()
        self._adam.step()
        self.updates += 1

    @torch.no_grad()
    def evaluate(self, held: Held) -> Floats:
        return self.ranks.measure(held, max(MICRO_TOKENS // self.context, 1), lambda rows: self.losses(rows).mean(1))

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Tensor]:
        found = {"updates": torch.tensor([self.updates, -1 if self.total is None else self.total])}
        for name, p in self.named:
            found[f"weight.{name}"] = p.detach().clone()
            for key, kind in (("exp_avg", "first"), ("exp_avg_sq", "second")):
                if p in self._adam.state:
                    found[f"{kind}.{name}"] = self._adam.state[p][key].clone()
        return found

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        self.begin()
        self.updates, total = (int(x) for x in state["updates"])
        self.total = None if total < 0 else total
        for name, p in self.named:
            p.copy_(state[f"weight.{name}"])
            if f"first.{name}" in state:
                self._adam.state[p] = {
                    "step": torch.tensor(float(self.updates)),
                    "exp_avg": state[f"first.{name}"].to(p.device).clone(),
                    "exp_avg_sq": state[f"second.{name}"].to(p.device).clone(),
                }

    def save(self, folder: Path) -> None:
        """A model folder with its tokenizer, in the type that the checkpoint had. The model is no longer one to train afterwards."""
        self.model.to(self.stored).save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def digest(self) -> str:
        """Names a model by what is in it: hash of names, shapes and some numbers of every tensor."""
        found = hashlib.sha256()
        for name, p in self.named:
            flat = p.detach().reshape(-1)
            some = flat[:: max(len(flat) // SAMPLED, 1)].float().cpu().numpy()
            found.update(f"{name} {tuple(p.shape)} ".encode() + some.tobytes())
        return found.hexdigest()


def _told(error: RuntimeError) -> Exception:
    if not out_of_memory(error):
        return error
    return Missing(f"out of memory ({one_line(error, 120)}); a smaller --batch-size or --context, or --dtype bfloat16")


def open_model(
    uri: str, corpus: Corpus, training: Training, ranks: Ranks, *, device: str = "auto", trust_remote_code: bool = False
) -> Foreign:
    """Load a model and see that the corpus is in its tokens. Raises BadInput, Missing."""
    from tenfold_shared.models import load_causal_lm

    training.checked()
    if uri.startswith(("http:", "https:", "replay:", "vllm:")):
        raise BadInput(f"--model {uri}: weights are needed; expected smollm2, a folder, a GGUF file or a hub id")
    model, tokenizer = load_causal_lm(uri, "auto", device, trust_remote_code)
    check_tokens(corpus, tokenizer, uri)
    size = int(model.get_input_embeddings().weight.shape[0])
    if size < corpus.listing.vocabulary:
        raise BadInput(
            f"{corpus.folder}: has {corpus.listing.vocabulary} tokens, {uri} knows {size}; make the corpus with --tokenizer {uri}"
        )
    return Foreign(model, tokenizer, training, ranks)


def check_tokens(corpus: Corpus, tokenizer: Any, uri: str) -> None:
    """That the tokens of a corpus are those of a tokenizer, by the first held-out text of every domain, whatever the names. A corpus
    without texts must name the model. Raises BadInput."""
    fix = f"make the corpus for this model: datamix corpora ... --tokenizer {uri}"
    for name in corpus.names:
        path = corpus.folder / "valid" / f"{name}-0.jsonl"
        if not path.is_file():
            if corpus.listing.tokenizer != uri:
                raise BadInput(
                    f"{corpus.folder}: has tokens of {corpus.listing.tokenizer} and no texts, the model is {uri}; {fix}"
                )
            continue
        number, raw = next(read_lines(str(path)), (0, b"{}"))
        text = decode_line(f"{path}:{number}", raw).get("text")
        if not isinstance(text, str):
            raise BadInput(f"{path}:{number}: text: expected a string; make the corpus again")
        want = np.asarray(tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)
        have = np.asarray(corpus.tokens(name, "valid")[: len(want)]).astype(np.int64)
        if not np.array_equal(want, have):
            raise BadInput(
                f"{corpus.folder}: is in tokens of {corpus.listing.tokenizer}, which are not those of {uri}; {fix}"
            )
