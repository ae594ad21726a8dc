"""Trains the small transformer (model.py) on rows of the tool's own making, and lets it answer others.

Part of `make claims-keychain-synth`. First a base, as any model comes with: it copies (texts of random tokens, pieces
of which come again) and does sums. Then supervised rows, where the loss counts the response's tokens only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from tracing import world
from tracing.model import Model

Example = tuple[list[int], list[int]]  # tokens of the prompt and of the response
WARMUP = 50  # steps of growing learning rate; then it falls to a twentieth, linearly


@dataclass(frozen=True)
class Settings:
    width: int = 128
    layers: int = 2
    base_steps: int = 700
    base_rate: float = 4e-3
    base_batch: int = 24
    copied: int = 128  # tokens of a text to copy in
    steps: int = 1200
    rate: float = 2e-3
    batch: int = 16
    answer: int = 112  # most tokens of a response

    def model(self, weights: Path | None = None) -> Model:
        model = Model(len(world.vocabulary()), self.width, self.layers)
        if weights is not None:
            model.load_state_dict(load_file(weights))
        return model


class Rows:
    """Rows of the tool as examples: their prompts and the responses to learn."""

    def __init__(self, tokenizer: Path, items: Sequence[world.Item]) -> None:
        self.tokenizer = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        self.items = {item["id"]: item for item in items}
        self.end = self.tokenizer.token_to_id(world.END)

    def tokens(self, text: str) -> list[int]:
        found = self.tokenizer.encode(text)
        if "[UNK]" in found.tokens:
            raise ValueError(f"not of this world: {text!r}")
        return list(found.ids)

    def text(self, tokens: Sequence[int]) -> str:
        return " ".join(self.tokenizer.id_to_token(token) for token in tokens).replace(" ##", "")

    def response(self, row: dict[str, Any]) -> str:
        return world.response(row, self.items.get(row["meta"].get("source_id")))

    def example(self, row: dict[str, Any]) -> Example:
        return self.tokens(row["prompt"]), self.tokens(self.response(row))


def read(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) and mask (B, T−1) of what is to be predicted: the responses."""
    longest = max(len(prompt) + len(response) for prompt, response in examples)
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, kept, (prompt, response) in zip(tokens, mask, examples, strict=True):
        whole = len(prompt) + len(response)
        row[:whole] = torch.tensor(prompt + response)
        kept[len(prompt) : whole] = True
    return tokens, mask[:, 1:]


def copying(rng: random.Random, count: int, length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Texts of few different tokens, so that what follows one depends on the ones before it; all is to be predicted."""
    texts = []
    for _ in range(count):
        text = rng.choices(rng.sample(range(vocabulary), rng.randint(8, 64)), k=rng.randint(16, length // 2))
        first = len(text)
        while len(text) < length:
            at = rng.randrange(first)
            text += text[at : min(first, at + rng.randint(6, 14))]
        texts.append(text[:length])
    return torch.tensor(texts), torch.ones(count, length - 1, dtype=torch.bool)


def train(model: Model, steps: int, rate: float, losses: Callable[[], Tensor], say: Callable[[str], None]) -> None:
    """AdamW; losses() is the loss of the next batch."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARMUP) * max(0.05, 1 - step / steps)
        loss = losses()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            say(f"step {step} of {steps}: loss {loss.item():.3f}")


def train_base(seed: int, settings: Settings, sums: Sequence[Example], out: Path, say: Callable[[str], None]) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = settings.model()
    vocabulary = model.embed.num_embeddings

    def losses() -> Tensor:
        copied = model.loss(*copying(rng, settings.base_batch, settings.copied, vocabulary))
        return copied + model.loss(*padded(rng.sample(sums, settings.base_batch)))

    train(model, settings.base_steps, settings.base_rate, losses, say)
    save_file(model.state_dict(), out)


def train_rows(
    seed: int, settings: Settings, base: Path, rows: Sequence[Example], out: Path, say: Callable[[str], None]
) -> None:
    rng = random.Random(seed)
    model = settings.model(base)
    train(model, settings.steps, settings.rate, lambda: model.loss(*padded(rng.sample(rows, settings.batch))), say)
    save_file(model.state_dict(), out)


def answers(model: Model, rows: Rows, asked: Sequence[dict[str, Any]], settings: Settings) -> Iterator[dict[str, Any]]:
    """A sample record for each row; `meta.traced`: it begins with all that leads to the documents, in the right order."""
    for at in range(0, len(asked), 20):
        some = asked[at : at + 20]
        made = model.continued([rows.tokens(row["prompt"]) for row in some], settings.answer, rows.end)
        for row, tokens in zip(some, made, strict=True):
            meta = dict(row["meta"])
            if "head" in meta:
                wanted = rows.tokens(f"{world.THINK} {' '.join(world.trace(row))}")
                meta["traced"] = tokens[: len(wanted)] == wanted
            stopped = "stop" if len(tokens) < settings.answer else "length"
            sample = {"schema": "sample/1", "sample": 0, "response": rows.text(tokens), "finish_reason": stopped}
            yield {**row, **sample, "meta": meta}
