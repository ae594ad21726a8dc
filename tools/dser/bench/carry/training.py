"""Teaches a small character transformer to solve, verify and refine sums (addition.py), and saves it as a GPT-2 folder.

    python training.py OUT_FOLDER --seed 0 [--width 64] [--steps 3000] [--only-solve] [--carry-noise .02]

Positions are a learned field and column (and which of two operands), added up; in the saved folder their sums are the
position table of a plain GPT2LMHeadModel, so that transformers loads it with no code of ours. The folder's chat
template joins the messages' contents. Both `;` and `>` end a completion.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if __package__:
    from carry import addition
else:  # run as a file
    import addition

C = addition.COLUMNS
LAYOUT = [  # (field, column, phase) of each position of problem = solution ? review verdict > solution ;
    *[(0, i // 2, i % 2) for i in range(2 * C)],
    (1, C, 0),
    *[(2, i, 0) for i in range(C)],
    (3, C, 0),
    *[(4, i, 0) for i in range(C)],
    (5, C, 0),
    (6, C, 0),
    *[(2, i, 0) for i in range(C)],
    (7, C, 0),
]
POSITIONS = 64
SOLVE_AT, VERIFY_AT, REFINE_AT = 2 * C + 1, 3 * C + 2, 4 * C + 4  # where each role's own text begins
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.attend(self.first(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, width)
        x = x + self.join(mixed)
        return x + self.down(F.gelu(self.up(self.second(x))))


class Network(nn.Module):
    """Decoder of the characters of `addition.ALPHABET`; (n, t) codes to (n, t, symbols) scores."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.width, self.layers, self.heads = width, layers, heads
        self.token = nn.Embedding(len(addition.ALPHABET), width)
        self.field, self.column, self.phase = nn.Embedding(8, width), nn.Embedding(C + 1, width), nn.Embedding(2, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.final = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(addition.ALPHABET), bias=False)
        self.register_buffer("layout", torch.tensor(LAYOUT))
        for name, weights in self.named_parameters():
            if weights.dim() > 1:
                nn.init.normal_(weights, std=0.02 if "token" in name or "head" in name else 1 / math.sqrt(width) / 2)

    def positions(self) -> Tensor:
        """(positions, width) sums of the factors."""
        field, column, phase = self.layout.unbind(1)
        return self.field(field) + self.column(column) + self.phase(phase)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.token(codes) + self.positions()[: codes.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.final(x))


def solve_batch(n: int, noise: addition.Noise, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Codes (n, 32) and loss weights (n, 31) of problems with their sums."""
    a, b = addition.normal(n, rng)
    answer = addition.broken(addition.total(a, b), noise, rng)
    codes = np.concatenate(
        [addition.interleaved(a, b), _column(n, addition.EQUALS), answer, _column(n, addition.END)], 1
    )
    weights = np.zeros((n, codes.shape[1] - 1))
    weights[:, SOLVE_AT - 1 :] = 1
    return torch.from_numpy(codes), torch.from_numpy(weights).float()


def critique_batch(
    n: int, noise: addition.Noise, rng: np.random.Generator, verdict_weight: float = 1.3
) -> tuple[Tensor, Tensor]:
    """Codes (n, 55) and loss weights (n, 54) of reviews and refinements; nothing is learned of the solution reviewed."""
    a, b = addition.normal(n, rng)
    before = addition.corrupted(a, b, noise, rng)
    carries, passed = addition.reviewed(a, b, before, noise, rng)
    after = addition.refined(a, b, before, carries, passed, noise, rng)
    verdict = np.where(passed == 1, addition.PASS, addition.FAIL)[:, None]
    parts = [addition.interleaved(a, b), _column(n, addition.EQUALS), before, _column(n, addition.QUERY), carries]
    parts += [verdict, _column(n, addition.BRIEF), after, _column(n, addition.END)]
    codes = np.concatenate(parts, 1)
    weights = np.zeros((n, codes.shape[1] - 1))
    weights[:, VERIFY_AT - 1 :] = 1
    weights[:, VERIFY_AT + C - 1] = verdict_weight
    return torch.from_numpy(codes), torch.from_numpy(weights).float()


def _column(n: int, code: int) -> Any:
    return np.full((n, 1), code)


def _loss(network: Network, codes: Tensor, weights: Tensor) -> Tensor:
    scores = network(codes[:, :-1])
    each = F.cross_entropy(scores.flatten(0, 1), codes[:, 1:].flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def train(
    seed: int,
    *,
    width: int = 64,
    layers: int = 2,
    steps: int = 3000,
    batch: int = 64,
    rate: float = 3e-3,
    noise: addition.Noise | None = None,
    only_solve: bool = False,
    log: Any = None,
) -> tuple[Network, float]:
    """The trained network and its last loss (mean of 50 steps). only_solve: the whole budget of tokens on solving."""
    noise = noise or addition.Noise()
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 20251017])
    network = Network(width, layers)
    solves = round(0.35 * batch)
    if only_solve:
        tokens = solves * (SOLVE_AT + C + 1) + (batch - solves) * len(LAYOUT)
        solves = round(tokens / (SOLVE_AT + C + 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    share = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1, step / steps))) / 2),
    )
    recent: list[float] = []
    started = time.monotonic()
    for step in range(steps):
        codes, weights = solve_batch(solves, noise, rng)
        loss = _loss(network, codes, weights)
        if not only_solve:
            more, heavy = critique_batch(batch - solves, noise, rng)
            loss = 0.35 * loss + 0.65 * _loss(network, more, heavy)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        share.step()
        recent = [*recent[-49:], loss.item()]
        if log is not None and step % 500 == 499:
            print(
                f"step {step + 1}: loss {sum(recent) / len(recent):.4f}, {time.monotonic() - started:.0f} s", file=log
            )
    return network, sum(recent) / len(recent)


def save(network: Network, folder: Path) -> None:
    """A GPT2LMHeadModel folder that computes what `network` does."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({symbol: code for code, symbol in enumerate(addition.ALPHABET)}, unk_token=";"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokens.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token=";", pad_token=";", additional_special_tokens=[">"], chat_template=TEMPLATE
    )
    config = GPT2Config(
        vocab_size=len(addition.ALPHABET),
        n_positions=POSITIONS,
        n_embd=network.width,
        n_layer=network.layers,
        n_head=network.heads,
        activation_function="gelu",
        tie_word_embeddings=False,
        bos_token_id=addition.END,
        eos_token_id=[addition.END, addition.BRIEF],
        pad_token_id=addition.END,
    )
    lm = GPT2LMHeadModel(config)
    state = lm.state_dict()
    with torch.no_grad():
        table = torch.zeros(POSITIONS, network.width)
        table[: len(LAYOUT)] = network.positions()
        given = {"transformer.wte.weight": network.token.weight, "transformer.wpe.weight": table}
        given |= {"transformer.ln_f.weight": network.final.weight, "transformer.ln_f.bias": network.final.bias}
        given["lm_head.weight"] = network.head.weight
        for at, block in enumerate(network.blocks):
            names = {"ln_1": block.first, "ln_2": block.second, "attn.c_attn": block.attend, "attn.c_proj": block.join}
            names |= {"mlp.c_fc": block.up, "mlp.c_proj": block.down}
            for name, part in names.items():
                weights = part.weight.T if isinstance(part, nn.Linear) else part.weight
                given |= {f"transformer.h.{at}.{name}.weight": weights, f"transformer.h.{at}.{name}.bias": part.bias}
        for name, weights in given.items():
            state[name].copy_(weights)
    lm.load_state_dict(state)
    lm.generation_config.eos_token_id = [addition.END, addition.BRIEF]
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--carry-noise", type=float, default=0.02)
    parser.add_argument("--only-solve", action="store_true")
    given = parser.parse_args()
    import sys

    torch.set_num_threads(1)
    started = time.monotonic()
    network, loss = train(
        given.seed,
        width=given.width,
        layers=given.layers,
        steps=given.steps,
        batch=given.batch,
        rate=given.rate,
        noise=addition.Noise(carry_beside_nine=given.carry_noise),
        only_solve=given.only_solve,
        log=sys.stderr,
    )
    save(network, given.folder)
    made = {
        "loss": loss,
        "weights": sum(p.numel() for p in network.parameters()),
        "seconds": time.monotonic() - started,
    }
    settings = {name: value for name, value in vars(given).items() if name != "folder"}
    (given.folder / "training.json").write_text(json.dumps({**settings, **made}, indent=1) + "\n")
    print(json.dumps(made))


if __name__ == "__main__":
    main()
