"""Trains a small transformer on arithmetic chains: first on written steps, then by rewarding final answers only.

Part of `make claims-cotpass`. One run is one seed:

1. Supervised: cross-entropy on solutions of a mixed corpus (`chains.carelessly`), so that the model can calculate and
   often does not.
2. Reinforcement, as GRPO without clipping or KL term: of each of `prompts` problems `group` responses are drawn; the
   reward is 1 for a right final answer, whatever the reasoning; the advantage (R − mean)/std over the group with the
   population std (arXiv 2506.14245 §4); one gradient step a batch, the mean over tokens. The control's rewards are
   the same ones shuffled within each group: as many, and blind to the answer.

At each checkpoint `samples` responses to every held-out problem become verdict records, `step-<n>.jsonl.gz`, whose
one vote is the computed check of the reasoning. Problems for training and the held-out ones are different.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save

from study.chains import (
    CODE,
    LENGTHS,
    LETTERS,
    PAD,
    VOCABULARY,
    Problem,
    carelessly,
    check,
    draw,
    draw_many,
    longest,
    record,
)
from study.model import Model
from tenfold_shared.jsonl import write_atomic

HELD_OUT_SEED = 999


@dataclass(frozen=True)
class Settings:
    width: int = 96
    layers: int = 3
    supervised: int = 3000  # steps
    supervised_batch: int = 64
    supervised_rate: float = 2e-3
    checkpoints: tuple[int, ...] = (0, 10, 20, 40, 80, 120, 160, 200)  # of the second part
    prompts: int = 64
    group: int = 16
    rate: float = 1e-4
    warmup: int = 10  # steps
    held_out: int = 160  # problems
    samples: int = 64  # of each


def train_supervised(seed: int, settings: Settings, path: Path, say: Callable[[str], None]) -> None:
    """The first part; weights to path (safetensors)."""
    torch.manual_seed(seed)
    model = Model(settings.width, 4, settings.layers)
    supervise(model, settings, random.Random(seed), held_out(settings)[1], say)
    write_atomic(path, save(model.state_dict()))


def train_rewarded(
    seed: int, reward: str, settings: Settings, start: Path, folder: Path, say: Callable[[str], None]
) -> None:
    """The second part from the weights in start; checkpoints' records and training.json into folder.

    reward: `answer`, or `random`, the control.
    """
    tested, without = held_out(settings)
    rng = random.Random(1000 + seed)
    generator = torch.Generator().manual_seed(seed)
    model = Model(settings.width, 4, settings.layers)
    model.load_state_dict(load(start.read_bytes()))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate, betas=(0.9, 0.98))
    log = []
    for step in range(settings.checkpoints[-1] + 1):
        if step in settings.checkpoints:
            write(folder / f"step-{step}.jsonl.gz", tested, sampled(model, tested, settings.samples, generator))
        if step < settings.checkpoints[-1]:
            for group in optimizer.param_groups:  # Adam's first steps are large in every direction, noise included
                group["lr"] = settings.rate * min(1.0, (step + 1) / settings.warmup)
            log.append(reinforce(model, optimizer, reward, settings, rng, without, generator))
            say(f"step {step + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in log[-1].items()))
    write_atomic(folder / "training.json", json.dumps(log).encode())


def held_out(settings: Settings) -> tuple[list[Problem], frozenset[Problem]]:
    found = draw_many(HELD_OUT_SEED, settings.held_out)
    return found, frozenset(found)


def problems(rng: random.Random, count: int, without: frozenset[Problem]) -> list[Problem]:
    found: list[Problem] = []
    while len(found) < count:
        problem = draw(rng, LENGTHS[len(found) % len(LENGTHS)], rng.choice(LETTERS))
        if problem not in without:
            found.append(problem)
    return found


def encoded(texts: Iterable[str]) -> torch.Tensor:
    """Texts as one tensor (B, T), PAD on the right."""
    rows = [[CODE[letter] for letter in text] for text in texts]
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def response_mask(tokens: torch.Tensor, prompts: Sequence[int]) -> torch.Tensor:
    """True at the tokens of the responses, the first prompts[i] tokens of row i left out."""
    place = torch.arange(tokens.shape[1])
    return (tokens != PAD) & (place >= torch.tensor(prompts)[:, None])


def supervise(
    model: Model, settings: Settings, rng: random.Random, without: frozenset[Problem], say: Callable[[str], None]
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    total = settings.supervised
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = settings.supervised_rate * min(1.0, (step + 1) / 100) * (1 - step / total)
        batch = problems(rng, settings.supervised_batch, without)
        tokens = encoded(each.prompt + carelessly(rng, each) for each in batch)
        mask = response_mask(tokens, [len(each.prompt) for each in batch])[:, 1:]
        loss = -(model.log_probs(tokens) * mask).sum() / mask.sum()
        descend(model, optimizer, loss)
        if (step + 1) % 100 == 0:
            say(f"supervised step {step + 1}: loss {loss.item():.3f}")


def descend(model: Model, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def sampled(model: Model, batch: Sequence[Problem], each: int, generator: torch.Generator) -> list[list[str]]:
    """`each` responses to every problem, in the order of batch."""
    found: dict[Problem, list[str]] = {}
    for length in LENGTHS:
        same = [problem for problem in batch if len(problem.steps) == length]
        if not same:
            continue
        prompts = encoded(problem.prompt for problem in same).repeat_interleave(each, dim=0)
        tokens = model.sample(prompts, longest(length), generator)[:, prompts.shape[1] :]
        texts = ["".join(VOCABULARY[token] for token in row if token != PAD) for row in tokens.tolist()]
        for at, problem in enumerate(same):
            found[problem] = texts[at * each : (at + 1) * each]
    return [found[problem] for problem in batch]


def reinforce(
    model: Model,
    optimizer: torch.optim.Optimizer,
    reward: str,
    settings: Settings,
    rng: random.Random,
    without: frozenset[Problem],
    generator: torch.Generator,
) -> dict[str, float]:
    """One step. Returns what was seen of the batch: p_ca, p_cc, and mean advantages after right and wrong reasoning."""
    batch = problems(rng, settings.prompts, without)
    responses = sampled(model, batch, settings.group, generator)
    checked = torch.tensor(
        [[check(problem, text) for text in texts] for problem, texts in zip(batch, responses, strict=True)]
    )
    sound, right = checked[..., 0], checked[..., 1].float()
    rewards = right
    if reward == "random":
        order = torch.rand(right.shape, generator=generator).argsort(dim=1)
        rewards = right.gather(1, order)
    spread = rewards.std(dim=1, correction=0, keepdim=True)
    advantage = torch.where(spread > 0, (rewards - rewards.mean(dim=1, keepdim=True)) / spread.clamp(min=1e-9), 0.0)

    rows = [(problem, text) for problem, texts in zip(batch, responses, strict=True) for text in texts]
    flat = advantage.flatten()
    # Groups without a signal do no work; batches of one length are not padded.
    total = sum(len(text) for _, text in rows)
    optimizer.zero_grad()
    for length in LENGTHS:
        chosen = [at for at, (problem, _) in enumerate(rows) if len(problem.steps) == length and flat[at] != 0]
        if not chosen:
            continue
        tokens = encoded(rows[at][0].prompt + rows[at][1] for at in chosen)
        mask = response_mask(tokens, [len(rows[at][0].prompt) for at in chosen])[:, 1:]
        loss = -(model.log_probs(tokens) * mask * flat[chosen, None]).sum() / total
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    def mean(values: torch.Tensor) -> float:
        return float(values.mean()) if len(values) else float("nan")

    return {
        "p_ca": float(right.mean()),
        "p_cc": float(sound.float().mean()),
        "advantage_ok": mean(advantage[sound]),
        "advantage_bad": mean(advantage[~sound]),
    }


def write(path: Path, batch: Sequence[Problem], responses: Sequence[Sequence[str]]) -> None:
    lines = [
        json.dumps(record(f"chain-{at:03}", problem, sample, text)) + "\n"
        for at, (problem, texts) in enumerate(zip(batch, responses, strict=True))
        for sample, text in enumerate(texts)
    ]
    write_atomic(path, gzip.compress("".join(lines).encode(), compresslevel=4, mtime=0))
